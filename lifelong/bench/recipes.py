"""The strategies by name: what the command line, the tables and the docs call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from torch import nn

from lifelong.bench import networks
from lifelong.bench.hybrids import HYBRIDS
from lifelong.core.errors import UnknownName
from lifelong.core.forward import wants_task
from lifelong.core.strategy import Strategy
from lifelong.nets import (
    AnalyticHead,
    Classifier,
    LDAHead,
    MeansHead,
    NearestMeanHead,
    RidgeHead,
    add_bottlenecks,
    add_lora,
)
from lifelong.preset import TRAINING
from lifelong.strategies import (
    AGEM,
    DER,
    DGR,
    EEIL,
    ERACE,
    EWC,
    GEM,
    GPM,
    HAT,
    L2,
    MAS,
    MIR,
    OGD,
    SI,
    WA,
    XDER,
    Adaptive,
    Analytic,
    BiC,
    ClassBalanced,
    ClassRatio,
    CleanReplay,
    DERpp,
    Exemplars,
    ExpertGate,
    FeatureDistillation,
    FeatureReplay,
    Feedback,
    GDumb,
    ICaRL,
    InfLoRA,
    LwF,
    MeanTeacher,
    MeRGAN,
    Orthogonal,
    PackNet,
    PooledDistillation,
    Prioritized,
    Replay,
    Sleep,
    Steady,
)

Bound = Literal["joint", "cumulative"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A strategy as one names it, with what one wants to know before choosing it.

    Attributes:
        make: makes it from its settings; None for fine-tuning and the bounds.
        family: how it works against forgetting.
        stores: what it keeps between tasks; P is the size of the model.
        needs: what it must be told: "nothing", or of "boundaries" (that tasks end) and "task ids"
            those that it cannot do without, joined by ", ".
        paper: where it comes from.
        bound: the rows it may train on, if it is a bound.
        network: what it makes of a suite's network, where it needs one of its own.
        training: fields of a suite that it brings along, such as the optimizer, if it does.
        head: what makes the head that is computed, of a number of features, if it has one.
    """

    make: Callable[..., Strategy] | None
    family: str
    stores: str
    needs: str
    paper: str
    bound: Bound | None = None
    network: Callable[[nn.Module], nn.Module] | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    head: Callable[..., AnalyticHead] | None = None

    def settings(self) -> dict[str, Any]:
        """Name the settings with their defaults.

        Example:
            >>> RECIPES["lwf"].settings()
            {'strength': 1.0, 'temperature': 2.0, 'per_task': False, 'rows': 'new', 'record': 0}
        """
        return {name: parameter.default for name, parameter in self._parameters().items()}

    def check(self, setting: str, value: Any) -> None:
        """Raise ValueError unless a setting's value is of its type.

        Example:
            >>> RECIPES["lwf"].check("strength", "high")
            Traceback (most recent call last):
                ...
            ValueError: strength is 'high'; it must be of type float
        """
        kinds = str(self._parameters()[setting].annotation).split(" | ")
        if all(kind in _KINDS for kind in kinds) and type(value) not in {
            fitting for kind in kinds for fitting in _KINDS[kind]
        }:
            raise ValueError(f"{setting} is {value!r}; it must be of type {' or '.join(kinds)}")

    def _parameters(self) -> dict[str, inspect.Parameter]:
        if self.make is None:
            return {}
        parameters = inspect.signature(self.make).parameters
        own = {n: p for n, p in parameters.items() if p.kind is not p.VAR_KEYWORD}
        if len(own) < len(parameters):  # the others are those of the replay it builds on
            own |= {n: p for n, p in RECIPES["replay"]._parameters().items() if n not in own}
        return {name: p for name, p in own.items() if name not in ("device", "path", "memory")}


_KINDS: Mapping[str, tuple[type, ...]] = {
    "float": (float, int),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


def _adaptive_ewc(
    strength: float = 100.0,
    *,
    max_forgetting: float = 0.02,
    max_intransigence: float = 0.05,
    share: float = 0.05,
    every: int = 50,
) -> Adaptive:
    feedback = Feedback(
        max_forgetting, max_intransigence=max_intransigence, share=share, every=every
    )
    return Adaptive(EWC(strength), feedback=feedback)


def _growing_lwf(
    strength: float = 1.0, *, temperature: float = 2.0, power: float = 0.5
) -> Adaptive:
    return Adaptive(LwF(strength, temperature=temperature), schedule=ClassRatio(power))


def _nearest_mean(model: nn.Module) -> nn.Module:
    """Let a head that is not told the task classify by class means."""
    if isinstance(model, Classifier) and not wants_task(model):
        model.head = NearestMeanHead(model.head)
    return model


_TOLD = "boundaries, task ids"


def _analytic(
    kind: Callable[..., AnalyticHead], model: nn.Module, *, warm: bool = False
) -> nn.Module:
    """Put a head that is computed in place of one that is trained, or around it."""
    if wants_task(model):
        raise ValueError(
            f"analytic heads are not told the task, as the suite's {type(model).__name__} is; "
            "choose a class- or domain-incremental suite"
        )
    features = networks.features_before(model)
    if not isinstance(model, Classifier) or not features:
        raise ValueError(
            f"{type(model).__name__} does not say where its features end and its head begins; make "
            "it a Classifier(backbone, head) of this library, whose head is nn.Linear or a "
            "GrowingHead"
        )
    if warm:
        model.head = kind(features, logits=model.head)
        return model
    model.requires_grad_(False)
    classes = getattr(model.head, "out_features", 0)
    model.head = kind(features, classes=classes)
    return model


_ridge = partial(RidgeHead, width=1000)

RECIPES: Mapping[str, Recipe] = {
    "fine-tune": Recipe(None, "none", "nothing", "nothing", "the lower bound"),
    "joint": Recipe(None, "bound", "all rows", "all tasks at once", "the upper bound", "joint"),
    "cumulative": Recipe(
        None, "bound", "all rows", "boundaries", "retraining on all rows so far", "cumulative"
    ),
    "l2": Recipe(L2, "weights", "2 P", "boundaries", "in arXiv:1612.00796"),
    "ewc": Recipe(EWC, "weights", "2 P", "boundaries", "arXiv:1612.00796"),
    "online-ewc": Recipe(
        partial(EWC, decay=1.0), "weights", "2 P", "boundaries", "arXiv:1805.06370"
    ),
    "adaptive-ewc": Recipe(
        _adaptive_ewc,
        "weights",
        "2 P, held-out rows",
        "boundaries, keys",
        "arXiv:1612.00796, steered",
    ),
    "si": Recipe(SI, "weights", "5 P", "boundaries", "arXiv:1703.04200"),
    "mas": Recipe(MAS, "weights", "2 P", "boundaries", "arXiv:1711.09601"),
    "lwf": Recipe(LwF, "distillation", "P", "boundaries", "arXiv:1606.09282"),
    "growing-lwf": Recipe(
        _growing_lwf, "distillation", "P", "boundaries", "arXiv:1606.09282, in LUCIR (CVPR 2019)"
    ),
    "features": Recipe(
        FeatureDistillation, "distillation", "P", "boundaries", "in LUCIR, Hou et al. (CVPR 2019)"
    ),
    "pooled": Recipe(PooledDistillation, "distillation", "P", "boundaries", "arXiv:2004.13513"),
    "mean-teacher": Recipe(
        MeanTeacher, "distillation", "P", "nothing", "arXiv:1703.01780, arXiv:2201.12604"
    ),
    "replay": Recipe(Replay, "replay", "rows", "nothing", "arXiv:1902.10486"),
    "exemplars": Recipe(Exemplars, "replay", "rows", "boundaries", "arXiv:1611.07725"),
    "prioritized": Recipe(Prioritized, "replay", "rows", "nothing", "arXiv:1511.05952"),
    "clean-replay": Recipe(CleanReplay, "replay", "rows", "nothing", "arXiv:1804.06872"),
    "der": Recipe(DER, "replay", "rows, outputs", "nothing", "arXiv:2004.07211"),
    "der++": Recipe(DERpp, "replay", "rows, outputs", "nothing", "arXiv:2004.07211"),
    "sleep": Recipe(Sleep, "replay", "rows, P", "boundaries", "arXiv:2303.10725"),
    "x-der": Recipe(XDER, "replay", "rows, outputs", "boundaries", "arXiv:2201.00766"),
    "er-ace": Recipe(ERACE, "replay", "rows", "nothing", "arXiv:2104.05025"),
    "default": Recipe(
        Steady,
        "replay",
        "rows, outputs",
        "nothing",
        "arXiv:2104.05025, arXiv:2004.07211",
        training=TRAINING,
    ),
    "mir": Recipe(MIR, "replay", "rows", "nothing", "arXiv:1908.04742"),
    "gdumb": Recipe(GDumb, "replay", "rows, P", "boundaries", "Prabhu et al. 2020"),
    "icarl": Recipe(
        ICaRL, "replay", "rows, P", "boundaries", "arXiv:1611.07725", network=_nearest_mean
    ),
    "eeil": Recipe(EEIL, "replay", "rows", "boundaries", "arXiv:1807.09536"),
    "bic": Recipe(BiC, "replay", "rows", "boundaries", "arXiv:1905.13260"),
    "ncm": Recipe(
        Analytic,
        "analytic",
        "means",
        "nothing",
        "arXiv:2210.04428",
        network=partial(_analytic, MeansHead),
        head=MeansHead,
    ),
    "slda": Recipe(
        Analytic,
        "analytic",
        "sums",
        "nothing",
        "arXiv:1909.01520",
        network=partial(_analytic, LDAHead),
        head=LDAHead,
    ),
    "ranpac": Recipe(
        Analytic,
        "analytic",
        "sums",
        "nothing",
        "arXiv:2307.02251",
        network=partial(_analytic, _ridge),
        head=_ridge,
    ),
    "ranpac-warm": Recipe(
        partial(Analytic, warm=True),
        "analytic",
        "sums",
        "boundaries",
        "arXiv:2307.02251",
        network=partial(_analytic, _ridge, warm=True),
        head=_ridge,
    ),
    "wa": Recipe(WA, "balance", "nothing", "boundaries", "arXiv:1911.07053"),
    "class-balanced": Recipe(ClassBalanced, "balance", "nothing", "nothing", "arXiv:1901.05555"),
    "gem": Recipe(GEM, "projection", "rows", "boundaries", "arXiv:1706.08840"),
    "a-gem": Recipe(AGEM, "projection", "rows", "boundaries", "arXiv:1812.00420"),
    "ogd": Recipe(OGD, "projection", "directions P", "boundaries", "arXiv:1910.07104"),
    "gpm": Recipe(GPM, "projection", "bases", "boundaries", "arXiv:2103.09762"),
    "dgr": Recipe(DGR, "generative replay", "P, 5 G", "boundaries", "arXiv:1705.08690"),
    "dgr-distil": Recipe(
        partial(DGR, targets="soft"),
        "generative replay",
        "P, 5 G",
        "boundaries",
        "arXiv:1809.10635",
    ),
    "mergan": Recipe(MeRGAN, "generative replay", "P, 5 G", "boundaries", "arXiv:1809.02058"),
    "lora": Recipe(None, "structure", "sets", "nothing", "arXiv:2106.09685", network=add_lora),
    "task-lora": Recipe(
        None,
        "structure",
        "a set a task",
        _TOLD,
        "arXiv:2106.09685",
        network=partial(add_lora, sets="task"),
    ),
    "bottlenecks": Recipe(
        None,
        "structure",
        "a set a task",
        _TOLD,
        "arXiv:1902.00751",
        network=partial(add_bottlenecks, sets="task"),
    ),
    "o-lora": Recipe(
        Orthogonal,
        "structure",
        "a set a task",
        "boundaries",
        "arXiv:2310.14152",
        network=partial(add_lora, sets="summed"),
    ),
    "inflora": Recipe(
        InfLoRA,
        "structure",
        "a set a task, bases",
        "boundaries",
        "arXiv:2404.00228",
        network=partial(add_lora, sets="summed"),
    ),
    "feature-replay": Recipe(
        FeatureReplay, "generative replay", "moments", "boundaries", "arXiv:2303.05118"
    ),
    "progressive": Recipe(
        None, "structure", "columns", _TOLD, "arXiv:1606.04671", network=networks.progressive
    ),
    "packnet": Recipe(
        PackNet, "structure", "1.25 P", _TOLD, "arXiv:1711.05769", network=networks.packed
    ),
    "supsup": Recipe(
        None, "structure", "masks", _TOLD, "arXiv:2006.14769", network=networks.supermasked
    ),
    "experts": Recipe(
        ExpertGate,
        "structure",
        "10 P, bases",
        "boundaries",
        "arXiv:1611.06194",
        network=networks.experts,
    ),
    "hat": Recipe(HAT, "structure", "P, gates", _TOLD, "arXiv:1801.01423", network=networks.gated),
}
"""Every strategy by name. Several joined by `+` act together, in that order."""


def parts(name: str) -> list[str]:
    """Take the name of a combination, or of a hybrid, apart.

    Raises:
        UnknownName: a part is no strategy's name.

    Example:
        >>> parts("ewc+der+++lwf")
        ['ewc', 'der++', 'lwf']
    """
    whole = HYBRIDS[name].parts if name in HYBRIDS else name
    held = whole.replace("der++", "der\0")
    found = [part.replace("\0", "++") for part in held.split("+")]
    for part in found:
        if part not in RECIPES:
            raise UnknownName("strategy", part, [*RECIPES, *HYBRIDS])
    bounds = [part for part in found if RECIPES[part].bound or part == "fine-tune"]
    if bounds and len(found) > 1:
        raise ValueError(f"{bounds[0]} stands alone; {name!r} combines it with other strategies")
    return found


def preset(name: str) -> dict[str, dict[str, Any]]:
    """Name the settings that a hybrid brings along, by strategy; none for other combinations.

    Example:
        >>> preset("mean-er")
        {'replay': {'capacity': 200}}
    """
    held = HYBRIDS[name].settings if name in HYBRIDS else {}
    return {part: dict(own) for part, own in held.items()}


def make(name: str, settings: Mapping[str, Mapping[str, Any]]) -> list[Strategy]:
    """Make the strategies of a combination, in order, from the settings of each.

    Raises:
        UnknownName: there is no such strategy or setting.
        ValueError: a setting has a value that makes no sense.

    Example:
        >>> [type(s).__name__ for s in make("ewc+replay", {"ewc": {"strength": 5.0}})]
        ['EWC', 'Replay']
    """
    made = []
    for part in parts(name):
        recipe, own = RECIPES[part], {**preset(name).get(part, {}), **settings.get(part, {})}
        for setting, value in own.items():
            if setting not in recipe.settings():
                raise UnknownName(f"setting of {part}", setting, recipe.settings())
            recipe.check(setting, value)
        if recipe.make is not None:
            made.append(recipe.make(**own))
    return made


def network(name: str, model: nn.Module) -> nn.Module:
    """Make of a suite's network the one that a combination needs.

    Raises:
        ValueError: a strategy cannot make one of it; the message says of what it can.

    Example:
        >>> network("ewc+replay", nn.Linear(4, 2))
        Linear(in_features=4, out_features=2, bias=True)
    """
    for part in parts(name):
        make_of = RECIPES[part].network
        model = model if make_of is None else make_of(model)
    return model


def training(name: str) -> dict[str, Any]:
    """Name the fields of a suite that the strategies of a combination bring along.

    Example:
        >>> training("default")["lr"], training("replay")
        (0.002, {})
    """
    return {key: value for part in parts(name) for key, value in RECIPES[part].training.items()}


def bound(name: str) -> Bound | None:
    """Tell which rows a strategy may train on, if it is a bound."""
    return RECIPES[parts(name)[0]].bound
