"""What a network costs: multiply-accumulates, parameters, bytes, and the roofline.

Counting watches the operations that PyTorch dispatches while a copy of the model runs without data, so a
product counts the same however the model's source writes it.  A multiply-accumulate (MAC) is one product added
to a sum, two floating-point operations (FLOPs).  Explained in the chapters *Counting parameters and operations*
and *Fewer bytes, less time*.
"""

import copy
import csv
import logging
import math
import os
import random
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FunctionType
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeCopyMode, FakeTensorMode
from torch.nn.parameter import is_lazy
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

__all__ = [
    "Bound",
    "Cost",
    "Layer",
    "Machine",
    "Roofline",
    "count",
    "roofline",
    "thop_profile",
]


@dataclass(frozen=True)
class Layer:
    """One product that the model computed: a convolution, a matrix product, attention or a recurrent layer.

    Attributes:
        name: the module or bare parameter whose matrix it reads, or else the module that was running.
        op: ``"convolution"``, ``"depthwise"``, ``"matmul"``, ``"attention"`` or ``"recurrent"``.
        macs: multiply-accumulates, the whole batch.
        params: elements of the parameters that no earlier layer has read.
        inputs: elements of the activations read.
        weights: elements read that are made of parameters and buffers alone.
        shape: the output's shape.

    Chapter: *Counting parameters and operations*.

    >>> count(nn.Linear(3, 4), torch.zeros(2, 3)).layers[0].macs
    24
    """

    name: str
    op: str
    macs: int
    params: int
    inputs: int
    weights: int
    shape: tuple[int, ...]

    @property
    def outputs(self) -> int:
        """Elements written."""
        return math.prod(self.shape)

    @property
    def flops(self) -> int:
        """Floating-point operations: a product and a sum for each MAC."""
        return 2 * self.macs

    def bytes(self, bits: int) -> int:
        """Bytes moved if inputs and weights are read once, outputs written once, and an element has ``bits`` bits.

        Inputs, weights and outputs are each rounded up to whole bytes.

        Raises:
            ValueError: if ``bits`` is no integer >= 1.

        Chapter: *Fewer bytes, less time*.

        >>> count(nn.Linear(3, 4), torch.zeros(2, 3)).layers[0].bytes(32)
        120
        """
        _check_bits(bits)
        return sum(_bytes(n, bits) for n in (self.inputs, self.weights, self.outputs))

    def intensity(self, bits: int) -> float:
        """Arithmetic intensity, FLOPs per byte moved; 0 where nothing is moved.

        Raises:
            ValueError: if ``bits`` is no integer >= 1.

        Source: Williams, Waterman and Patterson, Roofline, 2009.
        Chapter: *Fewer bytes, less time*.

        >>> count(nn.Linear(3, 4), torch.zeros(2, 3)).layers[0].intensity(32)
        0.4
        """
        return _ratio(self.flops, self.bytes(bits))


@dataclass(frozen=True)
class Cost:
    """What one forward pass of a model costs, as :func:`count` finds it.  All counts are exact Python integers.

    Attributes:
        model: the model's class.
        layers: the products, in the order of their execution.
        parameters: name and elements of each parameter of the model, shared ones once.
        uncounted: operations that may hold products but that no rule covers, with their number of calls.

    Chapter: *Counting parameters and operations*.

    >>> cost = count(nn.Linear(3, 4), torch.zeros(2, 3))
    >>> cost.macs, cost.flops, cost.params, cost.activations, cost.bytes(8)
    (24, 48, 16, 8, 30)
    """

    model: str
    layers: tuple[Layer, ...]
    parameters: tuple[tuple[str, int], ...]
    uncounted: tuple[tuple[str, int], ...]

    @property
    def macs(self) -> int:
        """Multiply-accumulates of convolutions and matrix products, the whole batch."""
        return sum(layer.macs for layer in self.layers)

    @property
    def flops(self) -> int:
        """Twice the MACs."""
        return 2 * self.macs

    @property
    def params(self) -> int:
        """Elements of all parameters, those included that no product reads; shared ones once."""
        return sum(n for _, n in self.parameters)

    @property
    def activations(self) -> int:
        """Elements that the layers write."""
        return sum(layer.outputs for layer in self.layers)

    def bytes(self, bits: int) -> int:
        """Bytes that the layers move, see :meth:`Layer.bytes`.

        What lies between them (normalization, activation functions, additions) counts as done in passing.

        Raises:
            ValueError: if ``bits`` is no integer >= 1.

        Chapter: *Fewer bytes, less time*.

        >>> count(nn.Linear(3, 4), torch.zeros(2, 3)).bytes(4)
        15
        """
        _check_bits(bits)
        return sum(layer.bytes(bits) for layer in self.layers)

    def weight_bytes(self, bits: int) -> int:
        """Bytes that store all parameters at ``bits`` bits an element, each tensor rounded up to whole bytes.

        Raises:
            ValueError: if ``bits`` is no integer >= 1.

        Chapter: *Counting parameters and operations*.

        >>> count(nn.Linear(3, 1), torch.zeros(1, 3)).weight_bytes(4)  # 3 weights, 1 bias
        3
        """
        _check_bits(bits)
        return sum(_bytes(n, bits) for _, n in self.parameters)

    def intensity(self, bits: int) -> float:
        """FLOPs per byte moved, all layers together; 0 where nothing is moved.

        Raises:
            ValueError: if ``bits`` is no integer >= 1.

        Chapter: *Fewer bytes, less time*.

        >>> round(count(nn.Linear(3, 4), torch.zeros(2, 3)).intensity(8), 2)
        1.6
        """
        return _ratio(self.flops, self.bytes(bits))

    def table(self, bits: int = 32) -> str:
        """The layers as text of at most 88 columns, with the intensity at ``bits`` bits an element.

        Raises:
            ValueError: if ``bits`` is no integer >= 1.

        Chapter: *Counting parameters and operations*.

        >>> print(count(nn.Linear(3, 4), torch.zeros(2, 3)).table())
        layer                     op          output                params           MACs FLOP/B
        ----------------------------------------------------------------------------------------
        Linear                    matmul      2x4                       16             24    0.4
        ----------------------------------------------------------------------------------------
        all layers                                                      16             24    0.4
        """
        rows = [
            _row(
                layer.name,
                layer.op,
                _shape(layer.shape),
                layer.params,
                layer.macs,
                layer.intensity(bits),
            )
            for layer in self.layers
        ]
        if self._elsewhere:
            rows.append(_row("parameters elsewhere", "", "", self._elsewhere, "", ""))
        rule = "-" * 88
        total = _row("all layers", "", "", self.params, self.macs, self.intensity(bits))
        heading = _row("layer", "op", "output", "params", "MACs", "FLOP/B")
        lines = [heading, rule, *rows, rule, total]
        return "\n".join(
            lines + [f"not counted: {op}, {n} x" for op, n in self.uncounted]
        )

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write the layers to a file of comma-separated values, one a line.

        A last line, named ``(elsewhere)``, has the parameters that no layer reads, so that the columns add up.
        A file of that name is overwritten.

        Raises:
            ValueError: if ``path`` is no path.
            OSError: if the file can't be written.

        Chapter: *Counting parameters and operations*.

        >>> count(nn.Linear(3, 4), torch.zeros(2, 3)).to_csv(os.devnull)
        """
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(f"path: need a path, got {path!r}")
        columns = "name op output macs flops params inputs weights outputs".split()
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(columns)
            for x in self.layers:
                counts = (x.macs, x.flops, x.params, x.inputs, x.weights, x.outputs)
                writer.writerow((x.name, x.op, _shape(x.shape), *counts))
            writer.writerow(("(elsewhere)", "", "", 0, 0, self._elsewhere, 0, 0, 0))

    @property
    def _elsewhere(self) -> int:
        return self.params - sum(layer.params for layer in self.layers)


def count(model: nn.Module, *inputs: Any, **named: Any) -> Cost:
    """Count what ``model(*inputs, **named)`` computes.

    A copy of the model runs in its own mode (training or evaluation) without gradients, on tensors that have a
    shape but no data, so that counting takes no arithmetic.  Where shapes depend on data, the copy has the model's
    data and runs for real.  The first count of a process takes a few seconds, for PyTorch's imports.

    Model, inputs and random generators stay as they were.  Forward hooks that are plain functions, as calibration
    uses them, do not run.  Other code of the model does, on the copy: what ``forward``, a forward pre-hook or a
    hook of all modules writes to a global, or to a variable of an enclosing function, stays there, perhaps a
    tensor without data.

    Only convolutions and matrix products count, in full: products with padding too, masked ones of attention too;
    elementwise multiplications do not, even before a sum.  What may hold products but has no rule (``nn.Bilinear``,
    distances, Fourier transforms, any product with a sparse tensor) adds nothing and is listed in
    ``Cost.uncounted``.  ``nn.MultiheadAttention`` runs without its fused shortcut, so that each of its products is
    a layer.

    Args:
        model: any module, on any device; on ``meta``, inputs may be on another.
        inputs, named: its arguments, one by one and not in a tuple as thop takes them; of tensors only shape, type
            and device matter unless shapes depend on data.

    Returns:
        One :class:`Layer` for each product, and all parameters.

    Raises:
        ValueError: if ``model`` is no module, can't be copied or has uninitialized (lazy) parameters, if there are
            no inputs, or if they are on ``meta`` and the model is not.
        Exception: whatever the model's own forward raises.

    Chapter: *Counting parameters and operations*.

    >>> cost = count(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))
    >>> cost.macs == 10 * 10 * 8 * 3 * 3 * 3
    True
    """
    _check_module(model)
    if not inputs and not named:
        raise ValueError("inputs: need the model's inputs, got none")
    parameters = tuple((name, p.numel()) for name, p in model.named_parameters())
    inputs, named = _detached(model, (inputs, named))
    with _state_kept(model):
        try:
            recorder = _run_without_data(model, inputs, named)
        except Exception:
            # Shapes may depend on data.  An error of the model's own comes up again.
            recorder = _run(*_copy(model, inputs, named))
    return Cost(
        type(model).__name__,
        tuple(recorder.layers),
        parameters,
        tuple(sorted(recorder.uncounted.items())),
    )


def thop_profile(model: nn.Module, *inputs: Any) -> tuple[int, int]:
    """What ``thop.profile(model, inputs)`` returns, without its traces and its log.

    It runs on a copy, as that of :func:`count`, but with data.

    Args:
        model: any module.
        inputs: its arguments, one by one.

    Returns:
        ``(macs, params)``.  The first, which thop's readme calls MACs and many call FLOPs, has normalization,
        pooling and some activation functions in it, and misses what is no module of a known class.  The second
        sums over submodules, and so is 0 for a bare layer.

    Raises:
        ValueError: as of :func:`count`.
        ImportError: if thop is not installed, or if its import of distutils fails (Python 3.12 dropped
            distutils; setuptools brings it).

    Source: https://github.com/Lyken17/pytorch-OpCounter, 0.1.1.
    Chapter: *Counting parameters and operations*.

    >>> thop_profile(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.zeros(2, 3))
    (24, 16)
    """
    _check_module(model)
    if not inputs:
        raise ValueError("inputs: need the model's inputs, got none")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of distutils, which thop still imports
            from thop import profile  # type: ignore[import-untyped, unused-ignore]
    except ImportError as error:
        raise ImportError(
            f"thop_profile needs thop and setuptools: pip install thop setuptools ({error})"
        ) from error
    with _state_kept(model):
        twin, arguments = _copy(model, _detached(model, inputs))
        macs, params = profile(twin, inputs=arguments, verbose=False)
    return int(macs), int(params)


@dataclass(frozen=True)
class Machine:
    """A machine that computes with numbers of ``bits`` bits.

    Args:
        peak: FLOPs per second at best.
        bandwidth: bytes per second to and from memory at best.
        bits: bits of a number, of weights and activations alike.

    Raises:
        ValueError: if ``peak`` or ``bandwidth`` is no finite number > 0, or ``bits`` no integer >= 1.

    Source: Williams, Waterman and Patterson, Roofline, 2009.
    Chapter: *Fewer bytes, less time*.

    >>> machine = Machine(peak=1e11, bandwidth=1e10)
    >>> machine.ridge, machine.attainable(2.5), machine.attainable(40)
    (10.0, 25000000000.0, 100000000000.0)
    """

    peak: float
    bandwidth: float
    bits: int = 32

    def __post_init__(self) -> None:
        for name in ("peak", "bandwidth"):
            value = getattr(self, name)
            real = isinstance(value, (int, float)) and not isinstance(value, bool)
            if not real or not 0 < value < math.inf:
                raise ValueError(f"{name}: need a finite number > 0, got {value!r}")
        _check_bits(self.bits)

    @property
    def ridge(self) -> float:
        """The intensity, in FLOPs per byte, from which on arithmetic sets the limit."""
        return self.peak / self.bandwidth

    def attainable(self, intensity: float) -> float:
        """FLOPs per second at best, for a computation of that many FLOPs per byte: the roofline.

        Raises:
            ValueError: if ``intensity`` is no number >= 0.

        Chapter: *Fewer bytes, less time*.

        >>> Machine(peak=1e11, bandwidth=1e10).attainable(1)
        10000000000.0
        """
        if not isinstance(intensity, (int, float)) or not intensity >= 0:
            raise ValueError(f"intensity: need a number >= 0, got {intensity!r}")
        return min(self.peak, intensity * self.bandwidth)


@dataclass(frozen=True)
class Bound:
    """The least time that a layer takes on a machine.

    Chapter: *Fewer bytes, less time*.

    >>> cost = count(nn.Linear(3, 4), torch.zeros(2, 3))
    >>> roofline(cost, Machine(peak=1e11, bandwidth=1e10)).bounds[0].limit
    'memory'
    """

    layer: Layer
    machine: Machine

    @property
    def intensity(self) -> float:
        """FLOPs per byte, in the machine's numbers."""
        return self.layer.intensity(self.machine.bits)

    @property
    def compute_seconds(self) -> float:
        """The time of the arithmetic alone, at the machine's peak."""
        return self.layer.flops / self.machine.peak

    @property
    def memory_seconds(self) -> float:
        """The time of the transfers alone, at the machine's bandwidth."""
        return self.layer.bytes(self.machine.bits) / self.machine.bandwidth

    @property
    def seconds(self) -> float:
        """The longer of the two, as they overlap at best."""
        return max(self.compute_seconds, self.memory_seconds)

    @property
    def limit(self) -> Literal["compute", "memory"]:
        """Which of the two it is; ``"compute"`` at the ridge."""
        return "memory" if self.memory_seconds > self.compute_seconds else "compute"


@dataclass(frozen=True)
class Roofline:
    """The bounds of all layers on one machine, as :func:`roofline` gives them.

    Chapter: *Fewer bytes, less time*.

    >>> cost = count(nn.Linear(1000, 1000, bias=False), torch.zeros(1, 1000))
    >>> fp32 = roofline(cost, Machine(peak=1e11, bandwidth=1e10, bits=32))
    >>> int8 = roofline(cost, Machine(peak=4e11, bandwidth=1e10, bits=8))
    >>> round(fp32.seconds * 1e6), round(int8.seconds * 1e6), int8.speedup(fp32)
    (401, 100, 4.0)
    """

    machine: Machine
    bounds: tuple[Bound, ...]

    @property
    def seconds(self) -> float:
        """The least time of all layers, one after the other; 0.0 if there are none."""
        return sum((bound.seconds for bound in self.bounds), 0.0)

    def speedup(self, before: "Roofline") -> float:
        """How many times shorter the least time is than ``before``.

        Raises:
            ValueError: if ``before`` is no roofline of the same layers, or if there is no work at all.

        Chapter: *Fewer bytes, less time*.
        """
        self._check_same_layers(before)
        if not self.seconds:
            raise ValueError("self: need layers that move or compute something")
        return before.seconds / self.seconds

    def table(self, before: "Roofline | None" = None) -> str:
        """The bounds as text of at most 88 columns; with ``before``, the speed-up against it as well.

        Raises:
            ValueError: if ``before`` is no roofline of the same layers.

        Chapter: *Fewer bytes, less time*.

        >>> cost = count(nn.Linear(3, 4), torch.zeros(2, 3))
        >>> print(roofline(cost, Machine(peak=1e11, bandwidth=1e10)).table())
        layer                            FLOP/B    Gop/s     least us   limit
        ---------------------------------------------------------------------
        Linear                             0.40     4.00        0.012  memory
        ---------------------------------------------------------------------
        all layers                                              0.012
        """
        if before is not None:
            self._check_same_layers(before)
        pairs = zip(self.bounds, (before or self).bounds, strict=True)
        rows = []
        for bound, old in pairs:
            name = _shorten(bound.layer.name, 28)
            rate = self.machine.attainable(bound.intensity) / 1e9
            row = f"{name:28}{bound.intensity:11.2f}{rate:9.2f}"
            row += f"{bound.seconds * 1e6:13.3f}{bound.limit:>8}"
            if before is not None:
                row += f"{_ratio(old.seconds, bound.seconds):10.2f}"
            rows.append(row)
        total = f"{'all layers':48}{self.seconds * 1e6:13.3f}"
        heading = f"{'layer':28}{'FLOP/B':>11}{'Gop/s':>9}{'least us':>13}{'limit':>8}"
        if before is not None:
            total += f"{_ratio(before.seconds, self.seconds):18.2f}"
            heading += f"{'speed-up':>10}"
        rule = "-" * len(heading)
        return "\n".join([heading, rule, *rows, rule, total])

    def _check_same_layers(self, before: "Roofline") -> None:
        if not isinstance(before, Roofline):
            raise ValueError(f"before: need a Roofline, got a {type(before).__name__}")
        if [b.layer for b in self.bounds] != [b.layer for b in before.bounds]:
            raise ValueError("before: need a Roofline of the same layers")


def roofline(cost: Cost, machine: Machine) -> Roofline:
    """The least time of every layer: it must do its FLOPs and move its bytes, at best at the same time.

    Args:
        cost: what :func:`count` found.
        machine: its peak, its bandwidth and the bits of its numbers.

    Returns:
        One :class:`Bound` a layer, in the same order.

    Raises:
        ValueError: if an argument is of another kind.

    Source: Williams, Waterman and Patterson, Roofline, 2009.
    Chapter: *Fewer bytes, less time*.

    >>> cost = count(nn.Linear(1000, 1000), torch.zeros(512, 1000))
    >>> [b.limit for b in roofline(cost, Machine(peak=1e11, bandwidth=1e10)).bounds]
    ['compute']
    """
    if not isinstance(cost, Cost):
        raise ValueError(f"cost: need a Cost, got a {type(cost).__name__}")
    if not isinstance(machine, Machine):
        raise ValueError(f"machine: need a Machine, got a {type(machine).__name__}")
    return Roofline(machine, tuple(Bound(layer, machine) for layer in cost.layers))


# --- Rules: the MACs of each operation that is a product ------------------------------


def _convolution(
    out: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    *rest: Any,
) -> int:
    """Each output takes (or, transposed, each input gives) one product with a whole filter."""
    return (x if transposed else out).numel() * weight[0].numel()


def _product(out: Tensor, a: Tensor, b: Tensor, *rest: Any) -> int:
    """``(..., m, k) @ (..., k, n)`` takes m k n; with a vector, n is 1."""
    return a.numel() * (b.shape[-1] if b.dim() > 1 else 1)


def _product_and_sum(out: Tensor, c: Tensor, a: Tensor, b: Tensor, *rest: Any) -> int:
    return _product(out, a, b)


def _convolution_tbc(out: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    """Time first and channels last: the weight has the shape (window, inputs, outputs)."""
    return out.numel() * weight[..., 0].numel()


def _linear(out: Tensor, x: Tensor, weight: Tensor, *rest: Any) -> int:
    return out.numel() * weight.shape[-1]


def _attention(out: Any, q: Tensor, k: Tensor, v: Tensor, *rest: Any) -> int:
    """Scores ``q @ k.T`` and the weighted sums ``p @ v``, every query with every key."""
    return _rows(q) * k.shape[-2] * (q.shape[-1] + v.shape[-1])


def _multi_head(
    out: Any, q: Tensor, k: Tensor, v: Tensor, width: int, *rest: Any
) -> int:
    """Four square projections, and attention between them; all of shape (batch, length, width)."""
    projections = (2 * q.numel() + k.numel() + v.numel()) * width
    return projections + _attention(out, q, k, v)


def _encoder_layer(out: Any, x: Tensor, width: int, *rest: Any) -> int:
    """Attention of a sequence to itself, and two layers that widen and narrow each position."""
    widen, narrow = rest[12], rest[14]
    products: int = _rows(x) * (widen.numel() + narrow.numel())
    return products + _multi_head(out, x, x, x, width)


def _recurrent_layer(
    out: Any, x: Tensor, w: Tensor, w_hidden: Tensor, *rest: Any
) -> int:
    """Every step multiplies the input by one matrix and the state by another."""
    return _rows(x) * (w.numel() + w_hidden.numel())


def _recurrent_layers(out: Any, x: Tensor, weights: list[Tensor], *rest: Any) -> int:
    """Every step multiplies every matrix once; the vectors among the weights are biases."""
    return _rows(x) * sum(w.numel() for w in weights if w.dim() == 2)


def _rows(x: Tensor) -> int:
    return math.prod(x.shape[:-1])


_Rule = tuple[str, Callable[..., int]]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("convolution", "_convolution"), ("convolution", _convolution)),
    "conv_tbc": ("convolution", _convolution_tbc),
    **dict.fromkeys(("mm", "bmm", "mv", "dot", "vdot"), ("matmul", _product)),
    **dict.fromkeys(("_int_mm", "_scaled_mm"), ("matmul", _product)),
    **dict.fromkeys(
        ("addmm", "addbmm", "baddbmm", "addmv", "_addmm_activation"),
        ("matmul", _product_and_sum),
    ),
    "linear": ("matmul", _linear),
    **dict.fromkeys(
        (
            "_scaled_dot_product_flash_attention_for_cpu",
            "_scaled_dot_product_flash_attention",
            "_scaled_dot_product_efficient_attention",
            "_scaled_dot_product_cudnn_attention",
            "_scaled_dot_product_fused_attention_overrideable",
        ),
        ("attention", _attention),
    ),
    "mkldnn_rnn_layer": ("recurrent", _recurrent_layer),
    **dict.fromkeys(("_cudnn_rnn", "miopen_rnn"), ("recurrent", _recurrent_layers)),
    "_native_multi_head_attention": ("attention", _multi_head),
    "_transformer_encoder_layer_fwd": ("attention", _encoder_layer),
}
# Operations of PyTorch that may hold products, told by their names.
_PRODUCT_LIKE = re.compile(
    r"(?!.*(upsample|convert|combination|norm|check|cross|thnn_fused|flatten|backward))"
    r".*((mm|mv|addr|dot|inner)_?$|_mm_|matmul|conv|linear|attention|multi_head|encoder_layer"
    r"|rnn|lstm|gru|linalg|fft|[cp]dist|euclidean_dist|cholesky|lu_solve)"
)


_SPARSE = (
    torch.sparse_coo,
    torch.sparse_csr,
    torch.sparse_csc,
    torch.sparse_bsr,
    torch.sparse_bsc,
)


def _may_multiply(namespace: str, name: str) -> bool:
    """Whether an operation without a rule may hold products; one from outside of PyTorch may."""
    foreign = namespace not in ("aten", "prim", "prims", "profiler")
    return foreign or _PRODUCT_LIKE.match(name) is not None


# --- Watching a copy of the model run -------------------------------------------------


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each product that is dispatched, with the module and the parameters that it belongs to.

    A tensor is a weight if it is a parameter or buffer, or was made of such alone (a view, a cast, a
    normalized weight).  The recorder holds on to weights, since it knows them by identity.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.layers: list[Layer] = []
        self.uncounted: Counter[str] = Counter()
        self._running: list[str] = []
        self._root = type(model).__name__
        self._weights: dict[int, tuple[Tensor, tuple[str, ...]]] = {}
        self._aliases: dict[str, list[str]] = {}
        self._unread = {name: p.numel() for name, p in model.named_parameters()}
        first_names: dict[int, str] = {}
        for named in (model.named_parameters, model.named_buffers):
            for name, tensor in named(remove_duplicate=False):
                first = first_names.setdefault(id(tensor), name)
                self._aliases.setdefault(first, []).append(name)
                self._weights[id(tensor)] = (tensor, (first,))
        for name, module in model.named_modules():
            if not isinstance(module, torch.jit.ScriptModule):  # which take no hooks
                self._follow(name, module)

    def _follow(self, name: str, module: nn.Module) -> None:
        def enter(*_: Any) -> None:
            self._running.append(name)

        def leave(*_: Any) -> None:
            self._running.pop()

        module.register_forward_pre_hook(enter, prepend=True)
        module.register_forward_hook(leave, always_call=True)

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        namespace, _, name = func._schema.name.partition("::")
        rule = _RULES.get(name.removesuffix("_")) if namespace == "aten" else None
        operands = _tensors((args, kwargs))
        if any(x.layout in _SPARSE for x in operands):
            rule = None  # the rules are of dense products
        unknown = not rule and _may_multiply(namespace, name)
        if unknown:
            # A compound operation arrives whole if its tensors come from inference mode.
            with self:
                out = func.decompose(*args, **(kwargs or {}))
            if out is not NotImplemented:
                return out
        out = func(*args, **(kwargs or {}))
        if rule:
            self._record(rule, out, args, operands)
        elif unknown:
            self.uncounted[str(func._schema.name)] += 1
        self._trace_weights(operands, _tensors(out))
        return out

    def _record(
        self, rule: _Rule, out: Any, args: tuple[Any, ...], operands: list[Tensor]
    ) -> None:
        op, macs = rule
        weights = [x for x in operands if id(x) in self._weights]
        inputs = [x for x in operands if id(x) not in self._weights]
        if macs is _convolution and args[8] > 1 and args[1].shape[1] == 1:
            op = "depthwise"
        layer = Layer(
            self._name(weights),
            op,
            macs(out, *args),
            sum(self._unread.pop(name, 0) for name in self._with_biases(weights)),
            sum(map(_elements, inputs)),
            sum(map(_elements, weights)),
            tuple(_tensors(out)[0].shape),
        )
        self.layers.append(layer)

    def _name(self, weights: list[Tensor]) -> str:
        """The parameter where there is one matrix, else the running module."""
        running = self._running[-1] if self._running else ""
        matrices = [x for x in weights if x.dim() > 1] or weights
        sources = {name for x in matrices for name in self._sources(x)}
        if len(sources) != 1:
            return running or self._root
        aliases = self._aliases[sources.pop()]
        inside = [name for name in aliases if name.startswith(f"{running}.")]
        return f".{(inside or aliases)[0]}".removesuffix(".weight")[1:] or self._root

    def _sources(self, weight: Tensor) -> tuple[str, ...]:
        return self._weights[id(weight)][1]

    def _with_biases(self, weights: list[Tensor]) -> list[str]:
        """The parameters read, and those biases that PyTorch adds in an operation of its own."""
        names = [name for x in weights for name in self._sources(x)]
        stems = [n.removesuffix("weight") for n in names if n.endswith("weight")]
        return names + [f"{stem}bias" for stem in stems]

    def _trace_weights(self, operands: list[Tensor], outs: list[Tensor]) -> None:
        made_of_weights = operands and all(id(x) in self._weights for x in operands)
        names = (
            {n for x in operands for n in self._sources(x)} if made_of_weights else ()
        )
        for out in outs:
            self._weights.pop(id(out), None)
            if names:
                self._weights[id(out)] = (out, tuple(sorted(names)))


def _run_without_data(model: nn.Module, inputs: Any, named: Any) -> _Recorder:
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    tensors = (*model.parameters(), *model.buffers())
    # The mode would copy these as well, but more slowly.
    empty = {id(x): mode.from_tensor(x, static_shapes=True) for x in tensors}
    with mode, FakeCopyMode(mode):
        twin = copy.deepcopy((model, inputs, named), empty)
    _drop_plain_hooks(twin[0])
    log = logging.getLogger("torch._subclasses.fake_tensor")
    was_disabled, log.disabled = log.disabled, True  # it logs what it raises
    try:
        with mode:
            return _run(*twin)
    finally:
        log.disabled = was_disabled


def _run(model: nn.Module, inputs: Any, named: Any) -> _Recorder:
    fused_shortcuts = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    recorder = _Recorder(model)
    try:
        with recorder:
            model(*inputs, **named)
    finally:
        torch.backends.mha.set_fastpath_enabled(fused_shortcuts)
    return recorder


def _copy(model: nn.Module, *arguments: Any) -> Any:
    """A copy with data; copy.deepcopy alone refuses tensors that have a history of gradients."""
    held = [x for module in model.modules() for x in _tensors(vars(module))]
    memo = {id(x): x.detach().clone() for x in held if not x.is_leaf}
    try:
        twin = copy.deepcopy((model, *arguments), memo)
    except Exception as error:
        raise ValueError(
            f"model, inputs: need what copy.deepcopy can copy: {error}"
        ) from error
    _drop_plain_hooks(twin[0])
    return twin


def _drop_plain_hooks(twin: nn.Module) -> None:
    """Functions are not copied, so those among the forward hooks would write to what the model's own write to."""
    for module in twin.modules():
        if not isinstance(module, torch.jit.ScriptModule):
            hooks = module._forward_hooks
            plain = [key for key, x in hooks.items() if isinstance(x, FunctionType)]
            for key in plain:
                del hooks[key]


@contextmanager
def _state_kept(model: nn.Module) -> Iterator[None]:
    """Without gradients, and with every random generator as it was in the end."""
    tensors = [*model.parameters(), *model.buffers()]
    devices = sorted({x.device.index or 0 for x in tensors if x.is_cuda})
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        with (
            torch.random.fork_rng(devices),
            torch.inference_mode(False),
            torch.no_grad(),
        ):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _detached(model: nn.Module, arguments: Any) -> Any:
    """Arguments without their history, and on ``meta`` if the whole model is there."""
    tensors = [*model.parameters(), *model.buffers()]
    meta = bool(tensors) and all(x.is_meta for x in tensors)
    has_data = bool(tensors) and not any(x.is_meta for x in tensors)
    if has_data and any(x.is_meta for x in _tensors(arguments)):
        raise ValueError(
            "inputs: on meta, need the device of the model, which has data"
        )

    def detach(x: Tensor) -> Tensor:
        return x.detach().to("meta") if meta else x.detach()

    return tree_map_only(Tensor, detach, arguments)


def _tensors(tree: Any) -> list[Tensor]:
    return [x for x in tree_leaves(tree) if isinstance(x, Tensor)]


def _elements(x: Tensor) -> int:
    """Elements in memory: an expanded tensor repeats its own."""
    if x.layout != torch.strided or x.is_nested:
        return x.numel()
    pairs = zip(x.shape, x.stride(), strict=True)
    return math.prod(size for size, stride in pairs if stride or not size)


# --- Checks and print -----------------------------------------------------------------


def _check_module(model: object) -> None:
    if not isinstance(model, nn.Module):
        raise ValueError(f"model: need a torch.nn.Module, got a {type(model).__name__}")
    if any(map(is_lazy, (*model.parameters(), *model.buffers()))):
        raise ValueError(
            "model: has uninitialized (lazy) parameters; run it once first"
        )


def _check_bits(bits: object) -> None:
    if not isinstance(bits, int) or isinstance(bits, bool) or bits < 1:
        raise ValueError(f"bits: need a Python integer >= 1, got {bits!r}")


def _bytes(elements: int, bits: int) -> int:
    return -(-elements * bits // 8)


def _ratio(a: float, b: float) -> float:
    return a / b if b else 0.0


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _shorten(text: str, width: int) -> str:
    """The end of a long name tells more than its start."""
    return text if len(text) <= width else f"...{text[3 - width :]}"


def _row(name: str, op: str, output: str, params: Any, macs: Any, rate: Any) -> str:
    number = [f"{n:,}" if isinstance(n, int) else n for n in (params, macs)]
    intensity = f"{rate:.1f}" if isinstance(rate, float) else rate
    row = f"{_shorten(name, 25):26}{op:12}{_shorten(output, 15):16}"
    return f"{row}{number[0]:>12}{number[1]:>15}{intensity:>7}".rstrip()
