from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from lifelong.bench.build import learner_of, stream_of, task_names
from lifelong.bench.job import weights_sha256
from lifelong.bench.recipes import RECIPES
from lifelong.bench.suites import resolve
from lifelong.nets import Augment, GrowingHead, MultiHead, NearestMeanHead, ResNet18, SmallCNN


def settled(strategy: str = "fine-tune", seed: int = 0, **given: Any) -> dict[str, Any]:
    return {**resolve("digits", strategy, {"limit": 5, "epochs": 1, **given}), "seed": seed}


def learner(config: dict[str, Any]) -> Any:
    return learner_of(config, stream_of(config))


def modules(model: nn.Module, kind: type[nn.Module]) -> int:
    return sum(isinstance(module, kind) for module in model.modules())


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"head": "growing"}, GrowingHead),
        ({"head": "multi", "scenario": "task-incremental"}, MultiHead),
        ({"model": "cnn", "width": 8}, SmallCNN),
        ({"model": "resnet18", "width": 4}, ResNet18),
        ({"augment": True}, Augment),
    ],
)
def test_a_model_has_the_head_backbone_and_front_it_is_told(given: dict, kind: type[nn.Module]):
    config = settled(**given)
    stream = stream_of(config)
    made = learner_of(config, stream)
    assert modules(made.model, kind) == 1
    task = next(iter(stream))
    made.begin_task(task)
    assert made.observe(next(iter(task))).isfinite()


def test_a_fixed_head_has_all_outputs_from_the_start():
    made = learner(settled())
    assert made.model.head.out_features == 10
    assert learner(settled(scenario="domain-incremental")).model.head.out_features == 2


def test_xavier_leaves_no_bias():
    made = learner(settled(init="xavier"))
    for module in made.model.modules():
        if isinstance(module, nn.Linear):
            assert not module.bias.any()


def test_adam_and_sgd_get_their_settings():
    assert isinstance(learner(settled(optimizer="adam", lr=0.25)).optimizer, torch.optim.Adam)
    made = learner(settled(optimizer="sgd", momentum=0.5, weight_decay=0.125)).optimizer
    group = made.param_groups[0]
    assert (group["momentum"], group["weight_decay"]) == (0.5, 0.125)


def test_a_seed_makes_the_weights_whatever_the_strategy():
    first = weights_sha256(learner(settled()).model)
    assert weights_sha256(learner(settled("ewc+replay")).model) == first
    assert weights_sha256(learner(settled(seed=1)).model) != first


@pytest.mark.parametrize("strategy", [n for n, r in RECIPES.items() if "task ids" in r.needs])
@pytest.mark.parametrize("given", [{}, {"scenario": "permuted"}, {"scenario": "blurry"}])
def test_what_needs_the_task_is_refused_where_it_is_not_told(strategy: str, given: dict):
    told = f"{strategy} must be told the task .* --set scenario=task-incremental head=multi, or"
    with pytest.raises(ValueError, match=told):
        learner(settled(strategy, **given))
    with pytest.raises(ValueError, match=told):
        learner(settled(f"ewc+{strategy}", **given))
    told_by = {"scenario": given.get("scenario", "task-incremental"), "head": "multi"}
    if told_by["scenario"] != "blurry":
        assert learner(settled(strategy, **told_by)).model


@pytest.mark.parametrize(
    ("strategy", "store", "told"),
    [
        ("replay", "uint8", "bytes are one byte already"),
        ("ewc+bic", "fp16", "bytes are one byte already"),
        ("der++", "jpeg", "14 bytes as the poorest JPEG, more than the 13 there are; .* leave out"),
    ],
)
def test_a_way_to_store_rows_that_is_not_for_those_of_the_stream_is_refused(
    strategy: str, store: str, told: str
):
    owner = strategy.rpartition("ewc+")[2]
    with pytest.raises(ValueError, match=told):
        learner(settled(strategy, **{f"{owner}.store": store}))


def test_a_way_to_store_rows_that_is_for_any_is_not_refused():
    assert learner(settled("replay", **{"replay.store": "auto"})).strategies


def test_values_that_cannot_be_stored_so_are_refused_with_the_settings(tmp_path: Path):
    table = tmp_path / "t.csv"
    table.write_text("\n".join(["one,label", *(f"{i},{'ab'[i % 2]}" for i in range(40))]))
    for store in ("fp16", "uint8"):
        words = {"tasks": 1, "replay.store": store}
        config = {**resolve(str(table), "replay", words), "seed": 0}
        if store == "fp16":
            assert learner(config).strategies
        else:
            with pytest.raises(ValueError, match="are outside of 0 to 1, the range stored"):
                learner(config)


def test_the_global_random_state_is_not_touched():
    before = torch.get_rng_state()
    config = settled("der++", augment=True, head="growing")
    stream = stream_of(config)
    learner_of(config, stream).begin_task(stream.tasks[0])
    assert torch.equal(torch.get_rng_state(), before)


def test_joint_learns_all_rows_as_one_task_and_is_measured_on_each():
    config = settled("joint", head="growing")
    stream = stream_of(config)
    assert (len(stream), len(stream.tests)) == (1, 5)
    assert len(stream.tasks[0].train) == 50
    made = learner_of(config, stream)
    assert made.predict(stream.tests[0].x).shape[1] == 10
    assert task_names(config) == task_names(settled())


def test_cumulative_learns_all_rows_so_far():
    stream = stream_of(settled("cumulative"))
    assert [len(task.train) for task in stream.tasks] == [10, 20, 30, 40, 50]


@pytest.mark.parametrize(
    "given",
    [{"scenario": "permuted"}, {"scenario": "rotated"}, {"scenario": "blurry", "mixing": 0.2}],
)
def test_other_scenarios_have_as_many_tasks(given: dict):
    assert len(stream_of(settled(tasks=2, **given))) == 2


def test_iterations_go_over_the_epochs_of_a_suite():
    config = resolve("digits", "fine-tune", {"limit": 5, "iterations": 3})
    stream = stream_of({**config, "seed": 0})
    assert [len(task) for task in stream.tasks] == [3] * 5


def test_a_random_class_order_depends_on_the_seed():
    names = [task_names(settled(seed=seed, class_order="random")) for seed in (0, 0, 1)]
    assert names[0] == names[1] != names[2]


def test_what_cannot_be_cut_is_refused():
    with pytest.raises(ValueError, match="7 tasks"):
        stream_of(settled(tasks=7))


@pytest.mark.parametrize("head", ["growing", "fixed"])
def test_a_strategy_that_predicts_by_class_means_gets_the_head_for_it(head: str):
    config = settled("lwf+icarl", head=head)
    stream = stream_of(config)
    made = learner_of(config, stream)
    assert modules(made.model, NearestMeanHead) == 1
    for task in stream:
        made.begin_task(task)
        for batch in task:
            made.observe(batch)
        made.end_task(task)
    assert made.model.head.means.isfinite().all()
    assert made.predict(stream.tests[0].x).max() <= 1e-5
    assert modules(learner(settled("replay", head=head)).model, NearestMeanHead) == 0


def test_a_head_that_is_told_the_task_stays_as_it_is():
    made = learner(settled("icarl", head="multi", scenario="task-incremental"))
    assert modules(made.model, NearestMeanHead) == 0
