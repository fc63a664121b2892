"""Put the figures of peers.py into docs/ and benchmarks/README.md, between the comments that mark their places.

    python benchmarks/peers.py --json peers.json --plot docs/peers.svg
    python benchmarks/peers.py --small --json small.json
    python benchmarks/peers.py --frameworks --size 1GiB --json frameworks.json
    python benchmarks/write_figures.py --peers peers.json --small small.json --frameworks frameworks.json

Only what stands between `<!-- figures: NAME -->` and `<!-- end of figures -->` is replaced. `--check` writes nothing
and says whether all places are there.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import reports
from machine import in_words

REPOSITORY = Path(__file__).resolve().parents[1]
JOBS = ("peers", "small", "frameworks")
PLACES = {
    "docs/index.md": ("home",),
    "docs/performance.md": ("short", *JOBS),
    "benchmarks/README.md": tuple(f"required {job}" for job in JOBS),
}
_SHORT = (
    ("stall s", "stall_s"),
    ("durable s", "durable_s"),
    ("first s", "first_durable_s"),
    ("cold restore s", "cold_s"),
    ("warm s", "warm_s"),
)


def short(found: dict[str, Any]) -> str:
    """Return the table at the top of the page: medians and ranges, without what only experts look for."""
    job = found["job"]
    return (
        f"{reports.table(found['contenders'], _SHORT, memory=False)}\n\n"
        f"{job['size_bytes'] / 2**30:.0f} GiB in {job['tensors']} tensors from {job['processes']} processes, medians "
        f"(min–max) of {job['rounds']} rounds in turns, on: {in_words(found['machine'])}."
    )


def home(found: dict[str, Any]) -> str:
    """Return the three figures of the site's first page, each beside TensorFlow's where that took part."""
    ours = found["contenders"]["ckptd"]["medians"]
    theirs = found["contenders"].get("tensorflow", {"medians": {}})["medians"]
    columns = {"stall_s": "training stands still", "durable_s": "until it is durable", "warm_s": "to restore it again"}
    lines = [
        [f"{ours[measure]:.2f} s" for measure in columns],
        [":-:"] * len(columns),
        [
            what + (f"<br>TensorFlow: {theirs[measure]:.2f} s" if measure in theirs else "")
            for measure, what in columns.items()
        ],
    ]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def replaced(text: str, name: str, figures: str) -> str:
    pattern = re.compile(rf"(<!-- figures: {name} -->\n).*?(\n<!-- end of figures -->)", re.S)
    written, count = pattern.subn(lambda match: f"{match[1]}\n{figures}\n{match[2]}", text)
    if count != 1:
        raise SystemExit(f"there is no place for the figures {name!r}, or more than one")
    return written


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=Path, help="what peers.py --json wrote")
    parser.add_argument("--small", type=Path, help="what peers.py --small --json wrote")
    parser.add_argument("--frameworks", type=Path, help="what peers.py --frameworks --json wrote")
    parser.add_argument("--root", type=Path, default=REPOSITORY, help="of the pages; default: this checkout")
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    figures: dict[str, str] = {}
    if args.peers is not None:
        found = json.loads(args.peers.read_text())
        figures = {"home": home(found), "short": short(found)}
    for name in JOBS:
        given = getattr(args, name)
        if given is not None:
            found = json.loads(given.read_text())
            figures |= {name: reports.page(found), f"required {name}": reports.required(found)}
    for page, names in PLACES.items():
        path = args.root / page
        text = path.read_text("utf-8")
        for name in names:
            if args.check:
                replaced(text, name, "")
            elif name in figures:
                text = replaced(text, name, figures[name])
        if not args.check:
            path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
