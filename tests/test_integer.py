"""quantcourse.integer against exact rational arithmetic, brute force in 64-bit integers, and ONNX Runtime.

ONNX Runtime is asked for exact products ("session.x64quantprecision"): on x86 without VNNI its default adds pairs of
products in INT16, which saturates.  Its graph optimizations are off, so that each operator runs as it is.
"""

import hashlib
import itertools
import math
import os
import subprocess
import sys
from fractions import Fraction
from functools import cache
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.backend.test.case import node
from onnx.backend.test.case.node import convinteger, matmulinteger, qlinearconv, qlinearmatmul  # noqa: F401

from quantcourse import _products, integer
from quantcourse.affine import (
    INT4,
    INT8,
    INT8_NARROW,
    INT16,
    UINT4,
    UINT8,
    UINT16,
    QParams,
    choose_qparams,
    dequantize,
    quantize,
)
from quantcourse.integer import (
    Addition,
    accumulate_conv2d,
    accumulate_linear,
    adaptive_avg_pool,
    add,
    avg_pool,
    concat,
    conv1d,
    conv2d,
    conv_transpose2d,
    linear,
    max_pool,
    multiply_by_quantized_multiplier,
    output_multiplier,
    prepare_add,
    prepare_conv1d,
    prepare_conv2d,
    prepare_conv_transpose2d,
    prepare_linear,
    quantize_bias,
    quantize_multiplier,
    relu,
    relu6,
    requantize,
    transposed_kernels,
)

HALF = Fraction(1, 2)
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
TYPES = [INT4, UINT4, INT8, UINT8, INT8_NARROW, INT16, UINT16]


def half_up(v):
    return math.floor(v + HALF)


def half_away(v):
    return half_up(v) if v >= 0 else -half_up(-v)


def double(acc, m0, shift):
    """gemmlowp's two roundings, in exact arithmetic."""
    high = half_up(Fraction(acc * 2 ** max(shift, 0) * m0, 2**31))
    return half_away(Fraction(high, 2 ** max(-shift, 0)))


def single(acc, m0, shift):
    return half_up(acc * m0 * Fraction(2) ** (shift - 31))


def in_float32(acc, m0, shift):
    m = np.float32(float(m0 * Fraction(2) ** (shift - 31)))
    return int(np.rint(np.float32(acc) * m))


ORACLES = {"double": double, "single": single, "float": in_float32}


def codes_of(rng, qp, shape):
    return torch.from_numpy(rng.integers(qp.dtype.min, qp.dtype.max + 1, shape)).to(qp.dtype.storage)


def random_qp(rng, dtype, low=0.005, high=0.1, outputs=None, zero_point=True):
    shape = () if outputs is None else (outputs,)
    scale = torch.from_numpy(rng.uniform(low, high, shape).astype(np.float32).reshape(shape))
    middle = 0 if dtype.signed else 2 ** (dtype.bits - 1)
    z = rng.integers(dtype.min, dtype.max + 1, shape) if zero_point else np.full(shape, middle)
    return QParams(scale, torch.tensor(z, dtype=torch.int32), dtype, None if outputs is None else 0)


# --- The multiplier ---------------------------------------------------------------------------------------------

# tensorflow/lite/kernels/internal/quantization_util_test.cc: QuantizeMultiplierSmallerThanOneExp, ...GreaterThanOne,
# ...Underflow, QuantizeMultiplierArray.
TFLITE_MULTIPLIERS = [
    (0.25, 1073741824, -1),
    (0.50 - 5e-9, 2147483627, -1),
    (0.50 - 1e-10, 1073741824, 0),
    (0.50, 1073741824, 0),
    (0.75, 1610612736, 0),
    (1 - 1e-9, 2147483646, 0),
    (1 + 1e-11, 1073741824, 1),
    (1.25, 1342177280, 1),
    (1.50, 1610612736, 1),
    (1.75, 1879048192, 1),
    (2 - 1e-9, 2147483647, 1),
    (2 - 1e-11, 1073741824, 2),
    (2.0, 1073741824, 2),
    (2.0**-31, 1073741824, -30),
    (2.0**-32, 1073741824, -31),
    (float(np.float32(0.99)) * 2.0**-32, 0, 0),
    (2.0**-33, 0, 0),
    (0, 0, 0),
    (0.125, 1073741824, -2),
    (1, 1073741824, 1),
    (4, 1073741824, 3),
]


@pytest.mark.parametrize(("m", "m0", "shift"), TFLITE_MULTIPLIERS)
def test_multipliers_of_tflite(m, m0, shift):
    assert quantize_multiplier(m) == (m0, shift)


@given(st.floats(min_value=2.0**-32, max_value=2.0**30, exclude_max=True))
@example(2.0**-32)
@example(float(np.nextafter(1, 0)))
@example(0.5 + 2.0**-32)  # a tie: half away from zero
@example(0.5 + 3 * 2.0**-32)
def test_multiplier_is_nearest(m):
    if m > 2**30 - HALF:
        with pytest.raises(ValueError, match="m: need less than"):
            quantize_multiplier(m)
        return
    m0, shift = quantize_multiplier(m)
    assert type(m0) is int and type(shift) is int
    assert 2**30 <= m0 < 2**31
    exact = Fraction(m) * Fraction(2) ** (31 - shift)
    assert m0 == half_up(exact)
    assert abs(m0 / exact - 1) <= Fraction(1, 2**31)


@given(st.floats(min_value=0, max_value=2.0**-32, exclude_max=True))
def test_multipliers_too_small(m):
    """Only what rounds up to 2**-32 is kept; the rest brings no accumulator beyond 1/2."""
    if Fraction(m) >= (2**31 - HALF) * Fraction(1, 2**63):
        assert quantize_multiplier(m) == (2**30, -31)
    else:
        assert quantize_multiplier(m) == (0, 0)
    assert abs(INT32_MIN * Fraction(m)) <= HALF


def test_multipliers_in_a_tensor():
    m = torch.tensor([[m for m, _, _ in TFLITE_MULTIPLIERS]], dtype=torch.float64)
    m0, shift = quantize_multiplier(m)
    assert m0.dtype == shift.dtype == torch.int32 and m0.shape == shift.shape == m.shape
    assert list(zip(m0[0].tolist(), shift[0].tolist(), strict=True)) == [v[1:] for v in TFLITE_MULTIPLIERS]
    # 24 bits of a float32 fit the 31 of m0: nothing is lost.
    x = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    m0, shift = quantize_multiplier(x)
    assert torch.equal(torch.ldexp(m0.double(), shift - 31), x.double())


@pytest.mark.parametrize(
    ("m", "match"),
    [
        (-0.1, "m: need 0 or more, got -0.1"),
        (torch.tensor([0.5, -1.0]), "m: need 0 or more, got -1.0"),
        (math.nan, "m: 1 of 1 values are NaN or infinite"),
        (math.inf, "m: 1 of 1 values are NaN or infinite"),
        (2.0**30, r"m: need less than about 2\*\*30, got 1.07374e\+09"),
        (2**5000, "m: need a float64, got an integer of 5001 bits"),
        ("a", "m: need a number or a torch tensor, got 'a'"),
        (True, "m: need a number or a torch tensor, got True"),
        (torch.tensor([]), "m: need at least one value"),
        (torch.tensor(1), "m: need floating-point values, got torch.int64"),
    ],
)
def test_multiplier_refuses(m, match):
    with pytest.raises(ValueError, match=match):
        quantize_multiplier(m)


# --- Rounding ---------------------------------------------------------------------------------------------------

SOME_M0 = [0, 2**30, 2**30 + 1, 3 * 2**29, 1288490189, 2**31 - 2, 2**31 - 1]


@pytest.mark.parametrize("rounding", ORACLES)
def test_rounding_exhaustively(rounding):
    acc = torch.arange(-300, 301)
    for m0, shift in itertools.product(SOME_M0, [-31, -30, -9, -8, -7, -4, -3, -2, -1, 0, 1, 2, 9]):
        expected = [ORACLES[rounding](a, m0, shift) for a in acc.tolist()]
        assert multiply_by_quantized_multiplier(acc, m0, shift, rounding).tolist() == expected, (m0, shift)


int32s = st.one_of(
    st.integers(INT32_MIN, INT32_MAX),
    st.integers(-(2**20), 2**20),
    st.sampled_from([INT32_MIN, INT32_MIN + 1, -1, 0, 1, INT32_MAX - 1, INT32_MAX]),
)


@settings(max_examples=300)
@given(int32s, st.integers(2**30, INT32_MAX), st.integers(-31, 30), st.sampled_from(list(ORACLES)))
@example(INT32_MAX, INT32_MAX, 0, "float")
@example(INT32_MIN, INT32_MAX, 0, "double")
@example(INT32_MAX, INT32_MAX, -31, "single")
@example(INT32_MAX, INT32_MAX, -1, "double")
def test_rounding_everywhere(acc, m0, shift, rounding):
    """The exact value, its bound, and an error where the hardware's integers would wrap."""
    expected = ORACLES[rounding](acc, m0, shift)
    inside = INT32_MIN <= expected <= INT32_MAX
    if rounding == "double":
        inside = INT32_MIN <= acc * 2 ** max(shift, 0) <= INT32_MAX
    if not inside:
        with pytest.raises(ValueError, match=r"acc: need acc .* in INT32, got"):
            multiply_by_quantized_multiplier(acc, m0, shift, rounding)
        return
    result = multiply_by_quantized_multiplier(acc, m0, shift, rounding)
    assert result.dtype == torch.int32 and result.shape == ()
    assert int(result) == expected
    exact = acc * m0 * Fraction(2) ** (shift - 31)
    bound = {
        "double": HALF + (Fraction(2) ** (shift - 1) if shift < 0 else 0),
        "single": HALF,
        "float": HALF + abs(exact) * Fraction(3, 2**24) + Fraction(1, 2**20),  # two conversions and a product
    }
    assert abs(int(result) - exact) <= bound[rounding]


def test_high_mul_is_gemmlowps():
    """A nudge by the sign of the product and a division that truncates: ties go up either way."""
    for a, b in itertools.product(
        [-3, -1, 1, 3, 5, 12345, -54321, INT32_MAX, INT32_MIN], [2**30, 2**30 + 1, 2**31 - 1]
    ):
        nudge = 2**30 if a * b >= 0 else 1 - 2**30
        truncated = math.trunc(Fraction(a * b + nudge, 2**31))
        assert int(multiply_by_quantized_multiplier(a, b, 0)) == truncated == half_up(Fraction(a * b, 2**31))
    # 1/2 and -1/2: up, so they differ; then halves away from zero.
    assert multiply_by_quantized_multiplier(torch.tensor([1, -1]), 2**30, 0).tolist() == [1, 0]
    assert multiply_by_quantized_multiplier(torch.tensor([2, -2]), 2**30, -1).tolist() == [1, -1]


# The same file: MultiplyByQuantizedMultiplierInt32.
@pytest.mark.parametrize("rounding", ["double", "single"])
@pytest.mark.parametrize(
    ("acc", "m", "product"),
    [
        (0, 0.1, 0),
        (1, 0, 0),
        (10000, 0.00097656, 10),
        (-10000, 0.00097656, -10),
        (INT32_MIN, 0.00001, -21475),
        (INT32_MAX, 0.00001, 21475),
    ],
)
def test_products_of_tflite(acc, m, product, rounding):
    assert int(multiply_by_quantized_multiplier(acc, *quantize_multiplier(m), rounding)) == product


@pytest.mark.parametrize("rounding", ["double", "single"])
def test_largest_product_of_tflite(rounding):
    expected = round(INT32_MAX * INT32_MAX / 2.0**34)
    assert int(multiply_by_quantized_multiplier(INT32_MAX, INT32_MAX, -3, rounding)) == expected
    assert int(multiply_by_quantized_multiplier(-INT32_MAX, INT32_MAX, -3, rounding)) == -expected


@pytest.mark.parametrize("k", range(7))
def test_how_often_two_roundings_differ_from_one(k):
    """On about ``2**-(k + 1)`` of the products at right shift k >= 1, by 1; at 0 never."""
    generator = torch.Generator().manual_seed(k)
    acc = torch.randint(-(10**6), 10**6, (100_000,), generator=generator)
    m0 = torch.randint(2**30, 2**31, (100_000,), generator=generator)
    shift = torch.full_like(m0, -k)
    first, second = (multiply_by_quantized_multiplier(acc, m0, shift, r) for r in ("double", "single"))
    assert (first - second).abs().max() <= 1
    share = float((first != second).double().mean())
    assert share == (0 if k == 0 else pytest.approx(2.0 ** -(k + 1), rel=0.1))


def test_multiplier_shapes_broadcast():
    acc, m0, shift = torch.tensor([[100], [-200]]), torch.tensor([2**30, 2**31 - 1]), torch.tensor([-2, 0])
    for rounding, oracle in ORACLES.items():
        result = multiply_by_quantized_multiplier(acc, m0, shift, rounding)
        expected = [[oracle(a, m, s) for m, s in zip(m0.tolist(), shift.tolist(), strict=True)] for a in (100, -200)]
        assert result.tolist() == expected
    assert multiply_by_quantized_multiplier(8, m0, shift).tolist() == [1, 8]
    assert acc.tolist() == [[100], [-200]]  # nothing is written over


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((torch.tensor([0.5]), 2**30, 0), "acc: need integers .* got torch.float32"),
        ((2**31, 2**30, 0), "acc: need -2147483648 to 2147483647, got 2147483648"),
        ((1, 2**31, 0), "m0: need 0 to 2147483647"),
        ((1, -1, 0), "m0: need 0 to 2147483647, got -1"),
        ((1, 2**30, 31), "shift: need -31 to 30, got 31"),
        ((1, 2**30, -32), "shift: need -31 to 30, got -32"),
        ((1, 2.0, 0), "m0: need an integer or a torch tensor, got"),
        ((1, 2**30, 0, "up"), "rounding: need one of 'double', 'single', 'float', got 'up'"),
        (
            (torch.ones(3, dtype=torch.int32), torch.full((2,), 2**30), torch.zeros(2, dtype=int)),
            "acc, m0: need shapes",
        ),
        ((1, torch.full((2,), 2**30), 0), r"m0, shift: need one shape, got \(2,\) and \(\)"),
        ((1, torch.full((2,), 2**30), torch.tensor([0])), r"m0, shift: need one shape, got \(2,\) and \(1,\)"),
        ((torch.ones(0, dtype=torch.int32), 2**30, 0), "acc: need at least one"),
    ],
)
def test_multiply_refuses(arguments, match):
    with pytest.raises(ValueError, match=match):
        multiply_by_quantized_multiplier(*arguments)


# --- Requantization ---------------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(st.integers(0, 2**32 - 1), st.sampled_from(list(ORACLES)), st.sampled_from([INT4, INT8, UINT8, INT16]))
def test_requantize_is_multiply_add_clip(seed, rounding, dtype):
    rng = np.random.default_rng(seed)
    qp = random_qp(rng, dtype)
    shape = tuple(rng.integers(1, 5, rng.integers(1, 5)))
    axis = int(rng.integers(-len(shape), len(shape)))
    acc = torch.from_numpy(rng.integers(-(2**16), 2**16, shape)).int()
    m = torch.from_numpy(rng.uniform(0, 0.01, shape[axis]))
    codes = requantize(acc, m, qp, rounding, axis)
    assert codes.dtype == dtype.storage and codes.shape == acc.shape
    m0, shift = quantize_multiplier(m.float() if rounding == "float" else m)
    for index in itertools.product(*map(range, shape)):
        channel = index[axis]
        rounded = ORACLES[rounding](int(acc[index]), int(m0[channel]), int(shift[channel])) + int(qp.zero_point)
        assert int(codes[index]) == min(max(rounded, dtype.min), dtype.max)
    # One number for all channels gives what many equal ones give.
    same = requantize(acc, torch.full((shape[axis],), 0.003), qp, rounding, axis)
    assert torch.equal(requantize(acc, torch.tensor(0.003), qp, rounding), same)


def test_requantize_in_chunks_and_any_memory(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    acc = torch.randint(-(10**5), 10**5, (3, 70, 23, 11), generator=generator, dtype=torch.int32)
    m, qp = torch.rand(70, generator=generator) * 1e-3, QParams(0.1, 3, INT8)
    whole = requantize(acc, m, qp)
    last, before = acc.to(memory_format=torch.channels_last), acc.clone()
    assert torch.equal(requantize(last, m, qp), whole)
    assert torch.equal(requantize(acc.long(), m, qp), whole)
    assert torch.equal(requantize(acc.transpose(2, 3), m, qp), whole.transpose(2, 3))
    assert torch.equal(requantize(acc[0, :, 0], m, qp, axis=0), whole[0, :, 0])
    for size in (1, 100, 1 << 20):
        monkeypatch.setattr(integer, "CHUNK", size)
        assert torch.equal(requantize(acc[:1], m, qp), whole[:1])
        assert torch.equal(requantize(last[:, 7], float(m[7]), qp), whole[:, 7])
    for rounding in ORACLES:
        given_ = acc.long()
        requantize(given_, float(m[0]), qp, rounding)
        assert torch.equal(given_, before)  # nothing is written over


def rounded_in_int64(acc, m0, shift, rounding):
    """The same in arrays: magnitudes and their signs, so that ties away from zero need no thought."""
    left, right = max(shift, 0), max(-shift, 0)
    if rounding == "single":
        return (acc * m0 + (1 << 30 - shift)) >> 31 - shift
    high = ((acc << left) * m0 + (1 << 30)) >> 31
    return np.sign(high) * ((abs(high) + (1 << right >> 1)) >> right)


def clipped(values, qp, activation):
    low = int(qp.zero_point) if activation else qp.dtype.min
    return np.clip(values + int(qp.zero_point), low, qp.dtype.max)


def no_int64(*_):
    raise AssertionError("the general way was taken")


def near_ties(n, first, last, count):
    """``(acc, m0)`` whose product at shift ``-n`` lies by one 2**-31 below a tie of the second rounding.

    ``acc * m0 + 2**30 = (2 j + 1) * 2**(30 + n) - 1``: one bit lost makes it a tie.
    """
    modulus, found = 1 << 31 + n, []
    for acc in range(first | 1, last, 2):
        m0 = ((1 << 30 + n) - (1 << 30) - 1) * pow(acc, -1, modulus) % modulus
        if 2**30 <= m0 < 2**31:
            found.append((acc, m0))
            if len(found) == count:
                return found
    raise AssertionError("too few")


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("rounding", ["double", "single"])
@pytest.mark.parametrize("dtype", [UINT8, INT8, UINT4, INT16])
def test_requantize_of_any_accumulator(rounding, dtype, activation, monkeypatch):
    """Multipliers for which floats do: all small sums, the ends of INT32, and both sides of 2**22."""
    monkeypatch.setattr(integer, "_multiply", no_int64)
    rng = np.random.default_rng(dtype.bits)
    edges = [INT32_MIN, -(2**22), 0, 2**22, INT32_MAX]
    acc = np.concatenate([np.clip(np.arange(e - 3000, e + 3000), INT32_MIN, INT32_MAX) for e in edges])
    acc = np.concatenate([acc, rng.integers(-(2**20), 2**20, 20_000)])
    for shift in range(dtype.bits - 20, 0):
        m0s = [2**30, 2**30 + 1, 2**31 - 1, *rng.integers(2**30, 2**31, 3).tolist()]
        m = torch.tensor([m0 * 2.0 ** (shift - 31) for m0 in m0s], dtype=torch.float64)
        qp = QParams(0.5, int(rng.integers(dtype.min, dtype.max + 1)), dtype)
        sums = torch.from_numpy(acc).int().unsqueeze(1).expand(-1, len(m0s))
        codes = requantize(sums, m, qp, rounding, activation=activation)
        for column, m0 in enumerate(m0s):
            expected = clipped(rounded_in_int64(acc, m0, shift, rounding), qp, activation)
            np.testing.assert_array_equal(codes[:, column].numpy(), expected)
        one = requantize(sums[:, :2], float(m[1]), qp, rounding, activation=activation)
        assert torch.equal(one[:, 1], codes[:, 1])


@pytest.mark.parametrize("rounding", ["double", "single"])
@pytest.mark.parametrize("shift", [-31, -25, -19, -13, -1, 0, 1, 3])
def test_requantize_with_multipliers_that_reach_far(shift, rounding):
    """Sums beyond 2**22 that are not clipped, channels that are never used, products above 1."""
    rng = np.random.default_rng(shift % 64)
    limit = min(2**31, 2 ** (31 - max(shift, 0)))
    for bound in (2**10, 2**22, limit):
        acc = rng.integers(-bound, bound, 5000)
        m0s = [2**30, *rng.integers(2**30, 2**31, 2).tolist(), 0]
        m = torch.tensor([m0 * 2.0 ** (shift - 31) for m0 in m0s], dtype=torch.float64)
        sums = torch.from_numpy(acc).int().unsqueeze(1).expand(-1, 4)
        for qp, activation in [(QParams(0.5, 100, UINT8), None), (QParams(0.5, -3, INT16), "relu")]:
            codes = requantize(sums, m, qp, rounding, activation=activation)
            for column, m0 in enumerate(m0s):
                expected = clipped(rounded_in_int64(acc, m0, shift if m0 else 0, rounding), qp, activation)
                np.testing.assert_array_equal(codes[:, column].numpy(), expected)


@pytest.mark.parametrize(("n", "first", "last"), [(9, 2**15, 2**16), (12, 2**18, 2**19), (17, 2**21, 2**22)])
def test_requantize_next_to_ties(n, first, last):
    """One 2**-31 below a tie, by up to 53 bits of a product; floats must not lose the last."""
    for acc, m0 in near_ties(n, first, last, 3):
        assert_one_by_one(acc, m0, -n)


def test_requantize_next_to_ties_beyond_float64():
    """The same with 54 and more bits, where float64 would round to the tie."""
    for acc, m0 in near_ties(17, 2**23, 2**24, 3):
        exact, lost = acc * m0 + 2**30, float(acc) * m0 * 2.0**-31 + 0.5
        assert Fraction(lost) != Fraction(exact, 2**31) and int(lost) == (exact >> 31) + 1
        assert_one_by_one(acc, m0, -17)


def assert_one_by_one(acc, m0, shift):
    qp, m = QParams(1.0, 0, INT8), m0 * 2.0 ** (shift - 31)
    sums = [acc - 1, acc, acc + 1, 1 - acc, -acc, -acc - 1]
    for rounding, activation in itertools.product(["double", "single"], [None, "relu"]):
        codes = requantize(torch.tensor(sums), m, qp, rounding, activation=activation).tolist()
        expected = [ORACLES[rounding](a, m0, shift) for a in sums]
        assert codes == [min(max(e, 0 if activation else -128), 127) for e in expected]


@settings(max_examples=200)
@given(
    st.lists(int32s, min_size=1, max_size=20),
    st.integers(2**30, INT32_MAX),
    st.integers(-31, -1),
    st.sampled_from(list(ORACLES)),
    st.sampled_from([UINT8, INT8, INT16]),
    st.sampled_from([None, "relu"]),
)
def test_requantize_everywhere(acc, m0, shift, rounding, dtype, activation):
    m = m0 * 2.0 ** (shift - 31)
    m0, shift = quantize_multiplier(torch.tensor(m).float()) if rounding == "float" else (m0, shift)
    qp = QParams(1.0, 7, dtype)
    codes = requantize(torch.tensor(acc), m, qp, rounding, activation=activation)
    expected = [ORACLES[rounding](a, int(m0), int(shift)) + 7 for a in acc]
    low = 7 if activation else dtype.min
    assert codes.tolist() == [min(max(e, low), dtype.max) for e in expected]


@pytest.mark.parametrize("rounding", ORACLES)
def test_requantize_clips_far_results_without_wrapping(rounding):
    """A product near the ends of INT32 plus a zero point must not come round at the other side."""
    acc, m = torch.tensor([INT32_MIN, INT32_MAX], dtype=torch.int32), 1 - 2.0**-24
    for zero_point in (30_000, -30_000):
        assert requantize(acc, m, QParams(1.0, zero_point, INT16), rounding).tolist() == [-(2**15), 2**15 - 1]
    with pytest.raises(ValueError, match="use a smaller multiplier"):
        requantize(acc, 1.5, QParams(1.0, 0, INT8), rounding)


def test_requantize_at_ties():
    acc, qp = torch.tensor([-3, -1, 1, 3]), QParams(1.0, 1, INT8)
    # -1.5, -0.5, 0.5, 1.5: up; up; to even, and only then the odd zero point, as ONNX has it.
    assert (requantize(acc, 0.5, qp, "double") - 1).tolist() == [-1, 0, 1, 2]
    assert (requantize(acc, 0.5, qp, "single") - 1).tolist() == [-1, 0, 1, 2]
    assert (requantize(acc, 0.5, qp, "float") - 1).tolist() == [-2, 0, 0, 2]
    # Quarters: a second rounding at the tie, away from zero.
    acc = torch.tensor([-6, -2, 2, 6])
    assert (requantize(acc, 0.25, qp, "double") - 1).tolist() == [-2, -1, 1, 2]
    assert (requantize(acc, 0.25, qp, "single") - 1).tolist() == [-1, 0, 1, 2]


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"multiplier": -0.5}, "multiplier: need 0 or more"),
        ({"multiplier": torch.ones(3)}, r"multiplier: need one for each index of axis -1 of acc, .*\(2, 2\), got 3"),
        ({"multiplier": torch.ones(2), "axis": 2}, "index of axis 2"),
        ({"multiplier": torch.ones(2, 2)}, r"multiplier: need a number, 0-d or 1-D, got shape \(2, 2\)"),
        ({"acc": torch.ones(2, 2)}, "acc: need integers"),
        ({"acc": torch.tensor([[2**40]])}, "acc: need -2147483648 to"),
        ({"qp": QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), INT8, axis=0)}, "qp: need one scale"),
        ({"qp": 0.5}, "qp: need QParams, got a float"),
        ({"rounding": "even"}, "rounding: need one of"),
        ({"activation": "gelu"}, "activation: need one of 'relu', 'relu6', got 'gelu'"),
    ],
)
def test_requantize_refuses(change, match):
    given_ = {"acc": torch.ones(2, 2, dtype=torch.int32), "multiplier": 0.5, "qp": QParams(0.5, 0, INT8)}
    with pytest.raises(ValueError, match=match):
        requantize(**(given_ | change))


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_bias_and_output_multiplier(seed, per_channel):
    rng = np.random.default_rng(seed)
    outputs = int(rng.integers(1, 6))
    qp, out = random_qp(rng, UINT8), random_qp(rng, UINT8)
    weight_qp = random_qp(rng, INT8, outputs=outputs if per_channel else None, zero_point=False)
    bias = torch.from_numpy(rng.normal(0, 10, outputs)).float()
    codes = quantize_bias(bias, qp, weight_qp)
    m = output_multiplier(qp, weight_qp, out)
    assert codes.dtype == torch.int32 and m.dtype == torch.float64 and m.shape == weight_qp.scale.shape
    for j in range(outputs):
        s_x, s_z = Fraction(float(qp.scale)), Fraction(float(out.scale))
        s_w = Fraction(float(weight_qp.scale.expand(outputs)[j]))
        assert abs(int(codes[j]) - Fraction(float(bias[j])) / (s_x * s_w)) <= HALF + Fraction(1, 2**20)
        assert abs(Fraction(float(m.expand(outputs)[j])) / (s_x * s_w / s_z) - 1) <= Fraction(1, 2**52)


@pytest.mark.parametrize("paths", [{}, {"axis": -3}, {"axis": 2}])
def test_one_multiplier_in_a_tensor_is_for_one_index(paths):
    """A 1-D multiplier of length 1 is not for all channels, and an axis beyond the others is none."""
    with pytest.raises(ValueError, match="multiplier: need one for each index of axis"):
        requantize(torch.ones(2, 3, dtype=torch.int32), torch.ones(1), QParams(1.0, 0, UINT8), **paths)


def test_memory_of_outputs():
    """The axis of the multipliers lies last in memory; sums of int8 products have channels last."""
    qp, last = QParams(1.0, 0, UINT8), torch.channels_last
    acc = torch.ones(2, 3, 4, 5, dtype=torch.int32)
    for axis in range(4):
        assert requantize(acc, torch.ones(acc.shape[axis]) / 2, qp, axis=axis).stride(axis) == 1
    assert requantize(acc.to(memory_format=last), 0.5, qp).is_contiguous(memory_format=last)
    if _products.int_mm_is_exact():
        q, weight = torch.ones(2, 4, 5, 6, dtype=torch.uint8), torch.ones(8, 4, 3, 3, dtype=torch.int8)
        assert accumulate_conv2d(q, qp, weight, QParams(1.0, 0, INT8)).is_contiguous(memory_format=last)


def test_fused_relu6_where_6_is_beyond_the_codes():
    """6 / 0.01 + 3 = 603, of which UINT8 has 255."""
    out, acc = QParams(0.01, 3, UINT8), torch.tensor([-500, 0, 100, 500, 5000])
    assert requantize(acc, 1.0, out, activation="relu6").tolist() == [3, 3, 103, 255, 255]


def test_bias_ties_and_ends():
    qp = QParams(0.5, 0, UINT8), QParams(1.0, 0, INT8)
    assert quantize_bias(torch.tensor([0.25, 0.75, -0.25, 1.0]), *qp).tolist() == [0, 2, 0, 2]
    assert quantize_bias(torch.tensor([-(2.0**30) + 64]), *qp).tolist() == [-(2**31) + 128]
    with pytest.raises(ValueError, match=r"bias: need codes in INT32, got 2.14748e\+09 at 1"):
        quantize_bias(torch.tensor([1.0, 2.0**30]), *qp)
    with pytest.raises(ValueError, match="bias: 1 of 2 values are NaN"):
        quantize_bias(torch.tensor([1.0, math.nan]), *qp)
    with pytest.raises(ValueError, match="bias: need 1-D"):
        quantize_bias(torch.ones(2, 2), *qp)
    three = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), INT8, axis=0)
    with pytest.raises(ValueError, match=r"bias: need 1-D, one for each output \(\(3,\) scales"):
        quantize_bias(torch.ones(2), qp[0], three)


def test_bias_takes_all_of_int32():
    """-2**31 is a code, -2**31 - 1 and 2**31 are none, however far."""
    qp = QParams(0.5, 0, UINT8), QParams(1.0, 0, INT8)
    ends = torch.tensor([-(2.0**30), 2.0**30 - 0.5], dtype=torch.float64)
    assert quantize_bias(ends, *qp).tolist() == [INT32_MIN, INT32_MAX]
    for beyond in (-(2.0**30) - 0.5, 2.0**30, -(2.0**40)):
        with pytest.raises(ValueError, match=f"bias: need codes in INT32, got {2 * beyond:g} at 1".replace("+", ".")):
            quantize_bias(torch.tensor([-(2.0**30), beyond], dtype=torch.float64), *qp)


def test_bias_divides_by_the_product_in_float64():
    """``0.1 * 0.1`` of float32 scales has 48 bits: rounded to 24, a code near 2**30 would be off by 64."""
    qp = QParams(0.1, 0, UINT8), QParams(0.1, 0, INT8)
    exact = Fraction(11_000_000) / Fraction(float(np.float32(0.1))) ** 2
    assert quantize_bias(torch.tensor([1.1e7]), *qp).item() == half_up(exact)


# --- Accumulators -----------------------------------------------------------------------------------------------


def brute_conv2d(q, qp, weight, weight_qp, bias, stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    """The definition in 64-bit integers: subtract zero points, pad with 0, multiply, add."""
    x = q.numpy().astype(np.int64) - int(qp.zero_point)
    z = weight_qp.zero_point.numpy().astype(np.int64).reshape(-1, 1, 1, 1)
    w = weight.numpy().astype(np.int64) - z
    (p_h, p_w), (s_h, s_w), (d_h, d_w) = padding, stride, dilation
    x = np.pad(x, ((0, 0), (0, 0), (p_h, p_h), (p_w, p_w)))
    outputs, channels, k_h, k_w = w.shape
    height = (x.shape[2] - d_h * (k_h - 1) - 1) // s_h + 1
    width = (x.shape[3] - d_w * (k_w - 1) - 1) // s_w + 1
    y = np.zeros((len(x), outputs, height, width), np.int64)
    for j, r, c in itertools.product(range(outputs), range(height), range(width)):
        first = j // (outputs // groups) * channels
        top, left = r * s_h, c * s_w
        seen = x[
            :, first : first + channels, top : top + d_h * (k_h - 1) + 1 : d_h, left : left + d_w * (k_w - 1) + 1 : d_w
        ]
        y[:, j, r, c] = (seen * w[j]).sum((1, 2, 3))
    return y + (0 if bias is None else bias.numpy().astype(np.int64).reshape(1, -1, 1, 1))


def random_conv(rng, dtype, weight_dtype, asymmetric=True):
    """Arguments of a convolution that fits its image."""
    groups = int(rng.choice([1, 1, 2, 3]))
    channels, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kernel = rng.integers(1, 4, 2)
    stride, dilation = (tuple(int(v) for v in rng.integers(1, 3, 2)) for _ in range(2))
    padding = tuple(int(v) for v in rng.integers(0, 3, 2))
    size = [int(d * (k - 1) + 1 + rng.integers(0, 4)) for k, d in zip(kernel, dilation, strict=True)]
    qp = random_qp(rng, dtype)
    per_channel = outputs if rng.random() < 0.5 else None
    weight_qp = random_qp(rng, weight_dtype, outputs=per_channel, zero_point=asymmetric)
    q = codes_of(rng, qp, (int(rng.integers(1, 3)), channels, *size))
    weight = codes_of(rng, weight_qp, (outputs, channels // groups, *kernel))
    bias = torch.from_numpy(rng.integers(-(2**20), 2**20, outputs)).int() if rng.random() < 0.7 else None
    return (q, qp, weight, weight_qp, bias), (stride, padding, dilation, groups)


@pytest.fixture(params=["as this machine", "without int8 products"])
def products(request, monkeypatch):
    if request.param == "without int8 products":
        monkeypatch.setattr(_products, "int_mm_is_exact", lambda: False)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("weight_dtype", TYPES)
@pytest.mark.parametrize("dtype", TYPES)
def test_conv2d_is_its_definition(dtype, weight_dtype):
    if dtype.bits == weight_dtype.bits == 16:
        with pytest.raises(ValueError, match="weight, bias: need"):
            accumulate_conv2d(*_sixteen_bits(dtype, weight_dtype))
        return
    for seed in range(6):
        tensors, geometry = random_conv(np.random.default_rng(seed), dtype, weight_dtype)
        acc = accumulate_conv2d(*tensors, *geometry)
        assert acc.dtype == torch.int32
        np.testing.assert_array_equal(acc.numpy(), brute_conv2d(*tensors, *geometry))


def _sixteen_bits(dtype, weight_dtype):
    """Two codes of 16 bits leave little of INT32: one product of their largest."""
    qp, weight_qp = QParams(1.0, dtype.min, dtype), QParams(1.0, weight_dtype.min, weight_dtype)
    return torch.zeros(1, 1, 1, 1, dtype=torch.int32), qp, torch.full((1, 1, 1, 1), weight_dtype.max), weight_qp


@pytest.mark.usefixtures("products")
@settings(max_examples=40)
@given(st.integers(0, 2**32 - 1), st.sampled_from(TYPES), st.sampled_from([INT4, INT8, UINT8]))
def test_linear_is_its_definition(seed, dtype, weight_dtype):
    rng = np.random.default_rng(seed)
    inputs, outputs = (int(n) for n in rng.integers(1, 70, 2))
    qp, weight_qp = random_qp(rng, dtype), random_qp(rng, weight_dtype, outputs=outputs)
    q = codes_of(rng, qp, (*rng.integers(1, 4, rng.integers(0, 3)), inputs))
    weight = codes_of(rng, weight_qp, (outputs, inputs))
    bias = torch.from_numpy(rng.integers(-999, 999, outputs)).int()
    w = weight.long() - weight_qp.zero_point.view(-1, 1)
    expected = ((q.long() - int(qp.zero_point)).unsqueeze(-2) * w).sum(-1) + bias
    assert torch.equal(accumulate_linear(q, qp, weight, weight_qp, bias).long(), expected)


@pytest.mark.usefixtures("products")
def test_sums_that_float32_must_share_out():
    """Wide layers, all codes at the ends: the sums pass 2**24, where float32 has only even numbers."""
    generator = torch.Generator().manual_seed(0)
    qp, weight_qp = QParams(1.0, 0, UINT8), QParams(1.0, 0, INT8)
    weight = torch.randint(0, 2, (4, 3001), generator=generator).mul_(255).sub_(128)
    weight[0] = 127
    weight[1, ::2], weight[1, 1::2] = -128, 127
    q = torch.full((2, 3001), 255)
    q[1] -= torch.randint(0, 3, (3001,), generator=generator)
    expected = q @ weight.T
    assert int(expected[0, 0]) > 2**24 and int(expected[0, 0]) % 2 == 1
    assert torch.equal(accumulate_linear(q, qp, weight, weight_qp).long(), expected)
    images, kernels = q.view(2, 3001, 1, 1).expand(-1, -1, 3, 2), weight.view(4, 3001, 1, 1)
    acc = accumulate_conv2d(images, qp, kernels, weight_qp)
    assert torch.equal(acc.long(), expected.view(2, 4, 1, 1).expand(-1, -1, 3, 2))
    # Groups can't be shared out: a group of its own for each half.
    acc = accumulate_conv2d(images[:, :3000].repeat(1, 2, 1, 1), qp, kernels[:, :3000], weight_qp, groups=2)
    half = q[:, :3000] @ weight[:, :3000].T
    assert torch.equal(acc[..., 0, 0].long(), half)


@pytest.mark.usefixtures("products")
def test_padding_is_with_the_zero_point():
    rng = np.random.default_rng(0)
    for dtype, padding in itertools.product([INT8, UINT8, INT16], [(1, 1), (2, 0), (0, 3)]):
        qp, weight_qp = random_qp(rng, dtype), random_qp(rng, INT8, outputs=3)
        q, weight = codes_of(rng, qp, (2, 4, 5, 6)), codes_of(rng, weight_qp, (3, 4, 3, 2))
        p_h, p_w = padding
        padded = torch.full((2, 4, 5 + 2 * p_h, 6 + 2 * p_w), int(qp.zero_point), dtype=q.dtype)
        padded[:, :, p_h : p_h + 5, p_w : p_w + 6] = q
        assert torch.equal(
            accumulate_conv2d(q, qp, weight, weight_qp, padding=padding),
            accumulate_conv2d(padded, qp, weight, weight_qp),
        )


@pytest.mark.parametrize("setting", ["autocast", "no oneDNN"])
@pytest.mark.usefixtures("products")
@pytest.mark.filterwarnings("ignore::UserWarning")  # torch's own, on reading a setting for TF32
def test_settings_of_torch_change_no_sum(setting):
    """bfloat16 keeps 8 bits of a sum, Winograd's transforms round."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randint(0, 256, (16, 8, 16, 16), generator=generator, dtype=torch.uint8)
    weight = torch.randint(-128, 128, (8, 8, 3, 3), generator=generator, dtype=torch.int8)
    qp, weight_qp = QParams(0.5, 3, UINT8), QParams(0.1, 0, INT8)
    for groups in (1, 2, 8):
        kernels = weight[:, : 8 // groups]
        expected = torch.nn.functional.conv2d(q.double() - 3, kernels.double(), groups=groups)
        context = (
            torch.autocast("cpu", dtype=torch.bfloat16)
            if setting == "autocast"
            else torch.backends.mkldnn.flags(enabled=False)
        )
        with context:
            acc = accumulate_conv2d(q, qp, kernels, weight_qp, groups=groups)
        assert torch.equal(acc.double(), expected)


@pytest.mark.usefixtures("products")
def test_weights_reach_128_from_a_zero_point_of_127():
    """255 - 127 is one more than int8 holds."""
    weight, weight_qp = torch.tensor([[255, 0]]), QParams(1.0, 127, UINT8)
    assert accumulate_linear(torch.tensor([[1, 1]]), QParams(1.0, 0, UINT8), weight, weight_qp).item() == 128 - 127


def test_the_bound_itself_does_not_overflow():
    """``|INT32_MIN|`` is 2**31, and 17 million weights of 127 sum to more than INT32 has."""
    qp, weight_qp = QParams(1.0, 0, INT4), QParams(1.0, 0, INT8)
    codes, bias = torch.zeros(1, 1, dtype=torch.int8), torch.tensor([INT32_MIN], dtype=torch.int32)
    with pytest.raises(ValueError, match=f"weight, bias: need .* got {2**31}"):
        accumulate_linear(codes, qp, codes, weight_qp, bias)
    n = 17_000_000
    weight = torch.full((1, n), 127, dtype=torch.int8)
    with pytest.raises(ValueError, match=f"weight, bias: need .* got {n * 127 * 8}"):
        accumulate_linear(torch.zeros(1, n, dtype=torch.int8), qp, weight, weight_qp)


def test_codes_in_any_memory():
    (q, qp, weight, weight_qp, bias), geometry = random_conv(np.random.default_rng(3), UINT8, INT8)
    expected = accumulate_conv2d(q, qp, weight, weight_qp, bias, *geometry)
    for other in (q.to(memory_format=torch.channels_last), q.long(), q.flip(2).flip(2), q.expand(1, *q.shape)[0]):
        assert torch.equal(accumulate_conv2d(other, qp, weight, weight_qp, bias, *geometry), expected)
    last = weight.to(memory_format=torch.channels_last)
    assert torch.equal(accumulate_conv2d(q, qp, last, weight_qp, bias, *geometry), expected)


@pytest.mark.usefixtures("products")
def test_single_rows_and_overlapping_windows():
    """Shapes at which rows of a matrix may lie in memory in more than one way."""
    rng = np.random.default_rng(0)
    for rows, inputs, outputs in itertools.product([1, 2, 5], [1, 2, 9], [1, 2, 5]):
        qp, weight_qp = random_qp(rng, UINT8), random_qp(rng, INT8, zero_point=False)
        q, weight = codes_of(rng, qp, (rows, inputs)), codes_of(rng, weight_qp, (outputs, inputs))
        expected = (q.long() - int(qp.zero_point)) @ (weight.long() - int(weight_qp.zero_point)).T
        assert torch.equal(accumulate_linear(q, qp, weight, weight_qp).long(), expected)
        for some in (q[0], q[:1].expand(3, -1)[1:2], q.T.contiguous().T[0].as_strided((1, inputs), (0, rows))):
            one = accumulate_linear(some, qp, weight[:1].expand(2, -1)[:1], weight_qp)
            assert one.flatten().tolist() == expected[0, :1].tolist()
    # A kernel as wide as the image: neighbouring windows share rows of it.
    qp, weight_qp = random_qp(rng, UINT8), random_qp(rng, INT8, zero_point=False)
    q, weight = codes_of(rng, qp, (1, 1, 6, 3)), codes_of(rng, weight_qp, (3, 1, 3, 3))
    acc = accumulate_conv2d(q, qp, weight, weight_qp)
    np.testing.assert_array_equal(acc.numpy(), brute_conv2d(q, qp, weight, weight_qp, None))


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("sizes", [(1, 1), (64, 1), (64, 100), (1 << 30, 1)])
def test_blocks_change_nothing(sizes, monkeypatch):
    """Blocks of a row, of some rows, of some images, of all."""
    for seed in range(8):
        tensors, geometry = random_conv(np.random.default_rng(seed), UINT8, INT8)
        expected = brute_conv2d(*tensors, *geometry)
        monkeypatch.setattr(_products, "BLOCK", sizes[0])
        monkeypatch.setattr(_products, "ROWS", sizes[1])
        acc = accumulate_conv2d(*tensors, *geometry)
        np.testing.assert_array_equal(acc.numpy(), expected)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("dtype", "weight_dtype"), [(UINT8, INT8), (INT8, UINT8), (INT16, INT8), (UINT4, INT16)])
def test_prepared_layers(dtype, weight_dtype):
    """Prepared once, they give at each call what the function gives, and keep nothing of what they saw."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        (q, qp, weight, weight_qp, bias), geometry = random_conv(rng, dtype, weight_dtype)
        acc = accumulate_conv2d(q, qp, weight, weight_qp, bias, *geometry)
        out = output_qp(rng, acc, qp, weight_qp, UINT8)
        for rounding, activation in itertools.product(ORACLES, [None, "relu", "relu6"]):
            layer = prepare_conv2d(weight, weight_qp, bias, qp, out, *geometry, rounding, activation)
            expected = conv2d(q, qp, weight, weight_qp, bias, out, *geometry, rounding, activation)
            m = integer._layer_multiplier(qp, weight_qp, out, rounding)
            assert torch.equal(expected, requantize(acc, m, out, rounding, 1, activation))
            assert torch.equal(layer(q), expected)
            layer(codes_of(rng, qp, (3, *q.shape[1:])))
            assert torch.equal(layer(q), expected)
        reals = prepare_conv2d(weight, weight_qp, bias, qp, None, *geometry)
        assert torch.equal(reals.accumulate(q), acc)
        scale = (qp.scale.double() * weight_qp.scale.double()).view(-1, 1, 1)
        assert torch.equal(reals(q), (acc.double() * scale).float())
        rows, flat = q.flatten(1), codes_of(rng, QParams(1.0, 0, INT8), (4, q[0].numel()))
        args = flat, QParams(0.01, 0, INT8), None, qp
        assert torch.equal(prepare_linear(*args, out)(rows), linear(rows, qp, *args[:3], out))
        assert prepare_linear(*args, None)(rows).dtype == torch.float32


def test_codes_that_cannot_be_wrong_are_not_read(monkeypatch):
    """A byte is a code of UINT8; a layer that has its multipliers looks at no sum either."""
    q, weight = torch.ones(2, 4, 5, 5, dtype=torch.uint8), torch.ones(6, 4, 3, 3, dtype=torch.int8)
    layer = prepare_conv2d(weight, QParams(0.1, 0, INT8), None, QParams(0.5, 3, UINT8), QParams(1.0, 9, UINT8))
    narrow = prepare_conv2d(weight, QParams(0.1, 0, INT8), None, QParams(0.5, 3, UINT4), QParams(1.0, 9, UINT8))

    def read(*_):
        raise AssertionError("read")

    monkeypatch.setattr(torch.Tensor, "aminmax", read)
    assert layer(q).unique().tolist() == [9 - 4]  # 36 * -2 * 0.05 = -3.6
    with pytest.raises(AssertionError, match="read"):
        narrow(q)
    monkeypatch.undo()
    with pytest.raises(ValueError, match="q: need 0 to 15, got 16 to 16"):
        narrow(16 * q)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dtype", [UINT8, INT8, INT16])
def test_conv1d_is_torchs(dtype):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        groups = int(rng.choice([1, 2, 3]))
        channels, outputs, kernel = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4)), seed % 4 + 1
        qp, weight_qp = random_qp(rng, dtype), random_qp(rng, INT8, outputs=outputs)
        q, weight = (
            codes_of(rng, qp, (2, channels, 13)),
            codes_of(rng, weight_qp, (outputs, channels // groups, kernel)),
        )
        bias = torch.from_numpy(rng.integers(-999, 999, outputs)).int()
        geometry = int(rng.integers(1, 4)), int(rng.integers(0, 3)), int(rng.integers(1, 4)), groups
        layer = prepare_conv1d(weight, weight_qp, bias, qp, None, *geometry)
        centred = weight.double() - weight_qp.zero_point.view(-1, 1, 1)
        expected = torch.nn.functional.conv1d(q.double() - int(qp.zero_point), centred, bias.double(), *geometry)
        assert torch.equal(layer.accumulate(q).double(), expected)
        out = output_qp(rng, expected, qp, weight_qp, UINT8)
        codes = conv1d(q, qp, weight, weight_qp, bias, out, *geometry, activation="relu")
        m = output_multiplier(qp, weight_qp, out)
        assert torch.equal(codes, requantize(expected.int(), m, out, axis=1, activation="relu"))


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize("dtype", [UINT8, INT8, INT16])
def test_conv_transpose2d_is_torchs(dtype):
    """Every geometry, also where padding cuts off what the kernel would have reached, and pixels with it."""
    axis = itertools.product((1, 2, 5), (1, 2, 3), (1, 2, 3), (0, 1, 2, 4), (0, 1, 2), (1, 2))
    rng, seen = np.random.default_rng(0), 0
    for length, kernel, stride, padding, more, dilation in axis:
        size = (length - 1) * stride - 2 * padding + dilation * (kernel - 1) + more + 1
        if more >= max(stride, dilation) or size < 1:
            continue
        seen += 1
        groups = int(rng.choice([1, 2]))
        inputs, outputs = 2 * groups, int(rng.integers(1, 4))
        per_output = rng.random() < 0.5
        qp, weight_qp = random_qp(rng, dtype), random_qp(rng, INT8, outputs=outputs if per_output else None)
        q, weight = codes_of(rng, qp, (2, inputs, length, 3)), codes_of(rng, QP_INT8, (inputs, outputs, kernel, 2))
        if per_output:
            weight_qp = QParams(weight_qp.scale, weight_qp.zero_point, INT8, axis=1)
        bias = torch.from_numpy(rng.integers(-999, 999, outputs * groups)).int()
        geometry = (stride, 2), (padding, 0), (more, 1), (dilation, 1), groups
        layer = prepare_conv_transpose2d(weight, weight_qp, bias, qp, None, *geometry)
        centred = weight.double() - weight_qp.zero_point.view(1, -1, 1, 1)
        expected = torch.nn.functional.conv_transpose2d(
            q.double() - int(qp.zero_point),
            centred,
            bias.double(),
            *(geometry[i] for i in (0, 1, 2)),
            groups,
            geometry[3],
        )
        assert torch.equal(layer.accumulate(q).double(), expected), (length, kernel, stride, padding, more, dilation)
        scale = weight_qp.scale.double().expand(outputs).repeat(groups).view(-1, 1, 1) * float(qp.scale)
        assert torch.equal(layer(q), (expected * scale).float())
        out = QParams(float(expected.abs().max() * scale.max()) / 100 + 0.1, 100, UINT8)
        codes = conv_transpose2d(q, qp, weight, weight_qp, bias, out, *geometry)
        exact = (expected * scale / float(out.scale) + 100).clamp(0, 255)
        assert codes.shape == expected.shape and (codes - exact).abs().max() <= 0.76
    assert seen > 200


QP_INT8 = QParams(1.0, 0, INT8)


def test_transposed_kernels_are_the_weights_turned():
    """Twice turned they are themselves; the real weights of an output have the scale that axis 1 gave them."""
    rng = np.random.default_rng(0)
    scales = torch.tensor([0.1, 0.2, 0.4])
    weight_qp = QParams(scales, torch.tensor([0, 3, -5]), INT8, axis=1)
    weight = codes_of(rng, QP_INT8, (4, 3, 2, 5))
    kernels, qp = transposed_kernels(weight, weight_qp, groups=2)
    assert kernels.shape == (6, 2, 2, 5) and qp.axis == 0
    reals, given_ = dequantize(kernels, qp), dequantize(weight, weight_qp)
    for group, output, i in itertools.product(range(2), range(3), range(2)):
        assert torch.equal(reals[3 * group + output, i].flip(0, 1), given_[2 * group + i, output])
    back, _ = transposed_kernels(transposed_kernels(weight, QP_INT8)[0], QP_INT8)
    assert torch.equal(back, weight)


def fingerprint():
    """Codes and sums of layers of many kinds, as one number."""
    digest = hashlib.sha256()
    rng = np.random.default_rng(0)
    for dtype, weight_dtype in [(UINT8, INT8), (INT8, INT8), (UINT8, UINT8), (INT4, INT8), (INT16, INT4)]:
        for groups in (1, 4, 64):
            qp, out = random_qp(rng, dtype), random_qp(rng, UINT8, 1.0, 2.0)
            weight_qp = random_qp(rng, weight_dtype, outputs=64, zero_point=weight_dtype is UINT8)
            q, weight = codes_of(rng, qp, (2, 64, 9, 8)), codes_of(rng, weight_qp, (64, 64 // groups, 3, 3))
            digest.update(accumulate_conv2d(q, qp, weight, weight_qp, padding=1, groups=groups).contiguous().numpy())
            for rounding in ORACLES:
                codes = conv2d(q, qp, weight, weight_qp, None, out, padding=1, groups=groups, rounding=rounding)
                digest.update(codes.contiguous().numpy())
    q, weight = torch.full((3, 2048), 255), torch.full((5, 2048), 127)
    digest.update(accumulate_linear(q, QParams(1.0, 0, UINT8), weight, QParams(1.0, 0, INT8)).numpy())
    return digest.hexdigest()


def test_threads_change_nothing():
    before = torch.get_num_threads()
    try:
        found = set()
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.add(fingerprint())
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_instruction_sets_change_nothing():
    """The same bits where the machine may use AVX2 only, whose products of int8 saturate."""
    tests = Path(__file__).parent
    environment = os.environ | {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "MKL_ENABLE_INSTRUCTIONS": "AVX2",
        "PYTHONPATH": os.pathsep.join([str(tests.parent), str(tests), os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, "-c", "import test_integer; print(test_integer.fingerprint())"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == fingerprint()


def saturating_int_mm(a, b):
    """Products of int8 added in pairs in INT16, as without VNNI: the first factor as uint8, repaired afterwards."""
    shifted = a.int() + 128
    pairs = [shifted[:, k : k + 2] @ b[k : k + 2].int() for k in range(0, a.shape[1], 2)]
    return sum(p.clamp(-(2**15), 2**15 - 1) for p in pairs) - 128 * b.int().sum(0, dtype=torch.int32)


def test_saturating_products_are_noticed(monkeypatch):
    q, weight = torch.full((2, 64), 255), torch.full((3, 64), 127)
    layer = q, QParams(1.0, 0, UINT8), weight, QParams(1.0, 0, INT8)
    small = torch.tensor([[3, -5]], dtype=torch.int8)
    assert saturating_int_mm(small, small.T).item() == 34  # right where it does not saturate
    assert saturating_int_mm((q - 128).to(torch.int8), weight.to(torch.int8).T)[0, 0] != 127 * 127 * 64
    _products.int_mm_is_exact.cache_clear()
    try:
        monkeypatch.setattr(torch, "_int_mm", saturating_int_mm)
        assert not _products.int_mm_is_exact()
        assert accumulate_linear(*layer).tolist() == [[255 * 127 * 64] * 3] * 2
        monkeypatch.delattr(torch, "_int_mm")
        _products.int_mm_is_exact.cache_clear()
        assert not _products.int_mm_is_exact()
        assert accumulate_linear(*layer).tolist() == [[255 * 127 * 64] * 3] * 2
        monkeypatch.undo()
        _products.int_mm_is_exact.cache_clear()
        monkeypatch.setattr(torch, "_int_mm", lambda a, b: (a.long() @ b.long()).int())
        assert _products.int_mm_is_exact()
    finally:
        _products.int_mm_is_exact.cache_clear()


@pytest.mark.parametrize(
    ("dtype", "weight_dtype", "w", "terms"),
    [
        (UINT8, UINT8, 255, 33_025),  # 255 * 255
        (UINT8, INT8, -128, 65_793),  # 255 * 128
        (INT8, INT8, -128, 131_071),  # 128 * 128
    ],
)
def test_how_many_terms_int32_holds(dtype, weight_dtype, w, terms):
    """The longest dot product, all its terms at their largest, is exact; one more term is refused."""
    qp, weight_qp = QParams(1.0, 0, dtype), QParams(1.0, 0, weight_dtype)
    x = dtype.max if dtype is UINT8 else dtype.min
    assert terms == INT32_MAX // abs(x * w)
    q, weight = torch.full((1, terms), x), torch.full((1, terms), w)
    assert accumulate_linear(q, qp, weight, weight_qp).item() == x * w * terms
    one_more = torch.zeros(1, terms + 1, dtype=torch.int64), qp, torch.full((1, terms + 1), w), weight_qp
    with pytest.raises(ValueError, match=rf"weight, bias: .* at most 2147483647.* got {abs(x * w) * (terms + 1)}"):
        accumulate_linear(*one_more)
    # What is left belongs to the bias.
    left = INT32_MAX - abs(x * w) * terms
    assert accumulate_linear(q, qp, weight, weight_qp, torch.tensor([left]).int()).item() == x * w * terms + left
    for bias in (left + 1, -left - 1):
        with pytest.raises(ValueError, match=f"got {INT32_MAX + 1}"):
            accumulate_linear(q, qp, weight, weight_qp, torch.tensor([bias]).int())


def test_the_bound_counts_zero_points_and_the_worst_output():
    q, weight = torch.zeros(1, 40_000, dtype=torch.int64), torch.zeros(2, 40_000, dtype=torch.int64)
    weight[1] = 127
    centred, at_end = QParams(1.0, 128, UINT8), QParams(1.0, 255, UINT8)
    assert accumulate_linear(q, centred, weight, QParams(1.0, 0, INT8)).tolist() == [[0, -128 * 127 * 40_000]]
    with pytest.raises(ValueError, match=f"got {255 * 255 * 40_000}"):
        accumulate_linear(q, at_end, weight, QParams(1.0, -128, INT8))
    kernels = torch.full((1, 40_000, 1, 2), 127)
    with pytest.raises(ValueError, match=f"got {255 * 127 * 80_000}"):
        accumulate_conv2d(q.view(1, -1, 1, 1).expand(-1, -1, 1, 2), at_end, kernels, QParams(1.0, 0, INT8))


# --- Layers against ONNX Runtime --------------------------------------------------------------------------------

RUNTIME_TYPES = {INT8: TensorProto.INT8, UINT8: TensorProto.UINT8}
NUMPY_TYPES = {INT8: np.int8, UINT8: np.uint8}
PAIRS = [(UINT8, INT8), (UINT8, UINT8), (INT8, INT8)]  # what its kernels know: input and weights


@cache
def session(op_type, kinds, output, domain="", **attributes):
    inputs = [helper.make_tensor_value_info(f"i{n}", kind, None) for n, kind in enumerate(kinds)]
    outputs = [helper.make_tensor_value_info("y", output, None)]
    only = helper.make_node(op_type, [i.name for i in inputs], ["y"], domain=domain, **attributes)
    return run_alone(helper.make_graph([only], "g", inputs, outputs))


def run_alone(graph):
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.x64quantprecision", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def run(operator, *values):
    (result,) = operator.run(None, {f"i{n}": v for n, v in enumerate(values)})
    return torch.from_numpy(result)


def as_numpy(qp):
    """Scale and zero point as the runtime wants them."""
    return qp.scale.numpy(), qp.zero_point.numpy().astype(NUMPY_TYPES[qp.dtype])


def output_qp(rng, acc, qp, weight_qp, dtype):
    """A scale with which most sums stay inside and some clip."""
    spread = float(acc.double().std(correction=0)) + 1
    scale = spread * float(qp.scale) * float(weight_qp.scale.mean()) / float(rng.uniform(30, 90))
    return QParams(scale, int(rng.integers(dtype.min, dtype.max + 1)), dtype)


seeds = st.integers(0, 2**32 - 1)


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("dtype", "weight_dtype"), PAIRS)
@settings(max_examples=25)
@given(seeds)
def test_qlinearmatmul(dtype, weight_dtype, seed):
    rng = np.random.default_rng(seed)
    rows, inputs, outputs = (int(n) for n in rng.integers(1, [20, 200, 40]))
    qp = random_qp(rng, dtype)
    weight_qp = random_qp(rng, weight_dtype, outputs=outputs, zero_point=False)
    if rng.random() < 0.5:
        weight_qp = random_qp(rng, weight_dtype, zero_point=weight_dtype is UINT8)
    q, weight = codes_of(rng, qp, (rows, inputs)), codes_of(rng, weight_qp, (outputs, inputs))
    acc = accumulate_linear(q, qp, weight, weight_qp)
    out = output_qp(rng, acc, qp, weight_qp, dtype)
    kinds = (RUNTIME_TYPES[dtype], 1, RUNTIME_TYPES[dtype], RUNTIME_TYPES[weight_dtype], 1, RUNTIME_TYPES[weight_dtype])
    operator = session("QLinearMatMul", (*kinds, 1, RUNTIME_TYPES[dtype]), RUNTIME_TYPES[dtype])
    columns = weight.T.contiguous().numpy()
    expected = run(operator, q.numpy(), *as_numpy(qp), columns, *as_numpy(weight_qp), *as_numpy(out))
    assert torch.equal(linear(q, qp, weight, weight_qp, None, out, "float"), expected)


@pytest.mark.parametrize(("dtype", "weight_dtype"), PAIRS)
@settings(max_examples=25)
@given(seeds)
def test_matmulinteger(dtype, weight_dtype, seed):
    rng = np.random.default_rng(seed)
    rows, inputs, outputs = (int(n) for n in rng.integers(1, [20, 200, 40]))
    qp, weight_qp = random_qp(rng, dtype), random_qp(rng, weight_dtype, outputs=outputs)
    q, weight = codes_of(rng, qp, (rows, inputs)), codes_of(rng, weight_qp, (outputs, inputs))
    kinds = (RUNTIME_TYPES[dtype], RUNTIME_TYPES[weight_dtype])
    operator = session("MatMulInteger", kinds * 2, TensorProto.INT32)
    expected = run(operator, q.numpy(), weight.T.contiguous().numpy(), as_numpy(qp)[1], as_numpy(weight_qp)[1])
    assert torch.equal(accumulate_linear(q, qp, weight, weight_qp), expected)


def runtime_geometry(stride, padding, dilation, groups):
    pads = (*padding, *padding)
    return {"strides": stride, "pads": pads, "dilations": dilation, "group": groups}


@pytest.mark.usefixtures("products")
@pytest.mark.parametrize(("dtype", "weight_dtype"), PAIRS)
@settings(max_examples=25)
@given(seeds)
def test_qlinearconv(dtype, weight_dtype, seed):
    rng = np.random.default_rng(seed)
    (q, qp, weight, weight_qp, bias), geometry = random_conv(rng, dtype, weight_dtype, asymmetric=False)
    if weight_dtype is UINT8 and weight_qp.axis is None:
        weight_qp = random_qp(rng, UINT8)
    if bias is None:
        bias = torch.zeros(len(weight), dtype=torch.int32)
    bias = bias // 2**8
    acc = accumulate_conv2d(q, qp, weight, weight_qp, bias, *geometry)
    out = output_qp(rng, acc, qp, weight_qp, dtype)
    x, w = RUNTIME_TYPES[dtype], RUNTIME_TYPES[weight_dtype]
    attributes = runtime_geometry(*geometry)
    operator = session("QLinearConv", (x, 1, x, w, 1, w, 1, x, TensorProto.INT32), x, **attributes)
    values = (q.numpy(), *as_numpy(qp), weight.numpy(), *as_numpy(weight_qp), *as_numpy(out), bias.numpy())
    expected = run(operator, *values)
    assert torch.equal(conv2d(q, qp, weight, weight_qp, bias, out, *geometry, rounding="float"), expected)


# Scales for which float32(s_x s_w) / s_z is not the float32 next to s_x s_w / s_z, and a sum that shows it.
@pytest.mark.parametrize(
    ("scales", "acc", "code", "other"),
    [
        ((0.06732655316591263, 0.03428080305457115, 1.368761658668518), 66_718, 112, 113),
        ((0.0645972192287445, 0.07565469294786453, 5.892624855041504), 29_541, 24, 25),
        ((0.0211854949593544, 0.07035619765520096, 6.824705600738525), 446_424, 98, 97),
    ],
)
def test_the_order_in_which_m_is_made(scales, acc, code, other):
    qp, weight_qp, out = (QParams(s, 0, dtype) for s, dtype in zip(scales, (UINT8, INT8, UINT8), strict=True))
    q, weight = torch.zeros(1, 1, 1, 1, dtype=torch.uint8), torch.zeros(1, 1, 1, 1, dtype=torch.int8)
    bias = torch.tensor([acc], dtype=torch.int32)
    operator = session("QLinearConv", (2, 1, 2, 3, 1, 3, 1, 2, TensorProto.INT32), TensorProto.UINT8)
    values = (q.numpy(), *as_numpy(qp), weight.numpy(), *as_numpy(weight_qp), *as_numpy(out), bias.numpy())
    assert run(operator, *values).item() == code
    assert conv2d(q, qp, weight, weight_qp, bias, out, rounding="float").item() == code
    assert requantize(bias, output_multiplier(qp, weight_qp, out), out, "float").item() == other


def test_float_takes_m_as_a_float32_at_once():
    """By way of the 31 bits of m0 this multiplier would end at 1/2, and the product at the tie below."""
    m = 0.5 + 2.0**-25 + 2.0**-40
    assert requantize(torch.tensor([65_537]), m, QParams(1.0, 0, UINT16), "float").item() == 32_769
    assert int(multiply_by_quantized_multiplier(65_537, *quantize_multiplier(m), "float")) == 32_768


@settings(max_examples=40)
@given(seeds)
def test_convinteger(seed):
    (q, qp, weight, weight_qp, _), geometry = random_conv(np.random.default_rng(seed), UINT8, UINT8)
    weight_qp = QParams(1.0, int(weight_qp.zero_point.flatten()[0]), UINT8)  # the runtime takes one for all
    operator = session("ConvInteger", (TensorProto.UINT8,) * 4, TensorProto.INT32, **runtime_geometry(*geometry))
    expected = run(operator, q.numpy(), weight.numpy(), as_numpy(qp)[1], as_numpy(weight_qp)[1])
    assert torch.equal(accumulate_conv2d(q, qp, weight, weight_qp, None, *geometry), expected)


@pytest.mark.parametrize("rounding", ["double", "single"])
@settings(max_examples=60)
@given(seeds)
def test_layers_mean_what_they_should(rounding, seed):
    """The code next to the real result, within 1/2, the second rounding's share, and what M lost."""
    rng = np.random.default_rng(seed)
    (q, qp, weight, weight_qp, bias), geometry = random_conv(rng, UINT8, INT8)
    bias = None if bias is None else bias // 2**8
    acc = accumulate_conv2d(q, qp, weight, weight_qp, bias, *geometry)
    out = output_qp(rng, acc, qp, weight_qp, INT8)
    codes = conv2d(q, qp, weight, weight_qp, bias, out, *geometry, rounding)
    scales = weight_qp.scale.expand(len(weight)).tolist()
    for channel, s_w in enumerate(scales):
        m = Fraction(float(qp.scale)) * Fraction(s_w) / Fraction(float(out.scale))
        _, shift = quantize_multiplier(float(m))
        second = Fraction(2) ** (shift - 1) if rounding == "double" and shift < 0 else 0
        sums, results = acc[:, channel].flatten().tolist(), codes[:, channel].flatten().tolist()
        for a, code in zip(sums, results, strict=True):
            exact = min(max(m * a + int(out.zero_point), INT8.min), INT8.max)
            assert abs(code - exact) <= HALF + second + abs(a) * m * Fraction(1, 2**30)


CASES = {c.name: c for c in node._NodeTestCases if "integer" in c.name or "qlinear" in c.name}
MATRICES = [f"test_qlinearmatmul_{n}D_{t}_float32" for n in (2, 3) for t in ("uint8", "int8")]


def read_case(name):
    ((inputs, (output,)),) = CASES[name].data_sets
    attributes = {a.name: helper.get_attribute_value(a) for a in CASES[name].model.graph.node[0].attribute}
    return [torch.from_numpy(np.asarray(v)) for v in inputs], torch.from_numpy(output), attributes


def case_qp(scale, zero_point):
    dtype = {torch.int8: INT8, torch.uint8: UINT8}[zero_point.dtype]
    axis = 0 if zero_point.numel() > 1 else None
    shape = (-1,) if axis == 0 else ()
    scale, zero_point = torch.broadcast_tensors(scale.float(), zero_point.int())
    return QParams(scale.reshape(shape), zero_point.reshape(shape), dtype, axis)


def test_onnx_cases_are_all_here():
    """Those left out have scales in float16, which QParams has not."""
    run_ = {"test_qlinearconv", "test_convinteger_with_padding", "test_convinteger_without_padding"}
    run_ |= {"test_matmulinteger", *MATRICES}
    assert run_ <= set(CASES)
    assert all("float16" in name or "expanded" in name for name in set(CASES) - run_)


@pytest.mark.parametrize("name", MATRICES)
def test_onnx_qlinearmatmul(name):
    (a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero), y, _ = read_case(name)
    qp, weight_qp, out = case_qp(a_scale, a_zero), case_qp(b_scale, b_zero), case_qp(y_scale, y_zero)
    for left, right, product in zip(*(t.reshape(-1, *t.shape[-2:]) for t in (a, b, y)), strict=True):
        assert torch.equal(linear(left, qp, right.T, weight_qp, None, out, "float"), product)


def test_onnx_qlinearconv():
    (x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero), y, _ = read_case("test_qlinearconv")
    qp, weight_qp, out = case_qp(x_scale, x_zero), case_qp(w_scale, w_zero), case_qp(y_scale, y_zero)
    assert torch.equal(conv2d(x, qp, w, weight_qp, None, out, rounding="float"), y)


def test_onnx_matmulinteger():
    (a, b, a_zero, b_zero), y, _ = read_case("test_matmulinteger")
    one = torch.tensor(1.0)
    assert torch.equal(accumulate_linear(a, case_qp(one, a_zero), b.T, case_qp(one, b_zero)), y)


@pytest.mark.parametrize("name", ["test_convinteger_without_padding", "test_convinteger_with_padding"])
def test_onnx_convinteger(name):
    (x, w, x_zero, *w_zero), y, attributes = read_case(name)
    weight_qp = case_qp(torch.tensor(1.0), w_zero[0] if w_zero else torch.tensor(0, dtype=torch.uint8))
    padding = attributes["pads"][0] if attributes else 0
    assert torch.equal(accumulate_conv2d(x, case_qp(torch.tensor(1.0), x_zero), w, weight_qp, padding=padding), y)


# --- Activations, pooling, sums ---------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [INT4, UINT4, INT8, UINT8, INT16])
def test_activations_on_codes_are_those_on_reals(dtype):
    q = torch.arange(dtype.min, dtype.max + 1)
    for scale, zero_point in itertools.product([0.01, 0.04, 0.7, 9.0], {dtype.min, 3, dtype.max}):
        qp = QParams(scale, zero_point, dtype)
        assert torch.equal(dequantize(relu(q, qp), qp), dequantize(q, qp).relu())
        # 6 has no code of its own, so the clamp is at its nearest.
        six = float(dequantize(quantize(torch.tensor(6.0), qp), qp))
        assert torch.equal(dequantize(relu6(q, qp), qp), dequantize(q, qp).clamp(0, six))
        assert relu(q, qp).dtype == relu6(q, qp).dtype == dtype.storage


@pytest.mark.parametrize("rounding", ORACLES)
def test_a_fused_activation_is_one_that_follows(rounding):
    rng = np.random.default_rng(0)
    (q, qp, weight, weight_qp, _), geometry = random_conv(rng, UINT8, INT8)
    out = QParams(0.1, 40, UINT8)
    plain = conv2d(q, qp, weight, weight_qp, None, out, *geometry, rounding)
    for name, after in (("relu", relu), ("relu6", relu6)):
        fused = conv2d(q, qp, weight, weight_qp, None, out, *geometry, rounding, name)
        assert torch.equal(fused, after(plain, out)) and not torch.equal(fused, plain)
        rows, w = q.flatten(1), codes_of(rng, QParams(1.0, 0, INT8), (5, q[0].numel()))
        layer = rows, qp, w, QParams(0.02, 0, INT8), None, out, rounding
        assert torch.equal(linear(*layer, name), after(linear(*layer), out))
        a = codes_of(rng, out, (50,))
        both = a, out, a.flip(0), qp, out, rounding
        assert torch.equal(add(*both, name), after(add(*both), out))


@settings(max_examples=100)
@given(seeds, st.sampled_from(["double", "single"]), st.sampled_from([(UINT8, INT8), (INT8, UINT8), (INT16, UINT8)]))
def test_sum_of_two_scales(seed, rounding, dtypes):
    """Within the bound of add's docstring, from exact fractions."""
    rng = np.random.default_rng(seed)
    a_qp, b_qp = (random_qp(rng, dtype, 0.001, 0.2) for dtype in dtypes)
    out = random_qp(rng, UINT8, 0.01, 0.4)
    a, b = codes_of(rng, a_qp, (40,)), codes_of(rng, b_qp, (40,))
    s_a, s_b, s_out = (Fraction(float(qp.scale)) for qp in (a_qp, b_qp, out))
    bits = 20 if max(d.bits for d in dtypes) <= 8 else 15
    m = 2 * max(s_a, s_b) / (s_out * 2**bits)
    _, shift = quantize_multiplier(float(m))
    bound = HALF + 3 * max(s_a, s_b) / (s_out * 2**bits)
    bound += Fraction(2) ** (shift - 1) if rounding == "double" and shift < 0 else 0
    codes = add(a, a_qp, b, b_qp, out, rounding)
    for p, q, code in zip(a.tolist(), b.tolist(), codes.tolist(), strict=True):
        real = s_a * (p - int(a_qp.zero_point)) + s_b * (q - int(b_qp.zero_point))
        exact = min(max(real / s_out + int(out.zero_point), out.dtype.min), out.dtype.max)
        assert abs(code - exact) <= bound + abs(real / s_out) * Fraction(1, 2**29)


@pytest.mark.parametrize("rounding", ORACLES)
def test_sum_in_any_memory(rounding):
    rng = np.random.default_rng(0)
    a_qp, b_qp, out = random_qp(rng, UINT8), random_qp(rng, INT8), QParams(0.1, 50, UINT8)
    a, b = codes_of(rng, a_qp, (2, 3, 4, 5)), codes_of(rng, b_qp, (2, 3, 4, 5))
    expected = add(a, a_qp, b, b_qp, out, rounding)
    flat = add(a.flatten(), a_qp, b.flatten(), b_qp, out, rounding)
    assert torch.equal(flat, expected.flatten())
    last = [t.to(memory_format=torch.channels_last) for t in (a, b)]
    for p, q in ((last[0], b), (a, last[1]), last):
        assert torch.equal(add(p, a_qp, q, b_qp, out, rounding), expected)


@pytest.mark.parametrize("rounding", ["double", "single"])
@pytest.mark.parametrize(("dtypes", "bits"), [((UINT8, INT8), 20), ((INT16, INT8), 15), ((UINT8, INT16), 15)])
def test_sum_step_by_step(dtypes, bits, rounding):
    """Shift left, to ``2 max(s_a, s_b) / 2**bits``, add, to the output: all in exact arithmetic, codes of 16 bits."""
    rng = np.random.default_rng(0)
    for _ in range(3):
        a_qp, b_qp = (random_qp(rng, dtype, 0.001, 0.2) for dtype in dtypes)
        a, b = codes_of(rng, a_qp, (300,)), codes_of(rng, b_qp, (300,))
        s_a, s_b = float(a_qp.scale), float(b_qp.scale)
        out, common = QParams(max(s_a, s_b) / 8, 5, INT16), 2 * max(s_a, s_b)
        m_a, m_b = quantize_multiplier(s_a / common), quantize_multiplier(s_b / common)
        m = quantize_multiplier(common / (float(out.scale) * 2**bits))
        step = ORACLES[rounding]
        codes = add(a, a_qp, b, b_qp, out, rounding)
        for p, q, code in zip(a.tolist(), b.tolist(), codes.tolist(), strict=True):
            left = step((p - int(a_qp.zero_point)) * 2**bits, *m_a)
            right = step((q - int(b_qp.zero_point)) * 2**bits, *m_b)
            assert code == min(max(step(left + right, *m) + 5, INT16.min), INT16.max)


@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("rounding", ORACLES)
@pytest.mark.parametrize("dtypes", [(UINT8, INT8), (INT4, UINT8), (INT8, INT8_NARROW)])
def test_sums_of_all_pairs(dtypes, rounding, activation):
    """From the table of a prepared sum, as from the sum itself."""
    rng = np.random.default_rng(0)
    a_qp, b_qp = (random_qp(rng, dtype, 0.001, 0.2) for dtype in dtypes)
    a, b = (torch.arange(d.min, d.max + 1).to(d.storage) for d in dtypes)
    a, b = a.repeat_interleave(len(b)), b.repeat(len(a))
    for out in (QParams(0.1, 30, UINT8), QParams(0.05, -7, INT8), QParams(0.001, 5, INT16)):
        plain = Addition(a_qp, b_qp, out, rounding, activation)
        prepared = prepare_add(a_qp, b_qp, out, rounding, activation)
        assert plain.table is None and prepared.table is not None
        expected = plain(a, b)
        assert expected.dtype == prepared(a, b).dtype == out.dtype.storage
        assert torch.equal(prepared(a, b), expected)
        assert torch.equal(add(a, a_qp, b, b_qp, out, rounding, activation), expected)
        assert torch.equal(prepared(a.long(), b.long()), expected)
    with pytest.raises(ValueError, match=r"a, b: need one shape"):
        prepared(a, b[1:])


def test_sums_of_large_tensors(monkeypatch):
    """Those have more elements than there are pairs, so that they look up; chunks of them, in any memory."""
    rng = np.random.default_rng(0)
    a_qp, b_qp, out = random_qp(rng, UINT8), random_qp(rng, INT8), QParams(0.1, 50, UINT8)
    a, b = codes_of(rng, a_qp, (2, 5, 171, 173)), codes_of(rng, b_qp, (2, 5, 171, 173))
    parts = [add(x, a_qp, y, b_qp, out) for x, y in zip(a.flatten().split(9999), b.flatten().split(9999), strict=True)]
    expected, last = torch.cat(parts).view(a.shape), torch.channels_last
    plain, sizes = Addition._sum, []
    monkeypatch.setattr(Addition, "_sum", lambda self, x, y: sizes.append(x.numel()) or plain(self, x, y))
    for x, y in [(a, b), (a.to(memory_format=last), b), (a.to(memory_format=last), b.to(memory_format=last))]:
        assert torch.equal(add(x, a_qp, y, b_qp, out), expected)
    assert sizes == [2**16] * 3
    assert add(a.to(memory_format=last), a_qp, b, b_qp, out).is_contiguous(memory_format=last)


def test_sums_that_a_table_would_refuse():
    """Pairs that leave INT32 are no reason to refuse tensors without them."""
    tiny, qp = QParams(1e-9, 0, UINT8), QParams(0.5, 0, UINT8)
    zeros = torch.zeros(2**18 + 1, dtype=torch.uint8)
    assert prepare_add(qp, qp, tiny).table is None
    assert not add(zeros, qp, zeros, qp, tiny).any()
    with pytest.raises(ValueError, match="acc: need acc"):
        add(zeros + 200, qp, zeros, qp, tiny)
    wide = QParams(0.5, 0, INT16)
    assert prepare_add(qp, wide, qp).table is None


@pytest.mark.parametrize("rounding", ORACLES)
def test_large_parts(rounding):
    """Each new code comes from a table; the same as that of the part cut small."""
    rng, out = np.random.default_rng(0), QParams(0.05, 20, UINT8)
    for qp in (QParams(0.02, -5, INT8), QParams(0.9, 3, UINT8), QParams(0.05, 0, UINT8), QParams(0.02, 1, INT4)):
        q = codes_of(rng, qp, (2, 3, 30, 31))
        whole = concat([(q, qp)], out, rounding=rounding)
        small = [concat([(x, qp)], out, rounding=rounding) for x in q.unbind(2)]
        assert torch.equal(whole, torch.stack(small, 2))
        last = concat([(q.to(memory_format=torch.channels_last), qp)], out, rounding=rounding)
        assert torch.equal(last, whole) and last.is_contiguous(memory_format=torch.channels_last)


def test_sum_of_the_widest_types_stays_in_int32():
    wide, narrow, out = QParams(1.0, 0, UINT16), QParams(1.0, 0, UINT8), QParams(2.0, 0, UINT16)
    a, b = torch.tensor([65_535]), torch.tensor([255])
    assert add(a, wide, b, narrow, out).tolist() == add(b, narrow, a, wide, out).tolist() == [32_895]


def test_sums_and_parts_at_ties():
    """-3/2, -1/2, 1/2, 3/2: each rounds as asked, in the last step of a sum and in a part."""
    one, q = QParams(1.0, 0, INT8), torch.tensor([-3, -1, 1, 3])
    rounded = {"double": [-2, -1, 1, 2], "single": [-1, 0, 1, 2], "float": [-2, 0, 0, 2]}
    for rounding, expected in rounded.items():
        assert add(q, one, torch.zeros_like(q), one, QParams(2.0, 0, INT8), rounding).tolist() == expected
        part = (2 * q).unsqueeze(0), QParams(0.25, 0, INT8)  # a right shift, where "double" rounds ties away
        assert concat([part], one, rounding=rounding).tolist() == [expected]


def dequantize_add_quantize(dtypes, out):
    kinds = {"a": dtypes[0], "b": dtypes[1]}
    inputs, nodes = [], []
    for name, dtype in (*kinds.items(), ("y", out)):
        inputs.append(helper.make_tensor_value_info(f"s{name}", TensorProto.FLOAT, []))
        inputs.append(helper.make_tensor_value_info(f"z{name}", RUNTIME_TYPES[dtype], []))
    for name, dtype in kinds.items():
        inputs.append(helper.make_tensor_value_info(name, RUNTIME_TYPES[dtype], None))
        nodes.append(helper.make_node("DequantizeLinear", [name, f"s{name}", f"z{name}"], [f"r{name}"]))
    nodes.append(helper.make_node("Add", ["ra", "rb"], ["r"]))
    nodes.append(helper.make_node("QuantizeLinear", ["r", "sy", "zy"], ["y"]))
    return run_alone(
        helper.make_graph(nodes, "g", inputs, [helper.make_tensor_value_info("y", RUNTIME_TYPES[out], None)])
    )


def test_sum_in_float_is_onnx_runtimes():
    """Bit for bit that of three operators; within 1 of the fused one, whose terms depend on the machine."""
    three = dequantize_add_quantize((UINT8, UINT8), UINT8)
    fused = session("QLinearAdd", (2, 1, 2) * 2 + (1, 2), TensorProto.UINT8, domain="com.microsoft")
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a_qp, b_qp, out = (random_qp(rng, UINT8, 0.01, 0.1) for _ in range(3))
        a, b = codes_of(rng, a_qp, (999,)), codes_of(rng, b_qp, (999,))
        codes = add(a, a_qp, b, b_qp, out, "float")
        values = {"a": a.numpy(), "b": b.numpy()}
        for name, qp in (("a", a_qp), ("b", b_qp), ("y", out)):
            values[f"s{name}"], values[f"z{name}"] = as_numpy(qp)
        assert codes.tolist() == three.run(None, values)[0].tolist()
        close = run(fused, a.numpy(), *as_numpy(a_qp), b.numpy(), *as_numpy(b_qp), *as_numpy(out))
        assert (close.int() - codes.int()).abs().max() <= 1


@pytest.mark.parametrize("rounding", ORACLES)
def test_concat_brings_parts_to_one_scale(rounding):
    rng = np.random.default_rng(1)
    out = QParams(0.05, 20, UINT8)
    parts = [
        (codes_of(rng, qp, (2, n, 3)), qp)
        for n, qp in [(4, out), (2, QParams(0.02, -5, INT8)), (1, random_qp(rng, INT16))]
    ]
    joined = concat(parts, out, rounding=rounding)
    assert joined.dtype == torch.uint8 and joined.shape == (2, 7, 3)
    assert torch.equal(joined[:, :4], parts[0][0])
    for (q, qp), found in zip(parts[1:], (joined[:, 4:6], joined[:, 6:]), strict=True):
        exact = (float(qp.scale) * (q.double() - int(qp.zero_point)) / 0.05 + 20).clamp(0, 255)
        assert (found.double() - exact).abs().max() <= 0.76
        assert torch.equal(found, concat([(q, qp)], out, axis=0, rounding=rounding))
    assert concat(parts[:1] * 2, out, axis=-1).shape == (2, 4, 6)


def test_parts_of_one_scale_but_other_zero_point_or_type():
    q, out = torch.tensor([[10, 200]]), QParams(0.5, 0, UINT8)
    assert concat([(q, QParams(0.5, 7, UINT8))], out).tolist() == [[3, 193]]
    assert concat([(q, out)], QParams(0.5, 0, INT8)).tolist() == [[10, 127]]
    assert concat([(q, out)], out).dtype == torch.uint8  # given as int64


@settings(max_examples=60)
@given(seeds, st.sampled_from([INT8, UINT8, INT16]))
def test_max_pool_is_that_of_reals(seed, dtype):
    rng = np.random.default_rng(seed)
    qp = random_qp(rng, dtype)
    kernel, stride, dilation = (tuple(int(v) for v in rng.integers(1, 4, 2)) for _ in range(3))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    q = codes_of(rng, qp, (2, 3, 9, 8))
    pooled = max_pool(q, qp, kernel, stride, padding, dilation)
    reals = torch.nn.functional.max_pool2d(dequantize(q, qp), kernel, stride, padding, dilation)
    assert torch.equal(dequantize(pooled, qp), reals)
    assert pooled.dtype == dtype.storage


@pytest.mark.parametrize("dtype", [INT8, UINT8])
def test_max_pool_in_ceil_mode(dtype):
    """As torch has it, which ONNX Runtime follows: the last window begins in the image or before it."""
    rng, larger = np.random.default_rng(0), 0
    for size, kernel, stride, dilation in itertools.product((1, 2, 5, 8), (1, 2, 3), (1, 2, 3, 4), (1, 2)):
        for padding in range(kernel // 2 + 1):
            if size + 2 * padding < dilation * (kernel - 1) + 1 or dilation > size:
                continue
            q = codes_of(rng, QParams(1.0, 0, dtype), (2, 3, size, 7))
            geometry = (kernel, 2), (stride, 2), (padding, 0), (dilation, 1)
            expected = torch.nn.functional.max_pool2d(q.double(), *geometry, ceil_mode=True)
            pooled = max_pool(q, QParams(0.5, 3, dtype), *geometry, ceil_mode=True)
            assert torch.equal(pooled.double(), expected)
            larger += expected.shape[2] > (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
            operator = session(
                "MaxPool",
                (RUNTIME_TYPES[dtype],),
                RUNTIME_TYPES[dtype],
                kernel_shape=geometry[0],
                strides=geometry[1],
                pads=(padding, 0, padding, 0),
                dilations=geometry[3],
                ceil_mode=1,
            )
            assert torch.equal(run(operator, q.numpy()), pooled)
    assert larger
    # An image smaller than the window, which then ends beyond it.
    assert max_pool(torch.tensor([[[[7]]]]), QParams(0.5, 3, UINT8), 2, ceil_mode=True).tolist() == [[[[7]]]]
    with pytest.raises(ValueError, match=r"q: need an image that holds the kernel \(2, 2\)"):
        max_pool(torch.tensor([[[[7]]]]), QParams(0.5, 3, UINT8), 2)


def test_max_pool_keeps_memory_and_input():
    q = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8).to(memory_format=torch.channels_last)
    before = q.clone()
    for kernel in (1, 2, 3):
        pooled = max_pool(q, QParams(0.5, 3, UINT8), kernel, 1)
        assert pooled.is_contiguous(memory_format=torch.channels_last)
        pooled.zero_()
        assert torch.equal(q, before)


def test_max_pool_windows_that_miss_the_image():
    """Refused just where torch, which pads with -inf, gives -inf."""
    qp, missed = QParams(0.5, 3, UINT8), 0
    for size, kernel, stride, dilation in itertools.product(range(1, 6), range(1, 7), (1, 2), range(1, 9)):
        for padding in range(kernel // 2 + 1):
            if size + 2 * padding < dilation * (kernel - 1) + 1:
                continue
            geometry = (kernel, 1), (stride, 1), (padding, 0), (dilation, 1)
            image = torch.full((1, 1, size, 1), 100)
            largest = torch.nn.functional.max_pool2d(image.float(), *geometry)
            if largest.isinf().any():
                missed += 1
                with pytest.raises(ValueError, match="dilation: need at most the image's"):
                    max_pool(image, qp, *geometry)
            else:
                assert torch.equal(max_pool(image, qp, *geometry).float(), largest)
    assert missed


@settings(max_examples=60)
@given(seeds, st.sampled_from(["double", "single"]), st.sampled_from([INT8, UINT8, INT16]))
def test_avg_pool_is_the_mean(seed, rounding, dtype):
    """Padding is real zero and counts; the whole map is one window."""
    rng = np.random.default_rng(seed)
    qp = random_qp(rng, dtype)
    out = None if rng.random() < 0.5 else random_qp(rng, UINT8)
    kernel, stride = (tuple(int(v) for v in rng.integers(1, 4, 2)) for _ in range(2))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    q = codes_of(rng, qp, (1, 2, 5, 4))
    pooled = avg_pool(q, qp, kernel, stride, padding, out, rounding)
    into = out or qp
    centred = torch.nn.functional.pad(q.long() - int(qp.zero_point), (padding[1],) * 2 + (padding[0],) * 2)
    ratio = Fraction(float(qp.scale)) / Fraction(float(into.scale)) / math.prod(kernel)
    _, shift = quantize_multiplier(float(ratio))
    bound = HALF + (Fraction(2) ** (shift - 1) if rounding == "double" and shift < 0 else 0)
    windows = centred.unfold(2, kernel[0], stride[0]).unfold(3, kernel[1], stride[1]).sum((-2, -1))
    assert windows.shape == pooled.shape
    for total, code in zip(windows.flatten().tolist(), pooled.flatten().tolist(), strict=True):
        exact = min(max(total * ratio + int(into.zero_point), into.dtype.min), into.dtype.max)
        assert abs(code - exact) <= bound + abs(total) * ratio * Fraction(1, 2**30)
    assert torch.equal(avg_pool(q, qp, out=out), avg_pool(q, qp, (5, 4), out=out))


@settings(max_examples=80)
@given(seeds, st.sampled_from(["double", "single", "float"]), st.booleans(), st.booleans())
def test_avg_pool_counts_what_torch_counts(seed, rounding, ceil_mode, count_include_pad):
    rng = np.random.default_rng(seed)
    qp, out = random_qp(rng, UINT8), random_qp(rng, INT8, 0.05, 0.1)
    kernel, stride = (tuple(int(v) for v in rng.integers(1, 5, 2)) for _ in range(2))
    padding = tuple(int(rng.integers(0, k // 2 + 1)) for k in kernel)
    q = codes_of(rng, qp, (2, 3, *rng.integers(4, 9, 2)))
    pooled = avg_pool(q, qp, kernel, stride, padding, out, rounding, ceil_mode, count_include_pad)
    centred = q.double() - int(qp.zero_point)
    means = torch.nn.functional.avg_pool2d(centred, kernel, stride, padding, ceil_mode, count_include_pad)
    exact = (means * float(qp.scale) / float(out.scale) + int(out.zero_point)).clamp(-128, 127)
    assert pooled.shape == means.shape
    _, shift = quantize_multiplier(float(qp.scale) / float(out.scale) / math.prod(kernel))
    assert (pooled - exact).abs().max() <= 0.5 + (2.0 ** (shift + 1) if rounding == "double" else 0) + 1e-4


@settings(max_examples=80)
@given(seeds, st.sampled_from(["double", "single"]), st.sampled_from([UINT8, INT8, INT16]))
def test_adaptive_avg_pool_is_torchs(seed, rounding, dtype):
    """Windows of unequal size, overlapping ones, and ones that repeat where the output is the larger."""
    rng = np.random.default_rng(seed)
    qp = random_qp(rng, dtype)
    size, grid = (tuple(int(v) for v in rng.integers(1, 12, 2)) for _ in range(2))
    q = codes_of(rng, qp, (2, 3, *size))
    means = torch.nn.functional.adaptive_avg_pool2d(q.double() - int(qp.zero_point), grid)
    pooled = adaptive_avg_pool(q, qp, grid, rounding=rounding)
    assert pooled.shape == means.shape and pooled.dtype == dtype.storage
    # A tie of "double" may be moved by its first rounding, which the size of a cell bounds.
    exact = means + int(qp.zero_point)
    assert (pooled - exact).abs().max() <= 0.5 + (0.5 if rounding == "double" else 0) + 1e-3
    if grid == size:
        assert torch.equal(pooled, q)
    whole = adaptive_avg_pool(q, qp, 1, rounding=rounding)
    assert torch.equal(whole, avg_pool(q, qp, rounding=rounding))


def test_adaptive_avg_pool_by_hand():
    """Windows [0, 2), [1, 4), [3, 5) of five: means of 2, 3 and 2, each with a multiplier of its own."""
    q = torch.tensor([10, 20, 40, 80, 160]).view(1, 1, 1, 5)
    qp = QParams(0.5, 0, UINT8)
    assert adaptive_avg_pool(q, qp, (1, 3)).flatten().tolist() == [15, 47, 120]
    assert adaptive_avg_pool(q, qp, (1, 3), QParams(1.0, 100, UINT8)).flatten().tolist() == [108, 123, 160]
    assert adaptive_avg_pool(q.expand(2, 3, 4, 5), qp, (2, 5)).shape == (2, 3, 2, 5)


def test_avg_pool_at_ties():
    """Means of 4 around a zero point of 10: -1/2, 1/2, 3/2, 5/2, and 7/16 of 16."""
    qp = QParams(0.1, 10, UINT8)
    q = torch.full((1, 4, 2, 2), 10)
    q[0, :, 0, 0] += torch.tensor([-2, 2, 6, 10])
    assert (avg_pool(q, qp).flatten().int() - 10).tolist() == [-1, 1, 2, 3]
    assert (avg_pool(q, qp, rounding="single").flatten().int() - 10).tolist() == [0, 1, 2, 3]
    assert (avg_pool(q, qp, rounding="float").flatten().int() - 10).tolist() == [0, 0, 2, 2]
    q = torch.full((1, 1, 4, 4), 10)
    q[0, 0, 0, 0] += 7
    assert [avg_pool(q, qp, rounding=r).item() - 10 for r in ORACLES] == [1, 0, 0]


def test_avg_pool_sums_beyond_float32():
    """512 codes of 40000 and 255 more, an odd sum beyond 2**24: the mean stays below 40000.5."""
    q = torch.full((1, 1, 16, 32), 40_000)
    q[0, 0, -1, -1] += 255
    assert avg_pool(q, QParams(1.0, 0, UINT16), rounding="single").item() == 40_000


def test_avg_pool_sums_stay_in_int32():
    with pytest.raises(ValueError, match=f"need the sum of a window in INT32, got {200**2 * 65_535}"):
        avg_pool(torch.full((1, 1, 200, 200), 65_535), QParams(1.0, 0, UINT16))


# --- Refusals ---------------------------------------------------------------------------------------------------

QP, OUT = QParams(0.5, 3, UINT8), QParams(1.0, 0, UINT8)
ROWS, MATRIX = torch.ones(2, 4, dtype=torch.uint8), torch.ones(3, 4, dtype=torch.int8)
IMAGES, KERNELS = torch.ones(1, 4, 5, 5, dtype=torch.uint8), torch.ones(6, 2, 3, 3, dtype=torch.int8)
W_QP = QParams(0.1, 0, INT8)
CHANNELS = choose_qparams(-torch.ones(4), torch.ones(4), INT8, symmetric=True, axis=1)
GROUPS = choose_qparams(-torch.ones(3, 2), torch.ones(3, 2), INT8, symmetric=True, axis=1, group_size=2)
TWO = choose_qparams(-torch.ones(2), torch.ones(2), INT8, symmetric=True, axis=0)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"q": ROWS.float()}, "q: need integers .* got torch.float32"),
        ({"q": torch.full((2, 4), 256)}, "q: need 0 to 255, got 256 to 256"),
        (
            {"q": torch.ones(2, 5, dtype=torch.uint8)},
            r"q: need shape \(..., 4\) for weights of shape \(3, 4\), got \(2, 5\)",
        ),
        ({"q": torch.tensor(3)}, r"q: need shape \(..., 4\)"),
        ({"q": torch.ones(0, 4, dtype=torch.uint8)}, r"q: need at least one, got shape \(0, 4\)"),
        ({"q": [1, 2, 3, 4]}, "q: need a torch tensor, got a list"),
        ({"qp": TWO}, "qp: need one scale .* got axis=0"),
        ({"qp": None}, "qp: need QParams, got a NoneType"),
        ({"weight": MATRIX.float()}, "weight: need integers"),
        ({"weight": torch.full((3, 4), 128)}, "weight: need -128 to 127, got 128 to 128"),
        ({"weight": KERNELS}, "weight: need 2 axes, got shape"),
        ({"weight_qp": CHANNELS}, r"weight_qp: need axis=0 \(one scale for each output\) or None, got 1"),
        ({"weight_qp": GROUPS}, "weight_qp: need one scale per tensor or output.* got group_size=2"),
        ({"weight_qp": TWO}, "weight_qp: need a scale for each of the 3 outputs, or one, got 2"),
        ({"weight_qp": 1.0}, "weight_qp: need QParams, got a float"),
        ({"bias": torch.ones(3)}, "bias: need int32 of shape .* see quantize_bias"),
        (
            {"bias": torch.ones(3, dtype=torch.int64)},
            r"bias: need int32 of shape \(3,\), got torch.int64 of shape \(3,\)",
        ),
        ({"bias": torch.ones(3, dtype=torch.int16)}, r"bias: need int32 of shape \(3,\), got torch.int16"),
        ({"bias": torch.ones(3, 1, dtype=torch.int32)}, r"bias: need int32 .* got torch.int32 of shape \(3, 1\)"),
        (
            {"bias": torch.ones(2, dtype=torch.int32)},
            r"bias: need int32 of shape \(3,\), got torch.int32 of shape \(2,\)",
        ),
        ({"out": TWO}, "out: need one scale"),
        ({"rounding": "half"}, "rounding: need one of"),
        ({"activation": "tanh"}, "activation: need one of"),
    ],
)
def test_linear_refuses(change, match):
    given_ = {"q": ROWS, "qp": QP, "weight": MATRIX, "weight_qp": W_QP, "bias": None, "out": OUT}
    with pytest.raises(ValueError, match=match):
        linear(**(given_ | change))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"q": IMAGES[0]}, r"q: need shape \(images, 4, height, width\) .* in 2 groups, got \(4, 5, 5\)"),
        ({"groups": 3}, r"q: need shape \(images, 6, height, width\)"),
        ({"groups": 4}, "groups: need a divisor of the 6 outputs, got 4"),
        ({"groups": 0}, "groups: need an integer from 1 to 6, got 0"),
        ({"stride": 0}, "stride: need an integer from 1"),
        ({"stride": (1, 2, 3)}, r"stride: need an integer or a pair of them, got \(1, 2, 3\)"),
        ({"padding": -1}, "padding: need an integer from 0"),
        ({"padding": "same"}, "padding: need an integer"),
        ({"dilation": 1.5}, "dilation: need an integer"),
        ({"dilation": 3}, r"q: need an image that holds the kernel \(3, 3\) .*dilation \(3, 3\)\), got \(5, 5\)"),
        ({"weight": MATRIX}, "weight: need 4 axes"),
        ({"bias": torch.ones(5, dtype=torch.int32)}, r"bias: need int32 of shape \(6,\)"),
        ({"out": 3}, "out: need QParams, got a int"),
    ],
)
def test_conv2d_refuses(change, match):
    given_ = {"q": IMAGES, "qp": QP, "weight": KERNELS, "weight_qp": W_QP, "bias": None, "out": OUT, "groups": 2}
    with pytest.raises(ValueError, match=match):
        conv2d(**(given_ | change))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: add(ROWS, QP, MATRIX, W_QP, OUT), r"a, b: need one shape, got \(2, 4\) and \(3, 4\)"),
        (lambda: add(ROWS, QP, ROWS, TWO, OUT), "b_qp: need one scale"),
        (lambda: add(ROWS, QP, ROWS, QP, TWO), "out: need one scale"),
        (lambda: add(ROWS.float(), QP, ROWS, QP, OUT), "a: need integers"),
        (lambda: add(ROWS, QP, ROWS, QP, OUT, "no"), "rounding: need one of"),
        (lambda: add(ROWS, QP, ROWS, QP, QParams(1e-12, 0, UINT8)), "acc: need acc"),
        (lambda: concat([], OUT), "parts: need a list of pairs"),
        (lambda: concat([(ROWS, QP), (IMAGES, QP)], OUT), "parts, axis: need shapes that join along axis 1"),
        (lambda: concat([(ROWS, QP)], OUT, axis=5), "parts, axis: need shapes that join along axis 5"),
        (lambda: concat([(ROWS, TWO)], OUT), r"parts\[0\]: need one scale"),
        (lambda: concat([(ROWS, QP)], OUT, rounding="no"), "rounding: need one of"),
        (lambda: avg_pool(ROWS, QP), r"q: need shape \(images, channels, height, width\), got \(2, 4\)"),
        (lambda: avg_pool(IMAGES, QP, padding=1), "kernel_size: need one for a stride or padding, got None"),
        (lambda: avg_pool(IMAGES, QP, stride=2), "kernel_size: need one for a stride or padding, got None"),
        (lambda: avg_pool(IMAGES, QP, 2, 2**31), "stride: need an integer from 1 to 2147483647"),
        (lambda: avg_pool(IMAGES, QP, 6), r"q: need an image that holds the kernel \(6, 6\)"),
        (lambda: avg_pool(IMAGES, QP, 2, out=TWO), "out: need one scale"),
        (
            lambda: max_pool(IMAGES, QP, 2, padding=2),
            r"padding: need at most half of the kernel \(2, 2\), got \(2, 2\)",
        ),
        (lambda: max_pool(IMAGES, QP, 0), "kernel_size: need an integer from 1"),
        (lambda: max_pool(IMAGES, QP, 2, ceil_mode=1), "ceil_mode: need True or False, got 1"),
        (lambda: avg_pool(IMAGES, QP, 2, ceil_mode=None), "ceil_mode: need True or False, got None"),
        (lambda: avg_pool(IMAGES, QP, 2, count_include_pad=0), "count_include_pad: need True or False, got 0"),
        (lambda: adaptive_avg_pool(IMAGES, QP, 0), "output_size: need an integer from 1"),
        (lambda: adaptive_avg_pool(ROWS, QP, 1), r"q: need shape \(images, channels, height, width\)"),
        (lambda: adaptive_avg_pool(IMAGES, QP, 1, TWO), "out: need one scale"),
        (lambda: prepare_add(QP, TWO, OUT), "b_qp: need one scale"),
        (lambda: prepare_add(QP, QP, OUT, "no"), "rounding: need one of"),
        (lambda: prepare_add(QP, QP, OUT, "double", "tanh"), "activation: need one of"),
        (lambda: prepare_linear(MATRIX, W_QP, None, QP, None, activation="relu"), "activation: need None where out"),
        (lambda: linear(ROWS, QP, MATRIX, W_QP, None, None), "out: need QParams, got a NoneType"),
        (lambda: conv2d(IMAGES, QP, KERNELS, W_QP, None, None, groups=2), "out: need QParams, got a NoneType"),
        (lambda: conv1d(ROWS, QP, KERNELS[0], W_QP, None, OUT), r"q: need shape \(images, 3, length\)"),
        (lambda: conv1d(ROWS, QP, KERNELS, W_QP, None, OUT), "weight: need 3 axes"),
        (lambda: conv1d(IMAGES[0], QP, KERNELS[0], W_QP, None, OUT, (1, 1)), "stride: need an integer"),
        (lambda: transposed_kernels(MATRIX, W_QP), "weight: need 4 axes"),
        (lambda: transposed_kernels(KERNELS, 1.0), "weight_qp: need QParams, got a float"),
        (lambda: transposed_kernels(KERNELS, TWO), "weight_qp: need axis=1 .* got axis=0"),
        (lambda: transposed_kernels(KERNELS, CHANNELS), "weight_qp: need a scale for each of the 2 outputs"),
        (lambda: transposed_kernels(KERNELS, W_QP, 4), "groups: need a divisor of the 6 inputs, got 4"),
        (
            lambda: prepare_conv_transpose2d(KERNELS, W_QP, None, QP, OUT, 2, output_padding=2),
            r"output_padding: need less than the stride or the dilation, got \(2, 2\)",
        ),
        (
            lambda: conv_transpose2d(IMAGES, QP, KERNELS[:4], W_QP, None, OUT, padding=4),
            r"q: need an image that holds the kernel \(3, 3\)",
        ),
        (lambda: relu(torch.ones(2), QP), "q: need integers"),
        (lambda: relu6(ROWS, TWO), "qp: need one scale"),
        (lambda: output_multiplier(TWO, W_QP, OUT), "qp: need one scale"),
        (lambda: output_multiplier(QP, W_QP, TWO), "out: need one scale"),
    ],
)
def test_others_refuse(call, match):
    with pytest.raises(ValueError, match=match):
        call()


@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 6), (6,)])
def test_multipliers_of_outputs_belong_to_the_last_axis(shape):
    """What accumulate_linear gives, whatever comes before its outputs."""
    acc = torch.arange(-36, 36, dtype=torch.int32)[: math.prod(shape)].reshape(shape)
    m = torch.tensor([0.1, 0.2, 0.3, 0.4, 0.5, 0.6], dtype=torch.float64)
    expected = torch.stack([requantize(acc[..., j], float(m[j]), OUT) for j in range(6)], dim=-1)
    assert torch.equal(requantize(acc, m, OUT), expected)


def test_multipliers_of_images_belong_to_channels():
    acc = torch.arange(-32, 32, dtype=torch.int32).reshape(2, 2, 4, 4)
    m = torch.tensor([0.1, 0.7], dtype=torch.float64)
    expected = torch.stack([requantize(acc[:, c], float(m[c]), OUT) for c in range(2)], dim=1)
    assert torch.equal(requantize(acc, m, OUT), expected)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: requantize(ROWS.int(), 0.5, OUT, axis="c"), "axis: need an integer or None, got 'c'"),
        (lambda: requantize(ROWS.int(), torch.ones(2), OUT, axis=True), "axis: need an integer or None, got True"),
        (lambda: requantize(ROWS.int(), 2.0**30, OUT), r"multiplier: need less than about 2\*\*30"),
        (lambda: concat((ROWS, QP), OUT), r"parts\[0\]: need a pair of codes and QParams, got a Tensor"),
        (lambda: concat([(ROWS, QP), (ROWS, QP, 1)], OUT), r"parts\[1\]: need a pair"),
        (lambda: concat({1: 2}, OUT), "parts: need a list of pairs .* got a dict"),
        (lambda: concat([(ROWS, QP)], OUT, axis=1.0), "axis: need an integer, got 1.0"),
        (lambda: concat([(ROWS, QP)], OUT, axis=None), "axis: need an integer, got None"),
        (lambda: concat([(ROWS, QP)], OUT, axis=True), "axis: need an integer, got True"),
        (lambda: max_pool(IMAGES, QP, [2, 1]), r"kernel_size: need an integer or a pair of them, got \[2, 1\]"),
    ],
)
def test_messages_name_what_the_caller_gave(call, match):
    with pytest.raises(ValueError, match=match):
        call()
