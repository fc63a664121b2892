from ckptd.wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Agreement(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    AGREEMENT_UNSPECIFIED: _ClassVar[Agreement]
    AGREEMENT_WAITING: _ClassVar[Agreement]
    AGREEMENT_AGREED: _ClassVar[Agreement]
    AGREEMENT_GO_BACK: _ClassVar[Agreement]
AGREEMENT_UNSPECIFIED: Agreement
AGREEMENT_WAITING: Agreement
AGREEMENT_AGREED: Agreement
AGREEMENT_GO_BACK: Agreement

class Restoring(_message.Message):
    __slots__ = ("id", "rank", "world_size", "together")
    ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    TOGETHER_FIELD_NUMBER: _ClassVar[int]
    id: str
    rank: int
    world_size: int
    together: bool
    def __init__(self, id: _Optional[str] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., together: bool = ...) -> None: ...

class CheckDamageRequest(_message.Message):
    __slots__ = ("peer", "run", "key", "save_id", "object_key", "offset", "reason", "restoring")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    OBJECT_KEY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RESTORING_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    key: str
    save_id: str
    object_key: str
    offset: int
    reason: str
    restoring: Restoring
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., key: _Optional[str] = ..., save_id: _Optional[str] = ..., object_key: _Optional[str] = ..., offset: _Optional[int] = ..., reason: _Optional[str] = ..., restoring: _Optional[_Union[Restoring, _Mapping]] = ...) -> None: ...

class CheckDamageReply(_message.Message):
    __slots__ = ("confirmed", "reason", "listed_no_more", "others")
    CONFIRMED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    LISTED_NO_MORE_FIELD_NUMBER: _ClassVar[int]
    OTHERS_FIELD_NUMBER: _ClassVar[int]
    confirmed: bool
    reason: str
    listed_no_more: bool
    others: str
    def __init__(self, confirmed: bool = ..., reason: _Optional[str] = ..., listed_no_more: bool = ..., others: _Optional[str] = ...) -> None: ...

class AgreeRequest(_message.Message):
    __slots__ = ("peer", "run", "name", "restoring", "prefix", "whole")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESTORING_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    WHOLE_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    name: str
    restoring: Restoring
    prefix: str
    whole: bool
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., name: _Optional[str] = ..., restoring: _Optional[_Union[Restoring, _Mapping]] = ..., prefix: _Optional[str] = ..., whole: bool = ...) -> None: ...

class AgreeReply(_message.Message):
    __slots__ = ("agreement", "missing")
    AGREEMENT_FIELD_NUMBER: _ClassVar[int]
    MISSING_FIELD_NUMBER: _ClassVar[int]
    agreement: Agreement
    missing: str
    def __init__(self, agreement: _Optional[_Union[Agreement, str]] = ..., missing: _Optional[str] = ...) -> None: ...

class RestoredRequest(_message.Message):
    __slots__ = ("peer", "run", "seconds", "shm_bytes", "grpc_bytes", "direct_bytes")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    SECONDS_FIELD_NUMBER: _ClassVar[int]
    SHM_BYTES_FIELD_NUMBER: _ClassVar[int]
    GRPC_BYTES_FIELD_NUMBER: _ClassVar[int]
    DIRECT_BYTES_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    seconds: float
    shm_bytes: int
    grpc_bytes: int
    direct_bytes: int
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., seconds: _Optional[float] = ..., shm_bytes: _Optional[int] = ..., grpc_bytes: _Optional[int] = ..., direct_bytes: _Optional[int] = ...) -> None: ...

class RestoredReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class LatestRequest(_message.Message):
    __slots__ = ("peer", "run", "name", "restoring")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    RESTORING_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    name: str
    restoring: Restoring
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., name: _Optional[str] = ..., restoring: _Optional[_Union[Restoring, _Mapping]] = ...) -> None: ...

class LatestReply(_message.Message):
    __slots__ = ("checkpoint", "root", "root_id", "arena", "passed_by")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    ARENA_FIELD_NUMBER: _ClassVar[int]
    PASSED_BY_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _common_pb2.Checkpoint
    root: str
    root_id: str
    arena: _common_pb2.ArenaAddress
    passed_by: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, checkpoint: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ..., root: _Optional[str] = ..., root_id: _Optional[str] = ..., arena: _Optional[_Union[_common_pb2.ArenaAddress, _Mapping]] = ..., passed_by: _Optional[_Iterable[str]] = ...) -> None: ...

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
    __slots__ = ("peer", "key", "offset", "size", "for_agent", "held_save", "originals", "then", "slices", "num_ranks")
    PEER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    FOR_AGENT_FIELD_NUMBER: _ClassVar[int]
    HELD_SAVE_FIELD_NUMBER: _ClassVar[int]
    ORIGINALS_FIELD_NUMBER: _ClassVar[int]
    THEN_FIELD_NUMBER: _ClassVar[int]
    SLICES_FIELD_NUMBER: _ClassVar[int]
    NUM_RANKS_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    key: str
    offset: int
    size: int
    for_agent: bool
    held_save: str
    originals: bool
    then: _containers.RepeatedCompositeFieldContainer[ObjectRange]
    slices: _containers.RepeatedCompositeFieldContainer[SlicePart]
    num_ranks: int
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., key: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ..., for_agent: bool = ..., held_save: _Optional[str] = ..., originals: bool = ..., then: _Optional[_Iterable[_Union[ObjectRange, _Mapping]]] = ..., slices: _Optional[_Iterable[_Union[SlicePart, _Mapping]]] = ..., num_ranks: _Optional[int] = ...) -> None: ...

class SlicePart(_message.Message):
    __slots__ = ("offset", "size", "crc32c", "wanted_bytes")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    WANTED_BYTES_FIELD_NUMBER: _ClassVar[int]
    offset: int
    size: int
    crc32c: int
    wanted_bytes: int
    def __init__(self, offset: _Optional[int] = ..., size: _Optional[int] = ..., crc32c: _Optional[int] = ..., wanted_bytes: _Optional[int] = ...) -> None: ...

class ObjectRange(_message.Message):
    __slots__ = ("key", "offset", "size")
    KEY_FIELD_NUMBER: _ClassVar[int]
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_FIELD_NUMBER: _ClassVar[int]
    key: str
    offset: int
    size: int
    def __init__(self, key: _Optional[str] = ..., offset: _Optional[int] = ..., size: _Optional[int] = ...) -> None: ...

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
