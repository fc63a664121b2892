"""Hugging Face's `Trainer` for a callback: finding the trainer, and replacing some of its methods.

The trainer does not pass itself to its callbacks, nor does it call them at the moment at which it saves: between an
evaluation and the next step, once it is known whether this step is the best one. So some of its methods are replaced,
on this one object. Its own methods are used again as soon as the callback is no longer among its callbacks.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ckptd.errors import InvalidRequestError

_transformers: Any = importlib.import_module("transformers")  # its types are not checked
_log = logging.getLogger("ckptd.torch")

_Ours = Callable[..., Any]
"""Replaces a method: is called with the trainer's own method and with its arguments."""

_OTHER_WAYS = {
    "is_fsdp_enabled": "FSDP",
    "is_fsdp_xla_enabled": "FSDP",
    "is_deepspeed_enabled": "DeepSpeed",
    "is_distributed_loading_by_transformers": "a model that is sharded as it is loaded",
}


class _StandIn:
    """What a trainer calls instead of one of its methods."""

    def __init__(self, trainer: Any, callback: Any, name: str, ours: _Ours) -> None:
        self._trainer = weakref.ref(trainer)
        self.callback = callback
        self._name = name
        self._ours = ours
        self._former = vars(trainer).get(name)  # set by another library

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trainer = self._trainer()
        stock = self._former or getattr(type(trainer), self._name).__get__(trainer)
        if not has_callback(trainer, self.callback):
            return stock(*args, **kwargs)
        return self._ours(stock, *args, **kwargs)


def has_callback(trainer: Any, callback: Any) -> bool:
    """Return whether `callback` is among those of a trainer."""
    return any(one is callback for one in trainer.callback_handler.callbacks)


def caller_of(callback: Any) -> Any:
    """Return the trainer that calls `callback` now; None if no caller is one."""
    frame = inspect.currentframe()
    while frame is not None:
        for one in list(frame.f_locals.values()):
            if issubclass(type(one), _transformers.Trainer) and has_callback(one, callback):
                return one
        frame = frame.f_back
    return None


def check_trainer(trainer: Any) -> None:
    """Check that all state of a trainer can be saved.

    Raises:
        InvalidRequestError: it is not a trainer of transformers, or only a part of its state could be saved.
    """
    if not isinstance(trainer, _transformers.Trainer):
        raise InvalidRequestError(
            "CkptdCallback is for transformers.Trainer and its subclasses; with another loop call ckptd.torch.save",
            actual=f"{type(trainer).__module__}.{type(trainer).__qualname__}",
        )
    for attribute, called in _OTHER_WAYS.items():
        if getattr(trainer, attribute, False):
            raise InvalidRequestError(
                f"CkptdCallback does not save {called}: remove the callback, and the trainer saves in its own way"
            )
    if not hasattr(trainer.state, "best_global_step"):
        raise InvalidRequestError(
            "the trainer does not report the step of the best model: install a newer transformers",
            actual=_transformers.__version__,
        )


def stand_in(trainer: Any, callback: Any, methods: Mapping[str, _Ours]) -> None:
    """Replace methods of a trainer for as long as `callback` is among its callbacks. May be repeated.

    Raises:
        InvalidRequestError: the trainer has no such method, or another callback of the same kind has replaced it.
    """
    for name in methods:
        if not callable(getattr(type(trainer), name, None)):
            raise InvalidRequestError(
                f"transformers {_transformers.__version__} has no Trainer.{name}, which CkptdCallback replaces"
            )
        there = vars(trainer).get(name)
        if isinstance(there, _StandIn) and there.callback is not callback and has_callback(trainer, there.callback):
            raise InvalidRequestError(
                "the trainer has two CkptdCallbacks, and only one can save and resume it: remove one"
            )
    for name, ours in methods.items():
        there = vars(trainer).get(name)
        if isinstance(there, _StandIn) and there.callback is callback:
            continue
        if isinstance(there, _StandIn):
            delattr(trainer, name)  # of a callback that was removed
        setattr(trainer, name, _StandIn(trainer, callback, name, ours))


def warn_of_what_is_left_out(trainer: Any) -> None:
    """Warn about work that the trainer, or a subclass, does when it saves, and that is skipped now."""
    args = trainer.args
    if type(trainer)._save_checkpoint is not _transformers.Trainer._save_checkpoint:
        _log.warning(
            "%s._save_checkpoint is not called, as CkptdCallback saves instead; with alone=False it is called, too",
            type(trainer).__name__,
        )
    if args.push_to_hub and args.hub_strategy != "end":
        _log.warning(
            "push_to_hub: CkptdCallback leaves no checkpoints of the trainer to upload during training; "
            "trainer.push_to_hub() uploads the model at the end, and with alone=False hub_strategy=%r is followed",
            str(getattr(args.hub_strategy, "value", args.hub_strategy)),
        )
