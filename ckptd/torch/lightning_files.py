"""Reading a file that Lightning itself has written, as long as it holds only tensors and plain values."""

from __future__ import annotations

import pickle
from typing import Any

import torch

from ckptd.errors import InvalidRequestError


def load_lightning_file(where: str, map_location: Any) -> dict[str, Any]:
    """Return the checkpoint in the file; nothing of it is run.

    Raises:
        InvalidRequestError: it holds objects that only unpickling would bring back, or is no checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(where, map_location=map_location or "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidRequestError(
            "this file is no checkpoint of ckptd; as one of Lightning's own it holds objects that only unpickling "
            f"brings back, which ckptd never does ({str(error).splitlines()[0]}): load it with `torch.load(path, "
            "weights_only=False)`, take them out, and `torch.save` the rest",
            key=where,
        ) from error
    if not isinstance(state, dict):
        raise InvalidRequestError("this file holds no checkpoint of Lightning", key=where, actual=type(state).__name__)
    return state
