from ckptd.wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LatestRequest(_message.Message):
    __slots__ = ("peer", "run", "name")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    name: str
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class LatestReply(_message.Message):
    __slots__ = ("checkpoint", "root", "root_id", "arena")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    ARENA_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _common_pb2.Checkpoint
    root: str
    root_id: str
    arena: _common_pb2.ArenaAddress
    def __init__(self, checkpoint: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ..., root: _Optional[str] = ..., root_id: _Optional[str] = ..., arena: _Optional[_Union[_common_pb2.ArenaAddress, _Mapping]] = ...) -> None: ...

class ListRequest(_message.Message):
    __slots__ = ("peer", "run")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ...) -> None: ...

class ListReply(_message.Message):
    __slots__ = ("checkpoints", "root", "root_id", "arena")
    CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    ARENA_FIELD_NUMBER: _ClassVar[int]
    checkpoints: _containers.RepeatedCompositeFieldContainer[_common_pb2.Checkpoint]
    root: str
    root_id: str
    arena: _common_pb2.ArenaAddress
    def __init__(self, checkpoints: _Optional[_Iterable[_Union[_common_pb2.Checkpoint, _Mapping]]] = ..., root: _Optional[str] = ..., root_id: _Optional[str] = ..., arena: _Optional[_Union[_common_pb2.ArenaAddress, _Mapping]] = ...) -> None: ...

class ReadRequest(_message.Message):
    __slots__ = ("peer", "key", "offset", "size")
    PEER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    key: str
    offset: int
    size: int
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., key: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

class ReadReply(_message.Message):
    __slots__ = ("data", "object_size", "modified_at", "version")
    DATA_FIELD_NUMBER: _ClassVar[int]
    OBJECT_SIZE_FIELD_NUMBER: _ClassVar[int]
    MODIFIED_AT_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    object_size: int
    modified_at: float
    version: str
    def __init__(self, data: _Optional[bytes] = ..., object_size: _Optional[int] = ..., modified_at: _Optional[float] = ..., version: _Optional[str] = ...) -> None: ...
