"""What every store must do. A test class inherits `StoreContract` and gives it a `store` fixture."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
)
from ckptd.storage.base import ObjectStat, Store

BAD_KEYS = [
    "",
    "/etc/passwd",
    "..",
    "../x",
    "a/../../x",
    "a/./b",
    ".",
    "a//b",
    "a/",
    "a\0b",
    "x" * 5000,
    ".m.index.0123456789abcdef0123456789abcdef.ckptd-tmp",
    "a/.daemon.ckptd-lock",
]
GOOD_KEYS = ["a", "runs/mnist/model.ckpt-1200.index", ".ckptd/x.json", "a b/ü", "a..b", "%2e%2e/x", "-", "~", "a\\b"]
GOOD_KEYS += ["a+b/c d+1", "run [1]/a[0-9]:{b} (c)", "%2B+%20 "]


def write_object(store: Store, key: str, data: bytes) -> None:
    writer = store.create(key, len(data))
    writer.write(0, data)
    writer.finish()


def same(one: ObjectStat, other: ObjectStat) -> bool:
    """Whether both describe the same object: what writing returns knows its time to a second or two."""
    return (one.key, one.size_bytes, one.version) == (other.key, other.size_bytes, other.version) and (
        abs(one.modified_at - other.modified_at) <= 2.0
    )


class StoreContract:
    """The promises of `ckptd.storage.base`, one test each."""

    EVERY_WRITE_IS_A_VERSION = True
    """Whether a version is new even if the bytes are the same; an ETag says no more than the bytes do."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError("each implementation gives its own")

    @pytest.fixture
    def listed_as(self) -> Callable[[str], str]:
        """Under which key an object is listed: some servers have ideas of their own about some characters."""
        return lambda key: key

    @pytest.mark.parametrize("key", GOOD_KEYS)
    def test_what_was_put_is_what_is_got(self, store: Store, key: str, listed_as: Callable[[str], str]) -> None:
        stat = store.put(key, b"seven b")
        assert store.get(key) == b"seven b"
        assert (stat.key, stat.size_bytes) == (key, 7)
        assert same(store.stat(key), stat)
        assert [each.key for each in store.list("")] == [listed_as(key)]

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_a_key_that_could_leave_the_root_is_refused_by_every_method(self, store: Store, key: str) -> None:
        calls = [
            lambda: store.put(key, b""),
            lambda: store.replace(key, b""),
            lambda: store.create(key, 0),
            lambda: store.get(key),
            lambda: store.stat(key),
            lambda: store.read_into(key, 0, memoryview(bytearray(1))),
            lambda: store.delete([key]),
            lambda: store.lock(key, holder="test"),
            lambda: store.location(key),
        ]
        for call in calls:
            with pytest.raises(InvalidRequestError):
                call()
        assert list(store.list("")) == []

    @pytest.mark.parametrize("directory", ["..", "/", "a/..", "a//b"])
    def test_a_directory_that_could_leave_the_root_is_refused(self, store: Store, directory: str) -> None:
        with pytest.raises(InvalidRequestError):
            list(store.list(directory))
        with pytest.raises(InvalidRequestError):
            store.sweep_unfinished(directory)

    def test_put_never_replaces(self, store: Store) -> None:
        store.put("k", b"first")
        with pytest.raises(ConflictError) as caught:
            store.put("k", b"second")
        assert caught.value.key == "k"
        assert store.get("k") == b"first"

    def test_finish_never_replaces_and_leaves_nothing_behind(self, store: Store) -> None:
        writer = store.create("d/k", 3)
        writer.write(0, b"new")
        store.put("d/k", b"old")
        with pytest.raises(ConflictError):
            writer.finish()
        assert store.get("d/k") == b"old"
        assert store.sweep_unfinished("d") == []

    @pytest.mark.parametrize("how", ["put", "create"])
    def test_of_many_who_race_to_create_exactly_one_wins(self, store: Store, how: str) -> None:
        def race(number: int) -> int | None:
            data = str(number).encode() * 100
            start.wait(timeout=120)
            try:
                if how == "put":
                    store.put("d/k", data)
                else:
                    write_object(store, "d/k", data)
            except ConflictError:
                return None
            return number

        start = threading.Barrier(16)
        with ThreadPoolExecutor(16) as pool:
            winners = [number for number in pool.map(race, range(16)) if number is not None]
        assert len(winners) == 1
        assert store.get("d/k") == str(winners[0]).encode() * 100
        assert store.sweep_unfinished("d") == []

    def test_an_object_is_seen_whole_or_not_at_all(self, store: Store) -> None:
        writer = store.create("d/k", 6)
        writer.write(3, b"def")
        for call in (lambda: store.get("d/k"), lambda: store.stat("d/k")):
            with pytest.raises(NotFoundError):
                call()
        assert list(store.list("")) == []
        writer.write(0, b"abc")
        stat = writer.finish()
        assert store.get("d/k") == b"abcdef"
        assert same(stat, store.stat("d/k"))

    def test_readers_of_a_replaced_object_see_one_version_or_the_other(self, store: Store) -> None:
        versions = [bytes([letter]) * 70_000 for letter in b"abcdef"]
        store.replace("k", versions[0])
        seen: set[bytes] = set()
        stop = threading.Event()

        def read() -> None:
            while not stop.is_set():
                seen.add(store.get("k"))

        reader = threading.Thread(target=read)
        reader.start()
        for _ in range(5):
            for data in versions:
                store.replace("k", data)
        stop.set()
        reader.join(timeout=120)
        assert seen
        assert seen <= set(versions)

    def test_bytes_arrive_in_any_order_from_many_threads(self, store: Store) -> None:
        data = random.Random(1).randbytes(300_000)
        writer = store.create("k", len(data))
        pieces = list(range(0, len(data), 7001))
        random.Random(2).shuffle(pieces)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda at: writer.write(at, memoryview(data)[at : at + 7001]), pieces))
        writer.finish()
        assert store.get("k") == data

    def test_ranges_never_written_read_as_zeros(self, store: Store) -> None:
        writer = store.create("k", 10)
        writer.write(4, b"ab")
        writer.finish()
        assert store.get("k") == b"\0\0\0\0ab\0\0\0\0"

    @pytest.mark.parametrize(("offset", "data"), [(-1, b"a"), (10, b"a"), (8, b"abc"), (1 << 62, b"a")])
    def test_bytes_outside_the_object_are_refused(self, store: Store, offset: int, data: bytes) -> None:
        writer = store.create("k", 10)
        with pytest.raises(InvalidRequestError):
            writer.write(offset, data)
        writer.finish()
        assert store.get("k") == bytes(10)

    def test_an_empty_object_is_an_object(self, store: Store) -> None:
        store.create("made", 0).finish()
        store.put("put", b"")
        assert (store.get("made"), store.get("put")) == (b"", b"")
        store.read_into("made", 0, memoryview(bytearray()))

    def test_an_aborted_writer_leaves_nothing(self, store: Store) -> None:
        writer = store.create("d/k", 3)
        writer.write(0, b"abc")
        writer.abort()
        writer.abort()
        for call in (lambda: writer.write(0, b"x"), writer.finish):
            with pytest.raises(ConflictError):
                call()
        assert list(store.list("")) == []
        assert store.sweep_unfinished("d") == []
        store.put("d/k", b"free")

    def test_a_finished_writer_is_finished(self, store: Store) -> None:
        writer = store.create("k", 1)
        writer.finish()
        for call in (lambda: writer.write(0, b"x"), writer.finish):
            with pytest.raises(ConflictError):
                call()
        writer.abort()
        assert store.get("k") == b"\0"

    def test_replace_creates_and_replaces(self, store: Store) -> None:
        first = store.replace("d/k", b"one")
        second = store.replace("d/k", b"two")
        assert store.get("d/k") == b"two"
        assert first.version != second.version

    def test_a_conditional_replace_wants_the_very_version(self, store: Store) -> None:
        first = store.put("k", b"one")
        second = store.replace("k", b"two", if_version=first.version)
        with pytest.raises(ConflictError):
            store.replace("k", b"three", if_version=first.version)
        assert store.get("k") == b"two"
        store.delete(["k"])
        with pytest.raises(ConflictError):
            store.replace("k", b"four", if_version=second.version)
        assert list(store.list("")) == []

    def test_a_version_is_new_even_if_the_bytes_are_the_same(self, store: Store) -> None:
        versions = {store.replace("k", b"same").version for _ in range(20)}
        assert len(versions) == (20 if self.EVERY_WRITE_IS_A_VERSION else 1)

    def test_of_many_conditional_replaces_exactly_one_wins(self, store: Store) -> None:
        version = store.put("k", b"start").version

        def race(number: int) -> bool:
            start.wait(timeout=120)
            try:
                store.replace("k", str(number).encode(), if_version=version)
            except ConflictError:
                return False
            return True

        start = threading.Barrier(16)
        with ThreadPoolExecutor(16) as pool:
            assert sum(pool.map(race, range(16))) == 1

    def test_any_range_can_be_read(self, store: Store) -> None:
        store.put("k", bytes(range(100)))
        for offset, size in [(0, 100), (0, 1), (99, 1), (37, 20), (100, 0), (50, 0)]:
            into = bytearray(size)
            store.read_into("k", offset, memoryview(into))
            assert into == bytes(range(offset, offset + size))

    def test_several_memories_are_filled_one_after_another(self, store: Store) -> None:
        store.put("k", bytes(range(100)))
        sizes = (10, 0, 1, 39)
        into = [bytearray(size) for size in sizes]
        store.read_into("k", 7, *map(memoryview, into))
        assert b"".join(into) == bytes(range(7, 57))
        assert tuple(map(len, into)) == sizes
        with pytest.raises(CorruptionError):
            store.read_into("k", 51, *map(memoryview, into))

    @pytest.mark.parametrize(("offset", "size"), [(0, 101), (100, 1), (1000, 1), (1 << 40, 5), (101, 0)])
    def test_a_range_beyond_the_end_is_corruption(self, store: Store, offset: int, size: int) -> None:
        store.put("k", bytes(100))
        with pytest.raises(CorruptionError) as caught:
            store.read_into("k", offset, memoryview(bytearray(size)))
        assert caught.value.key == "k"

    def test_an_object_larger_than_the_limit_is_not_read(self, store: Store) -> None:
        store.put("k", bytes(100))
        assert store.get("k", limit_bytes=100) == bytes(100)
        with pytest.raises(CorruptionError):
            store.get("k", limit_bytes=99)

    def test_what_is_not_there_is_not_found(self, store: Store) -> None:
        store.put("a/b", b"")
        for key in ("k", "a/c", "x/y/z", "a/b/c", "a"):
            for call in (store.get, store.stat, lambda key: store.read_into(key, 0, memoryview(bytearray(1)))):
                with pytest.raises(NotFoundError) as caught:
                    call(key)
                assert caught.value.key == key

    def test_objects_are_listed_with_what_stat_says_those_of_a_directory_in_key_order(self, store: Store) -> None:
        keys = ["b/x.y/z", "b/x/1", "b-1", "a", "b/y", "c/d/e"]
        for key in keys:
            store.put(key, key.encode())
        assert sorted(each.key for each in store.list("")) == sorted(keys)
        assert all(same(each, store.stat(each.key)) for each in store.list(""))
        assert sorted(each.key for each in store.list("b")) == ["b/x.y/z", "b/x/1", "b/y"]
        assert [each.key for each in store.list("b/x")] == ["b/x/1"]
        assert [each.key for each in store.list("b", deep=False)] == ["b/y"]
        assert [each.key for each in store.list("", deep=False)] == ["a", "b-1"]
        assert list(store.list("nothing/here")) == []
        assert list(store.keys("")) == ["a", "b-1"]
        assert list(store.keys("b")) == ["b/y"]
        assert list(store.keys("nothing/here")) == []
        assert list(store.keys("", "b")) == ["b-1"]
        assert list(store.keys("b", "y")) == ["b/y"]
        assert list(store.keys("b", "x")) == []

    def test_unfinished_objects_and_locks_are_no_keys(self, store: Store) -> None:
        store.put("d/one", b"")
        writer = store.create("d/two", 1)
        with store.lock("d/daemon", holder="me"):
            assert list(store.keys("d")) == ["d/one"]
        writer.abort()

    def test_locks_are_not_objects(self, store: Store) -> None:
        with store.lock("d/daemon", holder="me"):
            assert list(store.list("")) == []

    def test_deleting_is_harmless_when_repeated(self, store: Store) -> None:
        for key in ("a", "d/b", "d/c"):
            store.put(key, b"")
        store.delete(["d/b", "a", "nothing", "x/y", "a"])
        store.delete([])
        assert [each.key for each in store.list("")] == ["d/c"]

    def test_sweeping_leaves_living_writers_and_other_objects_alone(self, store: Store) -> None:
        store.put("d/done", b"")
        writer = store.create("d/k", 1)
        assert store.sweep_unfinished("d") == []
        assert store.sweep_unfinished("nothing") == []
        writer.finish()
        assert [each.key for each in store.list("d")] == ["d/done", "d/k"]

    def test_a_lock_keeps_the_second_out_and_names_the_first(self, store: Store) -> None:
        first = store.lock("daemon", holder="ckptd, pid 4711")
        for shared in (False, True):
            with pytest.raises(ConflictError) as caught:
                store.lock("daemon", holder="another", shared=shared)
            assert caught.value.actual == "ckptd, pid 4711"
        store.lock("other", holder="another").release()
        first.release()
        first.release()
        with store.lock("daemon", holder="a later one"), pytest.raises(ConflictError) as caught:
            store.lock("daemon", holder="too late")
        assert caught.value.actual == "a later one"

    def test_shared_locks_share_and_keep_an_exclusive_one_out(self, store: Store) -> None:
        one, two = (store.lock("k", holder="reader", shared=True) for _ in range(2))
        one.release()
        with pytest.raises(ConflictError):
            store.lock("k", holder="writer")
        two.release()
        store.lock("k", holder="writer").release()

    def test_locations_begin_with_the_store(self, store: Store) -> None:
        assert store.location("a/b").startswith(store.url)
        assert store.location("a/b").endswith("/a/b")

    def test_every_error_is_ours(self, store: Store) -> None:
        store.put("file", b"")
        for call in (
            lambda: store.put("file/below", b""),
            lambda: store.get("file/below"),
            lambda: store.create("file/below", 1),
        ):
            try:
                call()
            except CkptdError:
                continue
