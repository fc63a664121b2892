"""Ways in which one file of a run may be damaged, by name: each makes it in a run's directory of a local root."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

Damage = Callable[[Path], None]


def _text(where: str, data: bytes) -> Damage:
    return lambda run: _place(run, where).write_bytes(data) and None


def _place(run: Path, where: str) -> Path:
    if where == "record":
        return next((run / ".ckptd").glob("*.json"))
    return run / where


def _removed(run: Path, where: str) -> Path:
    place = _place(run, where)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    return place


def _pipe(where: str) -> Damage:
    return lambda run: os.mkfifo(_removed(run, where))


def _directory(where: str) -> Damage:
    return lambda run: _removed(run, where).mkdir()


def _link(where: str, to: str) -> Damage:
    return lambda run: _removed(run, where).symlink_to(to)


def _loop(where: str) -> Damage:
    def make(run: Path) -> None:
        place = _removed(run, where)
        place.symlink_to(place.name)

    return make


def _huge(where: str) -> Damage:
    return lambda run: os.truncate(_place(run, where), 1 << 40)


def _record(**changes: object) -> Damage:
    def make(run: Path) -> None:
        place = _place(run, "record")
        place.write_text(json.dumps({**json.loads(place.read_text()), **changes}))

    return make


OPENING: dict[str, Damage] = {
    "state-empty": _text("checkpoint", b""),
    "state-cut": _text("checkpoint", b'model_checkpoint_path: "model.ck'),
    "state-rubbish": _text("checkpoint", b"\xff\xfe rubbish"),
    "state-deep": _text("checkpoint", b"a{" * 100_000),
    "state-nan": _text("checkpoint", b'model_checkpoint_path: "model.ckpt-1"\nlast_preserved_timestamp: nan\n'),
    "state-1e99": _text(
        "checkpoint",
        b'model_checkpoint_path: "model.ckpt-1"\nall_model_checkpoint_paths: "model.ckpt-1"\n'
        b"all_model_checkpoint_timestamps: 1e99\n",
    ),
    "state-huge": _huge("checkpoint"),
    "state-pipe": _pipe("checkpoint"),
    "state-directory": _directory("checkpoint"),
    "state-outside": _link("checkpoint", "/etc/passwd"),
    "state-nowhere": _link("checkpoint", "nowhere"),
    "state-loop": _loop("checkpoint"),
    "state-device": _link("checkpoint", "/dev/zero"),
    "epoch-empty": _text(".ckptd/epoch", b""),
    "epoch-rubbish": _text(".ckptd/epoch", b"x"),
    "epoch-60-digits": _text(".ckptd/epoch", b"9" * 60),
    "epoch-huge": _huge(".ckptd/epoch"),
    "epoch-pipe": _pipe(".ckptd/epoch"),
    "epoch-directory": _directory(".ckptd/epoch"),
    "epoch-loop": _loop(".ckptd/epoch"),
    "records-are-a-file": lambda run: _removed(run, ".ckptd").write_bytes(b"x") and None,
    "aside-is-a-file": lambda run: _removed(run, ".ckptd/trash").write_bytes(b"x") and None,
    "records-outside": _link(".ckptd", "/etc"),
    "records-pipe": _pipe(".ckptd"),
    "index-outside": _link("model.ckpt-2.index", "/etc/passwd"),
    "index-loop": _loop("model.ckpt-2.index"),
}
"""After these a run cannot be opened."""

SERVED: dict[str, Damage] = {
    "record-empty": _text("record", b""),
    "record-rubbish": _text("record", b"{"),
    "record-deep": _text("record", b"[" * 200_000),
    "record-nan": _record(saved_at=float("nan")),
    "record-1e99": _record(saved_at=1e99),
    "record-quarantined-1e99": _record(quarantine="w is damaged", quarantined_at=1e99),
    "record-verified-inf": _record(verified_at=float("inf")),
    "record-step": _record(step=1 << 70),
    "record-epoch": _record(epoch=1 << 70),
    "record-sizes": _record(shard_sizes=[1 << 70]),
    "record-digits": _record(began_at=int("9" * 400)),
    "record-negative": _record(max_to_keep=-1),
    "record-huge": _huge("record"),
    "record-pipe": _pipe("record"),
    "record-loop": _loop("record"),
}
"""After these a run is served, and its status tells of the damage."""
