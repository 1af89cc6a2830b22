import copy
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lifelong.core.errors import InvalidBatch, LabelOutsideHead, UnknownTask
from lifelong.core.task import TaskSpec
from lifelong.nets import MASKED, GrowingHead, LDAHead, MeansHead, MultiHead, RidgeHead

HEADS = {
    "means": lambda **more: MeansHead(5, **more),
    "lda": lambda **more: LDAHead(5, **more),
    "ridge": lambda **more: RidgeHead(5, width=30, **more),
}
every_head = pytest.mark.parametrize("make", HEADS.values(), ids=HEADS.keys())


def rows(count=60, classes=4, seed=0):
    chance = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % classes
    centres = torch.randn(classes, 5, generator=chance)
    return centres[y] + torch.randn(count, 5, generator=chance), y


def filled(make, x, y, **more):
    head = make(classes=4, **more)
    head.add(x, y)
    return head.eval()


def test_means_are_distances_but_for_a_term_of_the_row():
    x, y = rows()
    head = filled(HEADS["means"], x, y)
    means = torch.stack([x[y == c].mean(0) for c in range(4)])
    own = (x - x.mean(0)).square().sum(1, keepdim=True)
    expected = own - torch.cdist(x, means).square()
    torch.testing.assert_close(head(x), expected, atol=1e-4, rtol=1e-4)


@every_head
@pytest.mark.parametrize("logits", [None, GrowingHead])
@pytest.mark.parametrize("mode", [True, False])
def test_a_head_that_is_asked_before_it_has_a_class_says_so(make, logits, mode):
    head = make(logits=logits and logits(5)).train(mode)
    with pytest.raises(UnknownTask, match="has no outputs yet; give it a first task's classes"):
        head(torch.zeros(3, 5))
    head.grow(TaskSpec(0, (0, 1)))
    assert head(torch.zeros(3, 5)).shape == (3, 2)


@pytest.mark.parametrize("name", ["means", "lda"])
@pytest.mark.parametrize("away", [0.0, 100.0, 3000.0])
def test_where_the_features_lie_makes_no_difference(name, away):
    """In float32 what tells classes apart would be lost so far from 0."""
    x, y = rows(400)
    head = filled(HEADS[name], x + away, y)
    place = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    other = filled(HEADS[name], (x + away)[place], y[place])
    near = filled(HEADS[name], (x + away) - away, y)  # the same rows, as they are rounded there
    expected = near((x + away) - away)
    for found in (head(x + away), other(x + away)):  # but for what all outputs of a row share
        torch.testing.assert_close(
            found.log_softmax(1), expected.log_softmax(1), atol=2e-4, rtol=1e-4
        )
    assert torch.equal(head(x + away).argmax(1), expected.argmax(1))


def test_lda_is_the_log_likelihood_of_normal_distributions_of_one_covariance():
    x, y = rows()
    head = filled(HEADS["lda"], x, y, shrinkage=0.1)
    means = torch.stack([x[y == c].mean(0) for c in range(4)]).double()
    apart = x.double() - means[y]
    within = apart.T @ apart / len(x)
    within = 0.9 * within + 0.1 * within.diagonal().mean() * torch.eye(5, dtype=torch.float64)
    likely = torch.stack(
        [
            torch.distributions.MultivariateNormal(mean, within).log_prob(x.double())
            for mean in means
        ],
        1,
    )
    torch.testing.assert_close(
        head(x).log_softmax(1), likely.log_softmax(1).float(), atol=1e-4, rtol=1e-4
    )


def test_ridge_solves_the_normal_equations_of_all_rows():
    x, y = rows()
    head = filled(HEADS["ridge"], x, y, ridge=0.05)
    h = F.relu(x @ head.projection).double()
    gram = h.T @ h
    system = gram + 0.05 * gram.diagonal().mean() * torch.eye(30, dtype=torch.float64)
    weight = torch.linalg.solve(system, h.T @ F.one_hot(y, 4).double())
    torch.testing.assert_close(head(x), (h @ weight).float(), atol=1e-4, rtol=1e-4)
    again = RidgeHead(5, width=30, seed=1)
    assert not torch.equal(again.projection, head.projection)


@every_head
@settings(deadline=None, max_examples=25)
@given(
    order=st.permutations(range(40)),
    cuts=st.lists(st.integers(1, 39), max_size=5),
    gone=st.sets(st.integers(0, 39), max_size=30),
)
def test_order_batches_and_rows_that_were_removed_leave_no_trace(make, order, cuts, gone):
    x, y = rows(40)
    kept = [n for n in range(40) if n not in gone]
    whole = filled(make, x[kept], y[kept])
    head, edges = make(classes=4), [0, *sorted(set(cuts)), 40]
    for start, end in pairwise(edges):
        part = list(order[start:end])
        head.add(x[part], y[part])
        _ = head.eval()(x[:1])  # asked on its way
        head.train()
    out = sorted(gone)
    if out:
        head.remove(x[out], y[out])
    head.eval()
    assert head.counts.tolist() == whole.counts.tolist()
    torch.testing.assert_close(head(x), whole(x), atol=1e-5, rtol=1e-5)


@every_head
def test_rows_that_come_twice_each_change_nothing(make):
    x, y = rows()
    once, twice = filled(make, x, y), filled(make, torch.cat((x, x)), torch.cat((y, y)))
    torch.testing.assert_close(once(x), twice(x), atol=1e-5, rtol=1e-5)


@every_head
def test_classes_come_with_tasks_and_existing_blocks_stay(make):
    head = make()
    assert head.grow(TaskSpec(0, (0, 1))) == []
    x, y = rows(classes=4)
    head.add(x[y < 2], y[y < 2])
    block = head.sums[0]
    assert head.grow(TaskSpec(0, (0, 1))) == []
    assert head.grow(TaskSpec(1, (3,))) == []
    assert head.sums[0] is block
    assert (head.eval()(x)[:, 2:] == MASKED).all()
    head.add(x[y >= 2], y[y >= 2])
    torch.testing.assert_close(head(x), filled(make, x, y)(x), atol=1e-5, rtol=1e-5)


@every_head
def test_the_state_alone_gives_the_same_outputs(make):
    x, y = rows()
    head = filled(make, x, y)
    other = make(classes=4, **({"seed": 7} if isinstance(head, RidgeHead) else {})).eval()
    other(x)  # solved before it is filled
    other.load_state_dict(head.state_dict())
    assert torch.equal(other(x), head(x))
    assert not [name for name in head.state_dict() if name in ("weight", "bias")]
    program = torch.export.export(copy.deepcopy(head).eval(), (x,))
    torch.testing.assert_close(program.module()(x), head(x))
    assert not [node for node in program.graph.nodes if "cholesky" in str(node.target)]


@every_head
def test_a_copy_with_other_sums_computes_its_own_answers(make):
    x, y = rows()
    head = filled(make, x, y)
    copied = copy.deepcopy(head)
    copied.add(x + 3, 3 - y)
    assert not torch.allclose(copied(x), head(x))
    assert torch.equal(head(x), filled(make, x, y)(x))


@every_head
def test_what_was_solved_while_called_with_other_tensors_is_solved_again(make):
    """As importance and teachers call it: what stood in for its tensors is taken away again."""
    x, y = rows()
    head = filled(make, x, y)
    head.add(x + 3, 3 - y)
    torch.func.functional_call(head, {"weight": head.weight, "bias": head.bias}, (x,))
    both = filled(make, torch.cat((x, x + 3)), torch.cat((y, 3 - y)))
    torch.testing.assert_close(head(x), both(x))


@every_head
def test_nothing_known_is_nothing_told(make):
    head = make(classes=3)
    x = torch.randn(2, 5)
    assert head(x).tolist() == head.eval()(x).tolist() == [[0.0] * 3] * 2
    through = make(logits=nn.Linear(5, 3))
    assert torch.equal(through(x), through.logits(x))
    assert torch.equal(through.eval()(x), through.logits(x))
    through.add(x, torch.tensor([0, 2]))
    assert (through(x)[:, 1] == MASKED).all()


@every_head
def test_one_row_a_class_and_features_of_zero_can_be_solved(make):
    head = make(classes=2)
    head.add(torch.zeros(1, 5), torch.tensor([0]))
    assert head.eval()(torch.zeros(1, 5)).isfinite().all()
    head.add(torch.ones(1, 5), torch.tensor([1]))
    assert head(torch.tensor([[0.9] * 5])).argmax() == 1


@pytest.mark.parametrize("left", [1, 2])
def test_a_spread_that_is_nothing_but_rounding_is_none(left):
    for seed in range(40):
        x, y = rows(200, seed=seed)
        x = 10 * x
        head = filled(HEADS["lda"], x, y)
        head.remove(x[4 * left :], y[4 * left :])
        alone = filled(HEADS["lda"], x[: 4 * left], y[: 4 * left])
        torch.testing.assert_close(head.eval()(x), alone(x), rtol=1e-4, atol=1e-3)
    x, y = rows(4)
    same = filled(HEADS["lda"], x.repeat(7, 1), y.repeat(7))
    assert torch.equal(same(x).argmax(1), y)


def test_a_ridge_that_is_too_small_says_so():
    head = HEADS["ridge"](classes=4, ridge=1e-18)
    head.add(*rows(8))
    with pytest.raises(ValueError, match=r"ridge is 1e-18, too little.*make it larger"):
        head.eval()


@every_head
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_of_another_precision_keeps_the_sums(make, dtype):
    x, y = rows()
    head, other = filled(make, x[:30], y[:30]), filled(make, x[:30], y[:30])
    other.to(dtype)
    for each in (head, other):
        each.add(x[30:], y[30:])
    assert torch.equal(head.eval()(x), other.eval()(x))
    assert all(p.dtype == torch.float64 for p in other.sums)


@every_head
def test_all_rows_removed_is_a_new_head(make):
    x, y = rows()
    head = filled(make, x, y)
    head.remove(x, y)
    fresh = make(classes=4).state_dict()
    assert all(torch.equal(value, fresh[name]) for name, value in head.state_dict().items())


@every_head
def test_a_refused_batch_changes_nothing(make):
    x, y = rows()
    head = filled(make, x, y)
    before = copy.deepcopy(head.state_dict())
    bad = x.clone()
    bad[3, 1] = torch.nan
    for features, labels, told, kind in (
        (bad, y, "NaN or infinity", InvalidBatch),
        (x[:, :4], y, r"shape \(60, 4\) for 60 labels and a head of 5", InvalidBatch),
        (x, y + 2, "labels span 2 to 5, but the head has outputs 0 to 3", LabelOutsideHead),
    ):
        with pytest.raises(kind, match=told):
            head.add(features, labels)
    for labels, told in (
        (y.float(), r"y is torch\.float32 of shape \(60,\); it must be class ids, int64"),
        (y.int(), r"y is torch\.int32 of shape"),
        (y[:, None], r"y is torch\.int64 of shape \(60, 1\); it must be class ids, int64"),
        (F.one_hot(y), r"of shape \(60, 4\)"),
        (y[0], r"of shape \(\)"),
    ):
        for change in (head.add, head.remove):
            with pytest.raises(InvalidBatch, match=told):
                change(x, labels)
    with pytest.raises(InvalidBatch, match="30 rows of class 1 to remove, of 15 that came"):
        head.remove(x[:30], torch.ones(30, dtype=torch.int64))
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


@every_head
def test_gradients_pass_a_solution_that_was_made_in_inference_mode(make):
    x, y = rows()
    head = make(classes=4)
    head.add(x, y)
    with torch.inference_mode():
        head.eval()(x)
    features = x.clone().requires_grad_()
    head(features).sum().backward()
    assert features.grad.abs().sum() > 0


def test_half_precision_around_the_head_does_not_reach_it():
    x, y = rows()
    head = filled(HEADS["ridge"], x, y)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(head(x), head(x.clone()))
        assert head(x).dtype == torch.float32
    torch.testing.assert_close(head(x), filled(HEADS["ridge"], x, y)(x))


def test_what_makes_no_head_is_refused():
    with pytest.raises(ValueError, match="MultiHead wants the task"):
        MeansHead(5, logits=MultiHead(5))
    with pytest.raises(ValueError, match="shrinkage is 0"):
        LDAHead(5, shrinkage=0)
    with pytest.raises(ValueError, match="width is 0 and ridge"):
        RidgeHead(5, width=0)
    with pytest.raises(ValueError, match="ridge -1"):
        RidgeHead(5, ridge=-1)
    with pytest.raises(ValueError, match="0 features"):
        MeansHead(0)
    with pytest.raises(ValueError, match=r"task 3 comes without classes.*or give the head"):
        MeansHead(5).grow(TaskSpec(3))
    assert MeansHead(5, classes=2).grow(TaskSpec(3)) == []


def test_a_head_to_train_through_grows_with_it():
    head = LDAHead(5, logits=GrowingHead(5))
    assert [tuple(p.shape) for p in head.grow(TaskSpec(0, (0, 1)))] == [(2, 5), (2,)]
    assert head.classes == 2
    assert head.grow(TaskSpec(0, (0, 1))) == []


def test_the_bytes_it_holds_are_those_of_its_sums():
    head = RidgeHead(5, width=30, classes=4, logits=nn.Linear(5, 4))
    assert head.held_bytes == 8 * (30 * 30 + 4 * 30 + 4) + 4 * 5 * 30
    assert MeansHead(5, classes=4).held_bytes == 8 * (4 * 5 + 4)
