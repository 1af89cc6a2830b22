"""Build what a run needs, its stream and its learner, from its settled configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from lifelong.bench import recipes
from lifelong.bench.own import load_own
from lifelong.core.batch import Batch
from lifelong.core.growth import grow, trainable
from lifelong.core.learner import Learner
from lifelong.core.strategy import Strategy
from lifelong.core.task import TaskSpec
from lifelong.memory import Memory
from lifelong.memory.encoded import codecs_for
from lifelong.nets import (
    MLP,
    AnalyticHead,
    Augment,
    Classifier,
    GrowingHead,
    MultiHead,
    Pixels,
    ResNet18,
    SmallCNN,
    TaskClassifier,
)
from lifelong.streams import (
    Labelled,
    Rows,
    Stream,
    blurry,
    class_incremental,
    cumulative,
    domain_incremental,
    in_order,
    joint,
    load,
    permuted,
    rotated,
    task_incremental,
)

Config = Mapping[str, Any]
"""What `lifelong.bench.suites.resolve` returns, with a seed."""

_named = cache(load)


def _data(config: Config) -> Labelled:
    return load_own(config) if "content" in config else _named(config["data"])


def stream_of(config: Config) -> Stream:
    """Cut the data into the tasks of a run; a bound gets all rows that it may train on.

    Raises:
        DatasetError: the data cannot be had.
        ValueError: it cannot be cut so.
    """
    stream = _cut(_data(config), config)
    kind = recipes.bound(config["strategy"])
    if kind is None:
        return stream
    return joint(stream) if kind == "joint" else cumulative(stream)


def task_names(config: Config) -> list[str]:
    """Name the tasks that a run is measured on."""
    return [task.name for task in _cut(_data(config), config).tasks]


def kept_apart(config: Config) -> tuple[Rows, ...]:
    """Return the rows of each task that nothing learns from, to choose settings by.

    Raises:
        ValueError: there are none.
    """
    parts = [task.valid for task in _cut(_data(config), config).tasks]
    if any(part is None for part in parts):
        raise ValueError(
            'on is "valid", but no rows are kept apart for each task; set validation=0.1'
        )
    return tuple(part for part in parts if part is not None)


def learner_of(config: Config, stream: Stream) -> Learner:
    """Make the learner of a run; its weights depend on the seed alone.

    Raises:
        ValueError: a setting makes no sense, or a strategy needs the task where it is not told.
        InvalidBatch: rows of the stream cannot be stored in the way asked for.
    """
    _check_told(config, stream)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config["seed"])
        model = _model(config, stream)
        if recipes.bound(config["strategy"]) == "joint":
            # All tasks come at once, so the outputs of each are there from the start.
            for task in _cut(_data(config), config).tasks:
                grow(model, TaskSpec(task.id, task.classes))
    options = {"lr": config["lr"], "weight_decay": config["weight_decay"]}
    optimizer: torch.optim.Optimizer | None
    if isinstance(getattr(model, "head", None), AnalyticHead) and not trainable(model):
        optimizer = None  # nothing trains, nor ever will
    elif config["optimizer"] == "adam":
        optimizer = torch.optim.Adam(model.parameters(), fused=True, **options)
    else:
        optimizer = torch.optim.SGD(model.parameters(), momentum=config["momentum"], **options)
    strategies = recipes.make(config["strategy"], config["settings"])
    _check_stored(strategies, stream)
    seed, device = config["seed"], config["device"]
    return Learner(model, optimizer, strategies, seed=seed, device=device)


def _check_told(config: Config, stream: Stream) -> None:
    """Refuse what must be told the task, where test rows come without it."""
    needing = [
        name
        for name in recipes.parts(config["strategy"])
        if "task ids" in recipes.RECIPES[name].needs
    ]
    if needing and not stream.task_known:
        raise ValueError(
            f"{needing[0]} must be told the task of each row, and scenario={config['scenario']} "
            f"with head={config['head']} does not tell it at test time; take one that does, --set "
            "scenario=task-incremental head=multi, or a strategy that needs no task ids (`lifelong "
            "list strategies`)"
        )


def _check_stored(strategies: Sequence[Strategy], stream: Stream) -> None:
    """Refuse a way to store rows that is not for those of the stream."""
    x = stream.tasks[0].train.x
    assert isinstance(x, torch.Tensor)
    for strategy in strategies:
        memory = getattr(strategy, "memory", None)
        if isinstance(memory, Memory):
            for codec in codecs_for({"x": x}, memory.codec).values():
                codec.check(x)
                codec.encode(torch.zeros_like(x[:1]))  # no image takes fewer bytes


def warm_up(config: Config) -> None:
    """Load what runs of a process share: the data, and the parts of torch that a first step loads.

    Without it, the first run of a process would seem to need all of that memory, the others none.
    """
    _data(config)
    with torch.random.fork_rng(devices=[]):
        net = nn.Linear(2, 2)
    optimizer = torch.optim.Adam(net.parameters(), fused=True)
    Learner(net, optimizer).observe(Batch.of(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64)))


def _cut(data: Labelled, config: Config) -> Stream:
    shared = {
        name: config[name] for name in ("tasks", "seed", "validation", "limit", "batch", "epochs")
    }
    shared["iterations"] = config["iterations"]
    if config["iterations"] is not None:
        shared["epochs"] = 1
    scenario = config["scenario"]
    if scenario == "permuted":
        stream = permuted(data, **shared)
        stream.task_known = config["head"] == "multi"
        return stream
    if scenario == "rotated":
        return rotated(data, **shared)
    if scenario == "in-order":
        return in_order(data, **shared)
    shared["class_order"] = config["class_order"]
    if scenario == "blurry":
        return blurry(data, mixing=config["mixing"], **shared)
    if scenario == "task-incremental":
        return task_incremental(data, **shared)
    if scenario == "domain-incremental":
        return domain_incremental(data, **shared)
    return class_incremental(data, **shared)


def _model(config: Config, stream: Stream) -> nn.Module:
    x = stream.tasks[0].train.x
    assert isinstance(x, torch.Tensor)
    backbone: MLP | SmallCNN | ResNet18
    if config["model"] == "mlp":
        backbone = MLP(x[0].numel(), (config["width"], config["width"]))
    elif x.ndim != 4:
        raise ValueError(f"model is {config['model']!r}, for images; of a table only mlp can learn")
    elif x.shape[-2] != x.shape[-1] and config["model"] == "cnn":
        raise ValueError(
            f"images of {x.shape[-2]} x {x.shape[-1]}; cnn takes square ones: --set size="
            f"{min(x.shape[-2:])} resizes those of your own"
        )
    elif config["model"] == "cnn":
        backbone = SmallCNN(x.shape[1], x.shape[-1], hidden=config["width"])
    else:
        backbone = ResNet18(x.shape[1], config["width"])
    front: nn.Module = Pixels(config["mean"], config["std"], config["scale"])
    if config["augment"]:
        front = nn.Sequential(Augment(), front)
    if config["head"] == "multi":
        model: nn.Module = TaskClassifier(backbone, MultiHead(backbone.features), front)
    else:
        head: nn.Module = GrowingHead(backbone.features)
        if config["head"] == "fixed":
            outputs = 1 + max(int(task.train.y.max()) for task in stream.tasks)
            head = nn.Linear(backbone.features, outputs)
        model = Classifier(backbone, head, front)
    return recipes.network(config["strategy"], _initialised(model, config))


def _initialised(model: nn.Module, config: Config) -> nn.Module:
    if config["init"] == "xavier":
        for module in model.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
    return model
