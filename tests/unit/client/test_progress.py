"""`Checkpointer(progress=True)`: tqdm's bar on a terminal, a line now and then elsewhere, no cost where it is off."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import struct
import subprocess
import sys
import termios
import threading

import numpy as np
import pytest

import ckptd
from ckptd.client.progress import Bars, RestoreBar, bars
from ckptd.engine.lanes.shard import Debt, furthest_behind
from ckptd.engine.reading.bundle import Bundle, Wanted
from ckptd.storage.locations import open_store
from tests.unit.daemon.conftest import serve  # noqa: F401 (a fixture)

WAIT_S = 120
SAVES = """
import sys, threading, numpy as np, ckptd
w = np.ones(1_000_000, np.float32)
def rank(number):
    with ckptd.Checkpointer(sys.argv[1], "r", rank=number, world_size=2, progress=True) as ckpt:
        ckpt.save(7, {f"w{number}": w}).result()
other = threading.Thread(target=rank, args=(1,))
other.start()
rank(0)
other.join()
assert not [thread for thread in threading.enumerate() if thread.name == "ckptd-progress"]
"""
NEEDS_TQDM = """
import sys
sys.modules["tqdm"] = sys.modules["tqdm.auto"] = None
import ckptd
ckptd.Checkpointer("/nowhere", "r", progress={})
"""
OFF = """
import sys, threading, numpy as np, ckptd
with ckptd.Checkpointer(sys.argv[1], "r") as ckpt:
    ckpt.save(1, {"w": np.ones(9)})
    assert "ckptd-progress" not in {thread.name for thread in threading.enumerate()}
    ckpt.restore()
assert "tqdm" not in sys.modules
"""


def run(program, *arguments, **more):
    return subprocess.run([sys.executable, "-c", program, *arguments], timeout=WAIT_S, check=False, **more)


def on_terminal(program, *arguments):
    """Run a program whose stderr is a terminal; return its exit code and what it wrote there."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(ours, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    written = bytearray()

    def read():
        while True:
            try:
                written.extend(os.read(ours, 65536))
            except OSError:  # nothing writes to it any more
                return

    reading = threading.Thread(target=read)
    reading.start()
    env = os.environ | {"CKPTD_TRANSPORT": "stream"}
    ended = run(program, *arguments, stderr=theirs, env=env)
    os.close(theirs)
    reading.join(WAIT_S)
    os.close(ours)
    return ended.returncode, written.decode()


def test_one_bar_for_a_save_of_two_ranks_which_is_gone_at_its_end(serve):  # noqa: F811
    daemon = serve("--write-bytes-per-s", "4000000").ready()
    code, written = on_terminal(SAVES, daemon.listening[0])
    assert code == 0, written
    drawn = written.split("\r")
    assert any(line.startswith("save step 7:") and "%|" in line and "8.00M" in line for line in drawn), written
    assert any("rank 0 is furthest behind" in line or "rank 1 is furthest behind" in line for line in drawn), written
    assert "\n" not in written  # never a second line
    assert drawn[-1].strip() == ""


def test_where_stderr_is_no_terminal_a_save_that_takes_no_half_minute_says_nothing(serve):  # noqa: F811
    daemon = serve("--write-bytes-per-s", "8000000").ready()
    ended = run(SAVES, daemon.listening[0], stderr=subprocess.PIPE)
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_without_tqdm_the_error_names_what_to_install():
    ended = run(NEEDS_TQDM.format(True), stderr=subprocess.PIPE, text=True)
    assert "InvalidRequestError: progress=True draws with tqdm" in ended.stderr
    assert "pip install 'ckptd[progress]'" in ended.stderr
    assert run(NEEDS_TQDM.format(False)).returncode == 0


def test_where_it_is_off_nothing_of_it_runs(tmp_path):
    assert run(OFF, str(tmp_path)).returncode == 0


def test_only_rank_0_draws():
    assert isinstance(bars(True, 0), Bars)
    assert bars(True, 1) is None
    assert bars(False, 0) is None


class Noting:
    """Bars that note what is drawn."""

    def __init__(self):
        self.drawn = []

    def draw(self, label, total_bytes):
        self.drawn.append([label, total_bytes])
        return self

    def set(self, done_bytes, told):
        self.drawn[-1].append(done_bytes)

    def close(self):
        self.drawn[-1].append("closed")


def test_a_restore_counts_what_it_reads(tmp_path):
    arrays = {f"w{number}": np.ones(1_000_000, np.float32) for number in range(3)}
    ckptd.save_checkpoint(str(tmp_path / "m-1"), arrays)
    noted = Noting()
    bundle = Bundle.open(open_store(str(tmp_path)), "m-1")
    bundle.progress = RestoreBar(noted, "restore")
    bundle.read_many([Wanted(name) for name in arrays])
    bundle.close()
    [[label, total, *done, end]] = noted.drawn
    assert (label, total, end) == ("restore", 12_000_000, "closed")
    assert done[0] == 0
    assert done == sorted(done)
    assert len(done) > 1


def test_a_read_that_fails_leaves_no_bar():
    noted = Noting()
    bar = RestoreBar(noted, "restore")
    bar(0, 10)
    bar(5, 10)
    bar(0, 8)  # read again
    bar.close()
    bar.close()
    assert noted.drawn == [["restore", 10, 0, 5, "closed"], ["restore", 8, 0, "closed"]]


@pytest.mark.parametrize(
    ("debts", "rank"),
    [({}, None), ({0: Debt(0, 5, 0.0)}, None), ({0: Debt(4, 8, 0.0), 1: Debt(3, 4, 0.0), 2: Debt(0, 9, 0.0)}, 1)],
)
def test_the_rank_that_is_furthest_behind_owes_the_largest_part(debts, rank):
    assert furthest_behind(debts) == rank


@pytest.mark.parametrize("stderr", [None, object(), "closed"], ids=["none", "something else", "closed"])
def test_a_program_without_a_stderr_saves_and_restores_all_the_same(tmp_path, monkeypatch, stderr):
    if stderr == "closed":
        stderr = io.StringIO()
        stderr.close()
    monkeypatch.setattr(sys, "stderr", stderr)
    with ckptd.Checkpointer(tmp_path, "a", progress=True) as checkpointer:
        checkpointer.save(1, {"w": np.arange(1000.0)}).result()
        assert (checkpointer.restore()["w"] == np.arange(1000.0)).all()
