"""What other ranks may hold as well: digests of it, and what is told of values that differ.

Digests are taken while training stands still, so only of what is small: counters, settings, biases, statistics. Ten
thousand numbers take about two milliseconds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Sequence

import numpy as np

from ckptd.client.capture.inventory import EncodedStrings, Inventory, Source
from ckptd.engine.manifest import STRING, VARIANT
from ckptd.engine.replicas import MOST_PARTS, VALUE_BYTES, Compared, Difference, told
from ckptd.errors import InvalidRequestError
from ckptd.format import crc32c

_log = logging.getLogger("ckptd.client")

POLICIES = ("warn", "refuse", "first")

_SMALL_BYTES = 64 << 10
_MOST_BYTES = 8 << 20  # together, the smallest first

_told: set[tuple[str, str, str]] = set()  # address, run, tensor: each save would say the same again


def check_policy(policy: str) -> str:
    """Return what is done about values that differ between ranks, if it is one of those that there are."""
    if policy not in POLICIES:
        raise InvalidRequestError("replicas", expected=" or ".join(POLICIES), actual=repr(policy))
    return policy


def compared(inventory: Inventory, may_differ: Collection[str] = ()) -> Compared | None:
    """Return digests of the small parts, None if there are none; not of tensors that `may_differ`."""
    manifest = inventory.manifest
    sizes = manifest.sizes
    is_wanted = (sizes > 0) & (sizes <= _SMALL_BYTES)
    if may_differ:
        is_wanted &= np.array([name not in may_differ for name in manifest.names], bool)[manifest.tensor]
    rows = np.flatnonzero(is_wanted)
    if len(rows) > MOST_PARTS or int(sizes[rows].sum()) > _MOST_BYTES:
        smallest = rows[np.argsort(sizes[rows], kind="stable")][:MOST_PARTS]
        rows = np.sort(smallest[np.cumsum(sizes[smallest]) <= _MOST_BYTES])
    if not len(rows):
        return None
    is_number = ~np.isin(np.array(manifest.dtypes)[manifest.tensor[rows]], (STRING, VARIANT))
    are_values = (is_number & (sizes[rows] <= VALUE_BYTES)).tolist()
    sources = inventory.sources
    digests = [
        _digest(sources[row], is_value=is_value) for row, is_value in zip(rows.tolist(), are_values, strict=True)
    ]
    return Compared(rows, np.array(digests, np.uint64))


def _digest(source: Source, *, is_value: bool) -> int:
    if isinstance(source, EncodedStrings):
        return crc32c.extend(crc32c.crc32c(source.head), source.payload)
    data = source.tobytes() if source.dtype.isnative else source.astype(source.dtype.newbyteorder("<")).tobytes()
    return int.from_bytes(data, "little") if is_value else crc32c.crc32c(data)


def tell(address: str, run: str, differences: Sequence[Difference]) -> None:
    """Warn of values that differ between ranks, of each tensor of a run once."""
    new = [each for each in differences if (address, run, each.name) not in _told]
    _told.update((address, run, each.name) for each in new)
    if new:
        _log.warning(
            "%s: ranks have other values under one name, and the lowest rank's is stored for all: %s. Give each rank a "
            "name of its own if the others matter; may_differ= says that they do not",
            run,
            told(new),
        )
