import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from lifelong.core.errors import UnknownTask
from lifelong.core.task import Growing, TaskSpec
from lifelong.nets import MASKED, CosineHead, GrowingHead, MultiHead

HEADS = [GrowingHead, MultiHead, CosineHead]
TASKS = [TaskSpec(0, (0, 1)), TaskSpec(1, (2, 3, 4)), TaskSpec(2, (1, 5))]

every_head = pytest.mark.parametrize("kind", HEADS)


def grown(kind, tasks=TASKS, features=6):
    head = kind(features)
    for task in tasks:
        head.grow(task)
    return head


@every_head
def test_growth_returns_exactly_the_new_parameters_and_keeps_the_old(kind):
    head = kind(6)
    assert isinstance(head, Growing)
    known = dict(head.named_parameters())
    for task in TASKS:
        before = {name: p.detach().clone() for name, p in known.items()}
        new = head.grow(task)
        now = dict(head.named_parameters())
        assert {id(p) for p in new} == {id(p) for n, p in now.items() if n not in known}
        assert all(now[name] is p for name, p in known.items())
        assert all(torch.equal(now[name], value) for name, value in before.items())
        assert head.grow(task) == []
        known = now
    assert head.classes == 6


@every_head
def test_growth_leaves_old_outputs_bit_identical(kind):
    # Whole numbers, and cosines of 0 and 1, are summed without rounding in any order: any
    # difference would be one of meaning, not of the matrix product's blocking.
    torch.manual_seed(0)
    head = kind(6)
    head.grow(TASKS[0])
    with torch.no_grad():
        if kind is CosineHead:
            head.blocks[0].copy_(torch.eye(6)[:2])
            x = torch.eye(6)
        else:
            for p in head.parameters():
                p.copy_(torch.randint(-8, 9, p.shape))
            x = torch.randint(-8, 9, (6, 6)).float()
    before = head(x)
    head.grow(TASKS[1])
    after = head(x)
    assert after.shape == (6, 5)
    assert torch.equal(after[:, :2], before)


@every_head
def test_growth_leaves_old_outputs_where_they_were(kind):
    head = grown(kind, TASKS[:1])
    x = torch.randn(32, 6)
    before = head(x)
    head.grow(TASKS[1])
    torch.testing.assert_close(head(x)[:, :2], before, rtol=1e-6, atol=1e-6)


@every_head
def test_regrowing_and_loading_reproduces_the_head(kind):
    head, again = grown(kind), grown(kind)
    again.load_state_dict(head.state_dict())
    x = torch.randn(3, 6)
    assert torch.equal(again(x), head(x))
    assert again.state_dict().keys() == dict(head.named_parameters()).keys()


@every_head
def test_a_copy_is_independent(kind):
    head = grown(kind)
    twin = copy.deepcopy(head)
    x = torch.randn(3, 6)
    twin.grow(TaskSpec(7, (9,)))
    assert head(x).shape == (3, 6)
    assert twin(x).shape == (3, 10)


@every_head
def test_growth_follows_device_and_dtype_even_before_there_is_a_block(kind):
    assert all(p.dtype == torch.float64 for p in kind(6).double().grow(TASKS[0]))
    assert all(p.device.type == "meta" for p in kind(6).to("meta").grow(TASKS[0]))


@every_head
def test_growth_draws_from_the_default_generator(kind):
    torch.manual_seed(1)
    first = grown(kind)
    torch.manual_seed(1)
    second = grown(kind)
    for one, other in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)


@every_head
def test_what_cannot_be_grown_for_is_refused_and_changes_nothing(kind):
    head = kind(6)
    with pytest.raises(ValueError, match=r"TaskSpec\(3, classes="):
        head.grow(TaskSpec(3))
    with pytest.raises(ValueError, match="class -1"):
        head.grow(TaskSpec(3, (-1, 0)))
    assert head.classes == 0
    with pytest.raises(UnknownTask, match="has no outputs yet"):
        head(torch.zeros(2, 6))


@every_head
def test_heads_run_in_bf16_and_give_finite_gradients(kind):
    head = grown(kind)
    x = torch.randn(4, 6, requires_grad=True)
    extra = (torch.tensor([0, 1, 2, -1]),) if kind is MultiHead else ()
    with torch.autocast("cpu", torch.bfloat16):
        out = head(x, *extra)
    assert out.shape == (4, 6)
    F.cross_entropy(out.float(), torch.tensor([0, 2, 5, 1])).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in head.parameters())


@every_head
def test_gradients_of_each_row_come_through_vmap(kind):
    head = grown(kind).double()
    weights = {name: p.detach() for name, p in head.named_parameters()}
    x, task = torch.randn(4, 6, dtype=torch.float64), torch.tensor([0, 1, 2, -1])
    y = torch.tensor([0, 2, 5, 1])

    def row_loss(weights, x, y, task):
        inputs = (x[None], task[None]) if kind is MultiHead else (x[None],)
        return F.cross_entropy(functional_call(head, weights, inputs), y[None])

    rows = vmap(grad(row_loss), (None, 0, 0, 0))(weights, x, y, task)
    for n in range(4):
        alone = grad(row_loss)(weights, x[n], y[n], task[n])
        for name, value in alone.items():
            torch.testing.assert_close(rows[name][n], value)


@pytest.mark.parametrize("kind", [GrowingHead, MultiHead])
def test_a_block_with_hooks_or_another_module_is_called(kind):
    head = grown(kind)
    x = torch.randn(4, 6)
    expected = head(x)
    seen = []
    hook = head.blocks[1].register_forward_hook(lambda module, args, out: seen.append(out))
    torch.testing.assert_close(head(x), expected)
    assert seen[0].shape == (4, 3)
    hook.remove()
    head(x)
    assert len(seen) == 1
    head.blocks[1] = nn.Sequential(head.blocks[1], nn.Identity())
    torch.testing.assert_close(head(x), expected)


def test_the_growing_head_is_one_linear_layer():
    head = grown(GrowingHead)
    x = torch.randn(4, 6)
    weight = torch.cat([block.weight for block in head.blocks])
    bias = torch.cat([block.bias for block in head.blocks])
    torch.testing.assert_close(head(x), x @ weight.T + bias)


def test_classes_need_not_come_in_order():
    head = grown(GrowingHead, [TaskSpec(0, (7, 2)), TaskSpec(1, (0, 3)), TaskSpec(2, (9,))])
    assert [block.out_features for block in head.blocks] == [8, 2]
    assert head(torch.zeros(1, 6)).shape == (1, 10)


@settings(max_examples=40, deadline=None)
@given(
    tasks=st.dictionaries(
        st.integers(0, 2**40), st.sets(st.integers(0, 9), min_size=1), min_size=1, max_size=5
    ),
    seed=st.integers(0, 1000),
)
def test_each_row_shows_its_own_task_and_reads_masked_elsewhere(tasks, seed):
    torch.manual_seed(seed)
    specs = [TaskSpec(id, tuple(classes)) for id, classes in tasks.items()]
    head = grown(MultiHead, specs)
    ids = torch.tensor([-1, *tasks])[torch.randint(len(tasks) + 1, (12,))]
    x = torch.randn(12, 6)
    bare, shown = head(x), head(x, ids)
    for n, id in enumerate(ids.tolist()):
        for c in range(head.classes):
            own = id == -1 or c in tasks[id]
            assert shown[n, c] == (bare[n, c] if own else MASKED)


def test_masked_outputs_have_no_weight_and_no_gradient():
    head = grown(MultiHead, [TaskSpec(0, (0, 1)), TaskSpec(1, (2, 3))])
    x, task = torch.randn(5, 6), torch.zeros(5, dtype=torch.int64)
    out = head(x, task)
    assert not out.softmax(1)[:, 2:].any()
    (F.cross_entropy(out, task) + out.square().mean()).backward()
    own, other = head.blocks
    assert own.weight.grad.any()
    assert not other.weight.grad.any()
    assert not other.bias.grad.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masked_is_exact_and_finite_in_every_precision(dtype):
    masked = torch.tensor(MASKED, dtype=dtype)
    assert masked.item() == MASKED
    assert (masked - masked).item() == 0
    assert (masked - 40).isfinite()
    logits = torch.stack((masked, torch.tensor(-1000, dtype=dtype)))
    assert logits.softmax(0).tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_masking_keeps_the_dtype(dtype):
    head = grown(MultiHead).to(dtype)
    assert head(torch.zeros(1, 6, dtype=dtype), torch.tensor([1])).dtype == dtype


def test_an_unknown_task_is_named_beside_the_known_ones():
    head = grown(MultiHead, [TaskSpec(0, (0,)), TaskSpec(4, (1,))])
    for id in (-2, 1, 3, 5, 10**9):
        with pytest.raises(UnknownTask, match=rf"task {id} is not known .* \[0, 4\]"):
            head(torch.zeros(2, 6), torch.tensor([4, id]))


def test_an_unknown_task_reads_nan_where_it_cannot_be_checked():
    head = grown(MultiHead, [TaskSpec(0, (0,)), TaskSpec(4, (1,))])
    ids = torch.tensor([0, 3, 9, -2, -1])
    out = vmap(lambda x, task: head(x[None], task[None])[0])(torch.randn(5, 6), ids)
    assert out.isnan().all(1).tolist() == [False, True, True, True, False]


def test_a_task_shares_classes_and_gains_further_ones():
    head = grown(MultiHead, [TaskSpec(0, (0, 1))])
    assert head.grow(TaskSpec(1, (1, 0))) == []
    assert len(head.grow(TaskSpec(1, (2,)))) == 2
    shown = head(torch.randn(2, 6), torch.tensor([0, 1])) != MASKED
    assert shown.tolist() == [[True, True, False], [True, True, True]]


def test_a_teacher_of_before_growth_runs_through_the_grown_head():
    head = grown(MultiHead, TASKS[:1])
    x, task = torch.randn(2, 6), torch.tensor([0, -1])
    head(x, task)
    teacher = {k: v.detach().clone() for k, v in [*head.named_parameters(), *head.named_buffers()]}
    expected = head(x, task)
    head.grow(TASKS[1])
    with torch.no_grad():
        head.blocks[0].weight.zero_()
    torch.testing.assert_close(functional_call(head, teacher, (x, task))[:, :2], expected)


def test_masks_follow_the_head_to_another_device_and_back():
    head = grown(MultiHead)
    twin = copy.deepcopy(head).to("meta")
    out = twin(torch.zeros(2, 6, device="meta"), torch.zeros(2, dtype=torch.int64, device="meta"))
    assert out.device.type == "meta"
    twin = twin.to_empty(device="cpu")
    twin.load_state_dict(head.state_dict())
    x, task = torch.randn(2, 6), torch.tensor([1, 2])
    assert torch.equal(twin(x, task), head(x, task))


def test_predicting_in_inference_mode_does_not_spoil_learning():
    head = grown(MultiHead)
    x, task = torch.randn(2, 6), torch.tensor([0, 1])
    with torch.inference_mode():
        head(x, task)
    head(x, task).sum().backward()


@settings(max_examples=40, deadline=None)
@given(
    scale=st.floats(0.1, 50), size=st.sampled_from([0.0, 1e-30, 1.0, 1e15]), seed=st.integers(0, 99)
)
def test_cosine_logits_are_bounded_by_the_scale(scale, size, seed):
    torch.manual_seed(seed)
    head = CosineHead(6, scale=scale)
    for task in TASKS:
        head.grow(task)
    out = head(size * torch.randn(9, 6))
    assert out.isfinite().all()
    assert (out.abs() <= scale * (1 + 1e-5)).all()


def test_cosine_logits_are_scaled_cosines():
    head = grown(CosineHead)
    x = torch.randn(4, 6)
    expected = F.cosine_similarity(x[:, None], torch.cat(list(head.blocks))[None], dim=2)
    torch.testing.assert_close(head(x), 10 * expected)


def test_all_zero_features_are_finite_in_fp16():
    head = grown(CosineHead).half()
    x = torch.zeros(2, 6, dtype=torch.float16, requires_grad=True)
    out = head(x)
    out.sum().backward()
    assert not out.any()
    assert x.grad.isfinite().all()


def test_the_cosine_scale_learns_and_must_be_positive():
    head = grown(CosineHead)
    head(torch.randn(3, 6))[:, 0].sum().backward()
    assert head.scale.grad.any()
    with pytest.raises(ValueError, match=r"scale is -1\.0"):
        CosineHead(6, scale=-1.0)


@every_head
def test_classes_may_be_numpy_integers(kind):
    spec = TaskSpec(0, tuple(np.arange(3)))
    head = kind(6)
    head.grow(spec)
    assert type(head.classes) is int
    assert head(torch.zeros(1, 6)).shape == (1, 3)
