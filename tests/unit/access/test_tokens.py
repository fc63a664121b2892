from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import pytest

from ckptd.access import token_file, tokens
from ckptd.cli import main
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError, NotPermittedError
from tests.fakes import schemas


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "tokens.json")


def test_a_token_is_found_by_what_was_shown_once_and_the_file_does_not_hold_it(path):
    shown = tokens.create(path, "vision")
    assert tokens.read(path).find(shown).name == "vision"
    assert tokens.read(path).find(shown[:-1]) is None
    with open(path) as file:
        assert shown.removeprefix(tokens.PREFIX) not in file.read()


def test_the_file_is_its_users_alone(path):
    tokens.create(path, "vision")
    assert not tokens.readable_by_others(path)


@pytest.mark.parametrize(
    ("mode", "ours", "another_s"),
    [(0o600, False, False), (0o440, True, False), (0o640, True, False), (0o604, True, True), (0o644, True, True)],
)
def test_a_file_that_another_user_owns_is_read_through_its_group(path, mode, ours, another_s):
    tokens.create(path, "vision")
    Path(path).chmod(mode)
    owner = Path(path).stat().st_uid
    assert tokens.readable_by_others(path, user=owner) is ours
    assert tokens.readable_by_others(path, user=owner + 1) is another_s


def test_no_two_tokens_are_alike_and_no_two_have_a_name(path):
    assert tokens.create(path, "a") != tokens.create(path, "b")
    with pytest.raises(ConflictError, match="revoke it first"):
        tokens.create(path, "a")
    assert [token.name for token in tokens.read(path)] == ["a", "b"]


def test_a_revoked_token_is_known_no_more_and_its_name_is_free(path):
    shown = tokens.create(path, "vision")
    tokens.revoke(path, "vision")
    assert tokens.read(path).find(shown) is None
    with pytest.raises(NotFoundError, match="no token 'vision'"):
        tokens.revoke(path, "vision")
    tokens.create(path, "vision")


def test_a_token_ends_when_it_was_told_to(path):
    token = tokens.read(path).find(shown) if (shown := tokens.create(path, "a", expires_s=60.0)) else None
    assert not token.is_expired(token.created_at + 59.0)
    assert token.is_expired(token.created_at + 60.0)


def test_tokens_made_at_once_are_all_kept(path):
    makers = [threading.Thread(target=tokens.create, args=(path, f"t{number}")) for number in range(20)]
    for maker in makers:
        maker.start()
    for maker in makers:
        maker.join()
    assert len(list(tokens.read(path))) == 20


@pytest.mark.parametrize("name", ["", "a/b", "-a", "a" * 65, "é", "a\n", "a b"])
def test_a_name_that_a_policy_could_not_name_is_refused(path, name):
    with pytest.raises(InvalidRequestError, match="a token's name"):
        tokens.create(path, name)


def test_the_name_of_the_one_token_of_token_file_is_taken(path):
    with pytest.raises(InvalidRequestError, match="--token-file is called so"):
        tokens.create(path, "token-file")


@pytest.mark.parametrize("expires_s", [0.0, -1.0, 1e11, float("inf"), float("nan")])
def test_a_time_that_no_calendar_has_is_refused(path, expires_s):
    with pytest.raises(InvalidRequestError, match="positive time"):
        tokens.create(path, "a", expires_s=expires_s)


def test_a_link_stays_one_and_the_file_behind_it_changes(tmp_path):
    (tmp_path / "etc").mkdir()
    path, link = tmp_path / "etc" / "tokens.json", tmp_path / "tokens.json"
    tokens.create(str(path), "vision")
    link.symlink_to(path)
    tokens.create(str(link), "audio")
    tokens.revoke(str(link), "vision")
    assert link.is_symlink()
    assert [token.name for token in tokens.read(str(path))] == ["audio"]


def test_a_changed_file_keeps_its_mode_and_its_owner(path):
    tokens.create(path, "vision")
    os.chmod(path, 0o640)
    owner = (65534, 65534) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(path, *owner)  # of the daemon's user, as root leaves it
    tokens.revoke(path, "vision")
    status = os.stat(path)
    assert (status.st_mode & 0o777, status.st_uid, status.st_gid) == (0o640, *owner)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "secret",
        "[]",
        "{}",
        '{"version": 1}',
        '{"version": 2, "tokens": []}',
        "[" * 100_000,
        '{"version": 1, "tokens": [{"name": "a"}]}',
        '{"version": 1, "tokens": [{"name": "a", "sha256": "0", "created_at": 0}]}',
        f'{{"version": 1, "tokens": [{{"name": "a", "sha256": "{0:064d}", "created_at": NaN}}]}}',
        f'{{"version": 1, "tokens": [{{"name": "a", "sha256": "{0:064d}", "created_at": 0, "expires_at": 1e99}}]}}',
    ],
)
def test_what_is_no_token_file_is_refused_and_left_alone(path, content):
    with open(path, "w") as file:
        file.write(content)
    for attempt in (lambda: tokens.read(path), lambda: tokens.create(path, "a"), lambda: tokens.revoke(path, "a")):
        with pytest.raises(InvalidRequestError, match="tokens.json"):
            attempt()
    with open(path) as file:
        assert file.read() == content


def test_a_missing_directory_is_named(tmp_path):
    with pytest.raises(NotPermittedError, match="absent"):
        tokens.create(str(tmp_path / "absent" / "tokens.json"), "a")


def test_the_commands_make_list_and_revoke(path, capsys):
    assert main.run(["token", "new", "vision", "--tokens", path, "--expires", "90d"]) == 0
    shown = capsys.readouterr().out.strip()
    assert tokens.read(path).find(shown).name == "vision"
    assert main.run(["token", "list", "--tokens", path, "--json"]) == 0
    (listed,) = schemas.check("token", json.loads(capsys.readouterr().out))["tokens"]
    assert (listed["name"], listed["expired"]) == ("vision", False)
    assert listed["expires_at"] - listed["created_at"] == 90 * 86400
    assert main.run(["token", "list", "--tokens", path]) == 0
    assert "vision" in capsys.readouterr().out
    assert main.run(["token", "revoke", "vision", "--tokens", path]) == 0
    assert not list(tokens.read(path))


def test_a_token_goes_to_a_file_of_its_own_that_is_replaced_only_on_request(path, tmp_path, capsys):
    out = tmp_path / "vision.token"
    make = ["token", "new", "vision", "--tokens", path, "--out", str(out)]
    assert main.run(make) == 0
    first = out.read_text()
    assert first.strip() not in capsys.readouterr().out
    assert tokens.read(path).find(token_file.read(str(out))).name == "vision"
    assert out.stat().st_mode & 0o777 == 0o600
    assert main.run(make) == ConflictError.exit_code
    assert "--force" in capsys.readouterr().err
    assert main.run([*make, "--force"]) == ConflictError.exit_code  # the name is taken: revoke it first
    assert (out.read_text(), len(list(tmp_path.iterdir()))) == (first, 2)
    tokens.revoke(path, "vision")
    assert main.run([*make, "--force"]) == 0
    assert tokens.read(path).find(token_file.read(str(out))).name == "vision"
    assert main.run(["token", "new", "b", "--tokens", path, "--out", str(tmp_path / "no" / "b")]) == 9
    assert main.run(["token", "new", "b", "--tokens", path, "--force"]) == 2
    assert [token.name for token in tokens.read(path)] == ["vision"]


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (b"", "it is empty"),
        (b" \n", "it is empty"),
        (b"a\nb\n", "a line end"),
        (b"\xff", "not printable ASCII"),
        (b"t\xc3\xb6ken", "not printable ASCII"),
        (b'{"version": 1, "tokens": []}', "--tokens of `ckptd serve`"),
        (b"a" * 100_000, "too large"),
    ],
)
def test_a_file_without_a_token_is_named_with_what_is_wrong(tmp_path, held, said, capsys):
    file = tmp_path / "x.token"
    file.write_bytes(held)
    with pytest.raises(InvalidRequestError, match=said) as refused:
        token_file.read(str(file))
    assert refused.value.key == str(file)
    assert main.run(["status", "127.0.0.1:1", "--token-file", str(file)]) == 2
    assert f"{file}: " in capsys.readouterr().err


def test_a_client_s_token_file_that_others_may_read_draws_a_warning(tmp_path, capsys):
    file = tmp_path / "x.token"
    file.write_text("s3same\n")
    file.chmod(0o644)
    assert main.run(["status", "127.0.0.1:1", "--token-file", str(file)]) == 6
    assert f"chmod 600 {file}" in capsys.readouterr().err


def test_out_replaces_neither_the_file_of_hashes_nor_what_is_no_file(path, tmp_path, capsys, monkeypatch):
    tokens.create(path, "vision")
    monkeypatch.chdir(tmp_path)
    pipe = tmp_path / "pipe"  # as /dev/stdout may be, or a device
    os.mkfifo(pipe)
    make = ["token", "new", "speech", "--force", "--tokens", path, "--out"]
    assert main.run([*make, "tokens.json"]) == InvalidRequestError.exit_code
    assert "holds the hashes of all" in capsys.readouterr().err
    assert main.run([*make, str(pipe)]) == InvalidRequestError.exit_code
    assert pipe.is_fifo()
    assert [token.name for token in tokens.read(path)] == ["vision"]


def test_a_pipe_without_a_writer_keeps_nobody_waiting(tmp_path):
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    for read in (tokens.read, token_file.read):
        with pytest.raises(InvalidRequestError):
            read(pipe)
