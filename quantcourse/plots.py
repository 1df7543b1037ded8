"""The house figures: one function a picture, drawn into the notebook, nothing returned.

All of them use the same colours (Okabe and Ito's, which colour-blind readers can tell apart), tell series
apart by marker or dash as well, and keep a white ground, which the site turns dark with the page.
"""

import ast
import inspect
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
