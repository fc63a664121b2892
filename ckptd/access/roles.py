"""Rights, and the roles that a policy gives them by.

| role | may |
|---|---|
| `metrics` | read the figures of these runs over HTTP (`/metrics`), and nothing else |
| `read` | `metrics`; list, read and watch checkpoints |
| `save` | `read`; join and save; pin; delete so that it can be undone, never below the run's floor |
| `manage` | `read`; pin, unpin, delete (at once and the latest, too), undelete, prune, repair, lift a quarantine |
| `agent` | write shards of its host; relay what its ranks read, save, pin, and delete so that it can be undone |
| `admin` | all of this; abort and evict others, see every run in `status`, drain |
"""

from __future__ import annotations

from enum import Enum


class Right(Enum):
    """What a call needs on its run."""

    METRICS = "metrics"
    READ = "read"
    SAVE = "save"
    MANAGE = "manage"
    AGENT = "agent"
    ADMIN = "admin"


ROLES: dict[str, frozenset[Right]] = {
    "metrics": frozenset({Right.METRICS}),
    "read": frozenset({Right.METRICS, Right.READ}),
    "save": frozenset({Right.METRICS, Right.READ, Right.SAVE}),
    "manage": frozenset({Right.METRICS, Right.READ, Right.MANAGE}),
    "agent": frozenset({Right.AGENT}),
    "admin": frozenset(Right),
}
