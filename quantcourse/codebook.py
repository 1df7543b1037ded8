"""Levels that are not evenly spaced: signs, signs and zero, powers of two, k-means codebooks.

Each function takes weights and gives a frozen record with integer codes and what is needed to read them back.
Signs are multiplied without a multiplier, by XNOR and counting bits; powers of two by shifts.  Explained in the
chapter *Beyond evenly spaced levels*.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from quantcourse._checks import integer
from quantcourse._tensor_checks import dense, finite_floats

__all__ = [
    "Codebook",
    "PackedSigns",
    "PowersOfTwo",
    "ScaledSigns",
    "binarize",
    "kmeans_quantize",
    "log2_quantize",
    "pack_signs",
    "shift_linear",
    "ternarize",
    "xnor_matmul",
]


class _Coded(ABC):
    """Codes and tables, with what they weigh."""

    codes: Tensor

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of the packed codes and of the tables that read them back."""

    @property
    def bits_per_weight(self) -> float:
        """All that is stored, tables included, in bits for each weight."""
        return 8 * self.nbytes / self.codes.numel()


@dataclass(frozen=True, eq=False)
class ScaledSigns(_Coded):
    """Weights that are a scale times -1, 0 or +1, as ``binarize`` and ``ternarize`` make them.

    Args:
        codes: int8, the shape of the weights: -1 and +1, or also 0.
        scale: float32, at least 0, 1-D along ``axis``, or 0-d where ``axis`` is None.
        axis: the axis of the codes, counted from the front, that has one scale for each index.
        codes_per_byte: 8 binary codes fill a byte; so do 5 ternary ones, since 3**5 <= 2**8.

    Two records are compared by identity.

    Raises:
        ValueError: for a field that is not as above.

    Chapter: *Beyond evenly spaced levels*.
    """

    codes: Tensor
    scale: Tensor
    axis: int | None
    codes_per_byte: int

    def __post_init__(self) -> None:
        if self.codes_per_byte not in (5, 8):
            raise ValueError(
                f"codes_per_byte: need 5 or 8, got {self.codes_per_byte!r}"
            )
        _check_codes(self.codes, torch.int8, -1, 1)
        if self.codes_per_byte == 8 and not self.codes.all():
            raise ValueError("codes: need -1 or 1 at 8 codes a byte, got 0 among them")
        _check_table(self.scale, torch.float32, self.codes, self.axis, "scale")
        if (finite_floats(self.scale, "scale") < 0).any():
            raise ValueError(
                f"scale: need at least 0, got {float(self.scale.min()):g} among them"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes and of the float32 scales."""
        return -(-self.codes.numel() // self.codes_per_byte) + 4 * self.scale.numel()

    def dequantize(self) -> Tensor:
        """The weights that the codes stand for: scale times code, float32.

        Chapter: *Beyond evenly spaced levels*.
        """
        return self.codes * _along(self.scale, self.axis, self.codes.ndim)


@dataclass(frozen=True, eq=False)
class PowersOfTwo(_Coded):
    """Weights that are zero or plus or minus a power of two, as ``log2_quantize`` makes them.

    Args:
        codes: int8, the shape of the weights.  0 is zero; a code ``c`` else has the sign of the weight and the
            magnitude ``2**(lowest + |c| - 1)``.
        lowest: int32, the exponent of the smallest magnitude, 1-D along ``axis``, or 0-d where ``axis`` is None.
            The largest exponent, ``lowest + 2**(bits - 1) - 2``, is from -149 to 127, as in float32.
        axis: the axis of the codes, counted from the front, that has one ``lowest`` for each index.
        bits: bits of a code, 2 to 6, one of them for the sign.

    Two records are compared by identity.

    Raises:
        ValueError: for a field that is not as above.

    Chapter: *Beyond evenly spaced levels*.
    """

    codes: Tensor
    lowest: Tensor
    axis: int | None
    bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", integer(self.bits, 2, 6, "bits"))
        largest = 2 ** (self.bits - 1) - 1
        _check_codes(self.codes, torch.int8, -largest, largest)
        _check_table(self.lowest, torch.int32, self.codes, self.axis, "lowest")
        low, high = (int(end) for end in self.lowest.aminmax())
        if low < -148 - largest or high > 128 - largest:
            raise ValueError(
                f"lowest: need {-148 - largest} to {128 - largest} at {self.bits} bits, "
                f"got {low} to {high}"
            )

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes, and two for each exponent in ``lowest``."""
        return -(-self.codes.numel() * self.bits // 8) + 2 * self.lowest.numel()

    def dequantize(self) -> Tensor:
        """The weights that the codes stand for, float32.

        Chapter: *Beyond evenly spaced levels*.
        """
        lowest = _along(self.lowest, self.axis, self.codes.ndim)
        exponent = lowest + self.codes.abs().int() - 1
        return self.codes.sign() * torch.exp2(exponent.double()).float()


@dataclass(frozen=True, eq=False)
class Codebook(_Coded):
    """Weights that are entries of a table, as ``kmeans_quantize`` makes them.

    Args:
        codes: uint8, the shape of the weights: positions in ``levels``.
        levels: float32, 1-D, at most ``2**bits``, finite and rising: the table.
        bits: bits of a code, 1 to 8.

    Two records are compared by identity.

    Raises:
        ValueError: for a field that is not as above.

    Chapter: *Beyond evenly spaced levels*.
    """

    codes: Tensor
    levels: Tensor
    bits: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", integer(self.bits, 1, 8, "bits"))
        levels = finite_floats(self.levels, "levels")
        if levels.dtype != torch.float32:
            raise ValueError(f"levels: need float32, got {levels.dtype}")
        if levels.ndim != 1 or len(levels) > 2**self.bits:
            raise ValueError(
                f"levels: need one axis of at most {2**self.bits} at {self.bits} bits, "
                f"got shape {tuple(levels.shape)}"
            )
        if (levels.diff() <= 0).any():
            raise ValueError("levels: need rising values, got some that are not")
        _check_codes(self.codes, torch.uint8, 0, len(levels) - 1)
        _check_device(levels, self.codes, "levels")

    @property
    def nbytes(self) -> int:
        """Bytes of the packed codes and of the float32 table."""
        return -(-self.codes.numel() * self.bits // 8) + 4 * self.levels.numel()

    def dequantize(self) -> Tensor:
        """The weights that the codes stand for: look each up, float32.

        Chapter: *Beyond evenly spaced levels*.
        """
        return self.levels[self.codes.int()]


@dataclass(frozen=True, eq=False)
class PackedSigns:
    """Vectors of -1 and +1 with 64 signs to a word, as ``pack_signs`` makes them.

    Args:
        words: int64, shape (words of a vector, vectors); a set bit is a -1, bits past the end are 0.
        length: signs in a vector, at least 1.

    Two records are compared by identity.

    Raises:
        ValueError: for a field that is not as above.

    Chapter: *Beyond evenly spaced levels*.
    """

    words: Tensor
    length: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", integer(self.length, 1, 2**40, "length"))
        words = dense(self.words, "words")
        if words.dtype != torch.int64:
            raise ValueError(f"words: need int64, got {words.dtype}")
        needed = -(-self.length // 64)
        if words.ndim != 2 or len(words) != needed or not words.numel():
            raise ValueError(
                f"words: need shape ({needed}, vectors) for {self.length} signs, "
                f"got {tuple(words.shape)}"
            )
        if self.length % 64 and (words[-1] >> self.length % 64).any():
            raise ValueError(f"words: need 0 in every bit past {self.length} signs")


def binarize(w: Tensor, axis: int | None = 0) -> ScaledSigns:
    """The best approximation of weights by one scale times their signs.

    ``||w - scale * codes||^2`` is smallest for ``codes = sign(w)`` and ``scale = mean |w|``; sign(0) is +1.

    Args:
        w: finite weights, any shape; worked on in float32.
        axis: gets a scale for each index (0: each filter of a layer); None: one scale in all, the only choice for a 0-d ``w``.

    Returns:
        The codes -1 and +1 with their scales.

    Raises:
        ValueError: if ``w`` is no tensor of finite floats within float32, or empty, or has no such ``axis``.

    Source: Rastegari et al., XNOR-Net (arXiv 1603.05279), equation 6.
    Chapter: *Beyond evenly spaced levels*.

    >>> b = binarize(torch.tensor([[0.5, -0.1, 0.3], [2.0, 0.0, -1.0]]))
    >>> b.codes.tolist(), b.scale.tolist()
    ([[1, -1, 1], [1, 1, -1]], [0.30000001192092896, 1.0])
    """
    w = _weights(w)
    axis = _axis(axis, w)
    scale = _rows(w.abs(), axis).double().mean(1).float()
    codes = torch.where(w < 0, -1, 1).to(torch.int8)
    return ScaledSigns(codes, _flat(scale, axis), axis, codes_per_byte=8)


def ternarize(w: Tensor, axis: int | None = 0) -> ScaledSigns:
    """The best approximation of weights by one scale times -1, 0 or +1.

    If the k largest magnitudes keep their signs and the others become 0, the best scale is the mean of the k, and
    the squared error falls by ``(sum of the k)^2 / k``.  All k are tried, so the result is the optimum; the usual
    threshold of ``0.7 mean |w|`` only comes near it.

    Args:
        w: finite weights, any shape; worked on in float32.
        axis: gets a scale for each index (0: each filter of a layer); None: one scale in all, the only choice for a 0-d ``w``.

    Returns:
        The codes -1, 0 and +1 with their scales.

    Raises:
        ValueError: if ``w`` is no tensor of finite floats within float32, or empty, or has no such ``axis``.

    Source: Li et al., Ternary Weight Networks (arXiv 1605.04711), equations 4 and 5, solved here without their
    assumption on the distribution.
    Chapter: *Beyond evenly spaced levels*.

    >>> t = ternarize(torch.tensor([[1.0, -0.9, 0.2, 0.0, -1.1]]))
    >>> t.codes.tolist(), t.scale.tolist()
    ([[1, -1, 0, 0, -1]], [1.0])
    """
    w = _weights(w)
    axis = _axis(axis, w)
    magnitude = _rows(w.abs(), axis).double()
    falling = magnitude.sort(dim=1, descending=True).values
    count = torch.arange(1, falling.shape[1] + 1, device=w.device)
    gain = falling.cumsum(1).square() / count
    smallest_kept = falling.gather(1, gain.argmax(1, keepdim=True))
    kept = magnitude >= smallest_kept
    scale = (magnitude * kept).sum(1) / kept.sum(1)
    threshold = _along(_flat(smallest_kept[:, 0], axis), axis, w.ndim)
    codes = (w.sign() * (w.abs() >= threshold)).to(torch.int8)
    return ScaledSigns(codes, _flat(scale.float(), axis), axis, codes_per_byte=5)


def log2_quantize(w: Tensor, bits: int, axis: int | None = None) -> PowersOfTwo:
    """Each weight becomes the nearest of zero and plus or minus the powers of two.

    The largest exponent is that of the largest magnitude, rounded; ``2**(bits - 1) - 1`` exponents in falling order
    and a code for zero make the magnitudes.  Nearest is meant in value, so that the border between ``2**e`` and
    ``2**(e + 1)`` is ``1.5 * 2**e`` and the relative error between the ends at most 1/3.  (Rounding the logarithm
    puts it at ``2**(e + 0.5)``, with up to 0.41.)  Ties go away from zero.

    Args:
        w: finite weights, any shape; worked on in float32.
        bits: 2 to 6, one of them for the sign.
        axis: gets a largest exponent for each index; None: one in all.

    Returns:
        The codes with their exponents, of which none is above 127, where float32 ends.

    Raises:
        ValueError: if ``w`` is no tensor of finite floats within float32, or empty, or has no such ``axis``; if
            ``bits`` is no integer from 2 to 6.

    Source: Miyashita et al., Convolutional Neural Networks using Logarithmic Data Representation
    (arXiv 1603.01025), section 3.
    Chapter: *Beyond evenly spaced levels*.

    >>> p = log2_quantize(torch.tensor([0.9, -0.4, 0.2, 0.06, -0.1]), bits=3)
    >>> p.codes.tolist(), p.dequantize().tolist()
    ([3, -2, 1, 0, 0], [1.0, -0.5, 0.25, 0.0, 0.0])
    """
    w = _weights(w)
    axis = _axis(axis, w)
    bits = integer(bits, 2, 6, "bits")
    # |w| = |fraction| * 2**above, with the fraction from 1/2 up to 1.
    fraction, above = torch.frexp(w)
    nearest = above - 1 + (fraction.abs() >= 0.75).int()
    # So that a zero never is the largest: below it there are no float32 numbers.
    nearest = torch.where(w == 0, -149, nearest)
    top = _rows(nearest, axis).amax(1).clamp(max=127)
    lowest = _flat(top, axis) - (2 ** (bits - 1) - 2)
    step = nearest - _along(lowest, axis, w.ndim)
    # Below half of the smallest magnitude, zero is nearer.
    is_zero = above < _along(lowest, axis, w.ndim)
    code = torch.where(is_zero, 0, step.clamp(0, 2 ** (bits - 1) - 2) + 1)
    codes = (w.sign() * code).to(torch.int8)
    return PowersOfTwo(codes, lowest, axis, bits)


def shift_linear(q: Tensor, w: PowersOfTwo) -> Tensor:
    """A linear layer on integers with shifts in place of products.

    Args:
        q: integer codes of the inputs, shape (batch, inputs).
        w: weights of shape (outputs, inputs), with one lowest exponent in all or for each output (axis 0).

    Returns:
        int64 of shape (batch, outputs), the sums ``sum_i q_i * w_i / 2**lowest``, exact.  Times ``2**lowest``, and
        the inputs' scale, they are the layer's outputs.

    Raises:
        ValueError: if ``q`` are no integers, if shapes do not fit, if the lowest exponents of ``w`` differ along its
            inputs, which one sum can't hold, or if a sum could pass int64.

    Source: Miyashita et al. (arXiv 1603.01025), section 3.2.
    Chapter: *Beyond evenly spaced levels*.

    >>> w = log2_quantize(torch.tensor([[0.9, -0.4, 0.2, 0.0]]), bits=3)
    >>> shift_linear(torch.tensor([[3, 5, 100, 7]]), w), int(w.lowest)
    (tensor([[102]]), -2)
    """
    _check_layer(w)
    shift = (w.codes.abs() - 1).clamp(min=0)
    q = _integers(q, w.codes.shape[1], int(shift.max()))
    total = q.new_zeros(len(q), len(w.codes))
    for i in range(q.shape[1]):
        shifted = q[:, i, None] << shift[:, i]
        total += torch.where(w.codes[:, i] > 0, shifted, 0)
        total -= torch.where(w.codes[:, i] < 0, shifted, 0)
    return total


def kmeans_quantize(w: Tensor, bits: int) -> Codebook:
    """The ``2**bits`` levels with the least mean squared error, and for each weight the nearest.

    On a line, clusters are intervals of the sorted values.  So the best ones can be found exactly, by dynamic
    programming over where the last interval begins, in ``levels * n * log(n)`` steps.  Lloyd's iteration, the usual
    way, depends on its start and often ends in a worse place.  On one core, 10**4 weights at 4 bits take about a
    second, ten times as many or 8 bits about ten; beyond 10**5, find the levels on a sample.

    Args:
        w: finite weights, any shape; worked on in float32.
        bits: 1 to 8.

    Returns:
        The table and the codes; a value half-way between two levels gets the lower.  Fewer levels than
        ``2**bits`` if the weights have fewer different values.

    Raises:
        ValueError: if ``w`` is no tensor of finite floats within float32, or empty; if ``bits`` is no integer from
            1 to 8.

    Source: Han et al., Deep Compression (arXiv 1510.00149), section 3; the exact solution is by Wang and Song,
    Ckmeans.1d.dp (The R Journal 3/2, 2011).
    Chapter: *Beyond evenly spaced levels*.

    >>> k = kmeans_quantize(torch.tensor([0.0, 0.1, 0.2, 0.9, 1.1, 5.0, 5.0]), bits=2)
    >>> [round(level, 3) for level in k.levels.tolist()], k.codes.tolist()
    ([0.1, 0.9, 1.1, 5.0], [0, 0, 0, 1, 2, 3, 3])
    """
    w = _weights(w)
    bits = integer(bits, 1, 8, "bits")
    values = w.flatten().double().sort().values
    ends = _best_intervals(values, 2**bits)
    sums = torch.cat([values.new_zeros(1), values.cumsum(0)])[ends].diff()
    means = sums[ends.diff() > 0] / ends.diff()[ends.diff() > 0]
    levels = torch.unique(means.float())
    borders = (levels[1:].double() + levels[:-1]) / 2
    codes = torch.searchsorted(borders, w.double().contiguous())
    return Codebook(codes.to(torch.uint8), levels, bits)


def pack_signs(x: Tensor) -> PackedSigns:
    """Vectors of -1 and +1 as bits, 64 to a word.

    Args:
        x: -1 and +1 alone, any real dtype, shape (vectors, length).

    Returns:
        The packed vectors.

    Raises:
        ValueError: if ``x`` is no such tensor, or empty.

    Chapter: *Beyond evenly spaced levels*.

    >>> packed = pack_signs(torch.tensor([[1, -1, 1], [-1, -1, 1]]))
    >>> packed.words.tolist(), packed.length
    ([[2, 3]], 3)
    """
    return _pack(x, "x")


def xnor_matmul(a: Tensor | PackedSigns, b: Tensor | PackedSigns) -> Tensor:
    """The matrix product of signs, by comparing bits and counting.

    Two vectors of n signs agree in n - d places and differ in d, so their dot product is ``n - 2 d``.  XOR of the
    packed words marks the places that differ, a population count adds them up: one step for 64 products.

    Args:
        a: -1 and +1, shape (m, k), or its rows as ``pack_signs(a)``.
        b: -1 and +1, shape (k, n), or its columns as ``pack_signs(b.T)``.

    Returns:
        int32 of shape (m, n), equal to the product of the matrices of -1 and +1.

    Raises:
        ValueError: if an operand is no such matrix, or empty, or if the lengths or the devices differ.

    Source: Rastegari et al., XNOR-Net (arXiv 1603.05279), section 3.2.
    Chapter: *Beyond evenly spaced levels*.

    >>> a, b = torch.tensor([[1, -1, 1]]), torch.tensor([[1, 1], [1, -1], [1, 1]])
    >>> xnor_matmul(a, b), a @ b
    (tensor([[1, 3]], dtype=torch.int32), tensor([[1, 3]]))
    """
    rows = a if isinstance(a, PackedSigns) else _pack(a, "a")
    columns = b if isinstance(b, PackedSigns) else _pack(_transposed(b), "b")
    if rows.length != columns.length:
        raise ValueError(
            f"a, b: need vectors of one length, got {rows.length} and {columns.length}"
        )
    if rows.words.device != columns.words.device:
        raise ValueError(
            f"a, b: need one device, got {rows.words.device} and {columns.words.device}"
        )
    differ = _count_differences(rows.words, columns.words)
    return differ.mul_(-2).add_(rows.length)


# Words compared at a time: they and their counts stay in the cache.
_BLOCK = 2**16


def _count_differences(a: Tensor, b: Tensor) -> Tensor:
    """Bits in which column i of ``a`` and column j of ``b`` differ, for all i and j."""
    (words, m), n = a.shape, b.shape[1]
    rows = min(m, max(1, _BLOCK // n))
    depth = max(1, _BLOCK // (rows * n))
    total = torch.zeros((m, n), dtype=torch.int32, device=a.device)
    for i in range(0, m, rows):
        for k in range(0, words, depth):
            differ = a[k : k + depth, i : i + rows, None] ^ b[k : k + depth, None]
            total[i : i + rows] += _count_bits(differ).sum(0, dtype=torch.int32)
    return total


def _count_bits(x: Tensor) -> Tensor:
    """Set bits of each int64: torch has no such operation, NumPy has on the CPU."""
    if x.device.type == "cpu":
        # Of a negative number NumPy would count the magnitude's bits.
        return torch.from_numpy(np.bitwise_count(x.numpy().view(np.uint64)))
    return _count_bits_by_adding(x)


def _count_bits_by_adding(x: Tensor) -> Tensor:
    """Set bits of each int64: counts in pairs of bits, in fours, in bytes, and their sum."""
    x = x - ((x >> 1) & 0x5555555555555555)
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (x * 0x0101010101010101) >> 56


def _pack(x: Tensor, name: str) -> PackedSigns:
    if not isinstance(x, Tensor) or x.ndim != 2 or not x.numel():
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: need a matrix of -1 and +1, got {got}")
    if dense(x, name).is_complex():
        raise ValueError(f"{name}: need real values, got {x.dtype}")
    is_sign = (x == 1) | (x == -1)
    if not is_sign.all():
        raise ValueError(
            f"{name}: {int((~is_sign).sum())} of {x.numel()} values are not -1 or +1"
        )
    negative = pad(x < 0, (0, -x.shape[1] % 64))
    # The product gathers the eight truth values of a word in its top byte.
    octets = (negative.contiguous().view(torch.int64) * 0x0102040810204080) >> 56
    words = (octets & 0xFF).to(torch.uint8).view(torch.int64)
    return PackedSigns(words.T.contiguous(), x.shape[1])


def _transposed(b: Tensor) -> Tensor:
    """Columns as rows; what is no matrix is left to ``_pack`` to refuse."""
    return b.T if isinstance(b, Tensor) and b.ndim == 2 else b


def _best_intervals(values: Tensor, count: int) -> Tensor:
    """Where to cut rising ``values`` into ``count`` intervals of least squared error.

    The error is ``sum x^2 - sum over intervals of (sum of the interval)^2 / length``: the last sum is to be large.
    """
    n = len(values)
    # Centred, which changes no error, so that the squares lose fewer digits.
    sums = torch.cat([values.new_zeros(1), (values - values.mean()).cumsum(0)])

    def gain(start: Tensor, end: Tensor) -> Tensor:
        return (sums[end] - sums[start]).square() / (end - start).clamp(min=1)

    every_end = torch.arange(n + 1, device=values.device)
    best = gain(torch.zeros_like(every_end), every_end)
    starts = []
    for _ in range(count - 1):
        best, start = _extend(best, gain, n)
        starts.append(start)
    cuts = [n]
    for start in reversed(starts):
        cuts.append(int(start[cuts[-1]]))
    return torch.tensor([0, *reversed(cuts)], device=values.device)


def _extend(
    best: Tensor, gain: Callable[[Tensor, Tensor], Tensor], n: int
) -> tuple[Tensor, Tensor]:
    """The best totals with one more interval, for every end, and where that interval starts.

    A later end never has an earlier start.  So ends are settled from coarse to fine, and each looks only between
    the starts of its settled neighbours.
    """
    start = torch.zeros(n + 1, dtype=torch.int64, device=best.device)
    total = best.clone()
    stride = 2 ** (n.bit_length() - 1)
    while stride:
        ends = torch.arange(stride, n + 1, 2 * stride, device=best.device)
        low = start[ends - stride]
        after = ends + stride
        high = torch.where(after <= n, start[after.clamp(max=n)], n).minimum(ends)
        # Every candidate of every end, in one row.
        width = high - low + 1
        end = ends.repeat_interleave(width)
        skipped = width.cumsum(0) - width - low
        candidate = torch.arange(len(end), device=best.device)
        candidate -= skipped.repeat_interleave(width)
        value = best[candidate] + gain(candidate, end)
        total.scatter_reduce_(0, end, value, "amax", include_self=False)
        hit = value == total[end]
        start.scatter_reduce_(0, end[hit], candidate[hit], "amin", include_self=False)
        stride //= 2
    return total, start


def _weights(w: Tensor) -> Tensor:
    """``w`` in float32."""
    values = w.detach() if isinstance(w, Tensor) else w
    narrow = finite_floats(values, "w").float()
    if not torch.isfinite(narrow).all():
        raise ValueError(f"w: need values within float32, got up to {w.abs().max():g}")
    return narrow


def _axis(axis: int | None, w: Tensor) -> int | None:
    """``axis`` counted from the front."""
    if axis is None:
        return None
    if not isinstance(axis, Integral) or isinstance(axis, bool):
        raise ValueError(f"axis: need an integer or None, got {axis!r}")
    if not w.ndim:
        raise ValueError(f"axis: need None for a single 0-d number, got {axis}")
    if not -w.ndim <= axis < w.ndim:
        raise ValueError(f"axis: need one of the {w.ndim} axes of w, got {axis}")
    return int(axis) % w.ndim


def _check_codes(codes: Tensor, dtype: torch.dtype, low: int, high: int) -> None:
    codes = dense(codes, "codes")
    if codes.dtype != dtype or not codes.numel():
        raise ValueError(
            f"codes: need {dtype}, at least one, got {codes.dtype} of shape "
            f"{tuple(codes.shape)}"
        )
    least, most = (int(end) for end in codes.aminmax())
    if least < low or most > high:
        raise ValueError(f"codes: need {low} to {high}, got {least} to {most}")


def _check_table(
    table: Tensor, dtype: torch.dtype, codes: Tensor, axis: int | None, name: str
) -> None:
    """One number in all, or for each index of ``axis``."""
    if _axis(axis, codes) != axis:
        raise ValueError(f"axis: need it counted from the front, got {axis}")
    table = dense(table, name)
    if table.dtype != dtype:
        raise ValueError(f"{name}: need {dtype}, got {table.dtype}")
    needed = () if axis is None else (codes.shape[axis],)
    if table.shape != needed:
        raise ValueError(
            f"{name}: need shape {needed} for axis {axis} of codes of shape "
            f"{tuple(codes.shape)}, got {tuple(table.shape)}"
        )
    _check_device(table, codes, name)


def _check_device(table: Tensor, codes: Tensor, name: str) -> None:
    if table.device != codes.device:
        raise ValueError(
            f"{name}: need the device of codes, {codes.device}, got {table.device}"
        )


def _check_layer(w: PowersOfTwo) -> None:
    """Weights of a linear layer whose sums have one unit for each output."""
    if not isinstance(w, PowersOfTwo) or w.codes.ndim != 2:
        got = tuple(w.codes.shape) if isinstance(w, PowersOfTwo) else type(w).__name__
        raise ValueError(f"w: need PowersOfTwo of shape (outputs, inputs), got {got}")
    if w.axis not in (None, 0):
        raise ValueError(
            f"w: need axis None or 0 (one lowest exponent an output), got {w.axis}"
        )


def _integers(q: Tensor, inputs: int, shift: int) -> Tensor:
    """``q`` as int64, if sums of so many shifted values fit there."""
    whole = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
    if not isinstance(q, Tensor) or q.dtype not in whole:
        got = q.dtype if isinstance(q, Tensor) else type(q).__name__
        raise ValueError(f"q: need integer codes, got {got}")
    q = dense(q, "q")
    if q.ndim != 2 or q.shape[1] != inputs:
        raise ValueError(f"q: need shape (batch, {inputs}), got {tuple(q.shape)}")
    q = q.long()
    largest = max(abs(int(q.min())), abs(int(q.max()))) if q.numel() else 0
    if (largest << shift) * inputs >= 2**63:
        raise ValueError(f"q: sums of {inputs} values up to {largest} pass int64")
    return q


def _rows(x: Tensor, axis: int | None) -> Tensor:
    """What shares a scale as one row."""
    if axis is None:
        return x.reshape(1, -1)
    return x.movedim(axis, 0).reshape(x.shape[axis], -1)


def _flat(per_row: Tensor, axis: int | None) -> Tensor:
    """One number for each row; the only one of all as a scalar."""
    return per_row[0] if axis is None else per_row


def _along(per_row: Tensor, axis: int | None, ndim: int) -> Tensor:
    """``per_row`` in a shape that broadcasts along ``axis``."""
    if axis is None:
        return per_row
    return per_row.reshape([-1 if d == axis else 1 for d in range(ndim)])
