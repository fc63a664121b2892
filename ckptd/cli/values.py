"""The statistics of `ckptd show`: figures in a table, and histograms that any terminal can draw."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial

from ckptd.cli import output
from ckptd.cli import progress as progress_bars
from ckptd.engine.reading.bundle import Array, Bundle
from ckptd.engine.reading.statistics import Histogram, Statistics, histogram, parts_of, statistics
from ckptd.interchange.source import TensorSource

_BAR = 50
_SHORTEST_BAR = 8
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class Numbers:
    """A tensor of numbers that can be read, part by part, any number of times."""

    name: str
    size_bytes: int
    read: Callable[[], Iterator[Array]]


def in_bundle(bundle: Bundle, names: Sequence[str]) -> list[Numbers]:
    """Return those of the named tensors that hold numbers: strings and variants have no width."""
    return [
        Numbers(name, sum(piece.size for piece in bundle.index.tensor(name).pieces), partial(parts_of, bundle, name))
        for name in names
        if bundle.dtype(name).width
    ]


def in_file(source: TensorSource, names: Sequence[str]) -> list[Numbers]:
    """Return those of the named tensors of a file that hold numbers we can read."""
    found = []
    for name in names:
        facts = source.facts(name)
        if facts.dtype is not None and facts.dtype.array is not None and facts.dtype.width:
            found.append(Numbers(name, facts.size_bytes, partial(source.stream, name)))
    return found


@dataclass(frozen=True, slots=True)
class Look:
    """The statistics of one tensor of numbers."""

    statistics: Statistics
    histogram: Histogram | None


@dataclass(frozen=True, slots=True)
class Looks:
    """The statistics of tensors of numbers, by name."""

    found: Mapping[str, Look]

    @classmethod
    def at(cls, tensors: Sequence[Numbers], *, with_histogram: bool, progress: str = "auto") -> Looks:
        """Read the tensors, and report the progress; a histogram takes a second pass."""
        total = (2 if with_histogram else 1) * sum(tensor.size_bytes for tensor in tensors)
        done = 0
        found = {}
        with progress_bars.shown("reading values", progress) as progressed:

            def parts(tensor: Numbers) -> Iterator[Array]:
                nonlocal done
                for part in tensor.read():
                    yield part
                    done += part.nbytes
                    progressed(done, total)

            for tensor in tensors:
                figures = statistics(parts(tensor))
                drawn = histogram(parts(tensor), figures) if with_histogram else None
                found[tensor.name] = Look(figures, drawn)
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
            output.say(name)
            if found.histogram is None:
                output.say("  no finite values")
                continue
            for line in bars(found.histogram, output.width()):
                output.say(line)


def bars(drawn: Histogram, columns: int | None = None) -> list[str]:
    """Draw a histogram, a line per bin: where the bin begins and ends, a bar, and how many values are in it.

    It is at most `columns` wide, if there is room for a bar at all.
    """
    most = max(drawn.counts, default=0) or 1
    limits = [_number(edge) for edge in drawn.edges]
    width = max(map(len, limits))
    around = len(f"  {'':{width}} … {'':{width}}    {most}")
    longest = _BAR if columns is None else max(_SHORTEST_BAR, min(_BAR, columns - around))
    lines = []
    for n, count in enumerate(drawn.counts):
        eighths = round(count * longest * 8 / most)
        if count and not eighths:
            eighths = 1  # one among millions is still shown
        bar = "█" * (eighths // 8) + _EIGHTHS[eighths % 8].strip()
        lines.append(f"  {limits[n]:>{width}} … {limits[n + 1]:>{width}}  {bar:<{longest}}  {count}".rstrip())
    return lines


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.6g}"
