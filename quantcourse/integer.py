"""Integer arithmetic: layers that compute on codes, without floats in between.

A layer sums products of codes in INT32, multiplies the sum by a constant M, which
itself is an integer and a shift, adds the zero point of its output and clips.
Explained in the chapters *The integer multiplier* and *Integer layers*.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from numbers import Integral, Real
from typing import Literal, get_args, overload

import torch
from torch import Tensor
from torch.nn import functional

from quantcourse._checks import integer, one_of, shown
from quantcourse._tensor_checks import dense, finite_floats
from quantcourse.affine import INTEGERS, QParams, dequantize, quantize

__all__ = [
    "accumulate_conv2d",
    "accumulate_linear",
    "add",
    "avg_pool",
    "concat",
    "conv2d",
    "linear",
    "max_pool",
    "multiply_by_quantized_multiplier",
    "output_multiplier",
    "quantize_bias",
    "quantize_multiplier",
    "relu",
    "relu6",
    "requantize",
]

Rounding = Literal["double", "single", "float"]
Activation = Literal["relu", "relu6"]
Pair = int | tuple[int, int]

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
LARGEST_MULTIPLIER = math.nextafter(2**30 - 0.25, 0)  # m0 stays below 2**31 at shift 30
CHUNK = 1 << 15  # accumulators to requantize at once: what lies between stays in cache


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
    low, high = _ends(qp, activation)
    values = _multipliers(multiplier, "multiplier").to(acc.device)
    if rounding == "float":
        values = values.to(torch.float32)
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
    m0, shift = quantize_multiplier(values)
    zero_point = int(qp.zero_point)
    # That axis last, so that rows of channels meet a row of multipliers.
    last = acc.movedim(axis, -1) if acc.ndim else acc.view(1)
    rows = last.reshape(-1, last.shape[-1])
    codes = torch.empty(rows.shape, dtype=qp.dtype.storage, device=acc.device)
    step = max(1, CHUNK // rows.shape[1])
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        result = _multiply(rows[part], m0, shift, rounding)
        codes[part] = result.clamp_(low - zero_point, high - zero_point) + zero_point
    return codes.reshape(last.shape).movedim(-1, axis).view(acc.shape)


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
    q, weight = _codes(q, qp, "q"), _weight_codes(weight, weight_qp, 2)
    if q.ndim < 1 or q.shape[-1] != weight.shape[1]:
        raise ValueError(
            f"q: need shape (..., {weight.shape[1]}) for weights of shape "
            f"{tuple(weight.shape)}, got {tuple(q.shape)}"
        )
    pixels = q.reshape(-1, weight.shape[1], 1, 1)
    window = _Window((1, 1), (1, 1), (0, 0), (1, 1), groups=1)
    kernels = weight[:, :, None, None]
    sums = _accumulate(pixels, qp, kernels, weight_qp, bias, window)
    return sums.reshape(*q.shape[:-1], len(weight))


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
    q, weight = _codes(q, qp, "q"), _weight_codes(weight, weight_qp, 4)
    groups = integer(groups, 1, len(weight), "groups")
    channels = weight.shape[1] * groups
    if len(weight) % groups:
        raise ValueError(
            f"groups: need a divisor of the {len(weight)} outputs, got {groups}"
        )
    if q.ndim != 4 or q.shape[1] != channels:
        raise ValueError(
            f"q: need shape (images, {channels}, height, width) for weights of shape "
            f"{tuple(weight.shape)} in {groups} groups, got {tuple(q.shape)}"
        )
    window = _Window(
        (weight.shape[2], weight.shape[3]),
        _pair(stride, 1, "stride"),
        _pair(padding, 0, "padding"),
        _pair(dilation, 1, "dilation"),
        groups,
    )
    return _accumulate(q, qp, weight, weight_qp, bias, window)


@dataclass(frozen=True)
class _Window:
    """How a kernel passes over an image; each pair is (vertical, horizontal)."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int = 1

    def positions(self, size: Sequence[int]) -> tuple[int, int]:
        """Rows and columns of the output, for an image of ``size`` (height, width)."""
        height, width = (
            (length + 2 * p - d * (k - 1) - 1) // s + 1
            for length, k, s, p, d in zip(
                size, self.kernel, self.stride, self.padding, self.dilation, strict=True
            )
        )
        if height < 1 or width < 1:
            raise ValueError(
                f"q: need an image that holds the kernel {self.kernel} (padding "
                f"{self.padding}, dilation {self.dilation}), got {tuple(size)}"
            )
        return height, width


def _accumulate(
    q: Tensor,
    qp: QParams,
    weight: Tensor,
    weight_qp: QParams,
    bias: Tensor | None,
    window: _Window,
) -> Tensor:
    window.positions(q.shape[2:])
    weight = _centred(weight, weight_qp)
    added = _bias_codes(bias, weight)
    zero_point = int(qp.zero_point)
    reach = max(zero_point - qp.dtype.min, qp.dtype.max - zero_point)
    _check_bound(weight, added, reach)
    if _fits_int8_product(weight, qp, window):
        return _int8_sums(q, qp, weight, added, window)
    sums = _float_sums(q, zero_point, weight, reach, window)
    return sums.add_(added.view(-1, 1, 1))


def _check_bound(weight: Tensor, bias: Tensor, reach: int) -> None:
    """Whether no input can take a sum out of INT32; its terms may all have one sign."""
    largest = int((_magnitude(weight) * reach + bias.to(torch.int64).abs()).max())
    if largest > INT32_MAX:
        raise ValueError(
            "weight, bias: need sum|w - z_w| * max|q - z_x| + |bias| of at most "
            f"{INT32_MAX}, so that no input overflows INT32, got {largest}: use fewer "
            "inputs per output, or narrower types"
        )


def _magnitude(weight: Tensor) -> Tensor:
    """``sum |w|`` of each output."""
    # Sums in INT32 are faster, and wide enough for 2**23 codes of 8 bits.
    small = weight.dtype == torch.int8 and weight[0].numel() <= 1 << 23
    kind = torch.int32 if small else torch.int64
    return weight.to(torch.int32).abs().flatten(1).sum(1, dtype=kind).to(torch.int64)


def _fits_int8_product(weight: Tensor, qp: QParams, window: _Window) -> bool:
    return (
        window.groups == 1
        and weight[0].numel() > 1  # torch misreads a transposed matrix of one row
        and qp.dtype.bits <= 8
        and weight.dtype == torch.int8
        and weight.device.type == "cpu"
        and _int_mm_is_exact()
    )


@cache
def _int_mm_is_exact() -> bool:
    """Whether this machine's product of int8 matrices is exact.

    Without instructions that add straight into INT32, the library behind it adds pairs
    of products in INT16, which saturates.  Then the largest products show it.
    """
    if not hasattr(torch, "_int_mm"):
        return False
    generator = torch.Generator().manual_seed(0)
    for m, k, n in [(1, 64, 1), (3, 7, 5), (17, 64, 16), (64, 576, 64), (50, 1000, 33)]:
        for low, high in [(127, 127), (-128, -128), (-128, 127), (127, -128)]:
            a = torch.full((m, k), low, dtype=torch.int8)
            b = torch.full((n, k), high, dtype=torch.int8)
            a[torch.rand(m, k, generator=generator) < 0.1] = 1
            exact = a.to(torch.float64) @ b.to(torch.float64).T
            if not torch.equal(torch._int_mm(a, b.T).to(torch.float64), exact):
                return False
    return True


def _int8_sums(
    q: Tensor, qp: QParams, weight: Tensor, bias: Tensor, window: _Window
) -> Tensor:
    """One product of int8 matrices: the rows are windows, the columns are outputs.

    ``sum (q - z) w = sum q w - z sum w``: the last term is known beforehand,
    as the bias is.
    """
    # Codes up to 255 become int8 together with their zero point, which changes no sum.
    offset = 128 if qp.dtype.max > 127 else 0
    zero_point = int(qp.zero_point) - offset
    codes = (q.to(torch.int16) - offset).to(torch.int8)
    windows = _windows(codes.permute(0, 2, 3, 1), zero_point, window)
    kernels = weight.permute(0, 2, 3, 1).flatten(1)
    constant = bias - zero_point * kernels.sum(1, dtype=torch.int32)
    sums = torch._int_mm(_dense_rows(windows.flatten(0, 2)), _dense_rows(kernels).T)
    return sums.add_(constant).view(*windows.shape[:3], -1).permute(0, 3, 1, 2)


def _dense_rows(matrix: Tensor) -> Tensor:
    """Rows one after the other in memory.

    ``torch._int_mm`` misreads windows that overlap in memory, and a single row whose
    stride is not its length, which torch counts as contiguous.
    """
    if matrix.stride() == (matrix.shape[1], 1):
        return matrix
    return matrix.clone(memory_format=torch.contiguous_format)


def _windows(images: Tensor, fill: int, window: _Window) -> Tensor:
    """What the kernel sees at each position, in a row: (images, height, width, row).

    ``images`` has its channels last.
    """
    (kernel_h, kernel_w), (s_h, s_w) = window.kernel, window.stride
    (p_h, p_w), (d_h, d_w) = window.padding, window.dilation
    height, width = window.positions(images.shape[1:3])
    padded = functional.pad(images, (0, 0, p_w, p_w, p_h, p_h), value=fill).contiguous()
    count, _, _, channels = padded.shape
    image, row, pixel, channel = padded.stride()
    return padded.as_strided(
        (count, height, width, kernel_h, kernel_w, channels),
        (image, row * s_h, pixel * s_w, row * d_h, pixel * d_w, channel),
    ).reshape(count, height, width, -1)


def _float_sums(
    q: Tensor, zero_point: int, weight: Tensor, reach: int, window: _Window
) -> Tensor:
    """The sums in floats wide enough to be exact, whatever the order of the sum.

    Codes of 8 bits stay exact even where a setting lets float32 lose bits in products.
    """
    kind = torch.float64
    if q.is_cpu and _has_mkldnn() and reach <= 256:
        weight = weight.to(torch.int32)
        if int(weight.abs().max()) <= 256:
            if int(_magnitude(weight).max()) * reach < 1 << 24:
                kind = torch.float32
            elif window.groups == 1 and weight.shape[1] > 1:  # half the channels each
                first, second = (
                    _float_sums(x, zero_point, w, reach, window)
                    for x, w in zip(q.chunk(2, 1), weight.chunk(2, 1), strict=True)
                )
                return first.add_(second)
    with torch.autocast(q.device.type, enabled=False):  # bfloat16 would round
        sums = functional.conv2d(
            q.to(kind).sub_(zero_point),
            weight.to(kind),
            None,
            window.stride,
            window.padding,
            window.dilation,
            window.groups,
        )
    return sums.to(torch.int32)


def _has_mkldnn() -> bool:
    """Other libraries may take the short cut of Winograd, which rounds."""
    library = torch.backends.mkldnn
    present = library.is_available()  # type: ignore[no-untyped-call]
    return bool(present and library.enabled)


def _centred(weight: Tensor, qp: QParams) -> Tensor:
    """``w - z_w``, as int8 where it fits."""
    zero_point = qp.zero_point.to(weight.device)
    if zero_point.any():
        weight = weight.to(torch.int32) - zero_point.view(-1, *[1] * (weight.ndim - 1))
    low, high = (int(end) for end in weight.aminmax())
    return weight.to(torch.int8 if low >= -128 and high <= 127 else torch.int32)


# --- Layers -----------------------------------------------------------------------


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
    """A linear layer on codes: ``accumulate_linear``, then ``requantize``.

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
    acc = accumulate_linear(q, qp, weight, weight_qp, bias)
    m = _layer_multiplier(qp, weight_qp, out, rounding)
    return requantize(acc, m, out, rounding, axis=-1, activation=activation)


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
    """A convolution on codes: ``accumulate_conv2d``, then ``requantize``.

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
    acc = accumulate_conv2d(
        q, qp, weight, weight_qp, bias, stride, padding, dilation, groups
    )
    m = _layer_multiplier(qp, weight_qp, out, rounding)
    return requantize(acc, m, out, rounding, axis=1, activation=activation)


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
    one_of(rounding, get_args(Rounding), "rounding")
    a, b = _codes(a, a_qp, "a", "a_qp"), _codes(b, b_qp, "b", "b_qp")
    _check_one_scale(out, "out")
    if a.shape != b.shape:
        raise ValueError(
            f"a, b: need one shape, got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    low, high = _ends(out, activation)
    if rounding == "float":
        reals = dequantize(a, a_qp) + dequantize(b, b_qp)
        return quantize(reals, out).clamp_(low, high)
    bits = 20 if max(a_qp.dtype.bits, b_qp.dtype.bits) <= 8 else 15
    # Both multipliers are then at most 1/2, and the sum stays in INT32.
    common = 2 * max(float(a_qp.scale), float(b_qp.scale))
    channels_last = _is_channels_last(a)
    if channels_last:
        a, b = a.permute(0, 2, 3, 1), b.permute(0, 2, 3, 1)
    total = _shares(a, a_qp, common, bits, rounding)
    total += _shares(b, b_qp, common, bits, rounding)
    m = common / (float(out.scale) * 2**bits)
    codes = requantize(total, m, out, rounding, activation=activation)
    return codes.permute(0, 3, 1, 2) if channels_last else codes


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
    centred = q.to(torch.int32) - int(qp.zero_point)
    return requantize(centred, float(qp.scale) / float(out.scale), out, rounding)


def avg_pool(
    q: Tensor,
    qp: QParams,
    kernel_size: Pair | None = None,
    stride: Pair | None = None,
    padding: Pair = 0,
    out: QParams | None = None,
    rounding: Rounding = "double",
) -> Tensor:
    """Averages of codes: ``M sum (q - z)`` with ``M = s / (n s_out)``, requantized.

    Padding is real zero and counts among the n, as torch does by default.  A mean of
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
    out = qp if out is None else out
    _check_one_scale(out, "out")
    if kernel_size is None:
        if stride is not None or padding != 0:
            raise ValueError("kernel_size: need one for a stride or padding, got None")
        kernel_size = (images.shape[2], images.shape[3])
    window = _pooling_window(images, kernel_size, stride, padding, 1)
    # Sums of codes are whole and far below 2**53.
    sums = functional.avg_pool2d(
        (images.to(torch.int32) - int(qp.zero_point)).to(torch.float64),
        window.kernel,
        window.stride,
        window.padding,
        divisor_override=1,
    )
    count = window.kernel[0] * window.kernel[1]
    m = float(qp.scale) / (count * float(out.scale))
    _check_int32(sums, "the sum of a window")
    return requantize(sums.to(torch.int32), m, out, rounding)


def max_pool(
    q: Tensor,
    qp: QParams,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
) -> Tensor:
    """The largest code of each window: a larger code is a larger number.

    Args:
        q: codes, shape (images, channels, height, width).
        qp: what they stand for; one scale.
        kernel_size: of the window.
        stride: None: that of the window side by side.
        padding: at most half the window; it never wins.
        dilation: the distance of neighbours in the window, so that it meets the image.

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
    window = _pooling_window(images, kernel_size, stride, padding, dilation)
    largest = functional.max_pool2d(
        images.to(torch.float32),  # torch pools no integers; this holds codes exactly
        window.kernel,
        window.stride,
        window.padding,
        window.dilation,
    )
    return largest.to(qp.dtype.storage)


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
) -> _Window:
    kernel = _pair(kernel_size, 1, "kernel_size")
    window = _Window(
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
    window.positions(size)
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
