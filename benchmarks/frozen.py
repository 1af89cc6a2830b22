"""What a frozen backbone makes of all rows, computed once for a benchmark and kept in a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from time import process_time
from typing import Any

import torch
from torch import Tensor, nn

from lifelong import Batch, Learner, Strategy
from lifelong.nets import EfficientNetLite0, LatentModel, MiniLM, Pixels, text_bytes
from lifelong.streams import load
from lifelong.streams.clinc import clinc150_parts

LOWER = 4
"""Layers of MiniLM that stay as they are, before those with adapters."""


@dataclass
class Rows:
    """Rows of one part, and what the frozen layers make of each.

    Attributes:
        x: the rows as a memory keeps them.
        y: (rows,) class ids.
        features: (rows, width), of the whole backbone.
        key: (rows,) ids, over all parts.
        places: where a row's activations end, (all rows + 1,), and `held`, (all places, width):
            of the lower layers alone; None where features are all there is.
    """

    x: Tensor
    y: Tensor
    features: Tensor
    key: Tensor
    places: Tensor | None = None
    held: Tensor | None = None

    def __len__(self) -> int:
        return len(self.y)

    def chosen(self, rows: Tensor) -> Rows:
        """Take some of them."""
        parts = {name: getattr(self, name)[rows] for name in ("x", "y", "features", "key")}
        return replace(self, **parts)

    def latents(self, key: Tensor) -> Tensor:
        """Look up the lower layers' activations: (rows, longest, width), filled up with 0."""
        assert self.places is not None
        assert self.held is not None
        start = self.places[key]
        length = self.places[key + 1] - start
        index = torch.arange(int(length.max()))
        real = index < length[:, None]
        found = self.held[torch.where(real, start[:, None] + index, 0)]
        return found * real[:, :, None]

    def sizes(self) -> Tensor:
        """Count the tokens of each row."""
        assert self.places is not None
        return self.places[self.key + 1] - self.places[self.key]


class LookedUp(Strategy):
    """Put what the frozen layers made of each row in its place, found by its key."""

    def __init__(self, rows: Rows) -> None:
        self.rows = rows
        self.place = torch.full((int(rows.key.max()) + 1,), -1)
        self.place[rows.key] = torch.arange(len(rows))

    def extend(self, learner: Learner, batch: Batch) -> Batch:
        """Look all rows up, new ones and those that a memory has kept as they came."""
        if isinstance(learner.model, LatentModel):
            return replace(batch, x={"latent": self.rows.latents(batch.key)})
        return replace(batch, x=self.rows.features[self.place[batch.key]])


def kept_in(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Read a file of tensors, or make and write it; "seconds" is how long making it took."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        start = process_time()
        made = make()
        torch.save({**made, "seconds": process_time() - start}, path)
    found: dict[str, Any] = torch.load(path, weights_only=True, mmap=True)
    return found


@torch.no_grad()
def embedded_clinc() -> dict[str, Any]:
    """Pass all requests through MiniLM, and keep what comes out of the lower layers, too."""
    tokens, net = MiniLM.tokens(), MiniLM.pretrained().eval()
    lower, upper = net.cut(LOWER)
    parts = clinc150_parts()[0]
    texts = [text for name in parts for text in parts[name][0]]
    ids = tokens.encode(texts)
    sizes = (ids != 0).sum(1)
    places = torch.cat((torch.zeros(1, dtype=torch.int64), sizes.cumsum(0)))
    held = torch.empty(int(places[-1]), net.features)
    features = torch.empty(len(texts), net.features)
    for rows in sizes.argsort().split(64):  # type: ignore[no-untyped-call]
        h = lower(ids[rows, : int(sizes[rows].max())])
        features[rows] = upper(h)
        for row, latent in zip(rows.tolist(), h, strict=True):
            held[places[row] : places[row + 1]] = latent[: sizes[row]]
    return {
        "x": text_bytes(texts),
        "y": torch.cat([y for _, y in parts.values()]),
        "counts": {name: len(y) for name, (_, y) in parts.items()},
        "features": features,
        "places": places,
        "held": held,
    }


@torch.no_grad()
def embedded_cifar(count: int, tests: int, size: int) -> dict[str, Any]:
    """Pass images of every class through EfficientNet-lite0; a tenth of the training rows apart."""
    data = load("cifar10")
    front, net = Pixels(127 / 255, 128 / 255), EfficientNetLite0.pretrained(size=size).eval()
    train, test = data.parts(limit=count)[0], data.parts(limit=tests)[2]
    found, labels = [], []
    for rows in (train, test):
        assert isinstance(rows.x, Tensor)
        found += [net(front(x)) for x in rows.x.split(32)]  # type: ignore[no-untyped-call]
        labels.append(rows.y)
    features, y = torch.cat(found), torch.cat(labels)
    aside = torch.arange(len(train.y)) % 10 == 0
    order = [(~aside).nonzero(), aside.nonzero(), torch.arange(len(train.y), len(y))[:, None]]
    index = torch.cat(order).flatten()
    names = zip(("train", "val", "test"), order, strict=True)
    counts = {name: len(rows) for name, rows in names}
    return {"x": features[index], "features": features[index], "y": y[index], "counts": counts}


def parts_of(found: dict[str, Any]) -> dict[str, Rows]:
    """Part what a file holds into train, val and test."""
    parts, start = {}, 0
    for name, count in found["counts"].items():
        rows = slice(start, start + count)
        start += count
        parts[name] = Rows(
            found["x"][rows],
            found["y"][rows],
            found["features"][rows],
            torch.arange(rows.start, rows.stop),
            found.get("places"),
            found.get("held"),
        )
    return parts


class Spread(nn.Module):
    """Give features of norm 1 a variance of about 1, at which a head learns as fast as adapters."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = int(backbone.features)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        """Scale what the backbone makes."""
        return self.backbone(x) * self.features**0.5  # type: ignore[no-any-return]
