"""Loading into state that is there: first compared with what is stored, as a whole, and then filled in place."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ckptd.client.reader import CheckpointReader, did_you_mean
from ckptd.errors import InvalidRequestError
from ckptd.torch.arrays import Array, fill, memory_of, numpy_dtype_of, tensor_of, torch_dtype_of
from ckptd.torch.sharding import full_shape, local_parts
from ckptd.torch.stateful import is_stateful, template_of
from ckptd.trees.flatten import leaves_of, rebuild
from ckptd.trees.outline import Leaf, describe

_NOTHING = object()
"""Stands for "not stored", as None may be stored."""

_MOST_TOLD = 10


class Filling:
    """One load into existing state: what is to be read where, and what is to be done with it afterwards."""

    def __init__(self, reader: CheckpointReader, tree: Any, device: torch.device | str | None, *, strict: bool) -> None:
        self._reader = reader
        self._tree = tree
        self._device = device
        self._strict = strict
        self._shapes = reader.get_variable_to_shape_map()
        self._dtypes = reader.get_variable_to_dtype_map()
        self._boxes: list[tuple[str, tuple[int, ...], Array]] = []
        self._whole: dict[str, None] = {}  # tensors to read as they are; a dict keeps their order
        self._afterwards: list[Callable[[], object]] = []
        self._arrays: dict[str, Array] = {}
        self._problems: list[str] = []

    def load(self, state: Any) -> Any:
        """Fill `state` and return it; raises as `loading.load`."""
        place = self._place(state, _NOTHING if self._tree is None else self._tree, ())
        if self._problems:
            told = self._problems[:_MOST_TOLD]
            more = len(self._problems) - len(told)
            raise InvalidRequestError(
                f"{self._reader.prefix} does not fit: " + "; ".join(told) + (f"; and {more} more" if more else "")
            )
        self._arrays = self._reader.get_tensors(self._whole)
        self._reader.fill(self._boxes)
        for finish in self._afterwards:
            finish()
        return place()

    def _place(self, value: Any, stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        """Note what is to be read for `value`; return what gives the loaded value once all is read."""
        if is_stateful(value):
            return self._place_stateful(value, stored, path)
        if isinstance(value, (torch.Tensor, np.ndarray)):
            self._place_array(describe(path), value, stored)
            return lambda: value
        if isinstance(value, dict) and value and (stored is _NOTHING or isinstance(stored, dict)):
            return self._place_dict(value, stored, path)
        if isinstance(value, (list, tuple)) and _may_hold_arrays(value):
            return self._place_sequence(value, stored, path)
        return self._place_anything(value, stored, path)

    def _place_stateful(self, value: Any, stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        outline = stored if isinstance(stored, dict) else None
        template = template_of(value, outline, lambda name: tuple(self._shapes.get(name, ())), describe(path))
        loaded = self._place(template, stored, path)

        def give() -> Any:
            value.load_state_dict(loaded())
            return value

        return give

    def _place_dict(self, value: dict[Any, Any], stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        known = stored if isinstance(stored, dict) else {}
        if self._strict and path and isinstance(stored, dict):
            for key in known.keys() - value.keys():
                self._problems.append(f"{describe((*path, key))} is stored, and has no place here")
        places = {key: self._place(one, known.get(key, _NOTHING), (*path, key)) for key, one in value.items()}

        def give() -> Any:
            for key, place in places.items():
                value[key] = place()
            return value

        return give

    def _place_sequence(
        self, value: list[Any] | tuple[Any, ...], stored: Any, path: tuple[Any, ...]
    ) -> Callable[[], Any]:
        known: Iterable[Any] = stored if isinstance(stored, (list, tuple)) else [_NOTHING] * len(value)
        known = list(known)
        if len(known) != len(value):
            self._problems.append(f"{describe(path)} has {len(known)} parts where it is stored, and {len(value)} here")
            return lambda: value
        places = [self._place(one, known[at], (*path, at)) for at, one in enumerate(value)]

        def give() -> Any:
            parts = [place() for place in places]
            if isinstance(value, tuple):
                return tuple(parts)
            value[:] = parts
            return value

        return give

    def _place_anything(self, value: Any, stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        """Take what is stored as it is: a number, a string, or everything below an empty dict."""
        if stored is _NOTHING:
            name = describe(path)
            if name in self._shapes:  # written without an outline
                self._whole[name] = None
                return lambda: self._as_here(self._arrays[name], value)
            if self._strict:
                self._missing(name)
            return lambda: value
        missing = [name for name, _ in leaves_of(stored, path) if name not in self._shapes]
        if missing:
            self._missing(missing[0])
            return lambda: value
        self._whole.update((name, None) for name, _ in leaves_of(stored, path))
        return lambda: rebuild(stored, self._arrays.__getitem__, self._new, path)

    def _place_array(self, name: str, value: torch.Tensor | Array, stored: Any) -> None:
        if name not in self._shapes or not (stored is _NOTHING or isinstance(stored, Leaf)):
            self._missing(name)
            return
        try:
            parts = [] if isinstance(value, np.ndarray) else local_parts(name, value)
            shape = tuple(value.shape) if isinstance(value, np.ndarray) else full_shape(name, value)
            # A tensor that brings its own items only stands for its parts, in dtype, too.
            dtype = parts[0].local.dtype if parts else value.dtype
            here = dtype if isinstance(dtype, np.dtype) else numpy_dtype_of(name, dtype)
            if shape != tuple(self._shapes[name]) or here != self._dtypes[name]:
                found = f"{self._dtypes[name]} {self._shapes[name]}"
                self._problems.append(f"{name} is stored as {found}, and here it is {here} {list(shape)}")
                return
            if isinstance(value, np.ndarray):
                self._boxes.append((name, (0,) * value.ndim, value))
            for part in parts:
                self._place_part(name, part.start, part.local)
        except InvalidRequestError as error:
            self._problems.append(str(error))

    def _place_part(self, name: str, start: tuple[int, ...], local: torch.Tensor) -> None:
        memory = memory_of(name, local)
        if memory is None:  # not the host's
            memory = np.empty(tuple(local.shape), numpy_dtype_of(name, local.dtype))
            array = memory
            self._afterwards.append(lambda: fill(name, local, array))
        self._boxes.append((name, start, memory))

    def _missing(self, name: str) -> None:
        self._problems.append(f"{name} is not stored{did_you_mean(name, self._shapes)}")

    def _new(self, array: Array) -> Any:
        if torch_dtype_of(array.dtype) is None:
            return array
        return tensor_of(array).to(self._device or "cpu")

    def _as_here(self, array: Array, value: Any) -> Any:
        """Return an array of a checkpoint without an outline as what the program has there."""
        if isinstance(value, (bool, int, float)) and array.ndim == 0:
            return type(value)(array.item())
        if isinstance(value, str) and array.ndim == 0 and isinstance(array.item(), bytes):
            return array.item().decode()
        return self._new(array)


def _may_hold_arrays(value: Any) -> bool:
    if isinstance(value, (torch.Tensor, np.ndarray)) or is_stateful(value):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(_may_hold_arrays(one) for one in parts)
