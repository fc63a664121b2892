"""What `Checkpointer` promises, over both transports: this process, and a daemon."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import ckptd
from ckptd import Checkpointer, Slice
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import (
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    UnavailableError,
)
from tests import seams
from tests.fakes.waiting import eventually

BOUND_S = 60.0
W = np.arange(12, dtype=np.float32).reshape(3, 4)


@pytest.fixture(params=["direct", "daemon", "unix", "through the daemon"])
def place(request, tmp_path, monkeypatch):
    """An address, and the directory behind it."""
    root = tmp_path / "root"
    if request.param == "direct":
        yield str(root), root
        return
    from tests.unit.client.served import Daemon

    if request.param == "through the daemon":
        # A client that does not see the daemon's directory.
        seams.OPEN_STORE_OF_DAEMON.put(monkeypatch, lambda url, **_: (_ for _ in ()).throw(NotFoundError(url)))
    listen = "127.0.0.1:0" if request.param != "unix" else f"unix://{tmp_path}/s"
    daemon = Daemon(root, listen)
    yield daemon.address, root
    daemon.stop()


@pytest.fixture
def address(place):
    return place[0]


def open_run(address, **options):
    return Checkpointer(address, run="runs/a", **{"timeout_s": BOUND_S, **options})


def test_what_was_saved_is_restored(address, place):
    arrays = {"w": W, "step": 7, "s": ["a", "bc"], "big": np.arange(3_000_000, dtype=np.float32), "e": np.zeros((0, 2))}
    with open_run(address) as ckpt:
        assert ckpt.latest() is None
        assert ckpt.checkpoints() == []
        done = ckpt.save(7, arrays).result(BOUND_S)
        assert (done.step, done.num_shards, done.pinned) == (7, 1, False)
        assert done.prefix == str(place[1] / "runs/a/model.ckpt-7")
        assert done.size_bytes == 48 + 8 + 9 + 12_000_000
        assert done.duration_s > 0
        assert ckpt.latest() == done
        restored = ckpt.restore()
        assert sorted(restored) == sorted(arrays)
        assert (restored["w"] == W).all()
        assert restored["step"] == 7
        assert restored["s"].tolist() == [b"a", b"bc"]
        assert (restored["big"] == arrays["big"]).all()
        assert restored["e"].shape == (0, 2)
    assert ckptd.verify(str(place[1] / "runs/a")).ok


def test_the_arrays_may_be_changed_as_soon_as_save_returns(address):
    array = np.zeros(1_000_000)
    with open_run(address) as ckpt:
        pending = []
        for step in range(4):
            array[:] = step
            pending.append(ckpt.save(step, {"a": array}))
            array[:] = -1
        for step, one in enumerate(pending):
            one.result(BOUND_S)
            assert (ckpt.restore(step)["a"] == step).all()
        assert [checkpoint.step for checkpoint in ckpt.checkpoints()] == [0, 1, 2, 3]


def test_names_slices_and_into(address):
    with open_run(address) as ckpt:
        ckpt.save(1, {"w": W, "v": -W}).result(BOUND_S)
        assert list(ckpt.restore(names=["v"])) == ["v"]
        into = np.zeros((2, 2), np.float32)
        restored = ckpt.restore(1, {"w": "weights"}, {"weights": ((1, 1), (2, 2))}, {"weights": into})
        assert list(restored) == ["weights"]
        assert restored["weights"] is into
        assert (into == W[1:3, 1:3]).all()


REFUSED = {
    "step": ({"step": 9}, NotFoundError, "no checkpoint of step 9; the newest are 1"),
    "name": ({"names": ["wieghts"]}, NotFoundError, "Key wieghts not found in checkpoint; did you mean 'weights'"),
    "capitals": ({"names": ["WEIGHTS"]}, NotFoundError, "did you mean 'weights'"),
    "a string for a list": ({"names": "weights"}, InvalidRequestError, "names is a list"),
    "one name twice": (
        {"names": {"weights": "x", "v": "x"}},
        InvalidRequestError,
        "'weights' and 'v', are to be named",
    ),
    "slices": ({"slices": {"weigths": ((0,), (1,))}}, InvalidRequestError, "'weigths'.*did you mean 'weights'"),
    "no pair": ({"slices": {"weights": 3}}, InvalidRequestError, r"pair \(start, shape\)"),
    "beyond": ({"slices": {"weights": ((0, 0), (4, 4))}}, InvalidRequestError, "'weights'.*out of bounds"),
    "shape": ({"into": {"weights": W.T.copy()}}, InvalidRequestError, r"'weights'.*\[3, 4\].*\[4, 3\]"),
    "dtype": ({"into": {"weights": np.zeros((3, 4))}}, InvalidRequestError, "'weights'.*float32.*float64"),
    "no array": ({"into": {"weights": [0.0]}}, InvalidRequestError, "numpy array"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_a_restore_that_cannot_be_right_is_refused_by_name(tmp_path, arguments, kind, message):
    with open_run(str(tmp_path)) as ckpt:
        ckpt.save(1, {"weights": W, "v": W}).result(BOUND_S)
        with pytest.raises(kind, match=message):
            ckpt.restore(**arguments)


def test_an_opened_checkpoint_fills_boxes_of_arrays_and_stays_the_same(address):
    with Checkpointer(address, "r") as ckpt:
        ckpt.save(1, {"w": W, "n": 5}).result(BOUND_S)
        ckpt.save(2, {"w": -W, "n": 6}, name="best").result(BOUND_S)
        wanted = [(1, None, 1, 5), ("model.ckpt-1", None, 1, 5), (None, None, 1, 5), (2, "best", -1, 6)]
        for which, name, sign, n in [*wanted, ("best-2", None, -1, 6), (None, "best", -1, 6), (None, "*", -1, 6)]:
            reader = ckpt.reader(which, name=name)
            part, column, count = np.zeros((2, 2), np.float32), np.zeros((3, 1), np.float32), np.zeros((), np.int64)
            reader.fill([("w", (1, 2), part), ("n", (), count), ("w", (0, 3), column)])
            assert np.array_equal(part, sign * W[1:, 2:])
            assert np.array_equal(column, sign * W[:, 3:])
            assert count == n
        with pytest.raises(NotFoundError, match="step 2 of name 'model.ckpt'; there is one of best: pass name="):
            ckpt.reader(2)
        with pytest.raises(NotFoundError, match="did you mean 'best-2'"):
            ckpt.reader("bets-2")
        with pytest.raises(NotFoundError, match="Key x not found"):
            reader.fill([("x", (0,), np.zeros(1))])


def test_a_run_without_checkpoints_says_so(address):
    with open_run(address) as ckpt:
        with pytest.raises(NotFoundError, match="'runs/a' has no checkpoint yet"):
            ckpt.restore()
        with pytest.raises(NotFoundError, match="no checkpoint of step 3; it has none yet"):
            ckpt.restore(3)


def test_a_step_is_saved_once_unless_it_may_be_overwritten(address):
    with open_run(address) as ckpt:
        ckpt.save(1, {"a": np.zeros(3)}).result(BOUND_S)
        with pytest.raises(ConflictError, match="already saved"):
            ckpt.save(1, {"a": np.ones(3)}).result(BOUND_S)
        ckpt.save(1, {"a": np.ones(3)}, overwrite=True).result(BOUND_S)
        assert ckpt.restore()["a"].tolist() == [1, 1, 1]


def test_an_error_nobody_waited_for_is_raised_by_the_next_call_and_only_once(address):
    ckpt = open_run(address)
    ckpt.save(1, {"a": W}).result(BOUND_S)
    pending = ckpt.save(1, {"a": W})
    assert pending.wait(BOUND_S)
    with pytest.raises(ConflictError, match="already saved") as caught:
        ckpt.save(2, {"a": W})
    assert any("step 1" in note for note in caught.value.__notes__)
    ckpt.save(2, {"a": W}).result(BOUND_S)
    ckpt.close()


def test_an_error_nobody_waited_for_is_raised_by_close(address):
    ckpt = open_run(address)
    ckpt.save(1, {"a": W}).result(BOUND_S)
    ckpt.save(1, {"a": W})
    with pytest.raises(ConflictError, match="already saved"):
        ckpt.close()
    ckpt.close()
    for call in (ckpt.latest, lambda: ckpt.save(2, {"a": W}), ckpt.restore, ckpt.watch, lambda: ckpt.pin(1)):
        with pytest.raises(InvalidRequestError, match="closed"):
            call()


def test_the_error_of_the_program_is_not_hidden_by_one_of_a_save(address):
    with pytest.raises(ZeroDivisionError), open_run(address) as ckpt:
        ckpt.save(1, {"a": W}).result(BOUND_S)
        ckpt.save(1, {"a": W})
        raise ZeroDivisionError


def test_wait_raises_what_ended_a_save(address):
    with open_run(address) as ckpt:
        ckpt.wait()
        ckpt.save(1, {"a": W})
        ckpt.wait()
        ckpt.save(1, {"a": W})
        with pytest.raises(ConflictError):
            ckpt.wait()


def test_retention_pins_and_deletes(address):
    with open_run(address, max_to_keep=2) as ckpt:
        ckpt.save(1, {"a": W}).result(BOUND_S)
        assert ckpt.pin(1).pinned
        for step in (2, 3, 4):
            ckpt.save(step, {"a": W}).result(BOUND_S)
        eventually(lambda: [checkpoint.step for checkpoint in ckpt.checkpoints()] == [1, 3, 4])
        assert not ckpt.unpin(1).pinned
        ckpt.delete(3)
        assert 3 not in [checkpoint.step for checkpoint in ckpt.checkpoints()]
        with pytest.raises(NotFoundError):
            ckpt.pin(3)


def test_watching_tells_the_newest_and_then_each_newer_one(address):
    with open_run(address) as ckpt, open_run(address) as reader:
        ckpt.save(1, {"a": W}).result(BOUND_S)
        ckpt.save(2, {"a": W}).result(BOUND_S)
        news = reader.watch()
        assert next(news).step == 2
        ckpt.save(3, {"a": W}).result(BOUND_S)
        assert next(news).step == 3
        ended = threading.Event()
        thread = threading.Thread(target=lambda: (list(news), ended.set()))
        thread.start()
        reader.close()
        assert ended.wait(BOUND_S)
        thread.join(BOUND_S)


def test_boxes_of_a_step_that_is_saved_anew_while_they_are_read_are_all_of_one_save(tmp_path, monkeypatch):
    """Nothing sums a box: its index is compared once more when all of them are read: locks do not reach everywhere."""
    seams.HOLD_WHILE_READING.put(monkeypatch, lambda objects, key: None)
    root = str(tmp_path / "root")
    old, new = ({name: np.full(1000, value) for name in "abcd"} for value in (1.0, 2.0))
    with open_run(root) as ckpt:
        ckpt.save(5, old).result(BOUND_S)
        read_into = seams.READ_FROM_DISK.value
        num_reads = 0

        def interrupted(store, key, offset, *into):
            nonlocal num_reads
            num_reads += 1
            read_into(store, key, offset, *into)
            if num_reads == 1:
                ckpt.delete(5, for_good=True, even_latest=True)
                ckpt.save(5, new).result(BOUND_S)

        seams.READ_FROM_DISK.put(monkeypatch, interrupted)
        seams.HOLD_ON_DISK.put(monkeypatch, lambda store, key: None)  # as where locks do not reach
        with open_run(root) as reader:
            boxes = reader.restore(5, slices=dict.fromkeys("abcd", ([10], [20])))
    assert num_reads > 1
    assert {name: set(box.tolist()) for name, box in boxes.items()} == {name: {2.0} for name in "abcd"}


def test_a_checkpoint_that_is_deleted_while_it_is_read_gives_way_to_the_newer_one(tmp_path, monkeypatch):
    with open_run(str(tmp_path), max_to_keep=1) as ckpt:
        ckpt.save(1, {"a": np.full(3, 1.0)}).result(BOUND_S)
        opened = []

        class Late(Bundle):
            @classmethod
            def open(cls, objects, key):
                opened.append(key)
                if len(opened) == 1:
                    ckpt.save(2, {"a": np.full(3, 2.0)}).result(BOUND_S)
                    eventually(lambda: not (tmp_path / "runs/a/model.ckpt-1.index").exists())
                return Bundle.open(objects, key)

        seams.RESTORED_BUNDLE.put(monkeypatch, Late)
        assert ckpt.restore()["a"].tolist() == [2, 2, 2]
        assert opened == ["runs/a/model.ckpt-1", "runs/a/model.ckpt-2"]


def test_damage_is_not_mistaken_for_a_checkpoint_that_has_gone(address, place):
    with open_run(address) as ckpt:
        ckpt.save(1, {"a": W}).result(BOUND_S)
        shard = place[1] / "runs/a/model.ckpt-1.data-00000-of-00001"
        shard.chmod(0o644)
        shard.write_bytes(bytes(48))
        with pytest.raises(CorruptionError, match="'a'"):
            ckpt.restore()


def test_a_third_save_waits_for_the_first_and_not_for_ever(tmp_path, monkeypatch):
    free, begun = threading.Event(), threading.Semaphore(0)

    def slow(*arguments):
        begun.release()
        assert free.wait(BOUND_S)
        return real(*arguments)

    real = seams.CARRY_OUT.value
    seams.CARRY_OUT.put(monkeypatch, slow)
    ckpt = open_run(str(tmp_path), timeout_s=0.2)
    pending = [ckpt.save(1, {"a": W}), ckpt.save(2, {"a": W})]
    with pytest.raises(UnavailableError, match=r"the save of step 1 has not ended within 0\.2 s"):
        ckpt.save(3, {"a": W})
    free.set()
    for one in pending:
        one.exception(BOUND_S)
    assert ckpt.save(3, {"a": W}).wait(BOUND_S)
    ckpt.close()


WRONG = [
    pytest.param({"rank": 1, "world_size": 1}, "rank out of range", id="rank"),
    pytest.param({"rank": 0, "world_size": 2}, "several ranks need a daemon.*ckptd serve --root", id="world size"),
    pytest.param({"timeout_s": 0}, "timeout_s", id="timeout"),
    pytest.param({"name": "../x"}, "checkpoint name", id="name"),
    pytest.param({"max_to_keep": -1}, "max_to_keep", id="keep"),
    pytest.param({"latest_filename": "a/b"}, "latest_filename", id="latest_filename"),
    pytest.param({"run": "../up"}, "run name", id="run"),
]


@pytest.mark.parametrize(("options", "message"), WRONG)
def test_options_that_cannot_be_right_are_refused_at_once(tmp_path, options, message):
    with pytest.raises(InvalidRequestError, match=message):
        Checkpointer(str(tmp_path), **{"run": "r", **options})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("address", ["s3:///x", "grpc://host:port", "unix://relative"])
def test_addresses_that_lead_nowhere_are_refused_at_once(address):
    with pytest.raises(InvalidRequestError):
        Checkpointer(address, "r")


def test_rank_and_world_size_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    ckpt = Checkpointer("127.0.0.1:1", "r")
    assert (ckpt.rank, ckpt.world_size) == (2, 3)
    assert Checkpointer("127.0.0.1:1", "r", rank=0, world_size=1).world_size == 1
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(InvalidRequestError, match="RANK"):
        Checkpointer("127.0.0.1:1", "r")


@pytest.mark.parametrize("step", [-1, 1.5, "3", True, 1 << 63])
def test_a_step_is_a_whole_number(tmp_path, step):
    with open_run(str(tmp_path)) as ckpt, pytest.raises(InvalidRequestError, match="whole number"):
        ckpt.save(step, {"a": W})


def test_steps_may_be_numpys_and_may_be_left_out(address):
    with open_run(address) as ckpt:
        assert ckpt.save(np.int64(5), {"a": W}).result(BOUND_S).step == 5
        done = ckpt.save(None, {"a": W}).result(BOUND_S)
        assert done.step is None
        assert done.prefix.endswith("runs/a/model.ckpt")
        assert ckpt.latest() == done


def test_a_slice_alone_leaves_gaps_and_is_refused(address):
    with open_run(address) as ckpt, pytest.raises(InvalidRequestError, match="'w'"):
        ckpt.save(1, {"w": Slice(W, (6, 4), (0, 0))}).result(BOUND_S)


def modified(directory):
    files = [path for path in directory.rglob("*") if path.is_file() and not path.name.endswith(".ckptd-lock")]
    return {path: path.stat().st_mtime_ns for path in files}


def test_reading_changes_nothing(tmp_path):
    with open_run(str(tmp_path)) as writer:
        writer.save(1, {"a": W}).result(BOUND_S)
    files = modified(tmp_path)
    with open_run(str(tmp_path)) as reader:
        assert reader.latest().step == 1
        assert (reader.restore()["a"] == W).all()
        assert len(reader.checkpoints()) == 1
    assert modified(tmp_path) == files
    with open_run(str(tmp_path / "nothing")) as reader:
        assert reader.latest() is None
    assert not (tmp_path / "nothing").exists()


def test_readers_do_not_stand_in_the_way_of_the_one_who_saves(tmp_path, monkeypatch, another_process):
    seams.DIRECT_LOCK_WAIT_S.put(monkeypatch, 0.3)
    with open_run(str(tmp_path)) as reader, open_run(str(tmp_path)) as writer:
        assert reader.latest() is None
        writer.save(1, {"a": W}).result(BOUND_S)
        assert (reader.restore()["a"] == W).all()
        writer.save(2, {"a": W}).result(BOUND_S)
        another_process()
        with pytest.raises(ConflictError):
            reader.save(3, {"a": W}).result(BOUND_S)


def test_one_that_names_the_directory_otherwise_is_refused_in_words_that_help(tmp_path, monkeypatch):
    seams.DIRECT_LOCK_WAIT_S.put(monkeypatch, 0.3)
    first = Checkpointer(str(tmp_path), "a/r")
    first.save(1, {"a": W}).result(BOUND_S)
    with Checkpointer(str(tmp_path / "a"), "r") as second:
        with pytest.raises(ConflictError, match="another Checkpointer of this process, which names it by another root"):
            second.save(2, {"a": W}).result(BOUND_S)
        first.close()
        assert second.save(2, {"a": W}).result(BOUND_S).step == 2


def test_a_second_process_takes_over_after_the_first_has_closed(tmp_path):
    for step in (1, 2):
        with open_run(str(tmp_path)) as ckpt:
            ckpt.save(step, {"a": W}).result(BOUND_S)
            assert len(ckpt.checkpoints()) == step


def test_meta_graph_lies_beside_the_checkpoint(address, place):
    with open_run(address) as ckpt:
        ckpt.save(1, {"a": W}, meta_graph=b"graph").result(BOUND_S)
    assert (place[1] / "runs/a/model.ckpt-1.meta").read_bytes() == b"graph"


def test_a_reader_sees_shapes_before_bytes_over_every_transport(address):
    with open_run(address) as ckpt:
        with pytest.raises(NotFoundError):
            ckpt.reader()
        for step in (1, 2):
            ckpt.save(step, {"w": W + step}).result(BOUND_S)
        assert ckpt.reader().get_variable_to_shape_map() == {"w": [3, 4]}
        assert np.array_equal(ckpt.reader()["w"], W + 2)
        assert np.array_equal(ckpt.reader(1)["w"], W + 1)
        with pytest.raises(NotFoundError, match="step 3"):
            ckpt.reader(3)
