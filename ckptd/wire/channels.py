"""How both ends set up gRPC: limits that agree, no compression, and pings that notice a dead peer."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc

from ckptd.errors import InvalidRequestError, NotPermittedError
from ckptd.printable import why_no_token
from ckptd.wire.addresses import Address
from ckptd.wire.chunks import MAX_MESSAGE_BYTES
from ckptd.wire.tickets import TICKET_KEY, ticket_for

PING_EVERY_MS = 10_000
PING_TIMEOUT_MS = 10_000
_FOREVER_MS = (1 << 31) - 1  # for gRPC
TOKEN_KEY = "authorization"  # noqa: S105 - the metadata key, not a token

_AGENTS_READ_BYTES = 8 << 10  # once: what an agent says in one message fits, mostly

COMMON_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.keepalive_time_ms", PING_EVERY_MS),
    ("grpc.keepalive_timeout_ms", PING_TIMEOUT_MS),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # A chunk travels in one frame and few reads, not in 64 frames of 16 KiB.
    ("grpc.http2.max_frame_size", (1 << 20) + (1 << 10)),
    ("grpc.experimental.tcp_read_chunk_size", 256 << 10),
    ("grpc.experimental.tcp_min_read_chunk_size", 256 << 10),
    ("grpc.experimental.tcp_max_read_chunk_size", 4 << 20),
)

_CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    *COMMON_OPTIONS,
    # A proxy from the environment has no business between a worker and its daemon on the same host or cluster.
    ("grpc.enable_http_proxy", 0),
    # Channels of one process would otherwise share a connection, and one big stream would slow down the others.
    ("grpc.use_local_subchannel_pool", 1),
    # The next chunk is made while the last one is still on its way to the socket.
    ("grpc.http2.write_buffer_size", 2 << 20),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 2_000),
)


SERVER_OPTIONS: tuple[tuple[str, int], ...] = (
    *COMMON_OPTIONS,
    # Silent TCP connections are closed after this, not kept for as long as they like.
    ("grpc.server_handshake_timeout_ms", 5_000),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.max_metadata_size", 16 << 10),
    # Clients ping every ten seconds; gRPC would otherwise hang up on them for it.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", PING_EVERY_MS // 2),
    # A host under load delivers pings in bunches. Hanging up on a client for that would cost it a save.
    ("grpc.http2.max_ping_strikes", 0),
    # How far a sender may run ahead of the disk, per stream. gRPC's own probing lets the window grow with the speed of
    # the link, on loopback to many MiB per stream: a save of 8 GiB then grew the daemon by 339 MiB instead of about 50.
    ("grpc.http2.bdp_probe", 0),
    # Four chunks are enough to keep a sender busy; half of that cost a tenth of the rate.
    ("grpc.http2.lookahead_bytes", 4 << 20),
    # With it two daemons could share a port, and each would get half of the calls.
    ("grpc.so_reuseport", 0),
)


@dataclass(frozen=True, slots=True)
class ConnectionLife:
    """How long connections last, in seconds; 0 is for ever. Clients connect again by themselves.

    Attributes:
        idle_s: without a call in progress, however many there were before.
        age_s: in all, give or take a tenth, as those that began together would end together.
        grace_s: how long calls in progress may go on after that; what is cut is made again, or goes on, elsewhere.
    """

    idle_s: float = 600.0
    age_s: float = 6 * 3600.0
    grace_s: float = 60.0


# A connection keeps the memory for its next read. Those of a thousand agents, which mostly say little, would keep 250
# MiB otherwise; what comes in chunks all the same is read in larger ones as it comes.
_OF_AGENTS = {
    "grpc.experimental.tcp_read_chunk_size": _AGENTS_READ_BYTES,
    "grpc.experimental.tcp_min_read_chunk_size": _AGENTS_READ_BYTES,
}


def server_options(life: ConnectionLife, *, of_agents: bool = False) -> tuple[tuple[str, int], ...]:
    """Return gRPC's options for a server whose connections live so long; `of_agents`: they are many, and say little."""
    limits = (
        ("grpc.max_connection_idle_ms", life.idle_s),
        ("grpc.max_connection_age_ms", life.age_s),
        ("grpc.max_connection_age_grace_ms", life.grace_s),
    )
    options = {**dict(SERVER_OPTIONS), **(_OF_AGENTS if of_agents else {})}.items()
    return *options, *((name, min(int(seconds * 1000), _FOREVER_MS)) for name, seconds in limits if seconds)


def authorization(token: str) -> tuple[str, str]:
    """Return the metadata entry that shows a bearer token."""
    return TOKEN_KEY, f"Bearer {token}"


def open_channel(
    address: Address,
    *,
    token: str | None = None,
    ca: bytes | None = None,
    client_certificate: tuple[bytes, bytes] | None = None,
    server_name: str | None = None,
) -> grpc.Channel:
    """Open a channel to a daemon; nothing is sent before the first call. The caller closes it.

    Calls show the token, and at a Unix socket the ticket that says which user we are (`ckptd.wire.tickets`).

    `ca`: PEM of the authority that signed the daemon's certificate, None for the system's. `client_certificate`: PEM of
    a certificate chain and its private key. `server_name`: what the daemon's certificate is for, None for the host of
    the address. `NotPermittedError` when a token would travel readably to another host.
    """
    if token is not None and (why := why_no_token(token)):
        raise InvalidRequestError(f"a token (token= or CKPTD_TOKEN) consists of printable ASCII characters: {why}")
    if address.secure:
        chain, key = client_certificate or (None, None)
        credentials = grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=chain)
        named = () if server_name is None else (("grpc.ssl_target_name_override", server_name),)
        channel = grpc.secure_channel(address.target, credentials, options=(*_CHANNEL_OPTIONS, *named))
    else:
        if ca is not None or client_certificate is not None:
            raise InvalidRequestError(f"certificates were given, but {address} does not use TLS: write grpcs://")
        if token is not None and not address.is_loopback:
            raise NotPermittedError(f"a token must not travel unencrypted to {address}: use grpcs://")
        channel = grpc.insecure_channel(address.target, options=_CHANNEL_OPTIONS)
    if token is None and not address.is_unix:
        return channel
    return grpc.intercept_channel(channel, _ShowIdentity(token, address.path))


class _CallDetails(
    namedtuple("_CallDetails", ("method", "timeout", "metadata", "credentials", "wait_for_ready", "compression")),
    grpc.ClientCallDetails,
):
    """A call's details, with our metadata; gRPC hands them out read-only."""


class _ShowIdentity(
    grpc.UnaryUnaryClientInterceptor,  # type: ignore[type-arg]  # generic only in the stubs
    grpc.UnaryStreamClientInterceptor,  # type: ignore[type-arg]  # generic only in the stubs
    grpc.StreamUnaryClientInterceptor,  # type: ignore[type-arg]  # generic only in the stubs
    grpc.StreamStreamClientInterceptor,  # type: ignore[type-arg]  # generic only in the stubs
):
    """Adds to every call what identifies this client: the bearer token, the ticket of a Unix socket, or both."""

    def __init__(self, token: str | None, path: str) -> None:
        """`path` of the Unix socket, empty for others."""
        self._token = [] if token is None else [authorization(token)]
        self._path = path

    def _entries(self, timeout_s: float | None) -> list[tuple[str, str]]:
        # With each call anew: the daemon may have been restarted, and this process may have become another user's.
        ticket = ticket_for(self._path, timeout_s) if self._path else None
        return self._token if ticket is None else [*self._token, (TICKET_KEY, ticket)]

    def _shown(self, details: Any) -> _CallDetails:
        return _CallDetails(
            details.method,
            details.timeout,
            [*(details.metadata or ()), *self._entries(details.timeout)],
            details.credentials,
            getattr(details, "wait_for_ready", None),
            getattr(details, "compression", None),
        )

    def _call(self, continuation: Callable[[Any, Any], Any], details: Any, request: Any) -> Any:
        return continuation(self._shown(details), request)

    def intercept_unary_unary(self, continuation: Any, details: Any, request: Any) -> Any:
        """Go on with it."""
        return self._call(continuation, details, request)

    def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        """Go on with it."""
        return self._call(continuation, details, request)

    def intercept_stream_unary(self, continuation: Any, details: Any, request: Iterator[Any]) -> Any:
        """Go on with it."""
        return self._call(continuation, details, request)

    def intercept_stream_stream(self, continuation: Any, details: Any, request: Iterator[Any]) -> Any:
        """Go on with it."""
        return self._call(continuation, details, request)
