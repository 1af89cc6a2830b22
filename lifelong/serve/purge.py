"""After an erasure: no version that had learned from what was erased stays, and receipts say so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lifelong.serve.registry import WEIGHTS, Registry, Version, served
from lifelong.serve.trainer import Trainer
from lifelong.serve.weights import digest_of, weights_of


class Purge:
    """Replace and retire the versions that had learned from events which were erased.

    What they keep of the learner, rows in memories among it, is deleted at once, and a challenger
    among them is withdrawn. The champion serves on until the learner has learned again; what it is
    replaced by needs no gate. Then their weights are deleted too.

    Args:
        trainer: its history says what is owed.
        registry: of the versions.
        ask: asks the api: (route, number, body, what tells it from other requests).
        register: makes a version of what the learner is now, with that parent; its number.
    """

    def __init__(
        self,
        trainer: Trainer,
        registry: Registry,
        ask: Callable[[str, int, dict[str, Any], str], None],
        register: Callable[[int], int],
    ) -> None:
        self.trainer = trainer
        self.registry = registry
        self.ask = ask
        self.register = register

    def go_on(self, champion: int) -> None:
        """Do what can be done by now; harmless when called again, also after a crash."""
        history = self.trainer.history
        if "until" not in history.owed:
            history.owed_until(self.registry.versions()[-1].number)
        seen = [v.number for v in self._exposed() if v.retired is None]
        self.registry.drop_learners(seen)
        for alias in ("challenger", "recommended"):
            if (number := served(self.registry.folder).get(alias)) in seen:
                reason = "it had learned from events that were erased"
                self.ask("withdraw", number, {"version": number, "reason": reason}, "")
        if self.trainer.at.offset < history.owed["event"]:
            return
        self._tell_learned(champion)
        if champion in seen:
            version = self.register(champion)
            reason = "learned again without events that were erased"
            self.ask("promote", version, {"version": version, "reason": reason}, "")
            return
        for number in seen:
            self.registry.retire(number, "erasure")
        self._tell_retired(champion)
        history.paid()

    def _exposed(self) -> list[Version]:
        owed = self.trainer.history.owed
        return [
            version
            for version in self.registry.versions()
            if version.number <= owed["until"] and version.last_offset >= owed["first"]
        ]

    def _tell_learned(self, champion: int) -> None:
        """Have the receipts say what the learner is now, and what answers until it is replaced."""
        owed = self.trainer.history.owed
        facts = {
            "checkpoint": owed.get("from"),
            "offset": self.trainer.at.offset,
            "weights": digest_of(weights_of(self.trainer.learner)),
            "served": self._hashed(champion),
        }
        body = {"state": "learner rebuilt", "upto": owed["event"], "facts": facts}
        self.ask("erased", owed["event"], body, "learned")

    def _tell_retired(self, champion: int) -> None:
        event = self.trainer.history.owed["event"]
        gone = [self._hashed(version.number) for version in self._exposed()]
        facts = {"retired": gone, "served": self._hashed(champion)}
        body = {"state": "versions retired", "upto": event, "facts": facts}
        self.ask("erased", event, body, "retired")

    def _hashed(self, number: int) -> dict[str, Any]:
        return {"version": number, "sha256": self.registry.get(number).hashes.get(WEIGHTS)}
