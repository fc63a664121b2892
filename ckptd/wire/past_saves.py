"""Saves that have ended, on the wire."""

from __future__ import annotations

from ckptd.engine.catalog.past_saves import PastSave
from ckptd.wire.v1 import admin_pb2

_DOUBTFUL = "backslashreplace"  # a text of a client may hold what no message does


def to_wire(save: PastSave) -> admin_pb2.PastSave:
    """Write one."""
    return admin_pb2.PastSave(
        save_id=_text(save.save_id),
        step=save.step,
        outcome=save.outcome,
        began_at=save.began_at,
        duration_s=save.duration_s,
        prefix=_text(save.prefix),
        size_bytes=save.size_bytes,
        world_size=save.world_size,
        phases_s=save.phases_s,
        received_bytes=save.received_bytes,
        stall_s=save.stall_s,
        lag_s=save.lag_s,
        slowest_rank=save.slowest_rank,
        last_to_declare=save.last_to_declare,
        error=save.error,
        reason=_text(save.reason),
    )


def from_wire(message: admin_pb2.PastSave) -> PastSave:
    """Read one."""
    return PastSave(
        message.save_id,
        message.step if message.HasField("step") else None,
        message.outcome,
        message.began_at,
        message.duration_s,
        message.prefix,
        message.size_bytes,
        message.world_size,
        dict(message.phases_s),
        dict(message.received_bytes),
        dict(message.stall_s),
        message.lag_s if message.HasField("lag_s") else None,
        message.slowest_rank if message.HasField("slowest_rank") else None,
        message.last_to_declare if message.HasField("last_to_declare") else None,
        message.error,
        message.reason,
    )


def _text(text: str) -> str:
    return text.encode("utf-8", _DOUBTFUL).decode("utf-8")
