"""`ckptd history`: what became of the saves of a run, and which of them took long, and why."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptd.cli import daemons, output, sparkline
from ckptd.errors import NotFoundError, UnavailableError
from ckptd.storage.locations import is_url

if TYPE_CHECKING:
    from ckptd.engine.catalog.past_saves import PastSave

_MOST_BARS = 60
_COMMITTED = "committed"


@click.command("history")
@click.argument("run", metavar="RUN")
@click.option("--address", metavar="ADDR", help="The daemon. Default: CKPTD_ADDRESS, or else the daemon of this host.")
@daemons.identity_options
@click.option("--most", type=click.IntRange(min=0), default=20, show_default=True, help="The newest so many; 0: all.")
@click.option("--timeout-s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="How long to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    run: str, address: str | None, identity: daemons.Identity, most: int, timeout_s: float, as_json: bool
) -> None:
    """List the saves of RUN that have ended, oldest first: their outcome, what held them up, how long training stood.

    RUN is called as in `ckptd status`. Where it is a directory of this host, or a URL, it is read without a daemon.
    A daemon keeps the newest 500 saves beside the checkpoints, also those that came to nothing; saves in direct mode
    are not among them.
    """
    where, saves = _saves(run, address, identity, timeout_s)
    shown = saves[-most:] if most else saves
    if as_json:
        output.emit_json({"run": run, "where": where, "kept": len(saves), "saves": [_describe(each) for each in shown]})
    elif saves:
        _print(run, saves, shown)
    else:
        output.note(f"no save of {run} has ended that a daemon knows of")


def _saves(
    run: str, address: str | None, identity: daemons.Identity, timeout_s: float
) -> tuple[str, Sequence[PastSave]]:
    """Return where the history comes from, and all that is kept."""
    is_here = is_url(run) or run.startswith(("/", ".")) or Path(run).is_dir()
    if address is None and is_here:
        from ckptd.cli import places
        from ckptd.engine.catalog import past_saves

        store = places.directory(run)
        return store.url, past_saves.read(store, "")
    try:
        return _requested(run.rstrip("/"), address, identity, timeout_s)
    except (NotFoundError, UnavailableError) as error:
        if address is None:
            error.add_note(f"there is no directory {run!r} here, so a daemon was asked")
        raise


def _requested(
    run: str, address: str | None, identity: daemons.Identity, timeout_s: float
) -> tuple[str, Sequence[PastSave]]:
    import grpc

    from ckptd.wire import methods, past_saves, status, versions
    from ckptd.wire.v1 import admin_pb2

    where = daemons.where(address)
    request = admin_pb2.HistoryRequest(peer=versions.this_peer(versions.new_incarnation()), run=run)
    with daemons.channel(where, identity, timeout_s=timeout_s) as channel:
        try:
            reply = methods.Stub(channel, methods.ADMIN).History(request, timeout=timeout_s)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise UnavailableError(
                    f"the daemon at {where} is of an older release, which keeps no history"
                ) from error
            raise status.from_wire(error, address=str(where)) from error
    return str(where), [past_saves.from_wire(each) for each in reply.saves]


def _describe(save: PastSave) -> dict[str, object]:
    return {
        "step": save.step,
        "save_id": save.save_id,
        "prefix": save.prefix or None,
        "outcome": save.outcome,
        "began_at": save.began_at,
        "duration_s": save.duration_s,
        "phases_s": dict(save.phases_s),
        "stall_s": dict(save.stall_s) or None,
        "size_bytes": save.size_bytes,
        "received_bytes": dict(save.received_bytes),
        "world_size": save.world_size or None,
        "slowest_rank": save.slowest_rank,
        "lag_s": save.lag_s,
        "last_to_declare": save.last_to_declare,
        "error": save.error or None,
        "culprit": save.culprit or None,
    }


def _print(run: str, saves: Sequence[PastSave], shown: Sequence[PastSave]) -> None:
    counted = {outcome: sum(each.outcome == outcome for each in saves) for outcome in {each.outcome for each in saves}}
    told = ", ".join(f"{number} {outcome}" for outcome, number in sorted(counted.items(), key=lambda each: -each[1]))
    output.tell(f"{run}: {told}; the last {output.age(saves[-1].ended_at, time.time())}")
    committed = [each for each in saves if each.outcome == _COMMITTED]
    _tell_course("stall", [each.total_stall_s for each in committed])
    _tell_course("duration", [each.duration_s for each in committed])
    output.table(
        "" if len(shown) == len(saves) else f"The newest {len(shown)} of {len(saves)}",
        ("step", "ended", "outcome", "stall", "duration", "longest phase", "size", "what held it up"),
        [_row(each) for each in shown],
    )


def _tell_course(what: str, seconds: Sequence[float | None]) -> None:
    """Tell how the newest of these went, and what is usual."""
    known = [each for each in seconds if each is not None]
    if known:
        usual, most = output.duration(statistics.median(known)), output.duration(max(known))
        output.tell(f"{what:8} {sparkline.sparkline(seconds[-_MOST_BARS:])}  median {usual}, most {most}")


def _row(save: PastSave) -> tuple[object, ...]:
    longest = max(save.phases_s, key=lambda phase: save.phases_s[phase], default=None)
    return (
        "–" if save.step is None else save.step,
        output.moment(save.ended_at),
        save.outcome,
        "–" if save.total_stall_s is None else output.duration(save.total_stall_s),
        output.duration(save.duration_s),
        "–" if longest is None else f"{longest} {output.duration(save.phases_s[longest])}",
        output.size(save.size_bytes) if save.size_bytes else "–",
        save.culprit or "–",
    )
