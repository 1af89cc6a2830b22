from dataclasses import replace

import pytest
from recorded import Recorded, files, stream
from small_service import examples

from lifelong.bench.job import weights_sha256
from lifelong.core.errors import ConfigError, LogError
from lifelong.serve.events import Event
from lifelong.serve.past import config_of, turns
from lifelong.serve.rebuild import (
    NotReproducible,
    digest_of_file,
    nearest,
    rebuild,
    rebuild_version,
    replay,
)


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    """A service that was learning, was poisoned, was rolled back, and went on."""
    with Recorded(tmp_path_factory.mktemp("service"), stream(150)) as made:
        made.weights = {0: weights_sha256(made.config.factory()().model)}
        made.good = made.version()
        made.weights[made.trainer.at.offset] = weights_sha256(made.trainer.learner.model)
        made.add(examples(60, seed=8))
        made.poisoned = made.version()
        made.weights[made.trainer.at.offset] = weights_sha256(made.trainer.learner.model)
        made.roll_back(made.good)
        made.after = made.version()
        made.add(examples(90, seed=9))
        made.last = made.version()
        made.weights[made.trainer.at.offset] = weights_sha256(made.trainer.learner.model)
        yield made


@pytest.mark.parametrize("checkpoints", [True, False])
def test_the_learner_of_any_offset_is_made_again(service, checkpoints):
    before = files(service.state)
    for offset, weights in service.weights.items():
        learner = rebuild(service.config, offset, checkpoints=checkpoints)
        assert weights_sha256(learner.model) == weights
    assert files(service.state) == before


def test_it_goes_on_as_the_service_did(service):
    """The whole learner comes back, not only its weights."""
    offset = service.good.last_offset
    learner = rebuild(service.config, offset)
    assert learner.steps > 0
    assert len(learner.strategies[1].memory) > 0
    other = rebuild(service.config, offset, checkpoints=False)
    one, two = learner.state_dict(), other.state_dict()
    assert one["strategies"][1]["state"]["generator"].equal(
        two["strategies"][1]["state"]["generator"]
    )
    assert one["steps"] == two["steps"]


def test_a_checkpoint_is_taken_only_from_the_past_that_is_asked_for(service):
    """Those after the discarded range know of the rollback; those of before it do not."""
    every = turns(service.log)
    assert [turn.rollback for turn in every] == [True]
    decided = every[0].event
    known = sorted(int(path.stem) for path in (service.state / "trainer/checkpoints").iterdir())
    assert known[-1] > decided
    with_it = nearest(service.state, service.log, service.log.last, every)
    assert with_it["at"]["offset"] == known[-1]
    without = nearest(service.state, service.log, decided - 1, [])
    assert without is None or without["at"]["offset"] <= service.good.last_offset


def test_versions_of_both_pasts_are_made_again(service):
    for version in service.versions:
        learner = rebuild_version(service.config, version)
        found = weights_sha256(learner.model)
        assert service.weights.get(version.last_offset, found) == found
    assert len({version.hashes["weights.safetensors"] for version in service.versions}) >= 3


def test_a_version_made_while_it_learned_again_is_of_the_later_past(service):
    """At one offset the learner had been with the discarded rows, and was then without them."""
    between = (service.good.last_offset + service.poisoned.last_offset) // 2
    with_them = rebuild(service.config, between)
    without = replay(service.config, service.log, between, turns(service.log))
    assert weights_sha256(with_them.model) != weights_sha256(without.model)
    hashes = {"weights.safetensors": digest_of_file(without)}
    version = replace(service.good, number=9, last_offset=between, hashes=hashes)
    again = rebuild_version(service.config, version)
    assert weights_sha256(again.model) == weights_sha256(without.model)


def test_a_version_that_is_not_what_the_log_gives_is_named(service):
    wrong = replace(service.good, last_offset=service.good.last_offset - 20)
    with pytest.raises(NotReproducible, match="version 1 is not what the log gives"):
        rebuild_version(service.config, wrong)
    with pytest.raises(NotReproducible, match=r"version 1 was retired \(erasure\)"):
        rebuild_version(service.config, replace(service.good, retired="erasure"))


def test_other_settings_give_other_weights(service):
    other = replace(service.config, train=replace(service.config.train, batch=9))
    with pytest.raises(NotReproducible, match="its settings, torch or this library"):
        rebuild_version(other, service.good)


def test_wrong_offsets_and_folders_are_refused(service, tmp_path):
    with pytest.raises(LogError, match=r"offset 100000: the log in .* has events 1 to \d+"):
        rebuild(service.config, 100_000)
    with pytest.raises(LogError, match="offset -1"):
        rebuild(service.config, -1)
    with pytest.raises(ConfigError, match="is not the folder of a service"):
        rebuild(service.config, 3, folder=tmp_path)


def test_the_configuration_beside_the_folder_is_found(service, tmp_path):
    assert config_of(service.state) == service.config
    assert config_of(service.state / "log") == service.config
    with pytest.raises(ConfigError, match="0 configurations beside"):
        config_of(tmp_path)


def test_after_an_erasure_older_versions_cannot_be_made_again_and_newer_ones_can(tmp_path):
    with Recorded(tmp_path, stream(150)) as service:
        old = service.version()
        rebuild_version(service.config, old)
        service.erase("s3")
        new = service.version()
        service.add(examples(40, seed=9))
        newest = service.version()
        with pytest.raises(
            NotReproducible, match=r"version 1 cannot be made again: .*erased .erasure:s3 at"
        ):
            rebuild_version(service.config, old)
        for version in (new, newest):
            rebuild_version(service.config, version)
        for checkpoints in (True, False):
            learner = rebuild(service.config, service.log.last, checkpoints=checkpoints)
            assert weights_sha256(learner.model) == weights_sha256(service.trainer.learner.model)


def test_checkpoints_that_saw_what_is_erased_now_are_not_begun_at(tmp_path):
    """The api has removed the events, and the trainer has not noticed yet."""
    with Recorded(tmp_path, stream(150)) as service:
        seen = service.log.last
        first = service.log.first_of("s3")
        service.log.append([Event("erasure", "erasure:e", 0.0, {"first": first}, subject="s3")])
        service.log.erase("s3")
        gone_back = turns(service.log)
        state = nearest(service.state, service.log, seen, gone_back)
        assert state is None or state["at"]["offset"] < first
        learner = rebuild(service.config, seen)
        service.trainer.catch_up()
        assert weights_sha256(learner.model) == weights_sha256(service.trainer.learner.model)


def test_a_trimmed_log_is_begun_at_a_checkpoint(tmp_path):
    with Recorded(tmp_path, stream(60)) as service:
        begin = service.log.last
        service.add(examples(40, seed=9))
        version = service.version()
        service.log.trim(begin + 1)
        assert service.log.trimmed == begin
        learner = rebuild_version(service.config, version)
        assert weights_sha256(learner.model) == weights_sha256(service.trainer.learner.model)
        middle = rebuild(service.config, begin + 20)
        assert middle.steps < learner.steps
        with pytest.raises(LogError, match=f"trimmed up to offset {begin}, and the trainer has no"):
            rebuild(service.config, begin - 1)
        with pytest.raises(LogError, match="older learners cannot be made again"):
            rebuild(service.config, begin + 20, checkpoints=False)
