"""One check of a directory: the checkpoint that its state file names, once all of it is there."""

from __future__ import annotations

from ckptd.engine.catalog import listed, presence, records, survey
from ckptd.engine.checkpoint import Checkpoint
from ckptd.errors import NotFoundError
from ckptd.format import names
from ckptd.format.state_file import MAX_SIZE_BYTES
from ckptd.storage.base import Store
from ckptd.storage.keys import join

_MOST_ATTEMPTS = 5  # at an index that is replaced while it is being read


class Looker:
    """Checks a directory again and again, at almost no cost while nothing changes."""

    def __init__(
        self, store: Store, directory: str, latest_filename: str = names.STATE_KEY, name: str = names.ANY_NAME
    ) -> None:
        self._store = store
        self._latest_filename = latest_filename
        self._name = name
        self._directory = directory
        self._state_key = join(directory, latest_filename)
        self._seen: tuple[str, str] | None = None
        self.listed: tuple[str, ...] = ()  # base names of what the state file listed with the last that was returned
        self._settled: str | None = None  # the state file of this version has been dealt with

    def look(self) -> Checkpoint | None:
        """Return the checkpoint that the state file names; None if there is none, or the same as at the last check.

        What is named but not all there yet, as while a directory is being copied, does not count. A checkpoint of ours
        was durable before it was named.

        Raises:
            CorruptionError: for a state file that cannot be read as one; it may be half written, by another process;
                or when what is there is no file.
        """
        version = None
        if not self._store.has_locks:
            # Each request to a bucket costs time and money, and there is no index that changes without the state file.
            version = self._version_of(self._state_key)
            if version == self._settled:
                return None
        for _ in range(_MOST_ATTEMPTS):
            data = presence.read_if_there(self._store, self._state_key, limit_bytes=MAX_SIZE_BYTES)
            if data is None:
                return None
            try:
                paths = listed.listed_paths(data, self._state_key)
                paths = survey.of_name(self._store, self._directory, paths, self._latest_filename, self._name)
                prefix = listed.resolve(self._store, self._directory, paths[-1]) if paths else None
                if prefix is None:
                    return None  # of another name, or of another directory, about whose files we know nothing
                index = self._store.stat(names.index_key(prefix))
            except NotFoundError:
                return None
            seen = prefix, index.version
            if seen == self._seen:
                self._settled = version
                return None
            run, _, name = prefix.rpartition("/")
            checkpoint, problem = survey.describe(self._store, index, records.of_prefix(self._store, run, name))
            if self._version_of(index.key) != index.version:
                continue  # replaced meanwhile: what was read may be of the one or the other
            if problem is not None:
                return None
            self._seen, self._settled = seen, version
            self.listed = tuple(path.replace("\\", "/").rpartition("/")[2] for path in paths)
            return checkpoint
        return None

    def quarantine_of(self, checkpoint: Checkpoint) -> str:
        """Return why a checkpoint of ours that was reported is in quarantine; "" when it is not."""
        name = checkpoint.prefix.rpartition("/")[2]
        if not checkpoint.save_id:
            return ""
        found = (
            record.quarantine
            for record in records.of_prefix(self._store, self._directory, name)
            if record.save_id == checkpoint.save_id and record.quarantine
        )
        return next((f"{name}: {reason}" for reason in found), "")

    def _version_of(self, key: str) -> str | None:
        try:
            return self._store.stat(key).version
        except NotFoundError:
            return None
