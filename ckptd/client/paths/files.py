"""A checkpoint's files, for programs that open them themselves, as TensorFlow does."""

from __future__ import annotations

import os
from typing import cast

from ckptd.client.daemon.held_objects import HeldObjects
from ckptd.engine.offline.copying import copy_checkpoint
from ckptd.errors import NotFoundError
from ckptd.format.state_file import CheckpointState
from ckptd.storage.base import Objects, Store
from ckptd.storage.local.local_store import LocalStore

_STATE_LIMIT_BYTES = 64 << 20


def files_of(objects: Objects, key: str, copy_into: str) -> str:
    """Return the prefix of the files on this host's disk; those of elsewhere are copied into `copy_into` first.

    What is copied is compared with its checksums on the way.
    """
    if isinstance(objects, HeldObjects):
        objects = objects.beneath
    if isinstance(objects, LocalStore):
        return objects.local_path(key)
    name = key.rpartition("/")[2]
    # Of the source, copying wants no more than every reader does.
    copy_checkpoint(cast("Store", objects), key, LocalStore(copy_into, confined=False), name)
    return os.path.join(copy_into, name)  # noqa: PTH118 (a Path would not survive every byte of a name)


def read_state(objects: Objects, key: str) -> CheckpointState | None:
    """Return what the state file says, its paths as they stand there; None if there is none."""
    try:
        data = objects.get(key, limit_bytes=_STATE_LIMIT_BYTES)
    except NotFoundError:
        return None
    return CheckpointState.decode(data, objects.location(key))
