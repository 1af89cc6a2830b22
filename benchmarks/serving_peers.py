"""Time single-row predictions of the same model under LitServe, BentoML, Ray Serve and lifelong.

    python benchmarks/serving_peers.py [--seconds 5] [--clients 16] [--rounds 1] [--only NAME ...]

The others are installed in an environment of their own, `build/serving-peers` (CPU builds of torch
alone). Each serves an MLP 64-100-100-10 from one worker process on loopback, one after the other,
and answers {"output": [10 numbers]} to {"x": [64 numbers]}; the load is wrk's. lifelong checks the
key and the row, and logs each prediction: `durable` has it on disk before it answers, `async` soon
after. The others do neither. Whatever batches rows is allowed to, as it is by default.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import serving
from serving import BODY, Figures

ROOT = Path(__file__).parents[1]
PEERS = ROOT / "build" / "serving-peers"
TORCH = "torch==2.13.0"
PACKAGES = {"litserve": "litserve", "bentoml": "bentoml", "ray": "ray[serve]"}
OURS = ("lifelong durable", "lifelong async")
PORT = 8377
START = 180.0
"""Seconds that a server may take to start."""

_MODEL = """
import torch
from torch import nn

torch.set_num_threads(1)


def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 100), nn.ReLU(), nn.Linear(100, 10)
    ).eval()
"""
_LITSERVE = """
import litserve
import torch
from model import model


class Api(litserve.LitAPI):
    def setup(self, device):
        self.model = model()

    def decode_request(self, request):
        return torch.tensor([request["x"]])

    def predict(self, x):
        with torch.inference_mode():
            return torch.softmax(self.model(x), -1)

    def encode_response(self, output):
        return {"output": output[0].tolist()}


if __name__ == "__main__":
    server = litserve.LitServer(Api(), accelerator="cpu", workers_per_device=1)
    server.run(host="127.0.0.1", port=PORT, num_api_servers=1, generate_client_file=False,
               log_level="warning", access_log=False)
"""
_BENTOML = """
import bentoml
import torch
from model import model


@bentoml.service(workers=1, traffic={"timeout": 30})
class Service:
    def __init__(self):
        self.model = model()

    @bentoml.api
    def predict(self, x: list[float]) -> dict:
        with torch.inference_mode():
            return {"output": torch.softmax(self.model(torch.tensor([x])), -1)[0].tolist()}
"""
_RAY = """
import time

import ray
import torch
from model import model
from ray import serve


@serve.deployment(num_replicas=1, max_ongoing_requests=64, ray_actor_options={"num_cpus": 1})
class Api:
    def __init__(self):
        self.model = model()

    async def __call__(self, request):
        x = (await request.json())["x"]
        with torch.inference_mode():
            return {"output": torch.softmax(self.model(torch.tensor([x])), -1)[0].tolist()}


if __name__ == "__main__":
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": PORT})
    serve.run(Api.bind(), route_prefix="/predict")
    while True:
        time.sleep(1)
"""
_SOURCES = {"litserve": _LITSERVE, "bentoml": _BENTOML, "ray": _RAY}


def install(names: list[str]) -> dict[str, str]:
    """Install the others apart; return why for those that cannot be."""
    python = PEERS / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(PEERS)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet"]
    # First of all and by its version, so that no other build comes in with the rest.
    subprocess.run([*pip, TORCH, "numpy"], check=True)
    failed = {}
    for name in names:
        done = subprocess.run([*pip, TORCH, PACKAGES[name]], capture_output=True, text=True)
        if done.returncode:
            failed[name] = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
    check = "import torch, sys; sys.exit(torch.version.cuda is not None)"
    if subprocess.run([str(python), "-c", check]).returncode:
        sys.exit(f"{PEERS} has a CUDA build of torch; delete it, and give pip a CPU build")
    return failed


def version_of(name: str) -> str:
    code = f"from importlib.metadata import version; print(version({name!r}))"
    command = [str(PEERS / "bin" / "python"), "-c", code]
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def peer(name: str) -> Iterator[int]:
    """Run one of the others in a session of its own, and end all of it."""
    folder = PEERS / "apps" / name
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "model.py").write_text(_MODEL)
    (folder / "app.py").write_text(_SOURCES[name].replace("PORT", str(PORT)))
    python = PEERS / "bin" / "python"
    command = [str(python), "app.py"]
    if name == "bentoml":
        command = [str(python), "-m", "bentoml", "serve", "app:Service", "--host", "127.0.0.1"]
        command += ["--port", str(PORT)]
    quiet = {
        "OMP_NUM_THREADS": "1",
        "BENTOML_DO_NOT_TRACK": "True",
        "BENTOML_HOME": str(folder / "home"),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_LOG_TO_STDERR": "0",
        "NO_COLOR": "1",
    }
    log = (folder / "out.log").open("w")
    process = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **quiet, "PYTHONPATH": str(folder)},
        stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    try:
        wait_for(process, PORT, folder / "out.log")
        yield PORT
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        log.close()
        if name == "ray":
            end_ray(process.pid)


def end_ray(session: int) -> None:
    """End what Ray has started in sessions of its own, by the sessions' first process."""
    for stat in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError, ProcessLookupError):
            mine = str(PEERS / "apps" / "ray").encode() in stat.read_bytes()
            pid = int(stat.parent.name)
            if mine and pid not in (os.getpid(), session):
                os.kill(pid, signal.SIGKILL)


def wait_for(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    until = time.monotonic() + START
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/predict", BODY, {"Content-Type": "application/json"}
    )
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        with (
            contextlib.suppress(OSError, urllib.error.URLError),
            urllib.request.urlopen(request, timeout=5) as answer,
        ):
            if len(json.loads(answer.read())["output"]) == 10:
                return
        time.sleep(0.3)
    raise RuntimeError(f"it did not start: {log.read_text()[-400:]}")


def measure(name: str, options: argparse.Namespace) -> Figures:
    started: contextlib.AbstractContextManager[int]
    if name in OURS:
        started = serving.running("predict", "async" if "async" in name else "durable", False)
    else:
        started = peer(name)
    with started as port:
        serving.load_with_wrk(port, options.clients, 1)
        found = [
            serving.load_with_wrk(port, options.clients, options.seconds)
            for _ in range(options.rounds)
        ]
    return Figures(
        *(median(getattr(one, part) for one in found) for part in ("rate", "p50", "p99"))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--only", nargs="*", default=[*OURS, *PACKAGES])
    options = parser.parse_args()
    if not shutil.which("wrk"):
        sys.exit("wrk is not installed; it makes the load")
    failed = install([name for name in PACKAGES if name in options.only])
    print(f"{'':<24}{'requests/s':>12}{'p50 ms':>10}{'p99 ms':>10}")
    for name in options.only:
        title = name if name in OURS else f"{name} {version_of(name)}"
        try:
            if name in failed:
                raise RuntimeError(failed[name])
            one = measure(name, options)
        except RuntimeError as error:
            print(f"{title:<24}not measured: {error}", flush=True)
            continue
        print(f"{title:<24}{one.rate:>12.0f}{one.p50:>10.2f}{one.p99:>10.2f}", flush=True)


if __name__ == "__main__":
    main()
