"""The folder of a service as its processes leave it, made in this process."""

import textwrap

from small_service import CLASSES, served

from lifelong.core import restore
from lifelong.serve import versions
from lifelong.serve.config import Config
from lifelong.serve.events import Event
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.trainer import Trainer
from lifelong.serve.versions import WEIGHTS, Version
from lifelong.serve.weights import weights_of

MODEL = """
import torch
from torch.optim import SGD
from lifelong import EWC, DERpp, Learner
from lifelong.nets import MLP

def learner():
    torch.manual_seed(0)
    net = MLP(6, hidden=(16,), outputs=4)
    return Learner(net, SGD(net.parameters(), lr=0.1), [EWC(1.0), DERpp(64, rows=8)], seed=1)
"""
CONFIG = """
learner: model.py:learner
folder: state
schema: {shape: [6], classes: 4}
train: {batch: 8, period: 60, window: 32, anchors: 0.2, anchor_rows: 20, every: 70}
"""


class Recorded:
    """A service whose log holds given events, and whose trainer has read them.

    Versions are made without a registry: MLflow takes seconds.
    """

    def __init__(self, folder, events=()):
        self.folder = folder
        (folder / "model.py").write_text(textwrap.dedent(MODEL))
        self.path = folder / "service.yaml"
        self.path.write_text(CONFIG)
        self.config = Config.read(self.path)
        self.state = self.config.folder
        self.log = SQLiteLog(self.state / "log", write=True)
        self.versions = []
        self.trainer = self.new_trainer()
        self.add(events)

    def new_trainer(self):
        schema, _, _ = self.config.parts()
        return Trainer(
            self.state / "trainer", self.log, self.config.factory(), Checked(schema),
            self.config.train, classes=range(CLASSES),
        )  # fmt: skip

    def add(self, events):
        """Append events; the trainer reads them and saves."""
        self.log.append(list(events))
        self.trainer.catch_up()
        self.trainer.save()

    def version(self):
        """Register what the trainer has learned, as releases do."""
        number = len(self.versions) + 1
        weights = restore.copied(weights_of(self.trainer.learner))
        folder = self.state / "versions" / str(number)
        folder.parent.mkdir(exist_ok=True)
        hashes = versions.write_files(folder, weights, None)
        assert list(hashes) == [WEIGHTS]
        offset = self.trainer.at.offset
        made = Version(number, f"offset-{offset}", None, 1, offset, {}, 0.0, "", hashes, folder)
        versions.write_record(folder, made)
        self.versions.append(made)
        return made

    def erase(self, subject):
        """Erase a subject as the api does: an event, the removal, another event."""
        first = self.log.first_of(subject)
        [offset] = self.log.append(
            [Event("erasure", f"erasure:{subject}", 0.0, {"first": first}, subject=subject)]
        )
        self.log.erase(subject)
        done = Event("erasure", f"erasure:{subject}:done", 0.0, {"first": offset}, subject=subject)
        self.add([done])

    def roll_back(self, to, id="decision:back"):
        """Decide to go back to a version, discarding what came after it."""
        data = {"action": "rollback", "version": to.number, "discard_after": to.last_offset}
        self.add([Event("decision", id, 0.0, data)])

    def close(self):
        self.trainer.quarantine.close()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()


def files(folder):
    """Every file's bytes, but for SQLite's own index of its write-ahead log."""
    return {
        path: path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.endswith("-shm")
    }


def stream(rows, seed=0):
    """Predictions that were answered, their labels, and ticks."""
    return served(rows, seed)
