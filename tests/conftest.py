from __future__ import annotations

import pytest

from ckptd.client.saving import end_of_process
from tests.services.fixtures import ask_every_server as pytest_generate_tests
from tests.services.fixtures import s3_front, s3_root, s3_service, s3_services

__all__ = ["pytest_generate_tests", "s3_front", "s3_root", "s3_service", "s3_services"]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let this process owe nothing: what failed in a test, unseen, was meant to, and must not set the exit code."""
    end_of_process.forget()
