"""Kill `lifelong run` at random moments and see whether it comes to the same results.

    python benchmarks/kill_resume.py [--kills 20] [--seed 0]

Strategies and seeds run side by side on digits, in two processes. Each time, all of them get
SIGKILL at a random moment after one has saved or ended, and the same command is started again.
The accuracies, the curves and the SHA-256 of the weights must equal those of runs that nobody
disturbed, to the last bit.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

STRATEGIES = ("ewc+replay", "der++", "si", "lwf")
FIELDS = ("accuracy", "curve", "weights_sha256")


def command(out: Path, epochs: int, seeds: str) -> list[str]:
    program = [sys.executable, "-m", "lifelong", "run", "digits", "--strategy", *STRATEGIES]
    return [
        *program,
        *("--seeds", seeds, "--workers", "2", "--set", f"epochs={epochs}", "--out", str(out)),
    ]


def saves(out: Path) -> dict[Path, int]:
    """Say when each checkpoint and result was written."""
    found = {}
    for path in out.glob("jobs/*/[cr]*"):
        try:
            found[path] = path.stat().st_mtime_ns
        except FileNotFoundError:  # a run that ends removes its checkpoint
            continue
    return found


def start_and_kill(words: list[str], out: Path, delay: float) -> bool:
    """Kill the command so long after it has saved; return False if it ended before."""
    before = saves(out)
    process = subprocess.Popen(
        words, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and saves(out) == before:
        time.sleep(0.005)
    time.sleep(delay)
    over = process.poll() is not None
    if over and process.returncode:
        raise SystemExit(f"{' '.join(words)} failed: {process.communicate()[1]}")
    if not over:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    return not over


def results(words: list[str], out: Path) -> list[dict[str, Any]]:
    """Let the command go on to its end."""
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    found: list[dict[str, Any]] = json.loads((out / "results.json").read_text("utf-8"))
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the random moments")
    parser.add_argument("--seeds", default="0,1,2", help="of the runs")
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    with tempfile.TemporaryDirectory() as folder:
        whole, cut = Path(folder) / "whole", Path(folder) / "cut"
        undisturbed = results(command(whole, options.epochs, options.seeds), whole)
        tasks = sum(len(run["accuracy"]) for run in undisturbed)
        task = sum(run["seconds"] for run in undisturbed) / tasks
        words, kills = command(cut, options.epochs, options.seeds), 0
        while kills < options.kills and start_and_kill(words, cut, chance.uniform(0, task)):
            kills += 1
        disturbed = results(words, cut)
    print(f"{kills} kills of the whole command, each resumed")
    same = len(undisturbed) == len(disturbed)
    for theirs, ours in zip(undisturbed, disturbed, strict=True):
        equal = [field for field in FIELDS if theirs[field] == ours[field]]
        same &= equal == list(FIELDS)
        print(f"{ours['strategy']:12} seed {ours['seed']}  equal: {', '.join(equal) or 'nothing'}")
    print("all results are the same to the last bit" if same else "the results DIFFER")
    return 0 if same and kills == options.kills else 1


if __name__ == "__main__":
    raise SystemExit(main())
