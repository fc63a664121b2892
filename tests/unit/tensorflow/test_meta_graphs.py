"""The description of a graph: where it is written, and whose it is."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

import ckptd.tensorflow

v1 = tf.compat.v1


def test_the_graph_of_an_empty_saver_is_saved_beside_a_daemon_as_beside_the_path(tmp_path, daemon):
    with tf.Graph().as_default(), v1.Session() as session:
        tf.constant(3.0, name="three")
        for options, path in (
            ({}, str(tmp_path / "here/empty.ckpt")),
            ({"address": daemon.address}, "runs/e/empty.ckpt"),
        ):
            (tmp_path / "here").mkdir(exist_ok=True)
            saver = ckptd.tensorflow.Saver(allow_empty=True, **options)
            assert saver.save(session, path) is None
            saver.close()
            with tf.Graph().as_default() as graph:
                assert ckptd.tensorflow.import_meta_graph(f"{path}.meta", **options) is None
                graph.get_operation_by_name("three")
    assert not (tmp_path / "root/runs/e/checkpoint").exists()


def test_the_graph_of_a_checkpoint_without_a_step_is_its_own_and_not_the_latest_ones(daemon, session):
    saver = ckptd.tensorflow.Saver(address=daemon.address)
    saver.save(session, "runs/g/model.ckpt")
    tf.constant(5.0, name="later")
    saver.save(session, "runs/g/model.ckpt", global_step=5)
    saver.close()
    for path, has_later in (("runs/g/model.ckpt.meta", False), ("runs/g/model.ckpt-5.meta", True)):
        with tf.Graph().as_default() as graph:
            ckptd.tensorflow.import_meta_graph(path, address=daemon.address)
            assert any(each.name == "later" for each in graph.get_operations()) == has_later
