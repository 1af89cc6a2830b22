"""Suites by name: a data set, how it is cut into tasks, a model and how it learns."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from math import isfinite
from typing import Any, ClassVar, Literal, get_args

import torch

from lifelong.bench.recipes import RECIPES, make, parts, preset, training
from lifelong.core.errors import UnknownName
from lifelong.streams import DATASETS

Scenario = Literal[
    "class-incremental", "task-incremental", "domain-incremental", "permuted", "rotated", "blurry",
    "in-order",
]  # fmt: skip
Head = Literal["growing", "fixed", "multi"]
Optimizer = Literal["sgd", "adam"]


@dataclass(frozen=True, slots=True)
class Suite:
    """A benchmark's protocol, as plain data: each field can be set from the command line.

    Attributes:
        summary: one line about it.
        data: a data set's name (`lifelong list datasets`).
        scenario: how it is cut into tasks.
        tasks: how many.
        model: "mlp", "cnn" or "resnet18".
        width: of the model: units of each of two hidden layers, or channels.
        head: "growing" (outputs for the classes so far), "fixed" (for all classes from the start)
            or "multi" (one part a task, told which; for task-incremental and permuted suites).
        init: "default" (torch's) or "xavier" (uniform, biases zero).
        scale: pixels are divided by this.
        mean, std: subtracted from what that makes, and divided by.
        augment: random crops and mirror images.
        optimizer, lr, momentum, weight_decay: as in `torch.optim`.
        batch, epochs, iterations: rows a batch; passes over each task, or batches of it instead.
        class_order: "natural", or "random" by the seed.
        validation: the share of the training rows that is kept apart.
        on: "test", or "valid" to measure on the rows kept apart, to choose settings by.
        limit: training rows of a class at most.
        mixing: the share of rows from other tasks, of blurry suites.
        curve: how often the accuracy is measured during each task, beside its end.
        settings: of strategies, by name.
    """

    summary: str
    data: str
    scenario: Scenario = "class-incremental"
    tasks: int = 5
    model: Literal["mlp", "cnn", "resnet18"] = "mlp"
    width: int = 400
    head: Head = "growing"
    init: Literal["default", "xavier"] = "default"
    scale: float = 255.0
    mean: float = 0.0
    std: float = 1.0
    augment: bool = False
    optimizer: Optimizer = "sgd"
    lr: float = 0.05
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch: int = 128
    epochs: int = 1
    iterations: int | None = None
    class_order: Literal["natural", "random"] = "natural"
    validation: float = 0.0
    on: Literal["test", "valid"] = "test"
    limit: int | None = None
    mixing: float = 0.1
    curve: int = 4
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    fixed: ClassVar[tuple[str, ...]] = ("summary", "settings")
    """What cannot be set."""


_SCENARIOS = Suite(
    "", "mnist", optimizer="adam", lr=1e-3, iterations=2000, curve=4,
    settings={"lwf": {"per_task": True}},
)  # fmt: skip
_SOURCE = "van de Ven & Tolias 2018 (arXiv:1809.10635)"
_HSU = Suite(
    "", "mnist", optimizer="adam", lr=1e-3, epochs=4, mean=0.1, std=0.2752,
    settings={"replay": {"policy": "balanced", "by": "task", "fill": "task"}},
)  # fmt: skip

SUITES: Mapping[str, Suite] = {
    "digits": Suite(
        "scikit-learn's 8x8 digits, class-incremental in 5 tasks; a run takes seconds",
        "digits", width=100, head="fixed", scale=16.0, optimizer="adam", lr=1e-3, batch=16,
        epochs=10,
        settings={
            "ewc": {"strength": 100.0}, "replay": {"capacity": 200},
            "der": {"capacity": 200}, "der++": {"capacity": 200},
            "default": {"capacity": "17600B"},  # of 200 rows as they come
            **{name: {"scale": 16.0} for name in ("dgr", "dgr-distil", "mergan")},
        },
    ),
    "split-mnist-task": replace(
        _SCENARIOS, summary=f"MNIST, told which of 5 tasks; {_SOURCE}",
        scenario="task-incremental", head="multi",
    ),
    "split-mnist-domain": replace(
        _SCENARIOS, summary=f"MNIST, odd or even in 5 tasks; {_SOURCE}",
        scenario="domain-incremental", head="fixed",
    ),
    "split-mnist-class": replace(
        _SCENARIOS, summary=f"MNIST, class-incremental in 5 tasks; {_SOURCE}",
    ),
    "split-mnist-online": Suite(
        "MNIST, class-incremental in one pass; Buzzega et al. 2020 (arXiv:2004.07211)",
        "mnist", width=100, head="fixed", init="xavier", lr=0.03, batch=10,
        settings={"replay": {"rows": 10}, "der": {"rows": 10}, "der++": {"rows": 10}},
    ),
    "split-mnist-hsu-task": replace(
        _HSU, summary="MNIST, told which of 5 tasks, 4 passes; Hsu et al. 2018 (arXiv:1810.12488)",
        scenario="task-incremental", head="multi",
    ),
    "split-mnist-hsu-domain": replace(
        _HSU, summary="MNIST, odd or even in 5 tasks, 4 passes; Hsu et al. 2018",
        scenario="domain-incremental", head="fixed",
    ),
    "split-mnist-hsu-class": replace(
        _HSU, summary="MNIST, class-incremental in 5 tasks, 4 passes; Hsu et al. 2018",
    ),
    "split-fashion-mnist": Suite(
        "Fashion-MNIST, class-incremental in 5 tasks, one pass", "fashion-mnist", head="fixed",
    ),
    "permuted-mnist": Suite(
        "MNIST under 10 orders of its pixels", "mnist", scenario="permuted", tasks=10, head="fixed",
    ),
    "rotated-mnist": Suite(
        "MNIST turned by 0 to 180 degrees in 5 tasks", "mnist", scenario="rotated", head="fixed",
    ),
    "blurry-fashion-mnist": Suite(
        "Fashion-MNIST in 5 tasks of which each has 10 % rows of others",
        "fashion-mnist", scenario="blurry", head="fixed",
    ),
    "split-cifar10": Suite(
        "CIFAR-10, class-incremental, ResNet-18, 50 passes; for a GPU; arXiv:2004.07211",
        "cifar10", model="resnet18", width=64, head="fixed", augment=True, lr=0.1, batch=32,
        epochs=50, settings={"replay": {"rows": 32}, "der++": {"rows": 32}},
    ),
    "split-cifar10-small": Suite(
        "CIFAR-10 scaled down for a CPU: 500 rows a class, reduced ResNet-18, 5 passes",
        "cifar10", model="resnet18", width=20, head="fixed", augment=True, lr=0.1, batch=32,
        epochs=5, limit=500,
    ),
}  # fmt: skip
"""Every suite by name."""


def suite_of(name: str) -> Suite:
    """Return the suite of a name, or the one for data of one's own, by their path.

    Raises:
        UnknownName: there is no such suite; the nearest is named.
        DatasetError: it is a path, and there is nothing to be read.
    """
    from lifelong.bench.own import is_own, own_suite

    if name in SUITES:
        return SUITES[name]
    if is_own(name):
        return own_suite(name)
    raise UnknownName("suite", name, SUITES)


def resolve(name: str, strategy: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Settle everything that a run of a strategy on a suite depends on, as plain data.

    Args:
        name: of the suite, or the path of a table, a zip file of images or a folder of them.
        strategy: a name or a combination.
        given: what differs from the suite: its fields, and `strategy.setting`.

    Raises:
        UnknownName: there is no such suite, strategy, field or setting; the nearest is named.
        ValueError: a value is of the wrong kind, or makes no sense.

    Example:
        >>> resolve("digits", "ewc", {"lr": 0.1, "ewc.strength": 5})["settings"]
        {'ewc': {'strength': 5}}
    """
    chosen = suite_of(name)
    suite = asdict(chosen)
    suite.pop("summary")
    named = parts(strategy)
    suite |= training(strategy)
    own = preset(strategy)
    settings = {p: {**suite["settings"].get(p, {}), **own.get(p, {})} for p in named}
    known = {f.name: f.type for f in fields(chosen) if f.name not in chosen.fixed}
    for key, value in given.items():
        owner, dot, setting = key.rpartition(".")
        if dot:
            if owner in settings:
                if isinstance(value, bool) and isinstance(
                    RECIPES[owner].settings().get(setting), str
                ):
                    value = str(value).lower()  # "true" can be the name of something
                settings[owner][setting] = value
            else:
                parts(owner)
        elif key in known:
            suite[key] = _checked(key, value, suite[key], str(known[key]))
        else:
            raise UnknownName("setting", key, known)
    if given.get("iterations") is not None:
        if "epochs" in given:
            raise ValueError(
                f"epochs is {given['epochs']} and iterations is {given['iterations']}; give one of "
                "them"
            )
        suite["epochs"] = 1
    elif "epochs" in given:  # of a suite that counts batches, too
        suite["iterations"] = None
    make(strategy, settings)  # refuses wrong ones now rather than in the middle of a run
    device = "cuda" if torch.cuda.is_available() else "cpu"
    which = {"suite": name, "strategy": strategy, "device": device}
    return {**which, **suite, "settings": settings}


_CHOICES: Mapping[str, tuple[str, ...]] = {
    "data": tuple(DATASETS),
    "scenario": get_args(Scenario),
    "head": get_args(Head),
    "optimizer": get_args(Optimizer),
    "model": ("mlp", "cnn", "resnet18"),
    "init": ("default", "xavier"),
    "class_order": ("natural", "random"),
    "on": ("test", "valid"),
}


def _checked(name: str, value: Any, default: Any, kind: str) -> Any:
    if name in _CHOICES and value not in _CHOICES[name]:
        raise UnknownName(f"value of {name}", str(value), _CHOICES[name])
    if value is None and "None" in kind:
        return None
    wanted = float if isinstance(default, float) else type(default) if default is not None else int
    if wanted is str and name not in _CHOICES and not isinstance(value, str):
        value = json.dumps(value)  # a name of one's own may look like a number
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise ValueError(f"{name} is {value!r}; it must be of type {wanted.__name__}")
    if not isinstance(value, str) and not (isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {value!r}; it must be a finite number of 0 or more")
    return value
