"""Text on its way into a model: from bytes to the numbers of word pieces."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from lifelong.core.text import byte_texts

_LONGEST_WORD = 100
"""Longer words are unknown, as in BERT."""


class WordPiece(nn.Module):
    """Turn texts into token ids: lower case, no accents, each word in its longest known pieces.

    [CLS] piece piece ... [SEP] [PAD] ...
    Devlin et al. 2018, arXiv:1810.04805 (BERT, uncased), as its published code does.

    It stands before a text encoder as `Pixels` stands before an image encoder, so that streams and
    memories keep texts as bytes: UTF-8, a row each, filled up with zeros (`text_bytes`). It works
    row by row in Python, some 10 microseconds a word, and cannot be compiled.

    Args:
        vocabulary: the pieces; the place of each is its id. A piece that goes on a word begins
            with "##". It has [PAD] at 0, [UNK], [CLS] and [SEP].
        length: most tokens of a row; what is longer is cut off.

    Shapes: (rows, bytes) uint8 to (rows, tokens) int64, as many as the longest row needs.

    Raises:
        ValueError: a special piece is missing, or a length of less than 3.

    Example:
        >>> from lifelong.core.text import text_bytes
        >>> pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "play", "##ing", "!"]
        >>> WordPiece(pieces)(text_bytes(["Playing!", "play"])).tolist()
        [[2, 4, 5, 6, 3], [2, 4, 3, 0, 0]]
    """

    def __init__(self, vocabulary: Sequence[str], length: int = 256) -> None:
        super().__init__()
        self.vocabulary = {piece: number for number, piece in enumerate(vocabulary)}
        lacking = [p for p in ("[PAD]", "[UNK]", "[CLS]", "[SEP]") if p not in self.vocabulary]
        if lacking or self.vocabulary["[PAD]"] != 0:
            raise ValueError(f"the vocabulary lacks {lacking or '[PAD] at 0'}; give BERT's form")
        if length < 3:
            raise ValueError(f"length is {length}; it must be 3 or more")
        self.length = length
        self._known: dict[str, list[int]] = {}

    @classmethod
    def read(cls, path: str | Path, length: int = 256) -> WordPiece:
        """Read a vocabulary, a piece a line."""
        return cls(Path(path).read_text("utf-8").split("\n")[:-1], length)

    def forward(self, x: Tensor) -> Tensor:
        """Number the pieces of each row."""
        return self.encode(byte_texts(x)).to(x.device)

    def encode(self, texts: Sequence[str]) -> Tensor:
        """Number the pieces of each text: (texts, tokens) int64."""
        first, last = self.vocabulary["[CLS]"], self.vocabulary["[SEP]"]
        rows = []
        for text in texts:
            inner = [number for word in _words(text) for number in self._pieces(word)]
            rows.append([first, *inner[: self.length - 2], last])
        width = max(map(len, rows), default=0)
        filled = [row + [0] * (width - len(row)) for row in rows]
        return torch.tensor(filled, dtype=torch.int64).view(len(rows), width)

    def _pieces(self, word: str) -> list[int]:
        """Cut a word into its longest known pieces, from the left."""
        if word not in self._known:
            if len(self._known) > 100_000:  # words come without end
                self._known.clear()
            self._known[word] = self._cut(word)
        return self._known[word]

    def _cut(self, word: str) -> list[int]:
        unknown, found, start = [self.vocabulary["[UNK]"]], [], 0
        if len(word) > _LONGEST_WORD:
            return unknown
        while start < len(word):
            for end in range(len(word), start, -1):
                number = self.vocabulary.get(("##" if start else "") + word[start:end])
                if number is not None:
                    break
            else:
                return unknown
            found.append(number)
            start = end
        return found


def _words(text: str) -> list[str]:
    """Split a text at spaces and around marks and Chinese characters, in lower case."""
    spaced = []
    for sign in text:
        kind = unicodedata.category(sign)
        if sign in "\t\n\r" or kind == "Zs":
            spaced.append(" ")
        elif ord(sign) in (0, 0xFFFD) or kind.startswith("C"):
            continue
        elif _is_chinese(ord(sign)):
            spaced.append(f" {sign} ")
        else:
            spaced.append(sign)
    plain = unicodedata.normalize("NFD", "".join(spaced)).lower()
    parts = []
    for sign in plain:
        kind = unicodedata.category(sign)
        if kind == "Mn":
            continue
        mark = kind.startswith("P") or (
            sign.isascii() and sign.isprintable() and not sign.isalnum()
        )
        parts.append(f" {sign} " if mark else sign)
    return "".join(parts).split()


def _is_chinese(code: int) -> bool:
    return any(low <= code <= high for low, high in _CHINESE)


_CHINESE = (
    (0x4E00, 0x9FFF),
    (0x3400, 0x4DBF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B73F),
    (0x2B740, 0x2B81F),
    (0x2B820, 0x2CEAF),
    (0xF900, 0xFAFF),
    (0x2F800, 0x2FA1F),
)
