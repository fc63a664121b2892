"""Find the checkpoint of a run that a name and a step mean; if there is none, list what exists instead."""

from __future__ import annotations

from collections.abc import Sequence

from ckptd.client.saving.transport import Located, RunCatalog
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.series import name_of, of_name
from ckptd.errors import InvalidRequestError, NotFoundError
from ckptd.format.names import ANY_NAME


def locate(catalog: RunCatalog, run: str, name: str, step: int | None) -> Located:
    """Return the checkpoint of `step`, or the latest, that `name` means; `NotFoundError` when there is none."""
    if step is None:
        latest = catalog.latest(name)
        if latest is None:
            raise NotFoundError(f"run {run!r} has no checkpoint yet{_of_others(catalog.checkpoints(), name)}")
        return latest
    everything = catalog.checkpoints()
    found = of_name(everything, name, checkpoint_of=_checkpoint)
    of_step = [located for located in found if located.checkpoint.step == step]
    if of_step:
        called = sorted({name_of(each.checkpoint) for each in of_step})
        if name != ANY_NAME and len(called) > 1:
            raise InvalidRequestError(f"step {step} exists under several names: {', '.join(called)}; pass name=")
        return of_step[-1]
    steps = ", ".join(str(located.checkpoint.step) for located in found[-5:])
    hint = f"; the newest are {steps}" if found else _of_others(everything, name) or "; it has none yet"
    others = sorted({name_of(each.checkpoint) for each in everything if each.checkpoint.step == step})
    if found and others:
        hint = f" of name {name!r}; there is one of {', '.join(others)}: pass name="
    raise NotFoundError(f"run {run!r} has no checkpoint of step {step}{hint}")


def _checkpoint(located: Located) -> Checkpoint:
    return located.checkpoint


def _of_others(found: Sequence[Located], name: str) -> str:
    """Return what to append where nothing has this name, but others are there."""
    if not found or of_name(found, name, checkpoint_of=_checkpoint):
        return ""
    called = ", ".join(sorted({name_of(each.checkpoint) for each in found})[:5])
    return f" of name {name!r}; it has some of {called}: pass name="
