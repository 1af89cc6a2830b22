import pytest
import torch
from adapted_models import INPUTS, SPECS, mlp, stirred, transformer
from torch import nn
from torch.optim import SGD

from lifelong import Batch, Learner, TaskSpec
from lifelong.core.errors import CheckpointError, OptimizerMismatch, StateMismatch, UnknownTask
from lifelong.core.growth import grow
from lifelong.nets import (
    Transformer,
    adapter_state,
    add_bottlenecks,
    add_lora,
    load_adapter,
    load_adapter_state,
    merge,
    save_adapter,
)
from lifelong.nets.adapters import adapters


@pytest.mark.parametrize("add", [add_lora, add_bottlenecks])
@pytest.mark.parametrize("make", [mlp, transformer])
def test_a_set_goes_through_a_file_to_another_task(add, make, tmp_path):
    torch.manual_seed(0)
    model = stirred(add(make(), rank=2, sets="task")).eval()
    save_adapter(tmp_path / "set.safetensors", model, 3)
    load_adapter(tmp_path / "set.safetensors", model, 8)
    x = INPUTS[make](4)
    one, other = (model(x, task=torch.full((4,), id)) for id in (3, 8))
    assert torch.equal(one, other)
    assert (tmp_path / "set.safetensors").stat().st_size < 10_000


def test_a_frozen_set_can_be_put_back():
    model = stirred(add_lora(mlp(), rank=2, sets="summed"))
    before = adapter_state(model, 1)["layers"]["backbone.layers.0"]["up.weight"]
    load_adapter_state(model, adapter_state(model, 1), 0)
    assert torch.equal(adapter_state(model, 0)["layers"]["backbone.layers.0"]["up.weight"], before)


def learner_with(add, sets):
    torch.manual_seed(0)
    model = add(mlp(), rank=2, sets=sets)
    return Learner(model, SGD(model.parameters(), lr=0.1, momentum=0.9), clip=1.0)


def rows(task):
    return Batch.of(torch.randn(8, 6), torch.arange(8) % 2 + 2 * task, task)


def learn(learner, task):
    learner.begin_task(TaskSpec(task, (2 * task, 2 * task + 1)))
    for _ in range(3):
        learner.observe(rows(task))
    learner.end_task([rows(task)])


@pytest.mark.parametrize("sets", ["task", "summed"])
@pytest.mark.parametrize("add", [add_lora, add_bottlenecks])
def test_a_set_that_is_loaded_before_its_task_learns_when_it_begins_and_resumes(add, sets):
    learner = learner_with(add, sets)
    learn(learner, 0)
    loaded = adapter_state(learner.model, 0)
    load_adapter_state(learner.model, loaded, 5)
    with pytest.raises(OptimizerMismatch, match=r"pairs\.5\.down\.weight.* begin it before saving"):
        learner.state_dict()
    learn(learner, 5)
    held = {id(p) for group in learner.optimizer.param_groups for p in group["params"]}
    before = loaded["layers"]["backbone.layers.0"]["down.weight"]
    layer = dict(adapters(learner.model))["backbone.layers.0"]
    assert {id(p) for p in layer.pairs["5"].parameters()} <= held
    assert not torch.equal(layer.pairs["5"].down.weight, before)
    again = learner_with(add, sets)
    again.load_state_dict(learner.state_dict())
    batch = rows(5)
    assert torch.equal(learner.observe(batch), again.observe(batch))
    x = torch.randn(4, 6)
    assert torch.equal(learner.predict(x, 5), again.predict(x, 5))


@pytest.mark.parametrize("sets", ["task", "summed"])
@pytest.mark.parametrize("add", [add_lora, add_bottlenecks])
def test_a_set_that_is_loaded_while_another_task_is_open_lets_that_go_on_learning(add, sets):
    learner = learner_with(add, sets)
    learner.begin_task(TaskSpec(0, (0, 1)))
    learner.observe(rows(0))
    load_adapter_state(learner.model, adapter_state(learner.model, 0), 1)
    layer = dict(adapters(learner.model))["backbone.layers.0"]
    before = adapter_state(learner.model, 0)["layers"]["backbone.layers.0"]
    loaded = adapter_state(learner.model, 1)["layers"]["backbone.layers.0"]
    learner.observe(rows(0))
    assert not torch.equal(layer.pairs["0"].down.weight, before["down.weight"])
    assert torch.equal(layer.pairs["1"].down.weight, loaded["down.weight"])
    learner.end_task([rows(0)])
    learner.begin_task(TaskSpec(1, (2, 3)))
    assert all(p.grad is None for p in layer.parameters())
    trained = {name for name, pair in layer.pairs.items() if pair.down.weight.requires_grad}
    assert trained == ({"1"} if sets == "summed" else {"0", "1"})


def test_a_task_that_begins_twice_keeps_its_set_and_resumes():
    learner = learner_with(add_lora, "task")
    for task in (0, 1, 0):
        learn(learner, task)
    state = learner.state_dict()
    for begun in (0, 1, 2):
        again = learner_with(add_lora, "task")
        for task in range(begun):
            learn(again, task)
        again.load_state_dict(state)
        x = torch.randn(4, 6)
        assert torch.equal(learner.predict(x, 0), again.predict(x, 0))


def test_a_set_that_is_taken_out_is_a_copy():
    model = stirred(add_lora(mlp(), rank=2))
    state = adapter_state(model)
    before = state["layers"]["backbone.layers.0"]["up.weight"].clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    assert torch.equal(state["layers"]["backbone.layers.0"]["up.weight"], before)
    load_adapter_state(model, state)
    assert torch.equal(adapter_state(model)["layers"]["backbone.layers.0"]["up.weight"], before)


def test_sets_of_ten_tasks_of_an_encoder_of_6_x_384_take_less_than_5_mb(tmp_path):
    with torch.device("meta"):
        encoder = Transformer(tokens=10, width=384, layers=6, heads=12, hidden=1536)
    encoder = encoder.to_empty(device="cpu")
    model = add_lora(encoder, rank=8, match="query|value", sets="task", head=False)
    grow(model, TaskSpec(0))
    save_adapter(tmp_path / "set.safetensors", model, 0)
    size = (tmp_path / "set.safetensors").stat().st_size
    values = 6 * 2 * 8 * (384 + 384)
    assert 4 * values < size < 4 * values + 10_000
    assert 10 * size < 5_000_000
    print(f"ten sets take {10 * size / 1e6:.2f} MB")


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (lambda: add_lora(mlp(), rank=3, sets="task"), "rank=2, the model has rank=3"),
        (lambda: add_lora(mlp(), rank=2, alpha=9.0, sets="task"), "alpha=2.0.*alpha=9.0"),
        (lambda: add_bottlenecks(mlp(), rank=2, sets="task"), "'LoRA'.*'Bottleneck'"),
        (lambda: add_lora(mlp(), rank=2, match="layers.0", sets="task"), "other layers.*layers.2"),
        (
            lambda: add_lora(nn.Sequential(nn.Linear(6, 9), nn.Linear(9, 2)), rank=2, sets="task"),
            "other layers",
        ),
    ],
)
def test_a_set_of_another_kind_or_shape_is_refused(other, told):
    state = adapter_state(stirred(add_lora(mlp(), rank=2, sets="task")), 0)
    model = other()
    grow(model, SPECS[0]) if "Sequential" not in repr(type(model.model)) else None
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(StateMismatch, match=told):
        load_adapter_state(model, state, 0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_another_width_a_missing_part_and_no_set_at_all_are_refused():
    model = stirred(add_lora(mlp(), rank=2))
    state = adapter_state(model)
    state["layers"]["backbone.layers.0"]["up.weight"] = torch.zeros(4, 2)
    with pytest.raises(StateMismatch, match=r"up.weight is \(4, 2\) in the set, \(7, 2\)"):
        load_adapter_state(model, state)
    del state["layers"]["backbone.layers.0"]["up.weight"]
    with pytest.raises(StateMismatch, match=r"up\.weight is None"):
        load_adapter_state(model, state)
    with pytest.raises(StateMismatch, match="not a set of adapters"):
        load_adapter_state(model, {"kind": "LoRA"})
    for damaged, told in (
        ([1], r"damaged: backbone\.layers\.0 is of type list, not a dict.*adapter_state\(model\)"),
        (None, "of type NoneType"),
        ({**adapter_state(model)["layers"]["backbone.layers.0"], 1: 2, "a": 3}, r"\['1', 'a'\]"),
    ):
        state = adapter_state(model)
        state["layers"]["backbone.layers.0"] = damaged
        with pytest.raises(StateMismatch, match=told):
            load_adapter_state(model, state)


def test_tasks_must_be_named_where_each_has_a_set():
    routed, shared = add_lora(mlp(), rank=2, sets="task"), add_lora(mlp(), rank=2)
    with pytest.raises(UnknownTask, match=r"task 5 has no set here; .* tasks \(none yet\)$"):
        adapter_state(routed, 5)
    stirred(routed)
    with pytest.raises(UnknownTask, match=r"task 5 has no set here; .* tasks 0, 3, 1$"):
        adapter_state(routed, 5)
    with pytest.raises(UnknownTask, match=r"no task is named, .* tasks 0, 3, 1: name one$"):
        adapter_state(routed)
    with pytest.raises(UnknownTask, match="task 5 has no set of its own: all tasks share one"):
        adapter_state(shared, 5)
    with pytest.raises(ValueError, match="one set that all tasks share"):
        load_adapter_state(shared, adapter_state(shared), 0)
    with pytest.raises(ValueError, match="has no adapters"):
        adapter_state(nn.Linear(2, 2))


def test_a_merged_model_takes_no_set():
    model = stirred(add_lora(mlp(), rank=2))
    state = adapter_state(model)
    merge(model)
    with pytest.raises(ValueError, match=r"the model is merged.*unmerge\(model\)"):
        load_adapter_state(model, state)


def test_a_damaged_file_changes_nothing(tmp_path):
    model = add_lora(mlp(), rank=2)
    path = tmp_path / "set.safetensors"
    save_adapter(path, model)
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="truncated"):
        load_adapter(path, model)


@pytest.mark.parametrize("add", [add_lora, add_bottlenecks])
@pytest.mark.parametrize("head", [True, False])
def test_only_with_a_frozen_head_do_tasks_that_share_labels_leave_each_other_alone(add, head):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))
    model = add(net, rank=2, sets="task", head=head)
    learner = Learner(model, SGD(model.parameters(), lr=0.1))
    x, told = torch.randn(8, 6), []
    for task in range(2):
        learner.begin_task(task)
        for _ in range(3):
            learner.observe(Batch.of(x, torch.arange(8) % 2, task))
        learner.end_task([Batch.of(x, torch.arange(8) % 2, task)])
        told.append(learner.predict(x, task=0))
    assert torch.equal(*told) is not head
