"""The pages of the documentation as programs: their blocks of code, and a place in which they run as they stand.

The blocks of a page run from top to bottom in one empty directory, as somebody would type them who reads it:

- ``python``: executed; all of a page share their names. With ``title="train.py"`` it becomes that file instead.
- ``sh``: given to bash, which stops at the first command that fails. A block that begins with ``ckptd serve`` is a
  daemon: it is started, and runs until the next one, or the page's end.
- ``console``: lines after ``$`` are commands, and what follows each is what it says. Compared after masking what
  differs from run to run; ``python -m tests.e2e.pages`` writes what they say now into the pages.
- ``text``, ``toml`` and ``json`` hold no program. Any other word behind the fence is refused.

``<!-- not run: WHY -->`` above a block leaves it out; the test holds the list of those. For `/checkpoints` and
`/tmp/checkpoints` a directory of the test stands in, and for port 7070 a free one. The daemon's
socket, which pages leave to the default, is in a directory of the test.
"""

from __future__ import annotations

import contextlib
import io
import os
import queue
import re
import signal
import subprocess
import sys
import tempfile
import textwrap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ckptd.demo.processes import child_environment, end

REPOSITORY = Path(__file__).resolve().parents[2]
PAGES = [REPOSITORY / "README.md", *sorted(REPOSITORY.glob("docs/**/*.md"))]
PROGRAMS = ("python", "sh", "console")
OTHERS = ("text", "toml", "json")

_FENCE = re.compile(
    r"(?P<left_out><!-- not run: (?P<why>[^>]*?) -->\n+)?"
    r"^(?P<indent> *)```(?P<language>[^\s`]*)(?: title=\"(?P<title>[^\"]+)\")?[^\n`]*\n(?P<code>.*?)^(?P=indent)```$",
    re.M | re.S,
)
_ROOT = re.compile(r"(?<![\w./~])(?:/tmp)?/checkpoints(?![\w-])")
_COMMAND_TIMEOUT_S = 120.0
_START_TIMEOUT_S = 60.0
_VOLATILE = [
    (re.compile(r"^(bulk data goes to the disk) .*", re.MULTILINE), r"\1 MODE"),
    (re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d"), "MOMENT"),
    (re.compile(r"\b\d+(\.\d+)? (µs|ms|s|min \d+ s)\b( ago)?|\bnow\b"), "SPAN"),
    (re.compile(r"\d+(\.\d+)? [kMGTP]?B free"), "ROOM free"),
    (re.compile(r"\bpid \d+( on [\w.-]+)?"), "pid PID"),
    (re.compile(r"\b(127\.0\.0\.1|localhost):\d+"), "ADDRESS"),
    (re.compile(r"unix:///\S*ckptd\.sock"), "SOCKET"),
    (re.compile(r" {2,}"), "  "),  # columns are as wide as what is in them
]


@dataclass(frozen=True)
class Block:
    """One fenced block: the page, the line of its fence, what is in it, and why it is not run, if it is not."""

    page: Path
    line: int
    language: str
    title: str | None
    code: str
    left_out: str | None
    span: tuple[int, int]

    @property
    def where(self) -> str:
        """The block as an error names it."""
        return f"{self.page.relative_to(REPOSITORY)}:{self.line}"

    @property
    def key(self) -> tuple[str, str]:
        """The page and the first line of the code, less its comment: so the list of those left out knows it."""
        first = self.code.strip().split("\n")[0]
        return self.page.relative_to(REPOSITORY).as_posix(), first.partition("  #")[0].rstrip()


def blocks(page: Path) -> list[Block]:
    """Return the blocks of a page, from top to bottom."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(
            page,
            text.count("\n", 0, match.start("indent")) + 1,
            match["language"],
            match["title"],
            textwrap.dedent(match["code"]),  # within a tab, or an item of a list
            match["why"],
            match.span("code"),
        )
        for match in _FENCE.finditer(text)
    ]


def masked(said: str) -> list[str]:
    """Return what was said, line by line, without what differs from one run to the next."""
    for pattern, stand_in in _VOLATILE:
        said = pattern.sub(stand_in, said)
    return [line.rstrip() for line in said.strip().split("\n")]


class Reader:
    """Somebody who types a page's blocks one after the other. A context manager: what was started is ended."""

    def __init__(self, page: Path, directory: Path) -> None:
        self.directory = directory
        self._root_as_written = "/tmp/checkpoints" if "/tmp/checkpoints" in page.read_text("utf-8") else "/checkpoints"
        self.names: dict[str, object] = {"__name__": "page"}
        self._daemon: subprocess.Popen[bytes] | None = None
        self._address = "127.0.0.1:7070"
        self._runtime = tempfile.TemporaryDirectory(prefix="ckptd-")  # short: the path of a socket has little room
        programs = directory / "bin"
        programs.mkdir()
        for name, line in {"ckptd": f'"{sys.executable}" -m ckptd', "python": f'"{sys.executable}"'}.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            (programs / name).chmod(0o755)
        self.environment = {
            name: value for name, value in child_environment().items() if not name.startswith("CKPTD_")
        } | {
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "XDG_RUNTIME_DIR": self._runtime.name,
            "COLUMNS": "120",
            "LC_ALL": "C.UTF-8",
        }

    def __enter__(self) -> Reader:
        self._runtime_before = os.environ.get("XDG_RUNTIME_DIR")
        os.environ["XDG_RUNTIME_DIR"] = self._runtime.name  # for the blocks of Python, which run in this process
        return self

    def __exit__(self, *_: object) -> None:
        if self._runtime_before is None:
            del os.environ["XDG_RUNTIME_DIR"]
        else:
            os.environ["XDG_RUNTIME_DIR"] = self._runtime_before
        self._stop_daemon()
        self._runtime.cleanup()

    def run(self, block: Block) -> str | None:
        """Do what a block says; return what a ``console`` block's text should be, None for the others.

        Raises `AssertionError` when a command fails.
        """
        code = self.adapted(block.code)
        if block.title is not None:
            (self.directory / block.title).write_text(code, encoding="utf-8")
        elif block.language == "python":
            with _working_in(self.directory):
                exec(compile("\n" * block.line + code, str(block.page), "exec"), self.names)
        elif block.language == "console":
            return "".join(self._transcript(block.code))
        elif code.startswith("ckptd serve") and "--print-config" not in code:
            self._start_daemon(code)
        else:
            done = self._bash(f"set -e\n{code}")
            assert done.returncode == 0, f"{block.where}: exit code {done.returncode}\n{done.stdout}"
        return None

    def adapted(self, code: str) -> str:
        """Return code of a page with this reader's own directory and port."""
        code = code.replace("0.0.0.0:7070", "127.0.0.1:0")  # the tests stay on this host
        return _ROOT.sub(str(self.directory / "checkpoints"), code).replace("127.0.0.1:7070", self._address)

    def _as_written(self, said: str) -> str:
        """Return what a command said as the page tells it: with the page's own directories and port."""
        said = said.replace(str(self.directory / "checkpoints"), self._root_as_written)
        return said.replace(self._address, "127.0.0.1:7070").replace(self._runtime.name, "/run/user/1000")

    def _transcript(self, code: str) -> Iterator[str]:
        for command in re.findall(r"^\$ ((?:.*\\\n)*.*\n)", code, re.M):
            yield f"$ {command}"
            yield self._as_written(self._bash(self.adapted(command)).stdout)

    def _bash(self, script: str) -> subprocess.CompletedProcess[str]:
        with subprocess.Popen(
            ["bash", "-c", script],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                said, _ = process.communicate(timeout=_COMMAND_TIMEOUT_S)
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)  # what it left in the background too
                raise
        return subprocess.CompletedProcess(script, process.returncode, said)

    def _start_daemon(self, code: str) -> None:
        self._stop_daemon()
        self._daemon = subprocess.Popen(
            ["bash", "-c", f"exec {code}"],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        said: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._listener = threading.Thread(target=_listen, args=(self._daemon, said))
        self._listener.start()
        lines: list[str] = []
        while not lines or "listening on" not in lines[-1]:
            lines.append(said.get(timeout=_START_TIMEOUT_S))
            assert lines[-1], "the daemon ended:\n" + "".join(lines)
        if address := re.search(r"127\.0\.0\.1:\d+", lines[-1]):
            self._address = address[0]

    def _stop_daemon(self) -> None:
        if self._daemon is not None:
            code = end(self._daemon)
            self._listener.join(_COMMAND_TIMEOUT_S)
            self._daemon = None
            assert code == 0, f"the daemon ended with exit code {code}"


def _listen(daemon: subprocess.Popen[bytes], said: queue.SimpleQueue[str]) -> None:
    """Pass on what a daemon says, so that it never waits for a reader; nothing at its end."""
    assert daemon.stdout is not None
    for line in daemon.stdout:
        said.put(line.decode())
    said.put("")


@contextlib.contextmanager
def _working_in(directory: Path) -> Iterator[None]:
    """Do what `contextlib.chdir` does, which came with Python 3.11."""
    before = Path.cwd()
    os.chdir(directory)
    try:
        yield
    finally:
        os.chdir(before)


def refresh(page: Path, prepare: Callable[[Path, Reader], None]) -> bool:
    """Run a page and write what its ``console`` blocks say now into it; return whether anything changed."""
    text = page.read_text(encoding="utf-8")
    with tempfile.TemporaryDirectory() as directory, Reader(page, Path(directory)) as reader:
        prepare(page, reader)
        fresh = []
        for block in blocks(page):
            if block.language not in PROGRAMS or block.left_out:
                continue
            with contextlib.redirect_stdout(io.StringIO()):
                said = reader.run(block)
            if said is not None and masked(said) != masked(block.code):
                fresh.append((block.span, said))
    for (begin, finish), said in reversed(fresh):
        text = text[:begin] + said + text[finish:]
    if fresh:
        page.write_text(text, encoding="utf-8")
    return bool(fresh)


if __name__ == "__main__":
    from tests.e2e.test_docs_blocks import prepare

    for page in PAGES:
        if any(block.language == "console" for block in blocks(page)) and refresh(page, prepare):
            print(f"{page.name}: transcripts written")
