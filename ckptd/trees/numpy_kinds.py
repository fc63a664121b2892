"""numpy's values that a reader would give back as something else, and what is noted beside them; see `kinds`.

| value | plain form | noted |
|---|---|---|
| an array of str or bytes of fixed width | the same elements | dtype |
| an array of elements that the format lacks | integers of the same bits | dtype |
| a scalar | an array without dimensions | its dtype, if it is one of the above |
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ckptd.trees import bits
from ckptd.trees.kinds import Kind, Typed, register

_TEXTS = {"U": "numpy.text", "S": "numpy.bytes"}


def taken(value: Any) -> tuple[Any, Typed | None]:
    """Return what is stored of numpy's array or scalar, and its kind if a reader needs to know that."""
    form, noted = (value, None) if value.dtype.kind not in _TEXTS else (value, value.dtype.str)
    if bits.is_stored_so(value.dtype):
        form, noted = bits.integers(np.asarray(value)), value.dtype.name
    if isinstance(value, np.generic):
        return form, Typed("numpy.scalar", noted)
    if noted is None:
        return form, None
    return form, Typed(_TEXTS.get(value.dtype.kind, "numpy.bits"), noted)


def dtype_of(typed: Typed | None) -> np.dtype[Any] | None:
    """Return the dtype that was noted for one of these kinds; None for every other."""
    if typed is None or typed.beside is None or typed.kind not in (*_TEXTS.values(), "numpy.scalar", "numpy.bits"):
        return None
    return bits.DTYPES.get(str(typed.beside)) or np.dtype(typed.beside)


def _made_text(form: Any, dtype: Any) -> Any:
    kind = np.dtype(dtype)
    if kind.kind not in _TEXTS:
        raise ValueError(f"{kind} is no dtype of text")
    flat = np.asarray(form, object).ravel()
    elements = [one.decode() if kind.kind == "U" and isinstance(one, bytes) else one for one in flat]
    return np.array(elements, kind).reshape(np.shape(form))


def _made_scalar(form: Any, noted: Any) -> Any:
    if noted is None:
        array = np.asarray(form)
    elif noted in bits.DTYPES:
        array = bits.make(np.asarray(form), noted)
    else:
        array = _made_text(form, noted)
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
register(Kind("numpy.scalar", lambda value: (value, None), _made_scalar))
register(Kind("numpy.dtype", _dtype_name, lambda form, _: np.dtype(form), is_scalar=True))
