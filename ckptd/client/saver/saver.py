"""TensorFlow's Saver over named arrays, without TensorFlow: same files, same state file, same housekeeping.

Source: TensorFlow ``tensorflow/python/training/saver.py``. What is better than there: a save is durable on return,
saving a prefix again has no moment in which neither version is whole, restoring assigns everything or nothing, and
shapes are always compared.
"""

from __future__ import annotations

import functools
import logging
import operator
import os
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar, cast

import numpy as np

from ckptd.client.capture.buffers import RoomPool
from ckptd.client.capture.snapshot import Snapshot
from ckptd.client.paths.latest import Path, as_text, check_format, checkpoint_exists
from ckptd.client.paths.state_functions import meta_graph_key
from ckptd.client.saver import saver_definition
from ckptd.client.saver.assigning import restore_all
from ckptd.client.saver.saver_definition import SaverDef
from ckptd.client.saver.saver_directory import SaverDirectory, Target
from ckptd.client.saver.variables import Variable, variables_of
from ckptd.engine.clock import Clock, SystemClock
from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import InvalidRequestError
from ckptd.storage.locations import split_prefix

_log = logging.getLogger("ckptd.saver")
_Method = TypeVar("_Method", bound=Callable[..., Any])


def _session_is_optional(method: _Method) -> _Method:
    """Let old scripts pass TensorFlow's leading session, or None: what comes before the path is ignored."""

    @functools.wraps(method)
    def call(self: Saver, *args: Any, **kwargs: Any) -> Any:
        kwargs.pop("sess", None)
        if args and not isinstance(args[0], (str, os.PathLike)) and (len(args) > 1 or "save_path" in kwargs):
            args = args[1:]
        return method(self, *args, **kwargs)

    return cast("_Method", call)


class Saver:
    """Saves and restores named variables, and keeps the last few checkpoints. Not for several threads at once.

    ::

        saver = ckptd.Saver({"w": w, "b": b, "step": (lambda: step, set_step)}, max_to_keep=3)
        saver.save("/runs/mnist/model.ckpt", global_step=100)     # returns /runs/mnist/model.ckpt-100
        saver.restore(ckptd.latest_checkpoint("/runs/mnist"))     # fills w and b, calls set_step

    A variable is one of

    - a numpy array: read, and filled in place;
    - a `Slice` whose part is a numpy array, or a list of them: read, and each part filled with its own box;
    - a pair ``(get, set)`` of callables: ``get()`` returns whatever `Checkpointer.save` takes, ``set(array)`` assigns
      (a list of arrays, if ``get()`` returns a list of slices). Before anything is restored, ``get()`` is called for
      the shape and dtype to expect; it may return None when it knows none yet, and the tensor is taken as it is;
    - an object with ``assign(array)`` and with ``numpy()`` or ``__array__``, such as a variable of TensorFlow 2.

    Paths may be store URLs. `save` and `restore` take TensorFlow's leading session too, whatever it is, and ignore it.
    Memory for one copy of the variables is kept from one save to the next.

    It is for one process that owns its directory. For several processes, or beside a daemon, use `Checkpointer`.

    Attributes:
        saver_def: what `as_saver_def` returns; None before `build` when that is deferred.
    """

    def __init__(
        self,
        var_list: Any = None,
        reshape: bool = False,
        sharded: bool = False,
        max_to_keep: int | None = 5,
        keep_checkpoint_every_n_hours: float = 10000.0,
        name: str | None = None,
        restore_sequentially: bool = False,
        saver_def: Any = None,
        builder: Any = None,
        defer_build: bool = False,
        allow_empty: bool = False,
        write_version: int = saver_definition.V2,
        pad_step_number: bool = False,
        save_relative_paths: bool = False,
        filename: str | None = None,
        *,
        clock: Clock | None = None,
    ) -> None:
        """Remember what to save; the arguments are those of TensorFlow's Saver.

        Args:
            var_list: a dict of names to variables, or a (nested) list of variables that have names.
            reshape: restore tensors of another shape, if they have as many elements.
            sharded: one data file per device; here there is one device.
            max_to_keep: how many checkpoints are listed; older ones are deleted. None or 0 keeps all, and lists one.
            keep_checkpoint_every_n_hours: of those that leave the list, keep one for every so many hours.
            name: has no meaning without a graph.
            restore_sequentially: restore one variable after the other, which takes less memory.
            saver_def: take `sharded`, `max_to_keep` and the hours from here: ours, TensorFlow's, or its bytes.
            builder: has no meaning without a graph.
            defer_build: be usable only after `build`.
            allow_empty: without variables, do nothing instead of raising.
            write_version: of the format; only V2 is written.
            pad_step_number: fill step numbers with zeros to eight digits.
            save_relative_paths: list checkpoints relative to the state file's directory, also absolute ones.
            filename: kept in `saver_def`.
            clock: the time that housekeeping goes by.

        Raises:
            InvalidRequestError: in TensorFlow's words where it has this case.
        """
        if defer_build and var_list is not None:
            raise InvalidRequestError(
                "If `var_list` is provided then build cannot be deferred. "
                "Either set defer_build=False or var_list=None."
            )
        if var_list is None and saver_def is None and not defer_build and not allow_empty:
            raise InvalidRequestError("`var_list` must specify a list or dict of variables to save")
        self._given_def = (
            saver_definition.parse(saver_def)
            if saver_def is not None
            else saver_definition.make(
                sharded=sharded,
                max_to_keep=max_to_keep,
                hours=keep_checkpoint_every_n_hours,
                version=write_version,
                filename=filename,
            )
        )
        self._variables: list[Variable] = variables_of(var_list) if var_list is not None else []
        self._names_variables = var_list is not None or saver_def is None
        self._reshape = reshape
        self._sequentially = restore_sequentially
        self._allow_empty = allow_empty
        self._pad_step_number = pad_step_number
        self._save_relative_paths = save_relative_paths
        self._clock: Clock = clock or SystemClock()
        self._pool = RoomPool(keep=1)
        self.saver_def: SaverDef | None = None
        self._directory = SaverDirectory(0, 0.0, self._clock)
        if not defer_build:
            self.build()

    def build(self) -> None:
        """Make the Saver usable, if that was deferred; the hours of housekeeping count from here.

        Raises:
            InvalidRequestError: ``No variables to save``, unless `allow_empty`.
        """
        if self.saver_def is not None:
            return
        if self._names_variables and not self._variables and not self._allow_empty:
            raise InvalidRequestError("No variables to save")
        self.saver_def = self._given_def
        self._directory = SaverDirectory(
            self.saver_def.max_to_keep,
            self.saver_def.keep_checkpoint_every_n_hours,
            self._clock,
            save_relative_paths=self._save_relative_paths,
        )

    @_session_is_optional
    def save(
        self,
        save_path: Path,
        global_step: Any = None,
        latest_filename: str | None = None,
        meta_graph_suffix: str = "meta",
        write_meta_graph: bool = True,
        write_state: bool = True,
        strip_default_attrs: bool = False,
        save_debug_info: bool = False,
        *,
        meta_graph: bytes | None = None,
    ) -> str | None:
        """Save all variables, publish the checkpoint in the state file, and delete what leaves the list.

        Args:
            save_path: the prefix, to which the step is appended; one missing directory is created.
            global_step: a whole number, or something that gives one: an array, a variable, a callable.
            latest_filename: the state file's name, ``checkpoint`` if None.
            meta_graph_suffix: of the file for `meta_graph`.
            write_meta_graph: False writes no file for `meta_graph`.
            write_state: False publishes, lists and deletes nothing.
            strip_default_attrs: has no meaning without a graph.
            save_debug_info: has no meaning without a graph.
            meta_graph: a serialized MetaGraphDef to write beside the checkpoint.

        Returns:
            The prefix, durable and complete; None for an empty Saver.

        Raises:
            InvalidRequestError: in TensorFlow's words. Nothing was written.
            ConflictError: when a daemon or a `Checkpointer` works in this directory; `actual` names it.
            StorageFullError, UnavailableError, …: nothing was published.
        """
        self._check_built()
        target = Target.of(
            save_path,
            None if global_step is None else _step(global_step),
            latest_filename,
            meta_graph_suffix,
            pads_step=self._pad_step_number,
            is_sharded=self._definition.sharded,
        )
        if not self._variables:
            self._check_empty()
            if meta_graph is not None and write_meta_graph:
                store, key = target.place
                store.replace(meta_graph_key(key, meta_graph_suffix), meta_graph)
            return None
        target.check_directory()
        snapshot = Snapshot.take({one.name: one.read() for one in self._variables}, self._pool)
        try:
            self._directory.save(
                target,
                snapshot,
                meta_graph if write_meta_graph else None,
                holder="ckptd.Saver",
                write_state=write_state,
            )
        finally:
            snapshot.release()
        return target.prefix

    @_session_is_optional
    def restore(self, save_path: Path) -> None:
        """Assign every variable its value in a checkpoint: all of them, or none if anything does not fit or is damaged.

        Tensors of the checkpoint that are no variables here are ignored. Variables saved by
        ``tf.train.Checkpoint`` are found by the names that they had in TensorFlow's graph.

        Raises:
            InvalidRequestError, NotFoundError: in TensorFlow's words.
            CorruptionError: when the bytes are wrong.
        """
        self._check_built()
        if not self._variables:
            self._check_empty()
            return
        if save_path is None:
            raise InvalidRequestError("Can't load save_path when it is None.")
        path = as_text(save_path)
        if not checkpoint_exists(path):
            raise InvalidRequestError(f"The passed save_path is not a valid checkpoint: {path}")
        _log.info("Restoring parameters from %s", path)
        store, key = split_prefix(path)
        check_format(store, key)
        restore_all(Bundle.open(store, key), self._variables, reshape=self._reshape, sequentially=self._sequentially)

    @property
    def last_checkpoints(self) -> list[str]:
        """The prefixes that are listed, oldest first; always empty when nothing is ever deleted."""
        return self._directory.paths

    def set_last_checkpoints(self, last_checkpoints: list[str]) -> None:
        """Set the list to checkpoints of unknown age: they count as new, so housekeeping keeps them for good."""
        self._directory.set_paths(last_checkpoints)

    def set_last_checkpoints_with_time(self, last_checkpoints_with_time: list[tuple[str, float]]) -> None:
        """Set the list: (prefix, when it was saved) each, oldest first."""
        self._directory.set_paths_with_time(last_checkpoints_with_time)

    def recover_last_checkpoints(self, checkpoint_paths: Sequence[Path]) -> None:
        """Take over the list of an earlier process, usually `all_model_checkpoint_paths` of the state file.

        Those that no longer exist are left out; the age of the others is that of their files.
        """
        self._directory.recover(checkpoint_paths)

    def as_saver_def(self) -> SaverDef:
        """Return how this Saver is set up. The names of TensorFlow's operations in it are empty."""
        self._check_built()
        return self._definition

    def to_proto(self, export_scope: str | None = None) -> SaverDef | None:
        """Return a copy of `as_saver_def` without the scope in its names; None if one is not in that scope."""
        self._check_built()
        return saver_definition.without_scope(self._definition, export_scope)

    @staticmethod
    def from_proto(saver_def: Any, import_scope: str | None = None, *, var_list: Any = None) -> Saver:
        """Return a Saver that is set up like another one.

        A SaverDef does not hold the variables: without `var_list` this Saver keeps lists and cannot save.
        """
        definition = saver_definition.with_scope(saver_definition.parse(saver_def), import_scope)
        return Saver(var_list, saver_def=definition)

    def export_meta_graph(self, *_: Any, **__: Any) -> NoReturn:
        """Raise an error: only TensorFlow has a graph."""
        raise InvalidRequestError(
            "export_meta_graph needs TensorFlow's graph, and ckptd has none; "
            "pass the bytes of a MetaGraphDef to save(…, meta_graph=…) to keep them beside a checkpoint"
        )

    @property
    def _definition(self) -> SaverDef:
        assert self.saver_def is not None  # the callers have checked
        return self.saver_def

    def _check_built(self) -> None:
        if self.saver_def is None:
            raise InvalidRequestError("`build()` should be called before save if defer_build==True")

    def _check_empty(self) -> None:
        if not self._allow_empty:
            raise InvalidRequestError("No variables to save")


def _step(value: Any) -> int:
    """Return a step as a number, from a number, an array, a variable or a callable."""
    given = value() if callable(value) else value
    given = given.numpy() if callable(getattr(given, "numpy", None)) else given
    try:
        return operator.index(given)
    except TypeError:
        pass
    try:
        return operator.index(np.asarray(given).item())
    except (TypeError, ValueError) as error:
        raise InvalidRequestError("global_step is a whole number", actual=repr(value)) from error
