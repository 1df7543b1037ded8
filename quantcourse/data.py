"""Images to measure with: handwritten digits that are always at hand, and readers for files you have.

The digits are scikit-learn's 1797 images of 8x8 pixels, which come with the package, split by original
image and enlarged to 16x16 views: turned, shifted, scaled, sheared, with other contrast and some noise.
Only integers and single IEEE operations make them, so every machine makes the same bytes.  Described
on the page *The data and the networks*.
"""

import gzip
import hashlib
import math
import os
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor

from quantcourse._checks import one_of

__all__ = ["digits", "read_cifar", "read_idx"]

# scikit-learn's images and labels, as bytes.
_SHA256 = "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
# Originals of each digit that are held out, and views of each original; train has the other originals.
_TEST, _VALIDATION = 60, 20
_VIEWS = {"train": 12, "validation": 20, "test": 17}
# Turns of at most 20 degrees, as the tangent of half the angle: sine and cosine are rational in it.
_HALF_TURN = 0.17632698
# Standard deviation of the noise, of 255.
_NOISE = 24.0


def digits(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """Views of handwritten digits, made from originals that no other split has.

    The first of all originals come first, in random order, then the second of all, and so on: any
    slice is a fair mix, and the first 512 training views are of 512 originals.

    Args:
        split: ``"train"`` (11964 views, 12 of each of 997 originals), ``"validation"`` (4000, 20 of
            each of 200) or ``"test"`` (10200, 17 of each of 600).

    Returns:
        images (float32, N 1 16 16, ink from 0 to 1 in steps of 1/255), labels (int64, N, 0..9) and
        original_id (int64, N): the index of the original in scikit-learn's ``load_digits()``.

    Raises:
        ValueError: for another name, or if scikit-learn has another data set under this one's name.

    Source: Alpaydin and Kaynak 1998, *Optical recognition of handwritten digits*, UCI Machine
    Learning Repository, doi 10.24432/C50P49: its test set, which scikit-learn includes.

    Described on the page *The data and the networks*.

    >>> images, labels, original_id = digits("test")
    >>> images.shape, labels.bincount().tolist()
    (torch.Size([10200, 1, 16, 16]), [1020, 1020, 1020, 1020, 1020, 1020, 1020, 1020, 1020, 1020])
    >>> len(original_id.unique())
    600
    """
    one_of(split, tuple(_VIEWS), "split")
    pixels, labels, originals = _views(split)
    return pixels.float() / 255, labels.clone(), originals.clone()


@cache
def _views(split: str) -> tuple[Tensor, Tensor, Tensor]:
    """What `digits` returns, with the pixels as bytes."""
    images, labels = _originals()
    chosen = _split(labels)[split]
    # The first view of every original, then the second of every one: any slice is a fair mix.
    originals = np.tile(chosen, _VIEWS[split])
    draws = _Draws(seed=1 + list(_VIEWS).index(split))
    pixels = _augment(images[originals], draws)
    return (
        torch.from_numpy(pixels).unsqueeze(1),
        torch.from_numpy(labels[originals]),
        torch.from_numpy(originals),
    )


def _originals() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The images, N 8 8 with values 0..16, and their labels, as they have always been."""
    bunch = load_digits()
    images, labels = bunch.images, bunch.target.astype(np.int64)
    data = images.astype(np.uint8).tobytes() + labels.astype(np.uint8).tobytes()
    if hashlib.sha256(data).hexdigest() != _SHA256:
        raise ValueError(
            "digits: scikit-learn's load_digits() differs from the data set of this course; another version of scikit-learn may have it"
        )
    return images, labels


def _split(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The originals of each split, in random order; every digit is held out equally often."""
    draws = _Draws(seed=0)
    chance, order = draws.integers(len(labels)), draws.integers(len(labels))
    rank = np.empty(len(labels), dtype=np.int64)
    for digit in range(10):
        mine = np.flatnonzero(labels == digit)
        rank[mine[np.argsort(chance[mine])]] = np.arange(len(mine))
    parts = {
        "train": rank >= _TEST + _VALIDATION,
        "validation": (rank >= _TEST) & (rank < _TEST + _VALIDATION),
        "test": rank < _TEST,
    }
    originals = np.argsort(order)
    return {name: originals[part[originals]] for name, part in parts.items()}


class _Draws:
    """Random numbers from the bits of PCG64, whose stream NumPy promises to keep."""

    def __init__(self, seed: int) -> None:
        self.bits = np.random.PCG64(seed)

    def integers(self, n: int) -> NDArray[np.uint64]:
        drawn: NDArray[np.uint64] = self.bits.random_raw(n)
        return drawn

    def uniform(
        self, low: float, high: float, shape: tuple[int, ...]
    ) -> NDArray[np.float64]:
        n = int(np.prod(shape))
        unit = (self.integers(n) >> np.uint64(11)).astype(np.float64) * 2.0**-53
        return (low + (high - low) * unit).reshape(shape)

    def bell(self, shape: tuple[int, ...]) -> NDArray[np.float64]:
        """Nearly normal, mean 0 and variance 1: eight random bytes, added as integers."""
        n = int(np.prod(shape))
        total = self.integers(n).view(np.uint8).reshape(n, 8).sum(1, dtype=np.int64)
        # A byte has mean 127.5 and variance (256**2 - 1) / 12.
        normal: NDArray[np.float64] = (total - 1020) / np.sqrt(8 * 65535 / 12)
        return normal.reshape(shape)


def _augment(images: NDArray[np.float64], draws: _Draws) -> NDArray[np.uint8]:
    """A random 16x16 view of each 8x8 image.

    For every pixel of the view it asks which point of the image it shows, and interpolates there.
    No sine, matrix product or float sum: their last bit is not the same on every machine.
    """
    one_each = (len(images), 1, 1)
    t = draws.uniform(-_HALF_TURN, _HALF_TURN, one_each)
    cos, sin = (1 - t * t) / (1 + t * t), 2 * t / (1 + t * t)
    shear = draws.uniform(-0.2, 0.2, one_each)
    pixels_per_pixel = 2 * draws.uniform(0.8, 1.1, one_each)
    dx, dy = draws.uniform(-1, 1, one_each), draws.uniform(-1, 1, one_each)
    contrast = draws.uniform(0.6, 1.0, one_each)

    centred = np.arange(16) - 7.5
    u = (centred - dx + shear * (centred[:, None] - dy)) / pixels_per_pixel
    v = (centred[:, None] - dy) / pixels_per_pixel
    # A border of zeros, and points outside it fall on it.
    x = np.clip(cos * u - sin * v + 4.5, 0, 9)
    y = np.clip(sin * u + cos * v + 4.5, 0, 9)
    left = np.minimum(x, 8).astype(np.int64)
    top = np.minimum(y, 8).astype(np.int64)
    fx, fy = x - left, y - top
    ink = np.pad(images, ((0, 0), (1, 1), (1, 1))).ravel()
    at = np.arange(len(images)).reshape(one_each) * 100 + top * 10 + left
    above = ink[at] * (1 - fx) + ink[at + 1] * fx
    below = ink[at + 10] * (1 - fx) + ink[at + 11] * fx
    value = (above * (1 - fy) + below * fy) * (255 / 16)

    noisy = contrast * value + _NOISE * draws.bell(value.shape)
    pixels: NDArray[np.uint8] = np.rint(np.clip(noisy, 0, 255)).astype(np.uint8)
    return pixels


_IDX_TYPES = {
    0x08: "u1",
    0x09: "i1",
    0x0B: ">i2",
    0x0C: ">i4",
    0x0D: ">f4",
    0x0E: ">f8",
}


def read_idx(path: str | os.PathLike[str]) -> Tensor:
    """The tensor in an IDX file, the format of MNIST and its relatives; it may be gzipped.

    Args:
        path: a file that you have, for example ``train-images-idx3-ubyte.gz``.

    Returns:
        A tensor with the file's shape and element type, one of uint8, int8, int16, int32, float32 or float64.

    Raises:
        ValueError: if the file is no IDX file, is cut short, has bytes left over or a side of 0; if
            ``path`` is no path.
        OSError: if it can't be opened.

    Source: LeCun, Cortes and Burges, *The MNIST database*, section "The IDX file format".

    Described on the page *The data and the networks*.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "labels.idx"
    >>> _ = file.write_bytes(bytes([0, 0, 0x08, 1, 0, 0, 0, 3, 7, 2, 1]))
    >>> read_idx(file)
    tensor([7, 2, 1], dtype=torch.uint8)
    """
    data = _bytes(path)
    if (
        len(data) < 4
        or data[:2] != b"\0\0"
        or data[2] not in _IDX_TYPES
        or not 1 <= data[3] <= 64
    ):
        raise ValueError(
            f"path: {path} starts with {data[:4].hex(' ') or 'nothing'}; an IDX file starts with 00 00, a type (08 09 0b 0c 0d 0e) and the number of dimensions, 1 to 64"
        )
    start = 4 + 4 * data[3]
    if len(data) < start:
        raise ValueError(
            f"path: {path} ends after {len(data)} bytes; its header needs {start}"
        )
    shape = [int(n) for n in np.frombuffer(data[4:start], ">u4")]
    dtype = np.dtype(_IDX_TYPES[data[2]])
    size = start + math.prod(shape) * dtype.itemsize
    if 0 in shape:
        raise ValueError(
            f"path: {path} has shape {tuple(shape)}; need sides of at least 1"
        )
    if len(data) != size:
        raise ValueError(
            f"path: {path} has {len(data)} bytes; shape {tuple(shape)} of {dtype.name} needs {size}"
        )
    values = np.frombuffer(data, dtype, offset=start).reshape(shape)
    return torch.from_numpy(values.astype(dtype.newbyteorder("=")))


@dataclass(frozen=True)
class _Cifar:
    """One of the two data sets: what its labels, the first bytes of each record, may be."""

    name: str
    classes: tuple[int, ...]

    @property
    def record(self) -> int:
        return len(self.classes) + 3 * 32 * 32

    def labels_fit(self, data: NDArray[np.uint8]) -> bool:
        labels = data.reshape(-1, self.record)[:, : len(self.classes)]
        return bool((labels < np.array(self.classes)).all())


# CIFAR-100's records begin with two labels: the coarse class and the fine one.
_CIFARS = (_Cifar("CIFAR-10", (10,)), _Cifar("CIFAR-100", (20, 100)))


def read_cifar(path: str | os.PathLike[str]) -> tuple[Tensor, Tensor]:
    """The images and labels in a file of the *binary version* of CIFAR-10 or CIFAR-100; it may be gzipped.

    Which of the two it is follows from the length, a multiple of 3073 or of 3074 bytes; where it is
    a multiple of both, from which of the two readings has only possible labels.

    Args:
        path: a file that you have, for example ``data_batch_1.bin`` or ``train.bin``.

    Returns:
        images (uint8, N 3 32 32; ``images.float() / 255`` is between 0 and 1) and labels (int64, N;
        of CIFAR-100 the fine ones, 0..99).

    Raises:
        ValueError: if the length or a label fits neither data set, or both; if ``path`` is no path.
        OSError: if it can't be opened.

    Source: Krizhevsky 2009, *Learning multiple layers of features from tiny images*; the file format
    is stated on the data set's page.

    Described on the page *The data and the networks*.

    >>> import tempfile
    >>> file = Path(tempfile.mkdtemp()) / "data_batch_1.bin"
    >>> _ = file.write_bytes(2 * (bytes([9]) + bytes(3072)))
    >>> images, labels = read_cifar(file)
    >>> images.shape, labels
    (torch.Size([2, 3, 32, 32]), tensor([9, 9]))
    """
    data = np.frombuffer(_bytes(path), np.uint8)
    whole = [c for c in _CIFARS if data.size and not data.size % c.record]
    if not whole:
        raise ValueError(
            f"path: {path} has {data.size} bytes; the binary version of CIFAR-10 has records of 3073, of CIFAR-100 of 3074"
        )
    fitting = [c for c in whole if c.labels_fit(data)]
    if len(fitting) != 1:
        names = " and ".join(c.name for c in whole)
        raise ValueError(
            f"path: {path} has the length of {names} and {'labels of both' if fitting else 'impossible labels'}"
        )
    records = data.reshape(-1, fitting[0].record)
    pixels = records[:, -3 * 32 * 32 :].reshape(-1, 3, 32, 32)
    labels = records[:, -3 * 32 * 32 - 1].astype(np.int64)
    return torch.from_numpy(pixels.copy()), torch.from_numpy(labels)


def _bytes(path: str | os.PathLike[str]) -> bytes:
    if not isinstance(path, str | os.PathLike):
        raise ValueError(
            f"path: need a str or an os.PathLike, got a {type(path).__name__}"
        )
    data = Path(path).read_bytes()
    if data[:2] != b"\x1f\x8b":
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"path: {path} is a damaged gzip file: {error}") from error
