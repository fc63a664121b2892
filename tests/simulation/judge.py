"""What must hold after every event. Trusts nothing but the bytes in the bucket and what ranks were told."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from ckptd.agent.host_save import HostOutcome
from ckptd.engine.catalog.records import Record
from ckptd.engine.hosts.messages import AgentLife, HostDeclaration
from ckptd.errors import NotFoundError
from ckptd.format import names
from ckptd.format.crc32c import crc32c
from ckptd.format.index import Index
from tests.simulation.bucket import Bucket
from tests.simulation.job import KEPT, NAME, RUN
from tests.simulation.world import Process

STATE_KEY = f"{RUN}/checkpoint"
LOOKED_S = 6.0  # a former coordinator may add something for so long, being awake; what it hung in may come later
NAMED = re.compile(r"\bh\d+\b|\branks? \d|\bstep \d|(\br|\.ckptd)/\S")  # a host, a rank, a step, or a key at the store


class BrokenPromiseError(BaseException):
    """Something happened that never may. Nothing of ckptd catches it."""


def bytes_of(declaration: HostDeclaration) -> bytes:
    """What a host's shard holds: which call of `save` it is of. Every life of its agent would write the same."""
    return declaration.request_id.encode().ljust(declaration.size_bytes, b".")


@lru_cache(maxsize=512)
def decode(data: bytes) -> Index:
    return Index.decode(data, "the index")


@dataclass
class Judge:
    """One history of one run."""

    hosts: int
    live_keys: Callable[[], list[str]]
    answered: Callable[[str, bool], None]
    """Called with a request that waits no longer, and whether it is saved."""
    published: list[str] = field(default_factory=list)
    """What the state file has ever named as the latest, in that order: each a prefix, and the call that it is of."""
    calls: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By what was published: the requests whose bytes it holds."""
    failed: set[str] = field(default_factory=set)
    """Requests whose ranks were told that they are not saved."""
    waiting: dict[str, float] = field(default_factory=dict)
    """Requests whose ranks wait, and since when."""
    most_waited_s: float = 0.0
    num_acknowledged: int = 0
    revived: set[str] = field(default_factory=set)
    """Saves that a coordinator went on with."""
    began: tuple[int, int] = (0, 0)
    """Sequence and step of the latest."""
    reasons: list[str] = field(default_factory=list)
    bucket: Bucket | None = None
    noted_by: dict[str, Process] = field(default_factory=dict)
    """By save: the coordinator that has noted it."""
    lives: dict[tuple[int, str], list[str]] = field(default_factory=dict)
    """By term and host: the lives of its agent that attended, in that order."""

    owners: dict[Process, int] = field(default_factory=dict)
    """The coordinators that have had the root, and their terms."""
    replaced_at: dict[Process, float] = field(default_factory=dict)
    """Since when, on their own clocks, another has had it."""

    def object(self, key: str) -> bytes | None:
        assert self.bucket is not None
        try:
            return self.bucket.objects.get(key)
        except NotFoundError:
            return None

    # What the bucket does

    def took_root(self, coordinator: Process, term: int) -> None:
        """A coordinator has a term: those of lower ones may go on for as long as a look at theirs holds.

        It may hear of its own so late that another has a higher one.
        """
        self.owners[coordinator] = term
        highest = max(self.owners.values())
        for each, its in self.owners.items():
            if its < highest:
                self.replaced_at.setdefault(each, each.awake_s)

    def watch(self, what: str, key: str, by: Process, is_late: bool) -> None:
        if not is_late and by.awake_s - self.replaced_at.get(by, by.awake_s) > LOOKED_S:
            raise BrokenPromiseError(f"{by.name} does something long after another has the root: {what} {key}")
        if what == "before delete" and key.startswith(RUN + "/"):
            self._check_removal(key)
        elif what == "after put" and key == STATE_KEY:
            self._check_state()
        elif what == "after put" and key.startswith(f"{RUN}/.ckptd/{NAME}-"):
            self._check_number(Record.decode(self.object(key) or b"", key), by)
        elif what == "before abort" and key in self.live_keys():
            raise BrokenPromiseError(f"the upload of {key} is aborted, and its save is under way")

    def listed(self) -> list[str]:
        state = self.object(STATE_KEY) or b""
        return [each.decode() for each in re.findall(rb'^all_model_checkpoint_paths: "(.+)"$', state, re.MULTILINE)]

    def _check_number(self, record: Record, by: Process) -> None:
        """No attempt has as many shards as another that is noted, unless a former owner has noted one of them late."""
        if record.save_id in self.noted_by:
            if self.noted_by[record.save_id] is not by and not record.published and record.aborted_at is None:
                self.revived.add(record.save_id)
            return
        self.noted_by[record.save_id] = by
        assert self.bucket is not None
        for key in self.bucket.objects.keys(f"{RUN}/.ckptd", record.prefix + "."):
            other = Record.decode(self.object(key) or b"", key)
            authors = {by, self.noted_by[other.save_id]}
            if other.num_shards == record.num_shards and other != record and not authors & self.replaced_at.keys():
                raise BrokenPromiseError(f"{record.key} has as many shards as {other.key}")

    def _check_removal(self, key: str) -> None:
        """Nothing that is referenced is deleted: the state file refers to indexes, an index to its shards."""
        if key == STATE_KEY:
            raise BrokenPromiseError("the state file is deleted")
        name = key.removeprefix(RUN + "/")
        if name.endswith(".index") and name.removesuffix(".index") in self.listed():
            raise BrokenPromiseError(f"{key} is deleted, and the state file lists it")
        shard = names.parse_shard_key(key)
        if shard is not None:
            index = self.object(names.index_key(shard[0]))
            if index is not None and decode(index).num_shards == shard[2]:
                raise BrokenPromiseError(f"{key} is deleted, and an index refers to it")

    def _check_state(self) -> None:
        """The state never goes back, nothing acknowledged is missing, and what is listed is whole."""
        listed = self.listed()
        if not listed:
            raise BrokenPromiseError("the state file lists nothing")
        found = [self.check_whole(prefix) for prefix in listed]
        state_names = listed
        listed = [f"{prefix} ({calls[0]})" for prefix, calls in zip(listed, found, strict=True)]
        if listed[-1] not in self.published:
            self._check_order(state_names[-1])
            self._add(listed[-1], found[-1], len(self.published))
        for name, following, calls in zip(listed, listed[1:], found, strict=False):
            if name not in self.published:  # it was complete when its coordinator died, and was adopted in its place
                self._add(name, calls, self.published.index(following))
        if listed != self.published[-len(listed) :] or len(listed) < min(KEPT, len(self.published)):
            raise BrokenPromiseError(f"the state went back: {listed} after {self.published[-KEPT:]}")

    def _add(self, name: str, calls: tuple[str, ...], place: int) -> None:
        self.calls[name] = calls
        self.published.insert(place, name)
        if told := self.failed.intersection(calls):
            raise BrokenPromiseError(f"{name} is published; {sorted(told)} were told that it is not saved")

    def _check_order(self, prefix: str) -> None:
        """A save of an earlier step that began earlier is never named the latest after a later one."""
        assert self.bucket is not None
        data = self.object(names.index_key(f"{RUN}/{prefix}"))
        assert data is not None
        records = [
            json.loads(self.object(key) or b"") for key in self.bucket.objects.keys(f"{RUN}/.ckptd", prefix + ".")
        ]
        fitting = [each for each in records if len(each["shard_sizes"]) == decode(data).num_shards]
        if len(fitting) == 1:  # of two, one was noted late by a former owner
            began = (fitting[0]["sequence"], fitting[0]["step"])
            if began[0] < self.began[0] and began[1] < self.began[1]:
                raise BrokenPromiseError(f"{prefix} is the latest, and began before {self.published[-1]}")
            self.began = began

    def check_whole(self, prefix: str) -> tuple[str, ...]:
        """Every shard is there, is what the index says, and all are of one call of `save`; return the requests."""
        data = self.object(names.index_key(f"{RUN}/{prefix}"))
        if data is None:
            raise BrokenPromiseError(f"{prefix} is listed and has no index")
        index = decode(data)
        calls = []
        for shard in range(index.num_shards):
            found = self.object(names.shard_key(f"{RUN}/{prefix}", shard, index.num_shards))
            if found is None:
                raise BrokenPromiseError(f"shard {shard} of {prefix} is missing")
            if found:
                [piece] = index.tensor(f"h{shard}").pieces
                if (piece.shard_id, piece.size, piece.crc32c) != (shard, len(found), crc32c(found)):
                    raise BrokenPromiseError(f"shard {shard} of {prefix} is not what the index says")
                calls.append(found.rstrip(b".").decode())
        if len({call.partition(".")[2] for call in calls}) != 1 or len(calls) != self.hosts:
            raise BrokenPromiseError(f"{prefix} holds several attempts, or parts of one: {calls}")
        return tuple(calls)

    def check_tidy(self) -> None:
        """Nothing is left that no published checkpoint needs, neither objects nor uploads."""
        assert self.bucket is not None
        published, needed = [], set()
        for key in self.bucket.objects.keys(f"{RUN}/.ckptd"):
            if key.endswith(".json"):
                record = Record.decode(self.object(key) or b"", key)
                needed |= {record.index_key, *record.shard_keys}
                if record.published and not record.dropped:
                    published.append(record)
                elif not self._may_still_replace(record):
                    raise BrokenPromiseError(f"a day later there is still the record {key}")
        left = [stat.key for stat in self.bucket.objects.list(RUN, deep=False) if stat.key not in {*needed, STATE_KEY}]
        left += [f"the upload of {upload.key}" for upload in self.bucket.uploads]
        if left or len(published) > KEPT:
            raise BrokenPromiseError(f"a day later there is still {left}, and {len(published)} checkpoints")

    def _may_still_replace(self, record: Record) -> bool:
        """Whether it was to replace the very index that is in place: in a bucket such a request may hang for ever."""
        assert self.bucket is not None
        if record.index_version is None or self.object(record.index_key) is None:
            return False
        return bool(self.bucket.objects.stat(record.index_key).version == record.index_version)

    # What ranks are told

    def declared(self, request_id: str, now: float) -> None:
        self.waiting.setdefault(request_id, now)

    def dropped(self, request_id: str) -> None:
        """The ranks that waited are dead."""
        self.waiting.pop(request_id, None)
        self.answered(request_id, False)

    def told(self, request_id: str, outcome: HostOutcome, now: float) -> None:
        began = self.waiting.pop(request_id, None)
        if began is None:
            return
        self.most_waited_s = max(self.most_waited_s, now - began)
        self.answered(request_id, bool(outcome.prefix))
        if outcome.prefix:
            self.num_acknowledged += 1
            holding = [each for each, calls in self.calls.items() if request_id in calls]
            if not any(each.partition(" ")[0] == outcome.prefix.rpartition("/")[2] for each in holding):
                raise BrokenPromiseError(f"{request_id} was told of {outcome.prefix}, and is in {holding}")
            return
        self.reasons.append(outcome.reason)
        if "internal error" in outcome.reason:
            raise BrokenPromiseError(f"{request_id}: {outcome.reason}")
        if not NAMED.search(outcome.reason):
            raise BrokenPromiseError(f"a wait ended without a name: {outcome.reason!r}")
        if outcome.is_known:
            self.failed.add(request_id)
            if any(request_id in calls for calls in self.calls.values()):
                raise BrokenPromiseError(f"{request_id} is published, and was told that it is not: {outcome.reason}")

    def attended(self, term: int, agent: AgentLife) -> None:
        """A coordinator has given an agent its place."""
        self.lives.setdefault((term, agent.host), []).append(agent.incarnation)

    def believed(self, term: int, agent: AgentLife) -> None:
        """A coordinator counts what an agent says: it is of the life that attended last."""
        if self.lives[term, agent.host][-1] != agent.incarnation:
            raise BrokenPromiseError(f"what {agent.incarnation} says is believed after a later life attended")

    def obeyed_former(self, agent: str, message: object) -> None:
        raise BrokenPromiseError(f"{agent} obeyed a former coordinator: {message}")

    def written_again(self, agent: str, key: str) -> None:
        raise BrokenPromiseError(f"{agent} writes {key} again")

    def check_waits(self, now: float, limit_s: float) -> None:
        """No wait is longer than any bound allows."""
        for request_id, since in self.waiting.items():
            if now - since > limit_s:
                raise BrokenPromiseError(f"{request_id} waits for {now - since:.0f} s")
