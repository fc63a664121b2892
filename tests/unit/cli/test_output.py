from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pytest

from ckptd.cli import output, progress
from ckptd.engine.checkpoint import Checkpoint

SIZES = [
    (0, "0 B"),
    (999, "999 B"),
    (1000, "1.0 kB"),
    (12_345, "12.3 kB"),
    (999_940, "999.9 kB"),
    (999_960, "1.0 MB"),
    (2_500_000_000, "2.5 GB"),
    (10**18, "1000.0 PB"),
]

DURATIONS = [
    (0.0, "0 µs"),
    (0.00012, "120 µs"),
    (0.0032, "3.2 ms"),
    (0.9999, "1.0 s"),
    (4.06, "4.1 s"),
    (59.96, "1 min 0 s"),
    (125, "2 min 5 s"),
    (3599.9, "1 h 0 min"),
    (11_400, "3 h 10 min"),
    (86_399.9, "1 d 0 h"),
    (200_000, "2 d 7 h"),
]


@pytest.mark.parametrize(("size_bytes", "text"), SIZES)
def test_sizes_are_written_in_decimal_units(size_bytes, text):
    assert output.size(size_bytes) == text


@pytest.mark.parametrize(("seconds", "text"), DURATIONS)
def test_durations_keep_the_figures_that_matter(seconds, text):
    assert output.duration(seconds) == text


@pytest.mark.parametrize(
    ("then", "text"), [(1000.0, "now"), (999.5, "now"), (875.0, "2 min 5 s ago"), (1002.0, "2.0 s in the future")]
)
def test_ages_say_so_when_a_clock_is_wrong(then, text):
    assert output.age(then, 1000.0) == text


def test_a_pipe_gets_aligned_text_that_is_never_cut(capsys):
    long = "x" * 500
    output.table("ignored", ("name", "size"), [("a", "1.5 kB"), (long, "20 B"), ("[red]b[/red]", "–")])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "NAME" + " " * 498 + "  SIZE"
    assert lines[1] == "a" + " " * 499 + "  1.5 kB"
    assert lines[2] == long + "    20 B"
    assert lines[3].startswith("[red]b[/red]")
    assert lines[3].endswith("–")


def test_an_empty_table_is_its_header(capsys):
    output.table("", ("name", "size"), [])
    assert capsys.readouterr().out == "NAME  SIZE\n"


def test_a_terminal_gets_a_drawn_table_with_the_markup_of_names_left_alone(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal)
    output.table("Title", ("name", "size"), [("[red]b[/red]", 1)])
    assert "Title" in terminal.getvalue()
    assert "[red]b[/red]" in terminal.getvalue()
    assert "─" in terminal.getvalue()


class Colour(Enum):
    RED = "red"


@dataclass
class Thing:
    name: str
    colour: Colour
    parts: tuple[int, ...]


JSON_CASES = [
    (Thing("a", Colour.RED, (1, 2)), {"name": "a", "colour": "red", "parts": [1, 2]}),
    ({"nan": float("nan"), "inf": -float("inf"), "x": 1.5}, {"nan": "nan", "inf": "-inf", "x": 1.5}),
    (b"ab\xff", "ab\\xff"),
    ("ab\udcff", "ab\\xff"),
    ([None, True, 3], [None, True, 3]),
    (1 + 2j, "(1+2j)"),
]


@pytest.mark.parametrize(("value", "parsed"), JSON_CASES)
def test_json_is_one_valid_document_whatever_comes(value, parsed, capsys):
    output.emit_json(value)
    assert json.loads(capsys.readouterr().out) == parsed


def test_a_checkpoint_becomes_an_object_with_its_fields(capsys):
    output.emit_json(Checkpoint(prefix="/r/m-1", step=1, size_bytes=5, num_shards=2, saved_at=3.0))
    document = json.loads(capsys.readouterr().out)
    assert document["prefix"] == "/r/m-1"
    assert document["durability"] == "local_disk"


def test_diagnostics_and_progress_stay_off_stdout(capsys):
    output.note("careful: \udcff")
    with progress.shown("reading") as progressed:
        progressed(5, 10)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "careful: \\xff\n"


def test_names_from_files_cannot_command_the_terminal(capsys):
    hostile = "w\x1b]0;owned\x07\nx\udcff\x9b"
    output.table("", ("name",), [(hostile,)])
    output.say(hostile)
    output.note(hostile)
    captured = capsys.readouterr()
    shown = "w\\x1b]0;owned\\x07\\nx\\xff\\x9b\n"
    assert captured.out == "NAME\n" + shown + shown
    assert captured.err == shown
    output.say(hostile, lines=True)  # what is several lines by itself, such as an array
    assert capsys.readouterr().out == "w\\x1b]0;owned\\x07\nx\\xff\\x9b\n"


def test_json_means_the_same_and_cannot_command_the_terminal_either(capsys):
    hostile = "w\x1b]0;owned\x07\nx\x9b\u202e\u200b"
    output.emit_json({hostile: hostile})
    document = capsys.readouterr().out
    assert document.replace("\n", "").isprintable()
    assert json.loads(document) == {hostile: hostile}


def test_shapes_are_written_for_people():
    assert output.shape(()) == "scalar"
    assert output.shape(np.zeros((3, 4)).shape) == "3 × 4"
