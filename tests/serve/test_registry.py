import json
import re
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lifelong.core.errors import RegistryError
from lifelong.serve.registry import LEARNER, WEIGHTS, Registry, log_results, served

HERE = Path(__file__).parent
CRASH = [sys.executable, str(HERE / "registry_crash.py")]


@pytest.fixture(scope="module")
def started(tmp_path_factory):
    """A process whose forks make a registry together, and are killed as they work on others."""
    folder = tmp_path_factory.mktemp("registry") / "made by two"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([*CRASH, str(folder)], **pipes, text=True)
    if process.stdout.readline() != "ready\n":
        pytest.fail(process.stderr.read())
    yield process, folder
    assert process.communicate() == ("", "")


@pytest.fixture
def empty(started):
    return started[1]


@pytest.fixture
def folder(empty, tmp_path):
    shutil.copytree(empty, tmp_path / "registry")
    return tmp_path / "registry"


@pytest.fixture
def registry(folder):
    return Registry(folder)


def state(value):
    return {"w": torch.full((8, 4), float(value)), "step": value}


def add(registry, n, **changes):
    facts = {
        "parent": n - 1 or None,
        "first_offset": n * 10 - 9,
        "last_offset": n * 10,
        "metrics": {"accuracy": n / 10},
        "id": f"id-{n}",
    }
    return registry.register(state(n), state(-n), **{**facts, **changes})


def test_a_version_comes_back_as_it_was_registered(registry, folder):
    version = add(registry, 1, note="the first", metrics={"accuracy": 0.25, "task 0/loss": 2})
    assert (version.number, version.parent, version.id) == (1, None, "id-1")
    assert (version.first_offset, version.last_offset) == (1, 10)
    assert version.metrics == {"accuracy": 0.25, "task 0/loss": 2.0}
    again = Registry(folder)
    assert again.get(1) == version
    assert again.versions() == [version]
    assert torch.equal(again.load_weights(1)["w"], state(1)["w"])
    assert again.load_learner(1)["step"] == -1
    assert set(version.hashes) == {WEIGHTS, LEARNER}
    assert json.loads((version.folder / "version.json").read_text())["last_offset"] == 10


def test_mlflow_shows_the_version_and_its_run(registry, folder):
    add(registry, 1)
    registry.set_alias("champion", 1)
    with sqlite3.connect(folder / "registry.db") as tables:
        [(key, value, step)] = tables.execute("SELECT key, value, step FROM metrics").fetchall()
        assert (key, value, step) == ("accuracy", 0.1, 10)
        assert tables.execute("SELECT name, version, source FROM model_versions").fetchall() == [
            ("model", 1, (folder / "versions/1").as_uri())
        ]
        assert tables.execute("SELECT status FROM runs").fetchall() == [("FINISHED",)]
        assert ("last_offset", "10") in tables.execute("SELECT key, value FROM params").fetchall()
        aliases = tables.execute("SELECT alias, version FROM registered_model_aliases").fetchall()
        assert aliases == [("champion", 1)]


def test_the_folder_opens_with_mlflows_own_client(registry, folder):
    for n in (1, 2):
        add(registry, n)
    registry.set_alias("champion", 1)
    registry.set_alias("challenger", 2)
    from mlflow.tracking import MlflowClient  # what `mlflow ui` reads with

    uri = f"sqlite:///{folder}/registry.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    [model] = client.search_registered_models()
    assert {name: int(n) for name, n in model.aliases.items()} == {"champion": 1, "challenger": 2}
    version = client.get_model_version_by_alias("model", "challenger")
    assert version.source == (folder / "versions/2").as_uri()
    assert client.get_run(version.run_id).data.metrics == {"accuracy": 0.2}


def test_the_same_id_is_registered_once(registry):
    first = add(registry, 1)
    assert add(registry, 1) == first
    assert add(registry, 2).number == 2
    assert [version.number for version in registry.versions()] == [1, 2]


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"metrics": {"accuracy": float("nan")}}, "'accuracy' is nan"),
        ({"metrics": {"a//b": 1}}, "a//b"),
        ({"metrics": {"../a": 1}}, "../a"),
        ({"id": "no 'quotes'"}, "no 'quotes'"),
        ({"parent": 7}, "parent 7"),
        ({"first_offset": 20}, "offsets 20 to 10"),
        ({"note": "x" * 5001}, "5001"),
    ],
)
def test_what_cannot_be_registered_is_refused_before_anything_is_written(
    registry, folder, changes, complaint
):
    with pytest.raises(ValueError, match=re.escape(complaint)):
        add(registry, 1, **changes)
    assert registry.versions() == []
    assert [f.name for f in (folder / "versions").iterdir()] == [".writer.lock"]


def test_a_state_that_cannot_be_saved_leaves_nothing(registry, folder):
    with pytest.raises(RegistryError, match="object"):
        registry.register(
            {"w": object()}, None, parent=None, first_offset=0, last_offset=0, metrics={}, id="a"
        )
    assert registry.versions() == []
    assert [f.name for f in (folder / "versions").iterdir()] == [".writer.lock"]


def test_a_version_without_a_learner(registry):
    version = registry.register(
        state(1), None, parent=None, first_offset=0, last_offset=0, metrics={}, id="seed"
    )
    registry.set_alias("champion", version.number)
    with pytest.raises(RegistryError, match=r"learner\.safetensors of version 1.*without one"):
        registry.load_learner(1)


def test_there_is_no_such_version(registry):
    with pytest.raises(RegistryError, match="version 3"):
        registry.get(3)
    with pytest.raises(RegistryError, match="version 3"):
        registry.set_alias("champion", 3)


def damage_remove(path):
    path.unlink()


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def damage_alter(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [damage_remove, damage_cut, damage_alter])
@pytest.mark.parametrize("name", [WEIGHTS, LEARNER])
def test_damaged_files_are_neither_loaded_nor_served(registry, damage, name):
    add(registry, 1)
    registry.set_alias("champion", 1)
    damage(add(registry, 2).folder / name)
    load = registry.load_weights if name == WEIGHTS else registry.load_learner
    with pytest.raises(RegistryError, match=f"{name} of version 2"):
        load(2)
    with pytest.raises(RegistryError, match=f"{name} of version 2"):
        registry.set_alias("champion", 2)
    assert registry.alias("champion") == 1
    assert served(registry.folder)["champion"] == 1


def test_a_forged_file_with_a_forged_hash_is_found_out_by_mlflow(registry):
    version = add(registry, 1)
    other = add(registry, 2)
    shutil.copy(other.folder / WEIGHTS, version.folder / WEIGHTS)
    path = version.folder / "version.json"
    path.write_text(path.read_text().replace(version.hashes[WEIGHTS], other.hashes[WEIGHTS]))
    with pytest.raises(RegistryError, match=r"version\.json of version 1 is not what MLflow has"):
        registry.load_weights(1)
    path.write_text("{")
    with pytest.raises(RegistryError, match=r"1/version\.json is damaged"):
        registry.load_weights(1)
    assert Registry(registry.folder).get(1) == version  # it is still listed


def test_promotion_and_rollback(registry, folder):
    assert registry.alias("champion") is None
    assert registry.previous_champion() is None
    for n in (1, 2, 3):
        add(registry, n)
        registry.set_alias("champion", n)
    add(registry, 4)
    registry.set_alias("challenger", 4)
    assert served(folder) == {"champion": 3, "challenger": 4, "previous": [1, 2]}
    assert registry.previous_champion() == 2
    registry.set_alias("champion", 2)  # back, and no way from here to 3 by going back again
    registry.drop_alias("challenger")
    registry.drop_alias("challenger")
    assert served(folder) == {"champion": 2, "challenger": None, "previous": [1]}
    assert registry.previous_champion() == 1
    registry.drop_alias("champion")
    assert served(folder) == {"champion": None, "challenger": None, "previous": [1, 2]}
    assert registry.alias("champion") is None


def test_going_back_skips_a_damaged_champion(registry):
    for n in (1, 2, 3):
        add(registry, n)
        registry.set_alias("champion", n)
    damage_cut(registry.get(2).folder / WEIGHTS)
    assert registry.previous_champion() == 1


@pytest.mark.parametrize("name", ["latest", "v3", "previous", "", "Champion", "a b"])
def test_names_that_cannot_be_aliases(registry, name):
    add(registry, 1)
    with pytest.raises(ValueError, match="an alias"):
        registry.set_alias(name, 1)


@pytest.mark.parametrize("content", [None, "", '{"champion": 1}', '{"champion": 1, "challen'])
def test_the_served_file_is_repaired_from_mlflow(registry, folder, content):
    for n in (1, 2):
        add(registry, n)
        registry.set_alias("champion", n)
    path = folder / "served.json"
    before = path.read_text()
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    Registry(folder)
    assert path.read_text() == before


def test_a_damaged_served_file_says_what_to_do(tmp_path):
    (tmp_path / "served.json").write_text("{")
    with pytest.raises(RegistryError, match="make a Registry"):
        served(tmp_path)


def test_pruning_leaves_what_is_served_and_what_to_go_back_to(registry, folder):
    for n in range(1, 9):
        add(registry, n)
    for n in (1, 2, 3, 5):
        registry.set_alias("champion", n)
    registry.set_alias("challenger", 4)
    assert registry.prune(keep_learners=1, keep=2, rollback=2) == [1, 6, 7]
    assert registry.prune(keep_learners=1, keep=2, rollback=2) == []
    left = {v.number: set(v.hashes) - set(v.pruned) for v in Registry(folder).versions()}
    whole = {WEIGHTS, LEARNER}
    assert left == {
        1: set(),
        2: whole,
        3: whole,
        4: whole,
        5: whole,
        6: set(),
        7: {WEIGHTS},
        8: whole,
    }
    on_disk = {n: {f.name for f in (folder / f"versions/{n}").iterdir()} for n in left}
    assert on_disk == {n: names | {"version.json"} for n, names in left.items()}
    with pytest.raises(RegistryError, match=r"learner\.safetensors of version 7 was pruned"):
        registry.load_learner(7)
    with pytest.raises(RegistryError, match=r"weights\.safetensors of version 6 was pruned"):
        registry.set_alias("champion", 6)
    registry.set_alias("champion", 7)  # weights are enough to be served
    assert served(folder) == {"champion": 7, "challenger": 4, "previous": [2, 3, 5]}
    with pytest.raises(ValueError, match="give 0 or more"):
        registry.prune(keep=-1)


def test_of_old_versions_nothing_stays_and_numbers_do_not_come_again(registry, folder):
    for n in range(1, 9):
        add(registry, n)
    for n in (1, 2, 3):
        registry.set_alias("champion", n)
    registry.retire(4, "erasure 17")
    registry.prune(keep_learners=1, keep=2, rollback=1, records=3)
    assert [v.number for v in registry.versions()] == [2, 3, 6, 7, 8]
    assert {f.name for f in (folder / "versions").iterdir() if f.name.isdecimal()} == {
        "2", "3", "6", "7", "8",
    }  # fmt: skip
    assert served(folder)["previous"] == [2]
    with sqlite3.connect(folder / "registry.db") as db:
        for table in ("model_versions", "runs"):
            assert db.execute(f"SELECT count(*) FROM {table}").fetchone() == (5,)
        left = "SELECT count(DISTINCT run_uuid) FROM {}"
        assert db.execute(left.format("params")).fetchone() == (5,)
        assert db.execute("PRAGMA foreign_key_check").fetchall() == []
    db.close()
    with pytest.raises(RegistryError):
        registry.get(4)
    again = Registry(folder)
    add(again, 9)
    assert again.versions()[-1].number == 9
    with pytest.raises(ValueError, match="`records` of at least `keep`"):
        registry.prune(keep=5, records=4)


def test_a_kill_while_versions_are_forgotten_is_made_good(registry, folder, monkeypatch):
    for n in range(1, 6):
        add(registry, n)
    registry.set_alias("champion", 5)

    def killed(numbers):
        raise KeyboardInterrupt

    monkeypatch.setattr(registry._tracking, "forget", killed)
    with pytest.raises(KeyboardInterrupt):
        registry.prune(keep_learners=1, keep=1, rollback=1, records=2)
    again = Registry(folder)
    assert len(again.versions()) == 5
    again.prune(keep_learners=1, keep=1, rollback=1, records=2)
    assert [v.number for v in again.versions()] == [4, 5]


def test_what_is_retired_is_gone_for_good(registry, folder):
    for n in range(1, 5):
        add(registry, n)
    for n in (1, 3, 4):
        registry.set_alias("champion", n)
    with pytest.raises(RegistryError, match="version 4 is the champion"):
        registry.erase_versions(2, reason="erasure 17")
    assert registry.verify(3).retired is None  # nothing was done
    assert registry.erase_versions(2, 3, reason="erasure 17") == [2, 3]
    assert registry.erase_versions(2, 3) == []
    assert served(folder)["previous"] == [1]
    assert [f.name for f in registry.get(3).folder.iterdir()] == ["version.json"]
    for attempt in (registry.load_weights, registry.load_learner, registry.verify):
        with pytest.raises(RegistryError, match="version 3 was deleted when it was retired: erasu"):
            attempt(3)
    with pytest.raises(RegistryError, match="retired"):
        registry.set_alias("challenger", 2)
    registry.retire(1, "too old")
    assert registry.previous_champion() is None
    assert [v.retired for v in registry.versions()] == ["too old", "erasure 17", "erasure 17", None]
    assert add(registry, 5).number == 5
    with pytest.raises(RegistryError, match="no version 9"):
        registry.retire(9, "a slip")


def test_a_retired_version_brought_back_from_a_backup_is_deleted_again(registry, folder, tmp_path):
    version = add(registry, 1)
    shutil.copytree(version.folder, tmp_path / "backup")
    registry.retire(1, "erasure")
    shutil.copytree(tmp_path / "backup", version.folder, dirs_exist_ok=True)
    assert Registry(folder).get(1).retired == "erasure"
    assert not (version.folder / WEIGHTS).exists()


def test_a_lost_store_is_rebuilt_from_the_folders(registry, folder, empty, tmp_path):
    before = [add(registry, n) for n in (1, 2, 3)]
    registry.retire(2, "erasure")
    shutil.copytree(empty, tmp_path / "rebuilt")  # with an empty store
    shutil.copytree(folder / "versions", tmp_path / "rebuilt/versions", dirs_exist_ok=True)
    rebuilt = Registry(tmp_path / "rebuilt")
    assert [(v.number, v.id, v.retired) for v in rebuilt.versions()] == [
        (v.number, v.id, "erasure" if v.number == 2 else None) for v in before
    ]
    assert rebuilt.load_learner(3)["step"] == -3


def test_a_folder_that_mlflow_cannot_number_is_named(registry, folder):
    version = add(registry, 1)
    shutil.copytree(version.folder, folder / "versions/7")
    with pytest.raises(RegistryError, match=r"7/version\.json is of version 1, not 7"):
        Registry(folder)


def run_killed(process, folder, work, kill):
    """Return the last words of a process that was killed at this step."""
    process.stdin.write(json.dumps([str(folder), work, kill]) + "\n")
    process.stdin.flush()
    lines = []
    while not (line := process.stdout.readline()).startswith("killed"):
        if not line:
            pytest.fail(process.stderr.read())
        lines.append(line.strip())
    assert line == "killed True\n", lines
    return lines


def test_a_kill_at_any_moment_leaves_no_version_or_a_whole_one(started, folder):
    # Within the files, before and after the rename, at each of MLflow's transactions; by the clock.
    lines = []
    for kill in (1, 5, 10, 12, 13, 14, 15, 16, 17, 18, 19, 0.8):
        lines += run_killed(started[0], folder, "register", kill)
    acknowledged = [int(line.split()[1]) for line in lines]
    assert len(set(acknowledged)) == len(acknowledged)
    registry = Registry(folder)
    found = registry.versions()
    assert len(found) >= 7
    assert [version.number for version in found] == list(range(1, len(found) + 1))
    assert set(acknowledged) <= {version.number for version in found}
    for version in found:
        assert version.id == f"offset-{version.number * 10}"
        assert float(registry.load_weights(version.number)["w"][0, 0]) == version.number
        assert float(registry.load_learner(version.number)["w"][0, 0]) == -version.number
    names = {path.name for path in (folder / "versions").iterdir()}
    assert names == {".writer.lock", *(str(version.number) for version in found)}
    with sqlite3.connect(folder / "registry.db") as tables:
        [(runs,)] = tables.execute("SELECT count(*) FROM runs").fetchall()
    assert runs == len(found)


def test_a_kill_at_any_moment_leaves_aliases_that_agree(started, registry, folder):
    for n in range(1, 4):
        add(registry, n)
    registry.set_alias("champion", 3)
    last = 3
    for kill in range(1, 8):
        said = run_killed(started[0], folder, "promote", kill)
        last = int(said[-1].split()[1]) if said else last
        now = served(folder)
        assert now["champion"] in {last, last % 3 + 1, 1}
        Registry(folder)
        repaired = served(folder)
        assert repaired["champion"] == registry.alias("champion")
        assert repaired["champion"] not in repaired["previous"]
        assert len(set(repaired["previous"])) == len(repaired["previous"])
        last = repaired["champion"]


def test_a_kill_at_any_moment_leaves_no_file_that_is_said_to_be_gone(started, registry, folder):
    for n in range(1, 8):
        add(registry, n)
    for kill in (2, 4, 5, 6, 7):
        run_killed(started[0], folder, "prune", kill)
        again = Registry(folder)
        for version in again.versions():
            kept = {path.name for path in version.folder.iterdir() if path.suffix != ".tmp"}
            assert kept == {*version.hashes, "version.json"} - set(version.pruned)
    assert sum(bool(version.pruned) for version in again.versions()) >= 3


def test_results_of_benchmarks_are_logged_once(folder):
    uri = f"sqlite:///{folder}/registry.db"
    result = {
        "suite": "split-digits",
        "strategy": "ewc",
        "seed": 3,
        "accuracy": [[0.9, None], [0.5, 0.75]],
        "average_accuracy": 0.625,
        "forgetting": 0.4,
        "forward_transfer": None,
        "seconds": 1.5,
        "config": {"strength": 100, "hidden sizes": [400, 400]},
        "versions": {"torch": "2.6"},
    }
    ids = log_results(uri, [result, {**result, "seed": 4}])
    assert len(set(ids)) == 2
    assert log_results(uri, [result]) == ids[:1]
    with sqlite3.connect(folder / "registry.db") as tables:
        found = tables.execute(
            "SELECT key, value, step FROM metrics WHERE run_uuid = ? ORDER BY key, step", ids[:1]
        ).fetchall()
        params = dict(
            tables.execute("SELECT key, value FROM params WHERE run_uuid = ?", ids[:1]).fetchall()
        )
    assert found == [
        ("accuracy/0", 0.9, 0),
        ("accuracy/0", 0.5, 1),
        ("accuracy/1", 0.75, 1),
        ("average_accuracy", 0.625, 0),
        ("forgetting", 0.4, 0),
        ("seconds", 1.5, 0),
    ]
    assert params["strategy"] == "ewc"
    assert params["seed"] == "3"
    assert params["config.hidden sizes"] == "[400, 400]"
    with pytest.raises(RegistryError, match="sqlite:///FILE"):
        log_results("http://localhost", [])


def test_what_is_read_and_written_directly_is_what_mlflow_has(registry, folder):
    """A model of the same name in another workspace is somebody else's."""
    for n in (1, 2):
        add(registry, n)
    registry.set_alias("champion", 2)
    with sqlite3.connect(folder / "registry.db") as db:
        name = db.execute("SELECT name FROM registered_models").fetchone()[0]
        for table, columns, values in (
            ("registered_models", "name", [name]),
            ("model_versions", "name, version, current_stage", [name, 7, "None"]),
            ("registered_model_aliases", "name, alias, version", [name, "champion", 7]),
        ):
            marks = ", ".join("?" * (len(values) + 1))
            db.execute(f"INSERT INTO {table}({columns}, workspace) VALUES({marks})", [*values, "b"])
    db.close()
    again = Registry(folder)
    assert again.alias("champion") == 2
    assert [version.number for version in again.versions()] == [1, 2]
    assert add(again, 3).number == 3
    client = again._tracking._client
    assert client.get_registered_model(name).aliases == {"champion": 2}
    assert client.get_model_version(name, "3").tags == again._tracking.tags_of(3)


def test_no_tag_and_no_alias_of_a_version_that_is_not_there(registry):
    add(registry, 1)
    tracking = registry._tracking
    for change in (lambda: tracking.tag(9, {"a": "b"}), lambda: tracking.set_alias("other", 9)):
        with pytest.raises(RegistryError, match="cannot find version 9"):
            change()
    assert tracking.aliases()[0] == {}
    assert tracking.tags().keys() == {1}
