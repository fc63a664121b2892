"""Joins the rooms: store, engine, server, clock, in each role. Starts them in order, and ends them in the reverse one.

At SIGTERM or SIGINT nothing new begins; what is under way may finish within the grace time, and is aborted cleanly
after it. The exit code says which: 0 when everything was published, 5 when something was aborted. A second signal
ends the process on the spot, which is what every crash does, and what the next start recovers from.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ckptd.daemon import descriptors, identity_files, identity_records, logs, memory, roles
from ckptd.daemon.allocator import keep_freed_memory
from ckptd.daemon.audit_log import AuditLog
from ckptd.daemon.config import Config
from ckptd.daemon.hangups import Hangups
from ckptd.daemon.late_pages import LatePages
from ckptd.daemon.roles import Role
from ckptd.engine.journal import JournalEntry, Journals, Reserve
from ckptd.engine.priority import Priority
from ckptd.engine.saves.history import History
from ckptd.errors import CkptdError, ConflictError, InvalidRequestError, NotPermittedError, SessionAbortedError
from ckptd.service.exposure import check_exposure, check_http_exposure, exposure_warnings
from ckptd.service.flow import Limits
from ckptd.service.gate import Access
from ckptd.service.meter import NO_METER
from ckptd.service.server import ArenaOptions, Server, ServerOptions
from ckptd.service.stream_processes import StreamOptions
from ckptd.wire import addresses, places, versions
from ckptd.wire.channels import ConnectionLife
from ckptd.wire.server_tls import Tls

if TYPE_CHECKING:
    from ckptd.daemon.web import Observing, Web

TICK_S = 0.2
LEAVE_S = 15.0
"""At the end, how long after the grace time the store may take to remove what aborted saves have written."""
_LOOK_AT_OWNERSHIP_S = 0.5
_TAKEN_OVER = "all runs in use were taken over by another owner"

GC_THRESHOLDS = (50_000, 20, 50)
"""How much garbage in cycles may wait for its collector.

The objects of a thousand streams make a full collection take tens of milliseconds. With Python's own thresholds there
is one every few saves, while the watchers wait.
"""

_PORTS = 1 << 16

STREAM_PROCESS = (sys.executable, "-m", "ckptd.daemon.stream_process")
"""The command of a process that takes streams beside the daemon, less its descriptor."""

_log = logging.getLogger("ckptd.daemon")


def serve(config: Config, environ: Mapping[str, str]) -> int:
    """Run the daemon until a signal ends it; return the exit code. Belongs to the main thread of its process."""
    if not config.root:
        raise InvalidRequestError("the daemon needs a directory or URL for checkpoints: pass --root URL")
    logs.configure(config.log_format, config.log_level)
    gc.set_threshold(*GC_THRESHOLDS)
    keep_freed_memory()
    allowed = descriptors.raise_limit()
    # A hangup has the files of identities read again. Until that is possible it must not end us.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    seen = identity_files.signature(config)
    options = server_options(config, environ)
    exposed = exposure_warnings(options, check_exposure(options), check_http_exposure(options))
    observing = _observing(config)  # what is missing for it ends the start before anything is opened
    for warning in exposed:
        _log.warning("%s", warning)
    options.priority.check()
    identity_files.warn_of_readable_secrets(config)
    for complaint in options.problems:
        _log.warning("%s", complaint)
    if caveat := options.priority.caveat():
        _log.warning("%s", caveat)
    audit = AuditLog(config.audit_log, required=config.audit_required)
    history = None if config.role == roles.AGENT else History()  # of many hosts the coordinator keeps it
    journal = _journal(audit, observing, history)
    role = roles.of(config, options, journal, environ, None if observing is None else observing.measuring.store_meter)
    with _starting(audit, config, options) as is_up:
        role.open()
        with Ticker(role), _kept(history, role):
            return asyncio.run(
                _serve(role, options, config, audit, journal, observing, history, is_up, seen, allowed, exposed)
            )


@contextlib.contextmanager
def _kept(history: History | None, role: Role) -> Iterator[None]:
    """Keep the history of saves in the store while the block runs."""
    if history is None:
        yield
        return
    history.begin(role.engine.store)
    try:
        yield
    finally:
        history.close()


def _journal(audit: AuditLog, observing: Observing | None, history: History | None) -> Journals:
    others = [] if history is None else [history]
    return Journals(audit, *others) if observing is None else observing.journal(audit, *others)


@contextlib.contextmanager
def _starting(audit: AuditLog, config: Config, options: ServerOptions) -> Iterator[Callable[[Sequence[str]], None]]:
    """Record the start, and that it failed if the block ends before what it yields was called with the addresses."""
    known = identity_records.described(options.access, options.tls)
    told = {"version": versions.VERSION, "pid": os.getpid(), "root": config.root, **known}
    entry = JournalEntry("start", reserve=Reserve.HALF, details=told)
    audit.begins(entry)
    has_ended = False

    def is_up(listening: Sequence[str]) -> None:
        nonlocal has_ended
        has_ended = True
        audit.ended(entry.ended(details={"listening": list(listening)}))

    try:
        yield is_up
    except BaseException as error:
        if not has_ended:
            audit.ended(entry.ended("failed", {"error": type(error).__name__, "reason": str(error)}))
        raise


def server_options(config: Config, environ: Mapping[str, str]) -> ServerOptions:
    """Return how the server listens, with certificates and token read from their files."""
    listen = tuple(addresses.parse(text) for text in config.listen)
    if config.role == "coordinator" and not listen:
        raise InvalidRequestError(
            "agents on other hosts have to reach a coordinator: pass --listen, such as grpcs://0.0.0.0:7070"
        )
    if not listen or (config.role == "agent" and not any(each.is_unix for each in listen)):
        listen = (*listen, *places.default_addresses(environ))  # the ranks of an agent's host are there
    if config.stream_port and config.stream_port + config.stream_processes > _PORTS:
        raise InvalidRequestError(
            "there are not enough ports from --stream-port on", expected=f"below {_PORTS}", actual=config.stream_port
        )
    tls, access = identity_files.read_tls(config), identity_files.read_access(config)
    return ServerOptions(
        listen=listen,
        tls=tls,
        access=access,
        problems=identity_files.complaints(config, access, tls),
        socket_mode=identity_files.socket_mode(config),
        control_threads=config.control_threads,
        data_threads=config.data_threads,
        priority=Priority(config.writer_nice, config.writer_io_class),
        limits=Limits(
            write_streams=config.max_write_streams,
            write_streams_per_peer=max(1, config.max_write_streams * 3 // 4),
            manifest_bytes=config.max_manifest_bytes,
            stall_s=config.stall_timeout_s,
        ),
        connection_life=ConnectionLife(config.connection_idle_s, config.connection_age_s),
        arena=_arena_options(config, environ),
        streams=StreamOptions(config.stream_processes, STREAM_PROCESS, config.stream_port),
        http=None if config.http is None else addresses.parse_http(config.http),
    )


def _arena_options(config: Config, environ: Mapping[str, str]) -> ArenaOptions | None:
    if config.role == "coordinator":
        return None  # agents lend memory to the ranks of their hosts
    return ArenaOptions(
        memory.usable_bytes() // 2 if config.arena_bytes is None else config.arena_bytes,
        places.runtime_directory(environ),
        None if config.arena_socket is None else Path(config.arena_socket),
    )


async def _serve(
    role: Role,
    options: ServerOptions,
    config: Config,
    audit: AuditLog,
    journal: Journals,
    observing: Observing | None,
    history: History | None,
    is_up: Callable[[Sequence[str]], None],
    seen: identity_files.Signature,
    open_files: int,
    exposed: Sequence[str],
) -> int:
    _forget(config)  # one that a killed daemon left must not be taken for ours
    endings: asyncio.Queue[str] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    # From here on a signal ends us in order, also one that comes before we are ready.
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, endings.put_nowait, number.name)
    meter = NO_METER if observing is None else observing.measuring.service_meter
    server = Server(role.engine, options, journal, role.hosts, history, meter)
    pages = LatePages(config, options, server, role, journal)

    def use_identities(access: Access, tls: Tls | None, problems: Sequence[str]) -> None:
        server.use_identities(access, tls, problems)
        if pages.web is not None:
            pages.web.renew(tls)

    files = identity_files.IdentityFiles(config, seen, options.access, use_identities, audit)
    hangups = Hangups(audit.reopen, files.look_now)
    loop.add_signal_handler(signal.SIGHUP, hangups.came)
    try:
        web = pages.web = None if observing is None else _web(config, options, server, observing)
        listening = await server.start()
        for warning in server.warnings:
            if warning not in exposed:  # it names the port that was chosen
                _log.warning("%s", warning)
        role.listens(listening)
        if web is not None:
            web.start(role.engine, role.hosts)
        else:
            server.note_http(pages.begin)
        await loop.run_in_executor(None, role.begin)
        _announce(listening, role, config, "" if web is None else web.url)
        is_up([*listening, *([] if web is None else [web.url])])
        descriptors.tell(open_files)
    except BaseException:
        if pages.web is not None:
            await pages.web.stop()
        await server.stop()
        await loop.run_in_executor(None, role.close)
        raise
    watching = [
        asyncio.create_task(_watch_ownership(role, server, endings, config)),
        asyncio.create_task(_watch_place(role, endings)),
        asyncio.create_task(files.run()),
        asyncio.create_task(hangups.run()),
    ]
    reason = await endings.get()
    for task in watching:
        task.cancel()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, functools.partial(_end_now, config))
    _log.info("%s: waiting at most %g s for saves in progress", reason, config.grace_s)
    leaving = _leave_after(config.grace_s + LEAVE_S, config, SessionAbortedError.exit_code)
    stopping = JournalEntry("stop", reserve=Reserve.HALF, details={"reason": reason})
    with contextlib.suppress(CkptdError):  # it ends all the same
        await loop.run_in_executor(None, audit.begins, stopping)
    await server.drain()
    finished = await loop.run_in_executor(None, role.close, config.grace_s)
    leaving.cancel()
    code = 0 if finished else SessionAbortedError.exit_code
    if reason in (_TAKEN_OVER, role.successor):
        code = ConflictError.exit_code
        server.leave_word(role.successor or "")
    _leave_after(LEAVE_S, config, code)  # a call that nothing waits for any more may still be at the store
    if pages.web is not None:
        await pages.web.stop()
    await server.stop()
    _forget(config)
    saves = "nothing was lost" if finished else "saves in progress were aborted"
    audit.ended(stopping.ended(details={"saves": saves}))
    audit.close()
    _log.info("stopped; %s", saves)
    return code


async def _watch_ownership(role: Role, server: Server, endings: asyncio.Queue[str], config: Config) -> None:
    """Let health tell which runs another owner has taken over; end when these are all, if that is wanted."""
    while (taken := role.taken_over()) is not None:
        runs, is_all = taken
        await server.tell_taken_over(runs, is_all)
        if is_all and config.when_taken_over == "end":
            endings.put_nowait(_TAKEN_OVER)
            return
        await asyncio.sleep(_LOOK_AT_OWNERSHIP_S)


async def _watch_place(role: Role, endings: asyncio.Queue[str]) -> None:
    """End when another coordinator, or another agent of this name, has taken our place."""
    while (successor := role.successor) is not None:
        if successor:
            endings.put_nowait(successor)
            return
        await asyncio.sleep(_LOOK_AT_OWNERSHIP_S)


def _end_now(config: Config) -> None:
    _log.warning("second signal: ending at once")
    _end_as_a_crash_does(config)


def _leave_after(seconds: float, config: Config, exit_code: int) -> threading.Timer:
    """End the process then, if it is still there: a store that hangs keeps its threads, and so the interpreter."""

    def leave() -> None:
        _log.warning("the store does not answer; ending without it: the next start removes what is left")
        _end_as_a_crash_does(config, exit_code)

    timer = threading.Timer(seconds, leave)
    timer.daemon = True
    timer.start()
    return timer


def _end_as_a_crash_does(config: Config, exit_code: int = SessionAbortedError.exit_code) -> None:
    _forget(config)
    logging.shutdown()
    os._exit(exit_code)


def _observing(config: Config) -> Observing | None:
    """Begin to observe, if that is to be shown: only then is the code for HTTP loaded."""
    if config.http is None:
        return None
    from ckptd.daemon.web import Observing

    return Observing(config)


def _web(config: Config, options: ServerOptions, server: Server, observing: Observing) -> Web:
    """Take the port for HTTP."""
    from ckptd.daemon.web import Web

    return Web(config, options, server, observing)


def _announce(listening: Sequence[str], role: Role, config: Config, http: str) -> None:
    root = role.engine.store.url
    also = {"http": http} if http else {}
    _log.info(
        "ckptd %s%s listening on %s%s; checkpoints in %s",
        versions.VERSION,
        "" if config.role == "whole" else f", {config.role},",
        ", ".join(listening),
        f"; HTTP at {http}" if http else "",
        root,
        extra={"ckptd": {"event": "listening", "listening": list(listening), **also, "root": root}},
    )
    if config.ready_file is not None:
        ready = {"listening": list(listening), **also, "pid": os.getpid(), "root": root}
        place = Path(config.ready_file)
        if place.exists() and not place.is_file():
            raise InvalidRequestError("the ready file would replace what is no file", key=config.ready_file)
        unfinished = Path(f"{config.ready_file}.{os.getpid()}")
        try:
            unfinished.write_text(json.dumps(ready) + "\n")
            unfinished.replace(place)
        except OSError as e:
            raise NotPermittedError(f"the ready file cannot be written: {e.strerror}", key=config.ready_file) from e


def _forget(config: Config) -> None:
    if config.ready_file is not None:
        with contextlib.suppress(OSError):  # whatever is wrong with its place was said when it was written
            if Path(config.ready_file).is_file():
                Path(config.ready_file).unlink()


class Ticking(Protocol):
    """What has deadlines."""

    def tick(self) -> None:
        """Apply them."""


class Ticker:
    """Tells an engine that time passes, from a thread of its own, for as long as the context lasts."""

    def __init__(self, engine: Ticking, *, every_s: float = TICK_S) -> None:
        self._engine = engine
        self._every_s = every_s
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="ckptd-ticker", daemon=True)

    def __enter__(self) -> Ticker:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        told = ""
        while not self._end.wait(self._every_s):
            try:
                self._engine.tick()
                told = ""
            except Exception as e:
                # Without deadlines every later save could hang: whatever it is, the next tick is tried. Five times a
                # second the same traceback would hide everything else in the log.
                if told != repr(e):
                    told = repr(e)
                    _log.exception("deadlines could not be applied")
