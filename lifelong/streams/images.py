"""Labelled images from a folder or a zip file with a folder for each class."""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from torch import Tensor

from lifelong.core.errors import DatasetError, MissingExtra
from lifelong.streams.labelled import Labelled, divided

if TYPE_CHECKING:
    from PIL.Image import Image

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm", ".tif", ".tiff")

Files: TypeAlias = dict[PurePosixPath, Callable[[], bytes]]
"""A way to read each file, by its path, sorted."""


def image_folder(
    path: str | Path,
    *,
    size: tuple[int, int] | None = None,
    mode: str = "RGB",
    test: float = 0.2,
    seed: int = 0,
    name: str | None = None,
    max_bytes: int = 2**32,
) -> Labelled:
    """Read images as uint8 (rows, channels, height, width), classes and rows sorted by name.

    The paths are `class/image.jpg`, or `train/class/image.jpg` and `test/class/image.jpg`; a
    single folder around all of these is passed over. Zip files are read in memory, and nothing
    of them is written to disk.

    Args:
        path: a folder or a zip file.
        size: (height, width) to resize every image to, bilinearly; None if all are of one size.
        mode: "RGB" or "L" (grey).
        test: the share of each class to test on, if there is no level of train and test.
        seed: of that choice.
        name: of the data set, if not the path's.
        max_bytes: refuse files, and decoded images, of more than so many bytes together.

    Raises:
        DatasetError: there are no images, one cannot be read or is of another size, a class is
            tested but not trained, or there is more than `max_bytes`.
        MissingExtra: Pillow is not installed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for file in ("cat/1.pgm", "cat/2.pgm", "dog/1.pgm"):
        ...         (Path(folder) / file).parent.mkdir(exist_ok=True)
        ...         _ = (Path(folder) / file).write_bytes(b"P5 2 1 255 ab")
        ...     data = image_folder(folder, mode="L", test=0.5)
        >>> data.class_names, tuple(data.train_x.shape)
        (('cat', 'dog'), (2, 1, 1, 2))
    """
    path = Path(path)
    title = path.stem if name is None else name
    if mode not in ("RGB", "L"):
        raise ValueError(f"mode is {mode!r}; it must be 'RGB' or 'L'")
    with opened(path, max_bytes) as files:
        around = {file.parts[0] for file in files}
        depth = 1 if len(around) == 1 and all(len(file.parts) > 2 for file in files) else 0
        split = {file.parts[depth] for file in files} == {"train", "test"}
        level = depth + split
        flat = [str(file) for file in files if len(file.parts) != level + 2]
        if flat or not files:
            raise DatasetError(
                f"{path} has {f'{flat[0]} out of place' if flat else 'no images'}; give it one "
                "folder of images a class, or folders train and test of such folders"
            )
        classes = tuple(sorted({file.parts[level] for file in files}))
        number = {file: classes.index(file.parts[level]) for file in files}
        x = decoded(files, size, mode, max_bytes)
    y = torch.tensor(list(number.values()))
    if not split:
        return divided(title, x, y, classes, test=test, seed=seed)
    tested = torch.tensor([file.parts[depth] == "test" for file in number])
    untrained = set(y[tested].tolist()) - set(y[~tested].tolist())
    if untrained:
        raise DatasetError(f"{path} has no training images of {[classes[c] for c in untrained]}")
    return Labelled(title, x[~tested], y[~tested], x[tested], y[tested], classes)


@contextmanager
def opened(path: Path, max_bytes: int) -> Iterator[Files]:
    """List the image files of a folder or of a zip file, sorted by path, ready to be read.

    Raises:
        DatasetError: there is no such file, it is no zip file, or it holds too much.
    """
    if path.is_dir():
        found = sorted(file for file in path.rglob("*") if file.suffix.lower() in SUFFIXES)
        _limit(path, sum(file.stat().st_size for file in found), max_bytes)
        yield {PurePosixPath(file.relative_to(path).as_posix()): file.read_bytes for file in found}
        return
    if not path.is_file():
        raise DatasetError(f"{path} does not exist; give a folder or a zip file")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = {
                PurePosixPath(entry.filename): entry
                for entry in archive.infolist()
                if not entry.is_dir() and entry.filename.lower().endswith(SUFFIXES)
            }
            _limit(path, sum(entry.file_size for entry in entries.values()), max_bytes)
            yield {file: _reader(archive, entries[file]) for file in sorted(entries)}
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DatasetError(f"{path} is a damaged or encrypted zip file ({error})") from error


def decoded(files: Files, size: tuple[int, int] | None, mode: str, max_bytes: int) -> Tensor:
    """Decode images to uint8 (rows, channels, height, width).

    Raises:
        DatasetError: one cannot be decoded, or differs in size, or they are too much together.
        MissingExtra: Pillow is not installed.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtra("Pillow", "data", error) from error
    images: Tensor | None = None
    for row, (file, read) in enumerate(files.items()):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", Image.DecompressionBombWarning)
                with Image.open(io.BytesIO(read())) as image:
                    pixels = _pixels(image, size, mode)
        except (OSError, SyntaxError, ValueError, Warning, Image.DecompressionBombError) as error:
            raise DatasetError(f"the image {file} cannot be decoded ({error})") from error
        if images is None:
            _limit(file, len(files) * pixels.size, max_bytes)
            images = torch.empty((len(files), *pixels.shape), dtype=torch.uint8)
        if pixels.shape != images.shape[1:]:
            raise DatasetError(
                f"the image {file} is of {pixels.shape[1:]} pixels and the first of "
                f"{tuple(images.shape[2:])}; set size=(height, width) to resize them"
            )
        images[row] = torch.from_numpy(pixels)
    assert images is not None
    return images


def _pixels(image: Image, size: tuple[int, int] | None, mode: str) -> np.ndarray:
    converted = image.convert(mode)
    if size is not None:
        from PIL.Image import Resampling

        converted = converted.resize((size[1], size[0]), Resampling.BILINEAR)
    pixels = np.array(converted)  # (height, width) or (height, width, channels)
    return pixels[None] if pixels.ndim == 2 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _reader(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[], bytes]:
    def read() -> bytes:
        # Asking for the announced size bounds what a lying entry can unfold to.
        with archive.open(entry) as file:
            return file.read(entry.file_size)

    return read


def _limit(what: object, size: int, most: int) -> None:
    if size > most:
        raise DatasetError(f"{what} would take {size} bytes, more than {most}; raise max_bytes")
