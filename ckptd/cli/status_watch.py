"""`ckptd status --watch`: a picture that moves on a terminal, lines elsewhere; it outlives the daemon's restarts."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from ckptd.cli import output
from ckptd.cli.live_frame import Moment, frame
from ckptd.errors import UnavailableError

_TELL_RESTART_S = 10.0
_LINE_EVERY_S = 10.0  # of a save under way, where nothing else happens
_SMOOTH = 0.3  # of a new rate
_LEAST_S = 0.05  # between two answers that a rate is taken of

Ask = Callable[[], Any]
"""Requests the daemon's `StatusReply`; `UnavailableError` when there is none."""


class Rates:
    """How fast saves get on, from answer to answer."""

    def __init__(self) -> None:
        """Know nothing yet."""
        self._before: dict[str, tuple[float, int]] = {}  # by save
        self._rates: dict[str, float] = {}

    def take(self, reply: Any, now: float) -> Mapping[str, float]:
        """Return bytes per second by save; `now` is monotonic."""
        saves = {save.save.save_id: save.received_bytes for run in reply.runs for save in run.saves}
        for save_id, received in saves.items():
            at, before = self._before.get(save_id, (now, received))
            if save_id in self._before and now - at >= _LEAST_S:
                rate, known = max(0, received - before) / (now - at), self._rates.get(save_id)
                self._rates[save_id] = rate if known is None else known + _SMOOTH * (rate - known)
        self._before = {save_id: (now, received) for save_id, received in saves.items()}
        self._rates = {save_id: rate for save_id, rate in self._rates.items() if save_id in saves}
        return self._rates


@dataclass(slots=True)
class StatusLooks:
    """What was seen of a daemon so far; each look adds to that."""

    ask: Ask
    rates: Rates = field(default_factory=Rates)
    reply: Any = None
    at: float = 0.0
    lost_at: float | None = None
    restarted_at: float | None = None

    def look(self) -> Moment:
        """Look once. A daemon that does not answer any more is told.

        Raises:
            CkptdError: it never answered; or refuses, which does not pass.
        """
        now = time.monotonic()
        try:
            reply = self.ask()
        except UnavailableError as error:
            if self.reply is None:
                raise
            self.lost_at = now if self.lost_at is None else self.lost_at
            return Moment(self.reply, self.at, lost=str(error), lost_s=now - self.lost_at)
        if self.reply is not None and _life(reply) != _life(self.reply):
            self.restarted_at, self.rates = now, Rates()
        self.reply, self.at, self.lost_at = reply, time.time(), None
        was_restarted = self.restarted_at is not None and now - self.restarted_at < _TELL_RESTART_S
        return Moment(reply, self.at, self.rates.take(reply, now), was_restarted=was_restarted)


def _life(reply: Any) -> tuple[str, int, str]:
    return reply.peer.host, reply.peer.pid, reply.peer.incarnation


def is_live() -> bool:
    """Say whether stdout takes a picture that moves: a terminal that is not a dumb one, and no NO_COLOR."""
    return sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")


def show_live(ask: Ask, every_s: float) -> None:
    """Draw until Ctrl-C, on a screen of its own; the last picture stays behind it.

    Raises:
        CkptdError: see `StatusLooks.look`.
    """
    looks = StatusLooks(ask)
    seen = looks.look()
    console = Console(file=sys.stdout, highlight=False)
    try:
        with Live(
            console=console, screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
        ) as live:
            while True:
                live.update(Group(*frame(seen, console.width, console.height)), refresh=True)
                time.sleep(every_s)
                seen = looks.look()
    finally:
        for line in frame(seen, console.width, console.height)[:-1]:
            console.print(line)


def tell_lines(ask: Ask, every_s: float) -> None:
    """Print a line for each thing that happens, until Ctrl-C; see `show_live`."""
    looks, news = StatusLooks(ask), Happenings()
    while True:
        seen = looks.look()
        for line in news.take(seen, time.monotonic()):
            output.tell(f"{output.moment(time.time())}  {line}")
        sys.stdout.flush()
        time.sleep(every_s)


class Happenings:
    """What has changed since the last look, in words."""

    def __init__(self) -> None:
        """Begin without a look."""
        self._latest: dict[str, str] = {}  # by run
        self._errors: dict[str, str] = {}
        self._told: dict[str, tuple[str, str, float]] = {}  # by save: phase, what it waits for, when that was told
        self._is_first, self._is_lost = True, False

    def take(self, seen: Moment, now: float) -> Iterator[str]:
        """Yield a line for each thing that is new; `now` is monotonic."""
        reply = seen.reply
        if seen.lost:
            if not self._is_lost:
                yield f"NO ANSWER: {seen.lost}"
            self._is_lost = True
            return
        if self._is_first or self._is_lost:
            up = output.duration(reply.uptime_s)
            yield f"ckptd {reply.peer.version}, pid {reply.peer.pid} on {reply.peer.host}, up {up}; {reply.root}"
        under_way = set()
        for run in reply.runs:
            yield from self._of_run(run)
            for save in run.saves:
                under_way.add(save.save.save_id)
                yield from self._of_save(run.run, save, seen.rates.get(save.save.save_id), now)
        self._told = {save_id: told for save_id, told in self._told.items() if save_id in under_way}
        self._is_first = self._is_lost = False

    def _of_run(self, run: Any) -> Iterator[str]:
        latest = run.latest.key if run.HasField("latest") else ""
        known = f"{latest} {run.latest.saved_at}"
        if latest and self._latest.get(run.run) != known:
            size, took = output.size(run.latest.size_bytes), output.duration(run.latest.duration_s)
            name = latest.rsplit("/", 1)[-1]
            yield f"{run.run}: {name} is the latest: {size} in {took}, saved {output.moment(run.latest.saved_at)}"
        self._latest[run.run] = known
        error = f"QUARANTINED: {run.quarantined}" if run.quarantined else run.last_error
        if error and self._errors.get(run.run) != error:
            yield f"{run.run}: {error}"
        self._errors[run.run] = error

    def _of_save(self, run: str, save: Any, rate: float | None, now: float) -> Iterator[str]:
        step = f"step {save.save.step}" if save.save.HasField("step") else "a save"
        waiting = "; ".join(save.waiting_for)
        before = self._told.get(save.save.save_id)
        # What it waits for is told in numbers that change all the time: of these a line now and then is enough.
        if before is not None and before[0] == save.phase and now - before[2] < _LINE_EVERY_S:
            return
        self._told[save.save.save_id] = (save.phase, waiting, now)
        line = f"{run} {step}: {save.phase} for {output.duration(save.age_s)}"
        if save.size_bytes:
            line += f", {save.received_bytes / save.size_bytes:.0%} of {output.size(save.size_bytes)}"
        if rate:
            line += f" at {output.size(int(rate))}/s"
        yield line + (f"; waits for {waiting}" if waiting else "")
