"""A program that is forked does what it does when an interpreter is started for it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.starts import prepared

BOUND_S = 60.0

PROGRAMS = {
    "the end": "print('said')",
    "an exit code": "import sys; print('said'); sys.exit(3)",
    "an exit with a text": "import sys; sys.exit('told')",
    "an exception": "raise ValueError('of the program')",
    "Ctrl-C": "import signal; signal.raise_signal(signal.SIGINT)",
    "SIGKILL": "import os; print('lost'); os.kill(os.getpid(), 9)",
    "SIGPIPE": "import os; a, b = os.pipe(); os.close(a); os.write(b, b'x')",
    "atexit and threads": """
import atexit, threading
atexit.register(print, "at exit")
threading.Thread(target=lambda: (threading.main_thread().join(), print("a thread"))).start()
print("main")
""",
    "stdout that cannot be flushed": "import os; print('lost'); os.close(1)",
    "the place": """
import os, sys
print(__name__, sys.argv, sys.path[0], os.getcwd(), sorted(os.listdir("/proc/self/fd")), os.environ["FOR_IT"])
print(os.getppid(), os.getpgid(0) == os.getpid(), "PATH" in os.environ, sys.stdin.read(), sys.stdout.encoding)
print(__import__("signal").getsignal(2), threading.main_thread() is threading.current_thread(), file=sys.stderr)
""".replace("import os, sys", "import os, sys, threading"),
    "pickle and multiprocessing": """
import multiprocessing, pickle
class Own: pass
print(type(pickle.loads(pickle.dumps(Own()))) is Own)
child = multiprocessing.get_context("fork").Process(target=print, args=("child",))
child.start(); child.join(); print(child.exitcode)
""",
}


def started(how, command, tmp_path: Path, **options):
    environment = {"FOR_IT": "a value", "OMP_NUM_THREADS": "1", "LC_ALL": "C.UTF-8"}
    done = how.run(
        [sys.executable, *command], env=environment, cwd=tmp_path, input="typed", capture_output=True, text=True,
        timeout=BOUND_S, **options,
    )  # fmt: skip
    return done.returncode, done.stdout, [line for line in done.stderr.splitlines() if not line.startswith("  ")]


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS.keys())
def test_it_ends_and_finds_what_a_started_one_does(tmp_path: Path, program: str):
    command = ("-c", program, "one", "two")
    assert started(prepared, command, tmp_path) == started(subprocess, command, tmp_path)


def test_a_file_and_a_module_are_run_as_python_does(tmp_path: Path):
    (tmp_path / "package").mkdir()
    (tmp_path / "package/__init__.py").write_text("")
    main = "import sys; print(__package__, __spec__.name, sys.argv, sys.path[0])"
    (tmp_path / "package/__main__.py").write_text(main)
    (tmp_path / "program.py").write_text("import sys, package; print(__file__, __name__, sys.argv, sys.path[0])")
    files = (["program.py", "x"], [str(tmp_path / "program.py")])
    for command in (*files, ["-m", "package", "x"], ["-m", "ckptd", "cat"]):
        assert started(prepared, command, tmp_path) == started(subprocess, command, tmp_path)


CHILDREN = """
import multiprocessing, os, subprocess, sys

def work(number, sent):
    sent.send((number, __name__, os.getppid() == int(os.environ["PARENT"])))
    raise SystemExit(number)

if __name__ == "__main__":
    os.environ["PARENT"] = str(os.getpid())
    processes = multiprocessing.get_context("spawn")
    received, sent = processes.Pipe()
    child = processes.Process(target=work, args=(3, sent))
    child.start()
    print(received.recv(), child.join(), child.exitcode)
    with processes.Pool(2) as pool:
        print(pool.map(abs, [-1, -2]))
    own = [sys.executable, "-c", "import os, sys; print(sys.argv, os.getppid() == int(os.environ['PARENT']))"]
    for command in ([*own, "x"], ["echo", "y"], [sys.executable, "-u", "-c", "print(1)"]):
        print(subprocess.run(command, capture_output=True, text=True))
"""


@pytest.mark.parametrize("children_fork", [False, True])
def test_what_it_starts_itself_is_the_same_whether_it_is_forked_or_not(tmp_path: Path, children_fork: bool):
    (tmp_path / "program.py").write_text(CHILDREN)
    forked = started(prepared, ["program.py"], tmp_path, children_fork=children_fork)
    assert forked == started(subprocess, ["program.py"], tmp_path)


def test_it_leads_a_session_of_its_own_where_that_is_wanted(tmp_path: Path):
    command = ("-c", "import os; print(os.getsid(0) == os.getpid() == os.getpgid(0))")
    assert started(prepared, command, tmp_path, start_new_session=True)[1] == "True\n"


def test_it_can_be_stopped_and_killed_and_inherits_descriptors():
    reading, writing = os.pipe()
    with prepared.Popen(
        [sys.executable, "-c", f"import os; os.write({writing}, b'begun'); os.read(0, 1)"],
        stdin=subprocess.PIPE,
        pass_fds=(writing,),
    ) as process:
        os.close(writing)
        assert os.read(reading, 5) == b"begun"
        process.send_signal(signal.SIGSTOP)
        assert os.waitpid(process.pid, os.WUNTRACED)[1] == signal.SIGSTOP << 8 | 0x7F
        process.kill()
        assert process.wait(BOUND_S) == -signal.SIGKILL
        assert os.read(reading, 1) == b""  # nothing else holds the other end
    os.close(reading)


def test_each_draws_its_own_numbers():
    command = [sys.executable, "-c", "import random, numpy as np; print(random.random(), np.random.rand())"]
    drawn = [prepared.run(command, capture_output=True, text=True).stdout.split() for _ in range(2)]
    assert len({*drawn[0], *drawn[1]}) == 4
