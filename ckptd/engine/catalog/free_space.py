"""Room in a store: what a save lacked, and whether what retention keeps will fit."""

from __future__ import annotations

from ckptd.errors import CkptdError, StorageFullError, readable_size
from ckptd.storage.base import Store


def measure(error: CkptdError, needed_bytes: int, store: Store) -> None:
    """Let the error of a save that found no room say how much it needed, and how much there is now.

    Called when the save has given back what it had taken, so that the two can be compared.
    """
    if not isinstance(error, StorageFullError) or error.expected is not None or error.actual is not None:
        return
    try:
        free_bytes = store.free_bytes()
    except CkptdError:
        free_bytes = None
    error.expected, error.actual = needed_bytes, free_bytes


def shortage(size_bytes: int, num_kept: int, max_to_keep: int | None, free_bytes: int | None) -> str | None:
    """Return what to warn of if the checkpoints that are kept, and the one being written beside them, will not fit.

    Args:
        size_bytes: of one checkpoint.
        num_kept: how many are there already.
        max_to_keep: how many are kept; none or 0: all, which fit nowhere in the end.
        free_bytes: beside those that are there; None where the store does not know.
    """
    if not max_to_keep or free_bytes is None:
        return None
    needed_bytes = max(max_to_keep + 1 - num_kept, 1) * size_bytes
    if needed_bytes <= free_bytes:
        return None
    return (
        f"max_to_keep={max_to_keep} checkpoints of {readable_size(size_bytes)}, and the next one beside them, will not "
        f"fit: {readable_size(needed_bytes)} more are needed, {readable_size(free_bytes)} are free; "
        "make room or keep fewer"
    )
