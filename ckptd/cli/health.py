"""`ckptd health`: ask gRPC's own health service whether a daemon serves. For container engines, which ask often.

An engine's own gRPC probe speaks neither TLS nor tokens, and reaches no Unix socket: this one does. It asks less than
`ckptd status`, which looks at every run, and starts faster.
"""

from __future__ import annotations

import click

from ckptd.cli import daemons, output
from ckptd.errors import UnavailableError


@click.command("health")
@click.argument("address", metavar="[ADDR]", required=False)
@daemons.identity_options
@click.option("--timeout-s", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long to wait.")
def command(address: str | None, token_file: str | None, ca: str | None, timeout_s: float) -> None:
    """Exit with 0 if a daemon takes saves, with 6 if none answers or it is shutting down. ADDR: as for status."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from ckptd.wire import status

    where = daemons.where(address)
    with daemons.channel(where, token_file, ca, timeout_s=timeout_s) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as e:
            raise status.from_wire(e, address=str(where)) from e
    answer = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError(f"the daemon at {where} takes no new saves: it says {answer}")
    output.say(answer)
