"""Named parts of nested state: what `Checkpointer.save` takes, and what else its ranks have to agree on."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from ckptd.engine.replicas import Remark


def _nothing() -> Sequence[Remark]:
    return ()


class NamedParts(dict[str, Any]):
    """Name → what is saved.

    Attributes:
        remarks: returns what is compared between ranks beside the values; called where there are several.
        may_differ: names whose values need not be the same on all ranks.
    """

    def __init__(
        self,
        parts: Mapping[str, Any],
        remarks: Callable[[], Sequence[Remark]] = _nothing,
        may_differ: Collection[str] = (),
    ) -> None:
        """Take all parts."""
        super().__init__(parts)
        self.remarks = remarks
        self.may_differ = may_differ
