"""What happens to the saves and restores of a training process, for those that want to hear of it.

`Checkpointer(on_event=…)` calls a function with each of these. `TensorBoardWriter` is one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ckptd import lazy

if TYPE_CHECKING:
    from ckptd.events.event import Event, Failed, FellBack, Restored, Saved, Slow
    from ckptd.events.tensorboard import TensorBoardWriter

__all__ = ["Event", "Failed", "FellBack", "Restored", "Saved", "Slow", "TensorBoardWriter"]

_HOMES = dict.fromkeys(__all__, "ckptd.events.event") | {"TensorBoardWriter": "ckptd.events.tensorboard"}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
