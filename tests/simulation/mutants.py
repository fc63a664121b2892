"""Mistakes, each of which the judge must find: one rule is taken out, everything else is as it is."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ckptd.agent.machine import AgentMachine
from ckptd.engine.catalog.term import Term
from ckptd.engine.hosts.attendance import Attendance
from ckptd.engine.hosts.messages import AgentLife, Fenced, Receipt, Replaced
from ckptd.errors import CkptdError
from tests.simulation.bucket import BucketClient
from tests.simulation.coordinator import Coordinator
from tests.simulation.hosts import Agent
from tests.simulation.life import Cast
from tests.simulation.reception import Rules


class ObeysAnyTerm(AgentMachine):
    """No term check: a coordinator that another has taken over from is obeyed."""

    def is_outdated(self, term: int) -> bool:
        return False


class LooksAway(Term):
    """Its other half: a coordinator does not look whether another has the root, before it publishes or sweeps."""

    def confirm(self, max_age_s: float = 0.0) -> None:
        return


class SparesNothing(BucketClient):
    """No spare in the sweep: what other hosts upload is taken for dead."""

    def sweep_unfinished(
        self, directory: str, *, given_up: Collection[str] = (), spare: Collection[str] = ()
    ) -> Sequence[str]:
        return super().sweep_unfinished(directory, given_up=self.unfinished(directory), spare=())


class UsesNumbersTwice(Coordinator):
    """A shard number used twice: an attempt takes the keys of an earlier one."""

    def num_shards(self, step: int, wanted: int) -> int:
        return wanted


def believes_former_lives(attendance: Attendance, agent: AgentLife) -> bool:
    """A receipt is believed of an old incarnation."""
    return True


class HearsFormerLives(Attendance):
    """Its other half: what a replaced life says is heard."""

    def hear(self, agent: AgentLife, term: int, now: float) -> Fenced | Replaced | None:
        refusal = super().hear(agent, term, now)
        return None if isinstance(refusal, Replaced) else refusal


class DeletesWhatItFinds(Agent):
    """An agent that finds its key taken makes room, as the design was at first: a hung life deletes what counts."""

    def key_is_taken(self, own: Receipt) -> None:
        try:
            self.store.delete([own.key])
        except CkptdError:
            pass
        else:
            self.write_again(own)


MUTANTS = {
    "no term check": Cast(machine=ObeysAnyTerm),
    "no look at the term": Cast(rules=Rules(term=LooksAway)),
    "no spare in the sweep": Cast(client=SparesNothing),
    "a shard number used twice": Cast(coordinator=UsesNumbersTwice),
    "a receipt believed of an old incarnation": Cast(rules=Rules(believes_former_lives, HearsFormerLives)),
    "a taken key is deleted": Cast(agent=DeletesWhatItFinds),
}
