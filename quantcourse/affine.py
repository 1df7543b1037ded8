"""Affine and scale mapping: real numbers on an even grid of integers.

A code ``q`` stands for ``scale * (q - zero_point)``: the scale is the size of a step,
the zero point the code of zero.  With zero point 0 the mapping is a plain scale.
One pair serves a tensor, or each channel, row or group has its own.  Explained in the
chapter *Affine and scale*.
"""

import math
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral, Real
from typing import Literal, get_args

import torch
from torch import Tensor

from quantcourse._checks import integer, one_of, shown
from quantcourse._tensor_checks import dense, finite_floats

__all__ = [
    "INT2",
    "INT2_NARROW",
    "INT3",
    "INT3_NARROW",
    "INT4",
    "INT4_NARROW",
    "INT8",
    "INT8_NARROW",
    "INT16",
    "UINT1",
    "UINT2",
    "UINT3",
    "UINT4",
    "UINT8",
    "UINT16",
    "IntType",
    "QParams",
    "choose_qparams",
    "dequantize",
    "fake_quantize",
    "quantize",
    "unclipped_codes",
]

Rounding = Literal["even", "half_away", "half_up", "stochastic"]

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
LARGEST = torch.finfo(torch.float32).max
INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)


@dataclass(frozen=True, repr=False)
class IntType:
    """The integers of ``bits`` bits, as a quantized tensor may use them.

    Args:
        bits: 1 to 16.
        signed: two's complement, from ``-2**(bits - 1)``; otherwise from 0.
        narrow: without the smallest code, so that a signed type is symmetric.

    Raises:
        ValueError: if ``bits`` is no integer from 1 to 16, if ``signed`` or ``narrow``
            is no truth value, or if one bit is narrow, which leaves a single code.

    Source: TensorFlow's ``fake_quant_with_min_max_vars`` calls it ``narrow_range``.
    Chapter: *Affine and scale*.

    >>> INT4.min, INT4.max, UINT4.min, UINT4.max
    (-8, 7, 0, 15)
    >>> IntType(8, signed=True, narrow=True).min
    -127
    """

    bits: int
    signed: bool
    narrow: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "bits", integer(self.bits, 1, 16, "bits"))
        for name in ("signed", "narrow"):
            if not isinstance(value := getattr(self, name), bool):
                raise ValueError(f"{name}: need True or False, got {value!r}")
        if self.narrow and self.bits == 1:
            raise ValueError("narrow: need at least 2 bits, one bit has only two codes")

    @property
    def min(self) -> int:
        """Smallest code."""
        return (-(1 << self.bits - 1) if self.signed else 0) + self.narrow

    @property
    def max(self) -> int:
        """Largest code: ``2**(bits - 1) - 1``, or ``2**bits - 1`` without a sign."""
        return (1 << self.bits - self.signed) - 1

    @property
    def storage(self) -> torch.dtype:
        """The smallest of int8, uint8, int16 and int32 that holds every code.

        >>> INT4.storage, UINT8.storage, UINT16.storage
        (torch.int8, torch.uint8, torch.int32)
        """
        if self.bits <= 8:
            return torch.int8 if self.signed else torch.uint8
        return torch.int16 if self.max < 1 << 15 else torch.int32

    def __repr__(self) -> str:
        name = f"{'' if self.signed else 'U'}INT{self.bits}"
        return name + "_NARROW" * self.narrow


INT2 = IntType(2, signed=True)
INT3 = IntType(3, signed=True)
INT4 = IntType(4, signed=True)
INT8 = IntType(8, signed=True)
INT16 = IntType(16, signed=True)
UINT1 = IntType(1, signed=False)
UINT2 = IntType(2, signed=False)
UINT3 = IntType(3, signed=False)
UINT4 = IntType(4, signed=False)
UINT8 = IntType(8, signed=False)
UINT16 = IntType(16, signed=False)
INT2_NARROW = IntType(2, signed=True, narrow=True)
INT3_NARROW = IntType(3, signed=True, narrow=True)
INT4_NARROW = IntType(4, signed=True, narrow=True)
INT8_NARROW = IntType(8, signed=True, narrow=True)


@dataclass(frozen=True, eq=False)
class QParams:
    """What codes stand for: ``real = scale * (q - zero_point)``.

    Args:
        scale: size of a step, float32, positive.  0-d for a whole tensor; 1-D for one
            scale an index of ``axis``; with ``group_size``, of the tensor's rank, its
            ``axis`` shorter by that factor.  A number serves for 0-d.
        zero_point: the code of zero, within ``dtype``, of the shape of ``scale``;
            kept as int32.  A number serves for 0-d.
        dtype: the integers that codes are taken from.
        axis: the axis along which scales differ; negative ones count from the end.
        group_size: consecutive elements along ``axis`` that share a scale, as in
            ONNX's blocked QuantizeLinear.  As long as the last axis, it gives a scale
            to every row of a tensor of any rank.

    Two are equal if all five are.  Tensors are copied, without a gradient; values written
    into the copies afterwards are not checked.

    Raises:
        ValueError: for a scale that is not float32, positive and finite, a zero point
            that is no integer or outside ``dtype``, shapes that do not fit each other,
            ``axis`` or ``group_size``.

    Source: Jacob et al., arXiv 1712.05877, equation 1.
    Chapter: *Affine and scale*; channels and groups in
    *Granularity: how many scales?*.

    >>> qp = QParams(0.5, 3, UINT8)
    >>> dequantize(torch.tensor([3, 4, 0], dtype=torch.uint8), qp)
    tensor([ 0.0000,  0.5000, -1.5000])
    """

    scale: Tensor
    zero_point: Tensor
    dtype: IntType
    axis: int | None = None
    group_size: int | None = None

    def __post_init__(self) -> None:
        _check_type(self.dtype)
        _check_grouping(self.axis, self.group_size)
        scale = _tensor(self.scale, torch.float32, "scale")
        zero_point = _tensor(self.zero_point, torch.int32, "zero_point")
        zero_point = dense(zero_point, "zero_point").to(scale.device)
        if scale.dtype != torch.float32:
            raise ValueError(f"scale: need float32, got {scale.dtype}")
        # A number such as 1e-50 or 1e50 has become zero or infinite on the way.
        given = self.scale
        if isinstance(given, Real) and given > 0 and not 0 < float(scale) < math.inf:
            raise ValueError(
                "scale: does not fit float32 as a positive finite number, "
                f"got {shown(given)}"
            )
        if not (finite_floats(scale, "scale") > 0).all():
            raise ValueError(
                f"scale: need positive values, got {float(scale.min())} among them"
            )
        _check_rank(scale, self.axis, self.group_size, "scale")
        if zero_point.shape != scale.shape:
            raise ValueError(
                f"zero_point: need the shape of scale, {tuple(scale.shape)}, "
                f"got {tuple(zero_point.shape)}"
            )
        zero_point = _codes(zero_point, self.dtype, "zero_point")
        zero_point = zero_point.to(torch.int32, copy=True)
        object.__setattr__(self, "scale", scale.detach().clone())
        object.__setattr__(self, "zero_point", zero_point)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QParams):
            return NotImplemented
        return (
            (self.dtype, self.axis, self.group_size)
            == (other.dtype, other.axis, other.group_size)
            and self.scale.device == other.scale.device
            and torch.equal(self.scale, other.scale)
            and torch.equal(self.zero_point, other.zero_point)
        )

    @cached_property
    def _may_pass_float32(self) -> bool:
        """Whether a code may stand for more than float32 holds, 2**16 steps at most."""
        return bool(self.scale.max() > LARGEST / 2**16)

    __hash__ = None  # type: ignore[assignment]  # tensors have no value to hash


def choose_qparams(
    low: Tensor | float,
    high: Tensor | float,
    dtype: IntType,
    symmetric: bool,
    axis: int | None = None,
    power_of_two: bool = False,
    group_size: int | None = None,
) -> QParams:
    """Scale and zero point that spread ``dtype`` over the range ``low .. high``.

    The range is widened to hold zero, which always gets a code of its own.  Affine:
    ``scale = (high - low) / (dtype.max - dtype.min)`` and ``zero_point =
    round(dtype.min - low / scale)``, ties to even, with the scale before it becomes a
    float32.  Symmetric: with ``T = max(|low|, |high|)``,
    ``scale = T / (dtype.max - zero_point)``, where the zero point is 0 if signed;
    unsigned, it is ``dtype.min`` if ``low >= 0`` and ``2**(bits - 1)`` otherwise.

    Then ``|x - fake_quantize(x)| <= scale / 2`` for every x in the range, but for
    float32's rounding of the quotient and of the result.

    Args:
        low: smallest value, a number or a tensor of the shape that the scale shall
            have: 0-d, 1-D with ``axis``, of the tensor's rank with ``group_size``.
        high: largest value, of the same shape.
        dtype: the integers to use.
        symmetric: whether the grid is centred on zero.  The full range INT8 then has
            a code, -128, that no value of the range gets.
        axis: the axis along which ranges differ.
        power_of_two: take the smallest power of two that is no smaller than the scale
            above, so that nothing in the range clips, and the zero point that goes
            with it.  Ristretto's weights (integer length ``ceil(log2 T) + 1``) have
            the same step, but half of it if T is in the last step below a power of
            two or equal to one: those saturate.  Its activations (integer length
            ``ceil(log2 T)``) have half the step of its weights.
        group_size: consecutive elements along ``axis`` that share a range.

    A range of zero width (all values zero) gives scale 1.  A step below the smallest
    normal float32 is raised to it, 2**-126: then the error is at most 2**-127.

    Raises:
        ValueError: for NaN, infinity, ``low > high``, no value, shapes that do not fit;
            for a symmetric type without a positive code (INT1, and UINT1 if
            ``low < 0``); if the step itself is beyond float32.

    Source: Jacob et al., arXiv 1712.05877, section 2.1; Gysel, Ristretto,
    arXiv 1605.06402.  Chapter: *Affine and scale*.

    >>> qp = choose_qparams(-1.0, 3.0, UINT4, symmetric=False)
    >>> round(float(qp.scale), 4), int(qp.zero_point)
    (0.2667, 4)
    >>> qp = choose_qparams(-1.0, 3.0, INT4, symmetric=True)
    >>> round(float(qp.scale), 4), int(qp.zero_point)
    (0.4286, 0)
    """
    _check_type(dtype)
    _check_grouping(axis, group_size)
    for name, flag in (("symmetric", symmetric), ("power_of_two", power_of_two)):
        if not isinstance(flag, bool):
            raise ValueError(f"{name}: need True or False, got {flag!r}")
    low, high = _range(low, high)
    _check_rank(low, axis, group_size, "low")
    scale, zero_point = spread(low, high, dtype, symmetric, power_of_two)
    return QParams(scale, zero_point, dtype, axis, group_size)


def spread(
    low: Tensor,
    high: Tensor,
    dtype: IntType,
    symmetric: bool,
    power_of_two: bool = False,
) -> tuple[Tensor, Tensor]:
    """What ``choose_qparams`` computes, of float64 that it has checked.

    Returns:
        Scales in float32 and zero points in int32, of the shape of ``low``.

    Chapter: *Affine and scale*: `choose_qparams` has an example.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    if symmetric:
        zero_point = _symmetric_zero_point(low, dtype)
        largest = torch.maximum(-low, high)
        scale = _as_step(largest, dtype.max - zero_point, power_of_two)
    else:
        width, steps = high - low, dtype.max - dtype.min
        scale = _as_step(width, steps, power_of_two)
        # A scale rounded before this division would move ties: those of [-1, 1] in
        # UINT8, at 127.5, must go to the even 128.
        exact = torch.where(scale == width / steps, low * steps / width, low / scale)
        zero_point = torch.round(dtype.min - exact)
    return scale.to(torch.float32), zero_point.to(torch.int32)


def quantize(
    x: Tensor,
    qp: QParams,
    rounding: Rounding = "even",
    generator: torch.Generator | None = None,
) -> Tensor:
    """The codes next to ``x``: ``clip(round(x / scale) + zero_point, min, max)``.

    The division is a true one, and the zero point is added after rounding, as in
    ONNX's QuantizeLinear.  float64 is divided in float64, all other floats in float32.

    Args:
        x: floats of any shape, at least one.
        qp: scales and zero points; they follow ``x`` to its device.
        rounding: to nearest with ties to ``"even"``, away from zero (``"half_away"``)
            or up (``"half_up"``); or ``"stochastic"``: up with a probability equal to
            the fraction, which is right on average.
        generator: the source of chance for ``"stochastic"``, on the device of ``x``;
            None: torch's global one, which ``torch.manual_seed`` sets.

    Returns:
        ``qp.dtype.storage`` of the same shape.

    Raises:
        ValueError: if ``x`` is no tensor of floats, empty, or holds NaN or infinity;
            if its shape does not fit ``qp``; for an unknown ``rounding``; for a
            ``generator`` without chance, of another type or on another device.

    Source: ONNX operator QuantizeLinear; Gupta et al., arXiv 1502.02551, section 3.1
    (stochastic).  Chapter: *Affine and scale*.

    >>> quantize(torch.tensor([-9.0, 0.2, 0.25, 0.8, 9.0]), QParams(0.5, 0, INT4))
    tensor([-8,  0,  0,  2,  7], dtype=torch.int8)
    """
    codes = unclipped_codes(x, qp, rounding, generator)
    return codes.clamp_(qp.dtype.min, qp.dtype.max).to(qp.dtype.storage)


def unclipped_codes(
    x: Tensor,
    qp: QParams,
    rounding: Rounding = "even",
    generator: torch.Generator | None = None,
) -> Tensor:
    """What ``quantize`` clips: ``round(x / scale) + zero_point``, still in floats.

    Args, Raises: as for ``quantize``.

    Returns:
        Whole numbers in float64 if ``x`` is float64, else in float32, of the shape of
        ``x``; exact below 2**24 in magnitude, infinite if the quotient overflows.

    Chapter: *Affine and scale*.

    >>> unclipped_codes(torch.tensor([-9.0, 0.2, 9.0]), QParams(0.5, 0, INT4))
    tensor([-18.,   0.,  18.])
    """
    one_of(rounding, get_args(Rounding), "rounding")
    if generator is not None and rounding != "stochastic":
        raise ValueError(f'generator: need rounding="stochastic", got "{rounding}"')
    _check_qparams(qp)
    values = _values(x)
    blocks, scale, zero_point = _blocks(values, qp, "x")
    codes = _round(blocks / scale, rounding, generator).add_(zero_point)
    return codes.reshape(values.shape)


def dequantize(q: Tensor, qp: QParams) -> Tensor:
    """The real values that codes stand for: ``scale * (q - zero_point)``.

    Args:
        q: integers in ``qp.dtype.min .. qp.dtype.max``, any shape, at least one.
        qp: scales and zero points; they follow ``q`` to its device.

    Returns:
        float32 of the same shape, correctly rounded.  The code of zero gives +0.0.  A
        value beyond float32 becomes its largest number, of that sign.

    Raises:
        ValueError: if ``q`` is no tensor of integers, empty, or holds a code outside
            the type; if its shape does not fit ``qp``.

    Source: Jacob et al., arXiv 1712.05877, equation 1.  Chapter: *Affine and scale*.

    >>> dequantize(torch.tensor([-8, 0, 7]), QParams(0.5, 0, INT4))
    tensor([-4.0000,  0.0000,  3.5000])
    """
    _check_qparams(qp)
    codes = _codes(q, qp.dtype, "q")
    blocks, scale, zero_point = _blocks(codes, qp, "q")
    reals = _reals(blocks.to(torch.float32), scale, zero_point, qp)
    return reals.reshape(codes.shape)


def fake_quantize(x: Tensor, qp: QParams) -> Tensor:
    """Quantize and dequantize at once: ``x`` with the error of quantization.

    Equal to ``dequantize(quantize(x, qp), qp)`` in every bit, without making integers.

    Args:
        x: floats of any shape, at least one.
        qp: scales and zero points; they follow ``x`` to its device.

    Returns:
        float32 of the same shape, without a gradient, because that of rounding is zero, and
        training needs another.

    Raises:
        ValueError: as for ``quantize``.

    Source: Jacob et al., arXiv 1712.05877, equation 12.  Chapter: *Affine and scale*.

    >>> fake_quantize(torch.tensor([-9.0, 0.2, 0.8, 9.0]), QParams(0.5, 0, INT4))
    tensor([-4.0000,  0.0000,  1.0000,  3.5000])
    """
    _check_qparams(qp)
    values = _values(x)
    blocks, scale, zero_point = _blocks(values, qp, "x")
    # In place on a tensor of our own: fresh memory would cost more than arithmetic.
    codes = (blocks / scale).round_().add_(zero_point)
    codes = codes.clamp_(qp.dtype.min, qp.dtype.max).to(torch.float32)
    return _reals(codes, scale, zero_point, qp).reshape(values.shape)


def _reals(codes: Tensor, scale: Tensor, zero_point: Tensor, qp: QParams) -> Tensor:
    """``scale * (codes - zero_point)``, written over ``codes``."""
    reals = codes.sub_(zero_point).mul_(scale)
    return reals.clamp_(-LARGEST, LARGEST) if qp._may_pass_float32 else reals


def _round(v: Tensor, rounding: Rounding, generator: torch.Generator | None) -> Tensor:
    """Integers next to ``v``, which may be overwritten.

    Halves are told by ``v - floor(v)``: adding 0.5 first would round twice.
    """
    if rounding == "even":
        return v.round_()
    if rounding == "half_away":
        return _round_half_up(v.abs()).copysign_(v)
    if rounding == "half_up":
        return _round_half_up(v)
    _check_generator(generator, v.device)
    below = v.floor()
    chance = torch.rand(v.shape, dtype=v.dtype, device=v.device, generator=generator)
    return below + (chance < v - below)


def _check_generator(generator: object, device: torch.device) -> None:
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise ValueError(f"generator: need a torch.Generator, got {generator!r}")
    if generator.device.type != device.type:
        raise ValueError(
            f"generator: need one on the device of x, {device}, got {generator.device}"
        )


def _round_half_up(v: Tensor) -> Tensor:
    below = v.floor()
    return below + (v - below >= 0.5)  # false for infinity, which stays


def _symmetric_zero_point(low: Tensor, dtype: IntType) -> Tensor:
    """The middle code, or the smallest where an unsigned type meets no negative value.

    ``low`` is at most 0.
    """
    middle = 0 if dtype.signed else 1 << dtype.bits - 1
    lowest = 0 if dtype.signed else dtype.min
    zero_point = torch.where(low < 0, middle, lowest)
    if (zero_point == dtype.max).any():
        raise ValueError(
            f"dtype: need a code above the zero point for a symmetric range, "
            f"got {dtype}, whose largest code is the zero point {dtype.max}"
        )
    return zero_point


def _as_step(width: Tensor, steps: Tensor | int, power_of_two: bool) -> Tensor:
    """``width / steps`` in float64, within what float32 can hold; 1 for no width."""
    step = (width / steps).clamp(min=SMALLEST_NORMAL)
    if power_of_two:
        fraction, _ = torch.frexp(step)  # in [1/2, 1), of the power of two above
        step = torch.where(fraction == 0.5, step, step / fraction)
    if torch.isinf(step.to(torch.float32)).any():
        raise ValueError(
            f"low, high: need a step that float32 can hold, got {float(step.max()):g}"
        )
    return torch.where(width > 0, step, 1.0)


def _blocks(x: Tensor, qp: QParams, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """``x``, scale and zero point (as floats), in shapes that broadcast."""
    # On a GPU, a scale left on the CPU would be multiplied by its reciprocal.
    scale = qp.scale.detach().to(x.device)
    zero_point = qp.zero_point.to(x.device, torch.float32)
    if qp.axis is None:
        return x, scale, zero_point
    if not -x.ndim <= qp.axis < x.ndim:
        raise ValueError(
            f"{name}: need a tensor that has axis {qp.axis} of qp, "
            f"got shape {tuple(x.shape)}"
        )
    axis = qp.axis % x.ndim
    if qp.group_size is None:
        needed = [*x.shape[:axis], len(scale), *x.shape[axis + 1 :]]
    else:
        needed = list(scale.shape)
        needed[qp.axis] *= qp.group_size
    if list(x.shape) != needed:
        raise ValueError(
            f"{name}: need shape {tuple(needed)} for the {tuple(qp.scale.shape)} "
            f"scales of qp, got {tuple(x.shape)}"
        )
    if qp.group_size is None:
        shape = [-1 if d == axis else 1 for d in range(x.ndim)]
        return x, scale.view(shape), zero_point.view(shape)
    x = x.view(*x.shape[:axis], -1, qp.group_size, *x.shape[axis + 1 :])
    return x, scale.unsqueeze(axis + 1), zero_point.unsqueeze(axis + 1)


def _values(x: Tensor) -> Tensor:
    """``x`` without its gradient, as float32 if it was narrower."""
    if isinstance(x, Tensor) and x.is_floating_point() and x.element_size() < 4:
        x = x.to(torch.float32)
    return finite_floats(x, "x").detach()


def _codes(q: Tensor, dtype: IntType, name: str) -> Tensor:
    """``q``, refusing what is no integer or outside ``dtype``."""
    q = dense(q, name)
    if q.dtype not in INTEGERS:
        raise ValueError(f"{name}: need integers (uint8 or signed), got {q.dtype}")
    if not q.numel():
        raise ValueError(f"{name}: need at least one, got shape {tuple(q.shape)}")
    low, high = (int(end) for end in q.aminmax())
    if low < dtype.min or high > dtype.max:
        raise ValueError(
            f"{name}: need {dtype.min} to {dtype.max} ({dtype}), got {low} to {high}"
        )
    return q


def _range(low: Tensor | float, high: Tensor | float) -> tuple[Tensor, Tensor]:
    """The ends of ranges in float64."""
    low = finite_floats(_tensor(low, torch.float64, "low"), "low")
    high = finite_floats(_tensor(high, torch.float64, "high"), "high")
    if low.shape != high.shape or low.device != high.device:
        raise ValueError(
            f"low, high: need one shape and device, got {tuple(low.shape)} on "
            f"{low.device} and {tuple(high.shape)} on {high.device}"
        )
    low, high = low.detach().to(torch.float64), high.detach().to(torch.float64)
    if (low > high).any():
        worst = (low - high).argmax()
        raise ValueError(
            f"low: need at most high, got {float(low.flatten()[worst])} and "
            f"{float(high.flatten()[worst])}"
        )
    return low, high


def _tensor(value: object, dtype: torch.dtype, name: str) -> Tensor:
    """A tensor as it is, a number as a 0-d one."""
    if isinstance(value, Tensor):
        return value
    kind, what = (
        (Real, "a number") if dtype.is_floating_point else (Integral, "an integer")
    )
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"{name}: need {what} or a torch tensor, got {value!r}")
    try:
        return torch.tensor(value, dtype=dtype)
    except (OverflowError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"{name}: need {what} in {dtype}, got {shown(value)}"
        ) from error


def _check_rank(t: Tensor, axis: int | None, group_size: int | None, name: str) -> None:
    if axis is None:
        fits, needed = t.ndim == 0, "no axis (0-d) without axis="
    elif group_size is None:
        fits, needed = t.ndim == 1, f"one axis (1-D) with axis={axis}"
    else:
        fits, needed = -t.ndim <= axis < t.ndim, f"axis {axis} to hold the groups"
    if not fits:
        raise ValueError(f"{name}: need {needed}, got shape {tuple(t.shape)}")


def _check_grouping(axis: object, group_size: object) -> None:
    if axis is not None and type(axis) is not int:
        raise ValueError(f"axis: need an integer or None, got {axis!r}")
    if group_size is None:
        return
    if type(group_size) is not int or group_size < 1:
        raise ValueError(
            f"group_size: need an integer of at least 1 or None, got {group_size!r}"
        )
    if axis is None:
        raise ValueError("axis: need an axis for the groups, got None")


def _check_type(dtype: object) -> None:
    if not isinstance(dtype, IntType):
        raise ValueError(f"dtype: need an IntType such as INT8, got {dtype!r}")


def _check_qparams(qp: object) -> None:
    if not isinstance(qp, QParams):
        raise ValueError(f"qp: need QParams, got a {type(qp).__name__}")
