import pytest
import torch
from torch import nn

from lifelong.core.undisturbed import undisturbed


def test_everything_is_put_back_even_after_an_error():
    model = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout().eval())
    mean = model[0].running_mean
    mean.fill_(3)
    random = torch.get_rng_state()

    @torch.no_grad()
    @undisturbed(model)
    def disturb() -> None:
        assert torch.is_grad_enabled()
        assert not model[0].training
        mean.zero_()
        model[0].num_batches_tracked = torch.tensor(7)
        torch.rand(3)
        raise KeyError("forward")

    with pytest.raises(KeyError, match="forward"):
        disturb()
    assert model[0].training
    assert not model[1].training
    assert model[0].running_mean is mean
    assert mean.tolist() == [3, 3]
    assert model[0].num_batches_tracked.item() == 0
    assert torch.equal(torch.get_rng_state(), random)


def test_a_module_that_acts_on_train_is_not_told():
    class Acting(nn.Module):
        def train(self, mode: bool = True) -> nn.Module:
            raise AssertionError("merges its weights here")

    with undisturbed(Acting()):
        pass
