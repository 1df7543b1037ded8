"""A graph as JSON text, and back: no pickle, and no code but torch's own is ever called.

A file may come from anybody, so what it may ask for is listed here: functions that
compute tensors from tensors, methods that do, operators on numbers, layers of torch.nn.
Names become source code inside `torch.fx`, so they are checked too.
"""

import math
import operator
import re
from types import BuiltinFunctionType, FunctionType
from typing import Any

import torch
from torch import fx, nn
from torch.overrides import get_testing_overrides

from quantcourse._calls import Network
from quantcourse.graph import Graph, Node

_OWN = frozenset(vars(nn.Module()))  # what every module has
# What recurrent layers keep beside their parameters, and make anew of them.
_REMADE = frozenset({"_flat_weights", "_flat_weight_refs"})
_HOOKS = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_FUNCTION_TYPES = (FunctionType, BuiltinFunctionType)
_PLAIN = (bool, int, float, str, type(None))
_TORCH_CONSTANTS = (torch.dtype, torch.memory_format, torch.layout)
_BUILTINS = {
    function.__name__: function
    for function in (getattr, len, abs, bool, float, int, max, min, round, sum)
}
_OPERATORS = frozenset(
    "abs add and_ concat contains eq floordiv ge getitem gt index inv invert is_ is_not "
    "le lshift lt matmul mod mul ne neg not_ or_ pos pow rshift sub truediv truth "
    "xor".split()
)
# What getattr may read: no way leads from these to anything but tensors and numbers.
_ATTRIBUTES = frozenset(
    "T mT H mH data real imag shape ndim dtype device layout requires_grad itemsize "
    "nbytes is_cuda is_sparse is_quantized is_meta is_leaf names "
    # What functions that give several tensors call them.
    "values indices Q R P L U S V Vh eigenvalues eigenvectors".split()
)
# Functions that torch's own list of those that take tensors leaves out.
_UNLISTED = frozenset(
    "nn.functional.hardsigmoid nn.functional.hardswish nn.functional.sigmoid "
    "nn.functional.tanh nn.functional._threshold nn.functional.upsample "
    "nn.functional.upsample_nearest nn.functional.upsample_bilinear "
    "zeros ones full empty rand randn arange eye linspace logspace".split()
)
# Methods that reach beyond the values of tensors.
_REFUSED = frozenset(
    "set_ resize_ resize_as_ resize_as_sparse_ rename_ record_stream share_memory_ "
    "storage pin_memory data_ptr backward register_hook retain_grad requires_grad_ "
    "to_mkldnn".split()
)
# Methods of tensors that are written in Python or only convert.
_CONVERSIONS = frozenset(
    "bfloat16 bool byte char double float half int long short ndimension nelement "
    "tolist unique type new_tensor unflatten stride".split()
)
_NAMESPACES = (
    "",
    "Tensor",
    "nn",
    "nn.functional",
    "functional",
    "fft",
    "linalg",
    "special",
)
_PUBLIC = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_PATH = re.compile(r"[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*")


def as_json(graph: Graph) -> dict[str, Any]:
    """What `from_json` makes the graph of, but for its tensors.

    Raises:
        ValueError: for what is neither torch's nor plain data.
    """
    module = graph.module
    calls = {call.name: call for call in module.graph.nodes}
    layers, records = {}, {}
    for node in graph.nodes:
        for call in map(calls.__getitem__, node.parts):
            path = str(call.target)
            try:
                records[call.name] = _call(call)
                if call.op == "call_module":
                    layers[path] = _layer(path, module.get_submodule(path))
            except ValueError as error:
                raise ValueError(f"{node.label}, {error}") from error
    return {
        "name": type(module).__name__,
        "calls": [records[name] for name in calls],
        "layers": layers,
        "nodes": [vars(node) for node in graph.nodes],
    }


def from_json(record: dict[str, Any]) -> Graph:
    """The graph, with layers that have no tensors yet.

    Raises:
        ValueError: if the record asks for anything but torch's layers and functions.
    """
    root = nn.Module()
    for path, layer in record["layers"].items():
        _put(root, _matching(_PATH, path), _rebuilt(path, layer))
    calls = fx.Graph()
    made: dict[str, fx.Node] = {}
    for call in record["calls"]:
        name = _matching(_NAME, call["name"])
        target = _target(call["op"], call["target"])
        if call["op"] == "get_attr":
            _put(root, target, None)  # fx asks for the name; the tensor comes later
        args, kwargs = _value(call["args"], made), _value(call["kwargs"], made)
        _check_attribute(target, args)
        made[name] = calls.create_node(call["op"], target, args, kwargs, name=name)
        if made[name].name != name:
            raise ValueError(f"need a name for each call, got {name} again")
    module = Network(root, calls, _matching(_NAME, record["name"]))
    nodes = tuple(_node(node) for node in record["nodes"])
    _check_nodes(nodes, made)
    return Graph(module, nodes)


def _matching(pattern: re.Pattern[str], text: Any) -> str:
    """A string as it is, refusing what could be more than a name in source code."""
    if not isinstance(text, str) or not pattern.fullmatch(text):
        raise ValueError(f"need a name, got {text!r}")
    return text


def _target(op: str, target: Any) -> Any:
    """What a call calls or reads."""
    if op == "call_function":
        return _function(target)
    if op == "call_method":
        if not _is_method(target):
            raise ValueError(f"need methods that compute tensors, got {target!r}")
        return target
    if op in ("placeholder", "output"):
        return _matching(_NAME, target)
    if op in ("call_module", "get_attr"):
        return _matching(_PATH, target)
    raise ValueError(f"need a call that torch.fx knows, got {op!r}")


def _check_attribute(target: Any, args: Any) -> None:
    if target is getattr and (len(args) != 2 or args[1] not in _ATTRIBUTES):
        raise ValueError(f"need an attribute of tensors, got {args[1:]!r}")


def _node(record: dict[str, Any]) -> Node:
    lists = {key: tuple(v) for key, v in record.items() if isinstance(v, list)}
    return Node(**record | lists)


def _check_nodes(nodes: tuple[Node, ...], calls: dict[str, fx.Node]) -> None:
    """Refuse nodes that read or hold what does not come before them."""
    seen: set[str] = set()
    for node in nodes:
        if not set(node.inputs) <= seen or not set(node.parts) <= calls.keys():
            raise ValueError(f"need calls and inputs for the node {node.name}")
        seen.add(node.name)


def _call(call: fx.Node) -> dict[str, Any]:
    target = call.target
    if call.op == "call_function":
        target = fx.node._get_qualified_name(target)  # type: ignore[arg-type]
    # Refuse now what could not be loaded.
    _check_attribute(_target(call.op, target), call.args)
    return {
        "op": call.op,
        "name": call.name,
        "target": target,
        "args": _record(call.args, call),
        "kwargs": _record(call.kwargs, call),
    }


def _record(value: Any, call: object) -> Any:
    """Arguments of a call as JSON: lists are tagged, since tuples are not lists."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, fx.Node):
        return {"node": value.name}
    if isinstance(value, tuple | list):
        kind = "list" if isinstance(value, list) else "tuple"
        return {kind: [_record(v, call) for v in value]}
    if isinstance(value, dict):
        return {"dict": [[_key(k), _record(v, call)] for k, v in value.items()]}
    if isinstance(value, slice):
        ends = (value.start, value.stop, value.step)
        return {"slice": [_record(v, call) for v in ends]}
    if isinstance(value, _TORCH_CONSTANTS):
        return {"torch": str(value).removeprefix("torch.")}
    if value is Ellipsis:
        return {"ellipsis": 0}
    raise ValueError(
        f"need arguments that JSON can hold, got a {type(value).__name__} in {call}"
    )


def _value(record: Any, made: dict[str, fx.Node]) -> Any:
    if not isinstance(record, dict):
        return record
    ((kind, content),) = record.items()
    if kind == "node":
        return made[content]
    if kind == "dict":
        return {_key(k): _value(v, made) for k, v in content}
    if kind == "torch":
        constant = getattr(torch, _matching(_PUBLIC, content))
        if not isinstance(constant, _TORCH_CONSTANTS):
            raise ValueError(f"need a type or a layout of torch, got {content!r}")
        return constant
    if kind == "ellipsis":
        return Ellipsis
    kinds: dict[str, Any] = {"list": list, "tuple": tuple, "slice": lambda v: slice(*v)}
    if kind not in kinds:
        raise ValueError(f"need arguments that save writes, got {kind!r}")
    return kinds[kind]([_value(v, made) for v in content])


def _key(key: Any) -> str:
    return _matching(_NAME, key)


def _function(name: str) -> Any:
    """A function by name: torch's that take tensors, operators, and no other."""
    if name in _BUILTINS:
        return _BUILTINS[name]
    root, _, rest = name.partition(".")
    if root == "_operator" and rest in _OPERATORS:
        return getattr(operator, rest)
    if root == "math" and _PUBLIC.fullmatch(rest) and callable(vars(math).get(rest)):
        return getattr(math, rest)
    found = _torch_function(rest) if root == "torch" else None
    if found is None:
        raise ValueError(f"need functions of torch that compute tensors, got {name}")
    return found


def _torch_function(path: str) -> Any:
    """A function under ``torch`` that takes tensors; None if there is no such."""
    if path in _UNLISTED:
        return operator.attrgetter(path)(torch)
    *parents, last = path.removeprefix("_C._").split(".")
    namespace = ".".join(parents)
    if namespace not in _NAMESPACES or not _PUBLIC.fullmatch(last) or last in _REFUSED:
        return None
    if namespace == "Tensor" and not _is_method(last):
        return None
    try:
        found = operator.attrgetter(path)(torch)
        return found if found in get_testing_overrides() else None
    except (AttributeError, TypeError):
        return None


def _is_method(name: Any) -> bool:
    """Whether a method of tensors does no more than compute."""
    if not isinstance(name, str) or not _PUBLIC.fullmatch(name) or name in _REFUSED:
        return False
    computes = hasattr(torch.ops.aten, name) or name in _CONVERSIONS
    return computes and callable(getattr(torch.Tensor, name, None))


def _layer(path: str, layer: nn.Module) -> dict[str, Any]:
    kind = type(layer)
    if _kind(kind.__name__) is not kind:
        raise ValueError(f"need layers of torch.nn, got {path} ({kind.__name__})")
    if any(getattr(layer, hooks) for hooks in _HOOKS):
        raise ValueError(f"need layers without hooks, got {path} ({kind.__name__})")
    settings = {
        name: value
        for name, value in vars(layer).items()
        if (name not in _OWN or name == "training") and name not in _REMADE
    }
    for name, value in settings.items():
        if not (_is_plain(value) or isinstance(value, _FUNCTION_TYPES)):
            raise ValueError(
                f"need layers whose settings are plain data, got {name} of {path} "
                f"({kind.__name__})"
            )
    tensors = {**layer._parameters, **layer._buffers}
    return {
        "kind": kind.__name__,
        "settings": {name: _setting(value, path) for name, value in settings.items()},
        "absent": [name for name, t in tensors.items() if t is None],
        "children": {
            name: _layer(f"{path}.{name}", child)
            for name, child in layer._modules.items()
            if child is not None
        },
    }


def _setting(value: Any, path: str) -> Any:
    """As ``_record``, but transformer layers have a function for their activation."""
    if not isinstance(value, _FUNCTION_TYPES):
        return _record(value, path)
    name = fx.node._get_qualified_name(value)
    _function(name)
    return {"function": name}


def _rebuilt_setting(record: Any) -> Any:
    """Undo ``_setting``."""
    if isinstance(record, dict) and record.keys() == {"function"}:
        return _function(record["function"])
    return _value(record, {})


def _kind(name: str) -> Any:
    """A class of layers by name, None if torch.nn has none of this name."""
    kind = getattr(nn, name, getattr(nn.modules.linear, name, None))
    return kind if isinstance(kind, type) and issubclass(kind, nn.Module) else None


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, _PLAIN)


def _rebuilt(path: str, record: dict[str, Any]) -> nn.Module:
    kind = _kind(record["kind"])
    if kind is None:
        raise ValueError(f"need layers of torch.nn, got {record['kind']} at {path}")
    layer: nn.Module = kind.__new__(kind)
    nn.Module.__init__(layer)
    for name, value in record["settings"].items():
        # Data on the object may not stand in for what the class computes.
        if (name in _OWN and name != "training") or callable(getattr(kind, name, None)):
            raise ValueError(f"need settings of {record['kind']}, got {name}")
        object.__setattr__(layer, _matching(_NAME, name), _rebuilt_setting(value))
    for name in record["absent"]:
        layer.register_parameter(name, None)
    for name, child in record["children"].items():
        layer.add_module(name, _rebuilt(f"{path}.{name}", child))
    return layer


def _put(root: nn.Module, path: str, value: nn.Module | None) -> None:
    """Hang a layer, or the place of a tensor, at a dotted name."""
    *parents, last = path.split(".")
    for parent in parents:
        if parent not in root._modules:
            root.add_module(parent, nn.Module())
        root = root.get_submodule(parent)
    if value is None:
        root.register_buffer(last, None)
    else:
        root.add_module(last, value)
