# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [raw]
# # ASSIGNMENT CONFIG
# name: hw1_numbers
# export_cell: false
# solutions_pdf: false
# template_pdf: false
# check_all_cell: true
# generate:
#   pdf: false

# %% [markdown]
# # Homework 1: Numbers
#
# About 105 minutes, 20 points, after the chapters *Floating point*, *Fixed point* and *Low precision*.
#
# You may use numpy and Python's own modules, nothing else. Bad input raises `ValueError` where the question says so.
# Where a question asks for a prediction, work it out on paper before you run the cell below it. Your functions could
# compute most of these answers. Predict first all the same: where you were wrong is where you learn.
#
# The public tests, which you see, carry about a third of the points. Of predictions and letters they check the form
# alone, not whether they are right. The hidden tests try more formats, ties, signs, shapes and bad input.
# A cell that uses your functions ends with an error until you have written them; *Run All Cells* goes on behind it.

# %% [markdown]
# ## Does 0.1 + 0.2 make 0.3?
#
# Ask numpy in three formats.

# %%
import numpy as np

for kind in (np.float64, np.float32, np.float16):
    total = kind(0.1) + kind(0.2)
    print(f"{kind.__name__}: 0.1 + 0.2 == 0.3 is {total == kind(0.3)}")

# %% [markdown]
# No with 64 bits, yes with 32, no with 16. The number of bits alone does not tell. What about 8 bits? numpy has no
# 8-bit floats, so you will build them: a codec for every small float format. With it you can answer this question,
# see which sums stop growing, and choose a format for a small filter.
#
# In this homework a float format is three things.
#
# - `exponent_bits`: bits $w_E$ of the stored exponent $E$, from 2 to 8. The bias is always $2^{w_E-1} - 1$.
# - `fraction_bits`: bits of the stored fraction $F$, from 1 to 10. These are the $p - 1$ bits behind the leading 1.
# - `specials`: what the codes stand for in which all bits of $E$ are 1.
#   - `"ieee"`: infinity if $F = 0$, NaN for all other $F$.
#   - `"fn"`: NaN if all bits of $F$ are 1 too. The other codes are ordinary numbers, and there is no infinity.
#   - `"finite"`: all are ordinary numbers. There is neither infinity nor NaN.
#
# A code is an integer from 0 up. Its bits, from the highest: one bit of sign $S$, then $E$, then $F$.

# %%
FORMATS = {  # exponent_bits, fraction_bits, specials
    "FP16": (5, 10, "ieee"),
    "E5M2": (5, 2, "ieee"),
    "E4M3": (4, 3, "fn"),
    "E2M1": (2, 1, "finite"),
}

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 1

# %% [markdown]
# ## Question 1. Three fields (1 point)
#
# Write `fields(code, exponent_bits, fraction_bits)`. It takes one code, an integer, and returns the tuple $(S, E, F)$
# of three integers. A code that is negative, or has more than `1 + exponent_bits + fraction_bits` bits, raises a
# `ValueError`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def fields(code, exponent_bits, fraction_bits):
    """The stored sign, exponent and fraction of one code."""
    # BEGIN SOLUTION
    if not 0 <= code < 1 << 1 + exponent_bits + fraction_bits:
        raise ValueError(f"code: got {code}, need {1 + exponent_bits + fraction_bits} bits")
    fraction = code & (1 << fraction_bits) - 1
    exponent = code >> fraction_bits & (1 << exponent_bits) - 1
    return code >> exponent_bits + fraction_bits, exponent, fraction
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: The E4M3 code 1 0111 010 has S = 1, E = 7 and F = 2. Return a tuple of three integers. See Floating point, "Three fields and a bias".
"""  # END TEST CONFIG
import numpy as np

found = fields(0b1_0111_010, 4, 3)
assert isinstance(found, tuple) and len(found) == 3, found
assert all(isinstance(part, (int, np.integer)) for part in found), found
assert found == (1, 7, 2), found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
found = fields(0b1_10101_1100000000, 5, 10)
assert isinstance(found, tuple) and found == (1, 21, 768)
assert fields(0b0_11_1, 2, 1) == (0, 3, 1)
assert fields(0b1_11111111_0000001, 8, 7) == (1, 255, 1)
assert fields(255, 4, 3) == (1, 15, 7) and fields(0, 4, 3) == (0, 0, 0)
for bad, e, f in ((-1, 4, 3), (256, 4, 3), (16, 2, 1)):
    try:
        fields(bad, e, f)
    except ValueError:
        pass
    else:
        assert False, "a code out of range was accepted"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 3

# %% [markdown]
# ## Question 2. The value of a code (3 points)
#
# Write `decode(codes, exponent_bits, fraction_bits, specials)`. `codes` is an integer array of any shape; all its
# codes fit the format. The result is a float64 array of the same shape with their values: zeros (with their sign),
# subnormals, normals, infinities and NaN, as the rules above say. A NaN may have any sign. The two widths are within
# the limits named above. If `specials` is none of the three words, raise a `ValueError`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def decode(codes, exponent_bits, fraction_bits, specials):
    """The values of an array of codes, as float64."""
    # BEGIN SOLUTION
    if specials not in ("ieee", "fn", "finite"):
        raise ValueError(f"specials: got {specials!r}, need 'ieee', 'fn' or 'finite'")
    codes = np.asarray(codes).astype(np.int64)
    sign = np.where(codes >> exponent_bits + fraction_bits, -1.0, 1.0)
    last_exponent, last_fraction = (1 << exponent_bits) - 1, (1 << fraction_bits) - 1
    E, F = codes >> fraction_bits & last_exponent, codes & last_fraction
    bias = 2 ** (exponent_bits - 1) - 1
    significand = np.where(E > 0, F + 2.0**fraction_bits, F)
    values = significand * 2.0 ** (np.maximum(E, 1) - bias - fraction_bits)
    if specials == "ieee":
        values = np.where(E == last_exponent, np.where(F == 0, np.inf, np.nan), values)
    if specials == "fn":
        values = np.where((E == last_exponent) & (F == last_fraction), np.nan, values)
    return sign * values
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: These four codes are normal numbers. E = 7 is the bias, so 0 0111 000 stands for 1.0. Each E has the exponent e = E - bias, and the significand is 1 + F / 2**fraction_bits. See Floating point, "Three fields and a bias".
"""  # END TEST CONFIG
import numpy as np

values = decode(np.array([0b0_0111_000, 0b1_0111_100, 0b0_1000_010, 0b0_1110_111]), 4, 3, "ieee")
assert isinstance(values, np.ndarray) and values.dtype == np.float64 and values.shape == (4,), repr(values)
assert values.tolist() == [1.0, -1.5, 2.5, 240.0], values

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: The codes 0 to 9 of E4M3 are 0 to 9 steps of the same size, and 129 is minus one step. With E = 0 there is no leading 1, and the exponent is that of E = 1. The shape stays. See Floating point, "Zero, and the numbers just above it".
"""  # END TEST CONFIG
import numpy as np

values = decode(np.array([[0, 1, 7], [8, 9, 129]]), 4, 3, "fn")
assert isinstance(values, np.ndarray) and values.shape == (2, 3), repr(values)
assert (values * 2**9).tolist() == [[0.0, 1.0, 7.0], [8.0, 9.0, -1.0]], (values * 2**9).tolist()

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: The two highest positive codes of a 4-bit format under the three rules. They are infinity and NaN in ieee, a number and NaN in fn, two numbers in finite. See Floating point, "Infinity, and what is not a number" and "E4M3 has no infinity".
"""  # END TEST CONFIG
import numpy as np

top = np.array([0b0_11_0, 0b0_11_1])
ieee, fn, finite = decode(top, 2, 1, "ieee"), decode(top, 2, 1, "fn"), decode(top, 2, 1, "finite")
assert all(isinstance(values, np.ndarray) for values in (ieee, fn, finite)), (ieee, fn, finite)
assert ieee[0] == np.inf and np.isnan(ieee[1]), ieee
assert fn[0] == 4.0 and np.isnan(fn[1]), fn
assert finite.tolist() == [4.0, 6.0], finite

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

codes = np.arange(2**16)
truth = codes.astype(np.uint16).view(np.float16).astype(np.float64)
values = decode(codes, 5, 10, "ieee")
assert isinstance(values, np.ndarray) and values.dtype == np.float64
assert np.array_equal(values, truth, equal_nan=True)
finite = ~np.isnan(truth)
assert np.array_equal(np.signbit(values[finite]), np.signbit(truth[finite]))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

values = decode(np.arange(256).reshape(16, 16), 4, 3, "fn")
assert isinstance(values, np.ndarray) and values.shape == (16, 16)
flat = values.ravel()
assert np.flatnonzero(np.isnan(flat)).tolist() == [127, 255]
assert not np.isinf(flat).any()
assert flat[126] == 448.0 and flat[254] == -448.0 and flat[120] == 256.0
small = decode(np.arange(64), 3, 2, "finite")
assert isinstance(small, np.ndarray) and np.isfinite(small).all()
assert small[31] == 28.0 and small[63] == -28.0 and small[1] == 0.0625
assert decode(np.array([125, 124]), 5, 2, "ieee").tolist()[1] == np.inf

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

pattern = np.array([0x0001, 0x3F80, 0xC049, 0x7F80, 0x0080, 0x8000])
truth = (pattern.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
values = decode(pattern, 8, 7, "ieee")
assert isinstance(values, np.ndarray) and np.array_equal(values, truth)
assert np.signbit(values[5])
one = decode(np.array(3), 2, 1, "finite")
assert np.shape(one) == () and float(one) == 1.5
for word in ("IEEE", ""):
    try:
        decode(np.array([1]), 4, 3, word)
    except ValueError:
        pass
    else:
        assert False, "an unknown rule was accepted"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 2

# %% [markdown]
# ## Question 3. Why 448? (2 points)
#
# By the IEEE rule a format with the fields of E4M3 would end at 240. E4M3 ends at 448. Why at 448, and not at 480?
#
# - **A.** Its bias is smaller by one than the IEEE rule asks, which moves every number up.
# - **B.** The numbers above 240 exist only in tools that saturate.
# - **C.** The highest exponent holds numbers too, but its last fraction is taken by NaN.
# - **D.** The highest exponent holds numbers too, but its last fraction is taken by infinity.
# - **E.** 480 needs one significant bit more than the format has.
#
# Set `why_448` to the letter. Then set `largest_e3m4` to the largest finite number of E3M4 (three exponent bits, four
# fraction bits) with `specials` `"fn"`, as a float. The chapter has E3M4 by the IEEE rule; here the rule is another
# one.

# %% [raw]
# # BEGIN SOLUTION

# %%
why_448 = "C"  # SOLUTION
largest_e3m4 = 30.0  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: This test checks the form alone. why_448 is one capital letter as text, largest_e3m4 a float.
"""  # END TEST CONFIG
assert isinstance(why_448, str) and why_448 in ("A", "B", "C", "D", "E"), why_448
assert isinstance(largest_e3m4, float), largest_e3m4

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
assert isinstance(why_448, str) and why_448 == "C"

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
assert isinstance(largest_e3m4, float) and largest_e3m4 == 30.0

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 4

# %% [markdown]
# ## Question 4. From a number to its code (4 points)
#
# Write `encode(x, exponent_bits, fraction_bits, specials, saturate=False)`. `x` is a float64 array of any shape. The
# result is an int64 array of the same shape with the codes of the nearest numbers of the format. The two widths are
# within the limits named above, and `specials` is one of the three words.
#
# - **Ties** go to the neighbour whose code is even.
# - **Small numbers**: subnormals are numbers like others. What rounds to zero keeps its sign, and so does $-0.0$.
# - **Overflow**: round first, as if larger exponents existed. What then lies beyond the largest finite number has
#   overflowed, and so has infinity. With `saturate=True` it becomes the largest finite number. Otherwise it becomes
#   infinity with `"ieee"`, NaN with `"fn"`, and the largest finite number with `"finite"`. The sign of $x$ stays,
#   also on a NaN made this way.
# - **NaN** as input becomes the code with $S = 0$ and all bits of $E$ and $F$ set, whatever `saturate` says. With
#   `"finite"` it raises a `ValueError`.
#
# Two hints. The gap at $x$ is a power of two, so dividing by it is exact. `np.rint` rounds ties to even, and as $F$ has
# at least one bit, an even number of gaps has an even code. `np.frexp` finds exponents exactly, where `np.log2`
# rounds, but look at what it says for 0.

# %% [raw]
# # BEGIN SOLUTION


# %%
def encode(x, exponent_bits, fraction_bits, specials, saturate=False):
    """The codes of the numbers of a format that are nearest to x, as int64."""
    # BEGIN SOLUTION
    x = np.asarray(x, dtype=np.float64)
    nan = np.isnan(x)
    if specials == "finite" and nan.any():
        raise ValueError("x: has NaN, and a format without special codes has none for it")
    lowest = 2 - 2 ** (exponent_bits - 1)  # the exponent of E = 1
    magnitude = np.where(np.isfinite(x), np.abs(x), 0.0)
    exponent = np.where(magnitude > 0, np.frexp(magnitude)[1] - 1, lowest)  # frexp says 0 for zero
    exponent = np.maximum(exponent, lowest).astype(np.int64)
    steps = np.rint(np.ldexp(magnitude, (fraction_bits - exponent).astype(np.intc))).astype(np.int64)
    # One binade is 2**fraction_bits codes, and the codes below it are counted already.
    code = steps + (exponent - lowest << fraction_bits)
    all_ones = (1 << exponent_bits + fraction_bits) - 1
    infinity = (1 << exponent_bits) - 1 << fraction_bits
    largest = {"ieee": infinity - 1, "fn": all_ones - 1, "finite": all_ones}[specials]
    beyond = largest if saturate else {"ieee": infinity, "fn": all_ones, "finite": all_ones}[specials]
    code = np.where(np.isinf(x) | (code > largest), beyond, code)
    code = code + (np.signbit(x).astype(np.int64) << exponent_bits + fraction_bits)
    return np.where(nan, all_ones, code)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'Ordinary numbers in E4M3, of either sign, exact ones and some between two neighbours; 0.1 goes to 13/128, 98 to 96. The result is an int64 array of the shape of x. See Floating point, "The code: round, encode, decode".'
"""  # END TEST CONFIG
import numpy as np

codes = encode(np.array([[1.0, -1.5, 2.5], [0.1, 240.0, 98.0]]), 4, 3, "fn")
assert isinstance(codes, np.ndarray) and codes.dtype == np.int64 and codes.shape == (2, 3), repr(codes)
assert codes.tolist() == [[0x38, 0xBC, 0x42], [0x1D, 0x77, 0x6C]], [hex(int(code)) for code in codes.flat]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Between 16 and 32 the numbers of E4M3 are 2 apart, so these four are ties. 17 goes to 16, 19 to 20, and 31 to 32, which has the next exponent. See Floating point, "Which neighbour?".
"""  # END TEST CONFIG
import numpy as np

codes = encode(np.array([17.0, 19.0, -17.0, 31.0]), 4, 3, "fn")
assert isinstance(codes, np.ndarray), repr(codes)
assert codes.tolist() == [0x58, 0x5A, 0xD8, 0x60], [hex(int(code)) for code in codes.flat]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Below the smallest normal number the gap of E4M3 stays 2**-9, down to zero. See Floating point, "Zero, and the numbers just above it".
"""  # END TEST CONFIG
import numpy as np

codes = encode(np.array([2.0**-9, 5.2 * 2.0**-9, 0.4 * 2.0**-9, 7.8 * 2.0**-9, 0.0]), 4, 3, "fn")
assert isinstance(codes, np.ndarray) and codes.tolist() == [1, 5, 0, 8, 0], repr(codes)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Next to 448 would come 480. 463 is nearer to 448 and rounds to it, 465 is nearer to 480. What rounds to more than 448 has overflowed, into NaN or, with saturate=True, into the largest number. See Floating point, "E4M3 has no infinity".
"""  # END TEST CONFIG
import numpy as np

x = np.array([463.0, 465.0, -1000.0])
plain, held = encode(x, 4, 3, "fn"), encode(x, 4, 3, "fn", saturate=True)
assert isinstance(plain, np.ndarray) and isinstance(held, np.ndarray), (plain, held)
assert plain.tolist() == [0x7E, 0x7F, 0xFF], [hex(int(code)) for code in plain.flat]
assert held.tolist() == [0x7E, 0x7E, 0xFE], [hex(int(code)) for code in held.flat]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

for e, f, last in ((4, 3, 126), (2, 1, 7), (3, 4, 126), (5, 2, 123)):
    table = np.array(
        [
            (k & 2**f - 1 | (2**f if k >> f else 0)) * 2.0 ** (max(k >> f, 1) - 2 ** (e - 1) + 1 - f)
            for k in range(last + 1)
        ]
    )
    rule = {(2, 1): "finite", (5, 2): "ieee"}.get((e, f), "fn")
    codes = encode(table, e, f, rule)
    assert isinstance(codes, np.ndarray) and np.array_equal(codes, np.arange(last + 1))
    middle = (table[1:] + table[:-1]) / 2
    even = np.arange(last) + np.arange(last) % 2
    assert np.array_equal(encode(middle, e, f, rule), even)
    assert np.array_equal(encode(-middle, e, f, rule), even + 2 ** (e + f))
    assert np.array_equal(encode(np.nextafter(middle, 0), e, f, rule), np.arange(last))
    assert np.array_equal(encode(np.nextafter(middle, np.inf), e, f, rule), np.arange(last) + 1)
assert encode(np.array([464.0, -464.0]), 4, 3, "fn").tolist() == [126, 254]
assert encode(np.array([61440.0, -61440.0]), 5, 2, "ieee").tolist() == [124, 252]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(5)
x = rng.standard_normal(4000) * 2.0 ** rng.integers(-27, 16, 4000)
x = np.concatenate([x, np.nextafter(2.0 ** np.arange(-14.0, 15.0), 0)])
with np.errstate(over="ignore"):
    truth = x.astype(np.float16).view(np.uint16).astype(np.int64)
codes = encode(x, 5, 10, "ieee")
assert isinstance(codes, np.ndarray) and codes.dtype == np.int64 and np.array_equal(codes, truth)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

x = np.array([np.inf, -np.inf, 1e300, -61441.0, np.nan, 61441.0, 61439.0])
codes, held = encode(x, 5, 2, "ieee"), encode(x, 5, 2, "ieee", saturate=True)
assert isinstance(codes, np.ndarray) and codes.tolist() == [124, 252, 124, 252, 127, 124, 123]
assert isinstance(held, np.ndarray) and held.tolist() == [123, 251, 123, 251, 127, 123, 123]
x = np.array([np.inf, -np.inf, -464.5, np.nan, -463.5])
assert encode(x, 4, 3, "fn").tolist() == [127, 255, 255, 127, 254]
assert encode(x, 4, 3, "fn", saturate=True).tolist() == [126, 254, 254, 127, 254]
assert encode(np.array([7.1, 100.0, -np.inf, 4.9]), 2, 1, "finite").tolist() == [7, 7, 15, 6]
assert encode(np.array([6.9, -100.0]), 2, 1, "finite", saturate=True).tolist() == [7, 15]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

codes = encode(np.array([-0.0, -1e-12, 0.0, 1e-300, -0.2]), 2, 1, "finite")
assert isinstance(codes, np.ndarray) and codes.tolist() == [8, 8, 0, 0, 8]
assert encode(np.zeros((2, 0, 3)), 4, 3, "fn").shape == (2, 0, 3)
one = encode(np.array(3.0), 8, 7, "ieee")
assert np.shape(one) == () and int(one) == 0x4040
assert encode(np.array([[-2.0], [6.0]]), 2, 1, "finite").tolist() == [[12], [7]]
for held in (False, True):
    try:
        encode(np.array([1.0, np.nan]), 2, 1, "finite", saturate=held)
    except ValueError:
        pass
    else:
        assert False, "NaN was accepted by a format that has no code for it"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 2

# %% [markdown]
# ## Question 5. Does 0.1 + 0.2 make 0.3 in eight bits? (2 points)
#
# To add in a format, round both numbers to it, add exactly, and round the sum. Work this out on paper, with the gaps
# at 0.1, 0.2 and 0.3.
#
# 1. In E4M3: set `sum_e4m3` to the value of 0.1 + 0.2. The cell below the question shows whether you are right; it is
#    not graded.
# 2. In E5M2: set `tenth_e5m2` to 0.1 rounded, `sum_e5m2` to the value of 0.1 + 0.2, and `direct_e5m2` to 0.3 rounded.
#    These are graded.
#
# All four are floats, and exact.

# %% [raw]
# # BEGIN SOLUTION

# %%
sum_e4m3 = 0.3125  # SOLUTION
tenth_e5m2 = 0.09375  # SOLUTION
sum_e5m2 = 0.25  # SOLUTION
direct_e5m2 = 0.3125  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: This test checks the form alone. All four are floats.
"""  # END TEST CONFIG
answers = (sum_e4m3, tenth_e5m2, sum_e5m2, direct_e5m2)
assert all(isinstance(answer, float) for answer in answers), answers

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(tenth_e5m2, float) and tenth_e5m2 == 0.09375

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
assert isinstance(sum_e5m2, float) and sum_e5m2 == 0.25

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(direct_e5m2, float) and direct_e5m2 == 0.3125

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Your own codec tells the first of them. This cell needs questions 2 and 4.


# %% tags=["raises-exception"]
def rounded(x, form):
    return float(decode(encode(np.array(x), *FORMATS[form]), *FORMATS[form]))


total = rounded(rounded(0.1, "E4M3") + rounded(0.2, "E4M3"), "E4M3")
print("E4M3: 0.1 + 0.2 is", total, "and 0.3 is", rounded(0.3, "E4M3"), "- you said", sum_e4m3)

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 3

# %% [markdown]
# ## Question 6. Sums that stop growing (3 points)
#
# A sum $x + y$ is *absorbed* if, rounded to the format, it is $x$ again. Then the addition has changed nothing.
#
# 1. Write `ulp(x, exponent_bits, fraction_bits)` for one float $x$ of either sign, within the range of the format but
#    not always one of its numbers. It returns a float: the gap between neighbours in the binade of $x$. Below the
#    smallest normal number, and at 0, the gap is that of the subnormals.
# 2. Predict which sums are absorbed, with ties to even, as lists of `True` and `False`. `absorbed_fp16`, for FP16:
#    2050 + 1, 2048 + 1, 2048 - 0.5, $2^{-24} + 2^{-24}$. The cell below shows the truth, and it is not graded.
#    `absorbed_e4m3`, for E4M3 with `saturate=True`: 36 + 2, 32 + 2, 32 - 1, $2^{-8} + 2^{-9}$, 240 + 8, 448 + 40.
#    This one is graded.
# 3. A format has 5 exponent bits and 4 fraction bits. Start from 0 and add 3 again and again, each time with
#    rounding. Set `stalls_at` to the float at which the sum stops growing.
# 4. Somebody adds 4096 terms, each between 0.9 and 1, in FP16, and the sum stops at 2048. Which one change lets it
#    grow on beyond that? Set `remedy` to the letter.
#    - **A.** One exponent bit more.
#    - **B.** One fraction bit more.
#    - **C.** Saturation in place of infinity.
#    - **D.** All terms are divided by 16, and the sum is multiplied by 16.

# %% [raw]
# # BEGIN SOLUTION


# %%
def ulp(x, exponent_bits, fraction_bits):
    """The gap between neighbours at one number."""
    # BEGIN SOLUTION
    lowest = 2 - 2 ** (exponent_bits - 1)
    exponent = int(np.frexp(abs(x))[1]) - 1 if x != 0 else lowest
    return 2.0 ** (max(exponent, lowest) - fraction_bits)
    # END SOLUTION


# %%
absorbed_fp16 = [False, True, True, False]  # SOLUTION
absorbed_e4m3 = [False, True, True, False, False, True]  # SOLUTION
stalls_at = 128.0  # SOLUTION
remedy = "B"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: In FP16 the gap is 2**-10 at 1, 2 at 2048 and 1 at -2047; in E4M3 it is 1/8 at 1. The result is a float. See Floating point, "How far apart are the neighbours?".
"""  # END TEST CONFIG
import numpy as np

gaps = [ulp(1.0, 5, 10), ulp(2048.0, 5, 10), ulp(-2047.0, 5, 10), ulp(1.0, 4, 3)]
assert all(isinstance(gap, (float, np.floating)) for gap in gaps), gaps
assert gaps == [2.0**-10, 2.0, 1.0, 0.125], gaps

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: This test checks the form alone. The lists have 4 and 6 entries, each True or False; stalls_at is a float, remedy a capital letter.
"""  # END TEST CONFIG
import numpy as np

for answers, count in ((absorbed_fp16, 4), (absorbed_e4m3, 6)):
    assert isinstance(answers, list) and len(answers) == count, answers
    assert all(isinstance(answer, (bool, np.bool_)) for answer in answers), answers
assert isinstance(stalls_at, float), stalls_at
assert isinstance(remedy, str) and remedy in ("A", "B", "C", "D"), remedy

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

for x in (0.0, 2.0**-9, 2.0**-7, -(2.0**-6), 2.0**-6 * 1.9):
    gap = ulp(x, 4, 3)
    assert isinstance(gap, (float, np.floating)) and gap == 2.0**-9
assert ulp(float(np.nextafter(8.0, 0.0)), 5, 10) == 2.0**-8
assert ulp(2.0**-5, 4, 3) == 2.0**-8
assert ulp(-448.0, 4, 3) == 32.0
assert ulp(1e30, 8, 7) == 2.0**92
assert ulp(6.0, 2, 1) == 2.0 and ulp(0.3, 2, 1) == 0.5

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(absorbed_e4m3, list) and len(absorbed_e4m3) == 6
assert absorbed_e4m3[:3] == [False, True, True]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(absorbed_e4m3, list) and len(absorbed_e4m3) == 6
assert absorbed_e4m3[3:] == [False, False, True]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(stalls_at, float) and stalls_at == 128.0

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(remedy, str) and remedy == "B"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# The four sums in FP16, from numpy:

# %%
for x, y in ((2050, 1), (2048, 1), (2048, -0.5), (2.0**-24, 2.0**-24)):
    total = np.float16(x) + np.float16(y)
    print(f"{x:g} {'-' if y < 0 else '+'} {abs(y):g} is {total:g}:", "absorbed" if total == x else "not absorbed")

# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 2

# %% [markdown]
# ## Question 7. Fixed point (2 points)
#
# Floats have gaps that grow. Fixed point has one step everywhere. Write `to_fixed(x, m, f)`. `x` is a float64 array
# of any shape, and the result is an int64 array of the same shape with the codes in $\mathrm{Q}m.f$. The format has a
# sign bit besides its $m + f$ bits, and its step is $s = 2^{-f}$; $m$ and $f$ are 0 or more. Round to the nearest code,
# ties to the even one. Saturate at both ends, infinities too. A NaN raises a `ValueError`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def to_fixed(x, m, f):
    """The codes of x in the format Qm.f, as int64."""
    # BEGIN SOLUTION
    x = np.asarray(x, dtype=np.float64)
    if np.isnan(x).any():
        raise ValueError("x: has NaN, and fixed point has no code for NaN")
    end = 2 ** (m + f)
    return np.clip(np.rint(x * 2.0**f), -end, end - 1).astype(np.int64)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: In Q3.4 numbers are counted in sixteenths, so 0.3 is 5 steps and 2.7 is 43. The result is an int64 array of the shape of x. See Fixed point, "An integer and an agreed scale".
"""  # END TEST CONFIG
import numpy as np

codes = to_fixed(np.array([[0.3, -0.42], [2.7, 0.0]]), 3, 4)
assert isinstance(codes, np.ndarray) and codes.dtype == np.int64 and codes.shape == (2, 2), repr(codes)
assert codes.tolist() == [[5, -7], [43, 0]], codes.tolist()

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'Q3.4 has 8 bits with the sign, so its codes run from -128 to 127, and what is beyond saturates. See Fixed point, "Beyond the ends: saturate or wrap".'
"""  # END TEST CONFIG
import numpy as np

codes = to_fixed(np.array([7.9, 8.0, 100.0, -8.0, -100.0]), 3, 4)
assert isinstance(codes, np.ndarray) and codes.tolist() == [126, 127, 127, -128, -128], repr(codes)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

ties = np.array([-3.5, -2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 3.5])
truth = [-4, -2, -2, 0, 0, 2, 2, 4]
for m, f in ((3, 4), (0, 7), (5, 2), (4, 0)):
    codes = to_fixed(ties * 2.0**-f, m, f)
    assert isinstance(codes, np.ndarray) and codes.tolist() == truth

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

codes = to_fixed(np.array([1.0, -1.0, np.inf, -np.inf, 1e300, 0.9999]), 0, 7)
assert isinstance(codes, np.ndarray) and codes.dtype == np.int64
assert codes.tolist() == [127, -128, 127, -128, 127, 127]
assert to_fixed(np.array([1.0, -1.0, -0.6]), 0, 0).tolist() == [0, -1, -1]
assert to_fixed(np.array([[[3.0]]]), 3, 12).tolist() == [[[12288]]]
assert to_fixed(np.zeros((0, 2)), 3, 4).shape == (0, 2)
try:
    to_fixed(np.array([0.5, np.nan]), 3, 4)
except ValueError:
    pass
else:
    assert False, "NaN was accepted"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ## A filter in eight bits
#
# Here are the 15 taps of a small filter, a wave under a bell.

# %%
t = np.arange(-7, 8)
taps = np.cos(1.2 * t) * np.exp(-(t**2) / 18)
print(np.round(taps, 4))

# %% [raw]
# # BEGIN QUESTION
# name: q8
# points: 3

# %% [markdown]
# ## Question 8. Which format for the filter? (3 points)
#
# 1. Write `mse(x, x_hat)`: the mean squared error of two arrays of the same shape, a float. If the shapes differ,
#    raise a `ValueError`. numpy would broadcast some of them without a word.
# 2. Values 512 times smaller are what a gradient of such a filter may have. Which of the formats `"E4M3"`, `"E5M2"`
#    and `"Q0.7"` has the least mean squared error on `taps / 512`? Predict it from the gaps, and set `best_small` to
#    its name.
# 3. Now round `taps` itself, not divided, to the three formats: encode it with your functions of questions 4 and 7,
#    with `saturate=True` for the floats, and read the codes back as numbers. Set `errors` to a dictionary from the
#    three names to the mean squared errors, as floats. Here a mistake of questions 2, 4 or 7 costs points too.

# %% [raw]
# # BEGIN SOLUTION


# %%
def mse(x, x_hat):
    """The mean squared error of two arrays of the same shape."""
    # BEGIN SOLUTION
    x, x_hat = np.asarray(x, dtype=np.float64), np.asarray(x_hat, dtype=np.float64)
    if x.shape != x_hat.shape:
        raise ValueError(f"x and x_hat: got shapes {x.shape} and {x_hat.shape}, need the same")
    return float(np.mean((x_hat - x) ** 2))
    # END SOLUTION


# %%
best_small = "E5M2"  # SOLUTION

# %%
# BEGIN SOLUTION NO PROMPT
errors = {"Q0.7": mse(taps, to_fixed(taps, 0, 7) / 2**7)}
for form in ("E4M3", "E5M2"):
    back = decode(encode(taps, *FORMATS[form], saturate=True), *FORMATS[form])
    errors[form] = mse(taps, back)
# END SOLUTION
""" # BEGIN PROMPT
errors = ...
"""  # END PROMPT

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Errors of 0, 0.5 and -1 have the squares 0, 0.25 and 1, whose mean is 1.25 / 3. The result is a float.
"""  # END TEST CONFIG
import numpy as np

found = mse(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.5, 2.0]))
assert isinstance(found, (float, np.floating)) and abs(found - 1.25 / 3) < 1e-12, repr(found)

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: This test checks the form alone. errors has the keys E4M3, E5M2 and Q0.7, with positive numbers; best_small is one of these names as text.
"""  # END TEST CONFIG
assert isinstance(errors, dict) and set(errors) == {"E4M3", "E5M2", "Q0.7"}, errors
assert all(0 < float(error) < 1 for error in errors.values()), errors
assert isinstance(best_small, str) and best_small in ("E4M3", "E5M2", "Q0.7"), best_small

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

found = mse(np.array([[1.0, -2.0], [0.5, 0.0]]), np.array([[-1.0, -2.0], [0.5, 4.0]]))
assert isinstance(found, (float, np.floating)) and abs(found - 5.0) < 1e-12
for shape in ((3, 1), (1,), (4,)):
    try:
        mse(np.zeros(3), np.ones(shape))
    except ValueError:
        pass
    else:
        assert False, "arrays of different shapes were accepted"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(best_small, str) and best_small == "E5M2"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

t = np.arange(-7, 8)
taps = np.cos(1.2 * t) * np.exp(-(t**2) / 18)
truth = np.mean((np.clip(np.rint(taps * 128), -128, 127) / 128 - taps) ** 2)
assert isinstance(errors, dict) and isinstance(errors["Q0.7"], (float, np.floating))
assert abs(errors["Q0.7"] - truth) < 1e-6 * truth

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

t = np.arange(-7, 8)
taps = np.cos(1.2 * t) * np.exp(-(t**2) / 18)
gap = 2.0 ** (np.maximum(np.frexp(taps)[1] - 1, -6) - 3)
truth = np.mean((np.rint(taps / gap) * gap - taps) ** 2)
assert isinstance(errors, dict) and isinstance(errors["E4M3"], (float, np.floating))
assert abs(errors["E4M3"] - truth) < 1e-6 * truth

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

t = np.arange(-7, 8)
taps = np.cos(1.2 * t) * np.exp(-(t**2) / 18)
gap = 2.0 ** (np.maximum(np.frexp(taps)[1] - 1, -14) - 2)
truth = np.mean((np.rint(taps / gap) * gap - taps) ** 2)
assert isinstance(errors, dict) and isinstance(errors["E5M2"], (float, np.floating))
assert abs(errors["E5M2"] - truth) < 1e-6 * truth

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Look at `errors`, and then at the same three for `taps / 512`. You now have a codec for every small float and for
# fixed point, and you have seen what decides between them: how far the data spread, and how large they are. The next
# part of the course gives up the power of two and chooses the step for the data.
