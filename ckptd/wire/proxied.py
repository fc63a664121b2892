"""What a daemon and its stream processes say to each other, on Unix sockets that only they have.

The control socket carries JSON, in frames: `Setup` to the process, `Ready` back, then an `Opening` for each call, with
the call's own socket as a descriptor, and `Closed` without one. A later `Setup` brings new certificates. On a call's
socket go messages as gRPC brought them::

    [kind: uint8][size: uint32 little-endian][payload]

Towards the daemon a `MESSAGE` is a request and the `END` says that no more will come; back, a `MESSAGE` is a reply and
the `END` carries the outcome: nothing when all is well, else a ``google.rpc.Status``; before them, `KNOWN` says that
the caller has shown an identity. A socket that is closed without an `END` is a peer that is gone.
"""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

import numpy as np

from ckptd.storage.base import Buffer
from ckptd.wire.channels import ConnectionLife
from ckptd.wire.chunks import MAX_MESSAGE_BYTES

MESSAGE, END, KNOWN = 0, 1, 2

_HEAD = struct.Struct("<BI")


@dataclass(frozen=True, slots=True)
class Setup:
    """How a stream process listens.

    Attributes:
        hosts: to listen on, and whether with TLS.
        port: on all of them; 0 for any that is free.
        certificate: PEM of the chain, empty without TLS.
        key: PEM of the certificate's key.
        client_ca: PEM of the authority whose clients are let in; empty for all.
        max_streams: that are read from at once; of twice as many the others wait, and more are refused.
        life: of connections.
        nice: as `Priority` has it.
        io_class: as `Priority` has it.
    """

    hosts: tuple[tuple[str, bool], ...]
    port: int = 0
    certificate: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    client_ca: str = field(default="", repr=False)
    max_streams: int = 32
    life: ConnectionLife = field(default_factory=ConnectionLife)
    nice: int | None = None
    io_class: str | None = None


@dataclass(frozen=True, slots=True)
class Ready:
    """Where a stream process listens; port 0 if the system does not let it."""

    port: int


@dataclass(frozen=True, slots=True)
class Opening:
    """A call that has come.

    Attributes:
        method: its path.
        peer: its caller, as gRPC names it.
        authorization: the metadata entry of that name.
        certificate: what gRPC says of the client's certificate (``auth_context``), as texts.
    """

    method: str
    peer: str
    authorization: str | None = field(default=None, repr=False)
    certificate: Mapping[str, Sequence[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Closed:
    """Connections that a stream process has closed: whose, how many, and a line of the log that says why."""

    host: str
    said: str
    number: int


def to_json(told: Setup | Ready | Opening | Closed) -> bytes:
    """Return what the control socket carries."""
    return json.dumps(asdict(told)).encode()


def setup_from_json(data: bytes) -> Setup:
    """Return what `to_json` made of a setup."""
    told = json.loads(data)
    return Setup(**{**told, "life": ConnectionLife(**told["life"])})


def send(connection: socket.socket, kind: int, payload: Buffer = b"") -> None:
    """Send a message or the end. Several threads must take turns.

    Raises:
        OSError: the other end is gone.
    """
    connection.sendall(_HEAD.pack(kind, len(payload)))
    if len(payload):
        connection.sendall(payload)


def receive(connection: socket.socket) -> tuple[int, memoryview]:
    """Return what comes next: kind and payload.

    Raises:
        ConnectionError: the other end is gone, or what it sends is not this.
        OSError: as the socket has it.
    """
    head = bytearray(_HEAD.size)
    _fill(connection, memoryview(head))
    kind, size = _HEAD.unpack(head)
    if kind not in (MESSAGE, END, KNOWN) or size > MAX_MESSAGE_BYTES:
        raise ConnectionError(f"what comes from a stream process is no message: kind {kind}, {size} bytes")
    payload = np.empty(size, np.uint8).data  # a bytearray would be cleared first
    _fill(connection, payload)
    return kind, payload


def _fill(connection: socket.socket, into: memoryview) -> None:
    while len(into):
        taken = connection.recv_into(into, len(into), socket.MSG_WAITALL)
        if not taken:
            raise ConnectionResetError("the other end of a call is gone")
        into = into[taken:]
