"""`ckptd watch` as people and scripts run it, and the evaluation job beside the training job."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.demo.processes import child_environment
from tests.fakes.directory import publish
from tests.fakes.waiting import eventually
from tests.starts import prepared

REPOSITORY = Path(__file__).resolve().parents[2]
BOUND_S = 120.0


class Watching:
    """A `ckptd watch` process, whose lines are read as they come."""

    def __init__(self, *arguments, **environment):
        self.process = prepared.Popen(
            [sys.executable, "-m", "ckptd", "watch", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**child_environment(), **environment},
        )
        self._lines = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self):
        for line in self.process.stdout:
            self._lines.put(line.rstrip("\n"))

    def line(self):
        return self._lines.get(timeout=BOUND_S)

    def signal(self, number):
        self.process.send_signal(number)

    def end(self):
        """Return its exit code, the lines not read yet, and what it wrote to stderr."""
        try:
            code = self.process.wait(BOUND_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            pytest.fail(f"it has not ended; it wrote {self.process.stderr.read()!r}")
        self._reader.join(BOUND_S)
        rest = []
        with contextlib.suppress(queue.Empty):
            while True:
                rest.append(self._lines.get_nowait())
        return code, rest, self.process.stderr.read()

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(BOUND_S)
        self._reader.join(BOUND_S)


@pytest.fixture
def watching():
    started = []

    def start(*arguments, **environment):
        started.append(Watching(*arguments, **environment))
        return started[-1]

    yield start
    for one in started:
        one.kill()


def save(address, step, run="runs/a"):
    with ckptd.Checkpointer(address, run=run, rank=0, world_size=1, max_to_keep=2) as ckpt:
        return ckpt.save(step, {"a": np.arange(4.0)}).result(BOUND_S)


def test_a_directory_gives_lines_for_people_and_objects_for_programs(watching, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    people, programs = watching(run), watching(run, "--json")
    for step in (1, 2):
        publish(run, step, saved_at=1e9 + step)
        assert re.fullmatch(rf"[-0-9]+ [0-9:]+  step {step}  16 B  {run}/m-{step}", people.line())
        found = json.loads(programs.line())
        assert (found["prefix"], found["step"], found["saved_at"]) == (f"{run}/m-{step}", step, 1e9 + step)
    for one in (people, programs):
        one.signal(signal.SIGINT)
        assert one.end() == (130, [], "ckptd: interrupted\n")


def test_a_daemons_run_is_heard_of_across_kill_and_restart(watching, daemon, tmp_path):
    one = watching(daemon.address, "--run", "runs/a", "--json")
    first = save(daemon.address, 1)
    assert json.loads(one.line())["save_id"] == first.save_id
    os.kill(daemon.process.pid, signal.SIGKILL)
    eventually(lambda: daemon.process.exit_code() is not None, "the end of the daemon, and of its locks")
    port = daemon.address.rpartition(":")[2]
    log = (tmp_path / "second.log").open("wb")
    serve = [sys.executable, "-m", "ckptd", "serve", "--root", daemon.root]
    second = prepared.Popen(
        [*serve, "--listen", f"127.0.0.1:{port}", "--insecure-loopback"],
        stdout=log,
        stderr=log,
        env=child_environment(),
    )
    try:
        last = save(daemon.address, 2)
        assert json.loads(one.line())["save_id"] == last.save_id
        one.signal(signal.SIGTERM)
        assert one.end() == (143, [], "ckptd: terminated\n")
    finally:
        second.terminate()
        assert second.wait(BOUND_S) == 0
        log.close()
        daemon.process.stop = lambda: 0  # it is dead, and was meant to be


def test_a_command_runs_for_each_and_one_that_is_slow_skips_to_the_newest(watching, tmp_path):
    run, gate = tmp_path / "run", tmp_path / "gate"
    os.mkfifo(gate)
    publish(run, 1, saved_at=1)
    one = watching(run, "--exec", f'echo "begin $CKPTD_STEP"; cat {gate}; echo "$CKPTD_PREFIX"')
    one.line()
    assert one.line() == "begin 1"
    for step in (2, 3, 4):
        publish(run, step, saved_at=step)
    gate.write_text("")
    assert one.line() == f"{run}/m-1"
    assert "step 4" in one.line()
    assert one.line() == "begin 4"
    gate.write_text("")
    assert one.line() == f"{run}/m-4"
    one.signal(signal.SIGINT)
    assert one.end()[:2] == (130, [])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_command_and_all_that_it_started(watching, tmp_path, number, code):
    publish(tmp_path, 1)
    pipe = tmp_path / "alive"
    os.mkfifo(pipe)
    one = watching(tmp_path, "--exec", f"(exec 3>{pipe}; echo begun; sleep 300) & wait; sleep 300")
    one.line()
    reader = os.open(pipe, os.O_RDONLY)
    try:
        assert one.line() == "begun"
        one.signal(number)
        assert one.end()[0] == code
        ended = threading.Event()
        thread = threading.Thread(target=lambda: (os.read(reader, 1), ended.set()))
        thread.start()
        assert ended.wait(BOUND_S)  # nobody holds the other end any more
        thread.join()
    finally:
        os.close(reader)


def test_a_command_that_fails_is_reported_and_the_next_runs_all_the_same(watching, tmp_path):
    publish(tmp_path, 1, saved_at=1)
    one = watching(tmp_path, "--exec", "echo ran $CKPTD_STEP; exit $((CKPTD_STEP + 6))", "--timeout", "6", "--json")
    assert json.loads(one.line())["step"] == 1
    publish(tmp_path, 2, saved_at=2)
    assert json.loads(one.line())["step"] == 2
    code, rest, errors = one.end()
    assert (code, rest) == (0, [])  # what commands print does not come between the objects
    assert "ran 1\n" in errors
    assert f"exit code 8 for {tmp_path}/m-2; going on" in errors


def test_once_ends_with_the_commands_exit_code_and_so_does_stop_on_failure(tmp_path, capfd):
    publish(tmp_path, 7)
    for arguments, code in [
        (["--once"], 0),
        (["--once", "--exec", "true"], 0),
        (["--once", "--exec", "exit 42"], 42),
        (["--stop-on-failure", "--exec", "exit 43"], 43),
        (["--once", "--exec", "kill -9 $$"], 137),
    ]:
        assert main.run(["watch", str(tmp_path), *arguments]) == code
        out, err = capfd.readouterr()
        assert "step 7" in out
        assert err == ""


def test_a_timeout_is_an_error_only_if_nothing_came(tmp_path, capfd):
    none = tmp_path / "none"
    assert main.run(["watch", str(none), "--timeout", "0"]) == 6
    out, err = capfd.readouterr()
    assert out == ""
    assert err.splitlines() == [
        f"there is no directory '{none}' yet; waiting for it",
        f"ckptd: no checkpoint came from {none} within 0 s",
    ]
    publish(tmp_path, 7)
    assert main.run(["watch", str(tmp_path), "--timeout", "0"]) == 0
    assert "step 7" in capfd.readouterr().out
    assert main.run(["watch", str(tmp_path), "--timeout", "0", "--after", "7"]) == 6
    assert main.run(["watch", str(tmp_path), "--timeout", "0", "--after", "6", "--once", "--poll", "1"]) == 0
    capfd.readouterr()


def test_what_is_typed_wrong_gets_a_helpful_line(tmp_path, capfd):
    (tmp_path / "file").write_bytes(b"")
    for arguments, code, hint in [
        ([], 2, "--run RUN"),
        (["127.0.0.1:7070"], 2, "which one to follow"),
        ([str(tmp_path / "file")], 2, "this is a file"),
        ([str(tmp_path), "--run", "../x"], 2, "run name"),
        ([str(tmp_path), "--timeout", "soon"], 2, "--timeout"),
        (["nothing://bucket/run"], 2, "there is no store for nothing://"),
    ]:
        assert main.run(["watch", *arguments]) == code, arguments
        out, err = capfd.readouterr()
        assert out == ""
        assert hint in err


def test_an_evaluation_job_follows_a_training_job_to_its_end(daemon):
    common = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": daemon.environment}
    evaluation = prepared.Popen(
        [sys.executable, REPOSITORY / "examples/evaluate.py", daemon.address, "--until-step=80"], **common
    )
    training = prepared.Popen(
        [
            sys.executable,
            REPOSITORY / "examples/train_numpy.py",
            daemon.address,
            "--workers=2",
            "--steps=80",
            "--save-every=5",
        ],
        children_fork=True,
        **common,
    )
    try:
        assert training.wait(100) == 0, training.communicate()[1]
        out, err = evaluation.communicate(timeout=BOUND_S)
        assert evaluation.returncode == 0, err
    finally:
        for process in (evaluation, training):
            process.kill()
            process.communicate()
    steps = [int(step) for step in re.findall(r"^step (\d+): error", out, re.M)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 80
    best = int(re.search(r"^the best was step (\d+)$", out, re.M)[1])
    pinned = [
        found.step for found in ckptd.Checkpointer(daemon.address, run="examples/linear").checkpoints() if found.pinned
    ]
    assert pinned == [best]
