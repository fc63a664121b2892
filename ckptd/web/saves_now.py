"""The saves under way as a page shows them: each rank's part, the slowest first where there are many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ckptd.engine.hosts.views import HostsView
from ckptd.engine.saves.session import Phase
from ckptd.engine.saves.views import RankView, RunView, SaveView
from ckptd.engine.wording import describe_ranks
from ckptd.printable import counted
from ckptd.web import wording

MOST_BARS = 32
"""Ranks that have a bar each; more are a grid of cells."""

MOST_SAVES = 4
_A_LINE = 64  # cells
_CELL = 10
_STALLED_S = 5.0
_PHASES = {
    Phase.DECLARING: "declare",
    Phase.FILLING: "move",
    Phase.SEALED: "commit",
    Phase.COMMITTED: "publish",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One rank: `state` is absent, stalled, moving or done; `share` of its bytes is here."""

    rank: int
    host: str
    state: str
    share: float
    words: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One rank in the grid: `level` 0 has not declared, 1 to 4 are quarters of its bytes, 5 is done."""

    x: int
    y: int
    level: int
    title: str


@dataclass(frozen=True, slots=True)
class HostRow:
    """What one host has to do with a save."""

    host: str
    ranks: str
    written: str
    state: str


@dataclass(frozen=True, slots=True)
class SaveNow:
    """One save under way; see `now.html`."""

    step: int | None
    attempt: int
    phase: str
    received_bytes: int
    size_bytes: int
    share: float
    declared: str
    bytes_per_s: float | None
    eta_s: float | None
    age_s: float
    culprits: tuple[str, ...]
    evict: str
    ranks: tuple[Bar, ...]
    is_grid: bool
    cells: tuple[Cell, ...]
    grid_width: int
    grid_height: int
    told: str
    worst: str
    hosts: tuple[HostRow, ...]


def saves_now(view: RunView, rates: Mapping[str, float], hosts: HostsView | None = None) -> list[SaveNow]:
    """Describe the saves of a run.

    Args:
        view: of the run.
        rates: bytes per second, by the id of a save, as far as they are known.
        hosts: those whose agents write, where there are any.
    """
    return [_save(view, save, rates.get(save.save.save_id), hosts) for save in view.saves[:MOST_SAVES]]


def _save(view: RunView, save: SaveView, rate: float | None, hosts: HostsView | None) -> SaveNow:
    bars = sorted(map(_bar, save.ranks), key=lambda bar: (bar.state != "absent", bar.share, bar.rank))
    is_grid = len(bars) > MOST_BARS
    cells = tuple(_cell(number, bar) for number, bar in enumerate(bars)) if is_grid else ()
    left = save.size_bytes - save.received_bytes
    absent = [bar.rank for bar in bars if bar.state == "absent"]
    done = sum(bar.state == "done" for bar in bars)
    lines = (len(cells) + _A_LINE - 1) // _A_LINE
    if not is_grid:
        bars.sort(key=lambda bar: bar.rank)
    return SaveNow(
        step=save.save.step,
        attempt=save.save.attempt,
        phase=_PHASES.get(save.phase, save.phase.value),
        received_bytes=save.received_bytes,
        size_bytes=save.size_bytes,
        share=save.received_bytes / save.size_bytes
        if save.size_bytes
        else (len(bars) - len(absent)) / (len(bars) or 1),
        declared="" if save.size_bytes else f"{len(bars) - len(absent)} of {counted(len(bars), 'rank')} declared",
        bytes_per_s=rate if left else None,
        eta_s=left / rate if rate and left else None,
        age_s=save.age_s,
        culprits=save.waiting_for,
        evict=_evict(view.run, save, bars),
        ranks=tuple(bars),
        is_grid=is_grid,
        cells=cells,
        grid_width=_A_LINE * _CELL,
        grid_height=lines * _CELL,
        told=f"{len(bars)} ranks: {len(absent)} have not declared, {done} are done, the others send",
        worst=describe_ranks(absent[:1000]) + " to declare" if absent else _slowest(bars, done),
        hosts=_hosts(view.run, save, hosts),
    )


def _slowest(bars: Sequence[Bar], done: int) -> str:
    slow = [bar for bar in bars if bar.state != "done"][:4]
    return "; ".join(f"rank {bar.rank} {bar.words}" for bar in slow) if done < len(bars) else ""


def _bar(rank: RankView) -> Bar:
    if not rank.has_declared:
        return Bar(rank.rank, rank.host, "absent", 0.0, "has not declared")
    owed = rank.size_bytes - rank.received_bytes
    if not rank.size_bytes:
        return Bar(rank.rank, rank.host, "declared", 0.0, "declared")
    if not owed:
        return Bar(rank.rank, rank.host, "done", 1.0, f"done, {wording.size(rank.size_bytes)}")
    share = rank.received_bytes / rank.size_bytes
    words = f"{wording.percent(rank.received_bytes, rank.size_bytes)} of {wording.size(rank.size_bytes)}"
    if rank.idle_s >= _STALLED_S:
        return Bar(rank.rank, rank.host, "stalled", share, f"{words}, nothing for {wording.duration(rank.idle_s)}")
    return Bar(rank.rank, rank.host, "moving", share, words)


def _cell(number: int, bar: Bar) -> Cell:
    level = {"absent": 0, "done": 5, "declared": 1}.get(bar.state, 1 + min(3, int(bar.share * 4)))
    y, x = divmod(number, _A_LINE)
    return Cell(x * _CELL, y * _CELL, level, f"rank {bar.rank}: {bar.words}")


def _evict(run: str, save: SaveView, bars: Sequence[Bar]) -> str:
    """Return the command that frees the place of the one rank that holds a save up; "" while none does for long."""
    held_up = [bar.rank for bar in bars if bar.state in ("absent", "stalled")]
    if save.age_s < _STALLED_S or len(held_up) != 1:
        return ""
    return wording.command("ckptd", "evict", run, "--rank", held_up[0])


def _hosts(run: str, save: SaveView, hosts: HostsView | None) -> tuple[HostRow, ...]:
    found = []
    for host in () if hosts is None else hosts.hosts:
        for part in host.parts:
            if part.run == run and part.step == save.save.step:
                written = part.size_bytes - part.owed_bytes
                state = (
                    "lost"
                    if host.is_lost
                    else "durable"
                    if part.is_sealed
                    else "writing"
                    if part.size_bytes
                    else ("declared" if part.has_declared else "has not declared")
                )
                found.append(
                    HostRow(host.host, describe_ranks(part.ranks), wording.percent(written, part.size_bytes), state)
                )
    return tuple(found)
