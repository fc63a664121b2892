"""Log lines, for people or for machines. A caller adds fields as ``extra={"ckptd": {...}}``.

People get the message, which says everything in words; machines get one JSON object per line with the fields.

Names, peers and reasons come from outside, and a record is one line whatever is in them: control characters are written
as escapes, and the lines of a traceback are indented, so that none can pass for a record of its own. What libraries log
is bounded: gRPC's has a traceback for each call with a header that is no text, before any identity is checked.
"""

from __future__ import annotations

import json
import logging
import sys
import textwrap
import time
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

from ckptd.printable import counted, printable
from ckptd.service.refusal_log import LineBudget

FORMATS = ("human", "json")

_MOST_CHARACTERS = 4000
_MOST_OF_A_TRACEBACK = 20_000
_BURST_OF_A_LIBRARY = 20


class HumanFormatter(logging.Formatter):
    """``2026-01-31 12:00:00 message``, with the level where it is not the ordinary one."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{moment} {level}{printable(record.getMessage(), limit=_MOST_CHARACTERS)}"
        if record.exc_info is None:
            return text
        traceback = printable(self.formatException(record.exc_info), lines=True, limit=_MOST_OF_A_TRACEBACK)
        return f"{text}\n{textwrap.indent(traceback, '  ')}"


class JsonFormatter(logging.Formatter):
    """One JSON object: time (UTC), level, logger, message, and the fields beside them."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        fields = getattr(record, "ckptd", None)
        line: dict[str, Any] = dict(fields) if isinstance(fields, Mapping) else {}
        line |= {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage()[:_MOST_CHARACTERS],
        }
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)[:_MOST_OF_A_TRACEBACK]
        return json.dumps(line, default=str)


class _LibrariesBounded(logging.Filter):
    """Lets all of our own records pass, and of each library twenty at once, and then one a second."""

    def __init__(self) -> None:
        super().__init__()
        self._buckets: dict[str, LineBudget] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Say whether the record is written. Threads may race: that costs a line, no more."""
        library = record.name.partition(".")[0]
        if library == "ckptd":
            return True
        now = time.monotonic()
        bucket = self._buckets.setdefault(library, LineBudget(_BURST_OF_A_LIBRARY, now))
        if not bucket.take(now, _BURST_OF_A_LIBRARY, 1.0):
            bucket.left_out += 1
            return False
        if bucket.left_out:
            left_out = counted(bucket.left_out, "more line")
            were = "was" if bucket.left_out == 1 else "were"
            record.msg = f"{record.getMessage()} ({left_out} of {library} {were} not logged)"
            record.args, bucket.left_out = None, 0
        return True


def configure(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (stderr), ours from `level` on, others' warnings."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    handler.addFilter(_LibrariesBounded())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ckptd").setLevel(level.upper())
