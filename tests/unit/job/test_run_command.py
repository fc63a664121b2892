"""Wrong command lines of `ckptd run` are answered before anything is started."""

from __future__ import annotations

import pytest

from ckptd.cli import main
from ckptd.job.nodes import COUNT_VARIABLES, NUMBER_VARIABLES


@pytest.fixture(autouse=True)
def _no_job(monkeypatch):
    for name in (*NUMBER_VARIABLES, *COUNT_VARIABLES, "SLURM_LOCALID", "CKPTD_ROOT"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--", "true"], "missing option '--root'"),
        (["--root", "/c"], "missing argument"),
        (["--root", "/c", "--first", "--", "true"], "there are several nodes (--first): pass --job-dir"),
        (["--root", "/c", "--coordinator", "a:1", "--first", "--", "true"], "--coordinator names one that runs"),
        (["--root", "/c", "--coordinator", "a:1", "--job-dir", "d", "--", "true"], "--coordinator names one that runs"),
        (["--root", "/c", "--coordinator", "a:1", "--port", "7", "--", "true"], "--advertise and --port are of nodes"),
        (["--root", "/c", "--coordinator", "a:1", "--shared-directory", "--", "true"], "pass --job-dir on all nodes"),
        (["--root", "/c", "--shared-directory", "--", "true"], "--shared-directory is for several nodes"),
        (["--root", "s3://b/c", "--shared-directory", "--job-dir", "d", "--", "true"], "'s3://b/c' is no directory"),
        (["--root", "/c", "--ca", "f", "--", "true"], "--ca and --token-file belong to --coordinator"),
        (["--root", "/c", "--no-such", "--", "true"], "there is no option '--no-such'"),
    ],
)
def test_a_wrong_command_line_is_answered(arguments, said, capsys):
    assert main.run(["run", *arguments]) == 2
    assert said in capsys.readouterr().err
