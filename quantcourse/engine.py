"""A quantized network on integers, and the definition that it must equal bit for bit.

Codes go from layer to layer; sums are INT32, and a multiplier and a shift bring them to
the scale of the next value.  Floats appear at the input, at the output, and in layers
that stay float.  Explained in the chapter *Deployment*.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, get_args

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn import functional
from torch.utils._pytree import tree_map_only

from quantcourse._calls import arguments_of
from quantcourse._checks import one_of
from quantcourse.affine import QParams, dequantize, quantize
from quantcourse.graph import Graph, Node
from quantcourse.integer import (
    Activation,
    Layer,
    Rounding,
    TransposedLayer,
    adaptive_avg_pool,
    avg_pool,
    concat,
    max_pool,
    prepare_add,
    prepare_conv2d,
    prepare_linear,
    quantize_multiplier,
    relu,
    relu6,
)
from quantcourse.ptq import Codes, QuantizedModel, as_layer_has_it

__all__ = ["IntegerModel"]

Operation = Callable[..., Any]  # codes, and numbers of shapes, in; codes or reals out
ON_CODES = {"relu": relu, "relu6": relu6}


class IntegerModel:
    """A quantized network that computes on integers.

    Weights, multipliers, shifts and tables are made ready once.  Then each value is a
    tensor of codes, INT8 or UINT8 (wider if the recipe is), and each layer sums in
    INT32.  Floats are the inputs until they meet their quantizer, the outputs, and
    what the recipe keeps float or has no integer form; a layer that only floats read
    gives its sums times ``s_x s_w``.

    Args:
        quantized: with fixed ranges, and one scale for each value; its weights may have
            one for each output.  It must not change afterwards.
        rounding: as for `quantcourse.integer.multiply_by_quantized_multiplier`.  The
            second rounding of ``"double"`` always goes away from zero, and layer after
            layer adds to it.

    Raises:
        ValueError: for what the engine can't run, with the layer and a remedy: dynamic
            ranges, values with a scale for each channel, weights in groups, rounding
            of values other than to even; float weights, or values that are float
            throughout; layers whose sums may leave INT32.

    Source: Jacob et al., arXiv 1712.05877, section 2.
    Chapter: *Deployment*.

    >>> from quantcourse import data, models, ptq
    >>> images, _, _ = data.digits("train")
    >>> quantized = ptq.quantize(models.load("mlp"), [images[:256]], progress=False)
    >>> engine = IntegerModel(quantized)
    >>> torch.equal(engine(images[:5]), engine.simulate(images[:5]))
    True
    """

    def __init__(
        self, quantized: QuantizedModel, rounding: Rounding = "single"
    ) -> None:
        if not isinstance(quantized, QuantizedModel):
            raise ValueError(
                f"quantized: need a QuantizedModel, got a {type(quantized).__name__}"
            )
        one_of(rounding, get_args(Rounding), "rounding")
        self.graph, self.rounding = quantized.graph, rounding
        self._qps = _scales_of_values(quantized)
        steps = [
            self._step(node, quantized) for node in self.graph.nodes if node.integer
        ]
        self._operations = {step.node.name: _prepared(step) for step in steps}
        self._definitions = {step.node.name: _definition(step) for step in steps}

    def __call__(self, *inputs: Any) -> Any:
        """What the network gives, in float32.

        Args:
            inputs: as the network takes them.

        Raises:
            ValueError: for another number of inputs; for values that a quantizer can't
                take (no floats, NaN, infinity); where a value leaves INT32.
        """
        return self._result(inputs, self._operations).reals

    def simulate(self, *inputs: Any) -> Any:
        """The same by definition, in float64: slow, and equal bit for bit.

        Args, Raises: as for a call.

        Chapter: *Deployment*: the class has an example.
        """
        return self._result(inputs, self._definitions).reals

    def codes(self, *inputs: Any) -> Any:
        """What the network gives, in codes; outputs that stayed float as they are.

        Args, Raises: as for a call.

        Chapter: *Deployment*.

        >>> from quantcourse import ptq
        >>> quantized = ptq.quantize(nn.Linear(2, 1), [torch.eye(2)], progress=False)
        >>> IntegerModel(quantized).codes(torch.eye(2)).dtype
        torch.uint8
        """
        return self._result(inputs, self._operations).shown

    def walk(self, *inputs: Any, simulated: bool = False) -> Iterator[tuple[Node, Any]]:
        """Each node with its value: codes where integers read it, reals elsewhere.

        Args:
            inputs: as the network takes them.
            simulated: whether to compute by definition, as ``simulate`` does.

        Raises: as for a call.

        Chapter: *Deployment*.

        >>> from quantcourse import ptq
        >>> quantized = ptq.quantize(nn.Linear(2, 1), [torch.eye(2)], progress=False)
        >>> for node, value in IntegerModel(quantized).walk(torch.eye(2)):
        ...     print(node.op, value.dtype)
        input torch.uint8
        linear torch.uint8
        output torch.uint8
        """
        steps = self._definitions if simulated else self._operations
        for node, value in self._values(inputs, steps):
            yield node, value.shown

    def qp(self, node: Node) -> QParams | None:
        """What the codes of a node stand for; None if no integers read its value."""
        return None if node.scale_of is None else self._qps[node.scale_of]

    def _step(self, node: Node, quantized: QuantizedModel) -> "_Step":
        reads = tuple(self.qp(self.graph[name]) for name in node.inputs)
        codes = dict(quantized.weights.items()).get(node.name)
        return _Step(self.graph, node, reads, self.qp(node), codes, self.rounding)

    def _result(
        self, inputs: Sequence[Any], steps: Mapping[str, Operation]
    ) -> "_Value":
        # No list of all: values that nobody reads any more are freed.
        ((_, result),) = deque(self._values(inputs, steps), maxlen=1)
        return result

    @torch.no_grad()
    def _values(
        self, inputs: Sequence[Any], steps: Mapping[str, Operation]
    ) -> Iterator[tuple[Node, "_Value"]]:
        def step(node: Node, values: Mapping[str, _Value]) -> _Value:
            if not node.integer:
                return self._in_float(node, values)
            value = steps[node.name](*(values[name].shown for name in node.inputs))
            qp = self.qp(node)
            return _Value(value) if qp is None else _Value(None, value, qp)

        nodes = self.graph.inputs
        given = [self._given(n, x) for n, x in zip(nodes, inputs, strict=False)]
        # The graph counts them, and says how many it needs.
        yield from self.graph.walk([*given, *inputs[len(given) :]], step)

    def _in_float(self, node: Node, values: Mapping[str, "_Value"]) -> "_Value":
        def computed(form: str) -> Any:
            read = {name: getattr(values[name], form) for name in node.inputs}
            return self.graph.compute(node, read)

        if node.op == "output":
            return _Value(computed("reals"), computed("shown"))
        form = "like_reals" if node.op == "shape" else "reals"
        return self._given(node, computed(form))

    def _given(self, node: Node, x: Any) -> "_Value":
        """A value in floats, which meets its quantizer if integers read it."""
        qp = self.qp(node)
        if qp is None:
            return _Value(x)
        try:
            return _Value(x, quantize(x, qp), qp)
        except ValueError as error:
            raise ValueError(f"inputs: at {node.label}, {error}") from error


@dataclass(frozen=True, eq=False)
class _Value:
    """What a node gives: in floats if computed so, as codes if integers read it."""

    computed: Any
    codes: Any = None
    qp: QParams | None = None

    @property
    def shown(self) -> Any:
        """Codes if there are any."""
        return self.computed if self.codes is None else self.codes

    @cached_property
    def reals(self) -> Any:
        """What the codes stand for, if it was not computed in floats."""
        return self._in_floats(lambda q, qp: dequantize(q.contiguous(), qp))

    @property
    def like_reals(self) -> Any:
        """Floats of that shape, for those who look at nothing else."""
        return self._in_floats(lambda q, _: torch.empty_like(q, dtype=torch.float32))

    def _in_floats(self, convert: Callable[[Tensor, QParams], Tensor]) -> Any:
        qp = self.qp
        if qp is None or self.computed is not None:
            return self.computed
        return tree_map_only(Tensor, lambda q: convert(q, qp), self.codes)


# --- What can run -----------------------------------------------------------------


def _scales_of_values(quantized: QuantizedModel) -> dict[str, QParams]:
    """What the codes of each value stand for, refusing what the engine can't handle."""
    if quantized.recipe.activations is None:
        raise ValueError(
            "quantized: need codes for values, but its recipe has activations=None, "
            "and every layer is float; give it a Scheme"
        )
    graph, qps = quantized.graph, {}
    for name, quantizer in quantized.quantizers.items():
        qp, rounding = quantizer.qp, quantizer.scheme.rounding
        if qp is not None and qp.axis is None and rounding == "even":
            qps[name] = qp
            continue
        if qp is None:
            has, use = "ranges measured at run time", "dynamic=False"
        elif qp.axis is not None:
            has, use = "a scale for each channel", 'granularity="tensor"'
        else:
            has, use = f"rounding={rounding!r}", 'rounding="even"'
        node = graph[name]
        readers = ", ".join(reader.label for reader in graph.readers(node))
        raise ValueError(
            f"quantized: the values of {node.label} have {has}, which can't run on "
            f"integers; use {use} for activations, or keep float what reads them: "
            f"{readers}"
        )
    return qps


@dataclass(frozen=True, eq=False)
class _Step:
    """An integer node with all that it takes."""

    graph: Graph
    node: Node
    reads: tuple[QParams | None, ...]  # of each input; None for shapes
    out: QParams | None  # None: only floats read it
    codes: Codes | None  # of weights and bias
    rounding: Rounding

    @property
    def qp(self) -> QParams:
        """What the codes of the (first) input stand for."""
        return self.grids[0]

    @property
    def grids(self) -> tuple[QParams, ...]:
        """What the codes of each input stand for."""
        return tuple(qp for qp in self.reads if qp is not None)

    @property
    def grid(self) -> QParams:
        """What the codes of the result stand for."""
        assert self.out is not None
        return self.out

    @property
    def weights(self) -> Codes:
        """The codes of weights and bias, refusing what no integer sum can have."""
        if self.codes is None:
            raise ValueError("it has float weights; give it a Scheme for them")
        if self.codes.group_size is not None:
            raise ValueError(
                "a sum of products needs one scale, but groups of its weights have "
                'their own; use granularity="channel"'
            )
        return self.codes

    @property
    def layer(self) -> Any:
        """The module, with its settings."""
        return self.graph.layer(self.node)

    @property
    def activation(self) -> Activation | None:
        """What is fused behind the operation."""
        return self.node.activation  # type: ignore[return-value]

    def arguments(self, *values: Any) -> dict[str, Any]:
        """What the network gives to the layer, by name."""
        values_of = dict(zip(self.node.inputs, values, strict=True))
        given = fx.node.map_arg(self._arguments, lambda source: values_of[source.name])
        return dict(given)

    @cached_property
    def _arguments(self) -> dict[str, Any]:
        calls = {call.name: call for call in self.graph.module.graph.nodes}
        return arguments_of(calls[self.node.parts[0]], ("input", "output_size"))

    def call(self, *values: Any) -> Any:
        """The operation itself, as the network calls it, without an activation."""
        first = self.node.parts[0]
        node = replace(self.node, name=first, parts=(first,))
        return self.graph.compute(
            node, dict(zip(self.node.inputs, values, strict=True))
        )

    def move(self, *values: Any) -> Any:
        """A change of shape, on values that lie in memory in the order of their axes."""
        return self.call(*tree_map_only(Tensor, Tensor.contiguous, values))


# --- Made ready -------------------------------------------------------------------


def _prepared(step: _Step) -> Operation:
    """What computes a node from codes, by `quantcourse.integer`."""
    prepare = _PREPARATIONS.get(step.node.op, _layer)
    try:
        return prepare(step)
    except ValueError as error:
        raise ValueError(
            f"quantized: {step.node.label} can't run on integers: {error}, or keep it "
            "float in the recipe"
        ) from error


def _layer(step: _Step) -> Operation:
    codes = step.weights
    on_codes = None if step.out is None else step.activation
    if step.node.op == "linear":
        run: Operation = prepare_linear(
            *(codes.codes, codes.qp, codes.bias, step.qp, step.out),
            step.rounding,
            on_codes,
        )
    else:
        run = _convolution(step, on_codes)
    if step.out is not None:
        return run
    # In the order of the axes: the next float layer may give other bits in another.
    return lambda *values: _on_reals(run(*values).contiguous(), step.activation)


def _on_reals(x: Tensor, activation: Activation | None) -> Tensor:
    if activation is None:
        return x
    return functional.relu(x) if activation == "relu" else functional.relu6(x)


def _convolution(step: _Step, activation: Activation | None) -> Operation:
    """Along one axis it is that along two, on images of height 1."""
    layer, codes = step.layer, step.weights
    axes = len(layer.kernel_size)
    kernels = codes.codes if axes == 2 else codes.codes.unsqueeze(2)
    reach = [
        d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
    ]
    none = (0,) * axes

    def prepared(kernels: Tensor, stride: Any, padding: Any) -> Layer:
        return prepare_conv2d(
            *(kernels, codes.qp, codes.bias, step.qp, step.out),
            *(_pair(stride, 1), _pair(padding, 0), _pair(layer.dilation, 1)),
            layer.groups,
            step.rounding,
            activation,
        )

    if layer.transposed:
        # Outputs come first already; the convolution's kernels are turned around.
        turned = prepared(kernels.flip(2, 3), (1,) * axes, none)
        before = [r - p for r, p in zip(reach, layer.padding, strict=True)]
        places = _pair(layer.stride, 1), _pair(before, 0)
        settings = layer.stride, layer.padding, layer.kernel_size, axes, layer.dilation

        def transposed(*values: Any) -> Any:
            given = step.arguments(*values)
            q, size = given["input"], given.get("output_size")
            more = layer._output_padding(q, size, *settings)
            after = _pair([b + m for b, m in zip(before, more, strict=True)], 0)
            return _on_images(TransposedLayer(turned, *places, after), axes)(q)

        return transposed
    if layer.padding != "same":
        padding = none if layer.padding == "valid" else layer.padding
        return _on_images(prepared(kernels, layer.stride, padding), axes)
    run = prepared(kernels, layer.stride, [r // 2 for r in reach])
    rows, columns = _pair([r % 2 for r in reach], 0)  # what is odd goes behind
    behind, z = (0, columns, 0, rows), int(step.qp.zero_point)
    return _on_images(lambda q: run(functional.pad(q, behind, value=z)), axes)


def _pair(setting: Sequence[int], of_height_1: int) -> tuple[int, int]:
    """The setting of a layer, which may have one axis, for height and width."""
    height, width = (of_height_1, *setting)[-2:]
    return height, width


def _both(setting: int | Sequence[int]) -> tuple[int, int]:
    """The setting of a pooling, which may be one for height and width."""
    one_or_two = (setting,) if isinstance(setting, int) else setting
    height, width = (*one_or_two, *one_or_two)[-2:]
    return height, width


def _on_images(run: Operation, axes: int) -> Operation:
    """An operation on a batch of images, for values with fewer axes."""

    def on_images(q: Tensor) -> Tensor:
        images = q if q.ndim == axes + 2 else q.unsqueeze(0)
        result: Tensor = run(images if axes == 2 else images.unsqueeze(2))
        result = result if axes == 2 else result.squeeze(2)
        return result if q.ndim == axes + 2 else result.squeeze(0)

    return on_images


def _addition(step: _Step) -> Operation:
    a_qp, b_qp = step.grids
    plus = prepare_add(a_qp, b_qp, step.grid, step.rounding, step.activation)

    def on_codes(a: Tensor, b: Tensor) -> Tensor:
        if a.shape != b.shape:
            a, b = torch.broadcast_tensors(a, b)  # type: ignore[no-untyped-call]
        return plus(a, b)

    return on_codes


def _concatenation(step: _Step) -> Operation:
    def on_codes(*parts: Tensor) -> Tensor:
        pairs = zip(parts, step.grids, strict=True)
        # Each on the scale of the output; then joined as the network joins them.
        rescaled = [concat([pair], step.grid, 0, step.rounding) for pair in pairs]
        joined: Tensor = step.call(*rescaled)
        return joined

    return _activated(step, on_codes)


def _average(step: _Step) -> Operation:
    layer, out, rounding = step.layer, step.grid, step.rounding

    def on_codes(q: Tensor) -> Tensor:
        if isinstance(layer, nn.AdaptiveAvgPool2d):
            size = layer.output_size
            wanted = size if isinstance(size, Sequence) else (size, size)
            rows, columns = (
                n if n is not None else same
                for n, same in zip(wanted, q.shape[2:], strict=True)
            )
            return adaptive_avg_pool(q, step.qp, (rows, columns), out, rounding)
        settings = (_both(s) for s in (layer.kernel_size, layer.stride, layer.padding))
        kernel, stride, padding = settings
        flags = layer.ceil_mode, layer.count_include_pad
        return avg_pool(q, step.qp, kernel, stride, padding, out, rounding, *flags)

    return _activated(step, _on_images(on_codes, 2))


def _activated(step: _Step, run: Operation) -> Operation:
    """With the activation that is fused behind."""
    activation, out = step.activation, step.grid
    if activation is None:
        return run
    return lambda *values: ON_CODES[activation](run(*values), out)


def _maximum(step: _Step) -> Operation:
    layer = step.layer
    settings = [layer.kernel_size, layer.stride, layer.padding, layer.dilation]
    kernel, stride, padding, dilation = map(_both, settings)
    pairs = kernel, stride, padding, dilation
    return _on_images(
        lambda q: max_pool(q, step.qp, *pairs, ceil_mode=layer.ceil_mode), 2
    )


_PREPARATIONS: dict[str, Callable[[_Step], Operation]] = {
    "add": _addition,
    "concat": _concatenation,
    "avg_pool": _average,
    "max_pool": _maximum,
    "relu": lambda step: lambda q: relu(q, step.qp),
    "relu6": lambda step: lambda q: relu6(q, step.qp),
    "view": lambda step: step.move,
}


# --- The definition ---------------------------------------------------------------


def _definition(step: _Step) -> Operation:
    """What each integer node is, in formulas, without the kernels of `integer`.

    With ``x = q - z`` for codes without their zero point, ``y = round(M n)`` is:

    - layer: ``n = sum x w + b``, ``M = s_x s_w / s_y``;
    - average over a window of k: ``n = sum x``, ``M = s_x / (k s_y)``;
    - each part of a concatenation: ``n = x``, ``M = s_x / s_y``;
    - addition: ``n = round(M_a 2**b x_a) + round(M_b 2**b x_b)``, with
      ``M_a = s_a / s``, ``M_b = s_b / s``, ``s = 2 max(s_a, s_b)`` and
      ``M = s / (2**b s_y)``.

    The codes are ``clip(y + z_y)``.  All other operations move codes, or compare them.
    All is in float64, where sums of integers below ``2**53`` are exact in any order.
    """
    defined: Callable[..., Tensor] = _DEFINITIONS.get(step.node.op, _defined_layer)
    return lambda *codes: defined(step, *codes)


def _defined_layer(step: _Step, *values: Any) -> Tensor:
    layer, codes, given = step.layer, step.weights, step.arguments(*values)
    weight = as_layer_has_it(_centred(codes.codes, codes.qp), layer)
    bias = {} if codes.bias is None else {"bias": codes.bias.double()}
    given["input"] = _centred(given["input"], step.qp)
    sums = functional_call(layer, {"weight": weight, **bias}, (), given)
    # The axis of outputs lies before those of space.
    shape = -1, *(1 for _ in getattr(layer, "kernel_size", ()))
    kind = torch.float32 if step.rounding == "float" else torch.float64
    if step.out is None:
        scale = step.qp.scale.double() * codes.scale.double()
        return _on_reals((sums * scale.view(shape)).float(), step.activation)
    scale = step.qp.scale.to(kind) * codes.scale.to(kind)
    m = (scale / step.out.scale.to(kind)).double().view(shape)
    return _on_grid(_times(sums, m, step.rounding), step.out, step.activation)


def _defined_addition(step: _Step, *operands: Tensor) -> Tensor:
    out, qps = step.grid, step.grids
    if step.rounding == "float":  # ONNX: reals in float32, quantized
        a, b = (
            qp.scale * _centred(q, qp).float()
            for q, qp in zip(operands, qps, strict=True)
        )
        return _on_grid(((a + b) / out.scale).round().double(), out, step.activation)
    bits = 20 if all(qp.dtype.bits <= 8 for qp in qps) else 15
    common = 2 * max(float(qp.scale) for qp in qps)
    a, b = (
        _times(_centred(q, qp) * 2**bits, float(qp.scale) / common, step.rounding)
        for q, qp in zip(operands, qps, strict=True)
    )
    y = _times(a + b, common / (2**bits * float(out.scale)), step.rounding)
    return _on_grid(y, out, step.activation)


def _defined_concatenation(step: _Step, *parts: Tensor) -> Tensor:
    out = step.grid
    rescaled = [
        _times(_centred(q, qp), float(qp.scale) / float(out.scale), step.rounding)
        for q, qp in zip(parts, step.grids, strict=True)
    ]
    return _on_grid(step.call(*rescaled), out, step.activation)


def _defined_average(step: _Step, q: Tensor) -> Tensor:
    layer, x, out = step.layer, _centred(q, step.qp), step.grid
    means = layer(x)
    if isinstance(layer, nn.AdaptiveAvgPool2d):
        # Window i of m along an axis of length n: floor(i n / m) to ceil((i + 1) n / m).
        rows, columns = (
            torch.tensor([-(-(i + 1) * n // m) - i * n // m for i in range(m)])
            for n, m in zip(x.shape[-2:], means.shape[-2:], strict=True)
        )
        counts = torch.outer(rows, columns).to(x)
    else:
        settings = layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode
        ones = torch.ones_like(x)
        inside = functional.avg_pool2d(ones, *settings, divisor_override=1)
        counts = (inside / layer(ones)).round()
    m = float(step.qp.scale) / (counts * float(out.scale))
    sums = (means * counts).round()
    return _on_grid(_times(sums, m, step.rounding), out, step.activation)


def _defined_activation(step: _Step, q: Tensor) -> Tensor:
    activation: Any = step.node.op
    return _on_grid(_centred(q, step.qp), step.qp, activation)


_DEFINITIONS: dict[str, Callable[..., Tensor]] = {
    "add": _defined_addition,
    "concat": _defined_concatenation,
    "avg_pool": _defined_average,
    "max_pool": lambda step, q: step.call(q.double()).to(q.dtype),
    "relu": _defined_activation,
    "relu6": _defined_activation,
    "view": _Step.move,
}


def _centred(q: Tensor, qp: QParams) -> Tensor:
    """``x = q - z``, where z may differ along axis 0."""
    return q.double() - qp.zero_point.view(-1, *[1] * (q.ndim - 1))


def _times(n: Tensor, m: Tensor | float, rounding: Rounding) -> Tensor:
    """``round(m n)`` for integers n, as the rounding says; ``m = m0 2**(shift - 31)``."""
    m = torch.as_tensor(m, dtype=torch.float64, device=n.device)
    if rounding == "float":
        return (n.float() * m.float()).round().double()
    m0, shift = (t.double() for t in quantize_multiplier(m))
    left, right = 2 ** shift.clamp(min=0), 2 ** (-shift).clamp(min=0)
    if rounding == "single":  # once, ties up
        return _product(n * left, m0, 2**31 * right)
    high = _product(n * left, m0, torch.full_like(m0, 2**31))
    return high.sign() * (high.abs() / right + 0.5).floor()  # again, ties away from 0


def _product(n: Tensor, m0: Tensor, divisor: Tensor) -> Tensor:
    """``floor(n m0 / divisor + 1/2)`` for integers and a power of two from 2**31 on.

    float64 does not hold 62 bits, so m0 comes in two halves; the half is added as an
    integer too.
    """
    high, low = (m0 / 2**16).floor(), m0 % 2**16
    return (
        (n * high + (n * low / 2**16).floor() + divisor / 2**17) * 2**16 / divisor
    ).floor()


def _on_grid(y: Tensor, qp: QParams, activation: Activation | None) -> Tensor:
    """``clip(y + z)``; an activation moves the ends to the codes of 0 and of 6."""
    z, low, high = int(qp.zero_point), qp.dtype.min, qp.dtype.max
    if activation is not None:
        low = z
    if activation == "relu6":
        high = min(high, z + int((6 / qp.scale).round()))
    return (y + z).clamp(low, high).to(qp.dtype.storage)
