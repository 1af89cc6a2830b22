"""Damaged state of a service: found and named, with what to do, where it starts or is audited."""

import shutil

import pytest
from small_service import examples
from test_service import CONFIG, MODEL

from lifelong.cli import main
from lifelong.core import restore
from lifelong.core.errors import CheckpointError, LifelongError, LogError, RegistryError
from lifelong.serve.api import Api
from lifelong.serve.config import Config
from lifelong.serve.history import RECENT
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.registry import Registry, served
from lifelong.serve.startup import prepare
from lifelong.serve.trainer import Trainer
from lifelong.serve.weights import digest_of, weights_of

ROWS = 400


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A service's folder with checkpoints and two versions; not to be changed."""
    folder = tmp_path_factory.mktemp("whole")
    (folder / "model.py").write_text(MODEL)
    (folder / "service.yaml").write_text(CONFIG.replace("PORT", "0"))
    config = Config.read(folder / "service.yaml")
    prepare(config)
    with SQLiteLog(config.folder / "log", write=True) as log:
        log.append(examples(ROWS))
        trainer = trainer_of(config, log)
        trainer.catch_up()
        trainer.save()
    registry = Registry(config.folder)
    weights = restore.copied(weights_of(trainer.learner))
    more = {"parent": 1, "first_offset": 1, "last_offset": ROWS, "metrics": {}, "id": "second"}
    second = registry.register(weights, None, **more)
    registry.set_alias("champion", second.number)
    with Api(config).audit as audit:
        audit.append("promote", "a test", {"version": 2})
    return folder


def trainer_of(config, log):
    schema, _, _ = config.parts()
    return Trainer(
        config.folder / "trainer", log, config.factory(), Checked(schema), config.train,
        classes=range(4),
    )  # fmt: skip


@pytest.fixture
def config(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return Config.read(tmp_path / "copy" / "service.yaml")


def flip(path, place=0.5):
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)


def cut(path, place=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(place * len(content))])


def audited(config, capsys):
    status = main(["audit", str(config.folder)])
    out, err = capsys.readouterr()
    return status, out + err


def test_nothing_is_found_where_nothing_is_damaged(config, capsys):
    status, told = audited(config, capsys)
    assert status == 0, told
    assert "0 problems" in told


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_checkpoint_is_named_and_an_older_one_leads_to_the_same(
    config, capsys, caplog, damage
):
    with SQLiteLog(config.folder / "log") as log:
        right = digest_of(weights_of(trainer_of(config, log).learner))
        newest = trainer_of(config, log).history.offsets[-1]
        path = config.folder / "trainer" / "checkpoints" / f"{newest:012d}.safetensors"
        damage(path)
        status, told = audited(config, capsys)
        assert status == 1
        assert str(path) in told
        assert "delete it" in told
        trainer = trainer_of(config, log)
        assert str(path) in caplog.text
        assert 0 < trainer.at.offset < newest
        trainer.catch_up()
        trainer.save()
        assert digest_of(weights_of(trainer.learner)) == right


def test_where_all_checkpoints_are_damaged_it_says_what_to_delete(config, capsys):
    folder = config.folder / "trainer" / "checkpoints"
    paths = sorted(folder.glob("*.safetensors"))
    assert len(paths) >= RECENT
    for path in paths:
        flip(path)
    with SQLiteLog(config.folder / "log") as log:
        with pytest.raises(CheckpointError, match=f"delete {folder} to learn again"):
            trainer_of(config, log)
        assert audited(config, capsys)[1].count("delete it") == len(paths)
        shutil.rmtree(folder)
        trainer = trainer_of(config, log)
        trainer.catch_up()
        assert trainer.at.offset == ROWS


def test_a_flipped_event_is_named(config, capsys):
    path = config.folder / "log" / "events.db"
    content = bytearray(path.read_bytes())
    content[content.index(b'"x":[') + 6] ^= 1
    path.write_bytes(content)
    status, told = audited(config, capsys)
    assert status == 1
    assert "event at offset" in told
    assert "restore a backup" in told


def test_a_log_that_is_cut_off_is_named(config, capsys):
    cut(config.folder / "log" / "events.db", 0.8)
    status, told = audited(config, capsys)
    assert status == 1
    assert f"{config.folder / 'log' / 'events.db'} is damaged" in told
    with pytest.raises(LogError, match="is damaged: its end is missing; restore a backup"):
        SQLiteLog(config.folder / "log", write=True)


@pytest.mark.parametrize("damage", [flip, cut, lambda path, _: path.unlink()])
def test_a_lost_tail_of_the_log_is_named(config, capsys, damage):
    folder, crashed = config.folder / "log", config.folder / "crashed"
    with SQLiteLog(folder, write=True) as log:
        for event in examples(60, seed=5):
            log.append([event])
        shutil.copytree(folder, crashed)  # as a killed process leaves it
    shutil.rmtree(folder)
    crashed.rename(folder)
    (folder / "events.db-shm").unlink()
    wal = folder / "events.db-wal"
    damage(wal, 0.6)
    held = wal.exists() and wal.read_bytes()
    status, told = audited(config, capsys)
    assert status == 1
    assert f"to {ROWS + 60} were acknowledged, and are not there" in told
    assert "restore a backup" in told
    for _ in range(2):  # and what is left is not touched
        with pytest.raises(LogError, match="were acknowledged, and are not there"):
            SQLiteLog(folder, write=True)
    assert not held or wal.read_bytes() == held
    (folder / "tail").unlink()
    with SQLiteLog(folder, write=True) as log:
        assert ROWS <= log.last < ROWS + 60
        assert log.verify() == []


def test_a_trainer_that_is_ahead_of_its_log_says_so(config):
    with (
        SQLiteLog(config.folder / "other", write=True) as log,
        pytest.raises(LogError, match=f"has seen offset {ROWS}, and the log ends at 0"),
    ):
        trainer_of(config, log)


@pytest.mark.parametrize("damage", [flip, cut])
def test_a_damaged_champion_is_named_and_the_one_before_answers(config, capsys, caplog, damage):
    path = config.folder / "versions" / "2" / "weights.safetensors"
    damage(path)
    status, told = audited(config, capsys)
    assert status == 1
    assert "weights.safetensors of version 2 was truncated or altered" in told
    assert str(path) in told
    api = Api(config)
    api.close()
    assert api.deployment.holder.current.version == 1
    assert served(config.folder)["champion"] == 1
    assert "version 2 was truncated or altered" in caplog.text
    assert api.audit.entries()[-1]["details"]["version"] == 1
    flip(config.folder / "versions" / "1" / "weights.safetensors")
    with pytest.raises(RegistryError, match="of version 1 was truncated or altered"):
        Api(config)


@pytest.mark.parametrize("name", ["version.json", "../../served.json"])
def test_a_damaged_record_is_named_or_written_anew(config, capsys, name):
    cut(config.folder / "versions" / "2" / name)
    status, told = audited(config, capsys)
    if name == "version.json":
        assert status == 1
        assert "version.json" in told
    else:
        assert status == 0
        assert served(config.folder)["champion"] == 2


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("trainer/history.json", "delete it to learn again from the log"),
        ("trainer/quarantine.db", "quarantine.db"),
        ("registry.db", "registry.db"),
        ("audit.jsonl", "move the file away"),
    ],
)
def test_what_cannot_be_started_with_is_named(config, name, told):
    (config.folder / name).write_bytes(b"no such thing\n" * 400)
    for left in (config.folder / "trainer").glob("quarantine.db-*"):
        left.unlink()

    def start():
        with SQLiteLog(config.folder / "log") as log:
            trainer_of(config, log)
        Api(config)

    with pytest.raises(LifelongError, match=told):
        start()
