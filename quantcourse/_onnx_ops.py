"""PyTorch's operations in the words of ONNX: one small function each, by torch's names.

A function takes the place in the network that it writes for, then the arguments of
torch's function of that name.  What it returns names the values that the file computes.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

BATCH = -1  # an axis as long as the batch, or a multiple of it


@dataclass(frozen=True)
class Value:
    """A tensor of the file.

    Args:
        name: of it.
        shape: its axes, ``BATCH`` where the length follows the batch.
        dtype: torch's.
        axes: the same lengths for a batch of two.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    axes: tuple[int, ...]

    @property
    def rank(self) -> int:
        """How many axes it has."""
        return len(self.shape)


@dataclass(frozen=True)
class Varies:
    """A number that depends on the size of the batch."""

    first: Any


Input = Value | str | Tensor | Sequence[int] | None


@dataclass(frozen=True)
class Step:
    """A node of the file."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Writer:
    """The nodes and tensors of a file, so far.

    Args:
        steps: nodes in the order of their computation.
        tensors: constants by name; with them how many bits a code takes in the file,
            None as in memory.
        first_input: the name of an input, whose first axis is the batch.
    """

    steps: list[Step] = field(default_factory=list)
    tensors: dict[str, tuple[Tensor, int | None]] = field(default_factory=dict)
    first_input: str = ""
    taken: Counter[str] = field(default_factory=Counter)
    known: dict[int, str] = field(default_factory=dict)

    def free(self, name: str) -> str:
        """``name``, with a number if it is taken."""
        self.taken[name] += 1
        n = self.taken[name]
        return name if n == 1 else self.free(f"{name}_{n}")

    def tensor(self, name: str, t: Tensor, bits: int | None = None) -> Value:
        """A constant; what was written before, as a shared weight, is not repeated."""
        if id(t) not in self.known:
            self.known[id(t)] = self.free(name)
            self.tensors[self.known[id(t)]] = t, bits
        return Value(self.known[id(t)], tuple(t.shape), t.dtype, tuple(t.shape))

    def keep(self, outputs: Sequence[Value]) -> None:
        """Drop the nodes and constants that no output depends on."""
        needed = {value.name for value in outputs}
        kept = []
        for step in reversed(self.steps):
            if not needed.isdisjoint(step.outputs):
                needed.update(step.inputs)
                kept.append(step)
        self.steps = kept[::-1]
        self.tensors = {name: t for name, t in self.tensors.items() if name in needed}


@dataclass(frozen=True)
class Place:
    """Where in the network something is written.

    Args:
        writer: what it goes into.
        label: of the node of the network.
        result: what torch gave there, as values without a name.
        settle: what happens to each tensor that is computed.
    """

    writer: Writer
    label: str
    result: Any
    settle: Callable[["Place", str], str] | None = None

    def __call__(self, kind: str, *inputs: Input, **attributes: Any) -> str:
        """Write one node; the name of its value."""
        (name,) = self.several(1, kind, *inputs, **attributes)
        return name

    def several(
        self, n: int, kind: str, *inputs: Input, **attributes: Any
    ) -> list[str]:
        """Write one node with ``n`` values; their names."""
        names = [self.name_of(i) for i in inputs]
        while names and not names[-1]:
            names.pop()
        made = [self.writer.free(f"{self.label}/{kind}") for _ in range(n)]
        self.writer.steps.append(Step(kind, tuple(names), tuple(made), attributes))
        if self.settle is None:
            return made
        return [self.settle(replace(self, settle=None), name) for name in made]

    def name_of(self, given: Input) -> str:
        """The name of a value; constants get one."""
        if given is None or isinstance(given, str):
            return given or ""
        if isinstance(given, Value):
            return given.name
        if not isinstance(given, Tensor):
            given = torch.tensor([int(i) for i in given], dtype=torch.int64)
        return self.writer.tensor(f"{self.label}/constant", given).name

    def refuse(self, what: str) -> ValueError:
        """The error for what ONNX, or this module, can't say."""
        return ValueError(
            f"model: no ONNX form of {what} at {self.label}; write it with other "
            "operations, or leave this part out of the exported model"
        )

    def number(self, value: Any, dtype: torch.dtype = torch.float32) -> Input:
        """A number as a constant, a tensor as a value of this type."""
        if isinstance(value, Value):
            if value.dtype == dtype:
                return value
            name: str = self("Cast", value, to=ONNX_TYPES[dtype])
            return name
        if isinstance(value, Varies):
            raise self.refuse("a number that depends on the size of the batch")
        return torch.tensor(value, dtype=dtype)


ONNX_TYPES = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.uint16: 4,
    torch.int16: 5,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float64: 11,
}
"""The numbers that ONNX gives to types."""


def each(value: Any, n: int) -> list[int]:
    """One setting for each of ``n`` axes, where torch takes one for all too."""
    if isinstance(value, int):
        return [value] * n
    values = [int(v) for v in value]
    return values * n if len(values) == 1 else values


# --- Layers -----------------------------------------------------------------------


def conv(
    at: Place,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> str:
    n = weight.rank - 2
    _with_batch(at, input, n)
    dilations, kernel = each(dilation, n), weight.shape[2:]
    if isinstance(padding, str):
        totals = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        begin = [0 if padding == "valid" else total // 2 for total in totals]
        end = [
            0 if padding == "valid" else t - b
            for t, b in zip(totals, begin, strict=True)
        ]
    else:
        begin = end = each(padding, n)
    source: Input = input
    if padding_mode != "zeros":
        mode = _PAD_MODES[padding_mode]
        source = at("Pad", input, [0, 0, *begin, 0, 0, *end], mode=mode)
        begin = end = [0] * n
    return at(
        "Conv",
        *(source, weight, bias),
        kernel_shape=list(kernel),
        strides=each(stride, n),
        pads=[*begin, *end],
        dilations=dilations,
        group=groups,
    )


def conv_transpose(
    at: Place,
    input: Value,
    weight: Value,
    bias: Value | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
    output_size: Any = None,
) -> str:
    n = weight.rank - 2
    _with_batch(at, input, n)
    kernel, strides = list(weight.shape[2:]), each(stride, n)
    pads, dilations = each(padding, n), each(dilation, n)
    sizes, results = input.shape[2:], at.result.shape[2:]
    if BATCH in (*sizes, *results):
        raise at.refuse("a transposed convolution along the batch")
    # What torch found says how far the output reaches, however it was asked for.
    axes = zip(results, sizes, kernel, strides, pads, dilations, strict=True)
    more = [
        out - ((size - 1) * s - 2 * p + d * (k - 1) + 1)
        for out, size, k, s, p, d in axes
    ]
    return at(
        "ConvTranspose",
        *(input, weight, bias),
        kernel_shape=kernel,
        strides=strides,
        pads=pads * 2,
        output_padding=more,
        dilations=dilations,
        group=groups,
    )


def _with_batch(at: Place, input: Value, n: int) -> None:
    if input.rank != n + 2:
        raise at.refuse(f"a layer of {n} dimensions on a tensor of {input.rank} axes")


def linear(at: Place, input: Value, weight: Value, bias: Value | None = None) -> str:
    if input.rank == 2 and weight.rank == 2:
        return at("Gemm", input, weight, bias, transB=1)
    product = at("MatMul", input, at("Transpose", weight, perm=_swapped(weight)))
    return product if bias is None else at("Add", product, bias)


def _swapped(x: Value) -> list[int]:
    """The axes in order, but the last two the other way round."""
    order = list(range(x.rank))
    order[-2:] = order[:-3:-1]
    return order


def embedding(at: Place, input: Value, weight: Value, *_: Any, **others: Any) -> str:
    if any(others.get(name) for name in ("max_norm", "sparse")):
        raise at.refuse("an embedding that changes its weights")
    return at("Gather", weight, input, axis=0)


# --- Pooling ----------------------------------------------------------------------


def max_pool(
    at: Place,
    input: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
    *,
    n: int,
) -> str:
    _with_batch(at, input, n)
    if return_indices:
        raise at.refuse("pooling that returns indices")
    kernel, pads = each(kernel_size, n), each(padding, n)
    strides = each(stride or kernel_size, n)
    dilations = each(dilation, n)
    reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
    more = _overhang(at, input, reach, strides, pads) if ceil_mode else [0] * n
    return at(
        "MaxPool",
        input,
        kernel_shape=kernel,
        strides=strides,
        pads=[*pads, *(p + m for p, m in zip(pads, more, strict=True))],
        dilations=dilations,
    )


def avg_pool(
    at: Place,
    input: Value,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
    *,
    n: int,
) -> str:
    _with_batch(at, input, n)
    if divisor_override is not None:
        raise at.refuse("an average with a divisor of its own")
    kernel, pads = each(kernel_size, n), each(padding, n)
    strides = each(stride or kernel_size, n)
    more = _overhang(at, input, kernel, strides, pads) if ceil_mode else [0] * n
    source: Input = input
    if any(more) and any(pads) and count_include_pad:
        # What hangs over is not counted, but zeros around the map are.
        source = at("Pad", input, [0, 0, *pads, 0, 0, *pads], mode="constant")
        pads, count_include_pad = [0] * n, False
    return at(
        "AveragePool",
        source,
        kernel_shape=kernel,
        strides=strides,
        pads=[*pads, *(p + m for p, m in zip(pads, more, strict=True))],
        count_include_pad=int(count_include_pad and any(pads)),
    )


def _overhang(
    at: Place, input: Value, reach: list[int], strides: list[int], pads: list[int]
) -> list[int]:
    """By how much the last window of each axis hangs over, as ``ceil_mode`` allows."""
    axes = zip(at.result.shape[2:], input.shape[2:], reach, strides, pads, strict=True)
    return [max(0, (out - 1) * s + r - size - 2 * p) for out, size, r, s, p in axes]


def adaptive_avg_pool(at: Place, input: Value, output_size: Any, *, n: int) -> str:
    _with_batch(at, input, n)
    outputs, sizes = at.result.shape[2:], input.shape[2:]
    if set(outputs) == {1}:
        return at("GlobalAveragePool", input)
    if all(size % out == 0 for out, size in zip(outputs, sizes, strict=True)):
        kernel = [size // out for out, size in zip(outputs, sizes, strict=True)]
        return at("AveragePool", input, kernel_shape=kernel, strides=kernel)
    if n > 2:
        raise at.refuse("an average over windows of unequal sizes")
    # Windows of unequal sizes: a product with a matrix of shares for each axis.
    result: Input = at("MatMul", input, _shares(sizes[-1], outputs[-1]).T.contiguous())
    if n == 2:
        result = at("MatMul", _shares(sizes[0], outputs[0]), result)
    return str(result)


def _shares(size: int, out: int) -> Tensor:
    """The matrix that averages ``size`` values to ``out``, as torch places windows."""
    shares = torch.zeros(out, size)
    for i in range(out):
        first, last = i * size // out, -(-(i + 1) * size // out)
        shares[i, first:last] = 1 / (last - first)
    return shares


def adaptive_max_pool(
    at: Place, input: Value, output_size: Any, return_indices: bool = False, *, n: int
) -> str:
    _with_batch(at, input, n)
    outputs, sizes = at.result.shape[2:], input.shape[2:]
    whole = all(size % out == 0 for out, size in zip(outputs, sizes, strict=True))
    if return_indices or not whole:
        raise at.refuse("adaptive max pooling with indices or unequal windows")
    kernel = [size // out for out, size in zip(outputs, sizes, strict=True)]
    return at("MaxPool", input, kernel_shape=kernel, strides=kernel)


# --- Normalization ----------------------------------------------------------------


def batch_norm(
    at: Place,
    input: Value,
    running_mean: Value | None,
    running_var: Value | None,
    weight: Value | None = None,
    bias: Value | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> str:
    if training or running_mean is None or running_var is None:
        raise at.refuse("a batch norm that measures each batch")
    one, zero = torch.ones(running_mean.shape), torch.zeros(running_mean.shape)
    gamma, beta = weight or one, bias or zero
    constants = (gamma, beta, running_mean, running_var)
    return at("BatchNormalization", input, *constants, epsilon=eps)


def layer_norm(
    at: Place,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> str:
    shape = each(normalized_shape, 1)
    scale = weight or torch.ones(shape)
    return at(
        "LayerNormalization",
        *(input, scale, bias),
        axis=-len(shape),
        epsilon=eps,
    )


def rms_norm(
    at: Place,
    input: Value,
    normalized_shape: Sequence[int],
    weight: Value | None = None,
    eps: float | None = None,
) -> str:
    axes = list(range(-len(each(normalized_shape, 1)), 0))
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    square = at("ReduceMean", at("Mul", input, input), axes, keepdims=1)
    size = at("Sqrt", at("Add", square, at.number(eps)))
    result = at("Div", input, size)
    return result if weight is None else at("Mul", result, weight)


def group_norm(
    at: Place,
    input: Value,
    num_groups: int,
    weight: Value | None = None,
    bias: Value | None = None,
    eps: float = 1e-5,
) -> str:
    # Each group as one channel: the runtime has no group norm of its own.
    grouped = at("Reshape", input, [0, num_groups, -1])
    one, zero = torch.ones(num_groups), torch.zeros(num_groups)
    normal = at("InstanceNormalization", grouped, one, zero, epsilon=eps)
    result = at("Reshape", normal, at.result.shape)
    each_channel = [-1, *[1] * (input.rank - 2)]
    if weight is not None:
        result = at("Mul", result, at("Reshape", weight, each_channel))
    if bias is not None:
        result = at("Add", result, at("Reshape", bias, each_channel))
    return result


def instance_norm(
    at: Place,
    input: Value,
    running_mean: Value | None = None,
    running_var: Value | None = None,
    weight: Value | None = None,
    bias: Value | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> str:
    if not use_input_stats or running_mean is not None:
        raise at.refuse("an instance norm with running statistics")
    scale = weight or torch.ones(input.shape[1])
    shift = bias or torch.zeros(input.shape[1])
    return at("InstanceNormalization", input, scale, shift, epsilon=eps)


# --- Activations ------------------------------------------------------------------


def gelu(at: Place, input: Value, approximate: str = "none") -> str:
    return at("Gelu", input, approximate=approximate)


def silu(at: Place, input: Value, inplace: bool = False) -> str:
    return at("Mul", input, at("Sigmoid", input))


def hardsigmoid(at: Place, input: Value, inplace: bool = False) -> str:
    return at("HardSigmoid", input, alpha=1 / 6, beta=0.5)


def leaky_relu(
    at: Place, input: Value, negative_slope: float = 0.01, inplace: bool = False
) -> str:
    return at("LeakyRelu", input, alpha=negative_slope)


def elu(at: Place, input: Value, alpha: float = 1.0, inplace: bool = False) -> str:
    return at("Elu", input, alpha=alpha)


def celu(at: Place, input: Value, alpha: float = 1.0, inplace: bool = False) -> str:
    return at("Celu", input, alpha=alpha)


def softplus(at: Place, input: Value, beta: float = 1, threshold: float = 20) -> str:
    if beta == 1:
        return at("Softplus", input)
    b = at.number(beta)
    return at("Div", at("Softplus", at("Mul", input, b)), b)


def log_sigmoid(at: Place, input: Value) -> str:
    return at("Neg", at("Softplus", at("Neg", input)))


def prelu(at: Place, input: Value, weight: Value) -> str:
    slopes = [-1, *[1] * (input.rank - 2)]
    return at("PRelu", input, at("Reshape", weight, slopes))


def relu6(at: Place, input: Value, inplace: bool = False) -> str:
    return clamp(at, input, 0, 6)


def hardtanh(
    at: Place,
    input: Value,
    min_val: float = -1.0,
    max_val: float = 1.0,
    inplace: bool = False,
) -> str:
    return clamp(at, input, min_val, max_val)


def clamp(at: Place, input: Value, min: Any = None, max: Any = None) -> str:
    dtype = at.result.dtype
    result = at.number(input, dtype)
    if any(isinstance(end, Value) for end in (min, max)):
        result = result if min is None else at("Max", result, at.number(min, dtype))
        result = result if max is None else at("Min", result, at.number(max, dtype))
        return at.name_of(result)
    ends = [None if end is None else at.number(end, dtype) for end in (min, max)]
    return at("Clip", result, *ends)


def softmax(
    at: Place, input: Value, dim: int | None, dtype: Any = None, **_: Any
) -> str:
    return at("Softmax", at.number(input, at.result.dtype), axis=_axis(at, dim))


def log_softmax(
    at: Place, input: Value, dim: int | None, dtype: Any = None, **_: Any
) -> str:
    return at("LogSoftmax", at.number(input, at.result.dtype), axis=_axis(at, dim))


def _axis(at: Place, dim: int | None) -> int:
    # Without one, torch takes the axis of channels.
    return (0 if at.result.rank in (0, 1, 3) else 1) if dim is None else dim


def glu(at: Place, input: Value, dim: int = -1) -> str:
    half = input.shape[dim] // 2
    a, b = at.several(2, "Split", input, [half, half], axis=dim)
    return at("Mul", a, at("Sigmoid", b))


# --- Arithmetic -------------------------------------------------------------------


def _pointwise(kind: str) -> Callable[..., str]:
    """An operation on one value."""

    def write(at: Place, input: Value, inplace: bool = False) -> str:
        # Of integers, torch computes roots and the like in floats.
        return at(kind, at.number(input, at.result.dtype))

    return write


def _binary(kind: str) -> Callable[..., str]:
    """On two values, or a value and a number, in the type of the result."""

    def write(at: Place, input: Any, other: Any) -> str:
        dtype = at.result.dtype
        return at(kind, at.number(input, dtype), at.number(other, dtype))

    return write


def _comparison(kind: str) -> Callable[..., str]:
    def write(at: Place, input: Any, other: Any) -> str:
        dtype = _common(input, other)
        return at(kind, at.number(input, dtype), at.number(other, dtype))

    return write


def _common(*values: Any) -> torch.dtype:
    """The type in which torch computes with these."""
    like = [
        torch.empty((1,) * v.rank, dtype=v.dtype) if isinstance(v, Value) else v
        for v in values
    ]
    return torch.result_type(*like)


def _not_equal(at: Place, input: Any, other: Any) -> str:
    return at("Not", _comparison("Equal")(at, input, other))


def add(at: Place, input: Any, other: Any, *, alpha: float = 1) -> str:
    return _sum(at, "Add", input, other, alpha)


def sub(at: Place, input: Any, other: Any, *, alpha: float = 1) -> str:
    return _sum(at, "Sub", input, other, alpha)


def rsub(at: Place, input: Any, other: Any, *, alpha: float = 1) -> str:
    return _sum(at, "Sub", other, input, alpha)


def _sum(at: Place, kind: str, input: Any, other: Any, alpha: float) -> str:
    dtype = at.result.dtype
    second = at.number(other, dtype)
    if alpha != 1:
        second = at("Mul", second, at.number(alpha, dtype))
    return at(kind, at.number(input, dtype), second)


def div(at: Place, input: Any, other: Any, *, rounding_mode: str | None = None) -> str:
    quotient = _binary("Div")(at, input, other)
    if rounding_mode is None:
        return quotient
    if not at.result.dtype.is_floating_point:
        raise at.refuse("a division of integers")
    if rounding_mode == "floor":
        return at("Floor", quotient)
    return at("Mul", at("Sign", quotient), at("Floor", at("Abs", quotient)))


def floordiv(at: Place, input: Any, other: Any) -> str:
    return div(at, input, other, rounding_mode="floor")


def matmul(at: Place, input: Value, other: Value, **_: Any) -> str:
    return at("MatMul", input, other)


def einsum(at: Place, equation: str, *operands: Any) -> str:
    values = operands[0] if isinstance(operands[0], list | tuple) else operands
    return at("Einsum", *values, equation=equation)


def scaled_dot_product_attention(
    at: Place,
    query: Value,
    key: Value,
    value: Value,
    attn_mask: Value | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> str:
    if dropout_p or enable_gqa:
        raise at.refuse("attention with dropout or shared heads")
    factor = at.number(1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    scores = at("MatMul", query, at("Transpose", key, perm=_swapped(key)))
    scores = at("Mul", scores, factor)
    mask: Input = attn_mask
    if is_causal:
        mask = torch.full((query.shape[-2], key.shape[-2]), -torch.inf).triu(1)
    elif attn_mask is not None and attn_mask.dtype == torch.bool:
        mask = at("Where", attn_mask, at.number(0.0), at.number(-torch.inf))
    if mask is not None:
        scores = at("Add", scores, mask)
    return at("MatMul", at("Softmax", scores, axis=-1), value)


def where(at: Place, condition: Value, input: Any, other: Any) -> str:
    dtype = at.result.dtype
    return at("Where", condition, at.number(input, dtype), at.number(other, dtype))


def masked_fill(at: Place, input: Value, mask: Value, value: Any) -> str:
    return where(at, mask, value, input)


def cast(at: Place, input: Value, *_: Any, **__: Any) -> str:
    return at.name_of(at.number(input, at.result.dtype))


# --- Over axes --------------------------------------------------------------------


def _reduction(kind: str) -> Callable[..., str]:
    def write(
        at: Place,
        input: Value,
        dim: Any = None,
        keepdim: bool = False,
        dtype: Any = None,
    ) -> str:
        axes = list(range(input.rank)) if dim is None or dim == () else each(dim, 1)
        source = at.number(input, at.result.dtype)
        return at(kind, source, axes, keepdims=int(keepdim))

    return write


def _extreme(reduction: str, binary: str) -> Callable[..., str]:
    """``max`` and ``min``: of two values, or of all."""

    def write(
        at: Place,
        input: Value,
        other: Any = None,
        keepdim: bool = False,
        *,
        dim: int | None = None,
    ) -> str:
        if isinstance(other, Value):
            return _binary(binary)(at, input, other)
        if other is None and dim is None:
            return _reduction(reduction)(at, input)
        name = binary.lower()
        raise at.refuse(
            f"{name} over an axis with its indices (a{name} gives the values alone)"
        )

    return write


def var(
    at: Place,
    input: Value,
    dim: Any = None,
    unbiased: bool = True,
    keepdim: bool = False,
    *,
    correction: int | None = None,
) -> str:
    axes = list(range(input.rank)) if dim is None else each(dim, 1)
    count = math.prod(input.shape[a] for a in axes)
    if count < 0:
        raise at.refuse("a variance over the batch")
    less = int(unbiased) if correction is None else correction
    centred = at("Sub", input, at("ReduceMean", input, axes, keepdims=1))
    squares = at("Mul", centred, centred)
    total = at("ReduceSum", squares, axes, keepdims=int(keepdim))
    return at("Div", total, at.number(float(count - less)))


def std(at: Place, *args: Any, **kwargs: Any) -> str:
    return at("Sqrt", var(at, *args, **kwargs))


def argmax(
    at: Place, input: Value, dim: int | None = None, keepdim: bool = False
) -> str:
    if dim is None:
        raise at.refuse("argmax over all axes")
    return at("ArgMax", input, axis=dim, keepdims=int(keepdim))


def cumsum(at: Place, input: Value, dim: int, dtype: Any = None) -> str:
    source = at.number(input, at.result.dtype)
    return at("CumSum", source, torch.tensor(dim))


# --- Shapes -----------------------------------------------------------------------


def reshape(at: Place, input: Value, *_: Any, **__: Any) -> str:
    """Whatever gives the same values in the same order another shape."""
    if at.result.shape.count(BATCH) > 1:
        raise at.refuse("a shape with two axes that follow the batch")
    return at("Reshape", input, at.result.shape)


def same(at: Place, input: Value, *_: Any, **__: Any) -> str:
    return input.name


def transpose(at: Place, input: Value, dim0: int, dim1: int) -> str:
    order = list(range(input.rank))
    order[dim0], order[dim1] = order[dim1], order[dim0]
    return at("Transpose", input, perm=order)


def permute(at: Place, input: Value, *dims: Any) -> str:
    order = dims[0] if isinstance(dims[0], list | tuple) else dims
    return at("Transpose", input, perm=[d % input.rank for d in order])


def getattr_(at: Place, input: Value, name: str) -> str:
    if name == "data":
        return input.name
    order = list(range(input.rank))
    if name in ("T", "H"):
        order.reverse()
    elif name in ("mT", "mH"):
        order = _swapped(input)
    else:
        raise at.refuse(f".{name}")
    return at("Transpose", input, perm=order)


def getitem(at: Place, input: Any, index: Any) -> Any:
    if not isinstance(input, Value):
        return input[index]
    indices = list(index) if isinstance(index, tuple) else [index]
    plain = [i for i in indices if i is not None]
    if Ellipsis in [i if isinstance(i, type(...)) else None for i in plain]:
        gap = input.rank - len(plain) + 1
        where = next(n for n, i in enumerate(plain) if i is Ellipsis)
        plain[where : where + 1] = [slice(None)] * gap
    result: Input = input
    if any(isinstance(i, Varies) for i in plain):
        raise at.refuse("an index that depends on the size of the batch")
    cuts = [
        (i.start or 0, 2**62 if i.stop is None else i.stop, axis, i.step or 1)
        for axis, i in enumerate(plain)
        if isinstance(i, slice) and i != slice(None)
    ]
    if cuts:
        if any(not isinstance(n, int) for cut in cuts for n in cut):
            raise at.refuse("a slice whose ends depend on the size of the batch")
        result = at("Slice", result, *map(list, zip(*cuts, strict=True)))
    picks = [(axis, i) for axis, i in enumerate(plain) if not isinstance(i, slice)]
    several = len(picks) > 1 and any(isinstance(i, Value) for _, i in picks)
    if several or any(not isinstance(i, int | Value) for _, i in picks):
        raise at.refuse("an index of this kind")
    for axis, i in reversed(picks):  # the last first: the axes before keep their place
        if isinstance(i, bool) or (isinstance(i, Value) and i.dtype == torch.bool):
            raise at.refuse("an index of truth values")
        where_to = torch.tensor(i) if isinstance(i, int) else i
        result = at("Gather", result, where_to, axis=axis)
    if None in [i if i is None else 0 for i in indices]:
        result = at("Reshape", result, at.result.shape)
    return at.name_of(result)


def select(at: Place, input: Value, dim: int, index: int) -> str:
    return at("Gather", input, torch.tensor(index), axis=dim)


def index_select(at: Place, input: Value, dim: int, index: Value) -> str:
    return at("Gather", input, index, axis=dim)


def narrow(at: Place, input: Value, dim: int, start: int, length: int) -> str:
    return at("Slice", input, [start], [start + length], [dim])


def split(
    at: Place, input: Value, *args: Any, dim: int = 0, **kwargs: Any
) -> list[str]:
    """``chunk`` and ``split`` alike: the sizes are those that torch found."""
    axis = args[1] if len(args) > 1 else dim
    sizes = [part.shape[axis] for part in at.result]
    if BATCH in sizes:
        raise at.refuse("a split of the batch")
    return at.several(len(sizes), "Split", input, sizes, axis=axis)


def unbind(at: Place, input: Value, dim: int = 0) -> list[str]:
    if input.shape[dim] == BATCH:
        raise at.refuse("a split of the batch")
    return [select(at, input, dim, i) for i in range(input.shape[dim])]


def cat(
    at: Place, tensors: Sequence[Value], dim: int = 0, axis: int | None = None
) -> str:
    parts = [at.number(t, at.result.dtype) for t in tensors if t.axes != (0,)]
    return at("Concat", *parts, axis=dim if axis is None else axis)


def stack(at: Place, tensors: Sequence[Value], dim: int = 0) -> str:
    axis = dim % (tensors[0].rank + 1)
    parts = [at("Unsqueeze", t, [axis]) for t in tensors]
    return at("Concat", *parts, axis=axis)


def expand(at: Place, input: Value, *_: Any, **__: Any) -> str:
    return broadcast(at, input, at.result)


def broadcast(at: Place, input: Value, result: Value) -> str:
    """``input`` repeated along axes of length one, along that of the batch too."""
    mine = [1] * (result.rank - input.rank) + list(input.shape)
    grown = [a for a, b in zip(mine, result.shape, strict=True) if b == BATCH != a]
    if grown and (len(grown) > 1 or result.axes[result.shape.index(BATCH)] != 2):
        raise at.refuse("an axis that is a multiple of the batch")
    if not grown:
        return at("Expand", input, [abs(n) for n in result.shape])
    place = result.shape.index(BATCH)
    batch = at("Shape", at.writer.first_input, start=0, end=1)
    shape = at("Concat", result.shape[:place], batch, result.shape[place + 1 :], axis=0)
    return at("Expand", input, shape)


def repeat(at: Place, input: Value, *sizes: Any) -> str:
    times = list(sizes[0] if isinstance(sizes[0], list | tuple) else sizes)
    if any(isinstance(n, Varies) for n in times):
        raise at.refuse("a number of repetitions that depends on the size of the batch")
    source: Input = input
    if len(times) > input.rank:
        source = at("Unsqueeze", input, list(range(len(times) - input.rank)))
    return at("Tile", source, times)


_PAD_MODES = {
    "constant": "constant",
    "reflect": "reflect",
    "replicate": "edge",
    "circular": "wrap",
}


def pad(
    at: Place,
    input: Value,
    pad: Sequence[int],
    mode: str = "constant",
    value: float | None = None,
) -> str:
    ends = [0] * (input.rank - len(pad) // 2)
    begin, end = [*ends, *pad[-2::-2]], [*ends, *pad[::-2]]
    fill = at.number(value or 0, input.dtype)
    return at("Pad", input, [*begin, *end], fill, mode=_PAD_MODES[mode])


def pixel_shuffle(at: Place, input: Value, upscale_factor: int) -> str:
    return at("DepthToSpace", input, blocksize=upscale_factor, mode="CRD")


def pixel_unshuffle(at: Place, input: Value, downscale_factor: int) -> str:
    r, (_, c, h, w) = downscale_factor, input.shape
    blocks = at("Reshape", input, [-1, c, h // r, r, w // r, r])
    moved = at("Transpose", blocks, perm=[0, 1, 3, 5, 2, 4])
    return at("Reshape", moved, at.result.shape)


def channel_shuffle(at: Place, input: Value, groups: int) -> str:
    _, c, *size = input.shape
    blocks = at("Reshape", input, [-1, groups, c // groups, *size])
    order = [0, 2, 1, *range(3, 3 + len(size))]
    return at("Reshape", at("Transpose", blocks, perm=order), at.result.shape)


def flip(at: Place, input: Value, *dims: Any) -> str:
    axes = list(dims[0] if isinstance(dims[0], list | tuple) else dims)
    n = len(axes)
    return at("Slice", input, [-1] * n, [-(2**62)] * n, axes, [-1] * n)


def roll(at: Place, input: Value, shifts: Any, dims: Any = None) -> str:
    if dims is None:
        raise at.refuse("a roll over all axes at once")
    result: Input = input
    for shift, axis in zip(each(shifts, 1), each(dims, 1), strict=True):
        length = input.shape[axis]
        if length == BATCH:
            raise at.refuse("a roll of the batch")
        cut = -shift % length
        first = at("Slice", result, [cut], [length], [axis])
        result = at("Concat", first, at("Slice", result, [0], [cut], [axis]), axis=axis)
    return at.name_of(result)


def interpolate(
    at: Place,
    input: Value,
    size: Any = None,
    scale_factor: Any = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> str:
    kinds = {"nearest": "nearest", "nearest-exact": "nearest", "bicubic": "cubic"}
    kinds |= dict.fromkeys(("linear", "bilinear", "trilinear"), "linear")
    if mode not in kinds or antialias:
        raise at.refuse(f"interpolation {mode!r}{' with antialias' * antialias}")
    n = input.rank - 2
    axes = list(range(2, input.rank))
    if mode == "nearest":
        coordinates, rounding = "asymmetric", "floor"
    else:
        coordinates = "align_corners" if align_corners else "half_pixel"
        rounding = "round_prefer_ceil"
    settings: dict[str, Any] = {
        "mode": kinds[mode],
        "coordinate_transformation_mode": coordinates,
        "axes": axes,
    }
    if mode == "bicubic":
        settings["cubic_coeff_a"] = -0.75
    elif kinds[mode] == "nearest":
        settings["nearest_mode"] = rounding
    if scale_factor is not None and not recompute_scale_factor:
        factors = scale_factor if isinstance(scale_factor, list | tuple) else None
        scales = torch.tensor(factors or [scale_factor] * n, dtype=torch.float32)
        return at("Resize", input, None, scales, **settings)
    return at("Resize", input, None, None, at.result.shape[2:], **settings)


# --- The tables -------------------------------------------------------------------

FUNCTIONS: dict[str, Callable[..., Any]] = {
    **{f"conv{n}d": conv for n in (1, 2, 3)},
    **{f"conv_transpose{n}d": conv_transpose for n in (1, 2, 3)},
    **{f"max_pool{n}d": partial(max_pool, n=n) for n in (1, 2, 3)},
    **{f"avg_pool{n}d": partial(avg_pool, n=n) for n in (1, 2, 3)},
    **{f"adaptive_avg_pool{n}d": partial(adaptive_avg_pool, n=n) for n in (1, 2, 3)},
    **{f"adaptive_max_pool{n}d": partial(adaptive_max_pool, n=n) for n in (1, 2, 3)},
    **{
        f.__name__: f
        for f in (
            *(linear, embedding, batch_norm, layer_norm, rms_norm, group_norm),
            *(instance_norm, gelu, silu, hardsigmoid, leaky_relu, elu, celu),
            *(softplus, log_sigmoid, prelu, relu6, hardtanh, clamp, softmax),
            *(log_softmax, glu, add, sub, rsub, div, floordiv, matmul, einsum, where),
            *(masked_fill, scaled_dot_product_attention, var, std, argmax, cumsum),
            *(reshape, transpose, permute, getitem, select, index_select, narrow),
            *(split, unbind, cat, stack, expand, repeat, pad, pixel_shuffle, flip),
            *(pixel_unshuffle, channel_shuffle, roll, interpolate),
        )
    },
    **dict.fromkeys(("flatten", "view", "unflatten", "squeeze", "unsqueeze"), reshape),
    **dict.fromkeys(("view_as", "reshape_as"), reshape),
    **dict.fromkeys(("contiguous", "clone", "detach", "identity"), same),
    **dict.fromkeys(("to", "float", "type", "type_as", "int", "long", "bool"), cast),
    **dict.fromkeys(("bmm", "mm"), matmul),
    **dict.fromkeys(("truediv", "true_divide", "divide"), div),
    **dict.fromkeys(("concat", "concatenate"), cat),
    "floor_divide": floordiv,
    "multiply": _binary("Mul"),
    "subtract": sub,
    "clip": clamp,
    "clamp_min": clamp,
    "clamp_max": lambda at, input, max: clamp(at, input, None, max),
    "reflection_pad": partial(pad, mode="reflect"),
    "replication_pad": partial(pad, mode="replicate"),
    "hardswish": _pointwise("HardSwish"),
    "chunk": split,
    "expand_as": expand,
    "broadcast_to": expand,
    "swapaxes": transpose,
    "getattr": getattr_,
    **{
        name: _pointwise(kind or name.capitalize())
        for name, kind in {
            **dict.fromkeys(("relu", "sigmoid", "tanh", "exp", "log", "sqrt", "abs")),
            **dict.fromkeys(("neg", "floor", "ceil", "round", "sin", "cos")),
            **dict.fromkeys(("erf", "reciprocal", "sign", "selu", "softsign", "mish")),
            "absolute": "Abs",
            "logical_not": "Not",
            "invert": "Not",
        }.items()
    },
    "rsqrt": lambda at, input: at("Reciprocal", at("Sqrt", input)),
    "square": lambda at, input: at("Mul", input, input),
    **{name: _binary(name.capitalize()) for name in ("mul", "pow")},
    "maximum": _binary("Max"),
    "minimum": _binary("Min"),
    "eq": _comparison("Equal"),
    "ne": _not_equal,
    "gt": _comparison("Greater"),
    "ge": _comparison("GreaterOrEqual"),
    "lt": _comparison("Less"),
    "le": _comparison("LessOrEqual"),
    **dict.fromkeys(("and", "logical_and"), _binary("And")),
    **dict.fromkeys(("or", "logical_or"), _binary("Or")),
    "mean": _reduction("ReduceMean"),
    "sum": _reduction("ReduceSum"),
    "prod": _reduction("ReduceProd"),
    "amax": _reduction("ReduceMax"),
    "amin": _reduction("ReduceMin"),
    "logsumexp": _reduction("ReduceLogSumExp"),
    "max": _extreme("ReduceMax", "Max"),
    "min": _extreme("ReduceMin", "Min"),
}
"""What writes torch's functions and methods, by name, without underscores around it."""

_CONV = "weight bias stride padding dilation groups padding_mode"
_TRANSPOSED = "weight bias stride padding output_padding groups dilation"
_NORM = "running_mean running_var weight bias eps"
_POOL = "kernel_size stride padding ceil_mode"
LAYERS: dict[type[nn.Module], tuple[str, str]] = {
    **{
        getattr(nn, f"{kind}{n}d"): (f"{name}{n}d", settings)
        for n in (1, 2, 3)
        for kind, name, settings in (
            ("Conv", "conv", _CONV),
            ("ConvTranspose", "conv_transpose", _TRANSPOSED),
            ("MaxPool", "max_pool", f"{_POOL} dilation return_indices"),
            ("AdaptiveAvgPool", "adaptive_avg_pool", "output_size"),
            ("AdaptiveMaxPool", "adaptive_max_pool", "output_size return_indices"),
        )
    },
    **{
        getattr(nn, f"{kind}{n}d"): (name, settings)
        for n in (1, 2, 3)
        for kind, name, settings in (
            ("BatchNorm", "batch_norm", _NORM),
            ("InstanceNorm", "instance_norm", _NORM),
            ("ConstantPad", "pad", "pad=padding value"),
            ("ZeroPad", "pad", "pad=padding"),
            ("ReflectionPad", "reflection_pad", "pad=padding"),
            ("ReplicationPad", "replication_pad", "pad=padding"),
        )
    },
    nn.AvgPool1d: ("avg_pool1d", f"{_POOL} count_include_pad"),
    nn.AvgPool2d: ("avg_pool2d", f"{_POOL} count_include_pad divisor_override"),
    nn.AvgPool3d: ("avg_pool3d", f"{_POOL} count_include_pad divisor_override"),
    nn.Linear: ("linear", "weight bias"),
    nn.LayerNorm: ("layer_norm", "normalized_shape weight bias eps"),
    nn.RMSNorm: ("rms_norm", "normalized_shape weight eps"),
    nn.GroupNorm: ("group_norm", "num_groups weight bias eps"),
    nn.InstanceNorm1d: ("instance_norm", _NORM),
    nn.InstanceNorm2d: ("instance_norm", _NORM),
    nn.InstanceNorm3d: ("instance_norm", _NORM),
    nn.Embedding: ("embedding", "weight max_norm"),
    nn.ReLU: ("relu", ""),
    nn.ReLU6: ("relu6", ""),
    nn.GELU: ("gelu", "approximate"),
    nn.SiLU: ("silu", ""),
    nn.Mish: ("mish", ""),
    nn.Sigmoid: ("sigmoid", ""),
    nn.LogSigmoid: ("log_sigmoid", ""),
    nn.Tanh: ("tanh", ""),
    nn.Softplus: ("softplus", "beta threshold"),
    nn.Softsign: ("softsign", ""),
    nn.Hardswish: ("hardswish", ""),
    nn.Hardsigmoid: ("hardsigmoid", ""),
    nn.Hardtanh: ("hardtanh", "min_val max_val"),
    nn.LeakyReLU: ("leaky_relu", "negative_slope"),
    nn.ELU: ("elu", "alpha"),
    nn.CELU: ("celu", "alpha"),
    nn.SELU: ("selu", ""),
    nn.GLU: ("glu", "dim"),
    nn.PReLU: ("prelu", "weight"),
    nn.Softmax: ("softmax", "dim"),
    nn.LogSoftmax: ("log_softmax", "dim"),
    nn.Flatten: ("flatten", ""),
    nn.Unflatten: ("unflatten", ""),
    nn.Identity: ("identity", ""),
    nn.PixelShuffle: ("pixel_shuffle", "upscale_factor"),
    nn.PixelUnshuffle: ("pixel_unshuffle", "downscale_factor"),
    nn.ChannelShuffle: ("channel_shuffle", "groups"),
    nn.Upsample: (
        "interpolate",
        "size scale_factor mode align_corners recompute_scale_factor",
    ),
    nn.UpsamplingNearest2d: ("interpolate", "size scale_factor mode"),
}
"""Layers: the function of torch that they call, and their settings that it takes."""
