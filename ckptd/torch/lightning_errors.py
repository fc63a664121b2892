"""Errors that also have the classes of Lightning's own plugin, because programs catch those."""

from __future__ import annotations

from pathlib import Path

from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.torch import lightning_paths as paths


class MissingCheckpointError(NotFoundError, FileNotFoundError):
    """Nothing was saved at a path."""


class StorageOptionsError(InvalidRequestError, TypeError):
    """``storage_options`` were passed: there are none."""


def what_is_missing(path: str, where: str, error: NotFoundError) -> str:
    """Return the message for a path without a checkpoint: what is there instead."""
    aside = Path(where + paths.ASIDE_SUFFIX)
    if paths.is_local(where) and aside.exists():
        return f"Checkpoint file not found: {path}: no save to it became durable; the earlier file is now {aside}"
    if paths.is_local(where) and Path(where).exists():
        return (
            f"Checkpoint file not found: {path}: a save to it began and never became durable; remove {where} to start "
            "without it"
        )
    return f"Checkpoint file not found: {path} ({error.reason})"
