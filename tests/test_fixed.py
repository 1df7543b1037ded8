"""quantcourse.fixed against exact rational and integer arithmetic.

Fractions know no rounding error, and Python's integers no width, so both say what a fixed-point number should be.
"""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantcourse.fixed import QFormat, add, multiply

pytestmark = pytest.mark.filterwarnings("error")
reproducible = settings(derandomize=True, deadline=None, max_examples=200, database=None)

HALF = Fraction(1, 2)
ROUNDINGS = {
    "even": round,  # Python rounds a Fraction to nearest, ties to even
    "half_away": lambda v: math.floor(abs(v) + HALF) * (-1 if v < 0 else 1),
    "half_up": lambda v: math.floor(v + HALF),
    "zero": math.trunc,
    "floor": math.floor,
}
# The same five on integers: q / 2**shift without a fraction in sight.
SHIFTS = {
    "even": lambda q, shift: (q + (1 << shift - 1) - 1 + (q >> shift & 1)) >> shift,
    "half_away": lambda q, shift: ((abs(q) + (1 << shift - 1)) >> shift) * (-1 if q < 0 else 1),
    "half_up": lambda q, shift: (q + (1 << shift - 1)) >> shift,
    "zero": lambda q, shift: (abs(q) >> shift) * (-1 if q < 0 else 1),
    "floor": lambda q, shift: q >> shift,
}


def formats_up_to(bits):
    """Every format of at most so many bits."""
    counts = itertools.product(range(bits + 1), range(bits + 1), (True, False))
    return [QFormat(*c) for c in counts if 1 <= sum(c) <= bits]


def lowest_bits(q, form):
    """The number that the lowest bits of an integer of any length stand for."""
    q %= 2**form.bits
    return q - 2**form.bits if form.signed and q >= 2 ** (form.bits - 1) else q


def clamp(q, form):
    low, high = (-(2 ** (form.bits - 1)), 2 ** (form.bits - 1) - 1) if form.signed else (0, 2**form.bits - 1)
    return min(max(q, low), high)


def by_definition(x, form, rounding, overflow):
    """What encode should give, in exact arithmetic."""
    limit = {"saturate": clamp, "wrap": lowest_bits}[overflow]
    return [limit(ROUNDINGS[rounding](Fraction(v) * 2**form.fraction_bits), form) for v in np.ravel(x).tolist()]


def codes_of(form):
    low = -(2 ** (form.bits - 1)) if form.signed else 0
    return np.arange(low, low + 2**form.bits)


# --- Encode and decode ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_all_formats_to_8_bits(rounding, overflow):
    for form in formats_up_to(8):
        codes = codes_of(form)
        steps = np.arange(codes[0] - 5, codes[-1] + 5.5, 0.5) * 2.0**-form.fraction_bits  # numbers and midpoints
        x = np.concatenate([steps, np.nextafter(steps, -np.inf), np.nextafter(steps, np.inf)])
        assert form.encode(x, rounding, overflow).tolist() == by_definition(x, form, rounding, overflow), form


def test_decode_is_exact_and_encode_inverts_it():
    for form in formats_up_to(8):
        codes = codes_of(form)
        values = form.decode(codes)
        assert [Fraction(v) for v in values.tolist()] == [Fraction(int(q), 2**form.fraction_bits) for q in codes]
        for rounding, overflow in itertools.product(ROUNDINGS, ("saturate", "wrap")):
            np.testing.assert_array_equal(form.encode(values, rounding, overflow), codes)
            np.testing.assert_array_equal(form.round(values, rounding, overflow), values)


def test_constants():
    for form in formats_up_to(8):
        values = form.decode(codes_of(form))
        assert (form.min, form.max) == (values.min(), values.max())
        assert (form.min_code, form.max_code) == (codes_of(form)[0], codes_of(form)[-1])
        if len(values) > 1:
            assert (np.diff(values) == form.resolution).all()
    q15 = QFormat(0, 15)
    assert (q15.bits, q15.min, q15.max, q15.resolution) == (16, -1.0, 32767 / 32768, 2.0**-15)
    u8 = QFormat(8, 0, signed=False)
    assert (u8.bits, u8.min, u8.max, u8.resolution) == (8, 0.0, 255.0, 1.0)


widths = st.tuples(st.integers(0, 52), st.integers(0, 52), st.booleans()).filter(lambda c: 1 <= sum(c) <= 53)


@reproducible
@given(
    widths,
    st.lists(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.floats(-100, 100), st.integers(-99, 99))),
    st.sampled_from(list(ROUNDINGS)),
    st.sampled_from(["saturate", "wrap"]),
)
def test_any_format_any_value(counts, x, rounding, overflow):
    form = QFormat(*counts)
    x = np.array([*x, 1.7e308, -1.7e308, 5e-324, -5e-324, form.min, form.max, form.max + form.resolution / 2], float)
    q = form.encode(x, rounding, overflow)
    assert q.tolist() == by_definition(x, form, rounding, overflow)
    assert [Fraction(v) for v in form.decode(q).tolist()] == [Fraction(n, 2**form.fraction_bits) for n in q.tolist()]


@pytest.mark.parametrize(
    ("form", "ends"),
    [
        (QFormat(52, 0), (-(2**52), 2**52 - 1)),
        (QFormat(0, 52), (-(2**52), 2**52 - 1)),
        (QFormat(26, 26), (-(2**52), 2**52 - 1)),
        (QFormat(53, 0, signed=False), (0, 2**53 - 1)),
        (QFormat(0, 53, signed=False), (0, 2**53 - 1)),
    ],
)
def test_53_bits(form, ends):
    assert (form.min_code, form.max_code) == ends
    codes = np.array([ends[0], ends[0] + 1, ends[1] - 1, ends[1]])
    np.testing.assert_array_equal(form.encode(form.decode(codes)), codes)
    far = np.array([-1e300, 1e300, -np.inf, np.inf])
    assert form.encode(far).tolist() == [ends[0], ends[1]] * 2
    turn = 2.0 ** (form.integer_bits + form.signed)
    assert form.encode([turn, -turn, 3 * turn, 1e300], overflow="wrap").tolist() == [0, 0, 0, 0]


def test_wrap_around_goes_round():
    int8 = QFormat(7, 0)
    assert int8.encode([127, 128, 129, 255, 256, -128, -129, -256], overflow="wrap").tolist() == (
        [127, -128, -127, -1, 0, -128, 127, 0]
    )
    assert (
        int8.encode(np.arange(-1000, 1000), overflow="wrap").tolist() == np.arange(-1000, 1000).astype(np.int8).tolist()
    )
    # Rounding comes first: 127.5 becomes 128, which is one past the end.
    assert int8.encode(127.5, overflow="wrap") == -128
    assert int8.encode(127.5, "zero", "wrap") == 127
    assert QFormat(8, 0, signed=False).encode([-0.5, -1, 255.5], overflow="wrap").tolist() == [0, 255, 0]


def test_roundings_differ_where_they_should():
    x = [-2.5, -1.5, -0.7, 0.5, 1.5, 2.5, 2.7]
    found = {rounding: QFormat(4, 0).encode(x, rounding).tolist() for rounding in ROUNDINGS}
    assert found == {
        "even": [-2, -2, -1, 0, 2, 2, 3],
        "half_away": [-3, -2, -1, 1, 2, 3, 3],
        "half_up": [-2, -1, -1, 1, 2, 3, 3],
        "zero": [-2, -1, 0, 0, 1, 2, 2],
        "floor": [-3, -2, -1, 0, 1, 2, 2],
    }
    almost_half = np.nextafter(0.5, 0)  # adding 0.5 in float64 would give 1
    assert all(
        QFormat(4, 0).encode([almost_half, -almost_half], r).tolist() == [0, 0] for r in ROUNDINGS if r != "floor"
    )


# --- Arithmetic -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("operation", "exactly"), [(add, Fraction.__add__), (multiply, Fraction.__mul__)])
def test_all_pairs_of_small_formats(operation, exactly):
    forms = formats_up_to(4)
    for p_form, q_form in itertools.product(forms, forms):
        p, q = codes_of(p_form)[:, None], codes_of(q_form)
        codes, form = operation(p, p_form, q, q_form)
        assert codes.dtype == np.int64
        p_values, q_values = ([Fraction(v) for v in f.decode(codes_of(f)).tolist()] for f in (p_form, q_form))
        expected = [exactly(a, b) for a in p_values for b in q_values]
        assert [Fraction(v) for v in form.decode(codes).ravel().tolist()] == expected
        # Nothing smaller would do: with that resolution no other format of so few bits reaches both ends.
        low, high = min(expected), max(expected)
        candidates = (
            QFormat(i, form.fraction_bits, s) for i in range(12) for s in (True, False) if i + form.fraction_bits + s
        )
        fitting = [c for c in candidates if c.min <= low and high <= c.max]
        assert form in fitting
        assert form.bits == min(c.bits for c in fitting)


@pytest.mark.parametrize(
    ("p", "q", "total", "product"),
    [
        (QFormat(3, 4), QFormat(3, 4), QFormat(4, 4), QFormat(7, 8)),
        (QFormat(0, 15), QFormat(0, 15), QFormat(1, 15), QFormat(1, 30)),
        (QFormat(3, 4), QFormat(1, 6), QFormat(4, 6), QFormat(5, 10)),
        (QFormat(7, 0), QFormat(8, 0, False), QFormat(9, 0), QFormat(15, 0)),
        (QFormat(8, 0, False), QFormat(8, 0, False), QFormat(9, 0, False), QFormat(16, 0, False)),
    ],
)
def test_growth(p, q, total, product):
    assert p.sum_format(q) == q.sum_format(p) == total
    assert p.product_format(q) == q.product_format(p) == product


def test_operands_broadcast_and_keep_their_types():
    codes, form = add(np.int8([[1], [-128]]), QFormat(7, 0), np.uint8([0, 200, 255]), QFormat(8, 0, False))
    assert codes.tolist() == [[1, 201, 256], [-128, 72, 127]]
    assert form == QFormat(9, 0)
    codes, _ = multiply(np.int8([-128, 127]), QFormat(7, 0), np.int8([-128, 127]), QFormat(7, 0))
    assert codes.tolist() == [16384, 16129]  # no wrap-around in int8
    q, form = multiply(3, QFormat(3, 0), 4, QFormat(3, 0))
    assert (q, np.ndim(q)) == (12, 0)


def test_results_at_the_53_bit_border():
    wide = QFormat(51, 0)
    codes, form = add([2**51 - 1, -(2**51)], wide, [2**51 - 1, -(2**51)], wide)
    assert codes.tolist() == [2**52 - 2, -(2**52)]
    assert form.bits == 53
    codes, form = multiply([2**26 - 1], QFormat(0, 26, False), [2**27 - 1], QFormat(0, 27, False))
    assert codes.tolist() == [(2**26 - 1) * (2**27 - 1)]
    assert form == QFormat(0, 53, False)
    for operation, p, q in ((add, QFormat(52, 0), QFormat(52, 0)), (multiply, QFormat(26, 0), QFormat(26, 0))):
        with pytest.raises(ValueError, match="need at most 53"):
            operation(1, p, 1, q)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_multiply_and_shift(rounding):
    # A product goes back to a narrow format by a shift with rounding: real arithmetic and integers agree.
    form = QFormat(3, 4)
    product, wide = multiply(codes_of(form)[:, None], form, codes_of(form), form)
    for narrow in (QFormat(7, 4), QFormat(3, 4), QFormat(7, 7), QFormat(7, 0)):
        shift = wide.fraction_bits - narrow.fraction_bits
        shifted = {int(q): SHIFTS[rounding](int(q), shift) for q in np.unique(product)}
        for overflow, limit in (("saturate", clamp), ("wrap", lowest_bits)):
            found = narrow.encode(wide.decode(product), rounding, overflow)
            assert all(
                limit(shifted[q], narrow) == r
                for q, r in zip(product.ravel().tolist(), found.ravel().tolist(), strict=True)
            )


# --- Arrays of every kind ---------------------------------------------------------------------------------------


VALUES = np.array([[0.1, -2.7, 300.0], [7.9, -1e-7, -8.0]])
INPUTS = {
    "list": VALUES.tolist(),
    "Fortran order": np.asfortranarray(VALUES),
    "every second": np.repeat(VALUES, 2, axis=1)[:, ::2],
    "big-endian": VALUES.astype(">f8"),
    "read-only": np.broadcast_to(VALUES, VALUES.shape),
    "torch": torch.from_numpy(VALUES.copy()),
}


@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
@pytest.mark.parametrize("kind", INPUTS)
def test_every_kind_of_array(kind, overflow):
    form, x = QFormat(3, 4), INPUTS[kind]
    before = np.asarray(x).copy()
    q = form.encode(x, overflow=overflow)
    assert q.ravel().tolist() == by_definition(VALUES, form, "even", overflow)
    assert (q.dtype, q.shape) == (np.int64, (2, 3))
    np.testing.assert_array_equal(form.round(x, overflow=overflow), q / 16)
    np.testing.assert_array_equal(form.decode(np.asfortranarray(q).astype(">i2")), q / 16)
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("x", [2.6, np.float32(2.6), np.array(2.6), 3, np.int8(-128), True])
@pytest.mark.parametrize("overflow", ["saturate", "wrap"])
def test_scalars_in_scalars_out(x, overflow):
    form = QFormat(3, 4)
    q = form.encode(x, overflow=overflow)
    assert isinstance(q, np.int64)
    assert q == form.encode([x], overflow=overflow)[0]
    assert isinstance(form.round(x, overflow=overflow), np.float64)


@pytest.mark.parametrize("shape", [(0,), (0, 3)])
def test_empty_arrays(shape):
    form = QFormat(3, 4)
    for overflow in ("saturate", "wrap"):
        q = form.encode(np.zeros(shape), overflow=overflow)
        assert (q.shape, q.dtype) == (shape, np.int64)
        assert form.decode(q).shape == shape
    assert form.decode([]).shape == form.encode([]).shape == (0,)


def test_no_floating_point_flag_escapes():
    x = np.array([1.7e308, -1.7e308, 5e-324, 0.3, -0.0])
    with np.errstate(all="raise"):
        for form in (QFormat(0, 52), QFormat(52, 0), QFormat(3, 4)):
            for rounding in ROUNDINGS:
                form.encode([*x, np.inf, -np.inf], rounding)
                form.encode(x, rounding, "wrap")


def test_formats_are_values():
    assert QFormat(3, 4) == QFormat(3, 4, True) != QFormat(3, 4, False)
    assert len({QFormat(3, 4), QFormat(3, 4)}) == 1
    with pytest.raises(AttributeError):
        QFormat(3, 4).fraction_bits = 5


# --- Errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 4), "integer_bits=-1"),
        ((4, -1), "fraction_bits=-1"),
        ((1.0, 4), "integer_bits=1.0"),
        ((1, "4"), "fraction_bits=4"),
        ((None, 4), "integer_bits=None"),
        ((True, 4), "integer_bits=True"),
        ((0, 0, False), "1 to 53 bits"),
        ((53, 0), "1 to 53 bits"),
        ((26, 28, False), "1 to 53 bits"),
        ((3, 4, 2), "^signed.*2"),
        ((3, 4, "no"), "^signed.*'no'"),
        ((3, 4, None), "^signed.*None"),
    ],
)
def test_constructor_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        QFormat(*arguments)


@pytest.mark.parametrize("method", ["encode", "round"])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1.0, np.nan],), "^x: 1 of 2 values are NaN"),
        (([1.0, np.inf], "even", "wrap"), "^x: 1 of 2 values are infinite"),
        ((1.0, "up"), "^rounding: need .*'up'"),
        (([], None), "^rounding: need .*None"),
        ((1.0, "even", "clip"), "^overflow: need .*'clip'"),
        ((1.0, "even", None), "^overflow: need .*None"),
        ((None,), "^x: "),
        (("1",), "^x: "),
        (([1j],), "^x: "),
        (([[1.0], [1.0, 2.0]],), "^x: "),
        ((2**70,), "^x: "),
        ((np.array([2**53 + 1]),), "^x: "),
    ],
)
def test_encode_errors(method, arguments, message):
    with pytest.raises(ValueError, match=message):
        getattr(QFormat(3, 4), method)(*arguments)


BAD_CODES = [1.0, True, 128, -129, [0, 128], 2**64, None, "1", [[1], [1, 2]]]


@pytest.mark.parametrize("codes", BAD_CODES)
def test_code_errors(codes):
    form = QFormat(3, 4)
    with pytest.raises(ValueError, match=r"^q: need"):
        form.decode(codes)
    for operation in (add, multiply):
        with pytest.raises(ValueError, match=r"^p: need"):
            operation(codes, form, 1, form)
        with pytest.raises(ValueError, match=r"^q: need"):
            operation(1, form, codes, form)


@pytest.mark.parametrize("other", [None, 8, "Q3.4", (3, 4)])
def test_format_errors(other):
    form = QFormat(3, 4)
    for grow in (form.sum_format, form.product_format):
        with pytest.raises(ValueError, match=r"^other: need a QFormat"):
            grow(other)
    for operation in (add, multiply):
        with pytest.raises(ValueError, match=r"^p_format: need a QFormat"):
            operation(1, other, 1, form)
        with pytest.raises(ValueError, match=r"^q_format: need a QFormat"):
            operation(1, form, 1, other)


@pytest.mark.parametrize("operation", [add, multiply])
def test_shapes_that_do_not_broadcast(operation):
    form = QFormat(3, 4)
    with pytest.raises(ValueError, match=r"^p, q: need shapes that broadcast, got \(2,\) and \(3,\)"):
        operation([1, 2], form, [1, 2, 3], form)


def test_unsigned_formats_have_no_negative_codes():
    form = QFormat(3, 4, signed=False)
    assert form.encode([-1.0, -np.inf]).tolist() == [0, 0]
    with pytest.raises(ValueError, match=r"^q: need integers in 0\.\.127, got -1$"):
        form.decode(-1)


def test_floats_are_not_fixed_point_codes_even_when_whole():
    with pytest.raises(ValueError, match=r"^q: need integers of at most 64 bits, got dtype float64"):
        QFormat(3, 4).decode(np.zeros(0))
