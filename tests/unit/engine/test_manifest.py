"""A manifest: columns that fit each other, or a typed error; the same layout, the same digest."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from ckptd.engine.manifest import Manifest, Part
from ckptd.engine.saves.known_layouts import KnownLayouts
from ckptd.engine.saves.known_manifests import KnownManifests
from ckptd.errors import InvalidRequestError
from ckptd.format.slices import Box
from ckptd.storage.base import Durability

FLOAT, STRING, VARIANT = 1, 7, 21


def two_parts() -> Manifest:
    return Manifest.of(
        [
            Part("w", FLOAT, (4, 2), Box((0, 0), (2, 2)), 16),
            Part("s", STRING, (2,), Box((0,), (2,)), 2 + 4 + 7, 2, 0x1234, 8),
            Part("w", FLOAT, (4, 2), Box((2, 0), (2, 2)), 16),
            Part("x", FLOAT, (), Box((), ()), 4),
        ]
    )


def test_parts_come_back_as_boxes():
    manifest = two_parts()
    assert [manifest.box(part) for part in range(4)] == [
        Box((0, 0), (2, 2)), Box((0,), (2,)), Box((2, 0), (2, 2)), Box((), ()),
    ]  # fmt: skip
    assert manifest.size_bytes == 49


def test_the_same_layout_has_the_same_digest_and_any_difference_another():
    base = two_parts()
    assert base.digest == two_parts().digest
    others = [
        replace(base, names=("v", "s", "x")),
        replace(base, starts=base.starts + np.array([0, 0, 0, 0, 0]), lengths_crcs=base.lengths_crcs + np.uint32(1)),
        replace(base, full_shapes=((5, 2), (2,), ())),
    ]
    assert len({manifest.digest for manifest in [base, *others]}) == 4


BAD_PARTS = {
    "size of a float": Part("w", FLOAT, (2,), Box((0,), (2,)), 9),
    "outside": Part("w", FLOAT, (2,), Box((1,), (2,)), 8),
    "negative start": Part("w", FLOAT, (2,), Box((-1,), (2,)), 8),
    "start near the end of int64": Part("w", FLOAT, (2,), Box((2**63 - 1,), (1,)), 4),
    "absurd shape": Part("w", FLOAT, (2**40, 2**40), Box((0, 0), (0, 0)), 0),
    "absurd shape hidden by a zero": Part("w", FLOAT, (0, 2**62, 2**62), Box((0, 0, 0), (0, 0, 0)), 0),
    "too many dimensions": Part("w", FLOAT, (1,) * 65, Box((0,) * 65, (1,) * 65), 4),
    "no name": Part("", FLOAT, (1,), Box((0,), (1,)), 4),
    "a name like a slice's key": Part("\0w", FLOAT, (1,), Box((0,), (1,)), 4),
    "unknown dtype": Part("w", 99, (1,), Box((0,), (1,)), 4),
    "variant": Part("w", VARIANT, (1,), Box((0,), (1,)), 4),
    "string without lengths": Part("w", STRING, (2,), Box((0,), (2,)), 6, 0, 0, 8),
    "string smaller than its lengths": Part("w", STRING, (2,), Box((0,), (2,)), 5, 2, 0, 8),
    "string with too few lengths covered": Part("w", STRING, (2,), Box((0,), (2,)), 6, 2, 0, 4),
    "lengths on a float": Part("w", FLOAT, (1,), Box((0,), (1,)), 4, 1, 0, 4),
}


@pytest.mark.parametrize("case", BAD_PARTS)
def test_a_part_that_can_not_be_is_refused(case):
    with pytest.raises(InvalidRequestError):
        Manifest.of([BAD_PARTS[case]])


def test_parts_of_one_tensor_must_agree():
    with pytest.raises(InvalidRequestError, match="'w' disagree"):
        Manifest.of([Part("w", 1, (2,), Box((0,), (1,)), 4), Part("w", 1, (3,), Box((1,), (1,)), 4)])


@pytest.mark.parametrize("column", ["sizes", "lengths_sizes", "lengths_crcs", "lengths_covered", "starts", "shapes"])
def test_columns_of_different_length_are_refused(column):
    with pytest.raises(InvalidRequestError):
        replace(two_parts(), **{column: getattr(two_parts(), column)[:-1]})


def test_a_part_of_an_unknown_tensor_is_refused():
    with pytest.raises(InvalidRequestError):
        replace(two_parts(), tensor=np.array([0, 1, 0, 9]))


def test_ranks_with_equal_tensors_keep_their_names_once():
    first, second = two_parts(), two_parts()
    both = second.sharing_with(first)
    assert both.names is first.names
    assert both.shapes is first.shapes
    assert both.digest == second.digest
    assert both.memory_bytes < first.memory_bytes
    assert first.sharing_with(first) is first
    other = replace(second, names=("v", "s", "x"))
    assert other.sharing_with(first) is other


def test_what_is_remembered_of_many_ranks_is_their_columns_and_one_schema():
    num_ranks, num_tensors = 50, 100
    names = [f"model/layer/{number:04d}/weights" for number in range(num_tensors)]

    def of(rank):
        return Manifest.of([Part(name, FLOAT, (num_ranks,), Box((rank,), (1,)), 4) for name in names])

    manifests = [of(rank) for rank in range(num_ranks)]
    needed = manifests[0].memory_bytes + sum(one.sharing_with(manifests[0]).memory_bytes for one in manifests[1:])
    assert needed < sum(one.memory_bytes for one in manifests) / 2
    known, digests = KnownManifests(needed), [manifest.digest for manifest in manifests]
    while manifests:
        known.add(manifests.pop(0))
    assert all(known.knows(digest) for digest in digests)
    known.add(Manifest.of([Part("another", FLOAT, (), Box((), ()), 4)]))
    assert not known.knows(digests[0])


def test_what_the_latest_save_of_a_run_is_made_of_stays_known_beyond_the_bound():
    def job(name):
        return [Manifest.of([Part(name, FLOAT, (8,), Box((rank,), (1,)), 4)]) for rank in range(8)]

    def plan_of(name):
        for manifest in job(name):
            known.add(manifest)
            declared.append(known.find(manifest.digest))  # a save that waits for the other ranks keeps it
        layouts.of(tuple(declared))
        declared.clear()

    def known_of(name):
        return [known.knows(manifest.digest) for manifest in job(name)]

    known, layouts, declared = KnownManifests(1), KnownLayouts(Durability.OBJECT_STORE, None), []
    plan_of("a")
    assert known_of("a") == [True] * 8
    plan_of("b")
    assert (known_of("a"), known_of("b")) == ([False] * 8, [True] * 8)
