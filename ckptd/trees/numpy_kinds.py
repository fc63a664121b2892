"""numpy's values that would be loaded as another type without a note, and their notes; see `kinds`.

| value | plain form | noted |
|---|---|---|
| an array of str or bytes of fixed width, of str objects | the same elements | dtype |
| an array of another order of bytes | the same elements | dtype |
| an array of elements that the format lacks | integers of the same bits | dtype |
| a scalar | an array without dimensions | its dtype, if it is one of the above |
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptd.trees import bits
from ckptd.trees.kind import Kind, Typed
from ckptd.trees.kinds import register

_TEXTS = {"U": "numpy.text", "S": "numpy.bytes"}
_ORDERED = "numpy.array"
_ARRAYS = (np.ndarray, np.memmap, np.ma.MaskedArray)  # the last is refused later, with a hint what to do


def taken(value: Any) -> tuple[Any, Typed | None]:
    """Return the stored form of numpy's array or scalar, and its kind if a reader needs to know that.

    Raises:
        ValueError: it would be loaded as another type.
    """
    kind = value.dtype.kind
    if not isinstance(value, np.generic) and type(value) not in _ARRAYS:
        raise ValueError("it is more than an array: save numpy.asarray(…) of it")
    if kind == "O":
        return value, _of_objects(value)
    if kind in _TEXTS and isinstance(value, np.generic):
        # An array would cut trailing NULs off its text.
        return value.encode() if kind == "U" else bytes(value), Typed("numpy.scalar", value.dtype.str)  # type: ignore[attr-defined, call-overload]
    form, noted = (value, None) if kind not in _TEXTS else (value, value.dtype.str)
    if bits.is_stored_so(value.dtype):
        form, noted = bits.integers(np.asarray(value)), value.dtype.name
    if isinstance(value, np.generic):
        return form, Typed("numpy.scalar", noted)
    if noted is None:
        return form, None if value.dtype.isnative else Typed(_ORDERED, value.dtype.str)
    return form, Typed(_TEXTS.get(value.dtype.kind, "numpy.bits"), noted)


def _of_objects(value: Any) -> Typed | None:
    """Return the note beside an array of objects, of which only text and bytes are stored."""
    kinds = {type(one) for one in value.flat}
    if kinds == {str}:
        return Typed("numpy.text", value.dtype.str)
    if str in kinds and kinds <= {str, bytes}:
        raise ValueError("it holds str and bytes, which are stored alike: make them one of both")
    return None  # of bytes; of anything else it is refused, with the place


def dtype_of(typed: Typed | None) -> np.dtype[Any] | None:
    """Return the dtype that was noted for one of these kinds; None for every other."""
    if typed is None or typed.beside is None or typed.kind not in (*_TEXTS.values(), "numpy.scalar", "numpy.bits"):
        return None
    return bits.DTYPES.get(str(typed.beside)) or np.dtype(typed.beside)


def _made_text(form: Any, dtype: Any) -> Any:
    kind = np.dtype(dtype)
    if kind.kind not in (*_TEXTS, "O"):
        raise ValueError(f"{kind} is no dtype of text")
    flat = np.asarray(form, object).ravel().tolist()
    elements = [one.decode() if kind.kind != "S" and isinstance(one, bytes) else one for one in flat]
    return np.array(elements, kind).reshape(np.shape(form))


def _made_scalar(form: Any, noted: Any) -> Any:
    if noted is None:
        array = np.asarray(form)
    elif noted in bits.DTYPES:
        array = bits.make(np.asarray(form), noted)
    else:
        data = form if isinstance(form, (bytes, str)) else np.asarray(form, object).item()
        if np.dtype(noted).kind == "S":
            return np.bytes_(data)
        return np.str_(data.decode() if isinstance(data, bytes) else data)
    if array.shape != ():
        raise ValueError(f"shape {list(array.shape)}")
    return array[()]


def _dtype_name(value: np.dtype[Any]) -> tuple[str, None]:
    for name in (value.str, value.name):
        try:
            if value.fields is None and np.dtype(name) == value:
                return name, None
        except TypeError:
            continue
    raise ValueError("this dtype has no name")


for _name in _TEXTS.values():
    register(Kind(_name, lambda value: (value, None), _made_text))
register(Kind(_ORDERED, lambda value: (value, None), lambda form, dtype: np.asarray(form).astype(np.dtype(dtype))))
register(Kind("numpy.scalar", lambda value: (value, None), _made_scalar))
register(Kind("numpy.dtype", _dtype_name, lambda form, _: np.dtype(form), is_scalar=True))
