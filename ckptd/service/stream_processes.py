"""Processes beside the daemon that take workers' streams, where one process is not enough for the cores there are.

Assignments name them to the ranks, as ports on the host where the daemon was reached; a rank that can't reach
one sends to the daemon itself, which takes every lane. A process passes its calls on as they are, so everything that
holds for a call holds here: which clients may make it, how much of it is held at once, how long it may stall.

Nothing is started before a rank is about to send. A process that dies is started again; the streams that it had go on
where they were, by another way.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import socket
import subprocess
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

from ckptd.errors import CkptdError, ConflictError, UnavailableError
from ckptd.service.connections import tell_log
from ckptd.service.proxied_call import ProxiedContext
from ckptd.wire import frames, proxied

_START_TIMEOUT_S = 30.0
_RESTART_S = 5.0
_END_TIMEOUT_S = 2.0
_MAX_THREADS = 256  # a stream needs one while it waits for its peer, in either direction

_log = logging.getLogger("ckptd.service")


@dataclass(frozen=True, slots=True)
class StreamOptions:
    """Which stream processes there may be.

    Attributes:
        count: of them.
        command: that starts one; the descriptor of its control socket comes last.
        port: of the first, the others have the next ones; 0 for any that are free.
    """

    count: int
    command: tuple[str, ...]
    port: int = 0


class StreamProcesses:
    """All of one daemon's. Its methods belong to the event loop."""

    def __init__(
        self,
        options: StreamOptions,
        setup: proxied.Setup,
        answer: Callable[[Any, Any], Awaitable[object]],
    ) -> None:
        """Start nothing yet.

        Args:
            options: how many there may be.
            setup: what every process gets; each has its own port.
            answer: to a Write call, given its requests and its context, as gRPC would call it.
        """
        self._options = options
        self._setup = setup
        self._answer = answer
        self._loop = asyncio.get_running_loop()
        self._calls: set[asyncio.Task[None]] = set()
        self._waiting = ThreadPoolExecutor(_MAX_THREADS, thread_name_prefix="ckptd-proxied")
        self._processes: list[_Process] = []

    def check_ports(self) -> None:
        """Raise `ConflictError` where a configured port is taken."""
        for number in range(self._options.count if self._options.port else 0):
            for host, _ in self._setup.hosts:
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                with socket.socket(family, socket.SOCK_STREAM) as probe:
                    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    try:
                        probe.bind((host, self._options.port + number))
                    except OSError as error:
                        raise ConflictError(
                            f"port {self._options.port + number} for streams can't be had on {host}: "
                            f"{error.strerror}; pass another --stream-port"
                        ) from error

    @property
    def ports(self) -> Sequence[int]:
        """Where they listen now."""
        return [process.port for process in self._processes if process.port]

    def port_for(self, rank: int) -> int:
        """Return where a rank may send to; 0 for the daemon itself. The first call starts them."""
        if not self._processes:
            for number in range(self._options.count):
                port = self._options.port + number if self._options.port else 0
                process = _Process(self._options.command, replace(self._setup, port=port), self._came)
                self._processes.append(process)
                process.start()
        ports = self.ports
        return ports[rank % len(ports)] if ports else 0

    def renew(self, certificate: str, key: str, client_ca: str) -> None:
        """Use other certificates from the next handshake on, all as PEM; those that are started later do, too."""
        self._setup = replace(self._setup, certificate=certificate, key=key, client_ca=client_ca)
        for process in self._processes:
            process.renew(self._setup)

    async def stop(self) -> None:
        """End them, and the calls that came by them."""
        for process in self._processes:
            process.stop()
        for call in tuple(self._calls):
            call.cancel()
        await asyncio.gather(*self._calls)
        self._waiting.shutdown(wait=False, cancel_futures=True)
        for process in self._processes:
            await asyncio.to_thread(process.join)

    def _came(self, opening: proxied.Opening, connection: socket.socket) -> None:
        """Begin a call. From the thread of any process."""
        try:
            self._loop.call_soon_threadsafe(self._begin, opening, connection)
        except RuntimeError:  # the loop is closed: the daemon has ended
            connection.close()

    def _begin(self, opening: proxied.Opening, connection: socket.socket) -> None:
        call = self._loop.create_task(self._handle(ProxiedContext(connection, opening, self._waiting)))
        self._calls.add(call)
        call.add_done_callback(self._calls.discard)

    async def _handle(self, context: ProxiedContext) -> None:
        with contextlib.suppress(asyncio.CancelledError), contextlib.closing(context):
            await self._answer(None, context)
            await context.finish()


class _Process:
    """One of them, watched by a thread, and started again when it dies."""

    def __init__(
        self,
        command: Sequence[str],
        setup: proxied.Setup,
        came: Callable[[proxied.Opening, socket.socket], None],
    ) -> None:
        self.port = 0  # while it listens
        self._command = command
        self._setup = setup
        self._came = came
        self._is_ending = threading.Event()
        self._guard = threading.Lock()
        self._control: socket.socket | None = None
        self._thread = threading.Thread(target=self._run, name="ckptd-streams", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def renew(self, setup: proxied.Setup) -> None:
        """Have it use the certificates of `setup`."""
        with self._guard:
            self._setup = replace(setup, port=self._setup.port)
            if self._control is not None:
                try:
                    frames.send_frame(self._control, proxied.to_json(self._setup))
                except OSError:  # it has died, or takes nothing: its successor gets these
                    with contextlib.suppress(OSError):
                        self._control.shutdown(socket.SHUT_RDWR)

    def stop(self) -> None:
        """Let it end; `join` waits for that."""
        self._is_ending.set()
        with self._guard:
            if self._control is not None:
                with contextlib.suppress(OSError):  # it died this moment
                    self._control.shutdown(socket.SHUT_RDWR)

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        said = ""
        while not self._is_ending.is_set():
            try:
                self._serve()
                why = "it died"
            except (OSError, ValueError, CkptdError) as error:
                why = str(error)
            if not self._is_ending.wait(_RESTART_S) and why != said:
                said = why
                _log.warning("a stream process is started again: %s; workers send to the daemon itself meanwhile", why)

    def _serve(self) -> None:
        """Start it, and take calls from it until it ends."""
        control, theirs = socket.socketpair()
        with control:
            with theirs:
                process = subprocess.Popen(  # noqa: S603 - our own interpreter and package
                    [*self._command, str(theirs.fileno())], stdin=subprocess.DEVNULL, pass_fds=(theirs.fileno(),)
                )
            try:
                with self._guard:
                    self._control = control
                if not self._is_ending.is_set():
                    self._take_calls(control)
            finally:
                self.port = 0
                with self._guard:
                    self._control = None
                control.close()
                _end(process)

    def _take_calls(self, control: socket.socket) -> None:
        with self._guard:
            frames.send_frame(control, proxied.to_json(self._setup))
        control.settimeout(_START_TIMEOUT_S)
        frame = frames.receive_frame(control)
        if frame is None:
            raise UnavailableError("it ended before it was ready")
        ready = proxied.Ready(**json.loads(frame[0]))
        if not ready.port:
            where = f"port {self._setup.port}" if self._setup.port else "any port"
            raise UnavailableError(f"the system does not let it listen on {where}")
        control.settimeout(None)
        self.port = ready.port
        _log.info("streams are taken at port %d as well", self.port)
        while (frame := frames.receive_frame(control)) is not None:
            opening, descriptors = frame
            if not descriptors:
                closed = proxied.Closed(**json.loads(opening))
                tell_log(closed.host, closed.said, closed.number)
                continue
            (descriptor,) = descriptors
            self._came(proxied.Opening(**json.loads(opening)), socket.socket(fileno=descriptor))


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(_END_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
