"""A service's configuration: one YAML file, checked in full before anything starts."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin, get_type_hints

import yaml

from lifelong.core.errors import ConfigError
from lifelong.serve.auth import Key, Keys
from lifelong.serve.canary import Canary
from lifelong.serve.gate import Gate
from lifelong.serve.keep import Keep
from lifelong.serve.plan import Plan
from lifelong.serve.schema import Schema
from lifelong.serve.watch import Guard

if TYPE_CHECKING:  # torch takes seconds to import, and a setting is refused before
    from lifelong.core.learner import Learner

Mode = Literal["manual", "recommend", "automatic"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What comes in: the shape of one row of features, how many classes, and a range."""

    shape: list[int]
    classes: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """When a candidate is made, and what becomes of it.

    Attributes:
        mode: "automatic" promotes what passes the gate, by way of the canary if there is one, and
            rolls back what breaches the guardrail; "recommend" says so and waits for an operator;
            "manual" judges versions and recommends none. A canary that gets worse is withdrawn in
            all but "manual".
        every: seconds between candidates, at least.
        rows: rows learned from between candidates, at least.
        tolerance: how far a new champion may stay below the one before it, on the same rows.
        keep: whole learners kept for rolling back.
        records: versions that are known at all, 50 or more; of older ones nothing stays.
        hourly: automatic promotions in an hour, at most; what passes beyond that is recommended.
        distance: by how much an automatic promotion has to stay within the gate's `forgetting`
            on each task's anchors; what passes otherwise is recommended.
        canary: before a promotion.
        guard: after it.
    """

    mode: Mode = "automatic"
    every: float = 2.0
    rows: int = 50
    tolerance: float = 0.1
    keep: int = 5
    records: int = 1000
    hourly: int = 120
    distance: float = 0.0
    canary: Canary = field(default_factory=Canary)
    guard: Guard = field(default_factory=Guard)

    def __post_init__(self) -> None:
        if self.records < 50:
            raise ValueError(f"records is {self.records}; 50 versions keep their weights, at least")
        if self.hourly < 1 or not 0 <= self.distance < 1:
            raise ValueError(
                f"hourly {self.hourly}, distance {self.distance}; give 1 promotion or more (see "
                "mode for none), and a difference of rates, 0 to 1"
            )
        if self.every < 0 or self.rows < 1 or self.keep < 1 or not 0 < self.tolerance < 1:
            raise ValueError(
                f"every {self.every}, rows {self.rows}, keep {self.keep}, tolerance "
                f"{self.tolerance}; give 0 seconds, 1 row and 1 learner or more, and a tolerance "
                "between 0 and 1"
            )


@dataclass(frozen=True, slots=True)
class Serve:
    """Where requests come in, and how much at once.

    Attributes:
        host: an address of this machine.
        port: 0 for any that is free.
        log: "durable" answers a prediction when its event is on disk, "async" before.
        flush: seconds after which rows that wait for a full batch are learned all the same.
        batch_rows: rows that the model computes at once.
        most_waiting: rows that may wait for it.
        most_bytes: of a request.
        logs: how the processes write what they say to stderr.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    log: Literal["durable", "async"] = "durable"
    flush: float = 0.5
    batch_rows: int = 64
    most_waiting: int = 1024
    most_bytes: int = 1_000_000
    logs: Literal["json", "text"] = "json"

    def __post_init__(self) -> None:
        if not 0 <= self.port < 65536 or not self.flush > 0:
            raise ValueError(
                f"port {self.port}, flush {self.flush}; a port is 0 to 65535, and flush above 0"
            )
        for name in ("batch_rows", "most_waiting", "most_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be 1 or more")


@dataclass(frozen=True, slots=True)
class Retain:
    """How much of the event log is kept.

    Attributes:
        keep: "all", or the newest "1000000 events", "30 days" or "10 GB".
        remember: events that were trimmed, whose ids stay known: sent again, they add nothing.
        compact: seconds after which the log's file is rewritten, if something was trimmed, so that
            no byte of that stays; in small parts, between which others write. 0 for never.
        decisions: entries of the audit that stay, at least; 0 for all.
    """

    keep: str = "all"
    remember: int = 1_000_000
    compact: float = 86_400.0
    decisions: int = 100_000

    def __post_init__(self) -> None:
        Keep.of(self.keep)
        if self.remember < 0 or self.compact < 0 or self.decisions < 0:
            raise ValueError(
                f"remember {self.remember}, compact {self.compact}, decisions {self.decisions}; "
                "give 0 or more of each"
            )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key by its hash; as in `lifelong.serve.auth.Key`."""

    name: str
    roles: list[str]
    sha256: str
    rate: float | None = None


def usual_gate() -> Gate:
    """The gate of a service whose configuration says nothing about it: made for few rows."""
    return Gate(0.05, margin=0.02, minimum=30, minimum_group=10, standard="observed", patience=500)


@dataclass(frozen=True, slots=True)
class Config:
    """All of a service's settings.

    Attributes:
        learner: `FILE.py:FUNCTION`, relative to the configuration; the function takes no arguments
            and returns a new learner, always the same.
        folder: for all state; relative to the configuration.
        schema: of rows and labels.
        train: how the trainer learns.
        gate, release, serve, log, keys: as said there.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "shop.yaml"
        ...     _ = path.write_text("{learner: shop.py:learner, schema: {shape: [4], classes: 2}}")
        ...     config = Config.read(path)
        >>> config.train.batch, config.folder.name
        (16, 'shop')
    """

    learner: str
    schema: Rows
    folder: Path
    train: Plan = field(default_factory=Plan)
    gate: Gate = field(default_factory=usual_gate)
    release: Release = field(default_factory=Release)
    serve: Serve = field(default_factory=Serve)
    log: Retain = field(default_factory=Retain)
    keys: list[ApiKey] = field(default_factory=list)
    root: Path = Path()

    @classmethod
    def read(cls, path: Path | str) -> Config:
        """Read and check a file.

        Raises:
            ConfigError: there is no such file, it is no YAML, or a setting is missing, unknown or
                senseless; the message names it.
        """
        path = Path(path).absolute()
        try:
            given = yaml.safe_load(path.read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read {path}: {error.strerror}") from error
        except yaml.MarkedYAMLError as error:
            mark, found = error.problem_mark, error.problem or error.context
            where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
            raise ConfigError(f"{path} is not YAML: {where}{found}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ConfigError(f"{path} is not YAML: {error}") from error
        if not isinstance(given, dict):
            raise ConfigError(f"{path} holds {type(given).__name__}; it must hold settings")
        folder = given.get("folder", path.stem)
        if not isinstance(folder, str):
            raise ConfigError(f"folder is {folder!r}; give a path")
        given = {**given, "folder": path.parent / folder, "root": path.parent}
        config: Config = _make(cls, given, "")
        config.parts()
        return config

    def parts(self) -> tuple[Schema, Gate, Keys]:
        """Make what needs no learner: the schema, the gate and the keys."""
        rows = self.schema
        try:
            schema = Schema(tuple(rows.shape), classes=rows.classes, low=rows.low, high=rows.high)
            held = self.held()
        except ValueError as error:
            raise ConfigError(str(error)) from error
        return schema, self.gate, held

    def held(self, own: Key | None = None) -> Keys:
        """Make the keys, with one of the service's own where any are asked for."""
        made = [Key(key.name, frozenset(key.roles), key.sha256, key.rate) for key in self.keys]
        return Keys([*made, own] if made and own is not None else made)

    def source(self) -> tuple[Path, str]:
        """Return the user's file and the name of the function in it, which is not looked for.

        Raises:
            ConfigError: there is no such file.
        """
        file, colon, name = self.learner.rpartition(":")
        path = self.root / file
        if not colon or path.suffix != ".py" or not path.is_file():
            raise ConfigError(
                f"learner is {self.learner!r}; give FILE.py:FUNCTION with a file in {self.root}"
            )
        return path, name

    def factory(self) -> Callable[[], Learner]:
        """Import the user's function.

        Raises:
            ConfigError: there is no such file or function, or it fails as it is imported.
        """
        path, name = self.source()
        spec = importlib.util.spec_from_file_location(f"lifelong_user_{path.stem}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = module
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            raise ConfigError(f"{path} fails: {type(error).__name__}: {error}") from error
        made: Callable[[], Learner] | None = getattr(module, name, None)
        if not callable(made):
            raise ConfigError(f"{path} has no function {name!r}")
        return made


def _make(kind: Any, given: Mapping[str, Any], where: str, usual: Any = None) -> Any:
    """Make a dataclass from plain values, each checked against its type; the rest is as usual."""
    hints = get_type_hints(kind)
    known = [f for f in fields(kind) if f.init]
    for name in given:
        if name not in {f.name for f in known}:
            near = get_close_matches(str(name), [f.name for f in known], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            told = ", ".join(f.name for f in known if f.name != "root")
            raise ConfigError(f"unknown setting {where}{name}; {hint}known: {told}")
    for one in known:
        needed = one.default is MISSING and one.default_factory is MISSING
        if needed and one.name not in given:
            raise ConfigError(f"{where}{one.name} is missing")
    made = {f.name: f.default_factory for f in known if f.default_factory is not MISSING}
    values = {
        name: _value(hints[name], value, f"{where}{name}", made.get(name))
        for name, value in given.items()
    }
    try:
        return kind(**values) if usual is None else replace(usual, **values)
    except ValueError as error:
        raise ConfigError(f"{where.rstrip('.')}: {error}") from error


def _value(hint: Any, value: Any, name: str, usual: Callable[[], Any] | None = None) -> Any:
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise ConfigError(f"{name} is {value!r}; it must hold settings")
        return _make(hint, value, f"{name}.", usual() if usual else None)
    if get_origin(hint) in (list, Sequence):
        if not isinstance(value, list):
            raise ConfigError(f"{name} is {value!r}; it must be a list")
        [item] = get_args(hint)
        return [_value(item, one, f"{name}[{i}]") for i, one in enumerate(value)]
    if get_origin(hint) is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{name} is {value!r}; choose {' or '.join(get_args(hint))}")
        return value
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if isinstance(value, list) and (lists := [k for k in kinds if get_origin(k) is list]):
        return _value(lists[0], value, name)
    if float in kinds and type(value) is int:
        return float(value)
    if type(value) in kinds or (isinstance(value, Path) and Path in kinds):
        return value
    told = " or ".join("nothing" if kind is NoneType else _told(kind) for kind in kinds)
    raise ConfigError(f"{name} is {value!r}; it must be of type {told}")


def _told(kind: Any) -> str:
    return f"list of {get_args(kind)[0].__name__}" if get_args(kind) else str(kind.__name__)
