"""A stored checkpoint as a mapping of names to arrays, and the functions around it."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ckptd.client.paths import latest
from ckptd.engine.reading import verify as verification
from ckptd.engine.reading.bundle import Bundle, Wanted
from ckptd.engine.reading.verify import Progress, Report
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.format import dtypes
from ckptd.format.names import tensor_name
from ckptd.format.slices import Box
from ckptd.near import nearest
from ckptd.printable import counted

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

_NUM_NEAR_MISSES = 3


class _MissingTensorError(NotFoundError, KeyError):
    """There is no such tensor. Also a `KeyError`, which ``reader.get(name)`` and other methods of a mapping need."""


class CheckpointReader(Mapping[str, Any]):
    """Reads one checkpoint, with the methods of TensorFlow's reader: ``reader["w"]``, ``"w" in reader``.

    Values come as TensorFlow gives them: a scalar as a numpy scalar, a scalar string as `bytes`, everything else as an
    array that the caller owns; strings as object arrays of `bytes`. Once opened, it reads the same checkpoint until
    that is deleted; on a local disk ckptd deletes none that is open, until `close` or until the reader is collected.
    Any thread may use it, and a forked child reads on under its parent's hold.
    """

    def __init__(self, bundle: Bundle) -> None:
        self._bundle = bundle

    @property
    def prefix(self) -> str:
        """Where the checkpoint is."""
        return self._bundle.location

    @property
    def bundle(self) -> Bundle:
        """The bundle that it reads from, for modules that check before they read."""
        return self._bundle

    def close(self) -> None:
        """Let the checkpoint be deleted; it can be read for as long as it is there. May be repeated."""
        self._bundle.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get_tensor(self, name: str | bytes) -> Any:
        """Read a whole tensor, and verify it. The encoded key of a slice, as in `debug_string`, gives the slice.

        Raises:
            NotFoundError: ``Key <name> not found in checkpoint``, with the names that come near.
            CorruptionError: when the bytes are wrong, or slices are missing.
        """
        return self._read(_text(name), None)

    def get_tensors(self, names: Iterable[str]) -> dict[str, NDArray[Any]]:
        """Read several whole tensors at once, each as an array that the caller owns. Raises as `get_tensor`."""
        wanted = list(names)
        return dict(zip(wanted, self.get_many(wanted), strict=True))

    def get_slice(self, name: str | bytes, start: Sequence[int], shape: Sequence[int]) -> Any:
        """Read one box of a tensor, however it was sliced when it was saved; reads little more than its bytes.

        Raises:
            InvalidRequestError: when the box leaves the tensor.
            NotFoundError, CorruptionError: as `get_tensor`.
        """
        return self._read(_text(name), Box(tuple(start), tuple(shape)))

    def fill(self, wanted: Iterable[tuple[str, Sequence[int], NDArray[Any]]]) -> None:
        """Read boxes of tensors straight into arrays, all at once.

        Args:
            wanted: per box, the name of the tensor, where the box begins in it, and the array to fill, which has the
                box's shape and the tensor's dtype. A tensor may be named several times.

        Raises:
            InvalidRequestError: a box leaves its tensor, or the array does not fit; nothing was read.
            NotFoundError, CorruptionError: as `get_tensor`; after damage, arrays may be partly filled.
        """
        boxes = list(wanted)
        check_names(self._bundle, (name for name, _, _ in boxes))
        self._bundle.read_many(
            # Whole tensors are read as such: short ones then take a faster path.
            (
                Wanted(name, None if self._bundle.shape(name) == array.shape else Box(tuple(start), array.shape), array)
                for name, start, array in boxes
            ),
            thorough=True,
        )

    def get_many(self, wanted: Iterable[str | tuple[str, Sequence[int], Sequence[int]]]) -> list[NDArray[Any]]:
        """Read many tensors and boxes at once, which is faster than one by one; of one tensor any number of boxes.

        Args:
            wanted: per array a name, or (name, start, shape) for a box of it.

        Returns:
            The arrays, in that order, all of them numpy arrays: also where `get_tensor` would return a scalar.

        Raises:
            InvalidRequestError, NotFoundError, CorruptionError: as `get_slice`.
        """
        requests = [
            Wanted(one) if isinstance(one, str) else Wanted(one[0], Box(tuple(one[1]), tuple(one[2]))) for one in wanted
        ]
        check_names(self._bundle, (one.name for one in requests))
        return self._bundle.read_many(requests, thorough=True)

    def has_tensor(self, name: str | bytes) -> bool:
        """Say whether there is an entry of this name; as with TensorFlow, also for the keys of slices and ``""``."""
        key = name if isinstance(name, bytes) else name.encode("utf-8", "surrogateescape")
        return self._bundle.index.raw(key) is not None

    def get_variable_to_shape_map(self) -> dict[str, list[int]]:
        """Return the full shape of every tensor."""
        return {name: list(self._bundle.shape(name)) for name in self._bundle.names()}

    def get_variable_to_dtype_map(self) -> dict[str, np.dtype[Any]]:
        """Return the numpy dtype of every tensor; object for strings and variants."""
        return {name: self._numpy_dtype(name) for name in self._bundle.names()}

    def debug_string(self) -> bytes:
        r"""List the entries in key order, one ``name (DT_FLOAT) [2,3]\n`` each.

        As with TensorFlow, slices appear under their encoded keys and the tensors that they belong to do not.
        """
        return b"".join(line + b"\n" for line in self.debug_lines())

    def debug_lines(self) -> Iterator[bytes]:
        """Yield the lines of `debug_string` without their ends; a name may hold line ends too."""
        for key, _ in self._bundle.index.raw_items():
            if not key:
                continue
            entry = self._bundle.index.entry(key)
            if not entry.slices:
                shape = ",".join(map(str, entry.shape))
                yield key + f" ({dtypes.by_number(entry.dtype).debug_name}) [{shape}]".encode()

    def __getitem__(self, name: str) -> Any:
        return self.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._bundle.index

    def __iter__(self) -> Iterator[str]:
        return iter(self._bundle.names())

    def __len__(self) -> int:
        return len(self._bundle.names())

    def __repr__(self) -> str:
        return f"<CheckpointReader {self.prefix}: {counted(len(self), 'tensor')}>"

    def _read(self, name: str, box: Box | None) -> Any:
        if not (name.startswith("\0") and self.has_tensor(name)):  # not the key of a slice, which `in` does not know
            check_names(self._bundle, [name])
        array = self._bundle.read(name, box)
        return array if array.ndim else array[()]

    def _numpy_dtype(self, name: str) -> np.dtype[Any]:
        array = self._bundle.dtype(name).array
        return np.dtype(object) if array is None else array


def load_checkpoint(prefix_or_directory: latest.Path) -> CheckpointReader:
    """Open a checkpoint by its prefix, or the newest one of a directory; a path or a store URL.

    Raises:
        NotFoundError: when there is none.
        CorruptionError: when its index is damaged.
    """
    return CheckpointReader(Bundle.open(*latest.resolve(prefix_or_directory)))


def list_variables(prefix_or_directory: latest.Path) -> list[tuple[str, list[int]]]:
    """Return the names and shapes of all tensors, sorted by name. Raises as `load_checkpoint`."""
    return sorted(load_checkpoint(prefix_or_directory).get_variable_to_shape_map().items())


def load_variable(prefix_or_directory: latest.Path, name: str) -> Any:
    """Read one tensor; a trailing ``:0`` of the name is dropped. Raises as `load_checkpoint` and `get_tensor`."""
    return load_checkpoint(prefix_or_directory).get_tensor(_text(name).removesuffix(":0"))


def verify(prefix_or_directory: latest.Path, progress: Progress | None = None) -> Report:
    """Read back everything of a checkpoint, or of the newest one of a directory, and check it.

    Damage is reported, not raised. `progress` is called with the bytes checked and those to check.

    Raises:
        NotFoundError: when there is no checkpoint.
    """
    return verification.verify(*latest.resolve(prefix_or_directory), progress)


def check_names(bundle: Bundle, names: Iterable[str]) -> None:
    """Refuse names that the checkpoint does not hold: `NotFoundError` with those that come near."""
    for name in names:
        if name in bundle.index:
            continue
        raise _MissingTensorError(f"Key {name} not found in checkpoint{did_you_mean(name, bundle.names())}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return a question to append to an error, or nothing when no known name comes near, capitals aside."""
    by_folded = {one.casefold(): one for one in known}
    near = nearest(name.casefold(), by_folded, _NUM_NEAR_MISSES)
    return f"; did you mean {' or '.join(repr(by_folded[one]) for one in near)}?" if near else ""


def _text(name: str | bytes) -> str:
    if isinstance(name, bytes):
        return tensor_name(name)
    if not isinstance(name, str):
        raise InvalidRequestError(f"the name of a tensor is a str, not {name!r}")
    return name
