"""The list of a checkpoint's tensors: a tree, sorted, filtered, and compared by checksums alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import ckptd
from ckptd.engine.reading.bundle import Bundle
from ckptd.engine.reading.tensor_list import Comparison, ListOrder, TensorList, compare, level
from ckptd.format.slices import Box
from ckptd.storage.locations import open_store
from tests.conformance.bundle_files import BundleWriter


def contents(folder: Path, name: str, arrays: dict[str, Any], **options: Any) -> TensorList:
    ckptd.save_checkpoint(f"{folder}/{name}", arrays, **options)
    return TensorList.of(Bundle.open(open_store(str(folder)), name).index)


def arrays(*names: str) -> dict[str, Any]:
    return {name: np.zeros(at + 1, np.float32) for at, name in enumerate(names)}


def test_rows_say_what_the_index_says(tmp_path: Path) -> None:
    values = np.arange(6, dtype=np.int64).reshape(2, 3)
    found = contents(tmp_path, "m", {"w": values, "s": np.array([b"ab"], object)})
    assert [(row.name, row.dtype, row.shape, row.num_pieces) for row in found.rows] == [
        ("s", "string", (1,), 1),
        ("w", "int64", (2, 3), 1),
    ]
    assert found.rows[1].size_bytes == 48
    assert found.size_bytes == 48 + found.rows[0].size_bytes


def test_the_tree_joins_lonely_folders_and_counts_as_people_do(tmp_path: Path) -> None:
    found = contents(tmp_path, "m", arrays("a/b/l10/w", "a/b/l10/v", "a/b/l2/w", "a/b/l2/v", "a/b/x", "z/only"))
    folders, leaves = level(found.rows, "", found.separator)
    assert [(each.path, each.num_tensors) for each in folders] == [("a/b/", 5)]
    assert [row.name for row in leaves] == ["z/only"]
    folders, leaves = level(found.selected(under="a/b/"), "a/b/", "/")
    assert [each.label for each in folders] == ["l2/", "l10/"]
    assert [row.name for row in leaves] == ["a/b/x"]


def test_names_of_torch_are_parted_by_dots_and_those_of_tensorflow_are_not(tmp_path: Path) -> None:
    assert contents(tmp_path, "m-1", arrays("layer.0.weight", "layer.1.weight")).separator == "."
    assert contents(tmp_path, "m-2", arrays("a/.ATTRIBUTES/V", "b/.ATTRIBUTES/V")).separator == "/"


def test_odd_names_are_shown_somewhere_in_the_tree(tmp_path: Path) -> None:
    odd = ("/", "//", "a//b", "a//c", "a/", "x" * 5000 + "/y", "\n/\u202e", "<script>/1", "<script>/2")
    found = contents(tmp_path, "m", arrays(*odd))
    shown: list[str] = []
    todo = [""]
    while todo:
        under = todo.pop()
        folders, leaves = level(found.selected(under=under), under, "/")
        shown += [row.name for row in leaves]
        todo += [each.path for each in folders]
    assert sorted(shown) == sorted(odd)


def test_rows_are_filtered_and_sorted(tmp_path: Path) -> None:
    found = contents(tmp_path, "m", arrays("b/Kernel", "a/kernel", "c/bias"))
    assert [row.name for row in found.selected(text="KERNEL")] == ["a/kernel", "b/Kernel"]
    assert [row.name for row in found.selected(order=ListOrder.SIZE, descending=True)] == [
        "c/bias",
        "a/kernel",
        "b/Kernel",
    ]
    assert [row.name for row in found.selected(text="float32", under="c")] == ["c/bias"]


def test_two_checkpoints_are_compared_without_their_data(tmp_path: Path) -> None:
    older = contents(tmp_path, "m-1", {"same": np.ones(3), "moved": np.ones(3), "gone": np.ones(1), "cut": np.ones(3)})
    newer = contents(tmp_path, "m-2", {"same": np.ones(3), "moved": np.zeros(3), "new": np.ones(1), "cut": np.ones(4)})
    assert {row.name: what for what, row in compare(newer, older)} == {
        "same": Comparison.SAME,
        "moved": Comparison.CHANGED,
        "new": Comparison.ADDED,
        "cut": Comparison.RESHAPED,
        "gone": Comparison.REMOVED,
    }


def test_a_tensor_in_slices_is_compared_with_the_same_one_stored_whole(tmp_path: Path) -> None:
    values = np.arange(40, dtype=np.float32).reshape(10, 4)
    whole = contents(tmp_path, "m-1", {"rows": values, "columns": values})
    halves = [Box((0, 0), (5, 4)), Box((5, 0), (5, 4))]
    writer = BundleWriter(tmp_path / "m-2", num_shards=2)
    writer.add_boxes("rows", values, halves)
    writer.add_boxes("columns", values, [Box((0, 0), (10, 2)), Box((0, 2), (10, 2))])
    writer.finish()
    sliced = TensorList.of(Bundle.open(open_store(str(tmp_path)), "m-2").index)
    assert {row.name: row.num_pieces for row in sliced.rows} == {"rows": 2, "columns": 2}
    assert {row.name: what for what, row in compare(sliced, whole)} == {
        "rows": Comparison.SAME,
        "columns": Comparison.UNKNOWN,
    }
