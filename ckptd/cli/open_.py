"""`ckptd open`: a daemon's page in the browser, logged in as the caller of the command."""

from __future__ import annotations

import os
import webbrowser
from urllib.parse import urlsplit, urlunsplit

import click

from ckptd.cli import daemons, output

_EVERYWHERE = frozenset({"0.0.0.0", "::"})  # noqa: S104 - compared with, and listened on by none


@click.command("open")
@click.argument("address", metavar="[ADDR]", required=False)
@click.option("--no-browser", is_flag=True, help="Only print the link.")
@daemons.identity_options
@click.option("--timeout-s", type=click.FloatRange(min=0.1), default=30.0, show_default=True, help="How long to wait.")
def command(address: str | None, no_browser: bool, identity: daemons.Identity, timeout_s: float) -> None:
    """Show a daemon's page in the browser: what it saves now, its checkpoints, its events. ADDR: host:port or unix:///path.

    The link that is printed works once, within a minute, and shows the runs that the caller of this command may read. A
    daemon that serves no page yet begins to, on its own host alone, if the caller has the role admin.
    """
    import grpc

    from ckptd.wire import methods, status, versions
    from ckptd.wire.v1 import admin_pb2

    where = daemons.where(address)
    request = admin_pb2.OpenPageRequest(peer=versions.this_peer(versions.new_incarnation()))
    with daemons.channel(where, identity, timeout_s=timeout_s) as channel:
        try:
            reply = methods.Stub(channel, methods.ADMIN).OpenPage(request, timeout=timeout_s)
        except grpc.RpcError as error:
            raise status.from_wire(error, address=str(where)) from error
    link = _reachable(reply.http, "127.0.0.1" if where.is_unix else where.host) + reply.path
    output.say(link)
    if not no_browser and _has_browser() and webbrowser.open(link):
        output.note("opened in the browser; the link works once, within a minute")
    else:
        output.note("the link works once, within a minute: open it in a browser that reaches the daemon's host")


def _reachable(http: str, host: str) -> str:
    """Return where a daemon that serves pages on all addresses is reached."""
    parts = urlsplit(http)
    if parts.hostname not in _EVERYWHERE:
        return http
    named = f"[{host}]" if ":" in host else host
    return urlunsplit((parts.scheme, f"{named}:{parts.port}", "", "", ""))


def _has_browser() -> bool:
    """Say whether a window can be shown: a browser in the terminal would take that from the command."""
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"))
