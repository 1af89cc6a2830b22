import pytest
import torch
from torch import nn

from lifelong.nets import MLP, ResNet18, SmallCNN


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def resnet_count(width: int, channels: int, outputs: int) -> int:
    """Count by hand: stem, eight blocks, three 1x1 shortcuts, two numbers a norm and channel."""
    total = channels * width * 9 + 2 * width
    before = width
    for stage in range(4):
        after = width * 2**stage
        total += 9 * before * after + 3 * 9 * after * after + 4 * 2 * after
        if before != after:
            total += before * after + 2 * after
        before = after
    return total + (before + 1) * outputs


@pytest.mark.parametrize("width", [20, 64])
@pytest.mark.parametrize(("channels", "outputs"), [(3, 10), (1, 100)])
def test_resnet_has_the_parameters_of_its_structure(width, channels, outputs):
    assert count(ResNet18(channels, width, outputs)) == resnet_count(width, channels, outputs)


def test_resnet_has_the_published_parameters():
    assert count(ResNet18(width=64, outputs=10)) == 11_173_962
    assert round(count(ResNet18(width=20)) / 1e6, 2) == 1.09


@pytest.mark.parametrize("size", [28, 32, 64, 84])
def test_resnet_makes_as_many_features_from_images_of_any_size(size):
    net = ResNet18(channels=1, width=4).eval()
    assert net.features == 32
    assert net(torch.zeros(2, 1, size, size)).shape == (2, 32)


def test_resnet_ends_in_the_average_over_4_by_4():
    net = ResNet18(width=4)
    kept = []
    net.blocks.register_forward_hook(lambda module, args, out: kept.append(out))
    out = net(torch.rand(3, 3, 32, 32))
    assert kept[0].shape == (3, 32, 4, 4)
    torch.testing.assert_close(out, nn.functional.avg_pool2d(kept[0], 4).flatten(1))


def test_resnet_accepts_channels_last():
    torch.manual_seed(0)
    net = ResNet18(width=4).eval()
    x = torch.rand(2, 3, 16, 16)
    expected = net(x)
    net = net.to(memory_format=torch.channels_last)
    found = net(x.to(memory_format=torch.channels_last))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("net", "shape", "features"),
    [
        (MLP(12), (3, 2, 2), 400),
        (MLP(12, hidden=()), (12,), 12),
        (MLP(12, hidden=(7,)), (3, 4), 7),
        (SmallCNN(1, 8, widths=(2,), hidden=5), (1, 8, 8), 5),
        (SmallCNN(3, (9, 6), widths=(2, 3), hidden=5), (3, 9, 6), 5),
        (ResNet18(2, width=3), (2, 8, 8), 24),
    ],
)
def test_a_backbone_ends_in_its_features(net, shape, features):
    assert net.features == features
    assert net(torch.rand(2, *shape)).shape == (2, features)


@pytest.mark.parametrize(
    ("net", "shape"),
    [
        (MLP(12, hidden=(7,), outputs=4), (12,)),
        (SmallCNN(1, 8, widths=(2,), hidden=5, outputs=4), (1, 8, 8)),
        (ResNet18(1, width=2, outputs=4), (1, 8, 8)),
    ],
)
def test_a_backbone_may_end_in_outputs_and_runs_in_bf16(net, shape):
    x = torch.rand(2, *shape)
    assert net(x).dtype == torch.float32
    with torch.autocast("cpu", torch.bfloat16):
        out = net(x)
    assert (out.shape, out.dtype) == ((2, 4), torch.bfloat16)
    out.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


def test_the_mlp_is_linear_layers_with_relus_between():
    net = MLP(3, hidden=(4,), outputs=2)
    x = torch.randn(5, 3)
    first, last = net.layers[0], net.output
    expected = (x @ first.weight.T + first.bias).relu() @ last.weight.T + last.bias
    torch.testing.assert_close(net(x), expected)


def test_the_small_cnn_is_that_of_synaptic_intelligence():
    shapes = [tuple(p.shape) for p in SmallCNN(outputs=10).parameters() if p.ndim > 1]
    assert shapes == [
        (32, 3, 3, 3),
        (32, 32, 3, 3),
        (64, 32, 3, 3),
        (64, 64, 3, 3),
        (512, 4096),
        (10, 512),
    ]


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: MLP(0), "inputs is 0"),
        (lambda: MLP(3, hidden=(4, 0)), r"hidden\[1\] is 0"),
        (lambda: MLP(3, outputs=0), "outputs is 0"),
        (lambda: MLP(3)(torch.zeros(2, 4)), "rows of 4 numbers; this MLP takes 3"),
        (lambda: SmallCNN(size=3), "vanish after 2 pools"),
        (lambda: SmallCNN(widths=(0,)), r"widths\[0\] is 0"),
        (lambda: ResNet18(width=-1), "width is -1"),
    ],
)
def test_bad_sizes_are_refused(make, told):
    with pytest.raises(ValueError, match=told):
        make()
