"""How the engine says ranks, bytes and times in errors and logs."""

from __future__ import annotations

from collections.abc import Iterable


def describe_bytes(size: int) -> str:
    """Return a size as people read it: ``12.3 MB``. Decimal units, as disks and networks are sold."""
    amount, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if amount < 999.95:
            break
        amount, unit = amount / 1000, larger
    return f"{size} B" if unit == "B" else f"{amount:.1f} {unit}"


def describe_span(seconds: float) -> str:
    """Format a span of a second or more with the two figures that matter: ``4.1 s``, ``2 min 5 s``, ``3 h 10 min``."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def describe_ranks(ranks: Iterable[int], world_size: int | None = None) -> str:
    """Return ranks as ranges: ``rank 3 of 4``, ``ranks 0-2 and 7 of 8``, or without their number."""
    ordered = sorted(ranks)
    ranges: list[list[int]] = []
    for rank in ordered:
        if ranges and rank == ranges[-1][1] + 1:
            ranges[-1][1] = rank
        else:
            ranges.append([rank, rank])
    texts = [str(low) if low == high else f"{low}-{high}" for low, high in ranges]
    listed = ", ".join(texts[:-1]) + (" and " if len(texts) > 1 else "") + texts[-1] if texts else "none"
    of = "" if world_size is None else f" of {world_size}"
    return f"rank{'s' if len(ordered) != 1 else ''} {listed}{of}"


def describe_seconds(seconds: float) -> str:
    """Return a duration as people read it: ``30 s``, ``0.25 s``."""
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.3g} s"
