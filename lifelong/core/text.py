"""Texts as rows of bytes, which memories, logs and streams keep like any other rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def text_bytes(texts: Sequence[str]) -> Tensor:
    """Turn texts into rows of UTF-8, (texts, bytes) uint8, filled up with zeros.

    Example:
        >>> text_bytes(["ab", "c"]).tolist()
        [[97, 98], [99, 0]]
    """
    encoded = [text.encode() for text in texts]
    width = max(map(len, encoded), default=0)
    joined = b"".join(row.ljust(width, b"\0") for row in encoded)
    rows = np.frombuffer(joined, dtype=np.uint8).reshape(len(encoded), width)
    return torch.from_numpy(rows.copy())


def byte_texts(rows: Tensor) -> list[str]:
    """Turn rows of `text_bytes` back into texts.

    Raises:
        ValueError: they are no bytes, (rows, bytes).

    Example:
        >>> byte_texts(text_bytes(["ab", "c"]))
        ['ab', 'c']
    """
    if rows.dtype != torch.uint8 or rows.ndim != 2:
        raise ValueError(
            f"texts are {rows.dtype} of shape {tuple(rows.shape)}; give them as bytes: "
            "text_bytes(texts)"
        )
    held = rows.cpu().numpy()
    return [row.tobytes().rstrip(b"\0").decode("utf-8", "replace") for row in held]
