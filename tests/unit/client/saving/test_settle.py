"""What a process has begun is there for itself: `settle`, and what waits for saves by itself."""

from __future__ import annotations

import os
import sys
import threading

import numpy as np
import pytest

import ckptd
from ckptd.client.saving.pending import completion_of
from ckptd.errors import SessionAbortedError, UnavailableError
from ckptd.service.save import SaveService
from ckptd.wire.v1 import save_pb2
from tests import seams
from tests.starts import prepared
from tests.unit.client.served import BOUND_S


def tree(value):
    return {"w": np.full(4, value)}


@pytest.fixture(params=["direct", "daemon"])
def place(request, tmp_path):
    """Where to save, and the directory of its root."""
    if request.param == "direct":
        return str(tmp_path / "root"), tmp_path / "root"
    daemon = request.getfixturevalue("daemon")
    return daemon.address, daemon.root


OUTCOMES = (seams.OUTCOME_IN_PROCESS, seams.OUTCOME_AT_DAEMON)


class Gate:
    """Holds calls of a method until it is opened."""

    def __init__(self, monkeypatch, *seams):
        self.reached, self._go_on = threading.Event(), threading.Event()
        for seam in seams:
            seam.put(monkeypatch, self._holding(seam.value))

    def _holding(self, real):
        def held(*args, **kwargs):
            self.reached.set()
            assert self._go_on.wait(BOUND_S)
            return real(*args, **kwargs)

        return held

    def open(self):
        self._go_on.set()


@pytest.fixture
def gate(monkeypatch):
    gates = []

    def close(*seams):
        gates.append(Gate(monkeypatch, *seams))
        return gates[-1]

    yield close
    for each in gates:
        each.open()


def soon(gate):
    threading.Timer(0.05, gate.open).start()


def indexes(root, run="r"):
    return sorted(path.name for path in (root / run).glob("*.index"))


def test_restore_gives_what_was_saved_last_also_while_that_is_under_way(place, gate):
    address, _ = place
    with ckptd.Checkpointer(address, "r") as checkpointer:
        checkpointer.save(1, tree(1)).result(BOUND_S)
        held = gate(*OUTCOMES)
        second = checkpointer.save(2, tree(2))
        assert held.reached.wait(BOUND_S)
        assert not second.done()
        soon(held)
        assert checkpointer.restore()["w"][0] == 2
        assert checkpointer.restored.step == 2


@pytest.mark.parametrize("ask", ["restore", "reader"])
def test_a_step_under_way_is_found(place, gate, ask):
    address, _ = place
    with ckptd.Checkpointer(address, "r") as checkpointer:
        held = gate(*OUTCOMES)
        checkpointer.save(3, tree(3))
        assert held.reached.wait(BOUND_S)
        soon(held)
        if ask == "restore":
            assert checkpointer.restore(3)["w"][0] == 3
        else:
            with checkpointer.reader(3) as reader:
                assert reader.get_tensor("w")[0] == 3


def test_restoring_an_older_step_waits_for_no_other(place, gate):
    address, _ = place
    with ckptd.Checkpointer(address, "r") as checkpointer:
        checkpointer.save(1, tree(1)).result(BOUND_S)
        held = gate(*OUTCOMES)
        second = checkpointer.save(2, tree(2))
        assert checkpointer.restore(1)["w"][0] == 1
        assert not second.done()
        held.open()


def test_once_settled_what_retention_deletes_is_gone(place, gate):
    address, root = place
    with ckptd.Checkpointer(address, "r", max_to_keep=2) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, tree(step)).result(BOUND_S)
        checkpointer.settle()
        held = gate(seams.RETIRE)
        checkpointer.save(3, tree(3)).result(BOUND_S)  # it does not wait for that
        assert held.reached.wait(BOUND_S)
        assert len(indexes(root)) == 3
        soon(held)
        checkpointer.settle(3)
        assert indexes(root) == ["model.ckpt-2.index", "model.ckpt-3.index"]
        assert [each.step for each in checkpointer.checkpoints()] == [2, 3]
        assert checkpointer.latest().step == 3
        checkpointer.settle()  # nothing is left


@pytest.mark.parametrize(
    ("wrong", "told"),
    [({"step": "3"}, "step"), ({"step": 3.0}, "step"), ({"step": -1}, "step"), ({"name": "a/b"}, "name")],
)
def test_what_is_no_step_and_no_name_is_refused_and_not_waited_for(tmp_path, wrong, told):
    with (
        ckptd.Checkpointer(tmp_path / "root", "r") as checkpointer,
        pytest.raises(ckptd.InvalidRequestError, match=told),
    ):
        checkpointer.settle(**wrong)


def test_what_ended_and_was_forgotten_is_settled_too(place, gate):
    address, root = place
    with ckptd.Checkpointer(address, "r", max_to_keep=1) as checkpointer:
        checkpointer.save(1, tree(1)).result(BOUND_S)
        checkpointer.settle()
        held = gate(seams.RETIRE)
        checkpointer.save(2, tree(2)).result(BOUND_S)
        checkpointer.latest()  # forgets what is over
        soon(held)
        checkpointer.settle()
        assert indexes(root) == ["model.ckpt-2.index"]


def test_settling_is_bounded(place, gate, monkeypatch):
    seams.CLOSE_MARGIN_S.put(monkeypatch, 0.0)
    address, _ = place
    checkpointer = ckptd.Checkpointer(address, "r", timeout_s=3.0)
    checkpointer.save(1, tree(1)).result(BOUND_S)
    held = gate(seams.RETIRE)
    checkpointer.save(2, tree(2)).result(BOUND_S)
    with pytest.raises(UnavailableError, match="what retention"):
        checkpointer.settle()
    held.open()
    checkpointer.settle()
    stuck = gate(*OUTCOMES)
    pending = checkpointer.save(3, tree(3))
    with pytest.raises(UnavailableError, match="the save of step 3 has not ended within 3 s; it goes on"):
        checkpointer.settle()
    stuck.open()
    assert pending.wait(BOUND_S)
    checkpointer.close()


def test_settling_raises_no_error_of_a_save_and_the_next_call_does(place, monkeypatch):
    address, _ = place
    with ckptd.Checkpointer(address, "r") as checkpointer:
        checkpointer.save(1, tree(1)).result(BOUND_S)

        def fail(*_):
            raise SessionAbortedError("rank 3 is lost")

        for seam in OUTCOMES:
            seam.put(monkeypatch, fail)
        checkpointer.save(2, tree(2))
        checkpointer.settle()
        with pytest.raises(SessionAbortedError, match="rank 3"):
            checkpointer.latest()
        assert checkpointer.latest().step in (1, 2)  # whether the save was given up in time is not of interest here


def test_a_callback_of_a_save_may_settle(place):
    address, root = place
    seen = []
    with ckptd.Checkpointer(address, "r", max_to_keep=1) as checkpointer:

        def look(pending):
            checkpointer.settle()
            seen.append(indexes(root))

        for step in (1, 2, 3):
            pending = checkpointer.save(step, tree(step))
            pending.add_done_callback(look)
            assert completion_of(pending).wait_until_over(BOUND_S)
    assert seen == [[f"model.ckpt-{step}.index"] for step in (1, 2, 3)]


def test_an_older_daemon_is_asked_and_says_nothing_of_retention(daemon, monkeypatch):
    real = SaveService.await_

    async def without(self, request, call):
        older = save_pb2.AwaitRequest()
        older.CopyFrom(request)
        older.until_retired = False
        return await real(self, older, call)

    seams.SERVE_AWAIT.put(monkeypatch, without)
    with ckptd.Checkpointer(daemon.address, "r", max_to_keep=1) as checkpointer:
        checkpointer.save(1, tree(1))
        checkpointer.save(2, tree(2))
        checkpointer.settle()
        assert checkpointer.latest().step == 2


SCRIPT = f"""
import sys, threading
import numpy as np
import ckptd
from ckptd.engine.saves.served_catalog import ServedCatalog

real = ServedCatalog.retire
def slow(self, *args):
    threading.main_thread().join(0.2)  # longer than the interpreter needs to end
    real(self, *args)
{seams.RETIRE.in_program("slow")}
checkpointer = ckptd.Checkpointer(sys.argv[1], "r", max_to_keep=2)
for step in range(6):
    checkpointer.save(step, {{"w": np.ones(4)}}).result()
"""


def test_after_the_end_of_the_process_no_more_than_max_to_keep_is_there(tmp_path):
    root = tmp_path / "root"
    prepared.run([sys.executable, "-c", SCRIPT, str(root)], check=True, timeout=120, env=dict(os.environ))
    assert indexes(root) == ["model.ckpt-4.index", "model.ckpt-5.index"]


@pytest.mark.parametrize("ask", ["pin", "delete", "meta_graph", "files"])
def test_what_names_a_step_under_way_waits_for_it(place, gate, ask, tmp_path):
    address, root = place
    with ckptd.Checkpointer(address, "r") as checkpointer:
        held = gate(seams.DECLARE_IN_RUN)
        checkpointer.save(1, tree(1), meta_graph=b"graph")
        assert held.reached.wait(BOUND_S)
        soon(held)
        match ask:
            case "pin":
                assert checkpointer.pin(1).pinned
            case "delete":
                checkpointer.delete(1, even_latest=True)
                assert indexes(root) == []
            case "meta_graph":
                assert checkpointer.meta_graph(1) == b"graph"
            case "files":
                assert checkpointer.files(1, copy_into=tmp_path / "copy").endswith("model.ckpt-1")


PLAIN = {
    "latest_checkpoint": lambda directory: ckptd.latest_checkpoint(directory) == f"{directory}/model.ckpt-1",
    "checkpoint_exists": lambda directory: ckptd.checkpoint_exists(f"{directory}/model.ckpt-1"),
    "of a directory": lambda directory: ckptd.load_checkpoint(directory)["w"][0] == 1,
    "of a prefix": lambda directory: ckptd.load_checkpoint(f"{directory}/model.ckpt-1")["w"][0] == 1,
    "state": lambda directory: ckptd.get_checkpoint_state(directory).model_checkpoint_path.endswith("model.ckpt-1"),
    "mtimes": lambda directory: len(ckptd.get_checkpoint_mtimes([f"{directory}/model.ckpt-1"])) == 1,
    "remove": lambda directory: (
        not (
            ckptd.remove_checkpoint(f"{directory}/model.ckpt-1") or ckptd.checkpoint_exists(f"{directory}/model.ckpt-1")
        )
    ),
    "update": lambda directory: (
        not (
            ckptd.update_checkpoint_state(directory, f"{directory}/other-7")
            or ckptd.get_checkpoint_state(directory).model_checkpoint_path != f"{directory}/other-7"
        )
    ),
}


@pytest.mark.parametrize("ask", PLAIN)
def test_plain_functions_wait_for_what_this_process_saves_there(tmp_path, gate, ask):
    (tmp_path / "link").symlink_to(tmp_path / "root")
    with ckptd.Checkpointer(str(tmp_path / "root"), "r") as checkpointer:
        held = gate(seams.DECLARE_IN_RUN)
        checkpointer.save(1, tree(1))
        assert held.reached.wait(BOUND_S)
        assert not ckptd.checkpoint_exists(str(tmp_path / "root/other/model.ckpt-1"))  # of another directory
        soon(held)
        assert PLAIN[ask](str(tmp_path / "link/r"))


def test_what_was_saved_before_another_was_closed_is_settled(place):
    address, _ = place
    for step in (1, 2):
        with ckptd.Checkpointer(address, "runs/again", max_to_keep=1) as run:
            run.settle()
            run.save(step, tree(step)).result()
    with ckptd.Checkpointer(address, "runs/again", max_to_keep=1) as run:
        run.settle()
        assert run.latest().step == 2
