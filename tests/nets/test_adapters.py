import copy
from functools import partial

import pytest
import torch
from adapted_models import INPUTS, SPECS, mixed, mlp, stirred, transformer
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Adam

from lifelong import EWC, Batch, Learner, Replay, TaskSpec
from lifelong.core.errors import UnknownTask
from lifelong.core.features import tapped
from lifelong.core.growth import grow
from lifelong.core.importance import fisher
from lifelong.nets import (
    MLP,
    Classifier,
    GrowingHead,
    MultiHead,
    Routed,
    TaskClassifier,
    add_bottlenecks,
    add_lora,
)
from lifelong.nets.adapters import Adapter

KINDS = [partial(add_lora, rank=2, alpha=3.0), partial(add_bottlenecks, rank=2)]


@pytest.mark.parametrize("make", [mlp, transformer])
@pytest.mark.parametrize("add", KINDS)
@pytest.mark.parametrize("sets", ["shared", "summed", "task"])
def test_new_sets_change_nothing(add, make, sets):
    torch.manual_seed(0)
    plain = make()
    grow(plain, SPECS[0])
    model = add(copy.deepcopy(plain), sets=sets)
    grow(model, SPECS[0])
    x = INPUTS[make](4)
    routed = {"task": torch.zeros(4, dtype=torch.int64)} if sets == "task" else {}
    assert torch.equal(model(x, **routed), plain(x))
    head = {id(p) for p in model.head.parameters()}
    base = [p for n, p in model.named_parameters() if "pairs" not in n and id(p) not in head]
    assert not any(p.requires_grad for p in base)
    assert all(p.requires_grad for p in model.head.parameters())


@pytest.mark.parametrize("make", [mlp, transformer])
@pytest.mark.parametrize("add", KINDS)
def test_each_row_of_a_mixed_batch_is_answered_by_its_own_set(add, make):
    torch.manual_seed(0)
    model = stirred(add(make(), sets="task")).eval()
    x, task = INPUTS[make](8), mixed(8)
    together = model(x, task=task)
    for row in range(8):
        alone = model(x[row : row + 1], task=task[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone)
    torch.testing.assert_close(together[3::4], model(x)[3::4])
    assert not torch.allclose(together[0], model(x[:1], task=torch.tensor([3]))[0])


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from([-1, 0, 1, 3]), min_size=1, max_size=12),
    st.booleans(),
    st.sampled_from(KINDS),
)
@example([0] * 9 + [1, 3], False, add_bottlenecks)  # uneven: all sets for each row
@example([0] * 9 + [1, 3], True, add_bottlenecks)  # uneven, and long: each row's own set
@example([3, -1, 0, 0, 1, 1, 3], False, add_bottlenecks)  # even: task by task
@example([3, -1, 0, 0, 1, 1, 3], True, add_lora)
def test_a_batch_may_mix_tasks_in_any_way_and_leaves_others_alone(ids, many, add):
    make = transformer if many else mlp
    torch.manual_seed(0)
    model = stirred(add(make(), rank=2, sets="task"))
    task, x = torch.tensor(ids), INPUTS[make](len(ids))
    pairs = {name: p for name, p in model.named_parameters() if "pairs" in name}
    ends = []
    for output in (
        model(x, task=task),
        torch.cat([model(x[i : i + 1], task=task[i : i + 1]) for i in range(len(ids))]),
    ):
        model.zero_grad()
        (output * torch.arange(1, output.numel() + 1).view_as(output)).sum().backward()
        ends.append((output.detach(), {name: p.grad for name, p in pairs.items()}))
    (together, gradients), (alone, expected) = ends
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)
    for name in pairs:
        present = int(name.split("pairs.")[1].split(".")[0]) in ids
        assert (gradients[name] is not None) == (expected[name] is not None) == present
        if present:
            torch.testing.assert_close(gradients[name], expected[name], rtol=1e-3, atol=1e-3)


def test_no_rows_get_no_answers():
    model = stirred(add_lora(mlp(), rank=2, sets="task"))
    assert model(torch.zeros(0, 6), task=torch.zeros(0, dtype=torch.int64)).shape == (0, 5)


@pytest.mark.parametrize("add", KINDS)
def test_summed_sets_add_up_and_earlier_ones_are_frozen(add):
    torch.manual_seed(0)
    model = add(nn.Sequential(nn.Linear(4, 3)), sets="summed", head=False)
    x = torch.randn(5, 4)
    stirred(model)
    layer = model[0]
    seen = layer.seen(x, layer.base(x))
    torch.testing.assert_close(model(x), layer.base(x) + sum(p(seen) for p in layer.pairs.values()))
    free = [n.split(".")[2] for n, p in model.named_parameters() if p.requires_grad]
    assert {*free} == {"1"}
    assert grow(model, SPECS[-1]) == list(layer.pairs["1"].parameters())  # nothing is added
    with pytest.raises(ValueError, match="task 0 is frozen since task 1 began"):
        grow(model, SPECS[0])
    assert {n.split(".")[2] for n, p in model.named_parameters() if p.requires_grad} == {"1"}


def test_importance_of_sets_by_task_is_that_of_single_rows():
    torch.manual_seed(0)
    model = stirred(add_lora(mlp(), rank=2, sets="task"))
    rows = Batch.of(torch.randn(6, 6), torch.randint(5, (6,)), mixed(6))
    found = fisher(model, [rows])
    brute = {n: torch.zeros_like(p) for n, p in model.named_parameters() if p.requires_grad}
    for i in range(6):
        model.zero_grad()
        output = model(rows.x[i : i + 1], task=rows.task[i : i + 1])
        nn.functional.cross_entropy(output, rows.y[i : i + 1]).backward()
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                brute[name] += parameter.grad.square() / 6
    assert found.keys() == brute.keys()
    for name in brute:
        torch.testing.assert_close(found[name], brute[name])


def _learner(sets, seed=0):
    torch.manual_seed(seed)
    model = add_lora(Classifier(MLP(6, hidden=(32,)), GrowingHead(32)), rank=3, sets=sets)
    strategies = [EWC(1.0), Replay(60)]
    return Learner(model, Adam(model.parameters(), lr=0.02), strategies, seed=seed)


def _batches(task, count=6):
    chance = torch.Generator().manual_seed(task)
    made = []
    for _ in range(count):
        y = 2 * task + torch.randint(2, (8,), generator=chance)
        x = torch.randn(8, 6, generator=chance) + 3 * nn.functional.one_hot(y, 6)
        made.append(Batch.of(x, y, task))
    return made


@pytest.mark.parametrize("sets", ["shared", "summed", "task"])
def test_lora_replay_and_ewc_on_a_growing_head_learn_and_resume_to_the_bit(sets, tmp_path):
    learner, base = _learner(sets), None
    for task in range(3):
        learner.begin_task(TaskSpec(task, (2 * task, 2 * task + 1)))
        for number, batch in enumerate(4 * _batches(task)):
            if (task, number) == (1, 9):
                learner.save(tmp_path / "middle.safetensors")
            learner.observe(batch)
        learner.end_task(_batches(task))
        layer = dict(learner.model.named_modules())
        weight = next(m.base.weight for m in layer.values() if hasattr(m, "pairs"))
        base = weight.clone() if base is None else base
        assert torch.equal(weight, base)
    right = []
    for task in range(3):
        batch = _batches(task)[0]
        right.append((learner.predict(batch.x, task).argmax(1) == batch.y).float().mean())
    assert torch.stack(right).mean() > 0.7
    parts = _learner(sets, seed=5)
    resumed = Learner.load(
        tmp_path / "middle.safetensors", parts.model, parts.optimizer, [EWC(1.0), Replay(60)]
    )
    for task in (1, 2):
        learner_tasks = 4 * _batches(task)
        resumed.begin_task(TaskSpec(task, (2 * task, 2 * task + 1)))
        for batch in learner_tasks[9 if task == 1 else 0 :]:
            resumed.observe(batch)
        resumed.end_task(_batches(task))
    one, other = learner.model.state_dict(), resumed.model.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_features_of_a_task_that_is_not_replayed_stay_to_the_bit_whatever_the_momentum():
    torch.manual_seed(0)
    net = TaskClassifier(MLP(6, hidden=(7,)), MultiHead(7))
    model = add_lora(net, rank=2, sets="task")
    learner = Learner(model, SGD(model.parameters(), lr=0.1, momentum=0.9))
    x, before = _batches(0)[0].x, None
    for task in range(2):
        learner.begin_task(TaskSpec(task, (2 * task, 2 * task + 1)))
        for batch in _batches(task):
            learner.observe(batch)
        learner.end_task(_batches(task))
        with tapped(model) as tap:
            learner.predict(x, 0)
        before = tap.features if before is None else before
        assert torch.equal(tap.features, before)


def test_an_exported_module_gives_the_same_and_copies_share_nothing():
    torch.manual_seed(0)
    model = stirred(add_lora(mlp(), rank=2, sets="task")).eval()
    x, task = torch.randn(8, 6), mixed(8)
    copied = copy.deepcopy(model)
    assert torch.equal(copied(x, task=task), model(x, task=task))
    assert copied.route is not model.route
    torch.manual_seed(1)
    other = add_lora(mlp(), rank=2, sets="task").eval()
    for spec in SPECS:
        grow(other, spec)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x, task=task), model(x, task=task))


def test_sets_are_compiled_with_the_model():
    torch.manual_seed(0)
    model = stirred(add_lora(mlp(), rank=2, sets="task"))
    x, task = torch.randn(8, 6), mixed(8)
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(x, task=task), model(x, task=task))


@pytest.mark.parametrize("batch_first", [True, False])
def test_encoders_of_torch_are_adapted_whole(batch_first):
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=batch_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    plain = copy.deepcopy(encoder).eval()
    model = add_lora(encoder, rank=2, head=False)
    x = torch.randn(3, 3, 8)
    padding = torch.tensor([[False, False, True]] * 3)
    told = plain(x, src_key_padding_mask=padding)
    for training in (True, False):
        model.train(training)
        with torch.no_grad():
            mine = model(x, src_key_padding_mask=padding)
        seen = mine[:, :2] if batch_first else mine
        torch.testing.assert_close(seen, told[:, :2] if batch_first else told)
    stirred(model)
    with torch.no_grad():
        assert not torch.allclose(model(x), plain(x))
    adapted = [n for n, _ in model.named_parameters() if n.endswith("shared.down.weight")]
    assert len(adapted) == 2 * 6


@pytest.mark.parametrize("add", KINDS)
def test_a_layer_that_is_adapted_shows_its_weight_bias_and_sizes(add):
    plain = nn.Linear(4, 3)
    layer = add(nn.Sequential(plain, nn.Linear(3, 2, bias=False)), head=False)
    assert layer[0].weight is plain.weight
    assert layer[0].bias is plain.bias
    assert layer[1].bias is None
    assert [(part.in_features, part.out_features) for part in layer] == [(4, 3), (3, 2)]
    assert {*layer.state_dict()} == {*dict(layer.named_parameters())}


def test_running_statistics_stay_and_dropout_goes_on():
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Dropout(), nn.Linear(3, 2))
    learner_model = add_lora(model, rank=1).train()
    before = {n: b.clone() for n, b in learner_model.named_buffers()}
    learner_model(torch.randn(5, 4))
    assert all(torch.equal(b, before[n]) for n, b in learner_model.named_buffers())
    assert learner_model[2].training


def test_a_layer_that_is_used_twice_is_adapted_once():
    shared = nn.Linear(4, 4)
    model = add_lora(nn.Sequential(shared, nn.ReLU(), shared, nn.Linear(4, 2)), rank=1)
    assert model[0] is model[2]
    assert sum(p.requires_grad for p in model[:3].parameters()) == 2


@pytest.mark.parametrize(
    ("use", "told"),
    [
        (lambda: add_lora(nn.Sequential(nn.ReLU())), "no linear layer"),
        (lambda: add_lora(nn.Sequential(nn.Conv2d(1, 1, 1), nn.Linear(2, 2))), "beside its head"),
        (lambda: add_lora(nn.Linear(2, 2)), "beside its head; take head=False"),
        (lambda: add_lora(nn.Sequential(nn.Conv2d(1, 1, 1), nn.ReLU())), "no linear layer; adapt"),
        (lambda: add_lora(mlp(), match="("), r"match is '\('.*re\.escape"),
        (lambda: add_lora(mlp(), head="tail"), "head is 'tail', .*layers.0, backbone.layers.2"),
        (lambda: add_lora(mlp(), match="query"), "matches 'query'; its layers: backbone.layers.0"),
        (lambda: add_lora(mlp(), rank=0), "rank is 0"),
        (lambda: add_lora(mlp(), rank=2.0), "rank is 2.0"),
        (lambda: add_lora(mlp(), alpha=-1.0), "alpha is -1.0"),
        (lambda: add_lora(mlp(), sets="many"), "sets is 'many'"),
        (lambda: add_lora(add_lora(mlp())), "adapters already"),
        (lambda: add_lora(nn.TransformerEncoderLayer(8, 2), sets="task"), "batch_first=True"),
        (lambda: add_bottlenecks(mlp(), rank=-1), "rank is -1"),
    ],
)
def test_what_cannot_be_adapted_is_refused(use, told):
    with pytest.raises(ValueError, match=told):
        use()


@pytest.mark.parametrize("add", KINDS)
def test_a_head_whose_weight_is_that_of_a_frozen_layer_is_refused(add):
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"0 has a weight of the head .*take head=False"):
        add(model)
    assert all(p.requires_grad for p in model.parameters())
    adapted = add(model, head=False)
    assert not adapted[0].weight.requires_grad
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 4), nn.Linear(4, 5))
    model[2].weight = model[0].weight.requires_grad_(False)
    add(model)  # only the bias of the head learns


class Reversed(nn.Module):
    """A model that runs its layers in another order than it defines them in."""

    def __init__(self):
        super().__init__()
        self.out, self.layer = nn.Linear(4, 2), nn.Linear(3, 4)

    def forward(self, x):
        return self.out(self.layer(x))


@pytest.mark.parametrize("add", KINDS)
def test_a_head_may_be_named(add):
    by_rule, by_name = add(Reversed()), add(Reversed(), head="out")
    assert isinstance(by_rule.out, Adapter)
    assert type(by_rule.layer) is type(by_name.out) is nn.Linear
    assert isinstance(by_name.layer, Adapter)
    free = [name for name, p in by_name.named_parameters() if p.requires_grad]
    assert {name.split(".")[0] for name in free if "pairs" not in name} == {"out"}
    inner = add(nn.Sequential(Reversed(), nn.Linear(2, 2)), head="0.layer")
    assert type(inner[0].layer) is nn.Linear
    assert isinstance(inner[1], Adapter)


def test_what_is_refused_is_as_it_was():
    plain = nn.Linear(4, 4)
    model = nn.ModuleDict({"first": plain, "odd": nn.MultiheadAttention(4, 2, add_bias_kv=True)})
    with pytest.raises(ValueError, match="add_bias_kv"):
        add_lora(model, head=False)
    assert all(p.requires_grad for p in model.parameters())
    assert model["first"] is plain


def test_what_does_not_match_in_the_attention_of_torch_is_frozen():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = add_lora(layer, rank=2, match="query|value", head=False)
    free = [name for name, p in model.named_parameters() if p.requires_grad]
    assert len(free) == 4
    assert all(".pairs." in name for name in free)


def test_a_task_without_a_set_is_refused_by_name():
    model = stirred(add_lora(mlp(), rank=2, sets="task"))
    with pytest.raises(UnknownTask, match=r"task 7, 9 has no adapters here.*\[0, 1, 3\]"):
        model(torch.zeros(4, 6), task=torch.tensor([7, 0, 9, -1]))
    assert model.route.own is None


def test_rows_that_a_layer_does_not_have_first_are_refused():
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.head = nn.Linear(3, 3), nn.Linear(3, 2)

        def forward(self, x):
            return self.head(self.layer(x.flatten(0, 1)).view(len(x), -1, 3).mean(1))

    model = stirred(add_lora(Flat(), rank=1, sets="task"))
    with pytest.raises(ValueError, match="received 8 rows of a batch of 4"):
        model(torch.zeros(4, 2, 3), task=mixed(4))


def test_a_routed_model_passes_the_task_on():
    net = TaskClassifier(MLP(6, hidden=(7,)), MultiHead(7))
    model = stirred(add_lora(net, rank=2, sets="task"))
    assert isinstance(model, Routed)
    with torch.no_grad():
        output = model(torch.randn(2, 6), task=torch.tensor([0, 3]))
    assert (output > -1000).tolist() == [[True, True, False, False, False],
                                         [False, False, True, True, False]]  # fmt: skip
    assert isinstance(model.model, Classifier)
