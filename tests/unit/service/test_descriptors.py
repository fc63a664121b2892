from __future__ import annotations

import pytest

from ckptd.errors import UnavailableError
from ckptd.service.descriptors import Descriptors


def test_the_last_descriptors_are_kept_back_and_a_refusal_says_what_is_short():
    open_now = [100]
    descriptors = Descriptors(used=lambda: open_now[0], allowed=lambda: 256)
    descriptors.check()
    open_now[0] = 230
    descriptors = Descriptors(used=lambda: open_now[0], allowed=lambda: 256)
    with pytest.raises(UnavailableError, match=r"no descriptors left .*256 allowed"):
        descriptors.check()


def test_ranks_that_come_at_once_do_not_all_find_the_same_room():
    descriptors = Descriptors(used=lambda: 220, allowed=lambda: 256)
    for _ in range(4):
        descriptors.check()
    with pytest.raises(UnavailableError):
        descriptors.check()
