"""quantcourse.data: the digits are the same bytes everywhere, and no file is misread.

The readers are tested on files that the tests write byte by byte, whole and broken in every way.
"""

import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits

from quantcourse import data
from quantcourse.data import digits, read_cifar, read_idx

SPLITS = {
    "train": ("a4b16f6db8a014afbb9822fd8978bdf760ba4cc137b04c0b231bb51de28e19df", 997, 12),
    "validation": ("a5a105de93920c919264f9bdfa828c2ee775a537b72399eb179870bfffc9c315", 200, 20),
    "test": ("c6922392e88cb5f8be0c33e4b2ed36fbbd04e8651ffe2e98b00efd098096d3d5", 600, 17),
}
each_split = pytest.mark.parametrize("split", SPLITS)


def ranks(values):
    """Where each value stands among the sorted ones."""
    return np.argsort(np.argsort(values))


# The digits


@each_split
def test_same_bytes_on_every_machine(split):
    images, labels, original_id = digits(split)
    pixels = (images * 255).round().to(torch.uint8)
    assert torch.equal(pixels / 255, images), "steps of 1/255"
    found = hashlib.sha256(pixels.numpy().tobytes())
    found.update(labels.numpy().astype("<i8").tobytes() + original_id.numpy().astype("<i8").tobytes())
    assert found.hexdigest() == SPLITS[split][0]


@each_split
def test_shapes_types_and_range(split):
    images, labels, original_id = digits(split)
    _, originals, views = SPLITS[split]
    assert images.shape == (originals * views, 1, 16, 16) and images.dtype == torch.float32
    assert labels.shape == original_id.shape == (originals * views,)
    assert labels.dtype == original_id.dtype == torch.int64
    assert images.min() == 0 and images.max() == 1


@each_split
def test_views_are_of_the_originals_named(split):
    """The label is the original's; and each block of views goes through all originals in the same order."""
    _, labels, original_id = digits(split)
    _, originals, views = SPLITS[split]
    assert np.array_equal(labels.numpy(), load_digits().target[original_id.numpy()])
    blocks = original_id.view(views, originals)
    assert len(blocks[0].unique()) == originals and (blocks == blocks[0]).all()


def test_no_original_in_two_splits():
    """Together the splits use every original, each in one of them."""
    used = torch.cat([digits(split)[2].unique() for split in SPLITS])
    assert sorted(used.tolist()) == list(range(1797))


def test_every_digit_is_held_out_equally_often():
    for split, each in [("validation", 20), ("test", 60)]:
        _, labels, original_id = digits(split)
        assert [len(original_id[labels == digit].unique()) for digit in range(10)] == 10 * [each]


def test_any_slice_of_training_images_is_a_fair_mix():
    """The 512 images that calibrate: as many originals, and no digit under two thirds of its share."""
    _, labels, original_id = digits("train")
    assert len(original_id[:512].unique()) == 512
    assert labels[:512].bincount().min() > 512 / 10 * 2 / 3


def test_views_of_one_original_differ():
    """Any two of the twelve differ by far more than noise alone makes them differ."""
    views = digits("train")[0].view(12, 997, 256)
    noise = 24 / 255
    for i in range(12):
        for j in range(i):
            assert ((views[i] - views[j]) ** 2).mean() > 4 * noise**2


def test_views_show_their_original():
    """The mean of an original's views resembles it more than all 599 others, for most of them."""
    images, _, original_id = digits("test")
    mean = images.view(17, 600, 256).mean(0)
    small = torch.from_numpy(load_digits().images[original_id[:600].numpy()]).float()
    large = torch.nn.functional.interpolate(small[:, None], (16, 16), mode="bilinear").view(600, 256)

    def centred(x):
        x = x - x.mean(1, keepdim=True)
        return x / x.norm(dim=1, keepdim=True)

    likeness = centred(mean) @ centred(large).T
    assert (likeness.argmax(1) == torch.arange(600)).float().mean() > 0.5


def test_augmentation_turns_by_at_most_20_degrees():
    """A bar through the middle of an image keeps its direction within the turn and the shear; both signs happen."""
    bar = np.zeros((400, 8, 8))
    bar[:, :, 3:5] = 16
    pixels = data._augment(bar, data._Draws(seed=5)).astype(float)
    y, x = np.mgrid[:16, :16] - 7.5
    ink = np.where(pixels > 100, pixels, 0)
    mx, my = ((ink * c).sum((1, 2)) / ink.sum((1, 2)) for c in (x, y))
    dx, dy = x - mx[:, None, None], y - my[:, None, None]
    angle = 0.5 * np.arctan2(2 * (ink * dx * dy).sum((1, 2)), (ink * (dy**2 - dx**2)).sum((1, 2)))
    degrees = np.rad2deg(angle)
    assert np.abs(degrees).max() < 20 + np.rad2deg(np.arctan(0.2)) + 3
    assert degrees.min() < -20 and degrees.max() > 20 and abs(np.median(degrees)) < 3


def test_augmentation_moves_by_at_most_a_pixel():
    dot = np.zeros((400, 8, 8))
    dot[:, 3:5, 3:5] = 16
    pixels = data._augment(dot, data._Draws(seed=6)).astype(float)
    ink = np.where(pixels > 100, pixels, 0)
    for axis in (1, 2):
        along = ink.sum(3 - axis)
        centre = (along * (np.arange(16) - 7.5)).sum(1) / along.sum(1)
        assert 0.7 < np.abs(centre).max() < 1.3 and centre.min() < -0.7 and centre.max() > 0.7


def test_callers_cannot_spoil_what_others_get():
    for tensor in digits("validation"):
        tensor.fill_(7)
    assert digits("validation")[0].max() == 1 and digits("validation")[1].float().mean() == 4.5
    assert digits("validation")[2].unique().numel() == 200


def test_another_data_set_is_refused(monkeypatch):
    other = load_digits()
    other.images[0, 0, 0] += 1
    monkeypatch.setattr(data, "load_digits", lambda: other)
    with pytest.raises(ValueError, match=r"load_digits.* differs"):
        data._originals()


@pytest.mark.parametrize("split", ["Train", "", None, 0, ["test"]])
def test_unknown_splits_are_refused(split):
    with pytest.raises(ValueError, match="split: need one of 'train', 'validation', 'test', got"):
        digits(split)


# IDX

TYPES = {
    0x08: (torch.uint8, "B"),
    0x09: (torch.int8, "b"),
    0x0B: (torch.int16, "h"),
    0x0C: (torch.int32, "i"),
    0x0D: (torch.float32, "f"),
    0x0E: (torch.float64, "d"),
}


def idx(code, shape, values):
    """An IDX file, big-endian as its description says."""
    header = struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape)
    return header + struct.pack(f">{len(values)}{TYPES[code][1]}", *values)


@pytest.fixture
def file(tmp_path):
    """Write bytes to a file and give its path."""

    def write(content):
        path = tmp_path / "some.file"
        path.write_bytes(content)
        return path

    return write


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize("code", TYPES)
def test_idx_of_every_type(file, code, pack):
    ends = {"B": (0, 255), "b": (-128, 127), "h": (-(2**15), 2**15 - 1), "i": (-(2**31), 2**31 - 1)}
    values = [*ends.get(TYPES[code][1], (-1.5, 2.0**100)), 1, 2, 3, 4]
    read = read_idx(file(pack(idx(code, (3, 2), values))))
    assert read.dtype == TYPES[code][0]
    assert torch.equal(read, torch.tensor(values, dtype=read.dtype).view(3, 2))


@settings(derandomize=True, deadline=None, max_examples=50, database=None)
@given(st.lists(st.integers(1, 4), min_size=1, max_size=5))
def test_idx_of_every_shape(tmp_path_factory, shape):
    count = int(np.prod(shape))
    path = tmp_path_factory.mktemp("idx") / "x"
    path.write_bytes(idx(0x0C, shape, range(count)))
    assert torch.equal(read_idx(str(path)), torch.arange(count, dtype=torch.int32).view(shape))


def test_idx_may_be_changed_by_the_caller(file):
    read = read_idx(file(idx(0x08, (2,), [1, 2])))
    read += 1
    assert read.tolist() == [2, 3]


def test_every_broken_idx_is_refused(file):
    """Cut anywhere, with a byte too many, or with a header that a real file can't have."""
    whole = idx(0x0B, (2, 3), range(6))
    cut = [whole[:n] for n in range(len(whole))]
    headers = [
        b"\0\1" + whole[2:],  # not zero
        b"\0\0\x0a" + whole[3:],  # no such type
        b"\0\0\x0b\0" + whole[4:],  # no dimensions
        b"\0\0\x0b\xff" + whole[4:],  # more than the file has
        whole[:4] + b"\xff\xff\xff\xff" + whole[8:],  # larger than the file
        whole[:4] + bytes(8),  # nothing in it
        idx(0x08, (0,), []),
    ]
    for content in [*cut, *headers, whole + b"\0"]:
        with pytest.raises(ValueError, match=r"path: .*some\.file"):
            read_idx(file(content))


def test_every_broken_gzip_is_refused(file):
    packed = gzip.compress(idx(0x08, (3,), [1, 2, 3]), mtime=0)
    for n in range(2, len(packed)):
        with pytest.raises(ValueError, match="damaged gzip"):
            read_idx(file(packed[:n]))
    damaged = bytearray(packed)
    damaged[-8] ^= 1  # its checksum
    with pytest.raises(ValueError, match="damaged gzip"):
        read_idx(file(bytes(damaged)))


def test_a_side_of_zero_is_named(file):
    with pytest.raises(ValueError, match=r"has shape \(3, 0\); need sides of at least 1"):
        read_idx(file(idx(0x08, (3, 0), [])))


@pytest.mark.parametrize("read", [read_idx, read_cifar])
@pytest.mark.parametrize("path", [None, 3, b"file"])
def test_what_is_no_path(read, path):
    with pytest.raises(ValueError, match=f"path: need a str or an os.PathLike, got a {type(path).__name__}"):
        read(path)


def test_cifar_may_be_gzipped(file):
    content = bytes([9]) + bytes(range(256)) * 12
    plain, packed = read_cifar(file(content)), read_cifar(file(gzip.compress(content)))
    assert all(torch.equal(a, b) for a, b in zip(plain, packed, strict=True))


@pytest.mark.parametrize("read", [read_idx, read_cifar])
def test_missing_files(read, tmp_path):
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "absent")


# CIFAR


def cifar(labels, pixels):
    """Records as the data set's page describes them: labels, then 1024 red, 1024 green, 1024 blue."""
    return b"".join(bytes(label) + image.tobytes() for label, image in zip(labels, pixels, strict=True))


@pytest.fixture
def pixels():
    return np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8)


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_cifar_10(file, pixels, pack):
    labels = [[3], [0], [9], [1], [2]]
    images, read = read_cifar(file(pack(cifar(labels, pixels))))
    assert images.dtype == torch.uint8 and read.dtype == torch.int64
    assert torch.equal(images, torch.from_numpy(pixels)) and read.tolist() == [3, 0, 9, 1, 2]


def test_cifar_100_gives_fine_labels(file, pixels):
    labels = [[19, 99], [0, 0], [3, 44], [7, 10], [1, 5]]
    images, read = read_cifar(file(cifar(labels, pixels)))
    assert torch.equal(images, torch.from_numpy(pixels)) and read.tolist() == [99, 0, 44, 10, 5]


@pytest.mark.parametrize("fine", [True, False])
def test_cifar_of_either_length_is_told_by_its_labels(file, fine):
    """3074 records of 3073 bytes are as long as 3073 of 3074; pixels of 255 are impossible labels."""
    record = bytes([3, 50] if fine else [3]) + 3072 * b"\xff"
    content = record * (3073 if fine else 3074)
    images, read = read_cifar(file(content))
    assert len(images) == (3073 if fine else 3074) and (read == (50 if fine else 3)).all()
    assert (images == 255).all()


def test_cifar_that_fits_both_is_refused(file):
    with pytest.raises(ValueError, match="CIFAR-10 and CIFAR-100 and labels of both"):
        read_cifar(file(bytes(3073 * 3074)))


@pytest.mark.parametrize("labels", [[[10]], [[255]], [[20, 0]], [[19, 100]]])
def test_cifar_with_impossible_labels_is_refused(file, pixels, labels):
    with pytest.raises(ValueError, match=r"has the length of CIFAR-100? and impossible labels"):
        read_cifar(file(cifar(labels, pixels[:1])))


def test_cifar_of_another_length_is_refused(file, pixels):
    whole = cifar([[1]] * 5, pixels)
    for content in [b"", whole[:-1], whole + b"\0\0", whole[: 2 * 3073 + 1], whole[:100]]:
        with pytest.raises(ValueError, match="records of 3073, of CIFAR-100 of 3074"):
            read_cifar(file(content))


def test_idx_of_too_many_axes(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes([0, 0, 8, 65]) + 65 * bytes([0, 0, 0, 1]) + b"\7")
    with pytest.raises(ValueError, match="path: "):
        read_idx(path)


def test_cifar_with_an_impossible_label_at_the_end(tmp_path):
    path = tmp_path / "x"
    path.write_bytes(bytes(150 * 3073) + bytes([10]) + bytes(3072))
    with pytest.raises(ValueError, match="impossible labels"):
        read_cifar(path)
