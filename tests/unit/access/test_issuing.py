"""The authority that `ckptd certs` makes: what is valid for whom, and that no file is ever replaced."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509 import verification
from cryptography.x509.oid import NameOID

from ckptd.access.issuing import CA_DAYS, issue
from ckptd.cli import main
from ckptd.errors import ConflictError, InvalidRequestError, NotPermittedError

DAY_S = 86400


@pytest.fixture
def where(tmp_path) -> Path:
    return tmp_path / "certs"


def read(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())


def verifier(where: Path) -> verification.PolicyBuilder:
    return verification.PolicyBuilder().store(verification.Store([read(where / "ca.crt")]))


def contents(where: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in where.iterdir()}


def test_the_server_s_is_valid_for_its_hosts_and_the_client_s_for_clients(where):
    issue(str(where), ["trainer-0", "10.0.0.5", "::1", "*.example.org"], ["vision"])
    server, client = read(where / "server.crt"), read(where / "client-vision.crt")
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["trainer-0", "*.example.org"]
    assert [str(ip) for ip in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.5", "::1"]
    builder = verifier(where)
    assert builder.build_server_verifier(x509.DNSName("trainer-0")).verify(server, [])
    with pytest.raises(verification.VerificationError):
        builder.build_server_verifier(x509.DNSName("trainer-1")).verify(server, [])
    with pytest.raises(verification.VerificationError):  # a client can't be the daemon
        builder.build_server_verifier(x509.DNSName("vision")).verify(client, [])
    (name,) = client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "vision"


def test_keys_are_their_owner_s_alone(where):
    for made in issue(str(where), ["localhost"], ["a", "b"]):
        assert Path(made.key).stat().st_mode & 0o777 == 0o600
        assert Path(made.certificate).stat().st_mode & 0o777 == 0o644
    assert where.stat().st_mode & 0o777 == 0o700


def test_a_directory_in_which_others_can_replace_keys_draws_a_warning(tmp_path, capsys):
    tmp_path.chmod(0o700)
    assert main.run(["certs", "localhost", "--dir", str(tmp_path)]) == 0
    assert not capsys.readouterr().err
    tmp_path.chmod(0o775)
    assert main.run(["certs", "--client", "vision", "--dir", str(tmp_path)]) == 0
    assert f"chmod 700 {tmp_path}" in capsys.readouterr().err


def test_it_ends_when_it_was_told_to_and_never_after_its_authority(where):
    made = {each.kind: each for each in issue(str(where), ["localhost"], ["a"], days=30)}
    made["late"] = issue(str(where), [], ["b"], days=CA_DAYS + 1)[0]
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    assert abs(made["server"].ends_at - now - 30 * DAY_S) < DAY_S
    assert made["late"].ends_at == made["ca"].ends_at
    assert read(Path(made["client"].certificate)).not_valid_after_utc.timestamp() == made["client"].ends_at


def test_what_is_added_later_is_signed_by_the_authority_that_is_there(where):
    issue(str(where), ["localhost"], ["a"])
    before = contents(where)
    (added,) = issue(str(where), [], ["b"])
    assert (added.kind, added.name) == ("client", "b")
    read(where / "client-b.crt").verify_directly_issued_by(read(where / "ca.crt"))
    assert contents(where).items() >= before.items()


@pytest.mark.parametrize("taken", ["server.key", "client-a.crt", "ca.crt"])
def test_nothing_is_replaced_and_nothing_is_left_half_made(where, taken):
    where.mkdir()
    (where / taken).write_text("theirs")
    with pytest.raises(ConflictError):
        issue(str(where), ["localhost"], ["a"])
    assert contents(where) == {taken: b"theirs"}


def test_a_link_that_leads_nowhere_is_not_followed(where, tmp_path):
    where.mkdir()
    (where / "server.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ConflictError):
        issue(str(where), ["localhost"])
    assert not (tmp_path / "elsewhere").exists()


def test_the_key_of_another_authority_signs_nothing(where, tmp_path):
    issue(str(where), ["localhost"])
    issue(str(tmp_path / "other"), ["localhost"])
    (where / "ca.key").write_bytes((tmp_path / "other" / "ca.key").read_bytes())
    with pytest.raises(ConflictError, match="not the key of this authority"):
        issue(str(where), [], ["a"])


@pytest.mark.parametrize(
    ("hosts", "clients", "days"),
    [
        ((), (), 1),
        (("host:7070",), (), 1),
        (("[::1]",), (), 1),
        (("10.0.0.300",), (), 1),
        (("fe80::1%eth0",), (), 1),
        (("a" * 64,), (), 1),
        (("two words",), (), 1),
        (("bücher.example",), (), 1),
        ((), ("../a",), 1),
        ((), ("a\nb",), 1),
        ((), ("a" * 65,), 1),
        ((), ("a", "a"), 1),
        (("h",), (), 0),
        (("h",), (), float("nan")),
        (("h",), (), 1e9),
    ],
)
def test_what_can_t_be_right_is_refused_before_anything_is_made(where, hosts, clients, days):
    with pytest.raises(InvalidRequestError):
        issue(str(where), hosts, clients, days=days)
    assert not where.exists()


def test_a_place_that_can_t_be_one_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotPermittedError, match="file"):
        issue(str(tmp_path / "file" / "certs"), ["h"])


def test_without_the_package_it_says_what_to_install(where, monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    with pytest.raises(InvalidRequestError, match=r"pip install 'ckptd\[tls\]'"):
        issue(str(where), ["h"])
    assert not where.exists()
