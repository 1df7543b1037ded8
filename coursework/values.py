"""What may cross the wall of the jail: numbers, text, containers of these, arrays and tensors.

Both sides use it; inside, its source is sent ahead, since nothing of this folder can be read there.  Everything is taken
apart into what `execnet` carries, which never pickles, and put together again from builtin types alone: no class of a
student, and with it no ``__eq__`` of theirs, ever reaches a test.
"""

import math
import sys
from typing import Any

MOST_BYTES = 64 << 20
MOST_BITS = 10_000
DEPTH = 20
PLAIN = (type(None), bool, float, complex, str, bytes)
CONTAINERS = {"list": list, "tuple": tuple, "set": set, "frozenset": frozenset}


class CrossingError(TypeError):
    """A value of a kind that is no answer."""


def pack(value: Any, depth: int = DEPTH) -> tuple[Any, ...]:
    """``value`` as nested tuples of builtins."""
    if depth == 0:
        raise CrossingError(f"need at most {DEPTH} containers in each other")
    if type(value) is int:
        if value.bit_length() > MOST_BITS:
            raise CrossingError(f"need an int of at most {MOST_BITS} bits, got {value.bit_length()}")
        return "int", f"{value:x}"  # execnet carries none below -(2^31)
    if type(value) in PLAIN:
        return "plain", value
    for name, kind in CONTAINERS.items():
        if type(value) is kind:
            return name, tuple(pack(item, depth - 1) for item in value)
    if type(value) is dict:
        return "dict", tuple((pack(k, depth - 1), pack(v, depth - 1)) for k, v in value.items())
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and type(value) is numpy.ndarray:
        return "array", *_array(value)
    if numpy is not None and isinstance(value, numpy.generic):
        return "scalar", *_array(numpy.asarray(value))
    if torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter):
        name = str(value.dtype).removeprefix("torch.")
        if name not in _TENSORS:
            raise CrossingError(f"need a tensor of one of {', '.join(_TENSORS)}, got {name}")
        _weigh(value.nbytes)
        plain = value.detach().cpu().contiguous()
        numbers = plain.view(torch.uint8) if plain.dim() else plain.reshape(1).view(torch.uint8)
        return "tensor", name, tuple(plain.shape), numbers.numpy().tobytes()
    raise CrossingError(f"need numbers, text, lists, dicts, arrays or tensors, got {type(value).__name__}")


def _array(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    if value.dtype.kind not in "biufc":
        raise CrossingError(f"need an array of numbers, got dtype {value.dtype}")
    _weigh(value.nbytes)
    return value.dtype.str, value.shape, value.tobytes()


def _weigh(size: int) -> None:
    if size > MOST_BYTES:
        raise CrossingError(f"need at most {MOST_BYTES >> 20} MB, got {size >> 20}")


def unpack(packed: Any) -> Any:
    """Undo ``pack``; whoever packed it may have lied."""
    kind, *parts = packed
    if kind == "plain":
        (value,) = parts
        if type(value) not in PLAIN:
            raise CrossingError("a frame was forged")
        return value
    if kind == "int":
        (digits,) = parts
        return int(digits, 16)
    if kind in CONTAINERS:
        return CONTAINERS[kind](unpack(item) for item in parts[0])
    if kind == "dict":
        return {unpack(k): unpack(v) for k, v in parts[0]}
    dtype, shape, data = parts
    if kind == "tensor":
        import torch

        exact = getattr(torch, dtype) if dtype in _TENSORS else None
        if exact is None or math.prod(shape) * exact.itemsize != len(data):
            raise CrossingError("a frame was forged")
        flat = torch.frombuffer(bytearray(data), dtype=exact) if data else torch.empty(0, dtype=exact)
        return flat.reshape(shape)
    if kind in ("array", "scalar"):
        import numpy

        exact = numpy.dtype(dtype)
        if exact.kind not in "biufc" or math.prod(shape) * exact.itemsize != len(data):
            raise CrossingError("a frame was forged")
        array = numpy.frombuffer(data, exact).reshape(shape).copy()
        return array[()] if kind == "scalar" else array
    raise CrossingError("a frame was forged")


_TENSORS = (
    *("bool", "uint8", "int8", "int16", "int32", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
)
