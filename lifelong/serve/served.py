"""Which versions are served, in a file that is cheap to poll."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from lifelong.core.errors import RegistryError
from lifelong.serve.tracking import Tracking
from lifelong.serve.versions import write_json

_SERVED = "served.json"
_MOST_CHAMPIONS = 100


def served(folder: Path | str) -> dict[str, Any]:
    """Return which versions the aliases point at, from served.json alone: cheap enough to poll.

    Returns:
        {"champion": number or None, "challenger": number or None, "previous": [numbers]}, the
        champions before this one, oldest first; and any other alias by its name.

    Raises:
        RegistryError: the file is damaged.

    Example:
        >>> served("a folder without a registry")
        {'champion': None, 'challenger': None, 'previous': []}
    """
    path = Path(folder) / _SERVED
    try:
        now: dict[str, Any] = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {"champion": None, "challenger": None, "previous": []}
    except (OSError, ValueError) as error:
        raise RegistryError(
            f"cannot read {path}: {error}; make a Registry of the folder, which writes it anew"
        ) from error
    return now


def publish(folder: Path, tracking: Tracking, gone: Collection[int] = ()) -> None:
    """Bring the history of champions and served.json in line with MLflow's aliases.

    What the history becomes follows from the alias and the history before, so doing it again after
    a crash comes to the same.

    Args:
        gone: versions that can never be champion again; they leave the history.
    """
    aliases, before = tracking.aliases()
    champion = aliases.get("champion")
    history = [number for number in before if number not in gone or number == champion]
    if champion in history:
        history = history[: history.index(champion) + 1]
    elif champion is not None:
        history.append(champion)
    history = history[-_MOST_CHAMPIONS:]
    if history != before:
        tracking.set_history(history)
    past = [number for number in history if number != champion]
    now = {"champion": None, "challenger": None, **aliases, "previous": past}
    with contextlib.suppress(RegistryError):  # damaged: written anew
        if (folder / _SERVED).exists() and served(folder) == now:
            return
    write_json(folder / _SERVED, now)
