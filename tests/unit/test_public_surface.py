"""Tests use ckptd's public surface, and replace of it only what `tests/seams.py` names.

So moving code inside ckptd changes no test. What is looked at is the source of every test, and of every program in a
string of one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests import seams
from tests.seams import Seam

TESTS = Path(__file__).resolve().parents[1]
SEAMS = {name: seam for name, seam in vars(seams).items() if isinstance(seam, Seam)}

IMPORTS_OURS = re.compile(r"^\s*(import|from)\b.*\bckptd\b", re.MULTILINE)

FOREIGN = {
    ("conformance/dcp/test_dcp_resharding.py", "_init_from_local_shards"): "torch has no other way to such a tensor",
    ("conformance/dcp/test_dcp_shards.py", "_CHECKPOINT_PROCESS"): "torch ends its saving process too late",
    ("conformance/dcp/test_dcp_training.py", "_CHECKPOINT_PROCESS"): "torch ends its saving process too late",
    ("starts/forks.py", "_close_pipe_fds"): "a stand-in for subprocess.Popen, which has this for such classes",
    ("unit/tensorflow/test_keras_models.py", "_flatten_layers"): "Keras' own models find their layers so",
    ("unit/tensorflow/test_manager.py", "_checkpoint"): "TensorFlow's status tells nowhere else what it restores from",
    ("unit/torch/shards.py", "_make_wrapper_subclass"): "torch's way to a tensor without data",
    ("unit/torch/test_trainer_hooks.py", "_train_batch_size"): "what the stock trainer chose is compared",
    ("unit/torch/trainer_jobs.py", "_reset_state"): "accelerate keeps the ranks of the trainer before",
}
"""Private names of other libraries, by file, and why nothing else will do."""


@cache
def trees() -> dict[str, list[ast.Module]]:
    """Every file of the tests → its syntax tree, and those of the programs in its strings."""
    found = {}
    for path in sorted(TESTS.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        found[path.relative_to(TESTS).as_posix()] = [tree] if path == Path(__file__) else [tree, *programs(tree)]
    return found


def programs(tree: ast.Module) -> Iterator[ast.Module]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and IMPORTS_OURS.search(node.value):
            try:
                yield ast.parse(node.value)
            except SyntaxError:
                continue  # a part of a program, or prose


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__") and name != "_"


def own_names(tree: ast.Module) -> set[str]:
    """Private names that this file defines itself: functions, and what it sets on `self`."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and is_self(node.value):
            found.add(node.attr)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
    return {name for name in found if is_private(name)}


def is_self(node: ast.expr) -> bool:
    return isinstance(node, ast.Name) and node.id in ("self", "cls")


def private_uses(tree: ast.Module, own: set[str], of_tests: set[str]) -> Iterator[tuple[int, str]]:
    """Yield the line and name of each private name that is reached for; `of_tests` are those of any test's classes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node) != "os._exit":
            if node.attr not in (of_tests if is_self(node.value) else own):
                yield node.lineno, node.attr
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ckptd":
            yield from ((node.lineno, each.name) for each in node.names if is_private(each.name))
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("setattr", "delattr", "setitem")):
            for each in node.args[:2]:
                if isinstance(each, ast.Constant) and isinstance(each.value, str) and "ckptd" not in each.value:
                    yield from (
                        (node.lineno, each.value) for _ in [0] if is_private(each.value) and each.value not in own
                    )


def ours(tree: ast.Module) -> set[str]:
    """The names by which a file knows modules, classes and functions of ckptd."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "ckptd":
            found |= {each.asname or each.name for each in node.names}
        elif isinstance(node, ast.Import):
            found |= {(each.asname or each.name).split(".")[0] for each in node.names if each.name.startswith("ckptd")}
    return found


def replaced(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the line and the text of each replacement of something of ckptd that goes past the seams."""
    known = ours(tree)

    def is_ours(node: ast.expr) -> bool:
        if isinstance(node, ast.Constant):
            return isinstance(node.value, str) and node.value.startswith("ckptd.")
        while isinstance(node, ast.Attribute):
            node = node.value
        return isinstance(node, ast.Name) and node.id in known

    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and re.search(
            r"\b(setattr|delattr|patch|patch\.object)$", ast.unparse(node.func)
        ):
            if node.args and is_ours(node.args[0]):
                yield node.lineno, ast.unparse(node)[:100]
        elif isinstance(node, ast.Assign | ast.AugAssign):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Attribute) and is_ours(target.value):
                    yield node.lineno, ast.unparse(node)[:100]


def test_no_test_reaches_for_what_is_private() -> None:
    of_tests = set().union(*(own_names(tree) for each in trees().values() for tree in each))
    found, foreign = [], set()
    for path, each in trees().items():
        for tree in each:
            for line, name in private_uses(tree, own_names(each[0]) | own_names(tree), of_tests):
                if (path, name) in FOREIGN:
                    foreign.add((path, name))
                else:
                    found.append(f"tests/{path}:{line}: {name}")
    assert found == [], "use the public surface, or a seam (docs/testing.md)"
    assert foreign == set(FOREIGN), "these exceptions are needed no more"


def test_no_test_replaces_anything_of_ckptd_but_through_a_seam() -> None:
    found = [
        f"tests/{path}:{line}: {text}"
        for path, each in trees().items()
        for tree in each
        for line, text in replaced(tree)
    ]
    assert found == [], "name it in tests/seams.py, or pass it as an argument"


@pytest.mark.parametrize("name", SEAMS)
def test_every_seam_is_there_and_public_and_used(name: str) -> None:
    seam = SEAMS[name]
    assert not any(is_private(part) for part in re.split(r"[.:]", seam.where))
    assert seam.value is not None
    assert name in used_seams(), "nothing uses it"


@cache
def used_seams() -> set[str]:
    texts = (path.read_text("utf-8") for path in TESTS.rglob("*.py"))
    return {name for text in texts for name in re.findall(r"\bseams\.([A-Z_]+)\b", text)}


@pytest.mark.parametrize(
    "program",
    [
        "from ckptd.format import crc32c\ncrc32c._CHUNK_BYTES",
        "from ckptd.cli.main import _Listed",
        "ckpt._transport.latest('m')",
        "monkeypatch.setattr(module, '_limit', 3)",
        "class Mine(Catalog):\n    def begin(self):\n        self._ledger.note()",
    ],
)
def test_what_is_private_is_noticed(program: str) -> None:
    assert list(private_uses(ast.parse(program), set(), set()))


@pytest.mark.parametrize(
    "program",
    [
        "from ckptd.wire import frames\nmonkeypatch.setattr(frames, 'SEND_TIMEOUT_S', 1)",
        "monkeypatch.setattr('ckptd.wire.frames.SEND_TIMEOUT_S', 1)",
        "import ckptd\npatch.setattr(ckptd.engine.saves.save.Save, 'post', None)",
        "from ckptd.engine.saves.run import Run\nRun.tell = slow",
        "from ckptd.engine.saves.run import Run\nmock.patch.object(Run, 'tell')",
    ],
)
def test_what_goes_past_the_seams_is_noticed(program: str) -> None:
    assert list(replaced(ast.parse(program)))
