"""The lines of a page that load a tensor do load it, in every framework, whatever the name."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest

import ckptd
from ckptd.engine.reading.bundle import Bundle
from ckptd.format import dtypes
from ckptd.format.slices import Box
from ckptd.storage.locations import open_store
from ckptd.web.loading_code import loading_code, shell_word
from tests.conformance.bundle_files import BundleWriter

NAMES = ("layer/1/kernel", "a 'quoted' \"name\"", "line\nbreak", "$HOME; `id` #", "\u202e", "zażółć", "-w")


def lines(directory: Any, prefix: str, name: str) -> dict[str, str]:
    bundle = Bundle.open(open_store(str(directory)), prefix)
    return {each.key: each.text for each in loading_code(bundle.location, bundle.index.tensor(name))}


def run(text: str) -> dict[str, Any]:
    values: dict[str, Any] = {}
    exec(compile(text, "lines of the page", "exec"), values)  # they are what is tested
    return values


@pytest.mark.parametrize("name", NAMES)
def test_the_lines_of_every_framework_load_it(name, tmp_path):
    w = np.arange(12, dtype=np.float32).reshape(6, 2)
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {name: w})
    code = lines(tmp_path, "m-1", name)
    assert sorted(code) == ["jax", "numpy", "shell", "tensorflow", "torch"]
    for key in ("numpy", "jax", "torch", "tensorflow"):
        np.testing.assert_array_equal(np.asarray(run(code[key])["w"]), w)
    np.testing.assert_array_equal(run(code["numpy"])["part"], w[:3])


@pytest.mark.parametrize("name", ["it's\n$HOME `id` \\ \u202e", "--json"])
def test_the_line_of_the_shell_prints_it(name, tmp_path):
    ckptd.save_checkpoint(f"{tmp_path}/m-1", {name: np.array([41.5, 1])})
    script = f"ckptd() {{ '{sys.executable}' -m ckptd.cli.main \"$@\"; }}\n{lines(tmp_path, 'm-1', name)['shell']}"
    script = script.replace("-m ckptd.cli.main", "-c 'from ckptd.cli.main import main; main()'")
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "41.5" in done.stdout


@pytest.mark.parametrize("text", [*NAMES, "", "a\x07b", "tab\there", "\udc80raw", "back\\slash'"])
def test_a_word_of_the_shell_means_the_text(text):
    done = subprocess.run(
        ["bash", "-c", f"printf %s {shell_word(text)}"], capture_output=True, timeout=60, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode("utf-8", "surrogateescape") == text
    assert shell_word(text).isprintable()


def test_what_a_framework_has_no_dtype_for_has_no_lines_there(tmp_path):
    arrays = {each.name: np.ones(2, each.array) for each in dtypes.ALL if each.width and "q" not in each.name}
    arrays["words"] = np.array([b"a"], object)
    ckptd.save_checkpoint(f"{tmp_path}/m-1", arrays)
    for name in arrays:
        code = lines(tmp_path, "m-1", name)
        for key in {"numpy", "jax", "torch"} & set(code):
            run(code[key])
    assert "torch" not in lines(tmp_path, "m-1", "words")
    assert "torch" not in lines(tmp_path, "m-1", "int4")
    writer = BundleWriter(tmp_path / "m-2")
    half = np.ones((4, 2), ml_dtypes.float8_e5m2)
    writer.add_boxes("w", half, [Box((0, 0), (2, 2)), Box((2, 0), (2, 2))])
    writer.finish()
    assert "tensorflow" not in lines(tmp_path, "m-2", "w")  # it cannot join these
