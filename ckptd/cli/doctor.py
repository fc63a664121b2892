"""`ckptd doctor`: test whether checkpoints would be safe here, and say what would be refused and why."""

from __future__ import annotations

import os
import platform
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptd.cli import output
from ckptd.errors import CkptdError, InvalidRequestError, NotFoundError

if TYPE_CHECKING:
    from ckptd.storage.base import Store
    from ckptd.storage.findings import Finding

_PATIENCE_S = 10.0  # with a server that does not answer
_WANTED_FILES = 1024
_EARLIEST_S = 1_735_689_600  # 2025: a clock before this program was written is wrong


@click.command()
@click.argument("directory", metavar="[DIR]", default=".")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(directory: str, as_json: bool) -> int:
    """Test whether a file system or bucket, and this host's limits and clock, keep checkpoints in DIR safe.

    Every promise that ckptd relies on is tested with real files or objects in DIR, which are removed again. The exit
    code is 0 unless a save would be refused; then it is the one that the save would give.
    """
    from ckptd.storage.locations import is_url

    findings = list(look(directory))
    refused = [finding for finding in findings if finding.error is not None]
    where = directory if is_url(directory) else str(Path(directory).absolute())
    if as_json:
        output.emit_json(
            {
                "directory": where,
                "ok": not refused,
                "findings": [{"check": each.name, "outcome": each.outcome, "detail": each.detail} for each in findings],
            }
        )
    else:
        rows = [(each.name, each.outcome.value.upper(), each.detail) for each in findings]
        output.table(where, ("check", "result", "what was seen"), rows)
        output.say()
        output.tell(_conclusion(findings))
    for finding in refused:
        output.note(f"refused, by {finding.name}: {finding.detail}")
    return refused[0].error.exit_code if refused and refused[0].error is not None else 0


def _conclusion(findings: list[Finding]) -> str:
    if any(each.error is not None for each in findings):
        return "checkpoints here would be refused"
    num_warnings = sum(each.outcome.value == "warning" for each in findings)
    if not num_warnings:
        return "checkpoints are safe here"
    return f"checkpoints are safe here, but read the warning{'s' * (num_warnings > 1)} above"


def look(directory: str) -> Iterator[Finding]:
    """Make every check; yield what each found."""
    from ckptd.storage.capabilities import local_path
    from ckptd.storage.locations import open_store

    store = open_store(directory, confined=False, patience_s=_PATIENCE_S)
    root = local_path(store)
    if root is not None:
        yield from _look_at_directory(directory, Path(root))
    else:
        yield from _look_at_bucket(store)
    yield from _limits()
    yield _wall_clock()
    yield from _addresses()
    yield _software()


def _look_at_directory(directory: str, root: Path) -> Iterator[Finding]:
    from ckptd.engine.catalog.root import LOCK_KEY
    from ckptd.storage.findings import Finding, Outcome
    from ckptd.storage.local import examine

    if root.exists() and not root.is_dir():
        raise InvalidRequestError("this is a file; pass a directory", key=directory)
    existing = next(parent for parent in (root, *root.parents) if parent.is_dir())
    if existing != root:
        if existing != root.parent:
            raise NotFoundError(f"there is no directory {str(root.parent)!r} in which to make {root.name!r}")
        yield Finding("root", Outcome.OK, f"not there yet; {existing}, where it would be made, was examined")
    else:
        yield Finding("root", Outcome.OK, f"{root} is there")
        yield _owner(examine.holder_of(str(root), LOCK_KEY))
    yield from examine.examine(str(existing))
    yield from examine.look_at_room(str(existing))


def _look_at_bucket(store: Store) -> Iterator[Finding]:
    from ckptd.engine.catalog.root import LOCK_KEY
    from ckptd.storage.capabilities import ProbedStore
    from ckptd.storage.findings import Finding, Outcome

    if not isinstance(store, ProbedStore):
        raise InvalidRequestError(f"{store.url} lives in a process's memory, and there is nothing to examine")
    yield Finding("root", Outcome.OK, f"{store.url}, at {store.place}")
    findings = list(store.probe())
    if all(finding.error is None for finding in findings):
        yield _owner(store.holder_of(LOCK_KEY))
    yield from findings


def _owner(holder: str | None) -> Finding:
    from ckptd.storage.findings import Finding, Outcome

    if holder is None:
        return Finding("owner", Outcome.OK, "not locked: a daemon can start here")
    return Finding("owner", Outcome.WARNING, f"held by {holder}: a second daemon would be refused")


def _limits() -> Iterator[Finding]:
    from ckptd.storage.findings import Finding, Outcome

    files, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    text = f"{_limit(files)} open files, at most {_limit(most_files)}"
    if files != resource.RLIM_INFINITY and files < _WANTED_FILES:
        yield Finding("open files", Outcome.WARNING, f"{text}: large jobs need more (ulimit -n)")
    else:
        yield Finding("open files", Outcome.OK, text)
    size, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if size == resource.RLIM_INFINITY:
        yield Finding("file size", Outcome.OK, "no limit")
    else:
        yield Finding("file size", Outcome.WARNING, f"limited to {output.size(size)}: larger shards fail (ulimit -f)")


def _limit(value: int) -> str:
    return "any number of" if value == resource.RLIM_INFINITY else str(value)


def _wall_clock() -> Finding:
    from ckptd.storage.findings import Finding, Outcome

    now = time.time()
    if now < _EARLIEST_S:
        return Finding("date", Outcome.WARNING, f"it says {output.moment(now)}: retention by hours goes by this clock")
    return Finding("date", Outcome.OK, output.moment(now))


def _addresses() -> Iterator[Finding]:
    """Say where a daemon would listen by default."""
    from ckptd.storage.findings import Finding, Outcome
    from ckptd.wire import places

    try:
        where = places.runtime_socket(os.environ)
    except CkptdError as error:
        yield Finding("socket", Outcome.REFUSED, str(error), error)
        return
    yield Finding("socket", Outcome.OK, f"{where}, unless `ckptd serve --listen` says otherwise")


def _software() -> Finding:
    import grpc
    import numpy as np

    from ckptd.storage.findings import Finding, Outcome
    from ckptd.wire.versions import VERSION

    python = ".".join(map(str, sys.version_info[:3]))
    kernel = f"{platform.system()} {platform.release()}"
    text = f"ckptd {VERSION}, Python {python}, numpy {np.__version__}, gRPC {grpc.__version__}, {kernel}"
    return Finding("software", Outcome.OK, text)
