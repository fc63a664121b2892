"""Commands on terminals of 60, 80 and 120 columns: nothing is broken that a person reads, or copies, as one."""

from __future__ import annotations

import io
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

import ckptd
from ckptd.cli import layout, main

RUN = "a-directory-with-a-rather-long-name/runs/bert-large-uncased/2026-11-28-experiment-17"
KERNEL = "model/encoder/layer_11/attention/output/dense/kernel"
COMMANDS = (
    ["ls", RUN],
    ["show", RUN, "--stats", "--progress", "none"],
    ["show", RUN, "--layout"],
    ["show", RUN, "--plot", "--progress", "none"],
    ["verify", RUN, "--progress", "none"],
    ["diff", f"{RUN}/model.ckpt-1000", RUN, "--progress", "none"],
    ["prune", RUN, "--dry-run", "--keep", "1", "--progress", "none"],
    ["cat", RUN, KERNEL],
    ["doctor", "."],
    ["ls", "a-directory-with-a-rather-long-name/runs"],
)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_QUANTITY = re.compile(r"\d+(?:\.\d+)? (?:[kMGT]?B)\b|\d+ × \d+|\d{4,}|\d\.\d{3,}")
_PATH = re.compile(r"[\w.-]*/[\w./-]{8,}|model\.ckpt-\d+(?:\.data-\d+-of-\d+)?")


class Terminal(io.StringIO):
    """Takes what is written and says that it is a terminal."""

    def isatty(self):
        return True


@pytest.fixture(scope="module")
def place():
    with tempfile.TemporaryDirectory(prefix="t-") as short:  # of a longer path, lines would be as long
        yield filled(Path(short))


def filled(directory):
    rng = np.random.default_rng(3)
    with ckptd.Checkpointer(str(directory / RUN.partition("/")[0]), run=RUN.partition("/")[2], max_to_keep=3) as ckpt:
        for step in (1000, 2000, 123456):
            kernel = rng.standard_normal((1000, 64)).astype(np.float32)
            ckpt.save(step, {KERNEL: kernel, "bias": np.zeros(200_000), "step": np.array(step)}).result()
        ckpt.pin(1000)
    return directory


def said(monkeypatch, arguments, columns):
    """Run a command on a terminal of so many columns, or into a pipe; return all that it says."""
    out = io.StringIO() if columns is None else Terminal()
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", out)
        patched.setattr(sys, "stderr", out)
        patched.setenv("COLUMNS", str(columns or 80))
        patched.setenv("TERM", "xterm")
        main.run(arguments)
    return _ANSI.sub("", out.getvalue())


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.parametrize("arguments", COMMANDS, ids=lambda arguments: " ".join(arguments[:1] + arguments[2:3]))
def test_numbers_and_paths_stay_whole_and_lines_fit(place, monkeypatch, arguments, columns):
    monkeypatch.chdir(place)
    shown, plain = said(monkeypatch, arguments, columns), said(monkeypatch, arguments, None)
    whole = [*_QUANTITY.findall(plain), *_PATH.findall(plain)]
    assert whole
    if arguments[0] in ("cat", "doctor"):  # how many values fit, and what is free, differ from one time to the next
        whole = [text for text in whole if "/" in text and " " not in text]
    assert [text for text in whole if text not in shown] == []
    too_long = [line for line in shown.split("\n") if len(line) > columns]
    assert [line for line in too_long if len(line.split()) > 2] == []  # a path, or a name and a path, of its own


def test_a_table_that_does_not_fit_becomes_lists(place, monkeypatch):
    monkeypatch.chdir(place)
    narrow = said(monkeypatch, ["ls", RUN], 60)
    lines = narrow.split("\n")
    row = next(number for number, line in enumerate(lines) if line.startswith("model.ckpt-123456  latest"))
    assert lines[row + 1] == "  step    123456"
    assert "│" not in narrow
    assert "│" in said(monkeypatch, ["ls", RUN], 120)


@pytest.mark.parametrize(
    ("text", "width", "lines"),
    [
        ("it fits", 10, ["it fits"]),
        ("it is 12.5 MB in size", 10, ["it is", "12.5 MB in", "size"]),
        ("saved 2026-11-28 10:00:00 (2 min ago)", 20, ["saved", "2026-11-28 10:00:00", "(2 min ago)"]),
        ("of 1000 × 64", 9, ["of", "1000 × 64"]),
        ("in /a/very/long/path here", 8, ["in", "/a/very/long/path", "here"]),
    ],
)
def test_sentences_are_wrapped_between_words_and_not_before_a_unit(text, width, lines):
    assert layout.wrapped(text, width).split("\n") == lines
