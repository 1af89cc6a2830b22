"""Imports point one way, and importing the library needs little and is fast."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "lifelong"
TORCH = {"torch", "numpy"}
BENCH = TORCH | {"rich", "sklearn", "matplotlib", "jinja2", "markupsafe"}
DATA = {"pooch", "PIL", "pyarrow", "sklearn"}
SERVE = {"apsw", "mlflow", "sqlalchemy", "fastapi", "starlette", "pydantic", "uvicorn", "msgspec"}
SERVE |= {"prometheus_client", "yaml", "httpx", "anyio"}
STRATEGIES = {"core", "memory", "nets"}

MAY_IMPORT = {
    "core": (set(), TORCH),
    "memory": ({"core"}, TORCH | {"PIL"}),
    "nets": ({"core"}, TORCH),
    "streams": ({"core"}, TORCH | DATA),
    "metrics": ({"core"}, TORCH),
    "drift": ({"core"}, TORCH),
    "preset": ({"core", "memory", "strategies"}, TORCH),
    "fused": (set(), TORCH | {"numba"}),
    "strategies": (STRATEGIES | {"fused"}, TORCH),
    "checks": (STRATEGIES | {"strategies", "streams"}, TORCH),
    "serve": ({"", "__version__", "core", "metrics", "drift"}, TORCH | SERVE),
    "demo": ({"core", "streams", "serve"}, TORCH | SERVE | {"rich"}),
    "bench": (
        STRATEGIES | {"", "__version__", "strategies", "preset", "streams", "metrics", "drift"},
        BENCH | DATA,
    ),
}
"""The parts of the library that each part may import, beside itself, and the modules outside it."""

FREE = {"cli", "commands", "__init__", "__main__"}


def parts():
    return sorted(
        {path.relative_to(ROOT).parts[0].removesuffix(".py") for path in ROOT.rglob("*.py")}
    )


def imported(path):
    """Name every module that a file imports, also within functions."""
    package = ("lifelong", *path.relative_to(ROOT).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*base, *([node.module] if node.module else [])))
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def files(part):
    return sorted((ROOT / part).rglob("*.py")) or [ROOT / f"{part}.py"]


def offences(part):
    inside, outside = MAY_IMPORT[part]
    for path in files(part):
        for module, line in imported(path):
            top, _, rest = module.partition(".")
            own = rest.partition(".")[0]
            if top == "lifelong" and own not in {part, *inside}:
                yield f"{path.relative_to(ROOT)}:{line} imports {module}"
            if top != "lifelong" and top not in outside and top not in sys.stdlib_module_names:
                yield f"{path.relative_to(ROOT)}:{line} imports {module}"


def test_every_part_has_its_rule():
    assert set(parts()) - FREE <= MAY_IMPORT.keys()
    assert {"core", "memory", "nets", "streams", "strategies"} <= set(parts())


@pytest.mark.parametrize("part", [part for part in parts() if part in MAY_IMPORT])
def test_imports_point_one_way(part):
    assert list(offences(part)) == []


def test_the_rule_finds_what_it_forbids(tmp_path, monkeypatch):
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "bad.py").write_text(
        textwrap.dedent(
            """
            import os, torch
            from lifelong.core.batch import Batch
            def late():
                import rich.table
                from lifelong.memory import Memory
                from lifelong import strategies
                from .. import nets
                from . import task
            """
        )
    )
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    assert list(offences("core")) == [
        "core/bad.py:5 imports rich.table",
        "core/bad.py:6 imports lifelong.memory.Memory",
        "core/bad.py:7 imports lifelong.strategies",
        "core/bad.py:8 imports lifelong.nets",
    ]


def python(code):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_importing_needs_torch_and_numpy_alone():
    # What torch brings along is there before; after it, nothing but the library may be found.
    found = python(
        """
        import sys
        import numpy, torch, torch.func, torch.utils.data
        class Only:
            def find_spec(self, name, path=None, target=None):
                top = name.partition(".")[0]
                if top not in {"lifelong", "torch", "numpy", *sys.stdlib_module_names}:
                    raise ImportError(f"{name} is not installed")
        sys.meta_path.insert(0, Only())
        before = set(sys.modules)
        from lifelong import *
        new = {name.partition(".")[0] for name in set(sys.modules) - before}
        print(sorted(new - set(sys.stdlib_module_names)))
        """
    )
    assert set(ast.literal_eval(found)) <= {"lifelong", "torch", "numpy"}


def test_importing_leaves_the_heavy_parts_out():
    found = python(
        """
        import sys
        from lifelong import *
        print([m for m in ("lifelong.bench", "lifelong.cli", "torch._dynamo") if m in sys.modules])
        """
    )
    assert found == "[]\n"


def test_importing_is_fast():
    code = """
        from time import process_time
        import torch
        start = process_time()
        from lifelong import *
        print(process_time() - start)
    """
    seconds = min(float(python(code)) for _ in range(3))
    print(f"import lifelong takes {seconds * 1000:.0f} ms on top of torch")
    assert seconds < 0.3


def test_the_command_line_starts_without_torch():
    found = python(
        """
        import sys
        from lifelong.cli import main
        try:
            main(["--help"])
        except SystemExit:
            print([m for m in ("torch", "numpy") if m in sys.modules])
        """
    )
    assert found.endswith("[]\n")


def test_the_parts_are_there_after_a_plain_import():
    found = python(
        """
        import lifelong
        print(lifelong.nets.MLP.__name__, lifelong.EWC.__name__, hasattr(lifelong, "nothing"))
        print(set(lifelong.__all__) <= set(dir(lifelong)))
        """
    )
    assert found == "MLP EWC False\nTrue\n"
