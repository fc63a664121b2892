"""A checkpoint's files, for programs that open them themselves, as TensorFlow does."""

from __future__ import annotations

import os

from ckptd.engine.offline.copying import copy_checkpoint
from ckptd.storage.base import Objects
from ckptd.storage.capabilities import beneath, local_path
from ckptd.storage.locations import open_store


def files_of(objects: Objects, key: str, copy_into: str) -> str:
    """Return the prefix of the files on this host's disk; those of elsewhere are copied into `copy_into` first.

    What is copied is compared with its checksums on the way.
    """
    source = beneath(objects)
    path = local_path(source, key)
    if path is not None:
        return path
    name = key.rpartition("/")[2]
    # Made absolute, it is a path of this host whatever its name looks like.
    into = os.path.abspath(copy_into)  # noqa: PTH100 (a Path would not survive every byte of a name)
    copy_checkpoint(source, key, open_store(into, confined=False), name)
    return os.path.join(copy_into, name)  # noqa: PTH118
