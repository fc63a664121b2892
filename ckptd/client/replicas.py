"""Values that several ranks hold: their digests, and the report of those that differ.

Digests are taken while training stands still, so only of what is small: counters, settings, biases, statistics. Ten
thousand numbers take about two milliseconds.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ckptd.client.capture.inventory import EncodedStrings, Inventory, Source
from ckptd.client.parts import NamedParts
from ckptd.client.saving.transport import SaveRequest
from ckptd.engine.manifest import STRING, VARIANT
from ckptd.engine.replicas import (
    MOST_PARTS,
    MOST_REMARKED_BYTES,
    MOST_REMARKS,
    VALUE_BYTES,
    Compared,
    Difference,
    Remark,
    told,
)
from ckptd.errors import InvalidRequestError
from ckptd.format import crc32c

_log = logging.getLogger("ckptd.client")

POLICIES = ("warn", "refuse", "first")

_SMALL_BYTES = 64 << 10
_MOST_BYTES = 2 << 20  # together, the smallest first

_told: set[tuple[str, str, str]] = set()  # address, run, tensor: every save would repeat the warning


def check_policy(policy: str) -> str:
    """Return the policy for values that differ between ranks, if it is a known one."""
    if policy not in POLICIES:
        raise InvalidRequestError("replicas", expected=" or ".join(POLICIES), actual=repr(policy))
    return policy


def with_digests(
    request: SaveRequest, arrays: Mapping[str, Any], inventory: Inventory, policy: str, may_differ: Collection[str]
) -> SaveRequest:
    """Return the request of a save of several ranks with what the daemon compares.

    Args:
        request: of the save.
        arrays: what is saved, maybe `NamedParts`.
        inventory: of the arrays.
        policy: what is done about values that differ, one of `POLICIES`.
        may_differ: names whose values need not be the same.
    """
    if policy == "first":
        return request
    remarks: tuple[Remark, ...] = ()
    if isinstance(arrays, NamedParts):
        may_differ = {*may_differ, *arrays.may_differ}
        remarks = _bounded(each for each in arrays.remarks() if each.name not in may_differ)
    refuses = policy == "refuse"
    return replace(request, compared=compared(inventory, may_differ), remarks=remarks, refuses_differences=refuses)


def _bounded(remarks: Iterable[Remark]) -> tuple[Remark, ...]:
    kept: list[Remark] = []
    size_bytes = 0
    for each in remarks:
        size_bytes += len(each.name) + len(each.what)
        if len(kept) == MOST_REMARKS or size_bytes > MOST_REMARKED_BYTES:
            break
        kept.append(each)
    return tuple(kept)


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
    """Warn of values that differ between ranks, of each name in a run once."""
    new = [each for each in differences if (address, run, each.name) not in _told]
    _told.update((address, run, each.name) for each in new)
    values = [each for each in new if not each.is_contradiction]
    if values:
        _log.warning(
            "%s: ranks have other values under one name, and one rank's is stored for all: %s. Give each rank a name "
            "of its own if the others matter; may_differ=, or replicas='first', says that they do not",
            run,
            told(values),
        )
    contradictions = [each for each in new if each.is_contradiction]
    if contradictions:
        _log.warning(
            "%s: ranks contradict each other, and a load of all of it will be refused: %s. Give each rank a name of "
            "its own; without these names, or with strict=False, the checkpoint can be loaded",
            run,
            told(contradictions),
        )
