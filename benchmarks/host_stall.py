"""How long training stands still for a save: beside a daemon as on one host, and beside the agent of a host."""

from __future__ import annotations

import contextlib
import statistics
from pathlib import Path
from typing import Any

from hosts_together import Place, ranks_of

DAEMON, AGENT = "daemon", "agent"


def measure(place: Path, args: Any) -> dict[str, Any]:
    """Let two jobs save the same in turns. The first save of each is a warm-up."""
    served = Place(str(place), place)
    taken: dict[str, list[dict[str, float]]] = {DAEMON: [], AGENT: []}
    with contextlib.ExitStack() as stack:
        addresses = {name: f"unix://{place}/{name}.sock" for name in (DAEMON, AGENT, "coordinator")}
        listen = {name: ("--listen", address) for name, address in addresses.items()}
        stack.enter_context(served.serve("", "alone", *listen[DAEMON]))
        stack.enter_context(served.serve("", "many", "--role", "coordinator", *listen["coordinator"]))
        agent = ("--role", "agent", "--name", "host-0", "--coordinator", addresses["coordinator"])
        stack.enter_context(served.serve("", "many", *agent, *listen[AGENT]))
        size = args.size_bytes // args.ranks
        jobs = {
            name: stack.enter_context(
                ranks_of([""] * args.ranks, [addresses[name]] * args.ranks, size, args.tensors, place / f"{name}.log")
            )
            for name in taken
        }
        for step in range(1, args.saves + 2):
            for name in sorted(taken, reverse=step % 2 == 0):
                answers = jobs[name].told("save", step)
                began = min(each[0] for each in answers)
                stall_s = max(each[2] for each in answers)
                taken[name].append({"stall_s": stall_s, "durable_s": max(each[1] for each in answers) - began})
    medians = {
        name: {measure: statistics.median(each[measure] for each in values[1:]) for measure in values[0]}
        for name, values in taken.items()
    }
    return {
        "size_bytes": args.size_bytes,
        "saves": {name: values[1:] for name, values in taken.items()},
        "medians": medians,
        "stall_of_daemon": medians[AGENT]["stall_s"] / medians[DAEMON]["stall_s"],
        "durable_of_daemon": medians[AGENT]["durable_s"] / medians[DAEMON]["durable_s"],
    }
