"""A coordinator with agents, or the agent of a host, as a process. Not in the command line yet: see docs/many-hosts.md.

    python -m ckptd.daemon.roles coordinator ROOT LISTEN LEASE_S
    python -m ckptd.daemon.roles agent ROOT LISTEN LEASE_S NAME COORDINATOR

It prints ``ready`` once it listens, and ends at SIGTERM.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path

from ckptd.agent.agent import Agent
from ckptd.engine.catalog.root import read_or_make_id
from ckptd.engine.catalog.term import Term
from ckptd.engine.saves.attended import AttendedHosts
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.settings import Settings
from ckptd.errors import ConflictError
from ckptd.service.server import ArenaOptions, Server, ServerOptions
from ckptd.storage.locations import open_store
from ckptd.storage.lock_holder import LockHolder
from ckptd.wire import addresses

_TICK_S = 0.1
_LOOK_S = 0.5  # whether another coordinator has taken the root
_ARENA_BYTES = 4 << 30
_log = logging.getLogger("ckptd.daemon")


def coordinate(root: str, listen: str, lease_s: float) -> int:
    """Run a coordinator that takes agents, until SIGTERM."""
    holder = LockHolder.here("ckptd coordinator", listen).line
    coordinator = Coordinator(
        open_store(root), settings=Settings(lease_s=lease_s, declare_timeout_s=5 * lease_s), holder=holder
    )
    coordinator.open()
    term = Term(coordinator.store, coordinator.clock, holder=holder, addresses=[listen])
    term.take()
    hosts = AttendedHosts(coordinator, term=term, lease_s=lease_s)
    server_options = ServerOptions(listen=(addresses.parse(listen),))
    asyncio.run(_serve(coordinator, server_options, hosts))
    finished = coordinator.close(0.0 if hosts.is_fenced else lease_s)
    hosts.close()
    if hosts.is_fenced:
        return ConflictError.exit_code
    return 0 if finished else 5


def attend(root: str, listen: str, lease_s: float, name: str, coordinator: str) -> int:
    """Run the agent of a host, until SIGTERM."""
    store = open_store(root)
    agent = Agent(
        store,
        host=name,
        root_id=read_or_make_id(store),
        coordinator=coordinator,
        addresses=[listen],
        settings=Settings(lease_s=lease_s, declare_timeout_s=5 * lease_s),
    )
    agent.open()
    arenas = ArenaOptions(_ARENA_BYTES, Path(addresses.parse(listen).path).parent)
    asyncio.run(_serve(agent, ServerOptions(listen=(addresses.parse(listen),), arena=arenas), None))
    return 0 if agent.close(lease_s) else 5


async def _serve(engine: Coordinator | Agent, options: ServerOptions, hosts: AttendedHosts | None) -> None:
    over = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
    server = Server(engine, options, hosts=hosts)
    await server.start()
    ended = threading.Event()
    ticker = threading.Thread(target=_tick, args=(engine, ended), daemon=True)
    ticker.start()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    while not over.is_set() and not (hosts is not None and hosts.is_fenced):
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(over.wait(), _LOOK_S)
    await server.drain()
    await server.stop()
    ended.set()
    ticker.join()


def _tick(engine: Coordinator | Agent, ended: threading.Event) -> None:
    while not ended.wait(_TICK_S):
        try:
            engine.tick()
        except Exception:
            _log.exception("internal error in the clock")


def main(role: str, *arguments: str) -> int:
    """Run a role; return the exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    root, listen, lease_s, *more = arguments
    if role == "coordinator":
        return coordinate(root, listen, float(lease_s))
    return attend(root, listen, float(lease_s), *more)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
