"""Names: of a checkpoint's files, of runs and checkpoints, and of tensors.

A checkpoint is a prefix; its index is ``PREFIX.index``, its shards ``PREFIX.data-00003-of-00016``. A prefix ends in
the name and the step, ``model.ckpt-1200``. Source: TensorFlow ``tensorflow/core/util/tensor_bundle/naming.cc``.
"""

from __future__ import annotations

import re
from functools import lru_cache

from ckptd.errors import InvalidRequestError

STATE_KEY = "checkpoint"
"""The state file's usual name, inside a run's directory."""

DEFAULT_NAME = "model.ckpt"
"""The name of checkpoints if the caller gives none."""

ANY_NAME = "*"
"""Stands for every name where one is wanted; no checkpoint can be called so."""

INDEX_SUFFIX = ".index"
MAX_NAME_BYTES = 1024
MAX_COMPONENT_BYTES = 200  # a file name may have 255; suffixes such as .data-00000-of-00001 need room
MAX_STEP = (1 << 63) - 1
_CHECKED = 1024  # names that are known to be good: thousands of ranks say the same ones in every save

_SHARD = re.compile(r"(?P<prefix>.+)\.data-(?P<shard>\d{5,10})-of-(?P<count>\d{5,10})", re.DOTALL | re.ASCII)
_STEP = re.compile(r"-(\d+)$", re.ASCII)
_NOTES = ("_CKPTD_OUTLINE", "_CKPTD_DCP", "_CKPTD_KERAS_MODEL", "_CKPTD_GRAPH_ONLY")  # and what is below them
# Letters and digits of every script are allowed; of the rest, what frameworks' users write: "epoch=1, loss: 0.5 [a]". A
# shell and other programs' globs give spaces and brackets a meaning, ckptd does not. At the end of a component a space
# is invisible, and a colon before a slash begins a URL.
_COMPONENT = re.compile(r"[\w\[({](?:[\w.+=@,\-: \[\](){}]*[\w.+=@,\-\[\](){}])?")


def index_key(prefix: str) -> str:
    """Return the key of a checkpoint's index."""
    return prefix + INDEX_SUFFIX


def shard_key(prefix: str, shard: int, num_shards: int) -> str:
    """Return the key of one data file."""
    return f"{prefix}.data-{shard:05d}-of-{num_shards:05d}"


def meta_key(prefix: str, suffix: str = "meta") -> str:
    """Return the key of the graph description that may be beside a checkpoint."""
    return f"{prefix}.{suffix}"


def prefix_for(name: str, step: int, pad: bool = False) -> str:
    """Return the prefix of one step; `pad` fills the number with zeros to eight digits.

    Raises:
        InvalidRequestError: if the step is negative or above 2**63 - 1.
    """
    if not 0 <= step <= MAX_STEP:
        raise InvalidRequestError("step out of range", expected=f"0 to {MAX_STEP}", actual=step)
    return f"{name}-{step:08d}" if pad else f"{name}-{step}"


def step_of(prefix: str) -> int | None:
    """Return the step at the end of a prefix, or None if it ends in none."""
    found = _STEP.search(prefix)
    # Longer numbers are no steps of ours, and Python refuses to convert very long ones.
    if found is None or len(found[1]) > 20:
        return None
    step = int(found[1])
    return step if step <= MAX_STEP else None


def base_name(prefix: str) -> str:
    """Return the name at the end of a prefix, without its step if it ends in one."""
    base = prefix.rpartition("/")[2]
    return base if step_of(base) is None else base.rpartition("-")[0]


def parse_shard_key(key: str) -> tuple[str, int, int] | None:
    """Return prefix, shard and shard count if the key names a data file as `shard_key` would, else None."""
    found = _SHARD.fullmatch(key)
    if found is None:
        return None
    prefix, shard, count = found["prefix"], int(found["shard"]), int(found["count"])
    if shard >= count or shard_key(prefix, shard, count) != key:
        return None
    return prefix, shard, count


@lru_cache(_CHECKED)
def check_run_name(name: str) -> str:
    """Return the name of a run if it is one: one or more components separated by ``/``, all below the root.

    Raises:
        InvalidRequestError: for an empty name or component, ``.``, ``..``, a leading dot (``.ckptd`` is ours), a
            leading or trailing slash, control characters, backslashes, quotes, ``* ? ~ $ %`` and others that a shell, a
            glob or a URL expands, a space or colon at the end of a component, or too many bytes.
    """
    if not isinstance(name, str):
        raise InvalidRequestError(f"a run is named by a str, not by {name!r}")
    if name.startswith("/") or "://" in name:
        parent, _, last = name.rstrip("/").rpartition("/")
        raise InvalidRequestError(
            f"run name {name!r} is a whole path or a URL: a run is named as it lies below the address, which comes "
            f"first, as in Checkpointer({parent or '/'!r}, {last!r})"
        )
    if len(name.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
        raise InvalidRequestError(f"run name is longer than {MAX_NAME_BYTES} bytes")
    for component in name.split("/"):
        _check_component("run", name, component)
    return name


@lru_cache(_CHECKED)
def check_checkpoint_name(name: str) -> str:
    """Return the name of a checkpoint (``model.ckpt``) if it is one component that a run's name may have.

    Raises:
        InvalidRequestError: as `check_run_name`.
    """
    if not isinstance(name, str):
        raise InvalidRequestError(f"a checkpoint's name is a str, not {name!r}")
    if "/" in name:
        raise InvalidRequestError(f"checkpoint name {name!r} has a slash: directories belong to the run's name")
    _check_component("checkpoint", name, name)
    return name


def check_meta_suffix(suffix: str) -> str:
    """Return what the key of a graph description ends in, if no index or data file can be named so.

    Raises:
        InvalidRequestError: as `check_run_name`, and when one can.
    """
    check_checkpoint_name(suffix)
    key = meta_key("m", suffix)
    if key.endswith(INDEX_SUFFIX) or parse_shard_key(key) is not None:
        raise InvalidRequestError(f"a graph description cannot end in .{suffix}: an index or a data file does")
    return suffix


def check_state_name(name: str) -> str:
    """Return a state file's name, if it is one and no checkpoint's file can have it. Raises as `check_meta_suffix`."""
    check_checkpoint_name(name)
    if name.endswith(INDEX_SUFFIX) or parse_shard_key(name) is not None:
        raise InvalidRequestError(f"a state file cannot be called {name!r}: an index or a data file is called so")
    return name


def _check_component(what: str, name: str, component: str) -> None:
    if not component or component.startswith("."):
        reason = (
            "has an empty component: a slash too many" if not component else "has a component that starts with a dot"
        )
        raise InvalidRequestError(f"{what} name {name!r} {reason}")
    if not _COMPONENT.fullmatch(component):
        raise InvalidRequestError(
            f"{what} name {name!r} may hold letters, digits, spaces and . _ + = @ , : - ( ) [ ] {{ }}; it starts with "
            "a letter, a digit, _ or an opening bracket, and does not end in a space or colon"
        )
    if len(component.encode("utf-8", "surrogatepass")) > MAX_COMPONENT_BYTES:
        raise InvalidRequestError(f"{what} name has a component longer than {MAX_COMPONENT_BYTES} bytes")


def is_note(name: str) -> bool:
    """Tell whether a tensor is no state, but a note of ckptd's own on how state is to be read."""
    return name.startswith("_CKPTD_") and name.partition("/")[0] in _NOTES


def tensor_key(name: str) -> bytes:
    """Return the bytes of a tensor's name, which need not be UTF-8 and then travel as surrogate escapes.

    Raises:
        InvalidRequestError: for an empty name (the header's key) or one with other surrogates.
    """
    if not name:
        raise InvalidRequestError("a tensor needs a name")
    try:
        return name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InvalidRequestError(f"tensor name {name!r} cannot be encoded") from error


def tensor_name(key: bytes) -> str:
    """Return the name whose `tensor_key` is `key`."""
    return key.decode("utf-8", "surrogateescape")
