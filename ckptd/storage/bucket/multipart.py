"""The upload of one large object to a bucket: parts are sent as they fill up, and one request makes an object of them.

Until that request nothing is visible under the key. The upload's id is noted in the bucket before its first part is
sent, so that a start after a crash finds and aborts it: parts of an upload that is not completed cost money and
are in no listing. What fits in one part needs none of this: it is put in one request.
"""

from __future__ import annotations

import hashlib
import logging
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol

from ckptd.errors import CkptdError, ConflictError, CorruptionError, NotFoundError
from ckptd.format.crc32c import crc32c, joined
from ckptd.storage.base import Buffer, ObjectStat
from ckptd.storage.bucket.bucket import Bucket, UploadedPart
from ckptd.storage.bucket.open_part import OpenPart, check_lent
from ckptd.storage.bucket.upload_memory import Parts
from ckptd.storage.keys import named
from ckptd.storage.pace import Pace
from ckptd.storage.ranges import check_range

_MD5 = re.compile("[0-9a-f]{32}")
_log = logging.getLogger(__name__)

PART_BYTES = 16 << 20
MAX_PARTS = 10_000
_ABORTS = 5


def part_size(size_bytes: int, least_bytes: int = 0) -> int:
    """Return how large the parts of an object are: the usual size, or more where there would be too many."""
    least = max(least_bytes, -(-size_bytes // MAX_PARTS))
    return max(PART_BYTES, -(-least // (1 << 20)) * (1 << 20))


class UploadStore(Protocol):
    """What a writer needs from its store."""

    bucket: Bucket
    parts: Parts

    def write_whole(self, key: str, data: memoryview) -> ObjectStat:
        """Create an object in one request; `ConflictError` if the key is taken."""

    def note_upload(self, key: str, upload_id: str) -> str:
        """Note durably that an upload has begun; return where that is noted."""

    def forget_upload(self, note_key: str) -> None:
        """Delete the note: the upload is gone. Never raises."""

    def give_up_upload(self, note_key: str) -> None:
        """Leave the note to the next sweep."""

    def write_metadata(self) -> Mapping[str, str]:
        """Return metadata that identifies this write."""

    def was_written(self, key: str, metadata: Mapping[str, str]) -> ObjectStat | None:
        """Check whether the object in place is the one of this write."""


class MultipartWriter:
    """See `ckptd.storage.base.BorrowingWriter`."""

    def __init__(self, store: UploadStore, full_key: str, key: str, size_bytes: int, pace: Pace | None = None) -> None:
        """Prepare; nothing is sent yet. `full_key` is the bucket's, `key` the store's; `pace` for one of many hosts."""
        self.key = key
        self.size_bytes = size_bytes
        self._store = store
        self._full_key = full_key
        self._pace = pace or Pace()
        self._part_bytes = part_size(size_bytes, self._pace.part_bytes)
        self._num_parts = max(1, -(-size_bytes // self._part_bytes))
        self._lock = threading.Lock()
        self._beginning = threading.Lock()
        self._open: dict[int, OpenPart] = {}
        self._sent: dict[int, Future[UploadedPart]] = {}
        self._metadata = store.write_metadata()
        self._upload_id: str | None = None
        self._note_key = ""
        self._is_over = False

    def write(self, offset: int, data: Buffer) -> None:
        """See `ObjectWriter`. Returns when the bytes are copied; waits while too many parts are being sent."""
        view = memoryview(data).cast("B")
        self._check_range(offset, view)
        for number, at, piece in self._split(offset, view):
            part = self._part(number)
            with self._lock:
                buffer = part.buffer_of(self._store.parts)
            buffer[at : at + len(piece)] = piece
            with self._lock:
                part.note(at, at + len(piece))
                self._send_if_complete(number, part)

    def borrow(self, offset: int, data: memoryview, crc: int) -> None:
        """See `BorrowingWriter`. Returns at once, except that it waits while too many parts are being sent."""
        view = data.cast("B")
        self._check_range(offset, view)
        pieces = list(self._split(offset, view))
        crcs = [crc] if len(pieces) == 1 else [crc32c(piece) for _, _, piece in pieces]
        if len(pieces) > 1:
            check_lent(offset, joined(crcs, (len(piece) for _, _, piece in pieces)), crc)
        for (number, at, piece), own in zip(pieces, crcs, strict=True):
            part = self._part(number)
            with self._lock:
                part.borrow(at, piece, own)
                self._send_if_complete(number, part)

    def _check_range(self, offset: int, view: memoryview) -> None:
        check_range(self.key, self.size_bytes, offset, len(view))
        self._check_failures()

    def _split(self, offset: int, view: memoryview) -> Iterator[tuple[int, int, memoryview]]:
        """Yield the part, the offset in it, and the bytes, for each part that the bytes reach into."""
        while len(view):
            number, at = divmod(offset, self._part_bytes)
            count = min(len(view), self._length(number) - at)
            yield number, at, view[:count]
            view, offset = view[count:], offset + count

    def _send_if_complete(self, number: int, part: OpenPart) -> None:
        if part.is_complete and self._num_parts > 1 and not self._is_over:
            del self._open[number]
            self._sent[number] = self._store.parts.send(lambda: self._send(number, part))

    def _part(self, number: int) -> OpenPart:
        """Return a part that takes bytes; it is admitted outside of the lock, as that may wait."""
        size, is_admitted = self._length(number), False
        while True:
            with self._lock:
                is_mine = is_admitted and not self._is_over and number not in self._sent and number not in self._open
                if is_mine:
                    self._open[number] = OpenPart(size)
                elif is_admitted:
                    self._store.parts.dismiss(size)
                if self._is_over:
                    raise ConflictError("this writer is gone", key=self.key)
                if number in self._sent:
                    raise ConflictError("these bytes were written before, and are sent", key=self.key)
                if number in self._open:
                    return self._open[number]
            self._store.parts.admit(size)
            is_admitted = True

    def _length(self, number: int) -> int:
        return min(self._part_bytes, self.size_bytes - number * self._part_bytes)

    def _send(self, number: int, part: OpenPart) -> UploadedPart:
        try:
            if self._is_over:
                raise ConflictError("this writer is gone", key=self.key)
            with named(self.key):
                upload_id, (data, crc) = self._begin(), part.content(self._store.parts)
                with self._pace.sending():
                    return self._store.bucket.upload_part(self._full_key, upload_id, number + 1, *data, crc=crc)
        finally:
            part.dismiss(self._store.parts)

    def _begin(self) -> str:
        """Begin the upload, once, and note it before anything is sent."""
        with self._beginning:
            if self._upload_id is None:
                self._pace.turn(2)
                upload_id = self._store.bucket.create_upload(self._full_key, self._metadata)
                # Crash here: an upload without parts and without a note, which costs nothing.
                self._note_key = self._store.note_upload(self.key, upload_id)
                self._upload_id = upload_id
            return self._upload_id

    def _check_failures(self) -> None:
        for sent in list(self._sent.values()):
            if sent.done() and (error := sent.exception()) is not None:
                raise error

    def finish(self) -> ObjectStat:
        """See `ObjectWriter`."""
        if self._is_over:
            raise ConflictError("this writer is gone", key=self.key)
        try:
            return self._finish_small() if self._num_parts == 1 else self._finish_large()
        except BaseException:
            self.abort()
            raise

    def _finish_small(self) -> ObjectStat:
        part = self._part(0)
        with named(self.key):
            data = part.whole(self._store.parts)
        self._pace.turn(2)  # it is looked at, too
        stat = self._store.write_whole(self.key, data)
        self._end()
        return stat

    def _finish_large(self) -> ObjectStat:
        for number in range(self._num_parts):
            if number not in self._sent:
                part = self._part(number)
                with self._lock:
                    del self._open[number]
                    self._sent[number] = self._store.parts.send(lambda n=number, p=part: self._send(n, p))  # type: ignore[misc]
        parts = [sent.result() for sent in self._sent.values()]
        assert self._upload_id is not None
        self._pace.turn(4)  # to complete it, to see that, and to remove the note
        try:
            with named(self.key):
                head = self._store.bucket.complete_upload(self._full_key, self._upload_id, parts, if_absent=True)
        except CkptdError as error:
            # A lost answer is requested again, and then the upload is gone, or the key taken: by us?
            stat, is_gone = self._looked(error), self._is_gone()
        else:
            # An ETag made of those of all parts proves that it holds exactly these; any other proves nothing, and where
            # there is no other proof, the answer has to suffice.
            is_proved = head.etag.strip('"') == _etag_of(parts) or not self._store.bucket.keeps_metadata
            described = ObjectStat(self.key, head.size_bytes, head.modified_at, head.etag)
            stat, is_gone = described if is_proved else self._looked(None), True
        self._end()
        if is_gone:
            self._store.forget_upload(self._note_key)
        else:
            self._store.give_up_upload(self._note_key)
        return stat

    def _is_gone(self) -> bool:
        """Say whether the upload is gone, now that the object is there; if that is unknown, the note has to stay."""
        try:
            return not any(each.upload_id == self._upload_id for each in self._store.bucket.uploads(self._full_key))
        except CkptdError:
            return False

    def _looked(self, error: CkptdError | None) -> ObjectStat:
        """Return the object if it is in place and ours, else raise the reason."""
        stat = self._store.was_written(self.key, self._metadata)
        if stat is None:
            if error is None:
                raise CorruptionError("the object is not there although it was completed", key=self.key)
            if isinstance(error, NotFoundError):
                raise ConflictError("the upload was aborted by another process", key=self.key) from error
            raise error
        if stat.size_bytes != self.size_bytes:
            raise CorruptionError(
                "the object's size differs from what was sent",
                key=self.key,
                expected=self.size_bytes,
                actual=stat.size_bytes,
            )
        return stat

    def _end(self) -> None:
        with self._lock:
            self._is_over = True
            rest, self._open = self._open, {}
        for part in rest.values():
            part.dismiss(self._store.parts)

    def abort(self) -> None:
        """See `ObjectWriter`. A part that is being sent could bring the upload back, so this waits for it."""
        with self._lock:
            was_over = self._is_over
        self._end()
        if was_over:
            return
        for sent in list(self._sent.values()):
            sent.exception()
        if self._upload_id is not None:
            try:
                abort_upload(self._store.bucket, self._full_key, self._upload_id)
            except CkptdError as error:  # the note stays, and the next sweep tries again
                _log.warning("the upload of %s could not be aborted now: %s", self.key, error)
                self._store.give_up_upload(self._note_key)
            else:
                self._store.forget_upload(self._note_key)


def _etag_of(parts: Sequence[UploadedPart]) -> str | None:
    """Return what the ETag of a whole object is where those of its parts are MD5 sums; None where they are not."""
    sums = [part.etag.strip('"') for part in sorted(parts, key=lambda part: part.number)]
    if not all(_MD5.fullmatch(each) for each in sums):
        return None
    return f"{hashlib.md5(bytes.fromhex(''.join(sums))).hexdigest()}-{len(sums)}"  # noqa: S324 (no secret)


def abort_upload(bucket: Bucket, key: str, upload_id: str) -> None:
    """Abort an upload until the bucket lists it no more: a part in flight during an abort may be kept."""
    for _ in range(_ABORTS):
        bucket.abort_upload(key, upload_id)
        if not any(each.upload_id == upload_id for each in bucket.uploads(key)):
            return
