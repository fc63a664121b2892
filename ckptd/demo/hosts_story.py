"""The story of `ckptd demo --hosts`: workers on several hosts train, and each kind of process is killed in its turn.

A coordinator and an agent for each host, two workers on each. In one save an agent is killed, in the next the
coordinator, and in the third a whole host, which a new one replaces. What was saved, and what was not, is checked after
each, and at the end everything is read back.
"""

from __future__ import annotations

import statistics
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import ckptd
from ckptd.demo import states
from ckptd.demo.digits import Digits
from ckptd.demo.findings import DemoOutcome
from ckptd.demo.hosts import COORDINATOR, HostDaemons, undeclared
from ckptd.demo.processes import Crew, Event
from ckptd.demo.read_back import NAME, Saved, read_back
from ckptd.demo.script import HostsScript
from ckptd.demo.story import RUN, Narrator
from ckptd.demo.worker import LOST_PEER_EXIT_CODE, WorkerOrders
from ckptd.errors import ConflictError, NotFoundError, UnavailableError
from ckptd.storage.base import ObjectStat
from ckptd.storage.locations import open_store
from ckptd.wire.v1 import admin_pb2

_CREW_TIMEOUT_S = 120.0
_HOLD_TIMEOUT_S = 60.0
_SWEEP_TIMEOUT_S = 30.0
_LOOK_S = 0.05


def tell(
    directory: Path,
    script: HostsScript,
    narrator: Narrator,
    root: str | None = None,
    *,
    popen: Callable[..., subprocess.Popen[Any]] = subprocess.Popen,
) -> DemoOutcome:
    """Run the whole story in `directory`, which is empty; return what was seen.

    Args:
        directory: for logs, and for checkpoints too without a root.
        script: who dies when.
        narrator: hears of it.
        root: where checkpoints are kept: a directory's path or a store's URL, with nothing of this run in it.
        popen: starts a process.

    Raises:
        CkptdError: it cannot be told to the end. No process of it outlives this call.
    """
    return _HostsTelling(directory, script, narrator, root or str(directory / "checkpoints"), popen).run()


class _HostsTelling:
    """One telling: the script, where things are, and what is known so far."""

    def __init__(
        self,
        directory: Path,
        script: HostsScript,
        narrator: Narrator,
        root: str,
        popen: Callable[..., subprocess.Popen[Any]],
    ) -> None:
        self._script, self._narrator, self._root, self._popen = script, narrator, root, popen
        self._logs = directory / "logs"
        self._digits_file = directory / "digits.npz"
        self._outcome = DemoOutcome(directory=str(directory), killed_step=script.host_lost_at)
        self._saved: dict[int, Saved] = {}
        self._step_times: list[float] = []
        self._run_url = f"{root}/{RUN}"

    def run(self) -> DemoOutcome:
        script, narrator, began = self._script, self._narrator, time.monotonic()
        self._store = open_store(self._root, root_mode=0o700)
        if self._store.keys(RUN):
            raise ConflictError("there are checkpoints here already: pass another --root", key=self._run_url)
        self._logs.mkdir(parents=True)
        digits = Digits.from_scikit_learn()
        digits.write(self._digits_file)
        with HostDaemons(self._root, self._logs, lease_s=script.lease_s, popen=self._popen) as hosts:
            narrator.chapter(f"A coordinator, and an agent on each of {len(script.hosts)} hosts")
            hosts.start(COORDINATOR)
            hosts.start(*script.hosts)
            for name in (COORDINATOR, *script.hosts):
                what = "coordinator" if name == COORDINATOR else f"agent of host {name}"
                narrator.line(f"{what}: pid {hosts.pid(name)}, {hosts.address(name)}")
            lost_at = self._train_until_a_host_is_lost(hosts)
            self._train_to_the_end(hosts, lost_at)
            codes = hosts.stop()
        self._outcome.claim(
            "coordinator and agents left in good order when they were told to",
            not any(codes.values()),
            ", ".join(f"{name} {code}" for name, code in codes.items()),
        )
        narrator.chapter("What is stored")
        read_back(self._run_url, self._saved, digits, script, self._outcome)
        # The keys of an attempt that was aborted stay taken, so the next one at that step has other ones.
        shards = {kept.step: kept.shards - (kept.step == script.host_lost_at) for kept in self._outcome.checkpoints}
        self._outcome.claim(
            "each checkpoint has one data shard from each host, and the repeated one an empty one besides",
            set(shards.values()) == {len(script.hosts)},
            ", ".join(f"{kept.step}: {kept.shards}" for kept in self._outcome.checkpoints),
        )
        self._measure()
        self._outcome.seconds = time.monotonic() - began
        return self._outcome

    # The first generation of workers

    def _train_until_a_host_is_lost(self, hosts: HostDaemons) -> float:
        script, narrator = self._script, self._narrator
        narrator.chapter(f"{script.workers} workers train; all save every {script.save_every} steps")
        narrator.line(
            f"1,797 handwritten digits, a network of 64 × {script.hidden} × 10; each worker shares memory with the "
            "agent of its host, which writes for it"
        )
        with Crew(self._logs, popen=self._popen) as crew:
            crew.start(script.workers, lambda rank, peers: self._orders(hosts, script.hosts, rank, peers, waits=True))
            self._kill_an_agent(hosts, crew)
            self._kill_the_coordinator(hosts, crew)
            lost_at = self._lose_a_host(hosts, crew)
            codes = crew.join(_CREW_TIMEOUT_S)
            self._take_in(crew)
            self._check_the_lost_save(crew, codes)
        return lost_at

    def _orders(
        self, hosts: HostDaemons, names: Sequence[str], rank: int, peers: Mapping[str, int], *, waits: bool
    ) -> WorkerOrders:
        script = self._script
        return WorkerOrders(
            address=hosts.address(names[rank // script.workers_per_host]),
            run=RUN,
            rank=rank,
            world_size=script.workers,
            digits=str(self._digits_file),
            hidden=script.hidden,
            last_step=script.last_step,
            save_every=script.save_every,
            max_to_keep=script.max_to_keep,
            peers=dict(peers),
            announced_steps=script.held_steps if waits and rank == 0 else (),
        )

    def _hold(self, hosts: HostDaemons, crew: Crew, step: int) -> dict[str, str]:
        """Bring a save to where all hosts but the victim have given receipts; return the versions of their shards."""
        script = self._script
        self._hear(crew, lambda: bool(crew.of_kind("about_to_save", step)))
        # Rank 0 holds the save back until the victim is paused, so that this comes before the first byte it writes.
        first = set(script.ranks_on(0))
        self._until(hosts, step, lambda save: save.phase == "declaring" and undeclared(save) <= first)
        hosts.pause(script.victim)
        crew.go_on(0)

        def is_held(save: admin_pb2.LiveSave) -> bool:
            shards = self._shards(step)
            is_all_but_one = len(shards) == len(script.hosts) - 1
            return (
                is_all_but_one and save.phase == "filling" and save.received_bytes == sum(s.size_bytes for s in shards)
            )

        held = self._until(hosts, step, is_held)
        self._narrator.line(
            f"step {step}: {held.received_bytes / 1e6:.1f} of {held.size_bytes / 1e6:.1f} MB are stored; "
            f"it waits for {'; '.join(held.waiting_for)}"
        )
        return {shard.key: shard.version for shard in self._shards(step)}

    def _until(self, hosts: HostDaemons, step: int, enough: Callable[[admin_pb2.LiveSave], bool]) -> admin_pb2.LiveSave:
        until = time.monotonic() + _HOLD_TIMEOUT_S
        while time.monotonic() < until:
            save = next((save for save in hosts.saves(RUN) if save.save.step == step), None)
            if save is not None and enough(save):
                return save
            time.sleep(_LOOK_S)
        raise UnavailableError(f"the save of step {step} did not come to where it is to be interrupted")

    def _keys(self, step: int) -> list[str]:
        try:
            return sorted(self._store.keys(RUN, f"{NAME}-{step}."))
        except NotFoundError:
            return []

    def _shards(self, step: int) -> list[ObjectStat]:
        found = []
        for key in self._keys(step):
            if ".data-" in key:
                with suppress(NotFoundError):
                    found.append(self._store.stat(key))
        return found

    def _kill_an_agent(self, hosts: HostDaemons, crew: Crew) -> None:
        script, narrator, step = self._script, self._narrator, self._script.agent_killed_at
        self._hold(hosts, crew, step)
        narrator.chapter(f"The agent of host {script.victim} is killed in the middle of the save of step {step}")
        narrator.line(f"kill -9 {hosts.pid(script.victim)}, and it is started again, as systemd would")
        hosts.kill(script.victim)
        hosts.start(script.victim)
        self._await_saved(crew, step)
        self._outcome.claim(
            f"the save of step {step} was published all the same: what its workers hold was sent again",
            self._is_published(step),
            f"{len(self._shards(step))} shards and an index",
        )

    def _kill_the_coordinator(self, hosts: HostDaemons, crew: Crew) -> None:
        script, narrator, step = self._script, self._narrator, self._script.coordinator_killed_at
        before = self._hold(hosts, crew, step)
        narrator.chapter(f"The coordinator is killed between the receipts of step {step} and its index")
        narrator.line(f"kill -9 {hosts.pid(COORDINATOR)}, and it is started again")
        hosts.kill(COORDINATOR)
        hosts.start(COORDINATOR)
        hosts.go_on(script.victim)
        self._await_saved(crew, step)
        after = {shard.key: shard.version for shard in self._shards(step)}
        self._outcome.claim(
            f"the next coordinator published step {step}, and no stored shard was written again",
            self._is_published(step) and all(after.get(key) == version for key, version in before.items()),
            f"{len(before)} shards are as they were",
        )

    def _lose_a_host(self, hosts: HostDaemons, crew: Crew) -> float:
        script, narrator, step = self._script, self._narrator, self._script.host_lost_at
        self._hold(hosts, crew, step)
        ranks = script.ranks_on(len(script.hosts) - 1)
        narrator.chapter(f"Host {script.victim} is lost in the middle of the save of step {step}")
        pids = [hosts.pid(script.victim), *map(crew.pid, ranks)]
        narrator.line(f"kill -9 {' '.join(map(str, pids))}: its agent and its workers, which do not come back")
        lost_at = time.monotonic()
        hosts.kill(script.victim)
        for rank in ranks:
            crew.kill(rank)
        return lost_at

    def _await_saved(self, crew: Crew, step: int) -> None:
        self._hear(crew, lambda: len(crew.of_kind("saved", step)) == self._script.workers)
        self._take_in(crew)

    def _is_published(self, step: int) -> bool:
        latest = ckptd.latest_checkpoint(self._run_url)
        return latest is not None and latest.endswith(f"{NAME}-{step}") and ckptd.verify(latest).ok

    def _check_the_lost_save(self, crew: Crew, codes: Sequence[int]) -> None:
        script, outcome, narrator, step = self._script, self._outcome, self._narrator, self._script.host_lost_at
        lost = script.ranks_on(len(script.hosts) - 1)
        others = [rank for rank in range(script.workers) if rank not in lost]
        outcome.claim(
            "the workers of the other hosts noticed and stopped",
            all(codes[rank] == -9 for rank in lost) and all(codes[rank] == LOST_PEER_EXIT_CODE for rank in others),
            f"exit codes {', '.join(map(str, codes))}",
        )
        failures = {event.rank: event for event in crew.of_kind("save_failed", step)}
        for event in list(failures.values())[:1]:
            narrator.line(f"worker {event.rank} was told: {event.text('error')}: {event.text('reason')}")
        naming = [rank for rank in others if rank in failures and script.is_named_in(failures[rank].text("reason"))]
        outcome.claim(
            f"the save of step {step} failed on each of them, naming host {script.victim} or its ranks",
            naming == others and not crew.of_kind("saved", step),
            f"named to workers {', '.join(map(str, naming)) or 'none'}",
        )
        until = time.monotonic() + _SWEEP_TIMEOUT_S
        while (left := self._keys(step)) and time.monotonic() < until:
            time.sleep(_LOOK_S)
        outcome.claim(f"nothing of step {step} is left", not left, ", ".join(left) if left else "no index, no shard")
        latest = str(ckptd.latest_checkpoint(self._run_url))
        narrator.line(f"the latest checkpoint is {latest}")
        outcome.claim(
            f"the latest checkpoint is still that of step {script.coordinator_killed_at}",
            latest.endswith(f"{NAME}-{script.coordinator_killed_at}"),
            latest,
        )

    # The second generation

    def _train_to_the_end(self, hosts: HostDaemons, lost_at: float) -> None:
        script, outcome, narrator = self._script, self._outcome, self._narrator
        names = script.hosts_after
        ranks = ", ".join(map(str, script.ranks_on(len(names) - 1)))
        narrator.chapter(f"Host {names[-1]} takes the place of host {script.victim}")
        hosts.start(names[-1])
        narrator.line(f"agent of host {names[-1]}: pid {hosts.pid(names[-1])}; ranks {ranks} are there from now on")
        with Crew(self._logs, popen=self._popen) as crew:
            crew.start(script.workers, lambda rank, peers: self._orders(hosts, names, rank, peers, waits=False))
            self._hear(crew, lambda: len(crew.of_kind("restored")) == script.workers)
            seconds = time.monotonic() - lost_at
            self._check_the_restored_state(crew, seconds)
            self._hear(crew, lambda: len(crew.of_kind("ended")) == script.workers)
            codes = crew.join(_CREW_TIMEOUT_S)
            self._take_in(crew)
            if any(codes):
                narrator.line(crew.complaints())
        done = [e for e in crew.of_kind("done") if e.number("step") == script.last_step]
        outcome.claim(
            f"{script.workers} workers trained on to step {script.last_step}",
            len(done) == script.workers and not any(codes),
            f"exit codes {', '.join(map(str, codes))}",
        )

    def _check_the_restored_state(self, crew: Crew, seconds: float) -> None:
        script, outcome = self._script, self._outcome
        restored = crew.of_kind("restored")
        steps = {int(event.number("step")) for event in restored}
        outcome.resumed_step = step = min(steps, default=0)
        held = self._saved[step].digest if step in self._saved else None
        found = states.as_told(restored)
        self._narrator.line(f"step {step}, as it was held:     sha256 {held}")
        self._narrator.line(f"step {step}, as it was restored: sha256 {found}")
        outcome.claim(
            f"all workers restored, bit for bit, what was held at step {script.coordinator_killed_at}",
            steps == {script.coordinator_killed_at} and found is not None and found == held,
            f"sha256 {str(found)[:16]}… against {str(held)[:16]}…",
        )
        outcome.claim(
            f"from the loss of the host to the restored state it took less than {script.most_lost_s:g} s",
            seconds < script.most_lost_s,
            f"{seconds:.1f} s",
        )

    # What is heard

    def _hear(self, crew: Crew, enough: Callable[[], bool]) -> None:
        if not enough():  # what it waits for may have come while another event was waited for
            crew.until(lambda _: enough(), _CREW_TIMEOUT_S, self._on_event)

    def _on_event(self, event: Event) -> None:
        script = self._script
        if event.kind == "step":
            self._step_times.append(event.number("seconds"))
            if event.rank == 0:
                self._narrator.training(int(event.number("step")), script.last_step, event.number("loss"))
        elif event.kind == "save_failed" and event.number("step") != script.host_lost_at:
            raise UnavailableError(
                f"the save of step {event.number('step'):.0f} failed on worker {event.rank}: {event.text('reason')}"
            )
        elif event.kind == "saved" and event.rank == 0:
            self._narrator.line(f"step {event.number('step'):.0f} saved in {event.number('duration_s') * 1e3:.0f} ms")

    def _take_in(self, crew: Crew) -> None:
        """Note the saves that all workers report as published, with the digest of what they held."""
        workers = self._script.workers
        for step in sorted({int(event.number("step")) for event in crew.of_kind("saved")}):
            saving, saved = crew.of_kind("saving", step), crew.of_kind("saved", step)
            if len(saving) == len(saved) == workers:
                self._saved[step] = Saved.of(saving, saved)

    def _measure(self) -> None:
        outcome = self._outcome
        outcome.step_s = statistics.median(self._step_times)
        outcome.num_saves = len(self._saved)
        outcome.stall_s = statistics.median(saved.stall_s for saved in self._saved.values())
        outcome.durable_s = statistics.median(saved.durable_s for saved in self._saved.values())
