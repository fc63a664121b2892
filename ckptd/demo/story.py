"""The story of the demo: it runs it, and checks every sentence that claims something.

One daemon. Four workers train and save every few steps. One of them is killed while its bytes of a save are on their
way: that save visibly does not happen. Three workers restart from the checkpoint before it, hold bit for bit what
the four held, and finish. At the end everything on disk is read back and checked.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

import ckptd
from ckptd.demo import network, states
from ckptd.demo.digits import Digits
from ckptd.demo.findings import DemoOutcome
from ckptd.demo.processes import Crew, Daemon, Event
from ckptd.demo.read_back import NAME, Saved, read_back
from ckptd.demo.relay import Relay
from ckptd.demo.script import Script
from ckptd.demo.worker import LOST_PEER_EXIT_CODE, WorkerOrders
from ckptd.errors import UnavailableError

RUN = "digits"
_CREW_TIMEOUT_S = 120.0
_HOLD_TIMEOUT_S = 60.0
_SWEEP_TIMEOUT_S = 60.0
_HELD_SHARE = 0.7  # of the victim's bytes pass before the network holds back the rest


class Narrator(Protocol):
    """Tells the story to a person."""

    def chapter(self, title: str) -> None:
        """Begin a part of the story."""

    def line(self, text: str) -> None:
        """Say one thing that has happened."""

    def wait(self, text: str) -> None:
        """Say `text`, and return when the person has seen enough."""

    def training(self, step: int, last_step: int, loss: float) -> None:
        """Show how far training is; called often."""


def tell(directory: Path, script: Script, narrator: Narrator) -> DemoOutcome:
    """Run the whole story in `directory`, which is empty; return what was seen.

    Raises `CkptdError` when it cannot be told to the end. No process of it outlives this call.
    """
    return _Telling(directory, script, narrator).run()


class _Telling:
    """One telling: the script, where things are, and what is known so far."""

    def __init__(self, directory: Path, script: Script, narrator: Narrator) -> None:
        self._script = script
        self._narrator = narrator
        self._root = directory / "checkpoints"
        self._logs = directory / "logs"
        self._digits_file = directory / "digits.npz"
        self._ready_file = directory / "daemon.json"
        self._outcome = DemoOutcome(directory=str(directory), killed_step=script.killed_step)
        self._saved: dict[int, Saved] = {}
        self._step_times: list[float] = []
        self._run_directory = self._root / RUN

    def run(self) -> DemoOutcome:
        script, began = self._script, time.monotonic()
        self._logs.mkdir(parents=True)
        self._root.mkdir()
        digits = Digits.from_scikit_learn()
        digits.write(self._digits_file)

        self._narrator.chapter("A daemon")
        token_file = self._ready_file.with_suffix(".token")
        options = ["--http", "127.0.0.1:0"] if script.is_watched else []
        daemon = Daemon(self._root, self._logs / "daemon.log", self._ready_file, options, token_file=token_file)
        try:
            daemon.wait_until_ready()
            self._narrator.line(f"ckptd serve, pid {daemon.pid}, {', '.join(daemon.listening)}, root {self._root}")
            if script.is_watched:
                self._narrator.line(f"its page, by a link that works once within a minute: {daemon.page()}")
            self._train_until_one_dies(daemon)
            self._train_to_the_end(daemon)
            if script.is_watched:
                self._narrator.wait(f"the daemon and its page stay until Ctrl-C; another link: {daemon.page()}")
        finally:
            code = daemon.stop()
            token_file.unlink(missing_ok=True)
        self._outcome.claim("the daemon left in good order when it was told to", code == 0, f"exit code {code}")

        self._narrator.chapter("What is on disk")
        read_back(str(self._run_directory), self._saved, digits, script, self._outcome)
        self._measure()
        self._outcome.seconds = time.monotonic() - began
        return self._outcome

    def _assignment(
        self, rank: int, world_size: int, peers: Mapping[str, int], address: str, announced: int | None = None
    ) -> WorkerOrders:
        script = self._script
        return WorkerOrders(
            address=address,
            run=RUN,
            rank=rank,
            world_size=world_size,
            digits=str(self._digits_file),
            hidden=script.hidden,
            last_step=script.last_step,
            save_every=script.save_every,
            max_to_keep=script.max_to_keep,
            peers=dict(peers),
            announced_steps=() if announced is None else (announced,),
            is_elsewhere=announced is not None,
        )

    def _train_until_one_dies(self, daemon: Daemon) -> None:
        script, narrator = self._script, self._narrator
        narrator.chapter(f"{script.workers} workers train; all save every {script.save_every} steps")
        narrator.line(
            f"1,797 handwritten digits, a network of 64 × {script.hidden} × 10: {self._state_bytes() / 1e6:.1f} MB "
            "with momentum and averages; the hidden layer's rows are divided among the workers"
        )
        narrator.line(
            f"worker {script.victim} sends its part, as from another host; the others share memory with the daemon"
        )
        relay = Relay(daemon.port())

        def assignment(rank: int, peers: Mapping[str, int]) -> WorkerOrders:
            if rank == script.victim:
                return self._assignment(rank, script.workers, peers, relay.address, script.killed_step)
            return self._assignment(rank, script.workers, peers, daemon.address)

        with Crew(self._logs, daemon.token) as crew:
            try:
                crew.start(script.workers, assignment)
                crew.until(
                    lambda e: e.kind == "about_to_save" and e.rank == script.victim, _CREW_TIMEOUT_S, self._on_event
                )
                relay.hold_after(int(self._state_bytes() / script.workers * _HELD_SHARE))
                crew.go_on(script.victim)
                seen = self._wait_for_the_middle(daemon, relay)
                victim_pid = crew.pid(script.victim)
                crew.kill(script.victim)
            finally:
                relay.close()
            narrator.chapter(f"Worker {script.victim} is killed in the middle of the save of step {script.killed_step}")
            narrator.line(f"the daemon was {seen}")
            narrator.line(f"kill -9 {victim_pid}")
            codes = crew.join(_CREW_TIMEOUT_S)
            self._take_in(crew, script.workers)
            self._check_the_failed_save(crew, codes)

    def _wait_for_the_middle(self, daemon: Daemon, relay: Relay) -> str:
        """Return what the daemon says when it has everything but the rest of the victim's bytes."""
        script = self._script
        if not relay.holding.wait(_HOLD_TIMEOUT_S):
            raise UnavailableError(f"worker {script.victim} did not send its part of step {script.killed_step}")
        deadline = time.monotonic() + _HOLD_TIMEOUT_S
        while time.monotonic() < deadline:
            for run in daemon.status().runs:
                for save in run.saves:
                    owed = list(save.waiting_for)
                    is_it = run.run == RUN and save.save.step == script.killed_step and save.phase == "filling"
                    if is_it and len(owed) == 1 and list(save.needed_ranks) == [script.victim]:
                        return (
                            f"{save.phase} it: {save.received_bytes / 1e6:.1f} of {save.size_bytes / 1e6:.1f} MB "
                            f"were in; it waited for {owed[0]}"
                        )
            time.sleep(0.02)
        raise UnavailableError(f"the save of step {script.killed_step} was never seen to wait for one worker only")

    def _check_the_failed_save(self, crew: Crew, codes: Sequence[int]) -> None:
        script, outcome, narrator = self._script, self._outcome, self._narrator
        others = [rank for rank in range(script.workers) if rank != script.victim]
        outcome.claim(
            f"worker {script.victim} was ended by SIGKILL, and the others noticed and stopped",
            codes[script.victim] == -9 and all(codes[rank] == LOST_PEER_EXIT_CODE for rank in others),
            f"exit codes {', '.join(map(str, codes))}",
        )
        failures = {e.rank: e for e in crew.of_kind("save_failed", script.killed_step)}
        naming = [r for r in others if r in failures and f"rank {script.victim}" in failures[r].text("reason")]
        for event in list(failures.values())[:1]:
            narrator.line(f"worker {event.rank} was told: {event.text('error')}: {event.text('reason')}")
        outcome.claim(
            f"the save of step {script.killed_step} failed on every other worker, naming rank {script.victim}",
            naming == others and not crew.of_kind("saved", script.killed_step),
            f"named to workers {', '.join(map(str, naming)) or 'none'}",
        )
        left = self._files_of(script.killed_step)
        deadline = time.monotonic() + _SWEEP_TIMEOUT_S
        while left and time.monotonic() < deadline:
            time.sleep(0.05)
            left = self._files_of(script.killed_step)
        outcome.claim(
            f"nothing of step {script.killed_step} is left on disk",
            not left,
            ", ".join(left) if left else "no index, no shard",
        )
        latest = ckptd.latest_checkpoint(str(self._run_directory))
        before = script.killed_step - script.save_every
        outcome.claim(
            f"the latest checkpoint is still that of step {before}",
            latest is not None and latest.endswith(f"{NAME}-{before}"),
            str(latest),
        )
        narrator.line(f"the latest checkpoint is {latest}")

    def _files_of(self, step: int) -> list[str]:
        if not self._run_directory.exists():
            return []
        return sorted(path.name for path in self._run_directory.glob(f"*{NAME}-{step}.*"))

    def _train_to_the_end(self, daemon: Daemon) -> None:
        script, outcome, narrator = self._script, self._outcome, self._narrator
        restart = "restarts" if script.survivors == 1 else "restart"
        narrator.chapter(f"{_workers(script.survivors)} {restart} from the latest checkpoint")
        with Crew(self._logs, daemon.token) as crew:
            crew.start(
                script.survivors,
                lambda rank, peers: self._assignment(rank, script.survivors, peers, daemon.address),
            )
            crew.until(lambda _: len(crew.of_kind("ready")) == script.survivors, _CREW_TIMEOUT_S, self._on_event)
            self._check_the_restored_state(crew)
            crew.until(lambda _: len(crew.of_kind("ended")) == script.survivors, _CREW_TIMEOUT_S, self._on_event)
            codes = crew.join(_CREW_TIMEOUT_S)
            self._take_in(crew, script.survivors)
            if any(codes):
                narrator.line(crew.complaints())
        done = [e for e in crew.of_kind("done") if e.number("step") == script.last_step]
        outcome.claim(
            f"{_workers(script.survivors)} trained on to step {script.last_step}",
            len(done) == script.survivors and not any(codes),
            f"exit codes {', '.join(map(str, codes))}",
        )

    def _check_the_restored_state(self, crew: Crew) -> None:
        script = self._script
        restored = crew.of_kind("restored")
        steps = {int(e.number("step")) for e in restored}
        step = min(steps, default=0)
        self._outcome.resumed_step = step
        logged = self._saved[step].digest if step in self._saved else None
        found = states.as_told(restored) if len(restored) == script.survivors else None
        self._narrator.line(f"step {step}, as {script.workers} workers held it:  sha256 {logged}")
        self._narrator.line(f"step {step}, as {script.survivors} restored it:      sha256 {found}")
        self._outcome.claim(
            f"{_workers(script.survivors)} restored, bit for bit, what {script.workers} held at step {step}",
            len(steps) == 1
            and step == script.killed_step - script.save_every
            and found is not None
            and found == logged,
            f"sha256 {str(found)[:16]}… against {str(logged)[:16]}…",
        )

    def _on_event(self, event: Event) -> None:
        if event.kind == "step":
            self._step_times.append(event.number("seconds"))
            if event.rank == 0:
                self._narrator.training(int(event.number("step")), self._script.last_step, event.number("loss"))
        elif event.kind == "save_failed" and event.number("step") != self._script.killed_step:
            raise UnavailableError(
                f"the save of step {event.number('step'):.0f} failed on worker {event.rank}: {event.text('reason')}"
            )
        elif event.kind == "saved" and event.rank == 0:
            meanwhile = int(event.number("during") - event.number("step"))
            self._narrator.line(
                f"step {event.number('step'):.0f} saved in {event.number('duration_s') * 1e3:.0f} ms, "
                f"{meanwhile} {'step' if meanwhile == 1 else 'steps'} trained meanwhile"
            )

    def _take_in(self, crew: Crew, workers: int) -> None:
        """Note the saves that this crew's workers report as published, with the digest of what they held."""
        for step in sorted({int(e.number("step")) for e in crew.of_kind("saved")}):
            saving, saved = crew.of_kind("saving", step), crew.of_kind("saved", step)
            if len(saving) != workers or len(saved) != workers:
                continue
            self._saved[step] = Saved.of(saving, saved)

    def _measure(self) -> None:
        outcome = self._outcome
        outcome.step_s = statistics.median(self._step_times)
        outcome.num_saves = len(self._saved)
        outcome.stall_s = statistics.median(saved.stall_s for saved in self._saved.values())
        outcome.durable_s = statistics.median(saved.durable_s for saved in self._saved.values())

    def _state_bytes(self) -> int:
        shapes = network.full_shapes(self._script.hidden).values()
        return sum(int(np.prod(shape)) for shape in shapes) * 4 * (1 + len(network.COMPANIONS))


def _workers(count: int) -> str:
    return f"{count} {'worker' if count == 1 else 'workers'}"
