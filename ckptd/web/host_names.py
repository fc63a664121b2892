"""The `Host` of a request, against DNS rebinding.

A page of a stranger may have its own name lead to an address of this host. Its visitor's browser then calls us, and
shows us that name. What is an address, or a name of ours, no stranger can have.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable


class HostNames:
    """The names by which we are called."""

    def __init__(self, names: Iterable[str]) -> None:
        """Know these, and the names of the loopback interface."""
        self._names = {_plain(name) for name in (*names, "localhost") if name}

    def knows(self, host: str) -> bool:
        """Say whether the value of a `Host` header is an address or one of our names, whatever its port."""
        name = host.strip()
        if name.startswith("["):
            name = name[1:].partition("]")[0]
        elif name.count(":") == 1:
            name = name.partition(":")[0]
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return _plain(name) in self._names
        return True


def _plain(name: str) -> str:
    return name.lower().rstrip(".")
