"""Sessions told as text scripts: who says what when, and what must come of it. The scripts lie beside this file.

One line is one act, with times wound by hand:

    join 0/2 1/2 [life b]            processes take their places
    declare 5 by 0 1 [timeout 9] [again] [overwrite]
    send 5 by 0 1 [half]             the bytes that those ranks owe, or half of each lane
    disconnect 1 | leave 1           connections break, or say goodbye
    wait 31                          seconds pass, and deadlines apply
    saved 5 | aborted 5 "text"       how a save ends; the text is in the error
    latest 5 | latest nothing        what the state file names, read back bit for bit
    clean                            no bytes of ended saves are left
    pin 3 | unpin 3 | delete 3
    read 3                           somebody reads a checkpoint through the daemon
    kept 3 | gone 3                  its files are there and verify, or none of them is
    restart                          the daemon goes and comes again
    refused "text": <line>           the line fails at once, with that text
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.engine.identity import RunOptions
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.errors import CkptdError
from ckptd.format import names
from ckptd.storage.local.local_store import LocalStore
from tests.fakes.clock import HandClock
from tests.fakes.job import WAIT_S, Rank, tensor_of

SCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))


class Stage:
    """Plays a script against a real coordinator over a real directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = HandClock()
        self.ranks: dict[int, Rank] = {}
        self.coordinator = self.open()

    def open(self) -> Coordinator:
        coordinator = Coordinator(LocalStore(str(self.root)), clock=self.clock)
        coordinator.open()
        return coordinator

    def play(self, line: str) -> None:
        words = shlex.split(line, comments=True)
        if words:
            verb, *rest = words
            getattr(self, f"do_{verb}".rstrip(":"))(rest)

    def do_refused(self, words: list[str]) -> None:
        text, *rest = words
        with pytest.raises(CkptdError, match=re.escape(text.rstrip(":"))):
            self.play(shlex.join(rest))

    def do_join(self, words: list[str]) -> None:
        life = words[words.index("life") + 1] if "life" in words else "a"
        for place in (word for word in words if "/" in word):
            rank, world = map(int, place.split("/"))
            process = self.ranks.get(rank)
            if process is None or process.member.incarnation != f"{life}{rank}":
                process = Rank(self.coordinator, rank, world, life=life, options=RunOptions(max_to_keep=2))
            process.coordinator = self.coordinator
            self.ranks[rank] = process.join()
            self.ranks = {number: one for number, one in self.ranks.items() if number < world}

    def by(self, words: list[str]) -> list[Rank]:
        numbers = [int(word) for word in words[words.index("by") + 1 :] if word.isdigit()]
        if "timeout" in words:
            numbers.remove(int(words[words.index("timeout") + 1]))
        return [self.ranks[number] for number in numbers]

    def do_declare(self, words: list[str]) -> None:
        timeout_s = float(words[words.index("timeout") + 1]) if "timeout" in words else 600.0
        for rank in self.by(words):
            future = rank.declare(
                int(words[0]), again="again" in words, overwrite="overwrite" in words, timeout_s=timeout_s
            )
            if future.done():
                future.result(0)

    def do_send(self, words: list[str]) -> None:
        for rank in self.by(words):
            rank.send(int(words[0]), part=0.5 if "half" in words else 1.0)

    def do_disconnect(self, words: list[str]) -> None:
        for number in map(int, words):
            self.ranks[number].disconnect()

    def do_leave(self, words: list[str]) -> None:
        for number in map(int, words):
            rank = self.ranks[number]
            rank.coordinator.leave(rank.run, rank.member, rank.epoch)

    def do_wait(self, words: list[str]) -> None:
        self.clock.advance(float(words[0]))
        self.coordinator.tick()

    def do_saved(self, words: list[str]) -> None:
        step = int(words[0])
        rank = next(rank for rank in self.ranks.values() if step in rank.planned)
        assert rank.outcome(step).step == step

    def do_aborted(self, words: list[str]) -> None:
        step, text = int(words[0]), words[1]
        waiting = [rank.planned[step] for rank in self.ranks.values() if step in rank.planned]
        assert waiting
        for planned in waiting:
            with pytest.raises(CkptdError, match=re.escape(text)):
                assignment = planned.result(WAIT_S)
                self.coordinator.outcome(assignment.save).result(WAIT_S)

    def do_latest(self, words: list[str]) -> None:
        latest = self.coordinator.latest("runs/r")
        if words == ["nothing"]:
            assert latest is None
            return
        assert latest is not None
        assert latest.step == int(words[0])
        store = LocalStore(str(self.root))
        bundle = Bundle.open(store, f"runs/r/{names.prefix_for('model.ckpt', latest.step)}")
        stored = bundle.read("w")
        assert (stored == tensor_of(latest.step, len(stored) // 6)).all()
        assert bundle.read("step") == np.int64(latest.step)

    def do_clean(self, words: list[str]) -> None:
        # Cleaning up goes on after the ranks were told.
        assert self.coordinator.settle(WAIT_S)
        assert not self.rubbish()

    def rubbish(self) -> list[str]:
        steps = {one.step for one in self.coordinator.checkpoints("runs/r")}
        found = []
        for path in (self.root / "runs/r").rglob("*"):
            named = re.search(r"ckpt-(\d+)\.", path.name)
            if "tmp" in path.name or (named is not None and int(named[1]) not in steps):
                found.append(path.name)
        return found

    def do_pin(self, words: list[str]) -> None:
        self.coordinator.in_catalog("runs/r", lambda stored: stored.pin(int(words[0]), True))

    def do_unpin(self, words: list[str]) -> None:
        self.coordinator.in_catalog("runs/r", lambda stored: stored.pin(int(words[0]), False))

    def do_undelete(self, words: list[str]) -> None:
        back = self.coordinator.in_catalog("runs/r", lambda stored: stored.undelete(int(words[0])))
        assert back.step == int(words[0])

    def do_delete(self, words: list[str]) -> None:
        for_good = words[1:] == ["for", "good"]
        self.coordinator.in_catalog("runs/r", lambda stored: stored.delete(int(words[0]), for_good))

    def do_read(self, words: list[str]) -> None:
        self.coordinator.note_read(f"runs/r/model.ckpt-{words[0]}.index")

    def do_kept(self, words: list[str]) -> None:
        assert self.coordinator.settle(WAIT_S)
        for step in words:
            assert ckptd.verify(str(self.root / f"runs/r/model.ckpt-{step}")).ok

    def do_gone(self, words: list[str]) -> None:
        assert self.coordinator.settle(WAIT_S)
        for step in words:
            assert not list((self.root / "runs/r").glob(f"model.ckpt-{step}.*"))

    def do_restart(self, words: list[str]) -> None:
        self.coordinator.close()
        self.coordinator = self.open()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_the_story_goes_as_told(script, tmp_path):
    stage = Stage(tmp_path)
    try:
        for number, line in enumerate(script.read_text().splitlines(), 1):
            try:
                stage.play(line)
            except BaseException as error:
                error.args = (f"{script.name}:{number}: {line}\n{error}",)
                raise
    finally:
        stage.coordinator.close()
