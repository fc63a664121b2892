from __future__ import annotations

import pytest

from ckptd.errors import InvalidRequestError
from ckptd.wire import addresses
from ckptd.wire.addresses import Address

ADDRESSES = [
    ("grpc://127.0.0.1:7070", Address("127.0.0.1", 7070), "127.0.0.1:7070", True),
    ("grpcs://ckptd.example:443", Address("ckptd.example", 443, secure=True), "ckptd.example:443", False),
    ("localhost:0", Address("localhost", 0, secure=None), "localhost:0", True),
    ("grpc://[::1]:7070", Address("::1", 7070), "[::1]:7070", True),
    ("0.0.0.0:1", Address("0.0.0.0", 1, secure=None), "0.0.0.0:1", False),
    ("unix:///run/ckptd.sock", Address(path="/run/ckptd.sock"), "unix:/run/ckptd.sock", True),
]


@pytest.mark.parametrize(("text", "address", "target", "loopback"), ADDRESSES)
def test_an_address_and_its_text_are_one_thing(text, address, target, loopback):
    assert addresses.parse(text) == address
    assert str(address) == text
    assert address.target == target
    assert address.is_loopback is loopback
    assert addresses.is_daemon(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("grpc://host", "grpc://host:7070"),
        ("host", "host:7070"),
        ("unix:/a.sock", "unix:///a.sock"),
        ("[::1]", "[::1]:7070"),
        (" GRPC://host:1/ ", "grpc://host:1"),
    ],
)
def test_what_is_left_out_has_a_default(text, same):
    assert addresses.parse(text) == addresses.parse(same)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":80",
        "host:",
        "host:x",
        "host:65536",
        "host:-1",
        "http://host:1",
        "unix://relative",
        "unix://",
        "::1:80",
        "unix:///" + "x" * 108,
        "grpc://[::1",
        "grpc://[zz]:1",
        "grpc://ho st:1",
        "grpc://user@host:1",
        "grpc://host:1/x",
        "-host:1",
        "unix:///a\0b",
        "host:٣",
        "unix:///dir/",
    ],
)
def test_nonsense_is_refused_and_shown_the_forms_there_are(text):
    with pytest.raises(InvalidRequestError, match="unix:///path"):
        addresses.parse(text)


@pytest.mark.parametrize(
    "text", ["/data/runs", "file:///data", "s3://bucket/x", "memory://a", "runs", "./x:y/z", "a/b:1"]
)
def test_a_store_is_no_daemon(text):
    assert not addresses.is_daemon(text)
