"""quantcourse.export in ONNX Runtime, with its optimizations and without, against PyTorch.

A file is right if the runtime computes from it what the model computes: float files up to rounding, quantized ones the
same codes but where a value lies at the border between two of them.
"""

import builtins
from collections import Counter

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx.reference import ReferenceEvaluator
from torch import nn
from torch.nn import functional as F  # noqa: N812
from torch.utils._pytree import tree_leaves

from quantcourse import data, models
from quantcourse.export import to_onnx
from quantcourse.graph import trace
from quantcourse.ptq import Override, Recipe, Scheme, quantize

reproducible = settings(derandomize=True, deadline=None, max_examples=40, database=None)
LEVELS = ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL")
AFFINE = Scheme(symmetric=False, signed=False)
CHANNEL = Scheme(granularity="channel")
ON_INTEGERS = {"QLinearConv", "QLinearAdd", "QLinearConcat", "QGemm", "QLinearAveragePool", "QLinearGlobalAveragePool"}


def session(path, level="ORT_ENABLE_ALL", optimized=None):
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, level)
    if optimized is not None:
        options.optimized_model_filepath = str(optimized)
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def run(path, *inputs, level="ORT_ENABLE_ALL"):
    """The outputs that the runtime computes."""
    s = session(path, level)
    named = {i.name: x.numpy() for i, x in zip(s.get_inputs(), inputs, strict=True)}
    return [torch.from_numpy(np.array(y)) for y in s.run(None, named)]


def kinds(path):
    """How many nodes of each operation a file has."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def optimized(path):
    """How many nodes of each operation the runtime makes of it."""
    target = path.with_suffix(".optimized.onnx")
    session(path, "ORT_ENABLE_EXTENDED", target)
    return kinds(target)


def initializers(path):
    return {t.name: t for t in onnx.load(path).graph.initializer}


@pytest.fixture(scope="module")
def digits():
    """Batches to calibrate on, and test images."""
    train, _, _ = data.digits("train")
    test, _, _ = data.digits("test")
    return [train[:128], train[128:256]], test[:2550]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "network.onnx"


def exported(model, path, recipe, *inputs, **options):
    """A quantized model, and its file."""
    quantized = quantize(model, [inputs], recipe, progress=False)
    to_onnx(quantized, path, inputs, **options)
    return quantized


def in_steps(quantized, path, *inputs, level="ORT_ENABLE_ALL"):
    """How far each output of the file is from the model's, in steps of its grid."""
    (output,) = (n for n in quantized.graph.nodes if n.op == "output")
    quantizer, ours = quantized.quantizers[quantized.graph[output.inputs[0]].scale_of], quantized(*inputs)
    scale = quantizer.scale
    if quantizer.axis is not None:
        scale = scale.view([-1 if d == quantizer.axis % ours.ndim else 1 for d in range(ours.ndim)])
    steps = (run(path, *inputs, level=level)[0] - ours) / scale
    assert (steps - steps.round()).abs().max() < 0.01
    return steps.round().abs()


# --- The course's networks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", models.NAMES)
def test_float_files_compute_what_the_networks_do(name, path, digits):
    model, images = models.load(name), digits[1][:200]
    to_onnx(model, path, images[:1])
    for level in LEVELS:
        (scores,) = run(path, images, level=level)
        expected = model(images).detach()
        assert (scores - expected).abs().max() < 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", models.NAMES)
@pytest.mark.parametrize("recipe", ["int8", "naive", "w4a8"])
def test_files_agree_with_fake_quantization(name, recipe, path, digits):
    batches, images = digits
    quantized = quantize(models.load(name), batches, recipe, progress=False)
    to_onnx(quantized, path, images[:1])
    ours = quantized(images)
    for level in LEVELS:
        (theirs,) = run(path, images, level=level)
        assert (theirs == ours).float().mean() >= 0.98
        assert (theirs.argmax(1) == ours.argmax(1)).float().mean() >= 0.999


@pytest.mark.parametrize("name", ["plain", "residual", "mobile", "multibranch", "mlp"])
@pytest.mark.parametrize("recipe", ["int8", "naive"])
def test_the_runtime_computes_all_of_it_on_integers(name, recipe, path, digits):
    quantized = quantize(models.load(name), digits[0], recipe, progress=False)
    to_onnx(quantized, path, digits[1][:1])
    found = optimized(path)
    assert not found.keys() & {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "Add", "Relu", "GlobalAveragePool"}
    layers = quantized.graph.layers()
    assert found["QLinearConv"] == sum(node.op == "conv" for node in layers)
    assert found["QGemm"] == sum(node.op == "linear" for node in layers)
    assert found["QLinearAdd"] == sum(node.op == "add" for node in quantized.graph.nodes)
    if recipe == "int8":  # each value keeps its codes from the input to the output
        assert (found["QuantizeLinear"], found["DequantizeLinear"]) == (1, 1)


def test_hybrid_networks_are_close_in_what_stays_float(path, digits):
    quantized = quantize(models.load("residual"), digits[0], "hybrid", progress=False)
    to_onnx(quantized, path, digits[1][:1])
    ours, (theirs,) = quantized(digits[1]), run(path, digits[1])
    assert (theirs.argmax(1) == ours.argmax(1)).float().mean() >= 0.999
    assert (theirs - ours).abs().max() < 0.05 * ours.abs().max()
    assert (theirs - ours).abs().median() < 1e-4 * ours.abs().max()


def test_one_file_takes_every_batch(path, digits):
    for name in ("residual", "vit"):
        quantized = quantize(models.load(name), digits[0], "int8", progress=False)
        to_onnx(quantized, path, digits[1][:5])
        assert onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
        for n in (1, 3, 17):
            assert (run(path, digits[1][:n])[0] == quantized(digits[1][:n])).float().mean() > 0.95


def test_the_file_is_the_same_each_time_and_of_any_example(tmp_path, digits):
    quantized = quantize(models.load("vit"), digits[0], "int8", progress=False)
    for i, n in enumerate((1, 1, 4)):
        to_onnx(quantized, tmp_path / f"{i}.onnx", digits[1][n : 2 * n])
    first, *others = [(tmp_path / f"{i}.onnx").read_bytes() for i in range(3)]
    assert others == [first, first]


def test_the_file_states_versions_and_readable_names(path, digits):
    quantized = quantize(models.load("plain"), digits[0], "int8", progress=False)
    to_onnx(quantized, path, digits[1][:1])
    file = onnx.load(path)
    onnx.checker.check_model(file, full_check=True)
    assert (file.opset_import[0].version, file.ir_version) == (21, 10)
    assert [v.name for v in (*file.graph.input, *file.graph.output)] == ["input", "output"]
    assert {"0.weight", "0.weight_scale", "0.bias", "0.scale", "0.zero_point", "input.scale"} <= initializers(
        path
    ).keys()
    names = [node.name for node in file.graph.node]
    assert len(set(names)) == len(names) and "0/Conv" in names
    assert not file.doc_string and not any(node.doc_string or node.metadata_props for node in file.graph.node)


def test_the_reference_implementation_agrees(path, digits):
    quantized = quantize(models.load("plain"), digits[0], "int8", progress=False)
    to_onnx(quantized, path, digits[1][:1])
    (scores,) = ReferenceEvaluator(str(path)).run(None, {"input": digits[1][:20].numpy()})
    assert (torch.from_numpy(scores) == quantized(digits[1][:20])).float().mean() >= 0.98


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121"])
def test_backbones(name, path):
    torch.manual_seed(0)
    model, x = models.backbone(name).eval(), torch.randn(2, 3, 32, 32)
    to_onnx(model, path, x)
    scores = model(x).detach()
    assert (run(path, x)[0] - scores).abs().max() < 1e-4 * scores.abs().max()
    exported(model, path, "int8", x)
    assert not optimized(path).keys() & {"Conv", "FusedConv", "Gemm", "Add", "Concat", "Relu"}


# --- What a file holds ------------------------------------------------------------------------------------------


def test_weights_are_the_integers_and_reals_of_the_model(path, digits):
    quantized = quantize(models.load("plain"), digits[0], "w4a8", progress=False)
    to_onnx(quantized, path, digits[1][:1])
    tensors = {name: onnx.numpy_helper.to_array(t) for name, t in initializers(path).items()}
    for node in quantized.graph.layers():
        codes, layer = quantized.weights[node.name], node.layer
        assert np.array_equal(tensors[f"{layer}.weight"], codes.codes.numpy())
        assert tensors[f"{layer}.weight"].dtype == np.int8
        assert np.array_equal(tensors[f"{layer}.bias"], codes.bias.numpy())
        before = quantized.input_quantizer(node).scale.double() * codes.scale.double()
        assert np.array_equal(tensors[f"{layer}.bias_scale"], before.float().numpy())


@pytest.mark.parametrize(("bits", "share"), [(8, 0.26), (4, 0.14), (3, 0.14)])
def test_weights_alone_make_small_files(bits, share, tmp_path):
    model, x = nn.Sequential(nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 256)), torch.randn(2, 5, 256)
    whole, small = tmp_path / "float.onnx", tmp_path / "small.onnx"
    to_onnx(model, whole, x)
    quantized = exported(model, small, Recipe(weights=Scheme(bits=bits, granularity="channel"), activations=None), x)
    assert small.stat().st_size < share * whole.stat().st_size + 4000
    for level in LEVELS:
        assert torch.allclose(run(small, x, level=level)[0], quantized(x), atol=1e-5)


def test_what_nobody_reads_is_left_out(path):
    """Constants of which others are computed, and what of the batch's size is not needed."""

    def function(x, w):
        grown = (w * 2).expand(x.shape[0], 6)  # a node; what it is multiplied with, too
        return F.linear(x, torch.ones(3, 6) * w), grown * 3

    model, x = Calls(function), torch.randn(2, 6)
    to_onnx(model, path, x)
    graph = onnx.load(path).graph
    read = {name for node in graph.node for name in node.input} | {v.name for v in graph.output}
    made = {t.name for t in graph.initializer} | {name for node in graph.node for name in node.output}
    assert made <= read
    for ours, theirs in zip(model(x), run(path, x), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)


def test_shared_weights_are_stored_once(path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.head = nn.Embedding(50, 40), nn.Linear(40, 50, bias=False)
            self.head.weight = self.words.weight

        def forward(self, words):
            return self.head(self.words(words).mean(1))

    model, words = Tied(), torch.randint(50, (2, 7))
    to_onnx(model, path, words)
    assert path.stat().st_size < 1.5 * 4 * 50 * 40
    assert torch.allclose(run(path, words)[0], model(words), atol=1e-5)


CNN = nn.Sequential(
    *(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 1), nn.ReLU6()),
    *(nn.Conv2d(8, 8, 3, groups=2), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
)
RECIPES = {
    "signed": Recipe.preset("naive"),
    "signed affine": Recipe(activations=Scheme(symmetric=False)),
    "unsigned symmetric": Recipe(activations=Scheme(signed=False)),
    "affine weights": Recipe(weights=Scheme(symmetric=False, granularity="channel")),
    "affine unsigned weights": Recipe(weights=AFFINE),
    "4 bits": Recipe(weights=Scheme(bits=4), activations=Scheme(bits=4, symmetric=False, signed=False)),
    "4 bits signed": Recipe(activations=Scheme(bits=4)),
    "2 bits": Recipe(activations=Scheme(bits=2, symmetric=False, signed=False)),
    "16 bits": Recipe(weights=Scheme(bits=16), activations=Scheme(bits=16, symmetric=False, signed=False)),
    "12 bits signed": Recipe(weights=Scheme(bits=10, granularity="channel"), activations=Scheme(bits=12)),
    "weights in float": Recipe(weights=None),
    "channels": Recipe(activations=Scheme(symmetric=False, signed=False, granularity="channel")),
    "channels here": Recipe(overrides=(Override("4", activations={"granularity": "channel"}),)),
    "4 bits, channels": Recipe(activations=Scheme(4, symmetric=False, signed=False, granularity="channel")),
    "groups": Recipe(weights=Scheme(bits=4, granularity=9)),
    "wider here": Recipe(overrides=(Override("4", activations={"bits": 16}),)),
}


@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe(recipe, unsigned, path):
    torch.manual_seed(0)
    x = torch.randn(64, 3, 12, 12) * torch.tensor([3.0, 15.0, 0.5]).view(3, 1, 1)
    quantized = exported(CNN, path, RECIPES[recipe], x, unsigned=unsigned)
    wide = recipe.startswith(("12", "16"))  # so fine that float32 sums reach across a few codes
    for level in LEVELS:
        for images in (x, 4 * x):  # what was calibrated, and what lies outside of its ranges
            steps = in_steps(quantized, path, images, level=level)
            assert steps.max() <= (4 if wide else 1)
            assert (steps == 0).float().mean() >= (0.9 if wide else 0.98)


@pytest.mark.parametrize(
    "recipe", ["int8", "naive", "groups", "channels", "weights in float", "4 bits", "affine weights"]
)
@pytest.mark.parametrize("shape", [(27,), (4, 27), (2, 3, 27)])
def test_linear_layers_on_rows_of_any_shape(recipe, shape, path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(27, 18), nn.ReLU(), nn.Linear(18, 9, bias=False), nn.ReLU6())
    x = torch.randn(50, *shape)
    quantized = exported(model, path, RECIPES.get(recipe, recipe), x)
    for level in LEVELS:
        steps = in_steps(quantized, path, x, level=level)
        assert steps.max() <= 1 and (steps == 0).float().mean() >= 0.98


class Kept(nn.Module):
    """Layers for networks in which b and fixed weights are float, and others read what they read as codes."""

    def __init__(self, function):
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.fixed, self.up = nn.Parameter(torch.randn(6, 8)), nn.ConvTranspose2d(8, 8, 2, 2)
        self.function = function

    def forward(self, x):
        return self.function(self, F.relu(self.a(x)))


BESIDE_CODES = {
    "right behind": lambda s, y: s.c(F.relu(s.b(y))) + s.c(y),
    "transposed": lambda s, y: s.c(s.up(y)).flatten(1).sum(1) + s.c(y).flatten(1).sum(1),
    "behind a pooling": lambda s, y: s.c(F.relu(s.b(F.max_pool2d(y, 2)))).sum(1) + s.c(y)[:, 0, ::2, ::2],
    "behind another": lambda s, y: s.b(F.adaptive_max_pool2d(y, 4)) + s.c(y)[..., ::3, ::3],
    "behind moves": lambda s, y: s.c(s.b(y.transpose(2, 3)[..., 1:].unsqueeze(1).squeeze(1))) + s.c(y)[..., 1:],
    "a function": lambda s, y: F.linear(y.permute(0, 2, 3, 1).flatten(0, 2), s.fixed * 2).view(-1, 6, 12, 12) + s.c(y)[:, 2:],
    "read in float twice": lambda s, y: y.transpose(2, 3).softmax(1) + s.b(y.transpose(2, 3)) + s.c(y),
}  # fmt: skip


@pytest.mark.parametrize("unsigned", [True, False])
@pytest.mark.parametrize("recipe", ["int8", "naive", "6 bits", "measured"])
@pytest.mark.parametrize("name", BESIDE_CODES)
def test_what_is_kept_float_stays_float(name, recipe, unsigned, path):
    """The runtime makes INT8 of float weights behind a grid, also behind what moves a grid, unless it is hidden."""
    torch.manual_seed(0)
    model, x = Kept(BESIDE_CODES[name]), torch.rand(16, 3, 12, 12)
    kept = {node.label for node in trace(model).layers()} & {"b", "up"}
    quantized = exported(model, path, RANDOM_RECIPES[recipe].kept_float(*kept), x, unsigned=unsigned)
    ours = quantized(x)
    for level in ("ORT_DISABLE_ALL", "ORT_ENABLE_BASIC", "ORT_ENABLE_ALL"):
        (theirs,) = run(path, x, level=level)
        assert (theirs - ours).abs().median() < 1e-5 * ours.abs().max()


def test_nothing_is_added_where_all_is_integer(path, digits):
    for name in ("residual", "multibranch"):
        exported(models.load(name), path, "int8", digits[1][:8])
        nodes = onnx.load(path).graph.node
        on_grid = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
        assert not kinds(path)["Max"]
        assert not [node.name for node in nodes if node.op_type == "QuantizeLinear" and node.input[0] in on_grid]


def test_codes_are_unsigned_unless_one_wants_them_as_they_are(path):
    x = torch.randn(4, 3, 8, 8)
    for unsigned, dtype in ((True, onnx.TensorProto.UINT8), (False, onnx.TensorProto.INT8)):
        exported(CNN, path, "naive", x, unsigned=unsigned)
        assert initializers(path)["0.zero_point"].data_type == dtype


def test_measured_ranges(path):
    torch.manual_seed(0)
    x, dynamic = torch.randn(32, 3, 12, 12), Scheme(symmetric=False, signed=False, dynamic=True)
    quantized = quantize(CNN, [], Recipe(activations=dynamic), progress=False)
    to_onnx(quantized, path, x)
    assert kinds(path)["DynamicQuantizeLinear"] == 5
    for scale in (1.0, 30.0):
        ours, (theirs,) = quantized(x * scale), run(path, x * scale)
        assert (ours - theirs).abs().max() < 0.01 * ours.abs().max()


@pytest.mark.parametrize("scheme", [Scheme(dynamic=True), Scheme(4, symmetric=False, signed=False, dynamic=True)])
def test_ranges_that_onnx_can_not_measure(scheme, path):
    quantized = quantize(CNN, [], Recipe(activations=scheme), progress=False)
    with pytest.raises(ValueError, match=r"affine UINT8 .* at input; use static"):
        to_onnx(quantized, path, torch.randn(1, 3, 8, 8))


def test_rounding_that_onnx_does_not_have(path):
    x = torch.randn(1, 3, 8, 8)
    with pytest.raises(ValueError, match=r"'half_up' for the values of 0"):
        exported(CNN, path, Recipe(overrides=(Override("0", activations={"rounding": "half_up"}),)), x)
    assert not path.exists()


# --- Operations -------------------------------------------------------------------------------------------------


class Calls(nn.Module):
    """A function as a network."""

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.linspace(-1, 1, 6))

    def forward(self, x):
        return self.function(x, self.weight) if self.function.__code__.co_argcount == 2 else self.function(x)


MAPS = {  # of N 6 8 9
    "relu and friends": lambda x: F.relu(x) + F.relu6(x * 4) + F.hardtanh(x) + x.clamp(-0.5, 0.7) + x.clamp(max=0.1),
    "gelu": lambda x: F.gelu(x) + F.gelu(x, approximate="tanh"),
    "silu": lambda x: F.silu(x) + F.mish(x) + F.hardswish(x * 3) + F.hardsigmoid(x * 3),
    "elu": lambda x: F.elu(x, 0.7) + F.celu(x, 0.6) + F.selu(x) + F.leaky_relu(x, 0.2),
    "soft": lambda x: F.softplus(x) + F.softplus(x, beta=2) + F.softsign(x) + F.logsigmoid(x),
    "softmax": lambda x: F.softmax(x, 1) + F.log_softmax(x, -1) + x.softmax(dim=2),
    "elementary": lambda x: torch.exp(x) + (x.abs() + 1).log() + x.abs().sqrt() + torch.sin(x) * x.cos() + x.erf(),
    "rounding": lambda x: x.floor() + torch.ceil(x) + x.round() + x.sign() + (x * 2).div(3, rounding_mode="trunc"),
    "powers": lambda x: x**2 + x.abs().pow(0.3) + (x**2 + 1).rsqrt() + 1 / (x.square() + 1) - 2 / (x.abs() + 1),
    "numbers": lambda x: 1 - x * 2 + (x + 3) / 2 - (-x) + torch.sub(x, 1, alpha=3) + torch.add(x, x, alpha=0.5) + x // 2,
    "compare": lambda x: torch.where(x > 0.3, x, -x) + x.masked_fill(x <= 0, 2.0) + (x >= 1).float() + (x != 0) + x.eq(0),
    "extremes": lambda x: torch.maximum(x, x * 2) + torch.min(x, -x) + x.amax((2, 3), keepdim=True) + x.max() - x.min(),
    "sums": lambda x: x.mean(1, keepdim=True) + x.sum((2, 3), True) + x.mean((-1,), keepdim=True) + x.cumsum(3),
    "variance": lambda x: x.var((2, 3), keepdim=True) + x.std(1, keepdim=True) + x.var(1, unbiased=False, keepdim=True),
    "norms": lambda x: F.layer_norm(x, (8, 9)) + F.group_norm(x, 3) + F.instance_norm(x),
    "weights": lambda x, w: F.prelu(x, w) + F.group_norm(x, 2, w, -w) + x * w.view(1, -1, 1, 1) + F.batch_norm(x, w.detach(), (w + 2).detach()),
    "counted weight": lambda x, w: F.conv2d(x, (w * 2).view(6, 1, 1, 1), groups=6) + F.linear(x, torch.ones(9, 9) * w[0]),
    "views": lambda x: x.view(x.size(0), -1).reshape(-1, 6, 8, 9).flatten(2).unflatten(2, (8, 9)) + x.contiguous(),
    "moved": lambda x: x.transpose(1, 2).permute(0, 2, 1, 3) + x.mT.transpose(-1, -2) + x.unsqueeze(1).squeeze(1),
    "batches of maps": lambda x: x.reshape(x.shape[0] * 6, 8, 9).bmm(x.reshape(-1, 8, 9).mT),
    "slices": lambda x: x[:, 1:5:2, :, -3:] + x[..., 1:4][:, :2] * x[:, 0:1, :, 3:6] + x[:, 2, None, :, 4:7],
    "picks": lambda x: x[:, -1] + x[:, 0, :, :] + x.select(1, 2) + x.narrow(1, 3, 1).squeeze(1) + x[:, 1, 2:3, :],
    "chunks": lambda x: torch.cat(x.chunk(3, 1)[::-1], 1) + torch.cat(torch.split(x, [1, 5], dim=1), dim=1),
    "unbind": lambda x: torch.stack(x.unbind(1), dim=-1).sum(-1) + x.split(2, dim=1)[1].mean(1),
    "stack": lambda x: torch.stack([x, x * 2], 1).flatten(1, 2) + torch.cat((x, x), dim=1),
    "grown": lambda x, w: x + w.view(1, 6, 1, 1).expand(x.shape[0], -1, 8, 9) + x[:, :1].expand(-1, 6, -1, -1),
    "repeated": lambda x: x[:, :2].repeat(1, 3, 1, 1) + x.flip(3) + torch.roll(x, (1, -2), (2, 3)),
    "pads": lambda x: F.pad(x, (1, 2, 0, 1)) + F.pad(x, (1, 2, 0, 1), value=2.5) + F.pad(x, (2, 1, 1, 0), mode="reflect"),
    "more pads": lambda x: F.pad(x, (1, 1), mode="constant") + F.pad(x, (1, 1, 0, 0), mode="replicate"),
    "shuffle": lambda x: F.pixel_shuffle(x[:, :4], 2) + F.pixel_shuffle(x[:, 2:], 2),
    "unshuffle": lambda x: F.pixel_unshuffle(x[..., :8], 2) * 2,
    "nearest": lambda x: F.interpolate(x, scale_factor=2) + F.interpolate(x, size=(16, 18)),
    "nearest, odd": lambda x: F.interpolate(x, size=(5, 11)) + F.interpolate(x, size=(5, 11), mode="nearest-exact"),
    "bilinear": lambda x: F.interpolate(x, scale_factor=1.5, mode="bilinear") + F.interpolate(x, (12, 13), mode="bilinear", align_corners=True),
    "attention": lambda x: F.scaled_dot_product_attention(x, x * 2, x) + F.scaled_dot_product_attention(x, x, x, is_causal=True),
    "products": lambda x: x @ x.mT @ x + torch.einsum("nchw,nchv->ncwv", x, x).mean(2, keepdim=True),
    "gates": lambda x: F.glu(x, 1) + torch.argmax(x, 1, keepdim=True) + torch.logical_and(x[:, :3] > 0, x[:, 3:] > 0),
    "average pools": lambda x: F.avg_pool2d(x, 3, 2, 1, ceil_mode=True) + F.avg_pool2d(x, 3, 2, 1, ceil_mode=True, count_include_pad=False),
    "odd averages": lambda x: F.adaptive_avg_pool2d(x, (3, 4)) + F.adaptive_avg_pool2d(x, (1, 4)) + F.adaptive_avg_pool2d(x, (None, 1))[:, :, :3],
    "max pools": lambda x: F.max_pool2d(x, 3, 2, 1, ceil_mode=True)[:, :, :4] + F.max_pool2d(x, 2, 2, ceil_mode=True),
    "other names": lambda x: torch.clip(x, -1, 1) + x.clamp_min(0.1) + x.clamp_max(0.5) + x.clone() + x.detach() + torch.absolute(x),
    "more names": lambda x: x.subtract(1).multiply(2) + torch.floor_divide(x, 2) + torch.true_divide(x, 3).divide(2) + torch.rsub(x, 2),
    "types": lambda x: x.to(torch.int32) + (x * 3).int() + x.long().type_as(x) + x.bool() + (x > 1).type(torch.float32),
    "logic": lambda x: (torch.logical_not(x > 0) | (x < 1) & ~(x > -1)).float() + torch.logical_or(x > 2, x < -2),
    "folds": lambda x: x.logsumexp(1) + x.prod(1) + (x.abs() + 1).reciprocal().amin(1) + torch.minimum(x, -x).sum(1),
    "like others": lambda x: x.view_as(x) + x.reshape_as(x) + x[:, :1].expand_as(x) + x.swapaxes(1, 2).swapaxes(2, 1),
    "indices": lambda x: torch.index_select(x, 1, torch.tensor([0, 2])) + x[:, torch.tensor([3, 5])] + torch.concat((x, x), 1)[:, 4:6] + torch.concatenate((x, x), 1)[:, :2],
    "matrix": lambda x: x[:, 0, 0].mm(torch.ones(9, 9)) + torch.broadcast_to(x[:, :1, 0, 0], (x.shape[0], 9)),
    "rows": lambda x: F.max_pool1d(x[:, 0], 3, 2) + F.avg_pool1d(x[:, 1], 3, 2) + F.adaptive_avg_pool1d(x[:, 2], 4),
}  # fmt: skip


@pytest.mark.parametrize("name", MAPS)
def test_operations(name, path):
    torch.manual_seed(0)
    model, x = Calls(MAPS[name]).eval(), torch.randn(3, 6, 8, 9)
    to_onnx(model, path, x)
    for n in (1, 3):
        for level in LEVELS:
            (y,) = run(path, x[:n], level=level)
            assert torch.allclose(y, model(x[:n]).to(y.dtype), atol=3e-5, rtol=1e-4)


class Sized(nn.Module):
    """A transposed convolution that is told how large its output shall be."""

    def __init__(self, layer, size):
        super().__init__()
        self.layer, self.size = layer, size

    def forward(self, x):
        return self.layer(x, output_size=self.size(x))


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, padding="same", dilation=2), (4, 11)),
    "even same": (nn.Conv2d(4, 6, (2, 4), padding="same"), (4, 8, 9)),
    "conv3d": (nn.Sequential(nn.Conv3d(2, 4, 3, stride=2), nn.AvgPool3d(2), nn.AdaptiveMaxPool3d(1)), (2, 9, 9, 9)),
    "circular": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (4, 8, 9)),
    "reflect": (nn.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="reflect"), (4, 8, 9)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, 2, 1, output_padding=1, groups=2), (4, 8, 9)),
    "transposed to a size": (Sized(nn.ConvTranspose2d(4, 6, 3, 2, 1), lambda x: [15, 18]), (4, 8, 9)),
    "transposed to twice the size": (Sized(nn.ConvTranspose2d(4, 6, 3, 2, 1), lambda x: (2 * x.shape[2], 2 * x.shape[3])), (4, 8, 9)),
    "transposed 1d to a size": (Sized(nn.ConvTranspose1d(4, 6, 2, 3), lambda x: [3 * x.size(-1) + 1]), (4, 9)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 4, 3, dilation=2, bias=False), (4, 9)),
    "paddings": (nn.Sequential(nn.ReflectionPad2d((1, 2, 3, 0)), nn.ReplicationPad2d(1), nn.ConstantPad2d(1, 0.5), nn.ZeroPad2d(2)), (4, 8, 9)),
    "norms": (nn.Sequential(nn.GroupNorm(2, 4), nn.InstanceNorm2d(4, affine=True), nn.LayerNorm((8, 9)), nn.BatchNorm2d(4)), (4, 8, 9)),
    "vector norms": (nn.Sequential(nn.BatchNorm1d(6), nn.RMSNorm(6), nn.LayerNorm(6, bias=False)), (6,)),
    "activations": (nn.Sequential(nn.PReLU(4), nn.SiLU(), nn.ELU(0.5), nn.Hardswish(), nn.LeakyReLU(0.3), nn.Softplus(2)), (4, 8, 9)),
    "upsample": (nn.Sequential(nn.Upsample(scale_factor=2), nn.Upsample((9, 11), mode="bilinear")), (4, 8, 9)),
    "linear on rows": (nn.Sequential(nn.Linear(9, 5), nn.Tanh(), nn.Linear(5, 3, bias=False)), (4, 8, 9)),
    "unflatten": (nn.Sequential(nn.Flatten(), nn.Unflatten(1, (2, 16, 9)), nn.Flatten(1, 2), nn.Softmax(-1)), (4, 8, 9)),
    "shuffles": (nn.Sequential(nn.PixelShuffle(2), nn.PixelUnshuffle(2), nn.ChannelShuffle(2)), (4, 8, 9)),
    "1d": (nn.Sequential(nn.ReflectionPad1d(2), nn.ReplicationPad1d(1), nn.ConstantPad1d(1, 2.0), nn.ZeroPad1d(1), nn.MaxPool1d(2, 1), nn.AvgPool1d(2, 1), nn.InstanceNorm1d(4), nn.AdaptiveAvgPool1d(6), nn.AdaptiveMaxPool1d(3)), (4, 11)),
    "3d": (nn.Sequential(nn.ReplicationPad3d(1), nn.ReflectionPad3d(1), nn.ConstantPad3d(1, 0.5), nn.ZeroPad3d(1), nn.ConvTranspose3d(2, 3, 2), nn.Tanh(), nn.BatchNorm3d(3), nn.InstanceNorm3d(3), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1)), (2, 4, 5, 6)),
    "more activations": (nn.Sequential(nn.Mish(), nn.Sigmoid(), nn.LogSigmoid(), nn.Softsign(), nn.Hardsigmoid(), nn.Hardtanh(), nn.CELU(0.7), nn.SELU(), nn.LogSoftmax(1), nn.GLU(1)), (4, 8, 9)),
    "more sizes": (nn.Sequential(nn.UpsamplingNearest2d(scale_factor=2), nn.AdaptiveMaxPool2d((4, 6)), nn.AdaptiveAvgPool2d((3, 4))), (4, 8, 9)),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")  # torch's, of what it does itself
@pytest.mark.parametrize("name", LAYERS)
def test_layers(name, path):
    torch.manual_seed(0)
    model, shape = LAYERS[name]
    x = torch.randn(3, *shape)
    to_onnx(model, path, x)
    model.eval()
    for n in (1, 3):
        for level in LEVELS:
            assert torch.allclose(run(path, x[:n], level=level)[0], model(x[:n]), atol=1e-5)


def test_several_inputs_and_outputs(path):
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 3), nn.Linear(5, 3)

        def forward(self, first, second):
            a, b = self.a(first), self.b(second)
            return {"sum": a + b, "parts": (a, [b, first])}

    model, x, y = Two(), torch.randn(6, 4), torch.randn(6, 5)
    to_onnx(model, path, (x, y))
    expected = model(x, y)
    flat = [expected["sum"], expected["parts"][0], *expected["parts"][1]]
    for ours, theirs in zip(flat, run(path, x, y), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-6)
    quantized = exported(model, path, "int8", x, y)
    assert [v.name for v in onnx.load(path).graph.output] == ["sum", "parts.0", "parts.1.0", "parts.1.1"]
    again = quantized(x, y)
    theirs = run(path, x, y)
    assert torch.allclose(again["sum"], theirs[0], atol=1e-5) and torch.equal(theirs[3], x)


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (lambda x, y: {"cls": x, "reg": y}, ["cls", "reg"]),
        (lambda x, y: {0: x, 1: y}, ["0", "1"]),
        (lambda x, y: (x, y), ["output", "output_2"]),
        (lambda x, y: [x, {"x": y}], ["output", "1.x"]),
        (lambda x, y: {"x": x, "y": y}, ["x_2", "y"]),  # x is the input's
    ],
)
def test_outputs_have_the_names_of_their_keys(form, names, path):
    model, x = Calls(lambda x: form(x + 1, x * 2)), torch.randn(2, 3)
    to_onnx(model, path, x)
    assert [v.name for v in onnx.load(path).graph.output] == names
    for ours, theirs in zip(tree_leaves(model(x)), run(path, x), strict=True):
        assert torch.allclose(ours, theirs)


# --- Random networks --------------------------------------------------------------------------------------------


class Chain(nn.Module):
    """Steps on N 4 8 8 maps, each of which may read what one before it gave."""

    def __init__(self, steps):
        super().__init__()
        self.steps = steps
        self.layers = nn.ModuleList(LAYER[kind]() if kind in LAYER else nn.Identity() for kind, _ in steps)

    def forward(self, x):
        values = [x]
        for (kind, back), layer in zip(self.steps, self.layers, strict=True):
            x, other = values[-1], values[max(0, len(values) - 1 - back)]
            values.append(layer(x) if kind in LAYER else FUNCTION[kind](x, other))
        return values[-1].flatten(1)


def conv_with(activation, **options):
    return nn.Sequential(nn.Conv2d(4, 4, 3, padding=1, **options), activation)


LAYER = {
    "conv": lambda: nn.Conv2d(4, 4, 1),
    "conv relu": lambda: conv_with(nn.ReLU()),
    "conv relu6": lambda: conv_with(nn.ReLU6(), bias=False),
    "conv norm": lambda: nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()),
    "depthwise": lambda: conv_with(nn.Identity(), groups=4),
    "up": lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2), nn.AvgPool2d(2)),
    "up in groups": lambda: nn.Sequential(nn.ConvTranspose2d(4, 4, 2, 2, groups=2), nn.MaxPool2d(2)),
    "linear": lambda: nn.Linear(8, 8),
    "tanh": nn.Tanh,
    "norm": lambda: nn.BatchNorm2d(4),
    "max": lambda: nn.MaxPool2d(3, 1, 1),
    "average": lambda: nn.AvgPool2d(3, 1, 1, count_include_pad=False),
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
}
FUNCTION = {
    "add": lambda x, other: x + other,
    "add relu": lambda x, other: F.relu(x + other),
    "cat": lambda x, other: torch.cat([x[:, :2], other[:, 2:]], 1),
    "turn": lambda x, _: x.transpose(2, 3).flatten(1).view(-1, 4, 8, 8),
    "halves": lambda x, _: torch.cat(x.chunk(2, 1)[::-1], 1),
    "mul": lambda x, other: x * torch.sigmoid(other),
}
RANDOM_RECIPES = {
    "int8": Recipe.preset("int8"),
    "naive": Recipe.preset("naive"),
    "channel": Recipe(activations=Scheme(symmetric=False, granularity="channel")),
    "6 bits": Recipe(weights=CHANNEL, activations=Scheme(6, symmetric=False)),
    "hybrid": Recipe.preset("hybrid"),
    "weights alone": Recipe(weights=Scheme(4, granularity=4), activations=None),
    "measured": Recipe(activations=Scheme(symmetric=False, signed=False, dynamic=True)),
}


@given(
    st.lists(st.tuples(st.sampled_from([*LAYER, *FUNCTION]), st.integers(1, 3)), min_size=1, max_size=6),
    st.sampled_from([*RANDOM_RECIPES]),
    st.booleans(),
    st.integers(0, 2**16),
)
@reproducible
def test_random_networks(tmp_path_factory, steps, recipe, unsigned, seed):
    torch.manual_seed(seed)
    path = tmp_path_factory.mktemp("random") / "network.onnx"
    model, x = Chain(steps).eval(), torch.randn(16, 4, 8, 8)
    quantized = exported(model, path, RANDOM_RECIPES[recipe], x, unsigned=unsigned)
    ours = quantized(x)
    size = ours.abs().max()
    for level in LEVELS:
        (theirs,) = run(path, x, level=level)
        # A value at the border of two codes may take either, here and there.
        assert (theirs - ours).abs().mean() < 0.003 * size
        (theirs,) = run(path, 3 * x, level=level)  # beyond what was calibrated
        assert (theirs - quantized(3 * x)).abs().mean() < 0.003 * size
    to_onnx(model, path, x)
    assert torch.allclose(run(path, x)[0], model(x), atol=1e-4)


# --- What is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("example", "message"),
    [
        (3, r"example: need 1 tensors \(input\), got a int"),
        ((torch.zeros(1, 4), torch.zeros(1, 4)), r"example: need 1 tensors \(input\), got 2"),
        ([[1.0]], r"example: need a torch tensor, got a list"),
        (torch.zeros(0, 4), r"example: need values along an axis"),
        (torch.tensor(1.0), r"example: need values along an axis"),
        (torch.zeros(1, 4, dtype=torch.complex64), r"in one of float32, .*, got complex64 of shape \(1, 4\)"),
        (torch.zeros(1, 4, dtype=torch.float16), r"in one of float32, .*float64, got float16"),
        (torch.zeros(1, 5), r"example: need inputs that the network takes, .* a batch of 2 fails"),
    ],
)
def test_examples_that_do_not_fit(example, message, path):
    with pytest.raises(ValueError, match=message):
        to_onnx(nn.Linear(4, 2), path, example)
    assert not path.exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_types_that_no_file_has(dtype, path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).to(dtype)
    for example in (torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4, dtype=dtype)):
        with pytest.raises(
            ValueError, match=rf"model: need .*float32, .* got 0.weight in {str(dtype)[6:]}.*model.float"
        ):
            to_onnx(model, path, example)
    assert not path.exists()
    to_onnx(model.float(), path, example.float())
    assert path.exists()


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: torch.fft.fft(x).abs(), r"no ONNX form of fft_fft at fft_fft; write it with other operations"),
        (lambda x: x.sort(1)[0], r"no ONNX form of sort at sort"),
        (lambda x: x / x.shape[0], r"a number that depends on the size of the batch at truediv"),
        (lambda x: x[: x.shape[0] // 2], r"a slice whose ends depend on the size of the batch"),
        (lambda x: x.max(1)[0], r"max over an axis with its indices \(amax gives the values alone\) at max"),
        (lambda x: x.max(dim=1).values, r"max over an axis with its indices \(amax"),
        (lambda x: torch.min(x, dim=-1, keepdim=True)[0], r"min over an axis with its indices \(amin"),
        (lambda x: x.max(1, True)[1], r"max over an axis with its indices \(amax"),
        (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], r"indices"),
        (lambda x: F.unfold(x, 2), r"no ONNX form of unfold"),
        (lambda x: x.chunk(2, 0)[0], r"a split of the batch"),
        (lambda x: x + torch.arange(x.shape[0]).view(-1, 1, 1, 1), r"a constant that depends on the size of the batch"),
    ],
)
def test_what_has_no_form(function, message, path):
    with pytest.raises(ValueError, match=message):
        to_onnx(Calls(function), path, torch.randn(2, 6, 8, 9))
    assert not path.exists()


def test_layers_without_a_form_are_named(path):
    with pytest.raises(ValueError, match=r"no ONNX form of LSTM at 0"):
        to_onnx(nn.Sequential(nn.LSTM(4, 3)), path, torch.randn(2, 5, 4))


def test_what_is_no_model(path):
    with pytest.raises(ValueError, match="model: need a torch module, got a int"):
        to_onnx(3, path, torch.zeros(1))


def test_more_than_a_file_holds(path, monkeypatch):
    monkeypatch.setattr("quantcourse.export.MOST_BYTES", 100)
    with pytest.raises(ValueError, match="need at most 100 bytes of weights in one ONNX file, got 168"):
        to_onnx(nn.Linear(6, 6), path, torch.zeros(1, 6))


def test_without_the_package_onnx(path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "onnx":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install onnx"):
        to_onnx(nn.Linear(2, 2), path, torch.zeros(1, 2))


def test_the_model_is_left_as_it_was(path):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout()).train()
    before = {name: t.clone() for name, t in model.state_dict().items()}
    to_onnx(model, path, torch.randn(2, 1, 5, 5))
    assert model.training and model[1].training
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    with pytest.raises(FileNotFoundError):
        to_onnx(model, path.parent / "nowhere" / "x.onnx", torch.randn(2, 1, 5, 5))


@pytest.mark.parametrize(("low", "high"), [(-8.0, 7.0), (-7.0, 8.0), (-9.0, 6.0), (-1.0, 14.0)])
def test_affine_weights_of_four_bits_may_not_fit_int4(low, high, path):
    """On a grid of step 1 with 16 codes from ``low`` to ``high``, the file has ``q - z``: from low to high.  INT4 ends
    at -8 and 7; beyond, a wider type is needed, or 8 becomes -8."""
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[low, high]])
    recipe = Recipe(weights=Scheme(4, symmetric=False), activations=None)
    to_onnx(quantize(model, [], recipe, progress=False), path, torch.eye(2))
    for level in LEVELS:
        assert run(path, torch.eye(2), level=level)[0].flatten().tolist() == [low, high]


def agrees(function, x, path, atol=1e-5):
    """The file computes what torch does, for the batch of the example and for another one."""
    model = Calls(function).eval()
    to_onnx(model, path, x)
    for inputs in (x, x[:1]):
        assert torch.allclose(run(path, inputs, level="ORT_DISABLE_ALL")[0], function(inputs), atol=atol)


@pytest.mark.parametrize("correction", [0, 1, 2])
@pytest.mark.parametrize("method", [torch.var, torch.std])
def test_a_variance_divides_by_the_count_less_its_correction(method, correction, path):
    """``sum (x - mean)^2 / (n - correction)``."""
    agrees(lambda x: method(x, dim=1, correction=correction), torch.arange(15.0).view(3, 5) ** 1.5, path)


@pytest.mark.parametrize("scale", [None, 0.1, 2.0])
def test_attention_takes_the_scale_it_is_given(scale, path):
    """``softmax(scale q k^T) v``, with ``1 / sqrt(d)`` if none is given."""
    torch.manual_seed(0)
    agrees(lambda x: F.scaled_dot_product_attention(x, x + 1, x * 2, scale=scale), torch.randn(2, 3, 5, 4), path)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 5, 6)])
@pytest.mark.parametrize("kind", [nn.Softmax, nn.LogSoftmax])
@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
def test_a_softmax_without_an_axis_takes_the_one_torch_takes(kind, shape, path):
    """Axis 0 of values with 1 or 3 axes, else axis 1.  Axis 0 is that of the batch: it is compared for one batch."""
    torch.manual_seed(0)
    x, model = torch.randn(shape), kind(dim=None)
    to_onnx(model, path, x)
    assert torch.allclose(run(path, x, level="ORT_DISABLE_ALL")[0], model(x), atol=1e-6)


def test_dilated_pooling_may_hang_over(path):
    """In ceil mode a window of k places, d apart, reaches ``d (k - 1) + 1``: padding makes up for what it hangs over."""
    torch.manual_seed(0)
    pool = nn.MaxPool2d(2, 2, dilation=3, ceil_mode=True)
    x = -1 - torch.rand(2, 3, 9, 8)  # so that zeros would be the largest
    to_onnx(pool, path, x)
    assert torch.equal(run(path, x, level="ORT_DISABLE_ALL")[0], pool(x))


@pytest.mark.parametrize("eps", [None, 1e-3])
def test_the_root_of_a_mean_square_has_torchs_own_epsilon(eps, path):
    """``x / sqrt(mean(x^2) + eps)``: where x is as small as ``sqrt(eps)``, eps decides.  None is that of float32."""
    torch.manual_seed(0)
    x, norm = 3e-4 * torch.randn(2, 6), nn.RMSNorm(6, eps)
    to_onnx(norm, path, x)
    assert torch.allclose(run(path, x, level="ORT_DISABLE_ALL")[0], norm(x), rtol=1e-4, atol=0)


@pytest.mark.parametrize("recompute", [True, False])
def test_a_scale_that_is_computed_anew_is_that_of_the_sizes(recompute, path):
    """5 places at 1.5 give 7: places lie ``1 / 1.5`` apart, or, computed anew, ``5 / 7``."""
    torch.manual_seed(0)
    agrees(
        lambda x: F.interpolate(
            x, scale_factor=1.5, mode="bilinear", recompute_scale_factor=recompute, align_corners=False
        ),
        torch.randn(2, 3, 5, 5),
        path,
    )


@pytest.mark.parametrize("bound", [-0.5, 0.5, 1.5])
def test_integers_are_compared_with_fractions_as_real_numbers(bound, path):
    """``0 > -0.5``, though -0.5 as an integer is 0."""
    x = torch.tensor([[-1.0, 0.0, 1.0, 2.0]]).repeat(3, 1)
    agrees(lambda x: (x.long() > bound).float() + 2 * (x.long() <= bound).float(), x, path)
