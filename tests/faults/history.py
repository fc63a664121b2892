"""A run driven from the outside: what was begun, what was acknowledged, and what must therefore be on the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ckptd.engine.catalog.catalog import Catalog
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.retention import RetentionPolicy
from ckptd.errors import CkptdError, NotFoundError
from ckptd.storage.base import Store
from ckptd.storage.local.local_store import LocalStore
from tests.fakes.clock import HandClock
from tests.fakes.disk import SimulatedDisk
from tests.fakes.small_checkpoint import index_bytes, latest_in, listed_in, seed_of, shard_bytes

ROOT = "/ckpts"
RUN = "run"
HERE = f"{ROOT}/{RUN}"
MAX_TO_KEEP = 2
UNDO_S = 100.0

FOREIGN = {
    f"{HERE}/old-7.index": index_bytes(7, 1),
    f"{HERE}/old-7.data-00000-of-00001": shard_bytes(7, 0),
    f"{HERE}/m-90.data-00000-of-00002": b"a shard without an index, of someone else's save",
    f"{HERE}/m-1.index.tempstate123": b"TensorFlow's rubbish",
    f"{HERE}/notes.txt": b"do not delete",
    f"{HERE}/.ckptd-notes": b"nor this",
}


def disk_with_foreign_files(**faults: object) -> SimulatedDisk:
    disk = SimulatedDisk(**faults)  # type: ignore[arg-type]
    for path, data in FOREIGN.items():
        disk.add_file(path, data)
    return disk


class BrokenPromiseError(AssertionError):
    """A promise was broken."""


@dataclass
class History:
    """What the outside world knows of a run. `seed` tells one content of a step from another."""

    max_to_keep: int = MAX_TO_KEEP  # 0 keeps all
    acknowledged: dict[str, int] = field(default_factory=dict)  # prefix → seed, in the order of the acknowledgements
    under_way: dict[str, set[int]] = field(default_factory=dict)  # also failed: nobody knows what became of them
    deleted: set[str] = field(default_factory=set)
    pinned: set[str] = field(default_factory=set)
    maybe_pinned: set[str] = field(default_factory=set)  # pinning failed: the disk may have it all the same
    failures: list[CkptdError] = field(default_factory=list)

    def facts(self) -> tuple[object, ...]:
        return (*self.acknowledged.items(), repr(self.under_way), *sorted(self.deleted), *sorted(self.pinned))

    def check(self, files: Mapping[str, bytes]) -> None:
        """Raise `BrokenPromiseError` unless `files` keeps every promise that was made so far."""
        try:
            self._check(files)
        except AssertionError as error:
            raise BrokenPromiseError(f"{error} [{self}]") from error

    def _check(self, files: Mapping[str, bytes]) -> None:
        for path, data in FOREIGN.items():
            assert files.get(path) == data, f"the foreign file {path} was touched"
        latest = latest_in(files, HERE)
        if latest is None:
            assert not self.acknowledged, "acknowledged, and there is no state file"
            return
        listed = listed_in(files, HERE)
        for prefix in listed:
            seed = seed_of(files, prefix)  # complete, every byte and checksum
            known = {self.acknowledged.get(prefix)} | self.under_way.get(prefix, set())
            assert seed in known, f"{prefix} holds {seed}, which nobody saved"
        newest = next(reversed(self.acknowledged), None)
        assert latest in (newest, *self.under_way), f"{latest} is latest, not {newest}"
        # A save that failed may have got through all the same, and then it counts for retention.
        num_unknown = sum(prefix not in self.acknowledged for prefix in listed)
        order = [prefix for prefix in self.acknowledged if prefix != latest and prefix not in self.pinned]
        order += [latest] if latest in self.acknowledged else []
        num_gone = max(0, len(order) - self.max_to_keep + num_unknown) if self.max_to_keep else 0
        for prefix in [*order[num_gone:], *self.pinned]:
            if prefix not in self.deleted:
                seed_of(files, prefix)

    def check_nothing_left_over(self, files: Mapping[str, bytes]) -> None:
        """Raise `BrokenPromiseError` if there is a file that no checkpoint needs, and that nobody else brought."""
        whole = {path.removesuffix(".index") for path in files if path.endswith(".index") and "/.ckptd/" not in path}
        ours = [
            path for path in whole if path + ".index" not in FOREIGN and path not in self.pinned | self.maybe_pinned
        ]
        if self.max_to_keep and len(ours) > self.max_to_keep:
            raise BrokenPromiseError(f"retention keeps {self.max_to_keep}, and there are {sorted(ours)} [{self}]")
        set_aside = [path for path in files if "/.ckptd/trash/" in path]
        aside: dict[str, list[str]] = {}
        for path in set_aside:
            aside.setdefault(f"{HERE}/{path.partition('/.ckptd/trash/')[2].split('.')[0]}", []).append(path)
        for path in files.keys() - FOREIGN.keys() - set(set_aside):
            name = path.removeprefix(HERE + "/")
            if name in ("checkpoint", ".ckptd/checkpoint.fence"):  # the fence outlives every checkpoint
                continue
            if name.startswith(".ckptd/"):
                prefix = HERE + "/" + name.removeprefix(".ckptd/").rpartition(".json")[0].rpartition(".")[0]
                wanted = prefix in whole | aside.keys()
            elif ".data-" in name:
                prefix, _, rest = path.rpartition(".data-")
                copies = [copy for copy in aside.get(prefix, []) if copy.endswith(".index-aside")]
                indexes = [*([f"{prefix}.index"] if prefix in whole else []), *copies]
                wanted = any(f".data-{rest}" in _shards(files, index) for index in indexes)
            else:
                wanted = name.endswith((".index", ".meta")) and path.rpartition(".")[0] in whole
            if not wanted:
                raise BrokenPromiseError(f"{path} is left over [{self}]")


def _shards(files: Mapping[str, bytes], index: str) -> set[str]:
    from ckptd.format.index import Index

    count = Index.decode(files[index]).num_shards
    return {f".data-{shard:05d}-of-{count:05d}" for shard in range(count)}


class Trainer:
    """Saves through a catalog as a coordinator does, and tells the history."""

    def __init__(
        self,
        place: SimulatedDisk | Store,
        history: History,
        *,
        catalog: type[Catalog] = Catalog,
        store: type[LocalStore] = LocalStore,
        policy: type[RetentionPolicy] = RetentionPolicy,
        shards_after_index: bool = False,
        on_step: Callable[[str], None] | None = None,
    ) -> None:
        self.history = history
        self.clock = HandClock(1_600_000_000.0 + 10 * len(history.acknowledged))
        self.store: Store = store(ROOT, disk=place) if isinstance(place, SimulatedDisk) else place
        self.shards_after_index = shards_after_index
        self.catalog = catalog(
            self.store,
            RUN,
            clock=self.clock,
            policy=policy(max_to_keep=history.max_to_keep),
            undo_s=UNDO_S,
            on_step=on_step or (lambda step: None),
        )
        self.recovery = self.catalog.upkeep.recover()

    def save(
        self,
        step: int,
        seed: int | None = None,
        *,
        overwrite: bool = False,
        keeps_replaced: bool = False,
        meta: bytes | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> None:
        """Save and acknowledge; on an error abandon, and note the error. `meanwhile` comes before the commit."""
        seed = step if seed is None else seed
        prefix = f"{HERE}/m-{step}"
        self.clock.advance(10)
        self.history.under_way.setdefault(prefix, set()).add(seed)
        record = None
        try:
            record = self.begin(step, seed, meta is not None, keeps_replaced=keeps_replaced)
            if not self.shards_after_index:
                self.write_shards(record, seed)
            if meanwhile is not None:
                meanwhile()
            index = index_bytes(seed, record.num_shards)
            self.catalog.commit(record, index, meta, overwrite=overwrite, duration_s=0.5)
            if self.shards_after_index:
                self.write_shards(record, seed)
        except CkptdError as error:
            self.failures(error)
            if record is not None:
                self.abandon(record)
            return
        self.history.acknowledged.pop(prefix, None)
        self.history.acknowledged[prefix] = seed
        del self.history.under_way[prefix]
        self.catalog.retire()

    def abort_a_save(self, step: int, seed: int) -> None:
        """Begin a save and give it up with one shard finished and one half written."""
        prefix = f"{HERE}/m-{step}"
        self.history.under_way.setdefault(prefix, set()).add(seed)
        record = None
        try:
            record = self.begin(step, seed, False)
            writers = [self.store.create(key, 100) for key in record.shard_keys]
            writers[0].finish()
            writers[1].write(0, b"half")
            writers[1].abort()
        except CkptdError as error:
            self.failures(error)
        if record is not None:
            self.abandon(record)

    def pin(self, step: int) -> None:
        if f"{HERE}/m-{step}" not in self.history.acknowledged:
            return
        try:
            self.catalog.edits.pin(step)
        except CkptdError as error:
            self.history.maybe_pinned.add(f"{HERE}/m-{step}")
            self.failures(error)
        else:
            self.history.pinned.add(f"{HERE}/m-{step}")

    def delete(self, step: int, *, for_good: bool = True) -> None:
        prefix, latest = f"{HERE}/m-{step}", self.catalog.contents.latest()
        if prefix not in self.history.acknowledged or (latest is not None and latest.prefix == prefix):
            return
        self.history.deleted.add(f"{HERE}/m-{step}")
        try:
            self.catalog.edits.delete(step, for_good=for_good)
        except NotFoundError:
            # A deletion that failed half way may have gone forward since: then there is nothing left to delete.
            assert self.history.failures, "what was acknowledged is gone"
        except CkptdError as error:
            self.failures(error)

    def undelete(self, step: int) -> None:
        """Take a deletion back; until that is acknowledged, nobody knows whether it is there."""
        try:
            self.catalog.edits.undelete(step)
        except NotFoundError:
            assert self.history.failures, "only a deletion that failed leaves nothing to undo"
        except CkptdError as error:
            self.failures(error)
        else:
            self.history.deleted.discard(f"{HERE}/m-{step}")

    def exchange(self, step: int, seed: int) -> None:
        """Bring back what was replaced, of this seed; until that is acknowledged, either may be in place."""
        prefix = f"{HERE}/m-{step}"
        has_failed = prefix in self.history.under_way
        self.history.under_way.setdefault(prefix, set()).add(seed)
        try:
            self.catalog.edits.undelete(step)
        except NotFoundError:
            assert self.history.failures, "what a caller replaced that may only save is gone"
        except CkptdError as error:
            self.failures(error)
        else:
            if has_failed:  # the save that replaced it got through all the same, perhaps as the newest: who knows
                self.history.acknowledged.pop(prefix, None)
            else:
                self.history.acknowledged[prefix] = seed
                del self.history.under_way[prefix]

    def begin(self, step: int, seed: int, has_meta: bool, *, keeps_replaced: bool = False) -> Record:
        count = self.catalog.choose_num_shards("m", step, 2)
        sizes = [len(shard_bytes(seed, shard)) for shard in range(count)]
        record = self.catalog.draft(
            "m",
            step,
            save_id=f"s{seed}-{count}",
            shard_sizes=sizes,
            meta_graph=has_meta,
            keeps_replaced=keeps_replaced,
        )
        self.catalog.begin(record)
        return record

    def write_shards(self, record: Record, seed: int) -> None:
        writers = [
            self.store.create(key, size) for key, size in zip(record.shard_keys, record.shard_sizes, strict=True)
        ]
        try:
            for shard, writer in enumerate(writers):
                writer.write(0, shard_bytes(seed, shard))
                writer.finish()
        except CkptdError:
            for writer in writers:
                writer.abort()
            raise

    def abandon(self, record: Record) -> None:
        try:
            self.catalog.abandon(record)
        except CkptdError as error:
            self.failures(error)

    def failures(self, error: CkptdError) -> None:
        assert type(error) is not CkptdError, "every error says who must act"
        self.history.failures.append(error)


def saves_with_retention(trainer: Trainer) -> None:
    for step in (1, 2, 3):
        trainer.save(step)
    trainer.save(4, meta=b"graph")


def an_overwrite(trainer: Trainer) -> None:
    trainer.save(1, meta=b"graph")
    trainer.save(2)
    trainer.save(1, 11, overwrite=True)
    trainer.save(1, 111, overwrite=True, meta=b"graph")


def an_abort(trainer: Trainer) -> None:
    trainer.save(1)
    trainer.abort_a_save(2, 2)
    trainer.save(2, 22)


def pins_and_deletes(trainer: Trainer) -> None:
    trainer.save(1)
    trainer.pin(1)
    trainer.save(2)
    trainer.save(3)
    trainer.delete(2)
    trainer.save(4)
    trainer.save(5)


def a_pin_while_its_step_is_saved_again(trainer: Trainer) -> None:
    trainer.save(1)
    trainer.save(2)
    trainer.save(1, 11, overwrite=True, meanwhile=lambda: trainer.pin(1))
    for step in (3, 4, 5):
        trainer.save(step)


def a_deletion_undone(trainer: Trainer) -> None:
    trainer.save(1)
    trainer.save(2, meta=b"graph")
    trainer.delete(1, for_good=False)
    trainer.undelete(1)
    trainer.delete(1, for_good=False)
    trainer.clock.advance(2 * UNDO_S)
    trainer.save(3)


def a_replacement_undone(trainer: Trainer) -> None:
    trainer.save(1, meta=b"graph")
    trainer.save(2)
    trainer.save(1, 11, overwrite=True, keeps_replaced=True, meta=b"another graph")
    trainer.exchange(1, 1)
    trainer.clock.advance(2 * UNDO_S)
    trainer.save(3)


STORIES = [
    saves_with_retention,
    an_overwrite,
    an_abort,
    pins_and_deletes,
    a_pin_while_its_step_is_saved_again,
    a_deletion_undone,
    a_replacement_undone,
]
