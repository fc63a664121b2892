"""A rank that is stopped keeps its place; an operator frees it, another process takes it, and the first one learns."""

from __future__ import annotations

import json
import os
import signal

import grpc

from ckptd.cli import main
from ckptd.wire import methods
from ckptd.wire.v1 import admin_pb2
from tests.e2e.crew import Crew
from tests.e2e.killing import WAIT_S
from tests.fakes import schemas
from tests.fakes.waiting import eventually

COUNT = 4


def saves_under_way(address):
    with grpc.insecure_channel(address.removeprefix("grpc://")) as channel:
        reply = methods.Stub(channel, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
        return [save.save.step for run in reply.runs for save in run.saves]


def test_a_stopped_rank_is_evicted_and_replaced_and_is_fenced_off_when_it_wakes_up(daemon, tmp_path, capsys):
    log = tmp_path / "workers.log"
    old = Crew(daemon.address, "r", 2, 5, log)
    new = None
    try:
        old.save(1, COUNT)
        assert old.answers(WAIT_S) == ["saved", "saved"]
        stopped = old.processes[1].pid
        os.kill(stopped, signal.SIGSTOP)
        old.save(2, COUNT)
        eventually(lambda: saves_under_way(daemon.address) == [2], log.read_text, within_s=WAIT_S)
        assert main.run(["evict", "r", "--rank", "1", "--address", daemon.address, "--json"]) == 0
        told = schemas.check("evict", json.loads(capsys.readouterr().out))
        assert [(each["rank"], each["pid"]) for each in told["evicted"]] == [(1, stopped)]
        assert [each["step"] for each in told["ended"]] == [2]
        new = Crew(daemon.address, "r", 2, 5, log)
        new.save(3, COUNT)
        assert new.answers(WAIT_S) == ["saved", "saved"]
        os.kill(stopped, signal.SIGCONT)
        of_healthy, of_stopped = old.answers(WAIT_S)
        assert "was evicted by loopback" in of_healthy
        assert of_stopped.startswith("EvictedError")
        assert "was evicted as rank 1 of the run by loopback" in of_stopped
        new.save(4, COUNT)
        assert new.answers(WAIT_S) == ["saved", "saved"]
        assert main.run(["evict", "r", "--rank", "7", "--address", daemon.address]) == 3
        assert "no process holds the place of rank 7" in capsys.readouterr().err
    finally:
        os.kill(old.processes[1].pid, signal.SIGCONT)
        for crew in (old, new):
            if crew is not None:
                crew.end()
    assert "evicted rank 1 of 2" in (tmp_path / "daemon.log").read_text()
