"""What lies on a simulated disk: files and directories as programs see them, and as a power cut leaves them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum

from ckptd.storage.local.disk import FileStatus


class Unsynced(Enum):
    """What becomes of bytes that were written and not synced."""

    LOST = "lost"
    ZEROS = "zeros"
    TORN = "torn"
    KEPT = "kept"


@dataclass(frozen=True)
class Crash:
    """One way to lose power: which of the unsynced changes of names survive, and what becomes of unsynced bytes."""

    kept: frozenset[int]
    unsynced: Unsynced


@dataclass(eq=False)
class File:
    inode: int
    data: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    dirty: bool = False
    sync_failed: bool = False
    num_links: int = 1
    changed_ns: int = 0  # also by a new name
    modified_ns: int = 0
    locks: dict[int, bool] = field(default_factory=dict)  # descriptor → shared


@dataclass(eq=False)
class Directory:
    entries: dict[str, File | Directory] = field(default_factory=dict)
    durable: dict[str, File | Directory] = field(default_factory=dict)


@dataclass(eq=False)
class Change:
    """`name` now means `node` (None: nothing); with `old`, that name went away in the same step."""

    directory: Directory
    name: str
    node: File | Directory | None
    old: str | None = None

    def apply(self, names: dict[str, File | Directory]) -> None:
        if self.old is not None:
            names.pop(self.old, None)
        if self.node is None:
            names.pop(self.name, None)
        else:
            names[self.name] = self.node


def after_crash(file: File, unsynced: Unsynced) -> bytes:
    """Return the bytes that a file has after a crash."""
    if not file.dirty or unsynced is Unsynced.KEPT:
        return bytes(file.data) if unsynced is Unsynced.KEPT else file.durable
    if unsynced is Unsynced.ZEROS:
        return bytes(len(file.data))
    if unsynced is Unsynced.TORN:
        return bytes(file.data[: (len(file.data) + 1) // 2])
    return file.durable


def walk(path: str, directory: Directory) -> Sequence[tuple[str, File | Directory]]:
    """Return everything below a directory with its path."""
    found: list[tuple[str, File | Directory]] = []
    for name, node in sorted(directory.entries.items()):
        found.append((f"{path}/{name}", node))
        if isinstance(node, Directory):
            found += walk(f"{path}/{name}", node)
    return found


def status_of(node: File | Directory) -> FileStatus:
    """Return what the operating system tells of a file or directory."""
    if isinstance(node, Directory):
        return FileStatus(0, 0, 0, 0, False, 1)
    return FileStatus(len(node.data), node.modified_ns, node.changed_ns, node.inode, True, node.num_links)
