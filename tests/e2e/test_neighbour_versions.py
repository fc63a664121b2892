"""Agents and a coordinator of neighbouring versions: a job goes on while one process after another is replaced.

The former version is a wheel of a commit of this repository's history, kept in the cache of the user who tests.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import IO

import pytest

import ckptd
from ckptd.demo.processes import child_environment
from tests.e2e.saving_worker import value_of
from tests.e2e.test_agents import COUNT, HOSTS, WAIT_S, Hosts

REPOSITORY = Path(__file__).resolve().parents[2]
FORMER = "d4f343076f4bf7e42a2de33bde6bc005813ff4da"
"""The oldest commit that was found to work with today's agents and coordinators: its wire is promised from then on."""

BUILD_S = 300

pytestmark = pytest.mark.campaign


def install_former() -> Path:
    """Return the directory into which the former version is installed, without what it depends on; once for a user."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ckptd-tests"
    cache.mkdir(parents=True, exist_ok=True)
    installed = cache / f"ckptd-{FORMER[:12]}-py{sys.version_info[0]}.{sys.version_info[1]}"
    with (cache / f"{installed.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not installed.exists():
            with tempfile.TemporaryDirectory(dir=cache) as work:
                _install(Path(work), installed)
    return installed


def _install(work: Path, installed: Path) -> None:
    known = subprocess.run(
        ["git", "-C", str(REPOSITORY), "cat-file", "-e", f"{FORMER}^{{commit}}"], capture_output=True, text=True
    )
    if known.returncode:
        pytest.fail(
            f"commit {FORMER}, the former version that this test runs, is not in the history of {REPOSITORY}: "
            f"get it by `git fetch --unshallow`, in a clone of the repository ({known.stderr.strip()})",
            pytrace=False,
        )
    source, made = work / "source.tar", work / "made"
    subprocess.run(["git", "-C", str(REPOSITORY), "archive", "-o", str(source), FORMER], check=True, timeout=BUILD_S)
    shutil.unpack_archive(source, work / "source")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(work), str(work / "source")], check=True, timeout=BUILD_S)
    (wheel,) = work.glob("*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(made), str(wheel)], check=True, timeout=BUILD_S)
    made.rename(installed)  # at once: whoever comes next finds all of it or nothing


class Neighbours(Hosts):
    """Hosts whose coordinator and agents begin as the former version."""

    def __init__(self, base: Path, root: Path, former: Path) -> None:
        self.former, self.replaced = former, set[str]()
        super().__init__(base, root)

    def launch(self, name: str, command: list[str], out: IO[bytes]) -> subprocess.Popen[bytes]:
        if name in self.replaced:
            return super().launch(name, command, out)
        return subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, env=self.environment(), cwd=self.base)

    def environment(self) -> dict[str, str]:
        return {**child_environment(), "PYTHONPATH": str(self.former)}

    def replace(self, name: str) -> None:
        """End a process as an update does, and start it in today's version."""
        self.processes[name].terminate()
        self.processes[name].wait(WAIT_S)
        self.replaced.add(name)
        self.start(name)

    def save(self, step: int) -> None:
        """Save also what agents pass to each other, and read it from the store, and through each agent."""
        self.crew.save(step, COUNT, half="float16")
        assert self.crew.answers(WAIT_S) == ["saved"] * 6
        self.check(step)
        for host in HOSTS:
            with ckptd.Checkpointer(self.address(host), "r", rank=0, world_size=1, timeout_s=WAIT_S) as reader:
                found = reader.restore(step)
            for rank in range(6):
                assert (found["w"][rank * COUNT : (rank + 1) * COUNT] == value_of(step, rank)).all()
            assert found["half"].size == 6 * COUNT


@pytest.mark.parametrize("order", [["coordinator", *HOSTS], [*HOSTS, "coordinator"]], ids="-".join)
def test_a_job_saves_while_a_former_version_is_replaced(order):
    former = install_former()
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base:
        root = Path(base) / "root"
        root.mkdir()
        running = Neighbours(Path(base), root, former)
        try:
            said = subprocess.run(
                [sys.executable, "-c", "import ckptd; print(ckptd.__file__)"],
                capture_output=True,
                text=True,
                check=True,
                env=running.environment(),
                cwd=base,
            )
            assert Path(said.stdout.strip()).is_relative_to(former), said.stdout  # and not today's
            running.save(1)
            for step, name in enumerate(order, start=2):
                running.replace(name)
                running.save(step)
        finally:
            running.end()
