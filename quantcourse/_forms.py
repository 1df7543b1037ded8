"""One form for what a network can write in several.

Layers instead of functions, new values instead of changes in place, weights that are
stored instead of computed.
"""

import copy
import inspect
import operator
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import count
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.utils import (
    parametrize,
    prune,
    remove_spectral_norm,
    remove_weight_norm,
)
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.utils._pytree import tree_leaves

from quantcourse._calls import (
    OPERATORS,
    OR_A_MODULE,
    Network,
    UntraceableError,
    arguments_of,
    calls_of,
    constant_of,
    copied,
    function_name,
    is_torchs,
    place_of,
    required_arguments,
)

NORM_AFTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: nn.BatchNorm1d,
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
}
CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
JOINS = (*CONCATENATIONS, torch.stack, torch.hstack, torch.vstack)
VIEW_LAYERS = (nn.Flatten, nn.Unflatten, nn.PixelShuffle)
"""They change the shape and nothing else."""
_NO_EFFECT = (
    *(nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d),
    *(nn.AlphaDropout, nn.FeatureAlphaDropout),
)
# What ``x += y`` calls, and what computes the same without changing x.
_PLAIN_OPERATORS: dict[Any, Any] = {
    getattr(operator, f"i{name}"): getattr(operator, f"__{name}__")
    for name in OPERATORS
}
_SHAPE_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "layout", "requires_grad")
_SHAPES = ("size", "dim", "numel", "ndimension", "stride", len, torch.numel)


def one_form(model: nn.Module) -> fx.GraphModule:
    """What a copy of ``model`` computes in evaluation mode, as one kind of call each.

    Args, Raises: as for `graph.trace`.

    Returns:
        A module without changes in place, functions that have a module, layers called
        twice, batch norms on maps that no layer takes in, and what has no effect.  A
        call that stays float for a reason of its own has it in ``meta["why"]``.
    """
    module = _calls_out_of_place(model)
    _one_call_a_layer(module)
    _norms_as_convolutions(module)
    module.graph.eliminate_dead_code()
    module.graph.lint()
    # Built anew, it holds what is called and nothing else.
    return Network(module, module.graph, type(model).__name__).eval()


def _calls_out_of_place(model: nn.Module) -> fx.GraphModule:
    """What a copy of ``model`` computes; as one call what can't be followed inside."""
    leaves: dict[str, str] = {}
    while True:
        network = _with_plain_weights(_followed(copied(model).eval()))
        hooked = _hooked(network)
        try:
            calls, _ = calls_of(network, hooked | leaves)
            module = fx.GraphModule(network, calls, type(model).__name__)
            for call in calls.nodes:
                if call.op == "call_module" and call.target in hooked | leaves:
                    call.meta["why"] = (hooked | leaves)[call.target]
            _drop_checks(module)
            _values_first(module)
            _functions_as_layers(module)
            _drop_without_effect(module)
            _out_of_place(module)
        except UntraceableError as stop:
            if stop.place in {"", *leaves}:
                raise
            leaves[stop.place] = f"can't be traced: {stop.construct}"
        else:
            return module


def _followed(model: nn.Module) -> nn.Module:
    """One of torch's layers becomes a part: fx follows the forward of what it is given."""
    if isinstance(model, nn.Sequential) or not is_torchs(model):
        return model
    one_input = len(required_arguments(model.forward)) == 1
    return nn.Sequential(model) if one_input else model


def _with_plain_weights(model: nn.Module) -> nn.Module:
    """Weights that parametrizations and the like compute become ordinary ones."""
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            _end_parametrizations(module)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, prune.BasePruningMethod):
                prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
            elif isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
    return model


def _end_parametrizations(module: Any) -> None:
    # torch's own remove_parametrizations changes the class, which the original shares.
    values = {name: getattr(module, name).detach() for name in module.parametrizations}
    module.__class__ = type(module).__bases__[0]
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, _as_parameter(value.clone()))


def _hooked(model: nn.Module) -> dict[str, str]:
    """The names of the modules with hooks, which may give other values than forward."""
    names = {
        name: "has forward hooks"
        for name, module in model.named_modules()
        if module._forward_hooks or module._forward_pre_hooks
    }
    if "" in names:
        raise ValueError(
            f"model: need one without forward hooks, as a graph has no place for them, "
            f"but this {type(model).__name__} has some; remove them"
        )
    return names


def _drop_checks(module: fx.GraphModule) -> None:
    """Leave out what only asserts."""
    for call in reversed(module.graph.nodes):
        if call.target is torch._assert and not call.users:
            module.graph.erase_node(call)


def _values_first(module: fx.GraphModule) -> None:
    """``cat(tensors=(x, y))`` becomes ``cat((x, y))``, ``layer(input=x)`` ``layer(x)``."""
    for call in module.graph.nodes:
        name = "tensors" if call.target in JOINS else "input"
        layer = call.op == "call_module" and is_torchs(
            module.get_submodule(str(call.target))
        )
        if name in call.kwargs and (layer or call.target in JOINS):
            settings = dict(call.kwargs)
            call.args, call.kwargs = (settings.pop(name), *call.args), settings


def _drop_without_effect(module: fx.GraphModule) -> None:
    """Leave out what evaluation mode makes an identity."""
    for call in list(module.graph.nodes):
        if call.op != "call_module" or "why" in call.meta:
            continue
        layer = module.get_submodule(str(call.target))
        no_effect = type(layer) in _NO_EFFECT and not layer.training
        if no_effect and isinstance(_first(call), fx.Node):
            call.replace_all_uses_with(_first(call))
            module.graph.erase_node(call)


def _one_call_a_layer(module: fx.GraphModule) -> None:
    """A layer that is called again becomes one of its own with the same weights."""
    calls = Counter[str]()
    for call in module.graph.nodes:
        if call.op != "call_module":
            continue
        name = str(call.target)
        calls[name] += 1
        if calls[name] > 1:
            twin = copy.copy(module.get_submodule(name))
            # Tables of its own: a weight set here is not set there.
            for table in ("_parameters", "_buffers", "_modules"):
                vars(twin)[table] = dict(vars(twin)[table])
            new = f"{name}_call{calls[name]}"
            call.target = free_name(new, lambda name: _has(module, name))
            module.add_submodule(call.target, twin)


def shapes_of(module: fx.GraphModule) -> set[fx.Node]:
    """The calls that give numbers, not tensors: sizes, and what is computed of them."""
    shapes: set[fx.Node] = set()
    for call in module.graph.nodes:
        target, sources = call.target, call.all_input_nodes
        if target is getattr:
            found = call.args[1] in _SHAPE_ATTRIBUTES or set(sources) <= shapes
        else:
            arithmetic = call.op == "call_method" or (
                getattr(target, "__module__", "") in ("_operator", "builtins", "math")
            )
            found = target in _SHAPES or (
                arithmetic and bool(sources) and set(sources) <= shapes
            )
        if found:
            shapes.add(call)
    return shapes


def dotted_name(call: fx.Node) -> str:
    """The name of a function after that of the module that it is called in."""
    return f"{place_of(call)}.{function_name(call).strip('_')}".lstrip(".")


def free_name(name: str, taken: Callable[[str], bool]) -> str:
    """The name itself, or with the first number from 2 on that makes it a new one."""
    if not taken(name):
        return name
    return next(new for i in count(2) if not taken(new := f"{name}_{i}"))


def _has(module: nn.Module, name: str) -> bool:
    try:
        operator.attrgetter(name)(module)
    except AttributeError:
        return False
    return True


def _as_parameter(t: Tensor) -> nn.Parameter:
    return t if isinstance(t, nn.Parameter) else nn.Parameter(t, requires_grad=False)


# --- Functions that have a module -------------------------------------------------
_CONV = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = (*_CONV[:5], "output_padding", "groups", "dilation")
_POOL = ("input", "kernel_size", "stride", "padding")
_MAX_POOL = (*_POOL, "dilation", "ceil_mode", "return_indices")
_DROPOUT = ("input", "p", "training", "inplace")
_DROPOUTS = (
    *(functional.dropout, functional.dropout1d, functional.dropout2d),
    *(functional.dropout3d, functional.alpha_dropout, functional.feature_alpha_dropout),
)
_NORM = ("input", "running_mean", "running_var", "weight", "bias")
_FUNCTIONS: dict[Any, tuple[type[nn.Module], tuple[str, ...]]] = {
    functional.linear: (nn.Linear, _CONV[:3]),
    functional.conv1d: (nn.Conv1d, _CONV),
    functional.conv2d: (nn.Conv2d, _CONV),
    functional.conv_transpose1d: (nn.ConvTranspose1d, _TRANSPOSED),
    functional.conv_transpose2d: (nn.ConvTranspose2d, _TRANSPOSED),
    functional.max_pool2d: (nn.MaxPool2d, _MAX_POOL),
    torch.max_pool2d: (nn.MaxPool2d, _MAX_POOL[:-1]),
    functional.avg_pool2d: (
        nn.AvgPool2d,
        (*_POOL, "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    functional.adaptive_avg_pool2d: (nn.AdaptiveAvgPool2d, ("input", "output_size")),
    **dict.fromkeys(
        (functional.relu, torch.relu, "relu", torch.relu_, "relu_"),
        (nn.ReLU, ("input", "inplace")),
    ),
    functional.relu6: (nn.ReLU6, ("input", "inplace")),
    **dict.fromkeys(_DROPOUTS, (nn.Dropout, _DROPOUT)),
    torch.dropout: (nn.Dropout, ("input", "p", "training")),
    functional.batch_norm: (
        nn.BatchNorm2d,
        (*_NORM, "training", "momentum", "eps"),
    ),
}
# The names of their arguments and the bounds that they have by default.
_CLAMPS: dict[Any, tuple[tuple[str, ...], float | None, float | None]] = {
    **dict.fromkeys(
        (
            *(torch.clamp, torch.clip, torch.clamp_min, "clamp", "clamp_"),
            *("clip", "clip_", "clamp_min", "clamp_min_"),
        ),
        (("input", "min", "max"), None, None),
    ),
    **dict.fromkeys(
        (functional.hardtanh, functional.hardtanh_),
        (("input", "min_val", "max_val"), -1.0, 1.0),
    ),
}
_MEANS = (torch.mean, "mean")
_MAPS = (
    *(nn.Conv2d, nn.ConvTranspose2d, nn.BatchNorm2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
# Names of functions that give a result with the axes of what they read.
_POINTWISE = (
    *("add", "sub", "mul", "cat", "concat", "clone", "contiguous", "gelu", "silu"),
    *("mish", "hardswish", "hardsigmoid", "sigmoid", "tanh", "elu", "leaky_relu"),
)


def _functions_as_layers(module: fx.GraphModule) -> None:
    """Calls of functions that have a module become calls of that module."""
    for call in list(module.graph.nodes):
        if call.op == "call_module":
            layer = module.get_submodule(call.target)
            if type(layer) is nn.Hardtanh and "why" not in call.meta:
                _become_clamp(module, call, layer.min_val, layer.max_val)
        elif call.op not in ("call_function", "call_method"):
            continue
        elif call.target in _FUNCTIONS:
            kind, names = _FUNCTIONS[call.target]
            new = _layer_of(module, kind, arguments_of(call, names))
            if isinstance(new, nn.Module):
                _become_layer(module, call, new)
            elif new:
                call.meta["why"] = new
        elif call.target in _CLAMPS:
            names, low, high = _CLAMPS[call.target]
            given = arguments_of(call, names)
            low, high = given.get(names[1], low), given.get(names[2], high)
            _become_clamp(module, call, low, high)
        elif call.target in _MEANS:
            _become_average(module, call)


def _first(call: fx.Node) -> Any:
    return arguments_of(call, ("input",))["input"]


def _layer_of(
    module: fx.GraphModule, kind: type[nn.Module], given: dict[str, Any]
) -> nn.Module | str:
    """A module that computes what a function does with these arguments, or why none can."""
    source = given.pop("input")
    given.pop("inplace", None)
    if kind is nn.Dropout:
        return "" if given.get("training", True) else nn.Identity().eval()
    tensors = {name: given.pop(name, None) for name in _NORM[1:]}
    if any(isinstance(value, fx.Node) for value in tree_leaves(given)):
        return "its settings are computed"
    if any(v is not None and not _is_constant(v) for v in tensors.values()):
        return "its weight is computed"
    values: dict[str, Any] = {
        name: None if v is None else constant_of(module, v)
        for name, v in tensors.items()
    }
    if kind is nn.BatchNorm2d:
        return _norm_of(module, source, values, given)
    if kind not in NORM_AFTER:
        return kind(**given).eval()
    if kind is nn.Linear and values["weight"].dim() != 2:
        return "no integer form of a product with a vector"
    return _with_weights(kind, values["weight"], values["bias"], given)


def _is_constant(value: Any) -> bool:
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _norm_of(
    module: fx.GraphModule, source: Any, values: dict[str, Any], given: dict[str, Any]
) -> nn.Module | str:
    """The batch norm behind a layer: only the layer tells of how many dimensions."""
    of_layer = isinstance(source, fx.Node) and source.op == "call_module"
    layer: Any = module.get_submodule(str(source.target)) if of_layer else None
    mean = values["running_mean"]
    if type(layer) not in NORM_AFTER or given.get("training") or mean is None:
        return ""
    with torch.device("meta"):
        norm: Any = NORM_AFTER[type(layer)](len(mean), eps=given.get("eps", 1e-5))
    for name in ("weight", "bias"):
        value = values[name]
        setattr(norm, name, None if value is None else _as_parameter(value))
    norm.running_mean, norm.running_var = mean, values["running_var"]
    return norm.eval()  # type: ignore[no-any-return]


def _with_weights(
    kind: type[nn.Module], weight: Tensor, bias: Tensor | None, given: dict[str, Any]
) -> nn.Module:
    groups = given.get("groups", 1)
    outputs, inputs = weight.shape[:2]
    if kind in (nn.ConvTranspose1d, nn.ConvTranspose2d):
        inputs, outputs = outputs, inputs * groups
    elif kind is not nn.Linear:
        inputs *= groups
    if kind is not nn.Linear:
        given = {**given, "kernel_size": tuple(weight.shape[2:])}
    with torch.device("meta"):
        layer: Any = kind(inputs, outputs, bias=bias is not None, **given)
    layer.weight = _as_parameter(weight)
    if bias is not None:
        layer.bias = _as_parameter(bias)
    return layer.eval()  # type: ignore[no-any-return]


def _become_layer(module: fx.GraphModule, call: fx.Node, layer: nn.Module) -> fx.Node:
    """Put the call of a layer in the place of a call that does the same."""
    if _works_in_place(module, call):
        layer.inplace = True  # type: ignore[assignment]
    name = free_name(dotted_name(call), lambda name: _has(module, name))
    module.add_submodule(name, layer)
    with module.graph.inserting_before(call):
        new = module.graph.call_module(name, (_first(call),))
    new.meta = dict(call.meta)
    call.replace_all_uses_with(new)
    module.graph.erase_node(call)
    return new


def _become_clamp(module: fx.GraphModule, call: fx.Node, low: Any, high: Any) -> None:
    """A clamp from 0 is ReLU, from 0 to 6 ReLU6."""
    if isinstance(low, int | float) and low == 0:
        if high is None:
            _become_layer(module, call, nn.ReLU())
        elif isinstance(high, int | float) and high == 6:
            _become_layer(module, call, nn.ReLU6())


def _become_average(module: fx.GraphModule, call: fx.Node) -> None:
    """A mean over height and width is average pooling of the whole map."""
    given = arguments_of(call, ("input", "dim", "keepdim", "dtype"))
    dims = given.get("dim")
    both = isinstance(dims, list | tuple) and set(dims) in ({2, 3}, {-2, -1})
    if not both or "dtype" in given or not _is_map(module, given["input"]):
        return
    new = _become_layer(module, call, nn.AdaptiveAvgPool2d(1))
    if given.get("keepdim", False):
        return
    with module.graph.inserting_after(new):
        flat = module.graph.call_function(torch.flatten, (new, -3))
    flat.meta = dict(new.meta)
    new.replace_all_uses_with(flat, delete_user_cb=lambda user: user is not flat)


def _is_map(module: fx.GraphModule, call: fx.Node) -> bool:
    """Whether a value has height and width last, as what comes from layers on images."""
    if call.op == "call_module":
        layer = module.get_submodule(str(call.target))
        activation = type(layer).__module__ == "torch.nn.modules.activation"
        same = activation and not isinstance(layer, nn.MultiheadAttention)
        if type(layer) in _MAPS:
            return True
        if not same and type(layer) not in _NO_EFFECT:
            return False
    elif function_name(call).strip("_") not in _POINTWISE:
        return False
    return any(_is_map(module, source) for source in call.all_input_nodes)


# --- Batch norms ------------------------------------------------------------------


def norm_fits(module: nn.Module, call: fx.Node, norm_call: fx.Node) -> bool:
    """Whether a batch norm has constants for each output of the layer before it."""
    if call.op != "call_module" or norm_call.op != "call_module":
        return False
    layer: Any = module.get_submodule(str(call.target))
    norm: Any = module.get_submodule(str(norm_call.target))
    if type(layer) not in NORM_AFTER or type(norm) is not NORM_AFTER[type(layer)]:
        return False
    if "forward" in vars(layer) or not _has_constants(norm):
        return False
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return bool(norm.num_features == outputs)


def _has_constants(norm: Any) -> bool:
    """Whether a batch norm does the same to each batch."""
    if norm.training or "forward" in vars(norm):
        return False
    return norm.running_mean is not None and norm.running_var is not None


def _norms_as_convolutions(module: fx.GraphModule) -> None:
    """A batch norm that no layer takes in is a 1x1 convolution of each channel."""
    for call in module.graph.nodes:
        if call.op != "call_module" or "why" in call.meta:
            continue
        norm: Any = module.get_submodule(str(call.target))
        before = call.all_input_nodes[0]
        taken = len(before.users) == 1 and norm_fits(module, before, call)
        if type(norm) is nn.BatchNorm2d and _has_constants(norm) and not taken:
            module.set_submodule(str(call.target), as_convolution(norm))


@torch.no_grad()
def as_convolution(norm: nn.BatchNorm2d) -> nn.Conv2d:
    """The depthwise 1x1 convolution that a batch norm is in evaluation mode."""
    mean, factor, beta = norm_constants(norm)
    channels, kind = norm.num_features, norm.running_mean
    with torch.device("meta"):
        layer = nn.Conv2d(channels, channels, 1, groups=channels)
    weight, bias = factor.to(kind).view(-1, 1, 1, 1), (beta - mean * factor).to(kind)
    layer.weight, layer.bias = _as_parameter(weight), _as_parameter(bias)
    trained = norm.weight is not None and norm.weight.requires_grad
    return layer.requires_grad_(trained).eval()


def norm_constants(
    norm: Any, dtype: torch.dtype = torch.float64
) -> tuple[Tensor, Tensor, Tensor]:
    """For each channel: a batch norm computes ``(y - mean) factor + beta``."""
    mean = norm.running_mean.to(dtype)
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.to(dtype)
    return mean, norm_factor(norm, dtype), beta


def norm_factor(norm: Any, dtype: torch.dtype = torch.float64) -> Tensor:
    """For each channel, ``gamma / sigma``."""
    sigma = torch.sqrt(norm.running_var.to(dtype) + norm.eps)
    return 1 / sigma if norm.weight is None else norm.weight.to(dtype) / sigma


# --- Changes in place -------------------------------------------------------------
_Memory = tuple[Any, ...]


def _out_of_place(module: fx.GraphModule) -> None:
    """Whoever reads a value after it was changed in place reads the changed one."""
    shapes = shapes_of(module)
    order = {call: i for i, call in enumerate(module.graph.nodes)}
    changes = [
        call for call in order if call not in shapes and _works_in_place(module, call)
    ]
    memory: dict[fx.Node, _Memory] = {}
    for call in order:
        memory[call] = _memory(module, call, memory)
        if call not in changes:
            continue
        changed = call.all_input_nodes[0]
        later = {user for user in order if order[user] > order[call]}
        for other in memory.keys() - {call, changed}:
            if later & other.users.keys() and _overlap(memory[other], memory[changed]):
                raise _shared_memory(call)
        if changed.op == "get_attr":
            raise _shared_memory(call)  # with the next call of the model
        for user in later & changed.users.keys():
            user.replace_input_with(changed, call)
    for call in changes:
        _write_out_of_place(module, call)


def _works_in_place(module: fx.GraphModule, call: fx.Node) -> bool:
    if call.op == "call_module":
        layer = module.get_submodule(str(call.target))
        return is_torchs(layer) and bool(getattr(layer, "inplace", False))
    if call.op not in ("call_function", "call_method"):
        return False
    name = function_name(call)
    if call.target in _PLAIN_OPERATORS or (name[-1] == "_" and name[-2:] != "__"):
        return True
    return _with_inplace(call).get("inplace") is True


def _with_inplace(call: fx.Node) -> dict[str, Any]:
    """The arguments by name of a Python function that may work in place, else none."""
    try:
        signature = inspect.signature(call.target)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return {}
    if "inplace" not in signature.parameters:
        return {}
    return signature.bind(*call.args, **call.kwargs).arguments


def _write_out_of_place(module: fx.GraphModule, call: fx.Node) -> None:
    """The same computation, with a result of its own."""
    name = str(call.target).rstrip("_")
    if call.op == "call_module":
        layer: Any = module.get_submodule(str(call.target))
        layer.inplace = False
    elif call.target in _PLAIN_OPERATORS:
        call.target = _PLAIN_OPERATORS[call.target]
    elif arguments := _with_inplace(call):
        call.args, call.kwargs = (), {**arguments, "inplace": False}
    elif call.op == "call_method" and hasattr(Tensor, name):
        call.target = name
    else:
        with module.graph.inserting_before(call):
            changed = call.all_input_nodes[0]
            call.replace_input_with(
                changed, module.graph.call_method("clone", (changed,))
            )


def _memory(
    module: fx.GraphModule, call: fx.Node, memory: Mapping[fx.Node, _Memory]
) -> _Memory:
    """Where the value of a call lies: as a path, a part's being longer than the whole's."""
    if not call.all_input_nodes or not _may_share_memory(module, call):
        return (call,)
    of = memory[call.all_input_nodes[0]]
    index = call.args[1] if call.target is operator.getitem else None
    # Two elements don't overlap, if counted from the same end.
    return (*of, index) if isinstance(index, int) and index >= 0 else of


def _overlap(a: _Memory, b: _Memory) -> bool:
    return all(i == j for i, j in zip(a, b, strict=False))


def _may_share_memory(module: fx.GraphModule, call: fx.Node) -> bool:
    """Whether the value of a call may be a view of its first argument."""
    if call.op == "call_module":
        return type(module.get_submodule(str(call.target))) in VIEW_LAYERS
    if call.op not in ("call_function", "call_method"):
        return False
    if call.target in (operator.getitem, getattr, "float", "half", "bfloat16"):
        return True
    # PyTorch's own declarations say so, as in view(Tensor(a) self) -> Tensor(a).
    packet = getattr(torch.ops.aten, function_name(call), None)
    return packet is not None and any(
        result.alias_info is not None and not result.alias_info.is_write
        for overload in packet.overloads()
        for result in getattr(packet, overload)._schema.returns
    )


def _shared_memory(call: fx.Node) -> UntraceableError:
    place = place_of(call)
    name = function_name(call).rpartition(".")[-1].strip("_")
    construct = f"{name} in place on a value that shares memory with another"
    return UntraceableError(
        f"model: need one that torch.fx can trace, but the forward of "
        f"{place or 'the model'} calls {construct}, which is read later. Write it "
        f"out of place, as x = x + 1 instead of x += 1, {OR_A_MODULE}",
        construct,
        place,
    )
