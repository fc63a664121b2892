"""Rules that are taken out of a process, one by one: then a test with real processes has to fail."""

from __future__ import annotations

from typing import Any

import pytest

from ckptd.engine.hosts.messages import Replaced
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
        case "lives":  # what a replaced life of an agent says is heard
            hear = seams.HEAR_AGENT.value

            def heard(attendance: Any, *arguments: Any) -> object:
                refusal = hear(attendance, *arguments)
                return None if isinstance(refusal, Replaced) else refusal

            seams.HEAR_AGENT.put(patch, heard)
        case "term":  # a coordinator does not look whether another has the root, nor an agent which is the later one
            seams.CONFIRM_TERM.put(patch, lambda term, max_age_s=0.0: None)
            seams.IS_OUTDATED.put(patch, lambda machine, term: False)
        case _:
            raise AssertionError(f"there is no rule {rule}")
