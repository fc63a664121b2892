"""Saving and loading the weights of a Hugging Face training: the model, or the adapters of a PEFT model."""

from __future__ import annotations

import logging
import sys
from typing import Any

from ckptd.errors import InvalidRequestError
from ckptd.torch.adapters import Adapters
from ckptd.torch.filling import Filling
from ckptd.torch.stored import Stored
from ckptd.trees.class_kinds import Classes

_log = logging.getLogger("ckptd.torch")


def filled(stored: Stored, into: dict[str, Any]) -> dict[str, Any]:
    """Return `into` with the stored values of its keys; all of them have to be stored."""
    state: dict[str, Any] = Filling(stored, None, strict=True, classes=Classes(())).load(into).state
    return state


def fill_model(stored: Stored, model: Any) -> Any:
    """Load the weights as the trainer does: log missing ones, cast other dtypes. Return the object that was filled."""
    into = place_of(model, stored.tree["model"])
    loaded = Filling(stored, None, strict=False, cast="any", classes=Classes(())).load({"model": into})
    if loaded.mismatched_keys:
        raise InvalidRequestError(
            f"{stored.prefix} does not fit the model: {'; '.join(map(str, loaded.mismatched_keys[:10]))}"
        )
    unexpected = [name for name in loaded.unexpected_keys if name.startswith("model/")]
    for kind, names in (("missing", loaded.missing_keys), ("not in the model", unexpected)):
        if names:
            _log.warning("%s: weights that are %s: %s", stored.prefix, kind, ", ".join(names))
    return into


def place_of(model: Any, weights: Any) -> Any:
    """Return the object to load such weights into: the model, or its adapters."""
    return Adapters(model) if adapters_of(model) and set(weights) == set(adapters_of(model)) else model


def adapters_of(model: Any) -> Any:
    """Return the adapters of a ``peft.PeftModel`` by name; nothing for another model."""
    peft = sys.modules.get("peft")  # a program with such a model has imported it
    return model.peft_config if peft is not None and isinstance(model, peft.PeftModel) else {}
