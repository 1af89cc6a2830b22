"""Features of images from a frozen trunk that no label has taught: random patches as filters."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from lifelong.streams import Labelled


def patch_features(
    data: Labelled, *, classes: int = 2, filters: int = 128, size: int = 6, limit: int = 1000
) -> Labelled:
    """Put images through one layer of filters, which are whitened patches of the first classes.

    relu(f * x - 1) and relu(-f * x - 1), the mean of each over the four quarters of the image
    Coates, Ng & Lee 2011 (single-layer networks), with patches drawn in place of k-means.

    Patches, whitening and the features' mean and spread are of the training rows of the first
    `classes` alone, as if that task had come first.
    """
    chance = torch.Generator().manual_seed(0)
    first = data.train_y < classes
    train = _few(data.train_y, limit)
    test = _few(data.test_y, limit)
    assert isinstance(data.train_x, Tensor)
    assert isinstance(data.test_x, Tensor)
    weight, offset = _filters(data.train_x[first], filters, size, chance)
    before, after = (
        _features(images, weight, offset) for images in (data.train_x[train], data.test_x[test])
    )
    known = before[data.train_y[train] < classes]
    mean, spread = known.mean(0), known.std(0).clamp_min(1e-3)
    return Labelled(
        f"{data.name}, random patches",
        (before - mean) / spread,
        data.train_y[train],
        (after - mean) / spread,
        data.test_y[test],
        data.class_names,
    )


def _few(y: Tensor, limit: int) -> Tensor:
    """Choose the first `limit` rows of each class."""
    return torch.cat(
        [(y == c).nonzero().flatten()[:limit] for c in range(int(y.max()) + 1)]
    ).sort()[0]


def _filters(x: Tensor, count: int, size: int, chance: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw patches and whiten them; give filters, (count, channels, size, size), and offsets."""
    drawn = x[torch.randint(len(x), (20 * count,), generator=chance)].float()
    drawn = (drawn - drawn.mean((1, 2, 3), keepdim=True)) / drawn.std((1, 2, 3), keepdim=True)
    corner = torch.randint(x.shape[-1] - size + 1, (len(drawn), 2), generator=chance).tolist()
    cut = [row[:, i : i + size, j : j + size] for row, (i, j) in zip(drawn, corner, strict=True)]
    patches = torch.stack(cut).flatten(1)
    mean = patches.mean(0)
    values, vectors = torch.linalg.eigh((patches - mean).T.cov())
    white = vectors * (values + 0.1).rsqrt() @ vectors.T
    seeds = F.normalize((patches[:count] - mean) @ white, dim=1) @ white
    return seeds.view(count, x.shape[1], size, size), -seeds @ mean


def _features(x: Tensor, weight: Tensor, offset: Tensor) -> Tensor:
    parts = []
    for rows in torch.split(x, 500):
        images = rows.float()
        images = (images - images.mean((1, 2, 3), keepdim=True)) / images.std(
            (1, 2, 3), keepdim=True
        )
        maps = F.conv2d(images, weight, offset, stride=2)
        both = torch.cat((F.relu(maps - 1), F.relu(-maps - 1)), 1)
        parts.append(F.adaptive_avg_pool2d(both, 2).flatten(1))
    return torch.cat(parts)
