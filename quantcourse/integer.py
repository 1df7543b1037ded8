"""Integer arithmetic: layers that compute on codes, without floats in between.

A layer sums products of codes in INT32, multiplies the sum by a constant M, which
itself is an integer and a shift, adds the zero point of its output and clips.  What
weights and scales decide can be prepared once, for many calls.
Explained in the chapters *The integer multiplier* and *Integer layers*.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from numbers import Integral, Real
from typing import Literal, get_args, overload

import torch
from torch import Tensor
from torch.nn import functional

from quantcourse._checks import integer, one_of, shown
from quantcourse._products import (
    INT32_MAX,
    INT32_MIN,
    FloatSums,
    Int8Products,
    Window,
    centred_weight,
    check_bound,
    fits_int8_product,
    reach_of,
)
from quantcourse._tensor_checks import dense, finite_floats
from quantcourse.affine import INTEGERS, QParams, dequantize, quantize

__all__ = [
    "Addition",
    "Layer",
    "TransposedLayer",
    "accumulate_conv2d",
    "accumulate_linear",
    "adaptive_avg_pool",
    "add",
    "avg_pool",
    "concat",
    "conv1d",
    "conv2d",
    "conv_transpose2d",
    "linear",
    "max_pool",
    "multiply_by_quantized_multiplier",
    "output_multiplier",
    "prepare_add",
    "prepare_conv1d",
    "prepare_conv2d",
    "prepare_conv_transpose2d",
    "prepare_linear",
    "quantize_bias",
    "quantize_multiplier",
    "relu",
    "relu6",
    "requantize",
    "transposed_kernels",
]

Rounding = Literal["double", "single", "float"]
Activation = Literal["relu", "relu6"]
Pair = int | tuple[int, int]

LARGEST_MULTIPLIER = math.nextafter(2**30 - 0.25, 0)  # m0 stays below 2**31 at shift 30
CHUNK = 1 << 16  # accumulators to requantize at once: what lies between stays in cache
FLOAT64_HOLDS = 1 << 22  # accumulators up to here: their products with m0 have 53 bits
NUDGE = 1 + 2.0**-24


# --- The multiplier ---------------------------------------------------------------


@overload
def quantize_multiplier(m: Tensor) -> tuple[Tensor, Tensor]: ...
@overload
def quantize_multiplier(m: float) -> tuple[int, int]: ...
def quantize_multiplier(
    m: Tensor | float,
) -> tuple[Tensor, Tensor] | tuple[int, int]:
    """``m`` as an integer and a shift: ``m = m0 * 2**(shift - 31)``.

    ``m0`` lies in ``2**30 .. 2**31 - 1``, so ``m0 / 2**31`` is a fraction in [1/2, 1)
    and the relative error is at most ``2**-31``.  Zero, and what is below ``2**-32``
    after rounding, gives (0, 0): no INT32 times so little reaches more than 1/2.

    Args:
        m: a number, or a tensor of floats of any shape; 0 or positive.

    Returns:
        ``(m0, shift)``: Python integers for a number, int32 tensors of the shape of
        ``m`` for a tensor.

    Raises:
        ValueError: if ``m`` is negative, NaN, infinite or empty, no number, or so
            large (about ``2**30``) that its shift passes 30.

    Source: Jacob et al., arXiv 1712.05877, equation 6; TensorFlow Lite,
    ``QuantizeMultiplier``.  Chapter: *The integer multiplier*.

    >>> quantize_multiplier(0.3)
    (1288490189, -1)
    >>> 1288490189 * 2.0 ** (-1 - 31)
    0.30000000004656613
    """
    values = _multipliers(m, "m")
    fraction, shift = torch.frexp(values)
    m0 = (fraction * 2.0**31 + 0.5).floor().to(torch.int64)  # half away, as all are > 0
    # A fraction just below 1 has become 1: that is 1/2 with one more shift.
    carry = m0 == 2**31
    m0, shift = torch.where(carry, 2**30, m0), shift + carry
    too_small = (shift < -31) | (values == 0)
    m0, shift = m0.masked_fill(too_small, 0), shift.masked_fill(too_small, 0)
    if isinstance(m, Tensor):
        return m0.to(torch.int32), shift.to(torch.int32)
    return int(m0), int(shift)


def multiply_by_quantized_multiplier(
    acc: Tensor | int,
    m0: Tensor | int,
    shift: Tensor | int,
    rounding: Rounding = "double",
) -> Tensor:
    """The integer next to ``acc * m0 * 2**(shift - 31)``.

    Three engines, three ways to round:

    - ``"double"``, gemmlowp and TensorFlow Lite: ``h = (acc * m0 + 2**30) >> 31``, ties
      up, then ``h / 2**-shift``, ties away from zero.  Off by at most
      ``1/2 + 2**(shift - 1)``; for ``shift >= 0`` at most 1/2 (``acc`` is first
      shifted left).
    - ``"single"``, TensorFlow Lite built so: ``(acc * m0 + 2**(t - 1)) >> t`` with
      ``t = 31 - shift``, ties up.  Off by at most 1/2.
    - ``"float"``, ONNX Runtime: ``float32(acc) * float32(M)``, rounded to float32, then
      to an integer, ties to even.

    Args:
        acc: INT32 values in a tensor of integers of any shape, or one Python integer.
        m0: 0 to ``2**31 - 1``; a tensor of integers must broadcast with ``acc``.
        shift: -31 to 30, of the shape of ``m0``.
        rounding: one of the three.

    Returns:
        int32, of the shape of ``acc`` (and ``m0``, where that is larger).

    Raises:
        ValueError: for values or shapes other than these; if a product, or in
            ``"double"`` ``acc * 2**shift``, leaves INT32, where hardware would wrap.

    Source: Jacob et al., arXiv 1712.05877, section 2.2; gemmlowp, ``fixedpoint.h``
    (``SaturatingRoundingDoublingHighMul``, ``RoundingDivideByPOT``).
    Chapter: *The integer multiplier*.

    >>> m0, shift = quantize_multiplier(0.3)
    >>> multiply_by_quantized_multiplier(torch.tensor([10, 15, -15]), m0, shift)
    tensor([ 3,  5, -5], dtype=torch.int32)
    """
    one_of(rounding, get_args(Rounding), "rounding")
    acc = _integers(_as_tensor(acc, "acc"), INT32_MIN, INT32_MAX, "acc")
    m0 = _integers(_as_tensor(m0, "m0"), 0, INT32_MAX, "m0")
    shift = _integers(_as_tensor(shift, "shift"), -31, 30, "shift")
    if m0.shape != shift.shape:
        raise ValueError(
            f"m0, shift: need one shape, got {tuple(m0.shape)} and {tuple(shift.shape)}"
        )
    broadcast = torch.broadcast_shapes
    try:
        shape = broadcast(acc.shape, m0.shape)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        raise ValueError(
            f"acc, m0: need shapes that broadcast, got {tuple(acc.shape)} and "
            f"{tuple(m0.shape)}"
        ) from error
    acc, m0, shift = (t.to(acc.device, torch.int32) for t in (acc, m0, shift))
    return _multiply(acc.expand(shape), m0, shift, rounding)


def _multiply(acc: Tensor, m0: Tensor, shift: Tensor, rounding: Rounding) -> Tensor:
    """The function above for int32 tensors; those of M broadcast to ``acc``."""
    if rounding == "double":
        shifted = acc.to(torch.int64)
        if (shift > 0).any():
            shifted = shifted << shift.clamp(min=0)
            _check_int32(shifted, "acc * 2**shift")
        high = _doubling_high_mul(shifted, m0.to(torch.int64))
        return _divide_by_power_of_two(high, (-shift).clamp(min=0))
    t = 31 - shift.to(torch.int64)
    if rounding == "single":
        product = acc.to(torch.int64).mul_(m0.to(torch.int64))
        result = product.add_(1 << (t - 1)).bitwise_right_shift_(t)
    else:
        m = (m0.to(torch.float64) / (1 << t)).to(torch.float32)
        result = (acc.to(torch.float32) * m).round_()
    if (t <= 31).any():
        _check_int32(result, "acc * m")
    return result.to(torch.int32)


def _doubling_high_mul(a: Tensor, b: Tensor) -> Tensor:
    """``a * b / 2**31`` to nearest, ties up: the high half of twice the product.

    Both are int64, ``a`` is overwritten: fresh memory would cost more than arithmetic.
    gemmlowp adds ``2**30``, or ``1 - 2**30`` to a negative product, and truncates: the
    same at every tie.  Its saturation, of ``INT32_MIN`` squared, needs a negative b.
    """
    return a.mul_(b).add_(1 << 30).bitwise_right_shift_(31).to(torch.int32)


def _divide_by_power_of_two(x: Tensor, exponent: Tensor) -> Tensor:
    """``x / 2**exponent`` to nearest, ties away from zero."""
    mask = (1 << exponent) - 1
    # x >> 31 is -1 for a negative x: its tie stays down, away from zero.
    remainder = (x & mask).add_(x >> 31)
    return (x >> exponent).add_(remainder > (mask >> 1))


def _check_int32(x: Tensor, what: str) -> None:
    low, high = (int(end) for end in x.aminmax())
    if low < INT32_MIN or high > INT32_MAX:
        got = low if low < INT32_MIN else high
        raise ValueError(
            f"acc: need {what} in INT32, got {got}: use a smaller multiplier, that is "
            "a larger scale of the output"
        )


# --- From accumulators to codes ---------------------------------------------------


def requantize(
    acc: Tensor,
    multiplier: Tensor | float,
    qp: QParams,
    rounding: Rounding = "double",
    axis: int | None = None,
    activation: Activation | None = None,
) -> Tensor:
    """Codes of the output: ``clip(round(multiplier * acc) + zero_point, low, high)``.

    Args:
        acc: INT32 accumulators, any shape, at least one.
        multiplier: M, the scale of ``acc`` over that of ``qp``: a number, 0-d, or 1-D
            with one for each index of ``axis``.  0 or positive, below ``2**30``.
        qp: what the codes shall stand for; one scale.
        rounding: as for ``multiply_by_quantized_multiplier``; ``"float"`` takes
            ``multiplier`` as a float32.
        axis: the axis of ``acc`` along which multipliers differ.  None: the channels
            of images (axis 1 of 4), the last axis otherwise.
        activation: None clips to the codes of ``qp``; ``"relu"`` and ``"relu6"`` raise
            the lower end to the code of 0, the latter lowers the upper to that of 6.

    Returns:
        ``qp.dtype.storage``, of the shape of ``acc``; with a 1-D ``multiplier``,
        ``axis`` lies last in memory.

    Raises:
        ValueError: for other shapes, types or values; if a product leaves INT32.

    Source: Jacob et al., arXiv 1712.05877, section 2.4.
    Chapter: *The integer multiplier*.

    >>> from quantcourse.affine import UINT8
    >>> requantize(torch.tensor([-400, 10, 400]), 0.3, QParams(0.5, 3, UINT8))
    tensor([  0,   6, 123], dtype=torch.uint8)
    """
    one_of(rounding, get_args(Rounding), "rounding")
    acc = _integers(acc, INT32_MIN, INT32_MAX, "acc").to(torch.int32)
    _check_one_scale(qp, "qp")
    values = _multipliers(multiplier, "multiplier").to(acc.device)
    if values.ndim > 1:
        raise ValueError(
            f"multiplier: need a number, 0-d or 1-D, got shape {tuple(values.shape)}"
        )
    if axis is None:
        axis = 1 if acc.ndim == 4 else -1
    elif type(axis) is not int:
        raise ValueError(f"axis: need an integer or None, got {axis!r}")
    if values.ndim == 1:
        in_range = -acc.ndim <= axis < acc.ndim
        if not in_range or acc.shape[axis] != len(values):
            raise ValueError(
                f"multiplier: need one for each index of axis {axis} of acc, of shape "
                f"{tuple(acc.shape)}, got {len(values)}"
            )
    else:  # any axis will do: the one whose values are neighbours in memory
        axis = 1 if _is_channels_last(acc) else -1
    # That axis last, so that rows of channels meet a row of multipliers.
    last = acc.movedim(axis, -1) if acc.ndim else acc.view(1)
    codes = _rescaling(values, qp, rounding, activation)(last)
    return codes.movedim(-1, axis).view(acc.shape)


@dataclass(frozen=True, eq=False)
class _Rescaling:
    """``clip(round(M * acc) + zero_point, low, high)`` for int32 accumulators.

    Products in INT64 are right for all of them, but slow.  Where ``|acc| <= 2**22``,
    float64 holds ``p = acc * m0 * 2**-31`` exactly, and ``p + 1/2``:

    - ``"single"`` is ``floor(p * 2**shift + 1/2)``.
    - ``"double"`` is ``h = floor(p + 1/2)``, then ``h * 2**shift`` to nearest, which is
      ``floor(h * 2**shift * NUDGE + 1/2)``: a factor above 1 moves a tie away from
      zero, and nothing else past the next tie, as that is at least ``2**shift`` away
      (at a shift of 0 there is none) and ``|h| < 2**24``.
    - Where all below the zero point is clipped, ties go up in both steps, and one is
      enough: ``h * 2**shift >= k - 1/2`` says
      ``p * 2**shift + 1/2 + 2**(shift - 1) >= k``.

    All of this rises with ``acc``: if what ``2**22`` gives is clipped, so is what lies
    beyond, and nobody needs to look at the accumulators.  What is not clipped then has
    at most 52 bits, also with the zero point in the sum.
    """

    m0: Tensor
    shift: Tensor
    rounding: Rounding
    out: QParams
    low: int
    high: int
    steps: tuple[tuple[Tensor, Tensor], ...]  # of floats: a factor and what is added
    for_all: bool  # whether the steps are right for every INT32

    def __call__(self, acc: Tensor) -> Tensor:
        """Codes, in rows of channels: the multipliers belong to the last axis."""
        rows = acc.reshape(-1, acc.shape[-1])
        codes = rows.new_empty(rows.shape, dtype=self.out.dtype.storage)
        step = max(1, CHUNK // rows.shape[1]) if acc.is_cpu else len(rows)
        kind = torch.float32 if self.rounding == "float" else torch.float64
        memory = rows.new_empty((min(step, len(rows)), rows.shape[1]), dtype=kind)
        for start in range(0, len(rows), step):
            part = rows[start : start + step]
            codes[start : start + step] = self._codes(part, memory[: len(part)])
        return codes.reshape(acc.shape)

    def _codes(self, acc: Tensor, memory: Tensor) -> Tensor:
        """In memory of floats that is there already: fresh memory costs more."""
        zero_point = int(self.out.zero_point)
        if not (self.steps and (self.for_all or _float64_holds(acc))):
            result = _multiply(acc, self.m0, self.shift, self.rounding)
            result = result.clamp_(self.low - zero_point, self.high - zero_point)
            return result.add_(zero_point)
        # The lowest code becomes 0, so that numbers below it may be truncated as well.
        if self.rounding == "float":
            ((m, offset),) = self.steps
            values = memory.copy_(acc).mul_(m).round_().add_(offset)
        else:
            first, *second = self.steps
            values = _affine(memory.copy_(acc), *first)
            for step in second:
                values = _affine(values.floor_(), *step)
        codes = values.to(torch.int32).clamp_(0, self.high - self.low)
        return codes.add_(self.low) if self.low else codes


def _affine(x: Tensor, factor: Tensor, summand: Tensor) -> Tensor:
    return x.mul_(factor).add_(summand)


def _float64_holds(acc: Tensor) -> bool:
    low, high = (int(end) for end in acc.aminmax())
    return max(-low, high) <= FLOAT64_HOLDS


def _rescaling(
    m: Tensor, out: QParams, rounding: Rounding, activation: Activation | None
) -> _Rescaling:
    """For multipliers that are 0-d or 1-D, in float64."""
    low, high = _ends(out, activation)
    offset = int(out.zero_point) - low
    m0, shift = quantize_multiplier(m.float() if rounding == "float" else m)
    unused = m0 == 0
    # Below 1/2 no product leaves INT32.
    for_all = bool(((shift < 0) | unused).all())
    steps: tuple[tuple[Tensor, Tensor], ...] = ()
    if rounding == "float":
        if for_all:
            factor = m.to(torch.float32)
            steps = ((factor, torch.full_like(factor, offset)),)
        return _Rescaling(m0, shift, rounding, out, low, high, steps, for_all)
    # Then 2**22 gives at least twice as many codes as there are.
    for_all &= bool(((shift >= out.dtype.bits - 20) | unused).all())
    one = torch.ones_like(m)
    half = one / 2
    if for_all and (rounding == "single" or offset == 0):
        early = one / (1 << 1 - shift.long()) if rounding == "double" else 0 * one
        early = early.masked_fill(unused, 0)
        factor = m0.to(m) / (1 << 31 - shift.long())
        steps = ((factor, half + early + offset),)
    elif rounding == "double" and bool((shift <= 0).all()):
        power = one / (1 << -shift.long())
        steps = (m0.to(m) / 2**31, half), (power * NUDGE, half + offset)
    return _Rescaling(m0, shift, rounding, out, low, high, steps, for_all)


def quantize_bias(bias: Tensor, qp: QParams, weight_qp: QParams) -> Tensor:
    """A bias as INT32 codes of scale ``s_x s_w``, that of the products, zero point 0.

    Args:
        bias: floats, one for each output of the layer.
        qp: of the input, one scale.
        weight_qp: of the weights, one scale or one for each output.

    Returns:
        int32 codes, ``bias / (s_x s_w)`` to nearest, ties to even, in float64.

    Raises:
        ValueError: for other shapes or types, NaN or infinity; if a code leaves INT32,
            as it does where the scale of a channel of tiny weights is tiny.

    Source: Jacob et al., arXiv 1712.05877, equation 11.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> x, w = QParams(0.5, 3, UINT8), QParams(0.1, 0, INT8)
    >>> quantize_bias(torch.tensor([0.3]), x, w)
    tensor([6], dtype=torch.int32)
    """
    bias = finite_floats(bias, "bias").detach()
    scale = _product_scale(qp, weight_qp, torch.float64).to(bias.device)
    if bias.ndim != 1 or (scale.ndim == 1 and len(scale) != len(bias)):
        raise ValueError(
            f"bias: need 1-D, one for each output ({tuple(scale.shape)} scales in "
            f"weight_qp), got shape {tuple(bias.shape)}"
        )
    codes = (bias.to(torch.float64) / scale).round()
    outside = (codes < INT32_MIN) | (codes > INT32_MAX)
    if outside.any():
        first = int(outside.to(torch.int8).argmax())
        raise ValueError(
            f"bias: need codes in INT32, got {float(codes[first]):g} at {first}: use a "
            "larger scale for its weights (or one for all channels)"
        )
    return codes.to(torch.int32)


def output_multiplier(qp: QParams, weight_qp: QParams, out: QParams) -> Tensor:
    """M, the constant between accumulators and output: ``s_x s_w / s_y``.

    Args:
        qp: of the input, one scale.
        weight_qp: of the weights, one scale or one for each output.
        out: of the output, one scale.

    Returns:
        float64, 0-d or 1-D as the scales of ``weight_qp``.

    Raises:
        ValueError: if there are more scales than that.

    Source: Jacob et al., arXiv 1712.05877, equation 5.
    Chapter: *The integer multiplier*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> x, w, y = QParams(0.5, 3, UINT8), QParams(0.25, 0, INT8), QParams(0.5, 0, UINT8)
    >>> float(output_multiplier(x, w, y))
    0.25
    """
    return _output_multiplier(qp, weight_qp, out, torch.float64)


def _output_multiplier(
    qp: QParams, weight_qp: QParams, out: QParams, dtype: torch.dtype
) -> Tensor:
    """ONNX Runtime takes it in float32, in this order."""
    _check_one_scale(out, "out")
    product = _product_scale(qp, weight_qp, dtype)
    return product / out.scale.to(product)


def _product_scale(qp: QParams, weight_qp: QParams, dtype: torch.dtype) -> Tensor:
    _check_one_scale(qp, "qp")
    _check_weight_qp(weight_qp)
    return qp.scale.to(weight_qp.scale.device, dtype) * weight_qp.scale.to(dtype)


# --- Sums of products -------------------------------------------------------------


def accumulate_linear(
    q: Tensor,
    qp: QParams,
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None = None,
) -> Tensor:
    """Sums of a linear layer on codes: ``sum_k (q - z_x)(w - z_w) + bias``, exactly.

    The same on every machine, whatever the order of the sum.  The layer must never
    leave INT32, on any input: for each output,
    ``sum_k |w - z_w| * max(z_x - q_min, q_max - z_x) + |bias| <= 2**31 - 1``
    with ``q_min`` and ``q_max`` the ends of ``qp.dtype``.

    Args:
        q: codes of the input, shape (..., inputs).
        qp: what they stand for; one scale.
        weight: codes, shape (outputs, inputs).
        weight_qp: what they stand for; one scale, or one for each output (axis 0).
        bias: int32, shape (outputs,), of scale ``s_x s_w``; None: no bias.

    Returns:
        int32, shape (..., outputs), of scale ``s_x s_w`` and zero point 0.

    Raises:
        ValueError: for other shapes, types or values; if the bound above is broken.

    Source: Jacob et al., arXiv 1712.05877, equation 7.
    Chapter: *The integer multiplier*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> q, w = torch.tensor([[5, 1]]), torch.tensor([[10, -20]])
    >>> accumulate_linear(q, QParams(0.5, 3, UINT8), w, QParams(0.1, 0, INT8))
    tensor([[60]], dtype=torch.int32)
    """
    return prepare_linear(weight, weight_qp, bias, qp, None).accumulate(q)


def accumulate_conv2d(
    q: Tensor,
    qp: QParams,
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Sums of a convolution on codes: ``sum (q - z_x)(w - z_w) + bias``, exactly.

    Padding is with the zero point, real zero, which adds nothing.  The bound is that of
    ``accumulate_linear``, with the sum over the kernel.

    Args:
        q: codes of the input, shape (images, channels, height, width).
        qp: what they stand for; one scale.
        weight: codes, shape (outputs, channels / groups, kernel height, kernel width).
        weight_qp: what they stand for; one scale, or one for each output (axis 0).
        bias: int32, shape (outputs,), of scale ``s_x s_w``; None: no bias.
        stride, padding, dilation: an integer, or one for height and one for width.
        groups: as in ``torch.nn.functional.conv2d``.

    Returns:
        int32, shape (images, outputs, height, width), of scale ``s_x s_w`` and zero
        point 0; usually in channels-last memory.

    Raises:
        ValueError: for other shapes, types or values; if the bound is broken.

    Source: Jacob et al., arXiv 1712.05877, equation 7.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> q, w = torch.full((1, 1, 3, 3), 4), torch.ones(1, 1, 3, 3, dtype=torch.int8)
    >>> x, w_qp = QParams(0.5, 3, UINT8), QParams(0.1, 0, INT8)
    >>> accumulate_conv2d(q, x, w, w_qp, padding=1)
    tensor([[[[4, 6, 4],
              [6, 9, 6],
              [4, 6, 4]]]], dtype=torch.int32)
    """
    layer = prepare_conv2d(
        weight, weight_qp, bias, qp, None, stride, padding, dilation, groups
    )
    return layer.accumulate(q)


# --- Layers -----------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Layer:
    """A linear layer or a convolution, with all that its weights decide made ready.

    Made by ``prepare_linear``, ``prepare_conv1d`` and ``prepare_conv2d``; called with
    codes, as often as one likes.

    Args:
        qp: what the codes of the input stand for; one scale.
        out: what those of the output shall stand for; None: reals in float32.
        scale: of the sums, ``s_x s_w``: float64, 0-d or one for each output.

    The other fields are its own affair.

    Source: Jacob et al., arXiv 1712.05877, section 2.4.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> w, w_qp = torch.tensor([[10, -20]]), QParams(0.1, 0, INT8)
    >>> layer = prepare_linear(w, w_qp, None, QParams(0.5, 3, UINT8), None)
    >>> layer.accumulate(torch.tensor([[5, 1]]))
    tensor([[60]], dtype=torch.int32)
    >>> layer(torch.tensor([[5, 1]]))  # 60 * 0.5 * 0.1
    tensor([[3.]])
    """

    qp: QParams
    out: QParams | None
    scale: Tensor
    shape: tuple[int, ...]  # of the weights, as they were given
    window: Window
    sums: Int8Products | FloatSums
    rescaling: _Rescaling | None

    def __call__(self, q: Tensor) -> Tensor:
        """Codes of ``out``, or reals, for codes of ``qp``."""
        if self.rescaling is None:
            return self._each_block(q, self._reals, torch.float32)
        return self._each_block(q, self.rescaling, self.rescaling.out.dtype.storage)

    def accumulate(self, q: Tensor) -> Tensor:
        """The sums in int32, of scale ``scale`` and zero point 0."""
        return self._each_block(q, lambda sums: sums, torch.int32)

    def _reals(self, sums: Tensor) -> Tensor:
        return (sums * self.scale).to(torch.float32)

    def _each_block(
        self, q: Tensor, finish: Callable[[Tensor], Tensor], dtype: torch.dtype
    ) -> Tensor:
        images = self._as_images(_codes(q, self.qp, "q"))
        height, width = self.window.positions(images.shape[2:])
        shape = len(images), height, width, self.shape[0]
        result = images.new_empty(shape, dtype=dtype)
        for some, rows, sums in self.sums.blocks(images, self.window):
            result[some, rows] = finish(sums)
        if len(self.shape) == 2:
            return result.view(*q.shape[:-1], self.shape[0])
        result = result.permute(0, 3, 1, 2)
        return result if len(self.shape) == 4 else result.squeeze(2)

    def _as_images(self, q: Tensor) -> Tensor:
        """A row is an image of one pixel, a signal one of height 1."""
        groups, weights = self.window.groups, f"weights of shape {self.shape}"
        channels = self.shape[1] * groups
        if len(self.shape) == 2:
            if q.ndim < 1 or q.shape[-1] != channels:
                raise ValueError(
                    f"q: need shape (..., {channels}) for {weights}, "
                    f"got {tuple(q.shape)}"
                )
            return q.reshape(-1, channels, 1, 1)
        if q.ndim != len(self.shape) or q.shape[1] != channels:
            space = "height, width" if len(self.shape) == 4 else "length"
            raise ValueError(
                f"q: need shape (images, {channels}, {space}) for {weights} in "
                f"{groups} groups, got {tuple(q.shape)}"
            )
        return q if q.ndim == 4 else q.unsqueeze(2)


def prepare_linear(
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    qp: QParams,
    out: QParams | None,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Layer:
    """A linear layer whose weights, bias and scales are ready for many inputs.

    Args:
        weight, weight_qp, bias, qp: as for ``accumulate_linear``.
        out: as for ``linear``; or None, for reals in float32: the sum times
            ``s_x s_w``, without an activation.
        rounding, activation: as for ``linear``.

    Returns:
        What ``linear`` computes, to be called with codes.

    Raises:
        ValueError: as for ``linear``.

    Source: Jacob et al., arXiv 1712.05877, section 2.4.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> w, w_qp = torch.tensor([[10, -20]]), QParams(0.1, 0, INT8)
    >>> x, y = QParams(0.5, 3, UINT8), QParams(0.25, 10, UINT8)
    >>> prepare_linear(w, w_qp, None, x, y)(torch.tensor([[5, 1]]))
    tensor([[22]], dtype=torch.uint8)
    """
    weight = _weight_codes(weight, weight_qp, 2)
    window = Window((1, 1), (1, 1), (0, 0), (1, 1))
    return _prepared(weight, weight_qp, bias, qp, out, window, rounding, activation)


def prepare_conv1d(
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    qp: QParams,
    out: QParams | None,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Layer:
    """A convolution along one axis: one in two, of images of height 1.

    Args:
        weight: codes, shape (outputs, channels / groups, kernel length).
        stride, padding, dilation: integers.
        Others: as for ``prepare_conv2d``.

    Returns:
        What ``conv1d`` computes, to be called with codes of shape (images, channels,
        length).

    Raises:
        ValueError: as for ``conv1d``.

    Source: the definition.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> w, w_qp = torch.ones(1, 1, 2, dtype=torch.int8), QParams(1.0, 0, INT8)
    >>> x = QParams(0.5, 0, UINT8)
    >>> prepare_conv1d(w, w_qp, None, x, x)(torch.tensor([[[1, 2, 4]]]))
    tensor([[[3, 6]]], dtype=torch.uint8)
    """
    weight = _weight_codes(weight, weight_qp, 3)
    window = Window(
        (1, weight.shape[2]),
        (1, integer(stride, 1, INT32_MAX, "stride")),
        (0, integer(padding, 0, INT32_MAX, "padding")),
        (1, integer(dilation, 1, INT32_MAX, "dilation")),
        _groups(groups, weight),
    )
    return _prepared(weight, weight_qp, bias, qp, out, window, rounding, activation)


def prepare_conv2d(
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    qp: QParams,
    out: QParams | None,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Layer:
    """A convolution whose kernels, bias and scales are ready for many inputs.

    Args:
        weight, weight_qp, bias, qp, stride, padding, dilation, groups: as for
            ``accumulate_conv2d``.
        out: as for ``conv2d``; or None, for reals in float32: the sum times
            ``s_x s_w``, without an activation.
        rounding, activation: as for ``conv2d``.

    Returns:
        What ``conv2d`` computes, to be called with codes.

    Raises:
        ValueError: as for ``conv2d``.

    Source: Jacob et al., arXiv 1712.05877, section 2.4.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> w, w_qp = torch.ones(1, 1, 3, 3, dtype=torch.int8), QParams(0.1, 0, INT8)
    >>> x, y = QParams(0.5, 3, UINT8), QParams(0.1, 0, UINT8)
    >>> prepare_conv2d(w, w_qp, None, x, y)(torch.full((1, 1, 3, 3), 4))
    tensor([[[[5]]]], dtype=torch.uint8)
    """
    weight = _weight_codes(weight, weight_qp, 4)
    window = Window(
        (weight.shape[2], weight.shape[3]),
        _pair(stride, 1, "stride"),
        _pair(padding, 0, "padding"),
        _pair(dilation, 1, "dilation"),
        _groups(groups, weight),
    )
    return _prepared(weight, weight_qp, bias, qp, out, window, rounding, activation)


def _prepared(
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    qp: QParams,
    out: QParams | None,
    window: Window,
    rounding: Rounding,
    activation: Activation | None,
) -> Layer:
    one_of(rounding, get_args(Rounding), "rounding")
    scale = _product_scale(qp, weight_qp, torch.float64).to(weight.device)
    centred = centred_weight(weight, weight_qp)
    added = _bias_codes(bias, centred)
    check_bound(centred, added, reach_of(qp))
    kernels = centred.reshape(*weight.shape[:2], *window.kernel)
    sums: Int8Products | FloatSums
    if fits_int8_product(kernels, qp, window):
        sums = Int8Products.of(kernels, added, qp)
    else:
        sums = FloatSums.of(kernels, added, qp, window.groups)
    rescaling = None
    if out is not None:
        m = _layer_multiplier(qp, weight_qp, out, rounding)
        m = _multipliers(m, "multiplier").to(weight.device)
        rescaling = _rescaling(m, out, rounding, activation)
    elif activation is not None:
        raise ValueError(f"activation: need None where out is None, got {activation!r}")
    return Layer(qp, out, scale, tuple(weight.shape), window, sums, rescaling)


def _groups(groups: int, weight: Tensor) -> int:
    groups = integer(groups, 1, len(weight), "groups")
    if len(weight) % groups:
        raise ValueError(
            f"groups: need a divisor of the {len(weight)} outputs, got {groups}"
        )
    return groups


def linear(
    q: Tensor,
    qp: QParams,
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    out: QParams,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Tensor:
    """A linear layer on codes: sums, then ``requantize``.

    Args:
        q, qp, weight, weight_qp, bias: as for ``accumulate_linear``.
        out: what the codes of the output shall stand for; one scale.
        rounding: as for ``multiply_by_quantized_multiplier``.  With ``"float"`` the
            codes are those of ONNX Runtime's QLinearMatMul.
        activation: as for ``requantize``.

    Returns:
        Codes of ``out``, shape (..., outputs).

    Raises:
        ValueError: as for the two functions.

    Source: Jacob et al., arXiv 1712.05877, section 2.4.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> q, w = torch.tensor([[5, 1]]), torch.tensor([[10, -20]])
    >>> x, w_qp = QParams(0.5, 3, UINT8), QParams(0.1, 0, INT8)
    >>> linear(q, x, w, w_qp, None, QParams(0.25, 10, UINT8))  # 3 / 0.25 + 10
    tensor([[22]], dtype=torch.uint8)
    """
    _check_one_scale(out, "out")
    layer = prepare_linear(weight, weight_qp, bias, qp, out, rounding, activation)
    return layer(q)


def conv2d(
    q: Tensor,
    qp: QParams,
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    out: QParams,
    stride: Pair = 1,
    padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Tensor:
    """A convolution on codes: sums, then ``requantize``.

    Args:
        q, qp, weight, weight_qp, bias, stride, padding, dilation, groups: as for
            ``accumulate_conv2d``.
        out: what the codes of the output shall stand for; one scale.
        rounding: as for ``multiply_by_quantized_multiplier``.  With ``"float"`` the
            codes are those of ONNX Runtime's QLinearConv.
        activation: as for ``requantize``.

    Returns:
        Codes of ``out``, shape (images, outputs, height, width), usually in
        channels-last memory.

    Raises:
        ValueError: as for the two functions.

    Source: Jacob et al., arXiv 1712.05877, section 2.4.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> q, w = torch.full((1, 1, 3, 3), 4), torch.ones(1, 1, 3, 3, dtype=torch.int8)
    >>> x, w_qp = QParams(0.5, 3, UINT8), QParams(0.1, 0, INT8)
    >>> conv2d(q, x, w, w_qp, None, QParams(0.1, 0, UINT8), padding=1)
    tensor([[[[2, 3, 2],
              [3, 5, 3],
              [2, 3, 2]]]], dtype=torch.uint8)
    """
    _check_one_scale(out, "out")
    geometry = stride, padding, dilation, groups
    layer = prepare_conv2d(
        weight, weight_qp, bias, qp, out, *geometry, rounding, activation
    )
    return layer(q)


def conv1d(
    q: Tensor,
    qp: QParams,
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    out: QParams,
    stride: int = 1,
    padding: int = 0,
    dilation: int = 1,
    groups: int = 1,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Tensor:
    """A convolution along one axis on codes.

    Args:
        q: codes of the input, shape (images, channels, length).
        weight: codes, shape (outputs, channels / groups, kernel length).
        stride, padding, dilation: integers.
        Others: as for ``conv2d``.

    Returns:
        Codes of ``out``, shape (images, outputs, length).

    Raises:
        ValueError: as for ``conv2d``.

    Source: the definition.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> q, w = torch.tensor([[[1, 2, 4]]]), torch.ones(1, 1, 2, dtype=torch.int8)
    >>> x, w_qp = QParams(0.5, 0, UINT8), QParams(1.0, 0, INT8)
    >>> conv1d(q, x, w, w_qp, None, x)
    tensor([[[3, 6]]], dtype=torch.uint8)
    """
    _check_one_scale(out, "out")
    geometry = stride, padding, dilation, groups
    layer = prepare_conv1d(
        weight, weight_qp, bias, qp, out, *geometry, rounding, activation
    )
    return layer(q)


@dataclass(frozen=True, eq=False)
class TransposedLayer:
    """A transposed convolution, ready for many inputs: one on images spread apart.

    Made by ``prepare_conv_transpose2d``; called with codes.

    Args:
        layer: the convolution, of stride 1, with the kernels turned around.
        stride: how far apart the pixels of the input come to lie, zero points between.
        before, after: rows and columns of zero points on each side; those below 0 are
            cut off.

    Source: Dumoulin and Visin, arXiv 1603.07285, chapter 4.
    Chapter: *Integer layers*.
    """

    layer: Layer
    stride: tuple[int, int]
    before: tuple[int, int]
    after: tuple[int, int]

    def __call__(self, q: Tensor) -> Tensor:
        """Codes of ``layer.out``, or reals, for codes of ``layer.qp``."""
        return self.layer(self._spread(q))

    def accumulate(self, q: Tensor) -> Tensor:
        """The sums in int32, of scale ``layer.scale`` and zero point 0."""
        return self.layer.accumulate(self._spread(q))

    def _spread(self, q: Tensor) -> Tensor:
        images, zero_point = _images(q, self.layer.qp), int(self.layer.qp.zero_point)
        size, pixels, places = [], [], []
        per_axis = zip(
            images.shape[2:], self.stride, self.before, self.after, strict=True
        )
        for length, stride, before, after in per_axis:
            total = (length - 1) * stride + 1 + before + after
            cut = max(0, -(before // stride))  # pixels that are cut off before
            start = before + cut * stride
            kept = max(0, min(length - cut, len(range(start, total, stride))))
            size.append(total)
            pixels.append(slice(cut, cut + kept))
            places.append(slice(start, start + kept * stride, stride))
        self.layer.window.positions(size)
        spread = images.new_full((*images.shape[:2], *size), zero_point)
        spread[:, :, places[0], places[1]] = images[:, :, pixels[0], pixels[1]]
        return spread


def transposed_kernels(
    weight: Tensor, weight_qp: QParams, groups: int = 1
) -> tuple[Tensor, QParams]:
    """The kernels of the convolution that a transposed one is, and their parameters.

    Turned around by half a turn, with outputs first.

    Args:
        weight: codes, shape (inputs, outputs / groups, kernel height, kernel width),
            as in ``torch.nn.functional.conv_transpose2d``.
        weight_qp: what they stand for; one scale, or one for each index of axis 1,
            which the groups share.
        groups: a divisor of the inputs.

    Returns:
        Codes of shape (outputs, inputs / groups, kernel height, kernel width), and
        parameters of one scale or one for each output (axis 0), as ``quantize_bias``
        wants them.

    Raises:
        ValueError: for other shapes, types or values.

    Source: Dumoulin and Visin, arXiv 1603.07285, chapter 4.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8
    >>> w = torch.tensor([[[[1, 2, 3]], [[4, 5, 6]]]])
    >>> transposed_kernels(w, QParams(0.1, 0, INT8))[0].tolist()
    [[[[3, 2, 1]]], [[[6, 5, 4]]]]
    """
    if not isinstance(weight_qp, QParams):
        raise ValueError(f"weight_qp: need QParams, got a {type(weight_qp).__name__}")
    dtype, axis = weight_qp.dtype, weight_qp.axis
    weight = _integers(weight, dtype.min, dtype.max, "weight")
    if weight.ndim != 4:
        raise ValueError(f"weight: need 4 axes, got shape {tuple(weight.shape)}")
    if weight_qp.group_size is not None or axis not in (None, 1, -3):
        raise ValueError(
            "weight_qp: need axis=1 (one scale for each output of a group) or None, "
            f"got axis={axis}, group_size={weight_qp.group_size}"
        )
    inputs, outputs, *kernel = weight.shape
    if axis is not None and len(weight_qp.scale) != outputs:
        raise ValueError(
            f"weight_qp: need a scale for each of the {outputs} outputs of a group, "
            f"or one, got {len(weight_qp.scale)}"
        )
    groups = integer(groups, 1, inputs, "groups")
    if inputs % groups:
        raise ValueError(f"groups: need a divisor of the {inputs} inputs, got {groups}")
    split = weight.reshape(groups, inputs // groups, outputs, *kernel)
    turned = split.transpose(1, 2).flatten(0, 1).flip(2, 3)
    if axis is not None:
        scale, zero_point = weight_qp.scale, weight_qp.zero_point
        weight_qp = QParams(scale.repeat(groups), zero_point.repeat(groups), dtype, 0)
    return turned, weight_qp


def prepare_conv_transpose2d(
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    qp: QParams,
    out: QParams | None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> TransposedLayer:
    """A transposed convolution whose kernels, bias and scales are ready.

    Args:
        weight, weight_qp, groups: as for ``transposed_kernels``.
        output_padding: rows and columns more at the end, fewer than the stride or the
            dilation.
        Others: as for ``prepare_conv2d``.

    Returns:
        What ``conv_transpose2d`` computes, to be called with codes.

    Raises:
        ValueError: as for ``conv_transpose2d``.

    Source: Dumoulin and Visin, arXiv 1603.07285, chapter 4.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> w, w_qp = torch.tensor([[[[1, 2]]]]), QParams(1.0, 0, INT8)
    >>> x = QParams(0.5, 0, UINT8)
    >>> layer = prepare_conv_transpose2d(w, w_qp, None, x, x, stride=(1, 2))
    >>> layer(torch.tensor([[[[3, 4]]]]))
    tensor([[[[3, 6, 4, 8]]]], dtype=torch.uint8)
    """
    kernels, kernels_qp = transposed_kernels(weight, weight_qp, groups)
    stride, dilation = _pair(stride, 1, "stride"), _pair(dilation, 1, "dilation")
    padding = _pair(padding, 0, "padding")
    more = _pair(output_padding, 0, "output_padding")
    if any(m >= max(s, d) for m, s, d in zip(more, stride, dilation, strict=True)):
        raise ValueError(
            "output_padding: need less than the stride or the dilation, got "
            f"{more} with {stride} and {dilation}"
        )
    layer = prepare_conv2d(
        kernels,
        kernels_qp,
        bias,
        qp,
        out,
        dilation=dilation,
        groups=groups,
        rounding=rounding,
        activation=activation,
    )
    vertical, horizontal = (
        d * (k - 1) - p
        for d, k, p in zip(dilation, layer.window.kernel, padding, strict=True)
    )
    after = vertical + more[0], horizontal + more[1]
    return TransposedLayer(layer, stride, (vertical, horizontal), after)


def conv_transpose2d(
    q: Tensor,
    qp: QParams,
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    out: QParams,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    dilation: Pair = 1,
    groups: int = 1,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Tensor:
    """A transposed convolution on codes, by way of the convolution that it is.

    The pixels of the input are spread apart, with zero points (real zero) in between
    and around, and a convolution of stride 1 with the kernels turned around follows.

    Args:
        q: codes of the input, shape (images, channels, height, width).
        qp: what they stand for; one scale.
        weight, weight_qp, groups: as for ``transposed_kernels``.
        bias: int32, shape (outputs,), of scale ``s_x s_w``; None: no bias.
        out: what the codes of the output shall stand for; one scale.
        stride, padding, dilation: an integer, or one for height and one for width.
        output_padding: rows and columns more at the end, fewer than the stride or the
            dilation.
        rounding, activation: as for ``conv2d``.

    Returns:
        Codes of ``out``, shape (images, outputs, height, width), with
        ``height = (rows - 1) stride - 2 padding + dilation (kernel - 1) +
        output_padding + 1``.

    Raises:
        ValueError: for other shapes, types or values; as for ``conv2d``.

    Source: Dumoulin and Visin, arXiv 1603.07285, chapter 4.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import INT8, UINT8
    >>> q, w = torch.tensor([[[[3, 4]]]]), torch.tensor([[[[1, 2]]]])
    >>> x, w_qp = QParams(0.5, 0, UINT8), QParams(1.0, 0, INT8)
    >>> conv_transpose2d(q, x, w, w_qp, None, x, stride=(1, 2))
    tensor([[[[3, 6, 4, 8]]]], dtype=torch.uint8)
    """
    _check_one_scale(out, "out")
    geometry = stride, padding, output_padding, dilation, groups
    layer = prepare_conv_transpose2d(
        weight, weight_qp, bias, qp, out, *geometry, rounding, activation
    )
    return layer(q)


def _layer_multiplier(
    qp: QParams, weight_qp: QParams, out: QParams, rounding: Rounding
) -> Tensor:
    one_of(rounding, get_args(Rounding), "rounding")
    dtype = torch.float32 if rounding == "float" else torch.float64
    return _output_multiplier(qp, weight_qp, out, dtype)


def add(
    a: Tensor,
    a_qp: QParams,
    b: Tensor,
    b_qp: QParams,
    out: QParams,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Tensor:
    """The sum of two tensors whose codes have different scales.

    Codes cannot be added before they share a scale.  As in TensorFlow Lite, both are
    shifted left by 20 bits (15 if either has more than 8), so that rounding costs
    little, brought to the scale ``2 max(s_a, s_b) / 2**20``, added, and requantized.
    The result is off by at most 1/2 and what the rounding mode adds in ``requantize``,
    and ``3 max(s_a, s_b) / (2**20 s_out)`` more, before clipping (``2**15`` in place of
    ``2**20`` after a shift by 15).  With ``"float"``, reals are added in float32 and
    quantized, as ONNX defines DequantizeLinear, Add, QuantizeLinear.

    Args:
        a, b: codes of one shape.
        a_qp, b_qp: what they stand for; one scale each.
        out: what the codes of the sum shall stand for; one scale.
        rounding: as for ``multiply_by_quantized_multiplier``.
        activation: as for ``requantize``.

    Returns:
        Codes of ``out``, of the shape of ``a``.

    Raises:
        ValueError: for other shapes, types or values; if ``out`` has so small a scale
            that a product leaves INT32.

    Source: TensorFlow Lite, ``reference_integer_ops::Add``; Jacob et al., arXiv
    1712.05877, appendix A.2.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import UINT8
    >>> a, b = torch.tensor([10, 20]), torch.tensor([30, 0])
    >>> half, tenth = QParams(0.5, 0, UINT8), QParams(0.1, 0, UINT8)
    >>> add(a, half, b, tenth, QParams(1.0, 0, UINT8))
    tensor([ 8, 10], dtype=torch.uint8)
    """
    # A table of all 2**16 pairs of codes pays where there are many more to add.
    many = isinstance(a, Tensor) and a.numel() > 1 << 18
    addition = prepare_add if many else _addition
    return addition(a_qp, b_qp, out, rounding, activation)(a, b)


@dataclass(frozen=True, eq=False)
class Addition:
    """``add`` for two scales, ready for many tensors.  Made by ``prepare_add``.

    Two codes of at most 8 bits have 65536 pairs: their sums are in a table.

    Args:
        a_qp, b_qp, out, rounding, activation: as for ``add``.
        table: the code of each sum, by the bytes of a (times 256) and b; or None.

    Source: TensorFlow Lite, ``reference_integer_ops::Add``.
    Chapter: *Integer layers*.
    """

    a_qp: QParams
    b_qp: QParams
    out: QParams
    rounding: Rounding
    activation: Activation | None
    table: Tensor | None = None

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """Codes of ``out`` for codes of one shape."""
        a, b = _codes(a, self.a_qp, "a", "a_qp"), _codes(b, self.b_qp, "b", "b_qp")
        if a.shape != b.shape:
            raise ValueError(
                f"a, b: need one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
            )
        last = _is_channels_last(a)
        if last:
            a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
        codes = self._sum(a, b) if self.table is None else self._look_up(a, b)
        return codes.permute(0, 3, 1, 2) if last else codes

    def _sum(self, a: Tensor, b: Tensor) -> Tensor:
        if self.rounding == "float":
            reals = dequantize(a, self.a_qp) + dequantize(b, self.b_qp)
            return quantize(reals, self.out).clamp_(*_ends(self.out, self.activation))
        common, bits = _common_scale(self.a_qp, self.b_qp)
        total = _shares(a, self.a_qp, common, bits, self.rounding)
        total += _shares(b, self.b_qp, common, bits, self.rounding)
        m = common / (float(self.out.scale) * 2**bits)
        return requantize(total, m, self.out, self.rounding, activation=self.activation)

    def _look_up(self, a: Tensor, b: Tensor) -> Tensor:
        assert self.table is not None
        left, right = _bytes(a, self.a_qp), _bytes(b, self.b_qp)
        codes = torch.empty_like(left, dtype=self.table.dtype)
        step = CHUNK if left.is_cpu else len(left)
        table = self.table.to(left.device)
        for start in range(0, len(left), step):
            part = slice(start, start + step)
            pairs = left[part].to(torch.int32).mul_(256)
            pairs.add_(right[part].to(torch.int32))
            torch.index_select(table, 0, pairs, out=codes[part])
        return codes.view(a.shape)


def prepare_add(
    a_qp: QParams,
    b_qp: QParams,
    out: QParams,
    rounding: Rounding = "double",
    activation: Activation | None = None,
) -> Addition:
    """The sum of two scales, ready for many tensors: that of all pairs, if they are few.

    Args:
        a_qp, b_qp, out, rounding, activation: as for ``add``.

    Returns:
        What ``add`` computes, to be called with two tensors of codes.

    Raises:
        ValueError: as for ``add``.

    Source: TensorFlow Lite, ``reference_integer_ops::Add``.
    Chapter: *Integer layers*.

    >>> from quantcourse.affine import UINT8
    >>> half, tenth = QParams(0.5, 0, UINT8), QParams(0.1, 0, UINT8)
    >>> plus = prepare_add(half, tenth, QParams(1.0, 0, UINT8))
    >>> plus(torch.tensor([10, 20]), torch.tensor([30, 0]))
    tensor([ 8, 10], dtype=torch.uint8)
    """
    plain = _addition(a_qp, b_qp, out, rounding, activation)
    if max(a_qp.dtype.bits, b_qp.dtype.bits) > 8 or not _always_fits(plain):
        return plain
    a, b = _all_bytes(a_qp), _all_bytes(b_qp)
    table = plain._sum(a.repeat_interleave(256), b.repeat(256))
    return replace(plain, table=table)


def _addition(
    a_qp: QParams,
    b_qp: QParams,
    out: QParams,
    rounding: Rounding,
    activation: Activation | None,
) -> Addition:
    one_of(rounding, get_args(Rounding), "rounding")
    for qp, name in ((a_qp, "a_qp"), (b_qp, "b_qp"), (out, "out")):
        _check_one_scale(qp, name)
    _ends(out, activation)
    return Addition(a_qp, b_qp, out, rounding, activation)


def _common_scale(a_qp: QParams, b_qp: QParams) -> tuple[float, int]:
    """Twice the larger scale, and how far codes are shifted to the left."""
    bits = 20 if max(a_qp.dtype.bits, b_qp.dtype.bits) <= 8 else 15
    # Both multipliers are then at most 1/2, and the sum stays in INT32.
    return 2 * max(float(a_qp.scale), float(b_qp.scale)), bits


def _always_fits(addition: Addition) -> bool:
    """Whether no pair of codes can be refused for a sum that is too large."""
    common, bits = _common_scale(addition.a_qp, addition.b_qp)
    if addition.rounding == "float":
        return common < 2.0**100
    return bool(common / (float(addition.out.scale) * 2**bits) < 0.5)


def _all_bytes(qp: QParams) -> Tensor:
    """256 codes in the order of their bytes; bytes that are none give the nearest."""
    codes = torch.arange(256, device=qp.scale.device).to(torch.uint8)
    return codes.view(qp.dtype.storage).clamp(qp.dtype.min, qp.dtype.max)


def _bytes(q: Tensor, qp: QParams) -> Tensor:
    return q.reshape(-1).to(qp.dtype.storage).view(torch.uint8)


def _shares(
    q: Tensor, qp: QParams, common: float, bits: int, rounding: Rounding
) -> Tensor:
    """Reals in steps of ``common / 2**bits``: computed once for each code there is."""
    codes = torch.arange(qp.dtype.min, qp.dtype.max + 1, device=q.device)
    table = multiply_by_quantized_multiplier(
        (codes - int(qp.zero_point)) << bits,
        *quantize_multiplier(float(qp.scale) / common),
        rounding,
    )
    index = (q.to(torch.int32) - qp.dtype.min).flatten()
    return table.index_select(0, index).view(q.shape)


def concat(
    parts: Sequence[tuple[Tensor, QParams]],
    out: QParams,
    axis: int = 1,
    rounding: Rounding = "double",
) -> Tensor:
    """Tensors of codes one after the other, each brought to the scale of the output.

    A part that has the parameters of the output stays as it is.

    Args:
        parts: pairs of codes and what they stand for, one scale each; shapes as for
            ``torch.cat``.
        out: what the codes of the output shall stand for; one scale.
        axis: along which to join.
        rounding: as for ``multiply_by_quantized_multiplier``.

    Returns:
        Codes of ``out``.

    Raises:
        ValueError: for no part, other shapes, types or values.

    Source: Jacob et al., arXiv 1712.05877, appendix A.3, which asks for one scale
    throughout.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import UINT8
    >>> a, b = torch.tensor([[10, 20]]), torch.tensor([[30]])
    >>> half, tenth = QParams(0.5, 0, UINT8), QParams(0.1, 0, UINT8)
    >>> concat([(a, half), (b, tenth)], half)
    tensor([[10, 20,  6]], dtype=torch.uint8)
    """
    one_of(rounding, get_args(Rounding), "rounding")
    _check_one_scale(out, "out")
    if not isinstance(parts, Sequence) or not parts:
        raise ValueError(
            "parts: need a list of pairs of codes and QParams, at least one, got "
            f"{'none' if isinstance(parts, Sequence) else f'a {type(parts).__name__}'}"
        )
    if type(axis) is not int:
        raise ValueError(f"axis: need an integer, got {axis!r}")
    codes = [_rescaled(parts, i, out, rounding) for i in range(len(parts))]
    try:
        return torch.cat(codes, axis)
    except (IndexError, RuntimeError) as error:
        raise ValueError(
            f"parts, axis: need shapes that join along axis {axis}, got "
            f"{[tuple(q.shape) for q in codes]}"
        ) from error


def _rescaled(
    parts: Sequence[tuple[Tensor, QParams]], i: int, out: QParams, rounding: Rounding
) -> Tensor:
    """The codes of one part, on the scale of the output."""
    part, name = parts[i], f"parts[{i}]"
    if not isinstance(part, tuple) or len(part) != 2:
        raise ValueError(
            f"{name}: need a pair of codes and QParams, got a {type(part).__name__}"
        )
    q, qp = part
    q = _codes(q, qp, name, name)
    if qp == out:
        return q.to(out.dtype.storage)
    m = float(qp.scale) / float(out.scale)
    if q.numel() <= 1024 or qp.dtype.bits > 8 or m > 2**16:
        return requantize(q.to(torch.int32) - int(qp.zero_point), m, out, rounding)
    # There are few codes: the new one of each is in a table.
    centred = _all_bytes(qp).to(torch.int32) - int(qp.zero_point)
    table = requantize(centred, m, out, rounding).to(q.device)
    last = q.permute(0, 2, 3, 1) if _is_channels_last(q) else q
    codes = table.index_select(0, _bytes(last, qp).to(torch.int32)).view(last.shape)
    return codes.permute(0, 3, 1, 2) if last is not q else codes


def avg_pool(
    q: Tensor,
    qp: QParams,
    kernel_size: Pair | None = None,
    stride: Pair | None = None,
    padding: Pair = 0,
    out: QParams | None = None,
    rounding: Rounding = "double",
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Averages of codes: ``M sum (q - z)`` with ``M = s / (n s_out)``, requantized.

    Padding is real zero and counts among the n, as torch does by default.  Where
    windows count unequal n, each has its own M.  A mean of
    ``2**k`` codes often lies halfway between two: ``"double"`` rounds it away from zero
    (real zero), and some a little below halfway too; ``"single"`` rounds it up,
    ``"float"`` to even.

    Args:
        q: codes, shape (images, channels, height, width).
        qp: what they stand for; one scale.
        kernel_size: of the window; None: the whole map.
        stride: None: that of the window side by side.
        padding: at most half the window.
        out: what the codes of the output shall stand for; None: as the input.
        rounding: as for ``multiply_by_quantized_multiplier``.
        ceil_mode: whether a last window may pass the end of the padding; what lies
            beyond does not count.
        count_include_pad: whether padding counts among the n.

    Returns:
        Codes of ``out``, shape (images, channels, height, width).

    Raises:
        ValueError: for other shapes, types or values.

    Source: the definition.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import UINT8
    >>> q = torch.tensor([[[[0, 1], [2, 4]]]])
    >>> avg_pool(q, QParams(0.5, 0, UINT8)).item()  # 1.75
    2
    """
    images = _images(q, qp)
    if kernel_size is None:
        if stride is not None or padding != 0:
            raise ValueError("kernel_size: need one for a stride or padding, got None")
        kernel_size = (images.shape[2], images.shape[3])
    window = _pooling_window(images, kernel_size, stride, padding, 1, ceil_mode)
    _check_flag(count_include_pad, "count_include_pad")
    size = images.shape[2:]
    ends = []
    for axis, count in enumerate(window.positions(size, ceil_mode)):
        padding_, length = window.padding[axis], size[axis]
        first = torch.arange(count) * window.stride[axis] - padding_
        last = (first + window.kernel[axis]).clamp(max=length + padding_)
        ends.append(
            (first, last) if count_include_pad else _inside(first, last, length)
        )
    return _means(images, qp, ends, qp if out is None else out, rounding)


def adaptive_avg_pool(
    q: Tensor,
    qp: QParams,
    output_size: Pair,
    out: QParams | None = None,
    rounding: Rounding = "double",
) -> Tensor:
    """Averages over a grid of windows that cover the image, whatever its size.

    Window i of n along an axis of length L reaches from ``floor(i L / n)`` to
    ``ceil((i + 1) L / n)``: they differ in size where n does not divide L, and each
    size has its own multiplier.

    Args:
        q: codes, shape (images, channels, height, width).
        qp: what they stand for; one scale.
        output_size: rows and columns of the output; one integer for both.
        out: what the codes of the output shall stand for; None: as the input.
        rounding: as for ``avg_pool``.

    Returns:
        Codes of ``out``, shape (images, channels, rows, columns).

    Raises:
        ValueError: for other shapes, types or values.

    Source: torch, ``adaptive_avg_pool2d``.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import UINT8
    >>> q = torch.tensor([[[[0, 4, 8]]]])
    >>> adaptive_avg_pool(q, QParams(0.5, 0, UINT8), (1, 2))
    tensor([[[[2, 6]]]], dtype=torch.uint8)
    """
    images = _images(q, qp)
    ends = []
    sizes = _pair(output_size, 1, "output_size")
    for count, length in zip(sizes, images.shape[2:], strict=True):
        i = torch.arange(count)
        ends.append((i * length // count, -(-(i + 1) * length // count)))
    return _means(images, qp, ends, qp if out is None else out, rounding)


def _means(
    images: Tensor,
    qp: QParams,
    ends: Sequence[tuple[Tensor, Tensor]],
    out: QParams,
    rounding: Rounding,
) -> Tensor:
    """Averages over windows, given by their ends along each axis.

    What lies outside of the image is zero, and counts.
    """
    _check_one_scale(out, "out")
    sums = images.to(torch.int64) - int(qp.zero_point)
    for axis, (first, last) in enumerate(ends, start=2):
        # The sum up to each row: a window's is that up to its end less that before it.
        up_to = functional.pad(sums.cumsum(axis).movedim(axis, -1), (1, 0))
        first, last = (
            e.to(sums.device) for e in _inside(first, last, images.shape[axis])
        )
        inside = up_to.index_select(-1, last) - up_to.index_select(-1, first)
        sums = inside.movedim(-1, axis)
    _check_int32(sums, "the sum of a window")
    rows, columns = (last - first for first, last in ends)
    cells = (rows.unsqueeze(1) * columns).to(torch.float64)
    m = float(qp.scale) / (cells * float(out.scale))
    if (cells == cells[0, 0]).all():
        return requantize(sums.to(torch.int32), m[0, 0], out, rounding)
    flat = sums.to(torch.int32).flatten(2)
    return requantize(flat, m.flatten(), out, rounding).view(sums.shape)


def _inside(first: Tensor, last: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """The part of each window that lies in the image."""
    return first.clamp(min=0), last.clamp(max=length)


def max_pool(
    q: Tensor,
    qp: QParams,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """The largest code of each window: a larger code is a larger number.

    Args:
        q: codes, shape (images, channels, height, width).
        qp: what they stand for; one scale.
        kernel_size: of the window.
        stride: None: that of the window side by side.
        padding: at most half the window; it never wins.
        dilation: the distance of neighbours in the window, so that it meets the image.
        ceil_mode: whether a last window may pass the end of the padding.

    Returns:
        Codes of ``qp``, shape (images, channels, height, width).

    Raises:
        ValueError: for other shapes, types or values.

    Source: the definition.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import UINT8
    >>> max_pool(torch.tensor([[[[0, 1], [2, 4]]]]), QParams(0.5, 3, UINT8), 2).item()
    4
    """
    images = _images(q, qp)
    window = _pooling_window(images, kernel_size, stride, padding, dilation, ceil_mode)
    largest = images.to(qp.dtype.storage)
    for axis, count in enumerate(window.positions(images.shape[2:], ceil_mode)):
        largest = _largest_along(largest, axis, count, window, qp.dtype.min)
    return largest


def _largest_along(
    images: Tensor, axis: int, count: int, window: Window, fill: int
) -> Tensor:
    """The largest code of each window's row (axis 1) or column (0), ``count`` of them."""
    before, stride = window.padding[axis], window.stride[axis]
    kernel, dilation = window.kernel[axis], window.dilation[axis]
    seen = (count - 1) * stride + 1
    after = seen + dilation * (kernel - 1) - before - images.shape[axis + 2]
    sides = (before, after) if axis == 1 else (0, 0, before, after)
    line = functional.pad(images, sides, value=fill).movedim(axis + 2, -1)
    # The first of every window, the second of every window, ...
    starts = range(0, dilation * kernel, dilation)
    neighbours = [line[..., start : start + seen : stride] for start in starts]
    return reduce(torch.maximum, neighbours).movedim(-1, axis + 2)


def relu(q: Tensor, qp: QParams) -> Tensor:
    """``max(q, z)``: the code of zero is the zero point, not 0.

    Args:
        q: codes, any shape.
        qp: what they stand for; one scale.

    Returns:
        Codes of ``qp``.

    Raises:
        ValueError: for other types or values.

    Source: the definition.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import UINT8
    >>> relu(torch.tensor([0, 3, 9]), QParams(0.5, 3, UINT8))
    tensor([3, 3, 9], dtype=torch.uint8)
    """
    return _activate(q, qp, "relu")


def relu6(q: Tensor, qp: QParams) -> Tensor:
    """``min(max(q, z), q6)``, with ``q6`` the code of 6, or the largest there is.

    Args, Returns, Raises: as for ``relu``.

    Source: the definition.  Chapter: *Integer layers*.

    >>> from quantcourse.affine import UINT8
    >>> relu6(torch.tensor([0, 3, 9, 200]), QParams(0.5, 3, UINT8))
    tensor([ 3,  3,  9, 15], dtype=torch.uint8)
    """
    return _activate(q, qp, "relu6")


def _activate(q: Tensor, qp: QParams, activation: Activation) -> Tensor:
    codes = _codes(q, qp, "q")
    return codes.clamp(*_ends(qp, activation)).to(qp.dtype.storage)


def _ends(qp: QParams, activation: Activation | None) -> tuple[int, int]:
    """The smallest and the largest code that the output may have."""
    if activation is None:
        return qp.dtype.min, qp.dtype.max
    one_of(activation, get_args(Activation), "activation")
    if activation == "relu":
        return int(qp.zero_point), qp.dtype.max
    return int(qp.zero_point), int(quantize(torch.full_like(qp.scale, 6.0), qp))


# --- Checks -----------------------------------------------------------------------


def _multipliers(m: Tensor | float, name: str) -> Tensor:
    """``m`` in float64, refusing what is negative or not finite."""
    if not isinstance(m, Tensor):
        if isinstance(m, bool) or not isinstance(m, Real):
            raise ValueError(f"{name}: need a number or a torch tensor, got {m!r}")
        try:
            m = torch.tensor(float(m), dtype=torch.float64)
        except OverflowError as error:
            raise ValueError(f"{name}: need a float64, got {shown(m)}") from error
    values = finite_floats(m, name).detach().to(torch.float64)
    if (values < 0).any():
        raise ValueError(
            f"{name}: need 0 or more, got {float(values.min())} (scales are positive)"
        )
    if (values > LARGEST_MULTIPLIER).any():
        raise ValueError(
            f"{name}: need less than about 2**30, got {float(values.max()):g}"
        )
    return values


def _as_tensor(n: Tensor | int, name: str) -> Tensor:
    """A Python integer as a 0-d tensor, a tensor as it is."""
    if isinstance(n, Integral) and not isinstance(n, bool):
        return torch.tensor(integer(n, -(2**63), 2**63 - 1, name))
    if not isinstance(n, Tensor):
        raise ValueError(f"{name}: need an integer or a torch tensor, got {shown(n)}")
    return n


def _integers(q: object, low: int, high: int, name: str) -> Tensor:
    """``q`` as it is, refusing what is empty or holds more than integers in a range."""
    q = dense(q, name)
    if q.dtype not in INTEGERS:
        raise ValueError(f"{name}: need integers (uint8 or signed), got {q.dtype}")
    if not q.numel():
        raise ValueError(f"{name}: need at least one, got shape {tuple(q.shape)}")
    held = torch.iinfo(q.dtype)
    if low <= held.min and held.max <= high:
        return q
    in_memory = (
        q.permute(0, 2, 3, 1) if _is_channels_last(q) else q
    )  # several times faster
    smallest, largest = (int(end) for end in in_memory.aminmax())
    if smallest < low or largest > high:
        raise ValueError(f"{name}: need {low} to {high}, got {smallest} to {largest}")
    return q


def _codes(q: Tensor, qp: QParams, name: str, qp_name: str = "qp") -> Tensor:
    _check_one_scale(qp, qp_name)
    return _integers(q, qp.dtype.min, qp.dtype.max, name)


def _images(q: Tensor, qp: QParams) -> Tensor:
    images = _codes(q, qp, "q")
    if images.ndim != 4:
        raise ValueError(
            "q: need shape (images, channels, height, width), "
            f"got {tuple(images.shape)}"
        )
    return images


def _weight_codes(weight: Tensor, qp: QParams, ndim: int) -> Tensor:
    _check_weight_qp(qp)
    weight = _integers(weight, qp.dtype.min, qp.dtype.max, "weight")
    if weight.ndim != ndim:
        raise ValueError(f"weight: need {ndim} axes, got shape {tuple(weight.shape)}")
    if qp.axis is not None and len(qp.scale) != len(weight):
        raise ValueError(
            f"weight_qp: need a scale for each of the {len(weight)} outputs, or one, "
            f"got {len(qp.scale)}"
        )
    return weight


def _bias_codes(bias: Tensor | None, weight: Tensor) -> Tensor:
    """``bias``, or zeros for None."""
    if bias is None:
        return torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    bias = dense(bias, "bias")
    if bias.dtype != torch.int32 or bias.shape != (len(weight),):
        raise ValueError(
            f"bias: need int32 of shape ({len(weight)},), got {bias.dtype} of shape "
            f"{tuple(bias.shape)}; see quantize_bias"
        )
    return bias.to(weight.device)


def _check_one_scale(qp: object, name: str) -> None:
    if not isinstance(qp, QParams):
        raise ValueError(f"{name}: need QParams, got a {type(qp).__name__}")
    if qp.axis is not None:
        raise ValueError(f"{name}: need one scale (axis=None), got axis={qp.axis}")


def _check_weight_qp(qp: object) -> None:
    if not isinstance(qp, QParams):
        raise ValueError(f"weight_qp: need QParams, got a {type(qp).__name__}")
    if qp.group_size is not None:
        raise ValueError(
            "weight_qp: need one scale per tensor or output, since a sum of products "
            f"has one scale; got group_size={qp.group_size}"
        )
    if qp.axis not in (None, 0):
        raise ValueError(
            f"weight_qp: need axis=0 (one scale for each output) or None, got {qp.axis}"
        )


def _check_flag(value: object, name: str) -> None:
    if not isinstance(value, bool):
        raise ValueError(f"{name}: need True or False, got {value!r}")


def _pair(value: Pair, low: int, name: str) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, Integral) else value
    if not isinstance(pair, tuple) or len(pair) != 2:
        raise ValueError(f"{name}: need an integer or a pair of them, got {value!r}")
    vertical, horizontal = (integer(n, low, INT32_MAX, name) for n in pair)
    return vertical, horizontal


def _pooling_window(
    images: Tensor,
    kernel_size: Pair,
    stride: Pair | None,
    padding: Pair,
    dilation: Pair,
    ceil_mode: bool,
) -> Window:
    _check_flag(ceil_mode, "ceil_mode")
    kernel = _pair(kernel_size, 1, "kernel_size")
    window = Window(
        kernel,
        kernel if stride is None else _pair(stride, 1, "stride"),
        _pair(padding, 0, "padding"),
        _pair(dilation, 1, "dilation"),
    )
    if any(2 * p > k for p, k in zip(window.padding, kernel, strict=True)):
        raise ValueError(
            f"padding: need at most half of the kernel {kernel}, got {window.padding}"
        )
    size = (images.shape[2], images.shape[3])
    window.positions(size, ceil_mode)
    # Only two neighbours, one on each side of the image, can both lie in the padding.
    per_axis = zip(kernel, window.dilation, size, strict=True)
    if any(k > 1 and d > length for k, d, length in per_axis):
        raise ValueError(
            f"dilation: need at most the image's {size}, got {window.dilation}: a "
            "window lies in the padding alone"
        )
    return window


def _is_channels_last(t: Tensor) -> bool:
    return t.ndim == 4 and t.is_contiguous(memory_format=torch.channels_last)
