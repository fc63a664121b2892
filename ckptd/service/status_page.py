"""The runs that one `Status` answer describes: as many as a message holds; the next call goes on behind them.

A run that cannot be described, or whose description is too long, is reported as such, and hides no other.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ckptd.arena.lender import Usage
from ckptd.engine.saves.views import RankView, RunView, SaveView
from ckptd.wire import convert, lanes
from ckptd.wire.v1 import admin_pb2

_log = logging.getLogger("ckptd.service")

PAGE_BYTES = 2 << 20
"""Of the descriptions of all runs in one answer; a message may have twice that."""

MOST_RANKS = 1000
"""Of one save, that one answer describes."""

_RUN_BYTES = 1 << 20
_TEXT = 2000  # of one text for people
_MOST_TEXTS = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the runs, by name. `next_after` is where the next page begins, "" when there is none."""

    runs: Sequence[admin_pb2.RunStatus]
    next_after: str


def fill(views: Sequence[RunView], after: str, usage_of: Callable[[RunView], Usage], most_ranks: int = 0) -> Page:
    """Describe the runs behind `after` in the order of their names, as many as fit.

    Of each save under way so many ranks are described, those that are furthest behind.
    """
    runs: list[admin_pb2.RunStatus] = []
    left = PAGE_BYTES
    for view in views:
        if view.run <= after and after:
            continue
        run = _describe(view, usage_of(view), most_ranks)
        size = run.ByteSize()
        if runs and size > left:
            return Page(runs, runs[-1].run)
        runs.append(run)
        left -= size
    return Page(runs, "")


def _describe(view: RunView, usage: Usage, most_ranks: int) -> admin_pb2.RunStatus:
    try:
        run = _run_to_wire(view, usage, most_ranks)
    except (ValueError, TypeError, OverflowError) as error:  # a number that no message holds
        _log.exception("a bug in ckptd: %s cannot be described", view.run)
        return admin_pb2.RunStatus(run=view.run, problems=[f"it cannot be described: {type(error).__name__}"])
    if run.ByteSize() > _RUN_BYTES:
        del run.saves[_MOST_TEXTS:]
        for save in run.saves:
            del save.waiting_for[_MOST_TEXTS:]
            del save.needed_ranks[_MOST_TEXTS:]
            del save.ranks[_MOST_TEXTS:]
        run.problems.append("its description was too long, and is cut")
    return run


def _run_to_wire(view: RunView, usage: Usage, most_ranks: int) -> admin_pb2.RunStatus:
    return admin_pb2.RunStatus(
        run=view.run,
        epoch=view.epoch,
        world_size=view.world_size,
        connected_ranks=view.connected_ranks,
        saves=[_save_to_wire(save, most_ranks) for save in view.saves],
        latest=None if view.latest is None else convert.checkpoint_to_wire(view.latest, view.run),
        num_checkpoints=view.num_checkpoints,
        last_error=_cut(view.last_error),
        arena_ranks=sorted(usage.ranks),
        num_arenas=usage.num_arenas,
        arena_bytes=usage.size_bytes,
        quarantined=_cut(view.quarantined),
        problems=[_cut(problem) for problem in view.problems[:_MOST_TEXTS]],
        damaged=[
            admin_pb2.Damaged(
                name=record.prefix,
                save_id=record.save_id,
                reason=_cut(record.quarantine),
                since=record.quarantined_at or 0.0,
                by=record.quarantined_by,
            )
            for record in view.damaged[-_MOST_TEXTS:]
        ],
    )


def _save_to_wire(view: SaveView, most_ranks: int) -> admin_pb2.LiveSave:
    return admin_pb2.LiveSave(
        save=convert.save_to_wire(view.save),
        phase=view.phase.value,
        size_bytes=view.size_bytes,
        received_bytes=view.received_bytes,
        age_s=view.age_s,
        waiting_for=view.waiting_for,
        needed_ranks=view.needed_ranks,
        transports=sorted(lanes.TRANSPORTS[transport] for transport in view.transports),
        crossing_bytes=view.crossing_bytes,
        ranks=map(_rank_to_wire, heapq.nsmallest(min(most_ranks, MOST_RANKS), view.ranks, key=_how_far)),
        num_ranks=len(view.ranks),
    )


def _how_far(rank: RankView) -> tuple[bool, float, float, int]:
    share = rank.received_bytes / rank.size_bytes if rank.size_bytes else 1.0
    return rank.has_declared, share, -rank.idle_s, rank.rank


def _rank_to_wire(rank: RankView) -> admin_pb2.RankProgress:
    return admin_pb2.RankProgress(
        rank=rank.rank,
        declared=rank.has_declared,
        received_bytes=rank.received_bytes,
        size_bytes=rank.size_bytes,
        idle_s=rank.idle_s,
        host=_cut(rank.host),
        transport=None if rank.transport is None else lanes.TRANSPORTS[rank.transport],
    )


def _cut(text: str) -> str:
    return text[:_TEXT].encode("utf-8", "backslashreplace").decode("utf-8")
