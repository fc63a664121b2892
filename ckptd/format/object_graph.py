"""The object graph of an object-based checkpoint (`tf.train.Checkpoint`): a Saver's names of its tensors.

Such a checkpoint stores variables under paths of attribute names and, as one string scalar, the graph of the objects;
a variable's node has both the key in the index and the name that the variable had in the program's graph.
Source: TensorFlow ``tensorflow/core/protobuf/trackable_object_graph.proto``.
"""

from __future__ import annotations

from google.protobuf.message import DecodeError

from ckptd.errors import CorruptionError
from ckptd.format.saver_pb2 import TrackableObjectGraph

OBJECT_GRAPH_NAME = "_CHECKPOINTABLE_OBJECT_GRAPH"
"""The tensor that holds the graph; a checkpoint with one is object-based."""


def decode(data: bytes) -> TrackableObjectGraph:
    """Parse a graph; every node that it refers to is there.

    Raises:
        CorruptionError: if the bytes are no such graph.
    """
    graph = TrackableObjectGraph()
    try:
        graph.ParseFromString(data)
    except DecodeError as error:
        raise CorruptionError("object graph cannot be parsed", key=OBJECT_GRAPH_NAME) from error
    for node in graph.nodes:
        for child in node.children:
            if not 0 <= child.node_id < len(graph.nodes):
                raise CorruptionError("object graph refers to a node that it has not", key=OBJECT_GRAPH_NAME)
    return graph


def keys_by_full_name(data: bytes) -> dict[str, str]:
    """Return the key in the index of everything that has a name of its own in the program's graph.

    A name that several variables share, such as ``Variable``, does not distinguish them and is left out.

    Raises:
        CorruptionError: if the bytes are no such graph.
    """
    graph = decode(data)
    keys: dict[str, str] = {}
    shared = set()
    for node in graph.nodes:
        for attribute in node.attributes:
            if keys.setdefault(attribute.full_name, attribute.checkpoint_key) != attribute.checkpoint_key:
                shared.add(attribute.full_name)
    return {name: key for name, key in keys.items() if name and name not in shared}
