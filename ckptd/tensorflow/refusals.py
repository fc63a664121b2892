"""Our errors, as programs for TensorFlow catch them: each is also the exception that TensorFlow raises in its place.

Training programs have ``except tf.errors.NotFoundError`` around a restore, ``except ValueError`` around a wrong path.
They keep working, and ``except ckptd.CkptdError`` works too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    StorageFullError,
    VersionMismatchError,
)


class _WithoutOperation(Exception):  # noqa: N818 (it is never raised)
    """Passes TensorFlow's exceptions, the next base, their arguments: no node, no operation, a message."""

    def __init__(self, message: str) -> None:
        super().__init__(None, None, message)


class RefusedError(InvalidRequestError, _WithoutOperation, tf.errors.InvalidArgumentError, ValueError):  # type: ignore[misc]
    """The request is wrong. TensorFlow raises one or the other: its Python code or its kernels notice first."""


class MissingError(NotFoundError, _WithoutOperation, tf.errors.NotFoundError):  # type: ignore[misc]
    """There is no such checkpoint or tensor."""


class MissingGraphError(MissingError, OSError):
    """There is no such ``.meta`` file. For that alone TensorFlow raises an error of the operating system."""


class DamagedError(CorruptionError, _WithoutOperation, tf.errors.DataLossError):  # type: ignore[misc]
    """The bytes are wrong."""


class DamagedGraphError(DamagedError, OSError):
    """The ``.meta`` file holds no graph."""


class TakenError(ConflictError, _WithoutOperation, tf.errors.FailedPreconditionError):  # type: ignore[misc]
    """A conflict: another owner, or a directory with the file's name."""


class NoSpaceError(StorageFullError, _WithoutOperation, tf.errors.ResourceExhaustedError):  # type: ignore[misc]
    """The disk or the bucket has no room."""


class NoAccessError(NotPermittedError, _WithoutOperation, tf.errors.PermissionDeniedError):  # type: ignore[misc]
    """The file system or the store refuses."""


class NoCheckpointError(MissingError, ValueError):
    """A function that takes a directory, too, finds no checkpoint: TensorFlow raises one or the other."""


class UnknownArgumentError(RefusedError, TypeError):
    """There is no such argument."""


class NotBuiltError(InvalidRequestError, RuntimeError):
    """The Saver has to be built first, or eager execution rules this out."""


class NoSessionError(InvalidRequestError, TypeError):
    """What was given is no session."""


_FAMILIES: dict[type[CkptdError], type[CkptdError]] = {
    InvalidRequestError: RefusedError,
    NotFoundError: MissingError,
    CorruptionError: DamagedError,
    ConflictError: TakenError,
    StorageFullError: NoSpaceError,
    NotPermittedError: NoAccessError,
}
_READERS: dict[type[CkptdError], type[CkptdError]] = {**_FAMILIES, NotFoundError: NoCheckpointError}
_GRAPHS: dict[type[CkptdError], type[CkptdError]] = {
    **_FAMILIES,
    NotFoundError: MissingGraphError,
    CorruptionError: DamagedGraphError,
}
_LEFT_ALONE = (
    *_FAMILIES.values(),
    MissingGraphError,
    DamagedGraphError,
    NotBuiltError,
    NoSessionError,
    VersionMismatchError,
)


@contextmanager
def as_tensorflows(*, reads_graph: bool = False, opens_checkpoint: bool = False) -> Iterator[None]:
    """Raise errors of the block as the classes that TensorFlow's programs expect; fields, notes and cause stay.

    `reads_graph`: the block reads a ``.meta`` file, which has its own classes of errors; `opens_checkpoint`: it takes a
    prefix or a directory, which has its own classes, too.
    """
    families = _GRAPHS if reads_graph else _READERS if opens_checkpoint else _FAMILIES
    try:
        yield
    except CkptdError as error:
        family = next((ours for kind, ours in families.items() if isinstance(error, kind)), None)
        if family is None or isinstance(error, _LEFT_ALONE):
            raise
        renamed = family(error.reason, key=error.key, offset=error.offset, expected=error.expected, actual=error.actual)
        for note in getattr(error, "__notes__", ()):
            renamed.add_note(note)
        raise renamed from error
