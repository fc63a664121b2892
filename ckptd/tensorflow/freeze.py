"""`freeze`: a checkpoint and the graph beside it, as one graph whose variables are constants."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import tensorflow as tf

from ckptd.client.paths.latest import Path, as_text, resolve
from ckptd.client.paths.state_functions import meta_graph_key
from ckptd.client.restoring.reader import did_you_mean
from ckptd.client.saver.assigning import restore_all
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.storage.base import Store
from ckptd.storage.locations import split_prefix
from ckptd.tensorflow.graph import GraphRestores
from ckptd.tensorflow.meta_graphs import parse
from ckptd.tensorflow.refusals import as_tensorflows


def freeze(prefix_or_directory: Path, outputs: Sequence[str], *, meta_graph: Path | None = None) -> bytes:
    """Return the part of a saved graph that the outputs need, with the checkpoint's values: a serialized GraphDef.

    Args:
        prefix_or_directory: the checkpoint, or a directory for its newest one; a path or a store's URL.
        outputs: names of operations, ``add`` or ``add:0``.
        meta_graph: where the graph is; default: beside the checkpoint, with the ending ``.meta``.

    Raises:
        NotFoundError: no such checkpoint, graph or operation, with the names that come near.
        InvalidRequestError: an output does not exist, or the graph's variables are not those of the checkpoint.
        CorruptionError: the bytes are wrong.
    """
    with as_tensorflows():
        return freeze_stored(*resolve(prefix_or_directory), outputs, meta_graph=meta_graph)


def freeze_stored(store: Store, key: str, outputs: Sequence[str], *, meta_graph: Path | None = None) -> bytes:
    """Do as `freeze`, of the checkpoint at `key` in a store that is open already."""
    with as_tensorflows():
        names = [output.removesuffix(":0") for output in outputs]
        if not names:
            raise InvalidRequestError("freezing a graph needs the names of its outputs")
        description = _read(as_text(meta_graph)) if meta_graph is not None else None
        if description is None:
            try:
                description = store.get(meta_graph_key(key, "meta"))
            except NotFoundError as error:
                raise NotFoundError(
                    "there is no graph beside this checkpoint, which was saved without one (write_meta_graph=False, or "
                    "by another framework)",
                    key=store.location(key),
                ) from error
        parsed = parse(description, store.location(meta_graph_key(key, "meta")))
        _check_outputs(parsed, names)
        return _frozen(parsed, names, Bundle.open(store, key))


def _read(path: str) -> bytes:
    store, key = split_prefix(path)
    return store.get(key)


def _check_outputs(meta_graph: Any, names: Sequence[str]) -> None:
    known = {node.name for node in meta_graph.graph_def.node}
    for name in names:
        if name not in known:
            raise NotFoundError(f"the graph has no operation {name}{did_you_mean(name, known)}")


def _frozen(meta_graph: Any, names: Sequence[str], bundle: Bundle) -> bytes:
    graph = tf.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        theirs = tf.compat.v1.train.import_meta_graph(meta_graph, clear_devices=True)
        if theirs is not None:
            GraphRestores(graph, theirs.as_saver_def().restore_op_name).run(
                session, lambda targets: restore_all(bundle, targets, reshape=False, sequentially=False)
            )
        constant = tf.compat.v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), list(names))
    return cast("bytes", constant.SerializeToString(deterministic=True))
