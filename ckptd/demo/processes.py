"""The processes of the demo: one daemon, and crews of workers; started, listened to, killed, and always cleaned up."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO

import grpc

from ckptd.access.token_file import made
from ckptd.client.paths.environment import TOKEN_VARIABLE
from ckptd.demo.worker import WorkerOrders
from ckptd.errors import UnavailableError
from ckptd.wire import addresses, methods, status, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2

_SERVE = (sys.executable, "-m", "ckptd", "serve")
_LISTEN = ("--listen", "127.0.0.1:0")
_START_TIMEOUT_S = 120.0
_STOP_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True)
class Event:
    """One line that a worker wrote: what happened, to which rank, when, and the facts."""

    rank: int
    kind: str
    at: float
    facts: Mapping[str, object]

    def number(self, name: str) -> float:
        """Return a fact that is a number."""
        value = self.facts[name]
        assert isinstance(value, int | float)
        return value

    def text(self, name: str) -> str:
        """Return a fact as text."""
        return str(self.facts[name])


class Daemon:
    """A `ckptd serve` process on a directory or a store's URL, listening on a free port of the loopback interface.

    `options` are further ones of the command line that begins with `serve`. `popen` starts the process. With a
    `token_file`, which is made, callers need the token in it; without one every process of this host is served.

    Attributes:
        token: what callers show, None if they need none.
    """

    def __init__(
        self,
        root: Path | str,
        log: Path,
        ready_file: Path,
        options: Sequence[str] = (),
        *,
        token_file: Path | None = None,
        serve: Sequence[str] = _SERVE,
        popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        self.log = log
        self._ready_file = ready_file
        self._out = log.open("wb")
        self.token: str | None = None
        identity = ["--insecure-loopback"]
        if token_file is not None:
            self.token = secrets.token_urlsafe()
            identity = ["--token-file", str(token_file)]
            with made(str(token_file), replaces=True) as write:
                write(self.token)
        self._process = popen(
            [*serve, "--root", str(root), *_LISTEN, *identity, "--ready-file", str(ready_file), *options],
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            env=child_environment(),
            start_new_session=True,
        )
        self.listening: list[str] = []
        self._channel: grpc.Channel | None = None

    @property
    def pid(self) -> int:
        """The daemon's process number."""
        return self._process.pid

    def wait_until_ready(self) -> None:
        """Return when it listens; `UnavailableError` with the end of its log when it does not."""
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._ready_file.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise UnavailableError(f"the daemon did not start; the end of {self.log}:\n{tail(self.log)}")
            time.sleep(0.02)
        self.listening = list(json.loads(self._ready_file.read_text())["listening"])
        self._channel = open_channel(addresses.parse(self.address), token=self.token)

    @property
    def address(self) -> str:
        """The first TCP address that it listens on."""
        return "grpc://{}:{}".format(*self.port())

    def port(self) -> tuple[str, int]:
        """Return host and port of the first TCP address that it listens on."""
        for address in self.listening:
            host, _, port = address.removeprefix("grpc://").rpartition(":")
            if port.isdigit():
                return host, int(port)
        raise UnavailableError(f"the daemon listens on no port: {self.listening}")

    def page(self) -> str:
        """Return a link to its page; it works once, within a minute. Only with `--http`, or on this host."""
        assert self._channel is not None
        request = admin_pb2.OpenPageRequest(peer=versions.this_peer(versions.new_incarnation()))
        reply = methods.Stub(self._channel, methods.ADMIN).OpenPage(request, timeout=_START_TIMEOUT_S)
        return str(reply.http + reply.path)

    def status(self) -> admin_pb2.StatusReply:
        """Return what the daemon is doing."""
        assert self._channel is not None
        request = admin_pb2.StatusRequest(peer=versions.this_peer(versions.new_incarnation()))
        try:
            reply = methods.Stub(self._channel, methods.ADMIN).Status(request, timeout=_START_TIMEOUT_S)
        except grpc.RpcError as e:
            raise status.from_wire(e) from e
        assert isinstance(reply, admin_pb2.StatusReply)
        return reply

    def exit_code(self) -> int | None:
        """Return the exit code, None while it runs."""
        return self._process.poll()

    def stop(self) -> int:
        """Tell it to finish and leave, and return its exit code; kill it if it does not."""
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        code = end(self._process)
        self._out.close()
        return code


@dataclass
class Crew:
    """The workers of one generation, and what they have said so far.

    `assignments` come in rank order; sockets between each two workers are made here and inherited by them, so that
    the kernel reports a death to all others. The daemon's `token` is in their environment, closed to other users.
    `popen` starts a process.
    """

    log_directory: Path
    token: str | None = None
    popen: Callable[..., subprocess.Popen[str]] = subprocess.Popen
    events: queue.Queue[Event] = field(default_factory=queue.Queue)
    received: list[Event] = field(default_factory=list)
    _processes: list[subprocess.Popen[str]] = field(default_factory=list)
    _logs: list[IO[bytes]] = field(default_factory=list)
    _readers: list[threading.Thread] = field(default_factory=list)

    def start(self, world_size: int, assignment: Callable[[int, Mapping[str, int]], WorkerOrders]) -> None:
        """Start `world_size` workers; `assignment(rank, peers)` says what each is told."""
        ends: list[dict[int, socket.socket]] = [{} for _ in range(world_size)]
        for low in range(world_size):
            for high in range(low + 1, world_size):
                ends[low][high], ends[high][low] = socket.socketpair()
        try:
            for rank in range(world_size):
                descriptors = {str(peer): end.fileno() for peer, end in ends[rank].items()}
                self._start_one(rank, assignment(rank, descriptors), tuple(descriptors.values()))
        finally:
            for own in ends:
                for end_ in own.values():
                    end_.close()  # only the workers hold them now

    def _start_one(self, rank: int, assignment: WorkerOrders, descriptors: Sequence[int]) -> None:
        log = (self.log_directory / f"worker-{rank}-of-{assignment.world_size}.log").open("wb")
        process = self.popen(
            [sys.executable, "-m", "ckptd.demo.worker", assignment.to_json()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            pass_fds=descriptors,
            env=child_environment() | ({} if self.token is None else {TOKEN_VARIABLE: self.token}),
            start_new_session=True,
        )
        reader = threading.Thread(target=self._listen, args=(rank, process), daemon=True)
        reader.start()
        self._processes.append(process)
        self._logs.append(log)
        self._readers.append(reader)

    def _listen(self, rank: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            try:
                facts = json.loads(line)
                self.events.put(Event(rank, str(facts.pop("event")), float(facts.pop("at")), facts))
            except (ValueError, KeyError, AttributeError, TypeError):
                continue  # cut off in the middle by a SIGKILL, or a library's chatter
        self.events.put(Event(rank, "ended", time.time(), {}))

    def until(
        self, enough: Callable[[Event], bool], timeout_s: float, on_event: Callable[[Event], None] | None = None
    ) -> None:
        """Listen until `enough(event)` is true for one event; `UnavailableError` after `timeout_s`, or when all ended.

        Every event goes to `on_event` first, and into `received`.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                event = self.events.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise UnavailableError(f"the workers were silent for {timeout_s:.0f} s\n{self.complaints()}") from None
            self.received.append(event)
            if on_event is not None:
                on_event(event)
            if enough(event):
                return
            if self._all_ended() and self.events.empty():
                raise UnavailableError(f"the workers ended too early\n{self.complaints()}")

    def _all_ended(self) -> bool:
        return sum(event.kind == "ended" for event in self.received) == len(self._processes)

    def of_kind(self, kind: str, step: int | None = None) -> list[Event]:
        """Return the events of one kind (and of one step), in the order in which they came."""
        return [e for e in self.received if e.kind == kind and (step is None or e.facts.get("step") == step)]

    def pid(self, rank: int) -> int:
        """Return a worker's process number."""
        return self._processes[rank].pid

    def go_on(self, rank: int) -> None:
        """Write the line on stdin that a worker waits for."""
        stdin = self._processes[rank].stdin
        assert stdin is not None
        stdin.write("go on\n")
        stdin.flush()

    def kill(self, rank: int) -> None:
        """End a worker by SIGKILL and wait until it is gone."""
        self._processes[rank].send_signal(signal.SIGKILL)
        self._processes[rank].wait(_STOP_TIMEOUT_S)

    def join(self, timeout_s: float) -> list[int]:
        """Wait until all have ended and said their last; return the exit codes in rank order."""
        deadline = time.monotonic() + timeout_s
        for process, reader in zip(self._processes, self._readers, strict=True):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
            reader.join(max(0.1, deadline - time.monotonic()))
        while not self.events.empty():
            self.received.append(self.events.get())
        return [process.poll() if process.poll() is not None else -1 for process in self._processes]  # type: ignore[misc]

    def complaints(self) -> str:
        """Return the end of every log that is not empty."""
        logs = sorted(self.log_directory.glob("*.log"))
        return "\n".join(f"{log}:\n{tail(log)}" for log in logs if log.stat().st_size)

    def __enter__(self) -> Crew:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes:
            if process.poll() is None:
                process.kill()
        for process in self._processes:
            process.wait(_STOP_TIMEOUT_S)
        for reader in self._readers:
            reader.join(_STOP_TIMEOUT_S)
        for process in self._processes:
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    with contextlib.suppress(OSError):
                        pipe.close()
        for log in self._logs:
            log.close()


def end(process: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM, then SIGKILL if it does not end; return the exit code."""
    if process.poll() is None:
        process.terminate()
        try:
            return process.wait(_STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait(_STOP_TIMEOUT_S)


def child_environment() -> dict[str, str]:
    """Return the environment for our processes: one thread of mathematics each, as there are many of them.

    Proxies are for the outside world; left in place they would swallow connections to this host.
    """
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    checkout = Path(__file__).resolve().parents[2]
    if (checkout / "pyproject.toml").exists():  # not installed, perhaps: found whatever directory we are run from
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, (str(checkout), os.environ.get("PYTHONPATH"))))
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    return {**kept, **dict.fromkeys(threads, "1"), "PYTHONUNBUFFERED": "1"}


def tail(log: Path, num_lines: int = 15) -> str:
    """Return the last lines of a log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-num_lines:])
