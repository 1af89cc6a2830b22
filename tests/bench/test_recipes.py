import pytest
import torch
from torch import nn

from lifelong.bench.build import learner_of, stream_of
from lifelong.bench.recipes import RECIPES, bound, make, network, parts
from lifelong.bench.suites import resolve
from lifelong.core.errors import UnknownName
from lifelong.nets import MLP, AnalyticHead, Classifier, MultiHead, TaskClassifier


def test_every_strategy_is_made_from_its_defaults_and_has_settings():
    for name, recipe in RECIPES.items():
        made = make(name, {name: recipe.settings()})
        assert len(made) == (recipe.make is not None)
        assert recipe.paper
        assert recipe.family


@pytest.mark.parametrize(
    ("name", "taken_apart"),
    [
        ("ewc", ["ewc"]),
        ("der++", ["der++"]),
        ("ewc+der+++lwf", ["ewc", "der++", "lwf"]),
        ("der+++replay", ["der++", "replay"]),
        ("der+si", ["der", "si"]),
    ],
)
def test_combinations_are_taken_apart(name: str, taken_apart: list[str]):
    assert parts(name) == taken_apart
    assert len(make(name, {})) == len(taken_apart)


@pytest.mark.parametrize("name", ["", "ewc+", "+", "nonsense", "der+++", "ewc lwf"])
def test_unknown_strategies_are_refused(name: str):
    with pytest.raises(UnknownName, match="unknown strategy"):
        parts(name)


def test_the_nearest_strategy_is_suggested():
    with pytest.raises(UnknownName, match="did you mean 'replay'"):
        parts("ewc+repley")


@pytest.mark.parametrize("name", ["joint+ewc", "ewc+cumulative", "fine-tune+replay"])
def test_bounds_and_fine_tuning_stand_alone(name: str):
    with pytest.raises(ValueError, match="stands alone"):
        parts(name)


def test_bounds_are_told():
    assert [bound(name) for name in ("joint", "cumulative", "fine-tune", "ewc+replay")] == [
        "joint",
        "cumulative",
        None,
        None,
    ]


def test_settings_of_a_strategy_built_on_replay_include_those_of_replay():
    assert RECIPES["replay"].settings().keys() < RECIPES["der++"].settings().keys()
    [strategy] = make("der++", {"der++": {"capacity": 7, "label_strength": 0.25}})
    assert strategy.memory.capacity == 7


def test_online_ewc_decays():
    assert RECIPES["online-ewc"].settings()["decay"] == 1.0


def test_unknown_settings_are_refused_with_the_nearest():
    with pytest.raises(UnknownName, match=r"setting of ewc 'strenght'; did you mean 'strength'"):
        make("ewc", {"ewc": {"strenght": 1.0}})
    with pytest.raises(UnknownName, match="setting of replay 'device'"):
        make("replay", {"replay": {"device": "cpu"}})


@pytest.mark.parametrize(
    ("name", "setting", "value", "kind"),
    [
        ("ewc", "strength", "abc", "float"),
        ("ewc", "strength", True, "float"),
        ("ewc", "strength", None, "float"),
        ("ewc", "decay", "x", "float or None"),
        ("ewc", "rows", 1.5, "int or None"),
        ("replay", "capacity", 1.5, "int"),
        ("replay", "policy", 3, "str"),
        ("lwf", "per_task", 1, "bool"),
        ("der++", "rows", "a", "int or None"),
    ],
)
def test_settings_of_a_wrong_type_are_refused(name: str, setting: str, value: object, kind: str):
    with pytest.raises(ValueError, match=f"{setting} is .*; it must be of type {kind}"):
        make(name, {name: {setting: value}})


def test_settings_of_a_right_type_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="strength is -1"):
        make("ewc", {"ewc": {"strength": -1}})
    with pytest.raises(UnknownName, match="policy 'rng'; did you mean 'ring'"):
        make("replay", {"replay": {"policy": "rng"}})


@pytest.mark.parametrize("name", ["ncm", "slda", "ranpac"])
def test_analytic_recipes_freeze_a_suites_network_and_need_no_optimizer(name: str):
    config = {**resolve("digits", name, {"limit": 4}), "seed": 0}
    learner = learner_of(config, stream_of(config))
    assert learner.optimizer is None
    assert isinstance(learner.model.head, AnalyticHead)
    assert learner.model.head.classes == 10


def test_a_warm_backbone_has_an_optimizer_and_trains_through_the_suites_head():
    config = {**resolve("digits", "ranpac-warm", {"limit": 4}), "seed": 0}
    learner = learner_of(config, stream_of(config))
    assert learner.optimizer is not None
    assert learner.model.head.logits.out_features == 10
    assert "backbone.layers.0.weight" in learner.parameters


def test_analytic_heads_are_not_told_the_task():
    with pytest.raises(ValueError, match="not told the task, as the suite's TaskClassifier is"):
        network("ncm", TaskClassifier(MLP(4, hidden=(3,)), MultiHead(3)))


class Named(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def test_analytic_heads_go_behind_any_backbone_whose_head_says_what_it_is_given():
    made = network("slda", Classifier(nn.Sequential(nn.Linear(4, 3)), nn.Linear(3, 2)))
    assert (made.head.features, made.head.classes) == (3, 2)
    for model in (Named(), nn.Sequential(nn.Linear(4, 3)), Classifier(Named(), Named())):
        with pytest.raises(ValueError, match=f"{type(model).__name__} does not say where its feat"):
            network("slda", model)
