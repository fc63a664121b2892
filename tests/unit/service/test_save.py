from __future__ import annotations

import threading

import grpc
import pytest

from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.manifest import Manifest, Part
from ckptd.engine.replicas import Difference
from ckptd.engine.saves.session import Phase
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, SessionAbortedError, UnavailableError
from ckptd.format import dtypes
from ckptd.format.slices import Box
from ckptd.service.flow import Limits
from ckptd.wire import convert, lanes, manifests, methods, status, versions
from ckptd.wire.v1 import save_pb2
from tests.fakes.coordinator import FakeCoordinator, checkpoint
from tests.unit.service.conftest import serving
from tests.unit.service.test_server import WAIT_S, caught

SAVE = SaveRef("runs/a", 7, 1, rank=0, incarnation="inc")
MANIFEST = Manifest.of([Part("w", dtypes.by_name("float32").number, (2,), Box((0,), (2,)), 8)])


def join_request(rank=0, incarnation="inc", version=versions.VERSION):
    peer = versions.this_peer(incarnation)
    peer.version = version
    return convert.join_to_wire(peer, "runs/a", Member(rank, 2, incarnation), RunOptions())


def declare_request(digest=MANIFEST.digest):
    return convert.declaration_to_wire(Declaration(SAVE, "req", 2, digest))


def test_a_join_is_welcomed_first_and_its_end_starts_the_lease(served):
    call = served.stub().Join(join_request(), timeout=WAIT_S)
    welcome = next(call).welcome
    assert (welcome.epoch, welcome.root, welcome.root_id) == (7, "memory://fake", "the-root")
    assert welcome.peer.version == versions.VERSION
    assert welcome.max_message_bytes == 4 << 20
    assert served.coordinator.told == [("join", 0)]
    call.cancel()
    served.coordinator.wait_until_told("disconnect")


def test_a_broken_connection_is_noticed(served):
    channel = served.channel()
    next(methods.Stub(channel, methods.SAVE).Join(join_request(), timeout=WAIT_S))
    channel.close()
    served.coordinator.wait_until_told("disconnect")


def test_a_member_that_is_back_on_a_new_stream_stays_when_the_old_one_ends(served):
    first = served.stub().Join(join_request(), timeout=WAIT_S)
    next(first)
    second = served.stub().Join(join_request(), timeout=WAIT_S)
    next(second)
    first.cancel()
    # A call after the cancelled one, on the same connection, is answered when the cancellation has been handled.
    third = served.stub().Join(join_request(), timeout=WAIT_S)
    next(third)
    assert ("disconnect", 0) not in served.coordinator.told
    second.cancel()
    third.cancel()
    served.coordinator.wait_until_told("disconnect")
    assert served.coordinator.told == [("join", 0)] * 3 + [("disconnect", 0)]


def test_a_join_that_ends_before_it_is_answered_is_undone():
    coordinator = FakeCoordinator()
    going_on, inside = threading.Event(), threading.Event()
    join = coordinator.join

    def slow_join(run, member, options):
        inside.set()
        assert going_on.wait(60)
        return join(run, member, options)

    coordinator.join = slow_join
    with serving(coordinator) as served:
        call = served.stub().Join(join_request(), timeout=WAIT_S)
        assert inside.wait(60)
        call.cancel()
        going_on.set()
        coordinator.wait_until_told("disconnect")
        assert coordinator.told == [("join", 0), ("disconnect", 0)]


def test_a_second_job_is_told_who_holds_the_run(served):
    held = served.stub().Join(join_request(incarnation="one"), timeout=WAIT_S)
    next(held)
    error = caught(lambda: next(served.stub().Join(join_request(incarnation="two"), timeout=WAIT_S)))
    assert isinstance(error, ConflictError)
    assert "rank 0 of 2" in error.expected
    held.cancel()


@pytest.mark.parametrize(("version", "kind"), [("", InvalidRequestError), ("7.0.0", ConflictError)])
def test_a_member_tells_a_version_that_fits(served, version, kind):
    assert isinstance(caught(lambda: next(served.stub().Join(join_request(version=version), timeout=WAIT_S))), kind)
    assert served.coordinator.told == []


def test_members_are_told_that_the_daemon_ends():
    with serving() as served:
        call = served.stub().Join(join_request(), timeout=WAIT_S)
        next(call)
        served.stop()
        error = caught(lambda: next(call))
        assert isinstance(error, UnavailableError)
        assert "shutting down" in str(error)
        served.coordinator.wait_until_told("disconnect")


def test_leaving_is_for_good(served):
    served.stub().Leave(
        save_pb2.LeaveRequest(peer=versions.this_peer("inc"), run="runs/a", rank=1, epoch=7), timeout=WAIT_S
    )
    assert served.coordinator.told == [("leave", 1)]


def test_a_manifest_is_asked_for_once_and_then_known_by_its_digest(served):
    stub = served.stub()
    (reply,) = stub.Declare(declare_request(), timeout=WAIT_S)
    assert reply.WhichOneof("kind") == "need_manifest"
    stub.PutManifest(manifests.manifest_parts(MANIFEST), timeout=WAIT_S)
    assert served.coordinator.manifests[MANIFEST.digest].names == ("w",)
    planned = served.coordinator.plan(SAVE, (8, 4))
    assignment = lanes.assignment_from_wire(stub.Declare(declare_request(), timeout=WAIT_S))
    assert assignment.save == planned
    assert [lane.size_bytes for lane in assignment.lanes] == [8, 4]


def test_a_manifest_has_a_largest_size():
    with serving(limits=Limits(manifest_bytes=1000)) as served:
        parts = iter([save_pb2.ManifestPart(digest=bytes(32), data=bytes(1001))])
        error = caught(lambda: served.stub().PutManifest(parts, timeout=WAIT_S))
        assert isinstance(error, InvalidRequestError)
        assert "--max-manifest-bytes" in str(error)


def test_a_rank_that_declared_and_went_away_harms_nobody_and_may_ask_again(served):
    served.coordinator.manifests.add(MANIFEST)
    stub = served.stub()
    gone = stub.Declare(declare_request(), timeout=WAIT_S)
    served.coordinator.wait_until_told("declare")
    gone.cancel()
    again = stub.Declare(declare_request(), timeout=WAIT_S)
    served.coordinator.wait_until_told("declare", times=2)
    served.coordinator.plan(SAVE)
    assert lanes.assignment_from_wire(again).save.save_id == "s1"


def test_a_save_that_was_published_already_is_the_answer_to_its_repetition(served):
    served.coordinator.manifests.add(MANIFEST)
    served.coordinator.declare(convert.declaration_from_wire(declare_request())).set_result(checkpoint(1))
    (reply,) = served.stub().Declare(declare_request(), timeout=WAIT_S)
    assert convert.checkpoint_from_wire(reply.already_saved) == checkpoint(1)
    assert reply.already_saved.key == "runs/a/m-1"


@pytest.mark.parametrize("is_saved", [True, False])
def test_rank_0_hears_what_differs_also_of_a_save_that_is_over(served, is_saved):
    served.coordinator.manifests.add(MANIFEST)
    served.coordinator.differing = (Difference("w\udcff", "3 on rank 0, 4 on rank 1"),)
    if is_saved:
        served.coordinator.declare(convert.declaration_from_wire(declare_request())).set_result(checkpoint(1))
    else:
        served.coordinator.plan(SAVE)
    first, *others = served.stub().Declare(declare_request(), timeout=WAIT_S)
    assert convert.differences_from_wire(first.differences) == served.coordinator.differing
    assert not any(each.differences for each in others)
    served.coordinator.declared = {1: next(iter(served.coordinator.declared.values()))}
    request = declare_request()
    request.save.rank = 1
    first, *others = served.stub().Declare(request, timeout=WAIT_S)
    assert not first.differences


def test_a_declaration_fails_as_its_save_does(served):
    served.coordinator.manifests.add(MANIFEST)
    failure = SessionAbortedError("rank 3 of 4 has not declared its tensors (30 s)")
    served.coordinator.declare(convert.declaration_from_wire(declare_request())).set_exception(failure)
    error = caught(lambda: list(served.stub().Declare(declare_request(), timeout=WAIT_S)))
    assert type(error) is SessionAbortedError
    assert str(error) == str(failure)


def await_plan(served):
    declared = declare_request()
    request = save_pb2.AwaitPlanRequest(save=declared.save, request_id=declared.request_id)
    return served.stub().AwaitPlan(request, timeout=WAIT_S)


def test_what_was_declared_over_shared_memory_is_answered_without_the_declaration(served):
    served.coordinator.differing = (Difference("w", "3 on rank 0, 4 on rank 1"),)
    planned = served.coordinator.plan(SAVE, (8, 4))
    first, *others = await_plan(served)
    assignment = lanes.assignment_from_wire([first, *others])
    assert assignment.save == planned
    assert [lane.size_bytes for lane in assignment.lanes] == [8, 4]
    assert convert.differences_from_wire(first.differences) == served.coordinator.differing
    assert ("declare", 0) not in served.coordinator.told


def test_a_plan_that_comes_no_more_is_the_end_of_its_save(served):
    declared = convert.declaration_from_wire(declare_request())
    served.coordinator.declare(declared).set_exception(SessionAbortedError("rank 3 of 4 has not declared"))
    (reply,) = await_plan(served)
    assert "rank 3 of 4" in str(status.unpack(reply.ended))


def test_a_declaration_that_is_not_known_is_to_be_made_in_full(served):
    declared = convert.declaration_from_wire(declare_request())
    served.coordinator.declare(declared).set_exception(NotFoundError("rank 0 has not declared it here"))
    assert isinstance(caught(lambda: list(await_plan(served))), NotFoundError)


@pytest.mark.parametrize("phase", [Phase.DECLARING, Phase.FILLING, Phase.SEALED, Phase.COMMITTED])
def test_waiting_ends_with_the_phase_when_the_save_does_not(served, phase):
    save = served.coordinator.plan(SAVE)
    served.coordinator.phases["s1"] = phase
    reply = served.stub().Await(save_pb2.AwaitRequest(save=convert.save_to_wire(save), wait_s=0.05), timeout=WAIT_S)
    assert reply.phase == convert.phase_to_wire(phase)
    assert not served.coordinator.outcomes["s1"].cancelled()


def test_waiting_ends_with_the_checkpoint_or_the_error(served):
    save = served.coordinator.plan(SAVE)
    request = save_pb2.AwaitRequest(save=convert.save_to_wire(save), wait_s=20)
    waiting = served.stub().Await.future(request, timeout=WAIT_S)
    served.coordinator.outcomes["s1"].set_result(checkpoint(1))
    assert convert.checkpoint_from_wire(waiting.result(WAIT_S).checkpoint) == checkpoint(1)
    del served.coordinator.outcomes["s1"]
    assert served.stub().Await(request, timeout=WAIT_S).phase == save_pb2.SAVE_PHASE_UNKNOWN
    served.coordinator.plan(SaveRef("runs/a", 7, 1, rank=1, incarnation="inc"))
    served.coordinator.outcomes["s1"].set_exception(SessionAbortedError("rank 1 of 2 went away"))
    assert isinstance(caught(lambda: served.stub().Await(request, timeout=WAIT_S)), SessionAbortedError)


def test_an_abort_gives_its_reason_in_one_line(served):
    save = served.coordinator.plan(SAVE)
    served.stub().Abort(save_pb2.AbortRequest(save=convert.save_to_wire(save), reason="no\nmore"), timeout=WAIT_S)
    assert served.coordinator.aborted == [(save, "nomore")]


def test_a_declaration_is_taken_back_by_its_request(served):
    request = save_pb2.AbortRequest(
        save=convert.save_to_wire(SAVE), reason="Ctrl-C", request_id="req", checkpoint_name="model.ckpt"
    )
    assert served.stub().Abort(request, timeout=WAIT_S).withdrawn
    assert served.coordinator.withdrawn == [(SAVE, "req", "Ctrl-C", "model.ckpt")]
    assert not served.coordinator.aborted


def test_a_run_outside_of_the_root_is_refused_everywhere(served):
    identity = convert.save_to_wire(SAVE)
    identity.run = "../other"
    stub = served.stub()
    requests = [
        lambda: list(stub.Declare(save_pb2.DeclareRequest(save=identity), timeout=WAIT_S)),
        lambda: stub.Await(save_pb2.AwaitRequest(save=identity, wait_s=1), timeout=WAIT_S),
        lambda: stub.Abort(save_pb2.AbortRequest(save=identity), timeout=WAIT_S),
        lambda: next(
            stub.Join(save_pb2.JoinRequest(peer=versions.this_peer("i"), run="/etc", world_size=1), timeout=WAIT_S)
        ),
        lambda: stub.Leave(save_pb2.LeaveRequest(peer=versions.this_peer("i"), run="a/.ckptd"), timeout=WAIT_S),
    ]
    for request in requests:
        assert isinstance(caught(request), InvalidRequestError)
    assert served.coordinator.told == []


def test_a_join_that_outlives_its_deadline_starts_the_lease(served):
    call = served.stub().Join(join_request(), timeout=0.3)
    next(call)
    with pytest.raises(grpc.RpcError):
        next(call)
    served.coordinator.wait_until_told("disconnect")
