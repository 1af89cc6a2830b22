from __future__ import annotations

import random
import shlex
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lifelong import Batch, TaskSpec
from lifelong.bench import Constraints, advice, advise
from lifelong.bench.advice import FALLBACK, Candidate, NothingFits, rank
from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.recipes import RECIPES
from lifelong.bench.rules import Figures, fits, read_rules
from lifelong.bench.snippets import INCREMENTS, command, python
from lifelong.bench.stored import LEVELS
from lifelong.bench.suites import resolve
from lifelong.cli import main
from lifelong.commands.arguments import setting
from lifelong.core.learner import Learner
from lifelong.memory.budget import bytes_of
from lifelong.metrics.confidence import Interval
from lifelong.nets import MLP, Classifier, MultiHead, Pixels, TaskClassifier

SIZES = {"row_bytes": 784, "classes": 10, "parameters": 480_000, "tasks": 5}
CASES: list[tuple[dict[str, Any], str, dict[str, str | None]]] = [
    # what is asked for, what comes first, and what rules some others out (None: nothing)
    ({}, FALLBACK, {"slda": "pretrained", "packnet": "task_known", "wa": "none", "gem": None}),
    ({"tasks": 50, "storage": "100MB"}, FALLBACK, {"experts": "tasks", "ranpac-warm": None}),
    ({"boundaries": False}, FALLBACK, {"gem": "boundaries", "ewc": "boundaries", "er-ace": None}),
    ({"boundaries": False, "compute": 1.7}, "replay", {FALLBACK: "compute", "er-ace": "compute"}),
    ({"compute": 2}, "exemplars", {FALLBACK: "compute", "mir": "compute", "replay": None}),
    ({"compute": 2, "boundaries": False}, "replay", {"exemplars": "boundaries"}),
    ({"place": "edge"}, FALLBACK, {"mir": "compute", "gdumb": "compute", "dgr-distil": "compute"}),
    ({"place": "edge", "compute": 5}, FALLBACK, {"mir": None, "gdumb": "compute"}),
    ({"privacy": "statistics"}, "ranpac-warm", {FALLBACK: "privacy", "ogd": "privacy"}),
    ({"privacy": "nothing"}, "growing-lwf", {"dgr": "privacy", "gpm": "privacy", "lwf": None}),
    ({"privacy": "nothing", "storage": "2MB", **SIZES}, "growing-lwf", {"ewc": "storage"}),
    ({"storage": "50KB", **SIZES}, FALLBACK, {"lwf": "storage", "gdumb": "storage"}),
    ({"storage": "9MB", "privacy": "statistics"}, "ranpac-warm", {FALLBACK: "privacy"}),
    ({"storage": "8MB", "privacy": "statistics", **SIZES}, "growing-lwf", {
        "ranpac-warm": "storage"}),
    ({"pretrained": True}, "slda", {"lora": None, "ranpac": None, "task-lora": "task_known"}),
    ({"pretrained": True, "privacy": "nothing"}, "ncm", {"slda": "privacy", "l2": None}),
    ({"storage": "100KB", "parameters": 480_000}, FALLBACK, {
        "gdumb": "storage", "sleep": "storage", "dgr": "storage", "mergan": "storage",
        "icarl": "storage", "replay": None}),
    ({"storage": "20KB", "row_bytes": 3072, "classes": 10}, FALLBACK, {"replay": "storage"}),
    ({"pretrained": True, "place": "edge"}, "slda", {"lora": None, "ncm": None}),
    ({"pretrained": True, "compute": 1.1}, "slda", {"lora": "compute", "ncm": None}),
    ({"pretrained": True, "boundaries": False, "privacy": "statistics"}, "slda", {
        "o-lora": "boundaries", "replay": "privacy"}),
    ({"online": True}, FALLBACK, {"packnet": "task_known"}),
    ({"online": True, "task_known": True}, FALLBACK, {"packnet": "online", "hat": "online"}),
    ({"increment": "domain"}, FALLBACK, {"progressive": "task_known", "slda": "pretrained"}),
    ({"increment": "domain", "privacy": "nothing"}, "lwf", {FALLBACK: "privacy"}),
    ({"increment": "domain", "task_known": True}, FALLBACK, {"ranpac-warm": "task_known"}),
    ({"task_known": True}, FALLBACK, {"ranpac-warm": "task_known", "packnet": None}),
    ({"task_known": True, "privacy": "nothing"}, "progressive", {"gpm": "privacy", "hat": None}),
    ({"task_known": True, "privacy": "nothing", "compute": 1.5}, "growing-lwf", {
        "progressive": "compute", "supsup": None}),
    ({"increment": "task", "privacy": "nothing", "storage": "2MB", **SIZES}, "growing-lwf", {
        "progressive": "storage", "supsup": "storage", "packnet": "storage"}),
]  # fmt: skip


def test_no_advised_room_is_less_than_nothing():
    for storage in (1_920_000, 1_920_001, 1_920_100, "2MB", "100KB"):
        for sizes in ({}, {"row_bytes": 784}, {"row_bytes": 784, "classes": 10}):
            found = advise(Constraints(storage=storage, parameters=480_000, **sizes))
            for one in found.candidates:
                for value in one.settings.values():
                    assert value > 0 if isinstance(value, int) else bytes_of(value) > 0


def ruled_out(found: advice.Advice) -> dict[str, str]:
    return {one.method: one.constraint for one in found.ruled_out}


@pytest.mark.parametrize(("asked", "first", "out"), CASES, ids=lambda part: str(part)[:60])
def test_constraints_and_what_comes_of_them(asked: dict[str, Any], first: str, out: dict[str, str]):
    found = advise(Constraints(**asked))
    assert found.first.method == first
    against = ruled_out(found)
    assert {name: against.get(name) for name in out} == out
    methods = [one.method for one in found.candidates]
    assert {*methods, *against} == {
        name for name, recipe in RECIPES.items() if recipe.bound is None and name != "fine-tune"
    }
    assert len(methods) == len(set(methods))


constraints = st.fixed_dictionaries(
    {
        "tasks": st.none() | st.integers(1, 50),
        "storage": st.none() | st.sampled_from([1000, 20_000, "100KB", "2MB", "1GB"]),
        "privacy": st.sampled_from([None, *LEVELS]),
        "compute": st.none() | st.floats(1, 50),
        "boundaries": st.just(True),
        "task_known": st.sampled_from([None, True]),
        "place": st.sampled_from(["server", "edge"]),
        "increment": st.sampled_from([None, "domain"]),
        "online": st.booleans(),
        "pretrained": st.booleans(),
        "row_bytes": st.sampled_from([None, 64]),
        "classes": st.sampled_from([None, 10]),
        "parameters": st.sampled_from([None, 18_000]),
    }
)


def possible(asked: dict[str, Any]) -> set[str]:
    try:
        return {one.method for one in advise(Constraints(**asked)).candidates}
    except NothingFits:
        return set()


@given(constraints, st.sampled_from([(1000, 20_000), (20_000, "100KB"), ("2MB", None)]))
@settings(max_examples=40, deadline=None)
def test_more_storage_never_rules_out_more(asked: dict[str, Any], rooms: tuple[Any, Any]):
    less, more = ({**asked, "storage": room} for room in rooms)
    assert possible(less) <= possible(more)


@given(constraints)
@settings(max_examples=40, deadline=None)
def test_no_storage_leaves_no_more_than_some(asked: dict[str, Any]):
    nothing = {**asked, "storage": 0, "privacy": "nothing"}
    assert possible(nothing) <= possible({**nothing, "storage": 1000})


@given(constraints)
@settings(max_examples=40, deadline=None)
def test_stricter_privacy_never_adds_a_method(asked: dict[str, Any]):
    found = [possible({**asked, "privacy": privacy}) for privacy in LEVELS]
    assert found[0] >= found[1] >= found[2]


@given(constraints, st.floats(1, 10), st.floats(0, 10))
@settings(max_examples=40, deadline=None)
def test_more_compute_never_rules_out_more(asked: dict[str, Any], compute: float, more: float):
    less = possible({**asked, "compute": compute})
    assert less <= possible({**asked, "compute": compute + more})


@given(constraints, st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_every_advised_configuration_is_built_and_learns(asked: dict[str, Any], draw: int):
    asked = {**asked, "pretrained": False}
    try:
        found = advise(Constraints(**asked))
    except NothingFits:
        return
    one = random.Random(draw).choice(found.candidates)
    kind = INCREMENTS[found.constraints.increment or "class"]
    own = {f"{one.method}.{key}": value for key, value in one.settings.items()}
    told = "task ids" in RECIPES[one.method].needs
    small = {"limit": 8, "width": 10, **(INCREMENTS["task"] if told else kind), **own}
    config = {**resolve("digits", one.method, small), "seed": 0, "device": "cpu"}
    stream = stream_of(config)
    learner = learner_of(config, stream)
    task = next(iter(stream))
    learner.begin_task(task)
    for _, batch in zip(range(2), task, strict=False):
        assert torch.isfinite(learner.observe(batch))


ADVISED = [
    name
    for name, recipe in RECIPES.items()
    if recipe.bound is None
    and not any(name in one.methods and not one.when for one in read_rules().exclusions)
]


def model(told: bool) -> nn.Module:
    backbone, front = MLP(64, (20, 20)), Pixels(scale=16)
    if told:
        return TaskClassifier(backbone, MultiHead(20), front)
    return Classifier(backbone, nn.Linear(20, 4), front)


def parts() -> dict[str, Any]:
    """A part of somebody's model that gives features, in no class of this library."""
    layers = (Pixels(scale=16), nn.Flatten(), nn.Linear(64, 20), nn.ReLU())
    return {"backbone": nn.Sequential(*layers), "features": 20}


@pytest.mark.parametrize("method", [n for n, r in RECIPES.items() if r.family == "analytic"])
def test_the_lines_of_a_computed_head_take_any_backbone(method: str):
    names = parts()
    exec(python(method, {}), names)
    learner = names["learner"]
    x = torch.randint(8, (40, 1, 8, 8), dtype=torch.uint8)
    y = torch.arange(40) % 4
    for task in range(2):  # the second brings the classes 2 and 3
        own = y // 2 == task
        learner.begin_task(TaskSpec(task, classes=(2 * task, 2 * task + 1)))
        learner.observe(batch := Batch.of(x[own], y[own], task))
        learner.end_task([batch])
    assert learner.predict(x).shape == (40, 4)
    assert learner.model.head.counts.tolist() == [10] * 4
    if method != "ranpac-warm":
        assert not any(p.requires_grad for p in names["backbone"].parameters())


@pytest.mark.parametrize("method", ["progressive", "hat"])
def test_it_is_said_that_the_model_must_be_a_sequence(method: str):
    found = {one.method: one for one in advise(Constraints(task_known=True)).candidates}
    assert any("the model must be a sequence of layers" in text for text in found[method].doubts)


@pytest.mark.parametrize(("method", "size"), [("experts", "20.11 MB"), ("progressive", "10.84 MB")])
def test_it_is_said_how_a_network_grows(method: str, size: str):
    found = {one.method: one for one in advise(Constraints(task_known=True)).candidates}
    assert any(size in text and "what is measured as kept" in text for text in found[method].doubts)


@pytest.mark.parametrize("method", ADVISED)
def test_the_lines_of_python_run(method: str):
    told = "task ids" in RECIPES[method].needs
    names: dict[str, Any] = {"model": model(told), **parts()}
    exec(python(method, {}), names)
    learner = names["learner"]
    assert isinstance(learner, Learner)
    learner.begin_task(TaskSpec(0, classes=(0, 1)))
    for _ in range(2):
        x = torch.randint(16, (8, 1, 8, 8), dtype=torch.uint8)
        learner.observe(Batch.of(x, torch.randint(2, (8,)), 0, key=torch.arange(8)))


@pytest.mark.parametrize("method", ADVISED)
def test_the_command_is_understood_and_resolved(method: str, monkeypatch: pytest.MonkeyPatch):
    from lifelong.commands import arguments, bench

    given: dict[str, Any] = {}
    monkeypatch.setattr(bench, "_run", lambda options: given.update(vars(options)) or 0)
    kind = INCREMENTS["task" if "task ids" in RECIPES[method].needs else "class"]
    assert main(command(method, {}, kind, "digits").split()[1:]) == 0
    assert given["strategy"] == [method]
    resolve("digits", method, dict(arguments.setting(text) for text in given["set"]))


def test_values_of_settings_are_written_as_they_are_read():
    given = {"features": ["a", "b c"], "augment": False, "limit": None, "label": "move"}
    words = shlex.split(command("si", {}, given, "t.csv"))
    assert dict(setting(word) for word in words[words.index("--set") + 1 :]) == given


def test_reasons_name_figure_suite_and_section():
    found = advise(Constraints())
    told = found.first.reasons[0]
    assert "% on Fashion-MNIST in one pass" in told
    assert "docs/results.md, Beside Avalanche" in told
    assert all(one.reasons or one.doubts for one in found.candidates)


@pytest.mark.parametrize("wrong", ["low", None, {"storage": "1MB"}])
def test_what_is_no_constraints_is_refused(wrong: Any):
    with pytest.raises(ValueError, match=r"advise was given .*; give constraints .*Constraints\("):
        advise(wrong)


def test_nothing_left_says_what_to_relax_and_what_that_buys():
    with pytest.raises(NothingFits) as caught:
        advise(Constraints(storage=0))
    said = str(caught.value)
    assert "with any storage: " in said
    assert "% on Fashion-MNIST" in said
    with pytest.raises(NothingFits, match="with rows that may be kept"):
        advise(Constraints(boundaries=False, privacy="statistics"))


@pytest.mark.parametrize(
    "sizes",
    [{"row_bytes": 150_528, "classes": 1000, "storage": "1KB"}, {"storage": "2KB", **SIZES}],
)
def test_what_is_not_known_to_fit_is_no_advice(sizes: dict[str, Any]):
    with pytest.raises(NothingFits) as caught:
        advise(Constraints(privacy="rows", **sizes))
    known, unknown = str(caught.value).rsplit("\n", 1)
    assert "with any storage: " in known
    assert unknown.startswith("whether these fit is not known: ")
    assert "gpm (bases)" in unknown
    assert "ranpac" not in unknown


def test_what_is_not_known_to_fit_comes_last():
    found = advise(Constraints(privacy="nothing", storage="2MB", parameters=480_000, tasks=5))
    methods = [one.method for one in found.candidates]
    assert methods[0] == "growing-lwf"
    warm = advise(Constraints(privacy="statistics", storage="9MB"))
    assert warm.because.endswith("what is not known to fit into the storage comes last")
    assert all("whether it fits is not known" in one.doubts[0] for one in warm.candidates[1:])


def test_where_one_that_gives_way_does_not_help_two_are_named():
    with pytest.raises(NothingFits) as caught:
        advise(Constraints(storage=0, compute=1.0))
    head, *lines = str(caught.value).splitlines()
    assert head == "no method keeps to all constraints; if two give way:"
    assert lines[0].startswith("  with any storage and more compute: Default, ")
    assert all(line.count(" and ") >= 1 for line in lines)


def candidate(
    method: str, mean: float | None, half: float | None = None, **facts: Any
) -> Candidate:
    accuracy = None if mean is None else Interval(mean, None, half, 3)
    own = {"cost": 1.0, "least": 0, **facts}
    return Candidate(method, {}, accuracy, own["cost"], own["least"], (), ())


def test_ties_within_the_interval_go_to_the_cheaper():
    dear = candidate("gem", 90.0, 2.0, cost=4.0, least=10)
    slow = candidate("mir", 88.5, 5.0, cost=3.0, least=5)
    quick = candidate("replay", 88.1, 0.1, cost=1.5, least=20)
    worse = candidate("er-ace", 87.9, 9.0, cost=1.1, least=1)
    unknown = candidate("sleep", None, cost=1.0)
    given = [unknown, worse, quick, slow, dear]

    ranked, because = rank(given, "server")
    assert [one.method for one in ranked] == ["replay", "mir", "gem", "er-ace", "sleep"]
    assert because == "3 are even, within the interval of GEM; of these it takes the least time"

    ranked, because = rank(given, "edge")
    assert [one.method for one in ranked] == ["mir", "gem", "replay", "er-ace", "sleep"]
    assert because.endswith("it keeps the fewest bytes")

    assert rank([worse, candidate("gem", 99.0, 2.0)], "edge")[1].startswith("it is the most")
    assert rank([unknown], "server")[1].startswith("none of these was compared")


def test_it_is_said_where_the_interval_of_the_first_overlaps_others():
    best = candidate("eeil", 94.7, 3.1)
    near, wide = candidate("der++", 91.5, 1.3), candidate("bic", 90.8, 5.9)
    apart, bare = candidate("er-ace", 88.0, 1.0), candidate("mir", 91.0)
    ranked, because = rank([apart, wide, best, bare, near], "server")
    assert [one.method for one in ranked] == ["eeil", "der++", "mir", "bic", "er-ace"]
    assert because == (
        "it is the most accurate: no other mean lies within its interval, which overlaps those of "
        "DER++, BiC, so do not rank them on these figures alone"
    )
    assert "which overlaps that of DER++, so" in rank([best, near, apart], "edge")[1]
    assert rank([best, apart, bare], "edge")[1] == (
        "it is the most accurate, and no other interval overlaps its own"
    )


@pytest.mark.parametrize(
    ("increment", "texts", "first"),
    [
        ("class", ["99.9 ± 0.1"] * 7, "replay"),
        ("class", ["99.9 ± 50", *["99.9"] * 6], FALLBACK),  # not beyond its interval in one
        ("class", [*["99.9"] * 3, "95.5 ± 0.1", *["99.9"] * 3], FALLBACK),  # nor the default's
        ("class", [*["99.9"] * 5, "87.2 ± 0.1", "99.9"], FALLBACK),
        ("class", ["99.9", *[None] * 6], FALLBACK),  # one in which another stands in for it
        ("class", ["99.9", None, "99.9", *[None] * 4], "replay"),
        ("class", [*[None] * 3, "99.9", *[None] * 3], FALLBACK),  # it has none in the nearest
        ("domain", ["99.9 ± 0.1"], FALLBACK),
    ],
)
def test_what_the_default_gives_way_to(
    increment: Any, texts: list[str | None], first: str, monkeypatch: pytest.MonkeyPatch
):
    rules, c = read_rules(), Constraints(increment=increment).settled()
    shared = [one for one in rules.comparisons(c) if rules.stand_in in one.accuracy]
    assert len(shared) == len(texts)  # of the seven where classes are added two are one job

    def changed(one: Figures) -> Figures:
        if not fits(one.when, c):
            return one
        own = {name: text for name, text in one.accuracy.items() if name != "replay"}
        text = texts[shared.index(one)] if one in shared else None
        return replace(one, accuracy=own if text is None else {**own, "replay": text})

    new = replace(rules, figures=tuple(changed(one) for one in rules.figures))
    monkeypatch.setattr(advice, "read_rules", lambda: new)
    assert advise(Constraints(increment=increment, privacy="rows")).first.method == first


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "of 6 comparisons, no other was in two and better"),
        ({"increment": "domain"}, "there is one comparison, with DER++ in its place"),
        ({"task_known": True}, "there is one comparison, with DER++ in its place"),
        ({"pretrained": True, "increment": "domain"}, "it was not compared with these"),
        ({"pretrained": True, "storage": "1MB", "compute": None}, None),
    ],
)
def test_in_doubt_it_is_said_how_many_comparisons_there_were(
    asked: dict[str, Any], said: str | None
):
    because = advise(Constraints(**asked)).because
    assert because.startswith("in doubt the default: ") == (said is not None)
    assert (said or "") in because


def test_figures_of_a_stand_in_are_said_to_be_its():
    found = advise(Constraints()).first
    assert (found.method, found.accuracy_of, found.cost_of) == (FALLBACK, "der++", "der++")
    cited = [text for text in (*found.reasons, *found.doubts) if "(" in text]
    own = [text for text in cited if "The default against tuned methods" in text]
    assert [text[:14] for text in own] == ["94.87 ± 1.32 %", "77.47 ± 1.61 %", "86.30 ± 0.96 %"]
    assert all(("with DER++" in text) != (text in own) for text in cited)
    (out,) = [one for one in advise(Constraints(compute=2)).ruled_out if one.method == FALLBACK]
    assert "x2.44 the time of fine-tuning with DER++" in out.because
    features = advise(Constraints(pretrained=True)).candidates
    (own_there,) = [one for one in features if one.method == FALLBACK]
    assert (own_there.accuracy_of, own_there.cost_of) == (FALLBACK, "der++")
    assert all(one.accuracy_of in (None, one.method) for one in features if one != own_there)


def test_rules_without_a_condition_hold_for_all():
    assert fits({}, Constraints())


def test_more_tasks_than_experts_rule_them_out():
    assert "experts" in possible({"tasks": 10})
    assert ruled_out(advise(Constraints(tasks=11)))["experts"] == "tasks"
