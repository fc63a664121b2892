"""`subprocess.Popen` and multiprocessing's "spawn" of a Python program, carried out by a process that forks itself.

That process is `tests/starts/server.py`, or what a program keeps of it for children of its own (`let_children_fork`).
"""

from __future__ import annotations

import ctypes
import inspect
import json
import multiprocessing.util
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36
_STARTED = subprocess.Popen


class Forks:
    """The end of a socket at whose other end a process forks itself for each program."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._one_at_a_time = threading.Lock()

    def start(
        self,
        arguments: Sequence[str],
        files: Mapping[int, int],
        *,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
        is_leader: bool = False,
        children_fork: bool = False,
    ) -> int:
        """Have a program started and return its pid. It is a child of this process.

        Args:
            arguments: what an interpreter is given: ``-c`` and code, ``-m`` and a module, or a file, and what follows.
            files: descriptors of this process by the number that each has in the program.
            environment: default: this process's own. So with `directory`.
            is_leader: whether it leads a session of its own.
            children_fork: whether the Python programs that it starts are forked, too.
        """
        request = {
            "arguments": arguments,
            "environment": dict(os.environ if environment is None else environment),
            "directory": directory or os.getcwd(),
            "is_leader": is_leader,
            "children_fork": children_fork,
            "files": list(files),
        }
        message = json.dumps(request).encode()
        libc = ctypes.CDLL(None, use_errno=True)
        with self._one_at_a_time:
            # It forks twice, and the process between the two ends: the program comes to the nearest subreaper.
            libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
            try:
                socket.send_fds(self._channel, [struct.pack("<I", len(message))], list(files.values()))
                self._channel.sendall(message)
                answer = self._channel.recv(4, socket.MSG_WAITALL)
            finally:
                libc.prctl(_PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        assert len(answer) == 4, "the process that starts programs has ended"
        return int(struct.unpack("<I", answer)[0])

    def close(self) -> None:
        """Let the other end know that no more is to be started."""
        self._channel.close()


class ForkedPopen(subprocess.Popen[Any]):
    """A `subprocess.Popen` of a Python program that is forked."""

    children_fork = False

    def forks(self, command: Sequence[str], environment: Mapping[str, str]) -> Forks:
        """Return where the program is forked."""
        raise NotImplementedError

    def _execute_child(self, *arguments: Any) -> None:
        given = inspect.signature(_STARTED._execute_child).bind(self, *arguments).arguments  # type: ignore[attr-defined]
        command = _without_flags([os.fspath(each) for each in given["args"]])
        assert _is_served(command), command
        assert (given["shell"], given["preexec_fn"]) == (False, None), "a program that is forked takes neither"
        environment = dict(os.environ if given["env"] is None else given["env"])
        files = {0: given["p2cread"], 1: given["c2pwrite"], 2: given["errwrite"]}
        files = {number: number if file == -1 else file for number, file in files.items()}
        try:
            self.pid = self.forks(command, environment).start(
                command[1:],
                files | {number: number for number in given["pass_fds"]},
                environment=environment,
                directory=None if given["cwd"] is None else os.fspath(given["cwd"]),
                is_leader=bool(given["start_new_session"]),
                children_fork=self.children_fork,
            )
        finally:
            pipes = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
            self._close_pipe_fds(*(given[name] for name in pipes))  # type: ignore[attr-defined]
        self._child_created = True


def let_children_fork(forks: Forks) -> None:
    """Fork the Python programs that this process starts from now on, by subprocess or by multiprocessing's "spawn"."""

    class Popen(ForkedPopen):
        children_fork = False

        def forks(self, command: Sequence[str], environment: Mapping[str, str]) -> Forks:
            return forks

        def _execute_child(self, *arguments: Any) -> None:
            command = arguments[0]
            if isinstance(command, list | tuple) and _is_served(_without_flags([os.fspath(each) for each in command])):
                super()._execute_child(*arguments)
            else:
                _STARTED._execute_child(self, *arguments)  # type: ignore[attr-defined]

    def spawn(path: bytes, arguments: Sequence[str], passed: Sequence[int]) -> int:
        """Do what `multiprocessing.util.spawnv_passfds` does, after the interpreter's flags."""
        own = [os.fsdecode(each) for each in arguments]
        return forks.start(own[own.index("-c") :], {number: number for number in (0, 1, 2, *passed)})

    subprocess.Popen = Popen  # type: ignore[misc]
    multiprocessing.util.spawnv_passfds = spawn


def _is_served(command: Sequence[str]) -> bool:
    return command[0] == sys.executable and (command[1] in ("-c", "-m") or not command[1].startswith("-"))


def _without_flags(command: Sequence[str]) -> list[str]:
    """Return a command without "-u", which xdist gives to its processes: they write to descriptors themselves."""
    return [each for number, each in enumerate(command) if (number, each) != (1, "-u")]
