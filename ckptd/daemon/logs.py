"""Log lines, for people or for machines. A caller adds fields as ``extra={"ckptd": {...}}``.

People get the message, which says everything in words; machines get one JSON object per line with the fields.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, TextIO

FORMATS = ("human", "json")


class HumanFormatter(logging.Formatter):
    """``2026-01-31 12:00:00 message``, with the level where it is not the ordinary one."""

    def format(self, record: logging.LogRecord) -> str:
        """Render one record."""
        moment = datetime.fromtimestamp(record.created).astimezone().strftime("%Y-%m-%d %H:%M:%S")
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        text = f"{moment} {level}{record.getMessage()}"
        return text if record.exc_info is None else f"{text}\n{self.formatException(record.exc_info)}"


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
            "message": record.getMessage(),
        }
        if record.exc_info is not None:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


def configure(log_format: str, level: str, stream: TextIO | None = None) -> None:
    """Send every log line of this process to `stream` (stderr), ours from `level` on, others' warnings."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else HumanFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("ckptd").setLevel(level.upper())
