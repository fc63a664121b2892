"""The services' methods, read off the descriptors: one table for the daemon's handlers and the clients' stubs.

No generated service code: the four protos already say everything, and this way both ends use the hand-written
codec of `chunks` where bulk data flows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import grpc
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from ckptd.errors import InvalidRequestError
from ckptd.wire import chunks
from ckptd.wire.v1 import admin_pb2, agent_pb2, read_pb2, save_pb2, watch_pb2

Encode = Callable[[Any], bytes]
Decode = Callable[[bytes], Any]


@dataclass(frozen=True, slots=True)
class Method:
    """One method of one service: its path, its shape, and how its messages become bytes and come back."""

    service: str
    name: str
    request_streaming: bool
    reply_streaming: bool
    request_type: type[Message]
    reply_type: type[Message]
    encode_request: Encode
    decode_request: Decode
    encode_reply: Encode
    decode_reply: Decode

    @property
    def path(self) -> str:
        """The HTTP/2 path: ``/ckptd.wire.v1.SaveService/Join``."""
        return f"/{self.service}/{self.name}"

    @property
    def brings_data(self) -> bool:
        """Whether its requests are streamed because they are large."""
        return self.request_streaming and self.request_type is not agent_pb2.AgentMessage


def encode_message(message: Message | bytes) -> bytes:
    """Return a message's bytes; bytes are taken as a message that was encoded before."""
    return message if isinstance(message, bytes) else bytes(message.SerializeToString())


def decoder(kind: type[Message]) -> Decode:
    """Return a function that parses `kind` and raises `InvalidRequestError` for bytes that are no such message."""

    def decode(data: bytes) -> Message:
        try:
            return kind.FromString(data)
        except DecodeError as e:
            raise InvalidRequestError(f"{len(data)} bytes are no {kind.DESCRIPTOR.name}") from e

    return decode


def _method(service: ServiceDescriptor, method: MethodDescriptor) -> Method:
    request_type = GetMessageClass(method.input_type)
    reply_type = GetMessageClass(method.output_type)
    by_hand_request = request_type is save_pb2.WriteRequest
    by_hand_reply = reply_type is read_pb2.ReadReply
    return Method(
        service=service.full_name,
        name=method.name,
        request_streaming=method.client_streaming,
        reply_streaming=method.server_streaming,
        request_type=request_type,
        reply_type=reply_type,
        encode_request=chunks.encode_write if by_hand_request else encode_message,
        decode_request=chunks.decode_write if by_hand_request else decoder(request_type),
        encode_reply=encode_message,
        decode_reply=chunks.decode_read_reply if by_hand_reply else decoder(reply_type),
    )


def _methods(service: ServiceDescriptor) -> dict[str, Method]:
    return {method.name: _method(service, method) for method in service.methods}


def _service(module: Any, name: str) -> ServiceDescriptor:
    return cast(ServiceDescriptor, module.DESCRIPTOR.services_by_name[name])


SAVE = _methods(_service(save_pb2, "SaveService"))
READ = _methods(_service(read_pb2, "ReadService"))
WATCH = _methods(_service(watch_pb2, "WatchService"))
ADMIN = _methods(_service(admin_pb2, "AdminService"))
AGENT = _methods(_service(agent_pb2, "AgentService"))

ALL: tuple[Method, ...] = tuple(method for service in (SAVE, READ, WATCH, ADMIN, AGENT) for method in service.values())
SERVICES: tuple[str, ...] = tuple(dict.fromkeys(method.service for method in ALL))
RUN_HEALTH = "run/"
"""Begins the name that gRPC's health service knows a run by, once another owner has taken it over."""


class Stub:
    """The methods of one service on one channel, as attributes: ``stub.Join(request, timeout=5)``.

    Each attribute is the channel's multicallable: unary methods return the reply, streaming ones a call to iterate
    and to cancel. `WriteRequest` may be given as `chunks.Chunk`, and `Read` yields memoryviews of the data after one
    `ReadReply` that describes the object. Raises `grpc.RpcError`: pass it through `status.from_wire`.
    """

    def __init__(self, channel: grpc.Channel, methods: Mapping[str, Method]) -> None:
        self._calls = {name: _multicallable(channel, method) for name, method in methods.items()}

    def __getattr__(self, name: str) -> Any:
        calls: dict[str, Any] = self.__dict__.get("_calls", {})
        try:
            return calls[name]
        except KeyError:
            raise AttributeError(f"this service has no method {name}") from None


def _multicallable(channel: grpc.Channel, method: Method) -> Any:
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    make = kinds[method.request_streaming, method.reply_streaming]
    return make(method.path, request_serializer=method.encode_request, response_deserializer=method.decode_reply)


def handlers(
    methods: Iterable[Method], behaviour: Callable[[Method], Any]
) -> tuple[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
    """Return the name of one service and what a server registers for it; `behaviour(method)` gives what answers.

    The functions get and give *bytes*: a server that let gRPC decode would answer malformed messages as if the
    daemon had a bug, instead of naming the caller's.
    """
    methods = tuple(methods)
    kinds: dict[tuple[bool, bool], Any] = {
        (False, False): grpc.unary_unary_rpc_method_handler,
        (False, True): grpc.unary_stream_rpc_method_handler,
        (True, False): grpc.stream_unary_rpc_method_handler,
        (True, True): grpc.stream_stream_rpc_method_handler,
    }
    made = {
        method.name: kinds[method.request_streaming, method.reply_streaming](behaviour(method)) for method in methods
    }
    return methods[0].service, made
