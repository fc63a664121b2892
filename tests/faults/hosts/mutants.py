"""Rules that are taken out of a process, one by one: then a test with real processes has to fail."""

from __future__ import annotations

from typing import Any

import pytest

from tests import seams

VARIABLE = "CKPTD_TESTS_WITHOUT"
"""Names the rules that a process is to do without, with blanks between them."""


class _Everything(tuple[str, ...]):
    __slots__ = ()

    def __contains__(self, key: object) -> bool:
        return True


def take_out(patch: pytest.MonkeyPatch, rule: str) -> None:
    """Let this process go on without a rule."""
    match rule:
        case "tombstones":  # a record goes although agents may still write under its keys
            seams.IS_TAKEN.put(patch, lambda elsewhere, record: False)
        case "age":  # what other hosts upload is taken for dead at once, and not when it is old
            sweep = seams.SWEEP_BUCKET.value

            def sweep_all(store: Any, directory: str, *, given_up: object = (), **how: Any) -> object:
                return sweep(store, directory, given_up=_Everything(), **how)

            seams.SWEEP_BUCKET.put(patch, sweep_all)
        case "spare":  # what saves under way need is not spared in a sweep
            seams.LIVE_KEYS.put(patch, lambda ledger: [])
        case _:
            raise AssertionError(f"there is no rule {rule}")
