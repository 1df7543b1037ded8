"""How far apart are two tensors, and how sure is an accuracy?

Measures of what quantization did to a tensor (mean square, SQNR, its parts from
clipping and from rounding, cosine, Kullback-Leibler divergence), a table of agreement,
and accuracies with an error that knows which test images come from one original.
Explained in the chapters *Affine and scale* and *Granularity: how many scales?*.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from quantcourse._checks import integer, shown
from quantcourse._tensor_checks import dense, finite_floats
from quantcourse.affine import INTEGERS, QParams, fake_quantize, unclipped_codes

__all__ = [
    "Agreement",
    "Comparison",
    "accuracy",
    "compare",
    "cosine",
    "error_split",
    "kl_divergence",
    "mse",
    "paired_difference",
    "sqnr",
]

DRAWS_AT_ONCE = 1 << 20  # keeps memory small however many originals there are


def mse(x: Tensor, y: Tensor) -> float:
    """Mean square of ``x - y``, in float64.

    Args:
        x: numbers of any shape, at least one: floats, integers below 2**53, or truth
            values, which count as 0 and 1.
        y: what became of them, same shape.

    Raises:
        ValueError: for what is no dense tensor of finite real numbers, or other shapes;
            if the sum of the squares is beyond float64.

    Chapter: *Affine and scale*.

    >>> mse(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]))
    0.125
    """
    apart = _difference(x, y, "x", "y")
    square = float(apart.square().mean())
    if square == math.inf:
        raise ValueError(
            "x, y: need squares that sum within float64, got a difference of "
            f"{float(apart.abs().max()):g}: scale both down"
        )
    return square


def sqnr(x: Tensor, y: Tensor) -> float:
    """Signal-to-quantization-noise ratio: power of ``x`` over that of ``x - y``, in dB.

    Args:
        x: the signal, any shape.
        y: what it became, same shape.

    Returns:
        ``10 log10(sum(x**2) / sum((x - y)**2))``; infinite if nothing changed.

    Raises:
        ValueError: as for ``mse``, but for squares beyond float64, which do no harm
            here; if all of ``x`` is zero, so that there is no signal.

    Source: Bennett, Spectra of quantized signals, 1948.  Chapter: *Affine and scale*.

    >>> round(sqnr(torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.5])), 6)
    20.0
    """
    noise = _difference(x, y, "x", "y")
    signal = _float64(x, "x")
    if not signal.any():
        raise ValueError(f"x: need a value other than zero, got {_zeros(signal)}")
    return _power(signal) - _power(noise) if noise.any() else math.inf


def _power(v: Tensor) -> float:
    """Mean square in dB.  The largest value is taken out: its square could overflow."""
    largest = v.abs().max()
    return 20 * math.log10(largest) + 10 * math.log10((v / largest).square().mean())


def error_split(x: Tensor, qp: QParams) -> tuple[float, float]:
    """The mean squared error of ``fake_quantize(x, qp)``, by its cause.

    An element is clipped if its code before clipping is outside the type.  Each
    element's whole squared error goes to one of the two causes; both sums are divided
    by the number of all elements, so they add up to ``mse(x, fake_quantize(x, qp))``.

    Args:
        x: floats of any shape, at least one.
        qp: scales and zero points.

    Returns:
        ``(clipping, rounding)``, mean squares.

    Raises:
        ValueError: as for ``quantize``.

    Source: Banner et al., arXiv 1810.05723, who minimize the sum of the two.
    Chapter: *Affine and scale*.

    >>> from quantcourse.affine import INT4
    >>> error_split(torch.tensor([0.25, 6.0]), QParams(0.5, 0, INT4))
    (3.125, 0.03125)
    """
    codes = unclipped_codes(x, qp)
    clipped = (codes < qp.dtype.min) | (codes > qp.dtype.max)
    square = (x.detach().to(torch.float64) - fake_quantize(x, qp)).square()
    clipping = square[clipped].sum() / square.numel()
    rounding = square[~clipped].sum() / square.numel()
    return float(clipping), float(rounding)


def kl_divergence(p: Tensor, q: Tensor) -> float:
    """Kullback-Leibler divergence ``sum(p ln(p / q))`` of two histograms, in nats.

    Args:
        p: counts or probabilities, any shape, none negative; divided by their sum.
        q: likewise, same shape.

    Returns:
        0 if both are proportional.  A bin where p is 0 adds nothing; one where only q
        is 0 makes it infinite.

    Raises:
        ValueError: for negative or not finite values, a sum of zero, other shapes.

    Source: Kullback and Leibler, On information and sufficiency, 1951.

    >>> round(kl_divergence(torch.tensor([1, 1]), torch.tensor([1, 3])), 4)
    0.1438
    """
    p, q = _pair(p, q, "p", "q")
    for name, bins in (("p", p), ("q", q)):
        if (bins < 0).any() or not 0 < float(bins.sum()) < math.inf:
            raise ValueError(
                f"{name}: need values of at least 0 with a positive, finite sum, "
                f"got {float(bins.min())} and sum {float(bins.sum())}"
            )
    p, q = p / p.sum(), q / q.sum()
    seen = p > 0
    return float((p[seen] * (p[seen].log() - q[seen].log())).sum())


def cosine(x: Tensor, y: Tensor) -> float:
    """Cosine of the angle between two tensors, taken as vectors, in float64.

    Args:
        x: numbers of any shape, at least one.
        y: same shape.

    Raises:
        ValueError: as for ``mse``; if one is all zeros, which has no direction.

    Chapter: *Granularity: how many scales?*.

    >>> cosine(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 4.0]))
    0.6
    """
    x, y = _pair(x, y, "x", "y")
    for name, vector in (("x", x), ("y", y)):
        if not vector.any():
            raise ValueError(
                f"{name}: need a value other than zero for a direction, "
                f"got {_zeros(vector)}"
            )
    x, y = x / x.abs().max(), y / y.abs().max()
    norms = (x.square().sum() * y.square().sum()).sqrt()
    return float(((x * y).sum() / norms).clamp(-1, 1))


@dataclass(frozen=True)
class Agreement:
    """How far two tensors agree.  Chapter: *Affine and scale*.

    Args:
        name: what they are called.
        elements: how many elements each has.
        exact: how many are equal.
        within: how many differ by at most ``Comparison.step``.
        largest: the largest difference.

    >>> table = compare({"codes": (torch.tensor([1, 2, 3]), torch.tensor([1, 2, 5]))})
    >>> table.rows[0].exact, table.rows[0].largest
    (2, 2.0)
    """

    name: str
    elements: int
    exact: int
    within: int
    largest: float


@dataclass(frozen=True)
class Comparison:
    """A table of agreements; ``print`` shows one line a tensor.

    Args:
        step: the difference that counts as within a step.
        rows: the lines.

    Shares are rounded down, so that 100 % means every element.
    Chapter: *Affine and scale*.

    >>> print(compare({"conv1": (torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4]))}))
    tensor                         elements      exact   within 1   largest difference
    conv1                                 3    66.66 %   100.00 %                    1
    """

    step: float
    rows: tuple[Agreement, ...]

    def __str__(self) -> str:
        within = f"within {self.step:g}"
        lines = [
            f"{'tensor':26}{'elements':>13}{'exact':>11}{within:>14}"
            f"{'largest difference':>24}"
        ]
        for row in self.rows:
            name = row.name if len(row.name) <= 26 else "…" + row.name[-25:]
            lines.append(
                f"{name:26}{row.elements:>13}{_percent(row.exact, row.elements):>11}"
                f"{_percent(row.within, row.elements):>14}{row.largest:>24.6g}"
            )
        return "\n".join(lines)


def compare(
    tensors: Mapping[str, tuple[Tensor, Tensor]], step: float = 1
) -> Comparison:
    """Whether pairs of tensors agree: exactly, within a step, and at worst.

    Args:
        tensors: for each name, a tuple or list of two tensors of one shape, of what
            ``mse`` takes.
        step: the difference that counts as close; 1 suits codes.

    Returns:
        A table; print it.

    Raises:
        ValueError: as for ``mse``, naming the pair; if there is no pair, or an entry is
            something else; if ``step`` is no positive finite number.

    Source: the function ``cmp`` in Karpathy's lecture *Becoming a backprop ninja*.
    Chapter: *Affine and scale*.

    >>> print(compare({"conv1": (torch.tensor([1, 2, 3]), torch.tensor([1, 2, 4]))}))
    tensor                         elements      exact   within 1   largest difference
    conv1                                 3    66.66 %   100.00 %                    1
    """
    if not isinstance(tensors, Mapping):
        got = type(tensors).__name__
        raise ValueError(f"tensors: need a dict of names and pairs, got a {got}")
    if not tensors:
        raise ValueError("tensors: need at least one pair, got none")
    if isinstance(step, bool) or not isinstance(step, Real) or not 0 < step < math.inf:
        raise ValueError(f"step: need a positive finite number, got {shown(step)}")
    rows = []
    for name, pair in tensors.items():
        if not isinstance(name, str):
            raise ValueError(f"tensors: need names that are strings, got {name!r}")
        # A tensor of two rows would unpack as well.
        if not isinstance(pair, tuple | list) or len(pair) != 2:
            got = type(pair).__name__
            got += f" of {len(pair)}" if isinstance(pair, tuple | list) else ""
            raise ValueError(f"{name}: need a tuple of two tensors, got a {got}")
        apart = _difference(*pair, f"{name}[0]", f"{name}[1]").abs()
        exact, within = int((apart == 0).sum()), int((apart <= step).sum())
        rows.append(Agreement(name, apart.numel(), exact, within, float(apart.max())))
    return Comparison(step, tuple(rows))


def accuracy(
    correct: Tensor, clusters: Tensor, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The share of correct answers and its standard error.

    Args:
        correct: truth values, one an image.
        clusters: integers, one an image: which original it is a view of.
        resamples: how often the originals are drawn anew.
        seed: of the draws.

    Returns:
        ``(mean, standard error)``, both as shares of 1.  The error is that of a
        cluster bootstrap, as in ``paired_difference``.

    Raises:
        ValueError: if ``correct`` are no truth values; otherwise as for
            ``paired_difference``.

    Chapter: *Granularity: how many scales?*.

    >>> right = torch.tensor([True, True, False, True])
    >>> share, error = accuracy(right, torch.tensor([0, 0, 1, 1]))
    >>> share, round(error, 1)
    (0.75, 0.2)
    """
    if not isinstance(correct, Tensor) or correct.dtype != torch.bool:
        got = getattr(correct, "dtype", type(correct).__name__)
        raise ValueError(f"correct: need a tensor of truth values, got {got}")
    values = _float64(_one_an_image(correct, "correct"), "correct")
    return _cluster_bootstrap(values, clusters, resamples, seed)


def paired_difference(
    a: Tensor, b: Tensor, clusters: Tensor, resamples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """Mean of ``a - b`` over images and its standard error, by a cluster bootstrap.

    Views of one original are wrong together, so originals are drawn, with replacement
    and all their views at once.  The error is the standard deviation of the mean over
    such draws.  The same images under ``a`` and ``b`` cancel what both share.

    Args:
        a: one result an image, such as whether model a is right; truth values or
            numbers, 1-D.
        b: the same of model b.
        clusters: integers, one an image: which original it is a view of.
        resamples: how often the originals are drawn anew; the error itself is known
            to about 1 part in ``sqrt(2 * resamples)``.
        seed: of the draws.

    Returns:
        ``(mean, standard error)``.

    Raises:
        ValueError: for what is not 1-D, of one length and finite; for clusters that
            are no integers or fewer than two; for fewer than two resamples.

    Source: Field and Welsh, Bootstrapping clustered data, 2007; Cameron, Gelbach and
    Miller, Bootstrap-based improvements for inference with clustered errors, 2008.
    Chapter: *Granularity: how many scales?*.

    >>> a = torch.tensor([1.0, 1.0, 0.0, 1.0])
    >>> b = torch.tensor([1.0, 0.0, 0.0, 0.0])
    >>> mean, error = paired_difference(a, b, torch.tensor([7, 7, 9, 9]))
    >>> mean, error
    (0.5, 0.0)
    """
    a, b = _one_an_image(a, "a"), _one_an_image(b, "b")
    return _cluster_bootstrap(_difference(a, b, "a", "b"), clusters, resamples, seed)


def _cluster_bootstrap(
    values: Tensor, clusters: Tensor, resamples: int, seed: int
) -> tuple[float, float]:
    if not isinstance(clusters, Tensor) or clusters.dtype not in INTEGERS:
        got = getattr(clusters, "dtype", type(clusters).__name__)
        raise ValueError(f"clusters: need a tensor of integers, got {got}")
    clusters = dense(clusters, "clusters")
    if clusters.shape != values.shape:
        raise ValueError(
            f"clusters: need one an image, shape {tuple(values.shape)}, "
            f"got {tuple(clusters.shape)}"
        )
    resamples = integer(resamples, 2, 1 << 30, "resamples")
    seed = integer(seed, 0, (1 << 63) - 1, "seed")
    originals, index = torch.unique(clusters, return_inverse=True)
    count = len(originals)
    if count < 2:
        raise ValueError("clusters: need at least two, one alone shows no spread")
    zeros = torch.zeros(count, dtype=torch.float64, device=values.device)
    sums = zeros.index_add(0, index, values).cpu()
    sizes = zeros.index_add(0, index, torch.ones_like(values)).cpu()
    chance = torch.Generator().manual_seed(seed)
    rows = max(1, DRAWS_AT_ONCE // count)
    means = []
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), count)
        drawn = torch.randint(count, shape, generator=chance)
        means.append(sums.take(drawn).sum(1) / sizes.take(drawn).sum(1))
    return float(values.mean()), float(torch.cat(means).std())


def _one_an_image(x: Tensor, name: str) -> Tensor:
    if not isinstance(x, Tensor) or x.ndim != 1:
        got = f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: need a 1-D tensor, one value an image, got {got}")
    return x


def _pair(x: Tensor, y: Tensor, x_name: str, y_name: str) -> tuple[Tensor, Tensor]:
    """Both in float64, of one shape."""
    x, y = _float64(x, x_name), _float64(y, y_name)
    if x.shape != y.shape:
        raise ValueError(
            f"{y_name}: need the shape of {x_name}, {tuple(x.shape)}, "
            f"got {tuple(y.shape)}"
        )
    return x, y


def _difference(x: Tensor, y: Tensor, x_name: str, y_name: str) -> Tensor:
    """``x - y`` in float64."""
    x, y = _pair(x, y, x_name, y_name)
    apart = x - y
    if not torch.isfinite(apart).all():
        raise ValueError(
            f"{x_name}, {y_name}: need differences within float64, got values up to "
            f"{float(torch.maximum(x.abs(), y.abs()).max()):g}"
        )
    return apart


def _float64(x: Tensor, name: str) -> Tensor:
    x = dense(x, name)
    if x.dtype in (*INTEGERS, torch.bool):
        wide = x.to(torch.float64)
        if wide.numel() and (largest := float(wide.abs().max())) >= 2**53:
            raise ValueError(
                f"{name}: need integers below 2**53, as float64 holds, "
                f"got one of about {largest:g}"
            )
        x = wide
    return finite_floats(x, name).detach().to(torch.float64)


def _zeros(x: Tensor) -> str:
    return f"{x.numel()} zeros" if x.numel() > 1 else "a single zero"


def _percent(part: int, whole: int) -> str:
    return f"{part * 10_000 // whole / 100:.2f} %"
