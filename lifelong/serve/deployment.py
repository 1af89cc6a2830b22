"""Which versions answer whom, and every way in which that changes."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lifelong.core.errors import LifelongError, RegistryError
from lifelong.serve.audit import Audit
from lifelong.serve.registry import Registry
from lifelong.serve.rollout import FILE, Exposure
from lifelong.serve.snapshot import Holder, Snapshot
from lifelong.serve.traffic import Assignment, Choice
from lifelong.serve.versions import write_json

_log = logging.getLogger("lifelong.serve")
VERDICT = "candidate.json"
BARRED = "barred.json"
RECOMMENDED = "recommended"
"""The alias of a version that an operator is advised to promote."""


class Deployment:
    """The aliases, the versions in memory, and who is answered by which: always changed together.

    A change is made in the registry first, then on disk, then for the requests that follow, and is
    in the audit last. Doing it again does no harm: that is what completes one that was cut short.
    What answers after a restart is what answered before: the champion from its alias, a challenger
    from its alias and canary.json, where the two agree; else it is withdrawn.

    Args:
        registry: of the versions.
        audit: of the decisions.
        snapshot: loads a version.
        last: returns the newest offset of the log.

    Raises:
        RegistryError: no version is served, or the one that is cannot be loaded.
    """

    def __init__(
        self,
        registry: Registry,
        audit: Audit,
        snapshot: Callable[[int], Snapshot],
        last: Callable[[], int],
    ) -> None:
        self.registry = registry
        self.audit = audit
        self._snapshot = snapshot
        self._last = last
        self._one = threading.Lock()
        champion = registry.alias("champion")
        if champion is None:
            raise RegistryError(
                f"no version of {registry.folder} is served; register and promote one"
            )
        self.holder = Holder(self._whole(champion))
        champion = self.holder.current.version
        self.exposure: Exposure | None = None
        self._barred: set[int] = set()
        path = registry.folder / BARRED
        try:
            self._barred = {int(number) for number in json.loads(path.read_bytes())["versions"]}
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as error:
            raise RegistryError(
                f"{path} is damaged ({error}); write the versions that learned from discarded "
                'events into it, {"versions": [4, 5]}, or delete it if there are none'
            ) from error
        self._assignment = Assignment(champion)
        self._resume(champion)
        self._check_recommended()

    def serve(self, action: str, number: int, reason: str, who: str) -> int:
        """Make a version the champion; a canary and a recommendation were about another: they end.

        Args:
            action: "promote" or "rollback", for the audit.
            number: of the version.
            reason: a sentence.
            who: decided it.

        Raises:
            RegistryError: its files are not whole; what answers is as before.
        """
        with self._one:
            if action == "promote":
                self._check_barred(number)
            snapshot = self._snapshot(number)
            self.registry.set_alias("champion", number)
            self._answer(snapshot, None, None)
            self._drop(("challenger", RECOMMENDED))
            self.audit.append(action, who, {"version": number, "reason": reason})
        return number

    def challenge(self, number: int, share: float, reason: str, who: str) -> int:
        """Have a version answer a share of the users; those who had it keep it as the share grows.

        Raises:
            RegistryError: it is the champion, or its files are not whole.
            ValueError: the share is not within 0 to 1.
        """
        with self._one:
            self._check_barred(number)
            champion, before, now = self.holder.current.version, self.exposure, time.time()
            if number == champion:
                raise RegistryError(f"version {number} is the champion; name another version")
            if before is not None and before.challenger == number:
                snapshot = self.holder.of("challenger")
                changed = now if share != before.share else before.changed
                exposure = Exposure(champion, number, share, before.since, before.time, changed)
            else:
                snapshot = self._snapshot(number)
                exposure = Exposure(champion, number, share, self._last(), now, now)
            exposure.assignment()
            self.registry.set_alias("challenger", number)
            write_json(self.registry.folder / FILE, exposure.record())
            self._answer(self.holder.current, snapshot, exposure)
            details = {"version": number, "share": share, "reason": reason}
            self.audit.append("challenge", who, details)
        return number

    def withdraw(self, number: int, reason: str, who: str) -> int:
        """Have a version answer nobody and recommend it no more; the champion stays.

        Raises:
            RegistryError: there is no such version, or it is the champion.
        """
        with self._one:
            self.registry.get(number)
            if number == self.holder.current.version:
                raise RegistryError(
                    f"version {number} is the champion; promote another, or go back"
                )
            names = [n for n in ("challenger", RECOMMENDED) if self.registry.alias(n) == number]
            if "challenger" in names:
                self._answer(self.holder.current, None, None)
            self._drop(names)
            self.audit.append("withdraw", who, {"version": number, "reason": reason})
        return number

    def judged(
        self,
        number: int,
        verdict: str,
        reasons: Sequence[str],
        report: Mapping[str, Any],
        recommend: bool,
        who: str,
    ) -> int:
        """Write down a verdict about a version; if that is asked, recommend it to the operators."""
        with self._one:
            self.registry.get(number)
            if recommend and number != self.holder.current.version:
                self.registry.set_alias(RECOMMENDED, number)
            facts = {"version": number, "verdict": verdict, "reasons": list(reasons)}
            kept = {**facts, "recommended": recommend, "time": time.time(), "evidence": report}
            write_json(self.registry.folder / VERDICT, kept)
            self.audit.append("recommend" if recommend else "verdict", who, facts)
        return number

    def repeat(self, decision: Mapping[str, Any]) -> None:
        """Do once more what a decision says that was cut short, as `lifelong.serve.intent` has it.

        Raises:
            RegistryError: it cannot be done.
        """
        number, reason, who = (decision[name] for name in ("version", "reason", "by"))
        if decision["action"] == "challenge":
            self.challenge(number, decision["share"], reason, who)
        elif decision["action"] == "withdraw":
            self.withdraw(number, reason, who)
        else:
            self.serve(decision["action"], number, reason, who)
        if "discard_after" in decision:
            self.bar(decision["discard_after"])

    def shows(self, action: str, number: int) -> bool:
        """Tell whether the aliases are as they would be after a decision, done now or before."""
        alias = self.registry.alias
        if action == "withdraw":
            return number not in (alias("challenger"), alias(RECOMMENDED))
        return alias("challenger" if action == "challenge" else "champion") == number

    def bar(self, offset: int) -> None:
        """Promote no version any more that has learned from events after an offset.

        They are being discarded. What the trainer asked for before it knew must not bring them
        back; versions that it makes when it has gone back are others.
        """
        with self._one:
            known = {v.number: v.last_offset for v in self.registry.versions()}
            newly = {number for number, last in known.items() if last > offset}
            barred = (self._barred | newly) & known.keys()
            write_json(self.registry.folder / BARRED, {"versions": sorted(barred)})
            self._barred = barred

    def choose(self, subject: str) -> Choice:
        """Return who is to answer this user, or a request of nobody in particular by its id."""
        return self._assignment.choose(subject)

    def candidate(self) -> dict[str, Any]:
        """Return the newest verdict, what is recommended, and who is exposed to a challenger."""
        exposure = self.exposure
        verdict = None
        with contextlib.suppress(OSError, ValueError):  # none yet
            verdict = json.loads((self.registry.folder / VERDICT).read_bytes())
        return {
            "recommended": self.registry.alias(RECOMMENDED),
            "verdict": verdict,
            "canary": None if exposure is None else exposure.record(),
        }

    def _check_barred(self, number: int) -> None:
        if number in self._barred:
            raise RegistryError(
                f"version {number} has learned from events that were discarded; promote one that "
                "was made since, or roll back to it if they should not have been"
            )

    def _whole(self, champion: int) -> Snapshot:
        """Load the champion; where its files are damaged, go back to the last one that is whole."""
        try:
            return self._snapshot(champion)
        except RegistryError as error:
            before = self.registry.previous_champion()
            if before is None:
                raise
            _log.error("%s; version %s answers instead", error, before)
            snapshot = self._snapshot(before)
            self.registry.set_alias("champion", before)
            self.audit.append("rollback", "api", {"version": before, "reason": str(error)})
            return snapshot

    def _resume(self, champion: int) -> None:
        exposure, why = None, "canary.json and the alias do not agree"
        number = self.registry.alias("challenger")
        try:
            exposure = Exposure.read(self.registry.folder)
            if exposure is not None and (exposure.champion, exposure.challenger) == (
                champion,
                number,
            ):
                self._answer(self.holder.current, self._snapshot(exposure.challenger), exposure)
                return
        except LifelongError as error:
            why = str(error)[:500]
        self._drop(("challenger",))
        if number is not None or exposure is not None:
            self.audit.append("withdraw", "api", {"version": number, "reason": why})

    def _check_recommended(self) -> None:
        number = self.registry.alias(RECOMMENDED)
        try:
            if number is not None:
                self.registry.verify(number)
        except RegistryError as error:  # no alias may point at what cannot be served
            self._drop((RECOMMENDED,))
            self.audit.append("withdraw", "api", {"version": number, "reason": str(error)[:500]})

    def _answer(
        self, champion: Snapshot, challenger: Snapshot | None, exposure: Exposure | None
    ) -> None:
        """Change who answers: nobody is sent to a challenger that is not there."""
        of_all = Assignment(champion.version)
        if exposure is None:
            self._assignment = of_all
        self.holder.challenger = challenger
        self.holder.current = champion
        self.exposure = exposure
        self._assignment = of_all if exposure is None else exposure.assignment()

    def _drop(self, names: Sequence[str]) -> None:
        for name in names:
            self.registry.drop_alias(name)
        if "challenger" in names:
            (self.registry.folder / FILE).unlink(missing_ok=True)
