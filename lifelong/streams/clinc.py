"""CLINC150: short requests to an assistant, by what they ask for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lifelong.core.errors import DatasetError
from lifelong.core.text import text_bytes
from lifelong.streams.labelled import Labelled
from lifelong.streams.sources import Source, data_folders, fetch, find

SOURCE = Source(
    "clinc150",
    "https://raw.githubusercontent.com/clinc/oos-eval/master/data/",
    {
        "data_full.json": "36923c3705a59e08fe9c3883d8bc2dd966ef93e22cb78ac41171782a698d56e0",
        "domains.json": "b947b579d3b8e74b06f93b01083d8efaff2888b43a3e362533bd88a6e1211b3a",
    },
)


def clinc150(data_dir: str | Path | None = None, cache: Path | None = None) -> Labelled:
    """Load CLINC150: 15000 + 4500 requests of 150 intents, UTF-8 bytes, (rows, 136) uint8.

    Larson et al. 2019, arXiv:1909.02027 (CC-BY 3.0). Classes are in the order of their domains, 10
    of 15 intents, so that ten tasks in the natural order are the domains. Requests out of scope
    are left out, and so are the 3000 rows for validation: `clinc150_parts` has those.

    Raises:
        DatasetError: the files are missing and cannot be fetched, or are damaged.
    """
    parts, names = clinc150_parts(data_dir, cache)
    (train, train_y), (test, test_y) = parts["train"], parts["test"]
    return Labelled("clinc150", text_bytes(train), train_y, text_bytes(test), test_y, names)


def clinc150_parts(
    data_dir: str | Path | None = None, cache: Path | None = None
) -> tuple[dict[str, tuple[list[str], Tensor]], tuple[str, ...]]:
    """Read the texts and class ids of "train", "val" and "test", and the names of the classes.

    Raises:
        DatasetError: the files are missing and cannot be fetched, or are damaged.
    """
    folders = data_folders(SOURCE.folder, data_dir)
    folder = find(list(SOURCE.files), folders) or fetch(SOURCE, folders, cache)
    try:
        data, domains = (json.loads((folder / name).read_bytes()) for name in SOURCE.files)
        names = tuple(intent for intents in domains.values() for intent in intents)
        number = {name: place for place, name in enumerate(names)}
        return {part: _rows(data[part], number) for part in ("train", "val", "test")}, names
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(
            f"the files of CLINC150 in {folder} cannot be read ({type(error).__name__}: {error}); "
            "fetch them again"
        ) from error


def _rows(pairs: Any, number: dict[str, int]) -> tuple[list[str], Tensor]:
    texts = [str(text) for text, _ in pairs]
    return texts, torch.tensor([number[intent] for _, intent in pairs])
