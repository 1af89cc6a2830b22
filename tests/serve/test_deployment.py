import json

import pytest
import torch
from fakes import numbered

from lifelong.core.errors import RegistryError
from lifelong.serve import audit
from lifelong.serve.audit import Audit
from lifelong.serve.deployment import RECOMMENDED, Deployment
from lifelong.serve.registry import WEIGHTS, Registry, served
from lifelong.serve.rollout import FILE


@pytest.fixture
def folder(tmp_path):
    registry = Registry(tmp_path)
    for n in (1, 2, 3):
        registry.register(
            {"w": torch.full((2,), float(n))}, None, parent=n - 1 or None, first_offset=n,
            last_offset=n, metrics={}, id=f"id-{n}",
        )  # fmt: skip
    registry.set_alias("champion", 1)
    return tmp_path


def deployment(folder):
    registry = Registry(folder)

    def snapshot(number):
        registry.load_weights(number)  # as the service does: a damaged file is no version
        return numbered(number)

    return Deployment(registry, Audit(folder / "audit.jsonl"), snapshot, lambda: 17)


def actions(made):
    return [entry["action"] for entry in made.audit.entries()]


def users(made, many=200):
    return [made.choose(f"user {n}") for n in range(many)]


def test_a_challenger_answers_its_share_also_after_a_restart(folder):
    made = deployment(folder)
    assert {choice.version for choice in users(made)} == {1}
    assert users(made)[0].propensity == 1.0
    made.challenge(2, 0.25, "a canary", "trainer")
    before = users(made)
    assert {(c.arm, c.version, c.propensity) for c in before} == {
        ("champion", 1, 0.75), ("challenger", 2, 0.25),
    }  # fmt: skip
    assert 30 <= sum(c.version == 2 for c in before) <= 70
    assert made.holder.of("challenger").version == 2
    assert served(folder)["challenger"] == 2
    again = deployment(folder)
    assert users(again) == before
    assert again.exposure == made.exposure
    assert again.exposure.since == 17
    assert again.holder.of("challenger").version == 2


def test_who_has_the_challenger_keeps_it_as_the_share_grows(folder):
    made = deployment(folder)
    made.challenge(2, 0.2, "a canary", "trainer")
    first = made.exposure
    before = {n for n, choice in enumerate(users(made)) if choice.version == 2}
    made.challenge(2, 0.2, "sent again", "trainer")
    assert made.exposure == first
    made.challenge(2, 0.6, "more", "trainer")
    after = {n for n, choice in enumerate(users(made)) if choice.version == 2}
    assert before < after
    assert (made.exposure.since, made.exposure.time) == (first.since, first.time)
    assert made.exposure.changed > first.changed
    made.challenge(3, 0.1, "another", "trainer")
    assert {choice.version for choice in users(made)} == {1, 3}


def test_withdrawing_and_promoting_end_a_canary(folder):
    made = deployment(folder)
    made.challenge(2, 0.5, "a canary", "trainer")
    made.withdraw(2, "worse", "trainer")
    made.withdraw(2, "sent again", "trainer")
    assert {choice.version for choice in users(made)} == {1}
    assert made.candidate()["canary"] is None
    assert served(folder)["challenger"] is None
    assert not (folder / FILE).exists()
    made.challenge(2, 0.5, "a canary", "trainer")
    made.serve("promote", 2, "better", "trainer")
    assert [c.version for c in users(made, 3)] == [2, 2, 2]
    assert served(folder) == {"champion": 2, "challenger": None, "previous": [1]}
    assert made.holder.challenger is None
    assert actions(made) == ["challenge", "withdraw", "withdraw", "challenge", "promote"]
    with pytest.raises(RegistryError, match="is the champion"):
        made.withdraw(2, "a slip", "ann")
    with pytest.raises(RegistryError, match="is the champion"):
        made.challenge(2, 0.5, "a slip", "ann")


def test_a_damaged_version_becomes_no_challenger(folder):
    made = deployment(folder)
    (folder / "versions/2" / WEIGHTS).unlink()
    with pytest.raises(RegistryError, match="missing"):
        made.challenge(2, 0.5, "a canary", "trainer")
    assert {choice.version for choice in users(made)} == {1}
    assert served(folder)["challenger"] is None
    assert actions(made) == []


@pytest.mark.parametrize("cut", ["no file", "other file", "bad file", "no alias", "bad weights"])
def test_what_does_not_agree_at_a_start_is_withdrawn(folder, cut):
    made = deployment(folder)
    made.challenge(2, 0.5, "a canary", "trainer")
    path = folder / FILE
    if cut == "no file":  # killed after the alias, before the file
        path.unlink()
    elif cut == "other file":  # killed as another took its place
        path.write_text(json.dumps({**json.loads(path.read_text()), "challenger": 3}))
    elif cut == "bad file":
        path.write_text("{")
    elif cut == "no alias":
        made.registry.drop_alias("challenger")
    else:
        (folder / "versions/2" / WEIGHTS).write_bytes(b"")
    again = deployment(folder)
    assert {choice.version for choice in users(again)} == {1}
    assert again.holder.challenger is None
    assert served(folder)["challenger"] is None
    assert not path.exists()
    assert actions(again) == ["challenge", "withdraw"]
    assert actions(deployment(folder)) == ["challenge", "withdraw"]  # said once


def test_a_recommendation_stands_until_it_is_decided(folder):
    made = deployment(folder)
    assert made.candidate() == {"recommended": None, "verdict": None, "canary": None}
    made.judged(2, "promote", ["it is better"], {"rows": 40}, True, "trainer")
    again = deployment(folder)
    assert again.candidate()["recommended"] == 2
    verdict = again.candidate()["verdict"]
    assert (verdict["version"], verdict["verdict"]) == (2, "promote")
    assert (verdict["reasons"], verdict["evidence"]) == (["it is better"], {"rows": 40})
    again.judged(3, "refuse", ["it forgot"], {}, False, "trainer")
    assert again.candidate()["recommended"] == 2
    assert again.candidate()["verdict"]["version"] == 3
    again.registry.prune(keep_learners=0, keep=0, rollback=0)  # it can still be promoted
    again.serve("promote", 2, "as recommended", "ann")
    assert again.candidate()["recommended"] is None
    assert actions(again) == ["recommend", "verdict", "promote"]
    assert again.audit.entries()[0]["details"] == {
        "version": 2, "verdict": "promote", "reasons": ["it is better"],
    }  # fmt: skip
    assert audit.verify(folder / "audit.jsonl") == []


def test_a_recommendation_of_what_is_damaged_is_taken_back_at_a_start(folder):
    deployment(folder).judged(2, "promote", ["it is better"], {}, True, "trainer")
    (folder / "versions/2" / WEIGHTS).write_bytes(b"")
    again = deployment(folder)
    assert again.candidate()["recommended"] is None
    assert actions(again) == ["recommend", "withdraw"]


def test_declining_takes_a_recommendation_back(folder):
    made = deployment(folder)
    made.judged(2, "promote", ["it is better"], {}, True, "trainer")
    made.withdraw(2, "not on a Friday", "ann")
    assert made.registry.alias(RECOMMENDED) is None
    assert made.candidate()["verdict"]["version"] == 2  # what was found stays known
    made.registry.retire(2, "erasure")
    with pytest.raises(RegistryError, match="no version"):
        Deployment(Registry(folder / "none"), made.audit, numbered, lambda: 0)


def test_a_version_that_learned_what_is_discarded_is_promoted_no_more(folder):
    made = deployment(folder)
    made.serve("promote", 3, "it is better", "trainer")
    made.serve("rollback", 1, "wrong labels", "operator")
    made.bar(1)
    for again in (made, deployment(folder)):  # after a restart, too
        with pytest.raises(RegistryError, match="version 3 has learned from events that were dis"):
            again.serve("promote", 3, "it is better", "trainer")
        with pytest.raises(RegistryError, match="version 2 has learned from events that were dis"):
            again.challenge(2, 0.1, "a canary", "trainer")
        assert served(folder)["champion"] == 1
        again.holder.current = numbered(1)
    made.serve("rollback", 3, "they were right after all", "operator")
    assert served(folder)["champion"] == 3
    (folder / "barred.json").write_text("{")
    with pytest.raises(RegistryError, match=r"barred.json is damaged .* or delete it"):
        deployment(folder)
