import pytest

from lifelong.bench.constraints import Constraints
from lifelong.bench.recipes import RECIPES
from lifelong.bench.stored import LEVELS, STORED, least, level, settings_for, stored

KNOWN = Constraints(
    storage=1_000_000, tasks=5, row_bytes=64, classes=10, parameters=10_000, task_known=True
)


@pytest.mark.parametrize(
    "method", [name for name, recipe in RECIPES.items() if recipe.bound is None]
)
def test_what_every_method_stores_is_understood(method: str):
    assert all(thing in STORED for thing, _ in stored(method))
    assert level(method) in LEVELS
    size = least(method, KNOWN)
    assert size is None or size >= 0


@pytest.mark.parametrize(
    ("method", "size"),
    [
        ("replay", 10 * (64 + 24)),
        ("der++", 10 * (64 + 24) + 4 * 10 * 10),
        ("ewc", 80_000),
        ("si", 200_000),
        ("gdumb", 880 + 40_000),
        ("ogd", 40_000),
        ("progressive", 200_000),
        ("supsup", 50_000),
        ("wa", 0),
        ("gpm", None),
    ],
)
def test_the_fewest_bytes(method: str, size: int | None):
    assert least(method, KNOWN) == size


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("replay", {"capacity": "1MB"}),
        ("gdumb", {"capacity": "960KB"}),
        ("icarl", {"capacity": 960_000 // 88}),
        ("gem", {"capacity": 1_000_000 // 88}),
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
    assert settings_for("gem", bare.settled())[1] == (
        "its capacity counts rows: say row_bytes to have it fitted into the storage"
    )
    assert "say row_bytes and classes and parameters" in str(settings_for("gdumb", bare.settled()))
    assert settings_for("gem", Constraints()) == ({}, None)
