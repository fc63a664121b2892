"""The state of the random generators that training uses, as tensors: a row for each rank."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from ckptd.client.slice import Slice
from ckptd.errors import InvalidRequestError


def random_state(rank: int = 0, world_size: int = 1) -> dict[str, Slice]:
    """Return the state of torch's, numpy's and Python's generators, to save it with other state.

    Each is a tensor with a row per rank; this rank has one row. The generator of the current accelerator is included.
    """
    version, words, gauss = random.getstate()
    _, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    rows: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "python": np.array([version, *words], np.int64),
        "python_gauss": np.array([np.nan if gauss is None else gauss], np.float64),
        "numpy": np.array([*keys, position, has_gauss], np.int64),
        "numpy_gauss": np.array([cached], np.float64),
    }
    if torch.cuda.is_available():
        rows["cuda"] = torch.cuda.get_rng_state()
    return {
        name: Slice(row[None], full_shape=(world_size, *row.shape), start=(rank, *[0] * row.ndim))
        for name, row in rows.items()
    }


def set_random_state(state: Mapping[str, Any], rank: int = 0) -> bool:
    """Set the generators to a state from `random_state` that was loaded.

    Returns:
        False, and nothing is changed, if fewer ranks saved it and this one has no row.

    Raises:
        InvalidRequestError: it is not such a state.
    """
    try:
        rows = {name: np.asarray(value) for name, value in state.items()}
        if rank >= len(rows["torch"]):
            return False
        version, *words = rows["python"][rank].tolist()
        gauss = rows["python_gauss"][rank].item()
        *keys, position, has_gauss = rows["numpy"][rank].tolist()
        random.setstate((version, tuple(words), None if np.isnan(gauss) else gauss))
        cached = rows["numpy_gauss"][rank].item()
        np.random.set_state(("MT19937", np.array(keys, np.uint32), position, has_gauss, cached))
        torch.set_rng_state(torch.from_numpy(rows["torch"][rank].copy()))
        if "cuda" in rows and torch.cuda.is_available():
            torch.cuda.set_rng_state(torch.from_numpy(rows["cuda"][rank].copy()))
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InvalidRequestError(f"not the state of random generators: {error}") from error
    return True
