"""The tables of a new MLflow store are those that MLflow's migrations make."""

import sqlite3

import pytest

from lifelong.serve import runs, tables


@pytest.fixture(scope="module")
def migrated(tmp_path_factory):
    return tables.migrated(tmp_path_factory.mktemp("migrated"), runs.load())


def parts(script):
    """Each statement as a set of lines: the order of a table's constraints is another each time."""
    lines = [line.strip().removesuffix(",") for line in script.splitlines()]
    found = "\n".join(line for line in lines if not line.startswith("-- ")).split(";")
    return sorted(sorted(filter(None, one.splitlines())) for one in found)


def test_they_are_what_the_migrations_of_the_installed_release_make(migrated):
    made = parts("\n".join(tables.statements(migrated)))
    assert len(made) > 50
    assert made == parts(tables.SCRIPT.read_text("utf-8")), (
        "this release of MLflow has other tables: run `python -m lifelong.serve.tables`"
    )


def test_mlflow_works_with_them_and_nothing_is_migrated(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "migrated", None)
    client = runs.connect(tmp_path / "registry.db")
    client.create_registered_model("m")
    number = client.create_model_version("m", "file:///m", tags={"a": "b"}).version
    client.set_registered_model_alias("m", "champion", number)
    assert client.get_model_version_by_alias("m", "champion").tags == {"a": "b"}
    experiment = client.create_experiment("e")
    run = client.create_run(experiment).info.run_id
    client.log_metric(run, "accuracy", 0.5)
    assert client.get_run(run).data.metrics == {"accuracy": 0.5}


@pytest.mark.parametrize("damage", ["version", "sql", "missing"])
def test_where_they_do_not_fit_the_migrations_make_them(tmp_path, monkeypatch, migrated, damage):
    script = tmp_path / "tables.sql"
    text = tables.SCRIPT.read_text("utf-8")
    if damage == "version":
        with sqlite3.connect(migrated) as connection:
            [(head,)] = connection.execute("SELECT version_num FROM alembic_version").fetchall()
        assert head in text
        script.write_text(text.replace(head, "0a8213491aaa"))
    elif damage == "sql":
        script.write_text(text[: len(text) // 2])
    monkeypatch.setattr(tables, "SCRIPT", script)
    monkeypatch.setattr(tables, "migrated", lambda folder, client: migrated)
    assert tables.make(tmp_path, runs.load()) == migrated
