"""What an agent and its coordinator tell each other. Values only: the wire converts them, both machines take them.

Each message of an agent carries its `AgentLife`, each message of a coordinator its *term*: so the receiver knows which
ones come from a former life of an agent, or from a former coordinator. Any message may be lost, come
twice, or come after later ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, Member, RunOptions
from ckptd.engine.layout import Layout
from ckptd.errors import CkptdError
from ckptd.storage.base import Durability
from ckptd.storage.pace import NO_LIMITS, UploadLimits


@dataclass(frozen=True, slots=True)
class AgentLife:
    """One life of the agent of one host.

    Attributes:
        host: the host's stable name: the same in every life.
        incarnation: a random word, one for each start.
        born: when it started, by a clock that only runs forward while the host is up.
        boot: which time the host is up: within one, the life that was born later is the present one.
        started_by: what keeps it running and starts it again, in words, where several things may do so under one name
            while the host is up: `ckptd run` of a node. Empty for a service, of which the host has one.
    """

    host: str
    incarnation: str
    born: float = 0.0
    boot: str = ""
    started_by: str = ""

    def follows(self, other: AgentLife) -> bool:
        """Whether one of these was started in place of the other, so that the later one is the host's agent."""
        return (self.boot, self.started_by) == (other.boot, other.started_by)

    def __str__(self) -> str:
        return f"agent on {self.host}"


@dataclass(frozen=True, slots=True)
class RankPart:
    """What one rank said: as which member of its run, and what it saves."""

    member: Member
    options: RunOptions
    declaration: Declaration


@dataclass(frozen=True, slots=True)
class HostDeclaration:
    """What ranks of one host save. Ranks that come later are a declaration of their own, of the same save.

    Attributes:
        request_id: one for each call of `save` on this host; a retry, also by a later life of the agent, repeats it.
        run: the run's directory below the root.
        step: the training step, None for a save without one.
        ranks: those that declare, ascending.
        world_size: how many ranks there are on all hosts.
        call: which of its job's calls of `save` for this step it is, from 0. Only what is of one call is one save: a
            life of an agent that hung may still carry what its ranks declared before.
        manifest_digest: of the manifests of these ranks together.
        size_bytes: what they hold.
        since_term: in which term a coordinator was told of it first; 0 if a former life of the agent may have told one.
        parts: what each of these ranks said, in their order.
        known_layout: the digest of the layout that this life of the agent has for these manifests; empty for none. If
            it is planned so again, what to write is not said again.
    """

    request_id: str
    run: str
    step: int | None
    ranks: tuple[int, ...]
    world_size: int
    manifest_digest: bytes
    size_bytes: int
    call: int = 0
    since_term: int = field(default=0, compare=False)
    parts: tuple[RankPart, ...] = field(default=(), compare=False, repr=False)
    known_layout: bytes = field(default=b"", compare=False)

    def is_new_in(self, term: int) -> bool:
        """Whether the coordinator of this term is the first that was told.

        Any other cannot know that it failed: one before it, or after it, may have published it.
        """
        return self.since_term == term


@dataclass(frozen=True, slots=True)
class Receipt:
    """A shard that an agent has made durable: all that the coordinator needs to commit it.

    Attributes:
        save: the id of the save.
        by: the agent that wrote it.
        shard: its number.
        key: where it is.
        size_bytes: how large it is.
        version: of the object in the store.
        durability: what it survives.
        sums: the CRC-32C of its slices in the order of the layout, each a little-endian fixed32.
    """

    save: str
    by: AgentLife
    shard: int
    key: str
    size_bytes: int
    version: str
    durability: Durability
    sums: bytes


@dataclass(frozen=True, slots=True)
class CarriedSave:
    """A save that an agent has not heard the end of. `save` is empty, and so is the rest, before its `Go`."""

    declaration: HostDeclaration
    save: str = ""
    layout_digest: bytes = b""
    receipts: tuple[Receipt, ...] | None = None
    """None while something is owed; empty when it had nothing to write."""


# An agent tells


@dataclass(frozen=True, slots=True)
class TrialReport:
    """What an agent found out about a directory that it shares with its coordinator.

    Attributes:
        word: what it reads where the coordinator has noted one.
        place: where the directory is on its host.
        got_lock: it gets the lock that the coordinator holds.
        problem: why it cannot take part, in words; "" if it can.
    """

    word: str
    place: str
    got_lock: bool = False
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Hello:
    """An agent attends, again after every break: whatever the coordinator must know of it, as it is now.

    Attributes:
        agent: which one.
        root_id: of the root that it writes to, as `.ckptd/id` says.
        highest_term: the highest that it has seen.
        addresses: where other agents reach it, the best first.
        labels: the operator's, as pairs.
        members: the ranks that are connected to it.
        saves: those that it has not heard the end of.
        trial: what it has found out about a directory that hosts share; None where it tried nothing.
    """

    agent: AgentLife
    root_id: str
    highest_term: int
    addresses: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    members: tuple[int, ...] = ()
    saves: tuple[CarriedSave, ...] = ()
    trial: TrialReport | None = None


@dataclass(frozen=True, slots=True)
class Owed:
    """How many bytes of a save are still to be written to a host's shard, and of which ranks, also of other hosts."""

    save: str
    size_bytes: int
    by_rank: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class HeardEnd:
    """It knows that a save is over, and neither this life of the agent nor a former one writes for it any more.

    So nothing more is to come to the save's keys. A life that cannot speak for former ones says no such thing.
    """

    save: str
    request_id: str


@dataclass(frozen=True, slots=True)
class Beat:
    """It is alive.

    Attributes:
        owed: what it fills, and how far it is.
        reading: the prefixes, as keys, of the checkpoints that are being read through it.
        ends: of saves that it knows to be over; each is told again until the answer names it.
        is_last: it ends in good order, so that another may have its place at once.
    """

    agent: AgentLife
    term: int
    owed: tuple[Owed, ...] = ()
    reading: tuple[str, ...] = ()
    ends: tuple[HeardEnd, ...] = ()
    is_last: bool = False


@dataclass(frozen=True, slots=True)
class DeclareHost:
    """Its ranks have declared a save."""

    agent: AgentLife
    term: int
    declaration: HostDeclaration


@dataclass(frozen=True, slots=True)
class PartSealed:
    """All that this host writes of a save is durable: without receipts when it had nothing to write."""

    agent: AgentLife
    term: int
    request_id: str
    save: str
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True, slots=True)
class PartFailed:
    """This host's part of a request will not come: a rank is gone, or `rank` gave up, or the store refused.

    `error` is how the store did that, where its kind says who has to act.
    """

    agent: AgentLife
    term: int
    request_id: str
    save: str
    reason: str
    rank: int | None = None
    error: CkptdError | None = field(default=None, compare=False)


FromAgent = Hello | Beat | DeclareHost | PartSealed | PartFailed


# A coordinator tells


@dataclass(frozen=True, slots=True)
class Attached:
    """The answer to `Hello` and `Beat`: the term that holds now, and how long an agent may be silent in it.

    `ends` are the saves whose ends the answered `Beat` told.
    `hears`: by the call that this comes by, so that the agent need not make one for each message.
    """

    term: int
    lease_s: float
    ends: tuple[str, ...] = ()
    hears: bool = field(default=False, compare=False)


@dataclass(frozen=True, slots=True)
class Fenced:
    """Refused: this term is not the coordinator's, or the agent has not attended in it. `holder` is in words."""

    term: int
    holder: str


@dataclass(frozen=True, slots=True)
class Replaced:
    """Refused for good: a later life of this host's agent has attended."""

    term: int
    by: AgentLife


@dataclass(frozen=True, slots=True)
class Guest:
    """A rank of another host that has bytes for this host's shard. Its agent passes them on.

    Attributes:
        rank: which one.
        incarnation: of that rank: who passes its bytes on knows it.
        host: where it is.
    """

    rank: int
    incarnation: str
    host: str


@dataclass(frozen=True, slots=True)
class Passing:
    """What ranks of this host have for the shard of another one: parts of tensors that have to be stored whole.

    Attributes:
        shard: which shard.
        key: of its object.
        host: that fills it; "" for the coordinator.
        by: the incarnation of the agent there. Another life of it has nothing of what the one before was sent.
        addresses: of that agent, the best first; none for the coordinator.
        size_bytes: of the shard.
        share: the rows of these ranks.
    """

    shard: int
    key: str
    host: str
    by: str
    addresses: tuple[str, ...]
    size_bytes: int
    share: Layout = field(compare=False, repr=False)


@dataclass(frozen=True, slots=True)
class Go:
    """A save is planned and noted: this is what the host writes.

    Attributes:
        term: of the coordinator.
        request_id: which declaration it answers.
        save: the id of the save.
        num_shards: of the whole checkpoint.
        shard: the one that this host fills, None when it has nothing to write.
        key: where that is to be.
        size_bytes: how large it will be.
        layout_digest: of the whole layout.
        share: which bytes go where in that shard; see `HostShare`. None when the agent has said that it knows.
        prefix_key: of the checkpoint, below the root.
        attempt: of this step.
        guests: ranks of other hosts that have bytes for its shard.
        passing: what its ranks have for shards of other hosts.
        limits: how fast it sends, as one of many hosts.
    """

    term: int
    request_id: str
    save: str
    num_shards: int
    shard: int | None
    key: str
    size_bytes: int
    layout_digest: bytes
    share: Layout | None = field(default=None, compare=False, repr=False)
    prefix_key: str = ""
    attempt: int = 0
    guests: tuple[Guest, ...] = ()
    passing: tuple[Passing, ...] = ()
    limits: UploadLimits = field(default=NO_LIMITS, compare=False)


@dataclass(frozen=True, slots=True)
class SaveEnded:
    """A save has ended, and with it the requests that it was an attempt at.

    Attributes:
        term: of the coordinator.
        request_id: which declaration it answers.
        save: the id of the save, "" when it ended before it was noted.
        prefix: of the published checkpoint, "" when there is none.
        reason: why there is none, or why that is not known.
        is_known: False when the coordinator cannot tell how it ended: nothing is left of it but what agents remember.
        checkpoint: the published one.
        error: what ended it, whole.
        index_crc32c: checksum of the whole index of the published checkpoint, if it is known: by it readers know that
            what a host has in memory is of that checkpoint.
    """

    term: int
    request_id: str
    save: str
    prefix: str = ""
    reason: str = ""
    is_known: bool = True
    checkpoint: Checkpoint | None = field(default=None, compare=False)
    error: CkptdError | None = field(default=None, compare=False)
    index_crc32c: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class NotYet:
    """What was declared was not taken, as `reason` says; it is when it is said again, and that has changed."""

    term: int
    request_id: str
    reason: str


FromCoordinator = Attached | Fenced | Replaced | Go | SaveEnded | NotYet
