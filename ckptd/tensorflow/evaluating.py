"""Evaluates the variables that a `Saver` saves: in a session, or those of TensorFlow 2."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ckptd.tensorflow.eager import EagerVariables
from ckptd.tensorflow.graph import GraphSaves
from ckptd.tensorflow.places import Content, Staging


class Evaluation:
    """Remembers the save operations of the graph that was saved last: most saves are of the same one."""

    def __init__(self) -> None:
        self._saves: tuple[Any, GraphSaves] | None = None

    def in_session(self, session: Any, save_tensor_name: str, staging: Callable[[], Staging | None]) -> Content:
        """Evaluate what is saved by the operation `save_tensor_name` of the session's graph.

        `staging` returns where large tensors are evaluated to; see `GraphSaves.fetch`.
        """
        room = None  # before the first save the size of the memory is not known
        if self._saves is None or self._saves[0] is not session.graph:
            self._saves = (session.graph, GraphSaves(session.graph, save_tensor_name))
        else:
            room = staging()
        saves = self._saves[1]
        return Content(dict(sorted(saves.fetch(session, room).items())), saves.num_shards)


def eagerly(var_list: Any) -> Content:
    """Return the values of variables of TensorFlow 2."""
    return Content(dict(sorted(EagerVariables(var_list).arrays().items())))
