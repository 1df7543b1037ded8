"""quantcourse.models: published sizes, stored weights that are what was stored, and nothing hidden from a tracer."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from quantcourse import models
from quantcourse.data import digits
from quantcourse.models import NAMES, SEEDS, backbone, build, load

PARAMETERS = {
    "plain": 26_074,
    "residual": 31_870,
    "mobile": 15_402,
    "multibranch": 31_978,
    "mlp": 50_698,
    "vit": 18_538,
    "mobile_dead": 15_402,
}
# Parameters and, of convolutions and matrix products, 10^9 multiply-accumulates at 224x224: torchvision's.
BACKBONES = {
    "alexnet": (61_100_840, 0.71),
    "vgg16": (138_357_544, 15.47),
    "resnet18": (11_689_512, 1.81),
    "resnet34": (21_797_672, 3.66),
    "resnet50": (25_557_032, 4.09),
    "resnet101": (44_549_160, 7.80),
    "mobilenet_v2": (3_504_872, 0.30),
    "squeezenet1_1": (1_235_496, 0.35),
    "densenet121": (7_978_856, 2.83),
    "vit_b_16": (86_567_656, 17.56),
}
FOLDER = Path(models.__file__).parent / "weights"
ACCURACY = {
    (row["network"], int(row["seed"])): row
    for row in csv.DictReader((FOLDER / "accuracy.csv").read_text().splitlines())
}
each_net = pytest.mark.parametrize("name", NAMES)
each_backbone = pytest.mark.parametrize("name", BACKBONES)


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def norms(net):
    return [m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d)]


@pytest.fixture(scope="module")
def images():
    return digits("test")[0]


# The architectures


def test_all_nets_are_here():
    assert set(NAMES) == set(PARAMETERS)
    assert {(name, seed) for name in NAMES for seed in range(SEEDS)} == set(ACCURACY)


@each_net
def test_parameters_of_the_small_nets(name):
    assert parameters(build(name)) == PARAMETERS[name]


@each_backbone
def test_parameters_and_products_of_the_backbones(name):
    with torch.device("meta"):
        net = backbone(name).eval()
        with FlopCounterMode(display=False) as counter:
            scores = net(torch.empty(1, 3, 224, 224))
    assert parameters(net) == BACKBONES[name][0]
    assert round(counter.get_total_flops() / 2e9, 2) == BACKBONES[name][1]
    assert scores.shape == (1, 1000)


def test_resnet50_strides_on_its_3x3():
    """Then, and only then, it has this many multiply-accumulates: v1.5."""
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        backbone("resnet50").eval()(torch.empty(1, 3, 224, 224))
    assert counter.get_total_flops() == 2 * 4_089_184_256


@pytest.mark.parametrize("name", [*NAMES, *BACKBONES])
def test_a_traced_net_computes_the_same_at_any_batch_size(name):
    if name in NAMES:
        net, shape = load(name), (1, 16, 16)
    elif name in ("resnet18", "mobilenet_v2", "squeezenet1_1", "densenet121"):
        net, shape = backbone(name).eval(), (3, 64, 64)
    else:  # traced without storage: they are large
        with torch.device("meta"):
            torch.fx.symbolic_trace(backbone(name))
        return
    traced = torch.fx.symbolic_trace(net)
    for batch in (1, 3):
        x = torch.rand(batch, *shape, generator=torch.Generator().manual_seed(batch))
        with torch.no_grad():
            assert torch.equal(traced(x), net(x))


@each_net
def test_images_of_a_batch_do_not_meet(name, images):
    """Alone or among others, an image gets the same scores up to rounding."""
    net = load(name)
    with torch.no_grad():
        together = net(images[:8])
        alone = torch.cat([net(image[None]) for image in images[:8]])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-4)


class Dispatched(TorchDispatchMode):
    """The names of all operations that reach the dispatcher."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", ["vit", "vit_b_16"])
def test_attention_is_not_fused(name):
    """Every product of the attention is a matrix product of its own: two a layer, and four projections."""
    with torch.device("meta"), torch.no_grad(), Dispatched() as seen:
        net = (build if name == "vit" else backbone)(name).eval()
        net(torch.empty(1, 1, 16, 16) if name == "vit" else torch.empty(1, 3, 224, 224))
    assert not [n for n in seen.names if "attention" in n or "multi_head" in n]
    layers = 2 if name == "vit" else 12
    assert seen.names.count("aten::bmm") == 2 * layers
    assert sum(n in ("aten::addmm", "aten::linear") for n in seen.names) == 6 * layers + 1


def test_attention_is_torchs():
    """With the same weights, nn.MultiheadAttention gives the same, up to rounding."""
    ours = load("vit").layers[0].attention
    theirs = torch.nn.MultiheadAttention(32, 4, batch_first=True)
    projections = (ours.q, ours.k, ours.v)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([p.weight for p in projections]))
        theirs.in_proj_bias.copy_(torch.cat([p.bias for p in projections]))
        theirs.out_proj.load_state_dict(ours.out.state_dict())
        x = torch.randn(3, 16, 32, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(ours(x), theirs(x, x, x)[0], rtol=1e-4, atol=1e-5)


def test_branches_are_those_of_repvgg():
    """A block has three branches where the shape stays, two elsewhere; each has its own normalization."""
    blocks = [m for m in build("multibranch").modules() if isinstance(m, models.MultiBranch)]
    assert [len(norms(block)) for block in blocks] == [2, 3, 3, 2, 3, 3]


# The stored weights


@each_net
def test_accuracy_is_the_one_stored(name, images):
    """To 0.1 points: 10 of the 10200 test views."""
    labels = digits("test")[1]
    with torch.no_grad():
        correct = torch.cat([load(name)(x).argmax(1) for x in images.split(1000)]) == labels
    assert abs(100 * correct.double().mean() - float(ACCURACY[name, 0]["test"])) <= 0.1


@pytest.mark.parametrize(("name", "seed"), ACCURACY)
def test_every_net_is_whole(name, seed):
    """Finite, far better than chance on a few images, and with the dead channels that were counted."""
    net = load(name, seed)
    assert all(torch.isfinite(t).all() for t in net.state_dict().values())
    images, labels, _ = digits("validation")
    with torch.no_grad():
        assert (net(images[:400]).argmax(1) == labels[:400]).float().mean() > 0.85
    dead = sum(int((m.running_var < 1e-6).sum()) for m in norms(net))
    assert dead == int(ACCURACY[name, seed]["dead_channels"])


def test_dead_channels_are_where_they_are_promised():
    for (name, _), row in ACCURACY.items():
        assert (int(row["dead_channels"]) > 0) == (name == "mobile_dead")


@each_net
def test_load_gives_a_module_of_its_own(name, images):
    before = torch.random.get_rng_state()
    first, second = load(name), load(name)
    assert torch.equal(torch.random.get_rng_state(), before), "no random number drawn"
    assert not any(m.training for m in first.modules())
    assert all(p.requires_grad and p.device.type == "cpu" for p in first.parameters())
    with torch.no_grad():
        for p in first.parameters():
            p.zero_()
        third = load(name)
        assert torch.equal(second(images[:4]), third(images[:4]))


def test_seeds_are_different_nets():
    for name in NAMES:
        heads = [list(load(name, seed).parameters())[-2] for seed in range(SEEDS)]
        assert all(not torch.equal(a, b) for i, a in enumerate(heads) for b in heads[:i])


@pytest.mark.parametrize("seed", [-1, SEEDS, 0.0, "0", True, None])
def test_other_seeds_are_refused(seed):
    with pytest.raises(ValueError, match="seed: need an integer from 0 to 4, got"):
        load("plain", seed)


def test_a_seed_may_be_numpys():
    one, other = load("mlp", np.int64(2)).state_dict(), load("mlp", 2).state_dict()
    assert all(torch.equal(one[name], other[name]) for name in other)


@pytest.mark.parametrize("function", [build, load, backbone])
@pytest.mark.parametrize("name", ["Plain", "", None, 3, "resnet152", "../weights/plain"])
def test_other_names_are_refused(function, name):
    with pytest.raises(ValueError, match="name: need one of"):
        function(name)


# Damage


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A copy of the weights, to damage."""
    copy = tmp_path / "weights"
    copy.mkdir()
    for name in ("plain-0.safetensors", "plain-1.safetensors", "SHA256SUMS"):
        shutil.copy(FOLDER / name, copy)
    monkeypatch.setattr(models, "_FOLDER", copy)
    return copy


def truncated(path):
    path.write_bytes(path.read_bytes()[:-1])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def swapped(path):
    shutil.copy(path.with_name("plain-1.safetensors"), path)


def forgotten(path):
    sums = path.with_name("SHA256SUMS")
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if path.name not in line))


@pytest.mark.parametrize("damage", [truncated, emptied, flipped, swapped, forgotten])
def test_damaged_weights_are_refused(folder, damage):
    assert parameters(load("plain")) == PARAMETERS["plain"]
    damage(folder / "plain-0.safetensors")
    with pytest.raises(ValueError, match=r"plain-0\.safetensors: .*not those in SHA256SUMS.*make weights"):
        load("plain")
    load("plain", 1)


@pytest.mark.parametrize("file", ["plain-0.safetensors", "SHA256SUMS"])
def test_missing_weights_are_refused(folder, file):
    (folder / file).unlink()
    with pytest.raises(ValueError, match=rf"plain-0\.safetensors: {file} is missing.*make weights"):
        load("plain")


def test_folder_holds_what_is_listed_and_no_more():
    expected = {f"{name}-{seed}.safetensors" for name in NAMES for seed in range(SEEDS)}
    listed = {line.split()[1] for line in (FOLDER / "SHA256SUMS").read_text().splitlines()}
    assert listed == expected
    assert {path.name for path in FOLDER.iterdir()} == expected | {"SHA256SUMS", "accuracy.csv", "trials.csv"}


def graph(name):
    with torch.device("meta"):
        net = models.backbone(name).eval()
        return net, list(torch.fx.symbolic_trace(net).graph.nodes)


@pytest.mark.parametrize(
    ("name", "sums"), [("resnet18", 8), ("resnet34", 16), ("resnet50", 16), ("resnet101", 33), ("mobilenet_v2", 10)]
)
def test_shortcuts_are_added(name, sums):
    assert sum("add" in str(node.target) for node in graph(name)[1] if node.op == "call_function") == sums


def test_what_parameters_and_products_do_not_show():
    def kinds(net, kind):
        return [m for m in net.modules() if type(m) is kind]

    net, _ = graph("mobilenet_v2")
    assert (len(kinds(net, nn.ReLU6)), len(kinds(net, nn.ReLU))) == (35, 0)
    assert [m.p for m in kinds(net, nn.Dropout)] == [0.2]
    net, nodes = graph("densenet121")
    assert (len(kinds(net, nn.AvgPool2d)), len(kinds(net, nn.MaxPool2d))) == (3, 1)
    cats = [node for node in nodes if node.target is torch.cat]
    assert len(cats) == 58
    assert all(new in old.users or old.name not in str(new) for old, new in (c.args[0] for c in cats))
    assert all(c.args[0][1].target.endswith("body.5") for c in cats)  # what is new comes last
    net, nodes = graph("squeezenet1_1")
    assert all(m.ceil_mode for m in kinds(net, nn.MaxPool2d))
    assert all(
        ".one." in a.target and ".three." in b.target for a, b in (n.args[0] for n in nodes if n.target is torch.cat)
    )
    net, nodes = graph("vit_b_16")
    assert {m.eps for m in kinds(net, nn.LayerNorm)} == {1e-6}
    assert {m.eps for m in kinds(models.build("vit"), nn.LayerNorm)} == {1e-5}
    assert [n.args[1] for n in nodes if "getitem" in str(n.target) and isinstance(n.args[1], tuple)] == [
        (slice(None), 0)
    ]
