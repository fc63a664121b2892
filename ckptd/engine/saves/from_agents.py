"""What agents on other hosts are told to write of a save, and what they tell of it.

Only what the present life of a host's agent says counts: a former one may still be about, cut off, and its successor
writes the same shard. Everything may come twice, or late.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager

from ckptd.engine.catalog.ledger import ConfirmRoot, confirm_nothing
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.messages import AgentLife, Guest, Receipt
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.lanes.elsewhere import RemoteShard
from ckptd.engine.lanes.host_share import HostShare, part_of
from ckptd.engine.lanes.shard import Shard
from ckptd.engine.layout import Assignment, Layout
from ckptd.engine.manifest import Manifest
from ckptd.engine.saves.remembered import remembered
from ckptd.engine.saves.runs import Runs
from ckptd.engine.saves.save import Save
from ckptd.engine.saves.session import Failed, Phase
from ckptd.errors import CkptdError, ConflictError, NotFoundError
from ckptd.storage.pace import NO_LIMITS, UploadLimits


class FromAgents:
    """See the module. Thread-safe."""

    def __init__(self, runs: Runs) -> None:
        """Believe no agent, until `is_present` is set."""
        self._runs = runs
        self.is_present: Callable[[AgentLife], bool] = lambda life: False
        """Says whether this is the present life of its host's agent. It must not block."""
        self.addresses: Callable[[str], tuple[str, ...]] = lambda host: ()
        """Returns where the agent of a host takes the bytes of ranks on other hosts, the best address first."""
        self.incarnation: Callable[[str], str] = lambda host: ""
        """Returns which life of a host's agent is the present one. It must not block."""
        self.gone: Callable[[], Mapping[str, float]] = dict
        """Returns the hosts whose agents are gone, and for how many seconds. It must not block."""
        self.limits: Callable[[], UploadLimits] = lambda: NO_LIMITS
        """Returns how fast each host sends. It must not block."""
        self.term = 0
        """Of this coordinator; see `ckptd.engine.catalog.term`."""
        self.confirm_root: ConfirmRoot = confirm_nothing
        """Called before whatever changes a run; raises once another coordinator has the root."""

    def declare(self, declared: Sequence[tuple[Declaration, Manifest]]) -> list[Future[Assignment | Checkpoint]]:
        """Take the declarations of ranks of one host, all of one run; see `Coordinator.declare` for each answer."""
        with self._runs.joined(declared[0][0].save.run) as run:
            return run.declare_together(declared)

    def layout_of(self, save: SaveRef) -> Layout:
        """Return the layout of a save under way that is planned; `ConflictError` before that."""
        with self._runs.stored(save.run) as run, run.lock:
            found = _under_way(run.saves.find(save))
            layout = None if found is None else found.plan.layout
            if layout is None or found is None or found.session.phase is Phase.DECLARING:
                raise ConflictError(f"{save} has no plan")
        return layout

    def share(self, save: SaveRef, host: str) -> HostShare:
        """Return what a host writes of a save that is planned; `NotFoundError` if that is nothing."""
        return part_of(self.layout_of(save), host)

    def guests_of(self, save: SaveRef) -> dict[int, Guest]:
        """Return who the ranks of a planned save are, if any has bytes for the shard of another host."""
        with self._runs.stored(save.run) as run, run.lock:
            found = _under_way(run.saves.find(save))
            claims = found.claims if found is not None and found.plan.crossing_bytes else {}
            return {rank: Guest(rank, claim.incarnation, claim.host) for rank, claim in claims.items()}

    def index_sum_of(self, save: SaveRef) -> Callable[[], int | None]:
        """Return what tells the checksum of a planned save's index, None before there is one. It takes no lock."""
        with self._runs.stored(save.run) as run, run.lock:
            plan = run.saves.find(save).plan
        return lambda: plan.index_crc32c

    def sealed_hosts(self, save: SaveRef) -> set[str]:
        """Return the hosts whose shards of a save are durable, as receipts say."""
        with self._runs.stored(save.run) as run, run.lock:
            shards = _under_way_shards(run.saves.find(save))
            return {each.host for each in shards if isinstance(each, RemoteShard) and each.finish()}

    def captured(self, save: SaveRef, by: AgentLife, ranks: Iterable[int]) -> None:
        """Hear that what these ranks of a host save is in that host's memory: the save can do without them."""
        with self._of(save, by) as found:
            claims = {} if found is None else found.claims
            for rank in ranks:
                claim = claims.get(rank)
                if claim is not None and claim.elsewhere is not None and claim.host == by.host:
                    claim.elsewhere.seal()

    def progress(self, save: SaveRef, by: AgentLife, owed_bytes: int, by_rank: Sequence[tuple[int, int]] = ()) -> None:
        """Hear how many bytes a host has still to write, also of ranks of other hosts; `by_rank` if it knows whose."""
        with self._of(save, by) as found:
            for shard in _shards_of(found, by.host):
                if by_rank:
                    shard.note_progress(dict(by_rank))
                else:
                    shard.note_owed(owed_bytes)

    def begins_anew(self, save: SaveRef, by: AgentLife) -> None:
        """Hear that a later life of a host's agent writes its shard, from the first byte on, if it has no receipt."""
        with self._of(save, by) as found:
            for shard in _shards_of(found, by.host):
                shard.begin_anew()

    def is_sealed(self, save: SaveRef, by: AgentLife) -> bool:
        """Whether all that a host writes of a save is durable, as a receipt says."""
        with self._of(save, by) as found:
            shards = list(_shards_of(found, by.host))
            return found is None or (bool(shards) and all(shard.finish() for shard in shards))

    def take(self, save: SaveRef, receipt: Receipt) -> None:
        """Take the receipt of a shard: when all shards are durable the save is committed.

        Raises:
            ConflictError: it does not count; see `RemoteShard.take`.
            NotFoundError: the shard is not for this host to fill.
        """
        with self._of(save, receipt.by) as found:
            if found is None:
                return
            if found.session.phase is Phase.DECLARING:
                raise ConflictError(f"{save} has no plan yet")
            shards = found.plan.shards
            shard = shards[receipt.shard] if 0 <= receipt.shard < len(shards) else None
            if not isinstance(shard, RemoteShard) or shard.host != receipt.by.host:
                raise NotFoundError(f"shard {receipt.shard} of {save} is not for the {receipt.by} to write")
            if shard.take(receipt):
                found.lanes_ended(shard.debts(), receipt.shard)

    def failed(
        self, save: SaveRef, by: AgentLife, reason: str, rank: int | None = None, error: CkptdError | None = None
    ) -> None:
        """Hear that a host's part of a save will not come, as `rank` gave it up if one did, or the store by `error`."""
        with self._of(save, by) as found:
            if found is not None and error is not None:
                error.add_note(f"while the {by} wrote its part of {save}")
                found.handle(Failed(remembered(error)))
            elif found is not None:
                found.fail(f"{f'the {by}' if rank is None else f'rank {rank}'} gave up: {reason}")

    def heard_end(self, save: SaveRef, by: AgentLife) -> None:
        """Hear that an agent knows that a save is over, and that none of its writers writes for it any more."""
        self._check(by)
        with self._runs.stored(save.run) as run:
            run.stored.writer_heard_end(save.save_id, by.host)

    def _check(self, by: AgentLife) -> None:
        if not self.is_present(by):
            raise ConflictError(f"a former life of the {by} is not believed", actual=by.incarnation)

    @contextmanager
    def _of(self, save: SaveRef, by: AgentLife) -> Iterator[Save | None]:
        """Find a save that an agent tells something of, None if it is published; the run's lock is held meanwhile.

        Raises what ended it, if it was ended.
        """
        self._check(by)
        with self._runs.stored(save.run) as run:
            if run.stored.published_save(save.save_id) is not None:
                yield None
                return
            with run.lock:
                yield _under_way(run.saves.find(save))


def _under_way(save: Save) -> Save | None:
    if save.session.error is not None:
        raise remembered(save.session.error)
    return None if save.session.is_over else save


def _under_way_shards(save: Save) -> Sequence[Shard]:
    found = _under_way(save)
    return () if found is None else found.plan.shards


def _shards_of(save: Save | None, host: str) -> Iterator[RemoteShard]:
    plan = None if save is None else save.plan
    number = None if plan is None or plan.layout is None else plan.layout.shard_of(host)
    shards = plan.shards[number : number + 1] if plan is not None and number is not None else ()
    return (shard for shard in shards if isinstance(shard, RemoteShard) and shard.host == host)
