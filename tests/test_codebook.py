"""quantcourse.codebook against exhaustive search: every pattern of signs, every partition, every level, every word."""

import itertools
import math
from dataclasses import FrozenInstanceError
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from quantcourse import codebook
from quantcourse.codebook import (
    Codebook,
    PackedSigns,
    PowersOfTwo,
    ScaledSigns,
    binarize,
    kmeans_quantize,
    log2_quantize,
    pack_signs,
    shift_linear,
    ternarize,
    xnor_matmul,
)

DATA = {
    "normal": lambda n, g: torch.randn(n, generator=g),
    "heavy tails": lambda n, g: torch.randn(n, generator=g) ** 3,
    "one-sided": lambda n, g: torch.rand(n, generator=g) + 1,
    "far from zero": lambda n, g: torch.randn(n, generator=g) + 1000,
    "with repeats": lambda n, g: torch.randint(-3, 4, (n,), generator=g) / 2,
    "tiny": lambda n, g: torch.randn(n, generator=g) * 1e-30,
    "all equal": lambda n, g: torch.full((n,), -0.3),
    "all zero": lambda n, g: torch.zeros(n),
}
each_kind = pytest.mark.parametrize("kind", DATA)
weights = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40).map(torch.tensor)


def sample(kind, n, seed=0):
    return DATA[kind](n, torch.Generator().manual_seed(seed))


def squared_error(w, record):
    return ((w.double() - record.dequantize().double()) ** 2).sum().item()


def least_error(w, patterns):
    """The least squared error over all patterns of codes, each with the best scale, by projection."""
    w, patterns = w.double(), torch.tensor(patterns).double()
    norms = patterns.square().sum(1).clamp(min=1)
    return (w.square().sum() - (patterns @ w).square() / norms).min().item()


# --- Signs, and signs and zero ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("quantizer", "codes"), [(binarize, (-1, 1)), (ternarize, (-1, 0, 1))])
@pytest.mark.parametrize("n", range(1, 8))
@each_kind
def test_no_pattern_with_any_scale_is_nearer(quantizer, codes, n, kind):
    patterns = list(itertools.product(codes, repeat=n))
    for seed in range(4):
        w = sample(kind, n, seed)
        record = quantizer(w, axis=None)
        assert squared_error(w, record) <= least_error(w, patterns) + 1e-6 * w.double().square().sum().item()


def test_binary_scale_is_the_mean_magnitude_and_zero_counts_as_plus():
    w = torch.tensor([[0.25, -0.75, 0.0], [-0.0, -3.0, 6.0]])
    b = binarize(w)
    assert b.codes.tolist() == [[1, -1, 1], [1, -1, 1]]
    assert b.scale.tolist() == [np.float32(1 / 3), 3.0]
    assert b.codes.dtype == torch.int8
    assert b.scale.dtype == b.dequantize().dtype == torch.float32


def test_ternary_codes_and_scale_by_hand():
    # Of 4, 3, 1, 0 the two largest: 7^2 / 2 = 24.5 beats 4^2 / 1 = 16 and 8^2 / 3 = 21.3.
    t = ternarize(torch.tensor([1.0, -4.0, 0.0, 3.0]), axis=None)
    assert t.codes.tolist() == [0, -1, 0, 1]
    assert t.scale.item() == 3.5


@each_kind
def test_ternary_keeps_what_is_above_half_its_scale(kind):
    # The condition of an optimum: a weight is nearer to the scale than to zero if and only if it is kept.
    w = sample(kind, 2000).reshape(20, 100)
    t = ternarize(w)
    half = t.scale[:, None] / 2
    assert (w.abs()[t.codes != 0] >= (half * (1 - 1e-6)).expand_as(w)[t.codes != 0]).all()
    assert (w.abs()[t.codes == 0] <= (half * (1 + 1e-6)).expand_as(w)[t.codes == 0]).all()
    assert torch.equal(t.codes[t.codes != 0].float(), w.sign()[t.codes != 0])


def test_the_usual_ternary_threshold_is_near_but_never_better():
    for kind, least, most in (("normal", 1.001, 1.05), ("heavy tails", 1.1, 10)):
        worse = []
        for seed in range(100):
            w = sample(kind, 144, seed).double()
            kept = w.abs() > 0.7 * w.abs().mean()
            usual = (w - w.sign() * kept * w.abs()[kept].mean()).square().sum().item()
            worse.append(usual / squared_error(w, ternarize(w, axis=None)))
        assert min(worse) >= 1 - 1e-6
        assert least < np.mean(worse) < most


@given(weights, st.integers(-20, 20))
def test_scales_follow_the_weights(w, exponent):
    factor = 2.0**exponent
    for quantizer in (binarize, ternarize):
        one, other = quantizer(w, axis=None), quantizer(factor * w, axis=None)
        if w.abs().max() > 1e-20:  # else the product may be subnormal
            assert torch.equal(one.codes * (w != 0), other.codes * (w != 0))
            assert other.scale.item() == pytest.approx(factor * one.scale.item(), rel=1e-6)
        if quantizer is ternarize:
            assert torch.equal(quantizer(-w, axis=None).codes, -one.codes)


# --- Powers of two ----------------------------------------------------------------------------------------------


def levels_by_definition(w, bits):
    """Zero and plus or minus the powers of two, down from the one nearest to the largest magnitude."""
    largest = Fraction(w.abs().max().item())
    top = max(range(-149, 128), key=lambda e: (-abs(largest - Fraction(2) ** e), e))
    magnitudes = [Fraction(2) ** (top - k) for k in range(2 ** (bits - 1) - 1)]
    return sorted({Fraction(0), *magnitudes, *(-m for m in magnitudes)})


def nearest(x, levels):
    """By definition, ties away from zero."""
    return min(levels, key=lambda level: (abs(Fraction(x) - level), -abs(level)))


@pytest.mark.parametrize("bits", range(2, 7))
@each_kind
def test_nearest_level_in_exact_arithmetic(bits, kind):
    w = sample(kind, 300)
    if w.any():
        borders = [float((a + b) / 2) for a, b in itertools.pairwise(levels_by_definition(w, bits))]
        w = torch.cat([w, torch.tensor(borders), torch.nextafter(torch.tensor(borders), torch.tensor(0.0))])
    levels = levels_by_definition(w, bits) if w.any() else [Fraction(0)]
    found = log2_quantize(w, bits).dequantize()
    expected = [float(nearest(x, levels)) for x in w.tolist()]
    assert found.tolist() == expected


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), st.integers(2, 6))
def test_any_float32_gets_the_nearest_level(values, bits):
    w = torch.tensor(values)
    p = log2_quantize(w, bits)
    if not w.any():
        assert not p.codes.any()
        return
    levels = [v for v in levels_by_definition(w, bits) if Fraction(np.float32(float(v)).item()) == v]
    assert p.dequantize().tolist() == [float(nearest(x, levels)) for x in w.tolist()]


def test_relative_error_is_at_most_a_third_and_reaches_it():
    top, lowest = 4.0, 4.0 / 2**14
    x = torch.logspace(math.log2(lowest), math.log2(top), 100_001, base=2).clamp(lowest, top)
    x = torch.cat([x, torch.tensor([1.5, 3.0, 0.75])])
    error = (log2_quantize(x, 5).dequantize() - x).abs() / x
    assert error.max().item() == pytest.approx(1 / 3, abs=1e-7)
    rounded_logarithm = (torch.exp2(torch.log2(x).round()) - x).abs() / x
    assert rounded_logarithm.max().item() == pytest.approx(math.sqrt(2) - 1, abs=1e-3)


def test_codes_count_up_from_the_lowest_exponent():
    p = log2_quantize(torch.tensor([1.0, 0.5, 0.25, 0.125, 0.0625, 0.062, 0.0, -1.0, -0.125]), 4)
    assert p.lowest.item() == -6
    assert p.codes.tolist() == [7, 6, 5, 4, 3, 3, 0, -7, -4]
    assert p.codes.dtype == torch.int8
    # Two bits: zero and one magnitude.
    assert log2_quantize(torch.tensor([1.4, 0.5, 0.49, -0.8]), 2).dequantize().tolist() == [1.0, 1.0, 0.0, -1.0]


def test_ends_of_float32():
    huge = torch.tensor([3.4e38, -3.4e38, 1.0])
    assert log2_quantize(huge, 4).dequantize().tolist() == [2.0**127, -(2.0**127), 0.0]
    tiny = torch.tensor([2.0**-149, -(2.0**-140), 0.0])  # subnormal
    assert log2_quantize(tiny, 6).dequantize().tolist() == [2.0**-149, -(2.0**-140), 0.0]


@pytest.mark.parametrize("bits", range(2, 7))
@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8, torch.int16, torch.int64])
def test_shifts_equal_products(bits, dtype):
    g = torch.Generator().manual_seed(bits)
    w = torch.randn(7, 33, generator=g)
    w[2] = 0
    p = log2_quantize(w, bits)
    low, high = (0, 256) if dtype == torch.uint8 else (-128, 128)
    q = torch.randint(low, high, (5, 33), generator=g).to(dtype)
    exact = [
        [sum(Fraction(a) * Fraction(b) for a, b in zip(row, out, strict=True)) for out in p.dequantize().tolist()]
        for row in q.tolist()
    ]
    found = shift_linear(q, p)
    assert found.dtype == torch.int64
    unit = Fraction(2) ** int(p.lowest)
    assert [[v * unit for v in row] for row in found.tolist()] == exact


def test_shifts_with_an_exponent_for_each_output():
    g = torch.Generator().manual_seed(1)
    w = torch.randn(4, 9, generator=g) * torch.tensor([1.0, 30.0, 1e-3, 0.2])[:, None]
    p = log2_quantize(w, 4, axis=0)
    q = torch.randint(-128, 128, (3, 9), generator=g)
    expected = q.double() @ p.dequantize().double().T
    assert torch.equal(shift_linear(q, p) * torch.exp2(p.lowest.double()), expected)


# --- k-means ----------------------------------------------------------------------------------------------------


def least_over_partitions(w, count):
    """Squared error of the best cut of the sorted values into at most ``count`` runs, by trying all."""
    x, n = np.sort(w.double().numpy()), len(w)
    cuts = (c for k in range(1, min(count, n) + 1) for c in itertools.combinations(range(1, n), k - 1))
    return min(sum(((run - run.mean()) ** 2).sum() for run in np.split(x, c)) for c in cuts)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 11])
@pytest.mark.parametrize("bits", [1, 2, 3])
@each_kind
def test_no_partition_is_better(n, bits, kind):
    for seed in range(3):
        w = sample(kind, n, seed)
        found = squared_error(w, kmeans_quantize(w, bits))
        scale = w.double().square().sum().item()
        assert found <= least_over_partitions(w, 2**bits) * (1 + 1e-5) + 1e-13 * scale


@pytest.mark.parametrize("bits", [1, 3, 4, 6])
@each_kind
def test_lloyds_two_conditions(bits, kind):
    w = sample(kind, 1500)
    k = kmeans_quantize(w, bits)
    levels = k.levels.double()
    assert (levels.diff() > 0).all()
    distance = (w.double()[:, None] - levels).abs()
    assert torch.equal(distance.gather(1, k.codes.long()[:, None])[:, 0], distance.min(1).values)
    for code, level in enumerate(levels):
        assert w[k.codes == code].double().mean().item() == pytest.approx(level.item(), rel=1e-6, abs=1e-42)


@pytest.mark.parametrize("kind", ["normal", "heavy tails", "one-sided"])
@pytest.mark.parametrize("bits", [2, 4])
def test_no_start_of_lloyds_iteration_ends_lower(kind, bits):
    w = sample(kind, 400)
    peer = KMeans(2**bits, n_init=20, random_state=0).fit(w.numpy()[:, None])
    assert squared_error(w, kmeans_quantize(w, bits)) <= peer.inertia_ * (1 + 1e-6)


def test_cuts_are_as_good_far_from_zero():
    values = sample("normal", 3000).double().sort().values

    def error(cuts):
        return sum((run - run.mean()).square().sum().item() for run in values.tensor_split(cuts[1:-1]))

    near, far = (codebook._best_intervals(values + shift, 16) for shift in (0, 1e6))
    assert error(far) == pytest.approx(error(near), rel=1e-9)


def test_few_different_values_are_kept_exactly():
    w = torch.tensor([[0.5, -1.0, 0.5], [7.0, 7.0, -1.0]])
    k = kmeans_quantize(w, 4)
    assert k.levels.tolist() == [-1.0, 0.5, 7.0]
    assert torch.equal(k.dequantize(), w)
    assert (k.codes.dtype, k.codes.shape) == (torch.uint8, w.shape)
    all_codes = torch.arange(256.0)
    assert torch.equal(kmeans_quantize(all_codes, 8).codes.float(), all_codes)


@given(weights, st.integers(1, 4))
def test_more_levels_never_hurt(w, bits):
    coarse, fine = squared_error(w, kmeans_quantize(w, bits)), squared_error(w, kmeans_quantize(w, bits + 1))
    assert fine <= coarse + 1e-12 * w.double().square().sum().item()


def test_k_means_beats_every_other_mapping_of_as_many_levels():
    for kind in ("normal", "heavy tails", "one-sided"):
        w = sample(kind, 3000)
        best = {bits: squared_error(w, kmeans_quantize(w, bits)) for bits in (1, 2, 3, 4)}
        assert best[1] <= squared_error(w, binarize(w, axis=None)) * (1 + 1e-6)
        assert best[2] <= squared_error(w, ternarize(w, axis=None)) * (1 + 1e-6)
        for bits in (2, 3, 4):
            assert best[bits] <= squared_error(w, log2_quantize(w, bits)) * (1 + 1e-6)


# --- One scale for each index of an axis ------------------------------------------------------------------------


QUANTIZERS = {"binary": binarize, "ternary": ternarize, "log2": lambda w, axis: log2_quantize(w, 3, axis)}


@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
@pytest.mark.parametrize("shape", [(6,), (4, 5), (3, 4, 2, 2)])
def test_an_axis_is_a_loop_over_its_slices(quantizer, shape):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for axis in range(-w.ndim, w.ndim):
        found = quantizer(w, axis)
        assert found.axis == axis % w.ndim
        table = found.scale if hasattr(found, "scale") else found.lowest
        assert table.shape == (shape[axis],)
        alone = [quantizer(part, None).dequantize() for part in w.unbind(axis)]
        assert torch.equal(found.dequantize(), torch.stack(alone, dim=axis))


@pytest.mark.parametrize("quantizer", [*QUANTIZERS.values(), lambda w, axis: kmeans_quantize(w, 3)])
def test_layout_and_type_of_the_weights_do_not_matter(quantizer):
    w = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)).half().float()
    expected = quantizer(w, 0).dequantize()
    for same in (w.to(memory_format=torch.channels_last), w.double(), w.half(), w.clone().requires_grad_()):
        found = quantizer(same, 0).dequantize()
        assert torch.equal(found, expected)
        assert not found.requires_grad
    assert torch.equal(quantizer(w.transpose(0, 1), 1).dequantize(), expected.transpose(0, 1))
    single = quantizer(torch.tensor(-0.3), None)
    assert single.codes.shape == ()


# --- What is stored ---------------------------------------------------------------------------------------------


def test_sizes_are_those_of_packed_codes_and_tables():
    w = torch.randn(6, 7, generator=torch.Generator().manual_seed(0))
    b, t = binarize(w), ternarize(w)
    p, k = log2_quantize(w, 3, axis=0), kmeans_quantize(w, 3)
    assert b.nbytes == len(np.packbits(b.codes.numpy().ravel() > 0)) + 6 * 4
    digits = np.pad(t.codes.numpy().ravel() + 1, (0, -w.numel() % 5)).reshape(-1, 5)
    assert (digits @ [1, 3, 9, 27, 81]).max() < 256  # five ternary codes make one byte
    assert t.nbytes == len(digits) + 6 * 4
    assert p.nbytes == math.ceil(42 * 3 / 8) + 6 * 2
    assert k.nbytes == math.ceil(42 * 3 / 8) + 8 * 4
    assert k.bits_per_weight == 8 * k.nbytes / 42
    assert binarize(torch.randn(1000), axis=None).bits_per_weight == 1.032


def test_records_are_frozen():
    w = torch.randn(3, 3)
    for record in (binarize(w), ternarize(w), log2_quantize(w, 3), kmeans_quantize(w, 2), pack_signs(w.sign())):
        with pytest.raises(FrozenInstanceError):
            record.codes = None


# --- XNOR and counting ------------------------------------------------------------------------------------------


def signs(*shape, seed=0):
    return torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)) * 2 - 1


@pytest.mark.parametrize("k", [*range(1, 131), 191, 192, 193, 1000])
def test_every_length_equals_the_product_of_signs(k):
    a, b = signs(3, k, seed=k), signs(k, 4, seed=k + 1)
    found = xnor_matmul(a, b)
    assert found.dtype == torch.int32
    assert torch.equal(found.long(), a @ b)


def test_every_pair_of_short_vectors():
    every = torch.tensor(list(itertools.product((-1, 1), repeat=6)))
    assert torch.equal(xnor_matmul(every, every.T).long(), every @ every.T)


@pytest.mark.parametrize(
    ("m", "k", "n"),
    [(1, 1, 1), (300, 70, 301), (1, 70_000, 1), (2, 200, 70_000), (70_000, 65, 1), (1, 5_000_000, 2), (513, 513, 129)],
)
def test_every_shape_whatever_the_blocks(m, k, n):
    a, b = signs(m, k, seed=1), signs(k, n, seed=2)
    assert torch.equal(xnor_matmul(a, b).double(), a.double() @ b.double())


def test_extremes():
    ones = torch.ones(1, 100_000)
    assert xnor_matmul(ones, ones.T).item() == 100_000
    assert xnor_matmul(ones, -ones.T).item() == -100_000


def test_packed_operands_and_every_type_of_sign():
    a, b = signs(5, 77), signs(77, 6, seed=3)
    expected = a @ b
    for x, y in itertools.product((a, pack_signs(a)), (b, pack_signs(b.T))):
        assert torch.equal(xnor_matmul(x, y).long(), expected)
    for dtype in (torch.int8, torch.int16, torch.float16, torch.bfloat16, torch.float32, torch.float64):
        assert torch.equal(xnor_matmul(a.to(dtype), b.to(dtype)).long(), expected)
    assert torch.equal(xnor_matmul(a.T.contiguous().T, b.T.contiguous().T).long(), expected)


def test_a_word_holds_64_signs_in_order():
    for i in (0, 1, 7, 8, 63):
        one_negative = torch.ones(1, 64, dtype=torch.int8)
        one_negative[0, i] = -1
        assert pack_signs(one_negative).words.item() % 2**64 == 2**i
    assert pack_signs(-torch.ones(2, 65)).words.tolist() == [[-1, -1], [1, 1]]


@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1))
def test_both_ways_of_counting_bits(values):
    expected = [(v % 2**64).bit_count() for v in values]
    x = torch.tensor(values)
    assert codebook._count_bits(x).tolist() == expected
    assert codebook._count_bits_by_adding(x).tolist() == expected  # the way on a GPU


def test_products_on_an_accelerator_would_use_the_other_count(monkeypatch):
    monkeypatch.setattr(codebook, "_count_bits", codebook._count_bits_by_adding)
    a, b = signs(50, 333), signs(333, 20, seed=4)
    assert torch.equal(xnor_matmul(a, b).long(), a @ b)


def test_a_binary_layer_is_an_xnor_product_and_two_scales():
    g = torch.Generator().manual_seed(0)
    w, x = torch.randn(10, 100, generator=g), torch.randn(4, 100, generator=g)
    bw, bx = binarize(w), binarize(x)
    found = xnor_matmul(bx.codes, bw.codes.T) * bw.scale * bx.scale[:, None]
    torch.testing.assert_close(found, bx.dequantize() @ bw.dequantize().T)


# --- Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", [binarize, ternarize, log2_quantize, kmeans_quantize])
@pytest.mark.parametrize(
    ("w", "message"),
    [
        ([1.0], "^w: need a torch tensor, got a list"),
        (np.ones(3), "^w: need a torch tensor, got a ndarray"),
        (torch.ones(3, dtype=torch.int32), "^w: need floating-point"),
        (torch.zeros(0, 3), r"^w: need at least one value, got shape \(0, 3\)"),
        (torch.tensor([[1.0, math.nan]]), "^w: 1 of 2 values are NaN or infinite"),
        (torch.tensor([[1.0, -math.inf]]), "^w: 1 of 2 values are NaN or infinite"),
        (torch.tensor([[1e300]], dtype=torch.float64), r"^w: need values within float32, got up to 1e\+300"),
    ],
)
def test_weights_errors(function, w, message):
    more = (3,) if function in (log2_quantize, kmeans_quantize) else ()
    with pytest.raises(ValueError, match=message):
        function(w, *more)


@pytest.mark.parametrize("axis", [2, -3, 1.0, True, "0", (0,)])
@pytest.mark.parametrize("quantizer", QUANTIZERS.values(), ids=QUANTIZERS)
def test_axis_errors(quantizer, axis):
    with pytest.raises(ValueError, match=r"^axis: need .*, got "):
        quantizer(torch.ones(2, 2), axis)
    with pytest.raises(ValueError, match=r"^axis: need None for a single 0-d number, got 0"):
        quantizer(torch.tensor(1.0), 0)


@pytest.mark.parametrize(("function", "ends"), [(log2_quantize, (2, 6)), (kmeans_quantize, (1, 8))])
def test_bits_errors(function, ends):
    for bits in (ends[0] - 1, ends[1] + 1, -1, 3.0, True, "3", None):
        with pytest.raises(ValueError, match=f"^bits: need an integer from {ends[0]} to {ends[1]}, got "):
            function(torch.ones(3), bits)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (torch.tensor([[1, 0, -1, 2]]), torch.ones(4, 1), "^a: 2 of 4 values are not -1 or"),
        (torch.ones(1, 4), torch.full((4, 1), 0.5), "^b: 4 of 4 values are not -1 or"),
        (torch.tensor([[math.nan]]), torch.ones(1, 1), "^a: 1 of 1 values"),
        (torch.ones(4), torch.ones(4, 1), r"^a: need a matrix of -1 and \+1, got \(4,\)"),
        (torch.ones(1, 4), torch.ones(4), r"^b: need a matrix of -1 and \+1, got \(4,\)"),
        (torch.ones(1, 4), torch.ones(2, 4, 1), r"^b: need a matrix of -1 and \+1, got \(2, 4, 1\)"),
        (torch.ones(0, 4), torch.ones(4, 1), r"^a: need a matrix of -1 and \+1, got \(0, 4\)"),
        (torch.ones(1, 4), [[1]], "^b: need a matrix of -1 and .1, got list"),
        (torch.ones(1, 4), torch.ones(5, 1), "^a, b: need vectors of one length, got 4 and 5"),
        (pack_signs(torch.ones(2, 4)), pack_signs(torch.ones(2, 5)), "^a, b: need vectors of one length, got 4 and 5"),
    ],
)
def test_xnor_errors(a, b, message):
    with pytest.raises(ValueError, match=message):
        xnor_matmul(a, b)


W = log2_quantize(torch.ones(2, 3), 6)


@pytest.mark.parametrize(
    ("q", "w", "message"),
    [
        (torch.ones(1, 3), W, "^q: need integer codes, got torch.float32"),
        ([[1, 2, 3]], W, "^q: need integer codes, got list"),
        (torch.ones(1, 3, dtype=torch.bool), W, "^q: need integer codes, got torch.bool"),
        (torch.ones(1, 4, dtype=torch.int8), W, r"^q: need shape \(batch, 3\), got \(1, 4\)"),
        (torch.ones(3, dtype=torch.int8), W, r"^q: need shape \(batch, 3\), got \(3,\)"),
        (torch.full((1, 3), 2**40), W, "^q: sums of 3 values up to 1099511627776 pass int64"),
        (torch.full((1, 3), 2**32), W, "^q: sums of 3 values up to 4294967296 pass int64"),
        (torch.full((1, 3), -(2**63)), W, "^q: sums of 3 values up to 9223372036854775808 pass int64"),
        (torch.ones(1, 3, dtype=torch.int8), log2_quantize(torch.ones(3), 3), r"^w: need PowersOfTwo of shape"),
        (torch.ones(1, 3, dtype=torch.int8), torch.ones(2, 3), "^w: need PowersOfTwo"),
    ],
)
def test_shift_errors(q, w, message):
    with pytest.raises(ValueError, match=message):
        shift_linear(q, w)


def test_exponents_of_each_input_have_no_common_unit():
    """One shift a column of the layer would need products again."""
    by_input = log2_quantize(torch.tensor([[8.0, 0.125], [4.0, 0.25]]), 3, axis=1)
    with pytest.raises(ValueError, match=r"^w: need axis None or 0 \(one lowest exponent an output\), got 1"):
        shift_linear(torch.ones(1, 2, dtype=torch.int8), by_input)


SIGNS = {"codes": torch.tensor([[1, -1], [1, 1]], dtype=torch.int8), "scale": torch.ones(2), "axis": 0}
SIGNS |= {"codes_per_byte": 8}
POWERS = {"codes": torch.tensor([[3, -2], [0, 1]], dtype=torch.int8), "lowest": torch.tensor(-3, dtype=torch.int32)}
POWERS |= {"axis": None, "bits": 3}
TABLE = {"codes": torch.tensor([0, 2], dtype=torch.uint8), "levels": torch.tensor([-1.0, 0.0, 2.0]), "bits": 2}
PACKED = {"words": torch.tensor([[7], [1]]), "length": 65}
META = torch.ones(2, device="meta")


@pytest.mark.parametrize(
    ("record", "fields", "change", "message"),
    [
        (ScaledSigns, SIGNS, {"codes": [1]}, "^codes: need a torch tensor, got a list"),
        (ScaledSigns, SIGNS, {"codes": torch.ones(2, 2)}, "^codes: need torch.int8, .* got torch.float32"),
        (ScaledSigns, SIGNS, {"codes": 2 * SIGNS["codes"]}, "^codes: need -1 to 1, got -2 to 2"),
        (ScaledSigns, SIGNS, {"codes": 0 * SIGNS["codes"]}, "^codes: need -1 or 1 at 8 codes a byte, got 0"),
        (ScaledSigns, SIGNS, {"codes": SIGNS["codes"][:0]}, r"^codes: need .* at least one, got .* shape \(0, 2\)"),
        (ScaledSigns, SIGNS, {"scale": torch.ones(3)}, r"^scale: need shape \(2,\) for axis 0 .*, got \(3,\)"),
        (ScaledSigns, SIGNS, {"scale": torch.ones(2).double()}, "^scale: need torch.float32, got torch.float64"),
        (ScaledSigns, SIGNS, {"scale": -torch.ones(2)}, "^scale: need at least 0, got -1 among them"),
        (ScaledSigns, SIGNS, {"scale": torch.tensor([1, math.nan])}, "^scale: 1 of 2 values are NaN"),
        (ScaledSigns, SIGNS, {"scale": META}, "^scale: need a dense tensor with data"),
        (ScaledSigns, SIGNS, {"axis": -2}, "^axis: need it counted from the front, got -2"),
        (ScaledSigns, SIGNS, {"axis": 2}, "^axis: need one of the 2 axes of w, got 2"),
        (ScaledSigns, SIGNS, {"axis": None}, r"^scale: need shape \(\) for axis None"),
        (ScaledSigns, SIGNS, {"codes_per_byte": 4}, "^codes_per_byte: need 5 or 8, got 4"),
        (PowersOfTwo, POWERS, {"bits": 2}, "^codes: need -1 to 1, got -2 to 3"),
        (PowersOfTwo, POWERS, {"bits": 7}, "^bits: need an integer from 2 to 6, got 7"),
        (PowersOfTwo, POWERS, {"lowest": torch.tensor(-3)}, "^lowest: need torch.int32, got torch.int64"),
        (PowersOfTwo, POWERS, {"lowest": torch.tensor(126).int()}, "^lowest: need -151 to 125 at 3 bits, got 126 to"),
        (PowersOfTwo, POWERS, {"lowest": torch.tensor(-152).int()}, "^lowest: need -151 to 125 at 3 bits, got -152"),
        (PowersOfTwo, POWERS, {"axis": 0}, r"^lowest: need shape \(2,\) for axis 0"),
        (Codebook, TABLE, {"codes": torch.tensor([3], dtype=torch.uint8)}, "^codes: need 0 to 2, got 3 to 3"),
        (Codebook, TABLE, {"codes": torch.tensor([1])}, "^codes: need torch.uint8, .* got torch.int64"),
        (Codebook, TABLE, {"levels": torch.tensor([1])}, "^levels: need floating-point values"),
        (Codebook, TABLE, {"levels": torch.ones(3).double()}, "^levels: need float32, got torch.float64"),
        (Codebook, TABLE, {"levels": torch.arange(5.0)}, r"^levels: need one axis of at most 4 .* got shape \(5,\)"),
        (Codebook, TABLE, {"levels": torch.tensor([0.0, 2.0, 2.0])}, "^levels: need rising values"),
        (Codebook, TABLE, {"bits": 0}, "^bits: need an integer from 1 to 8, got 0"),
        (PackedSigns, PACKED, {"words": torch.ones(2, 1)}, "^words: need int64, got torch.float32"),
        (PackedSigns, PACKED, {"length": 129}, r"^words: need shape \(3, vectors\) for 129 signs, got \(2, 1\)"),
        (PackedSigns, PACKED, {"length": 0}, "^length: need an integer from 1 to .*, got 0"),
        (PackedSigns, PACKED, {"words": torch.tensor([[7], [2]])}, "^words: need 0 in every bit past 65 signs"),
        (PackedSigns, PACKED, {"words": torch.tensor([[7], [-(2**63)]])}, "^words: need 0 in every bit past 65"),
    ],
)
def test_records_refuse_what_they_could_not_read_back(record, fields, change, message):
    record(**fields)
    with pytest.raises(ValueError, match=message):
        record(**(fields | change))


def test_signs_of_other_kinds_of_tensors():
    with pytest.raises(ValueError, match=r"^x: need real values, got torch\.complex64"):
        pack_signs(torch.ones(2, 2, dtype=torch.complex64))
    for x in (torch.ones(2, 2, device="meta"), torch.ones(2, 2).to_sparse()):
        with pytest.raises(ValueError, match=r"^x: need a dense tensor with data"):
            pack_signs(x)
    with pytest.raises(ValueError, match=r"^q: need a dense tensor with data"):
        shift_linear(torch.ones(1, 3, dtype=torch.int8, device="meta"), W)


def test_numpy_integers_serve():
    w = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    powers = log2_quantize(w, np.uint8(3), axis=np.int64(-1))
    assert torch.equal(powers.codes, log2_quantize(w, 3, axis=1).codes)
    assert (powers.axis, type(powers.axis), type(powers.bits)) == (1, int, int)
    # 2**bits of uint8 would be 0.
    assert torch.equal(kmeans_quantize(w, np.uint8(8)).levels, w.flatten().unique())


def test_the_largest_sums_that_fit():
    assert shift_linear(torch.full((1, 3), -(2**31)), W).tolist() == [[-3 * 2**61] * 2]


def test_no_inputs_no_outputs():
    assert shift_linear(torch.zeros(0, 3, dtype=torch.int8), W).shape == (0, 2)


def test_mean_of_the_largest_floats():
    assert binarize(torch.full((4,), 3e38), axis=None).scale.item() == torch.tensor(3e38).item()


def test_sum_of_exactly_two_to_the_63():
    with pytest.raises(ValueError, match="q: sums of 2 values up to 4294967296 pass int64"):
        shift_linear(torch.full((1, 2), 2**32), log2_quantize(torch.ones(1, 2), 6))


def test_levels_near_the_largest_float():
    w = torch.tensor([2e38, 3e38, 2e38, 3e38])
    assert torch.equal(kmeans_quantize(w, 1).dequantize(), w)


def test_codes_above_127_in_a_table_that_is_not_full():
    w = torch.arange(200.0)
    assert torch.equal(kmeans_quantize(w, 8).dequantize(), w)
