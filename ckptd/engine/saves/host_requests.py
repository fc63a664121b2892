"""What hosts have declared to this coordinator, by request: it is declared for their ranks, and how it goes is told.

All that an agent says may come twice, or late, and the answer is repeated.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.messages import (
    AgentLife,
    CarriedSave,
    EndSeen,
    Fenced,
    FromCoordinator,
    Go,
    HostDeclaration,
    PartFailed,
    PartSealed,
    SaveEnded,
)
from ckptd.engine.hosts.progress import Progress
from ckptd.engine.hosts.views import PartView
from ckptd.engine.identity import SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.asked import Asked, Stamp
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.host_places import HostPlaces
from ckptd.engine.saves.workers import Workers
from ckptd.engine.wording import describe_seconds
from ckptd.errors import CkptdError, ConflictError, NotFoundError
from ckptd.format.names import shard_key

_log = logging.getLogger("ckptd.engine")

_MOST_ENDED = 4096  # requests, whose end is told again when an agent asks


class HostRequests:
    """See the module. Thread-safe."""

    def __init__(
        self,
        coordinator: Coordinator,
        places: HostPlaces,
        workers: Workers,
        *,
        fenced: Callable[[], Fenced],
        send: Callable[[str, FromCoordinator, str], None],
    ) -> None:
        """Begin without requests.

        Args:
            coordinator: which saves.
            places: of ranks, by their hosts.
            workers: for what may wait.
            fenced: returns what tells an agent to attend again, and so all that it knows.
            send: sends a message to the agent of a host, about a run. It must not block.
        """
        self._coordinator, self._places, self._workers = coordinator, places, workers
        self._fenced, self._send = fenced, send
        self._lock = threading.RLock()
        self._asked: OrderedDict[str, Asked] = OrderedDict()
        self._rates: dict[str, float] = {}  # by host, in bytes a second

    def about_part(self, message: PartSealed | PartFailed) -> Fenced | None:
        """Hear how a host's part of a save has ended; return a refusal if it was never declared here."""
        with self._lock:
            asked = self._asked.get(message.request_id)
            if asked is None:  # it attends again, and tells all
                return self._fenced()
            if asked.ended is not None:
                self._tell(asked, asked.ended)
                return None
        take: Callable[..., None] = self._sealed if isinstance(message, PartSealed) else self._failed
        self._workers.submit(guarded, take, message, asked)
        return None

    def carried(self, agent: AgentLife, carried: CarriedSave, stamp: Stamp) -> None:
        """Hear of a save that an agent carries: it goes on, or is over."""
        said = carried.declaration
        with self._lock:
            is_known = said.request_id in self._asked
        if carried.save and not is_known:
            with suppress(NotFoundError):
                outcome = self._coordinator.outcome(SaveRef(said.run, 0, said.step, carried.save))
                if outcome.done() and outcome.exception() is None:
                    asked = Asked(said, agent, stamp, SaveRef(said.run, 0, said.step, carried.save))
                    with self._lock:
                        self._asked[said.request_id] = asked
                    self._end(asked, outcome.result())
                    return
        self.declare(agent, said, stamp)

    def declare(self, agent: AgentLife, said: HostDeclaration, stamp: Stamp) -> None:
        """Hear what a host's ranks save; the answer comes when all ranks of all hosts have declared."""
        with self._lock:
            asked = self._asked.get(said.request_id)
            if asked is None:
                asked = self._asked[said.request_id] = Asked(said, agent, stamp)
                self._workers.submit(guarded, self._begin, asked)
                return
            is_anew, asked.by = asked.by.incarnation != agent.incarnation, agent
            if asked.ended is not None:
                self._tell(asked, asked.ended)
                return
            if asked.go is None or asked.is_sealed:
                return  # what is sealed is not written again, whichever life of the agent tells of it
        if is_anew and asked.ref is not None:
            self._workers.submit(guarded, self._begin_anew, asked, asked.ref, agent)
        else:
            self._tell(asked, asked.go)

    def _begin_anew(self, asked: Asked, ref: SaveRef, agent: AgentLife) -> None:
        self._coordinator.agents.begins_anew(ref, agent)  # before it begins: what is left of a former life goes
        if asked.go is not None:
            self._tell(asked, asked.go)

    def _begin(self, asked: Asked) -> None:
        """Declare for each rank, which may have lost its place meanwhile, but not what it has captured."""
        said, answers = asked.said, []
        try:
            for part in said.parts:
                epoch = self._places.place(asked.by.host, said.run, part.member, part.options)
                save = replace(part.declaration.save, epoch=epoch, save_id="", attempt=0, plan_id="")
                declaration = asked.stamp(replace(part.declaration, save=save, host=asked.by.host))
                asked.declared.append(declaration)
                answers.append(self._coordinator.declare(declaration))
        except NotNowError:
            self._forget(asked)  # it says so again
            return
        except NotFoundError as error:
            _log.debug("the %s has to say again what its ranks hold: %s", asked.by, error)
            self._forget(asked)
            self._tell(asked, self._fenced())
            return
        except CkptdError as error:
            self._end(asked, error)
            return
        left = [len(answers)]

        def answered(_: object) -> None:
            with self._lock:
                left[0] -= 1
                if left[0]:
                    return
            self._workers.submit(guarded, self._planned, asked, answers)

        for answer in answers:
            answer.add_done_callback(answered)

    def _planned(self, asked: Asked, answers: Sequence[Future[Assignment | Checkpoint]]) -> None:
        failed = next((error for each in answers if (error := each.exception()) is not None), None)
        if failed is not None:
            self._end(asked, failed if isinstance(failed, CkptdError) else ConflictError(str(failed)))
            return
        planned = [each.result() for each in answers]
        published = next((each for each in planned if isinstance(each, Checkpoint)), None)
        if published is not None:
            self._end(asked, published)
            return
        assignments = [each for each in planned if isinstance(each, Assignment)]
        first, agents, host = assignments[0], self._coordinator.agents, asked.by.host
        outcome = self._coordinator.outcome(first.save)
        try:
            agents.captured(first.save, asked.by, asked.said.ranks)  # its agent tells of a rank that is gone
            go = self._go(asked, first)
            lanes = (lane for each in assignments for lane in each.lanes)
            foreign = next((lane for lane in lanes if lane.shard != go.shard), None)
            if foreign is not None:
                agents.failed(
                    first.save,
                    asked.by,
                    f"bytes of {host} belong into a shard of another host ({foreign.key}), as they are of a tensor "
                    "that TensorFlow does not join; agents cannot exchange bytes yet",
                )
        except CkptdError as error:
            _log.debug("%s is over before it began: %s", first.save, error)
        else:
            with self._lock:
                asked.ref, asked.go = first.save, go
                asked.progress = Progress.begun(go.size_bytes, self._coordinator.clock.boot_s())
            if foreign is None:
                self._tell(asked, go)
        outcome.add_done_callback(lambda done: self._over(asked, done))

    def _go(self, asked: Asked, first: Assignment) -> Go:
        save, term = first.save, self._coordinator.agents.term
        try:
            share = self._coordinator.agents.share(save, asked.by.host)
        except NotFoundError:
            none = Go(term, asked.said.request_id, save.save_id, first.num_shards, None, "", 0, b"")
            return replace(none, prefix_key=first.key, attempt=save.attempt)
        return Go(
            term,
            asked.said.request_id,
            save.save_id,
            first.num_shards,
            share.shard,
            shard_key(first.key, share.shard, first.num_shards),
            share.layout.shard_sizes[share.shard],
            share.whole_digest,
            share.layout,
            first.key,
            save.attempt,
        )

    def progress(self, agent: AgentLife, owed: Sequence[tuple[str, int]]) -> None:
        """Hear how many bytes of some saves a host has still to write."""
        for save_id, owed_bytes in owed:
            with self._lock:
                found = (each for each in self._asked.values() if each.ref and each.ref.save_id == save_id)
                asked = next((each for each in found if each.by.host == agent.host), None)
            if asked is None or asked.ref is None or asked.go is None or asked.go.share is None:
                continue
            layout, left, told = asked.go.share, owed_bytes, {}
            for rank, _ in sorted(layout.lane_segments):
                size = int(layout.segment_size[layout.lane_segments[rank, asked.go.shard or 0]].sum())
                told[rank] = min(left, size)
                left -= told[rank]
            self._coordinator.agents.progress(asked.ref, agent, told)
            self._note(asked, owed_bytes)

    def _sealed(self, message: PartSealed, asked: Asked) -> None:
        if asked.ref is None or asked.ref.save_id != message.save:
            return  # it goes on when all have told of it again
        for receipt in message.receipts:
            self._coordinator.agents.take(asked.ref, receipt)
        with self._lock:
            asked.is_sealed = True
        self._note(asked, 0)

    def _note(self, asked: Asked, owed_bytes: int) -> None:
        """Note for operators how far a host is."""
        with self._lock:
            if asked.progress is not None and (asked.progress.owed_bytes or owed_bytes):
                asked.progress.note(owed_bytes, self._coordinator.clock.boot_s())
                self._rates[asked.by.host] = asked.progress.bytes_per_s or self._rates.get(asked.by.host, 0.0)

    def under_way(self) -> tuple[dict[str, list[PartView]], dict[str, float]]:
        """Return by host what of saves under way it has declared, and how fast its present or last shard goes."""
        parts: dict[str, list[PartView]] = {}
        with self._lock:
            for asked in self._asked.values():
                if asked.ended is None:
                    parts.setdefault(asked.by.host, []).append(asked.view())
            return parts, dict(self._rates)

    def _failed(self, message: PartFailed, asked: Asked) -> None:
        if asked.ref is not None:
            self._coordinator.agents.failed(asked.ref, message.agent, message.reason)
        else:
            self._withdraw(asked, f"the {message.agent} gave up: {message.reason}")

    def _withdraw(self, asked: Asked, reason: str) -> None:
        for declaration in asked.declared[:1]:
            self._coordinator.withdraw(declaration.save, declaration.request_id, reason, declaration.name)

    def end_seen(self, message: EndSeen) -> None:
        """Hear that an agent knows of the end of a save."""
        with self._lock:
            asked = self._asked.get(message.request_id)
        if asked is not None and message.save and message.is_sole:
            save = SaveRef(asked.said.run, 0, asked.said.step, message.save)
            self._coordinator.agents.heard_end(save, message.agent)

    def _over(self, asked: Asked, outcome: Future[Checkpoint]) -> None:
        error = outcome.exception()
        if error is None:
            self._end(asked, outcome.result())
        else:
            self._end(asked, error if isinstance(error, CkptdError) else ConflictError(str(error)))

    def _end(self, asked: Asked, how: Checkpoint | CkptdError) -> None:
        term, request_id = self._coordinator.agents.term, asked.said.request_id
        save = "" if asked.ref is None else asked.ref.save_id
        if isinstance(how, Checkpoint):
            ended = SaveEnded(term, request_id, how.save_id or save, how.prefix, checkpoint=how)
        else:
            ended = SaveEnded(term, request_id, save, reason=str(how), error=how)
        with self._lock:
            asked.ended, asked.go, asked.declared = ended, None, []
            over = [key for key, each in self._asked.items() if each.ended is not None]
            for key in over[:-_MOST_ENDED]:
                del self._asked[key]
        self._tell(asked, ended)

    def _forget(self, asked: Asked) -> None:
        with self._lock:
            if self._asked.get(asked.said.request_id) is asked:
                del self._asked[asked.said.request_id]

    def _tell(self, asked: Asked, message: FromCoordinator) -> None:
        self._send(asked.by.host, message, asked.said.run)

    def host_lost(self, host: str, silent_s: float) -> None:
        """End what a host has declared, as its agent is gone."""
        with self._lock:
            open_ones = [each for each in self._asked.values() if each.by.host == host and each.ended is None]
        for asked in open_ones:
            with suppress(CkptdError):
                if asked.ref is not None:
                    self._coordinator.agents.lost(asked.ref, asked.by, silent_s)
                else:
                    ranks = ", ".join(map(str, asked.said.ranks))
                    self._withdraw(asked, f"the {asked.by} is gone {describe_seconds(silent_s)}; ranks {ranks}")


def guarded(work: Callable[..., None], *arguments: object) -> None:
    """Do something that an agent caused, on a worker: an error of it has no effect but a line."""
    try:
        work(*arguments)
    except CkptdError as error:
        _log.info("what an agent says has no effect: %s", error)
    except Exception:
        _log.exception("internal error about what an agent says")
