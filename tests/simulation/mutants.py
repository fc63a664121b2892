"""Mistakes, each of which the judge must find: one rule is taken out, everything else is as it is."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import pytest

from ckptd.engine.hosts.messages import Receipt
from ckptd.errors import CkptdError
from tests.faults.hosts.mutants import take_out
from tests.simulation.bucket import BucketClient
from tests.simulation.hosts import Agent
from tests.simulation.life import Cast


class SparesNothing(BucketClient):
    """No spare in the sweep: what other hosts upload is taken for dead."""

    def sweep_unfinished(
        self, directory: str, *, given_up: Collection[str] = (), spare: Collection[str] = ()
    ) -> Sequence[str]:
        return super().sweep_unfinished(directory, given_up=self.unfinished(directory), spare=())


class DeletesWhatItFinds(Agent):
    """An agent that finds its key taken makes room, as the design was at first: a hung life deletes what counts."""

    def key_is_taken(self, own: Receipt) -> None:
        try:
            self.store.delete([own.key])
        except CkptdError:
            pass
        else:
            self.write_again(own)


def _without(*rules: str) -> Callable[[pytest.MonkeyPatch], Cast]:
    def take_all_out(patch: pytest.MonkeyPatch) -> Cast:
        for rule in rules:
            take_out(patch, rule)
        return Cast()

    return take_all_out


MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], Cast]] = {
    "agents obey any term": _without("term check"),
    "no look at the term": _without("term look"),
    "no spare in the sweep": lambda patch: Cast(client=SparesNothing),
    "a shard number used twice": _without("fresh numbers"),
    "a receipt believed of an old incarnation": _without("present life"),
    "what cannot be told is told as a failure": _without("doubt"),
    "a taken key is deleted": lambda patch: Cast(agent=DeletesWhatItFinds),
}
