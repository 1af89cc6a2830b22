"""The compiled loops against torch's own passes: equal to the last bit, or not used."""

import numpy as np
import pytest
import torch

from lifelong import EWC, SI, Batch, Learner, fused
from lifelong.core.errors import NonFiniteLoss

pytest.importorskip("numba")
SHAPES = ((fused.SMALL,), (7, 31), (3,), (1,))


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    fused.load()
    yield
    torch.set_num_threads(before)


def tensors(seed, **like):
    chance = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=chance, **like) for shape in SHAPES]


def copies(lists):
    return [[tensor.clone() for tensor in some] for some in lists]


def by_torch(monkeypatch, work):
    with monkeypatch.context() as patched:
        patched.setattr(fused, "_kernels", lambda *_: None)
        return work()


@pytest.mark.parametrize("by", [1e-3, 0.7, 1e9])
def test_pulls_are_those_of_torch_to_the_last_bit(monkeypatch, by):
    gradients, *spring = (tensors(seed) for seed in range(4))
    mine, again, theirs, kept = copies([gradients, gradients, gradients, spring[0]])
    assert fused.pull(mine, *spring, by) is True
    assert by_torch(monkeypatch, lambda: fused.pull(theirs, *spring, by)) is None
    assert fused.pull(again, *spring, by, kept) is True
    assert all(map(torch.equal, mine, theirs))
    assert all(map(torch.equal, again, theirs))
    assert all(map(torch.equal, kept, gradients))


def test_walks_are_those_of_torch_to_the_last_bit(monkeypatch):
    path, gradients, weights, latest = (tensors(seed) for seed in range(4))
    mine, theirs = copies([*path, *latest] for _ in range(2))
    n = len(SHAPES)
    fused.walk(mine[:n], gradients, weights, mine[n:])
    by_torch(monkeypatch, lambda: fused.walk(theirs[:n], gradients, weights, theirs[n:]))
    assert all(map(torch.equal, mine, theirs))
    assert all(map(torch.equal, mine[n:], weights))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", range(len(SHAPES)))
def test_one_value_that_is_not_finite_is_seen(value, where):
    gradients, *spring = (tensors(seed) for seed in range(4))
    gradients[where].flatten()[-1] = value
    kept = [tensor.clone() for tensor in gradients]
    assert fused.pull([tensor.clone() for tensor in gradients], *spring, 1.0, kept) is False
    assert fused.pull(gradients, *spring, 1.0) is False


def test_only_what_it_can_read_is_worked_on():
    rows = [torch.zeros(fused.SMALL)]
    assert fused._kernels(rows) is not None
    assert fused._kernels([rows[0][1:]]) is None, "small"
    assert fused._kernels([rows[0].double()]) is None
    assert fused._kernels([torch.zeros(2, fused.SMALL).T]) is None
    assert fused._kernels(rows, [torch.zeros(fused.SMALL, dtype=torch.bfloat16)]) is None
    torch.set_num_threads(2)
    assert fused._kernels(rows) is None


def test_what_differs_in_shape_is_refused_and_never_read_past_its_end():
    gradients, *spring = (tensors(seed) for seed in range(4))
    for place in range(3):
        wrong = [list(column) for column in spring]
        wrong[place][0] = torch.zeros(3)
        assert fused._kernels(gradients, *wrong) is None
        with pytest.raises(RuntimeError, match="must match the size"):
            fused.pull(gradients, *wrong, 1.0)


def taught(strategies):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(250, 200), torch.nn.Tanh(), torch.nn.Linear(200, 4))
    learner = Learner(model, torch.optim.SGD(model.parameters(), lr=0.1), strategies)
    for task in range(2):
        learner.begin_task(task)
        batches = [batch(seed) for seed in range(10 * task, 10 * task + 4)]
        for one in batches:
            learner.observe(one)
        learner.end_task(batches)
    return learner


def batch(seed):
    chance = np.random.default_rng(seed)
    x = torch.from_numpy(chance.normal(size=(8, 250)).astype(np.float32))
    return Batch.of(x, torch.from_numpy(chance.integers(4, size=8)))


@pytest.mark.parametrize("make", [lambda: [EWC(50.0)], lambda: [SI(0.5)], lambda: [SI(1), EWC(9)]])
def test_a_learner_learns_the_same_with_and_without(monkeypatch, make):
    ours = taught(make()).model.state_dict()
    theirs = by_torch(monkeypatch, lambda: taught(make())).model.state_dict()
    for name in ours:
        assert torch.equal(ours[name], theirs[name])


def test_a_pull_beyond_all_numbers_leaves_the_learner_as_it_was():
    learner = taught([EWC(1.0)])
    learner.strategies[0].strength = 1e38
    learner.strategies[0].importance["0.weight"].fill_(1e38)
    learner.strategies[0].anchor["0.weight"].add_(1)
    before = learner.state_dict()
    learner.begin_task(2)
    with pytest.raises(NonFiniteLoss, match="the gradient is not finite"):
        learner.observe(batch(99))
    assert all(map(torch.equal, before["model"].values(), learner.state_dict()["model"].values()))


def test_the_loops_are_loaded_when_enough_work_has_been_done(monkeypatch):
    monkeypatch.setattr(fused, "ENOUGH", 3 * fused.SMALL)
    monkeypatch.setattr(fused, "_LOOPS", fused._Loops())
    one = [torch.ones(fused.SMALL)]
    looked = [fused.pull([torch.zeros(fused.SMALL)], one, one, one, 0.5) for _ in range(4)]
    assert looked == [None, None, True, True]
