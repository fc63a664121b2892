from __future__ import annotations

import compileall
import gc
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports PyTorch or numpy, here or in a process that a test starts: the arrays of tests are small, and
# threads of OpenMP that wait for each other on busy cores take four times the processor time.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import ckptd
from ckptd.client.saving import end_of_process
from tests import places
from tests.processes import (
    pytest_cmdline_main,
    pytest_collection_modifyitems,
    pytest_configure_node,
    pytest_xdist_make_scheduler,
    pytest_xdist_setupnodes,
)
from tests.services.fixtures import ask_every_server as pytest_generate_tests
from tests.services.fixtures import s3_front, s3_root, s3_service, s3_services

__all__ = [
    "pytest_cmdline_main",
    "pytest_collection_modifyitems",
    "pytest_configure_node",
    "pytest_generate_tests",
    "pytest_xdist_make_scheduler",
    "pytest_xdist_setupnodes",
    "s3_front",
    "s3_root",
    "s3_service",
    "s3_services",
]


_MOST_OBJECTS = 50_000


def pytest_configure(config: pytest.Config) -> None:
    """Compile ckptd once where Python may not keep what it compiles: hundreds of processes would each do it again."""
    places.use_memory(config)
    if sys.dont_write_bytecode and not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(ckptd.__file__).parent, quiet=2)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Leave what was imported to itself: a collection would look each time at 700,000 objects that stay anyway."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Leave what a file's tests imported to itself as well: frameworks collect at each step of a training."""
    yield
    is_last = nextitem is None or nextitem.path != item.path
    if is_last and len(gc.get_objects()) > _MOST_OBJECTS:
        gc.collect()
        gc.freeze()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let this process owe nothing: what failed in a test, unseen, was meant to, and must not set the exit code."""
    end_of_process.forget()
