"""How pages write sizes, times and names. Names come from clients: what is not plainly visible is an escape."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from urllib.parse import quote, urlencode

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.wording import describe_span
from ckptd.errors import readable_size
from ckptd.printable import counted, printable, printable_json

_MOST_CHARACTERS = 300

size = readable_size


def name(text: object, limit: int = _MOST_CHARACTERS) -> str:
    """Return text of others as it may be shown, cut where it is very long."""
    return printable(str(text), limit=limit)


def duration(seconds: float | None) -> str:
    """Format a span with the two figures that matter: ``3.2 ms``, ``4.1 s``, ``2 min 5 s``, ``3 h 10 min``."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 0.9995:
        return f"{seconds * 1e3:.0f} ms"
    return describe_span(seconds)


def rate(bytes_per_s: float | None) -> str:
    """Format a rate: ``1.9 GB/s``."""
    return "–" if bytes_per_s is None else f"{readable_size(round(bytes_per_s))}/s"


def moment(at: float) -> str:
    """Format wall-clock seconds since the epoch as local date and time."""
    try:
        return datetime.fromtimestamp(at).astimezone().strftime("%Y-%m-%d %H:%M:%S")
    except (OverflowError, ValueError, OSError):
        return "–"


def iso(at: float) -> str:
    """Format a moment for machines, as `<time>` has it."""
    try:
        return datetime.fromtimestamp(at).astimezone().isoformat(timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return ""


def percent(part: float, whole: float) -> str:
    """Format a share: ``62 %``."""
    return "–" if whole <= 0 else f"{max(0.0, min(1.0, part / whole)):.0%}".replace("%", " %")


def last_part(prefix: str) -> str:
    """Return the name of a checkpoint: ``model.ckpt-1200``."""
    return prefix.rsplit("/", 1)[-1]


def command(*words: object) -> str:
    """Return a command as it is typed into a shell."""
    return " ".join(shlex.quote(printable(str(word))) for word in words)


def run_url(run: str) -> str:
    """Return the address of a run's page."""
    return f"/runs/{_quoted(run)}"


def checkpoint_url(run: str, checkpoint: Checkpoint) -> str:
    """Return the address of a checkpoint's page: ``/runs/mnist/checkpoints/model.ckpt-1200``."""
    return named_url(run, last_part(checkpoint.prefix))


def named_url(run: str, label: str) -> str:
    """Return the same from the checkpoint's name."""
    return f"{run_url(run)}/checkpoints/{_quoted(label)}"


def query(said: Mapping[str, str]) -> str:
    """Return what follows the path in an address; without the empty ones."""
    return "?" + urlencode({name: value for name, value in said.items() if value}, errors="surrogateescape")


def figure(value: float | int | None) -> str:
    """Format a number with six figures; integers are exact."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.6g}"


def shape(dimensions: Sequence[int]) -> str:
    """Format a shape: ``1000 × 64``, or ``scalar``."""
    return " × ".join(map(str, dimensions)) if dimensions else "scalar"


def bytestring(value: bytes) -> str:
    """Return bytes as text, with escapes for what is no text."""
    return printable(value.decode("utf-8", "backslashreplace"), limit=_MOST_CHARACTERS)


def document(value: object) -> str:
    """Return a value as JSON: of dataclasses, enums, bytes and what is made of them; what it cannot hold is null."""
    return printable_json(json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False))


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, str):
        return value.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(each) for key, each in value.items()}
    assert isinstance(value, Iterable)
    return [_plain(each) for each in value]


def as_json(value: object) -> str:
    """Return JSON that may stand in an attribute; what it cannot hold (NaN) is null."""
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


FILTERS = {
    "name": name,
    "size": size,
    "duration": duration,
    "rate": rate,
    "moment": moment,
    "iso": iso,
    "figure": figure,
    "shape": shape,
    "bytestring": bytestring,
    "last_part": last_part,
}
GLOBALS = {
    "percent": percent,
    "counted": counted,
    "command": command,
    "run_url": run_url,
    "checkpoint_url": checkpoint_url,
    "named_url": named_url,
    "as_json": as_json,
}


def _quoted(text: str) -> str:
    return quote(text.encode("utf-8", "surrogateescape"), safe="/")
