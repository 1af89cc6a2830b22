"""Whether a candidate may replace the champion: what was forgotten, and what was gained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, asdict, dataclass, replace
from typing import Any, Literal

from lifelong.serve.comparison import Comparison, Evidence, Judgement, Verdict
from lifelong.serve.sequential import PairedTest

State = Literal["holds", "fails", "open"]
_STANDARDS = ("proven", "observed")


@dataclass(frozen=True, slots=True)
class _Finding:
    name: str
    state: State
    reason: str
    numbers: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Gate:
    r"""Promote a candidate that is shown to gain and shown not to forget; refuse one that fails.

    Each condition is one paired test: the drop on each old task's anchors, on the recent window and
    on each slice in `slices` is at most `forgetting`; on shadow traffic the mean difference is
    above `gain`.
    It holds if the bound of error `alpha` says so, and fails if the opposite bound of error
    alpha/k says so, k the number of conditions. All have to hold for "promote", one that fails
    is enough for "refuse", and everything else is "undecided": collect more rows. Hence

    - a candidate that breaks any condition is promoted with probability alpha at most: it has to
      pass a test that it passes so rarely. This needs no correction for the number of tasks
      (intersection-union test, Berger 1982).
    - a candidate that breaks none is refused with probability alpha at most (Bonferroni).

    Slices that were not named can only refuse: one that is too small to show anything does not keep
    a good candidate waiting. Since nobody knows how many there will be, they share one condition's
    part of alpha, and slice number j in the evidence gets 1/(j (j + 1)) of it; these parts sum to
    one, so the second guarantee holds for any number of slices. It needs their order to stay:
    a slice that comes later is added at the end.

    Both hold however often evidence of the same candidate is judged as it grows. They take a task's
    anchors as a sample of that task. To show a drop below 0.02 takes about 270 anchors if no
    prediction changes, 680 if 1 % is lost and 1 % gained, and 1980 if 4 % and 4 % are.
    Where fewer are kept, `standard="observed"` lets a condition hold if the drop on the rows at
    hand is at most `forgetting`; the first guarantee is then the shadow traffic's alone.

    Args:
        forgetting: the largest drop allowed on anchors, recent window and slices.
        alpha: the probability of each of the two errors.
        require: "better" by `gain` on shadow traffic, or "not worse" by more than `margin`.
        gain: what the candidate has to gain, for "better".
        margin: what it may lose, for "not worse"; above 0.
        minimum: the fewest rows of recent window and of shadow traffic to promote on.
        minimum_group: the fewest rows of each task and named slice to promote on.
        slices: names of slices that have to be in the evidence, and to hold.
        slice_rows: the fewest rows on which a slice that was not named is judged.
        standard: "proven" or "observed", as above.
        patience: refuse if any condition is open after so many rows of shadow traffic, be it only
            for want of rows; None waits for ever.
        floor: the rate that a first version has to beat; see `first`.

    Raises:
        ValueError: a threshold is out of its range.

    Example:
        >>> evidence = Evidence(
        ...     anchors={0: Comparison(1000, champion=950, candidate=948, lost=5)},
        ...     recent=Comparison(2000, champion=1700, candidate=1790, lost=30),
        ...     shadow=PairedTest.counted(3000, worse=90, better=180),
        ... )
        >>> Gate().judge(evidence).verdict
        'promote'
        >>> bad = Evidence({0: Comparison(1000, 950, 700)}, evidence.recent, {}, evidence.shadow)
        >>> print(Gate().judge(bad).reasons[0].replace("; ", ";\n"))
        task 0: the champion has 0.9500 and the candidate 0.7000 on 1000 rows;
        the drop is within +0.1894 to +0.3030 and may be 0.0200
    """

    forgetting: float = 0.02
    _: KW_ONLY
    alpha: float = 0.05
    require: Literal["better", "not worse"] = "better"
    gain: float = 0.0
    margin: float = 0.01
    minimum: int = 200
    minimum_group: int = 30
    slices: Sequence[str] = ()
    slice_rows: int = 50
    standard: Literal["proven", "observed"] = "proven"
    patience: int | None = None
    floor: float | None = None

    def __post_init__(self) -> None:
        for name in ("forgetting", "gain", "margin"):
            if not 0.0 <= getattr(self, name) < 1.0:
                value = getattr(self, name)
                raise ValueError(f"{name} is {value!r}; it is a difference of rates, 0 to 1")
        if not 0.0 < self.alpha < 1.0:
            raise ValueError(f"alpha is {self.alpha!r}; it lies between 0 and 1, such as 0.05")
        for name, known in (("require", ("better", "not worse")), ("standard", _STANDARDS)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.require == "not worse" and self.margin == 0.0:
            raise ValueError("margin is 0; an equal candidate could never be shown: 0.01 can")
        patience = 1 if self.patience is None else self.patience
        if min(self.minimum, self.minimum_group, self.slice_rows, patience) < 1:
            raise ValueError(
                f"minimum is {self.minimum}, minimum_group {self.minimum_group}, slice_rows "
                f"{self.slice_rows} and patience {self.patience}; they are at least 1 row"
            )
        if self.floor is not None and not 0.0 <= self.floor < 1.0:
            raise ValueError(f"floor is {self.floor!r}; it is a rate from 0 to 1, such as 0.6")
        if isinstance(self.slices, str):
            raise ValueError(f"slices is {self.slices!r}; it is a list of names")

    def judge(self, evidence: Evidence) -> Judgement:
        """Return the verdict on this evidence; the same evidence gives the same verdict."""
        groups = [(f"task {name}", rows) for name, rows in evidence.anchors.items()]
        named = [(name, evidence.slices[name]) for name in self.slices if name in evidence.slices]
        groups += [(f"slice {name!r}", rows) for name, rows in named]
        missing = [name for name in self.slices if name not in evidence.slices]
        strict = self.alpha / (len(groups) + len(missing) + 3)
        findings = [self._kept(name, rows, self.minimum_group, strict) for name, rows in groups]
        findings += [_missing(f"slice {name!r}") for name in missing]
        found = {n: rows for n, rows in evidence.slices.items() if n not in self.slices}
        findings += self._found(found, strict)
        if evidence.recent is None:
            findings.append(_missing("recent window"))
        else:
            findings.append(self._kept("recent window", evidence.recent, self.minimum, strict))
        findings.append(self._gained(evidence.shadow, strict))
        waited = 0 if evidence.shadow is None else evidence.shadow.n
        if self.patience is not None and waited >= self.patience:
            findings = [_overdue(finding, self.patience) for finding in findings]
        return self._judgement(findings)

    def first(self, correct: int, rows: int) -> Judgement:
        """Judge a version that has no champion to beat: its rate has to be above the floor.

        Raises:
            ValueError: the gate has no floor, or there are no rows.

        >>> Gate(floor=0.6).first(correct=700, rows=1000).verdict
        'promote'
        """
        if self.floor is None:
            raise ValueError("the gate has no floor to judge a first version by: Gate(floor=0.6)")
        if not 0 <= correct <= rows or rows < 1:
            raise ValueError(f"{correct} correct of {rows} rows; there is at least 1 row")
        # Correct is +1 and wrong is -1, so that the bets have the whole range to use.
        test = PairedTest.counted(rows, worse=rows - correct, better=correct)
        low, high = (1 + test.lower(self.alpha)) / 2, (1 + test.upper(self.alpha)) / 2
        state = _state(low > self.floor, high < self.floor, rows < self.minimum)
        reason = (
            f"first version: {correct / rows:.4f} on {rows} rows, within {low:.4f} to {high:.4f}; "
            f"the floor is {self.floor:.4f}" + _too_few(rows, self.minimum)
        )
        numbers = {"rows": rows, "candidate": correct / rows, "low": low, "high": high}
        return self._judgement([_Finding("first version", state, reason, numbers)])

    def _kept(self, name: str, seen: Comparison, minimum: int, strict: float) -> _Finding:
        test = seen.test()
        low, high = -test.upper(strict), -test.lower(self.alpha)
        holds = (seen.drop if self.standard == "observed" else high) <= self.forgetting
        champion, candidate = seen.champion / seen.rows, seen.candidate / seen.rows
        reason = (
            f"{name}: the champion has {champion:.4f} and the candidate {candidate:.4f} on "
            f"{seen.rows} rows; the drop is within {low:+.4f} to {high:+.4f} and may be "
            f"{self.forgetting:.4f}" + _too_few(seen.rows, minimum)
        )
        state = _state(holds, low > self.forgetting, seen.rows < minimum)
        numbers: dict[str, Any] = {"rows": seen.rows, "champion": champion, "candidate": candidate}
        numbers |= {"drop": seen.drop, "low": low, "high": high, "lost": seen.lost}
        return _Finding(name, state, reason, numbers)

    def _found(self, slices: Mapping[str, Comparison], strict: float) -> list[_Finding]:
        """Judge slices that were not named: they fail or hold, and never keep anyone waiting."""
        findings = []
        for number, (name, rows) in enumerate(slices.items(), 1):
            if rows.rows < self.slice_rows:
                continue
            name = f"slice {name!r}"
            part = strict / (number * (number + 1))
            if rows.test().is_below(-self.forgetting, part):
                findings.append(replace(self._kept(name, rows, 1, part), state="fails"))
                continue
            numbers = {"rows": rows.rows, "drop": rows.drop}
            reason = f"{name}: on {rows.rows} rows nothing shows a drop above {self.forgetting:.4f}"
            findings.append(_Finding(name, "holds", reason, numbers))
        return findings

    def _gained(self, test: PairedTest | None, strict: float) -> _Finding:
        name = "shadow traffic"
        if test is None or test.n == 0:
            return _missing(name)
        needed = self.gain if self.require == "better" else -self.margin
        low, high = test.lower(self.alpha), test.upper(strict)
        state = _state(low > needed, high < needed, test.n < self.minimum)
        reason = (
            f"{name}: the candidate is ahead by {test.mean:+.4f} on {test.n} rows, within "
            f"{low:+.4f} to {high:+.4f}; it has to be above {needed:+.4f}"
        )
        numbers = {"rows": test.n, "mean": test.mean, "low": low, "high": high, "needed": needed}
        return _Finding(name, state, reason + _too_few(test.n, self.minimum), numbers)

    def _judgement(self, findings: list[_Finding]) -> Judgement:
        failed = [finding for finding in findings if finding.state == "fails"]
        open_ = [finding for finding in findings if finding.state == "open"]
        verdict: Verdict = "refuse" if failed else "undecided" if open_ else "promote"
        reasons = tuple(finding.reason for finding in failed or open_ or findings)
        thresholds = {**asdict(self), "slices": list(self.slices)}
        shown = [
            {"name": f.name, "state": f.state, "reason": f.reason, **f.numbers} for f in findings
        ]
        report = {"verdict": verdict, "reasons": list(reasons)}
        return Judgement(verdict, reasons, {**report, "gate": thresholds, "findings": shown})


def _state(holds: bool, fails: bool, few: bool) -> State:
    if fails:
        return "fails"
    return "holds" if holds and not few else "open"


def _too_few(rows: int, minimum: int) -> str:
    return f"; {minimum} rows are needed to promote" if rows < minimum else ""


def _overdue(finding: _Finding, patience: int) -> _Finding:
    """Fail what is still open: a candidate on trial keeps the next one waiting."""
    reason = f"{finding.reason}; not shown within {patience} rows of traffic"
    return replace(finding, state="fails", reason=reason) if finding.state == "open" else finding


def _missing(name: str) -> _Finding:
    return _Finding(name, "open", f"{name}: there are no rows of it", {"rows": 0})
