# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [raw]
# # ASSIGNMENT CONFIG
# name: hw4_integer
# export_cell: false
# solutions_pdf: false
# template_pdf: false
# check_all_cell: true
# generate:
#   pdf: false

# %% [markdown]
# # Homework 4: A network without floats
#
# About 120 minutes, after the chapters *The integer multiplier* and *Integer layers*. 20 points.
#
# **You may use** numpy and what Python has built in, nothing else. Products of integers may be `int64`.
#
# The symbols are those of the course. A code $q$ stands for $s\,(q - z)$, with scale $s$ and zero point $z$.
# The multiplier of a layer is $M = s_w s_x / s_y$.
#
# After a question, `grader.check("q1")` runs its public tests. They carry about a third of the points, and of predictions
# and letters they check the form alone. Hidden tests try other numbers, so try some of your own.
#
# The cells behind some questions use your functions. They end with an error until you have written these; *Run All Cells*
# goes on behind them.

# %%
import numpy as np


def qparams(low, high):
    """Scale and zero point that spread the codes 0..255 over low..high; low <= 0 < high."""
    s = (high - low) / 255
    return s, int(np.rint(-low / s))


def quantize(x, s, z):
    """UINT8 codes of real numbers: ties to even, clipped to 0..255, as int64."""
    return np.clip(np.rint(np.asarray(x) / s) + z, 0, 255).astype(np.int64)


# %% [markdown]
# ## A sum of minus one
#
# A chip has integers, shifts, and no floats. A layer of it ends with a sum $\mathrm{acc}$, which has to be multiplied by
# $M = 1/24$ and rounded to an integer. The program takes $2^{20} M$, rounded down to an integer, multiplies, and
# shifts 20 places to the right. Look at the last column:

# %%
short = 2**20 // 24
for acc in (240, 23, 1, 0, -1, -23, -240):
    print(f"acc {acc:5}   M acc {acc / 24:8.4f}   program {(acc * short) >> 20:4}")

# %% [markdown]
# Next to nothing, $-1/24$, has become $-1$, and $240/24 = 10$ has become 9. Two things are wrong. One sits in the
# integer that stands for $M$, the other in the shift. You repair both, then build a layer and a network on it.

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 3

# %% [markdown]
# **Question 1 (3 points): the integer multiplier.** Write $M$ as an integer and a shift,
#
# $$M = M_0 \cdot 2^{\,\mathrm{shift} - 31}, \qquad 2^{30} \le M_0 < 2^{31} .$$
#
# Write `quantize_multiplier(M)`. It takes one float and returns the tuple `(m0, shift)` of two Python integers.
#
# - $M_0$ is rounded to the nearest integer, a tie goes up.
# - If rounding gives $2^{31}$, which is one too many, carry: $M_0$ becomes $2^{30}$, and the shift grows by one.
# - $M$ may be above 1; then the shift is positive.
# - For $M = 0$, and wherever the shift (after the carry) would be below $-31$, return `(0, 0)`.
# - A negative, infinite or NaN $M$ raises `ValueError`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def quantize_multiplier(M):
    """M as (m0, shift): M = m0 * 2**(shift - 31), 2**30 <= m0 < 2**31."""
    # BEGIN SOLUTION
    if not 0 <= M < np.inf:
        raise ValueError(f"M: need a finite number, 0 or positive, got {M}")
    fraction, shift = np.frexp(M)
    m0, shift = int(np.floor(fraction * 2**31 + 0.5)), int(shift)
    if m0 == 2**31:
        m0, shift = 2**30, shift + 1
    if m0 == 0 or shift < -31:
        return 0, 0
    return m0, shift
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: '0.75 is between 1/2 and 1 already, so its shift is 0, and M_0 is 0.75 times 2^31. Return a tuple of two Python integers. See The integer multiplier, "A real number as an integer and a shift".'
"""  # END TEST CONFIG
pair = quantize_multiplier(0.75)
assert isinstance(pair, tuple) and [type(v) for v in pair] == [int, int] and pair == (3 << 29, 0), repr(pair)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'One of 1/24, 1/4 and 5/3 has a wrong pair. The fraction M_0 / 2^31 lies in [1/2, 1), with 1/2 itself. Turn the pair back into a number and compare with M. See The integer multiplier, "A real number as an integer and a shift".'
"""  # END TEST CONFIG
for M in (1 / 24, 1 / 4, 5 / 3):
    m0, shift = quantize_multiplier(M)
    assert type(m0) is int and type(shift) is int, (M, m0, shift)
    assert 2**30 <= m0 < 2**31, (M, m0, shift)
    assert abs(m0 * 2.0 ** (shift - 31) - M) <= M * 2.0**-31, (M, m0, shift)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
failure_message: "A fraction a little below 1 rounds to 2^31: carry."
"""  # END TEST CONFIG
for M, wanted in (
    (1 - 2.0**-40, (2**30, 1)),
    ((1 - 2.0**-40) / 64, (2**30, -5)),
    (4 - 2.0**-38, (2**30, 3)),
    (1 - 2.0**-31, (2**31 - 1, 0)),
):
    pair = quantize_multiplier(M)
    assert isinstance(pair, tuple) and [type(v) for v in pair] == [int, int] and pair == wanted

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import math
from fractions import Fraction
import numpy as np

for M in [*(2.0 ** np.random.default_rng(4).uniform(-28, 12, 300)), (2**30 + 0.5) / 2**34, (2**31 - 1.5) / 2**40]:
    M = float(M)
    exponent = math.frexp(M)[1]
    wanted = math.floor(Fraction(M) * Fraction(2) ** (31 - exponent) + Fraction(1, 2))
    pair = quantize_multiplier(M)
    assert isinstance(pair, tuple) and [type(v) for v in pair] == [int, int] and pair == (wanted, exponent)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
for M, wanted in (
    (0.0, (0, 0)),
    (2.0**-40, (0, 0)),
    (2.0**-33, (0, 0)),
    (2.0**-32, (2**30, -31)),
    (2.0**-32 * (1 - 2.0**-40), (2**30, -31)),
):
    pair = quantize_multiplier(M)
    assert isinstance(pair, tuple) and [type(v) for v in pair] == [int, int] and pair == wanted

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
pair = quantize_multiplier(0.5)
assert isinstance(pair, tuple) and [type(v) for v in pair] == [int, int] and pair == (2**30, 0)
for M in (-0.5, float("nan"), float("inf"), -float("inf")):
    try:
        quantize_multiplier(M)
    except ValueError:
        pass
    else:
        assert False, "need a ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 3

# %% [markdown]
# **Question 2 (3 points): how many products?** Before the multiplier comes the sum. It lives in a register of fixed width,
# which wraps around and tells nobody. How many products does it hold, whatever the codes are? Predict with pencil and
# paper, for three layers without bias. Weights have the zero point 0. The products are those of the
# brackets, $q_w\,(q_x - z_x)$.
#
# | | input codes | $z_x$ | weight codes | register |
# |---|---|---|---|---|
# | `products_a` | UINT8, 0 to 255 | 128 | −127 to 127 | INT32 |
# | `products_b` | INT16, −32768 to 32767 | 0 | −127 to 127 | INT32 |
# | `products_c` | UINT4, 0 to 15 | 6 | −7 to 7 | INT16 |
#
# Set each to the largest number of products whose sum fits in every case. `products_a` earns nothing: the cell below
# tells you whether it was right, so that you can mend your way of counting.
#
# A layer whose weights are known can do better. Write `largest_sum(q_w, z_w, z_x, q_min, q_max, q_b)`, the bound
#
# $$\sum_k |q_{w,jk} - z_w| \cdot \max(z_x - q_{\min},\; q_{\max} - z_x) + |q_{b,j}|$$
#
# of every output $j$. `q_w` has the shape `(m, n)`, `q_b` the shape `(m,)`, both may be arrays of any integer type; the
# others are Python integers. The result is an `int64` array of the shape `(m,)`.

# %% [raw]
# # BEGIN SOLUTION

# %%
products_a = (2**31 - 1) // (128 * 127)  # SOLUTION
products_b = (2**31 - 1) // (32768 * 127)  # SOLUTION
products_c = (2**15 - 1) // (9 * 7)  # SOLUTION


# %%
def largest_sum(q_w, z_w, z_x, q_min, q_max, q_b):
    """A bound of |acc| for each output, before any input is known."""
    # BEGIN SOLUTION
    reach = max(z_x - q_min, q_max - z_x)
    weights = np.abs(np.asarray(q_w, np.int64) - z_w).sum(1)
    return weights * reach + np.abs(np.asarray(q_b, np.int64))
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: "Set products_a, products_b and products_c to Python integers above 0."
"""  # END TEST CONFIG
for count in (products_a, products_b, products_c):
    assert type(count) is int and count > 0, repr(count)

# %%
""" # BEGIN TEST CONFIG
points: 0.75
failure_message: 'For the weights (1, -2) and (0, 3) with z_w = 0, an input from 0 to 15 with z_x = 5, and the biases 4 and -7, the two bounds are wrong. Which input code is farthest from z_x, and how far? The result is an int64 array of shape (2,). See The integer multiplier, "How wide must the integers be?".'
"""  # END TEST CONFIG
import numpy as np

bound = largest_sum(np.array([[1, -2], [0, 3]]), 0, 5, 0, 15, np.array([4, -7]))
assert isinstance(bound, np.ndarray) and bound.dtype == np.int64 and bound.tolist() == [34, 37], repr(bound)

# %%
""" # BEGIN TEST CONFIG
points: 0.75
hidden: true
"""  # END TEST CONFIG
assert type(products_b) is int and products_b == 516

# %%
""" # BEGIN TEST CONFIG
points: 0.75
hidden: true
"""  # END TEST CONFIG
assert type(products_c) is int and products_c == 520

# %%
""" # BEGIN TEST CONFIG
points: 0.75
hidden: true
"""  # END TEST CONFIG
import numpy as np

q_w = np.array([[-128, 127, 5], [100, -100, 0]], dtype=np.int8)
q_b = np.array([-(2**31), 2**31 - 1], dtype=np.int32)
bound = largest_sum(q_w, 90, 200, 0, 255, q_b)
assert isinstance(bound, np.ndarray) and bound.shape == (2,) and bound.dtype == np.int64
assert bound.tolist() == [(218 + 37 + 85) * 200 + 2**31, (10 + 190 + 90) * 200 + 2**31 - 1]
bound = largest_sum(q_w, 0, -100, -128, 127, np.zeros(2, np.int32))
assert bound.tolist() == [260 * 227, 200 * 227]

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Run this when you have your predictions. The first line should fit, the second should have wrapped around.

# %% tags=["raises-exception"]
largest_product = 128 * 127
for count in (products_a, products_a + 1):
    exact = largest_product * count
    register = int(np.full(count, largest_product, np.int32).sum(dtype=np.int32))
    print("fits" if register == exact else "wrapped around")

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 3

# %% [markdown]
# **Question 3 (3 points): from sums to codes.** Now the repaired step, by integers alone:
#
# $$q_y = \mathrm{clip}\big(\mathrm{round}(\mathrm{acc} \cdot M_0 \cdot 2^{\,\mathrm{shift} - 31}) + z_y,\; q_{\min},\; q_{\max}\big) .$$
#
# It rounds **once**, to the nearest integer, and **a tie goes up** (towards plus infinity, for negative numbers too).
# In the chapter this way is called `"single"`.
#
# Write `requantize(acc, m0, shift, z_y, q_min, q_max)`.
#
# - `acc` is an array with at least one axis. Its values fit INT32, its type is any integer type. If its type is not an
#   integer type, raise `ValueError`.
# - `m0` and `shift` are two integers, or two integer arrays with one entry for each index of the last axis of `acc`
#   (one multiplier per output channel); never one of each. $0 \le M_0 < 2^{31}$, and the shift lies between $-31$ and 30.
# - The result is an `int64` array of the shape of `acc`.
# - No floats: a float64 has 53 bits, the product up to 62.

# %% [raw]
# # BEGIN SOLUTION


# %%
def requantize(acc, m0, shift, z_y, q_min, q_max):
    """Codes of sums: rounded once, ties up, then clipped."""
    # BEGIN SOLUTION
    acc = np.asarray(acc)
    if acc.dtype.kind not in "iu":
        raise ValueError(f"acc: need integers, got {acc.dtype}")
    m0, shift = np.asarray(m0, np.int64), np.asarray(shift, np.int64)
    half = np.int64(1) << (30 - shift)
    rounded = (acc.astype(np.int64) * m0 + half) >> (31 - shift)
    return np.clip(rounded + z_y, q_min, q_max)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'With M = 3/8 and z_y = 0 a sum comes out wrong, or its code ends with an error. First convert acc to int64: the product does not fit its type. Add half before you shift; half of 2^(31 - shift) depends on the shift. See The integer multiplier, "Rounding right".'
"""  # END TEST CONFIG
import numpy as np

q = requantize(np.array([[16, 17, 18], [-1, -17, -18]], dtype=np.int32), 3 << 29, -1, 0, -128, 127)
assert isinstance(q, np.ndarray) and q.dtype == np.int64 and q.tolist() == [[6, 6, 7], [0, -6, -7]], repr(q)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'With M = 1/2 the sums 1, 3, -1 and -3 give ties, and a tie goes up: towards plus infinity. See The integer multiplier, "Rounding right".'
"""  # END TEST CONFIG
import numpy as np

q = requantize(np.array([1, 3, -1, -3], dtype=np.int64), 2**30, 0, 0, -128, 127)
assert isinstance(q, np.ndarray) and q.tolist() == [1, 2, 0, -1], repr(q)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'With z_y = 40 and UINT8 codes a result is wrong. First round, then add z_y, then clip to q_min and q_max. See The integer multiplier, "The ends: saturate, and count".'
"""  # END TEST CONFIG
import numpy as np

q = requantize(np.array([-2_000_000, -82, -80, 0, 428, 430, 432, 2_000_000]), 2**30, 0, 40, 0, 255)
assert isinstance(q, np.ndarray) and q.tolist() == [0, 0, 0, 40, 254, 255, 255, 255], repr(q)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

low, high = -(2**31), 2**31 - 1
for m0 in (2**31 - 1, 1_587_173_269, 2**30 + 3):
    for offset in (-1, 0, 1):
        acc = (2**30 + offset) * pow(m0, -1, 2**31) % 2**31
        for a in (acc, acc - 2**31):
            q = requantize(np.array([a], dtype=np.int32), m0, 0, 0, low, high)
            assert isinstance(q, np.ndarray) and q.shape == (1,)
            assert int(q[0]) == (a * m0 + 2**30) >> 31

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(5)
acc = rng.integers(-(2**20), 2**20, (3, 5, 6)).astype(np.int32)
m0 = rng.integers(2**30, 2**31, 6)
shift = np.array([-12, -9, -15, 3, 0, -13])
q = requantize(acc, m0, shift, -7, -128, 127)
assert isinstance(q, np.ndarray) and q.shape == (3, 5, 6) and q.dtype == np.int64
for i in np.ndindex(3, 5, 6):
    a, m, t = int(acc[i]), int(m0[i[-1]]), int(shift[i[-1]])
    assert int(q[i]) == min(max(((a * m + (1 << (30 - t))) >> (31 - t)) - 7, -128), 127)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

acc = np.array([2**31 - 1, 5, -5, -(2**31)], dtype=np.int32)
assert requantize(acc, 0, 0, 3, 0, 15).tolist() == [3, 3, 3, 3]
assert requantize(acc, 2**31 - 1, 30, 8, 0, 15).tolist() == [15, 15, 0, 0]
assert requantize(acc, 2**30, 4, 8, -1000, 1000).tolist() == [1000, 48, -32, -1000]
assert requantize(acc, 2**30, -31, 8, 0, 15).tolist() == [8, 8, 8, 8]
assert requantize(np.array([2**31 - 1]), 2**31 - 1, -31, 8, 0, 15).tolist() == [8 + ((2**31 - 1) ** 2 + 2**61 >> 62)]
for bad in (np.array([1.0, 2.0]), np.array([0.5], dtype=np.float32)):
    try:
        requantize(bad, 2**30, 0, 0, 0, 255)
    except ValueError:
        pass
    else:
        assert False, "need a ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 2

# %% [markdown]
# **Question 4 (2 points): the other engine.** A colleague's phone gives other codes for the same sums. Its engine rounds
# **twice**. With $t = -\mathrm{shift} \ge 0$:
#
# $$v = \big(\mathrm{acc} \cdot M_0 + 2^{30}\big) \gg 31, \qquad \text{then } v / 2^{t} \text{ to nearest, ties \emph{away from zero}.}$$
#
# Write `round_twice(acc, m0, shift)`: an array of integers and two Python integers in, an `int64` array of the shape of
# `acc` out, without zero point and clip. The sums fit INT32, $0 \le M_0 < 2^{31}$, and the shift lies between $-31$ and 0;
# a shift above 0 raises `ValueError`.
#
# Then predict. Take the sums from 1 to $2^{20}$ and an $M_0$ for which the fractions are evenly spread, such as 1587173269.
#
# - `differ`: on how many of these $2^{20}$ sums do the two ways of rounding give different integers at $t = 5$? An integer;
#   2 percent off is near enough.
# - `direction`: where they differ, rounding twice is, compared with rounding once (think of negative sums too),
#   `"A"` always one larger, `"B"` always one smaller, `"C"` always one farther from zero, `"D"` always one nearer to zero.

# %% [raw]
# # BEGIN SOLUTION


# %%
def round_twice(acc, m0, shift):
    """The product acc * m0 * 2**(shift - 31), rounded at 2**31 first, then to an integer."""
    # BEGIN SOLUTION
    if shift > 0:
        raise ValueError(f"shift: need at most 0, got {shift}")
    v = (np.asarray(acc, np.int64) * m0 + (1 << 30)) >> 31
    if shift == 0:
        return v
    return np.sign(v) * ((np.abs(v) + (1 << (-shift - 1))) >> -shift)
    # END SOLUTION


# %%
differ = 2**20 // 2 ** (5 + 1)  # SOLUTION
direction = "C"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: "differ is a Python integer from 0 to 2^20, direction one of the letters A, B, C, D in quotes."
"""  # END TEST CONFIG
assert type(differ) is int and 0 <= differ <= 2**20, repr(differ)
assert type(direction) is str and direction in ("A", "B", "C", "D"), repr(direction)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'For M = 0.35 the sums 6, 7, -6 and -7 give 2, 3, -2 and -3 if rounded twice, in an int64 array. Convert acc to int64 before you multiply. See The integer multiplier, "Where rounding twice goes wrong".'
"""  # END TEST CONFIG
import numpy as np

r = round_twice(np.array([6, 7, -6, -7], dtype=np.int32), 1503238554, -1)
assert isinstance(r, np.ndarray) and r.dtype == np.int64 and r.tolist() == [2, 3, -2, -3], repr(r)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np


def reference(a, m0, t):
    v = (a * m0 + 2**30) >> 31
    return v if t == 0 else (1 if v >= 0 else -1) * ((abs(v) + 2 ** (t - 1)) // 2**t)


sums = np.array([7, 8, 24, 40, -7, -8, -24, -40], dtype=np.int32).reshape(2, 4)
r = round_twice(sums, 2**30, -3)
assert isinstance(r, np.ndarray) and r.shape == (2, 4) and r.dtype == np.int64
assert r.tolist() == [[1, 1, 2, 3], [0, -1, -2, -3]]
assert round_twice(np.array([1, -1, 3, -3]), 2**30, 0).tolist() == [1, 0, 2, -1]
sums = np.random.default_rng(6).integers(-(2**31), 2**31, 200)
for m0, t in ((1_999_999_999, 0), (1_234_567_891, 1), (2**31 - 1, 7), (2**30, 12), (2**31 - 1, 31)):
    r = round_twice(sums, m0, -t)
    assert isinstance(r, np.ndarray) and r.tolist() == [reference(int(a), m0, t) for a in sums]
try:
    round_twice(np.array([1, 2]), 2**30, 1)
except ValueError:
    pass
else:
    assert False, "need a ValueError"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert type(differ) is int and abs(differ - 16384) <= 0.02 * 16384

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert type(direction) is str and direction == "C"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# From here on every layer rounds once, as `requantize` does.

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 3

# %% [markdown]
# **Question 5 (3 points): four sums.** The brackets $q_x - z_x$ need nine bits, and the chip multiplies eight. Multiplied out,
#
# $$\sum_k (q_{w,jk} - z_w)(q_{x,k} - z_x) =
# \underbrace{\sum_k q_{w,jk}\, q_{x,k}}_{1} - \underbrace{z_x \sum_k q_{w,jk}}_{2}
# - \underbrace{z_w \sum_k q_{x,k}}_{3} + \underbrace{n\, z_w z_x}_{4} .$$
#
# Write two functions. Codes come as arrays of `int8`, `uint8` or wider types; the sums must not wrap around in these.
#
# - `fold_bias(q_b, q_w, z_w, z_x)`: the bias with everything that is known before the input. `q_b` has the shape `(m,)`,
#   `q_w` the shape `(m, n)`. An `int64` array of the shape `(m,)`.
# - `accumulate(q_x, q_w, z_w, folded)`: $\mathrm{acc}$ of a whole batch, where `q_x` has the shape `(N, n)` and `folded` is what
#   `fold_bias` gave. It never gets to see $z_x$. An `int64` array of the shape `(N, m)`. If any
#   $\mathrm{acc}$ does not fit INT32, raise `ValueError`.
#
# Then: which of the four sums have to be computed anew for each input, if the others are prepared, and
# sums that are zero are left out?
#
# - `anew_a`, for a layer with $z_w = 0$ and $z_x = 7$,
# - `anew_b`, for a layer with $z_w = 3$ and $z_x = 0$:
#
# `"A"` 1 alone, `"B"` 1 and 2, `"C"` 1 and 3, `"D"` 1, 2 and 3.

# %% [raw]
# # BEGIN SOLUTION


# %%
def fold_bias(q_b, q_w, z_w, z_x):
    """The bias with the constant sums in it."""
    # BEGIN SOLUTION
    q_w = np.asarray(q_w, np.int64)
    return np.asarray(q_b, np.int64) - z_x * q_w.sum(1) + q_w.shape[1] * z_w * z_x
    # END SOLUTION


# %%
def accumulate(q_x, q_w, z_w, folded):
    """The sums of a batch, from codes as they are."""
    # BEGIN SOLUTION
    q_x, q_w = np.asarray(q_x, np.int64), np.asarray(q_w, np.int64)
    acc = q_x @ q_w.T - z_w * q_x.sum(1, keepdims=True) + folded
    if acc.size and (acc.min() < -(2**31) or acc.max() >= 2**31):
        raise ValueError("acc: a sum does not fit INT32")
    return acc
    # END SOLUTION


# %%
anew_a = "A"  # SOLUTION
anew_b = "C"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: "anew_a and anew_b are letters from A to D, in quotes."
"""  # END TEST CONFIG
for letter in (anew_a, anew_b):
    assert type(letter) is str and letter in ("A", "B", "C", "D"), repr(letter)

# %%
""" # BEGIN TEST CONFIG
points: 0.75
failure_message: 'The weights (2, -1, 4) and (0, 3, -5) with z_w = 2 and z_x = 3, and the biases 1 and -1: the folded bias is wrong, or no int64 array. Which terms are constants, and with which sign? See The integer multiplier, "A sum has four terms".'
"""  # END TEST CONFIG
import numpy as np

folded = fold_bias(np.array([1, -1]), np.array([[2, -1, 4], [0, 3, -5]]), 2, 3)
assert isinstance(folded, np.ndarray) and folded.dtype == np.int64 and folded.tolist() == [4, 23], repr(folded)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'One row of inputs (3, 5, 2), weights (2, -1, 4) and (0, 3, -5) with z_w = 2, folded bias 4 and 23: the sums are wrong, or no int64 array. Terms 1 and 3 are left for this function. See The integer multiplier, "A sum has four terms".'
"""  # END TEST CONFIG
import numpy as np

acc = accumulate(np.array([[3, 5, 2]]), np.array([[2, -1, 4], [0, 3, -5]]), 2, np.array([4, 23]))
assert isinstance(acc, np.ndarray) and acc.dtype == np.int64 and acc.tolist() == [[-7, 8]], repr(acc)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(7)
for m, n, z_w, z_x in ((4, 300, -5, 200), (3, 7, 0, -128), (1, 64, 127, 255)):
    q_w = rng.integers(-128, 128, (m, n)).astype(np.int8)
    q_b = rng.integers(-(2**20), 2**20, m).astype(np.int32)
    folded = fold_bias(q_b, q_w, z_w, z_x)
    assert isinstance(folded, np.ndarray) and folded.shape == (m,) and folded.dtype == np.int64
    wanted = [int(q_b[j]) + sum(-z_x * (int(w) - z_w) for w in q_w[j]) for j in range(m)]
    assert folded.tolist() == wanted

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(8)
for N, m, n, z_w in ((5, 4, 300, -5), (3, 3, 3, 20), (2, 6, 50, 0)):
    q_x = rng.integers(0, 256, (N, n)).astype(np.uint8)
    q_w = rng.integers(-128, 128, (m, n)).astype(np.int8)
    folded = rng.integers(-(2**20), 2**20, m)
    acc = accumulate(q_x, q_w, z_w, folded)
    assert isinstance(acc, np.ndarray) and acc.shape == (N, m) and acc.dtype == np.int64
    wide = [
        [int(folded[j]) + sum(int(x) * (int(w) - z_w) for x, w in zip(q_x[i], q_w[j], strict=True)) for j in range(m)]
        for i in range(N)
    ]
    assert acc.tolist() == wide

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

one = np.array([[1]], dtype=np.uint8)
for fits in (2**31 - 2, -(2**31) - 1):
    acc = accumulate(one, np.array([[1]], dtype=np.int8), 0, np.array([fits]))
    assert isinstance(acc, np.ndarray) and acc.tolist() == [[fits + 1]]
for over in (2**31 - 1, -(2**31) - 2):
    try:
        accumulate(np.array([[0], [1]]), np.array([[1]], dtype=np.int8), 0, np.array([over]))
    except ValueError:
        pass
    else:
        assert False, "need a ValueError"

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
assert type(anew_a) is str and anew_a == "A"

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
assert type(anew_b) is str and anew_b == "C"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 3

# %% [markdown]
# **Question 6 (3 points): make a layer ready.** Now real weights and biases become integers. Weights are symmetric INT8 with
# a scale for each output channel, that is for each row of `w`.
#
# Write `prepare(w, b, s_x, s_y)` for `w` of the shape `(m, n)` and `b` of the shape `(m,)`, both float64. It returns the
# tuple `(q_w, q_b, M)`:
#
# - $s_{w,j}$ is the largest magnitude in row $j$, divided by 127. A row of zeros has $s_{w,j} = 1$.
# - `q_w`: the codes of the weights, from −127 to 127, rounded to nearest, ties to even (`np.rint`). A signed integer array
#   of the shape `(m, n)`.
# - `q_b`: the bias in steps of $s_{w,j}\, s_x$, rounded in the same way. A signed integer array of the shape `(m,)`. If one
#   does not fit INT32, raise `ValueError`.
# - `M`: the multipliers $M_j = s_{w,j}\, s_x / s_y$, float64 of the shape `(m,)`.
#
# Write `clip_ends(z_y, q_min, q_max, relu)`. It takes three Python integers and a bool, and returns the tuple `(low, high)`
# of two Python integers: the ends to which `requantize` must clip. If `relu` is `True`, a ReLU follows the layer, and the
# clip has to do its work too. If not, the ends are those of the codes. A `z_y` outside of `q_min` to `q_max` raises `ValueError`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def prepare(w, b, s_x, s_y):
    """Codes of weights and bias, and the multiplier of each output."""
    # BEGIN SOLUTION
    largest = np.abs(w).max(1)
    s_w = np.where(largest > 0, largest / 127, 1.0)
    q_w = np.clip(np.rint(w / s_w[:, None]), -127, 127).astype(np.int64)
    q_b = np.rint(b / (s_w * s_x))
    if (q_b < -(2**31)).any() or (q_b >= 2**31).any():
        raise ValueError("b: does not fit INT32 in steps of s_w s_x")
    return q_w, q_b.astype(np.int64), s_w * s_x / s_y
    # END SOLUTION


# %%
def clip_ends(z_y, q_min, q_max, relu):
    """The smallest and the largest code that a layer may give."""
    # BEGIN SOLUTION
    if not q_min <= z_y <= q_max:
        raise ValueError(f"z_y: need {q_min} to {q_max}, got {z_y}")
    return (z_y if relu else q_min), q_max
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'The weights (127, -64) / 64 and (20, 127) / 32 with s_x = 1/4: their codes, or those of the biases 3.2 and -1, are wrong. Each row has its own scale, and the bias counts in steps of s_w s_x. See Integer layers, "One layer by hand".'
"""  # END TEST CONFIG
import numpy as np


def check(result):
    assert isinstance(result, tuple) and len(result) == 3, repr(result)
    q_w, q_b = result[:2]
    assert isinstance(q_w, np.ndarray) and q_w.dtype.kind == "i" and q_w.tolist() == [[127, -64], [20, 127]], repr(q_w)
    assert isinstance(q_b, np.ndarray) and q_b.dtype.kind == "i" and q_b.tolist() == [819, -128], repr(q_b)


check(prepare(np.array([[127, -64], [20, 127]]) / np.array([[64.0], [32.0]]), np.array([3.2, -1.0]), 0.25, 0.5))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'For the weights (127, -64) / 64 and (20, 127) / 32, s_x = 1/4 and s_y = 1/2 the multipliers are wrong. M takes steps of s_w s_x to steps of s_y. See The integer multiplier, "From a product to a formula".'
"""  # END TEST CONFIG
import numpy as np


def check(result):
    assert isinstance(result, tuple) and len(result) == 3, repr(result)
    M = result[2]
    assert isinstance(M, np.ndarray) and M.shape == (2,) and M.dtype == np.float64, repr(M)
    assert np.allclose(M, [1 / 128, 1 / 64], rtol=1e-12, atol=0), repr(M)


check(prepare(np.array([[127, -64], [20, 127]]) / np.array([[64.0], [32.0]]), np.array([3.2, -1.0]), 0.25, 0.5))

# %%
""" # BEGIN TEST CONFIG
points: 0.25
failure_message: 'UINT8 codes with z_y = 30: without a ReLU they go from 0 to 255. With it, which code stands for 0, and what must not come out below it? See Integer layers, "A ReLU is a clip".'
"""  # END TEST CONFIG
for relu, wanted in ((False, (0, 255)), (True, (30, 255))):
    ends = clip_ends(30, 0, 255, relu)
    assert isinstance(ends, tuple) and ends == wanted, (relu, ends)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(9)
for m, n in ((5, 5), (7, 3), (1, 40)):
    w = rng.normal(size=(m, n)) * np.exp(rng.normal(size=(m, 1)))
    b, s_x, s_y = rng.normal(size=m), 0.0173, 0.0911
    result = prepare(w, b, s_x, s_y)
    assert isinstance(result, tuple) and len(result) == 3
    q_w, q_b, M = result
    assert isinstance(q_w, np.ndarray) and q_w.shape == (m, n) and q_w.dtype.kind == "i"
    assert isinstance(q_b, np.ndarray) and q_b.shape == (m,) and q_b.dtype.kind == "i"
    assert isinstance(M, np.ndarray) and M.shape == (m,)
    s_w = np.array([max(abs(v) for v in row) for row in w]) / 127
    assert (np.abs(q_w * s_w[:, None] - w) <= s_w[:, None] * 0.5000001).all() and np.abs(q_w).max() == 127
    assert (np.abs(q_b * s_w * s_x - b) <= s_w * s_x * 0.5000001).all()
    assert np.allclose(M, s_w * s_x / s_y, rtol=1e-12, atol=0)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

result = prepare(np.array([[0.0, 0.0, 0.0], [127.0, 2.5, -0.5]]), np.array([3.0, 1.25]), 0.5, 2.0)
assert isinstance(result, tuple) and len(result) == 3
q_w, q_b, M = result
assert isinstance(q_w, np.ndarray) and q_w.tolist() == [[0, 0, 0], [127, 2, 0]]
assert isinstance(q_b, np.ndarray) and q_b.tolist() == [6, 2]
assert isinstance(M, np.ndarray) and M.tolist() == [0.25, 0.25]

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

fits = prepare(np.array([[127.0]]), np.array([2.0**31 - 1]), 1.0, 1.0)
assert isinstance(fits, tuple) and fits[1].tolist() == [2**31 - 1]
for sign in (1, -1):
    try:
        prepare(np.array([[1.0], [1e-9]]), np.array([0.1, sign * 0.1]), 0.01, 0.1)
    except ValueError:
        pass
    else:
        assert False, "need a ValueError"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
for given, wanted in (
    ((-128, -128, 127, True), (-128, 127)),
    ((-3, -8, 7, True), (-3, 7)),
    ((15, 0, 15, True), (15, 15)),
    ((-3, -8, 7, False), (-8, 7)),
):
    ends = clip_ends(*given)
    assert isinstance(ends, tuple) and [type(end) for end in ends] == [int, int] and ends == wanted
for z_y in (-9, 8):
    for relu in (True, False):
        try:
            clip_ends(z_y, -8, 7, relu)
        except ValueError:
            pass
        else:
            assert False, "need a ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ## A whole network
#
# Three kinds of signals: sine, square and sawtooth, 32 samples each, with any phase and with noise. A network of two
# layers, 32 to 64 to 3, tells them apart. The first layer is random, the second was fitted to the first half of the
# signals. On that half the three ranges were seen, too.

# %%
rng = np.random.default_rng(0)
kind = rng.integers(0, 3, 2000)
angle = (np.arange(32) / 32 + rng.random((2000, 1))) % 1.0
shapes = np.stack([np.sin(2 * np.pi * angle), np.where(angle < 0.5, 1.0, -1.0), 2 * angle - 1])
signals = shapes[kind, np.arange(2000)] + 0.1 * rng.normal(size=(2000, 32))

w1, b1 = np.round(rng.normal(size=(64, 32)) / 4, 4), np.round(rng.normal(size=64) / 2, 4)
hidden = np.maximum(signals @ w1.T + b1, 0)
features = np.column_stack([hidden[:1000], np.ones(1000)])
squares = features.T @ features + 10 * np.eye(65)
fitted = np.round(np.linalg.solve(squares, features.T @ np.eye(3)[kind[:1000]]).T, 4)
w2, b2 = fitted[:, :-1], fitted[:, -1]
outputs = hidden @ w2.T + b2

network = [(w1, b1), (w2, b2)]
seen = [(float(a[:1000].min()), float(a[:1000].max())) for a in (signals, hidden, outputs)]
float_codes = quantize(outputs, *qparams(*seen[2]))
right = (outputs.argmax(1) == kind)[1000:].mean()
print(f"float network: {right:.1%} of the second half right")

# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 3

# %% [markdown]
# **Question 7 (3 points): the same on integers.** Write `integer_network(x, layers, ranges)`.
#
# - `x`: float64 of the shape `(N, n)`. `layers`: a list of two tuples `(w, b)` as in question 6. `ranges`: a list of three
#   tuples `(low, high)`: for the input, for what comes out of the first layer's ReLU, and for the output. A range may be
#   narrower or wider than the numbers; that of the middle may begin below 0.
# - All three are UINT8 with the scale and zero point that `qparams` gives. Quantize the input with `quantize`. From there
#   on only integers: a linear layer with a ReLU, a linear layer without.
# - It returns the codes of the output, an integer array of the shape `(N, m)`.
#
# Put it together from your functions. `qparams` and `quantize` are at the top of the notebook.
#
# The tests compare your codes in two ways, on small networks with other shapes and ranges:
#
# - with the **float network**, whose output alone is quantized: at most half of the codes may differ, none by more than 3;
# - with a network in float64 that computes on **the same rounded numbers** (input, weights, bias, and what lies
#   between the layers): at most 2 of 300 codes may differ (1 of 36), none by more than 1.
#
# The signals above are no such network. There more codes differ, as you will see behind the question.
#
# Then the letter `cause`. Where your codes differ from those of the float network, it is almost always because
#
# - `"A"` $M_0$ has 31 bits only,
# - `"B"` sums in INT32 are less exact than sums in floats,
# - `"C"` inputs, weights and what lies between the layers were rounded to 8 bits,
# - `"D"` a tie goes up in the one and to even in the other.

# %% [raw]
# # BEGIN SOLUTION


# %%
def integer_network(x, layers, ranges):
    """Output codes of a network of two layers, by integers."""
    # BEGIN SOLUTION
    s_x, z_x = qparams(*ranges[0])
    q = quantize(x, s_x, z_x)
    for i, (w, b) in enumerate(layers):
        s_y, z_y = qparams(*ranges[i + 1])
        q_w, q_b, M = prepare(w, b, s_x, s_y)
        m0, shift = np.array([quantize_multiplier(m) for m in M]).T
        acc = accumulate(q, q_w, 0, fold_bias(q_b, q_w, 0, z_x))
        low, high = clip_ends(z_y, 0, 255, relu=i == 0)
        q = requantize(acc, m0, shift, z_y, low, high)
        s_x, z_x = s_y, z_y
    return q
    # END SOLUTION


# %%
cause = "C"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: "cause is one of the letters A, B, C, D in quotes."
"""  # END TEST CONFIG
assert type(cause) is str and cause in ("A", "B", "C", "D"), repr(cause)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: "On a small network with 7 inputs and 4 outputs the result is no integer array of shape (N, m) with codes from 0 to 255, or more than half of its codes differ from those of the float network, or one by more than 3. Print the codes between the layers: those of the hidden layer stand for numbers of at least 0."
"""  # END TEST CONFIG
import numpy as np


def qp(low, high):
    s = (high - low) / 255
    return s, int(np.rint(-low / s))


def code(v, s, z):
    return np.clip(np.rint(v / s) + z, 0, 255)


def case(seed, N, n, h, m, shift=0.0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(N, n)) + shift
    layers = [
        (r.normal(size=(h, n)) / n**0.5, r.normal(size=h) / 2),
        (r.normal(size=(m, h)) / h**0.5, r.normal(size=m) / 2),
    ]
    hidden = np.maximum(x @ layers[0][0].T + layers[0][1], 0)
    y = hidden @ layers[1][0].T + layers[1][1]
    ranges = [(min(float(a.min()), 0.0), float(a.max())) for a in (x, hidden, y)]
    return x, layers, ranges, y


def check(q, wanted):
    assert isinstance(q, np.ndarray) and q.shape == (50, 4) and q.dtype.kind in "iu", repr(q)
    assert q.min() >= 0 and q.max() <= 255, (q.min(), q.max())
    apart = np.abs(q.astype(np.int64) - wanted)
    assert apart.max() <= 3 and (apart > 0).mean() <= 0.5, (apart.max(), (apart > 0).mean())


x, layers, ranges, y = case(11, 50, 7, 9, 4)
check(integer_network(x, layers, ranges), code(y, *qp(*ranges[2])))

# %%
""" # BEGIN TEST CONFIG
points: 0.25
failure_message: "On a network with 5 inputs and 3 outputs the codes are not those that exact sums of the rounded numbers give. By 1 or 2 apart: which rounding is not as questions 1 to 6 state it, or takes place where it should not? By more: which scale or zero point is that of another place?"
"""  # END TEST CONFIG
import numpy as np


def numbers(start, *shape):
    i = np.arange(start, start + np.prod(shape))
    return (i * i * 5 % 113 - 56).reshape(shape) / 64


def check(q, wanted):
    assert isinstance(q, np.ndarray) and q.shape == (12, 3) and q.dtype.kind in "iu", repr(q)
    apart = np.abs(q.astype(np.int64) - np.array(wanted.split(), dtype=np.int64).reshape(12, 3))
    assert apart.max() <= 1 and (apart > 0).sum() <= 1, (apart.max(), (apart > 0).sum())


layers = [(numbers(190, 8, 5), numbers(290, 8)), (numbers(390, 3, 8), numbers(490, 3))]
ranges = [(-0.9, 1.0), (0.0, 1.5), (-1.0, 2.0)]
wanted = "121 15 169 212 1 119 172 71 175 123 108 224 203 75 195 141 62 183 "
wanted += "210 18 117 244 36 144 145 67 225 130 24 170 218 1 118 201 74 172"
check(integer_network(numbers(90, 12, 5), layers, ranges), wanted)

# %%
""" # BEGIN TEST CONFIG
points: 0.25
failure_message: "The same network, but the range between the layers goes from -1 to 1.5. The code of 0 is now 102, and the ReLU has to see to it that none comes out below."
"""  # END TEST CONFIG
import numpy as np


def numbers(start, *shape):
    i = np.arange(start, start + np.prod(shape))
    return (i * i * 5 % 113 - 56).reshape(shape) / 64


def check(q, wanted):
    assert isinstance(q, np.ndarray) and q.shape == (12, 3) and q.dtype.kind in "iu", repr(q)
    apart = np.abs(q.astype(np.int64) - np.array(wanted.split(), dtype=np.int64).reshape(12, 3))
    assert apart.max() <= 1 and (apart > 0).sum() <= 1, (apart.max(), (apart > 0).sum())


layers = [(numbers(190, 8, 5), numbers(290, 8)), (numbers(390, 3, 8), numbers(490, 3))]
ranges = [(-0.9, 1.0), (-1.0, 1.5), (-1.0, 2.0)]
wanted = "121 16 169 212 0 119 172 72 175 122 108 224 203 75 195 141 62 182 "
wanted += "210 18 116 245 35 144 145 67 225 130 25 170 218 1 119 201 73 172"
check(integer_network(numbers(90, 12, 5), layers, ranges), wanted)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np


def qp(low, high):
    s = (high - low) / 255
    return s, int(np.rint(-low / s))


def code(v, s, z):
    return np.clip(np.rint(v / s) + z, 0, 255)


def case(seed, N, n, h, m, shift=0.0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(N, n)) + shift
    layers = [
        (r.normal(size=(h, n)) / n**0.5, r.normal(size=h) / 2),
        (r.normal(size=(m, h)) / h**0.5, r.normal(size=m) / 2),
    ]
    hidden = np.maximum(x @ layers[0][0].T + layers[0][1], 0)
    y = hidden @ layers[1][0].T + layers[1][1]
    ranges = [(min(float(a.min()), 0.0), float(a.max())) for a in (x, hidden, y)]
    return x, layers, ranges, y


def same_numbers(x, layers, ranges):
    s_x, z_x = qp(*ranges[0])
    v = (code(x, s_x, z_x) - z_x) * s_x
    for i, (w, b) in enumerate(layers):
        s_w = np.abs(w).max(1) / 127
        v = v @ (np.rint(w / s_w[:, None]) * s_w[:, None]).T + np.rint(b / (s_w * s_x)) * s_w * s_x
        v = np.maximum(v, 0) if i == 0 else v
        s_x, z_x = qp(*ranges[i + 1])
        q = code(v, s_x, z_x)
        v = (q - z_x) * s_x
    return q


for seed, N, n, h, m, shift in (
    (13, 30, 20, 6, 10, 0.0),
    (14, 100, 5, 30, 3, 2.0),
    (15, 150, 1, 4, 2, 0.5),
    (16, 1, 40, 40, 300, -1.0),
):
    x, layers, ranges, y = case(seed, N, n, h, m, shift)
    q = integer_network(x, layers, ranges)
    assert isinstance(q, np.ndarray) and q.shape == (N, m) and q.dtype.kind in "iu"
    apart = np.abs(q.astype(np.int64) - same_numbers(x, layers, ranges))
    assert apart.max() <= 1 and (apart > 0).sum() <= 2

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np


def qp(low, high):
    s = (high - low) / 255
    return s, int(np.rint(-low / s))


def code(v, s, z):
    return np.clip(np.rint(v / s) + z, 0, 255)


def case(seed, N, n, h, m, shift=0.0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(N, n)) + shift
    layers = [
        (r.normal(size=(h, n)) / n**0.5, r.normal(size=h) / 2),
        (r.normal(size=(m, h)) / h**0.5, r.normal(size=m) / 2),
    ]
    hidden = np.maximum(x @ layers[0][0].T + layers[0][1], 0)
    y = hidden @ layers[1][0].T + layers[1][1]
    ranges = [(min(float(a.min()), 0.0), float(a.max())) for a in (x, hidden, y)]
    return x, layers, ranges, y


def same_numbers(x, layers, ranges):
    s_x, z_x = qp(*ranges[0])
    v = (code(x, s_x, z_x) - z_x) * s_x
    for i, (w, b) in enumerate(layers):
        s_w = np.abs(w).max(1) / 127
        v = v @ (np.rint(w / s_w[:, None]) * s_w[:, None]).T + np.rint(b / (s_w * s_x)) * s_w * s_x
        v = np.maximum(v, 0) if i == 0 else v
        s_x, z_x = qp(*ranges[i + 1])
        q = code(v, s_x, z_x)
        v = (q - z_x) * s_x
    return q


x, layers, ranges, y = case(17, 60, 8, 16, 5)
ranges = [(a / 2, b / 2) for a, b in ranges]
ranges[1] = (-1.0, ranges[1][1])
q = integer_network(x, layers, ranges)
assert isinstance(q, np.ndarray) and q.shape == (60, 5) and q.dtype.kind in "iu"
assert q.min() == 0 and q.max() == 255
apart = np.abs(q.astype(np.int64) - same_numbers(x, layers, ranges))
assert apart.max() <= 1 and (apart > 0).sum() <= 2

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np


def qp(low, high):
    s = (high - low) / 255
    return s, int(np.rint(-low / s))


def code(v, s, z):
    return np.clip(np.rint(v / s) + z, 0, 255)


def case(seed, N, n, h, m, shift=0.0):
    r = np.random.default_rng(seed)
    x = r.normal(size=(N, n)) + shift
    layers = [
        (r.normal(size=(h, n)) / n**0.5, r.normal(size=h) / 2),
        (r.normal(size=(m, h)) / h**0.5, r.normal(size=m) / 2),
    ]
    hidden = np.maximum(x @ layers[0][0].T + layers[0][1], 0)
    y = hidden @ layers[1][0].T + layers[1][1]
    ranges = [(min(float(a.min()), 0.0), float(a.max())) for a in (x, hidden, y)]
    return x, layers, ranges, y


for seed, N, n, h, m in ((56, 100, 32, 24, 3), (19, 40, 12, 40, 8)):
    x, layers, ranges, y = case(seed, N, n, h, m)
    q = integer_network(x, layers, ranges)
    assert isinstance(q, np.ndarray) and q.shape == (N, m) and q.dtype.kind in "iu"
    apart = np.abs(q.astype(np.int64) - code(y, *qp(*ranges[2])))
    assert apart.max() <= 3 and (apart > 0).mean() <= 0.5

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert type(cause) is str and cause == "C"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Your network against the float one, on the second half of the signals. More codes differ here than in the tests, and some
# by more. An output here is what is left of 64 products that mostly cancel, as the last line shows, so the rounding of each
# counts for more. How many decisions change?

# %% tags=["raises-exception"]
codes = integer_network(signals[1000:], network, seen)
apart = np.abs(codes - float_codes[1000:])
decisions = (codes.argmax(1) != float_codes[1000:].argmax(1)).sum()
print(f"codes that differ: {(apart > 0).sum()} of {apart.size}, by at most {apart.max()}")
print(f"decisions that change: {decisions} of {len(codes)}")
print(f"integer network: {(codes.argmax(1) == kind[1000:]).mean():.1%} right")
added = (hidden[1000:] @ np.abs(w2).T).mean()
print(f"mean magnitude of an output {np.abs(outputs[1000:]).mean():.1f}, of its products added up {added:.1f}")
