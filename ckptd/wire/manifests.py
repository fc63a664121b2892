"""A manifest ⇄ its message, and the message ⇄ the parts in which it travels.

A manifest may be larger than a message: its serialized bytes are cut anywhere, and the first part carries the digest
that `Declare` will need. The receiver makes the manifest, takes the digest itself and compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.engine.manifest import Manifest
from ckptd.errors import InvalidRequestError
from ckptd.format import names
from ckptd.wire import packed
from ckptd.wire.v1 import save_pb2

PART_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 64 << 20
"""What a daemon accepts unless it is configured otherwise: some three million slices."""

_MAX_NAME_BYTES = 1 << 16
_MOST = {"tensors": 1 << 20, "dimensions": 1 << 22, "parts": 1 << 22, "numbers": 1 << 24}
_NAMES = 1
_COLUMNS = {each.number: each.name for each in save_pb2.Manifest.DESCRIPTOR.fields if each.number != _NAMES}
_MAX_TOTAL_BYTES = float(1 << 62)


def manifest_to_wire(manifest: Manifest) -> save_pb2.Manifest:
    """Return the message that holds a manifest."""
    return save_pb2.Manifest(
        names=[names.tensor_key(name) for name in manifest.names],
        dtypes=manifest.dtypes,
        ranks=[len(shape) for shape in manifest.full_shapes],
        full_shapes=[n for shape in manifest.full_shapes for n in shape],
        tensor=manifest.tensor.tolist(),
        starts=manifest.starts.tolist(),
        shapes=manifest.shapes.tolist(),
        sizes=manifest.sizes.tolist(),
        lengths_sizes=manifest.lengths_sizes.tolist(),
        lengths_crcs=manifest.lengths_crcs.tolist(),
        lengths_covered=manifest.lengths_covered.tolist(),
    )


def manifest_from_bytes(data: bytes | bytearray) -> Manifest:
    """Read and check a serialized manifest; `InvalidRequestError` says what does not fit together."""
    fields, tensor_names = _fields(memoryview(data))
    shapes = _cut_shapes(len(tensor_names), fields)
    sizes = fields["sizes"]
    # One rank's bytes are summed in 64 bits further on; the sum must not wrap around.
    if float(sizes.astype(np.float64).sum()) >= _MAX_TOTAL_BYTES:
        raise InvalidRequestError(
            "the manifest's parts are larger than any store", actual=float(sizes.sum(dtype=float))
        )
    return Manifest(
        names=tuple(names.tensor_name(name) for name in tensor_names),
        dtypes=tuple(packed.in_python(fields["dtypes"])),
        full_shapes=shapes,
        tensor=fields["tensor"],
        starts=fields["starts"],
        shapes=fields["shapes"],
        sizes=sizes,
        lengths_sizes=fields["lengths_sizes"],
        lengths_crcs=fields["lengths_crcs"],
        lengths_covered=fields["lengths_covered"],
    )


def _fields(data: memoryview) -> tuple[dict[str, NDArray[Any]], list[bytes]]:
    """Return the columns by their names, and the names of tensors."""
    tensor_names: list[bytes] = []
    stretches: dict[str, list[NDArray[Any]]] = {name: [] for name in _COLUMNS.values()}
    for number, content in packed.delimited_fields(data):
        if number == _NAMES:
            if len(content) > _MAX_NAME_BYTES:
                raise InvalidRequestError(f"a tensor's name is longer than {_MAX_NAME_BYTES} bytes")
            tensor_names.append(bytes(content))
            _check_amount("tensors", len(tensor_names))
        elif number in _COLUMNS:  # others are of a newer client, which knows that we leave them out
            name = _COLUMNS[number]
            stretch = packed.fixed32(content) if name == "lengths_crcs" else packed.varints(content)
            stretches[name].append(stretch)
            what = "numbers" if name in ("starts", "shapes") else "dimensions" if name == "full_shapes" else "parts"
            _check_amount(what, sum(map(len, stretches[name])))
    columns = {}
    for name, parts in stretches.items():
        column = np.concatenate(parts) if parts else np.zeros(0, np.uint32 if name == "lengths_crcs" else np.int64)
        column.setflags(write=False)
        columns[name] = column
    return columns, tensor_names


def _check_amount(what: str, amount: int) -> None:
    if amount > _MOST[what]:
        raise InvalidRequestError(
            f"a manifest has too many {what}: save fewer, larger parts", expected=f"at most {_MOST[what]}"
        )


def manifest_parts(manifest: Manifest) -> Iterator[save_pb2.ManifestPart]:
    """Yield the parts that hand a manifest over."""
    data = memoryview(manifest_to_wire(manifest).SerializeToString())
    for start in range(0, max(len(data), 1), PART_BYTES):
        digest = manifest.digest if start == 0 else b""
        yield save_pb2.ManifestPart(digest=digest, data=bytes(data[start : start + PART_BYTES]))


class ManifestParts:
    """Collects the parts of one manifest, holding at most `limit_bytes` of them."""

    def __init__(self, *, limit_bytes: int = MAX_MANIFEST_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._digest: bytes | None = None
        self._data = bytearray()

    def add(self, part: save_pb2.ManifestPart) -> None:
        """Take the next part; `InvalidRequestError` when it is one too many."""
        if self._digest is None:
            self._digest = part.digest
        if len(self._data) + len(part.data) > self._limit_bytes:
            raise InvalidRequestError(
                "the manifest is too large: save fewer, larger parts, or let the operator raise --max-manifest-bytes",
                expected=f"at most {self._limit_bytes} bytes",
            )
        self._data += part.data

    def finish(self) -> Manifest:
        """Return the manifest, once the last part is in; its digest has to be the promised one."""
        if self._digest is None:
            raise InvalidRequestError("the manifest has no parts")
        data, self._data = self._data, bytearray()
        manifest = manifest_from_bytes(data)
        if manifest.digest != self._digest:
            raise InvalidRequestError(
                "the manifest is not the one that was announced",
                expected=self._digest.hex()[:64],
                actual=manifest.digest.hex(),
            )
        return manifest


def collect_manifest(parts: Iterable[save_pb2.ManifestPart], *, limit_bytes: int = MAX_MANIFEST_BYTES) -> Manifest:
    """Return the manifest that all of `parts` make."""
    collected = ManifestParts(limit_bytes=limit_bytes)
    for part in parts:
        collected.add(part)
    return collected.finish()


def _cut_shapes(num_tensors: int, fields: dict[str, NDArray[Any]]) -> tuple[tuple[int, ...], ...]:
    ranks, flat = fields["ranks"], fields["full_shapes"]
    if not num_tensors == len(fields["dtypes"]) == len(ranks):
        raise InvalidRequestError("the manifest's names, dtypes and ranks differ in number")
    if (len(ranks) and (int(ranks.min()) < 0 or int(ranks.max()) > len(flat))) or int(ranks.sum()) != len(flat):
        raise InvalidRequestError(
            "the manifest's ranks do not fit its full shapes",
            expected=f"{len(flat)} dimensions",
            actual=int(ranks.sum()),
        )
    dimensions = packed.in_python(flat)
    # Equal ones are one object: a million of them would keep the garbage collector, and so the process, busy.
    known: dict[tuple[int, ...], tuple[int, ...]] = {}
    shapes = (tuple(islice(dimensions, rank)) for rank in packed.in_python(ranks))
    return tuple(known.setdefault(shape, shape) for shape in shapes)
