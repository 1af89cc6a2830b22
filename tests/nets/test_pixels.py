import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from lifelong.nets import Augment, Pixels
from lifelong.nets.pixels import shifted

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2615)


def images(rows: int = 8, channels: int = 3, height: int = 6, width: int = 5) -> torch.Tensor:
    # No zeros, so that padding can be told from the image.
    return torch.randint(1, 256, (rows, channels, height, width), dtype=torch.uint8)


def column(values: tuple[float, ...]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64).view(-1, 1, 1)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32, torch.float64])
@pytest.mark.parametrize(("mean", "std"), [(MEAN, STD), (MEAN, 0.25), (0.5, STD), (0.5, 0.25)])
def test_pixels_compute_the_formula(dtype, mean, std):
    x = images().to(dtype)
    exact = x.double() / 255
    exact = exact - (column(mean) if isinstance(mean, tuple) else mean)
    exact = exact / (column(std) if isinstance(std, tuple) else std)
    out = Pixels(mean, std)(x)
    assert out.dtype == torch.float32
    assert out.shape == x.shape
    torch.testing.assert_close(out.double(), exact, rtol=1e-6, atol=1e-6)


def test_every_byte_is_exactly_its_quotient_without_a_mean():
    x = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(Pixels()(x), x.float() / 255)


def test_pixels_leave_their_input_alone_and_accept_floats_up_to_one():
    x = torch.rand(2, 3, 4, 4)
    before = x.clone()
    out = Pixels(MEAN, STD, scale=1.0)(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(out[:, 1], (x[:, 1] - MEAN[1]) / STD[1])


def test_pixels_pass_gradients_and_follow_the_model():
    pixels = Pixels(MEAN, STD).double()
    x = torch.rand(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(pixels, (x,))
    assert pixels(images(channels=3)).dtype == torch.float64
    assert pixels.to("meta")(images().to("meta")).device.type == "meta"


def test_pixels_keep_no_state_and_keep_the_memory_format():
    assert not Pixels(MEAN, STD).state_dict()
    x = images().to(memory_format=torch.channels_last)
    assert Pixels(MEAN, STD)(x).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(2, 1, 4, 4), (2, 4, 4, 4), (3, 4)])
def test_pixels_refuse_images_of_other_channels(shape):
    with pytest.raises(ValueError, match="do not have 3 channels"):
        Pixels(MEAN, STD)(torch.zeros(shape))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"std": 0.0}, "positive"),
        ({"std": (1.0, -1.0, 1.0)}, "positive"),
        ({"scale": 0.0}, "positive"),
        ({"mean": (0.0, 0.0), "std": STD}, "2 channels, std has 3"),
    ],
)
def test_pixels_refuse_bad_constants(arguments, told):
    with pytest.raises(ValueError, match=told):
        Pixels(**arguments)


@settings(max_examples=30, deadline=None)
@given(
    pad=st.integers(0, 4),
    height=st.integers(1, 6),
    width=st.integers(1, 6),
    channels=st.integers(1, 3),
    dtype=st.sampled_from([torch.uint8, torch.float32]),
    seed=st.integers(0, 1000),
)
def test_shifted_is_the_crop_that_slicing_takes(pad, height, width, channels, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(1, 256, (5, channels, height, width), generator=generator).to(dtype)
    down, right = torch.randint(2 * pad + 1, (2, 5), generator=generator)
    mirror = torch.rand(5, generator=generator) < 0.5
    out = shifted(x, pad, down, right, mirror)
    padded = F.pad(x, (pad,) * 4)
    for n in range(5):
        crop = padded[n, :, down[n] : down[n] + height, right[n] : right[n] + width]
        assert torch.equal(out[n], crop.flip(-1) if mirror[n] else crop)


def test_augment_is_the_identity_in_evaluation():
    x = images()
    assert Augment().eval()(x) is x


def test_augment_without_pad_and_flip_changes_nothing():
    x = images()
    assert torch.equal(Augment(pad=0, flip=False)(x), x)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
def test_augment_keeps_shape_and_dtype_and_its_input(dtype, form):
    x = images().to(dtype).to(memory_format=form)
    before = x.clone()
    out = Augment()(x)
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert torch.equal(x, before)


def test_augment_draws_every_shift_and_both_sides_for_each_row_by_itself():
    rows = 2000
    x = torch.arange(1, 10, dtype=torch.uint8).view(1, 1, 3, 3).expand(rows, 1, 3, 3)
    torch.manual_seed(0)
    kinds, counts = Augment(pad=1)(x).flatten(1).unique(dim=0, return_counts=True)
    every = [
        shifted(x[:1], 1, torch.tensor([d]), torch.tensor([r]), torch.tensor([m])).flatten()
        for d in range(3)
        for r in range(3)
        for m in (False, True)
    ]
    assert {tuple(k.tolist()) for k in kinds} == {tuple(k.tolist()) for k in every}
    assert counts.min() > rows / 18 / 2  # about 111 each


def test_augment_is_determined_by_the_default_generator():
    x, augment = images(), Augment()
    torch.manual_seed(3)
    first, second = augment(x), augment(x)
    torch.manual_seed(3)
    assert torch.equal(augment(x), first)
    assert not torch.equal(second, first)


def test_augment_before_pixels_pads_with_black():
    x = torch.full((64, 3, 4, 4), 255, dtype=torch.uint8)
    out = nn.Sequential(Augment(pad=2), Pixels(0.5, 0.5))(x)
    assert out.unique().tolist() == [-1.0, 1.0]


def test_augment_refuses_what_is_no_image():
    with pytest.raises(ValueError, match="rows, channels, height, width"):
        Augment()(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="pad is -1"):
        Augment(pad=-1)
