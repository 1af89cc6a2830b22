import pytest
import torch
from torch import nn

from lifelong.core.errors import InvalidBatch
from lifelong.core.forward import evaluating, forward, frozen_copy, wants_task


class Aware(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x, task=None):
        return x * self.scale + (0 if task is None else task[:, None])


class Two(nn.Module):
    def forward(self, a, b):
        return a + 10 * b


def test_the_task_goes_to_whom_it_is_declared_by():
    assert wants_task(Aware())
    assert not wants_task(Two())
    x = torch.ones(2, 1)
    assert forward(Aware(), x, torch.tensor([0, 5])).tolist() == [[2.0], [7.0]]
    assert forward(Aware(), x).tolist() == [[2.0], [2.0]]


def test_named_inputs_are_keywords():
    assert forward(Two(), {"b": torch.ones(1), "a": torch.zeros(1)}).tolist() == [10.0]


def test_modes_come_back_module_by_module_even_after_an_error():
    net = nn.Sequential(nn.BatchNorm1d(2), nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)))
    net[1][1].eval()
    modes = [module.training for module in net.modules()]

    def fail():
        with evaluating(net):
            assert not any(module.training for module in net.modules())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert [module.training for module in net.modules()] == modes
    net.eval()
    with evaluating(net):
        pass
    assert not any(module.training for module in net.modules())


def test_a_teacher_answers_with_its_own_weights_and_buffers():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Dropout())
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    then = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    x = torch.rand(4, 3)
    with evaluating(net), torch.no_grad():
        expected = net(x)
        for p in net.parameters():
            p += 1
        net[1].running_mean += 1
        now = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    assert torch.equal(forward(frozen_copy(net, then), x, None), expected)
    assert not forward(frozen_copy(net, then), x, None).requires_grad
    assert net.training
    assert all(torch.equal(now[name], value) for name, value in net.state_dict().items())


def test_a_teacher_gets_tasks_and_named_inputs():
    weights = {"scale": torch.tensor(3.0)}
    answer = forward(frozen_copy(Aware(), weights), {"x": torch.ones(2, 1)}, torch.tensor([0, 5]))
    assert answer.tolist() == [[3.0], [8.0]]


def test_bytes_for_a_model_that_takes_none_name_the_way_out():
    model = nn.Linear(4, 2)
    with pytest.raises(InvalidBatch, match=r"x of torch.uint8 .*convert it \(x\.float\(\) / 255\)"):
        forward(model, torch.zeros(3, 4, dtype=torch.uint8))
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        forward(model, torch.zeros(3, 5))


def test_other_types_than_the_models_are_told_with_the_way_out():
    with pytest.raises(InvalidBatch, match=r"take x of torch.float64 .*convert it: x.float\(\)"):
        forward(nn.Linear(2, 2), torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(InvalidBatch, match=r"take x of torch.int64 .*convert it"):
        forward(nn.Linear(2, 2), torch.zeros(3, 2, dtype=torch.int64))


@pytest.mark.parametrize("model", [nn.Linear(3, 2), nn.BatchNorm1d(3), nn.Conv2d(1, 1, 3)])
def test_what_a_model_raises_is_noted_with_what_it_received(model):
    with pytest.raises((RuntimeError, ValueError)) as error:
        forward(model, torch.zeros(8, 4))
    assert error.value.__notes__ == [
        "the model received x (8, 4) of torch.float32; do the shape and type fit its first layer?"
    ]
