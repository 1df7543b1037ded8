"""Fixed-point numbers: an integer and an agreed scale.

A Q-format value is ``q * 2**-fraction_bits`` with ``q`` a two's-complement integer, so range and
resolution are both fixed in advance and every operation is integer arithmetic.  Explained in the
chapter *Fixed point*.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantcourse._checks import as_float64, as_integers, is_count

Rounding = Literal["even", "half_away", "half_up", "zero", "floor"]
Overflow = Literal["saturate", "wrap"]


@dataclass(frozen=True)
class QFormat:
    """The format Q(integer_bits).(fraction_bits), with a sign bit of its own when ``signed``.

    Raises:
        ValueError: if a width is no integer >= 0, or the format has no bit or more than 53.

    Chapter: *Fixed point*.

    >>> q = QFormat(integer_bits=3, fraction_bits=4)
    >>> q.resolution, q.min, q.max
    (0.0625, -8.0, 7.9375)
    """

    integer_bits: int
    fraction_bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        widths = (self.integer_bits, self.fraction_bits)
        if self.signed not in (True, False):
            raise ValueError(f"signed: need True or False, got {self.signed!r}")
        if not all(is_count(w) for w in widths) or not 1 <= self.bits <= 53:
            raise ValueError(
                f"integer_bits={self.integer_bits}, fraction_bits={self.fraction_bits}, signed={self.signed}: "
                "need Python integers >= 0 that make 1 to 53 bits in all (float64 holds no more exactly)"
            )

    @property
    def bits(self) -> int:
        """Width of a code, sign bit included."""
        return self.integer_bits + self.fraction_bits + self.signed

    @property
    def resolution(self) -> float:
        """Distance between neighbours, everywhere the same: ``2**-fraction_bits``."""
        return 2.0**-self.fraction_bits

    @property
    def min(self) -> float:
        """Smallest number."""
        return self.min_code * self.resolution

    @property
    def max(self) -> float:
        """Largest number."""
        return self.max_code * self.resolution

    @property
    def min_code(self) -> int:
        """Smallest integer: ``-2**(bits - 1)``, or 0 without a sign."""
        return -(1 << self.bits - 1) if self.signed else 0

    @property
    def max_code(self) -> int:
        """Largest integer: ``2**(bits - 1) - 1``, or ``2**bits - 1`` without a sign."""
        return (1 << self.bits - self.signed) - 1

    def encode(self, x: ArrayLike, rounding: Rounding = "even", overflow: Overflow = "saturate") -> NDArray[np.int64]:
        """Representable integers next to ``x / resolution``.

        Args:
            x: real values, any shape.
            rounding: to nearest with ties to ``"even"``, away from zero (``"half_away"``) or up
                (``"half_up"``); or always toward ``"zero"`` (truncation) or down (``"floor"``).
            overflow: beyond the ends, ``"saturate"`` gives the end, ``"wrap"`` keeps the lowest ``bits`` bits.

        Returns:
            int64 of the same shape; inside the range ``|x - q * resolution|`` is at most half a resolution
            with rounding to nearest, and below one resolution otherwise.

        Raises:
            ValueError: if ``x`` is not numeric or holds a NaN, which no integer can stand for; for an
                infinity that should wrap; for an unknown ``rounding`` or ``overflow``.

        Chapter: *Fixed point*.

        >>> QFormat(3, 4).encode([0.1, 0.09375, 100.0])
        array([  2,   2, 127])
        >>> QFormat(7, 0).encode([127, 128, 129], overflow="wrap")
        array([ 127, -128, -127])
        """
        if overflow not in ("saturate", "wrap"):
            raise ValueError(f"overflow: need 'saturate' or 'wrap', got {overflow!r}")
        x = as_float64(x)
        if np.isnan(x).any():
            raise ValueError(f"x: {np.isnan(x).sum()} of {x.size} values are NaN, and fixed point has no code for NaN")
        if overflow == "wrap" and np.isinf(x).any():
            raise ValueError(f"x: {np.isinf(x).sum()} of {x.size} values are infinite, and infinity can't wrap")
        if overflow == "wrap":
            x = np.fmod(x, 2.0 ** (self.integer_bits + self.signed))  # whole turns, exactly: the quotient stays small
        with np.errstate(over="ignore"):  # a quotient beyond float64 is beyond the range too
            q = _round(x / self.resolution, rounding)
        if overflow == "saturate":
            return np.clip(q, self.min_code, self.max_code).astype(np.int64)[()]
        lowest_bits = np.mod(q, 2.0**self.bits).astype(np.int64)
        return np.where(lowest_bits > self.max_code, lowest_bits - (1 << self.bits), lowest_bits)[()]

    def decode(self, q: ArrayLike) -> NDArray[np.float64]:
        """The real values that the integers ``q`` stand for; exact, since 53 bits fit a float64.

        Args:
            q: integers in ``min_code .. max_code``, any shape.

        Returns:
            ``q * resolution``, float64, same shape.

        Raises:
            ValueError: if ``q`` are no integers or out of range.

        Chapter: *Fixed point*.

        >>> QFormat(3, 4).decode([2, -128, 127])
        array([ 0.125 , -8.    ,  7.9375])
        """
        return _codes(q, self, "q").astype(np.float64) * self.resolution

    def round(self, x: ArrayLike, rounding: Rounding = "even", overflow: Overflow = "saturate") -> NDArray[np.float64]:
        """The representable real values next to ``x``: ``decode(encode(x))``, with the same arguments and errors.

        >>> QFormat(3, 4).round([0.1, 100.0])
        array([0.125 , 7.9375])
        """
        return self.decode(self.encode(x, rounding, overflow))

    def sum_format(self, other: "QFormat") -> "QFormat":
        """The smallest format that holds every sum of a number of this format and one of ``other``.

        One more integer bit than the wider (and one for an unsigned number that meets a sign).

        Raises:
            ValueError: if that takes more than 53 bits.

        Chapter: *Fixed point*.

        >>> QFormat(3, 4).sum_format(QFormat(3, 4))
        QFormat(integer_bits=4, fraction_bits=4, signed=True)
        """
        fraction_bits = max(self.fraction_bits, other.fraction_bits)
        shift, other_shift = fraction_bits - self.fraction_bits, fraction_bits - other.fraction_bits
        low = (self.min_code << shift) + (other.min_code << other_shift)
        high = (self.max_code << shift) + (other.max_code << other_shift)
        return _smallest_format(low, high, fraction_bits)

    def product_format(self, other: "QFormat") -> "QFormat":
        """The smallest format that holds every product of a number of this format and one of ``other``.

        The fraction bits add up.  So do the integer bits; two signed numbers need one more, for min * min.

        Raises:
            ValueError: if that takes more than 53 bits.

        Chapter: *Fixed point*.

        >>> QFormat(3, 4).product_format(QFormat(3, 4))
        QFormat(integer_bits=7, fraction_bits=8, signed=True)
        """
        fraction_bits = self.fraction_bits + other.fraction_bits
        corners = [a * b for a in (self.min_code, self.max_code) for b in (other.min_code, other.max_code)]
        return _smallest_format(min(corners), max(corners), fraction_bits)


def add(p: ArrayLike, p_format: QFormat, q: ArrayLike, q_format: QFormat) -> tuple[NDArray[np.int64], QFormat]:
    """Exact sums of fixed-point numbers: shift to the same point, then add the integers.

    Args:
        p, q: codes of the two formats; shapes broadcast.
        p_format, q_format: their formats.

    Returns:
        ``(codes, format)`` with ``format = p_format.sum_format(q_format)``.

    Raises:
        ValueError: if codes are no integers or out of their range, or the sum takes more than 53 bits.

    Chapter: *Fixed point*.

    >>> codes, form = add(24, QFormat(3, 4), 3, QFormat(3, 1))  # 1.5 + 1.5
    >>> int(codes), form, float(form.decode(codes))
    (48, QFormat(integer_bits=4, fraction_bits=4, signed=True), 3.0)
    """
    form = p_format.sum_format(q_format)
    p = _codes(p, p_format, "p") << form.fraction_bits - p_format.fraction_bits
    q = _codes(q, q_format, "q") << form.fraction_bits - q_format.fraction_bits
    return p + q, form


def multiply(p: ArrayLike, p_format: QFormat, q: ArrayLike, q_format: QFormat) -> tuple[NDArray[np.int64], QFormat]:
    """Exact products of fixed-point numbers: the product of the integers, with the fraction bits added up.

    Args:
        p, q: codes of the two formats; shapes broadcast.
        p_format, q_format: their formats.

    Returns:
        ``(codes, format)`` with ``format = p_format.product_format(q_format)``.

    Raises:
        ValueError: if codes are no integers or out of their range, or the product takes more than 53 bits.

    Chapter: *Fixed point*.

    >>> codes, form = multiply(24, QFormat(3, 4), 40, QFormat(3, 4))  # 1.5 * 2.5
    >>> int(codes), form, float(form.decode(codes))
    (960, QFormat(integer_bits=7, fraction_bits=8, signed=True), 3.75)
    """
    return _codes(p, p_format, "p") * _codes(q, q_format, "q"), p_format.product_format(q_format)


def _codes(q: ArrayLike, form: QFormat, name: str) -> NDArray[np.int64]:
    return as_integers(q, form.min_code, form.max_code, name).astype(np.int64)


def _smallest_format(low: int, high: int, fraction_bits: int) -> QFormat:
    """The smallest format with ``fraction_bits`` whose codes reach from ``low`` to ``high``."""
    magnitude_bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)
    return QFormat(max(magnitude_bits - fraction_bits, 0), fraction_bits, signed=low < 0)


def _round(v: NDArray[np.float64], rounding: Rounding) -> NDArray[np.float64]:
    """Integers next to ``v``.  Halves are told by ``v - floor(v)``: adding 0.5 first would round twice."""
    if rounding == "even":
        return np.rint(v)
    if rounding == "zero":
        return np.trunc(v)
    if rounding == "floor":
        return np.floor(v)
    if rounding == "half_up":
        return _round_half_up(v)
    if rounding == "half_away":
        return np.copysign(_round_half_up(np.abs(v)), v)
    raise ValueError(f"rounding: need 'even', 'half_away', 'half_up', 'zero' or 'floor', got {rounding!r}")


def _round_half_up(v: NDArray[np.float64]) -> NDArray[np.float64]:
    below = np.floor(v)
    with np.errstate(invalid="ignore"):  # infinity has no fractional part, and stays
        return below + (v - below >= 0.5)
