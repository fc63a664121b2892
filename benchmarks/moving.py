"""How much memory it takes to copy, export, import and compare a large checkpoint.

    python benchmarks/moving.py                  # 10 GiB: needs 40 GiB of disk, in --dir
    python benchmarks/moving.py --size 512MiB

Each command runs as a process of its own; its high-water mark of resident memory is what the kernel says when it has
ended. What any command takes that moves next to nothing is measured first, so that what is counted is growth.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from measuring import parse_size

import ckptd

TENSOR_BYTES = 1 << 30


def make(prefix: Path, size: int) -> None:
    """Write tensors of a gigabyte, without holding more than one."""
    from ckptd.format import dtypes
    from ckptd.interchange.importing import import_checkpoint
    from ckptd.interchange.source import TensorFacts
    from ckptd.storage.locations import split_prefix

    block = np.random.default_rng(0).integers(0, 1 << 32, (1 << 20,), np.uint32)
    count = max(1, size // TENSOR_BYTES)
    elements = size // count // 4

    class Noise:
        location = "noise"

        def names(self) -> list[str]:
            return [f"tensor/{number:04d}" for number in range(count)]

        def facts(self, name: str) -> TensorFacts:
            return TensorFacts(name, dtypes.by_name("uint32"), "uint32", (elements,))

        def check(self, name: str) -> None:
            pass  # noise is all there

        def stream(self, name: str):
            for at in range(0, elements, len(block)):
                yield block[: min(len(block), elements - at)]

    store, key = split_prefix(str(prefix))
    import_checkpoint(Noise(), store, key, num_shards=4)


def run(*arguments: object) -> tuple[float, int]:
    """Run one command; return its seconds and its high-water mark in bytes."""
    words = [sys.executable, "-m", "ckptd", *map(str, arguments), "--progress", "none"]
    began = time.monotonic()
    with open(os.devnull, "wb") as nowhere:
        pid = os.posix_spawn(
            sys.executable, words, dict(os.environ), file_actions=[(os.POSIX_SPAWN_DUP2, nowhere.fileno(), 1)]
        )
        _, status, usage = os.wait4(pid, 0)
    if os.waitstatus_to_exitcode(status) != 0:
        raise SystemExit(f"{' '.join(words)} failed")
    return time.monotonic() - began, usage.ru_maxrss << 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", default="10GiB", help="of the checkpoint")
    parser.add_argument("--dir", type=Path, help="where to write; default: a temporary directory")
    parser.add_argument("--limit", default="128MiB", help="exit code 1 if a command needs so much more")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    size = parse_size(args.size)

    with TemporaryDirectory(prefix="ckptd-moving-", dir=args.dir) as temporary:
        here = Path(temporary)
        ckptd.save_checkpoint(here / "small-1", {"x": np.ones(4)})
        _, floor = run("export", here / "small-1", here / "small.npz")
        make(here / "m-1", size)
        found = {}
        for name, arguments in {
            "cp": ("cp", here / "m-1", here / "copy-1"),
            "cp --num-shards": ("cp", here / "m-1", here / "copy-1", "--num-shards", 3, "--force"),
            "export safetensors": ("export", here / "m-1", here / "m.safetensors"),
            "import safetensors": ("import", here / "m.safetensors", here / "copy-1", "--force"),
            "diff": ("diff", here / "m-1", here / "m.safetensors", "--exit-code"),
            "export npz": ("export", here / "m-1", here / "m.npz"),
            "import npz": ("import", here / "m.npz", here / "copy-1", "--force"),
        }.items():
            seconds, peak = run(*arguments)
            found[name] = {"seconds": seconds, "growth_bytes": peak - floor}
            if name in ("diff", "import npz"):
                (here / ("m.safetensors" if name == "diff" else "m.npz")).unlink()

    if args.json:
        print(json.dumps({"size_bytes": size, "floor_bytes": floor, "commands": found}, indent=2))
    else:
        print(f"{size / 2**30:.2f} GiB; a command that moves nothing takes {floor / 2**20:.0f} MiB")
        for name, each in found.items():
            print(f"{name:20} {each['seconds']:7.1f} s   {each['growth_bytes'] / 2**20:+7.0f} MiB")
    raise SystemExit(any(each["growth_bytes"] > parse_size(args.limit) for each in found.values()))


if __name__ == "__main__":
    main()
