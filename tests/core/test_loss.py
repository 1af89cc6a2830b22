from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch, LabelOutsideHead
from lifelong.core.faults import check_labels, explain_non_finite
from lifelong.core.loss import cross_entropy, mean_loss, reduce, row_loss


def batch(y, x=None):
    return Batch.of(torch.zeros(len(y), 1) if x is None else x, y)


@pytest.fixture
def chance():
    return torch.Generator().manual_seed(0)


def test_cross_entropy_is_torchs_row_by_row(chance):
    output = torch.randn(7, 5, generator=chance)
    y = torch.randint(5, (7,), generator=chance)
    assert torch.equal(
        cross_entropy(output, batch(y)), F.cross_entropy(output, y, reduction="none")
    )
    by_hand = torch.stack([-row.log_softmax(0)[c] for row, c in zip(output, y, strict=True)])
    torch.testing.assert_close(cross_entropy(output, batch(y)), by_hand)


def test_a_sequence_has_the_mean_of_its_positions(chance):
    output = torch.randn(3, 5, 4, generator=chance)  # (rows, classes, T)
    y = torch.randint(5, (3, 4), generator=chance)
    expected = F.cross_entropy(output, y, reduction="none").mean(1)
    assert torch.equal(cross_entropy(output, batch(y)), expected)
    assert torch.equal(row_loss(nn.CrossEntropyLoss())(output, batch(y)), expected)


@pytest.mark.parametrize("loss", [cross_entropy, nn.CrossEntropyLoss(), nn.NLLLoss()])
def test_positions_without_a_label_do_not_count(loss, chance):
    output = torch.randn(3, 5, 4, generator=chance).log_softmax(1)
    y = torch.randint(5, (3, 4), generator=chance)
    y[0, 2:] = -100
    y[2] = -100
    rows = row_loss(loss)(output, batch(y))
    expected = [F.nll_loss(output[:1, :, :2], y[:1, :2]), F.nll_loss(output[1:2], y[1:2])]
    torch.testing.assert_close(rows, torch.stack([*expected, torch.tensor(0.0)]))


def test_a_loss_says_itself_which_positions_do_not_count(chance):
    output = torch.randn(2, 5, 4, generator=chance)
    y = torch.tensor([[3, 1, 0, 0], [2, 0, 0, 0]])
    rows = row_loss(nn.CrossEntropyLoss(ignore_index=0))(output, batch(y))
    expected = [
        F.cross_entropy(output[:1, :, :2], y[:1, :2]),
        F.cross_entropy(output[1:, :, 0], y[1:, 0]),
    ]
    torch.testing.assert_close(rows, torch.stack(expected))
    with pytest.raises(LabelOutsideHead, match="span -100 to 3"):
        row_loss(nn.CrossEntropyLoss(ignore_index=0))(output, batch(y.where(y != 1, -100)))


def test_half_precision_is_widened():
    output = torch.tensor([[300.0, 0.0]], dtype=torch.float16)
    rows = cross_entropy(output * 200, batch(torch.tensor([1])))
    assert rows.dtype == torch.float32
    assert rows.item() == 60_000


@pytest.mark.parametrize("loss", [F.cross_entropy, cross_entropy, nn.CrossEntropyLoss()])
@pytest.mark.parametrize(
    ("y", "error", "told"),
    [
        (torch.tensor([0, 4]), LabelOutsideHead, "span 0 to 4, but the model has outputs 0 to 3"),
        (torch.tensor([1, 7]), LabelOutsideHead, "grow it: begin_task"),
        (torch.tensor([-1, 2]), LabelOutsideHead, "labels span -1 to 2, and class ids begin at 0"),
        (torch.tensor([-100, -100]), LabelOutsideHead, "leave out rows without a label"),
        (torch.eye(4).long()[:2], InvalidBatch, r"shape \(2, 4\) for outputs.*y\.argmax\(1\)"),
        (torch.tensor([[1], [2]]), InvalidBatch, r"shape \(2, 1\).*one id a row: y\.squeeze\(1\)"),
    ],
)
def test_labels_must_be_outputs(loss, y, error, told):
    with pytest.raises(error, match=told):
        row_loss(loss)(torch.zeros(2, 4), batch(y))


@pytest.mark.parametrize("y", [torch.zeros(2), torch.zeros(2).int(), torch.zeros(2).bool()])
def test_labels_must_be_whole_numbers(y):
    with pytest.raises(InvalidBatch, match=rf"received {y.dtype}; convert with y.long\(\)"):
        check_labels(torch.zeros(2, 4), y)
    with pytest.raises(InvalidBatch):
        cross_entropy(torch.zeros(2, 4), batch(y))


WEIGHTS = torch.tensor([1.0, 0.5, 2.0, 0.0])


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(),
        nn.CrossEntropyLoss(weight=WEIGHTS),
        nn.CrossEntropyLoss(label_smoothing=0.1),
        nn.CrossEntropyLoss(weight=WEIGHTS, label_smoothing=0.3),
        nn.NLLLoss(),
        nn.MultiMarginLoss(),
        F.nll_loss,
    ],
)
def test_losses_of_labels_give_their_rows(loss, chance):
    output = torch.randn(6, 4, generator=chance)
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    rows = row_loss(loss)(output, batch(y))
    alone = [loss.__class__(**settings(loss)) if isinstance(loss, nn.Module) else loss]
    expected = [one_row(alone[0], output[i : i + 1], y[i : i + 1]) for i in range(6)]
    torch.testing.assert_close(rows, torch.stack(expected))


def settings(loss):
    kept = {"reduction": "sum"}
    if isinstance(loss, nn.CrossEntropyLoss):
        kept |= {"weight": loss.weight, "label_smoothing": loss.label_smoothing}
    return kept


def one_row(loss, output, y):
    return loss(output, y) if isinstance(loss, nn.Module) else loss(output, y, reduction="sum")


@pytest.mark.parametrize(
    "loss",
    [
        nn.MSELoss(),
        nn.L1Loss(),
        nn.HuberLoss(delta=0.3),
        nn.SmoothL1Loss(beta=0.2),
        nn.BCEWithLogitsLoss(),
        nn.BCEWithLogitsLoss(pos_weight=torch.tensor([1.0, 2, 3])),
        F.mse_loss,
        F.binary_cross_entropy_with_logits,
    ],
)
@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3)])
def test_losses_of_numbers_give_the_mean_of_each_row(loss, shape, chance):
    output = torch.randn(shape, generator=chance)
    y = torch.rand(shape, generator=chance)
    rows = row_loss(loss)(output, batch(y))
    torch.testing.assert_close(rows, torch.stack([loss(output[i], y[i]) for i in range(5)]))
    torch.testing.assert_close(reduce(rows, batch(y)), loss(output, y))


def test_one_number_a_row_works_too(chance):
    output, y = torch.randn(5, generator=chance), torch.rand(5, generator=chance)
    assert torch.equal(row_loss(nn.MSELoss())(output, batch(y)), (output - y) ** 2)


def test_the_given_module_is_not_changed():
    loss = nn.MSELoss()
    row_loss(loss)
    assert loss.reduction == "mean"


def test_batchmean_sums_within_a_row(chance):
    output = torch.randn(5, 3, generator=chance).log_softmax(1)
    y = torch.rand(5, 3, generator=chance).softmax(1)
    loss = nn.KLDivLoss(reduction="batchmean")
    torch.testing.assert_close(reduce(row_loss(loss)(output, batch(y)), batch(y)), loss(output, y))


def test_sums_over_the_batch_are_refused():
    with pytest.raises(ValueError, match=r'MSELoss has reduction="sum".*choose reduction="mean"'):
        row_loss(nn.MSELoss(reduction="sum"))


@pytest.mark.parametrize(("outputs", "targets"), [((4, 1), (4,)), ((4,), (4, 1)), ((4, 3), (4, 1))])
def test_targets_of_another_shape_are_not_broadcast(outputs, targets):
    with pytest.raises(InvalidBatch, match="give the targets the shape of the outputs"):
        row_loss(nn.MSELoss())(torch.zeros(outputs), batch(torch.zeros(targets)))


def test_own_losses_get_the_batch_or_the_targets():
    made = batch(torch.tensor([1.0, 2.0]), x=torch.tensor([[3.0], [4.0]]))

    def of_batch(output, batch):
        return output + batch.x[:, 0]

    class OfBatch(nn.Module):
        def forward(self, output, batch):
            return of_batch(output, batch)

    class OfTargets(nn.Module):
        def forward(self, output, target):
            return output + target

    output = torch.tensor([10.0, 20.0])
    assert row_loss(of_batch) is of_batch
    assert row_loss(of_batch)(output, made).tolist() == [13, 24]
    assert row_loss(OfBatch())(output, made).tolist() == [13, 24]
    assert row_loss(OfTargets())(output, made).tolist() == [11, 22]
    assert row_loss(lambda output, y: output * y)(output, made).tolist() == [10, 40]
    assert row_loss(partial(F.mse_loss, reduction="mean"))(output, made).item() == 202.5


def test_weights_make_a_weighted_mean():
    made = replace(batch(torch.tensor([0, 0])), weight=torch.tensor([3.0, 1.0]))
    assert reduce(torch.tensor([1.0, 5.0]), made).item() == 2.0
    double = replace(made, weight=made.weight.double())
    assert reduce(torch.tensor([1.0, 5.0]), double).item() == 2.0
    nothing = replace(made, weight=torch.tensor([1.0, 0.0]))
    assert reduce(torch.tensor([1.0, 5.0]), nothing).item() == 1.0


@pytest.mark.parametrize(
    "weight",
    [
        [1, 1, 1, 0, 0],
        [0.5, 0.5, 0, 0, 0],
        [1, 2, 0, 0, 0],
        [0, 1, 1, 0, 1],
        [0, 0, 0, 1, 1],
        [0, 0, 1, 1, 0],
        [2, 2, 2, 2, 2],
    ],
)
@pytest.mark.parametrize("new", [0, 2, 5])
@pytest.mark.parametrize("times", [1, 400])
def test_the_mean_by_weights_is_the_same_however_few_operations_it_takes(
    weight, new, times, chance
):
    rows = 5 * times
    output = torch.randn(rows, 4, generator=chance, requires_grad=True)
    weights = torch.tensor(weight, dtype=torch.float32).repeat_interleave(times)
    y = torch.randint(4, (rows,), generator=chance)
    labelled = replace(batch(y), weight=weights, new=new * times)
    quick = mean_loss(cross_entropy, output, labelled)
    whole = reduce(cross_entropy(output, labelled), labelled)
    torch.testing.assert_close(quick, whole)
    torch.testing.assert_close(
        *(torch.autograd.grad(loss, output)[0] for loss in (quick, whole)), rtol=1e-6, atol=1e-7
    )


@pytest.mark.parametrize("rows", [1, 3, 2000])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_do_not_go_unnoticed(rows, bad):
    made = batch(torch.zeros(rows, dtype=torch.int64))
    for place in (0, rows - 1):
        weight = torch.ones(rows)
        weight[place] = bad
        assert not mean_loss(
            cross_entropy, torch.ones(rows, 4), replace(made, weight=weight)
        ).isfinite()


@pytest.mark.parametrize("y", [[0, 4, 1], [4, 1, 0], [0, 1, 4]])
@pytest.mark.parametrize("new", [3, 2])
def test_labels_outside_are_found_whatever_the_rows_weigh(y, new):
    weights = torch.tensor([1.0, 1.0, 0.0])
    labelled = replace(batch(torch.tensor(y)), weight=weights, new=new)
    if new == 2 and y[2] == 4:  # a replayed row that does not count: it was looked at when new
        assert mean_loss(cross_entropy, torch.zeros(3, 4), labelled).isfinite()
        return
    with pytest.raises(LabelOutsideHead, match="to 4, but the model has outputs 0 to 3"):
        mean_loss(cross_entropy, torch.zeros(3, 4), labelled)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_weights_of_any_kind_count_alike(dtype, chance):
    output = torch.randn(5, 4, generator=chance)
    weights = torch.tensor([0.5, 0.5, 0, 0, 0], dtype=dtype)
    labelled = replace(batch(torch.tensor([0, 1, 2, 3, 0])), weight=weights, new=2)
    torch.testing.assert_close(
        mean_loss(cross_entropy, output, labelled),
        cross_entropy(output, labelled)[:2].mean(),
        check_dtype=False,
        rtol=1e-2 if dtype is torch.bfloat16 else 1e-5,
        atol=1e-5,
    )
    learned = replace(labelled, weight=weights.float().requires_grad_())
    mean_loss(cross_entropy, output, learned).backward()
    assert learned.weight.grad is not None


def test_a_scalar_is_taken_as_it_is_unless_rows_are_weighted():
    made = batch(torch.tensor([0, 0]))
    assert reduce(torch.tensor(3.0), made).item() == 3.0
    with pytest.raises(InvalidBatch, match=r'a strategy weights rows.*reduction="none"'):
        reduce(torch.tensor(3.0), replace(made, weight=torch.ones(2)))


@pytest.mark.parametrize("shape", [(3,), (2, 2), (1,)])
def test_a_loss_must_give_one_value_a_row(shape):
    with pytest.raises(InvalidBatch, match="for 2 rows; it must give one value a row, or a scalar"):
        reduce(torch.zeros(shape), batch(torch.tensor([0, 0])))


@pytest.mark.parametrize("loss", [cross_entropy, row_loss(nn.CrossEntropyLoss())])
@pytest.mark.parametrize(
    ("y", "told"),
    [
        ([7, 7, 0, 1], "^all labels are 7, but the model has outputs 0 to 3"),
        ([7, 8, 0, 1], "^labels span 7 to 8, but"),
        ([0, 1, 9, 2], "^labels span 0 to 9, but"),
    ],
)
def test_labels_that_were_given_are_told_without_the_replayed(loss, y, told):
    replayed = replace(batch(torch.tensor(y)), new=2)
    with pytest.raises(LabelOutsideHead, match=told):
        mean_loss(loss, torch.zeros(4, 4), replayed)
    with pytest.raises(LabelOutsideHead, match=told):
        raise explain_non_finite(replayed, torch.zeros(4, 4), 0, "the loss")
    with pytest.raises(LabelOutsideHead, match="labels span 7 to 8"):
        mean_loss(loss, torch.zeros(2, 4), replace(batch(torch.tensor([7, 8])), new=0))


def test_rows_that_all_weigh_nothing_count_nothing_but_still_show_what_is_not_finite():
    weightless = replace(batch(torch.tensor([0, 0])), weight=torch.zeros(2))
    rows = torch.tensor([1.0, 3.0], requires_grad=True)
    loss = reduce(rows, weightless)
    assert loss == 0
    loss.backward()
    assert rows.grad.tolist() == [0.0, 0.0]
    assert reduce(torch.tensor([1.0, torch.nan]), weightless).isnan()


def test_no_rows_at_all_have_a_mean_of_0():
    ids = torch.zeros(0, dtype=torch.int64)
    none = Batch(torch.zeros(0, 1), ids, ids, 0, ids, torch.zeros(0))
    assert mean_loss(cross_entropy, torch.zeros(0, 4), none) == 0


def test_one_number_a_row_is_no_output_of_classes():
    with pytest.raises(InvalidBatch, match=r"output has shape \(2,\), .*=nn.BCEWithLogitsLoss"):
        mean_loss(cross_entropy, torch.zeros(2), batch(torch.tensor([0, 1])))
