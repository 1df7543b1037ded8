"""What a network computes, node by node, and where quantizers go.

`torch.fx` writes down the calls that ``forward`` makes.  Here they become nodes: a layer
with the batch norm and the activation behind it is one, and each node says whether it
can run on integers, and if not, why.  Explained in the chapter *Post-training
quantization*.
"""

import copy
import operator
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import fx, nn

from quantcourse._calls import autocast_devices, constant_of, function_name
from quantcourse._forms import (
    CONCATENATIONS,
    JOINS,
    VIEW_LAYERS,
    dotted_name,
    free_name,
    norm_fits,
    one_form,
    shapes_of,
)

__all__ = ["Graph", "Node", "trace"]
Values = dict[str, Any]
# What each kind of layer is to a quantizer.  Exactly these classes: one derived from them
# may compute something else.
_OPS: dict[type[nn.Module], str] = {
    nn.Linear: "linear",
    nn.Conv1d: "conv",
    nn.Conv2d: "conv",
    nn.ConvTranspose1d: "conv_transpose",
    nn.ConvTranspose2d: "conv_transpose",
    nn.AvgPool2d: "avg_pool",
    nn.AdaptiveAvgPool2d: "avg_pool",
    nn.MaxPool2d: "max_pool",
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    **dict.fromkeys(VIEW_LAYERS, "view"),
}
WEIGHTED = ("conv", "conv_transpose", "linear")
"""The operations that have weights."""
_COMPUTE_NOTHING = ("input", "output", "constant", "shape")
_ACTIVATIONS = ("relu", "relu6")
_KEEP_SCALE = ("max_pool", "view", *_ACTIVATIONS)
_ADDITIONS = (operator.add, torch.add, "add")
_SPLITS = (torch.chunk, torch.split, torch.unbind, "chunk", "split", "unbind")
_VIEWS: tuple[Any, ...] = (
    *(operator.getitem, torch.flatten, torch.reshape, torch.transpose, torch.permute),
    *(torch.squeeze, torch.unsqueeze, torch.unflatten, *_SPLITS),
    *("flatten", "view", "reshape", "transpose", "permute", "contiguous", "squeeze"),
    *("unsqueeze", "unflatten", "expand", "repeat", "clone", "detach", torch.clone),
    *(torch.roll, torch.flip, torch.movedim, torch.swapaxes, torch.narrow),
    *("roll", "flip", "movedim", "swapaxes", "narrow"),
)
_TENSOR_ATTRIBUTES = ("T", "mT", "H", "mH", "data")


@dataclass(frozen=True)
class Node:
    """One step of a network: an operation with what is fused into it.

    Args:
        name: unique; of the value that the step computes.
        label: what people call it, unique too: the dotted name of its layer, or of the
            module whose forward it stands in and of the function.
        op: ``"input"``, ``"output"``; with weights ``"conv"``, ``"conv_transpose"``,
            ``"linear"``; ``"add"``, ``"concat"``, ``"avg_pool"``; on the scale of its
            input ``"max_pool"``, ``"relu"``, ``"relu6"``, ``"view"`` (any change of
            shape), ``"constant"`` (what forward computes of parameters and shapes
            alone), ``"shape"`` (no tensor), ``"float"`` (anything else).
        inputs: names of the nodes it reads, in the order of its arguments; ``x + x``
            and ``cat((x, x))`` read x twice.
        layer: the dotted name of its module, None for a function.
        activation: ``"relu"`` or ``"relu6"`` if one is fused, else None.
        parts: names of the calls in ``Graph.module``, the last one being ``name``.
        integer: whether it computes on codes.
        scale_of: the node whose quantizer sets the scale of its codes: itself, or the
            one it takes over; None if nobody reads it as codes.
        why: why it stays float, else empty.

    Chapter: *Post-training quantization*.

    >>> trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU())).nodes[1].activation
    'relu'
    """

    name: str
    label: str
    op: str
    inputs: tuple[str, ...]
    layer: str | None
    activation: str | None
    parts: tuple[str, ...]
    integer: bool = False
    scale_of: str | None = None
    why: str = ""

    @property
    def quantizer(self) -> bool:
        """Whether a quantizer of its own sits on its value."""
        return self.scale_of == self.name


@dataclass(frozen=True)
class Graph:
    """A network as nodes in the order of their computation.

    Args:
        module: the layers, and the calls as `torch.fx` has them.
        nodes: one for each step; inputs come before those who read them.

    Chapter: *Post-training quantization*.

    >>> graph = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU()))
    >>> [node.label for node in graph.nodes]
    ['input', '0', 'output']
    """

    module: fx.GraphModule
    nodes: tuple[Node, ...]

    def __getitem__(self, name: str) -> Node:
        """The node of this name."""
        return self._by_name[name]

    def __deepcopy__(self, memo: dict[int, Any]) -> "Graph":
        # Without what is cached, which holds calls of the module that was copied.
        return Graph(copy.deepcopy(self.module, memo), self.nodes)

    def __reduce__(self) -> tuple[Any, ...]:
        # Likewise: pickle takes no calls.
        return Graph, (self.module, self.nodes)

    def layers(self) -> tuple[Node, ...]:
        """The nodes that have weights, in order."""
        return tuple(node for node in self.nodes if node.op in WEIGHTED)

    def layer(self, node: Node) -> nn.Module:
        """The module of a node that calls one; a ValueError for others."""
        if node.layer is None:
            raise ValueError(f"node: need one that calls a module, got {node.label}")
        return self.module.get_submodule(node.layer)

    def readers(self, node: Node) -> tuple[Node, ...]:
        """The nodes that read the value of a node."""
        return self._readers[node.name]

    def compute(self, node: Node, values: Mapping[str, Any]) -> Any:
        """The value of one node in floats, from the values of those it reads.

        Args:
            node: one of ``nodes``, no input.
            values: by name; those that ``node.inputs`` names are read.

        Returns:
            A tensor, or whatever else the calls of the node compute; in the type of the
            network, also under `torch.autocast`.
        """
        local = {name: values[name] for name in node.inputs}
        # In mixed precision, values would no longer be those that integers stand for.
        with ExitStack() as stack:
            for device in autocast_devices():
                stack.enter_context(torch.autocast(device, enabled=False))
            for part in node.parts:
                call = self._calls[part]
                args, kwargs = _filled((call.args, call.kwargs), local)
                local[part] = self._call(call, args, kwargs)
        return local[node.name]

    def run(
        self, inputs: Sequence[Any], step: Callable[[Node, Values], Any] | None = None
    ) -> Any:
        """Compute all nodes in order.

        Args:
            inputs: a list or tuple with a value for each input node.
            step: what computes a node that is no input, from the values so far, by
                name; None: ``compute``.  Values that nobody reads any more are freed.

        Returns:
            The value of the output node.

        Raises:
            ValueError: for another number of inputs, or no list.

        >>> trace(nn.Linear(2, 3)).run([torch.zeros(5, 2)]).shape
        torch.Size([5, 3])
        """
        # A list of all pairs would keep every value alive.
        ((_, result),) = deque(self.walk(inputs, step), maxlen=1)
        return result

    def walk(
        self, inputs: Sequence[Any], step: Callable[[Node, Values], Any] | None = None
    ) -> Iterator[tuple[Node, Any]]:
        """Compute all nodes in order, and show the value of each on the way.

        Args, Raises: as for ``run``.

        Returns:
            An iterator over pairs of a node and its value, inputs included.
        """
        step = step or self.compute
        given = self.inputs
        listed = isinstance(inputs, list | tuple)
        if not listed or len(inputs) != len(given):
            got = len(inputs) if listed else f"a {type(inputs).__name__}"
            names = ", ".join(node.label for node in given)
            raise ValueError(
                f"inputs: need a list of {len(given)} ({names}), got {got}"
            )
        values: Values = {n.name: x for n, x in zip(given, inputs, strict=True)}
        for node in self.nodes:
            if node.op != "input":
                values[node.name] = step(node, values)
            yield node, values[node.name]
            for name in self._last_read[node.name]:
                values.pop(name, None)

    @property
    def inputs(self) -> tuple[Node, ...]:
        """The input nodes, in the order of forward's arguments."""
        return tuple(node for node in self.nodes if node.op == "input")

    def placed(
        self, keep_float: Collection[str] = (), weights_only: bool = False
    ) -> "Graph":
        """The graph with quantizers put where integers are read.

        Layers with weights compute on codes, and so does what lies between them: an
        addition, concatenation or average of codes, and everything that only moves or
        compares them.  A quantizer sits on each value that is computed for integer
        readers: behind the activation, never inside a fused node.  A value that only
        float nodes read gets none.

        Args:
            keep_float: names of nodes that shall compute in float; inputs, outputs,
                constants and shapes compute nothing, so there it changes nothing.
            weights_only: put no quantizers at all.

        Returns:
            A graph with the same module; ``integer``, ``scale_of`` and ``why`` of its
            nodes are new.

        Raises:
            ValueError: if ``keep_float`` has a name that no node has.

        Source: Jacob et al. 2018, arXiv 1712.05877, section 3.1, figure 1.1.
        Chapter: *Post-training quantization*.

        >>> graph = trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)))
        >>> [node.quantizer for node in graph.nodes]
        [True, True, True, False]
        >>> first = graph.nodes[1].name
        >>> [node.quantizer for node in graph.placed(keep_float=[first]).nodes]
        [False, True, True, False]
        """
        if unknown := sorted(set(keep_float) - self._by_name.keys()):
            raise ValueError(f"keep_float: need names of nodes, got {unknown[0]!r}")
        if weights_only:
            return replace(self, nodes=tuple(map(_without_quantizer, self.nodes)))
        reasons = self._reasons(keep_float)
        read = self._read_as_codes(reasons)
        placed: dict[str, Node] = {}
        for node in self.nodes:
            why = reasons[node.name]
            integer = not why and node.op not in _COMPUTE_NOTHING
            scale_of = node.name if node.name in read else None
            if integer and node.op in _KEEP_SCALE:
                scale_of = placed[node.inputs[0]].scale_of
            placed[node.name] = replace(
                node, integer=integer, scale_of=scale_of, why=why
            )
        return replace(self, nodes=tuple(placed.values()))

    def table(self) -> str:
        """A line for each node: what it is, what it reads, where a quantizer sits.

        Returns:
            Text.  *quantizer* is ``own`` where one sits on the value, the name of the
            node whose scale the value keeps, or empty where it stays float; *why* says
            why a node computes in float.

        Chapter: *Post-training quantization*.

        >>> print(trace(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Tanh())).table())
        node    op      with  reads  quantizer  why float
        ---------------------------------------------------------------
        input   input                own
        0       linear  relu  input
        2       float         0                 no integer form of Tanh
        output  output        2
        """
        rows = [
            (
                node.label,
                node.op,
                node.activation or "",
                ", ".join(self[name].label for name in node.inputs),
                self._quantizer_text(node),
                node.why,
            )
            for node in self.nodes
        ]
        heading = ("node", "op", "with", "reads", "quantizer", "why float")
        return text_table(heading, rows)

    def _quantizer_text(self, node: Node) -> str:
        if node.quantizer:
            return "own"
        return "" if node.scale_of is None else f"of {self[node.scale_of].label}"

    def _reasons(self, keep_float: Collection[str]) -> dict[str, str]:
        """For each node why it computes in float; empty if it can use codes."""
        why: dict[str, str] = {}
        for node in self.nodes:
            if node.op in _COMPUTE_NOTHING:
                why[node.name] = ""
                continue
            own = node.why if node.op == "float" else self._refusal(node)
            if not own and node.name in keep_float:
                own = "kept float by the recipe"
            # A layer with weights has the value quantized that it reads.
            why[node.name] = own or (
                "" if node.op in WEIGHTED else self._float_source(node, why)
            )
        # What only float nodes read would be rounded for nobody.
        read = self._read_as_codes(why)
        for node in self.nodes:
            between = node.op not in (*WEIGHTED, *_COMPUTE_NOTHING)
            if between and not why[node.name] and node.name not in read:
                why[node.name] = "only float nodes read it"
        return why

    def _float_source(self, node: Node, why: Mapping[str, str]) -> str:
        """Which of the values that a node reads are no codes; empty if all are."""
        for source in map(self.__getitem__, node.inputs):
            if why[source.name]:
                return f"reads {source.label}, which is float"
            if source.op == "constant":
                return f"reads {source.label}, a constant"
        return ""

    def _refusal(self, node: Node) -> str:
        """Why a layer can't use codes whatever the others do; empty if it can."""
        layer = self.layer(node) if node.layer else None
        if getattr(layer, "padding_mode", "zeros") != "zeros":
            return f"pads with {layer.padding_mode}, not with zeros"  # type: ignore[union-attr]
        if getattr(layer, "return_indices", False):
            return "returns indices"
        if getattr(layer, "divisor_override", None) is not None:
            return "divides by a number of its own"
        return ""

    def _read_as_codes(self, why: Mapping[str, str]) -> set[str]:
        """The names of the values that integer nodes read, or that leave the network."""
        read: set[str] = set()
        for node in reversed(self.nodes):
            sources = [self[name] for name in node.inputs if self[name].op != "shape"]
            if node.op == "output":
                read |= {
                    source.name
                    for source in sources
                    if source.op not in _COMPUTE_NOTHING and not why[source.name]
                }
            # What keeps the scale of its input reads codes if its own readers do.
            elif not why[node.name] and (node.op in WEIGHTED or node.name in read):
                read |= {source.name for source in sources}
        return read

    def _call(self, call: fx.Node, args: Any, kwargs: Any) -> Any:
        if call.op == "output":
            return args[0]
        if call.op == "get_attr":
            return constant_of(self.module, call)
        if call.op == "call_module":
            return self.module.get_submodule(str(call.target))(*args, **kwargs)
        if call.op == "call_method":
            return getattr(args[0], str(call.target))(*args[1:], **kwargs)
        return call.target(*args, **kwargs)  # type: ignore[operator]

    @cached_property
    def _by_name(self) -> dict[str, Node]:
        return {node.name: node for node in self.nodes}

    @cached_property
    def _calls(self) -> dict[str, fx.Node]:
        return {call.name: call for call in self.module.graph.nodes}

    @cached_property
    def _readers(self) -> dict[str, tuple[Node, ...]]:
        return {
            node.name: tuple(r for r in self.nodes if node.name in r.inputs)
            for node in self.nodes
        }

    @cached_property
    def _last_read(self) -> dict[str, list[str]]:
        """After each node, the names of the values that nobody reads any more."""
        last: dict[str, str] = {}
        for node in self.nodes:
            last.update(dict.fromkeys((node.name, *node.inputs), node.name))
        after: dict[str, list[str]] = {node.name: [] for node in self.nodes}
        for name, reader in last.items():
            after[reader].append(name)
        return after


def _filled(argument: Any, values: Mapping[str, Any]) -> Any:
    """An argument with values in the place of calls, in lists and dicts of Python's own."""
    if isinstance(argument, fx.Node):
        return values[argument.name]
    if isinstance(argument, dict):
        return {key: _filled(value, values) for key, value in argument.items()}
    if isinstance(argument, slice):
        ends = (argument.start, argument.stop, argument.step)
        return slice(*(_filled(end, values) for end in ends))
    if not isinstance(argument, tuple | list):
        return argument
    items = [_filled(item, values) for item in argument]
    if isinstance(argument, list):
        return items
    named = hasattr(argument, "_fields")
    return type(argument)(*items) if named else tuple(items)


@contextmanager
def taken(name: str, node: Node) -> Iterator[None]:
    """Name the argument and the node if the network can't compute with what it is given."""
    try:
        yield
    except Exception as error:  # the model's own code may raise anything
        raise ValueError(
            f"{name}: need what the network takes, but at {node.label}: {error}"
        ) from error


def _without_quantizer(node: Node) -> Node:
    why = node.why if node.op == "float" else ""
    return replace(node, integer=False, scale_of=None, why=why)


def trace(model: nn.Module) -> Graph:
    """The nodes of a network, with quantizers where all that can compute on integers does.

    Layers with weights take in the batch norm and the ReLU or ReLU6 behind them, if
    nobody else reads what lies between; additions, concatenations and poolings take in
    an activation likewise.  Functional forms are treated as their modules, a clamp
    from 0 (to 6) as ReLU (ReLU6), a mean over height and width as average pooling, a
    batch norm without such a layer in front as a 1x1 convolution of each channel;
    dropout and identity are left out; what works in place becomes an ordinary step; a
    computed weight (weight norm, pruning) counts as what it is now.  A layer that is
    called twice becomes two that share weights.

    All else stays float: other calls, a module with forward hooks, and one whose
    forward `torch.fx` can't trace, which then is one node, as small as can be.

    Args:
        model: a network, traced with the required arguments of its forward.  Nothing
            of it is changed.  Assertions in it are taken to hold.

    Returns:
        The graph of a copy in evaluation mode.

    Raises:
        ValueError: if ``model`` is no module, can't be copied, has layers without
            weights yet, has forward hooks itself, or if its own forward (not that of
            a part) can't be traced: with the line that it stops at, and what to do.

    Source: Reed et al. 2022, torch.fx, arXiv 2112.08429.
    Chapter: *Post-training quantization*.

    >>> graph = trace(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU()))
    >>> graph.nodes[1].parts
    ('_0', '_1', '_2')
    """
    module = one_form(model)
    return Graph(module, tuple(_nodes(module))).placed()


def _nodes(module: fx.GraphModule) -> Iterator[Node]:
    """One node for each group of calls that are fused."""
    ops: dict[str, str] = {}
    why: dict[str, str] = {}
    shapes = shapes_of(module)
    for call in module.graph.nodes:
        ops[call.name], why[call.name] = _op(module, call, ops, shapes)
    groups, labels = _groups(module, ops), _labels(module)
    for call in module.graph.nodes:
        head, *rest = group = groups[call.name]
        if head != call.name:
            continue
        activation = ops[group[-1]] if rest and ops[group[-1]] in _ACTIVATIONS else None
        repeated = ops[head] in ("add", "concat")
        sources = _tensors(call) if repeated else call.all_input_nodes
        yield Node(
            name=group[-1],
            label=labels[head],
            op=ops[head],
            inputs=tuple(groups[source.name][-1] for source in sources),
            layer=str(call.target) if call.op == "call_module" else None,
            activation=activation,
            parts=tuple(group),
            why=why[head],
        )


def _groups(module: fx.GraphModule, ops: Mapping[str, str]) -> dict[str, list[str]]:
    """For each call the names of all that become one node with it, in order."""
    groups: dict[str, list[str]] = {}
    for call in module.graph.nodes:
        group = []
        if len(call.all_input_nodes) == 1:
            (before,) = call.all_input_nodes
            if _fuses(module, call, before, ops, groups[before.name]):
                group = groups[before.name]
        group.append(call.name)
        groups[call.name] = group
    return groups


def _fuses(
    module: fx.GraphModule,
    call: fx.Node,
    before: fx.Node,
    ops: Mapping[str, str],
    group: list[str],
) -> bool:
    """Whether a call goes into the group that ends with the call before it."""
    head, last = ops[group[0]], ops[group[-1]]
    if len(before.users) > 1:
        return False
    if ops[call.name] in _ACTIVATIONS:
        fusable = head in (*WEIGHTED, "add", "concat", "avg_pool")
        return fusable and last not in _ACTIVATIONS
    alone = head in WEIGHTED and len(group) == 1 and "why" not in call.meta
    return alone and norm_fits(module, before, call)


def _tensors(call: fx.Node) -> list[fx.Node]:
    """What a call reads, in the order of its arguments, with all repetitions."""
    found: list[fx.Node] = []
    fx.node.map_arg((call.args, call.kwargs), found.append)
    return found


def _labels(module: fx.GraphModule) -> dict[str, str]:
    """Unique names for people: of layers, and of functions in the module they stand in."""
    # Layers first: theirs are the names that the model's author chose.
    calls = sorted(module.graph.nodes, key=lambda call: call.op != "call_module")
    labels: dict[str, str] = {}
    taken: set[str] = set()
    for call in calls:
        label = str(call.target)
        if call.op in ("call_function", "call_method"):
            label = dotted_name(call)
        labels[call.name] = free_name(label, taken.__contains__)
        taken.add(labels[call.name])
    return labels


def _op(
    module: fx.GraphModule,
    call: fx.Node,
    ops: Mapping[str, str],
    shapes: Collection[fx.Node],
) -> tuple[str, str]:
    """What a call is to a quantizer, and if it stays float, why."""
    if call.op in ("placeholder", "output", "get_attr"):
        names = {"placeholder": "input", "output": "output", "get_attr": "constant"}
        return names[call.op], ""
    if "why" in call.meta:
        return "float", call.meta["why"]
    if call.op == "call_module":
        layer = module.get_submodule(str(call.target))
        if "forward" in vars(layer):
            return "float", "has a forward of its own"
        if type(layer) in _OPS:
            return _OPS[type(layer)], ""
        return "float", f"no integer form of {type(layer).__name__}"
    if call in shapes:
        return "shape", ""
    sources = [ops[source.name] for source in _tensors(call)]
    if set(sources) <= {"constant", "shape"}:
        return "constant", ""
    if call.target in _ADDITIONS:
        why = _why_no_sum(call, sources)
        return ("float", why) if why else ("add", "")
    # The parts that chunk gives are all of one scale, and so is what joins them again.
    of_one_list = call.target in JOINS and isinstance(call.args[0], fx.Node)
    if call.target in CONCATENATIONS and not of_one_list:
        return "concat", ""
    if call.target in _VIEWS or call.target is getattr or of_one_list:
        why = _why_no_view(call, sources)
        return ("float", why) if why else ("view", "")
    return "float", f"no integer form of {function_name(call)}"


def _why_no_sum(call: fx.Node, sources: Sequence[str]) -> str:
    """Why an addition is none of two tensors; empty if it is."""
    if len(sources) != 2 or "shape" in sources:
        return "adds a number"
    settings = sorted(call.kwargs.keys() - {"input", "other"})
    return f"adds with {settings[0]}" if settings else ""


def _why_no_view(call: fx.Node, sources: Sequence[str]) -> str:
    """Why a call does more than give the values of its first argument another shape."""
    if call.target is getattr and call.args[1] not in _TENSOR_ATTRIBUTES:
        return f"no integer form of .{call.args[1]}"
    if sources[0] == "shape" or set(sources[1:]) - {"shape"}:
        return "moves values to where another tensor says"
    if any(isinstance(value, torch.dtype) for value in call.args):
        return "reads the bits as another type"
    part = call.target is operator.getitem and isinstance(call.args[1], int | str)
    if sources[0] == "input" and (part or call.target in JOINS):
        return "an input that may be a list"  # which no quantizer can take
    return ""


def text_table(heading: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest entry, under a rule."""
    widths = [max(map(len, column)) for column in zip(heading, *rows, strict=True)]
    lines = [
        "  ".join(text.ljust(w) for text, w in zip(row, widths, strict=True)).rstrip()
        for row in (heading, *rows)
    ]
    rule = "-" * max(map(len, lines))
    return "\n".join([lines[0], rule, *lines[1:]])
