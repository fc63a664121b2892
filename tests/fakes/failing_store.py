"""A store around a store that fails one call: the n-th that changes anything."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from ckptd.errors import CkptdError


class FailingStore:
    """Passes everything on, but raises `error` instead of the call number `fails_at` (from 0; None: never)."""

    def __init__(self, inner: Any, error: CkptdError, fails_at: int | None = None) -> None:
        self._inner = inner
        self._error = error
        self._lock = threading.Lock()
        self.fails_at = fails_at
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def count(self, what: str) -> None:
        with self._lock:
            self.calls.append(what)
            if len(self.calls) - 1 == self.fails_at:
                raise self._error

    def create(self, key: str, size_bytes: int) -> FailingWriter:
        self.count("create")
        return FailingWriter(self, self._inner.create(key, size_bytes))

    def put(self, key: str, data: bytes) -> Any:
        self.count("put")
        return self._inner.put(key, data)

    def replace(self, key: str, data: bytes, *, if_version: str | None = None) -> Any:
        self.count("replace")
        return self._inner.replace(key, data, if_version=if_version)

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        self.count("delete")
        self._inner.delete(keys, if_version=if_version)


class FailingWriter:
    """The writer of such a store."""

    def __init__(self, store: FailingStore, inner: Any) -> None:
        self._store = store
        self._inner = inner
        self.key = inner.key
        self.size_bytes = inner.size_bytes

    def write(self, offset: int, data: bytes) -> None:
        self._store.count("write")
        self._inner.write(offset, data)

    def finish(self) -> Any:
        self._store.count("finish")
        return self._inner.finish()

    def abort(self) -> None:
        self._inner.abort()
