"""What learning costs: seconds, memory of the process, and bytes kept between tasks."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from time import perf_counter

import torch

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run cost: training alone (evaluation is not counted), and the most memory it held.

    `peak_rss_mb` is of the whole process, libraries and all; `growth_mb` is how far that rose
    over what the process held when the timer was made, so what the run itself needed. These and
    `peak_gpu_mb` are in 10^6 bytes; None where they cannot be known.
    """

    seconds: float
    rows: int
    peak_rss_mb: float | None
    peak_gpu_mb: float | None = None
    growth_mb: float | None = None

    @property
    def rows_per_second(self) -> float | None:
        """Rows learned from in a second of training; None before any time has passed."""
        return self.rows / self.seconds if self.seconds > 0 else None


class CostTimer:
    """Measures training: count rows inside `training()`, evaluate outside of it.

    Peaks of memory are those of the whole process; they start anew with the timer where the
    system allows that (Linux), and otherwise count from the start of the process.

    >>> timer = CostTimer()
    >>> with timer.training():
    ...     timer.count(128)
    >>> timer.cost().rows
    128
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._seconds = 0.0
        self._rows = 0
        self._running = False
        _give_back()  # else what a run before has freed would hide what this one takes
        self._held = peak_rss_mb() if reset_peak_rss() else None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    @contextmanager
    def training(self) -> Iterator[None]:
        """Count the time spent inside; on a GPU, wait for its work at both ends."""
        if self._running:
            raise RuntimeError("training() inside training(): the time would count twice")
        self._running = True
        start = self._now()
        try:
            yield
        finally:
            self._seconds += self._now() - start
            self._running = False

    def count(self, rows: int) -> None:
        """Add rows learned from."""
        if rows < 0:
            raise ValueError(f"rows is {rows!r}; a batch has 0 rows or more")
        self._rows += rows

    def cost(self) -> Cost:
        """Return the cost so far."""
        gpu = None
        if self.device.type == "cuda":
            gpu = torch.cuda.max_memory_allocated(self.device) / 1e6
        peak = peak_rss_mb()
        growth = None if peak is None or self._held is None else peak - self._held
        return Cost(self._seconds, self._rows, peak, gpu, growth)

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return perf_counter()


def peak_rss_mb() -> float | None:
    """Return the most memory the process has held, in 10^6 bytes; None if the system won't say.

    >>> peak = peak_rss_mb()
    >>> peak is None or peak > 1
    True
    """
    with suppress(OSError, ValueError):
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024 / 1e6
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak * (1 if sys.platform == "darwin" else 1024) / 1e6


def reset_peak_rss() -> bool:
    """Let the peak of memory start from what is held now; return whether the system allowed it.

    >>> reset_peak_rss() in (True, False)
    True
    """
    try:
        _CLEAR_REFS.write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def _give_back() -> None:
    """Return memory that was freed to the system, where the C library can (glibc)."""
    gc.collect()
    with suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def state_bytes(state: object) -> int:
    """Return the bytes of all tensors in a nest of dicts, lists and tuples; the rest is free.

    A tensor counts for its own rows, not for the storage that it may be a view of.

    >>> state_bytes({"rows": torch.zeros(10, 28, dtype=torch.uint8), "step": 3, "more": [
    ...     torch.zeros(2)]})
    288
    """
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, Mapping):
        return sum(state_bytes(value) for value in state.values())
    if isinstance(state, (list, tuple)):
        return sum(state_bytes(value) for value in state)
    return 0


def cost_ratio(seconds: float, baseline_seconds: float) -> float:
    """Return how many times as long as the baseline (fine-tuning) a run took.

    >>> cost_ratio(30.0, 20.0)
    1.5
    """
    if not isfinite(seconds) or seconds < 0:
        raise ValueError(f"seconds is {seconds!r}; it must be a finite number of 0 or more")
    if not isfinite(baseline_seconds) or baseline_seconds <= 0:
        raise ValueError(f"baseline_seconds is {baseline_seconds!r}; it must be above 0")
    return seconds / baseline_seconds
