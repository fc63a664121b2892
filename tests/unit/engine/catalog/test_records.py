from __future__ import annotations

import json
from dataclasses import replace

import pytest

from ckptd.engine.catalog import records
from ckptd.engine.catalog.records import Record
from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.storage.memory import MemoryStore

NEW = Record("abc", 7, "runs/m", "model.ckpt", 1200, "model.ckpt-1200", (16, 0, 12), 1.5e9, next_keep_at=1.6e9)
OLD = replace(NEW, published=True, saved_at=1.5e9, duration_s=2.5, index_crc32c=0xFFFFFFFF, pinned=True, epoch=3)
WITHOUT_STEP = Record("A-_9", 1, "", "final", None, "final", (4,), 0.0, meta_graph=True, latest_filename="last")
OTHERWISE = replace(NEW, write_state=False, retention="manager", max_to_keep=3, keep_hours=0.5, relative_paths=False)
ELSEWHERE = replace(NEW, writers=("h1", "h2"), layout_digest="0f" * 32, term=3, aborted_at=1.5e9)
RECORDS = [ELSEWHERE, NEW, OLD, WITHOUT_STEP, OTHERWISE, replace(NEW, dropped=True, preserved=True, deleted_at=1.55e9)]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_and_its_bytes_are_one_thing(record: Record) -> None:
    assert Record.decode(record.encode(), record.key) == record
    assert Record.decode(record.encode(), record.key).encode() == record.encode()


def test_a_record_names_all_that_is_ours() -> None:
    assert NEW.key == "runs/m/.ckptd/model.ckpt-1200.abc.json"
    assert NEW.index_key == "runs/m/model.ckpt-1200.index"
    assert NEW.shard_keys == [f"runs/m/model.ckpt-1200.data-0000{shard}-of-00003" for shard in range(3)]
    assert NEW.meta_key == "runs/m/model.ckpt-1200.meta"
    assert (NEW.num_shards, NEW.size_bytes) == (3, 28)
    assert WITHOUT_STEP.key == ".ckptd/final.A-_9.json"
    assert WITHOUT_STEP.shard_keys == ["final.data-00000-of-00001"]


def test_a_later_releases_fields_are_passed_over() -> None:
    fields = json.loads(NEW.encode()) | {"colour": "green", "nested": {"a": [1]}}
    assert Record.decode(json.dumps(fields).encode(), NEW.key) == NEW


def test_an_earlier_releases_record_says_that_its_owner_writes_all() -> None:
    fields = json.loads(NEW.encode())
    for later in ("writers", "layout_digest", "term", "aborted_at"):
        del fields[later]
    assert Record.decode(json.dumps(fields).encode(), NEW.key) == NEW


def test_a_run_that_was_moved_keeps_its_records() -> None:
    assert Record.decode(NEW.encode(), "elsewhere/.ckptd/model.ckpt-1200.abc.json") == replace(NEW, run="elsewhere")


BAD = [
    b"",
    b"\xff\xfe",
    b"[]",
    b'"x"',
    b"{",
    b"{}",
    b'{"format": 2}',
    b'{"format": 1}',
    b"[" * 100_000,
    *(
        json.dumps(json.loads(NEW.encode()) | changes).encode()
        for changes in (
            {"save_id": "../x"},
            {"retention": "newest"},
            {"max_to_keep": -1},
            {"keep_hours": 0.0},
            {"save_id": ""},
            {"save_id": None},
            {"sequence": "7"},
            {"sequence": True},
            {"prefix": "../../etc/passwd"},
            {"prefix": "other-1"},
            {"prefix": ".."},
            {"shard_sizes": []},
            {"shard_sizes": [-1]},
            {"shard_sizes": [1.5]},
            {"shard_sizes": 3},
            {"published": 1},
            {"began_at": "now"},
            {"latest_filename": "a/b"},
            {"meta_suffix": "x/../../y"},
            {"writers": [1]},
            {"writers": "h1"},
            {"layout_digest": "0F" * 32},
            {"term": -1},
            {"aborted_at": "now"},
        )
    ),
]


@pytest.mark.parametrize("data", BAD)
def test_a_bad_record_is_corruption_that_names_its_key(data: bytes) -> None:
    with pytest.raises(CorruptionError) as caught:
        Record.decode(data, NEW.key)
    assert caught.value.key == NEW.key


def test_a_record_at_another_key_proves_nothing() -> None:
    with pytest.raises(CorruptionError):
        Record.decode(NEW.encode(), "runs/m/.ckptd/model.ckpt-1300.abc.json")


@pytest.mark.parametrize("changes", [{"save_id": "a/b"}, {"save_id": "x" * 65}, {"shard_sizes": ()}, {"prefix": ""}])
def test_a_record_that_could_not_be_read_back_is_not_made(changes: dict[str, object]) -> None:
    with pytest.raises(InvalidRequestError):
        replace(NEW, **changes)  # type: ignore[arg-type]


def test_loading_gives_the_order_of_beginning_and_tells_of_bad_ones() -> None:
    store = MemoryStore()
    later = replace(NEW, save_id="zzz", sequence=9)
    earlier = replace(NEW, save_id="zz", sequence=8)
    for record in (NEW, later, earlier):
        store.put(record.key, record.encode())
    store.put("runs/m/.ckptd/bad.x.json", b"{")
    store.put("runs/m/.ckptd/note.txt", b"")
    store.put("runs/m/.ckptd/deeper/x.json", b"")
    loaded = records.load(store, "runs/m")
    assert loaded.found == [NEW, earlier, later]
    assert [error.key for error in loaded.unreadable] == ["runs/m/.ckptd/bad.x.json"]
    assert records.load(store, "nothing").found == []


def test_a_change_is_stored() -> None:
    store = MemoryStore()
    store.put(NEW.key, NEW.encode())
    changed = records.change(store, NEW, pinned=True)
    assert changed == replace(NEW, pinned=True)
    assert records.load(store, "runs/m").found == [changed]
