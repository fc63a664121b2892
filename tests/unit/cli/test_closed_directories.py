"""A directory that another user keeps closed: the commands say so, and none calls it a bug."""

from __future__ import annotations

import os

import pytest

from ckptd.cli import main


@pytest.mark.parametrize("command", ["ls", "latest", "verify", "repair", "cat", "rm"])
def test_it_is_told_with_the_exit_code_for_it(command, tmp_path, capfd):
    closed = tmp_path / "closed"
    (closed / "run").mkdir(parents=True)
    main.run([command, str(tmp_path / "absent")])  # all that it imports is there before the user changes
    closed.chmod(0)
    capfd.readouterr()
    child = os.fork()
    if not child:
        if os.getuid() == 0:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
        os._exit(main.run([command, str(closed / "run")]))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    said = capfd.readouterr().err
    assert "bug" not in said
    closed.chmod(0o700)
