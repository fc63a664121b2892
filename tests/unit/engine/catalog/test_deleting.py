from __future__ import annotations

from dataclasses import replace

import pytest

from ckptd.engine.catalog.deleting import drop, sweep
from ckptd.engine.catalog.records import Record
from ckptd.errors import ConflictError
from ckptd.format.crc32c import crc32c
from ckptd.storage.memory import MemoryStore
from tests.fakes.small_checkpoint import index_bytes

INDEX = index_bytes(1, 2)
NEW = Record("a", 1, "run", "m", 1, "m-1", (16, 12), 0.0, meta_graph=True)
DONE = replace(NEW, published=True, index_crc32c=crc32c(INDEX))
SUCCESSOR = replace(DONE, save_id="b", sequence=2, shard_sizes=(16, 12, 12), index_crc32c=crc32c(index_bytes(1, 3)))
ANOTHER = "run/m-1.data-00000-of-00003"


def stored(record: Record, index: bytes | None) -> MemoryStore:
    store = MemoryStore()
    for key in [*record.shard_keys, record.meta_key, ANOTHER, "run/other"]:
        store.put(key, b"")
    store.put(record.key, record.encode())
    if index is not None:
        store.put(record.index_key, index)
    return store


def keys(store: MemoryStore) -> list[str]:
    return [each.key for each in store.list("")]


def test_the_index_goes_first_and_the_record_last() -> None:
    store, steps = stored(DONE, INDEX), []
    drop(store, DONE, on_step=lambda step: steps.append((step, DONE.index_key in keys(store), len(keys(store)))))
    assert steps == [
        ("drop.index", True, 7),
        ("drop.shards", False, 6),
        ("drop.meta", False, 4),
        ("drop.record", False, 3),
    ]
    assert keys(store) == [ANOTHER, "run/other"]
    drop(store, DONE)  # harmless when repeated


def test_an_index_of_a_later_attempt_stays_with_its_graph() -> None:
    store = stored(DONE, index_bytes(1, 3))
    drop(store, DONE, others=[SUCCESSOR])
    assert keys(store) == [ANOTHER, DONE.index_key, DONE.meta_key, "run/other"]


def test_a_graph_that_the_later_attempt_does_not_have_goes() -> None:
    store = stored(DONE, index_bytes(1, 3))
    drop(store, DONE, others=[replace(SUCCESSOR, meta_graph=False)])
    assert keys(store) == [ANOTHER, DONE.index_key, "run/other"]


@pytest.mark.parametrize("index", [index_bytes(2, 2), b"rotten"])
def test_a_checkpoint_that_may_be_another_programs_is_left_alone(index: bytes) -> None:
    store = stored(DONE, index)
    before = keys(store)
    with pytest.raises(ConflictError):
        drop(store, DONE)
    assert keys(store) == before


def test_sweeping_takes_the_shards_that_no_index_refers_to() -> None:
    store = stored(NEW, None)
    sweep(store, NEW)
    assert keys(store) == [ANOTHER, "run/other"]


@pytest.mark.parametrize("index", [INDEX, b"rotten"])
def test_sweeping_never_takes_what_an_index_may_refer_to(index: bytes) -> None:
    store = stored(NEW, index)
    before = keys(store)
    with pytest.raises(ConflictError):
        sweep(store, NEW)
    assert keys(store) == before


def test_sweeping_an_overwrite_leaves_the_old_checkpoint_its_graph() -> None:
    store = stored(NEW, index_bytes(1, 3))
    sweep(store, NEW, others=[SUCCESSOR])
    assert keys(store) == [ANOTHER, NEW.index_key, NEW.meta_key, "run/other"]
    store = stored(NEW, index_bytes(1, 3))
    sweep(store, NEW, others=[replace(SUCCESSOR, meta_graph=False)])
    assert keys(store) == [ANOTHER, NEW.index_key, "run/other"]
