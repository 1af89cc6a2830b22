"""What is looked at and made before a service starts: it starts whole or says why not."""

from __future__ import annotations

import errno
import socket

import torch

from lifelong.core import restore
from lifelong.core.errors import ConfigError, LifelongError, RegistryError, StateMismatch
from lifelong.core.learner import Learner
from lifelong.core.task import TaskSpec
from lifelong.serve.config import Config
from lifelong.serve.log import SQLiteLog
from lifelong.serve.registry import Registry
from lifelong.serve.weights import digest_of, model_of, weights_of


def prepare(config: Config) -> None:
    """Make the folder, the log and a first version, where they are not there yet.

    The first version is the model as the user's function makes it, untrained or not. All that can
    be checked is checked before anything is written.

    Raises:
        ConfigError: the model or the address cannot be used.
        LogError: a service runs in the folder already, or its log is damaged.
    """
    check_address(config.serve.host, config.serve.port)
    learner = checked_learner(config)
    make_folder(config)
    SQLiteLog(config.folder / "log", write=True).close()
    (config.folder / "api.json").unlink(missing_ok=True)
    registry = Registry(config.folder)
    champion = registry.alias("champion")
    if champion is not None:
        try:
            model_of(config.factory(), registry.load_weights(champion))
        except StateMismatch as error:
            raise explained(error, config) from error
        except RegistryError:  # damaged: the api goes back to one that is whole, or says why not
            pass
        return
    first = registry.register(
        restore.copied(weights_of(learner)),
        None,
        parent=None,
        first_offset=1,
        last_offset=0,
        metrics={},
        note="as the learner was made",
        id="start",
    )
    registry.set_alias("champion", first.number)


def checked_learner(config: Config) -> Learner:
    """Make the user's learner, twice, and try it on a row; return one that has its classes.

    Raises:
        ConfigError: the function fails, makes something else or another one each time, or the
            model does not fit the schema.
    """
    make, name = config.factory(), config.learner
    digests = []
    for _ in range(2):
        try:
            learner = make()
        except Exception as error:
            raise ConfigError(f"{name} fails: {type(error).__name__}: {error}") from error
        if not isinstance(learner, Learner):
            raise ConfigError(
                f"{name} returns {type(learner).__name__}; it must return a lifelong.Learner"
            )
        digests.append(digest_of(weights_of(learner)))
    if digests[0] != digests[1]:
        raise ConfigError(
            f"{name} makes other weights each time; begin it with torch.manual_seed(0)"
        )
    _check_fit(learner, config)
    return learner


def _check_fit(learner: Learner, config: Config) -> None:
    """Grow for the classes, and try a row."""
    shape, classes, low = config.schema.shape, config.schema.classes, config.schema.low
    try:
        learner.begin_task(TaskSpec(0, tuple(range(classes))))
        output = learner.predict(torch.full((1, *shape), 0.0 if low is None else low), task=0)
    except Exception as error:
        told = " ".join(str(error).split())
        raise ConfigError(
            f"the model of {config.learner} does not take rows of schema.shape {shape}: {told}"
        ) from error
    if tuple(output.shape) != (1, classes):
        raise ConfigError(
            f"the model of {config.learner} gives {tuple(output.shape)} for a row, and "
            f"schema.classes is {classes}; it must give (1, {classes})"
        )


def check_address(host: str, port: int) -> None:
    """See that the service can listen there.

    Raises:
        ConfigError: the port is taken or not allowed, or the host is none of this machine's.
    """
    if not port:
        return
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM
        )[0]
        with socket.socket(family, kind, protocol) as one:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server will
            one.bind(address)
    except OSError as error:
        how = {
            errno.EADDRINUSE: "it is taken; choose another with serve.port, or 0 for any",
            errno.EACCES: "it is not allowed; choose one above 1023 with serve.port",
        }.get(error.errno or 0, f"{error.strerror}; give an address of this machine as serve.host")
        raise ConfigError(f"cannot listen on port {port} of {host}: {how}") from error


def explained(error: LifelongError, config: Config) -> ConfigError:
    """Say what to do about a champion that the model of today does not fit."""
    told = " ".join(str(error).split())
    return ConfigError(
        f"what {config.folder} serves is not of this model ({told[:160]} ...); give another "
        "folder, or go back to the model that it was made with"
    )


def make_folder(config: Config) -> None:
    """Make the folder for all state.

    Raises:
        ConfigError: it cannot be made.
    """
    try:
        config.folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the folder {config.folder}: {error.strerror}; give another as folder"
        ) from error
