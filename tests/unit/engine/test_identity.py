"""How whoever speaks is named."""

from __future__ import annotations

from ckptd.engine.identity import Member


def test_a_member_is_named_with_what_is_known_of_it():
    assert str(Member(2, 4, "i", "host-a", 7)) == "rank 2 of 4 (pid 7 on host-a)"
    assert str(Member(2, 0, "i", "host-a", 7)) == "rank 2 (pid 7 on host-a)"
