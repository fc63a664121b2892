from ckptd.wire.v1 import common_pb2 as _common_pb2
from ckptd.wire.v1 import save_pb2 as _save_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class AgentLife(_message.Message):
    __slots__ = ("host", "incarnation", "born", "boot", "started_by")
    HOST_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    BORN_FIELD_NUMBER: _ClassVar[int]
    BOOT_FIELD_NUMBER: _ClassVar[int]
    STARTED_BY_FIELD_NUMBER: _ClassVar[int]
    host: str
    incarnation: str
    born: float
    boot: str
    started_by: str
    def __init__(self, host: _Optional[str] = ..., incarnation: _Optional[str] = ..., born: _Optional[float] = ..., boot: _Optional[str] = ..., started_by: _Optional[str] = ...) -> None: ...

class HostDeclaration(_message.Message):
    __slots__ = ("request_id", "run", "step", "ranks", "world_size", "manifest_digest", "size_bytes", "call", "since_term", "parts", "known_layout")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    MANIFEST_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    CALL_FIELD_NUMBER: _ClassVar[int]
    SINCE_TERM_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    KNOWN_LAYOUT_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    run: str
    step: int
    ranks: _containers.RepeatedScalarFieldContainer[int]
    world_size: int
    manifest_digest: bytes
    size_bytes: int
    call: int
    since_term: int
    parts: _containers.RepeatedCompositeFieldContainer[RankPart]
    known_layout: bytes
    def __init__(self, request_id: _Optional[str] = ..., run: _Optional[str] = ..., step: _Optional[int] = ..., ranks: _Optional[_Iterable[int]] = ..., world_size: _Optional[int] = ..., manifest_digest: _Optional[bytes] = ..., size_bytes: _Optional[int] = ..., call: _Optional[int] = ..., since_term: _Optional[int] = ..., parts: _Optional[_Iterable[_Union[RankPart, _Mapping]]] = ..., known_layout: _Optional[bytes] = ...) -> None: ...

class RankPart(_message.Message):
    __slots__ = ("join", "declare")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    DECLARE_FIELD_NUMBER: _ClassVar[int]
    join: _save_pb2.JoinRequest
    declare: _save_pb2.DeclareRequest
    def __init__(self, join: _Optional[_Union[_save_pb2.JoinRequest, _Mapping]] = ..., declare: _Optional[_Union[_save_pb2.DeclareRequest, _Mapping]] = ...) -> None: ...

class Receipt(_message.Message):
    __slots__ = ("save", "by", "shard", "key", "size_bytes", "version", "durability", "sums")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    VERSION_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    SUMS_FIELD_NUMBER: _ClassVar[int]
    save: str
    by: AgentLife
    shard: int
    key: str
    size_bytes: int
    version: str
    durability: _common_pb2.Durability
    sums: bytes
    def __init__(self, save: _Optional[str] = ..., by: _Optional[_Union[AgentLife, _Mapping]] = ..., shard: _Optional[int] = ..., key: _Optional[str] = ..., size_bytes: _Optional[int] = ..., version: _Optional[str] = ..., durability: _Optional[_Union[_common_pb2.Durability, str]] = ..., sums: _Optional[bytes] = ...) -> None: ...

class Receipts(_message.Message):
    __slots__ = ("receipts",)
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    def __init__(self, receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ...) -> None: ...

class CarriedSave(_message.Message):
    __slots__ = ("declaration", "save", "layout_digest", "sealed")
    DECLARATION_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    declaration: HostDeclaration
    save: str
    layout_digest: bytes
    sealed: Receipts
    def __init__(self, declaration: _Optional[_Union[HostDeclaration, _Mapping]] = ..., save: _Optional[str] = ..., layout_digest: _Optional[bytes] = ..., sealed: _Optional[_Union[Receipts, _Mapping]] = ...) -> None: ...

class AgentMessage(_message.Message):
    __slots__ = ("hello", "beat", "declare", "sealed", "failed", "end_seen", "part")
    HELLO_FIELD_NUMBER: _ClassVar[int]
    BEAT_FIELD_NUMBER: _ClassVar[int]
    DECLARE_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    FAILED_FIELD_NUMBER: _ClassVar[int]
    END_SEEN_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    hello: Hello
    beat: Beat
    declare: DeclareHost
    sealed: PartSealed
    failed: PartFailed
    end_seen: EndSeen
    part: MessagePart
    def __init__(self, hello: _Optional[_Union[Hello, _Mapping]] = ..., beat: _Optional[_Union[Beat, _Mapping]] = ..., declare: _Optional[_Union[DeclareHost, _Mapping]] = ..., sealed: _Optional[_Union[PartSealed, _Mapping]] = ..., failed: _Optional[_Union[PartFailed, _Mapping]] = ..., end_seen: _Optional[_Union[EndSeen, _Mapping]] = ..., part: _Optional[_Union[MessagePart, _Mapping]] = ...) -> None: ...

class Label(_message.Message):
    __slots__ = ("name", "value")
    NAME_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    name: str
    value: str
    def __init__(self, name: _Optional[str] = ..., value: _Optional[str] = ...) -> None: ...

class TrialReport(_message.Message):
    __slots__ = ("word", "place", "got_lock", "problem")
    WORD_FIELD_NUMBER: _ClassVar[int]
    PLACE_FIELD_NUMBER: _ClassVar[int]
    GOT_LOCK_FIELD_NUMBER: _ClassVar[int]
    PROBLEM_FIELD_NUMBER: _ClassVar[int]
    word: str
    place: str
    got_lock: bool
    problem: str
    def __init__(self, word: _Optional[str] = ..., place: _Optional[str] = ..., got_lock: bool = ..., problem: _Optional[str] = ...) -> None: ...

class Hello(_message.Message):
    __slots__ = ("agent", "root_id", "highest_term", "addresses", "labels", "members", "saves", "peer", "trial")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    ROOT_ID_FIELD_NUMBER: _ClassVar[int]
    HIGHEST_TERM_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    LABELS_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    SAVES_FIELD_NUMBER: _ClassVar[int]
    PEER_FIELD_NUMBER: _ClassVar[int]
    TRIAL_FIELD_NUMBER: _ClassVar[int]
    agent: AgentLife
    root_id: str
    highest_term: int
    addresses: _containers.RepeatedScalarFieldContainer[str]
    labels: _containers.RepeatedCompositeFieldContainer[Label]
    members: _containers.RepeatedScalarFieldContainer[int]
    saves: _containers.RepeatedCompositeFieldContainer[CarriedSave]
    peer: _common_pb2.Peer
    trial: TrialReport
    def __init__(self, agent: _Optional[_Union[AgentLife, _Mapping]] = ..., root_id: _Optional[str] = ..., highest_term: _Optional[int] = ..., addresses: _Optional[_Iterable[str]] = ..., labels: _Optional[_Iterable[_Union[Label, _Mapping]]] = ..., members: _Optional[_Iterable[int]] = ..., saves: _Optional[_Iterable[_Union[CarriedSave, _Mapping]]] = ..., peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., trial: _Optional[_Union[TrialReport, _Mapping]] = ...) -> None: ...

class Owed(_message.Message):
    __slots__ = ("save", "bytes", "ranks", "rank_bytes")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    RANK_BYTES_FIELD_NUMBER: _ClassVar[int]
    save: str
    bytes: int
    ranks: _containers.RepeatedScalarFieldContainer[int]
    rank_bytes: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, save: _Optional[str] = ..., bytes: _Optional[int] = ..., ranks: _Optional[_Iterable[int]] = ..., rank_bytes: _Optional[_Iterable[int]] = ...) -> None: ...

class Beat(_message.Message):
    __slots__ = ("agent", "term", "owed", "reading", "ends", "is_last")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    OWED_FIELD_NUMBER: _ClassVar[int]
    READING_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    IS_LAST_FIELD_NUMBER: _ClassVar[int]
    agent: AgentLife
    term: int
    owed: _containers.RepeatedCompositeFieldContainer[Owed]
    reading: _containers.RepeatedScalarFieldContainer[str]
    ends: _containers.RepeatedCompositeFieldContainer[HeardEnd]
    is_last: bool
    def __init__(self, agent: _Optional[_Union[AgentLife, _Mapping]] = ..., term: _Optional[int] = ..., owed: _Optional[_Iterable[_Union[Owed, _Mapping]]] = ..., reading: _Optional[_Iterable[str]] = ..., ends: _Optional[_Iterable[_Union[HeardEnd, _Mapping]]] = ..., is_last: bool = ...) -> None: ...

class DeclareHost(_message.Message):
    __slots__ = ("agent", "term", "declaration")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    DECLARATION_FIELD_NUMBER: _ClassVar[int]
    agent: AgentLife
    term: int
    declaration: HostDeclaration
    def __init__(self, agent: _Optional[_Union[AgentLife, _Mapping]] = ..., term: _Optional[int] = ..., declaration: _Optional[_Union[HostDeclaration, _Mapping]] = ...) -> None: ...

class PartSealed(_message.Message):
    __slots__ = ("agent", "term", "request_id", "save", "receipts")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    RECEIPTS_FIELD_NUMBER: _ClassVar[int]
    agent: AgentLife
    term: int
    request_id: str
    save: str
    receipts: _containers.RepeatedCompositeFieldContainer[Receipt]
    def __init__(self, agent: _Optional[_Union[AgentLife, _Mapping]] = ..., term: _Optional[int] = ..., request_id: _Optional[str] = ..., save: _Optional[str] = ..., receipts: _Optional[_Iterable[_Union[Receipt, _Mapping]]] = ...) -> None: ...

class PartFailed(_message.Message):
    __slots__ = ("agent", "term", "request_id", "save", "reason", "rank", "error")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    agent: AgentLife
    term: int
    request_id: str
    save: str
    reason: str
    rank: int
    error: bytes
    def __init__(self, agent: _Optional[_Union[AgentLife, _Mapping]] = ..., term: _Optional[int] = ..., request_id: _Optional[str] = ..., save: _Optional[str] = ..., reason: _Optional[str] = ..., rank: _Optional[int] = ..., error: _Optional[bytes] = ...) -> None: ...

class HeardEnd(_message.Message):
    __slots__ = ("save", "request_id")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    save: str
    request_id: str
    def __init__(self, save: _Optional[str] = ..., request_id: _Optional[str] = ...) -> None: ...

class EndSeen(_message.Message):
    __slots__ = ("agent", "term", "save", "request_id", "is_sole")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    IS_SOLE_FIELD_NUMBER: _ClassVar[int]
    agent: AgentLife
    term: int
    save: str
    request_id: str
    is_sole: bool
    def __init__(self, agent: _Optional[_Union[AgentLife, _Mapping]] = ..., term: _Optional[int] = ..., save: _Optional[str] = ..., request_id: _Optional[str] = ..., is_sole: bool = ...) -> None: ...

class MessagePart(_message.Message):
    __slots__ = ("data", "last")
    DATA_FIELD_NUMBER: _ClassVar[int]
    LAST_FIELD_NUMBER: _ClassVar[int]
    data: bytes
    last: bool
    def __init__(self, data: _Optional[bytes] = ..., last: bool = ...) -> None: ...

class CoordinatorMessage(_message.Message):
    __slots__ = ("attached", "fenced", "replaced", "go", "ended", "part", "not_yet")
    ATTACHED_FIELD_NUMBER: _ClassVar[int]
    FENCED_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    GO_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    PART_FIELD_NUMBER: _ClassVar[int]
    NOT_YET_FIELD_NUMBER: _ClassVar[int]
    attached: Attached
    fenced: Fenced
    replaced: Replaced
    go: Go
    ended: SaveEnded
    part: MessagePart
    not_yet: NotYet
    def __init__(self, attached: _Optional[_Union[Attached, _Mapping]] = ..., fenced: _Optional[_Union[Fenced, _Mapping]] = ..., replaced: _Optional[_Union[Replaced, _Mapping]] = ..., go: _Optional[_Union[Go, _Mapping]] = ..., ended: _Optional[_Union[SaveEnded, _Mapping]] = ..., part: _Optional[_Union[MessagePart, _Mapping]] = ..., not_yet: _Optional[_Union[NotYet, _Mapping]] = ...) -> None: ...

class Attached(_message.Message):
    __slots__ = ("term", "lease_s", "ends", "hears")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    ENDS_FIELD_NUMBER: _ClassVar[int]
    HEARS_FIELD_NUMBER: _ClassVar[int]
    term: int
    lease_s: float
    ends: _containers.RepeatedScalarFieldContainer[str]
    hears: bool
    def __init__(self, term: _Optional[int] = ..., lease_s: _Optional[float] = ..., ends: _Optional[_Iterable[str]] = ..., hears: bool = ...) -> None: ...

class Fenced(_message.Message):
    __slots__ = ("term", "holder")
    TERM_FIELD_NUMBER: _ClassVar[int]
    HOLDER_FIELD_NUMBER: _ClassVar[int]
    term: int
    holder: str
    def __init__(self, term: _Optional[int] = ..., holder: _Optional[str] = ...) -> None: ...

class NotYet(_message.Message):
    __slots__ = ("term", "request_id", "reason")
    TERM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    term: int
    request_id: str
    reason: str
    def __init__(self, term: _Optional[int] = ..., request_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class Replaced(_message.Message):
    __slots__ = ("term", "by")
    TERM_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    term: int
    by: AgentLife
    def __init__(self, term: _Optional[int] = ..., by: _Optional[_Union[AgentLife, _Mapping]] = ...) -> None: ...

class Go(_message.Message):
    __slots__ = ("term", "request_id", "save", "num_shards", "shard", "key", "size_bytes", "layout_digest", "share", "prefix_key", "attempt", "guests", "passing", "part_bytes", "uploads_at_once", "requests_per_s")
    TERM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    SHARD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    LAYOUT_DIGEST_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_KEY_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    GUESTS_FIELD_NUMBER: _ClassVar[int]
    PASSING_FIELD_NUMBER: _ClassVar[int]
    PART_BYTES_FIELD_NUMBER: _ClassVar[int]
    UPLOADS_AT_ONCE_FIELD_NUMBER: _ClassVar[int]
    REQUESTS_PER_S_FIELD_NUMBER: _ClassVar[int]
    term: int
    request_id: str
    save: str
    num_shards: int
    shard: int
    key: str
    size_bytes: int
    layout_digest: bytes
    share: HostShare
    prefix_key: str
    attempt: int
    guests: _containers.RepeatedCompositeFieldContainer[Guest]
    passing: _containers.RepeatedCompositeFieldContainer[Passing]
    part_bytes: int
    uploads_at_once: int
    requests_per_s: float
    def __init__(self, term: _Optional[int] = ..., request_id: _Optional[str] = ..., save: _Optional[str] = ..., num_shards: _Optional[int] = ..., shard: _Optional[int] = ..., key: _Optional[str] = ..., size_bytes: _Optional[int] = ..., layout_digest: _Optional[bytes] = ..., share: _Optional[_Union[HostShare, _Mapping]] = ..., prefix_key: _Optional[str] = ..., attempt: _Optional[int] = ..., guests: _Optional[_Iterable[_Union[Guest, _Mapping]]] = ..., passing: _Optional[_Iterable[_Union[Passing, _Mapping]]] = ..., part_bytes: _Optional[int] = ..., uploads_at_once: _Optional[int] = ..., requests_per_s: _Optional[float] = ...) -> None: ...

class Guest(_message.Message):
    __slots__ = ("rank", "incarnation", "host")
    RANK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    rank: int
    incarnation: str
    host: str
    def __init__(self, rank: _Optional[int] = ..., incarnation: _Optional[str] = ..., host: _Optional[str] = ...) -> None: ...

class Passing(_message.Message):
    __slots__ = ("shard", "key", "host", "by", "addresses", "size_bytes", "share")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    SHARE_FIELD_NUMBER: _ClassVar[int]
    shard: int
    key: str
    host: str
    by: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    size_bytes: int
    share: HostShare
    def __init__(self, shard: _Optional[int] = ..., key: _Optional[str] = ..., host: _Optional[str] = ..., by: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., size_bytes: _Optional[int] = ..., share: _Optional[_Union[HostShare, _Mapping]] = ...) -> None: ...

class HostShare(_message.Message):
    __slots__ = ("names", "dtypes", "ranks", "full_shapes", "entry_tensor", "entry_offset", "entry_size", "entry_lengths_crc", "segment_entry", "segment_rank", "segment_item", "segment_item_offset", "segment_size", "segment_offset", "segment_is_lengths", "literals")
    NAMES_FIELD_NUMBER: _ClassVar[int]
    DTYPES_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    FULL_SHAPES_FIELD_NUMBER: _ClassVar[int]
    ENTRY_TENSOR_FIELD_NUMBER: _ClassVar[int]
    ENTRY_OFFSET_FIELD_NUMBER: _ClassVar[int]
    ENTRY_SIZE_FIELD_NUMBER: _ClassVar[int]
    ENTRY_LENGTHS_CRC_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_ENTRY_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_RANK_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_ITEM_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_ITEM_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_SIZE_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_OFFSET_FIELD_NUMBER: _ClassVar[int]
    SEGMENT_IS_LENGTHS_FIELD_NUMBER: _ClassVar[int]
    LITERALS_FIELD_NUMBER: _ClassVar[int]
    names: _containers.RepeatedScalarFieldContainer[bytes]
    dtypes: _containers.RepeatedScalarFieldContainer[int]
    ranks: _containers.RepeatedScalarFieldContainer[int]
    full_shapes: _containers.RepeatedScalarFieldContainer[int]
    entry_tensor: bytes
    entry_offset: bytes
    entry_size: bytes
    entry_lengths_crc: bytes
    segment_entry: bytes
    segment_rank: bytes
    segment_item: bytes
    segment_item_offset: bytes
    segment_size: bytes
    segment_offset: bytes
    segment_is_lengths: bytes
    literals: _containers.RepeatedCompositeFieldContainer[ShareLiteral]
    def __init__(self, names: _Optional[_Iterable[bytes]] = ..., dtypes: _Optional[_Iterable[int]] = ..., ranks: _Optional[_Iterable[int]] = ..., full_shapes: _Optional[_Iterable[int]] = ..., entry_tensor: _Optional[bytes] = ..., entry_offset: _Optional[bytes] = ..., entry_size: _Optional[bytes] = ..., entry_lengths_crc: _Optional[bytes] = ..., segment_entry: _Optional[bytes] = ..., segment_rank: _Optional[bytes] = ..., segment_item: _Optional[bytes] = ..., segment_item_offset: _Optional[bytes] = ..., segment_size: _Optional[bytes] = ..., segment_offset: _Optional[bytes] = ..., segment_is_lengths: _Optional[bytes] = ..., literals: _Optional[_Iterable[_Union[ShareLiteral, _Mapping]]] = ...) -> None: ...

class ShareLiteral(_message.Message):
    __slots__ = ("offset", "data")
    OFFSET_FIELD_NUMBER: _ClassVar[int]
    DATA_FIELD_NUMBER: _ClassVar[int]
    offset: int
    data: bytes
    def __init__(self, offset: _Optional[int] = ..., data: _Optional[bytes] = ...) -> None: ...

class SaveEnded(_message.Message):
    __slots__ = ("term", "request_id", "save", "prefix", "reason", "unknown", "checkpoint", "error", "index_crc32c")
    TERM_FIELD_NUMBER: _ClassVar[int]
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_FIELD_NUMBER: _ClassVar[int]
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    INDEX_CRC32C_FIELD_NUMBER: _ClassVar[int]
    term: int
    request_id: str
    save: str
    prefix: str
    reason: str
    unknown: bool
    checkpoint: _common_pb2.Checkpoint
    error: bytes
    index_crc32c: int
    def __init__(self, term: _Optional[int] = ..., request_id: _Optional[str] = ..., save: _Optional[str] = ..., prefix: _Optional[str] = ..., reason: _Optional[str] = ..., unknown: bool = ..., checkpoint: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ..., error: _Optional[bytes] = ..., index_crc32c: _Optional[int] = ...) -> None: ...

class PlaceRequest(_message.Message):
    __slots__ = ("join", "host")
    JOIN_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    join: _save_pb2.JoinRequest
    host: str
    def __init__(self, join: _Optional[_Union[_save_pb2.JoinRequest, _Mapping]] = ..., host: _Optional[str] = ...) -> None: ...

class PlaceReply(_message.Message):
    __slots__ = ("epoch",)
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    epoch: int
    def __init__(self, epoch: _Optional[int] = ...) -> None: ...

class DepartRequest(_message.Message):
    __slots__ = ("leave", "for_good", "host")
    LEAVE_FIELD_NUMBER: _ClassVar[int]
    FOR_GOOD_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    leave: _save_pb2.LeaveRequest
    for_good: bool
    host: str
    def __init__(self, leave: _Optional[_Union[_save_pb2.LeaveRequest, _Mapping]] = ..., for_good: bool = ..., host: _Optional[str] = ...) -> None: ...

class DepartReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NeighboursRequest(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class NeighboursReply(_message.Message):
    __slots__ = ("neighbours",)
    NEIGHBOURS_FIELD_NUMBER: _ClassVar[int]
    neighbours: _containers.RepeatedCompositeFieldContainer[Neighbour]
    def __init__(self, neighbours: _Optional[_Iterable[_Union[Neighbour, _Mapping]]] = ...) -> None: ...

class Neighbour(_message.Message):
    __slots__ = ("host", "addresses")
    HOST_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    host: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, host: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ...) -> None: ...

class OfferRequest(_message.Message):
    __slots__ = ("agent", "saves")
    AGENT_FIELD_NUMBER: _ClassVar[int]
    SAVES_FIELD_NUMBER: _ClassVar[int]
    agent: AgentLife
    saves: _containers.RepeatedCompositeFieldContainer[HeldSave]
    def __init__(self, agent: _Optional[_Union[AgentLife, _Mapping]] = ..., saves: _Optional[_Iterable[_Union[HeldSave, _Mapping]]] = ...) -> None: ...

class HeldSave(_message.Message):
    __slots__ = ("run", "save", "shards")
    RUN_FIELD_NUMBER: _ClassVar[int]
    SAVE_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    run: str
    save: str
    shards: _containers.RepeatedCompositeFieldContainer[HeldShard]
    def __init__(self, run: _Optional[str] = ..., save: _Optional[str] = ..., shards: _Optional[_Iterable[_Union[HeldShard, _Mapping]]] = ...) -> None: ...

class HeldShard(_message.Message):
    __slots__ = ("shard", "bytes")
    SHARD_FIELD_NUMBER: _ClassVar[int]
    BYTES_FIELD_NUMBER: _ClassVar[int]
    shard: int
    bytes: int
    def __init__(self, shard: _Optional[int] = ..., bytes: _Optional[int] = ...) -> None: ...

class OfferReply(_message.Message):
    __slots__ = ("gone",)
    GONE_FIELD_NUMBER: _ClassVar[int]
    gone: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, gone: _Optional[_Iterable[str]] = ...) -> None: ...

class WhereRequest(_message.Message):
    __slots__ = ("key",)
    KEY_FIELD_NUMBER: _ClassVar[int]
    key: str
    def __init__(self, key: _Optional[str] = ...) -> None: ...

class WhereReply(_message.Message):
    __slots__ = ("save", "holders")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    HOLDERS_FIELD_NUMBER: _ClassVar[int]
    save: str
    holders: _containers.RepeatedCompositeFieldContainer[Holder]
    def __init__(self, save: _Optional[str] = ..., holders: _Optional[_Iterable[_Union[Holder, _Mapping]]] = ...) -> None: ...

class Holder(_message.Message):
    __slots__ = ("host", "shards")
    HOST_FIELD_NUMBER: _ClassVar[int]
    SHARDS_FIELD_NUMBER: _ClassVar[int]
    host: str
    shards: _containers.RepeatedCompositeFieldContainer[HeldShard]
    def __init__(self, host: _Optional[str] = ..., shards: _Optional[_Iterable[_Union[HeldShard, _Mapping]]] = ...) -> None: ...
