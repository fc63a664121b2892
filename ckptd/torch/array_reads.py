"""Reading stored tensors into existing tensors and arrays, on any device and of any dtype.

Each one is first compared with what is stored. Nothing of the program is changed before `ArrayReads.carry_out`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from ckptd.errors import InvalidRequestError
from ckptd.torch.arrays import Array, fill, memory_of, numpy_dtype_of
from ckptd.torch.casting import Cast, converted, needed_cast
from ckptd.torch.differences import Differences, Mismatch
from ckptd.torch.kinds import bits_of
from ckptd.torch.overlaps import Taken
from ckptd.torch.sharding import full_shape, local_parts
from ckptd.torch.stored import Stored
from ckptd.trees import bits
from ckptd.trees.merging import told_node
from ckptd.trees.outline import Leaf, typed_of

NOTHING = object()
"""Stands for "not stored", as None may be stored."""


class ArrayReads:
    """The boxes of one load, and the work that follows once they are read.

    Args:
        stored: the checkpoint.
        cast: which conversions of dtypes are allowed.
        differences: collects what does not fit.

    Attributes:
        taken: names of tensors that are read into memory of the program.
        num_wanted: how many tensors the program has places for.
    """

    def __init__(self, stored: Stored, cast: Cast | None, differences: Differences) -> None:
        self.taken: set[str] = set()
        self.num_wanted = 0
        self._stored = stored
        self._cast = cast
        self._differences = differences
        self._shapes = stored.shapes
        self._dtypes = stored.dtypes
        self._boxes: list[tuple[str, tuple[int, ...], Array]] = []
        self._other_dtypes: list[tuple[str, tuple[int, ...], Array]] = []  # boxes of tensors that are converted
        self._conversions: list[Callable[[], object]] = []
        self._afterwards: list[Callable[[], object]] = []
        self._copies: list[Callable[[], object]] = []  # into memory that nothing is read into directly
        self._memory = Taken()

    def place(self, name: str, value: torch.Tensor | Array, stored: Any) -> bool:
        """Plan to read a tensor into `value`; return whether it is stored and fits.

        Args:
            name: of the tensor.
            value: to be filled.
            stored: what the outline has at this place; `NOTHING` without an outline.
        """
        self.num_wanted += 1
        if stored is not NOTHING and stored is not None and not isinstance(stored, Leaf):
            self._differences.mismatched.append(Mismatch(name, told_node(stored), "a tensor"))
            return False
        if name not in self._shapes or stored is None:
            self._differences.missing.append(name)
            return False
        if isinstance(value, torch.Tensor) and stored is not NOTHING:
            here_bits, there_bits = bits_of(value), bits.name_in(typed_of(stored))
            if here_bits[1] != there_bits:
                told = Mismatch(name, str(there_bits or self._dtypes[name]), f"{value.dtype}, and no cast converts it")
                self._differences.refused.append(str(told))
                return False
            value = here_bits[0]
        try:
            parts = [] if isinstance(value, np.ndarray) else local_parts(name, value)
            shape = tuple(value.shape) if isinstance(value, np.ndarray) else full_shape(name, value)
            # A tensor with items of its own has no elements itself: its parts have the dtype.
            dtype = parts[0].local.dtype if parts else value.dtype
            here = dtype.newbyteorder("=") if isinstance(dtype, np.dtype) else numpy_dtype_of(name, dtype)
            if not self._fits(name, here, shape):
                return False
            boxes = [((0,) * value.ndim, self._native(value))] if isinstance(value, np.ndarray) else []
            boxes += [(part.start, self._memory_of(name, part.local, here)) for part in parts]
            for start, memory in boxes:
                self._read_into(name, start, memory, here)
            self._memory.add(memory for _, memory in boxes)  # they do not overlap each other
        except InvalidRequestError as error:
            self._differences.refused.append(str(error))
            return False
        self.taken.add(name)
        return True

    def _fits(self, name: str, here: np.dtype[Any], shape: tuple[int, ...]) -> bool:
        there = self._dtypes[name]
        if shape != self._shapes[name]:
            told = Mismatch(name, f"{there} {list(self._shapes[name])}", f"{here} {list(shape)}")
            self._differences.mismatched.append(told)
            return False
        if here == there:
            return True
        cast = needed_cast(there, here)
        if cast is not None and self._cast in (cast, "any"):
            return True
        way = f"; cast={cast!r} converts it" if cast else ""
        told = Mismatch(name, f"{there} {list(shape)}", f"{here} {list(shape)}{way}")
        self._differences.refused.append(str(told))
        return False

    def _native(self, array: Array) -> Array:
        """Return memory for an array in this host's byte order."""
        if array.dtype.isnative:
            return array
        native = np.empty(array.shape, array.dtype.newbyteorder("="))
        self._afterwards.append(lambda: np.copyto(array, native))
        return native

    def _memory_of(self, name: str, local: torch.Tensor, here: np.dtype[Any]) -> Array:
        memory = memory_of(name, local)
        if memory is not None:
            return memory
        array = np.empty(tuple(local.shape), here)  # its memory is not the host's
        self._afterwards.append(lambda: fill(name, local, array))
        return array

    def _read_into(self, name: str, start: tuple[int, ...], memory: Array, here: np.dtype[Any]) -> None:
        if self._dtypes[name] != here:
            read = np.empty(memory.shape, self._dtypes[name])
            new: list[Array] = []
            self._other_dtypes.append((name, start, read))
            self._conversions.append(lambda: new.append(converted(name, read, here)))
            self._copies.append(lambda: np.copyto(memory, new.pop()))
        elif self._memory.meets(memory):  # tensors that share one memory here: the last one is loaded, as in torch
            aside = np.empty(memory.shape, here)
            self._boxes.append((name, start, aside))
            self._copies.append(lambda: np.copyto(memory, aside))
        else:
            self._boxes.append((name, start, memory))

    def carry_out(self) -> None:
        """Read everything and fill the memory."""
        self._stored.fill(self._other_dtypes)
        for convert in self._conversions:  # before anything that the program has is changed
            convert()
        self._stored.fill(self._boxes)
        for finish in (*self._copies, *self._afterwards):
            finish()
