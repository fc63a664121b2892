"""What an agent passes on to the coordinator for the ranks of its host: checkpoints, and who restores which."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import Any

import grpc

from ckptd.agent.link import AgentLink
from ckptd.engine.catalog.contents import CheckpointSelector
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import SaveRef
from ckptd.engine.journal import Actor
from ckptd.engine.reading.damage import DamageVerdict, Suspicion
from ckptd.engine.saves.listeners import OnPublished
from ckptd.engine.saves.starts import Agreement, Restoring
from ckptd.engine.series import NamedStep
from ckptd.errors import CkptdError, NotFoundError
from ckptd.format import names
from ckptd.wire import convert
from ckptd.wire.v1 import admin_pb2, common_pb2, read_pb2, save_pb2, watch_pb2

_log = logging.getLogger("ckptd.agent")

_AGAIN_S = 1.0
_AGREEMENTS = {
    read_pb2.AGREEMENT_WAITING: Agreement.WAITING,
    read_pb2.AGREEMENT_AGREED: Agreement.AGREED,
    read_pb2.AGREEMENT_GO_BACK: Agreement.GO_BACK,
}


class RelayedRun:
    """The checkpoints of one run, as the coordinator has them; see `StoredCheckpoints` of `ckptd.engine.front`."""

    passed_by: tuple[str, ...] = ()

    def __init__(self, link: AgentLink, run: str, peer: common_pb2.Peer, checks: dict[str, Any]) -> None:
        """`checks`: by run, the last reading of damage that a rank wanted."""
        self._link, self._run, self._peer, self._checks = link, run, peer, checks

    def latest(self, name: str, restoring: Restoring | None = None) -> Checkpoint | None:
        """Return the newest checkpoint that `name` means."""
        request = read_pb2.LatestRequest(
            peer=self._peer, run=self._run, name=name, restoring=None if restoring is None else _told(restoring)
        )
        reply = self._link.call(lambda stubs, s: stubs.read.Latest(request, timeout=s))
        return convert.checkpoint_from_wire(reply.checkpoint) if reply.HasField("checkpoint") else None

    def _listed(self) -> Any:
        request = read_pb2.ListRequest(peer=self._peer, run=self._run)
        return self._link.call(lambda stubs, s: stubs.read.List(request, timeout=s)).checkpoints

    @property
    def stored_bytes(self) -> int:
        """What the checkpoints hold; `NotFoundError` when there are none."""
        listed = self._listed()
        if not listed:
            raise NotFoundError("no checkpoint is stored of it", key=self._run)
        return sum(each.size_bytes for each in listed)

    def checkpoints(self) -> list[Checkpoint]:
        """Return all, oldest first."""
        return [convert.checkpoint_from_wire(each) for each in self._listed()]

    def save_id_at(self, prefix_key: str) -> str:
        """See `StoredCheckpoints`."""
        return next((str(each.save_id) for each in self._listed() if each.key == prefix_key), "")

    def quarantine_of(self, save_id: str) -> str:
        """See `StoredCheckpoints`: those in quarantine are not listed."""
        return ""

    def find(self, which: CheckpointSelector, *, deleted: bool = False) -> Checkpoint | None:
        """See `StoredCheckpoints`."""
        return None if deleted else next((each for each in self.checkpoints() if _is_meant(each, which)), None)

    def pin(self, which: CheckpointSelector, pinned: bool) -> Checkpoint:
        """See `StoredCheckpoints`."""
        request = admin_pb2.PinRequest(peer=self._peer, run=self._run, pinned=pinned, **_named(which))
        reply = self._link.call(lambda stubs, s: stubs.admin.Pin(request, timeout=s))
        return convert.checkpoint_from_wire(reply.checkpoint)

    def delete(
        self, which: CheckpointSelector, for_good: bool = False, even_latest: bool = False, *, append_only: bool = False
    ) -> None:
        """See `StoredCheckpoints`. The coordinator judges the agent's identity; the service here, the rank's."""
        named = _named(which)
        request = admin_pb2.DeleteRequest(
            peer=self._peer, run=self._run, for_good=for_good, even_latest=even_latest, **named
        )
        self._link.call(lambda stubs, s: stubs.admin.Delete(request, timeout=s))

    def undelete(self, which: CheckpointSelector) -> Checkpoint:
        """See `StoredCheckpoints`."""
        request = admin_pb2.UndeleteRequest(peer=self._peer, run=self._run, **_named(which))
        reply = self._link.call(lambda stubs, s: stubs.admin.Undelete(request, timeout=s))
        return convert.checkpoint_from_wire(reply.checkpoint)

    def check_damage(
        self, key: str, save_id: str, suspicion: Suspicion, by: str, actors: tuple[Actor, ...] = ()
    ) -> DamageVerdict:
        """See `StoredCheckpoints`."""
        request = read_pb2.CheckDamageRequest(
            peer=self._peer,
            run=self._run,
            key=key,
            save_id=save_id,
            object_key=suspicion.key,
            offset=suspicion.offset,
            reason=f"{suspicion.reason} ({by})"[:255],
        )
        self._checks[self._run] = request
        return self._checked(request)

    def go_back(self, restoring: Restoring) -> str:
        """Let a rank restore an older checkpoint; return which others have the present one."""
        asked = self._checks.get(self._run)
        if asked is None:
            return ""
        request = read_pb2.CheckDamageRequest()
        request.CopyFrom(asked)
        request.restoring.CopyFrom(_told(restoring))
        return self._checked(request).others

    def _checked(self, request: read_pb2.CheckDamageRequest) -> DamageVerdict:
        reply = self._link.call(lambda stubs, s: stubs.read.CheckDamage(request, timeout=s), timeout_s=600.0)
        return DamageVerdict(reply.confirmed, reply.reason, reply.listed_no_more, reply.others)

    def agree(self, name: str, restoring: Restoring, prefix: str, is_whole: bool) -> tuple[Agreement, str]:
        """Take what a rank that restores together with others has found."""
        request = read_pb2.AgreeRequest(
            peer=self._peer,
            run=self._run,
            name=name,
            restoring=_told(restoring),
            prefix=prefix,
            whole=is_whole,
        )
        reply = self._link.call(lambda stubs, s: stubs.read.Agree(request, timeout=s))
        return _AGREEMENTS.get(reply.agreement, Agreement.WAITING), reply.missing


class RelayedRestores:
    """See `JointRestores` of `ckptd.engine.front`: the coordinator knows the ranks of all hosts."""

    def __init__(self, run_of: Callable[[str], RelayedRun]) -> None:
        """`run_of`: returns a run's checkpoints."""
        self._run_of = run_of

    def latest(self, run: str, name: str, restoring: Restoring, reader: str = "") -> Checkpoint | None:
        """See `JointRestores`."""
        return self._run_of(run).latest(name, restoring)

    def go_back(self, run: str, restoring: Restoring, reader: str = "") -> str:
        """See `JointRestores`."""
        return self._run_of(run).go_back(restoring)

    def agree(
        self, run: str, name: str, restoring: Restoring, prefix: str, is_whole: bool, reader: str = ""
    ) -> tuple[Agreement, str]:
        """See `JointRestores`."""
        return self._run_of(run).agree(name, restoring, prefix, is_whole)


def published(link: AgentLink, save: SaveRef) -> Checkpoint | None:
    """Return the checkpoint of a save, None while it goes on; raise how it ended, if that was not well."""
    request = save_pb2.AwaitRequest(save=convert.save_to_wire(save), wait_s=5.0, hears_ends=False)
    reply = link.call(lambda stubs, s: stubs.save.Await(request, timeout=s))
    if reply.phase == save_pb2.SAVE_PHASE_UNKNOWN:
        raise NotFoundError(f"nothing is known of {save}")
    return convert.checkpoint_from_wire(reply.checkpoint) if reply.HasField("checkpoint") else None


def withdraw(link: AgentLink, save: SaveRef, request_id: str, reason: str, name: str) -> None:
    """Tell the coordinator that a rank gave up what it has not declared, so that the others need not wait for it."""
    told = convert.save_to_wire(save)
    request = save_pb2.AbortRequest(save=told, reason=reason, request_id=request_id, checkpoint_name=name)
    try:
        link.call(lambda stubs, s: stubs.save.Abort(request, timeout=s))
    except CkptdError as error:
        _log.info("the coordinator was not told that rank %d gave %s up: %s", save.rank, save, error)


def watch(link: AgentLink, run: str, peer: common_pb2.Peer, on_published: OnPublished) -> Callable[[], None]:
    """Call `on_published` for each checkpoint from now on; return what ends that."""
    over = threading.Event()
    calls: list[Any] = []
    request = watch_pb2.WatchRequest(peer=peer, run=run, name=names.ANY_NAME)

    def follow() -> None:
        while not over.is_set():
            try:
                events = link.call(lambda stubs, _: stubs.watch.Watch(request))
                calls[:] = [events]
                for event in events:
                    if event.published and event.HasField("checkpoint"):
                        on_published(convert.checkpoint_from_wire(event.checkpoint))
            except (CkptdError, grpc.RpcError) as error:
                _log.debug("news of %s: %s", run, error)
            over.wait(_AGAIN_S)

    def end() -> None:
        over.set()
        for call in calls:
            call.cancel()

    threading.Thread(target=follow, name="ckptd-news", daemon=True).start()
    return end


def _told(restoring: Restoring) -> read_pb2.Restoring:
    return read_pb2.Restoring(
        id=restoring.id, rank=restoring.rank, world_size=restoring.world_size, together=restoring.is_together
    )


def _named(which: CheckpointSelector) -> dict[str, Any]:
    if isinstance(which, NamedStep):
        return {"step": which.step, "series": which.name}
    return {"name": which} if isinstance(which, str) else {"step": which}


def _is_meant(checkpoint: Checkpoint, which: CheckpointSelector) -> bool:
    if isinstance(which, str):
        return checkpoint.prefix.rpartition("/")[2] == which
    return checkpoint.step == (which.step if isinstance(which, NamedStep) else which)
