"""What several ranks hold: found from digests, box by box, and said in words."""

from __future__ import annotations

import numpy as np
import pytest

from ckptd.engine.lanes.plan import plan
from ckptd.engine.manifest import Manifest, Part
from ckptd.engine.replicas import Compared, Remark, differences, refusal, remarked, told
from ckptd.format import dtypes
from ckptd.format.slices import Box


def manifest(dtype="int32", shape=(), names=("a",)):
    number = dtypes.by_name(dtype)
    count = int(np.prod(shape))
    return Manifest.of(Part(name, number.number, shape, Box.whole(shape), count * number.width) for name in names)


def compared(digests):
    return Compared(np.array(list(digests), np.int64), np.array(list(digests.values()), np.uint64))


def found(manifests, digests):
    layout = plan(manifests, 2)
    given = {rank: compared(each) for rank, each in enumerate(digests) if each is not None}
    return [str(each) for each in differences(layout, given)]


@pytest.mark.parametrize(
    ("digests", "said"),
    [
        ([{0: 5}, {0: 5}, {0: 5}], []),
        ([{0: 5}, {0: 6}, {0: 5}], ["'a' is 5 on ranks 0 and 2, 6 on rank 1"]),
        ([{0: 5}, None, {0: 6}], ["'a' is 5 on rank 0, 6 on rank 2"]),
        ([None, {0: 5}, {0: 6}], ["'a' is 5 on rank 1, 6 on rank 2"]),
        ([{0: 5}, None, None], []),
        ([None, None, None], []),
        ([{0: 5}, {7: 6}, {0: 5}], []),
        ([{0: (1 << 32) - 1}, {0: 1}, {}], ["'a' is -1 on rank 0, 1 on rank 1"]),
    ],
)
def test_what_is_declared_is_compared(digests, said):
    assert found([manifest()] * 3, digests) == said


def test_what_is_longer_than_its_digest_is_named_without_its_value():
    ranks = [manifest("float32", (3,))] * 3
    assert found(ranks, [{0: 1}, {0: 2}, {0: 3}]) == ["'a' is not the same on rank 0 as on ranks 1-2"]


def test_what_one_rank_holds_is_compared_with_nothing():
    ranks = [manifest(names=("a", "b")), manifest(names=("b", "c"))]
    assert found(ranks, [{0: 1, 1: 2}, {0: 2, 1: 1}]) == []
    assert found(ranks, [{0: 1, 1: 2}, {0: 3, 1: 1}]) == ["'b' is 2 on rank 0, 3 on rank 1"]


def test_many_values_and_many_tensors_are_told_in_few_words():
    assert found([manifest()] * 6, [{0: rank} for rank in range(6)]) == [
        "'a' is 0 on rank 0, 1 on rank 1, 2 on rank 2, 3 on rank 3, and 2 more values"
    ]
    names = [f"t{number}" for number in range(300)]
    layout = plan([manifest(names=names)] * 2, 1)
    all_of = {rank: compared(dict.fromkeys(range(300), rank)) for rank in range(2)}
    several = differences(layout, all_of)
    assert len(several) == 100
    assert told(several).count(" on rank 1") == 5
    assert told(several).endswith("; and 95 more")
    assert "'t0' is 0 on rank 0, 1 on rank 1" in str(refusal(several))


def test_remarks_are_compared_by_name_and_digest():
    same, other, own = Remark("a", 1, "[1]"), Remark("a", 2, "[2]"), Remark("b", 3, "a list of 3")
    assert remarked({0: (same,), 1: (same, own)}, ()) == ()
    (found,) = remarked({0: (same,), 1: (other,), 2: (same, own)}, ())
    assert str(found) == "'a' is [1] on ranks 0 and 2, [2] on rank 1"
    assert found.is_contradiction
    (found,) = remarked({0: (own,)}, {"b"})
    assert str(found) == "'b' is a list of 3 on rank 0, a tensor on another"
    value = Remark("b", 3, "3", is_outline=False)
    assert remarked({0: (value,)}, {"b"}) == ()
    (found,) = remarked({0: (value,), 1: (Remark("b", 4, "4", is_outline=False),)}, {"b"})
    assert str(found) == "'b' is 3 on rank 0, 4 on rank 1"
    assert not found.is_contradiction


def test_many_remarks_that_differ_are_cut():
    said = {rank: tuple(Remark(f"r{n}", rank, str(rank)) for n in range(300)) for rank in range(2)}
    assert len(remarked(said, ())) == 100
