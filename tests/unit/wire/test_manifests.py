from __future__ import annotations

import numpy as np
import pytest

from ckptd.engine.identity import SaveRef
from ckptd.engine.layout import Assignment, Lane
from ckptd.engine.manifest import Manifest, Part
from ckptd.errors import InvalidRequestError
from ckptd.format import dtypes
from ckptd.format.slices import Box
from ckptd.wire import lanes, manifests, packed
from ckptd.wire.v1 import save_pb2

FLOAT = dtypes.by_name("float32").number
STRING = dtypes.by_name("string").number


def part(name="w", shape=(4, 3), start=(0, 0), box=(2, 3)):
    return Part(name, FLOAT, shape, Box(start, box), 4 * int(np.prod(box, dtype=int)))


MANIFESTS = [
    Manifest.of([]),
    Manifest.of([Part("scalar", FLOAT, (), Box((), ()), 4)]),
    Manifest.of([part(), part(start=(2, 0)), Part("\udcff", FLOAT, (0, 5), Box((0, 0), (0, 5)), 0)]),
    Manifest.of([Part("s", STRING, (2,), Box((0,), (2,)), 2 + 4 + 5, 2, 0xFFFFFFFF, 8)]),
]


def large(parts: int) -> Manifest:
    return Manifest.of(
        part(f"layer/{tensor}", (parts, 3), (row, 0), (1, 3)) for tensor in range(2) for row in range(parts)
    )


@pytest.mark.parametrize("manifest", MANIFESTS)
def test_a_manifest_and_its_message_are_one_thing(manifest):
    sent = manifests.manifest_to_wire(manifest).SerializeToString()
    received = manifests.manifest_from_bytes(sent)
    assert received.digest == manifest.digest
    assert received.names == manifest.names
    assert [received.box(row) for row in range(received.num_parts)] == [
        manifest.box(row) for row in range(manifest.num_parts)
    ]


@pytest.mark.parametrize("manifest", [MANIFESTS[0], MANIFESTS[2], large(30_000)])
def test_a_manifest_of_any_size_travels_in_messages_of_a_megabyte(manifest):
    parts = list(manifests.manifest_parts(manifest))
    assert all(part.ByteSize() <= manifests.PART_BYTES + 64 for part in parts)
    assert manifests.collect_manifest(parts).digest == manifest.digest


def test_a_manifest_that_is_too_large_is_refused_before_it_is_held():
    endless = (save_pb2.ManifestPart(digest=b"d" * 32, data=bytes(1000)) for _ in range(10**9))
    with pytest.raises(InvalidRequestError, match="max-manifest-bytes"):
        manifests.collect_manifest(endless, limit_bytes=10_000)


def test_a_manifest_with_another_digest_is_refused():
    first, *rest = manifests.manifest_parts(MANIFESTS[2])
    first.digest = b"x" * 32
    with pytest.raises(InvalidRequestError, match="announced"):
        manifests.collect_manifest([first, *rest])


def test_no_parts_and_no_manifest_are_refused():
    with pytest.raises(InvalidRequestError):
        manifests.collect_manifest([])
    with pytest.raises(InvalidRequestError):
        manifests.collect_manifest([save_pb2.ManifestPart(digest=b"d" * 32, data=b"\xff")])


@pytest.mark.parametrize(
    "break_it",
    [
        lambda m: m.names.append(b"more"),
        lambda m: m.dtypes.append(1),
        lambda m: m.ranks.append(0),
        lambda m: m.ranks.__setitem__(0, -1),
        lambda m: m.ranks.__setitem__(0, 1 << 30),
        lambda m: m.full_shapes.append(1),
        lambda m: m.full_shapes.__setitem__(0, -4),
        lambda m: m.full_shapes.__setitem__(0, 1 << 62),
        lambda m: m.dtypes.__setitem__(0, 99),
        lambda m: m.dtypes.__setitem__(0, 2),
        lambda m: m.names.__setitem__(1, m.names[0]),
        lambda m: m.names.__setitem__(0, b""),
        lambda m: m.names.__setitem__(0, b"n" * 70_000),
        lambda m: m.tensor.append(0),
        lambda m: m.tensor.__setitem__(0, 9),
        lambda m: m.tensor.__setitem__(0, -1),
        lambda m: m.starts.__setitem__(0, -1),
        lambda m: m.starts.__setitem__(0, (1 << 63) - 1),
        lambda m: m.shapes.__setitem__(0, 5),
        lambda m: m.shapes.__setitem__(0, -1),
        lambda m: m.sizes.__setitem__(0, -8),
        lambda m: m.sizes.__setitem__(0, 1 << 62),
        lambda m: m.sizes.append(4),
        lambda m: m.lengths_sizes.__setitem__(0, 4),
        lambda m: m.lengths_crcs.append(4),
        lambda m: m.lengths_covered.pop(),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(break_it):
    message = manifests.manifest_to_wire(MANIFESTS[2])
    break_it(message)
    with pytest.raises(InvalidRequestError):
        manifests.manifest_from_bytes(message.SerializeToString())


def lane(shard: int, segments: int) -> Lane:
    numbers = np.arange(segments, dtype=np.int64)
    return Lane(shard, f"r/m-1.data-{shard}", ("a:1",) * shard, int(numbers.sum()), numbers, numbers * 7, numbers)


@pytest.mark.parametrize("segments", [(), (0,), (1, 5), (lanes.ROWS_PER_PART * 2 + 1, 3, lanes.ROWS_PER_PART)])
def test_an_assignment_and_its_messages_are_one_thing(segments):
    save = SaveRef("r", 1, 1, "s", 1, "p", 2, "inc")
    assignment = Assignment(save, "r/m-1", 3, tuple(lane(shard, n) for shard, n in enumerate(segments)))
    replies = list(lanes.assignment_to_wire(assignment, stream_port=7071))
    assert all(reply.ByteSize() < 1 << 20 for reply in replies)
    received = lanes.assignment_from_wire(replies)
    assert (received.save, received.key, received.num_shards) == (save, "r/m-1", 3)
    for got, sent in zip(received.lanes, assignment.lanes, strict=True):
        assert (got.shard, got.key, got.writers, got.size_bytes) == (
            sent.shard,
            sent.key,
            sent.writers,
            sent.size_bytes,
        )
        assert got.stream_port == 7071
        for column in ("items", "item_offsets", "sizes"):
            np.testing.assert_array_equal(getattr(got, column), getattr(sent, column))


def test_an_assignment_that_ends_early_is_refused():
    assignment = Assignment(SaveRef("r", 1, 1, incarnation="i"), "r/m-1", 2, (lane(0, 3), lane(1, 3)))
    replies = list(lanes.assignment_to_wire(assignment))
    for cut in range(len(replies)):
        with pytest.raises(InvalidRequestError):
            lanes.assignment_from_wire(replies[:cut])
    with pytest.raises(InvalidRequestError):
        lanes.assignment_from_wire([*replies, replies[0]])


def a_column(number, content):
    return bytes((number << 3 | 2, len(content))) + content


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"\x0a\x7f", "cut off"),
        (b"\xff" * 11, "no message"),
        (b"\x28\x01", "not packed"),
        (a_column(5, b"\x80"), "cut off"),
        (a_column(5, b"\x80" * 10 + b"\x01"), "too many bytes"),
        (a_column(10, b"\x01\x02"), "cut off"),
    ],
)
def test_what_is_no_manifest_is_refused_by_what_is_wrong_with_it(data, said):
    with pytest.raises(InvalidRequestError, match=said):
        manifests.manifest_from_bytes(data)


def test_numbers_of_all_lengths_are_read_over_the_ends_of_blocks_and_in_several_stretches():
    numbers = [number for shift in range(0, 63, 7) for number in (1 << shift, (1 << shift) - 1, -(1 << shift))] * 2000
    half = len(numbers) // 2
    message = save_pb2.Manifest(starts=numbers[:half]).SerializeToString()
    message += save_pb2.Manifest(starts=numbers[half:]).SerializeToString()
    assert len(message) > 2 * packed.BLOCK
    read = [packed.varints(content) for _, content in packed.delimited_fields(memoryview(message))]
    assert np.concatenate(read).tolist() == numbers


def test_a_small_message_does_not_become_gigabytes():
    with pytest.raises(InvalidRequestError, match="too many parts: save fewer, larger parts"):
        manifests.manifest_from_bytes(b"\x2a\x81\x80\x80\x02" + bytes((1 << 22) + 1))
