"""A small stream of events, a log in memory, and a learner for both."""

from dataclasses import replace

import numpy as np
import torch
from torch.optim import SGD

from lifelong import EWC, DERpp, Learner
from lifelong.nets import MLP
from lifelong.serve.events import Event

CLASSES = 4
FEATURES = 6


class ListLog:
    """The protocol `Log` over a list."""

    def __init__(self, events=()):
        self.events, self.by_id, self.labels = [], {}, {}
        self.append(events)

    def append(self, events):
        offsets = []
        for event in events:
            if event.id not in self.by_id:
                event = replace(event, offset=self.last + 1)
                self.events.append(event)
                self.by_id[event.id] = event
                if event.kind == "label":
                    self.labels.setdefault(event.about, event)
            offsets.append(self.by_id[event.id].offset)
        return offsets

    def read(self, after, limit):
        return [event for event in self.events if event.offset > after][:limit]

    def find(self, id):
        return self.by_id.get(id)

    def label_of(self, prediction):
        return self.labels.get(prediction)

    @property
    def last(self):
        return self.events[-1].offset if self.events else 0

    def erase(self, subject):
        """Remove a subject's events and the labels of their predictions; the first offset."""
        own = {e.id for e in self.events if e.subject == subject}
        gone = [e for e in self.events if e.id in own or e.about in own]
        self.events = [e for e in self.events if e not in gone]
        self.by_id = {e.id: e for e in self.events}
        self.labels = {}
        for event in self.events:
            if event.kind == "label":
                self.labels.setdefault(event.about, event)
        return min(e.offset for e in gone)


class Checks:
    def row(self, x):
        row = np.asarray(x, dtype=np.float32)
        if row.shape != (FEATURES,) or not np.isfinite(row).all():
            raise ValueError(f"x has shape {row.shape}, not ({FEATURES},), or is not finite")
        return row

    def label(self, y):
        if not isinstance(y, int) or not 0 <= y < CLASSES:
            raise ValueError(f"y is {y!r}; it must be a class below {CLASSES}")
        return y


def make_learner():
    torch.manual_seed(0)
    net = MLP(FEATURES, hidden=(16,), outputs=CLASSES)
    optimizer = SGD(net.parameters(), lr=0.1, momentum=0.9)
    return Learner(net, optimizer, [EWC(1.0), DERpp(64, rows=8)], seed=1)


def points(rows, seed=0, classes=CLASSES):
    chance = np.random.default_rng(seed)
    y = chance.integers(0, classes, rows)
    centres = np.random.default_rng(99).normal(size=(CLASSES, FEATURES)) * 2
    x = centres[y] + chance.normal(size=(rows, FEATURES)) * 0.5
    return x.round(4).tolist(), y.tolist()


def examples(rows, seed=0, **more):
    return [
        Event("example", f"e{seed}-{i}", 0.0, {"x": x, "y": y}, **more)
        for i, (x, y) in enumerate(zip(*points(rows, seed), strict=True))
    ]


def served(rows, seed=0, order=None):
    """Predictions and their labels, mixed: labels come late, and some before."""
    chance = np.random.default_rng(seed)
    timed = []
    for i, (x, y) in enumerate(zip(*points(rows, seed), strict=True)):
        data = {"x": x, "version": 1, "output": [0.0], "propensity": None}
        subject = f"s{i % 7}"
        timed.append((i, Event("prediction", f"p{seed}-{i}", 0.0, data, subject=subject)))
        label = Event("label", f"l{seed}-{i}", 0.0, {"y": y}, about=f"p{seed}-{i}", source="key")
        timed.append((i + chance.integers(-5, 60), label))
        if i % 50 == 49:
            timed.append((i, Event("tick", f"t{seed}-{i}", 0.0, {})))
    return [event for _, event in sorted(timed, key=lambda pair: pair[0])]
