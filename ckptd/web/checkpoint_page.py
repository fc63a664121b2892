"""The page of one checkpoint: its tensors, where each is, what its values are like, and how to load it."""

from __future__ import annotations

import time
from collections.abc import Mapping

from starlette.requests import Request
from starlette.responses import Response

from ckptd.access.visits import Visitor
from ckptd.engine.reading.tensor_list import Comparison, ListOrder, TensorLine, TensorList
from ckptd.errors import CorruptionError, InvalidRequestError
from ckptd.web import wording
from ckptd.web.loading_code import loading_code, shell_word
from ckptd.web.looks import ValueReader
from ckptd.web.pieces import MOST_PIECES, pieces
from ckptd.web.shelf import Shelf, Shelved
from ckptd.web.shell import Shell
from ckptd.web.tensor_table import TableQuery, table

_MOST_OTHERS = 500  # checkpoints to compare with
_MOST_NAME = 1500  # characters of a name in an address, once they are quoted


class CheckpointPages:
    """See the module.

    Attributes:
        shell: what all pages share.
        shelf: the checkpoints.
        looks: what reads values.
    """

    def __init__(self, shell: Shell) -> None:
        """Open nothing yet."""
        self.shell, self.shelf = shell, Shelf(shell.source)
        self.looks = ValueReader(self.shelf)

    async def checkpoint(self, request: Request) -> Response:
        """Answer `/runs/RUN/checkpoints/NAME`: the tensors, a hundred at a time."""
        return await self.shell.page(request, "checkpoint.html", lambda visitor: self._listed(request, visitor))

    async def tensor(self, request: Request) -> Response:
        """Answer `/runs/RUN/checkpoints/NAME/tensor`: one tensor, with its values where `values=1` says so."""
        looks = "values" in request.query_params
        if not looks:
            return await self.shell.page(request, "tensor.html", lambda visitor: self._described(request, visitor))
        return await self._with_values(request, "tensor.html")

    async def values(self, request: Request) -> Response:
        """Answer `…/tensor/values`: what the values are like, as a part of that page."""
        return await self._with_values(request, "values.html")

    async def _with_values(self, request: Request, template: str) -> Response:
        def fill(visitor: Visitor) -> Mapping[str, object]:
            shelved, line, older = self.asked(request, visitor)
            seen = self.looks.at(shelved, line.name, older)
            return {**self._described(request, visitor), "seen": seen}

        return await self.shell.page(request, template, fill, threads=self.looks.threads)

    def _listed(self, request: Request, visitor: Visitor) -> Mapping[str, object]:
        shelved, others = self.found(request, visitor)
        query = TableQuery.of(request.query_params)
        values = {**self._shared(shelved, others), "query": query, "order": ListOrder, "what": Comparison}
        try:
            tensors = self.shelf.tensors(shelved)
        except CorruptionError as error:
            return {**values, "damage": str(error), "tensors": None, "table": None, "older": None}
        older = self.older(query.against, others)
        before: TensorList | None = None if older is None else self.shelf.tensors(older)
        shown = table(tensors, query, before)
        at = older if query.only is Comparison.REMOVED and older is not None else shelved

        def url_of(line: TensorLine) -> str:
            is_in_both = shown.comparisons.get(line.name) in (Comparison.CHANGED, Comparison.UNKNOWN)
            return tensor_url(at, line, older.label if is_in_both and older is not None else "")

        return {**values, "damage": "", "tensors": tensors, "table": shown, "older": older, "url_of": url_of}

    def _described(self, request: Request, visitor: Visitor) -> Mapping[str, object]:
        shelved, line, older = self.asked(request, visitor)
        values = {
            **self._shared(shelved, self.shelf.of_run(shelved.run)),
            "line": line,
            "older": older,
            "here": tensor_url(shelved, line, ""),
            "values_url": tensor_url(shelved, line, "" if older is None else older.label, values=True),
            "read_url": tensor_url(shelved, line, "" if older is None else older.label) + "&values=1",
            "seen": None,
        }
        if line.problem:
            return {**values, "stored": None, "code": [], "pieces": []}
        stored = self.shelf.index(shelved).tensor(line.name)
        return {
            **values,
            "stored": stored,
            "code": loading_code(shelved.prefix, stored),
            "pieces": pieces(shelved, stored, self.shelf.tensors(shelved).num_shards),
            "most_pieces": MOST_PIECES,
        }

    def _shared(self, shelved: Shelved, others: list[Shelved]) -> dict[str, object]:
        at = next((number for number, each in enumerate(others) if each.label == shelved.label), 0)
        whole = [each for each in others if each.label != shelved.label]
        return {
            "run": shelved.run,
            "shelved": shelved,
            "page_url": wording.named_url(shelved.run, shelved.label),
            "others": whole[-_MOST_OTHERS:][::-1],
            "previous": others[at - 1] if at else None,
            "commands": commands(shelved),
            "now": time.time(),
        }

    def found(self, request: Request, visitor: Visitor) -> tuple[Shelved, list[Shelved]]:
        """Return the checkpoint that a request names, and all of its run."""
        run = self.shell.readable(visitor, request.path_params["run"])
        return self.shelf.find(run, request.path_params["label"]), self.shelf.of_run(run)

    def asked(self, request: Request, visitor: Visitor) -> tuple[Shelved, TensorLine, Shelved | None]:
        """Return the checkpoint, the tensor, and the older checkpoint that a request names."""
        shelved, others = self.found(request, visitor)
        said = request.query_params
        number = said.get("at", "")
        if number and not (number.isascii() and number.isdigit() and len(number) < 12):
            raise InvalidRequestError("at is the number of a tensor in the index", actual=number[:40])
        line = self.shelf.tensor(shelved, name=said.get("name"), number=int(number) if number else None)
        return shelved, line, self.older(said.get("against", ""), others)

    def older(self, label: str, others: list[Shelved]) -> Shelved | None:
        """Return the one of a run's checkpoints to compare with; None for no name."""
        return None if not label else self.shelf.find_in(others, label)

    def close(self) -> None:
        """Read no more."""
        self.looks.close()


def tensor_url(shelved: Shelved, line: TensorLine, against: str, *, values: bool = False) -> str:
    """Return the address of a tensor's page, or of its `values`: by name, or by number where that is too long."""
    said: dict[str, str] = {"name": line.name}
    if len(wording.query(said)) > _MOST_NAME or not is_text(line.name):
        said = {"at": str(line.number)}
    if against:
        said["against"] = against
    part = "/tensor/values" if values else "/tensor"
    return f"{wording.named_url(shelved.run, shelved.label)}{part}{wording.query(said)}"


def is_text(name: str) -> bool:
    """Say whether a name has no bytes in it that are no UTF-8: an address cannot hold such a one."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def commands(shelved: Shelved) -> list[tuple[str, str]]:
    """Return what a person may do about a checkpoint, and the command that does it."""
    prefix = shell_word(shelved.prefix)
    return [
        ("Read all of it, and check every byte", f"ckptd verify {prefix}"),
        ("List its tensors and shards", f"ckptd show {prefix}"),
        ("Write it as one file", f"ckptd export {prefix} {shell_word(shelved.label + '.safetensors')}"),
        ("Copy it", f"ckptd cp {prefix} DEST"),
    ]
