"""The table of a checkpoint's tensors as a page shows it: a level of their tree or a flat list, a hundred at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TypeVar

from ckptd.engine.reading.tensor_list import (
    Comparison,
    Folder,
    ListOrder,
    TensorLine,
    TensorList,
    compare,
    level,
)
from ckptd.errors import InvalidRequestError
from ckptd.web import wording

MOST_ROWS = 100
"""Of one page."""

Chosen = TypeVar("Chosen", bound=Enum)

_MOST_CHARACTERS = 1000  # of a filter or a path; a name may be longer, and its tensor is found by its number


@dataclass(frozen=True, slots=True)
class TableQuery:
    """What of the table is to be shown, as the address of the page says it.

    Attributes:
        text: what names have in them.
        under: what they begin with.
        order, descending: how they are sorted.
        page: which hundred, from 0 on.
        is_flat: a list and not a tree; so is what is filtered or sorted otherwise than by name.
        against: the name of the older checkpoint with which this one is compared; "" for none.
        only: of a comparison, what alone is shown.
    """

    text: str = ""
    under: str = ""
    order: ListOrder = ListOrder.NAME
    descending: bool = False
    page: int = 0
    is_flat: bool = False
    against: str = ""
    only: Comparison | None = None

    @classmethod
    def of(cls, said: Mapping[str, str]) -> TableQuery:
        """Read the parameters of a request.

        Raises:
            InvalidRequestError: for values that have no meaning, naming the parameter.
        """
        page = said.get("page", "0")
        if not (page.isascii() and page.isdigit() and len(page) < 8):
            raise InvalidRequestError("page is a whole number", actual=page[:40])
        for name in ("q", "under", "against"):
            if len(said.get(name, "")) > _MOST_CHARACTERS:
                raise InvalidRequestError(f"{name} has more than {_MOST_CHARACTERS} characters")
        return cls(
            text=said.get("q", ""),
            under=said.get("under", ""),
            order=_choice(ListOrder, "sort", said.get("sort", "name")),
            descending=said.get("desc") == "1",
            page=int(page),
            is_flat=said.get("flat") == "1",
            against=said.get("against", ""),
            only=_choice(Comparison, "only", said["only"]) if said.get("only") else None,
        )

    def url(self, **changes: object) -> str:
        """Return the address of the same table with other values; it begins again at its first page."""
        other = replace(self, **{"page": 0, **changes})  # type: ignore[arg-type]
        said = {
            "q": other.text,
            "under": other.under,
            "sort": "" if other.order is ListOrder.NAME else other.order.value,
            "desc": "1" if other.descending else "",
            "page": str(other.page or ""),
            "flat": "1" if other.is_flat else "",
            "against": other.against,
            "only": "" if other.only is None else other.only.value,
        }
        return wording.query(said)

    def sorted_by(self, order: str) -> str:
        """Return the address of the same table, sorted so; by the same again, the other way round."""
        wanted = ListOrder(order)
        is_same = wanted is self.order
        # What is large is of more interest than what is small.
        first_way = wanted in (ListOrder.SIZE, ListOrder.PIECES)
        return self.url(order=wanted, descending=not self.descending if is_same else first_way)


def _choice(kind: type[Chosen], name: str, value: str) -> Chosen:
    try:
        return kind(value)
    except ValueError as error:
        choices = ", ".join(each.value for each in kind)
        raise InvalidRequestError(f"{name} is one of: {choices}", actual=value[:40]) from error


@dataclass(frozen=True, slots=True)
class TensorTable:
    """One page of the table.

    Attributes:
        query: what it shows.
        folders, rows: of this page.
        crumbs: the way to `query.under`: labels and paths.
        num_found: folders and tensors on all pages.
        num_pages: at least 1.
        size_bytes: of the tensors below `query.under` that were found.
        comparisons: by the names of `rows`; empty without a comparison.
        counts: how many tensors there are of each comparison.
    """

    query: TableQuery
    folders: Sequence[Folder]
    rows: Sequence[TensorLine]
    crumbs: Sequence[tuple[str, str]]
    num_found: int
    num_pages: int
    size_bytes: int
    comparisons: Mapping[str, Comparison] = field(default_factory=dict)
    counts: Mapping[Comparison, int] = field(default_factory=dict)


def table(tensors: TensorList, query: TableQuery, older: TensorList | None = None) -> TensorTable:
    """Return a page of the table; with `older`, compared with that by checksums."""
    comparisons: dict[str, Comparison] = {}
    counts: Counter[Comparison] = Counter()
    selected = tensors.selected(text=query.text, under=query.under, order=query.order, descending=query.descending)
    if older is not None:
        compared = compare(tensors, older)
        comparisons = {row.name: what for what, row in compared}
        counts = Counter(what for what, _ in compared)
        if query.only is Comparison.REMOVED:
            gone = {row.name for what, row in compared if what is Comparison.REMOVED}
            before = older.selected(text=query.text, under=query.under, order=query.order, descending=query.descending)
            selected = [row for row in before if row.name in gone]
        elif query.only is not None:
            selected = [row for row in selected if comparisons[row.name] is query.only]
    is_tree = not (query.is_flat or query.text or query.order is not ListOrder.NAME or query.only is not None)
    folders, rows = level(selected, query.under, tensors.separator) if is_tree else ([], selected)
    if is_tree and query.descending:
        folders, rows = folders[::-1], rows[::-1]
    num_found = len(folders) + len(rows)
    num_pages = max(1, -(-num_found // MOST_ROWS))
    begin = min(query.page, num_pages - 1) * MOST_ROWS
    shown_folders = folders[begin : begin + MOST_ROWS]
    first_row = max(0, begin - len(folders))
    return TensorTable(
        query=replace(query, page=begin // MOST_ROWS),
        folders=shown_folders,
        rows=rows[first_row : first_row + MOST_ROWS - len(shown_folders)],
        crumbs=_crumbs(query.under, tensors.separator),
        num_found=num_found,
        num_pages=num_pages,
        size_bytes=sum(row.size_bytes for row in selected),
        comparisons=comparisons,
        counts=counts,
    )


def _crumbs(under: str, separator: str) -> list[tuple[str, str]]:
    found, at = [], 0
    while (end := under.find(separator, at)) >= 0:
        found.append((under[at : end + len(separator)], under[: end + len(separator)]))
        at = end + len(separator)
    return found
