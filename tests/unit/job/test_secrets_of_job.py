"""What the nodes of a job share: the first makes it, the others wait for it, and no other user may look."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from cryptography import x509

from ckptd.errors import ConflictError, InvalidRequestError, NotPermittedError, UnavailableError
from ckptd.job import secrets_of_job


def no_end():
    """Never ends the wait."""
    threading.Event().wait(0.01)


def host_of(certificate: str) -> list[str]:
    read = x509.load_pem_x509_certificate(Path(certificate).read_bytes())
    names = read.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [str(name.value) for name in names]


def test_the_first_node_makes_them_and_another_one_finds_them(tmp_path):
    job = tmp_path / "job"
    found = []

    def wait():
        found.append(secrets_of_job.wait_for(job, ("node-2",), tmp_path / "two", 60.0, no_end))

    other = threading.Thread(target=wait)
    other.start()
    first = secrets_of_job.make(job, ("10.0.0.1",), tmp_path / "one")
    other.join()
    second = found[0]
    assert (first.ca, first.token) == (second.ca, second.token)
    assert host_of(first.certificate) == ["10.0.0.1"]
    assert host_of(second.certificate) == ["node-2"]
    assert {path.name: path.stat().st_mode & 0o777 for path in job.iterdir()} == {
        "ca.crt": 0o644,
        "ca.key": 0o600,
        "token": 0o600,
    }
    assert job.stat().st_mode & 0o777 == 0o700


def test_a_job_that_is_started_again_goes_on_with_them(tmp_path):
    first = secrets_of_job.make(tmp_path / "job", ("a",), tmp_path / "one")
    token = Path(first.token).read_bytes()
    again = secrets_of_job.make(tmp_path / "job", ("b",), tmp_path / "two")
    assert Path(again.token).read_bytes() == token
    assert host_of(again.certificate) == ["b"]


def test_others_wait_no_longer_than_they_are_told(tmp_path):
    with pytest.raises(UnavailableError, match=r"the first node of the job has put no token here in 0.1 s"):
        secrets_of_job.wait_for(tmp_path / "job", ("a",), tmp_path / "one", 0.1, no_end)


def test_a_wait_ends_when_the_job_does(tmp_path):
    class EndedError(Exception):
        pass

    def end():
        raise EndedError

    with pytest.raises(EndedError):
        secrets_of_job.wait_for(tmp_path / "job", ("a",), tmp_path / "one", 60.0, end)


def test_a_directory_that_others_may_read_is_refused(tmp_path):
    job = tmp_path / "job"
    job.mkdir(mode=0o755)
    os.chmod(job, 0o755)
    with pytest.raises(NotPermittedError, match="must belong to its user alone"):
        secrets_of_job.make(job, ("a",), tmp_path / "one")
    (job / "token").write_text("planted")
    with pytest.raises(NotPermittedError, match="must belong to its user alone"):
        secrets_of_job.wait_for(job, ("a",), tmp_path / "one", 1.0, no_end)
    assert not (job / "ca.key").exists()


def test_what_is_no_directory_is_refused(tmp_path):
    (tmp_path / "job").write_text("mine")
    with pytest.raises(InvalidRequestError, match="--job-dir is no directory"):
        secrets_of_job.make(tmp_path / "job", ("a",), tmp_path / "one")
    assert (tmp_path / "job").read_text() == "mine"


def test_two_nodes_that_both_make_them_are_told_that_one_is_enough(tmp_path):
    job = tmp_path / "job"
    job.mkdir(mode=0o700)
    (job / "ca.key").write_text("of the other, which has not written the certificate yet")
    with pytest.raises(ConflictError, match="pass --first on one only"):
        secrets_of_job.make(job, ("a",), tmp_path / "one")
