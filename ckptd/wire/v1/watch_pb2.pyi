from ckptd.wire.v1 import common_pb2 as _common_pb2
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class WatchRequest(_message.Message):
    __slots__ = ("peer", "run", "after_save_id", "name")
    PEER_FIELD_NUMBER: _ClassVar[int]
    RUN_FIELD_NUMBER: _ClassVar[int]
    AFTER_SAVE_ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    peer: _common_pb2.Peer
    run: str
    after_save_id: str
    name: str
    def __init__(self, peer: _Optional[_Union[_common_pb2.Peer, _Mapping]] = ..., run: _Optional[str] = ..., after_save_id: _Optional[str] = ..., name: _Optional[str] = ...) -> None: ...

class WatchEvent(_message.Message):
    __slots__ = ("checkpoint", "published")
    CHECKPOINT_FIELD_NUMBER: _ClassVar[int]
    PUBLISHED_FIELD_NUMBER: _ClassVar[int]
    checkpoint: _common_pb2.Checkpoint
    published: bool
    def __init__(self, checkpoint: _Optional[_Union[_common_pb2.Checkpoint, _Mapping]] = ..., published: bool = ...) -> None: ...
