"""Which process may change a directory of checkpoints now: this one, or the daemon that works there.

Pins and deletions belong to the owner of a run. Without one, we take the run's locks for a moment and do it
ourselves; if a daemon holds them, its line in the lock has its address, and we call it. A trainer in direct mode holds
them too, and accepts no commands: then all we can do is name it.
"""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import click

from ckptd.cli import daemons, output, places, served
from ckptd.cli.places import Named, Served
from ckptd.cli.served import ByDaemon
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.offline import ownership
from ckptd.engine.offline.repair import Repaired
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.format.names import INDEX_SUFFIX, step_of
from ckptd.storage.base import Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.locations import open_store, split_prefix
from ckptd.storage.lock_holder import LockHolder

T = TypeVar("T")
_REPAIR_S = 60.0  # every checkpoint is read
_AUDIT_LOG = "CKPTD_AUDIT_LOG"  # the daemon's setting of that name


@dataclass(frozen=True, slots=True)
class Reach:
    """How a daemon may be reached: its address, None to find it by its lock, and the credentials for it.

    With `takes_over` the run is taken even if its owner may be alive, as on another host of a bucket. `stack` closes
    connections when the command ends.
    """

    address: str | None = None
    identity: daemons.Identity = daemons.ANONYMOUS
    timeout_s: float = 10.0
    takes_over: bool = False
    stack: ExitStack = field(default_factory=ExitStack)

    @property
    def daemon(self) -> ByDaemon:
        """The daemon that serves what is not here."""
        return ByDaemon(self.stack, self.address, self.identity, self.timeout_s, prefers_here=True)


class Keeper(Protocol):
    """Pins and deletes in one directory. `key` is the last component of a prefix there.

    Attributes:
        name: for messages.
        can_undo: whether what it deletes can be brought back for a while, and takes up its space until then.
    """

    name: str
    can_undo: bool

    def set_pinned(self, key: str, pinned: bool) -> Checkpoint:
        """Pin a checkpoint, or no longer; durable on return."""

    def delete(
        self,
        key: str,
        *,
        even_latest: bool = False,
        even_foreign: bool = False,
        for_good: bool = True,
        pruned_because: str = "",
    ) -> None:
        """Delete a checkpoint; durable on return. A daemon can bring it back for a while, unless it is `for_good`.

        Its audit log is told why it is pruned, if that is why.
        """

    def undelete(self, key: str) -> Checkpoint:
        """Bring back what was deleted in a way that can be undone; durable on return."""


def reach_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add the options that say how a daemon is reached to a command, which gets their values as `how`."""

    @functools.wraps(command)
    def with_how(
        *arguments: Any,
        address: str | None,
        identity: daemons.Identity,
        timeout_s: float,
        takes_over: bool,
        **others: Any,
    ) -> T:
        with ExitStack() as stack:
            return command(*arguments, how=Reach(address, identity, timeout_s, takes_over, stack), **others)

    decorated: Callable[..., T] = with_how
    for option in (
        click.option(
            "--timeout-s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="How long to wait."
        ),
        daemons.identity_options,
        click.option(
            "--take-over",
            "takes_over",
            is_flag=True,
            help="In a bucket: take the run from an owner on another host, even if it may be alive.",
        ),
        click.option(
            "--address",
            metavar="ADDR",
            help="The daemon to use. Default: the one that holds the lock, or CKPTD_ADDRESS.",
        ),
    ):
        decorated = option(decorated)
    return decorated


@contextmanager
def keeper(store: Store, how: Reach) -> Iterator[Keeper]:
    """Yield the keeper that may change the directory that is `store`'s root.

    Raises:
        ConflictError: when a process works there that accepts no commands.
        UnavailableError: when the daemon does not answer.
    """
    with ExitStack() as stack:
        address = store.address if isinstance(store, Served) else how.address
        if address is None:
            holder = LockHolder.here("a ckptd command").line
            try:
                stack.enter_context(ownership.owned(store, holder, takes_over=how.takes_over))
            except ConflictError as error:
                address = _holder(error)
        if address is None:
            note_unrecorded()
        yield _Here(store) if address is None else stack.enter_context(_opened_remote(store, address, how))


def note_unrecorded() -> None:
    """Say that what is done without a daemon is not in the audit log, where one is expected."""
    if path := os.environ.get(_AUDIT_LOG):
        output.note(f"careful: no daemon serves this directory, so this is not recorded in {path}")


def repaired_by_daemon(store: Store, address: str, how: Reach, latest_filename: str) -> Repaired:
    """Have the daemon at `address` repair the run that is `store`'s root; afterwards it has the run open again.

    Raises:
        ConflictError: when processes have joined the run, or the daemon is too old to do it.
        UnavailableError: when it does not answer, or saves of the run are under way.
    """
    from ckptd.wire.v1 import admin_pb2

    with _channel(address, how) as stub:
        run = _run_below(store, _status(stub, how).root, stub.address)
        request = admin_pb2.RepairRequest(peer=_peer(), run=run, latest_filename=latest_filename)
        reply = stub.call("Repair", request, max(how.timeout_s, _REPAIR_S))
    return Repaired(
        is_changed=reply.changed,
        reason=reply.reason,
        prefixes=tuple(reply.prefixes),
        left_out=tuple((each.prefix, each.reason) for each in reply.left_out),
        kept_at=reply.kept_at or None,
        mended=tuple(reply.mended),
    )


def look(text: str, how: Reach) -> Named:
    """Open what a person named; see `places.look`.

    With an address given, or one in the environment, a relative path that does not exist here names a run of the
    daemon, or a checkpoint in it: no access to its files is needed.
    """
    return served.look(text, how.daemon)


def absent(text: str, how: Reach) -> tuple[Store, str]:
    """Return the directory and the key of a checkpoint that need not be there; see `look`.

    Raises:
        NotFoundError: when there is no such directory.
    """
    run, _, name = text.rpartition("/")
    address = how.daemon.for_path(text) if run else None
    if address is not None:
        return how.daemon.connect(address)(run), name.removesuffix(INDEX_SUFFIX)
    store, key = split_prefix(text)
    places.check_directory(store)
    return store, key.removesuffix(INDEX_SUFFIX)


def directory(text: str, how: Reach) -> Store:
    """Return the directory that a person named, or the run of a daemon; see `look`."""
    return served.directory(text, how.daemon) or places.directory(text)


def _holder(error: ConflictError) -> str:
    """Return the address of the daemon that holds a lock: from the lock, or else from the environment."""
    try:
        return address_of(error)
    except ConflictError:
        known = daemons.from_environment()
        if known is None or not LockHolder.parse(error.actual).is_daemon:
            raise
        return known


def address_of(error: ConflictError) -> str:
    """Return the address of the daemon that holds a lock, from the lock; else raise `error` again."""
    holder = LockHolder.parse(error.actual)
    if not holder.is_daemon:
        error.add_note("it accepts no commands from other processes: wait until it has ended")
        if error.may_take_over:
            error.add_note("if you are sure that it has ended, pass --take-over")
        raise error
    from ckptd.wire import addresses

    listening = addresses.parse(holder.address)
    if not listening.is_unix and not listening.port:
        error.add_note("the lock does not say its port: pass --address")
        raise error
    if holder.host != socket.gethostname() and listening.is_loopback:
        error.add_note(f"it can be reached on {holder.host} only: run this command there")
        raise error
    return holder.address


@dataclass
class _Here:
    """This process, which holds the locks."""

    store: Store
    name: str = "this command"
    can_undo: bool = False

    def set_pinned(self, key: str, pinned: bool) -> Checkpoint:
        return ownership.set_pinned(self.store, key, pinned)

    def delete(
        self,
        key: str,
        *,
        even_latest: bool = False,
        even_foreign: bool = False,
        for_good: bool = True,
        pruned_because: str = "",
    ) -> None:
        ownership.delete(self.store, key, even_latest=even_latest, even_foreign=even_foreign)

    def undelete(self, key: str) -> Checkpoint:
        return ownership.undelete(self.store, key)


@dataclass
class _Remote:
    """A daemon that is called."""

    stub: _Stub
    how: Reach
    run: str
    name: str
    can_undo: bool = True

    def set_pinned(self, key: str, pinned: bool) -> Checkpoint:
        from ckptd.wire.v1 import admin_pb2

        reply = self._request("Pin", admin_pb2.PinRequest(pinned=pinned), key)
        return self._checkpoint(reply)

    def delete(
        self,
        key: str,
        *,
        even_latest: bool = False,
        even_foreign: bool = False,
        for_good: bool = True,
        pruned_because: str = "",
    ) -> None:
        from ckptd.wire.v1 import admin_pb2

        try:
            request = admin_pb2.DeleteRequest(for_good=for_good, even_latest=even_latest, pruned_because=pruned_because)
            self._request("Delete", request, key)
        except NotFoundError as error:  # it is there: we have checked
            raise ConflictError(f"{self.name} did not write it, and leaves it alone", key=key) from error

    def undelete(self, key: str) -> Checkpoint:
        from ckptd.wire.v1 import admin_pb2

        return self._checkpoint(self._request("Undelete", admin_pb2.UndeleteRequest(), key))

    def _request(self, method: str, request: Any, key: str) -> Any:
        """Make a call about the checkpoint `key`."""
        request.peer.CopyFrom(_peer())
        request.run, request.name, request.step = self.run, key, step_of(key) or 0
        return self.stub.call(method, request, self.how.timeout_s)

    def _checkpoint(self, reply: Any) -> Checkpoint:
        from ckptd.wire import convert

        return convert.checkpoint_from_wire(reply.checkpoint)


class _Stub:
    """The service of one daemon for operators, with its errors translated to ours."""

    def __init__(self, channel: Any, address: str) -> None:
        from ckptd.wire.methods import ADMIN, Stub

        self.address = address
        self._admin = Stub(channel, ADMIN)

    def call(self, method: str, request: Any, timeout_s: float) -> Any:
        """Make one call. Errors are those that the daemon raised."""
        import grpc

        from ckptd.wire import status

        try:
            return getattr(self._admin, method)(request, timeout=timeout_s)
        except grpc.RpcError as e:
            raise status.from_wire(e, address=self.address) from e


@contextmanager
def _channel(address: str, how: Reach) -> Iterator[_Stub]:
    """Yield a way to call a daemon. One that only a lock names gets no token: anyone may have written it."""
    from ckptd.wire import places as wire_places

    where = daemons.where(address)
    is_named = how.address is not None or bool(wire_places.origin(where, os.environ))
    try:
        with daemons.channel(where, how.identity, timeout_s=how.timeout_s, shows_token=is_named) as channel:
            yield _Stub(channel, str(where))
    except NotPermittedError as error:
        if not is_named and how.identity.token() is not None:
            error.add_note(
                f"no token was sent to {where}, which only the lock of this directory names: if it is your daemon, "
                f"pass --address {where}, or set CKPTD_ADDRESS"
            )
        raise


@contextmanager
def _opened_remote(store: Store, address: str, how: Reach) -> Iterator[Keeper]:
    with _channel(address, how) as stub:
        root = _status(stub, how).root
        yield _Remote(stub, how, _run_below(store, root, stub.address), f"the daemon at {stub.address}")


def _status(stub: _Stub, how: Reach) -> Any:
    from ckptd.wire.v1 import admin_pb2

    return stub.call("Status", admin_pb2.StatusRequest(peer=_peer()), how.timeout_s)


def _run_below(store: Store, root: str, address: str) -> str:
    """Return the name of the run that a directory is below a daemon's root."""
    if isinstance(store, Served):
        return store.run
    top = open_store(root)
    path, path_of_root = local_path(store), local_path(top)
    if path is not None and path_of_root is not None:
        run = os.path.relpath(os.path.realpath(path), os.path.realpath(path_of_root))
        if run != "." and not run.startswith(".."):
            return run
    elif store.url.startswith(top.url + "/"):
        return store.url[len(top.url) + 1 :]
    raise InvalidRequestError(f"{store.url} is no run below {root}, which the daemon at {address} keeps")


def _peer() -> Any:
    from ckptd.wire import versions

    return versions.this_peer(versions.new_incarnation())
