# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [raw]
# # ASSIGNMENT CONFIG
# name: hw5_ptq
# export_cell: false
# solutions_pdf: false
# template_pdf: false
# check_all_cell: true
# generate:
#   pdf: false

# %% [markdown]
# # Homework 5: From a trained network to codes
#
# About 120 minutes, after the chapters *Calibration*, *Entropy calibration*, *Post-training quantization*, *Without data*
# and *Selective quantization*. 20 points in 8 questions.
#
# You may use numpy and Python's own modules. torch and scikit-learn are there for one given cell, which trains a
# network on small images of digits. Do not use `torch.ao`, `torch.quantize_*` or `torch.fake_quantize_*`. Nothing is
# downloaded. All your functions take and give numpy arrays and plain numbers; compute in float64.
#
# Some tests are in this notebook; `grader.check` runs them. They carry about a third of the points, and of predictions and
# letters they check the form alone. The others are hidden: they try other shapes, other bits, and bad input.
#
# The cells behind some questions use your functions. They end with an error until you have written these; *Run All Cells*
# goes on behind them.
#
# ## A network that should lose nothing
#
# Eight bits cost a small network nothing, the chapters say. A colleague took the network below, folded its batch
# normalizations, put weights and activations on grids of eight bits, and asked for the digits of 541 test images. The
# network in float is right on more than 97 of 100 images. The colleague's was right on about half of them. The grids
# were fine. What went wrong?
#
# You will build every step yourself: ranges from data, the fold, the places of the quantizers, the quantized network.
# At the end it will read digits at eight bits, at four and at three.
#
# First two given cells. `on_grid` puts numbers on a grid of unsigned codes and reads them back (chapter
# *Affine and scale*). It widens the range so that it holds zero, and rounds ties to even.

# %%
import numpy as np


def on_grid(x, low, high, bits):
    """Put x on a grid: what comes of quantizing to codes 0 ... 2**bits - 1 that cover low ... high, and reading back."""
    low, high = min(low, 0.0), max(high, 0.0)
    if low == high:
        return np.zeros_like(x)
    top = 2**bits - 1
    s = (high - low) / top
    z = np.rint(-low / s)
    q = np.clip(np.rint(x / s) + z, 0, top)
    return s * (q - z)


# %% [markdown]
# The network is a list of steps, and each step is a dict:
#
# | step | keys |
# |---|---|
# | `{"kind": "linear", ...}` | `weight` of shape (outputs, inputs); `bias` of shape (outputs,), or `None` |
# | `{"kind": "norm", ...}` | `gamma`, `beta`, `mean`, `var`, all of shape (channels,); `eps`, a number |
# | `{"kind": "relu"}` | |
#
# `forward` runs such a list in float. Inputs `x` have the shape (images, inputs).
#
# The training takes about two seconds. It starts half of the factors $\gamma$ at $-1$, so some of them are negative.

# %%
from itertools import pairwise

import torch
from sklearn.datasets import load_digits

torch.set_num_threads(1)


def forward(net, x):
    """What a list of steps gives for x."""
    for step in net:
        if step["kind"] == "linear":
            x = x @ step["weight"].T
            if step["bias"] is not None:
                x = x + step["bias"]
        elif step["kind"] == "norm":
            x = (x - step["mean"]) / np.sqrt(step["var"] + step["eps"]) * step["gamma"] + step["beta"]
        else:
            x = np.maximum(x, 0.0)
    return x


def train(widths, seed):
    """A list of steps: linear layers without bias, a norm behind each, ReLUs between."""
    torch.manual_seed(seed)
    modules = []
    for i, (inputs, outputs) in enumerate(pairwise(widths)):
        modules += [torch.nn.ReLU()] if i else []
        modules += [torch.nn.Linear(inputs, outputs, bias=False), torch.nn.BatchNorm1d(outputs)]
        with torch.no_grad():
            modules[-1].weight[::2] *= -1
    model = torch.nn.Sequential(*modules)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = torch.tensor(images[training], dtype=torch.float32), torch.tensor(labels[training])
    for _ in range(20):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    net = []
    for m in model:
        if isinstance(m, torch.nn.Linear):
            net.append({"kind": "linear", "weight": m.weight.detach().double().numpy(), "bias": None})
        elif isinstance(m, torch.nn.BatchNorm1d):
            numbers = {"gamma": m.weight, "beta": m.bias, "mean": m.running_mean, "var": m.running_var}
            numbers = {name: t.detach().double().numpy() for name, t in numbers.items()}
            net.append({"kind": "norm", **numbers, "eps": m.eps})
        else:
            net.append({"kind": "relu"})
    return net


def accuracy(y, rows):
    """Percent of right answers."""
    return 100 * float(np.mean(y.argmax(1) == labels[rows]))


images, labels = load_digits(return_X_y=True)
images = images / 16
order = np.random.default_rng(0).permutation(len(images))
training, validation, test = order[:1000], order[1000:1256], order[1256:]
network = train([64, 32, 32, 10], seed=0)
print([step["kind"] for step in network])
print(f"float: {accuracy(forward(network, images[test]), test):.1f} % of {len(test)} test images")

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 3

# %% [markdown]
# ## Question 1: Two observers (3 points)
#
# The images come in batches. Write two observers. Both get a list of arrays of any shape, one for each batch, and return
# a tuple `(low, high)` of two floats.
#
# - `minmax_range(batches)`: the smallest and the largest number of all batches.
# - `moving_range(batches, c=0.01)`: a moving average, for `low` and `high` each (chapter *Calibration*, section "Moving
#   average: the typical batch"). The first batch sets the start. After it, each batch moves the end towards its own
#   smallest or largest number by the share `c` of the distance.
#
# The result is what was seen: do not widen it to hold zero. Raise `ValueError` for an empty list, for a batch
# without numbers, for a number that is not finite, and for a `c` that is not in $0 < c \le 1$.

# %% [raw]
# # BEGIN SOLUTION


# %%
def minmax_range(batches):
    """The smallest and the largest number of all batches: a tuple of two floats."""
    # BEGIN SOLUTION
    if not batches:
        raise ValueError("batches: need one or more, got none")
    for batch in batches:
        if not np.size(batch) or not np.isfinite(batch).all():
            raise ValueError("batches: need finite numbers in each")
    return min(float(np.min(b)) for b in batches), max(float(np.max(b)) for b in batches)
    # END SOLUTION


def moving_range(batches, c=0.01):
    """Moving averages of the batches' smallest and largest numbers: a tuple of two floats."""
    # BEGIN SOLUTION
    if not 0 < c <= 1:
        raise ValueError(f"c: need 0 < c <= 1, got {c}")
    if not batches:
        raise ValueError("batches: need one or more, got none")
    ends = [minmax_range([batch]) for batch in batches]
    low, high = ends[0]
    for now_low, now_high in ends[1:]:
        low, high = low + c * (now_low - low), high + c * (now_high - high)
    return low, high
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: min-max, two batches
points: 0.5
failure_message: >-
  minmax_range should give a tuple of two floats, over all batches and not of the last alone. See "Min-max:
  nothing outside" in the chapter Calibration.
"""  # END TEST CONFIG
import numpy as np

r = minmax_range([np.array([1.0, -4.0]), np.array([[2.5], [0.0]])])
assert isinstance(r, tuple) and all(isinstance(v, (float, np.floating)) for v in r) and r == (-4.0, 2.5), repr(r)

# %%
""" # BEGIN TEST CONFIG
name: moving average, three batches
points: 1
failure_message: >-
  moving_range does not follow the moving average. The first batch sets the start, and c is the weight of the
  newest batch. See "Moving average: the typical batch" in the chapter Calibration.
"""  # END TEST CONFIG
import numpy as np

r = moving_range([np.array([-4.0, 8.0]), np.array([-8.0, 4.0]), np.array([-6.0, 6.0])], 0.25)
assert isinstance(r, tuple) and all(isinstance(v, (float, np.floating)) for v in r) and r == (-5.25, 6.75), repr(r)

# %%
""" # BEGIN TEST CONFIG
points: 0.75
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(7)
batches = [rng.standard_normal((5, 2)) * k + 3 for k in range(1, 9)]
low = sum(w * b.min() for w, b in zip([0.9**7] + [0.1 * 0.9**k for k in range(6, -1, -1)], batches, strict=True))
high = sum(w * b.max() for w, b in zip([0.9**7] + [0.1 * 0.9**k for k in range(6, -1, -1)], batches, strict=True))
r = moving_range(batches, 0.1)
assert isinstance(r, tuple) and len(r) == 2 and all(isinstance(v, (float, np.floating)) for v in r)
assert np.allclose(r, (low, high), rtol=1e-9, atol=0)
one = moving_range([np.array([2.0, 3.0]), np.array([4.0, 103.0])])
assert isinstance(one, tuple) and len(one) == 2 and np.allclose(one, (2.02, 4.0), rtol=1e-12, atol=0)
last = moving_range([np.array([2.0, 3.0]), np.array([4.0, 103.0])], 1)
assert isinstance(last, tuple) and np.allclose(last, (4.0, 103.0))

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

r = minmax_range([np.array([[5.0, 6.0]]), np.array([7.0])])
assert isinstance(r, tuple) and len(r) == 2 and r == (5.0, 7.0)
r = minmax_range([np.array(-2.0)])
assert isinstance(r, tuple) and len(r) == 2 and r == (-2.0, -2.0)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

for f in (minmax_range, moving_range):
    r = f([np.array([-1.0, 2.0])])
    assert isinstance(r, tuple) and len(r) == 2 and r[0] < 0 < r[1]
    for bad in ([], [np.array([1.0]), np.zeros(0)], [np.array([1.0, np.nan])], [np.array([2.0]), np.array([np.inf])]):
        try:
            f(bad)
        except ValueError:
            pass
        else:
            assert False, "need a ValueError"
for c in (0, -0.5, 1.5):
    try:
        moving_range([np.array([1.0, 2.0])], c)
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
# points: 2

# %% [markdown]
# ## Question 2: A percentile from a histogram (2 points)
#
# A percentile needs all values, or a histogram of their magnitudes, which takes fixed memory. Write both halves.
#
# - `histogram(batches, width)`: a one-dimensional int64 array of counts. Bin $i$ counts the magnitudes with
#   $i\,\Delta \le |x| < (i + 1)\,\Delta$, where $\Delta$ is `width`. The array ends with the last bin that has a count.
#   A batch may be larger than all before it. There is one batch or more, each has numbers, and all are finite.
# - `percentile_threshold(counts, width, p)`: a float, the upper edge of the first bin up to which, itself included, the
#   counts add up to at least $p$ percent of all.
#
# Floats need care in two places. $|x| / \Delta$ is exact if the width is a power of two; in the tests no value lies on an
# edge of other bins. And "at least" is safer as `100 * added >= p * total`, since `99.9 / 100 * 1000` is a little more than
# 999; the tests do not depend on it.
#
# Raise `ValueError` for a width that is not positive, for a $p$ that is not in $0 < p \le 100$, and for counts that are all
# zero.

# %% [raw]
# # BEGIN SOLUTION


# %%
def histogram(batches, width):
    """Counts of the magnitudes in bins of this width: an int64 array."""
    # BEGIN SOLUTION
    if not width > 0:
        raise ValueError(f"width: need a positive number, got {width}")
    counts = np.zeros(0, np.int64)
    for batch in batches:
        new = np.bincount((np.abs(batch) / width).astype(np.int64).ravel())
        size = max(len(counts), len(new))
        counts = np.pad(counts, (0, size - len(counts))) + np.pad(new, (0, size - len(new)))
    return counts
    # END SOLUTION


def percentile_threshold(counts, width, p):
    """The upper edge of the bin in which the percentile p of the magnitudes lies: a float."""
    # BEGIN SOLUTION
    if not width > 0:
        raise ValueError(f"width: need a positive number, got {width}")
    if not 0 < p <= 100:
        raise ValueError(f"p: need 0 < p <= 100, got {p}")
    below = np.cumsum(counts)
    if not len(below) or not below[-1]:
        raise ValueError("counts: need a positive sum")
    return float((np.argmax(100 * below >= p * below[-1]) + 1) * width)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: histogram of two batches
points: 0.5
failure_message: >-
  histogram counts magnitudes, so the sign does not matter, and a value on an edge belongs to the bin above the
  edge. A later batch may need more bins. See "Percentiles: clip a fixed share" in the chapter Calibration.
"""  # END TEST CONFIG
import numpy as np

h = histogram([np.array([0.0, -0.25, 0.5]), np.array([[-1.75, 0.1]])], 0.5)
assert isinstance(h, np.ndarray) and h.dtype == np.int64 and h.tolist() == [3, 1, 0, 1], repr(h)

# %%
""" # BEGIN TEST CONFIG
name: half of the values
points: 0.5
failure_message: >-
  percentile_threshold should be the upper edge of the first bin with which at least p percent are reached. Add
  the counts up from the left. See "Percentiles: clip a fixed share" in the chapter Calibration.
"""  # END TEST CONFIG
import numpy as np

t = percentile_threshold(np.array([4, 4, 1, 1]), 0.5, 50)
assert isinstance(t, (float, np.floating)) and t == 1.0, repr(t)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

for counts, width, p, want in (
    ([5, 5], 2.0, 50, 2.0),
    ([5, 5], 2.0, 51, 4.0),
    ([0, 0, 7, 0, 0], 0.25, 1, 0.75),
    ([8, 1, 1, 0, 0], 1.0, 100, 3.0),
    ([990, 5, 3, 0, 2], 0.5, 99.4, 1.0),
    ([990, 5, 3, 0, 2], 0.5, 99.9, 2.5),
    ([800, 75, 120, 5], 0.5, 87.5, 1.0),
):
    t = percentile_threshold(np.array(counts), width, p)
    assert isinstance(t, (float, np.floating)) and abs(t - want) < 1e-9

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

x = np.random.default_rng(3).standard_normal((6, 50, 2)) * np.arange(6, 0, -1)[:, None, None]
h = histogram(list(x), 0.125)
assert isinstance(h, np.ndarray) and h.dtype == np.int64 and h.sum() == 600
assert h.tolist() == np.bincount(np.floor(np.abs(x).ravel() / 0.125).astype(int)).tolist()
assert percentile_threshold(np.array([1, 2]), 0.5, 100) > 0
for f, bad in (
    (percentile_threshold, (np.array([1, 2]), 0.5, 0)),
    (percentile_threshold, (np.array([1, 2]), 0.5, 101)),
    (percentile_threshold, (np.array([0, 0]), 0.5, 99)),
    (histogram, ([np.array([1.0])], 0.0)),
    (histogram, ([np.array([1.0])], -1.0)),
):
    try:
        f(*bad)
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
# name: q3
# points: 3

# %% [markdown]
# ## Question 3: The range of least squared error (3 points)
#
# Clipping and rounding pull the ends of a range in two directions. Search for the pair of ends with the least sum.
#
# `best_range(x, bits, steps=20)` takes an array of any shape and returns a tuple `(low, high)` of two floats. Let
# $a = \min(0, \min x)$ and $b = \max(0, \max x)$. The candidates are all pairs
#
# $$ \Bigl(\frac{i}{\mathrm{steps}}\,a,\ \frac{j}{\mathrm{steps}}\,b\Bigr), \qquad i, j = 0, 1, \ldots, \mathrm{steps} . $$
#
# Both ends move by themselves, since an outlier lies on one side. The best pair has the least sum of squares of
# `on_grid(x, low, high, bits) - x`. Of pairs with equal errors any one is right. If all numbers are zero, the result is
# `(0.0, 0.0)`. Raise `ValueError` for an `x` without numbers and for one with a number that is not finite.
#
# The network's activations have up to 16384 numbers, and trying all pairs takes less than a second. If one end is zero, all
# its candidates are the same; you may leave out the repeats.

# %% [raw]
# # BEGIN SOLUTION


# %%
def best_range(x, bits, steps=20):
    """The ends of least squared error, of (steps + 1)**2 candidates: a tuple of two floats."""
    # BEGIN SOLUTION
    if not x.size or not np.isfinite(x).all():
        raise ValueError("x: need finite numbers")
    a, b = min(0.0, float(x.min())), max(0.0, float(x.max()))
    best = (np.inf, 0.0, 0.0)
    for low in {a * i / steps for i in range(steps + 1)}:
        for high in {b * j / steps for j in range(steps + 1)}:
            error = float(np.sum((on_grid(x, low, high, bits) - x) ** 2))
            best = min(best, (error, low, high))
    return best[1:]
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: values that lie on codes
points: 0.5
failure_message: >-
  Two bits have four codes. Values that are 0, 1, 2, 3 have no error with the range from 0 to 3, and their
  negatives none with the range from -3 to 0. Try i and j up to steps, the ends included.
"""  # END TEST CONFIG
import numpy as np

for x, low, high in ((np.array([0.0, 1.0, 2.0, 3.0]), 0, 3), (np.array([[-3.0, -2.0], [-1.0, 0.0]]), -3, 0)):
    r = best_range(x, 2)
    assert isinstance(r, tuple) and len(r) == 2 and all(isinstance(v, (float, np.floating)) for v in r), repr(r)
    assert abs(r[0] - low) < 1e-9 and abs(r[1] - high) < 1e-9, r

# %%
""" # BEGIN TEST CONFIG
name: an outlier among many
points: 1
failure_message: >-
  Four thousand values are 0, 1, 2 or 3, and one is 20. With two bits, the many should win, and the one be
  clipped. Count rounding and clipping over all values. See "MSE: clipping and rounding together" in the chapter
  Calibration.
"""  # END TEST CONFIG
import numpy as np


def check(r):
    assert isinstance(r, tuple) and len(r) == 2 and all(isinstance(v, (float, np.floating)) for v in r), repr(r)
    assert abs(r[0]) < 1e-9 and abs(r[1] - 3) < 1e-9, r


check(best_range(np.append(np.tile([0.0, 1.0, 2.0, 3.0], 1000), 20.0), 2))

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG
import numpy as np


def grid_error(x, low, high, bits):
    if low == high:
        return float(np.sum(x**2))
    s = (high - low) / (2**bits - 1)
    z = np.rint(-low / s)
    return float(np.sum((s * (np.clip(np.rint(x / s) + z, 0, 2**bits - 1) - z) - x) ** 2))


rng = np.random.default_rng(11)
for bits, steps, x in (
    (3, 20, np.append(rng.standard_normal(500), 9.0)),
    (4, 10, np.append(rng.standard_normal(500), -15.0).reshape(3, 167)),
    (5, 20, rng.standard_normal((8, 5, 9)) ** 3),
):
    pairs = [(x.min() * i / steps, x.max() * j / steps) for i in range(steps + 1) for j in range(steps + 1)]
    r = best_range(x, bits, steps)
    assert isinstance(r, tuple) and len(r) == 2 and all(isinstance(v, (float, np.floating)) for v in r)
    assert min(max(abs(r[0] - low), abs(r[1] - high)) for low, high in pairs) < 1e-9
    assert grid_error(x, r[0], r[1], bits) <= min(grid_error(x, *pair, bits) for pair in pairs) * (1 + 1e-9)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

r = best_range(np.zeros((2, 3)), 4)
assert isinstance(r, tuple) and len(r) == 2 and r == (0.0, 0.0)
r = best_range(np.array([6.0, 7.0, 7.0]), 3, 7)
assert isinstance(r, tuple) and len(r) == 2 and np.allclose(r, (0.0, 7.0), rtol=1e-12, atol=1e-12)
for bad in (np.zeros(0), np.array([1.0, np.nan]), np.array([1.0, -np.inf])):
    try:
        best_range(bad, 4)
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
# ## Question 4: What does one outlier do? (2 points)
#
# Predict before you run anything. A tensor is watched in 10 batches of 1000 values. In each batch the values are evenly
# spread from $-1$ to $1$, both ends included. Then **one value in the middle of the fourth batch becomes 39.** Paper and a calculator
# are enough. The grids are those of `on_grid`; the bits are 8 where nothing else is said.
#
# - `step_ratio`: how many times larger does the step of min-max get?
# - `codes_left`: how many different codes do the other 9999 values get from min-max, with the outlier in the range?
# - `moving_high`: the `high` of the moving average with $c = 0.01$ after all ten batches, to two decimals.
# - `percentile_moves`: does the exact percentile 99.9 of the magnitudes move by more than 0.01? `"yes"` or `"no"`.
# - `mse_8`: where does the `high` of least squared error lie at 8 bits? `"A"`: below 2. `"B"`: from 2 to 30.
#   `"C"`: above 30. Count clipping at `high` $= T$ as $(39 - T)^2$ over the number of values, and rounding as about
#   $s^2/12$. The other end of the range stays at $-1$.
# - `mse_4`: the same at 4 bits. There $s^2/12$ is right as long as the step is smaller than the spread of the values. If
#   the step is so large that all of them become zero, the error is their mean square, $1/3$.

# %% [raw]
# # BEGIN SOLUTION

# %%
step_ratio = 20.0  # SOLUTION
codes_left = 13  # SOLUTION
moving_high = 1.36  # SOLUTION
percentile_moves = "no"  # SOLUTION
mse_8 = "C"  # SOLUTION
mse_4 = "B"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the form of the answers
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: >-
  step_ratio, codes_left and moving_high are numbers, percentile_moves is "yes" or "no", mse_8 and mse_4 are
  "A", "B" or "C".
"""  # END TEST CONFIG
for answer in (step_ratio, codes_left, moving_high):
    assert isinstance(answer, (int, float)), repr(answer)
for answer, words in ((percentile_moves, ("yes", "no")), (mse_8, ("A", "B", "C")), (mse_4, ("A", "B", "C"))):
    assert answer in words, repr(answer)

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
assert isinstance(step_ratio, (int, float)) and abs(step_ratio - 20) < 0.05

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
assert isinstance(codes_left, (int, float)) and codes_left == 13

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(moving_high, (int, float)) and abs(moving_high - 1.3578) < 0.008

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
assert isinstance(percentile_moves, str) and percentile_moves == "no"

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
assert isinstance(mse_8, str) and mse_8 == "C"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(mse_4, str) and mse_4 == "B"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Now watch a smaller case with your functions: six batches of 500 values, one value of the second becomes 12, and
# $c = 0.1$. Does the picture fit your reasons above?

# %% tags=["raises-exception"]
calm = [np.linspace(-1, 1, 500) for _ in range(6)]
wild = [batch.copy() for batch in calm]
wild[1][250] = 12.0
for name, batches in (("without", calm), ("with", wild)):
    everything = np.concatenate(batches)
    print(f"{name:8} min-max {minmax_range(batches)[1]:6.2f}", end="")
    print(f"   moving {moving_range(batches, 0.1)[1]:5.2f}", end="")
    print(f"   percentile 99 {percentile_threshold(histogram(batches, 2**-7), 2**-7, 99):5.2f}", end="")
    print("   least squares", *(f"{b} bits {best_range(everything, b)[1]:5.2f}" for b in (8, 6, 3)))

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 2

# %% [markdown]
# ## Question 5: Fold a batch normalization (2 points)
#
# An engine has no batch normalizations. `fold_norm` returns the tuple `(weight, bias)` of one layer that does what a layer
# and the normalization behind it do:
#
# $$ \frac{(w x + b) - \mu}{\sqrt{\sigma^2 + \mathrm{eps}}}\,\gamma + \beta = w' x + b' . $$
#
# - `weight` is that of a linear layer, (outputs, inputs), or of a convolution of one, two or three dimensions:
#   (outputs, inputs, positions ...). The outputs come first in all of them.
# - `bias` has one number for each output, or is `None`. The new bias is always an array of shape (outputs,).
# - $\gamma$ may be negative. All inputs stay as they are.
# - Raise `ValueError` if `gamma`, `beta`, `mean` or `var` does not have the shape (outputs,), or if one of `var` is
#   negative.

# %% [raw]
# # BEGIN SOLUTION


# %%
def fold_norm(weight, bias, gamma, beta, mean, var, eps):
    """Weight and bias of one layer in place of a layer and its batch normalization: a tuple of two arrays."""
    # BEGIN SOLUTION
    outputs = weight.shape[0]
    for name, values in (("gamma", gamma), ("beta", beta), ("mean", mean), ("var", var)):
        if np.shape(values) != (outputs,):
            raise ValueError(f"{name}: need shape {(outputs,)}, got {np.shape(values)}")
    if np.min(var) < 0:
        raise ValueError("var: need no negative numbers")
    factor = gamma / np.sqrt(var + eps)
    bias = np.zeros(outputs) if bias is None else bias
    return weight * factor.reshape(-1, *[1] * (weight.ndim - 1)), (bias - mean) * factor + beta
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: a linear layer with bias
points: 0.5
failure_message: >-
  The factor is gamma over the root of var plus eps, eps under the root. It multiplies row j of the weight, and
  the old bias too, from which the mean is taken first. See "Where did the batch normalization go?" in the
  chapter Integer layers.
"""  # END TEST CONFIG
import numpy as np


def check(w, b):
    assert isinstance(w, np.ndarray) and w.shape == (2, 3), repr(w)
    assert isinstance(b, np.ndarray) and b.shape == (2,), repr(b)
    assert np.allclose(w, [[1, 2, 3], [8, 10, 12]]) and np.allclose(b, [-1.5, 3]), (w, b)


weight, bias = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]), np.array([1.0, 2.0])
gamma, beta = np.array([2.0, 6.0]), np.array([0.5, 1.0])
mean, var = np.array([3.0, 1.0]), np.array([3.0, 8.0])
check(*fold_norm(weight, bias, gamma, beta, mean, var, 1.0))

# %%
""" # BEGIN TEST CONFIG
name: no bias
points: 0.25
failure_message: >-
  A layer without bias has a bias after the fold, as if the old one were zero.
"""  # END TEST CONFIG
import numpy as np


def check(w, b):
    assert isinstance(w, np.ndarray) and w.shape == (2, 2), repr(w)
    assert isinstance(b, np.ndarray) and b.shape == (2,), repr(b)
    assert np.allclose(w, [[0.5, 0], [0, 1]]) and np.allclose(b, [-1, 2]), (w, b)


gamma, beta = np.array([1.0, 3.0]), np.array([0.0, 1.0])
mean, var = np.array([2.0, -1.0]), np.array([4.0, 9.0])
check(*fold_norm(np.eye(2), None, gamma, beta, mean, var, 0.0))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(5)
for shape in ((3, 3, 3), (3, 4, 3, 3), (4, 4), (3, 2, 2, 3, 2), (1, 6)):
    n = shape[0]
    weight, bias, beta, mean = (
        rng.standard_normal(shape),
        rng.standard_normal(n),
        rng.standard_normal(n),
        rng.standard_normal(n),
    )
    gamma, var = 1 + rng.random(n), 0.5 + rng.random(n)
    w, b = fold_norm(weight, bias, gamma, beta, mean, var, 1e-5)
    assert isinstance(w, np.ndarray) and w.shape == shape and isinstance(b, np.ndarray) and b.shape == (n,)
    for j in range(n):
        patch = rng.standard_normal(shape[1:])
        y = (np.sum(weight[j] * patch) + bias[j] - mean[j]) / np.sqrt(var[j] + 1e-5) * gamma[j] + beta[j]
        assert abs(np.sum(w[j] * patch) + b[j] - y) < 1e-9

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

w, b = fold_norm(
    np.array([[1.0], [1.0]]),
    None,
    np.array([-2.0, 0.0]),
    np.array([1.0, 7.0]),
    np.array([3.0, 5.0]),
    np.array([0.0, 4.0]),
    0.25,
)
assert isinstance(w, np.ndarray) and w.shape == (2, 1) and isinstance(b, np.ndarray) and b.shape == (2,)
assert np.allclose(w, [[-4], [0]]) and np.allclose(b, [13, 7])

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

two, three = np.ones(2), np.ones(3)
w, b = fold_norm(np.ones((2, 3)), None, two, two, two, two, 0.0)
assert isinstance(w, np.ndarray) and w.shape == (2, 3) and np.allclose(w, 1)
assert isinstance(b, np.ndarray) and b.shape == (2,) and np.allclose(b, 0)
for bad in (
    (np.ones((2, 3)), None, three, two, two, two, 0.1),
    (np.ones((2, 3)), None, two, two, two, np.ones(1), 0.1),
    (np.ones((2, 3, 1)), two, two, np.array(1.0), two, two, 0.1),
    (np.ones((2, 3)), two, two, two, three, two, 0.1),
    (np.ones((2, 3)), two, two, two, two, np.array([1.0, -0.5]), 0.1),
):
    try:
        fold_norm(*bad)
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
# name: q6
# points: 3

# %% [markdown]
# ## Question 6: Fold a network, all of it (3 points)
#
# `fold_network(net)` takes a list of steps as above and returns a new list with the same function, in which every step is
# `"linear"` or `"relu"`. Each linear step of the result has a `bias` that is an array. The steps come in any order: do not
# count on a ReLU behind each norm, nor on a linear step before it. A norm with no linear step directly before it becomes a
# linear step of its own, with one weight for each channel on the diagonal. Of linear, norm, norm the second norm may go
# into the same linear step or become one of its own; the tests compare what such lists compute. Use `fold_norm`.
#
# The list that comes in, and its arrays, stay as they are. Raise `ValueError` for a step of another kind.
#
# Then run the cell behind the question: is the folded network of the digits still the same function? And what may the
# colleague have done? Question 8 asks for it.

# %% [raw]
# # BEGIN SOLUTION


# %%
def fold_network(net):
    """The same function as a list of linear steps with bias and ReLUs: a list of dicts."""
    # BEGIN SOLUTION
    out = []
    for step in net:
        if step["kind"] == "linear":
            bias = step["bias"]
            bias = np.zeros(len(step["weight"])) if bias is None else bias
            out.append({"kind": "linear", "weight": step["weight"], "bias": bias})
        elif step["kind"] == "norm":
            before = {"weight": np.eye(len(step["gamma"])), "bias": np.zeros(len(step["gamma"]))}
            if out and out[-1]["kind"] == "linear":
                before = out.pop()
            numbers = [step[name] for name in ("gamma", "beta", "mean", "var", "eps")]
            weight, bias = fold_norm(before["weight"], before["bias"], *numbers)
            out.append({"kind": "linear", "weight": weight, "bias": bias})
        elif step["kind"] == "relu":
            out.append({"kind": "relu"})
        else:
            raise ValueError(f"net: need linear, norm or relu, got {step['kind']}")
    return out
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: linear, norm, ReLU, linear
points: 0.75
failure_message: >-
  The result should be a list of the steps linear, relu, linear, the first with the norm folded in, and each
  with a bias. See "Fold, trace, fuse" in the chapter Post-training quantization.
"""  # END TEST CONFIG
import numpy as np

ones = np.ones(2)
norm = {"kind": "norm", "gamma": np.array([3.0, 1.0]), "beta": ones, "mean": ones, "var": 4 * ones, "eps": 0.0}
net = [{"kind": "linear", "weight": 2 * np.eye(2), "bias": None}, norm, {"kind": "relu"}]
net += [{"kind": "linear", "weight": np.array([[5.0, 6.0]]), "bias": None}]


def check(f):
    assert isinstance(f, list) and all(isinstance(step, dict) for step in f), f
    assert [step["kind"] for step in f] == ["linear", "relu", "linear"], f
    assert isinstance(f[0]["weight"], np.ndarray) and np.allclose(f[0]["weight"], [[3, 0], [0, 1]]), f[0]
    assert isinstance(f[0]["bias"], np.ndarray) and np.allclose(f[0]["bias"], [-0.5, 0.5]), f[0]
    assert isinstance(f[2]["bias"], np.ndarray) and f[2]["bias"].shape == (1,), f[2]
    assert np.allclose(f[2]["weight"], [[5, 6]]), f[2]


check(fold_network(net))

# %%
""" # BEGIN TEST CONFIG
name: linear, ReLU, norm
points: 0.25
failure_message: >-
  A norm behind a ReLU can't go into the linear step before the ReLU, and it must not get lost. The result
  should be linear, relu, linear, with one weight for each channel on the diagonal of the last.
"""  # END TEST CONFIG
import numpy as np

ones = np.ones(2)
norm = {"kind": "norm", "gamma": np.array([3.0, 1.0]), "beta": ones, "mean": ones, "var": 4 * ones, "eps": 0.0}
net = [{"kind": "linear", "weight": 2 * np.eye(2), "bias": None}, {"kind": "relu"}, norm]


def check(f):
    assert isinstance(f, list) and [step["kind"] for step in f] == ["linear", "relu", "linear"], f
    assert np.allclose(f[0]["weight"], [[2, 0], [0, 2]]) and np.allclose(f[0]["bias"], [0, 0]), f[0]
    assert np.allclose(f[2]["weight"], [[1.5, 0], [0, 0.5]]) and np.allclose(f[2]["bias"], [-0.5, 0.5]), f[2]


check(fold_network(net))

# %%
""" # BEGIN TEST CONFIG
points: 0.75
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(21)
net = []
for i, (inputs, outputs) in enumerate(((4, 5), (5, 3))):
    net += [{"kind": "relu"}] if i else []
    net += [{"kind": "linear", "weight": rng.standard_normal((outputs, inputs)), "bias": None}]
    net += [{"kind": "norm", "gamma": 1 + rng.random(outputs), "beta": rng.standard_normal(outputs)}]
    net[-1] |= {"mean": rng.standard_normal(outputs), "var": 0.5 + rng.random(outputs), "eps": 0.0}
f = fold_network(net)
assert isinstance(f, list) and [step["kind"] for step in f] == ["linear", "relu", "linear"]
x = rng.standard_normal((6, 4))
y = x @ net[0]["weight"].T
y = np.maximum((y - net[1]["mean"]) / np.sqrt(net[1]["var"]) * net[1]["gamma"] + net[1]["beta"], 0)
y = y @ net[3]["weight"].T
y = (y - net[4]["mean"]) / np.sqrt(net[4]["var"]) * net[4]["gamma"] + net[4]["beta"]
got = np.maximum(x @ f[0]["weight"].T + f[0]["bias"], 0) @ f[2]["weight"].T + f[2]["bias"]
assert isinstance(got, np.ndarray) and got.shape == y.shape and np.allclose(got, y, rtol=1e-9, atol=1e-9)

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(23)
weight, beta, mean, root = (
    rng.standard_normal((5, 4)),
    rng.standard_normal(5),
    rng.standard_normal(5),
    1 + rng.random(5),
)
norm = {"kind": "norm", "gamma": np.arange(1.0, 6), "beta": beta, "mean": mean, "var": root**2, "eps": 0.0}
f = fold_network([{"kind": "linear", "weight": weight, "bias": None}, {"kind": "relu"}, norm])
assert isinstance(f, list) and [step["kind"] for step in f] == ["linear", "relu", "linear"]
x = rng.standard_normal((6, 4))
y = (np.maximum(x @ weight.T, 0) - mean) / root * np.arange(1.0, 6) + beta
got = np.maximum(x @ f[0]["weight"].T + f[0]["bias"], 0) @ f[2]["weight"].T + f[2]["bias"]
assert isinstance(got, np.ndarray) and got.shape == y.shape and np.allclose(got, y, rtol=1e-9, atol=1e-9)

# %%
""" # BEGIN TEST CONFIG
points: 0.75
hidden: true
"""  # END TEST CONFIG
import numpy as np

rng = np.random.default_rng(22)


def some_norm(n):
    return {
        "kind": "norm",
        "gamma": 1 + rng.random(n),
        "beta": rng.standard_normal(n),
        "mean": rng.standard_normal(n),
        "var": 0.5 + rng.random(n),
        "eps": 0.0,
    }


def linear(n, k):
    return {"kind": "linear", "weight": rng.standard_normal((n, k)), "bias": np.zeros(n)}


first = some_norm(4)
first["beta"] = first["mean"] * first["gamma"] / np.sqrt(first["var"])
for net in (
    [some_norm(3), linear(4, 3), {"kind": "relu"}, linear(2, 4)],
    [linear(4, 3), {"kind": "relu"}, some_norm(4), linear(2, 4)],
    [linear(4, 3), first, some_norm(4), {"kind": "relu"}],
):
    f = fold_network(net)
    assert isinstance(f, list) and all(isinstance(step, dict) and step["kind"] in ("linear", "relu") for step in f)
    x = rng.standard_normal((7, 3))
    y, got = x, x
    for step in net:
        if step["kind"] == "linear":
            y = y @ step["weight"].T + step["bias"]
        elif step["kind"] == "norm":
            y = (y - step["mean"]) / np.sqrt(step["var"]) * step["gamma"] + step["beta"]
        else:
            y = np.maximum(y, 0)
    for step in f:
        got = got @ step["weight"].T + step["bias"] if step["kind"] == "linear" else np.maximum(got, 0)
    assert isinstance(got, np.ndarray) and got.shape == y.shape and np.allclose(got, y, rtol=1e-9, atol=1e-9)

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

f = fold_network([{"kind": "linear", "weight": np.eye(2), "bias": np.ones(2)}, {"kind": "relu"}])
assert isinstance(f, list) and [step["kind"] for step in f] == ["linear", "relu"]
try:
    fold_network([{"kind": "linear", "weight": np.eye(2), "bias": None}, {"kind": "pool"}])
except ValueError:
    pass
else:
    assert False, "need a ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% tags=["raises-exception"]
folded = fold_network(network)
print([step["kind"] for step in folded])
difference = np.abs(forward(folded, images[test]) - forward(network, images[test])).max()
print("folded equals the network:", bool(difference < 1e-9))

# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 3

# %% [markdown]
# ## Question 7: Where the quantizers sit (3 points)
#
# Take a folded list: only linear steps with bias, and ReLUs. It starts with a linear step, and no ReLU follows a ReLU.
# Linear steps may follow each other, and the last step may be either. A value that integers read, or that leaves the network, has
# one quantizer: the input, and what each linear step gives, **behind the ReLU if one follows directly**. In the chapter
# *Post-training quantization*, section "Fold, trace, fuse", these are the rows of the table with `own` in the column
# `quantizer`.
#
# - `observed(net, x)` runs the list in float and returns the list of these values, the input first.
# - `run_quantized(net, x, weight_grids, value_grids)` returns what the quantized network gives. A grid is a tuple
#   `(low, high, bits)` for `on_grid`, or `None`: that tensor stays in float. `weight_grids` has one for each linear step,
#   `value_grids` one for each array of `observed`. Each weight goes on its grid, each of the values on its own, and the
#   network computes on with them. Biases stay in float; their INT32 steps are so fine that we leave them out here.
#
# `run_quantized` raises `ValueError` if there are too many or too few grids.

# %% [raw]
# # BEGIN SOLUTION


# %%
def observed(net, x):
    """The input, and what each linear step gives, behind its ReLU: a list of arrays."""
    # BEGIN SOLUTION
    values = [x]
    for step in net:
        if step["kind"] == "linear":
            values.append(values[-1] @ step["weight"].T + step["bias"])
        else:
            values[-1] = np.maximum(values[-1], 0.0)
    return values
    # END SOLUTION


def run_quantized(net, x, weight_grids, value_grids):
    """What the network gives for x with weights and values on grids: an array."""
    # BEGIN SOLUTION
    layers = sum(step["kind"] == "linear" for step in net)
    if len(weight_grids) != layers or len(value_grids) != layers + 1:
        raise ValueError(f"need {layers} weight_grids, {layers + 1} value_grids")

    def put(t, grid):
        return t if grid is None else on_grid(t, *grid)

    done = 0
    for i, step in enumerate(net):
        if step["kind"] == "relu":
            x = np.maximum(x, 0.0)
            continue
        if not done:
            x = put(x, value_grids[0])
        x = x @ put(step["weight"], weight_grids[done]).T + step["bias"]
        done += 1
        if net[i + 1 : i + 2] and net[i + 1]["kind"] == "relu":
            x = np.maximum(x, 0.0)
        x = put(x, value_grids[done])
    return x
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the places
points: 0.75
failure_message: >-
  observed should give the input, and then one array for each linear step. Where a ReLU follows, take the value
  behind it. See "Where does a quantizer sit?" in the chapter Post-training quantization.
"""  # END TEST CONFIG
import numpy as np

net = [
    {"kind": "linear", "weight": np.array([[1.0, -1.0], [2.0, 1.0]]), "bias": np.array([0.0, 1.0])},
    {"kind": "relu"},
]
net += [{"kind": "linear", "weight": np.array([[1.0, -1.0]]), "bias": np.array([0.5])}]


def check(seen):
    assert isinstance(seen, list) and all(isinstance(v, np.ndarray) for v in seen), seen
    assert [v.tolist() for v in seen] == [[[1.0, 2.0]], [[0.0, 5.0]], [[-4.5]]], seen


check(observed(net, np.array([[1.0, 2.0]])))

# %%
""" # BEGIN TEST CONFIG
name: one layer on coarse grids
points: 0.75
failure_message: >-
  With grids of step 1, the weights become 1 and -2 and the input 3 and 1; the result, 1.25, is put on the grid
  of step 0.5. Put each tensor on its grid before it is used. See "Run it: fake quantization" in the chapter
  Post-training quantization.
"""  # END TEST CONFIG
import numpy as np

net = [{"kind": "linear", "weight": np.array([[1.25, -1.75]]), "bias": np.array([0.25])}]
y = run_quantized(net, np.array([[3.25, 0.75]]), [(-4.0, 3.0, 3)], [(0.0, 7.0, 3), (-1.0, 2.5, 3)])
assert isinstance(y, np.ndarray) and y.shape == (1, 1) and abs(y[0, 0] - 1.0) < 1e-9, repr(y)

# %%
""" # BEGIN TEST CONFIG
points: 0.75
hidden: true
"""  # END TEST CONFIG
import numpy as np


def put(t, grid):
    if grid is None:
        return t
    low, high, bits = grid
    s = (high - low) / (2**bits - 1)
    z = np.rint(-low / s)
    return s * (np.clip(np.rint(t / s) + z, 0, 2**bits - 1) - z)


rng = np.random.default_rng(33)
net = []
for n, k in ((6, 5), (4, 6), (3, 4)):
    net += [{"kind": "linear", "weight": rng.standard_normal((n, k)), "bias": rng.standard_normal(n)}, {"kind": "relu"}]
net = net[:-1]
x = rng.standard_normal((9, 5))
for bits in (3, 4, 8):
    wg = [(-2.3, 2.1, bits), (-2.0, 1.9, bits + 1), (-1.7, 2.2, bits)]
    vg = [(-2.0, 2.4, bits), (0.0, 5.1, bits), (0.0, 7.3, bits + 1), (-6.2, 4.3, bits)]
    y = put(x, vg[0])
    y = put(np.maximum(y @ put(net[0]["weight"], wg[0]).T + net[0]["bias"], 0), vg[1])
    y = put(np.maximum(y @ put(net[2]["weight"], wg[1]).T + net[2]["bias"], 0), vg[2])
    y = put(y @ put(net[4]["weight"], wg[2]).T + net[4]["bias"], vg[3])
    got = run_quantized(net, x, wg, vg)
    assert isinstance(got, np.ndarray) and got.shape == (9, 3) and np.mean(np.abs(got - y) > 1e-6) < 0.01
    y = put(x @ net[0]["weight"].T + net[0]["bias"], None)
    y = put(np.maximum(y, 0), vg[1]) @ put(net[2]["weight"], wg[1]).T + net[2]["bias"]
    y = np.maximum(y, 0) @ net[4]["weight"].T + net[4]["bias"]
    got = run_quantized(net, x, [None, wg[1], None], [None, vg[1], None, None])
    assert isinstance(got, np.ndarray) and got.shape == (9, 3) and np.mean(np.abs(got - y) > 1e-6) < 0.01

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import numpy as np

a = {"kind": "linear", "weight": np.array([[1.0], [-1.0]]), "bias": np.array([0.0, 0.5])}
b = {"kind": "linear", "weight": np.array([[2.0, 1.0]]), "bias": np.array([-1.0])}
x = np.array([[1.0], [-2.0]])
seen = observed([a, b, {"kind": "relu"}], x)
assert isinstance(seen, list) and all(isinstance(v, np.ndarray) for v in seen)
assert [v.tolist() for v in seen] == [[[1.0], [-2.0]], [[1.0, -0.5], [-2.0, 2.5]], [[0.5], [0.0]]]
got = run_quantized([a, b, {"kind": "relu"}], x, [None, None], [None, (-3.0, 4.0, 3), (0.0, 3.0, 2)])
assert isinstance(got, np.ndarray) and got.shape == (2, 1) and got.tolist() == [[1.0], [0.0]]

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
import numpy as np

net = [{"kind": "linear", "weight": np.eye(2), "bias": np.zeros(2)}]
y = run_quantized(net, np.ones((1, 2)), [None], [None, None])
assert isinstance(y, np.ndarray) and y.tolist() == [[1.0, 1.0]]
for weights, values in (([None], [None]), ([], [None, None]), ([None, None], [None, None]), ([None], [None] * 3)):
    try:
        run_quantized(net, np.ones((1, 2)), weights, values)
    except ValueError:
        pass
    else:
        assert False, "need a ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ## All of it, on digits
#
# Your functions now quantize the network. The ranges of the values come from the training images. The first table has
# all layers alike, on the test images. The second has weights of three bits with min-max in one layer at a time, the
# rest in float, on the validation images.

# %% tags=["raises-exception"]
RANGES = {"min-max": lambda t, bits: minmax_range([t]), "least squares": best_range}


def grids(tensors, bits, rule):
    """One grid for each tensor, None where bits has None."""
    return [None if b is None else (*RANGES[rule](t, b), b) for t, b in zip(tensors, bits, strict=True)]


layers = [step["weight"] for step in folded if step["kind"] == "linear"]
values = observed(folded, images[training[:256]])
print("right answers in percent, test images")
for rule in RANGES:
    print(f"  {rule:14}", end="")
    for bits in (8, 4, 3):
        wg, vg = grids(layers, [bits] * 3, rule), grids(values, [bits] * 4, rule)
        right = accuracy(run_quantized(folded, images[test], wg, vg), test)
        print(f"   W{bits}A{bits} {right:5.1f}", end="")
    print()
print("weights of one layer at 3 bits, validation images")
for i, weight in enumerate(layers):
    wg = grids(layers, [3 if j == i else None for j in range(3)], "min-max")
    right = accuracy(run_quantized(folded, images[validation], wg, [None] * 4), validation)
    print(f"  layer {i}: {weight.size:5} weights, {right:5.1f} %")

# %% [raw]
# # BEGIN QUESTION
# name: q8
# points: 2

# %% [markdown]
# ## Question 8: Two verdicts (2 points)
#
# **The colleague.** The program looked for a linear step, a norm and a ReLU in a row, and made two steps of these three.
# It left out every norm that it had not folded.
#
# - `forgotten`: the index in `network`, counted from 0, of the step that was lost. Try what the network is worth without
#   it.
#
# **Which layer keeps eight bits?** This is another network. All its weights have 4 bits now. You may give one layer its
# 8 bits back, and the model may grow by at most 3000 bytes. Each layer alone at 4 bits, the others in float, was measured
# as in the chapter *Selective quantization*:
#
# | layer | weights | damage, nats |
# |---|---|---|
# | A | 12000 | 0.310 |
# | B | 4800 | 0.120 |
# | C | 900 | 0.085 |
# | D | 5600 | 0.047 |
#
# - `keep`: the letter of the layer that you give back, if the damage is to be as small as possible.
# - `more_bytes`: how many bytes its weights take more than before. Scales and biases stay.
# - `measured_on`: on which images are such damages measured? `"A"`: those that set the ranges. `"B"`: validation images
#   that set nothing else. `"C"`: test images, since it is their accuracy that counts.

# %% [raw]
# # BEGIN SOLUTION

# %%
forgotten = 7  # SOLUTION
keep = "B"  # SOLUTION
more_bytes = 2400  # SOLUTION
measured_on = "B"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
name: the form of the answers
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: >-
  forgotten is a whole number, keep is "A", "B", "C" or "D", more_bytes a number, measured_on "A", "B" or "C".
"""  # END TEST CONFIG
assert isinstance(forgotten, int) and isinstance(more_bytes, (int, float)), (forgotten, more_bytes)
assert keep in ("A", "B", "C", "D") and measured_on in ("A", "B", "C"), (keep, measured_on)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(forgotten, int) and forgotten == 7

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(keep, str) and keep == "B"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(more_bytes, (int, float)) and more_bytes == 2400

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(measured_on, str) and measured_on == "B"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION
