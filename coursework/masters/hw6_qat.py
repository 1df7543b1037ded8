# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [raw]
# # ASSIGNMENT CONFIG
# name: hw6_qat
# export_cell: false
# solutions_pdf: false
# template_pdf: false
# check_all_cell: true
# generate:
#   pdf: false

# %% [markdown]
# # Homework 6: Straight through
#
# About 105 minutes, after the chapters *Training with quantization* and *Learned quantization parameters*. 20 points.
#
# A network with 94 right answers in a hundred is rounded to two bits. It keeps about 65. So you train the rounded network, by gradient descent, as ever. You wait. After an hour it still has 65, to the last digit, and no learning rate helps.
#
# In this homework you find out why it stands still, write the estimator that sets it going, and train a small network on scikit-learn's handwritten digits with it. At the end you judge what the training was worth, and that is harder than it looks.
#
# **You may use** Python's own modules, torch and scikit-learn's digits. You may not use `torch.ao`, `torch.quantize_per_tensor`, `torch.fake_quantize_*` (with or without an underscore in front), or another package for quantization.
#
# **Throughout**, rounding is to the nearest integer, ties to even, as `torch.round` does it. A grid has a scale $s > 0$ and the codes $q_{\min}, \ldots, q_{\max}$, in code `low` and `high`. There is no zero point: code $q$ stands for $s\,q$. The cells between the questions use your functions, so they end with an error until you have written these; *Run All Cells* goes on behind them.
#
# `grader.check` runs the public tests. They carry about a third of the points, and of predictions and letters they check the form alone. The other tests are hidden.

# %%
import matplotlib.pyplot as plt
import torch
from sklearn.datasets import load_digits
from torch.nn import functional

_ = torch.set_num_threads(1)

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 2

# %% [markdown]
# ## Question 1: Standing still (2 points)
#
# Three weights, $w = (0.62,\ -1.3,\ 2.2)$, go on a grid of step $s = 0.5$ that has no ends: $\hat w = s\,\mathrm{round}(w/s)$. The loss is $\mathcal{L} = \frac12 \sum_i (\hat w_i - 1)^2$.
#
# **Predict, with paper and pencil, before you run anything.** Set two lists of three numbers:
#
# - `true_gradient`: the derivatives of $\mathcal{L}$ with respect to $w_1, w_2, w_3$, as they truly are;
# - `ste_gradient`: the same as the straight-through estimator gives them.
#
# Then write `average_slope(w, d, s)`. For each weight of the tensor `w` (float64, any shape) it gives the slope of $\hat w$ over the distance from $w - d$ to $w + d$: how much the rounded value rises, over $2d$. The result is a tensor of the shape of `w`. A `d` or an `s` that is not above zero raises a `ValueError`.

# %% [raw]
# # BEGIN SOLUTION

# %%
true_gradient = [0.0, 0.0, 0.0]  # SOLUTION
ste_gradient = [-0.5, -2.5, 1.0]  # SOLUTION


def average_slope(w, d, s):
    """How steep s * round(w / s) is on average from w - d to w + d; a tensor of the shape of w."""
    # BEGIN SOLUTION
    if d <= 0 or s <= 0:
        raise ValueError(f"d and s: need numbers above 0, got {d} and {s}")
    return s * (torch.round((w + d) / s) - torch.round((w - d) / s)) / (2 * d)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: Both predictions are lists of three numbers.
"""  # END TEST CONFIG
for answer in (true_gradient, ste_gradient):
    assert isinstance(answer, list) and len(answer) == 3, answer
    assert all(isinstance(number, int | float) for number in answer), answer

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: From 0.25 to 0.75 on a grid of step 1, a value is first rounded down, then up, so it rises by a whole step. Divide the rise by 2 d. See Training with quantization, "A lie that works".
"""  # END TEST CONFIG
import torch

w = torch.tensor([0.5, 0.1], dtype=torch.float64)
y = average_slope(w, 0.25, 1.0)
assert isinstance(y, torch.Tensor) and y.shape == (2,) and (y - torch.tensor([2.0, 0.0])).abs().max() < 1e-6, y

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(true_gradient, list) and len(true_gradient) == 3
assert all(isinstance(number, int | float) and number == 0 for number in true_gradient)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(ste_gradient, list) and len(ste_gradient) == 3
assert all(isinstance(number, int | float) for number in ste_gradient)
assert all(abs(a - b) < 1e-6 for a, b in zip(ste_gradient, (-0.5, -2.5, 1.0), strict=True))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

w = torch.tensor([[0.13, -0.31], [1.07, -2.44]], dtype=torch.float64)
y = average_slope(w, 0.15, 0.3)
assert isinstance(y, torch.Tensor) and y.shape == (2, 2)
assert torch.allclose(y.double(), torch.ones(2, 2, dtype=torch.float64))
y = average_slope(w, 0.375, 0.25)
assert torch.allclose(y.double(), torch.ones(2, 2, dtype=torch.float64))
y = average_slope(w, 0.002, 0.25)
true = torch.tensor([[0.0, 0.0], [0.0, 0.0]], dtype=torch.float64)
assert torch.allclose(y.double(), true)
y = average_slope(torch.tensor([0.12, 0.5], dtype=torch.float64), 0.01, 0.25)
assert torch.allclose(y.double(), torch.tensor([12.5, 0.0], dtype=torch.float64))
for d, s in ((0.0, 1.0), (-0.1, 1.0), (0.1, 0.0), (0.1, -1.0)):
    try:
        average_slope(w, d, s)
    except ValueError:
        pass
    else:
        assert False, "a d or an s that is not above zero needs a ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Now look at other weights. Over a short distance the slope is nearly always 0, and rarely very large. Over half a step to both sides it is 1 wherever the weight is, except exactly on a code: there both ends are ties, which go to even codes, and the slope is 0 or 2. That 1 is the slope which the estimator takes.

# %% tags=["raises-exception"]
w = torch.linspace(-2, 2, 401, dtype=torch.float64) + 0.0013  # none of them on a code
for d in (0.01, 0.1, 0.25, 0.5):
    slopes = average_slope(w, d, 1.0)
    print(f"d = {d}: slopes from {slopes.min():.2f} to {slopes.max():.2f}")

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 4

# %% [markdown]
# ## Question 2: The estimator (4 points)
#
# Write the straight-through estimator as a `torch.autograd.Function` with the name `FakeQuantize`:
#
# - forward: $y = s\,\mathrm{clip}(\mathrm{round}(v/s),\ q_{\min},\ q_{\max})$;
# - backward: the gradient that comes from above where $q_{\min} \le v/s \le q_{\max}$, and 0 elsewhere. Both **edges count as inside**. The place of $v$ decides, before it is rounded. `scale`, `low` and `high` get `None`.
#
# `v` is a tensor of any shape and of float32 or float64, the others are plain numbers. Compute $v/s$ in the dtype of `v`; where a test has values on an edge or a tie, that is exact.
#
# Then write `value_and_gradient(v, scale, low, high, upstream)` with it. `upstream` has the shape of `v`, and is the derivative of some loss with respect to `y`. The function returns two tensors of the shape and the dtype of `v`, both detached: the rounded values, and the derivative of that loss with respect to `v` as your estimator gives it. Let autograd compute the second one, so that your `backward` is tried. The function must also work if `v` does not require a gradient. It raises a `ValueError` if `scale` is not above zero, or if `low` is not below `high`.

# %% [raw]
# # BEGIN SOLUTION


# %%
class FakeQuantize(torch.autograd.Function):
    """Rounds and clips on the way forward; goes straight through on the way back."""

    @staticmethod
    def forward(ctx, v, scale, low, high):
        """The values on the grid: a tensor like v."""
        # BEGIN SOLUTION
        t = v / scale
        ctx.save_for_backward((t >= low) & (t <= high))
        return scale * torch.clamp(torch.round(t), low, high)
        # END SOLUTION

    @staticmethod
    def backward(ctx, gradient):
        """What goes on to v, scale, low and high."""
        # BEGIN SOLUTION
        (inside,) = ctx.saved_tensors
        return gradient * inside, None, None, None
        # END SOLUTION


def value_and_gradient(v, scale, low, high, upstream):
    """The values on the grid, and the gradient of v; two tensors like v."""
    # BEGIN SOLUTION
    if not scale > 0:
        raise ValueError(f"scale: need a number above 0, got {scale}")
    if not low < high:
        raise ValueError(f"low and high: need low < high, got {low} and {high}")
    leaf = v.detach().clone().requires_grad_()
    y = FakeQuantize.apply(leaf, scale, low, high)
    (gradient,) = torch.autograd.grad(y, leaf, upstream)
    return y.detach(), gradient
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 0.6 is 1.2 steps of 0.5, so it goes to code 1, which stands for 0.5. The scale is the size of a step. If the error is about a number of gradients, backward must return 4 values, one for each argument of forward behind ctx.
"""  # END TEST CONFIG
import torch

y, gradient = value_and_gradient(torch.tensor([0.6, -0.4, 0.1]), 0.5, -2, 1, torch.ones(3))
assert isinstance(y, torch.Tensor) and y.dtype == torch.float32 and y.tolist() == [0.5, -0.5, 0.0], y

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Inside the range the incoming gradient comes back as it is, whatever it is. See Training with quantization, "A lie that works".
"""  # END TEST CONFIG
import torch

upstream = torch.tensor([3.0, -2.0, 0.25])
y, gradient = value_and_gradient(torch.tensor([0.4, -0.4, 0.1]), 0.5, -2, 1, upstream)
assert isinstance(gradient, torch.Tensor) and gradient.tolist() == [3.0, -2.0, 0.25], gradient

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Beyond the last code the value is held at that code, and nothing comes back. See Training with quantization, "Where the estimator is zero".
"""  # END TEST CONFIG
import torch

y, gradient = value_and_gradient(torch.tensor([5.0, -5.0]), 0.5, -2, 1, torch.ones(2))
assert isinstance(y, torch.Tensor) and y.tolist() == [0.5, -1.0], y
assert isinstance(gradient, torch.Tensor) and gradient.tolist() == [0.0, 0.0], gradient

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

v = torch.tensor([0.5, -1.0, 0.5625, -1.0625, 0.4375, -0.9375])
y, gradient = value_and_gradient(v, 0.5, -2, 1, torch.full((6,), 4.0))
assert isinstance(gradient, torch.Tensor) and gradient.shape == (6,)
assert gradient.tolist() == [4.0, 4.0, 0.0, 0.0, 4.0, 4.0]
assert y.tolist() == [0.5, -1.0, 0.5, -1.0, 0.5, -1.0]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

v = torch.tensor([0.125, 0.375, 0.625, -0.125, -0.375, -0.625], dtype=torch.float64)
y, gradient = value_and_gradient(v, 0.25, -8, 7, torch.ones(6, dtype=torch.float64))
assert isinstance(y, torch.Tensor) and y.shape == (6,)
assert torch.equal(y, torch.tensor([0.0, 0.5, 0.5, 0.0, -0.5, -0.5], dtype=torch.float64))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

generator = torch.Generator().manual_seed(3)
v = 0.25 * torch.randint(-40, 40, (2, 3, 4), generator=generator).double() + 0.03125
upstream = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
y, gradient = value_and_gradient(v, 0.5, -8, 7, upstream)
assert isinstance(y, torch.Tensor) and isinstance(gradient, torch.Tensor)
assert y.shape == (2, 3, 4) and gradient.shape == (2, 3, 4)
assert y.dtype == torch.float64 and gradient.dtype == torch.float64
assert torch.equal(y, 0.5 * (v / 0.5).round().clamp(-8, 7))
assert torch.equal(gradient, torch.where((v >= -4.0) & (v <= 3.5), upstream, 0.0))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

v = torch.tensor([-0.3, -0.1, 0.0, 0.7, 2.2, 3.2])
y, gradient = value_and_gradient(v, 1.0, 0, 3, torch.ones(6))
assert isinstance(y, torch.Tensor) and isinstance(gradient, torch.Tensor)
assert y.tolist() == [0.0, 0.0, 0.0, 1.0, 2.0, 3.0]
assert gradient.tolist() == [0.0, 0.0, 1.0, 1.0, 1.0, 0.0]
y, gradient = value_and_gradient(torch.tensor([-1.2, 0.6, 1.3]), 2.0, -1, 1, torch.ones(3))
assert y.tolist() == [-2.0, 0.0, 2.0] and gradient.tolist() == [1.0, 1.0, 1.0]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

v = torch.ones(2)
y, gradient = value_and_gradient(v, 1.0, -2, 3, v)
assert isinstance(y, torch.Tensor) and y.tolist() == [1.0, 1.0]
assert isinstance(gradient, torch.Tensor) and gradient.shape == (2,)
for scale, low, high in ((0.0, -2, 1), (-0.5, -2, 1), (0.5, 1, -2), (0.5, 1, 1)):
    try:
        value_and_gradient(v, scale, low, high, v)
    except ValueError:
        pass
    else:
        assert False, "needs a ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# The value is a staircase, and the gradient, for an incoming gradient of 1, a box that ends at the last codes:

# %% tags=["raises-exception"]
v = torch.linspace(-2, 2, 801)
y, gradient = value_and_gradient(v, 0.5, -2, 1, torch.ones(801))
plt.plot(v, y, label="rounded value")
plt.plot(v, gradient, label="gradient")
plt.xlabel("v")
_ = plt.legend()

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 3

# %% [markdown]
# ## Question 3: One weight by hand (3 points)
#
# Train one weight on a grid of step $s = 0.5$ with the codes $-4, \ldots, 3$. The loss is $\mathcal{L} = \frac12 (\hat w - t)^2$ with the wish $t = 0.3$. The weight starts at $w = 0.9$ and the learning rate is $\eta = 0.4$. Each update is $w \leftarrow w - \eta\, \partial\mathcal{L}/\partial w$, with the estimator's derivative, which is taken at the rounded weight and moves the float weight.
#
# **Predict, with paper and pencil**, and set:
#
# - `codes_by_hand`: the list of the codes of $\hat w$ (not their values), before each of the first nine updates: nine integers.
# - `codes_without_master`: the same list if there is no float weight. The weight itself is rounded to the grid at the start, and after each update again, and the rounded weight is all that is kept.
# - `share_upper`: now take the wish $t = 1.1$ in place of 0.3, with a float weight again and a small constant rate. Over many updates, which share of them finds the weight at code 3? A number from 0 to 1.
#
# Then write `train_weight(w, wish, scale, low, high, rate, updates)`, which trains one weight with `FakeQuantize` and a float64 master weight from the start `w`. It returns the list of the codes before each update, as plain integers.

# %% [raw]
# # BEGIN SOLUTION

# %%
codes_by_hand = [2, 1, 1, 1, 1, 1, 0, 1, 1]  # SOLUTION
codes_without_master = [2, 1, 1, 1, 1, 1, 1, 1, 1]  # SOLUTION
share_upper = 0.2  # SOLUTION


def train_weight(w, wish, scale, low, high, rate, updates):
    """The codes of one weight before each update: a list of integers."""
    # BEGIN SOLUTION
    w = torch.tensor(w, dtype=torch.float64)
    codes = []
    for _ in range(updates):
        w.requires_grad_()
        value = FakeQuantize.apply(w, scale, low, high)
        codes.append(round(value.item() / scale))
        (gradient,) = torch.autograd.grad((value - wish).square() / 2, w)
        w = (w - rate * gradient).detach()
    return codes
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: Two lists of nine integers and a number from 0 to 1.
"""  # END TEST CONFIG
for answer in (codes_by_hand, codes_without_master):
    assert isinstance(answer, list) and len(answer) == 9, answer
    assert all(isinstance(code, int) for code in answer), answer
assert isinstance(share_upper, int | float) and 0 <= share_upper <= 1, share_upper

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: One weight from 0.2 with the wish 0.7, as in Training with quantization, "One weight by hand". The list has the code before each update, as a plain integer.
"""  # END TEST CONFIG
codes = train_weight(0.2, 0.7, 1.0, -8, 7, 0.25, 4)
assert isinstance(codes, list) and all(isinstance(code, int) for code in codes) and codes == [0, 0, 1, 0], codes

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: On a grid of step 2 the code 1 stands for 2. The loss compares the value, not the code, with the wish.
"""  # END TEST CONFIG
codes = train_weight(0.0, 2.2, 2.0, -2, 1, 0.25, 6)
assert isinstance(codes, list) and all(isinstance(code, int) for code in codes) and codes == [0, 0, 1, 1, 1, 1], codes

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(codes_by_hand, list) and codes_by_hand == [2, 1, 1, 1, 1, 1, 0, 1, 1]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(codes_without_master, list)
assert codes_without_master == [2, 1, 1, 1, 1, 1, 1, 1, 1]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(share_upper, int | float) and not isinstance(share_upper, bool)
assert abs(share_upper - 0.2) < 1e-6

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
codes = train_weight(0.0, -0.6, 0.5, -4, 3, 0.01, 2000)
assert isinstance(codes, list) and len(codes) == 2000 and set(codes[-1000:]) == {-1, -2}
assert 150 < codes[-1000:].count(-2) < 250
codes = train_weight(3.0, 0.0, 1.0, -2, 1, 0.1, 50)
assert isinstance(codes, list) and codes == [1] * 50
codes = train_weight(0.9, -9.0, 1.0, -2, 1, 0.03, 40)
assert isinstance(codes, list) and codes[0] == 1 and codes[-1] == -2
assert train_weight(0.9, -9.0, 1.0, -2, 1, 0.03, 0) == []

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# A longer training, of another weight, towards a wish between two codes:

# %% tags=["raises-exception"]
codes = train_weight(-0.6, -0.35, 0.25, -8, 7, 0.05, 200)
plt.step(range(200), codes, where="mid")
plt.xlabel("update")
_ = plt.ylabel("code")

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 3

# %% [markdown]
# ## Question 4: The step learns too (3 points)
#
# The weights can now move on the grid. LSQ lets the grid move as well (Esser et al., *Learned step size quantization*, 2020; in the chapter *Learned quantization parameters* the sections "The derivative of a step", "How large should its updates be?" and "Where to start"). With $Q_P = q_{\max}$ and $v$ a tensor of $N$ values, the slope of the paper is
#
# $$\frac{\partial y}{\partial s} = \begin{cases} q_{\min} & v/s \le q_{\min} \\ \mathrm{round}(v/s) - v/s & q_{\min} < v/s < q_{\max} \\ q_{\max} & v/s \ge q_{\max}\end{cases}$$
#
# for each value. A value **on an edge has the slope of the outside** here, unlike in Question 2; where a test has values on an edge, $v/s$ is exact. All values share one step, so their contributions are added up, each times its incoming gradient. The sum is multiplied by the paper's gradient scale, $g = 1/\sqrt{N\,Q_P}$.
#
# Write
#
# - `step_gradient(v, scale, low, high, upstream)`: the gradient of the step, with the factor $g$, as a plain float. `v` and `upstream` are tensors of one shape, any shape. A `scale` or a `high` that is not above zero raises a `ValueError`.
# - `first_step(v, high)`: the paper's first step, $s_0 = 2\,\overline{\lvert v\rvert} / \sqrt{Q_P}$, as a plain float. A `high` that is not above zero raises a `ValueError`.

# %% [raw]
# # BEGIN SOLUTION


# %%
def step_gradient(v, scale, low, high, upstream):
    """LSQ's gradient of the step, times 1 / sqrt(N Q_P): a float."""
    # BEGIN SOLUTION
    if not scale > 0 or not high > 0:
        raise ValueError(f"scale and high: need numbers above 0, got {scale} and {high}")
    t = v / scale
    inside = (t > low) & (t < high)
    slope = torch.where(inside, torch.round(t) - t, torch.clamp(t, low, high))
    return float((upstream * slope).sum() / (v.numel() * high) ** 0.5)
    # END SOLUTION


def first_step(v, high):
    """LSQ's step at the start: a float."""
    # BEGIN SOLUTION
    if not high > 0:
        raise ValueError(f"high: need a number above 0, got {high}")
    return float(2 * v.abs().mean() / high**0.5)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Four values inside, 0.25 of a step above or below a code. The slope is the rounding error in steps, round(v / s) - v / s; g is 1/4 here. See Learned quantization parameters, "The derivative of a step" and "How large should its updates be?".
"""  # END TEST CONFIG
import torch

v = 0.5 * torch.tensor([0.75, 1.75, -0.75, 2.25])
y = step_gradient(v, 0.5, -4, 4, torch.tensor([1.0, 1.0, 1.0, 2.0]))
assert isinstance(y, float) and abs(y - (0.25 + 0.25 - 0.25 - 0.5) / 4) < 1e-6, y

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: The mean of the magnitudes is 2, so with a Q_P of 4 the first step is 2. See Learned quantization parameters, "Where to start".
"""  # END TEST CONFIG
import torch

y = first_step(torch.tensor([1.0, -3.0, 2.0, -2.0]), 4)
assert isinstance(y, float) and abs(y - 2.0) < 1e-6, y

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

one = torch.ones(1, dtype=torch.float64)
for place, slope in ((3.0, 3.0), (3.3, 3.0), (9.0, 3.0), (-4.0, -4.0), (-4.3, -4.0), (2.75, 0.25), (-3.75, -0.25)):
    y = step_gradient(0.5 * place * one, 0.5, -4, 3, one)
    assert isinstance(y, float) and abs(y - slope / 3**0.5) < 1e-6
y = step_gradient(-0.2 * one, 0.5, 0, 3, one)
assert isinstance(y, float) and abs(y) < 1e-9

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

generator = torch.Generator().manual_seed(5)
v = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
upstream = torch.randn(5, 4, 3, generator=generator, dtype=torch.float64)
for scale, low, high in ((0.3, -8, 7), (0.9, -2, 1), (0.2, 0, 15)):
    t = v / scale
    delta = torch.round(t) - t
    slope = torch.where(t <= low, float(low), torch.where(t >= high, float(high), delta))
    y = step_gradient(v, scale, low, high, upstream)
    assert isinstance(y, float)
    assert abs(y - float((slope * upstream).sum()) / (60 * high) ** 0.5) < 1e-6

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

v = torch.tensor([[0.5, -1.5], [0.0, 4.0]], dtype=torch.float64)
for high, true in ((1, 3.0), (7, 3.0 / 7**0.5), (127, 3.0 / 127**0.5)):
    y = first_step(v, high)
    assert isinstance(y, float) and abs(y - true) < 1e-6

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

v = torch.ones(3)
for y in (step_gradient(v, 0.8, -4, 4, v), first_step(v, 4)):
    assert isinstance(y, float) and y != 0
for scale, high in ((0.0, 1), (-0.5, 1), (0.5, 0), (0.5, -1)):
    try:
        step_gradient(v, scale, -2, high, v)
    except ValueError:
        pass
    else:
        assert False, "needs a ValueError"
for high in (0, -1):
    try:
        first_step(v, high)
    except ValueError:
        pass
    else:
        assert False, "needs a ValueError"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Go down the slope of the squared error between values and their rounded values, from two starts. Both find the same step. (The rate is divided by $\sqrt N$: the mean divides by $N$, and $g$ has done half of that.)

# %% tags=["raises-exception"]
values = torch.randn(2000, generator=torch.Generator().manual_seed(1))
for s in (first_step(values, 3), 0.2):
    print(f"from a step of {s:.2f}", end=" ")
    for _ in range(400):
        y, _gradient = value_and_gradient(values, s, -4, 3, torch.ones(2000))
        s -= 0.1 * step_gradient(values, s, -4, 3, 2 * (y - values)) / 2000**0.5
    print(f"to {s:.2f}")

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 2

# %% [markdown]
# ## Question 5: One bit (2 points)
#
# How far down can one go? With one bit a weight keeps its sign alone. Each output then has one scale $\alpha$, the mean magnitude of its weights, and $\hat w = \alpha\,\mathrm{sign}(w)$ with $\mathrm{sign}(0) = +1$.
#
# Write `binarize(w)`. The first axis of `w` is that of the outputs, and the others, one or more, are its inputs: (outputs, inputs) for a linear layer, (outputs, channels, rows, columns) for a convolution. It returns two tensors: the signs, $-1$ or $+1$, in the shape and dtype of `w`, and the scales, of shape (outputs,).
#
# Then, **with paper and pencil**: the filter $(3, -1, 0, 2)$ becomes $\alpha\,\mathrm{sign}(w)$ with the best $\alpha$. Set `left_over` to the squared error that remains, $\sum_i (w_i - \hat w_i)^2$.

# %% [raw]
# # BEGIN SOLUTION


# %%
def binarize(w):
    """Signs like w, and one scale for each output."""
    # BEGIN SOLUTION
    signs = torch.where(w >= 0, 1.0, -1.0).to(w.dtype)
    return signs, w.abs().flatten(1).mean(1)
    # END SOLUTION


left_over = 5.0  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: left_over is one number.
"""  # END TEST CONFIG
assert isinstance(left_over, int | float), left_over

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Each row has its own scale, the mean of the magnitudes in it.
"""  # END TEST CONFIG
import torch


def check(signs, alpha):
    assert isinstance(signs, torch.Tensor) and signs.tolist() == [[1.0, -1.0], [-1.0, -1.0]], signs
    assert isinstance(alpha, torch.Tensor) and alpha.tolist() == [1.0, 3.0], alpha


check(*binarize(torch.tensor([[0.5, -1.5], [-2.0, -4.0]])))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

signs, alpha = binarize(torch.tensor([[0.0, -3.0, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64))
assert isinstance(signs, torch.Tensor) and isinstance(alpha, torch.Tensor)
assert signs.dtype == torch.float64
assert signs.tolist() == [[1.0, -1.0, 1.0], [1.0, 1.0, 1.0]]
assert alpha.shape == (2,) and alpha.tolist() == [1.0, 0.0]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

w = torch.randn(3, 2, 5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
signs, alpha = binarize(w)
assert isinstance(signs, torch.Tensor) and signs.shape == (3, 2, 5, 4)
assert torch.equal(signs, w.sign())
assert isinstance(alpha, torch.Tensor) and alpha.shape == (3,)
assert torch.allclose(alpha, w.abs().mean((1, 2, 3)))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(left_over, int | float) and not isinstance(left_over, bool)
assert abs(left_over - 5) < 1e-6

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 3

# %% [markdown]
# ## Question 6: A network on a grid (3 points)
#
# Now a whole network: 64 pixels, a hidden layer with ReLU, 10 scores. Its parameters are a list of four tensors, `[w1, b1, w2, b2]`, of the shapes (hidden, inputs), (hidden,), (outputs, hidden), (outputs,).
#
# Write `scores(x, parameters, scales, low, high)`: the scores of the rows of `x`, of shape (rows, outputs). `scales` is a list of two numbers, the steps for `w1` and `w2`, and both weights go through `FakeQuantize` on the codes `low` to `high`. Biases and values stay in float. If `scales` is `None`, nothing is rounded.
#
# Then complete the loop in `train`. It is plain gradient descent on all images at once, with a rate that falls to zero. Add what is missing: the gradients of the loss, and the update by the rate `now`. The list that it returns has the float master weights, detached, and the list that it was given stays as it was.

# %% [raw]
# # BEGIN SOLUTION


# %%
def scores(x, parameters, scales, low, high):
    """The scores of the network: a tensor of shape (rows, outputs)."""
    # BEGIN SOLUTION
    w1, b1, w2, b2 = parameters
    if scales is not None:
        w1 = FakeQuantize.apply(w1, scales[0], low, high)
        w2 = FakeQuantize.apply(w2, scales[1], low, high)
    return functional.relu(x @ w1.T + b1) @ w2.T + b2
    # END SOLUTION


def train(parameters, x, labels, scales, low, high, updates, rate):
    """The parameters after so many updates: a list of four tensors."""
    parameters = [p.detach().clone() for p in parameters]
    for k in range(updates):
        now = rate * (1 - k / updates)
        leaves = [p.requires_grad_() for p in parameters]
        loss = functional.cross_entropy(scores(x, leaves, scales, low, high), labels)
        # BEGIN SOLUTION
        gradients = torch.autograd.grad(loss, leaves)
        parameters = [(p - now * g).detach() for p, g in zip(leaves, gradients, strict=True)]
        # END SOLUTION
    return [p.detach() for p in parameters]


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: Without scales it is x times w1 transposed, plus b1, a ReLU, then times w2 transposed, plus b2. No softmax at the end.
"""  # END TEST CONFIG
import torch

parameters = [torch.eye(2), torch.tensor([0.0, 1.0]), torch.tensor([[1.0, 2.0], [0.5, -1.0]]), torch.tensor([0.0, 3.0])]
y = scores(torch.tensor([[1.0, 2.0], [-1.0, -2.0]]), parameters, None, -2, 1)
assert isinstance(y, torch.Tensor) and y.tolist() == [[7.0, 0.5], [0.0, 3.0]], y

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: With scales, the two weights are rounded, each with its own step. The biases and the values are not.
"""  # END TEST CONFIG
import torch

parameters = [
    torch.tensor([[0.6], [0.2]]),
    torch.tensor([0.125, 0.125]),
    torch.tensor([[1.2, 5.0]]),
    torch.tensor([0.25]),
]
y = scores(torch.tensor([[3.0]]), parameters, [0.5, 1.0], -2, 1)
assert isinstance(y, torch.Tensor) and y.tolist() == [[2.0]], y

# %%
""" # BEGIN TEST CONFIG
points: 0.25
failure_message: One update in float, of the rate 0.5, moves each parameter by half of its gradient, downhill.
"""  # END TEST CONFIG
import torch


def tensors(lists):
    return [torch.tensor(numbers, dtype=torch.float64) for numbers in lists]


def check(after, wanted):
    assert isinstance(after, list) and len(after) == 4, after
    for found, numbers in zip(after, tensors(wanted), strict=True):
        assert isinstance(found, torch.Tensor) and found.shape == numbers.shape, found
        assert (found - numbers).abs().max() < 1e-4, found


w1, b1 = [[0.5, -1.0], [1.0, 0.25], [-0.75, 0.5]], [0.25, -0.5, 0.75]
w2, b2 = [[1.0, -0.5, 0.75], [-0.25, 0.5, -1.0]], [0.0, 0.5]
x, labels = tensors([[[1.0, 0.5], [-1.0, 0.75], [0.25, -2.0], [2.0, 1.0]]])[0], torch.tensor([0, 1, 1, 0])
start = tensors([w1, b1, w2, b2])
w1, b1 = [[0.82974, -0.52902], [0.7074, 0.1037], [-0.41437, 0.41033]], [0.33513, -0.68334, 0.67366]
w2, b2 = [[0.77214, -0.26249, 0.54782], [-0.02214, 0.26249, -0.79782]], [-0.0496, 0.5496]
check(train(start, x, labels, None, -2, 1, 1, 0.5), [w1, b1, w2, b2])

# %%
""" # BEGIN TEST CONFIG
points: 0.25
failure_message: Three updates in float are not those of three gradients. Each update takes the gradient of its own loss alone (PyTorch adds to .grad what backward finds, until it is cleared), times the rate now, which falls.
"""  # END TEST CONFIG
import torch


def tensors(lists):
    return [torch.tensor(numbers, dtype=torch.float64) for numbers in lists]


def check(after, wanted):
    assert isinstance(after, list) and len(after) == 4, after
    for found, numbers in zip(after, tensors(wanted), strict=True):
        assert isinstance(found, torch.Tensor) and found.shape == numbers.shape, found
        assert (found - numbers).abs().max() < 1e-4, found


w1, b1 = [[0.5, -1.0], [1.0, 0.25], [-0.75, 0.5]], [0.25, -0.5, 0.75]
w2, b2 = [[1.0, -0.5, 0.75], [-0.25, 0.5, -1.0]], [0.0, 0.5]
x, labels = tensors([[[1.0, 0.5], [-1.0, 0.75], [0.25, -2.0], [2.0, 1.0]]])[0], torch.tensor([0, 1, 1, 0])
start = tensors([w1, b1, w2, b2])
w1, b1 = [[0.91265, -0.35534], [0.6493, 0.07465], [-0.12915, 0.40139]], [0.33781, -0.71965, 0.66044]
w2, b2 = [[0.75349, -0.22636, 0.46052], [-0.00349, 0.22636, -0.71052]], [-0.13927, 0.63927]
check(train(start, x, labels, None, -2, 1, 3, 0.5), [w1, b1, w2, b2])

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch

generator = torch.Generator().manual_seed(4)
shapes = ((5, 7), (5,), (3, 5), (3,))
parameters = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
x = torch.randn(9, 7, generator=generator, dtype=torch.float64)
w1, b1, w2, b2 = parameters
for (one, two), low, high in (((0.3, 0.7), -4, 3), ((0.9, 0.4), -2, 1), ((0.8, 1.1), -1, 1)):
    a = one * (w1 / one).round().clamp(low, high)
    b = two * (w2 / two).round().clamp(low, high)
    true = (x @ a.T + b1).clamp(min=0) @ b.T + b2
    y = scores(x, parameters, [one, two], low, high)
    assert isinstance(y, torch.Tensor) and y.shape == (9, 3)
    assert torch.allclose(y, true)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch
from torch.nn import functional

generator = torch.Generator().manual_seed(2)
shapes = ((4, 3), (4,), (2, 4), (2,))
start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
labels = torch.tensor([0, 1, 1, 0, 1, 0])

scales, low, high, updates, rate = [0.6, 0.8], -2, 1, 5, 0.4
reference = [p.clone() for p in start]
for k in range(updates):
    w1, b1, w2, b2 = [p.requires_grad_() for p in reference]
    a = (scales[0] * (w1 / scales[0]).detach().round().clamp(low, high)).requires_grad_()
    b = (scales[1] * (w2 / scales[1]).detach().round().clamp(low, high)).requires_grad_()
    loss = functional.cross_entropy(functional.relu(x @ a.T + b1) @ b.T + b2, labels)
    da, db1, db, db2 = torch.autograd.grad(loss, (a, b1, b, b2))
    da = da * ((w1 / scales[0] >= low) & (w1 / scales[0] <= high))
    db = db * ((w2 / scales[1] >= low) & (w2 / scales[1] <= high))
    now = rate * (1 - k / updates)
    pairs = zip((w1, b1, w2, b2), (da, db1, db, db2), strict=True)
    reference = [(p - now * g).detach() for p, g in pairs]
after = train(start, x, labels, scales, low, high, updates, rate)
assert isinstance(after, list) and len(after) == 4
assert all(isinstance(p, torch.Tensor) and p.dtype == torch.float64 for p in after)
assert all(torch.allclose(p, r) for p, r in zip(after, reference, strict=True))

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
import torch
from torch.nn import functional

generator = torch.Generator().manual_seed(3)
shapes = ((4, 3), (4,), (2, 4), (2,))
start = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
x = torch.randn(6, 3, generator=generator, dtype=torch.float64)
labels = torch.tensor([0, 1, 1, 0, 1, 0])

after = train(start, x, labels, [0.5, 0.5], -2, 1, 300, 0.5)
assert isinstance(after, list) and len(after) == 4
assert all(isinstance(p, torch.Tensor) for p in after)


def loss_of(w1, b1, w2, b2):
    a, b = (0.5 * (w / 0.5).round().clamp(-2, 1) for w in (w1, w2))
    return float(functional.cross_entropy(functional.relu(x @ a.T + b1) @ b.T + b2, labels))


assert loss_of(*after) < 0.5 * loss_of(*start)
steps = after[0] / 0.5
assert float((steps - steps.round()).abs().max()) > 0.05

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# ## Handwritten digits
#
# 1797 images of 8 x 8 pixels, 1000 to learn from, the others to judge by. The cell below has the start of a small network, the search for a step (by the squared error of a weight, as in calibration), and the percentage of right answers.

# %%
LOW, HIGH = -2, 1  # two bits
UPDATES, RATE = 150, 0.5

digits = load_digits()
order = torch.randperm(1797, generator=torch.Generator().manual_seed(3))
images = torch.tensor(digits.data / 16, dtype=torch.float32)[order]
labels = torch.tensor(digits.target)[order]
train_images, train_labels = images[:1000], labels[:1000]
test_images, test_labels = images[1000:], labels[1000:]


def start_parameters():
    """A network with 16 hidden values, before any training."""
    generator = torch.Generator().manual_seed(3)
    w1 = torch.randn(16, 64, generator=generator) * (2 / 64) ** 0.5
    w2 = torch.randn(10, 16, generator=generator) * (2 / 16) ** 0.5
    return [w1, torch.zeros(16), w2, torch.zeros(10)]


def best_step(w):
    """The step of the least squared error, of sixty."""
    steps = (w.abs().max() * torch.linspace(0.02, 1.2, 60)).tolist()
    errors = [(FakeQuantize.apply(w, s, LOW, HIGH) - w).square().sum() for s in steps]
    return steps[int(torch.stack(errors).argmin())]


def right(parameters, scales):
    """Percent of right answers on the test images."""
    found = scores(test_images, parameters, scales, LOW, HIGH).argmax(1)
    return 100 * float((found == test_labels).double().mean())


# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 3

# %% [markdown]
# ## Question 7: What was it worth? (3 points)
#
# Train a network in float from `start_parameters()` on the training images, for `UPDATES` updates at `RATE`. Find the steps of its two weights with `best_step`. From this network, train two others, each for `UPDATES` more updates at `RATE`: one on the two-bit grid with these steps, and one in float, the **control**. Set `accuracy` to a dictionary with the percentages of right answers on the test images, under four names:
#
# - `"float"`: the float network after the first training;
# - `"ptq"`: that network on the grid, without further training;
# - `"qat"`: the network that was trained on the grid, on the grid;
# - `"control"`: the control, in float.
#
# All of it takes a second or two. Look at your four numbers before you go on.
#
# Then three short answers. Set `cost`, a number, and two letters, `better` and `eight_bits`.
#
# **`cost`**. Somebody else's table: float 93.0, PTQ 70.0, QAT 92.5, control 95.5, in percent, all without error. How many percentage points does rounding still cost after training, at equal training?
#
# **`better`**. A colleague starts from a float network with 94.4 % and has 94.6 % after training on the two-bit grid. "So the grid makes networks better than float: rounding is a regularizer." What do you reply?
#
# - `"A"` Right: with four values for each weight there are far fewer networks to choose from, and the fewer are possible, the better the one that is found generalizes.
# - `"B"` It can't be: a network of two bits never has more right answers than the float network that it was made from. Look for a bug in the training or in the count.
# - `"C"` Compare with a float network that had as many updates, and with the spread of several trainings.
# - `"D"` Compare with PTQ: the difference to it is what training on the grid adds, and it is what the claim is about.
#
# **`eight_bits`**. At eight bits PTQ loses 0.05 points against float. Five trainings with other seeds differ by 0.3 points. The team asks for QAT, to get the rest back. What do you advise?
#
# - `"A"` Do QAT: it is never worse than PTQ, the code is written, and every bit of accuracy counts for somebody.
# - `"B"` Leave it: what could be won is smaller than the spread of trainings.
# - `"C"` Do QAT, but with a tenth of the updates, since the loss is small.
# - `"D"` Leave it: the straight-through estimator is exact at no width, so it does harm where the grid is fine.

# %% [raw]
# # BEGIN SOLUTION

# %%
# BEGIN SOLUTION NO PROMPT
first = train(start_parameters(), train_images, train_labels, None, LOW, HIGH, UPDATES, RATE)
steps = [best_step(first[0]), best_step(first[2])]
on_grid = train(first, train_images, train_labels, steps, LOW, HIGH, UPDATES, RATE)
control = train(first, train_images, train_labels, None, LOW, HIGH, UPDATES, RATE)
accuracy = {
    "float": right(first, None),
    "ptq": right(first, steps),
    "qat": right(on_grid, steps),
    "control": right(control, None),
}
print(accuracy)
cost = 3.0
better = "C"
eight_bits = "B"
# END SOLUTION
""" # BEGIN PROMPT
accuracy = {"float": ..., "ptq": ..., "qat": ..., "control": ...}
cost = ...
better = ...
eight_bits = ...
"""  # END PROMPT

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: The dictionary has the four names, each with a percentage from 0 to 100.
"""  # END TEST CONFIG
names = ("float", "ptq", "qat", "control")
assert isinstance(accuracy, dict) and all(isinstance(accuracy.get(name), int | float) for name in names), accuracy

assert all(1 < accuracy[name] <= 100 for name in names), accuracy

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: cost is a number, the two others are one of the letters A, B, C, D, in quotes.
"""  # END TEST CONFIG
assert isinstance(cost, int | float), cost
for letter in (better, eight_bits):
    assert isinstance(letter, str) and letter in ("A", "B", "C", "D"), letter

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: The float network after its first training has over 90 percent, and rounding it to two bits costs more than ten points. Is the first training in float, and are the steps those of its weights?
"""  # END TEST CONFIG
names = ("float", "ptq", "qat", "control")
assert isinstance(accuracy, dict) and all(isinstance(accuracy.get(name), int | float) for name in names), accuracy

assert 90 < accuracy["float"] < 98 and 40 < accuracy["ptq"] < accuracy["float"] - 10, accuracy

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
names = ("float", "ptq", "qat", "control")
assert isinstance(accuracy, dict) and all(isinstance(accuracy.get(name), int | float) for name in names)

assert accuracy["qat"] > accuracy["ptq"] + 10 and accuracy["qat"] > 88

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
names = ("float", "ptq", "qat", "control")
assert isinstance(accuracy, dict) and all(isinstance(accuracy.get(name), int | float) for name in names)

assert accuracy["control"] > accuracy["float"] + 0.5 and accuracy["control"] > accuracy["qat"] + 0.3
assert accuracy["control"] < 99

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(cost, int | float) and not isinstance(cost, bool) and abs(cost - 3) < 1e-6

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(better, str) and better == "C"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(eight_bits, str) and eight_bits == "B"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# And one bit? Here is the float network after its first training with both weights replaced by yours of Question 5, without further training:

# %% tags=["raises-exception"]
w1, b1, w2, b2 = train(start_parameters(), train_images, train_labels, None, LOW, HIGH, UPDATES, RATE)
one_bit = [signs * alpha[:, None] for signs, alpha in (binarize(w1), binarize(w2))]
print(f"one bit, not trained: {right([one_bit[0], b1, one_bit[1], b2], None):.1f} %")
