"""The same as the pages of checkpoints show, as JSON: `/api/v1/…`. Every document is bounded, a list comes in pages."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace

from starlette.requests import Request
from starlette.responses import Response

from ckptd.access.visits import Visitor
from ckptd.engine.reading.tensor_list import TensorLine
from ckptd.web.checkpoint_page import CheckpointPages
from ckptd.web.loading_code import loading_code
from ckptd.web.pieces import pieces
from ckptd.web.shelf import Shelved
from ckptd.web.tensor_table import TableQuery, table

_MOST_RUNS = 10_000
_MOST_CHECKPOINTS = 1_000  # the newest ones


class CheckpointApi:
    """See the module."""

    def __init__(self, pages: CheckpointPages) -> None:
        """Tell what `pages` show."""
        self._pages = pages

    async def runs(self, request: Request) -> Response:
        """Answer `/api/v1/runs`: the names of the runs that the visitor may read."""

        def fill(visitor: Visitor) -> object:
            names = [each for each in self._pages.shell.source.names() if visitor.may_read(each)]
            return {"runs": names[:_MOST_RUNS], "num_runs": len(names)}

        return await self._pages.shell.document(request, fill)

    async def checkpoints(self, request: Request) -> Response:
        """Answer `/api/v1/runs/RUN/checkpoints`: the newest ones, oldest first."""

        def fill(visitor: Visitor) -> object:
            run = self._pages.shell.readable(visitor, request.path_params["run"])
            found = self._pages.shelf.of_run(run)
            shown = [_checkpoint(each) for each in found[-_MOST_CHECKPOINTS:]]
            return {"run": run, "checkpoints": shown, "num_checkpoints": len(found)}

        return await self._pages.shell.document(request, fill)

    async def checkpoint(self, request: Request) -> Response:
        """Answer `/api/v1/runs/RUN/checkpoints/NAME`: its tensors as a list, with the parameters of the page."""

        def fill(visitor: Visitor) -> object:
            shelved, others = self._pages.found(request, visitor)
            query = replace(TableQuery.of(request.query_params), is_flat=True)
            tensors = self._pages.shelf.tensors(shelved)
            older = self._pages.older(query.against, others)
            shown = table(tensors, query, None if older is None else self._pages.shelf.tensors(older))
            listed = [_tensor(line) for line in shown.rows]
            if older is not None:
                listed = [{**each, "change": shown.comparisons.get(str(each["name"]))} for each in listed]
            return {
                **_checkpoint(shelved),
                "num_tensors": len(tensors.rows),
                "num_found": shown.num_found,
                "page": shown.query.page,
                "num_pages": shown.num_pages,
                "tensors": listed,
                "against": None if older is None else older.label,
                "compared": {what.value: count for what, count in shown.counts.items()},
            }

        return await self._pages.shell.document(request, fill)

    async def tensor(self, request: Request) -> Response:
        """Answer `…/tensor?name=` or `?at=`: one tensor, where its bytes are, and the lines that load it."""

        def fill(visitor: Visitor) -> object:
            shelved, line, _ = self._pages.asked(request, visitor)
            if line.problem:
                return _tensor(line)
            shelf = self._pages.shelf
            stored = shelf.index(shelved).tensor(line.name)
            return {
                **_tensor(line),
                "pieces": pieces(shelved, stored, shelf.tensors(shelved).num_shards),
                "code": {each.key: each.text for each in loading_code(shelved.prefix, stored)},
            }

        return await self._pages.shell.document(request, fill)

    async def values(self, request: Request) -> Response:
        """Answer `…/tensor/values?name=`: what its values are like, and with `against=` how they have changed."""

        def fill(visitor: Visitor) -> object:
            shelved, line, older = self._pages.asked(request, visitor)
            seen = self._pages.looks.at(shelved, line.name, older)
            return {
                "name": line.name,
                "numbers": seen.numbers,
                "strings": seen.strings,
                "against": None if older is None else older.label,
                "difference": seen.contrast,
                "problem": seen.problem or None,
            }

        return await self._pages.shell.document(request, fill, self._pages.looks.threads)


def _checkpoint(each: Shelved) -> dict[str, object]:
    known: Mapping[str, object] = {} if each.checkpoint is None else asdict(each.checkpoint)
    return {"name": each.label, **known, "prefix": each.prefix, "problem": each.problem or None}


def _tensor(line: TensorLine) -> dict[str, object]:
    return {
        "at": line.number,
        "name": line.name,
        "dtype": line.dtype or None,
        "shape": line.shape,
        "size_bytes": line.size_bytes,
        "num_pieces": line.num_pieces,
        "crc32c": None if line.crc32c is None else f"{line.crc32c:08x}",
        "problem": line.problem or None,
    }
