from ckptd.wire.v1 import common_pb2 as _common_pb2
from ckptd.wire.v1 import save_pb2 as _save_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class OpenPageRequest(_message.Message):
    __slots__ = ("peer",)
    PEER_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ...) -> None: ...

class OpenPageReply(_message.Message):
    __slots__ = ("http", "path", "expires_s")
    HTTP_FIELD_NUMBER: _ClassVar[int]
    PATH_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_S_FIELD_NUMBER: _ClassVar[int]
    http: str
    path: str
    expires_s: float
    def __init__(self, http: _Optional[str] = ..., path: _Optional[str] = ..., expires_s: _Optional[float] = ...) -> None: ...

class StatusRequest(_message.Message):
    __slots__ = ("peer", "after_run", "after_host", "most_ranks")
    PEER_FIELD_NUMBER: _ClassVar[int]
    AFTER_RUN_FIELD_NUMBER: _ClassVar[int]
    AFTER_HOST_FIELD_NUMBER: _ClassVar[int]
    MOST_RANKS_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    after_run: str
    after_host: str
    most_ranks: int
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., after_run: _Optional[str] = ..., after_host: _Optional[str] = ..., most_ranks: _Optional[int] = ...) -> None: ...

class StatusReply(_message.Message):
    __slots__ = ("peer", "root", "durability", "uptime_s", "listening", "free_bytes", "runs", "draining", "warnings", "arena_bytes", "arena_limit_bytes", "write_mode", "stream_ports", "next_after", "limits", "open_files", "open_files_limit", "hosts", "attending", "http")
    PEER_FIELD_NUMBER: _ClassVar[int]
    ROOT_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    UPTIME_S_FIELD_NUMBER: _ClassVar[int]
    LISTENING_FIELD_NUMBER: _ClassVar[int]
    FREE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RUNS_FIELD_NUMBER: _ClassVar[int]
    DRAINING_FIELD_NUMBER: _ClassVar[int]
    WARNINGS_FIELD_NUMBER: _ClassVar[int]
    ARENA_BYTES_FIELD_NUMBER: _ClassVar[int]
    ARENA_LIMIT_BYTES_FIELD_NUMBER: _ClassVar[int]
    WRITE_MODE_FIELD_NUMBER: _ClassVar[int]
    STREAM_PORTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_FIELD_NUMBER: _ClassVar[int]
    OPEN_FILES_LIMIT_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    ATTENDING_FIELD_NUMBER: _ClassVar[int]
    HTTP_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    root: str
    durability: _common_pb2.Durability
    uptime_s: float
    listening: _containers.RepeatedScalarFieldContainer[str]
    free_bytes: int
    runs: _containers.RepeatedCompositeFieldContainer[RunStatus]
    draining: bool
    warnings: _containers.RepeatedScalarFieldContainer[str]
    arena_bytes: int
    arena_limit_bytes: int
    write_mode: str
    stream_ports: _containers.RepeatedScalarFieldContainer[int]
    next_after: str
    limits: _containers.RepeatedCompositeFieldContainer[LimitUse]
    open_files: int
    open_files_limit: int
    hosts: HostsStatus
    attending: AttendingStatus
    http: str
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., root: _Optional[str] = ..., durability: _Optional[_Union[_common_pb2.Durability, str]] = ..., uptime_s: _Optional[float] = ..., listening: _Optional[_Iterable[str]] = ..., free_bytes: _Optional[int] = ..., runs: _Optional[_Iterable[_Union[RunStatus, _Mapping]]] = ..., draining: bool = ..., warnings: _Optional[_Iterable[str]] = ..., arena_bytes: _Optional[int] = ..., arena_limit_bytes: _Optional[int] = ..., write_mode: _Optional[str] = ..., stream_ports: _Optional[_Iterable[int]] = ..., next_after: _Optional[str] = ..., limits: _Optional[_Iterable[_Union[LimitUse, _Mapping]]] = ..., open_files: _Optional[int] = ..., open_files_limit: _Optional[int] = ..., hosts: _Optional[_Union[HostsStatus, _Mapping]] = ..., attending: _Optional[_Union[AttendingStatus, _Mapping]] = ..., http: _Optional[str] = ...) -> None: ...

class HostsStatus(_message.Message):
    __slots__ = ("term", "lease_s", "fenced_by", "hosts", "next_after")
    TERM_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    FENCED_BY_FIELD_NUMBER: _ClassVar[int]
    HOSTS_FIELD_NUMBER: _ClassVar[int]
    NEXT_AFTER_FIELD_NUMBER: _ClassVar[int]
    term: int
    lease_s: float
    fenced_by: str
    hosts: _containers.RepeatedCompositeFieldContainer[HostStatus]
    next_after: str
    def __init__(self, term: _Optional[int] = ..., lease_s: _Optional[float] = ..., fenced_by: _Optional[str] = ..., hosts: _Optional[_Iterable[_Union[HostStatus, _Mapping]]] = ..., next_after: _Optional[str] = ...) -> None: ...

class HostStatus(_message.Message):
    __slots__ = ("host", "addresses", "attended_s", "silent_s", "lost", "bytes_per_s", "ranks", "parts")
    HOST_FIELD_NUMBER: _ClassVar[int]
    ADDRESSES_FIELD_NUMBER: _ClassVar[int]
    ATTENDED_S_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    LOST_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    PARTS_FIELD_NUMBER: _ClassVar[int]
    host: str
    addresses: _containers.RepeatedScalarFieldContainer[str]
    attended_s: float
    silent_s: float
    lost: bool
    bytes_per_s: float
    ranks: _containers.RepeatedCompositeFieldContainer[HostRanks]
    parts: _containers.RepeatedCompositeFieldContainer[HostPart]
    def __init__(self, host: _Optional[str] = ..., addresses: _Optional[_Iterable[str]] = ..., attended_s: _Optional[float] = ..., silent_s: _Optional[float] = ..., lost: bool = ..., bytes_per_s: _Optional[float] = ..., ranks: _Optional[_Iterable[_Union[HostRanks, _Mapping]]] = ..., parts: _Optional[_Iterable[_Union[HostPart, _Mapping]]] = ...) -> None: ...

class HostRanks(_message.Message):
    __slots__ = ("run", "ranks")
    RUN_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    run: str
    ranks: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, run: _Optional[str] = ..., ranks: _Optional[_Iterable[int]] = ...) -> None: ...

class HostPart(_message.Message):
    __slots__ = ("run", "step", "save_id", "ranks", "declared", "sealed", "size_bytes", "owed_bytes")
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    SEALED_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    OWED_BYTES_FIELD_NUMBER: _ClassVar[int]
    run: str
    step: int
    save_id: str
    ranks: _containers.RepeatedScalarFieldContainer[int]
    declared: bool
    sealed: bool
    size_bytes: int
    owed_bytes: int
    def __init__(self, run: _Optional[str] = ..., step: _Optional[int] = ..., save_id: _Optional[str] = ..., ranks: _Optional[_Iterable[int]] = ..., declared: bool = ..., sealed: bool = ..., size_bytes: _Optional[int] = ..., owed_bytes: _Optional[int] = ...) -> None: ...

class AttendingStatus(_message.Message):
    __slots__ = ("host", "coordinator", "term", "attends", "silent_s", "lease_s", "replaced", "peers", "why_not")
    HOST_FIELD_NUMBER: _ClassVar[int]
    COORDINATOR_FIELD_NUMBER: _ClassVar[int]
    TERM_FIELD_NUMBER: _ClassVar[int]
    ATTENDS_FIELD_NUMBER: _ClassVar[int]
    SILENT_S_FIELD_NUMBER: _ClassVar[int]
    LEASE_S_FIELD_NUMBER: _ClassVar[int]
    REPLACED_FIELD_NUMBER: _ClassVar[int]
    PEERS_FIELD_NUMBER: _ClassVar[int]
    WHY_NOT_FIELD_NUMBER: _ClassVar[int]
    host: str
    coordinator: str
    term: int
    attends: bool
    silent_s: float
    lease_s: float
    replaced: bool
    peers: _containers.RepeatedCompositeFieldContainer[PeerStatus]
    why_not: str
    def __init__(self, host: _Optional[str] = ..., coordinator: _Optional[str] = ..., term: _Optional[int] = ..., attends: bool = ..., silent_s: _Optional[float] = ..., lease_s: _Optional[float] = ..., replaced: bool = ..., peers: _Optional[_Iterable[_Union[PeerStatus, _Mapping]]] = ..., why_not: _Optional[str] = ...) -> None: ...

class PeerStatus(_message.Message):
    __slots__ = ("host", "address", "sent_bytes", "read_bytes", "bytes_per_s")
    HOST_FIELD_NUMBER: _ClassVar[int]
    ADDRESS_FIELD_NUMBER: _ClassVar[int]
    SENT_BYTES_FIELD_NUMBER: _ClassVar[int]
    READ_BYTES_FIELD_NUMBER: _ClassVar[int]
    BYTES_PER_S_FIELD_NUMBER: _ClassVar[int]
    host: str
    address: str
    sent_bytes: int
    read_bytes: int
    bytes_per_s: float
    def __init__(self, host: _Optional[str] = ..., address: _Optional[str] = ..., sent_bytes: _Optional[int] = ..., read_bytes: _Optional[int] = ..., bytes_per_s: _Optional[float] = ...) -> None: ...

class LimitUse(_message.Message):
    __slots__ = ("subject", "what", "used", "most")
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    WHAT_FIELD_NUMBER: _ClassVar[int]
    USED_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    subject: str
    what: str
    used: int
    most: int
    def __init__(self, subject: _Optional[str] = ..., what: _Optional[str] = ..., used: _Optional[int] = ..., most: _Optional[int] = ...) -> None: ...

class RunStatus(_message.Message):
    __slots__ = ("run", "epoch", "world_size", "connected_ranks", "saves", "latest", "num_checkpoints", "last_error", "arena_ranks", "num_arenas", "arena_bytes", "quarantined", "problems", "damaged")
    RUN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    CONNECTED_RANKS_FIELD_NUMBER: _ClassVar[int]
    SAVES_FIELD_NUMBER: _ClassVar[int]
    LATEST_FIELD_NUMBER: _ClassVar[int]
    NUM_CHECKPOINTS_FIELD_NUMBER: _ClassVar[int]
    LAST_ERROR_FIELD_NUMBER: _ClassVar[int]
    ARENA_RANKS_FIELD_NUMBER: _ClassVar[int]
    NUM_ARENAS_FIELD_NUMBER: _ClassVar[int]
    ARENA_BYTES_FIELD_NUMBER: _ClassVar[int]
    QUARANTINED_FIELD_NUMBER: _ClassVar[int]
    PROBLEMS_FIELD_NUMBER: _ClassVar[int]
    DAMAGED_FIELD_NUMBER: _ClassVar[int]
    run: str
    epoch: int
    world_size: int
    connected_ranks: _containers.RepeatedScalarFieldContainer[int]
    saves: _containers.RepeatedCompositeFieldContainer[LiveSave]
    latest: _common_pb2.Checkpoint
    num_checkpoints: int
    last_error: str
    arena_ranks: _containers.RepeatedScalarFieldContainer[int]
    num_arenas: int
    arena_bytes: int
    quarantined: str
    problems: _containers.RepeatedScalarFieldContainer[str]
    damaged: _containers.RepeatedCompositeFieldContainer[Damaged]
    def __init__(self, run: _Optional[str] = ..., epoch: _Optional[int] = ..., world_size: _Optional[int] = ..., connected_ranks: _Optional[_Iterable[int]] = ..., saves: _Optional[_Iterable[_Union[LiveSave, _Mapping]]] = ..., latest: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ..., num_checkpoints: _Optional[int] = ..., last_error: _Optional[str] = ..., arena_ranks: _Optional[_Iterable[int]] = ..., num_arenas: _Optional[int] = ..., arena_bytes: _Optional[int] = ..., quarantined: _Optional[str] = ..., problems: _Optional[_Iterable[str]] = ..., damaged: _Optional[_Iterable[_Union[Damaged, _Mapping]]] = ...) -> None: ...

class Damaged(_message.Message):
    __slots__ = ("name", "save_id", "reason", "since", "by")
    NAME_FIELD_NUMBER: _ClassVar[int]
    SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    SINCE_FIELD_NUMBER: _ClassVar[int]
    BY_FIELD_NUMBER: _ClassVar[int]
    name: str
    save_id: str
    reason: str
    since: float
    by: str
    def __init__(self, name: _Optional[str] = ..., save_id: _Optional[str] = ..., reason: _Optional[str] = ..., since: _Optional[float] = ..., by: _Optional[str] = ...) -> None: ...

class LiveSave(_message.Message):
    __slots__ = ("save", "phase", "size_bytes", "received_bytes", "age_s", "waiting_for", "transports", "needed_ranks", "crossing_bytes", "ranks", "num_ranks")
    SAVE_FIELD_NUMBER: _ClassVar[int]
    PHASE_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    AGE_S_FIELD_NUMBER: _ClassVar[int]
    WAITING_FOR_FIELD_NUMBER: _ClassVar[int]
    TRANSPORTS_FIELD_NUMBER: _ClassVar[int]
    NEEDED_RANKS_FIELD_NUMBER: _ClassVar[int]
    CROSSING_BYTES_FIELD_NUMBER: _ClassVar[int]
    RANKS_FIELD_NUMBER: _ClassVar[int]
    NUM_RANKS_FIELD_NUMBER: _ClassVar[int]
    save: _common_pb2.SaveIdentity
    phase: str
    size_bytes: int
    received_bytes: int
    age_s: float
    waiting_for: _containers.RepeatedScalarFieldContainer[str]
    transports: _containers.RepeatedScalarFieldContainer[_save_pb2.LaneTransport]
    needed_ranks: _containers.RepeatedScalarFieldContainer[int]
    crossing_bytes: int
    ranks: _containers.RepeatedCompositeFieldContainer[RankProgress]
    num_ranks: int
    def __init__(self, save: _Optional[_Union[_common_pb2.SaveIdentity, _Mapping]] = ..., phase: _Optional[str] = ..., size_bytes: _Optional[int] = ..., received_bytes: _Optional[int] = ..., age_s: _Optional[float] = ..., waiting_for: _Optional[_Iterable[str]] = ..., transports: _Optional[_Iterable[_Union[_save_pb2.LaneTransport, str]]] = ..., needed_ranks: _Optional[_Iterable[int]] = ..., crossing_bytes: _Optional[int] = ..., ranks: _Optional[_Iterable[_Union[RankProgress, _Mapping]]] = ..., num_ranks: _Optional[int] = ...) -> None: ...

class RankProgress(_message.Message):
    __slots__ = ("rank", "declared", "received_bytes", "size_bytes", "idle_s", "host", "transport")
    RANK_FIELD_NUMBER: _ClassVar[int]
    DECLARED_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    IDLE_S_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    TRANSPORT_FIELD_NUMBER: _ClassVar[int]
    rank: int
    declared: bool
    received_bytes: int
    size_bytes: int
    idle_s: float
    host: str
    transport: _save_pb2.LaneTransport
    def __init__(self, rank: _Optional[int] = ..., declared: bool = ..., received_bytes: _Optional[int] = ..., size_bytes: _Optional[int] = ..., idle_s: _Optional[float] = ..., host: _Optional[str] = ..., transport: _Optional[_Union[_save_pb2.LaneTransport, str]] = ...) -> None: ...

class PinRequest(_message.Message):
    __slots__ = ("peer", "run", "step", "pinned", "name", "series")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    step: int
    pinned: bool
    name: str
    series: str
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., step: _Optional[int] = ..., pinned: bool = ..., name: _Optional[str] = ..., series: _Optional[str] = ...) -> None: ...

class PinReply(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _common_pb2.Checkpoint
    def __init__(self, checkpoint: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ...) -> None: ...

class DeleteRequest(_message.Message):
    __slots__ = ("peer", "run", "step", "for_good", "name", "even_latest", "series", "pruned_because")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    FOR_GOOD_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    EVEN_LATEST_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    PRUNED_BECAUSE_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    step: int
    for_good: bool
    name: str
    even_latest: bool
    series: str
    pruned_because: str
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., step: _Optional[int] = ..., for_good: bool = ..., name: _Optional[str] = ..., even_latest: bool = ..., series: _Optional[str] = ..., pruned_because: _Optional[str] = ...) -> None: ...

class DeleteReply(_message.Message):
    __slots__ = ()
    def __init__(self) -> None: ...

class UndeleteRequest(_message.Message):
    __slots__ = ("peer", "run", "step", "name", "series")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    SERIES_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    step: int
    name: str
    series: str
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., step: _Optional[int] = ..., name: _Optional[str] = ..., series: _Optional[str] = ...) -> None: ...

class UndeleteReply(_message.Message):
    __slots__ = ("checkpoint",)
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _common_pb2.Checkpoint
    def __init__(self, checkpoint: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ...) -> None: ...

class RepairRequest(_message.Message):
    __slots__ = ("peer", "run", "latest_filename")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    LATEST_FILENAME_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    latest_filename: str
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., latest_filename: _Optional[str] = ...) -> None: ...

class RepairReply(_message.Message):
    __slots__ = ("changed", "reason", "prefixes", "left_out", "kept_at", "num_prefixes", "mended")
    CHANGED_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    PREFIXES_FIELD_NUMBER: _ClassVar[int]
    LEFT_OUT_FIELD_NUMBER: _ClassVar[int]
    KEPT_AT_FIELD_NUMBER: _ClassVar[int]
    NUM_PREFIXES_FIELD_NUMBER: _ClassVar[int]
    MENDED_FIELD_NUMBER: _ClassVar[int]
    changed: bool
    reason: str
    prefixes: _containers.RepeatedScalarFieldContainer[str]
    left_out: _containers.RepeatedCompositeFieldContainer[LeftOut]
    kept_at: str
    num_prefixes: int
    mended: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, changed: bool = ..., reason: _Optional[str] = ..., prefixes: _Optional[_Iterable[str]] = ..., left_out: _Optional[_Iterable[_Union[LeftOut, _Mapping]]] = ..., kept_at: _Optional[str] = ..., num_prefixes: _Optional[int] = ..., mended: _Optional[_Iterable[str]] = ...) -> None: ...

class LeftOut(_message.Message):
    __slots__ = ("prefix", "reason")
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    prefix: str
    reason: str
    def __init__(self, prefix: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class EvictRequest(_message.Message):
    __slots__ = ("peer", "run", "rank")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    rank: int
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., rank: _Optional[int] = ...) -> None: ...

class EvictReply(_message.Message):
    __slots__ = ("evicted", "ended")
    EVICTED_FIELD_NUMBER: _ClassVar[int]
    ENDED_FIELD_NUMBER: _ClassVar[int]
    evicted: _containers.RepeatedCompositeFieldContainer[Evicted]
    ended: _containers.RepeatedCompositeFieldContainer[_common_pb2.SaveIdentity]
    def __init__(self, evicted: _Optional[_Iterable[_Union[Evicted, _Mapping]]] = ..., ended: _Optional[_Iterable[_Union[_common_pb2.SaveIdentity, _Mapping]]] = ...) -> None: ...

class Evicted(_message.Message):
    __slots__ = ("rank", "host", "pid")
    RANK_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    rank: int
    host: str
    pid: int
    def __init__(self, rank: _Optional[int] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ...) -> None: ...

class HistoryRequest(_message.Message):
    __slots__ = ("peer", "run", "most")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    most: int
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., most: _Optional[int] = ...) -> None: ...

class HistoryReply(_message.Message):
    __slots__ = ("saves",)
    SAVES_FIELD_NUMBER: _ClassVar[int]
    saves: _containers.RepeatedCompositeFieldContainer[PastSave]
    def __init__(self, saves: _Optional[_Iterable[_Union[PastSave, _Mapping]]] = ...) -> None: ...

class PastSave(_message.Message):
    __slots__ = ("save_id", "step", "outcome", "began_at", "duration_s", "prefix", "size_bytes", "world_size", "phases_s", "received_bytes", "stall_s", "lag_s", "slowest_rank", "last_to_declare", "error", "reason")
    class PhasesSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class ReceivedBytesEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class StallSEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    OUTCOME_FIELD_NUMBER: _ClassVar[int]
    BEGAN_AT_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    WORLD_SIZE_FIELD_NUMBER: _ClassVar[int]
    PHASES_S_FIELD_NUMBER: _ClassVar[int]
    RECEIVED_BYTES_FIELD_NUMBER: _ClassVar[int]
    STALL_S_FIELD_NUMBER: _ClassVar[int]
    LAG_S_FIELD_NUMBER: _ClassVar[int]
    SLOWEST_RANK_FIELD_NUMBER: _ClassVar[int]
    LAST_TO_DECLARE_FIELD_NUMBER: _ClassVar[int]
    ERROR_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    save_id: str
    step: int
    outcome: str
    began_at: float
    duration_s: float
    prefix: str
    size_bytes: int
    world_size: int
    phases_s: _containers.ScalarMap[str, float]
    received_bytes: _containers.ScalarMap[str, int]
    stall_s: _containers.ScalarMap[str, float]
    lag_s: float
    slowest_rank: int
    last_to_declare: int
    error: str
    reason: str
    def __init__(self, save_id: _Optional[str] = ..., step: _Optional[int] = ..., outcome: _Optional[str] = ..., began_at: _Optional[float] = ..., duration_s: _Optional[float] = ..., prefix: _Optional[str] = ..., size_bytes: _Optional[int] = ..., world_size: _Optional[int] = ..., phases_s: _Optional[_Mapping[str, float]] = ..., received_bytes: _Optional[_Mapping[str, int]] = ..., stall_s: _Optional[_Mapping[str, float]] = ..., lag_s: _Optional[float] = ..., slowest_rank: _Optional[int] = ..., last_to_declare: _Optional[int] = ..., error: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...
