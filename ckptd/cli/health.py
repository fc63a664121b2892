"""`ckptd health`: ask gRPC's own health service whether a daemon serves. For container engines, which ask often.

An engine's own gRPC probe speaks neither TLS nor tokens, and reaches no Unix socket: this one does. It asks less than
`ckptd status`, which looks at every run, and starts faster.
"""

from __future__ import annotations

import os
from pathlib import Path

import click

from ckptd.cli import output
from ckptd.errors import UnavailableError


@click.command("health")
@click.argument("address", metavar="[ADDR]", required=False)
@click.option("--token-file", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="The daemon's token.")
@click.option("--ca", metavar="FILE", type=click.Path(exists=True, dir_okay=False), help="The daemon's authority, PEM.")
@click.option("--timeout-s", type=click.FloatRange(min=0.1), default=3.0, show_default=True, help="How long to wait.")
def command(address: str | None, token_file: str | None, ca: str | None, timeout_s: float) -> None:
    """Exit with 0 if a daemon takes saves, with 6 if none answers or it is shutting down. ADDR: as for status."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from ckptd.daemon import places
    from ckptd.wire import addresses, status
    from ckptd.wire.channels import open_channel

    where = addresses.parse(address) if address else places.daemon_address(os.environ)
    token = Path(token_file).read_text().strip() if token_file else os.environ.get("CKPTD_TOKEN") or None
    with open_channel(where, token=token, ca=Path(ca).read_bytes() if ca else None) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=timeout_s)
        except grpc.RpcError as e:
            raise status.from_wire(e, address=str(where)) from e
    answer = health_pb2.HealthCheckResponse.ServingStatus.Name(reply.status)
    if reply.status != health_pb2.HealthCheckResponse.SERVING:
        raise UnavailableError(f"the daemon at {where} takes no new saves: it says {answer}")
    output.say(answer)
