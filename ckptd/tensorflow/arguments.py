"""Checks of the arguments of a Saver and a manager."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.python.client.session import SessionInterface

from ckptd.client.paths.latest import as_text
from ckptd.errors import InvalidRequestError
from ckptd.tensorflow.refusals import NoSessionError

SaverDef = tf.compat.v1.train.SaverDef


def step_number(sess: Any, global_step: Any) -> int | None:
    """Return a step: a whole number itself, or the value of a tensor, a variable or a name."""
    if global_step is None:
        return None
    if isinstance(global_step, (int, np.integer)):
        return int(global_step)
    return int(tf.compat.v1.train.global_step(sess, global_step))


def path_text(path: Any) -> str:
    """Return a path, which may be bytes, as text.

    Raises:
        InvalidRequestError: it is not UTF-8, as paths in a state file are.
    """
    try:
        text = path.decode() if isinstance(path, bytes) else as_text(path)
        text.encode()
    except UnicodeError as error:
        raise InvalidRequestError(
            "a checkpoint path that is not UTF-8 cannot be in a state file", actual=repr(path)
        ) from error
    return text


def check_session(sess: Any, saver_def: Any) -> None:
    """Refuse a value that is not a session, or a session of another graph; an empty Saver has no operations.

    Raises:
        NoSessionError: a TypeError, as with TensorFlow.
    """
    if not isinstance(sess, SessionInterface):
        raise NoSessionError(f"'sess' must be a Session; {sess}")
    if saver_def is None:
        return
    try:
        sess.graph.get_operation_by_name(saver_def.restore_op_name)
    except KeyError as error:
        reason = f"the session runs another graph than the Saver was made in: there is no {saver_def.restore_op_name!r}"
        raise NoSessionError(reason) from error


def tensorflows_saver_def(saver_def: Any) -> Any:
    """Return a SaverDef as TensorFlow's message, from that, from ours, or from the bytes of one."""
    if saver_def is None or isinstance(saver_def, SaverDef):
        return saver_def
    data = saver_def if isinstance(saver_def, bytes) else saver_def.SerializeToString()
    return SaverDef.FromString(data)


def check_options(options: Any) -> None:
    """Refuse options that a save would ignore: ckptd decides which process writes, and into how many files.

    Raises:
        InvalidRequestError: naming the option.
    """
    if options is None:
        return
    if not isinstance(options, tf.train.CheckpointOptions):
        raise InvalidRequestError(f"options are a tf.train.CheckpointOptions, not a {type(options).__name__}")
    if options.experimental_sharding_callback is not None:
        raise InvalidRequestError("experimental_sharding_callback is not taken: leave it out; there is one data file")
    if options.experimental_io_device is not None:
        device = tf.DeviceSpec.from_string(options.experimental_io_device)
        is_here = device.job in (None, "localhost") and device.task in (None, 0)
        if not is_here or device.device_type not in (None, "CPU"):
            raise InvalidRequestError(
                "experimental_io_device is this host only; for another one give the address of a daemon there",
                expected="/job:localhost",
                actual=options.experimental_io_device,
            )
