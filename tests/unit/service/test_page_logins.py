"""Logins to pages: a link is good once, a cookie until its caller is no longer known, and neither can be made up."""

from __future__ import annotations

import base64
import json
import os

import pytest

from ckptd.access import callers
from ckptd.access.callers import Caller, UnauthenticatedError
from ckptd.access.tokens import hash_of
from ckptd.service.gate import Access, Gate
from ckptd.service.page_logins import COOKIE_S, PageLogins

USER = callers.of_user(1000)


def logins_of(tmp_path, *, access=None, audience="/root", now=lambda: 1e9):
    made = PageLogins(Gate(Access(socket_owner=1000) if access is None else access), audience, now)
    made.key_file = tmp_path / "s.pages"
    return made


def test_a_link_is_good_once_and_its_cookie_over_a_restart(tmp_path):
    logins = logins_of(tmp_path)
    code = logins.code(USER)
    cookie = logins.redeem(code)
    assert logins.redeem(code) is None
    assert logins.caller_of(cookie) == USER
    assert logins_of(tmp_path).caller_of(cookie) == USER
    assert os.stat(tmp_path / "s.pages").st_mode & 0o777 == 0o600


def test_a_cookie_ends_with_its_time_its_token_and_what_let_its_caller_in(tmp_path):
    cookie = _cookie(logins_of(tmp_path), USER)
    with pytest.raises(UnauthenticatedError):
        logins_of(tmp_path, now=lambda: 1e9 + COOKIE_S + 1).caller_of(cookie)
    with pytest.raises(UnauthenticatedError):
        logins_of(tmp_path, access=Access(shared_token="t")).caller_of(cookie)
    with pytest.raises(UnauthenticatedError):
        logins_of(tmp_path, audience="/other").caller_of(cookie)
    known, changed = Access(shared_token="secret"), Access(shared_token="new")
    of_token = _cookie(logins_of(tmp_path, access=known), callers.of_token("token-file", hash_of("secret")))
    assert logins_of(tmp_path, access=known).caller_of(of_token).name == "token-file"
    with pytest.raises(UnauthenticatedError):
        logins_of(tmp_path, access=changed).caller_of(of_token)
    with pytest.raises(UnauthenticatedError):
        logins_of(tmp_path).caller_of(_cookie(logins_of(tmp_path), callers.OF_LOOPBACK))


def _cookie(logins, caller):
    return logins.redeem(logins.code(caller))


@pytest.mark.parametrize("change", ["", "a", "a.b", "é.é", ".", "x" * 5000, "...."])
def test_what_was_made_up_is_refused(tmp_path, change):
    with pytest.raises(UnauthenticatedError):
        logins_of(tmp_path).caller_of(change)


def test_a_changed_cookie_is_refused(tmp_path):
    logins = logins_of(tmp_path)
    content, _, mac = _cookie(logins, USER).partition(".")
    told = json.loads(base64.urlsafe_b64decode(content + "==="))
    told[1] = "0"
    changed = base64.urlsafe_b64encode(json.dumps(told).encode()).decode().rstrip("=")
    with pytest.raises(UnauthenticatedError):
        logins.caller_of(f"{changed}.{mac}")


def test_a_key_that_others_may_have_read_or_put_there_is_not_used(tmp_path):
    (tmp_path / "s.pages").write_bytes(b"k" * 32)
    os.chmod(tmp_path / "s.pages", 0o644)
    cookie = _cookie(logins_of(tmp_path), USER)
    with pytest.raises(UnauthenticatedError):
        logins_of(tmp_path).caller_of(cookie)
    os.unlink(tmp_path / "s.pages")
    os.symlink(tmp_path / "elsewhere", tmp_path / "s.pages")
    logins = logins_of(tmp_path)
    assert logins.caller_of(_cookie(logins, Caller("uid", "1000"))) == USER
    assert not (tmp_path / "elsewhere").exists()
