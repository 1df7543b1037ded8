"""Checks of tensors that several modules share.  Each raises a ``ValueError`` that names the argument."""

import math

import torch
from torch import Tensor


def dense(x: object, name: str) -> Tensor:
    """``x`` as it is, refusing what is no tensor, or one without a number at each place."""
    if not isinstance(x, Tensor):
        raise ValueError(f"{name}: need a torch tensor, got a {type(x).__name__}")
    if x.is_meta or x.layout != torch.strided or x.is_nested or x.is_quantized:
        kind = (
            "one on the meta device"
            if x.is_meta
            else "a nested one"
            if x.is_nested
            else f"{x.dtype} in layout {x.layout}"
        )
        raise ValueError(f"{name}: need a dense tensor with data, got {kind}")
    return x


def finite_floats(x: object, name: str) -> Tensor:
    """``x`` as it is, refusing what is no dense tensor of floats, empty, or not finite throughout."""
    x = dense(x, name)
    if not x.is_floating_point():
        raise ValueError(f"{name}: need floating-point values, got {x.dtype}")
    if not x.numel():
        raise ValueError(f"{name}: need at least one value, got shape {tuple(x.shape)}")
    # The sum is finite unless a value is not, or it overflows: only then look at each.
    if not math.isfinite(x.detach().sum()) and not (finite := torch.isfinite(x)).all():
        raise ValueError(
            f"{name}: {int((~finite).sum())} of {x.numel()} values are NaN or infinite"
        )
    return x
