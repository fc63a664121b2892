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
        case "term check":  # agents obey a coordinator that another has taken over from
            seams.IS_OUTDATED.put(patch, lambda machine, term: False)
        case "term look":  # a coordinator does not look whether another has the root
            seams.CONFIRM_TERM.put(patch, lambda term, max_age_s=0.0: None)
        case "present life":  # what a former life of an agent says counts
            hear = seams.HEAR_AGENT.value

            def hear_all(attendance: Any, agent: Any, term: int, now: float) -> object:
                refusal = hear(attendance, agent, term, now)
                return None if isinstance(refusal, Replaced) else refusal

            seams.HEAR_AGENT.put(patch, hear_all)
            seams.IS_PRESENT.put(patch, lambda attendance, agent: True)
        case "calls":  # an agent that hung may declare what is left of an earlier call of `save`
            seams.SAVE_CALL.put(patch, lambda saves, declaration: 0)
        case "doubt":  # what cannot be told is told as a failure
            seams.IN_DOUBT.put(patch, KeyboardInterrupt)
        case "fresh numbers":  # an attempt takes the keys of an earlier one
            seams.CHOOSE_NUM_SHARDS.put(patch, lambda catalog, name, step, wanted: wanted)
        case _:
            raise AssertionError(f"there is no rule {rule}")
