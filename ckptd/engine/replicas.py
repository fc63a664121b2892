"""What several ranks hold under one name, and whether it is the same on all of them. Pure.

Of a box that several ranks hold one rank's bytes are stored. The ranks declare digests of the small ones, so that a
value that differs, such as a counter of each rank's own, is not lost silently: the save is refused, or a warning is
logged, as its caller has chosen, and the value of the lowest rank that holds it is stored.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.wording import describe_ranks
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes

if TYPE_CHECKING:
    from ckptd.engine.layout import Layout

VALUE_BYTES = 8
"""A value of at most so many bytes is its own digest, so that it can be shown."""

MOST_PARTS = 40_000
"""Of one rank: their digests travel in one message, beside a graph of 3 MiB."""

MOST_REMARKS = 1_000
MOST_REMARKED_BYTES = 256 << 10
"""Of one rank, their names and words together."""

_MOST_TOLD = 100
_MOST_SHOWN = 5  # in one line
_MOST_VALUES = 4  # of one tensor
_ROW_BITS = 32


@dataclass(frozen=True, eq=False, slots=True)
class Compared:
    """Digests of what one rank saves, to be compared with what others save under the same names.

    Attributes:
        rows: of its manifest, ascending.
        digests: per row, the stored bytes as a little-endian number if they are at most `VALUE_BYTES` and of a dtype
            of numbers, else their CRC-32C.
    """

    rows: NDArray[np.int64]
    digests: NDArray[np.uint64]


@dataclass(frozen=True, eq=False, slots=True)
class Replicas:
    """The parts that are boxes of several ranks, a row each: by box, then by rank, ascending.

    Attributes:
        box: which box, numbered from 0.
        tensor: of the layout.
        rank, item: the rank that holds it, and the row of its manifest.
        size: bytes.
    """

    box: NDArray[np.int64]
    tensor: NDArray[np.int64]
    rank: NDArray[np.int64]
    item: NDArray[np.int64]
    size: NDArray[np.int64]


NO_REPLICAS = Replicas(*(np.zeros(0, np.int64) for _ in range(5)))


@dataclass(frozen=True, slots=True)
class Remark:
    """What one rank has under a name beside its tensors, to be compared with what others have there.

    Attributes:
        name: as a tensor would be called that lies there.
        digest: of all that has to be the same.
        what: in words for people.
        is_outline: part of an outline, of which each rank stores its own: what differs can't be loaded in one.
    """

    name: str
    digest: int
    what: str
    is_outline: bool = True


@dataclass(frozen=True, slots=True)
class Difference:
    """What differs between ranks: its name, and which ranks say what, in words for people.

    Of a contradiction each rank's own is stored, and they can't be loaded in one. Else one rank's stands for all.
    """

    name: str
    what: str
    is_contradiction: bool = False

    def __str__(self) -> str:
        return f"{self.name!r} is {self.what}"


def differences(layout: Layout, compared: Mapping[int, Compared]) -> tuple[Difference, ...]:
    """Return the names that several ranks hold with different values, as far as they declared digests; at most 100.

    Args:
        layout: of the save.
        compared: rank → its digests.
    """
    replicas = layout.replicas
    known, digests = _digests(replicas, compared)
    box, digests = replicas.box[known], digests[known]
    if not len(box):
        return ()
    begins = np.flatnonzero(np.diff(box, prepend=-1))
    ends = np.append(begins[1:], len(box))
    first = np.repeat(digests[begins], ends - begins)
    found: dict[str, Difference] = {}
    for at in np.flatnonzero(np.logical_or.reduceat(digests != first, begins)).tolist():
        rows = slice(int(begins[at]), int(ends[at]))
        row = int(known[rows][0])
        name = layout.names[int(replicas.tensor[row])]
        if name not in found:
            number = layout.dtypes[int(replicas.tensor[row])]
            what = _told(digests[rows], replicas.rank[known[rows]], number, int(replicas.size[row]))
            found[name] = Difference(name, what)
        if len(found) == _MOST_TOLD:
            break
    return tuple(found.values())


def remarked(remarks: Mapping[int, tuple[Remark, ...]], tensors: Collection[str]) -> tuple[Difference, ...]:
    """Return what ranks remark differently; at most 100.

    Args:
        remarks: rank → its remarks.
        tensors: names of all tensors: where an outline has something else, one rank contradicts another.
    """
    # Most ranks remark the same; equal remarks are checked once.
    ranks_of: dict[tuple[Remark, ...], list[int]] = {}
    for rank, said in remarks.items():
        ranks_of.setdefault(said, []).append(rank)
    by_name: dict[str, dict[int, tuple[Remark, list[int]]]] = {}
    for said, ranks in ranks_of.items():
        for remark in said:
            by_name.setdefault(remark.name, {}).setdefault(remark.digest, (remark, []))[1].extend(ranks)
    found: list[Difference] = []
    for name, by_digest in by_name.items():
        is_outline = any(remark.is_outline for remark, _ in by_digest.values())
        is_tensor_elsewhere = is_outline and name in tensors
        if len(by_digest) > 1 or is_tensor_elsewhere:
            found.append(Difference(name, _remarks_told(list(by_digest.values()), is_tensor_elsewhere), is_outline))
        if len(found) == _MOST_TOLD:
            break
    return tuple(found)


def _remarks_told(said: Sequence[tuple[Remark, list[int]]], is_tensor_elsewhere: bool) -> str:
    if len(said) > 1 and len({remark.what for remark, _ in said}) == 1:
        return _not_the_same([ranks for _, ranks in said])
    told = [f"{remark.what} on {describe_ranks(ranks)}" for remark, ranks in said]
    return _few([*told, "a tensor on another"] if is_tensor_elsewhere else told)


def told(differences: Sequence[Difference]) -> str:
    """Return differences as text, the first few of many."""
    more = f"; and {len(differences) - _MOST_SHOWN} more" if len(differences) > _MOST_SHOWN else ""
    return "; ".join(map(str, differences[:_MOST_SHOWN])) + more


def refusal(differences: Sequence[Difference]) -> InvalidRequestError:
    """Return the error of a save that is not to store what differs."""
    return InvalidRequestError(
        f"ranks have other values under one name: {told(differences)}. Make them equal before the save, or give each "
        "rank a name of its own; may_differ=, or replicas='warn', saves all the same"
    )


def _digests(replicas: Replicas, compared: Mapping[int, Compared]) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the rows of `replicas` whose digests are known, and the digest of each row."""
    digests = np.zeros(len(replicas.rank), np.uint64)
    if not compared or not len(replicas.rank):
        return np.zeros(0, np.int64), digests
    ranks = sorted(compared)
    declared = np.concatenate([(np.int64(rank) << _ROW_BITS) + compared[rank].rows for rank in ranks])
    wanted = (replicas.rank << _ROW_BITS) + replicas.item
    at = np.minimum(np.searchsorted(declared, wanted), max(len(declared) - 1, 0))
    is_known = declared[at] == wanted if len(declared) else np.zeros(len(wanted), bool)
    values = np.concatenate([compared[rank].digests for rank in ranks])
    digests[is_known] = values[at[is_known]]
    return np.flatnonzero(is_known), digests


def _told(digests: NDArray[np.uint64], ranks: NDArray[np.int64], number: int, size: int) -> str:
    ranks_of: dict[int, list[int]] = {}
    for digest, rank in zip(digests.tolist(), ranks.tolist(), strict=True):
        ranks_of.setdefault(digest, []).append(rank)
    (_, first), *others = ranks_of.items()
    if not is_value(number, size):
        return (
            f"not the same on {describe_ranks(first)} as on {describe_ranks([r for _, each in others for r in each])}"
        )
    return _few([f"{_value(digest, number, size)} on {describe_ranks(each)}" for digest, each in ranks_of.items()])


def _not_the_same(groups: Sequence[Sequence[int]]) -> str:
    """Return which ranks have another value than the first, for values that are not shown."""
    others = [rank for each in groups[1:] for rank in each]
    return f"not the same on {describe_ranks(groups[0])} as on {describe_ranks(others)}"


def _few(told: Sequence[str]) -> str:
    return ", ".join(told[:_MOST_VALUES]) + (
        f", and {len(told) - _MOST_VALUES} more values" if told[_MOST_VALUES:] else ""
    )


def is_value(number: int, size: int) -> bool:
    """Whether the digest of such a part is its value."""
    dtype = dtypes.by_number(number)
    return size <= VALUE_BYTES and not dtype.is_string and not dtype.is_variant


def _value(digest: int, number: int, size: int) -> str:
    data = digest.to_bytes(VALUE_BYTES, "little")[:size]
    values = np.frombuffer(data, dtypes.by_number(number).array).tolist()
    return str(values[0] if len(values) == 1 else values)
