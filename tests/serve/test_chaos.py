"""The service is killed at random moments under load; its disk is full; nothing is lost."""

import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from chaos import CONFIG, Undisturbed, differences
from running import Running, points

from lifelong.cli import main
from lifelong.serve.client import Client, ServiceError
from lifelong.serve.log import SQLiteLog

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(900)  # processes that import torch and MLflow, many times over


def test_kills_lose_nothing_and_do_nothing_twice():
    command = [sys.executable, ROOT / "benchmarks" / "chaos.py", "--loops", "10", "--seed", "3"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing was lost, done twice or mixed" in done.stdout
    for claim in ("answered while the trainer was dead", "bit-identical states", "audits"):
        assert claim in done.stdout


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, and a function that leaves so many bytes of room on it."""
    size = 96 << 20
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(tmp_path)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True, check=False)
    except OSError as error:
        pytest.skip(f"no file system can be mounted: {error}")
    if done.returncode:
        pytest.skip(f"no file system can be mounted: {done.stderr.strip()}")
    filler = tmp_path / "filler"

    def leave(room):
        with filler.open("wb") as file:
            try:
                while True:
                    file.write(bytes(1 << 16))
                    file.flush()
            except OSError:
                pass
        with filler.open("rb+") as file:
            file.truncate(filler.stat().st_size - room)

    try:
        yield tmp_path, leave, filler
    finally:
        subprocess.run(["umount", "-l", str(tmp_path)], check=True)


def test_a_full_disk_is_told_to_clients_and_recovers_when_there_is_room(small_disk):
    folder, leave, filler = small_disk
    acknowledged: dict[str, int] = {}
    with Running(folder, CONFIG) as service, Client(service.url, attempts=1) as client:

        def teach(rows, seed):
            for i, (x, y) in enumerate(zip(*points(rows, seed), strict=True)):
                acknowledged[f"e{seed}-{i}"] = client.example(x, y, id=f"e{seed}-{i}")

        def lost():
            with SQLiteLog(service.state / "log") as log:
                assert log.counts()["example"] == len(acknowledged)
                return [id for id, at in acknowledged.items() if log.find(id).offset != at]

        teach(100, seed=1)
        service.settled(300)
        leave(200_000)
        with pytest.raises(ServiceError, match="disk is full; make room and try again") as error:
            teach(10_000, seed=2)
        assert error.value.status == 503
        with pytest.raises(ServiceError, match="disk is full"):
            client.predict([0.0] * 6)
        assert lost() == []
        assert httpx.get(f"{service.url}/healthz").status_code == 200
        time.sleep(2)  # in which the trainer too finds no room
        filler.unlink()
        teach(200, seed=4)
        service.settled(300)
        assert client.predict([0.0] * 6).version >= 1
        log = SQLiteLog(service.state / "log")
        own, undisturbed = (
            Undisturbed(service, service.folder / name, log).trainer
            for name in ("state/trainer", "undisturbed")
        )
        own.catch_up()
        undisturbed.catch_up()
        while own.at.offset != undisturbed.at.offset:  # a tick came meanwhile
            own.catch_up()
            undisturbed.catch_up()
        assert differences(own.state_dict(), undisturbed.state_dict()) == []
        log.close()
        assert lost() == []
    assert main(["audit", str(service.state)]) == 0
