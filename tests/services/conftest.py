"""Fixtures for what stands in front of the real server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.session import get_session

from tests.services.front import Front
from tests.services.s3 import REGION, S3Service

_SESSION = get_session()


def client_of(service: S3Service, front: Front, *, patience_s: float = 60.0) -> Any:
    """Return a client that is not ours, goes by way of `front`, and makes every request once."""
    once = Config(s3={"addressing_style": "path"}, retries={"total_max_attempts": 1}, read_timeout=patience_s)
    return _SESSION.create_client(
        "s3",
        region_name=REGION,
        endpoint_url=front.endpoint,
        aws_access_key_id=service.access_key,
        aws_secret_access_key=service.secret_key,
        config=once,
    )


@pytest.fixture
def front(s3_service: S3Service) -> Iterator[Front]:
    with Front(s3_service.endpoint) as front:
        yield front


@pytest.fixture
def key() -> str:
    return f"{uuid.uuid4().hex}/an object's key: é"
