"""Hugging Face's `Trainer` as a callback needs it: which one it is, and its methods that the callback stands in for.

The trainer hands its callbacks neither itself nor the moment at which it saves: between an evaluation and the next
step, once it is known whether this step is the best one. So some of its methods are replaced, on this one object. They
are its own again as soon as the callback is no longer among its callbacks.
"""

from __future__ import annotations

import importlib
import inspect
import logging
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from ckptd.errors import InvalidRequestError

_transformers: Any = importlib.import_module("transformers")  # its types are not looked at
_log = logging.getLogger("ckptd.torch")

_Ours = Callable[..., Any]
"""Stands in for a method: is called with the trainer's own one, and with what that would get."""

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
        self._former = vars(trainer).get(name)  # another library's

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        trainer = self._trainer()
        stock = self._former or getattr(type(trainer), self._name).__get__(trainer)
        if not has_callback(trainer, self.callback):
            return stock(*args, **kwargs)
        return self._ours(stock, *args, **kwargs)


def has_callback(trainer: Any, callback: Any) -> bool:
    """Tell whether `callback` is among those of a trainer."""
    return any(one is callback for one in trainer.callback_handler.callbacks)


def caller_of(callback: Any) -> Any:
    """Return the trainer that is telling `callback` of something; None if none is found among the callers."""
    frame = inspect.currentframe()
    while frame is not None:
        for one in list(frame.f_locals.values()):
            if issubclass(type(one), _transformers.Trainer) and has_callback(one, callback):
                return one
        frame = frame.f_back
    return None


def check_trainer(trainer: Any) -> None:
    """Look whether what is to be saved can be.

    Raises:
        InvalidRequestError: it is no trainer of transformers, or trains in a way of which only a part would be saved.
    """
    if not isinstance(trainer, _transformers.Trainer):
        raise InvalidRequestError(
            "CkptdCallback is for transformers.Trainer and what extends it; with another loop call ckptd.torch.save",
            actual=f"{type(trainer).__module__}.{type(trainer).__qualname__}",
        )
    for attribute, called in _OTHER_WAYS.items():
        if getattr(trainer, attribute, False):
            raise InvalidRequestError(
                f"CkptdCallback does not save {called}: leave the callback out, and the trainer saves it in its own way"
            )
    if not hasattr(trainer.state, "best_global_step"):
        raise InvalidRequestError(
            "the trainer does not say which step was the best one: this needs a newer transformers",
            actual=_transformers.__version__,
        )


def stand_in(trainer: Any, callback: Any, methods: Mapping[str, _Ours]) -> None:
    """Have methods of a trainer replaced for as long as `callback` is among its callbacks. May be repeated.

    Raises:
        InvalidRequestError: the trainer has no such method, or another callback of the same kind took it.
    """
    for name in methods:
        if not callable(getattr(type(trainer), name, None)):
            raise InvalidRequestError(
                f"transformers {_transformers.__version__} has no Trainer.{name}, which CkptdCallback stands in for"
            )
        there = vars(trainer).get(name)
        if isinstance(there, _StandIn) and there.callback is not callback and has_callback(trainer, there.callback):
            raise InvalidRequestError(
                "the trainer has two CkptdCallbacks, and only one can resume it and take over its saves: remove one"
            )
    for name, ours in methods.items():
        there = vars(trainer).get(name)
        if isinstance(there, _StandIn) and there.callback is callback:
            continue
        if isinstance(there, _StandIn):
            delattr(trainer, name)  # of a callback that was removed
        setattr(trainer, name, _StandIn(trainer, callback, name, ours))


def warn_of_what_is_left_out(trainer: Any) -> None:
    """Tell what the trainer, or a class that extends it, would do as it saves, and does not when it is not called."""
    args = trainer.args
    if type(trainer)._save_checkpoint is not _transformers.Trainer._save_checkpoint:
        _log.warning(
            "%s._save_checkpoint is not called, as CkptdCallback saves instead; with alone=False it is, too",
            type(trainer).__name__,
        )
    if args.push_to_hub and args.hub_strategy != "end":
        _log.warning(
            "push_to_hub: CkptdCallback leaves no checkpoints of the trainer to upload during training; "
            "trainer.push_to_hub() uploads the model at the end, and with alone=False hub_strategy=%r is followed",
            str(getattr(args.hub_strategy, "value", args.hub_strategy)),
        )
