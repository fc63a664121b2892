"""The audit log: what happened, and its cause; one numbered JSON object a line, and the same in the log.

A record of what removes something is durable before that happens. With `required`, what cannot be recorded does not
happen, and every record is durable; without it, what was not recorded is counted in the next record that is.

Room for records is set aside on the disk. What begins takes room for how it ends as well, so that an end is always
recorded. The rest, `RESERVE_BYTES`, is for what removes something, so that a full disk can be emptied: what only comes
before a removal leaves half of it, and everything else all of it. What is tried again and again leaves more of it.
"""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable

from ckptd.daemon.audit_file import AuditFile
from ckptd.daemon.audit_lines import line, tell
from ckptd.daemon.audit_numbers import MOST_LINE_BYTES, last_number_before
from ckptd.engine.journal import JournalEntry, Reserve
from ckptd.errors import CkptdError, InvalidRequestError, NotPermittedError, StorageFullError, UnavailableError
from ckptd.storage.local.os_errors import from_os_error

RESERVE_BYTES = 256 << 10
"""Set aside for records of removals: about four hundred of them."""

_END_MORE_BYTES = 1024  # that a record of how something ended may have more than the one that it began
_TRIES = 4
_ROUNDED_BYTES = 16 << 10  # what rotations of a full disk may lose: each file has whole blocks
_LEFT = {Reserve.NONE: RESERVE_BYTES, Reserve.HALF: RESERVE_BYTES // 2, Reserve.ALL: _ROUNDED_BYTES}
_LEFT_BY_REPEATED = {**_LEFT, Reserve.HALF: RESERVE_BYTES * 3 // 4, Reserve.ALL: RESERVE_BYTES // 2}

_log = logging.getLogger("ckptd.audit")


class AuditLog:
    """A `Journal` (`ckptd.engine.journal`) that keeps what it is told. Any thread may use it.

    Attributes:
        complaint: why the last record could not be written, in words; "" while it can.
    """

    def __init__(self, path: str | None, *, required: bool = False, clock: Callable[[], float] = time.time) -> None:
        """Go on where the file ends; without a `path` everything is only told in the log.

        Raises:
            CkptdError: the file cannot be used, and why.
        """
        if required and path is None:
            raise InvalidRequestError("--audit-required needs --audit-log FILE: without one nothing can be recorded")
        if path == "":
            raise InvalidRequestError("--audit-log is empty: it needs the path of a file")
        self.complaint = ""
        self._path, self._required, self._clock = path, required, clock
        self._writing = threading.Lock()
        self._syncing = threading.Lock()  # taken before `_writing`
        self._unrecorded = 0
        self._number = self._synced = 0
        self._ends: dict[int, int] = {}  # bytes that are kept for how each act ends
        self._kept = 0  # their sum
        self._tries: Counter[tuple[object, ...]] = Counter()  # that took of the reserve since it was whole
        self._file: AuditFile | None = None
        if path is not None:
            self._file = AuditFile(path)
            self._number = self._file.last_number or last_number_before(path)
            self._file.take_room(RESERVE_BYTES)
            if self._file.is_open_to_others:
                _log.warning("%s can be written by other users of this host: chmod go-w %s", path, path)
            if not self._file.has_fallocate:
                _log.warning("the file system sets no room aside for the audit log: %s", path)

    def begins(self, entry: JournalEntry) -> None:
        """Record what is about to happen.

        Raises:
            StorageFullError, NotPermittedError, UnavailableError: it must be recorded, and cannot be.
        """
        durable = self._required or entry.reserve is not Reserve.NONE
        failed = self._try(entry, self._append_beginning, durable=durable)
        if failed is not None and self._required:
            if entry.act in self._ends:  # it was written, and is not durable
                self.ended(entry.ended("refused"))
            raise self._refusal(entry, failed) from failed

    def ended(self, entry: JournalEntry) -> None:
        """Record how something ended: in the room that was kept for that when it began."""
        self._try(entry, self._append_end, durable=self._required)

    def _try(
        self, entry: JournalEntry, append: Callable[[AuditFile, JournalEntry], None], *, durable: bool
    ) -> Exception | None:
        """Record an entry; return why that could not be."""
        try:
            self._record(entry, append, durable=durable)
        except Exception as error:
            # A bug must not turn a save that is published into one that has failed.
            if not isinstance(error, OSError | CkptdError):
                _log.exception("a bug in ckptd: %s was not recorded", entry.event)
            self._complain(error)
            tell(entry, None)
            return error
        return None

    def reopen(self) -> None:
        """Go on in a new file if this one was renamed: what rotates logs does that, and then sends SIGHUP."""
        with self._syncing, self._writing:
            try:
                if self._file is None or self._file.is_at_its_path:
                    return
                self._go_on_in_new_file(self._file)
            except (OSError, CkptdError) as error:
                _log.error("the audit log goes on in the file that was renamed: %s: %s", self._path, error)
                return
        self.ended(
            JournalEntry("rotation", "done", reserve=Reserve.HALF)
        )  # so that each file says where its numbers go on

    def _go_on_in_new_file(self, old: AuditFile) -> None:
        """Open the path anew. Both locks are held."""
        new = AuditFile(old.path)
        try:
            old.sync()
        except OSError as error:
            _log.error("the end of the audit log before its rotation may not be durable: %s", error)
        # One disk may not have room for both reserves.
        if not new.take_room(self._wanted):
            old.give_back_room()
            new.take_room(self._wanted)
        else:
            old.give_back_room()
        old.close()
        self._number = max(self._number, new.last_number)
        self._file, self._synced = new, self._number

    def close(self) -> None:
        """Close the file."""
        with self._syncing, self._writing:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _record(self, entry: JournalEntry, append: Callable[[AuditFile, JournalEntry], None], *, durable: bool) -> None:
        number = None
        if self._path is not None:
            self._look_after_file()
            with self._writing:
                if self._file is None:
                    raise OSError(errno.EBADF, "it is closed, as the daemon ends")
                append(self._file, entry)
                self._number += 1
                self._unrecorded, self.complaint, number = 0, "", self._number
        tell(entry, number)
        if durable and number is not None:
            self._sync(number)

    @property
    def _wanted(self) -> int:
        return RESERVE_BYTES + self._kept

    def _append_beginning(self, file: AuditFile, entry: JournalEntry) -> None:
        text = self._line(entry)
        end_bytes = len(text) + _END_MORE_BYTES
        self._append(file, text, entry, kept=self._kept + end_bytes)
        self._ends[entry.act] = end_bytes
        self._kept += end_bytes

    def _append_end(self, file: AuditFile, entry: JournalEntry) -> None:
        end_bytes = self._ends.pop(entry.act, 0)
        self._kept -= end_bytes
        kept = self._kept
        text = self._line(entry)
        if len(text) > end_bytes:
            try:
                self._append(file, text, entry, kept=kept)
                return
            except OSError:
                if not end_bytes:
                    raise
                text = self._line(entry, end_bytes)
        file.append(text, leaves=0, wanted=kept + RESERVE_BYTES)  # its own room is there

    def _append(self, file: AuditFile, text: bytes, entry: JournalEntry, *, kept: int) -> None:
        """Append a line that leaves of the reserve what its entry has to leave, and all that is `kept` for ends."""
        subject = (entry.event, entry.run, entry.step, entry.details.get("save_id"))
        left = (_LEFT_BY_REPEATED if self._tries[subject] >= _TRIES else _LEFT)[entry.reserve]
        if file.append(text, leaves=kept + left, wanted=kept + RESERVE_BYTES):
            self._tries.clear()
        else:
            self._tries[subject] += 1

    def _look_after_file(self) -> None:
        """Notice what other programs did to the file: nothing of ours may end in one that has no name any more."""
        with self._writing:
            file = self._file
            if file is None:
                return
            is_removed, was_shortened = file.is_removed, file.was_shortened()
        if is_removed:
            with self._syncing, self._writing:
                if self._file is not file:
                    return  # another thread was first
                self._go_on_in_new_file(file)
        if is_removed or was_shortened:
            what = "the file was deleted" if is_removed else "the file was shortened"
            _log.error("the audit log goes on, but records are missing: %s: %s", what, self._path)
            self.ended(JournalEntry("rotation", what, reserve=Reserve.HALF))

    def _sync(self, number: int) -> None:
        """Make a record durable; of those that wait here together, one does it for all."""
        with self._syncing:
            with self._writing:
                file, newest = self._file, self._number
            if file is not None and self._synced < number:
                file.sync()
                self._synced = newest

    def _complain(self, error: Exception) -> None:
        with self._writing:
            self._unrecorded += 1
            is_news, self.complaint = not self.complaint, f"the audit log cannot be written: {self._path}: {error}"
        if is_news:
            _log.error("%s", self.complaint)

    def _line(self, entry: JournalEntry, most_bytes: int = MOST_LINE_BYTES) -> bytes:
        return line(self._number + 1, self._clock(), entry, self._unrecorded, most_bytes)

    def _refusal(self, entry: JournalEntry, error: Exception) -> CkptdError:
        ours = from_os_error(error, "") if isinstance(error, OSError) else error
        reason = ours.reason if isinstance(ours, CkptdError) else f"a bug in ckptd: {error!r}"
        # Others would be taken for what happened to the call's own subject.
        kind = type(ours) if isinstance(ours, StorageFullError | NotPermittedError) else UnavailableError
        return kind(
            f"the {entry.event} is refused: the daemon must record it (--audit-required), and its audit log cannot be "
            f"written: {reason}",
            key=self._path,
        )
