"""Observers: see batches of a tensor, and say which range its codes should cover.

An observer keeps a few numbers or a histogram, never the data.  ``observe`` takes a
batch, ``range`` gives the ends, ``qparams`` the scale and zero point.  Observers of
different shards merge.  Explained in the chapters *Calibration* and *Entropy
calibration*.
"""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from os import PathLike
from typing import Any, Self

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import pad

from quantcourse._checks import integer, shown
from quantcourse._tensor_checks import dense, finite_floats
from quantcourse.affine import IntType, QParams, choose_qparams

__all__ = [
    "ADMM",
    "MSE",
    "Entropy",
    "HistogramObserver",
    "MinMax",
    "MovingAverageMinMax",
    "Observer",
    "Percentile",
    "all_reduce",
    "entropy_curve",
    "entropy_threshold",
    "load",
    "mse_curve",
]

SMALLEST_NORMAL = torch.finfo(torch.float32).tiny
MOST_BINS = 1 << 20
MOST_COUNTS = 1 << 26  # 512 MiB, over all channels
MOST_COUNTED = 1 << 52  # so that sums stay exact in float64, with bin 0 replaced
VALUES_AT_ONCE = {"cpu": 1 << 16}  # so that all on the way to a bin stays in the cache
VALUES_AT_ONCE_ELSEWHERE = 1 << 24
CELLS_AT_ONCE = 1 << 16  # candidates times levels times channels
CHANNELS_AT_ONCE = 32  # of a search for thresholds
TIE = 1e-12  # nats; the sums below round by less
FORMAT = "quantcourse.calibrate 1"

Range = float | Tensor | tuple[float | Tensor, float | Tensor]
State = dict[str, Tensor]
Summary = dict[str, tuple[str, int, int]]  # of each observer: repr, channels, bins
# What two observers have seen joins to what one would have: a name, and how.
JOIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "count": torch.add,
    "low": torch.minimum,
    "high": torch.maximum,
    "width": torch.maximum,
    "counts": torch.add,
}


class Observer(ABC):
    """What all observers share: the count of values, the smallest and the largest.

    The state lives on the device of the first batch; later batches may come from
    another.  It is float32 and int64, whatever the batches are.

    Args:
        axis: the axis of the batches along which each index has a range of its own
            (channels); negative ones count from the end.  None: one range.

    Raises:
        ValueError: if ``axis`` is neither an integer nor None.

    Chapter: *Calibration*.

    >>> observer = MinMax().observe(torch.tensor([1.0, 3.0]))
    >>> observer.observe(torch.tensor([-2.0, 0.0])).range()
    (tensor(-2.), tensor(3.))
    """

    def __init__(self, axis: int | None = None) -> None:
        whole = isinstance(axis, Integral) and not isinstance(axis, bool)
        if axis is not None and not whole:
            raise ValueError(f"axis: need an integer or None, got {axis!r}")
        self.axis = None if axis is None else int(axis)
        # Until the first batch, nobody knows how many channels there are.
        self._state: State = {} if axis is not None else self._blank(1)

    @property
    def count(self) -> int:
        """How many values have been seen, in all channels together."""
        return int(self._state["count"]) if self._state else 0

    def observe(self, x: Tensor) -> Self:
        """Take in a batch.  If it raises, nothing has changed.

        Args:
            x: floats of any shape, at least one; taken as float32, without a gradient.

        Returns:
            The observer itself.

        Raises:
            ValueError: if ``x`` is no dense tensor of floats, empty, or has NaN or
                infinity; if it lacks ``axis``, or has another number of channels than
                the batches before.

        Chapter: *Calibration*.

        >>> MinMax(axis=0).observe(torch.tensor([[1.0, 3.0], [-2.0, 0.0]])).range()
        (tensor([ 1., -2.]), tensor([3., 0.]))
        """
        rows = _rows(x, self.axis)
        low, high = rows.amin(1), rows.amax(1)
        # NaN and infinity come through: no pass over the values of their own.
        if not (low.isfinite() & high.isfinite()).all():
            raise ValueError(
                f"x: {int((~rows.isfinite()).sum())} of {rows.numel()} values are NaN "
                f"or infinite as float32, in a batch for {type(self).__name__}"
            )
        state = self._state or self._blank(len(rows))
        if len(state["low"]) != len(rows):
            raise ValueError(
                f"x: need {len(state['low'])} channels along axis {self.axis}, as "
                f"before, got {len(rows)}"
            )
        if not self.count:
            state = _to(state, x.device)
        self._state = self._seen(state, rows, low, high)
        return self

    def merge(self, other: Self) -> Self:
        """Take in all that ``other`` has seen, as if its batches had come here.

        Args:
            other: an observer of the same class and settings; it stays as it is.

        Returns:
            The observer itself; range and counts do not depend on who saw which
            batch, as long as both have one bin width.

        Raises:
            ValueError: for another class, other settings or another number of
                channels; for unequal bin widths; for a moving average.

        Chapter: *Calibration*.

        >>> other = MinMax().observe(torch.tensor([5.0]))
        >>> MinMax().observe(torch.tensor([1.0, 3.0])).merge(other).range()
        (tensor(1.), tensor(5.))
        """
        if repr(other) != repr(self):
            raise ValueError(f"other: need {self!r} like this one, got {other!r}")
        if not other._state:
            return self
        channels = len(other._state["low"])
        mine, theirs = self._state or self._blank(channels), other._state
        if len(mine["low"]) != channels:
            raise ValueError(
                f"other: need {len(mine['low'])} channels, as here, got {channels}"
            )
        device = (self if self.count else other)._state_device()
        mine, theirs = _to(mine, device), _to(theirs, device)
        if "width" in mine:
            _check_one_width(
                torch.minimum(_set_width(mine), _set_width(theirs)),
                torch.maximum(mine["width"], theirs["width"]),
                "other",
            )
            bins = max(_bins(mine), _bins(theirs))
            mine, theirs = _with_bins(mine, bins), _with_bins(theirs, bins)
        self._state = {name: JOIN[name](mine[name], theirs[name]) for name in mine}
        return self

    def range(self) -> tuple[Tensor, Tensor]:
        """The ends of the range to quantize, in the unit of the data.

        Returns:
            ``(low, high)``, float32, 0-d; with ``axis``, 1-D.

        Raises:
            ValueError: if no value has been seen.

        Chapter: *Calibration*.

        >>> MinMax().observe(torch.tensor([1.0, 3.0])).range()
        (tensor(1.), tensor(3.))
        """
        self._check_seen()
        low, high = self._ends()
        return self._as_asked(low), self._as_asked(high)

    def extremes(self) -> tuple[Tensor, Tensor]:
        """The smallest and the largest value seen, whatever the range is.

        Returns:
            ``(low, high)``, as ``range`` gives them.

        Raises:
            ValueError: if no value has been seen.

        Chapter: *Calibration*.

        >>> Percentile(50).observe(torch.tensor([-1.0, 1.0, 9.0])).extremes()
        (tensor(-1.), tensor(9.))
        """
        self._check_seen()
        return self._as_asked(self._state["low"]), self._as_asked(self._state["high"])

    def qparams(self, dtype: IntType, symmetric: bool) -> QParams:
        """Scale and zero point for the range, one or one a channel.

        The range is the same for any ``dtype``.  Where it depends on ``levels``, give
        the observer those of ``dtype``: 128 for INT8, 256 for UINT8, 8 for INT4.

        Args:
            dtype: the integers to use.
            symmetric: whether the grid is centred on zero.

        Returns:
            ``choose_qparams(*range(), dtype, symmetric, axis)``.

        Raises:
            ValueError: if no value has been seen; as for ``choose_qparams``.

        Chapter: *Calibration*.

        >>> from quantcourse.affine import UINT8
        >>> observer = MinMax().observe(torch.tensor([0.0, 127.5]))
        >>> float(observer.qparams(UINT8, symmetric=False).scale)
        0.5
        """
        return choose_qparams(*self.range(), dtype, symmetric, self.axis)

    def save(self, path: str | PathLike[str]) -> None:
        """Write settings and state to a safetensors file, for ``load``.

        Args:
            path: the file, in a folder that exists.

        Raises:
            OSError: if it can't be written.
            ValueError: if ``path`` is no path.

        Chapter: *Calibration*.

        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     MinMax().observe(torch.tensor([1.0, 3.0])).save(folder + "/relu1")
        ...     load(folder + "/relu1").range()
        (tensor(1.), tensor(3.))
        """
        metadata = {
            "format": FORMAT,
            "class": type(self).__name__,
            "settings": json.dumps(self._settings()),
        }
        tensors = {name: t.contiguous() for name, t in self._state.items()}
        try:
            save_file(tensors, _path(path), metadata)
        except SafetensorError as error:
            raise OSError(f"path: can't write {path}: {error}") from error

    def __repr__(self) -> str:
        settings = (f"{name}={value!r}" for name, value in self._settings().items())
        return f"{type(self).__name__}({', '.join(settings)})"

    def _settings(self) -> dict[str, float | None]:
        """The arguments that make an observer like this one."""
        return {"axis": self.axis}

    def _blank(self, channels: int) -> State:
        """The state before the first value: what changes nothing when joined."""
        return {
            "count": torch.zeros((), dtype=torch.int64),
            "low": torch.full((channels,), math.inf, dtype=torch.float32),
            "high": torch.full((channels,), -math.inf, dtype=torch.float32),
        }

    def _seen(self, state: State, rows: Tensor, low: Tensor, high: Tensor) -> State:
        """The state after a batch of one row a channel, from ``low`` to ``high``."""
        low, high = low.to(state["low"].device), high.to(state["low"].device)
        return {
            **state,
            "count": state["count"] + rows.numel(),
            "low": torch.minimum(state["low"], low),
            "high": torch.maximum(state["high"], high),
        }

    @abstractmethod
    def _ends(self) -> tuple[Tensor, Tensor]:
        """The range, one row a channel."""

    def _as_asked(self, rows: Tensor) -> Tensor:
        return rows[0].clone() if self.axis is None else rows.clone()

    def _state_device(self) -> torch.device:
        return self._state["count"].device

    def _check_seen(self) -> None:
        if not self.count:
            raise ValueError(
                f"{type(self).__name__}: has seen no values; call observe(x) first"
            )


class MinMax(Observer):
    """The smallest and the largest value seen.

    Nothing clips, and one outlier makes the steps wide for everybody.

    Args:
        axis: as for every ``Observer``.

    Source: Jacob et al., arXiv 1712.05877, section 3.1, for weights.
    Chapter: *Calibration*.

    >>> MinMax().observe(torch.tensor([-1.0, 100.0])).range()
    (tensor(-1.), tensor(100.))
    """

    def _ends(self) -> tuple[Tensor, Tensor]:
        return self._state["low"], self._state["high"]


class MovingAverageMinMax(MinMax):
    """Averages of each batch's smallest and largest value, which forget old batches.

    ``low = low + c * (min(x) - low)``, and so for ``high``; the first batch sets both.
    In float32: ends that differ by many powers of ten round to the step of the larger,
    and differences beyond float32's largest number become infinite.

    Args:
        c: weight of the newest batch, above 0 and at most 1.
        axis: as for every ``Observer``.

    Raises:
        ValueError: for another ``c``.  ``merge`` always: a moving average depends on
            the order of its batches, which two observers do not have in common.

    Source: Jacob et al., arXiv 1712.05877, section 3.1, for activations.
    Chapter: *Calibration*.

    >>> observer = MovingAverageMinMax(c=0.25).observe(torch.tensor([0.0, 4.0]))
    >>> observer.observe(torch.tensor([0.0, 8.0])).range()
    (tensor(0.), tensor(5.))
    """

    def __init__(self, c: float = 0.01, axis: int | None = None) -> None:
        self.c = _positive(c, 1, "c")
        super().__init__(axis)

    def merge(self, other: Self) -> Self:
        """Always raises: the result would depend on an order that nobody knows.

        Raises:
            ValueError: in any case.

        Chapter: *Calibration*.

        >>> observer = MovingAverageMinMax()
        >>> observer.merge(MovingAverageMinMax())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: other: moving averages depend on the order of their batches, ...
        """
        raise ValueError(
            "other: moving averages depend on the order of their batches, so two can't "
            "be merged; use MinMax, or observe all batches in one process"
        )

    def _settings(self) -> dict[str, float | None]:
        return {"c": self.c, "axis": self.axis}

    def _seen(self, state: State, rows: Tensor, low: Tensor, high: Tensor) -> State:
        after = super()._seen(state, rows, low, high)
        if not state["count"]:
            return after
        for name, current in (("low", low), ("high", high)):
            before = state[name]
            after[name] = before + self.c * (current.to(before.device) - before)
        return after


class HistogramObserver(Observer):
    """Counts of magnitudes in bins of one width, from which a threshold T is chosen.

    Bin k counts ``k * width < |x| <= (k + 1) * width``, up to float32's rounding of
    the quotient; exact zeros go to bin 0.  So the first i bins count what clipping at
    the edge ``i * width`` keeps.  The first batch with a value other than zero fixes
    ``width = max|x| / bins``; larger values later append bins, so that no count is
    ever lost.  Memory depends on the largest value, not on how many were seen.

    Args:
        bins: how many bins the first batch gets.
        axis: as for every ``Observer``; each channel has a width of its own.
        range: what fixes the width before the first batch, ``range / bins``: the
            largest magnitude, or a pair ``(low, high)`` as ``MinMax.range()`` gives.
            Then the order of batches does not matter, and observers in different
            processes merge.  One value a channel with ``axis``.

    Raises:
        ValueError: for ``bins`` or a ``range`` that does not fit; from ``observe``, if
            a value needs more than 2**20 bins, or all channels more than 2**26.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017.
    Chapter: *Calibration*.

    >>> observer = Percentile(bins=4).observe(torch.tensor([0.0, -1.0, 2.5, 4.0]))
    >>> observer.observe(torch.tensor([5.5])).histogram()
    (tensor([2, 0, 1, 1, 0, 1]), tensor(1.))
    """

    def __init__(
        self,
        bins: int,
        axis: int | None = None,
        range: Range | None = None,
    ) -> None:
        self.bins = integer(bins, 1, MOST_BINS, "bins")
        super().__init__(axis)
        if range is not None:
            largest = _largest_magnitude(range, axis)
            blank = self._blank(len(largest))
            self._state = {**blank, "width": _width(largest, self.bins)}

    def histogram(self) -> tuple[Tensor, Tensor]:
        """The counts of magnitudes, and the width of a bin in the unit of the data.

        Returns:
            ``(counts, width)``: int64 of shape (bins,) and float32, 0-d; with
            ``axis``, (channels, bins) and (channels,).  A width of 0 means that only
            zeros were seen.

        Raises:
            ValueError: if no value has been seen.

        Chapter: *Calibration*.

        >>> MSE(bins=2, levels=2).observe(torch.tensor([1.0, -4.0])).histogram()
        (tensor([1, 1]), tensor(2.))
        """
        self._check_seen()
        counts = self._state["counts"][:, 1:].clone()
        counts[:, 0] += self._state["counts"][:, 0]
        return self._as_asked(counts), self._as_asked(self._state["width"])

    def _settings(self) -> dict[str, float | None]:
        return {"bins": self.bins, "axis": self.axis}

    def _blank(self, channels: int) -> State:
        _check_size(channels, self.bins)
        # A slot for exact zeros, which no step can hurt, then the bins.
        counts = torch.zeros(channels, 1 + self.bins, dtype=torch.int64)
        width = torch.zeros(channels, dtype=torch.float32)
        return {**super()._blank(channels), "width": width, "counts": counts}

    def _seen(self, state: State, rows: Tensor, low: Tensor, high: Tensor) -> State:
        largest = torch.maximum(high, -low)
        width = state["width"].to(rows.device)
        width = torch.where(width > 0, width, _width(largest, self.bins))
        step = torch.where(width > 0, width, 1.0)  # a channel of zeros has none yet
        needed = (largest / step).ceil()
        worst = int(needed.argmax())
        if float(needed[worst]) > _bins(state):
            _check_size(len(rows), float(needed[worst]), largest[worst], width[worst])
            state = _with_bins(state, int(needed[worst]))
        counts = _count(rows, step, _bins(state)).to(state["counts"].device)
        return {
            **super()._seen(state, rows, low, high),
            "width": width.to(state["width"].device),
            "counts": state["counts"] + counts,
        }

    def _thresholds(self) -> Tensor:
        """T of each channel, float32: no larger than the largest magnitude seen."""
        parts = torch.split(self._state["counts"].cpu(), CHANNELS_AT_ONCE)
        edges = torch.cat([self._edges(part) for part in parts])
        width = self._state["width"].to(torch.float64)
        largest = torch.maximum(self._state["high"], -self._state["low"])
        return torch.minimum(edges.to(width.device) * width, largest).to(torch.float32)

    @abstractmethod
    def _edges(self, counts: Tensor) -> Tensor:
        """T of each channel in bin widths, float64.

        ``counts`` has a row for each: its exact zeros, then its bins.
        """

    def _ends(self) -> tuple[Tensor, Tensor]:
        """No wider than what was seen, and with zero inside."""
        threshold = self._thresholds()
        return (
            torch.maximum(self._state["low"].clamp(max=0), -threshold),
            torch.minimum(self._state["high"].clamp(min=0), threshold),
        )


class Percentile(HistogramObserver):
    """The magnitude that ``p`` percent of the values do not exceed.

    With the n magnitudes sorted and ``h = (n - 1) p / 100``, NumPy's percentile lies
    between those of rank floor(h) and the next, in proportion; here each is taken as
    the upper edge of its bin.  So T is never below ``numpy.percentile(abs(x), p)``, but
    for float32's rounding, and less than one bin above.

    Args:
        p: percent, above 0 and at most 100.
        bins: as for every ``HistogramObserver``, likewise ``axis`` and ``range``.

    Raises:
        ValueError: for another ``p``; as for ``HistogramObserver``.

    Source: Wu et al., arXiv 2004.09602, section 3.3.
    Chapter: *Calibration*.

    >>> x = torch.cat([torch.linspace(-1, 1, 999), torch.tensor([50.0])])
    >>> low, high = Percentile(p=99.0).observe(x).range()
    >>> round(float(low), 2), round(float(high), 2)
    (-1.0, 1.0)
    """

    def __init__(
        self,
        p: float = 99.99,
        bins: int = 2048,
        axis: int | None = None,
        range: Range | None = None,
    ) -> None:
        self.p = _positive(p, 100, "p")
        super().__init__(bins, axis, range)

    def _settings(self) -> dict[str, float | None]:
        return {"p": self.p, **super()._settings()}

    def _edges(self, counts: Tensor) -> Tensor:
        below = counts.cumsum(1)
        values = int(below[0, -1])  # as many in each channel
        h = (values - 1) * self.p / 100
        rank = math.floor(h)
        ranks = torch.tensor([[rank, min(rank + 1, values - 1)]]).expand(len(below), 2)
        # The slot after which more than `rank` values have been counted.
        slots = torch.searchsorted(below, ranks.contiguous(), right=True)
        edge, following = slots.to(torch.float64).unbind(1)
        return edge + (h - rank) * (following - edge)


class _Levels(HistogramObserver):
    """A histogram whose threshold depends on how many codes the magnitudes get."""

    def __init__(
        self,
        bins: int = 2048,
        levels: int = 128,
        axis: int | None = None,
        range: Range | None = None,
    ) -> None:
        self.levels = integer(levels, 2, 1 << 16, "levels")
        super().__init__(bins, axis, range)

    def with_levels(self, levels: int) -> Self:
        """This observer with all it has seen, choosing for another number of levels.

        Args:
            levels: how many codes the magnitudes get, 0 included.

        Returns:
            A new observer; this one stays as it is.

        Raises:
            ValueError: as for the class.

        Chapter: *Calibration*.

        >>> observer = MSE().observe(torch.tensor([0.1, 0.2, 1.0]))
        >>> observer.with_levels(2).levels, observer.levels
        (2, 128)
        """
        settings: dict[str, Any] = {**self._settings(), "levels": levels}
        other = type(self)(**settings)
        other._state = dict(self._state)
        return other

    def _settings(self) -> dict[str, float | None]:
        return {"levels": self.levels, **super()._settings()}


class Entropy(_Levels):
    """The threshold that loses the least information, as TensorRT chooses it.

    ``range()`` is (0, T) where nothing negative was seen, else (-T, T), with the T of
    ``entropy_threshold``, or the largest magnitude seen if that is less.  T is never
    below ``bins // 16`` bins (two, where that is less), also when larger values have
    appended bins: the 128 of 2048 at which NVIDIA's search starts, for any ``levels``.

    Args:
        bins: as for every ``HistogramObserver``, likewise ``axis`` and ``range``; at
            least ``levels``.
        levels: how many codes the magnitudes get, 0 included: 128 for INT8, 256 for
            UINT8 on one-sided data, 8 for INT4.

    Raises:
        ValueError: for ``levels`` outside 2..65536 or above ``bins``; as for
            ``HistogramObserver``.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017; details as in NVIDIA's
    pytorch-quantization.  Chapter: *Entropy calibration*.

    >>> x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    >>> x[0] = 50.0
    >>> low, high = Entropy().observe(x).range()
    >>> bool(low == -high), bool(4 < high < 6)
    (True, True)
    """

    def __init__(
        self,
        bins: int = 2048,
        levels: int = 128,
        axis: int | None = None,
        range: Range | None = None,
    ) -> None:
        super().__init__(bins, levels, axis, range)
        if self.bins < self.levels:
            raise ValueError(
                f"bins: need at least one a level, {self.levels}, got {self.bins}"
            )

    def _edges(self, counts: Tensor) -> Tensor:
        return torch.tensor([self._edge(row) for row in counts], dtype=torch.float64)

    def _edge(self, counts: Tensor) -> float:
        # What is in bin 0 does not matter, so neither do the zeros.
        # Bins that another channel has appended are no candidates of this one.
        filled = counts[1:].nonzero()[:, 0]
        reach = max(self.bins, int(filled[-1]) + 1 if len(filled) else 0)
        first = max(2, self.bins // 16)
        return entropy_threshold(counts[1 : 1 + reach], 1.0, self.levels, first)

    def _ends(self) -> tuple[Tensor, Tensor]:
        threshold = self._thresholds()
        return torch.where(self._state["low"] < 0, -threshold, 0.0), threshold


class MSE(_Levels):
    """The threshold with the least mean squared error, clipping and rounding together.

    ``range()`` is (-T, T), cut to what was seen and widened to hold zero, with the
    best bin edge by ``mse_curve`` as T.  Exact zeros have no error and are left out.

    Args:
        bins: as for every ``HistogramObserver``, likewise ``axis`` and ``range``.
        levels: how many codes the magnitudes get, 0 included: 128 for INT8, 256 for
            UINT8 on one-sided data, 8 for INT4.

    Raises:
        ValueError: for ``levels`` outside 2..65536; as for ``HistogramObserver``.

    Source: Sung et al., arXiv 1511.06488; Banner et al., arXiv 1810.05723.
    Chapter: *Calibration*.

    >>> x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    >>> [round(float(MSE(levels=n).observe(x).range()[1]), 1) for n in (128, 8, 2)]
    [4.1, 2.5, 1.2]
    """

    def _edges(self, counts: Tensor) -> Tensor:
        bins = counts[:, 1:].to(torch.float64)
        best = _squared_errors(bins, self.levels).argmin(1) + 1
        return best.to(torch.float64)


class ADMM(_Levels):
    """A threshold with small squared error, found by turns: codes, then the best step.

    For a step a, the codes ``q = clip(round(|x| / a), 0, levels - 1)``; for these
    codes, the step ``a = sum(|x| q) / sum(q**2)``; again until nothing changes.  No
    turn raises the error, but the end may be a local minimum, and the start decides
    which: ``a = max|x| / (1.25 (levels - 1))``.  ``T = a (levels - 1)``.  A bin counts
    as its centre; exact zeros have code 0 and drop out.  ``range()`` as for ``MSE``.

    Args:
        bins: as for every ``HistogramObserver``, likewise ``axis`` and ``range``.
        levels: how many codes the magnitudes get, 0 included: 128 for INT8, 256 for
            UINT8 on one-sided data, 8 for INT4.

    Raises:
        ValueError: for ``levels`` outside 2..65536; as for ``HistogramObserver``.

    Source: Leng et al., arXiv 1707.09870, section 3.2; the start is that of Alibaba's
    MNN.  Chapter: *Calibration*.

    >>> x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    >>> round(float(ADMM(levels=8).observe(x).range()[1]), 1)
    2.5
    """

    def _edges(self, counts: Tensor) -> Tensor:
        bins = counts[:, 1:].to(torch.float64)
        edges = torch.arange(1, 1 + bins.shape[1], dtype=torch.float64)
        last = ((bins > 0) * edges).amax(1)
        step = last / (1.25 * (self.levels - 1))
        for _ in range(1000):
            before, step = step, _best_steps(edges - 0.5, bins, step, self.levels)
            if torch.equal(step, before):
                break
        return step * (self.levels - 1)


def _best_steps(centres: Tensor, bins: Tensor, step: Tensor, levels: int) -> Tensor:
    """One turn: the codes that each ``step`` gives, then the best step for these codes."""
    q = (centres / step[:, None]).round_().clamp_(max=levels - 1)
    moments = bins * q
    of_values, of_codes = (moments * centres).sum(1), (moments * q).sum(1)
    return torch.where(of_codes > 0, of_values / of_codes, 0.0)  # 0 for zeros alone


def entropy_curve(
    counts: Tensor, levels: int = 128, first: int | None = None
) -> tuple[Tensor, Tensor]:
    """How much information each candidate threshold loses.

    For the threshold at the upper edge of bin i, the reference P is the first i bins,
    with all counts beyond added to its last.  Q spreads the first i bins over
    ``levels`` levels: level j holds the bins k with ``floor(k levels / i) = j``, and
    its count, without the tail, is shared evenly by those of its bins that are not
    empty.  Bin 0 takes the count of bin 1 first: zeros are exact anyway, and there may
    be many.  The loss is the divergence KL(P || Q) of the two, each divided by its
    sum; infinite where P counts something that Q does not.

    With no more bins than levels, every bin is a level of its own, some levels stay
    empty, and the divergence is that of the tail alone.  If the last of the first i
    bins is the only one filled, the tail joins it in P, and the divergence is 0 however
    much is clipped: data of few distinct values may end at the smallest of them.

    Every sum over bins is a difference of two cumulated sums, so that the whole takes
    candidates times levels steps.

    Args:
        counts: histogram of magnitudes, (bins,), two bins or more, and ``levels`` or
            more where ``first`` is None; whole numbers of at least 0, whose sum
            is below 2**52.
        levels: how many codes the magnitudes get, 0 included.
        first: the fewest bins that a candidate keeps, from 1 to ``bins``.  None:
            ``levels``.  NVIDIA's search over 2048 bins starts at 128 for any levels.

    Returns:
        ``(candidates, divergences)``: the integers i from ``first`` to ``bins``, and
        nats, float64.

    Raises:
        ValueError: for other counts, ``levels`` or ``first``.

    Source: Migacz, 8-bit inference with TensorRT, GTC 2017; NVIDIA's
    pytorch-quantization.  Chapter: *Entropy calibration*.

    >>> counts = torch.tensor([9, 4, 4, 2, 1, 0, 0, 1])
    >>> candidates, divergences = entropy_curve(counts, levels=4)
    >>> candidates.tolist()
    [4, 5, 6, 7, 8]
    >>> [round(d, 3) for d in divergences.tolist()]
    [0.04, 0.022, inf, inf, 0.021]
    """
    counts = _histogram(counts, "counts", 2).clone()
    levels = integer(levels, 2, len(counts) if first is None else 1 << 16, "levels")
    first = levels if first is None else integer(first, 1, len(counts), "first")
    counts[0] = counts[1]
    total = counts.sum()
    candidates = torch.arange(first, len(counts) + 1, device=counts.device)
    below, filled = _cumulated(counts), _cumulated(counts > 0)
    inside, last = below[candidates], counts[candidates - 1]
    tail = total - inside
    # KL = sum P log P - sum P log Q, with counts in place of shares.
    self_term = _cumulated(_x_log_x(counts))[candidates]
    self_term += _x_log_x(last + tail) - _x_log_x(last)
    cross_term = torch.cat(
        [
            _cross_term(below, filled, part, levels)
            for part in torch.split(candidates, max(1, CELLS_AT_ONCE // levels))
        ]
    )
    divergences = (self_term - cross_term) / total + (inside / total).log()
    lost = (last == 0) & (tail > 0)
    return candidates, divergences.clamp(min=0).masked_fill(
        lost | (inside == 0), math.inf
    )


def _cross_term(
    below: Tensor, filled: Tensor, candidates: Tensor, levels: int
) -> Tensor:
    """``sum P log Q`` of each candidate, with counts in place of shares."""
    level = torch.arange(levels + 1, dtype=torch.float64, device=below.device)
    # The first bin of each level.  A quotient that is whole is exact.
    edges = (candidates[:, None] * level / levels).ceil_().to(torch.int64)
    sums, bins = below.take(edges).diff(dim=1), filled.take(edges).diff(dim=1)
    # An empty level adds 0 times a finite number.
    log_shares = (sums / bins.clamp_(min=1)).clamp_(min=SMALLEST_NORMAL).log_()
    # The tail joins the level of the last bin, behind which others may be empty.
    last = (candidates - 1) * levels // candidates
    tail = below[-1] - below[candidates]
    tail *= log_shares.gather(1, last[:, None])[:, 0]
    return (sums * log_shares).sum(1) + tail


def entropy_threshold(
    counts: Tensor,
    width: float | Tensor,
    levels: int = 128,
    first: int | None = None,
) -> float:
    """The bin edge at which ``entropy_curve`` is lowest.

    Of equal minima (within 1e-12 nats) the last counts, which clips least.  If every
    divergence is infinite, as where all values are in bin 0, that is the last edge.

    Args:
        counts: as for ``entropy_curve``, likewise ``levels`` and ``first``.
        width: of a bin, in the unit of the data.

    Returns:
        T in the unit of the data.

    Raises:
        ValueError: as for ``entropy_curve``; if ``width`` is no number above 0.

    Source: as for ``entropy_curve``.  Chapter: *Entropy calibration*.

    >>> entropy_threshold(torch.tensor([9, 4, 4, 2, 1, 0, 0, 1]), 0.5, levels=4)
    4.0
    """
    if isinstance(width, bool) or not isinstance(width, Real | Tensor):
        raise ValueError(f"width: need a number above 0, got {width!r}")
    if isinstance(width, Tensor):
        width = dense(width, "width").detach()
        if width.ndim or not width.is_floating_point():
            got = f"{width.dtype} of shape {tuple(width.shape)}"
            raise ValueError(f"width: need one floating-point number, got {got}")
    try:
        width = float(width)
    except OverflowError:
        width = math.inf
    if not 0 < width < math.inf:
        raise ValueError(f"width: need a finite number above 0, got {width!r}")
    candidates, divergences = entropy_curve(counts, levels, first)
    lowest = (divergences <= divergences.min() + TIE).nonzero()[-1, 0]
    return float(candidates[lowest]) * width


def mse_curve(counts: Tensor, levels: int = 128) -> tuple[Tensor, Tensor]:
    """Mean squared error of each candidate threshold, in squares of the bin width.

    Values are taken as evenly spread within their bin.  With T at edge i, the step is
    ``a = i / (levels - 1)`` bins.  If every value went to the top level, the squared
    errors would sum to ``sum((x - i)**2)``.  Each border between two levels,
    ``u = (j - 1/2) a``, lets the values below it go one level down, which saves
    ``2 a G(u)``, where ``G(u) = sum(max(u - x, 0))`` is the cumulated count cumulated
    again.  So one table of G serves all candidates.

    Args:
        counts: histogram of magnitudes, (bins,); whole numbers of at least 0 with a
            positive sum below 2**52.
        levels: how many codes the magnitudes get, 0 included.

    Returns:
        ``(candidates, errors)``: the integers i from 1 to ``bins``, and float64.

    Raises:
        ValueError: for other counts or ``levels``.

    Source: the error as Banner et al., arXiv 1810.05723, split it, on a histogram.
    Chapter: *Calibration*.

    >>> candidates, errors = mse_curve(torch.tensor([5, 4, 2, 0, 0, 0, 0, 1]), 3)
    >>> candidates[errors.argmin()]
    tensor(6)
    """
    counts = _histogram(counts, "counts", 1)
    levels = integer(levels, 2, 1 << 16, "levels")
    total = counts.sum()
    if not total > 0:
        raise ValueError("counts: need a positive sum, got all zeros")
    candidates = torch.arange(1, len(counts) + 1, device=counts.device)
    return candidates, _squared_errors(counts[None], levels)[0] / total


def _squared_errors(counts: Tensor, levels: int) -> Tensor:
    """The sum of squared errors of each channel (row) for each candidate (column)."""
    channels, bins = counts.shape
    counts = counts.T.contiguous()  # a border's values of all channels are one row
    k = torch.arange(bins, dtype=torch.float64, device=counts.device)[:, None]
    candidates = k + 1
    total, first = counts.sum(0), (counts * (k + 0.5)).sum(0)
    second = (counts * (k * (k + 1) + 1 / 3)).sum(0)
    at_top = second - 2 * candidates * first + candidates.square() * total
    below = _cumulated(counts)
    table = _cumulated(below[:-1] + counts / 2)  # G at the edges
    steps = candidates / (levels - 1)
    borders = torch.arange(1, levels, dtype=torch.float64, device=k.device) - 0.5
    saved = torch.cat(
        [
            _between_edges(table, below, counts, part * borders).sum(1)
            for part in torch.split(steps, max(1, CELLS_AT_ONCE // (levels * channels)))
        ]
    )
    return (at_top - 2 * steps * saved).clamp_(min=0).T


def _between_edges(table: Tensor, below: Tensor, counts: Tensor, u: Tensor) -> Tensor:
    """G(u) of each channel, of which ``table`` has the values at the edges."""
    k = u.to(torch.int64)
    f = (u - k)[..., None]
    return table[k] + f * (below[k] + counts[k] * f / 2)


def load(path: str | PathLike[str]) -> Observer:
    """An observer that ``save`` has written; it goes on as the saved one would.

    Args:
        path: the file.

    Returns:
        An observer on the CPU.

    Raises:
        FileNotFoundError: if there is none.
        ValueError: if the file is no safetensors file, not of an observer, or does not
            fit together; if ``path`` is no path.

    Chapter: *Calibration*.

    >>> from tempfile import TemporaryDirectory
    >>> with TemporaryDirectory() as folder:
    ...     Entropy(levels=8).observe(torch.ones(3)).save(folder + "/relu1")
    ...     load(folder + "/relu1")
    Entropy(levels=8, bins=2048, axis=None)
    """
    kinds = {
        kind.__name__: kind
        for kind in (MinMax, MovingAverageMinMax, Percentile, Entropy, MSE, ADMM)
    }
    try:
        with safe_open(_path(path), framework="pt") as file:
            metadata = file.metadata() or {}
            names = file.keys()
            state = {name: file.get_tensor(name) for name in names}
    except SafetensorError as error:
        raise ValueError(f"path: need a safetensors file, got {path}") from error
    if metadata.get("format") != FORMAT or metadata.get("class") not in kinds:
        raise ValueError(f"path: need an observer's file, got {path}")
    try:
        observer = kinds[metadata["class"]](**json.loads(metadata["settings"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"path: need an observer's settings in {path}") from error
    _check_state(state, observer, path)
    observer._state = state
    return observer


def all_reduce(observers: Mapping[str, Observer] | Sequence[Observer]) -> None:
    """Merge observers across processes: each gets what all have seen, in place.

    Over the default group of ``torch.distributed``; every process calls it, with the
    same observers in the same order.  Calling it twice counts everything twice.  A
    process that has seen nothing takes part.  Histograms need one bin width: give
    ``range=``, from a first pass with ``MinMax``.

    Args:
        observers: a list, or a dict of names and observers.

    Raises:
        RuntimeError: if ``torch.distributed`` has no process group.
        ValueError: in all processes alike, with no observer changed: if one of them
            gives what is no observer, or a moving average; if classes, settings,
            channels or bin widths differ between them.

    Chapter: *Calibration*.

    >>> store = dist.HashStore()  # of one process; torchrun starts several
    >>> dist.init_process_group("gloo", store=store, rank=0, world_size=1)
    >>> observer = MinMax().observe(torch.tensor([1.0, 3.0]))
    >>> all_reduce({"relu1": observer})
    >>> observer.range()
    (tensor(1.), tensor(3.))
    >>> dist.destroy_process_group()
    """
    if not (dist.is_available() and dist.is_initialized()):
        raise RuntimeError(
            "torch.distributed: need a process group, call init_process_group first"
        )
    named: dict[str, Observer] = {}
    wrong = ""
    try:
        named = dict(_named(observers))
    except ValueError as error:
        wrong = str(error)
    mine = {
        name: (repr(o), _channels(o._state), _bins(o._state))
        for name, o in named.items()
    }
    everyones = _everyones(mine, wrong)
    joined: dict[str, State] = {}
    for name in everyones[0]:
        _check_alike(name, everyones)
        # One number, or none where no process knows the channels yet.
        for channels in {theirs[name][1] for theirs in everyones if theirs[name][1]}:
            bins = max(theirs[name][2] for theirs in everyones)
            state = named[name]._state or named[name]._blank(channels)
            joined[name] = _reduced(_with_bins(state, bins), name)
    for name, state in joined.items():
        named[name]._state = state


def _everyones(mine: Summary, wrong: str) -> list[Summary]:
    """What all processes have; where one can't take part, none waits for it."""
    gathered: list[tuple[Summary, str]] = [({}, "")] * dist.get_world_size()
    dist.all_gather_object(gathered, (mine, wrong))
    for _, error in gathered:
        if error:
            raise ValueError(error)
    return [theirs for theirs, _ in gathered]


def _named(
    observers: Mapping[str, Observer] | Sequence[Observer],
) -> Iterator[tuple[str, Observer]]:
    if not isinstance(observers, Mapping | Sequence) or isinstance(observers, str):
        got = type(observers).__name__
        raise ValueError(f"observers: need a list or dict of observers, got a {got}")
    pairs = (
        observers.items() if isinstance(observers, Mapping) else enumerate(observers)
    )
    for name, observer in pairs:
        if not isinstance(observer, Observer):
            got = type(observer).__name__
            raise ValueError(f"observers[{name!r}]: need an observer, got a {got}")
        if isinstance(observer, MovingAverageMinMax):
            raise ValueError(
                f"observers[{name!r}]: moving averages depend on the order of their "
                "batches, so those of several processes can't be merged"
            )
        yield str(name), observer


def _check_alike(name: str, everyones: list[Summary]) -> None:
    for rank, theirs in enumerate(everyones):
        if theirs.keys() != everyones[0].keys():
            raise ValueError(
                f"observers: need the same in all processes, got {list(everyones[0])} "
                f"in process 0 and {list(theirs)} in process {rank}"
            )
    for what, kinds in (
        ("the same observer", {theirs[name][0] for theirs in everyones}),
        ("one number of channels", {theirs[name][1] for theirs in everyones} - {0}),
    ):
        if len(kinds) > 1:
            got = " and ".join(sorted(map(str, kinds)))
            raise ValueError(
                f"observers[{name!r}]: need {what} in all processes, got {got}"
            )


def _reduced(state: State, name: str) -> State:
    """The states of all processes, joined."""
    home = state["count"].device
    # NCCL reduces on a GPU only, Gloo anywhere.
    nccl = dist.get_backend() == "nccl"
    away = torch.device("cuda", torch.cuda.current_device()) if nccl else "cpu"
    operations = {
        torch.add: dist.ReduceOp.SUM,
        torch.minimum: dist.ReduceOp.MIN,
        torch.maximum: dist.ReduceOp.MAX,
    }

    def reduced(t: Tensor, operation: dist.ReduceOp.RedOpType) -> Tensor:
        t = t.to(away, copy=True).contiguous()
        dist.all_reduce(t, operation)
        return t.to(home)

    if "width" in state:
        smallest = reduced(_set_width(state), dist.ReduceOp.MIN)
        largest = reduced(state["width"], dist.ReduceOp.MAX)
        _check_one_width(smallest, largest, f"observers[{name!r}]")
    return {key: reduced(t, operations[JOIN[key]]) for key, t in state.items()}


def _positive(value: float, most: int, name: str) -> float:
    real = isinstance(value, Real) and not isinstance(value, bool)
    # A fraction may be above 0 and its float not.
    if not (real and 0 < value <= most and float(value) > 0):
        got = shown(value)
        raise ValueError(f"{name}: need a number above 0, at most {most}, got {got}")
    return float(value)


def _rows(x: Tensor, axis: int | None) -> Tensor:
    """The values of a batch in float32, one row a channel."""
    x = dense(x, "x").detach()
    if not x.is_floating_point():
        raise ValueError(f"x: need floating-point values, got {x.dtype}")
    if not x.numel():
        raise ValueError(f"x: need at least one value, got shape {tuple(x.shape)}")
    x = x.to(torch.float32)
    if axis is None:
        # In the order of memory, so that channels_last needs no copy.
        order = sorted(range(x.ndim), key=x.stride, reverse=True)
        return x.permute(order).reshape(1, -1)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(
            f"x: need a tensor with axis {axis}, got shape {tuple(x.shape)}"
        )
    return x.movedim(axis, 0).reshape(x.shape[axis], -1)


def _count(rows: Tensor, width: Tensor, bins: int) -> Tensor:
    """How many values of each row are zero, and how many are in each bin."""
    channels, slots = len(rows), 1 + bins
    counts = torch.zeros(channels * slots, dtype=torch.int64, device=rows.device)
    first = torch.arange(channels, dtype=torch.int32, device=rows.device) * slots
    at_once = VALUES_AT_ONCE.get(rows.device.type, VALUES_AT_ONCE_ELSEWHERE)
    for part in torch.split(rows, max(at_once, len(counts)) // channels, dim=1):
        # A true quotient of float32, so that any device finds the same bin.
        slot = part.abs().div_(width[:, None]).ceil_().to(torch.int32)
        slot += first[:, None]
        counts += torch.bincount(slot.flatten(), minlength=len(counts))
    return counts.view(channels, slots)


def _width(largest: Tensor, bins: int) -> Tensor:
    """The width with which ``largest`` falls in the last bin; 0 where it is 0."""
    width = (largest / bins).clamp(min=SMALLEST_NORMAL)
    above = torch.nextafter(width, torch.full_like(width, math.inf))
    width = torch.where(largest / width > bins, above, width)
    return torch.where(largest > 0, width, 0.0)


def _largest_magnitude(given: Range, axis: int | None) -> Tensor:
    """What ``range=`` stands for, one row a channel."""
    pair = given if isinstance(given, tuple | list) else (given,)
    if any(
        isinstance(end, bool) or (isinstance(end, Tensor) and end.is_complex())
        for end in pair
    ):
        raise ValueError(f"range: need numbers or tensors, got {given!r}")
    try:
        ends = [torch.as_tensor(end, dtype=torch.float32).cpu() for end in pair]
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise ValueError(f"range: need numbers or tensors, got {given!r}") from error
    if len(ends) not in (1, 2) or ends[0].shape != ends[-1].shape:
        raise ValueError(
            f"range: need the largest magnitude or a pair (low, high), got {given!r}"
        )
    low, high = torch.zeros_like(ends[-1]) if len(ends) == 1 else ends[0], ends[-1]
    finite_floats(low, "range")
    finite_floats(high, "range")
    if (low > high).any():
        raise ValueError(f"range: need low <= high and magnitudes >= 0, got {given!r}")
    if low.ndim != (axis is not None):
        needed = "one value" if axis is None else "one value a channel (1-D)"
        raise ValueError(f"range: need {needed}, got shape {tuple(low.shape)}")
    return torch.maximum(low.abs(), high.abs()).detach().reshape(-1)


def _check_size(
    channels: int,
    bins: float,
    value: Tensor | None = None,
    width: Tensor | None = None,
) -> None:
    most = min(MOST_BINS, MOST_COUNTS // channels)
    if bins <= most:
        return
    if value is None or width is None:
        raise ValueError(
            f"bins: need at most {most} for {channels} channels, got {bins}"
        )
    raise ValueError(
        f"x: the value {float(value):g} would need {bins:.0f} bins of width "
        f"{float(width):g}, more than {most}; "
        "give range= the largest magnitude to expect"
    )


def _check_one_width(smallest: Tensor, largest: Tensor, name: str) -> None:
    """Raise if widths that are set differ."""
    if (smallest < largest).any():
        worst = int((smallest < largest).to(torch.int8).argmax())
        raise ValueError(
            f"{name}: need bins of one width, got {float(smallest[worst])!r} and "
            f"{float(largest[worst])!r}; give both observers the same range="
        )


def _set_width(state: State) -> Tensor:
    """The width, infinite where none is set yet."""
    return torch.where(state["width"] > 0, state["width"], math.inf)


def _channels(state: State) -> int:
    """How many channels there are; 0 if nobody knows yet."""
    return len(state["low"]) if state else 0


def _bins(state: State) -> int:
    """How many bins there are; 0 without a histogram."""
    return state["counts"].shape[1] - 1 if "counts" in state else 0


def _with_bins(state: State, bins: int) -> State:
    """The state with empty bins appended, up to ``bins``."""
    if "counts" not in state:
        return state
    return {**state, "counts": pad(state["counts"], (0, bins - _bins(state)))}


def _to(state: State, device: torch.device) -> State:
    return {name: t.to(device) for name, t in state.items()}


def _path(path: str | PathLike[str]) -> str | PathLike[str]:
    if not isinstance(path, str | PathLike):
        got = type(path).__name__
        raise ValueError(f"path: need a str or an os.PathLike, got a {got}")
    return path


def _check_state(state: State, observer: Observer, path: str | PathLike[str]) -> None:
    """Refuse tensors that no observer of this kind could have saved."""
    if state == {} and observer.axis is not None:
        return
    channels = len(state["low"]) if "low" in state and state["low"].ndim == 1 else 0
    fits = channels == 1 or (channels > 1 and observer.axis is not None)
    if not (fits and _could_be(state, observer, channels)):
        got = {name: tuple(t.shape) for name, t in state.items()}
        raise ValueError(f"path: need the state of {observer!r}, got {got} in {path}")


def _could_be(state: State, observer: Observer, channels: int) -> bool:
    """Whether names, types and shapes are those of the observer, and the values fit."""
    try:
        blank = observer._blank(channels)
    except ValueError:  # more bins than it may have
        return False
    return (
        state.keys() == blank.keys()
        and all(
            (t.dtype, t.ndim) == (blank[name].dtype, blank[name].ndim)
            and (t.ndim == 0 or len(t) == channels)
            for name, t in state.items()
        )
        and _bins(state) >= _bins(blank)
        and _makes_sense(state)
    )


def _makes_sense(state: State) -> bool:
    """Whether ends are in order, and what they say of bins and counts is so."""
    low, high, count = state["low"], state["high"], int(state["count"])
    if count == 0:
        ordered = bool((low == math.inf).all() and (high == -math.inf).all())
    else:
        ordered = bool((low.isfinite() & high.isfinite() & (low <= high)).all())
    if "counts" not in state or not ordered:
        return ordered and count >= 0
    counts, width = state["counts"], state["width"]
    if not ((counts >= 0).all() and (width >= 0).all() and width.isfinite().all()):
        return False
    largest = torch.maximum(high, -low).clamp(min=0)
    reach = torch.where(width > 0, (largest / width).ceil(), largest * math.inf)
    return (
        # Sums of int64 wrap around.
        float(counts.sum(dtype=torch.float64)) < MOST_COUNTED
        and int(counts.sum()) == count
        and not (reach.nan_to_num(0) > _bins(state)).any()
        and not counts[width == 0, 1:].any()
    )


def _histogram(counts: Tensor, name: str, fewest: int) -> Tensor:
    """A histogram in float64, where whole numbers add exactly."""
    counts = dense(counts, name).detach()
    if counts.is_complex():
        raise ValueError(f"{name}: need whole numbers of at least 0")
    counts = counts.to(torch.float64)
    finite_floats(counts, name)
    if counts.ndim != 1 or len(counts) < fewest:
        raise ValueError(
            f"{name}: need {fewest} bins or more, 1-D, got {tuple(counts.shape)}"
        )
    if (counts < 0).any() or (counts != counts.floor()).any():
        raise ValueError(f"{name}: need whole numbers of at least 0")
    if counts.sum() >= MOST_COUNTED:
        raise ValueError(f"{name}: need a sum below 2**52, got {float(counts.sum()):g}")
    return counts


def _cumulated(t: Tensor) -> Tensor:
    """Sums of the first 0, 1, 2, ... values, or rows."""
    return pad(t.to(torch.float64).cumsum(0), (0, 0) * (t.ndim - 1) + (1, 0))


def _x_log_x(t: Tensor) -> Tensor:
    return torch.xlogy(t, t)
