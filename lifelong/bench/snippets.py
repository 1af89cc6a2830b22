"""A method as what one types: a command that tries it, and lines of Python that use it."""

from __future__ import annotations

import inspect
import json
import shlex
from collections.abc import Mapping
from functools import partial
from typing import Any

from lifelong.bench.recipes import RECIPES

INCREMENTS: Mapping[str, Mapping[str, str]] = {
    "class": {},
    "domain": {"scenario": "domain-incremental"},
    "task": {"scenario": "task-incremental", "head": "multi"},
}
"""What makes of a class-incremental suite one of another kind of increments."""

_ARGUMENT = {"capacity": "memory"}
"""What the default's strategy and the function that makes its learner call by different names."""


def command(method: str, settings: Mapping[str, Any], suite: Mapping[str, Any], name: str) -> str:
    """Write the command that tries a method with its settings on a suite.

    Example:
        >>> command("der++", {"capacity": "1MB"}, INCREMENTS["domain"], "digits")
        'lifelong run digits --strategy der++ --set scenario=domain-incremental der++.capacity=1MB'
    """
    own = {f"{method}.{key}": value for key, value in settings.items()}
    pairs = [
        f"{key}={value if isinstance(value, str) else json.dumps(value)}"
        for key, value in {**suite, **own}.items()
    ]
    words = ["lifelong", "run", name, "--strategy", method]
    return shlex.join([*words, *(["--set", *pairs] if pairs else [])])


def python(method: str, settings: Mapping[str, Any]) -> str:
    """Write the lines that give a `model` its learner with a method.

    Those of a head that is computed take a `backbone` and its number of `features` instead.

    Example:
        >>> print(python("der++", {"capacity": "1MB"}))
        from torch.optim import Adam
        <BLANKLINE>
        from lifelong import Learner
        from lifelong.strategies import DERpp
        <BLANKLINE>
        optimizer = Adam(model.parameters(), lr=1e-3)
        learner = Learner(model, optimizer, [DERpp(capacity='1MB')])
        >>> print(python("default", {"capacity": "1MB"}))
        from lifelong import default_learner
        <BLANKLINE>
        learner = default_learner(model, memory='1MB')
        >>> print(python("slda", {}))
        from lifelong import Learner
        from lifelong.nets import Classifier, LDAHead
        from lifelong.strategies import Analytic
        <BLANKLINE>
        # backbone: the frozen part of your model, which gives (rows, features)
        model = Classifier(backbone.requires_grad_(False), LDAHead(features))
        learner = Learner(model, None, [Analytic()])
    """
    if method == "default":
        told = "".join(f", {_ARGUMENT.get(k, k)}={v!r}" for k, v in settings.items())
        return f"from lifelong import default_learner\n\nlearner = default_learner(model{told})"
    recipe = RECIPES[method]
    if recipe.head is not None:
        return _analytic(recipe.head, warm="boundaries" in recipe.needs)
    made: Any = recipe.make
    given = dict(settings)
    if isinstance(made, partial):
        made, given = made.func, {**made.keywords, **settings}
    imports, strategies = ["from lifelong import Learner"], "[]"
    by_name = made is not None and not inspect.isclass(made)
    if by_name or recipe.network is not None:
        imports.append("from lifelong.bench import recipes")
    if by_name:
        strategies = f"recipes.make({method!r}, {{{method!r}: {dict(settings)!r}}})"
    elif made is not None:
        imports.append(f"from lifelong.strategies import {made.__name__}")
        arguments = ", ".join(f"{key}={value!r}" for key, value in given.items())
        strategies = f"[{made.__name__}({arguments})]"
    network = [f"model = recipes.network({method!r}, model)"] if recipe.network else []
    optimizer = "optimizer = Adam(model.parameters(), lr=1e-3)"
    learner = f"learner = Learner(model, optimizer, {strategies})"
    return "\n".join(
        ["from torch.optim import Adam", "", *imports, "", *network, optimizer, learner]
    )


def _analytic(head: Any, *, warm: bool) -> str:
    """Write the lines that put a head that is computed behind a backbone."""
    given = [f"{k}={v!r}" for k, v in head.keywords.items()] if isinstance(head, partial) else []
    name = head.func.__name__ if isinstance(head, partial) else head.__name__
    if not warm:
        made = f"{name}({', '.join(['features', *given])})"
        return "\n".join(
            [
                "from lifelong import Learner",
                f"from lifelong.nets import Classifier, {name}",
                "from lifelong.strategies import Analytic",
                "",
                "# backbone: the frozen part of your model, which gives (rows, features)",
                f"model = Classifier(backbone.requires_grad_(False), {made})",
                "learner = Learner(model, None, [Analytic()])",
            ]
        )
    made = f"{name}({', '.join(['features', *given, 'logits=GrowingHead(features)'])})"
    return "\n".join(
        [
            "from torch.optim import Adam",
            "",
            "from lifelong import Learner",
            f"from lifelong.nets import Classifier, GrowingHead, {name}",
            "from lifelong.strategies import Analytic",
            "",
            "# backbone: the part of your model that gives (rows, features); frozen after a task",
            f"model = Classifier(backbone, {made})",
            "optimizer = Adam(model.parameters(), lr=1e-3)",
            "learner = Learner(model, optimizer, [Analytic(warm=True)])",
        ]
    )
