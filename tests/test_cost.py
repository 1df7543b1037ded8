"""``quantcourse.cost`` against counts by hand, PyTorch's own counter, thop, and the published sizes of networks."""

import copy
import csv
import functools
import logging
import math
import random
import sys
import warnings
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  its usual name
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune
from torch.utils.flop_counter import FlopCounterMode

from quantcourse import models
from quantcourse.cost import Bound, Cost, Layer, Machine, Roofline, count, roofline, thop_profile

pytestmark = pytest.mark.filterwarnings("error")
reproducible = settings(derandomize=True, deadline=None, max_examples=40, database=None)


class Compute(nn.Module):
    """``function(w, *inputs)`` with a bare parameter ``w``."""

    def __init__(self, function, *shape):
        super().__init__()
        self.function = function
        self.w = nn.Parameter(torch.randn(shape or (8, 8)))

    def forward(self, *inputs):
        return self.function(self.w, *inputs)


def macs(function, *inputs, shape=(8, 8)):
    """MACs of a function of inputs, and no product missed."""
    cost = count(Compute(function, *shape), *inputs)
    assert cost.uncounted == ()
    return cost.macs


# --- Convolutions by hand ---------------------------------------------------------------------------------------

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def convolutions(draw):
    dims = draw(st.integers(1, 3))
    groups = draw(st.integers(1, 3))
    kernel = draw(st.tuples(*[st.integers(1, 3)] * dims))
    sizes = {
        "batch": draw(st.integers(1, 3)),
        "in_channels": groups * draw(st.integers(1, 3)),
        "out_channels": groups * draw(st.integers(1, 3)),
        "space": draw(st.tuples(*[st.integers(7, 9)] * dims)),
    }
    options = {
        "kernel_size": kernel,
        "stride": draw(st.tuples(*[st.integers(1, 3)] * dims)),
        "padding": draw(st.tuples(*[st.integers(0, 2)] * dims)),
        "dilation": draw(st.tuples(*[st.integers(1, 2)] * dims)),
        "groups": groups,
        "bias": draw(st.booleans()),
    }
    return dims, sizes, options


@reproducible
@given(convolutions())
def test_convolution_takes_one_product_per_output_and_filter_element(example):
    dims, sizes, options = example
    channels = sizes["in_channels"], sizes["out_channels"]
    model = CONVOLUTIONS[dims](*channels, **options)
    x = torch.zeros(sizes["batch"], channels[0], *sizes["space"])
    places = [
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, s, p, d in zip(
            sizes["space"],
            options["kernel_size"],
            options["stride"],
            options["padding"],
            options["dilation"],
            strict=True,
        )
    ]
    filter_size = channels[0] // options["groups"] * math.prod(options["kernel_size"])
    outputs = sizes["batch"] * channels[1] * math.prod(places)

    cost = count(model, x)
    (layer,) = cost.layers
    assert cost.macs == outputs * filter_size
    assert (layer.inputs, layer.outputs, layer.shape[2:]) == (x.numel(), outputs, tuple(places))
    assert layer.params == layer.weights == cost.params == channels[1] * (filter_size + options["bias"])
    depthwise = options["groups"] > 1 and options["groups"] == channels[0]
    assert layer.op == ("depthwise" if depthwise else "convolution")


@reproducible
@given(convolutions())
def test_transposed_convolution_takes_one_product_per_input_and_filter_element(example):
    dims, sizes, options = example
    channels = sizes["in_channels"], sizes["out_channels"]
    model = TRANSPOSED[dims](*channels, **options)
    x = torch.zeros(sizes["batch"], channels[0], *sizes["space"])
    # Each input element is spread over the kernel's places in the output channels of its group.
    spread = channels[1] // options["groups"] * math.prod(options["kernel_size"])
    assert count(model, x).macs == x.numel() * spread


def test_transposed_convolution_undoes_the_shape_at_the_same_cost():
    """With a kernel that tiles the plane, a convolution and its transpose do the same products."""
    down, up = nn.Conv2d(6, 4, 2, stride=2, bias=False), nn.ConvTranspose2d(4, 6, 2, stride=2, bias=False)
    large, small = torch.zeros(1, 6, 8, 8), torch.zeros(1, 4, 4, 4)
    assert count(down, large).macs == count(up, small).macs == 4 * 4 * 4 * 6 * 2 * 2


def test_convolution_with_time_first():
    filters, bias = torch.zeros(3, 4, 6), torch.zeros(6)
    (layer,) = count(Compute(lambda w, x: torch.conv_tbc(x, filters, bias)), torch.zeros(9, 2, 4)).layers
    assert (layer.macs, layer.op) == (7 * 2 * 6 * 4 * 3, "convolution")


def test_convolution_however_it_is_written():
    x, filters = torch.zeros(2, 4, 9, 9), (6, 2, 3, 3)
    expected = 2 * 6 * 9 * 9 * 2 * 3 * 3
    for function in (
        lambda w, x: F.conv2d(x, w, padding=1, groups=2),
        lambda w, x: F.conv2d(x, w, padding="same", groups=2),
        lambda w, x: torch.convolution(x, w, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 2),
        lambda w, x: torch.stack([F.conv2d(image, w, padding=1, groups=2) for image in x]),
    ):
        assert macs(function, x, shape=filters) == expected


# --- Products by hand -------------------------------------------------------------------------------------------

x358, x3_8 = torch.zeros(3, 5, 8), torch.zeros(3, 8)


@pytest.mark.parametrize(
    ("expected", "function", "inputs"),
    [
        (3 * 5 * 8 * 8, lambda w, x: x @ w, [x358]),
        (3 * 5 * 8 * 8, lambda w, x: F.linear(x, w), [x358]),
        (3 * 5 * 8 * 8, lambda w, x: F.linear(x, w, w[0]), [x358]),
        (3 * 5 * 8 * 8, lambda w, x: torch.tensordot(x, w, dims=1), [x358]),
        (3 * 5 * 8 * 8, lambda w, x: torch.einsum("bij,jk->bik", x, w), [x358]),
        (3 * 5 * 8 * 8, lambda w, x: torch.bmm(x, w.expand(3, 8, 8)), [x358]),
        (3 * 5 * 5 * 8, lambda w, x: x @ x.mT, [x358]),
        (3 * 5 * 5 * 8, lambda w, x: torch.baddbmm(w[:5, :5], x, x.mT), [x358]),
        (3 * 5 * 5 * 8, lambda w, x: w[:5, :5].clone().expand(3, 5, 5).clone().baddbmm_(x, x.mT), [x358]),
        (3 * 5 * 5 * 8, lambda w, x: torch.addbmm(w[:5, :5], x, x.mT), [x358]),
        (3 * 8 * 8, lambda w, x: torch.addmm(w[0], x, w), [x3_8]),
        (3 * 8 * 8, lambda w, x: w[:3].clone().addmm_(x, w), [x3_8]),
        (3 * 8 * 8, lambda w, x: torch.mm(x, w, out=torch.empty(3, 8)), [x3_8]),
        (3 * 8 * 8, lambda w, x: torch._addmm_activation(w[0], x, w), [x3_8]),
        (3 * 8 * 8, lambda w, x: torch.linalg.multi_dot([x, w]), [x3_8]),
        (3 * 8, lambda w, x: x @ w[0], [x3_8]),
        (3 * 8, lambda w, x: torch.addmv(x[:, 0], x, w[0]), [x3_8]),
        (8, lambda w, x: x[0] @ w[0], [x3_8]),
        (8, lambda w, x: torch.vdot(x[0], w[0]), [x3_8]),
        (2 * 8 * 8 * 8, lambda w, x: torch.linalg.matrix_power(w, 3), [x3_8]),
        (3 * 8 * 8, lambda w, x: torch.vmap(lambda row: w @ row)(x), [x3_8]),
        (17 * 32 * 8, lambda w, a, b: torch._int_mm(a, b), [torch.zeros(17, 32).char(), torch.zeros(32, 8).char()]),
        (0, lambda w, x: (x * w[0]).sum() + x.norm() + F.interpolate(x[None], scale_factor=2).mean(), [x3_8]),
    ],
)
def test_products_by_hand(expected, function, inputs):
    assert macs(function, *inputs) == expected


@reproducible
@given(st.lists(st.integers(0, 4), max_size=2), st.lists(st.integers(1, 6), min_size=3, max_size=3), st.booleans())
def test_matrix_product_of_any_shape(batch, sizes, shared):
    m, k, n = sizes
    a, b = torch.zeros(*batch, m, k), torch.zeros(*([] if shared else batch), k, n)
    (layer,) = count(Compute(lambda w, a, b: a @ b), a, b).layers
    assert layer.macs == math.prod(batch) * m * k * n
    assert layer.outputs == math.prod(batch) * m * n
    assert layer.inputs == a.numel() + b.numel()


@pytest.mark.parametrize("causal", [False, True])
def test_attention(causal):
    q, k, v = torch.zeros(2, 4, 5, 8), torch.zeros(2, 4, 7, 8), torch.zeros(2, 4, 7, 8)
    by_hand = 2 * 4 * 5 * 7 * 8 + 2 * 4 * 5 * 7 * 8
    assert macs(lambda w, *x: F.scaled_dot_product_attention(*x, is_causal=causal), q, k, v) == by_hand
    masked = F.scaled_dot_product_attention
    assert macs(lambda w, *x: masked(*x, attn_mask=torch.zeros(5, 7)), q, k, v) == by_hand
    assert macs(lambda w, q, k, v: (q @ k.mT).softmax(-1) @ v, q, k, v) == by_hand
    narrow = v[..., :3]
    assert macs(lambda w, *x: masked(*x), q, k, narrow) == 2 * 4 * 5 * 7 * (8 + 3)


FUSED = {
    "_scaled_dot_product_flash_attention_for_cpu": (),
    "_scaled_dot_product_flash_attention": (),
    "_scaled_dot_product_efficient_attention": (None, False),
    "_scaled_dot_product_cudnn_attention": (None, False),
}


@pytest.mark.parametrize("name", FUSED)
def test_each_fused_attention(name):
    """The kernels of other devices, on tensors without data."""
    fused = getattr(torch.ops.aten, name)
    q, k, v = (torch.zeros(2, 4, n, 8, device="meta") for n in (5, 7, 7))
    model = Compute(lambda w, *x: fused(*x, *FUSED[name])).to("meta")
    (layer,) = count(model, q, k, v).layers
    assert (layer.macs, layer.op, layer.shape) == (2 * 4 * 5 * 7 * 16, "attention", (2, 4, 5, 8))


def test_fused_attention_to_narrower_values():
    fused = torch.ops.aten._scaled_dot_product_efficient_attention
    q, k, v = (torch.zeros(2, 4, n, width, device="meta") for n, width in ((5, 8), (7, 8), (7, 3)))
    (layer,) = count(Compute(lambda w, *x: fused(*x, None, False)).to("meta"), q, k, v).layers
    assert (layer.macs, layer.shape) == (2 * 4 * 5 * 7 * (8 + 3), (2, 4, 5, 3))


# --- Layers of PyTorch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("need_weights", [False, True])
def test_multihead_attention(training, need_weights):
    layer = nn.MultiheadAttention(8, 2, batch_first=True).train(training)
    x, memory = torch.zeros(3, 5, 8), torch.zeros(3, 7, 8)
    projections = 3 * (2 * 5 + 2 * 5) * 8 * 8
    cost = count(layer, x, x, x, need_weights=need_weights)
    assert cost.macs == projections + 2 * 3 * 5 * 5 * 8
    assert cost.params == sum(x.params for x in cost.layers) == 4 * 8 * 8 + 4 * 8
    crossed = count(layer, x, memory, memory, need_weights=need_weights)
    assert crossed.macs == 3 * (2 * 5 + 2 * 7) * 8 * 8 + 2 * 3 * 5 * 7 * 8


@pytest.mark.parametrize("training", [False, True])
def test_transformer_encoder(training):
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=True).train(training)
    x = torch.zeros(3, 5, 8)
    by_hand = 2 * (3 * 4 * 5 * 8 * 8 + 2 * 3 * 5 * 5 * 8 + 2 * 3 * 5 * 8 * 16)
    assert count(model, x).macs == by_hand
    padding = torch.tensor([[False] * 5, [False] * 4 + [True], [False] * 3 + [True] * 2])
    assert count(model, x, src_key_padding_mask=padding).macs == by_hand
    names = {layer.name for layer in count(model, x).layers}
    assert {"layers.0.self_attn.in_proj_weight", "layers.0.self_attn", "layers.1.linear2"} <= names


def test_fused_shortcuts_count_as_what_they_replace():
    """PyTorch's two fused operations, called as its layers call them outside of counting."""
    x = torch.zeros(3, 5, 8)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    attention = layer.self_attn
    projections = (attention.in_proj_weight, attention.in_proj_bias, *attention.out_proj.parameters())
    norms = (*layer.norm1.parameters(), *layer.norm2.parameters())
    mlp = (*layer.linear1.parameters(), *layer.linear2.parameters())

    def encoder(w, x):
        return torch._transformer_encoder_layer_fwd(x, 8, 2, *projections, False, False, 1e-5, *norms, *mlp)

    assert count(Compute(encoder), x).macs == count(layer, x).macs
    longer = torch.zeros(3, 7, 8)
    shortcut = Compute(lambda w, q, k: torch._native_multi_head_attention(q, k, k, 8, 2, *projections)[0])
    assert count(shortcut, x, x).macs == count(attention, x, x, x).macs
    assert count(shortcut, x, longer).macs == count(attention, x, longer, longer).macs


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(("kind", "gates"), [(nn.RNN, 1), (nn.GRU, 3), (nn.LSTM, 4)])
def test_recurrent_layers(kind, gates, bidirectional):
    steps, batch, width, hidden, directions = 5, 3, 7, 6, 1 + bidirectional
    model = kind(width, hidden, num_layers=2, bidirectional=bidirectional)
    first = directions * gates * hidden * (width + hidden)
    second = directions * gates * hidden * (directions * hidden + hidden)
    cost = count(model, torch.zeros(steps, batch, width))
    assert cost.macs == steps * batch * (first + second)
    assert cost.uncounted == ()
    cell = {nn.RNN: nn.RNNCell, nn.GRU: nn.GRUCell, nn.LSTM: nn.LSTMCell}[kind](width, hidden)
    assert count(cell, torch.zeros(batch, width)).macs == batch * gates * hidden * (width + hidden)


def test_recurrent_kernel_of_a_gpu():
    """PyTorch's call of cuDNN, on tensors without data: an LSTM of one layer with biases."""
    lstm = nn.LSTM(7, 6, device="meta")
    x, state = torch.zeros(5, 3, 7, device="meta"), torch.zeros(1, 3, 6, device="meta")

    class Call(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = lstm

        def forward(self, x, state):
            weights = list(self.lstm.parameters())
            return torch.ops.aten._cudnn_rnn(
                x, weights, 4, None, state, state, 2, 6, 0, 1, False, 0.0, False, False, [], None
            )[0]

    (layer,) = count(Call(), x, state).layers
    assert (layer.macs, layer.op) == (5 * 3 * 4 * 6 * (7 + 6), "recurrent")
    assert layer.params == 4 * 6 * (7 + 6) + 2 * 4 * 6


def test_what_no_rule_covers_is_listed():
    cost = count(nn.Bilinear(3, 4, 5), torch.zeros(2, 3), torch.zeros(2, 4))
    assert (cost.macs, cost.uncounted) == (0, (("aten::_trilinear", 1),))
    assert "not counted: aten::_trilinear, 1 x" in cost.table()
    spectrum = count(Compute(lambda w, x: torch.fft.fft(x @ w)), x3_8)
    assert spectrum.uncounted == (("aten::_fft_r2c", 1),)
    assert spectrum.macs == 3 * 8 * 8


@pytest.mark.parametrize("rows", [20, 40])
def test_distances_are_listed_by_whichever_path(rows):
    """PyTorch takes a matrix product from 26 rows on."""
    x = torch.randn(rows, 8)
    for function in (lambda w, x: torch.cdist(x, x), lambda w, x: torch.cdist(x[x[:, 0] > -9], x)):
        ((name, calls),) = count(Compute(function), x).uncounted
        assert name == ("aten::_cdist_forward" if rows == 20 else "aten::_euclidean_dist")
        assert calls == 1


@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr, torch.sparse_csc])
@pytest.mark.parametrize(
    "product",
    [lambda w, s: s @ w, lambda w, s: torch.sparse.mm(s, w), lambda w, s: torch.addmm(w, s, w), lambda w, s: s @ w[0]],
)
def test_products_with_sparse_tensors_are_listed(layout, product):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that layouts by rows and columns are new
        sparse = torch.eye(8).to_sparse(layout=layout)
    cost = count(Compute(product), sparse)
    assert (cost.macs, [calls for _, calls in cost.uncounted]) == (0, [1])
    assert macs(lambda w, s: s.to_dense() @ w, sparse) == 8 * 8 * 8


def test_a_profilers_marks_are_no_products():
    def marked(w, x):
        with torch.profiler.record_function("mark"):
            return x @ w

    assert macs(marked, x3_8) == 3 * 8 * 8
    cost = count(nn.DataParallel(nn.Linear(8, 4)), x3_8)
    assert (cost.macs, cost.uncounted) == (3 * 8 * 4, ())


@torch.library.custom_op("quantcourse_tests::opaque", mutates_args=())
def opaque(x: torch.Tensor) -> torch.Tensor:
    return x @ x


def test_an_operation_from_outside_is_listed():
    cost = count(Compute(lambda w, x: opaque(opaque(x))), torch.randn(4, 4))
    assert cost.uncounted == (("quantcourse_tests::opaque", 2),)


# --- Whole networks ---------------------------------------------------------------------------------------------

# Published parameters (torchvision's model pages), and MACs of convolutions and matrix products at 224 x 224.
BACKBONES = {
    "alexnet": (61_100_840, 714_188_480),
    "vgg16": (138_357_544, 15_470_264_320),
    "resnet18": (11_689_512, 1_814_073_344),
    "resnet34": (21_797_672, 3_663_761_408),
    "resnet50": (25_557_032, 4_089_184_256),
    "resnet101": (44_549_160, 7_801_405_440),
    "mobilenet_v2": (3_504_872, 300_774_272),
    "squeezenet1_1": (1_235_496, 349_151_936),
    "densenet121": (7_978_856, 2_834_161_664),
    "vit_b_16": (86_567_656, 17_563_828_224),
}


def backbone(name):
    with torch.device("meta"):
        return models.backbone(name).eval()


@pytest.mark.parametrize("name", BACKBONES)
def test_backbones_agree_with_pytorchs_counter(name):
    model, x = backbone(name), torch.zeros(1, 3, 224, 224, device="meta")
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        model(x)
    cost = count(model, x)
    assert 2 * cost.macs == cost.flops == theirs.get_total_flops()
    assert (cost.params, cost.macs) == BACKBONES[name]
    assert cost.uncounted == ()


def test_macs_grow_with_the_batch_and_params_do_not():
    one = count(backbone("resnet18"), torch.zeros(1, 3, 224, 224))
    four = count(backbone("resnet18"), torch.zeros(4, 3, 224, 224))
    none = count(backbone("resnet18"), torch.zeros(0, 3, 224, 224))
    assert (four.macs, four.activations, four.params) == (4 * one.macs, 4 * one.activations, one.params)
    assert (none.macs, none.activations, none.params) == (0, 0, one.params)


@pytest.mark.parametrize(
    ("by_hand", "function"),
    [
        (2 * 2 * 5 * 5 * 8, lambda w, q: F.scaled_dot_product_attention(q, q, q)),
        (8 * 8, lambda w, q: w @ q[0, 0, 0]),
        (8, lambda w, q: w[0] @ q[0, 0, 0]),
    ],
)
def test_where_pytorchs_counter_differs_it_has_no_rule(by_hand, function):
    model, q = Compute(function), torch.zeros(1, 2, 5, 8)
    with FlopCounterMode(display=False) as theirs, torch.no_grad():
        model(q)
    assert theirs.get_total_flops() == 0
    assert count(model, q).macs == by_hand


def test_rows_add_up():
    model = backbone("densenet121")
    cost = count(model, torch.zeros(1, 3, 224, 224))
    norms = sum(p.numel() for m in model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters())
    assert sum(layer.params for layer in cost.layers) == cost.params - norms
    assert sum(layer.macs for layer in cost.layers) == cost.macs
    assert len(cost.layers) == sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules())


# --- Names, parameters and weights ------------------------------------------------------------------------------


class Reuse(nn.Module):
    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(8, 8)
        self.alias = self.shared

    def forward(self, x):
        return self.alias(self.shared(x))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(20, 8)
        self.head = nn.Linear(8, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens):
        return self.head(self.embed(tokens))


def test_a_reused_layer_counts_its_parameters_once_and_its_macs_each_time():
    cost = count(Reuse(), torch.zeros(3, 8))
    assert [(x.name, x.macs, x.params, x.weights) for x in cost.layers] == [
        ("shared", 3 * 64, 72, 72),
        ("shared", 3 * 64, 0, 72),
    ]
    assert (cost.macs, cost.params, cost.parameters) == (2 * 3 * 64, 72, (("shared.weight", 64), ("shared.bias", 8)))


def test_a_tied_weight_counts_once_under_the_module_that_multiplies():
    cost = count(Tied(), torch.zeros(2, 5, dtype=torch.long))
    (layer,) = cost.layers
    assert (layer.name, layer.macs, cost.params, layer.params) == ("head", 2 * 5 * 8 * 20, 160, 160)


def test_names():
    bare = Compute(lambda w, x: x @ w @ x.mT)
    model = nn.Sequential(nn.Linear(8, 8), nn.Sequential(bare))
    names = [(layer.name, layer.op) for layer in count(model, x358).layers]
    assert names == [("0", "matmul"), ("1.0.w", "matmul"), ("1.0", "matmul")]
    assert [x.name for x in count(bare, x358).layers] == ["w", "Compute"]
    assert [x.name for x in count(nn.Linear(8, 8), x3_8).layers] == ["Linear"]


def test_the_running_module_is_known_again_after_a_caught_error():
    class Catch(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = Compute(lambda w, x: x @ torch.zeros(3, 3))

        def forward(self, x):
            try:
                return self.inner(x)
            except RuntimeError:
                return x @ x.mT

    assert [x.name for x in count(Catch(), x3_8).layers] == ["Catch"]


def test_parameters_that_no_product_reads_count():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Embedding(4, 2), nn.PReLU())
    model[2].forward = lambda x: x
    cost = count(model, x3_8)
    assert cost.params == 72 + 16 + 8 + 1
    assert "parameters elsewhere" in cost.table()


@pytest.mark.parametrize(
    "derived",
    [
        lambda w: w.t().contiguous(),
        lambda w: w.to(torch.float64).to(torch.float32),
        lambda w: (w - w.mean()) / w.std(),
        lambda w: torch.cat([w[:3], w[3:]]),
    ],
)
def test_what_is_made_of_parameters_alone_is_a_weight(derived):
    (layer,) = count(Compute(lambda w, x: x @ derived(w)), x3_8).layers
    assert (layer.name, layer.params, layer.weights, layer.inputs) == ("w", 64, 64, 24)
    (mixed,) = count(Compute(lambda w, x: x @ (derived(w) * x[0])), x3_8).layers
    assert (mixed.name, mixed.params, mixed.weights, mixed.inputs) == ("Compute", 0, 0, 24 + 64)


def test_a_weight_that_an_activation_is_written_into_is_none_any_more():
    (layer,) = count(Compute(lambda w, x: x @ w.clone().mul_(x[0])), x3_8).layers
    assert (layer.name, layer.weights, layer.inputs) == ("Compute", 0, 24 + 64)


def test_normalized_weights_and_mixed_precision():
    normalized = nn.utils.parametrizations.weight_norm(nn.Linear(8, 4))
    (layer,) = count(nn.Sequential(normalized), x3_8).layers
    assert (layer.name, layer.macs, layer.weights, layer.params) == ("0", 3 * 32, 36, 32 + 4 + 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (layer,) = count(nn.Linear(8, 4), x3_8).layers
    assert (layer.name, layer.macs, layer.weights, layer.inputs) == ("Linear", 3 * 32, 36, 24)


def test_an_expanded_operand_is_read_once():
    (layer,) = count(Compute(lambda w, x: torch.bmm(x, w.expand(3, 8, 8))), x358).layers
    assert (layer.weights, layer.inputs) == (64, x358.numel())


def test_a_bias_that_is_added_by_itself_belongs_to_its_layer():
    linear = nn.Linear(8, 4)
    cost = count(nn.Sequential(linear), torch.zeros(5, 3, 8).transpose(0, 1))  # PyTorch adds the bias afterwards
    assert [layer.params for layer in cost.layers] == [36]


# --- Inputs and execution ---------------------------------------------------------------------------------------


def test_inputs_of_every_form():
    class Many(nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = nn.Linear(8, 4), nn.Linear(6, 4)

        def forward(self, pair, *, other, scale=1.0):
            return self.left(pair["x"]) @ self.right(other).mT * scale

    cost = count(Many(), {"x": torch.zeros(3, 8)}, other=torch.zeros(5, 6), scale=2.0)
    assert cost.macs == 3 * 8 * 4 + 5 * 6 * 4 + 3 * 5 * 4
    with_history = (torch.zeros(3, 8, requires_grad=True) * 2).requires_grad_()
    assert count(nn.Linear(8, 4), with_history).macs == 3 * 8 * 4


def test_models_that_were_traced_or_scripted():
    model, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)), torch.zeros(2, 3, 8, 8)
    expected = count(model, x)
    with pytest.deprecated_call():
        old = [torch.jit.script(model), torch.jit.trace(model, x)]
    for other in (*old, torch.fx.symbolic_trace(model)):
        cost = count(other, x)
        assert (cost.macs, cost.params, cost.uncounted) == (expected.macs, expected.params, ())
        assert [layer.name for layer in cost.layers] == ["0", "3"]


def test_gradients_that_a_model_takes_itself_are_counted_too():
    class Gradient(nn.Module):
        def __init__(self):
            super().__init__()
            self.w = nn.Parameter(torch.ones(8, 4))

        def forward(self, x):
            with torch.enable_grad():
                return torch.autograd.grad((x @ self.w).sum(), self.w)

    assert count(Gradient(), x3_8).macs == 3 * 8 * 4 + 8 * 3 * 4  # x @ w, and x.T @ gradient


def test_shapes_that_depend_on_data_are_counted_by_execution():
    x = torch.tensor([[1.0] * 8, [-1.0] * 8, [2.0] * 8])
    assert macs(lambda w, x: x[x[:, 0] > 0] @ w, x) == 2 * 8 * 8
    assert macs(lambda w, x: x[: int(x[0, 0])] @ w, x) == 1 * 8 * 8
    assert macs(lambda w, x: torch.from_numpy(x.numpy()) @ w, x) == 3 * 8 * 8
    packed = nn.utils.rnn.pack_padded_sequence(torch.zeros(5, 3, 7), [5, 3, 1])
    assert count(nn.GRU(7, 6), packed).macs == (5 + 3 + 1) * 3 * 6 * (7 + 6)


def test_counting_takes_no_memory_for_data():
    """Sixteen terabytes of weights and as many MACs as nobody would wait for."""
    with torch.device("meta"):
        model = nn.Linear(2**21, 2**21, bias=False)
    assert count(model, torch.zeros(2, 2**21)).macs == 2**43


def test_types_of_numbers_do_not_matter():
    x = torch.zeros(1, 3, 8, 8)
    expected = count(nn.Conv2d(3, 4, 3), x)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        assert count(nn.Conv2d(3, 4, 3).to(dtype), x.to(dtype)) == expected
    assert count(nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last), x) == expected
    with torch.inference_mode():
        assert count(nn.Conv2d(3, 4, 3), torch.zeros(1, 3, 8, 8)) == expected
        assert macs(lambda w, x: (x @ w) @ x.mT, torch.zeros(3, 5, 8)) == 3 * 5 * 8 * 8 + 3 * 5 * 5 * 8


# --- No trace ---------------------------------------------------------------------------------------------------


class Busy(nn.Module):
    """Everything that a careless counter could disturb."""

    def __init__(self, fails=False):
        super().__init__()
        self.conv, self.norm, self.drop = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.frozen = nn.Linear(4, 2)
        self.frozen.requires_grad_(False)
        self.register_buffer("calls", torch.zeros(1))
        self.fails, self.seen, self.last = fails, [], None
        self.conv.register_forward_hook(lambda *_: None)

    def forward(self, x):
        self.calls += 1
        self.seen.append(x.shape)
        y = self.last = self.drop(self.norm(self.conv(x))).mean((2, 3))
        y = y + torch.rand(()) + random.random() + np.random.rand()  # noqa: NPY002
        x.zero_()
        if self.fails:
            raise ArithmeticError("the model's own")
        return self.frozen(y)


def state(model, x):
    """All of a model's state that can be compared."""
    dicts = {
        name: {key: value for key, value in vars(m).items() if key not in ("_parameters", "_buffers", "_modules")}
        for name, m in model.named_modules()
    }
    return (
        {key: value.clone() for key, value in model.state_dict().items()},
        {
            name: (id(p), p.requires_grad, None if p.grad is None else p.grad.clone())
            for name, p in model.named_parameters()
        },
        {name: {key: copy.copy(value) for key, value in entries.items()} for name, entries in dicts.items()},
        [m.training for m in model.modules()],
        (torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()),  # noqa: NPY002
        (x.clone(), torch.is_grad_enabled(), torch.backends.mha.get_fastpath_enabled()),
    )


def same(a, b):
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a is b or a == b


@pytest.mark.parametrize("counter", [count, thop_profile])
@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_counting_leaves_no_trace(counter, fails, training, capfd):
    model = Busy(fails).train(training)
    model.drop.train(not training)
    x = torch.randn(2, 3, 8, 8)
    model.conv(x).sum().backward()
    before = state(model, x)
    if fails:
        with pytest.raises(ArithmeticError, match="the model's own"):
            counter(model, x)
    else:
        counter(model, x)
    assert same(before, state(model, x))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("enabled", [False, True])
def test_pytorchs_switch_of_fused_attention_stays(enabled):
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(enabled)
    try:
        count(nn.Linear(8, 8), x3_8)
        assert torch.backends.mha.get_fastpath_enabled() is enabled
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def test_counting_for_real_leaves_no_trace_either():
    class Branch(Busy):
        def forward(self, x):
            return super().forward(x) if x.sum() > -1e9 else x

    for fails in (False, True):
        model, x = Branch(fails).train(), torch.randn(2, 3, 8, 8)
        before = state(model, x)
        if fails:
            with pytest.raises(ArithmeticError, match="the model's own"):
                count(model, x)
        else:
            assert count(model, x).macs == 2 * 4 * 6 * 6 * 27 + 2 * 4 * 2
        assert same(before, state(model, x))


def outside(seen, *_):
    seen.append(0)


class Watch(nn.Module):
    """A watcher that is part of the model."""

    def __init__(self):
        super().__init__()
        self.inner, self.seen = nn.Linear(8, 8), []
        self.inner.register_forward_hook(self.see)

    def see(self, module, inputs, output):
        self.seen.append(output.shape)

    def forward(self, x):
        y = self.inner(x)
        return y @ torch.zeros(self.seen[-1]).mT


@pytest.mark.parametrize("counter", [count, thop_profile])
@pytest.mark.parametrize("by_data", [False, True])
def test_hooks_of_calibration_see_nothing(counter, by_data):
    """Whether the copy runs without data or, as its shapes depend on them, for real."""
    seen = []
    model = nn.Sequential(nn.Linear(8, 4), Compute(lambda w, x: x[x[:, 0] > -9] if by_data else x))
    model[0].register_forward_hook(lambda a, i, o: seen.append(o))
    model[0].register_forward_hook(lambda a, i, k, o: seen.append(o), with_kwargs=True, always_call=True)
    model.register_forward_hook(functools.partial(outside, seen))
    x = torch.randn(3, 8)
    assert counter(model, x) == counter(copy.deepcopy(model), x)
    assert seen == []
    model(x)
    assert len(seen) == 3


def test_hooks_that_are_copied_with_the_model_run():
    model = Watch()
    assert count(model, x3_8).macs == 3 * 8 * 8 + 3 * 3 * 8
    assert model.seen == []


def history(kind):
    """Models that hold a tensor with a history of gradients."""
    model = nn.Sequential(nn.Linear(8, 8), Compute(lambda w, x: x[x[:, 0] > -1e9] @ w))
    if kind == "pruned":
        prune.l1_unstructured(model[0], "weight", 0.5)
    elif kind == "normalized":
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(model[0])
    else:
        model.cache = {"last": [model[0](x3_8)]}
    return model


@pytest.mark.parametrize("kind", ["pruned", "normalized", "cached"])
def test_models_that_hold_tensors_with_a_history(kind):
    model = history(kind)
    before = model[0].weight
    assert count(model, x3_8).macs == count(model[0], x3_8).macs + 3 * 8 * 8 == 2 * 3 * 8 * 8
    assert thop_profile(model, x3_8)[0] == 3 * 8 * 8
    assert model[0].weight is before


def test_data_of_a_model_are_not_copied():
    model, x = nn.Linear(1024, 1024), torch.zeros(1, 1024)
    count(model, x)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        count(model, x)
    allocated = sum(max(event.self_cpu_memory_usage, 0) for event in profile.events())
    assert allocated < 4 * 1024 * 1024 / 2


def test_the_comparison_itself_sees_a_trace():
    x = torch.zeros(2, 3, 8, 8)
    for disturb in (
        lambda m: m.register_buffer("total_ops", torch.zeros(1)),
        lambda m: m.norm.eval(),
        lambda m: m.norm.running_mean.add_(1),
        lambda m: m.conv.register_forward_hook(lambda *_: None),
        lambda m: m.conv.weight.requires_grad_(False),
        lambda m: m.seen.append(0),
        lambda m: torch.rand(1),
        lambda m: x.add_(1),
    ):
        model = Busy().train()
        before = state(model, x)
        disturb(model)
        assert not same(before, state(model, x))


# --- thop -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "expected"),
    [("resnet50", (4_133_742_592, 25_557_032)), ("mobilenet_v2", (327_486_720, 3_504_872))],
)
def test_thops_own_numbers(name, expected):
    assert thop_profile(models.backbone(name), torch.zeros(1, 3, 224, 224)) == expected


def test_thop_finds_no_parameters_in_a_bare_layer():
    assert thop_profile(nn.Linear(8, 4), x3_8) == (3 * 8 * 4, 0)


def test_thop_misses_what_is_no_known_module():
    assert thop_profile(Compute(lambda w, x: x @ w), x3_8) == (0, 0)
    assert count(Compute(lambda w, x: x @ w), x3_8).macs == 3 * 8 * 8


# --- Bytes, intensity, table, file ------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [1, 3, 4, 8, 16, 32])
def test_bytes_round_each_tensor_up(bits):
    cost = count(nn.Sequential(nn.Linear(3, 5), nn.Linear(5, 1, bias=False)), torch.zeros(7, 3))

    def up(n):
        return math.ceil(Fraction(n * bits, 8))

    moved = [up(21) + up(20) + up(35), up(35) + up(5) + up(7)]
    assert [layer.bytes(bits) for layer in cost.layers] == moved
    assert cost.bytes(bits) == sum(moved)
    assert cost.weight_bytes(bits) == up(15) + up(5) + up(5)
    assert cost.intensity(bits) == 2 * (7 * 15 + 7 * 5) / sum(moved)
    assert cost.layers[0].intensity(bits) == 2 * 7 * 15 / moved[0]


def test_a_quarter_of_the_bits_is_four_times_the_intensity():
    cost = count(backbone("resnet50"), torch.zeros(1, 3, 224, 224))
    assert cost.bytes(32) == 4 * cost.bytes(8)
    assert cost.intensity(8) == 4 * cost.intensity(32)
    assert cost.weight_bytes(32) == 4 * 25_557_032


def test_nothing_moved_has_no_intensity():
    cost = count(Compute(lambda w, x: x @ x.mT), torch.zeros(0, 3))
    assert (cost.macs, cost.bytes(8), cost.intensity(8), cost.layers[0].intensity(8)) == (0, 0, 0.0, 0.0)
    idle = roofline(count(nn.ReLU(), x3_8), Machine(1.0, 1.0)).seconds
    assert isinstance(idle, float)
    assert idle == 0


@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "vit_b_16"])
def test_table_fits_a_page_and_holds_all_layers(name):
    cost = count(backbone(name), torch.zeros(1, 3, 224, 224))
    lines = cost.table().splitlines()
    assert max(map(len, lines)) <= 88
    assert f"{cost.macs:,}" in lines[-1]
    assert f"{cost.params:,}" in lines[-1]
    assert len(lines) == len(cost.layers) + 5
    assert [line.split()[0] for line in lines[2 : 2 + len(cost.layers)]] == [x.name for x in cost.layers]


def test_table_shortens_long_names():
    model = nn.Linear(8, 8)
    for _ in range(15):
        model = nn.ModuleDict({"inner": model})
        model.forward = model["inner"].forward
    line = count(model, x3_8).table().splitlines()[2]
    assert len(line) <= 88
    assert line.startswith("...nner.inner.inner.inner ")


def test_csv(tmp_path):
    cost = count(backbone("resnet18"), torch.zeros(2, 3, 224, 224))
    path = tmp_path / "cost.csv"
    cost.to_csv(path)
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == [*(x.name for x in cost.layers), "(elsewhere)"]
    totals = {key: sum(int(row[key]) for row in rows) for key in ("macs", "flops", "params", "outputs")}
    assert totals == {"macs": cost.macs, "flops": cost.flops, "params": cost.params, "outputs": cost.activations}
    assert rows[0]["output"] == "2x64x112x112"
    assert int(rows[0]["inputs"]) == 2 * 3 * 224 * 224
    assert int(rows[0]["weights"]) == 64 * 3 * 7 * 7


# --- Roofline ---------------------------------------------------------------------------------------------------

positive = st.floats(1e-3, 1e15, allow_nan=False)


@reproducible
@given(positive, positive, st.floats(0, 1e12))
def test_the_roof_is_the_lower_of_two_limits(peak, bandwidth, intensity):
    machine = Machine(peak, bandwidth)
    rate = machine.attainable(intensity)
    assert rate <= peak
    assert rate <= intensity * bandwidth
    assert rate in (peak, intensity * bandwidth)
    assert machine.attainable(2 * machine.ridge) == peak
    assert machine.attainable(machine.ridge / 2) == pytest.approx(peak / 2)


@reproducible
@given(st.tuples(*[st.integers(1, 200)] * 3), st.sampled_from([4, 8, 16, 32]), positive, positive)
def test_time_is_work_over_attainable_rate(sizes, bits, peak, bandwidth):
    m, k, n = sizes
    cost = count(nn.Linear(k, n, bias=False), torch.zeros(m, k))
    (bound,) = roofline(cost, Machine(peak, bandwidth, bits)).bounds
    assert bound.seconds == pytest.approx(2 * m * k * n / bound.machine.attainable(bound.intensity))
    assert (bound.limit == "memory") == (bound.intensity < peak / bandwidth) or bound.intensity == pytest.approx(
        peak / bandwidth
    )


def test_speedup_by_hand():
    """A matrix-vector product gains what its bytes lose, a large square product what the peak gains."""
    thin = count(nn.Linear(1024, 1024, bias=False), torch.zeros(1, 1024))
    thick = count(nn.Linear(1024, 1024, bias=False), torch.zeros(1024, 1024))
    fp32, int8 = Machine(1e11, 1e10, 32), Machine(2e11, 1e10, 8)
    assert roofline(thin, int8).speedup(roofline(thin, fp32)) == pytest.approx(4)
    assert roofline(thick, int8).speedup(roofline(thick, fp32)) == pytest.approx(2)
    assert [b.limit for b in roofline(thin, fp32).bounds + roofline(thick, fp32).bounds] == ["memory", "compute"]
    assert roofline(thick, fp32).seconds == pytest.approx(2 * 1024**3 / 1e11)
    assert roofline(thin, fp32).seconds == pytest.approx(4 * (1024**2 + 2048) / 1e10)


def test_layers_add_up_and_no_layer_gains_more_than_bits_or_peak_allow():
    cost = count(backbone("mobilenet_v2"), torch.zeros(1, 3, 224, 224))
    before, after = roofline(cost, Machine(1e11, 1e10, 32)), roofline(cost, Machine(2e11, 1e10, 8))
    gains = [b.seconds / a.seconds for b, a in zip(before.bounds, after.bounds, strict=True)]
    assert all(2 <= round(gain, 9) <= 4 for gain in gains)
    assert {b.limit for b in before.bounds} == {"memory", "compute"}
    assert before.seconds == pytest.approx(sum(b.seconds for b in before.bounds))
    assert min(gains) < after.speedup(before) < max(gains)
    lines = after.table(before).splitlines()
    assert max(map(len, lines)) <= 88
    assert len(lines) == len(cost.layers) + 4
    assert float(lines[-1].split()[-1]) == pytest.approx(after.speedup(before), abs=0.006)
    assert [float(line.split()[-1]) for line in lines[2:-2]] == pytest.approx(gains, abs=0.006)
    assert float(after.table().splitlines()[-1].split()[-1]) == pytest.approx(after.seconds * 1e6, abs=6e-4)


# --- What is refused --------------------------------------------------------------------------------------------

LINEAR = count(nn.Linear(3, 4), torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("message", "call"),
    [
        ("model: need a torch.nn.Module, got a function", lambda: count(lambda x: x, x3_8)),
        ("model: need a torch.nn.Module, got a type", lambda: thop_profile(nn.Linear, x3_8)),
        ("inputs: need the model's inputs, got none", lambda: count(nn.Linear(8, 8))),
        ("inputs: need the model's inputs, got none", lambda: thop_profile(nn.Linear(8, 8))),
        *(
            (message, lambda counter=counter, model=model, x=x: counter(model, x))
            for counter in (count, thop_profile)
            for message, model, x in (
                ("inputs: on meta", nn.Linear(8, 8), x3_8.to("meta")),
                (r"model: has uninitialized \(lazy\) parameters; run it once", nn.LazyLinear(8), x3_8),
            )
        ),
        ("path: need a path, got None", lambda: LINEAR.to_csv(None)),
        *(
            (rf"bits: need a Python integer >= 1, got {bits}", lambda call=call, bits=bits: call(bits))
            for bits in (0, -8, 8.0, True, None, math.nan)
            for call in (LINEAR.bytes, LINEAR.weight_bytes, LINEAR.intensity, LINEAR.table, LINEAR.layers[0].bytes)
        ),
        *(
            (
                f"{name}: need a finite number > 0",
                lambda name=name, bad=bad: Machine(**{"peak": 1.0, "bandwidth": 1.0} | {name: bad}),
            )
            for name in ("peak", "bandwidth")
            for bad in (0, -1.0, math.nan, math.inf, "1", None, True)
        ),
        ("bits: need a Python integer", lambda: Machine(1.0, 1.0, bits=8.0)),
        ("intensity: need a number >= 0", lambda: Machine(1.0, 1.0).attainable(-1)),
        ("intensity: need a number >= 0, got 'a'", lambda: Machine(1.0, 1.0).attainable("a")),
        ("intensity: need a number >= 0", lambda: Machine(1.0, 1.0).attainable(math.nan)),
        ("cost: need a Cost", lambda: roofline(nn.Linear(1, 1), Machine(1.0, 1.0))),
        ("machine: need a Machine", lambda: roofline(LINEAR, 1e9)),
        (
            "before: need a Roofline, got a Machine",
            lambda: roofline(LINEAR, Machine(1.0, 1.0)).speedup(Machine(1.0, 1.0)),
        ),
        (
            "before: need a Roofline of the same layers",
            lambda: roofline(LINEAR, Machine(1.0, 1.0)).table(
                roofline(count(nn.Linear(8, 8), x3_8), Machine(1.0, 1.0))
            ),
        ),
        (
            "need layers that move or compute",
            lambda: Roofline(Machine(1.0, 1.0), ()).speedup(Roofline(Machine(1.0, 1.0), ())),
        ),
    ],
)
def test_bad_arguments(message, call):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_model_that_cannot_be_copied():
    model = nn.Linear(8, 8)
    model.stream = (n for n in range(3))  # generators can't be copied
    with pytest.raises(ValueError, match=r"copy.deepcopy can copy: cannot pickle 'generator' object"):
        count(model, x3_8)


def test_the_error_of_a_wrong_input_is_pytorchs_own(capfd, caplog):
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        count(nn.Linear(8, 8), torch.zeros(3, 7))
    with pytest.raises(TypeError, match="positional argument"):
        count(nn.Linear(8, 8), x3_8, x3_8)
    assert (capfd.readouterr(), caplog.records) == (("", ""), [])


def test_records_cannot_be_changed():
    bound = Bound(LINEAR.layers[0], Machine(1.0, 1.0))
    for record, name in ((LINEAR, "layers"), (LINEAR.layers[0], "macs"), (Machine(1.0, 1.0), "peak"), (bound, "layer")):
        with pytest.raises(AttributeError):
            setattr(record, name, None)
    assert len({LINEAR, count(nn.Linear(3, 4), torch.zeros(2, 3))}) == 1
    assert isinstance(LINEAR, Cost)
    assert isinstance(LINEAR.layers[0], Layer)


def test_transposed_depthwise():
    (layer,) = count(nn.ConvTranspose2d(4, 4, 2, groups=4), torch.zeros(1, 4, 3, 3)).layers
    assert (layer.op, layer.macs) == ("depthwise", 4 * 9 * 4)


def test_nothing_expanded_is_nothing():
    (layer,) = count(Compute(lambda w, x: torch.bmm(x, w.expand(0, 8, 8))), torch.zeros(0, 5, 8)).layers
    assert (layer.weights, layer.inputs, layer.bytes(8)) == (0, 0, 0)


def test_a_silenced_log_stays_silenced():
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        count(nn.Linear(2, 2), torch.zeros(1, 2))
        assert log.disabled
    finally:
        log.disabled = before


def test_without_thop(monkeypatch):
    monkeypatch.setitem(sys.modules, "thop", None)
    with pytest.raises(ImportError, match="pip install thop setuptools"):
        thop_profile(nn.Linear(2, 2), torch.zeros(1, 2))


def test_uncounted_are_sorted():
    cost = count(Compute(lambda w, x: torch.fft.fft(torch.linalg.svdvals(x @ w))), torch.randn(3, 8))
    assert len(cost.uncounted) == 2 and list(cost.uncounted) == sorted(cost.uncounted)


def test_parameters_elsewhere_are_the_rest():
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8))
    (line,) = [x for x in count(model, torch.zeros(3, 8)).table().splitlines() if "elsewhere" in x]
    assert line.split() == ["parameters", "elsewhere", "16"]
