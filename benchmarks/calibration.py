"""Which threshold does calibration choose, and at what price, beside others that do the same?

One table, from one run:

    python benchmarks/calibration.py --values 1000000 --repeats 3 --batches 100

Ten distributions of float32 values, among them the six of which the course knows the thresholds.  For each:

- *quantcourse*: the observers of ``quantcourse.calibrate`` that choose a threshold, with 2048 bins and 128 levels.
- *NVIDIA*: ``HistogramCalibrator`` of nvidia-modelopt, 8 bits, entropy.  Left out where it is not installed: no other
  part of the course needs it.  ``pip install nvidia-modelopt huggingface_hub`` adds it and keeps the torch that is there.
- *ONNX Runtime*: ``HistogramCollector`` of its calibration tools, entropy with ``num_bins=2048`` and
  ``num_quantized_bins=128``, both spread over negative and positive values: half as many for the magnitudes.
- *torch.ao*: ``HistogramObserver``, 2048 bins, symmetric INT8.  It looks for the least squared error.
- *torch.histc* of the magnitudes: collecting alone.

Columns: the threshold T; the time to choose it from what was collected (for quantcourse, all of ``range()``); the time
to collect a batch of a million values after the first; the bytes that stay between batches; the most memory that
collecting takes for a moment (Linux alone).  ``ours / theirs`` is of quantcourse's Entropy, below 1 it is faster.

Everybody runs by turns within each repetition, the quick ones several times in a turn.  Times are medians of processor
time on one thread, in which waiting for a busy machine does not count; the spread is half the distance between the
quartiles.

The last lines state the requirements of the course, and compare the fastest repetitions, since other work on the machine
only ever adds time: the thresholds of Entropy lie within one bin of NVIDIA's, on the same data and on the very same
histogram; the search is at least 100 times as fast as ONNX Runtime's, and takes less than 24 ms, which the C++ of ncnn
and MNN took at best; collecting is faster than torch.histc, over ``--batches`` batches by turns.  The exit status is 1
if one is not so.
"""

import argparse
import contextlib
import ctypes
import io
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnxruntime.quantization.calibrate import HistogramCollector
from torch import Tensor

from quantcourse.calibrate import ADMM, MSE, Entropy, MinMax, Observer, Percentile

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of torch.ao, which is deprecated
    from torch.ao.quantization import HistogramObserver

try:
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")  # of what it imports in its turn
        from modelopt.torch.quantization.calib import HistogramCalibrator
except ImportError as error:
    NVIDIA: str | None = str(error)
else:
    NVIDIA = None

BINS, LEVELS = 2048, 128
CPP_MILLISECONDS = 24.0
TURN_MILLISECONDS = 200.0  # for several runs of the quick


@dataclass
class Peer:
    """One line of the table: somebody who collects batches and may choose a threshold."""

    who: str
    what: str
    state: Any
    collect: Callable[[Tensor], Any]
    choose: Callable[[], float] | None = None
    threshold: float = float("nan")
    collecting: list[float] = field(default_factory=list)
    searching: list[float] = field(default_factory=list)


def distributions(n: int) -> dict[str, np.ndarray]:
    """Values by name.  The first six are those of the known thresholds, if there are a million."""
    rng = [np.random.default_rng(seed) for seed in range(1000, 1010)]
    outliers = rng[3].standard_normal(n)
    outliers[:100] = 50
    modes = np.where(rng[5].random(n) < 0.7, rng[5].normal(0, 0.5, n), rng[5].normal(3, 1, n))
    far = rng[8].normal(0, 0.1, n) + np.where(rng[8].random(n) < 0.5, -8, 8)
    found = {
        "normal": rng[0].standard_normal(n),
        "Laplace": rng[1].laplace(size=n),
        "half normal": np.maximum(rng[2].standard_normal(n), 0),
        "outliers": outliers,
        "lognormal": rng[4].lognormal(size=n),
        "two modes": modes,
        "uniform": rng[6].uniform(-1, 1, n),
        "Student t, 3": rng[7].standard_t(3, n),
        "far modes": far,
        "exponential": rng[9].exponential(size=n),
    }
    return {name: x.astype(np.float32) for name, x in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description="Thresholds, time and memory: quantcourse.calibrate and its peers.")
    parser.add_argument("--values", type=int, default=1_000_000, help="values in a batch (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions (default: %(default)s)")
    parser.add_argument("--batches", type=int, default=100, help="batches of the last line (default: %(default)s)")
    options = parser.parse_args()
    if options.values < 10_000 or options.repeats < 1 or options.batches < 1:
        parser.error("need at least 10000 values, 1 repetition and 1 batch")
    torch.set_num_threads(1)

    print(f"{options.values} float32 values, {BINS} bins, {LEVELS} levels, {options.repeats} repetitions by turns")
    if NVIDIA:
        print(f"NVIDIA is left out: {NVIDIA} (pip install nvidia-modelopt huggingface_hub)")
    print(f"{'':48}{'--- search, ms ---':>20}{'- collect, ms / M -':>20}{'---- KiB ----':>16}{'- ours / theirs -':>18}")
    heading = (
        f"{'data':14}{'who':13}{'what':11}{'threshold':>10}{'median':>11}{'spread':>9}{'median':>11}{'spread':>9}"
        f"{'kept':>8}{'most':>8}{'search':>9}{'collect':>9}"
    )
    print(heading)
    print("-" * len(heading))
    apart: dict[str, int] = {}
    faster: dict[str, float] = {}
    slowest = 0.0
    for name, values in distributions(options.values).items():
        x = torch.from_numpy(values)
        group = {(peer.who, peer.what): peer for peer in peers()}
        measure(list(group.values()), x, options.repeats)
        ours = group["quantcourse", "Entropy"]
        for peer in group.values():
            print(line(name, peer, ours, x), flush=True)
        slowest = max(slowest, min(ours.searching))
        faster[name] = min(group["ONNX Runtime", "entropy"].searching) / min(ours.searching)
        if not NVIDIA:
            apart[name] = bins_apart(ours, group["NVIDIA", "entropy"])

    kept = True

    def require(met: bool, text: str) -> None:
        nonlocal kept
        kept &= met
        print(f"{text} is required: {'kept' if met else 'BROKEN'}.")

    print()
    if not NVIDIA:
        worst = max(apart, key=lambda name: apart[name])
        require(apart[worst] <= 1, f"Bins between Entropy and NVIDIA, most: {apart[worst]} ({worst}). At most 1")
    least = min(faster, key=lambda name: faster[name])
    require(
        faster[least] >= 100,
        f"Search, fastest of ONNX Runtime / fastest of Entropy, least: {faster[least]:.0f} ({least}). At least 100",
    )
    require(
        slowest < CPP_MILLISECONDS,
        f"Search, fastest of Entropy on the slowest data: {slowest:.1f} ms. Less than {CPP_MILLISECONDS:.0f}",
    )
    ours, theirs = (sum(times) / 1e3 for times in streams(options.values, options.batches))
    require(
        ours < theirs,
        f"Collecting {options.batches} batches by turns, seconds of Entropy / of torch.histc: "
        f"{ours:.3f} / {theirs:.3f} = {ours / theirs:.2f}. Less than 1",
    )
    return 0 if kept else 1


def peers() -> list[Peer]:
    """quantcourse first, then everybody else; nobody has seen a value."""
    found = [observer(o) for o in (MinMax(), Percentile(), Entropy(), MSE(), ADMM())]
    if not NVIDIA:
        found.append(nvidia())
    return [*found, onnx_runtime(), torch_ao(), histc()]


def observer(o: Observer) -> Peer:
    return Peer("quantcourse", type(o).__name__, o, o.observe, lambda: magnitude(*o.range()))


def magnitude(low: Tensor, high: Tensor) -> float:
    return max(abs(float(low)), abs(float(high)))


def nvidia() -> Peer:
    calibrator = HistogramCalibrator(num_bits=8, axis=None, unsigned=False, num_bins=BINS)
    return Peer("NVIDIA", "entropy", calibrator, calibrator.collect, lambda: float(calibrator.compute_amax("entropy")))


def onnx_runtime() -> Peer:
    collector = HistogramCollector("entropy", True, BINS, LEVELS, 99.999, "same")

    def collect(x: Tensor) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            collector.collect({"x": x.numpy()})

    def threshold() -> float:
        low, high, *_ = collector.get_entropy_threshold(collector.histogram_dict["x"], LEVELS)
        return max(abs(float(low)), abs(float(high)))

    return Peer("ONNX Runtime", "entropy", collector, collect, threshold)


def torch_ao() -> Peer:
    observer = HistogramObserver(bins=BINS, dtype=torch.qint8, qscheme=torch.per_tensor_symmetric)
    return Peer("torch.ao", "histogram", observer, observer, lambda: magnitude(*observer._non_linear_param_search()))


class Histc:
    """The least that collecting magnitudes takes: a fixed range and a sum of counts."""

    def __init__(self) -> None:
        self.counts, self.largest = torch.zeros(BINS), 0.0

    def collect(self, x: Tensor) -> None:
        self.largest = self.largest or float(x.abs().max())
        self.counts += torch.histc(x.abs(), BINS, 0, self.largest)


def histc() -> Peer:
    h = Histc()
    return Peer("torch.histc", "of |x|", h, h.collect)


def measure(group: list[Peer], x: Tensor, repeats: int) -> None:
    """Fill in times and threshold.  The first batch, which fixes bins, is not timed; the same values come again."""
    for peer in group:
        peer.collect(x)
    for repetition in range(repeats):
        for index in np.roll(np.arange(len(group)), repetition):  # so that nobody always comes after the same neighbour
            peer = group[index]
            collecting, _ = several(lambda peer=peer: peer.collect(x))
            peer.collecting += [milliseconds * 1e6 / len(x) for milliseconds in collecting]
            if peer.choose:
                searching, peer.threshold = several(peer.choose)
                peer.searching += searching


def several(run: Callable[[], Any]) -> tuple[list[float], Any]:
    """Milliseconds of each run in one turn, and the last result."""
    times: list[float] = []
    while sum(times) < TURN_MILLISECONDS and len(times) < 20:
        milliseconds, result = timed(run)
        times.append(milliseconds)
    return times, result


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    """Milliseconds of this thread's processor time, and the result."""
    start = time.thread_time()
    result = run()
    return (time.thread_time() - start) * 1e3, result


def line(name: str, peer: Peer, ours: Peer, x: Tensor) -> str:
    text = f"{name:14}{peer.who:13}{peer.what:11}"
    text += f"{peer.threshold:10.4f}{spread(peer.searching)}" if peer.choose else " " * 30
    text += spread(peer.collecting) + f"{kept_bytes(peer.state) / 1024:8.1f}{most(lambda: peer.collect(x))}"
    if peer.who == "quantcourse":
        return text
    search = f"{np.median(ours.searching) / np.median(peer.searching):9.5f}" if peer.choose else " " * 9
    return text + search + f"{np.median(ours.collecting) / np.median(peer.collecting):9.2f}"


def spread(times: list[float]) -> str:
    low, middle, high = np.percentile(times, [25, 50, 75])
    return f"{middle:11.2f}{(high - low) / 2:9.2f}"


def kept_bytes(state: Any) -> int:
    """Bytes of all tensors and arrays that an object holds."""
    if isinstance(state, Tensor | np.ndarray):
        return int(state.nbytes)
    if isinstance(state, list | tuple):
        return sum(map(kept_bytes, state))
    if isinstance(state, dict):
        return sum(map(kept_bytes, state.values()))
    return kept_bytes(vars(state)) if hasattr(state, "__dict__") else 0


def most(run: Callable[[], Any]) -> str:
    """KiB by which the memory of this process rises while something runs; a dash where Linux does not tell."""
    process = Path("/proc/self")
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free already would hide what is taken
        (process / "clear_refs").write_text("5")  # the peak starts anew
        before = resident(process, "VmRSS")
        run()
        return f"{resident(process, 'VmHWM') - before:8d}"
    except (AttributeError, OSError):
        return f"{'-':>8}"


def resident(process: Path, what: str) -> int:
    return next(int(row.split()[1]) for row in (process / "status").read_text().splitlines() if row.startswith(what))


def bins_apart(ours: Peer, theirs: Peer) -> int:
    """Bins between two thresholds: on the same data, and with NVIDIA's search on our very histogram."""
    counts, width = ours.state.histogram()
    calibrator = nvidia().state
    calibrator._calib_hist = counts.numpy().copy()  # which the search changes
    calibrator._calib_bin_edges = np.arange(len(counts) + 1) * float(width)
    same = float(calibrator.compute_amax("entropy"))
    return max(round(abs(ours.threshold - other) / float(width)) for other in (theirs.threshold, same))


def streams(values: int, batches: int) -> tuple[list[float], list[float]]:
    """Milliseconds for each of many batches, by turns: Entropy, and torch.histc of the magnitudes."""
    rng = np.random.default_rng(0)
    pool = [torch.from_numpy(rng.standard_normal(values).astype(np.float32)) for _ in range(8)]
    ours, theirs = Entropy(bins=BINS, levels=LEVELS), Histc()
    times: tuple[list[float], list[float]] = ([], [])
    for batch in range(batches):
        x = pool[batch % len(pool)]
        turns = [(ours.observe, times[0]), (theirs.collect, times[1])]
        for collect, into in turns if batch % 2 else turns[::-1]:
            into.append(timed(lambda collect=collect, x=x: collect(x))[0])
    return times


if __name__ == "__main__":
    sys.exit(main())
