"""The daemon as a process of its own, over the real engine, spoken to on the wire."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import trustme

from ckptd.errors import ConflictError, SessionAbortedError, UnavailableError
from ckptd.format.index import Index
from ckptd.wire import convert, methods, versions
from ckptd.wire.chunks import CHUNK_BYTES
from ckptd.wire.v1 import admin_pb2, read_pb2, save_pb2, watch_pb2
from tests import seams
from tests.fakes.worker import WAIT_S, Worker
from tests.starts import prepared
from tests.unit.service.test_server import caught, health_of

FULL = np.arange(4096 * 300, dtype=np.float32).reshape(4096, 300)  # 4.9 MB: several chunks
BIAS = np.array(2.5, np.float64)


def part_of(rank, world_size):
    rows = len(FULL) // world_size
    mine = FULL[rank * rows : (rank + 1) * rows]
    return {"w": (mine, FULL.shape, (rank * rows, 0)), "bias": (BIAS, (), ())}


def workers(daemon, world_size=2, run="runs/a"):
    return [Worker(daemon.channel(), rank, world_size, run).join() for rank in range(world_size)]


def declare(ranks, step):
    for rank, declared in [(rank, rank.declare(step, part_of(rank.rank, rank.world_size))) for rank in ranks]:
        rank.assigned(declared)


def save(ranks, step):
    declare(ranks, step)
    for rank in ranks:
        rank.send()
    return [rank.outcome() for rank in ranks]


def read_back(daemon, key):
    """Return what is stored under one prefix, read through the daemon: names to bytes of their pieces."""
    stub = methods.Stub(daemon.channel(), methods.READ)

    def get(name):
        described, *blocks = stub.Read(read_pb2.ReadRequest(key=name, size=-1), timeout=WAIT_S)
        data = b"".join(blocks)
        assert len(data) == described.object_size
        return data

    index = Index.decode(get(f"{key}.index"), key)
    shards = [get(f"{key}.data-{shard:05d}-of-{index.num_shards:05d}") for shard in range(index.num_shards)]
    return {
        name: {
            piece.box.start: shards[piece.shard_id][piece.offset : piece.offset + piece.size]
            for piece in index.tensor(name).pieces
        }
        for name in index.names()
    }


def nice_of_threads(pid):
    nice = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            # The name before the parenthesis may hold anything; nice is the 17th field after it.
            nice[int(task.name)] = int(task.joinpath("stat").read_text().rpartition(") ")[2].split()[16])
    return nice


def test_a_daemon_writes_as_fast_as_it_may_and_yields_to_others(serve):
    settings = ("--write-bytes-per-s", str(10_000_000), "--writer-nice", "19", "--writer-io-class", "idle")
    daemon = serve(*settings).ready()
    began = time.monotonic()
    save(workers(daemon), 1)
    least_s = FULL.nbytes / 10e6 - 0.1 - 0.05  # less what may be made up for, and the last piece
    assert time.monotonic() - began >= least_s
    status = methods.Stub(daemon.channel(), methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
    assert status.write_mode in ("direct", "dontcache", "buffered")
    nice = nice_of_threads(daemon.process.pid)
    assert 19 in nice.values()
    assert nice[daemon.process.pid] == os.getpriority(os.PRIO_PROCESS, 0)


def test_two_ranks_save_and_everybody_hears_of_it(serve):
    daemon = serve("--log-format", "json").ready()
    watching = methods.Stub(daemon.channel(), methods.WATCH).Watch(watch_pb2.WatchRequest(run="runs/a"), timeout=WAIT_S)
    ranks = workers(daemon)
    for step in (1, 2):
        replies = save(ranks, step)
        assert {reply.phase for reply in replies} == {save_pb2.SAVE_PHASE_PUBLISHED}
        assert next(watching).checkpoint == replies[0].checkpoint
        checkpoint = convert.checkpoint_from_wire(replies[0].checkpoint)
        assert checkpoint.step == step
        # Where a rank's bytes begin at a page, there may be gaps.
        assert FULL.nbytes + BIAS.nbytes <= checkpoint.size_bytes < FULL.nbytes + BIAS.nbytes + 2 * 4096
        assert checkpoint.prefix == str(daemon.root / "runs/a" / f"model.ckpt-{step}")
    watching.cancel()
    pieces = read_back(daemon, replies[0].checkpoint.key)
    assert b"".join(pieces["w"][start] for start in sorted(pieces["w"])) == FULL.tobytes()
    assert list(pieces["bias"].values()) == [BIAS.tobytes()]
    latest = methods.Stub(daemon.channel(), methods.READ).Latest(read_pb2.LatestRequest(run="runs/a"), timeout=WAIT_S)
    assert latest.checkpoint.step == 2
    assert latest.root == str(daemon.root)
    status = methods.Stub(daemon.channel(), methods.ADMIN).Status(admin_pb2.StatusRequest(), timeout=WAIT_S)
    assert [(run.run, list(run.connected_ranks), run.num_checkpoints) for run in status.runs] == [("runs/a", [0, 1], 2)]
    daemon.process.send_signal(signal.SIGTERM)
    assert daemon.wait() == 0
    lines = [json.loads(line) for line in daemon.log.read_text().splitlines()]
    saved = [line for line in lines if line.get("event") == "saved"]
    assert [(line["step"], line["bytes"], line["run"]) for line in saved] == [
        (step, checkpoint.size_bytes, "runs/a") for step in (1, 2)
    ]
    assert all({"seconds", "gb_per_s", "slowest_rank", "commit_s", "message", "time"} <= set(line) for line in saved)


def test_a_broken_stream_resumes_at_what_has_arrived(serve):
    daemon = serve().ready()
    (rank,) = workers(daemon, 1)
    declare([rank], 1)
    (lane,) = rank.assignment.lanes
    broken = rank.stub.Write(iter(list(rank.requests(lane))[:3]), timeout=WAIT_S)  # open and two chunks
    assert [reply.received for reply in broken] == [0]
    resumed = rank.stub.Write(rank.requests(lane, start=2 * CHUNK_BYTES), timeout=WAIT_S)
    assert next(resumed).received == 2 * CHUNK_BYTES
    assert list(resumed)[-1].ended
    assert rank.outcome().phase == save_pb2.SAVE_PHASE_PUBLISHED


def test_a_rank_that_goes_ends_its_save_with_an_error_that_names_it(serve):
    daemon = serve("--lease-s", "0.3").ready()
    stays, goes = workers(daemon)
    declare([stays, goes], 1)
    stays.send()
    goes.membership.cancel()
    error = caught(stays.outcome)
    assert isinstance(error, SessionAbortedError)
    assert "rank 1 of 2" in str(error)


def test_sigterm_with_nothing_to_do_exits_0_and_members_are_told(serve):
    daemon = serve().ready()
    (rank,) = workers(daemon, 1)
    daemon.process.send_signal(signal.SIGTERM)
    assert isinstance(caught(lambda: next(rank.membership)), UnavailableError)
    assert daemon.wait() == 0
    assert not daemon.ready_file.exists()


def test_sigterm_lets_a_save_finish_within_the_grace_time_and_exits_0(serve):
    daemon = serve("--grace-s", "30").ready()
    ranks = workers(daemon)
    declare(ranks, 5)
    ranks[0].send()
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_log("SIGTERM")
    assert health_of(daemon.channel()) == 2  # NOT_SERVING
    ranks[1].send()
    assert ranks[1].outcome().phase == save_pb2.SAVE_PHASE_PUBLISHED
    assert daemon.wait() == 0
    assert (daemon.root / "runs/a/checkpoint").read_text().startswith('model_checkpoint_path: "model.ckpt-5"')


def test_sigterm_aborts_what_outlasts_the_grace_time_and_exits_5(serve):
    daemon = serve("--grace-s", "0.2").ready()
    ranks = workers(daemon)
    declare(ranks, 5)
    ranks[0].send()
    daemon.process.send_signal(signal.SIGTERM)
    error = caught(ranks[0].outcome)
    assert isinstance(error, SessionAbortedError | UnavailableError)
    assert daemon.wait() == 5
    assert list((daemon.root / "runs/a").glob("model.ckpt*")) == []


def test_a_second_signal_ends_at_once(serve):
    daemon = serve("--grace-s", "600").ready()
    ranks = workers(daemon)
    declare(ranks, 5)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_log("SIGTERM")
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.wait() == 5
    assert "second signal" in daemon.log.read_text()


def test_sigterm_ends_a_daemon_whose_store_answers_no_more(tmp_path):
    program = f"""
import threading
from ckptd.cli.main import main

{seams.LEAVE_S.in_program("0.5")}
{seams.CLOSE_RUNS.in_program("lambda self: threading.Event().wait()")}  # as the last requests of all runs do
main()
"""
    root = tmp_path / "root"
    flags = ["--root", str(root), "--listen", f"unix://{root}.sock", "--grace-s", "0.5"]
    daemon = prepared.Popen([sys.executable, "-c", program, "serve", *flags], stderr=subprocess.PIPE, text=True)
    try:
        for line in daemon.stderr:
            if "listening on" in line:
                break
        daemon.send_signal(signal.SIGTERM)
        told = daemon.communicate(timeout=WAIT_S)[1]
    finally:
        daemon.kill()
    assert daemon.returncode == SessionAbortedError.exit_code
    assert "the store does not answer; ending without it" in told


def test_the_socket_of_a_daemon_that_is_stopped_and_overrun_is_not_taken(serve, tmp_path):
    listen = f"unix://{tmp_path}/d.sock"
    first = serve("--listen", listen).ready()
    waiting = []
    first.process.send_signal(signal.SIGSTOP)
    try:
        for path in (tmp_path / "d.sock", tmp_path / "d.sock.arena"):
            with contextlib.suppress(BlockingIOError):  # no more may wait
                while True:
                    one = socket.socket(socket.AF_UNIX)
                    waiting.append(one)
                    one.setblocking(False)
                    one.connect(str(path))
        second = serve("--listen", listen, root="other", name="second")
        assert second.wait() == ConflictError.exit_code
        assert f"another daemon listens on {listen}" in second.log.read_text()
    finally:
        first.process.send_signal(signal.SIGCONT)
        for one in waiting:
            one.close()
    assert health_of(first.channel()) == 1  # SERVING


def test_a_root_has_one_daemon_and_the_second_is_told_which(serve):
    first = serve().ready()
    second = serve(name="second")
    assert second.wait() == 4
    assert f"pid {first.process.pid}" in second.log.read_text()
    assert health_of(first.channel()) == 1


def test_a_ready_file_takes_the_place_of_no_pipe_or_device(serve, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert serve("--ready-file", str(pipe)).wait() == 2
    assert pipe.is_fifo()


def test_an_address_in_use_is_a_conflict_and_leaves_no_mess(serve):
    first = serve().ready()
    second = serve("--listen", first.listening[0], root="other", name="second")
    assert second.wait() == 4
    assert "--listen" in second.log.read_text()
    assert "Traceback" not in second.log.read_text()


@pytest.mark.parametrize(
    ("flags", "code", "says"),
    [
        (("--listen", "0.0.0.0:0"), 9, "--token-file"),
        (("--client-ca", "x", "--listen", "127.0.0.1:0"), 2, "--tls-cert"),
        (("--token-file", "x", "--insecure-loopback"), 2, "leave out one or the other"),
        (("--listen", "nonsense::"), 2, "is not an address"),
        (("--token-file", "/no/such/file"), 3, "/no/such/file"),
        (("--tls-cert", "x"), 2, "--tls-key"),
        (("--socket-mode", "rw"), 2, "--socket-mode"),
        (("--grace-s", "-1"), 2, "--grace-s"),
        (("--ready-file", "/no/such/directory/ready"), 9, "/no/such/directory/ready"),
    ],
)
def test_what_cannot_be_served_is_refused_with_words_and_a_code(serve, flags, code, says):
    daemon = serve(*flags)
    assert daemon.wait() == code
    assert says in daemon.log.read_text()
    assert "Traceback" not in daemon.log.read_text()


def test_a_token_is_needed_once_there_is_one_and_never_shown(serve, tmp_path):
    (tmp_path / "token").write_text("tr1cky-secret\n")
    daemon = serve("--token-file", str(tmp_path / "token"), "--log-level", "debug").ready()
    refused = caught(lambda: health_of(daemon.channel()))
    assert type(refused).__name__ == "NotPermittedError"
    assert health_of(daemon.channel(token="tr1cky-secret")) == 1
    daemon.process.send_signal(signal.SIGINT)
    assert daemon.wait() == 0
    assert "tr1cky" not in daemon.log.read_text()


def test_tls_with_client_certificates_lets_in_nobody_else(serve, tmp_path):
    ours, theirs = trustme.CA(), trustme.CA()
    cert, key, own = (tmp_path / name for name in ("daemon.pem", "daemon.key", "authority.pem"))
    for issued, path in zip(pem_of(ours.issue_cert("localhost", "127.0.0.1")), (cert, key), strict=True):
        path.write_bytes(issued)
    own.write_bytes(theirs.cert_pem.bytes())
    daemon = serve(
        "--listen", "grpcs://127.0.0.1:0", "--tls-cert", str(cert), "--tls-key", str(key), "--client-ca", str(own)
    ).ready()
    assert daemon.listening[0].startswith("grpcs://127.0.0.1:")
    trusted = ours.cert_pem.bytes()
    mine = pem_of(theirs.issue_cert("client"))
    assert health_of(daemon.channel(ca=trusted, client_certificate=mine)) == 1
    strangers = pem_of(trustme.CA().issue_cert("client"))
    for credentials in ({"ca": trusted}, {"ca": trusted, "client_certificate": strangers}, {"ca": own.read_bytes()}):
        error = caught(lambda credentials=credentials: health_of(daemon.channel(**credentials), timeout=5))
        assert isinstance(error, UnavailableError), error


def pem_of(issued: trustme.LeafCert) -> tuple[bytes, bytes]:
    """A certificate chain and its key."""
    return b"".join(one.bytes() for one in issued.cert_chain_pems), issued.private_key_pem.bytes()


def test_status_is_shown_as_a_table_and_as_json(serve):
    from click.testing import CliRunner

    from ckptd.cli.status import command

    daemon = serve().ready()
    ranks = workers(daemon)
    save(ranks, 1)
    declare(ranks, 2)
    ranks[0].send()
    shown = CliRunner().invoke(command, [daemon.listening[0]], catch_exceptions=False).stdout
    assert "2 of 2" in shown
    assert "model.ckpt-1" in shown
    assert "rank 1" in shown
    told = json.loads(CliRunner().invoke(command, [daemon.listening[0], "--json"], catch_exceptions=False).stdout)
    (run,) = told["runs"]
    assert (run["run"], run["latest"]["step"], run["connected_ranks"]) == ("runs/a", 1, [0, 1])
    (live,) = run["saves"]
    assert (live["step"], live["phase"], live["transport"]) == (2, "filling", "stream")
    assert 0 < live["received_bytes"] < live["size_bytes"]
    assert any("rank 1" in line for line in live["waiting_for"])
    assert live["needed_ranks"] == [1]
    assert told["version"] == versions.VERSION


def test_status_of_nobody_says_how_to_start_one():
    from click.testing import CliRunner

    from ckptd.cli.status import command

    result = CliRunner().invoke(command, ["127.0.0.1:1", "--timeout-s", "5"])
    assert isinstance(result.exception, UnavailableError)
    assert "ckptd serve --root DIR" in str(result.exception)


def test_a_plan_names_the_daemon_as_the_writer_of_every_shard(serve):
    daemon = serve().ready()
    (rank,) = workers(daemon, 1)
    declare([rank], 1)
    lanes = rank.assignment.lanes
    assert lanes
    assert [list(lane.writers) for lane in lanes] == [daemon.listening] * len(lanes)
