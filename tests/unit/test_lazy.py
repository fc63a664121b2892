"""Names of a package are loaded when they are first used, and an unknown one is an `AttributeError` that names both."""

import subprocess
import sys

import pytest

import ckptd


def test_importing_ckptd_loads_neither_numpy_nor_grpc():
    program = "import sys, ckptd; print(sorted({'numpy', 'grpc', 'ckptd.client'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout == "[]\n"


def test_every_public_name_is_found_and_listed():
    assert set(ckptd.__all__) <= set(dir(ckptd))
    for name in ckptd.__all__:
        value = getattr(ckptd, name)
        assert vars(ckptd)[name] is value, "the next use of the name needs no call"


def test_an_unknown_name_says_of_which_package():
    with pytest.raises(AttributeError, match="module 'ckptd' has no attribute 'Chekpointer'"):
        _ = ckptd.Chekpointer
