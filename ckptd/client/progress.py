"""Bars of saves and restores in the training program, with tqdm's habits: on stderr, and gone when they are full.

One line a job: rank 0 draws, and names the rank that is furthest behind. Where stderr is no terminal and the program no
notebook, there is a line every half minute in place of a bar.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Protocol

from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.views import SaveProgress
from ckptd.errors import CkptdError, InvalidRequestError, readable_size
from ckptd.printable import printable

_LOOK_EVERY_S = 0.25
_DELAY_S = 0.5  # what takes less time has no bar
_LINE_EVERY_S = 30.0

Look = Callable[[SaveRef], SaveProgress | None]
"""Returns how far a save is; None where that is not known."""


class _Drawn(Protocol):
    """What is drawn of one save or restore."""

    def set(self, done_bytes: int, told: str) -> None:
        """Show that so much is done, and a remark."""

    def close(self) -> None:
        """Remove it."""


class Bars:
    """Draws for one `Checkpointer`. Any thread may use it."""

    def __init__(self, bar: Any) -> None:
        """Draw with tqdm's class for this program; see `bars`."""
        self._bar = bar
        is_notebook = any("notebook" in each.__module__ for each in bar.__mro__)
        self._draws = is_notebook or _is_terminal(sys.stderr)

    def draw(self, label: str, total_bytes: int) -> _Drawn:
        """Begin a bar, or lines."""
        return _Bar(self._bar, label, total_bytes) if self._draws else _Lines(label, total_bytes)

    @contextmanager
    def of_save(self, what: str, look: Look) -> Iterator[Callable[[SaveRef], None]]:
        """Draw a save while the block runs, in a thread of its own; what is yielded is told its identity."""
        watched = _WatchedSave(self, what, look)
        thread = threading.Thread(target=watched.run, name="ckptd-progress", daemon=True)
        with suppress(RuntimeError):  # no thread can be started: then nothing is drawn
            thread.start()
        try:
            yield watched.planned
        finally:
            watched.over.set()
            if thread.ident is not None:
                thread.join(_LOOK_EVERY_S)  # so that no bar stays behind a program that goes on at once

    def of_restore(self, what: str) -> RestoreBar:
        """Return what draws a restore."""
        return RestoreBar(self, what)


def bars(progress: bool, rank: int) -> Bars | None:
    """Return what draws, None where that is another rank's to do, or was not requested.

    Raises:
        InvalidRequestError: tqdm is not installed.
    """
    if not progress:
        return None
    try:
        from tqdm.auto import tqdm
    except ModuleNotFoundError as error:
        raise InvalidRequestError(
            "progress=True draws with tqdm, which is not installed: pip install 'ckptd[progress]'"
        ) from error
    return Bars(tqdm) if rank == 0 else None


class RestoreBar:
    """Called with the bytes done and the total of each read; see `ckptd.engine.reading.verify.Progress`."""

    def __init__(self, bars: Bars, what: str) -> None:
        """Draw nothing yet."""
        self._bars, self._what = bars, what
        self._lock = threading.Lock()
        self._drawn: _Drawn | None = None

    def __call__(self, done_bytes: int, total_bytes: int, /) -> None:
        """Draw that so much is done; at 0 a new read begins."""
        with self._lock, suppress(Exception):  # stderr may be closed, or another program's: the restore goes on
            if done_bytes >= total_bytes:
                self._end()
                return
            if not done_bytes:
                self._end()  # what was begun before has failed
            if self._drawn is None:
                self._drawn = self._bars.draw(self._what, total_bytes)
            self._drawn.set(done_bytes, "")

    def close(self) -> None:
        """Remove it. May be repeated."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        drawn, self._drawn = self._drawn, None
        if drawn is not None:
            with suppress(Exception):
                drawn.close()


class _WatchedSave:
    def __init__(self, bars: Bars, what: str, look: Look) -> None:
        self._bars, self._what, self._look = bars, what, look
        self._save: SaveRef | None = None
        self.over = threading.Event()

    def planned(self, save: SaveRef) -> None:
        self._save = save

    def run(self) -> None:
        with suppress(Exception):  # stderr may be closed, or another program's: the save goes on
            self._draw()

    def _draw(self) -> None:
        drawn: _Drawn | None = None
        try:
            while not self.over.wait(_LOOK_EVERY_S):
                save, far = self._save, None
                with suppress(CkptdError):  # the save itself tells
                    far = None if save is None else self._look(save)
                if far is None or not far.size_bytes or self.over.is_set():
                    continue
                if drawn is None:
                    drawn = self._bars.draw(self._what, far.size_bytes)
                drawn.set(far.received_bytes, _told(far))
        finally:
            if drawn is not None:
                drawn.close()


def _is_terminal(stream: Any) -> bool:
    """Say whether it is one; a program may have no stderr, or put something else in its place."""
    try:
        return bool(stream.isatty())
    except (AttributeError, ValueError):
        return False


def _told(far: SaveProgress) -> str:
    if far.furthest_behind is not None:
        return f"rank {far.furthest_behind} is furthest behind"
    return "" if far.received_bytes < far.size_bytes else "making it durable"


class _Bar:
    """A bar of tqdm's."""

    def __init__(self, bar: Any, label: str, total_bytes: int) -> None:
        self._bar = bar(
            total=total_bytes,
            desc=printable(label),
            unit="B",
            unit_scale=True,
            leave=False,
            delay=_DELAY_S,
            dynamic_ncols=True,
        )

    def set(self, done_bytes: int, told: str) -> None:
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update(done_bytes - self._bar.n)  # as often as tqdm thinks right

    def close(self) -> None:
        self._bar.close()


class _Lines:
    """A line every half minute."""

    def __init__(self, label: str, total_bytes: int) -> None:
        self._label, self._total_bytes = label, total_bytes
        self._told_at = time.monotonic()

    def set(self, done_bytes: int, told: str) -> None:
        if time.monotonic() - self._told_at < _LINE_EVERY_S:
            return
        self._told_at = time.monotonic()
        share, total = done_bytes / self._total_bytes, readable_size(self._total_bytes)
        remark = f"; {told}" if told else ""
        print(f"{printable(self._label)}: {share:.0%} of {total}{remark}", file=sys.stderr, flush=True)  # noqa: T201

    def close(self) -> None:
        pass
