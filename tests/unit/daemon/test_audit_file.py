"""The file of the audit log, and what other programs do to it."""

from __future__ import annotations

import gzip
import json
import os
import threading

import pytest

from ckptd.daemon.audit_log import RESERVE_BYTES, AuditLog
from ckptd.daemon.audit_numbers import last_number_before
from ckptd.engine.journal import Actor, JournalEntry, Reserve
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, UnavailableError
from tests.unit.daemon.test_audit_log import are_numbered, records_of, told

WAIT_S = 60


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def record(log, times=1):
    for _ in range(times):
        log.ended(JournalEntry("pin", "done", run="r", step=1))


def set_aside(path):
    state = path.stat()
    return state.st_blocks * 512 - state.st_size


@pytest.mark.parametrize(
    ("make", "error", "says"),
    [
        (lambda path: path / "there" / "a.jsonl", NotFoundError, "its directory does not exist"),
        (lambda path: path, InvalidRequestError, "no regular file"),
        (lambda path: os.mkfifo(path / "pipe") or path / "pipe", InvalidRequestError, "no regular file"),
        (lambda path: "", InvalidRequestError, "--audit-log is empty"),
        (lambda path: path / ("x" * 300), InvalidRequestError, "cannot be opened: the name is too long"),
    ],
)
def test_a_path_that_is_no_file_is_refused_by_name(tmp_path, make, error, says):
    with pytest.raises(error, match=says):
        AuditLog(str(make(tmp_path)))


@pytest.mark.parametrize("content", ["secret", '{"a": 1}', "one\nsec", '{"number": 3}\nsec', '{"number": true}\n{"nu'])
def test_a_file_that_is_passed_by_mistake_stays_as_it_is(path, content):
    path.write_text(content)
    with pytest.raises(InvalidRequestError, match="this is no audit log"):
        AuditLog(str(path))
    assert path.read_text() == content


@pytest.mark.parametrize("torn", ["{", '{"num', '{"number": 2, "time": "20'])
@pytest.mark.parametrize("whole", ["", '{"number": 1}\n'])
def test_a_line_that_a_crash_cut_off_is_removed(path, whole, torn):
    path.write_text(whole + torn)
    record(AuditLog(str(path)))
    assert are_numbered(path)


def test_a_file_that_is_deleted_is_made_anew_and_says_so(path, caplog):
    log = AuditLog(str(path), required=True)
    record(log, 2)
    entry = JournalEntry("delete", run="r", step=1, reserve=Reserve.ALL)
    log.begins(entry)
    path.unlink()
    log.ended(entry.ended())
    assert [each["outcome"] for each in records_of(path)] == ["the file was deleted", "done"]
    assert are_numbered(path, 4)
    assert "records are missing" in caplog.text
    assert set_aside(path) >= RESERVE_BYTES
    path.unlink()
    path.mkdir()
    with pytest.raises(UnavailableError, match="the delete is refused.*no regular file"):
        log.begins(JournalEntry("delete", run="r", step=2))


def test_a_file_that_another_program_shortens_keeps_its_room_and_says_so(path):
    log = AuditLog(str(path))
    record(log, 3)
    os.truncate(path, 0)  # logrotate's copytruncate
    record(log)
    assert [each["number"] for each in records_of(path)] == [4, 5]
    assert [each["outcome"] for each in told(path, "rotation")] == ["the file was shortened"]
    assert set_aside(path) >= RESERVE_BYTES


def test_what_another_program_appends_without_a_line_end_spoils_no_record(path):
    log = AuditLog(str(path))
    record(log)
    with path.open("a") as file:
        file.write("a note")
    record(log)
    first, note, second = path.read_text().splitlines()
    assert note == "a note"
    assert [json.loads(each)["number"] for each in (first, second)] == [1, 2]


def test_the_number_goes_on_from_the_newest_that_is_a_log_packed_or_not(path):
    def beside(name, content, at):
        file = path.with_name(name)
        file.write_bytes(content)
        os.utime(file, (at, at))

    line = b'{"number": %d, "event": "pin"}\n'
    beside("audit.jsonl.2.gz", gzip.compress(line % 8 + line % 9), 2)
    assert last_number_before(str(path)) == 9
    beside("audit.jsonl.1", line % 11 + line % 12 + b'{"number": 13, "torn', 3)
    beside("audit.jsonl.swp", b"\0\1\2", 7)
    beside("audit.jsonl.3.gz", gzip.compress(line % 99)[:-6], 6)
    beside("audit.jsonl-empty", b"", 5)
    beside("audit.jsonl.deep", b"[" * 100_000 + b"\n", 4)
    path.with_name("audit.jsonl.d").mkdir()
    os.mkfifo(path.with_name("audit.jsonl.pipe"))
    assert last_number_before(str(path)) == 12


def test_one_that_another_daemon_writes_is_refused_also_when_it_is_reopened(path, caplog):
    first = AuditLog(str(path))
    with pytest.raises(ConflictError, match="give each its own"):
        AuditLog(str(path))
    path.rename(path.with_name("audit.jsonl.1"))
    second = AuditLog(str(path))
    first.reopen()
    assert "goes on in the file that was renamed" in caplog.text
    record(first)
    record(second)
    assert [each["number"] for each in records_of(path.with_name("audit.jsonl.1"))] == [1]


def test_a_reader_that_follows_sees_every_line_in_order_while_many_write_and_the_file_is_rotated(path):
    log = AuditLog(str(path), required=True)
    hostile = "a\n\u2028\x1b]0;x\x07\u202e" * 200

    def work():
        for step in range(20):
            entry = JournalEntry("pin", run=hostile, step=step, actors=(Actor(hostile, hostile),))
            log.begins(entry)
            log.ended(entry.ended())

    seen, is_over = [], threading.Event()

    def is_at_its_path(file):
        try:
            return os.fstat(file.fileno()).st_ino == path.stat().st_ino
        except FileNotFoundError:  # between the renaming and the new file
            return True

    def follow(file):
        """Read as `tail -F` does: to the end of the file, and then the one that is new at its path."""
        text = b""
        while True:
            was_over = is_over.is_set()
            if part := file.read():
                text += part
            elif not is_at_its_path(file):
                text += file.read()
                file = path.open("rb")
            elif was_over:
                seen.extend(json.loads(each)["number"] for each in text.splitlines())
                return

    reader = threading.Thread(target=follow, args=(path.open("rb"),))
    writers = [threading.Thread(target=work) for _ in range(6)]
    for each in (reader, *writers):
        each.start()
    path.rename(path.with_name("audit.jsonl.1"))
    log.reopen()
    for each in writers:
        each.join(WAIT_S)
    is_over.set()
    reader.join(WAIT_S)
    both = records_of(path.with_name("audit.jsonl.1")) + records_of(path)
    assert [each["number"] for each in both] == list(range(1, 6 * 40 + 2)) == seen


def test_one_that_others_may_write_is_told(path, caplog):
    AuditLog(str(path)).close()
    assert path.stat().st_mode & 0o777 == 0o600
    assert not caplog.messages
    path.chmod(0o620)
    AuditLog(str(path)).close()
    assert "can be written by other users" in caplog.text


def test_no_name_is_read_as_more_of_the_line_in_the_log(caplog):
    caplog.set_level("INFO", "ckptd.audit")
    actor = Actor("cert:me at unix: done, and by token:admin")
    log = AuditLog(None)
    log.ended(JournalEntry("delete", "done", run="x by token:admin at unix: done", step=7, actors=(actor,)))
    log.ended(JournalEntry("pin", "done", run="a/b", actors=(Actor("token:b"),)))
    assert caplog.messages == [
        "delete of step 7 of 'x by token:admin at unix: done' by 'cert:me at unix: done, and by token:admin': done",
        "pin of a/b by token:b: done",
    ]
