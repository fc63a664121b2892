"""The files that describe a Saver's graph, as bytes: ``.meta`` and ``.debug``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any, cast


def meta_graph_of(saver: Any, graph: Any, *, strip_default_attrs: bool) -> bytes:
    """Return the MetaGraphDef that TensorFlow's Saver would write."""
    with graph.as_default():
        meta_graph = saver.export_meta_graph(strip_default_attrs=strip_default_attrs)
    return cast("bytes", meta_graph.SerializeToString(deterministic=True))


def debug_info_of(saver: Any, graph: Any) -> bytes:
    """Return where operations were created; TensorFlow only writes that to a file."""
    with tempfile.TemporaryDirectory() as directory, graph.as_default():
        saver.export_meta_graph(os.path.join(directory, "graph.meta"), save_debug_info=True)  # noqa: PTH118
        return Path(directory, "graph.debug").read_bytes()
