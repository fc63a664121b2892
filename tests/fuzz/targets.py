"""What is fuzzed: each decoder of bytes that come from others, and sound inputs to begin with.

Any bytes give a value or one of our errors; what a target raises besides is a bug. A bound of time for one input and of
memory is set by the program that feeds it, see `feeding`.
"""

from __future__ import annotations

import contextlib
import io
import socket
import sys
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from ckptd.access import idle_rows, policy
from ckptd.engine.catalog.records import Record
from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.errors import CkptdError
from ckptd.format import crc32c, snappy
from ckptd.format.bundle_pb2 import BundleEntryProto
from ckptd.format.entry import Entry
from ckptd.format.index import Index, encode_entries
from ckptd.format.state_file import CheckpointState
from ckptd.format.table import FOOTER_SIZE, TRAILER_SIZE, Footer
from ckptd.interchange import safetensors
from ckptd.interchange.npz import NpzSource
from ckptd.storage.memory import MemoryStore
from ckptd.wire import convert, frames, manifests, methods, versions
from ckptd.wire.v1 import arena_pb2, save_pb2
from tests.conformance.bundle_files import FIXTURES

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, slots=True)
class Target:
    """One decoder. `take` raises nothing but `CkptdError`; `seeds` are sound."""

    take: Callable[[bytes], object]
    seeds: Sequence[bytes]


INDEXES = [
    (FIXTURES / name).read_bytes()
    for name in ("tf_unusual/base/v.index", "tf_unusual/block_snappy_copies/v.index", "tf/partitioned_grid/ckpt.index")
]


def take_index(data: bytes) -> None:
    """Read a table as an index, whatever its checksums say, and as it is: few inputs get past a checksum."""
    for one in (data, with_right_checksums(data)):
        with contextlib.suppress(CkptdError):
            index = Index.decode(one, "m.index")
            for name in index.names():
                with contextlib.suppress(CkptdError):
                    for piece in index.tensor(name).pieces:
                        assert 0 <= piece.shard_id < index.num_shards
                        assert piece.offset >= 0
                        assert piece.size >= 0


def with_right_checksums(data: bytes) -> bytes:
    """Return a table whose blocks' checksums are right, as far as its footer tells where they end."""
    out = bytearray(data)
    with contextlib.suppress(CkptdError):
        footer = Footer.decode(data)
        position = 0
        for end in (footer.metaindex.offset, footer.index.offset, len(data) - FOOTER_SIZE):
            if len(data) >= end > position + TRAILER_SIZE:
                out[end - 4 : end] = crc32c.mask(crc32c.crc32c(bytes(out[position : end - 4]))).to_bytes(4, "little")
                position = end
    return bytes(out)


def take_entry(data: bytes) -> None:
    """Read an entry, by itself and in a sound table."""
    with contextlib.suppress(CkptdError):
        Entry.decode(data)
    take_index(encode_entries(2, [(b"v", data)]))


def take_snappy(data: bytes) -> None:
    """Unpack a block, which may not grow beyond what its kind can be."""
    assert len(snappy.decompress(data)) <= 64 * len(data) + 66_000


def take_state(data: bytes) -> None:
    """Read a state file; what was read is written and read as the same."""
    state = CheckpointState.decode(data)
    written = state.encode()
    assert CheckpointState.decode(written).encode() == written


def take_record(data: bytes) -> None:
    """Read a record of a save."""
    record = Record.decode(data, "r/.ckptd/model.ckpt-1.0123456789abcdef0123456789abcdef.json")
    assert Record.decode(record.encode(), record.key) == record


def take_frames(data: bytes) -> None:
    """Receive frames of shared memory, and take their messages."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.settimeout(5)
        theirs.settimeout(5)
        theirs.sendall(data[: 1 << 16])
        theirs.shutdown(socket.SHUT_WR)
        while (frame := frames.receive_frame(ours)) is not None:
            frames.close_all(frame[1])
            for kind in (arena_pb2.ArenaRequest, arena_pb2.ArenaReply):
                with contextlib.suppress(CkptdError):
                    methods.decoder(kind)(frame[0])


_TAKEN = {
    "Join": convert.join_from_wire,
    "Declare": convert.declaration_from_wire,
    "PutManifest": lambda part: receive_manifest(part),
}


def take_message(data: bytes) -> None:
    """Take a request and a reply of any method; the first byte says which."""
    method = methods.ALL[data[0] % len(methods.ALL)] if data else methods.ALL[0]
    with contextlib.suppress(CkptdError):
        method.decode_reply(data[1:])
    request = method.decode_request(data[1:])
    for part in ("save", "options", "run"):
        with contextlib.suppress(CkptdError, AttributeError):
            value = getattr(request, part)
            convert.key_from_wire(value) if isinstance(value, str) else convert.save_from_wire(value)
    if method.name in _TAKEN:
        _TAKEN[method.name](request)


def receive_manifest(part: save_pb2.ManifestPart) -> None:
    """Take a manifest whose digest is right, so that it is looked at."""
    received = manifests.ManifestParts(limit_bytes=1 << 20)
    received.add(part)
    received.finish()


def take_manifest(data: bytes) -> None:
    """Take the columns of a manifest."""
    manifests.manifest_from_bytes(data)


def take_policy(data: bytes) -> None:
    """Take a policy: TOML, which is the library's to parse, and what is in it."""
    try:
        content = tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        return
    idle_rows.idle_rows(policy.parse(content))


def take_safetensors(data: bytes) -> None:
    """Read the header of a safetensors file, and of an npz."""
    safetensors.decode_header(data, 16)


def take_npz(data: bytes) -> None:
    """Read an npz file whole."""
    store = MemoryStore()
    store.put("a.npz", data)
    source = NpzSource(store, "a.npz")
    for name in source.names():
        with contextlib.suppress(CkptdError):
            for _ in source.stream(name):
                pass


def _npz() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, array in (("a", np.arange(4.0)), ("b", np.zeros((2, 3), np.int8, "F"))):
            member = io.BytesIO()
            np.save(member, array)
            archive.writestr(f"{name}.npy", member.getvalue())
    return out.getvalue()


_SAVE = SaveRef("runs/a", 1, 2, "s", 1, "p", 0, "inc")
_REQUESTS = {
    "Join": convert.join_to_wire(versions.this_peer("inc"), "runs/a", Member(0, 2, "inc"), RunOptions()),
    "Declare": convert.declaration_to_wire(Declaration(_SAVE, "r", 2, bytes(32), b"graph")),
    "Abort": save_pb2.AbortRequest(save=convert.save_to_wire(_SAVE), reason="x"),
}
_SAVE_ID = "0123456789abcdef0123456789abcdef"
_RECORD = Record(_SAVE_ID, 7, "r", "model.ckpt", 1, "model.ckpt-1", (16, 12), 1.5e9, next_keep_at=1.6e9)
_HEADER = b'{"a":{"dtype":"F32","shape":[2,2],"data_offsets":[0,16]},"__metadata__":{"k":"v"}}'
_STATE = CheckpointState("m-1", ("m-0", "m-1"), (1.5, 2.5), 1.0).encode()
_FRAME = arena_pb2.ArenaRequest().SerializeToString()
_POLICY = (
    b'[[grant]]\nto = ["token:a"]\nruns = ["team/**"]\nrole = "save"\n[[floor]]\nruns = ["**"]\nkeep_at_least = 2\n'
)


def _messages() -> list[bytes]:
    """Return a request of each method behind its number, empty where none was made."""
    requests = (_REQUESTS.get(method.name) for method in methods.ALL)
    return [
        bytes((number,)) + (b"" if request is None else request.SerializeToString())
        for number, request in enumerate(requests)
    ]


TARGETS = {
    "index": Target(take_index, INDEXES),
    "entry": Target(
        take_entry, [BundleEntryProto(dtype=1, size=4).SerializeToString(), b"\x08\x01\x12\x04\x12\x02\x08\x02"]
    ),
    "snappy": Target(take_snappy, [b"\x05\x10hello", b"\x09\x00a\x11\x01"]),
    "state": Target(take_state, [_STATE, b"model_checkpoint_path: 'a\\x41'\n"]),
    "record": Target(take_record, [_RECORD.encode()]),
    "frames": Target(take_frames, [len(_FRAME).to_bytes(4, "little") + _FRAME, b"\x02\0\0\0ab\x01\0\0\0c"]),
    "message": Target(take_message, _messages()),
    "manifest": Target(take_manifest, [b"\x0a\x01w\x12\x01\x01\x1a\x01\x01\x22\x01\x04"]),
    "policy": Target(take_policy, [_POLICY]),
    "safetensors": Target(take_safetensors, [_HEADER]),
    "npz": Target(take_npz, [_npz()]),
}


def take_any(data: bytes) -> None:
    """Give all but the first byte to the target that this byte says."""
    if data:
        with contextlib.suppress(CkptdError):
            list(TARGETS.values())[data[0] % len(TARGETS)].take(data[1:])


ALL = Target(take_any, [bytes((n,)) + seed for n, one in enumerate(TARGETS.values()) for seed in one.seeds])
