from __future__ import annotations

import pytest

from ckptd.engine.catalog.fence import Signature, signature_of, unsigned
from ckptd.format.state_file import CheckpointState

STATE = b'model_checkpoint_path: "m-1"\nall_model_checkpoint_paths: "m-1"\n'
SIGNATURES = [
    Signature("00ff"),
    Signature("00ff", "ckptd serve, pid 7 on host-a, 127.0.0.1:7070", 12, "9c"),
    Signature("00ff", 'a "holder"\nof two lines, é and \\', 1 << 40, ""),
]


@pytest.mark.parametrize("signature", SIGNATURES)
def test_a_signature_is_one_comment_line_that_changes_nothing_about_the_state(signature: Signature) -> None:
    line = signature.encode()
    assert line.startswith(b"# ")
    assert line.count(b"\n") == 1
    assert signature_of(STATE + line) == signature
    assert unsigned(STATE + line) == STATE
    assert CheckpointState.decode(STATE + line) == CheckpointState.decode(STATE)


@pytest.mark.parametrize(
    "line",
    [b"", b"# a comment\n", b"# ckptd \n", b"# ckptd []\n", b'# ckptd {"owner": 1}\n', b"# ckptd {" + b"[" * 9999],
)
def test_what_is_no_signature_is_nobodys(line: bytes) -> None:
    assert signature_of(STATE + line) is None


def test_no_state_file_is_nobodys() -> None:
    assert signature_of(None) is None


def test_the_last_of_several_signatures_counts() -> None:
    assert signature_of(STATE + SIGNATURES[0].encode() + SIGNATURES[1].encode()) == SIGNATURES[1]


def test_tensorflow_skips_the_line(tmp_path) -> None:
    import tensorflow as tf

    (tmp_path / "checkpoint").write_bytes(STATE + SIGNATURES[2].encode())
    state = tf.train.get_checkpoint_state(str(tmp_path))
    assert list(state.all_model_checkpoint_paths) == [str(tmp_path / "m-1")]
