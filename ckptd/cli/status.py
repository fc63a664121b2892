"""`ckptd status`: what a daemon is doing, and which ranks a save waits for."""

from __future__ import annotations

import signal
import sys
import time
from typing import Any

import click

from ckptd.cli import daemons, hosts, output, running

_MOST_RANKS = 200  # of each save: more fit on no screen


@click.command("status")
@click.argument("address", metavar="[ADDR]", required=False)
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C: a live picture on a terminal, lines elsewhere.")
@click.option(
    "--every-s",
    type=click.FloatRange(min=0.25),
    default=0.5,
    show_default=True,
    help="With --watch: how long from one look to the next.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout; with --watch one a line.")
@daemons.identity_options
@click.option("--timeout-s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="How long to wait.")
def command(
    address: str | None, watch: bool, every_s: float, as_json: bool, identity: daemons.Identity, timeout_s: float
) -> int:
    """Show a daemon's runs and the saves under way. ADDR: host:port or unix:///path.

    Without ADDR it is CKPTD_ADDRESS, or else the daemon of this host. With --watch a bar for each rank shows how far it
    is, those that are furthest behind first where not all of them fit; a daemon that is restarted meanwhile is waited
    for. NO_COLOR or TERM=dumb give lines on a terminal, too.
    """
    if watch:
        return _watch(address, identity, timeout_s, every_s, as_json)
    reply = request_status(address, identity=identity, timeout_s=timeout_s, most_ranks=_MOST_RANKS if as_json else 0)
    if as_json:
        output.emit_json(describe(reply))
    else:
        _print(reply)
    return 0


def _watch(address: str | None, identity: daemons.Identity, timeout_s: float, every_s: float, as_json: bool) -> int:
    """Show it until a signal ends that; return the exit code."""
    from ckptd.cli import status_watch

    def ask() -> Any:
        return request_status(address, identity=identity, timeout_s=timeout_s, most_ranks=_MOST_RANKS)

    try:
        with running.terminating():
            if as_json:
                looks = status_watch.StatusLooks(ask)
                while True:
                    output.say(output.json_text(describe(looks.look().reply)))
                    sys.stdout.flush()
                    time.sleep(every_s)
            show = status_watch.show_live if status_watch.is_live() else status_watch.tell_lines
            show(ask, every_s)
    except KeyboardInterrupt:
        return 0
    except running.Terminated:
        return 128 + signal.SIGTERM
    return 0


def request_status(
    address: str | None,
    *,
    identity: daemons.Identity = daemons.ANONYMOUS,
    timeout_s: float = 10.0,
    most_ranks: int = 0,
) -> Any:
    """Return the daemon's `StatusReply`, of all runs. Raises `UnavailableError` when none answers."""
    import grpc

    from ckptd.wire import methods, status, versions
    from ckptd.wire.v1 import admin_pb2

    where = daemons.where(address)
    with daemons.channel(where, identity, timeout_s=timeout_s) as channel:
        try:
            peer = versions.this_peer(versions.new_incarnation())
            request = admin_pb2.StatusRequest(peer=peer, most_ranks=most_ranks)
            stub = methods.Stub(channel, methods.ADMIN)
            reply = stub.Status(request, timeout=timeout_s)
            following = reply.next_after
            while following:
                request.after_run = following
                page = stub.Status(request, timeout=timeout_s)
                reply.runs.extend(page.runs)
                following = page.next_after
            while reply.hosts.next_after:
                request.after_host = reply.hosts.next_after
                page = stub.Status(request, timeout=timeout_s)
                reply.hosts.hosts.extend(page.hosts.hosts)
                reply.hosts.next_after = page.hosts.next_after
        except grpc.RpcError as e:
            raise status.from_wire(e, address=str(where)) from e
    versions.check_peer(reply.peer, role="daemon")
    return reply


def describe(reply: Any) -> dict[str, object]:
    """Return a status as plain data for `--json`; sizes in bytes, times in seconds."""
    from ckptd.wire import convert

    return {
        "version": reply.peer.version,
        "host": reply.peer.host,
        "pid": reply.peer.pid,
        "root": reply.root,
        "durability": convert.durability_from_wire(reply.durability),
        "uptime_s": reply.uptime_s,
        "listening": list(reply.listening),
        "http": reply.http or None,
        "free_bytes": None if reply.free_bytes < 0 else reply.free_bytes,
        "draining": reply.draining,
        "warnings": list(reply.warnings),
        **hosts.describe(reply),
        "arena_bytes": reply.arena_bytes,
        "arena_limit_bytes": reply.arena_limit_bytes,
        "limits": [
            {
                "subject": each.subject,
                "what": each.what,
                "used": None if each.used < 0 else each.used,
                "most": each.most,
            }
            for each in reply.limits
        ],
        "open_files": reply.open_files if reply.open_files_limit else None,
        "open_files_limit": reply.open_files_limit or None,
        "stream_ports": list(reply.stream_ports),
        "write_mode": reply.write_mode or None,
        "runs": [
            {
                "run": run.run,
                "epoch": run.epoch,
                "world_size": run.world_size,
                "connected_ranks": list(run.connected_ranks),
                "arena_ranks": list(run.arena_ranks),
                "arena_bytes": run.arena_bytes,
                "num_checkpoints": None if reply.HasField("attending") else run.num_checkpoints,
                "latest": convert.checkpoint_from_wire(run.latest) if run.HasField("latest") else None,
                "last_error": run.last_error or None,
                "quarantined": run.quarantined or None,
                "problems": list(run.problems),
                "damaged": [
                    {
                        "name": each.name,
                        "save_id": each.save_id,
                        "reason": each.reason,
                        "since": each.since,
                        "by": each.by,
                    }
                    for each in run.damaged
                ],
                "saves": [_describe_save(save) for save in run.saves],
            }
            for run in reply.runs
        ],
    }


def _describe_save(live: Any) -> dict[str, object]:
    return {
        "step": live.save.step if live.save.HasField("step") else None,
        "save_id": live.save.save_id,
        "phase": live.phase,
        "transport": _transport(live),
        "size_bytes": live.size_bytes,
        "received_bytes": live.received_bytes,
        "crossing_bytes": live.crossing_bytes,
        "age_s": live.age_s,
        "waiting_for": list(live.waiting_for),
        "needed_ranks": list(live.needed_ranks),
        "num_ranks": live.num_ranks or None,
        "ranks": [
            {
                "rank": part.rank,
                "declared": part.declared,
                "received_bytes": part.received_bytes,
                "size_bytes": part.size_bytes,
                "idle_s": part.idle_s,
                "host": part.host or None,
            }
            for part in live.ranks
        ],
    }


def _print(reply: Any) -> None:
    now = time.time()
    free = "" if reply.free_bytes < 0 else f", {output.size(reply.free_bytes)} free"
    peer = reply.peer
    output.tell(f"ckptd {peer.version}, pid {peer.pid} on {peer.host}, up {output.duration(reply.uptime_s)}")
    output.tell(f"checkpoints in {reply.root}{free}; listening on {', '.join(reply.listening)}")
    if reply.http:
        output.tell(f"HTTP at {reply.http}")
    if reply.stream_ports:
        output.tell(f"streams are taken at ports {', '.join(map(str, reply.stream_ports))} as well")
    if reply.write_mode:
        output.tell(f"bulk data goes to the disk {_describe_write_mode(reply.write_mode)}")
    if reply.open_files * 2 > reply.open_files_limit > 0:
        output.tell(f"open files: {reply.open_files:,} of {reply.open_files_limit:,}, of which each rank takes some")
    for warning in reply.warnings:
        output.tell(f"WARNING: {warning}")
    hosts.tell(reply)
    for each in reply.limits:
        output.tell(f"limit of {each.subject}: {_amount(each, each.used)} of {_amount(each, each.most)} {each.what}")
    if reply.draining:
        output.tell("it is shutting down: no new saves begin")
    if not reply.runs:
        output.tell("no run is open: each is opened when it is needed")
        return
    for run in reply.runs:
        if run.quarantined:
            output.tell(f"QUARANTINED: {run.run}: {run.quarantined}")
        for problem in run.problems:
            output.tell(f"WARNING: {run.run}: {problem}")
    output.table(
        "Runs",
        ("run", "ranks", "shared memory", "checkpoints", "latest", "published", "last error"),
        [
            (
                run.run,
                f"{len(run.connected_ranks)} of {run.world_size}" if run.world_size else "–",
                _memory(run),
                "–" if reply.HasField("attending") else run.num_checkpoints,
                _name(run.latest) if run.HasField("latest") else "–",
                output.age(run.latest.saved_at, now) if run.HasField("latest") else "–",
                "quarantined, see above" if run.quarantined else run.last_error or "–",
            )
            for run in reply.runs
        ],
    )
    for run in reply.runs:
        for each in run.damaged:
            output.tell(f"QUARANTINED since {output.moment(each.since)}: {run.run}/{each.name}: {each.reason}")
    saves = [(run.run, save) for run in reply.runs for save in run.saves]
    if saves:
        output.table(
            "Saves under way",
            ("run", "step", "phase", "transport", "received", "of", "for", "waiting for"),
            [
                (
                    run,
                    _step(save),
                    save.phase,
                    _transport(save),
                    output.size(save.received_bytes),
                    output.size(save.size_bytes),
                    output.duration(save.age_s),
                    "; ".join(save.waiting_for) or "–",
                )
                for run, save in saves
            ],
        )
    for run, save in saves:
        if save.crossing_bytes:
            share = save.crossing_bytes / save.size_bytes
            output.tell(f"{run}: {share:.0%} of the bytes of step {_step(save)} cross hosts; the daemon's log says why")


def _amount(limit: Any, number: int) -> str:
    if number < 0:
        return "an unknown part"
    return str(output.size(number)) if "bytes" in limit.what else str(number)


def _step(live: Any) -> str:
    return str(live.save.step) if live.save.HasField("step") else "–"


def _transport(live: Any) -> str:
    """Say how the bytes of a save reach the daemon."""
    from ckptd.wire.v1.save_pb2 import LANE_TRANSPORT_ARENA, LANE_TRANSPORT_STREAM

    names = {LANE_TRANSPORT_ARENA: "memory", LANE_TRANSPORT_STREAM: "stream"}
    return " and ".join(names.get(transport, "?") for transport in live.transports) or "–"


def _memory(run: Any) -> str:
    """Say which ranks share memory with the daemon, and how much."""
    if not run.num_arenas:
        return "–"
    size = output.size(run.arena_bytes)
    ranks, connected = len(run.arena_ranks), len(run.connected_ranks)
    return f"{size}, kept" if not ranks else f"{size}, {ranks} of {max(ranks, connected)}"


def _describe_write_mode(mode: str) -> str:
    from ckptd.storage.local.disk import WriteMode

    return WriteMode(mode).description if mode in {each.value for each in WriteMode} else mode


def _name(checkpoint: Any) -> str:
    return str(checkpoint.key).rsplit("/", 1)[-1]
