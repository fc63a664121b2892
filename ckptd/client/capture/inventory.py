"""What a save brings: the caller's arrays, checked and described, and not copied yet.

Training saves the same arrays again and again. So their description is reused as long as names, dtypes,
shapes and slices stay the same; only strings are encoded anew, as their lengths are part of the description.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.client.capture.arrays import Array, to_array
from ckptd.client.slice import Slice
from ckptd.engine.manifest import Manifest, Part
from ckptd.errors import InvalidRequestError
from ckptd.format import strings as format_strings
from ckptd.format import tensors
from ckptd.format.dtypes import DType
from ckptd.format.names import tensor_key
from ckptd.format.slices import Box


@dataclass(frozen=True, slots=True)
class EncodedStrings:
    """The stored form of strings: lengths and their checksum, then the payload. Of variants, all of it is `payload`."""

    head: bytes
    payload: bytes
    lengths_size: int
    lengths_crc: int
    lengths_covered: int

    @property
    def size(self) -> int:
        """Bytes of the stored form."""
        return len(self.head) + len(self.payload)


Source = Array | EncodedStrings


@dataclass(frozen=True, slots=True)
class _Given:
    """What is known of one part as the caller gave it. `is_slice` says that it came as a `Slice`."""

    name: str
    array_dtype: np.dtype[Any]
    dtype: DType
    full_shape: tuple[int, ...]
    box: Box
    is_slice: bool


class _Forms:
    """What is known of all parts, and by columns: comparing ten thousand arrays with them one by one takes too long.

    Attributes:
        given: per part, all of it.
        is_plain: whether every part is a whole array of its own, stored as it is; the lists are empty where not.
        names, dtypes, shapes: per part, what another array of this form has.
        is_native: per part, whether an array's bytes, in C order, are those that are stored.
    """

    def __init__(self, given: Sequence[_Given]) -> None:
        self.given = given
        self.is_native = np.array([_is_native(each) for each in given], bool)
        self.is_plain = bool(self.is_native.all()) and not any(
            each.is_slice or each.array_dtype.names for each in given
        )
        plain = given if self.is_plain else ()
        self.names = [each.name for each in plain]
        self.dtypes = [each.array_dtype for each in plain]
        self.shapes = [each.box.shape for each in plain]

    def fit(self, arrays: Mapping[str, Any]) -> list[Array] | None:
        """Return the arrays if a plain comparison is enough, and they differ in their values only."""
        if not self.is_plain or list(arrays) != self.names:
            return None
        values = list(arrays.values())
        if any(type(value) is not np.ndarray for value in values):
            return None
        fits = [value.dtype for value in values] == self.dtypes and [value.shape for value in values] == self.shapes
        return values if fits else None


def _is_native(given: _Given) -> bool:
    dtype = given.dtype
    return not dtype.is_string and not dtype.is_variant and given.array_dtype.isnative and sys.byteorder == "little"


class Inventory:
    """The parts of one rank, in the order of its manifest.

    Attributes:
        manifest: describes the parts, one row each.
        sources: per part, the caller's array, or strings in their stored form.
    """

    def __init__(self, manifest: Manifest, sources: Sequence[Source], forms: _Forms) -> None:
        self.manifest = manifest
        self.sources = sources
        self._forms = forms

    @property
    def is_native(self) -> NDArray[np.bool_]:
        """Per part, whether its source is an array whose bytes, in C order, are those that are stored."""
        return self._forms.is_native

    @classmethod
    def of(cls, arrays: Mapping[str, Any], like: Inventory | None = None) -> Inventory:
        """Describe `arrays`, as `like` where nothing but the values has changed.

        Raises:
            InvalidRequestError: naming the tensor that can't be saved.
        """
        known = like.again(arrays) if like is not None else None
        if known is not None:
            return known
        given, sources = [], []
        for name, value in _items(arrays):
            for part, array in _parts(name, value):
                given.append(part)
                sources.append(_source(name, array, part.dtype))
        manifest = Manifest.of(_describe(part, source) for part, source in zip(given, sources, strict=True))
        if like is not None and like.manifest.digest == manifest.digest:
            manifest = like.manifest
        return cls(manifest, sources, _Forms(given))

    def again(self, arrays: Mapping[str, Any]) -> Inventory | None:
        """Describe arrays that differ from ours in their values only; None if they differ in more."""
        if not isinstance(arrays, Mapping):
            return None
        fitting = self._forms.fit(arrays)
        if fitting is not None:
            return Inventory(self.manifest, fitting, self._forms)
        sources: list[Source] = []
        strings: dict[int, EncodedStrings] = {}
        given, count = self._forms.given, len(self._forms.given)
        for name, value in arrays.items():
            for one in value if type(value) in (list, tuple) and value and type(value[0]) is Slice else (value,):
                row = len(sources)
                if row == count:
                    return None
                known = given[row]
                if type(one) is Slice:
                    if not known.is_slice or one.full_shape != known.full_shape or one.start != known.box.start:
                        return None
                    one = one.part
                elif known.is_slice:
                    return None
                if type(one) is not np.ndarray:
                    one, _ = to_array(name, one)
                if name != known.name or one.dtype != known.array_dtype or one.shape != known.box.shape:
                    return None
                source = _source(name, one, known.dtype)
                if isinstance(source, EncodedStrings):
                    strings[row] = source
                sources.append(source)
        if len(sources) != count:
            return None
        return Inventory(_with_strings(self.manifest, strings), sources, self._forms)

    def without_arrays(self) -> Inventory:
        """Return the description alone, to be kept after the arrays are the caller's again."""
        return Inventory(self.manifest, (), self._forms)


def _with_strings(manifest: Manifest, strings: Mapping[int, EncodedStrings]) -> Manifest:
    """Return the manifest with other strings in some rows; itself if their lengths are the same."""
    if not strings:
        return manifest
    rows = np.fromiter(strings, np.int64, len(strings))
    new = list(strings.values())
    sizes, lengths_sizes = manifest.sizes.copy(), manifest.lengths_sizes.copy()
    lengths_crcs, lengths_covered = manifest.lengths_crcs.copy(), manifest.lengths_covered.copy()
    sizes[rows] = [each.size for each in new]
    lengths_sizes[rows] = [each.lengths_size for each in new]
    lengths_crcs[rows] = [each.lengths_crc for each in new]
    lengths_covered[rows] = [each.lengths_covered for each in new]
    if np.array_equal(sizes, manifest.sizes) and np.array_equal(lengths_crcs, manifest.lengths_crcs):
        return manifest
    return replace(
        manifest,
        sizes=sizes,
        lengths_sizes=lengths_sizes,
        lengths_crcs=lengths_crcs,
        lengths_covered=lengths_covered,
    )


def _items(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    if not isinstance(arrays, Mapping):
        raise InvalidRequestError(f"what is saved is a mapping of names to arrays, not a {type(arrays).__name__}")
    for name, value in arrays.items():
        if not isinstance(name, str):
            raise InvalidRequestError(f"the name of a tensor is a str, not {name!r}")
        if tensor_key(name).startswith(b"\0"):
            raise InvalidRequestError(f"tensor {name!r}: names that begin with a zero byte are kept for slices")
        yield name, value


def _parts(name: str, value: Any) -> Iterator[tuple[_Given, Array]]:
    """Yield the parts that `value` stands for, and their arrays: one, unless it is a sequence of slices."""
    slices: Sequence[Any] = value if isinstance(value, (list, tuple)) else (value,)
    if not slices or not all(isinstance(one, Slice) for one in slices):
        array, dtype = to_array(name, value)
        yield _Given(name, array.dtype, dtype, array.shape, Box.whole(array.shape), is_slice=False), array
        return
    for one in slices:
        array, dtype = to_array(name, one.part)
        full_shape, start = one.full_shape, one.start
        if not len(array.shape) == len(full_shape) == len(start):
            raise InvalidRequestError(
                f"tensor {name!r}: a slice of shape {list(array.shape)} at {list(start)} does not have the rank of its "
                f"full shape {list(full_shape)}"
            )
        if any(s < 0 or s + n > full for s, n, full in zip(start, array.shape, full_shape, strict=True)):
            raise InvalidRequestError(
                f"tensor {name!r}: a slice of shape {list(array.shape)} at {list(start)} leaves its full shape "
                f"{list(full_shape)}"
            )
        yield _Given(name, array.dtype, dtype, full_shape, Box(start, array.shape), is_slice=True), array


def _source(name: str, array: Array, dtype: DType) -> Source:
    if dtype.is_string:
        return _encode_strings(name, array)
    if dtype.is_variant:
        return _encode_variants(array)
    # A quantized array comes as a structured one with a single field; its numbers are what is stored.
    return array[array.dtype.names[0]] if array.dtype.names else array


def _encode_strings(name: str, array: Array) -> EncodedStrings:
    try:
        encoded = tensors.string_sections(array)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"tensor {name!r}: {error.reason}") from error
    head = encoded.lengths + tensors.lengths_checksum(encoded.lengths_crc32c)
    return EncodedStrings(
        head, encoded.payload, len(encoded.lengths), encoded.lengths_crc32c, encoded.lengths_crc_bytes
    )


def _encode_variants(array: Array) -> EncodedStrings:
    """Encode messages. The checksum of their entry is not that of the stored bytes: it travels as that of lengths."""
    data, crc = format_strings.encode_variants(array)
    return EncodedStrings(b"", data, 0, crc, 0)


def _describe(given: _Given, source: Source) -> Part:
    if isinstance(source, EncodedStrings):
        return Part(
            name=given.name,
            dtype=given.dtype.number,
            full_shape=given.full_shape,
            box=given.box,
            size=source.size,
            lengths_size=source.lengths_size,
            lengths_crc=source.lengths_crc,
            lengths_covered=source.lengths_covered,
        )
    size = given.box.num_elements * given.dtype.width
    return Part(given.name, given.dtype.number, given.full_shape, given.box, size)
