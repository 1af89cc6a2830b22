import re
from dataclasses import replace

import pytest
import torch

from lifelong.core.batch import Batch
from lifelong.core.errors import InvalidBatch, LabelOutsideHead, NonFiniteLoss
from lifelong.core.faults import check_labels, explain_non_finite, hidden_labels


def batch(y, x=None):
    return Batch.of(torch.zeros(len(y), 1) if x is None else x, y)


def test_outputs_that_have_their_classes_last_are_told_to_move_them():
    with pytest.raises(InvalidBatch, match=r"\(rows, classes, length\): output.movedim\(-1, 1\)"):
        check_labels(torch.zeros(2, 6, 9), torch.zeros(2, 6).long())


def test_a_head_without_outputs_is_told_to_grow():
    with pytest.raises(LabelOutsideHead, match="labels are 1, but the model has no outputs yet"):
        check_labels(torch.zeros(2, 0), torch.tensor([1, 1]))


def test_bad_rows_are_named():
    x = torch.zeros(9, 2)
    x[[1, 3, 4, 5, 6, 8], 1] = torch.nan
    error = explain_non_finite(batch(torch.zeros(9), x), None, 4, "the loss")
    assert isinstance(error, InvalidBatch)
    assert "x holds NaN or infinity in 6 of 9 rows (1, 3, 4, 5, 6, ...)" in str(error)
    y = torch.tensor([0.0, torch.inf])
    assert "y holds NaN or infinity in 1 of 2 rows (1)" in str(
        explain_non_finite(batch(y), None, 4, "the loss")
    )


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([3], "x holds NaN or infinity in 1 of 8 rows (3); remove"),
        ([3, 12], "x holds NaN or infinity in 1 of 8 rows (3); remove"),
        ([12, 13], "x holds NaN or infinity in 2 of 8 replayed rows (4, 5); remove"),
    ],
)
def test_rows_that_were_given_are_counted_without_the_replayed(rows, told):
    x = torch.zeros(16, 2)
    x[rows] = torch.nan
    replayed = replace(batch(torch.zeros(16), x), new=8)
    assert told in str(explain_non_finite(replayed, None, 4, "the loss"))


def test_divergence_is_told_with_the_step_and_the_way_out():
    error = explain_non_finite(batch(torch.tensor([0])), torch.zeros(1, 2), 4, "the gradient")
    assert isinstance(error, NonFiniteLoss)
    for told in ("the gradient is not finite at step 4", "lower the learning rate", "clip=1.0"):
        assert told in str(error)
    assert str(error).endswith("as it was before the step")
    for weights, told in (
        ([torch.ones(3), -torch.full((2,), 9e19)], "when weights were as large as 9e.19 already"),
        ([torch.tensor([1.0, torch.nan]), torch.ones(1)], "when weights were not finite already"),
        ([torch.ones(3), torch.ones(0)], "as it was before the step$"),
    ):
        bad = batch(torch.tensor([0]))
        assert re.search(told, str(explain_non_finite(bad, None, 4, "the loss", weights)))
    outside = explain_non_finite(batch(torch.tensor([2])), torch.zeros(1, 2), 4, "the loss")
    assert isinstance(outside, LabelOutsideHead)


def test_a_label_that_its_task_hides_is_named_unless_the_row_counts_for_nothing():
    output = torch.zeros(3, 2)
    output[1, 0] = -(2.0**14)
    made = Batch.of(torch.zeros(3, 1), torch.tensor([0, 0, 1]), task=4)
    told = "label 0 in row 1 is none of the classes of task 4"
    assert told in str(hidden_labels(made, output))
    assert hidden_labels(replace(made, y=torch.tensor([0, 1, 1])), output) is None
    assert hidden_labels(replace(made, weight=torch.tensor([1.0, 0.0, 1.0])), output) is None
    assert hidden_labels(replace(made, new=1), output) is None  # it was looked at when new
