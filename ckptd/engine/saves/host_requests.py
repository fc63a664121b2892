"""What hosts have declared to this coordinator, by request: it is declared for their ranks, and how it goes is told.

All that an agent says may come twice, or late, and the answer is repeated.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import nullcontext, suppress
from dataclasses import replace

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.hosts.messages import (
    AgentLife,
    CarriedSave,
    Fenced,
    FromCoordinator,
    Go,
    HeardEnd,
    HostDeclaration,
    NotYet,
    Owed,
    PartFailed,
    PartSealed,
    SaveEnded,
)
from ckptd.engine.hosts.progress import Progress
from ckptd.engine.hosts.views import PartView
from ckptd.engine.identity import SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.refusals import InDoubtError, NotNowError
from ckptd.engine.saves.asked import Asked, Beginning, Stamp, no_index
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.host_declarations import declarations_of, declare, of_one_save
from ckptd.engine.saves.host_orders import order, passed_on_alone, renewed
from ckptd.engine.saves.host_places import HostPlaces
from ckptd.engine.saves.workers import WorkPool
from ckptd.errors import CkptdError, ConflictError, NotFoundError

_log = logging.getLogger("ckptd.engine")

_MOST_ENDED = 16_384  # requests, whose end is told again when an agent asks
_MOST_FIRST = 65_536  # requests of ranks, of which it is known that no other coordinator was told of them


class HostRequests:
    """See the module. Thread-safe."""

    def __init__(
        self,
        coordinator: Coordinator,
        places: HostPlaces,
        workers: WorkPool,
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
        self.beginning: Beginning = lambda host, declaration: nullcontext()
        self._lock = threading.RLock()
        self._asked: dict[tuple[str, str], Asked] = {}  # by host and request
        self._ended: OrderedDict[tuple[str, str], Asked] = OrderedDict()  # those of them that are over
        self._first: OrderedDict[str, None] = OrderedDict()
        self._of_save: dict[tuple[str, str], Asked] = {}  # one of those that are planned, by save and host
        self._writers: dict[tuple[str, str], str] = {}  # the lives of agents that were told last, by save and host
        self._passing: dict[tuple[str, str], list[Asked]] = {}  # those that pass something on, by save and host
        self._rates: dict[str, float] = {}  # by host, in bytes a second
        self._again: dict[tuple[str, str], str] = {}  # by host and run: the request that comes again before later ones

    # What agents say. What one host says comes here in its order, one at a time.

    def declare(self, agent: AgentLife, said: HostDeclaration, stamp: Stamp) -> None:
        """Hear what ranks of a host save; the answer comes when all ranks of all hosts have declared."""
        with self._lock:
            key = agent.host, said.request_id
            asked = self._asked.get(key)
            is_new = asked is None
            if asked is None:
                if self._again.get((agent.host, said.run), said.request_id) != said.request_id:
                    return  # an earlier save is said again first: saves commit in the order in which they begin here
                asked = self._asked[key] = Asked(said, agent, stamp, is_new=self._is_new(said))
            is_anew, asked.by = asked.by.incarnation != agent.incarnation, agent
            asked.known_layout = said.known_layout
            answer = asked.ended or asked.go
        if is_new:
            self._begin(asked)
            return
        if asked.ended is None and asked.is_sealed and asked.go is not None and asked.ref is not None:
            # What is sealed is not written again, whichever life of the agent tells of it.
            answer = passed_on_alone(self._coordinator.agents, asked.ref, asked.go) if is_anew else None
        if answer is not None:
            if asked.ref is not None and asked.ended is None:
                self._make_way(asked.ref, agent)
            self._tell(asked, self._complete(asked, answer) if isinstance(answer, Go) else answer)

    def _complete(self, asked: Asked, go: Go) -> Go:
        """Return what to write with all that the agent does not know: a later life was not told what a former was."""
        if go.share is not None or go.shard is None or go.layout_digest == asked.known_layout or asked.ref is None:
            return go
        return replace(go, share=self._coordinator.agents.share(asked.ref, asked.by.host).layout)

    def _is_new(self, said: HostDeclaration) -> bool:
        """Whether no other coordinator can know of these requests; the lock is held.

        A later life of the agent cannot say so, but what its ranks said may have come here before.
        """
        if said.is_new_in(self._coordinator.agents.term):
            for part in said.parts:
                self._first[part.declaration.request_id] = None
            while len(self._first) > max(_MOST_FIRST, len(said.parts)):
                self._first.popitem(last=False)
        return all(part.declaration.request_id in self._first for part in said.parts)

    def attends(self, host: str) -> None:
        """Hear that an agent says all that it carries, in the order in which it began."""
        for key in [key for key in self._again if key[0] == host]:
            del self._again[key]

    def carried(self, agent: AgentLife, carried: CarriedSave, stamp: Stamp) -> None:
        """Hear of a save that an agent carries: it goes on, or is over."""
        said = carried.declaration
        with self._lock:
            is_known = (agent.host, said.request_id) in self._asked
        if carried.save and not is_known:
            save = SaveRef(said.run, 0, said.step, carried.save)
            with suppress(NotFoundError):
                outcome = self._coordinator.outcome(save)
                if outcome.done() and outcome.exception() is None:
                    asked = Asked(said, agent, stamp, save)
                    with self._lock:
                        self._asked[agent.host, said.request_id] = asked
                    self._end(asked, outcome.result())
                    return
        self.declare(agent, said, stamp)

    def progress(self, agent: AgentLife, owed: Sequence[Owed]) -> None:
        """Hear how many bytes of some saves a host has still to write."""
        for each in owed:
            with self._lock:
                asked = self._of_save.get((each.save, agent.host))
            if asked is not None and asked.ref is not None:
                self._renew(each.save, agent.host)
                self._coordinator.agents.progress(asked.ref, agent, each.size_bytes, each.by_rank)
                self._note(asked, each.size_bytes)

    def part_ended(self, message: PartSealed | PartFailed) -> None:
        """Hear that a host's part of a save is durable, or will not come."""
        with self._lock:
            asked = self._asked.get((message.agent.host, message.request_id))
            ended = None if asked is None else asked.ended
        if asked is None:  # it attends again, and tells all
            self._send(message.agent.host, self._fenced(), "")
        elif ended is not None:
            self._tell(asked, ended)
        elif isinstance(message, PartSealed):
            self._sealed(message, asked)
        elif asked.ref is not None:
            failed = message.reason, message.rank, message.error
            self._coordinator.agents.failed(asked.ref, message.agent, *failed)
        else:
            self._withdraw(asked, message)

    def _sealed(self, message: PartSealed, asked: Asked) -> None:
        if asked.ref is None or asked.ref.save_id != message.save:
            return  # it goes on when all have told of it again
        self._renew(message.save, message.agent.host)
        for receipt in message.receipts:
            self._coordinator.agents.take(asked.ref, receipt)
        with self._lock:
            asked.is_sealed = True
        self._note(asked, 0)

    def _withdraw(self, asked: Asked, failed: PartFailed) -> None:
        """Take a declaration back that has no plan yet: in the name of the rank that gave it up, if one did."""
        ours = [each for each in asked.declared if failed.rank in (None, each.save.rank)]
        reason = failed.reason if failed.rank is not None else f"{failed.reason} ({failed.agent})"
        for each in ours[:1]:
            self._coordinator.withdraw(each.save, each.request_id, reason, each.name)

    def end_heard(self, agent: AgentLife, end: HeardEnd) -> None:
        """Hear that an agent knows of the end of a save."""
        with self._lock:
            asked = self._asked.get((agent.host, end.request_id))
        if asked is not None:
            save = SaveRef(asked.said.run, 0, asked.said.step, end.save)
            self._coordinator.agents.heard_end(save, agent)

    # How it goes

    def _begin(self, asked: Asked) -> None:
        """Declare for each rank, which may have lost its place meanwhile, but not what it has captured."""
        said, key = asked.said, (asked.by.host, asked.said.run)
        answers: list[Future[Assignment | Checkpoint]] = []
        self._again.pop(key, None)
        try:
            declarations = declarations_of(self._places, asked)
            for alike in of_one_save(declarations):
                with self.beginning(asked.by.host, alike[0]):
                    answers += declare(self._coordinator, alike)
                asked.declared += alike
        except NotNowError as error:
            self._again[key] = said.request_id
            self._forget(asked)  # it says so again
            self._send(asked.by.host, NotYet(self._coordinator.agents.term, said.request_id, str(error)), said.run)
            return
        except NotFoundError as error:
            _log.debug("the %s has to say again what its ranks hold: %s", asked.by, error)
            self._again[key] = said.request_id
            self._forget(asked)
            self._tell(asked, self._fenced())
            return
        except CkptdError as error:
            self._refuse(asked, answers, error)
            return
        # Ranks of one save, which is not planned, are answered in their order: the last answer is that of all.
        are_together = len({each.prefix for each in declarations}) == 1 and not any(each.done() for each in answers)
        awaited = answers[-1:] if are_together else answers
        left = [len(awaited)]

        def answered(answer: Future[Assignment | Checkpoint]) -> None:
            with self._lock:
                is_last = left[0] > 0 and (left[0] == 1 or answer.exception() is not None)
                left[0] = 0 if is_last else left[0] - 1
            if is_last:
                self._workers.submit(guarded, self._planned, asked, tuple(answers))
                answers.clear()  # futures keep this function: with theirs in it they would free each other late

        for answer in tuple(awaited):
            answer.add_done_callback(answered)

    def _refuse(self, asked: Asked, answers: Sequence[Future[Assignment | Checkpoint]], error: CkptdError) -> None:
        """End a request as one of its ranks was refused: nobody need wait for the others of it."""
        for declaration, answer in zip(asked.declared, answers, strict=False):
            if not answer.done():
                with suppress(CkptdError):
                    self._coordinator.withdraw(
                        declaration.save, declaration.request_id, f"another rank of its host: {error}", declaration.name
                    )
        self._end_unsaved(asked, error)

    def _planned(self, asked: Asked, answers: Sequence[Future[Assignment | Checkpoint]]) -> None:
        failed = next((error for each in answers if each.done() and (error := each.exception()) is not None), None)
        if isinstance(failed, NotNowError):
            self._forget(asked)  # it says so again
            return
        if failed is not None:
            self._refuse(asked, answers, failed if isinstance(failed, CkptdError) else ConflictError(str(failed)))
            return
        planned = [each.result() for each in answers]
        published = next((each for each in planned if isinstance(each, Checkpoint)), None)
        if published is not None:
            self._end(asked, published)
            return
        assignments = [each for each in planned if isinstance(each, Assignment)]
        first, agents, host = assignments[0], self._coordinator.agents, asked.by.host
        try:
            outcome = self._coordinator.outcome(first.save)
            asked.index_sum = agents.index_sum_of(first.save)
        except CkptdError as error:
            self._end_unsaved(asked, error)
            return
        try:
            agents.captured(first.save, asked.by, asked.said.ranks)  # its agent tells of a rank that is gone
            go = order(agents, asked.said, host, asked.known_layout, first)
            is_sealed = agents.is_sealed(first.save, asked.by)
            told = passed_on_alone(agents, first.save, go) if is_sealed else go
        except CkptdError as error:
            _log.debug("%s is over before it began: %s", first.save, error)
        else:
            with self._lock:
                asked.ref, asked.go = first.save, go
                asked.progress = Progress.begun(go.size_bytes, self._coordinator.clock.boot_s())
                self._of_save[first.save.save_id, host] = asked
                asked.is_sealed = is_sealed
                if go.passing:
                    self._passing.setdefault((first.save.save_id, host), []).append(asked)
            if told is not None:
                with suppress(CkptdError):  # it is over, which is told below
                    self._make_way(first.save, asked.by)
                    self._tell(asked, told)
        outcome.add_done_callback(lambda done: self._over(asked, done))

    def _make_way(self, save: SaveRef, agent: AgentLife) -> None:
        """Before a later life of an agent is told to write: what is left of the shard of a former one goes."""
        key = save.save_id, agent.host
        with self._lock:
            former, self._writers[key] = self._writers.get(key), agent.incarnation
        if former not in (None, agent.incarnation):
            self._coordinator.agents.begins_anew(save, agent)

    def _renew(self, save_id: str, host: str) -> None:
        """Tell a host anew what it passes on, and where to, if another host's agent has begun anew."""
        with self._lock:
            passing = [(asked, asked.go) for asked in self._passing.get((save_id, host), ())]
        for asked, former in passing:
            go = None if former is None else renewed(self._coordinator.agents, former)
            with self._lock:
                if go is None or asked.go is not former:
                    continue
                asked.go = go
            self._tell(asked, go)

    def _note(self, asked: Asked, owed_bytes: int) -> None:
        """Note for operators how far a host is."""
        with self._lock:
            if asked.progress is not None and (asked.progress.owed_bytes or owed_bytes):
                asked.progress.note(owed_bytes, self._coordinator.clock.boot_s())
                self._rates[asked.by.host] = asked.progress.bytes_per_s or self._rates.get(asked.by.host, 0.0)

    def under_way(self) -> tuple[dict[str, list[PartView]], dict[str, float]]:
        """Return by host what of saves under way it has declared, and how fast its present or last shard goes."""
        with self._lock:
            views = [(asked.by.host, asked.view()) for asked in self._asked.values() if asked.ended is None]
            rates = dict(self._rates)
        parts: dict[str, list[PartView]] = {}
        for host, view in views:
            known = parts.setdefault(host, [])
            same = next((at for at, each in enumerate(known) if view.save_id and each.save_id == view.save_id), None)
            if same is None:
                known.append(view)
            else:  # its ranks have declared apart
                known[same] = replace(known[same], ranks=tuple(sorted({*known[same].ranks, *view.ranks})))
        return parts, rates

    def _over(self, asked: Asked, outcome: Future[Checkpoint]) -> None:
        error = outcome.exception()
        if error is None:
            self._end(asked, outcome.result())
        else:
            failed = error if isinstance(error, CkptdError) else ConflictError(str(error))
            self._workers.submit(guarded, self._end_unsaved, asked, failed)

    def _end_unsaved(self, asked: Asked, error: CkptdError) -> None:
        """Tell that a save has failed, if the root is ours: else another coordinator may have published it."""
        try:
            self._coordinator.agents.confirm_root(0.0)
        except ConflictError:
            raise  # agents are told to attend the other
        except CkptdError:
            asked.is_new = False  # what is not sure is told as that
        self._end(asked, error)

    def _end(self, asked: Asked, how: Checkpoint | CkptdError) -> None:
        term, said = self._coordinator.agents.term, asked.said
        save = "" if asked.ref is None else asked.ref.save_id
        if isinstance(how, Checkpoint):
            index_crc32c = asked.index_sum() if how.save_id == save else None  # else it was published before
            ended = SaveEnded(
                term, said.request_id, how.save_id or save, how.prefix, checkpoint=how, index_crc32c=index_crc32c
            )
        else:
            # What a former coordinator was told of, that one may have published.
            is_known, why = (False, how.why) if isinstance(how, InDoubtError) else (asked.is_new, str(how))
            ended = SaveEnded(term, said.request_id, save, reason=why, is_known=is_known, error=how)
        with self._lock:
            if asked.ended is not None:
                return
            self._of_save.pop((save, asked.by.host), None)
            self._writers.pop((save, asked.by.host), None)
            self._passing.pop((save, asked.by.host), None)
            asked.ended, asked.go, asked.declared, asked.said = ended, None, [], replace(said, parts=())
            asked.index_sum = no_index
            self._ended[asked.by.host, said.request_id] = asked
            if len(self._ended) > _MOST_ENDED:
                forgotten, _ = self._ended.popitem(last=False)
                self._asked.pop(forgotten, None)
        self._tell(asked, ended)

    def _forget(self, asked: Asked) -> None:
        with self._lock:
            key = asked.by.host, asked.said.request_id
            if self._asked.get(key) is asked:
                del self._asked[key]

    def _tell(self, asked: Asked, message: FromCoordinator) -> None:
        self._send(asked.by.host, message, asked.said.run)


def guarded(work: Callable[..., None], *arguments: object) -> None:
    """Do something that an agent caused, on a worker: an error of it has no effect but a line."""
    try:
        work(*arguments)
    except CkptdError as error:
        _log.info("what an agent says has no effect: %s", error)
    except Exception:
        _log.exception("internal error about what an agent says")
