"""Input checks that several modules share.  Each raises a ``ValueError`` that names the argument."""

import sys
from numbers import Integral, Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


def as_float64(x: ArrayLike, name: str) -> NDArray[np.float64]:
    """``x`` as float64, refusing what float64 cannot hold exactly."""
    given = _as_array(x, name)
    if given.dtype.kind in "OSTUcMm" or given.dtype.type is np.void:
        raise ValueError(
            f"{name}: need real numbers that NumPy can store, got {_kind(x, given)}"
        )
    # Too large a longdouble is refused below; a signalling NaN stays a NaN.
    with np.errstate(over="ignore", invalid="ignore"):
        y = np.asarray(given, dtype=np.float64)
        exact = _same_values(x, given, y)
    if not exact:
        raise ValueError(
            f"{name}: need numbers that float64 holds exactly, got some of dtype {given.dtype} that it rounds"
        )
    return y


def as_integers(q: ArrayLike, low: int, high: int, name: str) -> NDArray[np.integer]:
    """``q`` as an array of integers of its own type, refusing other types and values outside ``low .. high``."""
    codes = _as_array(q, name)
    # An empty list has no type of its own.
    if not codes.size and not isinstance(q, np.ndarray):
        codes = codes.astype(np.int64)
    if codes.dtype.kind not in "iu":
        raise ValueError(
            f"{name}: need integers of at most 64 bits, got {_kind(q, codes)}"
        )
    if codes.size and (int(codes.min()) < low or int(codes.max()) > high):
        got = (
            codes.min()
            if codes.min() == codes.max()
            else f"{codes.min()}..{codes.max()}"
        )
        raise ValueError(f"{name}: need integers in {low}..{high}, got {got}")
    return codes


def refuse(bad: NDArray[np.bool_], what: str, name: str) -> None:
    """Raise if any element is ``bad``, with how many are."""
    if bad.any():
        raise ValueError(
            f"{name}: {np.count_nonzero(bad)} of {bad.size} values are {what}"
        )


def one_of(value: object, choices: tuple[str, ...], name: str) -> None:
    """Raise unless ``value`` is one of the strings ``choices``."""
    if not isinstance(value, str) or value not in choices:
        raise ValueError(
            f"{name}: need one of {', '.join(map(repr, choices))}, got {value!r}"
        )


def is_count(n: object) -> bool:
    """Whether ``n`` is a Python integer >= 0; NumPy's, which overflow, are not."""
    return isinstance(n, int) and not isinstance(n, bool) and n >= 0


def integer(n: object, low: int, high: int, name: str) -> int:
    """``n`` as a Python integer in ``low .. high``; NumPy's, which overflow, become one."""
    if isinstance(n, bool) or not isinstance(n, Integral) or not low <= int(n) <= high:
        raise ValueError(
            f"{name}: need an integer from {low} to {high}, got {shown(n)}"
        )
    return int(n)


def number(value: object, low: float, high: float, name: str) -> float:
    """``value`` as a float in ``low .. high``, refusing what no finite float is."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    if not (real and low <= value <= min(high, sys.float_info.max)):  # type: ignore[operator]
        raise ValueError(
            f"{name}: need a finite number from {low:g} to {high:g}, got {shown(value)}"
        )
    return float(value)  # type: ignore[arg-type]


def shown(value: object) -> str:
    """``value`` in a message, without the digits of an integer that has hundreds."""
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of {value.bit_length()} bits"
    return repr(value)


def _as_array(x: ArrayLike, name: str) -> NDArray[Any]:
    if isinstance(x, np.ma.MaskedArray):
        raise ValueError(
            f"{name}: need an array without a mask, got a MaskedArray; fill it first with .filled()"
        )
    try:
        with np.errstate(invalid="ignore"):  # a signalling NaN in a list
            return np.asarray(x)
    except (
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:  # unequal lengths, or a tensor that NumPy can't read
        raise ValueError(
            f"{name}: need an array of numbers, got a {type(x).__name__}: {error}"
        ) from error


def _kind(x: object, given: NDArray[Any]) -> str:
    return (
        f"dtype {given.dtype}"
        if isinstance(x, np.ndarray)
        else f"a {type(x).__name__} (dtype {given.dtype})"
    )


def _same_values(x: ArrayLike, given: NDArray[Any], y: NDArray[np.float64]) -> bool:
    """Whether ``y`` holds what ``x`` did, which became the array ``given`` in between."""
    # NumPy may have rounded integers that stand among floats.
    if isinstance(x, list | tuple) and given.dtype.kind == "f":
        exact, stored = np.asarray(x, dtype=object), y.astype(object)
        return not np.any((exact != stored) & (exact == exact))
    if given.dtype.kind in "iu" and y.size and max(y.max(), -y.min()) >= 2**53:
        magnitude = np.atleast_1d(np.abs(given).astype(np.uint64))
        lowest_bit = magnitude & (~magnitude + np.uint64(1))
        return bool((magnitude // np.maximum(lowest_bit, np.uint64(1)) < 2**53).all())
    return given.dtype.itemsize <= 8 or np.array_equal(given, y, equal_nan=True)
