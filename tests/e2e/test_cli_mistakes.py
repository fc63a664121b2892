"""Every command, typed wrong in several ways: one helpful line on stderr, the right exit code, and no traceback."""

from __future__ import annotations

import numpy as np
import pytest

import ckptd
from ckptd.cli import main

WRONG = [
    # command line, exit code, what the line says
    ("serv", 2, "did you mean 'serve'"),
    ("sho x", 2, "did you mean 'show'"),
    ("--versoin", 2, "did you mean '--version'"),
    ("xyzzy", 2, "there are: demo"),
    ("serve", 2, "--root"),
    ("serve --rot /x", 2, "did you mean '--root'"),
    ("serve --root {dir} --listen nonsense:port:9", 2, "not an address"),
    ("serve --root {dir} --lease-s soon", 2, "'soon' is not a valid float"),
    ("serve --root {dir} --config {dir}/absent.toml", 3, "absent.toml"),
    ("serve extra", 2, "unexpected extra argument (extra)"),
    ("run --root {dir}", 2, "missing argument '-- COMMAND"),
    ("run --root {dir} --first -- true", 2, "pass --job-dir"),
    ("run --rot {dir} -- true", 2, "did you mean '--root'"),
    ("demo --workers 1", 2, "1 is not in the range"),
    ("demo --dir {dir}", 4, "new or empty"),
    ("ls", 2, "missing argument 'DIR'"),
    ("ls {dir}/absent", 3, "there is no directory"),
    ("ls {dir} --jsno", 2, "did you mean '--json'"),
    ("ls {dir} {dir}", 2, "unexpected extra argument"),
    ("ls nothing://bucket/run", 2, "there is no store for nothing://"),
    ("ls {dir}/notes.txt", 2, "this is a file"),
    ("show", 2, "missing argument 'PREFIX'"),
    ("show {dir}/model-9", 3, "there is no checkpoint 'model-9'"),
    ("show {dir}/modle-1", 3, "did you mean 'model-1'"),
    ("show {dir}/model-1 dense/kernl", 3, "did you mean 'dense/kernel'"),
    ("show {dir}/model-1 --stat", 2, "did you mean '--stats'"),
    ("show {dir}/rubbish-5", 8, "rubbish-5.index"),
    ("ui {dir}/absent", 3, "there is no checkpoint"),
    ("ui {dir}/notes.txt", 3, "there is no checkpoint"),
    ("ui {dir} --http 0.0.0.0:7080", 2, "ssh -L"),
    ("ui {dir} --no-brower", 2, "did you mean '--no-browser'"),
    ("cat {dir}/model-1 dense", 3, "there is no tensor 'dense'"),
    ("cat {dir}/model-1 dense/kernel --slice 9,1", 2, ""),
    ("cat {dir}/model-1 --slice -", 2, "exactly one NAME"),
    ("cat {dir}/model-1 --ful", 2, "did you mean '--full'"),
    ("cat {dir}/arrays.npz absent", 3, "there is no tensor 'absent'"),
    ("cat {dir}/arrays.npz dens", 3, "did you mean 'dense'"),
    ("show {dir}/arrays.npz --layout", 2, "this is a file"),
    ("show {dir}/arays.npz", 3, "did you mean 'arrays.npz'"),
    ("inspect {dir}/absent-1 --json", 3, "absent-1"),
    ("inspect {dir}/model-1 --tensor_name dense/kernl --json", 3, "did you mean 'dense/kernel'"),
    ("inspect {dir}/model-1 --all_tensor", 2, "--all_tensors"),
    ("inspect {dir}/model-1 extra", 2, "unexpected extra argument"),
    ("inspect", 2, "inspect needs a PREFIX"),
    ("verify", 2, "missing argument 'PREFIX|DIR'"),
    ("verify {dir}/absent-1", 3, "there is no checkpoint"),
    ("verify {dir} --progress xml", 2, "'xml' is not one of"),
    ("verify {dir}/empty", 3, "there is no checkpoint in"),
    ("latest {dir}", 3, "no checkpoint has been published"),
    ("latest {dir} --latest-file x", 2, "--latest-filename"),
    ("status nonsense:port:9", 2, "not an address"),
    ("status 127.0.0.1:1 --timeout-s 0.2", 6, "127.0.0.1:1"),
    ("status --token-file {dir}/absent", 2, "does not exist"),
    ("status --timeout-s -1", 2, "not in the range"),
    ("token new", 2, "missing argument 'NAME'"),
    ("token new vision", 2, "missing option '--tokens'"),
    ("token new not/a/name --tokens {dir}/tokens.json", 2, "a token's name"),
    ("token new vision --tokens {dir}/tokens.json --expires soon", 2, "90d"),
    ("token list --tokens {dir}/absent.json", 3, "absent.json"),
    ("token revoke vision --tokens {dir}/notes.txt", 2, "notes.txt"),
    ("token nwe vision", 2, "new"),
    ("policy check {dir}/absent.toml", 3, "absent.toml"),
    ("policy check {dir}/notes.txt", 2, "notes.txt"),
    ("prune {dir}", 2, "missing option '--keep'"),
    ("prune {dir} --keep 0", 2, "0 is not in the range"),
    ("prune {dir} --keep two", 2, "'two' is not a valid integer"),
    ("prune {dir} --keep 1 --keep-every-hours 0", 2, "not in the range"),
    ("prune {dir} --keep 1 --dryrun", 2, "did you mean '--dry-run'"),
    ("prune {dir}/absent --keep 1", 3, "there is no directory"),
    ("prune {dir} --keep 1 --address nonsense:port:9", 2, "not an address"),
    ("pin", 2, "missing argument 'PREFIX'"),
    ("pin {dir}/absent-1", 3, "there is no checkpoint"),
    ("pin {dir}/model-1", 4, "ckptd did not write this checkpoint"),
    ("pin {dir}/model-1 --address 127.0.0.1:1 --timeout-s 0.2", 6, "127.0.0.1:1"),
    ("unpin {dir}/absent-1", 3, "there is no checkpoint"),
    ("unpin {dir}/model-1 --tokenfile x", 2, "did you mean '--token-file'"),
    ("rm {dir}", 2, "`ckptd prune`"),
    ("rm {dir}/absent-1", 3, "there is no checkpoint"),
    ("rm {dir}/model-1", 4, "ckptd did not write this checkpoint"),
    ("rm {dir}/rubbish-5 --foreign", 8, "rubbish-5.index"),
    ("rm {dir}/model-1 --force", 2, "'--foreign'"),
    ("undelete", 2, "missing argument 'PREFIX'"),
    ("undelete {dir}/model-1", 3, "was not deleted lately"),
    ("undelete {dir}/absent/model-1", 3, "there is no directory"),
    ("undelete {dir}/", 2, "names a directory"),
    ("repair", 2, "missing argument 'DIR'"),
    ("repair {dir}/empty", 3, "there is no complete checkpoint"),
    ("repair {dir} --latest-filenam x", 2, "did you mean '--latest-filename'"),
    ("watch", 2, "say what to watch"),
    ("watch {dir} --once --timeout 0.1 --exce true", 2, "did you mean '--exec'"),
    ("watch {dir}/empty --timeout soon", 2, "'soon' is not a valid float"),
    ("cp {dir}/model-1", 2, "missing argument 'DEST'"),
    ("cp {dir}/absent-1 {dir}/copy-1", 3, "there is no checkpoint"),
    ("cp {dir}/model-1 {dir}/copy-1 --num-shard 0", 2, "did you mean '--num-shards'"),
    ("freeze {dir}/model-1 {dir}/out.pb", 2, "missing option '--outputs'"),
    ("freeze {dir}/absent-1 {dir}/out.pb --outputs add", 3, "there is no checkpoint"),
    ("freeze {dir}/model-1 {dir}/notes.txt --outputs add", 4, "--force replaces it"),
    ("export {dir}/absent-1 {dir}/out.npz", 3, "there is no checkpoint"),
    ("export {dir}/model-1 {dir}/out.zip", 2, "out.zip"),
    ("import {dir}/absent.npz {dir}/new-1", 3, "absent.npz"),
    ("import {dir}/notes.txt {dir}/new-1", 2, "notes.txt"),
    ("diff {dir}/model-1", 2, "missing argument 'B'"),
    ("diff {dir}/model-1 {dir}/absent-1", 3, "there is no checkpoint"),
    ("doctor {dir}/absent/deeper", 3, "there is no directory"),
    ("doctor {dir}/notes.txt", 2, "this is a file"),
    ("doctor memory://x", 2, "nothing to examine"),
    ("health nonsense:port:9", 2, "not an address"),
    ("health --timeout soon", 2, "did you mean '--timeout-s'"),
    ("health 127.0.0.1:1 --timeout-s 0.2", 6, "127.0.0.1:1"),
    ("bench s3://bucket/run", 2, "this host's directories"),
    ("bench {dir}/absent", 3, "there is no directory"),
    ("bench {dir} --size-mb 0", 2, "0 is not in the range"),
    ("bench {dir} --size-mb lots", 2, "'lots' is not a valid integer"),
    ("completion", 2, "missing argument"),
    ("completion tcsh", 2, "'tcsh' is not one of 'bash', 'zsh', 'fish'"),
    ("evict", 2, "missing argument 'RUN'"),
    ("evict runs/a --address 127.0.0.1:1 --timeout-s 0.2", 6, "127.0.0.1:1"),
    ("open unix:///tmp/no/such.sock", 6, "there is no such socket"),
    ("open 127.0.0.1:1 --timeout-s 0.2", 6, "127.0.0.1:1"),
    ("history", 2, "missing argument 'RUN'"),
    ("history runs/a --address 127.0.0.1:1 --timeout-s 0.2", 6, "127.0.0.1:1"),
    ("history {dir}/absent", 3, "no directory"),
    ("certs", 2, "say what for"),
    ("certs trainer-0:7070 --dir {dir}/certs", 2, "without port"),
    ("schema lss", 3, "did you mean 'ls'"),
    ("schema xyzzy", 3, "there are: bench"),
]


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """Give a directory with a checkpoint that ckptd has no record of, a damaged one, and things that are none."""
    directory = tmp_path_factory.mktemp("mistakes")
    ckptd.save_checkpoint(str(directory / "model-1"), {"dense/kernel": np.zeros((3, 4)), "step": np.int64(1)})
    (directory / "rubbish-5.index").write_bytes(b"rubbish" * 20)
    (directory / "notes.txt").write_text("notes")
    np.savez(directory / "arrays.npz", dense=np.zeros(2))
    (directory / "empty").mkdir()
    return directory


@pytest.mark.parametrize(("line", "code", "said"), WRONG, ids=[line for line, _, _ in WRONG])
def test_a_mistake_gets_one_helpful_line_and_the_right_exit_code(line, code, said, directory, capsys):
    before = sorted(path for path in directory.rglob("*") if ".ckptd" not in path.parts)
    assert main.run(line.format(dir=directory).split()) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("ckptd")
    assert captured.err.count("\n") == 1
    assert said in captured.err
    assert "bug" not in captured.err
    assert "Traceback" not in captured.err
    assert sorted(path for path in directory.rglob("*") if ".ckptd" not in path.parts) == before


def test_every_command_is_typed_wrong_at_least_twice():
    counts = {name: sum(line.split()[0] == name for line, _, _ in WRONG) for name in main.COMMANDS}
    assert [name for name, count in counts.items() if count < 2] == []
