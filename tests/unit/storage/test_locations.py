from __future__ import annotations

from pathlib import Path

import pytest

from ckptd.errors import InvalidRequestError
from ckptd.storage.local.local_store import LocalStore
from ckptd.storage.locations import open_store, split_prefix


@pytest.mark.parametrize(
    ("url", "root"),
    [
        ("/d/run", "/d/run"),
        ("/d/run/", "/d/run"),
        ("/d/../e", "/e"),
        ("file:///d/run", "/d/run"),
        ("file://localhost/d", "/d"),
        ("FILE:///d", "/d"),
        ("file:///a%20b", "/a b"),
        ("/a%20b", "/a%20b"),
    ],
)
def test_a_path_and_a_file_url_are_local_stores(url: str, root: str) -> None:
    store = open_store(url)
    assert isinstance(store, LocalStore)
    assert store.url == root


def test_a_relative_path_counts_from_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("runs").url == str(tmp_path / "runs")
    store, key = split_prefix("model.ckpt-5")
    assert (store.url, key) == (str(tmp_path), "model.ckpt-5")
    store, key = split_prefix("runs/model.ckpt-5")
    assert (store.url, key) == (str(tmp_path / "runs"), "model.ckpt-5")


def test_a_memory_store_is_one_per_name() -> None:
    open_store("memory://one-per-name").put("k", b"here")
    assert open_store("memory://one-per-name/").get("k") == b"here"
    assert list(open_store("memory://another-name").list("")) == []
    store, key = split_prefix("memory://one-per-name/k")
    assert (store.get(key), store.url) == (b"here", "memory://one-per-name")


@pytest.mark.parametrize(
    ("prefix", "root", "key"),
    [
        ("/d/run/model.ckpt-5", "/d/run", "model.ckpt-5"),
        ("file:///d/run/model.ckpt-5", "/d/run", "model.ckpt-5"),
        ("/model.ckpt-5", "/", "model.ckpt-5"),
    ],
)
def test_a_prefix_is_a_store_and_a_key(prefix: str, root: str, key: str) -> None:
    store, found = split_prefix(prefix)
    assert (store.url, found) == (root, key)


@pytest.mark.parametrize("prefix", ["/d/", "memory://name", "memory://name/", "..", "/d/.."])
def test_a_prefix_that_names_no_object_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidRequestError):
        split_prefix(prefix)


@pytest.mark.parametrize("url", ["nothing://b", "dropbox://b/x"])
def test_a_scheme_without_a_package_says_what_is_missing_and_what_works(url: str) -> None:
    with pytest.raises(InvalidRequestError, match=r"there is no store for .*s3://BUCKET/PATH"):
        open_store(url)


def test_a_slash_too_few_is_told() -> None:
    with pytest.raises(InvalidRequestError, match="did you mean s3://typo/x"):
        open_store("s3:/typo/x")


@pytest.mark.parametrize("url", ["s3://", "s3:///x", "s3://bucket/a/../b"])
def test_a_url_of_no_bucket_or_no_plain_path_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError):
        open_store(url)


def test_a_bucket_is_named_as_it_was_written() -> None:
    store, key = split_prefix("s3://bucket/runs//a/model.ckpt-5")
    assert (store.url, key) == ("s3://bucket/runs/a", "model.ckpt-5")
    assert open_store("s3://bucket/").url == "s3://bucket"


@pytest.mark.parametrize("url", ["", "a\0b", "file://elsewhere/d", "file:///d?x=1"])
def test_a_url_that_means_nothing_here_is_refused(url: str) -> None:
    with pytest.raises(InvalidRequestError):
        open_store(url)
