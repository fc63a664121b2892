import pytest

from ckptd.web.host_names import HostNames

NAMES = HostNames(["ckptd.example.org", "trainer-3"])


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "127.0.0.1:7080",
        "[::1]:7080",
        "[::1]",
        "::1",
        "10.1.2.3:80",
        "localhost:7080",
        "LocalHost",
        "localhost.",
        "trainer-3:7080",
        "CKPTD.example.org",
        "ckptd.example.org.:7080",
    ],
)
def test_addresses_and_own_names_are_known(host):
    assert NAMES.knows(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "evil.example",
        "evil.example:7080",
        "localhost.evil.example",
        "127.0.0.1.evil.example:7080",
        "127.0.0.1@evil.example",
        "evil.example#127.0.0.1",
        "[evil.example]:7080",
        "0x7f.1",
        "127.1",
        "trainer-3.evil.example",
        "localhost\x00",
    ],
)
def test_names_of_strangers_are_not(host):
    assert not NAMES.knows(host)
