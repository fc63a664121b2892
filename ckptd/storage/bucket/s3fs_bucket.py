"""An S3 bucket through s3fs: slower than our own requests, but it works wherever s3fs does.

A user who has configured s3fs in ways that we do not know (another session, other authentication) chooses it by
``CKPTD_S3_CLIENT=s3fs``. Every request is one that s3fs passes on unchanged, so all promises are the same. Its files
and its listings are not used: they publish objects that an error cut short, and cache listings that have changed.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from email.utils import parsedate_to_datetime
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError
from fsspec.asyn import sync
from fsspec.config import conf
from s3fs import S3FileSystem

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from ckptd.format.crc32c import crc32c
from ckptd.storage.base import Buffer
from ckptd.storage.bucket import s3_errors
from ckptd.storage.bucket.bucket import Head, Upload, UploadedPart, scatter
from ckptd.storage.bucket.retrying import Retries
from ckptd.storage.metered import Cause, OnRepeat, untold

_DELETED_AT_ONCE = 1000
_DEADLINE_S = 60.0  # how long a request is repeated


class S3fsBucket:
    """See `ckptd.storage.bucket.bucket.Bucket`."""

    def __init__(self, name: str, *, anon: bool = False, on_repeat: OnRepeat = untold) -> None:
        """Nothing is sent yet. With `anon` requests are not signed."""
        options = {**conf.get("s3", {}), "anon": anon, "use_listings_cache": False, "skip_instance_cache": True}
        try:
            self._files = S3FileSystem(**options)
        except (BotoCoreError, ValueError, TypeError) as error:
            raise InvalidRequestError(f"the configuration of s3fs is invalid: {error}") from error
        self.url = f"s3://{name}"
        self.place = f"s3fs:{options.get('endpoint_url') or ''}/{name}"
        self.unfenced: str | None = None
        self.verifies_writes = True
        self.keeps_metadata = True
        self._name, self._on_repeat = name, on_repeat

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
        wanted: dict[str, Any] = _checksum(crc32c(data) if crc is None else crc)
        if if_absent:
            wanted["IfNoneMatch"] = "*"
        if if_etag is not None:
            wanted["IfMatch"] = if_etag
        try:
            answer = self._call("put_object", key, Body=bytes(data), Metadata=dict(metadata or {}), **wanted)
        except NotFoundError as error:
            if if_etag is None:
                raise
            raise ConflictError("the object is gone", key=key, expected=if_etag) from error
        return Head(key, len(memoryview(data).cast("B")), _date(answer), answer["ETag"], metadata or {})

    def get(self, key: str, *, limit_bytes: int) -> tuple[bytes, Head]:
        """See `Bucket`."""
        head = self.head(key)
        if head.size_bytes > limit_bytes:
            raise CorruptionError("larger than the limit", key=key, expected=limit_bytes, actual=head.size_bytes)
        answer = self._call("get_object", key)
        return self._body(answer, key), self._head(key, answer)

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Bucket`."""
        size = sum(memory.nbytes for memory in into)
        if not size:
            size_bytes = self.head(key).size_bytes
            if offset > size_bytes:
                raise CorruptionError("the object ends early", key=key, offset=offset, expected=0, actual=size_bytes)
            return
        answer = self._call("get_object", key, Range=f"bytes={offset}-{offset + size - 1}")
        data = self._body(answer, key)
        if len(data) != size:
            raise CorruptionError("the object ends early", key=key, offset=offset, expected=size, actual=len(data))
        scatter(data, into)

    def _body(self, answer: Mapping[str, Any], key: str) -> bytes:
        async def read() -> bytes:
            async with answer["Body"] as body:
                return bytes(await body.read())

        data: bytes = _translated(key, lambda: sync(self._files.loop, read))
        return data

    def head(self, key: str) -> Head:
        """See `Bucket`."""
        return self._head(key, self._call("head_object", key))

    def _head(self, key: str, answer: Mapping[str, Any]) -> Head:
        modified = answer["LastModified"].timestamp()
        return Head(key, answer["ContentLength"], modified, answer["ETag"], answer.get("Metadata", {}))

    def list(self, prefix: str, *, deep: bool) -> Iterator[Head]:
        """See `Bucket`."""
        wanted = {"Prefix": prefix} if deep else {"Prefix": prefix, "Delimiter": "/"}
        while True:
            answer = self._call("list_objects_v2", None, **wanted)
            for each in answer.get("Contents", ()):
                yield Head(each["Key"], each["Size"], each["LastModified"].timestamp(), each["ETag"])
            if not answer.get("IsTruncated"):
                return
            wanted["ContinuationToken"] = answer["NextContinuationToken"]

    def delete(self, key: str, *, if_etag: str | None = None) -> None:
        """See `Bucket`. A server that offers no condition here deletes without."""
        with suppress(NotFoundError):
            if if_etag is not None:
                with suppress(InvalidRequestError):
                    self._call("delete_object", key, IfMatch=if_etag)
                    return
            self._call("delete_object", key)

    def delete_many(self, keys: Sequence[str]) -> None:
        """See `Bucket`."""
        for at in range(0, len(keys), _DELETED_AT_ONCE):
            some = [{"Key": key} for key in keys[at : at + _DELETED_AT_ONCE]]
            answer = self._call("delete_objects", None, Delete={"Objects": some, "Quiet": True})
            for failed in answer.get("Errors", ()):
                raise s3_errors.error_of_code(403, failed.get("Code", ""), failed.get("Message", ""), failed["Key"])

    def create_upload(self, key: str, metadata: Mapping[str, str]) -> str:
        """See `Bucket`."""
        answer = self._call("create_multipart_upload", key, ChecksumAlgorithm="CRC32C", Metadata=dict(metadata))
        return str(answer["UploadId"])

    def upload_part(
        self, key: str, upload_id: str, number: int, *data: memoryview, crc: int | None = None
    ) -> UploadedPart:
        """See `Bucket`."""
        body = b"".join(data)
        crc = crc32c(body) if crc is None else crc
        answer = self._call("upload_part", key, UploadId=upload_id, PartNumber=number, Body=body, **_checksum(crc))
        return UploadedPart(number, answer["ETag"], crc, len(body))

    def complete_upload(
        self, key: str, upload_id: str, parts: Sequence[UploadedPart], *, if_absent: bool = False
    ) -> Head:
        """See `Bucket`."""
        listed = [
            {"PartNumber": part.number, "ETag": part.etag, "ChecksumCRC32C": _encoded(part.crc32c)}
            for part in sorted(parts, key=lambda part: part.number)
        ]
        condition = {"IfNoneMatch": "*"} if if_absent else {}
        answer = self._call(
            "complete_multipart_upload", key, UploadId=upload_id, MultipartUpload={"Parts": listed}, **condition
        )
        return Head(key, sum(part.size_bytes for part in parts), _date(answer), answer["ETag"])

    def abort_upload(self, key: str, upload_id: str) -> None:
        """See `Bucket`."""
        try:
            self._call("abort_multipart_upload", key, UploadId=upload_id)
        except NotFoundError:
            return

    def uploads(self, prefix: str) -> Iterator[Upload]:
        """See `Bucket`."""
        wanted = {"Prefix": prefix}
        while True:
            answer = self._call("list_multipart_uploads", None, **wanted)
            for each in answer.get("Uploads", ()):
                yield Upload(each["Key"], each["UploadId"], each["Initiated"].timestamp())
            if not answer.get("IsTruncated"):
                return
            wanted.update(KeyMarker=answer["NextKeyMarker"], UploadIdMarker=answer["NextUploadIdMarker"])

    def has_versions(self) -> bool:
        """See `Bucket`."""
        return bool(self._call("get_bucket_versioning", None).get("Status") == "Enabled")

    def aborts_old_uploads(self) -> bool:
        """See `Bucket`."""
        try:
            rules = self._call("get_bucket_lifecycle_configuration", None)["Rules"]
        except NotFoundError:
            return False
        return any("AbortIncompleteMultipartUpload" in rule for rule in rules)

    def now(self) -> float:
        """See `Bucket`."""
        return _date(self._call("head_bucket", None))

    def _call(self, method: str, key: str | None, **wanted: Any) -> Any:
        if key is not None:
            wanted["Key"] = key
        retries = Retries(_DEADLINE_S)
        while True:
            try:
                return _translated(key or "", lambda: self._files.call_s3(method, Bucket=self._name, **wanted))
            except UnavailableError as error:  # s3fs tries some errors again, and not all that may pass
                retries.pause(error)
                self._on_repeat(Cause.SERVER)


def _translated(key: str, act: Callable[[], Any]) -> Any:
    """Do something with s3fs. Its errors are those of files; the server's own error is their cause."""
    try:
        return act()
    except CkptdError:
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, ClientError):
            cause = cause.__cause__
        if cause is None:
            raise UnavailableError(f"{type(error).__name__}: {error}", key=key or None) from error
        said = cause.response.get("Error", {})
        status = int(cause.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500))
        raise s3_errors.error_of_code(status, said.get("Code", ""), said.get("Message", ""), key) from error


def _checksum(crc: int) -> dict[str, Any]:
    return {"ChecksumAlgorithm": "CRC32C", "ChecksumCRC32C": _encoded(crc)}


def _encoded(crc: int) -> str:
    return base64.b64encode(crc.to_bytes(4, "big")).decode()


def _date(answer: Mapping[str, Any]) -> float:
    return parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"]).timestamp()
