"""What `ckptd status` says of hosts and of an agent's coordinator, to somebody at 3 a.m."""

from __future__ import annotations

import re

import pytest

from ckptd.cli import hosts
from ckptd.wire.v1 import admin_pb2

Part, Host = admin_pb2.HostPart, admin_pb2.HostStatus


def status(*of, fenced_by=""):
    return admin_pb2.StatusReply(hosts=admin_pb2.HostsStatus(term=3, lease_s=15.0, fenced_by=fenced_by, hosts=of))


def host(name, silent_s=1.0, *, lost=False, parts=(), rate=0.0):
    ranks = [admin_pb2.HostRanks(run="r", ranks=[4, 5])]
    return Host(
        host=name, silent_s=silent_s, lost=lost, ranks=ranks, parts=parts, bytes_per_s=rate, addresses=[f"{name}:7070"]
    )


def owes(size, step=7, ranks=(4, 5)):
    return Part(run="r", step=step, ranks=ranks, declared=True, size_bytes=50_000, owed_bytes=size)


def told(capsys, reply):
    hosts.tell(reply)
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (
            host("c", 12.0, parts=[owes(40_000)]),
            "agent on c: silent for 12.0 s (its lease ends at 15.0 s); ranks 4-5 owe 40.0 kB of step 7 of r",
        ),
        (
            host("c", 20.0, lost=True, parts=[owes(1, ranks=[4])]),
            "agent on c: gone for 20.0 s (its lease ended at 15.0 s); rank 4 owes 1 B of step 7 of r",
        ),
        (
            host("c", parts=[Part(run="r", step=7, ranks=[4, 5])]),
            "agent on c: ranks 4-5 have not declared step 7 of r",
        ),
        (host("c", parts=[Part(run="r", ranks=[5])]), "agent on c: rank 5 has not declared a save of r"),
        (host("c", 20.0, lost=True), "agent on c: gone for 20.0 s (its lease ended at 15.0 s)"),
    ],
)
def test_who_is_awaited_and_who_is_silent_is_said_in_a_sentence(of, words, capsys):
    assert told(capsys, status(of))[-1] == words


def test_each_host_has_a_line_with_its_ranks_and_its_rate(capsys):
    lines = told(capsys, status(host("a", rate=2e9), host("c", 12.0), host("d", 20.0, lost=True)))
    assert lines[0] == "coordinator of term 3; agents: 1 attend, 1 silent, 1 gone"
    assert lines[1].split() == ["HOST", "AGENT", "RANKS", "RATE", "OWES", "ADDRESSES"]
    assert re.split("  +", lines[2]) == ["a", "heard 1.0 s ago", "r: 4-5", "2.0 GB/s", "–", "a:7070"]


def test_of_many_hosts_only_those_that_matter_have_a_line(capsys):
    many = [host(f"h{number:03}") for number in range(150)]
    lines = told(capsys, status(*many, host("z", 12.0)))
    assert len(lines) == 5
    assert lines[2].startswith("z ")
    assert lines[3] == "150 more hosts are heard and owe nothing"


def test_a_coordinator_that_is_fenced_says_so(capsys):
    assert told(capsys, status(fenced_by="a coordinator of term 5"))[1] == (
        "WARNING: the root has another coordinator (a coordinator of term 5): this one publishes nothing any more"
    )


def test_an_agent_shows_the_rate_to_each_other_one(capsys):
    peers = [
        admin_pb2.PeerStatus(host="a", address="a:7070", sent_bytes=45_000_000, read_bytes=1000, bytes_per_s=2e9),
        admin_pb2.PeerStatus(host="b", address="b:7070"),
    ]
    attending = admin_pb2.AttendingStatus(host="c", coordinator="x", term=3, attends=True, peers=peers)
    _, header, *lines = told(capsys, admin_pb2.StatusReply(attending=attending))
    assert header.split() == ["HOST", "ADDRESS", "SENT", "READ", "RATE"]
    assert [re.split("  +", line) for line in lines] == [
        ["a", "a:7070", "45.0 MB", "1.0 kB", "2.0 GB/s"],
        ["b", "b:7070", "0 B", "0 B", "–"],
    ]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"attends": True, "silent_s": 0.4},
            "agent of c; coordinator unix:///c.sock, term 3, heard 400.0 ms ago",
        ),
        (
            {"silent_s": 20.0},
            "WARNING: the agent of c has no coordinator: unix:///c.sock was not heard for 20.0 s (its lease is 15.0 s)."
            " New saves wait; restores go on",
        ),
        (
            {"silent_s": -1.0},
            "WARNING: the agent of c has no coordinator: it was never heard (unix:///c.sock)."
            " New saves wait; restores go on",
        ),
        (
            {"silent_s": -1.0, "coordinator": ""},
            "WARNING: the agent of c has no coordinator: it was never heard (the root names none yet)."
            " New saves wait; restores go on",
        ),
        (
            {"replaced": True, "silent_s": 1.0},
            "WARNING: another agent of c has attended since: this one does nothing any more."
            " End it; if it is on another host, give it a name of its own",
        ),
    ],
)
def test_an_agent_says_whether_it_has_a_coordinator(given, words, capsys):
    attending = {"host": "c", "coordinator": "unix:///c.sock", "term": 3, "lease_s": 15.0, **given}
    assert told(capsys, admin_pb2.StatusReply(attending=admin_pb2.AttendingStatus(**attending))) == [words]
