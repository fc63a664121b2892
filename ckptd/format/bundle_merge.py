"""Merge several bundles into one, as TensorFlow's ``MergeV2Checkpoints`` joins the parts of a sharded save. Pure.

No tensor moves: the data files get new names, and the index says under which. A data file is given the next free
number when an entry that is in it is met first, inputs being taken in order and the entries of each in key order.
The full entry of a sliced tensor takes part in this although it has no bytes: it is treated as if it lay in the shard
that it names, by default shard 0 of its input. In the merged index it may therefore carry a number that means nothing;
readers ignore it, and TensorFlow writes it.

What TensorFlow merges into something unreadable is refused here: an input with a data file to which no
entry refers (the header would count it, and no file would have its number), an input that is the destination, slices
that overlap, and parts of one tensor that disagree about its dtype or shape.
Source: TensorFlow ``tensorflow/core/util/tensor_bundle/tensor_bundle.cc``, ``MergeBundles``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from ckptd.format import table
from ckptd.format.bundle_pb2 import BundleEntryProto, BundleHeaderProto
from ckptd.format.index import HEADER_KEY, Index
from ckptd.format.names import index_key, shard_key, tensor_name


@dataclass(frozen=True, slots=True)
class MergeInput:
    """One bundle to merge: its prefix, and its index, None where there is no file of that name."""

    prefix: str
    index: Index | None


@dataclass(frozen=True, slots=True)
class DataFile:
    """A data file of an input: `prefix` and the number and count that its name has there."""

    prefix: str
    shard: int
    num_shards: int

    @property
    def key(self) -> str:
        """Its name as it is before the merge."""
        return shard_key(self.prefix, self.shard, self.num_shards)


@dataclass(frozen=True, slots=True)
class MergedBundle:
    """The result of a merge: `index` is the whole index file, `data_files[n]` becomes shard n."""

    index: bytes
    data_files: tuple[DataFile, ...]

    @property
    def num_shards(self) -> int:
        """How many data files the merged bundle has."""
        return len(self.data_files)

    def renames(self, destination: str) -> list[tuple[str, str]]:
        """Return (old key, new key) of every data file; put the index in place after them."""
        return [
            (file.key, shard_key(destination, shard, self.num_shards)) for shard, file in enumerate(self.data_files)
        ]


def merge_bundles(
    inputs: Sequence[MergeInput], destination: str = "", *, allow_missing_files: bool = False
) -> MergedBundle:
    """Merge bundles in the given order; the index has the very bytes that TensorFlow writes.

    Args:
        inputs: an input whose index is None is skipped, if `allow_missing_files` says so.
        destination: the prefix that the result will have, in the same words as the inputs'; "" if not known.
        allow_missing_files: whether inputs may be missing; one has to be there in any case.

    Raises:
        NotFoundError: an input is missing, or all are.
        InvalidRequestError: in TensorFlow's words where it refuses too: two inputs hold the same tensor, their byte
            orders or versions differ; and see this module's text for what we refuse besides.
        CorruptionError: an input's entry cannot be read.
    """
    merge = _Merge()
    for one in inputs:
        if destination and one.prefix == destination:
            # The inputs' indexes are deleted last, and this one would be the merged one.
            raise InvalidRequestError(f"{destination} cannot be merged onto itself")
        if one.index is None:
            if not allow_missing_files:
                raise NotFoundError(
                    f"allow_missing_files was set to false and {one.prefix} did not exist."
                    f"NOT_FOUND: {one.prefix} not found"
                )
            continue
        merge.take(one.prefix, one.index)
    return merge.finish()


class _Merge:
    """A merge under way."""

    def __init__(self) -> None:
        self._header: BundleHeaderProto | None = None
        self._entries: dict[bytes, BundleEntryProto] = {}
        self._data_files: dict[DataFile, int] = {}
        self._num_shards = 0
        self._joined: list[bytes] = []  # keys of tensors whose slices come from several inputs

    def take(self, prefix: str, index: Index) -> None:
        """Add one input."""
        self._take_header(index)
        before = len(self._data_files)
        for key, value in index.raw_items():
            if key != HEADER_KEY:
                self._take_entry(prefix, index, key, value)
        if len(self._data_files) - before != index.num_shards:
            files = (DataFile(prefix, shard, index.num_shards) for shard in range(index.num_shards))
            unused = next((file.key for file in files if file not in self._data_files), prefix)
            raise InvalidRequestError(
                f"no tensor of {prefix} lies in {unused}: merged, that data file would be counted and have no name; "
                "leave the bundle out or save it again"
            )

    def _take_header(self, index: Index) -> None:
        header = BundleHeaderProto()
        header.ParseFromString(index.raw(HEADER_KEY) or b"")  # the index has read it before
        self._num_shards += header.num_shards
        if self._header is None:
            self._header = header
            return
        if header.endianness != self._header.endianness:
            raise InvalidRequestError("Merging bundles with conflicting endianness; inputs corrupted?")
        merged, current = self._header.version, header.version
        if merged.SerializeToString(deterministic=True) != current.SerializeToString(deterministic=True):
            # TensorFlow shows the serialized messages.
            shown = [tensor_name(version.SerializeToString(deterministic=True)) for version in (merged, current)]
            raise InvalidRequestError(
                f"Merging bundles with different format versions: merged {shown[0]} vs. curr {shown[1]}"
            )

    def _take_entry(self, prefix: str, index: Index, key: bytes, value: bytes) -> None:
        entry = BundleEntryProto()
        try:
            entry.ParseFromString(value)
        except DecodeError as error:
            raise CorruptionError(f"entry for {tensor_name(key)!r} cannot be parsed", key=index_key(prefix)) from error
        known = self._entries.get(key)
        if known is not None:
            self._join(prefix, key, known, entry)
            return
        if not 0 <= entry.shard_id < index.num_shards:
            raise CorruptionError(
                f"entry for {tensor_name(key)!r} names a shard out of range",
                key=index_key(prefix),
                expected=f"below {index.num_shards}",
                actual=entry.shard_id,
            )
        file = DataFile(prefix, entry.shard_id, index.num_shards)
        entry.shard_id = self._data_files.setdefault(file, len(self._data_files))
        self._entries[key] = entry

    def _join(self, prefix: str, key: bytes, known: BundleEntryProto, entry: BundleEntryProto) -> None:
        """Append the slices of a tensor to those of an earlier input."""
        name = tensor_name(key)
        if not known.slices:
            raise InvalidRequestError(f"Duplicate tensor keyed by {name} encountered, when merging prefix: {prefix}")
        if not entry.slices:
            raise InvalidRequestError(
                f"Duplicate tensor keyed by {name}; attempting to merge in a non-slice bundle entry"
            )
        if known.dtype != entry.dtype or known.shape != entry.shape:
            raise InvalidRequestError(
                f"{prefix} and an earlier bundle disagree about dtype or shape of tensor {name!r}"
            )
        known.slices.extend(entry.slices)
        self._joined.append(key)

    def finish(self) -> MergedBundle:
        """Return the result."""
        if self._header is None:
            raise NotFoundError("At least one prefix checkpoint file must exist, but none existed.")
        # Every input uses all its data files, so this is the number of names as well.
        assert self._num_shards == len(self._data_files)
        self._header.num_shards = self._num_shards
        items = [(HEADER_KEY, self._header.SerializeToString(deterministic=True))]
        items += [(key, self._entries[key].SerializeToString(deterministic=True)) for key in sorted(self._entries)]
        merged = MergedBundle(table.encode_table(items), tuple(self._data_files))
        self._check_joined(merged)
        return merged

    def _check_joined(self, merged: MergedBundle) -> None:
        """Refuse what no reader could put together, above all slices of two inputs that overlap."""
        if not self._joined:
            return
        index = Index.decode(merged.index)
        for key in self._joined:
            try:
                index.tensor(tensor_name(key))
            except CorruptionError as error:
                raise InvalidRequestError(f"tensor {tensor_name(key)!r} cannot be merged: {error}") from error
