"""Check that a range of bytes lies within an object."""

from __future__ import annotations

from ckptd.errors import InvalidRequestError


def check_range(key: str, size_bytes: int, offset: int, num_bytes: int) -> None:
    """Refuse `num_bytes` at byte `offset` that are not all within an object of `size_bytes`."""
    if offset < 0 or offset + num_bytes > size_bytes:
        raise InvalidRequestError(
            "these bytes lie outside the object",
            key=key,
            offset=offset,
            expected=size_bytes,
            actual=offset + num_bytes,
        )
