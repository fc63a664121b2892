"""Finds out what caused a save of Lightning, which does not tell its plugins.

A save that a callback of the trainer makes need not wait. A save that the program makes has to be durable on return:
the program may use the file at once.
"""

from __future__ import annotations

import inspect

_CALLBACKS = ("lightning.pytorch.callbacks.", "pytorch_lightning.callbacks.")
_SAVING = "save_checkpoint"  # the name in trainer, strategy and plugin


def is_rhythm() -> bool:
    """Return whether one of Lightning's own callbacks, such as `ModelCheckpoint`, called ``trainer.save_checkpoint``.

    Only the modules and names of functions are compared. A trainer class of the program in between makes no difference;
    a subclass of a callback that makes a call itself counts as the program. Every other call waits.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != _SAVING:
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name == _SAVING:
        frame = frame.f_back
    return frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(_CALLBACKS)
