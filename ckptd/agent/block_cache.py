"""Blocks of objects in memory, at most so many bytes of them: each is loaded once, however many threads want it."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sized
from concurrent.futures import Future
from typing import Generic, TypeVar

LIMIT_BYTES = 1 << 30


Block = TypeVar("Block", bound=Sized)


class BlockCache(Generic[Block]):
    """See the module. Any thread may use it. What was not wanted for longest goes first."""

    def __init__(self, limit_bytes: int = LIMIT_BYTES) -> None:
        """Begin empty."""
        self.limit_bytes = limit_bytes
        self.size_bytes = 0
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Hashable, Block] = OrderedDict()
        self._loading: dict[Hashable, Future[Block]] = {}

    def get(self, block: Hashable, load: Callable[[], Block]) -> Block:
        """Return a block; `load` reads it, unless it is here or another thread is reading it. Raises what that raises.

        A block that could not be read is not remembered: who waited for it meets the same error.
        """
        with self._lock:
            data = self._blocks.get(block)
            if data is not None:
                self._blocks.move_to_end(block)
                return data
            loading = self._loading.get(block)
            is_ours = loading is None
            if loading is None:
                loading = self._loading[block] = Future()
        if not is_ours:
            return loading.result()
        try:
            data = load()
        except BaseException as error:
            with self._lock:
                del self._loading[block]
            loading.set_exception(error)
            raise
        with self._lock:
            del self._loading[block]
            self._keep(block, data)
        loading.set_result(data)
        return data

    def _keep(self, block: Hashable, data: Block) -> None:
        if len(data) > self.limit_bytes:
            return
        self._blocks[block] = data
        self.size_bytes += len(data)
        while self.size_bytes > self.limit_bytes:
            _, gone = self._blocks.popitem(last=False)
            self.size_bytes -= len(gone)

    def has(self, block: Hashable) -> bool:
        """Whether a block is here, or on its way."""
        with self._lock:
            return block in self._blocks or block in self._loading

    def forget(self, is_meant: Callable[[Hashable], bool]) -> int:
        """Drop blocks; return how many."""
        with self._lock:
            meant = [block for block in self._blocks if is_meant(block)]
            for block in meant:
                self.size_bytes -= len(self._blocks.pop(block))
            return len(meant)
