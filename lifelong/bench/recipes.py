"""The strategies by name: what the command line, the tables and the docs call them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from lifelong.core.errors import UnknownName
from lifelong.core.strategy import Strategy
from lifelong.strategies import (
    DER,
    DGR,
    EWC,
    L2,
    MAS,
    SI,
    DERpp,
    FeatureReplay,
    LwF,
    MeRGAN,
    Replay,
)

Bound = Literal["joint", "cumulative"]


@dataclass(frozen=True, slots=True)
class Recipe:
    """A strategy as one names it, with what one wants to know before choosing it.

    Attributes:
        make: makes it from its settings; None for fine-tuning and the bounds.
        family: how it works against forgetting.
        stores: what it keeps between tasks; P is the size of the model.
        needs: what it must be told.
        paper: where it comes from.
        bound: the rows it may train on, if it is a bound.
    """

    make: Callable[..., Strategy] | None
    family: str
    stores: str
    needs: str
    paper: str
    bound: Bound | None = None

    def settings(self) -> dict[str, Any]:
        """Name the settings with their defaults.

        Example:
            >>> RECIPES["lwf"].settings()
            {'strength': 1.0, 'temperature': 2.0, 'per_task': False}
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
        return {name: p for name, p in own.items() if name not in ("device", "path")}


_KINDS: Mapping[str, tuple[type, ...]] = {
    "float": (float, int),
    "int": (int,),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


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
    "si": Recipe(SI, "weights", "5 P", "boundaries", "arXiv:1703.04200"),
    "mas": Recipe(MAS, "weights", "2 P", "boundaries", "arXiv:1711.09601"),
    "lwf": Recipe(LwF, "distillation", "P", "boundaries", "arXiv:1606.09282"),
    "replay": Recipe(Replay, "replay", "rows", "nothing", "arXiv:1902.10486"),
    "der": Recipe(DER, "replay", "rows, outputs", "nothing", "arXiv:2004.07211"),
    "der++": Recipe(DERpp, "replay", "rows, outputs", "nothing", "arXiv:2004.07211"),
    "dgr": Recipe(DGR, "generative replay", "P, 5 G", "boundaries", "arXiv:1705.08690"),
    "dgr-distil": Recipe(
        partial(DGR, targets="soft"),
        "generative replay",
        "P, 5 G",
        "boundaries",
        "arXiv:1809.10635",
    ),
    "mergan": Recipe(MeRGAN, "generative replay", "P, 5 G", "boundaries", "arXiv:1809.02058"),
    "feature-replay": Recipe(
        FeatureReplay, "generative replay", "moments", "boundaries", "arXiv:2303.05118"
    ),
}
"""Every strategy by name. Several joined by `+` act together, in that order."""


def parts(name: str) -> list[str]:
    """Take the name of a combination apart.

    Raises:
        UnknownName: a part is no strategy's name.

    Example:
        >>> parts("ewc+der+++lwf")
        ['ewc', 'der++', 'lwf']
    """
    held = name.replace("der++", "der\0")
    found = [part.replace("\0", "++") for part in held.split("+")]
    for part in found:
        if part not in RECIPES:
            raise UnknownName("strategy", part, RECIPES)
    bounds = [part for part in found if RECIPES[part].bound or part == "fine-tune"]
    if bounds and len(found) > 1:
        raise ValueError(f"{bounds[0]} stands alone; {name!r} combines it with other strategies")
    return found


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
        recipe, own = RECIPES[part], settings.get(part, {})
        for setting, value in own.items():
            if setting not in recipe.settings():
                raise UnknownName(f"setting of {part}", setting, recipe.settings())
            recipe.check(setting, value)
        if recipe.make is not None:
            made.append(recipe.make(**own))
    return made


def bound(name: str) -> Bound | None:
    """Tell which rows a strategy may train on, if it is a bound."""
    return RECIPES[parts(name)[0]].bound
