"""Elements of dtypes that the format lacks, stored as integers of the same bits.

TensorFlow has no float8_e8m0fnu, so neither has the format. The outline notes what the integers were: ``numpy.bits``,
``torch.bits`` or ``jax.bits``, and the name of the dtype. Every framework that has such elements
makes arrays of its own of them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from ckptd.errors import InvalidRequestError
from ckptd.trees.kind import Kind, Typed
from ckptd.trees.kinds import register

_NAMES = (
    "float8_e8m0fnu",
    "float8_e4m3",
    "float8_e3m4",
    "float6_e2m3fn",
    "float6_e3m2fn",
)
DTYPES: dict[str, np.dtype[Any]] = {
    name: np.dtype(getattr(ml_dtypes, name)) for name in _NAMES if hasattr(ml_dtypes, name)
}
"""numpy's dtypes that are stored so, by name. One element of each is one byte."""

TENSOR = "torch.tensor"
"""What torch notes of a tensor: its class, whether it requires a gradient, and the dtype of these bits, or None."""

_SUFFIX = ".bits"
_MAKERS: dict[type, Callable[[Any, str], Any]] = {}


def is_stored_so(dtype: Any) -> bool:
    """Return whether elements of this dtype are stored as integers."""
    return isinstance(dtype, np.dtype) and dtype.name in DTYPES  # None is equal to the dtype float64


def integers(array: Any) -> Any:
    """Return numpy's array of integers over the same memory."""
    return array.view(np.uint8)


def dtype_of(typed: Typed | None) -> np.dtype[Any] | None:
    """Return numpy's dtype of what is stored as integers; None for everything else, and where numpy has none."""
    return DTYPES.get(name_in(typed) or "")


def name_in(typed: Typed | None) -> str | None:
    """Return the name, without that of a framework, of the dtype of what is stored as integers; None if it is not."""
    if typed is None:
        return None
    noted = typed.beside[-1] if typed.kind == TENSOR else typed.beside if typed.kind.endswith(_SUFFIX) else None
    return None if noted is None else _short(noted)


def register_maker(form: type, make: Callable[[Any, str], Any]) -> None:
    """Call `make` for integers that are a `form`, with the name of the dtype without that of a framework.

    It raises `InvalidRequestError` if there are no such elements here.
    """
    _MAKERS[form] = make


def make(form: Any, name: Any) -> Any:
    """Return what the integers were.

    Raises:
        InvalidRequestError: they were elements that the reading framework lacks.
        ValueError: these are not integers that hold the bits of another dtype.
    """
    for kind, made in _MAKERS.items():
        if isinstance(form, kind):
            return made(form, _short(name))
    raise ValueError(f"a {type(form).__name__} has no bits")


def refusal(name: str, where: str) -> InvalidRequestError:
    """Return the error for elements that a framework lacks."""
    return InvalidRequestError(
        f"{where} has no elements of {name}, which these are: read their bits with ckptd.load_variable", actual=name
    )


def _short(name: Any) -> str:
    return str(name).rpartition(".")[2]


def _made_by_numpy(form: Any, name: str) -> Any:
    if name not in DTYPES:
        raise refusal(name, "numpy")
    return form.view(DTYPES[name])


def _take(value: Any) -> tuple[Any, Any]:
    raise ValueError(f"elements of a {type(value).__name__} have no form")  # those that have are taken by name


for _framework in ("numpy", "torch", "jax"):  # the latter two are registered again by modules that have their arrays
    register(Kind(_framework + _SUFFIX, _take, make))
# So do those without parameters, until torch registers it.
register(Kind(TENSOR, _take, lambda form, noted: form if noted[-1] is None else make(form, noted[-1])))
register_maker(np.ndarray, _made_by_numpy)
