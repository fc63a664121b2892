"""`ckptd ui`: the page over a directory or bucket of checkpoints, without a daemon."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import webbrowser
from contextlib import suppress
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ckptd.cli import output
from ckptd.cli.running import Terminated, terminating
from ckptd.errors import ConflictError, InvalidRequestError

if TYPE_CHECKING:
    import socket

    from ckptd.cli.places import Named
    from ckptd.wire.addresses import Address


@click.command("ui")
@click.argument("place", metavar="[DIR|PREFIX]", default=".")
@click.option(
    "--http",
    metavar="ADDR",
    help="Listen there: a loopback address. [default: 127.0.0.1:7080, or another port if that one is taken]",
)
@click.option("--no-browser", is_flag=True, help="Print the link only, and open no browser.")
def command(place: str, http: str | None, no_browser: bool) -> int:
    """Show the checkpoints in DIR, and in the directories below it, as pages in a browser: what is in them, what their
    values are like, and how one differs from another. Any program may have written them; no daemon is needed.

    DIR may be a bucket's. The link that is printed signs in, so it is for you alone. Ctrl-C ends it.
    """
    try:
        from ckptd.web.application import Application
        from ckptd.web.directory_source import DirectorySource
        from ckptd.web.host_names import HostNames
        from ckptd.web.link_login import LinkLogin, LinkPorter, new_token
        from ckptd.web.listener import Listener
        from ckptd.web.site import Site
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] == "ckptd":
            raise
        raise InvalidRequestError(
            f"`ckptd ui` needs packages that are not installed ({error.name}): pip install 'ckptd[web]'"
        ) from error
    from ckptd.cli import places
    from ckptd.web import wording
    from ckptd.wire.addresses import http_url

    named = places.look(place)
    page = ""
    if named.is_directory:
        places.check_directory(named.store, place)
        store = named.store
    else:
        store, key = places.checkpoint(named)
        page = wording.named_url(_label(store.url), key)
    source = DirectorySource(store, _label(store.url))
    listening, address = _bind(http)
    token, names = new_token(), HostNames([])
    site = Site(source)
    application = Application(LinkPorter(token), names, site.routes, site.shell)
    listener = Listener(LinkLogin(application, names, token, address.port), listening)
    ended = threading.Event()
    opened: Path | None = None
    try:
        with terminating():
            listener.start()
            link = f"{http_url(address)}{page or '/'}?token={token}"
            output.say(link)
            output.note(f"shows {_said(named)} until Ctrl-C")
            if not no_browser:
                opened = _open(link)
            while not ended.wait(3600):
                pass
    except (KeyboardInterrupt, Terminated):
        output.note("ended")
    finally:
        if opened is not None:
            opened.unlink(missing_ok=True)
        site.close()
        listener.stop()
    return 0


def _said(named: Named) -> str:
    return named.store.url if named.is_directory else f"{named.store.url}/{named.key}"


def _label(url: str) -> str:
    """Return what the directory is called on the page: its own name."""
    return url.rstrip("/").rpartition("/")[2] or "checkpoints"


def _bind(http: str | None) -> tuple[socket.socket, Address]:
    """Take the port that is asked for, or else the usual one, or any."""
    from dataclasses import replace

    from ckptd.web.listener import bind
    from ckptd.wire import addresses

    address = addresses.parse_http(f"127.0.0.1:{addresses.DEFAULT_HTTP_PORT}" if http is None else http)
    if not address.is_loopback or address.secure:
        raise InvalidRequestError(
            "`ckptd ui` listens on this host alone, without TLS: pass --http 127.0.0.1:PORT and come by `ssh -L`, "
            "or let a daemon serve the page with `ckptd serve --http`",
            actual=http,
        )
    try:
        return bind(address)
    except ConflictError:
        if http is not None:
            raise
        return bind(replace(address, port=0))


def _open(link: str) -> Path | None:
    """Open a browser, if there is a graphical one; return a file to be removed.

    It is given a file that only this user can read, and that leads to the link: every user sees the arguments of
    programs.
    """
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return None
    with suppress(OSError, webbrowser.Error):
        descriptor, path = tempfile.mkstemp(prefix="ckptd-ui-", suffix=".html")
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(
                f'<!doctype html><meta http-equiv="refresh" content="0;url={escape(link)}">'
                f'<a href="{escape(link)}">the page</a>\n'
            )
        webbrowser.open(Path(path).as_uri())
        return Path(path)
    return None
