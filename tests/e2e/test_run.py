"""`ckptd run` on one node, with real daemons and trainers that end in every way: nothing that was started is left."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest

import ckptd
from ckptd.demo.processes import child_environment
from ckptd.wire import methods
from ckptd.wire.v1 import admin_pb2
from tests.fakes.waiting import eventually

WAIT_S = 120.0
COMMAND = (sys.executable, "-m", "ckptd", "run")

SAVES = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
import ckptd
here = Path(sys.argv[1])
checkpointer = ckptd.Checkpointer(run="r", rank=0, world_size=int(sys.argv[2]))
def save(step):
    return checkpointer.save(step, {"w": np.full(1000, step)})
"""


class Running:
    """`ckptd run` around a Python program, with a mark in the environment of all that it starts."""

    def __init__(self, base: Path, program: str, *options: str, world_size: int = 1, **more: object) -> None:
        self.base, self.root = base, base / "root"
        (base / "train.py").write_text(program)
        self.mark = f"CKPTD_TEST_MARK={base}"
        trainer = [sys.executable, str(base / "train.py"), str(base), str(world_size)]
        self.process = subprocess.Popen(
            [*COMMAND, "--root", str(self.root), *options, "--", *trainer],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**child_environment(), "TMPDIR": str(base), "CKPTD_TEST_MARK": str(base)},
            start_new_session=True,
            **more,
        )
        self.out = self.err = ""

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.communicate(timeout=WAIT_S)

    def living(self) -> dict[int, str]:
        """Return the command lines of what was started, by pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def pid_of(self, what: str) -> int:
        return next(pid for pid, line in self.living().items() if what in line)

    def awaits(self) -> list[str]:
        """Return what saves at the daemon wait for; nothing before it listens."""
        found: list[str] = []
        for path in self.base.glob("ckptd-run-*/ckptd.sock"):
            with contextlib.suppress(grpc.RpcError), grpc.insecure_channel(f"unix:{path}") as channel:
                status = methods.Stub(channel, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
                found += [each for run in status.runs for save in run.saves for each in save.waiting_for]
        return found

    def comes(self, name: str) -> None:
        """Wait for a file that the trainer makes."""
        eventually((self.base / name).exists, lambda: f"{name}; {self.living()}", within_s=WAIT_S)

    def ends(self) -> int:
        self.out, self.err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode

    def leaves_nothing(self) -> None:
        eventually(lambda: not self.living(), lambda: self.living(), within_s=WAIT_S)
        assert list(self.base.glob("ckptd-run-*")) == []

    def saved(self, step: int) -> None:
        with ckptd.Checkpointer(str(self.root), "r") as checkpointer:
            assert (checkpointer.restore(step)["w"] == step).all()


def test_the_exit_code_is_the_trainers_and_a_daemon_that_is_killed_is_started_again(tmp_path):
    program = SAVES + (
        "save(1).result()\n"
        "(here / 'saved').touch()\n"
        "while not (here / 'go on').exists(): time.sleep(0.01)\n"
        "save(2)\n"
        "checkpointer.close()\n"
        "sys.exit(7)\n"
    )
    with Running(tmp_path, program) as running:
        running.comes("saved")
        os.kill(running.pid_of("ckptd.job.attached"), signal.SIGKILL)
        (tmp_path / "go on").touch()
        assert running.ends() == 7
        assert "the daemon ended, by signal SIGKILL; it is started again" in running.err
        running.leaves_nothing()
        running.saved(1)
        running.saved(2)


def test_what_a_killed_trainer_has_saved_is_published_and_what_it_has_left_is_ended(tmp_path):
    program = SAVES + (
        "import subprocess\n"
        "stubborn = 'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(300)'\n"
        "subprocess.Popen([sys.executable, '-c', stubborn], start_new_session=True)\n"
        "subprocess.Popen(['sleep', '300'])\n"
        "save(1)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    with Running(tmp_path, program) as running:
        assert running.ends() == 128 + signal.SIGKILL
        assert "the trainer left 2 processes behind; ended" in running.err
        running.leaves_nothing()
        running.saved(1)


def test_a_signal_to_all_processes_comes_to_the_trainer_once_and_it_can_still_save(tmp_path):
    program = SAVES + (
        "came = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: came.append('TERM'))\n"
        "signal.signal(signal.SIGUSR1, lambda *_: came.append('USR1'))\n"
        "(here / 'ready').touch()\n"
        "while 'USR1' not in came: time.sleep(0.01)\n"
        "(here / 'usr1').touch()\n"
        "while 'TERM' not in came: time.sleep(0.01)\n"
        "save(len(came))\n"
        "checkpointer.close()\n"
        "print(*came)\n"
    )
    with Running(tmp_path, program) as running:
        running.comes("ready")
        running.process.send_signal(signal.SIGUSR1)  # for the command alone: it is passed on
        running.comes("usr1")
        for pid in [*(running.living().keys() - {running.process.pid}), running.process.pid]:  # as SLURM does it
            os.kill(pid, signal.SIGTERM)
        assert running.ends() == 0
        assert running.out == "USR1 TERM\n"
        running.leaves_nothing()
        running.saved(2)


@pytest.mark.parametrize("which", ["the user's process", "the other"])
def test_whichever_of_its_processes_is_killed_all_the_others_end(tmp_path, which):
    program = SAVES + (
        "import subprocess\n"
        "subprocess.Popen(['sleep', '300'], start_new_session=True)\n"
        "save(1)\n"
        "(here / 'saved').touch()\n"
        "time.sleep(300)\n"
    )
    with Running(tmp_path, program) as running:
        running.comes("saved")
        users = running.process.pid
        (other,) = {pid for pid, line in running.living().items() if "-m ckptd run" in line} - {users}
        os.kill(users if which == "the user's process" else other, signal.SIGKILL)
        assert running.ends() in (-signal.SIGKILL, 128 + signal.SIGKILL)
        eventually(lambda: not running.living(), running.living, within_s=WAIT_S)
        running.saved(1)


def test_an_accepted_save_that_is_lost_is_exit_code_5(tmp_path):
    program = SAVES + (  # rank 1 of 2 never comes
        "save(1)\nwhile not (here / 'go on').exists(): time.sleep(0.01)\nos._exit(0)\n"
    )
    with Running(tmp_path, program, "--grace-s", "1", world_size=2) as running:
        eventually(running.awaits, "a save that the daemon has accepted", within_s=WAIT_S)
        (tmp_path / "go on").touch()
        assert running.ends() == 5
        assert "a save that was accepted was not published" in running.err
        running.leaves_nothing()


def test_a_trainer_that_does_not_end_is_killed_within_the_grace_time(tmp_path):
    program = SAVES + (
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nsave(1).result()\n(here / 'saved').touch()\ntime.sleep(300)\n"
    )
    with Running(tmp_path, program, "--grace-s", "2") as running:
        running.comes("saved")
        running.process.terminate()
        assert running.ends() == 128 + signal.SIGKILL
        assert "the trainer is killed: it has not ended 1.5 s after SIGTERM" in running.err
        running.leaves_nothing()
        running.saved(1)


def test_what_cannot_be_started_says_why_and_leaves_nothing(tmp_path):
    (tmp_path / "file").touch()
    with Running(tmp_path, "", "--root", str(tmp_path / "file")) as running:
        assert running.ends() == 6
        assert "the daemon ended at its start, with exit code" in running.err
        running.leaves_nothing()


def test_the_log_of_what_cannot_be_started_is_told_line_by_line(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "logs").mkdir()
    (log := tmp_path / "logs" / f"{os.uname().nodename}-daemon.log").write_text("of an earlier job\n")
    with Running(tmp_path, "", "--root", str(tmp_path / "file"), "--log-dir", str(tmp_path / "logs")) as running:
        assert running.ends() == 6
        assert log.read_text().startswith("of an earlier job\n")
        assert "of an earlier job" not in running.err
        assert "the log of the daemon ends:\n  " in running.err
        assert "\\n" not in running.err
        assert "the daemon ended at its start, with exit code" in running.err
