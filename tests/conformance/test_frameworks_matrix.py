"""One stored checkpoint serves all: written from each framework, opened by every other, by numpy, and exported."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.torch
import tensorflow as tf
import torch
import torch.distributed.checkpoint as dcp

import ckptd
import ckptd.jax
import ckptd.tensorflow
import ckptd.torch
from ckptd.cli.main import run
from ckptd.torch import CkptdStorageReader, CkptdStorageWriter
from ckptd.trees.outline import OUTLINE_NAME

v1 = tf.compat.v1
STEP = 7
RANDOM = np.random.default_rng(7)
# What all three have, 64 bits left out, which JAX has only on demand.
ARRAYS = {
    "model/layer.weight": RANDOM.standard_normal((4, 3)).astype(np.float32),
    "model/layer.bias": RANDOM.standard_normal(3).astype(np.float16),
    "model/table": RANDOM.standard_normal((5, 2)).astype(ml_dtypes.bfloat16),
    "model/mask": np.array([[True, False], [False, True]]),
    "optimizer/count": np.array(41, np.int32),
    "optimizer/bytes": np.arange(6, dtype=np.uint8),
    "optimizer/phase": np.array([1 + 2j, -0.5j], np.complex64),
    "optimizer/empty": np.zeros((0, 3), np.float32),
}


def nested(leaf):
    tree = {}
    for name, array in ARRAYS.items():
        group, _, key = name.partition("/")
        tree.setdefault(group, {})[key] = leaf(array)
    return tree


def flat(tree, to_numpy):
    return {f"{group}/{key}": to_numpy(leaf) for group, inner in tree.items() for key, leaf in inner.items()}


def of_torch(tensor):
    return ckptd.torch.array_of("tensor", tensor)


def graph_variables(values):
    return {name: v1.get_variable(name, initializer=value, use_resource=True) for name, value in values.items()}


# Writers: a directory → the prefix.


def from_numpy(directory):
    with ckptd.Checkpointer(directory.parent, run=directory.name, rank=0, world_size=1) as checkpointer:
        return checkpointer.save(STEP, ARRAYS).result().prefix


def from_torch(directory):
    state = nested(lambda array: ckptd.torch.tensor_of(array.copy()))
    return ckptd.torch.save(state, directory, STEP).result().prefix


def from_dcp(directory):
    state = {name: ckptd.torch.tensor_of(array.copy()) for name, array in ARRAYS.items()}
    prefix = directory / f"model.ckpt-{STEP}"
    dcp.save(state, storage_writer=CkptdStorageWriter(prefix), no_dist=True)
    return str(prefix)


def from_jax(directory):
    with ckptd.jax.CheckpointManager(directory) as manager:
        manager.save(STEP, nested(jnp.asarray))
        manager.wait_until_finished()
        return manager.checkpointer.latest().prefix


def from_tensorflow(directory):
    with tf.Graph().as_default(), v1.Session() as session:
        graph_variables(ARRAYS)
        session.run(v1.global_variables_initializer())
        return ckptd.tensorflow.Saver().save(session, str(directory / "model.ckpt"), STEP)


# Readers: a prefix → name → array.


def by_numpy(prefix, _directory):
    reader = ckptd.load_checkpoint(prefix)
    return {name: reader[name] for name in ARRAYS}


def by_torch(prefix, _directory):
    into = nested(lambda array: torch.empty_like(ckptd.torch.tensor_of(array.copy())))
    return flat(ckptd.torch.load(prefix, into=into), of_torch)


def by_torch_alone(prefix, _directory):
    """Without being told what there is."""
    found = ckptd.torch.load(prefix)
    return flat(found, of_torch) if "model" in found else {name: of_torch(found[name]) for name in ARRAYS}


def by_dcp(prefix, _directory):
    """State that nests is loaded as it nests, in DCP's names; what is flat, by its names."""

    def empty(array):
        return torch.empty_like(ckptd.torch.tensor_of(array.copy()))

    does_nest = OUTLINE_NAME in ckptd.load_checkpoint(prefix)
    into = nested(empty) if does_nest else {name: empty(array) for name, array in ARRAYS.items()}
    dcp.load(into, storage_reader=CkptdStorageReader(prefix), no_dist=True)
    return flat(into, of_torch) if does_nest else {name: of_torch(tensor) for name, tensor in into.items()}


def by_jax(prefix, _directory):
    target = nested(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype))
    return flat(ckptd.jax.load(prefix, target), np.asarray)


def by_jax_alone(prefix, _directory):
    found = ckptd.jax.load(prefix)
    return flat(found, np.asarray) if "model" in found else {name: np.asarray(found[name]) for name in ARRAYS}


def by_tensorflow(prefix, _directory):
    with tf.Graph().as_default(), v1.Session() as session:
        variables = graph_variables({name: np.zeros_like(array) for name, array in ARRAYS.items()})
        ckptd.tensorflow.Saver().restore(session, prefix)
        return session.run(variables)


def by_stock_tensorflow(prefix, _directory):
    with tf.Graph().as_default(), v1.Session() as session:
        variables = graph_variables({name: np.zeros_like(array) for name, array in ARRAYS.items()})
        v1.train.Saver().restore(session, prefix)
        return session.run(variables)


def by_safetensors(prefix, directory):
    path = directory / "exported.safetensors"
    assert run(["export", prefix, str(path)]) == 0
    found = safetensors.torch.load_file(path)
    return {name: of_torch(found[name]) for name in ARRAYS}


WRITERS = [from_numpy, from_torch, from_dcp, from_jax, from_tensorflow]
READERS = [
    by_numpy,
    by_torch,
    by_torch_alone,
    by_dcp,
    by_jax,
    by_jax_alone,
    by_tensorflow,
    by_stock_tensorflow,
    by_safetensors,
]


@pytest.fixture(scope="module")
def prefixes(tmp_path_factory):
    """Each writer's checkpoint, written once."""
    written = {}

    def prefix_of(writer):
        if writer not in written:
            written[writer] = str(writer(tmp_path_factory.mktemp(writer.__name__)))
        return written[writer]

    yield prefix_of
    ckptd.torch.close_all()


@pytest.mark.parametrize("reader", READERS, ids=lambda each: each.__name__)
@pytest.mark.parametrize("writer", WRITERS, ids=lambda each: each.__name__)
def test_what_one_wrote_the_other_opens(prefixes, tmp_path, writer, reader):
    found = reader(prefixes(writer), tmp_path)
    assert found.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        got = np.asarray(found[name])
        assert (got.dtype, got.shape) == (array.dtype, array.shape), name
        assert got.tobytes() == array.tobytes(), name


@pytest.mark.parametrize("writer", WRITERS, ids=lambda each: each.__name__)
def test_what_each_wrote_verifies(prefixes, writer):
    assert ckptd.verify(prefixes(writer)).ok
