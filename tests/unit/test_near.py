from __future__ import annotations

import time

from ckptd.near import nearest


def test_the_likest_come_first():
    assert nearest("dense/kernl", ["bias", "dense/kernel", "dense/kernels"], most=2) == [
        "dense/kernel",
        "dense/kernels",
    ]
    assert nearest("nothing", ["xyz"]) == []


def test_many_names_and_long_ones_end_soon():
    began = time.thread_time()
    nearest("layer_00000x/kernel", (f"layer_{n:06}/kernel" for n in range(10_000_000)))
    assert nearest("k" * 10_000, ["k" * 9_999]) == []
    assert nearest("k" * 100, ["k" * 1_000_000, "k" * 99]) == ["k" * 99]
    assert time.thread_time() - began < 5
