"""Translate errors of an S3 server to ours: the class says what to do."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    StorageFullError,
    UnavailableError,
)

EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "InvalidToken"})
"""Codes after which fresh credentials may help."""

_DAMAGED = "the bytes were damaged on the way: the server's checksum differs"
_CODES: dict[str, tuple[type[CkptdError], str]] = {
    "NoSuchKey": (NotFoundError, "there is no such object"),
    "NoSuchUpload": (NotFoundError, "there is no such upload; it was completed or aborted"),
    "NoSuchBucket": (NotFoundError, "there is no such bucket"),
    "PreconditionFailed": (ConflictError, "the object is not as it was expected to be"),
    "ConditionalRequestConflict": (UnavailableError, "another request for this object was under way"),
    "OperationAborted": (UnavailableError, "another request for this object was under way"),
    "AccessDenied": (NotPermittedError, "these credentials may not do this"),
    "AllAccessDisabled": (NotPermittedError, "the account is disabled"),
    "InvalidAccessKeyId": (NotPermittedError, "the server does not know this access key"),
    "SignatureDoesNotMatch": (NotPermittedError, "the secret key does not belong to the access key"),
    "RequestTimeTooSkewed": (NotPermittedError, "this host's clock differs too much from the server's: set it"),
    "ExpiredToken": (NotPermittedError, "the credentials have expired"),
    "InvalidToken": (NotPermittedError, "the session token is not valid"),
    "BadDigest": (CorruptionError, _DAMAGED),
    "XAmzContentChecksumMismatch": (
        CorruptionError,
        "the bytes were damaged on the way: the server's checksum differs",
    ),
    "InvalidPart": (CorruptionError, "the server does not have a part as it was sent"),
    "InvalidRange": (CorruptionError, "the object ends before"),
    "QuotaExceeded": (StorageFullError, "the quota is used up"),
    "ServiceQuotaExceeded": (StorageFullError, "the quota is used up"),
    "InsufficientStorage": (StorageFullError, "the server is full"),
    "XMinioStorageFull": (StorageFullError, "the server is full"),
    "SlowDown": (UnavailableError, "the server asks to slow down"),
    "ServiceUnavailable": (UnavailableError, "the server is overloaded"),
    "InternalError": (UnavailableError, "the server failed"),
    "RequestTimeout": (UnavailableError, "the server waited too long for bytes"),
}
_STATUSES: dict[int, tuple[type[CkptdError], str]] = {
    301: (InvalidRequestError, "the bucket is in another region: set AWS_REGION"),
    304: (ConflictError, "not modified"),
    400: (InvalidRequestError, "the server does not understand the request"),
    401: (NotPermittedError, "these credentials may not do this"),
    403: (NotPermittedError, "these credentials may not do this"),
    404: (NotFoundError, "there is no such object"),
    405: (InvalidRequestError, "the server does not offer this"),
    409: (UnavailableError, "another request for this object was under way"),
    411: (InvalidRequestError, "the server does not understand the request"),
    412: (ConflictError, "the object is not as it was expected to be"),
    416: (CorruptionError, "the object ends before"),
    429: (UnavailableError, "the server asks to slow down"),
    501: (InvalidRequestError, "the server does not offer this"),
    507: (StorageFullError, "the server is full"),
}


def parse(body: bytes) -> ElementTree.Element | None:
    """Return an XML answer's root, None for what is no XML. Declarations of entities are refused: bombs need them."""
    if b"<!" in body:
        return None
    try:
        return ElementTree.fromstring(body)  # noqa: S314 (see above)
    except ElementTree.ParseError:
        return None


def text_of(element: ElementTree.Element, name: str) -> str | None:
    """Return the text of the first child of that name, whatever the namespace."""
    found = element.find(f"{{*}}{name}")
    return None if found is None else found.text or ""


def code_of(body: bytes) -> str:
    """Return the code of an error document, "" for anything else."""
    root = parse(body) if body else None
    if root is None or re.sub(r"^\{.*\}", "", root.tag) != "Error":
        return ""
    return text_of(root, "Code") or ""


def error_of(status: int, body: bytes, key: str) -> CkptdError:
    """Return the error that an answer means. An answer may be an error in spite of status 200."""
    root = parse(body) if body else None
    message = text_of(root, "Message") or "" if root is not None else ""
    return error_of_code(status, code_of(body), message, key)


def error_of_code(status: int, code: str, message: str, key: str) -> CkptdError:
    """Return the error for a server's code, or for its status if we don't know the code."""
    kind, reason = _CODES.get(code) or _STATUSES.get(status) or (UnavailableError, "the server failed")
    error = kind(reason, key=key or None)
    error.add_note(f"the server said {status} {code}" + (f": {message[:200]}" if message else ""))
    return error
