"""How often the gate's tests are wrong, and how many rows they need.

python benchmarks/gate.py [--runs 1000] [--rows 10000] [--out FILE.json]

Paired differences are looked at after every 50 rows. `plug-in` is the test with the bets of
Waudby-Smith & Ramdas 2024 (arXiv:2010.09686, Theorem 3, eq. 26) on the same rows; it is computed
at the margin alone. Quantiles count a run that found nothing as infinite.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lifelong.serve.guardrail import Guardrail
from lifelong.serve.sequential import PairedTest

PAIRS = {  # worse, better: shares of rows on which one of the two alone is right
    "equal, 90 % each": (0.05, 0.05),
    "equal, 99 % agree": (0.005, 0.005),
    "worse by 2 points": (0.06, 0.04),
    "better by 1 point": (0.045, 0.055),
    "better by 2 points": (0.04, 0.06),
    "better by 2, agreeing more": (0.02, 0.04),
    "better by 5 points": (0.05, 0.10),
}
GUARDS = {  # good rows before the fall, the rate before, the rate after
    "0.90 for ever": (0, 0.9, 0.9),
    "0.88 for ever, just allowed": (0, 0.88, 0.88),
    "0.90, then 0.70 from the start": (0, 0.9, 0.7),
    "0.90, then 0.70 after 1000 rows": (1000, 0.9, 0.7),
    "0.90, then 0.70 after 5000 rows": (5000, 0.9, 0.7),
    "0.90, then 0.80 from the start": (0, 0.9, 0.8),
}


def first_look(differences: NDArray[np.int64]) -> tuple[float, float]:
    """Rows at which the test first says better, and first says worse."""
    test = PairedTest()
    found = {"better": np.inf, "worse": np.inf}
    for start in range(0, len(differences), 50):
        test.add(differences[start : start + 50])
        verdict = test.verdict()
        if verdict != "undecided" and found[verdict] == np.inf:
            found[verdict] = test.n
            if verdict == "better":
                break
    return found["better"], found["worse"]


def first_plugin(differences: NDArray[np.int64], alpha: float = 0.05) -> float:
    """Rows at which the published bets first exclude a mean of 0 and less."""
    x = (differences + 1) / 2
    t = np.arange(1, len(x) + 1)
    mean = (0.5 + np.cumsum(x)) / (t + 1)
    variance = (0.25 + np.cumsum((x - mean) ** 2)) / (t + 1)
    before = np.concatenate([[0.25], variance[:-1]])
    bets = np.sqrt(2 * np.log(2 / alpha) / (before * t * np.log(1 + t)))
    capital = np.cumsum(np.log1p(np.minimum(bets, 0.5 / 0.5) * (x - 0.5)))[49::50]
    hit = capital >= np.log(2 / alpha)
    return float(50 * (hit.argmax() + 1)) if hit.any() else np.inf


def paired(worse: float, better: float, runs: int, rows: int, seed: int) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    chances = [worse, 1 - worse - better, better]
    ours, down, plugin = [], [], []
    for _ in range(runs):
        differences = rng.choice(np.array([-1, 0, 1]), size=rows, p=chances)
        said_better, said_worse = first_look(differences)
        ours.append(said_better)
        down.append(said_worse)
        plugin.append(first_plugin(differences))
    return {
        "better": share(ours),
        "worse": share(down),
        "rows": quantiles(ours),
        "plug-in better": share(plugin),
        "plug-in rows": quantiles(plugin),
    }


def guarded(good: int, before: float, after: float, runs: int, rows: int) -> dict[str, Any]:
    rng = np.random.default_rng(good + 1)
    early, delays = 0, []
    for _ in range(runs):
        guard = Guardrail(reference=0.9)
        guard.add(rng.random(good) < before)
        if guard.breached:
            early += 1
            continue
        guard.add(rng.random(rows) < after)
        delays.append(np.inf if guard.breached_at is None else guard.breached_at - good)
    return {"early": early / runs, "alarm": share(delays), "rows": quantiles(delays)}


def share(found: list[float]) -> float:
    return float(np.isfinite(found).mean())


def quantiles(found: list[float]) -> list[float | None]:
    """The rows by which 50, 90 and 95 % of runs had an answer."""
    ordered = np.sort(found)
    places = [min(int(np.ceil(q * len(ordered))) - 1, len(ordered) - 1) for q in (0.5, 0.9, 0.95)]
    return [float(ordered[i]) if np.isfinite(ordered[i]) else None for i in places]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.perf_counter()
    results: dict[str, Any] = {"paired": {}, "guardrail": {}}
    print(f"{options.runs} runs of up to {options.rows} rows; rows by which 50, 90, 95 % found it")
    for seed, (name, (worse, better)) in enumerate(PAIRS.items()):
        found = paired(worse, better, options.runs, options.rows, seed)
        results["paired"][name] = found
        print(
            f"{name:28} better {found['better']:.3f}  worse {found['worse']:.3f}  "
            f"rows {found['rows']}  plug-in {found['plug-in better']:.3f} {found['plug-in rows']}",
            flush=True,
        )
    for name, (good, before, after) in GUARDS.items():
        found = guarded(good, before, after, options.runs, options.rows)
        results["guardrail"][name] = found
        print(
            f"{name:32} early {found['early']:.3f}  alarm {found['alarm']:.3f}  "
            f"rows {found['rows']}",
            flush=True,
        )
    results |= {"runs": options.runs, "rows": options.rows, "numpy": np.__version__}
    results |= {"python": platform.python_version(), "seconds": time.perf_counter() - start}
    if options.out:
        options.out.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
