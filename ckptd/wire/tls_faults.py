"""What is wrong with certificates, in words: which one it is, why it does not count, and what to do about it."""

from __future__ import annotations

import contextlib
import os
import ssl
from enum import IntEnum

from ckptd.errors import InvalidRequestError


class Code(IntEnum):
    """What OpenSSL calls the faults that have a remedy of their own (``X509_V_ERR_…``)."""

    NOT_YET_VALID = 9
    EXPIRED = 10
    WRONG_PURPOSE = 26
    OTHER_HOST = 62
    OTHER_ADDRESS = 64


ANY_STRENGTH = "DEFAULT:@SECLEVEL=0"
"""For a context that only looks at certificates: how strong they must be is for the real handshake to say."""

_STEPS = 8  # more than any handshake takes


def load(context: ssl.SSLContext, certificate: bytes, key: bytes, what: str, options: str) -> None:
    """Have `context` show a certificate. Python's TLS reads files only; this one is memory of ours, and has no name.

    Raises:
        InvalidRequestError: they are no certificate and key, of `what`, that belong together; they came by `options`.
    """

    def no_password() -> str:
        raise InvalidRequestError(f"the private key of {what} ({options}) is encrypted: pass it decrypted")

    descriptor = os.memfd_create("ckptd-certificate", os.MFD_CLOEXEC)
    with os.fdopen(descriptor, "wb") as file:
        file.write(certificate + b"\n" + key)
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{descriptor}", password=no_password)
        except ssl.SSLError as error:
            why = f"they are no PEM certificate and key ({error.reason or error})"
            if error.reason == "KEY_VALUES_MISMATCH":
                why = "the key is of another certificate"
            raise InvalidRequestError(f"{what}'s certificate and key ({options}) cannot be used: {why}") from error


def trust(context: ssl.SSLContext, authority: bytes, options: str) -> None:
    """Have `context` trust an authority; `InvalidRequestError` if it is none."""
    try:
        context.load_verify_locations(cadata=_text(authority))
    except (ssl.SSLError, ValueError) as error:
        raise InvalidRequestError(f"the certificate authority ({options}) is not a PEM certificate") from error


def _text(pem: bytes) -> str:
    """Return what Python takes; between certificates there may be comments in any language."""
    return pem.decode("ascii", "ignore")


def fault_of(certificate: bytes, key: bytes, *, is_server_s: bool) -> str:
    """Return why no other end takes a certificate, whichever authority that trusts; "" if one may.

    Both are what `load` takes.
    """
    client, server = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for context in (client, server):
        context.set_ciphers(ANY_STRENGTH)
        load(context, certificate, key, "it", "it")
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    judge = client if is_server_s else server
    judge.verify_mode = ssl.CERT_REQUIRED
    judge.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    trust(judge, certificate, "it")
    ours, theirs = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = client.wrap_bio(ours, theirs), server.wrap_bio(theirs, ours, server_side=True)
    try:
        for _ in range(_STEPS):
            for end in ends:
                with contextlib.suppress(ssl.SSLWantReadError):
                    end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        purpose = "it is not for servers" if is_server_s else "it is not for clients"
        known = {Code.EXPIRED: "it has expired", Code.NOT_YET_VALID: "it is not valid yet", Code.WRONG_PURPOSE: purpose}
        return next((why for code, why in known.items() if code == error.verify_code), "")
    except ssl.SSLError:
        return ""  # it is for the real handshake to say
    return ""


def why_not_trusted(error: ssl.SSLCertVerificationError, host: str, names: list[str]) -> str:
    """Return why a daemon's certificate does not count, and what to do; `names`: those that it is for."""
    match error.verify_code:
        case Code.EXPIRED:
            return "it has expired: the daemon's operator makes another (`ckptd certs`), which it reads by itself"
        case Code.NOT_YET_VALID:
            return "it is not valid yet: a clock is wrong, this host's or that of the host where it was made"
        case Code.OTHER_HOST | Code.OTHER_ADDRESS:
            known, by = (
                (f"it is for {', '.join(names)} and ", "connect by one of these, or ") if names else ("it is ", "")
            )
            return f"{known}not valid for {host!r}: {by}have one made for {host} (`ckptd certs`)"
        case Code.WRONG_PURPOSE:
            return "it is not for servers: the daemon was started with a client's (--tls-cert)"
        case _:
            return (
                f"no authority known here signed it ({error.verify_message.rstrip('.')}): pass the one that did, the "
                "ca.crt of `ckptd certs` (ca=, --ca or CKPTD_CA)"
            )
