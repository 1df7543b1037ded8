# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [raw]
# # ASSIGNMENT CONFIG
# name: hw2_counting
# export_cell: false
# solutions_pdf: false
# template_pdf: false
# check_all_cell: true
# generate:
#   pdf: false

# %% [markdown]
# # Homework 2: What does a layer cost?
#
# About 100 minutes, after the chapters *Counting parameters and operations* and *Fewer bytes, less time*. 20 points.
#
# A team replaces a 3 × 3 convolution of 64 to 64 channels on 56 × 56 positions by two layers: a depthwise 3 × 3 and a
# 1 × 1. The multiply-accumulates fall from 115.6 to 14.7 million, nearly eightfold. On their chip, with the best program
# there can be, the layer then takes 40 percent *longer* than before.
#
# How can that be? At the end of this homework your own functions answer it, for this layer and for a whole network. You
# count parameters and MACs (questions 1 to 3), explain what other counters print (4), add the bytes (5), predict (6 and 7),
# and put all of it together (8).
#
# **Rules.** You may use Python with its own modules, and numpy. No PyTorch and no program that counts. Functions get and
# return Python numbers, tuples, lists and dicts; counts are of type `int`. Bad input raises `ValueError` where the question
# says so. The public tests, which you see, carry about a third of the points; the hidden ones try more cases of the same kind.
# Of predictions and letters the public tests check the form alone, not whether they are right. Cells that print something
# behind a question call your functions, and end with an error until you have written them; *Run All Cells* goes on behind
# them. Your functions could compute most predictions too. Predict first all the same: where you were wrong is where you
# learn.
#
# **Shapes.** A shape is a tuple. An image has the shape `(batch, channels, height, width)`. A kernel is a pair
# `(height, width)`. Stride, padding and dilation are one number for both directions.

# %%
import math

import numpy as np

# %% [raw]
# # BEGIN QUESTION
# name: q1
# points: 2

# %% [markdown]
# **Question 1 (2 points).** *How many places?* A convolution moves a window along an axis. The axis has `size` pixels, and
# `padding` pixels more at *each* end. The window has `kernel` taps. With a `dilation` of 2 there is one unused pixel between
# two neighbouring taps, with 3 there are two, and so on; 1 is the ordinary window. The window starts at the first padded
# pixel and moves on by `stride`, as long as all its taps are inside.
#
# Write `output_size`, the number of places, an `int`. Raise `ValueError` if `size`, `kernel`, `stride` or `dilation` is
# below 1, if `padding` is below 0, or if the window fits nowhere.

# %% [raw]
# # BEGIN SOLUTION


# %%
def output_size(size, kernel, stride=1, padding=0, dilation=1):
    """In how many places the window fits along one axis."""
    # BEGIN SOLUTION
    if min(size, kernel, stride, dilation) < 1 or padding < 0:
        raise ValueError("need sizes of at least 1 and a padding of at least 0")
    room = size + 2 * padding - (dilation * (kernel - 1) + 1)
    if room < 0:
        raise ValueError("the window does not fit")
    return room // stride + 1
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: A window of 3 on 4 pixels without padding fits in 2 places, and one of 1 in all. See Counting parameters and operations, "One layer, by hand". Is the result an int?
"""  # END TEST CONFIG
found = [output_size(4, 3), output_size(8, 3), output_size(7, 1)]
assert all(type(n) is int for n in found), found
assert found == [2, 6, 7], found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: The first layer of AlexNet (224 pixels, window 11, stride 4, padding 2 at each end) has 55 places. A last step that would leave the image is not taken. See Counting parameters and operations, the first of the "Exercises".
"""  # END TEST CONFIG
found = [output_size(224, 11, 4, 2), output_size(8, 3, stride=2)]
assert found == [55, 3], found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
for size, kernel, stride, padding, dilation in [
    (10, 3, 1, 0, 2),
    (10, 3, 1, 2, 2),
    (17, 5, 3, 1, 3),
    (9, 2, 2, 0, 4),
    (11, 4, 5, 3, 1),
    (5, 5, 1, 0, 1),
    (6, 3, 7, 0, 2),
]:
    taps = [range(i, i + kernel * dilation, dilation) for i in range(0, size + 2 * padding, stride)]
    fits = sum(t[-1] < size + 2 * padding for t in taps)
    found = output_size(size, kernel, stride, padding, dilation)
    assert type(found) is int and found == fits

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
for arguments in [(4, 5), (4, 3, 1, 0, 2), (0, 1), (8, 0), (8, 3, 0), (8, 3, 1, -1), (8, 3, 1, 0, 0)]:
    try:
        output_size(*arguments)
    except ValueError:
        pass
    else:
        assert False, "no ValueError"
assert output_size(5, 3, 1, 0, 2) == 1

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q2
# points: 3.5

# %% [markdown]
# **Question 2 (3.5 points).** *Parameters and MACs.* Write two functions. Both return the pair `(params, macs)` of `int`.
#
# - `conv_cost(in_shape, out_shape, kernel, groups=1, bias=True)`: a convolution from images of `in_shape` to images of
#   `out_shape`. Both shapes are given, so you don't need question 1. With `groups` the channels are cut into parts that do
#   not see each other. Raise `ValueError` if `groups` is below 1 or does not divide both numbers of channels, or if the two
#   batches differ.
# - `linear_cost(in_shape, outputs, bias=True)`: a fully connected layer. The *last* axis of `in_shape` is the inputs; all
#   axes before it count rows, as in `(batch, tokens, inputs)`.
#
# The parameters have the biases in them, if there are any. MACs are of the products alone: adding a bias is not counted.

# %% [raw]
# # BEGIN SOLUTION


# %%
def conv_cost(in_shape, out_shape, kernel, groups=1, bias=True):
    """Parameters (biases included) and MACs of a convolution."""
    # BEGIN SOLUTION
    batch, channels, _, _ = in_shape
    out_batch, outputs, height, width = out_shape
    if groups < 1 or channels % groups or outputs % groups:
        raise ValueError("groups must divide the channels on both sides")
    if batch != out_batch:
        raise ValueError("the batches differ")
    n = channels // groups * kernel[0] * kernel[1]
    return outputs * n + (outputs if bias else 0), batch * height * width * outputs * n
    # END SOLUTION


def linear_cost(in_shape, outputs, bias=True):
    """Parameters (biases included) and MACs of a fully connected layer."""
    # BEGIN SOLUTION
    *rows, inputs = in_shape
    return outputs * inputs + (outputs if bias else 0), math.prod(rows) * outputs * inputs
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: A 3 x 3 convolution of 3 to 8 channels with 10 x 10 places has 224 parameters and 21,600 MACs. Each output channel has one bias. Both results are Python ints. See Counting parameters and operations, the equations for MACs and params in "One layer, by hand".
"""  # END TEST CONFIG
found = conv_cost((1, 3, 10, 10), (1, 8, 10, 10), (3, 3))
assert isinstance(found, tuple) and len(found) == 2 and all(type(n) is int for n in found), found
assert found == (224, 21600), found
found = conv_cost((1, 3, 10, 10), (1, 8, 10, 10), (3, 3), bias=False)
assert found == (216, 21600), found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: A fully connected layer of 8 inputs and 10 outputs has 90 parameters and, for one row, 80 MACs. More rows need more MACs and no more parameters. Both results are Python ints. See Counting parameters and operations, the table in "One layer, by hand".
"""  # END TEST CONFIG
found = linear_cost((1, 8), 10)
assert isinstance(found, tuple) and len(found) == 2 and all(type(n) is int for n in found), found
assert found == (90, 80), found
found = linear_cost((6, 8), 10, bias=False)
assert found == (80, 480), found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: In a depthwise convolution each filter reads a single channel. With 4 channels, 4 groups and 5 x 5 places, n is 9. See Counting parameters and operations, what "One layer, by hand" says of groups.
"""  # END TEST CONFIG
found = conv_cost((1, 4, 5, 5), (1, 4, 5, 5), (3, 3), groups=4, bias=False)
assert found == (36, 900), found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert conv_cost((1, 5, 30, 12), (1, 7, 10, 6), (3, 2)) == (7 * 30 + 7, 60 * 7 * 30)
assert conv_cost((1, 64, 56, 56), (1, 32, 28, 28), (1, 1), bias=False) == (2048, 784 * 2048)
assert conv_cost((4, 3, 9, 9), (4, 6, 4, 4), (5, 3)) == (6 * 45 + 6, 4 * 16 * 6 * 45)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert conv_cost((2, 12, 8, 8), (2, 18, 8, 8), (3, 3), 3) == (18 * 36 + 18, 2 * 64 * 18 * 36)
assert conv_cost((1, 6, 7, 7), (1, 12, 7, 7), (5, 5), groups=6, bias=True) == (312, 49 * 12 * 25)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert linear_cost((2, 5, 6), 4) == (28, 240)
assert linear_cost((3, 2, 5, 7), 2, False) == (14, 30 * 14)
assert linear_cost((11,), 3) == (36, 33)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
for inside, outside, groups in [
    ((1, 6, 5, 5), (1, 8, 5, 5), 4),
    ((1, 8, 5, 5), (1, 6, 5, 5), 4),
    ((1, 4, 5, 5), (1, 4, 5, 5), 0),
    ((2, 4, 5, 5), (1, 4, 5, 5), 1),
]:
    try:
        conv_cost(inside, outside, (3, 3), groups)
    except ValueError:
        pass
    else:
        assert False, "no ValueError"
assert conv_cost((1, 8, 5, 5), (1, 12, 5, 5), (3, 3), 4)[1] == 25 * 12 * 18

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q3
# points: 1.5

# %% [markdown]
# **Question 3 (1.5 points).** *The other way round.* A transposed convolution multiplies each *input* by a window of
# weights and adds the result to the outputs there. The windows of neighbouring inputs are `stride` apart. At each end of an
# axis `padding` outputs are cut off when all is done, so that there are `(size - 1) * stride + kernel - 2 * padding` left.
# What is cut off has been computed and counts. With `groups` the channels of both sides are cut into so many parts, and an
# input reaches the outputs of its own part alone.
#
# Write `transposed_cost`, which returns `(params, macs, out_shape)`. `out_shape` is a tuple of four `int`. Dilation is 1,
# and you may rely on good input.

# %% [raw]
# # BEGIN SOLUTION


# %%
def transposed_cost(in_shape, out_channels, kernel, stride=1, padding=0, groups=1, bias=True):
    """Parameters (biases included), MACs and shape of the output of a transposed convolution."""
    # BEGIN SOLUTION
    batch, channels, height, width = in_shape
    weights = channels * (out_channels // groups) * kernel[0] * kernel[1]
    sizes = [(n - 1) * stride + k - 2 * padding for n, k in zip((height, width), kernel, strict=True)]
    return weights + (out_channels if bias else 0), batch * height * width * weights, (batch, out_channels, *sizes)
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: A transposed convolution of 4 to 6 channels, 2 x 2, stride 2, no bias, on 10 x 10 has 96 parameters and 9600 MACs. See Counting parameters and operations, the table in "One layer, by hand"; which positions does its row count?
"""  # END TEST CONFIG
found = transposed_cost((1, 4, 10, 10), 6, (2, 2), stride=2, bias=False)
assert isinstance(found, tuple) and len(found) == 3, found
assert type(found[0]) is int and found[0] == 96, found
assert type(found[1]) is int and found[1] == 9600, found
assert isinstance(found[2], tuple) and found[2] == (1, 6, 20, 20), found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert transposed_cost((1, 4, 10, 10), 6, (2, 2), 2)[0] == 102
assert transposed_cost((2, 5, 7, 3), 3, (3, 3))[:2] == (138, 2 * 21 * 135)
assert transposed_cost((1, 8, 4, 4), 12, (3, 3), 2, 1, groups=4)[:2] == (8 * 3 * 9 + 12, 16 * 216)
assert transposed_cost((2, 5, 7, 3), 3, (4, 5), 3, 1)[1] == 2 * 21 * 300

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert transposed_cost((2, 5, 7, 3), 3, (4, 5), 3, 1)[2] == (2, 3, 20, 9)
assert transposed_cost((1, 2, 1, 6), 4, (3, 2), 2)[2] == (1, 4, 3, 12)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q4
# points: 2.5

# %% [markdown]
# **Question 4 (2.5 points).** *What another counter prints.* Your MACs and those of thop are not the same, and nor are the
# parameters. The chapter *Counting parameters and operations* says why, in "By program: watch what is dispatched", "thop's
# number, term by term" and "What a counter of modules does not see". Its thop, and that of this question, is version
# 0.1.1.post2209072238; you need not install it.
#
# Write `thop_total(steps)`, which gives the pair `(macs, params)`, two `int`, that thop prints for a model made of these
# steps. A step is a dict. It has
#
# - `"op"`: one of the names below, or another that thop has no rule for, such as `"gelu"`;
# - `"module"`: `True` if the model has a module of PyTorch for it (`nn.Conv2d`), `False` if it calls a function or an
#   operator (`functional.conv2d`, `@`, `x.mean(...)`) on the inputs and on bare parameters;
# - `"params"`: the parameters that the step owns, biases included;
#
# and what the next table says. Steps with an `"op"` outside this table have no keys but these three. A module that thop has no
# rule for adds nothing at all: no MACs, and none of the parameters that it owns. Whether a name of the table has a rule, the
# chapter says.
#
# | `"op"` | further keys |
# |---|---|
# | `"conv"`, `"linear"` | `"macs"`, counted as in question 2 |
# | `"transposed"` | `"macs"`, counted as in question 3; `"places_in"` and `"places_out"`, input and output positions |
# | `"norm"`, a batch normalization with learned scale and shift | `"elements"`, what it normalizes |
# | `"pool"`, average pooling to 1 × 1 (`nn.AdaptiveAvgPool2d(1)`) | `"planes"`, channels times images; `"positions"`, the pixels of a plane |
# | `"attention"`, `nn.MultiheadAttention` or the same by hand | `"macs"` |
#
# For a transposed convolution thop uses the formula of a convolution: it takes output positions where input positions
# belong. All steps are in one `nn.Sequential`, so none is the model by itself, like "a bare Linear" in the chapter: of one
# layer that is the whole model thop prints no parameters.

# %% [raw]
# # BEGIN SOLUTION


# %%
def thop_total(steps):
    """The MACs and the parameters that thop prints."""
    # BEGIN SOLUTION
    macs = params = 0
    for step in steps:
        if not step["module"] or step["op"] not in ("conv", "linear", "transposed", "norm", "pool"):
            continue
        params += step["params"]
        if step["op"] in ("conv", "linear"):
            macs += step["macs"]
        elif step["op"] == "transposed":
            macs += step["macs"] * step["places_out"] // step["places_in"]
        elif step["op"] == "norm":
            macs += 4 * step["elements"]
        else:
            macs += step["planes"] * (step["positions"] + 1)
    return macs, params
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: 'A small network (convolution, normalization, pooling to 1 x 1, fully connected) has 21,680 MACs, and thop prints 25,688 = 21,680 + 3200 + 808 with 330 parameters. See Counting parameters and operations, the end of "By program: watch what is dispatched".'
"""  # END TEST CONFIG
steps = [
    {"op": "conv", "module": True, "params": 224, "macs": 21600},
    {"op": "norm", "module": True, "params": 16, "elements": 800},
    {"op": "pool", "module": True, "params": 0, "planes": 8, "positions": 100},
    {"op": "linear", "module": True, "params": 90, "macs": 80},
]
found = thop_total(steps)
assert isinstance(found, tuple) and len(found) == 2 and all(type(n) is int for n in found), found
assert found == (25688, 330), found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: A step without a module is not seen, and nor are its parameters. See Counting parameters and operations, "What a counter of modules does not see".
"""  # END TEST CONFIG
found = thop_total(
    [
        {"op": "linear", "module": False, "params": 256, "macs": 4096},
        {"op": "linear", "module": True, "params": 264, "macs": 4096},
    ]
)
assert isinstance(found, tuple) and found == (4096, 264), found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
found = thop_total(
    [{"op": "transposed", "module": True, "params": 96, "macs": 9600, "places_in": 100, "places_out": 400}]
)
assert isinstance(found, tuple) and found == (38400, 96)
found = thop_total(
    [{"op": "transposed", "module": True, "params": 138, "macs": 5670, "places_in": 42, "places_out": 90}]
)
assert isinstance(found, tuple) and found == (12150, 138)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
found = thop_total(
    [
        {"op": "attention", "module": True, "params": 4224, "macs": 81920},
        {"op": "gelu", "module": True, "params": 0},
        {"op": "embedding", "module": True, "params": 160},
        {"op": "conv", "module": True, "params": 10, "macs": 7},
        {"op": "attention", "module": False, "params": 5, "macs": 9},
        {"op": "token", "module": False, "params": 768},
    ]
)
assert isinstance(found, tuple) and found == (7, 10)

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
found = thop_total(
    [
        {"op": "conv", "module": True, "params": 0, "macs": 4087136256},
        {"op": "norm", "module": True, "params": 53120, "elements": 11113984},
        {"op": "pool", "module": True, "params": 0, "planes": 2048, "positions": 49},
        {"op": "linear", "module": True, "params": 2049000, "macs": 2048000},
    ]
)
assert isinstance(found, tuple) and found == (4133742592, 2102120)
found = thop_total(
    [
        {"op": "conv", "module": True, "params": 64, "macs": 640},
        {"op": "norm", "module": False, "params": 16, "elements": 100},
        {"op": "pool", "module": False, "params": 0, "planes": 8, "positions": 25},
    ]
)
assert isinstance(found, tuple) and found == (640, 64)

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q5
# points: 3

# %% [markdown]
# **Question 5 (3 points).** *Bytes, and the bound.* Now the second number of a layer. Each input and each parameter is read
# once, and each output is written once. Parameters (biases too) have `weight_bits` bits, inputs and outputs
# `activation_bits`. Codes are packed without gaps, and inputs, parameters and outputs are *each* rounded up to whole bytes.
#
# - `bytes_moved(inputs, params, outputs, weight_bits=32, activation_bits=32)`: the bytes, an `int`. The first three are
#   numbers of elements. Raise `ValueError` if a width is below 1.
# - `bound(macs, moved, peak, bandwidth)`: for a layer of so many MACs and bytes on a machine with `peak` in FLOP/s and
#   `bandwidth` in byte/s, the tuple `(intensity, seconds, limit)`: FLOPs for each byte, the least time, and `"compute"` or
#   `"memory"`. At the ridge point the limit is `"compute"`. Raise `ValueError` if `moved`, `peak` or `bandwidth` is not
#   positive.

# %% [raw]
# # BEGIN SOLUTION


# %%
def bytes_moved(inputs, params, outputs, weight_bits=32, activation_bits=32):
    """Bytes that a layer reads and writes at least."""
    # BEGIN SOLUTION
    if min(weight_bits, activation_bits) < 1:
        raise ValueError("need at least 1 bit")
    pairs = (inputs, activation_bits), (params, weight_bits), (outputs, activation_bits)
    return sum(-(-n * bits // 8) for n, bits in pairs)
    # END SOLUTION


def bound(macs, moved, peak, bandwidth):
    """Arithmetic intensity, least seconds, and what holds the layer up."""
    # BEGIN SOLUTION
    if min(moved, peak, bandwidth) <= 0:
        raise ValueError("need positive bytes, peak and bandwidth")
    compute, memory = 2 * macs / peak, moved / bandwidth
    return 2 * macs / moved, max(compute, memory), "memory" if memory > compute else "compute"
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: One vector through 4096 x 4096 weights moves 67,141,632 bytes in FP32. 1000 parameters of 4 bits fill 500 bytes. Is the result an int? See Fewer bytes, less time, the first table of "Two things that take time".
"""  # END TEST CONFIG
found = bytes_moved(4096, 4096 * 4096, 4096)
assert type(found) is int and found == 67141632, found
found = bytes_moved(10, 1000, 20, weight_bits=4)
assert found == 120 + 500, found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: With 16,777,216 MACs and 67,141,632 bytes on a machine of 1e11 FLOP/s and 1e10 byte/s the intensity is 0.50, the least time 6.71 ms, and memory is the limit. A MAC is two FLOPs; both limits hold, so which of the two times is it? See Fewer bytes, less time, "Two things that take time".
"""  # END TEST CONFIG
found = bound(16777216, 67141632, 1e11, 1e10)
assert isinstance(found, tuple) and len(found) == 3 and all(isinstance(x, float) for x in found[:2]), found
assert abs(found[0] - 0.49976) < 1e-4, found
assert abs(found[1] - 6.7141632e-3) < 1e-9, found
assert isinstance(found[2], str) and found[2] == "memory", found

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
found = bytes_moved(5, 3, 7, 3, 1)
assert type(found) is int and found == 1 + 2 + 1
assert bytes_moved(5, 9, 5, 5, 4) == 3 + 6 + 3
assert bytes_moved(100, 10, 300, 32, 8) == 440
assert bytes_moved(100, 10, 300, 8, 32) == 1610
assert bytes_moved(1, 1, 1, 6, 9) == 5

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
found = bound(1073741824, 69206016, 1e11, 1e10)
assert isinstance(found, tuple) and isinstance(found[2], str) and found[2] == "compute"
assert abs(found[1] / 2.147483648e-2 - 1) < 1e-9 and abs(found[0] / 31.0303 - 1) < 1e-4
found = bound(1073741824, 69206016, 1e13, 1e11)
assert isinstance(found[2], str) and found[2] == "memory" and abs(found[1] / 6.9206016e-4 - 1) < 1e-9

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
found = bound(500, 100, 1000, 100)
assert isinstance(found, tuple) and isinstance(found[2], str) and found[2] == "compute"
assert abs(found[0] - 10) < 1e-12 and abs(found[1] - 1) < 1e-12
found = bound(499, 100, 1000, 100)
assert isinstance(found[2], str) and found[2] == "memory" and abs(found[1] - 1) < 1e-12

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
for arguments in [(1, 1, 1, 0, 8), (1, 1, 1, 8, -1)]:
    try:
        bytes_moved(*arguments)
    except ValueError:
        pass
    else:
        assert False, "no ValueError"
for arguments in [(1, 0, 1, 1), (1, 1, 0, 1), (1, 1, 1, -1)]:
    try:
        bound(*arguments)
    except ValueError:
        pass
    else:
        assert False, "no ValueError"
assert bytes_moved(8, 8, 8, 1, 1) == 3
assert bound(1, 100, 100, 1)[1] > 0

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# The rest of the homework has two machines, given as `(peak, bandwidth)`: a *board* with 20 GFLOP/s and 2 GB/s, and a
# *chip* with 2 TFLOP/s and 20 GB/s. Here is the team's layer on its chip, by your functions. Look at the column of the
# limit: that is the answer to the question at the beginning.

# %% tags=["raises-exception"]
board, chip = (2e10, 2e9), (2e12, 2e10)


def show(title, rows, machine, bits=32):
    """One line for each layer (name, shape of input, shape of output, kernel, groups), without biases."""
    print(f"{title}\n{'':12}{'MACs':>12}{'bytes':>11}{'FLOP/byte':>11}{'least us':>10}  limit")
    for name, inside, outside, kernel, groups in rows:
        params, macs = conv_cost(inside, outside, kernel, groups, bias=False)
        moved = bytes_moved(math.prod(inside), params, math.prod(outside), bits, bits)
        intensity, seconds, limit = bound(macs, moved, *machine)
        print(f"{name:12}{macs:12,}{moved:11,}{intensity:11.2f}{1e6 * seconds:10.1f}  {limit}")


image = (1, 64, 56, 56)
rows = [("dense", image, image, (3, 3), 1), ("depthwise", image, image, (3, 3), 64), ("1 x 1", image, image, (1, 1), 1)]
show("on the chip, 32 bits", rows, chip)

# %% [raw]
# # BEGIN QUESTION
# name: q6
# points: 2

# %% [markdown]
# **Question 6 (2 points).** *A prediction.* This unit of a mobile network works on one image, without biases, all with
# stride 1:
#
# | layer | positions | channels | window | MACs |
# |---|---|---|---|---|
# | `"expand"` | 28 × 28 | 32 to 192 | 1 × 1 | 4.8 million |
# | `"depthwise"` | 28 × 28 | 192 to 192 | 5 × 5, each channel alone | 3.8 million |
# | `"project"` | 28 × 28 | 192 to 64 | 1 × 1 | 9.6 million |
#
# Decide before you run the cell behind the question. First estimate the intensity of each layer (how many activations does
# it move for its MACs?) and compare with the ridge points. Then set
#
# - `longest_board`: the layer with the longest least time on the board, 32 bits for everything;
# - `longest_chip`: the same on the chip;
# - `faster_board`: a list of all layers whose least time on the board gets *more than five percent shorter* if parameters,
#   inputs and outputs have 8 bits, and the peak stays what it is: the board has no 8-bit instructions. The order is free, and
#   the list may be empty;
# - `faster_chip`: the same for the chip.

# %% [raw]
# # BEGIN SOLUTION

# %%
longest_board = "project"  # SOLUTION
longest_chip = "depthwise"  # SOLUTION
faster_board = ["depthwise"]  # SOLUTION
faster_chip = ["expand", "depthwise", "project"]  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: The first two are one of the strings "expand", "depthwise", "project"; the other two are lists of such strings, each at most once. This test says nothing about whether they are right.
"""  # END TEST CONFIG
names = ("expand", "depthwise", "project")
for answer in (longest_board, longest_chip):
    assert isinstance(answer, str) and answer in names, answer
for answer in (faster_board, faster_chip):
    assert isinstance(answer, list) and all(isinstance(x, str) and x in names for x in answer), answer
    assert len(set(answer)) == len(answer), answer

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(longest_board, str) and longest_board == "project"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(longest_chip, str) and longest_chip == "depthwise"

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(faster_board, list) and sorted(faster_board) == ["depthwise"]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert isinstance(faster_chip, list) and sorted(faster_chip) == ["depthwise", "expand", "project"]

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# Here is another unit, on both machines and with both widths. It expands with a dense 3 × 3, and its depthwise layer has a
# stride of 2. It does not answer question 6, but it shows what kind of layer waits for what. Would you have guessed it? If
# not, go through your prediction again: what do window, channels and stride do to the intensity of each row?

# %% tags=["raises-exception"]
wide, mid = (1, 128, 28, 28), (1, 128, 14, 14)
unit = [
    ("expand", (1, 64, 28, 28), wide, (3, 3), 1),
    ("depthwise", wide, mid, (3, 3), 128),
    ("project", mid, (1, 24, 14, 14), (1, 1), 1),
]
for title, machine in (("board", board), ("chip", chip)):
    for bits in (32, 8):
        show(f"on the {title}, {bits} bits", unit, machine, bits)

# %% [raw]
# # BEGIN QUESTION
# name: q7
# points: 1.5

# %% [markdown]
# **Question 7 (1.5 points).** *Reasons.* Numbers are of type `int`, choices are capital letters.
#
# - `rows_fp32`: a fully connected layer of 1024 inputs and 512 outputs, without bias, on the *board*, 32 bits for everything.
#   What is the smallest number of rows with which it is compute-bound?
# - `rows_weights`: the same if only the weights have 8 bits, and the arithmetic stays as it is.
# - `helps`: the depthwise layer of question 6 on the *chip*, in FP32. Which one of these makes its least time for each image
#   shorter by more than a tenth?
#   **A** 32 images at once. **B** Four times the peak. **C** Weights of 8 bits, activations of 32. **D** Weights and
#   activations of 8 bits, with the peak as it is.
# - `tools`: for one network you count 0.80 billion MACs by hand. Three tools print 1.60, 0.84 and 0.62 billion. Which tool
#   does what? Give a string of three letters, in the order of these numbers.
#   **A** It watches modules, and the model has products written with `@`. **B** It counts a multiplication and an addition
#   as two. **C** It adds what normalization and pooling do.

# %% [raw]
# # BEGIN SOLUTION

# %%
rows_fp32 = 22  # SOLUTION
rows_weights = 6  # SOLUTION
helps = "D"  # SOLUTION
tools = "BCA"  # SOLUTION

# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0
success_message: The form is right. Whether the answers are right, the hidden tests decide.
failure_message: rows_fp32 and rows_weights are positive ints, helps is one of the letters A to D, and tools is a string with each of A, B and C once. This test says nothing about whether they are right.
"""  # END TEST CONFIG
for answer in (rows_fp32, rows_weights):
    assert type(answer) is int and answer > 0, answer
assert isinstance(helps, str) and helps in ("A", "B", "C", "D"), helps
assert isinstance(tools, str) and sorted(tools) == ["A", "B", "C"], tools

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert type(rows_fp32) is int and rows_fp32 == 22

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
assert type(rows_weights) is int and rows_weights == 6

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
assert isinstance(helps, str) and helps == "D"

# %%
""" # BEGIN TEST CONFIG
points: 0.25
hidden: true
"""  # END TEST CONFIG
assert isinstance(tools, str) and tools == "BCA"

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [raw]
# # BEGIN QUESTION
# name: q8
# points: 4

# %% [markdown]
# **Question 8 (4 points).** *A whole network.* A network is a list of dicts, each with `"name"` and `"kind"`:
#
# | `"kind"` | further keys | what it does with the shape |
# |---|---|---|
# | `"conv"` | `"out"` (channels), `"kernel"` (a pair), `"stride"`, `"padding"`, `"dilation"`, `"groups"`, `"bias"` | as in questions 1 and 2 |
# | `"transposed"` | `"out"`, `"kernel"`, `"stride"`, `"padding"`, `"groups"`, `"bias"` | as in question 3 |
# | `"pool"` | none | `(batch, channels, height, width)` becomes `(batch, channels)` |
# | `"linear"` | `"out"`, `"bias"` | the last axis becomes `"out"` |
#
# - `network_costs(layers, shape)`: a list of dicts with the keys `"name"`, `"params"`, `"macs"`, `"inputs"` and
#   `"outputs"`, in order, for all layers that multiply (a pooling gets no entry). Inputs and outputs are numbers of
#   elements, of the whole batch. `shape` is the shape of the first input. Raise `ValueError` for a kind that is not in the
#   table.
# - `network_report(layers, shape, peak, bandwidth, bits=32)`: a dict. It has the sums over the entries of `network_costs`, so
#   without pooling: `"params"`, `"macs"`, `"bytes"` (parameters and activations with `bits` bits each) and `"seconds"` (the
#   least times). And it has `"slowest"`, the name of the entry with the longest least time; of several, the first. There is
#   at least one entry.

# %% [raw]
# # BEGIN SOLUTION


# %%
def network_costs(layers, shape):
    """What each layer costs that multiplies."""
    # BEGIN SOLUTION
    costs = []
    for layer in layers:
        kind, before = layer["kind"], shape
        if kind == "conv":
            sizes = [
                output_size(size, k, layer["stride"], layer["padding"], layer["dilation"])
                for size, k in zip(before[2:], layer["kernel"], strict=True)
            ]
            shape = (before[0], layer["out"], *sizes)
            params, macs = conv_cost(before, shape, layer["kernel"], layer["groups"], layer["bias"])
        elif kind == "transposed":
            more = layer["stride"], layer["padding"], layer["groups"], layer["bias"]
            params, macs, shape = transposed_cost(before, layer["out"], layer["kernel"], *more)
        elif kind == "linear":
            shape = (*before[:-1], layer["out"])
            params, macs = linear_cost(before, layer["out"], layer["bias"])
        elif kind == "pool":
            shape = before[:2]
            continue
        else:
            raise ValueError(f"unknown kind {kind}")
        elements = {"inputs": math.prod(before), "outputs": math.prod(shape)}
        costs.append({"name": layer["name"], "params": params, "macs": macs, **elements})
    return costs
    # END SOLUTION


def network_report(layers, shape, peak, bandwidth, bits=32):
    """Sums over the network, and its slowest layer."""
    # BEGIN SOLUTION
    costs = network_costs(layers, shape)
    moved = [bytes_moved(c["inputs"], c["params"], c["outputs"], bits, bits) for c in costs]
    times = [bound(c["macs"], m, peak, bandwidth)[1] for c, m in zip(costs, moved, strict=True)]
    return {
        "params": sum(c["params"] for c in costs),
        "macs": sum(c["macs"] for c in costs),
        "bytes": sum(moved),
        "seconds": sum(times),
        "slowest": costs[int(np.argmax(times))]["name"],
    }
    # END SOLUTION


# %% [raw]
# # END SOLUTION

# %% [raw]
# # BEGIN TESTS

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: A convolution without padding on 6 x 6 leaves 4 x 4; the pooling has no entry but changes the shape, so that the fully connected layer sees 2 inputs. Are the keys as the question says?
"""  # END TEST CONFIG
layers = [
    {
        "name": "c",
        "kind": "conv",
        "out": 2,
        "kernel": (3, 3),
        "stride": 1,
        "padding": 0,
        "dilation": 1,
        "groups": 1,
        "bias": True,
    },
    {"name": "p", "kind": "pool"},
    {"name": "l", "kind": "linear", "out": 5, "bias": False},
]
found = network_costs(layers, (1, 1, 6, 6))
assert isinstance(found, list) and len(found) == 2 and all(isinstance(entry, dict) for entry in found), found
assert found[0] == {"name": "c", "params": 20, "macs": 288, "inputs": 36, "outputs": 32}, found[0]
assert found[1] == {"name": "l", "params": 10, "macs": 10, "inputs": 2, "outputs": 5}, found[1]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
failure_message: For these two fully connected layers, on a machine of 2.5 FLOP/s and 10 byte/s, the least times are 4.8 s (compute) and 2.4 s (memory) in FP32. Is each layer's limit taken on its own, before the sum? Are the counts ints?
"""  # END TEST CONFIG
layers = [
    {"name": "a", "kind": "linear", "out": 2, "bias": False},
    {"name": "b", "kind": "linear", "out": 1, "bias": True},
]
found = network_report(layers, (1, 3), 2.5, 10)
assert isinstance(found, dict) and sorted(found) == ["bytes", "macs", "params", "seconds", "slowest"], found
assert type(found["params"]) is int and found["params"] == 9, found
assert type(found["macs"]) is int and found["macs"] == 8, found
assert type(found["bytes"]) is int and found["bytes"] == 44 + 24, found
assert isinstance(found["seconds"], float) and abs(found["seconds"] - 7.2) < 1e-9, found
assert isinstance(found["slowest"], str) and found["slowest"] == "a", found

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG


def conv(name, out, k, stride=1, padding=0, dilation=1, groups=1, bias=True):
    return {
        "name": name,
        "kind": "conv",
        "out": out,
        "kernel": k,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "bias": bias,
    }


layers = [
    conv("stem", 8, (3, 3), 2, 1),
    conv("depthwise", 8, (5, 5), 1, 4, 2, 8, False),
    conv("point", 12, (1, 1)),
    conv("grouped", 6, (3, 2), 3, 0, 1, 3),
    {
        "name": "up",
        "kind": "transposed",
        "out": 4,
        "kernel": (2, 2),
        "stride": 2,
        "padding": 0,
        "groups": 2,
        "bias": True,
    },
    {"name": "pool", "kind": "pool"},
    {"name": "head", "kind": "linear", "out": 10, "bias": True},
]
found = network_costs(layers, (2, 3, 25, 17))
assert isinstance(found, list) and all(isinstance(entry, dict) for entry in found)
assert [entry["name"] for entry in found] == ["stem", "depthwise", "point", "grouped", "up", "head"]
assert [entry["params"] for entry in found] == [224, 200, 108, 150, 52, 50]
assert [entry["macs"] for entry in found] == [50544, 46800, 22464, 3456, 1152, 80]
assert [entry["inputs"] for entry in found] == [2550, 1872, 1872, 2808, 144, 8]
assert [entry["outputs"] for entry in found] == [1872, 1872, 2808, 144, 384, 20]

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
found = network_costs([{"name": "t", "kind": "linear", "out": 4, "bias": True}], (2, 5, 6))
assert isinstance(found, list) and found == [{"name": "t", "params": 28, "macs": 240, "inputs": 60, "outputs": 40}]
try:
    network_costs([{"name": "x", "kind": "attention"}], (2, 5, 6))
except ValueError:
    pass
else:
    assert False, "no ValueError"

# %%
""" # BEGIN TEST CONFIG
points: 1
hidden: true
"""  # END TEST CONFIG


def conv(name, out, k, padding=0, groups=1, stride=1):
    return {
        "name": name,
        "kind": "conv",
        "out": out,
        "kernel": (k, k),
        "stride": stride,
        "padding": padding,
        "dilation": 1,
        "groups": groups,
        "bias": False,
    }


layers = [
    conv("stem", 16, 3, 1, 1, 2),
    conv("expand", 96, 1),
    conv("depthwise", 96, 3, 1, 96),
    conv("project", 32, 1),
    {"name": "pool", "kind": "pool"},
    {"name": "head", "kind": "linear", "out": 100, "bias": True},
]
shape, size = (1, 3, 64, 64), 1024
rows = [
    (432, size * 432, 12288, 16 * size),
    (1536, size * 1536, 16 * size, 96 * size),
    (864, size * 864, 96 * size, 96 * size),
    (3072, size * 3072, 96 * size, 32 * size),
    (3300, 3200, 32, 100),
]
for peak, bandwidth, bits, slowest in [
    (2e10, 2e9, 32, "depthwise"),
    (2e10, 2e9, 8, "project"),
    (2e12, 2e10, 32, "depthwise"),
    (2e9, 2e10, 16, "project"),
]:
    moved = [(p + i + o) * bits // 8 for p, m, i, o in rows]
    times = [max(2 * row[1] / peak, b / bandwidth) for row, b in zip(rows, moved, strict=True)]
    found = network_report(layers, shape, peak, bandwidth, bits)
    assert isinstance(found, dict)
    assert type(found["params"]) is int and found["params"] == 9204
    assert type(found["macs"]) is int and found["macs"] == size * 5904 + 3200
    assert type(found["bytes"]) is int and found["bytes"] == sum(moved)
    assert isinstance(found["seconds"], float) and abs(found["seconds"] / sum(times) - 1) < 1e-9
    assert isinstance(found["slowest"], str) and found["slowest"] == slowest

# %%
""" # BEGIN TEST CONFIG
points: 0.5
hidden: true
"""  # END TEST CONFIG
layers = [{"name": name, "kind": "linear", "out": 7, "bias": True} for name in ("first", "second", "third")]
found = network_report(layers, (3, 7), 1e6, 1e3, 3)
assert isinstance(found, dict) and isinstance(found["slowest"], str) and found["slowest"] == "first"
assert type(found["bytes"]) is int and found["bytes"] == 3 * (8 + 21 + 8)
assert isinstance(found["seconds"], float) and abs(found["seconds"] - 0.111) < 1e-9

# %% [raw]
# # END TESTS

# %% [raw]
# # END QUESTION

# %% [markdown]
# The last cell has a small mobile network, for images of 64 × 64 in three colours, in FP32 and in 8 bits with the same
# peak. How much do 8 bits gain on each machine, and which layer holds the network up before and after? If both
# machines were for sale with four times the peak for 8 bits as an option, for which of them would you pay for it?


# %% tags=["raises-exception"]
def conv(name, out, k, stride=1, groups=1):
    """A convolution with the padding that keeps the size at stride 1."""
    more = {"padding": k // 2, "dilation": 1, "groups": groups, "bias": True}
    return {"name": name, "kind": "conv", "out": out, "kernel": (k, k), "stride": stride, **more}


network = [conv("stem", 16, 3, 2)]
for number, (inside, outside, stride) in enumerate([(16, 24, 1), (24, 32, 2), (32, 64, 2)], 1):
    network += [
        conv(f"expand {number}", 6 * inside, 1),
        conv(f"depthwise {number}", 6 * inside, 3, stride, groups=6 * inside),
        conv(f"project {number}", outside, 1),
    ]
network += [{"name": "pool", "kind": "pool"}, {"name": "head", "kind": "linear", "out": 10, "bias": True}]

for name, machine in (("board", board), ("chip", chip)):
    wide, small = (network_report(network, (1, 3, 64, 64), *machine, bits) for bits in (32, 8))
    print(f"{name:6} {wide['params']:,} parameters, {wide['macs']:,} MACs, {wide['bytes']:,} bytes at 32 bits")
    for bits, report in ((32, wide), (8, small)):
        print(f"       {bits:2} bits: {1e6 * report['seconds']:8.1f} us, slowest: {report['slowest']}")
    print(f"       8 bits gain {wide['seconds'] / small['seconds']:.2f}x")
