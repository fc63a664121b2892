"""What is required of ckptd: ratios of medians of one run, so that the machine's speed does not matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Figures = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Required:
    """`measure` of `subject`, at most `limit` times `of_measure` of `of`; without `of`: at most `limit` seconds."""

    what: str
    subject: str
    measure: str
    limit: float
    of: str | None
    of_measure: str = ""
    is_aim: bool = False


LARGE = (
    Required("stall, of copying the same bytes at the same time", "ckptd", "stall_s", 1.2, "copy", "stall_s"),
    Required(
        "stall, of one process copying all of them with 2 threads", "ckptd", "stall_s", 1.2, "copy", "two_threads_s"
    ),
    Required("stall of what was made in place, seconds", "ckptd staging", "stall_s", 0.05, None),
    Required("durable, of writing with O_DIRECT", "ckptd", "durable_s", 1.1, "raw", "durable_s"),
    Required("durable, of TensorFlow", "ckptd", "durable_s", 0.55, "tensorflow", "durable_s"),
    Required("first save, of the next ones", "ckptd", "first_durable_s", 1.5, "ckptd", "durable_s"),
    Required("cold restore, of reading with O_DIRECT into fresh memory", "ckptd", "cold_s", 1.2, "raw", "cold_s"),
    Required("cold restore, of the same into arrays that exist", "ckptd", "cold_into_s", 1.2, "raw", "cold_into_s"),
    Required("warm restore into arrays, of copying the same bytes", "ckptd", "warm_into_s", 1.3, "copy", "stall_s"),
)
SMALL = (
    Required("durable, of TensorFlow", "ckptd", "durable_s", 1.0, "tensorflow", "durable_s"),
    Required("cold restore, of TensorFlow", "ckptd", "cold_s", 1.0, "tensorflow", "cold_s"),
    Required("durable, of safetensors", "ckptd", "durable_s", 1.0, "safetensors", "durable_s", is_aim=True),
    Required("cold restore, of safetensors", "ckptd", "cold_s", 1.0, "safetensors", "cold_s", is_aim=True),
)
FRAMEWORKS = tuple(
    Required(f"stall of {ours}, of {theirs}", ours, "stall_s", 1.0, theirs, "stall_s")
    for ours, theirs in (
        ("ckptd.torch dcp", "dcp async"),
        ("ckptd.torch", "dcp async"),
        ("ckptd.jax", "orbax async"),
        ("ckptd.tensorflow", "tensorflow async"),
    )
)


def verdicts(figures: Figures, required: Sequence[Required]) -> list[dict[str, Any]]:
    """Return one line for each requirement; `reached` is None where a contender that it names did not take part.

    A ratio that is only an aim has `reached` None as well, and says in `aimed` how it went.
    """
    return [_verdict(one, figures) for one in required]


def _verdict(required: Required, figures: Figures) -> dict[str, Any]:
    ours = _median(figures, required.subject, required.measure)
    theirs = 1.0 if required.of is None else _median(figures, required.of, required.of_measure)
    known = ours is not None and theirs is not None and theirs > 0
    ratio = ours / theirs if known and ours is not None and theirs is not None else None
    reached = None if ratio is None else ratio <= required.limit
    return {
        "what": required.what,
        "ratio": ratio,
        "limit": required.limit,
        "reached": None if required.is_aim else reached,
        "aimed": reached if required.is_aim else None,
    }


def _median(figures: Figures, subject: str, measure: str) -> float | None:
    found = figures.get(subject, {}).get("medians", {}).get(measure)
    return None if found is None else float(found)
