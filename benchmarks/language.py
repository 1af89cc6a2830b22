"""A small language model learns English, C++ and Python one after the other, through LoRA.

    python benchmarks/language.py --into docs/results.md
    python benchmarks/language.py --on valid --steps 15 --seeds 3    to choose settings by

Texts are those of a fresh installation: the topics of Python's help, the headers of torch (c10)
and the modules of the standard library; every tenth document is kept apart to test on, the one
before it for validation. The model, of bytes, is a causal `Transformer`, first trained on other
texts: numpy's modules and headers. That is done once and kept in OUT. Then it is frozen, and LoRA
learns the three. The loss of a row is the mean over its bytes. One thread, processor time. Writes
OUT/language.json after every run, and goes on from there when it is called again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import sysconfig
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import exp
from pathlib import Path
from pydoc_data.topics import topics
from statistics import mean
from textwrap import fill
from time import process_time
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam

from lifelong import Batch, Learner, Orthogonal, Replay, Strategy
from lifelong.bench.job import versions
from lifelong.bench.reproduce import Table, put_into
from lifelong.bench.results import write_atomic
from lifelong.nets import Transformer, add_lora

LENGTH = 96
BATCH = 32
DOMAINS = ("English", "C++", "Python")
RATES = (
    ", which of 0.003 and 0.01 let LoRA learn more in 15 steps of each kind, on documents kept "
    "apart for validation"
)
"""How the rate was chosen."""
TITLE = "A language model through three kinds of text"
Parts = dict[str, Tensor]


@dataclass(frozen=True)
class Method:
    summed: bool = False
    strategies: Callable[[], list[Strategy]] = list


METHODS = {
    "LoRA": Method(),
    "LoRA, replay": Method(strategies=lambda: [Replay(500, policy="balanced", by="task")]),
    "O-LoRA": Method(True, lambda: [Orthogonal(0.5)]),
}


class LanguageModel(nn.Module):
    """Tell what byte follows each: (rows, length + 1) uint8 to (rows, 128, length) logits."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Transformer(
            tokens=128, width=128, layers=3, length=LENGTH, pool="none", causal=True
        )
        self.head = nn.Linear(128, 128)

    def forward(self, x: Tensor) -> Tensor:
        """Look at all bytes but the last, which nothing follows."""
        return self.head(self.backbone(x[:, :-1].long())).transpose(1, 2)  # type: ignore[no-any-return]


def surprise(output: Tensor, batch: Batch) -> Tensor:
    """Cross entropy of the bytes that follow, in nats, the mean over a row: (rows,)."""
    assert isinstance(batch.x, Tensor)
    return F.cross_entropy(output, batch.x[:, 1:].long(), reduction="none").mean(1)


def texts_of(folder: Path, *patterns: str) -> list[str]:
    paths = sorted(path for pattern in patterns for path in folder.glob(pattern))
    return [path.read_text("utf-8", "replace") for path in paths]


def documents() -> dict[str, list[str]]:
    """Find the texts on this machine."""
    headers = Path(torch.__file__).parent / "include" / "c10"
    own = Path(np.__file__).parent
    return {
        "English": [text for _, text in sorted(topics.items())],
        "C++": texts_of(headers, "**/*.h"),
        "Python": texts_of(Path(sysconfig.get_path("stdlib")), "*.py"),
        "base": texts_of(own, "*.py", "lib/*.py", "ma/*.py", "_core/*.py", "**/*.h"),
    }


def rows_of(texts: Iterable[str]) -> Tensor:
    """Cut texts into rows of LENGTH + 1 bytes, of which each begins with the last of another."""
    whole = "".join(texts).encode("ascii", "replace")
    found = torch.frombuffer(bytearray(whole), dtype=torch.uint8)
    return found[: len(found) // LENGTH * LENGTH + 1].unfold(0, LENGTH + 1, LENGTH).clone()


def parted(texts: list[str]) -> Parts:
    """Keep documents apart: of ten, eight to learn from."""
    places = {"train": range(8), "valid": (8,), "test": (9,)}
    return {
        part: rows_of(text for number, text in enumerate(texts) if number % 10 in own)
        for part, own in places.items()
    }


def batches_of(rows: Tensor, steps: int, task: int, seed: int) -> list[Batch]:
    """Draw rows without returning them, in as many batches as there shall be steps."""
    chance = torch.Generator().manual_seed(seed)
    order = torch.cat([torch.randperm(len(rows), generator=chance) for _ in range(
        -(-steps * BATCH // len(rows)))])  # fmt: skip
    drawn = order[: steps * BATCH].split(BATCH)  # type: ignore[no-untyped-call]
    return [Batch.of(rows[own], torch.zeros(len(own)), task, key=own) for own in drawn]


def based(path: Path, rows: Tensor, steps: int) -> LanguageModel:
    """Train the model that the others start from, or read what was kept."""
    torch.manual_seed(0)
    model = LanguageModel()
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
        return model
    optimizer = Adam(model.parameters(), lr=0.002)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    learner = Learner(model, optimizer, loss=surprise, clip=1.0, scheduler=falling)
    start = process_time()
    for number, batch in enumerate(batches_of(rows, steps, 0, 0)):
        loss = learner.observe(batch)
        if number % 50 == 0:
            print(f"base, step {number}: {loss:.3f} nats a byte", flush=True)
    print(f"base in {process_time() - start:.0f} s", flush=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(model.state_dict(), path)
    return model


def nats(model: nn.Module, rows: Tensor) -> float:
    """Compute the mean surprise of a byte."""
    with torch.no_grad():
        found = [surprise(model(x), Batch.of(x, torch.zeros(len(x)))) for x in rows.split(64)]  # type: ignore[no-untyped-call]
    return float(torch.cat(found).double().mean())


def run(
    name: str, model: LanguageModel, texts: dict[str, Parts], seed: int, options: Any
) -> dict[str, Any]:
    """Learn the three kinds one after the other; test all after each."""
    torch.manual_seed(seed)
    method = METHODS[name]
    add_lora(model, rank=8, sets="summed" if method.summed else "shared", head=False)
    free = [p for p in model.parameters() if p.requires_grad]
    optimizer = Adam([{"params": free}], lr=options.lr)
    learner = Learner(model, optimizer, method.strategies(), loss=surprise, seed=seed, clip=1.0)
    matrix, seconds = [], 0.0
    for task, kind in enumerate(DOMAINS):
        batches = batches_of(texts[kind]["train"], options.steps, task, seed)
        start = process_time()
        learner.begin_task(task)
        for batch in batches:
            learner.observe(batch)
        learner.end_task(batches)
        seconds += process_time() - start
        with_all = [tests_of(texts[other], options.on) for other in DOMAINS]
        matrix.append([nats(model.eval(), rows) for rows in with_all])
        model.train()
    adapters = [p.nbytes for name, p in model.named_parameters() if ".pairs." in name]
    return {
        "nats": matrix,
        "tokens_a_second": round(len(DOMAINS) * options.steps * BATCH * LENGTH / seconds),
        "seconds": round(seconds, 1),
        "adapters": sum(adapters),
        "rows": sum(s.memory.nbytes for s in learner.strategies if isinstance(s, Replay)),
    }


def tests_of(parts: Parts, on: str) -> Tensor:
    rows = parts[on]
    return rows[:: max(len(rows) // 256, 1)][:256]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else "")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods", help="some of them, with ; between")
    parser.add_argument("--on", choices=["test", "valid"], default="test")
    parser.add_argument("--base", type=int, default=300, help="steps of the model before")
    parser.add_argument("--steps", type=int, default=50, help="for each kind of text")
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--out", type=Path, default=Path("runs/language"))
    parser.add_argument("--into", type=Path, help="a Markdown page, to put the table into")
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = documents()
    texts = {kind: parted(found[kind]) for kind in DOMAINS}
    file, other = options.out / f"base-{options.base}.pt", rows_of(found["base"])
    path = options.out / "language.json"
    runs = json.loads(path.read_text())["runs"] if path.exists() else []
    asked = {"on": options.on, "base": options.base, "steps": options.steps, "lr": options.lr}
    for seed in map(int, options.seeds.split(",")):
        for name in options.methods.split(";") if options.methods else ["base", *METHODS]:
            key = {"method": name, "seed": 0 if name == "base" else seed, **asked}
            if any(key.items() <= one.items() for one in runs):
                continue
            model = based(file, other, options.base)
            if name == "base":
                tests = [tests_of(texts[kind], options.on) for kind in DOMAINS]
                made: dict[str, Any] = {"nats": [[nats(model.eval(), rows) for rows in tests]]}
            else:
                made = run(name, model, texts, seed, options)
            runs.append({**key, **made})
            print(f"seed {seed} {name:16}{made}", flush=True)
            report = {"command": sys.argv, "versions": versions(), "runs": runs}
            write_atomic(path, json.dumps(report, indent=1).encode())
    shown = [one for one in runs if asked.items() <= one.items()]
    text = section(shown, f"python benchmarks/language.py {shlex.join(sys.argv[1:])}", options)
    print(text)
    if options.into:
        put_into(options.into, Table("", TITLE, "", "", ()), text)


def section(runs: list[dict[str, Any]], command: str, options: Any) -> str:
    """Write the table, for a page of docs."""
    said = (
        f"A causal transformer of bytes (3 layers of 128, {LENGTH} bytes of context) is trained on "
        f"numpy's modules and headers ({options.base} steps of {BATCH} rows), frozen, and then "
        f"learns the topics of Python's help, torch's headers and the standard library's modules "
        f"through LoRA of rank 8 in all layers: {options.steps} steps of {BATCH} rows each, Adam "
        f"of {options.lr}{RATES}. It is small, and saw little: what it forgets is of interest, "
        "not how well it writes. Perplexity of a byte is on 256 rows of other documents of each "
        "kind, the mean over seeds. Forgetting is by how many bits a byte the first two kinds have "
        "become worse since they were learned. O-LoRA's strength is 0.5, and no other "
        "was tried. A memory has 500 rows, of which 32 are learned "
        "with each 32 new ones. Bytes are of all sets of LoRA and of the rows of the memory. "
        "Tokens are new bytes, in a second of one thread's processor time."
    )
    lines = [
        f"## {TITLE}",
        "",
        fill(said, 150),
        "",
        f"`{command}`",
        "",
        f"| method | after | {' | '.join(DOMAINS)} | forgetting | seeds "
        "| bytes of LoRA | of rows | tokens/s |",
        "|---|---|" + "--:|" * 8,
    ]
    for name in ["base", *METHODS]:
        own = [one for one in runs if one["method"] == name]
        if not own:
            continue
        for place in range(len(own[0]["nats"])):
            cells = [
                f"{mean(exp(one['nats'][place][kind]) for one in own):.2f}" for kind in range(3)
            ]
            more = [""] * 5
            if place == 2:
                lost = [forgetting(one["nats"]) for one in own]
                more = [spread(lost), f"{len(own)}", f"{own[0]['adapters']:,}",
                        f"{own[0]['rows']:,}" if own[0]["rows"] else "",
                        f"{mean(one['tokens_a_second'] for one in own):.0f}"]  # fmt: skip
            shown = name if name == "base" or place == 0 else ""
            after = "" if name == "base" else DOMAINS[place]
            lines.append(f"| {shown} | {after} | {' | '.join([*cells, *more])} |")
    return "\n".join([*lines, ""])


def forgetting(matrix: list[list[float]]) -> float:
    """Compute by how many bits a byte the earlier kinds are worse at the end, in the mean."""
    lost = [matrix[-1][kind] - matrix[kind][kind] for kind in range(len(matrix) - 1)]
    return mean(lost) / 0.6931471805599453


def spread(values: list[float]) -> str:
    """Write the mean, and the least and the most of several."""
    ends = f" ({min(values):.2f} to {max(values):.2f})" if len(values) > 1 else ""
    return f"{mean(values):.2f}{ends}"


if __name__ == "__main__":
    main()
