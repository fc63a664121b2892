"""`TensorBoardWriter`: stall, durable seconds, bytes and failed saves as plots of TensorBoard."""

from __future__ import annotations

import itertools
import os
import socket
import threading
import time
from pathlib import Path
from typing import BinaryIO

from ckptd.errors import InvalidRequestError
from ckptd.events import event_file
from ckptd.events.event import Event

_numbers = itertools.count()


class TensorBoardWriter:
    """Writes the numbers of each event into an event file, by step. Pass one as `on_event`. Any thread may use it.

    ::

        ckptd.Checkpointer(…, on_event=ckptd.events.TensorBoardWriter("logs/ckptd"))

    Only rank 0 writes. Give it a directory of its own below TensorBoard's: of several event files in one directory
    TensorBoard reads the newest. The environment's ``CKPTD_TENSORBOARD`` names a directory to do the same without
    a change of code.

    Of the plots, ``ckptd/stall_seconds`` is how long training waited, ``ckptd/stall_copying_seconds`` and so on are its
    parts, and ``ckptd/failed`` is 1 at each step whose save has failed. An event without a step is written at step 0.
    """

    def __init__(self, logdir: str | os.PathLike[str]) -> None:
        """Write into this directory, which is created at the first event.

        Raises:
            InvalidRequestError: it is empty, or a URL.
        """
        text = os.fspath(logdir)
        if not text or "://" in text:
            raise InvalidRequestError("logdir is a directory of this host", actual=repr(text))
        self.logdir = Path(text)
        self._lock = threading.Lock()
        self._file: BinaryIO | None = None
        self._pid = 0

    def __call__(self, event: Event) -> None:
        """Write the event's numbers, so that TensorBoard sees them at once.

        Raises:
            OSError: the file can't be written.
        """
        values = event.metrics()
        if event.rank != 0 or not values:
            return
        data = event_file.scalars(event.at, event.step or 0, values)
        with self._lock:
            event_file.append(self._opened(), data)

    def close(self) -> None:
        """Close the file; the next event begins another one."""
        with self._lock:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _opened(self) -> BinaryIO:
        if self._file is None or self._pid != os.getpid():  # a forked child has a file of its own
            now, self._pid = time.time(), os.getpid()
            self.logdir.mkdir(parents=True, exist_ok=True)
            name = f"events.out.tfevents.{int(now):010d}.{socket.gethostname()}.{self._pid}.{next(_numbers)}.ckptd"
            self._file = (self.logdir / name).open("xb")
            event_file.append(self._file, event_file.first_record(now))
        return self._file
