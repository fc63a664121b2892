"""One picture of what a daemon does at a moment, of a given width and height: lines of text, the culprit first.

Pure: what is shown depends on what was seen alone. Of more ranks than fit, those that are furthest behind are shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.text import Text

from ckptd.cli import hosts, output
from ckptd.printable import printable

_DONE, _LEFT, _ABSENT = "█", "░", "·"
_MOST_BAR, _LEAST_BAR = 40, 8  # columns
_IDLE_S = 5.0  # a rank that owes bytes and sends none for so long is told
_MOST_WARNINGS = 3


@dataclass(frozen=True, slots=True)
class Moment:
    """What is known at a moment.

    Attributes:
        reply: the last answer of the daemon.
        at: wall clock, when that came.
        rates: bytes per second by the id of a save; what is not known is left out.
        lost: why there is no answer any more; "" while there is one.
        lost_s: for how long.
        was_restarted: another process of the daemon has answered since, a moment ago.
    """

    reply: Any
    at: float
    rates: Mapping[str, float] = field(default_factory=dict)
    lost: str = ""
    lost_s: float = 0.0
    was_restarted: bool = False


def frame(seen: Moment, width: int, height: int) -> list[Text]:
    """Return at most `height` lines, none wider than `width` columns."""
    reply = seen.reply
    lines = list(_head(seen))
    saves = [(run.run, save) for run in reply.runs for save in run.saves]
    runs = list(_runs(reply, seen.at))
    # A save needs a line and its culprit at least; what is left is for runs, hosts and ranks.
    least = sum(2 for _ in saves) + 1
    lines += runs[: max(1, height - len(lines) - least)] if runs else [Text("no run is open", "dim")]
    lines += _saves(saves, seen.rates, width, height - len(lines) - 1)
    if reply.HasField("hosts") and len(lines) + 3 < height:
        lines += _hosts(reply.hosts, height - len(lines) - 1)
    lines = lines[: max(1, height - 1)]
    lines.append(Text("Ctrl-C ends", "dim"))
    for line in lines:
        line.no_wrap = True
        line.truncate(width, overflow="ellipsis")
        if seen.lost:
            line.stylize("dim")
    if seen.lost:
        lines[0] = Text(
            f"NO ANSWER for {output.duration(seen.lost_s)}: {printable(seen.lost)}", "bold red", no_wrap=True
        )
        lines[0].truncate(width, overflow="ellipsis")
    return lines[:height]


def _head(seen: Moment) -> Iterator[Text]:
    reply, peer = seen.reply, seen.reply.peer
    free = "" if reply.free_bytes < 0 else f"  {output.size(reply.free_bytes)} free"
    head = Text.assemble(
        (f"ckptd {peer.version}", "bold"),
        f"  pid {peer.pid} on {printable(peer.host)}  up {output.duration(reply.uptime_s)}{free}  ",
        (output.moment(seen.at).partition(" ")[2], "dim"),
    )
    if seen.was_restarted:
        head.append("  the daemon was restarted", "bold yellow")
    yield head
    yield Text(f"checkpoints in {printable(reply.root)}", "dim")
    for warning in list(reply.warnings)[:_MOST_WARNINGS]:
        yield Text(f"WARNING: {printable(warning)}", "yellow")
    if reply.draining:
        yield Text("it is shutting down: no new saves begin", "yellow")
    if reply.HasField("attending"):
        attends = reply.attending.attends and not reply.attending.replaced
        yield Text(printable(hosts.attending_words(reply.attending)), "" if attends else "yellow")


def _runs(reply: Any, now: float) -> Iterator[Text]:
    names = max((len(printable(run.run)) for run in reply.runs), default=0)
    # What needs a person comes first, then what is busy.
    for run in sorted(
        reply.runs, key=lambda run: (not run.quarantined, not run.saves, not run.connected_ranks, run.run)
    ):
        ranks = f"{len(run.connected_ranks)} of {run.world_size} ranks" if run.world_size else "no ranks"
        line = Text.assemble((printable(run.run).ljust(min(names, 40)), "bold"), f"  {ranks}")
        if run.HasField("latest"):
            name = printable(run.latest.key.rsplit("/", 1)[-1])
            took = output.duration(run.latest.duration_s)
            line.append(
                f"  {run.num_checkpoints} checkpoints, {name} {output.age(run.latest.saved_at, now)}, took {took}"
            )
        if run.quarantined:
            line.append(f"  QUARANTINED: {printable(run.quarantined)}", "bold red")
        elif run.problems:
            line.append(f"  WARNING: {printable(run.problems[0])}", "yellow")
        elif run.last_error:
            line.append(f"  last error: {printable(run.last_error)}", "red")
        yield line


def _saves(saves: list[tuple[str, Any]], rates: Mapping[str, float], width: int, height: int) -> list[Text]:
    lines: list[Text] = []
    for number, (run, save) in enumerate(saves):
        others = sum(2 for _ in saves[number + 1 :])
        rank_lines = min(max(1, height - len(lines) - others - 2), max(1, (height - others) // max(1, len(saves))))
        lines += _save(run, save, rates.get(save.save.save_id), width, rank_lines)
    return lines


def _save(run: str, save: Any, rate: float | None, width: int, most_ranks: int) -> Iterator[Text]:
    step = f"step {save.save.step}" if save.save.HasField("step") else "a save"
    line = Text.assemble(
        ("▸ ", "cyan"), (f"{printable(run)} {step}", "bold"), f"  {save.phase}  for {output.duration(save.age_s)}"
    )
    left = save.size_bytes - save.received_bytes
    if save.size_bytes:
        share = save.received_bytes / save.size_bytes
        line.append(f"  {share:.0%} of {output.size(save.size_bytes)}")
        if rate and left > 0:
            line.append(f"  {output.size(int(rate))}/s  {output.duration(left / rate)} left")
    yield line
    if save.waiting_for:
        yield Text(f"  waits for {printable('; '.join(save.waiting_for))}", "yellow")
    ranks = list(save.ranks)
    shown = ranks[:most_ranks] if len(ranks) <= most_ranks else ranks[: max(0, most_ranks - 1)]
    bar = min(_MOST_BAR, max(_LEAST_BAR, width - 50))
    digits = max((len(str(part.rank)) for part in shown), default=1)
    if len(ranks) == len(shown) == save.num_ranks:
        shown.sort(key=lambda part: part.rank)
    for part in shown:
        yield _rank(part, bar, digits)
    if hidden := max(save.num_ranks, len(ranks)) - len(shown):
        yield Text(f"  and {hidden} more ranks, further ahead", "dim")


def _rank(part: Any, width: int, digits: int) -> Text:
    line = Text(f"  rank {part.rank:{digits}d} ")
    if not part.declared:
        line.append(_ABSENT * width, "red")
        line.append("  has not declared", "red")
    elif not part.size_bytes:
        line.append(_LEFT * width, "dim")
        line.append("  declared")
    else:
        share = part.received_bytes / part.size_bytes
        filled = int(share * width)
        is_done, is_idle = part.received_bytes >= part.size_bytes, part.idle_s >= _IDLE_S
        line.append(_DONE * filled, "green" if is_done else "yellow" if is_idle else "cyan")
        line.append(_LEFT * (width - filled), "dim")
        line.append(f"  {share:4.0%} of {output.size(part.size_bytes)}{_way(part)}")
        if is_idle and not is_done:
            line.append(f"  nothing for {output.duration(part.idle_s)}", "yellow")
    if part.host:
        line.append(f"  on {printable(part.host)}", "dim")
    return line


def _way(part: Any) -> str:
    from ckptd.wire.v1.save_pb2 import LANE_TRANSPORT_ARENA, LANE_TRANSPORT_STREAM

    return {LANE_TRANSPORT_ARENA: "  memory", LANE_TRANSPORT_STREAM: "  stream"}.get(part.transport, "")


def _hosts(status: Any, height: int) -> Iterator[Text]:
    lost = sum(host.lost for host in status.hosts)
    yield Text(f"coordinator of term {status.term}; {len(status.hosts) - lost} hosts attend, {lost} are gone", "bold")
    told = [(host, "; ".join(hosts.words(host, status.lease_s))) for host in status.hosts]
    told.sort(key=lambda each: (not each[0].lost, not each[1], each[0].host))  # gone, then owing, then the others
    shown = told if len(told) < height else told[: max(0, height - 2)]
    for host, words in shown:
        style = "red" if host.lost else "yellow" if words else ""
        rate = f"  {output.size(int(host.bytes_per_s))}/s" if host.bytes_per_s else ""
        yield Text(f"  {printable(host.host)}  {words or f'heard {output.duration(host.silent_s)} ago'}{rate}", style)
    if len(shown) < len(told):
        yield Text(f"  and {len(told) - len(shown)} more hosts", "dim")
