"""How the suite is divided among processes (pytest-xdist): by files, except that one process has each S3 server.

Plain `pytest` does so by itself. With paths, `-k`, `-m`, `-s` or `--pdb` it runs in one process, unless `-n` is given.
"""

from __future__ import annotations

import os
import re
from typing import Any

import pytest

from tests.services.s3 import SERVERS

MOST_PROCESSES = 4
"""Each imports TensorFlow, PyTorch and JAX: 2 GB of memory and a quarter of a minute."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

_TOGETHER = "frameworks"
_PROGRAMS_OF_FRAMEWORKS = (
    "tests/e2e/test_end_of_adapters.py",
    "tests/e2e/test_example_tensorflow.py",
    "tests/e2e/test_jax.py",
    "tests/e2e/test_lightning_processes.py",
    "tests/e2e/test_torch_example.py",
    "tests/unit/torch/test_differing.py",
    "tests/unit/torch/test_handing_out.py",
    "tests/unit/torch/test_lightning_paths.py",
    "tests/unit/torch/test_own_keys.py",
    "tests/unit/torch/test_sharded.py",
    "tests/unit/torch/test_trainer_ranks.py",
)
"""They stay in one process, so that each framework is imported once for the programs that they start."""

# What takes longest begins first, so that no process is left alone with it at the end.
_LONG_FIRST = (
    _TOGETHER,
    "tests/e2e/test_benchmarks.py",
    "tests/e2e/test_end_of_program.py",
    "tests/e2e/test_docs_blocks.py",
    "tests/faults/test_failing_disk.py",
    "tests/unit/torch/test_lightning_as_stock.py",
    "tests/unit/torch/test_transformers_as_stock.py",
    "tests/faults/test_crash_sweep.py",
    "tests/e2e/test_demo.py",
    "tests/e2e/test_full_disk.py",
)


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Use every core for the whole suite, where nothing on the command line speaks against it."""
    option = config.option
    if not config.pluginmanager.hasplugin("xdist") or hasattr(config, "workerinput"):
        return
    is_whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and option.markexpr == "not campaign"
    is_plain = not (option.keyword or option.usepdb or option.collectonly or option.capture == "no")
    if option.numprocesses is None and is_whole and is_plain:
        option.numprocesses = min(len(os.sched_getaffinity(0)) + 1, MOST_PROCESSES)  # they often wait
    if option.numprocesses and option.dist == "no":
        option.dist = "loadgroup"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return what gives a process its next tests: those of a group, or else of a file."""
    if config.option.dist != "loadgroup":
        return None
    from xdist.scheduler import LoadGroupScheduling

    class ByFile(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return nodeid.partition("::")[0] if scope == nodeid else scope

    config.option.loadscopereorder = False
    return ByFile(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let one process have each S3 server, and one all programs of frameworks; what takes longest begins first."""
    if unstable := [item.nodeid for item in items if _ADDRESS.search(item.nodeid)]:
        raise pytest.UsageError(f"each process must give a test the same name; give these `ids`: {unstable}")
    if not hasattr(config, "workerinput"):
        return
    order = {name: number for number, name in enumerate((*SERVERS, *_LONG_FIRST))}

    def rank(item: pytest.Item) -> int:
        return order.get(_group_of(item) or item.nodeid.partition("::")[0], len(order))

    items.sort(key=rank)
    for item in items:
        if group := _group_of(item):
            item.add_marker(pytest.mark.xdist_group(group))


def _group_of(item: pytest.Item) -> str | None:
    is_program = item.nodeid.partition("::")[0] in _PROGRAMS_OF_FRAMEWORKS
    return server_of(item) or (_TOGETHER if is_program else None)


def server_of(item: pytest.Item) -> str | None:
    """Return the name of the S3 server that a test uses, if it does."""
    if "s3_services" not in getattr(item, "fixturenames", ()):
        return None
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("s3_service", SERVERS[0])) if callspec else SERVERS[0]
