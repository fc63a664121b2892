"""Files that are named like ours and are not: what other programs leave beside a file, under a name made from its own.

Hidden files first: AppleDouble of macOS on other file systems (``._model.ckpt-200.index``), locks of Emacs (``.#…``),
temporaries of rsync, Syncthing and others, ``.nfs…`` of an NFS client, what was moved to the trash (``.trashed-…``).
Then backups (``…~``), and copies that a file manager or a synchronizer has made of one file: ``… copy``, ``… (1)``,
``….sync-conflict-…``. A checkpoint is there when all its files are; a copy of an index alone is none.

A checkpoint that really has such a name is opened by it as ever. Only lists of a directory leave it out,
unless a state file names it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

from ckptd.format.names import INDEX_SUFFIX, parse_shard_key
from ckptd.storage.base import ObjectStat

_COPY = re.compile(
    r"(?: copy(?: \d+)?| - Copy(?: \(\d+\))?| ?\(\d+\)| \([^)]*conflicted copy[^)]*\)|\.sync-conflict-[\w-]+)$"
)


def is_left_beside(key: str) -> bool:
    """Whether another program leaves files of this name beside others: a hidden one or a backup."""
    name = key.rpartition("/")[2]
    return name.startswith(".") or name.endswith("~")


def indices(stats: Iterable[ObjectStat], listed: Collection[str | None] = ()) -> list[ObjectStat]:
    """Return those of a directory's objects that are indices of checkpoints, in their order.

    Those of the `listed` prefixes are, whatever they are called.
    """
    found, with_shards = [], set()
    for stat in stats:
        shard = parse_shard_key(stat.key)
        if shard is not None:
            with_shards.add(shard[0])
        elif stat.key.endswith(INDEX_SUFFIX):
            found.append(stat)
    return [stat for stat in found if _is_checkpoint(stat.key.removesuffix(INDEX_SUFFIX), with_shards, listed)]


def _is_checkpoint(prefix: str, with_shards: Collection[str], listed: Collection[str | None]) -> bool:
    if prefix in listed:
        return True
    return not is_left_beside(prefix) and (prefix in with_shards or _COPY.search(prefix) is None)
