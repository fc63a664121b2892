"""Errors that are also of the classes which Lightning's own plugin raises, as programs catch those."""

from __future__ import annotations

from pathlib import Path

from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.torch import lightning_paths as paths


class MissingCheckpointError(NotFoundError, FileNotFoundError):
    """Nothing was saved at a path."""


class StorageOptionsError(InvalidRequestError, TypeError):
    """``storage_options`` were passed: there are none."""


def what_is_missing(path: str, where: str, error: NotFoundError) -> str:
    """Return what to say of a path at which no checkpoint is, and of what is there instead."""
    aside = Path(where + paths.ASIDE_SUFFIX)
    if paths.is_local(where) and aside.exists():
        return f"Checkpoint file not found: {path}: no save to it became durable; what lay there before is {aside}"
    if paths.is_local(where) and Path(where).exists():
        return (
            f"Checkpoint file not found: {path}: a save to it began and never became durable; remove {where} to start "
            "without it"
        )
    return f"Checkpoint file not found: {path} ({error.reason})"
