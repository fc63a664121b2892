"""The daemons that `ckptd run` starts on a node: how each is called, where it listens, when it serves."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ckptd.access import token_file
from ckptd.errors import CkptdError, UnavailableError
from ckptd.job.attached import BLOCKED
from ckptd.job.processes import spawn
from ckptd.job.secrets_of_job import JobSecrets
from ckptd.wire import addresses, methods, status, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.credentials import Credentials
from ckptd.wire.v1 import admin_pb2

ATTACHED = (sys.executable, "-m", "ckptd.job.attached", "serve")
_OTHER_NET = ("192.0.2.1", 9)  # of no one: nothing is sent there
_CALL_S = 5.0
_MOST_LOG_LINES = 15
_MOST_LOG_BYTES = 64 << 10


@dataclass
class JobDaemon:
    """One `ckptd serve`, and how it is started; it may be started again.

    Attributes:
        what: for messages: "coordinator", "agent", "daemon".
        options: of `ckptd serve`.
        ready_file: where it says that it serves.
        log: its standard output and error; None for ours.
        credentials: what a caller shows it.
        pid: of the process, 0 before the first start.
        has_served: whether this life of it has listened, as far as anyone has looked.
    """

    what: str
    options: Sequence[str]
    ready_file: Path
    log: Path | None
    credentials: Credentials = field(default_factory=Credentials)
    pid: int = 0
    has_served: bool = False
    _leash: int = -1
    _log_from: int = 0

    def start(self, environ: Mapping[str, str]) -> None:
        """Start it: it lives for as long as this process, or until `release`."""
        self.ready_file.unlink(missing_ok=True)
        self.release()
        self.has_served, self._log_from = False, _size_of(self.log)
        theirs, self._leash = os.pipe()
        output = None if self.log is None else os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        command = (*ATTACHED, "--ready-file", str(self.ready_file), *self.options)
        try:
            self.pid = spawn(command, environ, mask=BLOCKED, stdin=theirs, output=output, is_leader=True)
        finally:
            os.close(theirs)
            if output is not None:
                os.close(output)

    def release(self) -> None:
        """Have it end in good order, if it runs."""
        if self._leash >= 0:
            os.close(self._leash)
            self._leash = -1

    def address(self) -> str:
        """Return where it listens; "" before it does."""
        with suppress(OSError, ValueError):
            ready = json.loads(self.ready_file.read_text())
            if ready["pid"] == self.pid:
                self.has_served = True
                return str(ready["listening"][0])
        return ""

    def serves(self) -> bool:
        """Return whether it takes saves."""
        return bool(address := self.address()) and serves(address, self.credentials)

    def host(self) -> str:
        """Return the name of the host whose agent this is; "" if it is none.

        Raises:
            CkptdError: it does not answer.
        """
        return self._status().attending.host

    def why_not(self) -> str:
        """Return why this agent has no coordinator; "" if it does not say."""
        with suppress(CkptdError):
            return self._status().attending.why_not
        return ""

    def is_idle(self, but: str) -> bool:
        """Return whether no save is under way, and no host has ranks but this one, whose agent has ended.

        An agent that ended a moment ago may not have said so: then its ranks are there for as long as it may be silent.
        Half of that is enough here, as one that lives says something every fifth of it.

        Raises:
            CkptdError: it does not answer.
        """
        told = self._status()
        others = [host for host in told.hosts.hosts if host.host != but and host.silent_s < told.hosts.lease_s / 2]
        return not any(run.saves for run in told.runs) and not any(host.ranks for host in others)

    def _status(self) -> admin_pb2.StatusReply:
        if not (address := self.address()):
            raise UnavailableError(f"the {self.what} does not serve")
        request = admin_pb2.StatusRequest(peer=versions.this_peer(versions.new_incarnation()))
        with closing(_channel(address, self.credentials)) as channel:
            try:
                reply = methods.Stub(channel, methods.ADMIN).Status(request, timeout=_CALL_S)
            except grpc.RpcError as error:
                raise status.from_wire(error) from error
        assert isinstance(reply, admin_pb2.StatusReply)
        return reply

    def last_words(self) -> str:
        """Return the end of what this life of it has logged, on lines of their own."""
        if self.log is None:
            return ""
        with suppress(OSError), self.log.open("rb") as file:
            file.seek(max(self._log_from, _size_of(self.log) - _MOST_LOG_BYTES))
            lines = file.read(_MOST_LOG_BYTES).decode(errors="replace").splitlines()[-_MOST_LOG_LINES:]
            return "".join(f"\n  {line}" for line in lines)
        return ""


def _size_of(log: Path | None) -> int:
    try:
        return 0 if log is None else log.stat().st_size
    except OSError:
        return 0


def _channel(address: str, credentials: Credentials) -> grpc.Channel:
    return open_channel(addresses.parse(address), token=credentials.token, ca=credentials.ca)


def serves(address: str, credentials: Credentials) -> bool:
    """Return whether a daemon at this address takes saves."""
    with closing(_channel(address, credentials)) as channel:
        try:
            reply = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=_CALL_S)
        except grpc.RpcError:
            return False
    return bool(reply.status == health_pb2.HealthCheckResponse.SERVING)


def whole(root: str, own: Path, log: Path | None, grace_s: float) -> JobDaemon:
    """Return the one daemon of a job on one node."""
    options = ["--root", root, "--listen", f"unix://{own}/ckptd.sock", *_ending(grace_s), *_level(log)]
    return JobDaemon("daemon", options, own / "daemon.json", log)


def coordinator(
    root: str, own: Path, log: Path | None, grace_s: float, *, listen: str, job: JobSecrets, is_shared: bool
) -> JobDaemon:
    """Return the coordinator of a job; `listen` is where its agents reach it. `is_shared`: see `--shared-directory`."""
    options = ["--role", "coordinator", "--root", root, "--listen", listen, *_ending(grace_s), *_level(log)]
    options += ["--shared-directory"] if is_shared else []
    options += ["--tls-cert", job.certificate, "--tls-key", job.key, "--token-file", job.token]
    return JobDaemon("coordinator", options, own / "coordinator.json", log, job.credentials())


def agent(
    root: str, own: Path, log: Path | None, grace_s: float, *, name: str | None, towards: Sequence[str]
) -> JobDaemon:
    """Return the agent of this node; `towards` are the options for its coordinator."""
    options = ["--role", "agent", "--root", root, "--listen", f"unix://{own}/ckptd.sock", *_ending(grace_s)]
    options += [*_level(log), *towards, *([] if name is None else ["--name", name])]
    return JobDaemon("agent", options, own / "agent.json", log)


def for_peers(agent: JobDaemon, host: str, job: JobSecrets) -> JobDaemon:
    """Return the agent with a port at which those of other nodes reach it; all its callers show the job's token."""
    port = ["--listen", secure(host), "--tls-cert", job.certificate, "--tls-key", job.key, "--token-file", job.token]
    return replace(agent, options=[*agent.options, *port], credentials=Credentials(token=token_file.read(job.token)))


def secure(host: str, port: int = 0) -> str:
    """Return an address with TLS."""
    return f"grpcs://[{host}]:{port}" if ":" in host else f"grpcs://{host}:{port}"


def _ending(grace_s: float) -> list[str]:
    return ["--grace-s", f"{grace_s:g}"]


def _level(log: Path | None) -> list[str]:
    return ["--log-level", "warning"] if log is None else []  # what is not worth a line among the trainer's


def reached_at() -> str:
    """Return the address at which other hosts reach this one: of the interface that leads out; the loopback if none."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as out, suppress(OSError):
        out.connect(_OTHER_NET)
        return str(out.getsockname()[0])
    return "127.0.0.1"
