"""The audit log: what happened, and who did it; one numbered JSON object a line, and the same in the log.

A record of what removes something is durable before that happens. With `required`, what cannot be recorded does not
happen, and every record is durable; without it, what was not recorded is counted in the next record that is.
"""

from __future__ import annotations

import errno
import json
import logging
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone

from ckptd.daemon.audit_file import MOST_LINE_BYTES, AuditFile, last_number_before
from ckptd.engine.journal import BEGUN, JournalEntry
from ckptd.errors import CkptdError, InvalidRequestError, UnavailableError
from ckptd.printable import printable, printable_json
from ckptd.storage.local.os_errors import from_os_error

_log = logging.getLogger("ckptd.audit")

_MOST_CHARACTERS = 1000  # of one text
_FEWEST_CHARACTERS = 200
_ALWAYS = ("number", "time", "event", "outcome", "identity", "peer", "run", "step")
_MOST_NAMED = 16  # identities, or texts of a list
_HAVE_LINES = frozenset({"save", "quarantine", "recovery", "refusal"})
"""What the engine or the service writes a line about, too: these are in the log at the level DEBUG only."""


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
        self.complaint = ""
        self._path, self._required, self._clock = path, required, clock
        self._writing = threading.Lock()
        self._syncing = threading.Lock()  # taken before `_writing`
        self._unrecorded = 0
        self._number = self._synced = 0
        self._file: AuditFile | None = None
        if path is not None:
            try:
                self._file = AuditFile(path)
                self._number = self._file.last_number or last_number_before(path)
            except OSError as error:
                raise from_os_error(error, path) from error

    def begins(self, entry: JournalEntry) -> None:
        """Record what is about to happen.

        Raises:
            StorageFullError, NotPermittedError, UnavailableError: it must be recorded, and cannot be.
        """
        failed = self._try(entry, from_reserve=entry.uses_reserve, durable=entry.uses_reserve or self._required)
        if failed is not None and self._required:
            raise self._refusal(entry, failed) from failed

    def ended(self, entry: JournalEntry) -> None:
        """Record how something ended. It has happened, so that it may take the room that is set aside."""
        self._try(entry, from_reserve=True, durable=self._required)

    def _try(self, entry: JournalEntry, *, from_reserve: bool, durable: bool) -> Exception | None:
        """Record an entry; return why that could not be."""
        try:
            self._record(entry, from_reserve=from_reserve, durable=durable)
        except Exception as error:
            if not isinstance(error, OSError):  # a bug must not turn a save that is published into one that has failed
                _log.exception("a bug in ckptd: %s was not recorded", entry.event)
            self._complain(error)
            _tell(entry, None)
            return error
        return None

    def reopen(self) -> None:
        """Go on in a new file if this one was renamed: what rotates logs does that, and then sends SIGHUP."""
        with self._syncing, self._writing:
            old = self._file
            if old is None or self._path is None or old.is_at_its_path:
                return
            try:
                new = AuditFile(self._path)
            except (OSError, CkptdError) as error:
                _log.error("the audit log goes on in the file that was renamed: %s: %s", self._path, error)
                return
            try:
                old.sync()
            except OSError as error:
                _log.error("the end of the audit log before its rotation may not be durable: %s", error)
            old.close(keeps_room=False)
            self._file, self._synced = new, self._number
        self.ended(JournalEntry("rotation", "done"))  # so that each file says where its numbers go on

    def close(self) -> None:
        """Close the file."""
        with self._syncing, self._writing:
            if self._file is not None:
                self._file.close()
            self._file = None

    def _record(self, entry: JournalEntry, *, from_reserve: bool, durable: bool) -> None:
        with self._writing:
            number = self._number + 1
            if self._file is None and self._path is not None:
                raise OSError(errno.EBADF, "it is closed, as the daemon ends")
            if self._file is not None:
                line = _line(number, self._clock(), entry, self._unrecorded)
                self._file.append(line, from_reserve=from_reserve)
                self._number, self._unrecorded = number, 0
                self.complaint = ""
        _tell(entry, number if self._path is not None else None)
        if durable:
            self._sync(number)

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

    def _refusal(self, entry: JournalEntry, error: Exception) -> CkptdError:
        ours = (
            from_os_error(error, "") if isinstance(error, OSError) else UnavailableError(f"a bug in ckptd: {error!r}")
        )
        return type(ours)(
            f"the {entry.event} is refused: the daemon must record it (--audit-required), and its audit log cannot be "
            f"written: {ours.reason}",
            key=self._path,
        )


def _line(number: int, at: float, entry: JournalEntry, unrecorded: int) -> bytes:
    moment = datetime.fromtimestamp(at, timezone.utc).isoformat(timespec="microseconds").replace("+00:00", "Z")
    first, *others = entry.actors
    told: dict[str, object] = {
        "number": number,
        "time": moment,
        "event": entry.event,
        "outcome": _bounded(entry.outcome),
        "identity": _bounded(first.identity),
        "peer": _bounded(first.peer),
        "run": _bounded(entry.run),
        "step": entry.step,
        **{name: _bounded(value) for name, value in entry.details.items()},
    }
    if others:
        told["others"] = [[_bounded(each.identity), _bounded(each.peer)] for each in others[:_MOST_NAMED]]
        told["num_others"] = len(others)
    if unrecorded:
        told["unrecorded_before"] = unrecorded
    line = _encoded(told)
    if len(line) > MOST_LINE_BYTES:  # only names that are made for it are so long
        told = {name: _bounded(told[name], _FEWEST_CHARACTERS) for name in _ALWAYS}
        line = _encoded({**told, "cut": True})
    return line


def _encoded(told: Mapping[str, object]) -> bytes:
    return printable_json(json.dumps(told)).encode("ascii") + b"\n"


def _bounded(value: object, most: int = _MOST_CHARACTERS) -> object:
    if isinstance(value, str):
        return value if len(value) <= most else f"{value[:most]} ({len(value)} characters)"
    if isinstance(value, list | tuple):
        return [_bounded(each, most) for each in value[:_MOST_NAMED]]
    return value


def _tell(entry: JournalEntry, number: int | None) -> None:
    is_quiet = entry.outcome == BEGUN or entry.event in _HAVE_LINES
    level = logging.DEBUG if is_quiet else logging.INFO
    if not _log.isEnabledFor(level):
        return
    first = entry.actors[0]
    about = "" if entry.step is None else f" of step {entry.step}"
    about += f" of {entry.run}" if entry.run else ""
    where = f" at {first.peer}" if first.peer else ""
    more = "".join(f", {name} {value}" for name, value in entry.details.items() if value not in ("", None, False))
    text = f"{entry.event}{about} by {first.identity}{where}: {entry.outcome}{more}"
    fields = {
        "event": "audit",
        "what": entry.event,
        "outcome": entry.outcome,
        "identity": first.identity,
        "peer": first.peer,
        "run": entry.run,
        "step": entry.step,
        "number": number,
    }
    _log.log(level, "%s", printable(text, limit=_MOST_CHARACTERS), extra={"ckptd": fields})
