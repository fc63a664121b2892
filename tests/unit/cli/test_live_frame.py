"""The picture of `status --watch`: at any size it fits, and what is furthest behind comes first."""

from __future__ import annotations

import pytest

from ckptd.cli.live_frame import Moment, frame
from ckptd.cli.status_watch import Happenings, Rates, StatusLooks
from ckptd.errors import NotPermittedError, UnavailableError
from ckptd.wire.v1 import admin_pb2, common_pb2

MB = 1_000_000


def rank(number, received=0, size=10 * MB, declared=True, **more):
    return admin_pb2.RankProgress(rank=number, declared=declared, received_bytes=received, size_bytes=size, **more)


def save(step, ranks=(), phase="filling", waiting=("rank 3 of 4: 1.0 MB of 10.0 MB",), num_ranks=None, received=None):
    return admin_pb2.LiveSave(
        save=common_pb2.SaveIdentity(step=step, save_id=f"s{step}"),
        phase=phase,
        size_bytes=sum(each.size_bytes for each in ranks),
        received_bytes=sum(each.received_bytes for each in ranks) if received is None else received,
        age_s=3.0,
        waiting_for=waiting,
        ranks=ranks,
        num_ranks=len(ranks) if num_ranks is None else num_ranks,
    )


def reply(*runs, pid=7, **more):
    peer = common_pb2.Peer(version="1.2", host="host-a", pid=pid)
    return admin_pb2.StatusReply(peer=peer, root="/root", free_bytes=-1, uptime_s=5, runs=runs, **more)


def run(name="runs/a", *saves, latest=None, **more):
    key = None if latest is None else common_pb2.Checkpoint(key=f"{name}/model.ckpt-{latest}", saved_at=990.0)
    return admin_pb2.RunStatus(run=name, world_size=4, connected_ranks=range(4), saves=saves, latest=key, **more)


def lines(seen, width=100, height=30):
    drawn = frame(seen, width, height)
    assert len(drawn) <= height
    assert all(line.cell_len <= width for line in drawn)
    return [line.plain for line in drawn]


def test_each_rank_has_a_bar_and_what_is_awaited_is_above_them():
    ranks = [
        rank(3, MB, idle_s=9.0, host="b"),
        rank(1, 5 * MB),
        rank(0, 10 * MB),
        rank(2, declared=False, size=0),
    ]
    shown = lines(Moment(reply(run("runs/a", save(7, ranks), latest=6)), 1000.0, {"s7": 2e6}))
    at = next(number for number, line in enumerate(shown) if "step 7" in line)
    assert "53% of 30.0 MB  2.0 MB/s  7.0 s left" in shown[at]
    assert "waits for rank 3 of 4" in shown[at + 1]
    bars = [line for line in shown if line.strip().startswith("rank ")]
    assert [line.split()[1] for line in bars] == ["0", "1", "2", "3"]
    assert bars[0].count("█") == 40
    assert bars[1].count("█") == 20
    assert "has not declared" in bars[2]
    assert bars[3].endswith("nothing for 9.0 s  on b")


@pytest.mark.parametrize("height", [3, 8, 24])
@pytest.mark.parametrize("width", [20, 80])
def test_of_a_thousand_ranks_those_that_are_furthest_behind_are_shown(width, height):
    ranks = [rank(number, number * 1000) for number in range(200)]
    seen = Moment(
        reply(run("runs/a", save(7, ranks, num_ranks=1000)), run("runs/b", save(8, ranks, num_ranks=1000))), 1.0
    )
    shown = lines(seen, width, height)
    if height == 24 and width == 80:
        bars = [line.split()[1] for line in shown if line.strip().startswith("rank ")]
        assert bars[:3] == ["0", "1", "2"]
        assert sum("more ranks, further ahead" in line for line in shown) == 2
        assert any("step 8" in line for line in shown)


def test_names_of_others_cannot_move_the_cursor():
    hostile = run(
        "runs/\x1b[2J\nx", save(1, [rank(0, host="\x1b]0;h\x07")], waiting=("\x1b[31mred",)), last_error="\x9b5n"
    )
    told = "".join(lines(Moment(reply(hostile, warnings=["\x1bc"]), 1.0)))
    assert not {"\x1b", "\x07", "\n", "\x9b"} & set(told)


def test_hosts_that_are_gone_come_first():
    hosts = admin_pb2.HostsStatus(
        term=3,
        lease_s=15,
        hosts=[admin_pb2.HostStatus(host=f"h{n}", silent_s=1) for n in range(50)]
        + [admin_pb2.HostStatus(host="z", lost=True, silent_s=20)],
    )
    shown = lines(Moment(reply(hosts=hosts), 1.0), height=12)
    at = shown.index("coordinator of term 3; 50 hosts attend, 1 are gone")
    assert "z  gone for 20.0 s" in shown[at + 1]
    assert "more hosts" in shown[-2]


def test_a_daemon_that_does_not_answer_and_one_that_was_restarted_are_told():
    answers = [reply(pid=1), UnavailableError("connection refused"), reply(pid=2), NotPermittedError("no")]

    def ask():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    looks = StatusLooks(ask)
    assert "NO ANSWER" not in lines(looks.look())[0]
    assert "NO ANSWER for" in lines(looks.look())[0]
    assert "the daemon was restarted" in lines(looks.look())[0]
    with pytest.raises(NotPermittedError):
        looks.look()
    answers.append(UnavailableError("connection refused"))
    with pytest.raises(UnavailableError):
        StatusLooks(ask).look()


def test_a_rate_is_that_of_the_last_seconds_and_is_forgotten_with_its_save():
    rates = Rates()
    assert rates.take(reply(run("r", save(1, received=0))), 0.0) == {}
    assert rates.take(reply(run("r", save(1, received=4 * MB))), 2.0) == {"s1": 2 * MB}
    assert rates.take(reply(run("r", save(1, received=4 * MB))), 4.0)["s1"] == pytest.approx(1.4 * MB)
    assert rates.take(reply(run("r")), 5.0) == {}


def told(news, seen, now):
    return [line.partition(": ")[2] if line.startswith("runs") else line for line in news.take(seen, now)]


def test_lines_tell_what_happens_once_and_how_a_save_gets_on_now_and_then():
    news = Happenings()
    began = Moment(reply(run("runs/a", save(7, [rank(0, MB)], waiting=["rank 0"]))), 1.0)
    assert told(news, began, 0.0)[1:] == ["filling for 3.0 s, 10% of 10.0 MB; waits for rank 0"]
    assert told(news, began, 5.0) == []
    assert len(told(news, began, 10.0)) == 1
    lost = Moment(began.reply, 1.0, lost="connection refused")
    assert told(news, lost, 11.0) == ["NO ANSWER: connection refused"]
    assert told(news, lost, 12.0) == []
    after = Moment(reply(run("runs/a", latest=7, last_error="rank 3 of 4 is gone")), 1.0)
    assert [line.partition(":")[0] for line in told(news, after, 13.0)[1:]] == [
        "model.ckpt-7 is the latest",
        "rank 3 of 4 is gone",
    ]
    assert told(news, after, 14.0) == []
