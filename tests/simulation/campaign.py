"""Many lives, one after the other, and what they have in common.

python -m tests.simulation.campaign --saves 10000 [--hosts 3] [--seed 0] [--late 0.1]
"""

from __future__ import annotations

import argparse
import logging
import resource
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.simulation.life import Life

SAVES_A_LIFE = 50


@dataclass
class Figures:
    """What was lived through."""

    lives: int = 0
    saves: int = 0
    """Calls of `save` by a whole job."""
    acknowledged: int = 0
    failed: int = 0
    revived: int = 0
    events: int = 0
    coordinators: int = 0
    agents: int = 0
    most_waited_s: float = 0.0
    virtual_s: float = 0.0
    processor_s: float = 0.0
    memory_mib: float = 0.0
    """Of this process, at most."""
    faults: Counter[str] = field(default_factory=Counter)

    def add(self, life: Life) -> None:
        self.lives += 1
        self.saves += life.num_calls
        self.acknowledged += len(life.saved)
        self.failed += life.num_calls - len(life.saved)
        self.revived += len(life.judge.revived)
        self.events += life.world.num_events
        self.coordinators += life.num_coordinators
        self.agents += sum(host.num_lives for host in life.hosts)
        self.most_waited_s = max(self.most_waited_s, life.judge.most_waited_s)
        self.virtual_s += life.world.now
        self.faults.update(life.counts)

    def __str__(self) -> str:
        a_second = self.saves / max(self.processor_s, 1e-9)
        return (
            f"{self.saves} saves in {self.lives} lives ({self.virtual_s / 3600:.1f} h of their time): "
            f"{self.acknowledged} acknowledged, {self.failed} not; {self.revived} went on in the next term; "
            f"{self.coordinators} coordinators, {self.agents} agents, {self.faults.total()} faults "
            f"({', '.join(f'{name} {count}' for name, count in sorted(self.faults.items()))}); "
            f"longest wait {self.most_waited_s:.0f} s; {self.events} events, "
            f"{self.processor_s:.0f} s of processor time, {a_second:.3g} saves/s, {self.memory_mib:.0f} MiB"
        )


def campaign(num_saves: int, *, num_hosts: int = 3, first_seed: int = 0, late: float = 0.0) -> Figures:
    """Live until so many saves were called. Raises `BrokenPromiseError`, with the seed and the last lines."""
    figures, began, seed = Figures(), time.process_time(), first_seed
    while figures.saves < num_saves:
        figures.add(Life(seed, num_hosts, min(SAVES_A_LIFE, num_saves), late=late).run())
        seed += 1
    figures.processor_s = time.process_time() - began
    figures.memory_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return figures


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)  # thousands of requests that fail, as they are meant to
    parser = argparse.ArgumentParser()
    parser.add_argument("--saves", type=int, default=10_000)
    parser.add_argument("--hosts", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--late", type=float, default=0.0, help="of requests in trouble, that take effect much later")
    options = parser.parse_args()
    print(campaign(options.saves, num_hosts=options.hosts, first_seed=options.seed, late=options.late))
