"""Runs that a daemon serves, for commands: with an address, a path that is not here names a run below its root.

Commands that read (`ls`, `latest`, `show`, `cat`, `verify`, `cp`, `export`, `diff`) and those that change one
checkpoint (`pin`, `rm`, …) work so for users without access to the files, with what the daemon's policy gives them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ckptd.cli import daemons, places
from ckptd.cli.places import Named, Served
from ckptd.errors import CkptdError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.format.names import INDEX_SUFFIX, parse_shard_key, step_of
from ckptd.storage.locations import is_url

if TYPE_CHECKING:
    from ckptd.client.daemon.served_run import ServedRun
    from ckptd.engine.catalog.survey import Found

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ByDaemon:
    """The daemon that serves what is not here: an address, None for the environment's, and the credentials for it.

    `stack` closes the connection when the command ends.
    """

    stack: ExitStack
    address: str | None = None
    identity: daemons.Identity = daemons.ANONYMOUS
    timeout_s: float = 60.0
    prefers_here: bool = False

    def for_path(self, text: str) -> str | None:
        """Return the address of the daemon that is meant with a path, None if it is one of this host's.

        With the environment's address, or where `prefers_here`, that is a relative one that is not here.
        """
        if not text or is_url(text) or text.startswith(("/", ".")) or Path(text).is_file():
            return None
        if self.address is not None and not self.prefers_here:
            return self.address
        is_here = Path(Path(text).parts[0]).exists() or Path(text + INDEX_SUFFIX).exists()
        return None if is_here else self.address or daemons.from_environment()

    def connect(self, address: str) -> Callable[[str], ServedRun]:
        """Return what gives runs of the daemon, over one connection. Nothing is requested yet."""
        from ckptd.client.daemon.served_run import ServedRun

        where = daemons.where(address)
        if self.address is None:
            self.stack.push(_explain)
        channel = self.stack.enter_context(daemons.channel(where, self.identity, timeout_s=self.timeout_s))
        return lambda run: ServedRun(channel, str(where), run, timeout_s=self.timeout_s)


def _explain(_kind: object, error: BaseException | None, _trace: object) -> None:
    if isinstance(error, CkptdError):
        error.add_note("there is no such path here, so the run was requested from the daemon that CKPTD_ADDRESS names")


def option(command: Callable[..., T]) -> Callable[..., T]:
    """Add ``--address`` and the options for an identity to a command that reads, which gets them as `daemon`."""

    @functools.wraps(command)
    def with_daemon(*arguments: Any, address: str | None, identity: daemons.Identity, **others: Any) -> T:
        with ExitStack() as stack:
            return command(*arguments, daemon=ByDaemon(stack, address, identity), **others)

    decorated: Callable[..., T] = with_daemon
    for each in (
        daemons.identity_options,
        click.option(
            "--address",
            metavar="ADDR",
            help="Read through this daemon: paths that do not begin with / or . are below its root. "
            "Default: what is not here, through the one that CKPTD_ADDRESS names.",
        ),
    ):
        decorated = each(decorated)
    return decorated


def directory(text: str, daemon: ByDaemon) -> ServedRun | None:
    """Return the run that `text` names at a daemon; None if it is a directory of this host, or a store's."""
    address = daemon.for_path(text)
    return None if address is None else daemon.connect(address)(text.rstrip("/"))


def found(run: Served) -> list[Found]:
    """Return the complete checkpoints that a daemon lists, as `survey` returns what lies in a directory.

    Raises:
        NotFoundError: there is none: the daemon does not tell that from a run that is not there.
    """
    from ckptd.engine.catalog.survey import Found

    latest, listed = run.latest(), run.checkpoints()
    if not listed:
        raise NotFoundError(f"the daemon at {run.address} has no checkpoint in run {run.run!r}, or no such run")
    return [Found(each, True, each == latest) for each in listed]


def look(text: str, daemon: ByDaemon) -> Named:
    """Find out what `text` names, here or at a daemon; as `places.look`."""
    address = daemon.for_path(text)
    if address is None:
        return places.look(text)
    # A name may be that of a run or of a checkpoint: what it looks like is tried first.
    above, _, last = text.rstrip("/").rpartition("/")
    parsed = parse_shard_key(last)
    key = parsed[0] if parsed is not None else last.removesuffix(INDEX_SUFFIX)
    is_prefix = bool(above) and (key != last or step_of(key) is not None)
    run_of = daemon.connect(address)
    refused: CkptdError | None = None
    for as_prefix in (is_prefix, not is_prefix):
        if as_prefix and not above:
            continue
        try:
            return _found(text, run_of(above), key) if as_prefix else _found(text, run_of(text.rstrip("/")), None)
        except (NotFoundError, NotPermittedError, InvalidRequestError) as error:
            refused = refused or error
    assert refused is not None
    raise refused


def _found(text: str, served: ServedRun, key: str | None) -> Named:
    listed = [each.prefix.rpartition("/")[2] for each in served.checkpoints()]
    if not listed or (key is not None and key not in listed):
        what = f"checkpoint in run {served.run!r}" if key is None else f"checkpoint {key!r} in run {served.run!r}"
        newest = f"; the newest there is {listed[-1]!r}" if listed else ""
        raise NotFoundError(f"the daemon at {served.address} has no {what}{newest}")
    return Named(text, served, key, True)
