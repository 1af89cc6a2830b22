"""The data sets known by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from lifelong.core.errors import DatasetError, MissingExtra, UnknownName
from lifelong.streams.cifar import cifar10
from lifelong.streams.clinc import clinc150
from lifelong.streams.idx import read_idx
from lifelong.streams.labelled import Labelled, divided
from lifelong.streams.sources import Source, data_folders, fetch, find

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
"""Where Debian's package `dataset-fashion-mnist` puts its files."""

MNIST = Source(
    "mnist",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
    {
        "train-images-idx3-ubyte.gz": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte.gz": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    },
)

FASHION_MNIST = Source(
    "fashion-mnist",
    "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    {
        "train-images-idx3-ubyte.gz": (
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84"
        ),
        "train-labels-idx1-ubyte.gz": (
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845"
        ),
        "t10k-images-idx3-ubyte.gz": (
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073"
        ),
        "t10k-labels-idx1-ubyte.gz": (
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5"
        ),
    },
)

FASHION_CLASSES = (
    *("T-shirt/top", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)


def load(
    name: str, data_dir: str | Path | None = None, cache: str | Path | None = None
) -> Labelled:
    """Load a data set by its name in `DATASETS`.

    Its files are looked for in the folder of the data set's name (`mnist/`, `cifar10/` ...)
    in `data_dir`, then in the directory that the environment variable LIFELONG_DATA names,
    then (fashion-mnist) where Debian's package `dataset-fashion-mnist` puts them,
    /usr/share/datasets/fashion-mnist, then in the cache. What is in none of these is downloaded
    from its public home into the cache, and its SHA-256 checked. Files of your own are checked
    for their form alone.

    Args:
        name: of the data set.
        data_dir: a directory to look in first.
        cache: the cache folder, if not `lifelong` in XDG_CACHE_HOME or ~/.cache.

    Raises:
        UnknownName: there is no such data set.
        DatasetError: its files are missing and cannot be fetched, or are damaged.
        MissingExtra: what is needed to read or fetch it is not installed.

    Example:
        >>> data = load("digits")
        >>> tuple(data.train_x.shape), tuple(data.test_x.shape), data.train_x.dtype
        ((1442, 1, 8, 8), (355, 1, 8, 8), torch.uint8)
    """
    if name not in DATASETS:
        raise UnknownName("data set", name, DATASETS)
    return DATASETS[name].load(data_dir, None if cache is None else Path(cache))


def digits(data_dir: str | Path | None = None, cache: Path | None = None) -> Labelled:  # noqa: ARG001
    """Load scikit-learn's digits: 1797 images of 8 x 8 with values 0 to 16; a fifth tests.

    It ships with scikit-learn, so nothing is looked for and nothing downloaded. Alpaydin &
    Kaynak 1998, UCI "Optical recognition of handwritten digits" (the test part of it).

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingExtra("scikit-learn", "bench", error) from error
    found = load_digits()
    x = torch.from_numpy(found.images).to(torch.uint8)[:, None]
    y = torch.from_numpy(found.target).long()
    return divided("digits", x, y, _DIGITS, test=0.2, seed=0)


def mnist(data_dir: str | Path | None = None, cache: Path | None = None) -> Labelled:
    """Load MNIST: 60000 + 10000 handwritten digits, uint8 (rows, 1, 28, 28).

    LeCun, Bottou, Bengio & Haffner 1998, "Gradient-based learning applied to document
    recognition".

    Raises:
        DatasetError: the files are missing and cannot be fetched, or are damaged.
    """
    return _from_idx(MNIST, data_folders("mnist", data_dir), cache, _DIGITS)


def fashion_mnist(data_dir: str | Path | None = None, cache: Path | None = None) -> Labelled:
    """Load Fashion-MNIST: 60000 + 10000 pieces of clothing, uint8 (rows, 1, 28, 28).

    Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747. Debian has it: `dataset-fashion-mnist`.

    Raises:
        DatasetError: the files are missing and cannot be fetched, or are damaged.
    """
    folders = [*data_folders("fashion-mnist", data_dir), DEBIAN_FASHION_MNIST]
    return _from_idx(FASHION_MNIST, folders, cache, FASHION_CLASSES)


@dataclass(frozen=True, slots=True)
class Dataset:
    """A data set that can be loaded by name.

    Attributes:
        load: takes the data directory and the cache folder, each of them or None.
        description: one line to be shown.
    """

    load: Callable[[str | Path | None, Path | None], Labelled]
    description: str


DATASETS = {
    "digits": Dataset(digits, "1797 handwritten digits of 8 x 8; ships with scikit-learn"),
    "mnist": Dataset(mnist, "70000 handwritten digits of 28 x 28; 11 MB to download"),
    "fashion-mnist": Dataset(fashion_mnist, "70000 pieces of clothing of 28 x 28; 31 MB"),
    "cifar10": Dataset(cifar10, "60000 colour images of 32 x 32; 170 MB"),
    "clinc150": Dataset(clinc150, "19500 requests of 150 intents, as bytes of text; 2.5 MB"),
}

_DIGITS = tuple("0123456789")


def _from_idx(
    source: Source, folders: list[Path], cache: Path | None, class_names: tuple[str, ...]
) -> Labelled:
    folder = find(list(source.files), folders)
    if folder is None:
        folder = fetch(source, folders, cache)
    images, labels, test_images, test_labels = (folder / name for name in source.files)
    train_x, train_y = _pair(images, labels, len(class_names))
    test_x, test_y = _pair(test_images, test_labels, len(class_names))
    return Labelled(source.folder, train_x, train_y, test_x, test_y, class_names)


def _pair(images: Path, labels: Path, classes: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = read_idx(images, 3), read_idx(labels, 1).long()
    if len(x) != len(y):
        raise DatasetError(f"{images} has {len(x)} images, but {labels} has {len(y)} labels")
    if x.shape[1:] != (28, 28) or int(y.max()) >= classes:
        raise DatasetError(
            f"{images} has images of {tuple(x.shape[1:])} and {labels} labels up to {int(y.max())};"
            f" expected are (28, 28) and less than {classes}"
        )
    return x[:, None], y
