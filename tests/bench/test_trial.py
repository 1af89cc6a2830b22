from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifelong.bench import Constraints, advise, trial
from lifelong.bench.results import check_results
from lifelong.bench.trial import known_of, measure, plan
from lifelong.core.errors import StateMismatch

SMALL: dict[str, Any] = {"epochs": 1, "limit": 20, "width": 10, "curve": 0}
QUICK: dict[str, Any] = {"count": 2, "seeds": (0, 1), "given": SMALL, "workers": 1}


def test_a_suite_tells_what_it_knows():
    found = known_of(Constraints(classes=7), "digits", {"width": 100})
    assert (found.tasks, found.row_bytes, found.classes) == (5, 64, 7)
    assert found.parameters == 64 * 100 + 100 + 100 * 100 + 100 + 100 * 10 + 10
    assert (found.increment, found.task_known) == ("class", None)
    told = {"scenario": "task-incremental", "head": "multi"}
    assert known_of(Constraints(), "digits", told).settled().task_known
    assert known_of(Constraints(), "digits", {"scenario": "domain-incremental"}).increment == (
        "domain"
    )


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"increment": "domain"}, "of the kind 'class'; leave it out, or choose a suite"),
        ({"task_known": True}, "increment is 'task', but the tasks of digits are of the kind"),
        ({"pretrained": True}, "leave out --measure or --pretrained"),
    ],
)
def test_a_suite_of_another_kind_is_refused(asked: dict[str, Any], said: str):
    with pytest.raises(ValueError, match="leave") as caught:
        known_of(Constraints(**asked), "digits", {})
    assert said in str(caught.value)


def test_candidates_are_tried_between_the_bounds_on_rows_kept_apart(tmp_path: Path):
    advice = advise(known_of(Constraints(storage="5KB"), "digits", SMALL))
    seen: list[int] = []
    found = measure(
        advice, "digits", tmp_path, minutes=5, tell=lambda number, event: seen.append(number),
        **QUICK,
    )  # fmt: skip
    check_results(found.results)
    tried = [one.method for one in advice.candidates[:2]]
    assert [run["strategy"] for run in found.results[::2]] == ["fine-tune", *tried, "joint"]
    assert {run["config"]["on"] for run in found.results} == {"valid"}
    assert {run["config"]["validation"] for run in found.results} == {0.2}
    assert sorted(set(seen)) == list(range(8))
    assert {one.method for one in found.candidates} == set(tried) - set(found.left_out)
    assert all(one.accuracy is not None and one.cost is not None for one in found.candidates)

    again = measure(advice, "digits", tmp_path, minutes=5, **QUICK)
    assert again == found  # runs that are over are read
    with pytest.raises(StateMismatch, match="holds a run with other settings"):
        measure(advice, "digits", tmp_path, minutes=5, **QUICK | {"given": SMALL | {"lr": 0.5}})


def test_what_does_not_fit_into_the_time_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    advice = advise(known_of(Constraints(), "digits", SMALL))
    slow = advice.candidates[1]
    advice = replace(
        advice, candidates=(advice.candidates[0], replace(slow, cost=1e9), *advice.candidates[2:])
    )
    found = measure(advice, "digits", tmp_path, minutes=5, **QUICK)
    assert found.left_out.keys() == {slow.method}
    assert "more than was left" in found.left_out[slow.method]
    assert found.candidates[0].method == advice.candidates[0].method


def test_what_is_not_over_when_the_time_is_up_is_stopped(tmp_path: Path):
    advice = advise(known_of(Constraints(), "digits", SMALL))
    with pytest.raises(ValueError, match=r"constraints \(fine-tune: it was not over"):
        measure(advice, "digits", tmp_path, minutes=1e-6, **QUICK)


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"minutes": float("nan")}, {"count": 0}])
def test_no_time_and_no_candidates_are_refused(wrong: dict[str, Any], tmp_path: Path):
    advice = advise(Constraints())
    with pytest.raises(ValueError, match="give a time, and one candidate or more"):
        measure(advice, "digits", tmp_path, **{"minutes": 1, **QUICK, **wrong})


def test_what_breaks_a_constraint_in_fact_is_not_chosen(tmp_path: Path):
    advice = advise(known_of(Constraints(storage="5KB"), "digits", SMALL))
    first = advice.candidates[0]
    results = measure(advice, "digits", tmp_path, minutes=5, **QUICK | {"count": 3}).results
    for run in results:
        if run["strategy"] == first.method:
            run["memory_bytes"] = 50_000
    left_out: dict[str, str] = {}
    found = trial._decided(advice, results, left_out, 5)
    assert found.candidates
    assert first.method not in {one.method for one in found.candidates}
    assert found.left_out[first.method] == "it kept 50 kB, more than the storage"

    dear = replace(advice, constraints=replace(advice.constraints, storage=None, compute=1.0))
    for run in results:
        run["seconds"] = 1.0 if run["strategy"] == "fine-tune" else 3.0
    with pytest.raises(ValueError, match=r"it took x3.00 the time of fine-tuning"):
        trial._decided(dear, results, {}, 5)


def test_a_run_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    advice = advise(known_of(Constraints(), "digits", SMALL))
    one = advice.candidates[0]
    names = [run["strategy"] for run in plan(advice, "digits", count=2, seeds=(0,), given=SMALL)]
    assert names[1] == one.method
    real = trial.run_all

    def fail(configs: Any, *more: Any, **words: Any) -> Any:
        if configs[0]["strategy"] == one.method:
            raise trial.RunFailed("it broke")
        return real(configs, *more, **words)

    monkeypatch.setattr(trial, "run_all", fail)
    found = measure(advice, "digits", tmp_path, minutes=5, **QUICK)
    assert found.left_out[one.method] == "it broke"
