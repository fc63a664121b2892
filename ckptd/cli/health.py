"""`ckptd health`: calls gRPC's own health service. For container engines, which probe often.

An engine's own gRPC probe speaks neither TLS nor tokens, and reaches no Unix socket: this one does. It needs less than
`ckptd status`, which reads every run, and starts faster.
"""

from __future__ import annotations

from typing import Any

import click

from ckptd.cli import daemons, output
from ckptd.errors import UnavailableError


@click.command("health")
@click.argument("address", metavar="[ADDR]", required=False)
@daemons.identity_options
@click.option("--run", metavar="RUN", help="Check this run: in a bucket another owner may have taken it over.")
@click.option("--timeout-s", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long to wait.")
def command(address: str | None, run: str | None, identity: daemons.Identity, timeout_s: float) -> None:
    """Exit with 0 if a daemon takes saves, with 6 if it takes none or does not answer. ADDR: as for status."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from ckptd.wire import methods, status

    where = daemons.where(address)
    with daemons.channel(where, identity, timeout_s=timeout_s) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            reply = stub.Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            if run is not None and reply.status == health_pb2.HealthCheckResponse.SERVING:
                reply = (
                    _of_run(stub, health_pb2.HealthCheckRequest(service=methods.RUN_HEALTH + run), timeout_s) or reply
                )
        except grpc.RpcError as e:
            raise status.from_wire(e, address=str(where)) from e
    answer = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        why = _why(address, identity, timeout_s) if run is None else ""
        raise UnavailableError(f"the daemon at {where} takes no new saves: {why or f'it says {answer}'}")
    output.say(answer)


def _why(address: str | None, identity: daemons.Identity, timeout_s: float) -> str:
    """Return why a daemon takes no new saves, "" where it does not tell this caller."""
    from ckptd.cli import hosts
    from ckptd.cli.status import request_status
    from ckptd.errors import CkptdError

    try:
        reply = request_status(address, identity=identity, timeout_s=timeout_s)
    except CkptdError:
        return ""
    if reply.draining:
        return "it is shutting down"
    attending = reply.attending
    is_cut_off = reply.HasField("attending") and (attending.replaced or not attending.attends)
    return hosts.unattended_words(attending) if is_cut_off else ""


def _of_run(stub: Any, request: Any, timeout_s: float) -> Any:
    """Return the answer about one run, None where the daemon reports nothing about it."""
    import grpc

    try:
        return stub.Check(request, timeout=timeout_s)
    except grpc.RpcError as e:
        if e.code() is grpc.StatusCode.NOT_FOUND:
            return None
        raise
