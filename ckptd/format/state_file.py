"""The state file: which checkpoint of a run is the latest, and which others there are.

It is the text form of a small message, one value per line. Written exactly as TensorFlow writes it; read with the
whole text syntax of protobuf, since people edit it. Source: TensorFlow
``tensorflow/python/training/checkpoint_state.proto``, ``tensorflow/python/checkpoint/checkpoint_management.py``.
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from google.protobuf import text_format

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import bundle_pb2
from ckptd.format.foreign_files import HEAD_BYTES, hint
from ckptd.format.names import STATE_KEY

if sys.version_info >= (3, 11):
    from typing import Self
else:
    from typing_extensions import Self

# A hundred thousand checkpoints. The general parser takes seconds per megabyte, so files that need it (written by
# people, or with paths that need escapes) are read up to a smaller limit.
MAX_SIZE_BYTES = 16 << 20
MAX_UNUSUAL_SIZE_BYTES = 1 << 20

_PLAIN_LINE = re.compile(
    r'model_checkpoint_path: "(?P<path>[^"\\]*)"'
    r'|all_model_checkpoint_paths: "(?P<all_paths>[^"\\]*)"'
    r"|all_model_checkpoint_timestamps: (?P<all_times>[0-9]{1,40}\.[0-9]{1,40})"
    r"|last_preserved_timestamp: (?P<time>[0-9]{1,40}\.[0-9]{1,40})"
    r"|(?P<comment>#.*)",
    re.ASCII,
)

_ESCAPES = {0x09: "\\t", 0x0A: "\\n", 0x0D: "\\r", 0x22: '\\"', 0x27: "\\'", 0x5C: "\\\\"} | {
    code: f"\\{code:03o}" for code in (*range(0x20), 0x7F) if code not in (0x09, 0x0A, 0x0D)
}


@dataclass(frozen=True, slots=True)
class CheckpointState:
    """The content of a state file. Paths are as recorded: absolute, or relative to the file's directory.

    Timestamps are seconds since 1970, one per path or none at all; a `last_preserved_timestamp` of 0 is none.
    """

    model_checkpoint_path: str
    all_model_checkpoint_paths: tuple[str, ...] = ()
    all_model_checkpoint_timestamps: tuple[float, ...] = ()
    last_preserved_timestamp: float = 0.0

    def encode(self) -> bytes:
        """Return the file's bytes, the same that TensorFlow writes.

        Raises:
            InvalidRequestError: if a path cannot be UTF-8, which the text form requires, or the file would be longer
                than 16 MiB.
        """
        lines = []
        if self.model_checkpoint_path:
            lines.append(f"model_checkpoint_path: {_quote(self.model_checkpoint_path)}\n")
        lines += [f"all_model_checkpoint_paths: {_quote(path)}\n" for path in self.all_model_checkpoint_paths]
        lines += [f"all_model_checkpoint_timestamps: {float(at)!r}\n" for at in self.all_model_checkpoint_timestamps]
        if self.last_preserved_timestamp:
            lines.append(f"last_preserved_timestamp: {float(self.last_preserved_timestamp)!r}\n")
        try:
            data = "".join(lines).encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidRequestError("a checkpoint path that is not UTF-8 cannot be in a state file") from error
        if len(data) > MAX_SIZE_BYTES:
            raise InvalidRequestError(
                "too many checkpoints for a state file", expected=MAX_SIZE_BYTES, actual=len(data)
            )
        return data

    @classmethod
    def decode(cls, data: bytes, key: str = STATE_KEY) -> Self:
        """Read a state file; an empty one gives an empty `model_checkpoint_path`. `key` is its name, for errors.

        Unknown fields are skipped, and so are gone once the file is written again: TensorFlow reads no file
        that has any.

        Raises:
            CorruptionError: with the line, if it is not the text form of the message.
        """
        try:
            return cls._decode(data, key)
        except CorruptionError as error:
            error.add_note("`ckptd repair` of its directory writes the state file anew, from the checkpoints in it")
            raise

    @classmethod
    def _decode(cls, data: bytes, key: str = STATE_KEY) -> Self:
        if len(data) > MAX_SIZE_BYTES:
            raise CorruptionError("state file is too long", key=key, expected=MAX_SIZE_BYTES, actual=len(data))
        try:
            text = bytes(data).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CorruptionError("state file is not UTF-8", key=key, offset=error.start) from error
        plain = cls._decode_plain(text)
        if plain is not None:
            return plain
        if len(data) > MAX_UNUSUAL_SIZE_BYTES:
            raise CorruptionError("state file is too long", key=key, expected=MAX_UNUSUAL_SIZE_BYTES, actual=len(data))
        message = bundle_pb2.CheckpointState()
        try:
            # Unlike `Parse`, this lets a value that is given twice overwrite itself, as TensorFlow's reader does.
            # Fields that we don't know are skipped: a later TensorFlow may add some.
            text_format.Merge(text, message, allow_unknown_field=True)
        except text_format.ParseError as error:
            line = error.GetLine()
            where = f" in line {line}" if line is not None else ""
            raise CorruptionError(
                f"state file cannot be parsed{where}: {error}{hint(data[:HEAD_BYTES])}", key=key
            ) from error
        except (ValueError, RecursionError) as error:  # numbers of absurd length, groups of absurd depth
            raise CorruptionError("state file cannot be parsed", key=key) from error
        return cls(
            message.model_checkpoint_path,
            tuple(message.all_model_checkpoint_paths),
            tuple(message.all_model_checkpoint_timestamps),
            message.last_preserved_timestamp,
        )

    @classmethod
    def _decode_plain(cls, text: str) -> Self | None:
        """Read a file as we and TensorFlow write it, if that is what it is: a line per value or comment, no escapes."""
        path, paths, times, last = "", [], [], 0.0
        if text and not text.endswith("\n"):
            return None
        for line in text.split("\n")[:-1]:
            found = _PLAIN_LINE.fullmatch(line)
            if found is None:
                return None
            value = found[found.lastgroup or 0]
            match found.lastgroup:
                case "path":
                    path = value
                case "all_paths":
                    paths.append(value)
                case "all_times":
                    times.append(float(value))
                case "time":
                    last = float(value)
        return cls(path, tuple(paths), tuple(times), last)


def _quote(text: str) -> str:
    return f'"{text.translate(_ESCAPES)}"'
