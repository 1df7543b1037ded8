"""Fixed-point numbers: an integer and an agreed scale.

A Q-format value is ``q * 2**-fraction_bits`` with ``q`` a two's-complement integer, so range and
resolution are both fixed in advance and every operation is integer arithmetic.  Explained in the
chapter *Fixed point*.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantcourse._checks import as_float64, as_integers, is_count, one_of, refuse

__all__ = ["QFormat", "add", "multiply"]

Rounding = Literal["even", "half_away", "half_up", "zero", "floor"]
Overflow = Literal["saturate", "wrap"]


@dataclass(frozen=True)
class QFormat:
    """The format Q(integer_bits).(fraction_bits), with a sign bit of its own when ``signed``.

    Args:
        integer_bits: bits before the point, the sign not counted (some authors count it).
        fraction_bits: bits after the point.
        signed: whether there is a sign bit, as the top bit of a two's-complement integer.

    Raises:
        ValueError: if a width is no integer >= 0, if the format has no bit or more than 53, or if ``signed`` is
            no truth value.

    Source: Yates, Fixed-Point Arithmetic: An Introduction, which calls it A(integer_bits, fraction_bits).
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
        if not isinstance(self.signed, bool):
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

    def encode(
        self, x: ArrayLike, rounding: Rounding = "even", overflow: Overflow = "saturate"
    ) -> NDArray[np.int64]:
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
        one_of(rounding, ("even", "half_away", "half_up", "zero", "floor"), "rounding")
        one_of(overflow, ("saturate", "wrap"), "overflow")
        x = as_float64(x, "x")
        refuse(np.isnan(x), "NaN, and fixed point has no code for NaN", "x")
        if overflow == "saturate":
            # A quotient beyond float64 is beyond the range too.
            with np.errstate(over="ignore"):
                q = _round(x / self.resolution, rounding)
            return np.clip(q, self.min_code, self.max_code).astype(np.int64)[()]
        refuse(np.isinf(x), "infinite, and infinity can't wrap", "x")
        # Whole turns are taken off exactly, so that the quotient stays small.
        x = np.fmod(x, 2.0 ** (self.integer_bits + self.signed))
        whole = _round(x / self.resolution, rounding).astype(np.int64)
        lowest_bits: NDArray[np.int64] = (whole - self.min_code) & (
            (1 << self.bits) - 1
        )
        return (lowest_bits + self.min_code)[()]

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

    def round(
        self, x: ArrayLike, rounding: Rounding = "even", overflow: Overflow = "saturate"
    ) -> NDArray[np.float64]:
        """The representable real values next to ``x``: ``decode(encode(x))``, with the same arguments and errors.

        Chapter: *Fixed point*.

        >>> QFormat(3, 4).round([0.1, 100.0])
        array([0.125 , 7.9375])
        """
        return self.decode(self.encode(x, rounding, overflow))

    def sum_format(self, other: "QFormat") -> "QFormat":
        """The smallest format that holds every sum of a number of this format and one of ``other``.

        At most one more integer bit than the wider, and a sign if either has one.

        Raises:
            ValueError: if ``other`` is no QFormat, or the result takes more than 53 bits.

        Chapter: *Fixed point*.

        >>> QFormat(3, 4).sum_format(QFormat(3, 4))
        QFormat(integer_bits=4, fraction_bits=4, signed=True)
        """
        _check_format(other, "other")
        fraction_bits = max(self.fraction_bits, other.fraction_bits)
        shift, other_shift = (
            fraction_bits - self.fraction_bits,
            fraction_bits - other.fraction_bits,
        )
        low = (self.min_code << shift) + (other.min_code << other_shift)
        high = (self.max_code << shift) + (other.max_code << other_shift)
        return _smallest_format(low, high, fraction_bits)

    def product_format(self, other: "QFormat") -> "QFormat":
        """The smallest format that holds every product of a number of this format and one of ``other``.

        The fraction bits add up.  So do the integer bits at most; two signed numbers may need one more, for min * min.

        Raises:
            ValueError: if ``other`` is no QFormat, or the result takes more than 53 bits.

        Chapter: *Fixed point*.

        >>> QFormat(3, 4).product_format(QFormat(3, 4))
        QFormat(integer_bits=7, fraction_bits=8, signed=True)
        """
        _check_format(other, "other")
        fraction_bits = self.fraction_bits + other.fraction_bits
        corners = [
            a * b
            for a in (self.min_code, self.max_code)
            for b in (other.min_code, other.max_code)
        ]
        return _smallest_format(min(corners), max(corners), fraction_bits)


def add(
    p: ArrayLike, p_format: QFormat, q: ArrayLike, q_format: QFormat
) -> tuple[NDArray[np.int64], QFormat]:
    """Exact sums of fixed-point numbers: shift to the same point, then add the integers.

    Args:
        p, q: codes of the two formats; shapes broadcast.
        p_format, q_format: their formats.

    Returns:
        ``(codes, format)`` with ``format = p_format.sum_format(q_format)``.

    Raises:
        ValueError: if codes are no integers or out of their range, if shapes do not broadcast, if a format is no
            QFormat, or if the sum takes more than 53 bits.

    Chapter: *Fixed point*.

    >>> codes, form = add(24, QFormat(3, 4), 3, QFormat(3, 1))  # 1.5 + 1.5
    >>> int(codes), form, float(form.decode(codes))
    (48, QFormat(integer_bits=4, fraction_bits=4, signed=True), 3.0)
    """
    p_codes, q_codes = _operands(p, p_format, q, q_format)
    form = p_format.sum_format(q_format)
    p_aligned = p_codes << form.fraction_bits - p_format.fraction_bits
    q_aligned = q_codes << form.fraction_bits - q_format.fraction_bits
    return p_aligned + q_aligned, form


def multiply(
    p: ArrayLike, p_format: QFormat, q: ArrayLike, q_format: QFormat
) -> tuple[NDArray[np.int64], QFormat]:
    """Exact products of fixed-point numbers: the product of the integers, with the fraction bits added up.

    Args:
        p, q: codes of the two formats; shapes broadcast.
        p_format, q_format: their formats.

    Returns:
        ``(codes, format)`` with ``format = p_format.product_format(q_format)``.

    Raises:
        ValueError: if codes are no integers or out of their range, if shapes do not broadcast, if a format is no
            QFormat, or if the product takes more than 53 bits.

    Chapter: *Fixed point*.

    >>> codes, form = multiply(24, QFormat(3, 4), 40, QFormat(3, 4))  # 1.5 * 2.5
    >>> int(codes), form, float(form.decode(codes))
    (960, QFormat(integer_bits=7, fraction_bits=8, signed=True), 3.75)
    """
    p_codes, q_codes = _operands(p, p_format, q, q_format)
    form = p_format.product_format(q_format)
    return p_codes * q_codes, form


def _operands(
    p: ArrayLike, p_format: QFormat, q: ArrayLike, q_format: QFormat
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    _check_format(p_format, "p_format")
    _check_format(q_format, "q_format")
    p_codes, q_codes = _codes(p, p_format, "p"), _codes(q, q_format, "q")
    try:
        np.broadcast_shapes(p_codes.shape, q_codes.shape)
    except ValueError as error:
        raise ValueError(
            f"p, q: need shapes that broadcast, got {p_codes.shape} and {q_codes.shape}"
        ) from error
    return p_codes, q_codes


def _check_format(form: object, name: str) -> None:
    if not isinstance(form, QFormat):
        raise ValueError(f"{name}: need a QFormat, got {form!r}")


def _codes(q: ArrayLike, form: QFormat, name: str) -> NDArray[np.int64]:
    return as_integers(q, form.min_code, form.max_code, name).astype(np.int64)


def _smallest_format(low: int, high: int, fraction_bits: int) -> QFormat:
    """The smallest format with ``fraction_bits`` whose codes reach from ``low`` to ``high``."""
    magnitude_bits = max(high.bit_length(), (-low - 1).bit_length() if low < 0 else 0)
    bits = max(magnitude_bits, fraction_bits) + (low < 0)
    if bits > 53:
        raise ValueError(
            f"formats: the exact result takes {bits} bits, need at most 53"
        )
    return QFormat(
        max(magnitude_bits - fraction_bits, 0), fraction_bits, signed=low < 0
    )


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
    return np.copysign(_round_half_up(np.abs(v)), v)


def _round_half_up(v: NDArray[np.float64]) -> NDArray[np.float64]:
    below = np.floor(v)
    with np.errstate(invalid="ignore"):  # infinity has no fractional part, and stays
        return below + (v - below >= 0.5)
