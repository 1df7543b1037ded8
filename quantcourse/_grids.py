"""Grids that a network is trained on: who holds the scale, and who may move it.

`quantcourse.qat` puts one on each weight and each value.  A grid has scales for a whole
tensor, or for each index of an axis.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from quantcourse._estimators import (
    EDGE,
    LSQ,
    PACT,
    Bound,
    LSQPlus,
    StraightThrough,
    applied,
    lsq_gradient_scale,
    lsq_start,
    xnor,
    zero_point_of,
)
from quantcourse._recipe import Scheme
from quantcourse.affine import QParams, spread
from quantcourse.ptq import Quantizer


class Grid(nn.Module):
    """What all have in common.

    Args:
        scheme: of the codes.
        axis: along which scales differ, or None.

    Chapter: *Training with quantization*.
    """

    scale: Any
    zero_point: Any
    moves = False
    """Whether the zero point does."""

    def __init__(self, scheme: Scheme, axis: int | None) -> None:
        super().__init__()
        self.scheme, self.axis = scheme, axis
        self.dtype = scheme.dtype

    @property
    def begins_at_zero(self) -> bool:
        """Whether it clips as ReLU does, now and after any training."""
        smallest = self.dtype.min
        return not self.moves and bool((self.zero_point == smallest).all())

    @property
    def varies(self) -> bool:
        """Whether there is no one scale for all: a batch or a channel has its own."""
        return self.axis is not None or (self.moves and self.qp is None)

    @property
    def qp(self) -> QParams | None:
        """What the codes stand for now; None if that depends on the values."""
        scale = self.scale.detach()
        return QParams(scale, self.zero_point, self.dtype, self.axis)

    def step(self, v: Tensor, stretch: Tensor | None = None) -> Tensor:
        """The scale on which ``v`` is put, 0-d or along the axis.

        Args:
            v: what is put on the grid.
            stretch: how many times as large as the grid's own, along the axis.
        """
        scale: Tensor = self.scale
        return scale if stretch is None else scale * stretch

    def along(self, t: Tensor, v: Tensor) -> Tensor:
        """Numbers of the grid in a shape that broadcasts against ``v``."""
        if self.axis is None:
            return t
        return t.view([-1 if d == self.axis % v.dim() else 1 for d in range(v.dim())])

    def bounds(self, v: Tensor) -> tuple[Bound, Bound]:
        """The codes less the zero point: numbers if one zero point serves for all."""
        dtype = self.dtype
        first, *others = set(self.zero_point.flatten().tolist())
        if others:
            z = self.along(self.zero_point, v).to(v.dtype)
            return dtype.min - z, dtype.max - z
        return float(dtype.min - first), float(dtype.max - first)


class FixedGrid(Grid):
    """The scale stays; the estimator is the straight-through one.

    Args:
        scheme: of the codes.
        qp: for a whole tensor or along an axis.
    """

    def __init__(self, scheme: Scheme, qp: QParams) -> None:
        super().__init__(scheme, qp.axis)
        self.register_buffer("scale", qp.scale.clone())
        self.register_buffer("zero_point", qp.zero_point.clone())

    def forward(self, v: Tensor, stretch: Tensor | None = None) -> Tensor:
        """``v`` on the grid, or on one that is stretched."""
        low, high = self.bounds(v)
        step = self.along(self.step(v, stretch), v)
        return applied(StraightThrough, v, step, low, high)


class DynamicGrid(Grid):
    """The range of each batch, measured as it comes.

    Args:
        quantizer: what measures it.
    """

    moves = True

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__(quantizer.scheme, quantizer.axis)
        self.quantizer = quantizer

    @property
    def qp(self) -> QParams | None:
        """None: each batch has its own."""
        return None

    def forward(self, v: Tensor) -> Tensor:
        """``v`` on the grid of its own range."""
        moment = FixedGrid(self.scheme, self.quantizer.qp_for(v.detach()))
        result: Tensor = moment(v)
        return result


class ObservedGrid(FixedGrid):
    """The range is watched while training, and frozen in evaluation mode.

    Args:
        scheme, qp: as for ``FixedGrid``; of symmetric grids, both ends move together.
        rate: of the range of a batch in the moving average; 1: the batch alone.
    """

    moves = True
    low: Tensor
    high: Tensor

    def __init__(self, scheme: Scheme, qp: QParams, rate: float) -> None:
        super().__init__(scheme, qp)
        self.rate = rate
        high = (scheme.dtype.max - qp.zero_point) * qp.scale
        low = (scheme.dtype.min - qp.zero_point) * qp.scale
        # A signed type has one code more below zero, which no range asked for.
        self.register_buffer(
            "low", torch.maximum(low, -high) if scheme.symmetric else low
        )
        self.register_buffer("high", high)

    def forward(self, v: Tensor, stretch: Tensor | None = None) -> Tensor:
        """``v`` on the grid, which has followed it if this is training."""
        if self.training:
            seen = v.detach()
            self._observe(seen if stretch is None else seen / self.along(stretch, v))
        return super().forward(v, stretch)

    @torch.no_grad()
    def _observe(self, v: Tensor) -> None:
        """``m + c (x - m)`` for both ends."""
        if self.axis is None:
            low, high = torch.aminmax(v)
        else:
            low, high = torch.aminmax(v.movedim(self.axis, 0).flatten(1), dim=1)
        ends = torch.stack([-low, high])
        if dist.is_available() and dist.is_initialized():
            # Each process sees its own part of the batch.
            dist.all_reduce(ends, dist.ReduceOp.MAX)
        self.low += self.rate * (-ends[0] - self.low)
        self.high += self.rate * (ends[1] - self.high)
        wide = self.low.double(), self.high.double()
        scale, zero_point = spread(*wide, self.dtype, self.scheme.symmetric)
        self.scale.copy_(scale)
        self.zero_point.copy_(zero_point)


class RelativeGrid(Grid):
    """A grid that learns how many times as large as at the start its scale is.

    Adam moves every number by about its learning rate, however small the number is.  So
    what learns is ``r = ln(s / s_0)``, which starts at 0 in all layers and channels: a move
    of r by 0.01 changes s by 1 %, and no move makes it negative.  With plain SGD, s would
    then move ``s_0**2`` times as far as the papers have it; at the start, a factor of
    ``same_as_of_scale`` in the gradient makes up for that.

    Args:
        scheme: of the codes.
        start: s_0, for a whole tensor or along the axis; of PACT, alpha's.
        axis: of the scales, or None.
    """

    start: Tensor

    def __init__(self, scheme: Scheme, start: Tensor, axis: int | None) -> None:
        super().__init__(scheme, axis)
        self.register_buffer("start", start.clone())
        self.log_ratio = nn.Parameter(torch.zeros_like(start))

    @property
    def learned(self) -> Tensor:
        """``s_0 exp(r)``."""
        return self.start * self.log_ratio.exp()

    @property
    def scale(self) -> Tensor:
        """Size of a step."""
        return self.learned

    @property
    def same_as_of_scale(self) -> Tensor:
        """``1 / s_0**2``, with the mean of many scales, since single ones may be tiny."""
        return self.start.mean() ** -2


class LearnedGrid(RelativeGrid):
    """LSQ: the step is learned.

    Args:
        scheme, qp: as for ``FixedGrid``.
        of_weights: whether N counts weights; else features of one image.
    """

    def __init__(self, scheme: Scheme, qp: QParams, of_weights: bool) -> None:
        super().__init__(scheme, qp.scale, qp.axis)
        self.of_weights = of_weights
        self.register_buffer("zero_point", qp.zero_point.clone())

    def forward(self, v: Tensor, stretch: Tensor | None = None) -> Tensor:
        """``v`` on the grid, or on one that is stretched."""
        low, high = self.bounds(v)
        count = v.numel() // self.scale.numel()
        features = count if self.of_weights else max(1, count // len(v))
        factor = lsq_gradient_scale(features, _largest(low, high))
        factor = factor * self.same_as_of_scale
        # Ranges that come from the largest value put it on the edge, as for fixed scales.
        step = self.along(self.step(v, stretch), v)
        return applied(LSQ, v, step, low, high, factor, EDGE)

    @torch.no_grad()
    def restart(self, v: Tensor) -> None:
        """Start from the step that LSQ's authors take, for these values."""
        reach = torch.as_tensor(_largest(*self.bounds(v)))
        self.start.copy_(lsq_start(v, float(reach.min()), self.axis))
        self.log_ratio.fill_(0)


class LearnedOffsetGrid(RelativeGrid):
    """LSQ+, for values: the step and the offset are learned, both in starting steps."""

    moves = True

    def __init__(self, scheme: Scheme, qp: QParams) -> None:
        super().__init__(scheme, qp.scale, qp.axis)
        self.shift = nn.Parameter(-qp.zero_point.to(qp.scale.dtype))

    @property
    def offset(self) -> Tensor:
        """The real value of code 0."""
        return self.start * self.shift

    @property
    def zero_point(self) -> Tensor:
        """The whole number nearest to what the offset asks for."""
        dtype = self.dtype
        return zero_point_of(self.scale, self.offset, dtype.min, dtype.max).int()

    def forward(self, v: Tensor) -> Tensor:
        """``v`` on the grid."""
        scale, offset = self.along(self.scale, v), self.along(self.offset, v)
        features = max(1, v[0].numel() // self.scale.numel())
        factor = lsq_gradient_scale(features, self.dtype.max) * self.same_as_of_scale
        ends = self.dtype.min, self.dtype.max
        return applied(LSQPlus, v, scale, offset, *ends, factor)


class ClippedGrid(RelativeGrid):
    """PACT: the end of the range is learned; it begins at zero."""

    def __init__(self, scheme: Scheme, qp: QParams) -> None:
        levels = float(scheme.dtype.max - scheme.dtype.min)
        super().__init__(scheme, qp.scale * levels, qp.axis)
        self.levels = levels
        self.register_buffer("zero_point", qp.zero_point.clone())

    @property
    def scale(self) -> Tensor:
        """Size of a step."""
        return self.learned / self.levels

    def forward(self, v: Tensor) -> Tensor:
        """``v`` on the grid."""
        return applied(PACT, v, self.learned, self.levels, self.same_as_of_scale)


class SignGrid(Grid):
    """XNOR-Net: the sign, times the mean magnitude of the moment."""

    @property
    def qp(self) -> QParams | None:
        """None: the mean is that of the weights."""
        return None

    def step(self, v: Tensor, stretch: Tensor | None = None) -> Tensor:
        """The mean magnitude, which stretches as ``v`` does."""
        return v.abs().mean() if self.axis is None else v.abs().flatten(1).mean(1)

    def forward(self, v: Tensor, stretch: Tensor | None = None) -> Tensor:
        """``v`` with two values for each index of the axis."""
        return xnor(v, self.axis)


def _largest(low: Bound, high: Bound) -> Bound:
    """``Q_P``; of a grid without codes above zero, the other end."""
    if isinstance(high, Tensor):
        return torch.where(high > 0, high, -low)
    return high if high > 0 else -low


def check(grid: Grid, label: str) -> None:
    """Refuse scales that training has made useless.

    Raises:
        ValueError: if one is not positive and finite, or an offset not finite.
    """
    for name, least in (("scale", 0.0), ("offset", -math.inf)):
        if (learned := getattr(grid, name, None)) is not None:
            low, high = (float(end) for end in learned.detach().aminmax())
            if not least < low <= high < math.inf:
                kind = "positive finite" if name == "scale" else "finite"
                raise ValueError(
                    f"{label}: need a {kind} {name}, got {low:g} to {high:g}: lower the "
                    "learning rate of scales"
                )
