"""How the suite is divided among processes (pytest-xdist): by files, except that one process has each S3 server.

Plain `pytest` does so by itself. With paths, `-k`, `-m`, `-s` or `--pdb` it runs in one process, unless `-n` is given.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.services.s3 import SERVERS
from tests.starts import prepared

MOST_PROCESSES = 5
"""Each takes a gigabyte of memory."""

_IMPORTED_ONCE = (
    *dict.fromkeys((*prepared.TORCH, *prepared.LIGHTNING, *prepared.JAX, *prepared.TENSORFLOW)),
    "orbax.checkpoint",
    "peft",
    "transformers",
)
"""By the process that those of the tests are forked from."""

_FRAMEWORKS = (
    "flax",
    "jax",
    "keras",
    "lightning",
    "optax",
    "orbax",
    "peft",
    "sklearn",
    "tensorflow",
    "torch",
    "transformers",
)
"""Where one is missing, the core alone is tested, and each process imports what it needs."""

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")

_GROUPS = "groups.json"
_DIRECTORY = pytest.StashKey[Path]()

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
        option.numprocesses = min(len(os.sched_getaffinity(0)) + 2, MOST_PROCESSES)  # they often wait
    if option.numprocesses and option.dist == "no":
        option.dist = "loadgroup"


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config) -> None:
    """Fork the processes from one that has imported the frameworks: each would take a dozen seconds for it."""
    if config.option.numprocesses > 1 and all(map(find_spec, _FRAMEWORKS)):
        prepared.let_children_fork(_IMPORTED_ONCE)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process where it writes which tests belong together: the names that it sends have no room for it."""
    node.workerinput[_GROUPS] = str(_directory_of(node.config) / _GROUPS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return what gives a process its next tests: those of a group, or else of a file."""
    if config.option.dist != "loadgroup":
        return None
    from xdist.scheduler import LoadScopeScheduling

    written = _directory_of(config) / _GROUPS

    class ByGroup(LoadScopeScheduling):
        @cached_property
        def _group_by_test(self) -> dict[str, str]:
            return dict(json.loads(written.read_text()))

        def _split_scope(self, nodeid: str) -> str:
            return self._group_by_test[nodeid]

    config.option.loadscopereorder = False
    return ByGroup(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let one process have each S3 server, and one all programs of frameworks; what takes longest begins first."""
    if unstable := [item.nodeid for item in items if _ADDRESS.search(item.nodeid)]:
        raise pytest.UsageError(f"each process must give a test the same name; give these `ids`: {unstable}")
    workerinput = getattr(config, "workerinput", None)
    if workerinput is None:
        return
    order = {name: number for number, name in enumerate((*SERVERS, *_LONG_FIRST))}
    items.sort(key=lambda item: order.get(_group_of(item), len(order)))
    if workerinput["workerid"] == "gw0":
        Path(workerinput[_GROUPS]).write_text(json.dumps({item.nodeid: _group_of(item) for item in items}))


def _directory_of(config: pytest.Config) -> Path:
    """Return a directory that lives until the tests end."""
    if _DIRECTORY not in config.stash:
        config.stash[_DIRECTORY] = Path(tempfile.mkdtemp(prefix="ckptd-groups-"))
        config.add_cleanup(lambda: shutil.rmtree(config.stash[_DIRECTORY]))
    return config.stash[_DIRECTORY]


def _group_of(item: pytest.Item) -> str:
    """Return what a test belongs to: an S3 server, the programs of frameworks, or its file."""
    file = item.nodeid.partition("::")[0]
    return server_of(item) or (_TOGETHER if file in _PROGRAMS_OF_FRAMEWORKS else file)


def server_of(item: pytest.Item) -> str | None:
    """Return the name of the S3 server that a test uses, if it does."""
    if "s3_services" not in getattr(item, "fixturenames", ()):
        return None
    callspec = getattr(item, "callspec", None)
    return str(callspec.params.get("s3_service", SERVERS[0])) if callspec else SERVERS[0]
