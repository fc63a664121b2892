"""Another team, with every right on its own runs, tries to reach other runs, by whatever names there are."""

from __future__ import annotations

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ckptd import Checkpointer
from ckptd.access import tokens
from ckptd.access.policy import parse
from ckptd.access.tokens import Token, Tokens
from ckptd.errors import CkptdError, InvalidRequestError, NotFoundError, NotPermittedError
from ckptd.service.gate import Access
from ckptd.service.server import Server, ServerOptions
from ckptd.wire import addresses, methods, status, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2, common_pb2, read_pb2, save_pb2, watch_pb2
from tests.unit.client.served import Daemon

WAIT_S = 60.0
SECRET = np.arange(1000, dtype=np.float32)
POLICY = parse(
    {
        "grant": [
            {"to": "token:vision", "runs": "vision/**", "role": "save"},
            {"to": "token:enemy", "runs": ["audio", "audio/**"], "role": "admin"},
        ]
    }
)
KNOWN = Tokens({name: Token(name, tokens.hash_of(name), 0.0) for name in ("vision", "enemy")})
FOREIGN = "vision/secret"
OUT = (
    "../../vision/secret/",
    "../vision/secret/",
    "/vision/secret/",
    "./",
    "x/../../../vision/secret/",
    ".ckptd/undo/",
    "..%2fvision%2fsecret%2f",
    "\uff0e\uff0e/vision/secret/",
    "..\\vision\\secret\\",
    "\0/",
    "\n/",
)
"""Ways from one run into another, or to what the engine hides."""

LOOKALIKES = (
    "v\u0456sion/secret",
    "VISION/secret",
    "vision /secret",
    "vision/secret/",
    "\uff56ision/secret",
    "vision//secret",
)


class Served(Daemon):
    """A daemon for two teams."""

    def make_server(self, coordinator):
        access = Access(tokens=KNOWN, policy=POLICY)
        return Server(coordinator, ServerOptions(listen=(self._listen,), access=access))


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    running = Served(tmp_path_factory.mktemp("strangers") / "root")
    for token, run in (("vision", FOREIGN), ("enemy", "audio/x")):
        with Checkpointer(running.address, run, token=token, timeout_s=WAIT_S) as trainer:
            trainer.save(1, {"w": SECRET}).result(WAIT_S)
    yield running
    running.stop()


@pytest.fixture
def channel(daemon):
    with open_channel(addresses.parse(daemon.address), token="enemy") as opened:
        yield opened


def refusal(channel, service, method, request):
    """Make one call as the enemy; return what it is refused with."""
    called = service[method]
    try:
        answer = getattr(methods.Stub(channel, service), method)(
            iter([request]) if called.request_streaming else request, timeout=WAIT_S
        )
        if called.reply_streaming:
            list(answer)
    except grpc.RpcError as error:
        return status.from_wire(error)
    pytest.fail(f"{method} was answered")


def unharmed(daemon):
    """Say whether the other team's checkpoint is there as it was saved."""
    with Checkpointer(daemon.address, FOREIGN, token="vision", timeout_s=WAIT_S) as trainer:
        return [each.step for each in trainer.checkpoints()] == [1] and np.array_equal(trainer.restore()["w"], SECRET)


def save_of(run, **more):
    return common_pb2.SaveIdentity(run=run, epoch=1, step=1, save_id="s", attempt=1, incarnation="me", **more)


@pytest.mark.parametrize("way", OUT)
def test_no_name_leads_out_of_the_own_run(daemon, channel, way):
    mine = "audio/x"
    own = {"run": mine}
    for service, method, request in (
        (methods.READ, "Read", read_pb2.ReadRequest(key=f"{mine}/{way}model.ckpt-1.index", size=-1)),
        (methods.READ, "Latest", read_pb2.LatestRequest(**own, name=f"{way}model.ckpt")),
        (methods.READ, "CheckDamage", read_pb2.CheckDamageRequest(**own, key=f"{mine}/{way}model.ckpt-1")),
        (methods.WATCH, "Watch", watch_pb2.WatchRequest(**own, name=f"{way}model.ckpt")),
        (methods.ADMIN, "Pin", admin_pb2.PinRequest(**own, name=f"{way}model.ckpt-1", pinned=True)),
        (methods.ADMIN, "Delete", admin_pb2.DeleteRequest(**own, name=f"{way}model.ckpt-1", for_good=True)),
        (methods.ADMIN, "Delete", admin_pb2.DeleteRequest(**own, step=1, series=f"{way}model.ckpt", for_good=True)),
        (methods.ADMIN, "Undelete", admin_pb2.UndeleteRequest(**own, name=f"{way}model.ckpt-1")),
        (methods.ADMIN, "Repair", admin_pb2.RepairRequest(**own, latest_filename=f"{way}checkpoint")),
        (methods.ADMIN, "Delete", admin_pb2.DeleteRequest(run=f"{mine}/{way}"[:-1], step=1, even_latest=True)),
        (
            methods.SAVE,
            "Join",
            save_pb2.JoinRequest(
                peer=versions.this_peer("me"),
                **own,
                world_size=1,
                options=common_pb2.RunOptions(name="m", latest_filename=f"{way}checkpoint"),
            ),
        ),
    ):
        answer = refusal(channel, service, method, request)
        assert isinstance(answer, InvalidRequestError), (method, answer)
    assert unharmed(daemon)


def test_an_object_of_another_run_is_read_for_nobody_by_a_suspicion(daemon, channel):
    request = read_pb2.CheckDamageRequest(run="audio/x", key=f"{FOREIGN}/model.ckpt-1")
    assert "no checkpoint of the run" in str(refusal(channel, methods.READ, "CheckDamage", request))
    request.key, request.object_key = "audio/x/model.ckpt-1", f"{FOREIGN}/model.ckpt-1.data-00000-of-00001"
    assert not methods.Stub(channel, methods.READ).CheckDamage(request, timeout=WAIT_S).confirmed


@pytest.mark.parametrize("run", LOOKALIKES)
def test_a_name_that_looks_like_anothers_is_not_its(channel, run):
    for service, method, request in (
        (methods.READ, "List", read_pb2.ListRequest(run=run)),
        (methods.READ, "Read", read_pb2.ReadRequest(key=f"{run}/model.ckpt-1.index", size=-1)),
        (methods.ADMIN, "Delete", admin_pb2.DeleteRequest(run=run, step=1)),
    ):
        assert isinstance(refusal(channel, service, method, request), InvalidRequestError | NotPermittedError)


def test_what_is_refused_does_not_tell_whether_it_exists(channel):
    told = [
        str(refusal(channel, methods.READ, "List", read_pb2.ListRequest(run=run))).replace(run, "RUN")
        for run in (FOREIGN, "vision/nothing")
    ]
    assert told[0] == told[1]


def test_neither_status_nor_health_tells_of_anothers_runs(channel):
    answer = methods.Stub(channel, methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
    assert [run.run for run in answer.runs] == ["audio/x"]
    assert "vision" not in str(answer)
    health = health_pb2_grpc.HealthStub(channel)
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=WAIT_S).status == 1
    for run in (FOREIGN, "vision/nothing"):
        for ask in (health.Check, health.Watch):
            with pytest.raises(grpc.RpcError) as refused:
                list(ask(health_pb2.HealthCheckRequest(service=methods.RUN_HEALTH + run), timeout=WAIT_S))
            assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED


def test_ids_of_anothers_save_are_worth_nothing_in_the_own_run_nor_there(daemon, channel):
    (known,) = daemon.coordinator.checkpoints(FOREIGN)
    for run, expected in (("audio/x", CkptdError), (FOREIGN, NotPermittedError)):
        save = save_of(run)
        save.save_id = known.save_id
        for method, request in (
            ("Abort", save_pb2.AbortRequest(save=save, reason="hostile")),
            ("Leave", save_pb2.LeaveRequest(peer=versions.this_peer("me"), run=run, epoch=1)),
            ("Write", save_pb2.WriteRequest(open=save_pb2.WriteOpen(save=save))),
        ):
            if (run, method) in {("audio/x", "Abort"), ("audio/x", "Leave")}:
                continue  # an admin may end what is its own; what is not there is ended already
            answer = refusal(channel, methods.SAVE, method, request)
            assert isinstance(answer, expected), (method, answer)
            assert not isinstance(answer, NotFoundError) or run == "audio/x"
    assert unharmed(daemon)


def test_a_client_that_knows_only_grpc_is_told_in_its_own_words(channel):
    with pytest.raises(grpc.RpcError) as refused:
        methods.Stub(channel, methods.READ).List(read_pb2.ListRequest(run=FOREIGN), timeout=WAIT_S)
    assert refused.value.code() is grpc.StatusCode.PERMISSION_DENIED
    assert f"token:enemy may not read run '{FOREIGN}'" in refused.value.details()
