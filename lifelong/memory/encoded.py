"""Rows of which some columns are stored smaller than they are offered and read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lifelong.core.errors import InvalidBatch, StateMismatch
from lifelong.memory.codecs import Codec
from lifelong.memory.rows import Rows, same_length
from lifelong.memory.slots import Slots


class Encoded(Rows):
    """Rows that are encoded when they are written and decoded when they are read.

    Only rows that are kept are encoded, and only those that are read are decoded. Copies from slot
    to slot, and states, take them as they are stored.

    Args:
        capacity: how many rows there is room for.
        stored: one or more rows of each column as they are stored.
        codecs: how columns are stored, by name.
        given: (0, ...) of each of these columns, as it is offered and read.
        device: where the columns live.
        path: a folder for the columns' files.

    Example:
        >>> from lifelong.memory import Int8
        >>> offered = {"x": torch.rand(9, 64), "y": torch.zeros(9, dtype=torch.int64)}
        >>> codecs = {"x": Int8()}
        >>> given = {"x": offered["x"][:0]}
        >>> rows = Encoded(4, encoded(offered, codecs), codecs, given)
        >>> rows.nbytes
        304
    """

    def __init__(
        self,
        capacity: int,
        stored: Mapping[str, Tensor],
        codecs: Mapping[str, Codec],
        given: Mapping[str, Tensor],
        *,
        device: torch.device | str = "cpu",
        path: Path | str | None = None,
    ) -> None:
        for name, like in given.items():
            made = codecs[name].encode(like.new_zeros(1, *like.shape[1:]))
            kept = stored[name]
            if (made.dtype, made.shape[1:]) != (kept.dtype, kept.shape[1:]):
                raise StateMismatch(
                    f"column {name!r} is {kept.dtype} of shape {tuple(kept.shape)}, which is not "
                    f"{tuple(like.shape[1:])} of {like.dtype} as {codecs[name].name!r}; load it "
                    "into a memory that stores rows in the same way"
                )
        super().__init__(capacity, stored, device=device, path=path)
        self.codecs = codecs
        self.given = {name: column.detach().clone() for name, column in given.items()}

    def check_some(self, columns: Mapping[str, Tensor]) -> int:
        """Count rows after making sure that they are as those given at first.

        Raises:
            InvalidBatch: they are not.
        """
        for name, like in self.given.items():
            value = columns.get(name, like)
            if value.dtype is not like.dtype or value.shape[1:] != like.shape[1:]:
                raise InvalidBatch(
                    f"column {name!r} is {value.dtype} of shape {tuple(value.shape)}; it must be "
                    f"{like.dtype} with rows of shape {tuple(like.shape[1:])}"
                )
        super().check_some({name: v for name, v in columns.items() if name not in self.codecs})
        return same_length(columns) if columns else -1

    def check_values(self, columns: Mapping[str, Tensor]) -> None:
        """Raise `InvalidBatch` for values that a glance tells cannot be stored."""
        for name, codec in self.codecs.items():
            if name in columns:
                codec.check(columns[name])

    def put(self, slots: Slots, columns: Mapping[str, Tensor], source: Slots | None = None) -> None:
        """Encode the rows that are to be written, and write them if that could be done."""
        plain = {name: value for name, value in columns.items() if name not in self.codecs}
        picked = {name: columns[name] for name in self.codecs.keys() & columns.keys()}
        if source is not None:
            index = torch.from_numpy(source)
            picked = {name: value[index.to(value.device)] for name, value in picked.items()}
        coded = encoded(picked, self.codecs)
        super().put(slots, plain, source)
        super().put(slots, coded)

    def take(self, slots: Slots, behind: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """Read rows and decode them."""
        front = behind or {}
        plain = {name: rows for name, rows in front.items() if name not in self.codecs}
        taken = self._decoded(super().take(slots, plain))
        for name in self.codecs.keys() & front.keys():
            taken[name] = torch.cat((front[name], taken[name]))
        return taken

    def first(self, rows: int) -> dict[str, Tensor]:
        """Read the first rows and decode them."""
        return self.take(np.arange(rows))

    def joined(self, slots: Tensor, columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copy the rows of some slots, and put others, encoded, behind them."""
        return super().joined(slots, encoded(columns, self.codecs))

    def widened(self, name: str, width: int) -> dict[str, Tensor]:
        """Tell what the columns would be if one that is not encoded were wider.

        Raises:
            ValueError: it is encoded, or cannot be widened.
        """
        if name in self.codecs:
            raise ValueError(
                f"column {name!r} is stored as {self.codecs[name].name!r} and cannot be widened; "
                "store it as it is"
            )
        return super().widened(name, width)

    def resized(self, capacity: int) -> Rows:
        """Copy the first rows into as many new slots."""
        place = {"device": self.device, "path": self.path}
        twin = Encoded(capacity, self.columns, self.codecs, self.given, **place)  # type: ignore[arg-type]
        twin.fill(self, capacity)
        return twin

    def _decoded(self, columns: dict[str, Tensor]) -> dict[str, Tensor]:
        for name, codec in self.codecs.items():
            columns[name] = codec.decode(columns[name], self.given[name])
        return columns


def encoded(columns: Mapping[str, Tensor], codecs: Mapping[str, Codec]) -> dict[str, Tensor]:
    """Encode the columns that have a codec, and leave the others as they are."""
    return {
        name: codecs[name].encode(value) if name in codecs else value
        for name, value in columns.items()
    }


def codecs_for(columns: Mapping[str, Tensor], codec: Codec | None) -> dict[str, Codec]:
    """Choose the inputs that a codec is for: of `x`, or `x/...`, those that it fits.

    Raises:
        InvalidBatch: it fits none of them, and is not optional.
    """
    if codec is None:
        return {}
    inputs = {n: v for n, v in columns.items() if n == "x" or n.startswith("x/")}
    chosen: dict[str, Codec] = {n: codec for n, v in inputs.items() if codec.fits(v)}
    if not chosen and not codec.optional:
        told = ", ".join(f"{n} is {v.dtype} {tuple(v.shape)}" for n, v in inputs.items())
        wants = f"{codec.wants}; " if codec.wants else ""
        raise InvalidBatch(
            f"inputs cannot be stored as {codec.name!r}: {told or 'there are none'}; {wants}"
            "leave out store, or choose another way"
        )
    return chosen


def stored_as(codec: Codec) -> str:
    """Say how rows are stored, for a state.

    Example:
        >>> from lifelong.memory import Bytes
        >>> stored_as(Bytes(low=-1, high=1))
        'uint8 high=1 low=-1'
    """
    return " ".join([codec.name, *(f"{k}={v!r}" for k, v in sorted(codec.settings.items()))])


def told(like: Tensor) -> str:
    """Say of which element type and shape rows are, for a state.

    Example:
        >>> told(torch.zeros(5, 3, 8))
        'float32 3 8'
    """
    return " ".join([str(like.dtype).removeprefix("torch."), *map(str, like.shape[1:])])


def like_of(text: str) -> Tensor:
    """Make an empty column from what `told` says of it.

    Raises:
        StateMismatch: it says nothing of the kind.

    Example:
        >>> like_of("float32 3 8").shape
        torch.Size([0, 3, 8])
    """
    name, *sizes = str(text).split() or [""]
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype) or not all(size.isdecimal() for size in sizes):
        raise StateMismatch(f"a column like {text!r} in a state of a memory; the state is damaged")
    return torch.empty(0, *map(int, sizes), dtype=dtype)
