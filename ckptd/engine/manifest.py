"""What one rank contributes to a save: a schema of tensors, and columns with a row per part.

A part is a box of a tensor that this rank holds: the whole tensor, or a slice of it. Columns instead of an object per
part make a plan of a million slices array work. The same layout gives the same digest, save after save, so
that a rank usually declares 32 bytes.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import chain
from math import prod

import numpy as np
from numpy.typing import NDArray

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.slices import Box
from ckptd.format.strings import CHECKSUM_BYTES

STRING = dtypes.STRING_NUMBER
VARIANT = dtypes.VARIANT_NUMBER
MAX_TENSOR_RANK = 64  # numpy's own limit; TensorFlow reads up to 254
_NAMES_AT_ONCE = 1 << 15  # other threads may run in between
_MAX_SIZE = 1 << 62  # element and byte counts stay far from the end of int64
_COLUMNS = ("tensor", "starts", "shapes", "sizes", "lengths_sizes", "lengths_crcs", "lengths_covered")
_SMALL_SCHEMA = 4096  # tensors; the ranks of a job save the same ones, so the latest small schemas are remembered

_Shapes = tuple[tuple[int, ...], ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One box of one tensor, as a rank declares it.

    `size` is what it takes in a shard, in bytes. The `lengths_*` fields are for strings only: the stored bytes of their
    lengths, the running CRC-32C over the lengths in fixed width (see `ckptd.format.tensors`), and how many
    bytes that checksum covered.
    """

    name: str
    dtype: int
    full_shape: tuple[int, ...]
    box: Box
    size: int
    lengths_size: int = 0
    lengths_crc: int = 0
    lengths_covered: int = 0


@dataclass(frozen=True, eq=False)
class Manifest:
    """The parts of one rank. Arrays are never written to.

    Attributes:
        names: of the tensors.
        dtypes: TensorFlow's number per tensor.
        full_shapes: of the whole tensors.
        tensor: per part, which tensor. Shape [parts], int64.
        starts: where each part begins, one number per dimension of its tensor, part after part. Flat, int64.
        shapes: its shape, laid out likewise.
        sizes: per part, bytes in a shard. Shape [parts], int64, as are the next three.
        lengths_sizes: strings: stored bytes of the lengths; 0 for other dtypes.
        lengths_crcs: strings: running CRC-32C over the lengths in fixed width; variants: that of the entry; uint32.
        lengths_covered: strings: bytes that checksum covered.
    """

    names: tuple[str, ...]
    dtypes: tuple[int, ...]
    full_shapes: tuple[tuple[int, ...], ...]
    tensor: NDArray[np.int64]
    starts: NDArray[np.int64]
    shapes: NDArray[np.int64]
    sizes: NDArray[np.int64]
    lengths_sizes: NDArray[np.int64]
    lengths_crcs: NDArray[np.uint32]
    lengths_covered: NDArray[np.int64]
    _of_another: frozenset[str] = field(default=frozenset(), init=False, repr=False)

    def __post_init__(self) -> None:
        _check_columns(self)

    @cached_property
    def schema(self) -> Schema:
        """What follows from names, dtypes and full shapes, which are checked."""
        make = _small_schema if len(self.names) <= _SMALL_SCHEMA else Schema.of
        return make(self.names, self.dtypes, self.full_shapes)

    @classmethod
    def of(cls, parts: Iterable[Part]) -> Manifest:
        """Build a manifest from parts; `InvalidRequestError` when two of them disagree about their tensor."""
        ids: dict[str, int] = {}
        schema: list[Part] = []
        tensor: list[int] = []
        rows: list[Part] = []
        for part in parts:
            known = ids.setdefault(part.name, len(schema))
            if known == len(schema):
                schema.append(part)
            elif (schema[known].dtype, schema[known].full_shape) != (part.dtype, part.full_shape):
                raise InvalidRequestError(
                    f"two parts of tensor {part.name!r} disagree about its dtype or full shape",
                    expected=_describe(schema[known].dtype, schema[known].full_shape),
                    actual=_describe(part.dtype, part.full_shape),
                )
            tensor.append(known)
            rows.append(part)
        return cls(
            names=tuple(part.name for part in schema),
            dtypes=tuple(part.dtype for part in schema),
            full_shapes=tuple(part.full_shape for part in schema),
            tensor=np.array(tensor, np.int64),
            starts=np.array([n for part in rows for n in part.box.start], np.int64),
            shapes=np.array([n for part in rows for n in part.box.shape], np.int64),
            sizes=np.array([part.size for part in rows], np.int64),
            lengths_sizes=np.array([part.lengths_size for part in rows], np.int64),
            lengths_crcs=np.array([part.lengths_crc for part in rows], np.uint32),
            lengths_covered=np.array([part.lengths_covered for part in rows], np.int64),
        )

    @property
    def num_parts(self) -> int:
        """How many parts there are."""
        return len(self.tensor)

    @cached_property
    def size_bytes(self) -> int:
        """Bytes that all parts take together."""
        return int(self.sizes.sum())

    @cached_property
    def memory_bytes(self) -> int:
        """About how much memory the manifest itself takes; what is another's counts there."""
        schema = 0
        if "names" not in self._of_another:
            schema = sum(
                len(name) + 8 * len(shape) + 200 for name, shape in zip(self.names, self.full_shapes, strict=True)
            )
        own: list[NDArray[np.int64]] = [getattr(self, name) for name in _COLUMNS if name not in self._of_another]
        return schema + sum(column.nbytes for column in own)

    @cached_property
    def schema_hash(self) -> int:
        """The same for manifests of equal schemas, in this process."""
        return hash((self.names, self.dtypes, self.full_shapes))

    def sharing_with(self, other: Manifest) -> Manifest:
        """Return this manifest with what is equal in `other` in the place of its own, if their schemas are equal.

        The ranks of a job save the same tensors, mostly boxes of the same shapes: kept once for each rank, names and
        columns would take several times the memory of where their boxes begin.
        """
        for derived in ("memory_bytes", "row_starts", "schema"):  # made again when they are needed
            vars(self).pop(derived, None)
        if other is self or (self.names, self.dtypes, self.full_shapes) != (
            other.names,
            other.dtypes,
            other.full_shapes,
        ):
            return self
        equal = [name for name in _COLUMNS if np.array_equal(getattr(self, name), getattr(other, name))]
        shared = copy(self)
        for name in ("names", "dtypes", "full_shapes", *equal):
            object.__setattr__(shared, name, getattr(other, name))
        object.__setattr__(shared, "_of_another", frozenset(("names", *equal)))
        return shared

    @cached_property
    def row_starts(self) -> NDArray[np.int64]:
        """Where each part's numbers begin in `starts` and `shapes`; one more at the end. Shape [parts + 1]."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.schema.ndims[self.tensor])])

    def box(self, part: int) -> Box:
        """Return the box of one part."""
        at, end = int(self.row_starts[part]), int(self.row_starts[part + 1])
        return Box(tuple(self.starts[at:end].tolist()), tuple(self.shapes[at:end].tolist()))

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over everything above in a canonical form: the same layout, the same 32 bytes."""
        digest = hashlib.sha256(b"ckptd manifest 1\0")
        digest.update(struct.pack("<qq", len(self.names), self.num_parts))
        digest.update(self.schema.encoded)
        for column in (self.tensor, self.starts, self.shapes, self.sizes, self.lengths_sizes, self.lengths_covered):
            digest.update(np.ascontiguousarray(column, "<i8").tobytes())
        digest.update(np.ascontiguousarray(self.lengths_crcs, "<u4").tobytes())
        return digest.digest()


def _describe(dtype: int, shape: tuple[int, ...]) -> str:
    return f"{dtypes.by_number(dtype).name} {list(shape)}"


@dataclass(frozen=True, eq=False, slots=True)
class Schema:
    """Tensors by number, as columns; they are checked.

    Attributes:
        numbers: TensorFlow's of the dtypes.
        widths: bytes of an element, 0 where they vary.
        ndims, volumes: dimensions and elements.
        dimensions: all full shapes, one after another; that of a tensor begins at `dimensions_at`.
        encoded: all of it, in the canonical form that digests are taken over.
    """

    numbers: NDArray[np.int64]
    widths: NDArray[np.int64]
    ndims: NDArray[np.int64]
    volumes: NDArray[np.int64]
    dimensions: NDArray[np.int64]
    dimensions_at: NDArray[np.int64]
    encoded: bytes

    @classmethod
    def of(cls, names: tuple[str, ...], numbers: tuple[int, ...], full_shapes: _Shapes) -> Schema:
        """Check a schema; raises `InvalidRequestError` naming the tensor."""
        if not len(names) == len(numbers) == len(full_shapes):
            raise InvalidRequestError("the manifest's names, dtypes and shapes differ in number")
        seen: set[str] = set()
        for start in range(0, len(names), _NAMES_AT_ONCE):
            seen.update(names[start : start + _NAMES_AT_ONCE])
        if len(seen) != len(names):
            raise InvalidRequestError("the manifest names a tensor twice")
        encoded = []
        for name, number, shape in zip(names, numbers, full_shapes, strict=True):
            _check_tensor(name, number, shape)
            coded = name.encode("utf-8", "surrogateescape")
            encoded.append(struct.pack(f"<qqq{len(shape)}q", len(coded), number, len(shape), *shape) + coded)
        ndims = np.fromiter(map(len, full_shapes), np.int64, len(full_shapes))
        dimensions = np.fromiter(chain.from_iterable(full_shapes), np.int64)
        return cls(
            numbers=np.array(numbers, np.int64),
            widths=np.array([dtypes.by_number(number).width for number in numbers], np.int64),
            ndims=ndims,
            volumes=products(dimensions, ndims),
            dimensions=dimensions,
            dimensions_at=np.cumsum(ndims) - ndims,
            encoded=b"".join(encoded),
        )


@lru_cache(maxsize=16)
def _small_schema(names: tuple[str, ...], numbers: tuple[int, ...], full_shapes: _Shapes) -> Schema:
    return Schema.of(names, numbers, full_shapes)


def _check_tensor(name: str, number: int, shape: tuple[int, ...]) -> None:
    if not name or name.startswith("\0"):
        raise InvalidRequestError(f"{name!r} can't be a tensor's name: it is empty or begins with a zero byte")
    try:
        dtype = dtypes.by_number(number)
    except CorruptionError as error:
        raise InvalidRequestError(f"tensor {name!r} has a dtype that can't be stored: {error}") from error
    if not dtype.width and number not in (STRING, VARIANT):
        raise InvalidRequestError(f"tensor {name!r} has the dtype {dtype.name}, which can't be saved")
    if len(shape) > MAX_TENSOR_RANK:
        raise InvalidRequestError(f"tensor {name!r} has {len(shape)} dimensions; {MAX_TENSOR_RANK} are possible")
    # A zero dimension must not hide an absurd one beside it.
    if any(n < 0 for n in shape) or prod(max(n, 1) for n in shape) > _MAX_SIZE // 16:
        raise InvalidRequestError(f"tensor {name!r} can't have the shape {list(shape)}")


def _check_columns(manifest: Manifest) -> None:
    schema, parts = manifest.schema, manifest.num_parts
    columns = (manifest.sizes, manifest.lengths_sizes, manifest.lengths_crcs, manifest.lengths_covered)
    if any(len(column) != parts for column in columns):
        raise InvalidRequestError("the manifest's columns differ in length")
    if parts and not (int(manifest.tensor.min()) >= 0 and int(manifest.tensor.max()) < len(manifest.names)):
        raise InvalidRequestError("the manifest has a part of a tensor that it does not name")
    if not len(manifest.starts) == len(manifest.shapes) == int(manifest.row_starts[-1]):
        raise InvalidRequestError("the manifest's boxes do not fit its tensors' ranks")
    limits = _flat_full_shapes(manifest, schema)
    starts, shapes = manifest.starts, manifest.shapes
    outside = (starts < 0) | (shapes < 0) | (starts > limits) | (shapes > limits - starts)
    if outside.any():
        part = int(np.searchsorted(manifest.row_starts, int(outside.argmax()), side="right")) - 1
        tensor = int(manifest.tensor[part])
        raise InvalidRequestError(
            f"a part of tensor {manifest.names[tensor]!r} lies outside of it",
            expected=f"a box within {list(manifest.full_shapes[tensor])}",
            actual=str(manifest.box(part)),
        )
    _check_sizes(manifest, schema)


def _check_sizes(manifest: Manifest, schema: Schema) -> None:
    if not manifest.num_parts:
        return
    widths, elements = schema.widths[manifest.tensor], products(manifest.shapes, schema.ndims[manifest.tensor])
    is_string = (schema.numbers == STRING)[manifest.tensor]
    too_small = manifest.sizes < 0
    wrong_width = (widths > 0) & (manifest.sizes != elements * widths)
    # Every length takes a byte at least, and the checksum sits between lengths and payload.
    payloads = manifest.sizes - manifest.lengths_sizes - CHECKSUM_BYTES
    covered_wrong = (manifest.lengths_covered < 4 * elements) | (manifest.lengths_covered > 8 * elements)
    wrong_string = is_string & ((manifest.lengths_sizes < elements) | (payloads < 0) | covered_wrong)
    not_string = ~is_string & ((manifest.lengths_sizes != 0) | (manifest.lengths_covered != 0))
    # Their running checksum goes over all elements, so the parts of several ranks could not be joined.
    is_variant, wholes = (schema.numbers == VARIANT)[manifest.tensor], schema.volumes[manifest.tensor]
    wrong_variant = is_variant & ((elements != wholes) | (manifest.sizes < elements * (1 + CHECKSUM_BYTES)))
    bad = too_small | wrong_width | wrong_string | not_string | wrong_variant | (manifest.sizes > _MAX_SIZE)
    if bad.any():
        part = int(bad.argmax())
        raise InvalidRequestError(
            f"a part of tensor {manifest.names[int(manifest.tensor[part])]!r} has a size that does not fit its shape",
            expected=f"{int(elements[part])} elements",
            actual=f"{int(manifest.sizes[part])} bytes",
        )


def _flat_full_shapes(manifest: Manifest, schema: Schema) -> NDArray[np.int64]:
    """Return the full shape of each part's tensor, laid out as `Manifest.shapes`."""
    counts = schema.ndims[manifest.tensor]
    begins = schema.dimensions_at[manifest.tensor] - manifest.row_starts[:-1]
    flat: NDArray[np.int64] = schema.dimensions[np.repeat(begins, counts) + np.arange(len(manifest.shapes))]
    return flat


def products(numbers: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the product of the first `counts[0]` numbers, of the next `counts[1]`, and so on; of none it is 1."""
    if not len(counts):
        return np.zeros(0, np.int64)
    if (counts == counts[0]).all():
        alike: NDArray[np.int64] = numbers.reshape(len(counts), int(counts[0])).prod(axis=1)
        return alike
    # A leading 1 per run keeps the empty ones from vanishing in `reduceat`.
    padded = np.ones(len(numbers) + len(counts), np.int64)
    padded[np.arange(len(numbers)) + np.repeat(np.arange(len(counts)), counts) + 1] = numbers
    return np.multiply.reduceat(padded, np.cumsum(counts) - counts + np.arange(len(counts)))
