"""Timelines, told to a run of ours with a clock that is wound by hand; what lies in its directory is compared."""

from __future__ import annotations

import re
from pathlib import Path

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy, Rule
from ckptd.storage.local.local_store import LocalStore
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, shard_bytes

_SHARD = re.compile(r"(.*)\.data-\d{5}-of-\d{5}")


class Replay:
    """One directory of ours: `start` is a new process, `save` a save of it. All saves have one shard or more."""

    def __init__(self, directory: Path, now: float) -> None:
        self.directory = directory
        self.clock = HandClock(now)
        self.store = LocalStore(str(directory.parent))
        self.catalog: Catalog | None = None
        self._num_saves = 0

    def start(
        self,
        rule: Rule,
        max_to_keep: int | None,
        hours: float | None,
        *,
        latest_filename: str = "checkpoint",
        pad: bool = False,
        relative: bool = True,
    ) -> Catalog:
        self.catalog = Catalog(
            self.store,
            self.directory.name,
            clock=self.clock,
            policy=RetentionPolicy(max_to_keep, hours, rule),
            latest_filename=latest_filename,
            pad_step_number=pad,
            relative_paths=relative,
        )
        self.catalog.upkeep.recover()
        return self.catalog

    def save(
        self,
        name: str,
        step: int,
        *,
        meta: bytes | None = None,
        meta_suffix: str = "meta",
        write_state: bool = True,
    ) -> Record:
        assert self.catalog is not None
        self._num_saves += 1
        count = self.catalog.choose_num_shards(name, step, 1)
        sizes = [len(shard_bytes(self._num_saves, shard)) for shard in range(count)]
        record = self.catalog.draft(
            name,
            step,
            save_id=f"s{self._num_saves}",
            shard_sizes=sizes,
            meta_graph=meta is not None,
            meta_suffix=meta_suffix,
            write_state=write_state,
        )
        self.catalog.begin(record)
        for shard, key in enumerate(record.shard_keys):
            writer = self.store.create(key, sizes[shard])
            writer.write(0, shard_bytes(self._num_saves, shard))
            writer.finish()
        self.catalog.commit(record, index_bytes(self._num_saves, count), meta, overwrite=True)
        self.catalog.retire()
        return record

    def state(self, latest_filename: str = "checkpoint") -> str | None:
        path = self.directory / latest_filename
        return path.read_text() if path.exists() else None

    def files(self) -> list[str]:
        return files_in(self.directory)


def files_in(directory: Path) -> list[str]:
    """List a directory without what only ckptd has. All shards count as one: we use more when a step is saved again."""
    names = {path.name for path in directory.iterdir() if path.is_file()}
    return sorted({_SHARD.sub(r"\1.data", name) for name in names if not name.startswith(".")})


def as_one_shard(names: list[str]) -> list[str]:
    """Return a listing of TensorFlow's as `files_in` gives it."""
    return sorted({_SHARD.sub(r"\1.data", name) for name in names})
