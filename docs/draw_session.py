"""Draw the session's diagram by running its machine: every state that any order of events can reach.

python docs/draw_session.py            # prints the diagram
python docs/draw_session.py --write    # puts it into docs/session.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from ckptd.engine.saves import session as machine
from ckptd.engine.saves.session import Session, step
from ckptd.errors import ConflictError, SessionAbortedError

PAGE = Path(__file__).with_name("session.md")
BEGIN, END = "<!-- drawn by docs/draw_session.py -->\n", "<!-- end of the drawing -->\n"


def draw() -> str:
    """Return the diagram as a fenced Mermaid block. Ranks and shards are alike, so two ranks and a shard show all."""
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
    arrows: dict[str, None] = {}
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
            arrows[f"    {_state(session)} --> {_state(after)} : {name}"] = None
            todo.append(after)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> declaring", *sorted(arrows)]
    return "\n".join([*lines, "    published --> [*]", "    aborted --> [*]", "```", ""])


def _state(session: Session) -> str:
    return "committing" if session.phase is machine.Phase.SEALED and session.committing else session.phase.value


def main() -> None:
    """Print the diagram, or write it into the page."""
    if sys.argv[1:] != ["--write"]:
        sys.stdout.write(draw())
        return
    text = PAGE.read_text()
    before, rest = text.split(BEGIN)
    PAGE.write_text(before + BEGIN + draw() + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
