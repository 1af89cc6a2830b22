"""Do one job with this library and with Avalanche as shipped, in turn, and compare.

    python benchmarks/peers.py [--seeds 3] [--venv build/avalanche-venv] [--out build/peers.json]
    python benchmarks/peers.py --all [--strategies NAME ...] [--keep FILE ...] [--into PAGE]
    python benchmarks/peers.py --all --workers ours --on valid --set mas=0.01 --strategies MAS

Fashion-MNIST in 5 tasks of 2 classes, class-incremental, an MLP 784-400-400-10, batches of 128,
SGD of 0.05, one pass, one thread; all test rows after every task. Every run is a process of its
own, and so is a bare loop of fine-tuning on tensors, the unit in which machines compare. Avalanche
is installed into an environment of its own the first time. Figures are medians over seeds; so are
ratios, each between runs that follow one another. Training is timed in processor time, whole
processes by the clock; where the two differ by much the machine had other work, and it says so.

With --all it is every method of both libraries, tested once, at the end. With --keep the runs
that files of earlier goes hold count too, unless they are done again; --seeds 0 does none. Settings
are chosen with --on valid, on a tenth of the training rows, which is kept apart; --set changes one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import peer_table
from peer_install import PeerMissing, install, unpack

from lifelong.bench.results import write_atomic

ROOT = Path(__file__).parent.parent
WORKERS = Path(__file__).parent / "peers"
JOB = {
    "tasks": 5, "batch": 128, "test_batch": 512, "lr": 0.05, "memory": 500, "ewc": 100.0,
    "alpha": 0.5, "beta": 0.5, "tests": "every",
}  # fmt: skip
MORE = {
    "tests": "last", "replayed": 128, "decay": 1.0, "si": 0.1, "damping": 0.1, "mas": 0.1,
    "lwf": 1.0, "temperature": 2.0, "margin": 0.5, "gem_rows": 250, "reference": 250,
    "candidates": 2, "dumb_epochs": 50, "dumb_batch": 16, "generator_lr": 0.01,
}  # fmt: skip
"""Of the job with --all: defaults of one side or the other where both can be given them."""
BARE = 31200
"""Rows a second of the bare loop where Mammoth was timed, commit e75a491c."""
PROCESS = 2.5
"""How many times as long as ours Avalanche's whole process is to take."""


@dataclass(frozen=True)
class Case:
    name: str
    target: float | None = None
    """How many times as fast as Avalanche ours is to train; None where that has no such thing."""
    mammoth: int | None = None
    """Mammoth's rows a second, beside BARE."""
    mammoth_target: float | None = None


CASES = [
    Case("fine-tune", 3.3, 11450, 2.6),
    Case("EWC", 6.0),
    Case("EWC, 1000 rows", 6.0),
    Case("replay", 3.3, 7830, 2.1),
    Case("replay, online", None, 7830, 2.1),
    Case("DER++", 2.7),
    Case("DER++, online", None, 5960, 1.7),
]
"""Memories are filled at the end of each task, as Avalanche does, so that the first task replays
nothing; "online" with every step, as Mammoth does, whose figure for replay is beside both.
Avalanche's EWC always looks at all rows; ours also at 1000 of each task's 12000."""


def run(python: Path, worker: str, job: Mapping[str, Any]) -> dict[str, Any]:
    """Do the job in a process; return what it says and how long the whole of it took."""
    command = [str(python), "-W", "ignore", str(WORKERS / f"run_{worker}.py"), json.dumps(job)]
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    start, before = perf_counter(), processor_seconds()
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | threads)
    seconds, computed = perf_counter() - start, processor_seconds() - before
    if done.returncode:
        kind = PeerMissing if worker == "avalanche" else RuntimeError
        raise kind(f"{worker} failed on {job['strategy']}, seed {job['seed']}:\n{done.stderr}")
    said: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {
        "worker": worker, "strategy": job["strategy"], "seed": job["seed"],
        **said, "process_seconds": seconds, "processor_seconds": computed,
    }  # fmt: skip


def processor_seconds() -> float:
    """Count what processes started here, and ended, have computed."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def measure_all(
    options: argparse.Namespace, pythons: Mapping[str, Path], data: Path
) -> Iterator[dict[str, Any]]:
    """Run each method with the libraries in turn, now the one first and now the other."""
    at, order = commit(), list(options.workers)
    for name in options.strategies:
        for seed in range(options.first, options.first + options.seeds):
            own = {"strategy": name, "seed": seed, "data": str(data), "on": options.on}
            job = JOB | MORE | dict(options.set) | own
            for worker in order:
                print(f"{name}, seed {seed}: {worker}    ", end="\r", file=sys.stderr)
                yield {**run(pythons[worker], worker, job), "commit": at}
            order.reverse()


def measure(
    cases: list[Case], seeds: int, pythons: Mapping[str, Path], data: Path
) -> list[dict[str, Any]]:
    """Run everything, each round of three in another order than the one before."""
    runs, order = [], list(pythons)
    for seed in range(seeds):
        for case in cases:
            job = MORE | JOB | {"strategy": case.name, "seed": seed, "data": str(data)}
            for worker in order:
                if worker == "avalanche" and case.target is None:
                    continue
                print(f"{case.name}, seed {seed}: {worker}    ", end="\r", file=sys.stderr)
                runs.append(run(pythons[worker], worker, job))
            order.append(order.pop(0))
    return runs


def summary(case: Case, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Take the medians of a strategy's runs, and of the ratios between those of each round."""
    rounds: dict[int, dict[str, dict[str, Any]]] = {}
    for one in runs:
        if one["strategy"] == case.name:
            rounds.setdefault(one["seed"], {})[one["worker"]] = one

    def middle(worker: str, field: str) -> float | None:
        found = [each[worker][field] for each in rounds.values() if worker in each]
        return median(found) if found else None

    def ratio(field: str, worker: str, other: str) -> float | None:
        both = [each for each in rounds.values() if worker in each and other in each]
        return median(each[worker][field] / each[other][field] for each in both) if both else None

    to_bare = ratio("rows_per_second", "ours", "bare")
    assert to_bare is not None
    return {
        "strategy": case.name,
        "bare_rows_per_second": middle("bare", "rows_per_second"),
        "ours_rows_per_second": middle("ours", "rows_per_second"),
        "avalanche_rows_per_second": middle("avalanche", "rows_per_second"),
        "ratio": ratio("rows_per_second", "ours", "avalanche"),
        "ratio_target": case.target,
        "ours_accuracy": middle("ours", "accuracy"),
        "avalanche_accuracy": middle("avalanche", "accuracy"),
        "ours_process_seconds": middle("ours", "process_seconds"),
        "avalanche_process_seconds": middle("avalanche", "process_seconds"),
        "process_ratio": ratio("process_seconds", "avalanche", "ours"),
        "process_ratio_target": PROCESS,
        "ours_to_bare": to_bare,
        "mammoth_ratio": to_bare / (case.mammoth / BARE) if case.mammoth else None,
        "mammoth_ratio_target": case.mammoth_target,
    }


def told(ratio: float | None, target: float | None) -> str:
    if ratio is None or target is None:
        return "-"
    return f"{ratio:.2f} / {target} {'yes' if ratio >= target else 'no '}"


def number(value: float | None, digits: int = 0) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def percent(share: float | None) -> str:
    return number(None if share is None else 100 * share, 1)


def show(figures: list[dict[str, Any]]) -> None:
    print("training, rows/s; ratios are ours to theirs / target, and whether it is met")
    print(f"{'':16}{'bare':>7}{'ours':>7}{'Avalanche':>10}{'ratio':>16}", end="")
    print(f"{'accuracy, %':>15}{'whole process, s':>18}{'ratio':>16}{'to Mammoth':>16}")
    for f in figures:
        ours, theirs = f["ours_process_seconds"], f["avalanche_process_seconds"]
        accuracy = f"{percent(f['ours_accuracy'])} / {percent(f['avalanche_accuracy'])}"
        print(
            f"{f['strategy']:16}{f['bare_rows_per_second']:7.0f}{f['ours_rows_per_second']:7.0f}"
            f"{number(f['avalanche_rows_per_second']):>10}{told(f['ratio'], f['ratio_target']):>16}"
            f"{accuracy:>15}{number(ours, 1) + ' / ' + number(theirs, 1):>18}"
            f"{told(f['process_ratio'], f['process_ratio_target']):>16}"
            f"{told(f['mammoth_ratio'], f['mammoth_ratio_target']):>16}"
        )
    print(f"Mammoth: its figures of another machine, scaled by the bare loop ({BARE} rows/s there)")


def commit() -> str | None:
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def busy(runs: list[dict[str, Any]]) -> float:
    """Say how many times as long as it computed a run took; more than BUSY with other work."""
    return median(run["process_seconds"] / run["processor_seconds"] for run in runs)


def setting(text: str) -> tuple[str, float | int]:
    """Read a number of the job."""
    name, _, value = text.partition("=")
    if name not in JOB | MORE:
        raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(JOB | MORE)}")
    return name, int(value) if value.isdigit() else float(value)


def chosen() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=3, help="how many (default: 3)")
    parser.add_argument("--all", action="store_true", help="every method of both")
    parser.add_argument("--first", type=int, default=0, help="with --all: the first seed")
    parser.add_argument("--strategies", nargs="+", metavar="NAME")
    parser.add_argument("--workers", nargs="+", choices=["ours", "avalanche"], help="with --all")
    parser.add_argument("--keep", nargs="+", type=Path, metavar="FILE", help="with --all")
    parser.add_argument("--into", type=Path, help="with --all: a Markdown page to update")
    parser.add_argument("--venv", type=Path, default=ROOT / "build" / "avalanche-venv")
    parser.add_argument("--out", type=Path, help="default: build/peers.json or peers-all.json")
    parser.add_argument("--on", choices=["test", "valid"], default="test", help="with --all")
    parser.add_argument("--set", nargs="+", type=setting, default=[], metavar="NAME=VALUE")
    options = parser.parse_args()
    if options.on == "valid" and options.workers != ["ours"]:
        parser.error("--on valid goes with --workers ours")
    if (options.on == "valid" or options.set) and options.into:
        parser.error("--into takes runs on the test rows, with the settings that stand here")
    if options.seeds < 1 and not options.keep:
        parser.error(f"--seeds is {options.seeds}; it must be 1 or more")
    if not options.all and (options.keep or options.into or options.workers):
        parser.error("--keep, --into and --workers go with --all")
    options.workers, options.keep = options.workers or ["ours", "avalanche"], options.keep or []
    names = peer_table.METHODS if options.all else [case.name for case in CASES]
    options.strategies = options.strategies or names
    if unknown := sorted(set(options.strategies) - set(names)):
        parser.error(f"--strategies {unknown[0]!r} is none of {', '.join(names)}")
    options.out = options.out or ROOT / "build" / f"peers{'-all' if options.all else ''}.json"
    return options


def compare_all(options: argparse.Namespace, pythons: Mapping[str, Path], data: Path) -> None:
    """Fill the table of all methods, writing what there is of it anew after each run."""
    runs: dict[tuple[str, str, int], dict[str, Any]] = {}
    versions: dict[str, Any] = {}
    for file in options.keep:
        before = json.loads(file.read_text("utf-8"))
        runs |= {_which(run): run for run in before["runs"]}
        versions |= before["versions"]
    for done in measure_all(options, pythons, data):
        versions[done["worker"]] = done.pop("versions")
        runs[_which(done)] = done
        _write(options.out, told_all(runs, versions))
    result = told_all(runs, versions)
    _write(options.out, result)
    print(peer_table.markdown(result["figures"]))
    if options.into:
        peer_table.put_into(options.into, peer_table.section(result))


def told_all(runs: Mapping[Any, dict[str, Any]], versions: Mapping[str, Any]) -> dict[str, Any]:
    """Say what runs of all methods give."""
    every = list(runs.values())
    return {
        "command": shlex.join(["python", *sys.argv]),
        "versions": versions,
        "job": JOB | MORE,
        "clock_to_processor_time": busy(every) if every else 1.0,
        "figures": peer_table.figures(every),
        "runs": every,
    }


def _which(run: Mapping[str, Any]) -> tuple[str, str, int]:
    return run["worker"], run["strategy"], run["seed"]


def compare_few(options: argparse.Namespace, pythons: Mapping[str, Path], data: Path) -> None:
    """Compare the methods that have targets."""
    cases = [case for case in CASES if case.name in options.strategies]
    runs = measure(cases, options.seeds, pythons, data)
    figures = [summary(case, runs) for case in cases]
    show(figures)
    if busy(runs) > peer_table.BUSY:
        print(f"busy machine: runs took {busy(runs):.2f} times their processor time; ", end="")
        print("do not quote this")
    result = {
        "command": shlex.join(["python", *sys.argv]),
        "commit": commit(),
        "versions": {run["worker"]: run.pop("versions") for run in runs},
        "job": JOB,
        "clock_to_processor_time": busy(runs),
        "figures": figures,
        "runs": runs,
    }
    _write(options.out, result)


def _write(out: Path, result: Mapping[str, Any]) -> None:
    write_atomic(out, (json.dumps(result, indent=1) + "\n").encode())


def main() -> int:
    options = chosen()
    folder = options.venv.absolute()
    own = Path(sys.executable)
    try:
        pythons = {"bare": own, "ours": own, "avalanche": install(folder)}
        (compare_all if options.all else compare_few)(options, pythons, unpack(folder / "data"))
    except PeerMissing as error:
        print(f"peers: no comparison: {error}", file=sys.stderr)
        return 1
    print(f"written to {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
