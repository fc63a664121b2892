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


def test_the_reference_of_the_command_line_is_what_its_program_writes():
    written = runpy.run_path(str(DOCS / "write_command_line.py"))["page"]()
    assert (DOCS / "command-line.md").read_text("utf-8") == written, "python docs/write_command_line.py --write"


def test_the_reference_of_the_python_interface_is_what_its_program_writes():
    program = runpy.run_path(str(DOCS / "write_api.py"))
    written = program["pages"]()
    for name, text in written.items():
        assert (DOCS / "api" / name).read_text("utf-8") == text, f"{name}: python docs/write_api.py --write"
    frameworks = {f"{page}.md" for page in program["FRAMEWORKS"].values()}
    assert {page.name for page in (DOCS / "api").iterdir()} == written.keys() | frameworks


def test_the_reference_of_the_command_line_has_every_command():
    from ckptd.cli.main import COMMANDS

    text = (DOCS / "command-line.md").read_text("utf-8")
    assert [name for name in COMMANDS if f"\n## ckptd {name}\n" not in text] == []


def test_the_reference_of_the_python_interface_has_every_name():
    import ckptd

    text = "".join(page.read_text("utf-8") for page in (DOCS / "api").glob("*.md"))
    assert [name for name in ckptd.__all__ if f"\n### {name}\n" not in text] == []


def test_the_reference_of_the_frameworks_modules_is_what_its_program_writes_and_has_every_name():
    for framework in ("torch", "jax", "tensorflow", "keras", "transformers", "lightning"):
        pytest.importorskip(framework)
    written = runpy.run_path(str(DOCS / "write_api.py"))
    pages = written["framework_pages"]()
    for module, page in written["FRAMEWORKS"].items():
        text = (DOCS / "api" / f"{page}.md").read_text("utf-8")
        assert text == pages[f"{page}.md"], f"{page}.md: python docs/write_api.py --write"
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
            for value in [entry] if isinstance(entry, str) else entry.values():
                yield from [value] if isinstance(value, str) else pages_of(value)

    pages = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    assert sorted(pages_of(site["nav"])) == sorted(pages)
    first = (DOCS / "index.md").read_text("utf-8") + (DOCS / "api" / "index.md").read_text("utf-8").replace(
        "](", "](api/"
    )
    assert [page for page in pages - {"index.md"} if f"]({page})" not in first and f"]({page}#" not in first] == []


def test_links_bear_titles_and_not_file_names():
    for page in [*DOCS.rglob("*.md"), REPOSITORY / "README.md"]:
        assert re.findall(r"\[[\w./-]+\.md\]\(", page.read_text("utf-8")) == [], page.name
