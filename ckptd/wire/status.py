"""Errors ⇄ gRPC status, both ways: a remote caller catches the class that the engine raised, fields and notes too.

The status code and text are for any client; the exact error travels as a ``google.rpc.ErrorInfo`` of domain
``ckptd`` whose reason is the class and whose metadata holds each field as JSON, so that 5 and "5" stay apart and
names that are no UTF-8 survive. gRPC drops metadata above 8 KiB, so every text is cut well below that.

Only what we raised ourselves crosses: no traceback, and of an unexpected exception only its type.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    EvictedError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    SessionAbortedError,
    StorageFullError,
    UnavailableError,
    VersionMismatchError,
)

DOMAIN = "ckptd"
DETAILS_KEY = "grpc-status-details-bin"

_TABLE: tuple[tuple[type[CkptdError], grpc.StatusCode], ...] = (
    (InvalidRequestError, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFoundError, grpc.StatusCode.NOT_FOUND),
    (ConflictError, grpc.StatusCode.FAILED_PRECONDITION),
    (SessionAbortedError, grpc.StatusCode.ABORTED),
    (UnavailableError, grpc.StatusCode.UNAVAILABLE),
    (StorageFullError, grpc.StatusCode.RESOURCE_EXHAUSTED),
    (CorruptionError, grpc.StatusCode.DATA_LOSS),
    (NotPermittedError, grpc.StatusCode.PERMISSION_DENIED),
    (CkptdError, grpc.StatusCode.INTERNAL),
)
_CLASSES = {kind.__name__: kind for kind, _ in _TABLE}

# Finer classes of those above. The reason on the wire stays the class of the table, which every version knows; the
# finer one travels beside it, for those that know it too.
FINER: dict[str, type[CkptdError]] = {kind.__name__: kind for kind in (VersionMismatchError, EvictedError)}
_FINER_KEY = "class"

# What a status means that carries no error of ours: gRPC itself spoke, a proxy, or some other server.
_FOREIGN: dict[grpc.StatusCode, type[CkptdError]] = {
    **{code: kind for kind, code in _TABLE},
    grpc.StatusCode.ALREADY_EXISTS: ConflictError,
    grpc.StatusCode.OUT_OF_RANGE: InvalidRequestError,
    grpc.StatusCode.UNAUTHENTICATED: NotPermittedError,
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: UnavailableError,
    grpc.StatusCode.UNIMPLEMENTED: ConflictError,
}

# Bytes. A header carries each byte of the plain text beyond ASCII as three, and the rest in base64.
_MAX_DETAILS = 400
_MAX_REASON = 1500
_MAX_FIELD = 300
_MAX_NOTES = 4
_START_ONE = "start one with `ckptd serve --root DIR`"
_IS_ANSWER = "answer"
_HOLDER, _FREE_IN_S = "holder", "free_in_s"
_GOODBYE = re.compile(r"Debug Text: (connections from [^(){}]*)")  # see `ckptd.service.peer_sockets`
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class Status:
    """A gRPC status as a server sends it: ``await context.abort(status.code, status.details, status.metadata)``."""

    code: grpc.StatusCode
    details: str
    metadata: tuple[tuple[str, bytes], ...]


def to_wire(error: CkptdError, *, code: grpc.StatusCode | None = None, is_answer: bool = False) -> Status:
    """Return the status that carries `error`; `code` overrides the table's: UNAUTHENTICATED has no class of its own.

    `is_answer` marks what must not be taken for a lost connection, although its status is UNAVAILABLE.
    """
    kind = next(kind for kind, _ in _TABLE if isinstance(error, kind))
    code = code or dict(_TABLE)[kind]
    details = _printable(str(error), _MAX_DETAILS)
    metadata = _fields(error)
    if is_answer:
        metadata[_IS_ANSWER] = "true"
    info = error_details_pb2.ErrorInfo(domain=DOMAIN, reason=kind.__name__, metadata=metadata)
    rich = status_pb2.Status(code=code.value[0], message=details)
    rich.details.add().Pack(info)
    return Status(code, details, ((DETAILS_KEY, rich.SerializeToString()),))


def from_wire(error: grpc.RpcError, *, address: str = "") -> CkptdError:
    """Return the error that a call's failure stands for; the caller raises it ``from None``.

    It says all that there is to say: gRPC's own traceback is forty lines before the one that matters.

    `address`: where the call went, as a user would write it; texts of gRPC's own failures name it.
    """
    code = error.code() if hasattr(error, "code") else grpc.StatusCode.UNKNOWN
    details = (error.details() if hasattr(error, "details") else None) or ""
    return _ours(error) or _foreign(code, details, address or "the daemon's address")


def _fields(error: CkptdError) -> dict[str, str]:
    metadata = {"message": _json(error.reason, _MAX_REASON)}
    for name in ("key", "offset", "expected", "actual", "tensor"):
        value = getattr(error, name)
        if value is not None:
            metadata[name] = _json(value, _MAX_FIELD)
    if isinstance(error, ConflictError) and error.holder:
        metadata[_HOLDER] = _json(error.holder, _MAX_FIELD)
        if error.free_in_s is not None:
            metadata[_FREE_IN_S] = _json(error.free_in_s, _MAX_FIELD)
    if type(error).__name__ in FINER:
        metadata[_FINER_KEY] = _dump(type(error).__name__)
    notes = [_cut(str(note), _MAX_FIELD) for note in getattr(error, "__notes__", [])[:_MAX_NOTES]]
    if notes:
        metadata["notes"] = _dump(notes)
    return metadata


def pack(error: CkptdError) -> bytes:
    """Return an error as bytes, for messages that do not travel over gRPC."""
    return to_wire(error, is_answer=True).metadata[0][1]


def unpack(packed: bytes) -> CkptdError:
    """Return the error that `pack` packed."""
    return _unpacked(packed) or CkptdError("the daemon answered with an error that is not known here")


def _ours(error: grpc.RpcError) -> CkptdError | None:
    trailing: Any = error.trailing_metadata() if hasattr(error, "trailing_metadata") else None
    packed = next((value for key, value in trailing or () if key == DETAILS_KEY), None)
    return None if packed is None else _unpacked(packed)


def _unpacked(packed: bytes) -> CkptdError | None:
    try:
        rich = status_pb2.Status.FromString(packed)
        for detail in rich.details:
            info = error_details_pb2.ErrorInfo()
            if detail.Unpack(info) and info.domain == DOMAIN and info.reason in _CLASSES:
                return _rebuild(_CLASSES[info.reason], dict(info.metadata))
    except (DecodeError, ValueError, TypeError):
        return None  # Not what our daemon sends: the plain status has to do.
    return None


def _rebuild(kind: type[CkptdError], metadata: dict[str, str]) -> CkptdError:
    fields: dict[str, Any] = {name: json.loads(text) for name, text in metadata.items()}
    finer = FINER.get(str(fields.get(_FINER_KEY)))
    if finer is not None and issubclass(finer, kind):
        kind = finer
    offset = fields.get("offset")
    rebuilt = kind(
        str(fields.get("message", "")),
        key=None if fields.get("key") is None else str(fields["key"]),
        offset=None if offset is None else int(offset),
        expected=_tuples(fields.get("expected")),
        actual=_tuples(fields.get("actual")),
        tensor=None if fields.get("tensor") is None else str(fields["tensor"]),
    )
    if isinstance(rebuilt, ConflictError):
        rebuilt.holder = str(fields.get(_HOLDER, ""))
        free_in_s = fields.get(_FREE_IN_S)
        rebuilt.free_in_s = None if free_in_s is None else float(free_in_s)
    rebuilt.is_answer = bool(fields.get(_IS_ANSWER))
    for note in fields.get("notes") or ():
        rebuilt.add_note(str(note))
    return rebuilt


def _foreign(code: grpc.StatusCode, details: str, address: str) -> CkptdError:
    kind = _FOREIGN.get(code, CkptdError)
    text = _cut(details, _MAX_REASON)
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            return _unreachable(text, address)
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            return kind(f"the daemon at {address} did not answer in time; `ckptd status {address}` shows what it does")
        case grpc.StatusCode.UNIMPLEMENTED:
            return kind(f"what answers at {address} is no ckptd daemon, or one of another version: {text}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED if "larger than max" in details:
            return InvalidRequestError(f"a message to or from {address} is too large: {text}")
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return UnavailableError(f"the daemon at {address} has too much to do now: {text}")
        case grpc.StatusCode.UNAUTHENTICATED | grpc.StatusCode.PERMISSION_DENIED:
            return kind(f"{address} refuses this identity: {text or 'pass the right token or certificate'}")
        case grpc.StatusCode.CANCELLED:
            return kind(f"the call to {address} was cancelled")
        case _ if kind is CkptdError:
            return kind(f"the call to {address} failed inside of the daemon, its log says why ({code.name}: {text})")
        case _:
            return kind(text or f"{address} answered {code.name}")


def _unreachable(details: str, address: str) -> UnavailableError:
    """Read what gRPC says of a connection: it has that as text only, written for people."""
    if told := _GOODBYE.search(details):
        return UnavailableError(f"the daemon at {address} closed the connection: {told[1]}")
    lowered = details.lower()
    if "connection refused" in lowered or "no such file or directory" in lowered:
        why = "connection refused" if "refused" in lowered else "there is no such socket"
        return UnavailableError.unanswered(address, f"{why}; {_START_ONE}")
    if "failed to connect" in lowered and "permission denied" in lowered:
        return UnavailableError(
            f"access to {address} is denied: its socket admits only its own user, or those that --socket-mode allows"
        )
    if "ssl" in lowered or "handshake" in lowered or "certificate" in lowered or "wrong_version_number" in lowered:
        return UnavailableError(
            f"no secure connection to {address}: {_last_cause(details)}; "
            "check that both ends use TLS (grpcs://) and that `ca` is the daemon's authority"
        )
    if "dns" in lowered or "lookup" in lowered or "resolving" in lowered or "resolution" in lowered:
        return UnavailableError.unanswered(address, "the host's name is not known")
    if "failed to connect" in lowered and ("socket closed" in lowered or "connection reset" in lowered):
        closes = UnavailableError(
            f"what answers at {address} closes the connection: it may need TLS (grpcs://), or it is no ckptd daemon"
        )
        closes.hung_up = True
        return closes
    if "failed to connect" in lowered:
        return UnavailableError.unanswered(address, f"{_last_cause(details)}; {_START_ONE}")
    return UnavailableError(f"the connection to the daemon at {address} broke: {details or 'no reason given'}")


def _last_cause(details: str) -> str:
    """Cut gRPC's chain of causes down to the last, which is the one that says something."""
    cause = re.sub(r"(\s*\(\d+\)|: OK)\s*$", "", details)
    return cause.rsplit(": ", 1)[-1] or "no reason given"


def _json(value: object, limit: int) -> str:
    """Return `value` as JSON where it is plain data that fits, else its text, cut."""
    if not isinstance(value, str):
        try:
            text = json.dumps(value)
        except (TypeError, ValueError):
            text = ""
        if 0 < len(text) <= limit:
            return text
    return _dump(_cut(str(value), limit))


def _dump(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    # A protobuf string is UTF-8, which has no lone surrogates; JSON's escapes have.
    return text if text.isascii() or not _SURROGATE.search(text) else json.dumps(value)


def _tuples(value: Any) -> Any:
    """Undo what JSON does to tuples: shapes in errors are tuples, and nothing in them is a list."""
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def _cut(text: str, limit: int) -> str:
    """Cut a text so that it takes at most `limit` bytes. A text that is cut loses its lone surrogates."""
    if len(text) * 6 <= limit or len(text.encode("utf-8", "backslashreplace")) <= limit:
        return text
    return text.encode("utf-8", "ignore")[: limit - 3].decode("utf-8", "ignore") + "…"


def _printable(text: str, limit: int) -> str:
    return _cut(text.encode("utf-8", "backslashreplace").decode("utf-8"), limit)
