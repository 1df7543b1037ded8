"""quantcourse.fold: the same function with a layer less, and every pair left alone that is none."""

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

from quantcourse.fold import fold_batch_norm
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
        (Around(), r"tracing Around stops at `if y.mean\(\) > 0:` in forward"),
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
