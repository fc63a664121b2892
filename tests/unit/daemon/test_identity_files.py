"""A real `ckptd serve` whose files of identities change while it runs."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import grpc
import pytest

from ckptd.access import tokens
from ckptd.daemon import identity_files
from ckptd.daemon.config import Config
from ckptd.errors import NotPermittedError, StorageFullError
from ckptd.wire import methods, status
from ckptd.wire.v1 import admin_pb2, read_pb2
from tests import seams
from tests.fakes.waiting import eventually
from tests.unit.daemon.conftest import Process

WAIT_S = 60
POLICY = '[[grant]]\nto = "token:{name}"\nruns = "a/**"\nrole = "read"\n'


@pytest.fixture
def files(tmp_path):
    """The files of a daemon that knows a token `vision`, which may read what is below a/."""
    path = str(tmp_path / "tokens.json")
    shown = tokens.create(path, "vision")
    (tmp_path / "policy.toml").write_text(POLICY.format(name="vision"))
    return path, tmp_path / "policy.toml", shown


@pytest.fixture
def daemon(serve, files) -> Process:
    return serve("--tokens", files[0], "--policy", str(files[1])).ready()


def may_read(daemon, token, run="a/x"):
    try:
        methods.Stub(daemon.channel(token=token), methods.READ).List(read_pb2.ListRequest(run=run), timeout=WAIT_S)
    except grpc.RpcError as error:
        if not isinstance(status.from_wire(error), NotPermittedError):
            raise
        return False
    return True


def test_a_token_may_do_what_the_policy_says(daemon, files):
    assert may_read(daemon, files[2])
    assert not may_read(daemon, files[2], "b/x")
    assert not may_read(daemon, None)


def test_a_revoked_token_and_a_changed_policy_count_without_a_restart(daemon, files):
    path, policy, shown = files
    assert may_read(daemon, shown)
    other = tokens.create(path, "audio")
    policy.write_text(POLICY.format(name="audio"))
    eventually(lambda: may_read(daemon, other), daemon.log.read_text)
    assert not may_read(daemon, shown)
    tokens.revoke(path, "audio")
    eventually(lambda: not may_read(daemon, other), daemon.log.read_text)
    assert daemon.process.poll() is None


def test_a_mistake_in_the_policy_is_told_and_the_old_one_goes_on(daemon, files):
    files[1].write_text("[[grant]]\nto = 'vision'\n")
    daemon.wait_for_log("a changed file is not used")
    assert "grant 1: `to`" in daemon.log.read_text()
    assert may_read(daemon, files[2])


def test_sighup_reads_the_files_again_and_ends_nothing(daemon, files):
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_log("as SIGHUP")
    assert may_read(daemon, files[2])


def status_warnings(daemon, token):
    stub = methods.Stub(daemon.channel(token=token), methods.ADMIN)
    return list(stub.Status(admin_pb2.StatusRequest(), timeout=WAIT_S).warnings)


def test_a_mistake_in_one_file_keeps_no_token_alive_and_only_who_may_do_all_sees_it_in_status(daemon, files):
    path, policy, shown = files
    admin = tokens.create(path, "boss")
    policy.write_text(POLICY.format(name="vision") + '[[grant]]\nto = "token:boss"\nruns = "**"\nrole = "admin"\n')
    eventually(lambda: may_read(daemon, admin, "b/x"), daemon.log.read_text)
    policy.write_text("[[grant]]\nto = 'vision'\n")
    eventually(lambda: any("grant 1" in each for each in status_warnings(daemon, admin)), daemon.log.read_text)
    assert not status_warnings(daemon, shown)
    policy.unlink()
    os.mkfifo(policy)  # whoever opens it waits for a writer
    eventually(lambda: any("no file any more" in each for each in status_warnings(daemon, admin)), daemon.log.read_text)
    tokens.revoke(path, "vision")
    eventually(lambda: not may_read(daemon, shown), daemon.log.read_text)


def test_a_policy_that_is_emptied_locks_nobody_out(daemon, files):
    files[1].write_text("")
    daemon.wait_for_log("has no rows any more")
    assert may_read(daemon, files[2])


def test_what_of_a_policy_changes_nothing_is_told_in_the_log_and_to_admins(serve, files):
    _, policy, shown = files
    boss = '[[grant]]\nto = "token:vision"\nruns = "**"\nrole = "admin"\n'
    policy.write_text(boss + '[[grant]]\nto = ["cert:c", "uid:7", "loopback"]\nruns = "a"\nrole = "read"\n')
    daemon = serve("--tokens", files[0], "--policy", str(policy)).ready()
    told = status_warnings(daemon, shown)
    assert [each.partition("names ")[2].partition(",")[0] for each in told] == ["cert:c", "uid:7", "loopback"]
    assert all(each in daemon.log.read_text() for each in told)


def test_a_link_to_another_file_is_seen_and_a_name_that_no_token_has_is_told(daemon, files, tmp_path):
    _, policy, shown = files
    other = tmp_path / "other.toml"
    other.write_text(POLICY.format(name="nobody"))
    policy.unlink()
    policy.symlink_to(other)
    eventually(lambda: not may_read(daemon, shown), daemon.log.read_text)
    daemon.wait_for_log("the policy names token:nobody, and there is no such token")
    assert f"read again, as a file has changed: {policy}\n" in daemon.log.read_text()


def test_a_storm_of_hangups_ends_nothing_and_drops_no_token(serve, files, tmp_path):
    (tmp_path / "tokens.json").chmod(0o644)
    daemon = serve("--tokens", files[0], "--policy", str(files[1]))
    daemon.wait_for_log("chmod 600")  # long before it listens
    daemon.process.send_signal(signal.SIGHUP)
    daemon.ready()
    for _ in range(300):
        daemon.process.send_signal(signal.SIGHUP)
    assert may_read(daemon, files[2])
    assert daemon.process.poll() is None


def test_a_file_of_secrets_that_others_may_read_draws_a_warning(serve, files, tmp_path):
    (tmp_path / "tokens.json").chmod(0o644)
    daemon = serve("--tokens", files[0]).ready()
    daemon.wait_for_log("can be read by other users of this host: chmod 600")


class Full:
    """A journal that can record nothing until it has refused twice."""

    complaint = ""

    def __init__(self):
        self.entries, self.refusals = [], 0
        self.is_told = threading.Event()

    def begins(self, entry):
        self.refusals += 1
        if self.refusals <= 2:
            raise StorageFullError("the identities is refused")
        self.entries.append(entry)

    def ended(self, entry):
        self.entries.append(entry)
        self.is_told.set()


def test_a_change_that_cannot_be_recorded_is_used_once_it_can_be(tmp_path, monkeypatch, caplog):
    seams.IDENTITIES_LOOK_EVERY_S.put(monkeypatch, 0.01)
    file = str(tmp_path / "tokens.json")
    tokens.create(file, "vision")
    config = Config(root="unused", tokens=file)
    seen, access = identity_files.signature(config), identity_files.read_access(config)
    journal, used = Full(), []

    async def look():
        files = identity_files.IdentityFiles(config, seen, access, lambda *what: used.append(what), journal)
        running = asyncio.ensure_future(files.run())
        tokens.revoke(file, "vision")
        assert await asyncio.to_thread(journal.is_told.wait, WAIT_S)
        running.cancel()

    asyncio.run(look())
    [(now, _, _)] = used
    assert not list(now.tokens)
    assert [each.details["tokens_removed"] for each in journal.entries] == [["vision"]] * 2
    assert caplog.text.count("the identities is refused") == 1
