from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.engine.offline.copying import copy_checkpoint
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.verify import verify
from ckptd.errors import ConflictError, CorruptionError, InvalidRequestError, NotFoundError, StorageFullError
from ckptd.format.index import Index
from ckptd.format.names import parse_shard_key
from ckptd.storage.base import ObjectWriter
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.memory import MemoryStore
from tests.conformance.bundle_files import FIXTURES, BundleWriter, halves

ARRAYS = {
    "w": np.arange(6000, dtype=np.float32).reshape(60, 100),
    "b": np.arange(100, dtype=np.float64),
    "names": np.array([b"one", b"", b"three" * 50], object),
    "nothing": np.zeros((0, 3), np.int32),
    "step": np.array(7),
}

CHECKPOINTS = sorted(
    path.with_suffix("")
    for folder in (
        "dtypes",
        "shapes",
        "strings",
        "sharded_saver",
        "object_max_shard",
        "partitioned_grid",
        "merge_of_merges",
    )
    for path in (FIXTURES / "tf" / folder).glob("*.index")
)


def files_of(store: MemoryStore | LocalStore, key: str) -> dict[str, bytes]:
    return {stat.key[len(key) :]: store.get(stat.key) for stat in store.list("") if stat.key.startswith(key + ".")}


def arrays_of(store: MemoryStore | LocalStore, key: str) -> dict[str, bytes]:
    bundle = Bundle.open(store, key)
    return {name: repr(bundle.read(name).tolist()).encode() for name in bundle.names()}


@pytest.fixture
def source(tmp_path):
    writer = BundleWriter(tmp_path / "m-5", num_shards=2)
    for name, array in ARRAYS.items():
        if name == "w":
            writer.add_boxes(name, array, halves(array.shape, 1))
        else:
            writer.add(name, array, shard=len(name) % 2)
    writer.shards[1] += b"nobody's bytes"
    writer.finish()
    (tmp_path / "m-5.meta").write_bytes(b"a graph")
    return LocalStore(str(tmp_path))


@pytest.mark.parametrize("prefix", CHECKPOINTS, ids=lambda prefix: prefix.parent.name)
def test_what_tensorflow_wrote_is_copied_byte_for_byte_and_resharded_value_for_value(prefix):
    source, store = LocalStore(str(prefix.parent)), MemoryStore("copies")
    copy_checkpoint(source, prefix.name, store, "copy")
    assert files_of(store, "copy") == files_of(source, prefix.name)
    for count in (1, 3):
        copied = copy_checkpoint(source, prefix.name, store, f"in-{count}", num_shards=count)
        assert copied.num_shards <= count
        assert arrays_of(store, f"in-{count}") == arrays_of(source, prefix.name)
        assert verify(store, f"in-{count}").ok


def test_a_copy_has_every_byte_the_gaps_and_the_graph_description(source):
    store = MemoryStore("copies")
    seen = []
    copied = copy_checkpoint(source, "m-5", store, "runs/a/m-5", progress=lambda *both: seen.append(both))
    assert files_of(store, "runs/a/m-5") == files_of(source, "m-5")
    assert (copied.step, copied.num_shards, copied.prefix) == (5, 2, store.location("runs/a/m-5"))
    assert seen[-1] == (copied.size_bytes, copied.size_bytes)


@pytest.mark.parametrize("count", [1, 2, 3, 50])
def test_resharding_balances_and_keeps_every_checksum(source, count):
    store = MemoryStore("copies")
    copied = copy_checkpoint(source, "m-5", store, "m-5", num_shards=count)
    old, new = (Bundle.open(each, "m-5").index for each in (source, store))
    assert new.num_shards == copied.num_shards <= count
    for name in old:
        assert [p.crc32c for p in new.tensor(name).pieces] == [p.crc32c for p in old.tensor(name).pieces]
    assert arrays_of(store, "m-5") == arrays_of(source, "m-5")
    assert verify(store, "m-5").problems == ()
    assert copied.size_bytes == sum(piece.size for name in old for piece in old.tensor(name).pieces)
    assert all(stat.size_bytes for stat in store.list("") if parse_shard_key(stat.key))


def test_nothing_is_overwritten_unless_that_is_asked_for(source):
    store = MemoryStore("copies")
    copy_checkpoint(source, "m-5", store, "m-5", num_shards=1)
    before = files_of(store, "m-5")
    with pytest.raises(ConflictError, match="already"):
        copy_checkpoint(source, "m-5", store, "m-5")
    assert files_of(store, "m-5") == before


@pytest.mark.parametrize("wanted", [None, 1, 2])
def test_an_overwrite_takes_fresh_keys_and_leaves_nothing_of_the_old_one(source, tmp_path, wanted):
    store = LocalStore(str(tmp_path / "there"))
    ckptd.save_checkpoint(str(tmp_path / "there" / "m-5"), {"other": np.ones(10), "another": np.ones(10)}, num_shards=2)
    copied = copy_checkpoint(source, "m-5", store, "m-5", num_shards=wanted, overwrite=True)
    assert copied.num_shards == {None: 3, 1: 1, 2: 3}[wanted]
    assert arrays_of(store, "m-5") == arrays_of(source, "m-5")
    assert verify(store, "m-5").problems == ()
    assert len(files_of(store, "m-5")) == copied.num_shards + 2


def test_wherever_an_overwrite_stops_one_of_both_is_whole(source, tmp_path):
    """Stopped as by kill -9: nothing cleans up, not even ourselves."""
    new = arrays_of(source, "m-5")
    for number in range(20):
        store = MemoryStore(f"stopped-{number}")
        copy_checkpoint(LocalStore(str(FIXTURES / "tf" / "single_var")), "model.ckpt", store, "m-5")
        old = arrays_of(store, "m-5")
        steps = iter(range(number))

        def stop(step: str, steps=steps, store=store) -> None:
            if next(steps, None) is None:
                store.delete = lambda keys: None  # we are dead
                raise KeyboardInterrupt(step)

        try:
            copy_checkpoint(source, "m-5", store, "m-5", overwrite=True, on_step=stop)
        except KeyboardInterrupt:
            assert arrays_of(store, "m-5") in (old, new)
            continue
        assert arrays_of(store, "m-5") == new
        assert number > 4
        return
    pytest.fail("it never ended")


def test_a_damaged_source_is_never_committed(source, tmp_path):
    sound = (tmp_path / "m-5.data-00000-of-00002").read_bytes()
    index = Index.decode((tmp_path / "m-5.index").read_bytes())
    for name in ("w", "b", "names"):
        piece = index.tensor(name).pieces[0]
        path = tmp_path / f"m-5.data-{piece.shard_id:05d}-of-00002"
        data = bytearray(path.read_bytes())
        data[piece.offset + piece.size - 1] ^= 1
        sound = path.read_bytes()
        path.write_bytes(data)
        for count in (None, 1):
            store = MemoryStore("empty")
            with pytest.raises(CorruptionError, match="checksum") as caught:
                copy_checkpoint(source, "m-5", store, "m-5", num_shards=count)
            assert repr(name) in f"{caught.value} {getattr(caught.value, '__notes__', '')}"
            assert list(store.list("")) == []
        path.write_bytes(sound)


def test_a_full_destination_is_left_as_it_was(source):
    class Full(MemoryStore):
        def create(self, key: str, size_bytes: int) -> ObjectWriter:
            if "data-00001" in key:
                raise StorageFullError("no room", key=key)
            return super().create(key, size_bytes)

    store = Full("full")
    with pytest.raises(StorageFullError):
        copy_checkpoint(source, "m-5", store, "m-5")
    assert list(store.list("")) == []


def test_a_failed_commit_takes_away_what_it_put_and_nothing_else(source):
    store = MemoryStore("there")
    store.put("m-5.meta", b"somebody's")
    with pytest.raises(ConflictError):
        copy_checkpoint(source, "m-5", store, "m-5")
    assert [stat.key for stat in store.list("")] == ["m-5.meta"]


def test_a_copy_may_be_published_as_the_latest(source, tmp_path):
    there = tmp_path / "there"
    store = LocalStore(str(there))
    for key in ("m-1", "m-2", "m-1"):
        copy_checkpoint(source, "m-5", store, key, overwrite=True, publish=True)
    assert ckptd.latest_checkpoint(str(there)) == str(there / "m-1")
    state = ckptd.get_checkpoint_state(str(there))
    assert state.all_model_checkpoint_paths == (str(there / "m-2"), str(there / "m-1"))


def test_a_trainers_directory_is_not_published_in_behind_its_back(source, tmp_path):
    with ckptd.Checkpointer(str(tmp_path / "root"), run="a", rank=0, world_size=1) as checkpointer:
        checkpointer.save(1, {"x": np.ones(3)}).result(timeout=120)
        with pytest.raises(ConflictError):
            copy_checkpoint(source, "m-5", LocalStore(str(tmp_path / "root" / "a")), "m-5", publish=True)
        assert checkpointer.latest().step == 1


def test_requests_that_make_no_sense_are_refused(source):
    with pytest.raises(InvalidRequestError, match="onto itself"):
        copy_checkpoint(source, "m-5", source, "m-5", overwrite=True)
    with pytest.raises(InvalidRequestError, match="one shard"):
        copy_checkpoint(source, "m-5", MemoryStore("x"), "m-5", num_shards=0)
    with pytest.raises(NotFoundError):
        copy_checkpoint(source, "m-6", MemoryStore("x"), "m-5")
