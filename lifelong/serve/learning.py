"""The trainer process: follows the event log, learns, and has what it learned served."""

from __future__ import annotations

import json
import logging
import os
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from lifelong.core.errors import LifelongError, LogError
from lifelong.serve.auth import INTERNAL
from lifelong.serve.chronicle import Chronicle
from lifelong.serve.client import Client
from lifelong.serve.config import Config
from lifelong.serve.contest import Contest
from lifelong.serve.keep import Keep
from lifelong.serve.log import SQLiteLog
from lifelong.serve.progress import Progress, read_progress
from lifelong.serve.registry import Registry
from lifelong.serve.releases import Releases
from lifelong.serve.retention import Floor
from lifelong.serve.schema import Schema
from lifelong.serve.trainer import Trainer


class Checked:
    """Check rows out of the log once more: nobody knows who else wrote it."""

    def __init__(self, schema: Schema) -> None:
        self.schema = schema

    def row(self, x: Any) -> NDArray[np.float32]:
        """Return the features of one row, as they came in JSON."""
        return self.schema.row(msgspec.json.encode(x))

    def label(self, y: Any) -> int:
        """Return the class."""
        return int(self.schema.label(y))


_log = logging.getLogger("lifelong.serve")
NICE = 10
"""By how much learning lets serving go first, where both want the same core."""
IDLE = 0.05
"""Seconds between looks at a log in which nothing new was."""
PAUSE = 1.0
"""Seconds before releasing is tried again."""


class Learning:
    """A trainer and its releases, with all that they work on.

    Args:
        config: of the service.
    """

    def __init__(self, config: Config) -> None:
        schema, gate, _ = config.parts()
        self.config = config
        self.log = SQLiteLog(config.folder / "log")
        self.trainer = Trainer(
            config.folder / "trainer",
            self.log,
            config.factory(),
            Checked(schema),
            config.train,
            classes=range(config.schema.classes),
        )
        self.registry = Registry(config.folder)
        self.releases = Releases(self.trainer, self.registry, gate, config.release, self._ask)
        self.floor = Floor(
            config.folder / "trainer",
            self.log,
            self.trainer.history,
            self.trainer.quarantine,
            Keep.of(config.log.keep),
        )
        before = read_progress(config.folder / "trainer" / "status.json")
        known = before if isinstance(before, Progress) else None
        self.chronicle = Chronicle(self.trainer, known)
        self.contest = Contest(None if known is None else known.trial)
        self.releases.made = self.chronicle.made
        self.stopping = False
        self._told = self._again = 0.0

    def run(self) -> None:
        """Learn until told to stop; what has been learned by then is saved."""
        self._release()  # what is learned first, a champion is watched on
        while not self.stopping:
            self.floor.follow()
            taken = self.trainer.step(200)
            if time.monotonic() >= self._again:
                self._release()
            self.chronicle.look(self.releases.champion)
            self._tell()
            if not taken:
                time.sleep(IDLE)
        self.trainer.save()

    def _release(self) -> None:
        """Releasing is not learning: where it fails it is tried again, and nothing is lost."""
        try:
            self.releases.consider()
        except LifelongError as error:
            self._again = time.monotonic() + PAUSE
            told = {"what": "cannot release what was learned", "why": str(error)}
            _log.warning(json.dumps(told))

    def stop(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Stop after the step that is under way; may be called by a signal."""
        del number, frame
        self.stopping = True

    def status(self) -> dict[str, Any]:
        """Say how far it is, for people to see; all that `Progress` has, and some more."""
        trainer, releases = self.trainer, self.releases
        trial, judgement = releases.trial, releases.judgement
        correct, rows = trainer.at.correct
        running = None
        if trial is not None:
            running = (trial.candidate.version, trial.champion.version, trial.shadow)
        self.contest.look(running, judgement)
        return {
            **self.chronicle.status(),
            "trial": self.contest.last,
            "guardrail": None if releases.guard is None else releases.guard.report,
            "time": time.time(),
            "pid": os.getpid(),
            "offset": trainer.at.offset,
            "behind": self.log.last - trainer.at.offset,
            "rows": trainer.at.rows,
            "steps": trainer.learner.steps,
            "period": trainer.at.period,
            "task": trainer.at.task,
            "accuracy_before_learning": correct / rows if rows else None,
            "anchor_accuracy": releases.on_anchors,
            "checkpoint": {"offset": trainer.saved, "time": trainer.saved_at},
            "quarantine": trainer.quarantine.counts(),
            "candidate": None if trial is None else trial.candidate.version,
            "verdict": None if judgement is None else judgement.verdict,
            "reasons": [] if judgement is None else list(judgement.reasons),
            "live": None if releases.rollout is None else releases.rollout.live.report(),
        }

    def _tell(self) -> None:
        if time.monotonic() - self._told < 0.5:
            return
        self._told = time.monotonic()
        self.floor.tell(self.releases.targets())
        path = self.config.folder / "trainer" / "status.json"
        temporary = path.with_name(".status.json")
        try:
            temporary.write_bytes(msgspec.json.encode(self.status()))
            temporary.replace(path)
        except OSError as error:  # a full disk: learning goes on
            _log.warning("cannot write %s: %s", path, error.strerror)

    def _ask(self, what: str, body: dict[str, Any]) -> None:
        path = self.config.folder / "api.json"
        try:
            url = json.loads(path.read_bytes())["url"]
        except (OSError, ValueError, KeyError) as error:
            raise LogError(f"the api has not said where it answers: {error}") from error
        with Client(url, os.environ.get(INTERNAL), timeout=30.0, attempts=2) as client:
            client.post(f"/{what}", body)


def run(path: Path) -> None:
    """Learn until told to stop by a signal."""
    torch.set_num_threads(1)
    os.nice(NICE)
    learning = Learning(Config.read(path))
    signal.signal(signal.SIGTERM, learning.stop)
    signal.signal(signal.SIGINT, learning.stop)
    learning.run()
