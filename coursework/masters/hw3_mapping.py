# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [raw]
# # ASSIGNMENT CONFIG
# name: hw3_mapping
# export_cell: false
# solutions_pdf: false
# template_pdf: false
# check_all_cell: true
# generate:
#   pdf: false

# %% [markdown]
# # Homework 3: Who loses what?
#
# About 115 minutes, 20 points, after the chapters *Affine and scale*, *Granularity: how many scales?* and *Beyond evenly
# spaced levels*.
#
# You may use numpy and Python's own modules. No functions that quantize from a library: you write them. Given cells call
# your functions, and end with an error until these are there; *Run All Cells* goes on behind them. Bad input raises
# `ValueError` where the question says so.
#
# The public tests, which you see, carry about a third of the points; the rest is for hidden ones. Of predictions and
# letters the public tests check the form alone, not whether they are right. Your functions could compute most predictions
# too. Predict first all the same: where you were wrong is where you learn.
#
# The layer below has 12 outputs, and each is a sum over 32 inputs. Row $j$ of `w` holds the weights of output $j$. Store
# the layer in 8 bits with one scale, and its SQNR is 37.2 dB. Store it in 4 bits, and the SQNR is 13.8 dB. That is what
# theory says of four bits lost: about 6 dB each. Nothing looks wrong.
#
# But at 4 bits, four of the 12 rows have come back as zeros and nothing else. These outputs no longer depend on their
# inputs. The SQNR of the layer did not say so. Who loses what, and what does it cost to give it back?
#
# You build all that is needed for the answer. What you write in one question you may call in the next ones.
# `w_hat` in code is $\hat w$: weights that went to codes and back. The cells of question 8 need `w` as it is: outside of
# functions, give this name to nothing else.

# %%
import numpy as np

rng = np.random.default_rng(3)
places = np.array([0.3, 2.6, 1.1, 4.9, 0.0, 3.4, 1.9, 5.6, 0.8, 4.2, 2.2, 6.3])
w = 2.0 ** -places[:, None] * rng.normal(size=(12, 32))

print("shape:", w.shape)
print("largest magnitude of each row:")
for row, largest in enumerate(np.abs(w).max(axis=1)):
    print(f"{row:4}{largest:9.3f}")

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 3

# %% [markdown]
# ## 1. Scale and zero point (3 points)
#
# A code $q$ stands for $\hat x = s\,(q - z)$. Two conditions, one at each end of the range, give
#
# $$s = \frac{x_{\mathrm{high}} - x_{\mathrm{low}}}{q_{\max} - q_{\min}}, \qquad z = q_{\min} - \frac{x_{\mathrm{low}}}{s}.$$
#
# As printed they cannot be used. Write `qparams(low, high, q_min, q_max)`, which returns the pair `(s, z)`, a float and
# an int:
#
# - The range is first widened so that it holds 0.
# - $z$ is computed as above, from the step $s$ and the whole right side, and then rounded to the nearest integer, **ties
#   to even**.
# - $z$ is a code: after rounding it is held between $q_{\min}$ and $q_{\max}$. (It leaves them only where the step is too
#   small for a float to hold it well.)
# - If the step comes out as 0, because the range has no width or too little of it, then `s` is `1.0`. The rest stays as it
#   is: 0 to 0 with the codes $-8 \dots 7$ gives `(1.0, -8)`.
# - A `ValueError` if `low` or `high` is NaN or infinite, if `low > high`, or if `q_min >= q_max`.
#
# The ends are floats, and where both are finite, so is their difference. The codes are integers of any type:
# $-8 \dots 7$, $0 \dots 255$, $-7 \dots 7$ and others. All in float64.

# %% [raw]
# # BEGIN SOLUTION


# %%
def qparams(low, high, q_min, q_max):
    """Scale and zero point of the range low .. high: (float, int)."""
    # BEGIN SOLUTION
    if not (np.isfinite(low) and np.isfinite(high)) or low > high:
        raise ValueError(f"need finite ends in order, got {low} and {high}")
    if q_min >= q_max:
        raise ValueError(f"need q_min < q_max, got {q_min} and {q_max}")
    low, high = min(float(low), 0.0), max(float(high), 0.0)
    s = (high - low) / (q_max - q_min)
    if s == 0:
        s = 1.0
    z = round(q_min - low / s)
    return s, int(min(max(z, q_min), q_max))
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.75
failure_message: From -1 to 3, 4 bits unsigned. 16 codes have 15 gaps between them. See Affine and scale, "Two equations give scale and zero point".
"""  # END TEST CONFIG
import numpy as np

answer = qparams(-1.0, 3.0, 0, 15)
assert isinstance(answer, tuple) and len(answer) == 2, answer
s, z = answer
assert isinstance(s, (float, np.floating)) and abs(s - 4 / 15) < 1e-12, answer
assert isinstance(z, (int, np.integer)) and not isinstance(z, bool) and z == 4, answer

# %%
""" # BEGIN TEST CONFIG
points: 0.75
failure_message: A range of positive numbers alone, in INT8. Where does zero have its code? See Affine and scale, "Why must zero be exact?".
"""  # END TEST CONFIG
import numpy as np

answer = qparams(1.0, 3.0, -128, 127)
assert isinstance(answer, tuple) and len(answer) == 2, answer
s, z = answer
assert isinstance(s, (float, np.floating)) and abs(s - 3 / 255) < 1e-12, answer
assert isinstance(z, (int, np.integer)) and z == -128, answer

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

for low, high, q_min, q_max, scale, code in [
    (-2.5, 12.5, 0, 15, 1.0, 2),
    (-3.5, 11.5, 0, 15, 1.0, 4),
    (-0.625, 3.125, -8, 7, 0.25, -6),
    (-0.875, 2.875, -8, 7, 0.25, -4),
    (-2.5, 11.5, -7, 7, 1.0, -4),
]:
    answer = qparams(low, high, q_min, q_max)
    assert isinstance(answer, tuple) and len(answer) == 2
    s, z = answer
    assert isinstance(s, (float, np.floating)) and abs(s - scale) < 1e-12
    assert isinstance(z, (int, np.integer)) and z == code

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

for low, high, q_min, q_max, scale, code in [
    (-3.0, -1.0, -128, 127, 3 / 255, 127),
    (-3.0, -1.0, 0, 255, 3 / 255, 255),
    (0.0, 6.0, 0, 3, 2.0, 0),
    (-1.0, 2.0, -2, 1, 1.0, -1),
    (-10.0, 20.0, -32768, 32767, 30 / 65535, -10923),
]:
    answer = qparams(low, high, q_min, q_max)
    assert isinstance(answer, tuple) and len(answer) == 2
    s, z = answer
    assert isinstance(s, (float, np.floating)) and abs(s - scale) < 1e-12
    assert isinstance(z, (int, np.integer)) and z == code

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

for low, high, q_min, q_max, code in [(0.0, 0.0, 0, 255, 0), (0.0, 0.0, -128, 127, -128), (-5e-324, 0.0, -7, 7, -7)]:
    answer = qparams(low, high, q_min, q_max)
    assert isinstance(answer, tuple) and len(answer) == 2
    s, z = answer
    assert isinstance(s, (float, np.floating)) and s == 1.0
    assert isinstance(z, (int, np.integer)) and z == code

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

answer = qparams(-380 * 5e-324, 0.0, 0, 255)
assert isinstance(answer, tuple) and len(answer) == 2
s, z = answer
assert isinstance(s, (float, np.floating)) and s == 5e-324
assert isinstance(z, (int, np.integer)) and z == 255

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
answer = qparams(0.0, 15.0, 0, 15)
assert isinstance(answer, tuple) and len(answer) == 2 and answer[1] == 0
nan, inf = float("nan"), float("inf")
for bad in [
    (2.0, 1.0, 0, 15),
    (nan, 1.0, 0, 15),
    (-1.0, nan, 0, 15),
    (-inf, 1.0, 0, 15),
    (0.0, inf, 0, 15),
    (-1.0, 1.0, 7, 7),
]:
    try:
        qparams(*bad)
    except ValueError:
        pass
    else:
        assert False, "no ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 3

# %% [markdown]
# ## 2. There and back (3 points)
#
# Write `quantize(x, s, z, q_min, q_max)` and `dequantize(q, s, z)`:
#
# $$q = \mathrm{clip}\!\left(\mathrm{rint}\!\left(\frac{x}{s}\right) + z,\; q_{\min},\; q_{\max}\right), \qquad
# \hat x = s\,(q - z).$$
#
# - `x` is an array of floats, of any shape. The codes come back in an **int64** array of this shape, the reals in a
#   **float64** array of the shape of `q`.
# - A true division, rounded to the nearest integer with **ties to even**. The zero point is added after rounding.
# - `s` and `z` are numbers, or arrays that numpy broadcasts against `x`.
# - Values beyond the range get the first or the last code, however large they are, infinite ones too. NaN has no code:
#   `ValueError` if there is one in `x`.
# - The codes that `dequantize` gets may be of any integer type, uint8 for example.

# %% [raw]
# # BEGIN SOLUTION


# %%
def quantize(x, s, z, q_min, q_max):
    """The codes of x: int64, of the shape of x."""
    # BEGIN SOLUTION
    x = np.asarray(x, dtype=np.float64)
    if np.isnan(x).any():
        raise ValueError("x: NaN has no code")
    return np.clip(np.rint(x / s) + z, q_min, q_max).astype(np.int64)
    # END SOLUTION


def dequantize(q, s, z):
    """What the codes stand for: float64, of the shape of q."""
    # BEGIN SOLUTION
    return s * (np.asarray(q, dtype=np.float64) - z)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.75
failure_message: Values inside the range, to codes and back. Check dtypes and shapes first. See Affine and scale, "Two equations give scale and zero point".
"""  # END TEST CONFIG
import numpy as np

x = np.array([[-1.0, 0.0, 0.3], [1.1, 2.4, 0.8]])
q = quantize(x, 0.25, 5, 0, 15)
assert isinstance(q, np.ndarray) and q.dtype == np.int64 and q.shape == (2, 3), repr(q)
assert q.tolist() == [[1, 5, 6], [9, 15, 8]], q.tolist()
y = dequantize(np.array([[1, 5, 6], [9, 15, 8]]), 0.25, 5)
assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (2, 3), repr(y)
assert np.allclose(y, [[-1.0, 0.0, 0.25], [1.0, 2.5, 0.75]]), y.tolist()

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'Values outside of the range get the code at its end. See Affine and scale, "Experiment: clip or round?".'
"""  # END TEST CONFIG
import numpy as np

q = quantize(np.array([-9.0, 7.0, 2.6]), 0.25, 5, 0, 15)
assert isinstance(q, np.ndarray) and q.dtype == np.int64 and q.shape == (3,), repr(q)
assert q.tolist() == [0, 15, 15], q.tolist()

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5])
for z, wanted in [(0, [0, 2, 2, 0, -2, -2, 4]), (1, [1, 3, 3, 1, -1, -1, 5]), (-3, [-3, -1, -1, -3, -5, -5, 1])]:
    q = quantize(x, 1.0, z, -8, 7)
    assert isinstance(q, np.ndarray) and q.dtype == np.int64 and q.shape == (7,)
    assert q.tolist() == wanted

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

x = np.array([[1.0, -2.0, 3.0], [10.0, 20.0, -30.0]])
s, z = np.array([[0.5], [10.0]]), np.array([[0], [3]])
q = quantize(x, s, z, -128, 127)
assert isinstance(q, np.ndarray) and q.dtype == np.int64 and q.shape == (2, 3)
assert q.tolist() == [[2, -4, 6], [4, 5, 0]]
y = dequantize(np.array([[2, -4, 6], [4, 5, 0]]), s, z)
assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (2, 3)
assert np.allclose(y, x)

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

q = quantize(np.array([1e30, -1e30, float("inf"), float("-inf"), 3e5]), 1e-3, 7, -128, 127)
assert isinstance(q, np.ndarray) and q.dtype == np.int64 and q.shape == (5,)
assert q.tolist() == [127, -128, 127, -128, 127]

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

q = quantize(np.array([0.0, 1.0]), 1.0, 0, -8, 7)
assert isinstance(q, np.ndarray) and q.tolist() == [0, 1]
try:
    quantize(np.array([0.0, float("nan")]), 1.0, 0, -8, 7)
except ValueError:
    pass
else:
    assert False, "no ValueError"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

for dtype in (np.uint8, np.int8, np.int64):
    y = dequantize(np.array([0, 5, 100], dtype=dtype), 0.5, 100)
    assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (3,)
    assert y.tolist() == [-50.0, -47.5, 0.0]

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 2

# %% [markdown]
# ## 3. How wrong can one value be? (2 points)
#
# Paper and pencil. Codes 0 to 15, $s = 0.25$ and $z = 5$. The error of a value is $|\hat x - x|$. Set, the numbers to
# within $10^{-6}$:
#
# - `bound`: the largest error of all $x$ between the real numbers of the first and the last code;
# - `error_outside`: the error of $x = 3.1$;
# - `reach`: the largest $x$ whose error is still no larger than `bound`;
# - `ends`, a letter: `qparams` rounds $z$, and so the grid no longer begins and ends where the range did. A value at an
#   end of the range may now be clipped. What is the largest error inside the range `low .. high`, when the range holds 0?
#   - `"A"`: it may reach $s$, because rounding and clipping cost up to half a step each, and they add up.
#   - `"B"`: it is still at most $s/2$, because the grid moves by at most half a step.
#   - `"C"`: it is still at most $s/2$, because a value inside the range is never clipped.
#   - `"D"`: it has no bound, because the error of a clipped value has none.

# %% [raw]
# # BEGIN SOLUTION

# %%
bound = 0.125  # SOLUTION
error_outside = 0.6  # SOLUTION
reach = 2.625  # SOLUTION
ends = "B"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: Three numbers, and a letter from A to D in quotes.
"""  # END TEST CONFIG
import numpy as np

for answer in (bound, error_outside, reach):
    assert isinstance(answer, (int, float, np.integer, np.floating)) and not isinstance(answer, bool), answer
assert isinstance(ends, str) and len(ends) == 1 and ends in "ABCD", ends

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

assert isinstance(bound, (int, float, np.integer, np.floating)) and abs(bound - 0.125) < 1e-6

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

assert isinstance(error_outside, (int, float, np.integer, np.floating)) and abs(error_outside - 0.6) < 1e-6

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

assert isinstance(reach, (int, float, np.integer, np.floating)) and abs(reach - 2.625) < 1e-6

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(ends, str) and ends == "B"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 2

# %% [markdown]
# ## 4. Decibels, predicted (2 points)
#
# Write `sqnr(x, y)`, the signal to quantization noise ratio of the array `y`, which stands for `x`, in decibels:
#
# $$\mathrm{SQNR} = 10 \log_{10} \frac{\sum_i x_i^2}{\sum_i (y_i - x_i)^2} .$$
#
# It returns a float. It is infinite (`float("inf")`) if there is no error at all, even if `x` is all zeros. If `x` is
# all zeros and `y` is not, it is `float("-inf")`. A `ValueError` if the shapes differ. The values are of ordinary size: no
# square overflows, and only that of 0 is 0.
#
# Then predict, **before you run the cell below it**. Model the rounding error as even over one step, so its mean square
# is $s^2/12$. The codes are signed, $z = 0$. Set:
#
# - `bits_for_60`: the smallest number of bits with which data spread evenly over $[-T, T]$ have at least 60 dB, with the
#   range $[-T, T]$. An int.
# - `normal_6`: the SQNR of data from a normal distribution with standard deviation $\sigma$, at 6 bits, with the range
#   $\pm 4.5\,\sigma$. In decibels, to within half a decibel.

# %% [raw]
# # BEGIN SOLUTION


# %%
def sqnr(x, y):
    """Signal to quantization noise ratio of y against x, in dB: float."""
    # BEGIN SOLUTION
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.shape != y.shape:
        raise ValueError(f"need equal shapes, got {x.shape} and {y.shape}")
    signal, noise = np.sum(x**2), np.sum((y - x) ** 2)
    if noise == 0:
        return float("inf")
    if signal == 0:
        return float("-inf")
    return float(10 * np.log10(signal / noise))
    # END SOLUTION


# %%
# Set these before you run the next cell.
bits_for_60 = 10  # SOLUTION
normal_6 = 27.8  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [markdown]
# The next cell measures evenly spread data at 3, 5 and 8 bits. How many decibels does each bit add?

# %% tags=["raises-exception"]
even = np.random.default_rng(0).uniform(-1, 1, 20_000)
for bits in (3, 5, 8):
    q_max = 2 ** (bits - 1) - 1
    codes = quantize(even, 1 / q_max, 0, -q_max, q_max)
    print(f"{bits} bits: {sqnr(even, dequantize(codes, 1 / q_max, 0)):5.1f} dB")

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Powers, so 10 times the logarithm. The signal is 25, the noise 0.25. See Affine and scale, "How large is the rounding error?".
"""  # END TEST CONFIG
import numpy as np

answer = sqnr(np.array([3.0, -4.0]), np.array([3.3, -3.6]))
assert isinstance(answer, (float, np.floating)) and abs(answer - 20.0) < 1e-9, answer

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form of the predictions is right. Whether they are right, the hidden tests decide.
failure_message: bits_for_60 is an int, normal_6 a number.
"""  # END TEST CONFIG
import numpy as np

assert isinstance(bits_for_60, (int, np.integer)) and not isinstance(bits_for_60, bool), bits_for_60
assert isinstance(normal_6, (int, float, np.integer, np.floating)) and not isinstance(normal_6, bool), normal_6

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

x = np.array([[1.0, -2.0], [0.0, 3.0]])
answers = [sqnr(x, x), sqnr(0 * x, x), sqnr(0 * x, 0 * x), sqnr(x, 0 * x), sqnr(x, 2 * x + 1)]
assert all(isinstance(answer, (float, np.floating)) for answer in answers)
assert answers[0] == float("inf") and answers[1] == float("-inf") and answers[2] == float("inf")
assert abs(answers[3]) < 1e-9 and abs(answers[4] - 10 * np.log10(14 / 22)) < 1e-9
try:
    sqnr(np.zeros((2, 3)), np.zeros(3))
except ValueError:
    pass
else:
    assert False, "no ValueError"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

assert isinstance(bits_for_60, (int, np.integer)) and bits_for_60 == 10

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

assert isinstance(normal_6, (int, float, np.integer, np.floating)) and 27.0 <= normal_6 <= 28.4

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 3

# %% [markdown]
# ## 5. One scale, or one for each channel (3 points)
#
# Weights lie around zero, so their mapping is symmetric: $z = 0$, and with $B$ bits the codes run from
# $-(2^{B-1} - 1)$ to $2^{B-1} - 1$ (the narrow range). The largest magnitude $T$ gets the largest code.
#
# Write `symmetric_scales(w, bits, axis=None)`:
#
# - `axis=None`: one scale for the tensor. Otherwise one for each index of `axis`, shared by all the rest. `axis` may be
#   negative, as in numpy.
# - The scales come back in a **float64** array with as many dimensions as `w`, all of length 1 but for `axis`, so that
#   they can be given to `quantize` as they are. For `w` of shape $(12, 32)$: shape $(12, 1)$ for `axis=0`, $(1, 32)$ for
#   `axis=1`, $(1, 1)$ for `None`.
# - Where all weights that share a scale are 0, the scale is 1.
# - A `ValueError` if `bits` is less than 2, or if `w` has no such axis.
#
# And one prediction, without running anything: values spread evenly over $[0, T]$, 8 bits. One engine takes symmetric
# codes with $z = 0$, from $-127$ to $127$. The other takes codes from 0 to 255 with the zero point that `qparams` gives.
# `symmetric_loss`: how many decibels does the first one lose against the second? To within half a decibel.

# %% [raw]
# # BEGIN SOLUTION


# %%
def symmetric_scales(w, bits, axis=None):
    """Scales for codes around zero, in a float64 array that broadcasts against w."""
    # BEGIN SOLUTION
    w = np.asarray(w, dtype=np.float64)
    if bits < 2:
        raise ValueError(f"bits: need at least 2, got {bits}")
    if axis is not None and not -w.ndim <= axis < w.ndim:
        raise ValueError(f"axis: need one of {w.ndim}, got {axis}")
    shared = tuple(i for i in range(w.ndim) if axis is None or i != axis % w.ndim)
    largest = np.abs(w).max(axis=shared, keepdims=True)
    return np.where(largest > 0, largest / (2 ** (bits - 1) - 1), 1.0)
    # END SOLUTION


# %%
symmetric_loss = 6.05  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'One scale for the tensor, 4 bits. Four signed bits have 7 codes above zero. See Affine and scale, "By hand: a scale, in three steps".'
"""  # END TEST CONFIG
import numpy as np

s = symmetric_scales(np.array([[1.0, -2.8, 0.5], [0.7, 1.4, -0.1]]), 4)
assert isinstance(s, np.ndarray) and s.dtype == np.float64 and s.shape == (1, 1), repr(s)
assert np.allclose(s, 0.4), s

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: A scale for each row is an array of shape (rows, 1), for each column one of shape (1, columns). See Granularity, "Who shares a scale?".
"""  # END TEST CONFIG
import numpy as np

w = np.array([[1.0, -2.8, 0.5], [0.7, 1.4, -0.1]])
s = symmetric_scales(w, 4, axis=0)
assert isinstance(s, np.ndarray) and s.dtype == np.float64 and s.shape == (2, 1), repr(s)
assert np.allclose(s, [[0.4], [0.2]]), s.tolist()
s = symmetric_scales(w, 4, axis=1)
assert isinstance(s, np.ndarray) and s.dtype == np.float64 and s.shape == (1, 3), repr(s)
assert np.allclose(s, [[1 / 7, 0.4, 0.5 / 7]]), s.tolist()

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form of the prediction is right. Whether it is right, a hidden test decides.
failure_message: symmetric_loss is a number.
"""  # END TEST CONFIG
import numpy as np

answer = symmetric_loss
assert isinstance(answer, (int, float, np.integer, np.floating)) and not isinstance(answer, bool), answer

# %%
""" # BEGIN TEST CONFIG
points: 0.75
hidden: true
"""  # END TEST CONFIG
import numpy as np

w = np.random.default_rng(7).normal(size=(4, 3, 2, 4)) - 0.5
for bits in (2, 3, 8):
    for axis in (0, 1, 2, 3, -1, -2, -3, -4):
        s = symmetric_scales(w, bits, axis)
        kept = axis % 4
        shape = tuple(n if i == kept else 1 for i, n in enumerate(w.shape))
        assert isinstance(s, np.ndarray) and s.dtype == np.float64 and s.shape == shape
        wanted = np.abs(np.moveaxis(w, kept, 0).reshape(w.shape[kept], -1)).max(axis=1) / (2 ** (bits - 1) - 1)
        assert np.allclose(s.ravel(), wanted)
s = symmetric_scales(w, 8)
assert isinstance(s, np.ndarray) and s.shape == (1, 1, 1, 1) and np.allclose(s, np.abs(w).max() / 127)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

s = symmetric_scales(np.array([[0.0, 0.0], [0.0, -3.0], [0.0, 0.0]]), 3, axis=0)
assert isinstance(s, np.ndarray) and s.dtype == np.float64 and s.shape == (3, 1)
assert s.ravel().tolist() == [1.0, 1.0, 1.0]
s = symmetric_scales(np.zeros((2, 2)), 8)
assert isinstance(s, np.ndarray) and s.dtype == np.float64 and s.shape == (1, 1) and s[0, 0] == 1.0

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

s = symmetric_scales(np.ones((1, 1)), 8, 0)
assert isinstance(s, np.ndarray) and s.size == 1 and (s > 0).all()
for bits, axis in [(1, None), (0, 0), (8, 2), (8, -3)]:
    try:
        symmetric_scales(np.ones((2, 2)), bits, axis)
    except ValueError:
        pass
    else:
        assert False, "no ValueError"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

assert isinstance(symmetric_loss, (int, float, np.integer, np.floating)) and 5.5 <= symmetric_loss <= 6.6

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 2

# %% [markdown]
# ## 6. Groups, and what they weigh (2 points)
#
# Finer still: each row is cut into groups of $g$ neighbouring weights, from its beginning, and every group has a
# symmetric scale of its own. If $g$ does not divide the length of the row, the last group is shorter.
#
# - `fake_quantize_groups(w, bits, g)`: `w` of shape (rows, n), to codes (narrow range, 2 bits or more) and back. Returns
#   $\hat w$, float64 of the same shape. A group of zeros stays zeros. `g` may be larger than $n$. A `ValueError` if `g` is
#   less than 1.
# - `bits_per_weight(bits, n, g, scale_bits)`: what a weight of a row of $n$ takes in all, as a float: its code, and its
#   share of the row's scales, each stored in `scale_bits` bits. Here you may rely on good input.

# %% [raw]
# # BEGIN SOLUTION


# %%
def fake_quantize_groups(w, bits, g):
    """Take w to codes and back, a scale for each g weights of a row."""
    # BEGIN SOLUTION
    if g < 1:
        raise ValueError(f"g: need at least 1, got {g}")
    w = np.asarray(w, dtype=np.float64)
    q_max = 2 ** (bits - 1) - 1
    back = np.zeros_like(w)
    for start in range(0, w.shape[1], g):
        group = w[:, start : start + g]
        largest = np.abs(group).max(axis=1, keepdims=True)
        s = np.where(largest > 0, largest / q_max, 1.0)
        back[:, start : start + g] = s * np.rint(group / s)
    return back
    # END SOLUTION


def bits_per_weight(bits, n, g, scale_bits):
    """Bits of a weight, with its share of the scales of a row of n."""
    # BEGIN SOLUTION
    groups = -(-n // g)
    return bits + groups * scale_bits / n
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'One row of four weights, groups of two, 4 bits. Each group reaches its own largest code. See Granularity, "Per group: pay at each border".'
"""  # END TEST CONFIG
import numpy as np

y = fake_quantize_groups(np.array([[7.0, 2.6, 0.14, -0.045]]), 4, 2)
assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (1, 4), repr(y)
assert np.allclose(y, [[7.0, 3.0, 0.14, -0.04]]), y.tolist()

# %%
""" # BEGIN TEST CONFIG
points: 0.25
failure_message: '4-bit codes in groups of 32 with scales of 16 bits take 4.5 bits a weight. See Granularity, "Per group: pay at each border".'
"""  # END TEST CONFIG
import numpy as np

answer = bits_per_weight(4, 64, 32, 16)
assert isinstance(answer, (float, np.floating)) and abs(answer - 4.5) < 1e-12, repr(answer)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

w = np.random.default_rng(11).normal(size=(3, 10))
for bits, g in [(4, 4), (3, 3), (2, 7), (8, 10), (4, 25), (3, 1)]:
    y = fake_quantize_groups(w, bits, g)
    assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (3, 10)
    for row in range(3):
        for start in range(0, 10, g):
            part = w[row, start : start + g]
            s = np.abs(part).max() / (2 ** (bits - 1) - 1)
            assert np.allclose(y[row, start : start + g], s * np.rint(part / s))

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

y = fake_quantize_groups(np.array([[0.0, 0.0, -3.0, 3.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]]), 2, 2)
assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (2, 5)
assert y.tolist() == [[0.0, 0.0, -3.0, 3.0, 0.0], [1.0, 1.0, 0.0, 0.0, 0.0]]
for g in (0, -2):
    try:
        fake_quantize_groups(np.ones((2, 4)), 4, g)
    except ValueError:
        pass
    else:
        assert False, "no ValueError"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

for given, wanted in [
    ((4, 9, 4, 16), 4 + 48 / 9),
    ((3, 100, 32, 8), 3.32),
    ((2, 10, 64, 32), 5.2),
    ((8, 5, 1, 16), 24.0),
]:
    answer = bits_per_weight(*given)
    assert isinstance(answer, (float, np.floating)) and abs(answer - wanted) < 1e-9

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 2

# %% [markdown]
# ## 7. Three levels, placed well (2 points)
#
# With 2 bits the codes are $-1$, $0$ and $1$, and the scale that reaches the largest weight turns everything below half of
# it into 0. The three levels $-s$, $0$, $s$ can do better if $s$ may be any positive number.
#
# Write `ternary(w)` for `w` of shape (rows, n). For each row it finds the codes in $\{-1, 0, 1\}$ and the scale $s > 0$
# with the **least** sum of squared errors, $\sum_k (w_k - s\,q_k)^2$. It returns the pair of the codes, an int64 array of
# the shape of `w`, and the scales, a float64 array of shape (rows, 1). A row of zeros gets codes 0 and the scale 1.
#
# The chapter *Beyond evenly spaced levels* derives how: the $N$ largest magnitudes are kept, and for a given $N$ there is a
# formula for the best scale. (You can derive it too: for fixed codes the error is a parabola in $s$. Where is its lowest
# point?) So there are only $n$ candidates, and the least error among them is the least of all. If two candidates are
# equally good, either is right.

# %% [raw]
# # BEGIN SOLUTION


# %%
def ternary(w):
    """Codes -1, 0, 1 and a scale for each row, with the least squared error: (codes, scales)."""
    # BEGIN SOLUTION
    w = np.asarray(w, dtype=np.float64)
    codes, scales = np.zeros(w.shape, dtype=np.int64), np.ones((len(w), 1))
    for j, row in enumerate(w):
        order = np.argsort(-np.abs(row))
        sums = np.cumsum(np.abs(row)[order])
        counts = np.arange(1, len(row) + 1)
        best = int(np.argmax(sums**2 / counts))
        if sums[best] > 0:
            kept = order[: best + 1]
            codes[j, kept] = np.sign(row[kept])
            scales[j, 0] = sums[best] / counts[best]
    return codes, scales
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.75
failure_message: 'One row of four. Two of the four are worth keeping. Which scale is the best for these two? See Beyond evenly spaced levels, "Three levels: add a zero".'
"""  # END TEST CONFIG
import numpy as np

answer = ternary(np.array([[0.5, 4.0, -0.1, -3.0]]))
assert isinstance(answer, tuple) and len(answer) == 2, answer
codes, scales = answer
assert isinstance(codes, np.ndarray) and codes.dtype == np.int64 and codes.shape == (1, 4), repr(codes)
assert isinstance(scales, np.ndarray) and scales.dtype == np.float64 and scales.shape == (1, 1), repr(scales)
assert codes.tolist() == [[0, 1, 0, -1]] and abs(scales[0, 0] - 3.5) < 1e-12, (codes.tolist(), scales.tolist())

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(5)
w = np.concatenate([rng.normal(size=(4, 9)), rng.standard_t(1.5, size=(4, 9)), rng.uniform(0.8, 1, (2, 9))])
answer = ternary(w)
assert isinstance(answer, tuple) and len(answer) == 2
codes, scales = answer
assert isinstance(codes, np.ndarray) and codes.dtype == np.int64 and codes.shape == (10, 9)
assert isinstance(scales, np.ndarray) and scales.dtype == np.float64 and scales.shape == (10, 1)
assert set(codes.ravel().tolist()) <= {-1, 0, 1} and (scales > 0).all()
tries = np.stack(np.meshgrid(*[[-1, 0, 1]] * 9, indexing="ij"), axis=-1).reshape(-1, 9)
tries = tries[np.abs(tries).sum(axis=1) > 0]
gain = (w @ tries.T) ** 2 / np.abs(tries).sum(axis=1)
least = (w**2).sum(axis=1) - gain.max(axis=1)
error = ((w - scales * codes) ** 2).sum(axis=1)
assert np.allclose(error, least, rtol=1e-9, atol=1e-9)

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

answer = ternary(np.array([[0.0, 0.0, 0.0], [0.0, -2.0, 0.0]]))
assert isinstance(answer, tuple) and len(answer) == 2
codes, scales = answer
assert isinstance(codes, np.ndarray) and codes.dtype == np.int64 and codes.shape == (2, 3)
assert isinstance(scales, np.ndarray) and scales.dtype == np.float64 and scales.shape == (2, 1)
assert codes.tolist() == [[0, 0, 0], [0, -1, 0]] and scales.ravel().tolist() == [1.0, 2.0]

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q8
# points: 3

# %% [markdown]
# ## 8. Who loses what? (3 points)
#
# Back to the layer. Write `row_sqnr(w, s, bits)`: symmetric codes of so many bits (narrow range, $z = 0$) with the scales
# `s`, any array that broadcasts against `w`, to codes and back. It returns the SQNR of **each row** in decibels, a float64
# array of shape (rows,). A row that comes back without an error has infinity.
#
# Then look at the largest magnitudes that the first cell printed, and predict, **before you run the cells below**:
#
# - `silent_3`: how many of the 12 rows come back as zeros and nothing else, with 3 bits and one scale for the tensor?
# - `fewest_bits`: with one scale for the tensor, what is the smallest number of bits at which no row is lost in this
#   way?
# - `why`, a letter. At 4 bits with one scale, four rows are lost, and the SQNR of the layer is 13.8 dB. Why does the SQNR
#   of the layer not show the loss?
#   - `"A"`: The lost rows have no error: zero has an exact code, so a row of zeros counts as right.
#   - `"B"`: The errors of the lost rows have both signs, and in the sum over the layer they cancel.
#   - `"C"`: SQNR is a ratio of two powers, so the size of a row makes no difference to its share.
#   - `"D"`: The lost rows hold almost none of the layer's signal, and their noise is no larger than that.

# %% [raw]
# # BEGIN SOLUTION


# %%
def row_sqnr(w, s, bits):
    """SQNR of each row of w in dB, quantized with scales s: float64, shape (rows,)."""
    # BEGIN SOLUTION
    q_max = 2 ** (bits - 1) - 1
    noise = np.sum((dequantize(quantize(w, s, 0, -q_max, q_max), s, 0) - w) ** 2, axis=1)
    exact = noise == 0
    ratio = np.sum(w**2, axis=1) / np.where(exact, 1.0, noise)
    return np.where(exact, np.inf, 10 * np.log10(np.where(exact, 1.0, ratio)))
    # END SOLUTION


# %%
# Set these before you run the next cells.
silent_3 = 5  # SOLUTION
fewest_bits = 7  # SOLUTION
why = "D"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [markdown]
# The rows of the layer at 8, 4 and 2 bits, with one scale for the tensor and with one for each row. What is the SQNR of a
# row of which nothing is left? And how many decibels does the row with the largest weight gain from scales of its own?

# %% tags=["raises-exception"]
print(" " * 6, *(f"{f'{bits} bits':>16}" for bits in (8, 4, 2)))
print("row   ", *(f"{'tensor':>8}{'row':>8}" for _ in (8, 4, 2)))
table = [row_sqnr(w, symmetric_scales(w, bits, axis), bits) for bits in (8, 4, 2) for axis in (None, 0)]
for row, line in enumerate(np.transpose(table)):
    print(f"{row:3}   ", *(f"{a:8.1f}{b:8.1f}" for a, b in line.reshape(3, 2)))

# %% [markdown]
# Last, what it costs. The scales take 16 bits each. The worst row tells what the layer as a whole does not. A row is a
# group of 32, and the layer with one scale a single group. With a zero point, for which 8 bits are counted, a row has all
# the codes, the smallest too: four in place of three at 2 bits.


# %% tags=["raises-exception"]
def report(name, w_hat, cost):
    rows = [sqnr(a, b) for a, b in zip(w, w_hat, strict=True)]
    print(f"{name:34}{sqnr(w, w_hat):8.1f}{min(rows):8.1f}{cost:8.2f}")


print(f"{'':34}{'layer':>8}{'worst':>8}{'bits':>8}")
n = w.shape[1]
for bits in (8, 4, 2):
    whole = fake_quantize_groups(w.reshape(1, -1), bits, w.size).reshape(w.shape)
    report(f"{bits} bits, one scale", whole, bits_per_weight(bits, w.size, w.size, 16))
    for g, name in ((n, "a scale for each row"), (8, "groups of 8")):
        report(f"{bits} bits, {name}", fake_quantize_groups(w, bits, g), bits_per_weight(bits, n, g, 16))
    q_min, q_max = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    affine = np.zeros_like(w)
    for row in range(len(w)):
        s, z = qparams(w[row].min(), w[row].max(), q_min, q_max)
        affine[row] = dequantize(quantize(w[row], s, z, q_min, q_max), s, z)
    report(f"{bits} bits, and a zero point", affine, bits_per_weight(bits, n, n, 16 + 8))
codes, scales = ternary(w)
report("ternary, least squares, each row", scales * codes, bits_per_weight(2, n, n, 16))

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.75
failure_message: Two rows with one scale of 1, 4 bits. The errors of the first are 0.2 and 0.1, the second is lost. See Granularity, "Where did the filters go?".
"""  # END TEST CONFIG
import numpy as np

y = row_sqnr(np.array([[3.2, -6.9], [0.3, 0.4]]), np.array([[1.0]]), 4)
assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (2,), repr(y)
assert np.allclose(y, [10 * np.log10((3.2**2 + 6.9**2) / 0.05), 0.0]), y.tolist()

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form of the answers is right. Whether they are right, the hidden tests decide.
failure_message: silent_3 and fewest_bits are ints, why is a letter from A to D in quotes.
"""  # END TEST CONFIG
import numpy as np

for answer in (silent_3, fewest_bits):
    assert isinstance(answer, (int, np.integer)) and not isinstance(answer, bool), answer
assert isinstance(why, str) and len(why) == 1 and why in "ABCD", why

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

w = np.random.default_rng(13).normal(size=(5, 20)) * np.array([[1.0], [0.02], [3.0], [0.3], [8.0]])
for bits in (2, 3, 5, 8):
    q_max = 2 ** (bits - 1) - 1
    for top in (np.abs(w).max(), np.abs(w).max(axis=1, keepdims=True), np.abs(w).max(axis=0, keepdims=True)):
        s = top / q_max * np.ones((1, 1))
        y = row_sqnr(w, s, bits)
        assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (5,)
        error = ((s * np.rint(w / s) - w) ** 2).sum(axis=1)
        assert np.allclose(y, 10 * np.log10((w**2).sum(axis=1) / error), atol=1e-6)

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

y = row_sqnr(np.array([[1.0, -2.0], [0.0, 0.0], [0.75, 1.0]]), np.array([[0.5]]), 4)
assert isinstance(y, np.ndarray) and y.dtype == np.float64 and y.shape == (3,)
assert y[0] == np.inf and y[1] == np.inf and abs(y[2] - 10 * np.log10(25)) < 1e-9

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

assert isinstance(silent_3, (int, np.integer)) and silent_3 == 5

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

assert isinstance(fewest_bits, (int, np.integer)) and fewest_bits == 7

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(why, str) and why == "D"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ## What to take away
#
# One scale for the tensor leaves the small rows to pay for the large ones, and the SQNR of the layer does not tell. A
# scale for each row gives them back at half a bit a weight here, and at no cost in arithmetic. At 2 bits it is no longer
# enough: then it matters where the few levels are.
