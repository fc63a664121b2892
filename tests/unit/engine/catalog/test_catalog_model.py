"""Random lives of a run, told to the catalog and to a model of a few lines; after each event both must agree."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

import pytest

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.errors import ConflictError
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, latest_in, listed_in, seed_of, shard_bytes


@dataclass
class Model:
    """Steps, oldest first. `kept` left the list for good."""

    listed: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)
    pinned: set[int] = field(default_factory=set)
    released: set[int] = field(default_factory=set)  # pinned no longer, and their places taken
    forgotten: set[int] = field(default_factory=set)  # listed as the latest of a Saver without limit
    seeds: dict[int, int] = field(default_factory=dict)

    def save(self, step: int, seed: int, max_to_keep: int) -> None:
        for steps in (self.listed, self.kept):
            if step in steps:
                steps.remove(step)
        self.released.discard(step)
        self.forgotten.discard(step)
        self.seeds[step] = seed
        leaving = [each for each in self.listed if each in self.forgotten - self.pinned]
        self.kept += leaving
        self.listed = [each for each in self.listed if each not in leaving] + [step]
        if max_to_keep == 0:
            self.forgotten.add(step)
            return
        counted = [each for each in self.listed if each not in self.pinned | self.released | self.forgotten]
        leaving = [each for each in self.listed if each in self.released]
        leaving += counted[:1] if len(counted) > max_to_keep and step not in self.pinned else []
        self.listed = [each for each in self.listed if each not in leaving]
        self.released.clear()

    def unpin(self, step: int, max_to_keep: int) -> None:
        counted = [each for each in self.listed if each not in self.pinned | self.forgotten]
        if step in self.pinned and step in self.listed and 0 < max_to_keep <= len(counted):
            self.released.add(step)
        self.pinned.discard(step)


class Life:
    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.clock = HandClock()
        self.store = MemoryStore("m", wall_s=self.clock.wall_s)
        self.store.put("r/theirs.data-00000-of-00001", b"foreign")
        self.model = Model()
        self.max_to_keep = 3
        self.num_saves = 0
        self.last = ""
        self.restart()

    def restart(self) -> None:
        self.catalog = Catalog(self.store, "r", clock=self.clock, policy=RetentionPolicy(self.max_to_keep))
        self.catalog.upkeep.recover()
        self.model.forgotten.clear()

    def change_max_to_keep(self) -> None:
        self.max_to_keep = self.rng.choice([0, 1, 2, 3, 4])
        self.restart()

    def jump(self) -> None:
        self.clock.jump(self.rng.choice([-1e6, 1e6]))

    def save(self) -> None:
        self.num_saves += 1
        self.attempt(self.num_saves * 10, overwrite=False)

    def overwrite(self) -> None:
        if steps := self.model.listed + self.model.kept:
            self.num_saves += 1
            self.attempt(self.rng.choice(steps), overwrite=True)

    def attempt(self, step: int, *, overwrite: bool) -> None:
        seed = self.num_saves
        self.clock.advance(1)
        count = self.catalog.choose_num_shards("m", step, self.rng.choice([1, 2]))
        sizes = [len(shard_bytes(seed, shard)) for shard in range(count)]
        record = self.catalog.draft("m", step, save_id=f"s{seed}", shard_sizes=sizes)
        self.catalog.begin(record)
        num_written = self.rng.choice([count, count, count, 0, count - 1])
        for shard in range(num_written):
            self.store.put(record.shard_keys[shard], shard_bytes(seed, shard))
        self.last = f"{step} aborted"
        if num_written < count:
            if self.rng.random() < 0.5:
                self.catalog.abandon(record)
            else:
                self.restart()
            return
        fate = self.rng.choice(["told", "told", "killed before retention", "killed before publishing"])
        self.last = f"{step} {fate}"
        if fate == "killed before publishing":
            self.store.replace(record.index_key, index_bytes(seed, count))
            if self.max_to_keep == 0:
                self.model.forgotten.update(self.model.listed[-1:])
            forgotten = set(self.model.forgotten) if self.max_to_keep == 0 else set()
            self.restart()
            listed = step in self.model.listed
            if overwrite and listed:  # its place in the list stays: the state file names the step already
                self.model.seeds[step] = seed
                self.model.released.discard(step)
                return
            self.model.forgotten = forgotten & set(self.model.listed[-1:])
            self.model.save(step, seed, self.max_to_keep)
            self.model.forgotten.clear()
            return
        self.catalog.commit(record, index_bytes(seed, count), overwrite=overwrite)
        self.model.save(step, seed, self.max_to_keep)
        if fate == "told":
            self.catalog.retire()
        else:
            self.restart()

    def pin(self) -> None:
        if steps := self.model.listed + self.model.kept:
            step = self.rng.choice(steps)
            if self.rng.random() < 0.5:
                self.catalog.edits.pin(step)
                self.model.pinned.add(step)
                self.model.released.discard(step)
            else:
                self.catalog.edits.unpin(step)
                self.model.unpin(step, self.max_to_keep)

    def delete(self) -> None:
        if not (steps := self.model.listed + self.model.kept):
            return
        step = self.rng.choice(steps)
        is_latest = step == self.model.listed[-1]
        if step in self.model.pinned or is_latest:
            with pytest.raises(ConflictError):
                self.catalog.edits.delete(step)
            return
        self.catalog.edits.delete(step)
        for those in (self.model.listed, self.model.kept):
            if step in those:
                those.remove(step)

    def check(self) -> None:
        model, files = self.model, {each.key: self.store.get(each.key) for each in self.store.list("")}
        assert files.pop("r/theirs.data-00000-of-00001") == b"foreign"
        assert listed_in(files, "r") == [f"r/m-{step}" for step in model.listed]
        assert latest_in(files, "r") == (f"r/m-{model.listed[-1]}" if model.listed else None)
        steps = sorted(model.listed + model.kept)
        assert sorted(each.step or 0 for each in self.catalog.contents.checkpoints()) == steps
        assert {each.step for each in self.catalog.contents.checkpoints() if each.pinned} == model.pinned & set(steps)
        assert {step: seed_of(files, f"r/m-{step}") for step in steps} == {step: model.seeds[step] for step in steps}
        num_files = sum(
            each.num_shards + 2 for each in self.catalog.contents.checkpoints()
        )  # an index and a record each
        assert len(files) == num_files + bool(model.listed), sorted(files)


@pytest.mark.parametrize("seed", range(60))
def test_a_run_is_what_a_model_of_it_says(seed: int) -> None:
    life = Life(seed)
    events = [life.save] * 5 + [life.overwrite, life.pin, life.delete, life.restart, life.change_max_to_keep, life.jump]
    told = []
    for _ in range(25):
        event = life.rng.choice(events)
        event()
        told.append((event.__name__, life.max_to_keep, life.last))
        try:
            life.check()
        except AssertionError as error:
            raise AssertionError(f"after {told}: {error}") from error
