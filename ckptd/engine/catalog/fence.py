"""How owners of a run in a store without locks keep each other out.

Such a store has conditional writes only, so the state file itself is the fence. A new owner rewrites the state file,
its content unchanged, with a comment line that names the new owner: from then on every conditional write of the former
owner fails, however late it wakes up. TensorFlow's parser skips comments. The line also tells one writing of the same
content from another, which a version made of nothing but the content does not.

A run without checkpoints has no state file: other programs would stumble over one that names nothing. Then the same
line is kept in an object of its own beside the records, the `Fence`. It is written before a state file is deleted, and
by each owner that takes over a run without one. As long as there is a state file, only the state file counts.
"""

from __future__ import annotations

import json
import secrets
from dataclasses import dataclass

from ckptd.engine.catalog import commit as durable
from ckptd.engine.catalog.commit import OnStep, SeenState
from ckptd.errors import ConflictError
from ckptd.storage.base import Store

_BEGINNING = b"# ckptd "


@dataclass(frozen=True, slots=True)
class Signature:
    """The owner that wrote a state file or a fence.

    Attributes:
        owner: a random word for one life of one owner.
        holder: the same, in words for people.
        write: the number of the writing; with `owner` there is none like it.
        save: the save that it publishes, "" for other changes.
        term: higher than that of every owner before, as far as this owner could see; 0 from an older version.
        since: when the owner's daemon took its root, by the store's clock; 0 if the owner is not a daemon.
    """

    owner: str
    holder: str = ""
    write: int = 0
    save: str = ""
    term: int = 0
    since: float = 0.0

    def encode(self) -> bytes:
        """Return the comment line."""
        fields = {
            "holder": self.holder,
            "owner": self.owner,
            "save": self.save,
            "term": self.term,
            "write": self.write,
            **({"since": self.since} if self.since else {}),
        }
        return _BEGINNING + json.dumps(fields, sort_keys=True).encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True)
class Life:
    """One life of a daemon, which opens its runs again and again, each time as an owner of its own.

    Attributes:
        id: how the words of all its owners begin.
        began_at: when it took its root, by the store's own clock. What has been signed since then, but for an earlier
            daemon's last words, was taken over from it, also a run that it has not opened yet.
    """

    id: str
    began_at: float

    def is_of(self, signature: Signature) -> bool:
        """Whether an owner of this life has signed."""
        return signature.owner.startswith(self.id)

    def follows(self, signature: Signature) -> bool:
        """Whether a daemon has signed that took the root before: it may finish what it has begun, however late."""
        return 0 < signature.since <= self.began_at


def signature_of(state: bytes | None) -> Signature | None:
    """Return the signature of a state file, None if it has none of ours: another program or a person wrote it."""
    for line in reversed((state or b"").splitlines()):
        if line.startswith(_BEGINNING):
            return _decoded(line)
    return None


def signature_after(state: bytes | None, holder: str, now: float, life: Life | None = None) -> Signature:
    """Return the signature of an owner that comes after the one of a state file; `now` is wall-clock time.

    If no trace of a former owner is left, the clock makes the new term the higher one. With `life` the owner is that
    daemon itself, which opens the run again afterwards: otherwise it would take the run for another's.
    """
    former = signature_of(state)
    term = max(int(now), 1, 0 if former is None else former.term + 1)
    return signed_by(life, holder, term)


def signed_by(life: Life | None, holder: str, term: int = 0) -> Signature:
    """Return the signature of a new owner, one of a daemon's life if there is one."""
    word = secrets.token_hex(16)
    if life is None:
        return Signature(word, holder, term=term)
    return Signature(life.id + word[len(life.id) :], holder, term=term, since=life.began_at)


def unsigned(state: bytes) -> bytes:
    """Return a state file without the lines of its owners."""
    return b"".join(line for line in state.splitlines(keepends=True) if not line.startswith(_BEGINNING))


def _decoded(line: bytes) -> Signature | None:
    try:
        fields = json.loads(line[len(_BEGINNING) :])
        found = Signature(
            fields["owner"],
            fields["holder"],
            fields["write"],
            fields["save"],
            int(fields.get("term", 0)),
            float(fields.get("since", 0.0)),
        )
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None
    return found if isinstance(found.owner, str) and isinstance(found.holder, str) else None


class Fence:
    """The object that names a run's owner while there is no state file. Belongs to one owner; not thread-safe."""

    def __init__(self, store: Store, key: str, on_step: OnStep) -> None:
        """Know nothing yet: `look` looks."""
        self.key = key
        self._store = store
        self._on_step = on_step
        self._seen = SeenState()

    def look(self) -> Signature | None:
        """Read it again; None when there is none, or none that can be read."""
        self._seen = durable.look(self._store, self.key)
        return signature_of(self._seen.data)

    def write(self, me: Signature) -> bool:
        """Let it name `me`, if it is still as `look` saw it; durable on return. False when another owner was faster."""
        line = me.encode()
        self._on_step("fence.write")
        try:
            if self._seen.data is None:
                stat = self._store.put(self.key, line)
            else:
                stat = self._store.replace(self.key, line, if_version=self._seen.version)
        except ConflictError:
            return False
        self._seen = SeenState(line, stat.version)
        return True
