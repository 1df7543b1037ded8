"""quantcourse.graph: node by node the same function, and quantizers where codes are read and nowhere else."""

import copy
import operator
import pickle
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.utils._pytree import tree_leaves

from quantcourse.fold import chains
from quantcourse.graph import WEIGHTED, trace
from quantcourse.models import NAMES, backbone, load

F = functional
KEEP_SCALE = ("max_pool", "relu", "relu6", "view")
COMPUTE_NOTHING = ("input", "output", "constant", "shape")


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


IMAGES = values(2, 4, 8, 8)


def checked(graph):
    """The graph, if its quantizers are where the rules say."""
    names = [node.name for node in graph.nodes]
    labels = [node.label for node in graph.nodes]
    assert len(set(names)) == len(names) and len(set(labels)) == len(labels)
    seen = set()
    for node in graph.nodes:
        assert seen >= set(node.inputs)
        seen.add(node.name)
        sources = [graph[name] for name in node.inputs]
        assert node.name == node.parts[-1]
        if node.op in COMPUTE_NOTHING:
            assert not node.integer and not node.why
        else:
            assert node.integer is not bool(node.why)
        if node.op == "float":
            assert not node.integer
        if node.integer:
            assert all(source.scale_of for source in sources if source.op != "shape")
        if node.integer and node.op not in WEIGHTED:
            tensors = [source for source in sources if source.op != "shape"]
            assert all(source.integer or source.op == "input" for source in tensors)
        if node.integer and node.op in KEEP_SCALE:
            assert node.scale_of == sources[0].scale_of
        elif node.scale_of is not None:
            assert node.scale_of == node.name and node.op != "shape"
        if node.scale_of is not None:
            readers = graph.readers(node)
            assert any(reader.integer or (reader.op == "output" and node.integer) for reader in readers)
    return graph


def same(model, *inputs, label_why=None, close=False):
    """The graph of a model, checked against the model itself, which must be untouched."""
    inputs = inputs or (IMAGES,)
    state = {name: t.clone() for name, t in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    graph = checked(trace(model))
    assert [module.training for module in model.modules()] == modes
    assert all(torch.equal(t, state[name]) for name, t in model.state_dict().items())
    expected = model.eval()(*copy.deepcopy(inputs))
    given = copy.deepcopy(inputs)
    result = graph.run(list(given))
    assert all(equal(a, b) for a, b in zip(tree_leaves(given), tree_leaves(inputs), strict=True))
    found, wanted = tree_leaves(result), tree_leaves(expected)
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        if close:
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
        else:
            assert equal(a, b)
    if label_why is not None:
        assert {node.label: node.why for node in graph.nodes if node.why} == label_why
    return graph


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    return a == b


def ops(graph):
    return [node.op for node in graph.nodes]


def lines(graph):
    """What each node is, in short: label, op, activation, and Q where a quantizer sits."""
    return [
        " ".join(filter(None, (n.label, n.op, n.activation, n.quantizer and "Q")))
        for n in graph.nodes
        if n.op not in ("input", "output")
    ]


class Net(nn.Module):
    """Layers to play with; each test says what forward does with them."""

    def __init__(self, forward=None):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.other = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.bn, self.relu = nn.BatchNorm2d(4), nn.ReLU()
        self.linear = nn.Linear(8, 8)
        self.inplace = nn.ReLU(inplace=True)
        self.vector = nn.Parameter(values(8))
        self.register_buffer("table", values(4, 1, 1))
        if forward is not None:
            self.__class__ = type("Net", (Net,), {"forward": forward})


# ---- the same function, however it is written


def after_ones_self(self, x):
    y = self.conv(x)
    before = self.other(y)
    after = F.relu(y, True)
    return y + after + before


def added_in_place(self, x):
    y = self.conv(x)
    shortcut = y
    y += x
    return self.other(shortcut) + y


def one_activation_in_place_twice(self, x):
    y = self.conv(x)
    a = self.inplace(y)
    b = a + 1
    c = self.other(b)
    return self.inplace(c) + c + a + y


def in_place_on_the_input(self, x):
    y = self.inplace(x)
    return self.conv(x) + y


def in_place_behind_a_dropout(self, x):
    y = self.conv(x)
    z = F.dropout(y, 0.5, self.training)
    z.relu_()
    return y + self.other(z)


def in_place_on_half(self, x):
    a, b = self.conv(x).chunk(2, 1)
    a.relu_()
    return torch.cat((a, b), 1)


def in_place_in_all_ways(self, x):
    y = self.conv(x)
    y **= 2
    y -= 1
    y *= 2
    y /= 3
    y.add_(x).clamp_(0, 6)
    z, w = y * 1, y * 2
    z.zero_()
    w.copy_(x)
    return y, z, w, F.silu(y, True) + y, F.hardtanh_(y, 0.0, 6.0)


def numbers_are_not_changed_in_place(self, x):
    n = m = x.shape[0]
    m += 1
    return self.conv(x).reshape(n, -1), m


def sizes(self, x):
    b, c, h, w = x.shape
    y = self.conv(x).view(b, c * h, w).transpose(1, 2).reshape(b, c, h, w)
    return self.conv(y.view(x.size(0), -1, y.size(-2), w))


def sums(self, x):
    y = self.conv(x)
    pooled = F.adaptive_avg_pool2d(y, 1)
    return y + y, y + 1, 1 + y, y + pooled, torch.add(y, x, alpha=2), torch.add(input=y, other=x), y + self.table


def concatenations(self, x):
    y = self.conv(input=x)
    return torch.cat((y, y), dim=-1), torch.cat([y, x, self.table.expand(2, 4, 8, 8)], dim=1), torch.concat((x, y, x))


def parts(self, x):
    y = self.conv(x)
    a, b = y.chunk(2, 1)
    c = torch.split(y, [1, 3], dim=1)
    return torch.cat((b, a), 1), torch.cat(y.chunk(2, 1), 1), torch.stack(y.split(1, 1), 2), torch.cat([c[1], c[0]], 1)


def means(self, x):
    y = F.silu(self.conv(x))
    both = y.mean((2, 3)), y.mean([-2, -1], keepdim=True), y.mean(dim=(3, 2)), torch.mean(y, (2, 3), True)
    return (
        *both,
        y.mean(1),
        y.mean(),
        x.mean((2, 3)),
        self.conv(y[0]).mean((-2, -1)),
        y.mean((2, 3), dtype=torch.double),
    )


def pools(self, x):
    y = self.conv(x)
    p, i = F.max_pool2d(y, 2, return_indices=True)
    odd = F.adaptive_avg_pool2d(y, (None, 3)), F.adaptive_avg_pool2d(y, 7), F.adaptive_avg_pool2d(y, output_size=(3, 5))
    whole = F.avg_pool2d(y, y.shape[2:]), F.avg_pool2d(y, (y.size(2), y.size(3)))
    average = (
        F.avg_pool2d(y, 2, divisor_override=3),
        F.avg_pool2d(y, 3, 1, 1, True, False),
        F.avg_pool2d(y, 3, padding=1),
    )
    return (
        *odd,
        *whole,
        *average,
        F.max_unpool2d(p, i, 2),
        F.max_pool2d(y, 3, 2, 1, ceil_mode=True),
        torch.max_pool2d(y, 2),
    )


def clamps(self, x):
    y = 9 * self.conv(x)
    ones = y.clamp(0, 6), y.clamp(max=0), y.clamp(min=0), torch.clamp(y, max=6), torch.clamp(y, min=0, max=6)
    return (
        *ones,
        y.clamp_min(0),
        F.hardtanh(y, 0.0),
        F.hardtanh(y, 0, 6),
        F.hardtanh(y),
        y.clip(0.0),
        F.relu6(y),
        y.relu(),
    )


def functional_layers(self, x):
    row = x[:, :, 0]
    images = F.conv2d(x, self.conv.weight, padding="same"), F.conv2d(x, self.conv.weight, None, 2, 1, 2)
    upward = F.conv_transpose2d(x, self.conv.weight, stride=2, output_padding=1)
    vectors = F.linear(x, self.vector), F.linear(x, self.linear.weight, bias=self.linear.bias)
    named = F.linear(weight=self.linear.weight, input=x), torch.clamp(min=0, input=x)
    return *images, upward, *vectors, *named, F.conv1d(row, self.conv.weight[:, :, 0], padding=1)


def computed_weights(self, x):
    y = F.conv2d(x, self.conv.weight * 2, self.conv.bias, padding=1)
    return F.conv2d(y, self.conv.weight[:, :, :1], padding="same")


def functional_batch_norm(self, x):
    statistics = self.bn.running_mean, self.bn.running_var
    y = F.batch_norm(self.conv(x), *statistics, self.bn.weight, self.bn.bias, self.training, 0.1, 1e-5)
    z = F.relu(F.batch_norm(F.conv2d(y, self.other.weight), *statistics, eps=0.1))
    return y, z, F.batch_norm(y, *statistics), F.batch_norm(self.conv(y), None, None, training=True)


def other_operations(self, x):
    y = self.conv(x)
    odd = (
        torch.where(y > 0, y, x),
        torch.einsum("bchw,bdhw->bcd", y, y),
        F.interpolate(y, scale_factor=2),
        F.pad(y, (1, 1)),
    )
    kinds = y.float(), y.to(torch.float64), y.half().float(), y.view(torch.int32), y[0, 0].T, y.dtype == torch.float32
    return *odd, *kinds, self.linear(y + torch.arange(y.size(-1))), F.dropout(y, 0.0)


def assertions(self, x):
    assert x.dim() == 4, "images"
    assert not x.size(0) > 3
    assert x.size(1) == 4
    torch._assert(x.size(1) == 4, "channels")
    return self.conv(x)


def loops(self, x):
    with torch.no_grad():
        for _ in range(3):
            x = self.relu(self.bn(self.conv(x)))
    return -x if self.training else x


def settings_are_known(self, x):
    return self.conv(x) if self.conv.weight.shape[0] > 3 else x


def what_comes_out(self, x):
    y = self.conv(x)
    return {"in": x, "list": [y, (self.relu(y), 3)], "none": None}


def kept_on_the_way(self, x):
    self.features, self.count = self.conv(x), x.shape[0]
    return self.other(self.features)


def optional_arguments(self, x, /, scale=1.0, *more, size=(1, 2), mask=None, activation=F.relu, name="a", **others):
    y = activation(self.conv(x)) * scale * len(size)
    return y if mask is None and not more and not others and name == "a" else x


WRITTEN = [
    *(after_ones_self, added_in_place, one_activation_in_place_twice, in_place_on_the_input),
    *(in_place_behind_a_dropout, in_place_on_half, in_place_in_all_ways, numbers_are_not_changed_in_place),
    *(sizes, sums, concatenations, parts, means, pools, clamps, functional_layers, computed_weights),
    *(functional_batch_norm, other_operations, assertions, loops, settings_are_known, what_comes_out),
    *(kept_on_the_way, optional_arguments),
]


@pytest.mark.parametrize("forward", WRITTEN, ids=lambda f: f.__name__)
def test_however_it_is_written(forward):
    same(Net(forward))


def test_a_value_may_be_read_twice():
    graph = trace(Net(lambda self, x: (x + x, torch.cat((x, self.conv(x), x)))))
    (add,), (concat,) = ([n for n in graph.nodes if n.op == op] for op in ("add", "concat"))
    assert add.inputs == ("x", "x") and concat.inputs == ("x", "conv", "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("forward", [after_ones_self, sums, means, functional_batch_norm], ids=lambda f: f.__name__)
def test_in_other_types(forward, dtype):
    same(Net(forward).to(dtype), IMAGES.to(dtype))


@pytest.mark.parametrize(
    "model",
    [
        *(nn.Linear(8, 3), nn.Conv2d(4, 2, 3), nn.ReLU(), nn.Flatten(), nn.MaxPool2d(2, return_indices=True)),
        *(nn.Sequential(), nn.Identity(), nn.LSTM(8, 8), nn.Dropout()),
    ],
    ids=lambda m: type(m).__name__,
)
def test_one_layer_alone(model):
    same(model, IMAGES[0] if isinstance(model, nn.LSTM) else IMAGES)


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"), nn.ReLU()], ["conv"]),
        ([nn.Conv2d(4, 8, 3, padding="same", dilation=2, groups=2), nn.BatchNorm2d(8), nn.ReLU6()], ["conv"]),
        ([nn.Conv2d(4, 4, (1, 3), padding="same"), nn.Hardtanh(0, 6)], ["conv"]),
        (
            [nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, groups=2), nn.BatchNorm2d(6), nn.ReLU(inplace=True)],
            ["conv_transpose"],
        ),
        ([nn.Flatten(0, 1), nn.Conv1d(8, 4, 3), nn.BatchNorm1d(4), nn.ReLU()], ["view", "conv"]),
        ([nn.Flatten(), nn.Linear(256, 3), nn.BatchNorm1d(3), nn.ReLU()], ["view", "linear"]),
        (
            [nn.Unflatten(1, (1, 4)), nn.Conv3d(1, 1, 3), nn.BatchNorm3d(1), nn.ReLU()],
            ["view", "float", "float", "relu"],
        ),
        ([nn.Conv2d(4, 4, 1), nn.GroupNorm(2, 4), nn.SiLU(inplace=True)], ["conv", "float", "float"]),
        ([nn.Conv2d(4, 4, 1), nn.Dropout2d(), nn.BatchNorm2d(4), nn.AlphaDropout(), nn.ReLU()], ["conv"]),
        ([nn.Conv2d(4, 4, 1), nn.ReLU(), nn.PixelShuffle(2), nn.Conv2d(1, 1, 1)], ["conv", "view", "conv"]),
        ([nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d((None, 7)), nn.ReLU(), nn.ReLU()], ["conv", "avg_pool", "relu"]),
        ([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU()], ["conv", "float", "relu"]),
        ([nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 2)], ["linear", "linear"]),
    ],
)
def test_layers_in_a_row(layers, found):
    x = IMAGES[:, :, 0] if isinstance(layers[0], nn.Flatten) and isinstance(layers[1], nn.Conv1d) else IMAGES
    if x is not IMAGES:
        layers = layers[1:]
        found, x = found[1:], values(2, 8, 8)
    assert ops(same(nn.Sequential(*layers), x))[1:-1] == found


def test_inputs_of_all_kinds():
    two = (IMAGES, 2 * IMAGES)
    same(Net(lambda self, a, b: (self.conv(a) - self.conv(b), self.conv(a - b))), *two)
    whole = [
        same(Net(lambda self, pair: self.conv(pair[0]) + self.conv(pair[1])), two),
        same(Net(lambda self, images: self.conv(torch.cat(images, 0)) + self.conv(images[0]).sum()), list(two)),
        same(Net(lambda self, batch: self.conv(batch["image"])), {"image": IMAGES}),
    ]
    # What may be a list takes no quantizer: its elements do.
    assert not any(graph.inputs[0].quantizer for graph in whole)
    assert all(graph[name].quantizer for graph in whole for node in graph.layers() for name in node.inputs)
    same(Net(lambda self, x, unused: self.conv(x)), *two)


def test_lists_of_tensors_by_keyword():
    joined = same(Net(lambda self, x: self.linear(torch.cat(tensors=(self.conv(x), x), dim=-1))), IMAGES[..., :4])
    assert lines(joined) == ["conv conv Q", "cat concat Q", "linear linear Q"]
    stacked = Net(lambda self, x: self.conv(torch.concat(tensors=self.conv(x).chunk(2, 1), dim=1)))
    assert ops(same(stacked)) == ["input", "conv", "view", "view", "conv", "output"]


def test_sizes_in_one_tuple():
    same(Net(lambda self, x: self.conv(x) + torch.zeros((x.shape[0], 1, x.shape[2], x.shape[3]))))


def test_outputs_are_lists_and_dicts_of_python():
    found = trace(Net(lambda self, x: {"a": self.conv(x), "b": [x, (x, {"c": [x]})]})).run([IMAGES])
    assert [type(v) for v in (found, found["b"], found["b"][1], found["b"][1][1])] == [dict, list, tuple, dict]
    assert type(found["b"][1][1]["c"]) is list


def test_integers_and_masks_get_no_quantizer():
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embedding, self.rnn = nn.Embedding(9, 8), nn.LSTM(8, 8, batch_first=True)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.middle, self.head = nn.Linear(8, 8), nn.Linear(8, 9, bias=False)
            self.head.weight = self.embedding.weight

        def forward(self, words, mask, order):
            places = torch.arange(words.shape[1])
            x = self.embedding(words.reshape(-1, 3)) + self.embedding(words + 1) + self.embedding(places)
            x, (h, _) = self.rnn(x)
            x = x + self.attention(x, x, x, need_weights=False)[0]
            x = self.middle(x).masked_fill(mask, 0.0)[order]
            return self.head(x), self.head(h[-1]), F.linear(x, self.embedding.weight)

    words, mask = torch.tensor([[1, 2, 3], [4, 5, 6]]), torch.tensor([[[True], [False], [True]]])
    graph = same(Words(), words, mask, torch.tensor([1, 0]))
    assert not any(node.quantizer for node in graph.inputs)
    read = [[graph[name].op for name in node.inputs] for node in graph.layers()]
    assert len(read) == 4 and all(graph[n].quantizer for node in graph.layers() for n in node.inputs)


def test_an_index_is_no_value_of_the_network():
    graph = same(Net(lambda self, x, order: self.conv(self.conv(x)[order])), IMAGES, torch.tensor([1, 0]))
    assert [n.label for n in graph.nodes if n.quantizer] == ["x", "getitem", "conv_call2"]
    assert graph["getitem"].why == "moves values to where another tensor says"


def test_what_is_computed_of_constants_is_one():
    graph = same(Net(lambda self, x: self.linear(self.conv(x) + self.vector.view(1, 8)[:, : x.size(-1)] * 2)))
    assert ops(graph).count("constant") == 4
    assert [n.why for n in graph.nodes if n.why] == ["reads mul, a constant"]


# ---- in place on shared memory, control flow: a part that can't be followed is one float node


def sees_values(self, x):
    y = self.conv(x)
    if y.mean() > 0:
        y = -y
    return y


def sees_sizes(self, x):
    return torch.cat([self.conv(image[None]) for image in x])


def sets_a_part(self, x):
    y = self.conv(x)
    y[:, 0] = 0
    return y


def changes_a_view(self, x):
    y = self.conv(x)
    first = y[:, :2]
    first += 1
    return self.other(y)


def changes_what_was_viewed(self, x):
    y = self.conv(x)
    rows = y.flatten(2).transpose(1, 2)
    self.inplace(y)
    return self.linear(y) * rows.sum()


def changes_a_chunk(self, x):
    y = self.conv(x)
    a, _ = y.chunk(2, 1)
    a.relu_()
    return y


def writes_to_another(self, x):
    y, z = self.conv(x), self.other(x)
    torch.clamp(y, 0, 6, out=z)
    return z


def changes_a_parameter(self, x):
    self.vector.add_(x[0, 0, 0])
    return self.linear(x) + self.vector


def in_half_precision(self, x):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return self.conv(x).float()


UNTRACEABLE = [
    (sees_values, "`if y.mean() > 0:` in sees_values"),
    (sees_sizes, "`return torch.cat([self.conv(image[None]) for image in x])` in sees_sizes"),
    (sets_a_part, "`y[:, 0] = 0` in sets_a_part"),
    (changes_a_view, "iadd in place on a value that shares memory with another"),
    (changes_what_was_viewed, "inplace in place on a value that shares memory with another"),
    (changes_a_chunk, "relu in place on a value that shares memory with another"),
    (writes_to_another, "`torch.clamp(y, 0, 6, out=z)` in writes_to_another"),
    (changes_a_parameter, "add in place on a value that shares memory with another"),
    (in_half_precision, "`return self.conv(x).float()` in in_half_precision"),
]


@pytest.mark.parametrize(("forward", "construct"), UNTRACEABLE, ids=lambda f: getattr(f, "__name__", ""))
def test_what_cannot_be_traced(forward, construct):
    with pytest.raises(ValueError, match=r"need one that torch\.fx can trace") as error:
        trace(Net(forward))
    assert construct in str(error.value) and "put it into a module of its own" in str(error.value)
    assert "only `save` and `to_onnx` can't write it" in str(error.value)
    # As a part, it is the one thing that stays float; what lies around it does not.
    part = Net(forward)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(part, nn.Conv2d(4, 4, 1)), part, nn.Conv2d(4, 4, 1))
    why = f"can't be traced: {construct}"
    graph = same(model, label_why={"1.0": why, "1.0_call2": why})
    assert ops(graph) == ["input", "conv", "float", "conv", "float", "conv", "output"]
    assert [node.quantizer for node in graph.nodes] == [True, False, True, False, True, True, False]


def test_hooks_are_not_left_out():
    norm = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
    norm[1].register_forward_hook(lambda module, x, y: -y)
    same(norm, label_why={"1": "has forward hooks", "2": "reads 1, which is float"})
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Sequential(nn.Conv2d(4, 4, 1), nn.ReLU()), nn.Conv2d(4, 4, 1))
    model[0].register_forward_pre_hook(lambda module, x: (2 * x[0],))
    model[1].register_forward_hook(lambda module, x, y: y + 1)
    same(model, label_why={"0": "has forward hooks", "1": "has forward hooks"})
    model.register_forward_hook(lambda module, x, y: y + 1)
    with pytest.raises(ValueError, match=r"model: need one without forward hooks, .* this Sequential has some"):
        trace(model)


def test_a_forward_of_one_object():
    model = nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 1))
    model[0].forward = lambda x: x + 1
    same(model, label_why={"0": "has a forward of its own"})
    model.forward = lambda x: x
    with pytest.raises(ValueError, match="a forward that belongs to one object"):
        trace(model)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "computed",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        parametrizations.orthogonal,
        torch.nn.utils.weight_norm,
        torch.nn.utils.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    ],
)
def test_computed_weights_are_ordinary_ones(computed):
    torch.manual_seed(0)
    with torch.enable_grad():
        model = nn.Sequential(computed(nn.Conv2d(4, 4, 1)), nn.BatchNorm2d(4), computed(nn.Linear(8, 8)))
        model(IMAGES).sum().backward()
    graph = same(model)
    assert ops(graph) == ["input", "conv", "linear", "output"]
    assert all(set(dict(graph.layer(node).named_parameters())) == {"weight", "bias"} for node in graph.layers())


# ---- names, fusing, reuse


def test_layers_keep_their_names():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.input, self.output, self.conv, self.relu = (nn.Conv2d(4, 4, 1) for _ in range(4))
            self.conv_call2, self.add, self.add_2 = nn.ReLU(), nn.ReLU(), nn.Sequential(Net(added_in_place))

        def forward(self, input):
            x = self.input(input) + input
            y = self.add_2(self.output(x)) + self.add(x)
            return F.relu(self.relu(self.conv(self.conv_call2(self.conv(y)))))

    model = Named()
    graph = same(model)
    layers = dict(model.named_modules())
    for node in graph.layers():
        assert node.label == node.layer and (node.label in layers) is not node.label.startswith("conv_call")
    assert {"add_2.0.add", "add_2.0.add_2", "add", "input_2", "output_2", "conv_call2_2"} <= {
        n.label for n in graph.nodes
    }


def test_a_block_used_again():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.block = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(True))
            self.norm = nn.BatchNorm2d(4)

        def forward(self, x):
            return self.block(self.block(x)) + self.norm(self.block[0](x)) + self.norm(x)

    graph = same(Again(), close=True)
    first, second, third, alone = graph.layers()
    assert [len(n.parts) for n in graph.layers()] == [3, 3, 2, 1] and type(graph.layer(alone)) is nn.Conv2d
    layers = [graph.layer(n) for n in (first, second, third)]
    assert len(set(map(id, layers))) == 3 and len({id(layer.weight) for layer in layers}) == 1
    layers[0].weight = nn.Parameter(torch.zeros(4, 4, 1, 1))
    assert layers[1].weight is layers[2].weight is not layers[0].weight


def test_only_what_nobody_else_reads_is_fused():
    class Read(nn.Module):
        def __init__(self, where):
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList([nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()])
            self.where = where

        def forward(self, x):
            read = x
            for i, layer in enumerate(self.layers):
                x = layer(x)
                if i == self.where:
                    read = x
            return x, read.sin()

    assert [len(same(Read(i), close=True).nodes[1].parts) for i in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "mobilenet_v2"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_the_pairs_that_torch_fuses_too(name):
    from torch.ao.nn import intrinsic
    from torch.ao.quantization.quantize_fx import fuse_fx

    with torch.device("meta"):
        model = backbone(name).eval()
    fused = fuse_fx(copy.deepcopy(model))
    theirs = {n for n, m in fused.named_modules() if isinstance(m, intrinsic.ConvReLU2d | intrinsic.LinearReLU)}
    ours = {n.layer for n in trace(model).layers() if n.activation == "relu"}
    assert theirs == ours


# ---- the networks of the course


@pytest.mark.parametrize("name", NAMES)
def test_stored_networks(name):
    model, x = load(name), torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    graph = same(model, x, close=True)
    floats = {node.op for node in graph.nodes if node.why}
    assert not floats or name == "vit"
    assert sum(len(node.parts) for node in graph.nodes) >= len(graph.nodes)
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    alone = sum(m.identity is not None for m in model.modules() if hasattr(m, "identity"))
    assert len(graph.layers()) == len(layers) + alone


@pytest.mark.parametrize(
    "name",
    [
        "alexnet",
        "vgg16",
        "resnet18",
        "resnet34",
        "resnet50",
        "resnet101",
        "mobilenet_v2",
        "squeezenet1_1",
        "densenet121",
        "vit_b_16",
    ],
)
def test_classic_networks_without_storage(name):
    with torch.device("meta"):
        model, x = backbone(name), torch.zeros(1, 3, 224, 224)
    graph = checked(trace(model))
    assert graph.run([x]).shape == (1, 1000)
    assert bool([node for node in graph.nodes if node.why]) is (name == "vit_b_16")
    assert {node.layer for node in graph.layers()} >= {
        n for n, m in model.named_modules() if type(m) in (nn.Conv2d, nn.Linear) and "attention" not in n
    }


RESIDUAL = """
0 conv relu Q
3.body.0 conv relu Q
3.body.3 conv Q
3.add add relu Q
4.body.0 conv relu Q
4.body.3 conv Q
4.shortcut.0 conv Q
4.add add relu Q
5.body.0 conv relu Q
5.body.3 conv Q
5.shortcut.0 conv Q
5.add add relu Q
6 avg_pool Q
7 view
8 linear Q
"""


def test_the_table_of_a_residual_network():
    graph = trace(load("residual"))
    assert lines(graph) == RESIDUAL.strip().splitlines()
    table = [line.split() for line in graph.table().splitlines()]
    assert len(table) == len(graph.nodes) + 2
    assert ["4.add", "add", "relu", "4.body.3,", "4.shortcut.0", "own"] in table
    assert ["7", "view", "6", "of", "6"] in table


def test_the_table_of_a_transformer_says_why():
    why = {node.why for node in trace(load("vit")).nodes if node.why}
    assert "no integer form of LayerNorm" in why and "reads position, a constant" in why
    assert all(w.startswith(("no integer form of ", "reads ", "only float nodes ", "adds ")) for w in why)


# ---- placement


def test_a_unet_joins_its_branches():
    class UNet(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.down, self.up, self.bn = nn.Conv2d(4, 8, 3, 2, 1), nn.ConvTranspose2d(8, 4, 2, 2), nn.BatchNorm2d(4)
            self.out = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            y = F.relu(self.bn(self.up(F.relu(self.down(x)))))
            return self.out(torch.cat([x, y], 1))

    graph = same(UNet(), label_why={})
    assert lines(graph) == ["down conv relu Q", "up conv_transpose relu Q", "cat concat Q", "out conv Q"]


def test_squeeze_and_excitation_multiplies_in_float():
    class Squeeze(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.pool = nn.Conv2d(4, 4, 3), nn.AdaptiveAvgPool2d(1)
            self.narrow, self.wide, self.last = nn.Conv2d(4, 2, 1), nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            y = F.relu(self.conv(x))
            return self.last(y * torch.sigmoid(self.wide(F.relu(self.narrow(self.pool(y))))))

    graph = same(Squeeze(), label_why={"sigmoid": "no integer form of sigmoid", "mul": "no integer form of mul"})
    by_label = {node.label: node.quantizer for node in graph.nodes}
    # What only the sigmoid reads is not rounded; the product is, for the last layer.
    assert [n for n, quantizer in by_label.items() if quantizer] == ["x", "conv", "pool", "narrow", "mul", "last"]


def test_moving_values_keeps_their_scale():
    def forward(self, x):
        y = self.conv(x).flatten(2).transpose(1, 2)
        a, b = y.chunk(2, 1)
        return self.linear(torch.cat((b, a), 1).reshape(2, 4, 8, 8)), torch.stack(y.split(1, 1))

    graph = same(Net(forward))
    scales = {node.label: node.scale_of for node in graph.nodes if node.op == "view"}
    assert scales.pop("stack") == "conv" and set(scales.values()) == {"conv", "cat"}


def test_no_quantizer_anywhere_for_weights_only():
    graph = trace(Net(other_operations))
    bare = graph.placed(weights_only=True)
    assert not any(node.scale_of or node.integer for node in bare.nodes)
    assert {n.name: n.why for n in bare.nodes if n.why} == {n.name: n.why for n in bare.nodes if n.op == "float"}
    assert bare.placed() == graph == graph.placed(keep_float=[n.name for n in graph.nodes]).placed()


def test_keeping_a_layer_float():
    graph = trace(load("residual"))
    kept = next(node for node in graph.nodes if node.label == "4.body.3")
    placed = checked(graph.placed(keep_float=[kept.name]))
    assert {n.label: n.why for n in placed.nodes if n.why} == {
        "4.body.3": "kept float by the recipe",
        "4.add": "reads 4.body.3, which is float",
    }
    unquantized = {n.label for n in graph.nodes if n.quantizer} - {n.label for n in placed.nodes if n.quantizer}
    assert unquantized == {"4.body.0", "4.body.3", "4.shortcut.0"}


# ---- any network


KINDS = {
    "conv": lambda net, a, b: net.convs[0](a),
    "conv2": lambda net, a, b: net.convs[1](a),
    "norm": lambda net, a, b: net.norms[0](a),
    "norm2": lambda net, a, b: net.norms[1](a),
    "linear": lambda net, a, b: net.linear(a),
    "relu": lambda net, a, b: net.relu(a),
    "relu_": lambda net, a, b: net.inplace(a),
    "relu6": lambda net, a, b: a.clamp(0, 6),
    "relu again": lambda net, a, b: F.relu(a),
    "add": lambda net, a, b: a + b,
    "add_": operator.itemgetter(1),
    "mul": lambda net, a, b: a * b / 4,
    "tanh_": lambda net, a, b: a.tanh_(),
    "sigmoid": lambda net, a, b: a.sigmoid(),
    "number": lambda net, a, b: a + 1,
    "constant": lambda net, a, b: a + net.constant,
    "dropout": lambda net, a, b: net.dropout(a),
    "max": lambda net, a, b: F.max_pool2d(a, 3, 1, 1),
    "average": lambda net, a, b: net.average(a),
    "cat": lambda net, a, b: torch.cat((a, b), 1)[:, 2:6],
    "swap": lambda net, a, b: torch.cat(a.chunk(2, 2), 2),
    "parts": lambda net, a, b: torch.cat([a.chunk(2, 1)[1], b.chunk(2, 1)[0]], 1),
    "view": lambda net, a, b: a.transpose(2, 3),
    "reshape": lambda net, a, b: a.contiguous().view(a.size(0), -1).reshape(a.shape),
    "mean": lambda net, a, b: a + b.mean((2, 3), keepdim=True),
    "branch": lambda net, a, b: net.branch(a),
}


def add_(net, a, b):
    a += b
    return a


KINDS["add_"] = add_


class Branch(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x - 1


class Random(nn.Module):
    """A network that follows a list of operations, each on values that came before."""

    def __init__(self, steps, outputs):
        super().__init__()
        self.steps, self.outputs = steps, outputs
        torch.manual_seed(0)
        self.convs = nn.ModuleList([nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1, groups=2)])
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])
        self.linear, self.relu, self.inplace = nn.Linear(4, 4), nn.ReLU(), nn.ReLU(inplace=True)
        self.dropout, self.average, self.branch = nn.Dropout(), nn.AvgPool2d(3, 1, 1), Branch()
        self.constant = nn.Parameter(torch.ones(4, 1, 1))
        self.double()

    def forward(self, x, y):
        made = [x, y]
        for kind, i, j in self.steps:
            made.append(KINDS[kind](self, made[i % len(made)], made[j % len(made)]))
        return [made[i % len(made)] for i in self.outputs], made[-1]


@st.composite
def networks(draw):
    steps = st.tuples(st.sampled_from(sorted(KINDS)), st.integers(0, 20), st.integers(0, 20))
    return Random(draw(st.lists(steps, min_size=1, max_size=10)), draw(st.lists(st.integers(0, 20), max_size=2)))


@settings(derandomize=True, deadline=None, max_examples=100, database=None)
@given(networks(), st.randoms(use_true_random=False))
def test_any_network(network, rng):
    # As a part, so that what can't be followed, as changes of shared memory, is a float node.
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, x, y):
            return self.inner(x, y)

    inputs = values(2, 4, 4, 4).double(), values(2, 4, 4, 4, seed=1).double()
    graph = checked(trace(Around()))
    expected = tree_leaves(network.eval()(*copy.deepcopy(inputs)))
    for a, b in zip(tree_leaves(graph.run(list(copy.deepcopy(inputs)))), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)
    kept = {node.name for node in graph.nodes if rng.random() < 0.3}
    placed = checked(graph.placed(keep_float=kept))
    assert not any(node.integer for node in placed.nodes if node.name in kept)
    assert placed.placed() == graph


def test_random_networks_are_followed_inside():
    """Without changes of shared memory, nothing but the branch is opaque."""
    steps = [(kind, i, i + 1) for i, kind in enumerate(KINDS) if not kind.endswith("_")]
    graph = checked(trace(Random(steps, [])))
    assert [node.why for node in graph.nodes if node.why.startswith("can't be traced")] == [
        "can't be traced: `return x * 2 if x.sum() > 0 else x - 1` in forward"
    ]


# ---- a graph as an object


def test_a_graph_of_a_graph():
    model, x = load("residual"), torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    graph = trace(model)
    again = same(graph.module, x)
    assert [replace(n, label="") for n in again.nodes] == [replace(n, label="") for n in graph.nodes]
    assert not any(module.training for module in graph.module.modules())


def test_a_copy_is_one_of_its_own():
    graph, x = trace(load("plain")), torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    before = graph.run([x])
    twin = copy.deepcopy(graph)
    assert twin.nodes == graph.nodes and torch.equal(twin.run([x]), before)
    for p in twin.module.parameters():
        p.zero_()
    assert torch.equal(graph.run([x]), before) and not torch.equal(twin.run([x]), before)


class Gaps(nn.Module):
    """Of two sums one is for nobody: a new trace would call the other ``add``, not ``add_1``."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.branch = nn.Sequential(*[nn.Linear(4, 4) for _ in range(300)]), Branch()

    def forward(self, x):
        _ = x + x
        y = self.branch(self.layers(x))
        return {"sum": [y + x, F.max_pool1d(y[:, 1:], kernel_size=2)]}


def test_a_graph_can_be_pickled():
    graph = trace(Gaps())
    assert graph["add_1"] in graph.readers(graph.nodes[0])  # which is cached
    again = pickle.loads(pickle.dumps(graph))
    assert again.nodes == graph.nodes and again.table() == graph.table()
    x = torch.ones(2, 4)
    assert all(map(torch.equal, again.run([x])["sum"], graph.run([x])["sum"]))
    again.layer(again.nodes[1]).weight.data.zero_()
    assert graph.layer(graph.nodes[1]).weight.any()
    assert copy.deepcopy(again).nodes == again.nodes


def test_it_holds_nothing_that_is_not_called():
    graph = trace(Net(lambda self, x: F.linear(F.conv2d(x, self.conv.weight), self.vector)))
    assert set(graph.module.state_dict()) == {"conv2d.weight", "vector"}


def test_values_are_freed_once_nobody_reads_them():
    graph, seen = trace(load("plain")), []

    def step(node, values):
        seen.append(len(values))
        return graph.compute(node, values)

    graph.run([torch.zeros(1, 1, 16, 16)], step)
    assert seen == [1] * (len(graph.nodes) - 1)


def test_a_walk_sees_all_values():
    model, x = load("plain"), torch.rand(2, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    seen = {}
    model[0].register_forward_hook(lambda module, x, y: seen.update(conv=y))
    expected = model(x)
    model[0]._forward_hooks.clear()
    graph = trace(model)
    walked = {node.label: value for node, value in graph.walk([x])}
    assert list(walked) == [node.label for node in graph.nodes]
    assert torch.equal(walked["output"], expected) and walked["input"] is x
    assert torch.equal(walked["0"], F.relu(model[1](seen["conv"])))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    for forward in WRITTEN:
        if forward is not other_operations:
            same(Net(forward).cuda(), IMAGES.cuda())


# ---- what is refused


class Uncopied(Net):
    def __deepcopy__(self, memo):
        raise TypeError("holds an open file")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "model: need a torch module, got a int"),
        (nn.LazyLinear(3), r"model: it \(LazyLinear\) has no weights yet; call the model once"),
        (nn.Sequential(nn.LazyConv2d(3, 1)), r"model: 0 \(LazyConv2d\) has no weights yet"),
        (Uncopied(), "model: can't copy this Uncopied: holds an open file"),
        (nn.DataParallel(nn.ReLU()), "model: need the network itself, got it in a DataParallel; pass model.module"),
        (Net(lambda self, x: torch.zeros(x.shape[0], 4)), r"torch\.zeros\(\(n, 4\)\) instead of torch\.zeros\(n, 4\)"),
        (nn.ModuleList([nn.ReLU()]), "tracing ModuleList stops at"),
        (Net(lambda self, x: [nn.ReLU()][0](x)), "module is not installed .*: keep this ReLU as an attribute or in a"),
        (Net(lambda self, *images: self.conv(images[0])), "tracing Net stops at .*tuple index out of range"),
    ],
)
def test_refused(model, message):
    with pytest.raises(ValueError, match=message):
        trace(model)


def test_refused_uses():
    graph = trace(nn.Linear(2, 3))
    with pytest.raises(ValueError, match=r"inputs: need a list of 1 \(input\), got 2"):
        graph.run([torch.zeros(2), torch.zeros(2)])
    with pytest.raises(ValueError, match=r"inputs: need a list of 1 \(input\), got a Tensor"):
        graph.run(torch.zeros(1, 2))
    with pytest.raises(ValueError, match="keep_float: need names of nodes, got 'fc'"):
        graph.placed(keep_float=["fc"])
    with pytest.raises(ValueError, match="node: need one that calls a module, got output"):
        graph.layer(graph.nodes[-1])


class Calls(nn.Module):
    """A layer, and what a function makes of it."""

    def __init__(self, function):
        super().__init__()
        self.layer, self.function = nn.Linear(3, 4), function

    def forward(self, x):
        return self.function(self.layer(x))


def fused(graph):
    return [(node.op, node.activation) for node in graph.nodes[1:-1]]


@pytest.mark.parametrize("low", [-6.0, -1.0, 0.0, 1.0])
@pytest.mark.parametrize("high", [None, 1.0, 6.0, 7.0, 100.0])
@pytest.mark.parametrize("form", [torch.clamp, lambda y, low, high: y.clip(low, high)])
def test_only_a_clamp_from_zero_is_an_activation(low, high, form):
    """``relu(y) = max(y, 0)``, ``relu6(y) = min(max(y, 0), 6)``; every other clamp is another function."""
    model = Calls(lambda y: form(y, low, high))
    graph, x = trace(model), 20 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(graph.run([x]), model(x))
    activation = {(0.0, None): "relu", (0.0, 6.0): "relu6"}.get((low, high))
    assert fused(graph) == ([("linear", activation)] if activation else [("linear", None), ("float", None)])


@pytest.mark.parametrize(("low", "high"), [(-1, 6), (-1, 1), (0, 1), (0, 6)])
def test_a_hardtanh_has_the_bounds_that_torch_gives_it(low, high):
    """Its own are -1 and 1, each where no other is given."""
    given = {name: v for name, v, own in (("min_val", low, -1), ("max_val", high, 1)) if v != own}
    model = Calls(lambda y: functional.hardtanh(y, **given))
    graph, x = trace(model), 20 * torch.randn(50, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(graph.run([x]), model.layer(x).clamp(low, high))


def test_of_two_activations_in_a_row_one_is_fused():
    """``relu(relu6(y))`` stops at 6: as one node it would have to be a ReLU6, and no channel of it can be scaled."""
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU6(), nn.ReLU(), nn.Linear(4, 2))
    assert fused(trace(model)) == [("linear", "relu6"), ("relu", None), ("linear", None)]
    assert [pair.activation for pair in chains(model)] == ["relu6"]


@pytest.mark.parametrize("dims", [(2, 3), (-1, -2), (1, 2), (1, 3), (0, 1), (-3, -2), (-2, 3), (1, -1)])
@pytest.mark.parametrize("keepdim", [True, False])
def test_a_mean_over_other_axes_than_height_and_width_is_no_pooling(dims, keepdim):

    class Mean(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(2, 3, 1)

        def forward(self, x):
            return self.layer(x).mean(dims, keepdim=keepdim)

    model, x = Mean(), torch.randn(2, 2, 4, 5, generator=torch.Generator().manual_seed(0))
    result, expected = trace(model).run([x]), model(x)
    assert result.shape == expected.shape
    assert torch.allclose(result, expected, atol=1e-6)


def test_arguments_of_a_transposed_convolution_come_in_torchs_order():
    """stride, padding, output_padding, groups, dilation; of a convolution, dilation comes before groups."""

    class Functions(nn.Module):
        def __init__(self):
            super().__init__()
            self.spread = nn.Parameter(torch.randn(4, 3, 3, 3))
            self.gather = nn.Parameter(torch.randn(2, 3, 3, 3))

        def forward(self, x):
            y = functional.conv_transpose2d(x, self.spread, None, 2, 1, 1, 2, 1)
            return y, functional.conv2d(y, self.gather, None, 1, 2, 2, 2)

    torch.manual_seed(0)
    model, x = Functions(), torch.randn(2, 4, 5, 5)
    graph = trace(model)
    assert [node.op for node in graph.layers()] == ["conv_transpose", "conv"]
    for ours, theirs in zip(graph.run([x]), model(x), strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_an_element_counted_from_the_end_may_be_one_counted_from_the_start():
    """``y[-1]`` is ``y[0]`` if there is one alone: what is changed in place there must not be read unchanged here."""

    def function(y, i):
        first, other = y[0], y[i]
        first.mul_(2)
        return other

    with pytest.raises(ValueError, match="mul in place on a value that shares memory"):
        trace(Calls(lambda y: function(y, -1)))
    model, x = Calls(lambda y: function(y, 1)), torch.ones(2, 3)
    assert torch.equal(trace(model).run([x]), model.layer(x)[1])
