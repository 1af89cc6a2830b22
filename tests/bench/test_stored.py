from dataclasses import replace

import pytest
import torch
from torch import nn

from lifelong import Batch, default_learner
from lifelong.bench.constraints import Constraints
from lifelong.bench.recipes import RECIPES
from lifelong.bench.stored import (
    LEVELS,
    STORED,
    is_known,
    keeps_rows,
    least,
    level,
    may_not_fit,
    settings_for,
    stored,
)
from lifelong.metrics.cost import state_bytes
from lifelong.nets import RidgeHead

KNOWN = Constraints(
    storage=1_000_000, tasks=5, row_bytes=64, classes=10, parameters=10_000, task_known=True
)


@pytest.mark.parametrize(
    "method", [name for name, recipe in RECIPES.items() if recipe.bound is None]
)
def test_what_every_method_stores_is_understood(method: str):
    assert all(thing in STORED for thing, _ in stored(method))
    assert level(method) in LEVELS
    assert least(method, KNOWN) >= least(method, Constraints()) >= 0


@pytest.mark.parametrize(
    ("method", "size"),
    [
        ("replay", 10 * (64 + 24)),
        ("der++", 10 * (64 + 24) + 2 * 10 * 10),
        ("ewc", 80_000),
        ("si", 200_000),
        ("gdumb", 880 + 40_000),
        ("ogd", 40_000),
        ("progressive", 200_000),
        ("supsup", 50_000),
        ("wa", 0),
        ("default", 10 * (16 + 24) + 2 * 10 * 10),
    ],
)
def test_the_fewest_bytes(method: str, size: int):
    assert least(method, KNOWN) == size
    assert is_known(method, KNOWN)


@pytest.mark.parametrize(
    ("method", "size"), [("gpm", 0), ("experts", 400_000), ("dgr", 40_000), ("sleep", 40_025)]
)
def test_what_is_known_is_a_bound_where_the_rest_is_not(method: str, size: int):
    few = Constraints(parameters=10_000)
    assert least(method, few) == size
    assert not is_known(method, few)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
def test_the_fewest_bytes_of_the_default_are_no_more_than_it_takes(dtype: torch.dtype):
    x = torch.rand(40, 768).mul(9).to(dtype)
    learner = default_learner(nn.Sequential(_Floats(), nn.Linear(768, 10)), "20KB")
    learner.observe(Batch.of(x, torch.arange(40) % 10, 0))
    kept = state_bytes(learner.strategies[0].state_dict()["memory"])
    c = Constraints(row_bytes=x[0].numel() * x.element_size(), classes=10)
    assert least("default", c) <= kept <= 21_000


class _Floats(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.float()


def test_the_sums_of_a_head_of_a_width_of_its_own_are_reckoned():
    assert least("ranpac", KNOWN) == least("ranpac-warm", KNOWN) == 8 * 1000 * (1000 + 10)
    head = RidgeHead(64, classes=10, width=1000)
    assert least("ranpac", KNOWN) <= head.held_bytes
    assert head.held_bytes == least("ranpac", KNOWN) + 4 * 1000 * 64 + 8 * 10
    told = "it keeps 8.08 MB, and 4 kB more for each feature of the backbone"
    assert settings_for("ranpac", replace(KNOWN, storage=20_000_000)) == ({}, told)
    assert may_not_fit("slda", KNOWN)


@pytest.mark.parametrize(
    ("method", "told"),
    [
        ("default", False),
        ("replay", False),
        ("gem", False),
        ("icarl", True),
        ("gdumb", True),
        ("lwf", True),
    ],
)
def test_what_a_capacity_bounds_fits_though_its_need_is_not_known(method: str, told: bool):
    assert may_not_fit(method, Constraints(storage=1_000_000)) == told
    assert not may_not_fit(method, KNOWN)
    assert not may_not_fit(method, Constraints())


def test_rows_are_told_from_what_rows_can_be_had_from():
    assert [
        name for name in ("replay", "adaptive-ewc", "ogd", "gpm", "ewc") if keeps_rows(name)
    ] == [
        "replay",
        "adaptive-ewc",
    ]


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("replay", {"capacity": "1MB"}),
        ("gdumb", {"capacity": "960KB"}),
        ("icarl", {"capacity": 960_000 // 88}),
        ("gem", {"capacity": "1MB"}),
        ("ogd", {"directions": 25}),
        ("ewc", {}),
    ],
)
def test_the_storage_is_made_use_of(method: str, wanted: dict[str, int | str]):
    found, doubt = settings_for(method, KNOWN)
    assert found == wanted
    assert doubt is None


def test_what_cannot_be_reckoned_is_said():
    bare = Constraints(storage="1MB")
    assert settings_for("icarl", bare.settled())[1] == (
        "its capacity counts rows: say row_bytes to have it fitted into the storage"
    )
    assert "say row_bytes and classes and parameters" in str(settings_for("gdumb", bare.settled()))
    assert settings_for("icarl", Constraints()) == ({}, None)
    little = Constraints(storage=5_000, row_bytes=784, classes=10)
    assert "does not fit if inputs are bytes: these stay bytes, 8.08 kB at least" in str(
        settings_for("default", little)[1]
    )
    assert settings_for("default", Constraints(storage=9_000, row_bytes=784, classes=10))[1] is None
