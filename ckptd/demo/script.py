"""What the demo plays: how many workers, how many steps, and when one is killed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Protocol


class Ending(Protocol):
    """What is expected of the checkpoints in the end."""

    @property
    def max_to_keep(self) -> int:
        """How many are kept."""

    @property
    def least_accuracy(self) -> float:
        """Which share of unseen digits the last one recognises."""


@dataclass(frozen=True, slots=True)
class Script:
    """How long the story is, and when the blow falls. `killed_step` is a step at which the workers save."""

    workers: int = 4
    hidden: int = 8192
    last_step: int = 200
    save_every: int = 20
    killed_step: int = 120
    max_to_keep: int = 6
    least_accuracy: float = 0.95
    is_watched: bool = False  # its page is shown, and the daemon stays until someone has seen enough

    @property
    def victim(self) -> int:
        """The rank that is killed."""
        return self.workers // 2

    @property
    def survivors(self) -> int:
        """How many workers go on."""
        return self.workers - 1


@dataclass(frozen=True, slots=True)
class HostsScript:
    """The story on many hosts. At each of the three steps the workers save; the last host is the victim."""

    num_hosts: int = 3
    workers_per_host: int = 2
    hidden: int = 4096
    last_step: int = 120
    save_every: int = 20
    agent_killed_at: int = 40
    coordinator_killed_at: int = 60
    host_lost_at: int = 80
    max_to_keep: int = 4
    least_accuracy: float = 0.95
    lease_s: float = 10.0
    most_lost_s: float = 30.0

    @property
    def hosts(self) -> tuple[str, ...]:
        """The names of the hosts at the beginning."""
        return tuple(f"h{number}" for number in range(1, self.num_hosts + 1))

    @property
    def hosts_after(self) -> tuple[str, ...]:
        """The names of the hosts once the victim is replaced."""
        return (*self.hosts[:-1], f"h{self.num_hosts + 1}")

    @property
    def victim(self) -> str:
        """The host whose processes are killed."""
        return self.hosts[-1]

    @property
    def workers(self) -> int:
        """How many there are on all hosts."""
        return self.num_hosts * self.workers_per_host

    @property
    def held_steps(self) -> tuple[int, ...]:
        """The steps whose saves are interrupted."""
        return self.agent_killed_at, self.coordinator_killed_at, self.host_lost_at

    def ranks_on(self, host: int) -> range:
        """Return the ranks on a host, by its place among the hosts."""
        return range(host * self.workers_per_host, (host + 1) * self.workers_per_host)

    def is_named_in(self, reason: str) -> bool:
        """Say whether an error names the victim, or a rank on it."""
        ranks = self.ranks_on(self.num_hosts - 1)
        return f"agent on {self.victim}" in reason or any(
            re.search(rf"ranks? {rank}\b", reason) is not None for rank in ranks
        )
