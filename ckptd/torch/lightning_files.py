"""Reading a file that Lightning itself has written, if it holds only tensors and plain values."""

from __future__ import annotations

import pickle
from typing import Any

import torch

from ckptd.errors import InvalidRequestError


def load_lightning_file(where: str, map_location: Any) -> dict[str, Any]:
    """Return the checkpoint in the file, without running any code from it.

    Raises:
        InvalidRequestError: it holds objects that need unpickling, or is not a checkpoint.
    """
    try:
        state: dict[str, Any] = torch.load(where, map_location=map_location or "cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise InvalidRequestError(
            "this file is not a checkpoint of ckptd. As a file of Lightning it holds objects that need unpickling, "
            f"which ckptd never does ({str(error).splitlines()[0]}): load it with `torch.load(path, "
            "weights_only=False)`, remove the objects, and `torch.save` the rest",
            key=where,
        ) from error
    if not isinstance(state, dict):
        raise InvalidRequestError("this file is not a checkpoint of Lightning", key=where, actual=type(state).__name__)
    return state
