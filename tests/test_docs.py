"""The docs name everything that is public, their links lead somewhere, and their code runs."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
from pathlib import Path

import pytest
import torch

import lifelong
from lifelong import checks, cli, memory, metrics, nets, streams
from lifelong.bench import reproduce, runner
from lifelong.bench.recipes import RECIPES
from lifelong.bench.suites import SUITES, resolve
from lifelong.commands import bench
from lifelong.commands.arguments import setting
from lifelong.core.errors import LifelongError

ROOT = Path(__file__).parents[1]
DOCS = sorted((ROOT / "docs").rglob("*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS]

FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
PERCENT = re.compile(r"([\d.]+) ?%")
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def blocks(path: Path, language: str) -> list[str]:
    return [code for kind, code in FENCED.findall(path.read_text("utf-8")) if kind == language]


def prose(path: Path) -> str:
    return FENCED.sub("", path.read_text("utf-8"))


def code_in(paths: list[Path]) -> str:
    """All that is set as code, in the text and in blocks, a piece a line."""
    pieces = []
    for path in paths:
        pieces += [code for _, code in FENCED.findall(path.read_text("utf-8"))]
        pieces += INLINE.findall(prose(path))
    return "\n".join(pieces)


def mentioned(name: str, code: str) -> bool:
    return re.search(rf"(?<![\w-]){re.escape(name)}(?![\w+-])", code) is not None


def anchors(path: Path) -> set[str]:
    titles = HEADING.findall(FENCED.sub("", path.read_text("utf-8")))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def commands(path: Path) -> list[str]:
    text = path.read_text("utf-8")
    lines = [line for kind, code in FENCED.findall(text) if kind == "sh" for line in
             code.replace("\\\n", " ").splitlines()]  # fmt: skip
    shown = [line.split(" #")[0].strip() for line in lines] + INLINE.findall(prose(path))
    return [line for line in shown if line.startswith("lifelong ")]


PUBLIC = {
    module.__name__: list(module.__all__)
    for module in (lifelong, checks, streams, nets, metrics, memory)
}
CODE = code_in(DOCS)


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_documented(module):
    missing = [name for name in PUBLIC[module] if not mentioned(name, CODE)]
    assert not missing, f"docs/ says nothing of {missing} of {module}"


@pytest.mark.parametrize(
    "names", [RECIPES, SUITES, checks.CHECKS, memory.POLICIES, streams.DATASETS]
)
def test_everything_with_a_name_is_documented(names):
    missing = [name for name in names if not mentioned(name, CODE)]
    assert not missing, f"docs/ says nothing of {missing}"


def test_every_setting_of_a_strategy_is_documented():
    code = code_in([ROOT / "docs/strategies.md"])
    settings = {name for recipe in RECIPES.values() for name in recipe.settings()}
    missing = sorted(name for name in settings if not mentioned(name, code))
    assert not missing, f"docs/strategies.md says nothing of {missing}"


def test_every_error_is_documented():
    assert runner.RunFailed in LifelongError.__subclasses__()
    found, code = [LifelongError], code_in([ROOT / "docs/errors.md"])
    for error in found:
        found += [sub for sub in error.__subclasses__() if sub.__module__.startswith("lifelong")]
    missing = sorted({error.__name__ for error in found if not mentioned(error.__name__, code)})
    assert not missing, f"docs/errors.md says nothing of {missing}"


def test_every_target_of_make_exists():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = {target for path in PAGES for target in re.findall(r"`?make (\w+)`", prose(path))}
    targets |= {
        line.split()[1]
        for path in PAGES
        for code in blocks(path, "sh")
        for line in code.splitlines()
        if line.startswith("make ")
    }
    assert targets
    assert not [t for t in targets if not re.search(rf"^{t}:", makefile, re.MULTILINE)]


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_lead_somewhere(path):
    for link in LINK.findall(prose(path)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), f"{path.name} links to {link}, which is not there"
        assert target.is_relative_to(ROOT), f"{path.name} links out of the project: {link}"
        if anchor:
            assert anchor in anchors(target), f"{path.name} links to {link}: no such heading"


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if blocks(path, "python")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_code_runs_and_prints_about_what_is_said(path, tmp_path, monkeypatch):
    """The blocks of a page, in order, in one namespace and an empty folder."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    threads, out = torch.get_num_threads(), io.StringIO()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), contextlib.redirect_stdout(out):
            for number, code in enumerate(blocks(path, "python"), start=1):
                exec(compile(code, f"{path.name}, block {number}", "exec"), namespace)
    finally:
        torch.set_num_threads(threads)
    if path.name not in ("README.md", "quickstart.md"):
        return
    said = [float(value) for text in blocks(path, "text") for value in PERCENT.findall(text)]
    printed = [float(value) for value in PERCENT.findall(out.getvalue())]
    assert said
    # Another processor rounds otherwise, and training carries that on: a few rows of a task.
    assert printed == pytest.approx(said, abs=4.5)


@pytest.mark.parametrize(
    ("path", "command"),
    [(path, command) for path in PAGES for command in dict.fromkeys(commands(path))],
    ids=lambda part: part.stem if isinstance(part, Path) else part,
)
def test_commands_are_understood(path, command, tmp_path, monkeypatch):
    (tmp_path / "orders.csv").write_text("price,move\n1,up\n2,down\n")
    monkeypatch.chdir(tmp_path)
    arguments = shlex.split(command)[1:]
    if len(arguments) == 1:  # `lifelong run` in a sentence names the command, and that is all
        arguments.append("--help")
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.parser().parse_args(arguments)
        return
    options = cli.parser().parse_args(arguments)  # leaves with what is wrong
    if options.act is bench._run and not options.suite.isupper():
        given = dict(setting(text) for text in options.set)
        bench._check_owners(given, options.strategy)
        for strategy in options.strategy:
            resolve(options.suite, strategy, given)
    elif options.act is bench._reproduce and options.table and not options.table.isupper():
        reproduce.read_table(options.table)
    elif options.act is bench._list and options.what:
        assert options.what in bench.LISTS
