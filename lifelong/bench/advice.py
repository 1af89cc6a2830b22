"""Which strategy for which constraints: those that keep to them, ranked by what was measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lifelong.bench.constraints import Constraints, Place
from lifelong.bench.recipes import RECIPES
from lifelong.bench.rules import Figures, fits, read_interval, read_rules
from lifelong.bench.statistics import format_bytes, label
from lifelong.bench.stored import LEVELS, least, level, settings_for
from lifelong.core.errors import LifelongError
from lifelong.metrics.confidence import Interval

FALLBACK = "default" if "default" in RECIPES else "der++"
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
    """

    method: str
    settings: Mapping[str, Any]
    accuracy: Interval | None
    cost: float | None
    least: int | None
    reasons: tuple[str, ...]
    doubts: tuple[str, ...]


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

    Raises:
        NothingFits: none does; the message says which constraint to relax, and for what.

    Example:
        >>> from lifelong.bench import Constraints, advise
        >>> found = advise(Constraints(privacy="nothing", increment="domain"))
        >>> [out.constraint for out in found.ruled_out if out.method == "replay"]
        ['privacy']
    """
    c = constraints.settled()
    against = {name: _against(name, c) for name in _methods()}
    candidates = [_candidate(name, c) for name, out in against.items() if out is None]
    if not candidates:
        raise NothingFits(_way_out(constraints))
    ranked, because = _ranked(candidates, c)
    ruled_out = tuple(out for out in against.values() if out is not None)
    return Advice(c, tuple(ranked), ruled_out, tuple(read_rules().nearest(c)), because)


def rank(
    candidates: Sequence[Candidate], place: Place, *, default: str | None = None
) -> tuple[list[Candidate], str]:
    """Put the most accurate first, or the default if there is one, and say why.

    Methods within the interval of the most accurate are even with it: of those the cheaper comes
    first, in time on a server, in bytes on the edge. Methods of which no accuracy is known come
    last.

    Args:
        candidates: the methods.
        place: where they are to run.
        default: the name of the one that comes first in doubt, where there is doubt.
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
    if default is not None:
        ranked.sort(key=lambda one: one.method != default)  # keeps the order of the others
        return ranked, "in doubt the default: in two comparisons no other was clearly better"
    if len(even) == 1:
        by = ", by more than its interval" if best.half else "; one run has no interval"
        return ranked, f"it is the most accurate{by}"
    told = f"{len(even)} are even, within the interval of {label(leader.method)}"
    return ranked, f"{told}; of these {cheapest}"


def _ranked(candidates: Sequence[Candidate], c: Constraints) -> tuple[list[Candidate], str]:
    return rank(candidates, c.place, default=FALLBACK if in_doubt(candidates, c) else None)


def in_doubt(candidates: Sequence[Candidate], c: Constraints) -> bool:
    """Say whether the default learner is to be taken.

    It is, where it keeps to the constraints and was compared with the others, unless one of them
    was better by more than its own interval in two comparisons of this kind of increments, or
    in more, and in none worse.
    """
    if not any(one.method == FALLBACK and one.accuracy for one in candidates):
        return False
    comparisons, own = read_rules().comparisons(c), _judged_as(FALLBACK)
    for one in candidates:
        leads: dict[str, float] = {}  # by suite: one job may stand in two places
        for figures in comparisons:
            if {one.method, own} <= figures.accuracy.keys():
                theirs = read_interval(figures.accuracy[one.method])
                ours = read_interval(figures.accuracy[own])
                leads.setdefault(figures.suite, theirs.mean - (theirs.half or 0.0) - ours.mean)
        if len(leads) > 1 and min(leads.values()) > 0:
            return False
    return True


def _methods() -> Iterator[str]:
    return (n for n, recipe in RECIPES.items() if recipe.bound is None and n != "fine-tune")


def _against(method: str, c: Constraints) -> RuledOut | None:
    """Find the first constraint that a method does not keep to."""
    recipe, rules, size = RECIPES[method], read_rules(), least(method, c)
    cost = rules.cost(_judged_as(method))
    assert c.privacy is not None
    if LEVELS.index(level(method)) < LEVELS.index(c.privacy):
        return RuledOut(method, "privacy", f"it stores {recipe.stores}")
    if c.storage == 0 and recipe.stores != "nothing":
        return RuledOut(method, "storage", f"it stores {recipe.stores}")
    if isinstance(c.storage, int) and size is not None and size > c.storage:
        told = f"it stores {recipe.stores}: {format_bytes(size)} at least"
        return RuledOut(method, "storage", told)
    if "boundaries" in recipe.needs and not c.boundaries:
        return RuledOut(method, "boundaries", "it must be told when a task ends")
    if "task ids" in recipe.needs and not c.task_known:
        return RuledOut(method, "task_known", "it must be told the task of each row")
    for one in rules.exclusions:
        if method in one.methods and one.holds(c):
            return RuledOut(method, one.constraint, one.because)
    if c.compute is not None and (cost is None or cost[0] > c.compute):
        told = "its cost was not measured" if cost is None else f"it costs x{cost[0]:.2f}"
        return RuledOut(method, "compute", told if cost is None else f"{told} ({cost[1].place})")
    return None


def _candidate(method: str, c: Constraints) -> Candidate:
    """Say what speaks for a method, and what against it."""
    rules, judged = read_rules(), _judged_as(method)
    near, cost = rules.nearest(c), rules.cost(judged)
    found = next((one.accuracy[judged] for one in near if judged in one.accuracy), None)
    settings, unsure = settings_for(method, c)
    reasons, doubts = [], [] if unsure is None else [unsure]
    whose = "" if judged == method else f" with {label(judged)}"
    for one in [*near, *(other for other in rules.comparisons(c) if other not in near)]:
        if judged in one.accuracy:
            bounds = [n for n in ("fine-tune", "joint") if n in one.accuracy]
            beside = [*(f"{label(n)} {one.accuracy[n]}" for n in bounds), one.place]
            reasons.append(f"{one.accuracy[judged]} % on {one.suite}{whose} ({'; '.join(beside)})")
    if found is None:
        doubts.append(f"not among those compared on {near[0].suite}")
    if cost is not None:
        told = f"x{cost[0]:.2f} the time of fine-tuning ({cost[1].place})"
        (reasons if cost[0] < CHEAP else doubts).append(told)
    if level(method) == "rows":
        doubts.append("keeps what past rows can be had from")
    else:
        reasons.append("keeps no past rows")
    if "boundaries" in RECIPES[method].needs:
        doubts.append("must be told when a task ends")
    for note in rules.notes:
        if method in note.methods and fits(note.when, c):
            (reasons if note.good else doubts).append(note.told)
    accuracy = None if found is None else read_interval(found)
    size, times = least(method, c), None if cost is None else cost[0]
    return Candidate(method, settings, accuracy, times, size, tuple(reasons), tuple(doubts))


def _judged_as(method: str) -> str:
    """Name the method whose figures count: the default learner's stand-in until it has its own."""
    rules = read_rules()
    own = any(method in one.accuracy for one in rules.figures)
    return rules.stand_in if method == FALLBACK and not own else method


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


def _way_out(constraints: Constraints) -> str:
    """Say what could be had if one constraint, or two that belong together, gave way."""
    bought: dict[str, str] = {}
    for change in LOOSE:
        try:
            c = replace(constraints, **change).settled()
        except ValueError:  # it would contradict another one
            continue
        fitting = [_candidate(name, c) for name in _methods() if _against(name, c) is None]
        given_up = " and ".join(n for n, v in change.items() if getattr(constraints, n) != v)
        if fitting:
            first = _ranked(fitting, c)[0][0]
            bought.setdefault(first.method, f"  without {given_up}: {_said(first)}")
    if not bought:
        return "no method keeps to all constraints, nor if one of them gives way; relax several"
    return "\n".join(["no method keeps to all constraints; if one gives way:", *bought.values()])


def _said(first: Candidate) -> str:
    return ", ".join([label(first.method), *first.reasons[: first.accuracy is not None]])
