"""The process that `tests/starts/prepared.py` starts: it imports modules once and forks itself for each program.

It has one thread, and starts none: a program that is forked finds every lock free. A program leaves `serve` and ends
where this file ends, as the end of an interpreter is a part of what tests look at: `atexit`, pending saves, exit codes.
"""

from __future__ import annotations

import gc
import importlib
import importlib.util
import io
import json
import os
import signal
import socket
import struct
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

_MOST_FILES = 250  # the kernel takes no more in one message


def serve(channel: socket.socket) -> Mapping[str, Any] | None:
    """Start what is requested, one after the other. Return it in the process that is forked, None at the end."""
    while True:
        header, files, _, _ = socket.recv_fds(channel, 4, _MOST_FILES)
        if not header:
            return None
        request = json.loads(channel.recv(struct.unpack("<I", header)[0], socket.MSG_WAITALL))
        if (pid := _fork_into_a_child_of_our_parent()) == 0:
            channel.close()
            _take_over(files, request["files"])
            return dict(request)
        for file in files:
            os.close(file)
        channel.sendall(struct.pack("<I", pid))


def _fork_into_a_child_of_our_parent() -> int:
    """Return its pid, and 0 in the new process. Our parent is a "subreaper" until it has the pid."""
    told, tells = os.pipe()
    may_begin, begins = os.pipe()
    if (between := os.fork()) == 0:
        if (pid := os.fork()) == 0:
            os.read(may_begin, 1)
        else:
            os.write(tells, struct.pack("<I", pid))
            os._exit(0)
        between = 0
    pid = struct.unpack("<I", os.read(told, 4))[0] if between else 0
    if between:
        os.waitpid(between, 0)
        os.write(begins, b".")
    for file in (told, tells, may_begin, begins):
        os.close(file)
    return int(pid)


def _take_over(files: Sequence[int], numbers: Sequence[int]) -> None:
    """Give the files that were received the numbers that the program knows them by."""
    first_free = max([*files, *numbers]) + 1
    moved = []
    for number, file in enumerate(files):
        moved.append(os.dup2(file, first_free + number))
        os.close(file)
    for file, number in zip(moved, numbers, strict=True):
        os.dup2(file, number)
        os.close(file)


def become(request: Mapping[str, Any]) -> None:
    """Run the program of a request: what it raises is what the interpreter ends with."""
    if request["is_leader"]:
        os.setsid()
    if request["children_fork"] and (requested := _leave_a_server(request["files"])) is not None:
        return become(requested)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(request["directory"])
    os.environ.clear()
    os.environ.update(request["environment"])
    _open_standard_files()
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed()  # otherwise all programs draw the same
    main = ModuleType("__main__")
    vars(main)["__builtins__"] = sys.modules["builtins"]
    sys.modules["__main__"] = main
    sys.path[1:1] = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    exec(_code(list(request["arguments"]), main), vars(main))


def _leave_a_server(files: Sequence[int]) -> Mapping[str, Any] | None:
    """Have the program's children forked by a copy of this process; return the request in a child, here None.

    The copy keeps none of `files`: what waits for the end of the program's output must not wait for the copy's.
    """
    ours, theirs = socket.socketpair()
    if os.fork():
        theirs.close()
        let_children_fork(Forks(ours))
        return None
    ours.close()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    nothing = os.open(os.devnull, os.O_RDWR)
    for number in files:
        os.dup2(nothing, number)
    os.close(nothing)
    requested = serve(theirs)
    if requested is None:
        os._exit(0)
    return requested


def _code(arguments: list[str], main: ModuleType) -> Any:
    """Return the code of a program by an interpreter's arguments, after setting what the program finds in `sys`."""
    if arguments[0] == "-c":
        sys.argv, sys.path[0] = ["-c", *arguments[2:]], ""
        return compile(arguments[1], "<string>", "exec")
    if arguments[0] == "-m":
        sys.path[0] = os.getcwd()
        spec = importlib.util.find_spec(arguments[1])
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{arguments[1]}.__main__")
        assert spec is not None, f"no module named {arguments[1]}"
        main.__spec__, main.__package__, main.__file__ = spec, spec.parent, spec.origin
        sys.argv = [str(spec.origin), *arguments[2:]]
        return spec.loader.get_code(spec.name)  # type: ignore[union-attr]
    assert not arguments[0].startswith("-"), f"no option of the interpreter is served but -c and -m: {arguments}"
    main.__file__ = str(Path(arguments[0]).absolute())
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).resolve().parent)
    return compile(Path(arguments[0]).read_bytes(), arguments[0], "exec")


def _open_standard_files() -> None:
    """Open stdin, stdout and stderr anew, as an interpreter does at its start."""
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = sys.__stdin__ = io.TextIOWrapper(open(0, "rb", closefd=False), "utf-8", "strict")  # noqa: SIM115
    for number, name in ((1, "stdout"), (2, "stderr")):
        raw = open(number, "wb", 0, closefd=False)  # noqa: SIM115
        raw.name = f"<{name}>"  # type: ignore[misc]
        text = io.TextIOWrapper(
            raw if is_unbuffered else io.BufferedWriter(raw),  # type: ignore[type-var]
            "utf-8",
            "strict" if number == 1 else "backslashreplace",
            line_buffering=number == 2 or raw.isatty(),
            write_through=is_unbuffered,
        )
        text.mode = "w"  # type: ignore[misc]
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


# Python put the directory of this file first, and so it stands for each program's own; the tests stand behind it.
sys.path.insert(1, str(Path(__file__).resolve().parents[2]))
from tests.starts.forks import Forks, let_children_fork  # noqa: E402

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests; they end this process
    for module in sys.argv[2:]:
        importlib.import_module(module)
    del sys.path[1]
    gc.collect()
    gc.freeze()
    request = serve(socket.socket(fileno=int(sys.argv[1])))
    if request is not None:
        become(request)
