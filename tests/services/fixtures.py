"""Fixtures for tests that talk to a real S3 server. It is started once for a session, by the first that asks."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.services import s3
from tests.services.ceph import CannotRunError
from tests.services.front import Front
from tests.services.s3 import ENDPOINT_VARIABLE, S3Service


@pytest.fixture(scope="session")
def s3_service() -> Iterator[S3Service]:
    data = Path(tempfile.mkdtemp(prefix="ckptd-s3-"))  # short: sockets lie below it
    try:
        try:
            service = s3.start(data)
        except CannotRunError as error:
            reason = f"no S3 server: {error}; {ENDPOINT_VARIABLE} and the AWS environment can name one"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)
        try:
            yield service
        finally:
            service.stop()
    finally:
        shutil.rmtree(data, ignore_errors=True)


@pytest.fixture
def s3_root(s3_service: S3Service, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of a place of the test's own; this process finds the server by its environment."""
    for name, value in s3_service.environment().items():
        monkeypatch.setenv(name, value)
    return f"s3://{s3_service.bucket}/{uuid.uuid4().hex}"


@pytest.fixture
def s3_front(s3_service: S3Service, monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    """What stands in front of the server, by which this process finds it. It has no rules yet."""
    with Front(s3_service.endpoint) as front:
        for name, value in s3_service.environment(front.endpoint).items():
            monkeypatch.setenv(name, value)
        yield front
