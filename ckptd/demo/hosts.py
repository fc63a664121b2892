"""The daemons of the demo on many hosts: a coordinator, and an agent for each host, as processes of this machine."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from types import TracebackType

import grpc

from ckptd.demo.processes import child_environment, end, tail
from ckptd.errors import UnavailableError
from ckptd.wire import addresses, methods, status, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2

COORDINATOR = "coordinator"
_SERVE = (sys.executable, "-m", "ckptd", "serve")
_START_TIMEOUT_S = 60.0
_CALL_S = 10.0


class HostDaemons:
    """The processes, by name: "coordinator", and the names of hosts.

    They listen on sockets in a directory that only this user may enter, and keep checkpoints below `root`. Each can be
    killed, paused and started again. None outlives the context.
    """

    def __init__(
        self,
        root: str,
        logs: Path,
        *,
        lease_s: float,
        popen: Callable[..., subprocess.Popen[bytes]] = subprocess.Popen,
    ) -> None:
        """Start nothing yet. `lease_s`: how long an agent may be silent; `popen` starts processes."""
        self._root, self._logs, self._lease_s, self._popen = root, logs, lease_s, popen
        self._sockets = tempfile.TemporaryDirectory(prefix="ckptd-demo-")
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> HostDaemons:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._processes.values():
            if process.poll() is None:
                process.kill()
        for process in self._processes.values():
            process.wait()
        self._sockets.cleanup()

    def address(self, name: str) -> str:
        """Return where the agent of a host listens, or the coordinator."""
        return f"unix://{self._sockets.name}/{name}.sock"

    def pid(self, name: str) -> int:
        """Return the number of a process."""
        return self._processes[name].pid

    def start(self, *names: str) -> None:
        """Start processes, or start them again, and return when all serve.

        Raises:
            UnavailableError: with the end of its log, when one does not.
        """
        for name in names:
            self._ready_file(name).unlink(missing_ok=True)
            Path(f"{self._sockets.name}/{name}.sock").unlink(missing_ok=True)  # a killed one leaves it
            with self._log(name).open("ab") as log:
                self._processes[name] = self._popen(
                    [*_SERVE, *self._options(name)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=child_environment(),
                    start_new_session=True,
                )
        until = time.monotonic() + _START_TIMEOUT_S
        for name in names:
            while not self._ready_file(name).exists():
                if self._processes[name].poll() is not None or time.monotonic() > until:
                    log_file = self._log(name)
                    raise UnavailableError(f"{name} did not start; the end of {log_file}:\n{tail(log_file)}")
                time.sleep(0.02)

    def _options(self, name: str) -> Sequence[str]:
        common = ["--root", self._root, "--listen", self.address(name), "--ready-file", str(self._ready_file(name))]
        if name == COORDINATOR:
            return ["--role", "coordinator", "--agent-lease-s", f"{self._lease_s:g}", *common]
        return ["--role", "agent", "--name", name, "--coordinator", self.address(COORDINATOR), *common]

    def _log(self, name: str) -> Path:
        return self._logs / f"{name}.log"

    def _ready_file(self, name: str) -> Path:
        return self._logs / f"{name}.json"

    def pause(self, name: str) -> None:
        """Stop a process where it is: its host is silent from now on."""
        self._processes[name].send_signal(signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Undo `pause`."""
        self._processes[name].send_signal(signal.SIGCONT)

    def kill(self, name: str) -> None:
        """End a process by SIGKILL, and wait until it is gone."""
        self._processes[name].kill()
        self._processes[name].wait()

    def stop(self) -> dict[str, int]:
        """Tell the agents to finish and leave, then the coordinator; return the exit codes of those that ran."""
        running = [name for name, process in self._processes.items() if process.poll() is None]
        with ThreadPoolExecutor() as threads:
            agents = {name: threads.submit(end, self._processes[name]) for name in running if name != COORDINATOR}
            codes = {name: code.result() for name, code in agents.items()}
        return codes | {name: end(self._processes[name]) for name in running if name == COORDINATOR}

    def saves(self, run: str) -> Sequence[admin_pb2.LiveSave]:
        """Return the saves of a run that are under way, as the coordinator tells; none while it does not answer."""
        request = admin_pb2.StatusRequest(peer=versions.this_peer(versions.new_incarnation()))
        with closing(open_channel(addresses.parse(self.address(COORDINATOR)))) as channel, suppress(UnavailableError):
            try:
                reply = methods.Stub(channel, methods.ADMIN).Status(request, timeout=_CALL_S)
            except grpc.RpcError as error:
                raise status.from_wire(error) from error
            return [save for each in reply.runs if each.run == run for save in each.saves]
        return []


def undeclared(save: admin_pb2.LiveSave) -> set[int]:
    """Return the ranks that a save waits for to declare what they hold."""
    found = re.match(r"ranks? (.+?) of \d+ to declare", "; ".join(save.waiting_for))
    ranges = re.findall(r"(\d+)(?:-(\d+))?", found[1]) if found is not None else []
    return {rank for begin, end_ in ranges for rank in range(int(begin), int(end_ or begin) + 1)}
