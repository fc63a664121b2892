"""A link to the store that is slow loses no save: what moves, however slowly, is waited for."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckptd.errors import UnavailableError
from ckptd.storage.bucket.s3 import S3Bucket
from ckptd.storage.bucket.s3_requests import Patience, S3Options, S3Requests
from tests.services.faults import StallUpload
from tests.services.front import Front
from tests.services.s3 import S3Service
from tests.services.slow_link import SlowLink

NUM_PARTS = 6
PART_BYTES = 3 << 19
HASTY = Patience(connect_s=2.0, progress_s=2.0, deadline_s=20.0)


@pytest.fixture
def name(s3_front: Front, s3_service: S3Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket that is reached by a link on which all parts together take longer than any wait."""
    with SlowLink(s3_front.endpoint, bytes_per_s=9 << 18) as link:
        for name, value in s3_service.environment(link.endpoint).items():
            monkeypatch.setenv(name, value)
        yield s3_service.bucket


def test_parts_that_share_a_slow_link_arrive(name: str, s3_front: Front) -> None:
    bucket = S3Bucket(name, S3Requests(name, S3Options(), patience=HASTY))
    key = f"t{random.getrandbits(64):x}"
    upload = bucket.create_upload(key, {})
    data = [memoryview(bytes([number]) * PART_BYTES) for number in range(NUM_PARTS)]
    with ThreadPoolExecutor(NUM_PARTS) as senders:
        parts = list(senders.map(lambda at: bucket.upload_part(key, upload, at + 1, data[at]), range(NUM_PARTS)))
    try:
        assert [part.number for part in parts] == list(range(1, NUM_PARTS + 1))
        sent = s3_front.exchanges("UploadPart", key)
        assert max(each.ended_s or 0.0 for each in sent) - min(each.began_s for each in sent) > HASTY.progress_s
    finally:
        bucket.abort_upload(key, upload)


def test_a_part_that_does_not_move_is_given_up(name: str, s3_front: Front) -> None:
    bucket = S3Bucket(name, S3Requests(name, S3Options(), patience=Patience(5.0, 1.0, 1.0)))
    key = f"t{random.getrandbits(64):x}"
    upload = bucket.create_upload(key, {})
    try:
        s3_front.add(StallUpload(1 << 16), "UploadPart", key, times=None)
        with pytest.raises(UnavailableError, match=": no byte could be sent for 1 s"):
            bucket.upload_part(key, upload, 1, memoryview(bytes(PART_BYTES * 8)))
    finally:
        s3_front.remove_rules()
        bucket.abort_upload(key, upload)
