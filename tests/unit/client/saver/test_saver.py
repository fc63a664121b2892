"""`ckptd.Saver`: what can be saved and restored, and what its lists say."""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import pytest

import ckptd
from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from tests import seams
from tests.fakes.clock import HandClock


class Box:
    """An object that reads and assigns, as TensorFlow's variables do."""

    def __init__(self, value, name=None):
        self.value = np.asarray(value)
        if name is not None:
            self.name = name

    def numpy(self):
        return self.value

    def assign(self, value):
        self.value = value


def files_of(directory):
    return sorted(os.listdir(directory))


def test_every_kind_of_variable_is_saved_and_restored(tmp_path):
    held = {"step": 7}
    w, half = np.arange(6, dtype=np.float32).reshape(2, 3), np.ones(3, ml_dtypes.bfloat16)
    words = np.array(["a", b"bc"], object)
    quantized = np.array([1, 2], np.int8).view([("qint8", "i1")])
    fortran = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    big_endian = np.array([1, 2], ">i4")
    low, high = np.zeros((2, 2)), np.ones((3, 2))
    box = Box([1.5, 2.5])
    saver = ckptd.Saver(
        {
            "w": w,
            "half": half,
            "words": words,
            "quantized": quantized,
            "fortran": fortran,
            "big_endian": big_endian,
            "emb": [ckptd.Slice(low, (5, 2), (0, 0)), ckptd.Slice(high, (5, 2), (2, 0))],
            "step": (lambda: held["step"], lambda value: held.update(step=int(value))),
            "box": box,
        }
    )
    prefix = saver.save(tmp_path / "m", held["step"])
    assert prefix == f"{tmp_path}/m-7"
    assert ckptd.load_variable(prefix, "emb").tolist() == [[0, 0]] * 2 + [[1, 1]] * 3
    before = [array.tolist() for array in (w, half, quantized, fortran, big_endian, low, high)]
    for array in (w, half, fortran, big_endian, low, high):
        array[...] = 9
    quantized["qint8"] = 9
    words[:] = [b"", b""]
    held["step"], box.value = 0, np.zeros(2)
    saver.restore(prefix)
    assert [array.tolist() for array in (w, half, quantized, fortran, big_endian, low, high)] == before
    assert words.tolist() == [b"a", b"bc"]
    assert held == {"step": 7}
    assert box.value.tolist() == [1.5, 2.5]


def test_slices_behind_callables_and_values_that_are_not_known_yet(tmp_path):
    prefix = ckptd.save_checkpoint(tmp_path / "m", {"emb": np.arange(10).reshape(5, 2)}).prefix
    got = []
    part = ckptd.Slice(np.zeros((2, 2), np.int64), (5, 2), (1, 0))
    ckptd.Saver({"emb": (lambda: None, got.append)}).restore(prefix)
    ckptd.Saver({"emb": (lambda: part, got.append)}).restore(prefix)
    ckptd.Saver({"emb": (lambda: [part], got.append)}).restore(prefix)
    assert got[0].tolist() == np.arange(10).reshape(5, 2).tolist()
    assert got[1].tolist() == [[2, 3], [4, 5]]
    assert [one.tolist() for one in got[2]] == [[[2, 3], [4, 5]]]
    with pytest.raises(InvalidRequestError, match="'emb' has no value to save"):
        ckptd.Saver({"emb": (lambda: None, got.append)}).save(tmp_path / "n")


def test_lists_of_variables_go_by_their_names(tmp_path):
    a, b = Box(1.0, "scope/a:0"), Box(2.0, "b")
    prefix = ckptd.Saver([a, (b, {a})]).save(tmp_path / "m")
    assert ckptd.list_variables(prefix) == [("b", []), ("scope/a", [])]
    with pytest.raises(InvalidRequestError, match="At least two variables have the same name: b"):
        ckptd.Saver([b, Box(3.0, "b:0")])
    with pytest.raises(InvalidRequestError, match="ndarray in a list of variables has no name"):
        ckptd.Saver([np.zeros(1)])


WRONG_VARIABLES = [
    ({"a": 1.0}, "'a': a float cannot be assigned"),
    ({"a": ckptd.Slice([1.0], (2,), (0,))}, "'a': a part of a slice cannot be assigned"),
    ({"a": (print, 3)}, "'a': a tuple cannot be assigned"),
    ({3: np.zeros(1)}, "the name of a variable is a str"),
    ("abc", "var_list is a dict of names to variables"),
    (None, "`var_list` must specify a list or dict of variables to save"),
]


@pytest.mark.parametrize(("var_list", "message"), WRONG_VARIABLES, ids=[message for _, message in WRONG_VARIABLES])
def test_what_cannot_be_read_and_assigned_is_refused_at_once(var_list, message):
    with pytest.raises(InvalidRequestError, match=message):
        ckptd.Saver(var_list)


UNFILLABLE = [
    (np.zeros((2, 2)), "expected dtype double does not equal original dtype float"),
    (np.zeros(4, np.float32), r"lhs shape= \[4\] rhs shape= \[2,2\]"),
    (np.broadcast_to(np.float32(0), (2, 2)), "'a' is a read-only array"),
    (np.zeros((2, 2), "S5"), "cuts strings off"),
]


@pytest.mark.parametrize(("array", "message"), UNFILLABLE, ids=[message for _, message in UNFILLABLE])
def test_nothing_is_assigned_when_one_variable_does_not_fit(tmp_path, array, message):
    prefix = ckptd.save_checkpoint(tmp_path / "m", {"a": np.ones((2, 2), np.float32), "0": [1, 2]}).prefix
    first = np.zeros(2, np.int64)
    with pytest.raises(InvalidRequestError, match=message):
        ckptd.Saver({"0": first, "a": array}, restore_sequentially=True).restore(prefix)
    assert first.tolist() == [0, 0]


def test_a_missing_key_is_told_with_what_comes_near_and_nothing_is_assigned(tmp_path):
    prefix = ckptd.save_checkpoint(tmp_path / "m", {"kernel": np.ones(2), "a": np.ones(2)}).prefix
    a = np.zeros(2)
    with pytest.raises(NotFoundError, match="Key kernal not found in checkpoint; did you mean 'kernel'"):
        ckptd.Saver({"a": a, "kernal": np.zeros(2)}).restore(prefix)
    assert a.tolist() == [0, 0]


@pytest.mark.parametrize("sequentially", [False, True])
def test_damage_is_found_before_anything_is_assigned_unless_one_by_one(tmp_path, sequentially):
    prefix = ckptd.save_checkpoint(tmp_path / "m", {"a": np.ones(2), "b": np.ones(2)}).prefix
    data = tmp_path / "m.data-00000-of-00001"
    data.write_bytes(data.read_bytes()[:-1] + b"\xff")
    a, b = np.zeros(2), np.zeros(2)
    with pytest.raises(CorruptionError):
        ckptd.Saver({"a": a, "b": b}, restore_sequentially=sequentially).restore(prefix)
    assert a.tolist() == [1, 1] if sequentially else [0, 0]
    assert b.tolist() == [0, 0]


def test_reshape_takes_as_many_elements_in_another_shape(tmp_path):
    prefix = ckptd.save_checkpoint(tmp_path / "m", {"a": np.arange(6.0).reshape(2, 3)}).prefix
    a = np.zeros((3, 2))
    ckptd.Saver({"a": a}, reshape=True).restore(prefix)
    assert a.ravel().tolist() == list(range(6))
    with pytest.raises(InvalidRequestError, match="a tensor with 6 values, but the requested shape has 5"):
        ckptd.Saver({"a": np.zeros(5)}, reshape=True).restore(prefix)


def test_scripts_may_go_on_passing_a_session(tmp_path):
    a = np.ones(1)
    saver = ckptd.Saver({"a": a})
    path = str(tmp_path / "m")
    session = object()
    calls = [((path, 1), {}), ((session, path, 2), {}), ((None, path), {"global_step": 3})]
    calls += [((), {"sess": session, "save_path": path, "global_step": 4}), ((session,), {"save_path": path})]
    assert [saver.save(*args, **kwargs) for args, kwargs in calls] == [*[f"{path}-{n}" for n in (1, 2, 3, 4)], path]
    for args in ((path,), (session, path), (None, path)):
        a[:] = 0
        saver.restore(*args)
        assert a == 1
    for args in ((None,), (session, None)):
        with pytest.raises(InvalidRequestError, match="Can't load save_path when it is None"):
            saver.restore(*args)


@pytest.mark.parametrize(
    "step", [5, np.int64(5), np.array([5]), np.array(5), Box(5), lambda: 5], ids=lambda step: type(step).__name__
)
def test_a_step_may_be_anything_that_gives_a_number(tmp_path, step):
    assert ckptd.Saver({"a": np.ones(1)}, pad_step_number=True).save(tmp_path / "m", step) == f"{tmp_path}/m-00000005"


@pytest.mark.parametrize("step", ["5", 5.5, -1, np.zeros(2), None.__class__])
def test_what_is_no_step_is_refused(tmp_path, step):
    with pytest.raises(InvalidRequestError):
        ckptd.Saver({"a": np.ones(1)}).save(tmp_path / "m", step)
    assert files_of(tmp_path) == []


def test_one_missing_directory_is_made_and_urls_need_none(tmp_path):
    saver = ckptd.Saver({"a": np.ones(1)}, max_to_keep=1)
    assert saver.save(tmp_path / "new" / "m") == f"{tmp_path}/new/m"
    with pytest.raises(InvalidRequestError, match=f"Parent directory of {tmp_path}/a/b/m doesn't exist, can't save"):
        saver.save(tmp_path / "a" / "b" / "m")
    for step in (1, 2):
        saver.save("memory://saver-test/a/b/m", step)
    assert ckptd.latest_checkpoint("memory://saver-test/a/b") == "memory://saver-test/a/b/m-2"
    assert not ckptd.checkpoint_exists("memory://saver-test/a/b/m-1")
    assert not ckptd.checkpoint_exists(tmp_path / "new" / "m")  # it was in the same list


def test_the_graph_description_is_laid_beside_and_goes_with_its_checkpoint(tmp_path):
    saver = ckptd.Saver({"a": np.ones(1)}, max_to_keep=1)
    saver.save(tmp_path / "m", 1, meta_graph=b"graph", meta_graph_suffix="mg")
    assert (tmp_path / "m-1.mg").read_bytes() == b"graph"
    saver.save(tmp_path / "m", 2, meta_graph=b"graph", write_meta_graph=False, meta_graph_suffix="mg")
    assert files_of(tmp_path) == ["checkpoint", "m-2.data-00000-of-00001", "m-2.index"]
    with pytest.raises(InvalidRequestError, match="needs TensorFlow's graph"):
        saver.export_meta_graph("m.meta")


def test_an_empty_saver_does_nothing_if_that_is_allowed(tmp_path):
    saver = ckptd.Saver(allow_empty=True)
    assert saver.save(tmp_path / "m", 1, meta_graph=b"graph") is None
    saver.restore(tmp_path / "absent")
    assert files_of(tmp_path) == ["m-1.meta"]
    for wrong in (lambda: ckptd.Saver({}), lambda: ckptd.Saver(defer_build=True).build()):
        with pytest.raises(InvalidRequestError, match="No variables to save"):
            wrong()


def test_deferred_building_starts_the_hours(tmp_path):
    clock = HandClock(1000.0)
    saver = ckptd.Saver(defer_build=True, allow_empty=True, clock=clock)
    assert saver.saver_def is None
    saver.build()
    saver.build()
    assert saver.as_saver_def().max_to_keep == 5


def test_a_definition_survives_being_passed_on():
    saver = ckptd.Saver({"a": np.ones(1)}, max_to_keep=3, keep_checkpoint_every_n_hours=0.7, sharded=True)
    definition = saver.as_saver_def()
    assert definition.keep_checkpoint_every_n_hours * 3600 == 2519.9999570846558
    again = ckptd.Saver.from_proto(definition.SerializeToString(), var_list={"a": np.ones(1)})
    assert again.as_saver_def() == definition
    assert saver.to_proto() == definition
    assert saver.to_proto() is not definition
    assert saver.to_proto("scope") is None
    scoped = ckptd.SaverDef(filename_tensor_name="Const:0", save_tensor_name="s", restore_op_name="r", version=2)
    inside = ckptd.Saver.from_proto(scoped, import_scope="scope")
    assert inside.as_saver_def().filename_tensor_name == "scope/Const:0"
    assert inside.to_proto("scope") == scoped
    assert inside.to_proto("other") is None
    for call in (lambda: inside.save("m"), lambda: inside.restore("m")):
        with pytest.raises(InvalidRequestError, match="No variables to save"):
            call()
    for wrong in (b"\xff", 3, ckptd.SaverDef(version=1), ckptd.SaverDef(version=2, max_to_keep=-1)):
        with pytest.raises(InvalidRequestError):
            ckptd.Saver.from_proto(wrong)
    for wrong in ({"write_version": 1}, {"max_to_keep": -1}, {"keep_checkpoint_every_n_hours": -1.0}):
        with pytest.raises(InvalidRequestError):
            ckptd.Saver({"a": np.ones(1)}, **wrong)


def test_lists_can_be_set_and_recovered(tmp_path):
    clock = HandClock()
    saver = ckptd.Saver({"a": np.ones(1)}, max_to_keep=2, clock=clock)
    paths = [ckptd.save_checkpoint(tmp_path / f"m-{step}", {"a": 1}).prefix for step in (1, 2, 3)]
    saver.recover_last_checkpoints([*paths[:2], str(tmp_path / "gone")])
    assert saver.last_checkpoints == paths[:2]
    saver.set_last_checkpoints(paths[:2])  # of unknown age: kept for good
    saver.save(tmp_path / "m", 4)
    assert saver.last_checkpoints == [paths[1], f"{tmp_path}/m-4"]
    assert ckptd.checkpoint_exists(paths[0])
    saver.set_last_checkpoints_with_time([(paths[1], 5.0), (paths[2], 6.0)])
    saver.save(tmp_path / "m", 5)
    assert not ckptd.checkpoint_exists(paths[1])
    for wrong in (tuple(paths), None, "m"):
        for setter in (saver.set_last_checkpoints, saver.set_last_checkpoints_with_time):
            with pytest.raises(InvalidRequestError, match="are a list"):
                setter(wrong)


def test_a_checkpoint_that_is_listed_under_two_spellings_outlives_the_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    a = np.ones(1)
    ckptd.Saver({"a": a}, max_to_keep=2).save("m", 1)
    saver = ckptd.Saver({"a": a}, max_to_keep=2)
    saver.recover_last_checkpoints(ckptd.get_checkpoint_state(".").all_model_checkpoint_paths)
    saver.save("m", 1)
    saver.save("m", 2)
    assert saver.last_checkpoints == ["m-1", "m-2"]  # ./m-1 has left, m-1 is the same checkpoint
    assert ckptd.load_variable("m-1", "a") == 1
    saver.save("m", 3)
    assert not ckptd.checkpoint_exists("m-1")


def test_what_cannot_be_deleted_is_no_failure_and_goes_later(tmp_path, monkeypatch):
    saver = ckptd.Saver({"a": np.ones(1)}, max_to_keep=1)
    saver.save(tmp_path / "m", 1)
    with monkeypatch.context() as patch:

        def refuse(store, keys, **_):
            raise ckptd.NotPermittedError("not now", key=keys[0])

        seams.DELETE_ON_DISK.put(patch, refuse)
        assert saver.save(tmp_path / "m", 2) == ckptd.latest_checkpoint(tmp_path)
    assert ckptd.checkpoint_exists(tmp_path / "m-1")
    saver.save(tmp_path / "m", 3)
    assert files_of(tmp_path) == ["checkpoint", "m-3.data-00000-of-00001", "m-3.index"]


def test_a_save_that_could_not_be_published_is_not_in_the_list(tmp_path):
    saver = ckptd.Saver({"a": np.ones(1)})
    saver.save(tmp_path / "m", 1)
    (tmp_path / "taken").mkdir()
    with pytest.raises(ckptd.CkptdError):
        saver.save(tmp_path / "m", 2, latest_filename="taken")
    assert saver.last_checkpoints == [f"{tmp_path}/m-1"]
    saver.save(tmp_path / "m", 2)
    assert saver.last_checkpoints == [f"{tmp_path}/m-1", f"{tmp_path}/m-2"]


def test_a_sharded_checkpoint_is_replaced_by_one_file(tmp_path):
    ckptd.save_checkpoint(tmp_path / "m-1", {name: np.ones(3) for name in "abcd"}, num_shards=4)
    a = np.full(1, 7.0)
    ckptd.Saver({"a": a}).save(tmp_path / "m", 1)
    assert files_of(tmp_path) == ["checkpoint", "m-1.data-00000-of-00001", "m-1.index"]
    assert ckptd.load_variable(tmp_path / "m-1", "a") == 7


@pytest.mark.parametrize("place", ["", "runs/mnist"])
def test_where_a_trainer_of_ours_works_a_saver_is_refused_and_writes_nothing(tmp_path, place):
    with ckptd.Checkpointer(tmp_path, "runs/mnist") as trainer:
        trainer.save(1, {"w": np.zeros(2)}).result(60)
        before = sorted(tmp_path.glob("runs/mnist/*"))
        saver = ckptd.Saver({"w": np.ones(2)})
        if place:
            with pytest.raises(ckptd.ConflictError, match=f"Save through the Checkpointer.*pid {os.getpid()}"):
                saver.save(tmp_path / place / "model.ckpt", 1)
            assert sorted(tmp_path.glob("runs/mnist/*")) == before
        else:
            saver.save(tmp_path / "beside", 1)  # direct mode shares the root
    saver.save(tmp_path / place / "model.ckpt", 2)
    ckptd.Saver({"w": np.ones(2)}).save(tmp_path / place / "model.ckpt", 3)
