from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lifelong.bench import Constraints, advise, trial
from lifelong.bench.advice import Advice, Candidate
from lifelong.bench.findings import notes
from lifelong.bench.results import check_results
from lifelong.bench.statistics import summary
from lifelong.bench.trial import Trial, known_of, measure, plan
from lifelong.core.errors import StateMismatch

SMALL: dict[str, Any] = {"epochs": 1, "limit": 20, "width": 10, "curve": 0}
QUICK: dict[str, Any] = {"count": 3, "seeds": (0, 1), "given": SMALL, "workers": 1}


@pytest.fixture(scope="module")
def advice() -> Advice:
    return advise(known_of(Constraints(storage="20KB"), "digits", SMALL))


@pytest.fixture(scope="module")
def told() -> list[int]:
    """The numbers of the runs that `tried` told of."""
    return []


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trial")


@pytest.fixture(scope="module")
def tried(advice: Advice, runs: Path, told: list[int]) -> Trial:
    """One trial for all tests; those that measure in its folder again read its runs."""
    return measure(
        advice, "digits", runs, minutes=5, tell=lambda number, _: told.append(number), **QUICK
    )


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


def test_candidates_are_tried_between_the_bounds_on_rows_kept_apart(
    advice: Advice, tried: Trial, told: list[int]
):
    check_results(tried.results)
    names = [one.method for one in advice.candidates[:3]]
    assert [run["strategy"] for run in tried.results[::2]] == ["fine-tune", *names, "joint"]
    assert {run["config"]["on"] for run in tried.results} == {"valid"}
    assert {run["config"]["validation"] for run in tried.results} == {0.2}
    assert sorted(set(told)) == list(range(10))
    assert {one.method for one in tried.candidates} == set(names) - set(tried.left_out)
    assert all(one.accuracy is not None and one.cost is not None for one in tried.candidates)
    assert all(one.accuracy_of == one.cost_of == one.method for one in tried.candidates)


def test_runs_that_are_over_are_read(advice: Advice, tried: Trial, runs: Path):
    assert measure(advice, "digits", runs, minutes=5, **QUICK) == tried
    with pytest.raises(StateMismatch, match="holds a run with other settings"):
        measure(advice, "digits", runs, minutes=5, **QUICK | {"given": SMALL | {"lr": 0.5}})


@pytest.mark.usefixtures("tried")
def test_what_does_not_fit_into_the_time_is_left_out_and_named(advice: Advice, runs: Path):
    first, slow, *others = advice.candidates
    dear = replace(advice, candidates=(first, replace(slow, cost=1e9), *others))
    found = measure(dear, "digits", runs, minutes=5, **QUICK)
    assert found.left_out.keys() == {slow.method}
    assert "more than was left" in found.left_out[slow.method]
    assert first.method in {one.method for one in found.candidates}


def test_what_is_not_over_when_the_time_is_up_is_stopped(advice: Advice, tmp_path: Path):
    with pytest.raises(ValueError, match=r"constraints \(fine-tune: it was not over"):
        measure(advice, "digits", tmp_path, minutes=1e-6, **QUICK)


@pytest.mark.parametrize("wrong", [{"minutes": 0}, {"minutes": float("nan")}, {"count": 0}])
def test_no_time_and_no_candidates_are_refused(
    wrong: dict[str, Any], advice: Advice, tmp_path: Path
):
    with pytest.raises(ValueError, match="give a time, and one candidate or more"):
        measure(advice, "digits", tmp_path, **{"minutes": 1, **QUICK, **wrong})


def test_what_breaks_a_constraint_in_fact_is_not_chosen(advice: Advice, tried: Trial):
    first = advice.candidates[0]
    results = deepcopy(tried.results)
    for run in results:
        if run["strategy"] == first.method:
            run["memory_bytes"] = 50_000
    found = trial._decided(advice, results, {}, 5)
    assert found.candidates
    assert first.method not in {one.method for one in found.candidates}
    assert found.left_out[first.method] == "it kept 50 kB, more than the storage"

    dear = replace(advice, constraints=replace(advice.constraints, storage=None, compute=1.0))
    for run in results:
        run["seconds"] = 1.0 if run["strategy"] == "fine-tune" else 3.0
    with pytest.raises(ValueError, match=r"it took x3.00 the time of fine-tuning"):
        trial._decided(dear, results, {}, 5)


def test_reasons_are_what_was_measured(tried: Trial):
    for one in tried.candidates:
        assert one.accuracy is not None
        assert one.reasons[0].startswith(f"{one.accuracy.mean:.1f} ± ")
        assert "% on rows kept apart (Fine-tuning " in one.reasons[0]
        assert "; Joint " in one.reasons[0]
        assert any(
            f"x{one.cost:.2f} the time of fine-tuning, measured" in text
            for text in (*one.reasons, *one.doubts)
        )
        assert not any("docs/" in text and "%" in text for text in one.reasons)


def test_it_is_said_where_fine_tuning_is_as_good(advice: Advice, tried: Trial):
    results = deepcopy(tried.results)
    for run in results:
        run["average_accuracy"] = 0.2 if run["strategy"] == "fine-tune" else 0.875
    assert "fine-tuning" not in trial._decided(advice, results, {}, 5).because
    for run in results:
        run["average_accuracy"] = 0.875
    told = trial._decided(advice, results, {}, 5).because
    assert "; fine-tuning came to 87.5 ± 0.0 %, no worse within that interval" in told
    assert told.endswith("this stream does not show that anything is forgotten")


def test_more_than_the_storage_is_no_merit_but_told(advice: Advice, tried: Trial):
    first = advice.candidates[0].method
    results = deepcopy(tried.results)
    for run in results:
        run["memory_bytes"] = 20_500 if run["strategy"] == first else 20_000
    found = {one.method: one for one in trial._decided(advice, results, {}, 5).candidates}
    told = (
        "kept 20.5 kB, of which what is noted beside rows, 16 bytes each at most, is not counted "
        "towards the 20 kB"
    )
    assert told in found[first].doubts
    assert not any("kept 20" in text for text in found[first].reasons)
    others = [one for name, one in found.items() if name != first]
    assert others
    assert all("kept 20 kB" in one.reasons for one in others)


def test_what_is_said_of_intervals_is_what_the_report_says(advice: Advice, tried: Trial):
    results = deepcopy(tried.results)
    first = advice.candidates[0].method
    for run in results:
        best = run["strategy"] == first
        spread = (0.005 if best else 0.02) * (1 if run["seed"] else -1)
        run["average_accuracy"] = (0.9 if best else 0.8) + spread
    because = trial._decided(advice, results, {}, 5).because
    note = notes(summary(results))[-1]
    assert "no other mean lies within its interval, which overlaps " in because
    assert "intervals, not paired by seed; those of " in note
    assert all("overlap" in said and "do not rank them on" in said for said in (because, note))


@pytest.mark.parametrize(
    ("method", "kept", "keeps_to_it"),
    [
        ("replay", 21_383, True),
        ("replay", 24_000, False),
        ("gpm", 20_000, True),
        ("gpm", 21_383, False),
        ("ewc", 23_000, False),
    ],
)
def test_what_is_noted_of_rows_is_forgiven_where_rows_are_kept(
    method: str, kept: int, keeps_to_it: bool
):
    one = Candidate(method, {}, None, None, kept, (), ())
    broken = trial._broken(one, Constraints(storage=20_000, row_bytes=64).settled())
    assert (broken is None) == keeps_to_it


@pytest.mark.usefixtures("tried")
def test_a_run_that_fails_is_named(advice: Advice, runs: Path, monkeypatch: pytest.MonkeyPatch):
    one = advice.candidates[0]
    names = [run["strategy"] for run in plan(advice, "digits", count=2, seeds=(0,), given=SMALL)]
    assert names[1] == one.method
    real = trial.run_all

    def fail(configs: Any, *more: Any, **words: Any) -> Any:
        if configs[0]["strategy"] == one.method:
            raise trial.RunFailed("it broke")
        return real(configs, *more, **words)

    monkeypatch.setattr(trial, "run_all", fail)
    found = measure(advice, "digits", runs, minutes=5, **QUICK)
    assert found.left_out[one.method] == "it broke"
