"""`CheckpointSaverHook`: saving during a ``MonitoredTrainingSession``, by the policy of TensorFlow's Estimators.

When and what it saves, its listeners, ``graph.pbtxt`` and the events are TensorFlow's own; the Saver is ckptd's.
Source: TensorFlow ``tensorflow/python/training/basic_session_run_hooks.py``.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from ckptd.client.paths.environment import given_address
from ckptd.client.paths.latest import as_text
from ckptd.tensorflow.refusals import RefusedError
from ckptd.tensorflow.saver import Saver, adopted

_SAVERS = tf.compat.v1.GraphKeys.SAVERS

DEFAULT_SAVE_SECS = 600
_HOUSEKEEPING: dict[str, Any] = {"max_to_keep": 5, "keep_checkpoint_every_n_hours": 10000.0}


class CheckpointSaverHook(tf.compat.v1.train.CheckpointSaverHook):  # type: ignore[misc]
    """Saves before the first step, every so many seconds or steps, and after the last one. Keeps five.

    ::

        hook = ckptd.tensorflow.CheckpointSaverHook("./model", save_steps=1000)
        with tf.compat.v1.train.MonitoredTrainingSession(
            checkpoint_dir="./model", save_checkpoint_secs=None, save_checkpoint_steps=None, hooks=[hook]
        ) as session: ...

    A graph without a Saver gets one of ours, as an Estimator would make it; the session restores with it, too. One of
    TensorFlow's, given or found, is not used itself: one of ours takes over its operations, its list and its numbers.
    """

    def __init__(
        self,
        checkpoint_dir: str | os.PathLike[str],
        save_secs: float | None = None,
        save_steps: int | None = None,
        saver: Any = None,
        checkpoint_basename: str = "model.ckpt",
        scaffold: Any = None,
        listeners: Sequence[Any] | None = None,
        save_graph_def: bool = True,
        *,
        address: str | None = None,
        max_to_keep: int | None = 5,
        keep_checkpoint_every_n_hours: float = 10000.0,
        wait: bool = True,
    ) -> None:
        """Say when to save, and where.

        Args:
            checkpoint_dir: where the checkpoints, ``graph.pbtxt`` and the events are.
            save_secs: how often, in seconds; 600 if `save_steps` is not given either.
            save_steps: how often, in steps.
            saver: which to use.
            checkpoint_basename: the base name of checkpoints.
            scaffold: its Saver is used.
            listeners: TensorFlow's, called before and after every save.
            save_graph_def: write ``graph.pbtxt``, and a ``.meta`` with every checkpoint.
            address: as `Saver` takes it. The session is then restored from the run there, if that has a checkpoint.
            max_to_keep: of a Saver that is made here.
            keep_checkpoint_every_n_hours: of a Saver that is made here.
            wait: False lets training continue while a checkpoint is written; `end` waits for the last one. A listener's
                ``after_save`` is then called when the variables are copied.

        Raises:
            ValueError: TensorFlow's own, for arguments that exclude each other.
        """
        if save_secs is None and save_steps is None:
            save_secs = DEFAULT_SAVE_SECS
        super().__init__(
            as_text(checkpoint_dir),
            save_secs=save_secs,
            save_steps=save_steps,
            saver=saver,
            checkpoint_basename=checkpoint_basename,
            scaffold=scaffold,
            listeners=list(listeners or ()),
            save_graph_def=save_graph_def,
        )
        self._basename = checkpoint_basename
        self._address = address
        self._housekeeping: dict[str, Any] = {
            "max_to_keep": max_to_keep,
            "keep_checkpoint_every_n_hours": keep_checkpoint_every_n_hours,
        }
        self._waits = wait
        self._using: tuple[Any, _Waiting] | None = None

    def begin(self) -> None:
        """Give the graph a Saver if it has none; it is built when all hooks have begun.

        Raises:
            InvalidRequestError: there is one, and it keeps other checkpoints, or elsewhere, than the hook was told.
        """
        super().begin()
        own = self._saver if self._saver is not None or self._scaffold is None else self._scaffold.saver
        found = tf.compat.v1.get_collection(_SAVERS) if own is None else [own]
        for one in found:
            self._check_against(one)
        if not found:
            tf.compat.v1.add_to_collection(
                _SAVERS,
                Saver(
                    sharded=True,
                    defer_build=True,
                    allow_empty=True,
                    save_relative_paths=True,
                    address=self._address,
                    **self._housekeeping,
                ),
            )

    def after_create_session(self, session: Any, coord: Any) -> None:
        """Restore from the address, if there is one and it has a checkpoint; then save the first one."""
        saver = self._get_saver()
        if saver is not None and saver.address:
            latest = saver.latest_checkpoint(self._checkpoint_dir, self._basename)
            if latest is not None:
                saver.restore(session, latest)
        super().after_create_session(session, coord)

    def end(self, session: Any) -> None:
        """Save the last step if it is not saved yet, wait for pending saves, and leave the daemon."""
        super().end(session)
        saver = self._get_saver()
        if saver is not None:
            saver.close()

    def _check_against(self, saver: Any) -> None:
        """Refuse arguments for a Saver that is not made here, if it differs: they would be ignored."""
        definition = saver.saver_def
        has = {
            name: getattr(saver, f"_{name}") if definition is None else getattr(definition, name)
            for name in self._housekeeping
        }
        for name, wanted in self._housekeeping.items():
            if wanted != _HOUSEKEEPING[name] and (wanted or 0) != (has[name] or 0):
                raise RefusedError(
                    f"{name} is for a Saver that the hook makes; there is one, so give it to that",
                    expected=has[name],
                    actual=wanted,
                )
        if self._address is not None and isinstance(saver, Saver) and given_address(self._address) != saver.address:
            raise RefusedError(
                "address is for a Saver that the hook makes or takes over; there is one of ckptd's, so give it to that",
                expected=saver.address,
                actual=self._address,
            )

    def _get_saver(self) -> Any:
        """Return our Saver for the one that TensorFlow's rules find."""
        found = super()._get_saver()
        if found is None:
            return None
        if self._using is None or self._using[0] is not found:
            ours = found if isinstance(found, Saver) else adopted(found, address=self._address)
            self._using = (found, _Waiting(ours, self._waits))
        return self._using[1]


class _Waiting:
    """A Saver whose `save` waits or not, by the argument of the hook."""

    def __init__(self, saver: Saver, wait: bool) -> None:
        self._saver = saver
        self._wait = wait

    def __getattr__(self, name: str) -> Any:
        return getattr(self._saver, name)

    def save(self, *args: Any, **kwargs: Any) -> Any:
        return self._saver.save(*args, wait=self._wait, **kwargs)
