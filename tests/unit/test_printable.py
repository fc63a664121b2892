from __future__ import annotations

import json

import pytest

from ckptd.errors import CorruptionError
from ckptd.printable import counted, printable, printable_json

HOSTILE = [
    ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
    ("a\nb\r\tc", "a\\nb\\r\\tc"),
    ("\x9b31m", "\\x9b31m"),
    ("abc\u202egpj", "abc\\u202egpj"),
    ("\u2066x\u2069\u200b\u200f\ufeff", "\\u2066x\\u2069\\u200b\\u200f\\ufeff"),
    ("\udcff", "\\xff"),
    ("\ud800\udcff", "\\ud800\\udcff"),
    ("\U000e0041", "\\U000e0041"),
    ("\u2028\u2029\x85", "\\u2028\\u2029\\x85"),
]


@pytest.mark.parametrize(("text", "shown"), HOSTILE)
def test_what_a_terminal_would_obey_or_not_show_is_escaped(text, shown):
    assert printable(text) == shown
    assert printable(printable(text)) == shown


def test_plain_text_in_any_language_stays():
    for text in ("", "model/dense_1:0", "größe", "重み", "🙂"):
        assert printable(text) is text


def test_line_ends_stay_on_request_only():
    assert printable("a\nb\x1b", lines=True) == "a\nb\\x1b"


def test_long_text_is_cut_and_says_so():
    assert printable("x" * 100, limit=10) == "xxxxxxxxxx… (100 characters)"


@pytest.mark.parametrize("text", [text for text, _ in HOSTILE if not text.startswith("\ud800")])
def test_a_json_document_means_the_same(text):
    document = json.dumps({text: [text]}, ensure_ascii=False, indent=1)
    shown = printable_json(document)
    assert shown.replace("\n", "").isprintable()
    assert json.loads(shown) == json.loads(document)


def test_an_error_can_be_logged_and_keeps_its_fields():
    error = CorruptionError("tensor \x1b[2J is wrong", key="a\nb", actual="\u202e")
    assert str(error) == "a\\nb: tensor \\x1b[2J is wrong (found \\u202e)"
    assert error.key == "a\nb"


def test_what_is_counted_is_one_or_several():
    assert [counted(number, "shard") for number in (0, 1, 2)] == ["0 shards", "1 shard", "2 shards"]
    assert [counted(number, "process", "processes") for number in (1, 2)] == ["1 process", "2 processes"]
