"""What makes Lightning save: its interface for plugins does not say.

A call by the trainer's own rhythm need not wait. One that a program makes has to: the program goes on to use the file.
"""

from __future__ import annotations

import inspect

_CALLBACKS = ("lightning.pytorch.callbacks.", "pytorch_lightning.callbacks.")
_SAVING = "save_checkpoint"  # what trainer, strategy and plugin call their part


def is_rhythm() -> bool:
    """Tell whether a callback of Lightning's own, such as `ModelCheckpoint`, has called ``trainer.save_checkpoint``.

    Only the modules and names of functions are looked at. A program's own trainer in between changes nothing; a
    callback's subclass that makes a call itself is the program. Whatever looks otherwise is waited for.
    """
    frame = inspect.currentframe()
    while frame is not None and frame.f_code.co_name != _SAVING:
        frame = frame.f_back
    while frame is not None and frame.f_code.co_name == _SAVING:
        frame = frame.f_back
    return frame is not None and f"{frame.f_globals.get('__name__')}.".startswith(_CALLBACKS)
