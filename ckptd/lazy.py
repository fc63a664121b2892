"""Packages whose names are loaded when they are first used."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from typing import Any


def names(package: str, homes: Mapping[str, str]) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return the `__getattr__` and the `__dir__` of a package.

    Args:
        package: its ``__name__``; it is being imported.
        homes: public name → the module that defines it, imported when the name is first used.
    """
    module = sys.modules[package]

    def load(name: str) -> Any:
        try:
            home = homes[name]
        except KeyError:
            raise AttributeError(f"module {package!r} has no attribute {name!r}") from None
        value = getattr(importlib.import_module(home), name)
        setattr(module, name, value)  # next time Python finds it without a call
        return value

    def listed() -> list[str]:
        return sorted({*vars(module), *homes})

    return load, listed
