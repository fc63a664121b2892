"""The demonstration, told once for a program and once for a person, and what it does when a claim fails."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.request
from http.cookiejar import CookieJar

import numpy as np
import pytest

import ckptd
from ckptd.cli import main
from ckptd.demo import states, story
from ckptd.demo.processes import child_environment
from ckptd.demo.script import Script
from tests import seams
from tests.starts import prepared

SHORT = Script(workers=3, hidden=512, last_step=60, save_every=10, killed_step=40, max_to_keep=3, least_accuracy=0.8)


class Silent:
    """A narrator for nobody, who remembers."""

    def __init__(self):
        self.lines = []

    def chapter(self, title):
        self.lines.append(title)

    def line(self, text):
        self.lines.append(text)

    def wait(self, text):
        raise AssertionError("nobody watches")

    def training(self, step, last_step, loss):
        assert 0 < step <= last_step


def processes_naming(text):
    """Return the command lines of living processes that hold `text`."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            with open(f"/proc/{entry}/cmdline", "rb") as f:
                line = f.read().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in line:
            found.append(line)
    return found


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    directory = tmp_path_factory.mktemp("demo")
    narrator = Silent()
    outcome = story.tell(directory, SHORT, narrator)
    return directory, outcome, narrator


def test_every_claim_holds(told):
    _, outcome, _ = told
    assert [claim.text for claim in outcome.claims if not claim.held] == []
    assert len(outcome.claims) == 11
    assert outcome.held


def test_the_story_left_no_process_behind(told):
    directory, _, _ = told
    assert processes_naming(str(directory)) == []


def test_its_port_was_open_to_no_other_program(told):
    directory, _, _ = told
    assert "may do everything" not in (directory / "logs" / "daemon.log").read_text()
    assert list(directory.glob("*.token")) == []


def test_the_worker_died_while_its_bytes_were_on_their_way(told):
    _, _, narrator = told
    seen = next(line for line in narrator.lines if line.startswith("the daemon was filling it"))
    assert "it waited for rank 1 of 3" in seen
    blamed = next(line for line in narrator.lines if "was told: " in line)
    assert "rank 1" in blamed


def test_the_checkpoints_it_leaves_are_ordinary_ones(told):
    directory, outcome, _ = told
    run = directory / "checkpoints" / story.RUN
    assert [kept.step for kept in outcome.checkpoints] == [40, 50, 60]
    assert ckptd.latest_checkpoint(str(run)) == str(run / "model.ckpt-60")
    import tensorflow as tf

    theirs, ours = tf.train.load_checkpoint(str(run)), ckptd.load_checkpoint(str(run))
    for name in ours:
        assert np.array_equal(theirs.get_tensor(name), ours.get_tensor(name)), name


def test_a_claim_that_fails_is_seen_and_ends_with_exit_code_1(told, monkeypatch, capsys, tmp_path):
    """Take the outcome of a sound story and break one thing in it: the command must not call that a success."""
    _, outcome, _ = told
    broken = type(outcome)(**{field: getattr(outcome, field) for field in outcome.__dataclass_fields__})
    broken.claims = [*outcome.claims]
    broken.claim("every checksum of every tensor verifies", False, "2 of 3")
    seams.TELL_STORY.put(monkeypatch, lambda *_: broken)
    assert main.run(["demo", "--dir", str(tmp_path / "d")]) == 1
    assert "✗ every checksum of every tensor verifies: 2 of 3" in capsys.readouterr().out
    seams.TELL_STORY.put(monkeypatch, lambda *_: outcome)
    assert main.run(["demo", "--dir", str(tmp_path / "e")]) == 0
    assert "11 of 11 claims hold" in capsys.readouterr().out


def test_a_flipped_bit_in_a_checkpoint_fails_the_checks_of_checksum_and_of_bits(told):
    _, outcome, _ = told
    prefix = outcome.checkpoints[-1].prefix
    whole = states.read(prefix)
    sound = states.digest(whole)
    name = "hidden/weights/momentum"
    whole[name] = whole[name].copy()
    whole[name].view(np.uint32)[5, 7] ^= 1
    assert states.digest(whole) != sound


def test_told_to_end_it_takes_its_daemon_and_its_workers_with_it(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "ckptd", "demo", "--dir", str(tmp_path / "demo")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
        cwd=tmp_path,
    )
    try:
        line = next(line for line in process.stdout if "saved in" in line)
        assert line.strip().startswith("step 20 saved in")
        assert len(processes_naming(str(tmp_path / "demo"))) >= 5
        process.terminate()
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 130, err
    assert err.endswith("ckptd: interrupted\n")
    assert processes_naming(str(tmp_path / "demo")) == []


def test_a_directory_with_something_in_it_is_refused(tmp_path, capsys):
    (tmp_path / "mine").write_text("keep")
    assert main.run(["demo", "--dir", str(tmp_path)]) == 4
    assert "new or empty" in capsys.readouterr().err
    assert (tmp_path / "mine").read_text() == "keep"


def test_the_command_itself_in_full_with_its_page_until_it_is_interrupted_and_one_document_on_stdout(tmp_path):
    process = prepared.Popen(
        [sys.executable, "-m", "ckptd", "demo", "--watch", "--json", "--dir", str(tmp_path / "demo")],
        children_fork=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=child_environment(),
        cwd=tmp_path,
    )
    try:
        told = []
        for line in process.stderr:
            told.append(line)
            if "until Ctrl-C" in line:
                break
        links = [each.split()[-1] for each in told if "/login?code=" in each]
        assert len(links) == 2, told
        opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
        with opener.open(links[1], timeout=60) as page:
            assert b"model.ckpt-200" in page.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=200)
    finally:
        process.kill()
        process.wait()
    stderr = "".join(told) + err
    assert process.returncode == 0, out + stderr
    document = json.loads(out)
    assert document["held"] is True
    assert document["accuracy"] > 0.95
    assert document["resumed_step"] == document["killed_step"] - 20
    assert {kept["workers"] for kept in document["checkpoints"]} == {3, 4}
    assert all(kept["intact"] and kept["same_bits"] for kept in document["checkpoints"])
    assert "is killed in the middle of the save" in stderr
