"""A directory that another user keeps closed: the commands say so, and none calls it a bug."""

from __future__ import annotations

import json
import os
import socket

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


def test_what_only_another_user_may_use_has_one_exit_code(tmp_path, capfd):
    theirs = tmp_path / "d.sock"
    file = tmp_path / "file"
    file.write_text("x")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(theirs))
        listening.listen()
        lines = [
            f"status unix://{theirs}",
            f"health unix://{theirs}",
            f"evict r --address unix://{theirs}",
            f"pin r/model.ckpt-1 --address unix://{theirs}",
            f"watch unix://{theirs} --run r --once --timeout 1",
            f"status 127.0.0.1:1 --token-file {file}",
            f"status grpcs://127.0.0.1:1 --ca {file}",
            f"token list --tokens {file}",
            f"policy check {file}",
            f"certs --client a --dir {tmp_path}/certs",
            f"serve --root {tmp_path}/root --listen unix://{tmp_path}/new.sock",
        ]
        # Of what another user may not use nothing is missing: all is imported before the user changes.
        codes = {line: main.run([*line.split(), "--timeout-s=soon"]) for line in lines}
        assert set(codes.values()) == {2}
        main.run(["status", "127.0.0.1:1", "--timeout-s", "0.1"])
        main.run(["watch", "unix:///absent/a", "--run", "r", "--once", "--timeout", "0.1"])
        main.run(["token", "list", "--tokens", str(file)])
        main.run(["policy", "check", str(file)])
        capfd.readouterr()
        reading, writing = os.pipe()
        theirs.chmod(0)
        file.chmod(0)
        child = os.fork()
        if not child:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            os.write(writing, json.dumps({line: main.run(line.split()) for line in lines}).encode())
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        os.close(writing)
        with os.fdopen(reading) as told:
            assert json.load(told) == dict.fromkeys(lines, 9)
    said = capfd.readouterr().err
    assert "bug" not in said
    assert said.count(f"this user may not use the socket {theirs}") == 5
