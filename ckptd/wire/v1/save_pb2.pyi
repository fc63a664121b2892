from ckptd.wire.v1 import common_pb2 as _common_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class LaneTransport(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LANE_TRANSPORT_UNSPECIFIED: _ClassVar[LaneTransport]
    LANE_TRANSPORT_STREAM: _ClassVar[LaneTransport]
    LANE_TRANSPORT_ARENA: _ClassVar[LaneTransport]

class SavePhase(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    SAVE_PHASE_UNSPECIFIED: _ClassVar[SavePhase]
    SAVE_PHASE_UNKNOWN: _ClassVar[SavePhase]
    SAVE_PHASE_DECLARING: _ClassVar[SavePhase]
    SAVE_PHASE_FILLING: _ClassVar[SavePhase]
    SAVE_PHASE_SEALED: _ClassVar[SavePhase]
    SAVE_PHASE_COMMITTED: _ClassVar[SavePhase]
    SAVE_PHASE_PUBLISHED: _ClassVar[SavePhase]
    SAVE_PHASE_ABORTED: _ClassVar[SavePhase]
LANE_TRANSPORT_UNSPECIFIED: LaneTransport
LANE_TRANSPORT_STREAM: LaneTransport
LANE_TRANSPORT_ARENA: LaneTransport
SAVE_PHASE_UNSPECIFIED: SavePhase
SAVE_PHASE_UNKNOWN: SavePhase
SAVE_PHASE_DECLARING: SavePhase
SAVE_PHASE_FILLING: SavePhase
SAVE_PHASE_SEALED: SavePhase
SAVE_PHASE_COMMITTED: SavePhase
SAVE_PHASE_PUBLISHED: SavePhase
SAVE_PHASE_ABORTED: SavePhase

class JoinRequest(_message.Message):
    __slots__ = ("peer", "run", "rank", "world_size", "options")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    OPTIONS_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    rank: int
    world_size: int
    options: _common_pb2.RunOptions
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., rank: _Optional[int] = ..., world_size: _Optional[int] = ..., options: _Optional[_Union[_common_pb2.RunOptions, _Mapping]] = ...) -> None: ...

class JoinEvent(_message.Message):
    __slots__ = ("welcome",)
    WELCOME_FIELD_NUMBER: _ClassVar[int]
    welcome: Welcome
    def __init__(self, welcome: _Optional[_Union[Welcome, _Mapping]] = ...) -> None: ...

class Welcome(_message.Message):
    __slots__ = ("peer", "epoch", "lease_s", "root", "root_id", "max_message_bytes", "arena")
    PEER_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    MAX_MESSAGE_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARENA_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    epoch: int
    lease_s: float
    root: str
    root_id: str
    max_message_bytes: int
    arena: _common_pb2.ArenaAddress
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., epoch: _Optional[int] = ..., lease_s: _Optional[float] = ..., root: _Optional[str] = ..., root_id: _Optional[str] = ..., max_message_bytes: _Optional[int] = ..., arena: _Optional[_Union[_common_pb2.ArenaAddress, _Mapping]] = ...) -> None: ...

class LeaveRequest(_message.Message):
    __slots__ = ("peer", "run", "rank", "epoch")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    rank: int
    epoch: int
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., rank: _Optional[int] = ..., epoch: _Optional[int] = ...) -> None: ...

class LeaveReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Manifest(_message.Message):
    __slots__ = ("names", "dtypes", "ranks", "full_shapes", "tensor", "starts", "shapes", "sizes", "lengths_sizes", "lengths_crcs", "lengths_covered")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    FULL_SHAPES_FIELD_NUMBER: _ClassVar[int]
    TENSOR_FIELD_NUMBER: _ClassVar[int]
    STARTS_FIELD_NUMBER: _ClassVar[int]
    SHAPES_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_SIZES_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_CRCS_FIELD_NUMBER: _ClassVar[int]
    LENGTHS_COVERED_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[bytes]
    dtypes: _containers.RepeatedScalarFieldContainer[int]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    full_shapes: _containers.RepeatedScalarFieldContainer[int]
    tensor: _containers.RepeatedScalarFieldContainer[int]
    starts: _containers.RepeatedScalarFieldContainer[int]
    shapes: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    lengths_sizes: _containers.RepeatedScalarFieldContainer[int]
    lengths_crcs: _containers.RepeatedScalarFieldContainer[int]
    lengths_covered: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, names: _Optional[_Iterable[bytes]] = ..., dtypes: _Optional[_Iterable[int]] = ..., ranks: _Optional[_Iterable[int]] = ..., full_shapes: _Optional[_Iterable[int]] = ..., tensor: _Optional[_Iterable[int]] = ..., starts: _Optional[_Iterable[int]] = ..., shapes: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., lengths_sizes: _Optional[_Iterable[int]] = ..., lengths_crcs: _Optional[_Iterable[int]] = ..., lengths_covered: _Optional[_Iterable[int]] = ...) -> None: ...

class ManifestPart(_message.Message):
    __slots__ = ("digest", "data")
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    digest: bytes
    data: bytes
    def __init__(self, digest: _Optional[bytes] = ..., data: _Optional[bytes] = ...) -> None: ...

class PutManifestReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class DeclareRequest(_message.Message):
    __slots__ = ("save", "request_id", "world_size", "manifest_digest", "meta_graph", "overwrite", "timeout_s", "checkpoint_name", "pad_step_number", "meta_suffix", "unlisted", "hears_ends", "compared_parts", "compared_digests", "refuses_differences", "remarks", "again", "call")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    META_GRAPH_FIELD_NUMBER: _ClassVar[int]
    OVERWRITE_FIELD_NUMBER: _ClassVar[int]
    TIMEOUT_S_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_NAME_FIELD_NUMBER: _ClassVar[int]
    PAD_STEP_NUMBER_FIELD_NUMBER: _ClassVar[int]
    META_SUFFIX_FIELD_NUMBER: _ClassVar[int]
    UNLISTED_FIELD_NUMBER: _ClassVar[int]
    HEARS_ENDS_FIELD_NUMBER: _ClassVar[int]
    COMPARED_PARTS_FIELD_NUMBER: _ClassVar[int]
    COMPARED_DIGESTS_FIELD_NUMBER: _ClassVar[int]
    REFUSES_DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    REMARKS_FIELD_NUMBER: _ClassVar[int]
    AGAIN_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    save: _common_pb2.SaveIdentity
    request_id: str
    world_size: int
    manifest_digest: bytes
    meta_graph: bytes
    overwrite: bool
    timeout_s: float
    checkpoint_name: str
    pad_step_number: bool
    meta_suffix: str
    unlisted: bool
    hears_ends: bool
    compared_parts: bytes
    compared_digests: bytes
    refuses_differences: bool
    remarks: _containers.RepeatedCompositeFieldContainer[Remark]
    again: bool
    call: int
    def __init__(self, save: _Optional[_Union[_common_pb2.SaveIdentity, _Mapping]] = ..., request_id: _Optional[str] = ..., world_size: _Optional[int] = ..., manifest_digest: _Optional[bytes] = ..., meta_graph: _Optional[bytes] = ..., overwrite: bool = ..., timeout_s: _Optional[float] = ..., checkpoint_name: _Optional[str] = ..., pad_step_number: bool = ..., meta_suffix: _Optional[str] = ..., unlisted: bool = ..., hears_ends: bool = ..., compared_parts: _Optional[bytes] = ..., compared_digests: _Optional[bytes] = ..., refuses_differences: bool = ..., remarks: _Optional[_Iterable[_Union[Remark, _Mapping]]] = ..., again: bool = ..., call: _Optional[int] = ...) -> None: ...

class AwaitPlanRequest(_message.Message):
    __slots__ = ("save", "request_id")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    save: _common_pb2.SaveIdentity
    request_id: str
    def __init__(self, save: _Optional[_Union[_common_pb2.SaveIdentity, _Mapping]] = ..., request_id: _Optional[str] = ...) -> None: ...

class Remark(_message.Message):
    __slots__ = ("name", "digest", "what", "outline")
    NAME_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    OUTLINE_FIELD_NUMBER: _ClassVar[int]
    name: str
    digest: int
    what: str
    outline: bool
    def __init__(self, name: _Optional[str] = ..., digest: _Optional[int] = ..., what: _Optional[str] = ..., outline: bool = ...) -> None: ...

class DeclareReply(_message.Message):
    __slots__ = ("need_manifest", "assignment", "lane", "already_saved", "ended", "waiting", "differences")
    NEED_MANIFEST_FIELD_NUMBER: _ClassVar[int]
    ASSIGNMENT_FIELD_NUMBER: _ClassVar[int]
    LANE_FIELD_NUMBER: _ClassVar[int]
    ALREADY_SAVED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    WAITING_FIELD_NUMBER: _ClassVar[int]
    DIFFERENCES_FIELD_NUMBER: _ClassVar[int]
    need_manifest: NeedManifest
    assignment: Assignment
    lane: LanePart
    already_saved: _common_pb2.Checkpoint
    ended: bytes
    waiting: Waiting
    differences: _containers.RepeatedCompositeFieldContainer[Difference]
    def __init__(self, need_manifest: _Optional[_Union[NeedManifest, _Mapping]] = ..., assignment: _Optional[_Union[Assignment, _Mapping]] = ..., lane: _Optional[_Union[LanePart, _Mapping]] = ..., already_saved: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ..., ended: _Optional[bytes] = ..., waiting: _Optional[_Union[Waiting, _Mapping]] = ..., differences: _Optional[_Iterable[_Union[Difference, _Mapping]]] = ...) -> None: ...

class Difference(_message.Message):
    __slots__ = ("name", "what", "contradiction")
    NAME_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    CONTRADICTION_FIELD_NUMBER: _ClassVar[int]
    name: bytes
    what: str
    contradiction: bool
    def __init__(self, name: _Optional[bytes] = ..., what: _Optional[str] = ..., contradiction: bool = ...) -> None: ...

class NeedManifest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class Waiting(_message.Message):
    __slots__ = ("what",)
    WHAT_FIELD_NUMBER: _ClassVar[int]
    what: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, what: _Optional[_Iterable[str]] = ...) -> None: ...

class Assignment(_message.Message):
    __slots__ = ("save", "key", "num_shards", "num_lanes", "stream_port")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    NUM_LANES_FIELD_NUMBER: _ClassVar[int]
    STREAM_PORT_FIELD_NUMBER: _ClassVar[int]
    save: _common_pb2.SaveIdentity
    key: str
    num_shards: int
    num_lanes: int
    stream_port: int
    def __init__(self, save: _Optional[_Union[_common_pb2.SaveIdentity, _Mapping]] = ..., key: _Optional[str] = ..., num_shards: _Optional[int] = ..., num_lanes: _Optional[int] = ..., stream_port: _Optional[int] = ...) -> None: ...

class LanePart(_message.Message):
    __slots__ = ("shard", "key", "writers", "transport", "size_bytes", "request_budget", "items", "item_offsets", "sizes", "last")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    WRITERS_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    REQUEST_BUDGET_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    ITEM_OFFSETS_FIELD_NUMBER: _ClassVar[int]
    SIZES_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    shard: int
    key: str
    writers: _containers.RepeatedScalarFieldContainer[str]
    transport: LaneTransport
    size_bytes: int
    request_budget: int
    items: _containers.RepeatedScalarFieldContainer[int]
    item_offsets: _containers.RepeatedScalarFieldContainer[int]
    sizes: _containers.RepeatedScalarFieldContainer[int]
    last: bool
    def __init__(self, shard: _Optional[int] = ..., key: _Optional[str] = ..., writers: _Optional[_Iterable[str]] = ..., transport: _Optional[_Union[LaneTransport, str]] = ..., size_bytes: _Optional[int] = ..., request_budget: _Optional[int] = ..., items: _Optional[_Iterable[int]] = ..., item_offsets: _Optional[_Iterable[int]] = ..., sizes: _Optional[_Iterable[int]] = ..., last: bool = ...) -> None: ...

class WriteRequest(_message.Message):
    __slots__ = ("open", "chunk", "end")
    OPEN_FIELD_NUMBER: _ClassVar[int]
    CHUNK_FIELD_NUMBER: _ClassVar[int]
    END_FIELD_NUMBER: _ClassVar[int]
    open: WriteOpen
    chunk: Chunk
    end: LaneEnd
    def __init__(self, open: _Optional[_Union[WriteOpen, _Mapping]] = ..., chunk: _Optional[_Union[Chunk, _Mapping]] = ..., end: _Optional[_Union[LaneEnd, _Mapping]] = ...) -> None: ...

class WriteOpen(_message.Message):
    __slots__ = ("save", "shard")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    save: _common_pb2.SaveIdentity
    shard: int
    def __init__(self, save: _Optional[_Union[_common_pb2.SaveIdentity, _Mapping]] = ..., shard: _Optional[int] = ...) -> None: ...

class Chunk(_message.Message):
    __slots__ = ("position", "crc32c", "data")
    POSITION_FIELD_NUMBER: _ClassVar[int]
    CRC32C_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    position: int
    crc32c: int
    data: bytes
    def __init__(self, position: _Optional[int] = ..., crc32c: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class LaneEnd(_message.Message):
    __slots__ = ("first_segment", "crcs", "last")
    FIRST_SEGMENT_FIELD_NUMBER: _ClassVar[int]
    CRCS_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    first_segment: int
    crcs: bytes
    last: bool
    def __init__(self, first_segment: _Optional[int] = ..., crcs: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class WriteReply(_message.Message):
    __slots__ = ("received", "ended", "moved_to")
    RECEIVED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    MOVED_TO_FIELD_NUMBER: _ClassVar[int]
    received: int
    ended: bool
    moved_to: str
    def __init__(self, received: _Optional[int] = ..., ended: bool = ..., moved_to: _Optional[str] = ...) -> None: ...

class AwaitRequest(_message.Message):
    __slots__ = ("save", "wait_s", "hears_ends", "until_retired", "stalls", "only_looks")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    WAIT_S_FIELD_NUMBER: _ClassVar[int]
    HEARS_ENDS_FIELD_NUMBER: _ClassVar[int]
    UNTIL_RETIRED_FIELD_NUMBER: _ClassVar[int]
    STALLS_FIELD_NUMBER: _ClassVar[int]
    ONLY_LOOKS_FIELD_NUMBER: _ClassVar[int]
    save: _common_pb2.SaveIdentity
    wait_s: float
    hears_ends: bool
    until_retired: bool
    stalls: _containers.RepeatedCompositeFieldContainer[Stall]
    only_looks: bool
    def __init__(self, save: _Optional[_Union[_common_pb2.SaveIdentity, _Mapping]] = ..., wait_s: _Optional[float] = ..., hears_ends: bool = ..., until_retired: bool = ..., stalls: _Optional[_Iterable[_Union[Stall, _Mapping]]] = ..., only_looks: bool = ...) -> None: ...

class Stall(_message.Message):
    __slots__ = ("waiting_s", "preparing_s", "copying_s", "declaring_s", "save_id")
    WAITING_S_FIELD_NUMBER: _ClassVar[int]
    PREPARING_S_FIELD_NUMBER: _ClassVar[int]
    COPYING_S_FIELD_NUMBER: _ClassVar[int]
    DECLARING_S_FIELD_NUMBER: _ClassVar[int]
    SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    waiting_s: float
    preparing_s: float
    copying_s: float
    declaring_s: float
    save_id: str
    def __init__(self, waiting_s: _Optional[float] = ..., preparing_s: _Optional[float] = ..., copying_s: _Optional[float] = ..., declaring_s: _Optional[float] = ..., save_id: _Optional[str] = ...) -> None: ...

class AwaitReply(_message.Message):
    __slots__ = ("phase", "checkpoint", "error", "waiting_for", "retiring", "received_bytes", "size_bytes", "furthest_behind")
    PHASE_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    RETIRING_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    FURTHEST_BEHIND_FIELD_NUMBER: _ClassVar[int]
    phase: SavePhase
    checkpoint: _common_pb2.Checkpoint
    error: bytes
    waiting_for: _containers.RepeatedScalarFieldContainer[str]
    retiring: bool
    received_bytes: int
    size_bytes: int
    furthest_behind: int
    def __init__(self, phase: _Optional[_Union[SavePhase, str]] = ..., checkpoint: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ..., error: _Optional[bytes] = ..., waiting_for: _Optional[_Iterable[str]] = ..., retiring: bool = ..., received_bytes: _Optional[int] = ..., size_bytes: _Optional[int] = ..., furthest_behind: _Optional[int] = ...) -> None: ...

class AbortRequest(_message.Message):
    __slots__ = ("save", "reason", "request_id", "checkpoint_name")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_NAME_FIELD_NUMBER: _ClassVar[int]
    save: _common_pb2.SaveIdentity
    reason: str
    request_id: str
    checkpoint_name: str
    def __init__(self, save: _Optional[_Union[_common_pb2.SaveIdentity, _Mapping]] = ..., reason: _Optional[str] = ..., request_id: _Optional[str] = ..., checkpoint_name: _Optional[str] = ...) -> None: ...

class AbortReply(_message.Message):
    __slots__ = ("withdrawn",)
    WITHDRAWN_FIELD_NUMBER: _ClassVar[int]
    withdrawn: bool
    def __init__(self, withdrawn: bool = ...) -> None: ...
