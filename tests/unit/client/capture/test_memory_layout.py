"""Parts are captured as they will lie in the shards."""

from __future__ import annotations

import numpy as np

from ckptd.client.capture.inventory import Inventory
from ckptd.client.capture.memory_layout import place
from ckptd.engine.layout import Lane


def manifest_of(*sizes):
    return Inventory.of({f"t{n}": np.zeros(size, np.uint8) for n, size in enumerate(sizes)}).manifest


def lane(shard, items, sizes):
    items = np.array(items)
    return Lane(shard, f"s{shard}", (), sum(sizes), items, 0 * items, np.array(sizes))


def test_before_the_first_plan_parts_lie_one_after_another():
    placement = place(manifest_of(5, 0, 7, 3))
    assert placement.offsets.tolist() == [0, 5, 5, 12]
    assert placement.size_bytes == 15


def test_a_lane_begins_at_a_page_and_what_is_not_sent_comes_last():
    lanes = (lane(0, [2, 0], [7, 5]), lane(1, [3], [3]))
    placement = place(manifest_of(5, 4, 7, 3), lanes)
    assert placement.offsets.tolist() == [7, 4099, 0, 4096]
    assert placement.size_bytes == 4103


def test_a_part_that_is_sent_in_two_segments_lies_there_once():
    items = np.array([0, 1, 0])
    strings = Lane(0, "s", (), 12, items, np.array([0, 0, 3]), np.array([3, 4, 2]))
    placement = place(manifest_of(5, 4), (strings,))
    assert placement.offsets.tolist() == [0, 5]
