"""Python programs in processes of their own, without the seconds that their imports take.

`Popen` and `run` are those of `subprocess`, for ``[sys.executable, …]``. The process is forked from one that has
imported the modules already (`tests/starts/server.py`), and becomes a child of this process. It has a pid of its own,
can be killed and stopped, ends as any interpreter does, and starts with the given arguments, environment, directory and
files. With `children_fork`, so are the Python programs that it starts itself.

Not for tests of the start itself: how long it takes, what is imported, what the environment does to an import. And the
system shows such a process under the command line of the one that it was forked from.
"""

from __future__ import annotations

import atexit
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ckptd.cli.main import COMMANDS
from tests.starts import forks
from tests.starts.forks import ForkedPopen, Forks

CKPTD = ("ckptd.client.checkpointer", "ckptd.cli.main", *sorted(each.module for each in COMMANDS.values()))
TORCH = (*CKPTD, "ckptd.torch.dcp_writer", "ckptd.torch.saving", "torch.distributed.fsdp")
LIGHTNING = ("ckptd.torch.lightning", "lightning.pytorch.demos.boring_classes")
JAX = (*CKPTD, "ckptd.jax.manager", "flax.nnx", "jax.numpy", "optax", "sklearn.datasets")
TENSORFLOW = (*CKPTD, "ckptd.tensorflow.keras_callback", "ckptd.tensorflow.saver", "keras", "tensorflow")

_PROGRAM = Path(__file__).with_name("server.py")
_READ_BY_IMPORTS = ("PYTHON", "OMP_", "TF_", "JAX_", "XLA_", "KERAS_", "CUDA_", "GRPC_")
"""Beginnings of variables that change what an import does: each set of values has a server of its own."""
_READ_LATER = ("PYTHONPATH", "PYTHONUNBUFFERED")


class _Server:
    """One process that has imported `modules`."""

    def __init__(self, modules: Sequence[str], environment: dict[str, str]) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, str(_PROGRAM), str(theirs.fileno()), *modules],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        self.forks = Forks(ours)

    def end(self) -> None:
        self.forks.close()
        self._process.wait()


_servers: dict[tuple[object, ...], _Server] = {}
_pid = os.getpid()


def _end_servers() -> None:
    if os.getpid() == _pid:
        for server in _servers.values():
            server.end()


atexit.register(_end_servers)


def _server_for(modules: tuple[str, ...], environment: Mapping[str, str]) -> _Server:
    read = {
        name: value
        for name, value in environment.items()
        if name.startswith(_READ_BY_IMPORTS) and name not in _READ_LATER
    }
    key = (modules, *sorted(read.items()))
    if key not in _servers:
        _servers[key] = _Server(modules, {**os.environ, **read})
    return _servers[key]


def let_children_fork(imports: Sequence[str]) -> None:
    """Fork the Python programs that this process starts from now on, where `imports` are imported already."""
    quiet = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}  # at the import, not in the programs
    forks.let_children_fork(_server_for(tuple(imports), quiet).forks)


class Popen(ForkedPopen):
    """A `subprocess.Popen` of a Python program, forked where `imports` are imported already."""

    def __init__(
        self, args: Sequence[Any], *, imports: Sequence[str] = CKPTD, children_fork: bool = False, **options: Any
    ) -> None:
        self._imports = tuple(imports)
        self.children_fork = children_fork
        super().__init__(args, **options)

    def forks(self, command: Sequence[str], environment: Mapping[str, str]) -> Forks:
        """Return the server that has imported what is wanted; the first one waits until it has."""
        if command[1:3] == ["-m", "ckptd"]:
            environment = {"GRPC_VERBOSITY": "NONE", **environment}  # set by the command before it imports gRPC
        return _server_for(self._imports, environment).forks


def run(
    args: Sequence[Any],
    *,
    imports: Sequence[str] = CKPTD,
    children_fork: bool = False,
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
    with Popen(args, imports=imports, children_fork=children_fork, **options) as process:
        try:
            stdout, stderr = process.communicate(input, timeout=timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
    if check:
        done.check_returncode()
    return done
