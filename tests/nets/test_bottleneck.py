import pytest
import torch
from adapted_models import stirred
from torch import nn
from torch.nn import functional as F

from lifelong.nets import Bottleneck, add_bottlenecks


def test_it_computes_the_equation():
    torch.manual_seed(0)
    layer = stirred(Bottleneck(nn.Linear(4, 3), rank=2))
    x = torch.randn(6, 4)
    h, pair = layer.base(x), layer.pairs["shared"]
    inner = F.gelu(h @ pair.down.weight.T + pair.down.bias)
    torch.testing.assert_close(layer(x), h + inner @ pair.up.weight.T + pair.up.bias)
    assert float(pair.up.bias.detach().abs().sum()) > 0


def test_names_choose_the_layers():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = add_bottlenecks(layer, rank=2, match=r"attn\.out$|linear2", head=False)
    assert isinstance(model.self_attn.out, Bottleneck)
    assert isinstance(model.linear2, Bottleneck)
    assert type(model.linear1) is type(model.self_attn.query) is nn.Linear


def test_only_linear_layers_are_taken():
    with pytest.raises(ValueError, match="not ReLU"):
        Bottleneck(nn.ReLU(), rank=1)
