"""quantcourse.ptq against the definition of its grids, bounds made of their steps, ONNX Runtime, counts made by hand, and files
that were tampered with.
"""

import copy
import itertools
import json
from dataclasses import replace
from functools import partial

import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from quantcourse import calibrate, data, models
from quantcourse.affine import INT8, IntType, QParams, choose_qparams, fake_quantize
from quantcourse.engine import IntegerModel
from quantcourse.export import to_onnx
from quantcourse.graph import WEIGHTED, trace
from quantcourse.metrics import sqnr
from quantcourse.ptq import (
    Override,
    QuantizedModel,
    Recipe,
    Scheme,
    float_network,
    folded,
    quantize,
    quantize_each,
    weight_codes,
)

reproducible = settings(derandomize=True, deadline=None, max_examples=60, database=None)

AFFINE = Scheme(symmetric=False, signed=False)
PRESETS = ("naive", "int8", "w4a8", "hybrid")
NETS = ("plain", "residual", "mobile", "multibranch", "mlp", "vit")
OBSERVERS = ("minmax", "moving", "moving 0.5", "percentile", "percentile 99", "entropy", "mse", "admm")


def randn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def seeded(make, seed=0):
    """A network with weights of its own, without touching the global state of chance."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make().eval()


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True))
        self.deep = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.up = nn.ConvTranspose2d(16, 8, 2, 2, groups=2)
        self.out = nn.Conv2d(16, 1, 1)

    def forward(self, x):
        wide = self.down(x)
        return torch.sigmoid(self.out(torch.cat([self.up(self.deep(wide)), wide], 1)))


class SqueezeExcite(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 3)
        self.squeeze, self.excite = nn.Linear(8, 4), nn.Linear(4, 8)

    def forward(self, x):
        y = functional.relu(self.conv(x))
        factor = torch.sigmoid(self.excite(functional.relu(self.squeeze(y.mean((2, 3))))))
        return self.head(functional.adaptive_avg_pool2d(y * factor[:, :, None, None], 1).flatten(1))


class TwoInputs(nn.Module):
    """Two inputs, and outputs in a dict."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.head = nn.Linear(4, 8), nn.Linear(4, 8), nn.Linear(16, 2)

    def forward(self, x, y):
        return {"scores": self.head(torch.cat((self.a(x), self.b(y)), 1)), "parts": [self.a(y), (x, y)]}


class Shared(nn.Module):
    """A convolution called twice, with a batch norm of its own behind each call."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 3, padding=1), nn.LayerNorm(3)
        self.first, self.second, self.head = nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Linear(3, 2)
        for norm in (self.first, self.second):
            nn.init.uniform_(norm.weight, 0.5, 2)
            nn.init.normal_(norm.bias)
            nn.init.normal_(norm.running_mean)
            nn.init.uniform_(norm.running_var, 0.5, 2)

    def forward(self, x):
        x = self.second(self.conv(functional.relu(self.first(self.conv(x)))))
        return self.head(self.norm(self.norm(x.mean((2, 3)))))


class Attention(nn.Module):
    """Layers with the names that dicts have for their methods."""

    def __init__(self):
        super().__init__()
        self.keys, self.values, self.items, self.norm = *(nn.Linear(8, 8) for _ in range(3)), nn.LayerNorm(8)

    def forward(self, x):
        x = self.norm(x)
        return torch.softmax(self.items(x) @ self.keys(x).transpose(-1, -2), -1) @ self.values(x)


class Recurrent(nn.Module):
    """Integers in, and an LSTM that stays float."""

    def __init__(self):
        super().__init__()
        self.embedding, self.lstm, self.head = nn.Embedding(10, 8), nn.LSTM(8, 8, batch_first=True), nn.Linear(8, 10)

    def forward(self, x):
        return self.head(self.lstm(self.embedding(x))[0])


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.norm = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.BatchNorm2d(3)
        self.register_buffer("shift", torch.randn(1, 4, 1, 1))

    def forward(self, x):
        return functional.relu(functional.conv2d(self.norm(x), self.weight, padding=1)) + self.shift


class Signal(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Linear(8, 2)

    def forward(self, x):
        return self.head(functional.relu(self.norm(self.conv(x))).mean(-1))


class Shapes(nn.Module):
    """Attention with sizes read from its input, a value by name, and functions that torch's list of its own lacks."""

    def __init__(self):
        super().__init__()
        self.qkv, self.out, self.places = nn.Linear(8, 24), nn.Linear(8, 8), nn.Parameter(torch.randn(1, 5, 8))
        self.first = nn.Parameter(torch.randn(1, 1, 8))

    def forward(self, x):
        count, length, width = x.shape
        q, k, v = self.qkv(x + self.places).reshape(count, length, 3, width).unbind(2)
        mask = torch.ones((length, length)).tril() == 0
        x = torch.softmax((q @ k.transpose(-1, -2)).masked_fill(mask, float("-inf")), -1) @ v
        x = torch.cat(tensors=(self.first.expand(x.shape[0], -1, -1), functional.hardsigmoid(self.out(x))), dim=1)
        x = functional.threshold(functional.hardswish(x), 0.1, 0.0) * torch.arange(x.shape[-1])
        x = functional.interpolate(x, size=x.shape[-1:]).max(dim=2).values
        return {"largest": x, "all": [x, (functional.max_pool1d(x, 2), self.first + self.first.sum())]}


class Transformer(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, activation=activation, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.layer(x))


class Branching(nn.Module):
    """A part that no trace can follow."""

    class Part(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.part, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), self.Part(), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.part(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


IMAGES = randn(8, 3, 8, 8)
ZOO = {
    "unet": (UNet, (IMAGES,)),
    "squeeze-excite": (SqueezeExcite, (IMAGES,)),
    "two inputs": (TwoInputs, (randn(5, 4), randn(5, 4, seed=1))),
    "shared": (Shared, (IMAGES,)),
    "attention": (Attention, (randn(4, 5, 8),)),
    "recurrent": (Recurrent, (torch.arange(24).view(4, 6) % 10,)),
    "functional": (Functional, (IMAGES,)),
    "signal": (Signal, (randn(4, 3, 10),)),
    "shapes": (Shapes, (randn(4, 5, 8),)),
    "transformer": (lambda: Transformer(functional.relu), (randn(4, 5, 8),)),
    "gelu": (lambda: Transformer(functional.gelu), (randn(4, 5, 8),)),
    "bare layer": (lambda: nn.Linear(3, 2), (randn(4, 3),)),
    "no weights": (lambda: nn.Sequential(nn.ReLU()), (IMAGES,)),
}
RECIPES = {
    **{name: Recipe.preset(name) for name in PRESETS},
    "weights": Recipe(Scheme(4, granularity="channel"), None),
    "values": Recipe(None),
    "float": Recipe(None, None),
    "dynamic": Recipe(activations=replace(AFFINE, dynamic=True)),
    "channels": Recipe(activations=replace(AFFINE, granularity="channel")),
    "dynamic channels": Recipe(activations=replace(AFFINE, granularity="channel", dynamic=True)),
    "groups": Recipe(Scheme(4, granularity=1, symmetric=False)),
    "one bit": Recipe(Scheme(1, symmetric=False), replace(AFFINE, bits=1)),
    "signs": Recipe(Scheme(1, granularity="channel"), AFFINE),
    "signs in groups": Recipe(Scheme(1, granularity=1), AFFINE),
}


def network(name):
    make, inputs = ZOO[name]
    return seeded(make), inputs


def outputs(model, inputs):
    with torch.no_grad():
        return [t for t in tree_leaves(model(*inputs)) if isinstance(t, torch.Tensor)]


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def distance(a, b):
    """The largest difference, in parts of the largest value."""
    return max(float((x - y).abs().max() / y.abs().max()) for x, y in zip(a, b, strict=True))


def digits(count=256):
    return data.digits("train")[0][:count]


# --- Any network, any recipe -----------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", ZOO)
def test_networks_as_people_write_them(name, recipe, tmp_path):
    """They compute on grids, stay as they are, and come back from a file bit for bit."""
    model, inputs = network(name)
    before = {key: t.clone() for key, t in model.state_dict().items()}
    quantized = quantize(model, [inputs], RECIPES[recipe], progress=False)
    assert same(model.state_dict().values(), before.values())
    found = outputs(quantized, inputs)
    on_grids(quantized, inputs)
    assert sum(row.bytes for row in quantized.report().rows) == quantized.size()
    if recipe == "float":
        assert distance(found, outputs(model, inputs)) < 1e-5
    quantized.save(tmp_path / "model")
    loaded = QuantizedModel.load(tmp_path / "model")
    torch.save(quantized, tmp_path / "pickle")
    pickled = torch.load(tmp_path / "pickle", weights_only=False)
    assert str(pickled.report()) == str(quantized.report())
    pickled.load_state_dict(loaded.state_dict())
    for other in (loaded, copy.deepcopy(quantized), pickled):
        assert same(outputs(other, inputs), found)
        assert other.size() == quantized.size()
        assert (str(other.recipe), other.graph.nodes) == (str(quantized.recipe), quantized.graph.nodes)


def on_grids(quantized, inputs):
    """Every weight and every value with a static scale is that scale times a whole number in range."""
    for name, codes in quantized.weights.items():
        q, scale, zero_point = codes.codes.double(), codes.scale.double(), codes.zero_point
        if codes.axis is not None:
            rows = (len(q), -1, *[1] * (q.dim() - 2))
            scale, zero_point = (
                t.reshape(len(q), -1).repeat_interleave(codes.group_size or 1, 1).view(rows)
                for t in (scale, zero_point)
            )
        reals = (scale * (q - zero_point)).float()
        weight = quantized.graph.layer(quantized.graph[name]).weight
        assert torch.equal(reals.flatten().sort().values, weight.flatten().sort().values)
        assert codes.dtype.min <= q.min() and q.max() <= codes.dtype.max
    for node, value in quantized.graph.walk(inputs, quantized.step):
        if node.integer and node.scale_of is not None and isinstance(value, torch.Tensor):
            qp = quantized.quantizers[node.scale_of].qp
            if qp is not None and qp.axis is None:
                steps = value.double() / qp.scale.double() + qp.zero_point
                # float32 keeps 24 bits of scale times code.
                assert (steps - steps.round()).abs().max() <= 2.0 ** (qp.dtype.bits - 22)
                assert qp.dtype.min - 0.5 < steps.min() and steps.max() < qp.dtype.max + 0.5


@pytest.mark.parametrize("name", ["unet", "shared", "squeeze-excite", "attention", "signal"])
def test_sixteen_bits_are_almost_float(name):
    model, inputs = network(name)
    recipe = Recipe(Scheme(16, granularity="channel"), replace(AFFINE, bits=16))
    quantized = quantize(model, [inputs], recipe, progress=False)
    assert distance(outputs(quantized, inputs), outputs(model, inputs)) < 1e-3


def test_what_no_trace_can_follow_stays_float():
    model = seeded(Branching)
    quantized = quantize(model, [IMAGES], "w4a8", progress=False)
    why = {row.label: row.why for row in quantized.report().rows}
    assert "can't be traced" in why["part"]
    assert why["conv"] == why["head"] == ""
    assert distance([quantized(IMAGES)], outputs(model, (IMAGES,))) < 0.2
    with pytest.raises(ValueError, match=r"can't be saved: at part, need layers of torch.nn, .* or use torch.save"):
        quantized.save("nowhere")


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_backbones(name):
    model, images = models.backbone(name).eval(), randn(1, 3, 64, 64)
    quantized = quantize(model, [images], progress=False)
    assert {node.op for node in quantized.graph.nodes if not node.integer} == {"input", "output"}
    assert sqnr(model(images).detach(), quantized(images)) > 10


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types_are_computed_in_float32(dtype):
    model, inputs = network("unet")
    wide = quantize(model.to(dtype).float(), [inputs[0].to(dtype).float()], progress=False)
    quantized = quantize(model.to(dtype), [inputs[0].to(dtype)], progress=False)
    assert next(model.parameters()).dtype == dtype
    found = quantized(inputs[0].to(dtype))
    assert found.dtype == torch.float32
    if dtype != torch.float64:
        assert torch.equal(found, wide(inputs[0].to(dtype).float()))


def test_memory_format_does_not_matter():
    model, (images,) = network("unet")
    expected = quantize(model, [images], progress=False)
    found = quantize(
        model.to(memory_format=torch.channels_last), [images.to(memory_format=torch.channels_last)], progress=False
    )
    assert same(found.state_dict().values(), expected.state_dict().values())


# --- What becomes of weights and values ------------------------------------------------------------------------


schemes = st.builds(
    Scheme,
    bits=st.integers(2, 16),
    symmetric=st.booleans(),
    signed=st.booleans(),
    granularity=st.sampled_from(["tensor", "channel", 2]),
    rounding=st.sampled_from(["even", "half_away", "half_up"]),
)


@reproducible
@given(schemes, st.integers(0, 99))
def test_a_weight_moves_by_half_a_step_at_most(scheme, seed):
    model = seeded(lambda: nn.Linear(6, 4), seed)
    quantized = quantize(model, [], Recipe(scheme, None), progress=False)
    (codes,) = quantized.weights.values()
    scale = codes.scale if scheme.granularity != "channel" else codes.scale[:, None]
    scale = scale.repeat_interleave(2, 1) if scheme.granularity == 2 else scale
    moved = (quantized.network.get_submodule(str(quantized.graph.layers()[0].layer)).weight - model.weight).detach()
    # 2**-23 of the range is float32's own rounding.
    assert (moved.abs() <= scale * (0.5 + 2.0 ** (scheme.bits - 22))).all()
    expected = {"tensor": (), "channel": (4,), 2: (4, 3)}[scheme.granularity]
    assert codes.scale.shape == expected


@reproducible
@given(st.integers(2, 16), st.integers(2, 16), st.integers(0, 99))
def test_the_error_of_a_layer_is_bounded_by_its_steps(weight_bits, value_bits, seed):
    """|y~ - y| <= sum|w| s_x / 2 + sum|x~| s_w / 2 + s_x s_w / 2 + s_y / 2, outputs being within the observed range."""
    model, x = seeded(lambda: nn.Linear(5, 3), seed), randn(7, 5, seed=seed)
    recipe = Recipe(Scheme(weight_bits, granularity="channel"), replace(AFFINE, bits=value_bits))
    quantized = quantize(model, [x], recipe, progress=False)
    (codes,), (source, target) = quantized.weights.values(), [q.qp for q in quantized.quantizers.values()]
    w, rounded = model.weight.detach().double(), fake_quantize(x, source).double()
    bound = w.abs().sum(1) * source.scale / 2 + rounded.abs().sum(1, keepdim=True) * codes.scale / 2
    bound = bound + source.scale * codes.scale / 2 + target.scale * 1.5  # ends of the grid move by a rounded zero point
    # What lies beyond the range observed is clipped to it, which only helps.
    assert ((quantized(x) - model(x)).detach().abs() <= bound * (1 + 1e-4)).all()


@pytest.mark.parametrize(
    ("bits", "observer"),
    [*((bits, "minmax") for bits in range(1, 17)), *itertools.product((1, 4, 8, 16), OBSERVERS[1:])],
)
def test_all_bits_and_observers(bits, observer):
    model, x = seeded(lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))), randn(50, 6)
    values = replace(AFFINE, bits=bits, observer=observer)
    quantized = quantize(
        model, [x, x], Recipe(Scheme(bits, False, granularity="channel", observer=observer), values), progress=False
    )
    for q in (*quantized.weights.values(), *quantized.quantizers.values()):
        assert q.qp.dtype.bits == bits
    on_grids(quantized, (x,))
    if bits >= 8 and observer in ("minmax", "mse", "admm", "percentile"):
        assert sqnr(model(x).detach(), quantized(x)) > 30


def test_squared_error_ranges_beat_the_largest_value_at_4_bits():
    x = randn(4000, 16)
    model = seeded(lambda: nn.Linear(16, 16))
    noise = {
        observer: sqnr(
            x, quantize(model, [x], Recipe(None, Scheme(4, observer=observer)), progress=False).quantizers["input_1"](x)
        )
        for observer in ("minmax", "mse", "admm")
    }
    assert noise["mse"] > noise["minmax"] + 3
    assert noise["mse"] >= noise["admm"] - 0.1


def test_groups_as_long_as_an_output_are_channels():
    model, x = seeded(lambda: nn.Linear(6, 4)), randn(5, 6)
    for observer in ("minmax", "mse"):
        scheme = Scheme(4, granularity="channel", observer=observer)
        pair = quantize_each(
            model, [x], [Recipe(scheme, None), Recipe(replace(scheme, granularity=6), None)], progress=False
        )
        assert same(*([q(x)] for q in pair))


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_have_a_scale_for_each_output(groups):
    """Scaling one output channel's weights by a power of two scales its step and nothing else."""
    model = seeded(lambda: nn.ConvTranspose2d(4, 6, 2, groups=groups, bias=False))
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled.weight[-1, -1] *= 8  # the last inputs, and the last output of the last group
        scaled.weight[: -4 // groups or None, -1] *= 8 if groups == 1 else 1
        scaled.weight[-4 // groups :, -1] = 8 * model.weight[-4 // groups :, -1]
    recipe = Recipe(Scheme(4, granularity="channel"), None)
    a, b = (next(iter(quantize(m, [], recipe, progress=False).weights.values())) for m in (model, scaled))
    assert torch.equal(a.codes, b.codes)
    assert (b.scale / a.scale).tolist() == [1, 1, 1, 1, 1, 8]


@pytest.mark.parametrize("dynamic", [True, False])
@pytest.mark.parametrize(("name", "channels"), [("signal", 3), ("unet", 3), ("attention", 8), ("bare layer", 3)])
def test_channels_of_values(name, channels, dynamic):
    """A convolution's are the second axis, also of signals; a linear layer's the last."""
    model, inputs = network(name)
    scheme = replace(AFFINE, granularity="channel", dynamic=dynamic)
    quantized = quantize(model, [inputs], Recipe(None, scheme), progress=False)
    name, quantizer = next(iter(quantized.quantizers.items()))
    value = next(v for node, v in quantized.graph.walk(inputs) if node.name == name)
    assert quantizer.qp_for(value).scale.shape == (channels,)


def test_zeros_and_tiny_weights():
    """A weight of zeros stays zeros; where a step is so fine that the bias leaves INT32, the step gives way."""
    model = seeded(lambda: nn.Linear(4, 3))
    with torch.no_grad():
        model.weight[0] = 0
        model.weight[1] = 1e-20
        model.bias.copy_(torch.tensor([0.5, 1e6, -1e6]))
    x = randn(9, 4)
    quantized = quantize(model, [x], progress=False)
    assert distance([quantized(x)], [model(x).detach()]) < 0.01
    (codes,) = quantized.weights.values()
    assert codes.bias.abs().max() <= 2**30
    assert codes.codes[0].tolist() == codes.codes[1].tolist() == [0] * 4
    report = quantized.report()
    assert report.rows[1].weight_sqnr is not None


@pytest.mark.parametrize("x", [torch.zeros(4, 3), -torch.ones(4, 3), torch.ones(4, 3), 1e-30 * torch.ones(4, 3)])
def test_values_without_a_range(x):
    model = seeded(lambda: nn.Linear(3, 2))
    for recipe in PRESETS[:3]:
        quantized = quantize(model, [x], recipe, progress=False)
        assert distance([quantized(x)], [model(x).detach()]) < 0.05


def test_a_layer_against_onnx_runtime():
    """QuantizeLinear, DequantizeLinear and Conv by themselves, from our codes."""
    model, x = seeded(lambda: nn.Conv2d(3, 5, 3, padding=1)), randn(4, 3, 6, 6)
    quantized = quantize(model, [x], progress=False)
    (codes,), (source, target) = quantized.weights.values(), [q.qp for q in quantized.quantizers.values()]
    initializers = {
        **{f"{k}_scale": q.scale for k, q in (("x", source), ("y", target), ("w", codes))},
        **{f"{k}_zero": q.zero_point.to(torch.uint8) for k, q in (("x", source), ("y", target))},
        "w": codes.codes,
        "w_zero": codes.zero_point.to(torch.int8),
        "b": codes.bias,
        "b_scale": source.scale * codes.scale,
        "b_zero": torch.zeros(5, dtype=torch.int32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["in", "x_scale", "x_zero"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "x_scale", "x_zero"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wf"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "b_scale", "b_zero"], ["bf"], axis=0),
        helper.make_node("Conv", ["x", "wf", "bf"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("QuantizeLinear", ["y", "y_scale", "y_zero"], ["out"]),
    ]
    ends = [helper.make_tensor_value_info("in", TensorProto.FLOAT, [4, 3, 6, 6])]
    outs = [helper.make_tensor_value_info("out", TensorProto.UINT8, [4, 5, 6, 6])]
    arrays = [numpy_helper.from_array(t.numpy(), k) for k, t in initializers.items()]
    graph = helper.make_graph(nodes, "layer", ends, outs, arrays)
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(file.SerializeToString(), options)
    theirs = torch.from_numpy(session.run(None, {"in": x.numpy()})[0]).int()
    ours = (quantized(x) / target.scale + target.zero_point).round().int()
    assert (ours - theirs).abs().max() <= 1
    assert (ours == theirs).double().mean() > 0.99


def test_dynamic_equals_static_on_one_batch():
    for name in ("unet", "two inputs", "attention"):
        model, inputs = network(name)
        static, dynamic = quantize_each(
            model, [inputs], [Recipe(None, replace(AFFINE, dynamic=d)) for d in (False, True)], progress=False
        )
        # The ranges of later values are those of values that were rounded before.
        assert distance(outputs(dynamic, inputs), outputs(static, inputs)) < 0.05
        first = static.graph.inputs[0].name
        if static.graph[first].quantizer:
            x = inputs[0]
            assert torch.equal(static.quantizers[first](x), dynamic.quantizers[first](x))
        # Dynamic ranges follow the batch, static ones clip it.
    model, x = seeded(lambda: nn.Linear(3, 2)), randn(6, 3)
    recipe = Recipe(activations=replace(AFFINE, dynamic=True))
    dynamic = quantize(model, [], recipe, progress=False)
    assert distance([dynamic(1000 * x)], [model(1000 * x).detach()]) < 0.02


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_and_its_norm_folded_are_what_torch_computes_of_both(bias, affine):
    for layer, norm, x in (
        (nn.Conv2d(3, 6, 3, groups=3, bias=bias), nn.BatchNorm2d(6, affine=affine), randn(5, 3, 7, 7)),
        (nn.Linear(4, 6, bias=bias), nn.BatchNorm1d(6, affine=affine, eps=0.1), randn(5, 4)),
    ):
        state = {"running_mean": randn(6, seed=1), "running_var": randn(6, seed=2).exp()}
        if affine:
            state |= {"weight": randn(6, seed=3), "bias": randn(6, seed=4)}
        norm.load_state_dict({**norm.state_dict(), **state})
        both = nn.Sequential(layer, norm).eval().double()
        wide, shift = folded(layer.weight, layer.bias, norm)
        one = copy.deepcopy(layer)
        one.weight, one.bias = nn.Parameter(wide), nn.Parameter(shift)
        assert torch.allclose(one(x.double()), both(x.double()), rtol=1e-12, atol=1e-12)


def test_bias_correction_restores_the_mean_of_each_output():
    """With float values in between, the mean of a layer's outputs over the batches is that of the float layer."""
    for name in ("unet", "shared", "two inputs", "signal", "attention"):
        model, inputs = network(name)
        recipe = Recipe(Scheme(2), None, bias_correction=True)
        plain, corrected = quantize_each(
            model, [inputs], [replace(recipe, bias_correction=False), recipe], progress=False
        )
        exact = dict(corrected.measured_on[0].walk(inputs))
        worst = {}
        for kind, quantized in (("plain", plain), ("corrected", corrected)):
            shifts = []
            for node, value in quantized.graph.walk(inputs, quantized.step):
                if node.op in WEIGHTED and node.activation is None:
                    expected = next(v for n, v in exact.items() if n.name == node.name)
                    axis = -1 if node.op == "linear" else 1
                    error = (value - expected).movedim(axis, 0).flatten(1).mean(1)
                    shifts.append(float(error.abs().max() / expected.abs().max()))
            worst[kind] = max(shifts)
        assert worst["corrected"] < 1e-5 < 1e-2 < worst["plain"]


# --- The six networks --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
def test_accuracy(name):
    """INT8 and 4-bit weights cost two points at most."""
    images, labels, _ = (t[:600] for t in data.digits("validation"))
    model = models.load(name)
    exact = (model(images).argmax(1) == labels).double().mean()
    for quantized in quantize_each(model, [digits()], ["int8", "w4a8", "hybrid"], progress=False):
        assert exact - (quantized(images).argmax(1) == labels).double().mean() < 0.02


def test_sizes_by_hand():
    """784 weights take 4 bits each; scales and biases 4 bytes; zero points as many bits as codes."""
    model, x = seeded(lambda: nn.Sequential(nn.Linear(49, 16), nn.ReLU(), nn.LayerNorm(16))), randn(4, 49)
    recipe = Recipe(Scheme(4, granularity="channel"), replace(AFFINE, bits=6))
    # weights, their scales, their zero points, biases, the input's scale and zero point, layer norm
    assert (
        quantize(model, [x], recipe, progress=False).size()
        == 49 * 16 // 2 + 16 * 4 + 16 // 2 + 16 * 4 + 4 + 1 + 2 * 16 * 4
    )


@pytest.mark.parametrize("name", NETS)
def test_size_is_that_of_the_tensors_in_the_file(name, tmp_path):
    quantized = quantize(models.load(name), [digits(64)], "w4a8", progress=False)
    quantized.save(tmp_path / "model")
    with safe_open(tmp_path / "model", "pt") as file:
        record = json.loads(file.metadata()["model"])
    total = 0
    for key, t in load_file(tmp_path / "model").items():
        kind, _, rest = key.partition(".")
        owner, _, last = rest.rpartition(".")
        bits = 8 * t.element_size()
        if last in ("codes", "zero_point"):
            bits = (
                record["weights"][owner]["bits"] if kind == "weights" else record["quantizers"][owner]["scheme"]["bits"]
            )
        total += -(-t.numel() * bits // 8)
    assert quantized.size() == total


def test_report_by_hand():
    model, x = models.load("mlp"), digits(64)
    quantized = quantize(model, [x], "int8", progress=False)
    report = quantized.report()
    rows = {row.label: row for row in report.rows}
    layers = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    for name, layer in layers.items():
        w = layer.weight.detach()
        largest = w.abs().amax(1)
        rounded = fake_quantize(w, choose_qparams(-largest, largest, INT8, symmetric=True, axis=0))
        assert rows[name].weight_sqnr == sqnr(w, rounded)
        assert rows[name].weight_bits == rows[name].value_bits == 8
    last = rows[list(layers)[-1]]
    assert last.output_sqnr == pytest.approx(sqnr(model(x).detach(), quantized(x)), abs=1e-3)
    assert last.scale == float(quantized.quantizers[quantized.graph.layers()[-1].name].qp.scale)
    assert report.rows[0].low <= x.min()
    assert report.rows[0].high >= x.max() - 1e-6
    other = quantized.report(digits(128)[64:])
    assert other.rows[-1].output_sqnr != last.output_sqnr
    assert other.rows[-1].weight_sqnr == last.weight_sqnr
    assert report.bytes == quantized.size() == sum(row.bytes for row in report.rows)
    by_name = {node.label: node.name for node in quantized.graph.nodes}
    for name in layers:
        codes, own = quantized.weights[by_name[name]], quantized.quantizers[by_name[name]]
        assert rows[name].bytes == codes.bytes() + own.bytes()
    text = str(report)
    assert f"{quantized.size():,} bytes in all" in text
    assert all(name in text for name in layers)


def test_report_of_what_has_no_codes_of_its_own():
    """Max pooling keeps the scale of what it reads; a parameter that is added has a row for its bytes."""
    layers = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.Conv2d(4, 2, 1)
    quantized = quantize(seeded(lambda: nn.Sequential(*layers)), [IMAGES], progress=False)
    conv, pool = quantized.report().rows[1:3]
    assert (pool.op, pool.value_bits, pool.bytes, pool.why) == ("max_pool", 8, 0, "")
    assert (pool.low, pool.high, pool.scale) == (conv.low, conv.high, conv.scale)
    model, inputs = network("shapes")
    rows = {row.label: row for row in quantize(model, [inputs], progress=False).report().rows}
    assert (rows["places"].bytes, rows["places"].value_bits, rows["places"].output_sqnr) == (5 * 8 * 4, None, None)
    assert rows["first"].bytes == 8 * 4
    assert sum(label.startswith("first") for label in rows) == 1  # read twice, stored once


def test_random_rounding_is_repeatable():
    model, recipe = models.load("mlp"), Recipe(Scheme(rounding="stochastic"))
    with torch.random.fork_rng(devices=[]):
        codes = []
        for seed in (0, 0, 1):
            torch.manual_seed(seed)
            codes.append(quantize(model, [digits(64)], recipe, progress=False).state_dict())
    equal = [same(codes[0].values(), other.values()) for other in codes[1:]]
    assert equal == [True, False]


def test_outputs_are_pythons_own():
    model, inputs = network("shapes")
    found = quantize(model, [inputs], progress=False)(*inputs)
    assert [type(x) for x in (found, found["all"], found["all"][1])] == [dict, list, tuple]


def test_twice_the_same_and_one_pass_for_many():
    model, batches = models.load("residual"), list(digits(128).split(32))
    recipes = [*PRESETS, Recipe(activations=replace(AFFINE, bits=4, observer="mse"))]
    together = list(quantize_each(model, iter(batches), recipes, progress=False))
    for recipe, quantized in zip(recipes, together, strict=True):
        alone = quantize(model, batches, recipe, progress=False)
        assert same(alone.state_dict().values(), quantized.state_dict().values())
        assert alone.state_dict().keys() == quantized.state_dict().keys()


def test_progress_goes_to_stderr(capsys):
    for progress in (True, False):
        quantize(nn.Linear(2, 1), [torch.eye(2)], progress=progress)
        printed = capsys.readouterr()
        assert printed.out == ""
        assert ("calibrating" in printed.err) == progress


# --- Recipes -----------------------------------------------------------------------------------------------------


any_scheme = st.builds(
    lambda **k: Scheme(**{**k, "symmetric": k["symmetric"] and k["bits"] > 1}),
    bits=st.integers(1, 16),
    symmetric=st.booleans(),
    signed=st.booleans(),
    granularity=st.one_of(st.sampled_from(["tensor", "channel"]), st.integers(1, 999)),
    observer=st.sampled_from([*OBSERVERS, "percentile 99.9"]),
    rounding=st.sampled_from(["even", "half_away", "half_up", "stochastic"]),
)
of_values = st.builds(
    lambda scheme, dynamic: replace(scheme, granularity="channel", rounding="even", dynamic=dynamic),
    any_scheme,
    st.booleans(),
)
changes = st.fixed_dictionaries(
    {}, optional={"bits": st.integers(2, 16), "observer": st.sampled_from(OBSERVERS), "symmetric": st.booleans()}
)
overrides = st.lists(
    st.builds(
        Override,
        st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1),
        st.sampled_from([None, True, False]),
        changes,
        changes,
    ),
    max_size=3,
)
any_recipe = st.one_of(
    st.builds(Recipe, any_scheme, of_values, overrides, st.sampled_from(["alike", "8 bits", "float"]), st.booleans()),
    st.builds(Recipe, st.none(), of_values, st.just(()), st.just("float"), st.booleans()),
    st.builds(Recipe, any_scheme, st.none()),
    st.just(Recipe(None, None)),
)


@reproducible
@given(any_recipe)
def test_recipes_come_back_from_text(recipe):
    assert Recipe.parse(str(recipe)) == recipe
    assert eval(repr(recipe), {"Recipe": Recipe, "Scheme": Scheme, "Override": Override}) == recipe


def test_recipes_come_back_from_files(tmp_path):
    for name in PRESETS:
        Recipe.preset(name).save(tmp_path / name)
        assert Recipe.load(tmp_path / name) == Recipe.preset(name)
    assert Recipe.parse("") == Recipe.preset("int8")


@pytest.mark.parametrize(
    "text",
    [
        *("[weights", "wrong = 1", "weights = 3", "weights = 'none'", "first_last = 'both'", "bias_correction = 1"),
        *(
            "[weights]\nbits = 0",
            "[weights]\nbits = 17",
            "[weights]\nbits = 4.0",
            "[weights]\nsize = 3",
            "[weights]\ndynamic = true",
        ),
        *("[weights]\nobserver = 'max'", "[weights]\nobserver = 'percentile 0'", "[weights]\nobserver = 'mse 3'"),
        *("[activations]\ngranularity = 4", "[activations]\nrounding = 'stochastic'", "[activations]\nrounding = 'up'"),
        *(
            "[[overrides]]\nkeep_float = true",
            "[[overrides]]\nlayers = ''",
            "[[overrides]]\nlayers = 'a'\nweights = {size = 3}",
        ),
        "weights = 'float'\n[[overrides]]\nlayers = 'a'\nweights = {bits = 3}",
    ],
)
def test_no_recipes(text):
    with pytest.raises(ValueError, match=r"^\w+: "):
        Recipe.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[weight]\nbits = 4", r"keys of a recipe \(weights, .*\), got 'weight'"),
        ("[weights]\nbit = 4", r"keys of \[weights\] \(bits, .*\), got 'bit'"),
        ("[[overrides]]\nlayer = 'a'", r"keys of \[\[overrides\]\] \(layers, .*\), got 'layer'"),
        ("weights = 3", r"a table for \[weights\], got 3"),
    ],
)
def test_keys_that_a_recipe_does_not_have(text, message):
    with pytest.raises(ValueError, match=f"^text: need {message}$"):
        Recipe.parse(text)


def chain():
    """Three layers, the middle one in a module of its own."""
    return seeded(
        lambda: nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Sequential(nn.Conv2d(4, 4, 3)), nn.Flatten(), nn.Linear(64, 2)
        )
    )


def bits(quantized):
    """Of the weights and values of each step, by label."""
    return {row.label: (row.weight_bits, row.value_bits) for row in quantized.report().rows}


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        (Override("2.0", weights={"bits": 4}), {"2.0": (4, 8)}),
        (Override("2.*", activations={"bits": 4}), {"2.0": (8, 4)}),
        (Override("Conv2d", weights={"bits": 4}, activations={"bits": 5}), {"0": (4, 5), "2.0": (4, 5)}),
        (Override("linear", weights={"bits": 3}), {"4": (3, 8)}),
        (Override("input", activations={"bits": 3}), {"input": (None, 3)}),
        (Override("[04]", weights={"bits": 2}), {"0": (2, 8), "4": (2, 8)}),
        (Override("2.0", keep_float=True), {"0": (8, None), "2.0": (None, None), "3": (None, 8)}),
        (Override("4", keep_float=True), {"4": (None, None), "2.0": (8, None)}),
    ],
)
def test_overrides(override, changed):
    quantized = quantize(chain(), [IMAGES[:, :, :8, :8]], Recipe(overrides=(override,)), progress=False)
    expected = {"input": (None, 8), "0": (8, 8), "2.0": (8, 8), "4": (8, 8)} | changed
    found = bits(quantized)
    assert {label: found[label] for label in expected} == expected


def test_the_last_override_wins():
    recipe = Recipe(
        overrides=(
            Override("*", weights={"bits": 4, "observer": "mse"}),
            Override("4", keep_float=True, weights={"bits": 3}),
            Override("4", keep_float=False, weights={"observer": "minmax"}),
        )
    )
    quantized = quantize(chain(), [IMAGES], recipe, progress=False)
    found = bits(quantized)
    assert [found[label][0] for label in ("0", "2.0", "4")] == [4, 4, 3]
    assert recipe.kept_float("4", "0").overrides[-2:] == (
        Override("4", keep_float=True),
        Override("0", keep_float=True),
    )


@pytest.mark.parametrize(
    ("first_last", "overrides", "expected"),
    [
        ("alike", (), {"input": (None, 4), "0": (4, 4), "2.0": (4, 4), "4": (4, 4)}),
        ("8 bits", (), {"input": (None, 8), "0": (8, 4), "2.0": (4, 8), "4": (8, 8)}),
        ("float", (), {"input": (None, None), "0": (None, 4), "2.0": (4, None), "4": (None, None)}),
        (
            "8 bits",
            (Override("0", weights={"bits": 3}),),
            {"input": (None, 8), "0": (3, 4), "2.0": (4, 8), "4": (8, 8)},
        ),
        (
            "float",
            (Override("*", weights={"bits": 3}),),
            {"input": (None, None), "0": (None, 4), "2.0": (3, None), "4": (None, None)},
        ),
        (
            "float",
            (Override("4", keep_float=False),),
            {"input": (None, None), "0": (None, 4), "2.0": (4, 4), "4": (4, 4)},
        ),
        (
            "8 bits",
            (Override("2.0", keep_float=True),),
            {"input": (None, 8), "0": (8, None), "2.0": (None, None), "3": (None, 8), "4": (8, 8)},
        ),
    ],
)
def test_first_and_last(first_last, overrides, expected):
    recipe = Recipe(Scheme(4), replace(AFFINE, bits=4), overrides, first_last)
    found = bits(quantize(chain(), [IMAGES], recipe, progress=False))
    assert {label: found[label] for label in expected} == expected


def test_first_and_last_may_be_one():
    quantized = quantize(
        nn.Linear(2, 2), [torch.eye(2)], Recipe(Scheme(4), replace(AFFINE, bits=4), (), "8 bits"), progress=False
    )
    assert [(row.weight_bits, row.value_bits) for row in quantized.report().rows] == [(None, 8), (8, 8)]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (Recipe(overrides=(Override("5", keep_float=True),)), "'5' matches nothing"),
        (Recipe(overrides=(Override("input", weights={"bits": 4}),)), "'input' changes weights"),
        (Recipe(overrides=(Override("3", activations={"bits": 4}),)), "'3' changes activations"),
        (Recipe(overrides=(Override("4", weights={"bits": 99}),)), "for 4, bits"),
        (Recipe(overrides=(Override("4", weights={"dynamic": True}),)), "for 4, weights: need a static"),
        (Recipe(overrides=(Override("4", activations={"granularity": 2}),)), "groups of 2"),
        (Recipe(Scheme(granularity=5)), "weights of 0: .* divisor of the 27 inputs, got 5; an Override"),
    ],
)
def test_recipes_that_do_not_fit_the_network(recipe, message):
    with pytest.raises(ValueError, match=message):
        quantize(chain(), [IMAGES], recipe, progress=False)


# --- Bad input ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "batches: need at least one"),
        (IMAGES, "batches: need a list or a loader of batches, got a Tensor"),
        (3, "batches: need a list or a loader of batches, got a int"),
        ({"x": IMAGES}, "batches: need a list or a loader"),
        ([{"x": IMAGES}], "batches: need tensors, or tuples of them, got a dict"),
        ([(IMAGES, torch.arange(8))], r"batches: need 1 for each call \(input\), got 2"),
        ([IMAGES, IMAGES[:, :2]], "batches: need what the network takes, but at 0"),
        ([IMAGES.to("meta")], "batches: at input, x: need a dense tensor"),
        ([IMAGES[:0]], "batches: at input, x: need at least one"),
        ([IMAGES * float("nan")], "batches: at input, x: 1536 of 1536 values are NaN"),
        ([IMAGES.long()], "batches: at input, x: need floating-point"),
        ([[[1.0]]], "batches: at input, x: need a torch tensor"),
    ],
)
def test_bad_batches(batches, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        quantize(chain(), batches, progress=False)


def test_bad_models_and_recipes():
    for model, message in [
        (3, "model: need a torch module"),
        (nn.Linear(2, 1, device="meta"), "model: need weights with values, weight is on the meta device"),
        (nn.LazyLinear(2), "model: .*no weights yet"),
    ]:
        with pytest.raises(ValueError, match=message):
            quantize(model, [torch.eye(2)], progress=False)
    broken = nn.Linear(2, 1)
    nn.init.constant_(broken.weight, float("nan"))
    with pytest.raises(ValueError, match=r"weight.*NaN"):
        quantize(broken, [torch.eye(2)], progress=False)
    for recipes in ([], [None], [Recipe, "int8"], ["int9"]):
        with pytest.raises(ValueError, match=r"^(recipes?|name): need"):
            quantize_each(nn.Linear(2, 1), [torch.eye(2)], recipes, progress=False)
    with pytest.raises(ValueError, match=r"^recipe: .* got None$"):
        quantize(nn.Linear(2, 1), [torch.eye(2)], None, progress=False)
    with pytest.raises(ValueError, match=r"^recipes: need a list of recipes, got 'int8'"):
        quantize_each(nn.Linear(2, 1), [torch.eye(2)], "int8", progress=False)
    with pytest.raises(ValueError, match="at least one to measure on"):
        quantize(nn.Linear(2, 1), [], Recipe(activations=None, bias_correction=True), progress=False)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_network_itself_is_needed_not_what_wraps_it():
    x, net = torch.eye(2), nn.Sequential(nn.Linear(2, 1))
    for model, message in [
        (nn.DataParallel(net), "got it in a DataParallel; pass model.module"),
        (torch.compile(net, backend="eager"), "got it in a OptimizedModule; pass model._orig_mod"),
        (torch.jit.trace(net, x), "pass the module that it was made of"),
        (torch.jit.script(net), "pass the module that it was made of"),
        (quantize(net, [x], progress=False), "need a network in floats, got a quantized one"),
    ]:
        with pytest.raises(ValueError, match=f"^model: .*{message}"):
            quantize(model, [x], progress=False)


def test_a_generator_will_do():
    model = models.load("mlp")
    parts = digits(64).split(16)
    recipe = Recipe.preset("w4a8")
    once = quantize(model, (part for part in parts), recipe, progress=False)
    assert same(once.state_dict().values(), quantize(model, list(parts), recipe, progress=False).state_dict().values())


# --- The quantized model as a module -----------------------------------------------------------------------------


def test_it_computes_with_the_codes_that_were_loaded():
    model, x = models.load("residual"), digits(32)
    one, other = (quantize(models.load("residual", seed), [x], progress=False) for seed in (0, 1))
    assert not torch.equal(one(x), other(x))
    one.load_state_dict(other.state_dict())
    assert torch.equal(one(x), other(x))
    state = {key: t.clone() for key, t in other.state_dict().items()}
    key = next(key for key in state if key.endswith("scale"))
    state[key][...] = float("nan")
    with pytest.raises(ValueError, match="scale"):
        one.load_state_dict(state)
    assert model.training is False


@pytest.mark.parametrize("assign", [False, True])
def test_a_state_is_loaded_in_whole_or_not_at_all(assign, tmp_path):
    """Codes of 8 bits, and the state of another network, leave a model of 4 bits as it was."""
    x = digits(32)
    narrow, wide = (quantize(models.load("residual"), [x], name, progress=False) for name in ("w4a8", "int8"))
    before, found = {key: t.clone() for key, t in narrow.state_dict().items()}, narrow(x)
    states = wide.state_dict(), dict(list(wide.state_dict().items())[:-1])
    for state, error in zip(states, (ValueError, (ValueError, RuntimeError)), strict=True):
        with pytest.raises(error):
            narrow.load_state_dict(state, assign=assign)
        assert same(narrow.state_dict().values(), before.values())
        assert torch.equal(narrow(x), found)
    # Part by part, it takes what the file of it could not be loaded with.
    narrow.weights.load_state_dict(wide.weights.state_dict())
    with pytest.raises(ValueError, match="need"):
        narrow.save(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_codes_are_neither_trained_nor_narrowed():
    quantized = quantize(nn.Linear(2, 1), [torch.eye(2)], progress=False)
    for convert in (quantized.half, quantized.double, lambda: quantized.to(torch.bfloat16)):
        with pytest.raises(ValueError, match=r"dtype: .*float32"):
            convert()
    with pytest.raises(ValueError, match="mode: "):
        quantized.train()
    assert quantized.eval() is quantized
    assert not any(p.requires_grad for p in quantized.parameters())
    assert {t.device.type for t in copy.deepcopy(quantized).to("meta").state_dict().values()} == {"meta"}


def test_needs_its_inputs():
    quantized = quantize(nn.Linear(2, 1), [torch.eye(2)], progress=False)
    with pytest.raises(ValueError, match="inputs: need a list of 1"):
        quantized(torch.eye(2), torch.eye(2))
    with pytest.raises(ValueError, match="NaN"):
        quantized(torch.tensor([[float("nan"), 1.0]]))
    for inputs in (torch.ones(1, 3), "x"):
        with pytest.raises(ValueError, match=r"^inputs: need what the network takes, but at 0: "):
            quantized.report(inputs)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("preset", PRESETS)
def test_on_a_gpu(preset):
    model, (images,) = network("unet")
    here = quantize(model, [images], preset, progress=False)
    there = quantize(copy.deepcopy(model).cuda(), [images.cuda()], preset, progress=False)
    assert {t.device.type for t in there.state_dict().values()} == {"cuda"}
    assert distance([there(images.cuda()).cpu()], [here(images)]) < 0.05
    assert len(here.cuda().report().rows) == len(there.report().rows)


# --- Files -------------------------------------------------------------------------------------------------------


def rewritten(path, change):
    """The path of a saved model whose record was changed."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    record = json.loads(metadata["model"])
    change(record)
    save_file(load_file(path), path, {**metadata, "model": json.dumps(record)})
    return path


@pytest.fixture
def saved(tmp_path):
    """A small saved model, and what rewrites its record."""
    path = tmp_path / "model.safetensors"
    model = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(1), nn.Linear(144, 2)))
    quantized = quantize(model, [IMAGES], progress=False)
    quantized.save(path)
    return partial(rewritten, path)


def injected(**call):
    """Adds a call before the output."""

    def change(record):
        base = {
            "op": "call_function",
            "name": "evil",
            "target": "torch.relu",
            "args": {"tuple": []},
            "kwargs": {"dict": []},
        }
        record["graph"]["calls"].insert(1, {**base, **call})

    return change


def calling(target, *args):
    return injected(target=target, args={"tuple": list(args)})


X = {"node": "input_1"}


@pytest.mark.parametrize(
    "change",
    [
        *map(
            calling,
            ("os.system", "builtins.eval", "builtins.exec", "builtins.__import__", "builtins.open", "subprocess.run"),
        ),
        *map(
            calling,
            (
                "torch.load",
                "torch.save",
                "torch.from_file",
                "torch.hub.load",
                "torch.ops.load_library",
                "torch.compile",
            ),
        ),
        *map(
            calling,
            ("torch.os.system", "torch.sys.exit", "torch.utils.cpp_extension.load", "torch.distributed.all_reduce"),
        ),
        *map(
            calling,
            (
                "torch.Tensor.apply_",
                "torch.Tensor.__reduce_ex__",
                "torch.Tensor.set_",
                "torch._C._nn.__class__",
                "torch",
            ),
        ),
        *map(
            calling,
            (
                "_operator.call",
                "_operator.attrgetter",
                "_operator.methodcaller",
                "_operator.itemgetter",
                "_operator.__call__",
            ),
        ),
        *map(
            calling,
            (
                "math.__loader__",
                "math.sys",
                "numpy.load",
                "",
                "torch.nn.init.uniform_",
                "torch.nn.functional.os.system",
            ),
        ),
        *(calling("getattr", X, name) for name in ("__class__", "__reduce__", "grad_fn", "untyped_storage", "tofile")),
        calling("getattr", X, X),
        calling("getattr", X, "shape", X),
        calling("builtins.getattr", X, "shape"),
        *map(calling, ("eval", "exec", "__import__", "open", "setattr", "torch.nn.functional.boolean_dispatch")),
        *(
            lambda record, name=name: record["graph"]["layers"]["0"]["settings"].update(activation={"function": name})
            for name in ("os.system", "eval", "torch.load", "torch.Tensor.set_", "torch.hub.load")
        ),
        injected(args={"tuple": [{"function": "torch.relu"}]}),
        *(
            injected(op="call_method", target=name, args={"tuple": [X]})
            for name in (
                "__class__",
                "__reduce_ex__",
                "apply_",
                "map_",
                "numpy",
                "tofile",
                "set_",
                "resize_",
                "storage",
            )
        ),
        *(
            injected(op="call_method", target=name, args={"tuple": [X]})
            for name in ("share_memory_", "register_hook", "module_load", "data_ptr", "relu();import os", 3, None)
        ),
        injected(op="call_module", target="0); import os; (", args={"tuple": [X]}),
        injected(op="get_attr", target="a b"),
        injected(op="placeholder", target="x, y=__import__('os').system('true')"),
        injected(op="root", target="x"),
        injected(name="a b"),
        injected(name="input_1"),
        injected(kwargs={"dict": [["x)\nimport os\n(", 1]]}),
        injected(args={"tuple": [{"torch": "load"}]}),
        injected(args={"tuple": [{"torch": "os.system"}]}),
        injected(args={"tuple": [{"node": "later"}]}),
        injected(args={"tuple": [{"set": [1]}]}),
        lambda record: record["graph"].update(name="M:\n  pass\nimport os\nclass N"),
        lambda record: record["graph"]["layers"]["0"].update(kind="Module'"),
        lambda record: record["graph"]["layers"]["0"].update(kind="modules"),
        lambda record: record["graph"]["layers"]["0"]["settings"].update(forward="x"),
        lambda record: record["graph"]["layers"]["0"]["settings"].update(_forward_hooks={"dict": []}),
        lambda record: record["graph"]["layers"]["0"]["settings"].update(__class__="x"),
        lambda record: record["graph"]["layers"].update({"0.__init__": record["graph"]["layers"]["0"], "a b": {}}),
        lambda record: record["graph"]["nodes"][1].update(inputs=["nowhere"]),
        lambda record: record["graph"]["nodes"][1].update(parts=["nowhere"]),
        lambda record: record["graph"]["nodes"][1].update(extra=1),
        lambda record: record["weights"]["_1"].update(bits=99),
        lambda record: record["weights"]["_1"].update(bits=4),
        lambda record: record["weights"].pop("_1"),
        lambda record: record["quantizers"].pop("_1"),
        lambda record: record["tensors"].pop(),
        lambda record: record.update(recipe="[weights]\nbits = 99"),
        lambda record: record.pop("graph"),
        lambda record: record.clear(),
    ],
)
def test_what_a_file_may_not_ask_for(saved, change):
    """Nothing but layers and functions of torch that compute: refused when the file is read, before anything runs."""
    with pytest.raises(ValueError, match=r"^path: can't load"):
        QuantizedModel.load(saved(change))


def test_an_honest_file_passes_the_same_way(saved):
    assert QuantizedModel.load(saved(lambda record: None))(IMAGES).shape == (8, 2)
    for target in ("torch.relu", "torch._C._nn.gelu", "torch.nn.functional.silu", "_operator.neg", "torch.Tensor.add"):
        QuantizedModel.load(saved(injected(target=target, args={"tuple": [X]}, name="fine")))
        saved(lambda record: record["graph"]["calls"].pop(1))
    for name in ("shape", "values", "mT"):
        QuantizedModel.load(saved(injected(target="getattr", args={"tuple": [X, name]}, name="fine")))
        saved(lambda record: record["graph"]["calls"].pop(1))


def test_other_files(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(FileNotFoundError):
        QuantizedModel.load(path)
    for content in (b"", b"no safetensors at all", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="path: need a file of save"):
            QuantizedModel.load(path)
    for metadata in (
        {},
        {"format": "pt"},
        {"format": "quantcourse.ptq 1"},
        {"format": "quantcourse.ptq 1", "model": "{"},
    ):
        save_file({"x": torch.ones(1)}, path, metadata)
        with pytest.raises(ValueError, match=r"^path: "):
            QuantizedModel.load(path)
    with pytest.raises(OSError, match="path: can't write"):
        quantize(nn.Linear(2, 1), [torch.eye(2)], progress=False).save(tmp_path / "no" / "folder")


def test_damaged_tensors(saved):
    path = saved(lambda record: None)
    tensors = load_file(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    for key, broken in [
        ("weights._1.scale", torch.full((4,), -1.0)),
        ("weights._1.scale", torch.ones(3)),
        ("weights._1.codes", torch.ones(4, 3, 3, 2, dtype=torch.int8)),
        ("weights._1.codes", torch.ones(4, 3, 3, 3)),
        ("quantizers._1.scale", torch.tensor(0.0)),
        ("quantizers._1.zero_point", torch.tensor(300, dtype=torch.int32)),
    ]:
        save_file({**tensors, key: broken}, path, metadata)
        with pytest.raises(ValueError, match=r"^path: can't load"):
            QuantizedModel.load(path)
    save_file({k: t for k, t in tensors.items() if k != "weights._1.bias"}, path, metadata)
    with pytest.raises(ValueError, match="need the tensors"):
        QuantizedModel.load(path)


def test_what_cannot_be_saved(tmp_path):
    hooked = seeded(lambda: nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2)))
    hooked[1].register_forward_hook(lambda module, args, result: result + 1)
    quantized = quantize(hooked, [randn(4, 3)], progress=False)
    assert distance([quantized(randn(4, 3))], [hooked(randn(4, 3)).detach()]) < 0.05
    with pytest.raises(ValueError, match="can't be saved: at 1, need layers without hooks, got 1"):
        quantized.save(tmp_path / "model")
    odd = seeded(lambda: Transformer(lambda x: x.sin()))
    with pytest.raises(ValueError, match=r"can't be saved: at layer, need functions of torch that compute tensors"):
        quantize(odd, [randn(4, 5, 8)], progress=False).save(tmp_path / "model")


def test_trace_of_a_quantized_net_matches_that_of_the_float_one():
    """Folding and copying do not rename what people refer to in overrides."""
    for name in ZOO:
        model, inputs = network(name)
        labels = [node.label for node in trace(model).nodes]
        assert [node.label for node in quantize(model, [inputs], progress=False).graph.nodes] == labels


@pytest.mark.parametrize("one_sided", [True, False])
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize("bits", [3, 4])
def test_the_range_of_least_squared_error_is_that_of_the_codes_there_are(bits, signed, one_sided):
    """A symmetric grid has ``2^(b-1) - 1`` codes above zero if codes or values have both signs, and ``2^b - 1`` if
    neither has.  Of all steps, tried one by one, none has an error that is much smaller than the one chosen."""
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    x = x.abs() if one_sided else x
    scheme = Scheme(bits, signed=signed, observer="mse")
    qp = scheme.qparams(scheme.watcher(None).observe(x))

    def error(scale):
        grid = QParams(torch.as_tensor(scale, dtype=torch.float32), qp.zero_point, qp.dtype)
        return float((fake_quantize(x, grid) - x).square().mean())

    largest = float(x.abs().max()) / (2 ** (bits - 1) - 1)
    best = min(error(largest * i / 200) for i in range(10, 201))
    assert error(qp.scale) <= 1.05 * best


# --- One bit ---------------------------------------------------------------------------------------------------------

SIGNS = Scheme(1, granularity="channel")


@reproducible
@given(st.integers(1, 7), st.integers(1, 3), st.sampled_from(["channel", "tensor", "groups"]), st.integers(0, 999))
def test_signs_times_their_mean_magnitude_are_the_nearest_of_all(width, rows, granularity, seed):
    """Rastegari et al. 2016, section 3.1: of all signs B and all alpha, |w - alpha B|^2 is least for B = sign(w) and
    alpha = mean |w|: here against all 2^n signs, each with its best alpha w B / n, and with a hundred others."""
    weight = randn(rows, width, seed=seed)
    weight[randn(rows, width, seed=seed + 1) > 1] = 0
    scheme = Scheme(1, granularity=width if granularity == "groups" else granularity)
    codes, qp = weight_codes(weight, scheme)
    assert torch.equal(codes, torch.where(weight < 0, -1, 1))
    assert (codes.dtype, qp.dtype.bits, bool((qp.zero_point == 0).all())) == (torch.int8, 2, True)
    parts = weight.double().flatten()[None] if granularity == "tensor" else weight.double()
    reals = (qp.scale.double().view(-1, 1) * codes.view(parts.shape)).double()
    for part, real, scale in zip(parts, reals, qp.scale.view(-1), strict=True):
        if part.any():
            assert float(scale) == pytest.approx(float(part.abs().mean()), rel=1e-6)
        if len(part) > 10:
            continue
        found = (part - real).square().sum()
        signs = torch.tensor(list(itertools.product((-1.0, 1.0), repeat=len(part))), dtype=torch.float64)
        best = (part - (signs @ part / len(part))[:, None] * signs).square().sum(1)
        assert float(found) == pytest.approx(float(best.min()), rel=1e-5, abs=1e-12)
        for alpha in torch.linspace(-3, 3, 101, dtype=torch.float64):
            assert ((part - alpha * signs).square().sum(1) >= found * (1 - 1e-5)).all()


def test_sizes_of_one_bit_by_hand(tmp_path):
    """784 signs take 98 bytes; scales and biases 4 bytes; zero points a bit, as codes. In the file, signs have a byte."""
    layers, x = lambda: nn.Sequential(nn.Linear(49, 16), nn.ReLU(), nn.Linear(16, 3)), randn(4, 49)
    for granularity, scales in (("channel", 16 + 3), ("tensor", 1 + 1)):
        quantized = quantize(seeded(layers), [x], Recipe(Scheme(1, granularity=granularity), AFFINE), progress=False)
        zero_points = 2 + 1 if granularity == "channel" else 1 + 1
        values = 3 * (4 + 1)
        assert quantized.size() == 98 + 6 + 4 * scales + zero_points + 4 * (16 + 3) + values
        report = quantized.report()
        assert [row.weight_bits for row in report.rows] == [None, 1, 1]
        assert report.bytes == quantized.size() == sum(row.bytes for row in report.rows)
    quantized.save(tmp_path / "model")
    codes = {k: t for k, t in load_file(tmp_path / "model").items() if k.endswith("codes")}
    assert [(t.dtype, t.abs().min(), t.abs().max()) for t in codes.values()] == [(torch.int8, 1, 1)] * 2
    assert QuantizedModel.load(tmp_path / "model").size() == quantized.size()


@pytest.mark.parametrize("granularity", ["channel", "tensor"])
@pytest.mark.parametrize("name", ["residual", "mobile", "unet", "shared", "signal", "attention", "bare layer"])
def test_networks_of_one_bit_run_on_integers_and_elsewhere(name, granularity, tmp_path):
    """Integers compute the bits that they are defined by, and a file of it gives the same in another runtime."""
    model, inputs = (models.load(name), (digits(64),)) if name in NETS else network(name)
    recipe = Recipe(Scheme(1, granularity=granularity), AFFINE)
    quantized = quantize(model, [inputs], recipe, progress=False)
    found = outputs(quantized, inputs)
    engine = IntegerModel(quantized)
    assert same(outputs(engine, inputs), tree_leaves(engine.simulate(*inputs)))
    to_onnx(quantized, tmp_path / "model.onnx", *inputs)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    theirs = session.run(None, {k: x.numpy() for k, x in zip(names, inputs, strict=True)})
    step = float(next(reversed(quantized.quantizers.values())).scale)
    for ours, other, integers in zip(found, theirs, outputs(engine, inputs), strict=True):
        for y in (torch.from_numpy(other), integers):
            assert ((y - ours).abs() <= 0.5 * step).double().mean() >= 0.98
    quantized.save(tmp_path / "model")
    assert same(outputs(QuantizedModel.load(tmp_path / "model"), inputs), found)


def test_filters_of_zeros_have_the_sign_of_zero_and_keep_their_biases():
    """+1, at a step so small that nothing comes of it; where a bias needs a larger one, less than a bit of it."""
    model, x = seeded(lambda: nn.Linear(4, 4)), randn(9, 4)
    with torch.no_grad():
        model.weight[0], model.weight[1], model.weight[2] = 0, 0, -1e-30
        model.bias.copy_(torch.tensor([0.5, 0.0, -1.0, 0.25]))
    for granularity in ("channel", 4):
        quantized = quantize(model, [x], Recipe(Scheme(1, granularity=granularity), AFFINE), progress=False)
        (codes,), (_, quantizer) = quantized.weights.values(), quantized.quantizers.values()
        assert codes.codes[:3].tolist() == [[1] * 4, [1] * 4, [-1] * 4]
        assert (codes.scale > 0).all() and codes.scale.flatten()[:3].max() < 1e-6
        y = quantized(x)
        assert y.isfinite().all()
        assert torch.allclose(y[:, :3], model.bias.detach()[:3].expand(9, 3), atol=float(quantizer.scale))
        assert all(row.weight_sqnr is None or row.weight_sqnr < 100 for row in quantized.report().rows)


def test_signs_in_groups_have_a_mean_for_each_and_no_integers():
    """One sum of products has one scale: as for other groups, the engine refuses them by name."""
    model, x = seeded(lambda: nn.Sequential(nn.Linear(6, 4))), randn(9, 6)
    quantized = quantize(model, [x], Recipe(Scheme(1, granularity=2), AFFINE), progress=False)
    (codes,) = quantized.weights.values()
    assert torch.allclose(codes.scale, model[0].weight.detach().view(4, 3, 2).abs().mean(2), rtol=1e-6)
    # signs, a scale and a bit of zero point for each group, biases, and of input and output a scale and a zero point
    assert quantized.size() == 3 + 12 * 4 + 2 + 4 * 4 + 2 * 5
    with pytest.raises(ValueError, match=r"^quantized: 0 can't run on integers: .* groups of its weights"):
        IntegerModel(quantized)
    with pytest.raises(ValueError, match=r"^weights of 0: granularity: need a divisor of the 6 inputs, got 4"):
        quantize(model, [x], Recipe(Scheme(1, granularity=4), AFFINE), progress=False)


def test_signs_of_a_layer_among_others():
    """Any observer and rounding give the same signs; an override of the bits alone gives them too; values have none."""
    model, x = chain(), IMAGES
    recipe = Recipe(Scheme(), AFFINE, (Override("0", weights={"bits": 1}),))
    rows = {row.label: row.weight_bits for row in quantize(model, [x], recipe, progress=False).report().rows}
    assert [bits for bits in rows.values() if bits == 1] == [1]
    reference = quantize(model, [x], Recipe(SIGNS, AFFINE), progress=False).state_dict()
    for other in (
        replace(SIGNS, observer="mse"),
        replace(SIGNS, rounding="stochastic"),
        replace(SIGNS, rounding="half_up"),
    ):
        assert same(
            quantize(model, [x], Recipe(other, AFFINE), progress=False).state_dict().values(), reference.values()
        )
    with pytest.raises(ValueError, match=r"^activations: need at least 2 bits for a symmetric grid"):
        Recipe(SIGNS, Scheme(1))
    with pytest.raises(ValueError, match=r"^signed: need True for signs"):
        replace(SIGNS, signed=False)


def test_a_file_that_makes_more_of_signs_is_refused(tmp_path):
    """Codes beyond -1 and 1, and a type that is none."""
    path = tmp_path / "model"
    quantized = quantize(seeded(lambda: nn.Linear(4, 3)), [randn(9, 4)], Recipe(SIGNS, AFFINE), progress=False)
    quantized.save(path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors, content = load_file(path), path.read_bytes()
    (key,) = (k for k in tensors if k.endswith("codes"))
    for codes in (-2, 2, 127):
        save_file({**tensors, key: torch.full_like(tensors[key], codes)}, path, metadata)
        with pytest.raises(ValueError, match=r"^path: can't load"):
            QuantizedModel.load(path)
    record = json.loads(metadata["model"])
    ((_, owner),) = record["weights"].items()
    assert (owner["bits"], owner["narrow"]) == (2, True)
    for change in ({"narrow": 3}, {"narrow": "yes"}, {"narrow": None}, {"bits": 1}):
        changed = {**record, "weights": {k: {**v, **change} for k, v in record["weights"].items()}}
        save_file(tensors, path, {**metadata, "model": json.dumps(changed)})
        with pytest.raises(ValueError, match=r"^path: can't load"):
            QuantizedModel.load(path)
    path.write_bytes(content)
    assert QuantizedModel.load(path).size() == quantized.size()


@pytest.mark.parametrize("bits", [2, 8])
def test_files_from_before_there_were_signs(bits, tmp_path):
    """Say nothing of narrow types, and mean none."""

    def older(record):
        for codes in record["weights"].values():
            assert codes.pop("narrow") is False

    recipe = Recipe(Scheme(bits, granularity="channel"), AFFINE)
    expected = quantize(seeded(lambda: nn.Linear(4, 3)), [randn(9, 4)], recipe, progress=False)
    expected.save(tmp_path / "model")
    found = QuantizedModel.load(rewritten(tmp_path / "model", older))
    assert same(found.state_dict().values(), expected.state_dict().values())
    assert [codes.dtype for codes in found.weights.values()] == [IntType(bits, signed=True)]
    assert [codes.bits for codes in found.weights.values()] == [bits]
    assert found.size() == expected.size()


# --- Observers that were given -----------------------------------------------------------------------------------------


def watched(model, batch, make):
    """By label, observers of the values with a quantizer that have seen a batch."""
    graph = float_network(model)
    seen = {node.label: make(node.label) for node in graph.nodes if node.quantizer}
    with torch.no_grad():
        for node, value in graph.walk([batch]):
            if node.label in seen:
                seen[node.label].observe(value)
    return seen


def min_max(label):
    return calibrate.MinMax()


@pytest.mark.parametrize("kind", ["minmax", "percentile 99", "mse", "entropy"])
@pytest.mark.parametrize("name", ["residual", "vit", "unet"])
def test_merged_observers_are_as_good_as_watching(name, kind):
    """Two that saw a half each, merged, give the bits of one model that watched all: no batch is needed."""
    model, x = (models.load(name), digits(48)) if name in NETS else (network(name)[0], IMAGES)
    halves = x.split(len(x) // 2)
    recipe = Recipe(replace(SIGNS, bits=8), replace(AFFINE, observer=kind))
    ends = watched(model, x, min_max)
    # Histograms that can be merged have their bins from ends that all know.
    made = {"percentile 99": partial(calibrate.Percentile, 99), "mse": calibrate.MSE, "entropy": calibrate.Entropy}
    make = min_max if kind == "minmax" else lambda label: made[kind](range=ends[label].range())
    parts = [watched(model, half, make) for half in halves]
    merged = {label: parts[0][label].merge(parts[1][label]) for label in ends}
    quantized = quantize(model, [], recipe, progress=False, observers=merged)
    by_label = {quantized.graph[n].label: q for n, q in quantized.quantizers.items()}
    assert by_label.keys() == merged.keys()
    for label, quantizer in by_label.items():
        qp = recipe.activations.qparams(merged[label])
        assert torch.equal(quantizer.scale, qp.scale) and torch.equal(quantizer.zero_point, qp.zero_point)
    if kind == "minmax":
        whole = quantize(model, [x], recipe, progress=False)
        assert same(quantized.state_dict().values(), whole.state_dict().values())
        assert torch.equal(quantized(x), whole(x))


def test_what_was_observed_is_not_watched_again():
    """Values that are given keep their ranges, others are watched; the observers stay as they are, of whatever kind."""
    model, x = chain(), IMAGES
    narrow = watched(model, 0.1 * x, lambda label: calibrate.MovingAverageMinMax())
    full = quantize(model, [x], progress=False)
    labels = [*narrow]
    for chosen in (labels[:1], labels[1:], labels):
        before = {label: (narrow[label].count, narrow[label].range()) for label in chosen}
        quantized = quantize(model, [x], progress=False, observers={label: narrow[label] for label in chosen})
        for name, quantizer in quantized.quantizers.items():
            label = quantized.graph[name].label
            scheme = quantizer.scheme
            expected = scheme.qparams(narrow[label]).scale if label in chosen else full.quantizers[name].scale
            assert torch.equal(quantizer.scale, expected)
            assert torch.equal(quantizer.scale, full.quantizers[name].scale) == (label not in chosen)
        for label, (count, ends) in before.items():
            assert narrow[label].count == count
            assert same(narrow[label].range(), ends)
    for made in quantize_each(model, [x], ["int8", "w4a8"], progress=False, observers=narrow):
        assert same([q.scale for q in made.quantizers.values()], [q.scale for q in quantized.quantizers.values()])
    with pytest.raises(ValueError, match=r"^batches: need at least one to measure on, got none"):
        quantize(model, [], progress=False, observers={labels[0]: narrow[labels[0]]})


def test_observers_of_channels():
    model, x = seeded(lambda: nn.Linear(4, 3)), randn(9, 4)
    recipe = Recipe(SIGNS, replace(AFFINE, granularity="channel"))
    seen = watched(model, x, lambda label: calibrate.MinMax(-1))
    quantized = quantize(model, [], recipe, progress=False, observers=seen)
    assert torch.equal(quantized(x), quantize(model, [x], recipe, progress=False)(x))


def test_observers_that_do_not_fit():
    model, x = chain(), IMAGES
    seen = watched(model, x, min_max)
    (first, one), *_ = seen.items()
    channels = calibrate.MinMax(axis=1).observe(x)
    every = ", ".join(seen)
    for recipe, label, observer, message in [
        ("int8", "nowhere", one, f"need labels of values to observe: {every}$"),
        ("int8", 3, one, "need labels of values to observe"),
        (Recipe(SIGNS, None), first, one, "need labels of values to observe"),
        (Recipe(SIGNS, replace(AFFINE, dynamic=True)), first, one, "need labels of values to observe"),
        ("int8", first, one.range(), "need an observer, got "),
        ("int8", first, None, "need an observer, got None"),
        ("int8", first, calibrate.MinMax, "need an observer, got <class"),
        ("int8", first, calibrate.MinMax(), "MinMax: has seen no values"),
        ("int8", first, channels, r"need granularity 'tensor' as in the recipe, got axis=1$"),
        (
            Recipe(SIGNS, replace(AFFINE, granularity="channel")),
            first,
            one,
            r"need granularity 'channel' .*, got axis=None$",
        ),
    ]:
        with pytest.raises(ValueError, match=rf"^observers\[{label!r}\]: {message}"):
            quantize(model, [x], recipe, progress=False, observers={label: observer})
