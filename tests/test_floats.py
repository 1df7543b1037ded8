"""quantcourse.floats against what is known about binary floats.

Four kinds of evidence: other people's formats (NumPy, ml_dtypes, torch, gfloat), the definition of rounding
applied to the sorted list of all numbers of a format, laws that hold in every format, and known constants.
"""

import gfloat
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcourse.floats import (
    BF16,
    FP4_E2M1,
    FP8_E4M3,
    FP8_E5M2,
    FP16,
    FP24,
    FP32,
    FP64,
    TF32,
    FloatFormat,
    formats,
)

pytestmark = pytest.mark.filterwarnings("error")
reproducible = settings(derandomize=True, deadline=None, max_examples=100, database=None)

E3M4 = FloatFormat("E3M4", 3, 4)
E4M3_IEEE = FloatFormat("E4M3, IEEE", 4, 3)
E2M3 = FloatFormat("E2M3", 2, 3, specials="finite")
E3M2 = FloatFormat("E3M2", 3, 2, specials="finite")
E5M0 = FloatFormat("E5M0", 5, 0, specials="fn")  # powers of two
E1M4 = FloatFormat("E1M4", 1, 4, specials="finite")  # evenly spaced: all subnormal or next to it
FAR = FloatFormat("far from 1", 4, 3, bias=-200)  # smallest number 2**198

PEERS = {
    FP16: np.float16,
    BF16: ml_dtypes.bfloat16,
    FP8_E4M3: ml_dtypes.float8_e4m3fn,
    FP8_E5M2: ml_dtypes.float8_e5m2,
    FP4_E2M1: ml_dtypes.float4_e2m1fn,
    E3M4: ml_dtypes.float8_e3m4,
    E4M3_IEEE: ml_dtypes.float8_e4m3,
    E2M3: ml_dtypes.float6_e2m3fn,
    E3M2: ml_dtypes.float6_e3m2fn,
}
FAMILY = (*formats(), E5M0, E1M4, FAR)


def named(forms):
    return pytest.mark.parametrize("form", forms, ids=lambda form: form.name)


with_peer = pytest.mark.parametrize(("form", "peer"), PEERS.items(), ids=[form.name for form in PEERS])


def same_floats(a, b):
    """Equal, with the same signs of zero and NaN where the other has NaN."""
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    np.testing.assert_array_equal(a, b)
    numbers = ~np.isnan(a)
    np.testing.assert_array_equal(np.signbit(a[numbers]), np.signbit(b[numbers]))


def all_codes(form):
    return np.arange(2**form.bits, dtype=np.uint64).astype(np.min_scalar_type(2**form.bits - 1))


def magnitudes(form):
    """All finite numbers >= 0 of a small format in the order of their codes."""
    values = form.decode(all_codes(form)[: 2 ** (form.bits - 1)])
    return values[np.isfinite(values)]


def around(points):
    """The points, the float64 on either side of each, and all that negated."""
    points = np.asarray(points, dtype=np.float64)
    with np.errstate(over="ignore"):
        near = np.concatenate([points, np.nextafter(points, -np.inf), np.nextafter(points, np.inf)])
    return np.concatenate([near, -near])


def probes(form):
    """Where rounding can go wrong in a small format: numbers, midpoints and the end, a float64 step to each side."""
    numbers = magnitudes(form)
    beyond = next_after_max(form)
    grid = np.append(numbers, beyond)
    middles = grid[:-1] / 2 + grid[1:] / 2
    return around(np.concatenate([grid, middles, [2 * beyond, 5e-324, 1e-310, 1e308, np.inf]]))


def next_after_max(form):
    """What would follow ``max`` if the exponent had one bit more."""
    longer = FloatFormat("", form.exponent_bits + 1, form.fraction_bits, form.bias, "finite")
    return longer.decode(len(magnitudes(form)))


def nearest_code(form, x):
    """Magnitude codes by definition: search the sorted list of all numbers, compare with the midpoint."""
    grid = np.append(magnitudes(form), next_after_max(form))
    size = np.minimum(np.abs(x), grid[-1])
    below = np.minimum(np.searchsorted(grid, size, side="right") - 1, len(grid) - 2)
    middle = grid[below] / 2 + grid[below + 1] / 2  # exact: one more bit than the format has
    # Neighbouring codes differ in parity, so one of two significands is even; powers of two alone have
    # none but zero, and there IEEE 754 takes the larger.
    tie_up = below % 2 == 1 if form.fraction_bits else below > 0
    return below + ((size > middle) | ((size == middle) & tie_up))


def by_definition(form, x, saturate=False, mode="even"):
    """Rounding without arithmetic: a search in the list of all numbers."""
    numbers = magnitudes(form)
    if mode == "even":
        code = nearest_code(form, x)
    else:
        code = np.searchsorted(numbers, np.abs(x), side="right") - 1
        code[np.isinf(x)] = len(numbers)
    too_large = {"ieee": np.inf, "fn": np.nan, "finite": numbers[-1]}[form.specials]
    results = np.append(numbers, numbers[-1] if saturate else too_large)
    return np.copysign(results[code], x)


def wide_sample(form, rng, count=4000):
    """Values from far below to far above any format's range: random, halfway between neighbours, next to that."""
    low = max(np.log2(form.smallest_subnormal) - 3, -1074)
    high = min(np.log2(form.max) + 3, 1023)
    scale = 2.0 ** rng.uniform(low, high, count)
    significand = rng.integers(2**form.fraction_bits, 2 ** (form.fraction_bits + 1), count)
    exponent = rng.integers(round(low), round(high), count)
    numbers = np.ldexp(significand.astype(np.float64), exponent - form.fraction_bits)
    halves = np.ldexp(significand + 0.5, exponent - form.fraction_bits) if form.fraction_bits < 52 else numbers
    return around(np.concatenate([scale, numbers, halves, [0, form.max, form.smallest_normal, np.inf]]))


# --- Other people's formats, all bit patterns -------------------------------------------------------------------


@with_peer
def test_decode_agrees_with_peer_for_all_codes(form, peer):
    codes = all_codes(form)
    with np.errstate(invalid="ignore"):  # theirs warns of signalling NaN
        theirs = codes.view(peer).astype(np.float64)
    ours = form.decode(codes)
    same_floats(ours, theirs)
    np.testing.assert_array_equal(np.signbit(ours), np.signbit(theirs))  # of NaN too


@with_peer
def test_encode_agrees_with_peer_around_every_number_and_midpoint(form, peer):
    # In steps of float32: ml_dtypes rounds float64 twice, by way of float32. The true float64 is tested below.
    with np.errstate(all="ignore"):
        points = np.unique(np.abs(probes(form)).astype(np.float32))
        x = np.concatenate([points, np.nextafter(points, np.float32(0)), np.nextafter(points, np.float32(np.inf))])
        x = np.concatenate([x, -x])
        theirs = x.astype(peer)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(form.encode(x), theirs.view(form.encode(x).dtype))
    same_floats(form.round(x), theirs.astype(np.float64))


@named([form for form in PEERS if form.specials != "finite"])
def test_nan_gets_the_peers_code(form):
    nan = np.array([np.nan, -np.nan])
    theirs = nan.astype(PEERS[form])
    np.testing.assert_array_equal(form.encode(nan), theirs.view(form.encode(nan).dtype))


@named([*PEERS, E5M0, E1M4, FAR])
def test_encode_inverts_decode_for_all_codes(form):
    # Also for NaN, so sign and payload survive.
    codes = all_codes(form)
    np.testing.assert_array_equal(form.encode(form.decode(codes)), codes)


def test_fp16_equals_numpy_on_float64():
    x = np.concatenate([probes(FP16), np.random.default_rng(1).standard_normal(10**5) * 1000])
    with np.errstate(over="ignore"):
        theirs = x.astype(np.float16)
    np.testing.assert_array_equal(FP16.encode(x), theirs.view(np.uint16))
    same_floats(FP16.round(x), theirs)


def test_fp32_equals_numpy():
    rng = np.random.default_rng(2)
    codes = rng.integers(0, 2**32, 10**6, dtype=np.uint32)
    values = codes.view(np.float32)
    with np.errstate(invalid="ignore"):
        same_floats(FP32.decode(codes), values.astype(np.float64))
    np.testing.assert_array_equal(FP32.encode(FP32.decode(codes)), codes)
    x = np.concatenate([wide_sample(FP32, rng), rng.integers(0, 2**64, 10**5, dtype=np.uint64).view(np.float64)])
    x = x[~np.isnan(x)]
    with np.errstate(over="ignore"):
        theirs = x.astype(np.float32)
    same_floats(FP32.round(x), theirs)
    np.testing.assert_array_equal(FP32.encode(x), theirs.view(np.uint32))


def test_fp64_is_float64():
    codes = np.random.default_rng(3).integers(0, 2**64, 10**6, dtype=np.uint64)
    ends = np.array([0, 1, 2**52 - 1, 2**52, 0x7FEF << 48, 0x7FF0 << 48, 0x7FF8 << 48, 2**63 - 1], dtype=np.uint64)
    codes = np.concatenate([codes, ends, ends | np.uint64(2**63)])
    np.testing.assert_array_equal(FP64.decode(codes).view(np.uint64), codes)
    np.testing.assert_array_equal(FP64.encode(codes.view(np.float64)), codes)
    for mode in ("even", "zero", "stochastic"):
        same_floats(FP64.round(codes.view(np.float64), mode=mode, rng=0), codes.view(np.float64))


@pytest.mark.parametrize(
    ("form", "dtype"), [(FP8_E4M3, torch.float8_e4m3fn), (FP8_E5M2, torch.float8_e5m2), (BF16, torch.bfloat16)]
)
def test_torch_casts_agree(form, dtype):
    # torch saturates E4M3 and lets the others overflow.
    x = np.random.default_rng(4).standard_normal(10**5).astype(np.float32) * np.float32(200)
    x[:4] = [np.inf, -np.inf, 1e9, -465]
    theirs = torch.from_numpy(x).to(dtype).to(torch.float64).numpy()
    same_floats(form.round(x, saturate=form is FP8_E4M3), theirs)


@pytest.mark.parametrize("mode", ["even", "zero"])
def test_ml_dtypes_agrees_on_a_million_values(mode):
    if mode == "zero":
        # Truncation of FP32 bits is rounding toward zero to BF16.
        x = np.random.default_rng(5).standard_normal(10**6).astype(np.float32)
        truncated = (x.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
        same_floats(BF16.round(x, mode="zero"), truncated)
    else:
        x = np.random.default_rng(6).standard_normal(10**6).astype(np.float32)
        for form, peer in PEERS.items():
            same_floats(form.round(x), x.astype(peer).astype(np.float64))


# --- The definition: search in the list of all numbers ----------------------------------------------------------


@named([*PEERS, E5M0, E1M4, FAR])
@pytest.mark.parametrize("saturate", [False, True])
@pytest.mark.parametrize("mode", ["even", "zero"])
def test_rounding_by_definition(form, saturate, mode):
    x = probes(form)
    same_floats(form.round(x, saturate, mode), by_definition(form, x, saturate, mode))


@st.composite
def float_formats(draw, exponent_bits, fraction_bits):
    """Any valid format: also with a bias that moves it to either end of float64."""
    specials = draw(st.sampled_from(["ieee", "fn", "finite"]))
    fewest = {"ieee": (2, 1), "fn": (1, 1), "finite": (1, 0)}[specials]
    # 11 exponent bits fill float64, which keeps its last exponent for infinity and NaN.
    e = draw(st.integers(fewest[0], exponent_bits if specials == "ieee" else min(exponent_bits, 10)))
    f = draw(st.integers(0 if specials == "fn" and e > 1 else fewest[1], fraction_bits))
    last = 2**e - 1 - (specials == "ieee" or (specials == "fn" and f == 0))
    bias = draw(st.one_of(st.none(), st.integers(last - 1023, 1023)))
    return FloatFormat("random", e, f, bias, specials)


@reproducible
@given(float_formats(exponent_bits=4, fraction_bits=4), st.booleans(), st.sampled_from(["even", "zero"]))
def test_small_random_formats_by_definition(form, saturate, mode):
    if 2 ** (form.exponent_bits + 1) - form.bias > 1023:
        return  # the number after max lies beyond float64
    x = probes(form)
    same_floats(form.round(x, saturate, mode), by_definition(form, x, saturate, mode))
    if mode == "even":
        np.testing.assert_array_equal(form.decode(form.encode(x, saturate)), form.round(x, saturate))


# --- gfloat: any width ------------------------------------------------------------------------------------------


def as_gfloat(form):
    nans = {"ieee": 2**form.fraction_bits - 1, "fn": 1, "finite": 0}[form.specials]
    return gfloat.FormatInfo(
        name=form.name,
        k=form.bits,
        precision=form.fraction_bits + 1,
        bias=form.bias,
        is_signed=True,
        domain=gfloat.Domain.Extended if form.specials == "ieee" else gfloat.Domain.Finite,
        has_nz=True,
        num_high_nans=nans,
        has_subnormals=True,
        is_twos_complement=False,
    )


def agrees_with_gfloat(form, x):
    peer = as_gfloat(form)
    saturate = form.specials == "finite"  # where gfloat raises and we always saturate
    modes = {"even": gfloat.RoundMode.TiesToEven, "zero": gfloat.RoundMode.TowardZero}
    if form.fraction_bits == 0:
        del modes["even"]  # gfloat takes the even code of two powers of two, IEEE 754 the larger
    for mode, theirs in modes.items():
        with np.errstate(all="ignore"):
            expected = gfloat.round_ndarray(peer, x, theirs, sat=saturate)
        same_floats(form.round(x, mode=mode), expected)


@named([TF32, FP24, FP32, FP64, BF16, FP16, FP8_E4M3, FP4_E2M1, E5M0, FAR])
def test_formats_agree_with_gfloat(form):
    x = wide_sample(form, np.random.default_rng(7), count=20_000)
    agrees_with_gfloat(form, x)
    assert form.max == as_gfloat(form).max


@reproducible
@given(float_formats(exponent_bits=11, fraction_bits=52), st.integers(0, 2**32))
def test_random_formats_agree_with_gfloat(form, seed):
    rng = np.random.default_rng(seed)
    agrees_with_gfloat(form, wide_sample(form, rng, count=300))
    codes = rng.integers(0, 2**form.bits, 300, dtype=np.uint64, endpoint=False)
    codes[:4] = [0, 2**form.bits - 1, 2 ** (form.bits - 1), 2 ** (form.bits - 1) - 1]
    if form.bits < 64:  # gfloat computes with int64
        with np.errstate(all="ignore"):
            theirs = gfloat.decode_ndarray(as_gfloat(form), codes.astype(np.int64))
        same_floats(form.decode(codes), theirs)
    assert form.max == as_gfloat(form).max
    np.testing.assert_array_equal(form.encode(form.decode(codes)), codes)


# --- Laws -------------------------------------------------------------------------------------------------------


@reproducible
@given(float_formats(exponent_bits=11, fraction_bits=52), st.integers(0, 2**32), st.sampled_from(["even", "zero"]))
def test_laws_of_rounding(form, seed, mode):
    x = np.sort(wide_sample(form, np.random.default_rng(seed), count=100))
    y = form.round(x, mode=mode)
    same_floats(form.round(y, mode=mode), y)  # idempotent
    same_floats(form.round(-x, mode=mode), -y)  # odd
    saturated = form.round(x, saturate=True, mode=mode)
    assert (np.diff(saturated) >= 0).all()  # monotone
    assert np.abs(saturated).max() <= form.max
    inside = np.abs(x) <= form.max
    same_floats(saturated[inside], y[inside])
    same_floats(form.decode(form.encode(y)), y)  # a number of the format
    x, y = x[inside], y[inside]
    error = np.abs(y - x)  # exact: y is 0 or within a factor of two of x
    if mode == "even":
        assert (error <= form.ulp(x) - error).all()
    else:
        assert (np.abs(y) <= np.abs(x)).all()
        assert (error < form.ulp(x)).all()


@reproducible
@given(float_formats(exponent_bits=11, fraction_bits=52), st.integers(0, 2**32))
def test_codes_sort_like_magnitudes(form, seed):
    x = np.sort(np.abs(wide_sample(form, np.random.default_rng(seed), count=100)))
    codes = form.encode(x, saturate=True)
    assert (codes[1:] >= codes[:-1]).all()
    y = form.decode(codes)
    assert ((codes[1:] > codes[:-1]) == (y[1:] > y[:-1])).all()
    negative = form.encode(-x, saturate=True)
    np.testing.assert_array_equal(negative, codes + codes.dtype.type(2 ** (form.bits - 1)))


@named(FAMILY)
def test_fields_reassemble_to_the_value(form):
    rng = np.random.default_rng(8)
    x = np.concatenate([[0.0, -0.0, form.max, form.smallest_subnormal, form.smallest_normal], wide_sample(form, rng)])
    y = form.round(x, saturate=True)
    sign, exponent, fraction = form.fields(y)
    for field, bits in ((sign, 1), (exponent, form.exponent_bits), (fraction, form.fraction_bits)):
        assert field.dtype == np.int64
        assert ((field >= 0) & (field < 2**bits)).all()
    # The formula of the standard, for normal numbers and for subnormal ones.
    share = fraction / 2.0**form.fraction_bits
    normal = np.ldexp(1 + share, exponent - form.bias)
    subnormal = np.ldexp(share, 1 - form.bias)
    same_floats(y, np.where(sign, -1.0, 1.0) * np.where(exponent > 0, normal, subnormal))


@named(FAMILY)
def test_ulp_is_the_distance_to_the_next_number(form):
    rng = np.random.default_rng(9)
    sample = form.round(wide_sample(form, rng, count=15), saturate=True)
    for y in sample[np.abs(sample) < form.max]:
        up = form.neighbours(abs(y))[-1]
        assert up - abs(y) == form.ulp(y)


@pytest.mark.parametrize(("form", "dtype"), [(FP64, np.float64), (FP32, np.float32), (FP16, np.float16)])
def test_ulp_equals_numpy_spacing(form, dtype):
    x = np.abs(form.round(wide_sample(form, np.random.default_rng(10)), saturate=True))
    x = x[x < form.max].astype(dtype)
    np.testing.assert_array_equal(form.ulp(x), np.spacing(x))
    np.testing.assert_array_equal(form.ulp(-x), np.spacing(x))


@named(FAMILY)
def test_ulp_beyond_the_range(form):
    below = form.smallest_subnormal
    np.testing.assert_array_equal(form.ulp([0.0, -0.0, below, -below / 2]), [below] * 4)
    assert form.ulp(form.max) == form.ulp(1.7e308) == form.ulp(-1.7e308)
    assert np.isnan(form.ulp([np.nan, np.inf, -np.inf])).all()


@named([f for f in FAMILY if f.bits <= 16])
def test_neighbours_are_all_numbers_without_gaps(form):
    everything = np.unique(form.decode(all_codes(form)))
    everything = everything[np.isfinite(everything)] + 0.0  # ascending, zero once and positive
    np.testing.assert_array_equal(form.neighbours(0.0, count=2**form.bits), everything)
    middle = len(everything) // 2
    for index in {0, 1, middle - 1, middle, middle + 1, 3 * middle // 2, len(everything) - 1}:
        near = everything[max(index - 2, 0) : index + 3]
        same_floats(form.neighbours(everything[index], count=2), near)
    assert not np.signbit(form.neighbours(-0.0, count=0)).any()


def test_neighbours_of_fp64_equal_nextafter():
    for x in (1.0, -1.0, 0.0, 5e-324, 2.0**-1022, 1e308, -0.1):
        expected = [np.nextafter(x, -np.inf), x, np.nextafter(x, np.inf)]
        np.testing.assert_array_equal(FP64.neighbours(x), expected)
    np.testing.assert_array_equal(FP64.neighbours(FP64.max), [np.nextafter(FP64.max, 0), FP64.max])
    np.testing.assert_array_equal(FP32.neighbours(0.1, count=0), [np.float32(0.1)])


# --- Stochastic rounding ----------------------------------------------------------------------------------------


@named(FAMILY)
def test_stochastic_rounding_lands_on_a_neighbour(form):
    x = wide_sample(form, np.random.default_rng(11), count=500)
    down = form.round(x, mode="zero")
    for seed in range(5):
        y = form.round(x, mode="stochastic", rng=seed)
        inside = np.abs(x) <= form.max
        step = np.where(np.abs(x) < form.smallest_normal, form.smallest_subnormal, form.ulp(down))
        away = np.abs(y[inside]) - np.abs(down[inside])
        assert ((away == 0) | (away == step[inside])).all()
        np.testing.assert_array_equal(np.signbit(y[inside]), np.signbit(x[inside]))
        exact = x == down
        same_floats(y[exact], x[exact])


@pytest.mark.parametrize("x", [1.03, -1.03, 0.3, 3.0001, 2.5, 5.9, -0.01, 1e-5])
@pytest.mark.parametrize("form", [FP4_E2M1, FP8_E4M3, FP16, E5M0], ids=lambda form: form.name)
def test_stochastic_rounding_is_unbiased(form, x):
    n = 10**5
    y = form.round(np.full(n, x), mode="stochastic", rng=12)
    low = form.round(x, mode="zero")
    share = abs(x - low) / form.ulp(x)  # of values that should go away from zero
    standard_error = form.ulp(x) * np.sqrt(share * (1 - share) / n)
    assert abs(y.mean() - x) <= 5 * standard_error + 1e-15


def test_stochastic_rounding_follows_the_seed():
    x = np.full(2**15, 1.03)
    first = FP8_E4M3.round(x, mode="stochastic", rng=13)
    np.testing.assert_array_equal(first, FP8_E4M3.round(x, mode="stochastic", rng=13))
    np.testing.assert_array_equal(first, FP8_E4M3.round(x, mode="stochastic", rng=np.random.default_rng(13)))
    assert (first != FP8_E4M3.round(x, mode="stochastic", rng=14)).any()
    assert (first[: 2**14] != first[2**14 :]).any()  # every block draws anew
    rng = np.random.default_rng(13)
    assert (FP8_E4M3.round(x, mode="stochastic", rng=rng) != FP8_E4M3.round(x, mode="stochastic", rng=rng)).any()
    unseeded = [FP8_E4M3.round(x, mode="stochastic") for _ in range(2)]
    assert (unseeded[0] != unseeded[1]).any()


def test_stochastic_rounding_may_overflow():
    x = np.full(1000, 65520.0)  # halfway from max to where infinity begins
    assert set(FP16.round(x, mode="stochastic", rng=15)) == {65504.0, np.inf}
    assert set(FP16.round(x, saturate=True, mode="stochastic", rng=15)) == {65504.0}
    assert set(FP8_E4M3.round([470.0] * 100, mode="stochastic", rng=15, saturate=True)) == {448.0}


# --- Known constants and special cases --------------------------------------------------------------------------


CONSTANTS = [  # name, bits, max, smallest normal, smallest subnormal, gap at 1
    (FP64, 64, 1.7976931348623157e308, 2.0**-1022, 2.0**-1074, 2.0**-52),
    (FP32, 32, 3.4028234663852886e38, 2.0**-126, 2.0**-149, 2.0**-23),
    (FP24, 24, 1.8446603336221196e19, 2.0**-62, 2.0**-78, 2.0**-16),
    (TF32, 19, 3.4011621342146535e38, 2.0**-126, 2.0**-136, 2.0**-10),
    (FP16, 16, 65504.0, 2.0**-14, 2.0**-24, 2.0**-10),
    (BF16, 16, 3.3895313892515355e38, 2.0**-126, 2.0**-133, 2.0**-7),
    (FP8_E4M3, 8, 448.0, 2.0**-6, 2.0**-9, 0.125),
    (FP8_E5M2, 8, 57344.0, 2.0**-14, 2.0**-16, 0.25),
    (FP4_E2M1, 4, 6.0, 1.0, 0.5, 0.5),
]


@pytest.mark.parametrize(("form", "bits", "largest", "normal", "subnormal", "gap"), CONSTANTS)
def test_constants(form, bits, largest, normal, subnormal, gap):
    found = (form.bits, form.max, form.smallest_normal, form.smallest_subnormal, form.epsilon)
    assert found == (bits, largest, normal, subnormal, gap)
    assert form.ulp(1.0) == gap
    codes = form.encode([largest, subnormal])
    assert form.encode(0.0).itemsize == next(size for size in (1, 2, 4, 8) if 8 * size >= bits)
    same_floats(form.decode(codes), [largest, subnormal])


def test_formats_lists_the_course_formats_once():
    assert [c[0] for c in CONSTANTS] == list(formats())
    assert len({form.name for form in formats()}) == 9


def test_fp4_numbers():
    same_floats(magnitudes(FP4_E2M1), [0, 0.5, 1, 1.5, 2, 3, 4, 6])


def test_how_many_floats_lie_between_minus_one_and_one():
    assert 2 * (int(FP32.encode(1.0)) + 1) == 2_130_706_434  # bit patterns, both zeros counted
    for form in (FP16, BF16, FP8_E4M3, FP8_E5M2, FP4_E2M1):
        patterns = np.abs(form.decode(all_codes(form))) <= 1
        assert patterns.sum() == 2 * (int(form.encode(1.0)) + 1)


@pytest.mark.parametrize(
    ("form", "stays", "goes", "beyond"),
    [
        (FP16, 65519.99, 65520.0, np.inf),
        (FP8_E5M2, np.nextafter(61440.0, 0), 61440.0, np.inf),
        (FP8_E4M3, 464.0, np.nextafter(464.0, 500), np.nan),  # a tie to an even significand: 14 * 32, not 15 * 32
        (FP32, np.nextafter(2.0**128 - 2.0**103, 0), 2.0**128 - 2.0**103, np.inf),
        (BF16, np.nextafter(2.0**128 - 2.0**119, 0), 2.0**128 - 2.0**119, np.inf),
    ],
    ids=["FP16", "E5M2", "E4M3", "FP32", "BF16"],
)
def test_where_overflow_begins(form, stays, goes, beyond):
    same_floats(form.round([stays, -stays]), [form.max, -form.max])
    same_floats(form.round([goes, -goes]), [beyond, -beyond])
    same_floats(form.round([goes, -goes, np.inf, -np.inf], saturate=True), np.array([1, -1, 1, -1]) * form.max)
    same_floats(form.round([goes, -1e300], mode="zero"), [form.max, -form.max])
    same_floats(form.round([np.inf, -np.inf]), [beyond, -beyond])
    same_floats(form.round([np.inf, -np.inf], mode="zero"), [beyond, -beyond])


def test_finite_formats_saturate():
    x = [6.9, 7.0, 100.0, -100.0, np.inf, -np.inf]
    for mode in ("even", "zero", "stochastic"):
        same_floats(FP4_E2M1.round(x, mode=mode), [6, 6, 6, -6, 6, -6])
    np.testing.assert_array_equal(FP4_E2M1.encode(x), [7, 7, 7, 15, 7, 15])


@pytest.mark.parametrize(
    ("x", "count"),
    [([1.0, np.nan, -np.nan], "2 of 3"), ([7.0, np.nan], "1 of 2"), ([[np.nan, 1.0]], "1 of 2"), (np.nan, "1 of 1")],
)
@pytest.mark.parametrize("method", ["round", "encode", "fields"])
def test_nan_in_a_finite_format_is_an_error(method, x, count):
    with pytest.raises(ValueError, match=rf"^x: {count} values are NaN.*FP4 E2M1"):
        getattr(FP4_E2M1, method)(x)


def test_nan_stays_nan_with_its_sign():
    quiet, signalling = 0x7FF8_0000_0000_0000, 0x7FF0_0000_0000_0001
    nans = np.array([quiet, signalling, quiet | 2**63, signalling | 2**63], dtype=np.uint64).view(np.float64)
    for form in (f for f in FAMILY if f.specials != "finite"):
        for options in ({}, {"saturate": True}, {"mode": "zero"}, {"mode": "stochastic"}):
            y = form.round(nans, **options)
            assert np.isnan(y).all()
            np.testing.assert_array_equal(np.signbit(y), np.signbit(nans))
        back = form.decode(form.encode(nans))  # a payload cut to nothing would be an infinity
        assert np.isnan(back).all()
        np.testing.assert_array_equal(np.signbit(back), np.signbit(nans))


def test_nan_payload_loses_only_its_tail():
    nan = np.array([0x7FFA_C000_0000_0001], dtype=np.uint64).view(np.float64)  # payload 1010 1100 0...
    assert FP16.encode(nan)[0] == 0b0_11111_1010110000
    assert FP8_E5M2.encode(-nan)[0] == 0b1_11111_10
    assert FP16.decode(0x7D55).view(np.uint64) == 0x7FF0_0000_0000_0000 | 0x155 << 42


def test_signs_of_zero_survive():
    for form in FAMILY:
        tiny = form.smallest_subnormal / 4
        x = np.array([0.0, -0.0, tiny, -tiny])
        same_floats(form.round(x), [0.0, -0.0, 0.0, -0.0])
        same_floats(form.round(x, mode="zero"), [0.0, -0.0, 0.0, -0.0])
        assert form.encode(x).tolist() == [0, 2 ** (form.bits - 1)] * 2


def test_stalled_sum_and_lost_integers():
    assert FP16.round(2048 + 1) == 2048
    assert BF16.round(256 + 1) == 256
    assert FP32.round(2**24 + 1) == 2**24
    assert FP16.round(2048 + 3) == 2052  # a tie, 2050 | 2052, goes to the even significand


def test_bias_moves_a_format_and_changes_nothing_else():
    moved = FloatFormat("moved", 4, 3, bias=12)
    codes = moved.encode(magnitudes(moved))
    same_floats(magnitudes(moved) * 2.0**5, E4M3_IEEE.decode(codes))
    assert FloatFormat("default", 4, 3).bias == 7


def test_formats_are_values():
    assert FloatFormat("FP16", 5, 10, bias=15) == FP16
    assert len({FP16, FloatFormat("FP16", 5, 10)}) == 1
    with pytest.raises(AttributeError):
        FP16.bias = 3


# --- Arrays of every kind ---------------------------------------------------------------------------------------


VALUES = np.array([[0.1, -2.7, 300.0], [65519.0, -1e-7, 2049.0]])
BIG_ENDIAN = VALUES.astype(">f8")
INPUTS = {
    "list": VALUES.tolist(),
    "Fortran order": np.asfortranarray(VALUES),
    "transposed twice": VALUES.T.copy().T,
    "every second": np.repeat(VALUES, 2, axis=1)[:, ::2],
    "backwards": VALUES[::-1, ::-1].copy()[::-1, ::-1],
    "big-endian": BIG_ENDIAN,
    "read-only": np.broadcast_to(VALUES, VALUES.shape),
    "torch": torch.from_numpy(VALUES.copy()),
    "longdouble": VALUES.astype(np.longdouble),
}


@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_array(kind):
    given_x = INPUTS[kind]
    before = np.asarray(given_x).copy()
    results = [FP16.round(given_x), FP16.ulp(given_x), FP16.encode(given_x), FP16.fields(given_x)[1]]
    expected = [FP16.round(VALUES), FP16.ulp(VALUES), FP16.encode(VALUES), FP16.fields(VALUES)[1]]
    for result, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(result, right)
        assert result.shape == (2, 3)
        assert result.dtype == right.dtype
        assert result.dtype.isnative
    np.testing.assert_array_equal(given_x, before)
    same_floats(FP16.decode(results[2]), results[0])
    same_floats(FP16.decode(np.asfortranarray(results[2]).astype(">u2")), results[0])


@pytest.mark.parametrize(
    "dtype", [np.float16, np.float32, np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint64, bool]
)
def test_narrow_inputs_are_widened_first(dtype):
    x = np.array([0, 1, 3, 100], dtype=dtype)
    same_floats(FP8_E4M3.round(x), FP8_E4M3.round(x.astype(np.float64)))
    if np.issubdtype(dtype, np.integer):
        ends = np.array([np.iinfo(dtype).min, np.iinfo(dtype).max // 2 + 1], dtype=dtype)  # powers of two
        same_floats(FP64.round(ends), [float(end) for end in ends])


def test_ml_dtypes_arrays_are_numbers_too():
    x = np.array([0.1, -3.0, np.inf], dtype=ml_dtypes.bfloat16)
    same_floats(FP16.round(x), FP16.round(x.astype(np.float64)))


@pytest.mark.parametrize("x", [2.6, np.float32(2.6), np.array(2.6), 3, np.int8(-128), np.float64(-0.0)])
def test_scalars_in_scalars_out(x):
    for result in (FP8_E4M3.round(x), FP8_E4M3.ulp(x), FP8_E4M3.encode(x), *FP8_E4M3.fields(x)):
        assert np.ndim(result) == 0
        assert isinstance(result, np.generic)
    assert FP8_E4M3.round(x) == FP8_E4M3.round([x])[0]
    assert FP8_E4M3.ulp(x) == FP8_E4M3.ulp([x])[0]
    assert isinstance(FP8_E4M3.decode(FP8_E4M3.encode(x)), np.float64)


def test_special_codes_as_scalars():
    assert FP16.decode(0x7C00) == np.inf
    assert FP16.decode(np.uint16(0xFC00)) == -np.inf
    assert np.isnan(FP8_E4M3.decode(0xFF))
    assert np.isnan(E5M0.decode([31, 63])).all()  # no fraction bits to tell NaN from infinity


@pytest.mark.parametrize("shape", [(0,), (0, 3), (2, 0, 1)])
def test_empty_arrays(shape):
    for form in (FP16, FP4_E2M1):
        x = np.zeros(shape)
        results = (form.round(x), form.ulp(x), form.encode(x), *form.fields(x), form.decode(form.encode(x)))
        assert all(result.shape == shape for result in results)
    assert FP16.round([]).shape == FP16.encode([]).shape == FP16.decode([]).shape == (0,)


@pytest.mark.parametrize("size", [2**14 - 1, 2**14, 2**14 + 1, 2**15 - 1, 2**15, 2**15 + 1])
def test_long_arrays_equal_their_parts(size):
    x = np.random.default_rng(size).standard_normal(size) * 300
    x[[0, -1]] = [1e9, -1e9]
    for mode in ("even", "zero"):
        parts = [FP8_E4M3.round(part, mode=mode) for part in np.array_split(x, 17)]
        same_floats(FP8_E4M3.round(x, mode=mode), np.concatenate(parts))
        same_floats(FP8_E4M3.round(x[::-1], mode=mode)[::-1], np.concatenate(parts))


def test_input_is_never_modified():
    x = wide_sample(FP16, np.random.default_rng(16), count=50)
    before = x.copy()
    codes = FP16.encode(x)
    codes_before = codes.copy()
    FP16.decode(codes)
    FP16.fields(x)
    FP16.ulp(x)
    for mode in ("even", "zero", "stochastic"):
        FP16.round(x, mode=mode)
        FP16.round(x, saturate=True, mode=mode)
    np.testing.assert_array_equal(x.view(np.uint64), before.view(np.uint64))
    np.testing.assert_array_equal(codes, codes_before)
    assert not np.shares_memory(FP64.round(x), x)


def test_no_floating_point_flag_escapes():
    bits = np.random.default_rng(17).integers(0, 2**64, 10**4, dtype=np.uint64)
    signalling = np.array([0x7F80_0001, 0xFFA0_0000], dtype=np.uint32).view(np.float32)
    for form in (f for f in FAMILY if f.specials != "finite"):
        sample = wide_sample(form, np.random.default_rng(18), count=100)
        with np.errstate(all="raise"):
            form.encode(signalling)
            form.encode([signalling[0], 1.0])
            for x in (bits.view(np.float64), sample):
                codes = form.encode(x)
                form.decode(codes)
                form.ulp(x)
                for mode in ("even", "zero"):
                    form.round(x, mode=mode)
    with np.errstate(all="raise"):
        FP64.round(np.array([5e-324, 1e-310, -(2.0**-1022), 1.7e308]), mode="stochastic")


# --- Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exponent_bits": 0}, "exponent_bits, fraction_bits"),
        ({"exponent_bits": 12}, "exponent_bits, fraction_bits"),
        ({"exponent_bits": -1}, "exponent_bits, fraction_bits"),
        ({"exponent_bits": 4.0}, "exponent_bits, fraction_bits"),
        ({"exponent_bits": "4"}, "exponent_bits, fraction_bits"),
        ({"exponent_bits": True, "specials": "fn"}, "exponent_bits, fraction_bits"),
        ({"fraction_bits": -1}, "exponent_bits, fraction_bits"),
        ({"fraction_bits": 53}, "exponent_bits, fraction_bits"),
        ({"fraction_bits": None}, "exponent_bits, fraction_bits"),
        ({"specials": "IEEE"}, "specials.*'IEEE'"),
        ({"specials": None}, "specials.*None"),
        ({"exponent_bits": 1}, "specials='ieee'"),
        ({"fraction_bits": 0}, "specials='ieee'"),
        ({"exponent_bits": 1, "fraction_bits": 0, "specials": "fn"}, "specials='fn'"),
        ({"bias": 7.0}, "bias"),
        ({"bias": "fn"}, "bias.*'fn'"),
        ({"bias": 1024}, "bias=1024.*-1022..1023"),
        ({"bias": 14 - 1024}, "bias=-1010.*-1022..1023"),
        ({"exponent_bits": 11, "fraction_bits": 52, "specials": "finite"}, "bias=1023.*-1022..1023"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        FloatFormat(**{"name": "bad", "exponent_bits": 4, "fraction_bits": 3} | arguments)


def test_bias_may_go_to_the_ends_of_float64():
    assert FloatFormat("low", 4, 3, bias=1023).smallest_normal == 2.0**-1022
    assert FloatFormat("high", 4, 3, bias=14 - 1023).max == 1.875 * 2.0**1023


NOT_NUMBERS = {
    "None": None,
    "text": "1.5",
    "texts": ["1", "2"],
    "bytes": b"1",
    "objects": [1.0, None],
    "complex": [1j],
    "dates": np.array(["2020-01-01"], dtype="datetime64[D]"),
    "huge integer": 2**70,
    "unequal lengths": [[1.0], [1.0, 2.0]],
    "records": np.zeros(2, dtype=[("a", np.float32)]),
    "raw bytes": np.zeros(2, dtype="V8"),
    "integer among floats": [[0.5, 1], [2**53 + 1, 2]],
    "masked array": np.ma.array([1.0, 2.0], mask=[False, True]),
    "string array": np.array(["1.5"], dtype=np.dtypes.StringDType()),
    "integer beyond float64": np.array([2**53 + 1]),
    "negative integer beyond float64": np.array([-(2**62) - 1]),
    "unsigned integer beyond float64": np.array([2**64 - 1], dtype=np.uint64),
    "tensor with gradient": torch.ones(2, requires_grad=True),
}
if np.finfo(np.longdouble).nmant > 52:
    NOT_NUMBERS |= {
        "longdouble 0.1": np.longdouble("0.1"),
        "longdouble 1e400": np.longdouble("1e400"),
        "longdouble array": np.array([0.5, 0.1], dtype=np.longdouble) / 3,
        "longdoubles in a list": [np.longdouble("0.1")],
    }


@pytest.mark.parametrize("kind", NOT_NUMBERS)
@pytest.mark.parametrize("method", ["round", "encode", "fields", "ulp", "neighbours"])
def test_not_real_numbers(method, kind):
    with pytest.raises(ValueError, match=r"^x: "):
        getattr(FP16, method)(NOT_NUMBERS[kind])


@pytest.mark.parametrize(
    "codes",
    [[1.0], 1.5, True, [True], -1, [0, -1], 256, [[255, 256]], 2**64, None, "1", [1j], [[1], [1, 2]], np.zeros(0)],
)
def test_not_codes(codes):
    with pytest.raises(ValueError, match=r"^codes: need"):
        FP8_E4M3.decode(codes)


@pytest.mark.parametrize("mode", ["Even", "nearest", None, 1])
def test_unknown_mode(mode):
    with pytest.raises(ValueError, match=r"^mode: need one of 'even', 'zero', 'stochastic', got "):
        FP16.round(1.0, mode=mode)


@pytest.mark.parametrize("saturate", ["no", None, 1, [True]])
@pytest.mark.parametrize("method", ["round", "encode"])
def test_saturate_is_a_truth_value(method, saturate):
    with pytest.raises(ValueError, match=r"^saturate: need True or False, got "):
        getattr(FP16, method)(1.0, saturate)


@pytest.mark.parametrize("rng", ["a", -1, 1.5, object()])
def test_bad_generator(rng):
    with pytest.raises(ValueError, match=r"^rng: need"):
        FP16.round(1.0, mode="stochastic", rng=rng)


@pytest.mark.parametrize("count", [-1, 1.0, None, "1", True])
def test_neighbours_count(count):
    with pytest.raises(ValueError, match=r"^count: need"):
        FP16.neighbours(1.0, count)


@pytest.mark.parametrize("x", [[1.0], [], np.nan, np.inf, 65520.0])
def test_neighbours_of_no_finite_number(x):
    with pytest.raises(ValueError, match=r"^x: need one number that is finite in FP16"):
        FP16.neighbours(x)


def test_flushed_subnormals_are_refused_not_turned_into_nan():
    """Without float64 subnormals the ulp of FP64 would be zero, and 0 / ulp would be NaN."""
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor has no switch to flush subnormals")
    try:
        for work in (FP64.round, FP64.encode, FP64.ulp):
            with pytest.raises(ValueError, match=r"^FP64: needs subnormal float64 numbers"):
                work(0.0)
        assert [float(FP32.round(v)) for v in (0.0, 1.5, 0.1)] == [0.0, 1.5, float(np.float32(0.1))]
    finally:
        torch.set_flush_denormal(False)
    assert FP64.round(5e-324) == 5e-324
