"""Histograms and strips as rectangles: where they are is computed here, templates only write them."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ckptd.engine.reading.glance import Glance, StripCell
from ckptd.engine.reading.statistics import Histogram

WIDTH, HEIGHT = 640, 160
"""Of a histogram, in units of its drawing."""

NUM_LEVELS = 9
"""Of a strip: from 0, no value to speak of, to the largest."""


@dataclass(frozen=True, slots=True)
class HistogramBar:
    """One bin: its place, and what it says."""

    x: float
    y: float
    width: float
    height: float
    low: float
    high: float
    count: int


@dataclass(frozen=True, slots=True)
class StripMark:
    """One cell of a strip; `level` is how large its values are, -1 where none is finite."""

    x: float
    width: float
    level: int
    cell: StripCell


def bars(drawn: Histogram) -> list[HistogramBar]:
    """Return the bars of a histogram; a bin of one among millions is still seen."""
    most = max(drawn.counts, default=0) or 1
    width = WIDTH / max(1, len(drawn.counts))
    found = []
    for number, count in enumerate(drawn.counts):
        height = max(2.0, count / most * (HEIGHT - 4)) if count else 0.0
        low, high = drawn.edges[number], drawn.edges[min(number + 1, len(drawn.edges) - 1)]
        found.append(
            HistogramBar(
                round(number * width, 2), round(HEIGHT - height, 2), round(width, 2), round(height, 2), low, high, count
            )
        )
    return found


def zero_at(drawn: Histogram) -> float | None:
    """Return where 0 is along a histogram, None where it is outside."""
    low, high = drawn.edges[0], drawn.edges[-1]
    if not low < 0 < high:
        return None
    return round(WIDTH * (0 - low) / (high - low), 2)


def strip(seen: Glance, num_elements: int) -> list[StripMark]:
    """Return the cells of a strip, at their places in a tensor of `num_elements`, the larger the darker."""
    most = max((cell.rms for cell in seen.strip if cell.rms is not None and math.isfinite(cell.rms)), default=0.0)
    found = []
    for cell in seen.strip:
        x = WIDTH * cell.first / num_elements
        # A block of a huge tensor would be too narrow to be seen.
        width = max(WIDTH * (cell.stop - cell.first) / num_elements, WIDTH / 80 if seen.is_sampled else 0.5)
        found.append(StripMark(round(min(x, WIDTH - width), 2), round(width, 2), _level(cell, most), cell))
    return found


def _level(cell: StripCell, most: float) -> int:
    if cell.rms is None:
        return -1
    if not most:
        return 0
    share = min(1.0, cell.rms / most) if math.isfinite(cell.rms) else 1.0
    return min(NUM_LEVELS - 1, math.ceil(share * (NUM_LEVELS - 1)))
