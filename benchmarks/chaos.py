"""Kill the service at random moments under load, and see that nothing is lost or done twice.

    make chaos [LOOPS=200]

In each loop the api, the trainer or both get SIGKILL. After each: every acknowledged event is in
the log as it was acknowledged, every answer is what its version's weights compute, the aliases
point at whole versions, and where the trainer alone was dead no request failed. Every `--whole`
loops and at the end: each labelled row was trained exactly once, the trainer's state is bit for bit
that of a trainer nobody disturbed, and `lifelong audit` finds nothing.
"""

from __future__ import annotations

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from chaos_load import Load, Sent
from running import Running
from torch import Tensor

from lifelong.core import checkpoint
from lifelong.serve import versions
from lifelong.serve.client import Client
from lifelong.serve.config import Config
from lifelong.serve.events import Event
from lifelong.serve.learning import Checked
from lifelong.serve.log import SQLiteLog
from lifelong.serve.outside import until
from lifelong.serve.rows import labelled
from lifelong.serve.served import served
from lifelong.serve.snapshot import Snapshot
from lifelong.serve.trainer import Trainer
from lifelong.serve.weights import model_of

CONFIG = """
learner: model.py:learner
folder: state
schema: {shape: [6], classes: 4}
train: {batch: 8, period: 400, anchors: 0.1, every: 100}
release: {every: 0.3, rows: 40}
serve: {port: PORT, flush: 0.2}
"""
VICTIMS = (("trainer",), ("trainer",), ("api",), ("api",), ("api", "trainer"))


class Undisturbed:
    """A trainer in this process that nobody kills, and which rows it has trained, in order."""

    def __init__(self, service: Running, folder: Path, log: SQLiteLog) -> None:
        config = Config.read(service.path)
        schema, _, _ = config.parts()
        self.trainer = Trainer(
            folder, log, config.factory(), Checked(schema), config.train, classes=range(4)
        )
        self.keys: list[int] = []
        self.trainer.watch = self._watch

    def _watch(self, batch: Any, _: object) -> None:
        del self.keys[self.trainer.at.rows :]  # it went back
        self.keys += batch.key.tolist()


class Chaos:
    """One service, the load on it, and the checks."""

    def __init__(self, service: Running, seed: int) -> None:
        self.service = service
        self.chance = random.Random(seed)
        self.load = Load(service.url, seed)
        self.checked = Counter[str]()
        self.kills = Counter[str]()
        self.away: list[float] = []
        self.log = SQLiteLog(service.state / "log")
        self.undisturbed = Undisturbed(service, service.folder / "undisturbed", self.log)
        self.snapshots: dict[int, Snapshot] = {}

    def loop(self) -> None:
        """Kill once, and check what can be checked at once."""
        service, load = self.service, self.load
        load.wait_for(1)
        time.sleep(self.chance.uniform(0.0, 2.0))
        victims = self.chance.choice(VICTIMS)
        self.kills["+".join(victims)] += 1
        before = time.monotonic()
        killed = service.kill(*victims)
        if "api" in victims:
            # What the one that was killed had answered may still be on its way.
            until(lambda: service.pid("api") not in (*killed, None), 120, "the api is back")
            load.wait_for(1, seconds=120)
            self.away.append(time.monotonic() - before)
        else:
            load.wait_for(3, seconds=60)
            # From the kill on, for as long as the new one has not told of itself.
            end = time.monotonic()
            if service.status()["pid"] in (*killed, None):
                failed = load.failed_between(before, end)
                assert not failed, f"while the trainer alone was dead: {failed[:3]}"
                self.checked["answered while the trainer was dead"] += load.answered(before, end)
        self.check_events()
        self.check_aliases()

    def decide(self, number: int) -> None:
        """Have a person forgotten, or an earlier version served, as an operator would."""
        with Client(self.service.url, attempts=40, pause=0.1, timeout=30.0) as client:
            if self.chance.random() < 0.5:
                name = f"victim-{number}"
                ids = [f"{name}-{i}" for i in range(5)]
                for id in ids:
                    client.example([1.0, 2.0, 3.0, 4.0, 5.0, 6.0], 1, id=id, subject=name)
                client.erase(name, id=name)
                assert not any(self.log.find(id) for id in ids), f"{name} is not erased"
                self.checked["erasures"] += 1
            elif served(self.service.state)["previous"]:
                to = served(self.service.state)["previous"][-1]
                discard = self.chance.random() < 0.25
                done = client.rollback("chaos", to=to, discard=discard, id=f"back-{number}")
                assert done["version"] == to, done
                self.checked["rollbacks"] += 1

    def check_events(self) -> None:
        """Find what was acknowledged since the last time, as it was acknowledged."""
        for sent in self.load.take():
            event = self.log.find(sent.id)
            assert event is not None, f"{sent} was acknowledged and is not in the log"
            self.check_event(sent, event)
            self.checked[event.kind] += 1

    def check_event(self, sent: Sent, event: Event) -> None:
        if sent.offset is not None:
            assert event.offset == sent.offset, (sent, event)
        if sent.answer is None:
            assert event.data.get("y") == sent.y, (sent, event)
            return
        version, output = sent.answer
        assert (event.data["version"], event.data["output"]) == (version, output), (sent, event)
        # A row's last bits depend on the rows that it is computed with.
        right = self.snapshot(version).predict(np.array([sent.x], np.float32))[0]
        assert np.abs(right - output).max() < 1e-5, f"{sent} is no answer of version {version}"

    def snapshot(self, number: int) -> Snapshot:
        if number not in self.snapshots:
            path = self.service.state / "versions" / str(number) / versions.WEIGHTS
            model = model_of(self.undisturbed.trainer.make, checkpoint.load(path))
            self.snapshots[number] = Snapshot(number, model)
        return self.snapshots[number]

    def check_aliases(self) -> None:
        """See that what is to be served is whole."""
        champion = served(self.service.state)["champion"]
        version = versions.from_folder(self.service.state / "versions" / str(champion))
        versions.check_file(version, versions.WEIGHTS)
        self.checked["aliases"] += 1

    def check_whole(self, fresh: bool = False) -> None:
        """Let the load rest; compare the trainer's state with an undisturbed one's, and audit."""
        self.load.pause()
        self.check_events()
        until(self.service.ready, 120, "the service answers")
        self.service.settled()
        if fresh:
            self.undisturbed = Undisturbed(self.service, self.service.folder / "fresh", self.log)
        self.undisturbed.trainer.catch_up()
        self.check_once()
        copied = self.service.folder / "copied"
        shutil.rmtree(copied, ignore_errors=True)
        copied.mkdir()
        own = self.service.state / "trainer"
        shutil.copytree(own / "checkpoints", copied / "checkpoints", ignore=_unfinished)
        if (own / "history.json").exists():
            shutil.copy(own / "history.json", copied)
        killed = Undisturbed(self.service, copied, self.log).trainer
        killed.catch_up()
        different = differences(killed.state_dict(), self.undisturbed.trainer.state_dict())
        assert not different, f"not what an undisturbed trainer has: {different[:5]}"
        self.audit()
        self.checked["bit-identical states"] += 1
        self.load.go_on()

    def check_once(self) -> None:
        """See that each labelled row was trained once, or is an anchor, waits, or was refused."""
        trainer = self.undisturbed.trainer
        trained = Counter(self.undisturbed.keys[: trainer.at.rows])
        refused = {row.offset for row in trainer.quarantine.rows(limit=10**9)}
        waiting = set(trainer.waiting.key)
        rows = Counter[str]()
        after = 0
        while events := self.log.read(after, 1000):
            after = events[-1].offset
            for event in events:
                row = labelled(self.log, event)
                if row is None:
                    continue
                places = [row.offset in refused, row.key in waiting]
                if not any(places):
                    places.append(trainer.anchors.chosen(row.id))
                times = trained.pop(row.key, 0) + sum(places)
                assert times == 1, f"{row.id} at {row.offset} was taken in {times} times"
                rows["rows"] += 1
        assert not trained, f"{len(trained)} rows were trained that are not in the log"
        self.checked["labelled rows, each once"] = rows["rows"]

    def audit(self) -> None:
        command = [sys.executable, "-m", "lifelong", "audit", str(self.service.state)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        self.checked["audits"] += 1


def _unfinished(_: str, names: list[str]) -> list[str]:
    return [name for name in names if name.startswith(".")]


def differences(one: Any, other: Any, place: str = "state") -> list[str]:
    """List where two states are not the same to the last bit."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same = one.dtype == other.dtype and torch.equal(_bits(one), _bits(other))
        return [] if same else [place]
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [d for key in one for d in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [d for i, pair in pairs for d in differences(*pair, f"{place}[{i}]")]
    return [] if type(one) is type(other) and one == other else [f"{place}: {one!r} {other!r}"]


def _bits(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)


def run(loops: int, whole: int, seed: int, folder: Path) -> None:
    begun = time.monotonic()
    with Running(folder, CONFIG) as service:
        chaos = Chaos(service, seed)
        try:
            for number in range(1, loops + 1):
                chaos.loop()
                if number % 5 == 0:
                    chaos.decide(number)
                if number % whole == 0 or number == loops:
                    chaos.check_whole(fresh=number == loops)
                    told = f"{number} of {loops} loops, {time.monotonic() - begun:.0f} s"
                    print(f"{told}: {dict(chaos.checked)}", flush=True)
        finally:
            chaos.load.stop()
    print(f"kills: {dict(chaos.kills)}; {len(chaos.snapshots)} versions answered")
    if chaos.away:
        print(f"without answers after a kill of the api: median {median(chaos.away):.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--loops", type=int, default=200)
    parser.add_argument("--whole", type=int, default=10, help="loops between whole checks")
    parser.add_argument("--seed", type=int, default=None, help="of the moments and the load")
    options = parser.parse_args()
    seed = time.time_ns() % 1_000_000 if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run(options.loops, options.whole, seed, Path(folder))
        except BaseException:
            print(f"failed with --seed {seed}", file=sys.stderr)
            raise
    print("nothing was lost, done twice or mixed")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
