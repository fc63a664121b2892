"""Messages between agents and their coordinator that are too long to be sent at once: they travel in parts."""

from __future__ import annotations

from typing import Any, Generic, TypeVar

from google.protobuf.message import DecodeError

from ckptd.errors import InvalidRequestError
from ckptd.wire.v1 import agent_pb2

PART_BYTES = 1 << 20
MOST_TOLD_BYTES = 1 << 30
"""Of what a coordinator tells at once."""

MOST_SAID_BYTES = 64 << 20
"""Of what an agent says at once: several saves, each with what its ranks say beside their tensors."""

M = TypeVar("M", agent_pb2.AgentMessage, agent_pb2.CoordinatorMessage)


def in_parts(message: M) -> list[M]:
    """Return the messages that a message travels as: itself, unless it is too long for one."""
    if message.ByteSize() <= PART_BYTES:
        return [message]
    data, kind = message.SerializeToString(), type(message)
    cut = range(0, len(data), PART_BYTES)
    parts = [agent_pb2.MessagePart(data=data[at : at + PART_BYTES], last=at == cut[-1]) for at in cut]
    return [kind(part=part) for part in parts]


class Joined(Generic[M]):
    """Joins what travels in parts; see `in_parts`."""

    def __init__(self, kind: type[M], most_bytes: int) -> None:
        """Begin without any; together they are to be a `kind`."""
        self._kind: type[M] = kind
        self._most_bytes = most_bytes
        self._data = bytearray()

    def add(self, message: M) -> M | None:
        """Take the next message that came; return the one that is whole by it, if any."""
        if message.WhichOneof("kind") != "part":
            return message
        if len(self._data) + len(message.part.data) > self._most_bytes:
            raise InvalidRequestError("a message in parts is too long", expected=f"at most {self._most_bytes} bytes")
        self._data += message.part.data
        if not message.part.last:
            return None
        data, self._data = bytes(self._data), bytearray()
        try:
            whole: Any = self._kind.FromString(data)
        except DecodeError:
            raise InvalidRequestError(f"{len(data)} bytes in parts are no {self._kind.DESCRIPTOR.name}") from None
        return whole  # type: ignore[no-any-return]
