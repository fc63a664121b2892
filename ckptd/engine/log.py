"""The lines that saves leave in the log: text for people, and fields for machines under ``record.ckptd``."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Member, SaveRef
from ckptd.engine.replicas import Difference, told
from ckptd.engine.wording import describe_bytes, describe_seconds
from ckptd.errors import CkptdError
from ckptd.printable import counted

logger = logging.getLogger("ckptd.engine")

_MOST_AWAITED = 8  # ranks in one line

_MOST_REMEMBERED = 1000
_warned: dict[str, None] = {}


def warn_once(text: str) -> None:
    """Write a warning, unless this process has just written the same: repeated checks find the same problem."""
    if text not in _warned:
        _warned[text] = None
        while len(_warned) > _MOST_REMEMBERED:
            _warned.pop(next(iter(_warned)), None)
        logger.warning("%s", text)


def log_saved(
    save: SaveRef, checkpoint: Checkpoint, slowest_rank: int, slowest_rank_s: float | None, published_s: float
) -> None:
    """Say that a save is done, how fast it was, and which rank's last byte came last.

    `slowest_rank_s` and `published_s` are counted from the first declaration. What lies between them is the commit: the
    shards' last syncs, the index, the state file.
    """
    seconds = checkpoint.duration_s
    rate = checkpoint.size_bytes / seconds / 1e9 if seconds > 0 else 0.0
    took = describe_seconds(slowest_rank_s) if slowest_rank_s is not None else "it had nothing to send"
    text = (
        f"saved {checkpoint.prefix}: {describe_bytes(checkpoint.size_bytes)} in {describe_seconds(seconds)} "
        f"({rate:.2f} GB/s), {counted(checkpoint.num_shards, 'shard')}, slowest rank {slowest_rank} ({took})"
    )
    fields = {
        "event": "saved",
        "run": save.run,
        "step": save.step,
        "prefix": checkpoint.prefix,
        "save_id": save.save_id,
        "bytes": checkpoint.size_bytes,
        "seconds": round(seconds, 6),
        "gb_per_s": round(rate, 3),
        "shards": checkpoint.num_shards,
        "slowest_rank": slowest_rank,
        "slowest_rank_s": None if slowest_rank_s is None else round(slowest_rank_s, 6),
        "commit_s": round(published_s - (slowest_rank_s or 0.0), 6),
    }
    logger.info("%s", text, extra={"ckptd": fields})


def log_waiting(save: SaveRef, age_s: float, waiting_for: Sequence[str]) -> None:
    """Say what a save waits for, and since when it is under way."""
    fields = {
        "event": "waiting",
        "run": save.run,
        "step": save.step,
        "save_id": save.save_id,
        "age_s": round(age_s, 1),
        "waiting_for": list(waiting_for[:_MOST_AWAITED]),
    }
    more = f"; and {len(waiting_for) - _MOST_AWAITED} more" if len(waiting_for) > _MOST_AWAITED else ""
    text = "; ".join(waiting_for[:_MOST_AWAITED]) + more
    logger.warning("%s waits, %s after it began: %s", save, describe_seconds(age_s), text, extra={"ckptd": fields})


def log_differences(save: SaveRef, differences: Sequence[Difference]) -> None:
    """Say that ranks have other values under one name."""
    fields = {"event": "ranks_differ", "run": save.run, "step": save.step, "names": [one.name for one in differences]}
    logger.warning("%s: ranks have other values under one name: %s", save, told(differences), extra={"ckptd": fields})


def log_crossing(save: SaveRef, crossing_bytes: int, size_bytes: int) -> None:
    """Say how much of a save goes from one host to another."""
    share = crossing_bytes / size_bytes
    fields = {
        "event": "bytes_cross_hosts",
        "run": save.run,
        "step": save.step,
        "crossing_bytes": crossing_bytes,
        "size_bytes": size_bytes,
    }
    logger.info(
        "%s: %.0f %% of its bytes cross hosts, because TensorFlow cannot join slices of float16, float8, uint16, "
        "uint32, uint64 and strings: such a tensor is written whole by one host",
        save,
        100 * share,
        extra={"ckptd": fields},
    )


def log_failed(save: SaveRef, error: CkptdError) -> None:
    """Say that a save failed, and why."""
    fields = {
        "event": "save_failed",
        "run": save.run,
        "step": save.step,
        "save_id": save.save_id,
        "error": type(error).__name__,
        "reason": str(error),
    }
    text = str(error) if str(save) in str(error) else f"{save} was not saved: {error}"
    logger.error("%s", text, extra={"ckptd": fields})


def log_quarantined(prefix: str, save: SaveRef, reason: str, by: str, latest: Checkpoint | None) -> None:
    """Say that a checkpoint is damaged and out of the list, and which one is the latest now."""
    now = "nothing is listed now" if latest is None else f"the latest is {latest.prefix}"
    fields = {
        "event": "quarantined",
        "run": save.run,
        "step": save.step,
        "prefix": prefix,
        "save_id": save.save_id,
        "reason": reason,
        "by": by,
        "latest": None if latest is None else latest.prefix,
    }
    text = f"{prefix} is damaged and in quarantine, its files stay: {reason}; {now}. `ckptd repair` looks again"
    logger.error("%s", text, extra={"ckptd": fields})


def log_evicted(run: str, members: Sequence[Member], saves: Sequence[SaveRef], by: str) -> None:
    """Say which processes an operator has evicted from a run, and which saves ended with that."""
    fields = {
        "event": "evicted",
        "run": run,
        "ranks": [member.rank for member in members],
        "processes": [f"pid {member.pid} on {member.host}" for member in members],
        "steps": [save.step for save in saves],
        "by": by,
    }
    ended = f"; ended: {', '.join(map(str, saves))}" if saves else ""
    more = f" and {len(members) - _MOST_AWAITED} more" if len(members) > _MOST_AWAITED else ""
    evicted = ", ".join(map(str, members[:_MOST_AWAITED])) + more
    logger.warning("%s evicted %s from %s%s", by, evicted, run, ended, extra={"ckptd": fields})
