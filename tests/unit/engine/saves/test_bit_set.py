"""A set of small numbers, which is a value."""

from __future__ import annotations

from ckptd.engine.saves.bit_set import BitSet


def test_it_is_a_set_of_numbers_that_never_changes():
    some = BitSet() | 3 | 70 | 3
    assert (list(some), len(some), bool(BitSet())) == ([3, 70], 2, False)
    assert (3 in some, 4 in some, -1 in some, 700 in some) == (True, False, False, False)
    assert list(some - 3 - 5) == [70]
    assert list(some) == [3, 70]
    assert some == BitSet() | 70 | 3
    assert list(BitSet.below(3)) == [0, 1, 2]


def test_it_says_whether_it_has_any_of_a_range():
    some = BitSet() | 3 | 70
    assert [some.has_any(*each) for each in ((0, 3), (3, 4), (4, 70), (4, 71), (71, 99), (5, 5))] == [
        False, True, False, True, False, False,
    ]  # fmt: skip
