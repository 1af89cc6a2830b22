import pytest
import torch

from lifelong.core.errors import InvalidBatch
from lifelong.strategies.class_ids import check_class_ids


@pytest.mark.parametrize("y", [torch.zeros(3), torch.zeros(3, 1).long(), torch.zeros(())])
def test_what_is_no_class_a_row_is_refused(y):
    with pytest.raises(InvalidBatch, match=r"y is torch\..*, no class a row; take others"):
        check_class_ids(y, "take others")


@pytest.mark.parametrize("kind", [torch.int64, torch.int32, torch.uint8])
def test_integers_are_classes(kind):
    check_class_ids(torch.tensor([0, 2], dtype=kind), "take others")
