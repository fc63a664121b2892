"""Python programs in processes of their own, without the seconds that their imports take.

`Popen` and `run` are those of `subprocess`, for ``[sys.executable, …]``. The process is forked from one that has
imported the modules already (`tests/starts/server.py`), and becomes a child of this process. It has a pid of its own,
can be killed and stopped, ends as any interpreter does, and starts with the given arguments, environment, directory and
files.

Not for tests of the start itself: how long it takes, what is imported, what the environment does to an import.
"""

from __future__ import annotations

import atexit
import ctypes
import inspect
import json
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ckptd.cli.main import COMMANDS

CKPTD = ("ckptd.client.checkpointer", "ckptd.cli.main", *sorted(each.module for each in COMMANDS.values()))
TORCH = (*CKPTD, "ckptd.torch.dcp_writer", "ckptd.torch.saving", "torch.distributed.fsdp", "sklearn.datasets")
JAX = (*CKPTD, "ckptd.jax.manager", "flax.nnx", "jax.numpy", "optax", "sklearn.datasets")
TENSORFLOW = (*CKPTD, "ckptd.tensorflow.keras_callback", "ckptd.tensorflow.saver", "keras", "tensorflow")

_PROGRAM = Path(__file__).with_name("server.py")
_PR_SET_CHILD_SUBREAPER = 36
_READ_BY_IMPORTS = ("PYTHON", "OMP_", "TF_", "JAX_", "XLA_", "KERAS_", "CUDA_", "GRPC_")
"""Beginnings of variables that change what an import does: each set of values has a server of its own."""
_READ_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED")


class _Server:
    """One process that has imported `modules` and forks itself for each program."""

    def __init__(self, modules: Sequence[str], environment: dict[str, str]) -> None:
        self._socket, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), str(theirs.fileno()), *modules],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=environment,
            )

    def fork(self, request: dict[str, Any], files: Sequence[int]) -> int:
        """Have a program started; return its pid. It is a child of this process."""
        message = json.dumps(request).encode()
        libc = ctypes.CDLL(None, use_errno=True)
        # The server forks twice, and the process between the two ends: the program comes to the nearest subreaper.
        assert libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
        try:
            socket.send_fds(self._socket, [struct.pack("<I", len(message))], files)
            self._socket.sendall(message)
            answer = self._socket.recv(4, socket.MSG_WAITALL)
        finally:
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert len(answer) == 4, "the process that starts programs has ended"
        return int(struct.unpack("<I", answer)[0])

    def end(self) -> None:
        self._socket.close()
        self._process.wait()


_servers: dict[tuple[object, ...], _Server] = {}
_one_at_a_time = threading.Lock()
_pid = os.getpid()


def _end_servers() -> None:
    if os.getpid() == _pid:
        for server in _servers.values():
            server.end()


atexit.register(_end_servers)


def _server_for(modules: tuple[str, ...], environment: dict[str, str]) -> _Server:
    read = {
        name: value
        for name, value in environment.items()
        if name.startswith(_READ_BY_IMPORTS) and name not in _READ_LATER
    }
    key = (modules, *sorted(read.items()))
    if key not in _servers:
        _servers[key] = _Server(modules, {**os.environ, **read})
    return _servers[key]


class Popen(subprocess.Popen[Any]):
    """A `subprocess.Popen` of a Python program, forked where `imports` are imported already."""

    def __init__(self, args: Sequence[object], *, imports: Sequence[str] = CKPTD, **options: Any) -> None:
        self._imports = tuple(imports)
        super().__init__([str(each) for each in args], **options)

    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(subprocess.Popen._execute_child).bind(self, *arguments).arguments  # type: ignore[attr-defined]
        command = given["args"]
        assert command[0] == sys.executable, command
        assert (given["shell"], given["preexec_fn"]) == (False, None), "a program that is forked takes neither"
        environment = dict(os.environ if given["env"] is None else given["env"])
        files = {0: given["p2cread"], 1: given["c2pwrite"], 2: given["errwrite"]}
        files = {number: number if file == -1 else file for number, file in files.items()}
        files |= {number: number for number in given["pass_fds"]}
        request = {
            "arguments": command[1:],
            "environment": environment,
            "directory": os.fspath(given["cwd"] or Path.cwd()),
            "is_leader": bool(given.get("start_new_session") or given.get("unused_start_new_session")),
            "files": list(files),
        }
        try:
            with _one_at_a_time:
                self.pid = _server_for(self._imports, environment).fork(request, list(files.values()))
        finally:
            self._close_pipe_fds(
                *(given[name] for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite"))
            )  # type: ignore[attr-defined]
        self._child_created = True


def run(
    args: Sequence[object],
    *,
    imports: Sequence[str] = CKPTD,
    capture_output: bool = False,
    timeout: float | None = None,
    check: bool = False,
    input: str | bytes | None = None,
    **options: Any,
) -> subprocess.CompletedProcess[Any]:
    """Do what `subprocess.run` does."""
    if capture_output:
        options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if input is not None:
        options["stdin"] = subprocess.PIPE
    with Popen(args, imports=imports, **options) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done
