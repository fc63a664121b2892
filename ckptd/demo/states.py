"""Digests of whole states: as the workers reported their parts, and as they are read back from disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

import ckptd
from ckptd.demo import fingerprint
from ckptd.demo.fingerprint import RowDigests
from ckptd.demo.network import PARTITIONED
from ckptd.demo.processes import Event


def as_told(events: Sequence[Event]) -> str | None:
    """Return the digest of the state; each event has one worker's rows.

    None when they make up no state: rows are missing, or workers disagree about one.
    """
    parts = []
    for event in events:
        rows = event.facts["rows"]
        assert isinstance(rows, dict)
        parts.append({name: RowDigests(held["begin"], tuple(held["digests"])) for name, held in rows.items()})
    try:
        return fingerprint.combine(parts)
    except ValueError:
        return None


def read(prefix: str) -> dict[str, NDArray[np.generic]]:
    """Read a whole checkpoint."""
    reader = ckptd.load_checkpoint(prefix)
    return {name: reader.get_tensor(name) for name in reader}


def digest(whole: Mapping[str, NDArray[np.generic]]) -> str:
    """Return the digest of a state that is all in one place; equal to that of the workers that held its parts."""
    return fingerprint.combine(
        [
            {
                name: fingerprint.of_rows(array) if name.startswith(PARTITIONED) else fingerprint.of_whole(array)
                for name, array in whole.items()
            }
        ]
    )
