"""Which transport an address means: a daemon's, or that of direct mode for the path or URL of a store."""

from __future__ import annotations

from ckptd.client.daemon.connection import Connection, this_member
from ckptd.client.daemon.daemon_rooms import DaemonRooms
from ckptd.client.daemon.remote_catalog import RemoteCatalog
from ckptd.client.daemon.remote_saves import RemoteSaves
from ckptd.client.direct.direct_catalog import DirectCatalog
from ckptd.client.direct.direct_connection import DirectConnection
from ckptd.client.direct.direct_rooms import DirectRooms
from ckptd.client.direct.direct_saves import DirectSaves
from ckptd.client.paths import environment
from ckptd.client.process_rank import ProcessRank
from ckptd.client.saving.own_saves import place_of
from ckptd.client.saving.transport import Transport
from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import InvalidRequestError
from ckptd.storage.locations import open_store
from ckptd.wire import addresses


def open_transport(
    address: str,
    run: str,
    place: ProcessRank,
    run_options: RunOptions,
    *,
    timeout_s: float,
    token: str | None,
    ca: environment.Pem | None,
    cert: environment.Pem | None = None,
    key: environment.Pem | None = None,
) -> Transport:
    """Return the transport to `run` at `address`, as the rank that `place` tells; nothing is connected yet.

    Raises:
        InvalidRequestError: no such address, or direct mode with several ranks.
    """
    member = this_member(place.rank, place.world_size)
    if addresses.is_daemon(address):
        return open_daemon(
            address, run, member, run_options, timeout_s=timeout_s, token=token, ca=ca, cert=cert, key=key
        )
    if place.world_size > 1:
        raise _direct_mode_is_for_one(address, member, place.source)
    return open_direct(address, run, member, run_options, timeout_s=timeout_s)


def open_direct(url: str, run: str, member: Member, run_options: RunOptions, *, timeout_s: float) -> Transport:
    """Return the transport to the engine in this process, over the store at `url`."""
    store = open_store(url)
    connection = DirectConnection(store, run, member, run_options, timeout_s=timeout_s)
    return Transport(
        place_of(store, run),
        connection,
        DirectSaves(connection),
        DirectCatalog(connection),
        DirectRooms(connection),
    )


def open_daemon(
    address: str,
    run: str,
    member: Member,
    run_options: RunOptions,
    *,
    timeout_s: float,
    token: str | None,
    ca: environment.Pem | None,
    cert: environment.Pem | None = None,
    key: environment.Pem | None = None,
) -> Transport:
    """Return the transport to a daemon; what it is shown is the environment's where it is None."""
    credentials = environment.given_credentials(address, token=token, ca=ca, cert=cert, key=key)
    connection = Connection(address, run, member, run_options, timeout_s=timeout_s, credentials=credentials)
    catalog = RemoteCatalog(connection)
    place = f"{connection.address}/{run}, {member.rank} of {member.world_size}"
    return Transport(place, connection, RemoteSaves(connection, catalog), catalog, DaemonRooms(connection))


def _direct_mode_is_for_one(url: str, member: Member, source: str) -> InvalidRequestError:
    """Return the error for several ranks without a daemon; `source`: what told that there are several."""
    told = f" {source}" if source else ""
    return InvalidRequestError(
        f"direct mode is for one process, and this is {member}{told}: several ranks need a daemon. "
        f"Start one with `ckptd serve --root {url}` and pass no address, or unix://, on this host; "
        "or pass rank=0, world_size=1 if this process saves alone"
    )
