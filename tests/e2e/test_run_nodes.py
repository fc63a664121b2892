"""`ckptd run` on two nodes of a job, as processes of this machine: a coordinator on the first, an agent on each."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ckptd
from ckptd.demo.processes import child_environment
from tests.fakes.waiting import eventually

WAIT_S = 90.0
COMMAND = (sys.executable, "-m", "ckptd", "run", "--grace-s", "60")

TRAIN = """
import os, sys, time
from pathlib import Path
import numpy as np
import ckptd
here, rank = Path(sys.argv[1]), int(os.environ["SLURM_NODEID"])
def wait_for(name):
    while not (here / name).exists():
        time.sleep(0.01)
with ckptd.Checkpointer(run="r", rank=rank, world_size=2, timeout_s=90) as checkpointer:
    def save(step):
        def part(dtype):  # TensorFlow joins no float16: its parts go from agent to agent
            return ckptd.Slice(np.full(1000, step, dtype), full_shape=(2000,), start=(rank * 1000,))
        return checkpointer.save(step, {"w": part(np.float32), "half": part(np.float16)})
    save(1).result()
    (here / f"saved {rank}").touch()
    wait_for("the coordinator was killed")
    save(2).result()
    if rank:
        wait_for("the first node is done")
    save(3)
    if not rank:
        os._exit(0)  # with its part of step 3 in the memory of its agent, which waits for the other node
"""

SHARE = """
import os, sys
import numpy as np
import ckptd
rank = int(os.environ["SLURM_NODEID"])
with ckptd.Checkpointer(run="r", rank=rank, world_size=2, timeout_s=90) as checkpointer:
    for step in (1, 2):
        part = ckptd.Slice(np.full(1000, step * 10 + rank, np.float32), full_shape=(2000,), start=(rank * 1000,))
        checkpointer.save(step, {"w": part}).result()
sys.exit(7 * rank)
"""


class Node:
    """One `ckptd run`."""

    def __init__(self, base: Path, number: int, *options: str, lease_s: float = 15.0, trains: str = TRAIN) -> None:
        (base / "train.py").write_text(trains)
        self.mark = f"CKPTD_TEST_MARK={base}"
        of_job = ["--root", str(base / "root"), "--job-dir", str(base / "job"), "--advertise", "127.0.0.1"]
        trainer = [sys.executable, str(base / "train.py"), str(base)]
        self.process = subprocess.Popen(
            [*COMMAND, *of_job, "--name", f"n{number}", *options, "--", *trainer],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **child_environment(),
                "TMPDIR": str(base),
                "CKPTD_TEST_MARK": str(base),
                "SLURM_NODEID": str(number),
                "SLURM_NNODES": "2",
                "CKPTD_DECLARE_TIMEOUT_S": "120",  # a busy machine starts one trainer long before the other
                "CKPTD_STALL_TIMEOUT_S": "120",
                "CKPTD_AGENT_LEASE_S": f"{lease_s:g}",
            },
            start_new_session=True,
        )
        self.err = ""

    def living(self) -> dict[int, str]:
        """Return the command lines of what all nodes have started, by pid."""
        found = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and self.mark.encode() in (entry / "environ").read_bytes().split(b"\0"):
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        return found

    def ends(self) -> int:
        _, self.err = self.process.communicate(timeout=WAIT_S)
        return self.process.returncode


@pytest.fixture
def nodes(tmp_path):
    started: list[Node] = []

    def start(number: int, *options: str, **more: Any) -> Node:
        started.append(Node(tmp_path, number, *options, **more))
        return started[-1]

    yield start
    for node in started:
        for pid in node.living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        node.process.kill()
        node.process.communicate(timeout=WAIT_S)


def trainers(node: Node) -> list[str]:
    return [line for line in node.living().values() if "train.py" in line and "ckptd run" not in line]


def test_the_coordinator_of_the_first_node_outlives_its_kill_and_the_end_of_its_trainer(nodes, tmp_path):
    second, first = nodes(1), nodes(0)

    def logs() -> str:
        return "\n".join(path.name + "\n" + path.read_text() for path in (tmp_path / "job/logs").glob("*"))

    for rank in (0, 1):
        eventually((tmp_path / f"saved {rank}").exists, logs, within_s=WAIT_S)
    coordinator = next(pid for pid, line in first.living().items() if "--role coordinator" in line)
    os.kill(coordinator, signal.SIGKILL)
    (tmp_path / "the coordinator was killed").touch()
    eventually(lambda: (tmp_path / "root/r/model.ckpt-2.index").exists(), logs, within_s=WAIT_S)
    eventually(lambda: len(trainers(first)) == 1, logs, within_s=WAIT_S)
    (tmp_path / "the first node is done").touch()
    assert (first.ends(), second.ends()) == (0, 0), first.err + second.err + logs()
    assert "the coordinator ended, by signal SIGKILL; it is started again" in first.err
    eventually(lambda: not first.living(), first.living, within_s=WAIT_S)
    with ckptd.Checkpointer(str(tmp_path / "root"), "r") as checkpointer:
        found = checkpointer.restore(3)
    assert (found["w"] == 3).all()
    assert (found["half"] == 3).all()
    assert len(list((tmp_path / "root/r").glob("model.ckpt-3.data*"))) == 2


def test_nodes_save_into_a_directory_that_they_share(nodes, tmp_path):
    both = [nodes(number, "--shared-directory", trains=SHARE) for number in (0, 1)]
    codes = [node.ends() for node in both]
    logs = "\n".join(path.name + "\n" + path.read_text() for path in (tmp_path / "job/logs").glob("*"))
    assert codes == [0, 7], both[0].err + both[1].err + logs
    assert (tmp_path / "root/r/.checkpoint.ckptd-versions").is_dir()  # changes are made by links
    with ckptd.Checkpointer(str(tmp_path / "root"), "r") as checkpointer:
        found = checkpointer.restore()["w"]
    assert found.reshape(2, 1000).tolist() == [[20.0] * 1000, [21.0] * 1000]
    assert len(list((tmp_path / "root/r").glob("model.ckpt-2.data*"))) == 2  # a host each
    eventually(lambda: not both[0].living(), both[0].living, within_s=WAIT_S)


def test_a_node_whose_first_node_never_comes_says_so(nodes, tmp_path):
    node = nodes(1, "--start-s", "1")
    assert node.ends() == 6
    assert "the first node of the job has put no token here in 1 s" in node.err
    assert "waiting for" not in node.err  # what is over so soon is told once
    assert not (tmp_path / "root").exists()
    assert list(tmp_path.glob("ckptd-run-*")) == []


def test_a_node_with_the_name_or_the_root_of_another_place_is_refused_and_the_first_goes_on(nodes, tmp_path):
    first = nodes(0, lease_s=3.0)
    eventually((tmp_path / "job/job.json").exists, "the coordinator", within_s=WAIT_S)
    eventually(lambda: trainers(first), first.living, within_s=WAIT_S)  # its agent has its name

    second = nodes(1, "--name", "n0")
    assert second.ends() == 4
    assert "the agent ended at its start: another one of the name n0 attends. Give each node a --name" in second.err
    assert "another agent of the name n0, started by `ckptd run`" in second.err  # of its log, which is its own

    elsewhere = nodes(1, "--root", str(tmp_path / "elsewhere"), "--start-s", "3")
    assert elsewhere.ends() == 2
    assert "--root is another place here than on the first node of the job" in elsewhere.err
    assert not (tmp_path / "elsewhere").exists()

    also_first = nodes(0, "--start-s", "1")
    assert also_first.ends() == 4
    assert "this job has a first node already, `ckptd run`" in also_first.err
    assert trainers(first)


def test_a_coordinator_that_does_not_answer_is_named(tmp_path):
    nowhere = f"unix://{tmp_path}/none.sock"
    done = subprocess.run(
        [*COMMAND, "--root", str(tmp_path / "root"), "--coordinator", nowhere, "--start-s", "1", "--", "false"],
        capture_output=True,
        text=True,
        env={**child_environment(), "TMPDIR": str(tmp_path)},
        timeout=WAIT_S,
    )
    assert done.returncode == 6
    assert f"the agent takes no saves 1 s after its start: it has no coordinator: none lets it attend at {nowhere}" in (
        done.stderr
    )
