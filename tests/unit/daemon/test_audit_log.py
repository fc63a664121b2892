"""The audit log of a real `ckptd serve`: what is answered is recorded, and with --audit-required nothing else is."""

from __future__ import annotations

import json
import resource
import signal
import socket

import grpc
import numpy as np
import pytest

import ckptd
from ckptd.access import tokens
from ckptd.daemon.audit_log import AuditLog
from ckptd.daemon.audit_numbers import last_number_before
from ckptd.engine.journal import Actor, JournalEntry, Reserve
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotPermittedError
from ckptd.service import audited, requirements
from ckptd.wire import frames, methods, status, versions
from ckptd.wire.v1 import admin_pb2, arena_pb2
from tests.fakes.waiting import eventually

WAIT_S = 60


def records_of(path):
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


def told(path, event, outcome=None):
    found = [each for each in records_of(path) if each["event"] == event]
    return [each for each in found if outcome in (None, each["outcome"])]


def are_numbered(path, first=1):
    numbers = [each["number"] for each in records_of(path)]
    return numbers == list(range(first, first + len(numbers)))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "audit.jsonl"


def admin(daemon, **credentials):
    return methods.Stub(daemon.channel(**credentials), methods.ADMIN)


def save(daemon, steps, run="runs/a", **options):
    with ckptd.Checkpointer(daemon.listening[0], run=run, timeout_s=60, **options) as checkpointer:
        for step in steps:
            checkpointer.save(step, {"w": np.full(8, float(step))}).result(timeout=120)


def test_every_method_that_changes_something_has_a_row():
    mutating = {each.path for each in methods.ALL if each.path not in _READING}
    assert mutating == set(audited.ROWS) | audited.OF_SAVES
    assert set(requirements.ROWS) == mutating | _READING


_READING = {
    each.path
    for each in methods.ALL
    # CheckDamage may put a checkpoint in quarantine: the engine tells of that.
    if each.name
    in {"Latest", "List", "Read", "CheckDamage", "Agree", "Watch", "Status", "History", "OpenPage", "Await", "Restored"}
}


def test_what_is_answered_is_recorded_with_who_did_it(serve, path, tmp_path):
    file = str(tmp_path / "tokens.json")
    shown = tokens.create(file, "vision")
    daemon = serve("--audit-log", str(path), "--tokens", file, "--undo-s", "0").ready()
    save(daemon, (1, 2, 3), token=shown, max_to_keep=2)
    stub = admin(daemon, token=shown)
    stub.Pin(admin_pb2.PinRequest(run="runs/a", step=2, pinned=True), timeout=WAIT_S)
    stub.Pin(admin_pb2.PinRequest(run="runs/a", step=2), timeout=WAIT_S)
    stub.Delete(admin_pb2.DeleteRequest(run="runs/a", step=2), timeout=WAIT_S)
    with pytest.raises(grpc.RpcError):
        stub.Undelete(admin_pb2.UndeleteRequest(run="runs/a", step=2), timeout=WAIT_S)
    with pytest.raises(grpc.RpcError):
        stub.Evict(admin_pb2.EvictRequest(run="runs/a", rank=7), timeout=WAIT_S)
    stub.Repair(admin_pb2.RepairRequest(run="runs/a"), timeout=WAIT_S)
    with pytest.raises(grpc.RpcError):
        admin(daemon, token="ckptd_wrong").Delete(admin_pb2.DeleteRequest(run="runs/a", step=3), timeout=WAIT_S)
    eventually(lambda: told(path, "refusal"), path.read_text)
    tokens.create(file, "audio")
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: told(path, "identities", "done"), path.read_text)
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0

    assert are_numbered(path)
    assert [each["step"] for each in told(path, "save", "committed")] == [1, 2, 3]
    assert [each["step"] for each in told(path, "save", "begun")] == [1, 2, 3]
    [removed] = told(path, "remove", "done")
    assert removed["step"] == 1
    assert removed["reason"]
    for event in ("join", "pin", "unpin", "delete", "repair"):
        begun, done = told(path, event)
        assert (begun["outcome"], done["outcome"]) == ("begun", "done"), event
    [evicted] = told(path, "evict", "failed")
    assert evicted["rank"] == 7
    [undeleted] = told(path, "undelete", "failed")
    assert undeleted["error"] == "NotFoundError"
    for each in records_of(path):
        by_the_daemon = each["event"] in {"start", "stop", "identities"}
        actor = "daemon" if by_the_daemon else "" if each["event"] == "refusal" else "token:vision"
        assert each["identity"] == actor, each
        assert each["time"].endswith("Z")
        assert by_the_daemon or each["peer"] in ("unix", "ipv4:127.0.0.1"), each
    assert told(path, "identities", "done")[0]["tokens"] == ["audio", "vision"]
    [stopped] = told(path, "stop", "done")
    assert stopped["number"] == len(records_of(path))
    assert "delete of step 2 of runs/a by token:vision" in daemon.log.read_text()


def test_a_wrong_key_for_shared_memory_is_recorded(serve, path, tmp_path):
    daemon = serve("--audit-log", str(path), "--arena-socket", str(tmp_path / "arena.sock")).ready()
    hello = arena_pb2.ArenaRequest(hello=arena_pb2.ArenaHello(peer=versions.this_peer("me"), key=b"?" * 16))
    with socket.socket(socket.AF_UNIX) as stranger:
        stranger.connect(str(tmp_path / "arena.sock"))
        frames.send_frame(stranger, hello.SerializeToString())
        eventually(lambda: told(path, "refusal"), daemon.log.read_text)
    [refused] = told(path, "refusal")
    assert (refused["method"], refused["identity"], refused["peer"]) == ("shared memory: hello", "", "unix")


def complaints(stub):
    warnings = stub.Status(admin_pb2.StatusRequest(), timeout=WAIT_S).warnings
    return [each for each in warnings if "the audit log cannot be written" in each]


def test_status_says_when_the_log_cannot_be_written(serve, path):
    path.write_text(json.dumps({"number": 1, "event": "long", "outcome": "x" * 50_000}) + "\n")  # the log is shorter
    daemon = serve("--audit-log", str(path)).ready()
    stub = admin(daemon)
    before = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (path.stat().st_size, before[1]))
    with pytest.raises(grpc.RpcError):  # of a run that there is not; it goes on without a record
        stub.Pin(admin_pb2.PinRequest(run="runs/a", step=1, pinned=True), timeout=WAIT_S)
    assert complaints(stub)
    daemon.wait_for_log("the audit log cannot be written")
    resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, before)
    save(daemon, (1,))
    assert not complaints(stub)
    assert [each["unrecorded_before"] for each in records_of(path) if "unrecorded_before" in each] == [2]


def test_numbers_go_on_over_restarts_kills_and_rotations(serve, path):
    daemon = serve("--audit-log", str(path)).ready()
    save(daemon, (1,))
    daemon.process.kill()
    daemon.wait()
    with path.open("ab") as file:
        file.write(b'{"number": 99, "torn')
    daemon = serve("--audit-log", str(path), name="again").ready()
    save(daemon, (2,))
    assert are_numbered(path)
    rotated = path.with_name("audit.jsonl.1")
    path.rename(rotated)
    daemon.process.send_signal(signal.SIGHUP)
    eventually(lambda: path.exists() and told(path, "rotation"), daemon.log.read_text)
    save(daemon, (3,))
    first = records_of(rotated)[-1]["number"] + 1
    assert are_numbered(rotated)
    assert are_numbered(path, first)
    assert [each["step"] for each in told(path, "save", "committed")] == [3]
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0


def test_two_daemons_do_not_share_an_audit_log(serve, path):
    serve("--audit-log", str(path)).ready()
    other = serve("--audit-log", str(path), root="other", name="other")
    assert other.wait() == ConflictError.exit_code
    assert "another daemon writes to this audit log" in other.log.read_text()


def test_required_without_a_file_is_refused(serve):
    daemon = serve("--audit-required")
    assert daemon.wait() == InvalidRequestError.exit_code
    assert "--audit-required needs --audit-log FILE" in daemon.log.read_text()


# The log itself


def test_hostile_names_are_escaped_and_bounded(path):
    log = AuditLog(str(path))
    name = "a\nb\x1b[2J\u202e\x7f\udc80" + "x" * 5000
    log.begins(
        JournalEntry("pin", run=name, actors=(Actor(name, name),) * 40, details={"reason": name, "many": [name] * 99})
    )
    text = path.read_bytes()
    assert text.count(b"\n") == 1
    assert text.isascii()
    assert text[:-1].decode().isprintable()
    assert len(text) <= 64 << 10
    [record] = records_of(path)
    assert record["run"].startswith("a\nb\x1b[2J\u202e\x7f\udc80x")


def test_what_is_no_audit_log_is_left_as_it_is(path):
    for content in (b"hello\n", b"x" * 200_000, b'{"number": "1"}\n', b"[]\n"):
        path.write_bytes(content)
        with pytest.raises(InvalidRequestError, match="this is no audit log"):
            AuditLog(str(path))
        assert path.read_bytes() == content
    with pytest.raises(CkptdError):
        AuditLog(str(path.parent))


def test_the_number_is_found_in_what_was_rotated_before_a_crash(path):
    log = AuditLog(str(path))
    for _ in range(3):
        log.ended(JournalEntry("pin", "done"))
    log.close()
    path.rename(path.with_name("audit.jsonl-20300101"))
    assert last_number_before(str(path)) == 3
    log = AuditLog(str(path))
    log.ended(JournalEntry("pin", "done"))
    assert records_of(path)[0]["number"] == 4


@pytest.mark.parametrize("is_required", [False, True])
def test_a_file_that_cannot_be_written_refuses_what_must_be_recorded(path, is_required, monkeypatch):
    """The kernel refuses all writing to a file that is sealed so; here its limit of sizes does."""
    log = AuditLog(str(path), required=is_required)
    log.begins(JournalEntry("pin", run="r"))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, before[1]))
    try:
        if is_required:
            with pytest.raises(ckptd.StorageFullError, match="the delete is refused: the daemon must record it"):
                log.begins(JournalEntry("delete", run="r", reserve=Reserve.ALL))
        else:
            log.begins(JournalEntry("delete", run="r", reserve=Reserve.ALL))
        assert "cannot be written" in log.complaint
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    log.ended(JournalEntry("delete", "done", run="r"))
    assert are_numbered(path)
    assert records_of(path)[-1]["unrecorded_before"] == 1
    assert not log.complaint


def test_a_bug_in_recording_ends_nothing_that_need_not_be_recorded(path):
    bad = JournalEntry("save", details={"what": object()})
    log = AuditLog(str(path))
    log.begins(bad)
    log.ended(bad)
    log.close()
    log = AuditLog(str(path), required=True)
    with pytest.raises(ckptd.UnavailableError, match="a bug in ckptd"):
        log.begins(bad)
    log.ended(bad)


def test_nothing_that_must_be_recorded_happens_once_the_log_is_closed(path):
    log = AuditLog(str(path), required=True)
    log.close()
    with pytest.raises(CkptdError, match="the pin is refused"):
        log.begins(JournalEntry("pin", run="r"))


def test_a_refused_call_says_so_to_the_client(serve, path, tmp_path):
    file, policy = str(tmp_path / "tokens.json"), tmp_path / "policy.toml"
    shown = tokens.create(file, "vision")
    policy.write_text('[[grant]]\nto = "token:vision"\nruns = "a/**"\nrole = "read"\n')
    daemon = serve("--audit-log", str(path), "--tokens", file, "--policy", str(policy)).ready()
    with pytest.raises(grpc.RpcError) as caught:
        admin(daemon, token=shown).Delete(admin_pb2.DeleteRequest(run="b/x", name="model.ckpt-7"), timeout=WAIT_S)
    assert isinstance(status.from_wire(caught.value), NotPermittedError)
    eventually(lambda: told(path, "refusal"), path.read_text)
    [refused] = told(path, "refusal")
    assert (refused["identity"], refused["run"], refused["step"]) == ("token:vision", "b/x", 7)
    assert refused["method"] == "Delete"
    assert not told(path, "delete")
    assert "Delete by token:vision from ipv4:" in daemon.log.read_text()
