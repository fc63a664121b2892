from __future__ import annotations

import time

import pytest
from google.protobuf import text_format

from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.format import bundle_pb2
from ckptd.format.state_file import MAX_SIZE_BYTES, MAX_UNUSUAL_SIZE_BYTES, CheckpointState

STATES = [
    (CheckpointState(""), ""),
    (
        CheckpointState("m-2", ("m-1", "m-2")),
        'model_checkpoint_path: "m-2"\nall_model_checkpoint_paths: "m-1"\nall_model_checkpoint_paths: "m-2"\n',
    ),
    (
        CheckpointState("/d/m-1", ("/d/m-1",), (1600000000.123456,), 1599999999.0),
        'model_checkpoint_path: "/d/m-1"\nall_model_checkpoint_paths: "/d/m-1"\n'
        "all_model_checkpoint_timestamps: 1600000000.123456\nlast_preserved_timestamp: 1599999999.0\n",
    ),
    (
        CheckpointState("m", (), (1e16, 1e-5, float("inf"), 5)),
        'model_checkpoint_path: "m"\n'
        "all_model_checkpoint_timestamps: 1e+16\nall_model_checkpoint_timestamps: 1e-05\n"
        "all_model_checkpoint_timestamps: inf\nall_model_checkpoint_timestamps: 5.0\n",
    ),
]


@pytest.mark.parametrize(("state", "text"), STATES)
def test_a_state_and_its_text_are_one_thing(state: CheckpointState, text: str) -> None:
    assert state.encode() == text.encode()
    assert CheckpointState.decode(text.encode()) == state


def test_every_character_is_escaped_as_protobuf_does() -> None:
    path = "".join(map(chr, range(1, 0x250))) + "日本\u2028𝄞"
    message = bundle_pb2.CheckpointState(model_checkpoint_path=path)
    data = CheckpointState(path).encode()
    assert data == text_format.MessageToString(message, as_utf8=True).encode()
    assert CheckpointState.decode(data).model_checkpoint_path == path


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"garbage {", "line 1"),
        (b'model_checkpoint_path: "b"\nunknown: \n', "cannot be parsed"),
        (b'model_checkpoint_path: "b', "line 1"),
        (b"model_checkpoint_path: 3", "line 1"),
        (b"last_preserved_timestamp: x", "line 1"),
        (b'model_checkpoint_path: "\xff"', "not UTF-8"),
        (b'model_checkpoint_path: "\\377"', "cannot be parsed"),
        (b"\0\0\0\0", "line 1"),
        (b"{" * 10000, "line 1"),
        (b"a" * (MAX_SIZE_BYTES + 1), "too long"),
    ],
)
def test_text_that_is_no_state_is_corrupt(data: bytes, reason: str) -> None:
    with pytest.raises(CorruptionError, match=reason) as caught:
        CheckpointState.decode(data, "runs/a/checkpoint")
    assert caught.value.key == "runs/a/checkpoint"
    assert any("`ckptd repair`" in note for note in caught.value.__notes__)


def test_a_path_that_is_not_text_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="UTF-8"):
        CheckpointState("\udcff").encode()


def test_a_long_plain_file_is_read_quickly_and_a_long_unusual_one_refused() -> None:
    numbers = range(20_000)
    state = CheckpointState("m-1", tuple(f"m-{n}" for n in numbers), tuple(1.6e9 + n / 8 for n in numbers))
    data = state.encode()
    assert len(data) > MAX_UNUSUAL_SIZE_BYTES
    began = time.thread_time()
    assert CheckpointState.decode(data) == state
    assert CheckpointState.decode(b"# save 7\n" + data) == state
    assert time.thread_time() - began < 1
    with pytest.raises(CorruptionError, match="too long"):
        CheckpointState.decode(data + b"  # indented\n")
    with pytest.raises(InvalidRequestError, match="too many"):
        CheckpointState("m", ("p" * 1000,) * 20_000).encode()


def test_both_parsers_read_a_plain_file_alike() -> None:
    data = b'all_model_checkpoint_paths: "\t\'x"\nlast_preserved_timestamp: 1.5\nmodel_checkpoint_path: "a"\n' * 2
    plain = CheckpointState.decode(data)
    assert plain == CheckpointState("a", ("\t'x", "\t'x"), (), 1.5)
    assert CheckpointState.decode(data + b"  # now the general one\n") == plain


def test_comments_are_skipped() -> None:
    assert CheckpointState.decode(b'# save 7\nmodel_checkpoint_path: "m-7" # it\n') == CheckpointState("m-7")


def test_fields_that_nobody_knows_are_left_out() -> None:
    data = b'model_checkpoint_path: "m-7"\nunknown: 3\nlater { a: "b" c: [1, 2] }\nall_model_checkpoint_paths: "m-7"\n'
    assert CheckpointState.decode(data) == CheckpointState("m-7", ("m-7",))
