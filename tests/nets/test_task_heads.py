import pytest
import torch
from torch.nn import functional as F

from lifelong.core.errors import UnknownTask
from lifelong.core.task import TaskSpec
from lifelong.nets import MASKED, TaskHeads


def grown(*classes):
    torch.manual_seed(0)
    head = TaskHeads(3)
    for task, own in enumerate(classes):
        head.grow(TaskSpec(task, own))
    return head


def test_a_row_sees_its_own_tasks_outputs_in_their_columns():
    head, x = grown((0, 1), (3, 1)), torch.randn(4, 3)
    logits = head(x, torch.tensor([1, 0, -1, 1]))
    new, old = head.blocks[1](x), head.blocks[0](x)
    assert logits.shape == (4, 4)
    torch.testing.assert_close(logits[[0, 2, 3]][:, [3, 1]], new[[0, 2, 3]])
    torch.testing.assert_close(logits[1, [0, 1]], old[1])
    assert (logits[[0, 2, 3]][:, [0, 2]] == MASKED).all()
    assert (logits[1, [2, 3]] == MASKED).all()


def test_classes_not_of_the_task_take_no_part_in_the_softmax():
    head, x = grown((0, 1), (2, 3)), torch.randn(2, 3)
    whole = F.log_softmax(head(x, torch.tensor([1, 1])), 1)[:, 2:]
    assert torch.equal(whole, F.log_softmax(head.blocks[1](x), 1))


def test_old_outputs_are_frozen_when_the_next_task_begins():
    head = grown((0, 1))
    assert head.grow(TaskSpec(0, (0, 1))) == []
    new = head.grow(TaskSpec(1, (0, 1)))
    assert [p.requires_grad for p in head.parameters()] == [False, False, True, True]
    assert list(new) == list(head.blocks[1].parameters())


def test_tasks_that_changed_or_are_over_are_refused():
    head = grown((0, 1), (2,))
    with pytest.raises(ValueError, match="task 0 is frozen"):
        head.grow(TaskSpec(0, (0, 1)))
    with pytest.raises(ValueError, match=r"has begun with classes \[2\], and now has \[2, 3\]"):
        head.grow(TaskSpec(1, (2, 3)))
    with pytest.raises(ValueError, match="comes without classes"):
        head.grow(TaskSpec(2))
    with pytest.raises(UnknownTask, match="task 7 is not known"):
        head(torch.zeros(1, 3), torch.tensor([7]))
    with pytest.raises(UnknownTask, match="no task yet"):
        TaskHeads(3)(torch.zeros(1, 3))
