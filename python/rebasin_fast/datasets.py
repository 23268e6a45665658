"""Small image data sets in memory: scikit-learn's bundled digits, and MNIST-like sets from IDX files."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rebasin_fast._extras import require

if TYPE_CHECKING:
    import torch

IDX_DATASETS = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST"}
"""Data sets read from IDX files, and the names torchvision gives their folders."""

DATASETS = ("digits", *IDX_DATASETS)
"""Names `load_dataset` knows."""

_NUM_CLASSES = 10
_GZIP_MAGIC = b"\x1f\x8b"
_IDX_DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_IDX_FILES = (("train", "images", 3), ("train", "labels", 1), ("t10k", "images", 3), ("t10k", "labels", 1))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples to train on and to test on.

    Attributes
    ----------
    train_x, test_x : Tensor of float32, shape (N, features)
        Values in [0, 1]; images are flattened row by row.
    train_y, test_y : Tensor of int64, shape (N,)
        Class indices.
    name : str
        What it is called, for titles and reports.
    num_classes : int
        Number of classes C; the indices are below it.
    """

    train_x: torch.Tensor
    train_y: torch.Tensor
    test_x: torch.Tensor
    test_y: torch.Tensor
    name: str
    num_classes: int


def load_dataset(name: str, data: str | Path | None = None, *, seed: int = 0) -> Dataset:
    """Load a data set by name.

    Parameters
    ----------
    name : str
        One of ``"digits"``, ``"mnist"`` and ``"fashion_mnist"``.
    data : path, optional
        The folder with the IDX files, see `load_idx_dataset`; not for ``"digits"``, which needs none.
    seed : int, default 0
        Chooses the split of ``"digits"``; the others come with theirs.

    Raises
    ------
    ValueError
        Unknown `name`; `data` missing, or given where it has no meaning; a broken file.
    FileNotFoundError
        `data` does not hold the files.
    ImportError
        Without torch, or without scikit-learn for the digits.
    """
    if name not in DATASETS:
        raise ValueError(f"dataset is {name!r}; expected one of {', '.join(DATASETS)}")
    if name == "digits":
        if data is not None:
            raise ValueError(f"data is {str(data)!r}, but the digits are bundled with scikit-learn; expected None")
        return load_digits(seed)
    if data is None:
        raise ValueError(f"{name} is read from files; expected data to be the folder that holds them")
    return load_idx_dataset(data, name)


def load_digits(seed: int = 0, *, test_fraction: float = 0.2) -> Dataset:
    """Load scikit-learn's bundled digits: 1,797 images of 8 x 8 pixels in 10 classes. No download.

    Parameters
    ----------
    seed : int, default 0
        Chooses which images are for testing.
    test_fraction : float, default 0.2
        How many of them, more than 0 and less than 1.

    Raises
    ------
    ValueError
        `test_fraction` leaves one part without examples.
    ImportError
        Without scikit-learn or torch.

    References
    ----------
    E. Alpaydin, C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998,
    doi:10.24432/C50P49.

    Examples
    --------
    >>> digits = load_digits()
    >>> tuple(digits.train_x.shape), tuple(digits.test_x.shape)
    ((1438, 64), (359, 64))
    """
    images, labels = require("sklearn.datasets", "demo").load_digits(return_X_y=True)
    split = round(len(labels) * test_fraction) if math.isfinite(test_fraction) else 0
    if not 0 < split < len(labels):
        raise ValueError(f"test_fraction is {test_fraction}; expected a number between 0 and 1")
    order = np.random.default_rng(seed).permutation(len(labels))
    images = images[order] / 16.0  # grey levels 0 to 16
    return _dataset("digits", (images[split:], labels[order[split:]]), (images[:split], labels[order[:split]]))


def load_idx_dataset(data: str | Path, name: str) -> Dataset:
    """Load MNIST or a set in the same form from its four IDX files, plain or compressed with gzip.

    Parameters
    ----------
    data : path
        The folder with the files, or the one above it: ``data/<name>`` and ``data/<torchvision's name>/raw`` are
        looked into first.
    name : str
        ``"mnist"`` or ``"fashion_mnist"``.

    Raises
    ------
    FileNotFoundError
        No folder holds the four files; the message says what was looked for, and where.
    ValueError
        Unknown `name`, or a file that is broken or does not fit the others; the message names the file.
    ImportError
        Without torch.

    References
    ----------
    Y. LeCun, C. Cortes, C. J. C. Burges, "The MNIST database of handwritten digits"; H. Xiao, K. Rasul, R. Vollgraf,
    "Fashion-MNIST", 2017, arXiv:1708.07747.
    """
    if name not in IDX_DATASETS:
        raise ValueError(f"name is {name!r}; expected one of {', '.join(IDX_DATASETS)}")
    root = Path(data)
    files = _find_files([root / name, root / IDX_DATASETS[name] / "raw", root])
    images, labels, test_images, test_labels = (_read_bytes_of_rank(file, rank) for file, rank in files)
    _check_pair(images, labels, files[0][0], files[1][0])
    _check_pair(test_images, test_labels, files[2][0], files[3][0])
    if images.shape[1:] != test_images.shape[1:]:
        raise ValueError(f"{files[2][0]} has images of {test_images.shape[1:]}; expected {images.shape[1:]}")
    return _dataset(name, (_pixels(images), labels), (_pixels(test_images), test_labels))


def read_idx(path: str | Path) -> npt.NDArray[Any]:
    """Read one IDX file, plain or compressed with gzip (told by its first bytes, not by its name).

    Returns
    -------
    ndarray
        Of the shape and element type in the file's header, in native byte order.

    Raises
    ------
    OSError
        The file cannot be opened or read.
    ValueError
        It is no IDX file, or is truncated or too long, or its compression is broken.

    References
    ----------
    The format is described at http://yann.lecun.com/exdb/mnist: two zero bytes, the element type, the number of
    dimensions, each dimension as a big-endian 32-bit number, the elements in C order.
    """
    path = Path(path)
    content = _uncompressed(path, path.read_bytes())
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] not in _IDX_DTYPES or content[3] == 0:
        raise ValueError(f"{path} is no IDX file: it begins with {content[:4].hex(' ') or 'nothing'}")
    dtype, rank = np.dtype(_IDX_DTYPES[content[2]]), content[3]
    start = 4 + 4 * rank
    if len(content) < start:
        raise ValueError(f"{path} ends within its header of {start} bytes")
    shape = struct.unpack(f">{rank}I", content[4:start])
    size = start + dtype.itemsize * math.prod(shape)
    if len(content) != size:
        raise ValueError(f"{path} holds {len(content)} bytes; expected {size} for {dtype.name} of shape {shape}")
    array = np.frombuffer(content, dtype, offset=start).reshape(shape)
    return array.astype(dtype.newbyteorder("="))


def split_batches(x: torch.Tensor, y: torch.Tensor, batch_size: int = 1000) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Split examples, in order, into batches of `batch_size` (the last may be smaller); views, not copies."""
    if len(x) != len(y):
        raise ValueError(f"x has {len(x)} examples and y has {len(y)}; expected as many")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; expected 1 or more")
    return list(zip(x.split(batch_size), y.split(batch_size), strict=True))


def _uncompressed(path: Path, content: bytes) -> bytes:
    if not content.startswith(_GZIP_MAGIC):
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{path} is truncated or corrupt: {error}") from error


def _find_files(folders: Iterable[Path]) -> list[tuple[Path, int]]:
    """Return the four files, each with its rank, from the first folder that has them all."""
    folders = list(folders)
    for folder in folders:
        found = [(_first_file(folder, part, kind, rank), rank) for part, kind, rank in _IDX_FILES]
        if all(path is not None for path, _ in found):
            return [(path, rank) for path, rank in found if path is not None]
    names = ", ".join(f"{part}-{kind}-idx{rank}-ubyte" for part, kind, rank in _IDX_FILES)
    places = ", ".join(str(folder) for folder in folders)
    raise FileNotFoundError(f"found no folder with {names} (each plain or .gz); looked in {places}")


def _first_file(folder: Path, part: str, kind: str, rank: int) -> Path | None:
    names = (f"{part}-{kind}{mark}idx{rank}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz"))
    return next((folder / name for name in names if (folder / name).is_file()), None)


def _read_bytes_of_rank(path: Path, rank: int) -> npt.NDArray[Any]:
    array = read_idx(path)
    if array.ndim != rank or array.dtype != np.uint8:
        raise ValueError(f"{path} holds {array.dtype} in {array.ndim} dimensions; expected uint8 in {rank}")
    if array.size == 0:
        raise ValueError(f"{path} has shape {array.shape}; expected at least one element")
    return array


def _check_pair(images: npt.NDArray[Any], labels: npt.NDArray[Any], image_file: Path, label_file: Path) -> None:
    if len(labels) != len(images):
        raise ValueError(f"{label_file} has {len(labels)} labels; expected {len(images)}, as images in {image_file}")
    if labels.max() >= _NUM_CLASSES:
        raise ValueError(f"{label_file} has a label {labels.max()}; expected labels below {_NUM_CLASSES}")


def _pixels(images: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    pixels: npt.NDArray[np.float32] = images.reshape(len(images), -1).astype(np.float32)
    pixels /= 255.0
    return pixels


def _dataset(name: str, train: tuple[Any, Any], test: tuple[Any, Any]) -> Dataset:
    torch = require("torch", "torch")
    train_x, test_x = (torch.tensor(x, dtype=torch.float32) for x, _ in (train, test))
    train_y, test_y = (torch.tensor(y, dtype=torch.int64) for _, y in (train, test))
    return Dataset(train_x, train_y, test_x, test_y, name, _NUM_CLASSES)
