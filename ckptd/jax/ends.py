"""The ends of saves, as a manager follows them without being referred to."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from ckptd.client.saving.pending import PendingSave

_LOG = logging.getLogger(__name__.rpartition(".")[0])  # ckptd.jax


def is_any_under_way(saves: Sequence[PendingSave]) -> bool:
    """Say whether one of these saves has not ended."""
    return any(not pending.done() for pending in saves)


def note_failure(failed: set[int], step: int, pending: PendingSave) -> None:
    """Note that a save has failed: its step may be saved again."""
    if pending.checkpoint is None:
        failed.add(step)


def call_back(callback: Callable[[], object], ended: PendingSave) -> None:
    """Call `callback` if this save has ended well."""
    if ended.checkpoint is not None:
        callback()


def log_end(pending: PendingSave) -> None:
    """Log a save that is durable."""
    done = pending.checkpoint
    if done is not None:
        _LOG.info(
            "step %s: %d bytes are durable in %s after %.2f s", done.step, done.size_bytes, done.prefix, done.duration_s
        )
