"""No test may fail because something is slow: whoever waits for what must come waits for most of a minute."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parents[1]
LEAST_S = 40.0
A_MOMENT_S = 5.0
"""Shorter waits are no bounds: what is given a moment in which it must not come, or a timeout that is to pass."""

WAITS = frozenset({"acquire", "communicate", "get", "join", "poll", "result", "run", "settimeout", "wait"})
BOUNDS = ("WAIT_S", "BOUND_S", "WITHIN_S", "SOON_S")
CLOCKS_OF_THEIR_OWN = ("simulation", "fuzz", "e2e/floods.py", "e2e/test_floods.py", "services")


def seconds(node: ast.expr | None) -> float:
    return float(node.value) if isinstance(node, ast.Constant) and isinstance(node.value, int | float) else 0.0


def bounds(tree: ast.AST) -> Iterator[tuple[int, float]]:
    """Return the line and the seconds of each bound that is written as a number."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and any(ast.unparse(each).endswith(BOUNDS) for each in node.targets):
            yield node.lineno, seconds(node.value)
        if isinstance(node, ast.Call) and ast.unparse(node.func).rpartition(".")[2] in WAITS:
            given = [each.value for each in node.keywords if each.arg in ("timeout", "timeout_s")]
            if not node.keywords and len(node.args) == 1:
                given += node.args
            yield from ((node.lineno, seconds(each)) for each in given)


def test_nothing_that_must_come_is_waited_for_less_than_a_busy_machine_takes():
    hasty = [
        f"{path.relative_to(TESTS)}:{line}: {bound:g} s"
        for path in sorted(TESTS.rglob("*.py"))
        if not str(path.relative_to(TESTS)).startswith(CLOCKS_OF_THEIR_OWN)
        for line, bound in bounds(ast.parse(path.read_text()))
        if A_MOMENT_S <= bound < LEAST_S
    ]
    assert hasty == []


def test_bounds_are_found_wherever_they_are_written():
    written = "WAIT_S = 7\nthread.join(8)\nrun([], timeout=9)\npending.result(timeout=10.5)\nlater.join(b''.join(x))"
    assert [bound for _, bound in bounds(ast.parse(written)) if bound] == [7, 8, 9, 10.5]
