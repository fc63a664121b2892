"""However a tensor was cut, and whatever box of it is read into whatever array: the elements are the right ones."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ckptd.engine.reading.bundle import Bundle
from ckptd.errors import CorruptionError
from ckptd.format.slices import Box
from ckptd.storage.locations import open_store
from tests.conformance.bundle_files import BundleWriter


@st.composite
def cuttings(draw):
    """A shape, and boxes that tile it: any layout that repeated cuts in two can make."""
    shape = tuple(draw(st.lists(st.integers(1, 9), min_size=1, max_size=4)))
    boxes = [Box.whole(shape)]
    for _ in range(draw(st.integers(0, 8))):
        number = draw(st.integers(0, len(boxes) - 1))
        box, axis = boxes[number], draw(st.integers(0, len(shape) - 1))
        if box.shape[axis] > 1:
            at = draw(st.integers(1, box.shape[axis] - 1))
            low, high = list(box.shape), list(box.shape)
            low[axis], high[axis] = at, box.shape[axis] - at
            start = list(box.start)
            start[axis] += at
            boxes[number : number + 1] = [Box(box.start, tuple(low)), Box(tuple(start), tuple(high))]
    return shape, boxes


@st.composite
def boxes_in(draw, shape):
    start = tuple(draw(st.integers(0, n)) for n in shape)
    return Box(start, tuple(draw(st.integers(0, n - s)) for n, s in zip(shape, start, strict=True)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_box_of_any_cutting_is_right(data):
    shape, boxes = data.draw(cuttings())
    array = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    box = data.draw(boxes_in(shape))
    order = data.draw(st.sampled_from("CF"))
    with tempfile.TemporaryDirectory() as directory:
        writer = BundleWriter(Path(directory) / "m", num_shards=data.draw(st.integers(1, 3)))
        writer.add_boxes("t", array, data.draw(st.permutations(boxes)))
        bundle = Bundle.open(open_store(directory), writer.finish().name)
        into = np.full(box.shape, -1, np.int32, order=order)
        assert bundle.read("t", box, into).tolist() == array[box.within(Box.whole(shape))].tolist()


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_byte_is_never_returned_as_a_whole_tensor(data):
    shape, boxes = data.draw(cuttings())
    array = np.arange(np.prod(shape), dtype=np.int16).reshape(shape)
    with tempfile.TemporaryDirectory() as directory:
        writer = BundleWriter(Path(directory) / "m")
        writer.add_boxes("t", array, boxes)
        prefix = writer.finish()
        shard = Path(f"{prefix}.data-00000-of-00001")
        content = bytearray(shard.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        shard.write_bytes(content)
        try:
            Bundle.open(open_store(directory), prefix.name).read("t")
        except CorruptionError:
            return
        raise AssertionError("the damage was not noticed")
