"""Typical wrong answers to homework 1: what it is, the question that it costs, and the cell that makes it."""

WRONG: list[tuple[str, str, str]] = [
    (
        "the sign is left in its place, not shifted down",
        "q1",
        """
right_fields = fields
def fields(code, exponent_bits, fraction_bits):
    _, E, F = right_fields(code, exponent_bits, fraction_bits)
    return code & 1 << exponent_bits + fraction_bits, E, F
""",
    ),
    (
        "a code with too many bits is accepted",
        "q1",
        """
def fields(code, exponent_bits, fraction_bits):
    E, F = code >> fraction_bits & 2**exponent_bits - 1, code & 2**fraction_bits - 1
    return code >> exponent_bits + fraction_bits, E, F
""",
    ),
    (
        "subnormals get a leading 1",
        "q2",
        """
right_decode = decode
def decode(codes, exponent_bits, fraction_bits, specials):
    values = right_decode(codes, exponent_bits, fraction_bits, specials)
    codes = np.asarray(codes)
    E, F = codes >> fraction_bits & 2**exponent_bits - 1, codes & 2**fraction_bits - 1
    wrong = (1 + F / 2**fraction_bits) * 2.0 ** (1 - 2 ** (exponent_bits - 1))
    return np.where((E == 0) & (F > 0), np.copysign(wrong, values), values)
""",
    ),
    (
        "the exponent of subnormals is that of E = 0, not of E = 1",
        "q2",
        """
right_decode = decode
def decode(codes, exponent_bits, fraction_bits, specials):
    values = right_decode(codes, exponent_bits, fraction_bits, specials)
    return np.where(np.asarray(codes) >> fraction_bits & 2**exponent_bits - 1, values, values / 2)
""",
    ),
    (
        "the bias is too large by one",
        "q2",
        """
right_decode = decode
def decode(codes, exponent_bits, fraction_bits, specials):
    return right_decode(codes, exponent_bits, fraction_bits, specials) / 2
""",
    ),
    (
        "the highest exponent of an fn format is NaN as a whole",
        "q2",
        """
right_decode = decode
def decode(codes, exponent_bits, fraction_bits, specials):
    values = right_decode(codes, exponent_bits, fraction_bits, specials)
    top = (np.asarray(codes) >> fraction_bits & 2**exponent_bits - 1) == 2**exponent_bits - 1
    return np.where(top & (specials == "fn"), np.nan, values)
""",
    ),
    (
        "minus zero comes out as plus zero",
        "q2",
        """
right_decode = decode
def decode(codes, exponent_bits, fraction_bits, specials):
    return right_decode(codes, exponent_bits, fraction_bits, specials) + 0.0
""",
    ),
    ("448 is taken for the neighbour of infinity", "q3", 'why_448 = "D"'),
    ("the largest E3M4 by the IEEE rule, as in the chapter", "q3", "largest_e3m4 = 15.5"),
    ("the last fraction of E3M4 is not left to NaN", "q3", "largest_e3m4 = 31.0"),
    (
        "ties go up",
        "q4",
        """
right_encode = encode
def encode(x, exponent_bits, fraction_bits, specials, saturate=False):
    nudged = np.where(np.isfinite(x), np.nextafter(x, np.copysign(np.inf, x)), x)
    nudged = np.where(np.asarray(x) == 0, x, nudged)
    return right_encode(nudged, exponent_bits, fraction_bits, specials, saturate)
""",
    ),
    (
        "bits are cut off, not rounded",
        "q4",
        """
right_encode = encode
def encode(x, exponent_bits, fraction_bits, specials, saturate=False):
    x = np.asarray(x, dtype=np.float64)
    lowest = 2 - 2 ** (exponent_bits - 1)
    gap = np.exp2(np.maximum(np.frexp(np.where(np.isfinite(x), x, 1.0))[1] - 1.0, lowest) - fraction_bits)
    return right_encode(np.trunc(x / gap) * gap, exponent_bits, fraction_bits, specials, saturate)
""",
    ),
    (
        "subnormals are flushed to zero",
        "q4",
        """
right_encode = encode
def encode(x, exponent_bits, fraction_bits, specials, saturate=False):
    x = np.asarray(x, dtype=np.float64)
    small = np.abs(x) < 2.0 ** (2 - 2 ** (exponent_bits - 1))
    return right_encode(np.where(small, np.copysign(0.0, x), x), exponent_bits, fraction_bits, specials, saturate)
""",
    ),
    (
        "overflow is looked for before rounding, so that all above 448 is lost",
        "q4",
        """
right_encode = encode
def encode(x, exponent_bits, fraction_bits, specials, saturate=False):
    x = np.asarray(x, dtype=np.float64)
    bias, top = 2 ** (exponent_bits - 1) - 1, 2**exponent_bits - 1
    last = {"ieee": 2 * 2**fraction_bits - 1, "fn": 2 * 2**fraction_bits - 2, "finite": 2 * 2**fraction_bits - 1}
    largest = last[specials] * 2.0 ** (top - (specials == "ieee") - bias - fraction_bits)
    x = np.where(np.abs(x) > largest, np.copysign(np.inf, x), x)
    return right_encode(x, exponent_bits, fraction_bits, specials, saturate)
""",
    ),
    (
        "saturating also makes a number of NaN",
        "q4",
        """
right_encode = encode
def encode(x, exponent_bits, fraction_bits, specials, saturate=False):
    if saturate:
        x = np.nan_to_num(x, nan=np.inf, posinf=np.inf, neginf=-np.inf)
    return right_encode(x, exponent_bits, fraction_bits, specials, saturate)
""",
    ),
    (
        "what overflows in a finite format is refused",
        "q4",
        """
right_encode = encode
def encode(x, exponent_bits, fraction_bits, specials, saturate=False):
    if specials == "finite" and not saturate and np.isinf(x).any():
        raise ValueError("infinity")
    return right_encode(x, exponent_bits, fraction_bits, specials, saturate)
""",
    ),
    (
        "the sign of minus zero is lost",
        "q4",
        """
right_encode = encode
def encode(x, exponent_bits, fraction_bits, specials, saturate=False):
    return right_encode(np.asarray(x) + 0.0, exponent_bits, fraction_bits, specials, saturate)
""",
    ),
    ("the sum of the rounded numbers is not rounded itself", "q5", "sum_e5m2 = 0.28125"),
    ("the tie of the sum goes up", "q5", "sum_e5m2 = 0.3125"),
    ("0.1 is rounded with the gap of the next binade", "q5", "tenth_e5m2 = 0.125"),
    ("0.3 is cut off", "q5", "direct_e5m2 = 0.25"),
    (
        "the gap goes on shrinking below the smallest normal number",
        "q6",
        """
def ulp(x, exponent_bits, fraction_bits):
    return 2.0 ** (int(np.frexp(abs(x))[1]) - 1 - fraction_bits)
""",
    ),
    (
        "the exponent comes from a rounded logarithm",
        "q6",
        """
def ulp(x, exponent_bits, fraction_bits):
    lowest = 2 - 2 ** (exponent_bits - 1)
    exponent = lowest if x == 0 else max(int(np.floor(np.log2(np.float32(abs(x))))), lowest)
    return 2.0 ** (exponent - fraction_bits)
""",
    ),
    (
        "the leading 1 is counted as a fraction bit",
        "q6",
        """
right_ulp = ulp
def ulp(x, exponent_bits, fraction_bits):
    return right_ulp(x, exponent_bits, fraction_bits) / 2
""",
    ),
    ("every tie is taken for absorbed", "q6", "absorbed_e4m3 = [True, True, True, False, True, True]"),
    (
        "the smaller gap below a power of two is overlooked",
        "q6",
        "absorbed_e4m3 = [False, True, False, False, False, True]",
    ),
    ("the sum stalls at 2**p times the term, power of two or not", "q6", "stalls_at = 96.0"),
    ("the sum stalls where a sum of ones does", "q6", "stalls_at = 32.0"),
    ("smaller terms are taken for a cure", "q6", 'remedy = "D"'),
    (
        "halves go up",
        "q7",
        """
def to_fixed(x, m, f):
    x = np.asarray(x, dtype=np.float64)
    if np.isnan(x).any():
        raise ValueError("NaN")
    return np.clip(np.floor(x * 2.0**f + 0.5), -(2 ** (m + f)), 2 ** (m + f) - 1).astype(np.int64)
""",
    ),
    (
        "the range is symmetric, one code short",
        "q7",
        """
right_to_fixed = to_fixed
def to_fixed(x, m, f):
    return np.maximum(right_to_fixed(x, m, f), 1 - 2 ** (m + f))
""",
    ),
    (
        "the highest code is too high by one",
        "q7",
        """
def to_fixed(x, m, f):
    x = np.asarray(x, dtype=np.float64)
    if np.isnan(x).any():
        raise ValueError("NaN")
    return np.clip(np.rint(x * 2.0**f), -(2 ** (m + f)), 2 ** (m + f)).astype(np.int64)
""",
    ),
    (
        "the sign bit is counted among the integer bits",
        "q7",
        """
right_to_fixed = to_fixed
def to_fixed(x, m, f):
    end = 2 ** max(m + f - 1, 0)
    return np.clip(right_to_fixed(x, m, f), -end, end - 1)
""",
    ),
    (
        "codes wrap around at the ends",
        "q7",
        """
def to_fixed(x, m, f):
    x = np.clip(np.asarray(x, dtype=np.float64), -1e9, 1e9)
    if np.isnan(x).any():
        raise ValueError("NaN")
    q, end = np.rint(x * 2.0**f).astype(np.int64), 2 ** (m + f)
    return (q + end) % (2 * end) - end
""",
    ),
    (
        "NaN becomes zero",
        "q7",
        """
right_to_fixed = to_fixed
def to_fixed(x, m, f):
    return right_to_fixed(np.where(np.isnan(x), 0.0, x), m, f)
""",
    ),
    (
        "the square root is taken as well",
        "q8",
        """
right_mse = mse
def mse(x, x_hat):
    return right_mse(x, x_hat) ** 0.5
""",
    ),
    (
        "arrays of different shapes are broadcast",
        "q8",
        """
def mse(x, x_hat):
    return float(np.mean((np.asarray(x) - np.asarray(x_hat)) ** 2))
""",
    ),
    ("the best format for the filter is taken for the best for all sizes", "q8", 'best_small = "Q0.7"'),
    (
        "the peak of the filter is not saturated in Q0.7",
        "q8",
        """
errors = {**errors, "Q0.7": mse(taps, np.rint(taps * 128) / 128)}
""",
    ),
    (
        "codes are compared with numbers",
        "q8",
        """
errors = {form: mse(taps, encode(taps, *FORMATS[form])) for form in ("E4M3", "E5M2")} | {"Q0.7": errors["Q0.7"]}
""",
    ),
]
