"""The sender of a message, and the save that it is about. Every message and every call carries these whole."""

from __future__ import annotations

from dataclasses import dataclass, field

from ckptd.engine.journal import Actor
from ckptd.engine.replicas import Compared, Remark
from ckptd.format.names import prefix_for


@dataclass(frozen=True, slots=True)
class SaveRef:
    """Names one save as one rank sees it.

    Attributes:
        run: the run's directory below the root, ``runs/mnist``.
        epoch: which membership of the run; an older one is fenced off.
        step: the training step, None for a save without one.
        save_id: given by the daemon; empty in a declaration.
        attempt: of this step, from 1; 0 in a declaration.
        plan_id: names the plan; empty before there is one.
        rank: the sender.
        incarnation: the sender's life: one per process start.
    """

    run: str
    epoch: int
    step: int | None
    save_id: str = ""
    attempt: int = 0
    plan_id: str = ""
    rank: int = 0
    incarnation: str = ""

    def __str__(self) -> str:
        step = "a save without a step" if self.step is None else f"step {self.step}"
        return f"{step} of {self.run}"


@dataclass(frozen=True, slots=True)
class Member:
    """One process of a training job: rank `rank` of `world_size`."""

    rank: int
    world_size: int
    incarnation: str
    host: str = ""
    pid: int = 0
    agent: str = field(default="", compare=False)
    """The host by whose agent it has its place, by the agent's name for it; "" for none."""

    def __str__(self) -> str:
        where = f" (pid {self.pid} on {self.host})" if self.pid else ""
        of = f" of {self.world_size}" if self.world_size else ""  # a member that leaves does not say of how many
        return f"rank {self.rank}{of}{where}"


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How a run names and keeps its checkpoints; all ranks of a job are given the same.

    `retention` is "saver" or "manager", see `engine.retention`; with `save_relative_paths` off the state file names
    checkpoints by their locations. `hours_since` is when a manager was made, wall clock: in a run that has no state
    file yet its hours count from there; None is when it joins.
    """

    name: str = "model.ckpt"
    max_to_keep: int | None = 5
    keep_checkpoint_every_n_hours: float | None = 10000.0
    pad_step_number: bool = False
    latest_filename: str = "checkpoint"
    retention: str = "saver"
    save_relative_paths: bool = True
    hours_since: float | None = field(default=None, compare=False)  # of each process its own


@dataclass(frozen=True, slots=True)
class Declaration:
    """What one rank says at the start of a save.

    Attributes:
        save: the save, still without an id.
        request_id: one per call of `save` on this rank; a retry repeats it.
        world_size: how many ranks take part.
        manifest_digest: of the manifest that the daemon has or requests.
        meta_graph: bytes for the ``.meta`` object; None for none.
        meta_suffix: what that object's name ends in.
        write_state: let a state file name the checkpoint; one that none names is kept for good.
        overwrite: replace a checkpoint of the same step.
        timeout_s: for the whole save, from its first declaration.
        name: base name of the checkpoint.
        pad_step_number: write the step with eight digits.
        compared: digests of what other ranks may hold as well; None for none.
        remarks: what it has beside its tensors, to be compared as well.
        refuses_differences: end the save if ranks differ in any of this.
        actor: the identity that declares; None in direct mode.
        append_only: the caller may take nothing away: what the save replaces can be brought back for a while. The
            daemon says so, never the rank.
        host: the host whose agent writes what the rank saves; "" for a rank that sends it to us. The agent says so.
        is_repeated: it may have been declared before, also to a daemon, or a coordinator, that is gone.
        call: which of the rank's calls of `save` for this step it is, from 1; 0 if it does not say. Only what is of one
            call on all ranks is one save: an agent that hung may still carry an earlier one.
    """

    save: SaveRef
    request_id: str
    world_size: int
    manifest_digest: bytes
    meta_graph: bytes | None = None
    overwrite: bool = False
    timeout_s: float = 600.0
    name: str = "model.ckpt"
    pad_step_number: bool = False
    meta_suffix: str = "meta"
    write_state: bool = True
    compared: Compared | None = None
    remarks: tuple[Remark, ...] = ()
    refuses_differences: bool = False
    actor: Actor | None = None
    append_only: bool = False
    host: str = ""
    is_repeated: bool = False
    call: int = 0

    @property
    def prefix(self) -> str:
        """What the checkpoint's files will share, within the run: no two saves that are under way have the same."""
        return self.name if self.save.step is None else prefix_for(self.name, self.save.step, self.pad_step_number)

    @property
    def said_alike(self) -> str:
        """What all ranks of a save have to say alike, in words."""
        return (
            f"world size {self.world_size}, name {self.name}, padded step {self.pad_step_number}, "
            f"overwrite {self.overwrite}" + ("" if self.write_state else ", not to be listed")
        )
