"""The configuration of a Saver as a message: TensorFlow's SaverDef in a package of our own."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import DecodeError

from ckptd.errors import InvalidRequestError
from ckptd.format.saver_pb2 import SaverDef

__all__ = ["V2", "SaverDef", "make", "parse", "with_scope", "without_scope"]

V2 = SaverDef.V2
_NAMES = ("filename_tensor_name", "save_tensor_name", "restore_op_name")
_MAX_INT32 = (1 << 31) - 1


def make(*, sharded: bool, max_to_keep: int | None, hours: float, version: int, filename: str | None) -> SaverDef:
    """Return a SaverDef without operations, as TensorFlow makes it without a graph.

    Raises:
        InvalidRequestError: for numbers that no Saver can have, and for formats that we do not write.
    """
    _check(max_to_keep or 0, hours, version)
    return SaverDef(
        filename_tensor_name=filename or "",
        max_to_keep=max_to_keep or 0,
        sharded=sharded,
        keep_checkpoint_every_n_hours=hours,
        version=V2,
    )


def _check(max_to_keep: int, hours: float, version: int) -> None:
    if version != V2:
        raise InvalidRequestError("only checkpoints of version V2 (2) are written", actual=version)
    if not 0 <= max_to_keep <= _MAX_INT32:
        raise InvalidRequestError("max_to_keep must not be negative, or too large", actual=max_to_keep)
    if not hours >= 0:
        raise InvalidRequestError("keep_checkpoint_every_n_hours must not be negative", actual=hours)


def parse(saver_def: Any) -> SaverDef:
    """Return a copy of a SaverDef of ours or TensorFlow's, or of its bytes.

    Raises:
        InvalidRequestError: if it is none, has numbers that no Saver can have, or is of a format that we do not write.
    """
    try:
        data = saver_def if isinstance(saver_def, bytes) else saver_def.SerializeToString()
        parsed = SaverDef.FromString(data)
    except (AttributeError, TypeError, DecodeError) as error:
        raise InvalidRequestError(f"a {type(saver_def).__name__} is no SaverDef") from error
    _check(parsed.max_to_keep, parsed.keep_checkpoint_every_n_hours, parsed.version)
    return parsed


def without_scope(saver_def: SaverDef, scope: str | None) -> SaverDef | None:
    """Return a copy whose names have lost the scope; None if one of them does not begin with it."""
    copied = parse(saver_def)
    if scope:
        for field in _NAMES:
            name = getattr(copied, field)
            if not name.startswith(scope):
                return None
            setattr(copied, field, name.removeprefix(scope + "/"))
    return copied


def with_scope(saver_def: SaverDef, scope: str | None) -> SaverDef:
    """Return a copy whose names are in a scope."""
    copied = parse(saver_def)
    if scope:
        for field in _NAMES:
            setattr(copied, field, f"{scope}/{getattr(copied, field)}")
    return copied
