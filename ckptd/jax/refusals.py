"""Our errors, as programs for Orbax catch them: each is also the exception that Orbax raises in its place."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotFoundError

P = ParamSpec("P")
R = TypeVar("R")


class RefusedError(InvalidRequestError, ValueError):
    """The request is wrong, or a target does not fit the checkpoint."""


class MissingError(NotFoundError, FileNotFoundError):
    """There is no such checkpoint."""


class MissingItemError(MissingError, KeyError):
    """The checkpoint has no item of this name."""


class ExistsError(ConflictError, ValueError):
    """The step is saved already, or the request does not fit what is there otherwise."""


_FAMILIES: dict[type[CkptdError], type[CkptdError]] = {
    InvalidRequestError: RefusedError,
    NotFoundError: MissingError,
    ConflictError: ExistsError,
}


def as_orbaxs(call: Callable[P, R]) -> Callable[P, R]:
    """Raise what `call` raises as programs for Orbax expect it; fields, notes and cause stay."""

    @wraps(call)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return call(*args, **kwargs)
        except CkptdError as error:
            family = next((ours for kind, ours in _FAMILIES.items() if isinstance(error, kind)), None)
            if family is None or isinstance(error, (ValueError, FileNotFoundError)):
                raise
            renamed = family(
                error.reason, key=error.key, offset=error.offset, expected=error.expected, actual=error.actual
            )
            for note in getattr(error, "__notes__", ()):
                renamed.add_note(note)
            raise renamed from error

    return called
