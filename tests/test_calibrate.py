"""quantcourse.calibrate against NumPy, exact histograms, the definition of entropy calibration in plain loops, published
thresholds, brute force on the data themselves, torch.ao's observers, and one process against two.
"""

import copy
import json
import math
import os
import subprocess
import sys
import threading
import weakref
from collections import Counter
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch.ao.quantization import observer as torch_ao

import calibrate_processes
from quantcourse.affine import INT4, INT8, UINT4, UINT8, choose_qparams
from quantcourse.calibrate import (
    ADMM,
    MSE,
    Entropy,
    HistogramObserver,
    MinMax,
    MovingAverageMinMax,
    Percentile,
    all_reduce,
    entropy_curve,
    entropy_threshold,
    load,
    mse_curve,
)

reproducible = settings(derandomize=True, deadline=None, max_examples=40, database=None)

HISTOGRAMS = (Percentile, Entropy, MSE, ADMM)
MERGEABLE = (MinMax, *HISTOGRAMS)
ALL = (*MERGEABLE, MovingAverageMinMax)
# Short histograms, so that small data fill them.
SMALL = {
    MinMax: {},
    MovingAverageMinMax: {"c": 0.25},
    Percentile: {"p": 90, "bins": 16},
    Entropy: {"bins": 16, "levels": 4},
    MSE: {"bins": 16, "levels": 4},
    ADMM: {"bins": 16, "levels": 4},
}


def small(kind, **more):
    return kind(**SMALL[kind], **more)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def same_bits(a, b):
    """Whether two tensors, or pairs of them, are equal in type, shape and every value."""
    if isinstance(a, tuple):
        return all(same_bits(*pair) for pair in zip(a, b, strict=True))
    return a.dtype == b.dtype and torch.equal(a, b)


def same_state(a, b):
    assert repr(a) == repr(b)
    assert a.count == b.count
    assert same_bits(a.range(), b.range())
    if isinstance(a, HistogramObserver):
        assert same_bits(a.histogram(), b.histogram())
    return True


floats = st.floats(0.015625, 10, width=32)
signed = st.one_of(floats, floats.map(lambda v: -v), st.just(0.0))
batches = st.lists(st.lists(signed, min_size=1, max_size=20).map(torch.tensor), min_size=1, max_size=6)


# --- Minimum and maximum ---------------------------------------------------------------------------------------


@reproducible
@given(batches)
def test_minmax_of_batches_is_that_of_all(parts):
    observer = MinMax()
    for part in parts:
        assert observer.observe(part) is observer
    x = torch.cat(parts)
    assert same_bits(observer.range(), (x.min(), x.max()))
    assert observer.count == x.numel()


def test_moving_average_by_hand():
    """(0, 4), then halfway to (-2, 8), then halfway to (-1, -1)."""
    observer = MovingAverageMinMax(c=0.5)
    found = [
        tuple(map(float, observer.observe(torch.tensor(batch)).range()))
        for batch in ([0.0, 4.0], [-2.0, 8.0], [-1.0, -1.0])
    ]
    assert found == [(0, 4), (-1, 6), (-1, 2.5)]


@pytest.mark.parametrize("axis", [None, 1])
def test_against_torch_ao(axis):
    pairs = [
        (MinMax(axis), torch_ao.PerChannelMinMaxObserver(axis) if axis else torch_ao.MinMaxObserver()),
        (
            MovingAverageMinMax(axis=axis),
            torch_ao.MovingAveragePerChannelMinMaxObserver(ch_axis=axis)
            if axis
            else torch_ao.MovingAverageMinMaxObserver(),
        ),
    ]
    for ours, theirs in pairs:
        for seed in range(20):
            x = randn(4, 3, 5, seed=seed)
            ours.observe(x)
            theirs(x)
        assert same_bits(ours.range(), (theirs.min_val, theirs.max_val))


def test_a_moving_average_forgets_and_a_running_one_does_not():
    x = torch.tensor([-1.0, 1.0])
    averaged, running = MovingAverageMinMax(), MinMax()
    for factor in [100] + [1] * 1000:
        averaged.observe(factor * x)
        running.observe(factor * x)
    assert float(running.range()[1]) == 100
    assert float(averaged.range()[1]) == pytest.approx(1 + 99 * 0.99**1000, rel=1e-3)


def test_for_one_batch_moving_average_equals_minmax():
    weights = randn(8, 4, 3, 3)
    for axis in (None, 0):
        assert same_bits(MovingAverageMinMax(axis=axis).observe(weights).range(), MinMax(axis).observe(weights).range())


# --- Histograms ------------------------------------------------------------------------------------------------


@reproducible
@given(batches, st.integers(2, 40))
def test_no_count_is_lost_however_the_data_are_split(parts, bins):
    observer = Percentile(bins=bins)
    for part in parts:
        observer.observe(part)
        counts, _ = observer.histogram()
        assert int(counts.sum()) == observer.count
    assert observer.count == sum(part.numel() for part in parts)


@reproducible
@given(batches, st.integers(2, 40))
def test_bins_hold_what_lies_between_their_edges(parts, bins):
    """The first i bins count what does not exceed ``i * width``, but for values within float32's rounding of it."""
    observer = MSE(bins=bins)
    for part in parts:
        observer.observe(part)
    counts, width = observer.histogram()
    assert counts.dtype == torch.int64
    magnitudes = np.sort(torch.cat(parts).abs().double().numpy())
    edges = np.arange(1, len(counts) + 1) * float(width)  # exact in float64
    slack = 2.0**-23
    below = np.cumsum(counts.numpy())
    assert (np.searchsorted(magnitudes, edges * (1 - slack), side="right") <= below).all()
    assert (below <= np.searchsorted(magnitudes, edges * (1 + slack), side="right")).all()
    first = next((part for part in parts if part.any()), None)
    if first is None:
        assert float(width) == 0
    else:
        assert float(width) == pytest.approx(float(first.abs().max()) / bins, rel=2**-22)


@reproducible
@given(st.floats(2.0**-100, 2.0**100, width=32), st.integers(1, 3000))
def test_the_first_maximum_is_in_the_last_bin(largest, bins):
    """For any width that rounding may give: no bin is appended for it, and none is left empty behind it."""
    counts, _ = Percentile(bins=bins).observe(torch.tensor([-largest, 0.0])).histogram()
    assert len(counts) == bins
    assert int(counts[-1]) == 1 + (bins == 1)


def test_edges_zeros_and_growth_by_hand():
    observer = Percentile(bins=4).observe(torch.tensor([0.0, -0.0, 0.5, 1.0, -1.0, 1.5, 4.0]))
    counts, width = observer.histogram()
    assert (counts.tolist(), float(width)) == ([5, 1, 0, 1], 1.0)
    counts, width = observer.observe(torch.tensor([-6.5, 4.0, 4.25])).histogram()
    assert (counts.tolist(), float(width)) == ([5, 1, 0, 2, 1, 0, 1], 1.0)
    counts, _ = observer.observe(torch.tensor([0.25])).histogram()
    assert counts.tolist() == [6, 1, 0, 2, 1, 0, 1]


def test_batches_of_zeros_wait_for_a_width():
    observer = Entropy(bins=8, levels=4)
    counts, width = observer.observe(torch.zeros(5)).observe(torch.zeros(2)).histogram()
    assert (counts.tolist(), float(width)) == ([7, 0, 0, 0, 0, 0, 0, 0], 0)
    counts, width = observer.observe(torch.tensor([0.0, 8.0, 3.5])).histogram()
    assert (counts.tolist(), float(width)) == ([8, 0, 0, 1, 0, 0, 0, 1], 1)


@pytest.mark.parametrize("seed", range(3))
def test_almost_the_histogram_of_numpy(seed):
    """Its bins are closed at the other end, and float32 rounds the quotient: few of a million values move."""
    x = randn(1_000_000, seed=seed)
    counts, _ = MSE().observe(x).histogram()
    magnitudes = x.abs().numpy().astype(np.float64)
    theirs, _ = np.histogram(magnitudes, 2048, (0, magnitudes.max()))
    moved = np.abs(np.cumsum(theirs) - np.cumsum(counts.numpy()))
    assert moved.max() <= 2


def test_many_values_in_one_batch_and_in_any_layout():
    """Longer than what is binned at once, and read in the order of memory."""
    x = randn(5, 7, 61, 67)
    views = {
        "plain": x,
        "channels last": x.to(memory_format=torch.channels_last),
        "turned": x.permute(3, 1, 0, 2),
        "every second": torch.repeat_interleave(x, 2, dim=2)[:, :, ::2],
        "spread out": x[:, None].expand(5, 2, 7, 61, 67)[:, 1],
        "float64": x.double(),
    }
    assert x.numel() > 2 * 2**16
    for axis_of_7 in (None, 1):
        reference = small(MSE, axis=axis_of_7).observe(x)
        for name, view in views.items():
            axis = axis_of_7
            assert view.shape[1] == 7, name
            same_state(small(MSE, axis=axis).observe(view), reference)
    for dtype in (torch.float16, torch.bfloat16):
        same_state(small(MSE).observe(x.to(dtype)), small(MSE).observe(x.to(dtype).float()))


def test_memory_does_not_grow_with_the_data():
    for kind in ALL:
        observer = small(kind, axis=1)
        sizes = set()
        for seed in range(100):
            x = randn(10, 3, 20, seed=seed).clamp(-2, 2)
            x[0, :, 0] = 2
            kept = weakref.ref(x)
            observer.observe(x)
            del x
            assert kept() is None, kind
            sizes.add(sum(t.untyped_storage().nbytes() for t in vars(observer)["_state"].values()))
        assert len(sizes) == 1, kind
        assert observer.count == 100 * 600


@pytest.mark.parametrize("ends", [(-5.0, 3.0), (3.0, 5.0), (-5.0, -3.0), (-3.0, 5.0)])
def test_a_pair_means_its_larger_magnitude(ends):
    assert float(MSE(bins=4, levels=4, range=ends).observe(torch.ones(1)).histogram()[1]) == 1.25


def test_a_width_is_a_normal_number_without_a_gradient():
    assert float(MSE().observe(torch.tensor([1e-40])).histogram()[1]) == torch.finfo(torch.float32).tiny
    given = torch.tensor(3.0, requires_grad=True)
    assert not MSE(range=given).observe(torch.ones(1)).histogram()[1].requires_grad


def test_one_bin_is_enough():
    for kind in (Percentile, MSE):
        low, high = kind(bins=1).observe(torch.ones(1)).range()
        assert (float(low), float(high)) == (0, 1)
    high = ADMM(bins=1, levels=2).observe(torch.ones(1)).range()[1]
    assert float(high) == 0.5, "the centre of the bin"


def test_a_value_too_far_for_the_bins():
    observer = Entropy().observe(torch.tensor([1.0, -0.5]))
    before = copy.deepcopy(observer)
    with pytest.raises(
        ValueError, match=r"^x: the value 1e\+06 would need 2048000000 bins of width 0\.000488281.*range="
    ):
        observer.observe(torch.tensor([0.0, -1e6]))
    same_state(observer, before)
    observer.observe(torch.tensor([512.0]))
    assert observer.histogram()[0].shape == (2**20,)
    with pytest.raises(ValueError, match=r"more than 1048576"):
        observer.observe(torch.tensor([513.0]))
    with pytest.raises(ValueError, match=r"^bins: need at most 1024 for 65536 channels, got 2048"):
        MSE(axis=0).observe(torch.ones(65536, 1))


# --- Per channel -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_a_channel_is_an_observer_of_its_own(kind, axis):
    scales = torch.tensor([1.0, 30.0, 0.001, 0.0, 5.0]).view([-1 if d == axis % 3 else 1 for d in range(3)])
    parts = [scales.expand([5 if d == axis % 3 else 40 for d in range(3)]) * s for s in (1, 3)]
    parts = [part * randn(*part.shape, seed=i) for i, part in enumerate(parts)]
    together = small(kind, axis=axis)
    alone = [small(kind) for _ in range(5)]
    for part in parts:
        together.observe(part)
        for observer, channel in zip(alone, part.unbind(axis), strict=True):
            observer.observe(channel)
    low, high = together.range()
    assert same_bits((low, high), tuple(torch.stack(ends) for ends in zip(*(o.range() for o in alone), strict=True)))
    assert together.count == sum(o.count for o in alone)
    assert together.qparams(INT8, symmetric=True) == choose_qparams(low, high, INT8, True, axis)
    if kind in HISTOGRAMS:
        counts, widths = together.histogram()
        for row, width, observer in zip(counts, widths, alone, strict=True):
            own, own_width = observer.histogram()
            assert row[: len(own)].tolist() == own.tolist()
            assert not row[len(own) :].any()
            assert float(width) == float(own_width)


@pytest.mark.parametrize("kind", HISTOGRAMS)
def test_a_channels_threshold_ignores_how_far_others_reach(kind):
    """The bins that another channel appends are no candidates."""
    for seed in range(60):
        x = randn(2, 60, seed=seed)
        y = x * torch.tensor([[0.5], [3.0]])
        both, alone = small(kind, axis=0).observe(x).observe(y), small(kind).observe(x[0]).observe(y[0])
        assert same_bits(both.range()[1][0], alone.range()[1]), seed


def test_entropy_has_its_sides_for_each_channel():
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [-1.0, -2.0]])
    low, high = small(Entropy, axis=0).observe(x).range()
    assert float(low[0]) == 0
    assert (high > 0).all()
    assert same_bits(low[1:], -high[1:])


def test_more_channels_than_values_at_once():
    assert MSE(axis=0, bins=16, levels=4).observe(randn(70_000, 2)).count == 140_000


def test_bins_of_all_channels_together_are_limited():
    observer = MSE(bins=2, levels=2, axis=0, range=torch.ones(128))
    x = torch.ones(128, 1)
    observer.observe(x)
    x[0] = 2.0**19
    with pytest.raises(ValueError, match="more than 524288"):
        observer.observe(x)


# --- Percentile ------------------------------------------------------------------------------------------------


@reproducible
@given(batches, st.sampled_from([0.5, 10, 50, 90, 99, 99.9, 99.99, 100]), st.integers(2, 64))
def test_percentile_is_at_most_a_bin_above_numpys(parts, p, bins):
    observer = Percentile(p=p, bins=bins)
    for part in parts:
        observer.observe(part)
    x = torch.cat(parts)
    exact = np.percentile(x.abs().numpy().astype(np.float64), p)
    width = float(observer.histogram()[1])
    low, high = (float(end) for end in observer.range())
    threshold = max(-low, high)
    one_sided = max(-min(float(x.min()), 0), max(float(x.max()), 0))
    assert threshold <= one_sided
    assert -1e-5 * exact <= threshold - exact <= width * (1 + 1e-5) + 1e-5 * exact


@pytest.mark.parametrize("p", [90, 99, 99.9, 99.99, 99.999])
def test_percentiles_of_a_million_values(p):
    x = randn(1_000_000)
    observer = Percentile(p=p)
    for part in x.split(300_000):
        observer.observe(part)
    exact = float(np.percentile(x.abs().numpy(), p))
    assert 0 <= float(observer.range()[1]) - exact <= float(observer.histogram()[1])


# --- Entropy ---------------------------------------------------------------------------------------------------


def entropy_by_definition(counts, levels, first):
    """Candidate by candidate, bin by bin: TensorRT's calibration as NVIDIA's pytorch-quantization defines it."""
    bins = np.array(counts, dtype=np.float64)
    bins[0] = bins[1]
    divergences = []
    for i in range(first, len(bins) + 1):
        level_of = np.digitize(np.arange(i), np.linspace(0, i, levels + 1)) - 1
        totals, members = Counter(), Counter()
        for k in range(i):
            if bins[k]:
                totals[level_of[k]] += bins[k]
                members[level_of[k]] += 1
        q = [totals[level_of[k]] / members[level_of[k]] if bins[k] else 0.0 for k in range(i)]
        p = bins[:i].tolist()
        p[-1] += float(bins[i:].sum())
        divergences.append(kl(p, q))
    return divergences


def kl(p, q):
    total_p, total_q = math.fsum(p), math.fsum(q)
    if any(a and not b for a, b in zip(p, q, strict=True)) or not total_p:
        return math.inf
    return math.fsum(a / total_p * math.log((a / total_p) / (b / total_q)) for a, b in zip(p, q, strict=True) if a)


def last_minimum(divergences):
    lowest = min(divergences)
    return max(i for i, d in enumerate(divergences) if d == lowest or d - lowest < 1e-12)


@settings(reproducible, max_examples=150)
@given(
    st.sampled_from([2, 4, 8, 16]),  # where NumPy's edges are exact
    st.lists(st.one_of(st.just(0), st.integers(0, 9), st.integers(0, 10**6)), min_size=16, max_size=60),
    st.none() | st.integers(1, 16),
)
def test_entropy_by_its_definition(levels, counts, first):
    """From as many bins as levels, or from fewer or more."""
    start = levels if first is None else first
    expected = entropy_by_definition(counts, levels, start)
    candidates, divergences = entropy_curve(torch.tensor(counts), levels, first)
    assert candidates.tolist() == list(range(start, len(counts) + 1))
    assert divergences.dtype == torch.float64
    assert divergences.tolist() == pytest.approx(expected, abs=1e-12)
    threshold = entropy_threshold(torch.tensor(counts), 0.5, levels, first)
    assert threshold == 0.5 * (start + last_minimum(expected))


@pytest.mark.parametrize("levels", [3, 7, 100])
def test_levels_need_not_be_a_power_of_two(levels):
    """Bin k belongs to level floor(k levels / i), in exact arithmetic."""
    counts = np.random.default_rng(levels).integers(0, 50, 256).astype(float)
    counts[0] = counts[1]
    _, divergences = entropy_curve(torch.tensor(counts), levels)
    for i in (levels, levels + 1, 200, 256):
        q = np.zeros(i)
        for level in range(levels):
            members = [k for k in range(i) if k * levels // i == level and counts[k]]
            for k in members:
                q[k] = counts[members].sum() / len(members)
        p = counts[:i].copy()
        p[-1] += counts[i:].sum()
        assert float(divergences[i - levels]) == pytest.approx(kl(p.tolist(), q.tolist()), abs=1e-12)


SAMPLES = 1_000_000


# What NVIDIA's search, from bin 128 of 2048, finds in the sample with outliers: by levels, the bin.
FIRST_BIN = {128: 177, 256: 177}


def normal_with_outliers(rng):
    x = rng.standard_normal(SAMPLES)
    x[:100] = 50
    return x


def two_normals(rng):
    near = rng.random(SAMPLES) < 0.7
    return np.where(near, rng.normal(0, 0.5, SAMPLES), rng.normal(3, 1, SAMPLES))


# Each with the seed of its sample: what it is, min-max, NVIDIA's entropy threshold, and the least MSE with INT8, or
# UINT8 where nothing is negative.  Recorded from other implementations.
REFERENCES = {
    1000: (lambda rng: rng.standard_normal(SAMPLES), 5.053, 5.053, 3.902),
    1001: (lambda rng: rng.laplace(size=SAMPLES), 14.00, 10.13, 9.684),
    1002: (lambda rng: np.maximum(rng.standard_normal(SAMPLES), 0), 4.748, 4.317, 4.247),
    1003: (normal_with_outliers, 50, 4.321, 47.5),
    1004: (lambda rng: rng.lognormal(0, 1, SAMPLES), 138.9, 25.37, 84.4),
    1005: (two_normals, 7.527, 7.005, 6.310),
}


@pytest.fixture(scope="module", params=REFERENCES)
def reference(request):
    sample, *expected = REFERENCES[request.param]
    return torch.from_numpy(sample(np.random.default_rng(request.param)).astype(np.float32)), *expected


def test_thresholds_of_nvidia_and_least_errors(reference):
    x, largest, entropy, mse = reference
    assert float(x.abs().max()) == pytest.approx(largest, rel=5e-4)
    observer = Entropy().observe(x)
    low, high = observer.range()
    width = float(observer.histogram()[1])
    assert abs(float(high) - entropy) <= width + 0.5e-3 * entropy
    assert float(low) == (-float(high) if float(x.min()) < 0 else 0)
    one_sided = float(x.min()) >= 0
    best = MSE(levels=256 if one_sided else 128).observe(x)
    assert float(best.range()[1]) == pytest.approx(mse, rel=3e-3)


def test_one_and_two_threads_agree():
    x = torch.cat([randn(300_000), 20 * randn(1000)])
    counts, width = Entropy().observe(x).histogram()
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            observers = [kind().observe(x) for kind in HISTOGRAMS]
            found.append([o.range() for o in observers] + [entropy_curve(counts)[1], entropy_threshold(counts, width)])
    finally:
        torch.set_num_threads(before)
    for one, two in zip(*found, strict=True):
        assert one == two if isinstance(one, float) else same_bits(one, two)


def test_zeros_and_the_first_bin_do_not_matter():
    """Half of all values at zero, as after a ReLU, or none: one threshold."""
    x = randn(100_000).abs()
    with_zeros = torch.cat([x, torch.zeros(1_000_000)])
    assert same_bits(Entropy().observe(x).range(), Entropy().observe(with_zeros).range())
    counts = torch.tensor([0, 5, 4, 3, 2, 1, 1, 1])
    for first in (0, 5, 10**9):
        counts[0] = first
        assert (
            entropy_curve(counts, 4)[1].tolist() == entropy_curve(torch.tensor([5, 5, 4, 3, 2, 1, 1, 1]), 4)[1].tolist()
        )


def test_entropy_is_two_sided_if_one_value_is_negative():
    x = randn(10_000).abs()
    low, high = Entropy().observe(x).range()
    assert (float(low), float(high)) == (0, float(high))
    low, high = Entropy().observe(x).observe(torch.tensor([-1e-3])).range()
    assert float(low) == -float(high) < 0


def test_equal_minima_take_the_last():
    """As many bins as levels lose nothing; of the candidates that lose nothing, the last clips nothing."""
    counts = torch.zeros(64, dtype=torch.int64)
    counts[torch.tensor([1, 20, 40, 63])] = torch.tensor([7, 3, 2, 5])
    assert entropy_threshold(counts, 1.0, 16) == 64
    counts[60:] = 0
    assert entropy_threshold(counts, 1.0, 16) == 64
    # An observer knows where the data end.
    observer = Entropy(bins=64, levels=16, range=64.0).observe(torch.tensor([2.0, -21.0, 41.0]))
    assert tuple(map(float, observer.range())) == (-41, 41)


def test_nvidias_first_bin_whatever_the_levels():
    """Normal, and 100 values at 50: the best is near bin 177, which 256 levels must not keep from being tried."""
    x = torch.from_numpy(normal_with_outliers(np.random.default_rng(1003)).astype(np.float32))
    counts, width = Entropy().observe(x).histogram()
    for levels, bin_of_nvidia in FIRST_BIN.items():
        high = float(Entropy(levels=levels).observe(x).range()[1])
        assert abs(high / float(width) - bin_of_nvidia) <= 1, levels
        candidates, _ = entropy_curve(counts, levels, 128)
        assert candidates[0] == 128


def test_appended_bins_do_not_move_where_the_search_starts():
    observer = Entropy(bins=64, levels=8, range=64.0).observe(4 * randn(10_000))
    before = observer.range()
    after = observer.observe(torch.tensor([640.0])).range()
    counts, width = observer.histogram()
    assert len(counts) == 640
    assert float(after[1]) == entropy_threshold(counts, width, 8, 4) < 640 // 16
    assert same_bits(before, after)


def test_one_filled_bin_alone_loses_nothing():
    """The tail joins it: the divergence does not see how much is clipped."""
    counts = torch.tensor([0, 0, 0, 5, 0, 0, 3, 2])
    candidates, divergences = entropy_curve(counts, 2, first=1)
    assert candidates.tolist() == list(range(1, 9))
    assert divergences[:3].isinf().all()
    assert float(divergences[3]) == pytest.approx(0, abs=1e-12)
    assert (divergences[4:] > 1e-3).all()
    assert entropy_threshold(counts, 1.0, 2, 1) == 4


def test_small_histograms_start_at_two_bins():
    """A single bin loses nothing, however much is beyond."""
    x = torch.arange(1.0, 17.0).repeat_interleave(torch.arange(16, 0, -1) ** 2)
    observer = Entropy(bins=16, levels=4).observe(x)
    assert entropy_threshold(*observer.histogram(), 4, first=1) == 1
    assert float(observer.range()[1]) > 8


def test_curves_leave_their_counts_alone():
    counts = torch.tensor([9.0, 4, 4, 2, 1, 0, 0, 1], dtype=torch.float64)
    kept = counts.clone()
    entropy_curve(counts, 4)
    mse_curve(counts, 4)
    assert torch.equal(counts, kept)
    for curve in (entropy_curve, mse_curve):
        assert not curve(counts.clone().requires_grad_(), 4)[1].requires_grad
        one_more = (curve(torch.tensor([3, 3, n, 1, 1]), 2)[1] for n in (2**24, 2**24 + 1))
        assert not torch.equal(*one_more), "counted in float32"


@reproducible
@given(st.lists(st.integers(0, 10**9), min_size=4, max_size=30).filter(any))
def test_curves_are_not_negative(counts):
    for levels in (2, 3, 4):
        assert (entropy_curve(torch.tensor(counts), levels)[1] >= 0).all()
        assert (mse_curve(torch.tensor(counts), levels)[1] >= 0).all()


def test_as_many_bins_as_levels():
    for levels in (16, 2**16 + 1):
        assert entropy_curve(torch.ones(levels), levels)[1].tolist() == pytest.approx([0], abs=1e-12)
    assert float(Entropy(bins=16, levels=16).observe(torch.full((3,), 2.0)).range()[1]) == 2


# --- Squared error ---------------------------------------------------------------------------------------------


def error(x, threshold, levels):
    """Mean squared error on the data, by rounding each value."""
    step = threshold / (levels - 1)
    magnitude = x.double().abs()
    return float((magnitude - (magnitude / step).round().clamp(max=levels - 1) * step).square().mean())


@pytest.mark.parametrize("levels", [2, 3, 8, 128])
def test_error_of_evenly_filled_bins(levels):
    """Each bin cut in many equal parts, and each part rounded: the curve, for every candidate."""
    counts = torch.tensor([7, 0, 5, 9, 3, 0, 0, 1, 2, 0, 4, 1])
    parts = 2000
    x = (torch.arange(12 * parts) + 0.5) / parts
    weights = counts.repeat_interleave(parts) / parts
    candidates, errors = mse_curve(counts, levels)
    assert candidates.tolist() == list(range(1, 13))
    for i, found in zip(candidates.tolist(), errors.tolist(), strict=True):
        step = i / (levels - 1)
        rounded = (x.double() / step).round().clamp(max=levels - 1) * step
        assert found == pytest.approx(float((weights * (x - rounded).square()).sum() / counts.sum()), rel=2e-3)


DISTRIBUTIONS = {
    "normal": randn(10_000),
    "heavy": randn(10_000) / randn(10_000, seed=1).abs().clamp(min=0.05),
    "one-sided": randn(10_000).clamp(min=0),
    "even": torch.rand(10_000, generator=torch.Generator().manual_seed(0)) - 0.5,
    "shifted": randn(10_000) + 3,
    "outliers": torch.cat([randn(10_000), torch.full((3,), 50.0)]),
}


@pytest.mark.parametrize("levels", [4, 8, 128])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_mse_against_brute_force(name, levels):
    """No threshold of a fine grid has an error more than 1 % lower, whatever the data."""
    x = DISTRIBUTIONS[name]
    low, high = MSE(levels=levels).observe(x).range()
    found = error(x, max(-float(low), float(high)), levels)
    grid = np.geomspace(float(x.abs().max()) / 100, float(x.abs().max()), 120)
    assert found <= 1.01 * min(error(x, t, levels) for t in grid)


@pytest.mark.parametrize("levels", [4, 8, 128])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_admm_ends_where_no_turn_helps(name, levels):
    x = DISTRIBUTIONS[name]
    low, high = ADMM(levels=levels).observe(x).range()
    threshold = max(-float(low), float(high))
    counts, width = ADMM(levels=levels).observe(x[x != 0]).histogram()
    centres = (torch.arange(len(counts)) + 0.5) * float(width)
    step = threshold / (levels - 1)
    q = (centres.double() / step).round().clamp(max=levels - 1)
    assert float((counts * centres * q).sum() / (counts * q * q).sum()) == pytest.approx(step, rel=1e-5)
    # From its start, it never got worse; and MSE, which tries all thresholds, is not worse either.
    start = float(x.abs().max()) / 1.25
    assert error(x, threshold, levels) <= 1.001 * error(x, start, levels)
    best = max(map(abs, map(float, MSE(levels=levels).observe(x).range())))
    assert error(x, best, levels) <= 1.01 * error(x, threshold, levels)


def test_admm_by_hand():
    """Four values, one step a = 4 / (1.25 * 3): codes, their best step, until both stay."""
    centres = torch.tensor([0.5, 1.5, 2.5, 3.5], dtype=torch.float64)
    step, steps = 4 / (1.25 * 3), []
    while not steps or steps[-1] != step:
        steps.append(step)
        q = (centres / step).round().clamp(max=3)
        step = float((centres * q).sum() / q.square().sum())
    assert len(steps) > 1
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0, 0.0])
    low, high = ADMM(bins=4, levels=4).observe(x).range()
    assert (float(low), float(high)) == (0, pytest.approx(min(3 * step, 4), rel=1e-6))


def test_exact_zeros_have_no_error():
    """A spike at zero does not move the best threshold, and the histogram still counts it."""
    x = randn(20_000)
    spiked = torch.cat([x, torch.zeros(1_000_000)])
    for kind in (MSE, ADMM):
        for levels in (4, 128):
            a, b = kind(levels=levels).observe(x), kind(levels=levels).observe(spiked)
            assert same_bits(a.range(), b.range())
            assert int(b.histogram()[0][0] - a.histogram()[0][0]) == 1_000_000


@pytest.mark.parametrize("kind", [Percentile, MSE, ADMM])
def test_ranges_stay_within_the_data_and_hold_zero(kind):
    """Skewed data: the longer side ends at T, the shorter where the data end."""
    x = torch.cat([randn(10_000), torch.rand(10_000) * 8])
    low, high = kind().observe(x).range()
    assert float(low) == float(x.min())
    assert float(x.abs().max()) >= float(high) > -float(low)
    mirrored = kind().observe(-x).range()
    assert same_bits(mirrored, (-high, -low))
    low, high = kind().observe(5 + torch.rand(100)).range()
    assert (float(low), float(high) > 5) == (0, True)


# --- Merging ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MERGEABLE)
@reproducible
@given(batches, batches, st.booleans())
def test_merging_equals_having_seen_all(kind, ours, theirs, per_channel):
    more = {"axis": 0, "range": torch.tensor([5.0])} if per_channel else {"range": 5.0}
    if kind is MinMax:
        del more["range"]
    make = lambda: small(kind, **more)  # noqa: E731
    mine, other, both = make(), make(), make()
    for observer, parts in ((mine, ours), (other, theirs), (both, ours + theirs)):
        for part in parts:
            observer.observe(part[None] if per_channel else part)
    kept = copy.deepcopy(other)
    assert mine.merge(other) is mine
    same_state(mine, both)
    same_state(other, kept)


@pytest.mark.parametrize("kind", MERGEABLE)
@reproducible
@given(batches, st.randoms(use_true_random=False))
def test_order_does_not_matter_once_the_width_is_fixed(kind, parts, random):
    more = {} if kind is MinMax else {"range": (-5.0, 3.0)}
    forward, shuffled = small(kind, **more), small(kind, **more)
    for part in parts:
        forward.observe(part)
    for part in random.sample(parts, len(parts)):
        shuffled.observe(part)
    same_state(forward, shuffled)
    same_state(small(kind, **more).observe(torch.cat(parts)), forward)


def test_two_passes_fix_the_width():
    x = randn(6, 3, 50) * torch.tensor([1.0, 7.0, 0.0])[:, None]
    first = MinMax(axis=1)
    for part in x:
        first.observe(part[None])
    whole = MSE(axis=1).observe(x)
    shards = [MSE(axis=1, range=first.range()) for _ in range(2)]
    for i, part in enumerate(x):
        shards[i % 2].observe(part[None])
    same_state(shards[0].merge(shards[1]), whole)
    largest = torch.maximum(-first.range()[0], first.range()[1])
    same_state(MSE(axis=1, range=largest).observe(x), whole)


@pytest.mark.parametrize("kind", MERGEABLE)
@pytest.mark.parametrize("axis", [None, 1])
def test_merging_with_one_that_saw_nothing(kind, axis):
    x = randn(20, 3)
    for empty_first in (True, False):
        seen, empty = small(kind, axis=axis).observe(x), small(kind, axis=axis)
        mine, other = (empty, seen) if empty_first else (seen, empty)
        same_state(mine.merge(other), small(kind, axis=axis).observe(x))
    assert small(kind, axis=axis).merge(small(kind, axis=axis)).count == 0


def test_a_width_that_only_one_has():
    """Zeros need no width, so they merge with any."""
    zeros, x = torch.zeros(4, 2), randn(50, 2)
    for axis in (None, 1):
        for a, b in ((zeros, x), (x, zeros)):
            merged = small(MSE, axis=axis).observe(a).merge(small(MSE, axis=axis).observe(b))
            same_state(merged, small(MSE, axis=axis).observe(a).observe(b))


@pytest.mark.parametrize(
    ("mine", "other", "message"),
    [
        (MinMax(), Entropy(), r"^other: need MinMax\(axis=None\) like this one, got Entropy\(levels=128"),
        (MinMax(), MinMax(axis=0), r"^other: need MinMax\(axis=None\).*got MinMax\(axis=0\)"),
        (Entropy(), Entropy(bins=1024), r"bins=2048.*bins=1024"),
        (MSE(), MSE(levels=8), r"levels=128.*levels=8"),
        (Percentile(), Percentile(p=99), r"p=99\.99.*p=99\.0"),
        (MSE(), "MSE", r"got 'MSE'"),
        (MovingAverageMinMax(), MovingAverageMinMax(), r"order of their batches"),
    ],
)
def test_what_does_not_merge(mine, other, message):
    with pytest.raises(ValueError, match=message):
        mine.merge(other)


def test_a_width_comes_along_without_values():
    merged = MSE().merge(MSE(range=5.0)).observe(torch.ones(1))
    assert merged.histogram()[1] == torch.tensor(5 / 2048)


def test_unequal_widths_and_channels_do_not_merge():
    mine, other = MSE().observe(torch.tensor([1.0])), MSE().observe(torch.tensor([2.0]))
    before = copy.deepcopy(mine)
    with pytest.raises(
        ValueError, match=r"^other: need bins of one width, got 0\.00048828125 and 0\.0009765625; give.*range="
    ):
        mine.merge(other)
    same_state(mine, before)
    with pytest.raises(ValueError, match=r"^other: need 2 channels, as here, got 3"):
        MinMax(axis=0).observe(torch.ones(2, 1)).merge(MinMax(axis=0).observe(torch.ones(3, 1)))
    channels = MSE(axis=0).observe(torch.tensor([[1.0], [0.0], [3.0]]))
    with pytest.raises(ValueError, match=r"0\.00146484375 and 0\.001953125"):
        channels.merge(MSE(axis=0).observe(torch.tensor([[1.0], [2.0], [4.0]])))


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processes")
    root = Path(__file__).parents[1]
    paths = [str(root), str(root / "tests"), os.environ.get("PYTHONPATH", "")]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*command, calibrate_processes.__file__, str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_two_processes_find_what_one_finds(two_processes):
    for axis in (None, -1):
        for name, observer in calibrate_processes.observers(axis).items():
            for batch in calibrate_processes.data():
                observer.observe(batch)
            for rank in (0, 1):
                assert same_state(load(two_processes / f"{name} {axis} {rank}"), observer)


def test_a_process_that_saw_nothing_takes_part(two_processes):
    for name, kind in (("minmax", MinMax), ("entropy", Entropy)):
        alone = kind(axis=1).observe(calibrate_processes.data()[0])
        for rank in (0, 1):
            assert same_state(load(two_processes / f"{name} alone {rank}"), alone)
    assert [load(two_processes / f"mse alone {rank}").count for rank in (0, 1)] == [0, 0]


def test_all_processes_raise_alike(two_processes):
    first, second = (json.loads((two_processes / f"raised {rank}").read_text()) for rank in (0, 1))
    assert first == second
    expected = {
        "width": "observers['1']: need bins of one width",
        "class": "observers['1']: need the same observer in all processes, got ADMM(",
        "settings": "observers['1']: need the same observer in all processes, got Percentile(p=99.0",
        "channels": "observers['1']: need the same observer in all processes, got MinMax(axis=0) and MinMax(axis=1)",
        "number": "observers: need the same in all processes, got ['0'] in process 0 and ['0', '1'] in process 1",
        "order": "observers[1]: moving averages depend on the order",
    }
    for what, message in expected.items():
        assert first[what].startswith(message), what


class Ranks:
    """Processes in place of which threads run: what they exchange waits for all, or raises when one stays away."""

    def __init__(self, count, monkeypatch):
        self.count, self.rank = count, threading.local()
        self.slots, self.barrier = [None] * count, threading.Barrier(count, timeout=20)
        group = torch.distributed
        for name, fake in {
            "is_initialized": lambda: True,
            "get_world_size": lambda: count,
            "get_backend": lambda: "gloo",
            "all_gather_object": self.gather,
            "all_reduce": self.reduce,
        }.items():
            monkeypatch.setattr(group, name, fake)

    def exchange(self, mine):
        self.slots[self.rank.id] = mine
        self.barrier.wait()
        found = list(self.slots)
        self.barrier.wait()
        return found

    def gather(self, into, mine):
        into[:] = self.exchange(copy.deepcopy(mine))

    def reduce(self, t, operation):
        kinds = torch.distributed.ReduceOp
        join = {kinds.SUM: torch.Tensor.sum, kinds.MIN: torch.Tensor.amin, kinds.MAX: torch.Tensor.amax}[operation]
        found = self.exchange(t.clone())
        assert len({part.shape for part in found}) == 1, "unequal shapes"
        t.copy_(join(torch.stack(found), 0))

    def all_reduce(self, *observers):
        """Each rank with its own; returns what each raised."""
        raised = [""] * self.count

        def run(rank):
            self.rank.id = rank
            try:
                all_reduce(observers[rank])
            except ValueError as error:
                raised[rank] = str(error)
            except threading.BrokenBarrierError:
                raised[rank] = "waited in vain"

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return raised


@pytest.mark.parametrize("reached", [0, 1])
def test_it_does_not_matter_which_process_saw_what(reached, monkeypatch):
    """The process that reaches further, or is the only one to have seen channels, may be the first or the second."""
    ranks, x = Ranks(2, monkeypatch), randn(40, 3)
    uneven = [MSE(bins=4, levels=4, range=4.0).observe(torch.tensor([1.0, 4.0 + 5 * (r == reached)])) for r in (0, 1)]
    late = [Entropy(axis=1) for _ in (0, 1)]
    late[reached].observe(x)
    assert ranks.all_reduce(
        {"uneven": uneven[0], "late": late[0]},
        {"late": late[1], "uneven": uneven[1]},  # names count, not their order
    ) == ["", ""]
    for rank in (0, 1):
        same_state(
            uneven[rank],
            MSE(bins=4, levels=4, range=4.0).observe(torch.tensor([1.0, 4.0])).observe(torch.tensor([1, 9.0])),
        )
        same_state(late[rank], Entropy(axis=1).observe(x))


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (lambda: [MovingAverageMinMax()], "observers[0]: moving averages depend on the order"),
        (lambda: [5], "observers[0]: need an observer, got a int"),
        (lambda: {"a": 1}, "observers['a']: need an observer, got a int"),
        (MinMax, "observers: need a list or dict of observers, got a MinMax"),
        (lambda: "MinMax", "observers: need a list or dict of observers, got a str"),
        (lambda: [MinMax(), MinMax()], "observers: need the same in all processes, got"),
        (lambda: [MinMax(axis=0)], "observers['0']: need the same observer in all processes, got"),
    ],
)
@pytest.mark.parametrize("rank", [0, 1])
def test_nobody_waits_for_a_process_that_raises(one, message, rank, monkeypatch):
    fine = MinMax().observe(torch.ones(2))
    given = [[fine], [fine]]
    given[rank] = one()
    raised = Ranks(2, monkeypatch).all_reduce(*given)
    assert raised[0] == raised[1]
    assert raised[0].startswith(message)
    assert fine.count == 2


def test_processes_with_other_channels_raise_alike(monkeypatch):
    observers = [[MinMax(axis=0).observe(torch.ones(channels, 3))] for channels in (2, 3)]
    expected = "observers['0']: need one number of channels in all processes, got 2 and 3"
    assert Ranks(2, monkeypatch).all_reduce(*observers) == [expected] * 2


def test_all_reduce_needs_a_group():
    with pytest.raises(RuntimeError, match=r"init_process_group"):
        all_reduce([MinMax()])


# --- Files -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("axis", [None, -1])
def test_a_loaded_observer_goes_on_as_the_saved_one(kind, axis, tmp_path):
    observer = small(kind, axis=axis)
    path = tmp_path / "observer"
    for seed in range(3):
        observer.save(path)
        observer = load(path)
        assert type(observer) is kind
        observer.observe((1 + seed) * randn(30, 4, seed=seed))
    straight = small(kind, axis=axis)
    for seed in range(3):
        straight.observe((1 + seed) * randn(30, 4, seed=seed))
    same_state(observer, straight)


def test_a_width_fixed_beforehand_is_saved(tmp_path):
    for more in ({"range": 3.0}, {"axis": 0, "range": torch.tensor([3.0, 1.0])}):
        MSE(**more).save(tmp_path / "observer")
        x = randn(2, 100)
        same_state(load(tmp_path / "observer").observe(x), MSE(**more).observe(x))


def test_files_of_others_are_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        load(path)
    path.write_bytes(b"something else")
    with pytest.raises(ValueError, match=r"^path: need a safetensors file, got .*file"):
        load(path)
    save_file({"weight": torch.ones(2)}, path)
    with pytest.raises(ValueError, match=r"^path: need an observer's file, got .*file"):
        load(path)


GOOD = {"format": "quantcourse.calibrate 1", "class": "MSE", "settings": '{"levels": 4, "bins": 4, "axis": null}'}


@pytest.mark.parametrize(
    ("metadata", "tensors", "message"),
    [
        ({"class": "list"}, {}, "need an observer's file"),
        ({"format": "quantcourse.calibrate 2"}, {}, "need an observer's file"),
        ({"settings": "{"}, {}, "need an observer's settings"),
        ({"settings": '{"p": 3}'}, {}, "need an observer's settings"),
        ({"settings": '{"levels": 1}'}, {}, "need an observer's settings"),
        ({}, {"low": None}, "need the state"),
        ({}, {"extra": torch.zeros(1)}, "need the state"),
        ({}, {"low": torch.zeros(2), "high": torch.zeros(2)}, "need the state"),
        ({}, {"low": torch.zeros(1, dtype=torch.float64)}, "need the state"),
        ({}, {"counts": torch.tensor([[0, 1, 0, 0, 0]])}, "need the state"),
        ({}, {"counts": torch.tensor([[0, 3, -1, 0, 0]])}, "need the state"),
        ({}, {"counts": torch.tensor([[0, 2, 0, 0]])}, "need the state"),
        ({}, {"width": torch.tensor([-1.0])}, "need the state"),
        ({}, {"width": torch.tensor([math.nan])}, "need the state"),
        ({}, {"low": torch.tensor([9.0])}, "need the state"),
        ({}, {"high": torch.tensor([math.inf])}, "need the state"),
        ({}, {"low": torch.tensor([-math.inf])}, "need the state"),
        ({}, {"low": torch.tensor(1.0)}, "need the state"),
        ({}, {"high": torch.tensor([100.0])}, "need the state"),
        ({}, {"low": torch.tensor([-100.0])}, "need the state"),
        ({}, {"width": torch.tensor([math.inf])}, "need the state"),
        ({}, {"width": torch.tensor([0.0])}, "need the state"),
        ({}, {"count": torch.tensor([2])}, "need the state"),
        ({}, {"count": torch.tensor(0), "counts": torch.zeros(1, 5, dtype=torch.int64)}, "need the state"),
        ({}, {"counts": torch.tensor([[2**62, 2**62, 2**62, 2**62, 2]])}, "need the state"),
        ({}, dict.fromkeys(("count", "low", "high", "width", "counts")), "need the state"),
        (
            {},
            {name: torch.ones(2) for name in ("low", "high", "width")}
            | {"counts": torch.tensor([[0, 1, 0, 0, 0], [0, 1, 0, 0, 0]])},
            "need the state",
        ),
        ({"settings": None}, {}, "need an observer's settings"),
    ],
)
def test_states_that_nobody_saved_are_refused(metadata, tensors, message, tmp_path):
    path = tmp_path / "file"
    MSE(bins=4, levels=4).observe(torch.tensor([1.0, 4.0])).save(path)
    good = load_file(path)
    save_file(good, path, GOOD)
    load(path)
    changed = {name: t for name, t in {**good, **tensors}.items() if t is not None}
    save_file(changed, path, {key: text for key, text in {**GOOD, **metadata}.items() if text is not None})
    with pytest.raises(ValueError, match=f"^path: {message}"):
        load(path)


@pytest.mark.parametrize(
    "changed",
    [
        {"count": torch.tensor(-1)},
        {"count": torch.tensor(0), "low": torch.tensor([math.nan])},
        {"count": torch.tensor(0), "low": torch.tensor([3.0]), "high": torch.tensor([-7.0])},
        {"low": torch.tensor([1.0, 2.0]), "high": torch.tensor([3.0, 3.0])},
        dict.fromkeys(("count", "low", "high")),
    ],
)
def test_ends_that_nobody_saved_are_refused(changed, tmp_path):
    path = tmp_path / "file"
    good = {"count": torch.tensor(2), "low": torch.tensor([1.0]), "high": torch.tensor([4.0])}
    metadata = {**GOOD, "class": "MinMax", "settings": '{"axis": null}'}
    save_file(good, path, metadata)
    assert tuple(map(float, load(path).range())) == (1, 4)
    save_file({name: t for name, t in {**good, **changed}.items() if t is not None}, path, metadata)
    with pytest.raises(ValueError, match=r"^path: need the state"):
        load(path)


def test_more_bins_than_an_observer_may_have(tmp_path):
    n, path = 65, tmp_path / "file"
    state = {"low": torch.ones(n), "high": torch.ones(n), "width": torch.ones(n), "count": torch.tensor(0)}
    settings = json.dumps({"bins": 2**20, "levels": 4, "axis": 0})
    save_file({**state, "counts": torch.zeros(n, 2, dtype=torch.int64)}, path, {**GOOD, "settings": settings})
    with pytest.raises(ValueError, match=r"^path: need the state"):
        load(path)


def test_saving_where_no_file_can_be(tmp_path):
    for path in (tmp_path / "no folder" / "file", tmp_path):
        with pytest.raises(OSError, match=r"^path: can't write"):
            MinMax().save(path)


@pytest.mark.parametrize("kind", ALL)
def test_float32_whatever_the_default(kind, tmp_path):
    before = torch.get_default_dtype()
    x = randn(50)
    expected = small(kind).observe(x)
    try:
        torch.set_default_dtype(torch.float64)
        observer = small(kind).observe(x)
        same_state(observer, expected)
        observer.save(tmp_path / "observer")
        same_state(load(tmp_path / "observer"), expected)
    finally:
        torch.set_default_dtype(before)


# --- Degenerate data -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("value", [0.0, 1.0, -3.0, 3.0e38, -3.0e38, 1e-45, 1e-38, 1 / 3])
@pytest.mark.parametrize("size", [1, 1000])
def test_constant_data_give_a_usable_range(kind, value, size):
    x = torch.full((size,), value)
    observer = kind().observe(x)
    low, high = observer.range()
    assert torch.isfinite(low) and torch.isfinite(high)
    assert low.dtype == high.dtype == torch.float32
    assert low.ndim == high.ndim == 0
    assert max(abs(float(low)), abs(float(high))) == pytest.approx(abs(value), rel=1e-3, abs=1e-38)
    for dtype, symmetric in ((INT8, True), (UINT8, False), (INT4, True), (UINT4, False)):
        qp = observer.qparams(dtype, symmetric)
        assert qp == choose_qparams(low, high, dtype, symmetric)


@pytest.mark.parametrize("kind", ALL)
def test_few_values_give_a_usable_range(kind):
    for values in ([0.0, 1.0], [-1.0, 2.0, 3.0], [1e-30, 1.0], [0.0] * 99 + [7.0]):
        low, high = kind().observe(torch.tensor(values)).range()
        assert float(low) >= min(0, *values) or kind is Entropy
        assert 0 < float(high) <= max(values)


def test_the_largest_numbers_of_float32():
    largest = torch.finfo(torch.float32).max
    x = torch.tensor([largest, -largest, 1.0])
    for kind in ALL:
        low, high = kind(axis=None).observe(x).range()
        assert -largest <= float(low) < 0 < float(high) <= largest


def test_data_far_below_a_fixed_range():
    """All in one bin: nothing to choose from, so nothing is clipped."""
    x = randn(1000)
    for kind in (Entropy, MSE, Percentile):
        low, high = kind(range=1e6).observe(x).range()
        assert float(x.abs().max()) == max(-float(low), float(high))


# --- Errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("axis", [None, 1])
def test_nan_and_infinity_are_counted_and_change_nothing(kind, axis):
    x = randn(20, 5)
    for fresh in (True, False):
        for bad in ([math.nan], [math.inf], [-math.inf], [-math.inf, math.nan, math.inf]):
            observer, clean = small(kind, axis=axis), small(kind, axis=axis)
            if not fresh:
                observer.observe(x)
                clean.observe(x)
            broken = x.clone()
            broken.view(-1)[torch.arange(len(bad)) * 7] = torch.tensor(bad)
            message = f"^x: {len(bad)} of 100 values are NaN or infinite as float32, in a batch for {kind.__name__}$"
            with pytest.raises(ValueError, match=message):
                observer.observe(broken)
            assert observer.count == clean.count
            same_state(observer.observe(2 * x), clean.observe(2 * x))


@pytest.mark.parametrize("kind", ALL)
def test_one_that_saw_nothing_says_so(kind):
    for axis in (None, 0):
        observer = kind(axis=axis)
        assert observer.count == 0
        for ask in (observer.range, lambda o=observer: o.qparams(INT8, True)):
            with pytest.raises(ValueError, match=rf"^{kind.__name__}: has seen no values; call observe\(x\) first"):
                ask()
    if kind in HISTOGRAMS:
        with pytest.raises(ValueError, match="has seen no values"):
            kind().histogram()


@pytest.mark.parametrize(
    ("x", "axis", "message"),
    [
        ([1.0], None, "x: need a torch tensor, got a list"),
        (torch.ones(3, dtype=torch.int32), None, "x: need floating-point values, got torch.int32"),
        (torch.ones(3, dtype=torch.complex64), None, "x: need floating-point values"),
        (torch.ones(0), None, r"x: need at least one value, got shape \(0,\)"),
        (torch.ones(2, 0), 0, r"x: need at least one value, got shape \(2, 0\)"),
        (torch.ones(3), 1, r"x: need a tensor with axis 1, got shape \(3,\)"),
        (torch.tensor(3.0), 0, r"x: need a tensor with axis 0, got shape \(\)"),
        (torch.ones(3), -2, r"x: need a tensor with axis -2"),
        (torch.tensor([1e300, 0], dtype=torch.float64), None, "x: 1 of 2 values are NaN or infinite as float32"),
    ],
)
@pytest.mark.parametrize("kind", [MinMax, Entropy])
def test_batches_that_do_not_fit(kind, x, axis, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        kind(axis=axis).observe(x)


def test_axes_count_from_either_end():
    assert same_bits(MinMax(axis=-1).observe(torch.ones(3)).range()[0], torch.ones(3))
    assert repr(MinMax(axis=np.int64(1))) == "MinMax(axis=1)"


def test_another_number_of_channels():
    for kind in ALL:
        observer = small(kind, axis=1).observe(randn(4, 3))
        with pytest.raises(ValueError, match=r"^x: need 3 channels along axis 1, as before, got 5"):
            observer.observe(randn(4, 5))
    with pytest.raises(ValueError, match=r"^x: need 3 channels along axis 1, as before, got 5"):
        MSE(axis=1, range=torch.ones(3)).observe(randn(4, 5))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: MinMax(axis=1.0), "axis: need an integer or None, got 1.0"),
        (lambda: MinMax(axis=True), "axis: need an integer or None, got True"),
        (lambda: MovingAverageMinMax(c=0), "c: need a number above 0, at most 1, got 0"),
        (lambda: MovingAverageMinMax(c=1.5), "c: need"),
        (lambda: MovingAverageMinMax(c=math.nan), "c: need"),
        (lambda: MovingAverageMinMax(c="1"), "c: need"),
        (lambda: MovingAverageMinMax(c=True), "c: need"),
        (lambda: Percentile(p=0), "p: need a number above 0, at most 100, got 0"),
        (lambda: Percentile(p=100.1), "p: need"),
        (lambda: Percentile(p=None), "p: need"),
        (lambda: Percentile(bins=0), "bins: need an integer from 1 to 1048576, got 0"),
        (lambda: Percentile(bins=2.0), "bins: need"),
        (lambda: Entropy(levels=1), "levels: need an integer from 2 to 65536, got 1"),
        (lambda: MSE(levels=128.0), "levels: need"),
        (lambda: Entropy(bins=64), "bins: need at least one a level, 128, got 64"),
        (lambda: MSE(range=-1.0), "range: need low <= high and magnitudes >= 0, got -1.0"),
        (lambda: MSE(range=(2.0, 1.0)), "range: need low <= high"),
        (lambda: MSE(range=math.inf), "range: 1 of 1 values are NaN or infinite"),
        (lambda: MSE(range=(math.nan, 1.0)), "range: 1 of 1 values are NaN or infinite"),
        (lambda: MSE(range="wide"), "range: need numbers or tensors, got 'wide'"),
        (lambda: MSE(range=(1.0, 2.0, 3.0)), r"range: need the largest magnitude or a pair \(low, high\)"),
        (lambda: MSE(range=()), r"range: need the largest magnitude or a pair \(low, high\)"),
        (lambda: MSE(range=(torch.zeros(2), 1.0), axis=0), r"range: need the largest magnitude or a pair"),
        (lambda: MSE(range=torch.ones(3)), r"range: need one value, got shape \(3,\)"),
        (lambda: MSE(range=1.0, axis=0), r"range: need one value a channel \(1-D\), got shape \(\)"),
        (lambda: MSE(range=torch.ones(0), axis=0), "range: need at least one value"),
        (lambda: entropy_curve([1, 2]), "counts: need a torch tensor, got a list"),
        (lambda: entropy_curve(torch.ones(4, 4), 2), r"counts: need 2 bins or more, 1-D, got \(4, 4\)"),
        (lambda: entropy_curve(torch.ones(1), 2), "counts: need 2 bins or more"),
        (lambda: entropy_curve(torch.tensor([1.5, 1, 1]), 2), "counts: need whole numbers of at least 0"),
        (lambda: entropy_curve(torch.tensor([1, -1, 1]), 2), "counts: need whole numbers of at least 0"),
        (lambda: entropy_curve(torch.tensor([1, math.nan, 1]), 2), "counts: 1 of 3 values are NaN"),
        (lambda: entropy_curve(torch.ones(4), 5), "levels: need an integer from 2 to 4, got 5"),
        (lambda: entropy_curve(torch.ones(4), 1), "levels: need an integer from 2 to 4, got 1"),
        (lambda: entropy_threshold(torch.ones(4), 0.0, 2), "width: need a finite number above 0, got 0.0"),
        (lambda: entropy_threshold(torch.ones(4), torch.ones(2), 2), "width: need one floating-point number, got .*2,"),
        (lambda: entropy_threshold(torch.ones(4), torch.tensor(1j), 2), "width: need one floating-point number"),
        (lambda: entropy_threshold(torch.ones(4), math.inf, 2), "width: need a finite number above 0, got inf"),
        (lambda: entropy_threshold(torch.ones(4), math.nan, 2), "width: need a finite number above 0, got nan"),
        (lambda: entropy_threshold(torch.ones(4), 10**400, 2), "width: need a finite number above 0"),
        (lambda: entropy_threshold(torch.ones(4), True, 2), "width: need a number above 0, got True"),
        (lambda: entropy_threshold(torch.ones(4), "1", 2), "width: need a number above 0"),
        (lambda: entropy_curve(torch.ones(4), 5, 0), "first: need an integer from 1 to 4, got 0"),
        (lambda: entropy_curve(torch.ones(4), 5, 5), "first: need an integer from 1 to 4, got 5"),
        (lambda: entropy_curve(torch.ones(4), 2**16 + 1, 1), "levels: need an integer from 2 to 65536, got 65537"),
        (lambda: entropy_curve(torch.tensor([1, 2**51, 1, 2**51]), 2), "counts: need a sum below 2.*52, got 4.5036e"),
        (
            lambda: mse_curve(torch.tensor([1.0, 1e308, 1e308], dtype=torch.float64), 2),
            "counts: need a sum below 2.*52, got inf",
        ),
        (lambda: mse_curve(torch.ones(3) + 1j, 2), "counts: need whole numbers"),
        (lambda: MSE(range=True), "range: need numbers or tensors, got True"),
        (lambda: MSE(range=torch.tensor(1j)), "range: need numbers or tensors"),
        (lambda: MSE(range=(0.0, 10**400)), "range: need numbers or tensors"),
        (lambda: MovingAverageMinMax(c=Fraction(1, 10**400)), "c: need a number above 0"),
        (lambda: Percentile(p=10**400), "p: need a number above 0, at most 100"),
        (lambda: MinMax().save(5), "path: need a str or an os.PathLike, got a int"),
        (lambda: load(None), "path: need a str or an os.PathLike, got a NoneType"),
        (lambda: mse_curve(torch.zeros(4)), "counts: need a positive sum, got all zeros"),
        (lambda: mse_curve(torch.ones(4), 1), "levels: need an integer from 2 to 65536, got 1"),
    ],
)
def test_arguments_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        make()


# --- What was seen, for another number of levels -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ALL)
def test_extremes_do_not_depend_on_the_range(kind):
    x = randn(3, 50)
    for axis in (None, 0):
        observer = small(kind, axis=axis).observe(x)
        rows = x.view(1, -1) if axis is None else x
        low, high = rows.amin(1), rows.amax(1)
        if axis is None:
            low, high = low[0], high[0]
        assert same_bits(observer.extremes(), (low, high))
    with pytest.raises(ValueError, match="has seen no values"):
        kind().extremes()


@pytest.mark.parametrize("kind", [Entropy, MSE, ADMM])
def test_an_observer_for_other_levels_is_one_that_had_them_from_the_start(kind):
    x = randn(3, 400)
    for axis in (None, 0):
        observer = kind(bins=64, levels=4, axis=axis).observe(x)
        before = copy.deepcopy(observer)
        for levels in (2, 16, 64):
            assert same_state(observer.with_levels(levels), kind(bins=64, levels=levels, axis=axis).observe(x))
        # What the new one sees is not seen by the old.
        observer.with_levels(8).observe(10 * x)
        assert same_state(observer, before)
    with pytest.raises(ValueError, match="levels"):
        observer.with_levels(1)


@pytest.mark.parametrize("kind", HISTOGRAMS)
def test_a_channel_finds_the_threshold_it_finds_alone(kind):
    """Many are searched at once: more than are taken together, with channels of zeros and of longer histograms among them."""
    x = randn(40, 60) * torch.logspace(-3, 3, 40)[:, None]
    x[5] = 0
    together = kind(axis=0, bins=64, **({"levels": 8} if kind is not Percentile else {})).observe(x)
    together.observe(1.5 * x)
    for channel, row in enumerate(x):
        alone = kind(bins=64, **({"levels": 8} if kind is not Percentile else {})).observe(row).observe(1.5 * row)
        found = tuple(end[channel] for end in together.range())
        assert same_bits(found, alone.range())


# --- Devices and gradients -------------------------------------------------------------------------------------


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("axis", [None, 1])
def test_a_gpu_finds_the_same(kind, axis, tmp_path):
    x = randn(100, 3, 700)
    reference, observer = kind(axis=axis), kind(axis=axis)
    mixed = kind(axis=axis).observe(x[:50])
    for part in (x[:50], 5 * x[50:]):
        reference.observe(part)
        observer.observe(part.cuda())
    assert observer.range()[0].is_cuda
    assert same_bits(tuple(end.cpu() for end in observer.range()), reference.range())
    assert mixed.observe(5 * x[50:].cuda()).range()[0].device.type == "cpu"
    same_state(mixed, reference)
    observer.save(tmp_path / "observer")
    same_state(load(tmp_path / "observer"), reference)
    if kind in HISTOGRAMS:
        assert same_bits(tuple(t.cpu() for t in observer.histogram()), reference.histogram())
    if kind in MERGEABLE:
        assert kind(axis=axis).merge(observer).range()[0].is_cuda


@pytest.mark.parametrize("kind", ALL)
def test_results_are_copies_without_a_gradient(kind):
    x = randn(50, 2).requires_grad_()
    for axis in (None, 1):
        observer = small(kind, axis=axis).observe(x)
        before = copy.deepcopy(observer)
        for t in (*observer.range(), *(observer.histogram() if kind in HISTOGRAMS else ())):
            assert not t.requires_grad
            t.zero_()
        same_state(observer, before)
