"""Time travel: the learner as of any offset of the log, and versions made again from it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lifelong.core import checkpoint, restore
from lifelong.core.errors import CheckpointError, LogError, RegistryError
from lifelong.core.learner import Learner
from lifelong.serve import versions
from lifelong.serve.config import Config
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.past import Turn, Upto, already, log_of, one_thread, turns
from lifelong.serve.startup import checked_learner
from lifelong.serve.trainer import Trainer
from lifelong.serve.versions import WEIGHTS, Version
from lifelong.serve.weights import weights_of

Tell = Callable[[int, int], None]
"""Told how far a replay is: the offset, and the one at which it ends."""
_CHUNK = 500


class NotReproducible(RegistryError):
    """A version whose weights the log does not give; the message says why."""


def rebuild(
    config: Config,
    offset: int,
    *,
    folder: Path | None = None,
    checkpoints: bool = True,
    tell: Tell = lambda at, end: None,  # noqa: ARG005
) -> Learner:
    """Make the learner as it was when it had taken in the events up to an offset.

    It is the function of the log that the service computes: of the events up to there, as the log
    has them now. Events that were erased since are in no rebuilt learner. A rollback that
    discarded what had been learned counts if its decision is among the events, and not if it came
    later. The service's folder is read only; the service may run.

    Args:
        config: of the service, whose function makes the learner.
        offset: of the last event to take in; 0 for the learner as it was made.
        folder: of the service, where it is not the configuration's.
        checkpoints: begin at the nearest of the trainer's that is of this past; else at the start.
        tell: told how far it is.

    Raises:
        LogError: the log ends before the offset, is damaged, or its beginning was trimmed.
        ConfigError: there is no log.
    """
    folder = config.folder if folder is None else folder
    with log_of(folder) as log, one_thread():
        if not 0 <= offset <= log.last:
            raise LogError(f"offset {offset}: the log in {folder} has events 1 to {log.last}")
        gone_back = [turn for turn in turns(log) if not turn.rollback or turn.event <= offset]
        start = nearest(folder, log, offset, gone_back) if checkpoints else None
        return replay(config, log, offset, gone_back, start=start, tell=tell)


def rebuild_version(
    config: Config,
    version: Version,
    *,
    folder: Path | None = None,
    tell: Tell = lambda at, end: None,  # noqa: ARG005
) -> Learner:
    """Make a version's learner again, from the start of the log, to the last bit of its weights.

    Where the log was trimmed, it begins at the trainer's checkpoint nearest to the version.

    The SHA-256 of the weights' file is compared with the one that was registered, so a version
    whose files were pruned can be made again too.

    Which versions are reproducible: those whose events are all still in the log. A version that
    was made before an erasure, and had learned from events that are gone, is not, and must not
    be. One that was made before a rollback is: the events that the rollback discarded are still
    there. Between the first discarded offset and the decision, the learner was once with them and,
    when it learned again, once without; both pasts are tried.

    Raises:
        NotReproducible: the version was retired, or no past of the log has these weights.
        LogError: as for `rebuild`.
    """
    folder = config.folder if folder is None else folder
    end, wanted = version.last_offset, version.hashes[WEIGHTS]
    if version.retired is not None:
        raise NotReproducible(
            f"version {version.number} was retired ({version.retired}): it is not made again"
        )
    with log_of(folder) as log, one_thread():
        if end > log.last:
            raise LogError(
                f"version {version.number} is of offset {end}; the log ends at {log.last}"
            )
        if not end:  # the first one: as the learner is made, with its classes
            learner = checked_learner(config)
            if digest_of_file(learner) == wanted:
                return learner
        every, found = turns(log), ""
        for gone_back in _pasts(every, end):
            start = nearest(folder, log, end, gone_back) if log.trimmed else None
            learner = replay(config, log, end, gone_back, start=start, tell=tell)
            found = digest_of_file(learner)
            if found == wanted:
                return learner
        raise NotReproducible(_why_not(version, log, every, found))


def digest_of_file(learner: Learner) -> str:
    """Compute the SHA-256 that the file of a learner's weights has when it is registered."""
    weights = restore.copied(weights_of(learner))
    with tempfile.TemporaryDirectory() as folder:
        return versions.write_files(Path(folder) / "v", weights, None)[WEIGHTS]


def replay(
    config: Config,
    log: SQLiteLog,
    end: int,
    gone_back: Sequence[Turn],
    *,
    start: dict[str, Any] | None = None,
    tell: Tell = lambda at, end: None,  # noqa: ARG005
) -> Learner:
    """Learn from a log up to an offset, in a temporary folder.

    Args:
        config: of the service.
        log: to read.
        end: the last offset to take in.
        gone_back: what had been taken back by then.
        start: a trainer's state of the same past to begin at; None for the start of the log.
        tell: told how far it is.
    """
    if start is None and (trimmed := log.trimmed):
        raise LogError(
            f"the log was trimmed up to offset {trimmed}, and the trainer has no checkpoint from "
            f"there to {end} to begin at; older learners cannot be made again"
        )
    schema, _, _ = config.parts()
    gone = log.erased(1, end)
    with tempfile.TemporaryDirectory(prefix="lifelong-") as folder:
        already(Path(folder), gone_back)
        trainer = Trainer(
            Path(folder), Upto(log, end), config.factory(), Checked(schema), config.train,
            classes=range(config.schema.classes),
        )  # fmt: skip
        if start is not None:
            trainer.load_state_dict(start)
        while trainer.step(_CHUNK):
            tell(trainer.at.offset, end)
        trainer.quarantine.close()
    if log.erased(1, end) != gone:
        raise LogError("events were erased while this was learning from them; start it again")
    return trainer.learner


def nearest(
    folder: Path, log: SQLiteLog, end: int, gone_back: Sequence[Turn]
) -> dict[str, Any] | None:
    """Return the newest state of a service's trainer that lies in a past; None if none does.

    A checkpoint does, if the trainer had gone back by then for those events that count in this
    past, and for no others; it cannot matter for what lies before all that was taken back.
    """
    counted = {turn.event for turn in gone_back}
    while True:
        before, trimmed = _done(folder), log.trimmed
        differing = [
            turn
            for turn in turns(log)
            # What lies before the log's beginning counts for all checkpoints that are left.
            if turn.event > trimmed and (turn.event in before) != (turn.event in counted)
        ]
        if any(turn.forget for turn in differing):
            return None  # the trainer has not forgotten those rows yet
        limit = min((turn.first - 1 for turn in differing), default=end)
        state = _newest(folder, min(limit, end), trimmed)
        if _done(folder) == before:  # else it went back while this was looking
            return state


def _newest(folder: Path, limit: int, trimmed: int) -> dict[str, Any] | None:
    paths = sorted((folder / "trainer" / "checkpoints").glob("[0-9]*.safetensors"), reverse=True)
    for path in paths:
        if trimmed <= int(path.stem) <= limit:
            try:
                state: dict[str, Any] = checkpoint.load(path)
                return state
            except CheckpointError:  # deleted meanwhile, or damaged: from an earlier one
                continue
    return None


def _done(folder: Path) -> set[int]:
    """Which events the service's trainer has gone back for."""
    path = folder / "trainer" / "history.json"
    try:
        return {int(event) for event in json.loads(path.read_bytes())["done"]}
    except FileNotFoundError:
        return set()
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); rebuild from the start") from error


def _pasts(every: Sequence[Turn], end: int) -> Iterator[list[Turn]]:
    """The pasts in which a trainer may have stood at an offset, the likeliest first.

    A trainer goes back in the order of the log. So at an offset it had gone back for all events
    before it, and for some of the first ones after it.
    """
    sure = [turn for turn in every if not turn.rollback or turn.event <= end]
    later = [turn for turn in every if turn.rollback and turn.event > end and turn.first <= end]
    for count in range(len(later) + 1):
        yield sorted([*sure, *later[:count]], key=lambda turn: turn.event)


def _why_not(version: Version, log: SQLiteLog, every: Sequence[Turn], found: str) -> str:
    end = version.last_offset
    erased = [turn for turn in every if not turn.rollback and turn.first <= end]
    gone = log.erased(1, end)
    if erased and gone:
        told = ", ".join(f"{turn.id} at offset {turn.event}" for turn in erased)
        return (
            f"version {version.number} cannot be made again: {gone} of the events up to its offset "
            f"{end} have been erased ({told}), and it was made before"
        )
    return (
        f"version {version.number} is not what the log gives: weights of SHA-256 {found[:16]}…, "
        f"registered were {version.hashes[WEIGHTS][:16]}…; the learner's code, its settings, torch "
        "or this library may be others than when it was made, or a file was altered"
    )
