"""What a rank costs the daemon's bookkeeping, from a thousand ranks to sixteen thousand: it should cost the same.

    python benchmarks/ranks.py
    python benchmarks/ranks.py --ranks 1000 16000 --rounds 3 --check

One process, no network; processor time, the median of the rounds:

- declared  the session is told that each rank has declared, and that each has sent what it owes to its shard
- joined    each rank takes its place among the members, loses its connection and comes back
- engine    each rank joins a run and declares a save, through the daemon's coordinator over a store in memory
"""

from __future__ import annotations

import argparse
import json
import logging
import statistics
import time

from measuring import markdown
from simulated_workers import manifest_of

from ckptd.engine.identity import Declaration, Member, RunOptions, SaveRef
from ckptd.engine.saves import session as machine
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.membership import Membership
from ckptd.engine.saves.session import Session, step
from ckptd.storage.memory import MemoryStore

FLAT = 2.0  # times what a rank costs among the fewest is the most that it may cost among the most
WHAT = ("declared", "joined", "engine")


def declared(num_ranks: int) -> float:
    began = time.process_time()
    session = Session(num_ranks)
    for rank in range(num_ranks):
        session, _ = step(session, machine.Declared(rank))
    session, _ = step(session, machine.Planned(num_ranks, frozenset((rank, rank) for rank in range(num_ranks))))
    for rank in range(num_ranks):
        session, _ = step(session, machine.LaneEnded(rank, rank))
        session, _ = step(session, machine.ShardSealed(rank))
    if session.phase is not machine.Phase.SEALED:
        raise SystemExit(f"the save is {session.phase}")
    return time.process_time() - began


def joined(num_ranks: int) -> float:
    members = [Member(rank, num_ranks, f"life-{rank}") for rank in range(num_ranks)]
    began = time.process_time()
    places = Membership(lease_s=10.0)
    for turn in range(2):
        for member in members:
            places.join(member, float(turn))
        for member in members:
            places.disconnect(member, 1, float(turn))
    if places.epoch != 1 or places.connected() or places.is_free(5.0):
        raise SystemExit(f"the members are in epoch {places.epoch}")
    return time.process_time() - began


def engine(num_ranks: int) -> float:
    coordinator = Coordinator(MemoryStore("ranks"))
    coordinator.open()
    try:
        manifest = manifest_of(0, 1, 1)  # the same on all ranks: what is measured is what each rank adds to that
        coordinator.manifests.add(manifest)
        began = time.process_time()
        answers = []
        members = [Member(rank, num_ranks, f"life-{rank}") for rank in range(num_ranks)]
        epochs = [coordinator.join("ranks", member, RunOptions()) for member in members]
        for member, epoch in zip(members, epochs, strict=True):
            declaration = Declaration(
                save=SaveRef("ranks", epoch, 1, rank=member.rank, incarnation=member.incarnation),
                request_id=f"request-{member.rank}",
                world_size=num_ranks,
                manifest_digest=manifest.digest,
            )
            answers.append(coordinator.declare(declaration))
        planned = [answer.result(600.0) for answer in answers]
        took_s = time.process_time() - began
        coordinator.abort(planned[0].save, "only its plan was wanted")
        coordinator.settle(600.0)
        return took_s
    finally:
        coordinator.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1_000, 4_000, 8_000, 16_000])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--check", action="store_true", help=f"exit code 1 if a rank costs {FLAT} times as much")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    logging.getLogger("ckptd").setLevel(logging.CRITICAL)  # the save that is planned is given up, and it says so
    counts = sorted(args.ranks)
    works = {"declared": declared, "joined": joined, "engine": engine}
    found = [
        {"ranks": count} | {what: statistics.median(works[what](count) for _ in range(args.rounds)) for what in WHAT}
        for count in counts
    ]
    growth = {
        what: (found[-1][what] / found[-1]["ranks"]) / (found[0][what] / found[0]["ranks"]) for what in WHAT
    }  # of a rank's cost
    if args.json:
        print(json.dumps({"sizes": found, "growth": growth}, indent=2))
    else:
        heads = ("ranks", *(f"{what} s" for what in WHAT), *(f"µs a rank: {what}" for what in WHAT))
        rows = [
            [
                f"{each['ranks']:,}",
                *(f"{each[what]:.3f}" for what in WHAT),
                *(f"{each[what] / each['ranks'] * 1e6:.1f}" for what in WHAT),
            ]
            for each in found
        ]
        print(markdown(heads, rows))
        print("\na rank among the most costs " + ", ".join(f"{what} {growth[what]:.2f}" for what in WHAT) + " times as")
        print("much as among the fewest")
    if args.check and max(growth.values()) > FLAT:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
