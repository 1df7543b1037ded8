"""What can be done to a network before quantization, without any data.

In evaluation mode a batch normalization multiplies each channel by a constant and adds
another.  A convolution in front of it can do both with its own weights and bias: one
layer is left to quantize instead of two (chapter *Integer layers*).  What is left can
be made easier to quantize: channels of two layers in a row get equal ranges, large
biases move on, and biases make up for the shift that rounded weights cause (chapter
*Without data*).
"""

import copy
import math
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from quantcourse._calls import NORMS, UntraceableError, calls_of, copied, listed
from quantcourse._forms import NORM_AFTER, norm_constants, norm_fits
from quantcourse._tensor_checks import finite_floats
from quantcourse.graph import WEIGHTED, Graph, Node, Values, taken, trace

__all__ = [
    "Pair",
    "absorb_bias",
    "chains",
    "correct_bias",
    "dead_channels",
    "equalize",
    "fold_batch_norm",
    "input_means",
    "rescale",
    "statistics",
]

_DEAD = 1e-6
"""A running variance below this means: the channel is constant."""

# --- Batch normalization ----------------------------------------------------------


def fold_batch_norm(model: nn.Module, zero_dead: bool = False) -> nn.Module:
    """A copy of a network whose batch norms are part of the layers before them.

    In evaluation mode, ``gamma (y - mean) / sqrt(var + eps) + beta`` of ``y = w x + b``
    is one layer:

        ``w' = w gamma / sqrt(var + eps)``
        ``b' = (b - mean) gamma / sqrt(var + eps) + beta``

    with one factor for each output channel, computed in float64 and stored in the type
    of ``w``.  With ``affine=False``, gamma is 1 and beta 0.

    A pair is folded if the batch normalization (1d, 2d, 3d) reads a Conv1d, Conv2d,
    Conv3d, their transposed forms or a Linear, and nobody else reads what that layer
    gives.  `torch.fx` finds the pairs in what ``forward`` does with its required
    arguments alone.  All others stay, and can be seen in the copy:

    - a layer or batch normalization that is called more than once, shares parameters
      with another module, or whose parameters ``forward`` reads itself;
    - one with a parametrization, of a class derived from those above, or with a
      ``forward`` of its own;
    - one with a hook that would see other numbers or gradients than before;
    - one with ``track_running_stats=False``: it normalizes by each batch and so has no
      constants.

    Shapes are not known to a trace.  Inputs are taken to be N C ..., and N C before a
    Linear: BatchNorm1d takes the second dimension for channels, a Linear the last.

    What the batch norm knew of its output is kept: see `statistics`.

    Args:
        model: a network that `torch.fx` can trace.  Nothing of it is changed, its mode
            included.
        zero_dead: give the channels of `dead_channels` the weight 0 and the bias beta.
            Such a channel was constant in training, ``y = mean``, of which the batch
            norm makes beta; but its variance is so small that folding would multiply
            its weights by up to ``1 / sqrt(eps)``, 316 with torch's default, and one
            range for all channels would be theirs alone.  Where the channel is not
            constant the function changes.

    Returns:
        A module of the same class in evaluation mode, with `torch.nn.Identity` in the
        place of each folded batch normalization: all other names stay, and
        ``state_dict`` has nothing left of it.  What it computes differs from
        ``model.eval()`` by rounding alone.

    Raises:
        ValueError: if ``model`` is no module, can't be copied, has layers without
            weights yet or can't be traced, with the line of its code that fx stops at;
            if a folded weight or bias is NaN or infinite, as a NaN in the network or
            the narrow type of ``w`` can make it.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14.

    Chapter: *Integer layers*.

    >>> model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    >>> fold_batch_norm(model)
    Sequential(
      (0): Conv2d(1, 4, kernel_size=(3, 3), stride=(1, 1))
      (1): Identity()
      (2): ReLU()
    )
    """
    folded = copied(model).eval()
    for layer_name, norm_name in _pairs(folded):
        layer: Any = folded.get_submodule(layer_name)
        norm = folded.get_submodule(norm_name)
        weight, bias = _folded(layer, norm)
        mean, std = _norm_statistics(norm)
        if zero_dead:
            dead = _dead(norm)
            weight = weight.masked_fill(_along_outputs(dead, layer), 0)
            bias = torch.where(dead, mean.to(bias.dtype), bias)
            std = std.masked_fill(dead, 0)
        with_norm = f"with {norm_name} folded in, as {weight.dtype}"
        finite_floats(weight, f"model: {layer_name}.weight {with_norm}")
        finite_floats(bias, f"model: {layer_name}.bias {with_norm}")
        trained = layer.weight.requires_grad
        layer.weight = nn.Parameter(weight, requires_grad=trained)
        layer.bias = nn.Parameter(bias, requires_grad=trained)
        _set_statistics(layer, mean, std)
        _become_identity(norm)
    return folded


@torch.no_grad()
def _folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """The weight and bias of the one layer that computes ``norm(layer(x))``."""
    mean, factor, beta = norm_constants(norm)
    b = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()
    weight = layer.weight.double() * _along_outputs(factor, layer)
    bias = (b - mean) * factor + beta
    return weight.to(layer.weight.dtype), bias.to(layer.weight.dtype)


def _become_identity(norm: nn.Module) -> None:
    """Turn the module itself into an Identity, under whatever names it is known."""
    norm.__class__ = nn.Identity
    vars(norm).update(vars(nn.Identity().train(norm.training)))


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """The names of each layer and of the batch norm that can become part of it."""
    if isinstance(model, NORMS) or "forward" in vars(model):
        return []  # fx would trace what the class does
    calls = _Calls.of(model)
    found = []
    for node in calls.graph.nodes:
        readers = list(node.users)
        if node.op != "call_module" or len(readers) != 1:
            continue
        (reader,) = readers
        names = str(node.target), str(reader.target)
        foldable = norm_fits(model, node, reader) and all(map(calls.own, names))
        if foldable and not calls.observed([node, reader]):
            found.append(names)
    return found


@dataclass(frozen=True)
class _Calls:
    """What forward calls, and who else has a hand in its modules.

    Args:
        model: a copy.
        graph: its calls.
        count: by id of a module, how often it is called.
        holders: by id of a parameter, how many modules have it.
        read: ids of what forward reads itself.
    """

    model: nn.Module
    graph: fx.Graph
    count: Mapping[int, int]
    holders: Mapping[int, int]
    read: set[int]

    @classmethod
    def of(cls, model: nn.Module) -> "_Calls":
        leaves: set[str] = set()
        while True:
            # On a copy of its own, where forward may store what it computed.
            traced = copy.deepcopy(model)
            try:
                graph, read = calls_of(traced, leaves)
            except UntraceableError as stop:
                if stop.place in {"", *leaves}:
                    raise
                leaves.add(stop.place)
            else:
                break
        # One call of torch's own containers, or of what can't be traced, may call all
        # that is inside.
        count = Counter(
            id(m)
            for node in graph.nodes
            if node.op == "call_module"
            for m in traced.get_submodule(str(node.target)).modules()
        )
        parameters = [p for m in traced.modules() for p in m._parameters.values()]
        holders = Counter(id(p) for p in parameters if p is not None)
        return cls(traced, graph, count, holders, read)

    def own(self, name: str) -> bool:
        """Whether one call is all that happens to this module and its parameters."""
        module = self.model.get_submodule(name)
        shared = any(self.holders[id(p)] > 1 for p in module.parameters())
        tensors = [*module.parameters(), *module.buffers()]
        used = any(id(t) in self.read for t in tensors)
        return self.count[id(module)] == 1 and not shared and not used

    def own_layers(self) -> set[str]:
        """The names of the layers with parameters that no other call reads."""
        named = {
            str(call.target): self.model.get_submodule(str(call.target))
            for call in self.graph.nodes
            if call.op == "call_module"
        }
        return {
            name
            for name, layer in named.items()
            if type(layer) in NORM_AFTER
            # Pruning takes them out, and computes them anew before each call.
            and {"weight", "bias"} <= layer._parameters.keys()
            and self.own(name)
        }

    def observed(self, path: Sequence[fx.Node]) -> bool:
        """Whether a hook sees what one of these calls in a row gives the next."""
        around = [
            {name for name, _ in call.meta.get("nn_module_stack", {}).values()}
            for call in path
        ]
        # A module with all of them inside sees only what goes in and what comes out.
        some = set.union(*around) - set.intersection(*around)
        return any(_hooked(self.model.get_submodule(name)) for name in some)


def _hooked(m: nn.Module) -> bool:
    forward = m._forward_hooks or m._forward_pre_hooks
    return bool(forward or m._backward_hooks or m._backward_pre_hooks)


def _along_outputs(v: Tensor, layer: Any) -> Tensor:
    """One number for each output, in a shape that multiplies the layer's weight."""
    # A transposed weight is C_in, C_out / groups, ...: a group's inputs, its outputs.
    return _along(v, layer, rows=not getattr(layer, "transposed", False))


def _along_inputs(v: Tensor, layer: Any) -> Tensor:
    """One number for each input, in a shape that multiplies the layer's weight."""
    return _along(v, layer, rows=getattr(layer, "transposed", False))


def _along(v: Tensor, layer: Any, rows: bool) -> Tensor:
    """Numbers for the rows of a weight, or for the columns of each group of rows."""
    rest = (1,) * (layer.weight.dim() - 2)
    if rows:
        return v.reshape(-1, 1, *rest)
    groups = getattr(layer, "groups", 1)
    columns = v.reshape(groups, -1)
    blocks = columns.repeat_interleave(len(layer.weight) // groups, dim=0)
    return blocks.reshape(*blocks.shape, *rest)


# --- What a batch norm knows ------------------------------------------------------


def dead_channels(model: nn.Module, below: float = _DEAD) -> dict[str, Tensor]:
    """The channels whose batch norm has hardly seen them vary.

    Args:
        model: a network whose batch norms are not folded yet.
        below: the running variance under which a channel counts as dead.

    Returns:
        Their indices, int64, for each batch norm that has any, by its dotted name.

    Raises:
        ValueError: if ``model`` is no module or ``below`` is no positive number.

    Source: for the factor, Jacob et al. 2018, arXiv 1712.05877, equation 14.

    Chapter: *Without data*.

    >>> net = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3))
    >>> _ = net[1].running_var.copy_(torch.tensor([1.0, 0.0, 2.0]))
    >>> dead_channels(net)
    {'1': tensor([1])}
    """
    if not isinstance(below, int | float) or not 0 < below < math.inf:
        raise ValueError(f"below: need a positive number, got {below!r}")
    dead = {
        name: _dead(norm, below).nonzero().flatten()
        for name, norm in _modules(model)
        if isinstance(norm, NORMS) and norm.running_var is not None
    }
    return {name: channels for name, channels in dead.items() if len(channels)}


def _modules(model: object) -> list[tuple[str, nn.Module]]:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: need a torch module, got a {type(model).__name__}")
    return list(model.named_modules())


def _dead(norm: Any, below: float = _DEAD) -> Tensor:
    return norm.running_var < below  # type: ignore[no-any-return]


def statistics(model: nn.Module) -> dict[str, tuple[Tensor, Tensor]]:
    """Mean and standard deviation of what layers compute, as batch norms knew them.

    Behind a batch norm each channel has the mean beta, whatever the data of training
    were, and the standard deviation ``|gamma| sqrt(var / (var + eps))``: nearly
    ``|gamma|``, but 0 for a dead channel.

    Args:
        model: a network; its folded layers and the batch norms it still has are read.

    Returns:
        Two tensors with one number a channel, by the dotted name of the layer or norm.
        A folded copy has them beside its weights: they follow it to another device and
        into copies, not into ``state_dict``.  They do not follow further training.

    Raises:
        ValueError: if ``model`` is no module.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2, which leaves eps out.

    Chapter: *Without data*.

    >>> net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU())
    >>> mean, std = statistics(fold_batch_norm(net))["0"]
    >>> mean, std
    (tensor([0., 0.]), tensor([1.0000, 1.0000]))
    """
    known = {}
    for name, module in _modules(model):
        if isinstance(module, NORMS) and module.running_var is not None:
            known[name] = _norm_statistics(module)
        elif isinstance(getattr(module, "output_std", None), Tensor):
            layer: Any = module
            known[name] = layer.output_mean, layer.output_std
    return known


@torch.no_grad()
def _norm_statistics(norm: Any) -> tuple[Tensor, Tensor]:
    _, factor, beta = norm_constants(norm)
    std = factor.abs() * torch.sqrt(norm.running_var.double())
    return beta.to(norm.running_var.dtype), std.to(norm.running_var.dtype)


def _set_statistics(layer: nn.Module, mean: Tensor, std: Tensor) -> None:
    """Buffers move and are copied with a layer; these are not saved with it."""
    layer.register_buffer("output_mean", mean, persistent=False)
    layer.register_buffer("output_std", std, persistent=False)


# --- Chains of layers -------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two layers in a row, between which each channel can be scaled.

    Args:
        first: dotted name of the layer that computes the channels.
        second: of the only one that reads them.
        activation: ``"relu"``, ``"relu6"`` or None: what lies in between.
        channels: how many.

    Chapter: *Without data*.

    >>> chains(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4)))
    (Pair(first='0', second='2', activation='relu', channels=3),)
    """

    first: str
    second: str
    activation: str | None
    channels: int


def chains(model: nn.Module) -> tuple[Pair, ...]:
    """The pairs of layers in a row that `equalize` can use, found in the graph.

    The second layer alone reads what the first computes, through nothing but ReLU or
    ReLU6, max and average pooling, flattening, dropout and identity.  A layer can be the
    second of one pair and the first of the next: a depthwise layer links three.

    Layers are Linear and one- or two-dimensional convolutions, transposed or not, in
    groups or not.  No pair has a layer that is called twice, shares its parameters or
    computes them, or a batch norm that could not be folded; none goes through what the
    graph keeps in float, a module with a forward hook for example.  Inputs are taken to
    be N C ....

    Args:
        model: a network that `torch.fx` can trace.  Nothing of it is changed.

    Returns:
        The pairs, in the order of computation.

    Raises:
        ValueError: as `fold_batch_norm`.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1.

    Chapter: *Without data*.

    >>> from quantcourse.models import load
    >>> [(pair.first, pair.second) for pair in chains(load("residual"))]
    [('3.body.0', '3.body.3'), ('4.body.0', '4.body.3'), ('5.body.0', '5.body.3')]
    """
    return tuple(pair for pair, _ in _links(fold_batch_norm(model)))


def _links(folded: nn.Module) -> list[tuple[Pair, list[nn.Module]]]:
    """Each pair of layers in a row, and the modules between them."""
    graph, own = trace(folded), _Calls.of(folded).own_layers()
    found = []
    for first in graph.layers():
        between, second = _next_layer(graph, first)
        if second is not None and {first.layer, second.layer} <= own:
            activation = _strictest([first, *between])
            channels = _outputs(graph.layer(first))
            pair = Pair(str(first.layer), str(second.layer), activation, channels)
            found.append((pair, [graph.layer(n) for n in between if n.layer]))
    return found


def _strictest(nodes: Sequence[Node]) -> str | None:
    """ReLU6 if there is one, else ReLU if there is one."""
    found = {_activation(node) for node in nodes}
    return next((kind for kind in ("relu6", "relu") if kind in found), None)


def _next_layer(graph: Graph, first: Node) -> tuple[list[Node], Node | None]:
    """What lies between a layer and the only one that reads it; None if not so."""
    between: list[Node] = []
    layout = None if _has_norm(graph, first) else _layout(graph, first)
    node = first
    while layout is not None:
        readers = [r for r in graph.readers(node) if r.op != "shape"]
        if len(readers) != 1:
            break
        (node,) = readers
        if node.op in WEIGHTED:
            channels = _outputs(graph.layer(first))
            return between, node if _reads(graph, node, layout, channels) else None
        between.append(node)
        layout = _layout_behind(graph, node, layout)
    return between, None


def _activation(node: Node) -> str | None:
    return node.op if node.op in ("relu", "relu6") else node.activation


def _has_norm(graph: Graph, node: Node) -> bool:
    """Whether a batch norm that could not be folded stands behind the layer."""
    calls = [c for c in graph.module.graph.nodes if c.name in node.parts[1:]]
    modules = [graph.module.get_submodule(str(call.target)) for call in calls]
    return any(isinstance(module, NORMS) for module in modules)


# Where the channels of a value are: "1d" or "2d", the second axis of maps; "features",
# the last axis; "flat", the last axis, all positions of one map after another.


def _layout(graph: Graph, node: Node) -> str:
    """Where the channels are that a layer computes."""
    layer: Any = graph.layer(node)
    return "features" if node.op == "linear" else f"{layer.weight.dim() - 2}d"


def _layout_behind(graph: Graph, node: Node, layout: str) -> str | None:
    """Where the channels are behind a step; None if it mixes them, or may do so."""
    if node.op in ("relu", "relu6"):
        return layout
    if node.op in ("max_pool", "avg_pool"):
        return layout if layout == "2d" else None
    if node.op == "view" and layout in ("1d", "2d"):
        channels = -2 if layout == "1d" else -3
        return "flat" if _flattens(graph, node, channels) else None
    return None


def _flattens(graph: Graph, node: Node, first: int) -> bool:
    """Whether a change of shape makes one axis of the last ones, from ``first`` on."""
    if node.layer:
        layer: Any = graph.layer(node)
        flatten = type(layer) is nn.Flatten
        return flatten and layer.start_dim in (1, first) and layer.end_dim == -1
    call = _call(graph, node)
    rest = call.args[1:]
    if call.target in (torch.flatten, "flatten"):
        names = ("start_dim", "end_dim")
        axes: Any = dict(zip(names, rest, strict=False)) | call.kwargs
        start, end = axes.get("start_dim"), axes.get("end_dim", -1)
        return start in (1, first) and bool(end == -1)
    if call.target in ("view", "reshape", torch.reshape):
        sizes: Any = rest[0] if len(rest) == 1 else rest
        pair = isinstance(sizes, list | tuple) and len(sizes) == 2
        return pair and sizes[1] == -1 and _is_batch_size(sizes[0])
    return False


def _is_batch_size(size: object) -> bool:
    """Whether it is what ``x.size(0)`` or ``x.shape[0]`` gives."""
    return isinstance(size, fx.Node) and size.args[1:] == (0,)


def _call(graph: Graph, node: Node) -> fx.Node:
    """The first of a node's calls."""
    calls = (c for c in graph.module.graph.nodes if c.name == node.parts[0])
    return next(calls)  # type: ignore[no-any-return]


def _reads(graph: Graph, node: Node, layout: str, channels: int) -> bool:
    """Whether a layer reads channels that lie so as its own inputs."""
    if layout == "flat":
        return node.op == "linear" and _inputs(graph.layer(node)) % channels == 0
    return layout == _layout(graph, node)


def _outputs(layer: Any) -> int:
    """How many channels a layer computes."""
    return layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels


def _inputs(layer: Any) -> int:
    """How many channels a layer reads; all positions of a map that was flattened."""
    return layer.in_features if isinstance(layer, nn.Linear) else layer.in_channels


def _each_input(v: Tensor, layer: Any) -> Tensor:
    """Numbers for channels as numbers for a layer's inputs, flattened or not."""
    return v.repeat_interleave(_inputs(layer) // len(v))


# --- Cross-layer equalization -----------------------------------------------------


def equalize(
    model: nn.Module, example: Any = None, replace_relu6: bool = False
) -> nn.Module:
    """A folded copy in which the channels between two layers have equal ranges.

    ReLU lets a positive factor through, ``relu(s x) = s relu(x)``.  So a channel can be
    divided by s in the first layer of a pair and multiplied by s in the second, and the
    network computes the same.  With the ranges ``r1_i = max |w1|`` over all that
    computes channel i and ``r2_i = max |w2|`` over all that reads it,

        ``s_i = sqrt(r1_i r2_i) / r2_i``

    makes both ``sqrt(r1_i r2_i)``.  The pairs are those of `chains`; a layer in two of
    them makes it necessary to go through all pairs again, until no factor changes.
    There is one solution, whatever factors were in the channels before.

    A channel with ``r1_i = 0`` or ``r2_i = 0`` keeps its scale, ``s_i = 1``: nothing
    would make its ranges equal.

    ReLU6 lets no factor through: ``relu6(s x)`` stops at 6, not at ``6 s``.  Pairs with
    a ReLU6 between them are left as they are, unless it is replaced.

    Args:
        model: a network that `torch.fx` can trace.  Nothing of it is changed.
        example: an input, or a tuple of them; the result is tried on it.
        replace_relu6: turn every ``nn.ReLU6`` of the copy into ``nn.ReLU`` first, as the
            paper does.  That is another function wherever a value exceeds 6: compare
            the accuracies before and after.  A ReLU6 that is a function stays.

    Returns:
        A module of the same class in evaluation mode, with batch norms folded.  Its
        `statistics` are those of the new scales.

    Raises:
        ValueError: as `fold_batch_norm`; if the copy, with its ReLU6 replaced or not,
            computes anything on ``example`` that differs from the network before
            equalization by more than rounding: more than ``sqrt(eps)`` of the
            largest magnitude, eps that of the type; if it does not take ``example``.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1 and appendix A.

    Chapter: *Without data*.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    >>> for layer, weight in (net[0], 8.0), (net[2], 2.0):
    ...     _ = nn.init.constant_(layer.weight, weight)
    >>> equal = equalize(net, torch.rand(3, 1))
    >>> equal[0].weight.item(), equal[2].weight.item()
    (4.0, 4.0)
    """
    folded = fold_batch_norm(model)
    if replace_relu6:
        _replace_relu6(folded)
    pairs = [pair for pair, _ in _links(folded) if pair.activation != "relu6"]
    equal = _rescaled(folded, pairs, _equalizing(folded, pairs))
    if example is not None:
        _same_outputs(folded, equal, example)
    return equal


def rescale(model: nn.Module, factors: Mapping[str, Tensor]) -> nn.Module:
    """A folded copy in which channels have other scales, and which computes the same.

    Args:
        model: a network that `torch.fx` can trace.  Nothing of it is changed.
        factors: by name of the first layer of a pair of `chains`: one positive number
            for each of its channels, by which they are divided; the second layer
            makes up for it.

    Returns:
        A module of the same class in evaluation mode, with batch norms folded.

    Raises:
        ValueError: as `fold_batch_norm`; if ``factors`` names no first layer of a pair,
            or one with a ReLU6 behind it; if its numbers are not positive and finite,
            one for each channel.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1.

    Chapter: *Without data*.

    >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    >>> other = rescale(net, {"0": torch.tensor([0.5, 1.0, 2.0])})
    >>> torch.equal(other[0].bias[2], net[0].bias[2] / 2)
    True
    >>> torch.equal(other[2].weight[:, 2], net[2].weight[:, 2] * 2)
    True
    """
    folded = fold_batch_norm(model)
    pairs = {p.first: p for p, _ in _links(folded) if p.activation != "relu6"}
    for name, s in factors.items():
        if name not in pairs:
            need = ", ".join(map(repr, pairs)) or "none, as this model has no pair"
            raise ValueError(
                f"factors: need names of first layers of pairs ({need}), got {name!r}"
            )
        finite_floats(s, f"factors[{name!r}]")
        if s.shape != (pairs[name].channels,) or not bool((s > 0).all()):
            raise ValueError(
                f"factors[{name!r}]: need {pairs[name].channels} positive numbers, "
                f"got shape {tuple(s.shape)} with the smallest {s.min():g}"
            )
    chosen = [pairs[name] for name in factors]
    return _rescaled(folded, chosen, [s.double() for s in factors.values()])


@torch.no_grad()
def _equalizing(model: nn.Module, pairs: Sequence[Pair]) -> list[Tensor]:
    """For each pair the factors s that make all ranges equal."""
    largest = {
        name: _largest(model.get_submodule(name), name)
        for pair in pairs
        for name in (pair.first, pair.second)
    }
    factors = {p: largest[p.first].new_ones(p.channels) for p in pairs}
    waiting = list(pairs)
    while waiting:
        pair = waiting.pop(0)
        w1, w2 = largest[pair.first], largest[pair.second]
        r1 = w1.amax(2).flatten()
        r2 = w2.amax(1).reshape(pair.channels, -1).amax(1)
        s = torch.where((r1 > 0) & (r2 > 0), torch.sqrt(r1 / r2), 1)
        w1 /= s.reshape(len(w1), -1, 1)
        second = model.get_submodule(pair.second)
        w2 *= _each_input(s, second).reshape(len(w2), 1, -1)
        factors[pair] *= s
        if (s - 1).abs().max() > 1e-7:
            # The pairs before and behind it now see other weights.
            ends = {pair.first, pair.second}
            again = [p for p in pairs if p is not pair and ends & {p.first, p.second}]
            waiting += [p for p in again if p not in waiting]
    return list(factors.values())


def _largest(layer: Any, name: str) -> Tensor:
    """Of a weight: groups, outputs and inputs of each, the largest in each kernel."""
    weight = finite_floats(layer.weight, f"model: {name}.weight").double()
    return _in_groups(weight, layer).abs().amax(3)


def _in_groups(weight: Tensor, layer: Any) -> Tensor:
    """A weight as groups, outputs of each, inputs of each, positions in the kernel."""
    groups = getattr(layer, "groups", 1)
    blocks = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return blocks.transpose(1, 2) if getattr(layer, "transposed", False) else blocks


@torch.no_grad()
def _rescaled(
    folded: nn.Module, pairs: Sequence[Pair], factors: Sequence[Tensor]
) -> nn.Module:
    """A copy with the channels of each pair divided by s and multiplied by s."""
    model = copy.deepcopy(folded)
    divisor = {p.first: s for p, s in zip(pairs, factors, strict=True)}
    factor = {p.second: s for p, s in zip(pairs, factors, strict=True)}
    for name in divisor | factor:
        layer: Any = model.get_submodule(name)
        # In float64, so that a layer of two pairs is rounded once.
        weight = layer.weight.double()
        if name in factor:
            weight = weight * _along_inputs(_each_input(factor[name], layer), layer)
        if name in divisor:
            s = divisor[name]
            weight = weight / _along_outputs(s, layer)
            if layer.bias is not None:
                _set(layer, "bias", layer.bias.double() / s, name)
            if hasattr(layer, "output_std"):
                _set_statistics(
                    layer,
                    (layer.output_mean / s).to(layer.output_mean.dtype),
                    (layer.output_std / s).to(layer.output_std.dtype),
                )
        _set(layer, "weight", weight, name)
    return model


def _set(layer: Any, which: str, value: Tensor, name: str) -> None:
    """Give a layer another weight or bias, in the type of its weight."""
    value = value.to(layer.weight.dtype)
    finite_floats(value, f"model: the new {name}.{which}, as {value.dtype}")
    trained = layer.weight.requires_grad
    setattr(layer, which, nn.Parameter(value, requires_grad=trained))


def _replace_relu6(model: nn.Module) -> None:
    """Turn each ReLU6 into a ReLU, under whatever names it is known."""
    for module in model.modules():
        if type(module) is nn.ReLU6 and "forward" not in vars(module):
            module.__class__ = nn.ReLU  # type: ignore[assignment]


@torch.no_grad()
def _same_outputs(before: nn.Module, after: nn.Module, example: Any) -> None:
    """Raise unless two networks compute the same of an example, up to rounding."""
    inputs = example if isinstance(example, tuple) else (example,)
    try:
        results = [tree_leaves(network(*inputs)) for network in (before, after)]
    except Exception as error:  # the model's own code may raise anything
        raise ValueError(
            f"example: need what the network takes, a tuple where it takes several: "
            f"{error}"
        ) from error
    for y, z in zip(*results, strict=True):
        if isinstance(y, Tensor) and y.is_floating_point() and y.numel():
            most = float((z - y).abs().max())
            allowed = math.sqrt(torch.finfo(y.dtype).eps) * float(y.abs().max())
            if not most <= allowed:
                raise ValueError(
                    f"example: after equalization outputs differ by {most:.3g}, more "
                    f"than rounding explains ({allowed:.3g}); are its inputs N C ..., "
                    "and finite?"
                )


# --- Bias absorption --------------------------------------------------------------


@torch.no_grad()
def absorb_bias(model: nn.Module) -> nn.Module:
    """A folded copy in which large biases have moved into the next layer.

    Equalization can make biases, and with them the range of activations, large.  A
    value x that is normal with mean beta and standard deviation sigma is above ``c =
    max(0, beta - 3 sigma)`` in 99.87 % of all cases, and there ``relu(x) = relu(x - c)
    + c``.  The first layer of a pair can so give c to the second:

        ``b1' = b1 - c,  b2' = b2 + w2 c``

    That is exact where ``x > c`` alone; below, c is added where nothing was.  It needs
    the `statistics` of the first layer, a ReLU between the two, and a second layer that
    reads c everywhere: pairs are left alone whose second layer or pooling pads with
    zeros, and those with a transposed convolution second.

    Args:
        model: a network that `torch.fx` can trace.  Nothing of it is changed.

    Returns:
        A module of the same class in evaluation mode, with batch norms folded; c is
        taken off the means of `statistics`.

    Raises:
        ValueError: as `fold_batch_norm`.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.1.

    Chapter: *Without data*.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.ReLU(), nn.Linear(1, 1))
    >>> _ = nn.init.constant_(net[1].bias, 5.0)
    >>> before, after = fold_batch_norm(net), absorb_bias(net)
    >>> f"{(before[0].bias - after[0].bias).item():.3f}"
    '2.000'
    """
    folded = fold_batch_norm(model)
    known = statistics(folded)
    for pair, between in _links(folded):
        first: Any = folded.get_submodule(pair.first)
        second: Any = folded.get_submodule(pair.second)
        constant = all(map(_keeps_constants, [*between, second]))
        if pair.activation != "relu" or pair.first not in known or not constant:
            continue
        mean, std = known[pair.first]
        c = (mean.double() - 3 * std.double()).clamp(min=0)
        _add_to_bias(first, -c, pair.first)
        _add_to_bias(
            second,
            _response(second, second.weight, _each_input(c, second)),
            pair.second,
        )
        _set_statistics(first, (mean - c).to(mean.dtype), std)
    return folded


def _keeps_constants(layer: Any) -> bool:
    """Whether of a map of one value the layer reads, or pooling gives, that value."""
    if isinstance(layer, nn.AvgPool2d):
        padded = layer.padding not in (0, (0, 0)) and layer.count_include_pad
        return not padded and layer.divisor_override is None
    if isinstance(layer, nn.Conv1d | nn.Conv2d):
        unpadded = layer.padding == "valid" or not any(map(bool, layer.padding))
        return unpadded or layer.padding_mode != "zeros"
    return not getattr(layer, "transposed", False)


def _response(layer: Any, weight: Tensor, x: Tensor) -> Tensor:
    """What a layer with this weight and no bias makes of inputs that are constant.

    Of x, one number for each input, one for each output, in float64: away from borders
    with padding, and on average over positions where a transposed layer spreads its
    kernel over several.
    """
    kernels = _in_groups(weight.double(), layer).sum(3)
    y = (kernels * x.double().reshape(len(kernels), 1, -1)).sum(2).flatten()
    return y / math.prod(layer.stride) if getattr(layer, "transposed", False) else y


def _add_to_bias(layer: Any, shift: Tensor, name: str) -> None:
    bias = 0 if layer.bias is None else layer.bias.double()
    _set(layer, "bias", bias + shift, name)


# --- Bias correction --------------------------------------------------------------


def correct_bias(
    model: nn.Module,
    quantize_weight: Callable[[str, Tensor], Tensor],
    batches: Iterable[Any] | None = None,
) -> nn.Module:
    """A folded copy whose biases make up for what quantized weights will shift.

    Rounding moves a weight w to w~, and with it the mean of the outputs, by ``(w~ - w)
    E[x]``.  The bias takes that off:

        ``b' = b - (w~ - w) E[x]``,  the mean of ``b - (y~ - y)`` over images and positions

    Without data, ``E[x]`` is computed from the `statistics` of the layers before: see
    `input_means`, which also says for which layers it is known.  The others keep their
    biases.  Where a convolution pads with zeros, ``E[x]`` is that of the interior.

    With batches, the layers are corrected one after another: the network in floats and
    the one with quantized weights compute side by side, ``y~`` being what a layer gives
    with its quantized weight behind layers that are corrected already.  Its mean then
    is that of y, whatever came before.

    A layer that is called twice, or shares its parameters, keeps its bias: its calls
    would need different ones.

    Args:
        model: a network that `torch.fx` can trace.  Nothing of it is changed.
        quantize_weight: gives w~ in floats of a layer's dotted name and its weight w.
        batches: inputs, or tuples of inputs, for the empirical correction; all are held
            in memory, with what the next steps read of their values.

    Returns:
        A module of the same class in evaluation mode, with batch norms folded, the same
        weights as before and new biases.  It is more exact once its weights are
        quantized, and less until then.

    Raises:
        ValueError: as `fold_batch_norm`; if ``quantize_weight`` gives anything but
            finite floats in the shape of the weight; if ``batches`` has no batch, or
            one that the network does not take.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2; appendix B for
    convolutions, D for the empirical form.

    Chapter: *Without data*.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.ReLU())
    >>> for parameter in net.parameters():
    ...     _ = nn.init.constant_(parameter, 0.7)
    >>> corrected = correct_bias(net, lambda name, w: w.round(), [torch.tensor([[2.0]])])
    >>> f"{corrected[0].bias.item():.3f}"  # 0.7 - (1 - 0.7) 2
    '0.100'
    """
    folded = fold_batch_norm(model)
    if batches is None:
        _correct_from_statistics(folded, quantize_weight)
    else:
        _correct_from_batches(folded, quantize_weight, listed(batches, "batches"))
    return folded


@torch.no_grad()
def _correct_from_statistics(
    folded: nn.Module, quantize_weight: Callable[[str, Tensor], Tensor]
) -> None:
    """``b' = b - (w~ - w) E[x]``."""
    for name, mean in input_means(folded).items():
        layer: Any = folded.get_submodule(name)
        error = _quantized(quantize_weight, name, layer.weight) - layer.weight.double()
        _add_to_bias(layer, -_response(layer, error, mean), name)


@torch.no_grad()
def _correct_from_batches(
    folded: nn.Module,
    quantize_weight: Callable[[str, Tensor], Tensor],
    batches: list[Any],
) -> None:
    """``b' = b - mean(y~ - y)``, one layer after another."""
    exact, rounded = trace(folded), trace(folded)
    _quantize_weights(rounded, quantize_weight)
    own = _Calls.of(folded).own_layers()
    names = [node.name for node in exact.layers() if node.layer in own]
    inputs = _inputs_of(batches, len(exact.inputs))
    for name, error in correct_along(exact, rounded, names, inputs).items():
        layer = str(exact[name].layer)
        _add_to_bias(folded.get_submodule(layer), -error, layer)


@torch.no_grad()
def correct_along(
    exact: Graph,
    rounded: Graph,
    names: Collection[str],
    inputs: Sequence[Sequence[Any]],
) -> dict[str, Tensor]:
    """Take from biases what quantized weights add to the mean, layer by layer.

    Both networks compute side by side, so that a layer meets the values that corrected
    layers before it give.

    Args:
        exact: the network in floats.
        rounded: the same nodes with quantized weights; its biases are changed.
        names: of the nodes to correct.
        inputs: for each input of the network its value in each batch.

    Returns:
        For each node that was corrected its mean error ``E[y~ - y]``.
    """
    networks = exact, rounded
    means: dict[str, Tensor] = {}

    def compute(node: Node, values: Values) -> list[list[Any]]:
        """For each batch the value of a node in both networks."""
        with taken("batches", node):
            return [
                [
                    graph.compute(node, {n: values[n][b][k] for n in node.inputs})
                    for k, graph in enumerate(networks)
                ]
                for b in range(len(inputs[0]))
            ]

    def step(node: Node, values: Values) -> list[list[Any]]:
        if node.name in names:
            # The layer alone, without what is fused behind it.
            alone = replace(node, name=node.parts[0], parts=node.parts[:1])
            error = _mean_error(exact.layer(node), compute(alone, values))
            _add_to_bias(rounded.layer(node), -error, node.label)
            means[node.name] = error
        return compute(node, values)

    exact.run([[[x, x] for x in column] for column in inputs], step)
    return means


def _inputs_of(batches: list[Any], count: int) -> list[tuple[Any, ...]]:
    """For each input of a network what the batches have for it."""
    if not batches:
        raise ValueError("batches: need at least one batch, got none")
    rows = [b if isinstance(b, tuple) else (b,) for b in batches]
    for i, row in enumerate(rows):
        if len(row) != count:
            raise ValueError(f"batches: need {count} inputs, batch {i} has {len(row)}")
        for x in row:
            if isinstance(x, Tensor) and x.is_floating_point():
                finite_floats(x, f"batches: an input of batch {i}")
    return list(zip(*rows, strict=True))


def _quantize_weights(
    graph: Graph, quantize_weight: Callable[[str, Tensor], Tensor]
) -> None:
    """Give all layers of a graph their quantized weights."""
    done: list[tuple[Tensor, Tensor]] = []
    for node in graph.layers():
        layer: Any = graph.layer(node)
        if "weight" not in layer._parameters:
            continue  # computed anew before each call
        # A layer that is called twice has two nodes.
        before, name = layer.weight, str(node.layer)
        again = [after for weight, after in done if weight is before]
        after = again[0] if again else _quantized(quantize_weight, name, before)
        _set(layer, "weight", after, name)
        done.append((before, after))


def _quantized(
    quantize_weight: Callable[[str, Tensor], Tensor], name: str, weight: Tensor
) -> Tensor:
    """What quantization makes of a weight, in float64."""
    given = quantize_weight(name, weight.detach().clone())
    what = f"quantize_weight({name!r}, weight)"
    finite_floats(given, what)
    if given.shape != weight.shape:
        raise ValueError(
            f"{what}: need floats of shape {tuple(weight.shape)}, "
            f"got shape {tuple(given.shape)}"
        )
    return given.double()


def _mean_error(layer: Any, outputs: list[list[Tensor]]) -> Tensor:
    """The mean of ``y~ - y`` over images and positions, for each output of a layer."""
    axis = 1 - layer.weight.dim()
    errors = [(rounded.double() - y.double()) for y, rounded in outputs]
    each = [error.movedim(axis, 0).flatten(1) for error in errors]
    return torch.cat(each, dim=1).mean(dim=1)


# --- Expected inputs --------------------------------------------------------------


@dataclass(frozen=True)
class _Moments:
    """Of each channel of a value the mean and, if known, the standard deviation."""

    mean: Tensor
    std: Tensor | None
    layout: str


def input_means(model: nn.Module) -> dict[str, Tensor]:
    """The mean input ``E[x]`` of each layer for which the statistics tell it.

    A value y behind a batch norm has a known mean mu and standard deviation sigma.  If
    it is normal, ReLU makes of them, with the density phi and the distribution function
    Phi of the standard normal distribution,

        ``E[relu(y)] = sigma phi(mu / sigma) + mu Phi(mu / sigma)``

    and ``relu6(y) = relu(y) - relu(y - 6)``.  Means go through average pooling and
    flattening, add up in additions, and go through layers without a batch norm as
    their input would.  They are not known of the network's inputs, behind maxima, behind
    an activation that follows a sum, and behind what stays float in the graph.

    Args:
        model: a network that `torch.fx` can trace.  Nothing of it is changed.

    Returns:
        By dotted name of each layer that `correct_bias` can correct without data: one
        mean for each input, float64; where a convolution pads with zeros, that of the
        interior.

    Raises:
        ValueError: as `fold_batch_norm`.

    Source: Nagel et al. 2019, arXiv 1906.04721, section 4.2 and appendix C.

    Chapter: *Without data*.

    >>> net = nn.Sequential(nn.Linear(1, 1), nn.BatchNorm1d(1), nn.ReLU(), nn.Linear(1, 1))
    >>> means = input_means(net)
    >>> list(means), f"{means['3'].item():.3f}"  # 1 / sqrt(2 pi)
    (['3'], '0.399')
    """
    folded = fold_batch_norm(model)
    own = _Calls.of(folded).own_layers()
    graph, known = trace(folded), statistics(folded)
    means: dict[str, Tensor] = {}

    def step(node: Node, values: Values) -> _Moments | None:
        sources = [values[name] for name in node.inputs]
        if node.op in WEIGHTED:
            x = _input_of(graph, node, sources[0])
            if x is not None and node.layer in own:
                means[node.layer] = x
            y = _of_layer(graph, node, x, known.get(str(node.layer)))
        elif node.op in ("add", "concat"):
            y = _of_several(graph, node, sources)
        else:
            y = _of_one(graph, node, sources)
        return y and _activated(y, _activation(node))

    graph.run([None] * len(graph.inputs), step)
    return means


def _input_of(graph: Graph, node: Node, x: _Moments | None) -> Tensor | None:
    """``E[x]`` for each input of a layer, if it reads these channels as its inputs."""
    if x is None or not _reads(graph, node, x.layout, len(x.mean)):
        return None
    return _each_input(x.mean, graph.layer(node))


@torch.no_grad()
def _of_layer(
    graph: Graph, node: Node, x: Tensor | None, known: tuple[Tensor, Tensor] | None
) -> _Moments | None:
    """What a layer computes: as a batch norm knew it, or of the mean of its input."""
    layout = _layout(graph, node)
    if known is not None:
        mean, std = known
        return _Moments(mean.double(), std.double(), layout)
    if x is None or _has_norm(graph, node):
        return None
    layer: Any = graph.layer(node)
    bias = 0 if layer.bias is None else layer.bias.double()
    return _Moments(_response(layer, layer.weight, x) + bias, None, layout)


def _of_several(
    graph: Graph, node: Node, sources: Sequence[_Moments | None]
) -> _Moments | None:
    """A sum or a concatenation of values whose channels lie alike."""
    values = [x for x in sources if x is not None]
    if len(values) < len(sources) or len({x.layout for x in values}) != 1:
        return None
    layout = values[0].layout
    means = [x.mean for x in values]
    if node.op == "add":
        return _Moments(means[0] + means[1], None, layout)
    if layout not in ("1d", "2d") or not _joins_channels(graph, node):
        return None
    stds = [x.std for x in values if x.std is not None]
    std = torch.cat(stds) if len(stds) == len(values) else None
    return _Moments(torch.cat(means), std, layout)


def _of_one(
    graph: Graph, node: Node, sources: Sequence[_Moments | None]
) -> _Moments | None:
    """What pooling, an activation or a flattening makes of one value."""
    x = sources[0] if sources else None
    layout = _layout_behind(graph, node, x.layout) if x else None
    if x is None or layout is None or node.op == "max_pool":
        return None
    if node.op == "avg_pool":
        keeps = _keeps_constants(graph.layer(node))
        return _Moments(x.mean, None, layout) if keeps else None
    return _Moments(x.mean, x.std, layout)


def _joins_channels(graph: Graph, node: Node) -> bool:
    """Whether a concatenation puts the channels of different maps one after another."""
    call = _call(graph, node)
    names = ("tensors", "dim")
    given: Any = dict(zip(names, call.args, strict=False)) | call.kwargs
    # A node has each of its inputs once.
    return given.get("dim") == 1 and len(given["tensors"]) == len(node.inputs)


def _activated(y: _Moments, activation: str | None) -> _Moments | None:
    """Of the value behind an activation; None if the standard deviation is missing."""
    if activation is None:
        return y
    if y.std is None:
        return None
    mean = _relu_mean(y.mean, y.std)
    if activation == "relu6":
        mean = mean - _relu_mean(y.mean - 6, y.std)
    return _Moments(mean, None, y.layout)


def _relu_mean(mean: Tensor, std: Tensor) -> Tensor:
    """``E[max(y, 0)]`` of a normal y: ``sigma phi(mu / sigma) + mu Phi(mu / sigma)``."""
    z = mean / std.clamp(min=torch.finfo(std.dtype).tiny)
    phi = torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)
    below: Tensor = torch.special.ndtr(z)
    return std * phi + mean * below
