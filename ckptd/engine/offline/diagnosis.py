"""What is wrong with a run's own files, for commands that do not own the run. Nothing is changed."""

from __future__ import annotations

from collections.abc import Callable

from ckptd.engine.catalog import commit as durable
from ckptd.engine.catalog import epochs, listed, presence, records
from ckptd.errors import CorruptionError, NotPermittedError
from ckptd.format import names
from ckptd.storage.base import Store
from ckptd.storage.capabilities import local_path
from ckptd.storage.keys import join


def why_quarantined(store: Store, directory: str, latest_filename: str = names.STATE_KEY) -> str | None:
    """Say why a daemon cannot open the run in `directory`, as far as its small files tell; None when it can."""
    looks: tuple[Callable[[], object], ...] = (
        lambda: presence.check_directory(store, join(directory, records.DIRECTORY)),
        lambda: presence.check_directory(store, join(directory, records.ASIDE_DIRECTORY)),
        lambda: epochs.stored(store, directory),
        lambda: _check_state(store, join(directory, latest_filename)),
    )
    for look in looks:
        try:
            look()
        except (CorruptionError, NotPermittedError) as error:
            return str(error)
    return None


def damaged_records(store: Store, directory: str) -> list[str]:
    """Say which records cannot be read, and why; the run is served without them. On a local disk only."""
    if local_path(store) is None:
        return []
    return [str(error) for error in records.load(store, directory).unreadable]


def _check_state(store: Store, key: str) -> None:
    data = durable.look(store, key).data
    if data is not None:
        listed.decode_state(data, key)
