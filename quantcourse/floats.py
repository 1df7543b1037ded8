"""Binary floating-point formats of any width up to FP64.

A format is three counts (exponent bits, fraction bits, bias) and a rule for the codes with the largest
exponent.  Everything else follows from two facts: a stored number is an integer multiple of its ulp, and
its code counts upward from zero.  Explained in the chapter *Floating point*.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantcourse._checks import as_float64, as_integers, is_count

Specials = Literal["ieee", "fn", "finite"]
Mode = Literal["even", "zero", "stochastic"]


@dataclass(frozen=True)
class FloatFormat:
    """A binary float: one sign bit, ``exponent_bits``, ``fraction_bits``.

    ``specials`` says what the codes with the largest stored exponent stand for: ``"ieee"`` keeps that
    exponent for infinity and NaN, ``"fn"`` (finite, with NaN) gives up infinity and keeps only the last
    code for NaN, ``"finite"`` has numbers only.  ``bias=None`` means ``2**(exponent_bits - 1) - 1``.

    Raises:
        ValueError: if the widths, the bias or ``specials`` describe no format whose values are all float64.

    Source: IEEE 754-2019, section 3.4; for ``"fn"`` OCP 8-bit Floating Point Specification 1.0, section 5.
    Chapter: *Floating point*.

    >>> FP16.max, FP16.smallest_normal, FP16.smallest_subnormal
    (65504.0, 6.103515625e-05, 5.960464477539063e-08)
    >>> FloatFormat("E3M4", exponent_bits=3, fraction_bits=4).max
    15.5
    """

    name: str
    exponent_bits: int
    fraction_bits: int
    bias: int = None  # type: ignore[assignment]  # replaced in __post_init__, an int from then on
    specials: Specials = "ieee"

    def __post_init__(self) -> None:
        widths = (self.exponent_bits, self.fraction_bits)
        if not all(is_count(w) for w in widths) or not (1 <= widths[0] <= 11 and widths[1] <= 52):
            raise ValueError(f"exponent_bits, fraction_bits: need Python integers in 1..11 and 0..52, got {widths}")
        if self.specials not in ("ieee", "fn", "finite"):
            raise ValueError(f"specials: need 'ieee', 'fn' or 'finite', got {self.specials!r}")
        if self.specials == "ieee" and (self.exponent_bits < 2 or self.fraction_bits < 1):
            raise ValueError(f"specials='ieee': needs 2 exponent bits and 1 fraction bit or more, got {widths}")
        if self.specials == "fn" and self.exponent_bits + self.fraction_bits < 2:
            raise ValueError(f"specials='fn': with widths {widths} no positive number is left beside NaN")
        if self.bias is None:
            object.__setattr__(self, "bias", 2 ** (self.exponent_bits - 1) - 1)
        if not isinstance(self.bias, int):
            raise ValueError(f"bias: need an integer, got {self.bias!r}")
        if self._lowest_exponent < -1022 or self._highest_exponent > 1023:
            raise ValueError(
                f"bias={self.bias}: exponents run from {self._lowest_exponent} to {self._highest_exponent}, "
                "need -1022..1023 (those of float64, which must hold every value)"
            )

    @property
    def bits(self) -> int:
        """Width of a code."""
        return 1 + self.exponent_bits + self.fraction_bits

    @property
    def epsilon(self) -> float:
        """Gap between 1 and the next larger number when 1 is normal: ``2**-fraction_bits``."""
        return 2.0**-self.fraction_bits

    @property
    def smallest_normal(self) -> float:
        """Smallest positive number with a leading 1: ``2**(1 - bias)``."""
        return 2.0**self._lowest_exponent

    @property
    def smallest_subnormal(self) -> float:
        """Smallest positive number; it equals ``smallest_normal`` when there are no fraction bits."""
        return 2.0 ** (self._lowest_exponent - self.fraction_bits)

    @cached_property
    def max(self) -> float:
        """Largest finite number."""
        return float(self.decode(self._max_code))

    def ulp(self, x: ArrayLike) -> NDArray[np.float64]:
        """Unit in the last place: the gap between neighbours of this format in the binade of ``x``.

        Args:
            x: real values, any shape.  Below ``smallest_normal`` the gap is ``smallest_subnormal``, beyond
                ``max`` it is that of ``max``.

        Returns:
            Powers of two, same shape; NaN where ``x`` is NaN or infinite.

        Raises:
            ValueError: if ``x`` is not numeric, or holds an integer that float64 cannot.

        Chapter: *Floating point*, equation for the ulp.

        >>> FP16.ulp([1.0, 2048.0, 0.0])
        array([9.76562500e-04, 2.00000000e+00, 5.96046448e-08])
        """
        x = as_float64(x)
        return np.where(np.isfinite(x), self._ulp(x.ravel()).reshape(x.shape), np.nan)[()]

    def round(
        self,
        x: ArrayLike,
        saturate: bool = False,
        mode: Mode = "even",
        rng: np.random.Generator | int | None = None,
    ) -> NDArray[np.float64]:
        """Numbers of this format next to ``x``, as float64: ``rint(x / ulp(x)) * ulp(x)``.

        Args:
            x: real values, infinities and NaN, any shape.
            saturate: what is too large becomes the largest finite number, infinity included.  Without it
                such values become infinity (``"ieee"``) or NaN (``"fn"``); ``"finite"`` always saturates.
            mode: ``"even"``: to nearest, ties to the even significand (so without fraction bits, where all
                significands are 1, away from zero); ``"zero"``: toward zero, so finite values
                never overflow; ``"stochastic"``: up or down with probabilities that keep the mean.
            rng: generator or seed of the stochastic mode; other modes do not use it.

        Returns:
            float64, same shape; the sign of zero is kept.

        Raises:
            ValueError: for an unknown ``mode``, for NaN in a ``"finite"`` format, if ``x`` is not numeric,
                for an ``rng`` that is no generator or seed, or if ``x`` holds an integer that float64 cannot.

        Source: IEEE 754-2019, section 4.3.  Chapter: *Floating point*.

        >>> FP16.round([2049, 2051, 70000])
        array([2048., 2052.,   inf])
        >>> FP8_E4M3.round([460, 470]), FP8_E4M3.round(470, saturate=True)
        (array([448.,  nan]), np.float64(448.0))
        """
        x = as_float64(x)
        if mode not in ("even", "zero", "stochastic"):
            raise ValueError(f"mode: need 'even', 'zero' or 'stochastic', got {mode!r}")
        rng = _generator(rng if mode == "stochastic" else 0)
        y = np.empty(x.shape)
        flat_x, flat_y = x.reshape(-1), y.reshape(-1)
        for start in range(0, x.size, _BLOCK):
            block = slice(start, start + _BLOCK)
            self._round_into(flat_y[block], flat_x[block], mode, rng)
        if y.size and not -self.max <= y.min() <= y.max() <= self.max:  # so also when there is a NaN
            y = self._overflow(x, y, saturate, mode)
        return y[()]

    def encode(self, x: ArrayLike, saturate: bool = False) -> NDArray[np.unsignedinteger[Any]]:
        """Codes of ``x`` rounded to nearest, ties to even: sign, exponent and fraction as one integer.

        Args:
            x: real values, infinities and NaN, any shape.  A NaN keeps its sign and, in ``"ieee"``, the
                leading bits of its payload.
            saturate: as in :meth:`round`.

        Returns:
            The smallest of uint8, uint16, uint32, uint64 that holds ``bits`` bits, same shape.

        Raises:
            ValueError: as :meth:`round`.

        Chapter: *Floating point*.

        >>> [f"{code:016b}" for code in FP16.encode([1.0, -2.0, 2.0**-24])]
        ['0011110000000000', '1100000000000000', '0000000000000001']
        """
        x = as_float64(x)
        shape, x = x.shape, x.ravel()
        y = np.abs(self.round(x, saturate))
        finite = np.isfinite(y)
        y[~finite] = 0
        # A magnitude code counts the numbers below it: y / gap, and 2**fraction_bits more for each doubling of the gap.
        gap = self._ulp(y)
        doublings = np.frexp(gap)[1] - np.frexp(self.smallest_subnormal)[1]
        code = (doublings.astype(np.uint64) << np.uint64(self.fraction_bits)) + (y / gap).astype(np.uint64)
        if not finite.all():
            code[~finite] = self._special_codes(x[~finite])
        code |= np.signbit(x).astype(np.uint64) << np.uint64(self.bits - 1)
        codes: NDArray[np.unsignedinteger[Any]] = code.astype(self._code_type).reshape(shape)[()]
        return codes

    def decode(self, codes: ArrayLike) -> NDArray[np.float64]:
        """Values of ``codes``: ``(-1)**s * significand * 2**(exponent - fraction_bits)``.

        Args:
            codes: integers in ``0 .. 2**bits - 1``, any shape.

        Returns:
            float64, same shape, exact; NaN keeps its sign and payload.

        Raises:
            ValueError: if ``codes`` are no integers or out of range.

        Source: IEEE 754-2019, section 3.4.  Chapter: *Floating point*.

        >>> FP8_E4M3.decode([0x00, 0x01, 0x38, 0x7E, 0xFF])
        array([0.000000e+00, 1.953125e-03, 1.000000e+00, 4.480000e+02,
                        nan])
        """
        sign, stored, fraction = self._split(codes)
        leading_one = (stored > 0).astype(np.int64)
        significand = fraction + (leading_one << self.fraction_bits)
        exponent = (np.maximum(stored, 1) - self.bias - self.fraction_bits).astype(np.intc)  # int64 fails on Windows
        with np.errstate(over="ignore"):  # the special codes of FP64, replaced below
            value = np.asarray(np.ldexp(significand.astype(np.float64), exponent))
        value[sign == 1] *= -1
        beyond = ((stored << self.fraction_bits) + fraction) > self._max_code
        if beyond.any():
            value[beyond] = self._special_values(sign[beyond], fraction[beyond])
        return value[()]

    def fields(self, x: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """The three integers stored for ``x``: sign, exponent (with the bias in it) and fraction.

        Args:
            x: as in :meth:`encode`.

        Returns:
            ``(sign, exponent, fraction)``, int64, each of the shape of ``x``.

        Raises:
            ValueError: as :meth:`round`.

        Chapter: *Floating point*.

        >>> [int(field) for field in FP32.fields(-6.5)]  # -1.625 * 2**(129 - 127), 0.625 * 2**23 = 5242880
        [1, 129, 5242880]
        """
        sign, exponent, fraction = self._split(self.encode(x))
        return sign[()], exponent[()], fraction[()]

    def neighbours(self, x: float, count: int = 1) -> NDArray[np.float64]:
        """The number nearest to ``x`` with ``count`` numbers of this format on either side, ascending.

        Args:
            x: one real value that rounds to a finite one.
            count: how many on each side; fewer come back where the format ends.

        Returns:
            float64, at most ``2 * count + 1`` values; zero counts once.

        Raises:
            ValueError: if ``x`` is no single number or rounds to no finite one, or ``count`` is no count.

        Chapter: *Floating point*.

        >>> FP16.neighbours(2048, count=2)
        array([2046., 2047., 2048., 2050., 2052.])
        """
        center = self.round(x)
        if center.ndim or not np.isfinite(center):
            raise ValueError(f"x: need one number that is finite in {self.name}, got {x!r}")
        if not is_count(count):
            raise ValueError(f"count: need a Python integer >= 0, got {count!r}")
        sign_bit = 2 ** (self.bits - 1)
        code = int(self.encode(center))
        index = code if code < sign_bit else -(code - sign_bit)  # negative zero becomes zero
        ends = max(index - count, -self._max_code), min(index + count, self._max_code)
        index_range = np.array(range(ends[0], ends[1] + 1), dtype=np.int64)
        return np.copysign(self.decode(np.abs(index_range)), index_range)

    # Below: pieces of the equations above.

    @property
    def _lowest_exponent(self) -> int:
        return 1 - self.bias

    @property
    def _highest_exponent(self) -> int:
        return (self._max_code >> self.fraction_bits) - self.bias

    @property
    def _max_code(self) -> int:
        special_codes = {"ieee": 1 << self.fraction_bits, "fn": 1, "finite": 0}[self.specials]
        return (1 << self.exponent_bits + self.fraction_bits) - special_codes - 1

    @property
    def _code_type(self) -> np.dtype[np.unsignedinteger[Any]]:
        smallest: np.dtype[np.unsignedinteger[Any]] = np.min_scalar_type(2**self.bits - 1)
        return smallest

    def _ulp(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """The ulp without a check; that of ``max`` where ``x`` is NaN or infinite."""
        binade = np.bitwise_and(x.view(np.int64), _FP64_EXPONENT_MASK).view(np.float64)  # 2**floor(log2 |x|)
        binade *= self.epsilon
        largest = 2.0 ** (self._highest_exponent - self.fraction_bits)
        return np.clip(binade, self.smallest_subnormal, largest, out=binade)

    def _round_into(self, y: NDArray[np.float64], x: NDArray[np.float64], mode: Mode, rng: np.random.Generator) -> None:
        """Write ``x`` rounded to multiples of its ulp into ``y``, as if there were no largest number."""
        ulp = self._ulp(x)
        # Beyond max the quotient may leave float64, and is infinite either way; a signalling NaN stays a NaN.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.divide(x, ulp, out=y)
            if mode == "even":
                np.rint(y, out=y)
            elif mode == "zero":
                np.trunc(y, out=y)
            else:
                _round_stochastically_into(y, rng)
            y *= ulp

    def _overflow(
        self, x: NDArray[np.float64], y: NDArray[np.float64], saturate: bool, mode: Mode
    ) -> NDArray[np.float64]:
        """Values ``y`` rounded from ``x`` with those beyond ``max`` replaced by what the format says."""
        if self.specials == "finite" and np.isnan(x).any():
            count = int(np.isnan(x).sum())
            raise ValueError(f"x: {count} of {x.size} values are NaN, and {self.name} has no code for NaN")
        if saturate or self.specials == "finite":
            return np.clip(y, -self.max, self.max)
        beyond = np.abs(y) > self.max
        toward_zero = beyond & np.isfinite(x) & (mode == "zero")
        y = np.where(beyond, np.copysign(np.inf if self.specials == "ieee" else np.nan, x), y)
        return np.where(toward_zero, np.copysign(self.max, x), y)

    def _split(self, codes: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        codes = as_integers(codes, 0, 2**self.bits - 1, "codes").astype(np.uint64)
        sign = codes >> np.uint64(self.bits - 1)
        stored = (codes >> np.uint64(self.fraction_bits)) & np.uint64(2**self.exponent_bits - 1)
        fraction = codes & np.uint64(2**self.fraction_bits - 1)
        return sign.astype(np.int64), stored.astype(np.int64), fraction.astype(np.int64)

    def _special_codes(self, x: NDArray[np.float64]) -> NDArray[np.uint64]:
        """Magnitude codes of values that are infinite or NaN in this format."""
        if self.specials == "fn":
            return np.full(x.shape, 2 ** (self.bits - 1) - 1, dtype=np.uint64)
        infinity = np.uint64(self._max_code + 1)
        payload = (x.view(np.uint64) & np.uint64(2**52 - 1)) >> np.uint64(52 - self.fraction_bits)
        quiet = np.uint64(2 ** (self.fraction_bits - 1))  # a NaN whose payload is cut away must not become infinity
        return np.where(np.isnan(x), infinity + np.where(payload == 0, quiet, payload), infinity)

    def _special_values(self, sign: NDArray[np.int64], fraction: NDArray[np.int64]) -> NDArray[np.float64]:
        """Infinity for fraction 0 in an ``"ieee"`` format, else a NaN with the fraction as payload."""
        payload = fraction << (52 - self.fraction_bits)
        if self.specials == "fn":
            payload |= 1 << 51  # quiet: without fraction bits it would be infinity
        return (sign << 63 | _FP64_EXPONENT_MASK | payload).view(np.float64)


_FP64_EXPONENT_MASK = np.int64(0x7FF << 52)
_BLOCK = 2**14  # values rounded at a time: small enough for the cache, which halves the time


def _generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    try:
        return np.random.default_rng(rng)
    except (TypeError, ValueError) as error:
        raise ValueError(f"rng: need a generator, a seed >= 0 or None, got {rng!r}") from error


def _round_stochastically_into(y: NDArray[np.float64], rng: np.random.Generator) -> None:
    """Round ``y`` up with probability equal to its fractional part, else down; signs of zero are kept."""
    below = np.floor(y)
    with np.errstate(invalid="ignore"):  # infinity has no fractional part
        up = rng.random(y.shape) < y - below
    np.copysign(below + up, y, out=y)


FP64 = FloatFormat("FP64", 11, 52)
FP32 = FloatFormat("FP32", 8, 23)
TF32 = FloatFormat("TF32", 8, 10)
BF16 = FloatFormat("BF16", 8, 7)
FP24 = FloatFormat("FP24", 7, 16)
FP16 = FloatFormat("FP16", 5, 10)
FP8_E4M3 = FloatFormat("FP8 E4M3", 4, 3, specials="fn")
FP8_E5M2 = FloatFormat("FP8 E5M2", 5, 2)
FP4_E2M1 = FloatFormat("FP4 E2M1", 2, 1, specials="finite")


def formats() -> tuple[FloatFormat, ...]:
    """The formats of the course, widest first.

    >>> [f.bits for f in formats()]
    [64, 32, 19, 16, 24, 16, 8, 8, 4]
    """
    return FP64, FP32, TF32, BF16, FP24, FP16, FP8_E4M3, FP8_E5M2, FP4_E2M1
