"""The audit log of a real daemon: on a full disk, and killed at any moment."""

from __future__ import annotations

import json
import random
import threading

import grpc
import numpy as np
import pytest

import ckptd
from ckptd.daemon.audit_log import RESERVE_BYTES
from ckptd.errors import StorageFullError
from ckptd.wire import addresses, methods, status
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2
from tests.e2e.killing import WAIT_S, Daemon, fresh_seed, pause
from tests.e2e.test_full_disk import fill, mounted
from tests.fakes.waiting import eventually

ROUNDS, CAMPAIGN_ROUNDS = 1, 100
RUN = "runs/a"
MANY = 100  # more records than fit before the room that is set aside


def records_of(path):
    records = [json.loads(line) for line in path.read_text("ascii").splitlines()]
    assert [each["number"] for each in records] == list(range(1, len(records) + 1))
    return records


def save(address, steps, size=1 << 17, **options):
    with ckptd.Checkpointer(address, run=RUN, max_to_keep=None, timeout_s=WAIT_S, **options) as checkpointer:
        for step in steps:
            checkpointer.save(step, {"w": np.full(size, float(step))}).result(WAIT_S)


class Operator:
    """Calls the daemon as `ckptd pin` and `ckptd rm` do."""

    def __init__(self, address):
        self.channel = open_channel(addresses.parse(address))
        self.stub = methods.Stub(self.channel, methods.ADMIN)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def pin(self, step, pinned=True):
        self.call(self.stub.Pin, admin_pb2.PinRequest(run=RUN, step=step, pinned=pinned))

    def pin_often(self, step):
        for _ in range(MANY):
            self.pin(step)

    def delete(self, step, for_good=False):
        self.call(self.stub.Delete, admin_pb2.DeleteRequest(run=RUN, step=step, for_good=for_good))

    def undelete(self, step):
        self.call(self.stub.Undelete, admin_pb2.UndeleteRequest(run=RUN, step=step))

    def call(self, method, request):
        try:
            method(request, timeout=WAIT_S)
        except grpc.RpcError as error:
            raise status.from_wire(error) from None


@pytest.mark.parametrize("is_required", [False, True])
def test_on_a_full_disk_removals_are_recorded_and_the_rest_only_happens_if_it_need_not_be(is_required, tmp_path):
    with mounted("tmpfs", tmp_path / "disk") as disk:
        audit = disk / "audit.jsonl"
        flags = ("--audit-log", str(audit), *(["--audit-required"] if is_required else []))
        daemon = Daemon(tmp_path, disk / "root", *flags)
        try:
            daemon.wait_until_ready()
            save(daemon.address, (1, 2, 3))
            fill(disk)
            with Operator(daemon.address) as operator:
                if is_required:
                    with pytest.raises(StorageFullError, match="--audit-required"):
                        operator.pin_often(2)
                    with pytest.raises(StorageFullError, match="the join is refused"):
                        save(daemon.address, (4,), size=1)
                else:
                    operator.pin_often(2)
                state = audit.stat()
                assert state.st_blocks * 512 - state.st_size >= RESERVE_BYTES  # no pin takes it
                operator.pin(2, False)
                operator.delete(1, for_good=True)
            assert [each["step"] for each in records_of(audit) if each["event"] == "delete"] == [1, 1]
            fill(disk)
            assert daemon.stop() == 0
            daemon = Daemon(tmp_path, disk / "root", *flags)
            daemon.wait_until_ready()  # on a full disk
            with Operator(daemon.address) as operator:
                operator.delete(2, for_good=True)
            save(daemon.address, (5,), size=1)  # there is room again
            assert daemon.stop() == 0
        finally:
            daemon.process.kill()
            daemon.process.wait(WAIT_S)
        records = records_of(audit)
        assert [each["step"] for each in records if each["outcome"] == "committed"] == [1, 2, 3, 5]
        assert any("unrecorded_before" in each for each in records)
        pins = [each["outcome"] for each in records if each["event"] == "pin"]
        assert pins.count("begun") < MANY
        assert pins.count("begun") == pins.count("done") or not is_required
        assert [each["outcome"] for each in records if each["event"] == "delete"] == ["begun", "done"] * 2


def test_a_save_is_refused_before_its_first_byte_when_another_disk_has_no_room_to_record_it(tmp_path):
    with mounted("tmpfs", tmp_path / "disk") as disk:
        audit = disk / "audit.jsonl"
        daemon = Daemon(tmp_path, tmp_path / "root", "--audit-log", str(audit), "--audit-required")
        try:
            daemon.wait_until_ready()
            with ckptd.Checkpointer(daemon.address, run=RUN, timeout_s=WAIT_S) as checkpointer:
                checkpointer.save(1, {"w": np.zeros(1)}).result(WAIT_S)
                filler = fill(disk)
                with Operator(daemon.address) as operator, pytest.raises(StorageFullError):
                    operator.pin_often(1)
                with pytest.raises(StorageFullError, match=r"audit\.jsonl.*the save is refused"):
                    checkpointer.save(2, {"w": np.zeros(1)}).result(WAIT_S)
            assert sorted(each.name for each in (tmp_path / "root" / RUN).glob("model*")) == [
                "model.ckpt-1.data-00000-of-00001",
                "model.ckpt-1.index",
            ]
            filler.unlink()
            save(daemon.address, (3,), size=1)
            assert daemon.stop() == 0
        finally:
            daemon.process.kill()
            daemon.process.wait(WAIT_S)


class Busy:
    """A trainer and an operator that go on whatever happens to the daemon, and note what was answered."""

    def __init__(self, address, first_step):
        self.address, self.first_step = address, first_step
        self.answered = []  # (event, step)
        self.failures = []
        self.is_over = threading.Event()
        self.threads = [threading.Thread(target=self.guarded, args=(work,)) for work in (self.save_on, self.operate)]
        for thread in self.threads:
            thread.start()

    def guarded(self, work):
        try:
            work()
        except (ckptd.UnavailableError, ckptd.SessionAbortedError, grpc.RpcError):
            pass  # the daemon died under it
        except BaseException as error:
            self.failures.append(error)

    def save_on(self):
        step = self.first_step
        with ckptd.Checkpointer(self.address, run=RUN, max_to_keep=None, timeout_s=5) as checkpointer:
            while not self.is_over.is_set():
                checkpointer.save(step, {"w": np.zeros(8)}).result(WAIT_S)
                self.answered.append(("save", step))
                step += 1

    def operate(self):
        with Operator(self.address) as operator:
            for step in range(max(1, self.first_step - 3), self.first_step):
                for event, call in (
                    ("pin", lambda step=step: operator.pin(step)),
                    ("unpin", lambda step=step: operator.pin(step, False)),
                    ("delete", lambda step=step: operator.delete(step)),
                    ("undelete", lambda step=step: operator.undelete(step)),
                ):
                    try:
                        call()
                    except (ckptd.ConflictError, ckptd.NotFoundError):
                        continue  # the latest is not deleted
                    self.answered.append((event, step))

    def end(self):
        self.is_over.set()
        for thread in self.threads:
            thread.join(WAIT_S)
            assert not thread.is_alive()
        assert not self.failures, self.failures


def check_killed(tmp_path, rounds):
    random.seed(fresh_seed())
    audit, step = tmp_path / "audit.jsonl", 1
    expected = []
    for _ in range(rounds):
        daemon = Daemon(tmp_path, tmp_path / "root", "--audit-log", str(audit))
        try:
            daemon.wait_until_ready()
            if step == 1:
                save(daemon.address, (1, 2, 3), size=1)
                step = 4
            busy = Busy(daemon.address, step)
            eventually(lambda busy=busy: {"save", "pin"} <= {event for event, _ in busy.answered}, daemon.log_end)
            pause(random.uniform(0.05, 1.0))
        finally:
            daemon.kill()
        busy.end()
        expected += busy.answered
        step += sum(event == "save" for event, _ in busy.answered) + 1
        torn = audit.read_bytes()
        audit.write_bytes(torn[: torn.rfind(b"\n") + 1])  # as the next start does
        done = [(each["event"], each["step"]) for each in records_of(audit) if each["outcome"] in ("done", "committed")]
        for each in set(expected):
            assert done.count(each) >= expected.count(each), each
        begun = [(each["event"], each["step"]) for each in records_of(audit) if each["outcome"] == "begun"]
        for each in {each for each in done if each[0] in ("save", "pin", "unpin", "delete", "undelete")}:
            assert begun.count(each) >= done.count(each), each
    assert expected
    print(f"{rounds} kills: {len(expected)} answered calls, {len(records_of(audit))} records")


def test_what_a_killed_daemon_has_answered_is_recorded(tmp_path):
    check_killed(tmp_path, ROUNDS)


@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_what_a_killed_daemon_has_answered_is_recorded_a_hundred_times(tmp_path):
    check_killed(tmp_path, CAMPAIGN_ROUNDS)
