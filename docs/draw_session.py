"""Draw the session's diagram by running its machine: every state that any order of events can reach.

python docs/draw_session.py            # prints the drawing
python docs/draw_session.py --write    # writes docs/session.svg
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path

from ckptd.engine.saves import session as machine
from ckptd.engine.saves.session import Session, step
from ckptd.errors import ConflictError, SessionAbortedError

PICTURE = Path(__file__).with_name("session.svg")

# States stand below each other. An arrow goes to the next one, back to its own state, or to the bar at the right.
COLUMN = ("declaring", "filling", "sealed", "committing", "committed", "published")
ABORTED = "aborted"

LEFT, WIDTH, HEIGHT = 184, 120, 34  # of a state's box
TOP, PITCH = 44, 82  # of the first box; from one box to the next
MIDDLE, RIGHT = LEFT + WIDTH // 2, LEFT + WIDTH
BAR, BAR_WIDTH = 468, 92
LINE = 17  # from one line of text to the next

HEAD = """<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" \
font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="13" fill="#0f172a" role="img" \
aria-label="The states of a save">
  <rect width="{width}" height="{height}" rx="10" fill="#ffffff"/>
  <defs>
    <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">\
<path d="M0 0 8 4 0 8z" fill="#475569"/></marker>
  </defs>
"""


def arrows() -> list[tuple[str, str, str]]:
    """Return (state, next state, event / work) of every transition. Ranks and shards are alike: 2 ranks, 1 shard do."""
    failed = machine.Failed(SessionAbortedError("why"))
    events = [
        machine.Declared(0),
        machine.Declared(1),
        machine.Planned(1, frozenset({(0, 0), (1, 0)})),
        machine.LaneEnded(0, 0),
        machine.LaneEnded(1, 0),
        machine.ShardSealed(0),
        machine.TurnCame(),
        machine.Committed(),
        machine.Published(),
        machine.CommitFailed(failed.error),
        failed,
    ]
    found: set[tuple[str, str, str]] = set()
    seen, todo = set(), [Session(2)]
    while todo:
        session = todo.pop()
        if session in seen:
            continue
        seen.add(session)
        for event in events:
            if isinstance(event, machine.ShardSealed) and session.owed:
                continue  # a shard is sealed only when its lanes have ended
            try:
                after, effects = step(session, event)
            except ConflictError:
                continue
            if after == session:
                continue
            name = type(event).__name__
            if effects:
                name += " / " + ", ".join(type(effect).__name__ for effect in effects)
            found.add((_state(session), _state(after), name))
            todo.append(after)
    return sorted(found)


def draw() -> str:
    """Return the drawing, as SVG. Raises `ValueError` for an arrow that has no place in it."""
    labels: dict[tuple[str, str], list[str]] = defaultdict(list)
    for state, after, label in arrows():
        labels[state, after].append(label)
    bottom = _top(COLUMN[-1]) + HEIGHT
    parts = [HEAD.format(width=BAR + BAR_WIDTH + 16, height=bottom + 44)]
    parts += [
        _box(LEFT, _top(state), WIDTH, HEIGHT, state, "#eef2ff", "#6366f1") for state in COLUMN
    ]
    bar_bottom = _top("committing") + HEIGHT
    parts.append(_box(BAR, TOP, BAR_WIDTH, bar_bottom - TOP, ABORTED, "#fef2f2", "#dc2626"))
    parts += [_circle(MIDDLE, 16), _arrow(f"M{MIDDLE} 21V{TOP - 2}")]
    parts += [
        _arrow(f"M{x} {y}v22") + _end(x, y + 29)
        for x, y in ((MIDDLE, bottom), (BAR + BAR_WIDTH // 2, bar_bottom))
    ]
    for (state, after), lines in labels.items():
        parts.append(_transition(state, after, lines))
    return "".join(parts) + "</svg>\n"


def _transition(state: str, after: str, lines: list[str]) -> str:
    y = _top(state) + HEIGHT // 2
    if after == state:
        loop = f"M{LEFT} {y - 9}C{LEFT - 34} {y - 18} {LEFT - 34} {y + 18} {LEFT - 2} {y + 9}"
        return _arrow(loop) + _text(
            LEFT - 32, y - LINE * (len(lines) - 1) / 2 + 4, lines, "end"
        )
    if after == ABORTED:
        return _arrow(f"M{RIGHT} {y}H{BAR - 2}") + _text(
            (RIGHT + BAR) / 2, y - 7, lines, "middle"
        )
    if COLUMN.index(after) != COLUMN.index(state) + 1:
        raise ValueError(
            f"no place for an arrow from {state} to {after}: move the states in {Path(__file__).name}"
        )
    below = y + HEIGHT // 2
    return _arrow(f"M{MIDDLE} {below}V{_top(after) - 2}") + _text(
        MIDDLE + 9, (below + _top(after)) / 2 + 4, lines, "start"
    )


def _top(state: str) -> int:
    return TOP + PITCH * COLUMN.index(state)


def _box(x: int, y: int, width: int, height: int, name: str, fill: str, stroke: str) -> str:
    box = f'  <rect x="{x}" y="{y}" width="{width}" height="{height}" rx="6" fill="{fill}" stroke="{stroke}"/>\n'
    middle = f'x="{x + width // 2}" y="{y + height // 2 + 5}"'
    return (
        box
        + f'  <text {middle} text-anchor="middle" font-weight="600" font-size="14">{name}</text>\n'
    )


def _arrow(path: str) -> str:
    return f'  <path d="{path}" fill="none" stroke="#475569" stroke-width="1.5" marker-end="url(#tip)"/>\n'


def _text(x: float, y: float, lines: list[str], anchor: str) -> str:
    texts = (
        f'  <text x="{x:g}" y="{y + LINE * i:g}" text-anchor="{anchor}">{line}</text>\n'
        for i, line in enumerate(lines)
    )
    return "".join(texts)


def _circle(x: int, y: int) -> str:
    return f'  <circle cx="{x}" cy="{y}" r="5"/>\n'


def _end(x: int, y: int) -> str:
    return f'  <circle cx="{x}" cy="{y}" r="7" fill="none" stroke="#0f172a"/>\n  <circle cx="{x}" cy="{y}" r="4"/>\n'


def _state(session: Session) -> str:
    return (
        "committing"
        if session.phase is machine.Phase.SEALED and session.committing
        else session.phase.value
    )


def main() -> None:
    """Print the drawing, or write it beside the page."""
    if sys.argv[1:] == ["--write"]:
        PICTURE.write_text(draw())
    else:
        sys.stdout.write(draw())


if __name__ == "__main__":
    main()
