"""Under which keys a save writes, so that it never writes over what is not its own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from ckptd.engine.catalog import deleting
from ckptd.engine.catalog.ledger import Ledger
from ckptd.engine.catalog.presence import has_object
from ckptd.engine.catalog.records import Record
from ckptd.engine.catalog.uncommitted import Uncommitted
from ckptd.errors import ConflictError, InvalidRequestError
from ckptd.format import names
from ckptd.storage.keys import join


class SaveKeys:
    """The keys of one run that saves use, or want to.

    Attributes:
        pad_step_number: whether steps in prefixes have eight digits.
    """

    def __init__(self, ledger: Ledger, uncommitted: Uncommitted, pad_step_number: bool) -> None:
        """See the class."""
        self._ledger, self._uncommitted = ledger, uncommitted
        self.pad_step_number = pad_step_number

    def num_shards(self, name: str, step: int | None, wanted: int) -> int:
        """Return the shard count for an attempt at this step: `wanted`, or the next that nothing there uses yet."""
        if wanted < 1:
            raise InvalidRequestError("a checkpoint has one shard at least", actual=wanted)
        prefix = join(self._ledger.run, self.prefix(name, step))
        taken = self._uncommitted.used_counts(prefix)
        for key in self.like(self.prefix(name, step)):
            parsed = names.parse_shard_key(key)
            if parsed is not None and parsed[0] == prefix:
                taken.add(parsed[2])
        index = deleting.index_in_place(self._ledger.store, names.index_key(prefix))
        if index is not None and index.num_shards is not None:
            taken.add(index.num_shards)
        return next(count for count in range(wanted, wanted + len(taken) + 1) if count not in taken)

    def check(self, record: Record, present: Collection[str]) -> None:
        """Refuse a save that would write over what is not its own; `present` are the keys that begin like its own."""
        ledger = self._ledger
        taken = {each.meta_key for each in ledger.records.values() if each.meta_graph and each.prefix != record.prefix}
        taken |= {join(ledger.run, each.latest_filename) for each in ledger.records.values()}
        taken |= {ledger.state.key, join(ledger.run, names.STATE_KEY), *set(present).intersection(record.shard_keys)}
        wanted = [*record.shard_keys, record.index_key]
        if record.meta_graph:
            wanted.append(record.meta_key)
            if record.meta_key in present and not self.owns_meta(record):
                taken.add(record.meta_key)
        for key in wanted:
            if key in taken:
                raise ConflictError("this key is taken, and not by a save of ours", key=key)

    def owns_meta(self, record: Record) -> bool:
        """Say whether the graph description in place is of the checkpoint that a save replaces, or was left by it."""
        attempts = (each for each in self._ledger.records.values() if each.prefix == record.prefix)
        if any(each.meta_graph and each.meta_suffix == record.meta_suffix for each in attempts if each != record):
            return True
        # What another program wrote beside its checkpoint has the usual name.
        return record.meta_suffix == "meta" and self.is_there(record.index_key)

    def like(self, prefix: str) -> Sequence[str]:
        """Return the keys of all files that may be of the checkpoint `prefix`, and of others that begin so."""
        return self._ledger.store.keys(self._ledger.run, prefix + ".")

    def prefix(self, name: str, step: int | None) -> str:
        """Return the prefix, within the run, of a step's checkpoint."""
        return name if step is None else names.prefix_for(name, step, self.pad_step_number)

    def is_there(self, key: str) -> bool:
        """Say whether an object is there."""
        return has_object(self._ledger.store, key)
