"""A store in this process's memory: the contract in its plainest form."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType

from ckptd.errors import ConflictError, CorruptionError, NotFoundError
from ckptd.storage.base import AccessPattern, Buffer, Durability, Lock, ObjectStat, ObjectWriter
from ckptd.storage.bucket.bucket import scatter
from ckptd.storage.keys import check_directory, check_key
from ckptd.storage.ranges import check_range


@dataclass(frozen=True, slots=True)
class _Object:
    data: bytes
    stat: ObjectStat


class MemoryStore:
    """A dictionary as a `Store`. Gone with the process, so "durable" only means "stored".

    Args:
        name: what comes after ``memory://`` in its URL.
        wall_s: the wall clock that stamps objects.
    """

    def __init__(
        self,
        name: str = "",
        *,
        wall_s: Callable[[], float] = time.time,
        has_locks: bool = True,
        verifies_writes: bool = False,
    ) -> None:
        """Start empty. Without locks, and with writes that are verified, it promises what a bucket does."""
        self._has_locks = has_locks
        self._verifies_writes = verifies_writes
        self._name = name
        self._wall_s = wall_s
        self._guard = threading.Lock()
        self._objects: dict[str, _Object] = {}
        self._locks: dict[str, list[_MemoryLock]] = {}
        self._num_writes = 0

    def __repr__(self) -> str:
        return f"MemoryStore({self._name!r})"

    @property
    def url(self) -> str:
        """``memory://NAME``."""
        return f"memory://{self._name}"

    @property
    def durability(self) -> Durability:
        """Gone with the process."""
        return Durability.MEMORY

    @property
    def access(self) -> AccessPattern:
        """As many readers as there probably are processors; another request costs nothing."""
        return AccessPattern(num_readers=4, gap_bytes=4096)

    @property
    def has_locks(self) -> bool:
        """Real ones, unless configured otherwise."""
        return self._has_locks

    @property
    def verifies_writes(self) -> bool:
        """Only if configured."""
        return self._verifies_writes

    def broken_promises(self) -> Sequence[str]:
        """None."""
        return ()

    def location(self, key: str) -> str:
        """See `Store`."""
        return f"{self.url}/{'/'.join(check_key(key))}"

    def create(self, key: str, size_bytes: int) -> ObjectWriter:
        """See `Store`."""
        check_key(key)
        return _MemoryWriter(self, key, size_bytes)

    def put(self, key: str, data: Buffer) -> ObjectStat:
        """See `Store`."""
        return self._add(key, bytes(data), may_replace=False, if_version=None)

    def replace(self, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
        """See `Store`."""
        return self._add(key, bytes(data), may_replace=True, if_version=if_version)

    def _add(self, key: str, data: bytes, *, may_replace: bool, if_version: str | None) -> ObjectStat:
        check_key(key)
        with self._guard:
            present = self._objects.get(key)
            if present is not None and not may_replace:
                raise ConflictError("this key is taken", key=key)
            found = None if present is None else present.stat.version
            if if_version is not None and found != if_version:
                raise ConflictError("changed since it was read", key=key, expected=if_version, actual=found)
            self._num_writes += 1
            stat = ObjectStat(key, len(data), self._wall_s(), str(self._num_writes))
            self._objects[key] = _Object(data, stat)
            return stat

    def _object(self, key: str) -> _Object:
        check_key(key)
        with self._guard:
            found = self._objects.get(key)
        if found is None:
            raise NotFoundError("there is no such object", key=key)
        return found

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """See `Store`."""
        found = self._object(key)
        if len(found.data) > limit_bytes:
            raise CorruptionError("larger than the limit", key=key, expected=limit_bytes, actual=len(found.data))
        return found.data

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Store`."""
        data = self._object(key).data
        size = sum(memory.nbytes for memory in into)
        if offset + size > len(data):
            raise CorruptionError(
                "the object ends early",
                key=key,
                offset=len(data),
                expected=size,
                actual=max(0, len(data) - offset),
            )
        scatter(memoryview(data)[offset : offset + size], into)

    def stat(self, key: str) -> ObjectStat:
        """See `Store`."""
        return self._object(key).stat

    def list(self, directory: str, *, deep: bool = True) -> Iterator[ObjectStat]:
        """See `Store`."""
        check_directory(directory)
        start = directory + "/" if directory else ""
        with self._guard:
            found = [(key, each.stat) for key, each in self._objects.items() if key.startswith(start)]
        for key, stat in sorted(found, key=lambda pair: pair[0]):
            if deep or "/" not in key[len(start) :]:
                yield stat

    def keys(self, directory: str, starts_with: str = "") -> Sequence[str]:
        """See `Store`."""
        found = (stat.key for stat in self.list(directory, deep=False))
        return [key for key in found if key.rpartition("/")[2].startswith(starts_with)]

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        """See `Store`."""
        for number, key in enumerate(keys):
            check_key(key)
            with self._guard:
                present = self._objects.get(key)
                if number == 0 and if_version is not None and present is not None:
                    found = present.stat.version
                    if found != if_version:
                        raise ConflictError("changed since it was read", key=key, expected=if_version, actual=found)
                self._objects.pop(key, None)

    def sweep_unfinished(
        self,
        directory: str,
        *,
        given_up: Collection[str] = (),
        spare: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> Sequence[str]:
        """See `Store`. Writers die with their store here, so there is never anything to sweep."""
        check_directory(directory)
        return []

    def lock(self, key: str, *, holder: str, shared: bool = False, takes_over: bool = True) -> Lock:
        """See `Store`."""
        check_key(key)
        lock = _MemoryLock(self, key, holder, shared)
        with self._guard:
            holders = self._locks.setdefault(key, [])
            if holders and not (shared and holders[0].shared):
                raise ConflictError("held by another process", key=key, actual=holders[0].holder)
            holders.append(lock)
        if not self.has_locks:
            lock.taken_at = self._wall_s()
        return lock

    def unlock(self, lock: _MemoryLock) -> None:
        """Forget a lock; called by the lock itself."""
        with self._guard:
            holders = self._locks.get(lock.key, [])
            if lock in holders:
                holders.remove(lock)

    def free_bytes(self) -> int | None:
        """Has no meaning here."""
        return None


class _MemoryWriter:
    def __init__(self, store: MemoryStore, key: str, size_bytes: int) -> None:
        self.key = key
        self.size_bytes = size_bytes
        self._store = store
        self._data: bytearray | None = bytearray(size_bytes)

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data).cast("B")
        check_range(self.key, self.size_bytes, offset, len(view))
        self._open()[offset : offset + len(view)] = view

    def finish(self) -> ObjectStat:
        data, self._data = bytes(self._open()), None
        return self._store.put(self.key, data)

    def abort(self) -> None:
        self._data = None

    def _open(self) -> bytearray:
        if self._data is None:
            raise ConflictError("this writer is gone", key=self.key)
        return self._data


class _MemoryLock:
    def __init__(self, store: MemoryStore, key: str, holder: str, shared: bool) -> None:
        self.key = key
        self.holder = holder
        self.shared = shared
        self.taken_at: float | None = None
        self.taken_from: tuple[str, ...] = ()
        self._store = store

    def release(self) -> None:
        self._store.unlock(self)

    def __enter__(self) -> _MemoryLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
