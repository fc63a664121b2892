"""Tensors that say themselves which part of a larger one they are: stored as that, and filled as that."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import ckptd  # noqa: E402
from ckptd.errors import InvalidRequestError  # noqa: E402
from ckptd.torch import load, named_parts  # noqa: E402
from ckptd.torch.sharding import full_shape, parts_of  # noqa: E402
from tests.unit.torch.shards import OwnItems, declared  # noqa: E402

FULL = torch.arange(12.0, dtype=torch.float64).reshape(4, 3)


def halves(kind, full=FULL, fill=None):
    """Return what two ranks hold: the first rows 0 and 3, the second what lies between; the first has padding."""
    first, second = torch.cat([full[:1], torch.full((1, 3), -1.0), full[3:]]).to(full.dtype), full[1:3].clone()
    if fill is not None:
        first.fill_(fill), second.fill_(fill)
    if kind == "declared":
        shards = [((0, 0), (0, 0), (1, 3)), ((3, 0), (2, 0), (1, 3))]
        return declared(first, (4, 3), *shards), declared(second, (4, 3), ((1, 0), (0, 0), (2, 3)))
    return OwnItems((4, 3), [((0, 0), first[:1]), ((3, 0), first[2:])]), OwnItems((4, 3), [((1, 0), second)])


KINDS = pytest.mark.parametrize("kind", ["declared", "own items"])


@KINDS
def test_the_parts_of_several_ranks_are_one_tensor(tmp_path, kind):
    first, second = halves(kind)
    assert full_shape("w", first) == (4, 3)
    parts = [*parts_of("w", first), *parts_of("w", second)]
    assert [part.start for part in parts] == [(0, 0), (3, 0), (1, 0)]
    ckptd.save_checkpoint(tmp_path / "model-1", {"w": parts})
    assert np.array_equal(ckptd.load_checkpoint(tmp_path / "model-1")["w"], FULL.numpy())


@KINDS
def test_each_is_filled_with_its_own_part(tmp_path, kind):
    ckptd.save_checkpoint(tmp_path / "model-1", {"w": FULL.numpy()})
    for empty, expected in zip(halves(kind, fill=-5.0), halves(kind), strict=True):
        load(tmp_path / "model-1", into={"w": empty})
        for here, there in zip(parts_of("w", empty), parts_of("w", expected), strict=True):
            assert np.array_equal(here.part, there.part)
    padded = halves("declared", fill=-5.0)[0]
    load(tmp_path / "model-1", into={"w": padded})
    assert padded[1].tolist() == [-5.0] * 3


@KINDS
def test_another_whole_is_refused_before_anything_is_read(tmp_path, kind):
    ckptd.save_checkpoint(tmp_path / "model-1", {"w": FULL.numpy()[:3]})
    empty = halves(kind, fill=-5.0)[1]
    with pytest.raises(InvalidRequestError, match=r"stored as float64 \[3, 3\], and here it is float64 \[4, 3\]"):
        load(tmp_path / "model-1", into={"w": empty})


def test_a_rank_that_holds_nothing_names_nothing_and_a_whole_is_stored_as_a_plain_tensor():
    assert parts_of("w", declared(torch.zeros(0, 3), (4, 3))) == []
    assert parts_of("w", declared(torch.zeros(2, 3), (4, 3), ((4, 0), (2, 0), (0, 3)))) == []
    assert "w" not in named_parts({"w": declared(torch.zeros(0, 3), (4, 3))})
    whole = declared(FULL.clone(), (4, 3), ((0, 0), (0, 0), (4, 3)))
    assert np.array_equal(parts_of("w", whole), FULL.numpy())
    assert parts_of("w", declared(torch.zeros(0, 3), (0, 3), ((0, 0), (0, 0), (0, 3)))).shape == (0, 3)


WRONG = {
    "outside": [((3, 0), (0, 0), (2, 3))],
    "not here": [((0, 0), (1, 0), (2, 3))],
    "negative": [((-1, 0), (0, 0), (2, 3))],
    "another rank": [((0,), (0, 0), (2, 3))],
    "no numbers": [(("a", 0), (0, 0), (2, 3))],
}


@pytest.mark.parametrize("shards", WRONG.values(), ids=WRONG)
def test_what_cannot_be_is_refused_by_name(shards):
    with pytest.raises(
        InvalidRequestError, match="tensor 'w'(: a shard of sizes .* does not fit| has attributes of a shard)"
    ):
        parts_of("w", declared(torch.zeros(2, 3), (4, 3), *shards))


def test_shards_that_are_not_described_each_are_refused_by_name():
    uneven = declared(torch.zeros(2, 3), (4, 3), ((0, 0), (0, 0), (2, 3)))
    uneven.local_sizes = ()
    with pytest.raises(InvalidRequestError, match="tensor 'w' has attributes that give different numbers of shards"):
        parts_of("w", uneven)
