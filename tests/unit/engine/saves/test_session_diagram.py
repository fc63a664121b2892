"""The diagram in the docs is what the machine does."""

from __future__ import annotations

import runpy
from pathlib import Path

DOCS = Path(__file__).parents[4] / "docs"


def test_the_diagram_in_the_docs_is_drawn_from_the_code():
    drawing = runpy.run_path(str(DOCS / "draw_session.py"))
    arrows = drawing["arrows"]()
    picture = drawing["draw"]()
    assert ("sealed", "committing", "TurnCame / Commit") in arrows
    assert all(f">{label}</text>" in picture for _, _, label in arrows)
    assert picture == (DOCS / "session.svg").read_text()
    assert "](session.svg)" in (DOCS / "session.md").read_text()
