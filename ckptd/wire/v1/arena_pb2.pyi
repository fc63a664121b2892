from ckptd.wire.v1 import common_pb2 as _common_pb2
from ckptd.wire.v1 import save_pb2 as _save_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class ArenaRequest(_message.Message):
    __slots__ = ("number", "hello", "open", "begin", "seal", "sums", "drop", "hold")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    HELLO_FIELD_NUMBER: _ClassVar[int]
    OPEN_FIELD_NUMBER: _ClassVar[int]
    BEGIN_FIELD_NUMBER: _ClassVar[int]
    SEAL_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    DROP_FIELD_NUMBER: _ClassVar[int]
    HOLD_FIELD_NUMBER: _ClassVar[int]
    number: int
    hello: ArenaHello
    open: ArenaOpen
    begin: ArenaBegin
    seal: ArenaSeal
    sums: ArenaSums
    drop: ArenaDrop
    hold: ArenaHold
    def __init__(self, number: _Optional[int] = ..., hello: _Optional[_Union[ArenaHello, _Mapping]] = ..., open: _Optional[_Union[ArenaOpen, _Mapping]] = ..., begin: _Optional[_Union[ArenaBegin, _Mapping]] = ..., seal: _Optional[_Union[ArenaSeal, _Mapping]] = ..., sums: _Optional[_Union[ArenaSums, _Mapping]] = ..., drop: _Optional[_Union[ArenaDrop, _Mapping]] = ..., hold: _Optional[_Union[ArenaHold, _Mapping]] = ...) -> None: ...

class ArenaReply(_message.Message):
    __slots__ = ("number", "error", "arenas", "runs", "save")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    ARENAS_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    number: int
    error: bytes
    arenas: _containers.RepeatedCompositeFieldContainer[ArenaMemory]
    runs: _containers.RepeatedCompositeFieldContainer[ArenaRun]
    save: ArenaHeldSave
    def __init__(self, number: _Optional[int] = ..., error: _Optional[bytes] = ..., arenas: _Optional[_Iterable[_Union[ArenaMemory, _Mapping]]] = ..., runs: _Optional[_Iterable[_Union[ArenaRun, _Mapping]]] = ..., save: _Optional[_Union[ArenaHeldSave, _Mapping]] = ...) -> None: ...

class ArenaHello(_message.Message):
    __slots__ = ("peer", "key")
    PEER_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    key: bytes
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., key: _Optional[bytes] = ...) -> None: ...

class ArenaOpen(_message.Message):
    __slots__ = ("run", "epoch", "rank", "incarnation", "size_bytes", "count")
    RUN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    COUNT_FIELD_NUMBER: _ClassVar[int]
    run: str
    epoch: int
    rank: int
    incarnation: str
    size_bytes: int
    count: int
    def __init__(self, run: _Optional[str] = ..., epoch: _Optional[int] = ..., rank: _Optional[int] = ..., incarnation: _Optional[str] = ..., size_bytes: _Optional[int] = ..., count: _Optional[int] = ...) -> None: ...

class ArenaMemory(_message.Message):
    __slots__ = ("id", "size_bytes", "in_use")
    ID_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IN_USE_FIELD_NUMBER: _ClassVar[int]
    id: int
    size_bytes: int
    in_use: bool
    def __init__(self, id: _Optional[int] = ..., size_bytes: _Optional[int] = ..., in_use: bool = ...) -> None: ...

class ArenaBegin(_message.Message):
    __slots__ = ("declare", "arena", "generation", "offsets", "manifest", "staged")
    DECLARE_FIELD_NUMBER: _ClassVar[int]
    ARENA_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    OFFSETS_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_FIELD_NUMBER: _ClassVar[int]
    STAGED_FIELD_NUMBER: _ClassVar[int]
    declare: _save_pb2.DeclareRequest
    arena: int
    generation: int
    offsets: bytes
    manifest: _containers.RepeatedCompositeFieldContainer[_save_pb2.ManifestPart]
    staged: bool
    def __init__(self, declare: _Optional[_Union[_save_pb2.DeclareRequest, _Mapping]] = ..., arena: _Optional[int] = ..., generation: _Optional[int] = ..., offsets: _Optional[bytes] = ..., manifest: _Optional[_Iterable[_Union[_save_pb2.ManifestPart, _Mapping]]] = ..., staged: bool = ...) -> None: ...

class ArenaSeal(_message.Message):
    __slots__ = ("request_id", "sums_follow", "crcs")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SUMS_FOLLOW_FIELD_NUMBER: _ClassVar[int]
    CRCS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    sums_follow: bool
    crcs: bytes
    def __init__(self, request_id: _Optional[str] = ..., sums_follow: bool = ..., crcs: _Optional[bytes] = ...) -> None: ...

class ArenaSums(_message.Message):
    __slots__ = ("request_id", "crcs")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CRCS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    crcs: bytes
    def __init__(self, request_id: _Optional[str] = ..., crcs: _Optional[bytes] = ...) -> None: ...

class ArenaDrop(_message.Message):
    __slots__ = ("request_id", "reason")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    reason: str
    def __init__(self, request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class ArenaHold(_message.Message):
    __slots__ = ("run", "key")
    RUN_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    run: str
    key: str
    def __init__(self, run: _Optional[str] = ..., key: _Optional[str] = ...) -> None: ...

class ArenaHeldSave(_message.Message):
    __slots__ = ("save_id", "index_crc32c")
    SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    INDEX_CRC32C_FIELD_NUMBER: _ClassVar[int]
    save_id: str
    index_crc32c: int
    def __init__(self, save_id: _Optional[str] = ..., index_crc32c: _Optional[int] = ...) -> None: ...

class ArenaRun(_message.Message):
    __slots__ = ("shard_key", "shard_offset", "arena", "generation", "arena_offset", "size_bytes")
    SHARD_KEY_FIELD_NUMBER: _ClassVar[int]
    SHARD_OFFSET_FIELD_NUMBER: _ClassVar[int]
    ARENA_FIELD_NUMBER: _ClassVar[int]
    GENERATION_FIELD_NUMBER: _ClassVar[int]
    ARENA_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    shard_key: str
    shard_offset: int
    arena: int
    generation: int
    arena_offset: int
    size_bytes: int
    def __init__(self, shard_key: _Optional[str] = ..., shard_offset: _Optional[int] = ..., arena: _Optional[int] = ..., generation: _Optional[int] = ..., arena_offset: _Optional[int] = ..., size_bytes: _Optional[int] = ...) -> None: ...
