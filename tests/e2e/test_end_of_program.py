"""What `save` has accepted is durable when the process has ended by itself; or stderr tells, and the exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import ckptd
from tests import seams

BOUND_S = 150.0
PROLOGUE = """
import os, signal, sys, threading, time
import numpy as np
import ckptd

def checkpointer(timeout_s=100.0):
    return ckptd.Checkpointer(sys.argv[1], "runs/a", rank=0, world_size=1, timeout_s=timeout_s)

def arrays(step, size=1 << 20):
    return {f"w{number}": np.full(size, step, np.float32) for number in range(4)}
"""


@dataclass
class Ended:
    """How a program ended."""

    code: int
    stdout: str
    stderr: str = field(repr=False)


def run(program: str, *arguments: str, **environment: str) -> Ended:
    """Run a small program to its end; a `PROLOGUE` gives it `checkpointer` and `arrays`."""
    code = PROLOGUE + textwrap.dedent(program)
    ended = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        env={**os.environ, **environment},
        check=False,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


def steps_in(root: Path, run_name: str = "runs/a") -> list[int | None]:
    """Return the steps that are whole below `root`."""
    with ckptd.Checkpointer(root, run_name, rank=0, world_size=1) as reading:
        found = [one.step for one in reading.checkpoints()]
        for step in found:
            assert step is not None
            restored = reading.restore(step)
            assert all((array == step).all() for name, array in restored.items() if name.startswith("w"))
    return found


ENDS = {
    "the end of the script": ("", 0),
    "sys.exit(0)": ("sys.exit(0)", 0),
    "sys.exit(3)": ("raise SystemExit(3)", 3),
    "an exception": ("raise ValueError('of the program')", 1),
    "Ctrl-C at rest": ("signal.raise_signal(signal.SIGINT)", -signal.SIGINT),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("immutable", [False, True], ids=["", "immutable"])
def test_a_save_is_durable_when_the_program_ends_right_after_it(tmp_path: Path, end: str, immutable: bool):
    how, code = ENDS[end]
    ended = run(
        f"""
        ckpt = checkpointer()
        ckpt.save(1, arrays(1))
        ckpt.save(2, arrays(2), immutable={immutable})
        {how}
        """,
        str(tmp_path),
    )
    assert (ended.code, steps_in(tmp_path)) == (code, [1, 2]), ended.stderr
    assert "lost" not in ended.stderr


@pytest.mark.parametrize("transport", ["auto", "stream"])
def test_a_save_beside_a_daemon_is_durable_when_the_program_ends_right_after_it(daemon, transport: str):
    ended = run(
        """
        ckpt = checkpointer()
        ckpt.save(1, arrays(1))
        ckpt.save(2, arrays(2), immutable=True)
        """,
        daemon.address,
        CKPTD_TRANSPORT=transport,
    )
    assert (ended.code, steps_in(daemon.root)) == (0, [1, 2]), ended.stderr


def test_saves_of_threads_that_outlive_the_main_thread_are_durable(tmp_path: Path):
    ended = run(
        """
        ckpt = checkpointer()
        def train():
            threading.main_thread().join()
            for step in (1, 2, 3):
                ckpt.save(step, arrays(step, 8 << 20), immutable=step == 3)
        threading.Thread(target=train).start()
        """,
        str(tmp_path),
    )
    assert (ended.code, steps_in(tmp_path)) == (0, [1, 2, 3]), ended.stderr


@pytest.mark.parametrize("where", ["direct", "daemon"])
def test_what_a_function_saves_that_was_given_to_atexit_before_is_durable(daemon, tmp_path: Path, where: str):
    ended = run(
        """
        import atexit
        def at_the_end():
            ckpt.save(2, arrays(2, 4 << 20))
            ckpt.save(3, arrays(3, 4 << 20), immutable=True)
        atexit.register(at_the_end)
        ckpt = checkpointer()
        ckpt.save(1, arrays(1))
        """,
        daemon.address if where == "daemon" else str(tmp_path),
    )
    assert (ended.code, steps_in(daemon.root if where == "daemon" else tmp_path)) == (0, [1, 2, 3]), ended.stderr


def test_the_first_save_may_be_that_of_a_function_given_to_atexit(tmp_path: Path):
    ended = run(
        """
        import atexit
        ckpt = checkpointer()
        atexit.register(lambda: ckpt.save(1, arrays(1, 4 << 20)))
        """,
        str(tmp_path),
    )
    refused = "no thread can be started" in ended.stderr  # by CPython 3.12.0 and 3.12.1
    assert (ended.code, steps_in(tmp_path)) == (0, [] if refused else [1]), ended.stderr


def test_a_thread_that_outlives_the_main_thread_may_be_the_first_to_use_ckptd(tmp_path: Path):
    ended = run(
        """
        def train():
            threading.main_thread().join()
            checkpointer().save(1, arrays(1))
        threading.Thread(target=train).start()
        """,
        str(tmp_path),
    )
    refused = "no thread can be started" in ended.stderr  # by CPython 3.12.0 and 3.12.1
    assert (ended.code, steps_in(tmp_path)) == (0, [] if refused else [1]), ended.stderr


def test_ctrl_c_while_the_first_save_connects_costs_that_save_alone(daemon):
    ended = run(
        """
        from ckptd.client.daemon import seats
        connect = seats.open_channel
        def interrupted(*arguments, **named):
            seats.open_channel = connect
            raise KeyboardInterrupt
        seats.open_channel = interrupted
        ckpt = checkpointer()
        try:
            ckpt.save(1, arrays(1))
        except KeyboardInterrupt:
            print("interrupted")
        ckpt.save(2, arrays(2)).result()
        """,
        daemon.address,
    )
    assert (ended.code, ended.stdout, steps_in(daemon.root)) == (0, "interrupted\n", [2]), ended.stderr


def test_a_save_that_fails_at_the_very_end_is_told_and_the_exit_code_is_not_0():
    ended = run("import atexit\natexit.register(lambda: checkpointer(1.0).save(7, arrays(7)))", "/proc/nowhere")
    assert ended.code == 120
    assert [line for line in ended.stderr.splitlines() if line.startswith("ckptd: the save of step 7")]


def test_callbacks_are_called_before_the_program_ends_and_may_save(tmp_path: Path):
    ended = run(
        """
        ckpt = checkpointer()
        pending = ckpt.save(1, arrays(1))
        pending.add_done_callback(lambda ended: 1 / 0)
        def save_again(ended):
            threading.main_thread().join(0.2)  # so long would its end take
            ckpt.save(2, arrays(2))
            print("called")
        pending.add_done_callback(save_again)
        """,
        str(tmp_path),
    )
    assert (ended.code, ended.stdout, steps_in(tmp_path)) == (0, "called\n", [1, 2]), ended.stderr
    assert "ZeroDivisionError" in ended.stderr


@pytest.mark.parametrize(("how", "code"), [("", 120), ("sys.exit(0)", 120), ("raise ValueError('of mine')", 1)])
@pytest.mark.parametrize("where", ["/proc/nowhere", "127.0.0.1:1"])
def test_a_save_that_fails_unseen_is_told_and_the_exit_code_is_not_0(where: str, how: str, code: int):
    ended = run(f"checkpointer(1.0).save(7, arrays(7))\nprint('done')\n{how}", where)
    assert (ended.code, ended.stdout) == (code, "done\n"), ended.stderr
    told = [line for line in ended.stderr.splitlines() if line.startswith("ckptd: ")]
    assert len(told) == 1
    assert told[0].startswith(f"ckptd: the save of step 7 of runs/a at {where} is lost: ")
    assert "Exception ignored" not in ended.stderr


SEEN = {
    "by result": "pending.result()",
    "by exception": "raise pending.exception()",
    "by the next call": "pending.wait(); ckpt.save(8, {})",
}


@pytest.mark.parametrize("how", SEEN)
def test_a_failure_that_the_program_has_seen_is_its_own_affair(how: str):
    ended = run(
        f"""
        ckpt = checkpointer(1.0)
        pending = ckpt.save(7, arrays(7))
        try:
            {SEEN[how]}
        except ckptd.CkptdError:
            print("seen")
        """,
        "/proc/nowhere",
    )
    assert (ended.code, ended.stdout, ended.stderr) == (0, "seen\n", "")


@pytest.mark.parametrize("leave", ["sys.exit(0)", "raise LookupError('caught below')"])
def test_a_save_that_is_lost_as_its_block_is_left_otherwise_is_told(leave: str):
    ended = run(
        f"""
        try:
            with checkpointer(1.0) as ckpt:
                ckpt.save(7, arrays(7))
                {leave}
        except LookupError:
            pass
        """,
        "/proc/nowhere",
    )
    assert ended.code == 120
    assert "the save of step 7 of runs/a at /proc/nowhere is lost" in ended.stderr


def test_what_others_do_at_the_end_is_done_whatever_is_lost():
    ended = run(
        """
        import atexit, logging
        before = [atexit.register(print, "at exit, flushed", flush=True)]
        class Late:
            def __del__(self): os.write(1, b"deleted\\n")
        late = Late()
        checkpointer(1.0).save(7, arrays(7))
        print("not flushed")
        """,
        "/proc/nowhere",
    )
    assert (ended.code, ended.stdout) == (120, "not flushed\nat exit, flushed\ndeleted\n"), ended.stderr


def test_the_end_tells_what_it_waits_for_and_ctrl_c_ends_the_wait():
    process = subprocess.Popen(
        [sys.executable, "-c", PROLOGUE + "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
         + seams.END_NOTICE_S.in_program("0.2") + "\n"
         "checkpointer(600.0).save(7, arrays(7))", "127.0.0.1:1"],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        first = process.stderr.readline()
        while "the program has ended but for" not in first and first:
            first = process.stderr.readline()
        assert "the save of step 7 of runs/a at 127.0.0.1:1" in first
        process.send_signal(signal.SIGINT)
        rest = process.communicate(timeout=BOUND_S)[1]
    finally:
        process.kill()
    assert process.returncode == 120, rest
    assert "the save of step 7 of runs/a at 127.0.0.1:1 may be lost: Ctrl-C ended the wait for it" in rest


FORKED = """
with checkpointer() as ckpt:
    ckpt.save(1, arrays(1)).result()
    with gate_of(ckpt):
        pending = ckpt.save(2, arrays(2), immutable=True)
        pid = os.fork()
        if pid == 0:
            {how}
        began = time.monotonic()
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        print(code, time.monotonic() - began < 10.0, pending.done(), flush=True)
"""
GATE = f"""
import contextlib
from ckptd.client.capture import capturing

@contextlib.contextmanager
def gate_of(ckpt):
    gate, copy = threading.Event(), capturing.copy_piece
    {seams.COPY_PIECE.in_program("lambda source, to: (gate.wait(60), copy(source, to))")}
    try:
        yield
    finally:
        gate.set()
"""


@pytest.mark.parametrize("how", ["sys.exit(5)", "raise SystemExit(5)", "ckpt.close(); os._exit(5)"])
@pytest.mark.parametrize("where", ["direct", "daemon"])
def test_a_forked_child_owes_nothing_and_ends_at_once(daemon, tmp_path: Path, where: str, how: str):
    root = daemon.root if where == "daemon" else tmp_path / "direct"
    address = daemon.address if where == "daemon" else str(root)
    ended = run(GATE + FORKED.format(how=how), address)
    assert (ended.code, ended.stdout) == (0, "5 True False\n"), ended.stderr
    assert steps_in(root) == [1, 2]
    assert "lost" not in ended.stderr


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_process_of_multiprocessing_saves_to_its_end_or_tells_by_its_exit_code(tmp_path: Path, method: str):
    program = tmp_path / "program.py"
    program.write_text(
        PROLOGUE
        + textwrap.dedent("""
        import multiprocessing
        def work(where):
            ckpt = ckptd.Checkpointer(where, "runs/a", rank=0, world_size=1, timeout_s=100.0)
            ckpt.save(1, arrays(1))
        if __name__ == "__main__":
            context = multiprocessing.get_context(sys.argv[2])
            workers = [context.Process(target=work, args=(where,)) for where in (sys.argv[1], "/proc/nowhere")]
            for one in workers: one.start()
            for one in workers: one.join()
            print([one.exitcode for one in workers])
        """)
    )
    root = tmp_path / "root"
    ended = subprocess.run(
        [sys.executable, str(program), str(root), method], capture_output=True, text=True, timeout=BOUND_S, check=False
    )
    assert (ended.returncode, ended.stdout) == (0, "[0, 120]\n"), ended.stderr
    assert steps_in(root) == [1]
    assert "the save of step 1 of runs/a at /proc/nowhere is lost" in ended.stderr


def test_the_end_of_the_program_waits_for_those_who_hear_of_its_last_save(tmp_path):
    program = """
    def slowly(event):
        time.sleep(0.3)
        print(type(event).__name__, event.step, flush=True)

    c = ckptd.Checkpointer(sys.argv[1], "runs/a", rank=0, world_size=1, on_event=slowly)
    c.save(1, arrays(1))
    """
    ended = run(program, str(tmp_path))
    assert (ended.code, ended.stdout) == (0, "Saved 1\n")
