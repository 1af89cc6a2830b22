"""The digits service: its two files, and the rows that are sent to it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lifelong.streams import load

MODEL = '''"""The model that learns digits, as it is before it has seen any."""

import torch
from torch.optim import SGD

from lifelong import DERpp, Learner
from lifelong.nets import MLP, Classifier, Pixels


def learner():
    torch.manual_seed(0)
    net = Classifier(MLP(64, hidden=(100,)), torch.nn.Linear(100, 10), front=Pixels(scale=16))
    memory = DERpp(capacity=1000, rows=32, strength=0.1, label_strength=1.0)
    return Learner(net, SGD(net.parameters(), lr=0.1), [memory])
'''
CONFIG = """\
# lifelong serve digits.yaml
learner: digits.py:learner
folder: state
schema: {shape: [64], classes: 10, low: 0, high: 16}
train: {batch: 4, period: 400, every: 300}
gate: {forgetting: 0.1, patience: 120}
release: {every: 1, rows: 40}
serve: {port: PORT}
"""
PAIRS = ((0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
"""The classes that are new in each phase."""


def write_files(folder: Path, port: int) -> Path:
    """Write digits.py and digits.yaml; return the path of the latter.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "digits.py").write_text(MODEL, encoding="utf-8")
    config = folder / "digits.yaml"
    config.write_text(CONFIG.replace("PORT", str(port)), encoding="utf-8")
    return config


class Digits:
    """scikit-learn's digits: rows to send, and others to measure with, which are never labelled.

    Example:
        >>> digits = Digits()
        >>> x, y = digits.tests([3, 4], most=6)
        >>> len(x), len(x[0]), sorted(set(y))
        (6, 64, [3, 4])
    """

    def __init__(self, seed: int = 0) -> None:
        data = load("digits")
        assert isinstance(data.train_x, Tensor)
        assert isinstance(data.test_x, Tensor)
        self._chance = np.random.default_rng(seed)
        self._train = _by_class(data.train_x.flatten(1).numpy(), data.train_y.numpy())
        self._test = _by_class(data.test_x.flatten(1).numpy(), data.test_y.numpy())

    def draw(self, classes: Sequence[int]) -> tuple[list[float], int]:
        """Draw a row of one of these classes and its label."""
        y = int(self._chance.choice(classes))
        rows = self._train[y]
        return rows[self._chance.integers(len(rows))].tolist(), y

    def tests(self, classes: Sequence[int], most: int) -> tuple[list[list[float]], list[int]]:
        """Return up to `most` rows of these classes, as many of each, and their labels."""
        each = most // len(classes)
        x = [row.tolist() for y in classes for row in self._test[y][:each]]
        return x, [y for y in classes for _ in self._test[y][:each]]


def _by_class(x: NDArray[np.uint8], y: NDArray[np.int64]) -> list[NDArray[np.uint8]]:
    return [x[y == one] for one in range(10)]
