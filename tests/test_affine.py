"""quantcourse.affine against exact rational arithmetic, ONNX's own cases, ONNX Runtime and torch."""

import itertools
import math
from fractions import Fraction

import numpy as np
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.backend.test.case import node
from onnx.backend.test.case.node import dequantizelinear, dynamicquantizelinear, quantizelinear  # noqa: F401

from quantcourse.affine import (
    INT2,
    INT3,
    INT4,
    INT8,
    INT8_NARROW,
    INT16,
    UINT1,
    UINT2,
    UINT3,
    UINT4,
    UINT8,
    UINT16,
    IntType,
    QParams,
    choose_qparams,
    dequantize,
    fake_quantize,
    quantize,
    unclipped_codes,
)

reproducible = settings(derandomize=True, deadline=None, max_examples=200, database=None)

HALF = Fraction(1, 2)
ROUNDINGS = {
    "even": round,  # Python rounds a Fraction to nearest, ties to even
    "half_away": lambda v: math.floor(abs(v) + HALF) * (-1 if v < 0 else 1),
    "half_up": lambda v: math.floor(v + HALF),
}
TYPES = [
    IntType(bits, signed, narrow)
    for bits, signed, narrow in itertools.product(range(1, 17), (True, False), (False, True))
    if bits > 1 or not narrow
]
TINY = float(torch.finfo(torch.float32).tiny)  # 2**-126
HUGE = float(torch.finfo(torch.float32).max)


def floats32(low, high):
    return st.floats(float(np.float32(low)), float(np.float32(high)), width=32)


def exact_code(x, scale, zero_point, dtype, rounding="even"):
    """The code by definition, where the quotient is rounded to a float32 first (NumPy divides)."""
    with np.errstate(over="ignore", under="ignore"):
        quotient = float(np.float32(x) / np.float32(scale))
    if math.isinf(quotient):
        return dtype.max if quotient > 0 else dtype.min
    return min(max(ROUNDINGS[rounding](Fraction(quotient)) + zero_point, dtype.min), dtype.max)


def bits_of(x):
    """The bit patterns of float32 values: -0.0 is not 0.0."""
    return x.contiguous().view(torch.int32)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# --- The integers ----------------------------------------------------------------------------------------------


def test_integer_types_are_the_ends_of_their_words():
    for dtype in TYPES:
        words = range(2**dtype.bits)
        codes = sorted(w - 2**dtype.bits if dtype.signed and w >> (dtype.bits - 1) else w for w in words)
        codes = codes[1:] if dtype.narrow else codes
        assert (dtype.min, dtype.max) == (codes[0], codes[-1])
        if dtype.signed and dtype.narrow:
            assert dtype.min == -dtype.max
        # The smallest of the four that holds both ends.
        holders = [
            t
            for t in (torch.int8, torch.uint8, torch.int16, torch.int32)
            if torch.iinfo(t).min <= dtype.min and dtype.max <= torch.iinfo(t).max
        ]
        assert dtype.storage.itemsize == min(t.itemsize for t in holders)
        assert dtype.storage in holders
        assert dtype.storage.itemsize > 1 or dtype.storage.is_signed == dtype.signed


def test_constants_are_what_their_names_say():
    named = {repr(d): d for d in (INT2, INT3, INT4, INT8, INT16, UINT1, UINT2, UINT3, UINT4, UINT8, UINT16)}
    assert all(named[f"{'U' * (not d.signed)}INT{d.bits}"] is d for d in named.values())
    assert [(d.min, d.max) for d in (INT4, INT8, UINT16)] == [(-8, 7), (-128, 127), (0, 65535)]
    assert (INT8_NARROW.min, INT8_NARROW.max) == (-127, 127)
    assert (repr(INT8_NARROW), str(UINT4)) == ("INT8_NARROW", "UINT4")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, True), r"bits: need an integer from 1 to 16, got 0"),
        ((17, True), "bits: .* got 17"),
        ((8.0, True), "bits: .* got 8.0"),
        ((True, True), "bits: .* got True"),
        ((8, 1), "signed: need True or False, got 1"),
        ((8, True, None), "narrow: need True or False, got None"),
        ((1, True, True), "narrow: need at least 2 bits"),
        ((1, False, True), "narrow: need at least 2 bits"),
    ],
)
def test_bad_integer_types(arguments, message):
    with pytest.raises(ValueError, match=message):
        IntType(*arguments)


# --- Scale and zero point --------------------------------------------------------------------------------------


@pytest.mark.parametrize("narrow", [False, True])
@pytest.mark.parametrize("signed", [False, True])
def test_choice_against_rationals(signed, narrow):
    ends = [Fraction(n, 8) for n in (-24, -7, -5, -1, 0, 1, 3, 8, 40)]
    for bits, low, high in itertools.product(range(2 if narrow else 1, 17), ends, ends):
        if low > high:
            continue
        dtype = IntType(bits, signed, narrow)
        zero_low, zero_high = min(low, 0), max(high, 0)
        width = zero_high - zero_low
        affine = choose_qparams(float(low), float(high), dtype, symmetric=False)
        step = width / (dtype.max - dtype.min) or Fraction(1)
        assert float(affine.scale) == np.float32(float(step))
        assert int(affine.zero_point) == round(dtype.min - zero_low / step), (dtype, low, high)

        middle = 0 if signed else (2 ** (bits - 1) if low < 0 else dtype.min)
        if middle == dtype.max:
            with pytest.raises(ValueError, match="dtype: need a code above the zero point"):
                choose_qparams(float(low), float(high), dtype, symmetric=True)
            continue
        even = choose_qparams(float(low), float(high), dtype, symmetric=True)
        step = max(-zero_low, zero_high) / (dtype.max - middle) or Fraction(1)
        assert (float(even.scale), int(even.zero_point)) == (np.float32(float(step)), middle)


def test_a_half_goes_to_the_even_zero_point_at_every_width():
    """[-w, w] has its zero in the middle between two codes, whatever w."""
    w = torch.rand(10_000, generator=generator()) * 10
    for dtype, even in ((INT4, 0), (UINT8, 128), (INT8, 0), (UINT16, 32768)):
        assert (choose_qparams(-w, w, dtype, symmetric=False, axis=0).zero_point == even).all()


def test_unsigned_symmetric_of_each_channel():
    """A channel without negative values keeps all codes for positive ones; the others give up half."""
    low, high = torch.tensor([-1.0, 0.0, 0.5]), torch.tensor([0.5, 2.0, 2.0])
    qp = choose_qparams(low, high, UINT8, symmetric=True, axis=0)
    assert qp.zero_point.tolist() == [128, 0, 0]
    assert qp.scale.tolist() == torch.tensor([1 / 127, 2 / 255, 2 / 255]).tolist()


@reproducible
@given(st.sampled_from(TYPES[2:]), floats32(-1e30, 1e30), floats32(-1e30, 1e30), st.booleans())
def test_power_of_two_is_the_next_one(dtype, a, b, symmetric):
    low, high = min(a, b), max(a, b)
    exact = choose_qparams(low, high, dtype, symmetric)
    qp = choose_qparams(low, high, dtype, symmetric, power_of_two=True)
    fraction, _ = math.frexp(float(qp.scale))
    assert fraction == 0.5
    if low == high == 0:
        assert float(qp.scale) == 1
        return
    if max(-low, high) < 1e-30:
        return  # the step of such a range may be raised: see below
    width = max(-Fraction(low), Fraction(high)) if symmetric else max(Fraction(high), 0) - min(Fraction(low), 0)
    steps = dtype.max - int(exact.zero_point) if symmetric else dtype.max - dtype.min
    assert Fraction(float(qp.scale)) / 2 < width / steps <= Fraction(float(qp.scale))
    # Nothing clips: the ends of the range are at most half a step away.
    ends = torch.tensor([low, high])
    assert (((ends - fake_quantize(ends, qp)).abs()) <= qp.scale / 2).all()


@reproducible
@given(st.integers(2, 16), floats32(2.0**-80, 2.0**80))
def test_ristretto(bits, t):
    """Its step for weights is ours, or half of it and then the largest value saturates."""
    ristretto = 2.0 ** (math.ceil(math.log2(t)) + 1 - bits)
    qp = choose_qparams(-t, t, IntType(bits, signed=True), symmetric=True, power_of_two=True)
    largest_code = Fraction(t) / Fraction(ristretto)
    in_the_last_step = largest_code > 2 ** (bits - 1) - 1
    assert float(qp.scale) == ristretto * (2 if in_the_last_step else 1)


def test_ristretto_saturates_at_one():
    assert float(choose_qparams(-1.0, 1.0, INT8, symmetric=True, power_of_two=True).scale) == 2.0**-6
    ristretto = QParams(2.0**-7, 0, INT8)
    assert fake_quantize(torch.tensor([1.0]), ristretto).item() == 127 / 128


def test_range_without_width():
    for dtype, symmetric, power_of_two in itertools.product((INT8, UINT8, INT4), (True, False), (True, False)):
        qp = choose_qparams(0.0, 0.0, dtype, symmetric, power_of_two=power_of_two)
        assert float(qp.scale) == 1
        assert fake_quantize(torch.zeros(3), qp).tolist() == [0, 0, 0]
    # All values equal is no such range: zero is part of every range.
    for value in (5.0, -5.0):
        qp = choose_qparams(value, value, INT8, symmetric=False)
        assert float(qp.scale) == np.float32(5 / 255)
        assert fake_quantize(torch.tensor([value]), qp).item() == pytest.approx(value, rel=1e-6)


@pytest.mark.parametrize("low", [-1e-45, -TINY, -1e-37])
@pytest.mark.parametrize("high", [0.0, 1e-45, TINY, 1e-37])
def test_range_narrower_than_normal_steps(low, high):
    for dtype, symmetric, power_of_two in itertools.product((INT8, UINT8, INT16), (True, False), (True, False)):
        qp = choose_qparams(low, high, dtype, symmetric, power_of_two=power_of_two)
        assert float(qp.scale) == TINY
        x = torch.linspace(low, high, 99).clamp(low, high)
        assert (x - fake_quantize(x, qp)).abs().max() <= 2.0**-127
    assert float(choose_qparams(-5e-324, 0.0, UINT8, symmetric=False).scale) == TINY


@pytest.mark.parametrize("bits", [2, 3, 4, 8, 16])
def test_range_up_to_the_largest_float(bits):
    x = torch.tensor([-HUGE, -HUGE / 3, 0, HUGE / 2, HUGE])
    for signed, symmetric, power_of_two in itertools.product((True, False), (True, False), (True, False)):
        dtype = IntType(bits, signed)
        if bits == 2 and power_of_two:
            with pytest.raises(ValueError, match=r"need a step that float32 can hold, got 3\.4"):
                choose_qparams(-HUGE, HUGE, dtype, symmetric, power_of_two=True)
            continue
        qp = choose_qparams(-HUGE, HUGE, dtype, symmetric, power_of_two=power_of_two)
        y = fake_quantize(x, qp)
        assert torch.isfinite(y).all()
        assert ((x.double() - y.double()).abs() <= qp.scale.double() * (0.5 + 2.0**-8)).all()
        assert torch.equal(bits_of(y), bits_of(dequantize(quantize(x, qp), qp)))
        ends = dequantize(torch.tensor([dtype.min, dtype.max]), qp)
        assert torch.isfinite(ends).all()
    with pytest.raises(ValueError, match=r"low, high: need a step that float32 can hold, got 6\.8"):
        choose_qparams(-HUGE, HUGE, UINT1, symmetric=False)
    with pytest.raises(ValueError, match="need a step that float32 can hold, got inf"):
        choose_qparams(-1.7e308, 1.7e308, INT8, symmetric=False)


def test_saturation_beyond_float32_keeps_the_sign():
    qp = QParams(torch.tensor([HUGE, 1.0]), torch.tensor([0, 0]), INT8, axis=0)
    assert dequantize(torch.tensor([[-128, 3], [-128, 3]]), qp).tolist() == [[-HUGE, HUGE], [-128, 3]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"low": math.nan}, "low: 1 of 1 values are NaN or infinite"),
        ({"high": math.inf}, "high: 1 of 1 values are NaN"),
        ({"low": 2.0}, "low: need at most high, got 2.0 and 1.0"),
        ({"low": torch.tensor([-1.0, 3.0]), "high": torch.tensor([0.0, 1.0]), "axis": 0}, "got 3.0 and 1.0"),
        ({"low": torch.zeros(0), "high": torch.zeros(0), "axis": 0}, "low: need at least one value"),
        ({"low": torch.zeros(2), "high": torch.zeros(3), "axis": 0}, "low, high: need one shape"),
        ({"low": torch.zeros(2)}, "low, high: need one shape"),
        ({"low": torch.zeros(2), "high": torch.zeros(2)}, r"low: need no axis \(0-d\) without axis=, got shape \(2,\)"),
        ({"axis": 0}, r"low: need one axis \(1-D\) with axis=0, got shape \(\)"),
        ({"axis": 0, "group_size": 2}, "low: need axis 0 to hold the groups"),
        ({"low": torch.tensor(0), "high": torch.tensor(1)}, "low: need floating-point values, got torch.int64"),
        ({"low": "0"}, "low: need a number or a torch tensor, got '0'"),
        ({"low": True}, "low: need a number or a torch tensor, got True"),
        ({"high": 10**400}, "high: need a number in torch.float64, got an integer of 1329 bits$"),
        ({"dtype": torch.int8}, "dtype: need an IntType such as INT8, got torch.int8"),
        ({"dtype": IntType(1, signed=True), "symmetric": True}, "got INT1, whose largest code is the zero point 0"),
        ({"dtype": UINT1, "symmetric": True}, "got UINT1, whose largest code is the zero point 1"),
        ({"symmetric": 1}, "symmetric: need True or False, got 1"),
        ({"power_of_two": "yes"}, "power_of_two: need True or False"),
        ({"axis": 0.0}, "axis: need an integer or None, got 0.0"),
        ({"axis": True}, "axis: need an integer or None, got True"),
        ({"group_size": 2}, "axis: need an axis for the groups"),
        ({"axis": 0, "group_size": 0}, "group_size: need an integer of at least 1 or None, got 0"),
        ({"axis": 0, "group_size": True}, "group_size: .* got True"),
    ],
)
def test_bad_ranges(change, message):
    given_ = {"low": -1.0, "high": 1.0, "dtype": INT8, "symmetric": False} | change
    with pytest.raises(ValueError, match=message):
        choose_qparams(**given_)


def test_uint1_of_one_sided_data():
    qp = choose_qparams(0.0, 3.0, UINT1, symmetric=True)
    assert fake_quantize(torch.tensor([0.0, 1.4, 1.6, 9.0]), qp).tolist() == [0, 0, 3, 3]


# --- QParams ---------------------------------------------------------------------------------------------------


def test_qparams_take_numbers_and_int64_and_compare():
    qp = QParams(0.25, 3, UINT8)
    assert (qp.scale.dtype, qp.scale.shape, qp.zero_point.dtype) == (torch.float32, (), torch.int32)
    assert qp == QParams(torch.tensor(0.25), torch.tensor(3), UINT8)
    assert qp == QParams(np.float32(0.25), np.int64(3), UINT8)
    others = [
        QParams(0.5, 3, UINT8),
        QParams(0.25, 4, UINT8),
        QParams(0.25, 3, INT8),
        QParams(torch.tensor([0.25]), torch.tensor([3]), UINT8, axis=0),
    ]
    assert all(qp != other for other in others)
    assert qp != 0.25
    by_channel = QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), INT8, axis=0)
    assert by_channel != QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), INT8, axis=1)
    assert by_channel != QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), INT8, axis=0, group_size=3)


def test_qparams_are_copies():
    scale, zero_point = torch.ones(2, requires_grad=True), torch.zeros(2, dtype=torch.int32)
    qp = QParams(scale, zero_point, INT8, axis=0)
    with torch.no_grad():
        scale.fill_(-1.0)
    zero_point.fill_(1000)
    assert qp == QParams(torch.ones(2), torch.zeros(2, dtype=torch.int32), INT8, axis=0)
    assert not qp.scale.requires_grad


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int64])
def test_numpy_bits_become_python_integers(kind):
    """uint8 would overflow in 1 << bits."""
    dtype = IntType(kind(16), signed=False)
    assert dtype == UINT16 and (dtype.max, type(dtype.bits)) == (2**16 - 1, int)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scale": torch.tensor(0.5, dtype=torch.float64)}, "scale: need float32, got torch.float64"),
        ({"scale": torch.tensor(1)}, "scale: need float32, got torch.int64"),
        ({"scale": 0.0}, "scale: need positive values, got 0.0"),
        ({"scale": torch.tensor([1.0, -1.0]), "zero_point": torch.zeros(2).int(), "axis": 0}, "positive .* got -1.0"),
        ({"scale": math.nan}, "scale: 1 of 1 values are NaN"),
        ({"scale": 1e39}, r"scale: does not fit float32 as a positive finite number, got 1e\+39"),
        ({"scale": 1e-50}, "scale: does not fit float32 as a positive finite number, got 1e-50"),
        ({"scale": torch.ones((), device="meta")}, "scale: need a dense tensor with data"),
        ({"zero_point": 0.5}, "zero_point: need an integer or a torch tensor, got 0.5"),
        ({"zero_point": torch.zeros((), dtype=torch.int32, device="meta")}, "zero_point: need a dense tensor"),
        ({"scale": None}, "scale: need a number or a torch tensor, got None"),
        ({"scale": torch.ones(1)}, r"scale: need no axis \(0-d\)"),
        ({"axis": 0}, r"scale: need one axis \(1-D\) with axis=0"),
        ({"scale": torch.ones(2), "axis": 0}, r"zero_point: need the shape of scale, \(2,\), got \(\)"),
        (
            {"scale": torch.ones(2, 2), "zero_point": torch.zeros(2, 2).int(), "axis": 0},
            r"scale: need one axis \(1-D\) with axis=0, got shape \(2, 2\)",
        ),
        ({"scale": torch.ones(2, 2), "axis": 2, "group_size": 2}, "scale: need axis 2 to hold the groups"),
        ({"zero_point": 0.0}, "zero_point: need an integer or a torch tensor, got 0.0"),
        ({"zero_point": 2**40}, "zero_point: need an integer in torch.int32"),
        ({"zero_point": torch.tensor(0.0)}, "zero_point: need integers"),
        ({"zero_point": torch.tensor(True)}, "zero_point: need integers"),
        ({"zero_point": 128}, r"zero_point: need -128 to 127 \(INT8\), got 128 to 128"),
        ({"dtype": "int8"}, "dtype: need an IntType"),
        ({"group_size": 4}, "axis: need an axis for the groups"),
    ],
)
def test_bad_qparams(change, message):
    with pytest.raises(ValueError, match=message):
        QParams(**({"scale": 1.0, "zero_point": 0, "dtype": INT8} | change))


# --- Quantize and dequantize -----------------------------------------------------------------------------------


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_every_small_type_and_zero_point_against_rationals(rounding):
    for dtype in TYPES:
        if dtype.bits > 4:
            continue
        for zero_point, scale in itertools.product(range(dtype.min, dtype.max + 1), (0.5, 0.1, 3.0)):
            qp = QParams(scale, zero_point, dtype)
            steps = np.arange(-2.0 * 2**dtype.bits, 2.0 * 2**dtype.bits, 0.5, dtype=np.float32)
            middle = (steps * np.float32(scale)).astype(np.float32)
            x = np.concatenate([middle, np.nextafter(middle, np.float32(-9e9)), np.nextafter(middle, np.float32(9e9))])
            codes = quantize(torch.from_numpy(x), qp, rounding)
            assert codes.dtype == dtype.storage
            assert codes.tolist() == [exact_code(v, scale, zero_point, dtype, rounding) for v in x]


@reproducible
@given(
    st.sampled_from(TYPES),
    floats32(2.0**-100, 2.0**100),
    st.lists(floats32(-HUGE, HUGE), min_size=1, max_size=20),
    st.sampled_from(list(ROUNDINGS)),
    st.data(),
)
def test_any_value_against_rationals(dtype, scale, x, rounding, data):
    zero_point = data.draw(st.integers(dtype.min, dtype.max))
    near = data.draw(st.lists(st.integers(-(2**17), 2**17), max_size=20))
    with np.errstate(over="ignore"):
        near = (np.array(near) / 2).astype(np.float32) * np.float32(scale)
    x = np.concatenate([np.array([*x, HUGE, -HUGE, TINY, 1e-45, 0.0, -0.0]), near[np.isfinite(near)]]).astype("f")
    qp = QParams(scale, zero_point, dtype)
    codes = quantize(torch.from_numpy(x), qp, rounding)
    assert codes.tolist() == [exact_code(v, scale, zero_point, dtype, rounding) for v in x]
    reals = dequantize(codes, qp)
    exact = [Fraction(float(np.float32(scale))) * (int(q) - zero_point) for q in codes]
    # Python turns a Fraction into the nearest float64; one product of float32 and 17 bits fits it exactly.
    assert reals.tolist() == [float(np.float32(float(v))) for v in exact]
    if rounding == "even":
        assert torch.equal(bits_of(fake_quantize(torch.from_numpy(x), qp)), bits_of(reals))


def test_halves():
    x = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])
    qp = QParams(1.0, 1, INT8)  # an odd zero point: added after rounding, it moves no tie
    assert (quantize(x, qp, "even") - 1).tolist() == [-2, -2, 0, 0, 2, 2]
    assert (quantize(x, qp, "half_away") - 1).tolist() == [-3, -2, -1, 1, 2, 3]
    assert (quantize(x, qp, "half_up") - 1).tolist() == [-2, -1, 0, 1, 2, 3]
    almost = torch.nextafter(torch.tensor(0.5), torch.tensor(0.0))  # adding 0.5 in float32 would give 1
    for rounding in ROUNDINGS:
        assert quantize(torch.stack([almost, -almost]), QParams(1.0, 0, INT8), rounding).tolist() == [0, 0]


def test_floats_of_all_widths():
    """Narrow floats widen exactly; float64 keeps what float32 would round to a tie."""
    qp = QParams(0.1, 2, INT8)
    x = torch.randn(1000, generator=generator()) * 5
    for dtype in (torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        narrow = x.to(dtype)
        assert torch.equal(quantize(narrow, qp), quantize(narrow.to(torch.float32), qp))
        assert fake_quantize(narrow, qp).dtype == torch.float32
        assert quantize(narrow[3:4].view(()), qp) == quantize(narrow[3:4], qp)  # a 0-d tensor is no number
    above = torch.tensor([0.5 + 1e-12], dtype=torch.float64)
    unit = QParams(1.0, 0, INT8)
    assert (quantize(above, unit).item(), quantize(above.float(), unit).item()) == (1, 0)
    y = fake_quantize(above, unit)
    assert (y.dtype, y.item()) == (torch.float32, 1)
    assert quantize(torch.tensor([1e300, -1e300], dtype=torch.float64), unit).tolist() == [127, -128]
    half = QParams(torch.tensor([0.1, 0.3]), torch.tensor([1, 2]), INT8, axis=1)
    wide = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    expected = np.rint(wide.numpy() / half.scale.numpy().astype(np.float64)) + np.array([1, 2])
    np.testing.assert_array_equal(quantize(wide, half).numpy(), expected)


def test_unclipped_codes_are_what_is_clipped():
    x = torch.randn(500, generator=generator()) * 100
    for dtype, rounding in itertools.product((INT4, UINT8), ROUNDINGS):
        qp = QParams(0.7, 3, dtype)
        codes = unclipped_codes(x, qp, rounding)
        assert torch.equal(codes, quantize(x, QParams(0.7, 3, INT16), rounding).float())
        assert torch.equal(codes.clamp(dtype.min, dtype.max).to(dtype.storage), quantize(x, qp, rounding))


def test_inputs_are_left_alone():
    x = torch.tensor([[0.3, -2.0], [7.0, -9.0]], requires_grad=True)
    kept = x.detach().clone()
    scale = torch.tensor([0.5, 0.25], requires_grad=True)
    qp = QParams(scale, torch.tensor([1, 2]), INT4, axis=1)
    for rounding in ("even", "half_away", "half_up", "stochastic"):
        codes = quantize(x, qp, rounding)
    again = codes.clone()
    for y in (fake_quantize(x, qp), dequantize(codes, qp), dequantize(codes.int(), qp), unclipped_codes(x, qp)):
        assert not y.requires_grad
    assert torch.equal(x, kept) and torch.equal(codes, again)
    assert qp == QParams(torch.tensor([0.5, 0.25]), torch.tensor([1, 2]), INT4, axis=1)


@pytest.mark.parametrize(
    ("x", "qp", "message"),
    [
        ([1.0], QParams(1.0, 0, INT8), "x: need a torch tensor, got a list"),
        (torch.tensor([1]), QParams(1.0, 0, INT8), "x: need floating-point values, got torch.int64"),
        (torch.tensor([1j]), QParams(1.0, 0, INT8), "x: need floating-point values"),
        (torch.zeros(0), QParams(1.0, 0, INT8), "x: need at least one value"),
        (torch.ones(2, device="meta"), QParams(1.0, 0, INT8), "x: need a dense tensor with data, got one on the meta"),
        (torch.eye(2).to_sparse(), QParams(1.0, 0, INT8), "x: need a dense tensor with data, got .*sparse_coo"),
        (torch.tensor([0, math.nan]), QParams(1.0, 0, INT8), "x: 1 of 2 values are NaN or infinite"),
        (torch.tensor([math.inf, -math.inf]), QParams(1.0, 0, INT8), "x: 2 of 2 values are NaN or infinite"),
        (torch.zeros(2), 0.5, "qp: need QParams, got a float"),
        (
            torch.zeros(2),
            QParams(torch.ones(2), torch.zeros(2).int(), INT8, axis=1),
            "x: need a tensor that has axis 1",
        ),
        (torch.zeros(2), QParams(torch.ones(2), torch.zeros(2).int(), INT8, axis=-2), "has axis -2 of qp"),
        (
            torch.zeros(4, 3),
            QParams(torch.ones(2), torch.zeros(2).int(), INT8, axis=1),
            r"x: need shape \(4, 2\) for the \(2,\) scales of qp, got \(4, 3\)",
        ),
        (
            torch.zeros(4, 1),  # would broadcast
            QParams(torch.ones(2), torch.zeros(2).int(), INT8, axis=-1),
            r"x: need shape \(4, 2\)",
        ),
        (
            torch.zeros(4, 7),
            QParams(torch.ones(4, 2), torch.zeros(4, 2).int(), INT8, axis=1, group_size=3),
            r"x: need shape \(4, 6\) for the \(4, 2\) scales of qp, got \(4, 7\)",
        ),
        (
            torch.zeros(5, 6),
            QParams(torch.ones(4, 2), torch.zeros(4, 2).int(), INT8, axis=-1, group_size=3),
            r"x: need shape \(4, 6\)",
        ),
        (
            torch.zeros(1, 4, 6),
            QParams(torch.ones(4, 2), torch.zeros(4, 2).int(), INT8, axis=-1, group_size=3),
            r"x: need shape \(4, 6\) .* got \(1, 4, 6\)",
        ),
    ],
)
def test_bad_values(x, qp, message):
    for function in (quantize, fake_quantize, unclipped_codes):
        with pytest.raises(ValueError, match=message):
            function(x, qp)


def test_bad_rounding():
    x, qp = torch.zeros(2), QParams(1.0, 0, INT8)
    for function in (quantize, unclipped_codes):
        with pytest.raises(ValueError, match=r"rounding: need .*'floor'"):
            function(x, qp, "floor")
        with pytest.raises(ValueError, match='generator: need rounding="stochastic", got "even"'):
            function(x, qp, generator=generator())
        for seed in (0, "0", np.random.default_rng(0)):
            with pytest.raises(ValueError, match=r"generator: need a torch.Generator, got "):
                function(x, qp, "stochastic", seed)


def test_without_a_generator_the_global_one_is_drawn_from():
    x, qp = torch.rand(200, generator=generator()), QParams(0.5, 0, INT8)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = quantize(x, qp, "stochastic")
    assert torch.equal(drawn, quantize(x, qp, "stochastic", torch.Generator().manual_seed(3)))


@pytest.mark.parametrize(
    ("q", "message"),
    [
        ([1], "q: need a torch tensor, got a list"),
        (torch.tensor([1.0]), "q: need integers .* got torch.float32"),
        (torch.tensor([True]), "q: need integers .* got torch.bool"),
        (torch.zeros(1, dtype=torch.int8, device="meta"), "q: need a dense tensor with data, got one on the meta"),
        (
            torch.eye(2).int().to_sparse(),
            "q: need a dense tensor with data, got torch.int32 in layout torch.sparse_coo",
        ),
        (torch.tensor([1], dtype=torch.uint16), "q: need integers .* got torch.uint16"),
        (torch.zeros(0, dtype=torch.int8), "q: need at least one"),
        (torch.tensor([-9, 0]), r"q: need -8 to 7 \(INT4\), got -9 to 0"),
        (torch.tensor([0, 8]), "got 0 to 8"),
        (torch.tensor([2**62, 0]), "q: need -8 to 7"),
    ],
)
def test_bad_codes(q, message):
    with pytest.raises(ValueError, match=message):
        dequantize(q, QParams(1.0, 0, INT4))


def test_bad_codes_of_other_shapes():
    with pytest.raises(ValueError, match=r"q: need shape \(2, 2\) for the \(2,\) scales"):
        dequantize(torch.zeros(2, 3).int(), QParams(torch.ones(2), torch.zeros(2).int(), INT8, axis=1))
    with pytest.raises(ValueError, match="qp: need QParams, got a NoneType"):
        dequantize(torch.zeros(2).int(), None)
    with pytest.raises(ValueError, match=r"q: need -127 to 127 \(INT8_NARROW\), got -128"):
        dequantize(torch.tensor([-128], dtype=torch.int8), QParams(1.0, 0, INT8_NARROW))


# --- What quantization promises --------------------------------------------------------------------------------

ranges = st.tuples(floats32(-(2.0**40), 2.0**40), floats32(-(2.0**40), 2.0**40)).map(sorted)


def qparams_or_none(ends, dtype, symmetric, power_of_two):
    try:
        return choose_qparams(*ends, dtype, symmetric, power_of_two=power_of_two)
    except ValueError:  # one bit has no symmetric range
        assert dtype.bits == 1 and symmetric
        return None


@reproducible
@given(ranges, st.sampled_from(TYPES), st.booleans(), st.booleans(), st.integers(0, 99))
def test_promises_of_any_range(ends, dtype, symmetric, power_of_two, seed):
    qp = qparams_or_none(ends, dtype, symmetric, power_of_two)
    if qp is None:
        return
    scale = float(qp.scale)
    # Zero is exact, and positive.
    zero = torch.tensor([0.0, -0.0])
    assert torch.equal(quantize(zero, qp).int(), qp.zero_point.expand(2))
    assert bits_of(fake_quantize(zero, qp)).tolist() == [0, 0]

    low, high = min(ends[0], 0), max(ends[1], 0)
    inside = torch.rand(200, generator=generator(seed), dtype=torch.float64) * (high - low) + low
    inside = torch.cat([inside, torch.tensor([low, high], dtype=torch.float64)]).to(torch.float32)
    y = fake_quantize(inside, qp)
    # Half a step; and 3 roundings to float32, of scale, quotient and product, each at most 2**-24 of the value.
    slack = 3 * 2.0**-24 * inside.double().abs() + 2.0**-149
    assert ((inside.double() - y.double()).abs() <= scale / 2 * (1 + 2.0**-20) + slack).all()

    x = torch.cat([inside, inside * 3]).sort().values
    y = fake_quantize(x, qp)
    assert (y.diff() >= 0).all(), "monotone"
    assert torch.equal(bits_of(fake_quantize(y, qp)), bits_of(y)), "idempotent"
    codes = quantize(x, qp)
    assert dtype.min <= int(codes.min()) and int(codes.max()) <= dtype.max
    assert len(y.unique()) <= 2**dtype.bits


@reproducible
@given(st.sampled_from([d for d in TYPES if d.bits <= 8]), floats32(2.0**-60, 2.0**60), st.data())
def test_codes_survive_the_round_trip(dtype, scale, data):
    qp = QParams(scale, data.draw(st.integers(dtype.min, dtype.max)), dtype)
    codes = torch.arange(dtype.min, dtype.max + 1)
    for rounding in (*ROUNDINGS, "stochastic"):
        assert torch.equal(quantize(dequantize(codes, qp), qp, rounding).long(), codes) or rounding == "stochastic"
    assert (dequantize(codes, qp).diff() > 0).all()


def test_beyond_the_range_clips_to_the_ends():
    qp = choose_qparams(-1.0, 3.0, UINT8, symmetric=False)
    x = torch.tensor([-HUGE, -100.0, -2.0, 4.0, 100.0, HUGE])
    assert quantize(x, qp).tolist() == [0, 0, 0, 255, 255, 255]
    tiny = QParams(TINY, 7, INT8)  # the quotient overflows float32
    for rounding in (*ROUNDINGS, "stochastic"):
        assert quantize(torch.tensor([HUGE, -HUGE]), tiny, rounding).tolist() == [127, -128]
    assert fake_quantize(torch.tensor([HUGE, -HUGE]), tiny).tolist() == [120 * TINY, -135 * TINY]


# --- Granularity and layout ------------------------------------------------------------------------------------


def ranged(x, dims, dtype, symmetric, **grouping):
    return choose_qparams(x.amin(dims), x.amax(dims), dtype, symmetric, **grouping)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1, -4])
def test_a_channel_is_a_tensor_of_its_own(axis, symmetric):
    x = torch.randn(3, 4, 5, 6, generator=generator()) * torch.logspace(-2, 2, x_len := (3, 4, 5, 6)[axis]).view(
        [x_len if d == axis % 4 else 1 for d in range(4)]
    )
    qp = ranged(x, [d for d in range(4) if d != axis % 4], INT4, symmetric, axis=axis)
    for i in range(x_len):
        channel = x.select(axis, i)
        alone = ranged(channel, [0, 1, 2], INT4, symmetric)
        assert alone == QParams(qp.scale[i], qp.zero_point[i], INT4)
        for function in (quantize, fake_quantize):
            assert torch.equal(function(x, qp).select(axis, i), function(channel, alone))
        codes = quantize(x, qp)
        assert torch.equal(dequantize(codes, qp).select(axis, i), dequantize(codes.select(axis, i), alone))


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2])
@pytest.mark.parametrize("group_size", [1, 2, 6])
def test_a_group_is_a_tensor_of_its_own(axis, group_size):
    x = torch.randn(6, 12, 18, generator=generator())
    chunks = x.split(group_size, dim=axis)
    low = torch.stack([c.amin(axis) for c in chunks], dim=axis)
    high = torch.stack([c.amax(axis) for c in chunks], dim=axis)
    qp = choose_qparams(low, high, UINT4, symmetric=False, axis=axis, group_size=group_size)
    y, codes = fake_quantize(x, qp), quantize(x, qp)
    assert torch.equal(dequantize(codes, qp), y)
    for index in itertools.product(*(range(n) for n in qp.scale.shape)):
        place = list(index)
        at = axis % 3
        place[at] = slice(index[at] * group_size, (index[at] + 1) * group_size)
        group = x[tuple(place)]
        alone = choose_qparams(group.min(), group.max(), UINT4, symmetric=False)
        assert torch.equal(y[tuple(place)], fake_quantize(group, alone))
        assert torch.equal(codes[tuple(place)], quantize(group, alone))


def test_a_group_as_long_as_the_axis_is_a_row():
    x = torch.randn(2, 5, 8, generator=generator())
    qp = choose_qparams(x.amin(-1, True), x.amax(-1, True), INT8, symmetric=True, axis=-1, group_size=8)
    assert qp.scale.shape == (2, 5, 1)
    rows = x.reshape(10, 8)
    by_row = choose_qparams(rows.amin(1), rows.amax(1), INT8, symmetric=True, axis=0)
    assert torch.equal(fake_quantize(x, qp).reshape(10, 8), fake_quantize(rows, by_row))


def test_layout_in_memory_does_not_matter():
    x = torch.randn(4, 6, 8, 10, generator=generator())
    layouts = {
        "channels_last": x.to(memory_format=torch.channels_last),
        "permuted": x.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        "strided": torch.stack([x, x + 1], -1)[..., 0],
        "backward in one axis": x.flip(2).clone().flip(2),
    }
    expanded = x[:1].expand(4, -1, -1, -1)
    per_channel = ranged(x, [0, 2, 3], INT8, False, axis=1)
    groups = x.unflatten(1, (3, 2))
    per_group = choose_qparams(groups.amin(2), groups.amax(2), INT8, symmetric=False, axis=1, group_size=2)
    per_tensor = ranged(x, [0, 1, 2, 3], INT8, False)
    for qp in (per_tensor, per_channel, per_group):
        for rounding in ROUNDINGS:
            expected = quantize(x, qp, rounding)
            for name, other in layouts.items():
                assert torch.equal(quantize(other, qp, rounding), expected), name
        for name, other in layouts.items():
            assert torch.equal(fake_quantize(other, qp), fake_quantize(x, qp)), name
            assert torch.equal(other, x), "not written to"
        assert torch.equal(dequantize(quantize(layouts["permuted"], qp), qp), fake_quantize(x, qp))
        assert torch.equal(fake_quantize(expanded, qp), fake_quantize(expanded.contiguous(), qp))
    # Moving the axis in the tensor and in qp together changes nothing either.
    moved = QParams(per_channel.scale, per_channel.zero_point, INT8, axis=3)
    assert torch.equal(fake_quantize(x.permute(0, 2, 3, 1), moved), fake_quantize(x, per_channel).permute(0, 2, 3, 1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_gives_the_same_codes():
    x = torch.randn(64, 48, generator=generator()) * 3
    groups = x.unflatten(1, (12, 4))
    for qp in (
        ranged(x, [0, 1], UINT8, False),  # stays on the CPU
        ranged(x, [0], INT4, False, axis=1),
        choose_qparams(groups.amin(2), groups.amax(2), INT8, symmetric=False, axis=1, group_size=4),
    ):
        for rounding in ROUNDINGS:
            assert torch.equal(quantize(x.cuda(), qp, rounding).cpu(), quantize(x, qp, rounding))
        assert torch.equal(fake_quantize(x.cuda(), qp).cpu(), fake_quantize(x, qp))
    on_gpu = choose_qparams(x.amin(0).cuda(), x.amax(0).cuda(), INT4, symmetric=False, axis=1)
    assert on_gpu.scale.is_cuda and torch.equal(on_gpu.scale.cpu(), ranged(x, [0], INT4, False, axis=1).scale)


# --- Stochastic rounding ---------------------------------------------------------------------------------------


def test_stochastic_rounding_is_right_on_average():
    """At fraction f the code is floor + Bernoulli(f): both neighbours only, and the mean within 5 standard errors."""
    qp = QParams(0.5, 3, INT8)
    count = 40_000
    for real in (-3.37, -0.25, 0.0, 0.1, 0.49, 7.01, 12.5):
        x = torch.full((count,), real)
        v = real / 0.5
        f = v - math.floor(v)
        codes = quantize(x, qp, "stochastic", generator(5)).double() - 3
        assert set(codes.tolist()) <= {math.floor(v), math.ceil(v - 1e-6)}
        assert abs(codes.mean() - v) <= 5 * math.sqrt(f * (1 - f) / count) + 1e-6
        if 1e-3 < f < 1 - 1e-3:
            assert codes.var() == pytest.approx(f * (1 - f), rel=0.05)


def test_stochastic_draws():
    x, qp = torch.randn(500, generator=generator()), QParams(0.5, 0, INT8)
    first = quantize(x, qp, "stochastic", generator(1))
    assert torch.equal(first, quantize(x, qp, "stochastic", generator(1)))
    assert not torch.equal(first, quantize(x, qp, "stochastic", generator(2)))
    assert not torch.equal(first, quantize(x, qp, "even"))
    wide = quantize(x.double(), qp, "stochastic", generator(1))
    assert ((wide.double() - x.double() / 0.5).abs() < 1).all()


# --- ONNX ------------------------------------------------------------------------------------------------------

ONNX_TYPES = {
    "int2": INT2,
    "uint2": UINT2,
    "int4": INT4,
    "uint4": UINT4,
    "int8": INT8,
    "uint8": UINT8,
    "int16": INT16,
    "uint16": UINT16,
}
QUANTIZE_CASES = ["", "_axis", "_uint16", "_int16", "_uint4", "_int4", "_uint2", "_int2"]
QUANTIZE_CASES += ["_blocked_asymmetric", "_blocked_symmetric"]
DEQUANTIZE_CASES = ["", "_axis", "_uint16", "_int16", "_uint4", "_int4", "_uint2", "_int2", "_blocked"]


# Importing a module makes its cases; onnx's own loader makes those of all operators, which takes most of a minute.
CASES = {c.name: c for c in node._NodeTestCases if "quantizelinear" in c.name}


def array(value):
    """Integers of few bits are stored packed."""
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def read_case(name):
    """Input, QParams and output of a case of ONNX, in float64; a zero point that is not given is 0."""
    (operator,) = CASES[name].model.graph.node
    attributes = {a.name: helper.get_attribute_value(a) for a in operator.attribute}
    ((inputs, (output,)),) = CASES[name].data_sets
    code_type = array(inputs[0] if operator.op_type == "DequantizeLinear" else output).dtype
    x, scale, *given_, output = (torch.from_numpy(array(v).astype(np.float64)) for v in (*inputs, output))
    # Some cases have one zero point in a list beside a scale that is 0-d.
    zero_point = given_[0].view(scale.shape) if given_ else torch.zeros_like(scale)
    axis = attributes.get("axis", 1) if scale.ndim else None
    group_size = attributes.get("block_size") or None
    return x, QParams(scale.float(), zero_point.int(), ONNX_TYPES[str(code_type)], axis, group_size), output


def test_onnx_cases_are_all_here():
    """Those left out are floats, and the dynamic operator, which has a test below."""
    run = {f"test_quantizelinear{c}" for c in QUANTIZE_CASES} | {f"test_dequantizelinear{c}" for c in DEQUANTIZE_CASES}
    left = set(CASES) - run
    assert run <= set(CASES)
    assert len(run) == 19
    assert all(any(w in name for w in ("e4m3", "e5m2", "e2m1", "dynamic")) for name in left)


@pytest.mark.parametrize("case", QUANTIZE_CASES)
def test_onnx_quantizelinear(case):
    x, qp, codes = read_case(f"test_quantizelinear{case}")
    assert torch.equal(quantize(x.float(), qp).double(), codes)


@pytest.mark.parametrize("case", DEQUANTIZE_CASES)
def test_onnx_dequantizelinear(case):
    q, qp, reals = read_case(f"test_dequantizelinear{case}")
    assert torch.equal(dequantize(q.int(), qp).double(), reals)


@pytest.mark.parametrize("case", ["", "_max_adjusted", "_min_adjusted"])
def test_onnx_dynamicquantizelinear(case):
    """Affine UINT8 of the range of x, widened to hold zero, is what choose_qparams gives."""
    (((x,), (codes, scale, zero_point)),) = CASES[f"test_dynamicquantizelinear{case}"].data_sets
    qp = choose_qparams(float(x.min()), float(x.max()), UINT8, symmetric=False)
    assert float(qp.scale) == pytest.approx(float(scale), rel=2**-23)
    assert int(qp.zero_point) == int(zero_point)
    assert quantize(torch.from_numpy(x), qp).tolist() == codes.tolist()


RUNTIME_TYPES = {
    INT8: TensorProto.INT8,
    UINT8: TensorProto.UINT8,
    INT16: TensorProto.INT16,
    UINT16: TensorProto.UINT16,
}


def runtime(op_type, dtype, **attributes):
    """A session of ONNX Runtime with one node: ``op_type`` between float32 and ``dtype``."""
    quantizes = op_type == "QuantizeLinear"
    code = RUNTIME_TYPES[dtype]
    kinds = {"x": TensorProto.FLOAT if quantizes else code, "scale": TensorProto.FLOAT, "zero_point": code}
    inputs = [helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items()]
    output = helper.make_tensor_value_info("y", code if quantizes else TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node(op_type, list(kinds), ["y"], **attributes)], "g", inputs, [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


# One session each, for all examples.
GROUPINGS = {"tensor": {}, "axis": {"axis": 1}, "last axis": {"axis": -1}, "blocked": {"axis": 1, "block_size": 2}}
SESSIONS = {
    (dtype, grouping): (
        runtime("QuantizeLinear", dtype, **attributes),
        runtime("DequantizeLinear", dtype, **attributes),
    )
    for dtype, (grouping, attributes) in itertools.product(RUNTIME_TYPES, GROUPINGS.items())
}
NUMPY_CODES = {INT8: np.int8, UINT8: np.uint8, INT16: np.int16, UINT16: np.uint16}


@settings(reproducible, max_examples=100)
@given(st.sampled_from(list(SESSIONS)), st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(-100, 100))
def test_onnx_runtime_agrees(key, seed, channels, exponent):
    dtype, grouping = key
    rng = np.random.default_rng(seed)
    shape = (3, 2 * channels, 5)
    axis, group_size = {"tensor": (None, None), "axis": (1, None), "last axis": (-1, None), "blocked": (1, 2)}[grouping]
    scales = {"tensor": (), "axis": shape[1:2], "last axis": shape[2:], "blocked": (3, channels, 5)}[grouping]
    scale = np.asarray(rng.uniform(0.5, 2, scales) * 2.0**exponent, np.float32)
    zero_point = np.asarray(rng.integers(dtype.min, dtype.max + 1, scales), NUMPY_CODES[dtype])
    # Half of the values are ties or next to them, some clip.
    ties = rng.integers(-(2**dtype.bits), 2**dtype.bits, shape) / 2 * 2.0**exponent
    x = np.where(rng.random(shape) < 0.5, ties, rng.normal(0, 2**dtype.bits / 3, shape) * 2.0**exponent)
    x = x.astype(np.float32)
    qp = QParams(torch.from_numpy(scale), torch.from_numpy(zero_point.astype(np.int32)), dtype, axis, group_size)
    quantizer, dequantizer = SESSIONS[key]
    (codes,) = quantizer.run(None, {"x": x, "scale": scale, "zero_point": zero_point})
    np.testing.assert_array_equal(quantize(torch.from_numpy(x), qp).numpy(), codes)
    (reals,) = dequantizer.run(None, {"x": codes, "scale": scale, "zero_point": zero_point})
    ours = dequantize(torch.from_numpy(codes.astype(np.int32)), qp)
    np.testing.assert_array_equal(ours.numpy().view(np.int32), reals.view(np.int32))


# --- torch's own -----------------------------------------------------------------------------------------------


def test_torch_multiplies_by_the_reciprocal():
    """Its codes differ from those of a true division, by one and only where the quotient is next to a half."""
    scale = torch.tensor(0.1)
    halves = (torch.arange(-100, 100) + 0.5) * scale
    x = torch.cat([halves, torch.nextafter(halves, torch.tensor(99.0)), torch.nextafter(halves, torch.tensor(-99.0))])
    qp = QParams(scale, 0, INT8)
    theirs = torch.fake_quantize_per_tensor_affine(x, 0.1, 0, -128, 127)
    their_codes, codes = torch.round(theirs / scale), quantize(x, qp).float()
    different = codes != their_codes
    assert 0 < different.sum() < len(x) / 4
    assert ((codes - their_codes).abs()[different] == 1).all()
    v = (x.double() / scale.double())[different]
    assert ((v - v.floor() - 0.5).abs() < 1e-5).all()
    # Their product is what they round.
    assert torch.equal(their_codes, torch.round(x * (1 / scale)).clamp(-128, 127))
    # And away from halves there is no difference.
    away = (torch.arange(-1000, 1000) + 0.3) * scale / 8
    assert torch.equal(fake_quantize(away, qp), torch.fake_quantize_per_tensor_affine(away, 0.1, 0, -128, 127))


@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")  # deprecated, and here to be shown
def test_torch_quantize_per_tensor_adds_the_zero_point_first():
    """So a tie goes to the even code, ours to the even number of steps: they differ if the zero point is odd."""
    x = torch.tensor([0.5, 1.5, 2.5])
    for zero_point in (2, 3):
        theirs = torch.quantize_per_tensor(x, 1.0, zero_point, torch.quint8).int_repr().tolist()
        assert theirs == [round(v + zero_point) for v in x.tolist()]
        ours = quantize(x, QParams(1.0, zero_point, UINT8)).tolist()
        assert ours == [round(v) + zero_point for v in x.tolist()]
        assert (ours == theirs) == (zero_point == 2)


# --- The notes' examples ---------------------------------------------------------------------------------------


def test_eight_weights_at_four_bits():
    """The worked example of the source notes: the totals of absolute errors."""
    w = torch.tensor([0.1, 0.2, 1.2, 2.5, 2.1, -1.0, -2.0, -2.5])
    symmetric = choose_qparams(-2.5, 2.5, INT4, symmetric=True)
    affine = choose_qparams(-2.5, 2.5, INT4, symmetric=False)
    assert float(symmetric.scale) == np.float32(2.5 / 7)
    assert float(affine.scale) == np.float32(5 / 15)
    totals = [float((w - fake_quantize(w, qp)).abs().sum()) for qp in (symmetric, affine)]
    assert totals == pytest.approx([0.643, 0.800], abs=5e-4)


def test_largest_code_just_above_the_limit_saturates():
    qp = QParams(HUGE / 2**16 * 1.5, 0, UINT16)
    assert dequantize(torch.tensor([65535]), qp).item() == HUGE
    assert fake_quantize(torch.tensor([HUGE]), qp).item() == HUGE


def test_stochastic_rounding_never_moves_a_whole_number(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **options: torch.zeros(shape))
    assert quantize(torch.tensor([-2.0, 0.0, 0.5, 3.0]), QParams(1.0, 0, INT8), "stochastic").tolist() == [-2, 0, 1, 3]


def test_stochastic_draws_have_the_precision_of_x(monkeypatch):
    real, asked = torch.rand, []
    monkeypatch.setattr(torch, "rand", lambda *a, **k: asked.append(k.get("dtype")) or real(*a, **k))
    quantize(torch.ones(2, dtype=torch.float64), QParams(1.0, 0, INT8), "stochastic")
    assert asked == [torch.float64]


def test_a_step_that_rounds_to_the_largest_float_is_held():
    assert float(choose_qparams(0.0, HUGE * (1 + 2.0**-26), UINT1, symmetric=False).scale) == HUGE
