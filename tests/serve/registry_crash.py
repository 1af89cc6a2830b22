"""Processes that work on a registry and are killed; one import of MLflow serves them all.

python registry_crash.py FOLDER has two make a registry at once, and then reads lines ["folder",
"work", kill]. For each it forks a process that dies by SIGKILL at its step number `kill`, or, if
that is a fraction, after so many seconds; it prints what the process had acknowledged, and then how
it ended.
"""

import json
import os
import signal
import socket
import sys
import time

import torch

from lifelong.serve.registry import Registry

STEPS = [(os, "fsync"), (os, "replace"), (os, "rename"), (os, "unlink")]
MLFLOW = ["create_run", "log_batch", "set_terminated", "create_model_version"]
MLFLOW += ["set_registered_model_alias", "set_registered_model_tag", "set_model_version_tag"]


def die_at(step):
    """Kill this process in place of its n-th call of what changes anything on disk."""
    from mlflow.tracking import MlflowClient

    left = [step]

    def counted(call):
        def instead(*args, **kwargs):
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*args, **kwargs)

        return instead

    for owner, name in STEPS + [(MlflowClient, name) for name in MLFLOW]:
        setattr(owner, name, counted(getattr(owner, name)))


def state(value):
    return {"w": torch.full((64, 64), float(value))}


def register(registry, number):
    """Register with an id that depends on how many there are, as a trainer does after a crash."""
    for _ in range(number):
        last = len(registry.versions())
        version = registry.register(
            state(last + 1), state(-last - 1), parent=last or None, first_offset=last * 10 + 1,
            last_offset=last * 10 + 10, metrics={"accuracy": 0.5}, id=f"offset-{last * 10 + 10}",
        )  # fmt: skip
        say(f"registered {version.number}")


def promote(registry, number):
    last = len(registry.versions())
    for i in range(number):
        registry.set_alias("champion", i % last + 1)
        say(f"champion {i % last + 1}")


def prune(registry, number):
    for _ in range(number):
        registry.prune(keep_learners=1, keep=2, rollback=1)
        say("pruned")


def say(line):
    os.write(1, (line + "\n").encode())


def killed(folder, work, kill):
    child = os.fork()
    if child == 0:
        try:
            registry = Registry(folder)
            if isinstance(kill, int):
                die_at(kill)
            globals()[work](registry, 40)
        finally:
            os._exit(1)
    if isinstance(kill, float):
        time.sleep(kill)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    say(f"killed {os.WIFSIGNALED(status)}")


def made_by_two(folder):
    """Have two processes that start together make a registry."""
    children = []
    for _ in range(2):
        child = os.fork()
        if child == 0:
            try:
                Registry(folder)
                os._exit(0)
            finally:
                os._exit(1)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def call_out(*args):
    say("called out")  # not what the test waits for
    raise OSError("no network here")


if __name__ == "__main__":
    socket.socket.connect = socket.getaddrinfo = call_out
    assert "mlflow" not in sys.modules, "importing the registry is to be fast"
    import mlflow.store.model_registry.sqlalchemy_store
    import mlflow.store.tracking.sqlalchemy_store  # noqa: F401 - once, for all that are forked

    made_by_two(sys.argv[1])
    say("ready")
    for line in sys.stdin:
        killed(*json.loads(line))
