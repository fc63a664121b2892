"""One line per save in the log, and none on the terminal: progress bars stay whole."""

from __future__ import annotations

import logging
import time

from ckptd.client.saving.pending import PendingSave

log = logging.getLogger("ckptd.tensorflow")


def report(pending: PendingSave, prefix: str, began_at: float) -> None:
    """Log how long training stood still for a save, once the save has ended.

    Args:
        pending: the save.
        prefix: of its checkpoint.
        began_at: when training was stopped for it, on the monotonic clock.
    """
    stall_s = time.monotonic() - began_at

    def tell(pending: PendingSave) -> None:
        saved = pending.checkpoint
        if saved is None:
            return  # the error is raised where a caller can catch it
        log.info(
            "saved %s: %.1f MB in %.2f s, training stood still for %.3f s",
            prefix,
            saved.size_bytes / 1e6,
            time.monotonic() - began_at,
            stall_s,
        )

    pending.add_done_callback(tell)
