"""The pages that programs write are what those programs write now, and every page can be found."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).resolve().parents[2]
DOCS = REPOSITORY / "docs"


@pytest.mark.parametrize(("program", "page"), [("write_command_line", "command-line"), ("write_api", "api")])
def test_a_reference_is_what_its_program_writes(program, page):
    written = runpy.run_path(str(DOCS / f"{program}.py"))["page"]()
    assert (DOCS / f"{page}.md").read_text("utf-8") == written, f"python docs/{program}.py --write"


def test_the_reference_of_the_command_line_has_every_command():
    from ckptd.cli.main import COMMANDS

    text = (DOCS / "command-line.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"\n## ckptd {name}\n" not in text] == []


def test_the_reference_of_the_python_interface_has_every_name():
    import ckptd

    text = (DOCS / "api.md").read_text("utf-8")
    assert [name for name in ckptd.__all__ if f"\n### {name}\n" not in text] == []


def test_the_reference_of_the_frameworks_modules_is_what_its_program_writes_and_has_every_name():
    for framework in ("torch", "jax", "tensorflow", "keras", "transformers", "lightning"):
        pytest.importorskip(framework)
    written = runpy.run_path(str(DOCS / "write_api.py"))
    text = (DOCS / "frameworks.md").read_text("utf-8")
    assert text == written["frameworks_page"](), "python docs/write_api.py --write"
    for module in written["FRAMEWORKS"]:
        names = importlib.import_module(module).__all__
        assert [name for name in names if f"\n### {module}.{name}\n" not in text] == []


def test_the_page_about_tests_names_files_that_are_there():
    named = re.findall(r"`(tests/[\w/.-]+)`", (DOCS / "testing.md").read_text("utf-8"))
    assert len(named) > 40
    assert [name for name in named if not (REPOSITORY / name).exists()] == []


def test_every_page_is_in_the_sites_navigation_and_on_the_first_page():
    site = tomllib.loads((REPOSITORY / "zensical.toml").read_text("utf-8"))["project"]

    def pages_of(entries):
        for entry in entries:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else pages_of(value)

    pages = {page.name for page in DOCS.glob("*.md")}
    assert set(pages_of(site["nav"])) == pages
    first = (DOCS / "index.md").read_text("utf-8")
    assert [page for page in pages - {"index.md"} if f"]({page})" not in first] == []
