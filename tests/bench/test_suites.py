import json
from dataclasses import fields

import pytest

from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.recipes import RECIPES
from lifelong.bench.suites import SUITES, Suite, resolve
from lifelong.core.errors import UnknownName
from lifelong.streams.datasets import DEBIAN_FASHION_MNIST, FASHION_MNIST, MNIST
from lifelong.streams.sources import cache_folder, data_folders, find

FILES = {"mnist": MNIST, "fashion-mnist": FASHION_MNIST}


@pytest.mark.parametrize("suite", SUITES)
def test_every_suite_resolves_with_every_strategy_to_plain_data(suite: str):
    for strategy in RECIPES:
        config = resolve(suite, strategy, {})
        assert json.loads(json.dumps(config)) == config
        assert set(config) == {f.name for f in fields(Suite)} - {"summary"} | {
            "suite",
            "strategy",
            "device",
        }
        assert set(config["settings"]) == {strategy}
    assert SUITES[suite].summary


@pytest.mark.parametrize("suite", [name for name in SUITES if "mnist" in name])
def test_every_suite_builds_where_its_data_is(suite: str):
    source = FILES[SUITES[suite].data]
    folders = [*data_folders(source.folder), cache_folder() / source.folder]
    if source is FASHION_MNIST:
        folders.append(DEBIAN_FASHION_MNIST)
    if find(list(source.files), folders) is None:
        pytest.skip("set LIFELONG_DATA to a folder with its data")
    config = {**resolve(suite, "replay", {"limit": 5}), "seed": 0}
    stream = stream_of(config)
    learner = learner_of(config, stream)
    task = next(iter(stream))
    learner.begin_task(task)
    assert learner.observe(next(iter(task))).isfinite()
    assert len(stream) == len(stream.tests) == config["tasks"]


def test_what_is_given_goes_over_the_suite():
    config = resolve("digits", "ewc+replay", {"lr": 1, "iterations": 7, "replay.capacity": 9})
    assert config["lr"] == 1.0
    assert type(config["lr"]) is float
    assert config["iterations"] == 7
    assert config["settings"] == {"ewc": {"strength": 100.0}, "replay": {"capacity": 9}}
    assert SUITES["digits"].settings["replay"] == {"capacity": 200}


def test_settings_of_a_strategy_that_is_not_run_change_nothing():
    assert resolve("digits", "si", {"ewc.strength": 5.0}) == resolve("digits", "si", {})


@pytest.mark.parametrize(
    ("suite", "given", "message"),
    [
        ("digit", {}, "unknown suite 'digit'; did you mean 'digits'"),
        ("digits", {"epoch": 1}, "unknown setting 'epoch'; did you mean 'epochs'"),
        ("digits", {"summary": "x"}, "unknown setting 'summary'"),
        ("digits", {"settings": {}}, "unknown setting 'settings'"),
        ("digits", {"ewk.strength": 1.0}, "unknown strategy 'ewk'; did you mean 'ewc'"),
        ("digits", {"ewc.strenth": 1.0}, "setting of ewc 'strenth'; did you mean 'strength'"),
        ("digits", {"data": "minst"}, "value of data 'minst'; did you mean 'mnist'"),
        ("digits", {"model": "resnet"}, "value of model 'resnet'; did you mean 'resnet18'"),
        ("digits", {"scenario": "class"}, "unknown value of scenario 'class'"),
        ("digits", {"optimizer": 3}, "unknown value of optimizer '3'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(suite: str, given: dict, message: str):
    with pytest.raises(UnknownName, match=message):
        resolve(suite, "ewc", given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1.5),
        ("epochs", "1"),
        ("epochs", True),
        ("epochs", None),
        ("lr", "high"),
        ("lr", True),
        ("augment", 1),
        ("limit", 2.0),
    ],
)
def test_values_of_a_wrong_type_are_refused(name: str, value: object):
    with pytest.raises(ValueError, match=f"{name} is .*; it must be of type"):
        resolve("digits", "ewc", {name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [("lr", float("nan")), ("lr", -0.1), ("momentum", float("inf")), ("curve", -1)],
)
def test_numbers_that_make_no_sense_are_refused(name: str, value: float):
    with pytest.raises(ValueError, match=f"{name} is .* finite number of 0 or more"):
        resolve("digits", "ewc", {name: value})


def test_what_may_be_left_open_may_be_none():
    assert resolve("digits", "ewc", {"limit": None, "iterations": None})["limit"] is None


def test_a_setting_may_be_called_true():
    assert resolve("digits", "ewc", {"ewc.fisher": True})["settings"]["ewc"]["fisher"] == "true"


def test_passes_and_batches_of_a_task_take_each_others_place():
    given = resolve("split-mnist-class", "replay", {"epochs": 3})
    assert (given["epochs"], given["iterations"]) == (3, None)
    given = resolve("digits", "replay", {"iterations": 7})
    assert (given["epochs"], given["iterations"]) == (1, 7)
    given = resolve("split-mnist-class", "replay", {"iterations": None, "epochs": 2})
    assert (given["epochs"], given["iterations"]) == (2, None)
    with pytest.raises(ValueError, match="epochs is 2 and iterations is 7; give one of them"):
        resolve("digits", "replay", {"iterations": 7, "epochs": 2})
