import pytest
import torch

from lifelong import TaskSpec
from lifelong.core.errors import InvalidBatch, LabelOutsideHead
from lifelong.strategies.class_ids import check_among, check_class_ids, check_named


@pytest.mark.parametrize("y", [torch.zeros(3), torch.zeros(3, 1).long(), torch.zeros(())])
def test_what_is_no_class_a_row_is_refused(y):
    with pytest.raises(InvalidBatch, match=r"y is torch\..*, no class a row; take others"):
        check_class_ids(y, "take others")


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_integers_are_classes(kind):
    check_class_ids(torch.tensor([0, 2], dtype=kind), "take others")


def test_each_class_that_is_named_wants_an_output():
    tasks = [TaskSpec(0), TaskSpec(1, (0, 3)), TaskSpec(2, (1,))]
    check_named(tasks, torch.zeros(2, 4))
    with pytest.raises(LabelOutsideHead, match=r"class 3 is named for task 1, .* outputs 0 to 2"):
        check_named(tasks, torch.zeros(2, 3))


def test_labels_are_among_the_classes_named_so_far_if_all_tasks_name_theirs():
    y, first, second = torch.tensor([2, 0]), TaskSpec(0, (0, 1)), TaskSpec(1, (2, 3))
    for tasks in ([], [first, TaskSpec(1)], [first, second], [second, TaskSpec(2, (0, 2))]):
        check_among(y, tasks, "others do harm")
    with pytest.raises(InvalidBatch, match=r"label 0 is none of .* far, \[2, 3\]; others do"):
        check_among(y, [second], "others do harm")
