"""What the forward of a network calls, as `torch.fx` sees it, and why a trace stops."""

import copy
import inspect
import operator
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from linecache import getline
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
OPERATORS = (
    *("add", "sub", "mul", "truediv", "floordiv", "mod", "pow", "matmul"),
    *("and", "or", "xor", "lshift", "rshift"),
)
OR_A_MODULE = (
    "or put it into a module of its own: `graph.trace` leaves such a part in float, "
    "and `ptq.quantize` does; only `save` and `to_onnx` can't write it."
)


class UntraceableError(ValueError):
    """What stops a trace.

    Args:
        message: what the user reads.
        construct: what the trace stops at.
        place: the dotted name of the innermost module whose forward has it.
    """

    def __init__(self, message: str, construct: str, place: str) -> None:
        super().__init__(message)
        self.construct, self.place = construct, place


def calls_of(
    model: nn.Module, leaves: Collection[str] = ()
) -> tuple[fx.Graph, set[int]]:
    """What ``model`` computes of its required arguments, and what it reads itself.

    Args:
        model: a module.  What its forward stores may be stand-ins afterwards.
        leaves: dotted names of modules whose calls are not followed inside.

    Returns:
        The calls, and the ids of all tensors that code outside of torch's layers reads.

    Raises:
        UntraceableError: a ValueError, with the name of the part that can't be traced.
    """
    tracer = _Tracer(leaves)
    try:
        if "forward" in vars(model):
            raise TypeError("a forward that belongs to one object, not to its class")
        with _Reads(tracer.read):
            return tracer.trace(model), tracer.read
    except Exception as error:  # the model's own code runs, which may raise anything
        line = _where(error)
        raise UntraceableError(
            "model: need one that torch.fx can trace, but tracing "
            f"{type(model).__name__} stops at {line}: {error}. Rewrite that line so "
            "that it does not depend on the values or sizes of tensors (torch.where "
            "instead of if, torch.cat instead of setting a part, torch.zeros((n, 4)) "
            "instead of torch.zeros(n, 4)), "
            f"{OR_A_MODULE}",
            line,
            tracer.stuck_in,
        ) from error


def _where(error: Exception) -> str:
    """The last line of code outside of torch that the error came through."""
    torch_folder, this = Path(torch.__file__).parent, Path(__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if torch_folder not in Path(frame.filename).parents
        and Path(frame.filename) != this
    ]
    if not frames:
        return "its class"
    return f"`{frames[-1].line}` in {frames[-1].name}"


class Proxy(fx.Proxy):
    """fx's stand-in for a value; but ``x += y`` is recorded as the change that it is."""


def _record(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        arguments = (self, other)
        return self.tracer.create_proxy("call_function", function, arguments, {})

    return method


for _name in OPERATORS:
    setattr(Proxy, f"__i{_name}__", _record(getattr(operator, f"__i{_name}__")))


class _Tracer(fx.Tracer):
    """Traces without the hooks of modules, not written to see fx's stand-ins.

    ``leaves`` are names of modules that it doesn't look into.  ``read`` has the ids of
    all that code outside of torch's layers reads from a module; ``stuck_in`` is the
    innermost module that an error came from.
    """

    def __init__(self, leaves: Collection[str]) -> None:
        super().__init__(param_shapes_constant=True)
        self.leaves = leaves
        self.read: set[int] = set()
        self.stuck_in = ""
        self.autocast = autocast_devices()

    def create_args_for_root(
        self, root_fn: Any, is_module: bool, concrete_args: Any = None
    ) -> tuple[Any, list[Any]]:
        """Stand-ins for the arguments that have to be given; the others are left out."""
        _, *required = required_arguments(root_fn)  # without self
        stand_ins = {
            p: self.create_proxy("placeholder", p.name, (), {}) for p in required
        }
        by_name = {p.name: x for p, x in stand_ins.items() if p.kind is p.KEYWORD_ONLY}
        others = [x for p, x in stand_ins.items() if p.kind is not p.KEYWORD_ONLY]

        def forward(root: Any) -> Any:
            return root_fn(root, *others, **by_name)

        return forward, [self.root]

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        self.read.add(id(attr_val))
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        self.read.add(id(a))
        return super().create_arg(a)

    def proxy(self, node: fx.Node) -> fx.Proxy:
        if autocast_devices() != self.autocast:
            raise fx.proxy.TraceError("a trace does not see autocast")
        if node.op == "call_function" and node.kwargs.get("out") is not None:
            raise fx.proxy.TraceError("a trace does not see what out= changes")
        return Proxy(node, self)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Assertions are taken to hold."""
        frame: Any = inspect.currentframe()
        while Path(torch.__file__).parent in Path(frame.f_code.co_filename).parents or (
            frame.f_code.co_filename == __file__
        ):
            frame = frame.f_back
        line = getline(frame.f_code.co_filename, frame.f_lineno).strip()
        if line.startswith(("assert ", "assert(")):
            return not line.startswith("assert not ")
        return super().to_bool(obj)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A class derived from a batch norm too: it looks at shapes, which no trace has.
        if module_qualified_name in self.leaves or isinstance(m, NORMS):
            return True
        return super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        try:
            name = self.path_of_module(m)
        except NameError as error:
            remedy = f"keep this {type(m).__name__} as an attribute or in a ModuleList"
            raise NameError(f"{error}: {remedy}") from error
        try:
            return super().call_module(m, m.forward, args, kwargs)
        except Exception:
            # What is not looked into can only have been called in a wrong way.
            if not self.is_leaf_module(m, name):
                self.stuck_in = self.stuck_in or name
            raise


def autocast_devices() -> list[str]:
    """The kinds of devices for which `torch.autocast` is on."""
    return [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]


class _Name(str):
    """Stands in a file for a call, or for a function of torch.nn.functional."""


class Network(fx.GraphModule):
    """A graph module that pickle writes as it is; fx's own would be traced anew."""

    def __reduce__(self) -> tuple[Any, ...]:
        def named(calls: Any) -> Any:
            return fx.node.map_arg(calls, lambda call: _Name(call.name))

        calls = [
            (call.op, call.name, _target(call), named(call.args), named(call.kwargs))
            for call in self.graph.nodes
        ]
        tables = {name: vars(self)[name] for name in vars(nn.Module())}
        return _network, (tables, calls, type(self).__name__)


def _target(call: fx.Node) -> Any:
    # Pickle finds most functions by their names, but not those that dispatch on a flag.
    name = function_name(call)
    found = getattr(functional, name, None) is call.target
    return _Name(name) if found else call.target


def _network(
    tables: dict[str, Any], calls: list[tuple[Any, ...]], name: str
) -> Network:
    """Undo ``Network.__reduce__``."""
    root, graph = nn.Module(), fx.Graph()
    vars(root).update(tables)
    made: dict[str, fx.Node] = {}

    def filled(arguments: Any) -> Any:
        return fx.node.map_aggregate(
            arguments, lambda a: made[a] if isinstance(a, _Name) else a
        )

    for op, own, target, args, kwargs in calls:
        if isinstance(target, _Name):
            target = getattr(functional, target)
        made[own] = graph.create_node(op, target, filled(args), filled(kwargs), own)
    return Network(root, graph, name)


class _Reads(TorchFunctionMode):
    """Adds to ``read`` the ids of all tensors that torch computes with meanwhile.

    So parameters are seen that come from ``parameters()`` or ``state_dict()``.
    """

    def __init__(self, read: set[int]) -> None:
        super().__init__()
        self.read = read

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        self.read.update(map(id, tree_leaves((args, kwargs))))
        return func(*args, **kwargs)


def copied(model: object) -> nn.Module:
    """A deep copy, refusing what is no module or has no weights yet."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: need a torch module, got a {type(model).__name__}")
    if inside := _wrapped(model):
        raise ValueError(
            f"model: need the network itself, got it in a {type(model).__name__}; "
            f"pass {inside}"
        )
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin):
            raise ValueError(
                f"model: {name or 'it'} ({type(module).__name__}) has no weights yet; "
                "call the model once with an example input"
            )
    # What forward computed and keeps, as pruning does: deepcopy refuses it.
    kept = [t for module in model.modules() for t in vars(module).values()]
    values = {id(t): t.detach().clone() for t in kept if _is_computed(t)}
    try:
        return copy.deepcopy(model, values)
    except Exception as error:  # whatever the model's own attributes raise
        raise ValueError(
            f"model: can't copy this {type(model).__name__}: {error}"
        ) from error


def _wrapped(model: nn.Module) -> str:
    """What to pass instead of a module that only wraps a network; else empty."""
    if isinstance(model, torch.jit.ScriptModule):
        return "the module that it was made of"
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        return "model.module"
    # Of torch.compile; its class would need an import of seconds.
    return "model._orig_mod" if "_orig_mod" in model._modules else ""


def _is_computed(t: object) -> bool:
    return isinstance(t, Tensor) and not t.is_leaf


def listed(batches: object, name: str) -> list[Any]:
    """Batches that may be a generator, but no tensor: that would fall into images."""
    if isinstance(batches, Tensor | str | Mapping) or not isinstance(batches, Iterable):
        raise ValueError(
            f"{name}: need a list or a loader of batches, got a "
            f"{type(batches).__name__}; put a single batch in a list"
        )
    return list(batches)


def is_torchs(module: nn.Module) -> bool:
    return type(module).__module__.startswith("torch.nn.")


def required_arguments(function: Callable[..., Any]) -> list[inspect.Parameter]:
    """The arguments that have to be given."""
    return [
        p
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]


def place_of(call: fx.Node) -> str:
    """The dotted name of the module in whose forward a call stands; empty at the top."""
    stack = call.meta.get("nn_module_stack", {}).values()
    # A layer's call has the layer itself there too.
    return next((name for name, _ in reversed(stack) if name != call.target), "")


def function_name(call: fx.Node) -> str:
    target: Any = call.target
    return target if isinstance(target, str) else getattr(target, "__name__", "call")


def arguments_of(call: fx.Node, names: Sequence[str]) -> dict[str, Any]:
    """The arguments of a call by name; those not given are left out."""
    named = dict(zip(names, call.args, strict=False))
    return named | {name: call.kwargs[name] for name in names if name in call.kwargs}


def constant_of(module: nn.Module, call: fx.Node) -> Any:
    return operator.attrgetter(str(call.target))(module)
