"""What a checkpoint holds, under the names that a program wants to have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from ckptd.client.reader import CheckpointReader
from ckptd.format.names import is_note
from ckptd.torch.arrays import Array
from ckptd.torch.renaming import Rename, renamed_names, renamed_tree, renamer
from ckptd.trees.flatten import leaves_of, read_outline
from ckptd.trees.outline import OUTLINE_NAME


class Stored:
    """The tensors of a checkpoint and the outline of how they nest; both as `rename` says.

    Attributes:
        prefix: of the checkpoint.
        tree: its outline; None when it has none, as others write checkpoints.
        shapes: of the tensors.
        dtypes: of the tensors, as numpy calls them.
    """

    def __init__(self, reader: CheckpointReader, rename: Rename | None = None) -> None:
        self._reader = reader
        self.prefix = reader.prefix
        self.tree = read_outline(reader[OUTLINE_NAME]) if OUTLINE_NAME in reader else None
        self._names = {name: name for name in reader if not is_note(name)}
        if rename is not None:
            self._rename(rename)
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        # An outline may name what is not there: whoever wants that is told.
        self._names = {name: stored for name, stored in self._names.items() if stored in shapes}
        self.shapes = {name: tuple(shapes[stored]) for name, stored in self._names.items()}
        self.dtypes = {name: dtypes[stored] for name, stored in self._names.items()}

    def _rename(self, rename: Rename) -> None:
        called = renamer(rename)
        if self.tree is None:
            self._names = renamed_names(self._names, called)
        else:
            self.tree, self._names = renamed_tree(self.tree, called)

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
