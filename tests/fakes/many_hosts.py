"""What hosts declare, in tests."""

from __future__ import annotations

from ckptd.engine.hosts.messages import HostDeclaration


def declaration(
    host: str, step: int, ranks: tuple[int, ...], world_size: int, *, call: int = 0, size_bytes: int = 16
) -> HostDeclaration:
    """Return what a host's ranks declare; `call` counts their calls of `save` for this step."""
    return HostDeclaration(f"{host}.{step}.{call}", "r", step, ranks, world_size, b"manifest", size_bytes, call)
