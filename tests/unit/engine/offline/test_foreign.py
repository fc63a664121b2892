from __future__ import annotations

import itertools

import pytest

from ckptd.engine.catalog import survey
from ckptd.engine.offline import foreign
from ckptd.errors import ConflictError, CorruptionError, NotFoundError
from ckptd.format.state_file import CheckpointState
from ckptd.storage.memory import MemoryStore
from tests.fakes.small_checkpoint import index_bytes, seed_of, shard_bytes


class StoppedError(Exception):
    pass


def put(store, prefix, num_shards=2):
    for shard in range(num_shards):
        store.put(f"{prefix}.data-{shard:05d}-of-{num_shards:05d}", shard_bytes(1, shard))
    store.put(f"{prefix}.index", index_bytes(1, num_shards))
    store.put(f"{prefix}.meta", b"graph")


@pytest.fixture
def store():
    """Give what a Saver leaves: three checkpoints, a state file, and one of another name."""
    store = MemoryStore("foreign")
    paths = tuple(f"m-{step}" for step in (1, 2, 3))
    for path in paths:
        put(store, path)
    store.put("checkpoint", CheckpointState("m-3", paths, (1.0, 2.0, 3.0), 0.5).encode())
    store.put("checkpoint_best", CheckpointState("m-2", ("m-2",)).encode())
    store.put("notes.txt", b"model_checkpoint_pathology")
    return store


def content(store):
    return {stat.key: store.get(stat.key) for stat in store.list("")}


def test_state_files_are_known_by_what_they_say(store):
    assert set(foreign.state_files(store, "")) == {"checkpoint", "checkpoint_best"}
    assert foreign.named_as_latest(store, "") == {store.location("m-2"), store.location("m-3")}


def test_a_state_file_may_be_as_long_as_any(store):
    """A Saver that keeps all names thousands: what it calls the latest is the latest all the same."""
    paths = tuple(f"runs/of/a/year/model.ckpt-{step:08d}" for step in range(40_000))
    long = CheckpointState("m-2", paths).encode()
    assert len(long) > 1 << 20
    store.put("long", long)
    assert "long" in foreign.state_files(store, "")


def test_one_leaves_the_state_file_with_its_time_and_all_its_files_go(store):
    foreign.delete(store, "m-1")
    assert not [key for key in content(store) if key.startswith("m-1")]
    assert store.get("checkpoint") == CheckpointState("m-3", ("m-2", "m-3"), (2.0, 3.0), 0.5).encode()
    assert store.get("checkpoint_best") == CheckpointState("m-2", ("m-2",)).encode()


def test_a_latest_one_stays_unless_it_is_meant(store):
    before = content(store)
    for prefix in ("m-2", "m-3"):
        with pytest.raises(ConflictError, match="latest"):
            foreign.delete(store, prefix)
    assert content(store) == before
    foreign.delete(store, "m-2", even_latest=True)
    assert "checkpoint_best" not in content(store)
    foreign.delete(store, "m-3", even_latest=True)
    assert store.get("checkpoint") == CheckpointState("m-1", ("m-1",), (1.0,), 0.5).encode()


def test_the_latest_is_followed_by_one_that_is_complete(store):
    store.delete(["m-2.data-00001-of-00002"])
    foreign.delete(store, "m-3", even_latest=True)
    assert store.get("checkpoint") == CheckpointState("m-1", ("m-1", "m-2"), (1.0, 2.0), 0.5).encode()


def test_what_cannot_be_read_or_is_not_there_is_not_guessed_at(store):
    store.replace("m-1.index", b"rubbish" * 20)
    before = content(store)
    with pytest.raises(CorruptionError):
        foreign.delete(store, "m-1")
    with pytest.raises(NotFoundError):
        foreign.delete(store, "m-7")
    assert content(store) == before


@pytest.mark.parametrize(("prefix", "even_latest"), [("m-1", False), ("m-3", True)])
def test_a_crash_at_any_step_leaves_the_latest_whole_and_repeating_finishes(prefix, even_latest):
    for n in itertools.count():
        fresh = MemoryStore(f"foreign-{n}")
        paths = ("m-1", "m-2", "m-3")
        for path in paths:
            put(fresh, path)
        fresh.put("checkpoint", CheckpointState("m-3", paths).encode())
        steps = itertools.count()

        def stop(step, steps=steps, n=n):
            if next(steps) == n:
                raise StoppedError(step)

        try:
            foreign.delete(fresh, prefix, even_latest=even_latest, on_step=stop)
            break
        except StoppedError:
            pass
        latest = survey.latest_checkpoint(fresh, "")
        assert latest is not None
        seed_of(content(fresh), latest.prefix.rpartition("/")[2])
    assert n == 3
