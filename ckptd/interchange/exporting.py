"""Export a source of tensors to one safetensors or npz file, in bounded memory, whole or not at all."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches

from ckptd.engine.reading.verify import Progress
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError
from ckptd.interchange import npy, npz, safetensors
from ckptd.interchange.flow import Flow
from ckptd.interchange.source import Array, TensorFacts, TensorSource, unsupported
from ckptd.interchange.zip_layout import ZipLayout
from ckptd.storage.base import ObjectWriter, Store


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export: the file, its bytes, and the tensors that are in it and that are not."""

    file: str
    size_bytes: int
    exported: tuple[str, ...]
    skipped: tuple[str, ...]


def export(
    source: TensorSource,
    store: Store,
    key: str,
    *,
    names: Sequence[str] | None = None,
    skip_unsupported: bool = False,
    metadata: Mapping[str, str] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write tensors of `source` to the object `key`, in the format that its name says; durable on return.

    Every checksum that the source has is compared before the file gets its name.

    Args:
        source: where the tensors are.
        store: where the file goes.
        key: ending in ``.safetensors`` or ``.npz``.
        names: which tensors; None for all.
        skip_unsupported: leave tensors out that the format has no dtype for.
        metadata: texts for a safetensors file.
        overwrite: replace a file that is there. It goes just before the new one takes its name.
        progress: called with the number of bytes.

    Raises:
        InvalidRequestError: naming the first tensor that the format cannot hold.
        ConflictError: when there is a file of this name and `overwrite` is False.
        CorruptionError: when the source is damaged; there is no file then.
    """
    write = _writer_of(key)
    if metadata and write is not _write_safetensors:
        raise InvalidRequestError("only safetensors files hold metadata")
    can_hold = _HOLDS[write]
    taken, skipped = [], []
    for name in source.names() if names is None else names:
        facts = source.facts(name)
        if can_hold(facts):
            taken.append(facts)
        elif skip_unsupported:
            skipped.append(name)
        else:
            raise unsupported(facts, file_format(key))
    if not taken:
        raise InvalidRequestError(f"{source.location} holds no tensor that {file_format(key)} can hold")
    for facts in taken:
        source.check(facts.name)
    if not overwrite:
        _refuse_existing(store, key)
    total = sum(facts.size_bytes for facts in taken)
    flow = Flow(source, total, progress)
    size = write(flow, store, key, taken, metadata or {}, overwrite)
    return Exported(store.location(key), size, tuple(facts.name for facts in taken), tuple(skipped))


def file_format(key: str) -> str:
    """Return "safetensors" or "npz", as a file's name says; `InvalidRequestError` for others."""
    for suffix in (safetensors.SUFFIX, npz.SUFFIX):
        if key.endswith(suffix) and key != suffix:
            return suffix[1:]
    raise wrong_suffix(key)


def wrong_suffix(name: str) -> InvalidRequestError:
    """Return the error for a file whose name does not say in which format it is."""
    stem, dot, suffix = name.rpartition(".")
    near = get_close_matches(dot + suffix, (safetensors.SUFFIX, npz.SUFFIX), n=1)
    hint = f"; did you mean {stem + near[0]!r}?" if near and stem else ""
    return InvalidRequestError(
        f"{name!r} ends neither in {safetensors.SUFFIX} nor in {npz.SUFFIX}, which says what a file is{hint}"
    )


_Write = Callable[[Flow, Store, str, Sequence[TensorFacts], Mapping[str, str], bool], int]


def _write_safetensors(
    flow: Flow, store: Store, key: str, tensors: Sequence[TensorFacts], metadata: Mapping[str, str], overwrite: bool
) -> int:
    head, placed = safetensors.lay_out(tensors, metadata)
    size = len(head) + sum(one.size for one in placed)
    with _object(store, key, size, overwrite) as writer:
        writer.write(0, head)
        for one in placed:
            flow.write(one.facts, writer, len(head) + one.offset, lambda _: None)
    return size


def _write_npz(
    flow: Flow, store: Store, key: str, tensors: Sequence[TensorFacts], _: Mapping[str, str], overwrite: bool
) -> int:
    heads = [npy.encode_header(facts) for facts in tensors]
    layout = ZipLayout.plan(
        [
            (facts.name + npz.MEMBER_SUFFIX, len(head) + facts.size_bytes)
            for facts, head in zip(tensors, heads, strict=True)
        ]
    )
    crcs: list[int] = []
    with _object(store, key, layout.size, overwrite) as writer:
        for facts, head, member in zip(tensors, heads, layout.members, strict=True):
            crcs.append(zlib.crc32(head))

            def passing(data: Array) -> None:
                crcs[-1] = zlib.crc32(data.data, crcs[-1])

            writer.write(member.data_offset, head)
            flow.write(facts, writer, member.data_offset + len(head), passing)
            writer.write(member.offset, member.local_header(crcs[-1]))
        writer.write(layout.directory_offset, layout.directory(crcs))
    return layout.size


_HOLDS: dict[_Write, Callable[[TensorFacts], bool]] = {
    _write_safetensors: lambda facts: safetensors.code_of(facts) is not None,
    _write_npz: lambda facts: npy.holds(facts.dtype),
}


def _writer_of(key: str) -> _Write:
    return _write_safetensors if file_format(key) == "safetensors" else _write_npz


def _refuse_existing(store: Store, key: str) -> None:
    try:
        store.stat(key)
    except NotFoundError:
        return
    raise ConflictError("there is a file of this name already; --force replaces it", key=store.location(key))


@contextmanager
def _object(store: Store, key: str, size: int, overwrite: bool) -> Iterator[ObjectWriter]:
    writer = store.create(key, size)
    try:
        yield writer
        if overwrite:
            # A store replaces only what fits in memory; so there is a moment in which neither
            # file is there. Both are copies of what the source still has.
            store.delete([key])
        writer.finish()
    except BaseException:
        writer.abort()
        raise
