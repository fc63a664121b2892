"""`import_meta_graph`: import a saved graph, with a Saver of ckptd's over it."""

from __future__ import annotations

import os
from typing import Any

import tensorflow as tf
from google.protobuf import text_format
from google.protobuf.message import DecodeError

from ckptd.client.paths.environment import given_address
from ckptd.errors import CorruptionError
from ckptd.tensorflow.places import BelowAnAddress, read_meta_graph
from ckptd.tensorflow.refusals import NotBuiltError, as_tensorflows
from ckptd.tensorflow.saver import Saver

MetaGraphDef = tf.compat.v1.MetaGraphDef


def import_meta_graph(
    meta_graph_or_file: Any,
    clear_devices: bool = False,
    import_scope: str | None = None,
    *,
    address: str | None = None,
    **kwargs: Any,
) -> Saver | None:
    """Add a saved graph to the current one, as ``tf.compat.v1.train.import_meta_graph``.

    Args:
        meta_graph_or_file: a MetaGraphDef, or where one is: a path, a store's URL or, with an address, the ``.meta`` of
            a checkpoint there.
        clear_devices: whether to forget on which devices the operations were.
        import_scope: a scope for everything that is imported.
        address: as `Saver` takes it.
        **kwargs: as TensorFlow takes them.

    Returns:
        A Saver over the operations of the one that was saved with the graph; None if there are no variables.

    Raises:
        NotFoundError: there is no such file; also an OSError, as with TensorFlow.
        CorruptionError: it holds no MetaGraphDef; likewise.
        InvalidRequestError: there is no graph to import into, as TensorFlow executes eagerly.
    """
    with as_tensorflows(reads_graph=True):
        if tf.executing_eagerly():
            raise NotBuiltError(
                "Exporting/importing meta graphs is not supported when eager execution is enabled. "
                "No graph exists when eager execution is enabled."
            )
        meta_graph = meta_graph_or_file
        if not isinstance(meta_graph, MetaGraphDef):
            meta_graph = parse(_read(os.fsdecode(meta_graph), address), os.fsdecode(meta_graph))
    theirs = tf.compat.v1.train.import_meta_graph(meta_graph, clear_devices, import_scope, **kwargs)
    return None if theirs is None else Saver(saver_def=theirs.as_saver_def(), address=address)


def parse(data: bytes, location: str) -> Any:
    """Return a MetaGraphDef from the content of a ``.meta`` file: bytes, or text as ``as_text=True`` writes it.

    Raises:
        CorruptionError: it is neither.
    """
    try:
        return MetaGraphDef.FromString(data)
    except DecodeError:
        try:
            return text_format.Parse(data.decode(), MetaGraphDef())
        except (text_format.ParseError, UnicodeDecodeError) as error:
            raise CorruptionError("this is no MetaGraphDef", key=location) from error


def _read(path: str, address: str | None) -> bytes:
    place = given_address(address)
    below = BelowAnAddress(place, {"rank": 0, "world_size": 1}) if place else None
    try:
        return read_meta_graph(path, below)
    finally:
        if below is not None:
            below.close()
