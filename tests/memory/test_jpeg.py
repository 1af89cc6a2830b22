import io

import numpy as np
import pytest
import torch
from PIL import Image

from lifelong.core.errors import InvalidBatch
from lifelong.memory import Jpeg
from lifelong.memory.jpeg import QUALITIES


def smooth(rows: int, channels: int, size: int = 32) -> torch.Tensor:
    chance = torch.Generator().manual_seed(0)
    small = torch.rand(rows, channels, 4, 4, generator=chance) * 255
    return torch.nn.functional.interpolate(small, size=size, mode="bilinear").to(torch.uint8)


@pytest.mark.parametrize("channels", [1, 3])
def test_an_image_reads_as_its_whole_file_would(channels):
    images = smooth(5, channels)
    stored = Jpeg(0.3).encode(images)
    assert stored.shape == (5, int(0.3 * channels * 32 * 32))
    found = Jpeg(0.3).decode(stored, images[:0])
    for image, row, read in zip(images, stored, found, strict=True):
        pixels = image.permute(1, 2, 0).numpy()
        file = io.BytesIO()
        made = Image.fromarray(pixels if channels == 3 else pixels[:, :, 0])
        made.save(file, "JPEG", quality=int(row[0]))
        whole = np.asarray(Image.open(file)).reshape(32, 32, channels)
        assert np.array_equal(read.permute(1, 2, 0).numpy(), whole)
    assert (found.int() - images.int()).abs().float().mean() < 3


def test_less_room_takes_a_poorer_quality():
    images = smooth(3, 3)
    best, poor = (Jpeg(share).encode(images) for share in (0.5, 0.07))
    assert set(best[:, 0].tolist()) == {QUALITIES[0]}
    assert (poor[:, 0] < best[:, 0]).all()


def test_wrong_use_is_refused():
    noise = torch.randint(256, (1, 3, 32, 32), dtype=torch.uint8)
    with pytest.raises(InvalidBatch, match=r"more than the 27 there are"):
        Jpeg(0.01).encode(noise)
    with pytest.raises(ValueError, match="share is 0"):
        Jpeg(0)
    assert not Jpeg().fits(noise.float())
    assert not Jpeg().fits(noise[:, :2])
    assert Jpeg().encode(noise[:0]).shape == (0, 768)
