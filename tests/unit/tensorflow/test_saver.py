from __future__ import annotations

import os
import subprocess
import sys
import threading

import ml_dtypes
import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

import ckptd
from ckptd.tensorflow import Saver, import_meta_graph
from tests import seams
from tests.unit.client.served import Daemon

v1 = tf.compat.v1

BOUND_S = 60


@pytest.fixture
def session():
    with tf.Graph().as_default(), v1.Session() as session:
        yield session


def variable(name, value, *, use_resource=False):
    return v1.get_variable(name, initializer=np.asarray(value), use_resource=use_resource)


def initialize(session):
    session.run(v1.global_variables_initializer())


def zero(session):
    session.run([v1.assign(one, tf.zeros_like(one)) for one in v1.global_variables()])


KINDS = pytest.mark.parametrize("use_resource", [False, True], ids=["reference", "resource"])


class TestWhatFits:
    @KINDS
    @pytest.mark.parametrize("sequentially", [False, True])
    def test_another_shape_is_refused_by_name_and_both_shapes_and_nothing_is_assigned(
        self, tmp_path, session, use_resource, sequentially
    ):
        prefix = ckptd.save_checkpoint(tmp_path / "m", {"a": np.ones(3), "w": np.ones((2, 3))}).prefix
        a, w = (
            variable("a", np.zeros(3), use_resource=use_resource),
            variable("w", np.zeros((4, 2)), use_resource=use_resource),
        )
        initialize(session)
        with pytest.raises(ckptd.InvalidRequestError) as caught:
            Saver(restore_sequentially=sequentially).restore(session, prefix)
        assert "variable 'w' is [4,2] here and [2,3] in the checkpoint" in str(caught.value)
        assert "Assign requires shapes of both tensors to match. lhs shape= [4,2] rhs shape= [2,3]" in str(caught.value)
        assert isinstance(caught.value, tf.errors.InvalidArgumentError)
        assert not session.run(a).any()
        assert session.run(w).shape == (4, 2)

    def test_the_full_shape_of_a_partitioned_variable_is_compared(self, tmp_path, session):
        prefix = ckptd.save_checkpoint(tmp_path / "m", {"emb": np.ones((7, 3))}).prefix
        v1.get_variable("emb", (6, 3), tf.float64, partitioner=v1.fixed_size_partitioner(2))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"tensor_name = emb; .*\[6,3\].*: \[7,3\]"):
            Saver().restore(session, prefix)

    def test_another_dtype_and_a_missing_variable_are_refused_as_tensorflow_does(self, tmp_path, session):
        prefix = ckptd.save_checkpoint(tmp_path / "m", {"w": np.ones(3)}).prefix
        variable("w", np.zeros(3, np.float32))
        saver = Saver()
        with pytest.raises(ValueError, match="expected dtype float does not equal original dtype double"):
            saver.restore(session, prefix)
        other = Saver({"ww": v1.global_variables()[0]})
        with pytest.raises(tf.errors.NotFoundError, match="Key ww not found in checkpoint; did you mean 'w'") as caught:
            other.restore(session, prefix)
        assert isinstance(caught.value, ckptd.NotFoundError)
        assert caught.value.message.startswith("Restoring from checkpoint failed")

    @KINDS
    def test_another_shape_of_as_many_elements_is_taken_where_that_is_wanted(self, tmp_path, session, use_resource):
        prefix = ckptd.save_checkpoint(tmp_path / "m", {"w": np.arange(6.0).reshape(2, 3)}).prefix
        w = variable("w", np.zeros(6), use_resource=use_resource)
        saver = Saver(reshape=True)
        saver.restore(session, prefix)
        assert session.run(w).tolist() == [0, 1, 2, 3, 4, 5]
        ckptd.save_checkpoint(tmp_path / "n", {"w": np.ones(7)})
        with pytest.raises(ckptd.InvalidRequestError, match=r"7 values, but .* 6; variable 'w' is \[6\]"):
            saver.restore(session, tmp_path / "n")

    def test_a_damaged_checkpoint_assigns_nothing(self, tmp_path, session):
        prefix = ckptd.save_checkpoint(tmp_path / "m", {"a": np.ones(3), "w": np.ones(3)}).prefix
        with open(prefix + ".data-00000-of-00001", "r+b") as data:
            data.seek(40)
            data.write(b"x")
        a = variable("a", np.zeros(3))
        variable("w", np.zeros(3))
        initialize(session)
        with pytest.raises(tf.errors.DataLossError):
            Saver().restore(session, prefix)
        assert not session.run(a).any()


class TestGraphs:
    def test_partitioned_variables_are_slices_and_restore_in_other_parts(self, tmp_path, session):
        values = np.arange(28, dtype=np.float32).reshape(7, 4)
        with v1.variable_scope("", partitioner=v1.fixed_size_partitioner(3)):
            v1.get_variable("emb", initializer=tf.constant(values))
        initialize(session)
        prefix = Saver().save(session, tmp_path / "m", 1)
        assert ckptd.load_variable(prefix, "emb").tolist() == values.tolist()
        assert len(ckptd.load_checkpoint(prefix).bundle.index.tensor("emb").pieces) == 3
        with tf.Graph().as_default(), v1.Session() as other:
            parts = v1.get_variable("emb", (7, 4), partitioner=v1.fixed_size_partitioner(2))
            Saver().restore(other, prefix)
            assert other.run(parts.as_tensor()).tolist() == values.tolist()

    def test_a_sharded_saver_writes_a_file_for_every_device(self, tmp_path):
        config = v1.ConfigProto(device_count={"CPU": 2})
        with tf.Graph().as_default(), v1.Session(config=config) as session:
            for number in (0, 1):
                with tf.device(f"/cpu:{number}"):
                    variable(f"w{number}", np.full(3, number + 1.0))
            initialize(session)
            saver = Saver(sharded=True)
            prefix = saver.save(session, tmp_path / "m", 1)
            saver.save(session, tmp_path / "m", 1)  # over itself
            zero(session)
            saver.restore(session, prefix)
            assert [value.tolist() for value in session.run(v1.global_variables())] == [[1] * 3, [2] * 3]
        assert sorted(path.name for path in tmp_path.glob("*data*")) == [
            "m-1.data-00000-of-00002",
            "m-1.data-00001-of-00002",
        ]

    @pytest.mark.parametrize("sequentially", [False, True])
    def test_every_kind_of_value_comes_back(self, tmp_path, session, sequentially):
        values = {
            "half": np.array([1.5, -2], ml_dtypes.bfloat16),
            "flag": np.array(True),
            "complex": np.array([1 + 2j]),
            "empty": np.zeros((0, 2), np.float32),
        }
        made = {name: variable(name, value, use_resource=True) for name, value in values.items()}
        words = v1.get_variable("words", initializer=tf.constant([b"a\xff", b""]))
        table = tf.lookup.experimental.MutableHashTable(tf.string, tf.int64, -1)
        insert = table.insert(tf.constant(["x", "y"]), tf.constant([1, 2], tf.int64))
        initialize(session)
        session.run(insert)
        saver = Saver(restore_sequentially=sequentially)
        prefix = saver.save(session, tmp_path / "m")
        remove = table.remove(tf.constant(["x", "y"]))
        session.run([remove, *(v1.assign(made[name], tf.zeros_like(made[name])) for name in ("half", "complex"))])
        saver.restore(session, prefix)
        for name, value in values.items():
            np.testing.assert_array_equal(session.run(made[name]), value)
        assert session.run(words).tolist() == [b"a\xff", b""]
        assert session.run(table.lookup(tf.constant(["y", "x"]))).tolist() == [2, 1]

    def test_a_graph_in_a_scope_is_imported_twice_and_exported_without_it(self, tmp_path, session):
        variable("w", np.ones(3))
        initialize(session)
        first = Saver()
        prefix = first.save(session, tmp_path / "m", 1)
        with tf.Graph().as_default() as graph, v1.Session() as other:
            savers = [import_meta_graph(prefix + ".meta", import_scope=scope) for scope in ("one", "two")]
            for saver in savers:
                saver.restore(other, prefix)
            assert [other.run(f"{scope}/w:0").tolist() for scope in ("one", "two")] == [[1] * 3] * 2
            assert savers[0].to_proto("one") == first.as_saver_def()
            assert savers[0].to_proto("two") is None
            again = Saver.from_proto(savers[0].to_proto("one"), import_scope="two")
            assert isinstance(again, Saver)
            assert again.as_saver_def() == savers[1].as_saver_def()
            again.save(other, tmp_path / "n", write_meta_graph=False)
            assert graph.get_collection("variables")
        assert ckptd.load_variable(tmp_path / "n", "w").tolist() == [1] * 3

    def test_a_saver_that_is_built_later_takes_what_is_there_then(self, tmp_path, session):
        saver = Saver(defer_build=True)
        with pytest.raises(RuntimeError, match=r"`build\(\)` should be called before save if defer_build==True"):
            saver.save(session, tmp_path / "m")
        variable("w", np.ones(3))
        initialize(session)
        saver.build()
        saver.build()
        assert ckptd.list_variables(saver.save(session, tmp_path / "m")) == [("w", [3])]

    def test_without_variables_only_the_graph_is_written(self, tmp_path, session):
        tf.constant(1, name="one")
        saver = Saver(allow_empty=True)
        assert saver.save(session, tmp_path / "m", 1) is None
        saver.restore(session, "nowhere")
        assert [path.name for path in tmp_path.iterdir()] == ["m-1.meta"]
        with pytest.raises(ValueError, match="No variables to save"):
            Saver()

    def test_where_operations_were_created_is_written_where_tensorflow_writes_it(self, tmp_path, session):
        variable("w", np.ones(3))
        initialize(session)
        for kind in (v1.train.Saver, Saver):
            (tmp_path / kind.__module__).mkdir()
            kind().save(session, str(tmp_path / kind.__module__ / "m"), 3, save_debug_info=True)
        theirs, ours = (
            sorted(path.name for path in each.iterdir()) for each in sorted(tmp_path.iterdir(), reverse=True)
        )
        assert ours == theirs
        assert "m-3.debug" in ours

    def test_the_step_is_a_number_a_tensor_a_variable_or_a_name(self, tmp_path, session):
        step = v1.train.get_or_create_global_step()
        initialize(session)
        session.run(v1.assign(step, 7))
        saver = Saver(pad_step_number=True)
        given = [7, np.int32(7), step, tf.constant(7, name="seven"), "seven:0"]
        assert {saver.save(session, tmp_path / "m", one) for one in given} == {f"{tmp_path}/m-00000007"}


class TestWrongCalls:
    def test_they_are_refused_in_tensorflows_words_and_its_exceptions(self, tmp_path, session):
        variable("w", np.ones(3))
        saver = Saver()
        with pytest.raises(tf.errors.FailedPreconditionError):
            saver.save(session, tmp_path / "m")
        initialize(session)
        for message, kind, call in [
            ("must not contain path components", ValueError, lambda: saver.save(session, "m", latest_filename="a/b")),
            ("collides with 'save_path'", ValueError, lambda: saver.save(session, str(tmp_path / "checkpoint"))),
            ("Parent directory of", ValueError, lambda: saver.save(session, str(tmp_path / "no/such/m"))),
            ("'sess' must be a Session", TypeError, lambda: saver.save(None, "m")),
            ("'sess' must be a Session", TypeError, lambda: saver.restore(None, saver.save(session, tmp_path / "m"))),
            ("Can't load save_path when it is None", ValueError, lambda: saver.restore(session, None)),
            ("is not a valid checkpoint: absent", ValueError, lambda: saver.restore(session, "absent")),
            ("only checkpoints of version V2", ValueError, lambda: Saver(write_version=v1.train.SaverDef.V1)),
            ("are a list, not a tuple", ValueError, lambda: saver.set_last_checkpoints(("m-1",))),
            ("does not exist", tf.errors.NotFoundError, lambda: import_meta_graph(str(tmp_path / "absent.meta"))),
        ]:
            with pytest.raises(kind, match=message) as caught:
                call()
            assert isinstance(caught.value, ckptd.CkptdError), message
        (tmp_path / "text.meta").write_text("no graph")
        with pytest.raises(ckptd.CorruptionError, match="no MetaGraphDef"):
            import_meta_graph(str(tmp_path / "text.meta"))

    def test_a_graph_that_writes_the_old_format_is_refused(self, tmp_path, session):
        variable("w", np.ones(3))
        initialize(session)
        old = v1.train.Saver(write_version=v1.train.SaverDef.V1).as_saver_def()
        with pytest.raises(ckptd.InvalidRequestError, match="old format V1"):
            Saver(saver_def=old).save(session, tmp_path / "m")


class TestWithoutAGraph:
    def test_variables_of_tensorflow_2_are_saved_by_their_names_and_restored(self, tmp_path):
        w, b = tf.Variable([1.0, 2.0], name="w"), tf.Variable(tf.constant([3, 4], tf.bfloat16), name="b")
        saver = Saver([w, b], max_to_keep=2)
        for step in (1, 2, 3):
            prefix = saver.save(None, tmp_path / "m", tf.Variable(step))
        assert saver.last_checkpoints == [f"{tmp_path}/m-2", f"{tmp_path}/m-3"]
        v1.train.Saver([w, b]).restore(None, prefix)  # TensorFlow reads it
        w.assign([0, 0])
        b.assign([0, 0])
        saver.restore(None, prefix)
        assert w.numpy().tolist() == [1, 2]
        assert b.numpy().tolist() == [3, 4]
        assert saver.as_saver_def().save_tensor_name == prefix
        assert not list(tmp_path.glob("*.meta"))
        Saver({"v": w}).save(None, tmp_path / "other")
        assert ckptd.list_variables(tmp_path / "other") == [("v", [2])]

    def test_a_wrong_shape_is_named_and_may_be_reshaped(self, tmp_path):
        prefix = ckptd.save_checkpoint(tmp_path / "m", {"w": np.arange(6.0)}).prefix
        w = tf.Variable(np.zeros((2, 3)), name="w")
        with pytest.raises(ValueError, match=r"variable 'w' is \[2,3\] here and \[6\] in the checkpoint"):
            Saver([w]).restore(None, prefix)
        Saver([w], reshape=True).restore(None, prefix)
        assert w.numpy().tolist() == [[0, 1, 2], [3, 4, 5]]

    def test_a_list_is_needed_and_meta_graphs_are_for_graphs(self):
        with pytest.raises(RuntimeError, match="`var_list` must specify a list or dict of variables to save"):
            Saver()
        with pytest.raises(RuntimeError, match="not supported when eager execution is enabled"):
            import_meta_graph("m.meta")


class TestWhileTrainingGoesOn:
    def test_a_save_that_is_not_waited_for_holds_what_was_there_then(self, tmp_path, session, monkeypatch):
        w = variable("w", np.zeros(1000), use_resource=True)
        step = v1.assign_add(w, tf.ones_like(w))
        initialize(session)
        saver = Saver(max_to_keep=None)
        may_write = threading.Event()
        create = seams.CREATE_ON_DISK.value

        def slow(store, key, size_bytes):
            assert may_write.wait(BOUND_S)
            return create(store, key, size_bytes)

        seams.CREATE_ON_DISK.put(monkeypatch, slow)
        prefixes = []
        for number in range(2):
            prefixes.append(saver.save(session, tmp_path / "m", number, wait=False))
            session.run(step)
        assert not os.path.exists(f"{prefixes[0]}.index")
        threading.Timer(0.05, may_write.set).start()
        assert ckptd.checkpoint_exists(prefixes[0])  # as with TensorFlow, who asks finds what was saved
        assert ckptd.latest_checkpoint(tmp_path) == prefixes[1]
        saver.wait()
        assert [ckptd.load_variable(prefix, "w").tolist() for prefix in prefixes] == [[0] * 1000, [1] * 1000]

    def test_its_error_is_raised_by_the_next_call(self, tmp_path, session):
        variable("w", np.zeros(1))
        initialize(session)
        (tmp_path / "taken").mkdir()
        saver = Saver()
        saver.save(session, tmp_path / "m", 1, latest_filename="taken", wait=False)
        with pytest.raises(ckptd.CkptdError) as caught:
            saver.wait()
        assert "the save of step 1, which was not waited for" in caught.value.__notes__[-1]
        assert saver.last_checkpoints == []
        saver.save(session, tmp_path / "m", 2)
        saver.close()

    @pytest.mark.parametrize("place", ["beside", "address"])
    def test_large_tensors_are_copied_once_and_saved_as_they_were(self, tmp_path, session, monkeypatch, place):
        """From the second save on they are staged; parts of one variable, and shapes that change, too."""
        staged = []
        stage = seams.STAGE_ARRAY.value
        seams.STAGE_ARRAY.put(monkeypatch, lambda self, name, *rest: staged.append(name) or stage(self, name, *rest))
        w = variable("w", np.zeros((300, 300)), use_resource=True)
        v1.get_variable("emb", (500, 300), tf.float32, tf.zeros_initializer(), partitioner=v1.fixed_size_partitioner(2))
        small = variable("small", np.zeros(3))
        add = [v1.assign_add(one, tf.ones_like(one)) for one in v1.global_variables()]
        initialize(session)
        saver = Saver(max_to_keep=None, address=tmp_path / "store" if place == "address" else "")
        path = "runs/a/m" if place == "address" else str(tmp_path / "m")
        for step in range(4):
            saver.save(session, path, step, wait=False)
            session.run(add)
        saver.wait()
        assert sorted(set(staged)) == ["emb 500 300 0,250:0,300", "emb 500 300 250,250:0,300", "w "]
        for step in range(4):
            saver.restore(session, f"{path}-{step}")
            assert all((value == step).all() for value in session.run([w, small, *v1.global_variables()]))
        saver.close()
        where = tmp_path / "store/runs/a" if place == "address" else tmp_path
        assert all(ckptd.verify(where / f"m-{step}").ok for step in range(4))

    def test_a_restore_comes_after_the_saves_under_way(self, tmp_path, session):
        w = variable("w", np.ones(3))
        initialize(session)
        saver = Saver()
        prefix = saver.save(session, tmp_path / "m", 1, wait=False)
        zero(session)
        saver.restore(session, prefix)
        assert session.run(w).tolist() == [1] * 3


class TestPlaces:
    def test_a_url_is_a_path(self, session):
        w = variable("w", np.ones(3))
        initialize(session)
        saver = Saver(max_to_keep=2)
        for step in (1, 2, 3):
            prefix = saver.save(session, "memory://tensorflow/run/model.ckpt", global_step=step)
        zero(session)
        saver.restore(session, ckptd.latest_checkpoint("memory://tensorflow/run"))
        assert session.run(w).tolist() == [1] * 3
        assert not ckptd.checkpoint_exists("memory://tensorflow/run/model.ckpt-1")
        with tf.Graph().as_default() as graph, v1.Session() as other:
            import_meta_graph(prefix + ".meta").restore(other, prefix)
            assert other.run(graph.get_tensor_by_name("w:0")).tolist() == [1] * 3

    def test_at_a_daemon_the_directory_is_a_run_and_old_ones_go_there(self, tmp_path, session, monkeypatch):
        w = variable("w", np.ones(3))
        initialize(session)
        (tmp_path / "root").mkdir()
        daemon = Daemon(tmp_path / "root")
        try:
            monkeypatch.setenv("CKPTD_ADDRESS", daemon.address)
            saver = Saver(max_to_keep=2)
            assert saver.address == daemon.address
            for step in (1, 2, 3):
                prefix = saver.save(session, "./runs/mnist/model.ckpt", step, wait=step == 3)
                session.run(v1.assign_add(w, tf.ones_like(w)))
            assert prefix == "./runs/mnist/model.ckpt-3"
            assert saver.last_checkpoints == ["./runs/mnist/model.ckpt-2", "./runs/mnist/model.ckpt-3"]
            assert saver.latest_checkpoint("runs/mnist") == "runs/mnist/model.ckpt-3"
            saver.restore(session, prefix)
            assert session.run(w).tolist() == [3] * 3
            saver.save(session, "./runs/mnist/model.ckpt", 3)  # again
            saver.close()
            with tf.Graph().as_default() as graph, v1.Session() as other:
                imported = import_meta_graph("runs/mnist/model.ckpt-3.meta")
                imported.restore(other, "runs/mnist/model.ckpt-2")
                assert other.run(graph.get_tensor_by_name("w:0")).tolist() == [2] * 3
                imported.close()
        finally:
            daemon.stop()
        names = {path.name for path in (tmp_path / "root/runs/mnist").iterdir()}
        assert {"model.ckpt-3.index", "model.ckpt-3.meta", "checkpoint"} <= names
        assert "model.ckpt-1.index" not in names

    def test_below_an_address_what_is_not_there_is_looked_for_on_this_host(self, tmp_path, session):
        w = variable("w", np.zeros(3))
        pretrained = ckptd.save_checkpoint(tmp_path / "pretrained", {"w": np.ones(3)}).prefix
        saver = Saver(address=tmp_path / "store")
        saver.restore(session, pretrained)
        assert session.run(w).tolist() == [1] * 3
        assert saver.latest_checkpoint("runs/a") is None
        for wrong, why in [("model.ckpt", "has none"), ("s3://bucket/m", "is a URL"), ("../a/m", "dot")]:
            with pytest.raises(ckptd.InvalidRequestError, match=why):
                saver.save(session, wrong)
        with pytest.raises(ValueError, match="is not a valid checkpoint: runs/a/model.ckpt-1"):
            saver.restore(session, "runs/a/model.ckpt-1")
        saver.save(session, "runs/a/model.ckpt")
        zero(session)
        saver.restore(session, "runs/a/model.ckpt")
        saver.close()
        assert session.run(w).tolist() == [1] * 3
        assert (tmp_path / "store/runs/a/model.ckpt.index").exists()


def test_tensorflow_is_imported_when_a_name_is_used_and_not_before():
    program = "import sys, ckptd.tensorflow; sys.exit('tensorflow' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=BOUND_S)
