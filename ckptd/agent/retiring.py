"""What retention does because of a save: the coordinator does it, and is asked whether it is done."""

from __future__ import annotations

import logging
import threading
from concurrent.futures import Future

from ckptd.agent.link import AgentLink
from ckptd.engine.identity import SaveRef
from ckptd.engine.refusals import NotNowError
from ckptd.engine.saves.answers import settled_by_engine
from ckptd.errors import CkptdError
from ckptd.wire import convert
from ckptd.wire.v1 import save_pb2

_log = logging.getLogger("ckptd.agent")

_WAIT_S = 10.0
_AGAIN_S = 1.0


class Retiring:
    """See the module. Thread-safe; each save is waited for once, by a thread of its own."""

    def __init__(self, link: AgentLink) -> None:
        """Wait for nothing yet."""
        self._link = link
        self._lock = threading.Lock()
        self._awaited: dict[str, Future[None]] = {}
        self._over = threading.Event()

    def retired(self, save: SaveRef) -> Future[None]:
        """Return what is done once the coordinator has done what retention does because of a save."""
        with self._lock:
            known = self._awaited.get(save.save_id)
            if known is not None:
                return known
            done: Future[None] = settled_by_engine()
            self._awaited[save.save_id] = done
        threading.Thread(target=self._wait, args=(save, done), name="ckptd-retired", daemon=True).start()
        return done

    def close(self) -> None:
        """Wait no more: what is not done by now is said to be, as whoever waits cannot hear of it any more."""
        self._over.set()

    def _wait(self, save: SaveRef, done: Future[None]) -> None:
        request = save_pb2.AwaitRequest(
            save=convert.save_to_wire(save), wait_s=_WAIT_S, hears_ends=True, until_retired=True
        )
        while not self._over.is_set():
            try:
                reply = self._link.call(lambda stubs, s: stubs.save.Await(request, timeout=s))
                if not reply.retiring and reply.phase not in _GOES_ON:
                    break
            except NotNowError:
                self._over.wait(_AGAIN_S)
            except CkptdError as error:
                _log.info("what retention does because of %s is not waited for: %s", save, error)
                break
        with self._lock:
            self._awaited.pop(save.save_id, None)
        done.set_result(None)


_GOES_ON = (
    save_pb2.SAVE_PHASE_DECLARING,
    save_pb2.SAVE_PHASE_FILLING,
    save_pb2.SAVE_PHASE_SEALED,
    save_pb2.SAVE_PHASE_COMMITTED,
)
