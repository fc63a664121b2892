"""A store around a store that lets a test step in before and after every operation that changes anything."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Hook = Callable[[int, str], None]


def _nothing(number: int, what: str) -> None:
    """Let the operation be."""


class HookedStore:
    """Passes everything on. `before` and `after` get the operation's number, from 1 on, and what it is: "put KEY"."""

    def __init__(self, inner: Any, *, before: Hook = _nothing, after: Hook = _nothing) -> None:
        self._inner = inner
        self._before = before
        self._after = after
        self.operations: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def operate(self, what: str, act: Callable[[], Any]) -> Any:
        self.operations.append(what)
        number = len(self.operations)
        self._before(number, what)
        result = act()
        self._after(number, what)
        return result

    def create(self, key: str, size_bytes: int) -> HookedWriter:
        return HookedWriter(self, self._inner.create(key, size_bytes))

    def put(self, key: str, data: bytes) -> Any:
        return self.operate(f"put {key}", lambda: self._inner.put(key, data))

    def replace(self, key: str, data: bytes, *, if_version: str | None = None) -> Any:
        return self.operate(f"replace {key}", lambda: self._inner.replace(key, data, if_version=if_version))

    def delete(self, keys: Sequence[str], *, if_version: str | None = None) -> None:
        for number, key in enumerate(keys):  # a bucket deletes them one by one, so it may stop between any two
            version = None if number else if_version
            self.operate(
                f"delete {key}", lambda key=key, version=version: self._inner.delete([key], if_version=version)
            )


class HookedWriter:
    """The writer of such a store: only its end changes anything."""

    def __init__(self, store: HookedStore, inner: Any) -> None:
        self._store = store
        self._inner = inner
        self.key = inner.key
        self.size_bytes = inner.size_bytes

    def write(self, offset: int, data: bytes) -> None:
        self._inner.write(offset, data)

    def finish(self) -> Any:
        return self._store.operate(f"finish {self.key}", self._inner.finish)

    def abort(self) -> None:
        self._inner.abort()
