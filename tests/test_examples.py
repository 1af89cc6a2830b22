"""Every example runs to its end and prints what its text promises."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).parents[1] / "examples"

PROMISED = {
    "boundary_free.py": ["goes on learning", "changes at 1500, 3000, 4500"],
    "erase_rows.py": ["0 of the unwanted ones", "0 in the new checkpoint", "learning goes on"],
    "own_model.py": ["bit for bit: True"],
    "own_strategy.py": ["keeps every promise", "without keeping a single row"],
}


@pytest.fixture(autouse=True)
def _threads_and_randomness_as_before():
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        yield
    torch.set_num_threads(threads)


def test_all_examples_are_known():
    assert {path.name for path in EXAMPLES.glob("*.py")} == PROMISED.keys()


@pytest.mark.parametrize("name", PROMISED)
def test_example_runs(name, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    for words in PROMISED[name]:
        assert words in printed
    assert not list(tmp_path.iterdir()), "an example leaves files behind"
