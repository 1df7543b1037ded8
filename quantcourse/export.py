"""A network as an ONNX file, which other programs run: the runtimes of many machines.

A value on a grid is written as QuantizeLinear with DequantizeLinear behind it, weights
as the integers that they are.  A runtime that has a kernel on integers for what stands
between such pairs uses it; one that has none computes the same in floats.  Explained in
the chapter *Deployment*.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import (
    SequenceKey,
    tree_flatten,
    tree_flatten_with_path,
    tree_leaves,
    tree_map,
    tree_unflatten,
)

from quantcourse._onnx_ops import (
    BATCH,
    FUNCTIONS,
    LAYERS,
    ONNX_TYPES,
    Place,
    Step,
    Value,
    Varies,
    Writer,
    broadcast,
)
from quantcourse._tensor_checks import dense
from quantcourse.affine import IntType, QParams
from quantcourse.fold import fold_batch_norm
from quantcourse.graph import WEIGHTED, Graph, Node, trace
from quantcourse.ptq import Codes, QuantizedModel, Quantizer, as_layer_has_it

__all__ = ["to_onnx"]

OPSET = 21
"""The version of ONNX's operations; from 21 on, weights may have groups and 4 bits."""
IR_VERSION = 10
"""The version of the file format that goes with it."""
MOST_BYTES = 2_000_000_000
"""Of constants: protobuf, which ONNX files are, ends at 2 GiB."""
INT4 = 22
"""ONNX's number for integers of 4 bits."""
TYPES = ", ".join(str(dtype).removeprefix("torch.") for dtype in ONNX_TYPES)
"""The types that a file can have here."""


def to_onnx(
    model: nn.Module,
    path: str | PathLike[str],
    example: Tensor | Sequence[Tensor],
    unsigned: bool = True,
) -> None:
    """Write a network to an ONNX file.

    Each value on a grid goes through QuantizeLinear and DequantizeLinear; a weight is a
    tensor of integers behind DequantizeLinear, a bias one of INT32.  A ReLU is left out
    where the grid ends at 0.  Where the grid does not, or has fewer codes than the
    8 or 16 bits that carry it, a Clip between two such pairs does it.

    Weights are stored as ``code - zero_point`` in the smallest of INT8, INT16 and
    INT32; those of 4 bits and less in INT4 if their layer computes in float.  (In front
    of a layer on integers they take 8 bits each: ONNX Runtime has no such layer for
    weights of 4.)

    An output in a dict is named by its key, ``"parts.0"`` in a list in a dict; all
    others are ``"output"``, ``"output_2"`` and so on.  What no output needs is left out.

    ONNX Runtime makes INT8 of float weights that stand right behind a grid.  Where the
    recipe keeps a layer float, a Max with minus infinity in front of it prevents that.

    Args:
        model: a QuantizedModel, or any other module: that is written in float, with its
            batch norms folded.
        path: the file, in a folder that exists.
        example: what the network takes: a tensor, or several.  The first axis of each
            is the batch, which the file leaves open; the others are fixed.
        unsigned: store codes of values unsigned, as the arithmetic of x86 wants them.
            Those that the recipe has signed are shifted, and their zero points with
            them: the grid is the same.  False stores them as the recipe says.

    Raises:
        OSError: if the file can't be written.
        ValueError: for another ``example``; for an operation that has no form in ONNX
            here, with its place in the network; for codes that depend on more than
            ONNX can say: rounding other than to even, ranges measured at run time that
            are not affine UINT8 for a tensor.
        ImportError: without the package ``onnx``.

    Source: the ONNX operators QuantizeLinear and DequantizeLinear; Jacob et al. 2018,
    arXiv 1712.05877, section 2.  Chapter: *Deployment*.

    >>> from tempfile import TemporaryDirectory
    >>> import onnx
    >>> with TemporaryDirectory() as folder:
    ...     to_onnx(nn.Linear(2, 3), f"{folder}/linear.onnx", torch.zeros(1, 2))
    ...     file = onnx.load(f"{folder}/linear.onnx")
    >>> [node.op_type for node in file.graph.node]
    ['Gemm', 'Identity']
    """
    if isinstance(model, QuantizedModel):
        graph, weights, quantizers = model.graph, model.weights, model.quantizers
        codes, grids = dict(weights.items()), dict(quantizers.items())
        network = _Network(graph, codes, grids, unsigned)
    else:
        graph = trace(fold_batch_norm(model)).placed(weights_only=True)
        for name, t in graph.module.state_dict().items():
            if t.dtype not in ONNX_TYPES:
                raise ValueError(
                    f"model: need weights in one of {TYPES}, got {name} in {_type_name(t)}; "
                    "convert the model before, as model.float() does"
                )
        network = _Network(graph)
    inputs, outputs = network.write(example)
    Path(path).write_bytes(_file(network.writer, inputs, outputs))


# --- Shapes -----------------------------------------------------------------------


def _batches(graph: Graph, example: Any) -> list[list[Tensor]]:
    """The example with batches of two and of five: what differs follows the batch."""
    given = [example] if isinstance(example, Tensor) else example
    listed = isinstance(given, list | tuple)
    got = len(given) if listed else f"a {type(given).__name__}"
    if got != len(graph.inputs):
        names = ", ".join(node.label for node in graph.inputs)
        raise ValueError(
            f"example: need {len(graph.inputs)} tensors ({names}), got {got}"
        )
    for x in given:
        if not dense(x, "example").ndim or not x.numel() or x.dtype not in ONNX_TYPES:
            raise ValueError(
                "example: need values along an axis for the batch, in one of "
                f"{TYPES}, got {_type_name(x)} of shape {tuple(x.shape)}"
            )
    return [[x[:1].repeat_interleave(n, 0) for x in given] for n in (2, 5)]


@torch.no_grad()
def _seen(graph: Graph, example: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What each node gives, as values without names; constants as they are too."""
    constants: dict[str, Any] = {}
    walks: list[dict[str, Any]] = []
    for inputs in _batches(graph, example):
        found = {}
        try:
            for node, value in graph.walk(inputs):
                found[node.name] = tree_map(_without_data, value)
                if node.op == "constant":
                    constants[node.name] = value
        except (RuntimeError, IndexError, TypeError) as error:
            raise ValueError(
                "example: need inputs that the network takes, with the batch as their "
                f"first axis; a batch of {len(inputs[0])} fails: {error}"
            ) from error
        walks.append(found)
    two, five = walks
    return {name: tree_map(_common, two[name], five[name]) for name in two}, constants


def _type_name(x: Tensor) -> str:
    return str(x.dtype).removeprefix("torch.")


def _without_data(x: Any) -> Any:
    return torch.empty_like(x, device="meta") if isinstance(x, Tensor) else x


def _common(a: Any, b: Any) -> Any:
    """What is the same for two sizes of a batch."""
    if not isinstance(a, Tensor):
        return a if a == b else Varies(a)
    pairs = zip(a.shape, b.shape, strict=True)
    shape = tuple(m if m == n else BATCH for m, n in pairs)
    return Value("", shape, a.dtype, tuple(a.shape))


def _named(names: Any, values: Any) -> Any:
    """Values with the names that they got in the file."""
    leaves, form = tree_flatten(values)
    given = [n.name if isinstance(n, Value) else n for n in tree_leaves(names)]
    pairs = zip(given, leaves, strict=True)
    return tree_unflatten([replace(v, name=name) for name, v in pairs], form)


def _output_name(path: Sequence[Any]) -> str:
    """What leads to an output in a dict; a list alone names none."""
    if all(isinstance(step, SequenceKey) for step in path):
        return "output"
    keys = (step.idx if isinstance(step, SequenceKey) else step.key for step in path)
    return ".".join(map(str, keys))


# --- Nodes ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Grid:
    """The grid of a value, as the file has it.

    Args:
        qp: scale and zero point, on the CPU; codes of 8 or 16 bits, which the file has.
        low, high: the codes that are used.
        scale, zero_point: the names of their tensors in the file.
    """

    qp: QParams
    low: int
    high: int
    scale: str
    zero_point: str

    def __call__(self, at: Place, x: str) -> str:
        """``x`` on the grid that all codes of the type make."""
        axis = {} if self.qp.axis is None else {"axis": self.qp.axis}
        codes = at("QuantizeLinear", x, self.scale, self.zero_point, **axis)
        return at("DequantizeLinear", codes, self.scale, self.zero_point, **axis)

    def within(self, at: Place, x: str, activation: str | None) -> str:
        """``x``, which lies on this grid, on the part of it that is used."""
        low, high = self.ends(activation)
        no_low = bool((low <= self.codes(self.qp.dtype.min)).all())
        no_high = bool((high >= self.codes(self.qp.dtype.max)).all())
        if no_low and no_high:
            return x
        ends = (None if no_low else low, None if no_high else high)
        return self(at, at("Clip", x, *ends))

    def by_channel(self, at: Place, x: str, activation: str | None) -> str:
        """``x`` on the part of the grid that is used, if each channel has a scale.

        Clips on both sides: ONNX Runtime puts kernels for one scale in the place of
        what stands between Q and DQ, and they fail.
        """
        shape = [-1 if d == self.qp.axis else 1 for d in range(at.result.rank)]
        low, high = (end.view(shape) for end in self.ends(activation))
        x = self(at, at("Min", at("Max", x, low), high))
        return at("Max", x, low)

    def ends(self, activation: str | None) -> tuple[Tensor, Tensor]:
        """The smallest and the largest number behind an activation."""
        zero_point = self.qp.zero_point
        low = torch.full_like(zero_point, self.low)
        high = torch.full_like(zero_point, self.high)
        if activation is not None:
            low = torch.maximum(low, zero_point)
        if activation == "relu6":
            six = torch.round(6 / self.qp.scale).clamp(max=2.0**16).to(high.dtype)
            high = torch.minimum(high, six + zero_point)
        return self.codes(low), self.codes(high)

    def codes(self, q: Tensor | int) -> Tensor:
        """What codes stand for."""
        return (q - self.qp.zero_point) * self.qp.scale


class _Network:
    """Writes a graph node by node."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, Codes] | None = None,
        quantizers: Mapping[str, Quantizer] | None = None,
        unsigned: bool = True,
    ) -> None:
        self.graph, self.weights = graph, weights or {}
        self.quantizers, self.unsigned = quantizers or {}, unsigned
        self.writer = Writer()
        self.values: dict[str, Any] = {}  # as those who compute in float read them
        self.on_grid: dict[str, Any] = {}  # of these, what integers read in their place
        self.grids: dict[str, _Grid] = {}
        self.calls = {call.name: call for call in graph.module.graph.nodes}

    def write(self, example: Any) -> tuple[list[Value], list[Value]]:
        """Write all nodes; the inputs and the outputs of the file."""
        self.seen, self.constants = _seen(self.graph, example)
        for node in self.graph.nodes:
            self.values[node.name] = self._node(node)
        inputs = [self.values[node.name] for node in self.graph.inputs]
        outputs = self._outputs()
        self.writer.keep(outputs)
        self.writer.steps = _guarded(self.writer)
        return inputs, outputs

    def _outputs(self) -> list[Value]:
        node = self.graph.nodes[-1]
        leaves, _ = tree_flatten_with_path(self.values[node.name])
        if not all(isinstance(leaf, Value) for _, leaf in leaves):
            raise ValueError("model: need outputs that are tensors, for an ONNX file")
        outputs = []
        for path, leaf in leaves:
            name = self.writer.free(_output_name(path))
            self.writer.steps.append(Step("Identity", (leaf.name,), (name,), {}))
            outputs.append(replace(leaf, name=name))
        return outputs

    def _node(self, node: Node) -> Any:
        """The value of a node: its name in the file, and its shape."""
        seen = self.seen[node.name]
        if node.op == "shape":
            return seen
        if node.op == "input":
            name = self.writer.free(node.label)
            self.writer.first_input = self.writer.first_input or name
            return replace(seen, name=name)
        at = Place(self.writer, node.label, seen)
        if node.op == "constant":
            return tree_map(
                lambda value, result: self._constant(at, value, result),
                self.constants[node.name],
                seen,
            )
        local = {name: self._source(node, name) for name in node.inputs}
        if node.op == "output":
            (call,) = node.parts
            return fx.node.map_arg(self.calls[call].args[0], lambda n: local[n.name])
        return _named(self._computed(node, at, local), seen)

    def _source(self, node: Node, name: str) -> Any:
        """What a node reads: on integers, a value computed in float meets its grid."""
        source, value = self.graph[name], self.values[name]
        if not node.integer or source.integer or source.scale_of is None:
            return value
        if name not in self.on_grid:
            at = Place(self.writer, source.label, self.seen[name])

            def quantized(x: Value) -> Value:
                made = self._quantized(at, x.name, source, None, computed=True)
                return replace(x, name=made)

            self.on_grid[name] = tree_map(quantized, value)
        return self.on_grid[name]

    def _constant(self, at: Place, value: Any, result: Any) -> Any:
        """What forward computed of parameters and shapes alone."""
        if not isinstance(value, Tensor):
            return result
        if BATCH not in result.shape:
            return self.writer.tensor(at.label, value)
        first = value.narrow(result.shape.index(BATCH), 0, 1)
        if not torch.equal(first.expand_as(value), value):
            raise at.refuse("a constant that depends on the size of the batch")
        made = self.writer.tensor(at.label, first.clone())
        return replace(result, name=broadcast(at, made, result))

    def _computed(self, node: Node, at: Place, local: dict[str, Any]) -> Any:
        """What the calls of a node give, on its grid if it has one."""
        quantizer = self.quantizers.get(str(node.scale_of)) if node.integer else None
        qp = None if quantizer is None else quantizer.qp
        alone = node.op in ("relu", "relu6")
        activation = node.op if alone else node.activation
        calls = [self.calls[part] for part in node.parts]
        if qp is not None and activation is not None:
            calls.pop()  # the grid cuts off what the activation would
        moves = node.op in ("view", "max_pool")
        settle = self._whole_grid(node, node) if moves else None
        made: Any = local[node.inputs[0]] if alone else None
        for call in calls:
            args, kwargs = fx.node.map_arg(
                (call.args, call.kwargs), lambda source: local[source.name]
            )
            if node.op in WEIGHTED and call is calls[0]:
                made = self._layer(node, at, local[node.inputs[0]])
            else:
                made = self._call(call, replace(at, settle=settle), args, kwargs)
            local[call.name] = made = _named(made, at.result)
        if node.integer and (node.quantizer or node.op == "relu6" or (alone and qp)):
            source = self.graph[str(node.scale_of)]
            return self._quantized(at, made.name, source, activation, not alone)
        return made

    def _quantized(
        self, at: Place, x: str, source: Node, activation: str | None, computed: bool
    ) -> str:
        """``x`` on the grid of a node, and above 0 (below 6) with an activation.

        ``computed``: not if ``x`` lies on that grid already.
        """
        quantizer = self.quantizers[source.name]
        if quantizer.qp is None:
            return self._dynamic(at, x, source, quantizer)
        grid = self._grid(source)
        if grid.qp.axis is not None:
            return grid.by_channel(at, x, activation)
        return grid.within(at, grid(at, x) if computed else x, activation)

    def _grid(self, node: Node) -> _Grid:
        """The grid of the values of a node, whose tensors are written once."""
        if node.name not in self.grids:
            quantizer = self.quantizers[node.name]
            if quantizer.scheme.rounding != "even":
                raise ValueError(
                    f"model: ONNX rounds to even, but the recipe says "
                    f"{quantizer.scheme.rounding!r} for the values of {node.label}"
                )
            qp: Any = quantizer.qp
            shift = self.unsigned and qp.dtype.signed
            carrier = IntType(8 if qp.dtype.bits <= 8 else 16, qp.dtype.signed != shift)
            half = shift << carrier.bits - 1
            axis = None if qp.axis is None else qp.axis % self.seen[node.name].rank
            scale, zero_point = qp.scale.cpu(), qp.zero_point.cpu() + half
            stored = zero_point.to(STORED[carrier.bits, carrier.signed])
            self.grids[node.name] = _Grid(
                QParams(scale, zero_point, carrier, axis),
                qp.dtype.min + half,
                qp.dtype.max + half,
                self.writer.tensor(f"{node.label}.scale", scale).name,
                self.writer.tensor(f"{node.label}.zero_point", stored).name,
            )
        return self.grids[node.name]

    def _dynamic(self, at: Place, x: str, source: Node, quantizer: Quantizer) -> str:
        """``x`` on a grid that is measured when the file runs."""
        scheme = quantizer.scheme
        affine = not scheme.symmetric and not scheme.signed and scheme.bits == 8
        if not affine or scheme.granularity != "tensor" or scheme.rounding != "even":
            raise ValueError(
                "model: ONNX measures ranges at run time for affine UINT8 and whole "
                f"tensors alone, but the recipe asks for more at {source.label}; use "
                "static ranges there"
            )
        codes, scale, zero_point = at.several(3, "DynamicQuantizeLinear", x)
        return at("DequantizeLinear", codes, scale, zero_point)

    # --- Calls ---

    def _call(self, call: fx.Node, at: Place, args: Any, kwargs: Any) -> Any:
        """What a call computes."""
        target: Any = call.target
        if call.op == "call_module":
            layer = self.graph.module.get_submodule(str(target))
            if type(layer) not in LAYERS or "forward" in vars(layer):
                raise at.refuse(type(layer).__name__)
            name, _ = LAYERS[type(layer)]
            kwargs = {**self._settings(layer, str(target)), **kwargs}
        else:
            name = fx.node._get_qualified_name(target) if callable(target) else target
            name = name.rpartition(".")[2].strip("_")
        if name not in FUNCTIONS:
            raise at.refuse(name)
        try:
            return FUNCTIONS[name](at, *args, **kwargs)
        except TypeError as error:
            raise at.refuse(f"{name} with these arguments ({error})") from error

    def _settings(self, layer: nn.Module, path: str) -> dict[str, Any]:
        """The settings of a layer that the function behind it takes, by its names."""
        _, names = LAYERS[type(layer)]
        settings = {}
        for entry in names.split():
            argument, _, attribute = entry.partition("=")
            value = getattr(layer, attribute or argument)
            if isinstance(value, Tensor):
                value = self.writer.tensor(f"{path}.{attribute or argument}", value)
            settings[argument] = value
        return settings

    def _layer(self, node: Node, at: Place, x: Value) -> Any:
        """A layer with weights, from their codes if it has some."""
        layer: Any = self.graph.layer(node)
        if node.name not in self.weights:
            return self._call(self.calls[node.parts[0]], at, (x,), {})
        codes, path = self.weights[node.name], str(node.layer)
        settings = {
            name: getattr(layer, name) for name in LAYERS[type(layer)][1].split()
        }
        settings["weight"] = self._weight(at, path, codes, layer, node.integer)
        settings["bias"] = self._bias(at, path, codes, layer, node)
        if node.op == "linear" and x.rank > 2:
            return self._linear(node, at, x, settings["weight"], settings["bias"])
        return FUNCTIONS[LAYERS[type(layer)][0]](at, x, **settings)

    def _weight(
        self, at: Place, path: str, codes: Codes, layer: Any, integer: bool
    ) -> Value:
        """The real weight of a layer, from integers in the file."""
        qp, q = codes.qp, codes.codes.cpu().to(torch.int32)
        zero_point = qp.zero_point.cpu().to(torch.int32)
        blocks: dict[str, int] = {}
        if qp.group_size is not None:
            zero_point = zero_point.repeat_interleave(qp.group_size, 1)
            blocks = {"axis": 1, "block_size": qp.group_size}
        elif qp.axis is not None:
            zero_point = zero_point.view(-1, *[1] * (q.ndim - 1))
            blocks = {"axis": 0}
        q = q - zero_point
        outputs_first = getattr(layer, "transposed", False)
        if outputs_first and (
            not blocks or (blocks == {"axis": 0} and layer.groups == 1)
        ):
            q, blocks = as_layer_has_it(q, layer), {"axis": 1} if blocks else {}
            outputs_first = False
        name = self._dequantized(f"{path}.weight", at, q, qp.scale, integer, blocks)
        shape = tuple(layer.weight.shape)
        if outputs_first:
            g, (inputs, outputs, *kernel) = layer.groups, shape
            name = at("Reshape", name, [g, outputs, inputs // g, *kernel])
            order = [0, 2, 1, *range(3, 3 + len(kernel))]
            name = at("Transpose", name, perm=order)
        if outputs_first or q.shape != shape:
            name = at("Reshape", name, shape)
        return Value(name, shape, torch.float32, shape)

    def _dequantized(
        self,
        name: str,
        at: Place,
        q: Tensor,
        scale: Tensor,
        integer: bool,
        blocks: dict[str, int],
    ) -> str:
        """Whole numbers times their scale."""
        q, bits = _smallest(q, integer)
        tensor = self.writer.tensor
        inputs = [tensor(name, q, bits), tensor(f"{name}_scale", scale.cpu())]
        if integer and q.dtype == torch.int8:  # ONNX Runtime's Gemm asks for it
            zero = torch.zeros(scale.shape, dtype=q.dtype)
            inputs.append(tensor(f"{name}_zero_point", zero))
        return at("DequantizeLinear", *inputs, **blocks)

    def _bias(
        self, at: Place, path: str, codes: Codes, layer: Any, node: Node
    ) -> Value | None:
        """The bias of a layer: from INT32 if the products have a known scale."""
        if layer.bias is None:
            return None
        source = self.graph[node.inputs[0]].scale_of
        if codes.bias is None or source is None:
            return self.writer.tensor(f"{path}.bias", layer.bias)
        before: Any = self.quantizers[source].qp
        scale = (before.scale.double() * codes.scale.double()).to(torch.float32).cpu()
        q = self.writer.tensor(f"{path}.bias", codes.bias.cpu())
        scales = self.writer.tensor(f"{path}.bias_scale", scale)
        name = at("DequantizeLinear", q, scales, **({"axis": 0} if scale.ndim else {}))
        return replace(q, name=name, dtype=torch.float32)

    def _linear(
        self, node: Node, at: Place, x: Value, weight: Value, bias: Value | None
    ) -> str:
        """A linear layer on more than two axes: as one on two.

        So it is fused where it stands between grids, and computed in float where it
        does not: ONNX Runtime rounds what it multiplies with dequantized weights.
        """
        before = replace(at, settle=self._whole_grid(self.graph[node.inputs[0]], node))
        rows = before("Reshape", x, [-1, x.shape[-1]])
        behind = replace(at, settle=self._whole_grid(node, node))
        y = behind("Gemm", rows, weight, bias, transB=1)
        return at("Reshape", y, at.result.shape)

    def _whole_grid(self, node: Node, reader: Node) -> _Grid | None:
        """The grid of a value, if it is fixed and the same for all channels."""
        if not reader.integer or node.scale_of is None:
            return None
        qp = self.quantizers[node.scale_of].qp
        fixed = qp is not None and qp.axis is None
        return self._grid(self.graph[node.scale_of]) if fixed else None


def _smallest(q: Tensor, integer: bool) -> tuple[Tensor, int | None]:
    """Whole numbers in the narrowest type that the file has for them, and its bits."""
    low, high = (int(end) for end in q.aminmax())
    if not integer and low >= -8 and high <= 7:
        return q.to(torch.int8), 4
    for dtype in (torch.int8, torch.int16):
        limits = torch.iinfo(dtype)
        if limits.min <= low and high <= limits.max:
            return q.to(dtype), None
    return q, None


STORED = {
    (8, True): torch.int8,
    (8, False): torch.uint8,
    (16, True): torch.int16,
    (16, False): torch.uint16,
}
"""The types of codes in the file."""


# --- For ONNX Runtime -------------------------------------------------------------

WITH_WEIGHTS = ("Conv", "ConvTranspose", "Gemm")
"""Where it makes INT8 of float weights, if the layer stands right behind a grid."""
MOVES = ("MaxPool", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Slice")
"""What it moves grids past."""


def _guarded(writer: Writer) -> list[Step]:
    """The steps, so that ONNX Runtime keeps float what the recipe keeps float.

    Behind a move a grid is written again: the runtime does so too, but not right for
    signed codes.  A layer with float weights gets a Max in front, which changes nothing
    and hides the grid.
    """
    read = {n for s in writer.steps if s.kind != "QuantizeLinear" for n in s.inputs}
    grids: dict[str, Step] = {}  # what put a value on its grid
    lowest = torch.tensor(-torch.inf)
    steps: list[Step] = []
    for step in writer.steps:
        x, *others = step.inputs
        y = step.outputs[0]
        if step.kind == "DequantizeLinear" and x not in writer.tensors:
            if "axis" not in step.attributes:
                grids[y] = step
        elif x in grids and step.kind in MOVES and y in read:
            moved = replace(step, outputs=(writer.free(f"{y}/moved"),))
            grid, q = grids[x].inputs[1:], writer.free(f"{y}/QuantizeLinear")
            codes = Step("QuantizeLinear", (*moved.outputs, *grid), (q,), {})
            steps += [moved, codes]
            step = grids[y] = Step("DequantizeLinear", (q, *grid), (y,), {})
        elif x in grids and step.kind in WITH_WEIGHTS and others[0] in writer.tensors:
            hidden = writer.free(f"{y}/Max")
            least = writer.tensor("lowest", lowest).name
            steps.append(Step("Max", (x, least), (hidden,), {}))
            step = replace(step, inputs=(hidden, *others))
        steps.append(step)
    return steps


# --- The file ---------------------------------------------------------------------


def _file(writer: Writer, inputs: list[Value], outputs: list[Value]) -> bytes:
    """The bytes of an ONNX file, checked."""
    try:
        import onnx
    except ImportError as error:
        raise ImportError("to_onnx needs the package onnx: pip install onnx") from error
    size = sum(t.numel() * t.element_size() for t, _ in writer.tensors.values())
    if size > MOST_BYTES:
        raise ValueError(
            f"model: need at most {MOST_BYTES} bytes of weights in one ONNX file, got "
            f"{size}; export it in parts"
        )
    make = onnx.helper
    nodes = [
        make.make_node(s.kind, s.inputs, s.outputs, name=s.outputs[0], **s.attributes)
        for s in writer.steps
    ]
    tensors = [
        onnx.TensorProto(
            name=name,
            dims=t.shape,
            data_type=ONNX_TYPES[t.dtype] if bits is None else INT4,
            raw_data=_raw(t, bits),
        )
        for name, (t, bits) in writer.tensors.items()
    ]
    read, given = (
        [
            make.make_tensor_value_info(v.name, ONNX_TYPES[v.dtype], _axes(v))
            for v in end
        ]
        for end in (inputs, outputs)
    )
    model = make.make_model(
        make.make_graph(nodes, "network", read, given, tensors),
        opset_imports=[make.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="quantcourse",
    )
    onnx.checker.check_model(model, full_check=True)
    written: bytes = model.SerializeToString(deterministic=True)
    return written


def _axes(v: Value) -> list[str | int | None]:
    """The batch by name; an axis that is a multiple of it has none."""
    batch: list[str | int | None] = [
        n if n != BATCH else "batch" if two == 2 else None
        for n, two in zip(v.shape, v.axes, strict=True)
    ]
    return batch


def _raw(t: Tensor, bits: int | None) -> bytes:
    """The bytes of a tensor; of two codes of 4 bits, the first is the lower half."""
    flat = t.detach().cpu().contiguous().flatten()
    if bits is not None:
        padded = torch.cat([flat, flat.new_zeros(len(flat) % 2)]) & 15
        flat = padded[::2] | padded[1::2] << 4
    return flat.numpy().tobytes()
