"""What callers may write for a Saver's arguments."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from ckptd.client.finding import as_text

SaverDef = tf.compat.v1.train.SaverDef


def step_number(sess: Any, global_step: Any) -> int | None:
    """Return a step: a whole number is one, of a tensor, a variable or a name it is the value."""
    if global_step is None:
        return None
    if isinstance(global_step, (int, np.integer)):
        return int(global_step)
    return int(tf.compat.v1.train.global_step(sess, global_step))


def path_text(path: Any) -> str:
    """Return a path, which may be bytes, as text."""
    return path.decode() if isinstance(path, bytes) else as_text(path)


def tensorflows_saver_def(saver_def: Any) -> Any:
    """Return a SaverDef as TensorFlow's message; given are that, ours, or the bytes of one."""
    if saver_def is None or isinstance(saver_def, SaverDef):
        return saver_def
    data = saver_def if isinstance(saver_def, bytes) else saver_def.SerializeToString()
    return SaverDef.FromString(data)
