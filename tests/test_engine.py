"""quantcourse.engine against its definition, against fake quantization, and on all kinds of machines.

``walk`` and ``walk(simulated=True)`` are two implementations: kernels on codes, and formulas in float64 that share
nothing with `quantcourse.integer` but ``quantize_multiplier``.  They must give the same bits at every node.
"""

import hashlib
import itertools
import os
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from quantcourse import data, engine, integer, models
from quantcourse.affine import quantize as to_codes
from quantcourse.engine import IntegerModel
from quantcourse.graph import Graph
from quantcourse.ptq import Override, QuantizedModel, Recipe, Scheme, quantize

ROUNDINGS = ("single", "double", "float")
ACTIVATIONS = {
    "UINT8": Scheme(symmetric=False, signed=False),
    "INT8": Scheme(symmetric=False),
    "symmetric": Scheme(),
    "4 bits": Scheme(4, symmetric=False, signed=False),
    "1 bit": Scheme(1, symmetric=False, signed=False),
    "16 bits": Scheme(16, symmetric=False, signed=False),
    "INT12": Scheme(12),
}
WEIGHTS = {
    "INT8": Scheme(granularity="channel"),
    "a tensor": Scheme(),
    "affine": Scheme(symmetric=False, signed=False, granularity="channel"),
    "4 bits": Scheme(4, granularity="channel"),
    "2 bits": Scheme(2),
}
RECIPES = {
    **{name: Recipe.preset(name) for name in ("naive", "int8", "w4a8", "hybrid")},
    "signed": Recipe(activations=ACTIVATIONS["INT8"]),
    "affine weights": Recipe(WEIGHTS["affine"], ACTIVATIONS["symmetric"]),
    "w4a4": Recipe(WEIGHTS["4 bits"], ACTIVATIONS["4 bits"]),
    "w2a16": Recipe(WEIGHTS["2 bits"], ACTIVATIONS["16 bits"]),
    "mixed": Recipe(overrides=(Override("Linear", weights={"bits": 4}, activations={"bits": 6}),)),
}


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)


def images(split="train", count=256):
    return data.digits(split)[0][:count]


def quantized(model, batch, recipe="int8"):
    inputs = [batch] if isinstance(batch, tuple) else [(batch,)]
    return quantize(model, inputs, recipe, progress=False)


def tensors(value):
    return torch.utils._pytree.tree_leaves(value)


def same(a, b):
    """Bit for bit, of one type and shape, whatever structure the values have."""
    pairs = list(zip(tensors(a), tensors(b), strict=True))
    return all(torch.equal(x, y) and x.dtype == y.dtype if isinstance(x, torch.Tensor) else x == y for x, y in pairs)


def assert_equals_definition(model, *inputs):
    """At every node, and in the end; returns the engine's outputs."""
    walks = model.walk(*inputs), model.walk(*inputs, simulated=True)
    for (node, ours), (_, defined) in zip(*walks, strict=True):
        assert same(ours, defined), node.label
    result = model(*inputs)
    assert same(result, model.simulate(*inputs))
    return result


def agreement(model, expected, *inputs):
    """Shares of equal argmax and of equal output codes, engine against fake quantization."""
    (output,) = model.graph.nodes[-1].inputs
    qp, codes = model.qp(model.graph[output]), model.codes(*inputs)
    argmax = codes.int().argmax(-1) == expected.argmax(-1)
    return float(argmax.double().mean()), float((codes == to_codes(expected, qp)).double().mean())


# --- The nets of the course ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", models.NAMES)
def test_every_node_equals_its_definition(name, recipe):
    fake = quantized(models.load(name), images(), RECIPES[recipe])
    for rounding in ROUNDINGS:
        assert_equals_definition(IntegerModel(fake, rounding), images("test", 40))


@pytest.mark.parametrize("name", models.NAMES)
def test_agrees_with_fake_quantization(name):
    """Where a product with M is rounded once; rounded twice, both times away from zero, codes drift apart."""
    fake, test = quantized(models.load(name), images(count=512)), images("test", None)
    expected, shares = fake(test), {}
    for rounding in ROUNDINGS:
        argmax, shares[rounding] = agreement(IntegerModel(fake, rounding), expected, test)
        assert argmax >= (0.998 if rounding == "double" else 0.999)
    assert min(shares["single"], shares["float"]) >= 0.98
    assert shares["double"] < shares["single"]


def test_the_whole_test_set_by_definition():
    fake = quantized(models.load("residual"), images())
    model, test = IntegerModel(fake), images("test", None)
    assert same(model(test), model.simulate(test))


def test_a_model_that_was_saved_gives_the_same_codes(tmp_path):
    fake, test = quantized(models.load("mobile"), images()), images("test", 40)
    fake.save(tmp_path / "model.safetensors")
    again = QuantizedModel.load(tmp_path / "model.safetensors")
    assert same(IntegerModel(again).codes(test), IntegerModel(fake).codes(test))


# --- Integers, and nothing else -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["plain", "residual", "mobile", "multibranch", "mlp"])
def test_values_are_codes_of_eight_bits(name):
    model = IntegerModel(quantized(models.load(name), images()))
    for node, value in model.walk(images("test", 3)):
        assert value.dtype == torch.uint8, node.label


def test_no_integer_node_sees_floats(monkeypatch):
    """What is computed by the network's own calls reads floats in float nodes, and integers in others."""
    recipe = Recipe().kept_float("6")
    model = IntegerModel(quantized(models.load("plain"), images(), recipe))
    seen = []
    compute = Graph.compute

    def watched(graph, node, values):
        kinds = {values[name].dtype for name in node.inputs if isinstance(values[name], torch.Tensor)}
        if node.integer:
            assert kinds == {torch.uint8}
        elif node.op != "output":
            assert kinds == {torch.float32}
        seen.append(node.op)
        return compute(graph, node, values)

    monkeypatch.setattr(Graph, "compute", watched)
    model(images("test", 3))
    assert seen == ["conv", "view", "output", "output"]


def test_sums_are_int32(monkeypatch):
    kinds = []
    rescale = integer._Rescaling.__call__

    def watched(self, acc):
        kinds.append(acc.dtype)
        return rescale(self, acc)

    monkeypatch.setattr(integer._Rescaling, "__call__", watched)
    model = IntegerModel(quantized(models.load("plain"), images()))
    model(images("test", 3))
    assert set(kinds) == {torch.int32}
    assert len(kinds) >= 7


def test_the_definition_uses_no_kernels(monkeypatch):
    fake, test = quantized(models.load("multibranch"), images()), images("test", 5)
    model = IntegerModel(fake)
    expected = model(test)

    def refuse(*_, **__):
        raise AssertionError

    for kernel in (integer.Layer, integer.Addition, integer._Rescaling):
        monkeypatch.setattr(kernel, "__call__", refuse)
    for name in ("adaptive_avg_pool", "avg_pool", "concat", "max_pool", "relu", "relu6"):
        monkeypatch.setattr(engine, name, refuse)
    with pytest.raises(AssertionError):
        model(test)
    assert same(model.simulate(test), expected)


@given(n=st.integers(-(2**31), 2**31 - 1), m=st.floats(2.0**-34, 4.0), rounding=st.sampled_from(["single", "double"]))
@example(n=-(2**31), m=0.5, rounding="double")
@example(n=2**31 - 1, m=1.0, rounding="single")
@example(n=3, m=0.5, rounding="double")
@example(n=-3, m=0.5, rounding="single")
def test_products_of_the_definition_are_exact(n, m, rounding):
    """Against rational arithmetic: m0 and shift as they are, no bit lost on the way."""
    m0, shift = integer.quantize_multiplier(m)
    exact, half = n * m0 * Fraction(2) ** (shift - 31), Fraction(1, 2)
    assume(abs(n * 2 ** max(shift, 0)) < 2**31)
    if rounding == "single":
        expected = (exact + half).__floor__()
    else:
        high = (n * 2 ** max(shift, 0) * m0 * Fraction(1, 2**31) + half).__floor__()
        away = (abs(high) * Fraction(2) ** min(shift, 0) + half).__floor__()
        expected = away if high >= 0 else -away
    assert engine._times(torch.tensor(n, dtype=torch.float64), m, rounding).item() == expected


# --- Any machine --------------------------------------------------------------------------------------------------

INTEGER_NETS = ("plain", "residual", "mobile", "multibranch", "mlp")


def digest(folder):
    """Of all codes that models stored in a folder compute; called here, and in processes of their own."""
    found = hashlib.sha256()
    for path in sorted(Path(folder).iterdir()):
        fake = QuantizedModel.load(path)
        for rounding in ROUNDINGS:
            for _, codes in IntegerModel(fake, rounding).walk(images("test", 40)):
                found.update(codes.contiguous().numpy().tobytes())
    return found.hexdigest()


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A folder of models without a float layer, of 8 bits and of mixed ones."""
    folder = tmp_path_factory.mktemp("models")
    for name in INTEGER_NETS:
        quantized(models.load(name), images()).save(folder / f"{name}.safetensors")
    quantized(models.load("residual"), images(), RECIPES["w2a16"]).save(folder / "wide.safetensors")
    return folder


def test_one_thread_or_two(stored):
    before, found = torch.get_num_threads(), set()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.add(digest(stored))
    finally:
        torch.set_num_threads(before)
    assert len(found) == 1


def test_without_vnni(stored):
    """Where products of bytes saturate in the library, other sums take over: the codes stay."""
    plain = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    here = Path(__file__).parent
    code = "import sys; from test_engine import digest; print(digest(sys.argv[1]))"
    result = subprocess.run(
        [sys.executable, "-c", code, str(stored)],
        env={**os.environ, **plain, "PYTHONPATH": f"{here}{os.pathsep}{here.parent}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == digest(stored)


# --- Any network --------------------------------------------------------------------------------------------------


class Each(nn.Module):
    """Several modules on one value."""

    def __init__(self, *parts):
        super().__init__()
        self.parts = nn.ModuleList(parts)


class Plus(Each):
    def forward(self, x):
        first, *others = [part(x) for part in self.parts]
        for other in others:
            first = first + other
        return first


class Join(Each):
    def forward(self, x):
        return torch.cat([part(x) for part in self.parts], dim=1)


class Call(nn.Module):
    """A function as a stage; torch.fx looks inside."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Beside(nn.Module):
    """A value that integers and floats both read."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return torch.sigmoid(x) * self.layer(x)


def swapped(x):
    a, b = x.chunk(2, 1)
    return torch.cat((b, a), 1)


def tokens(x):
    return x.flatten(2).transpose(1, 2)


def shuffled(x):
    n, c, h, w = x.shape
    return x.view(n, c // 2, 2, h, w).transpose(1, 2).reshape(n, c, h, w)


WITH_ACTIVATION = (nn.Identity, nn.ReLU, nn.ReLU6)


@st.composite
def convolutions(draw, c, size, same=False):
    """Of all settings; ``same``: with the shape of the input."""
    out = c if same else draw(st.sampled_from([1, 2, 4, 6]))
    groups = draw(st.sampled_from([g for g in (1, 2, c) if c % g == 0 and out % g == 0]))
    kernel = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    dilation = draw(st.integers(1, 2))
    bias = draw(st.booleans())
    if same:
        return nn.Conv2d(c, out, kernel, padding="same", dilation=dilation, groups=groups, bias=bias)
    stride = draw(st.integers(1, 2))
    if draw(st.booleans()):
        more = draw(st.integers(0, max(stride, dilation) - 1))
        padding = draw(st.integers(0, 1))
        return nn.ConvTranspose2d(c, out, kernel, stride, padding, more, groups, bias, dilation)
    padding = draw(st.sampled_from(["valid", 0, 1, (2, 0)]))
    return nn.Conv2d(c, out, kernel, stride, padding, dilation, groups, bias)


@st.composite
def poolings(draw, size):
    kernel = (draw(st.integers(1, 3)), draw(st.integers(2, 3)))
    stride, padding = draw(st.integers(1, 3)), (kernel[0] // 2, kernel[1] // 2)
    padding = draw(st.sampled_from([0, padding]))
    up = draw(st.booleans())
    choices = [
        nn.MaxPool2d(kernel, stride, padding, ceil_mode=up),
        nn.AvgPool2d(kernel, stride, padding, up, count_include_pad=draw(st.booleans())),
        nn.AdaptiveAvgPool2d(1),
        nn.AdaptiveAvgPool2d((2, None)),
        nn.AdaptiveAvgPool2d((3, 2)),
    ]
    if min(size) > 1:  # else a window may lie in the padding alone, and there is no maximum
        choices.append(nn.MaxPool2d(2, 1, 1, dilation=2))
    return draw(st.sampled_from(choices))


@st.composite
def stages(draw, c, size):
    convolution = draw(convolutions(c, size))
    same = draw(convolutions(c, size, same=True))
    choices = [
        nn.Sequential(convolution, draw(st.sampled_from(WITH_ACTIVATION))()),
        nn.Sequential(draw(poolings(size)), draw(st.sampled_from(WITH_ACTIVATION))()),
        nn.Sequential(Plus(same, nn.Identity()), draw(st.sampled_from(WITH_ACTIVATION))()),
        Plus(nn.Identity(), nn.Identity()),
        Plus(nn.AdaptiveAvgPool2d(1), nn.Identity()),
        nn.Sequential(Join(same, nn.Identity(), nn.Identity()), draw(st.sampled_from(WITH_ACTIVATION))()),
        Beside(same),
        nn.ReLU6(),
        nn.Tanh(),
        Call(lambda x: x.transpose(2, 3)),
    ]
    if c % 2 == 0:
        choices += [Call(swapped), Call(shuffled)]
    if c % 4 == 0:
        choices.append(nn.PixelShuffle(2))
    return draw(st.sampled_from(choices))


@st.composite
def networks(draw):
    """A network with its input; its last part works on maps, tokens, signals or rows."""
    torch.manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 4])), 5, 6)
    x = x * draw(st.sampled_from([0.01, 1.0, 30.0])) + draw(st.sampled_from([0.0, 3.0]))
    layers, value = [], x
    for _ in range(draw(st.integers(1, 4))):
        stage = draw(stages(value.shape[1], value.shape[2:]))
        try:
            value = stage(value)
        except RuntimeError:  # a kernel larger than its image
            assume(False)
        assume(value.numel() < 1 << 14)
        layers.append(stage)
    c, h, w = value.shape[1:]
    ends = {
        "map": [],
        "halves": [Call(lambda x: x.chunk(2, 2))],
        "rows": [nn.Flatten(), nn.Linear(c * h * w, 3), nn.ReLU(), nn.Linear(3, 2)],
        "view": [nn.Conv2d(c, 2, 1), Call(lambda x: x.view(x.size(0), -1)), nn.Linear(2 * h * w, 2)],
        "tokens": [Call(tokens), nn.Linear(c, 4, bias=False), nn.Softmax(-1), nn.Linear(4, 2)],
        "signal": [nn.Flatten(2), nn.Conv1d(c, 4, 3, 1, "same"), nn.ConvTranspose1d(4, 2, 3, 2, 1, 1, 2), nn.ReLU()],
    }
    layers += ends[draw(st.sampled_from(sorted(ends)))]
    return nn.Sequential(*layers).eval(), x


# torch warns once that it copies the input for an even kernel; so does the float network.
even_kernels = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


@even_kernels
@given(
    networks(),
    st.sampled_from(sorted(WEIGHTS)),
    st.sampled_from(sorted(ACTIVATIONS)),
    st.sampled_from(ROUNDINGS),
)
def test_any_network_equals_its_definition(network, weights, activations, rounding):
    model, x = network
    fake = quantized(model, x, Recipe(WEIGHTS[weights], ACTIVATIONS[activations]))
    try:
        ready = IntegerModel(fake, rounding)
    except ValueError as error:
        assert "INT32" in str(error)  # noqa: PT017
        assume(False)
    assert_equals_definition(ready, x)
    assert_equals_definition(ready, -3 * x[:1])


@even_kernels
@settings(max_examples=50)
@given(networks(), st.sampled_from(["UINT8", "INT8", "16 bits"]))
def test_any_network_is_near_fake_quantization(network, activations):
    """Node by node from the same codes: at most a code apart, so wiring and scales are right."""
    model, x = network
    fake = quantized(model, x, Recipe(WEIGHTS["4 bits"], ACTIVATIONS[activations]))
    try:
        ready = IntegerModel(fake)
    except ValueError:
        assume(False)
    reals = {}
    for node, value in ready.walk(x):
        qp = ready.qp(node)
        if node.integer:
            expected = fake.step(node, reals)
            for ours, theirs in zip(tensors(value), tensors(expected), strict=True):
                if qp is None:
                    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4 * float(theirs.abs().max()))
                else:
                    assert (ours.int() - to_codes(theirs, qp).int()).abs().max() <= 1, node.label
        if qp is None:
            reals[node.name] = value
        else:
            on_grid = [engine.dequantize(q, qp).contiguous() for q in tensors(value)]
            reals[node.name] = tuple(on_grid) if isinstance(value, tuple | list) else on_grid[0]


POOLINGS = [
    *(nn.AvgPool2d(3, 2, 1, up, include) for up in (False, True) for include in (False, True)),
    *(nn.AvgPool2d((2, 3), (3, 1), (1, 0), ceil_mode=up, count_include_pad=False) for up in (False, True)),
    *(nn.AdaptiveAvgPool2d(size) for size in (1, 3, (2, None), (None, 4), (9, 1))),
    *(nn.MaxPool2d(3, 2, 1, ceil_mode=up) for up in (False, True)),
    nn.MaxPool2d((2, 3), 1, (1, 0), dilation=2),
    nn.MaxPool2d((2,), [2], (1,)),
]


@pytest.mark.parametrize("activation", WITH_ACTIVATION)
@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_poolings(pooling, activation):
    """By definition; and within a code of what torch computes of the same values."""
    x = 3 * torch.randn(2, 3, 7, 6) + 1
    layers = nn.Sequential(pooling, activation())
    for rounding in ROUNDINGS:
        model = IntegerModel(quantized(layers, x), rounding)
        assert_equals_definition(model, x)
        assert all(node.integer for node in model.graph.nodes[1:-1])
        ends = model.graph.nodes[0], model.graph[model.graph.nodes[-1].inputs[0]]
        read, given = (model.qp(node) for node in ends)
        expected = to_codes(layers(engine.dequantize(to_codes(x, read), read)), given)
        assert (model.codes(x).int() - expected.int()).abs().max() <= 1


class Enlarged(nn.Module):
    """A transposed convolution that is told the size of its output."""

    def __init__(self, layer, size):
        super().__init__()
        self.layer, self.size = layer, size

    def forward(self, x):
        return self.size(self.layer, torch.relu(x), x)


TO_A_SIZE = {
    "numbers": lambda up, y, x: up(y, [8, 11]),
    "by name": lambda up, y, x: torch.relu(up(y, output_size=(7, 12))),
    "of another value": lambda up, y, x: up(y[:, :, ::2, ::2], output_size=x.shape[-2:]),
    "with the batch": lambda up, y, x: torch.sigmoid(up(y[:, :, ::2, ::2], x.shape)),
    "of shapes": lambda up, y, x: torch.cat([up(y, output_size=[2 * y.shape[2], 2 * y.shape[3]])] * 2, 1),
    "all by name": lambda up, y, x: up(input=y, output_size=[7, 11]),
    "the size in front": lambda up, y, x: up(output_size=[2 * y.shape[2], 2 * y.shape[3]], input=y),
    "a computed size in front": lambda up, y, x: up(output_size=x.shape[2:], input=y[:, :, ::2, ::2]),
}


@pytest.mark.parametrize("asked", TO_A_SIZE)
def test_transposed_convolutions_to_a_size(asked):
    """As large as the network asks for, also where its own settings say another size."""
    x = torch.randn(3, 4, 4, 6)
    layers = nn.ConvTranspose2d(4, 4, 3, 2, 1, output_padding=1), nn.ConvTranspose2d(4, 4, (3, 1), 2, (1, 0), groups=2)
    for rounding, layer in itertools.product(ROUNDINGS, layers):
        net = Enlarged(layer, TO_A_SIZE[asked])
        fake = quantized(net, x)
        result = assert_equals_definition(IntegerModel(fake, rounding), x)
        assert result.shape == fake(x).shape == net(x).shape
        torch.testing.assert_close(result, fake(x), rtol=0, atol=0.02 * float(fake(x).abs().max()))


def test_transposed_convolutions_to_a_size_on_signals():
    net = Enlarged(nn.ConvTranspose1d(4, 2, 3, 3), lambda up, y, x: up(y, output_size=[3 * x.shape[-1] + 1]))
    x = torch.randn(2, 4, 5)
    fake = quantized(net, x)
    assert assert_equals_definition(IntegerModel(fake), x).shape == fake(x).shape == (2, 2, 16)
    assert assert_equals_definition(IntegerModel(fake), x[..., :3]).shape == (2, 2, 10)


def test_a_size_that_the_input_does_not_reach():
    net = Enlarged(nn.ConvTranspose2d(4, 4, 3, 2, 1), lambda up, y, x: up(y, [8, 12]))
    model = IntegerModel(quantized(net, torch.randn(1, 4, 4, 6)))
    for call in (model, model.simulate):
        with pytest.raises(ValueError, match=r"requested an output size of \[8, 12\], but valid sizes range from \[5"):
            call(torch.randn(1, 4, 3, 6))


def test_operands_of_different_widths():
    """Codes of more than 8 bits leave less room to the left in a sum."""
    # A sum of many more codes shows where its operands were rounded.
    wider = Override("0.parts.0", activations={"bits": 12}), Override("add", activations={"bits": 16})
    recipe = Recipe(overrides=wider)
    net = nn.Sequential(Plus(nn.Conv2d(1, 2, 1), nn.Conv2d(1, 2, 1)), nn.Flatten())
    x = torch.randn(4, 1, 8, 8)
    for rounding in ROUNDINGS:
        fake = quantized(net, x, recipe)
        assert_equals_definition(IntegerModel(fake, rounding), x)
    kinds = [value.dtype for node, value in IntegerModel(fake).walk(x) if node.op == "conv"]
    assert kinds == [torch.int16, torch.uint8]


# --- Values that floats read --------------------------------------------------------------------------------------


def test_a_layer_that_only_floats_read_gives_reals():
    """``acc s_x s_w`` with its activation, as the float network's order of memory has it."""
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU6(), nn.Softmax(1), nn.Conv2d(4, 2, 3), nn.GELU())
    x = 20 * torch.randn(2, 1, 8, 8)
    fake = quantized(net, x)
    model = IntegerModel(fake)
    assert_equals_definition(model, x)
    values = {node.label: value for node, value in model.walk(x)}
    codes, qp = fake.weights["_1"], model.qp(model.graph["input_1"])
    centred = (values["input"].double() - int(qp.zero_point)).long()
    sums = functional.conv2d(centred.double(), codes.codes.double(), codes.bias.double())
    scale = (qp.scale.double() * codes.scale.double()).view(-1, 1, 1)
    expected = (sums * scale).float().clamp(0, 6)
    assert torch.equal(values["0"], expected)
    assert (expected == 6).any()
    assert (expected == 0).any()


def test_floats_read_values_as_they_were_computed():
    """Beside its codes a value computed in float stays what it is; integers meet its quantizer once."""
    net = Beside(nn.Linear(3, 3))
    x = torch.randn(5, 3)
    model = IntegerModel(quantized(net, x))
    y = assert_equals_definition(model, x)
    linear = next(value for node, value in model.walk(x) if node.op == "linear")
    assert torch.equal(y, torch.sigmoid(x) * linear)


def test_a_value_meets_its_quantizer_once(monkeypatch):
    """However many layers read it."""
    model = IntegerModel(quantized(models.load("vit"), images()))
    wanted = sum(node.scale_of == node.name and not node.integer for node in model.graph.nodes)
    calls = []
    plain = engine.quantize
    monkeypatch.setattr(engine, "quantize", lambda x, qp: calls.append(1) or plain(x, qp))
    model(images("test", 2))
    assert len(calls) == wanted


class Outputs(nn.Module):
    """Several inputs, one of them for floats alone, and several outputs, one of them float."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x, mask):
        y = torch.relu(self.layer(x))
        a, b = y.chunk(2, -1)
        return {"parts": (b, a), "sum": x + y, "masked": torch.softmax(y, -1) * mask, "mask": mask}


def test_several_inputs_and_outputs():
    x, mask = torch.randn(6, 4), torch.rand(6, 4) < 0.5
    fake = quantized(Outputs(), (x, mask))
    model = IntegerModel(fake)
    result = assert_equals_definition(model, x, mask)
    assert result["mask"] is mask
    codes = model.codes(x, mask)
    assert [t.dtype for t in codes["parts"]] == [torch.uint8] * 2
    assert codes["sum"].dtype == torch.uint8
    assert codes["masked"].dtype == torch.float32
    theirs = fake(x, mask)
    for name in ("sum", "masked"):
        torch.testing.assert_close(result[name], theirs[name], rtol=0, atol=0.05)


class Shapes(nn.Module):
    """Shapes and types of values that are codes here."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(1, 2, 3), nn.Linear(8, 2)

    def forward(self, x):
        y = self.one(x)
        half = torch.full((y.shape[0], 8), 0.5, dtype=y.dtype, device=y.device)
        # Floats read the second view, which needs memory in the order of the axes.
        return self.two(y.view(y.shape[0], -1)), torch.sigmoid(y.view(y.shape[0], -1)) * half


def test_codes_pass_for_floats_where_shapes_are_asked_for():
    x = torch.randn(2, 1, 4, 4)
    fake = quantized(Shapes(), x)
    _, z = assert_equals_definition(IntegerModel(fake), x)
    torch.testing.assert_close(z, fake(x)[1], rtol=0, atol=0.01)
    assert 0 < z.min() < z.max() < 0.5


def test_without_a_batch():
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.MaxPool2d(2), nn.AvgPool2d(2), nn.Flatten(1), nn.Conv1d(4, 2, 1))
    x = torch.randn(1, 12, 10)
    fake = quantized(net.eval(), x)
    result = assert_equals_definition(IntegerModel(fake), x)
    assert result.shape == fake(x).shape == (2, 4)


def test_rows_do_not_depend_on_their_batch():
    model = IntegerModel(quantized(models.load("residual"), images()))
    test = images("test", 33)
    whole = model(test)
    assert same(torch.cat([model(x) for x in test.split([1, 2, 30])]), whole)
    assert same(model(test.to(memory_format=torch.channels_last)), whole)


def test_inputs_stay_as_they_are():
    model, test = IntegerModel(quantized(models.load("plain"), images())), images("test", 5)
    before = test.clone()
    with torch.inference_mode():
        first = model(test)
    assert torch.equal(test, before)
    assert not model(test).requires_grad
    assert same(model(test), first)


# --- What it refuses ----------------------------------------------------------------------------------------------

REFUSED = {
    "activations=None.*every layer is float": Recipe(activations=None),
    "hidden can't run on integers: .*float weights.*give it a Scheme.*float in the recipe": Recipe(weights=None),
    "groups of its weights.*granularity": Recipe(weights=Scheme(4, granularity=2)),
    "values of x have ranges measured at run time.*dynamic=False.*hidden": Recipe(activations=Scheme(dynamic=True)),
    "values of hidden have a scale for each channel.*last": Recipe(
        overrides=(Override("hidden", activations={"granularity": "channel"}),)
    ),
    "rounding='half_up'": Recipe(activations=Scheme(rounding="half_up")),
    "hidden can't run on integers.*INT32.*float in the recipe": Recipe(
        Scheme(16), Scheme(16, symmetric=False, signed=False)
    ),
}


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.hidden, self.last = nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.last(self.hidden(x))


@pytest.mark.parametrize("message", REFUSED)
def test_refuses_by_name(message):
    fake = quantized(Named(), torch.randn(8, 4), REFUSED[message])
    with pytest.raises(ValueError, match=f"^quantized: .*{message}"):
        IntegerModel(fake)


@pytest.mark.parametrize("message", [m for m in REFUSED if "None" not in m and "16" not in m])
def test_the_remedy_helps(message):
    """Kept float, the layers that an error names are no obstacle."""
    recipe = REFUSED[message].kept_float("hidden", "last")
    x = torch.randn(8, 4)
    fake = quantized(Named(), x, recipe)
    assert_equals_definition(IntegerModel(fake), x)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model, x: model(), "inputs: need a list of 1"),
        (lambda model, x: model(x, x), "inputs: need a list of 1.*got 2"),
        (lambda model, x: model(x * torch.nan), "inputs: at x, x: .*NaN"),
        (lambda model, x: model.simulate(x.long()), "inputs: at x, x: .*int64"),
        (lambda model, x: model([1.0]), "inputs: at x, x: .*list"),
        (lambda model, x: model(x[:, :3]), "q: need shape"),
        (lambda model, x: IntegerModel(nn.Linear(2, 2)), "quantized: need a QuantizedModel, got a Linear"),
        (lambda model, x: IntegerModel(quantized(Named(), x), "even"), "rounding: need one of"),
    ],
)
def test_errors(call, message):
    x = torch.randn(8, 4)
    with pytest.raises(ValueError, match=message):
        call(IntegerModel(quantized(Named(), x)), x)
