"""`ckptd evict`: free the place that a hung or hostile process holds in a run."""

from __future__ import annotations

import click

from ckptd.cli import daemons, output


@click.command("evict")
@click.argument("run", metavar="RUN")
@click.option("--rank", type=click.IntRange(min=0), help="The place of this rank only. [default: all of the run]")
@click.option("--address", metavar="ADDR", help="The daemon. Default: CKPTD_ADDRESS, or else the daemon of this host.")
@daemons.identity_options
@click.option("--timeout-s", type=click.FloatRange(min=0.1), default=10.0, show_default=True, help="How long to wait.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def command(
    run: str,
    rank: int | None,
    address: str | None,
    identity: daemons.Identity,
    timeout_s: float,
    as_json: bool,
) -> None:
    """Free the places that processes hold in RUN, called as in `ckptd status`: of a rank that hangs, or of all.

    Their saves end, and they get no place there again, also when they wake up. A new process in such a place begins a
    new epoch, which fences off the others of the old job: start all ranks anew. It needs the role admin.
    """
    import grpc

    from ckptd.wire import methods, status, versions
    from ckptd.wire.v1 import admin_pb2

    where = daemons.where(address)
    request = admin_pb2.EvictRequest(peer=versions.this_peer(versions.new_incarnation()), run=run, rank=rank)
    with daemons.channel(where, identity, timeout_s=timeout_s) as channel:
        try:
            reply = methods.Stub(channel, methods.ADMIN).Evict(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise status.from_wire(error, address=str(where)) from error
    ended = [
        {"step": save.step if save.HasField("step") else None, "save_id": save.save_id or None} for save in reply.ended
    ]
    if as_json:
        evicted = [{"rank": each.rank, "host": each.host, "pid": each.pid} for each in reply.evicted]
        output.emit_json({"run": run, "evicted": evicted, "ended": ended})
        return
    for each in reply.evicted:
        output.tell(f"evicted rank {each.rank} of {run}: pid {each.pid} on {each.host}")
    for save in ended:
        output.tell(f"ended the save of {'no step' if save['step'] is None else 'step ' + str(save['step'])}")
