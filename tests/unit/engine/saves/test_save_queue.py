"""How many ended saves are remembered: by their number, and by that of their ranks."""

from __future__ import annotations

import pytest

from ckptd.engine.saves.save_queue import is_too_much


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ([1] * 64, False),
        ([1] * 65, True),
        ([8000] * 8, False),
        ([8000] * 9, True),
        ([65_536] * 4, False),  # a rank of the largest job that comes late still learns how the latest ended
        ([65_536] * 5, True),
    ],
)
def test_saves_of_many_ranks_are_remembered_less_long(claims, expected):
    assert is_too_much(claims) is expected
