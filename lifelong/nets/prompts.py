"""Prompts that a frozen transformer is given, put together for each row from a growing pool."""

from __future__ import annotations

from typing import Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.core.task import TaskSpec
from lifelong.nets.by_task import is_newest
from lifelong.nets.minilm import MiniLM, UpperLayers
from lifelong.nets.transformer import Transformer


class Prompts(nn.Module):
    """Components of prompts for one block: each task adds some, and earlier ones are frozen.

    prompt(q) = sum over m of cos(q * attention_m, key_m) * value_m

    Args:
        width: of queries, and of the prompts' places.
        length: places of a prompt; half go before the keys of attention, half before its values.
        components: what each task adds.

    Shapes: (rows, width) to (rows, length, width).
    """

    def __init__(self, width: int, length: int, components: int) -> None:
        super().__init__()
        self.width = width
        self.length = length
        self.components = components
        self.parts = nn.ModuleDict()
        self.register_buffer("_like", torch.empty(0), persistent=False)
        self._like: Tensor

    def grow(self, task: TaskSpec) -> list[nn.Parameter]:
        """Add the components of a task, orthogonal to earlier ones as long as there is room.

        Raises:
            ValueError: the task has components, and later ones have begun since.
        """
        if is_newest([int(id) for id in self.parts], task):
            return []
        self.parts.requires_grad_(False)
        shapes = {
            "key": (self.width,),
            "attention": (self.width,),
            "value": (self.length, self.width),
        }
        new = nn.ParameterDict(
            {name: self._orthogonal(name, shape) for name, shape in shapes.items()}
        )
        self.parts[str(task.id)] = new
        return list(new.parameters())

    def joined(self, name: str) -> Tensor:
        """Put the components of all tasks together: (components, ...)."""
        return torch.cat([part.get_parameter(name) for part in self.parts.values()])

    def forward(self, query: Tensor) -> Tensor:
        """Compute each row's prompt."""
        asked = query[:, None] * self.joined("attention")  # (rows, components, width)
        weights = F.cosine_similarity(asked, self.joined("key"), dim=-1)
        return torch.einsum("rc,clw->rlw", weights, self.joined("value"))

    def overlap(self) -> Tensor:
        """Tell how far keys, attentions and values are from orthonormal: sum of |T T' - I|**2.

        0 before the first task.
        """
        if not self.parts:
            return self._like.new_zeros(())
        off = []
        for name in ("key", "attention", "value"):
            flat = self.joined(name).flatten(1)
            off.append((flat @ flat.T - torch.eye(len(flat), device=flat.device)).square().sum())
        return torch.stack(off).sum()

    @torch.no_grad()
    def _orthogonal(self, name: str, shape: tuple[int, ...]) -> nn.Parameter:
        like = self._like
        exact = torch.promote_types(like.dtype, torch.float32)  # torch has no QR in half precision
        new = torch.empty(self.components, *shape, device=like.device, dtype=exact)
        nn.init.orthogonal_(new)
        if self.parts:
            # Within what earlier ones leave free; where they leave nothing, as it was drawn.
            old = self.joined(name).flatten(1).to(exact)
            if len(old) + self.components <= old.shape[1]:
                basis = torch.linalg.qr(old.T).Q
                rest = new.flatten(1) - (new.flatten(1) @ basis) @ basis.T
                new = torch.linalg.qr(rest.T).Q.T.reshape(new.shape).contiguous()
        return nn.Parameter(new.to(like.dtype))


class Prompted(nn.Module):
    """A frozen transformer that is given prompts, put together for each row from a growing pool.

    features = backbone(x, prefix = prompts(q)), q = backbone(x) without prompts
    Smith et al. 2023, arXiv:2211.13218 (CODA-Prompt).

    Each task adds `components` to every prompted block, and the earlier ones are frozen, as in
    the paper. The strategy `Orthogonal` is its penalty. The authors mask the outputs of earlier
    classes while a task is learned; here that is up to the head and the loss (`MultiHead`). Their
    first code draws all components at once; here a task's are made orthogonal to those before.

    A pass takes two of the backbone. It stays in eval mode, without dropout, so pretrain it.

    Args:
        backbone: learned before, a `Transformer`, a `MiniLM` or the upper layers of one (`cut`);
            it is frozen.
        components: that each task adds to a block.
        length: of a prompt, an even number of places.
        blocks: how many, from the first on, get prompts; the authors prompt 5 of 12.

    Shapes: as the backbone's.

    Raises:
        ValueError: sizes that are not positive, an odd length, more blocks than there are, another
            backbone, or one that gives features for each place, of which no query can be made.

    Example:
        >>> net = Prompted(Transformer(tokens=50, width=16, heads=2), components=2, length=4)
        >>> new = [p for pool in net.pools for p in pool.grow(TaskSpec(0))]
        >>> net(torch.tensor([[1, 2, 3]])).shape
        torch.Size([1, 16])
    """

    def __init__(
        self,
        backbone: Transformer | MiniLM | UpperLayers,
        *,
        components: int = 10,
        length: int = 8,
        blocks: int = 1,
    ) -> None:
        super().__init__()
        for name, size in {"components": components, "length": length, "blocks": blocks}.items():
            if size < 1:
                raise ValueError(f"{name} is {size}; it must be 1 or more")
        if length % 2:
            raise ValueError(f"length is {length}; it must be even: keys and values share it")
        if not isinstance(backbone, Transformer | MiniLM | UpperLayers):
            raise ValueError(
                f"the backbone is of type {type(backbone).__name__}, which takes no prompts; give "
                "a Transformer, a MiniLM or the upper layers of one (cut), or take add_lora(model)"
            )
        if blocks > len(backbone.blocks):
            raise ValueError(f"blocks is {blocks}; the backbone has {len(backbone.blocks)}")
        if getattr(backbone, "pool", None) == "none":
            raise ValueError(
                "the backbone's pool is 'none', which gives features for each place, but prompts "
                "are put together by those of the whole row; make it with pool='mean' or 'first'"
            )
        self.features = backbone.features
        self.backbone = backbone.requires_grad_(False)
        self.pools = nn.ModuleList(
            Prompts(backbone.features, length, components) for _ in range(blocks)
        )
        self.train(self.training)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of this module; the backbone stays in eval mode."""
        super().train(mode)
        self.backbone.eval()
        return self

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the features, (rows, width); before the first task, those without prompts."""
        with torch.no_grad():
            query = self.backbone(x, mask)
        if not all(len(pool.parts) for pool in self._pools()):
            return query  # type: ignore[no-any-return]
        given: list[tuple[Tensor, Tensor] | None] = [None] * len(self.backbone.blocks)
        for place, pool in enumerate(self._pools()):
            keys, values = pool(query).chunk(2, dim=1)
            given[place] = keys, values
        return self.backbone(x, mask, given)  # type: ignore[no-any-return]

    def _pools(self) -> list[Prompts]:
        return [pool for pool in self.pools if isinstance(pool, Prompts)]
