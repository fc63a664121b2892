from __future__ import annotations

import pytest

from ckptd.engine.catalog import listed, survey
from ckptd.engine.catalog.catalog import Catalog, latest_checkpoint, list_checkpoints
from ckptd.errors import CorruptionError
from ckptd.storage.memory import MemoryStore
from tests.fakes.clock import HandClock
from tests.fakes.small_checkpoint import index_bytes, shard_bytes


def put_foreign(store: MemoryStore, prefix: str, seed: int, num_shards: int = 1) -> None:
    for shard in range(num_shards):
        store.put(f"{prefix}.data-{shard:05d}-of-{num_shards:05d}", shard_bytes(seed, shard))
    store.put(f"{prefix}.index", index_bytes(seed, num_shards))


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore("m")
    for step in (200, 30, 1000):
        put_foreign(store, f"d/m-{step}", step, 2)
    put_foreign(store, "d/final", 1)
    put_foreign(store, "d/below/m-1", 1)
    store.put("d/m-5.index", index_bytes(5, 3))
    store.put("d/m-6.index", b"rotten")
    store.put("d/notes.txt", b"")
    store.put("d/checkpoint", b'model_checkpoint_path: "m-200"\nall_model_checkpoint_paths: "m-30"\n')
    return store


def test_a_directory_that_another_program_wrote_is_listed_by_step(store: MemoryStore) -> None:
    found = list_checkpoints(store, "d")
    assert [(each.step, each.prefix.rpartition("/")[2]) for each in found] == [
        (30, "m-30"),
        (200, "m-200"),
        (1000, "m-1000"),
        (None, "final"),
    ]
    assert [(each.size_bytes, each.num_shards, each.save_id) for each in found[:1]] == [(28, 2, "")]
    assert list_checkpoints(store, "nothing") == []


def test_a_survey_says_what_is_listed_and_what_is_wrong(store: MemoryStore) -> None:
    found = {each.checkpoint.prefix.rpartition("/")[2]: each for each in survey.survey(store, "d")}
    assert {name for name, each in found.items() if each.is_listed} == {"m-30", "m-200"}
    assert {name for name, each in found.items() if each.is_latest} == {"m-200"}
    assert {name: str(each.problem) for name, each in found.items() if each.problem} == {
        "m-5": "shard d/m-5.data-00000-of-00003 is missing",
        "m-6": "its index cannot be decoded",
    }


def test_the_latest_is_what_the_state_file_names(store: MemoryStore) -> None:
    latest = latest_checkpoint(store, "d")
    assert latest is not None
    assert (latest.prefix, latest.step) == ("memory://m/d/m-200", 200)
    assert latest_checkpoint(store, "d/below") is None


def test_a_malformed_state_file_is_an_error_but_the_files_can_be_listed(store: MemoryStore) -> None:
    store.replace("d/checkpoint", b"???")
    for call in (latest_checkpoint, survey.survey):
        with pytest.raises(CorruptionError) as caught:
            call(store, "d")
        assert caught.value.key == "d/checkpoint"
    assert len(list_checkpoints(store, "d")) == 4


def test_readers_see_of_our_checkpoints_what_their_owner_sees() -> None:
    store, clock = MemoryStore("m"), HandClock()
    catalog = Catalog(store, "run", clock=clock)
    record = catalog.draft("m", 1, save_id="x", shard_sizes=[16])
    catalog.begin(record)
    store.put(record.shard_keys[0], shard_bytes(1, 0))
    assert list_checkpoints(store, "run") == []
    done = catalog.commit(record, index_bytes(1, 1), duration_s=2.0)
    catalog.retire()
    catalog.edits.pin(1)
    assert [latest_checkpoint(store, "run")] == list_checkpoints(store, "run") == catalog.contents.checkpoints()
    assert catalog.contents.checkpoints()[0].duration_s == done.duration_s


@pytest.mark.parametrize(
    ("path", "key"),
    [
        ("m-1", "d/m-1"),
        ("./m-1", "d/m-1"),
        ("../e/m-1", "e/m-1"),
        ("../../m-1", None),
        ("memory://m/d/m-1", "d/m-1"),
        ("memory://other/m-1", None),
        ("/abs/m-1", None),
        ("..", None),
    ],
)
def test_a_path_in_a_state_file_leads_to_a_key_or_elsewhere(path: str, key: str | None) -> None:
    assert listed.resolve(MemoryStore("m"), "d", path) == key
