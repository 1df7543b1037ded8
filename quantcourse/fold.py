"""Batch normalization as part of the layer before it.

In evaluation mode a batch normalization multiplies each channel by a constant and adds
another.  A convolution in front of it can do both with its own weights and bias: one
layer is left to quantize instead of two.  Explained in the chapter *Integer layers*.
"""

import copy
import inspect
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from quantcourse._tensor_checks import finite_floats

__all__ = ["fold_batch_norm"]

_NORM_AFTER: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: nn.BatchNorm1d,
    nn.Conv1d: nn.BatchNorm1d,
    nn.Conv2d: nn.BatchNorm2d,
    nn.Conv3d: nn.BatchNorm3d,
    nn.ConvTranspose1d: nn.BatchNorm1d,
    nn.ConvTranspose2d: nn.BatchNorm2d,
    nn.ConvTranspose3d: nn.BatchNorm3d,
}
_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def fold_batch_norm(model: nn.Module) -> nn.Module:
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

    Args:
        model: a network that `torch.fx` can trace.  Nothing of it is changed, its mode
            included.

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
    folded = _copy(model).eval()
    # Traced on a copy of its own, where forward may store what it computed.
    for layer_name, norm_name in _pairs(copy.deepcopy(folded)):
        layer: Any = folded.get_submodule(layer_name)
        norm = folded.get_submodule(norm_name)
        weight, bias = _folded(layer, norm)
        with_norm = f"with {norm_name} folded in, as {weight.dtype}"
        finite_floats(weight, f"model: {layer_name}.weight {with_norm}")
        finite_floats(bias, f"model: {layer_name}.bias {with_norm}")
        trained = layer.weight.requires_grad
        layer.weight = nn.Parameter(weight, requires_grad=trained)
        layer.bias = nn.Parameter(bias, requires_grad=trained)
        _become_identity(norm)
    return folded


@torch.no_grad()
def _folded(layer: Any, norm: Any) -> tuple[Tensor, Tensor]:
    """The weight and bias of the one layer that computes ``norm(layer(x))``."""
    mean, var = norm.running_mean.double(), norm.running_var.double()
    gamma = torch.ones_like(mean) if norm.weight is None else norm.weight.double()
    beta = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    b = torch.zeros_like(mean) if layer.bias is None else layer.bias.double()

    factor = gamma / torch.sqrt(var + norm.eps)
    weight = layer.weight.double() * _along_outputs(factor, layer)
    bias = (b - mean) * factor + beta
    return weight.to(layer.weight.dtype), bias.to(layer.weight.dtype)


def _along_outputs(factor: Tensor, layer: Any) -> Tensor:
    """One number for each output, in a shape that multiplies the layer's weight."""
    rest = (1,) * (layer.weight.dim() - 2)
    if not getattr(layer, "transposed", False):
        return factor.reshape(-1, 1, *rest)
    # A transposed weight is C_in, C_out / groups, ...: a group's inputs, its outputs.
    inputs = layer.in_channels // layer.groups
    blocks = factor.reshape(layer.groups, -1).repeat_interleave(inputs, dim=0)
    return blocks.reshape(*blocks.shape, *rest)


def _become_identity(norm: nn.Module) -> None:
    """Turn the module itself into an Identity, under whatever names it is known."""
    norm.__class__ = nn.Identity
    vars(norm).update(vars(nn.Identity().train(norm.training)))


def _pairs(model: nn.Module) -> list[tuple[str, str]]:
    """The names of each layer and of the batch norm that can become part of it."""
    if isinstance(model, _NORMS) or "forward" in vars(model):
        return []  # fx would trace what the class does
    graph, read = _trace(model)
    # A call of one of torch's own containers may call all that is inside.
    calls = Counter(
        id(m)
        for node in graph.nodes
        if node.op == "call_module"
        for m in model.get_submodule(str(node.target)).modules()
    )
    holders = Counter(
        id(p) for m in model.modules() for p in m._parameters.values() if p is not None
    )
    hooked = [
        set(m.modules())
        for m in model.modules()
        if m._forward_hooks
        or m._forward_pre_hooks
        or m._backward_hooks
        or m._backward_pre_hooks
    ]

    def own(name: str) -> bool:
        """Whether one call is all that happens to this module and its parameters."""
        module = model.get_submodule(name)
        shared = any(holders[id(p)] > 1 for p in module.parameters())
        used = any(id(t) in read for t in [*module.parameters(), *module.buffers()])
        return calls[id(module)] == 1 and not shared and not used

    def foldable(layer_name: str, norm_name: str) -> bool:
        layer, norm = model.get_submodule(layer_name), model.get_submodule(norm_name)
        between_hooks = any((layer in inside) != (norm in inside) for inside in hooked)
        return (
            _match(layer, norm)
            and own(layer_name)
            and own(norm_name)
            and not between_hooks
        )

    found = []
    for node in graph.nodes:
        readers = list(node.users)
        if node.op != "call_module" or len(readers) != 1:
            continue
        (reader,) = readers
        names = str(node.target), str(reader.target)
        if reader.op == "call_module" and foldable(*names):
            found.append(names)
    return found


def _match(layer: Any, norm: Any) -> bool:
    """Whether the batch norm has constants for each output of this kind of layer."""
    # Exactly these classes: one derived from them may compute something else.
    if type(layer) not in _NORM_AFTER or type(norm) is not _NORM_AFTER[type(layer)]:
        return False
    if "forward" in {*vars(layer), *vars(norm)}:
        return False
    if norm.running_mean is None or norm.running_var is None:
        return False
    outputs = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels
    return bool(norm.num_features == outputs)


class _Tracer(fx.Tracer):
    """Traces without the hooks of modules, not written to see fx's stand-ins.

    ``read`` has the ids of all that code outside of torch's layers reads from a module.
    """

    def __init__(self) -> None:
        super().__init__()
        self.read: set[int] = set()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        self.read.add(id(attr_val))
        return super().getattr(attr, attr_val, parameter_proxy_cache)

    def create_arg(self, a: Any) -> Any:
        self.read.add(id(a))
        return super().create_arg(a)

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        # A class derived from a batch norm too: it looks at shapes, which no trace has.
        return isinstance(m, _NORMS) or super().is_leaf_module(m, module_qualified_name)

    def call_module(
        self,
        m: nn.Module,
        forward: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        return super().call_module(m, m.forward, args, kwargs)


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


def _trace(model: nn.Module) -> tuple[fx.Graph, set[int]]:
    """What ``model`` computes of its required arguments, and what it reads itself."""
    tracer = _Tracer()
    try:
        defaults = {
            name: p.default
            for name, p in inspect.signature(model.forward).parameters.items()
            if p.default is not p.empty
        }
        with _Reads(tracer.read):
            return tracer.trace(model, concrete_args=defaults), tracer.read
    except Exception as error:  # the model's own code runs, which may raise anything
        raise ValueError(
            "model: need one that torch.fx can trace, but tracing "
            f"{type(model).__name__} stops at {_where(error)}: {error}. Rewrite that "
            "line so that it does not depend on the values of tensors, or fold the "
            "parts of the model that can be traced, one call each."
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


def _copy(model: object) -> nn.Module:
    """A deep copy, refusing what is no module or has no weights yet."""
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: need a torch module, got a {type(model).__name__}")
    for name, module in model.named_modules():
        if isinstance(module, LazyModuleMixin):
            raise ValueError(
                f"model: {name or 'it'} ({type(module).__name__}) has no weights yet; "
                "call the model once with an example input"
            )
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever the model's own attributes raise
        raise ValueError(
            f"model: can't copy this {type(model).__name__}: {error}"
        ) from error
