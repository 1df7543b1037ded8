"""quantcourse.fold: the same function with a layer less or with other scales, and what biases make up for."""

import copy
import itertools
import math

import pytest
import scipy.integrate
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from quantcourse.affine import INT4, choose_qparams, fake_quantize
from quantcourse.data import digits
from quantcourse.fold import (
    Pair,
    absorb_bias,
    chains,
    correct_bias,
    dead_channels,
    equalize,
    fold_batch_norm,
    input_means,
    rescale,
    statistics,
)
from quantcourse.graph import trace
from quantcourse.models import NAMES, backbone, load

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
CONVS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
BATCH_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.no_grad():
        yield


def scatter(model, seed=0):
    """The model with statistics, factors and offsets as training might leave them, signs included."""
    rng = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, NORMS):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if name == "running_var":
                    tensor.copy_(torch.rand(tensor.shape, generator=rng, dtype=tensor.dtype) + 0.5)
                elif tensor.is_floating_point():
                    tensor.copy_(torch.randn(tensor.shape, generator=rng, dtype=tensor.dtype))
    return model


def norms(model):
    return [name for name, module in model.named_modules() if isinstance(module, NORMS)]


def values(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def furthest(a, b):
    """The largest difference, as a share of the largest value."""
    return float((a - b).abs().max() / b.abs().max())


# ---- whole networks


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float64, 1e-12), (torch.float32, 3e-6)])
def test_stored_networks_compute_the_same(name, dtype, bound):
    model = load(name).to(dtype)
    x = torch.rand(16, 1, 16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    folded = fold_batch_norm(model)
    assert furthest(folded(x), model(x)) <= bound
    assert type(folded) is type(model)


@pytest.mark.parametrize("name", NAMES)
def test_only_the_identity_branches_keep_a_batch_norm(name):
    kept = norms(fold_batch_norm(load(name)))
    assert kept == (["1.identity", "2.identity", "4.identity", "5.identity"] if name == "multibranch" else [])


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("resnet18", 0),
        ("resnet50", 0),
        ("mobilenet_v2", 0),
        # What reads a concatenation or a pooled map: one a dense layer, one a transition, the last.
        ("densenet121", 58 + 3 + 1),
    ],
)
def test_backbones_compute_the_same(name, left):
    torch.manual_seed(0)
    model = scatter(backbone(name)).double().eval()
    folded = fold_batch_norm(model)
    x = values(2, 3, 32, 32)
    assert furthest(folded(x), model(x)) <= 1e-12
    assert len(norms(folded)) == left


# ---- one pair


@st.composite
def pairs(draw):
    """A layer and its batch norm in float64, an input, and what torch's own fusion makes of them, if it can."""
    rank = draw(st.sampled_from([0, 1, 1, 2, 2, 3]))
    bias, affine, seed = draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    if rank == 0:
        layer = nn.Linear(draw(st.integers(1, 5)), draw(st.integers(1, 5)), bias=bias)
        norm, shape, transposed = nn.BatchNorm1d(layer.out_features, affine=affine), (3, layer.in_features), False
    else:
        groups, transposed = draw(st.integers(1, 3)), draw(st.booleans())
        options = {
            "kernel_size": draw(st.integers(1, 3)),
            "stride": draw(st.integers(1, 2)),
            "padding": draw(st.integers(0, 1)),
            "dilation": draw(st.integers(1, 2)),
            "padding_mode": draw(st.sampled_from(["zeros"] if transposed else ["zeros", "circular", "reflect"])),
        }
        c_in, c_out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
        kind = (TRANSPOSED if transposed else CONVS)[rank]
        layer = kind(c_in, c_out, groups=groups, bias=bias, **options)
        norm, shape = BATCH_NORMS[rank](c_out, affine=affine), (2, c_in, *(6,) * rank)
    model = scatter(nn.Sequential(layer, norm).double().eval(), seed)
    return model, values(*shape, seed=seed), transposed


@given(pairs())
def test_a_folded_pair_computes_the_same(drawn):
    model, x, _ = drawn
    folded = fold_batch_norm(model)
    assert type(folded[0]) is type(model[0])
    assert type(folded[1]) is nn.Identity
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-12)


@given(pairs())
def test_weights_are_those_of_torchs_own_fusion(drawn):
    model, _, transposed = drawn
    layer, norm = model
    if (transposed and layer.groups > 1) or (isinstance(layer, nn.Linear) and not norm.affine):
        return  # which torch's fusion does not take
    if isinstance(layer, nn.Linear):
        expected = fuse_linear_bn_eval(layer, norm)
    else:
        expected = fuse_conv_bn_eval(layer, norm, transpose=transposed)
    folded = fold_batch_norm(model)[0]
    torch.testing.assert_close(folded.weight, expected.weight, rtol=1e-14, atol=1e-14)
    torch.testing.assert_close(folded.bias, expected.bias, rtol=1e-14, atol=1e-14)


def test_by_hand():
    layer, norm = nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0)
    for tensor, number in [
        (layer.weight, 5.0),
        (layer.bias, 7.0),
        (norm.weight, 3.0),
        (norm.bias, -1.0),
        (norm.running_mean, 2.0),
        (norm.running_var, 4.0),
    ]:
        tensor.fill_(number)
    folded = fold_batch_norm(nn.Sequential(layer, norm))[0]
    # 3 (5 x + 7 - 2) / 2 - 1
    assert (folded.weight.item(), folded.bias.item()) == (7.5, 6.5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_stored_weights_are_rounded_once(dtype):
    torch.manual_seed(0)
    model = scatter(nn.Sequential(nn.Conv2d(8, 32, 3), nn.BatchNorm2d(32)).to(dtype))
    exact = fold_batch_norm(copy.deepcopy(model).double())[0]
    folded = fold_batch_norm(model)[0]
    assert torch.equal(folded.weight, exact.weight.to(dtype))
    assert torch.equal(folded.bias, exact.bias.to(dtype))


def test_layers_keep_their_type_beside_a_wider_batch_norm():
    model = nn.Sequential(nn.Conv2d(2, 3, 1).half(), nn.BatchNorm2d(3))
    folded = fold_batch_norm(model)[0]
    assert folded.weight.dtype == folded.bias.dtype == torch.float16


def test_the_type_is_that_of_the_weights_not_of_the_bias():
    layer = nn.Conv2d(3, 3, 1).half()
    layer.bias = nn.Parameter(layer.bias.float())
    folded = fold_batch_norm(nn.Sequential(layer, nn.BatchNorm2d(3)))[0]
    assert folded.weight.dtype == folded.bias.dtype == torch.float16


def test_nothing_is_left_in_the_state_dict():
    model = load("plain")
    before, after = set(model.state_dict()), set(fold_batch_norm(model).state_dict())
    convolutions = [f"{i}." for i, module in enumerate(model) if isinstance(module, nn.Conv2d)]
    gone = {f"{name}." for name in norms(model)}
    assert after - before == {f"{name}bias" for name in convolutions}
    assert before - after == {key for key in before if key.startswith(tuple(gone))}


@pytest.mark.parametrize("frozen", [False, True])
def test_folded_parameters_train_if_the_weights_did(frozen):
    model = nn.Sequential(nn.Conv2d(1, 2, 1, bias=False), nn.BatchNorm2d(2))
    model[0].weight.requires_grad_(not frozen)
    folded = fold_batch_norm(model)[0]
    assert isinstance(folded.weight, nn.Parameter) and isinstance(folded.bias, nn.Parameter)
    assert folded.weight.requires_grad == folded.bias.requires_grad == (not frozen)


# ---- networks that are more than a chain


class Net(nn.Module):
    """Two convolutions and two batch norms; subclasses say what to do with them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.other = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.bn, self.bn2 = nn.BatchNorm2d(3), nn.BatchNorm2d(3)


def same(model, *, left):
    """Fold, see which batch norms are left and that outputs are the same; returns the folded copy."""
    model = scatter(model.double())
    folded = fold_batch_norm(model)
    assert norms(folded) == left
    assert not any(module.training for module in folded.modules())
    x = values(2, 3, 4, 4)
    torch.testing.assert_close(folded(x), model.eval()(x), rtol=1e-12, atol=1e-12)
    return folded


def test_order_of_calls_counts_not_order_of_definition():
    class Crossed(Net):
        def forward(self, x):
            return self.bn(torch.relu(self.bn2(self.conv(self.other(x)))))

    folded = same(Crossed(), left=["bn"])
    assert type(folded.bn2) is nn.Identity


def test_an_input_by_name():
    class Named(Net):
        def forward(self, x):
            return self.bn(input=self.conv(input=x))

    same(Named(), left=["bn2"])


def test_a_layer_that_somebody_else_reads_too():
    class Skip(Net):
        def forward(self, x):
            y = self.conv(x)
            return self.bn(y) + y

    same(Skip(), left=["bn", "bn2"])


def test_a_layer_that_is_an_output_too():
    class Two(Net):
        def forward(self, x):
            y = self.conv(x)
            return {"features": y, "scores": self.bn(y)}

    same(Two(), left=["bn", "bn2"])


def test_a_layer_changed_in_place():
    class Changed(Net):
        def forward(self, x):
            y = self.conv(x)
            y += 1
            return self.bn(y)

    same(Changed(), left=["bn", "bn2"])


def test_a_layer_used_twice():
    class Twice(Net):
        def forward(self, x):
            return self.bn(self.conv(x)) + self.bn2(self.conv(2 * x))

    same(Twice(), left=["bn", "bn2"])


def test_a_batch_norm_used_twice():
    class Twice(Net):
        def forward(self, x):
            return self.bn(self.conv(x)) + self.bn(self.other(x))

    same(Twice(), left=["bn", "bn2"])


def test_a_loop_over_one_pair():
    class Loop(Net):
        def forward(self, x):
            for _ in range(3):
                x = self.bn(self.conv(x))
            return x

    same(Loop(), left=["bn", "bn2"])


def test_a_pair_known_by_two_names():
    class Named(Net):
        def __init__(self):
            super().__init__()
            self.path = nn.Sequential(self.conv, self.bn)
            self.others = [self.bn2]

        def forward(self, x):
            return self.path(x) + self.others[0](self.other(x))

    folded = same(Named(), left=[])
    assert folded.path[1] is folded.bn and folded.others[0] is folded.bn2


def test_weights_shared_by_two_layers():
    class Tied(Net):
        def __init__(self):
            super().__init__()
            self.other.weight = self.conv.weight

        def forward(self, x):
            return self.bn(self.conv(x)) + self.other(x)

    folded = same(Tied(), left=["bn", "bn2"])
    assert folded.other.weight is folded.conv.weight


@pytest.mark.parametrize("tie", ["conv", "bn"])
def test_biases_shared_by_two_layers(tie):
    class Tied(Net):
        def __init__(self):
            super().__init__()
            self.last = nn.GroupNorm(1, 3)
            (self.other if tie == "conv" else self.last).bias = getattr(self, tie).bias

        def forward(self, x):
            return self.bn(self.conv(x)) + self.last(self.other(x))

    same(Tied(), left=["bn", "bn2"])


def test_weights_that_forward_reads_itself():
    class Penalty(Net):
        def forward(self, x):
            return self.bn(self.conv(x)) + self.conv.weight.abs().sum()

    same(Penalty(), left=["bn", "bn2"])


@pytest.mark.parametrize(
    "read",
    [
        lambda model, x: sum(p.abs().sum() for p in model.conv.parameters()),
        lambda model, x: model.conv.state_dict()["weight"].sum(),
        lambda model, x: model.conv._parameters["weight"].norm(),
        lambda model, x: x * model.conv._parameters["bias"].reshape(3, 1, 1),
        lambda model, x: x + dict(model.conv.named_parameters())["bias"].view(3, 1, 1),
        lambda model, x: x - next(model.bn.buffers()).max(),
    ],
)
def test_tensors_that_forward_reads_by_another_way(read):
    class Penalty(Net):
        def forward(self, x):
            return self.bn(self.conv(x)) + read(self, x) + self.bn2(self.other(x))

    same(Penalty(), left=["bn"])


def test_statistics_that_forward_reads_itself():
    class Centred(Net):
        def forward(self, x):
            return self.bn(self.conv(x)) + torch.sum(self.bn.running_mean)

    same(Centred(), left=["bn", "bn2"])


def test_functional_calls_are_no_pair():
    class Functional(Net):
        def forward(self, x):
            y = nn.functional.conv2d(x, self.other.weight)
            y = nn.functional.batch_norm(self.bn(y), self.bn2.running_mean, self.bn2.running_var)
            return torch.relu(self.conv(y))

    same(Functional(), left=["bn", "bn2"])


def test_arguments_keep_their_defaults():
    class Optional(Net):
        def forward(self, x, mask=None, *, mode="scores", scale=1.0):
            y = self.conv(x)
            if mask is not None:
                y = y * mask
            return self.bn(y) if mode == "scores" else y * scale

    same(Optional(), left=["bn2"])


def test_what_forward_stores_is_no_stand_in():
    class Stores(Net):
        def forward(self, x):
            self.size = x.shape[0]
            return self.bn(self.conv(x))

    model = Stores()
    assert "size" not in vars(fold_batch_norm(model))
    same(model, left=["bn2"])


def test_without_running_statistics_there_is_nothing_to_fold():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, track_running_stats=False))
    same(model, left=["1"])


def test_a_linear_before_maps_is_no_pair():
    # BatchNorm2d normalizes the second dimension, a Linear makes the last.
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm2d(3))
    same(model, left=["1"])


def test_a_pair_that_does_not_fit_stays_as_broken_as_it_was():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(1))
    assert norms(fold_batch_norm(model)) == ["1"]


def test_settings_that_forward_reads_are_still_there():
    class Reads(Net):
        def forward(self, x):
            return self.bn(self.conv(x)) * self.bn.num_features

    same(Reads(), left=["bn2"])


def test_dropout_in_between_counts():
    same(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(), nn.BatchNorm2d(3)), left=["2"])


class Centring(nn.Conv2d):
    """A convolution that is none: it centres its weights first."""

    def forward(self, x):
        return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)


def test_derived_classes_stay():
    same(nn.Sequential(Centring(3, 3, 1), nn.BatchNorm2d(3)), left=["1"])


class Doubled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def test_derived_batch_norms_stay():
    same(nn.Sequential(nn.Conv2d(3, 3, 1), Doubled(3)), left=["1"])
    same(nn.Sequential(nn.Conv2d(3, 3, 1), Doubled(3), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)), left=["1"])


@pytest.mark.parametrize("norm", [nn.BatchNorm2d, Doubled])
def test_a_batch_norm_alone_stays(norm):
    same(norm(3), left=[""])


@pytest.mark.parametrize("place", ["0", "1", ""])
def test_a_forward_of_the_instance_stays(place):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).eval()
    module = model.get_submodule(place)
    whole = module.forward
    module.forward = lambda x: 2 * whole(x)
    same(model, left=["1"])


def test_a_layer_that_one_of_torchs_own_uses_too():
    class Inside(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.encoder, self.bn = nn.TransformerEncoderLayer(4, 1, 4), nn.BatchNorm1d(4)

        def forward(self, x):
            return self.bn(self.encoder.linear2(x)) + self.encoder(x)

    model, x = scatter(Inside().double().eval()), values(3, 4)
    folded = fold_batch_norm(model)
    assert norms(folded) == ["bn"]
    torch.testing.assert_close(folded(x), model(x), rtol=1e-12, atol=1e-12)


def test_a_batch_norm_without_a_variance_stays():
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model[1].running_var = None
    assert norms(fold_batch_norm(model)) == ["1"]


def test_parametrized_layers_stay():
    layer = parametrizations.weight_norm(nn.Conv2d(3, 3, 1))
    same(nn.Sequential(layer, nn.BatchNorm2d(3)), left=["1"])


def test_pruned_layers_stay():
    # A hook computes their weight anew before each call.
    layer = prune.l1_unstructured(nn.Conv2d(3, 3, 1), "weight", amount=0.5)
    same(nn.Sequential(layer, nn.BatchNorm2d(3)), left=["1"])


# ---- hooks


def test_a_hook_still_sees_what_it_saw():
    seen = []
    model = scatter(nn.Sequential(nn.Sequential(nn.Conv2d(3, 3, 1)), nn.BatchNorm2d(3)).double().eval())
    model[0].register_forward_hook(lambda module, x, y: seen.append(y))
    folded = fold_batch_norm(model)
    assert norms(folded) == ["1"] and seen == []
    x = values(2, 3, 4, 4)
    model(x), folded(x)
    assert torch.equal(seen[0], seen[1])


def test_a_hook_around_the_batch_norm_alone():
    seen = []
    model = scatter(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Sequential(nn.BatchNorm2d(3))).double().eval())
    model[1].register_forward_pre_hook(lambda module, x: seen.append(x[0]))
    folded, x = fold_batch_norm(model), values(2, 3, 4, 4)
    model(x), folded(x)
    assert norms(folded) == ["1.0"] and torch.equal(seen[0], seen[1])


@pytest.mark.parametrize("place", ["0", "1"])
@pytest.mark.parametrize("register", ["register_full_backward_hook", "register_full_backward_pre_hook"])
def test_a_hook_still_sees_the_gradients_it_saw(place, register):
    seen = []
    model = scatter(nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)).double().eval())
    getattr(model.get_submodule(place), register)(lambda module, *gradients: seen.append(gradients[-1][0]))
    folded = fold_batch_norm(model)
    x = values(2, 3, 4, 4).requires_grad_()
    with torch.enable_grad():
        for network in (model, folded):
            network(x).square().sum().backward()
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-12, atol=1e-12)


def test_a_backward_hook_around_the_pair_does_not_matter():
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    block.register_full_backward_hook(lambda *_: None)
    same(nn.Sequential(block, nn.ReLU()), left=[])


def test_a_hook_around_the_pair_does_not_matter():
    seen = []
    block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    block.register_forward_pre_hook(lambda module, x: seen.append(x))
    folded = same(nn.Sequential(block, nn.ReLU()), left=[])
    assert len(seen) == 2 and len(folded[0]._forward_pre_hooks) == 1


# ---- the original


def test_the_original_is_untouched():
    with torch.enable_grad():
        model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU())
        model[0].register_forward_hook(lambda *_: None)
        model(torch.ones(2, 3, 4, 4)).sum().backward()
    model.train()
    model[2].eval()
    before = copy.deepcopy(model)
    parameters, gradients = list(model.parameters()), [p.grad.clone() for p in model.parameters()]
    folded = fold_batch_norm(model)
    assert not any(module.training for module in folded.modules())
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()] == [True, True, True, False]
    assert [type(m) for m in model.modules()] == [type(m) for m in before.modules()]
    assert all(
        torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.state_dict().values(), strict=True)
    )
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert all(torch.equal(p.grad, g) for p, g in zip(parameters, gradients, strict=True))
    assert len(model[0]._forward_hooks) == 1


def test_the_copy_shares_no_memory():
    model = load("residual")
    storages = {t.data_ptr() for t in model.state_dict().values()}
    assert not storages & {t.data_ptr() for t in fold_batch_norm(model).state_dict().values()}


def test_folding_twice_changes_nothing():
    once = fold_batch_norm(load("multibranch"))
    twice = fold_batch_norm(once)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values(), strict=True))


def test_the_copy_can_be_saved_and_read(tmp_path):
    model = load("residual")
    folded = fold_batch_norm(model)
    torch.save(folded.state_dict(), tmp_path / "weights.pt")
    again = fold_batch_norm(load("residual", seed=1))
    again.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    x = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    assert torch.equal(again(x), folded(x))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu():
    model = load("mobile").double()
    x = torch.rand(4, 1, 16, 16, dtype=torch.float64)
    folded = fold_batch_norm(model.cuda())
    assert all(t.is_cuda for t in folded.state_dict().values())
    assert furthest(folded(x.cuda()), model(x.cuda())) <= 1e-12


# ---- what is refused


class Branches(Net):
    def forward(self, x):
        y = self.conv(x)
        if y.mean() > 0:
            y = -y
        return self.bn(y)


class Around(Net):
    def __init__(self):
        super().__init__()
        self.inner = Branches()

    def forward(self, x):
        return self.inner(x)


def test_a_part_that_can_not_be_traced_stays():
    class Before(Around):
        def __init__(self):
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x):
            return self.inner(self.bn(self.conv(x)))

    same(Before(), left=["bn2", "inner.bn", "inner.bn2"])


class Unregistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = [nn.Conv2d(3, 3, 1)]

    def forward(self, x):
        return self.layers[0](x)


class Uncopied(Net):
    def __deepcopy__(self, memo):
        raise TypeError("holds an open file")


def infinite(tensor):
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))
    model.state_dict()[tensor][1] = float("nan")
    return model


def too_narrow():
    model = nn.Sequential(nn.Conv2d(3, 3, 1, bias=False), nn.BatchNorm2d(3)).half()
    model.state_dict()["0.weight"].fill_(1000.0)
    model.state_dict()["1.running_var"].fill_(0.0)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (3, "model: need a torch module, got a int"),
        (nn.Sequential(nn.LazyConv2d(3, 1)), r"model: 0 \(LazyConv2d\) has no weights yet; call the model once"),
        (nn.LazyLinear(3), r"model: it \(LazyLinear\) has no weights yet"),
        (Branches(), r"tracing Branches stops at `if y.mean\(\) > 0:` in forward: .*control flow.*Rewrite that line"),
        (Unregistered(), r"tracing Unregistered stops at `return self.layers\[0\]\(x\)` in forward: .*not installed"),
        (Net(), "tracing Net stops at its class: "),
        (Uncopied(), "model: can't copy this Uncopied: holds an open file"),
        (
            infinite("0.weight"),
            r"model: 0.weight with 1 folded in, as torch.float32: 3 of 9 values are NaN or infinite",
        ),
        (infinite("1.bias"), r"model: 0.bias with 1 folded in, as torch.float32: 1 of 3 values are NaN or infinite"),
        (too_narrow(), r"model: 0.weight with 1 folded in, as torch.float16: 9 of 9 values are NaN or infinite"),
        (nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).to("meta"), "with data, got one on the meta device"),
    ],
)
def test_refused(model, message):
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(model)


# ---- dead channels


def with_dead(*dead, eps=1e-5):
    """A convolution, its batch norm with these channels dead, and ReLU, in float64."""
    model = nn.Sequential(nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4, eps=eps), nn.ReLU())
    model = scatter(model.double().eval())
    for channel in dead:
        model[0].weight[channel] = 0
        model[1].running_var[channel] = 1e-9
        model[1].running_mean[channel] = model[0].bias[channel]
    return model


def test_dead_channels_are_found_by_their_variance():
    model = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3), nn.Linear(2, 2))
    model[1].running_var.copy_(torch.tensor([1e-6, 0.0, 9.9e-7]))
    found = dead_channels(model)
    assert list(found) == ["1"] and found["1"].tolist() == [1, 2]
    assert dead_channels(model, below=1e-7)["1"].tolist() == [1]
    assert {name: len(c) for name, c in dead_channels(model, below=2.0).items()} == {"1": 3, "2": 3}
    assert dead_channels(nn.Sequential(nn.BatchNorm2d(2, track_running_stats=False))) == {}


@pytest.mark.parametrize("seed", range(5))
def test_a_dead_channel_becomes_its_constant(seed):
    model = load("mobile_dead", seed)
    dead = dead_channels(model)
    assert sum(map(len, dead.values())) >= 5
    folded = fold_batch_norm(model, zero_dead=True)
    for name, channels in dead.items():
        layer, norm = folded[int(name) - 1], model[int(name)]
        assert torch.equal(layer.bias[channels], norm.bias[channels])
        others = torch.ones(len(layer.weight), dtype=torch.bool)
        others[channels] = False
        assert (layer.weight.flatten(1).abs().amax(1) > 0).equal(others)
        plain = fold_batch_norm(model)[int(name) - 1]
        assert torch.equal(layer.weight[others], plain.weight[others])
        assert torch.equal(layer.bias[others], plain.bias[others])
    images = digits("test")[0][:500]
    agree = (folded(images).argmax(1) == model(images).argmax(1)).float().mean()
    assert agree >= 0.998


def test_data_that_keep_a_channel_dead_see_the_same_function():
    model = with_dead(1, 3)
    x = values(2, 2, 3, 3)
    torch.testing.assert_close(fold_batch_norm(model, zero_dead=True)(x), model(x), rtol=1e-12, atol=1e-12)


def test_dead_outputs_of_transposed_groups():
    torch.manual_seed(0)
    model = scatter(nn.Sequential(nn.ConvTranspose2d(4, 6, 2, groups=2), nn.BatchNorm2d(6)).double().eval())
    model[1].running_var[4] = 0
    y = fold_batch_norm(model, zero_dead=True)(values(2, 4, 3, 3))
    assert torch.equal(y[:, 4], model[1].bias[4].expand_as(y[:, 4]))
    assert all(y[:, c].std() > 0 for c in (0, 1, 2, 3, 5))


# ---- what the batch norm knew


def test_statistics_are_those_of_the_outputs():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=None), nn.ReLU()).double()
    scatter(model)[1].reset_running_stats()
    x = values(50, 3, 12, 12)
    model.train()(x)
    folded = fold_batch_norm(model)
    mean, std = statistics(folded)["0"]
    y = folded[0](x).movedim(1, 0).flatten(1)
    torch.testing.assert_close(mean, y.mean(1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(std, y.std(1), rtol=1e-10, atol=1e-10)


def test_statistics_of_a_batch_norm_that_stays_and_of_a_dead_channel():
    model = with_dead(2)
    assert list(statistics(model)) == ["1"]
    mean, std = statistics(model)["1"]
    assert torch.equal(mean, model[1].bias) and std[2] < 0.02 * model[1].weight[2].abs()
    assert statistics(fold_batch_norm(model, zero_dead=True))["0"][1][2] == 0
    assert statistics(nn.Sequential(nn.Conv2d(1, 1, 1))) == {}


def test_statistics_follow_the_layer():
    folded = fold_batch_norm(load("residual"))
    known = statistics(folded)
    assert len(known) == 9

    def same_as_before(other):
        return all(torch.equal(a, b) for n in known for a, b in zip(other[n], known[n], strict=True))

    assert same_as_before(statistics(copy.deepcopy(folded)))
    assert same_as_before(statistics(trace(folded).module))
    assert same_as_before(statistics(fold_batch_norm(folded)))
    assert all(t.is_meta for pair in statistics(copy.deepcopy(folded).to("meta")).values() for t in pair)
    assert not any("output_" in key for key in folded.state_dict())


# ---- chains


def find(model):
    return [(p.first, p.second) for p in chains(model)]


def test_pairs_of_the_stored_networks():
    layers = [name for name, m in load("mobile").named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert find(load("mobile")) == list(itertools.pairwise(layers))
    assert find(load("mlp")) == [("1", "3"), ("3", "5")]
    assert find(load("residual")) == [(f"{i}.body.0", f"{i}.body.3") for i in (3, 4, 5)]
    assert find(load("multibranch")) == find(load("vit")) == []
    assert chains(load("plain"))[-1] == Pair("12", "17", "relu", 32)


@pytest.mark.parametrize(
    ("name", "count", "activations"),
    [("squeezenet1_1", 1, {"relu"}), ("resnet18", 8, {"relu"}), ("mobilenet_v2", 37, {"relu6", None})],
)
def test_pairs_of_backbones(name, count, activations):
    # Of MobileNetV2's 17 blocks all but the first have three layers, and 7 are followed without a sum.
    pairs = chains(backbone(name))
    assert len(pairs) == count and {p.activation for p in pairs} == activations


class Chain(nn.Module):
    """Two convolutions and a Linear; subclasses say what to do with them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 3, 3)
        self.last, self.relu = nn.Linear(3 * 9, 2), nn.ReLU()
        self.double().eval()

    def forward(self, x):
        return self.last(self.relu(self.b(self.relu(self.a(x)))).flatten(1))


def only(*pairs, forward=None, change=lambda model: None):
    """Which pairs a model has, and that equalization makes no other function of it."""

    class Model(Chain):
        pass

    if forward is not None:
        Model.forward = forward
    model = Model()
    change(model)
    x = values(2, 2, 7, 7)
    assert find(model) == list(pairs)
    torch.testing.assert_close(equalize(model)(x), model(x), rtol=1e-9, atol=1e-9)


AB, BL = ("a", "b"), ("b", "last")


def test_flattened_maps():
    only(AB, BL)
    only(AB, BL, forward=lambda m, x: m.last(torch.flatten(torch.relu(m.b(m.a(x).relu())), start_dim=1)))
    only(AB, BL, forward=lambda m, x: m.last((y := m.relu(m.b(m.relu(m.a(x))))).view(y.size(0), -1)))
    only(AB, BL, forward=lambda m, x: m.last((y := m.relu(m.b(m.relu(m.a(x))))).reshape((y.shape[0], -1))))
    # How many positions each channel has, a trace can't tell of these.
    only(AB, forward=lambda m, x: m.last(m.relu(m.b(m.relu(m.a(x)))).view(-1, 27)))
    only(AB, forward=lambda m, x: m.last(m.relu(m.b(m.relu(m.a(x)))).transpose(1, 3).flatten(1)))
    only(AB, forward=lambda m, x: m.last(m.relu(m.b(m.relu(m.a(x)))).flatten(1, 2).flatten(1)))


def test_a_linear_across_the_last_axis_of_maps_reads_no_channels():
    def change(model):
        model.last = nn.Linear(3, 2).double()

    only(AB, change=change, forward=lambda m, x: m.last(m.relu(m.b(m.relu(m.a(x))))))


def test_pooling_of_features_mixes_them():
    def change(model):
        model.a, model.b = nn.Linear(7, 8).double(), nn.Linear(4, 3).double()

    only(change=change, forward=lambda m, x: m.b(functional.max_pool2d(m.a(x), 2)))


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.b(y := m.relu(m.a(x))).mean() + y.mean(),  # read by somebody else too
        lambda m, x: (y := m.a(x), m.b(m.relu(y)))[1] + y.mean(),
        lambda m, x: m.b(torch.tanh(m.a(x))),  # lets no factor through
        lambda m, x: m.b(m.a(x) + 1),
        lambda m, x: m.b(functional.relu6(m.a(x)) + m.a(x)),  # called twice
        lambda m, x: m.b(m.relu(m.a(x))) + m.a.weight.sum(),  # read by forward itself
        lambda m, x: m.b(m.relu(m.a(x))) * m.b.bias.sum(),
        lambda m, x: functional.conv2d(m.relu(m.a(x)), m.b.weight),
        lambda m, x: m.b(m.relu(m.a(x)).transpose(2, 3)),  # this one could be
    ],
)
def test_what_is_no_pair(forward):
    only(forward=forward)


def test_outputs_are_read_by_the_caller():
    class Two(Chain):
        def forward(self, x):
            y = self.relu(self.a(x))
            return {"features": y, "scores": self.b(y)}

    assert find(Two()) == []


@pytest.mark.parametrize("place", ["a", "b", "relu"])
def test_a_hook_between_two_layers_still_sees_what_it_saw(place):
    def change(model):
        getattr(model, place).register_forward_hook(lambda *_: None)

    only(*{"a": [BL], "b": [], "relu": []}[place], change=change)


def test_a_hook_around_a_part_of_the_way():
    class Head(nn.Module):
        def __init__(self, conv):
            super().__init__()
            self.conv = conv

        def forward(self, x):
            return torch.relu(self.conv(x))

    inner = nn.Sequential(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.ReLU())
    model = nn.Sequential(inner, Head(nn.Conv2d(4, 3, 1)), nn.Conv2d(3, 1, 1))
    assert find(model) == [("0.0", "0.2"), ("0.2", "1.conv"), ("1.conv", "2")]
    model[1].register_forward_pre_hook(lambda *_: None)
    assert find(model) == [("0.0", "0.2")]


def test_shared_and_computed_weights_stay():
    def tie(model):
        model.other = nn.Conv2d(2, 4, 3)
        model.other.weight = model.a.weight

    only(BL, change=tie)
    only(BL, change=lambda model: parametrizations.weight_norm(model.a))
    only(BL, change=lambda model: prune.l1_unstructured(model.a, "weight", amount=0.5))


def test_a_batch_norm_that_could_not_be_folded_ends_the_chain():
    model = scatter(nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 1)).double().eval())
    assert find(model) == [("0", "3")]
    model[1].register_forward_hook(lambda *_: None)
    assert find(model) == []

    class Reads(Net):
        def forward(self, x):
            return self.other(torch.relu(self.bn(self.conv(x)))) + self.bn.bias.sum()

    assert norms(fold_batch_norm(Reads())) == ["bn", "bn2"] and find(Reads()) == []


# ---- equalization


@st.composite
def chain_networks(draw):
    """A chain of layers in float64 with an input: groups, transposed, poolings, batch norms, a head or not."""
    rank, seed = draw(st.sampled_from([0, 1, 2, 2, 2])), draw(st.integers(0, 2**16))
    torch.manual_seed(seed)
    c = first = draw(st.sampled_from([2, 4]))
    layers = []
    for _ in range(draw(st.integers(2, 5))):
        bias, width = draw(st.booleans()), draw(st.sampled_from([2, 4, 6]))
        if rank == 0:
            layers.append(nn.Linear(c, width, bias=bias))
        else:
            kind, groups = draw(st.sampled_from(["conv", "transposed", "depthwise"])), draw(st.sampled_from([1, 2]))
            if kind == "depthwise":
                groups, width = c, c
            layer = (TRANSPOSED if kind == "transposed" else CONVS)[rank]
            layers.append(layer(c, width, draw(st.sampled_from([1, 3])), padding=1, groups=groups, bias=bias))
        c = width
        if draw(st.booleans()):
            layers.append({0: nn.BatchNorm1d, **BATCH_NORMS}[rank](c))
        layers += draw(st.sampled_from([[], [nn.ReLU()], [nn.ReLU(), nn.Dropout()]]))
        if rank == 2:
            layers += draw(st.sampled_from([[], [nn.MaxPool2d(2, 1)], [nn.AvgPool2d(2, 1, padding=1)]]))
    if rank == 2:
        pool = draw(st.sampled_from([1, 2]))
        layers += [nn.AdaptiveAvgPool2d(pool), nn.Flatten(), nn.Linear(c * pool**2, 3)]
    model = scatter(nn.Sequential(*layers).double().eval(), seed)
    return model, values(3, first, *(8,) * rank, seed=seed)


def ranges(model, pair):
    """By loops over all groups: the largest weight that computes each channel, and the largest that reads it."""
    first, second = model.get_submodule(pair.first), model.get_submodule(pair.second)

    def entries(layer):
        """Outputs, inputs and the weights between them."""
        if isinstance(layer, nn.Linear):
            yield from ((o, i, w) for o, row in enumerate(layer.weight) for i, w in enumerate(row))
            return
        o_group, i_group = layer.out_channels // layer.groups, layer.in_channels // layer.groups
        for g in range(layer.groups):
            for o in range(o_group):
                for i in range(i_group):
                    out, into = g * o_group + o, g * i_group + i
                    yield out, into, layer.weight[into, o] if layer.transposed else layer.weight[out, i]

    inputs = second.in_features if isinstance(second, nn.Linear) else second.in_channels
    each = inputs // pair.channels
    r1, r2 = [0.0] * pair.channels, [0.0] * pair.channels
    for out, _, w in entries(first):
        r1[out] = max(r1[out], float(w.abs().max()))
    for _, into, w in entries(second):
        r2[into // each] = max(r2[into // each], float(w.abs().max()))
    return torch.tensor(r1), torch.tensor(r2)


@given(chain_networks())
@settings(max_examples=25)
def test_equalization_preserves_the_function_and_makes_ranges_equal(drawn):
    model, x = drawn
    equal = equalize(model, x)
    torch.testing.assert_close(equal(x), model(x), rtol=1e-9, atol=1e-9)
    weighted = [m for m in model if isinstance(m, nn.Linear | nn.modules.conv._ConvNd)]
    pairs = chains(model)
    assert len(pairs) == len(weighted) - 1
    for pair in pairs:
        torch.testing.assert_close(*ranges(equal, pair), rtol=1e-5, atol=0)


@given(chain_networks(), st.sampled_from([0.5, 2.0, 4.0]))
@settings(max_examples=25)
def test_equalization_undoes_any_rescaling(drawn, sigma):
    # The ranges have one solution: no network of the same function is further from it than another.
    model, x = drawn
    rng = torch.Generator().manual_seed(1)
    factors = {
        p.first: torch.exp(sigma * torch.randn(p.channels, generator=rng, dtype=torch.float64)) for p in chains(model)
    }
    other = rescale(model, factors)
    torch.testing.assert_close(other(x), model(x), rtol=1e-9, atol=1e-9)
    for a, b in zip(equalize(other).parameters(), equalize(model).parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-9)


@given(chain_networks())
@settings(max_examples=25)
def test_equalizing_twice_changes_nothing(drawn):
    once = equalize(drawn[0])
    for a, b in zip(equalize(once).parameters(), once.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=0)


@pytest.mark.parametrize("name", ["plain", "residual", "mobile", "mobile_dead", "mlp"])
def test_stored_networks_equalized(name):
    model, images = load(name), digits("test")[0][:200]
    equal = equalize(model, images)
    assert type(equal) is type(model) and norms(equal) == []
    assert furthest(equal(images), model(images)) <= 3e-5
    for pair in chains(model):
        r1, r2 = ranges(equal, pair)
        used = (r1 > 0) & (r2 > 0)
        torch.testing.assert_close(r1[used], r2[used], rtol=1e-5, atol=0)


def test_two_layers_have_a_closed_form():
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Conv2d(5, 2, 3)).double()
    r1, r2 = ranges(model, chains(model)[0])
    equal = equalize(model)
    s = (torch.sqrt(r1 * r2) / r2).double()
    torch.testing.assert_close(equal[0].weight, model[0].weight / s.view(-1, 1, 1, 1), rtol=1e-6, atol=0)
    torch.testing.assert_close(equal[0].bias, model[0].bias / s, rtol=1e-6, atol=0)
    torch.testing.assert_close(equal[2].weight, model[2].weight * s.view(1, -1, 1, 1), rtol=1e-6, atol=0)
    assert torch.equal(equal[2].bias, model[2].bias)


def test_a_channel_without_a_range_keeps_its_scale():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2)).double()
    model[0].weight[0], model[2].weight[:, 2] = 0, 0
    equal, x = equalize(model), values(4, 2)
    assert torch.equal(equal[0].bias[0], model[0].bias[0])
    assert torch.equal(equal[2].weight[:, 0], model[2].weight[:, 0])
    assert torch.equal(equal[0].weight[2], model[0].weight[2])
    assert not torch.equal(equal[0].weight[1], model[0].weight[1])
    torch.testing.assert_close(equal(x), model(x), rtol=1e-12, atol=1e-12)


def test_statistics_are_scaled_along():
    model = scatter(nn.Sequential(nn.Conv2d(3, 5, 1), nn.BatchNorm2d(5), nn.ReLU(), nn.Conv2d(5, 2, 1)).double())
    s = torch.tensor([0.1, 0.5, 1.0, 3.0, 100.0], dtype=torch.float64)
    (mean, std), (before, spread) = (statistics(m)["0"] for m in (rescale(model, {"0": s}), fold_batch_norm(model)))
    torch.testing.assert_close(mean * s, before, rtol=1e-14, atol=0)
    torch.testing.assert_close(std * s, spread, rtol=1e-14, atol=0)


def with_relu6(function=False):
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.c = (nn.Linear(4, 4) for _ in range(3))
            self.act = nn.ReLU6()
            self.double().eval()

        def forward(self, x):
            act = functional.relu6 if function else self.act
            return self.c(torch.relu(self.b(act(self.a(x)))))

    return Model()


def test_a_relu6_stays_unless_it_is_replaced():
    model, x = with_relu6(), 20 * values(50, 4)
    assert [p.activation for p in chains(model)] == ["relu6", "relu"]
    kept = equalize(model, x)
    torch.testing.assert_close(kept(x), model(x), rtol=1e-12, atol=1e-12)
    assert torch.equal(kept.a.weight, model.a.weight)
    assert type(kept.act) is nn.ReLU6 and not torch.equal(kept.c.weight, model.c.weight)

    replaced = equalize(model, x, replace_relu6=True)
    assert type(replaced.act) is nn.ReLU and type(model.act) is nn.ReLU6
    assert repr(replaced.act) == "ReLU()"
    below = x[(model.a(x) <= 6).all(1)]
    assert 0 < len(below) < len(x)
    torch.testing.assert_close(replaced(below), model(below), rtol=1e-12, atol=1e-12)
    expected = model.c(torch.relu(model.b(torch.relu(model.a(x)))))
    torch.testing.assert_close(replaced(x), expected, rtol=1e-12, atol=1e-12)
    for pair in chains(replaced):
        torch.testing.assert_close(*ranges(replaced, pair), rtol=1e-5, atol=0)


def test_a_relu6_that_is_a_function_stays():
    model, x = with_relu6(function=True), 20 * values(50, 4)
    equal = equalize(model, x, replace_relu6=True)
    assert torch.equal(equal.a.weight, model.a.weight)
    torch.testing.assert_close(equal(x), model(x), rtol=1e-12, atol=1e-12)


def test_any_relu6_in_between_counts():
    layers = [nn.Conv2d(1, 2, 1), nn.ReLU6(), nn.AvgPool2d(2), nn.ReLU(), nn.Conv2d(2, 1, 1)]
    assert [p.activation for p in chains(nn.Sequential(*layers))] == ["relu6"]


def test_the_example_is_what_the_result_is_tried_on():
    # A map without N is read as N C: its rows are taken for channels.
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2)).double()
    with torch.no_grad():
        model[0].weight.copy_(torch.tensor([1.0, 4.0, 9.0, 16.0]).view(4, 1, 1, 1))
    equalize(model, values(2, 1, 2, 2))
    with pytest.raises(ValueError, match=r"example: after equalization outputs differ by .* are its inputs N C"):
        equalize(model, values(1, 4, 4))
    with pytest.raises(ValueError, match="example: after equalization outputs differ by nan"):
        equalize(model, math.inf * values(2, 1, 2, 2))


def test_examples_of_several_inputs():
    class Siamese(Chain):
        def forward(self, x, y):
            return self.b(torch.relu(self.a(x - y))), [y]

    model, x = Siamese(), values(2, 2, 7, 7)
    assert find(model) == [AB]
    equal = equalize(model, (x, 2 * x))
    torch.testing.assert_close(equal(x, 2 * x)[0], model(x, 2 * x)[0], rtol=1e-12, atol=1e-12)


def test_the_original_of_an_equalization_is_untouched():
    model = load("mobile_dead")
    before = copy.deepcopy(model.state_dict())
    for result in (equalize(model), absorb_bias(model), correct_bias(model, lambda name, w: w.round())):
        assert not {t.data_ptr() for t in result.state_dict().values()} & {t.data_ptr() for t in before.values()}
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), before.values(), strict=True))


def test_parameters_train_if_they_did():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    model[2].requires_grad_(False)
    equal = equalize(model)
    assert [p.requires_grad for p in equal.parameters()] == [True, True, False, False]


# ---- bias absorption


def absorbable(**second):
    """Two convolutions with a batch norm whose mean is far from zero in two of three channels."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 2, 3, **second)).double()
    model[1].bias.copy_(torch.tensor([4.0, 1.0, 9.0]))
    model[1].weight.copy_(torch.tensor([1.0, 1.0, -2.0]))
    return model.eval()


def test_absorption_is_exact_where_values_stay_above_c():
    model = absorbable()
    folded, absorbed = fold_batch_norm(model), absorb_bias(model)
    c = torch.tensor([1.0, 0.0, 3.0], dtype=torch.float64)  # max(0, beta - 3 |gamma|)
    torch.testing.assert_close(folded[0].bias - absorbed[0].bias, c, rtol=0, atol=1e-4)
    torch.testing.assert_close(statistics(folded)["0"][0] - statistics(absorbed)["0"][0], c, rtol=0, atol=1e-4)
    assert torch.equal(folded[0].weight, absorbed[0].weight) and torch.equal(folded[3].weight, absorbed[3].weight)
    x = values(20, 2, 6, 6) / 10
    y = folded[0](x)
    assert (y > c.view(3, 1, 1)).all()
    torch.testing.assert_close(absorbed(x), model(x), rtol=1e-12, atol=1e-12)
    # Below c, relu(x - c) + c stays at c.
    assert furthest(absorbed(100 * x), model(100 * x)) > 1e-3


@pytest.mark.parametrize(
    ("second", "moves"),
    [
        ({"padding": 1}, False),
        ({"padding": "same"}, False),
        ({"padding": "valid"}, True),
        ({"padding": 1, "padding_mode": "reflect"}, True),
        ({"padding": 1, "padding_mode": "circular"}, True),
    ],
)
def test_a_border_of_zeros_can_not_read_c(second, moves):
    model, x = absorbable(**second), values(20, 2, 6, 6) / 10
    absorbed = absorb_bias(model)
    assert torch.equal(absorbed[0].bias, fold_batch_norm(model)[0].bias) != moves
    torch.testing.assert_close(absorbed(x), model(x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("between", "moves"),
    [
        ([nn.ReLU(), nn.MaxPool2d(2, 1)], True),
        ([nn.ReLU(), nn.AvgPool2d(2, 1)], True),
        ([nn.ReLU(), nn.AvgPool2d(2, 1, padding=1)], False),
        ([nn.ReLU(), nn.AvgPool2d(2, 1, padding=1, count_include_pad=False)], True),
        ([nn.ReLU(), nn.AvgPool2d(2, 1, divisor_override=3)], False),
        ([nn.ReLU6()], False),
        ([], False),
    ],
)
def test_what_c_can_pass(between, moves):
    model = absorbable()
    model = nn.Sequential(*model[:2], *between, model[3]).eval()
    x = values(20, 2, 6, 6) / 10
    absorbed = absorb_bias(model)
    assert torch.equal(absorbed[0].bias, fold_batch_norm(model)[0].bias) != moves
    torch.testing.assert_close(absorbed(x), model(x), rtol=1e-12, atol=1e-12)


def test_absorption_into_a_flattened_map_and_not_into_a_transposed_layer():
    first = absorbable()[:3]
    x = values(20, 2, 3, 3) / 10
    for last, moves in [((nn.Flatten(), nn.Linear(27, 2)), True), ((nn.ConvTranspose2d(3, 2, 2),), False)]:
        model = nn.Sequential(*first, *last).double().eval()
        absorbed = absorb_bias(model)
        assert torch.equal(absorbed[0].bias, fold_batch_norm(model)[0].bias) != moves
        torch.testing.assert_close(absorbed(x), model(x), rtol=1e-12, atol=1e-12)


# ---- expected inputs


@pytest.mark.parametrize("mean", [-7.5, -1.0, 0.0, 0.3, 5.9, 12.0])
@pytest.mark.parametrize("std", [1e-3, 0.5, 3.0])
@pytest.mark.parametrize("activation", [nn.ReLU(), nn.ReLU6()])
def test_the_mean_behind_an_activation_is_an_integral(mean, std, activation):
    model = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1, eps=0.0), activation, nn.Linear(1, 1)).double()
    model[1].bias.fill_(mean)
    model[1].weight.fill_(-std)
    density, top = scipy.stats.norm(mean, std), 6 if isinstance(activation, nn.ReLU6) else math.inf
    low, high = max(0, mean - 12 * std), min(top, mean + 12 * std)
    between = scipy.integrate.quad(lambda y: y * density.pdf(y), low, high, epsabs=1e-14)[0] if low < high else 0.0
    expected = between + (6 * density.sf(6) if top == 6 else 0)
    assert input_means(model)["3"].item() == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_the_mean_of_a_constant():
    model = nn.Sequential(*with_dead(0, 1, 2, 3, eps=1e-5), nn.Conv2d(4, 1, 1)).double()
    folded = fold_batch_norm(model, zero_dead=True)
    assert torch.equal(input_means(folded)["3"], torch.relu(model[1].bias))


def normal_grid(channels, n=101):
    """n**channels inputs that are normal in each channel and independent: quantiles at equal distances."""
    quantiles = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    grid = torch.cartesian_prod(*[quantiles / quantiles.std(unbiased=False)] * channels)
    return grid.reshape(-1, channels)


def fitted(model, x):
    """The model with its batch norms' statistics those of x."""
    for module in model.modules():
        if isinstance(module, NORMS):
            module.momentum = None
            module.reset_running_stats()
    with torch.no_grad():
        model.train()(x)
    return model.eval()


def test_without_data_as_with_data_of_the_assumed_distribution():
    # One input for each output: the values behind the batch norm are as normal as the inputs.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 3, 1, groups=3), nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 4, 1)).double()
    x = normal_grid(3).reshape(-1, 3, 1, 1)
    fitted(scatter(model), x)
    folded = fold_batch_norm(model)

    def only_the_last(name, w):
        return w.round() if name == "3" else w

    free, empirical = correct_bias(folded, only_the_last), correct_bias(folded, only_the_last, [x])
    shift = empirical[3].bias - folded[3].bias
    assert shift.abs().min() > 0.01
    torch.testing.assert_close(free[3].bias - folded[3].bias, shift, rtol=0, atol=2e-3)
    assert torch.equal(free[0].bias, folded[0].bias)


class Wide(nn.Module):
    """Sums, concatenations and poolings between layers whose inputs have known means, and others."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        conv, norm = nn.Conv2d, nn.BatchNorm2d
        self.a, self.na, self.b, self.nb = conv(1, 2, 1), norm(2), conv(1, 2, 1), norm(2)
        self.total, self.joined, self.pooled = conv(2, 3, 1), conv(4, 3, 1), nn.Linear(2 * 4, 3)
        self.behind = nn.Linear(3, 2)
        self.largest, self.rectified, self.scaled = conv(2, 3, 1), conv(2, 3, 1), conv(2, 3, 1)

    def forward(self, x):
        y, z = torch.relu(self.na(self.a(x))), self.nb(self.b(x))
        pooled = self.pooled(functional.adaptive_avg_pool2d(y, 2).flatten(1))
        return (
            self.total(y + z),
            self.joined(torch.cat((z, y), dim=1)),
            self.behind(pooled),
            self.largest(functional.max_pool2d(y, 2)),
            self.rectified(torch.relu(y + z)),
            self.scaled(y * z),
        )


def test_means_through_sums_concatenations_and_pooling():
    model = scatter(Wide().double())
    x = normal_grid(1, 4096)[torch.randperm(4096, generator=torch.Generator().manual_seed(0))].reshape(64, 1, 8, 8)
    model = fitted(model, x)
    means = input_means(model)
    assert list(means) == ["pooled", "total", "joined", "behind"]
    seen = {}
    for name in means:
        model.get_submodule(name).register_forward_pre_hook(
            lambda layer, args, name=name: seen.update({name: args[0].movedim(1, 0).flatten(1).mean(1)})
        )
    model(x)
    for name, mean in means.items():
        # One position of a pooled map has a sixteenth of the values.
        atol = 0.1 if name in ("pooled", "behind") else 5e-3
        torch.testing.assert_close(mean, seen[name], rtol=0, atol=atol)


def test_known_means_of_the_stored_networks():
    mobile = load("mobile")
    layers = [name for name, m in mobile.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert list(input_means(mobile)) == layers[1:]
    # Behind a sum and its ReLU the mean is unknown.
    assert list(input_means(load("residual"))) == ["3.body.0", "3.body.3", "4.body.3", "5.body.3"]
    assert input_means(load("mlp")) == {}
    # Batch norms in front of ReLU and convolution know as much.
    assert len(input_means(backbone("densenet121"))) == 120


# ---- bias correction


def max_int4(name, w):
    top = w.abs().max()
    return fake_quantize(w.float(), choose_qparams(-top, top, INT4, symmetric=True)).to(w.dtype)


def quantized(model, quantize_weight):
    """A copy with quantized weights in each layer."""
    model = copy.deepcopy(model)
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear | nn.modules.conv._ConvNd):
            layer.weight.copy_(quantize_weight(name, layer.weight))
    return model


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (nn.Linear(3, 4), (5, 3)),
        (nn.Linear(3, 4, bias=False), (5, 2, 3)),
        (nn.Conv1d(2, 4, 3, padding=1), (5, 2, 6)),
        (nn.Conv2d(4, 6, 3, stride=2, padding=1, groups=2), (5, 4, 7, 7)),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (5, 4, 4, 4)),
    ],
)
def test_one_layer_keeps_its_mean(layer, shape):
    model = nn.Sequential(layer).double().eval()
    batches = [values(*shape, seed=s) + 1 for s in range(3)] + [values(2, *shape[1:], seed=9)]
    corrected = quantized(correct_bias(model, max_int4, batches), max_int4)
    axis = -1 if isinstance(layer, nn.Linear) else 1

    def mean(network):
        return torch.cat([network(x).movedim(axis, 0).flatten(1) for x in batches], 1).mean(1)

    torch.testing.assert_close(mean(corrected), mean(model), rtol=1e-12, atol=1e-12)
    assert (mean(quantized(model, max_int4)) - mean(model)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["plain", "residual", "mobile_dead", "mlp", "vit"])
def test_every_layer_keeps_its_mean_behind_quantized_layers(name):
    model = fold_batch_norm(load(name)).double()
    batches = list(digits("train")[0][:96].double().split(40))
    corrected = quantized(correct_bias(model, max_int4, batches), max_int4)

    def means(network):
        seen = {}
        hooks = [
            layer.register_forward_hook(
                lambda m, x, y, name=name: seen.setdefault(name, []).append(
                    y.movedim(-1 if isinstance(m, nn.Linear) else 1, 0).flatten(1)
                )
            )
            for name, layer in network.named_modules()
            if isinstance(layer, nn.Linear | nn.Conv2d)
        ]
        for x in batches:
            network(x)
        for hook in hooks:
            hook.remove()
        return {name: torch.cat(y, 1).mean(1) for name, y in seen.items()}

    expected, got, before = means(model), means(corrected), means(quantized(model, max_int4))
    for layer, mean in expected.items():
        torch.testing.assert_close(got[layer], mean, rtol=1e-5, atol=1e-5 * float(mean.abs().max()))
    assert any((before[layer] - mean).abs().max() > 0.05 for layer, mean in expected.items())


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 6, 3, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, bias=False, padding_mode="replicate"),
        nn.ConvTranspose2d(4, 6, 2, stride=2, groups=2),
        nn.Sequential(nn.AvgPool2d(2), nn.Flatten(), nn.Linear(4 * 9, 2)),
    ],
)
def test_without_data_constants_are_corrected_exactly(layer):
    # All channels are dead: what reaches the layer is relu(beta), and E[x] all there is to know.
    model = nn.Sequential(*with_dead(0, 1, 2, 3), layer).double().eval()
    model[1].bias.copy_(torch.tensor([1.0, -1.0, 0.5, 2.0]))
    x = values(2, 2, 6, 6)

    def rounding(name, w):
        return (4 * w).round() / 4 if name != "0" else w

    model = fold_batch_norm(model, zero_dead=True)
    corrected = quantized(correct_bias(model, rounding), rounding)

    def outputs(network):  # a transposed layer has a mean over its positions
        y = network(x)
        return y.flatten(2).mean(2) if y.dim() > 2 else y

    torch.testing.assert_close(outputs(corrected), outputs(model), rtol=1e-12, atol=1e-12)
    assert (outputs(quantized(model, rounding)) - outputs(model)).abs().max() > 1e-3


def test_layers_with_unknown_inputs_keep_their_biases():
    model = fold_batch_norm(load("residual"))
    corrected = correct_bias(model, max_int4)
    changed = {
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear) and not torch.equal(corrected.get_submodule(name).bias, layer.bias)
    }
    assert changed == set(input_means(model))
    weights = [(name, p) for name, p in model.named_parameters() if name.endswith("weight")]
    assert all(torch.equal(corrected.get_parameter(name), p) for name, p in weights)


def test_a_layer_that_is_called_twice_is_quantized_and_keeps_its_bias():
    class Twice(Chain):
        def forward(self, x):
            return self.b(torch.relu(self.a(x))) - self.b(torch.relu(self.a(2 * x)))

    model, x, asked = Twice(), values(4, 2, 7, 7), []

    def rounding(name, w):
        asked.append(name)
        return (4 * w).round() / 4

    corrected = correct_bias(model, rounding, [x])
    assert asked == ["a", "b"]
    assert all(torch.equal(a, b) for a, b in zip(corrected.parameters(), model.parameters(), strict=True))


def test_weights_that_two_layers_share_are_quantized_once():
    class Tied(Chain):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Linear(3, 3).double(), nn.Linear(3, 3).double()
            self.two.weight = self.one.weight

        def forward(self, x):
            return self.last(self.b(self.a(x)).flatten(1)).sum() + self.two(self.one(x[:, 0, 0, :3]))

    asked = {}
    correct_bias(Tied(), lambda name, w: asked.setdefault(name, w.round()), [values(4, 2, 7, 7)])
    assert list(asked) == ["a", "b", "last", "one"]


def test_batches_of_several_inputs():
    class Siamese(Chain):
        def forward(self, x, y):
            return self.a(x - y)

    model, x = Siamese(), values(4, 2, 7, 7) + 1
    corrected = quantized(correct_bias(model, max_int4, iter([(x, x**2)])), max_int4)
    difference = corrected(x, x**2) - model(x, x**2)
    torch.testing.assert_close(difference.mean((0, 2, 3)), torch.zeros(4).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dead_channels(3), "model: need a torch module, got a int"),
        (lambda: dead_channels(nn.ReLU(), below=0), "below: need a positive number, got 0"),
        (lambda: dead_channels(nn.ReLU(), below=math.nan), "below: need a positive number, got nan"),
        (lambda: statistics(None), "model: need a torch module, got a NoneType"),
        (lambda: chains(3), "model: need a torch module, got a int"),
        (lambda: equalize(Branches()), r"tracing Branches stops at `if y.mean\(\) > 0:`"),
        (lambda: rescale(Chain(), {"last": torch.ones(2)}), r"factors: need names of .* \('a', 'b'\), got 'last'"),
        (lambda: rescale(nn.ReLU(), {"a": torch.ones(2)}), "none, as this model has no pair.*got 'a'"),
        (lambda: rescale(with_relu6(), {"a": torch.ones(4)}), r"factors: need names .*\('b'\), got 'a'"),
        (lambda: rescale(Chain(), {"a": torch.ones(3)}), r"factors\['a'\]: need 4 positive numbers, got shape \(3,\)"),
        (lambda: rescale(Chain(), {"a": -torch.ones(4)}), r"need 4 positive numbers, .* with the smallest -1"),
        (lambda: rescale(Chain(), {"a": torch.full((4,), math.inf)}), r"factors\['a'\]: 4 of 4 values are NaN or inf"),
        (lambda: rescale(Chain(), {"a": 2.0}), r"factors\['a'\]: need a torch tensor, got a float"),
        (
            lambda: rescale(Chain().half(), {"a": torch.full((4,), 1e-6)}),
            "model: the new a.bias, as torch.float16: 4 of 4",
        ),
        (lambda: correct_bias(Chain(), max_int4, []), "batches: need at least one batch, got none"),
        (lambda: correct_bias(Chain(), max_int4, [(1, 2)]), "batches: need 1 inputs, batch 0 has 2"),
        (
            lambda: correct_bias(Chain(), max_int4, [values(2, 2, 7, 7), math.nan * values(2, 2, 7, 7)]),
            "batches: an input of batch 1: 196 of 196 values are NaN or infinite",
        ),
        (
            lambda: correct_bias(Chain(), lambda name, w: w[0], [values(2, 2, 7, 7)]),
            r"quantize_weight\('a', weight\): need floats of shape \(4, 2, 3, 3\), got shape \(2, 3, 3\)",
        ),
        (
            lambda: correct_bias(Chain(), lambda name, w: w.int(), [values(2, 2, 7, 7)]),
            r"quantize_weight\('a', weight\): need floating-point values, got torch.int32",
        ),
        (
            lambda: correct_bias(Chain(), max_int4, values(2, 2, 7, 7)),
            "batches: need a list or a .*, got a Tensor; put a",
        ),
        (
            lambda: correct_bias(Chain(), max_int4, [values(2, 3, 7, 7)]),
            "batches: need what the network takes, but at a: ",
        ),
        (lambda: equalize(Chain(), values(2, 3, 7, 7)), "example: need what the network takes, .* channels"),
        (lambda: equalize(Chain(), "x"), "example: need what the network takes"),
        (lambda: equalize(nan_weight()), "model: 0.weight: 1 of 6 values are NaN or infinite"),
    ],
)
def test_what_equalization_and_correction_refuse(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def nan_weight():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 2))
    model[0].weight[1, 1] = math.nan
    return model


# ---- what it is for


@pytest.mark.parametrize("seed", range(5))
def test_four_bits_for_a_network_with_dead_channels(seed):
    model, (images, labels, _) = load("mobile_dead", seed), digits("test")

    def accuracy(network):
        return float((quantized(network, max_int4)(images[:1000]).argmax(1) == labels[:1000]).float().mean())

    equal = equalize(model, images[:8])
    assert accuracy(correct_bias(equal, max_int4)) >= 0.95
    assert accuracy(fold_batch_norm(model)) <= accuracy(fold_batch_norm(model, zero_dead=True)) + 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_equalization_and_correction_on_a_gpu():
    model, images = load("mobile_dead").cuda(), digits("test")[0][:64].cuda()
    equal = equalize(model, images)
    assert furthest(equal(images), model(images)) <= 1e-4
    for corrected in (correct_bias(equal, max_int4), correct_bias(absorb_bias(equal), max_int4, [images])):
        assert all(t.is_cuda for t in corrected.state_dict().values())


class Behind(nn.Module):
    """A convolution, what a function makes of it, and a layer."""

    def __init__(self, function, layer):
        super().__init__()
        self.conv, self.norm, self.function, self.layer = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), function, layer

    def forward(self, x):
        return self.layer(self.function(self.norm(self.conv(x))))


def test_only_the_whole_map_flattened_keeps_channels_apart():
    """N C H W as N (C H W): a Linear reads H W places of each channel in a row.  Not so of N (C H) W, nor if another
    axis than the batch comes first."""
    assert len(chains(Behind(nn.Flatten(), nn.Linear(32, 3)).eval())) == 1
    assert chains(Behind(nn.Flatten(1, 2), nn.Linear(4, 3)).eval()) == ()
    assert len(chains(Behind(lambda y: y.view(y.size(0), -1), nn.Linear(32, 3)).eval())) == 1
    assert chains(Behind(lambda y: y.view(y.size(1), -1), nn.Linear(32, 3)).eval()) == ()


def test_images_put_one_after_another_have_no_more_channels():
    """``cat`` joins along axis 0, the batch, unless told otherwise."""
    assert "layer" in input_means(Behind(lambda y: torch.cat((y, y + y), 1), nn.Conv2d(4, 3, 1)))
    assert "layer" not in input_means(Behind(lambda y: torch.cat((y, y + y)), nn.Conv2d(2, 3, 1)))


def test_the_spread_of_averages_is_not_that_of_values():
    """Averages of n values that are independent have ``sigma / sqrt(n)``; how dependent these are, nobody knows.  So
    the mean behind the ReLU of an average is unknown, that of the average itself is not."""
    pool = nn.AvgPool2d(2)
    assert "layer" in input_means(Behind(pool, nn.Conv2d(2, 3, 1)))
    assert "layer" not in input_means(Behind(nn.Sequential(pool, nn.ReLU()), nn.Conv2d(2, 3, 1)))
