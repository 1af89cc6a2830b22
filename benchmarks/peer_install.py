"""Avalanche in an environment of its own, and the images where it looks for them."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import venv
from pathlib import Path

from lifelong.bench.results import write_atomic
from lifelong.streams import load
from lifelong.streams.datasets import DEBIAN_FASHION_MNIST, FASHION_MNIST
from lifelong.streams.sources import cache_folder, data_folders, find

ROOT = Path(__file__).parent.parent
STEPS = [
    ["torch", "numpy", "pillow", "psutil", "gputil", "scikit-learn", "matplotlib", "pytorchcv",
     "tensorboard", "tqdm", "torchmetrics", "gdown", "qpsolvers", "quadprog==0.1.14", "dill",
     "packaging", "setuptools"],
    # Of their own accord these two would bring another torch, and wandb.
    ["--no-deps", "torchvision==0.28.0", "avalanche-lib==0.6.0"],
]  # fmt: skip


class PeerMissing(RuntimeError):
    """Avalanche cannot be installed or run here."""


def install(folder: Path) -> Path:
    """Make Avalanche's environment, unless it is there; return its interpreter."""
    python, ready = folder / "bin" / "python", folder / ".ready"
    wanted = json.dumps(STEPS) + (ROOT / "constraints.txt").read_text("utf-8")
    if ready.is_file() and ready.read_text("utf-8") == wanted:
        return python
    print(f"installing Avalanche into {folder} ...", file=sys.stderr, flush=True)
    ready.unlink(missing_ok=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt")]
    try:
        venv.create(folder, with_pip=True)
        for packages in STEPS:
            subprocess.run([*pip, *packages], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerMissing(f"Avalanche's environment {folder} cannot be built: {error}") from error
    ready.write_text(wanted, "utf-8")
    return python


def unpack(folder: Path) -> Path:
    """Put the images where torchvision looks for them; it reads no compressed ones."""
    load("fashion-mnist")  # fetches them if need be
    own = cache_folder() / FASHION_MNIST.folder
    names = list(FASHION_MNIST.files)
    found = find(names, [*data_folders("fashion-mnist"), DEBIAN_FASHION_MNIST, own])
    assert found is not None
    raw = folder / "FashionMNIST" / "raw"
    raw.mkdir(parents=True, exist_ok=True)
    for name in names:
        with gzip.open(found / name) as packed:
            write_atomic(raw / Path(name).stem, packed.read())  # others may be reading them
    return folder
