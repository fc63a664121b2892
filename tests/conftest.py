from __future__ import annotations

from tests.services.fixtures import s3_front, s3_root, s3_service

__all__ = ["s3_front", "s3_root", "s3_service"]
