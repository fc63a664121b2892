"""Versions and capabilities, sent by both ends before anything else, and checked by both.

The rule: the major version is the same, and the minor versions are neighbours or the same; so a daemon may be
upgraded before its clients, or after. A capability that one end needs and the other does not know is an error; one
that is merely offered is ignored by a peer that does not know it.
"""

from __future__ import annotations

import os
import re
import socket
import uuid

from ckptd.errors import InvalidRequestError, VersionMismatchError
from ckptd.version import VERSION as VERSION
from ckptd.wire.v1 import common_pb2

AWAIT_PLAN = "await-plan"
CAPABILITIES: tuple[str, ...] = ("transport-stream", "transport-arena", "manifest-digest", "resume", AWAIT_PLAN)
"""What this end offers: lanes over the Write stream or in shared memory, declaring by digest, resuming a broken
stream, waiting for the plan of what was declared over shared memory."""

_VERSION = re.compile(r"(\d{1,6})\.(\d{1,6})(?:[.+\-a-z].*)?", re.ASCII | re.DOTALL)


def new_incarnation() -> str:
    """Return a name for this life of this process that no other life has."""
    return uuid.uuid4().hex


def this_peer(incarnation: str, *, required: tuple[str, ...] = ()) -> common_pb2.Peer:
    """Describe this end for the other one. `required`: capabilities without which it must not go on."""
    return common_pb2.Peer(
        version=VERSION,
        incarnation=incarnation,
        host=socket.gethostname(),
        pid=os.getpid(),
        capabilities=CAPABILITIES,
        required_capabilities=required,
    )


def check_peer(peer: common_pb2.Peer, *, role: str, mine: str = VERSION) -> None:
    """Refuse a peer that this version cannot work with. `role` is "client" or "daemon", for the message.

    Raises `VersionMismatchError` that names both versions, or the capability that is missing here.
    """
    check_version(peer.version, role=role, mine=mine)
    unknown = sorted(set(peer.required_capabilities) - set(CAPABILITIES))
    if unknown:
        raise VersionMismatchError(
            f"the {role} (ckptd {peer.version[:32]}) needs {', '.join(name[:64] for name in unknown[:8])}, "
            f"which ckptd {mine} here does not know: bring both to the same version"
        )


def check_version(theirs: str, *, role: str, mine: str = VERSION) -> None:
    """Refuse a version that is neither this minor version nor a neighbour of it."""
    parsed, own = _VERSION.fullmatch(theirs[:64]), _VERSION.fullmatch(mine)
    if parsed is None or own is None:
        raise InvalidRequestError(
            f"the {role} does not send its version: it is not ckptd, or it is broken", actual=theirs[:32]
        )
    same_major = int(parsed[1]) == int(own[1])
    if not same_major or abs(int(parsed[2]) - int(own[2])) > 1:
        raise VersionMismatchError(
            f"the {role} runs ckptd {theirs[:32]} and this end {mine}; only neighbouring minor versions work together: "
            "install the same version at both ends"
        )
