"""`ckptd certs`: the certificates of a first set-up with TLS."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptd.cli import output

if TYPE_CHECKING:
    from ckptd.access.issuing import Issued


@click.command("certs")
@click.argument("hosts", metavar="[HOST]...", nargs=-1)
@click.option("--client", "clients", metavar="NAME", multiple=True, help="Also one for a client; may be repeated.")
@click.option(
    "--dir", "directory", metavar="DIR", default="certs", show_default=True, help="Where they go; made if missing."
)
@click.option(
    "--days",
    type=click.FloatRange(min=0, min_open=True),
    default=365,
    show_default=True,
    help="How long they are valid.",
)
def command(hosts: tuple[str, ...], clients: tuple[str, ...], directory: str, days: float) -> None:
    """Make a small certificate authority, a certificate for the daemon, and one for each client.

    HOST is a name or an IP address by which clients reach the daemon. Private keys can be read by their owner only, and
    no file is replaced. Later calls add to DIR what its authority signs: --client NAME for one more client, or HOSTs
    once server.crt and server.key, which have expired, are removed. A daemon that runs reads new files by itself.

    A client's certificate is an identity: a policy calls it cert:NAME. Needs ckptd[tls].
    """
    from ckptd.access.issuing import issue

    issued = issue(directory, hosts, clients, days=days)
    output.table(
        directory,
        ("certificate", "of", "ends"),
        [(Path(each.certificate).name, _subject(each, hosts), output.moment(each.ends_at)) for each in issued],
    )
    for line in _to_type(directory, hosts, issued):
        output.say(line)
    if Path(directory).stat().st_mode & 0o022:  # one that was there before; ours is 0700
        where = shlex.quote(directory)
        output.note(f"ckptd: other users can replace what is in {directory}: chmod 700 {where}, or use another --dir")


def _subject(issued: Issued, hosts: tuple[str, ...]) -> str:
    if issued.kind == "client":
        return f"cert:{issued.name}"
    return ", ".join(hosts) if issued.kind == "server" else "the authority"


def _to_type(directory: str, hosts: tuple[str, ...], issued: list[Issued]) -> list[str]:
    """Return the lines that use what was made."""
    ca = shlex.quote(str(Path(directory) / "ca.crt"))
    clients = [each for each in issued if each.kind == "client"]
    lines = []
    for server in (each for each in issued if each.kind == "server"):
        identity = f"--client-ca {ca}" if clients else "--tokens tokens.json"
        lines += [
            "",
            "# The daemon; its host needs none of the other keys, least of all ca.key:",
            "ckptd serve --root /checkpoints --listen grpcs://0.0.0.0:7070 \\",
            f"    --tls-cert {shlex.quote(server.certificate)} --tls-key {shlex.quote(server.key)} {identity}",
        ]
    host = next((host for host in hosts if not host.startswith("*")), "HOST")
    address = f"grpcs://[{host}]:7070" if ":" in host else f"grpcs://{host}:7070"
    for client in clients:
        lines += [
            "",
            f"# The client that a policy calls cert:{client.name}:",
            f"export CKPTD_ADDRESS={address} CKPTD_CA={ca} \\",
            f"    CKPTD_CERT={shlex.quote(client.certificate)} CKPTD_KEY={shlex.quote(client.key)}",
        ]
    if not clients:
        lines += [
            "",
            "# Clients, each with a token that `ckptd token new NAME --tokens tokens.json --out NAME.token` makes:",
            f"export CKPTD_ADDRESS={address} CKPTD_CA={ca} CKPTD_TOKEN=…",
        ]
    return lines
