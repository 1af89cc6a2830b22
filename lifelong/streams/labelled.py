"""A data set of labelled rows, cut into training and test rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from lifelong.core.batch import Inputs
from lifelong.streams.rows import Rows
from lifelong.streams.seeded import seeded
from lifelong.streams.split import at_most, stratified


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """What scenarios make streams from.

    Attributes:
        name: to be shown.
        train_x, test_x: inputs, one tensor or a dict of them, each of shape (rows, ...);
            images as uint8 (rows, channels, height, width).
        train_y, test_y: (rows,) int64 class ids from 0 on.
        class_names: the name of each class id.

    Raises:
        ValueError: the columns are no tensors, the labels are not class ids, or one of them has
            no name.
        InvalidBatch: inputs and labels differ in rows.

    Example:
        >>> import torch
        >>> x, y = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1])
        >>> data = Labelled("zeros", x, y, x[:2], y[:2], ("a", "b"))
        >>> len(data.class_names), len(data.train()), data.test().key.tolist()
        (2, 4, [4, 5])
    """

    name: str
    train_x: Inputs
    train_y: Tensor
    test_x: Inputs
    test_y: Tensor
    class_names: Sequence[str]

    def __post_init__(self) -> None:
        for part in ("train_x", "train_y", "test_x", "test_y"):
            value: object = getattr(self, part)
            if not isinstance(value, Tensor | (Mapping if part.endswith("x") else Tensor)):
                raise ValueError(
                    f"{part} of {self.name} is of {type(value)}; it must be a tensor: "
                    "torch.as_tensor(...)"
                )
        for part, y in (("train_y", self.train_y), ("test_y", self.test_y)):
            if y.dtype != torch.int64 or y.ndim != 1:
                raise ValueError(
                    f"{part} of {self.name} is {y.dtype} of shape {tuple(y.shape)}; "
                    "it must be int64 of shape (rows,)"
                )
            low, high = (int(y.min()), int(y.max())) if len(y) else (0, -1)
            if low < 0 or high >= len(self.class_names):
                raise ValueError(
                    f"{part} of {self.name} has labels from {low} to {high}, but there are "
                    f"{len(self.class_names)} class names; number the classes from 0"
                )
        self.train()
        self.test()

    def train(self) -> Rows:
        """Return the training rows, with keys from 0 on."""
        return Rows.of(self.train_x, self.train_y)

    def test(self) -> Rows:
        """Return the test rows, with keys that follow those of the training rows."""
        return Rows.of(self.test_x, self.test_y, first_key=len(self.train_y))

    def parts(
        self, *, validation: float = 0.0, limit: int | None = None, seed: int = 0
    ) -> tuple[Rows, Rows | None, Rows]:
        """Return training, validation and test rows; each row is in one of them at most.

        Args:
            validation: the share of each class's training rows to set aside (rounded down).
            limit: at most so many rows of each class, in the training as in the test rows.
            seed: of both choices.

        Raises:
            ValueError: `validation` is no share, or `limit` is less than 1.
        """
        train, test = self.train(), self.test()
        if limit is not None:
            train = train.subset(at_most(train.y, limit, seeded(seed, "limit", "train")))
            test = test.subset(at_most(test.y, limit, seeded(seed, "limit", "test")))
        kept, aside = stratified(train.y, validation, seeded(seed, "validation"))
        if not validation:
            return train, None, test
        return train.subset(kept), train.subset(aside), test


def divided(
    name: str, x: Tensor, y: Tensor, class_names: Sequence[str], *, test: float, seed: int
) -> Labelled:
    """Cut rows that come in one piece into training and test rows, the same share of each class.

    Args:
        name: to be shown.
        x: (rows, ...) inputs.
        y: (rows,) int64 class ids.
        class_names: the name of each class id.
        test: the share of each class to test on, rounded down.
        seed: of the choice; the rows stay in order within each part.

    Example:
        >>> import torch
        >>> y = torch.tensor([0, 1] * 5)
        >>> data = divided("zeros", torch.zeros(10, 2), y, ("a", "b"), test=0.2, seed=0)
        >>> len(data.train_y), sorted(data.test_y.tolist())
        (8, [0, 1])
    """
    kept, aside = stratified(y, test, seeded(seed, "test"))
    return Labelled(name, x[kept], y[kept], x[aside], y[aside], tuple(class_names))
