"""A lying store breaks the promises that it is told to break, and keeps the others."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from botocore.exceptions import ClientError

from ckptd.format.crc32c import crc32c
from tests.services.conftest import client_of
from tests.services.faults import FlipUpload
from tests.services.lying import ALL_CONDITIONS, Lie, LyingStore
from tests.services.s3 import S3Service

CRC = base64.b64encode(crc32c(b"new").to_bytes(4, "big")).decode()
STALE = '"0123456789abcdef0123456789abcdef"'
CALLS = ("create over it", "replace a stale one", "replace a missing one", "complete over it", "a wrong checksum")


pytestmark = pytest.mark.every_server


class Bucket:
    """A bucket of a store that tells some lies."""

    def __init__(self, service: S3Service, store: LyingStore, key: str) -> None:
        self.store = store
        self.client = client_of(service, store)
        self.key = key
        self.name = service.bucket

    def put(self, key: str, body: bytes = b"new", **conditions: str) -> Any:
        return self.client.put_object(Bucket=self.name, Key=key, Body=body, **conditions)

    def listed(self, **options: str) -> list[str]:
        answer = self.client.list_objects_v2(Bucket=self.name, Prefix=self.key, **options)
        assert answer["KeyCount"] == len(answer.get("Contents", []))
        return [each["Key"].removeprefix(self.key) for each in answer.get("Contents", [])]

    def complete(self, key: str, **conditions: str) -> None:
        where = {"Bucket": self.name, "Key": key}
        upload = self.client.create_multipart_upload(**where, ChecksumAlgorithm="CRC32C")["UploadId"]
        part = self.client.upload_part(
            **where, UploadId=upload, PartNumber=1, Body=b"new", ChecksumAlgorithm="CRC32C", ChecksumCRC32C=CRC
        )
        parts = [{"PartNumber": 1, "ETag": part["ETag"], "ChecksumCRC32C": CRC}]
        self.client.complete_multipart_upload(**where, UploadId=upload, MultipartUpload={"Parts": parts}, **conditions)

    def accepts(self) -> set[str]:
        """Return which of the calls are carried out, none of which an honest store would."""
        there, missing = self.key + "there", self.key + "missing"
        self.put(there, b"old")
        calls: list[Callable[[], object]] = [
            lambda: self.put(there, IfNoneMatch="*"),
            lambda: self.put(there, IfMatch=STALE),
            lambda: self.put(missing, IfMatch=STALE),
            lambda: self.complete(there, IfNoneMatch="*"),
            lambda: self.put(there, ChecksumAlgorithm="CRC32C", ChecksumCRC32C="AAAAAA=="),
        ]
        return {name for name, call in zip(CALLS, calls, strict=True) if is_carried_out(call)}


def is_carried_out(call: Callable[[], object]) -> bool:
    try:
        call()
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("PreconditionFailed", "NoSuchKey", "BadDigest"):
            raise
        return False
    return True


@pytest.fixture
def bucket_of(s3_service: S3Service, key: str) -> Iterator[Callable[..., Bucket]]:
    stores: list[LyingStore] = []

    def make(*lies: Lie) -> Bucket:
        stores.append(LyingStore(s3_service, lies))
        return Bucket(s3_service, stores[-1], key)

    yield make
    for store in stores:
        store.close()


LIES = [
    ((), set()),
    (ALL_CONDITIONS, {"create over it", "replace a stale one", "replace a missing one", "complete over it"}),
    ((Lie.IF_MATCH,), {"replace a stale one", "replace a missing one"}),
    ((Lie.IF_NONE_MATCH,), {"create over it", "complete over it"}),
    ((Lie.IF_MATCH_ON_MISSING,), {"replace a missing one"}),
    ((Lie.COMPLETE_CONDITIONS,), {"complete over it"}),
    ((Lie.CHECKSUMS,), {"a wrong checksum"}),
]


@pytest.mark.parametrize(
    ("lies", "accepted"), LIES, ids=lambda each: "-".join(lie.name for lie in each if type(lie) is Lie)
)
def test_it_accepts_what_its_lies_say_and_nothing_more(
    bucket_of: Callable[..., Bucket], lies: tuple[Lie, ...], accepted: set[str]
) -> None:
    assert bucket_of(*lies).accepts() == accepted


def test_without_checksums_a_flipped_bit_is_stored(bucket_of: Callable[..., Bucket]) -> None:
    bucket = bucket_of(Lie.CHECKSUMS)
    bucket.store.add(FlipUpload(1), "PutObject")
    bucket.put(bucket.key, b"abc", ChecksumAlgorithm="CRC32C")
    stored = bucket.client.get_object(Bucket=bucket.name, Key=bucket.key)["Body"].read()
    assert stored == b"acc"


def test_a_listing_shows_what_was_there_before(bucket_of: Callable[..., Bucket]) -> None:
    bucket = bucket_of(Lie.LISTINGS)
    for name in ("/a", "/b", "/c"):
        bucket.put(bucket.key + name)
    assert bucket.listed() == []
    bucket.store.catch_up()
    assert bucket.listed() == ["/a", "/b", "/c"]
    bucket.client.delete_object(Bucket=bucket.name, Key=bucket.key + "/a")
    quiet = {"Objects": [{"Key": bucket.key + "/b"}], "Quiet": True}
    bucket.client.delete_objects(Bucket=bucket.name, Delete=quiet)
    bucket.put(bucket.key + "/d")
    assert bucket.listed() == ["/a", "/b", "/c"]
    assert bucket.listed(StartAfter=bucket.key + "/a") == ["/b", "/c"]
    bucket.store.catch_up()
    assert bucket.listed() == ["/c", "/d"]
