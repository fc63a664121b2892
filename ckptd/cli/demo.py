"""`ckptd demo`: show the run of `ckptd.demo.story` on a terminal, or as JSON."""

from __future__ import annotations

import signal
import sys
import tempfile
import threading
from contextlib import ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

import click
from rich.live import Live
from rich.progress import BarColumn, Progress, TextColumn

from ckptd.cli import output
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.printable import counted

if TYPE_CHECKING:
    from ckptd.demo.findings import DemoOutcome

_CLAIM_FAILED_EXIT_CODE = 1


class Stage:
    """Writes the story to a stream: chapters and lines, and on a terminal a bar for the training under way."""

    def __init__(self, *, stderr: bool) -> None:
        self._console = output.console(stderr=stderr)
        self._bar = Progress(
            TextColumn("  training"),
            BarColumn(bar_width=30),
            TextColumn("step {task.completed:.0f} of {task.total:.0f}, loss {task.fields[loss]:.3f}"),
            console=self._console,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=1, loss=0.0, visible=False)
        self._chapters = 0
        self._live = Live(self._bar, console=self._console, transient=True) if self._console.is_terminal else None

    def __enter__(self) -> Stage:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""
        self._chapters += 1
        self._bar.update(self._task, visible=False)
        if self._chapters > 1:
            self._console.print()
        self._console.print(f"{self._chapters}. {title}", style="bold", markup=False)

    def line(self, text: str) -> None:
        """Say one thing that has happened."""
        self._console.print(f"   {text}", markup=False, soft_wrap=True)

    def wait(self, text: str) -> None:
        """Say for what, and return at Ctrl-C."""
        self._bar.update(self._task, visible=False)
        with suppress(KeyboardInterrupt):
            self.line(text)
            threading.Event().wait()

    def training(self, step: int, last_step: int, loss: float) -> None:
        """Move the bar; a pipe gets only the saves."""
        self._bar.update(self._task, completed=step, total=last_step, loss=loss, visible=True)


@click.command()
@click.option("--workers", type=click.IntRange(2, 16), help="How many begin. [default: 4, or two on each host]")
@click.option(
    "--hosts",
    type=click.IntRange(2, 4),
    help="As on so many hosts: an agent for each and a coordinator, which are killed in their turn.",
)
@click.option(
    "--dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the checkpoints here (new or empty). Default: a temporary directory, removed at the end.",
)
@click.option("--root", metavar="URL", help="With --hosts: keep the checkpoints there, in a bucket for example.")
@click.option(
    "--watch",
    is_flag=True,
    help="Serve the daemon's page, whose link is among the first lines, and keep it until Ctrl-C.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document; the story goes to stderr.")
def command(
    workers: int | None, hosts: int | None, directory: Path | None, root: str | None, watch: bool, as_json: bool
) -> int:
    """Train, kill a worker in the middle of a save, and recover.

    A daemon is started on a local directory. Worker processes train a network on handwritten digits and save
    every few steps. One is killed by SIGKILL in the middle of a save; the others restart from the latest checkpoint
    with one worker less, and finish. Every claim is checked; the exit code is 0 only if all of them hold.

    With --hosts all processes are on this machine too, but each two workers have an agent, as on a host of their own.
    An agent is killed in the middle of a save, the coordinator in the next, and then a whole host, which another one
    replaces.
    """
    if hosts is not None and workers is not None:
        raise InvalidRequestError("with --hosts there are two workers on each host: leave out --workers")
    if watch and hosts is not None:
        raise InvalidRequestError("--watch shows the page of the demo's one daemon: leave out --hosts")
    if root is not None and hosts is None:
        raise InvalidRequestError("--root belongs to --hosts; a directory for all that the demo keeps is --dir")

    with ExitStack() as stack:
        # On SIGTERM it ends its daemon and its workers first, as for Ctrl-C.
        stack.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, signal.default_int_handler))
        if directory is None:
            kept = False
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ckptd-demo-")))
        else:
            kept = True
            directory = directory.absolute()
            if directory.exists() and any(directory.iterdir()):
                raise ConflictError("the demo needs a directory that is new or empty", key=str(directory))
            directory.mkdir(parents=True, exist_ok=True)
        with Stage(stderr=as_json) as stage:
            outcome = _tell(directory, workers or 4, hosts, root, stage, watch=watch)
        if as_json:
            output.emit_json({**asdict(outcome), "held": outcome.held})
        else:
            _show(outcome)
            if kept:
                where = Path(outcome.checkpoints[-1].prefix).parent if outcome.checkpoints else directory
                output.say()
                output.tell(f"Kept in {directory}. Look around: ckptd ls {where}")
    return 0 if outcome.held else _CLAIM_FAILED_EXIT_CODE


def _tell(
    directory: Path, workers: int, hosts: int | None, root: str | None, stage: Stage, *, watch: bool
) -> DemoOutcome:
    from ckptd.demo import hosts_story, story
    from ckptd.demo.script import HostsScript, Script

    if hosts is None:
        return story.tell(directory, Script(workers=workers, is_watched=watch), stage)
    return hosts_story.tell(directory, HostsScript(num_hosts=hosts), stage, root)


def _show(outcome: DemoOutcome) -> None:
    output.say()
    output.table(
        "Checkpoints",
        ("step", "workers", "shards", "size", "stall", "durable after", "steps meanwhile", "checksums", "bits"),
        [
            (
                kept.step,
                kept.workers,
                kept.shards,
                output.size(kept.size_bytes),
                output.duration(kept.stall_s),
                output.duration(kept.durable_s),
                kept.steps_meanwhile,
                "verify" if kept.intact else "CORRUPT",
                "as held" if kept.same_bits else "DIFFER",
            )
            for kept in outcome.checkpoints
        ],
    )
    output.say()
    output.tell(
        f"A save stalled training for {output.duration(outcome.stall_s)} "
        f"(median of {counted(outcome.num_saves, 'save')}, "
        f"slowest worker of each), a step takes {output.duration(outcome.step_s)}; "
        f"durable after {output.duration(outcome.durable_s)}."
    )
    output.say()
    console = output.console()
    for claim in outcome.claims:
        mark, style = ("✓", "green") if claim.held else ("✗", "bold red")
        console.print(mark, style=style, end=" ")
        output.tell(f"{claim.text}: {claim.seen}", begins_at=2)
    held = sum(claim.held for claim in outcome.claims)
    console.print()
    console.print(
        f"{held} of {len(outcome.claims)} claims hold, in {outcome.seconds:.0f} s",
        style="bold green" if outcome.held else "bold red",
    )
    sys.stdout.flush()
