"""What one worker process runs: train, save every few steps, and say on stdout what happened.

Started as ``python -m ckptd.demo.worker ASSIGNMENT``, the assignment being a JSON object (see `WorkerOrders`). Each
line on stdout is an event, again a JSON object. What a user of ckptd would write is in `_train`: the rest of this
file is only there to measure and to prove.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import ckptd
from ckptd.demo import fingerprint, network
from ckptd.demo.digits import NUM_PIXELS, Digits
from ckptd.demo.network import PARTITIONED, REPLICATED, STEP, Floats, Rows
from ckptd.demo.peers import PeerLostError, Peers, in_rank_order
from ckptd.errors import CkptdError, SessionAbortedError

BATCH_SIZE = 240  # images per step over all workers: divisible by 1, 2, 3, 4, 5, 6 and 8 of them
_SEED = 7
_TIMEOUT_S = 60.0
LOST_PEER_EXIT_CODE = 5
_TELLING = threading.Lock()  # a line must not cut another in two


@dataclass(frozen=True, slots=True)
class WorkerOrders:
    """A worker's assignment.

    `peers` maps the other ranks (JSON has only text for keys) to the file descriptors of the sockets it inherits.
    At `announced_steps` it says that it is about to save and waits for a line on stdin. With `is_elsewhere` it sends
    its bytes, as from another host.
    """

    address: str
    run: str
    rank: int
    world_size: int
    digits: str
    hidden: int
    last_step: int
    save_every: int
    max_to_keep: int
    peers: dict[str, int]
    announced_steps: Sequence[int] = ()
    is_elsewhere: bool = False

    def to_json(self) -> str:
        """Return the command line argument that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerOrders:
        """Read what `to_json` wrote."""
        return cls(**json.loads(text))


class Worker:
    """One rank: its rows of the partitioned tensors, its copy of the replicated ones, and its peers."""

    def __init__(self, assignment: WorkerOrders, peers: Peers, checkpointer: ckptd.Checkpointer) -> None:
        self._assignment = assignment
        self._peers = peers
        self._checkpointer = checkpointer
        self._digits = Digits.read(Path(assignment.digits))
        self._rows_of = [Rows.of(rank, assignment.world_size) for rank in range(assignment.world_size)]
        self._rows = self._rows_of[assignment.rank]
        self._state = network.initial_values(assignment.hidden, _SEED)
        for name in self._partitioned_names():
            self._state[name] = self._state[name][self._rows.begin : self._rows.end].copy()
        self._pending: ckptd.PendingSave | None = None
        self.step = 0

    def restore(self) -> None:
        """Continue from the latest checkpoint, however many workers wrote it; from the beginning if there is none."""
        latest = self._checkpointer.latest()
        if latest is not None:
            began = time.perf_counter()
            start, shape = (self._rows.begin, 0), (self._rows.end - self._rows.begin, self._assignment.hidden)
            restored = self._checkpointer.restore(
                names=[*self._state, STEP],
                slices=dict.fromkeys(self._partitioned_names(), (start, shape)),
            )
            self.step = int(restored.pop(STEP))
            self._state = restored
            seconds = time.perf_counter() - began
            tell("restored", step=self.step, seconds=seconds, prefix=latest.prefix, rows=self._digests())
        tell("ready", step=self.step)

    def train(self) -> None:
        """Train to the last step, saving on the way without waiting for the saves."""
        # Steps are counted alike on every rank; what was just restored is saved already.
        policy = ckptd.SavePolicy(every_steps=self._assignment.save_every, first=False)
        policy.begin(self.step)
        weights = self._gather_weights()
        while self.step < self._assignment.last_step:
            began = time.perf_counter()
            loss = self._one_step(weights)
            weights = self._gather_weights()
            self.step += 1
            tell("step", step=self.step, seconds=time.perf_counter() - began, loss=loss)
            if policy.after_step(self.step):
                self._save()
        if policy.end(self.step):
            self._save()
        if self._pending is not None:
            self._pending.result()

    def outcome_of_the_pending_save(self) -> None:
        """Wait for the save in progress; its callback reports success or failure."""
        if self._pending is not None:
            self._pending.exception(timeout=_TIMEOUT_S)

    def _save(self) -> None:
        if self.step in self._assignment.announced_steps:
            self._checkpointer.wait()
            tell("about_to_save", step=self.step)
            sys.stdin.readline()
        rows, full = self._rows, (NUM_PIXELS, self._assignment.hidden)
        arrays: dict[str, object] = dict(self._state)
        for name in self._partitioned_names():
            arrays[name] = ckptd.Slice(self._state[name], full_shape=full, start=(rows.begin, 0))
        arrays[STEP] = np.int64(self.step)
        began = time.perf_counter()
        pending = self._checkpointer.save(self.step, arrays)
        stall_s = time.perf_counter() - began
        # The digests are of the live arrays: what the checkpoint must give back, measured without its help.
        tell("saving", step=self.step, stall_s=stall_s, rows=self._digests())
        pending.add_done_callback(self._tell_outcome)
        self._pending = pending

    def _tell_outcome(self, pending: ckptd.PendingSave) -> None:
        error = pending.exception()
        if error is not None:
            tell("save_failed", step=pending.step, error=type(error).__name__, reason=str(error))
            return
        done = pending.result()
        tell("saved", step=done.step, prefix=done.prefix, duration_s=done.duration_s, during=self.step)

    def _one_step(self, weights: Floats) -> float:
        """Share out one batch, add up all workers' gradients, and update what this worker keeps; return the loss."""
        images, labels = self._digits.train_images, self._digits.train_labels
        per_epoch = len(labels) // BATCH_SIZE
        epoch, batch = divmod(self.step, per_epoch)
        order = np.random.default_rng((_SEED, epoch)).permutation(len(labels))
        chosen = order[batch * BATCH_SIZE : (batch + 1) * BATCH_SIZE][
            self._assignment.rank :: self._assignment.world_size
        ]
        found = network.gradients(images[chosen], labels[chosen], weights, self._state, BATCH_SIZE)

        own = found.partitioned[self._rows.begin : self._rows.end]
        parts = self._peers.exchange(
            lambda peer: found.partitioned[self._rows_of[peer].begin : self._rows_of[peer].end],
            lambda _: np.empty_like(own),
        )
        network.update(self._state, PARTITIONED, in_rank_order({**parts, self._assignment.rank: own}))

        flat = np.concatenate([*(found.replicated[name].ravel() for name in REPLICATED), [np.float32(found.loss)]])
        total = self._peers.sum(flat.astype(np.float32, copy=False))
        at = 0
        for name in REPLICATED:
            array = self._state[name]
            network.update(self._state, name, total[at : at + array.size].reshape(array.shape))
            at += array.size
        return float(total[-1])

    def _gather_weights(self) -> Floats:
        """Return the whole hidden layer, each worker contributing its rows."""
        whole = np.empty((NUM_PIXELS, self._assignment.hidden), np.float32)
        own = self._state[PARTITIONED]
        whole[self._rows.begin : self._rows.end] = own
        self._peers.exchange(lambda _: own, lambda peer: whole[self._rows_of[peer].begin : self._rows_of[peer].end])
        return whole

    def _digests(self) -> dict[str, object]:
        partitioned = set(self._partitioned_names())
        digests = {
            name: fingerprint.of_rows(array, self._rows.begin) if name in partitioned else fingerprint.of_whole(array)
            for name, array in self._state.items()
        }
        digests[STEP] = fingerprint.of_whole(np.array(self.step, np.int64))
        return {name: asdict(digest) for name, digest in digests.items()}

    @staticmethod
    def _partitioned_names() -> list[str]:
        return [PARTITIONED, *(f"{PARTITIONED}/{companion}" for companion in network.COMPANIONS)]


def tell(event: str, **facts: object) -> None:
    """Write one event for the supervisor. Also called by the thread that ends a save."""
    with _TELLING:
        print(json.dumps({"event": event, "at": time.time(), **facts}), flush=True)  # noqa: T201


def main() -> int:
    """Be a worker: 0 when trained to the end, 5 when another worker was lost."""
    assignment = WorkerOrders.from_json(sys.argv[1])
    connections = {int(rank): socket.socket(fileno=fd) for rank, fd in assignment.peers.items()}
    peers = Peers(assignment.rank, connections, _TIMEOUT_S)
    if assignment.is_elsewhere:
        os.environ["CKPTD_TRANSPORT"] = "stream"
    checkpointer = ckptd.Checkpointer(
        assignment.address,
        run=assignment.run,
        rank=assignment.rank,
        world_size=assignment.world_size,
        max_to_keep=assignment.max_to_keep,
        timeout_s=_TIMEOUT_S,
    )
    worker = Worker(assignment, peers, checkpointer)
    try:
        worker.restore()
        worker.train()
    except PeerLostError as e:
        tell("lost_peer", step=worker.step, peer=e.rank)
        return _give_up(worker, peers, checkpointer)
    except SessionAbortedError as e:
        # The saves behind the one that was aborted wait for it, so its end may come before the silence of the peer.
        tell("lost_save", step=worker.step, reason=str(e))
        return _give_up(worker, peers, checkpointer)
    checkpointer.close()
    tell("done", step=worker.step)
    return 0


def _give_up(worker: Worker, peers: Peers, checkpointer: ckptd.Checkpointer) -> int:
    """Close the connections, so that the other workers notice, wait for the last save, and leave the run."""
    peers.close()
    worker.outcome_of_the_pending_save()
    try:
        checkpointer.close()
    except CkptdError as e:
        tell("close_failed", error=type(e).__name__, reason=str(e))  # it has been reported as the save's already
    return LOST_PEER_EXIT_CODE


if __name__ == "__main__":
    sys.exit(main())
