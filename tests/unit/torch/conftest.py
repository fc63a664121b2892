from __future__ import annotations

from tests.unit.client.conftest import daemon

__all__ = ["daemon"]
