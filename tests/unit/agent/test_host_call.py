"""What one call of `save` on a host answers its ranks."""

from __future__ import annotations

from ckptd.agent.host_call import HostCall
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.saves.answers import settled_by_engine
from ckptd.engine.saves.claim import Claim
from tests.fakes.ranks import six_on_three_hosts


def test_a_save_that_was_published_before_it_was_planned_here_answers_with_the_checkpoint():
    """So it is when a former life of the agent has sealed all, and its ranks declare again."""
    ranks, hosts = six_on_three_hosts()
    manifest = ranks.manifests[0]
    declaration = Declaration(SaveRef("r", 0, 5, rank=0, incarnation="i"), "q", len(hosts), manifest.digest)
    planned = settled_by_engine()
    call = HostCall("r", declaration, 0.0)
    call.claims[0] = Claim.of(declaration, manifest, None, planned)
    checkpoint = Checkpoint("r/model.ckpt-5", 5, 10, 3, 1.0)
    call.end(checkpoint)
    assert planned.result(0) == checkpoint
    assert call.outcome.result(0) == checkpoint
