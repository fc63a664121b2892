"""Loading into existing state: first all of it is compared with what is stored, then it is filled in place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.torch import materializing
from ckptd.torch.array_reads import NOTHING, ArrayReads
from ckptd.torch.arrays import Array, tensor_of, torch_dtype_of
from ckptd.torch.casting import Cast
from ckptd.torch.differences import Differences, Loaded, Mismatch
from ckptd.torch.optimizers import fitting
from ckptd.torch.stateful import is_stateful, template_of
from ckptd.torch.stored import Stored
from ckptd.trees.class_kinds import Classes
from ckptd.trees.flatten import check_classes, leaves_of, rebuild
from ckptd.trees.kind import Typed
from ckptd.trees.merging import told_node
from ckptd.trees.outline import Leaf, describe, typed_of


class Filling:
    """One load into existing state: what is read where, and the work that follows."""

    def __init__(
        self,
        stored: Stored,
        device: torch.device | str | None,
        *,
        strict: bool,
        cast: Cast | None = None,
        classes: Classes,
    ) -> None:
        self._stored = stored
        self._device = device
        self._strict = strict
        self._classes = classes
        self._shapes = stored.shapes
        self._whole: dict[str, None] = {}  # tensors to read as they are; a dict keeps their order
        self._arrays: dict[str, Array] = {}
        self._differences = Differences(stored)
        self._cast = cast
        self._reads = ArrayReads(stored, cast, self._differences)
        self._materialized = materializing.Materialized(device)
        self._objects: list[tuple[Any, ...]] = []  # paths of objects that load their own state

    def load(self, state: Any) -> Loaded:
        """Fill `state` and return it; raises the errors of `loading.load`."""
        self._check_container(state)
        place = self._place(state, NOTHING if self._stored.tree is None else self._stored.tree, ())
        self._note_unplaced()
        found = len(self._reads.taken) + len(self._whole)
        self._differences.check(strict=self._strict, found=found, wanted=self._reads.num_wanted)
        self._arrays = self._stored.read(self._whole)
        self._reads.carry_out()
        return self._differences.loaded(_given_back(state, place()))

    def _check_container(self, state: Any) -> None:
        """Raise `InvalidRequestError` if `state` is not a container that the checkpoint as a whole can fill."""
        if is_stateful(state):
            return
        if not isinstance(state, (dict, list, tuple)):
            raise InvalidRequestError(
                "`into` is a dict, a list, a tuple, or an object with state_dict() and load_state_dict()",
                actual=type(state).__name__,
            )
        is_dict = self._stored.tree is None or isinstance(self._stored.tree, dict)
        if is_dict != isinstance(state, dict):
            there = told_node(self._stored.tree) if self._stored.tree is not None else "a dict of names"
            raise InvalidRequestError(
                f"{self._stored.prefix} holds {there}, and `into` is a {type(state).__name__}: pass what was saved"
            )

    def _place(self, value: Any, stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        """Plan the reads for `value`; return a function that returns the loaded value once everything is read."""
        if is_stateful(value):
            return self._place_stateful(value, stored, path)
        if isinstance(value, torch.Tensor) and value.is_meta:
            return self._place_meta(describe(path), value, stored)
        if isinstance(value, np.ndarray) and _is_more_than_numbers(value, typed_of(stored)):
            return self._place_noted_array(value, stored, path)
        if isinstance(value, (torch.Tensor, np.ndarray)):
            self._reads.place(describe(path), value, stored)
            return lambda: value
        if isinstance(value, dict) and value and self._has_places(value, stored, path):
            return self._place_dict(value, stored, path)
        if isinstance(value, (list, tuple)) and _may_hold_arrays(value):
            return self._place_sequence(value, stored, path)
        return self._place_anything(value, stored, path)

    def _has_places(self, value: dict[Any, Any], stored: Any, path: tuple[Any, ...]) -> bool:
        """Return whether a dict has a place for each stored part; otherwise it is a value and is replaced."""
        if _may_hold_arrays(value):
            return True
        if stored is NOTHING or not isinstance(stored, dict):
            return stored is NOTHING
        is_in_object = any(path[:length] in self._objects for length in range(len(path)))
        is_value = type(value) is Counter or is_in_object
        return not is_value or any(leaf.kind in ("array", "numpy") for _, leaf in leaves_of(stored, path))

    def _place_stateful(self, value: Any, stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        name = describe(path)
        if isinstance(value, torch.optim.Optimizer) and isinstance(stored, dict):
            fits = fitting(value, stored, self._stored, name, self._cast, self._differences)
            if fits is None:
                return lambda: value
            stored = fits
        self._objects.append(path)
        outline = stored if isinstance(stored, dict) else None
        on_meta = materializing.is_on_meta(value)
        template = (
            materializing.own_tensors(value)
            if on_meta
            else template_of(value, outline, lambda one: self._shapes.get(one, ()), name)
        )
        num_made = len(self._materialized)
        loaded = self._place(template, stored, path)
        has_made = len(self._materialized) > num_made

        def give() -> Any:
            if on_meta:
                materializing.assign(value, loaded())
                return value
            value.load_state_dict(loaded())
            if has_made:
                materializing.check_taken(name, value.state_dict())
            return value

        return give

    def _place_dict(self, value: dict[Any, Any], stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        known = stored if isinstance(stored, dict) else {}
        if path and isinstance(stored, dict):
            for key, node in known.items():
                if key not in value:
                    # A key that only some ranks saved belongs to them: this rank needs no place for it.
                    is_own = self._stored.is_of_some_ranks(node, (*path, key))
                    told = self._differences.unplaced if is_own else self._differences.unexpected
                    told.append(describe((*path, key)))
        places = {key: self._place(one, known.get(key, NOTHING), (*path, key)) for key, one in value.items()}

        def give() -> Any:
            for key, place in places.items():
                value[key] = place()
            return value

        return give

    def _place_sequence(
        self, value: list[Any] | tuple[Any, ...], stored: Any, path: tuple[Any, ...]
    ) -> Callable[[], Any]:
        known: Iterable[Any] = stored if isinstance(stored, (list, tuple)) else [NOTHING] * len(value)
        known = list(known)
        if len(known) != len(value):
            parts = Mismatch(describe(path), f"{len(known)} parts", f"{len(value)}")
            self._differences.mismatched.append(parts)
            return lambda: value
        places = [self._place(one, known[at], (*path, at)) for at, one in enumerate(value)]

        def give() -> Any:
            parts = [place() for place in places]
            if isinstance(value, tuple):
                return tuple(parts) if type(value) is tuple else tuple.__new__(type(value), parts)
            value[:] = parts
            return value

        return give

    def _place_anything(self, value: Any, stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        """Replace `value` by the stored value: a number, a string, or everything below an empty dict."""
        if stored is NOTHING:
            name = describe(path)
            if name in self._shapes:  # written without an outline
                self._whole[name] = None
                return lambda: self._as_here(self._arrays[name], value)
            if name:
                self._differences.missing.append(name)
            return lambda: value
        missing = [name for name, _ in leaves_of(stored, path) if name not in self._shapes]
        if missing:
            raise CorruptionError("the outline names a tensor that is missing", key=missing[0])
        self._whole.update((name, None) for name, _ in leaves_of(stored, path))
        classes = self._classes.more(type(value))
        check_classes(stored, classes, path)
        return lambda: rebuild(stored, self._arrays.__getitem__, self._new, path, classes)

    def _place_noted_array(self, value: Array, stored: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
        """Load numpy's texts and other arrays that need a note; fill the existing array if its dtype fits."""
        name = describe(path)
        if isinstance(stored, Leaf) and self._shapes.get(name, value.shape) != value.shape:
            told = Mismatch(name, str(list(self._shapes[name])), str(list(value.shape)))
            self._differences.mismatched.append(told)
            return lambda: value
        loaded = self._place_anything(value, stored, path)

        def give() -> Any:
            new = loaded()
            if not isinstance(new, np.ndarray) or new.dtype != value.dtype or not value.flags.writeable:
                return new
            np.copyto(value, new)
            return value

        return give

    def _place_meta(self, name: str, value: torch.Tensor, stored: Any) -> Callable[[], Any]:
        """Create a tensor for one on the meta device; only once if it has several names."""
        new, tied = self._materialized.of(value)
        if tied.is_filled:
            self._reads.taken.add(name)
        else:
            tied.is_filled = self._reads.place(name, new, stored)
            if tied.is_filled:  # its other names need not be stored
                self._differences.missing = [one for one in self._differences.missing if one not in tied.names]
        tied.names.append(name)
        return lambda: new if tied.is_filled else value

    def _note_unplaced(self) -> None:
        """List stored tensors below an object that loads its own state, if they have no place in it."""
        known = {*self._reads.taken, *self._whole}
        told = [*self._differences.unexpected, *self._differences.unplaced]
        objects = [describe(path) for path in self._objects]
        for name in self._shapes:
            below = any(not one or name.startswith(f"{one}/") for one in objects)
            if below and name not in known and not any(name == one or name.startswith(f"{one}/") for one in told):
                self._differences.unplaced.append(name)

    def _new(self, array: Array) -> Any:
        if torch_dtype_of(array.dtype) is None:
            return array
        return tensor_of(array).to(self._device or "cpu")

    def _as_here(self, array: Array, value: Any) -> Any:
        """Return an array of a checkpoint without an outline in the type of the program's value."""
        if isinstance(value, (bool, int, float)) and array.ndim == 0:
            return type(value)(array.item())
        if isinstance(value, str) and array.ndim == 0 and isinstance(array.item(), bytes):
            return array.item().decode()
        return self._new(array)


def _is_more_than_numbers(array: Array, typed: Typed | None) -> bool:
    noted = typed is not None and typed.kind in ("numpy.text", "numpy.bytes", "numpy.bits")
    return noted or array.dtype.kind in "OSU"


def _given_back(state: Any, loaded: Any) -> Any:
    """Return the program's container with the loaded content."""
    if loaded is state or isinstance(state, tuple):
        return loaded
    if isinstance(state, list):
        state[:] = loaded
    else:
        state.clear()
        state.update(loaded)
    return state


def _may_hold_arrays(value: Any) -> bool:
    if isinstance(value, (torch.Tensor, np.ndarray)) or is_stateful(value):
        return True
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return any(_may_hold_arrays(one) for one in parts)
