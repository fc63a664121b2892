"""The content of a checkpoint under the names of the program."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any

from ckptd.client.restoring.reader import CheckpointReader
from ckptd.errors import InvalidRequestError
from ckptd.format.names import is_note
from ckptd.torch.arrays import Array
from ckptd.torch.renaming import Rename, renamed_names, renamed_tree, renamer
from ckptd.trees.flatten import leaves_of
from ckptd.trees.merging import merged_outline, told

_log = logging.getLogger("ckptd.torch")


class Stored:
    """The tensors of a checkpoint and the outline of their nesting, both renamed.

    Attributes:
        prefix: of the checkpoint.
        tree: its outline, merged from those of all ranks; None if another program wrote the checkpoint.
        shapes: of the tensors.
        dtypes: of the tensors, for numpy.
    """

    def __init__(self, reader: CheckpointReader, rename: Rename | None = None) -> None:
        self._reader = reader
        self.prefix = reader.prefix
        outline = merged_outline(reader, reader)
        self.tree = outline.tree
        self._conflicts = outline.conflicts
        self._partial = outline.partial
        self._partial_names = self._names_below_partial()
        self._is_renamed = rename is not None
        self._names = {name: name for name in reader if not is_note(name)}
        if rename is not None:
            self._rename(rename)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        # An outline may name a missing tensor: loading it is an error.
        self._names = {name: stored for name, stored in self._names.items() if stored in shapes}
        self.shapes = {name: tuple(shapes[stored]) for name, stored in self._names.items()}
        self.dtypes = {name: dtypes[stored] for name, stored in self._names.items()}

    def _rename(self, rename: Rename) -> None:
        called = renamer(rename)
        if self.tree is None:
            self._names = renamed_names(self._names, called)
        else:
            self.tree, self._names = renamed_tree(self.tree, called)

    def is_of_some_ranks(self, node: Any, path: tuple[Any, ...]) -> bool:
        """Return whether only some of the ranks that saved had this part of the tree."""
        if not self._partial:
            return False
        names = [name for name, _ in leaves_of(node, path)]
        return path in self._partial or (bool(names) and all(map(self.is_name_of_some_ranks, names)))

    def is_name_of_some_ranks(self, name: str) -> bool:
        """Return whether only some of the ranks that saved had this tensor."""
        return self._names.get(name) in self._partial_names

    def _names_below_partial(self) -> set[str]:
        found: set[str] = set()
        for path in self._partial:
            node = self.tree
            for key in path:
                node = node[key]
            found.update(name for name, _ in leaves_of(node, path))
        return found

    def check_conflicts(self, into: Any, *, strict: bool) -> None:
        """Check whether ranks stored contradicting values among those that `into` requests; None requests all.

        Raises:
            InvalidRequestError: they did; without `strict` that is only logged, and the first rank's is loaded.
        """
        wanted = {path: what for path, what in self._conflicts.items() if self._is_renamed or _has_place(into, path)}
        if not wanted:
            return
        if strict:
            raise InvalidRequestError(
                f"ranks saved different things under one name: {told(wanted)}. Save such values under keys of each "
                "rank's own. Load without these keys through `into`, or with strict=False the first rank's"
            )
        _log.warning("%s: ranks saved different things, the first is loaded: %s", self.prefix, told(wanted))

    def names(self) -> list[str]:
        """Return the names of all tensors that belong to the state, in its order."""
        if self.tree is None:
            return list(self._names)
        return [name for name, _ in leaves_of(self.tree) if name in self._names]

    def read(self, names: Iterable[str]) -> dict[str, Array]:
        """Read whole tensors, each as an array that the caller owns."""
        wanted = list(names)
        return dict(zip(wanted, self._reader.get_many([self._names[name] for name in wanted]), strict=True))

    def fill(self, boxes: Iterable[tuple[str, Sequence[int], Array]]) -> None:
        """Read boxes of tensors into arrays, as `CheckpointReader.fill`."""
        self._reader.fill((self._names[name], start, array) for name, start, array in boxes)


def _has_place(into: Any, path: tuple[Any, ...]) -> bool:
    """Return whether nested state to load into has a place for a path."""
    for key in path:
        if not isinstance(into, dict) or not into:
            return True  # everything below is loaded
        if key not in into:
            return False
        into = into[key]
    return True
