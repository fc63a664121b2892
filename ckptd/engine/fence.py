"""The line by which owners of a run in a store without locks keep each other out.

Such a store has conditional writes only, so the state file itself is the fence. Whoever takes a run over rewrites the
state file, its content unchanged, with a comment line that names the new owner: from then on every conditional write
of the former owner fails, however late it wakes up. TensorFlow's parser skips comments. The line also tells one
writing of the same content from another, which a version made of nothing but the content does not.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

_BEGINNING = b"# ckptd "


@dataclass(frozen=True, slots=True)
class Signature:
    """Who wrote a state file.

    Attributes:
        owner: a random word for one life of one owner.
        holder: who that is, in words for people.
        write: the number of the writing; with `owner` there is none like it.
        save: the save that it publishes, "" for other changes.
    """

    owner: str
    holder: str = ""
    write: int = 0
    save: str = ""

    def encode(self) -> bytes:
        """Return the comment line."""
        fields = {"holder": self.holder, "owner": self.owner, "save": self.save, "write": self.write}
        return _BEGINNING + json.dumps(fields, sort_keys=True).encode("ascii") + b"\n"


def signature_of(state: bytes | None) -> Signature | None:
    """Return who signed a state file, None if nobody of ours did: another program or a person wrote it."""
    for line in reversed((state or b"").splitlines()):
        if line.startswith(_BEGINNING):
            return _decoded(line)
    return None


def unsigned(state: bytes) -> bytes:
    """Return a state file without the lines of its owners."""
    return b"".join(line for line in state.splitlines(keepends=True) if not line.startswith(_BEGINNING))


def _decoded(line: bytes) -> Signature | None:
    try:
        fields = json.loads(line[len(_BEGINNING) :])
        found = Signature(fields["owner"], fields["holder"], fields["write"], fields["save"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return found if isinstance(found.owner, str) and isinstance(found.holder, str) else None
