"""An S3 bucket: each request of `Bucket`, as the S3 API spells it.

Sources: the Amazon S3 API reference for names and bodies; what servers do differently is noted where it matters.
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from urllib.parse import unquote_plus
from xml.etree.ElementTree import Element
from xml.sax.saxutils import escape

from ckptd.errors import ConflictError, CorruptionError, InvalidRequestError, NotFoundError, UnavailableError
from ckptd.format.crc32c import crc32c, of_all
from ckptd.storage.base import Buffer
from ckptd.storage.bucket import s3_errors
from ckptd.storage.bucket.bucket import Head, Upload, UploadedPart
from ckptd.storage.bucket.s3_requests import Answer, S3Requests

_META = "x-amz-meta-"
_DELETED_AT_ONCE = 1000
_LIST_AT_ONCE = 1000


class S3Bucket:
    """See `ckptd.storage.bucket.bucket.Bucket`."""

    def __init__(self, name: str, requests: S3Requests) -> None:
        """Nothing is sent yet."""
        self.url = f"s3://{name}"
        self.place = requests.base_url
        self.unfenced: str | None = None
        self.verifies_writes = True
        self.keeps_metadata = True
        self._requests = requests

    # Objects

    def put(
        self,
        key: str,
        data: Buffer,
        *,
        if_absent: bool = False,
        if_etag: str | None = None,
        metadata: Mapping[str, str] | None = None,
        crc: int | None = None,
    ) -> Head:
        """See `Bucket`."""
        view = memoryview(data).cast("B")
        headers = {**_checksum(crc32c(view) if crc is None else crc), **_meta(metadata)}
        if if_absent:
            headers["If-None-Match"] = "*"
        if if_etag is not None:
            headers["If-Match"] = if_etag
        try:
            answer = self._requests.send("PUT", key, headers=headers, body=[view] if len(view) else [])
        except NotFoundError as error:
            if if_etag is None:
                raise
            raise ConflictError("the object is gone", key=key, expected=if_etag) from error
        return Head(key, len(view), _date(answer), answer.headers["ETag"], metadata or {})

    def get(self, key: str, *, limit_bytes: int) -> tuple[bytes, Head]:
        """See `Bucket`."""
        # The range keeps a larger object from being sent whole; an empty object has no ranges.
        try:
            answer = self._requests.send("GET", key, headers={"Range": f"bytes=0-{limit_bytes}"})
        except CorruptionError:
            answer = self._requests.send("GET", key)
        if len(answer.body) > limit_bytes:
            total = answer.headers.get("Content-Range", "").rpartition("/")[2]
            raise CorruptionError("larger than the limit", key=key, expected=limit_bytes, actual=total or None)
        return answer.body, _head(key, answer, len(answer.body))

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Bucket`."""
        size = sum(memory.nbytes for memory in into)
        if not size:
            size_bytes = self.head(key).size_bytes
            if offset > size_bytes:
                raise CorruptionError("the object ends early", key=key, offset=offset, expected=0, actual=size_bytes)
            return
        last = offset + size - 1
        try:
            self._requests.send("GET", key, headers={"Range": f"bytes={offset}-{last}"}, into=into)
        except CorruptionError as error:
            error.offset = offset
            raise

    def head(self, key: str) -> Head:
        """See `Bucket`."""
        answer = self._requests.send("HEAD", key)
        return _head(key, answer, int(answer.headers["Content-Length"]))

    def list(self, prefix: str, *, deep: bool) -> Iterator[Head]:
        """See `Bucket`."""
        query = {"list-type": "2", "prefix": prefix, "encoding-type": "url", "max-keys": str(_LIST_AT_ONCE)}
        if not deep:
            query["delimiter"] = "/"
        while True:
            root = self._request_xml("GET", "", query)
            for each in root.iterfind("{*}Contents"):
                # As in a form: some servers write a space as "+", and all of them a "+" as "%2B".
                yield Head(
                    unquote_plus(_text(each, "Key"), errors="surrogateescape"),
                    int(_text(each, "Size")),
                    _moment(_text(each, "LastModified")),
                    _text(each, "ETag"),
                )
            if s3_errors.text_of(root, "IsTruncated") != "true":
                return
            query["continuation-token"] = _text(root, "NextContinuationToken")

    def delete(self, key: str, *, if_etag: str | None = None) -> None:
        """See `Bucket`. A server that offers no condition here deletes without."""
        with suppress(NotFoundError):
            if if_etag is not None:
                with suppress(InvalidRequestError):
                    self._requests.send("DELETE", key, headers={"If-Match": if_etag})
                    return
            self._requests.send("DELETE", key)

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `Bucket`."""
        for at in range(0, len(keys), _DELETED_AT_ONCE):
            some = keys[at : at + _DELETED_AT_ONCE]
            if len(some) == 1 or any(not key.isprintable() for key in some):
                for key in some:  # XML has no way to write some characters
                    self.delete(key)
                continue
            listed = "".join(f"<Object><Key>{escape(key)}</Key></Object>" for key in some)
            body = f"<Delete><Quiet>true</Quiet>{listed}</Delete>".encode()
            root = self._request_xml("POST", "", {"delete": ""}, body)
            for failed in root.iterfind("{*}Error"):
                code, key = s3_errors.text_of(failed, "Code") or "", s3_errors.text_of(failed, "Key") or ""
                if code not in ("NoSuchKey", ""):
                    raise s3_errors.error_of(403, f"<Error><Code>{escape(code)}</Code></Error>".encode(), key)

    # Uploads

    def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        """See `Bucket`."""
        headers = {"x-amz-checksum-algorithm": "CRC32C", **_meta(metadata)}
        answer = self._requests.send("POST", key, query={"uploads": ""}, headers=headers)
        upload_id = _text(_xml(answer, key), "UploadId")
        if answer.num_attempts > 1:
            # An upload that was begun without an answer would stay for ever. Keys are written by one writer only.
            for other in [each for each in self.uploads(key) if each.key == key and each.upload_id != upload_id]:
                self.abort_upload(key, other.upload_id)
        return upload_id

    def upload_part(
        self, key: str, upload_id: str, number: int, *data: memoryview, crc: int | None = None
    ) -> UploadedPart:
        """See `Bucket`."""
        query = {"partNumber": str(number), "uploadId": upload_id}
        if crc is None:
            crc = of_all(data)
        answer = self._requests.send("PUT", key, query=query, headers=_checksum(crc), body=data)
        return UploadedPart(number, answer.headers["ETag"], crc, sum(memory.nbytes for memory in data))

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart], *, if_absent: bool = False
    ) -> Head:
        """See `Bucket`."""
        listed = "".join(
            f"<Part><PartNumber>{part.number}</PartNumber><ETag>{escape(part.etag)}</ETag>"
            f"<ChecksumCRC32C>{_encoded(part.crc32c)}</ChecksumCRC32C></Part>"
            for part in sorted(parts, key=lambda part: part.number)
        )
        headers = {"If-None-Match": "*"} if if_absent else {}
        body = memoryview(f"<CompleteMultipartUpload>{listed}</CompleteMultipartUpload>".encode())
        answer = self._requests.send("POST", key, query={"uploadId": upload_id}, headers=headers, body=[body])
        return Head(key, sum(part.size_bytes for part in parts), _date(answer), _text(_xml(answer, key), "ETag"))

    def abort_upload(self, key: str, upload_id: str) -> None:
        """See `Bucket`."""
        with suppress(NotFoundError):
            self._requests.send("DELETE", key, query={"uploadId": upload_id})

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """See `Bucket`."""
        query = {"uploads": "", "prefix": prefix, "encoding-type": "url"}
        while True:
            root = self._request_xml("GET", "", query)
            for each in root.iterfind("{*}Upload"):
                key = unquote_plus(_text(each, "Key"), errors="surrogateescape")
                yield Upload(key, _text(each, "UploadId"), _moment(_text(each, "Initiated")))
            if s3_errors.text_of(root, "IsTruncated") != "true":
                return
            query["key-marker"] = unquote_plus(_text(root, "NextKeyMarker"))
            query["upload-id-marker"] = _text(root, "NextUploadIdMarker")

    def now(self) -> float:
        """See `Bucket`."""
        return _date(self._requests.send("HEAD", ""))

    def has_versions(self) -> bool:
        """See `Bucket`."""
        return s3_errors.text_of(self._request_xml("GET", "", {"versioning": ""}), "Status") == "Enabled"

    def aborts_old_uploads(self) -> bool:
        """See `Bucket`."""
        try:
            root = self._request_xml("GET", "", {"lifecycle": ""})
        except NotFoundError:
            return False
        return root.find(".//{*}AbortIncompleteMultipartUpload") is not None

    def _request_xml(self, method: str, key: str, query: Mapping[str, str], body: bytes = b"") -> Element:
        headers = {"Content-MD5": base64.b64encode(hashlib.md5(body).digest()).decode()} if body else {}  # noqa: S324
        sent = [memoryview(body)] if body else []
        return _xml(self._requests.send(method, key, query=query, headers=headers, body=sent), key)


def _checksum(crc: int) -> dict[str, str]:
    """Return the headers by which a server checks the body. Some do so only if the algorithm is named, too."""
    return {
        "x-amz-checksum-crc32c": _encoded(crc),
        "x-amz-sdk-checksum-algorithm": "CRC32C",
    }


def _encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _meta(metadata: Mapping[str, str] | None) -> dict[str, str]:
    return {f"{_META}{name}": value for name, value in (metadata or {}).items()}


def _head(key: str, answer: Answer, size_bytes: int) -> Head:
    metadata = {
        name.lower().removeprefix(_META): value
        for name, value in answer.headers.items()
        if name.lower().startswith(_META)
    }
    modified = parsedate_to_datetime(answer.headers["Last-Modified"]).timestamp()
    return Head(key, size_bytes, modified, answer.headers["ETag"], metadata)


def _date(answer: Answer) -> float:
    told = answer.headers.get("Date")
    return parsedate_to_datetime(told).timestamp() if told else time.time()


def _xml(answer: Answer, key: str) -> Element:
    root = s3_errors.parse(answer.body)
    if root is None:
        raise UnavailableError("the server's answer cannot be read", key=key or None, actual=answer.body[:100])
    return root


def _text(element: Element, name: str) -> str:
    found = s3_errors.text_of(element, name)
    if found is None:
        raise UnavailableError(f"the server's answer has no {name}")
    return found


def _moment(text: str) -> float:
    """Read a time of the form ``2026-01-02T03:04:05.678Z``, with any number of digits behind the dot, or none."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    try:
        return datetime.fromisoformat(f"{whole}+00:00").timestamp() + float(f"0.{fraction or 0}")
    except ValueError as error:
        raise UnavailableError("the server's answer has no time where one belongs", actual=text) from error
