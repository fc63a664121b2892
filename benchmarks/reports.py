"""From turns to figures, and from figures to a table, a page and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import in_words
from measuring import markdown

COLUMNS = (
    ("stall s", "stall_s"),
    ("durable s", "durable_s"),
    ("first s", "first_durable_s"),
    ("cold s", "cold_s"),
    ("cold into s", "cold_into_s"),
    ("warm s", "warm_s"),
    ("warm into s", "warm_into_s"),
    ("CPU s", "cpu_s"),
)
_MEMORY = ("peak_bytes", "extra_bytes")
_PLOTTED = (("stall_s", "stall"), ("durable_s", "durable"), ("cold_s", "cold restore"), ("warm_s", "warm restore"))


def gathered(turns: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return all values of each measure, their medians and ranges. A save gives one value, a turn has several saves."""
    values: dict[str, list[float]] = {}
    for turn in turns:
        for save in turn["saves"] or [turn["first"]]:
            for measure, value in save.items():
                values.setdefault(measure, []).append(value)
        for measure, value in turn["first"].items():
            values.setdefault(f"first_{measure}", []).append(value)
        for measure, value in turn.items():
            if measure.endswith("_s") or measure in _MEMORY:
                values.setdefault(measure, []).append(value)
    return {
        "values": values,
        "medians": {measure: statistics.median(found) for measure, found in values.items()},
        "ranges": {measure: (min(found), max(found)) for measure, found in values.items()},
    }


def page(found: dict[str, Any]) -> str:
    """Return what was measured as Markdown; `required` returns what is required of it."""
    job = found["job"]
    num_saves = job["rounds"] * job["saves_per_round"]
    lines = [
        f"{_amount(job['size_bytes'])} in {job['tensors']:,} tensors from {job['processes']} processes; "
        f"medians (min–max) of {num_saves} saves and {job['rounds']} restores each, in turns.",
        "",
        f"{in_words(found['machine'])}; " + ", ".join(f"{n} {v}" for n, v in found["machine"]["versions"].items()),
        "",
        table(found["contenders"]),
    ]
    copy = found["contenders"].get("copy")
    if copy is not None:
        lines += [
            "",
            f"One process with 2 threads copies the same bytes in {copy['medians']['two_threads_s']:.3f} s.",
        ]
    for name, reason in found["missing"].items():
        lines += ["", f"Not here: {name}: {reason}."]
    return "\n".join(lines)


def required(found: dict[str, Any]) -> str:
    """Return what is required of ckptd and whether that is reached, as a table."""
    return markdown(
        ("required of ckptd", "ratio", "at most", ""),
        [
            (
                each["what"],
                "–" if each["ratio"] is None else f"{each['ratio']:.2f}",
                f"{each['limit']:.2f}",
                _outcome(each),
            )
            for each in found["verdicts"]
        ],
    )


def table(contenders: dict[str, Any], columns: Sequence[tuple[str, str]] = COLUMNS, *, memory: bool = True) -> str:
    """Return a line for each contender; `columns` are heads and measures."""
    columns = [one for one in columns if any(one[1] in figures["values"] for figures in contenders.values())]
    heads = ["", *(head for head, _ in columns), *(["memory GiB (beyond the arrays)"] if memory else [])]
    rows = []
    for name, figures in contenders.items():
        cells = [name]
        for _, measure in columns:
            # A copy in memory is never durable.
            shown = measure in figures["values"] and not (name == "copy" and "durable" in measure)
            cells.append(_cell(figures, measure) if shown else "")
        if memory:
            peak, extra = (figures["medians"][measure] / 2**30 for measure in _MEMORY)
            cells.append(f"{peak:.2f} ({max(0.0, extra):.2f})")
        rows.append(cells)
    return markdown(heads, rows)


def _cell(figures: dict[str, Any], measure: str) -> str:
    middle, (low, high) = figures["medians"][measure], figures["ranges"][measure]
    digits = 2 if middle >= 0.1 else 3
    return f"{middle:.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def _outcome(verdict: dict[str, Any]) -> str:
    if verdict["ratio"] is None:
        return "not measured"
    if verdict["aimed"] is not None:
        return "as aimed at" if verdict["aimed"] else "aimed at, not reached"
    return "reached" if verdict["reached"] else "NOT REACHED"


def _amount(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB" if size_bytes >= 1 << 29 else f"{size_bytes / 1e6:.0f} MB"


def plot(found: dict[str, Any], path: Path) -> None:
    """Draw stall, durable and restores of all contenders, with their ranges."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "ckptd"})  # the same figures, the same file
    from matplotlib import pyplot

    contenders = {name: each for name, each in found["contenders"].items() if name != "copy"}
    figure, axes = pyplot.subplots(1, len(_PLOTTED), figsize=(12, 0.45 * len(contenders) + 1.2), sharey=True)
    for axis, (measure, title) in zip(axes, _PLOTTED, strict=True):
        for row, (name, figures) in enumerate(contenders.items()):
            if measure not in figures["medians"]:
                continue
            middle = figures["medians"][measure]
            low, high = figures["ranges"][measure]
            colour = "#c2410c" if name.startswith("ckptd") else "#64748b" if name == "raw" else "#94a3b8"
            axis.barh(row, middle, color=colour, xerr=[[middle - low], [high - middle]], ecolor="#334155", capsize=2)
        axis.set_title(f"{title}, s", fontsize=10)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_yticks(range(len(contenders)), contenders)
    axes[0].invert_yaxis()
    copy = found["contenders"].get("copy")
    if copy is not None:
        axes[0].axvline(copy["medians"]["stall_s"], color="#334155", linestyle=":", linewidth=1)
    job = found["job"]
    figure.suptitle(
        f"{_amount(job['size_bytes'])}, {job['processes']} processes; the dotted line is one copy in memory",
        fontsize=10,
    )
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    pyplot.close(figure)
