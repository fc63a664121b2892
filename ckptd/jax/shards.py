"""Convert between a `jax.Array` over any devices and boxes of the whole array.

Of every box one device's copy is saved, the one that JAX numbers 0, whichever process it belongs to. Each process
restores every box that its devices hold of the new sharding, once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding
from numpy.typing import NDArray

from ckptd.client.slice import Slice

Array = NDArray[Any]
Bounds = tuple[tuple[int, ...], tuple[int, ...]]
"""Start and shape of a box."""


def pieces(array: jax.Array, view: Callable[[Array], Array] = np.asarray) -> Array | list[Slice]:
    """Return what this process saves of an array: all of it, or slices; views of it, where the host can see its memory.

    No slices at all: other processes save it.

    Args:
        array: in JAX's memory.
        view: what is saved of each part, over the same memory.

    Raises:
        RuntimeError: the array was deleted, as donated ones are.
    """
    if len(array.sharding.device_set) == 1 and array.is_fully_addressable:
        return view(np.asarray(array))
    found = []
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            start, shape = bounds(shard.index, array.shape)
            found.append((start, shape, shard.data))
    if len(found) == 1 and found[0][1] == array.shape:
        return view(np.asarray(found[0][2]))
    return [Slice(view(np.asarray(data)), array.shape, start) for start, _, data in found]


def send_ahead(array: jax.Array) -> None:
    """Begin to copy an array from its devices to the host, where that takes a copy."""
    for shard in array.addressable_shards:
        if shard.replica_id == 0 and shard.device.platform != "cpu":
            shard.data.copy_to_host_async()


def bounds(index: tuple[slice, ...], shape: Sequence[int]) -> Bounds:
    """Return start and shape of the box that JAX gives as one `slice` per dimension."""
    ranges = [part.indices(size) for part, size in zip(index, shape, strict=True)]
    return tuple(begin for begin, _, _ in ranges), tuple(end - begin for begin, end, _ in ranges)


def slices(box: Bounds) -> tuple[slice, ...]:
    """Return the index of a box, one `slice` per dimension."""
    return tuple(slice(begin, begin + size) for begin, size in zip(*box, strict=True))


def places(sharding: Sharding, shape: tuple[int, ...]) -> dict[Any, Bounds]:
    """Return device → box, for the devices of this process."""
    indices = sharding.addressable_devices_indices_map(shape)
    return {device: bounds(index or (), shape if index else ()) for device, index in indices.items()}


def assemble(shape: tuple[int, ...], dtype: Any, sharding: Sharding, boxes: Mapping[Bounds, Any]) -> jax.Array:
    """Return the array of this sharding whose boxes, those of this process, are these arrays of numpy's or JAX's.

    Memory in the layout that JAX needs is used without a copy; it must not be changed any more.
    """
    kind = sharding.memory_kind
    parts = [
        jax.device_put(boxes[box], SingleDeviceSharding(device, memory_kind=kind))
        for device, box in places(sharding, shape).items()
    ]
    if not parts:  # its devices are all of other processes
        return jax.make_array_from_single_device_arrays(shape, sharding, parts, dtype=dtype)
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)
