"""Input checks that several modules share."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def as_float64(x: ArrayLike) -> NDArray[np.float64]:
    """``x`` as float64, refusing what float64 cannot hold exactly (the error names the argument ``x``)."""
    given = _as_array(x, "x")
    if given.dtype.kind in "OSTUcMm" or given.dtype.type is np.void:
        raise ValueError(f"x: need real numbers that NumPy can store, got dtype {given.dtype}")
    with np.errstate(over="ignore", invalid="ignore"):  # too large is refused below; a signalling NaN stays a NaN
        y = np.asarray(given, dtype=np.float64)
    if given.dtype.kind in "iu" and given.dtype.itemsize == 8:  # shorter ones always fit
        magnitude = np.atleast_1d(np.abs(given).astype(np.uint64))
        lowest_bit = magnitude & (~magnitude + np.uint64(1))
        if (magnitude // np.maximum(lowest_bit, np.uint64(1)) >= 2**53).any():
            raise ValueError("x: holds an integer with more than 53 significant bits, need float64 values")
    if given.dtype.itemsize > 8 and not np.array_equal(given, y, equal_nan=True):
        raise ValueError(f"x: holds {given.dtype} values that are no float64, need float64 values")
    return y


def as_integers(q: ArrayLike, low: int, high: int, name: str) -> NDArray[np.integer]:
    """``q`` as an array of integers of its own type, refusing other types and values outside ``low .. high``."""
    codes = _as_array(q, name)
    if not codes.size and not isinstance(q, np.ndarray):  # an empty list has no type of its own
        codes = codes.astype(np.int64)
    if codes.dtype.kind not in "iu":
        raise ValueError(f"{name}: need integers, got dtype {codes.dtype}")
    if codes.size and (int(codes.min()) < low or int(codes.max()) > high):
        raise ValueError(f"{name}: need integers in {low}..{high}, got {codes.min()}..{codes.max()}")
    return codes


def is_count(n: object) -> bool:
    """Whether ``n`` is a Python integer >= 0; NumPy's, which overflow, are not."""
    return isinstance(n, int) and not isinstance(n, bool) and n >= 0


def _as_array(x: ArrayLike, name: str) -> NDArray[Any]:
    try:
        return np.asarray(x)
    except (TypeError, ValueError, RuntimeError) as error:  # unequal lengths, or a tensor that NumPy can't read
        raise ValueError(f"{name}: need an array of real numbers, got a {type(x).__name__}: {error}") from error
