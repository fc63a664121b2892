"""What every engine does for the service, told by ranks that save through it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.front import Engine
from ckptd.engine.identity import SaveRef
from ckptd.engine.saves.session import Phase
from ckptd.errors import ConflictError, NotFoundError, SessionAbortedError
from tests.fakes.job import WAIT_S, Rank, save_all
from tests.fakes.waiting import eventually

RUN = "runs/r"


class EngineContract:
    """Subclasses bring a fixture `engine`: an open engine over an empty store."""

    @pytest.fixture
    def owner(self, engine: Engine) -> Engine:
        """The engine that owns the root: it admits saves, and evicts members."""
        return engine

    @pytest.fixture
    def ranks(self, engine: Engine) -> list[Rank]:
        return [Rank(engine, rank, 2).join() for rank in range(2)]

    def test_a_save_of_all_ranks_is_published_heard_of_and_listed(self, engine: Engine, ranks: list[Rank]) -> None:
        heard: list[Checkpoint] = []
        stop = engine.subscribe(RUN, heard.append)
        ranks[0].declare(5)
        save = SaveRef(RUN, ranks[0].epoch, 5, rank=0, incarnation="a0")
        saves = engine.saves_of(RUN)
        assert saves is not None
        assert "rank 1 of 2" in saves.waiting_for_plan(save, "a0-1")[0]
        assert list(saves.owed_bytes().values()) == [None]
        ranks[1].declare(5)
        planned = ranks[0].assignment(5).save
        assert engine.plan_of(save, "a0-1").result(WAIT_S) is ranks[0].assignment(5)
        assert engine.phase(planned) is Phase.FILLING
        ranks[0].send(5, part=0.5)
        assert list(saves.owed_bytes().values()) != [0]
        assert saves.waiting_for(planned.save_id)
        for rank in ranks:
            rank.send(5)
        checkpoint = ranks[0].outcome(5)
        engine.retired(planned).result(WAIT_S)
        stop()
        assert (checkpoint.step, checkpoint.save_id) == (5, planned.save_id)
        assert engine.phase(planned) is Phase.PUBLISHED
        assert heard == [checkpoint]
        assert engine.latest(RUN) == checkpoint
        assert list(engine.checkpoints(RUN)) == [checkpoint]
        assert engine.look(RUN, lambda stored: stored.quarantine_of(checkpoint.save_id), "none") == ""
        assert [view.run for view in engine.runs()] == [RUN]
        assert list(engine.stored_runs()) == [RUN]

    def test_what_is_repeated_gets_the_same_answer(self, engine: Engine, ranks: list[Rank]) -> None:
        first = ranks[0].declare(5)
        again = ranks[0].declare(5, again=True)
        ranks[1].declare(5)
        assert first.result(WAIT_S) is again.result(WAIT_S)
        for rank in ranks:
            rank.send(5)
        checkpoint = ranks[1].outcome(5)
        assert ranks[0].declare(5, again=True).result(WAIT_S) == checkpoint

    def test_a_place_has_one_process_until_that_leaves(self, engine: Engine, ranks: list[Rank]) -> None:
        assert engine.is_founded(RUN)
        assert not engine.is_founded("runs/other")
        with pytest.raises(ConflictError):
            Rank(engine, 1, 2, life="b").join()
        engine.check_member(RUN, 1, "a1", ranks[1].epoch)
        with pytest.raises(ConflictError):
            engine.check_member(RUN, 1, "b1", ranks[1].epoch)
        for rank in ranks:
            engine.leave(RUN, rank.member, rank.epoch)
        later = Rank(engine, 1, 2, life="b").join()
        engine.check_member(RUN, 1, "b1", later.epoch)

    def test_a_save_that_a_rank_gives_up_ends_for_all_of_them(self, engine: Engine, ranks: list[Rank]) -> None:
        for rank in ranks:
            rank.declare(5)
        save = ranks[0].assignment(5).save
        ranks[0].send(5)
        engine.abort(save, "the user stopped it")
        with pytest.raises(SessionAbortedError, match="rank 0 gave up: the user stopped it"):
            engine.outcome(save).result(WAIT_S)
        with pytest.raises(SessionAbortedError):
            engine.lane(ranks[1].assignment(5).save, ranks[1].assignment(5).lanes[0].shard)
        assert engine.latest(RUN) is None
        assert save_all(ranks, 6).step == 6

    def test_a_declaration_can_be_withdrawn_before_it_is_planned(self, engine: Engine, ranks: list[Rank]) -> None:
        declared = ranks[0].declare(5)
        ref = SaveRef(RUN, ranks[0].epoch, 5, rank=0, incarnation="a0")
        engine.withdraw(ref, "a0-1", "it was interrupted", "model.ckpt")
        with pytest.raises(SessionAbortedError, match="it was interrupted"):
            declared.result(WAIT_S)

    def test_what_was_never_there_is_not_found(self, engine: Engine, ranks: list[Rank]) -> None:
        nothing = SaveRef(RUN, ranks[0].epoch, 9, save_id="f" * 32, rank=0, incarnation="a0")
        for call in (lambda: engine.outcome(nothing), lambda: engine.lane(nothing, 0)):
            with pytest.raises(NotFoundError):
                call()
        with pytest.raises(NotFoundError):
            engine.plan_of(nothing, "a0-9").result(WAIT_S)
        assert engine.phase(nothing) is None
        engine.retired(nothing).result(WAIT_S)
        assert engine.saves_of("runs/none") is None
        assert engine.look("runs/none", lambda stored: stored.stored_bytes, -1) == -1
        with pytest.raises(NotFoundError):
            engine.in_catalog("runs/none", lambda stored: stored.stored_bytes)

    def test_a_lane_is_only_for_the_process_that_declared_it(self, engine: Engine, ranks: list[Rank]) -> None:
        for rank in ranks:
            rank.declare(5)
        save, lane = ranks[0].assignment(5).save, ranks[0].assignment(5).lanes[0]
        assert engine.lane(save, lane.shard).size_bytes == lane.size_bytes
        with pytest.raises(ConflictError):
            engine.lane(replace(save, incarnation="b0"), lane.shard)

    def test_a_save_that_is_not_admitted_leaves_nothing(self, engine: Engine, owner: Engine, ranks: list[Rank]) -> None:
        asked = []

        def refuse(save: SaveRef, size_bytes: int) -> None:
            asked.append((save.step, size_bytes))
            raise ConflictError("no room for it")

        owner.admit = refuse
        for rank in ranks:
            rank.declare(5)
        with pytest.raises(ConflictError, match="no room for it"):
            ranks[0].planned[5].result(WAIT_S)
        assert asked == [(5, 2 * 96 + 8)]
        assert engine.latest(RUN) is None

    def test_what_an_operator_does_to_checkpoints_and_members(
        self, engine: Engine, owner: Engine, ranks: list[Rank]
    ) -> None:
        save_all(ranks, 5)
        save_all(ranks, 6)
        assert engine.in_catalog(RUN, lambda stored: stored.pin(5, True)).pinned
        with pytest.raises(ConflictError, match="it is pinned"):
            engine.in_catalog(RUN, lambda stored: stored.delete(5))
        assert not engine.in_catalog(RUN, lambda stored: stored.pin(5, False)).pinned
        engine.in_catalog(RUN, lambda stored: stored.delete(5))
        assert [each.step for each in engine.checkpoints(RUN)] == [6]
        assert engine.in_catalog(RUN, lambda stored: stored.undelete(5)).step == 5
        ranks[0].declare(7)
        live = owner.saves_of(RUN)
        assert live is not None
        eventually(live.owed_bytes, "what rank 0 has declared", within_s=WAIT_S)
        eviction = owner.evict(RUN, 1, "an operator")
        assert [member.rank for member in eviction.members] == [1]
        with pytest.raises(SessionAbortedError, match="evicted by an operator"):
            ranks[0].planned[7].result(WAIT_S)
