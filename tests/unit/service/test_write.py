"""Streams of lanes, as the daemon takes them itself and as they come by a stream process: the same either way."""

from __future__ import annotations

import queue
import threading

import grpc
import numpy as np
import pytest

from ckptd.daemon.app import STREAM_PROCESS
from ckptd.engine.identity import SaveRef
from ckptd.errors import CorruptionError, InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.format.crc32c import crc32c
from ckptd.service.flow import Limits
from ckptd.service.gate import Access
from ckptd.service.stream_processes import StreamOptions
from ckptd.wire import convert, status
from ckptd.wire.chunks import Chunk
from ckptd.wire.v1 import save_pb2
from tests.unit.service.conftest import serving
from tests.unit.service.test_server import WAIT_S, caught

SAVE = SaveRef("runs/a", 7, 1, rank=0, incarnation="inc")
ONE_PROCESS = StreamOptions(1, STREAM_PROCESS)


@pytest.fixture(params=[None, ONE_PROCESS], ids=["daemon", "stream process"])
def streams(request):
    return request.param


@pytest.fixture
def served(streams):
    with serving(limits=Limits(stall_s=60.0), streams=streams) as running:
        yield running


class Sending:
    """A Write stream that a test feeds by hand."""

    def __init__(self, stub, save, shard=0):
        self._out = queue.Queue()
        self.send(save_pb2.WriteRequest(open=save_pb2.WriteOpen(save=convert.save_to_wire(save), shard=shard)))
        self.call = stub.Write(iter(self._out.get, None), timeout=WAIT_S)

    def send(self, message):
        self._out.put(message)

    def end(self):
        self._out.put(None)

    def replies(self):
        return list(self.call)


def test_a_lane_arrives_as_it_was_sent_and_is_ended_with_its_checksums(served):
    data = np.random.default_rng(1).bytes(40 * 1000)
    save = served.coordinator.plan(SAVE, (len(data),))
    sending = Sending(served.writer(), save)
    assert next(sending.call) == save_pb2.WriteReply(received=0)
    for at in range(0, len(data), 1000):
        chunk = data[at : at + 1000]
        sending.send(Chunk(at, crc32c(chunk), chunk))
    crcs = crc32c(data).to_bytes(4, "little")
    sending.send(save_pb2.WriteRequest(end=save_pb2.LaneEnd(first_segment=0, crcs=crcs, last=True)))
    sending.end()
    *progress, last = sending.replies()
    assert (last.received, last.ended) == (len(data), True)
    told = [reply.received for reply in progress]
    assert len(told) == 2
    assert 0 <= told[0] <= 16_000
    assert told[0] <= told[1] <= 32_000  # what is written by then
    assert bytes(served.coordinator.lanes[0].data) == data
    assert served.coordinator.lanes[0].crcs == crcs


def test_a_stream_begins_with_what_has_arrived_before(served):
    save = served.coordinator.plan(SAVE, (10,))
    served.coordinator.lanes[0].data += b"12345"
    sending = Sending(served.writer(), save)
    assert next(sending.call).received == 5
    sending.end()


def test_damaged_bytes_are_told_with_their_place(served):
    sending = Sending(served.writer(), served.coordinator.plan(SAVE, (10,)))
    sending.send(Chunk(0, 1, b"0123456789"))
    error = caught(sending.replies)
    assert isinstance(error, CorruptionError)
    assert error.offset == 0


@pytest.mark.parametrize(
    "messages",
    [
        [Chunk(8, 0, b"123")],
        [save_pb2.WriteRequest(end=save_pb2.LaneEnd(first_segment=-1, crcs=b"1234"))],
        [save_pb2.WriteRequest(end=save_pb2.LaneEnd(crcs=b"123"))],
        [save_pb2.WriteRequest()],
        [save_pb2.WriteRequest(open=save_pb2.WriteOpen())],
        [b"raw"],
    ],
)
def test_a_stream_that_makes_no_sense_is_refused(served, messages):
    sending = Sending(served.writer(), served.coordinator.plan(SAVE, (10,)))
    for message in messages:
        sending.send(save_pb2.WriteRequest() if message == b"raw" else message)
    assert isinstance(caught(sending.replies), InvalidRequestError)


def test_a_stream_without_an_open_is_refused(served):
    call = served.writer().Write(iter([Chunk(0, 0, b"")]), timeout=WAIT_S)
    assert "begins with `open`" in str(caught(lambda: list(call)))


def test_a_stream_beyond_the_limit_waits_for_its_turn_and_then_goes_on(streams):
    limits = Limits(write_streams=1, write_streams_per_peer=1, stall_s=WAIT_S)
    with serving(limits=limits, streams=streams) as served:
        save = served.coordinator.plan(SAVE, (10, 10))
        first = Sending(served.writer(), save, 0)
        assert next(first.call).received == 0
        second = Sending(served.writer(), save, 1)
        # A control call made after it was sent is answered; the stream is not.
        served.stub().Abort(save_pb2.AbortRequest(save=convert.save_to_wire(save)), timeout=WAIT_S)
        assert second.call.is_active()
        answered = []
        waiting = threading.Thread(target=lambda: answered.append(next(second.call).received))
        waiting.start()
        assert answered == []
        first.end()
        waiting.join(WAIT_S)
        assert answered == [0]
        second.end()


def test_no_more_of_a_lane_is_taken_in_than_can_be_written(served):
    coordinator = served.coordinator
    save = coordinator.plan(SAVE, (64 << 20,))
    lane = coordinator.lanes[0]
    lane.let_write.clear()
    sent = []
    piece = bytes(1 << 20)
    crc = crc32c(piece)

    def requests():
        yield save_pb2.WriteRequest(open=save_pb2.WriteOpen(save=convert.save_to_wire(save), shard=0))
        for at in range(0, 64 << 20, 1 << 20):
            sent.append(at)
            yield Chunk(at, crc, piece)

    call = served.writer().Write(requests(), timeout=WAIT_S)
    next(call)
    assert lane.writing.acquire(timeout=WAIT_S)
    # The sender is held back by gRPC's window. A control call passes it by.
    reply = served.stub().Await(save_pb2.AwaitRequest(save=convert.save_to_wire(save), wait_s=0.1), timeout=WAIT_S)
    assert reply.phase == save_pb2.SAVE_PHASE_FILLING
    assert len(sent) < 20
    lane.let_write.set()
    assert list(call)[-1].received <= 64 << 20
    assert len(lane.data) == 64 << 20


def test_a_stream_that_stalls_is_ended_and_says_so(streams):
    with serving(limits=Limits(stall_s=0.3), streams=streams) as served:
        sending = Sending(served.writer(), served.coordinator.plan(SAVE, (10,)))
        error = caught(sending.replies)
        assert isinstance(error, UnavailableError)
        assert "the peer sent nothing for 0.3 s" in str(error)


def test_a_peer_that_goes_leaves_its_stream_to_the_next(streams):
    limits = Limits(write_streams=1, write_streams_per_peer=1, stall_s=WAIT_S)
    with serving(limits=limits, streams=streams) as served:
        save = served.coordinator.plan(SAVE, (10, 10))
        first = Sending(served.writer(), save, 0)
        next(first.call)
        first.call.cancel()
        second = Sending(served.writer(), save, 1)
        assert next(second.call).received == 0
        second.end()


def test_no_lane_is_taken_without_the_token(streams):
    with serving(access=Access(shared_token="secret-token"), streams=streams) as served:
        save = served.coordinator.plan(SAVE, (10,))
        for credentials, said in (({}, "no token"), ({"token": "wrong"}, "not the daemon's")):
            with pytest.raises(grpc.RpcError, match="the call shows") as failed:
                Sending(served.writer(**credentials), save).replies()
            assert failed.value.code() is grpc.StatusCode.UNAUTHENTICATED
            assert said in failed.value.details()
            assert isinstance(status.from_wire(failed.value), NotPermittedError)
        sending = Sending(served.writer(token="secret-token"), save)
        assert next(sending.call).received == 0
        sending.end()


def test_a_stopped_daemon_ends_the_streams(streams):
    with serving(streams=streams) as served:
        sending = Sending(served.writer(), served.coordinator.plan(SAVE, (10,)))
        next(sending.call)
        served.stop()
        assert isinstance(caught(sending.replies), UnavailableError)
