from __future__ import annotations

import pytest

from ckptd.errors import InvalidRequestError
from ckptd.format import names

SHARDS = [
    ("m-1.data-00000-of-00001", ("m-1", 0, 1)),
    ("runs/a/m-1.data-00003-of-00016", ("runs/a/m-1", 3, 16)),
    ("m.data-123456-of-1000000", ("m", 123456, 1000000)),
]


@pytest.mark.parametrize(("key", "parts"), SHARDS)
def test_a_shard_key_and_its_parts_are_one_thing(key: str, parts: tuple[str, int, int]) -> None:
    assert names.shard_key(*parts) == key
    assert names.parse_shard_key(key) == parts


@pytest.mark.parametrize(
    "key",
    [
        "m.index",
        "m.data-0000-of-0001",
        "m.data-00001-of-00001",
        "m.data-000000-of-00001",
        "m.data-00000-of-00001.tempstate7",
        ".data-00000-of-00001",
        "m.data-00000-of-00000",
        "m.data-٠٠٠٠٠-of-00001",
    ],
)
def test_other_keys_are_no_shards(key: str) -> None:
    assert names.parse_shard_key(key) is None


def test_keys_beside_a_checkpoint() -> None:
    assert names.index_key("d/m-1") == "d/m-1.index"
    assert names.meta_key("d/m-1") == "d/m-1.meta"
    assert names.STATE_KEY == "checkpoint"


PREFIXES = [("m", 0, False, "m-0"), ("d/m.ckpt", 1200, False, "d/m.ckpt-1200"), ("m", 7, True, "m-00000007")]


@pytest.mark.parametrize(("name", "step", "pad", "prefix"), PREFIXES)
def test_a_prefix_ends_in_its_step(name: str, step: int, pad: bool, prefix: str) -> None:
    assert names.prefix_for(name, step, pad) == prefix
    assert names.step_of(prefix) == step


@pytest.mark.parametrize("prefix", ["m", "m-", "m-1x", "7", "m-" + "9" * 19 + "9", "m-" + "9" * 5000, "m-٣"])
def test_a_prefix_may_end_in_no_step(prefix: str) -> None:
    assert names.step_of(prefix) is None


@pytest.mark.parametrize("step", [-1, 1 << 63])
def test_a_step_out_of_range_is_refused(step: int) -> None:
    with pytest.raises(InvalidRequestError, match="step"):
        names.prefix_for("m", step)


ODD_NAMES = ["a b", "epoch 1/loss: 0.5", "a:b", "12:30:05", "a[0]", "[0]", "(a)", "{a}", "a{1}(2) [3]", "run [1]/a"]


@pytest.mark.parametrize(
    "name", ["mnist", "runs/mnist", "a.b-c_d=1,2+3@4", "läufe/日本", "9", "_", "x" * 200, *ODD_NAMES]
)
def test_sound_run_names_pass_unchanged(name: str) -> None:
    assert names.check_run_name(name) == name


BAD_NAMES = [
    "",
    "/",
    "/abs",
    "a//b",
    "a/",
    ".",
    "..",
    "a/../b",
    "a/./b",
    ".ckptd",
    "a/.hidden",
    "a\0b",
    "a\nb",
    "a\\b",
    "a*",
    "a?",
    "~root",
    "-rf",
    " a",
    "a ",
    "a /b",
    "a\tb",
    "a\u00a0b",
    "a:",
    "s3:/bucket",
    ":a",
    "]a",
    "s3://bucket",
    "a%2e",
    "a$HOME",
    "a\u202eb",
    "a\u200bb",
    "\udc80",
    "x" * 201,
    "é" * 101,
    "/".join(["abc"] * 300),
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_leave_the_root_or_confuse_a_tool_are_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        names.check_run_name(name)
    with pytest.raises(InvalidRequestError):
        names.check_checkpoint_name(name)


def test_a_checkpoints_name_is_one_component() -> None:
    assert names.check_checkpoint_name("model.ckpt") == "model.ckpt"
    with pytest.raises(InvalidRequestError):
        names.check_checkpoint_name("a/b")


@pytest.mark.parametrize(("name", "key"), [("w", b"w"), ("é/\0", b"\xc3\xa9/\0"), ("\udcff\udc80z", b"\xff\x80z")])
def test_a_tensors_name_and_its_key_are_one_thing(name: str, key: bytes) -> None:
    assert names.tensor_key(name) == key
    assert names.tensor_name(key) == name


@pytest.mark.parametrize("name", ["", "\ud800"])
def test_a_name_that_no_key_can_hold_is_refused(name: str) -> None:
    with pytest.raises(InvalidRequestError):
        names.tensor_key(name)
