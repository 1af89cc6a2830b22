"""Bottleneck adapters: a narrow layer of its own behind a frozen one."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from lifelong.nets.adapters import Adapter, Pair, Sets
from lifelong.nets.adapting import adapt
from lifelong.nets.lora import check_rank
from lifelong.nets.route import Route


class Bottleneck(Adapter):
    """A frozen linear layer, and behind it a narrow layer that learns what to add to its output.

    h = W x + b, y = h + up gelu(down h), with up = 0 at first; both have a bias
    Houlsby et al. 2019, arXiv:1902.00751.

    The authors also let layer norms learn, for each task; here they stay, so that a set is all
    that a task has of its own. `add_bottlenecks` puts these into a model.

    Args:
        base: `nn.Linear`, or the Conv1D of transformers.
        rank: width of the narrow layer.
        sets: one set for all tasks, or more; see `add_bottlenecks`.
        route: shared by all adapters of a model.

    Raises:
        ValueError: another layer, or a rank that is not positive.

    Example:
        >>> layer = Bottleneck(nn.Linear(8, 4), rank=2)
        >>> [tuple(p.shape) for p in layer.parameters() if p.requires_grad]
        [(2, 4), (2,), (4, 2), (4,)]
    """

    def __init__(
        self,
        base: nn.Module,
        rank: int,
        *,
        sets: Sets = "shared",
        route: Route | None = None,
    ) -> None:
        check_rank(rank)
        super().__init__(base, sets, Route() if route is None else route)
        self.rank = rank
        self.start()

    def new_pair(self) -> Pair:
        """Make a set."""
        return Pair(self.out_features, self.out_features, self.rank, bias=True, bend=F.gelu)

    def seen(self, x: Tensor, y: Tensor) -> Tensor:
        """Look at what comes out of the base."""
        del x
        return y


def add_bottlenecks(
    model: nn.Module,
    rank: int = 16,
    *,
    match: str | None = None,
    sets: Sets = "shared",
    head: bool | str = True,
) -> nn.Module:
    """Freeze a model and put a `Bottleneck` in the place of its linear layers; changed in place.

    In a transformer the authors put them behind the last layer of attention and of each
    feedforward part: `match=r"attention\\.out$|down$"` in a `Transformer` of this library.

    Args:
        model: any module with linear layers.
        rank: of every set.
        match: as in `add_lora`.
        sets: as in `add_lora`; "summed" adds what each set makes of the base's output.
        head: as in `add_lora`.

    Returns:
        The model; with sets="task", inside a `Routed` that wants the task.

    Raises:
        ValueError: as `add_lora`.

    Example:
        >>> from lifelong.nets import MLP, Classifier
        >>> net = add_bottlenecks(Classifier(MLP(8, hidden=(16,)), nn.Linear(16, 2)), rank=2)
        >>> sum(p.numel() for p in net.backbone.parameters() if p.requires_grad)
        82
    """
    check_rank(rank)

    def make(layer: nn.Module, route: Route) -> Bottleneck:
        return Bottleneck(layer, rank, sets=sets, route=route)

    return adapt(model, make, match=match, sets=sets, head=head)
