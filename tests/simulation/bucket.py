"""The bucket of the simulation, and how each process reaches it: by requests that fail in every way."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from ckptd.engine.catalog.root import ID_KEY
from ckptd.errors import CkptdError, ConflictError, UnavailableError
from ckptd.storage.base import Durability, Store
from ckptd.storage.local.shared_directory import SharedDirectory
from ckptd.storage.memory import MemoryStore
from tests.fakes.disk import SimulatedDisk
from tests.simulation.job import ROOT_ID
from tests.simulation.world import Process, World, WorldClock

R = TypeVar("R")
_OF_FILES = ("local_path", "names", "is_file", "put_away", "hold", "unread", "link", "replace_within")
"""What a process would do beside its requests."""
DAY_S = 86400.0


@dataclass(eq=False)
class Upload:
    """An object that is being written, and that no reader sees yet."""

    key: str
    process: Process
    began_at: float
    is_aborted: bool = False


@dataclass
class Troubles:
    """How often a request fails now: before its effect, after it, or after it because its repetition is refused.

    `late` are those whose process is told that they failed, and which take effect when it has gone on for a while.
    """

    refused: float = 0.0
    unanswered: float = 0.0
    repeated: float = 0.0
    late: float = 0.0


@dataclass
class Bucket:
    """What all processes share."""

    world: World
    watch: Callable[[str, str, Process, bool], None]
    """Called before and after each change of a process, "put KEY", "delete KEY", "abort KEY"; and if it is late."""
    troubles: Troubles = field(default_factory=Troubles)
    uploads: list[Upload] = field(default_factory=list)
    is_directory: bool = False
    """It is a directory that hosts share, with locks of one host each: what is conditional is made by links."""

    def __post_init__(self) -> None:
        wall_s = WorldClock(self.world).wall_s
        self.locks = MemoryStore("bucket", wall_s=wall_s, has_locks=False, verifies_writes=True)
        disk = SimulatedDisk(wall_s=wall_s)
        self.objects: Store = SharedDirectory("/root", disk=disk) if self.is_directory else self.locks
        self.objects.put(ID_KEY, ROOT_ID.encode())


class BucketClient:
    """One process's way to the bucket, as a `Store`."""

    durability = Durability.OBJECT_STORE

    def __init__(self, bucket: Bucket, process: Process) -> None:
        self._bucket, self._process = bucket, process

    def __getattr__(self, name: str) -> Any:
        if name in _OF_FILES:
            raise AttributeError(name)
        return getattr(self._bucket.objects, name)

    def lock(self, key: str, **options: Any) -> Any:
        """Each process is on a host of its own: a lock keeps nobody out."""
        lock = self._request(lambda: self._bucket.locks.lock(f"{key}.{self._process.name}", **options), key=key)
        lock.release()
        return lock

    def _request(self, act: Callable[[], R], *, changes: str = "", key: str = "") -> R:
        """Carry a request out, unless it is refused; its answer may be lost."""
        process, troubles, rng = self._process, self._bucket.troubles, self._bucket.world.rng
        process.operate()
        if troubles.refused and rng.random() < troubles.refused:
            raise UnavailableError("503, slow down", key=key or None)
        if changes and troubles.late and rng.random() < troubles.late:
            self._bucket.world.log(f"{process.name} gives up waiting: {changes} {key}")
            self._bucket.world.after(20.0 * rng.random(), None, lambda: self._come_late(act, changes, key))
            raise UnavailableError("no answer in time", key=key)
        result = self._take_effect(act, changes, key)
        process.operate()
        if changes and troubles.unanswered and rng.random() < troubles.unanswered:
            raise UnavailableError("the connection broke before the answer", key=key)
        return result

    def _take_effect(self, act: Callable[[], R], changes: str, key: str, *, is_late: bool = False) -> R:
        if changes:
            self._bucket.watch("before " + changes, key, self._process, is_late)
        result = act()
        if changes:
            self._bucket.world.log(f"{self._process.name}: {changes} {key}")
            self._bucket.watch("after " + changes, key, self._process, is_late)
        return result

    def _come_late(self, act: Callable[[], R], changes: str, key: str) -> None:
        """Let a request take effect, if its conditions still hold, that nothing waits for any more."""
        with suppress(CkptdError):
            self._take_effect(act, changes, key, is_late=True)

    def _write(self, act: Callable[[], Any], key: str) -> Any:
        """Write; a client that repeats the request is refused, and finds out whether its own write is in place."""
        stat = self._request(act, changes="put", key=key)
        if self._bucket.world.rng.random() < self._bucket.troubles.repeated:
            found = self._request(lambda: self._bucket.objects.stat(key), key=key)
            if found.version != stat.version:
                raise ConflictError("412: changed since it was read", key=key)
        return stat

    def get(self, key: str, **options: Any) -> bytes:
        return self._request(lambda: self._bucket.objects.get(key, **options), key=key)

    def stat(self, key: str) -> Any:
        return self._request(lambda: self._bucket.objects.stat(key), key=key)

    def put(self, key: str, data: bytes) -> Any:
        return self._write(lambda: self._bucket.objects.put(key, data), key)

    def replace(self, key: str, data: bytes, *, if_version: str | None = None) -> Any:
        return self._write(lambda: self._bucket.objects.replace(key, data, if_version=if_version), key)

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        for number, key in enumerate(keys):
            version = None if number else if_version
            self._request(
                lambda key=key, version=version: self._bucket.objects.delete([key], if_version=version),
                changes="delete",
                key=key,
            )

    def create(self, key: str, size_bytes: int) -> BucketWriter:
        upload = Upload(key, self._process, self._bucket.world.now)
        self._request(lambda: self._bucket.uploads.append(upload), key=key)
        return BucketWriter(self, upload, self._bucket.objects.create(key, size_bytes))

    def finish(self, upload: Upload, act: Callable[[], Any]) -> Any:
        """Complete an upload that nothing has aborted."""

        def complete() -> Any:
            if upload.is_aborted:
                raise UnavailableError("404: no such upload; it was aborted", key=upload.key)
            return act()

        try:
            return self._write(complete, upload.key)
        finally:
            self.give_up(upload)

    def give_up(self, upload: Upload) -> None:
        if upload in self._bucket.uploads:
            self._bucket.uploads.remove(upload)

    def unfinished(self, directory: str) -> list[str]:
        """Return the keys of all uploads in a directory."""
        return [each.key for each in self._bucket.uploads if each.key.rpartition("/")[0] == directory]

    def _abort(self, upload: Upload) -> None:
        upload.is_aborted = True
        self.give_up(upload)

    def is_over(self, upload: Upload) -> bool:
        """Whether an upload's writer is known to have died: of another host's process nothing is known for a day."""
        if upload.process is self._process:
            return False
        is_old = self._bucket.world.now - upload.began_at > DAY_S
        return is_old or (upload.process.host == self._process.host and upload.process.is_dead)

    def sweep_unfinished(
        self, directory: str, *, given_up: Collection[str] = (), spare: Collection[str] = ()
    ) -> Sequence[str]:
        """Abort the uploads that nothing will complete."""
        swept = []
        for upload in list(self._bucket.uploads):
            if upload.key.rpartition("/")[0] != directory or upload.key in spare:
                continue
            if upload.key in given_up or self.is_over(upload):
                self._request(lambda: self._abort(upload), changes="abort", key=upload.key)  # noqa: B023
                swept.append(upload.key)
        return swept


class BucketWriter:
    """One upload of one process."""

    def __init__(self, client: BucketClient, upload: Upload, inner: Any) -> None:
        self.key, self.size_bytes = inner.key, inner.size_bytes
        self._client, self._upload, self._inner = client, upload, inner

    def write(self, offset: int, data: bytes) -> None:
        self._inner.write(offset, data)

    def finish(self) -> Any:
        return self._client.finish(self._upload, self._inner.finish)

    def abort(self) -> None:
        self._client.give_up(self._upload)
