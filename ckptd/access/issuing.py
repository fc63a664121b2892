"""A small authority for a first set-up with TLS: its own certificate, one of the daemon, and some of clients.

All files are in one directory. A name says what a file is: ``ca``, ``server`` and ``client-NAME``, each ``.crt`` and
``.key``. None is ever replaced, and those of one call appear together or not at all. An authority that is there already
signs what is added later.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ckptd.errors import ConflictError, InvalidRequestError, NotPermittedError

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec

CA_DAYS = 3650
_CLOCKS_DIFFER_BY = datetime.timedelta(hours=1)
_MOST_DAYS = 36500

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_CLIENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.@-]{0,62}[A-Za-z0-9])?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate that was made, with its key.

    Attributes:
        kind: "ca", "server" or "client".
        name: of the client, else of the first host.
        certificate: path of the PEM file.
        key: path of its private key, which only its owner may read.
        ends_at: wall-clock seconds since the epoch.
    """

    kind: str
    name: str
    certificate: str
    key: str
    ends_at: float


def issue(
    directory: str, hosts: Sequence[str], clients: Sequence[str] = (), *, days: float = 365.0, into: str | None = None
) -> list[Issued]:
    """Make an authority, unless the directory has one, a server's certificate for `hosts`, and one for each client.

    Args:
        directory: is made if it is missing, for its owner alone.
        hosts: names and addresses by which clients reach the daemon; empty: no certificate of a server.
        clients: names; a policy calls their holders ``cert:NAME``.
        days: how long the certificates are valid; the authority's own is for ten years.
        into: where what is made goes, but for the authority, which is in `directory`; by default there too.

    Raises:
        InvalidRequestError: a bad host, name or number of days, or the package `cryptography` is missing.
        ConflictError: one of the files exists, or the authority that is there can sign nothing.
        NotPermittedError: a file cannot be written or read.
    """
    _check(hosts, clients, days)
    _need_cryptography()
    where, place = Path(directory), Path(directory if into is None else into)
    wanted = [*(["server"] if hosts else []), *(f"client-{name}" for name in clients)]
    for stem in wanted:
        _check_free(place, stem)
    try:
        for each in {where, place}:
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        authority, is_new = _authority(where)
        if is_new and place != where:
            _write(where, authority.files("ca"))
        made = [("ca", authority)] if is_new and place == where else []
        if hosts:
            made.append(("server", authority.sign_server(hosts, days)))
        made += [(f"client-{name}", authority.sign_client(name, days)) for name in clients]
        _write(place, [file for stem, pair in made for file in pair.files(stem)])
    except FileExistsError as error:
        raise ConflictError("another process makes the same certificates at this moment", key=directory) from error
    except OSError as error:
        raise NotPermittedError(f"the certificates cannot be made: {error.strerror}", key=directory) from error
    names = {"ca": "ca", "server": hosts[0] if hosts else ""} | {f"client-{name}": name for name in clients}
    return [_issued(place, stem, names[stem], pair) for stem, pair in made]


class _Pair:
    """A certificate and its private key, which may sign others."""

    def __init__(self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> None:
        self.certificate = certificate
        self._key = key

    def files(self, stem: str) -> list[tuple[str, bytes, int]]:
        """Return name, content and permissions of both files."""
        from cryptography.hazmat.primitives import serialization

        key = self._key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return [
            (f"{stem}.key", key, 0o600),
            (f"{stem}.crt", self.certificate.public_bytes(serialization.Encoding.PEM), 0o644),
        ]

    def sign_server(self, hosts: Sequence[str], days: float) -> _Pair:
        """Return the certificate of a daemon that is reached by these names and addresses."""
        from cryptography.x509.oid import ExtendedKeyUsageOID

        first = hosts[0] if len(hosts[0]) <= 64 else "ckptd"
        return self._sign(first, [_general_name(host) for host in hosts], ExtendedKeyUsageOID.SERVER_AUTH, days)

    def sign_client(self, name: str, days: float) -> _Pair:
        """Return the certificate of a client; its common name is what a policy calls it by."""
        from cryptography.x509.oid import ExtendedKeyUsageOID

        return self._sign(name, [], ExtendedKeyUsageOID.CLIENT_AUTH, days)

    def _sign(self, common_name: str, names: list[x509.GeneralName], purpose: Any, days: float) -> _Pair:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.asymmetric import ec

        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(common_name, self.certificate.subject, key, days, until=self.certificate.not_valid_after_utc)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(signs_certificates=False), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(issuer, critical=False)
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return _Pair(builder.sign(self._key, hashes.SHA256()), key)


def _authority(where: Path) -> tuple[_Pair, bool]:
    """Return the authority of a directory, and whether it was made now."""
    certificate, key = where / "ca.crt", where / "ca.key"
    if not os.path.lexists(certificate) and not os.path.lexists(key):
        return _new_authority(), True
    missing = next((path.name for path in (certificate, key) if not path.exists()), None)
    if missing is not None:
        raise ConflictError(f"the authority here is incomplete: {missing} is missing", key=str(where))
    return _read_authority(certificate, key), False


def _new_authority() -> _Pair:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    builder = _builder("ckptd's own authority", None, key, CA_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(signs_certificates=True), critical=True)
    return _Pair(builder.sign(key, hashes.SHA256()), key)


def _read_authority(certificate_path: Path, key_path: Path) -> _Pair:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    where = str(certificate_path)
    try:
        certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        key = serialization.load_pem_private_key(key_path.read_bytes(), None)
    except (ValueError, TypeError) as error:
        raise ConflictError("the authority here is not one that `ckptd certs` made", key=where) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
        raise ConflictError(f"{key_path.name} is not the key of this authority", key=where)
    if certificate.not_valid_after_utc <= _now():
        raise ConflictError("this authority has expired: make another one with --dir, and give it to all", key=where)
    return _Pair(certificate, key)


def _builder(
    common_name: str,
    issuer: x509.Name | None,
    key: ec.EllipticCurvePrivateKey,
    days: float,
    until: datetime.datetime | None = None,
) -> x509.CertificateBuilder:
    """Return what all certificates have; `issuer` None: it signs itself. It ends at `until` at the latest."""
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    end = _now() + datetime.timedelta(days=days)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if issuer is None else issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_now() - _CLOCKS_DIFFER_BY)
        .not_valid_after(end if until is None else min(end, until))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    from cryptography import x509

    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _check(hosts: Sequence[str], clients: Sequence[str], days: float) -> None:
    if not hosts and not clients:
        raise InvalidRequestError("say what for: hosts by which clients reach the daemon, or --client NAME")
    for host in hosts:
        if not _is_host(host):
            raise InvalidRequestError("a host is a name or an IP address, without port or brackets", actual=host[:100])
    for name in clients:
        if not _CLIENT.fullmatch(name):
            raise InvalidRequestError("a client's name has up to 64 letters, digits and _ . @ -", actual=name[:100])
    twice = next((name for name in clients if list(clients).count(name) > 1), None)
    if twice is not None:
        raise InvalidRequestError(f"the client {twice} is named twice")
    if not 0 < days <= _MOST_DAYS:
        raise InvalidRequestError(f"certificates are valid for up to {_MOST_DAYS} days", actual=days)


def _is_host(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        is_like_an_address = not re.search("[A-Za-z]", host)  # 10.0.0.300 is a mistake, and no name
        return len(host) <= 253 and not is_like_an_address and _HOST.fullmatch(host) is not None
    return "%" not in host


def _need_cryptography() -> None:
    try:
        import cryptography  # noqa: F401 - whether it is there
    except ImportError as error:
        raise InvalidRequestError(
            "certificates are made with a package that is not here: pip install 'ckptd[tls]'"
        ) from error


def _check_free(where: Path, stem: str) -> None:
    for path in (where / f"{stem}.crt", where / f"{stem}.key"):
        if os.path.lexists(path):
            raise ConflictError("there is such a file already: remove it first, or use another --dir", key=str(path))


def _write(where: Path, files: list[tuple[str, bytes, int]]) -> None:
    """Write all files, durably, or none."""
    written: list[Path] = []
    try:
        for name, content, mode in files:
            path = where / name
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            written.append(path)
            with os.fdopen(descriptor, "wb") as file:
                os.fchmod(descriptor, mode)
                file.write(content)
                file.flush()
                os.fsync(descriptor)
        directory = os.open(where, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except BaseException:
        for path in written:
            with contextlib.suppress(OSError):
                path.unlink()
        raise


def _issued(where: Path, stem: str, name: str, pair: _Pair) -> Issued:
    ends_at = pair.certificate.not_valid_after_utc.timestamp()
    return Issued(stem.partition("-")[0], name, str(where / f"{stem}.crt"), str(where / f"{stem}.key"), ends_at)


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
