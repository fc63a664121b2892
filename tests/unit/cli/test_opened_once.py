"""A path argument of a command is opened once, and whether it is a directory is looked up once: requests cost money.

The bucket is fsspec's memory file system, which counts how often it is opened and what it lists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from ckptd.cli import main
from ckptd.client.paths.state_functions import update_checkpoint_state
from ckptd.client.paths.writing import save_checkpoint

BUCKET = "counted://bucket"
RUN = f"{BUCKET}/runs"


class Counted(MemoryFileSystem):
    """Files in memory, and what was requested of them."""

    protocol = "counted"
    store: dict[str, Any] = {}  # noqa: RUF012 (as in the class that it extends)
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    opened = 0
    found: list[str] = []  # noqa: RUF012

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        type(self).opened += 1

    def find(self, path: str, **options: Any) -> Any:
        """List all that lies below a directory; only the look whether there is one does that."""
        self.found.append(path)
        return super().find(path, **options)

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return MemoryFileSystem._strip_protocol(path.removeprefix("counted://"))


@pytest.fixture(scope="module")
def filled() -> Iterator[None]:
    """Two checkpoints in a bucket, the later one published, and a file beside them."""
    fsspec.register_implementation("counted", Counted, clobber=True)
    for step in (1, 2):
        save_checkpoint(f"{BUCKET}/runs/m-{step}", {"w": np.arange(4.0) + step})
    update_checkpoint_state(f"{BUCKET}/runs", f"{BUCKET}/runs/m-2")
    assert main.run(["export", f"{RUN}/m-1", f"{RUN}/w.npz"]) == 0
    yield
    Counted.store.clear()


@pytest.fixture
def counted(filled: None) -> type[Counted]:
    Counted.opened, Counted.found = 0, []
    return Counted


COMMANDS = [  # the command, how many paths it has, and of how many it must find out whether they are directories
    (["ls", RUN], 1, 1),
    (["latest", RUN], 1, 1),
    (["verify", RUN], 1, 1),
    (["verify", f"{RUN}/m-1"], 1, 1),
    (["show", RUN], 1, 1),
    (["show", f"{RUN}/m-1.index"], 1, 1),
    (["show", f"{RUN}/w.npz"], 1, 1),
    (["cat", f"{RUN}/m-1", "w"], 1, 1),
    (["cat", f"{RUN}/w.npz", "w"], 1, 1),
    (["diff", f"{RUN}/m-2", f"{RUN}/w.npz"], 2, 2),
    (["cp", f"{RUN}/m-1", f"{BUCKET}/copies/one"], 2, 2),
    (["cp", RUN, f"{BUCKET}/copies/"], 2, 2),
    (["inspect", "--file_name", f"{RUN}/m-1"], 1, 0),
    (["export", f"{RUN}/m-1", f"{BUCKET}/files/w.npz"], 2, 1),
    (["watch", RUN, "--once"], 1, 0),
    (["import", f"{RUN}/w.npz", f"{BUCKET}/imported/m-0"], 2, 1),
]


@pytest.mark.parametrize(("arguments", "paths", "looks"), COMMANDS, ids=[" ".join(each) for each, _, _ in COMMANDS])
def test_a_path_is_opened_once_and_looked_at_once(
    counted: type[Counted], arguments: list[str], paths: int, looks: int, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main.run(arguments) in (0, 1), capfd.readouterr().err  # 1: `diff` has found a difference
    assert (counted.opened, len(counted.found)) == (paths, looks), counted.found
