"""docs/architecture.md names files, classes and functions that exist, and lists every class name with two meanings."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGE = REPOSITORY / "ckptd"
PAGE = (REPOSITORY / "docs" / "architecture.md").read_text("utf-8")
QUOTED = re.compile(r"`([^`\n]+)`")
NAME = re.compile(r"[A-Z_a-z]\w*(\.\w+)*(\(\))?")
DUPLICATES_HEADING = "### Class names with more than one definition"


def sources():
    for path in [*sorted(PACKAGE.rglob("*.py")), REPOSITORY / "tests" / "suites" / "store_contract.py"]:
        if not path.name.endswith("_pb2.py") and PACKAGE / "wire" / "v1" not in path.parents:
            yield path


def defined_in(body, prefix=""):
    """Every name that a module defines, `Class.member` too, attributes that are set on `self` included."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield prefix + node.name
            yield from defined_in(node.body, f"{prefix}{node.name}.")
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
            for inner in ast.walk(node) if prefix else ():
                if isinstance(inner, ast.Attribute) and isinstance(inner.ctx, ast.Store):
                    yield prefix + inner.attr
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    yield prefix + target.id


DEFINED = {path: set(defined_in(ast.parse(path.read_text("utf-8")).body)) for path in sources()}
EVERYWHERE = set().union(*DEFINED.values())


def file_of(text):
    """The file or folder that a quoted text names; None if it names none, as `ckptd demo` does."""
    if (
        "NAME" in text
        or "…" in text
        or not re.fullmatch(r"[\w./-]+(\.\w+|/)", text)
        or not ("/" in text or ".py" in text)
    ):
        return None
    outside = text.startswith(("ckptd/", "tests/", "docs/")) or text == "pyproject.toml"
    return (REPOSITORY if outside else PACKAGE) / text


def test_every_file_on_the_page_exists():
    files = [(text, file_of(text)) for text in QUOTED.findall(PAGE)]
    assert len([text for text, file in files if file]) > 60
    assert [text for text, file in files if file and not file.exists()] == []


def test_every_class_on_the_page_exists_and_every_function_is_in_a_file_of_its_line():
    names = 0
    for line in PAGE.split("\n"):
        quoted = QUOTED.findall(line)
        here = set().union(*(DEFINED.get(file, set()) for file in map(file_of, quoted) if file))
        for text in quoted:
            if file_of(text) or not NAME.fullmatch(text) or not (text[0].isupper() or text.endswith("()")):
                continue
            names += 1
            where = here if here and text.endswith("()") else EVERYWHERE
            assert text.removesuffix("()") in where, f"{text} in: {line}"
    assert names > 40


def test_class_names_with_several_definitions_are_those_that_the_glossary_lists():
    found = defaultdict(set)
    for path in (path for path in DEFINED if PACKAGE in path.parents):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].add(path.relative_to(PACKAGE).as_posix())
    several = {name: files for name, files in found.items() if len(files) > 1}
    listed = {}
    for line in PAGE.partition(DUPLICATES_HEADING)[2].split("\n"):
        row = [cell.strip() for cell in line.strip("|").split("|")]
        if len(row) == 3 and row[0].startswith("`"):
            listed[row[0].strip("`")] = set(QUOTED.findall(row[1]))
            assert len(row[2].split()) >= 3, f"{row[0]} has no reason"
    assert listed == several


def test_every_room_and_sub_room_is_on_the_page():
    rooms = {path.parent.relative_to(PACKAGE).as_posix() + "/" for path in PACKAGE.rglob("__init__.py")}
    generated = {"./", "wire/v1/"}
    assert sorted(rooms - generated - set(QUOTED.findall(PAGE))) == []


def test_what_the_collector_calls_closes_nothing():
    """It may come while its thread holds a lock that closing needs: `dropping` hands the work to another thread."""
    calls = re.compile(r"weakref\.finalize\(|def __del__")
    found = {str(each.relative_to(PACKAGE)) for each in PACKAGE.rglob("*.py") if calls.search(each.read_text())}
    assert found == {
        "client/dropping.py",
        "client/watch.py",  # hands it over, too
        "storage/local/local_holds.py",  # a descriptor
        "tensorflow/restoring.py",  # a temporary directory
    }
