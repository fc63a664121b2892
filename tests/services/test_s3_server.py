"""The server that the tests rely on keeps the promises that ckptd relies on."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from botocore.exceptions import BotoCoreError, ClientError

from tests.services.s3 import S3Service

pytestmark = pytest.mark.every_server


def test_of_sixteen_that_create_the_same_object_one_wins(s3_service: S3Service, key: str) -> None:
    client, at_once = s3_service.client(), threading.Barrier(16)

    def create(number: int) -> bool:
        at_once.wait(60)
        try:
            client.put_object(Bucket=s3_service.bucket, Key=key, Body=b"%d" % number, IfNoneMatch="*")
        except ClientError as error:
            if error.response["Error"]["Code"] not in ("PreconditionFailed", "ConditionalRequestConflict"):
                raise
            return False
        return True

    with ThreadPoolExecutor(16) as pool:
        won = list(pool.map(create, range(16)))
    assert won.count(True) == 1
    stored = client.get_object(Bucket=s3_service.bucket, Key=key)["Body"].read()
    assert stored == b"%d" % won.index(True)


KILLED = [
    pytest.param(("rgw",), id="the gateway"),
    pytest.param(("rgw", "osd", "mon"), id="all of it", marks=pytest.mark.campaign),
]


@pytest.mark.parametrize("daemons", KILLED)
def test_what_was_acknowledged_is_there_after_it_was_killed(
    s3_service: S3Service, key: str, daemons: tuple[str, ...]
) -> None:
    if s3_service.server is None:
        pytest.skip("this server is not ours to kill")
    acknowledged: list[list[str]] = [[] for _ in range(4)]
    enough = threading.Semaphore(0)

    def write(writer: int) -> None:
        client: Any = s3_service.client()
        for number in range(10_000):
            name = f"{key}/{writer}/{number}"
            try:
                client.put_object(Bucket=s3_service.bucket, Key=name, Body=name.encode() * 1000)
            except (BotoCoreError, ClientError):
                return
            acknowledged[writer].append(name)
            enough.release()

    with ThreadPoolExecutor(len(acknowledged)) as pool:
        writing = [pool.submit(write, writer) for writer in range(len(acknowledged))]
        for _ in range(40):
            assert enough.acquire(timeout=60)
        s3_service.server.kill9(*daemons)
        for each in writing:
            each.result(timeout=60)
    s3_service.server.start()
    client = s3_service.client()
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=s3_service.bucket, Prefix=key)
    listed = {each["Key"] for page in pages for each in page.get("Contents", [])}
    for name in (name for names in acknowledged for name in names):
        assert name in listed
        assert client.get_object(Bucket=s3_service.bucket, Key=name)["Body"].read() == name.encode() * 1000
