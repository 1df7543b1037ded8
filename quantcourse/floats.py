"""Binary floating-point formats of any width up to FP64.

A format is three counts (exponent bits, fraction bits, bias) and a rule for the codes with the largest
exponent.  Everything else follows from two facts: a stored number is an integer multiple of its ulp, and
its code counts upward from zero.  Explained in the chapter *Floating point*.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from quantcourse._checks import as_float64, as_integers, is_count, one_of, refuse

__all__ = [
    "BF16",
    "FP4_E2M1",
    "FP8_E4M3",
    "FP8_E5M2",
    "FP16",
    "FP24",
    "FP32",
    "FP64",
    "TF32",
    "FloatFormat",
    "formats",
]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Codes = NDArray[np.unsignedinteger[Any]]
Specials = Literal["ieee", "fn", "finite"]
Mode = Literal["even", "zero", "stochastic"]


@dataclass(frozen=True)
class FloatFormat:
    """A binary float with a sign bit, a biased exponent and a fraction.  Two formats are equal if all fields are.

    Args:
        name: what to call it in tables and errors.
        exponent_bits: 1 to 11.
        fraction_bits: 0 to 52, so one less than the significant bits.
        bias: what is added to the exponent before storing; ``None`` means ``2**(exponent_bits - 1) - 1``.
        specials: what the codes with the largest stored exponent stand for: ``"ieee"`` keeps that exponent for
            infinity and NaN; ``"fn"`` (finite, with NaN) has no infinity, and keeps the last code of each sign
            for NaN; ``"finite"`` has numbers only.

    Every format has a sign and a zero, so a bare exponent such as the MX scale E8M0 is none.

    Raises:
        ValueError: if a field is of the wrong type or out of its range, if no positive number is left, or if
            exponents leave those of float64's normal numbers, -1022 to 1023.

    Source: IEEE 754-2019, section 3.4; for ``"fn"`` OCP 8-bit Floating Point Specification 1.0, section 5; for
    ``"finite"`` OCP Microscaling Formats Specification 1.0, section 5.3.  Chapter: *Floating point*.

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
        if not isinstance(self.name, str):
            raise ValueError(f"name: need a string, got {self.name!r}")
        if not all(is_count(w) for w in widths) or not (
            1 <= widths[0] <= 11 and widths[1] <= 52
        ):
            raise ValueError(
                f"exponent_bits, fraction_bits: need Python integers in 1..11 and 0..52, got {widths}"
            )
        one_of(self.specials, ("ieee", "fn", "finite"), "specials")
        if self.specials == "ieee" and (
            self.exponent_bits < 2 or self.fraction_bits < 1
        ):
            raise ValueError(
                f"specials='ieee': needs 2 exponent bits and 1 fraction bit or more, got {widths}"
            )
        if self.specials == "fn" and self.exponent_bits + self.fraction_bits < 2:
            raise ValueError(
                f"specials='fn': with widths {widths} no positive number is left beside NaN"
            )
        if self.bias is None:
            object.__setattr__(self, "bias", 2 ** (self.exponent_bits - 1) - 1)
        if not isinstance(self.bias, int) or isinstance(self.bias, bool):
            raise ValueError(f"bias: need a Python integer, got {self.bias!r}")
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
        """Smallest positive number; it equals ``smallest_normal`` when there are no fraction bits.

        Raises:
            ValueError: if it is a subnormal float64, and this thread flushes those to zero.
        """
        smallest = 2.0 ** (self._lowest_exponent - self.fraction_bits)
        if smallest == 0:
            raise ValueError(
                f"{self.name}: needs subnormal float64 numbers, and this thread flushes them"
                " to zero; switch that off, with torch.set_flush_denormal(False)"
            )
        return smallest

    @cached_property
    def max(self) -> float:
        """Largest finite number."""
        return float(self.decode(self._max_code))

    def ulp(self, x: ArrayLike) -> Floats:
        """Unit in the last place: the gap between neighbours of this format in the binade of ``x``.

        Args:
            x: real values, any shape.  Below ``smallest_normal`` the gap is ``smallest_subnormal``, beyond
                ``max`` it is that of ``max``.

        Returns:
            Powers of two, same shape; NaN where ``x`` is NaN or infinite.

        Raises:
            ValueError: if ``x`` is not numeric, or holds a number that float64 cannot.

        Source: Muller et al., Handbook of Floating-Point Arithmetic, section 2.3.2.  Chapter: *Floating point*.

        >>> FP16.ulp([1.0, 2048.0, 0.0])
        array([9.76562500e-04, 2.00000000e+00, 5.96046448e-08])
        """
        x = as_float64(x, "x")
        return np.where(np.isfinite(x), self._ulp(x.ravel()).reshape(x.shape), np.nan)[
            ()
        ]

    def round(
        self,
        x: ArrayLike,
        saturate: bool = False,
        mode: Mode = "even",
        rng: np.random.Generator | int | None = None,
    ) -> Floats:
        """Numbers of this format next to ``x``, as float64: ``rint(x / ulp(x)) * ulp(x)``.

        Args:
            x: real values, infinities and NaN, any shape (truth values count as 0 and 1).
            saturate: what is too large becomes the largest finite number, infinity included; NaN stays NaN.
                Without it such values become infinity (``"ieee"``) or NaN (``"fn"``); ``"finite"`` always
                saturates.
            mode: ``"even"``: to nearest, ties to the even significand (so without fraction bits, where all
                significands are 1, away from zero); ``"zero"``: toward zero, so finite values
                never overflow; ``"stochastic"``: up or down with probabilities that keep the mean of values
                up to ``max``.
            rng: generator or seed of the stochastic mode; other modes do not use it.

        Returns:
            float64, same shape; the sign of zero is kept.

        Raises:
            ValueError: for NaN in a ``"finite"`` format, if ``x`` is not numeric or holds a number that float64
                cannot, or for a ``saturate``, ``mode`` or ``rng`` other than those above.

        Source: IEEE 754-2019, section 4.3.  Chapter: *Floating point*.

        >>> FP16.round([2049, 2051, 70000])
        array([2048., 2052.,   inf])
        >>> FP8_E4M3.round([460, 470]), FP8_E4M3.round(470, saturate=True)
        (array([448.,  nan]), np.float64(448.0))
        """
        one_of(mode, ("even", "zero", "stochastic"), "mode")
        generator = _generator(rng) if mode == "stochastic" else None
        x = self._checked(x, saturate)
        y = np.empty(x.shape)
        _in_blocks(lambda y, x: self._round_into(y, x, saturate, mode, generator), y, x)
        return y[()]

    def encode(self, x: ArrayLike, saturate: bool = False) -> Codes:
        """Codes of ``x`` rounded to nearest, ties to even: sign, exponent and fraction as one integer.

        For another rounding mode, encode what :meth:`round` gives.

        Args:
            x: real values, infinities and NaN, any shape.  A NaN keeps its sign and, in ``"ieee"``, the
                leading bits of its payload.
            saturate: as in :meth:`round`.

        Returns:
            The smallest of uint8, uint16, uint32, uint64 that holds ``bits`` bits, same shape.

        Raises:
            ValueError: as :meth:`round`.

        Source: IEEE 754-2019, section 3.4.  Chapter: *Floating point*.

        >>> [f"{code:016b}" for code in FP16.encode([1.0, -2.0, 2.0**-24])]
        ['0011110000000000', '1100000000000000', '0000000000000001']
        """
        x = self._checked(x, saturate)
        codes = np.empty(x.shape, np.min_scalar_type(2**self.bits - 1))
        _in_blocks(lambda codes, x: self._encode_into(codes, x, saturate), codes, x)
        return codes[()]

    def decode(self, codes: ArrayLike) -> Floats:
        """Values of ``codes``: ``(-1)**sign * significand * 2**(exponent - fraction_bits)``.

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
        codes = as_integers(codes, 0, 2**self.bits - 1, "codes")
        values = np.empty(codes.shape)
        _in_blocks(self._decode_into, values, codes)
        return values[()]

    def fields(self, x: ArrayLike) -> tuple[Integers, Integers, Integers]:
        """The three integers stored for ``x``: sign, exponent (with the bias in it) and fraction.

        Args:
            x: as in :meth:`encode`.

        Returns:
            ``(sign, exponent, fraction)``, int64, each of the shape of ``x``.

        Raises:
            ValueError: as :meth:`round`.

        Source: IEEE 754-2019, section 3.4.  Chapter: *Floating point*.

        >>> [int(field) for field in FP32.fields(-6.5)]  # -1.625 * 2**(129 - 127), 0.625 * 2**23 = 5242880
        [1, 129, 5242880]
        """
        return self._split(self.encode(x))

    def neighbours(self, x: float, count: int = 1) -> Floats:
        """The number nearest to ``x`` with ``count`` numbers of this format on either side, ascending.

        Args:
            x: one real value that rounds to a finite one.
            count: how many on each side, 1,000,000 at most; fewer come back where the format ends.

        Returns:
            float64, at most ``2 * count + 1`` values; zero counts once.

        Raises:
            ValueError: if ``x`` is no single number or rounds to no finite one, or ``count`` is no integer in
                0 to 1,000,000.

        Source: IEEE 754-2019, section 5.3.1 (nextUp and nextDown).  Chapter: *Floating point*.

        >>> FP16.neighbours(2048, count=2)
        array([2046., 2047., 2048., 2050., 2052.])
        """
        centre = self.round(x)
        if centre.ndim or not np.isfinite(centre):
            got = f"shape {centre.shape}" if centre.ndim else repr(x)
            raise ValueError(
                f"x: need one number that is finite in {self.name}, got {got}"
            )
        if not is_count(count) or count > 1_000_000:
            raise ValueError(
                f"count: need a Python integer in 0..1000000, got {count!r}"
            )
        # Counted from zero: the code of the magnitude.
        position = int(self.encode(np.abs(centre))) * (-1 if centre < 0 else 1)
        first, last = (
            max(position - count, -self._max_code),
            min(position + count, self._max_code),
        )
        positions = np.arange(first, last + 1, dtype=np.int64)
        return np.copysign(self.decode(np.abs(positions)), positions)

    # Below: pieces of the equations above.

    @property
    def _lowest_exponent(self) -> int:
        return 1 - self.bias

    @property
    def _highest_exponent(self) -> int:
        return (self._max_code >> self.fraction_bits) - self.bias

    @property
    def _max_code(self) -> int:
        special_codes = {"ieee": 1 << self.fraction_bits, "fn": 1, "finite": 0}[
            self.specials
        ]
        return (1 << self.exponent_bits + self.fraction_bits) - special_codes - 1

    def _checked(self, x: ArrayLike, saturate: object) -> Floats:
        if not isinstance(saturate, bool | np.bool_):
            raise ValueError(f"saturate: need True or False, got {saturate!r}")
        values = as_float64(x, "x")
        if self.specials == "finite":
            refuse(np.isnan(values), f"NaN, and {self.name} has no code for NaN", "x")
        return values

    def _ulp(self, x: Floats) -> Floats:
        """The ulp without a check; that of ``max`` where ``x`` is NaN or infinite."""
        # 2**floor(log2 |x|): the exponent field of the float64, with the rest cleared
        binade = np.bitwise_and(x.view(np.int64), _FP64_EXPONENT_MASK).view(np.float64)
        binade *= self.epsilon
        largest = 2.0 ** (self._highest_exponent - self.fraction_bits)
        return np.clip(binade, self.smallest_subnormal, largest, out=binade)

    def _round_into(
        self,
        y: Floats,
        x: Floats,
        saturate: bool,
        mode: Mode,
        rng: np.random.Generator | None,
    ) -> None:
        """Write ``x`` rounded to multiples of its ulp into ``y``."""
        ulp = self._ulp(x)
        # Beyond max the quotient may leave float64, and is infinite either way.
        with np.errstate(over="ignore", under="ignore", invalid="ignore"):
            np.divide(x, ulp, out=y)
            if mode == "even":
                np.rint(y, out=y)
            elif mode == "zero":
                np.trunc(y, out=y)
            elif rng is not None:
                _round_stochastically(y, rng)
            y *= ulp
        # True also when there is a NaN.
        if not -self.max <= y.min() <= y.max() <= self.max:
            self._overflow(y, x, saturate, mode)

    def _overflow(self, y: Floats, x: Floats, saturate: bool, mode: Mode) -> None:
        """Replace what lies beyond ``max`` in ``y``, which was rounded from ``x``, by what the format says."""
        if saturate or self.specials == "finite":
            instead = np.full(x.shape, self.max)
        else:
            infinite = np.inf if self.specials == "ieee" else np.nan
            instead = np.where((mode == "zero") & np.isfinite(x), self.max, infinite)
        np.copyto(y, np.copysign(instead, x), where=np.abs(y) > self.max)

    def _encode_into(self, codes: Codes, x: Floats, saturate: bool) -> None:
        """Write the codes of ``x`` into ``codes``."""
        y = np.empty(x.shape)
        self._round_into(y, x, saturate, "even", None)
        special = ~np.isfinite(y)
        magnitude = np.where(special, 0, np.abs(y))
        # The code counts the numbers below: magnitude / gap of them, and
        # 2**fraction_bits more for each doubling of the gap.
        gap = self._ulp(magnitude)
        doublings = np.frexp(gap)[1] - np.frexp(self.smallest_subnormal)[1]
        code = (magnitude / gap).astype(np.int64)
        code += doublings.astype(np.int64) << self.fraction_bits
        if special.any():
            code[special] = self._special_codes(x[special])
        codes[:] = code | np.signbit(x).astype(np.int64) << self.bits - 1

    def _decode_into(self, values: Floats, codes: NDArray[np.integer]) -> None:
        """Write the values of ``codes`` into ``values``."""
        sign, stored, fraction = self._split(codes)
        significand = fraction + np.where(stored > 0, 1 << self.fraction_bits, 0)
        exponent = np.maximum(stored, 1) - self.bias - self.fraction_bits
        exponent = exponent.astype(np.intc)  # what ldexp takes on every platform
        with np.errstate(over="ignore"):  # the special codes of FP64, replaced below
            np.ldexp(significand.astype(np.float64), exponent, out=values)
        values[sign == 1] *= -1
        special = (stored << self.fraction_bits) + fraction > self._max_code
        values[special] = self._special_values(sign[special], fraction[special])

    def _split(self, codes: NDArray[np.integer]) -> tuple[Integers, Integers, Integers]:
        """Sign, stored exponent and fraction of valid codes."""
        bits = codes.astype(np.uint64).view(np.int64)
        sign = bits >> self.bits - 1 & 1
        stored = bits >> self.fraction_bits & (1 << self.exponent_bits) - 1
        fraction = bits & (1 << self.fraction_bits) - 1
        return sign, stored, fraction

    def _special_codes(self, x: Floats) -> Integers:
        """Magnitude codes of values that are infinite or NaN in this format."""
        if self.specials == "fn":
            return np.full(x.shape, self._max_code + 1)
        infinity = self._max_code + 1
        payload = (x.view(np.int64) & (1 << 52) - 1) >> 52 - self.fraction_bits
        # A NaN whose payload is cut away must not become infinity.
        quiet = 1 << self.fraction_bits - 1
        return np.where(
            np.isnan(x), infinity + np.where(payload == 0, quiet, payload), infinity
        )

    def _special_values(self, sign: Integers, fraction: Integers) -> Floats:
        """Infinity for fraction 0 in an ``"ieee"`` format, else a NaN with the fraction as payload."""
        payload = fraction << 52 - self.fraction_bits
        if self.specials == "fn":
            payload |= 1 << 51  # quiet: without fraction bits it would be infinity
        return (sign << 63 | _FP64_EXPONENT_MASK | payload).view(np.float64)


_FP64_EXPONENT_MASK = np.int64(0x7FF << 52)
# Values computed at a time: few enough for the cache, which halves the time.
_BLOCK = 2**14


def _in_blocks(
    function: Callable[..., None], out: NDArray[Any], x: NDArray[Any]
) -> None:
    """Call ``function(out, x)`` for one block of both after the other."""
    flat_out, flat_x = out.reshape(-1), x.reshape(-1)
    for start in range(0, x.size, _BLOCK):
        block = slice(start, start + _BLOCK)
        function(flat_out[block], flat_x[block])


def _generator(rng: np.random.Generator | int | None) -> np.random.Generator:
    if not (rng is None or is_count(rng) or isinstance(rng, np.random.Generator)):
        raise ValueError(
            f"rng: need a NumPy Generator, a seed >= 0 or None, got {rng!r}"
        )
    return np.random.default_rng(rng)


def _round_stochastically(y: Floats, rng: np.random.Generator) -> None:
    """Round ``y`` in place, up with probability equal to its fractional part, else down; signs of zero are kept."""
    below = np.floor(y)
    with np.errstate(invalid="ignore"):  # infinity has no fractional part
        up = rng.random(y.shape) < y - below
    np.copysign(below + up, y, out=y)


#: Double precision, 1-11-52 (IEEE 754-2019 binary64).
FP64 = FloatFormat("FP64", 11, 52)
#: Single precision, 1-8-23 (IEEE 754-2019 binary32).
FP32 = FloatFormat("FP32", 8, 23)
#: 1-7-16, the arithmetic of graphics chips around 2003 (GPU Gems 2, chapter 32); here with subnormals.
FP24 = FloatFormat("FP24", 7, 16)
#: 1-8-10, what some multipliers keep of an FP32 input (NVIDIA A100 white paper).
TF32 = FloatFormat("TF32", 8, 10)
#: Half precision, 1-5-10 (IEEE 754-2019 binary16).
FP16 = FloatFormat("FP16", 5, 10)
#: bfloat16, 1-8-7: the upper half of FP32 (Kalamkar et al. 2019).
BF16 = FloatFormat("BF16", 8, 7)
#: 1-4-3 without infinity (OCP 8-bit Floating Point Specification 1.0).
FP8_E4M3 = FloatFormat("FP8 E4M3", 4, 3, specials="fn")
#: 1-5-2 (OCP 8-bit Floating Point Specification 1.0).
FP8_E5M2 = FloatFormat("FP8 E5M2", 5, 2)
#: 1-2-1, numbers only (OCP Microscaling Formats Specification 1.0).
FP4_E2M1 = FloatFormat("FP4 E2M1", 2, 1, specials="finite")


def formats() -> tuple[FloatFormat, ...]:
    """The formats of the course, widest first.  Chapter: *Floating point*.

    >>> [form.bits for form in formats()]
    [64, 32, 24, 19, 16, 16, 8, 8, 4]
    """
    return FP64, FP32, FP24, TF32, FP16, BF16, FP8_E4M3, FP8_E5M2, FP4_E2M1
