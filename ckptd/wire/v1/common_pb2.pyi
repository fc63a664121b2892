from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Durability(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    DURABILITY_UNSPECIFIED: _ClassVar[Durability]
    DURABILITY_MEMORY: _ClassVar[Durability]
    DURABILITY_LOCAL_DISK: _ClassVar[Durability]
    DURABILITY_OBJECT_STORE: _ClassVar[Durability]
DURABILITY_UNSPECIFIED: Durability
DURABILITY_MEMORY: Durability
DURABILITY_LOCAL_DISK: Durability
DURABILITY_OBJECT_STORE: Durability

class Peer(_message.Message):
    __slots__ = ("version", "incarnation", "host", "pid", "capabilities", "required_capabilities")
    VERSION_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    HOST_FIELD_NUMBER: _ClassVar[int]
    PID_FIELD_NUMBER: _ClassVar[int]
    CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    REQUIRED_CAPABILITIES_FIELD_NUMBER: _ClassVar[int]
    version: str
    incarnation: str
    host: str
    pid: int
    capabilities: _containers.RepeatedScalarFieldContainer[str]
    required_capabilities: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, version: _Optional[str] = ..., incarnation: _Optional[str] = ..., host: _Optional[str] = ..., pid: _Optional[int] = ..., capabilities: _Optional[_Iterable[str]] = ..., required_capabilities: _Optional[_Iterable[str]] = ...) -> None: ...

class SaveIdentity(_message.Message):
    __slots__ = ("run", "epoch", "step", "save_id", "attempt", "plan_id", "rank", "incarnation")
    RUN_FIELD_NUMBER: _ClassVar[int]
    EPOCH_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    ATTEMPT_FIELD_NUMBER: _ClassVar[int]
    PLAN_ID_FIELD_NUMBER: _ClassVar[int]
    RANK_FIELD_NUMBER: _ClassVar[int]
    INCARNATION_FIELD_NUMBER: _ClassVar[int]
    run: str
    epoch: int
    step: int
    save_id: str
    attempt: int
    plan_id: str
    rank: int
    incarnation: str
    def __init__(self, run: _Optional[str] = ..., epoch: _Optional[int] = ..., step: _Optional[int] = ..., save_id: _Optional[str] = ..., attempt: _Optional[int] = ..., plan_id: _Optional[str] = ..., rank: _Optional[int] = ..., incarnation: _Optional[str] = ...) -> None: ...

class RunOptions(_message.Message):
    __slots__ = ("name", "max_to_keep", "keep_checkpoint_every_n_hours", "pad_step_number", "latest_filename", "retention", "absolute_paths", "hours_age_s")
    NAME_FIELD_NUMBER: _ClassVar[int]
    MAX_TO_KEEP_FIELD_NUMBER: _ClassVar[int]
    KEEP_CHECKPOINT_EVERY_N_HOURS_FIELD_NUMBER: _ClassVar[int]
    PAD_STEP_NUMBER_FIELD_NUMBER: _ClassVar[int]
    LATEST_FILENAME_FIELD_NUMBER: _ClassVar[int]
    RETENTION_FIELD_NUMBER: _ClassVar[int]
    ABSOLUTE_PATHS_FIELD_NUMBER: _ClassVar[int]
    HOURS_AGE_S_FIELD_NUMBER: _ClassVar[int]
    name: str
    max_to_keep: int
    keep_checkpoint_every_n_hours: float
    pad_step_number: bool
    latest_filename: str
    retention: str
    absolute_paths: bool
    hours_age_s: float
    def __init__(self, name: _Optional[str] = ..., max_to_keep: _Optional[int] = ..., keep_checkpoint_every_n_hours: _Optional[float] = ..., pad_step_number: bool = ..., latest_filename: _Optional[str] = ..., retention: _Optional[str] = ..., absolute_paths: bool = ..., hours_age_s: _Optional[float] = ...) -> None: ...

class Checkpoint(_message.Message):
    __slots__ = ("run", "prefix", "key", "step", "size_bytes", "num_shards", "saved_at", "duration_s", "pinned", "save_id", "durability", "verified_at", "rolled_back")
    RUN_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    STEP_FIELD_NUMBER: _ClassVar[int]
    SIZE_BYTES_FIELD_NUMBER: _ClassVar[int]
    NUM_SHARDS_FIELD_NUMBER: _ClassVar[int]
    SAVED_AT_FIELD_NUMBER: _ClassVar[int]
    DURATION_S_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    DURABILITY_FIELD_NUMBER: _ClassVar[int]
    VERIFIED_AT_FIELD_NUMBER: _ClassVar[int]
    ROLLED_BACK_FIELD_NUMBER: _ClassVar[int]
    run: str
    prefix: str
    key: str
    step: int
    size_bytes: int
    num_shards: int
    saved_at: float
    duration_s: float
    pinned: bool
    save_id: str
    durability: Durability
    verified_at: float
    rolled_back: str
    def __init__(self, run: _Optional[str] = ..., prefix: _Optional[str] = ..., key: _Optional[str] = ..., step: _Optional[int] = ..., size_bytes: _Optional[int] = ..., num_shards: _Optional[int] = ..., saved_at: _Optional[float] = ..., duration_s: _Optional[float] = ..., pinned: bool = ..., save_id: _Optional[str] = ..., durability: _Optional[_Union[Durability, str]] = ..., verified_at: _Optional[float] = ..., rolled_back: _Optional[str] = ...) -> None: ...

class ArenaAddress(_message.Message):
    __slots__ = ("path", "key")
    PATH_FIELD_NUMBER: _ClassVar[int]
    KEY_FIELD_NUMBER: _ClassVar[int]
    path: str
    key: bytes
    def __init__(self, path: _Optional[str] = ..., key: _Optional[bytes] = ...) -> None: ...
