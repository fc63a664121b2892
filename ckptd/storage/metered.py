"""A disk around a disk and a bucket around a bucket: each request is timed, and a meter is told how it ended."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Protocol, TypeVar, cast

from ckptd.errors import ConflictError, NotFoundError

T = TypeVar("T")


class Operation(Enum):
    """What a store is requested to do, as far as that takes time. A disk and a bucket have some of these each."""

    WRITE = "write"
    FSYNC = "fsync"
    RENAME = "rename"
    PUT = "put"
    BEGIN = "begin"  # a multipart upload
    PART = "part"
    COMPLETE = "complete"
    GET = "get"
    HEAD = "head"
    DELETE = "delete"


class Result(Enum):
    """How a request ended."""

    OK = "ok"
    REFUSED = "refused"  # an answer, too: there is no such object, or it is not as the condition says
    FAILED = "failed"


class Cause(Enum):
    """Why a request was made again."""

    TIMEOUT = "timeout"
    CONNECTION = "connection"
    SERVER = "server"  # it said that it is overloaded, or has failed
    DAMAGED = "damaged"  # bytes arrived with another checksum
    CREDENTIALS = "credentials"  # they had expired


class Meter(Protocol):
    """Is told of requests. Any thread calls it, once or twice a request, so it must be quick."""

    def operated(self, operation: Operation, result: Result, seconds: float) -> None:
        """Note a request that has ended, repeated ones as one."""

    def repeated(self, cause: Cause) -> None:
        """Note that a request is made again."""


OnRepeat = Callable[[Cause], None]


def untold(_cause: Cause) -> None:
    """Note nothing."""


OF_DISK: Mapping[str, Operation] = {
    "write": Operation.WRITE,
    "write_direct": Operation.WRITE,
    "sync": Operation.FSYNC,
    "sync_directory": Operation.FSYNC,
    "rename_new": Operation.RENAME,
    "rename_over": Operation.RENAME,
    "move_over": Operation.RENAME,
    "read_into": Operation.GET,
    "read_direct": Operation.GET,
    "unlink": Operation.DELETE,
}
"""Methods of `ckptd.storage.local.disk.Disk`."""

OF_BUCKET: Mapping[str, Operation] = {
    "put": Operation.PUT,
    "create_upload": Operation.BEGIN,
    "upload_part": Operation.PART,
    "complete_upload": Operation.COMPLETE,
    "get": Operation.GET,
    "read_into": Operation.GET,
    "head": Operation.HEAD,
    "delete": Operation.DELETE,
    "delete_many": Operation.DELETE,
}
"""Methods of `ckptd.storage.bucket.bucket.Bucket`."""


def metered(inner: T, operations: Mapping[str, Operation], meter: Meter | None) -> T:
    """Return `inner`, with those methods timed; as it is where there is no meter."""
    return inner if meter is None else cast("T", _Metered(inner, operations, meter))


class _Metered:
    """Passes everything on."""

    def __init__(self, inner: object, operations: Mapping[str, Operation], meter: Meter) -> None:
        self._inner = inner
        for name, operation in operations.items():
            setattr(self, name, _timed(getattr(inner, name), operation, meter))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def _timed(method: Callable[..., Any], operation: Operation, meter: Meter) -> Callable[..., Any]:
    @functools.wraps(method)
    def timed(*args: Any, **kwargs: Any) -> Any:
        began_at = time.perf_counter()
        try:
            done = method(*args, **kwargs)
        except (ConflictError, NotFoundError, FileExistsError, FileNotFoundError):
            meter.operated(operation, Result.REFUSED, time.perf_counter() - began_at)
            raise
        except BaseException:
            meter.operated(operation, Result.FAILED, time.perf_counter() - began_at)
            raise
        meter.operated(operation, Result.OK, time.perf_counter() - began_at)
        return done

    return timed
