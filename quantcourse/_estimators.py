"""Rounding that can be trained through: what each estimator computes, and what it
gives for a derivative.

Public names are those of `quantcourse.qat`.  All write the codes of a grid relative to its
zero point, as the papers do: they run from ``low = q_min - z`` to ``high = q_max - z``, which
LSQ calls ``-Q_N`` and ``Q_P``.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from quantcourse._checks import integer, number
from quantcourse._tensor_checks import dense, finite_floats

Bound = float | Tensor

EDGE = 2.0**-10
"""A part of a step, more than the last bit of ``v / s`` in float32 up to 2**13."""


def straight_through(v: Tensor, scale: Tensor, low: Bound, high: Bound) -> Tensor:
    """A value on its grid, ``s clip(round(v / s), low, high)``, to be trained through.

    The derivative with respect to v is that of clipping alone, as if nothing were
    rounded:

        ``1`` where ``low <= v / s <= high``, else ``0``

    The edges count as inside, give or take the last bit of the quotient: where a scale
    comes from the largest weight, that weight stays trainable (up to 14 bits; beyond,
    a last bit may be more than is given).

    Args:
        v: floats of any shape.
        scale: size of a step, in a shape that broadcasts against ``v``; gets no gradient.
        low, high: the smallest and the largest code, less the zero point: numbers, or
            tensors that broadcast.

    Returns:
        Floats of the shape of ``v``.

    Raises:
        ValueError: if ``v`` is no tensor of floats, empty, or holds NaN or infinity; for
            a scale that is not positive and finite; for ``low`` not below ``high``.

    Source: Bengio et al. 2013, arXiv 1308.3432, section 4; with clipping: Hubara et al.
    2016, arXiv 1602.02830, equation 4.  Chapter: *Training with quantization*.

    >>> v = torch.tensor([-9.0, 0.2, 0.8, 9.0], requires_grad=True)
    >>> y = straight_through(v, torch.tensor(0.5), -8, 7)
    >>> y.sum().backward()
    >>> y.tolist(), v.grad.tolist()
    ([-4.0, 0.0, 1.0, 3.5], [0.0, 1.0, 1.0, 0.0])
    """
    return applied(StraightThrough, *_grid(v, scale, low, high))


def lsq(
    v: Tensor, scale: Tensor, low: Bound, high: Bound, gradient_scale: Bound = 1.0
) -> Tensor:
    """A value on a grid whose step is learned.

    As ``straight_through``, and the step has a derivative too.  With the rounding error
    held fixed, ``y = s (v / s + (round(v / s) - v / s))`` inside, so that

        ``dy/ds = round(v / s) - v / s``  where ``low < v / s < high``,
        ``dy/ds = low`` below, ``high`` above, edges included,
        ``dy/dv = 1`` inside, ``0`` outside.

    The sum over all v of one step is multiplied by ``gradient_scale``; the paper takes
    ``1 / sqrt(N Q_P)``, see ``lsq_gradient_scale``.

    Args:
        v, low, high: as for ``straight_through``.
        scale: positive, to be learned.
        gradient_scale: a number, or a tensor of the shape of ``scale``.

    Returns:
        Floats of the shape of ``v``.

    Raises:
        ValueError: as for ``straight_through``.

    Source: Esser et al. 2020, arXiv 1902.08153, equations 1 to 5.
    Chapter: *Learned quantization parameters*.

    >>> v = torch.tensor([-9.0, 0.2, 0.9, 9.0], requires_grad=True)
    >>> s = torch.tensor(0.5, requires_grad=True)
    >>> lsq(v, s, -8, 7).sum().backward()
    >>> v.grad.tolist(), round(float(s.grad), 4)  # -8 - 0.4 + 0.2 + 7
    ([0.0, 1.0, 1.0, 0.0], -1.2)
    """
    factor = _factor(gradient_scale)
    return applied(LSQ, *_grid(v, scale, low, high), factor, 0.0)


def lsq_plus(
    v: Tensor,
    scale: Tensor,
    offset: Tensor,
    q_min: int,
    q_max: int,
    gradient_scale: Bound = 1.0,
) -> Tensor:
    """A value on a grid whose step and offset are learned.

    ``y = s q + beta`` with ``q = clip(round((v - beta) / s), q_min, q_max)``.  For zero to
    stay on the grid, beta acts as the nearest ``-s z`` with a whole zero point z in ``q_min
    .. q_max``.  The derivatives are those of the paper:

        ``dy/ds = q - (v - beta) / s`` inside, ``q`` outside,
        ``dy/dbeta = 0`` inside, ``1`` outside,
        ``dy/dv = 1`` inside, ``0`` outside.

    Args:
        v: floats of any shape.
        scale, offset: s and beta, in shapes that broadcast against ``v``, to be learned.
        q_min, q_max: the codes of the type.
        gradient_scale: of both, a number; a tensor only if both have its shape.

    Returns:
        Floats of the shape of ``v``.

    Raises:
        ValueError: as for ``straight_through``.

    Source: Bhalgat et al. 2020, arXiv 2004.09576, equations 2 to 7.
    Chapter: *Learned quantization parameters*.

    >>> v = torch.tensor([-2.0, 0.1, 5.0], requires_grad=True)
    >>> s, beta = torch.tensor(0.5).requires_grad_(), torch.tensor(-1.0).requires_grad_()
    >>> y = lsq_plus(v, s, beta, 0, 7)
    >>> y.sum().backward()
    >>> y.tolist(), float(beta.grad), round(float(s.grad), 4)
    ([-1.0, 0.0, 2.5], 2.0, 6.8)
    """
    v = finite_floats(v, "v")
    _check_fits(finite_floats(offset, "offset"), v, "offset")
    _check_positive(scale, v, "scale")
    integer(q_max, -(2**31), 2**31, "q_max")
    integer(q_min, -(2**31), q_max - 1, "q_min")
    factor = _factor(gradient_scale)
    shape = factor.shape if isinstance(factor, Tensor) else ()
    if shape and not shape == scale.shape == offset.shape:
        raise ValueError(
            f"gradient_scale: need a number where scale {tuple(scale.shape)} and offset "
            f"{tuple(offset.shape)} are no tensors of one shape, got "
            f"{tuple(shape)}"
        )
    return applied(LSQPlus, v, scale, offset, q_min, q_max, factor)


def pact(x: Tensor, alpha: Tensor, bits: int) -> Tensor:
    """An activation on ``2**bits`` levels from 0 to a clipping value that is learned.

    ``y = s round(clip(x, 0, alpha) / s)`` with ``s = alpha / (2**bits - 1)``, and

        ``dy/dalpha = 1`` where ``x >= alpha``, else ``0``,
        ``dy/dx = 1`` where ``0 < x < alpha``, else ``0``.

    Args:
        x: floats of any shape.
        alpha: positive, 0-d, to be learned.
        bits: at least 1.

    Returns:
        Floats of the shape of ``x``.

    Raises:
        ValueError: as for ``straight_through``.

    Source: Choi et al. 2018, arXiv 1805.06085, equations 1 to 3.
    Chapter: *Learned quantization parameters*.

    >>> x = torch.tensor([-1.0, 0.3, 4.0], requires_grad=True)
    >>> alpha = torch.tensor(3.0, requires_grad=True)
    >>> y = pact(x, alpha, bits=2)
    >>> y.sum().backward()
    >>> y.tolist(), x.grad.tolist(), float(alpha.grad)
    ([0.0, 0.0, 3.0], [0.0, 1.0, 0.0], 1.0)
    """
    levels = (1 << integer(bits, 1, 16, "bits")) - 1
    x = finite_floats(x, "x")
    _check_positive(alpha, x, "alpha")
    if alpha.dim():
        raise ValueError(f"alpha: need one number, 0-d, got shape {tuple(alpha.shape)}")
    return applied(PACT, x, alpha, float(levels), 1.0)


def xnor(weight: Tensor, axis: int | None = 0) -> Tensor:
    """A weight of one bit: its sign, times the mean magnitude.

    ``y = alpha sign(w)`` with ``alpha = mean |w|`` and ``sign(0) = +1``.  The derivative of
    the mean is the true one; that of the sign is taken to be

        ``1`` where ``|w| <= 1``, else ``0``.

    Args:
        weight: floats.
        axis: each index of it has an alpha of its own; None: one for all.

    Returns:
        Floats of the shape of ``weight``.

    Raises:
        ValueError: as for ``straight_through``.

    Source: Rastegari et al. 2016, XNOR-Net, arXiv 1603.05279, sections 3.1 and 3.2.
    Chapter: *Training with quantization*.

    >>> xnor(torch.tensor([[0.5, -1.0], [0.0, 3.0]]))
    tensor([[ 0.7500, -0.7500],
            [ 1.5000,  1.5000]])
    """
    weight = finite_floats(weight, "weight")
    _check_axis(weight, axis)
    others = [
        d for d in range(weight.dim()) if axis is None or d != axis % weight.dim()
    ]
    # Of a vector with an alpha for each entry, the mean is the entry.
    mean = weight.abs().mean(others, keepdim=True) if others else weight.abs()
    return mean * applied(SignThrough, weight)


def lsq_start(v: Tensor, high: float, axis: int | None = None) -> Tensor:
    """The step that LSQ starts from: ``2 mean |v| / sqrt(Q_P)``.

    Args:
        v: the values to quantize.
        high: ``Q_P``, the largest code less the zero point, at least 1.
        axis: each index of it has a step of its own; None: one for all.

    Returns:
        0-d, or 1-D along ``axis``; 1 where all values are zero.

    Raises:
        ValueError: if ``v`` is no tensor of floats, empty, or holds NaN or infinity; for
            an axis that it has not; for ``high`` below 1.

    Source: Esser et al. 2020, arXiv 1902.08153, section 2.1.
    Chapter: *Learned quantization parameters*.

    >>> lsq_start(torch.tensor([-1.0, 3.0]), high=4)
    tensor(2.)
    """
    number(high, 1, math.inf, "high")
    magnitude = finite_floats(v, "v").detach().abs()
    _check_axis(v, axis)
    if axis is not None:
        magnitude = magnitude.movedim(axis, 0).reshape(v.shape[axis], -1).mean(1)
    start = (
        2 * magnitude.mean() / high**0.5 if axis is None else 2 * magnitude / high**0.5
    )
    return torch.where(start > 0, start, 1.0)


def lsq_gradient_scale(count: int, high: Bound) -> Bound:
    """What LSQ multiplies the gradient of a step with: ``1 / sqrt(N Q_P)``.

    Args:
        count: N, how many values share the step: weights, or features of one image.
        high: ``Q_P``, the largest code less the zero point, above 0.

    Raises:
        ValueError: for other numbers.

    Source: Esser et al. 2020, arXiv 1902.08153, section 2.2.
    Chapter: *Learned quantization parameters*.

    >>> lsq_gradient_scale(25, 4)
    0.1
    """
    integer(count, 1, 2**63 - 1, "count")
    largest = high if isinstance(high, Tensor) else number(high, 0, math.inf, "high")
    if not bool((torch.as_tensor(largest) > 0).all()):
        raise ValueError(f"high: need a largest code above 0, got {high}")
    scaled: Bound = (count * high) ** -0.5
    return scaled


def _grid(
    v: Tensor, scale: Tensor, low: Bound, high: Bound
) -> tuple[Tensor, Tensor, Bound, Bound]:
    """A grid for ``v``, checked; its bounds are two numbers or two tensors."""
    v = finite_floats(v, "v")
    _check_positive(scale, v, "scale")
    bounds = []
    for name, bound in (("low", low), ("high", high)):
        if isinstance(bound, Tensor):
            bound = finite_floats(dense(bound, name).to(v), name)
            _check_fits(bound, v, name)
            bounds.append(bound)
        else:
            bounds.append(torch.tensor(number(bound, -(2.0**53), 2.0**53, name)).to(v))
    if not bool((bounds[0] < bounds[1]).all()):
        raise ValueError(f"low: need less than high, got {low} and {high}")
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return v, scale, bounds[0], bounds[1]
    return v, scale, float(low), float(high)


def _factor(gradient_scale: Bound) -> Bound:
    if isinstance(gradient_scale, Tensor):
        return finite_floats(gradient_scale, "gradient_scale")
    return number(gradient_scale, -math.inf, math.inf, "gradient_scale")


def _check_positive(t: Tensor, v: Tensor, name: str) -> None:
    if not bool((finite_floats(t, name) > 0).all()):
        raise ValueError(f"{name}: need positive values, got {float(t.min())}")
    _check_fits(t, v, name)


def _check_fits(t: Tensor, v: Tensor, name: str) -> None:
    """Refuse what would not broadcast, or would make more of ``v`` than it is."""
    pairs = zip(reversed(t.shape), reversed(v.shape), strict=False)
    if t.dim() > v.dim() or any(n not in (1, m) for n, m in pairs):
        raise ValueError(
            f"{name}: need a shape that broadcasts against {tuple(v.shape)}, got "
            f"{tuple(t.shape)}"
        )


def _check_axis(t: Tensor, axis: int | None) -> None:
    if axis is not None:
        integer(axis, -t.dim(), t.dim() - 1, "axis")


def applied(estimator: type[Function], *arguments: Any) -> Tensor:
    """What an estimator computes, with its gradient."""
    y: Tensor = estimator.apply(*arguments)  # type: ignore[no-untyped-call]
    return y


class StraightThrough(Function):
    """Rounds on the way forward; on the way back, only clips."""

    @staticmethod
    def forward(ctx: Any, v: Tensor, scale: Tensor, low: Bound, high: Bound) -> Tensor:
        """``v`` on its grid; low and high are relative to the zero point."""
        t = v / scale
        ctx.save_for_backward(t)
        ctx.bounds = low, high
        return _rounded(t, low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of v alone."""
        (t,) = ctx.saved_tensors
        low, high = ctx.bounds
        dv = _where_inside(gradient, t, low - EDGE, high + EDGE)
        return dv, None, None, None


class LSQ(Function):
    """Rounds on the way forward; on the way back, the step has its share."""

    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        scale: Tensor,
        low: Bound,
        high: Bound,
        factor: Bound,
        edge: float,
    ) -> Tensor:
        """``v`` on its grid; ``factor`` is the gradient scale.

        ``edge`` is by how much of a step more than the paper counts as inside.
        """
        t = v / scale
        ctx.save_for_backward(t, scale)
        ctx.settings = low, high, factor, edge
        return _rounded(t, low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of v and of the scale."""
        t, scale = ctx.saved_tensors
        low, high, factor, edge = ctx.settings
        dv = _where_inside(gradient, t, low - edge, high + edge)
        ds = _slope(t, low, high, edge).mul_(gradient)
        ds = ds.sum_to_size(scale.shape) * factor
        return dv, ds, None, None, None, None


class LSQPlus(Function):
    """As LSQ, with an offset."""

    @staticmethod
    def forward(
        ctx: Any,
        v: Tensor,
        scale: Tensor,
        offset: Tensor,
        q_min: int,
        q_max: int,
        factor: Bound,
    ) -> Tensor:
        """``v`` on its grid."""
        zero_point = zero_point_of(scale, offset, q_min, q_max)
        t = v / scale
        ctx.save_for_backward(t, scale, offset, zero_point)
        ctx.settings = *_relative(zero_point, q_min, q_max), factor
        low, high, _ = ctx.settings
        return _rounded(t, low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of v, of the scale and of the offset."""
        t, scale, offset, zero_point = ctx.saved_tensors
        low, high, factor = ctx.settings
        dv = _where_inside(gradient, t, low, high)
        outside = gradient - dv
        # q - (v - beta) / s inside; q outside, which is z more than low or high.
        ds = _slope(t, low, high).mul_(gradient).add_(outside * zero_point)
        ds = ds.sum_to_size(scale.shape) * factor
        doffset = outside.sum_to_size(offset.shape) * factor
        return dv, ds, doffset, None, None, None


class PACT(Function):
    """Clips at a value that is learned, and rounds."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, alpha: Tensor, levels: float, factor: Bound
    ) -> Tensor:
        """``x`` on its grid, from 0 to alpha."""
        scale = alpha / levels
        t = x / scale
        ctx.save_for_backward(t, alpha)
        ctx.levels, ctx.factor = levels, factor
        return _rounded(t, 0.0, levels).mul_(scale)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of x and of alpha."""
        t, alpha = ctx.saved_tensors
        above = torch.ge(t, ctx.levels, out=torch.empty_like(t))
        dx = _where_inside(gradient, t, 0.0, ctx.levels)
        dalpha = above.mul_(gradient).sum_to_size(alpha.shape) * ctx.factor
        return dx, dalpha, None, None


class SignThrough(Function):
    """The sign on the way forward; on the way back, a window."""

    @staticmethod
    def forward(ctx: Any, w: Tensor) -> Tensor:
        """The sign of ``w``, of zero +1."""
        ctx.save_for_backward(w)
        return torch.where(w < 0, -1.0, 1.0).to(w.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Of w, inside of the window."""
        w: Tensor = ctx.saved_tensors[0]
        return gradient * (w.abs() <= 1)


def zero_point_of(scale: Tensor, offset: Tensor, q_min: int, q_max: int) -> Tensor:
    """The whole number z for which ``-s z`` is nearest to an offset."""
    return torch.round(-offset.detach() / scale.detach()).clamp_(q_min, q_max)


def _relative(zero_point: Tensor, q_min: int, q_max: int) -> tuple[Bound, Bound]:
    """The codes less the zero point, as numbers where one serves for all."""
    if zero_point.dim():
        return q_min - zero_point, q_max - zero_point
    z = int(zero_point)
    return float(q_min - z), float(q_max - z)


def _rounded(t: Tensor, low: Bound, high: Bound) -> Tensor:
    """``clip(round(t), low, high)``: fastest on a CPU if the bounds are numbers."""
    return t.round().clamp_(low, high)  # type: ignore[arg-type]


def _slope(t: Tensor, low: Bound, high: Bound, edge: float = 0.0) -> Tensor:
    """``round(t) - t`` inside, ``low`` or ``high`` outside."""
    return _rounded(t, low, high).sub_(_where_inside(t, t, low - edge, high + edge))


def _where_inside(gradient: Tensor, t: Tensor, low: Bound, high: Bound) -> Tensor:
    """The gradient where ``low < t < high``, else 0."""
    if isinstance(low, Tensor) or isinstance(high, Tensor):
        return gradient * ((t > low) & (t < high))
    # The same in one pass, without masks, which are slow on a CPU.
    inside: Tensor = torch.ops.aten.hardtanh_backward(gradient, t, low, high)
    return inside
