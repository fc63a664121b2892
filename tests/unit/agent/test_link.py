"""An agent's connection to its coordinator outlives what goes wrong in the agent, and says once why there is none."""

from __future__ import annotations

import contextlib
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path

import grpc
import pytest

from ckptd.agent.link import AgentLink
from ckptd.agent.whereabouts import Whereabouts
from ckptd.engine.hosts.messages import AgentLife, Attached, Beat, Hello
from ckptd.engine.refusals import NotNowError
from ckptd.storage.memory import MemoryStore
from ckptd.wire import agents, methods
from tests.fakes.served_hosts import WAIT_S, ServedHosts, served_hosts

LIFE = AgentLife("a", "one")


@pytest.fixture
def hosts() -> Iterator[ServedHosts]:
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), []) as running:
        yield running


@contextlib.contextmanager
def linked(hosts: ServedHosts, on_message: Callable, on_broken: Callable) -> Iterator[AgentLink]:
    whereabouts = Whereabouts(hosts.root, [hosts.coordinator.address])
    link = AgentLink(whereabouts, find_manifest=NotImplemented, on_message=on_message, on_broken=on_broken)
    link.start()
    try:
        yield link
    finally:
        link.close()


def hello(hosts: ServedHosts) -> Hello:
    return Hello(LIFE, hosts.coordinator.engine.root.id, 0)


def test_an_agent_that_fails_over_what_it_hears_attends_anew(hosts, caplog):
    broken = threading.Event()

    def fail(message: object) -> None:
        raise AttributeError("what a bug raises")

    with linked(hosts, fail, broken.set) as link:
        link.say(hello(hosts))
        assert broken.wait(WAIT_S)
    assert "a bug in ckptd: the coordinator is attended anew" in caplog.text


def test_an_agent_that_fails_over_an_answer_goes_on_telling(hosts, caplog):
    heard: queue.Queue[object] = queue.Queue()
    failed = threading.Event()

    def fail_once(message: object) -> None:
        heard.put(message)
        if not isinstance(message, Attached) and not failed.is_set():
            failed.set()
            raise AttributeError("what a bug raises")

    with linked(hosts, fail_once, int) as link:
        # It does not attend, so that each of these is answered by a refusal.
        for _ in range(2):
            link.say(Beat(LIFE, 1))
        first, second = (heard.get(timeout=WAIT_S) for _ in range(2))
    assert first == second
    assert "a bug in ckptd: the coordinator was not told, or its answer was not understood" in caplog.text


class Versions:
    """A coordinator that tells how it was told: one of today hears by the call by which an agent attends."""

    def __init__(self, path: Path, *, hears: bool) -> None:
        self.told: queue.Queue[tuple[str, str]] = queue.Queue()
        self._attached = agents.from_coordinator_to_wire(Attached(1, 15.0, hears=hears))
        self._over = threading.Event()
        self._server = grpc.server(futures.ThreadPoolExecutor(4))
        method = methods.AGENT["Attend"]
        kinds = {"Attend": grpc.stream_stream_rpc_method_handler if hears else grpc.unary_stream_rpc_method_handler}
        answers = {"Attend": self._attend if hears else self._attend_once, "Tell": self._tell}
        handlers = {
            name: kinds.get(name, grpc.unary_unary_rpc_method_handler)(
                answer, method.decode_request, method.encode_reply
            )
            for name, answer in answers.items()
        }
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(method.service, handlers),))
        self._server.add_insecure_port(f"unix:{path}")
        self._server.start()

    def _attend(self, requests, context):
        for request in requests:
            self.told.put(("Attend", request.WhichOneof("kind")))
            yield self._attached

    def _attend_once(self, request, context):
        self.told.put(("Attend", request.WhichOneof("kind")))
        yield self._attached
        self._over.wait(WAIT_S)

    def _tell(self, request, context):
        self.told.put(("Tell", request.WhichOneof("kind")))
        return self._attached

    def stop(self) -> None:
        self._over.set()
        self._server.stop(None).wait(WAIT_S)


@pytest.mark.parametrize(("hears", "by"), [(True, "Attend"), (False, "Tell")])
def test_a_coordinator_is_told_by_the_call_that_it_hears_by(tmp_path, hears, by):
    coordinator = Versions(tmp_path / "c", hears=hears)
    heard: queue.Queue[object] = queue.Queue()
    whereabouts = Whereabouts(MemoryStore(), [f"unix://{tmp_path}/c"])
    link = AgentLink(whereabouts, find_manifest=NotImplemented, on_message=heard.put, on_broken=int)
    link.start()
    try:
        link.say(Hello(LIFE, "root", 0))
        assert heard.get(timeout=WAIT_S) == Attached(1, 15.0)
        for _ in range(2):
            link.say(Beat(LIFE, 1))
            assert heard.get(timeout=WAIT_S) == Attached(1, 15.0)
        told = [coordinator.told.get(timeout=WAIT_S) for _ in range(3)]
    finally:
        link.close()
        coordinator.stop()
    assert told == [("Attend", "hello"), (by, "beat"), (by, "beat")]


class Nowhere(Whereabouts):
    """Finds no coordinator."""

    def __init__(self) -> None:
        pass

    def find(self):
        raise NotNowError("its socket is not there")


def test_why_there_is_no_coordinator_is_logged_once_however_often_it_is_tried(caplog):
    caplog.set_level("INFO", "ckptd.agent")
    broken = threading.Semaphore(0)
    link = AgentLink(Nowhere(), find_manifest=NotImplemented, on_message=NotImplemented, on_broken=broken.release)
    link.start()
    for _ in range(5):
        link.say(Hello(LIFE, "root", 0))
        assert broken.acquire(timeout=WAIT_S)
    link.close()
    told = "the coordinator is not found: its socket is not there"
    assert [record.getMessage() for record in caplog.records] == [told]
