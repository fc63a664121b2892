"""What `ckptd show` says about values: figures in a table, and histograms that any terminal can draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from ckptd.cli import output
from ckptd.engine.restore import Bundle
from ckptd.engine.statistics import Histogram, Statistics, has_statistics, histogram, statistics

_BAR = 50
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Look:
    """What was found out about one tensor of numbers."""

    statistics: Statistics
    histogram: Histogram | None


@dataclass(frozen=True, slots=True)
class Looks:
    """What was found out about the tensors of numbers in a checkpoint, by name."""

    found: Mapping[str, Look]

    @classmethod
    def at(cls, bundle: Bundle, names: Sequence[str], *, with_histogram: bool) -> Looks:
        """Read the named tensors that hold numbers, with a progress bar; a histogram takes a second pass."""
        numbers = [name for name in names if has_statistics(bundle, name)]
        passes = 2 if with_histogram else 1
        total = passes * sum(piece.size for name in numbers for piece in bundle.index.tensor(name).pieces)
        done = 0
        found = {}
        with output.progress("reading values") as progressed:

            def told(size_bytes: int) -> None:
                nonlocal done
                done += size_bytes
                progressed(done, total)

            for name in numbers:
                figures = statistics(bundle, name, told)
                found[name] = Look(figures, histogram(bundle, name, figures, told=told) if with_histogram else None)
        return cls(found)

    def describe(self, name: str, with_histogram: bool) -> dict[str, object]:
        """Return what `--json` adds to a tensor; nulls for one that holds no numbers."""
        found = self.found.get(name)
        said: dict[str, object] = {"statistics": None if found is None else asdict(found.statistics)}
        if with_histogram:
            said["histogram"] = None if found is None or found.histogram is None else asdict(found.histogram)
        return said

    def print_statistics(self) -> None:
        """Print a row per tensor."""
        rows = []
        for name, found in self.found.items():
            figures = found.statistics
            rows.append(
                (
                    name,
                    _number(figures.minimum),
                    _number(figures.maximum),
                    _number(figures.mean),
                    _number(figures.deviation),
                    figures.zeros,
                    figures.nans,
                    figures.infinities,
                )
            )
        output.table("Values", ("tensor", "min", "max", "mean", "std", "zeros", "nan", "inf"), rows)

    def print_histograms(self) -> None:
        """Draw one histogram after the other."""
        for name, found in self.found.items():
            output.say()
            output.say(output.printable(name))
            if found.histogram is None:
                output.say("  no finite values")
                continue
            for line in bars(found.histogram):
                output.say(line)


def bars(drawn: Histogram) -> list[str]:
    """Draw a histogram, a line per bin: where the bin begins and ends, a bar, and how many values are in it."""
    most = max(drawn.counts, default=0) or 1
    limits = [_number(edge) for edge in drawn.edges]
    width = max(map(len, limits))
    lines = []
    for n, count in enumerate(drawn.counts):
        eighths = round(count * _BAR * 8 / most)
        if count and not eighths:
            eighths = 1  # one among millions is still there
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        lines.append(f"  {limits[n]:>{width}} … {limits[n + 1]:>{width}}  {bar:<{_BAR}}  {count}".rstrip())
    return lines


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.6g}"
