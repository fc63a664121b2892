"""What tests of TensorFlow share: no address from the environment, a daemon, and a session with one variable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import tensorflow as tf

from tests.unit.client.served import Daemon

v1 = tf.compat.v1


@pytest.fixture(autouse=True)
def no_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CKPTD_ADDRESS", raising=False)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    running = Daemon(tmp_path / "root")
    yield running
    running.stop()


@pytest.fixture
def session() -> Iterator[Any]:
    with tf.Graph().as_default(), v1.Session() as running:
        v1.get_variable("w", initializer=1.0)
        running.run(v1.global_variables_initializer())
        yield running
