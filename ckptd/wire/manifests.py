"""A manifest ⇄ its message, and the message ⇄ the parts in which it travels.

A manifest may be larger than a message: its serialized bytes are cut anywhere, and the first part carries the digest
that `Declare` will need. The receiver makes the manifest, takes the digest itself and compares.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from ckptd.engine.manifest import Manifest
from ckptd.errors import InvalidRequestError
from ckptd.format import names
from ckptd.wire.v1 import save_pb2

PART_BYTES = 1 << 20
MAX_MANIFEST_BYTES = 64 << 20
"""What a daemon accepts unless it is configured otherwise: some three million slices."""

_MAX_NAME_BYTES = 1 << 16
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


def manifest_from_wire(message: save_pb2.Manifest) -> Manifest:
    """Read and check a manifest; `InvalidRequestError` says what does not fit together."""
    shapes = _cut_shapes(message)
    if any(len(name) > _MAX_NAME_BYTES for name in message.names):
        raise InvalidRequestError(f"a tensor's name is longer than {_MAX_NAME_BYTES} bytes")
    sizes = _column(message.sizes, np.int64)
    # One rank's bytes are summed in 64 bits further on; the sum must not wrap around.
    if float(sizes.astype(np.float64).sum()) >= _MAX_TOTAL_BYTES:
        raise InvalidRequestError(
            "the manifest's parts are larger than any store", actual=float(sizes.sum(dtype=float))
        )
    return Manifest(
        names=tuple(names.tensor_name(name) for name in message.names),
        dtypes=tuple(message.dtypes),
        full_shapes=shapes,
        tensor=_column(message.tensor, np.int64),
        starts=_column(message.starts, np.int64),
        shapes=_column(message.shapes, np.int64),
        sizes=sizes,
        lengths_sizes=_column(message.lengths_sizes, np.int64),
        lengths_crcs=_column(message.lengths_crcs, np.uint32),
        lengths_covered=_column(message.lengths_covered, np.int64),
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
        try:
            message = save_pb2.Manifest.FromString(bytes(self._data))
        except DecodeError as e:
            raise InvalidRequestError(f"{len(self._data)} bytes are no manifest") from e
        manifest = manifest_from_wire(message)
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


def _cut_shapes(message: save_pb2.Manifest) -> tuple[tuple[int, ...], ...]:
    if not len(message.names) == len(message.dtypes) == len(message.ranks):
        raise InvalidRequestError("the manifest's names, dtypes and ranks differ in number")
    if any(rank < 0 for rank in message.ranks) or sum(message.ranks) != len(message.full_shapes):
        raise InvalidRequestError(
            "the manifest's ranks do not fit its full shapes",
            expected=f"{len(message.full_shapes)} dimensions",
            actual=sum(message.ranks),
        )
    flat = list(message.full_shapes)
    shapes: list[tuple[int, ...]] = []
    at = 0
    for rank in message.ranks:
        shapes.append(tuple(flat[at : at + rank]))
        at += rank
    return tuple(shapes)


def _column(values: Any, dtype: type[Any]) -> NDArray[Any]:
    column = np.fromiter(values, dtype, len(values))
    column.setflags(write=False)
    return column
