"""Which transport an address means: a daemon's, or that of direct mode for the path or URL of a store."""

from __future__ import annotations

from ckptd.client.daemon.connection import Connection, this_member
from ckptd.client.daemon.remote_transport import RemoteTransport
from ckptd.client.direct.direct_transport import DirectTransport, direct_mode_is_for_one
from ckptd.client.paths import environment
from ckptd.client.process_rank import ProcessRank
from ckptd.client.saving.transport import Transport
from ckptd.engine.identity import Member, RunOptions
from ckptd.wire import addresses


def open_transport(
    address: str,
    run: str,
    place: ProcessRank,
    run_options: RunOptions,
    *,
    timeout_s: float,
    token: str | None,
    ca: str | bytes | None,
) -> Transport:
    """Return the transport to `run` at `address`, as the rank that `place` tells; nothing is connected yet.

    Raises:
        InvalidRequestError: no such address, or direct mode with several ranks.
    """
    member = this_member(place.rank, place.world_size)
    if addresses.is_daemon(address):
        return open_daemon(address, run, member, run_options, timeout_s=timeout_s, token=token, ca=ca)
    if place.world_size > 1:
        raise direct_mode_is_for_one(address, member, place.source)
    return DirectTransport(address, run, member, run_options, timeout_s=timeout_s)


def open_daemon(
    address: str,
    run: str,
    member: Member,
    run_options: RunOptions,
    *,
    timeout_s: float,
    token: str | None,
    ca: str | bytes | None,
) -> RemoteTransport:
    """Return the transport to a daemon; `token` and `ca` are the environment's where they are None."""
    token, authority = environment.given_token(token), environment.given_ca(ca, address)
    return RemoteTransport(
        Connection(address, run, member, run_options, timeout_s=timeout_s, token=token, ca=authority)
    )
