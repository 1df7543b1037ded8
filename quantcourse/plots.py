"""The house figures: one function a picture, drawn into the notebook, nothing returned.

All of them use the same colours (Okabe and Ito's, which colour-blind readers can tell apart), tell series
apart by marker or dash as well, and keep a white ground, which the site turns dark with the page.
"""

import ast
import inspect
import itertools
import textwrap
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch, Rectangle
from matplotlib.transforms import offset_copy
from numpy.typing import ArrayLike, NDArray

from quantcourse.cost import Cost, Machine, Roofline
from quantcourse.fixed import QFormat
from quantcourse.floats import FloatFormat

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_DASHES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 1)))
_STYLE: Any = {
    "figure.dpi": 150,
    "figure.facecolor": "white",
    "axes.prop_cycle": cycler(color=COLOURS, linestyle=_DASHES),
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelcolor": "#222222",
    "axes.edgecolor": "#666666",
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.7,
    "lines.linewidth": 1.8,
    "font.size": 11,
    "legend.frameon": False,
    "xtick.color": "#444444",
    "ytick.color": "#444444",
}


@contextmanager
def _picture(width: float = 6.4, height: float = 3.6) -> Iterator[Axes]:
    """Axes in the house style; the figure is shown when the block ends."""
    with plt.rc_context(_STYLE):
        _, axes = plt.subplots(figsize=(width, height), layout="constrained")
        yield axes
        plt.show()


def show_source(*objects: Callable[..., Any] | property | cached_property[Any]) -> None:
    """Print the package's own source of functions, methods or properties, without their docstrings.

    >>> show_source(FloatFormat.epsilon)
    @property
    def epsilon(self) -> float:
        return 2.0**-self.fraction_bits
    """
    sources = []
    for thing in objects:
        function = (
            thing.fget if isinstance(thing, property) else getattr(thing, "func", thing)
        )
        source = textwrap.dedent(inspect.getsource(function))  # type: ignore[arg-type]  # a property has a getter
        definition = ast.parse(source).body[0]
        assert isinstance(definition, ast.FunctionDef)
        lines = source.splitlines()
        first = definition.body[0]
        if ast.get_docstring(definition) is not None:
            del lines[first.lineno - 1 : first.end_lineno]
        sources.append("\n".join(lines))
    print("\n\n".join(sources))


def bit_fields(form: FloatFormat, x: float) -> None:
    """The stored bits of ``x`` as a row of boxes, coloured and labelled by field."""
    fields = zip(
        ("sign", "exponent", "fraction"),
        form.fields(x),
        (1, form.exponent_bits, form.fraction_bits),
        strict=True,
    )
    with _picture(height=1.2) as axes:
        axes.set_axis_off()
        axes.set_xlim(0, form.bits)
        axes.set_ylim(-0.9, 1.6)
        left = 0
        for (name, value, width), colour in zip(fields, COLOURS, strict=False):
            for index, bit in enumerate(f"{value:0{width}b}"):
                position = left + index
                axes.add_patch(
                    Rectangle(
                        (position + 0.06, 0),
                        0.88,
                        1,
                        facecolor="white",
                        edgecolor=colour,
                        linewidth=1.6,
                    )
                )
                axes.text(
                    position + 0.5,
                    0.46,
                    bit,
                    ha="center",
                    va="center",
                    family="monospace",
                )
            axes.text(
                left + width / 2,
                1.3,
                name,
                ha="center",
                va="center",
                color=colour,
                weight="bold",
                fontsize=9,
            )
            axes.text(
                left + width / 2,
                -0.45,
                f"{value}",
                ha="center",
                va="center",
                color="#444444",
                fontsize=9,
            )
            left += width


def number_lines(
    formats: Sequence[FloatFormat | QFormat], low: float, high: float
) -> None:
    """Every number of small formats between ``low`` and ``high``, a row a format."""
    with _picture(height=0.5 + 0.62 * len(formats)) as axes:
        names = []
        for row, form in enumerate(formats):
            values = _all_values(form)
            inside = values[(values >= low) & (values <= high)]
            axes.vlines(
                inside,
                row - 0.32,
                row + 0.32,
                color=COLOURS[row % len(COLOURS)],
                linewidth=1.1,
            )
            names.append(_name(form))
        axes.set_yticks(range(len(formats)), names)
        axes.invert_yaxis()
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("value")


def spacing(formats: Sequence[FloatFormat], low: float, high: float) -> None:
    """The gap between neighbours against magnitude, on logarithmic axes, up to each format's end."""
    x = np.geomspace(low, high, 4000)
    with _picture() as axes:
        for form in formats:
            inside = x[x <= form.max]
            axes.plot(inside, form.ulp(inside), label=form.name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log", base=2)
        axes.set_xlabel("magnitude of x")
        axes.set_ylabel("gap to the next number")
        axes.legend(ncols=2)


def range_and_precision(formats: Sequence[FloatFormat]) -> None:
    """Range of each format as a bar (thin where subnormal) at the height of its significant bits."""
    same_height: Counter[int] = Counter()
    with _picture(height=4.4) as axes:
        for row, form in enumerate(formats):
            colour = COLOURS[row % len(COLOURS)]
            height = form.fraction_bits + 1
            # In points: formats of equal precision are not drawn over each other.
            side_by_side = 9 * same_height[height]
            same_height[height] += 1
            place = offset_copy(
                axes.transData,
                axes.get_figure(root=True),
                y=side_by_side,
                units="points",
            )
            low, start, end = (
                np.log2(v)
                for v in (form.smallest_subnormal, form.smallest_normal, form.max)
            )
            axes.plot(
                [low, start],
                [height, height],
                color=colour,
                linestyle="-",
                linewidth=1.5,
                transform=place,
            )
            axes.plot(
                [start, end],
                [height, height],
                color=colour,
                linestyle="-",
                linewidth=6,
                solid_capstyle="butt",
                transform=place,
            )
            axes.annotate(
                form.name,
                (end, height),
                (6, side_by_side),
                textcoords="offset points",
                va="center",
                fontsize=9,
            )
        axes.set_xscale("symlog", base=2, linthresh=8)
        axes.set_xticks([-1024, -256, -64, -16, 0, 16, 64, 256, 1024])
        axes.set_xticklabels(
            [f"$2^{{{e}}}$" for e in (-1024, -256, -64, -16, 0, 16, 64, 256, 1024)]
        )
        axes.set_xlim(-1400, 6000)
        axes.set_yscale("log", base=2)
        axes.set_ylim(1.6, 80)
        axes.set_yticks(
            [2, 4, 8, 11, 17, 24, 53], ["2", "4", "8", "11", "17", "24", "53"]
        )
        axes.minorticks_off()
        axes.set_xlabel("range: smallest to largest positive number (thin: subnormal)")
        axes.set_ylabel("significant bits")


def running_sums(
    sums: Mapping[str, ArrayLike],
    xlabel: str = "numbers added",
    ylabel: str = "running sum",
) -> None:
    """Running sums against how many numbers were added, a line each."""
    with _picture() as axes:
        for name, values in sums.items():
            axes.plot(np.arange(1, np.size(values) + 1), values, label=name)
        axes.set_xlabel(xlabel)
        axes.set_ylabel(ylabel)
        axes.legend()


def staircases(x: ArrayLike, curves: Mapping[str, ArrayLike]) -> None:
    """What comes out of a quantizer against what goes in, a curve each, with the diagonal behind."""
    x = np.asarray(x)
    with _picture(height=4.0) as axes:
        axes.plot(x, x, color="#999999", linewidth=1, linestyle="-", zorder=0)
        for name, y in curves.items():
            axes.plot(x, y, label=name, drawstyle="steps-mid")
        axes.set_xlabel("value in")
        axes.set_ylabel("value out")
        axes.legend()


def error_by_magnitude(x: ArrayLike, rounded: Mapping[str, ArrayLike]) -> None:
    """Median relative error in each binade of ``x``, a line for each way of rounding it."""
    magnitude = np.abs(np.asarray(x, dtype=np.float64))
    binade = np.floor(np.log2(magnitude))
    with _picture() as axes:
        for (name, y), marker in zip(rounded.items(), "osD^v", strict=False):
            error = np.abs(np.abs(np.asarray(y)) - magnitude) / magnitude
            centres = np.unique(binade)
            medians = [np.median(error[binade == centre]) for centre in centres]
            axes.plot(2.0**centres, medians, marker=marker, markersize=4, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("magnitude of x")
        axes.set_ylabel("median relative error")
        axes.legend()


def grouped_bars(
    groups: Sequence[str], series: Mapping[str, Sequence[float]], ylabel: str
) -> None:
    """Bars side by side: a group for each name in ``groups``, a bar for each of ``series``, its value above it."""
    width = 0.8 / len(series)
    hatches = ("", "//", "..", "xx", "\\\\", "--", "++")
    with _picture(height=3.8) as axes:
        for index, (name, values) in enumerate(series.items()):
            positions = np.arange(len(groups)) + (index - (len(series) - 1) / 2) * width
            bars = axes.bar(
                positions,
                values,
                0.92 * width,
                label=name,
                color=COLOURS[index],
                hatch=hatches[index],
            )
            for bar in bars:
                bar.set_edgecolor("white")
            labels = [
                f"{value:.0f}" if np.isfinite(value) else "" for value in values
            ]  # NaN: no bar
            axes.bar_label(bars, labels, fontsize=8, padding=2)
        axes.set_xticks(range(len(groups)), groups)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(ylabel)
        axes.legend(ncols=4, loc="upper left", bbox_to_anchor=(0, -0.1))


def three_places() -> None:
    """Where precision can be lowered: what is stored, what is computed, and the engine that runs it."""
    boxes = (
        (
            "Storage",
            "weights and activations\nin memory and on disk",
            "pays in bytes,\nwhatever the hardware",
        ),
        (
            "Arithmetic",
            "multiply narrow,\naccumulate wide",
            "pays in operations a second,\nif the processor has them",
        ),
        (
            "Engine",
            "kernels, fused layers,\nsupported types",
            "pays at all only if\nit uses the two before",
        ),
    )
    with _picture(height=2.5) as axes:
        axes.set_axis_off()
        axes.set_xlim(0, 3)
        axes.set_ylim(0, 1)
        for index, (title, what, pays) in enumerate(boxes):
            left = index + 0.03
            colour = COLOURS[index]
            axes.add_patch(
                FancyBboxPatch(
                    (left, 0.34),
                    0.84,
                    0.6,
                    "round,pad=0.02",
                    facecolor="white",
                    edgecolor=colour,
                    linewidth=2,
                )
            )
            axes.text(
                left + 0.42,
                0.82,
                title,
                ha="center",
                va="center",
                weight="bold",
                color=colour,
                fontsize=12,
            )
            axes.text(left + 0.42, 0.55, what, ha="center", va="center", fontsize=9.5)
            axes.text(
                left + 0.42,
                0.14,
                pays,
                ha="center",
                va="center",
                fontsize=9,
                style="italic",
                color="#444444",
            )


def mapping(x: ArrayLike, schemes: Mapping[str, tuple[float, int, int, int]]) -> None:
    """Each number of ``x`` joined to its code, a row for each scheme ``(scale, zero point, lowest, highest code)``."""
    x = np.asarray(x)
    reach = 1.16 * np.abs(x).max()
    with _picture(height=1.9 * len(schemes)) as axes:
        axes.set_xlim(-1.02 * reach, 1.02 * reach)
        axes.set_ylim(-1.6 * len(schemes) + 0.4, 0.45)
        for row, (name, (scale, zero_point, low, high)) in enumerate(schemes.items()):
            colour = COLOURS[row]
            top, bottom = -1.6 * row, -1.6 * row - 0.8
            codes = np.arange(low, high + 1)
            values = scale * (codes - zero_point)
            q = np.clip(np.rint(x / scale) + zero_point, low, high)
            axes.hlines([top, bottom], -reach, reach, color="#888888", linewidth=0.8)
            axes.vlines(
                values, bottom - 0.06, bottom + 0.06, color=colour, linewidth=1.4
            )
            for value, code in zip(values, codes, strict=True):
                axes.text(
                    value, bottom - 0.12, f"{code}", ha="center", va="top", fontsize=8
                )
            axes.plot(x, np.full(x.shape, top), "o", color=colour, markersize=5)
            for number, back in zip(x, scale * (q - zero_point), strict=True):
                axes.plot([number, back], [top, bottom], "-", color=colour, linewidth=1)
            axes.text(
                -reach, top + 0.16, name, color=colour, weight="bold", fontsize=10
            )
        axes.set_axis_off()


def cells(levels: int) -> None:
    """A range cut into ``levels - 1`` equal cells, above the cells of ``levels`` codes with rounding to nearest."""
    ends = levels - 1
    middles = [0.0, *(code + 0.5 for code in range(ends)), float(ends)]
    rows = {
        f"{ends} equal cells": [float(border) for border in range(levels)],
        f"{levels} codes, rounding": middles,
    }
    with _picture(height=1.9) as axes:
        for row, borders in enumerate(rows.values()):
            for index, (left, right) in enumerate(itertools.pairwise(borders)):
                axes.add_patch(
                    Rectangle(
                        (left, -row - 0.3),
                        right - left,
                        0.6,
                        facecolor=("#FFFFFF", "#E4EEF5")[index % 2],
                        edgecolor=COLOURS[row],
                        linewidth=1.3,
                    )
                )
        axes.plot(range(levels), [-1] * levels, "o", color=COLOURS[1], markersize=5)
        axes.set_yticks([0, -1], list(rows))
        axes.set_xticks(range(levels))
        axes.set_xlim(-0.4, ends + 0.4)
        axes.set_ylim(-1.5, 0.5)
        axes.grid(visible=False)
        axes.spines["left"].set_visible(False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel("value, in steps above the low end")


def sqnr_by_bits(bits: Sequence[int], measured: Mapping[str, Sequence[float]]) -> None:
    """SQNR against bits, a line for each kind of data, with the rule of 6.02 dB a bit behind."""
    with _picture(height=4.0) as axes:
        rule = [6.02 * b for b in bits]
        axes.plot(bits, rule, color="#999999", linestyle="-", linewidth=4, alpha=0.5)
        axes.annotate(
            "6.02 dB a bit",
            (bits[0], rule[0]),
            (2, 14),
            textcoords="offset points",
            color="#555555",
            fontsize=9,
        )
        for (name, values), marker in zip(measured.items(), "osD^v", strict=False):
            axes.plot(bits, values, marker=marker, markersize=5, label=name)
        axes.set_ylim(0, 1.15 * rule[-1])
        axes.set_xlabel("bits")
        axes.set_ylabel("SQNR in dB")
        axes.legend()


def error_against_range(
    ranges: ArrayLike, clipping: ArrayLike, rounding: ArrayLike
) -> None:
    """Clipping error, rounding error and their sum against the range, with the least sum marked."""
    ranges, total = np.asarray(ranges), np.add(clipping, rounding)
    best = int(np.argmin(total))
    with _picture() as axes:
        axes.plot(ranges, clipping, label="clipping")
        axes.plot(ranges, rounding, label="rounding")
        axes.plot(ranges, total, label="sum", color="#000000", linestyle="-")
        axes.plot(ranges[best], total[best], "o", color="#000000", markersize=7)
        axes.annotate(
            f"least at T = {ranges[best]:.1f}",
            (ranges[best], total[best]),
            (8, -14),
            textcoords="offset points",
            fontsize=10,
        )
        axes.set_yscale("log")
        axes.set_ylim(total[best] / 30, 2 * total.max())
        axes.set_xlabel("range T, in standard deviations")
        axes.set_ylabel("mean squared error")
        axes.legend()


def _all_values(form: FloatFormat | QFormat) -> NDArray[np.float64]:
    codes = (
        np.arange(2**form.bits)
        if isinstance(form, FloatFormat)
        else np.arange(form.min_code, form.max_code + 1)
    )
    values = form.decode(codes)
    return values[np.isfinite(values)]


def _name(form: FloatFormat | QFormat) -> str:
    if isinstance(form, FloatFormat):
        return form.name
    return f"{'' if form.signed else 'U'}Q{form.integer_bits}.{form.fraction_bits}"


def roofline(
    machines: Mapping[str, Machine],
    points: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> None:
    """Attainable FLOP/s against intensity, a line for each machine, with sets of points ``(intensities, FLOP/s)``."""
    intensities = [x for xs, _ in points.values() for x in xs]
    ridges = [machine.ridge for machine in machines.values()]
    low, high = min(intensities + ridges) / 3, max(intensities + ridges) * 3
    with _picture(height=4.2) as axes:
        for (name, machine), dash in zip(machines.items(), _DASHES, strict=False):
            x = [low, machine.ridge, high]
            y = [machine.attainable(i) / 1e9 for i in x]
            axes.plot(x, y, color="#444444", linestyle=dash, linewidth=1.5, label=name)
        for (name, (xs, rates)), marker, colour in zip(
            points.items(), "osD^vP*", COLOURS, strict=False
        ):
            axes.plot(
                xs,
                np.divide(rates, 1e9),
                linestyle="none",
                marker=marker,
                markersize=6,
                markeredgecolor="white",
                markeredgewidth=0.6,
                color=colour,
                label=name,
            )
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("arithmetic intensity, FLOPs per byte")
        axes.set_ylabel("billions of FLOPs per second")
        axes.legend(loc="lower right")


def least_times(roof: Roofline) -> None:
    """The least time of every layer, in the order of execution, as bars that tell memory from arithmetic."""
    index = np.arange(len(roof.bounds))
    milliseconds = np.array([1000 * bound.seconds for bound in roof.bounds])
    limits = np.array([bound.limit for bound in roof.bounds])
    with _picture(height=3.2) as axes:
        for limit, colour, hatch in zip(
            ("memory", "compute"), COLOURS, ("//", ""), strict=False
        ):
            chosen = limits == limit
            axes.bar(
                index[chosen],
                milliseconds[chosen],
                0.8,
                color=colour,
                edgecolor="white",
                hatch=hatch,
                linewidth=0,
                label=f"{limit}-bound",
            )
        axes.grid(visible=False, axis="x")
        axes.set_xlabel("layer, in the order of execution")
        axes.set_ylabel("least time, milliseconds")
        axes.legend()


def cost_bars(cost: Cost) -> None:
    """Each layer's share of the MACs, upward, and of the parameters, downward, in the order of execution."""
    shares = {
        "MACs": (1, [layer.macs for layer in cost.layers]),
        "parameters": (-1, [layer.params for layer in cost.layers]),
    }
    with _picture() as axes:
        for index, (name, (sign, counts)) in enumerate(shares.items()):
            percent = sign * 100 * np.array(counts) / max(sum(counts), 1)
            bars = axes.bar(
                range(1, len(counts) + 1), percent, color=COLOURS[index], label=name
            )
            if sign < 0:
                for bar in bars:
                    bar.set_hatch("///")
                    bar.set_edgecolor("white")
                    bar.set_linewidth(0)
        axes.axhline(0, color="#444444", linewidth=0.8)
        axes.yaxis.set_major_formatter(lambda y, _: f"{abs(y):g} %")
        axes.set_xlim(0.3, len(cost.layers) + 0.7)
        axes.set_xlabel("layer, in the order of execution")
        axes.set_ylabel("share of the network")
        axes.legend(loc="best")


def originals_and_views(originals: ArrayLike, views: ArrayLike) -> None:
    """Each row: an original, as large as its views and framed, then the views; ink is dark.

    >>> originals_and_views(np.zeros((2, 8, 8)), np.zeros((2, 3, 16, 16)))
    """
    views = np.asarray(views, dtype=float)
    rows, columns = views.shape[:2]
    large = np.asarray(originals, dtype=float).repeat(2, axis=1).repeat(2, axis=2)
    tiles = np.concatenate([large[:, None], views], axis=1)
    spaced = np.pad(tiles, ((0, 0), (0, 0), (0, 2), (0, 2)))
    sheet = spaced.transpose(0, 2, 1, 3).reshape(18 * rows, 18 * (columns + 1))
    with _picture(6.4, 6.4 * rows / (columns + 1)) as axes:
        axes.imshow(sheet[:-2, :-2], cmap="Greys", interpolation="nearest")
        axes.axis("off")
        for row in range(rows):
            corner = (-0.5, 18 * row - 0.5)
            axes.add_patch(
                Rectangle(corner, 16, 16, fill=False, edgecolor=COLOURS[0], linewidth=2)
            )


def channel_variances(variances: Mapping[str, ArrayLike]) -> None:
    """The running variances of all channels of some networks, each sorted, on a logarithmic scale.

    >>> channel_variances({"one": [1.0, 1e-9], "other": [0.5, 0.25]})
    """
    with _picture() as axes:
        for name, values in variances.items():
            axes.semilogy(np.sort(np.asarray(values, dtype=float)), label=name)
        axes.set_xlabel("channel, sorted by its variance")
        axes.set_ylabel("running variance")
        axes.legend()


def weights_and_levels(
    weights: ArrayLike, levels: Mapping[str, Sequence[float]]
) -> None:
    """A histogram of weights over rows of ticks, a row for each set of levels."""
    values = np.ravel(weights)
    reach = 1.05 * np.abs(values).max()
    with plt.rc_context(_STYLE):
        _, (above, below) = plt.subplots(
            2,
            figsize=(6.4, 2.6 + 0.36 * len(levels)),
            sharex=True,
            layout="constrained",
            height_ratios=[2.2, 0.36 * len(levels)],
        )
        above.hist(values, bins=81, range=(-reach, reach), color="#999999")
        above.set_ylabel("weights")
        for row, (places, colour) in enumerate(
            zip(levels.values(), COLOURS, strict=False)
        ):
            below.vlines(places, row - 0.34, row + 0.34, color=colour, linestyle="-")
        below.set_yticks(range(len(levels)), list(levels))
        below.invert_yaxis()
        below.grid(visible=False)
        below.spines["left"].set_visible(False)
        below.tick_params(axis="y", length=0)
        below.set_xlim(-reach, reach)
        below.set_xlabel("weight")
        plt.show()


def shared_scales() -> None:
    """A weight matrix four times: which weights share a scale, a colour for each scale."""
    rows, columns = 4, 8
    cell = [(row, column) for row in range(rows) for column in range(columns)]
    ways: tuple[tuple[str, list[int]], ...] = (
        ("per tensor: 1 scale", [0 for _ in cell]),
        ("per row: 4 scales", [row for row, _ in cell]),
        ("per group of 4: 8 scales", [2 * row + column // 4 for row, column in cell]),
        ("per column: 8 scales,\nand they stay in the sum", [c for _, c in cell]),
    )
    hatches = ("", "///", "...", "xxx", "\\\\\\", "---", "+++", "ooo")
    colours = (*COLOURS[:6], "#999999", "#F0E442")
    with _picture(height=4.6) as axes:
        axes.set_axis_off()
        axes.set_aspect("equal")
        for index, (title, scales) in enumerate(ways):
            left = (index % 2) * (columns + 2)
            top = -(index // 2) * (rows + 3.4)
            axes.text(left, top + 0.3, title, va="bottom", fontsize=10)
            for (row, column), scale in zip(cell, scales, strict=True):
                axes.add_patch(
                    Rectangle(
                        (left + column + 0.04, top - row - 0.96),
                        0.92,
                        0.92,
                        facecolor=colours[scale],
                        edgecolor="white",
                        hatch=hatches[scale],
                        linewidth=0,
                    )
                )
            axes.text(
                left - 0.3,
                top - rows / 2,
                "outputs $j$",
                rotation=90,
                ha="right",
                va="center",
                fontsize=8,
            )
            axes.text(
                left + columns / 2,
                top - rows - 0.2,
                "inputs $k$",
                ha="center",
                va="top",
                fontsize=8,
            )
        axes.set_xlim(-1, 2 * columns + 2.2)
        axes.set_ylim(-2 * rows - 4.2, 1.2)


def peaks_and_step(peaks: ArrayLike, step: float) -> None:
    """The largest magnitude of every filter, smallest first, and the half step below which it is lost."""
    ordered = np.sort(np.asarray(peaks))
    lost = ordered <= step / 2
    index = np.arange(len(ordered))
    with _picture() as axes:
        for chosen, marker, colour, name in (
            (lost, "x", COLOURS[1], "all weights of the filter become 0"),
            (~lost, "o", COLOURS[0], "some weights survive"),
        ):
            axes.plot(
                index[chosen],
                ordered[chosen],
                linestyle="none",
                marker=marker,
                markersize=5,
                color=colour,
                label=name,
            )
        axes.axhline(
            step / 2,
            color="#444444",
            linestyle="--",
            linewidth=1.2,
            label="half a step",
        )
        axes.set_yscale("log", base=2)
        axes.yaxis.set_major_formatter("{x:g}")
        axes.set_xlabel("filters, smallest first")
        axes.set_ylabel("largest magnitude in the filter")
        axes.legend()


def error_against_storage(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> None:
    """SQNR against the bits a weight takes with its share of the scales, a line for each way of sharing."""
    with _picture(height=4.0) as axes:
        for (name, (bits, decibels)), marker in zip(
            lines.items(), "osD^vP*", strict=False
        ):
            axes.plot(bits, decibels, marker=marker, markersize=5, label=name)
        axes.set_xlabel("bits per weight, scales included")
        axes.set_ylabel("SQNR of the weights in dB")
        axes.legend()


def losses(
    groups: Sequence[str],
    series: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    ylabel: str,
) -> None:
    """Losses with their standard errors, on a scale that is logarithmic above 1: a marker for each of ``series``."""
    with _picture(height=3.9) as axes:
        for index, ((name, (values, errors)), marker) in enumerate(
            zip(series.items(), "osD^vP*", strict=False)
        ):
            shift = 0.16 * (index - (len(series) - 1) / 2)
            axes.errorbar(
                np.arange(len(groups)) + shift,
                values,
                errors,
                linestyle="none",
                marker=marker,
                markersize=5,
                capsize=2,
                label=name,
            )
        axes.axhline(0, color="#444444", linestyle="-", linewidth=1)
        axes.set_yscale("symlog", linthresh=1)
        axes.set_ylim(bottom=-0.4)
        axes.set_yticks([0, 1, 3, 10, 30, 90], ["0", "1", "3", "10", "30", "90"])
        axes.minorticks_off()
        axes.set_xticks(range(len(groups)), groups, fontsize=9)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel(ylabel)
        axes.legend()


def widths_of_a_layer() -> None:
    """The steps of an integer layer from codes to codes: boxes as high as the integers in them are wide."""
    steps = (
        ("codes in", "UINT8", 8, ""),
        ("products", "INT16", 16, "weights\nINT8"),
        ("sum", "INT32", 32, "bias\nINT32"),
        ("times $M_0$", "INT64", 64, "$M_0$\nINT32"),
        ("shift,\nround", "INT32", 32, ""),
        ("add $z$,\nclip", "UINT8", 8, ""),
    )
    with _picture(height=3.2) as axes:
        axes.set_axis_off()
        axes.set_xlim(-0.1, len(steps) - 0.1)
        axes.set_ylim(-1.35, 1.75)
        for index, (what, kind, bits, constant) in enumerate(steps):
            colour = COLOURS[{8: 0, 16: 4, 32: 2, 64: 1}[bits]]
            half = bits / 64
            axes.add_patch(
                Rectangle(
                    (index, -half),
                    0.72,
                    2 * half,
                    facecolor="white",
                    edgecolor=colour,
                    linewidth=2,
                )
            )
            axes.text(
                index + 0.36,
                0,
                kind,
                ha="center",
                va="center",
                weight="bold",
                fontsize=9.5,
            )
            axes.text(index + 0.36, -1.08, what, ha="center", va="top", fontsize=9.5)
            if constant:
                axes.annotate(
                    constant,
                    (index + 0.36, half),
                    (index + 0.36, 1.32),
                    arrowprops={"arrowstyle": "->", "color": "#444444"},
                    ha="center",
                    va="bottom",
                    fontsize=9,
                )
            if index:
                axes.annotate(
                    "",
                    (index - 0.02, 0),
                    (index - 0.26, 0),
                    arrowprops={"arrowstyle": "->", "color": "#444444"},
                )


def multipliers(found: Mapping[str, Sequence[ArrayLike]]) -> None:
    """The multiplier of every channel, a column of points a layer and a block of columns a network.

    >>> multipliers({"one": [[0.01, 0.02], [0.1]], "other": [[0.5]]})
    """
    with _picture() as axes:
        left, centres = 0, []
        for (name, layers), marker, colour in zip(
            found.items(), "os^Dv", COLOURS, strict=False
        ):
            for index, values in enumerate(layers):
                points = np.ravel(values)
                axes.plot(
                    np.full(points.shape, left + index),
                    points,
                    linestyle="none",
                    marker=marker,
                    markersize=3.5,
                    color=colour,
                    label=None if index else name,
                )
            centres.append(left + (len(layers) - 1) / 2)
            left += len(layers) + 1
        axes.axhline(1, color="#444444", linestyle="--", linewidth=1.2)
        axes.set_yscale("log", base=2)
        axes.set_xticks(centres, [f"layers of {name}" for name in found])
        axes.tick_params(axis="x", length=0)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("multiplier $M$ of a channel")


def rounding_errors(exact: ArrayLike, rounded: Mapping[str, ArrayLike]) -> None:
    """What rounding adds, against the fraction of the exact result, a line for each way of rounding.

    >>> rounding_errors([0.2, 1.7], {"nearest": [0, 2], "down": [0, 1]})
    """
    exact = np.asarray(exact, dtype=float)
    fraction = exact - np.floor(exact)
    order = np.argsort(fraction)
    with _picture(height=3.8) as axes:
        # Where lines coincide, the wider ones show behind.
        for width, (name, results) in zip((7, 4, 1.8), rounded.items(), strict=False):
            error = np.asarray(results) - exact
            axes.plot(fraction[order], error[order], linewidth=width, label=name)
        axes.axhline(0, color="#444444", linewidth=0.8, linestyle="-")
        axes.set_xlabel("fraction of the exact result")
        axes.set_ylabel("rounded minus exact, in steps")
        axes.legend()


def divergences(thresholds: Sequence[float], curves: Mapping[str, ArrayLike]) -> None:
    """Divergences against the threshold, on a logarithmic scale, with a mark at the least; infinite ones are left out."""
    with _picture() as axes:
        for (name, curve), marker, colour in zip(
            curves.items(), "osD^vP*", COLOURS, strict=False
        ):
            heights = np.asarray(curve)
            finite = np.isfinite(heights)
            at, heights = np.asarray(thresholds)[finite], heights[finite]
            least = len(heights) - 1 - int(heights[::-1].argmin())
            axes.plot(at, heights, color=colour, label=name)
            axes.plot(at[least], heights[least], marker=marker, color=colour)
        axes.set_yscale("log")
        axes.set_xlabel("threshold")
        axes.set_ylabel("divergence in nats")
        axes.legend()


def thresholds(
    counts: ArrayLike, width: float, marks: Mapping[str, Mapping[str, float]]
) -> None:
    """A histogram of magnitudes over rows of marks: a row for each name, a kind of mark for each of ``marks``."""
    tall = np.asarray(counts)
    names = list(next(iter(marks.values())))
    with plt.rc_context(_STYLE):
        _, (above, below) = plt.subplots(
            2,
            figsize=(6.4, 3 + 0.26 * len(names)),
            sharex=True,
            layout="constrained",
            height_ratios=[2.2, 0.26 * len(names)],
        )
        above.stairs(tall, width * np.arange(len(tall) + 1), fill=True, color="#999999")
        above.set_yscale("log")
        above.set_ylabel("values in a bin")
        for index, ((kind, places), colour, marker) in enumerate(
            zip(marks.items(), COLOURS, "oDs^", strict=False)
        ):
            shift = 0.34 * (index - (len(marks) - 1) / 2)
            below.plot(
                [places[name] for name in names],
                np.arange(len(names)) + shift,
                marker=marker,
                markersize=6,
                color=colour,
                linestyle="none",
                label=kind,
            )
        below.set_yticks(range(len(names)), names)
        below.set_ylim(len(names) - 0.4, -0.6)
        below.tick_params(axis="y", length=0)
        below.set_xlim(0, 1.02 * width * len(tall))
        below.set_xlabel("magnitude, and threshold T")
        below.legend(loc="lower left", fontsize=9)
        plt.show()


def bulk_and_tail(
    edges: ArrayLike,
    shares: Sequence[float],
    spreads: Sequence[float],
    by_chance: Sequence[float],
) -> None:
    """The mean share of each bin of a histogram, and below it how far the shares of single images spread around it, with the spread of shuffled values as a line."""
    with plt.rc_context(_STYLE):
        _, panels = plt.subplots(2, figsize=(6.4, 4), sharex=True, layout="constrained")
        for axes, values, label, colour in zip(
            panels,
            (shares, spreads),
            ("mean share", "spread / mean"),
            COLOURS,
            strict=False,
        ):
            axes.stairs(values, edges, fill=True, color=colour, baseline=1e-7)
            axes.set_yscale("log")
            axes.set_ylim(min(values) / 2, 2 * max(values))
            axes.set_ylabel(label)
        panels[-1].stairs(by_chance, edges, color="black", linewidth=2, label="chance")
        panels[-1].legend(loc="upper left")
        panels[-1].set_ylim(min(by_chance) / 2, 2 * max(spreads))
        panels[-1].set_xlabel("magnitude")
        plt.show()


def thresholds_on_histograms(
    panels: Mapping[str, tuple[ArrayLike, float, Mapping[str, float]]],
) -> None:
    """Histograms of magnitudes on a logarithmic scale, two a row, with a line at each threshold.

    Each panel has counts, the width of a bin and thresholds by name, which are the same
    names in all panels.
    """
    with plt.rc_context(_STYLE):
        rows = -(-len(panels) // 2)
        figure, grid = plt.subplots(
            rows, 2, figsize=(7.2, 2.5 * rows), layout="constrained", squeeze=False
        )
        for axes in grid.flat[len(panels) :]:
            axes.set_axis_off()
        for axes, (title, (counts, width, thresholds)) in zip(
            grid.flat, panels.items(), strict=False
        ):
            shares = np.asarray(counts, dtype=float)
            shares = shares / shares.sum()
            edges = width * np.arange(len(shares) + 1)
            axes.stairs(shares, edges, color="#AAAAAA", fill=True)
            # A spike of one bin is narrower than a pixel: its outline is not.
            axes.stairs(shares, edges, color="#888888", linewidth=0.8)
            for (name, threshold), colour, dash in zip(
                thresholds.items(), COLOURS, _DASHES, strict=False
            ):
                axes.axvline(threshold, color=colour, linestyle=dash, label=name)
            axes.set_yscale("log")
            axes.set_title(title, fontsize=10)
        for axes in grid[-1]:
            axes.set_xlabel("magnitude")
        for axes in grid[:, 0]:
            axes.set_ylabel("share of the values")
        handles, labels = grid.flat[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
        plt.show()


def flow_of_quantization() -> None:
    """From a float network to an integer network: the steps in order, what each needs, and three views of the result.

    >>> flow_of_quantization()
    """
    boxes = {
        "float network": (0, 2, "conv, BN, ReLU, +"),
        "fold": (1, 2, "batch norm goes\ninto the weights"),
        "trace, place": (2, 2, "quantizers where\ncodes are read"),
        "calibrate": (3, 2, "watch the values\nof the float network"),
        "scales": (3, 1, "and zero points,\none a value"),
        "codes": (2, 1, "weights INT8,\nbiases INT32"),
        "fake quantization": (1, 1, "float32 on grids,\nPyTorch"),
        "integer engine": (1, 0.18, "INT8 and INT32,\nthis package"),
        "ONNX file": (2, 0.18, "Q and DQ,\nany runtime"),
    }
    views = ("fake quantization", "integer engine", "ONNX file")
    order = ("float network", "fold", "trace, place", "calibrate", "scales", "codes")
    with _picture(width=7.2, height=3.9) as axes:
        axes.set_axis_off()
        axes.set_xlim(-0.48, 3.48)
        axes.set_ylim(-0.2, 2.85)

        def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
            axes.annotate(
                "", end, start, arrowprops={"arrowstyle": "->", "color": "#444444"}
            )

        for name, (x, y, what) in boxes.items():
            axes.add_patch(
                FancyBboxPatch(
                    (x - 0.38, y - 0.26),
                    0.76,
                    0.52,
                    boxstyle="round,pad=0.02",
                    facecolor="white",
                    edgecolor=COLOURS[2 if name in views else 0],
                    linewidth=1.6,
                )
            )
            axes.text(
                x, y + 0.13, name, ha="center", va="center", weight="bold", size=9
            )
            axes.text(x, y - 0.1, what, ha="center", va="center", size=8)
        for before, after in itertools.pairwise(order):
            (x, y, _), (to_x, to_y, _) = boxes[before], boxes[after]
            if y == to_y:
                step = 0.4 if to_x > x else -0.4
                arrow((x + step, y), (to_x - step, to_y))
            else:
                arrow((x, y - 0.28), (to_x, to_y + 0.28))
        arrow((1.6, 1), (1.4, 1))
        arrow((2, 0.72), (2, 0.46))
        arrow((1.62, 0.74), (1.4, 0.42))
        for x, what in ((2, "recipe"), (3, "images without labels")):
            axes.text(x, 2.72, what, ha="center", va="center", style="italic", size=9)
            arrow((x, 2.62), (x, 2.28))
        axes.text(
            0.5, 0.59, "three views\nof one model", ha="right", size=9, color=COLOURS[2]
        )


def noise_through_depth(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
) -> None:
    """Noise over signal behind each step in dB, for each network as measured and as the sum of what each step adds.

    >>> noise_through_depth({"chain": ([0.001, 0.002], [0.001, 0.0021])})
    """
    with _picture(height=4) as axes:
        for (name, lines), colour, marker in zip(
            curves.items(), COLOURS, "os^Dv", strict=False
        ):
            for values, kind, dash in zip(
                lines, ("measured", "sum"), ("-", "--"), strict=True
            ):
                decibels = 10 * np.log10(np.asarray(values, dtype=float))
                axes.plot(
                    np.arange(1, len(decibels) + 1),
                    decibels,
                    color=colour,
                    linestyle=dash,
                    marker=marker if kind == "measured" else None,
                    markersize=3.5,
                    label=f"{name}, {kind}",
                )
        axes.set_xlabel("number of the quantizer")
        axes.set_ylabel("noise / signal in dB")
        axes.legend(fontsize=9)


def channel_ranges(ranges: Mapping[str, ArrayLike], largest: int) -> None:
    """The largest magnitude of each channel, and below which one all of its codes are 0.

    ``largest`` is the largest code of the one scale that all channels of a tensor share.

    >>> channel_ranges({"folded": [0.5, 37.0, 1.0], "equalized": [0.6, 0.8, 0.7]}, 7)
    """
    with _picture() as axes:
        order = np.argsort(np.asarray(next(iter(ranges.values())), dtype=float))
        for (name, values), colour, marker, dash in zip(
            ranges.items(), COLOURS, "os^Dv", _DASHES[1:], strict=False
        ):
            sizes = np.asarray(values, dtype=float)
            axes.plot(
                sizes[order], color=colour, marker=marker, linestyle="none", label=name
            )
            axes.axhline(
                sizes.max() / largest / 2,
                color=colour,
                linestyle=dash,
                linewidth=1.2,
                label=f"{name}: half a step",
            )
        axes.set_yscale("log")
        axes.set_xlabel("channels, smallest first")
        axes.set_ylabel("largest |weight|")
        axes.legend(fontsize=9, loc="upper left")


def predicted_and_measured(
    points: Mapping[str, tuple[ArrayLike, ArrayLike]], what: str
) -> None:
    """Pairs of a predicted and a measured number, with the line where both are equal.

    >>> predicted_and_measured({"layer": ([0.1, -0.2], [0.11, -0.19])}, "shift")
    """
    with _picture(width=4.8, height=4.4) as axes:
        ends = []
        for (name, (predicted, measured)), colour, marker in zip(
            points.items(), COLOURS, "os^Dv", strict=False
        ):
            axes.plot(
                np.asarray(predicted),
                np.asarray(measured),
                color=colour,
                marker=marker,
                markersize=4,
                linestyle="none",
                label=name,
            )
            ends += [np.abs(predicted).max(), np.abs(measured).max()]
        end = 1.05 * float(max(ends))
        axes.plot([-end, end], [-end, end], color="#666666", linewidth=1, linestyle="-")
        axes.set_xlabel(f"{what}, predicted")
        axes.set_ylabel(f"{what}, measured")
        axes.legend(fontsize=9)


def time_shares(shares: Mapping[str, Mapping[str, float]], xlabel: str) -> None:
    """A bar for each name, made of its parts, in percent; a line marks the whole of what they are compared with.

    >>> time_shares({"INT8": {"layers": 60.0, "conversions": 20.0}}, "percent")
    """
    parts = list(next(iter(shares.values())))
    names = list(shares)
    with _picture(height=0.9 + 0.42 * len(names)) as axes:
        left = np.zeros(len(names))
        for part, colour, hatch in zip(
            parts, COLOURS, ("", "//", "..", "xx"), strict=False
        ):
            widths = np.array([shares[name][part] for name in names])
            axes.barh(
                names,
                widths,
                0.62,
                left,
                label=part,
                color=colour,
                hatch=hatch,
                edgecolor="white",
            )
            left += widths
        axes.axvline(100, color="black", linestyle="--", linewidth=1.2)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel(xlabel)
        axes.legend(ncols=4, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)


def layers_back_to_float(curves: Mapping[str, Sequence[Sequence[float]]]) -> None:
    """Accuracy against the number of layers that are float again: for each order the mean of its rows, and a band as wide as their spread.

    >>> layers_back_to_float({"worst first": [[60.0, 90.0], [70.0, 92.0]]})
    """
    with _picture() as axes:
        for (name, rows), colour, marker in zip(
            curves.items(), COLOURS, "os^Dv", strict=False
        ):
            values = np.asarray(rows, dtype=float)
            centre, spread = values.mean(0), values.std(0, ddof=1)
            counts = np.arange(len(centre))
            axes.plot(counts, centre, color=colour, marker=marker, label=name)
            axes.fill_between(
                counts, centre - spread, centre + spread, color=colour, alpha=0.15
            )
        axes.set_xlabel("layers in float")
        axes.set_ylabel("right answers in %")
        axes.legend()


def damage_against_bytes(
    sizes: Sequence[int],
    damages: Sequence[float],
    marked: Mapping[str, tuple[Sequence[int], Sequence[float]]],
) -> None:
    """The damage of many models against their size, on a logarithmic scale, with some of them marked.

    >>> damage_against_bytes([1, 2], [0.3, 0.1], {"best": ([2], [0.1])})
    """
    with _picture(height=4) as axes:
        axes.plot(
            sizes, damages, ".", color="#AAAAAA", markersize=4, label="assignments"
        )
        for (name, (x, y)), colour, marker in zip(
            marked.items(), COLOURS, "s^oDv", strict=False
        ):
            axes.plot(x, y, color=colour, marker=marker, linestyle="", label=name)
        axes.set_yscale("log")
        axes.set_xlabel("bytes")
        axes.set_ylabel("damage in nats")
        axes.legend()


def ranges_of_parts(
    groups: Sequence[str], parts: Mapping[str, Sequence[tuple[float, float] | None]]
) -> None:
    """From the lowest to the highest value of each part, side by side in each group; None where a group has no such part.

    >>> ranges_of_parts(["block 0"], {"3x3": [(-4.0, 6.0)], "identity": [None]})
    """
    width = 0.7 / len(parts)
    with _picture(height=3.2) as axes:
        axes.use_sticky_edges = False  # room below the lowest bar
        for i, (name, ranges) in enumerate(parts.items()):
            here = [(x, r) for x, r in enumerate(ranges) if r is not None]
            axes.bar(
                [x + (i - (len(parts) - 1) / 2) * width for x, _ in here],
                [high - low for _, (low, high) in here],
                0.85 * width,
                [low for _, (low, _) in here],
                label=name,
                color=COLOURS[i],
                hatch=("", "//", "..", "xx")[i % 4],
                edgecolor="white",
            )
        axes.axhline(0, color="black", linewidth=0.8)
        axes.set_xticks(range(len(groups)), groups)
        axes.grid(visible=False, axis="x")
        axes.set_ylabel("value")
        axes.legend(ncols=len(parts), loc="lower left", bbox_to_anchor=(0, 1))


def staircase_and_means(
    x: ArrayLike, stairs: ArrayLike, means: Mapping[str, ArrayLike]
) -> None:
    """Rounded values against values, and what they are on average under noises of some widths.

    >>> staircase_and_means([0, 1], [0, 1], {"half a step": [0.2, 0.8]})
    """
    with _picture() as axes:
        axes.plot(x, stairs, color="#888888", linestyle="-", label="rounded")
        for (name, mean), colour, dashes in zip(
            means.items(), COLOURS, _DASHES[1:] + _DASHES[:1], strict=False
        ):
            axes.plot(
                x, mean, color=colour, linestyle=dashes, label=f"mean, noise {name}"
            )
        axes.set_xlabel("value in steps")
        axes.set_ylabel("steps")
        axes.legend()


def training_of_one_weight(
    runs: Mapping[str, tuple[Sequence[float], Sequence[float]]], target: float
) -> None:
    """The weight that learns and its rounded value in each step, a run beside the other; below, the loss of the rounded value.

    >>> training_of_one_weight({"constant": ([0.2, 0.6], [0.0, 1.0])}, target=0.7)
    """
    with plt.rc_context(_STYLE):
        figure, grid = plt.subplots(
            2, len(runs), figsize=(7.2, 4.6), sharex=True, sharey="row", squeeze=False
        )
        figure.set_layout_engine("constrained")
        for (name, (weights, rounded)), (above, below) in zip(
            runs.items(), grid.T, strict=True
        ):
            steps = np.arange(len(weights))
            codes = np.asarray(rounded, dtype=float)
            above.step(
                steps, codes, where="post", color=COLOURS[1], linestyle="-", linewidth=1
            )
            above.plot(steps, np.asarray(weights), color=COLOURS[0], linestyle="-")
            above.axhline(target, color="#444444", linestyle=":", linewidth=1.2)
            above.axhline(0.5, color=COLOURS[2], linestyle="--", linewidth=1.2)
            above.set_title(name)
            loss = (codes - target) ** 2 / 2
            below.plot(steps, loss, ".", color=COLOURS[1], markersize=4)
            below.set_xlabel("step")
        grid[0, 0].set_ylabel("weight")
        grid[1, 0].set_ylabel("loss")
        for y, what, colour in (
            (0.5, "border", COLOURS[2]),
            (target, "wanted", "#444444"),
        ):
            grid[0, -1].annotate(
                what,
                (1.01, y),
                xycoords=("axes fraction", "data"),
                size=9,
                color=colour,
            )
        plt.show()


def ptq_and_qat() -> None:
    """Two ways to one model of integers: what follows what, after training and with more training.

    >>> ptq_and_qat()
    """
    rows = {
        "PTQ": (1.25, ("float network", "fold, place,\ncalibrate", "codes")),
        "QAT": (
            0.0,
            (
                "float network",
                "place, calibrate,\nbatch norms kept",
                "train: round forward,\nstraight back",
                "fold, codes",
            ),
        ),
    }
    with _picture(width=7.2, height=3.3) as axes:
        axes.set_axis_off()
        axes.set_xlim(-0.95, 4.5)
        axes.set_ylim(-0.75, 1.95)

        def box(x: float, y: float, text: str, colour: str) -> None:
            corner = x - 0.44, y - 0.24
            axes.add_patch(
                FancyBboxPatch(
                    corner,
                    0.88,
                    0.48,
                    boxstyle="round,pad=0.03",
                    facecolor="white",
                    edgecolor=colour,
                    linewidth=1.6,
                )
            )
            axes.text(x, y, text, ha="center", va="center", size=7.5)

        def arrow(start: tuple[float, float], end: tuple[float, float]) -> None:
            style = {"arrowstyle": "->", "color": "#444444"}
            axes.annotate("", end, start, arrowprops=style)

        for colour, (name, (y, steps)) in zip(COLOURS, rows.items(), strict=False):
            axes.text(-0.93, y, name, weight="bold", va="center", color=colour)
            for x, step in enumerate(steps):
                box(x, y, step, colour)
                if x:
                    arrow((x - 0.53, y), (x - 0.47, y))
        box(3.95, 0.62, "model of\nintegers", COLOURS[2])
        arrow((2.47, 1.25), (3.46, 0.72))
        arrow((3.3, 0.27), (3.48, 0.45))
        for x, y, what in ((1, 1.25, "images"), (1, 0, "images")):
            axes.text(x, y + 0.52, what, ha="center", style="italic", size=8)
            arrow((x, y + 0.48), (x, y + 0.28))
        axes.text(2, 0.52, "images, labels", ha="center", style="italic", size=8)
        arrow((2, 0.48), (2, 0.28))
        axes.annotate(
            "",
            (1.75, -0.28),
            (2.25, -0.28),
            arrowprops={
                "arrowstyle": "->",
                "color": "#444444",
                "connectionstyle": "arc3,rad=-0.9",
            },
        )
        axes.text(2, -0.68, "many steps", ha="center", size=8)


def flips_of_codes(runs: Mapping[str, Sequence[int]]) -> None:
    """How many codes of a layer change in each step of a training.

    >>> flips_of_codes({"frozen": [9, 4, 0]})
    """
    with _picture() as axes:
        for (name, flips), colour, marker in zip(
            runs.items(), COLOURS, "o^sDv", strict=False
        ):
            axes.plot(
                np.arange(1, len(flips) + 1),
                np.asarray(flips),
                marker=marker,
                markersize=3.5,
                linestyle="none",
                color=colour,
                label=name,
            )
        axes.set_xlabel("step")
        axes.set_ylabel("codes that change")
        axes.legend()


def slopes_of_a_step(t: ArrayLike, slopes: Mapping[str, ArrayLike]) -> None:
    """Derivatives of a quantizer's output by its step, against the value in steps, a curve each.

    >>> slopes_of_a_step([-1.0, 0.2, 1.0], {"LSQ": [-1.0, -0.2, 1.0]})
    """
    with _picture(height=4) as axes:
        for name, slope in slopes.items():
            axes.plot(np.asarray(t), np.asarray(slope), label=name)
        axes.set_xlabel("value in steps, v / s")
        axes.set_ylabel("derivative by the step")
        axes.legend()


def learned_ends(paths: Mapping[str, Sequence[Sequence[float]]], best: float) -> None:
    """Ends of a range while they are learned, several starts in one colour; a line marks the best end.

    >>> learned_ends({"PACT": [[1.0, 1.5, 1.7], [3.0, 3.0, 3.0]]}, best=1.6)
    """
    with _picture(height=4) as axes:
        for (name, starts), colour, dash in zip(
            paths.items(), COLOURS, _DASHES, strict=False
        ):
            for k, ends in enumerate(starts):
                label = name if k == 0 else None
                axes.plot(ends, color=colour, linestyle=dash, label=label)
        axes.axhline(best, color="black", linewidth=1, linestyle=":", label="best")
        axes.set_xlabel("steps of gradient descent")
        axes.set_ylabel("end of the range")
        axes.legend(fontsize=9, loc="center right", bbox_to_anchor=(1, 0.75))


def gains_of_trainings(gains: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Differences in points, a row for each name and a dot for each training, with their mean; a colour and a marker for each group.

    >>> gains_of_trainings({"bad": {"LSQ": [2.0, 3.0]}, "good": {"LSQ": [0.1, -0.2]}})
    """
    names = list(next(iter(gains.values())))
    with _picture(height=1.2 + 0.45 * len(names)) as axes:
        for k, ((group, rows), colour, marker) in enumerate(
            zip(gains.items(), COLOURS, "os^D", strict=False)
        ):
            for i, name in enumerate(names):
                height = i + 0.3 * (k - (len(gains) - 1) / 2)
                values = np.asarray(rows[name], dtype=float)
                axes.plot(
                    values,
                    np.full(len(values), height),
                    marker=marker,
                    color=colour,
                    linestyle="none",
                    markersize=5,
                    alpha=0.7,
                    label=group if i == 0 else None,
                )
                axes.plot(
                    [values.mean()] * 2,
                    [height - 0.14, height + 0.14],
                    color=colour,
                    linestyle="-",
                    linewidth=2.5,
                )
        axes.axvline(0, color="black", linewidth=1, linestyle="-")
        axes.set_yticks(range(len(names)), names)
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.set_xlabel("points more than with fixed scales")
        axes.legend(ncols=2, loc="lower left", bbox_to_anchor=(0, 1), fontsize=9)


def hours_of_processes(
    processes: Sequence[int], hours: Mapping[str, Sequence[float]]
) -> None:
    """How long a job takes in so many processes, a curve each; both axes are logarithmic.

    >>> hours_of_processes([1, 2, 4], {"500 images": [0.06, 0.03, 0.02]})
    """
    with _picture() as axes:
        for (name, times), dash in zip(hours.items(), _DASHES, strict=False):
            axes.plot(processes, times, linestyle=dash, marker=".", label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("processes")
        axes.set_ylabel("hours")
        axes.legend()
