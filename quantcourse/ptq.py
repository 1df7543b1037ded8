"""Post-training quantization: from a network in floats to one in integers, in one call.

A recipe says how weights and activations are quantized, layer by layer where it
matters.  ``quantize`` watches the network on a few batches, chooses scales, and gives a
model that computes what integers would.  Explained in the chapter *Post-training
quantization*.
"""

import copy
import json
from collections.abc import (
    Callable,
    ItemsView,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
    ValuesView,
)
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only
from tqdm import tqdm

from quantcourse._calls import NORMS, copied, listed
from quantcourse._forms import norm_constants
from quantcourse._graph_json import as_json, from_json
from quantcourse._recipe import (
    SIGNS,
    Override,
    Plan,
    Recipe,
    Scheme,
    plan,
    recipes_of,
)
from quantcourse._tensor_checks import finite_floats
from quantcourse.affine import (
    SMALLEST_NORMAL,
    IntType,
    QParams,
    dequantize,
    fake_quantize,
)
from quantcourse.affine import quantize as to_codes
from quantcourse.calibrate import MinMax, Observer
from quantcourse.fold import correct_along
from quantcourse.graph import Graph, Node, Values, taken, text_table, trace
from quantcourse.integer import quantize_bias
from quantcourse.metrics import sqnr

__all__ = [
    "Codes",
    "Override",
    "QuantizedModel",
    "Quantizer",
    "Recipe",
    "Report",
    "Row",
    "Scheme",
    "float_network",
    "quantize",
    "quantize_each",
]

Batch = Tensor | Sequence[Any]
M = TypeVar("M", bound=nn.Module)
FORMAT = "quantcourse.ptq 1"
ROWS_AT_ONCE = 4096
_EXACT = ("input", "constant")
"""Operations whose values have no noise."""
MOST_BIAS = 2**30  # half of INT32: the other half is for the sum of products


# --- The one call -----------------------------------------------------------------


def quantize(
    model: nn.Module,
    batches: Iterable[Batch],
    recipe: "Recipe | str" = "int8",
    progress: bool = True,
    observers: Mapping[str, Observer] | None = None,
) -> "QuantizedModel":
    """Quantize a network after its training.

    The network is traced, batch norms are folded, and quantizers go where integers are
    read (`quantcourse.graph`).  Observers watch the float network on the batches; weights
    and biases become codes.  What has no integer form stays float, and ``report()``
    says so.  All is computed in float32, whatever the type of the network.

    Args:
        model: any network that `torch.fx` can trace.  Nothing of it is changed.
        batches: what the network takes, some times over: tensors, or tuples where it
            takes several.  32 to 512 inputs like those to come are usual.  All are held
            in memory.  May be empty if nothing is measured on them (dynamic ranges, or
            weights alone, without bias correction).
        recipe: or the name of a preset.
        progress: show a bar on stderr.
        observers: by label, what was seen already of values with a quantizer, for example
            merged from several machines that each watched ``float_network(model)``.
            These values are not watched again, and their observers, of any kind, take
            the place of the recipe's.

    Returns:
        The quantized model, on the device of ``model``.  A layer that the network calls
        twice is two in it, each with codes of its own.

    Raises:
        ValueError: for what can't be traced, or has no values (the meta device); for a
            batch that does not fit the network, or in which a value is NaN or infinite;
            for no batch at all; for a recipe that names no layer of this network; for
            observers of other values, of another granularity, or that saw nothing.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3; Krishnamoorthi 2018,
    arXiv 1806.08342, section 3.  Chapter: *Post-training quantization*.

    >>> from quantcourse import data, models
    >>> images, labels, _ = data.digits("train")
    >>> quantized = quantize(models.load("mlp"), [images[:256]], progress=False)
    >>> tuple(quantized(images[:5]).shape), quantized.size()
    ((5, 10), 52846)
    """
    (quantized,) = quantize_each(model, batches, [recipe], progress, observers)
    return quantized


def quantize_each(
    model: nn.Module,
    batches: Iterable[Batch],
    recipes: Sequence[Recipe | str],
    progress: bool = True,
    observers: Mapping[str, Observer] | None = None,
) -> Iterator["QuantizedModel"]:
    """One quantized model for each recipe, from one pass over the batches.

    Args:
        model, batches, progress, observers: as for ``quantize``.
        recipes: at least one.

    Returns:
        An iterator; each model is made when it is asked for.

    Raises:
        ValueError: as for ``quantize``.

    Chapter: *Selective quantization*.

    >>> from quantcourse import data, models
    >>> images, _, _ = data.digits("train")
    >>> mlp = models.load("mlp")
    >>> recipes = [Recipe(weights=Scheme(bits=b)) for b in (2, 8)]
    >>> [q.size() for q in quantize_each(mlp, [images[:64]], recipes, progress=False)]
    [13707, 51531]
    """
    if not (chosen := recipes_of(recipes, "recipes")):
        raise ValueError("recipes: need at least one, got none")
    graph = float_network(model)
    plans = [plan(r, graph) for r in chosen]
    given = _checked(batches, graph)
    wanted = {
        (name, s.observer, s.granularity): s
        for worked_out in plans
        for name, s in worked_out.activations.items()
        if not s.dynamic
    }
    seen = _seen_before({} if observers is None else observers, graph, wanted)
    unseen = {key: scheme for key, scheme in wanted.items() if key not in seen}
    if not given and (unseen or any(r.bias_correction for r in chosen)):
        raise ValueError("batches: need at least one to measure on, got none")
    seen |= _observe(graph, given, unseen, progress)
    codes = _WeightCodes(graph)
    return (
        _assemble(worked_out, r, given, seen, codes)
        for worked_out, r in zip(plans, chosen, strict=True)
    )


@torch.no_grad()
def float_network(model: nn.Module) -> Graph:
    """The graph of a network in float32, each layer with weights that are its own.

    Batch norms are folded into the layers before them, also behind a layer that is
    called twice.

    Raises:
        ValueError: for what can't be traced, or has no values.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14.
    Chapter: *Post-training quantization*.

    >>> layers = nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()
    >>> float_network(nn.Sequential(*layers)).module.get_submodule("1")
    Identity()
    """
    if isinstance(model, QuantizedModel):
        raise ValueError("model: need a network in floats, got a quantized one")
    network = copied(model)
    for name, t in [*network.named_parameters(), *network.named_buffers()]:
        if t.is_meta:
            raise ValueError(
                f"model: need weights with values, {name} is on the meta device"
            )
    graph = trace(network.float().requires_grad_(False))
    fold_into_layers(graph)
    return graph


@torch.no_grad()
def fold_into_layers(graph: Graph) -> None:
    """Fold batch norms into the layers before them, which get weights of their own.

    Args:
        graph: changed in place.

    Raises:
        ValueError: for weights that float32 can't hold.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14.
    Chapter: *Post-training quantization*: `float_network` has an example.
    """
    for node in graph.layers():
        layer: Any = graph.layer(node)
        weight, bias = outputs_first(layer).double(), layer.bias
        for name in norms_of(node, graph):
            weight, bias = folded(weight, bias, graph.module.get_submodule(name))
            graph.module.set_submodule(name, nn.Identity())
        _set_parameter(layer, "weight", as_layer_has_it(weight, layer), node)
        if bias is not None:
            _set_parameter(layer, "bias", bias, node)


def folded(
    weight: Tensor, bias: Tensor | None, norm: nn.Module
) -> tuple[Tensor, Tensor]:
    """Weight and bias that do what a layer and the batch norm behind it do.

    ``w gamma / sigma`` and ``beta + (b - mu) gamma / sigma``, with the running mean mu and
    ``sigma = sqrt(var + eps)``.

    Args:
        weight, bias: of the layer, outputs first.
        norm: the batch norm.

    Returns:
        Both in the type of ``weight``; gradients go through.

    Source: Jacob et al. 2018, arXiv 1712.05877, section 3.2, equation 14.
    Chapter: *Post-training quantization*.

    >>> norm = nn.BatchNorm1d(1, eps=0.0)
    >>> norm.running_var.fill_(4.0), norm.running_mean.fill_(1.0)
    (tensor([4.]), tensor([1.]))
    >>> weight, bias = folded(torch.tensor([[6.0]]), None, norm)
    >>> weight.item(), bias.item()
    (3.0, -0.5)
    """
    mean, factor, beta = norm_constants(norm, weight.dtype)
    centre = -mean if bias is None else bias.to(weight.dtype) - mean
    wide = weight * factor.view(-1, *[1] * (weight.dim() - 1))
    return wide, torch.addcmul(beta, centre, factor)


def norms_of(node: Node, graph: Graph) -> list[str]:
    """The dotted names of the batch norms in a node."""
    calls = {call.name: call for call in graph.module.graph.nodes}
    names = [
        str(calls[part].target)
        for part in node.parts
        if calls[part].op == "call_module"
    ]
    return [
        name for name in names if isinstance(graph.module.get_submodule(name), NORMS)
    ]


def _set_parameter(layer: nn.Module, name: str, value: Tensor, node: Node) -> None:
    value = value.to(torch.float32, copy=True)
    finite_floats(value, f"model: {name} of {node.label}, with batch norm, as float32")
    setattr(layer, name, nn.Parameter(value, requires_grad=False))


def inputs_of(batch: Batch) -> tuple[Any, ...]:
    """The arguments of one call, floats as float32."""
    arguments = (batch,) if isinstance(batch, Tensor) else tuple(batch)
    return tuple(
        x.to(torch.float32) if isinstance(x, Tensor) and x.is_floating_point() else x
        for x in arguments
    )


def _checked(batches: Iterable[Batch], graph: Graph) -> list[tuple[Any, ...]]:
    """The arguments of each call; refuses what the network does not take."""
    given = []
    for batch in listed(batches, "batches"):
        if not isinstance(batch, Tensor | tuple | list):
            raise ValueError(
                "batches: need tensors, or tuples of them, got a "
                f"{type(batch).__name__}"
            )
        inputs = inputs_of(batch)
        if len(inputs) != len(graph.inputs):
            names = ", ".join(node.label for node in graph.inputs)
            raise ValueError(
                f"batches: need {len(graph.inputs)} for each call ({names}), got "
                f"{len(inputs)} (labels are not needed here)"
            )
        given.append(inputs)
    return given


Key = tuple[str, str, str | int]  # node, observer, granularity


def _seen_before(
    observers: Mapping[str, Observer], graph: Graph, wanted: Mapping[Key, Scheme]
) -> dict[Key, Observer]:
    """The observers that were given, for the values that want one."""
    if not isinstance(observers, Mapping):
        got = type(observers).__name__
        raise ValueError(f"observers: need a dict of labels and observers, got a {got}")
    labels = {key: graph[key[0]].label for key in wanted}
    for label, observer in observers.items():
        what = f"observers[{label!r}]"
        if label not in labels.values():
            names = ", ".join(dict.fromkeys(labels.values()))
            raise ValueError(f"{what}: need labels of values to observe: {names}")
        if not isinstance(observer, Observer):
            raise ValueError(f"{what}: need an observer, got {observer!r}")
        try:
            observer.range()
        except ValueError as error:
            raise ValueError(f"{what}: {error}") from error
    found = {key: observers[name] for key, name in labels.items() if name in observers}
    for key, observer in found.items():
        if (observer.axis is None) != (wanted[key].granularity == "tensor"):
            raise ValueError(
                f"observers[{labels[key]!r}]: need granularity "
                f"{wanted[key].granularity!r} as in the recipe, got axis={observer.axis}"
            )
    return found


@torch.no_grad()
def _observe(
    graph: Graph,
    batches: Sequence[tuple[Any, ...]],
    wanted: Mapping[Key, Scheme],
    progress: bool,
) -> dict[Key, Observer]:
    """What observers saw of each value while the float network ran."""
    observers: dict[Key, Observer] = {}
    by_node: dict[str, list[Key]] = {}
    for key in wanted:
        by_node.setdefault(key[0], []).append(key)

    def watch(node: Node, value: Any) -> None:
        for key in by_node.get(node.name, ()):
            if key not in observers:
                scheme = wanted[key]
                axis = channel_axis(value, _axis(scheme, node, graph), scheme)
                observers[key] = scheme.watcher(axis)
            try:
                observers[key].observe(value)
            except ValueError as error:
                raise ValueError(f"batches: at {node.label}, {error}") from error

    def step(node: Node, values: Values) -> Any:
        with taken("batches", node):
            value = graph.compute(node, values)
        watch(node, value)
        return value

    if not wanted:
        return observers
    for inputs in tqdm(batches, desc="calibrating", disable=not progress):
        for node, value in zip(graph.inputs, inputs, strict=True):
            watch(node, value)
        graph.run(inputs, step)
    return observers


def _axis(scheme: Scheme, node: Node, graph: Graph) -> int | None:
    """The axis of channels as far as layers tell: a convolution's is the second."""
    near = (node, *graph.readers(node))
    by_convolution = any(n.op in ("conv", "conv_transpose") for n in near)
    return 1 if scheme.granularity == "channel" and by_convolution else None


def channel_axis(x: Tensor, known: int | None, scheme: Scheme) -> int | None:
    """The axis with a scale for each index: else the second of images, or the last."""
    if scheme.granularity != "channel" or known is not None:
        return known
    return 1 if x.dim() >= 4 else -1


class _WeightCodes:
    """Codes of weights, made once for each layer and scheme."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[str, Scheme], tuple[Tensor, QParams]] = {}

    def __call__(self, node: Node, scheme: Scheme) -> tuple[Tensor, QParams]:
        key = node.name, scheme
        if key not in self.made:
            weight = outputs_first(self.graph.layer(node))
            try:
                self.made[key] = weight_codes(weight, scheme)
            except ValueError as error:
                raise ValueError(f"weights of {node.label}: {error}") from error
        return self.made[key]


def weight_codes(weight: Tensor, scheme: Scheme) -> tuple[Tensor, QParams]:
    """Codes of a weight and what they stand for.

    Args:
        weight: floats, outputs first.
        scheme: how.

    Returns:
        Codes of the shape of ``weight``, but (outputs, inputs) flattened if groups
        share a scale; QParams along axis 0, or none.

    Raises:
        ValueError: for weights that are not finite; for groups that do not divide the
            inputs of an output.

    Chapter: *Post-training quantization*.

    >>> codes, qp = weight_codes(torch.tensor([[1.0, -7.0], [0.5, 3.5]]), Scheme(4))
    >>> codes.tolist(), float(qp.scale)
    ([[1, -7], [0, 4]], 1.0)
    """
    weight = finite_floats(weight, "weight").detach().to(torch.float32)
    if scheme.granularity == "tensor":
        qp = _of_rows(weight.reshape(1, -1), scheme)
        qp = QParams(qp.scale[0], qp.zero_point[0], scheme.dtype)
        return codes_on(weight, qp, scheme), qp
    flat = weight.flatten(1)
    if scheme.granularity == "channel":
        qp = _of_rows(flat, scheme)
        return codes_on(weight, qp, scheme), qp
    size = int(scheme.granularity)
    if flat.shape[1] % size:
        raise ValueError(
            f"granularity: need a divisor of the {flat.shape[1]} inputs, got {size}; "
            'an Override with weights={"granularity": "channel"} gives a layer another'
        )
    rows = _of_rows(flat.reshape(-1, size), scheme)
    shape = (len(flat), flat.shape[1] // size)
    scale, zero_point = rows.scale.view(shape), rows.zero_point.view(shape)
    qp = QParams(scale, zero_point, scheme.dtype, axis=1, group_size=size)
    return codes_on(flat, qp, scheme), qp


def codes_on(weight: Tensor, qp: QParams, scheme: Scheme) -> Tensor:
    """Codes of a weight on a grid that is known; of one bit, its signs.

    Source of the signs: Rastegari et al. 2016, arXiv 1603.05279, section 3.1.

    Chapter: *Post-training quantization*: `weight_codes` has an example.
    """
    if scheme.binary:
        return torch.where(weight < 0, -1, 1).to(scheme.dtype.storage)
    return to_codes(weight, qp, scheme.rounding)


def _of_rows(rows: Tensor, scheme: Scheme) -> QParams:
    """A scale for each row; so many at a time that histograms fit into memory."""
    if scheme.binary:
        # A row of zeros has no scale; the smallest changes nothing.
        mean = rows.abs().mean(1).clamp(min=SMALLEST_NORMAL)
        return QParams(mean, torch.zeros_like(mean).int(), scheme.dtype, axis=0)
    parts = [
        scheme.qparams(scheme.watcher(0).observe(part))
        for part in torch.split(rows, ROWS_AT_ONCE)
    ]
    scale = torch.cat([part.scale for part in parts])
    zero_point = torch.cat([part.zero_point for part in parts])
    return QParams(scale, zero_point, scheme.dtype, axis=0)


def outputs_first(layer: Any) -> Tensor:
    """The weight of a layer with one index of axis 0 for each output."""
    weight: Tensor = layer.weight
    transposed = getattr(layer, "transposed", False)
    return _sides_swapped(weight, layer.groups) if transposed else weight


def as_layer_has_it(weight: Tensor, layer: Any) -> Tensor:
    """Undo ``outputs_first``."""
    transposed = getattr(layer, "transposed", False)
    return _sides_swapped(weight, layer.groups) if transposed else weight


def _sides_swapped(weight: Tensor, groups: int) -> Tensor:
    """(inputs, outputs / groups, ...) as (outputs, inputs / groups, ...), and back."""
    of_groups = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2)
    return of_groups.flatten(0, 1).contiguous()


@torch.no_grad()
def _assemble(
    plan: Plan,
    recipe: Recipe,
    batches: Sequence[tuple[Any, ...]],
    seen: Mapping[Key, Observer],
    codes: _WeightCodes,
) -> "QuantizedModel":
    """A model of its own from what was measured."""
    exact, graph = plan.graph, copy.deepcopy(plan.graph)
    quantizers = {}
    for name, scheme in plan.activations.items():
        axis = _axis(scheme, graph[name], graph)
        qp = None
        if not scheme.dynamic:
            qp = scheme.qparams(seen[name, scheme.observer, scheme.granularity])
        quantizers[name] = Quantizer(scheme, qp, axis)
    made = {name: codes(exact[name], scheme) for name, scheme in plan.weights.items()}
    if recipe.bias_correction:
        for name, (q, qp) in made.items():
            layer: Any = graph.layer(graph[name])
            layer.weight = nn.Parameter(real_weight(q, qp, layer), requires_grad=False)
        columns = list(zip(*batches, strict=True))
        correct_along(exact, graph, made.keys(), columns)
    return assembled(
        (exact, graph),
        recipe,
        {name: (*made[name], scheme) for name, scheme in plan.weights.items()},
        quantizers,
        batches[0] if batches else None,
    )


@torch.no_grad()
def assembled(
    graphs: tuple[Graph, Graph],
    recipe: Recipe,
    made: Mapping[str, "_Made"],
    quantizers: Mapping[str, "Quantizer"],
    batch: tuple[Any, ...] | None,
) -> "QuantizedModel":
    """A model of codes and quantizers; biases get their codes here.

    Args:
        graphs: the network in floats, which the report compares with, and another of
            the same nodes, with the biases to quantize, which becomes the model's own.
        recipe: what it was made by.
        made: by node, the codes of its weight, what they stand for, and the scheme.
        quantizers: by node, of values.
        batch: what the report measures on, None: nothing.

    Chapter: *Post-training quantization*: `quantize` has an example.
    """
    exact, graph = graphs
    weights = {}
    for name, codes in made.items():
        node = graph[name]
        source = graph[node.inputs[0]].scale_of if node.integer else None
        before = quantizers[source].qp if source is not None else None
        weight = outputs_first(exact.layer(node))
        bias: Any = graph.layer(node).bias
        weights[name] = _codes_of(weight, bias, codes, before)
    model = QuantizedModel(graph, recipe, weights, quantizers)
    if batch is not None:
        model.measured_on = exact, batch
    return model


_Made = tuple[Tensor, QParams, Scheme]


def _codes_of(
    weight: Tensor, floats: Tensor | None, made: _Made, before: QParams | None
) -> "Codes":
    """The codes of a layer; its bias gets some if its products have one known scale."""
    q, qp, scheme = made
    known = before is not None and before.axis is None and qp.group_size is None
    bias = None
    if before is not None and known and floats is not None:
        wide = _with_room(qp, floats, before)
        if wide is not qp:
            # Groups have no bias in codes, so the weight has the shape of its codes.
            q, qp = codes_on(weight, wide, scheme), wide
        bias = quantize_bias(floats, before, qp)
    return Codes(q, qp, bias)


def _with_room(qp: QParams, bias: Tensor, before: QParams) -> QParams:
    """Scales of weights so large that the codes of the bias fit INT32.

    Where all weights of a channel are tiny, so is its scale, and a bias of ordinary
    size would need a code beyond INT32.
    """
    least = bias.abs().to(torch.float64) / (before.scale.to(torch.float64) * MOST_BIAS)
    if qp.axis is None:
        least = least.max()
    if (qp.scale >= least).all():
        return qp
    # A little more, since float32 may round down.
    scale = torch.maximum(qp.scale, (least * (1 + 2**-20)).to(torch.float32))
    return replace(qp, scale=scale)


# --- The quantized model ----------------------------------------------------------


class Codes(nn.Module):
    """The codes of a layer's weight and bias, and what they stand for.

    Args:
        codes: of the weight, outputs first.
        qp: what they stand for.
        bias: int32 codes of scale ``s_x s_w``, or None.

    Chapter: *Post-training quantization*.
    """

    codes: Tensor
    scale: Tensor
    zero_point: Tensor
    bias: Tensor | None

    def __init__(self, codes: Tensor, qp: QParams, bias: Tensor | None) -> None:
        super().__init__()
        self.dtype, self.axis, self.group_size = qp.dtype, qp.axis, qp.group_size
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", qp.scale)
        self.register_buffer("zero_point", qp.zero_point)
        self.register_buffer("bias", bias)

    @property
    def qp(self) -> QParams:
        """What the codes of the weight stand for."""
        return QParams(
            self.scale, self.zero_point, self.dtype, self.axis, self.group_size
        )

    @property
    def bits(self) -> int:
        """What a code takes: one bit for signs, which are -1 and 1 of a narrow type."""
        return 1 if self.dtype == SIGNS else self.dtype.bits

    def bytes(self) -> int:
        """Codes at their bits, scales in 4 bytes, zero points at the codes' bits."""
        bits = self.bits
        biases = 0 if self.bias is None else 4 * self.bias.numel()
        return (
            _packed(self.codes, bits)
            + 4 * self.scale.numel()
            + _packed(self.zero_point, bits)
            + biases
        )

    def record(self) -> dict[str, Any]:
        """All but the tensors, as plain data."""
        return {
            "axis": self.axis,
            "group_size": self.group_size,
            "bits": self.dtype.bits,
            "signed": self.dtype.signed,
            "narrow": self.dtype.narrow,
        }

    @classmethod
    def rebuilt(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Undo ``record``."""
        dtype = IntType(record["bits"], record["signed"], record.get("narrow", False))
        scale, zero_point = tensors["scale"], tensors["zero_point"]
        qp = QParams(scale, zero_point, dtype, record["axis"], record["group_size"])
        return cls(tensors["codes"], qp, tensors.get("bias"))


class Quantizer(nn.Module):
    """Puts a value on its grid: with a fixed scale, or one measured on each batch.

    Args:
        scheme: of the value.
        qp: the fixed scale and zero point; None: measured on each batch.
        axis: of the channels, if each has a scale that is measured.

    Chapter: *Post-training quantization*.
    """

    scale: Tensor | None
    zero_point: Tensor | None

    def __init__(
        self, scheme: Scheme, qp: QParams | None, axis: int | None = None
    ) -> None:
        super().__init__()
        self.scheme = scheme
        self.axis = axis if qp is None else qp.axis
        self.register_buffer("scale", None if qp is None else qp.scale)
        self.register_buffer("zero_point", None if qp is None else qp.zero_point)

    @property
    def qp(self) -> QParams | None:
        """What the codes stand for; None if the range is measured at run time."""
        if self.scale is None or self.zero_point is None:
            return None
        return QParams(self.scale, self.zero_point, self.scheme.dtype, self.axis)

    def qp_for(self, x: Tensor) -> QParams:
        """What the codes of ``x`` stand for."""
        if (fixed := self.qp) is not None:
            return fixed
        axis = channel_axis(x, self.axis, self.scheme)
        return self.scheme.qparams(MinMax(axis).observe(x))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` on its grid."""
        qp = self.qp_for(x)
        if self.scheme.rounding == "even":
            return fake_quantize(x, qp)
        return dequantize(to_codes(x, qp, self.scheme.rounding), qp)

    def bytes(self) -> int:
        """A scale in 4 bytes, a zero point at the codes' bits."""
        if self.scale is None or self.zero_point is None:
            return 0
        return 4 * self.scale.numel() + _packed(self.zero_point, self.scheme.bits)

    def record(self) -> dict[str, Any]:
        """All but the tensors, as plain data."""
        return {"scheme": asdict(self.scheme), "axis": self.axis}

    @classmethod
    def rebuilt(cls, record: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Self:
        """Undo ``record``."""
        scheme, axis = Scheme(**record["scheme"]), record["axis"]
        if scheme.dynamic:
            return cls(scheme, None, axis)
        scale, zero_point = tensors["scale"], tensors["zero_point"]
        return cls(scheme, QParams(scale, zero_point, scheme.dtype, axis))


def _packed(t: Tensor, bits: int) -> int:
    """Bytes of so many codes, one after the other."""
    return -(-t.numel() * bits // 8)


class Modules(nn.ModuleDict, Generic[M]):
    """A dict of modules of one class."""

    def __init__(self, modules: Mapping[str, M]) -> None:
        super().__init__()
        # Not by add_module, which refuses names such as "keys" and "values".
        self._modules.update(modules)

    if TYPE_CHECKING:

        def __getitem__(self, key: str) -> M: ...
        def items(self) -> ItemsView[str, M]: ...
        def values(self) -> ValuesView[M]: ...


class QuantizedModel(nn.Module):
    """A network whose weights are codes and whose values lie on grids.

    Calling it computes in float32 what integers would: fake quantization.
    `quantcourse.engine` runs the same model on integers, `quantcourse.export` writes it
    for a runtime.  ``quantize`` makes it.  Its codes are its state: ``state_dict`` has
    them, and after ``load_state_dict`` it computes with the new ones.

    Raises:
        ValueError: from ``train()`` and ``half()`` and the like: codes are not trained
            (`quantcourse.qat` does that before), and scales are float32.

    Chapter: *Post-training quantization*.

    >>> quantized = quantize(nn.Sequential(nn.Linear(2, 1)), [torch.eye(2)], progress=False)
    >>> sorted(quantized.state_dict())  # doctest: +ELLIPSIS
    ['quantizers._0.scale', 'quantizers._0.zero_point', ..., 'weights._0.zero_point']
    """

    def __init__(
        self,
        graph: Graph,
        recipe: Recipe,
        weights: Mapping[str, Codes],
        quantizers: Mapping[str, Quantizer],
    ) -> None:
        super().__init__()
        self.graph, self.recipe = graph, recipe
        self.network = graph.module
        self.weights = Modules(weights)
        self.quantizers = Modules(quantizers)
        self.measured_on: tuple[Graph, tuple[Any, ...]] | None = None
        self._realize()
        self.register_load_state_dict_post_hook(_realize_again)  # type: ignore[no-untyped-call]
        self.eval()

    @torch.no_grad()
    def forward(self, *inputs: Any) -> Any:
        """What the network gives, with weights and values on their grids.

        Args:
            inputs: as the network takes them.

        Returns:
            What the network returns, in float32.
        """
        return self.graph.run(inputs_of(inputs), self.step)

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """As of any module; but what is refused leaves the model as it was."""
        before = {name: t.clone() for name, t in self.state_dict().items()}
        try:
            return super().load_state_dict(state_dict, strict, assign)
        except Exception:
            super().load_state_dict(before, assign=assign)
            raise

    def train(self, mode: bool = True) -> Self:
        """Refuses training; evaluation is the only mode."""
        if mode:
            raise ValueError("mode: a quantized model is for evaluation, got training")
        return super().train(False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        need_float32(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def step(self, node: Node, values: Values) -> Any:
        """The value of one node, as fake quantization computes it."""
        return on_grids(self.graph, self.quantizers, node, values)

    def input_quantizer(self, node: Node) -> Quantizer | None:
        """The quantizer of the values that a layer reads, None if it reads floats."""
        source = self.graph[node.inputs[0]]
        if not node.integer or source.scale_of is None:
            return None
        return self.quantizers[source.scale_of]

    def size(self) -> int:
        """Bytes of the numbers of the model, with codes packed at their bits.

        Codes count at their bits, biases and scales 4 bytes, zero points like codes,
        what stayed float as it is.  A file of ``save`` is larger: it has codes of less
        than 8 bits in a byte each, and beside the numbers the graph and the recipe as
        text, which takes most of it where a model is small.

        Chapter: *Post-training quantization*.

        >>> model = nn.Linear(100, 10)
        >>> quantize(model, [torch.rand(4, 100)], progress=False).size()
        1100
        """
        parts: list[Codes | Quantizer] = [
            *self.weights.values(),
            *self.quantizers.values(),
        ]
        floats = self.network.state_dict().values()
        return sum(part.bytes() for part in parts) + sum(map(_bytes, floats))

    def report(self, *inputs: Any) -> "Report":
        """A line for each step: its range, its scale, and how much noise it has.

        Args:
            inputs: what the noise is measured on, as the network takes it; none: the
                first batch of the calibration.

        Returns:
            A table to print, with its rows.  A model that was loaded has no float
            network beside it, and so no noise; likewise without any batch.

        Raises:
            ValueError: for inputs where there is no float network to compare with, or
                that do not fit it.

        Chapter: *Post-training quantization*.

        >>> model = nn.Sequential(nn.Linear(2, 1))
        >>> report = quantize(model, [torch.eye(2)], progress=False).report()
        >>> [row.label for row in report.rows]
        ['input', '0']
        """
        if self.measured_on is None:
            if inputs:
                raise ValueError("inputs: there is no float network to compare with")
            return Report(tuple(self._rows({}, {})), self.size())
        reference, batch = self.measured_on
        values = self._noise_of_values(reference, inputs_of(inputs or batch))
        return Report(
            tuple(self._rows(self._noise_of_weights(reference), values)), self.size()
        )

    def _noise_of_weights(self, reference: Graph) -> dict[str, float]:
        """The SQNR of each layer's weight, in dB; of zeros there is none."""
        noise = {}
        for name in self.weights:
            weight: Any = reference.layer(reference[name]).weight
            rounded: Any = self.graph.layer(self.graph[name]).weight
            if weight.any():
                noise[name] = sqnr(weight, rounded.to(weight.device))
        return noise

    @torch.no_grad()
    def _noise_of_values(
        self, reference: Graph, inputs: tuple[Any, ...]
    ) -> dict[str, float]:
        """The SQNR of each node's value, in dB, with all noise of the layers before."""
        here = tree_map_only(Tensor, lambda t: t.to(self._device(t)), inputs)

        def exactly(node: Node, values: Values) -> Any:
            with taken("inputs", node):
                return reference.compute(node, values)

        pairs = zip(
            reference.walk(inputs, exactly),
            self.graph.walk(here, self.step),
            strict=True,
        )
        noise = {}
        for (node, exact), (_, noisy) in pairs:
            if not isinstance(exact, Tensor) or not exact.is_floating_point():
                continue
            # Of zeros there is none, nor of a mask's infinities.
            if exact.any() and exact.isfinite().all() and noisy.isfinite().all():
                noise[node.name] = sqnr(exact, noisy.to(exact.device))
        return noise

    def _device(self, t: Tensor) -> torch.device:
        """Where the model is; where ``t`` is if it has no tensors."""
        return next((own.device for own in self.buffers()), t.device)

    def _rows(
        self, of_weights: Mapping[str, float], of_values: Mapping[str, float]
    ) -> Iterator["Row"]:
        floats = self._float_bytes()
        for node in self.graph.nodes:
            codes = dict(self.weights.items()).get(node.name)
            scale_of = node.scale_of
            quantizer = None if scale_of is None else self.quantizers[scale_of]
            size = floats[node.name] + (codes.bytes() if codes else 0)
            if quantizer is not None and node.quantizer:
                size += quantizer.bytes()
            unseen = node.op in ("view", "shape", "constant", "output")
            if unseen and not size and not node.quantizer:
                continue
            low = high = scale = None
            if quantizer is not None and quantizer.qp is not None:
                low, high, scale = _reach(quantizer.qp)
            yield Row(
                node.label,
                node.op + (f"+{node.activation}" if node.activation else ""),
                codes.bits if codes else None,
                quantizer.scheme.bits if quantizer else None,
                low,
                high,
                scale,
                of_weights.get(node.name),
                of_values.get(node.name) if node.op not in _EXACT else None,
                size,
                node.why,
            )

    def _float_bytes(self) -> dict[str, int]:
        """Bytes of what stayed float, at the first node that reads it."""
        left = {f"{name}.": _bytes(t) for name, t in self.network.state_dict().items()}
        owners = {
            call.name: f"{call.target}."
            for call in self.network.graph.nodes
            if call.op in ("call_module", "get_attr")
        }
        floats = {}
        for node in self.graph.nodes:
            own = tuple(owners[part] for part in node.parts if part in owners)
            mine = [name for name in left if name.startswith(own)]
            floats[node.name] = sum(map(left.pop, mine))
        return floats

    def save(self, path: str | PathLike[str]) -> None:
        """Write all of the model to a safetensors file, for ``load``: no pickle.

        Args:
            path: the file, in a folder that exists.

        Raises:
            OSError: if it can't be written.
            ValueError: for a network with calls or settings that are not torch's own
                functions, layers and plain data; for tensors that ``load`` would refuse.

        Chapter: *Post-training quantization*.

        >>> from tempfile import TemporaryDirectory
        >>> quantized = quantize(nn.Linear(2, 1), [torch.eye(2)], progress=False)
        >>> with TemporaryDirectory() as folder:
        ...     quantized.save(f"{folder}/model.safetensors")
        ...     again = QuantizedModel.load(f"{folder}/model.safetensors")
        >>> torch.equal(again(torch.eye(2)), quantized(torch.eye(2)))
        True
        """
        self._realize()  # refuses what load would
        try:
            graph = as_json(self.graph)
        except ValueError as error:
            raise ValueError(
                f"this model can't be saved: at {error}. A file names torch's own "
                "functions and layers, so that to load it runs no other code: write "
                "this step with them, or use torch.save"
            ) from error
        # Copies, since layers may share what stayed float.
        tensors = {
            name: t.clone(memory_format=torch.contiguous_format)
            for name, t in self.state_dict().items()
        }
        record = {
            "graph": graph,
            "recipe": str(self.recipe),
            "weights": {name: c.record() for name, c in self.weights.items()},
            "quantizers": {name: q.record() for name, q in self.quantizers.items()},
            "tensors": sorted(tensors),
        }
        try:
            save_file(
                tensors, Path(path), {"format": FORMAT, "model": json.dumps(record)}
            )
        except SafetensorError as error:
            raise OSError(f"path: can't write {path}: {error}") from error

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read a model that ``save`` wrote.

        Args:
            path: the file.

        Returns:
            The model, on the CPU.

        Raises:
            OSError: if it can't be read.
            ValueError: if it is another file, or a damaged one; if it asks for anything
                but layers of torch and functions that compute tensors.

        Chapter: *Post-training quantization*: see ``save`` for an example.
        """
        try:
            with safe_open(Path(path), "pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(
                f"path: need a file of save, got {path}: {error}"
            ) from error
        if metadata.get("format") != FORMAT:
            raise ValueError(
                f"path: need a file in format {FORMAT!r}, got {metadata.get('format')!r}"
            )
        try:
            return cls._rebuilt(json.loads(metadata["model"]), tensors)
        except Exception as error:  # a damaged file may break anything
            raise ValueError(f"path: can't load {path}: {error!r}") from error

    @classmethod
    def _rebuilt(cls, record: dict[str, Any], tensors: dict[str, Tensor]) -> Self:
        if sorted(tensors) != record["tensors"]:
            raise ValueError(f"need the tensors {record['tensors']}")
        graph = from_json(record["graph"])

        def tensors_at(prefix: str) -> dict[str, Tensor]:
            start = f"{prefix}."
            return {
                name.removeprefix(start): t
                for name, t in tensors.items()
                if name.startswith(start)
            }

        for name, t in tensors_at("network").items():
            owner, _, last = name.rpartition(".")
            module = graph.module.get_submodule(owner)
            if hasattr(module, last):
                delattr(module, last)
            module.register_buffer(last, t)
        for module in graph.module.modules():
            if isinstance(module, nn.RNNBase):
                module._init_flat_weights()
        weights = {
            name: Codes.rebuilt(settings, tensors_at(f"weights.{name}"))
            for name, settings in record["weights"].items()
        }
        quantizers = {
            name: Quantizer.rebuilt(settings, tensors_at(f"quantizers.{name}"))
            for name, settings in record["quantizers"].items()
        }
        model = cls(graph, Recipe.parse(record["recipe"]), weights, quantizers)
        if unused := tensors.keys() - model.state_dict().keys():
            raise ValueError(f"need no tensors but the model's, got {sorted(unused)}")
        return model

    def _realize(self) -> None:
        """Give the layers the real values of their codes."""
        for quantizer in self.quantizers.values():
            _ = quantizer.qp  # raises if it is none
        for name, codes in self.weights.items():
            node = self.graph[name]
            layer: Any = self.graph.layer(node)
            _put_buffer(layer, "weight", real_weight(codes.codes, codes.qp, layer))
            before = self.input_quantizer(node)
            if codes.bias is not None and before is not None:
                step = before.scale.double() * codes.scale.double()  # type: ignore[union-attr]
                _put_buffer(layer, "bias", (codes.bias * step).to(torch.float32))


def need_float32(fn: Callable[[Tensor], Tensor]) -> None:
    """Refuse a change of all tensors of a model that changes their type."""
    if (dtype := fn(torch.zeros(())).dtype) != torch.float32:
        raise ValueError(f"dtype: need float32 in a quantized model, got {dtype}")


def on_grids(
    graph: Graph, quantizers: nn.ModuleDict, node: Node, values: Values
) -> Any:
    """The value of one node, with what integers read and write on its grid.

    Args:
        graph: with quantizers placed.
        quantizers: by node.
        node: the one to compute.
        values: those before it, by name.

    Chapter: *Post-training quantization*: `QuantizedModel` has an example.
    """

    def read(name: str) -> Any:
        """A value as integers see it; one computed in float meets its quantizer."""
        source = graph[name]
        if source.integer or source.scale_of is None:
            return values[name]
        return quantizers[source.scale_of](values[name])

    if node.integer:
        values = {name: read(name) for name in node.inputs}
    value = graph.compute(node, values)
    # ReLU6 alone may stop between two codes.
    if node.integer and (node.quantizer or node.op == "relu6"):
        return quantizers[str(node.scale_of)](value)
    return value


def _realize_again(model: QuantizedModel, _: object) -> None:
    """After other codes were loaded."""
    model._realize()


def real_weight(codes: Tensor, qp: QParams, layer: Any) -> Tensor:
    """The real values of codes as a layer has them."""
    if isinstance(layer, nn.Linear):
        shape: tuple[int, ...] = layer.out_features, layer.in_features
    else:
        inputs = layer.in_channels // layer.groups
        shape = layer.out_channels, inputs, *layer.kernel_size
    return as_layer_has_it(dequantize(codes, qp).view(shape), layer)


def _put_buffer(layer: nn.Module, name: str, t: Tensor) -> None:
    """A tensor that follows the layer, but is no part of its state."""
    layer._parameters.pop(name, None)
    layer.register_buffer(name, t, persistent=False)


def _bytes(t: Tensor) -> int:
    return t.numel() * t.element_size()


def _reach(qp: QParams) -> tuple[float, float, float]:
    """The smallest and the largest value that codes stand for, and the largest step."""
    scale, zero_point = qp.scale.double(), qp.zero_point.double()
    low, high = (qp.dtype.min - zero_point) * scale, (qp.dtype.max - zero_point) * scale
    return float(low.min()), float(high.max()), float(scale.max())


# --- The report -------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """What became of one step of the network; None where there is nothing to say.

    Args:
        label: of the node.
        op: what it is, with its activation.
        weight_bits, value_bits: of its weights, and of the values it computes, also
            where they keep the scale of those it reads.
        low, high: the ends of the grid of its values.
        scale: the step of that grid, the largest of them if there are several.
        weight_sqnr: of its weights, in dB.
        output_sqnr: of its values, in dB, against the float network: with the noise of
            all steps before it.
        bytes: what its codes, scales, biases and floats take, and the scale of its
            values if it is its own.
        why: why it computes in float, else empty.

    Chapter: *Post-training quantization*.

    >>> report = quantize(nn.Linear(2, 1), [torch.eye(2)], progress=False).report()
    >>> report.rows[1].weight_bits, report.rows[1].bytes
    (8, 16)
    """

    label: str
    op: str
    weight_bits: int | None
    value_bits: int | None
    low: float | None
    high: float | None
    scale: float | None
    weight_sqnr: float | None
    output_sqnr: float | None
    bytes: int
    why: str


@dataclass(frozen=True)
class Report:
    """The rows of a quantized model, and what it weighs.

    Args:
        rows: one a step, in order.
        bytes: of the whole model, the sum of those of its rows.

    Chapter: *Post-training quantization*: `QuantizedModel.report` has an example.
    """

    rows: tuple[Row, ...]
    bytes: int

    def __str__(self) -> str:
        heading = (
            "layer",
            "op",
            "bits",
            "low",
            "high",
            "scale",
            "dB w",
            "dB out",
            "bytes",
        )
        lines = [
            (
                row.label,
                row.op,
                _bits(row),
                *(_number(v, ".3g") for v in (row.low, row.high, row.scale)),
                *(_number(v, ".1f") for v in (row.weight_sqnr, row.output_sqnr)),
                f"{row.bytes:,}",
                row.why,
            )
            for row in self.rows
        ]
        return (
            f"{text_table((*heading, 'why float'), lines)}\n{self.bytes:,} bytes in all"
        )


def _bits(row: Row) -> str:
    parts = [("W", row.weight_bits), ("A", row.value_bits)]
    return "".join(f"{kind}{bits}" for kind, bits in parts if bits) or "float"


def _number(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
