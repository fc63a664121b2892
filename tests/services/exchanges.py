"""What passes between a client and an S3 server: requests by their S3 names, replies, and a record of both."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from urllib.parse import parse_qsl, unquote

Headers = list[tuple[str, str]]

# Method, whether there is a key, the parameter that tells: the first row that fits names the operation.
_OPERATIONS: list[tuple[str, bool, str, str]] = [
    ("PUT", True, "partNumber", "UploadPart"),
    ("PUT", True, "", "PutObject"),
    ("PUT", False, "versioning", "PutBucketVersioning"),
    ("PUT", False, "lifecycle", "PutBucketLifecycleConfiguration"),
    ("PUT", False, "", "CreateBucket"),
    ("GET", True, "uploadId", "ListParts"),
    ("GET", True, "", "GetObject"),
    ("GET", False, "uploads", "ListMultipartUploads"),
    ("GET", False, "versioning", "GetBucketVersioning"),
    ("GET", False, "lifecycle", "GetBucketLifecycleConfiguration"),
    ("GET", False, "", "ListObjects"),
    ("HEAD", True, "", "HeadObject"),
    ("HEAD", False, "", "HeadBucket"),
    ("POST", True, "uploads", "CreateMultipartUpload"),
    ("POST", True, "uploadId", "CompleteMultipartUpload"),
    ("POST", False, "delete", "DeleteObjects"),
    ("DELETE", True, "uploadId", "AbortMultipartUpload"),
    ("DELETE", True, "", "DeleteObject"),
    ("DELETE", False, "", "DeleteBucket"),
]


@dataclass(frozen=True)
class Request:
    """The head of one request, its target as it came over the wire."""

    method: str
    target: str
    headers: Headers

    @property
    def bucket(self) -> str:
        return unquote(self._path().partition("/")[0])

    @property
    def key(self) -> str:
        """The object's key; "" for a request to the bucket."""
        return unquote(self._path().partition("/")[2])

    @property
    def query(self) -> dict[str, str]:
        return dict(parse_qsl(self.target.partition("?")[2], keep_blank_values=True))

    @property
    def operation(self) -> str:
        """Its name in the S3 API. `ListObjects` is either version of it."""
        if self.header("x-amz-copy-source"):
            return "UploadPartCopy" if "partNumber" in self.query else "CopyObject"
        for method, has_key, parameter, name in _OPERATIONS:
            if (method, has_key) == (self.method, bool(self.key)) and (not parameter or parameter in self.query):
                return name
        return self.method

    def header(self, name: str) -> str | None:
        return header_of(self.headers, name)

    def without(self, *names: str) -> Request:
        """Return it without these headers; a name that ends in ``*`` means all that begin so."""
        unwanted = re.compile("|".join(re.escape(name).replace(r"\*", ".*") for name in names), re.IGNORECASE)
        return replace(self, headers=[each for each in self.headers if not unwanted.fullmatch(each[0])])

    def _path(self) -> str:
        return self.target.partition("?")[0].removeprefix("/")


@dataclass
class Reply:
    """A status, headers, and a body on its way: pieces, of `length_bytes` together."""

    status: int
    headers: Headers
    body: Iterator[bytes]
    length_bytes: int

    @staticmethod
    def of(status: int, body: bytes = b"", headers: Headers | None = None) -> Reply:
        return Reply(status, headers or [], iter((body,) if body else ()), len(body))

    @staticmethod
    def error(status: int, code: str) -> Reply:
        """Return an error as S3 words it."""
        body = (
            f'<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code>'
            f"<Message>injected by a test</Message><RequestId>test</RequestId></Error>"
        )
        return Reply.of(status, body.encode(), [("Content-Type", "application/xml")])

    def head(self) -> bytes:
        """Return what goes over the wire before the body."""
        known = {each.value: each.phrase for each in HTTPStatus}
        lines = [f"HTTP/1.1 {self.status} {known.get(self.status, 'Unknown')}"]
        lines += [f"{name}: {value}" for name, value in self.headers if name.lower() != "content-length"]
        if self.status not in (204, 304):
            lines.append(f"Content-Length: {self.length_bytes}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("iso-8859-1")


@dataclass
class Exchange:
    """One request and what became of it. Times are of one monotonic clock.

    `status` is what the client was told and None until then, or for ever; `server_status` is what the server said, None
    if it was not asked. `sent_bytes` and `received_bytes` are of bodies, as the client sees them.
    """

    request: Request
    operation: str
    key: str
    began_s: float
    ended_s: float | None = None
    status: int | None = None
    server_status: int | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    range: str | None = None
    fault: object = None
    """The action of the rule that was applied, if any."""

    query: dict[str, str] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return self.request.method

    def __str__(self) -> str:
        return f"{self.operation} {self.key!r} -> {self.status}" + (f" ({self.fault})" if self.fault else "")


def header_of(headers: Iterable[tuple[str, str]], name: str) -> str | None:
    return next((value for known, value in headers if known.lower() == name.lower()), None)


def round_trips(exchanges: Iterable[Exchange]) -> int:
    """Return how many of these exchanges followed each other: what ran at the same time counts once."""
    count, free_from_s = 0, float("-inf")
    for each in sorted(exchanges, key=_end_s):
        if each.began_s >= free_from_s:
            count, free_from_s = count + 1, _end_s(each)
    return count


def selected(
    exchanges: Iterable[Exchange], operation: str = "", key: str = "", when: Callable[[Exchange], bool] | None = None
) -> list[Exchange]:
    """Return those of an operation (any of several, separated by spaces) whose key contains the pattern."""
    wanted = operation.split()
    return [
        each
        for each in exchanges
        if (not wanted or each.operation in wanted) and re.search(key, each.key) and (when is None or when(each))
    ]


def _end_s(exchange: Exchange) -> float:
    return float("inf") if exchange.ended_s is None else exchange.ended_s
