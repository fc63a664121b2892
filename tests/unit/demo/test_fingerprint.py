from __future__ import annotations

import numpy as np
import pytest

from ckptd.demo import fingerprint
from ckptd.demo.network import Rows

STATE = np.random.default_rng(0).standard_normal((64, 5)).astype(np.float32)


def parts(state, world_size, bias):
    return [
        {
            "w": fingerprint.of_rows(state[(rows := Rows.of(rank, world_size)).begin : rows.end], rows.begin),
            "b": fingerprint.of_whole(bias),
        }
        for rank in range(world_size)
    ]


def test_the_digest_does_not_depend_on_how_the_rows_are_cut():
    bias = np.ones(3, np.float32)
    digests = {fingerprint.combine(parts(STATE, world_size, bias)) for world_size in (1, 2, 3, 4, 7)}
    assert len(digests) == 1


def test_one_flipped_bit_anywhere_changes_the_digest():
    bias = np.ones(3, np.float32)
    sound = fingerprint.combine(parts(STATE, 3, bias))
    for row, column in ((0, 0), (30, 2), (63, 4)):
        flipped = STATE.copy()
        flipped.view(np.uint32)[row, column] ^= 1
        assert fingerprint.combine(parts(flipped, 4, bias)) != sound
    assert fingerprint.combine(parts(STATE, 3, np.array([1, 1, -0.0], np.float32))) != sound


def test_zeros_of_either_sign_are_different_bits():
    assert fingerprint.of_whole(np.float32(0.0)) != fingerprint.of_whole(np.float32(-0.0))


def test_workers_that_disagree_about_a_replicated_tensor_are_found_out():
    held = parts(STATE, 2, np.ones(3, np.float32))
    held[1]["b"] = fingerprint.of_whole(np.zeros(3, np.float32))
    with pytest.raises(ValueError, match="disagree on row 0 of b"):
        fingerprint.combine(held)


def test_a_missing_row_is_found_out():
    held = parts(STATE, 3, np.ones(3, np.float32))
    with pytest.raises(ValueError, match="rows of w are missing"):
        fingerprint.combine([held[0], held[2]])
