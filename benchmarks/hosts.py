"""Many hosts: what the coordinator needs for them, and what their agents spare it.

    python benchmarks/hosts.py coordinator                      # 10, 100 and 1,000 hosts of 8 ranks with 300 slices
    python benchmarks/hosts.py coordinator --hosts 1000 --check --plot hosts.svg
    python benchmarks/hosts.py network                          # as root: 4 hosts that save and restore over slow links
    python benchmarks/hosts.py stall                            # training beside a daemon and beside an agent
    python benchmarks/hosts.py replace --store ceph             # a host is killed whole, and replaced

- coordinator   one coordinator and agents that only speak, through the real protocol: see simulated_agents.py. They are
                in a few processes and share this host's cores with it, which agents on hosts of their own would not.
- network       hosts in network namespaces, over links of given rates to the coordinator and to a real S3 server: one
                host with B bytes, several with B each, and these through one daemon; then a restore of all on each, by
                agents that have it in memory and by new ones, beside a plain client that reads each byte once
- stall         how long training stands still for a save beside a daemon, and beside an agent, in turns
- replace       an agent and its ranks are killed at one moment, and new ones started: seconds from the kill until all
                new ranks have restored the newest step, and until all ranks have saved the first one together

Of the coordinator: `first` is a save whose layout is planned anew, `next` the median of the equal ones after it.

- CPU        of all of the coordinator's threads, from the first declaration to when all hosts have heard the end
- published  from the last receipt sent until the first host hears the end; it is published by then
- up, down   bytes of messages to the coordinator and from it
- memory     the most that was resident during the save

Beside it: what a bare gRPC server needs for the messages of a save, see bare_coordinator.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import bare_coordinator
import coordinator_alone
import host_network
import host_replaced
import host_stall
import hosts_together
from machine import describe, in_words
from measuring import markdown, parse_size

# What is aimed at with 1,000 hosts, and is to hold for fewer.
MOST_PUBLISHED_S, MOST_CPU_S, MOST_BYTES = 2.0, 1.5, 512 << 20
MOST_FIRST_BYTES = 1 << 30
MOST_A_SLICE, MOST_A_HOST = 5, 300
MOST_OF_ONE_HOST, MOST_OF_CHECKPOINT, LEAST_OF_STORE = 1.2, 1.1, 0.8
MOST_RESTORED_S = 30.0
MOST_STALL = 1.2  # of that beside a daemon, which varies as much by itself


def coordinator(args: argparse.Namespace) -> dict[str, Any]:
    with TemporaryDirectory(prefix="ckptd-hosts-", dir=args.dir) as temporary:
        found = [
            {
                **coordinator_alone.measure(
                    Path(temporary) / str(number), number, args.slices, args.processes, args.saves
                ),
                "bare_cpu_s": bare_coordinator.measure(number),
            }
            for number in args.hosts
        ]
        jobs = [summed_up(each) for each in found]
        if args.plot:
            plot(jobs, args.plot)
        return {"machine": describe(Path(temporary)), "jobs": jobs}


def summed_up(found: dict[str, Any]) -> dict[str, Any]:
    first, *later = found["saves"]
    measures = ("cpu_s", "up_bytes", "down_bytes", "peak_bytes", "published_s", "all_heard_s")
    found["first"] = {each: first[each] for each in measures}
    found["next"] = {each: statistics.median(save[each] for save in later) for each in measures}
    found["join_cpu_s"] = sum(each["cpu_s"] for each in found["joining"].values())
    return found


def broken(found: dict[str, Any]) -> list[str]:
    """Return what was aimed at and is not reached, in words."""
    after, hosts = found["next"], found["hosts"]
    limits = (
        ("seconds from the last receipt to published", after["published_s"], MOST_PUBLISHED_S),
        ("processor seconds", after["cpu_s"], MOST_CPU_S),
        ("bytes of memory", after["peak_bytes"], MOST_BYTES),
        ("bytes of memory of the first save", found["first"]["peak_bytes"], MOST_FIRST_BYTES),
        ("bytes to it", after["up_bytes"], MOST_A_SLICE * found["slices"] + MOST_A_HOST * hosts),
    )
    return [f"{hosts} hosts: {what} are {value:.4g}, more than {most:.4g}" for what, value, most in limits
            if value > most]  # fmt: skip


HEADS = ("hosts", "slices", "save", "CPU s", "published s", "up MB", "down MB", "up B a slice", "memory MiB")


def rows(found: dict[str, Any]) -> list[list[str]]:
    return [
        [
            f"{found['hosts']:,}",
            f"{found['slices']:,}",
            save,
            f"{figures['cpu_s']:.2f}",
            f"{figures['published_s']:.2f}",
            f"{figures['up_bytes'] / 1e6:.2f}",
            f"{figures['down_bytes'] / 1e6:.2f}",
            f"{figures['up_bytes'] / found['slices']:.1f}",
            f"{figures['peak_bytes'] / (1 << 20):,.0f}",
        ]
        for save, figures in (("first", found["first"]), ("next", found["next"]))
    ]


def plot(jobs: list[dict[str, Any]], path: Path) -> None:
    """Draw what grows with the hosts."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ckptd"})  # the same figures, the same file
    from matplotlib import pyplot

    drawn = (
        ("cpu_s", "processor time of a save, s", 1.0),
        ("published_s", "last receipt to published, s", 1.0),
        ("up_bytes", "to the coordinator, MB", 1e-6),
        ("peak_bytes", "memory, MiB", 1 / (1 << 20)),
    )
    hosts = [each["hosts"] for each in jobs]
    figure, axes = pyplot.subplots(1, len(drawn), figsize=(13, 3.2))
    for axis, (measure, title, factor) in zip(axes, drawn, strict=True):
        for save, colour in (("first", "#94a3b8"), ("next", "#c2410c")):
            axis.plot(hosts, [each[save][measure] * factor for each in jobs], "o-", color=colour, label=save)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("hosts")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False)
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)


def show_coordinator(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    print(f"{args.slices} slices of each of 8 ranks a host; {in_words(found['machine'])}\n")
    print(markdown(HEADS, [row for each in found["jobs"] for row in rows(each)]))
    for each in found["jobs"]:
        bare = " and ".join(f"{took_s:.2f} s by {how}" for how, took_s in each["bare_cpu_s"].items())
        print(f"\nthe messages of {each['hosts']:,} hosts alone, to a server that does nothing: {bare}")
    return [problem for each in found["jobs"] for problem in broken(each)]


def network(args: argparse.Namespace) -> dict[str, Any]:
    """Make the network, and run this program again in the store's namespace, where the server is."""
    if args.inside:
        return measured_inside(args)
    if reason := host_network.why_not():
        raise SystemExit(f"hosts.py network cannot run here: {reason}")
    with contextlib.closing(host_network.Network(args.hosts, args.to_coordinator, args.to_store)) as made:
        again = (sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--inside", made.name, "--json")
        done = subprocess.run(host_network.inside(made.store, *again), check=False, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(done.returncode)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def measured_inside(args: argparse.Namespace) -> dict[str, Any]:
    made = host_network.Network.known(args.inside, args.hosts)
    args.size_bytes = parse_size(args.size)
    with TemporaryDirectory(prefix="ckptd-hosts-", dir=args.dir) as temporary:
        place = Path(temporary)
        with hosts_together.store_in(made, args.store, place) as bucket:
            found = hosts_together.measure(hosts_together.Networked(made, bucket, place), args)
        return {"machine": describe(place), "links": [args.to_coordinator, args.to_store], **found}


def show_network(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    print(f"{found['hosts']} hosts of {args.ranks} ranks, {args.size} each; to the coordinator {args.to_coordinator}, ")
    print(f"to the store {args.to_store} a host ({args.store}); {in_words(found['machine'])}\n")
    one = found["medians"].get("one host", found["medians"]["agents"])["durable_s"]
    table = [
        [
            name,
            f"{each['durable_s']:.2f}",
            f"{each['durable_s'] / one:.2f}",
            f"{each['stall_s']:.3f}",
            f"{each['to_coordinator_bytes'] / 1e3:,.1f}",
            f"{each['from_coordinator_bytes'] / 1e3:,.1f}",
            f"{each['coordinator_to_store_bytes'] / 1e6:,.2f}",
        ]
        for name, each in found["medians"].items()
    ]
    heads = ("", "durable s", "of one host", "stall s", "kB to coordinator", "kB from it", "MB it stores")
    print(markdown(heads, table))
    restored = found["restored"]
    kept = found["restored_from_memory"]
    print(f"\nthe whole state on {found['hosts']} hosts at once:\n")
    rows = [
        [name, f"{each['restore_s']:.2f}", f"{each['of_checkpoint']:.2f}"]
        for name, each in (("from the memory of agents", kept), ("by new agents", restored))
    ]
    rows.append(["each byte once, a share on each host, by a plain client", f"{found['bare_read_s']:.2f}", "1.00"])
    print(markdown(("", "s", "of the checkpoint, from the store"), rows))
    for name, each in (("from memory", kept), ("by new agents", restored)):
        spent = ", ".join(f"{who} {seconds:.1f} s" for who, seconds in sorted(each["processor_s"].items()))
        most_s = (os.cpu_count() or 1) * each["restore_s"]
        print(f"\nprocessor time, of the {most_s:.1f} s that there are, {name}: {spent}")
    rate = found["restore_rate_of_store"]
    print(f"\nnew agents restore at {rate:.2f} of the rate at which the store gives each byte once")
    told = found["medians"]["agents"]["to_coordinator_bytes"]
    limits = (
        ("durable time of all hosts, of one host", found["medians"]["agents"]["durable_s"] / one, MOST_OF_ONE_HOST),
        ("bytes to the coordinator a save", told, found["allowed_bytes"]),
        ("what the store gives, of the checkpoint", restored["of_checkpoint"], MOST_OF_CHECKPOINT),
    )
    broken = [f"{what} is {value:.4g}, more than {most:.4g}" for what, value, most in limits if value > most]
    if found["restore_rate_of_store"] < LEAST_OF_STORE:
        broken.append(
            f"restores go at {found['restore_rate_of_store']:.2f} of the store's rate, less than {LEAST_OF_STORE}"
        )
    return broken


def stall(args: argparse.Namespace) -> dict[str, Any]:
    args.size_bytes = parse_size(args.size)
    with TemporaryDirectory(prefix="ckptd-hosts-", dir=args.dir) as temporary:
        place = Path(temporary)
        return {"machine": describe(place), **host_stall.measure(place, args)}


def show_stall(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    print(f"{args.size} from {args.ranks} ranks, medians of {args.saves} saves; {in_words(found['machine'])}\n")
    rows = [[name, f"{each['stall_s']:.3f}", f"{each['durable_s']:.2f}"] for name, each in found["medians"].items()]
    print(markdown(("beside", "stall s", "durable s"), rows))
    ratio = found["stall_of_daemon"]
    return [f"the stall beside an agent is {ratio:.2f} of that beside a daemon"] if ratio > MOST_STALL else []


def replace(args: argparse.Namespace) -> dict[str, Any]:
    args.size_bytes = parse_size(args.size)
    with TemporaryDirectory(prefix="ckptd-hosts-", dir=args.dir) as temporary:
        place = Path(temporary)
        with host_replaced.root_in(args.store, place) as root:
            return {"machine": describe(place), **host_replaced.measure(root, place, args)}


def show_replace(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    print(f"3 hosts of 2 ranks, {args.size} each ({args.store}), the slowest of {args.rounds}; ", end="")
    print(f"{in_words(found['machine'])}\n")
    rows = [[name, f"{each['restored_s']:.1f}", f"{each['saved_s']:.1f}"] for name, each in found["worst"].items()]
    print(markdown(("replaced under", "restored s", "saved by all s"), rows))
    limits = ((name, each["restored_s"]) for name, each in found["worst"].items())
    return [f"restored after {took:.1f} s, under {name}" for name, took in limits if took > MOST_RESTORED_S]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    phases = parser.add_subparsers(dest="phase", required=True)
    alone = phases.add_parser("coordinator", help="the coordinator alone")
    alone.add_argument("--hosts", type=int, nargs="+", default=[10, 100, 1000])
    alone.add_argument("--slices", type=int, default=300, help="of each rank, each of another tensor")
    alone.add_argument("--processes", type=int, default=2, help="that the agents live in")
    alone.add_argument("--saves", type=int, default=4, help="the first one included")
    alone.add_argument("--plot", type=Path, help="draw the figures here, as SVG")
    alone.set_defaults(measure=coordinator, show=show_coordinator)
    over = phases.add_parser("network", help="hosts in network namespaces, over links of given rates; needs root")
    over.add_argument("--hosts", type=int, default=4)
    over.add_argument("--ranks", type=int, default=2, help="of each host")
    over.add_argument("--size", default="100MiB", help="of each host")
    over.add_argument("--tensors", type=int, default=100, help="each cut into a slice for each rank")
    over.add_argument("--saves", type=int, default=3, help="after one that warms up")
    over.add_argument("--to-coordinator", default="1gbit", help="rate of each host's link to it")
    over.add_argument("--to-store", default="200mbit", help="rate of each link to the store")
    over.add_argument("--store", choices=("seaweedfs", "ceph"), default="seaweedfs")
    over.add_argument("--restores-only", action="store_true", help="save once, by agents, and measure the restores")
    over.add_argument("--inside", help=argparse.SUPPRESS)
    over.set_defaults(measure=network, show=show_network)
    beside = phases.add_parser("stall", help="training beside a daemon and beside an agent, in turns")
    beside.add_argument("--ranks", type=int, default=2)
    beside.add_argument("--size", default="512MiB", help="of all ranks together")
    beside.add_argument("--tensors", type=int, default=64)
    beside.add_argument("--saves", type=int, default=9, help="of each, after one that warms up")
    beside.set_defaults(measure=stall, show=show_stall)
    lost = phases.add_parser("replace", help="a host is killed whole, and replaced")
    lost.add_argument("--size", default="64MiB", help="of each host")
    lost.add_argument("--tensors", type=int, default=16)
    lost.add_argument("--rounds", type=int, default=3)
    lost.add_argument("--store", choices=("directory", "seaweedfs", "ceph"), default="directory")
    lost.set_defaults(measure=replace, show=show_replace)
    for phase in (alone, over, beside, lost):
        phase.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
        phase.add_argument("--check", action="store_true", help="exit code 1 if what is aimed at is not reached")
        phase.add_argument("--json", action="store_true")
    args = parser.parse_args()
    found = args.measure(args)
    if args.json:
        print(json.dumps(found, indent=2))
        return
    problems = args.show(args, found)
    if problems:
        print("\n" + "\n".join(problems))
    if args.check and problems:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
