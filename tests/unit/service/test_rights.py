"""Every method, for each role and each kind of identity, on the own run, a foreign one and nested ones."""

from __future__ import annotations

import time

import grpc
import pytest

from ckptd.access import roles, tokens
from ckptd.access.policy import parse
from ckptd.access.roles import Right
from ckptd.access.tokens import Token, Tokens
from ckptd.engine.identity import Member, RunOptions
from ckptd.errors import NotPermittedError
from ckptd.service import requirements
from ckptd.service.gate import Access
from ckptd.wire import methods, status, versions
from ckptd.wire.v1 import admin_pb2, agent_pb2, common_pb2, read_pb2, save_pb2, watch_pb2
from tests import seams
from tests.fakes.coordinator import checkpoint
from tests.unit.service.conftest import serving

WAIT_S = 60
ROLES = ("metrics", "read", "save", "manage", "agent", "admin")

# The right that each method needs: written down here once more, so that a change of the table is seen.
NEEDS = {
    "Join": "save",
    "Leave": "save",
    "PutManifest": "save",
    "Declare": "save",
    "AwaitPlan": "save",
    "Write": "save or agent",
    "Await": "read",
    "Abort": "save",
    "Latest": "read",
    "List": "read",
    "Read": "read or agent",
    "CheckDamage": "read",
    "Agree": "read",
    "Restored": "read",
    "Watch": "read",
    "Status": "read",
    "Pin": "save or manage",
    "Unpin": "manage",
    "Delete": "save or manage",
    "DeleteForGood": "manage",
    "DeleteLatest": "manage",
    "Undelete": "manage",
    "Repair": "manage",
    "Evict": "admin",
    "History": "read",
    "OpenPage": "read",
    "Attend": "agent",
    "Tell": "agent",
    "Place": "agent",
    "Neighbours": "agent",
    "Depart": "agent",
    "Offer": "agent",
    "Where": "agent",
}
# What an agent relays for the ranks of its host, whom it has judged itself.
RELAYED = {"PutManifest", "Await", "Latest", "List", "CheckDamage", "Agree", "Watch", "Pin", "Delete"}
HAS = {
    "metrics": {"metrics"},
    "read": {"read"},
    "save": {"read", "save"},
    "manage": {"read", "manage"},
    "agent": {"agent"},
    "admin": {"metrics", "read", "save", "manage", "agent", "admin"},
}
WITHOUT_A_RUN = {"PutManifest", "Status", "Attend", "Tell", "Neighbours", "Offer", "OpenPage"}


def request_of(name, run):
    save = common_pb2.SaveIdentity(run=run, epoch=1, step=1, save_id="s", attempt=1, incarnation="me")
    peer = versions.this_peer("me")
    return {
        "Join": lambda: save_pb2.JoinRequest(peer=peer, run=run, world_size=1),
        "Leave": lambda: save_pb2.LeaveRequest(peer=peer, run=run),
        "PutManifest": lambda: save_pb2.ManifestPart(digest=b"d" * 32),
        "Declare": lambda: save_pb2.DeclareRequest(save=save),
        "AwaitPlan": lambda: save_pb2.AwaitPlanRequest(save=save),
        "Write": lambda: save_pb2.WriteRequest(open=save_pb2.WriteOpen(save=save)),
        "Await": lambda: save_pb2.AwaitRequest(save=save),
        "Abort": lambda: save_pb2.AbortRequest(save=save),
        "Latest": lambda: read_pb2.LatestRequest(run=run),
        "List": lambda: read_pb2.ListRequest(run=run),
        "Read": lambda: read_pb2.ReadRequest(key=f"{run}/model.ckpt-1.index", size=-1),
        "Restored": lambda: read_pb2.RestoredRequest(peer=peer, run=run),
        "CheckDamage": lambda: read_pb2.CheckDamageRequest(run=run, key=f"{run}/model.ckpt-1"),
        "Agree": lambda: read_pb2.AgreeRequest(run=run),
        "Watch": lambda: watch_pb2.WatchRequest(run=run),
        "Status": admin_pb2.StatusRequest,
        "Pin": lambda: admin_pb2.PinRequest(run=run, step=1, pinned=True),
        "Unpin": lambda: admin_pb2.PinRequest(run=run, step=1),
        "Delete": lambda: admin_pb2.DeleteRequest(run=run, step=1),
        "DeleteForGood": lambda: admin_pb2.DeleteRequest(run=run, step=1, for_good=True),
        "DeleteLatest": lambda: admin_pb2.DeleteRequest(run=run, step=1, even_latest=True),
        "Undelete": lambda: admin_pb2.UndeleteRequest(run=run, step=1),
        "Repair": lambda: admin_pb2.RepairRequest(run=run),
        "Evict": lambda: admin_pb2.EvictRequest(run=run),
        "History": lambda: admin_pb2.HistoryRequest(run=run),
        "OpenPage": admin_pb2.OpenPageRequest,
        "Attend": agent_pb2.AgentMessage,
        "Tell": agent_pb2.AgentMessage,
        "Place": lambda: agent_pb2.PlaceRequest(join=save_pb2.JoinRequest(peer=peer, run=run, world_size=1), host="h"),
        "Neighbours": agent_pb2.NeighboursRequest,
        "Offer": agent_pb2.OfferRequest,
        "Where": lambda: agent_pb2.WhereRequest(key=f"{run}/model.ckpt-1"),
        "Depart": lambda: agent_pb2.DepartRequest(leave=save_pb2.LeaveRequest(peer=peer, run=run), host="h"),
    }[name]()


def method_of(name):
    called = {"Unpin": "Pin", "DeleteForGood": "Delete", "DeleteLatest": "Delete"}.get(name, name)
    return next(method for method in methods.ALL if method.name == called)


def policy_for(run):
    return parse({"grant": [{"to": f"token:{role}", "runs": run, "role": role} for role in ROLES]})


def answer_of(served, name, run, shown):
    """Return the status that a call gets: None as long as it is let in, whatever the service says then."""
    method = method_of(name)
    channel = served.channel()
    kinds = {
        (False, False): channel.unary_unary,
        (False, True): channel.unary_stream,
        (True, False): channel.stream_unary,
        (True, True): channel.stream_stream,
    }
    call = kinds[method.request_streaming, method.reply_streaming](
        method.path, request_serializer=method.encode_request, response_deserializer=lambda data: data
    )
    request = request_of(name, run)
    metadata = () if shown is None else (("authorization", f"Bearer {shown}"),)
    try:
        made = call(iter([request]) if method.request_streaming else request, timeout=WAIT_S, metadata=metadata)
        if method.reply_streaming:
            next(iter(made), None)
            made.cancel()
    except grpc.RpcError as error:
        ours = status.from_wire(error)
        refused = isinstance(ours, NotPermittedError)
        return (error.code(), str(ours)) if refused else None
    return None


@pytest.fixture(autouse=True)
def refused_at_once(monkeypatch):
    """Many refusals to one peer come late each, which is tested elsewhere."""
    seams.LATE_REFUSAL_S.put(monkeypatch, 0.0)


@pytest.fixture(scope="module")
def served():
    """A daemon with a token for each role, on a/** ; one that has expired, and one that no row names."""
    secrets = {name: f"{tokens.PREFIX}{name}" for name in (*ROLES, "expired", "stranger")}
    known = {
        name: Token(name, tokens.hash_of(secret), 0.0, time.time() - 1.0 if name == "expired" else None)
        for name, secret in secrets.items()
    }
    with serving(access=Access(tokens=Tokens(known), policy=policy_for("a/**"))) as running:
        running.secrets = secrets
        for run in ("a/x", "a/x/nested"):
            running.coordinator.newest[run] = checkpoint(1, run=run)  # a watcher that is let in is told at once
        yield running


def test_every_method_has_a_row_and_no_row_is_of_no_method():
    assert set(requirements.ROWS) == {method.path for method in methods.ALL}


def test_every_method_is_in_the_matrix():
    assert {method_of(name).path for name in NEEDS} == {method.path for method in methods.ALL}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", NEEDS)
def test_a_role_may_do_what_its_rights_say_on_its_own_runs_and_nothing_on_others(served, name, role):
    may = not HAS[role].isdisjoint(NEEDS[name].split(" or ")) or (role == "agent" and name in RELAYED)
    for run, is_own in (("a/x", True), ("a/x/nested", True), ("b/x", False), ("a", False), ("a-x/y", False)):
        answer = answer_of(served, name, run, served.secrets[role])
        if may and (is_own or name in WITHOUT_A_RUN):
            assert answer is None, (run, answer)
        else:
            assert answer is not None, run
            code, text = answer
            assert code is grpc.StatusCode.PERMISSION_DENIED
            assert f"token:{role} may not" in text
            assert name in WITHOUT_A_RUN or repr(run) in text


@pytest.mark.parametrize("name", NEEDS)
def test_no_identity_a_wrong_one_and_an_expired_one_are_unauthenticated(served, name):
    for shown, said in (
        (None, "no token"),
        ("ckptd_wrong", "not the daemon's"),
        (served.secrets["expired"], "expired"),
    ):
        code, text = answer_of(served, name, "a/x", shown)
        assert code is grpc.StatusCode.UNAUTHENTICATED
        assert said in text


@pytest.mark.parametrize("name", NEEDS)
def test_an_identity_that_no_row_names_may_do_nothing(served, name):
    code, _ = answer_of(served, name, "a/x", served.secrets["stranger"])
    assert code is grpc.StatusCode.PERMISSION_DENIED


def test_status_shows_an_identity_the_runs_that_it_may_read_and_no_others(served):
    served.coordinator.join("r", Member(0, 1, "me"), RunOptions())
    stub = methods.Stub(served.channel(token=served.secrets["read"]), methods.ADMIN)
    assert not stub.Status(admin_pb2.StatusRequest(), timeout=WAIT_S).runs
    before = served.server.gate.access
    try:
        served.server.use_identities(Access(tokens=before.tokens, policy=policy_for("r")), None)
        assert [run.run for run in stub.Status(admin_pb2.StatusRequest(), timeout=WAIT_S).runs] == ["r"]
    finally:
        served.server.use_identities(before, None)


def test_there_are_no_other_roles():
    assert set(roles.ROLES) == set(ROLES)
    assert roles.ROLES["admin"] == frozenset(Right)


def test_a_changed_policy_is_the_next_calls(served):
    before = served.server.gate.access
    try:
        assert answer_of(served, "List", "c/x", served.secrets["read"]) is not None
        served.server.use_identities(Access(tokens=before.tokens, policy=policy_for("c/**")), None)
        assert answer_of(served, "List", "c/x", served.secrets["read"]) is None
        assert answer_of(served, "List", "a/x", served.secrets["read"]) is not None
    finally:
        served.server.use_identities(before, None)
