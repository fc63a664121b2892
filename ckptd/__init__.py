"""ckptd: checkpoints of distributed training, in TensorFlow's V2 format, whole or not at all.

Names are loaded when they are first used: `import ckptd` costs nothing, and tools that only read never load gRPC.
"""

from __future__ import annotations

import concurrent.futures.thread  # later it can't be: once the main thread has ended, it refuses  # noqa: F401
from typing import TYPE_CHECKING

from ckptd import lazy, version

if TYPE_CHECKING:
    from ckptd.client.checkpointer import Checkpointer
    from ckptd.client.following import follow
    from ckptd.client.paths.latest import (
        checkpoint_exists,
        checkpoints_iterator,
        get_checkpoint_state,
        latest_checkpoint,
    )
    from ckptd.client.paths.state_functions import get_checkpoint_mtimes, remove_checkpoint, update_checkpoint_state
    from ckptd.client.paths.writing import save_checkpoint
    from ckptd.client.policy import SavePolicy
    from ckptd.client.restoring.reader import CheckpointReader, list_variables, load_checkpoint, load_variable, verify
    from ckptd.client.saver.saver import Saver
    from ckptd.client.saving.pending import PendingSave
    from ckptd.client.slice import Slice
    from ckptd.client.watch import Watch
    from ckptd.engine.checkpoint import Checkpoint
    from ckptd.engine.reading.verify import Problem, Report
    from ckptd.errors import (
        CkptdError,
        ConflictError,
        CorruptionError,
        EvictedError,
        InvalidRequestError,
        NotFoundError,
        NotPermittedError,
        SessionAbortedError,
        StorageFullError,
        UnavailableError,
        VersionMismatchError,
    )
    from ckptd.format.saver_pb2 import SaverDef
    from ckptd.format.state_file import CheckpointState
    from ckptd.storage.base import Durability

__version__ = version.VERSION

__all__ = [
    "Checkpoint",
    "CheckpointReader",
    "CheckpointState",
    "Checkpointer",
    "CkptdError",
    "ConflictError",
    "CorruptionError",
    "Durability",
    "EvictedError",
    "InvalidRequestError",
    "NotFoundError",
    "NotPermittedError",
    "PendingSave",
    "Problem",
    "Report",
    "SavePolicy",
    "Saver",
    "SaverDef",
    "SessionAbortedError",
    "Slice",
    "StorageFullError",
    "UnavailableError",
    "VersionMismatchError",
    "Watch",
    "checkpoint_exists",
    "checkpoints_iterator",
    "follow",
    "get_checkpoint_mtimes",
    "get_checkpoint_state",
    "latest_checkpoint",
    "list_variables",
    "load_checkpoint",
    "load_variable",
    "remove_checkpoint",
    "save_checkpoint",
    "update_checkpoint_state",
    "verify",
]

_HOMES = {
    "Checkpoint": "ckptd.engine.checkpoint",
    "CheckpointReader": "ckptd.client.restoring.reader",
    "CheckpointState": "ckptd.format.state_file",
    "Checkpointer": "ckptd.client.checkpointer",
    "Durability": "ckptd.storage.base",
    "PendingSave": "ckptd.client.saving.pending",
    "Problem": "ckptd.engine.reading.verify",
    "Report": "ckptd.engine.reading.verify",
    "SavePolicy": "ckptd.client.policy",
    "Saver": "ckptd.client.saver.saver",
    "SaverDef": "ckptd.format.saver_pb2",
    "Slice": "ckptd.client.slice",
    "Watch": "ckptd.client.watch",
    "checkpoint_exists": "ckptd.client.paths.latest",
    "checkpoints_iterator": "ckptd.client.paths.latest",
    "follow": "ckptd.client.following",
    "get_checkpoint_mtimes": "ckptd.client.paths.state_functions",
    "get_checkpoint_state": "ckptd.client.paths.latest",
    "latest_checkpoint": "ckptd.client.paths.latest",
    "list_variables": "ckptd.client.restoring.reader",
    "load_checkpoint": "ckptd.client.restoring.reader",
    "load_variable": "ckptd.client.restoring.reader",
    "remove_checkpoint": "ckptd.client.paths.state_functions",
    "save_checkpoint": "ckptd.client.paths.writing",
    "update_checkpoint_state": "ckptd.client.paths.state_functions",
    "verify": "ckptd.client.restoring.reader",
} | {name: "ckptd.errors" for name in __all__ if name.endswith("Error")}

__getattr__, __dir__ = lazy.names(__name__, _HOMES)
