"""`ckptd token`: make, list and revoke the bearer tokens of a daemon."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from typing import Any

import click

from ckptd.cli import output
from ckptd.errors import InvalidRequestError

_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


@click.group("token")
def command() -> None:
    """Make, list and revoke the bearer tokens that a daemon knows.

    FILE is what `ckptd serve --tokens FILE` reads; it holds hashes only, and a daemon that runs reads it again within
    seconds of a change. What a token may do stands in the daemon's policy (`serve --policy`), where it is called
    token:NAME.
    """


def _file_option(function: Callable[..., Any]) -> Callable[..., Any]:
    return click.option(
        "--tokens",
        "path",
        metavar="FILE",
        envvar="CKPTD_TOKENS",
        required=True,
        help="Token file; also CKPTD_TOKENS.",
    )(function)


@command.command("new")
@click.argument("name")
@_file_option
@click.option("--expires", metavar="TIME", help="It ends after this time: 90d, 12h, 30m. [default: never]")
@click.option("--out", metavar="FILE", help="Write it to this new file, of mode 0600, and print nothing.")
@click.option("--force", is_flag=True, help="With --out: replace the file if there is one.")
def new(name: str, path: str, expires: str | None, out: str | None, force: bool) -> None:
    """Make a token called NAME and print it, once: only its hash is kept. FILE is made if there is none.

    --out keeps the token that a file has when this command fails; a shell empties what follows > before that.
    """
    from ckptd.access import token_file, tokens

    if force and out is None:
        raise InvalidRequestError("--force belongs to --out")
    if out is not None and os.path.realpath(out) == os.path.realpath(path):
        raise InvalidRequestError(f"--out is for {name}'s token; {path} holds the hashes of all: name another file")
    expires_s = None if expires is None else _seconds(expires)
    if out is None:
        output.say(tokens.create(path, name, expires_s=expires_s))
        output.note(f"ckptd: {name} is known to the daemon that reads {path}; this token cannot be shown again")
        return
    with token_file.made(out, replaces=force) as write:
        write(tokens.create(path, name, expires_s=expires_s))
    output.tell(f"{name}'s token is in {out}; the daemon that reads {path} knows it")


@command.command("list")
@_file_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def list_(path: str, as_json: bool) -> None:
    """List the tokens of FILE: their names and when they were made and end. The tokens themselves are not kept."""
    from ckptd.access import tokens

    known, now = list(tokens.read(path)), time.time()
    if as_json:
        output.emit_json(
            {
                "tokens": [
                    {
                        "name": token.name,
                        "created_at": token.created_at,
                        "expires_at": token.expires_at,
                        "expired": token.is_expired(now),
                    }
                    for token in known
                ]
            }
        )
        return
    rows = [(token.name, output.moment(token.created_at), _end(token.expires_at, now)) for token in known]
    output.table(path, ("name", "made", "ends"), rows)


@command.command("revoke")
@click.argument("name")
@_file_option
def revoke(name: str, path: str) -> None:
    """Remove the token called NAME: within seconds the daemon refuses it. What it has begun ends."""
    from ckptd.access import tokens

    tokens.revoke(path, name)
    output.tell(f"{name} is revoked")


def _end(expires_at: float | None, now: float) -> str:
    if expires_at is None:
        return "never"
    return f"{output.moment(expires_at)}{' (expired)' if now >= expires_at else ''}"


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,9})([smhd])", text.strip(), re.ASCII)
    if found is None:
        raise InvalidRequestError("--expires is a number and a unit: 90d, 12h, 30m or 45s", actual=text[:40])
    return int(found[1]) * _UNITS_S[found[2]]
