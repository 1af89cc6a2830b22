import numpy as np
import pytest
import torch

from lifelong.memory.column import Column

CPU = torch.device("cpu")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_values_with_gaps_are_written_as_they_look(dtype: torch.dtype) -> None:
    value = torch.arange(24).view(2, 3, 4).to(dtype)
    slots = np.array([4, 1])
    for given in (value.transpose(1, 2), value[:, ::2], value[:, :, :1].expand(2, 3, 5)):
        column = Column(torch.Size([6, *given.shape[1:]]), dtype, CPU)
        column.put(slots, given.conj())
        assert torch.equal(column.take(torch.from_numpy(slots)), given.conj())
        column.put(slots[:1], given, np.array([1]))
        assert torch.equal(column.take(torch.tensor([4])), given[1:])
        assert not column.data[[0, 2, 3, 5]].any()


def test_rows_of_no_elements() -> None:
    column = Column(torch.Size([3, 0]), torch.float32, CPU)
    column.put(np.array([2, 0]), torch.zeros(2, 0))
    assert column.take(torch.tensor([1, 0])).shape == (2, 0)
