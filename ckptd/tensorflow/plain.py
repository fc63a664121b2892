"""The plain functions of `ckptd` on checkpoints and state files, whose errors here are TensorFlow's, too.

A program that called ``tf.train.load_checkpoint`` catches ``tf.errors.NotFoundError``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar

import ckptd
from ckptd.client.restoring.reader import CheckpointReader as PlainReader
from ckptd.tensorflow.refusals import as_tensorflows

P = ParamSpec("P")
R = TypeVar("R")

_OURS = {
    "checkpoint_dir": "directory",
    "checkpoint_prefix": "prefix",
    "ckpt_dir_or_file": "prefix_or_directory",
}
"""What TensorFlow calls an argument that `ckptd` calls otherwise; either may be written."""


def _as_tensorflows(call: Callable[P, R], *, opens_checkpoint: bool = False) -> Callable[P, R]:
    names = inspect.signature(call).parameters

    @wraps(call)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        ours: Any = {name if name in names else _OURS.get(name, name): value for name, value in kwargs.items()}
        with as_tensorflows(opens_checkpoint=opens_checkpoint):
            return call(*args, **ours)

    return called


class CheckpointReader(PlainReader):
    """See `ckptd.CheckpointReader`."""

    @_as_tensorflows
    def get_tensor(self, name: str | bytes) -> Any:
        """See `ckptd.CheckpointReader.get_tensor`."""
        return super().get_tensor(name)

    @_as_tensorflows
    def get_tensors(self, names: Iterable[str]) -> dict[str, Any]:
        """See `ckptd.CheckpointReader.get_tensors`."""
        return super().get_tensors(names)

    @_as_tensorflows
    def get_slice(self, name: str | bytes, start: Sequence[int], shape: Sequence[int]) -> Any:
        """See `ckptd.CheckpointReader.get_slice`."""
        return super().get_slice(name, start, shape)


@partial(_as_tensorflows, opens_checkpoint=True)
def load_checkpoint(prefix_or_directory: Any) -> CheckpointReader:
    """See `ckptd.load_checkpoint`."""
    return CheckpointReader(ckptd.load_checkpoint(prefix_or_directory).bundle)


def checkpoints_iterator(*args: Any, **kwargs: Any) -> Iterator[str]:
    """See `ckptd.checkpoints_iterator`."""
    with as_tensorflows():
        yield from ckptd.checkpoints_iterator(*args, **{_OURS.get(name, name): each for name, each in kwargs.items()})


checkpoint_exists = _as_tensorflows(ckptd.checkpoint_exists)
get_checkpoint_mtimes = _as_tensorflows(ckptd.get_checkpoint_mtimes)
get_checkpoint_state = _as_tensorflows(ckptd.get_checkpoint_state)
latest_checkpoint = _as_tensorflows(ckptd.latest_checkpoint)
list_variables = _as_tensorflows(ckptd.list_variables, opens_checkpoint=True)
load_variable = _as_tensorflows(ckptd.load_variable, opens_checkpoint=True)
remove_checkpoint = _as_tensorflows(ckptd.remove_checkpoint)
update_checkpoint_state = _as_tensorflows(ckptd.update_checkpoint_state)
