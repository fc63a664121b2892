from __future__ import annotations

import io
import json
import logging
import os
import tempfile
from pathlib import Path

import pytest

from ckptd.daemon import config, logs
from ckptd.daemon.setting import checked
from ckptd.errors import InvalidRequestError, NotFoundError, NotPermittedError, StorageFullError
from ckptd.wire import places


def test_flags_win_over_the_environment_that_over_the_file_that_over_defaults(tmp_path):
    file = tmp_path / "ckptd.toml"
    file.write_text('root = "/file"\ngrace_s = 1\nlease_s = 2\nlisten = ["a:1", "b:2"]\n')
    environ = {"CKPTD_GRACE_S": "3", "CKPTD_LEASE_S": "4", "CKPTD_SHARDS": "5"}
    loaded = config.load({"lease_s": 6.0, "shards": None, "listen": ()}, environ, config_file=str(file))
    assert loaded.config == config.Config(root="/file", grace_s=3.0, lease_s=6.0, shards=5, listen=("a:1", "b:2"))
    assert loaded.sources["lease_s"] == "--lease-s"
    assert loaded.sources["grace_s"] == "CKPTD_GRACE_S"
    assert loaded.sources["root"] == str(file)
    assert loaded.sources["log_format"] == "default"


def test_the_environment_names_the_file_and_lists_addresses(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text('log_format = "json"')
    environ = {"CKPTD_CONFIG": str(file), "CKPTD_LISTEN": "a:1, unix:///x"}
    loaded = config.load({}, environ).config
    assert (loaded.log_format, loaded.listen) == ("json", ("a:1", "unix:///x"))


@pytest.mark.parametrize(
    "flags", [{}, {"root": 'a "quoted" dir', "listen": ("x:1",), "grace_s": 0.25, "shards": 3, "tls_cert": "ü.pem"}]
)
def test_what_is_printed_is_a_file_that_reads_back_the_same(tmp_path, flags):
    loaded = config.load(flags, {})
    file = tmp_path / "printed.toml"
    file.write_text(config.to_toml(loaded), encoding="utf-8")
    assert config.load({}, {}, config_file=str(file)).config == loaded.config


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('tokn_file = "x"', "did you mean 'token_file'?"),
        ("zzz = 1", "there are: root"),
        ("grace_s = true", "grace_s in .* is no number"),
        ("grace_s = -1", "out of range"),
        ("grace_s = nan", "out of range"),
        ("shards = 0", "out of range"),
        ("write_bytes_per_s = 10", "out of range"),
        ("writer_nice = 20", "out of range.*0 to 19"),
        ('writer_io_class = "realtime"', "none of best-effort, idle"),
        ("shards = 1.5", "whole number"),
        ('listen = "a:1"', "list of texts"),
        ("root = 5", "no text"),
        ('log_format = "xml"', "none of human, json"),
        ("root =", "is not TOML"),
        ("[root]\nx = 1", "no text"),
    ],
)
def test_a_file_with_a_mistake_is_refused_by_name(tmp_path, text, says):
    file = tmp_path / "c.toml"
    file.write_text(text)
    with pytest.raises(InvalidRequestError, match=says):
        config.load({}, {}, config_file=str(file))


def test_a_mistake_in_the_environment_is_named():
    with pytest.raises(InvalidRequestError, match="CKPTD_SHARDS is no number"):
        config.load({}, {"CKPTD_SHARDS": "many"})


def test_a_missing_file_is_not_found(tmp_path):
    with pytest.raises(NotFoundError):
        config.load({}, {}, config_file=str(tmp_path / "none.toml"))


def test_every_default_passes_its_own_check():
    for name, setting, default in config.settings():
        assert setting.optional if default is None else checked(setting, default, name) == default


def test_print_config_says_where_every_value_comes_from(tmp_path):
    from click.testing import CliRunner

    from ckptd.cli.serve import command

    result = CliRunner().invoke(
        command, ["--root", "/r", "--print-config"], env={"CKPTD_GRACE_S": "7"}, standalone_mode=False
    )
    assert result.return_value == 0
    assert 'root = "/r"' in result.stdout
    assert "(CKPTD_GRACE_S)\ngrace_s = 7.0" in result.stdout


@pytest.mark.parametrize("log_format", logs.FORMATS)
def test_a_log_line_has_the_words_and_for_machines_the_fields(log_format):
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("ckptd")
    before = root.handlers[:], root.level, ours.level
    try:
        logs.configure(log_format, "info", stream)
        logger = logging.getLogger("ckptd.engine")
        logger.info("saved %s", "a-1", extra={"ckptd": {"event": "saved", "bytes": 5, "path": Path("/x")}})
        logger.debug("not told")
        logging.getLogger("other").info("not told")
        try:
            raise StorageFullError("no room")
        except StorageFullError:
            logger.exception("failed")
    finally:
        root.handlers[:], _, _ = before
        root.setLevel(before[1])
        ours.setLevel(before[2])
    text = stream.getvalue()
    assert "not told" not in text
    if log_format == "human":
        first, second, *_ = text.splitlines()
        assert first.endswith(" saved a-1")
        assert second.endswith(" error: failed")
        assert "StorageFullError: no room" in text
    else:
        first, second = map(json.loads, text.splitlines())
        assert (first["message"], first["event"], first["bytes"], first["level"]) == ("saved a-1", "saved", 5, "info")
        assert "no room" in second["traceback"]


def test_the_socket_lies_in_the_user_s_runtime_directory(tmp_path):
    assert places.runtime_socket({"XDG_RUNTIME_DIR": str(tmp_path)}).path == str(tmp_path / "ckptd.sock")


def test_a_daemon_listens_at_the_socket_of_its_user_alone(tmp_path):
    environ = {"XDG_RUNTIME_DIR": str(tmp_path)}
    assert [str(address) for address in places.default_addresses(environ)] == [f"unix://{tmp_path}/ckptd.sock"]


def test_a_runtime_directory_too_deep_for_a_socket_is_passed_over(tmp_path):
    deep = tmp_path / ("d" * 100)
    deep.mkdir()
    assert not places.runtime_socket({"XDG_RUNTIME_DIR": str(deep)}).path.startswith(str(deep))


def test_without_one_it_lies_in_a_directory_of_the_user_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(os, "access", lambda *_: False)
    directory = tmp_path / f"ckptd-{os.getuid()}"
    assert places.runtime_socket({}, create=True).path == str(directory / "ckptd.sock")
    assert directory.stat().st_mode & 0o777 == 0o700
    directory.chmod(0o755)
    with pytest.raises(NotPermittedError, match="must belong to its user alone"):
        places.runtime_socket({})


@pytest.fixture
def human_log():
    """A stream that takes the log, as people get it."""
    stream = io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("ckptd")
    before = root.handlers[:], root.level, ours.level
    logs.configure("human", "info", stream)
    yield stream
    root.handlers[:] = before[0]
    root.setLevel(before[1])
    ours.setLevel(before[2])


def test_a_record_is_one_line_and_its_traceback_is_indented(human_log):
    forged = "\n2026-01-01 00:00:00 saved model.ckpt-9\x1b[2J\u202e"
    logging.getLogger("ckptd.engine").info("run %s", forged)
    try:
        raise ValueError(forged)
    except ValueError:
        logging.getLogger("ckptd.engine").exception("failed")
    said = human_log.getvalue()
    assert said.replace("\n", "").isprintable()
    assert not [line for line in said.splitlines() if line.startswith("2026-01-01")]


def test_what_a_library_logs_is_bounded_and_counted(human_log):
    for number in range(1000):
        logging.getLogger("grpc._cython").error("Invalid encoding on %d", number)
        logging.getLogger("ckptd.engine").info("ours")
    lines = human_log.getvalue().splitlines()
    assert sum(line.endswith("ours") for line in lines) == 1000
    assert 20 <= len(lines) - 1000 < 40  # on a slow machine some seconds have passed
