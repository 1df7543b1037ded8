"""quantcourse.qat against derivatives of the surrogates that its estimators define, the papers' formulas point by point,
torch's batch norm, post-training quantization, and runs that were killed.
"""

import copy
import hashlib
import io
import itertools
import math
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from functools import cache
from pathlib import Path

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from quantcourse import data, models
from quantcourse.affine import UINT8, IntType, QParams, choose_qparams, fake_quantize
from quantcourse.engine import IntegerModel
from quantcourse.export import to_onnx
from quantcourse.graph import trace
from quantcourse.ptq import Override, QuantizedModel, Recipe, Scheme, quantize
from quantcourse.qat import (
    TrainableModel,
    convert,
    lsq,
    lsq_gradient_scale,
    lsq_plus,
    lsq_start,
    pact,
    prepare,
    straight_through,
    train,
    xnor,
)

reproducible = settings(derandomize=True, deadline=None, max_examples=40, database=None)

NETS = ("plain", "residual", "mobile", "multibranch", "mlp", "vit")
SCALES = ("fixed", "observed", "lsq", "lsq+", "pact")
AFFINE = Scheme(symmetric=False, signed=False)
CHANNEL = Scheme(granularity="channel")
SIGNS = Scheme(1, granularity="channel")


@pytest.fixture(autouse=True)
def one_thread():
    """Training is repeatable for one number of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def digits(count, split="train"):
    images, labels, _ = data.digits(split)
    return images[:count], labels[:count]


def prepared(model, x, recipe="int8", **options):
    batches = [] if x is None else [x]
    return prepare(model, batches, recipe, progress=False, **options)


def ptq(model, x, recipe="int8"):
    return quantize(model, [] if x is None else [x], recipe, progress=False)


def learn(net, x, steps=1, rate=1e-3):
    """A few steps of an ordinary loop; the losses."""
    optimizer = torch.optim.AdamW(net.parameter_groups(rate))
    y = torch.arange(len(x)) % 3
    losses = []
    for _ in range(steps):
        loss = functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def evaluated(net, *inputs):
    """What a model computes in evaluation mode; it goes back to the mode it had."""
    mode = net.training
    with torch.no_grad():
        y = net.eval()(*inputs)
    net.train(mode)
    return y


def same_model(a, b):
    """The same codes, scales, zero points and biases, bit for bit."""
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    for key, t in mine.items():
        assert torch.equal(t, theirs[key]) and t.dtype == theirs[key].dtype, key


def same_state(a, b):
    mine, theirs = a.state_dict(), b.state_dict()
    assert mine.keys() == theirs.keys()
    for key, t in mine.items():
        equal = torch.equal(t, theirs[key]) if isinstance(t, torch.Tensor) else t == theirs[key]
        assert equal, key
    return True


def convolutions(**norm):
    """Two convolutions, one with a batch norm behind, and a head; its statistics are not the ones of new layers."""
    model = nn.Sequential(
        *(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, **norm), nn.ReLU()),
        *(nn.Conv2d(4, 5, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 3)),
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator) * 0.4)
        if model[1].weight is not None:
            model[1].weight.copy_(torch.tensor([0.5, 1.5, -1.2, 2.0]))
        model[1].running_mean.copy_(torch.tensor([0.3, -0.2, 0.1, 0.5]))
        model[1].running_var.copy_(torch.tensor([0.5, 1.0, 2.0, 3.0]))
    return model.eval()


IMAGES = randn(24, 3, 8, 8)

# --- Derivatives of the surrogates -------------------------------------------------------------------------------

STEP = 1e-5


def slope(f, at, i):
    """The derivative of f with respect to the i-th number of a tensor, from both sides."""
    there, back = at.clone(), at.clone()
    there.view(-1)[i] += STEP
    back.view(-1)[i] -= STEP
    return float((f(there) - f(back)) / (2 * STEP))


def agrees(gradient, f, at, factor=1.0):
    """A gradient with finite differences of f, at each number of a tensor; times a factor, or one for each number."""
    assert gradient.shape == at.shape
    factors = torch.as_tensor(factor).expand(at.shape).flatten()
    for i in range(at.numel()):
        expected = float(factors[i]) * slope(f, at, i)
        assert abs(float(gradient.reshape(-1)[i]) - expected) <= 1e-6 * max(1, abs(expected))


def clipped(t, low, high):
    return torch.minimum(torch.maximum(t, torch.as_tensor(low, dtype=t.dtype)), torch.as_tensor(high, dtype=t.dtype))


def away_from_edges(t, *edges, least=2e-3):
    """Move what lies near the edges, where a surrogate has two slopes, into the middle of a step."""
    for edge in edges:
        t = torch.where((t - edge).abs() < least, edge + 0.1, t)
    return t


@st.composite
def grids(draw):
    """Codes, scales and values in float64: scales and zero points for all or for each row, the latter 0 or not."""
    dtype = IntType(draw(st.integers(1, 10)), draw(st.booleans()))
    scales, zero_points = (draw(st.sampled_from([(), (3, 1)])) for _ in range(2))
    affine = draw(st.booleans())
    seed = draw(st.integers(0, 9999))
    generator = torch.Generator().manual_seed(seed)
    scale = torch.exp(3 * torch.rand(scales, generator=generator, dtype=torch.float64) - 1.5)
    if affine:
        zero_point = torch.randint(dtype.min, dtype.max + 1, zero_points, generator=generator).double()
    else:
        zero_point = torch.zeros(zero_points, dtype=torch.float64)
    low, high = dtype.min - zero_point, dtype.max - zero_point
    spread = (dtype.max - dtype.min) * 1.4
    middle = (low + high) / 2
    t = middle + spread * (torch.rand(3, 6, generator=generator, dtype=torch.float64) - 0.5)
    # A step that is moved by STEP moves the largest of 2**10 codes by less than a tenth of one.
    t = away_from_edges(t, low, high, least=0.09)
    return dtype, scale, zero_point, t * scale, torch.randn(3, 6, generator=generator, dtype=torch.float64)


def bounds(dtype, zero_point):
    """As numbers where one zero point serves for all, else as tensors."""
    low, high = dtype.min - zero_point, dtype.max - zero_point
    return (low, high) if zero_point.dim() else (float(low), float(high))


@reproducible
@given(grids())
def test_straight_through_has_the_derivative_of_clipping(grid):
    dtype, scale, zero_point, v, c = grid
    low, high = bounds(dtype, zero_point)
    v.requires_grad_()
    (c * straight_through(v, scale, low, high)).sum().backward()
    with torch.no_grad():
        agrees(v.grad, lambda v: (c * scale * clipped(v / scale, low, high)).sum(), v)


def factors(factor, apart, scale):
    """The same for all steps, or for each its own."""
    return factor * torch.linspace(1, 2, scale.numel()).view(scale.shape) if apart else factor


@reproducible
@given(grids(), st.floats(0.01, 2), st.booleans())
def test_lsq_has_the_derivatives_of_clipping_with_the_rounding_error_held_fixed(grid, factor, apart):
    dtype, scale, zero_point, v, c = grid
    factor = factors(factor, apart, scale)
    low, high = bounds(dtype, zero_point)
    error = clipped(torch.round(v / scale), low, high) - clipped(v / scale, low, high)

    def surrogate(v, s):
        return (c * s * (clipped(v / s, low, high) + error)).sum()

    leaf, step = v.clone().requires_grad_(), scale.clone().requires_grad_()
    y = lsq(leaf, step, low, high, factor)
    assert torch.allclose((c * y).sum(), surrogate(v, scale), rtol=1e-12)
    (c * y).sum().backward()
    agrees(leaf.grad, lambda v: surrogate(v, scale), v)
    agrees(step.grad, lambda s: surrogate(v, s), scale, factor)


@reproducible
@given(grids(), st.floats(0.01, 2), st.booleans())
def test_lsq_plus_has_them_with_an_offset_too(grid, factor, apart):
    """Held at an offset on the grid, where what acts is the offset itself."""
    dtype, scale, zero_point, v, c = grid
    factor = factors(factor, apart, scale)
    offset = -scale * zero_point
    t = (v - offset) / scale
    error = clipped(torch.round(t), dtype.min, dtype.max) - clipped(t, dtype.min, dtype.max)

    def surrogate(v, s, beta):
        return (c * (s * (clipped((v - beta) / s, dtype.min, dtype.max) + error) + beta)).sum()

    leaves = [x.clone().requires_grad_() for x in (v, scale, offset)]
    y = lsq_plus(*leaves, dtype.min, dtype.max, factor)
    assert torch.allclose((c * y).sum(), surrogate(v, scale, offset), rtol=1e-9)
    (c * y).sum().backward()
    agrees(leaves[0].grad, lambda v: surrogate(v, scale, offset), v)
    agrees(leaves[1].grad, lambda s: surrogate(v, s, offset), scale, factor)
    agrees(leaves[2].grad, lambda b: surrogate(v, scale, b), offset, factor)


@reproducible
@given(st.integers(1, 8), st.floats(0.1, 20), st.integers(0, 999))
def test_pact_has_the_derivatives_of_clipping_at_alpha(bits, alpha, seed):
    alpha, generator = torch.tensor(alpha, dtype=torch.float64), torch.Generator().manual_seed(seed)
    x = alpha * away_from_edges(1.6 * torch.rand(20, generator=generator, dtype=torch.float64) - 0.3, 0.0, 1.0)
    c = randn(20, seed=seed, dtype=torch.float64)
    step = alpha / (2**bits - 1)
    error = torch.round(clipped(x, 0, alpha) / step) * step - clipped(x, 0, alpha)

    def surrogate(x, alpha):
        return (c * (clipped(x, 0, alpha) + error)).sum()

    leaves = x.clone().requires_grad_(), alpha.clone().requires_grad_()
    y = pact(*leaves, bits)
    assert torch.allclose((c * y).sum(), surrogate(x, alpha), rtol=1e-12)
    (c * y).sum().backward()
    agrees(leaves[0].grad, lambda x: surrogate(x, alpha), x)
    agrees(leaves[1].grad, lambda a: surrogate(x, a), alpha)


@reproducible
@given(st.sampled_from([0, 1, -1, None]), st.integers(0, 999))
def test_xnor_has_the_derivatives_of_the_mean_and_of_a_clipped_sign(axis, seed):
    w, c = 1.5 * randn(4, 5, seed=seed, dtype=torch.float64), randn(4, 5, seed=seed + 1, dtype=torch.float64)
    w = away_from_edges(w, -1.0, 0.0, 1.0)
    sign = torch.where(w < 0, -1.0, 1.0)
    error = sign - w.clamp(-1, 1)
    others = [0, 1] if axis is None else [1 - axis % 2]

    def surrogate(w):
        return (c * w.abs().mean(others, keepdim=True) * (w.clamp(-1, 1) + error)).sum()

    leaf = w.clone().requires_grad_()
    y = xnor(leaf, axis)
    assert torch.allclose(y, w.abs().mean(others, keepdim=True) * sign, rtol=1e-12)
    (c * y).sum().backward()
    agrees(leaf.grad, surrogate, w)


# --- The papers' formulas, point by point ------------------------------------------------------------------------

LOW, HIGH = -4, 3
# v / s, the code, and dy/ds by equation 3 of the LSQ paper
POINTS = [
    *((-9.0, -4, -4.0), (-4.5, -4, -4.0), (-4.25, -4, -4.0), (-4.0, -4, -4.0)),
    *((-3.75, -4, -0.25), (-3.5, -4, -0.5), (-2.5, -2, 0.5), (-0.5, 0, 0.5), (-0.25, 0, 0.25), (0.0, 0, 0.0)),
    *((0.5, 0, -0.5), (1.5, 2, 0.5), (2.25, 2, -0.25), (2.5, 2, -0.5), (2.75, 3, 0.25)),
    *((3.0, 3, 3.0), (3.125, 3, 3.0), (3.25, 3, 3.0), (3.5, 3, 3.0), (8.0, 3, 3.0)),
]


@pytest.mark.parametrize(("t", "code", "ds"), POINTS)
def test_lsq_by_hand(t, code, ds):
    """Ties go to even; the step's derivative at both ends of the range is that of outside, as is the value's."""
    v, s = torch.tensor([t / 2], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    y = lsq(v, s, LOW, HIGH)
    y.backward()
    assert (y.item(), float(s.grad), float(v.grad)) == (code / 2, ds, float(LOW < t < HIGH))


@pytest.mark.parametrize(("t", "code", "ds"), POINTS)
def test_straight_through_by_hand(t, code, ds):
    """Both ends of the range are inside."""
    v = torch.tensor([t / 2], requires_grad=True)
    y = straight_through(v, torch.tensor(0.5), LOW, HIGH)
    y.backward()
    assert (y.item(), float(v.grad)) == (code / 2, float(LOW <= t <= HIGH))


@pytest.mark.parametrize(("t", "code", "ds"), POINTS)
def test_lsq_plus_by_hand(t, code, ds):
    """The same grid 0 .. 7 with offset -2: outside, a step more or less moves the code, the offset all of it."""
    v, s = torch.tensor([t / 2], requires_grad=True), torch.tensor(0.5, requires_grad=True)
    beta = torch.tensor(-2.0, requires_grad=True)
    y = lsq_plus(v, s, beta, 0, 7)
    y.backward()
    inside = LOW < t < HIGH
    expected = ds if inside else code + 4.0
    assert (y.item(), float(s.grad), float(beta.grad)) == (code / 2, expected, float(not inside))
    assert float(v.grad) == float(inside)


@pytest.mark.parametrize(("t", "code", "ds"), POINTS)
def test_by_hand_with_bounds_for_each_row(t, code, ds):
    """The second row is the first, and zero points, four steps further up: what counts as inside is the same."""
    v = torch.tensor([[t / 2], [t / 2 + 2]], requires_grad=True)
    s = torch.full((2, 1), 0.5, requires_grad=True)
    y = lsq(v, s, torch.tensor([[-4.0], [0.0]]), torch.tensor([[3.0], [7.0]]))
    y.sum().backward()
    inside = [float(LOW < t < HIGH)] * 2
    assert y.flatten().tolist() == [code / 2, code / 2 + 2]
    assert s.grad.flatten().tolist() == [ds, ds if inside[0] else ds + 4]
    assert v.grad.flatten().tolist() == inside
    v.grad = None
    lsq_plus(v, s, torch.tensor([[-2.0], [0.0]]), 0, 7).sum().backward()
    assert v.grad.flatten().tolist() == inside


@pytest.mark.parametrize("offsets", [(), (3, 1)], ids=["an offset", "offsets"])
@pytest.mark.parametrize("scales", [(), (3, 1)], ids=["a step", "steps"])
def test_what_rows_share_has_the_sum_of_their_gradients(scales, offsets):
    v, c = 2 * randn(3, 6), randn(3, 6, seed=1)
    s = torch.tensor([0.25, 0.5, 1.0]).view(3, 1) if scales else torch.tensor(0.5)
    beta = torch.tensor([-1.0, 0.0, -3.0]).view(3, 1) if offsets else torch.tensor(-1.0)
    leaves = s.requires_grad_(), beta.requires_grad_()
    (c * lsq_plus(v, *leaves, 0, 7)).sum().backward()
    expected = [torch.zeros(3, 1), torch.zeros(3, 1)]
    for i in range(3):
        row = [t.detach().expand(3, 1)[i].clone().requires_grad_() for t in leaves]
        (c[i] * lsq_plus(v[i], *row, 0, 7)).sum().backward()
        for total, leaf in zip(expected, row, strict=True):
            total[i] = leaf.grad
    for leaf, total in zip(leaves, expected, strict=True):
        assert leaf.grad.shape == leaf.shape and total.any()
        assert torch.allclose(leaf.grad, total.sum_to_size(leaf.shape), rtol=1e-5)


@pytest.mark.parametrize("offset", [-2.24, -2.0, -1.76])
def test_an_offset_acts_as_the_nearest_whole_zero_point(offset):
    v = torch.linspace(-4, 4, 65)
    y = lsq_plus(v, torch.tensor(0.5), torch.tensor(offset), 0, 7)
    assert torch.equal(y, fake_quantize(v, QParams(0.5, 4, IntType(3, signed=False))))
    assert float(lsq_plus(torch.zeros(1), torch.tensor(0.5), torch.tensor(offset), 0, 7)) == 0


@pytest.mark.parametrize(("offset", "zero_point"), [(3.0, 0), (0.1, 0), (-99.0, 7)])
def test_an_offset_beyond_the_codes_acts_as_the_last_of_them(offset, zero_point):
    v = torch.linspace(-4, 4, 65)
    y = lsq_plus(v, torch.tensor(0.5), torch.tensor(offset), 0, 7)
    assert torch.equal(y, fake_quantize(v, QParams(0.5, zero_point, IntType(3, signed=False))))


@pytest.mark.parametrize(
    ("x", "y", "dx", "dalpha"),
    [
        *((-1.0, 0.0, 0.0, 0.0), (-0.25, 0.0, 0.0, 0.0), (0.25, 0.0, 1.0, 0.0), (0.5, 0.0, 1.0, 0.0)),
        *(
            (1.5, 2.0, 1.0, 0.0),
            (2.75, 3.0, 1.0, 0.0),
            (3.0, 3.0, 0.0, 1.0),
            (3.25, 3.0, 0.0, 1.0),
            (9.0, 3.0, 0.0, 1.0),
        ),
    ],
)
def test_pact_by_hand(x, y, dx, dalpha):
    """Equations 1 to 3 of the paper with alpha = 3 and 2 bits: a step of 1."""
    leaf, alpha = torch.tensor([x], requires_grad=True), torch.tensor(3.0, requires_grad=True)
    found = pact(leaf, alpha, 2)
    found.backward()
    assert (found.item(), float(leaf.grad), float(alpha.grad)) == (y, dx, dalpha)


def test_xnor_by_hand():
    """alpha is 1.25: d/dw_i of sum(alpha sign w) is (sum of signs) sign(w_i) / n, and alpha where |w_i| <= 1."""
    w = torch.tensor([[-1.0, 0.0, 1.0, 3.0]], requires_grad=True)
    y = xnor(w)
    assert y.tolist() == [[-1.25, 1.25, 1.25, 1.25]]
    y.sum().backward()
    assert w.grad.tolist() == [[-0.5 + 1.25, 1.25, 0.5 + 1.25, 0.5]]


def test_a_mean_of_one_weight_gives_the_weight():
    v = torch.tensor([0.5, -2.0, 0.0])
    assert torch.equal(xnor(v, 0), v)


@pytest.mark.parametrize("t", [-4.25, -4.0, 3.0, 3.125, 3.25, 3.4375])
def test_where_the_kernel_of_torch_differs(t):
    """It asks whether the rounded value is inside, the paper whether the value is: between an end of the range and half a
    step beyond it, torch lets the value through, and takes the rounding error for the derivative of the step."""
    ours, theirs = ([torch.tensor([t / 2]), torch.tensor([0.5])] for _ in range(2))
    for x in (*ours, *theirs):
        x.requires_grad_()
    y = lsq(*ours, LOW, HIGH)
    z = torch._fake_quantize_learnable_per_tensor_affine(*theirs, torch.tensor([0.0]), LOW, HIGH, 1.0)
    assert torch.equal(y, z)
    y.backward()
    z.backward()
    end = HIGH if t > 0 else LOW
    assert [float(x.grad) for x in ours] == [0, end]
    assert [float(x.grad) for x in theirs] == [1, end - t]


@pytest.mark.parametrize("t", [-9.0, -4.75, -3.25, -0.25, 0.0, 1.75, 2.75, 3.75, 9.0])
def test_elsewhere_the_kernel_of_torch_agrees(t):
    ours, theirs = ([torch.tensor([t / 2]), torch.tensor([0.5])] for _ in range(2))
    for x in (*ours, *theirs):
        x.requires_grad_()
    lsq(*ours, LOW, HIGH).backward()
    torch._fake_quantize_learnable_per_tensor_affine(*theirs, torch.tensor([0.0]), LOW, HIGH, 1.0).backward()
    assert [x.grad for x in ours] == [x.grad for x in theirs]


@reproducible
@given(st.integers(2, 8), st.booleans(), st.integers(0, 9999))
def test_on_the_way_forward_all_are_fake_quantization(bits, channels, seed):
    """Bit for bit, also where values lie between two codes or beyond the last."""
    dtype, generator = IntType(bits, signed=False), torch.Generator().manual_seed(seed)
    shape = (4,) if channels else ()
    scale = torch.exp(torch.randn(shape, generator=generator))
    zero_point = torch.randint(0, dtype.max + 1, shape, generator=generator)
    rows = (4, 1) if channels else ()
    s, z = scale.view(rows), zero_point.view(rows)
    v = (torch.randint(-2, 2 * dtype.max + 3, (4, 50), generator=generator) / 2 - z) * s
    v = torch.cat([v, 3 * torch.randn(4, 50, generator=generator)], 1)
    expected = fake_quantize(v, QParams(scale, zero_point, dtype, axis=0 if channels else None))
    low, high = dtype.min - z, dtype.max - z
    assert torch.equal(straight_through(v, s, low, high), expected)
    assert torch.equal(lsq(v, s, low, high), expected)
    assert torch.equal(lsq_plus(v, s, -s * z, 0, dtype.max), expected)
    alpha = torch.exp(torch.randn((), generator=generator))
    qp = QParams(alpha / dtype.max, 0, dtype)
    assert torch.equal(pact(v, alpha, bits), fake_quantize(v, qp))


@pytest.mark.parametrize("bits", [8, 12, 13, 14])
def test_the_largest_weight_stays_trainable_in_float32(bits):
    """Where the scale comes from it, v / s may be the last code and a bit."""
    high = 2 ** (bits - 1) - 1
    for seed in range(200):
        v = randn(50, seed=seed)
        scale = v.abs().max() / high
        v.requires_grad_()
        straight_through(v, scale, -high, high).sum().backward()
        assert v.grad.min() == 1


def test_a_hundredth_of_a_step_beyond_the_range_is_outside():
    v = torch.tensor([7.01 / 2, -8.01 / 2], requires_grad=True)
    straight_through(v, torch.tensor(0.5), -8, 7).sum().backward()
    assert not v.grad.any()


def test_the_weight_at_the_end_of_a_range_learns_and_moves_no_step():
    """Its rounding error is 0."""
    model = nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(3.5)  # of 4 bits the scale is 0.5, the code 7
    net = prepared(model, None, Recipe(replace(CHANNEL, bits=4), None), scales="lsq")
    net(torch.ones(1, 1)).sum().backward()
    (layer,) = net.layers().values()
    assert float(layer.layer.weight.grad) == 1 and float(layer.grid.log_ratio.grad) == 0


@pytest.mark.parametrize("scales", ["fixed", "lsq", "lsq+", "pact"])
def test_the_largest_weight_of_a_filter_learns(scales):
    """Ranges of the largest magnitude put it on the last code, where LSQ's paper has no gradient for it."""
    model = nn.Linear(9, 16)
    with torch.no_grad():
        model.weight.copy_(randn(16, 9).abs())  # positive, since a signed type has a code more below zero
    for bits in (2, 8):
        net = prepared(model, randn(30, 9), Recipe(replace(CHANNEL, bits=bits), None), scales=scales)
        net(randn(30, 9)).square().sum().backward()
        (layer,) = net.layers().values()
        assert (layer.layer.weight.grad != 0).all()
    with torch.no_grad():
        model.weight[:, 0] = 10 * model.weight.amax()
    net = prepared(model, randn(30, 9), Recipe(replace(CHANNEL, bits=8), None), scales=scales)
    (layer,) = net.layers().values()
    with torch.no_grad():
        layer.layer.weight[:, 0] *= 1.01  # a step and a quarter further
    net(randn(30, 9)).square().sum().backward()
    assert (layer.layer.weight.grad[:, 0] == 0).all() and (layer.layer.weight.grad[:, 1:] != 0).all()


# --- LSQ's start, and its scale of gradients ----------------------------------------------------------------------


def test_start_by_the_paper():
    v = randn(4, 6)
    for high in (1, 3, 7, 127):
        assert torch.allclose(lsq_start(v, high), 2 * v.abs().sum() / 24 / math.sqrt(high))
        rows = torch.stack([2 * row.abs().sum() / 6 / math.sqrt(high) for row in v])
        assert torch.allclose(lsq_start(v, high, axis=0), rows)
        columns = torch.stack([2 * column.abs().sum() / 4 / math.sqrt(high) for column in v.T])
        for axis in (1, -1):
            assert torch.allclose(lsq_start(v, high, axis=axis), columns)
    assert lsq_start(torch.zeros(3), 7) == 1
    assert not lsq_start(v.requires_grad_(), 7).requires_grad
    assert lsq_gradient_scale(50, 2) == 0.1


def test_a_network_starts_where_it_is_told():
    model, x = nn.Linear(6, 3), randn(20, 6)
    recipe = Recipe(Scheme(4, granularity="channel"), replace(AFFINE, bits=4))
    net = prepared(model, x, recipe, scales="lsq", start="lsq")
    assert not any(log_ratio.any() for log_ratio in net.scales())
    (layer,), (source, target) = net.layers().values(), (grid.scale for grid in net.grids.values())
    assert torch.allclose(layer.grid.scale, 2 * model.weight.abs().mean(1) / math.sqrt(7))
    for scale, zero_point, value in (
        (source, net.grids["input_1"].zero_point, x),
        (target, next(g for n, g in net.grids.items() if n != "input_1").zero_point, model(x)),
    ):
        assert torch.allclose(scale, 2 * value.abs().mean() / math.sqrt(15 - int(zero_point)))
    same_state(prepared(model, x, recipe, scales="lsq"), prepared(model, x, recipe, scales="lsq", start="calibrated"))


@pytest.mark.parametrize("below_zero", [False, True])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_starts_of_values_have_the_largest_code_less_the_zero_point(granularity, below_zero):
    """Of many zero points the least largest code; without codes above zero, the other end of them."""
    x = randn(20, 4) * torch.tensor([1.0, 2.0, 3.0, 4.0])
    x[:, : 4 if below_zero else 1] = -x[:, : 4 if below_zero else 1].abs()
    recipe = Recipe(CHANNEL, replace(AFFINE, bits=4, granularity=granularity))
    net = prepared(nn.Linear(4, 3), x, recipe, scales="lsq", start="lsq")
    grid = net.grids["input_1"]
    z = grid.zero_point
    assert bool((z == 15).all()) == below_zero and bool((z == 15).any()) == (below_zero or z.dim() == 1)
    mean = x.abs().mean(0) if z.dim() else x.abs().mean()
    assert torch.allclose(grid.scale, 2 * mean / math.sqrt(torch.where(z < 15, 15 - z, z).min()))


def test_starting_anew_undoes_what_was_learned():
    net = prepared(nn.Linear(6, 3), randn(20, 6), RECIPES["w4a8"], scales="lsq", start="lsq")
    before = copy.deepcopy(net)
    with torch.no_grad():
        for p in net.scales():
            p.add_(0.3)
    net.restart()
    same_state(net, before)


def test_gradients_of_steps_have_the_scale_of_the_paper():
    """1 / sqrt(N Q_P), with N the weights of a channel, or the features of one image: a step of SGD on the multiple of the
    start, r = ln(s / s_0), moves s as the paper has it at first; of many, tiny ones move less.
    """
    model, x, c = nn.Linear(6, 3), randn(20, 6), randn(20, 3, seed=1)
    recipe = Recipe(Scheme(4, granularity="channel"), replace(AFFINE, bits=4))
    net = prepared(model, x, recipe, scales="lsq")
    z = int(next(g for n, g in net.grids.items() if n != "input_1").zero_point)
    (c * net(x)).sum().backward()

    # By hand, with LSQ as tested above.
    (layer,), grids = net.layers().values(), [*net.grids.values()]
    starts = [grid.scale.detach().clone() for grid in (layer.grid, *grids)]
    weights, source, last = (s.clone().requires_grad_() for s in starts)
    first = int(net.grids["input_1"].zero_point)
    values = lsq(x, source, 0 - first, 15 - first)
    kernel = lsq(model.weight.detach(), weights.view(3, 1), -8, 7)
    step = (source * weights).detach()
    bias = torch.round(model.bias.detach() / step) * step
    (c * lsq(functional.linear(values, kernel, bias), last, 0 - z, 15 - z)).sum().backward()
    rows = zip(net.scales(), starts, (weights, source, last), (6, 6, 3), (7, 15 - first, 15 - z), strict=True)
    for ratio, start, by_hand, count, high in rows:
        moved = start * ratio.grad / (start / start.mean()) ** 2
        assert torch.allclose(moved, by_hand.grad / math.sqrt(count * high), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("scales", ["lsq+", "pact"])
def test_gradients_of_offsets_and_of_ends_of_ranges_are_those_of_the_papers(scales):
    """By hand, with the estimators as tested above: of ln(s / s_0) and of an offset in steps s_0, times 1 / s_0**2."""
    layer, x, c = nn.Linear(6, 3), randn(20, 6), randn(20, 3, seed=1)
    if scales == "pact":
        x = x.abs()
        with torch.no_grad():
            layer.bias.add_(1)
    model = nn.Sequential(layer, nn.ReLU() if scales == "pact" else nn.Identity())
    recipe = Recipe(Scheme(4, granularity="channel"), replace(AFFINE, bits=4))
    net = prepared(model, 0.4 * x, recipe, scales=scales)  # so that values are clipped
    (c * net(x)).sum().backward()
    (trained,), grids = net.layers().values(), [*net.grids.values()]
    step = (grids[0].scale * trained.grid.scale).detach()
    bias = torch.round(layer.bias.detach() / step) * step
    kernel = fake_quantize(layer.weight.detach(), trained.grid.qp)
    estimator, codes = (pact, (4,)) if scales == "pact" else (lsq_plus, (0, 15))
    leaves = [
        [t.detach().clone().requires_grad_() for t in ((g.learned,) if scales == "pact" else (g.scale, g.offset))]
        for g in grids
    ]
    hidden = functional.linear(estimator(x, *leaves[0], *codes), kernel, bias)
    (c * estimator(hidden, *leaves[1], *codes)).sum().backward()
    for grid, by_hand, count in zip(grids, leaves, (6, 3), strict=True):
        share = 1 if scales == "pact" else 1 / math.sqrt(count * 15)
        for p, leaf in zip(grid.parameters(), by_hand, strict=True):
            assert leaf.grad != 0
            assert torch.allclose(grid.start * p.grad, share * leaf.grad, rtol=1e-4)


def test_an_offset_stays_when_its_step_moves():
    """It counts in steps of the start."""
    grid = prepared(nn.Linear(4, 3), randn(20, 4), RECIPES["w4a8"], scales="lsq+").grids["input_1"]
    before = grid.offset.detach().clone()
    with torch.no_grad():
        grid.log_ratio.fill_(0.5)
    assert before != 0 and torch.equal(grid.offset, before)


def test_symmetric_values_stay_symmetric():
    """With LSQ+ too, which learns no offset of theirs."""
    net = prepared(convolutions(), IMAGES, Recipe(CHANNEL, Scheme(4)), scales="lsq+")
    assert len(net.scales()) == len(net.layers()) + len(net.grids)
    learn(net, IMAGES, steps=20, rate=0.1)
    assert all(int(grid.zero_point) == 0 for grid in net.grids.values())


# --- The six networks, all recipes --------------------------------------------------------------------------------

RECIPES = {
    "int8": Recipe.preset("int8"),
    "w4a8": Recipe.preset("w4a8"),
    "hybrid": Recipe.preset("hybrid"),
    "w4a4 mse": Recipe(replace(CHANNEL, bits=4, observer="mse"), replace(AFFINE, bits=4, observer="mse")),
    "one bit": Recipe(SIGNS, replace(AFFINE, bits=1), first_last="8 bits"),
    "signs of a tensor": Recipe(Scheme(1), AFFINE),
    "groups": Recipe(Scheme(4, granularity=2), AFFINE),
    "affine groups": Recipe(Scheme(4, symmetric=False, granularity=1), AFFINE),
    "dynamic": Recipe(CHANNEL, replace(AFFINE, dynamic=True)),
    "weights": Recipe(replace(CHANNEL, bits=3), None),
    "values": Recipe(None, AFFINE),
    "channels of values": Recipe(CHANNEL, replace(AFFINE, granularity="channel")),
    "signed values": Recipe(Scheme(symmetric=False), Scheme(6)),
}


class UNet(nn.Module):
    """Transposed convolutions in groups, values that meet."""

    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU6())
        self.up, self.norm = nn.ConvTranspose2d(16, 8, 2, 2, groups=2, bias=False), nn.BatchNorm2d(8)
        self.out = nn.Linear(16, 3)

    def forward(self, x):
        wide = self.down(x)
        return self.out(torch.cat([functional.relu(self.norm(self.up(self.deep(wide)))), wide], 1).mean((2, 3)))


class Shared(nn.Module):
    """A convolution called twice, with a batch norm of its own behind each call."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)
        self.first, self.second = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x):
        return self.head(self.second(self.conv(functional.relu(self.first(self.conv(x))))).mean((2, 3)))


def signal_net():
    return nn.Sequential(
        *(nn.Conv1d(3, 6, 3), nn.BatchNorm1d(6), nn.ReLU6(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(6, 3))
    )


SMALL = {
    "convolutions": (convolutions, IMAGES),
    "unet": (UNet, IMAGES),
    "shared": (Shared, IMAGES),
    "signal": (signal_net, randn(24, 3, 12)),
    "linear": (lambda: nn.Linear(4, 3), randn(24, 4)),
    "no weights": (lambda: nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), IMAGES),
}


def small(name):
    """A network of its own with batch norms that have seen something."""
    make, x = SMALL[name]
    model = make()
    for norm in model.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm) and name != "convolutions":
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)
    return model.eval(), x


def fitting(recipe, model):
    """A recipe with groups can't have layers whose inputs they don't divide."""
    if recipe != "groups":
        return RECIPES[recipe]
    graph = trace(model)
    odd = [node.label for node in graph.layers() if graph.layer(node).weight[0].numel() % 2]
    return Recipe(RECIPES[recipe].weights, AFFINE, tuple(Override(n, weights={"granularity": "channel"}) for n in odd))


def assert_deployed(net, x):
    """In evaluation mode a network computes what its converted model does, and that, what integers do."""
    quantized = convert(net)
    assert torch.equal(evaluated(net, x), quantized(x))
    return quantized


ODD = ("signs of a tensor", "affine groups", "signed values")


@pytest.mark.parametrize(
    ("name", "recipe"),
    [*itertools.product(NETS, [r for r in RECIPES if r not in ODD]), *itertools.product(SMALL, RECIPES)],
)
def test_a_network_is_what_ptq_makes_of_it_until_it_is_trained(name, recipe):
    """And, trained or not, in evaluation mode what its converted model is."""
    model, x = (models.load(name), digits(8)[0]) if name in NETS else small(name)
    chosen = fitting(recipe, model)
    net = prepared(model, x, chosen)
    same_model(assert_deployed(net, x), ptq(model, x, chosen))
    if any(p.requires_grad for p in net.parameters()):
        optimizer = torch.optim.SGD(net.parameters(), 1e-3)
        functional.cross_entropy(net(x), torch.arange(len(x)) % 3).backward()
        optimizer.step()
        assert_deployed(net, x)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("name", [*NETS, *SMALL])
def test_it_is_whatever_learns(name, scales):
    """Of few bits, after some steps of an optimizer, and integers compute the same bits as their definition."""
    model, x = (models.load(name), digits(8)[0]) if name in NETS else small(name)
    recipe = Recipe(replace(CHANNEL, bits=4), replace(AFFINE, bits=4))
    net = prepared(model, x, recipe, scales=scales)
    if name == "no weights":
        evaluated(net, x)
    else:
        learn(net, x, steps=3)
    quantized = assert_deployed(net, x)
    for key, grid in net.grids.items():
        assert torch.equal(quantized.quantizers[key].scale, grid.qp.scale)
        assert torch.equal(quantized.quantizers[key].zero_point, grid.qp.zero_point)
    engine = IntegerModel(quantized)
    assert torch.equal(engine(x), engine.simulate(x))


@pytest.mark.parametrize("scales", [*SCALES, "lsq start"])
@pytest.mark.parametrize("recipe", ["groups", "channels of values", "one bit", "signed values", "affine groups"])
def test_every_recipe_learns_every_way(recipe, scales):
    model, x = small("unet")
    options = {"scales": "lsq", "start": "lsq"} if scales == "lsq start" else {"scales": scales}
    net = prepared(model, x, fitting(recipe, model), **options)
    learn(net, x, steps=3)
    assert_deployed(net, x)


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("weights", [SIGNS, CHANNEL, Scheme(4)], ids=["signs", "int8", "of a tensor"])
def test_filters_of_zeros_and_tiny_ones_keep_their_biases(weights, scales):
    """The step gives way as it does after training, in the network that trains too."""
    model, x = nn.Linear(4, 4), randn(9, 4)
    with torch.no_grad():
        model.weight[0], model.weight[1], model.weight[2] = 0, 1e-12, 0
        model.bias.copy_(torch.tensor([0.5, 0.8, 0.0, -1.0]))
    net = prepared(model, x, Recipe(weights, AFFINE), scales=scales)
    for _ in range(2):
        assert_deployed(net, x)
        for mode in (True, False):
            y = net.train(mode)(x).detach()
            assert torch.allclose(y[:, :3], model.bias[:3].expand(9, 3), atol=0.05)
        net.train()


def test_biases_of_tiny_filters_have_steps_of_their_own():
    """Each bias takes almost all of the codes that INT32 has, whatever the others are: float32 to its last bit."""
    model = nn.Linear(4, 2)
    with torch.no_grad():
        model.weight *= 1e-12
        model.bias.copy_(torch.tensor([1e-5, 1.0]))
    (layer,) = prepared(model, randn(9, 4)).layers().values()
    assert torch.allclose(
        layer.bias_on_grid(model.bias, model.weight, None, torch.float64), model.bias, rtol=1e-7, atol=0
    )


def test_dead_channels_stay_finite():
    """gamma = 0 folds a filter to zeros; its batch norm still gives beta."""
    for scales in SCALES:
        model = convolutions()
        with torch.no_grad():
            model[1].weight[:2] = 0
        net = prepared(model, IMAGES, RECIPES["w4a4 mse"], scales=scales)
        assert all(math.isfinite(loss) for loss in learn(net, IMAGES, steps=3))
        assert all(p.isfinite().all() and p.grad.isfinite().all() for p in net.parameters())
        assert_deployed(net, IMAGES)


def test_a_relu_is_left_to_a_grid_only_where_all_read_the_grid():
    """Here a layer in float reads what a layer of integers reads too."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = (nn.Linear(6, 6) for _ in range(3))

        def forward(self, x):
            y = functional.relu(self.first(x))
            return self.second(y) + self.third(y)

    model, x = Both(), randn(20, 6)
    for kept in (("first", "third"), ("second",), ("first", "second"), ("first",)):
        recipe = Recipe(CHANNEL, AFFINE).kept_float(*kept)
        for scales in SCALES:
            net = prepared(model, x, recipe, scales=scales)
            assert_deployed(net, x)
            assert torch.allclose(net.train()(x), model(x), atol=0.05)


@pytest.mark.parametrize("scales", SCALES)
def test_a_relu_stays_where_its_grid_may_move_and_a_relu6_everywhere(scales):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU6(), nn.Linear(4, 3))
    net = prepared(model, randn(20, 4), scales=scales)
    kinds = {type(m) for m in net.network.modules()}
    assert (nn.ReLU in kinds) == (scales in ("observed", "lsq+")) and nn.ReLU6 in kinds
    assert {nn.ReLU, nn.ReLU6} <= {type(m) for m in convert(net).network.modules()}


@pytest.mark.parametrize("bias", [True, False])
def test_corrections_of_a_layer_called_twice(bias):
    """Each call has a bias of its own, also where the layer has none."""

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 4, bias=bias)

        def forward(self, x):
            return self.layer(functional.relu(self.layer(x)))

    model, x = Twice(), randn(30, 4)
    same_model(assert_deployed(prepared(model, x, RECIPES["w4a8"]), x), ptq(model, x, RECIPES["w4a8"]))


def test_a_file_of_a_trained_network_agrees_in_another_runtime(tmp_path):
    """As after calibration alone: 98 % of codes, 99.9 % of decisions."""
    test, _ = digits(1000, "test")
    for name, recipe in (("residual", "int8"), ("plain", Recipe(replace(CHANNEL, bits=4), replace(AFFINE, bits=4)))):
        net = prepared(models.load(name), digits(128)[0], recipe, scales="lsq")
        train(net, *digits(256), epochs=1, progress=False)
        quantized = convert(net)
        to_onnx(quantized, tmp_path / "model.onnx", test[:1])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
        theirs = torch.from_numpy(session.run(None, {session.get_inputs()[0].name: test.numpy()})[0])
        engine = IntegerModel(quantized)
        ours = quantized(test)
        for other in (theirs, engine(test)):
            assert (other == ours).double().mean() >= 0.98
            assert (other.argmax(1) == ours.argmax(1)).double().mean() >= 0.999
        assert torch.equal(engine(test), engine.simulate(test))


def test_what_a_trained_network_becomes(tmp_path):
    """The same report, file and size as after calibration alone; the network can be trained on."""
    model, x = convolutions(), IMAGES
    net = prepared(model, x, RECIPES["w4a8"], scales="lsq+")
    learn(net, x, steps=2)
    before = copy.deepcopy(net)
    quantized = convert(net)
    same_state(net, before)
    assert net.training
    reference = ptq(model, x, RECIPES["w4a8"])
    assert quantized.size() == reference.size()
    pairs = zip(quantized.report().rows, reference.report().rows, strict=True)
    for mine, theirs in pairs:
        assert (mine.label, mine.op, mine.weight_bits, mine.bytes) == (
            theirs.label,
            theirs.op,
            theirs.weight_bits,
            theirs.bytes,
        )
    quantized.save(tmp_path / "model")
    assert torch.equal(QuantizedModel.load(tmp_path / "model")(x), quantized(x))
    learn(net, x)
    assert not torch.equal(quantized(x), convert(net)(x))


def test_nothing_of_a_converted_network_learns():
    """Nor what has no codes: norms of layers, embeddings of positions."""
    converted = convert(prepared(models.load("vit"), digits(8)[0]))
    assert [*converted.parameters()] and not any(p.requires_grad for p in converted.parameters())


@pytest.mark.parametrize("name", ["convolutions", "unet", "linear"])
def test_until_it_is_trained_the_report_is_that_of_ptq(name):
    """In all rows: errors too, which are those of the codes against the weights in floats."""
    model, x = small(name)
    recipe = RECIPES["w4a4 mse"]
    mine, theirs = (q.report().rows for q in (convert(prepared(model, x, recipe)), ptq(model, x, recipe)))
    assert list(mine) == list(theirs)


# --- Batch norms ---------------------------------------------------------------------------------------------------


def factor_of(norm):
    return (norm.weight / torch.sqrt(norm.running_var + norm.eps)).detach()


def first_convolution(net, model, x):
    """What the first convolution computes, by hand: the codes of its folded weight, whose scales go with the factor."""
    layer = net.network.get_submodule("0")
    first, now = (factor_of(norm).view(-1, 1, 1, 1) for norm in (model[1], layer.norm))
    qp = layer.grid.qp
    stretched = QParams(qp.scale * (now / first).abs().flatten(), qp.zero_point, qp.dtype, axis=0)
    weight = fake_quantize(layer.layer.weight * now, stretched) / now
    values = fake_quantize(x, net.grids["input_1"].qp)
    return functional.conv2d(values, weight, layer.layer.bias).detach()


def test_running_statistics_are_those_of_the_quantized_convolution():
    model = convolutions()
    net = prepared(model, IMAGES, RECIPES["w4a4 mse"])
    reference, norm = copy.deepcopy(model[1]).train(), net.network.get_submodule("0").norm
    for i in range(3):
        x = IMAGES[8 * i : 8 * i + 8]
        reference(first_convolution(net, model, x))
        net(x)
        assert torch.allclose(norm.running_mean, reference.running_mean, rtol=1e-4, atol=1e-6)
        assert torch.allclose(norm.running_var, reference.running_var, rtol=1e-4)
        assert int(norm.num_batches_tracked) == i + 1
    assert (norm.running_mean - model[1].running_mean).abs().max() > 0.01


def resized(net):
    """Make the norm of the first convolution give its channels other sizes; by how much."""
    norm = net.network.get_submodule("0").norm
    before = factor_of(norm)
    with torch.no_grad():
        norm.weight *= torch.tensor([2.0, 0.5, 8.0, 1.0])
        norm.running_var *= torch.tensor([0.25, 4.0, 1.0, 16.0])
    return factor_of(norm) / before


@pytest.mark.parametrize("recipe", ["int8", "w4a4 mse", "groups", "affine groups", "one bit"])
@pytest.mark.parametrize("scales", SCALES)
def test_what_a_norm_does_to_the_size_of_a_channel_changes_no_code(recipe, scales):
    """Scales of the folded weight go along with |gamma / sigma|."""
    last = Override("7", weights={"granularity": "channel"})
    chosen = Recipe(Scheme(4, granularity=3), AFFINE, (last,)) if recipe == "groups" else RECIPES[recipe]
    net = prepared(convolutions(), IMAGES, chosen, scales=scales)
    (before, *others), ratio = convert(net).weights.values(), resized(net)
    (after, *same), _ = convert(net).weights.values(), assert_deployed(net, IMAGES)
    assert torch.equal(before.codes, after.codes)
    shape = 4, -1
    assert torch.allclose(after.scale.view(shape), before.scale.view(shape) * ratio.view(shape), rtol=1e-5)
    for one, other in zip(others, same, strict=True):
        assert torch.equal(one.codes, other.codes) and torch.equal(one.scale, other.scale)


def test_a_norm_that_changes_its_sign_turns_the_codes():
    net = prepared(convolutions(), IMAGES)
    before, norm = next(iter(convert(net).weights.values())), net.network.get_submodule("0").norm
    with torch.no_grad():
        norm.weight[1] *= -1
    after = next(iter(convert(net).weights.values()))
    assert torch.equal(after.codes, before.codes * torch.tensor([1, -1, 1, 1]).view(-1, 1, 1, 1))
    assert torch.equal(after.scale, before.scale)


def test_one_scale_for_all_outputs_stays():
    net = prepared(convolutions(), IMAGES, Recipe(Scheme(4), AFFINE))
    before, _ = next(iter(convert(net).weights.values())), resized(net)
    after = next(iter(convert(net).weights.values()))
    assert torch.equal(after.scale, before.scale) and not torch.equal(after.codes, before.codes)
    assert_deployed(net, IMAGES)


@pytest.mark.parametrize("scales", ["fixed", "observed", "lsq"])
def test_freezing_changes_no_more_than_the_statistics(scales):
    """Once running ones are those of the batch, a frozen network gives what the one before gave."""
    net = prepared(convolutions(momentum=1.0), IMAGES, RECIPES["weights"], scales=scales, freeze_norms_after=3)
    resized(net)
    with torch.no_grad():
        *_, before, frozen = (net(IMAGES) for _ in range(4))
    # The running variance is that of the sample: 1 / (24 * 36) more.
    assert torch.allclose(frozen, before, atol=2e-3 * float(before.abs().max()))


def test_starting_anew_knows_the_size_of_channels():
    net = prepared(convolutions(), IMAGES, RECIPES["w4a4 mse"], scales="lsq")
    resized(net)
    net.restart()
    layer = net.network.get_submodule("0")
    weight, _ = layer.folded()
    assert torch.allclose(layer.grid.step(weight, layer.stretch), lsq_start(weight, 7, axis=0), rtol=1e-5)


def test_a_norm_learns_by_its_own_derivative_alone():
    """The factor in front of the grid is a constant: d/dgamma is the sum of the gradient times (y - mu) / sigma."""
    net = prepared(convolutions(), IMAGES, Recipe(replace(CHANNEL, bits=2), AFFINE))
    norm, seen = net.network.get_submodule("0").norm, []

    def hook(_, inputs, output):
        output.retain_grad()
        seen.append((inputs[0].detach(), output))

    norm.register_forward_hook(hook)
    functional.cross_entropy(net(IMAGES), LABELS).backward()
    ((y, output),) = seen
    mean, variance = y.mean((0, 2, 3), keepdim=True), y.var((0, 2, 3), unbiased=False, keepdim=True)
    expected = (output.grad * (y - mean) / torch.sqrt(variance + norm.eps)).sum((0, 2, 3))
    assert torch.allclose(norm.weight.grad, expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("after", [0, 1, 3])
def test_frozen_after_so_many_passes(after):
    """From then on the statistics stay, the norm is folded, and images of a batch know nothing of each other."""
    net = prepared(convolutions(), IMAGES, freeze_norms_after=after)
    norm, called = net.network.get_submodule("0").norm, []
    norm.register_forward_hook(lambda *_: called.append(1))
    assert net.training and net.steps == 0
    for i in range(after + 3):
        assert net.steps == i
        before = norm.running_mean.clone(), norm.running_var.clone()
        called.clear()
        with torch.no_grad():
            y = net(IMAGES[:8] * (1 + i / 10))
        assert len(called) == (i < after)
        moved = not (torch.equal(before[0], norm.running_mean) and torch.equal(before[1], norm.running_var))
        assert moved == (i < after)
        alone = copy.deepcopy(net)
        if after == 3 and i == 1:
            assert not torch.allclose(alone(IMAGES[:1] * 1.1), y[:1], atol=0.05)
        if i >= after:
            assert torch.allclose(alone(IMAGES[:1] * (1 + i / 10)), y[:1], atol=0.02)
    steps = net.steps
    evaluated(net, IMAGES)
    assert net.steps == steps
    for mode in (True, False, True):
        net.train(mode)
        assert not norm.training
    with torch.no_grad():
        # But for the rounding of values, to another code here and there.
        step = next(reversed(net.grids.values())).scale
        assert (net(IMAGES) - evaluated(net, IMAGES)).abs().max() <= 1.01 * step
    assert_deployed(net, IMAGES)


def test_a_pass_that_fails_is_no_step():
    net = prepared(nn.Linear(4, 3), torch.eye(4), freeze_norms_after=1)
    with pytest.raises(RuntimeError):
        net(torch.ones(2, 5))
    assert net.steps == 0


def test_never_frozen_unless_told():
    net = prepared(convolutions(), IMAGES, scales="observed")
    norm = net.network.get_submodule("0").norm
    for _ in range(5):
        before = norm.running_mean.clone(), net.grids["input_1"].high.clone()
        net(IMAGES)
        assert not torch.equal(norm.running_mean, before[0])
    net.eval()
    before = norm.running_mean.clone()
    net(IMAGES)
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize("frozen", [True, False])
def test_of_fourteen_bits_gradients_are_those_of_the_float_network(frozen):
    """With batch norms that use the statistics of the batch, and with frozen ones that are folded."""
    model = convolutions(momentum=1.0)
    model[1].train()(model[0](IMAGES))  # running statistics are now those of the batch
    model.train(not frozen)
    recipe = Recipe(replace(CHANNEL, bits=14), replace(AFFINE, bits=14))
    # With room for what rounding adds, so that nothing is clipped.
    net = prepared(model, 1.5 * IMAGES, recipe, freeze_norms_after=0 if frozen else None)
    labels = torch.arange(24) % 3
    for network in (model, net):
        network.zero_grad()
        functional.cross_entropy(network(IMAGES), labels).backward()
    ours = dict(net.named_parameters())
    names = {"0": "0.layer", "1": "0.norm", "3": "3.layer", "7": "7.layer"}
    for name, p in model.named_parameters():
        place, kind = name.split(".")
        mine = ours.pop(f"network.{names[place]}.{kind}").grad
        if name == "0.bias" and not frozen:
            assert mine.abs().max() < 1e-5  # the batch norm takes it away
        else:
            assert (mine - p.grad).abs().max() < 0.02 * p.grad.abs().max()
    assert not ours


@pytest.mark.parametrize("norm", [{"affine": False}, {"momentum": None}, {"eps": 0.1}])
def test_batch_norms_of_other_kinds(norm):
    net = prepared(convolutions(**norm), IMAGES)
    same_model(assert_deployed(net, IMAGES), ptq(convolutions(**norm), IMAGES))
    learn(net, IMAGES, steps=2)
    assert_deployed(net, IMAGES)


@pytest.mark.parametrize("name", [*NETS, "unet", "shared", "signal"])
@pytest.mark.parametrize("scales", SCALES)
def test_gradients_reach_every_parameter(name, scales):
    model, x = (models.load(name), digits(8)[0]) if name in NETS else small(name)
    model.requires_grad_(True)
    net = prepared(model, x, Recipe(replace(CHANNEL, bits=4), replace(AFFINE, bits=4)), scales=scales)
    y = net(x)
    (y * torch.randn(y.shape)).sum().backward()
    found = dict(net.named_parameters())
    for key, p in found.items():
        assert p.requires_grad and p.grad is not None and p.grad.isfinite().all(), key
        # A norm takes away the bias before it; offsets, and of PACT the ends of ranges, count where values are clipped.
        normed = key.endswith("layer.bias") and key.removesuffix("layer.bias") + "norm.weight" in found
        clips = key.endswith("shift") or (scales == "pact" and key.endswith("log_ratio"))
        assert p.grad.any() or normed or clips, key
    assert bool(net.scales()) == (scales not in ("fixed", "observed"))


# --- Ranges that are observed ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("observer", "share"), [("minmax", 0.01), ("moving 0.5", 0.5), ("moving", 0.01), ("percentile 99", 0.01)]
)
@pytest.mark.parametrize("channels", [True, False])
def test_moving_ranges_by_hand(observer, share, channels):
    """m + c (x - m) for the ends of each batch, and the affine grid that these ends give."""
    granularity = "channel" if channels else "tensor"
    values = replace(AFFINE, observer=observer, granularity=granularity)
    model, x = nn.Linear(4, 3), randn(10, 4)
    net = prepared(model, x, Recipe(CHANNEL, values), scales="observed", freeze_ranges_after=4)
    grid = net.grids["input_1"]

    def ends(x):
        return (x.amin(0), x.amax(0)) if channels else (x.min(), x.max())

    low, high = ((q - grid.zero_point) * grid.scale for q in (0, 255))
    for i in range(6):
        x = (1 + i) * randn(10, 4, seed=i)
        if i < 4:
            low, high = (m + share * (e - m) for m, e in zip((low, high), ends(x), strict=True))
        net(x)
        qp, same = (
            choose_qparams(*pair, UINT8, symmetric=False, axis=0 if channels else None)
            for pair in ((low, high), (grid.low, grid.high))
        )
        assert torch.allclose(grid.scale, qp.scale, rtol=1e-5)
        assert (grid.zero_point - qp.zero_point).abs().max() <= (1 if channels else 0)
        assert torch.equal(grid.scale, same.scale) and torch.equal(grid.zero_point, same.zero_point)
    before = grid.scale.clone()
    evaluated(net, 100 * x)
    assert torch.equal(grid.scale, before)


def test_moving_ranges_of_symmetric_values_by_hand():
    """Each end by itself, and the symmetric grid that the farther one gives; at the start both are that of the grid."""
    values = replace(Scheme(3), observer="moving 0.1")
    net = prepared(nn.Linear(4, 3), randn(10, 4), Recipe(CHANNEL, values), scales="observed")
    grid = net.grids["input_1"]
    high = 3 * grid.scale.clone()
    low = -high
    for i in range(3):
        x = randn(10, 4, seed=i)
        x = x / x.abs().max()
        low, high = low + 0.1 * (x.min() - low), high + 0.1 * (x.max() - high)
        net(x)
        assert torch.allclose(grid.scale, torch.maximum(-low, high) / 3, rtol=1e-5)
        assert int(grid.zero_point) == 0


def test_ranges_of_weights_follow_the_weights():
    model, x = nn.Linear(6, 3), randn(10, 6)
    for scheme, expected in (
        (CHANNEL, lambda w: w.abs().amax(1) / 127),
        (Scheme(4), lambda w: w.abs().max() / 7),
        (Scheme(4, symmetric=False), lambda w: (w.max().clamp(min=0) - w.min().clamp(max=0)) / 15),
        (Scheme(4, granularity=2), lambda w: w.view(-1, 2).abs().amax(1) / 7),
    ):
        net = prepared(model, x, Recipe(scheme, None), scales="observed", freeze_ranges_after=2)
        layer, scale = next(iter(net.layers().values())), None
        for i in range(4):
            with torch.no_grad():
                layer.layer.weight.mul_(0.5 + i).add_(0.01)
                scale = expected(layer.layer.weight) if i < 2 else scale
            net(x)
            assert torch.allclose(layer.grid.scale, scale, rtol=1e-5)
        assert_deployed(net, x)


# --- A module like others --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", SCALES)
def test_a_state_has_all_that_training_changes(scales, tmp_path):
    def made():
        options = {"freeze_norms_after": 2, "freeze_ranges_after": 3}
        return prepared(convolutions(), IMAGES, RECIPES["w4a4 mse"], scales=scales, **options)

    net = made()
    learn(net, IMAGES, steps=3)
    other = made()
    assert not net.network.get_submodule("0").norm.training
    assert other.network.get_submodule("0").norm.training
    other.load_state_dict(net.state_dict())
    assert other.steps == 3 and not other.network.get_submodule("0").norm.training
    torch.save(net, tmp_path / "pickle")
    torch.save(net.state_dict(), tmp_path / "state")
    third = made().eval()
    third.load_state_dict(torch.load(tmp_path / "state", weights_only=True))
    others = [other, copy.deepcopy(net), torch.load(tmp_path / "pickle", weights_only=False), third.train()]
    expected = learn(net, IMAGES, steps=2)
    for copied in others:
        assert copied.steps == 3
        assert learn(copied, IMAGES, steps=2) == expected
        same_state(copied, net)
        same_model(convert(copied), convert(net))
    net.load_state_dict(made().state_dict())
    assert net.steps == 0 and net.network.get_submodule("0").norm.training


def test_copies_share_nothing():
    net = prepared(convolutions(), IMAGES, scales="lsq+")
    twin = copy.deepcopy(net)
    learn(twin, IMAGES, steps=2)
    same_state(net, prepared(convolutions(), IMAGES, scales="lsq+"))
    assert {p.data_ptr() for p in net.parameters()}.isdisjoint(p.data_ptr() for p in twin.parameters())


@pytest.mark.parametrize("training", [True, False])
def test_the_network_given_stays_as_it_is(training):
    model = convolutions().train(training)
    model[0].requires_grad_(False)
    before = copy.deepcopy(model)
    net = prepared(model, IMAGES, scales="lsq")
    learn(net, IMAGES, steps=2)
    convert(net)
    same_state(model, before)
    for (name, p), (_, q) in zip(model.named_parameters(), before.named_parameters(), strict=True):
        assert p.requires_grad == q.requires_grad and p.grad is None, name
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    assert frozen == {"network.0.layer.weight", "network.0.layer.bias"}


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("affine", [True, False])
def test_a_norm_without_a_layer_learns_if_it_did(affine, learns):
    model = nn.Sequential(
        *(nn.ReLU(), nn.BatchNorm2d(3, affine=affine), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 3))
    )
    model[1].requires_grad_(learns)
    net = prepared(model.eval(), IMAGES)
    found = [p.requires_grad for name, p in net.named_parameters() if name.startswith("network.1")]
    assert found and set(found) == {learns and affine}


@pytest.mark.parametrize("scales", SCALES)
def test_an_ordinary_loop_lowers_the_loss(scales):
    images, labels = digits(256)
    recipe = Recipe(replace(CHANNEL, bits=3), replace(AFFINE, bits=3))
    net = prepared(models.load("mlp"), images, recipe, scales=scales)
    optimizer = torch.optim.AdamW(net.parameter_groups(1e-3))
    losses = []
    for _ in range(25):
        loss = functional.cross_entropy(net(images), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.6 * losses[0]


@pytest.mark.parametrize("scales", SCALES)
@pytest.mark.parametrize("name", ["convolutions", "unet", "shared"])
def test_groups_have_every_parameter_once(name, scales):
    model, x = small(name)
    net = prepared(model, x, scales=scales)
    groups = net.parameter_groups(0.5, 0.25, 0.1)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted({id(p) for p in net.parameters()})
    learned = {id(scale) for scale in net.scales()}
    for group in groups:
        for p in group["params"]:
            if id(p) in learned:
                assert group["weight_decay"] == 0
            else:
                assert (group["lr"], group["weight_decay"]) == (0.5, 0.1)
    torch.optim.AdamW(groups)
    same = net.parameter_groups(0.25)
    assert [g["lr"] for g in same[1:]] == [g["lr"] for g in groups[1:]] == [0.25] * bool(learned)


@pytest.mark.parametrize("value", [-1000.0, 1000.0, math.nan, math.inf])  # exp gives 0 and infinity
@pytest.mark.parametrize("scales", ["lsq", "lsq+", "pact"])
def test_a_scale_that_was_lost_is_named(scales, value):
    """In training and evaluation, and on conversion; of many it is enough if one is."""
    for i in range(len(prepared(convolutions(), IMAGES, scales=scales).scales())):
        net = prepared(convolutions(), IMAGES, scales=scales)
        name = {id(p): n for n, p in net.named_parameters()}[id(net.scales()[i])]
        if name.endswith("shift") and math.isfinite(value):
            continue
        with torch.no_grad():
            net.scales()[i].view(-1)[0] = value
        owner = next(
            f"weight of {net.graph[n].label}" if which == "weight" else f"values of {net.graph[n].label}"
            for which, grids in (
                ("weight", {n: layer.grid for n, layer in net.layers().items()}),
                ("values", dict(net.grids.items())),
            )
            for n, grid in grids.items()
            if any(p is net.scales()[i] for p in grid.parameters())
        )
        for call in (
            lambda net=net: net.train()(IMAGES),
            lambda net=net: net.eval()(IMAGES),
            lambda net=net: convert(net),
        ):
            with pytest.raises(ValueError, match=f"^{owner}: need"):
                call()


# --- Training ----------------------------------------------------------------------------------------------------------

LABELS = torch.arange(24) % 3
LEARNING = {"batch_size": 7, "epochs": 3, "learning_rate": 3e-3, "progress": False}  # nine steps


FREEZING = {"freeze_norms_after": 3, "freeze_ranges_after": 5}


@cache
def made(scales, recipe):
    return prepared(convolutions(), IMAGES, RECIPES[recipe], scales=scales, **FREEZING)


def fresh(scales="lsq", recipe="w4a4 mse"):
    """A network whose norms and ranges are frozen in the middle of nine steps."""
    return copy.deepcopy(made(scales, recipe))


def trained(net, **options):
    return train(net, **{"images": IMAGES, "labels": LABELS, **LEARNING, **options})


class InterruptionError(Exception):
    pass


def interrupt(net, step):
    """Let the forward pass of a step raise, the first being 0."""

    def hook(net, _):
        if net.training and net.steps == step:
            raise InterruptionError

    return net.register_forward_pre_hook(hook)


def watch(net):
    """What goes into a network and comes out of it, and the gradient of the loss with respect to that, step by step."""
    seen, scores, gradients = [], [], []

    def hook(net, inputs, y):
        if not net.training:
            return
        seen.append(inputs[0].clone())
        scores.append(y.detach().clone())
        y.register_hook(gradients.append)

    net.register_forward_hook(hook)
    return seen, scores, gradients


def numbered(count, labels=None):
    """A layer and images that are their own numbers."""
    images = torch.arange(count, dtype=torch.float32).view(-1, 1).expand(-1, 4).contiguous()
    return prepared(nn.Linear(4, 3), images, Recipe(CHANNEL, None)), images, torch.arange(count) % 3


@pytest.mark.parametrize("scales", SCALES)
def test_training_is_repeatable(scales):
    """For a seed, whatever the state of chance is, which stays as it is; another seed is another training."""
    runs = []
    for chance, seed in ((1, 5), (2, 5), (1, 6)):
        net = fresh(scales)
        torch.manual_seed(chance)
        before = torch.get_rng_state()
        runs.append((trained(net, seed=seed), net))
        assert torch.equal(torch.get_rng_state(), before)
        assert not net.training and not any(m.training for m in net.modules())
        assert net.steps == len(runs[-1][0]) == 9
    (losses, net), (again, twin), (others, _) = runs
    assert losses == again and same_state(net, twin)
    assert losses != others


@pytest.mark.parametrize(("count", "size"), [(23, 5), (20, 5), (9, 10), (10, 10), (7, 1), (6, 4)])
def test_each_image_is_seen_once_an_epoch_with_its_own_label(count, size):
    """But for the incomplete last batch; if there are fewer images than a batch has, all are seen."""
    net, images, labels = numbered(count)
    seen, scores, _ = watch(net)
    losses = train(net, images, labels, 4, size, progress=False)
    steps = max(1, count // size)
    assert len(seen) == len(losses) == 4 * steps
    epochs = []
    for i in range(0, len(seen), steps):
        numbers = torch.cat([x[:, 0] for x in seen[i : i + steps]]).long().tolist()
        assert len(numbers) == len(set(numbers)) == min(count, steps * size)
        assert all(len(x) == min(size, count) for x in seen)
        epochs.append(tuple(numbers))
    assert len(set(epochs)) == 4  # each epoch has an order of its own, and leaves out others
    for x, y, loss in zip(seen, scores, losses, strict=True):
        assert functional.cross_entropy(y, labels[x[:, 0].long()]).item() == loss


def test_the_order_follows_from_seed_and_epoch_alone():
    """Not from the size of batches, the network or the number of epochs; of no two epochs and seeds is it the same."""
    orders = {}
    for seed, size, epochs in ((0, 3, 3), (0, 12, 4), (1, 4, 3), (2, 6, 2)):
        net, images, labels = numbered(12)
        seen, _, _ = watch(net)
        train(net, images, labels, epochs, size, seed=seed, progress=False)
        numbers = torch.cat([x[:, 0] for x in seen]).view(epochs, 12).long().tolist()
        for epoch, order in enumerate(numbers):
            assert orders.setdefault((seed, epoch), order) == order
    assert len({tuple(order) for order in orders.values()}) == len(orders) == 4 + 3 + 2


@pytest.mark.parametrize("teaching", [False, True])
@pytest.mark.parametrize("scales", SCALES)
def test_a_training_is_this_loop(scales, teaching):
    """AdamW, in torch's own form, with rates lr (1 + cos(pi t / T)) / 2; no decay of learned scales."""
    net, twin = fresh(scales), fresh(scales)
    teacher = convolutions() if teaching else None
    seen, _, _ = watch(net)
    options = {"teacher": teacher, "temperature": 3.0, "teacher_share": 0.7}
    losses = trained(net, scale_learning_rate=2e-3, weight_decay=0.1, seed=3, **options)
    apart = {id(p) for p in twin.scales()}
    optimizer = torch.optim.AdamW(
        [{"params": [p], "weight_decay": 0.0 if id(p) in apart else 0.1} for p in twin.parameters()]
    )
    for t, x in enumerate(seen):
        for group in optimizer.param_groups:
            start = 2e-3 if id(group["params"][0]) in apart else 3e-3
            group["lr"] = start * (1 + math.cos(math.pi * t / 9)) / 2
        numbers = (x[:, None] == IMAGES[None]).flatten(2).all(2).int().argmax(1)
        y = twin(x)
        loss = functional.cross_entropy(y, LABELS[numbers])
        if teaching:
            p, q = (functional.log_softmax(z / 3, 1) for z in (teacher(x).detach(), y))
            loss = (1 - 0.7) * loss + 0.7 * (9 * functional.kl_div(q, p, reduction="batchmean", log_target=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert losses[t] == pytest.approx(loss.item(), rel=1e-6)
    for (name, p), q in zip(net.named_parameters(), twin.parameters(), strict=True):
        assert torch.allclose(p, q, rtol=1e-3, atol=1e-6), name


@pytest.mark.parametrize("epochs", [1, 2, 5])
def test_rates_fall_as_a_cosine_and_decay_weights_alone(epochs):
    """Where no gradient comes, a step of AdamW multiplies a weight by 1 - rate times decay."""
    model, x, rate, decay = nn.Linear(4, 3, bias=False), torch.zeros(6, 4), 0.5, 0.8
    net = prepared(model, randn(6, 4), Recipe(CHANNEL, AFFINE), scales="lsq")
    layer = next(iter(net.layers().values()))
    weights = []

    def hook(net, _):
        if net.training:
            weights.append(layer.layer.weight.detach().clone())

    net.register_forward_pre_hook(hook)
    train(net, x, LABELS[:6], epochs, 2, rate, weight_decay=decay, progress=False)
    weights.append(layer.layer.weight.detach().clone())
    total = 3 * epochs
    for t in range(total):
        factor = 1 - decay * rate * (1 + math.cos(math.pi * t / total)) / 2
        assert torch.allclose(weights[t + 1], factor * weights[t], rtol=1e-5)
    assert not layer.grid.log_ratio.any()


def test_the_first_step_moves_all_by_their_rates():
    """As Adam's does: weights by the one, scales by the other as parts of where they started."""
    for own, expected in ((1e-2, 1e-2), (None, 1e-3)):
        net = prepared(nn.Linear(4, 3), IMAGES.flatten()[:96].view(24, 4), RECIPES["w4a8"], scales="lsq")
        before = [p.detach().clone() for p in net.parameters()]
        apart = {id(p) for p in net.scales()}
        images = IMAGES.flatten()[:96].view(24, 4)
        train(net, images, LABELS, 1, 24, 1e-3, own, weight_decay=0, progress=False)
        for p, start in zip(net.parameters(), before, strict=True):
            moved = (p - start).abs()[p.grad != 0]  # LSQ gives none to the weight at the end of a range
            assert len(moved) > 0.6 * p.numel()
            assert torch.allclose(moved, torch.tensor(expected if id(p) in apart else 1e-3), rtol=1e-2)


# --- Interrupted, and gone on with ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", SCALES)
def test_an_interrupted_training_ends_as_one_that_was_not(scales, tmp_path):
    """Interrupted before each of its steps, and gone on with by a new network or the one that was stopped."""
    whole = fresh(scales)
    losses = trained(whole)
    for step, every, same in ((1, 1, False), (4, 3, True), (8, 2, False)):
        path, net = tmp_path / f"{step} {every}", fresh(scales)
        hook = interrupt(net, step)
        with pytest.raises(InterruptionError):
            trained(net, checkpoint=path, checkpoint_every=every)
        hook.remove()
        net = net if same else fresh(scales)
        seen, _, _ = watch(net)
        assert trained(net, checkpoint=str(path), checkpoint_every=4) == losses
        assert len(seen) == 9 - step // every * every
        assert same_state(net, whole)
        same_model(convert(net), convert(whole))
        assert not net.training
        # What is done, is done.
        again = fresh(scales)
        assert trained(again, checkpoint=path) == losses and same_state(again, whole)


def test_a_training_interrupted_again_and_again(tmp_path):
    """With a teacher; at each step but the first, and once before anything was written."""
    teacher, path = convolutions(), tmp_path / "checkpoint"
    whole = fresh()
    losses = trained(whole, teacher=teacher)
    for step in range(9):
        net = fresh()
        interrupt(net, step)
        with pytest.raises(InterruptionError):
            trained(net, teacher=teacher, checkpoint=path, checkpoint_every=1)
        assert path.exists() == (step > 0)
    net = fresh()
    assert trained(net, teacher=teacher, checkpoint=path) == losses and same_state(net, whole)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"]


def test_the_end_is_written_however_rare_checkpoints_are(tmp_path):
    net, path = fresh(), tmp_path / "checkpoint"
    losses = trained(net, checkpoint=path, checkpoint_every=100)
    again = fresh()
    seen, _, _ = watch(again)
    assert trained(again, checkpoint=path) == losses and not seen and same_state(again, net)


def test_a_second_training_goes_on_with_the_steps_of_the_first(tmp_path):
    """What freezes after so many passes counts those of both."""
    whole, net, path = fresh(), fresh(), tmp_path / "checkpoint"
    for first in (whole, net):
        trained(first, epochs=1)
    losses = trained(whole)
    interrupt(net, 3 + 4)
    with pytest.raises(InterruptionError):
        trained(net, checkpoint=path, checkpoint_every=2)
    other = fresh()
    assert trained(other, checkpoint=path) == losses and same_state(other, whole) and other.steps == 3 + 9


def test_chance_goes_on_where_it_was(tmp_path):
    """For a teacher that draws random numbers."""

    def noisy(x):
        return torch.randn(len(x), 3)

    whole, net, other, path = fresh(), fresh(), fresh(), tmp_path / "checkpoint"
    torch.manual_seed(7)
    losses = trained(whole, teacher=noisy)
    torch.manual_seed(7)
    interrupt(net, 4)
    with pytest.raises(InterruptionError):
        trained(net, teacher=noisy, checkpoint=path, checkpoint_every=2)
    torch.manual_seed(99)
    assert trained(other, teacher=noisy, checkpoint=path) == losses and same_state(other, whole)


def killed_while_writing(path):
    """In a process of its own: half of the fifth checkpoint is on the disk when there is no process any more."""
    torch.set_num_threads(1)
    written, write = [], Path.write_bytes

    def half(target, content):
        written.append(target)
        if len(written) == 5:
            write(target, content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return write(target, content)

    Path.write_bytes = half
    trained(fresh(), checkpoint=path, checkpoint_every=1)


def test_a_killed_training_ends_as_one_that_was_not(tmp_path):
    """A process that was killed in the middle of writing leaves the checkpoint before."""
    path, here = tmp_path / "checkpoint", Path(__file__)
    paths = [str(here.parent), str(here.parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    program = f"import {here.stem}; {here.stem}.killed_while_writing({str(path)!r})"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    whole, net = fresh(), fresh()
    losses = trained(whole)
    seen, _, _ = watch(net)
    assert trained(net, checkpoint=path) == losses and same_state(net, whole)
    assert len(seen) == 9 - 4


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The bytes of one, after three of nine steps."""
    path, net = tmp_path_factory.mktemp("runs") / "checkpoint", fresh()
    interrupt(net, 3)
    with pytest.raises(InterruptionError):
        trained(net, checkpoint=path, checkpoint_every=3)
    return path.read_bytes()


def refused(net, path, message, **options):
    """The checkpoint is, and neither it nor the network is changed."""
    before, content, modes = copy.deepcopy(net), path.read_bytes(), [m.training for m in net.modules()]
    chance = torch.get_rng_state()
    with pytest.raises(ValueError, match=rf"^checkpoint: {message}"):
        trained(net, checkpoint=path, **options)
    assert same_state(net, before)
    assert [m.training for m in net.modules()] == modes
    assert path.read_bytes() == content
    assert torch.equal(torch.get_rng_state(), chance)


@pytest.mark.parametrize(
    "setting",
    [
        *({"epochs": 4}, {"batch_size": 8}, {"learning_rate": 1e-3}, {"scale_learning_rate": 1e-3}, {"seed": 1}),
        *({"weight_decay": 0}, {"temperature": 3}, {"teacher_share": 0.25}),
    ],
    ids=str,
)
def test_a_checkpoint_of_other_settings_is_refused(setting, checkpoint, tmp_path):
    """The message says which, and what they were."""
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint)
    (name, value), *_ = setting.items()
    refused(fresh(), path, rf"need the settings of .*checkpoint, got another {name} \({value}.*, was ", **setting)


def test_a_checkpoint_of_other_images_or_another_teacher_is_refused(checkpoint, tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint)
    refused(fresh(), path, r"need .* another images \(23, was 24\)", images=IMAGES[1:], labels=LABELS[1:])
    refused(fresh(), path, r"need .* another teacher \(True, was False\)", teacher=convolutions())


def test_a_checkpoint_of_a_network_prepared_otherwise_is_refused(checkpoint, tmp_path):
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint)
    for scales in ("fixed", "observed", "lsq+", "pact"):
        refused(fresh(scales), path, "need .* another grids")
    refused(fresh(recipe="w4a8"), path, "need .* another recipe")
    for name in ("freeze_norms_after", "freeze_ranges_after"):
        net = prepared(convolutions(), IMAGES, RECIPES["w4a4 mse"], scales="lsq", **{**FREEZING, name: None})
        refused(net, path, rf"need .* another {name} \(None, was ")


def test_a_checkpoint_of_another_network_is_refused_in_whole(checkpoint, tmp_path):
    """Also if most of it would fit: other filters, another head, other names."""
    path = tmp_path / "checkpoint"
    path.write_bytes(checkpoint)
    head, filters, named = convolutions(), convolutions(), nn.Sequential()
    head[-1] = nn.Linear(5, 4)
    filters[3] = nn.Conv2d(4, 5, 2)
    for name, module in zip("abcdefgh", convolutions(), strict=True):
        named.add_module(name, module)
    for model in (head, filters, named.eval()):
        net = prepared(model, IMAGES, RECIPES["w4a4 mse"], scales="lsq", **FREEZING)
        refused(net, path, ".* is of another model: ")
        refused(net.eval(), path, ".* is of another model: ")


def test_a_damaged_checkpoint_is_refused(checkpoint, tmp_path):
    """A bit flipped anywhere, or a part that is missing."""
    path, generator, net = tmp_path / "checkpoint", torch.Generator().manual_seed(0), fresh()
    for place in (0, 40, *torch.randint(len(checkpoint), (30,), generator=generator).tolist(), len(checkpoint) - 1):
        damaged = bytearray(checkpoint)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        refused(net, path, "can't read")
    for size in (0, 1, *torch.randint(len(checkpoint), (8,), generator=generator).tolist(), len(checkpoint) - 1):
        path.write_bytes(checkpoint[:size])
        refused(net, path, "can't read")


def pack(state, path):
    """Write what train would: the SHA-256 of the rest comes first."""
    file = io.BytesIO()
    torch.save(state, file)
    path.write_bytes(hashlib.sha256(file.getvalue()).digest() + file.getvalue())


def unpack(checkpoint):
    return torch.load(io.BytesIO(checkpoint[32:]), weights_only=True)


class Evil:
    """What runs a command when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_file_that_is_no_checkpoint_is_refused(checkpoint, tmp_path):
    path, net = tmp_path / "checkpoint", fresh()
    state = unpack(checkpoint)
    path.write_text("no checkpoint")
    refused(net, path, "can't read")
    torch.save(state, path)  # without its sum
    refused(net, path, "can't read")
    for other in (torch.ones(3), [1, 2], {}, {"settings": 3, "losses": []}, {**state, "losses": 3}):
        pack(other, path)
        refused(net, path, "can't read")
    for part in ("model", "optimizer", "schedule", "chance"):
        for other in ({k: v for k, v in state.items() if k != part}, {**state, part: 3}, {**state, part: {}}):
            pack(other, path)
            refused(net, path, ".* is of another model")
    pack({**state, "model": {k: v for k, v in state["model"].items() if k != "_extra_state"}}, path)
    refused(net, path, ".* is of another model")
    pack({**state, "extra": Evil(str(tmp_path / "folder"))}, path)
    refused(net, path, "can't read")
    assert not (tmp_path / "folder").exists()


# --- With a teacher ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("temperature", "share"), [(1.0, 0.5), (2.0, 0.0), (2.5, 0.3), (4.0, 1.0), (0.5, 0.9), (50, 1)]
)
def test_distillation_by_the_formula(temperature, share):
    """(1 - c) CE + c T^2 sum p log(p / q) of each image, and its derivative (1 - c) (q_1 - y) + c T (q - p)."""
    net, teacher, taught = prepared(convolutions(), IMAGES), convolutions(), []
    with torch.no_grad():
        teacher[-1].weight.mul_(-1.3)

    def wanted(x):
        assert not torch.is_grad_enabled()
        taught.append(x.clone())
        return teacher(x)

    seen, scores, gradients = watch(net)
    options = {"teacher": wanted, "temperature": temperature, "teacher_share": share}
    losses = trained(net, batch_size=8, epochs=1, **options)
    taught.pop(0)  # one image, tried before anything is changed
    assert len(taught) == len(losses) == 3
    for x, same, y, g, loss in zip(seen, taught, scores, gradients, losses, strict=True):
        assert torch.equal(x, same)
        labels = LABELS[(x[:, None] == IMAGES[None]).flatten(2).all(2).int().argmax(1)]
        student, master, one_hot = y.double(), teacher(x).detach().double(), torch.eye(3).double()[labels]
        q_1, q, p = (
            z.exp() / z.exp().sum(1, keepdim=True) for z in (student, student / temperature, master / temperature)
        )
        cross_entropy = -(one_hot * q_1.log()).sum(1).mean()
        distance = (p * (p / q).log()).sum(1).mean()
        expected = (1 - share) * cross_entropy + share * temperature**2 * distance
        assert loss == pytest.approx(float(expected), rel=1e-4)
        slope = ((1 - share) * (q_1 - one_hot) + share * temperature * (q - p)) / 8
        assert torch.allclose(g.double(), slope, rtol=1e-3, atol=1e-5)


def test_shares_of_a_teacher():
    """Of none, it is as if there were no teacher; of all, labels count for nothing, only that they are there."""
    teacher, shuffled = convolutions(), LABELS.flip(0)
    assert not torch.equal(shuffled, LABELS)

    def run(**options):
        net = fresh()
        return trained(net, **options), net

    alone, none = run(), run(teacher=teacher, teacher_share=0)
    assert alone[0] == none[0] and same_state(alone[1], none[1])
    taught, other = (run(teacher=teacher, teacher_share=1, labels=y) for y in (LABELS, shuffled))
    assert taught[0] == other[0] and same_state(taught[1], other[1])
    assert taught[0] != alone[0]


def test_a_teacher_with_the_same_scores_teaches_nothing():
    net = prepared(convolutions(), IMAGES, freeze_norms_after=0)
    twin = copy.deepcopy(net)
    losses = trained(net, teacher=lambda x: twin(x), teacher_share=1, epochs=1, batch_size=24, weight_decay=0)
    assert losses == pytest.approx([0], abs=1e-6)


def test_the_teacher_stays_as_it_is():
    teacher = convolutions()
    before = copy.deepcopy(teacher)
    trained(fresh(), teacher=teacher)
    same_state(teacher, before)
    assert not teacher.training and all(p.grad is None for p in teacher.parameters())


@pytest.mark.parametrize(("rate", "loss"), [(2e18, "inf"), (1e20, "nan")])
def test_a_loss_that_is_not_finite_ends_the_training(rate, loss, tmp_path):
    """Before anything is written or learned from it: a sum of losses beyond float32, and scores beyond it."""
    net = prepared(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), None, Recipe(None, None))
    path, x = tmp_path / "checkpoint", randn(24, 4)
    message = re.escape(f"learning_rate: the loss became {loss} in step 2; need a smaller one than {rate}")
    with pytest.raises(ValueError, match=f"^{message}$"):
        train(net, x, LABELS, 2, 24, rate, checkpoint=path, checkpoint_every=1, progress=False)
    assert len(unpack(path.read_bytes())["losses"]) == 1
    assert all(p.isfinite().all() for p in net.parameters())


# --- Tiny channels -----------------------------------------------------------------------------------------------------


def adams_bound(t, first=0.9, second=0.999):
    """How many rates a step of Adam is at most, by Cauchy and Schwarz: the mean of gradients over the root of that of squares."""
    ages = torch.arange(t, dtype=torch.float64)
    a, b = first**ages, second**ages
    a, b = a / a.sum(), b / b.sum()
    return float((a**2 / b).sum().sqrt())


@pytest.mark.parametrize("scales", ["lsq", "lsq+"])
@pytest.mark.parametrize("recipe", ["w4a8", "channels of values", "affine groups"])
def test_scales_of_tiny_channels_move_by_parts_of_themselves(scales, recipe):
    """However small they are beside others: no step of Adam takes one below zero."""
    model, rate = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3), nn.Flatten(), nn.Linear(80, 3)), 1e-2
    sizes = torch.tensor([1.0, 1e-2, 1e-4, 1e-8, 0.0, 1e-20])
    with torch.no_grad():
        model[0].weight *= sizes.view(6, 1, 1, 1)
        model[0].bias *= sizes
        model[2].weight[0] *= 1e-6
    net = prepared(model, IMAGES, RECIPES[recipe], scales=scales)
    grids = [m for m in net.modules() if hasattr(m, "log_ratio")]
    starts = [g.scale.detach().clone() for g in grids]
    assert min(float(s.min() / s.max()) for s in starts) < 1e-5
    optimizer = torch.optim.Adam(net.parameter_groups(rate))
    for t in range(1, 21):
        before = [g.scale.detach().clone() for g in grids]
        optimizer.zero_grad()
        functional.cross_entropy(net(IMAGES), LABELS).backward()
        optimizer.step()
        for g, s in zip(grids, before, strict=True):
            moved = (g.scale / s).log().abs()
            assert (moved <= 1.001 * rate * adams_bound(t) + 1e-6).all()
            assert (g.scale > 0).all() and g.scale.isfinite().all()
    assert all(not torch.equal(g.scale, start) for g, start in zip(grids, starts, strict=True))
    assert_deployed(net, IMAGES)


# --- What is refused ----------------------------------------------------------------------------------------------------

V, S, BETA = randn(3, 4), torch.tensor(0.5), torch.tensor(-1.0)
NO_FLOATS = [
    ([1.0], "need a torch tensor, got a list"),
    (None, "need a torch tensor, got a NoneType"),
    (1.0, "need a torch tensor, got a float"),
    (torch.arange(3), "need floating-point values, got torch.int64"),
    (torch.ones(0), r"need at least one value, got shape \(0,\)"),
    (torch.tensor([math.nan, 1.0]), "1 of 2 values are NaN or infinite"),
    (torch.tensor([math.inf, -math.inf]), "2 of 2 values are NaN or infinite"),
    (torch.ones(2, device="meta"), "need a dense tensor with data, got one on the meta device"),
]
NOT_POSITIVE = [
    (torch.tensor(0.0), r"need positive values, got 0\.0"),
    (torch.tensor([[0.5], [-1.0], [1.0]]), r"need positive values, got -1\.0"),
]
TAKES_FLOATS = [
    (straight_through, {"v": V, "scale": S, "low": -4, "high": 3}, ("v", "scale")),
    (lsq, {"v": V, "scale": S, "low": -4, "high": 3}, ("v", "scale")),
    (lsq_plus, {"v": V, "scale": S, "offset": BETA, "q_min": 0, "q_max": 7}, ("v", "scale", "offset")),
    (pact, {"x": V, "alpha": S, "bits": 2}, ("x", "alpha")),
    (xnor, {"weight": V}, ("weight",)),
    (lsq_start, {"v": V, "high": 7}, ("v",)),
]


@pytest.mark.parametrize(("value", "message"), NO_FLOATS)
def test_estimators_refuse_what_are_no_floats(value, message):
    for function, arguments, names in TAKES_FLOATS:
        function(**arguments)
        for name in names:
            with pytest.raises(ValueError, match=f"^{name}: {message}"):
                function(**{**arguments, name: value})


@pytest.mark.parametrize(("value", "message"), NOT_POSITIVE)
def test_estimators_refuse_scales_that_are_not_positive(value, message):
    for function, arguments, names in TAKES_FLOATS:
        for name in {"scale", "alpha"} & {*names}:
            with pytest.raises(ValueError, match=f"^{name}: {message}"):
                function(**{**arguments, name: value})


@pytest.mark.parametrize(
    ("low", "high", "message"),
    [
        (3, 3, "low: need less than high, got 3 and 3"),
        (4.0, 3, r"low: need less than high, got 4\.0 and 3"),
        (torch.tensor([[-4.0], [3.0], [0.0]]), 3, "low: need less than high"),
        *(
            (low, 3, f"low: need a finite number from .*, got {low!r}")
            for low in (math.nan, -math.inf, "x", None, True)
        ),
        *((-4, high, f"high: need a finite number from .*, got {high!r}") for high in (math.nan, math.inf, "x", None)),
        (torch.full((5,), -4.0), 3, r"low: need a shape that broadcasts against \(3, 4\), got \(5,\)"),
        (-4, torch.full((2, 3, 4), 3.0), r"high: need a shape that broadcasts against \(3, 4\), got \(2, 3, 4\)"),
        (-4, torch.tensor([[math.nan]]), "high: 1 of 1 values are NaN"),
    ],
)
def test_estimators_refuse_ranges_without_a_second_code(low, high, message):
    for function in (straight_through, lsq):
        with pytest.raises(ValueError, match=f"^{message}"):
            function(V, S, low, high)


def test_bounds_are_numbers_tensors_or_one_of_each():
    rows = torch.tensor([[-4.0], [-2.0], [0.0]])
    for function in (straight_through, lsq):
        expected = torch.cat([function(row[None], S, float(low), 3) for row, low in zip(V, rows, strict=True)])
        for low, high in ((rows, 3), (rows.int(), 3), (rows, torch.tensor(3)), (rows, torch.full((3, 4), 3.0))):
            v, s = V.clone().requires_grad_(), S.clone().requires_grad_()
            y = function(v, s, low, high)
            assert torch.equal(y, expected)
            y.sum().backward()
            assert torch.equal(v.grad, ((rows <= V / S) & (V / S <= 3)).float())


@pytest.mark.parametrize("shape", [(5,), (4, 1), (2, 3, 4), (1, 1, 1)])
def test_estimators_refuse_scales_that_do_not_fit(shape):
    """Also those that would make more of the values than they are."""
    bad, message = (
        torch.ones(shape),
        rf"need a shape that broadcasts against \(3, 4\), got \({', '.join(map(str, shape))}",
    )
    for function, arguments, names in TAKES_FLOATS:
        for name in {"scale", "alpha", "offset"} & {*names}:
            with pytest.raises(ValueError, match=f"^{name}: {message}"):
                function(**{**arguments, name: bad})
    for shape in ((4,), (3, 1), (1,)):
        with pytest.raises(ValueError, match=r"^alpha: need one number, 0-d"):
            pact(V, torch.ones(shape), 2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        *(
            (lambda g=g: lsq(V, S, -4, 3, g), f"gradient_scale: need a finite number .*, got {g!r}")
            for g in (math.nan, math.inf, "x", None)
        ),
        (lambda: lsq(V, S, -4, 3, torch.tensor(math.nan)), "gradient_scale: 1 of 1 values are NaN"),
        *(
            (lambda g=g: lsq_plus(V, S, BETA, 0, 7, g), f"gradient_scale: need .*, got {g!r}")
            for g in (math.nan, "x", None)
        ),
        (lambda: lsq_plus(V, S, BETA, 0, 7, torch.tensor(math.nan)), "gradient_scale: 1 of 1 values are NaN"),
        (
            lambda: lsq_plus(V, S, BETA, 0, 7, torch.ones(3, 1)),
            r"gradient_scale: need a number where scale \(.*\) and offset \(.*\) are no tensors of one shape, got \(3, 1\)",
        ),
        *(
            (lambda q=q: lsq_plus(V, S, BETA, q, 7), f"q_min: need an integer from .* to 6, got {q!r}")
            for q in (7, 8, 0.5, True, "x", math.nan)
        ),
        *(
            (lambda q=q: lsq_plus(V, S, BETA, 0, q), "q_m(in|ax): need an integer from .*, got ")
            for q in (0, -1, 7.5, True, "x", None)
        ),
        *(
            (lambda b=b: pact(V, S, b), f"bits: need an integer from 1 to 16, got {b!r}")
            for b in (0, 17, 2.5, "2", True, None)
        ),
        *((lambda a=a: xnor(V, a), f"axis: need an integer from -2 to 1, got {a!r}") for a in (2, -3, 1.5, True, "0")),
        *(
            (lambda a=a: lsq_start(V, 7, a), f"axis: need an integer from -2 to 1, got {a!r}")
            for a in (2, -3, 1.5, True, "0")
        ),
        (lambda: xnor(torch.tensor(1.0)), "axis: need an integer"),
        *(
            (lambda h=h: lsq_start(V, h), f"high: need a finite number from 1 to inf, got {h!r}")
            for h in (0, 0.5, -7, math.nan, math.inf, "x", None)
        ),
        *(
            (lambda h=h: lsq_gradient_scale(3, h), f"high: need .*, got {h!r}")
            for h in (0, 0.0, -1, math.nan, math.inf, "x", None)
        ),
        (lambda: lsq_gradient_scale(3, torch.tensor([3.0, 0.0])), "high: need a largest code above 0"),
        *(
            (lambda n=n: lsq_gradient_scale(n, 3), f"count: need an integer from 1 .*, got {n!r}")
            for n in (0, -1, 2.5, "3", True)
        ),
    ],
)
def test_estimators_refuse_other_numbers(call, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        call()


SMALL_ONE = nn.Linear(4, 3)
ROUNDING = {r: replace(CHANNEL, rounding=r) for r in ("stochastic", "half_up", "half_away")}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        *(({"scales": s}, f"scales: need one of 'fixed', .* 'pact', got {s!r}") for s in ("LSQ", "", None, 3)),
        *(({"start": s}, f"start: need one of 'calibrated', 'lsq', got {s!r}") for s in ("mean", None, 1)),
        *(({"start": "lsq", "scales": s}, f'start: "lsq" needs scales="lsq", got \'{s}') for s in SCALES if s != "lsq"),
        *(
            ({name: n}, f"{name}: need an integer from 0 .*, got {n!r}")
            for name in ("freeze_norms_after", "freeze_ranges_after")
            for n in (-1, 1.5, True, "3", math.nan)
        ),
        ({"recipe": "int9"}, "name: need one of .*, got 'int9'"),
        ({"recipe": None}, "recipe: need a Recipe or the name of a preset, got None"),
        *(
            ({"recipe": Recipe(s, None)}, f'recipe: need rounding="even" in training, got {r!r}')
            for r, s in ROUNDING.items()
        ),
        ({"recipe": Recipe(CHANNEL, replace(AFFINE, rounding="half_up"))}, "recipe: need rounding"),
        ({"model": 3}, "model: need a torch module, got a int"),
        ({"batches": []}, "batches: need at least one to measure on, got none"),
        ({"batches": torch.eye(4)}, "batches: need a list or a loader of batches, got a Tensor"),
        ({"batches": [torch.eye(4) * math.nan]}, "batches: at input, x: 16 of 16 values are NaN"),
    ],
)
def test_what_can_not_be_prepared(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        prepare(**{"model": SMALL_ONE, "batches": [torch.eye(4)], "progress": False, **options})


def test_what_can_not_be_computed_or_converted():
    net = prepared(SMALL_ONE, torch.eye(4))
    for mode in (True, False):
        for bad in (math.nan, math.inf):
            with pytest.raises(ValueError, match=r"^inputs: 1 of 16 values are NaN or infinite"):
                net.train(mode)(torch.eye(4).index_put((torch.tensor(1), torch.tensor(2)), torch.tensor(bad)))
        for inputs in ((), (torch.eye(4), torch.eye(4))):
            with pytest.raises(ValueError, match=rf"^inputs: need a list of 1 .*, got {len(inputs)}"):
                net(*inputs)
    for other in (3, None, SMALL_ONE, ptq(SMALL_ONE, torch.eye(4)), TrainableModel):
        with pytest.raises(ValueError, match=f"^trainable: need what prepare gives, got a {type(other).__name__}"):
            convert(other)
    for name, bad in itertools.product(("weight", "bias"), (math.nan, math.inf)):
        net = prepared(SMALL_ONE, torch.eye(4))
        ((node, layer),) = net.layers().items()
        with torch.no_grad():
            layer.layer.get_parameter(name).view(-1)[0] = bad
        with pytest.raises(ValueError, match=f"^trainable: {name} of {net.graph[node].label}: 1 of "):
            convert(net)


NO_NUMBERS = (-1, -1e-9, math.nan, math.inf, -math.inf, "1", True, None, [1e-3], 1j, torch.tensor([1.0, 2.0]))


@pytest.mark.parametrize("bad", NO_NUMBERS, ids=str)
def test_no_rates(bad):
    net = prepared(SMALL_ONE, torch.eye(4), scales="lsq")
    for i, name in enumerate(("learning_rate", "scale_learning_rate", "weight_decay")):
        if name == "scale_learning_rate" and bad is None:
            continue
        with pytest.raises(ValueError, match=rf"^{name}: need a finite number from 0 to inf, got "):
            net.parameter_groups(*[1e-3, None, 0.0][:i], bad)


X, Y = randn(6, 4), torch.arange(6) % 3
TRAIN = {
    "images": [
        *NO_FLOATS,
        (X[:5], None),
    ],
    "labels": [
        (Y.tolist(), "need a torch tensor, got a list"),
        (Y.float(), r"need int64 of shape \(6,\), got torch.float32 of shape \(6,\)"),
        (Y.int(), r"need int64 of shape \(6,\), got torch.int32"),
        (Y[:5], r"need int64 of shape \(6,\), got torch.int64 of shape \(5,\)"),
        (Y[:, None], r"need int64 of shape \(6,\), got torch.int64 of shape \(6, 1\)"),
        (Y - 1, "need at least 0, got -1"),
        (Y - 100, "need at least 0, got -100"),
        (Y + 1, r"need classes from 0 to 2, which the network has, got 3"),
        (Y.to("meta"), "need a dense tensor with data"),
    ],
    **{
        name: [(n, rf"need an integer from 1 to \d+, got {n!r}") for n in (0, -1, 1.5, True, "3", None, 2**40)]
        for name in ("epochs", "batch_size", "checkpoint_every")
    },
    "seed": [(n, rf"need an integer from 0 to \d+, got {n!r}") for n in (-1, 0.5, True, "3", None, 2**40)],
    **{
        name: [
            (n, "need a finite number from 0 to inf, got ")
            for n in NO_NUMBERS
            if n is not None or name != "scale_learning_rate"
        ]
        for name in ("learning_rate", "scale_learning_rate", "weight_decay")
    },
    "temperature": [(n, "need a finite number from 1e-06 to inf, got ") for n in (*NO_NUMBERS, 0)],
    "teacher_share": [(n, "need a finite number from 0 to 1, got ") for n in (*NO_NUMBERS, 1.01)],
    "teacher": [
        ("mlp", "need a network, got 'mlp'"),
        (3, "need a network, got 3"),
        (nn.Linear(4, 3), r"need evaluation mode, call eval\(\) first"),
        (nn.Linear(4, 2).eval(), r"need scores of shape \(1, 3\), got \(1, 2\)"),
        (lambda x: x[:, :1], r"need scores of shape \(1, 3\), got \(1, 1\)"),
        (lambda x: x.tolist(), "its scores: need a torch tensor, got a list"),
        (lambda x: x[:, :3] * math.nan, "its scores: "),
    ],
    "checkpoint": [
        (3, "need a path, got 3"),
        (b"x", "need a path, got b'x'"),
        ("", "need a file in a folder that exists"),
    ],
}


@pytest.mark.parametrize("name", TRAIN)
def test_what_can_not_be_trained(name):
    net = prepared(SMALL_ONE, X)
    for bad, message in TRAIN[name]:
        message = f"{name}: {message}" if message else r"labels: need int64 of shape \(5,\)"
        before = copy.deepcopy(net)
        with pytest.raises(ValueError, match=f"^{message}"):
            train(net, **{"images": X, "labels": Y, "progress": False, name: bad})
        assert net.training
        if not message.endswith("its scores: "):  # NaN of the first batch
            assert same_state(net, before)
    for other in (3, None, SMALL_ONE, ptq(SMALL_ONE, X)):
        with pytest.raises(ValueError, match=f"^trainable: need what prepare gives, got a {type(other).__name__}"):
            train(other, X, Y)


def test_where_no_checkpoint_can_be(tmp_path):
    """Known before the first step, not when it is to be written."""
    net = prepared(SMALL_ONE, X)
    for path in (tmp_path, str(tmp_path), tmp_path / "no" / "folder"):
        with pytest.raises(ValueError, match=r"^checkpoint: need a file in a folder that exists, got "):
            train(net, X, Y, checkpoint=path, progress=False)
    assert net.steps == 0


def test_bars_go_to_stderr(capsys):
    net = prepared(SMALL_ONE, X)
    train(net, X, Y, epochs=2, batch_size=3, progress=False)
    assert capsys.readouterr() == ("", "")
    train(net, X, Y, epochs=2, batch_size=3)
    out, err = capsys.readouterr()
    assert out == "" and "training" in err and "4/4" in err


def test_a_bar_goes_on_where_it_was(capsys, tmp_path):
    net, path = fresh(), tmp_path / "checkpoint"
    interrupt(net, 4)
    with pytest.raises(InterruptionError):
        trained(net, checkpoint=path, checkpoint_every=4)
    trained(fresh(), checkpoint=path, progress=True)
    _, err = capsys.readouterr()
    assert "9/9" in err


# --- On a GPU ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scales", SCALES)
def test_mixed_precision_changes_nothing(scales):
    """What is trained, judged and shipped is one model, under torch.autocast too."""
    nets = [prepared(convolutions(), IMAGES, RECIPES["w4a4 mse"], scales=scales) for _ in range(2)]
    for net, mixed in zip(nets, (False, True), strict=True):
        optimizer = torch.optim.AdamW(net.parameter_groups(1e-2))
        for _ in range(2):
            with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
                loss = functional.cross_entropy(net(IMAGES), torch.arange(24) % 3)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.autocast("cpu", torch.bfloat16):
        here, again = convert(nets[1]), ptq(convolutions(), IMAGES)
        y = here(IMAGES), evaluated(nets[1], IMAGES)
    same_model(here, convert(nets[0]))
    same_model(again, ptq(convolutions(), IMAGES))
    assert torch.equal(y[0], here(IMAGES)) and torch.equal(y[0], y[1])


@pytest.mark.parametrize("change", [nn.Module.half, nn.Module.bfloat16, nn.Module.double])
def test_another_type_is_refused(change):
    with pytest.raises(ValueError, match=r"^dtype: need float32"):
        change(prepared(convolutions(), IMAGES))


def test_what_can_t_be_trained_is_refused():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, x):
            return {"scores": self.net(x)}

    x, y = randn(8, 4), torch.zeros(8, dtype=torch.int64)
    with pytest.raises(ValueError, match=r"^trainable: need scores of shape \(images, classes\), got .*dict"):
        train(prepared(Named(), x), x, y, progress=False)
    with pytest.raises(ValueError, match=r"^trainable: need a parameter that learns, all are frozen"):
        train(prepared(nn.Linear(4, 3).requires_grad_(False), x), x, y, progress=False)
    with pytest.raises(ValueError, match=r"^model: need a network in floats"):
        prepared(prepared(nn.Linear(4, 3), x), x)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, there is none")
@pytest.mark.parametrize("scales", SCALES)
def test_on_a_gpu(scales):
    here = prepared(convolutions(), IMAGES, scales=scales)
    there = prepared(convolutions().cuda(), IMAGES.cuda(), scales=scales)
    moved = copy.deepcopy(here).cuda()
    for net in (there, moved):
        assert {t.device.type for t in net.state_dict().values() if isinstance(t, torch.Tensor)} == {"cuda"}
        losses = train(net, IMAGES, torch.arange(24) % 3, epochs=2, batch_size=8, progress=False)
        assert all(map(math.isfinite, losses))
        quantized = convert(net)
        assert (quantized(IMAGES.cuda()) - evaluated(net, IMAGES.cuda())).abs().max() < 0.1
        quantized.report()
    assert (evaluated(there, IMAGES.cuda()) - evaluated(moved, IMAGES.cuda())).abs().max() < 0.5
