"""Which strategy for which constraints: those that keep to them, ranked by what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from lifelong.bench.constraints import Constraints, Place
from lifelong.bench.recipes import RECIPES
from lifelong.bench.rules import Figures, fits, read_interval, read_rules
from lifelong.bench.statistics import format_bytes, label
from lifelong.bench.stored import LEVELS, is_known, least, level, may_not_fit, settings_for
from lifelong.core.errors import LifelongError
from lifelong.metrics.confidence import Interval

FALLBACK = "default"
"""The method that is taken in doubt."""
CHEAP = 2.0
"""Times the cost of fine-tuning from which on a cost speaks against a method."""


class NothingFits(LifelongError):
    """No method keeps to all constraints; the message says which to relax, and for what."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A method that keeps to the constraints.

    Attributes:
        method: its name.
        settings: those that the constraints ask for.
        accuracy: in the nearest comparison, in percent; None if it was not in there.
        cost: times that of fine-tuning; None if it was not measured.
        least: the fewest bytes it keeps; None if that is not known.
        reasons: what speaks for it.
        doubts: what speaks against it.
        accuracy_of: the method whose accuracy it is: its own name, or that of its stand-in.
        cost_of: the same of its cost.
    """

    method: str
    settings: Mapping[str, Any]
    accuracy: Interval | None
    cost: float | None
    least: int | None
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]
    accuracy_of: str | None = None
    cost_of: str | None = None


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A method that does not keep to the constraints: to which of them, and why."""

    method: str
    constraint: str
    because: str


@dataclass(frozen=True, slots=True)
class Advice:
    """What to take.

    Attributes:
        constraints: what was asked for, with what follows from it.
        candidates: the methods that keep to them, best first.
        ruled_out: the others.
        basis: the comparison that ranks them, with the places where it stands.
        because: why the first is the first.
    """

    constraints: Constraints
    candidates: tuple[Candidate, ...]
    ruled_out: tuple[RuledOut, ...]
    basis: tuple[Figures, ...]
    because: str

    @property
    def first(self) -> Candidate:
        """The best one."""
        return self.candidates[0]


def advise(constraints: Constraints) -> Advice:
    """Rank the methods that keep to constraints, and say why the others do not.

    Where there is a limit on storage, those of which it is not known whether they keep to it come
    last, and they alone are not enough.

    Raises:
        NothingFits: none does; the message says which constraint to relax, and for what.
        ValueError: no `Constraints` are given.

    Example:
        >>> from lifelong.bench import Constraints, advise
        >>> found = advise(Constraints(privacy="nothing", increment="domain"))
        >>> [out.constraint for out in found.ruled_out if out.method == "replay"]
        ['privacy']
    """
    if not isinstance(constraints, Constraints):
        raise ValueError(
            f"advise was given {constraints!r}; give constraints by their names, such as "
            "advise(Constraints(storage='10MB', privacy='statistics'))"
        )
    c = constraints.settled()
    against = {name: _against(name, c) for name in _methods()}
    candidates = [_candidate(name, c) for name, out in against.items() if out is None]
    if all(may_not_fit(one.method, c) for one in candidates):
        raise NothingFits("\n".join([_way_out(constraints), *_unknown(candidates, constraints)]))
    ranked, because = _ranked(candidates, c)
    ruled_out = tuple(out for out in against.values() if out is not None)
    return Advice(c, tuple(ranked), ruled_out, tuple(read_rules().nearest(c)), because)


def rank(candidates: Sequence[Candidate], place: Place) -> tuple[list[Candidate], str]:
    """Put the most accurate first, and say why.

    Methods whose mean lies within the interval of the most accurate are even with it: of those
    the cheaper comes first, in time on a server, in bytes on the edge. Methods of which no
    accuracy is known come last. Each interval is of a method's own runs: none is paired by seed.
    Where the first is ahead and intervals overlap all the same, that is said.

    Args:
        candidates: the methods.
        place: where they are to run.
    """

    def price(one: Candidate) -> tuple[float, ...]:
        known = (one.least, one.cost) if place == "edge" else (one.cost, one.least)
        return tuple(float("inf") if value is None else value for value in known)

    measured = sorted(
        ((one.accuracy, one) for one in candidates if one.accuracy), key=lambda pair: -pair[0].mean
    )
    others = sorted((one for one in candidates if not one.accuracy), key=price)
    cheapest = "it keeps the fewest bytes" if place == "edge" else "it takes the least time"
    if not measured:
        return others, f"none of these was compared with others; {cheapest}"
    best, leader = measured[0]
    bar = best.mean - (best.half or 0.0)
    even = sorted((one for accuracy, one in measured if accuracy.mean >= bar), key=price)
    ranked = [*even, *(one for accuracy, one in measured if accuracy.mean < bar), *others]
    if len(even) == 1:
        rivals = [one for accuracy, one in measured[1:] if best.overlaps(accuracy)]
        return ranked, f"it is the most accurate{_by(best, rivals)}"
    told = f"{len(even)} are even, within the interval of {label(leader.method)}"
    return ranked, f"{told}; of these {cheapest}"


def _by(best: Interval, rivals: Sequence[Candidate]) -> str:
    """Say how far the figures tell the most accurate from others."""
    if best.half is None:
        return "; one run has no interval"
    if not rivals:
        return ", and no other interval overlaps its own"
    their = f"{'those' if len(rivals) > 1 else 'that'} of "
    their += ", ".join(label(one.method) for one in rivals)
    return (
        f": no other mean lies within its interval, which overlaps {their}, so do not rank them on "
        "these figures alone"
    )


def _ranked(candidates: Sequence[Candidate], c: Constraints) -> tuple[list[Candidate], str]:
    unsure = [one for one in candidates if may_not_fit(one.method, c)]
    ranked, because = rank([one for one in candidates if one not in unsure], c.place)
    doubt = in_doubt(candidates, c)
    if doubt is not None:
        ranked.sort(key=lambda one: one.method != FALLBACK)  # keeps the order of the others
    elif unsure:
        because += "; what is not known to fit into the storage comes last"
    return [*ranked, *rank(unsure, c.place)[0]], doubt or because


def in_doubt(candidates: Sequence[Candidate], c: Constraints) -> str | None:
    """Say why the default learner is to be taken; None if it is not.

    It is, where it keeps to the constraints and has an accuracy, unless another one that has was
    better, by more than both intervals, in every comparison of this kind of increments that has
    both. Those must be two at least, or one in which the default itself was measured.
    """
    if not any(one.method == FALLBACK and one.accuracy for one in candidates):
        return None
    others = {one.method for one in candidates if one.accuracy} - {FALLBACK}
    suites: dict[str, str] = {}  # whose figures are the default's there
    leads: dict[str, dict[str, float]] = {name: {} for name in others}  # by suite
    for suite, accuracy in _by_suite(c).items():
        ours = _accuracy(FALLBACK, accuracy)
        if ours is None:
            continue
        for name in others & accuracy.keys():
            suites[suite] = ours[1]
            leads[name][suite] = _lead(accuracy[name], ours[0])
    for own in leads.values():
        enough = 1 if FALLBACK in {suites[suite] for suite in own} else 2
        if len(own) >= enough and min(own.values()) > 0:
            return None
    return f"in doubt the default: {_doubt(suites)}"


def _by_suite(c: Constraints) -> Mapping[str, Mapping[str, str]]:
    """Put the accuracies of each job together, which may stand in two places."""
    found: dict[str, dict[str, str]] = {}
    for one in read_rules().comparisons(c):
        found[one.suite] = {**one.accuracy, **found.get(one.suite, {})}  # the first counts
    return found


def _doubt(suites: Mapping[str, str]) -> str:
    if not suites:
        return "it was not compared with these on such tasks"
    if len(suites) > 1:
        return (
            f"of {len(suites)} comparisons, no other was in two and better, beyond both "
            "intervals, in all that it was in"
        )
    judged = next(iter(suites.values()))
    if judged == FALLBACK:
        return "in the one comparison, no other was better beyond both intervals"
    return f"there is one comparison,{_with(FALLBACK, judged)} in its place; one decides nothing"


def _lead(theirs: str, ours: str) -> float:
    """Reckon by how much a method is better, beyond both intervals."""
    other, own = read_interval(theirs), read_interval(ours)
    return other.mean - (other.half or 0.0) - own.mean - (own.half or 0.0)


def _methods() -> Iterator[str]:
    return (n for n, recipe in RECIPES.items() if recipe.bound is None and n != "fine-tune")


def _against(method: str, c: Constraints) -> RuledOut | None:
    """Find the first constraint that a method does not keep to."""
    recipe, rules, size = RECIPES[method], read_rules(), least(method, c)
    cost = _cost(method)
    assert c.privacy is not None
    if LEVELS.index(level(method)) < LEVELS.index(c.privacy):
        return RuledOut(method, "privacy", f"it stores {recipe.stores}")
    if c.storage == 0 and recipe.stores != "nothing":
        return RuledOut(method, "storage", f"it stores {recipe.stores}")
    if isinstance(c.storage, int) and size > c.storage:
        told = f"it stores {recipe.stores}: {format_bytes(size)} at least"
        return RuledOut(method, "storage", told)
    if "boundaries" in recipe.needs and not c.boundaries:
        return RuledOut(method, "boundaries", "it must be told when a task ends")
    if "task ids" in recipe.needs and not c.task_known:
        return RuledOut(method, "task_known", "it must be told the task of each row")
    for one in rules.exclusions:
        if method in one.methods and one.holds(c):
            return RuledOut(method, one.constraint, one.because)
    if c.compute is not None and (cost is None or cost.times > c.compute):
        told = "its cost was not measured" if cost is None else f"it costs {cost.told}"
        return RuledOut(method, "compute", told)
    return None


def _candidate(method: str, c: Constraints) -> Candidate:
    """Say what speaks for a method, and what against it."""
    rules, cost = read_rules(), _cost(method)
    near = rules.nearest(c)
    found = next((own for one in near if (own := _accuracy(method, one.accuracy))), None)
    settings, unsure = settings_for(method, c)
    reasons, doubts = [], [] if unsure is None else [unsure]
    for one in [*near, *(other for other in rules.comparisons(c) if other not in near)]:
        own = _accuracy(method, one.accuracy)
        if own is not None:
            bounds = [n for n in ("fine-tune", "joint") if n in one.accuracy]
            beside = [*(f"{label(n)} {one.accuracy[n]}" for n in bounds), one.place]
            reasons.append(
                f"{own[0]} % on {one.suite}{_with(method, own[1])} ({'; '.join(beside)})"
            )
    if found is None:
        doubts.append(f"not among those compared on {near[0].suite}")
    if cost is not None:
        (reasons if cost.times < CHEAP else doubts).append(cost.told)
    good, bad = facts(method, c)
    return Candidate(
        method,
        settings,
        None if found is None else read_interval(found[0]),
        None if cost is None else cost.times,
        least(method, c) if is_known(method, c) else None,
        (*reasons, *good),
        (*doubts, *bad),
        accuracy_of=None if found is None else found[1],
        cost_of=None if cost is None else cost.of,
    )


def facts(method: str, c: Constraints) -> tuple[list[str], list[str]]:
    """Say what speaks for a method and against it whatever it is measured on.

    Example:
        >>> facts("lwf", Constraints())
        (['keeps no past rows'], ['must be told when a task ends'])
    """
    reasons, doubts = [], []
    if level(method) == "rows":
        doubts.append("keeps what past rows can be had from")
    else:
        reasons.append("keeps no past rows")
    if "boundaries" in RECIPES[method].needs:
        doubts.append("must be told when a task ends")
    for note in read_rules().notes:
        if method in note.methods and fits(note.when, c):
            (reasons if note.good else doubts).append(note.told)
    return reasons, doubts


def _accuracy(method: str, accuracy: Mapping[str, str]) -> tuple[str, str] | None:
    """Find a method's accuracy and whose it is: the default's stand-in's where it has none."""
    for name in _judged_as(method):
        if name in accuracy:
            return accuracy[name], name
    return None


@dataclass(frozen=True, slots=True)
class _Cost:
    times: float
    of: str
    told: str


def _cost(method: str) -> _Cost | None:
    for name in _judged_as(method):
        found = read_rules().cost(name)
        if found is not None:
            times, figures = found
            told = f"x{times:.2f} the time of fine-tuning{_with(method, name)} ({figures.place})"
            return _Cost(times, name, told)
    return None


def _judged_as(method: str) -> tuple[str, ...]:
    """Name the methods whose figures count, the first that has any: its own come first."""
    return (method, read_rules().stand_in) if method == FALLBACK else (method,)


def _with(method: str, judged: str) -> str:
    return "" if judged == method else f" with {label(judged)}"


LOOSE: Sequence[Mapping[str, Any]] = (
    {"storage": None},
    {"privacy": None},
    {"storage": None, "privacy": None},
    {"compute": None, "place": "server"},
    {"boundaries": True},
    {"pretrained": True},
    {"online": False},
    {"task_known": None, "increment": "task"},
)
"""What may be relaxed where nothing fits, each to where it binds least."""
RELAXED = {
    "storage": "any storage",
    "privacy": "rows that may be kept",
    "compute": "more compute",
    "place": "a server",
    "boundaries": "ends of tasks that are told",
    "pretrained": "a pretrained backbone",
    "online": "several passes",
    "task_known": "the task told at test time",
    "increment": "tasks that are told apart",
}
"""Each of them, relaxed, in words."""


def _way_out(constraints: Constraints) -> str:
    """Say what could be had if one constraint, or two, gave way."""
    pairs = [{**one, **other} for one, other in combinations(LOOSE, 2)]
    for told, changes in (("one gives", LOOSE), ("two give", pairs)):
        bought = _bought(constraints, changes)
        if bought:
            head = f"no method keeps to all constraints; if {told} way:"
            return "\n".join([head, *bought])
    return "no method keeps to all constraints, nor if two of them give way; relax several"


def _bought(constraints: Constraints, changes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say what could be had with each of these changes, each method once, with at most two."""
    bought: dict[str, str] = {}
    for change in changes:
        try:
            c = replace(constraints, **change).settled()
        except ValueError:  # it would contradict another one
            continue
        given_up = [n for n, v in change.items() if getattr(constraints, n) != v]
        kept = [name for name in _methods() if _against(name, c) is None]
        fitting = [_candidate(name, c) for name in kept if not may_not_fit(name, c)]
        if fitting and len(given_up) <= 2:
            first = _ranked(fitting, c)[0][0]
            bought.setdefault(
                first.method,
                f"  with {' and '.join(map(RELAXED.__getitem__, given_up))}: {_said(first)}",
            )
    return list(bought.values())


def _unknown(candidates: Sequence[Candidate], c: Constraints) -> list[str]:
    """Name the methods of which it is not known whether they fit into the storage."""
    names = ", ".join(f"{one.method} ({RECIPES[one.method].stores})" for one in candidates)
    open_ones = [n for n in ("row_bytes", "classes", "parameters") if getattr(c, n) is None]
    way_out = f"; say {' and '.join(open_ones)}, if you can" if open_ones else ""
    return [f"whether these fit is not known: {names}{way_out}"] if candidates else []


def _said(first: Candidate) -> str:
    return ", ".join([label(first.method), *first.reasons[: first.accuracy is not None]])
