"""A store that refuses what one host writes: each rank hears which kind of refusal it was, and from which host."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import ckptd
from ckptd.errors import NotPermittedError, SessionAbortedError, StorageFullError, UnavailableError
from tests.fakes.served_hosts import WAIT_S, served_hosts

W = np.arange(1000.0)


class Refusing:
    """A store in which nothing can be created while it has an error for that."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, key: str, size_bytes: int) -> Any:
        if self.error is not None:
            raise self.error
        return self._inner.create(key, size_bytes)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (StorageFullError("the disk is full", key="r/m-1"), StorageFullError),
        (NotPermittedError("the store refuses", key="r/m-1"), NotPermittedError),
        (UnavailableError("the store does not answer"), SessionAbortedError),  # another attempt may succeed
    ],
)
def test_all_ranks_hear_how_the_store_refused_one_host_and_the_next_save_is_made(error, kind):
    with tempfile.TemporaryDirectory(prefix="ckptd-") as base, served_hosts(Path(base), "a") as hosts:
        hosts.root = store = Refusing(hosts.root)
        hosts.start("b")
        ranks = [
            ckptd.Checkpointer(hosts.agents["ab"[rank]].address, "r", rank=rank, world_size=2, timeout_s=WAIT_S)
            for rank in range(2)
        ]
        store.error = error
        for pending in [each.save(1, {f"w{rank}": W}) for rank, each in enumerate(ranks)]:
            with pytest.raises(kind, match=str(error)) as refused:
                pending.result(WAIT_S)
            assert type(refused.value) is kind
            told = [str(refused.value), *getattr(refused.value, "__notes__", ())]
            assert any("the agent on b" in each for each in told), told
        store.error = None
        for pending in [each.save(2, {f"w{rank}": W}) for rank, each in enumerate(ranks)]:
            pending.result(WAIT_S)
        for each in ranks:
            each.close()
