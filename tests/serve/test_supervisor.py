"""The supervisor in real processes: what it imports, what it says, and who ends with it."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from test_service import CONFIG, Service, until

from lifelong.serve.log import SQLiteLog

pytestmark = pytest.mark.timeout(300)  # processes that import torch and MLflow
LINUX = pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="there is no /proc")


@pytest.fixture(scope="module")
def service(tmp_path_factory):
    with Service(tmp_path_factory.mktemp("service")) as running:
        yield running


def alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@LINUX
def test_it_needs_neither_torch_nor_mlflow(service):
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()
    assert "python" in maps
    assert "libtorch" not in maps
    assert "libtorch" in Path(f"/proc/{service.api_pid()}/maps").read_text()


def test_its_processes_end_when_it_is_killed(service):
    trainer = service.trainer_pid()
    pids = json.loads((service.state / "processes.json").read_text())
    assert pids == {"api": service.api_pid(), "trainer": trainer}
    service.teach(20, seed=1)
    os.kill(service.process.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, pids.values())))
    service.process.communicate(timeout=40)
    service.client.close()
    with SQLiteLog(service.state / "log", write=True) as log:  # nobody else writes it
        assert log.counts()["example"] == 20
    saved = list((service.state / "trainer" / "checkpoints").iterdir())
    assert saved  # the trainer ended in order


def test_what_keeps_a_service_from_starting_is_told(tmp_path):
    (tmp_path / "model.py").write_text("def learner():\n    return 3\n")
    (tmp_path / "dying.py").write_text("import os\nos._exit(3)\n")
    for name in ("model", "dying"):
        config = CONFIG.replace("PORT", "0").replace("model.py", f"{name}.py")
        (tmp_path / f"{name}.yaml").write_text(config)
    script = """
    from pathlib import Path
    from lifelong.core.errors import LifelongError
    from lifelong.serve.supervisor import Supervisor
    for name in ("model", "dying"):
        try:
            Supervisor(Path(f"{name}.yaml")).run()
        except LifelongError as error:
            print(type(error).__name__, error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.splitlines() == [
        "ConfigError model.py:learner returns int; it must return a lifelong.Learner",
        "LifelongError the service cannot be prepared; what went wrong is told above",
    ]
    assert done.stderr == ""
    assert not (tmp_path / "state").exists()
