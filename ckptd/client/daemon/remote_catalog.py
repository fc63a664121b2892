"""The checkpoints of a run, over the daemon that serves it: found, read, pinned, deleted and judged."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

import grpc

from ckptd.client.daemon.connection import Connection
from ckptd.client.daemon.held_objects import HeldObjects
from ckptd.client.daemon.remote_objects import RemoteObjects
from ckptd.client.daemon.watching import DaemonWatch
from ckptd.client.saving.transport import Located, RestoreCall
from ckptd.client.watch import Source
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.log import warn_once
from ckptd.engine.reading.damage import DamageVerdict, Suspicion
from ckptd.engine.saves.starts import Agreement
from ckptd.engine.series import NamedStep, name_of, of_name
from ckptd.errors import CkptdError
from ckptd.format.names import ANY_NAME, prefix_for
from ckptd.storage.base import Objects
from ckptd.wire import convert
from ckptd.wire.v1 import admin_pb2, common_pb2, read_pb2, watch_pb2

Naming = TypeVar("Naming", admin_pb2.PinRequest, admin_pb2.DeleteRequest, admin_pb2.UndeleteRequest)

_MOST_REASON = 255
_TELL_S = 10.0
_AGREEMENTS = {
    read_pb2.AGREEMENT_WAITING: Agreement.WAITING,
    read_pb2.AGREEMENT_AGREED: Agreement.AGREED,
    read_pb2.AGREEMENT_GO_BACK: Agreement.GO_BACK,
}


class RemoteCatalog:
    """A `RunCatalog` over a daemon."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._telling: deque[object] = deque(maxlen=8)  # gRPC cancels a call that nothing refers to

    def latest(self, name: str, call: RestoreCall | None = None) -> Located | None:
        """See `RunCatalog.latest`."""
        restoring = self._restoring(call)
        request = read_pb2.LatestRequest(
            peer=self.connection.seat().peer, run=self.connection.run, name=name, restoring=restoring
        )
        reply = self.connection.retry(lambda seat, s: seat.read.Latest(request, timeout=s))
        self.connection.learn_root(reply.root, reply.root_id, reply.arena)
        if not reply.HasField("checkpoint"):
            return None
        latest = self._located(reply.checkpoint)
        if reply.passed_by:
            run, passed_by = self.connection.run, "; ".join(reply.passed_by)
            warn_once(f"{run}: the latest is {latest.checkpoint.prefix}; passed by: {passed_by}")
        if name in (ANY_NAME, name_of(latest.checkpoint)):
            return latest
        # Nothing has this name, or the daemon is an older one, which does not use names.
        own = of_name(self.checkpoints(), name, checkpoint_of=lambda located: located.checkpoint)
        return latest if latest in own else own[-1] if own else None

    def checkpoints(self) -> list[Located]:
        """See `RunCatalog.checkpoints`."""
        reply = self.connection.retry(
            lambda seat, s: seat.read.List(
                read_pb2.ListRequest(peer=self.connection.seat().peer, run=self.connection.run), timeout=s
            )
        )
        self.connection.learn_root(reply.root, reply.root_id, reply.arena)
        return [self._located(checkpoint) for checkpoint in reply.checkpoints]

    def objects(self, key: str) -> Objects:
        """See `RunCatalog.objects`."""
        if self.connection.objects is None:
            self.latest(ANY_NAME)  # tells the root
        assert self.connection.objects is not None
        return self.connection.seat().arenas.objects(key, self.connection.objects)

    def tell_restored(self, objects: Objects, size_bytes: int, seconds: float) -> None:
        """See `RunCatalog.tell_restored`. An older daemon does not know the call."""
        held, below = 0, objects
        if isinstance(objects, HeldObjects):
            held, below = min(objects.held_bytes, size_bytes), objects.beneath
        is_sent = isinstance(below, RemoteObjects)
        with suppress(CkptdError, ValueError):  # it is closed
            seat = self.connection.seat()
            request = read_pb2.RestoredRequest(
                peer=seat.peer,
                run=self.connection.run,
                seconds=seconds,
                shm_bytes=held,
                grpc_bytes=size_bytes - held if is_sent else 0,
                direct_bytes=0 if is_sent else size_bytes - held,
            )
            self._telling.append(seat.read.Restored.future(request, timeout=_TELL_S))

    def news(self, name: str) -> Source:
        """See `RunCatalog.news`. It raises `UnavailableError` once the daemon was away for `timeout_s`."""
        seat = self.connection.seat()

        def watch(after_save_id: str) -> Any:
            run = self.connection.run
            request = watch_pb2.WatchRequest(peer=seat.peer, run=run, after_save_id=after_save_id, name=name)
            return seat.watch.Watch(request)

        return DaemonWatch(
            watch,
            address=str(self.connection.address),
            timeout_s=self.connection.timeout_s,
            contact=seat.contact,
            name=name,
        )

    def set_pinned(self, which: NamedStep, pinned: bool) -> Checkpoint:
        """See `RunCatalog.set_pinned`."""
        request = admin_pb2.PinRequest(peer=self.connection.seat().peer, run=self.connection.run, pinned=pinned)
        reply = self.connection.retry(lambda seat, s: seat.admin.Pin(self._naming(request, which), timeout=s))
        return convert.checkpoint_from_wire(reply.checkpoint)

    def delete(self, which: NamedStep, for_good: bool, even_latest: bool) -> None:
        """See `RunCatalog.delete`."""
        request = admin_pb2.DeleteRequest(
            peer=self.connection.seat().peer, run=self.connection.run, for_good=for_good, even_latest=even_latest
        )
        self.connection.retry(lambda seat, s: seat.admin.Delete(self._naming(request, which), timeout=s))

    def undelete(self, which: NamedStep) -> Checkpoint:
        """See `RunCatalog.undelete`."""
        request = admin_pb2.UndeleteRequest(peer=self.connection.seat().peer, run=self.connection.run)
        reply = self.connection.retry(lambda seat, s: seat.admin.Undelete(self._naming(request, which), timeout=s))
        return convert.checkpoint_from_wire(reply.checkpoint)

    def _naming(self, request: Naming, which: NamedStep) -> Naming:
        """Return the request, naming a checkpoint also for an older daemon, to which a step alone is of any name."""
        request.step, request.series = which.step, which.name
        if which.name != ANY_NAME:
            request.name = prefix_for(which.name, which.step, self.connection.options.pad_step_number)
        return request

    def check_damage(self, located: Located, suspicion: Suspicion, call: RestoreCall) -> DamageVerdict | None:
        """See `RunCatalog.check_damage`."""
        request = read_pb2.CheckDamageRequest(
            peer=self.connection.seat().peer,
            run=self.connection.run,
            key=located.key,
            save_id=located.checkpoint.save_id,
            object_key=suspicion.key,
            offset=suspicion.offset,
            reason=suspicion.reason[:_MOST_REASON],
            restoring=self._restoring(call),
        )
        reply = self.connection.retry(lambda seat, s: _or_none(lambda: seat.read.CheckDamage(request, timeout=s)))
        if reply is None:
            return None
        return DamageVerdict(reply.confirmed, reply.reason, is_listed_no_more=reply.listed_no_more, others=reply.others)

    def agree(self, name: str, located: Located, call: RestoreCall, is_whole: bool) -> tuple[Agreement, str]:
        """See `RunCatalog.agree`."""
        if self.connection.member.world_size == 1:
            return (Agreement.AGREED if is_whole else Agreement.GO_BACK), ""
        request = read_pb2.AgreeRequest(
            peer=self.connection.seat().peer,
            run=self.connection.run,
            name=name,
            restoring=self._restoring(call),
            prefix=located.checkpoint.prefix,
            whole=is_whole,
        )
        reply = self.connection.retry(lambda seat, s: seat.read.Agree(request, timeout=s))
        return _AGREEMENTS.get(reply.agreement, Agreement.GO_BACK), reply.missing

    def _restoring(self, call: RestoreCall | None) -> read_pb2.Restoring | None:
        """Return which call of `restore` this is; a single rank has no other to agree with."""
        member = self.connection.member
        if call is None or member.world_size == 1:
            return None
        return read_pb2.Restoring(id=call.id, rank=member.rank, world_size=member.world_size, together=call.is_together)

    def _located(self, message: common_pb2.Checkpoint) -> Located:
        return Located(convert.checkpoint_from_wire(message), message.key)


def _or_none(call: Callable[[], Any]) -> Any | None:
    """Return an answer, None from a daemon that does not know the question yet."""
    try:
        return call()
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNIMPLEMENTED:
            return None
        raise
