"""A store in a bucket, of S3 or a similar service.

What a directory does with renames and locks is done here with conditions. A request that creates succeeds only if the
key is free; one that replaces, only for the version that was seen. A lost answer leaves open whether the request was
carried out, so every object has a mark of its write in its metadata: a writer that gets no
answer, or the error that the key is taken, checks whether the object in place is its own.

A lock is only a note here: nothing in a bucket dies with its process. Owners fence each other off by conditional writes
of what they own; see `ckptd.engine.catalog.uncommitted`.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Collection, Iterator, Mapping, Sequence

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from ckptd.storage.base import AccessPattern, Buffer, Durability, Lock, ObjectStat, ObjectWriter
from ckptd.storage.bucket.bucket import Bucket, Head
from ckptd.storage.bucket.multipart import MultipartWriter, abort_upload
from ckptd.storage.bucket.noted_lock import NotedLock
from ckptd.storage.bucket.notes import MAX_NOTE_BYTES, Note, this_process
from ckptd.storage.bucket.probe import fences, probe
from ckptd.storage.bucket.upload_memory import Parts
from ckptd.storage.findings import Finding
from ckptd.storage.keys import LOCK_SUFFIX, UNFINISHED_SUFFIX, check_directory, check_key, is_reserved, join, named
from ckptd.storage.pace import Pace

_log = logging.getLogger(__name__)

_MARK = "ckptd-write"
SWEPT_BY_AGE_S = 3600.0  # an upload without a note: its writer died between two requests, or is not ckptd
_STRANGERS_SWEPT_BY_AGE_S = 86400.0  # of a process on another host: this one cannot tell whether it is alive
_PARTS = Parts()  # of all stores of this process
_LIVING: set[tuple[str, str]] = set()  # notes of uploads of this process that are under way
_LIVING_LOCK = threading.Lock()


class ObjectStore:
    """A directory of a bucket as a `Store`; see the module and `ckptd.storage.base`."""

    def __init__(self, bucket: Bucket, root: str = "", *, parts: Parts | None = None) -> None:
        """Remember where the root is; the bucket gets no request yet.

        Args:
            bucket: receives the requests.
            root: where the store's keys begin within the bucket, without slashes at its ends.
            parts: memory for uploads; default: shared by all stores of the process.
        """
        self.bucket = bucket
        self.parts = parts or _PARTS
        self.root = root

    def __repr__(self) -> str:
        return f"ObjectStore({self.url!r})"

    @property
    def url(self) -> str:
        """``s3://BUCKET/ROOT``."""
        return join(self.bucket.url, self.root) if self.root else self.bucket.url

    @property
    def durability(self) -> Durability:
        """Survives loss of this host."""
        return Durability.OBJECT_STORE

    @property
    def access(self) -> AccessPattern:
        """Many readers, as they wait for the bucket most of the time: it takes longer to answer than to send a gap."""
        return AccessPattern(num_readers=8, gap_bytes=256 << 10)

    @property
    def has_locks(self) -> bool:
        """Not in a bucket."""
        return False

    @property
    def verifies_writes(self) -> bool:
        """Where every write carries its checksum."""
        return self.bucket.verifies_writes

    def broken_promises(self) -> Sequence[str]:
        """See `Store`. The bucket is examined once per process."""
        return fences(self.bucket, self.root)

    def location(self, key: str) -> str:
        """See `Store`."""
        return f"{self.url}/{'/'.join(check_key(key))}"

    def at(self, directory: str) -> ObjectStore:
        """See `NestedStore`."""
        return ObjectStore(self.bucket, join(self.root, "/".join(check_directory(directory))), parts=self.parts)

    @property
    def place(self) -> str:
        """See `ProbedStore`."""
        return self.bucket.place

    def probe(self) -> Iterator[Finding]:
        """See `ProbedStore`."""
        return probe(self.bucket, self.root)

    def _full(self, key: str) -> str:
        check_key(key)
        return join(self.root, key)

    # Writing

    def create(self, key: str, size_bytes: int) -> ObjectWriter:
        """See `Store`. Nothing is reserved in a bucket."""
        return self.create_paced(key, size_bytes, None)

    def create_paced(self, key: str, size_bytes: int, pace: Pace | None) -> ObjectWriter:
        """See `PacedStore`."""
        full_key = self._full(key)
        if size_bytes < 0:
            raise InvalidRequestError("an object has no negative size", key=key)
        return MultipartWriter(self, full_key, key, size_bytes, pace)

    def put(self, key: str, data: Buffer) -> ObjectStat:
        """See `Store`."""
        return self._write(key, data, if_absent=True, if_etag=None)

    def replace(self, key: str, data: Buffer, *, if_version: str | None = None) -> ObjectStat:
        """See `Store`. A version is an ETag, which is the same again for the same bytes."""
        return self._write(key, data, if_absent=False, if_etag=if_version)

    def write_whole(self, key: str, data: memoryview) -> ObjectStat:
        """Create an object in one request; `ConflictError` if the key is taken."""
        return self._write(key, data, if_absent=True, if_etag=None)

    def _write(self, key: str, data: Buffer, *, if_absent: bool, if_etag: str | None) -> ObjectStat:
        full_key, mark = self._full(key), self.write_metadata()
        view = memoryview(data).cast("B")
        try:
            with named(key):
                return self._stat(self.bucket.put(full_key, view, if_absent=if_absent, if_etag=if_etag, metadata=mark))
        except (ConflictError, UnavailableError) as error:
            stat = self.was_written(key, mark)
            if stat is not None:
                return stat
            if isinstance(error, ConflictError):
                reason = "this key is taken" if if_absent else "changed since it was read"
                raise ConflictError(reason, key=key, expected=if_etag) from error
            raise

    def write_metadata(self) -> Mapping[str, str]:
        """Return metadata that identifies this write."""
        return {_MARK: secrets.token_hex(16)}

    def was_written(self, key: str, metadata: Mapping[str, str]) -> ObjectStat | None:
        """Check whether the object in place is the one of this write; a check that fails is an error of its own."""
        try:
            with named(key):
                head = self.bucket.head(self._full(key))
        except NotFoundError:
            return None
        return self._stat(head) if head.metadata.get(_MARK) == metadata[_MARK] else None

    # Reading

    def get(self, key: str, *, limit_bytes: int = 1 << 31) -> bytes:
        """See `Store`."""
        with named(key):
            return self.bucket.get(self._full(key), limit_bytes=limit_bytes)[0]

    def read_into(self, key: str, offset: int, *into: memoryview) -> None:
        """See `Store`."""
        with named(key):
            self.bucket.read_into(self._full(key), offset, *into)

    def stat(self, key: str) -> ObjectStat:
        """See `Store`."""
        with named(key):
            return self._stat(self.bucket.head(self._full(key)))

    def _stat(self, head: Head) -> ObjectStat:
        key = head.key[len(self.root) + 1 :] if self.root else head.key
        return ObjectStat(key, head.size_bytes, head.modified_at, head.etag)

    def list(self, directory: str, *, deep: bool = True) -> Iterator[ObjectStat]:
        """See `Store`."""
        return self._list(directory, "", deep)

    def keys(self, directory: str, starts_with: str = "") -> Sequence[str]:
        """See `Store`."""
        return [stat.key for stat in self._list(directory, starts_with, False)]

    def _list(self, directory: str, starts_with: str, deep: bool) -> Iterator[ObjectStat]:
        for head in self.bucket.list(self._below(directory) + starts_with, deep=deep):
            stat = self._stat(head)
            # Other programs mark directories with empty objects whose keys end in a slash.
            if not stat.key.endswith("/") and not is_reserved(stat.key.rpartition("/")[2]):
                yield stat

    def _below(self, directory: str) -> str:
        check_directory(directory)
        whole = join(self.root, directory) if directory else self.root
        return whole + "/" if whole else ""

    # Deleting

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        """See `Store`. Where the order does not matter, one request deletes many."""
        full_keys = [self._full(key) for key in keys]
        if full_keys:
            # The first is what makes the others unreachable: it goes by itself, before them.
            with named(keys[0]):
                self.bucket.delete(full_keys[0], if_etag=if_version)
        if len(full_keys) > 1:
            self.bucket.delete_many(full_keys[1:])

    def sweep_unfinished(
        self,
        directory: str,
        *,
        given_up: Collection[str] = (),
        spare: Collection[str] = (),
        only: Collection[str] | None = None,
    ) -> Sequence[str]:
        """See `Store`. Whether a process on another host is alive is unknown, so its uploads stay for a day.

        An upload whose object is in place, or which the server does not release now, stays for a later sweep.
        """
        swept = []
        below = self._below(directory)
        uploads = {each.upload_id: each for each in self.bucket.uploads(below) if "/" not in each.key[len(below) :]}
        for note_key, written_at, note in self._notes(directory, UNFINISHED_SUFFIX):
            noted = uploads.pop(note.upload_id, None)
            began_at = written_at if noted is None else noted.began_at
            if only is not None and note.key not in only:
                continue
            if note.key in spare or self._is_living(note_key) or not self._is_over(note, began_at, given_up):
                continue
            if note.key:
                if not self._sweep_upload(join(self.root, note.key), note.upload_id):
                    continue
                swept.append(note.key)
            self.bucket.delete(note_key)
        for upload in uploads.values():
            key = upload.key[len(self.root) + 1 :] if self.root else upload.key
            is_over = key in given_up or self._is_old(upload.began_at, SWEPT_BY_AGE_S)
            if only is not None and key not in only:
                continue
            if is_over and key not in spare and self._sweep_upload(upload.key, upload.upload_id):
                swept.append(key)
        return swept

    def _is_over(self, note: Note, began_at: float, given_up: Collection[str]) -> bool:
        """Say whether no process writes to a note's upload any more. Not for uploads in progress in this process."""
        if not note.key:  # left by a trial of the bucket, or a damaged note
            return self._is_old(began_at, SWEPT_BY_AGE_S)
        if note.key in given_up or note.process == this_process():
            return True
        is_alive = note.process.is_alive()
        return self._is_old(began_at, _STRANGERS_SWEPT_BY_AGE_S) if is_alive is None else not is_alive

    def _is_old(self, began_at: float, age_s: float) -> bool:
        return self.bucket.now() - began_at > age_s

    def _sweep_upload(self, full_key: str, upload_id: str) -> bool:
        """Abort a dead writer's upload; return whether it is gone.

        A gateway of Ceph that is killed while it completes an upload may leave the object and the upload, both with the
        same parts: aborting then destroys the object, minutes later. It also leaves a lock, which blocks every request
        about the upload for ten minutes.
        """
        try:
            self.bucket.head(full_key)
        except NotFoundError:
            pass
        else:
            is_there = any(each.upload_id == upload_id for each in self.bucket.uploads(full_key))
            if is_there:
                _log.info("the upload of %s stays as long as its object: they may share their parts", full_key)
            return not is_there
        try:
            abort_upload(self.bucket, full_key, upload_id)
        except UnavailableError as error:
            _log.warning("the upload of %s cannot be aborted now: %s", full_key, error)
            return False
        return True

    def note_upload(self, key: str, upload_id: str) -> str:
        """Note durably that an upload has begun; return where that is noted."""
        directory, _, name = key.rpartition("/")
        note_key = self._below(directory) + f".{name}.{secrets.token_hex(16)}{UNFINISHED_SUFFIX}"
        with _LIVING_LOCK:
            _LIVING.add((self.bucket.url, note_key))
        self.bucket.put(note_key, Note(process=this_process(), key=key, upload_id=upload_id).encode())
        return note_key

    def give_up_upload(self, note_key: str) -> None:
        """Leave the note to the next sweep."""
        with _LIVING_LOCK:
            _LIVING.discard((self.bucket.url, note_key))

    def forget_upload(self, note_key: str) -> None:
        """Delete the note: the upload is gone. Never raises."""

        def delete() -> None:
            try:
                self.bucket.delete(note_key)
            except CkptdError as error:
                _log.warning("%s could not be deleted, and will be at the next start: %s", note_key, error)
            finally:
                self.give_up_upload(note_key)

        self.parts.send(delete)  # in the background

    def _is_living(self, note_key: str) -> bool:
        with _LIVING_LOCK:
            return (self.bucket.url, note_key) in _LIVING

    def _notes(self, directory: str, suffix: str, starts_with: str = ".") -> Iterator[tuple[str, float, Note]]:
        """Yield the store's own notes directly in a directory: key in the bucket, when it was written, content."""
        for head in self.bucket.list(self._below(directory) + starts_with, deep=False):
            if head.key.endswith(suffix):
                try:
                    data, _ = self.bucket.get(head.key, limit_bytes=MAX_NOTE_BYTES)
                except NotFoundError:
                    continue
                except CorruptionError:
                    data = b""
                yield head.key, head.modified_at, Note.decode(data)

    # Locks

    def lock(self, key: str, *, holder: str, shared: bool = False, takes_over: bool = True) -> Lock:
        """See `Store`."""
        check_key(key)
        directory, _, name = key.rpartition("/")
        lock = NotedLock(self.unlock, f"{self._below(directory)}.{name}.{secrets.token_hex(16)}{LOCK_SUFFIX}")
        lock.taken_from = self._check_holders(directory, name, shared, takes_over, lock.note_key)
        put = self.bucket.put(lock.note_key, Note(holder=holder, process=this_process(), shared=shared).encode())
        lock.taken_at = put.modified_at
        try:
            # Two that came at once see each other now; then neither gets the lock.
            lock.taken_from += self._check_holders(directory, name, shared, takes_over, lock.note_key)
        except ConflictError:
            lock.release()
            raise
        return lock

    def _check_holders(self, directory: str, name: str, shared: bool, takes_over: bool, own: str) -> tuple[str, ...]:
        """Drop the notes of holders that are dead, or that are taken over from; return their lines."""
        dropped: tuple[str, ...] = ()
        for note_key, _, note in self._notes(directory, LOCK_SUFFIX, f".{name}."):
            if note_key == own or len(note_key) != len(own):
                continue
            is_alive = note.process.is_alive() if note.process.pid else False  # a damaged note names no process
            if shared and note.shared and is_alive is not False:
                continue
            if is_alive or (is_alive is None and not takes_over):
                error = ConflictError("held by another process", key=join(directory, name), actual=note.holder)
                if is_alive is None:
                    error.reason = "held by a process on another host; cannot tell whether it is alive"
                    error.may_take_over = True
                raise error
            _log.info("%s: taking over from %s", join(directory, name), note.holder or "an unknown process")
            self.bucket.delete(note_key)
            dropped += (note.holder or "an unknown process",)
        return dropped

    def holder_of(self, key: str) -> str | None:
        """Return the line of the process that holds a lock, or may, None when there is none; nothing is changed."""
        directory, _, name = key.rpartition("/")
        for _, _, note in self._notes(directory, LOCK_SUFFIX, f".{name}."):
            if note.process.pid and note.process.is_alive() is not False:
                return note.holder
        return None

    def unlock(self, note_key: str) -> None:
        """Drop a lock; called by the lock itself."""
        try:
            self.bucket.delete(note_key)
        except CkptdError as error:
            _log.warning("%s could not be deleted: %s", note_key, error)

    def free_bytes(self) -> int | None:
        """Has no meaning in a bucket."""
        return None
