from __future__ import annotations

from tests.services.fixtures import ask_every_server as pytest_generate_tests
from tests.services.fixtures import s3_front, s3_root, s3_service, s3_services

__all__ = ["pytest_generate_tests", "s3_front", "s3_root", "s3_service", "s3_services"]
