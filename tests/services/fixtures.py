"""Fixtures for tests that talk to a real S3 server. Each is started once for a session, by the first that asks."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.services import s3
from tests.services.front import Front
from tests.services.s3 import ENDPOINT_VARIABLE, SERVERS, S3Service
from tests.services.server import CannotRunError


@pytest.fixture(scope="session")
def s3_services() -> Iterator[Callable[[str], S3Service]]:
    """Return the server of a name, which is started when it is first asked for, and lives until the session ends."""
    with ExitStack() as stack:
        running: dict[str, S3Service | CannotRunError] = {}

        def service_of(which: str) -> S3Service:
            if which not in running:
                data = Path(tempfile.mkdtemp(prefix="ckptd-s3-"))  # short: sockets lie below it
                stack.callback(shutil.rmtree, data, ignore_errors=True)
                try:
                    started = s3.start(which, data)
                except CannotRunError as error:
                    running[which] = error
                else:
                    stack.callback(started.stop)
                    running[which] = started
            found = running[which]
            if isinstance(found, S3Service):
                return found
            reason = f"no S3 server: {found}; {ENDPOINT_VARIABLE} and the AWS environment can name one"
            if os.environ.get("CI"):
                pytest.fail(reason)
            pytest.skip(reason)

        yield service_of


@pytest.fixture
def s3_service(request: pytest.FixtureRequest, s3_services: Callable[[str], S3Service]) -> S3Service:
    """A server: the first of `SERVERS`, or in turn each of them for a test that is marked `every_server`."""
    return s3_services(getattr(request, "param", SERVERS[0]))


def ask_every_server(metafunc: pytest.Metafunc) -> None:
    """Let the tests marked `every_server` run once with each; only with one that the environment names."""
    marked = metafunc.definition.get_closest_marker("every_server")
    if marked is not None and "s3_service" in metafunc.fixturenames:
        which = SERVERS[:1] if os.environ.get(ENDPOINT_VARIABLE) else SERVERS
        metafunc.parametrize("s3_service", which, indirect=True)


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
