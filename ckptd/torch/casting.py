"""Conversions of dtypes on load: which ones a program may request, and the check that no value is lost by one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import ml_dtypes
import numpy as np

from ckptd.errors import InvalidRequestError
from ckptd.torch.arrays import Array

Cast = Literal["widen", "any"]
"""`widen`: only to dtypes that hold every value of the stored one. `any`: floats are rounded, too."""


def check_cast(cast: Any) -> None:
    """Raise `InvalidRequestError` for anything but None and the two values of `Cast`."""
    if cast is not None and cast not in ("widen", "any"):
        raise InvalidRequestError("cast is None, 'widen' or 'any'", actual=repr(cast))


def needed_cast(stored: np.dtype[Any], here: np.dtype[Any]) -> Cast | None:
    """Return the narrowest `Cast` that allows a conversion; None if none does: texts, float to int, complex to real."""
    kinds = _kind(stored), _kind(here)
    if None in kinds or _RANK[kinds[0]] > _RANK[kinds[1]]:
        return None
    return "widen" if _holds_all(stored, here) else "any"


def converted(name: str, array: Array, dtype: np.dtype[Any]) -> Array:
    """Return an array in another dtype; floats are rounded to the nearest value.

    Raises:
        InvalidRequestError: naming the tensor, if a finite value would become infinite or NaN, an infinite one NaN,
            or an integer another one.
    """
    if "V" in (array.dtype.kind, dtype.kind):  # numpy's extensions are converted through a dtype of numpy itself
        array = array.astype(np.complex128 if array.dtype.kind == "c" else _native(array.dtype), copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        new: Array = array.astype(dtype)
    of_floats = _kind(array.dtype) in ("float", "complex")
    ruined = _ruined_floats(array, new) if of_floats else _other_integers(array, new)
    if ruined.any():
        raise InvalidRequestError(
            f"tensor {name!r} can't become {dtype}: it holds {array[ruined].flat[0]}, which that dtype can't hold"
        )
    return new


def _ruined_floats(array: Array, new: Array) -> Array:
    """Return where a part of a number became infinite or NaN, or is so no longer."""
    ruined = np.zeros(array.shape, bool)
    parts = ((array.real, new.real), (array.imag, new.imag)) if array.dtype.kind == "c" else ((array, new),)
    for before, after in parts:
        ruined |= (np.isnan(before) != np.isnan(after)) | (np.isinf(before) != np.isinf(after))
    return ruined


_EXACT = 1 << 53
"""float64 holds every integer up to here."""


def _other_integers(array: Array, new: Array) -> Array:
    """Return where an integer has changed. Converting back does not show it: one that wrapped around wraps back."""
    if array.dtype.kind == "b":  # every dtype has 0 and 1
        return np.zeros(array.shape, bool)
    if _kind(new.dtype) == "int":
        (low, high), (lowest, highest) = _range(array.dtype), _range(new.dtype)
        # If the stored dtype can't hold a limit, the nearest value that it holds is compared.
        return (array < max(low, lowest)) | (array > min(high, highest))
    real = (new.real if new.dtype.kind == "c" else new).astype(np.float64)
    other: Array = array.astype(np.float64) != real
    low, high = _range(array.dtype)
    large = (array > min(high, _EXACT)) | (array < max(low, -_EXACT))
    if large.any():
        pairs = zip(array[large].tolist(), real[large].tolist(), strict=True)
        other[large] = [not math.isfinite(after) or before != int(after) for before, after in pairs]
    return other


# Their packages have no type annotations.
_finfo: Callable[[np.dtype[Any]], Any] = ml_dtypes.finfo
_iinfo: Callable[[np.dtype[Any]], Any] = ml_dtypes.iinfo

_RANK: dict[str | None, int] = {"bool": 0, "int": 1, "float": 2, "complex": 3}


def _kind(dtype: np.dtype[Any]) -> str | None:
    if dtype.kind in "biufc":
        return {"b": "bool", "i": "int", "u": "int", "f": "float", "c": "complex"}[dtype.kind]
    try:
        _finfo(dtype)
    except ValueError:
        pass
    else:
        return "float"
    try:
        _iinfo(dtype)
    except ValueError:
        return None
    return "int"


def _native(dtype: np.dtype[Any]) -> Any:
    """Return a dtype of numpy's own that holds every value of `dtype`."""
    if dtype.kind != "V":
        return dtype
    return np.float64 if _kind(dtype) == "float" else np.int64


def _holds_all(stored: np.dtype[Any], here: np.dtype[Any]) -> bool:
    kinds = _kind(stored), _kind(here)
    if kinds[0] == "bool":
        return True
    if kinds[0] == "int":
        if kinds[1] != "int":
            digits = _finfo(_real(here)).nmant + 1
            low, high = _range(stored)
            return max(-low, high) <= 1 << digits and float(_finfo(_real(here)).max) >= high
        (low, high), (lowest, highest) = _range(stored), _range(here)
        return lowest <= low and high <= highest
    before, after = _finfo(_real(stored)), _finfo(_real(here))
    return bool(
        _specials(before.dtype) <= _specials(after.dtype)
        and after.nmant >= before.nmant
        and float(after.max) >= float(before.max)
        and float(after.min) <= float(before.min)
        and float(after.smallest_subnormal) <= float(before.smallest_subnormal)
    )


def _specials(dtype: np.dtype[Any]) -> set[str]:
    """Return which of "inf" and "nan" a dtype has; several of the 8-bit ones have no infinity."""
    return {text for text in ("inf", "nan") if str(abs(float(np.array(float(text)).astype(dtype)))) == text}


def _range(dtype: np.dtype[Any]) -> tuple[int, int]:
    limits = _iinfo(dtype)
    return int(limits.min), int(limits.max)


def _real(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(f"f{dtype.itemsize // 2}") if dtype.kind == "c" else dtype
