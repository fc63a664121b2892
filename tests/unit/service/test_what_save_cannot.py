"""What a trainer with the role `save` can never do, against a real engine: two teams on one daemon."""

from __future__ import annotations

import grpc
import numpy as np
import pytest

from ckptd import Checkpointer
from ckptd.access import tokens
from ckptd.access.policy import Policy, parse
from ckptd.access.tokens import Token, Tokens
from ckptd.engine.manifest import Manifest
from ckptd.errors import (
    CkptdError,
    ConflictError,
    CorruptionError,
    InvalidRequestError,
    NotFoundError,
    NotPermittedError,
    SessionAbortedError,
)
from ckptd.service.gate import Access
from ckptd.wire import addresses, methods, status, versions
from ckptd.wire.channels import open_channel
from ckptd.wire.v1 import admin_pb2, common_pb2, read_pb2, save_pb2
from tests.fakes.waiting import eventually
from tests.unit.client.served import Daemon

WAIT_S = 60.0
W = {"w": np.arange(6, dtype=np.float32)}
GRANTS = [
    {"to": "token:vision", "runs": "vision/**", "role": "save"},
    {"to": "token:audio", "runs": "audio/**", "role": "save"},
    {"to": "token:keeper", "runs": "**", "role": "manage"},
    {"to": "token:root", "runs": "**", "role": "admin"},
    {"to": "token:looker", "runs": "**", "role": "read"},
]
NAMES = ("vision", "audio", "keeper", "root", "looker")
SECRETS = {name: f"{tokens.PREFIX}{name}" for name in NAMES}
KNOWN = Tokens({name: Token(name, tokens.hash_of(secret), 0.0) for name, secret in SECRETS.items()})


def access_with(*floors: dict[str, object]) -> Access:
    policy: Policy = parse({"grant": GRANTS, "floor": list(floors)})
    return Access(tokens=KNOWN, policy=policy)


@pytest.fixture
def served(tmp_path):
    """Starts daemons with tokens for two teams, one for their keeper, and one for its operator."""
    running = []

    def serve(**options):
        running.append(Daemon(tmp_path / "root", access=access_with(), **options))
        return running[-1]

    yield serve
    for each in running:
        each.stop()


@pytest.fixture
def daemon(served):
    return served(undo_s=600.0)


def open_run(daemon, name, run, **options):
    return Checkpointer(daemon.address, run=run, token=SECRETS[name], timeout_s=WAIT_S, **options)


def call(daemon, name, service, method, request):
    """Make one call as one of the identities; raises what the daemon refuses it with."""
    with open_channel(addresses.parse(daemon.address), token=SECRETS[name]) as channel:
        try:
            return getattr(methods.Stub(channel, service), method)(request, timeout=WAIT_S)
        except grpc.RpcError as error:
            raise status.from_wire(error) from error


def save(ckpt, *steps, **options):
    for step in steps:
        done = ckpt.save(step, W, **options).result(WAIT_S)
        ckpt.settle(step)
    return done


def steps_of(ckpt):
    return [checkpoint.step for checkpoint in ckpt.checkpoints()]


def test_no_option_of_a_trainer_undercuts_the_floor_which_counts_as_soon_as_it_is_written(daemon):
    with open_run(daemon, "vision", "vision/a", max_to_keep=1) as trainer:
        save(trainer, 1, 2)
        assert steps_of(trainer) == [2]
        daemon.server.use_identities(access_with({"runs": "vision/**", "keep_at_least": 3}), None)
        save(trainer, 3, 4, 5)
        assert steps_of(trainer) == [3, 4, 5]
        with pytest.raises(NotPermittedError, match="the daemon's policy keeps the newest 3"):
            trainer.delete(3)
        with pytest.raises(NotPermittedError, match=r"may not manage .* it needs the role `manage`"):
            trainer.delete(3, for_good=True)
        assert steps_of(trainer) == [3, 4, 5]
        call(daemon, "keeper", methods.ADMIN, "Delete", admin_pb2.DeleteRequest(run="vision/a", step=3))
        assert steps_of(trainer) == [4, 5]


def test_an_identity_that_may_only_manage_needs_no_place_in_the_run(daemon):
    with open_run(daemon, "vision", "vision/a") as trainer:
        save(trainer, 1, 2)
    with open_run(daemon, "keeper", "vision/a") as keeper:
        assert keeper.pin(1).pinned
        assert not keeper.unpin(1).pinned
        keeper.delete(1)
        assert keeper.undelete(1).step == 1
        keeper.delete(1, for_good=True)
        keeper.delete(2, even_latest=True)
        assert steps_of(keeper) == []
        with pytest.raises(NotPermittedError, match=r"may not save to run 'vision/a': .* it needs the role `save`"):
            save(keeper, 3)


def identity_of(daemon, run):
    """Return what `status` tells anybody that may read about the one save of a run."""
    reply = call(daemon, "looker", methods.ADMIN, "Status", admin_pb2.StatusRequest())
    saves = [save.save for each in reply.runs if each.run == run for save in each.saves]
    return saves[0] if saves else None


def calls_about(save, peer, manifest_digest):
    """Every call of a member about its save, as one makes it that knows only what `status` tells."""
    mine = common_pb2.SaveIdentity()
    mine.CopyFrom(save)
    mine.incarnation = peer.incarnation
    undeclared = common_pb2.SaveIdentity()
    undeclared.CopyFrom(mine)
    undeclared.save_id, undeclared.plan_id, undeclared.attempt = "", "", 0
    declared = save_pb2.DeclareRequest(
        save=undeclared,
        request_id="q",
        world_size=2,
        manifest_digest=manifest_digest,
        timeout_s=WAIT_S,
        checkpoint_name="model.ckpt",
    )
    return {
        "Abort": save_pb2.AbortRequest(save=mine, reason="no"),
        "withdraw": save_pb2.AbortRequest(save=undeclared, request_id="q", reason="no", checkpoint_name="model.ckpt"),
        "Declare": declared,
        "AwaitPlan": save_pb2.AwaitPlanRequest(save=undeclared, request_id="q"),
        "Write": save_pb2.WriteRequest(open=save_pb2.WriteOpen(save=mine, shard=0)),
        "Leave": save_pb2.LeaveRequest(peer=peer, run=save.run, rank=save.rank, epoch=save.epoch),
    }


def answer_to(daemon, name, method, request):
    """Make a call of a member; return what it is refused with, None if it is not."""
    with open_channel(addresses.parse(daemon.address), token=SECRETS[name]) as channel:
        made = getattr(methods.Stub(channel, methods.SAVE), "Abort" if method == "withdraw" else method)
        try:
            answered = made(iter([request]) if method == "Write" else request, timeout=WAIT_S)
            if method in ("Declare", "AwaitPlan", "Write"):
                next(answered)
        except grpc.RpcError as error:
            return status.from_wire(error)
    return None


def test_ids_that_status_tells_give_no_right_to_touch_a_save(daemon):
    with open_run(daemon, "vision", "vision/a", rank=0, world_size=2) as trainer:
        pending = trainer.save(1, W)
        eventually(lambda: identity_of(daemon, "vision/a") is not None, "the save")
        known = identity_of(daemon, "vision/a")
        assert not known.incarnation
        manifest = Manifest.of([])
        daemon.coordinator.manifests.add(manifest)
        for method, request in calls_about(known, versions.this_peer("a-stranger"), manifest.digest).items():
            assert isinstance(answer_to(daemon, "audio", method, request), NotPermittedError), method
            refused = answer_to(daemon, "vision", method, request)
            if method == "Leave":  # of a place that it does not hold: nothing happens
                assert refused is None
            else:
                assert isinstance(refused, ConflictError), (method, refused)
        assert identity_of(daemon, "vision/a") == known
        assert not pending.done()
        known.incarnation = "an-operator"
        assert answer_to(daemon, "root", "Abort", save_pb2.AbortRequest(save=known, reason="enough")) is None
        with pytest.raises(SessionAbortedError, match="enough"):
            pending.result(WAIT_S)


def test_a_member_of_an_epoch_that_is_over_ends_nothing(daemon):
    with open_run(daemon, "vision", "vision/a", rank=0, world_size=2) as old:
        lost = old.save(1, W)
        eventually(lambda: identity_of(daemon, "vision/a") is not None, "the save")
        stale = identity_of(daemon, "vision/a")
        evicted = call(daemon, "root", methods.ADMIN, "Evict", admin_pb2.EvictRequest(run="vision/a"))
        assert [each.step for each in evicted.ended] == [1]
        with pytest.raises(CkptdError, match="evicted by token:root"):
            lost.result(WAIT_S)
    peer = versions.this_peer("of-the-old-job")
    with open_run(daemon, "vision", "vision/a", rank=0, world_size=2) as new:
        pending = new.save(2, W)
        eventually(lambda: identity_of(daemon, "vision/a") not in (None, stale), "the next save")
        known = identity_of(daemon, "vision/a")
        assert known.epoch == stale.epoch + 1
        forged = common_pb2.SaveIdentity()
        forged.CopyFrom(known)
        forged.epoch, forged.incarnation = stale.epoch, peer.incarnation
        refused = answer_to(daemon, "vision", "Abort", save_pb2.AbortRequest(save=forged, reason="no"))
        assert isinstance(refused, ConflictError)
        assert "fenced off by epoch" in str(refused)
        assert not pending.done()
        call(daemon, "root", methods.ADMIN, "Evict", admin_pb2.EvictRequest(run="vision/a"))
        with pytest.raises(CkptdError, match="evicted by token:root"):
            pending.result(WAIT_S)


def test_only_an_admin_evicts(daemon):
    with open_run(daemon, "vision", "vision/a") as trainer:
        save(trainer, 1)
        for name in ("vision", "audio", "keeper", "looker"):
            with pytest.raises(NotPermittedError, match="may not administer run 'vision/a'"):
                call(daemon, name, methods.ADMIN, "Evict", admin_pb2.EvictRequest(run="vision/a"))
        save(trainer, 2)


def test_no_run_is_made_around_the_names_of_another_team(daemon):
    with (
        open_run(daemon, "root", "vision") as around,
        pytest.raises(
            NotPermittedError, match=r"may not make run 'vision': the daemon's policy gives names inside it to others"
        ),
    ):
        save(around, 1)
    with open_run(daemon, "vision", "vision/a") as trainer:
        save(trainer, 1)
        assert steps_of(trainer) == [1]


@pytest.mark.parametrize("arena_bytes", [0, 64 << 20], ids=["streams", "shared memory"])
def test_what_a_trainer_saves_again_can_be_brought_back(served, arena_bytes):
    daemon = served(undo_s=600.0, arena_bytes=arena_bytes)
    with open_run(daemon, "vision", "vision/a") as trainer:
        save(trainer, 1)
        trainer.save(1, {"w": W["w"] * 0}, overwrite=True).result(WAIT_S)
        trainer.settle()
        assert not trainer.restore()["w"].any()
        told = call(daemon, "looker", methods.ADMIN, "Status", admin_pb2.StatusRequest())
        assert bool(told.arena_bytes) is bool(arena_bytes)
        with pytest.raises(NotPermittedError, match=r"may not manage .* it needs the role `manage`"):
            trainer.undelete(1)
        call(daemon, "keeper", methods.ADMIN, "Undelete", admin_pb2.UndeleteRequest(run="vision/a", step=1))
        assert np.array_equal(trainer.restore()["w"], W["w"])
        assert steps_of(trainer) == [1]


def test_where_nothing_can_be_brought_back_a_trainer_replaces_nothing(served):
    daemon = served(undo_s=0.0)
    with open_run(daemon, "vision", "vision/a") as trainer:
        save(trainer, 1)
        with pytest.raises(NotPermittedError, match=r"keeps nothing that is replaced .*needs the role `manage`"):
            trainer.save(1, {"w": W["w"] * 0}, overwrite=True).result(WAIT_S)
        assert np.array_equal(trainer.restore()["w"], W["w"])


def test_who_may_manage_too_replaces_as_ever(served):
    daemon = served(undo_s=600.0)
    with open_run(daemon, "root", "audio/a") as trainer:
        save(trainer, 1)
        trainer.save(1, {"w": W["w"] * 0}, overwrite=True).result(WAIT_S)
        trainer.settle()
        with pytest.raises(NotFoundError):
            trainer.undelete(1)


def test_who_may_only_read_has_no_say_in_what_a_jobs_ranks_restore(daemon):
    with open_run(daemon, "vision", "vision/a") as trainer:
        save(trainer, 1, 2)

    def restoring(name, rank):
        return read_pb2.Restoring(id=f"{name}{rank}", rank=rank, world_size=2, together=True)

    def latest(name, rank):
        request = read_pb2.LatestRequest(run="vision/a", restoring=restoring(name, rank))
        return call(daemon, name, methods.READ, "Latest", request).checkpoint.step

    def report(name, rank, whole):
        request = read_pb2.AgreeRequest(
            run="vision/a", restoring=restoring(name, rank), prefix=f"{daemon.root}/vision/a/model.ckpt-2", whole=whole
        )
        return call(daemon, name, methods.READ, "Agree", request).agreement

    everyone = [(name, rank) for name in ("vision", "looker") for rank in (0, 1)]
    assert [latest(*each) for each in everyone] == [2, 2, 2, 2]
    report("looker", 0, False)
    with pytest.raises(CorruptionError):
        report("looker", 1, False)
    assert [report("vision", rank, True) for rank in (0, 1, 0)][-1] == read_pb2.AGREEMENT_AGREED
    assert [latest("vision", rank) for rank in (0, 1)] == [2, 2]


def test_a_refused_name_does_not_tell_the_name_of_a_run_that_its_caller_may_not_read(daemon):
    rows = [
        *(row for row in GRANTS if row["to"] != "token:audio"),
        {"to": "token:audio", "runs": "a/*", "role": "save"},
    ]
    daemon.server.use_identities(Access(tokens=KNOWN, policy=parse({"grant": rows})), None)
    with open_run(daemon, "root", "a/x/secret") as inside:
        save(inside, 1)
    with open_run(daemon, "audio", "a/x") as around, pytest.raises(InvalidRequestError) as veiled:
        save(around, 1)
    assert "taken by another namespace" in str(veiled.value)
    assert "secret" not in str(veiled.value)
    with open_run(daemon, "root", "a/x") as around, pytest.raises(InvalidRequestError, match="a/x/secret is inside it"):
        save(around, 1)


def test_no_options_of_a_trainer_go_below_the_floor(daemon):
    daemon.server.use_identities(access_with({"runs": "vision/**", "keep_at_least": 3}), None)
    step = 0
    for options in (
        {},
        {"retention": "manager", "keep_checkpoint_every_n_hours": None},
        {"latest_filename": "other"},
        {"retention": "manager", "keep_checkpoint_every_n_hours": 1e-9},
        {"max_to_keep": None},
    ):
        with open_run(daemon, "vision", "vision/a", **{"max_to_keep": 1, **options}) as trainer:
            for write_state in (True, True, True, False, True):
                step += 1
                save(trainer, step, write_state=write_state)
            newest = steps_of(trainer)[-3:]
            for each in newest:
                with pytest.raises(CkptdError, match="keeps the newest 3|the latest checkpoint"):
                    trainer.delete(each)
            assert newest == list(range(step - 2, step + 1))
            assert steps_of(trainer)[-3:] == newest
