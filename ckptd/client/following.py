"""`follow`: get news of checkpoints without saving any, from a directory or from a daemon."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path as LocalPath

from ckptd.client import options
from ckptd.client.daemon.connection import this_member
from ckptd.client.paths.environment import address_or_local
from ckptd.client.paths.latest import Path
from ckptd.client.saving.transport import Transport
from ckptd.client.transports import open_daemon
from ckptd.client.watch import Source, Watch
from ckptd.engine.identity import RunOptions
from ckptd.errors import InvalidRequestError
from ckptd.format import names as naming
from ckptd.format.names import ANY_NAME, STATE_KEY
from ckptd.storage.capabilities import local_path
from ckptd.storage.locations import open_store
from ckptd.watch.follower import Follower
from ckptd.wire import addresses


def follow(
    place: Path | None = None,
    run: str | None = None,
    *,
    timeout_s: float | None = None,
    latest_filename: str = STATE_KEY,
    poll_s: float | None = None,
    patience_s: float = 600.0,
    token: str | None = None,
    ca: str | bytes | None = None,
    cert: str | bytes | None = None,
    key: str | bytes | None = None,
) -> Watch:
    """Yield the newest checkpoint, if there is one, then each newer one once it is durable. `close` frees everything.

    Only ever goes forward, and yields nothing twice, also across restarts of the daemon. A slow reader misses some in
    between, but never the newest. Nothing need be there yet. TensorFlow may write the directory, too.

    Args:
        place: a directory of checkpoints, or the address of a daemon; None is ``CKPTD_ADDRESS``, or else the daemon
            of this host.
        run: the run, below the directory or the daemon's root; a daemon needs one.
        timeout_s: end when nothing newer comes for so long; None waits for ever.
        latest_filename: the state file's name; a daemon knows it.
        poll_s: look at a directory so often, and do not rely on the file system's events.
        patience_s: how long a daemon may be away.
        token: shown to the daemon; default: the environment's ``CKPTD_TOKEN``.
        ca: the authority that signed the daemon's certificate: PEM, or the path of a file with it; default: the
            environment's ``CKPTD_CA``.
        cert: the client's own certificate, for a daemon with ``--client-ca``: PEM, or the path of a file with
            it; default: the environment's ``CKPTD_CERT``.
        key: the private key of `cert`, likewise; default: the environment's ``CKPTD_KEY``.

    Raises:
        InvalidRequestError: for anything above that can't be right.
        UnavailableError: while iterating, once the daemon or the store was away for too long.
        CorruptionError: while iterating, when the state file of a directory can't be read as one.
    """
    if place is None and run is None:
        raise InvalidRequestError("say what to follow: a directory, or a daemon's run with run='runs/mnist'")
    place = address_or_local(place)
    if run is not None:
        naming.check_run_name(run)
    if timeout_s is not None and not timeout_s >= 0:
        raise InvalidRequestError("timeout_s is a number of seconds", actual=timeout_s)
    if addresses.is_daemon(place):
        if run is None:
            raise InvalidRequestError(f"{place} is a daemon, which keeps many runs: say which one to follow")
        transport = open_daemon(
            place,
            run,
            this_member(0, 1),
            RunOptions(),
            timeout_s=patience_s,
            token=token,
            ca=ca,
            cert=cert,
            key=key,
        )
        return Watch(_from_daemon(transport), timeout_s)
    store = open_store(place, confined=False)
    path = local_path(store)
    if path is not None and LocalPath(path).is_file():
        raise InvalidRequestError("this is a file; pass a directory", key=place)
    options.check_latest_filename(latest_filename)
    return Watch(_from_directory(Follower(store, run or "", latest_filename=latest_filename, poll_s=poll_s)), timeout_s)


@contextlib.contextmanager
def _from_daemon(transport: Transport) -> Iterator[Source]:
    try:
        with transport.watching(ANY_NAME) as source:
            yield source
    finally:
        transport.close()


@contextlib.contextmanager
def _from_directory(follower: Follower) -> Iterator[Source]:
    try:
        yield follower
    finally:
        follower.close()
