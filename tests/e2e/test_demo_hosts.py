"""The demonstration on many hosts, in short: every claim holds, and nothing is left but ordinary checkpoints."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.demo import hosts_story
from ckptd.demo.hosts import undeclared
from ckptd.demo.script import HostsScript
from ckptd.demo.story import RUN
from ckptd.wire.v1 import admin_pb2
from tests.e2e.test_demo import Silent, processes_naming
from tests.starts import prepared

SHORT = HostsScript(
    workers_per_host=1,
    hidden=512,
    last_step=50,
    save_every=10,
    agent_killed_at=20,
    coordinator_killed_at=30,
    host_lost_at=40,
    max_to_keep=3,
    least_accuracy=0.7,
    most_lost_s=120.0,  # how fast a busy machine is proves nothing here
)


def test_every_claim_holds_and_tensorflow_reads_what_it_leaves(tmp_path):
    narrator = Silent()
    outcome = hosts_story.tell(tmp_path / "demo", SHORT, narrator, popen=prepared.Popen)
    assert [f"{claim.text}: {claim.seen}" for claim in outcome.claims if not claim.held] == []
    assert len(outcome.claims) == 15
    assert processes_naming(str(tmp_path)) == []
    told = next(line for line in narrator.lines if "was told: " in line)
    assert "h3" in told or "rank 2" in told
    assert (outcome.killed_step, outcome.resumed_step) == (40, 30)
    run = str(tmp_path / "demo/checkpoints" / RUN)
    import tensorflow as tf

    theirs, ours = tf.train.load_checkpoint(run), ckptd.load_checkpoint(run)
    for name in ours:
        assert np.array_equal(theirs.get_tensor(name), ours.get_tensor(name)), name


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--hosts", "3", "--workers", "4"], "two workers on each host"),
        (["--root", "/tmp/nowhere"], "--root belongs to --hosts"),
        (["--hosts", "1"], "'--hosts'"),
    ],
)
def test_options_that_do_not_fit_are_refused(arguments, said, capsys):
    assert main.run(["demo", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_root_that_holds_checkpoints_is_left_alone(tmp_path, capsys):
    with ckptd.Checkpointer(str(tmp_path / "root"), RUN) as checkpointer:
        checkpointer.save(1, {"w": np.ones(3)})
    assert main.run(["demo", "--hosts", "2", "--root", str(tmp_path / "root"), "--dir", str(tmp_path / "d")]) == 4
    assert "there are checkpoints here already" in capsys.readouterr().err
    assert ckptd.latest_checkpoint(str(tmp_path / "root" / RUN)) is not None


@pytest.mark.parametrize(
    ("waiting_for", "ranks"),
    [
        (["ranks 0-1 and 4 of 6 to declare (rank 0: pid 7 on a)"], {0, 1, 4}),
        (["rank 3 of 6 to declare"], {3}),
        (["rank 3 of 6: 12 kB of 40 kB"], set()),
        ([], set()),
    ],
)
def test_the_ranks_that_have_not_declared_are_read_from_what_the_coordinator_says(waiting_for, ranks):
    assert undeclared(admin_pb2.LiveSave(waiting_for=waiting_for)) == ranks
