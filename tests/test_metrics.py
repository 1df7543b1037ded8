"""quantcourse.metrics against NumPy, SciPy, exact bootstrap distributions and the cluster-robust formula."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcourse.affine import (
    INT2,
    INT4,
    INT8,
    UINT4,
    UINT8,
    QParams,
    choose_qparams,
    fake_quantize,
    unclipped_codes,
)
from quantcourse.metrics import (
    Agreement,
    accuracy,
    compare,
    cosine,
    error_split,
    kl_divergence,
    mse,
    paired_difference,
    sqnr,
)

reproducible = settings(derandomize=True, deadline=None, max_examples=100, database=None)


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def exact_mse(x, y):
    pairs = zip(x.flatten().tolist(), y.flatten().tolist(), strict=True)
    return sum((Fraction(a) - Fraction(b)) ** 2 for a, b in pairs) / x.numel()


# --- How far apart ---------------------------------------------------------------------------------------------


def test_mse_and_sqnr_against_rationals():
    x = randn(20, 30)
    for y in (x + 0.1, x * 1.001, x.round(), x.to(torch.bfloat16), x.double() + 1e-9):
        assert mse(x, y) == pytest.approx(float(exact_mse(x, y)), rel=1e-12)
        power = exact_mse(x, torch.zeros_like(x))
        assert sqnr(x, y) == pytest.approx(10 * math.log10(power / exact_mse(x, y)), rel=1e-12)
    assert mse(torch.tensor([1, 2]), torch.tensor([1, 4])) == 2


def test_sqnr_is_a_ratio():
    x = randn(1000)
    y = x + 0.01 * randn(1000, seed=1)
    assert sqnr(x, x) == math.inf
    assert sqnr(x, -x) == pytest.approx(10 * math.log10(1 / 4))
    assert sqnr(x, torch.zeros_like(x)) == 0
    assert sqnr(1e30 * x.double(), 1e30 * y.double()) == pytest.approx(sqnr(x, y), rel=1e-9)
    # Ten times the error is 20 dB.
    assert sqnr(x, x + 10 * (y.double() - x.double())) == pytest.approx(sqnr(x, y) - 20, abs=1e-6)
    # float32 sums would lose the small difference between large values.
    far = torch.full((1000,), 1e4)
    assert sqnr(far, far + 2.0**-10) == pytest.approx(20 * math.log10(1e4 * 2**10), rel=1e-9)
    with pytest.raises(ValueError, match="x: need a value other than zero"):
        sqnr(torch.zeros(3), torch.ones(3))


@pytest.mark.parametrize("power", [-1000, -600, 600, 1020])
def test_sqnr_does_not_depend_on_the_unit(power):
    """Squares of these pass both ends of float64; the ratio does not."""
    x, y = (torch.randn(50, generator=torch.Generator().manual_seed(s), dtype=torch.float64) for s in (0, 1))
    assert sqnr(x * 2.0**power, y * 2.0**power) == pytest.approx(sqnr(x, y), rel=1e-12)


def test_squares_and_differences_beyond_float64_are_refused():
    huge = torch.tensor([1e200, 0.0], dtype=torch.float64)
    with pytest.raises(ValueError, match=r"x, y: need squares .* got a difference of 1e\+200: scale both down"):
        mse(huge, 0 * huge)
    assert mse(huge, huge) == 0
    end = torch.tensor([1.5e308], dtype=torch.float64)
    for function in (mse, sqnr, lambda x, y: compare({"a": (x, y)})):
        with pytest.raises(ValueError, match=r"need differences within float64, got values up to 1\.5e\+308"):
            function(end, -end)


def test_truth_values_count_as_0_and_1():
    a, b = torch.tensor([True, False, True, True]), torch.tensor([True, True, False, True])
    assert mse(a, b) == mse(a.float(), b.float()) == 0.5
    assert compare({"a": (a, b)}).rows[0].exact == 2


def test_zeros_are_counted():
    for function in (sqnr, cosine):
        with pytest.raises(ValueError, match=r"x: need a value other than zero.*, got 3 zeros"):
            function(torch.zeros(3), torch.ones(3))


def test_numpy_numbers_serve():
    x = torch.tensor([1.0, 2.0])
    assert compare({"a": [x, x + 1]}, step=np.float32(1)).rows[0].within == 2
    right, ids = torch.tensor([True, False, True]), torch.tensor([0, 0, 1])
    assert accuracy(right, ids, np.int64(50), np.uint8(7)) == accuracy(right, ids, 50, 7)


def test_a_bit_is_six_decibels():
    x = torch.rand(200_000, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = [sqnr(x, fake_quantize(x, choose_qparams(-1.0, 1.0, d, symmetric=False))) for d in (INT2, INT4, INT8)]
    assert found == pytest.approx([20 * math.log10(2**d.bits - 1) for d in (INT2, INT4, INT8)], abs=0.05)


@reproducible
@given(
    st.integers(0, 999),
    st.sampled_from([INT2, INT4, UINT4, INT8, UINT8]),
    st.floats(0.01, 4),
    st.booleans(),
    st.sampled_from([None, 0, 1]),
)
def test_error_split_by_each_element(seed, dtype, reach, symmetric, axis):
    x = randn(9, 13, seed=seed)
    low, high = (-reach, reach)
    if axis is not None:
        low, high = torch.full((x.shape[axis],), low), torch.linspace(0.1, high + 0.1, x.shape[axis])
    qp = choose_qparams(low, high, dtype, symmetric, axis=axis)
    clipping, rounding = error_split(x, qp)
    y, codes = fake_quantize(x, qp), unclipped_codes(x, qp)
    causes = {True: Fraction(0), False: Fraction(0)}
    for real, back, code in zip(*(t.flatten().tolist() for t in (x, y, codes)), strict=True):
        causes[not dtype.min <= code <= dtype.max] += (Fraction(real) - Fraction(back)) ** 2
    assert clipping == pytest.approx(float(causes[True] / x.numel()), rel=1e-12)
    assert rounding == pytest.approx(float(causes[False] / x.numel()), rel=1e-12)
    assert clipping + rounding == pytest.approx(mse(x, y), rel=1e-12)
    assert rounding <= float(qp.scale.max()) ** 2 / 4 * (1 + 1e-5)


def test_error_split_at_its_ends():
    x = randn(2000)
    whole = choose_qparams(x.min(), x.max(), INT8, symmetric=False)
    assert error_split(x, whole)[0] == 0  # nothing is clipped within the range
    codes_only = QParams(0.5, 0, INT8)
    assert error_split(torch.arange(-10, 10) * 0.5, codes_only) == (0, 0)
    # Half a step beyond the last code is still rounding; more is clipping.
    assert error_split(torch.tensor([3.5 + 0.2]), QParams(0.5, 0, INT4)) == (0, pytest.approx(0.04))
    assert error_split(torch.tensor([3.5 + 0.3]), QParams(0.5, 0, INT4)) == (pytest.approx(0.09), 0)
    assert error_split(torch.tensor([3.5, -7.0], dtype=torch.float64), QParams(0.5, 0, INT4)) == (4.5, 0)
    with pytest.raises(ValueError, match="x: need floating-point values"):
        error_split(torch.tensor([1]), codes_only)
    with pytest.raises(ValueError, match="qp: need QParams"):
        error_split(x, None)


def test_cosine():
    x, y = randn(6, 50), randn(6, 50, seed=1)
    expected = 1 - scipy.spatial.distance.cosine(x.flatten().double().numpy(), y.flatten().double().numpy())
    assert cosine(x, y) == pytest.approx(expected, rel=1e-12)
    for factor in (1e-30, 3.0, 1e30):
        assert cosine(x, factor * x) == pytest.approx(1, abs=1e-7)
        assert cosine(x.double(), -factor * x.double()) == pytest.approx(-1, abs=1e-12)
    assert cosine(torch.tensor([1, 0]), torch.tensor([0, 5])) == 0
    wide = x.double() * 1e200  # its square is beyond float64
    assert cosine(wide, y.double() * 1e-200) == pytest.approx(expected, rel=1e-12)
    # Rounded sums could give a little more than 1, which has no angle.
    parallel = [cosine(v, 3.7 * v) for v in (randn(7, seed=s).double() for s in range(200))]
    assert max(parallel) == 1 and min(parallel) == pytest.approx(1, abs=1e-15)
    opposite = [cosine(v, -3.7 * v) for v in (randn(7, seed=s).double() for s in range(200))]
    assert min(opposite) == -1
    for pair, name in (((torch.zeros(2), torch.ones(2)), "x"), ((torch.ones(2), torch.zeros(2)), "y")):
        with pytest.raises(ValueError, match=f"{name}: need a value other than zero"):
            cosine(*pair)


bins = st.lists(st.integers(0, 50), min_size=1, max_size=30)


@reproducible
@given(bins, bins)
def test_kl_against_scipy(p, q):
    size = min(len(p), len(q))
    p, q = p[:size], q[:size]
    if not sum(p) or not sum(q):
        return
    expected = scipy.stats.entropy(p, q)  # natural logarithm, both divided by their sums
    found = kl_divergence(torch.tensor(p), torch.tensor(q))
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert found >= -1e-15
    assert kl_divergence(torch.tensor(p) * 3.0, torch.tensor(q, dtype=torch.float64) / 7) == pytest.approx(
        found, abs=1e-12
    )


def test_kl_at_zeros():
    p = torch.tensor([0.5, 0.5, 0.0])
    assert kl_divergence(p, torch.tensor([0.25, 0.25, 0.5])) == pytest.approx(math.log(2))
    assert kl_divergence(p, torch.tensor([1.0, 0.0, 0.0])) == math.inf
    assert kl_divergence(p, p) == 0
    assert kl_divergence(torch.tensor([1.0, 0.0]), torch.tensor([5e-324, 1.0], dtype=torch.float64)) == pytest.approx(
        1074 * math.log(2)
    )
    square = torch.tensor([[1, 2], [3, 4]])
    assert kl_divergence(square, square.flip(0)) == pytest.approx(
        kl_divergence(*(t.flatten() for t in (square, square.flip(0))))
    )


@pytest.mark.parametrize(
    ("p", "message"),
    [
        (torch.tensor([-1.0, 2.0]), "p: need values of at least 0 .* got -1.0 and sum 1.0"),
        (torch.tensor([0, 0]), "p: need values .* got 0.0 and sum 0.0"),
        (torch.tensor([1.7e308, 1.7e308], dtype=torch.float64), "p: need values .* sum inf"),
        (torch.tensor([math.nan, 1.0]), "p: 1 of 2 values are NaN"),
        (torch.ones(3), r"q: need the shape of p, \(3,\), got \(2,\)"),
    ],
)
def test_bad_histograms(p, message):
    with pytest.raises(ValueError, match=message):
        kl_divergence(p, torch.ones(2))
    if "q: need" not in message:
        with pytest.raises(ValueError, match=message.replace("p:", "q:", 1)):
            kl_divergence(torch.ones(2), p)


@pytest.mark.parametrize("function", [mse, sqnr, cosine])
@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1.0], torch.ones(1), "x: need a torch tensor, got a list"),
        (torch.ones(1), 1.0, "y: need a torch tensor, got a float"),
        (torch.ones(2), torch.ones(1), r"y: need the shape of x, \(2,\), got \(1,\)"),
        (torch.ones(6), torch.ones(2, 3), r"y: need the shape of x, \(6,\), got \(2, 3\)"),
        (torch.ones(0), torch.ones(0), "x: need at least one value"),
        (torch.ones(2), torch.tensor([math.inf, 1.0]), "y: 1 of 2 values are NaN or infinite"),
        (torch.tensor([1j]), torch.ones(1), "x: need floating-point values, got torch.complex64"),
        (torch.tensor([2**53 + 1]), torch.ones(1), r"x: need integers below 2\*\*53.*got one of about 9\.0"),
        (torch.ones(1, device="meta"), torch.ones(1), "x: need a dense tensor with data, got one on the meta device"),
        (torch.ones(2), torch.eye(2).to_sparse()[0], "y: need a dense tensor with data, got .*sparse_coo"),
        (torch.ones(2), torch.ones(2, dtype=torch.int8, device="meta"), "y: need a dense tensor with data"),
    ],
)
def test_bad_tensors(function, x, y, message):
    with pytest.raises(ValueError, match=message):
        function(x, y)


# --- compare ---------------------------------------------------------------------------------------------------


def test_compare_counts():
    x = torch.tensor([[1, 2, 3], [4, 5, 6]])
    y = torch.tensor([[1, 3, 3], [2, 5, 11]])
    table = compare({"same": (x, x), "codes": (x, y.to(torch.int8)), "floats": (x / 2, y / 2)}, step=2)
    assert table.rows == (
        Agreement("same", 6, 6, 6, 0.0),
        Agreement("codes", 6, 3, 5, 5.0),
        Agreement("floats", 6, 3, 5, 2.5),
    )
    assert table.step == 2
    # Codes of an unsigned type do not wrap in the difference.
    (row,) = compare({"u": (torch.tensor([0], dtype=torch.uint8), torch.tensor([255], dtype=torch.uint8))}).rows
    assert row.largest == 255
    edge = compare({"f": (torch.tensor([0.0, 0.0, 0.0]), torch.tensor([0.25, 0.5, -0.0]))}, step=0.25).rows[0]
    assert (edge.exact, edge.within, edge.largest) == (1, 2, 0.5)


def test_a_printed_line():
    x = torch.zeros(100_000, dtype=torch.int32)
    y = x.clone()
    y[0] = 3
    long = "a.very.long.name." * 5 + "end"
    text = str(compare({"conv": (x, x), "almost": (x, y), long: (x, y + 1)}))
    heading, conv, almost, other = text.split("\n")
    assert heading.split() == ["tensor", "elements", "exact", "within", "1", "largest", "difference"]
    assert conv.split() == ["conv", "100000", "100.00", "%", "100.00", "%", "0"]
    # One in 100,000 is off: that is not 100 %.
    assert almost.split() == ["almost", "100000", "99.99", "%", "99.99", "%", "3"]
    assert other.split() == ["…" + long[-25:], "100000", "0.00", "%", "99.99", "%", "4"]
    assert {len(line) for line in text.split("\n")} == {88}


@pytest.mark.parametrize(
    ("tensors", "step", "message"),
    [
        ({}, 1, "tensors: need at least one pair"),
        ({"a": (torch.ones(1), torch.ones(2))}, 1, r"a\[1\]: need the shape of a\[0\]"),
        ({"a": (torch.ones(1), torch.tensor([math.nan]))}, 1, r"a\[1\]: 1 of 1 values are NaN"),
        ({"a": (torch.ones(1), torch.ones(1))}, 0, "step: need a positive finite number, got 0"),
        ({"a": (torch.ones(1), torch.ones(1))}, math.nan, "step: .* got nan"),
        ({"a": (torch.ones(1), torch.ones(1))}, "1", "step: .* got '1'"),
        ({"a": (torch.ones(1), torch.ones(1))}, True, "step: .* got True"),
        ([(torch.ones(1), torch.ones(1))], 1, "tensors: need a dict of names and pairs, got a list"),
        ({1: (torch.ones(1), torch.ones(1))}, 1, "tensors: need names that are strings, got 1"),
        ({"a": torch.ones(2, 3)}, 1, "a: need a tuple of two tensors, got a Tensor"),
        ({"a": (torch.ones(1),)}, 1, "a: need a tuple of two tensors, got a tuple of 1"),
        ({"a": "xy"}, 1, "a: need a tuple of two tensors, got a str"),
    ],
)
def test_bad_comparisons(tensors, step, message):
    with pytest.raises(ValueError, match=message):
        compare(tensors, step)


# --- How sure is an accuracy? ----------------------------------------------------------------------------------


def exact_bootstrap(values, clusters):
    """The standard deviation of the mean over all equally likely draws of as many clusters."""
    groups = [[v for v, c in zip(values, clusters, strict=True) if c == g] for g in sorted(set(clusters))]
    means = []
    for drawn in itertools.product(groups, repeat=len(groups)):
        images = list(itertools.chain(*drawn))
        means.append(sum(images) / len(images))
    return float(np.std(means))


@pytest.mark.parametrize(
    ("a", "b", "clusters"),
    [
        ([1, 1, 0, 1, 0], [0, 1, 0, 0, 1], [0, 0, 5, 5, 9]),
        ([1, 0, 1, 1, 1, 0, 0, 1], [0, 0, 0, 1, 1, 1, 1, 0], [3, 3, 3, 3, 1, -2, 7, 7]),  # of very different sizes
        ([0.5, 2.0, -1.0, 4.0], [0.0, 1.0, 1.0, 0.0], [0, 1, 2, 3]),
        ([1, 1, 0, 0, 1], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4]),
    ],
)
def test_paired_difference_against_all_draws(a, b, clusters):
    difference = [p - q for p, q in zip(a, b, strict=True)]
    exact = exact_bootstrap(difference, clusters)
    ids = torch.tensor(clusters)
    mean, error = paired_difference(torch.tensor(a), torch.tensor(b), ids, resamples=40_000)
    assert mean == sum(difference) / len(difference)
    assert error == pytest.approx(exact, rel=0.03)
    # The order of the images and the names of the originals are of no account.
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(3))
    assert paired_difference(
        torch.tensor(a)[order], torch.tensor(b)[order], ids[order] * 10 + 4, resamples=40_000
    ) == pytest.approx((mean, error))
    swapped = paired_difference(torch.tensor(b), torch.tensor(a), ids, resamples=40_000)
    assert swapped == pytest.approx((-mean, error))


def correlated(seed, originals=400):
    """Answers to 1 to 30 views of each original, right or wrong together."""
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 31, originals)
    clusters = np.repeat(np.arange(originals), sizes)
    hard = rng.beta(8, 1, originals)[clusters]
    return torch.from_numpy(rng.random(len(clusters)) < hard), torch.from_numpy(clusters)


@pytest.mark.parametrize("seed", range(3))
def test_against_the_cluster_robust_formula(seed):
    """sqrt(sum over clusters of (sum of residuals)^2) / N, as for a regression on a constant."""
    correct, clusters = correlated(seed)
    share, error = accuracy(correct, clusters, resamples=8000)
    residuals = correct.double() - share
    sums = torch.zeros(400, dtype=torch.float64).index_add(0, clusters, residuals)
    robust = float(sums.square().sum().sqrt()) / len(correct)
    assert share == float(correct.double().mean())
    assert error == pytest.approx(robust, rel=0.05)
    # Views of one original taken for independent give an error that is far too small.
    alone = float(correct.double().std()) / math.sqrt(len(correct))
    assert error > 1.3 * alone
    every_image = accuracy(correct, torch.arange(len(correct)), resamples=1000)[1]
    assert every_image == pytest.approx(alone, rel=0.1)


def test_pairs_cancel_what_they_share():
    correct, clusters = correlated(5)
    other = correct.clone()
    other[::97] = False
    mean, error = paired_difference(correct, other, clusters)
    assert mean == pytest.approx(accuracy(correct, clusters)[0] - accuracy(other, clusters)[0])
    assert 0 < error < accuracy(correct, clusters)[1] / 2
    assert paired_difference(correct, correct, clusters) == (0, 0)
    assert paired_difference(correct, other, clusters) == paired_difference(correct, other, clusters)
    assert paired_difference(correct, other, clusters, seed=1)[1] != error
    assert paired_difference(correct, other, clusters, seed=1)[1] == pytest.approx(error, rel=0.1)


def test_draws_in_portions_are_the_same_draws(monkeypatch):
    correct, clusters = correlated(1)
    whole = accuracy(correct, clusters, resamples=101)
    monkeypatch.setattr("quantcourse.metrics.DRAWS_AT_ONCE", 400 * 7)
    assert accuracy(correct, clusters, resamples=101) == whole


RIGHT, IDS = torch.tensor([True, False, True]), torch.tensor([0, 0, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"a": [1, 0, 1]}, "a: need a 1-D tensor, one value an image, got list"),
        ({"a": torch.ones(3, 1)}, r"a: need a 1-D tensor, one value an image, got shape \(3, 1\)"),
        ({"b": torch.ones(2)}, r"b: need the shape of a, \(3,\), got \(2,\)"),
        ({"b": torch.tensor([1, math.nan, 0])}, "b: 1 of 3 values are NaN"),
        ({"a": torch.ones(0)}, "a: need at least one value"),
        ({"clusters": [0, 0, 1]}, "clusters: need a tensor of integers, got list"),
        ({"clusters": torch.tensor([0.0, 0, 1])}, "clusters: need a tensor of integers, got torch.float32"),
        ({"clusters": RIGHT}, "clusters: need a tensor of integers, got torch.bool"),
        ({"clusters": torch.tensor([0, 1])}, r"clusters: need one an image, shape \(3,\), got \(2,\)"),
        ({"clusters": torch.tensor([4, 4, 4])}, "clusters: need at least two"),
        ({"resamples": 1}, "resamples: need an integer from 2 to .*, got 1"),
        ({"resamples": 10.0}, "resamples: .* got 10.0"),
        ({"seed": -1}, "seed: need an integer from 0 to 9223372036854775807, got -1"),
        ({"seed": None}, "seed: .* got None"),
    ],
)
def test_bad_pairs(change, message):
    with pytest.raises(ValueError, match=message):
        paired_difference(**({"a": RIGHT, "b": RIGHT, "clusters": IDS} | change))


@pytest.mark.parametrize("correct", [[True], torch.ones(3), torch.tensor([1, 0, 1])])
def test_correct_are_truth_values(correct):
    with pytest.raises(ValueError, match="correct: need a tensor of truth values, got"):
        accuracy(correct, IDS)
    with pytest.raises(ValueError, match="correct: need a 1-D tensor"):
        accuracy(RIGHT[None], IDS)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_measures_the_same():
    x, y = randn(50, 20), randn(50, 20, seed=1)
    qp = choose_qparams(x.amin(0), x.amax(0) / 2, INT4, symmetric=False, axis=1)
    for function in (mse, sqnr, cosine):
        assert function(x.cuda(), y.cuda()) == pytest.approx(function(x, y), rel=1e-12)
    assert error_split(x.cuda(), qp) == pytest.approx(error_split(x, qp), rel=1e-12)
    correct, clusters = correlated(0)
    assert accuracy(correct.cuda(), clusters.cuda()) == accuracy(correct, clusters)


def test_history_of_tensors_is_no_matter():
    x, y = torch.rand(3).requires_grad_(), torch.tensor([1.0, 2.0, 4.0])
    for function in (mse, sqnr, cosine, kl_divergence):
        function(x, y), function(y, x)
    error_split(x, QParams(0.5, 0, INT8))
    paired_difference(x, y, torch.tensor([0, 1, 2]))
    compare({"x": (x, y)})


def test_error_of_two_draws():
    """Of two images one right: means of 0, 1/2 and 1, so a standard deviation of 0, 1/2 or 1 over sqrt(2)."""
    right, ids = torch.tensor([True, False]), torch.tensor([0, 1])
    found = {round(accuracy(right, ids, resamples=2, seed=s)[1], 6) for s in range(20)}
    assert found == {0.0, round(0.5**1.5, 6), round(0.5**0.5, 6)}


def test_seeds_end():
    with pytest.raises(ValueError, match="seed: need an integer from 0"):
        accuracy(torch.tensor([True, False]), torch.tensor([0, 1]), seed=2**63)
    accuracy(torch.tensor([True, False]), torch.tensor([0, 1]), resamples=2, seed=2**63 - 1)


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint16])
def test_clusters_of_other_types(dtype):
    with pytest.raises(ValueError, match="clusters: need a tensor of integers, got"):
        accuracy(torch.tensor([True, False]), torch.tensor([0, 1]).to(dtype))


def test_no_integers():
    empty = torch.zeros(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="x: need at least one value"):
        mse(empty, empty)


def test_bootstrap_leaves_the_generator_alone():
    with torch.random.fork_rng():
        torch.manual_seed(123)
        before = torch.get_rng_state()
        accuracy(torch.tensor([True, False]), torch.tensor([0, 1]), resamples=50)
        assert torch.equal(torch.get_rng_state(), before)
