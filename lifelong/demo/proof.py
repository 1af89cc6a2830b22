"""The proof of recovery: the log read again by a trainer that nothing ever disturbed."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from lifelong.serve.config import Config
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.trainer import Trainer
from lifelong.serve.weights import digest_of, weights_of


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found: SHA-256 of weights, and the last line of `lifelong audit` with its code."""

    events: int
    recovered: str
    undisturbed: str
    audit: str
    audit_code: int


def prove(path: Path) -> Proof:
    """Compare a stopped service's learner with one that reads its log from the start.

    Args:
        path: of the service's configuration.
    """
    config = Config.read(path)
    auditing = subprocess.Popen(
        [sys.executable, "-m", "lifelong", "audit", str(config.folder)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as empty, SQLiteLog(config.folder / "log") as log:
            recovered = _weights(config, log, config.folder / "trainer")
            undisturbed = _weights(config, log, Path(empty))
            events = log.last
        printed, _ = auditing.communicate()
    finally:
        auditing.kill()
        auditing.wait()
    last = printed.strip().splitlines()[-1] if printed.strip() else "nothing"
    return Proof(events, recovered, undisturbed, last, auditing.returncode)


def _weights(config: Config, log: SQLiteLog, folder: Path) -> str:
    trainer = Trainer(
        folder,
        log,
        config.factory(),
        Checked(config.parts()[0]),
        config.train,
        classes=range(config.schema.classes),
    )
    trainer.catch_up()
    return digest_of(weights_of(trainer.learner))
