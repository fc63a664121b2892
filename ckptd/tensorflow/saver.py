"""`Saver`: ``tf.compat.v1.train.Saver`` whose checkpoints ckptd writes and reads.

For the graph it is TensorFlow's own class: TensorFlow builds the operations, the SaverDef and the MetaGraphDef, so a
stock TensorFlow imports what is written here, and vice versa. Only the code for files is ckptd's: see `graph` for how
the operations are used without being run.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import tensorflow as tf

from ckptd.client.paths.environment import given_address
from ckptd.client.paths.latest import latest_checkpoint
from ckptd.client.saver.assigning import Assignable, restore_all
from ckptd.client.saver.saver_directory import SaverDirectory, Target
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.clock import Clock, SystemClock
from ckptd.errors import InvalidRequestError
from ckptd.tensorflow.arguments import SaverDef, check_session, path_text, step_number, tensorflows_saver_def
from ckptd.tensorflow.descriptions import debug_info_of, meta_graph_of
from ckptd.tensorflow.eager import EagerVariables
from ckptd.tensorflow.evaluating import Evaluation, eagerly
from ckptd.tensorflow.graph import GraphRestores
from ckptd.tensorflow.opening import Destination
from ckptd.tensorflow.places import BelowAnAddress, CheckpointPlace, Content
from ckptd.tensorflow.refusals import NotBuiltError, as_tensorflows

_log = logging.getLogger("ckptd.tensorflow")


class Saver(tf.compat.v1.train.Saver):  # type: ignore[misc]
    """Saves and restores the variables of a graph, with the constructor, attributes and methods of TensorFlow's Saver.

    ::

        saver = ckptd.tensorflow.Saver(max_to_keep=4)        # was: tf.compat.v1.train.Saver(max_to_keep=4)
        saver.save(session, "./model/model.ckpt", global_step=1000)
        saver.restore(session, tf.train.latest_checkpoint("./model"))

    Without an address, files are where and what TensorFlow would have written, and paths may be store URLs. With one,
    the directory of a path is a run below it. Without a graph, `var_list` holds variables of TensorFlow 2, and the
    session is None. Not for several threads at once.

    What is better than there: a save is durable when it is acknowledged and replaces another one in one step; with
    ``wait=False`` training continues meanwhile; restoring assigns everything or nothing, and compares all shapes.

    Each error is both a class of ckptd and the exception that TensorFlow raises in that case.
    """

    saver_def: Any  # TensorFlow's

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
        write_version: int = SaverDef.V2,
        pad_step_number: bool = False,
        save_relative_paths: bool = False,
        filename: str | None = None,
        *,
        address: str | os.PathLike[str] | None = None,
        rank: int = 0,
        world_size: int = 1,
        timeout_s: float = 600.0,
        token: str | None = None,
        ca: str | bytes | None = None,
        cert: str | bytes | None = None,
        key: str | bytes | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Add the operations to the graph, as TensorFlow does; the first arguments are those of its Saver.

        Args:
            var_list: None for all of the graph; a list of variables; a dict of names to variables.
            reshape: restore tensors of another shape, if they have as many elements.
            sharded: one data file per device.
            max_to_keep: how many checkpoints are listed; older ones are deleted. None or 0 keeps all, and lists one.
            keep_checkpoint_every_n_hours: of those that leave the list, keep one for every so many hours.
            name: scope of the operations.
            restore_sequentially: read and assign one variable after the other, which takes less memory.
            saver_def: use the operations that this names, TensorFlow's message or its bytes.
            builder: of the operations.
            defer_build: add the operations in `build`.
            allow_empty: without variables, do nothing instead of raising.
            write_version: of the format; only V2 is written.
            pad_step_number: fill step numbers with zeros to eight digits.
            save_relative_paths: list checkpoints relative to the state file's directory, also absolute ones.
            filename: default of the operations' input; ckptd does not use it.
            address: a daemon's or a store's; None takes the environment's CKPTD_ADDRESS, and "" means none.
            rank: of this process, if several save one checkpoint together at a daemon.
            world_size: how many do.
            timeout_s: the bound of every wait.
            token: shown to the daemon; default: the environment's CKPTD_TOKEN.
            ca: the authority that signed the daemon's certificate: PEM, or the path of a file with it; default: the
                environment's CKPTD_CA.
            cert: the client's own certificate, for a daemon with ``--client-ca``: PEM, or the path of a file
                with it; default: the environment's CKPTD_CERT.
            key: the private key of `cert`, likewise; default: the environment's CKPTD_KEY.
            clock: the time that housekeeping goes by.

        Raises:
            ValueError, TypeError, RuntimeError: TensorFlow's own.
            InvalidRequestError: for another `write_version`; for several ranks without an address.
        """
        with as_tensorflows():
            if write_version != SaverDef.V2:
                raise InvalidRequestError("only checkpoints of version V2 (2) are written", actual=write_version)
            if isinstance(max_to_keep, int) and max_to_keep < 0:
                raise InvalidRequestError(
                    "max_to_keep below zero keeps no checkpoint at all; 0 or None keeps all", actual=max_to_keep
                )
            self._destination = Destination(
                address=given_address(address),
                rank=rank,
                world_size=world_size,
                timeout_s=timeout_s,
                token=token,
                ca=ca,
                cert=cert,
                key=key,
                clock=clock or SystemClock(),
            )
        self._save_relative_paths = save_relative_paths  # TensorFlow sets it after building
        self._opened: CheckpointPlace | None = None
        self._evaluation = Evaluation()
        super().__init__(
            var_list=var_list,
            reshape=reshape,
            sharded=sharded,
            max_to_keep=max_to_keep,
            keep_checkpoint_every_n_hours=keep_checkpoint_every_n_hours,
            name=name,
            restore_sequentially=restore_sequentially,
            saver_def=tensorflows_saver_def(saver_def),
            builder=builder,
            defer_build=defer_build,
            allow_empty=allow_empty,
            write_version=write_version,
            pad_step_number=pad_step_number,
            save_relative_paths=save_relative_paths,
            filename=filename,
        )
        if tf.executing_eagerly():
            self._start()

    def build(self) -> None:
        """Add the operations to the graph, if that was deferred; the hours of housekeeping count from here."""
        super().build()
        self._start()

    def save(
        self,
        sess: Any,
        save_path: Any,
        global_step: Any = None,
        latest_filename: str | None = None,
        meta_graph_suffix: str = "meta",
        write_meta_graph: bool = True,
        write_state: bool = True,
        strip_default_attrs: bool = False,
        save_debug_info: bool = False,
        *,
        wait: bool = True,
    ) -> str | None:
        """Save the variables, publish the checkpoint in the state file, and delete those that are not kept.

        Args:
            sess: the session that holds the variables; None without a graph.
            save_path: the prefix, to which the step is appended; one missing directory is created.
            global_step: a whole number, a tensor, or a tensor's name.
            latest_filename: the state file's name, ``checkpoint`` if None.
            meta_graph_suffix: of the file that describes the graph.
            write_meta_graph: write that file.
            write_state: False publishes, lists and deletes nothing.
            strip_default_attrs: leave attributes with default values out of that file.
            save_debug_info: write another file, ``.debug``, with the places where operations were created.
            wait: return when the checkpoint is durable. Otherwise training may go on while it is written: return when
                the variables are copied, at most two saves being under way. `wait` waits for them. An error that comes
                after the return is raised by the next call.

        Returns:
            The prefix; None for an empty Saver.

        Raises:
            InvalidRequestError: in TensorFlow's words. Nothing was written.
            ConflictError: when a daemon or a `Checkpointer` works in this directory; `actual` names it.
            StorageFullError, UnavailableError, …: nothing was published.
            tf.errors.OpError: errors of the session, such as for uninitialized variables.
        """
        began_at = time.monotonic()
        with as_tensorflows():
            in_graph = self._is_in_graph()
            target = Target.of(
                path_text(save_path),
                step_number(sess, global_step),
                latest_filename,
                meta_graph_suffix,
                pads_step=self._pad_step_number,
                is_sharded=bool(self._sharded),
            )
            if in_graph:
                check_session(sess, self.saver_def)
            described = in_graph and write_meta_graph
            meta_graph = meta_graph_of(self, sess.graph, strip_default_attrs=strip_default_attrs) if described else None
            debug_info = debug_info_of(self, sess.graph) if described and save_debug_info else None
            if self._is_empty:
                if meta_graph is not None:
                    self._place.save_description(target, meta_graph, debug_info)
                return None
            content = self._content(target, sess if in_graph else None, meta_graph, debug_info)
            pending = self._place.save(target, content, write_state=write_state)
            if not in_graph:
                self.saver_def = self._eager_definition(target.prefix)
            waited_s = time.monotonic() - began_at
            if wait:
                done = pending.result()
                self._place.settle(target)  # those beyond max_to_keep are deleted, as with TensorFlow
                _report(done, target.prefix, time.monotonic() - began_at)
            else:
                pending.add_done_callback(lambda ended: _report(ended.checkpoint, target.prefix, waited_s))
        return target.prefix

    def restore(self, sess: Any, save_path: Any) -> None:
        """Assign every variable its value in a checkpoint: all of them, or none if anything does not fit or is damaged.

        Variables need not be initialized. Tensors of the checkpoint that are no variables here are ignored.

        Args:
            sess: the session that holds the variables; None without a graph.
            save_path: the prefix of a checkpoint. With an address, one that is not there may be on this host.

        Raises:
            InvalidRequestError: in TensorFlow's words; with the variable's name and both shapes, if these differ.
            NotFoundError: the checkpoint has not all variables.
            CorruptionError: the bytes are wrong.
        """
        with as_tensorflows():
            if self._is_empty:
                return
            in_graph = self._is_in_graph()
            if save_path is None:
                raise InvalidRequestError("Can't load save_path when it is None.")
            path = path_text(save_path)
            bundle = self._place.open(path)
            _log.info("Restoring parameters from %s", path)
            sequentially = bool(self._restore_sequentially)

            def assign(targets: Sequence[Assignable]) -> None:
                restore_all(bundle, targets, reshape=False, sequentially=sequentially)

            if not in_graph:
                assign(EagerVariables(self._var_list, reshape=self._reshape).targets())
                self.saver_def = self._eager_definition(path)
                return
            check_session(sess, self.saver_def)
            GraphRestores(sess.graph, self.saver_def.restore_op_name).run(sess, assign, sequentially=sequentially)

    def wait(self) -> None:
        """Wait until all saves have ended; raise the first error that was not seen yet."""
        with as_tensorflows():
            self._place.wait()

    def close(self) -> None:
        """Wait as `wait` does, and leave the daemon; using the Saver again joins it again."""
        with as_tensorflows():
            self._place.close()

    @property
    def address(self) -> str:
        """Where the runs are; empty if files are beside the paths."""
        return self._destination.address

    @property
    def last_checkpoints(self) -> list[str]:
        """The prefixes that are listed, oldest first; a pending save is included once it is published."""
        with as_tensorflows():
            return self._place.paths()

    def set_last_checkpoints(self, last_checkpoints: list[str]) -> None:
        """Set the list to checkpoints of unknown age: they count as new, so housekeeping keeps them for good.

        Raises:
            InvalidRequestError: there is an address: the list is kept there, and is known after a restart.
        """
        with as_tensorflows():
            self._list_here().set_paths(last_checkpoints)

    def set_last_checkpoints_with_time(self, last_checkpoints_with_time: list[tuple[str, float]]) -> None:
        """Set the list: (prefix, when it was saved) each, oldest first; see `set_last_checkpoints`."""
        with as_tensorflows():
            self._list_here().set_paths_with_time(last_checkpoints_with_time)

    def recover_last_checkpoints(self, checkpoint_paths: Sequence[Any]) -> None:
        """Take over the list of an earlier process, usually `all_model_checkpoint_paths` of the state file.

        Deleted ones are left out; the age of the others is that of their files. With an address that
        is so already, as the list is kept there.
        """
        with as_tensorflows():
            directory = self._place.directory()
            if directory is not None:
                directory.recover([path_text(path) for path in checkpoint_paths])

    @staticmethod
    def from_proto(saver_def: Any, import_scope: str | None = None) -> Saver:
        """Return a Saver that uses the operations which a SaverDef names, in a scope."""
        return Saver(saver_def=saver_def, name=import_scope)

    def latest_checkpoint(self, directory: Any, name: str = "model.ckpt") -> str | None:
        """Return the newest checkpoint of a directory, which with an address is a run there; None if there is none."""
        with as_tensorflows():
            place = self._place
            if isinstance(place, BelowAnAddress):
                return place.latest(path_text(directory), name)
            return latest_checkpoint(path_text(directory))

    def _list_here(self) -> SaverDirectory:
        directory = self._place.directory()
        if directory is None:
            raise InvalidRequestError(
                "below an address the list of checkpoints is kept there: it is known after a restart, and not set",
                key=self.address,
            )
        return directory

    @property
    def _place(self) -> CheckpointPlace:
        if self._opened is None:
            self._start()
        assert self._opened is not None
        return self._opened

    def _start(self) -> None:
        """Make the place where checkpoints are, unless there is one: the hours count from here."""
        if self._opened is not None:
            return
        max_to_keep, hours = self._max_to_keep or 0, self._keep_checkpoint_every_n_hours
        if self.saver_def is not None:
            max_to_keep, hours = self.saver_def.max_to_keep, self.saver_def.keep_checkpoint_every_n_hours
        self._opened = self._destination.open(
            max_to_keep,
            hours,
            pad_step_number=bool(self._pad_step_number),
            save_relative_paths=bool(self._save_relative_paths),
        )

    def _is_in_graph(self) -> bool:
        if self._is_built:
            return True
        if not tf.executing_eagerly():
            raise NotBuiltError("`build()` should be called before save if defer_build==True")
        return False

    def _content(self, target: Target, sess: Any, meta_graph: bytes | None, debug_info: bytes | None) -> Content:
        if sess is None:
            return eagerly(self._var_list)
        name = self.saver_def.save_tensor_name
        content = self._evaluation.in_session(sess, name, lambda: self._place.staging(target))
        return replace(content, meta_graph=meta_graph, debug_info=debug_info)

    def _eager_definition(self, path: str) -> Any:
        """Return the `saver_def` that TensorFlow's Saver sets when there is no graph."""
        return SaverDef(
            filename_tensor_name=path,
            save_tensor_name=path,
            max_to_keep=self._max_to_keep or 0,
            sharded=bool(self._sharded),
            keep_checkpoint_every_n_hours=self._keep_checkpoint_every_n_hours,
            version=SaverDef.V2,
        )


def adopted(theirs: Any, **options: Any) -> Saver:
    """Return a Saver that uses the operations of another one, which is built, and takes over its list."""
    saver = Saver(saver_def=theirs.as_saver_def(), **options)
    if not saver.address:
        saver.set_last_checkpoints_with_time([(path, float(at)) for path, at in theirs._last_checkpoints])
    return saver


def _report(done: Checkpoint | None, prefix: str, waited_s: float) -> None:
    if done is not None:
        _log.info("saved %s: %.1f MB, training waited %.3f s", prefix, done.size_bytes / 1e6, waited_s)
