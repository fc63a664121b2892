from __future__ import annotations

import json
import os
import sys

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

import ckptd
from ckptd.cli import main
from ckptd.tensorflow import Saver, freeze
from tests.fakes import schemas

v1 = tf.compat.v1


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    """Give a directory with a checkpoint of `add = v1 + v2`, of which one is a resource, and of an unused variable."""
    directory = tmp_path_factory.mktemp("frozen")
    with tf.Graph().as_default(), v1.Session() as session:
        first = v1.get_variable("v1", initializer=[1.0], use_resource=False)
        second = v1.get_variable("v2", initializer=[2.0], use_resource=True)
        v1.get_variable("unused", initializer=np.zeros(1000), use_resource=True)
        tf.add(first, second, name="add")
        session.run(v1.global_variables_initializer())
        Saver().save(session, directory / "model.ckpt", 7)
        Saver().save(session, directory / "bare", write_meta_graph=False, latest_filename="bare-state")
    return directory


def result_of(data, name="add:0"):
    with tf.Graph().as_default(), v1.Session() as session:
        graph = v1.GraphDef.FromString(data)
        assert not [node for node in graph.node if "Variable" in node.op or "VarHandle" in node.op]
        return session.run(tf.import_graph_def(graph, return_elements=[name])[0]).tolist()


def test_one_file_holds_the_graph_and_its_values_and_nothing_else(run_dir, tmp_path, capsys):
    out = tmp_path / "combined.pb"
    assert main.run(["freeze", str(run_dir / "model.ckpt-7"), str(out), "--outputs", "add"]) == 0
    assert result_of(out.read_bytes()) == [3]
    assert len(out.read_bytes()) < 1000
    assert "combined.pb: add of model.ckpt-7" in capsys.readouterr().out
    assert main.run(["freeze", str(run_dir), str(out), "--outputs", "add"]) == 4  # it is there already
    answer = main.run(["freeze", str(run_dir), str(out), "--outputs", "v1,add:0", "--force", "--json"])
    assert answer == 0
    document = json.loads(capsys.readouterr().out)
    schemas.check("freeze", document)
    assert document["outputs"] == ["v1", "add:0"]


def test_the_values_may_come_from_a_store_and_the_graph_from_elsewhere(run_dir):
    ckptd.save_checkpoint("memory://frozen/m", {"v1": np.float32([5]), "v2": np.float32([6]), "unused": np.zeros(1000)})
    data = freeze("memory://frozen/m", ["add"], meta_graph=run_dir / "model.ckpt-7.meta")
    assert result_of(data) == [11]


def test_what_is_missing_is_told(run_dir, tmp_path, capsys, monkeypatch):
    prefix, out = str(run_dir / "model.ckpt-7"), str(tmp_path / "out.pb")
    for arguments, code, message in [
        ([prefix, out, "--outputs", "ad"], 3, "the graph has no operation ad; did you mean 'add'"),
        ([str(run_dir / "bare"), out, "--outputs", "add"], 3, "there is no graph beside this checkpoint"),
        ([str(run_dir / "nothing"), out, "--outputs", "add"], 3, "there is no checkpoint 'nothing'"),
        ([prefix, out], 2, "--outputs"),
        ([prefix, out, "--outputs", ","], 2, "needs the names of its outputs"),
    ]:
        assert main.run(["freeze", *arguments]) == code
        assert message in capsys.readouterr().err
    for name in [name for name in sys.modules if name == "ckptd.tensorflow.freeze"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorflow", None)  # as if it were not installed
    assert main.run(["freeze", prefix, out, "--outputs", "add"]) == 3
    assert "pip install 'ckptd[tensorflow]'" in capsys.readouterr().err
    assert not os.path.exists(out)


def test_a_graph_of_other_variables_is_refused(run_dir, tmp_path):
    ckptd.save_checkpoint(tmp_path / "m", {"v1": np.float32([5, 6]), "v2": np.float32([6]), "unused": np.zeros(1000)})
    with pytest.raises(ckptd.InvalidRequestError, match=r"variable 'v1' is \[1\] here and \[2\] in the checkpoint"):
        freeze(tmp_path / "m", ["add"], meta_graph=run_dir / "model.ckpt-7.meta")
