"""From learned weights to served ones: candidates, the gate, and the guardrail afterwards."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor

from lifelong.core import restore
from lifelong.core.batch import Batch
from lifelong.serve.bounds import Bounds
from lifelong.serve.comparison import Comparison, Evidence, Judgement
from lifelong.serve.config import Release
from lifelong.serve.gate import Gate
from lifelong.serve.purge import Purge
from lifelong.serve.registry import Registry, served
from lifelong.serve.rollout import Exposure, Live, Rollout
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.trainer import Came, Trainer
from lifelong.serve.trial import Trial, right_of
from lifelong.serve.watch import Watch
from lifelong.serve.watched import Watched
from lifelong.serve.weights import digest_of, model_of, weights_of

Ask = Callable[[str, dict[str, Any]], None]
"""Asks the api: (the route, such as "promote", and its body). Asking again is harmless."""


class Releases:
    """Make candidates of what a trainer has learned, judge them, and have them served.

    Nothing here changes what is learned: it may depend on the clock and start anew after a crash.
    One candidate is judged at a time. Rows count for it only if they came after its last event, so
    neither version has learned from them.

    Args:
        trainer: is watched.
        registry: candidates become versions of it.
        gate: judges.
        settings: when, and what to do about a verdict.
        ask: asks the api, which decides what is served.
        clock: seconds that never go back.
        now: seconds since 1970.
    """

    def __init__(
        self,
        trainer: Trainer,
        registry: Registry,
        gate: Gate,
        settings: Release,
        ask: Ask,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.trainer = trainer
        self.registry = registry
        self.gate = gate
        self.settings = settings
        self.ask = ask
        self.clock = clock
        self.now = now
        self.bounds = Bounds(
            trainer.folder / "promotions.json", settings.hourly, settings.distance, now
        )
        self.purge = Purge(trainer, registry, self._ask, self._register)
        self.rollout: Rollout | None = None
        """Of the challenger that answers some of the users."""
        self.trial: Trial | None = None
        self.judgement: Judgement | None = None
        """Of the candidate on trial, or of the last one."""
        self.on_anchors: dict[str, float] = {}
        """What champion and candidate got right of all anchors, when they were last compared."""
        self.watched = Watched(trainer.folder / "watch.json", settings, self._snapshot)
        self.made: Callable[[int], None] = lambda number: None  # noqa: ARG005
        """Told each version that the learner as it is has become."""
        self._asked: set[str] = set()
        self._made_at = clock()
        self._made_rows = 0
        self._targets: tuple[tuple[int, ...], list[int]] = ((), [])
        trainer.watch, trainer.saving = self._watch, self.watched.save

    def consider(self) -> None:
        """Do what is due: notice what is served now, judge the candidate, or make one."""
        self.look()
        if self.champion is None:
            return
        if self.trainer.history.owed:
            self.trial = None
            self.purge.go_on(self.champion.version)
            return
        if self.trial is not None and self.trainer.at.offset < self.trial.offset:
            self.trial = None  # it went back: the candidate may know what is not to be known
        if self.guard is not None and self.guard.breached:
            self._undo(self.guard)
        if self.trial is not None:
            self._judge(self.trial)
        if self.rollout is not None:
            self._roll(self.rollout)
        elif self.trial is None and self._due():
            self._make(self.champion)

    @property
    def champion(self) -> Snapshot | None:
        """The version that is served, as far as is known here."""
        return self.watched.champion

    @property
    def guard(self) -> Watch | None:
        """The watch over the champion, if it was promoted here."""
        return self.watched.watch

    def targets(self) -> list[int]:
        """Return the last offsets of the champion and of the one before, to go back to."""
        now = served(self.registry.folder)
        numbers = [now["champion"], *now["previous"][-1:]]
        found = tuple(number for number in numbers if number is not None)
        if found != self._targets[0]:
            offsets = [self.registry.get(number).last_offset for number in found]
            self._targets = (found, offsets)
        return self._targets[1]

    def _due(self) -> bool:
        rows = self.trainer.at.rows - self._made_rows
        if rows < 0:  # it went back
            self._made_rows = 0
        return rows >= self.settings.rows and self.clock() - self._made_at >= self.settings.every

    def look(self) -> None:
        """Load champion and challenger if they are others than before.

        To be called before the first step, so that no row is learned unwatched.
        """
        now = served(self.registry.folder)
        number = now.get("champion")
        if number is None:
            return
        if self.champion is None or self.champion.version != number:
            promoted = self.trial is not None and self.trial.candidate.version == number
            self.watched.becomes(number, promoted)
            self.trial = self.rollout = None
        self._follow(now.get("challenger"))

    def _follow(self, challenger: int | None) -> None:
        """Watch the challenger, whoever made it one, with what the log has of it."""
        exposure = None if challenger is None else Exposure.read(self.registry.folder)
        watched = None if self.rollout is None else self.rollout.live.exposure
        if exposure is None or self.champion is None:
            if watched is not None:  # it was withdrawn
                self.rollout = self.trial = None
            return
        if (exposure.champion, exposure.challenger) != (self.champion.version, challenger):
            return  # they are being changed
        if watched is not None and (watched.challenger, watched.since) == (
            exposure.challenger,
            exposure.since,
        ):
            assert self.rollout is not None
            self.rollout.live.exposure = exposure
            return
        settings = self.settings
        live = Live(self.trainer.log, exposure, settings.canary.alpha)
        self.rollout = Rollout(live, settings.canary, settings.tolerance, self.now)
        if self.trial is None or self.trial.candidate.version != exposure.challenger:
            seen = self.registry.get(exposure.challenger).last_offset
            self.trial = Trial(self._snapshot(exposure.challenger), self.champion, seen)

    def _snapshot(self, number: int) -> Snapshot:
        state = self.registry.load_weights(number)
        return Snapshot(number, model_of(self.trainer.make, state))

    def _make(self, champion: Snapshot) -> None:
        number = self._register(champion.version)
        if number != champion.version and self.registry.get(number).retired is None:
            self.trial = Trial(self._snapshot(number), champion, self.trainer.at.offset)
            self.judgement = None
        self.registry.prune(keep_learners=self.settings.keep, records=self.settings.records)

    def _register(self, champion: int) -> int:
        trainer = self.trainer
        learned = trainer.at.correct
        weights = restore.copied(weights_of(trainer.learner))
        after = self.registry.get(champion).last_offset
        version = self.registry.register(
            weights,
            restore.copied(trainer.state_dict()),
            parent=champion,
            first_offset=min(after, trainer.at.offset) + 1,
            last_offset=trainer.at.offset,
            metrics={
                "rows": float(trainer.at.rows),
                "prequential": learned[0] / max(learned[1], 1),
            },
            # The learner may come to an offset again with other weights, after going back.
            id=f"offset-{trainer.at.offset}-{digest_of(weights)[:16]}",
        )
        self._made_at, self._made_rows = self.clock(), trainer.at.rows
        self.made(version.number)
        return version.number

    def _evidence(self, trial: Trial) -> Evidence:
        anchors: dict[int | str, Comparison] = {}
        for group in self.trainer.anchors.groups:
            x, y, task = self.trainer.anchors.rows(group)
            both = (right_of(one, x, y, task) for one in (trial.champion, trial.candidate))
            anchors[group] = Comparison.of(*both)
        if rows := sum(one.rows for one in anchors.values()):
            champion = sum(one.champion for one in anchors.values()) / rows
            candidate = sum(one.candidate for one in anchors.values()) / rows
            self.on_anchors = {"champion": champion, "candidate": candidate}
        slices = trial.slices(self.gate.slice_rows)
        return Evidence(anchors, trial.recent(), slices, trial.shadow)

    def _judge(self, trial: Trial) -> None:
        if trial.judged != trial.shadow.n:
            self.judgement = self.gate.judge(self._evidence(trial))
            trial.judged = trial.shadow.n
        judgement = self.judgement
        if judgement is None or judgement.verdict == "undecided":
            return
        number = trial.candidate.version
        if self.rollout is not None:
            if judgement.verdict == "refuse" and self.settings.mode != "manual":
                self._withdraw(number, "; ".join(judgement.reasons))
            return
        outside = self.bounds.broken(number, judgement) if self.settings.mode == "automatic" else []
        passed = judgement.verdict == "promote"
        self._report(
            number, judgement.verdict, (*outside, *judgement.reasons), judgement.report,
            recommend=passed and (self.settings.mode == "recommend" or bool(outside)),
        )  # fmt: skip
        if not passed or self.settings.mode != "automatic" or outside:
            self.trial = None
            return
        reason = "; ".join(judgement.reasons)[:250]
        if self.settings.canary.share is None:
            self._promote(number, reason)
        else:
            self._challenge(number, self.settings.canary.ramp().share(0), reason)

    def _roll(self, rollout: Rollout) -> None:
        """Do what a canary has come to: grow, promote, withdraw, or say so to the operators."""
        if rollout.live.read():
            return  # there is more
        number, mode = rollout.live.exposure.challenger, self.settings.mode
        step = rollout.step()
        if step.what == "withdraw" and mode != "manual":
            self._withdraw(number, step.reason)
        elif step.what == "grow" and mode == "automatic":
            self._challenge(number, step.share, step.reason[:250])
        elif step.what == "complete" and mode == "automatic":
            # What it had to show the gate, it has shown; there is no hurry.
            if not self.bounds.full(number):
                self._promote(number, step.reason[:250])
        elif step.what == "complete" and mode == "recommend":
            self._report(number, "promote", [step.reason], rollout.live.report(), recommend=True)

    def _promote(self, number: int, reason: str) -> None:
        self.bounds.promotes(number)
        self.watched.promotes(number)
        self._ask("promote", number, {"version": number, "reason": reason})

    def _challenge(self, number: int, share: float, reason: str) -> None:
        body = {"version": number, "share": share, "reason": reason}
        self._ask("challenge", number, body, once=f"{share:g}")

    def _withdraw(self, number: int, reason: str) -> None:
        self._ask("withdraw", number, {"version": number, "reason": reason[:250]})
        self.rollout = self.trial = None

    def _report(
        self,
        number: int,
        verdict: str,
        reasons: Sequence[str],
        report: dict[str, Any],
        *,
        recommend: bool,
    ) -> None:
        """Have a verdict written down, where operators and auditors find it."""
        body = {"version": number, "verdict": verdict, "reasons": [r[:4000] for r in reasons]}
        once = verdict + (" recommended" if recommend else "")
        self._ask("verdict", number, {**body, "report": report, "recommend": recommend}, once=once)

    def _undo(self, guard: Watch) -> None:
        """Have the champion of before served again, and the learner go back to it."""
        assert self.champion is not None
        number = self.champion.version
        to = self.registry.previous_champion()
        report = guard.report
        reason = f"version {number} breached {guard.breached} after {guard.rows} rows"
        if self.settings.mode == "automatic" and to is not None:
            # Further back than the log begins, only the weights that are served can go.
            discard = self.registry.get(to).last_offset >= self.trainer.history.begin
            self._ask("rollback", number, {"to": to, "reason": reason, "discard": discard})
        else:
            self._report(number, "refuse", [f"{reason}; roll back"], report, recommend=False)
        self.watched.ends()

    def _ask(self, what: str, number: int, body: dict[str, Any], once: str = "") -> None:
        """Ask once; again only if that failed.

        Args:
            once: what tells this from other requests about that version; by default the offset.
        """
        id = f"{what}-{number}-{once or self.trainer.at.offset}"
        if id not in self._asked:
            self.ask(what, {**body, "id": id})
            self._asked.add(id)

    def _watch(self, batch: Batch, came: list[Came]) -> None:
        champion, trial = self.champion, self.trial
        if champion is None:
            return
        right = self.watched.add(champion, batch, came)
        if trial is not None and came[0][0] > trial.offset:
            assert isinstance(batch.x, Tensor)
            other = right_of(trial.candidate, batch.x, batch.y, batch.task)
            trial.add(right, other, [self._slice(id) for _, id, _ in came])

    def _slice(self, id: str) -> Mapping[str, str]:
        event = self.trainer.log.find(id)
        found: Mapping[str, str] = {} if event is None else event.data.get("slice", {})
        return found
