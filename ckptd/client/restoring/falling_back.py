"""What `Checkpointer.restore` does about damage: the run's owner reads again, and the newest that verifies is restored.

A program restores in one piece or in several calls. All of them read one checkpoint: once something of it has been
restored, damage is an error and `restore` does not go back: what came first would be of another step.
"""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from ckptd.client.deadline import Backoff, Deadline
from ckptd.client.restoring.locating import locate
from ckptd.client.saving.transport import Located, RestoreCall, RunCatalog
from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.reading.damage import DamageVerdict, Suspicion
from ckptd.engine.saves.starts import Agreement
from ckptd.engine.series import of_name
from ckptd.errors import CkptdError, CorruptionError, NotFoundError, NotPermittedError, UnavailableError
from ckptd.format.names import index_key
from ckptd.printable import printable

T = TypeVar("T")

_MOST_ATTEMPTS = 1000  # each skips one checkpoint
_MOST_PAUSE_S = 0.5
_REREADS = 1  # when the owner reads correct bytes: a bit of this host's memory may have been wrong once


@dataclass(slots=True)
class RestoredSoFar:
    """What one `Checkpointer` has restored so far.

    Attributes:
        checkpoint: the last one, None before the first.
        fell_back: of the last restore, if it went back: the step that was damaged, and why.
        passed: those that were found damaged here and could not be put in quarantine, by key: why.
    """

    checkpoint: Checkpoint | None = None
    fell_back: tuple[int | None, str] | None = None
    passed: dict[str, str] = field(default_factory=dict)


def restore_newest(
    catalog: RunCatalog,
    run: str,
    name: str,
    read: Callable[[Located, bool], T],
    restored: RestoredSoFar,
    *,
    falls_back: bool,
    together_s: float | None = None,
) -> T:
    """Return what `read` makes of the latest checkpoint, or, if that is damaged, of the newest that is not.

    `read` is told whether to go past this host's memory. With `together_s` all ranks agree, each waiting that long for
    the others.
    """
    call = RestoreCall(uuid.uuid4().hex, together_s is not None)
    located = newest = _next(catalog, run, name, call, restored, [])
    reasons: list[str] = []
    rereads = 0
    for _ in range(_MOST_ATTEMPTS):
        try:
            result = read(located, rereads > 0)
            if together_s is not None and not _all_have_it(catalog, name, located, call, True, together_s):
                reasons.append(f"{located.checkpoint.prefix}: another rank found it damaged")
                located = _next(catalog, run, name, call, restored, reasons)
                continue
        except (CorruptionError, NotFoundError) as error:
            now = _next(catalog, run, name, call, restored, reasons)
            if not _is_same(now.checkpoint, located.checkpoint):
                located = now  # it was deleted or replaced while it was read
                continue
            if isinstance(error, NotFoundError) and error.key != index_key(located.key):
                raise  # no such tensor
            verdict = _verdict(catalog, located, error, restored, call, falls_back)
            if verdict.is_confirmed:
                if together_s is not None:
                    _all_have_it(catalog, name, located, call, False, together_s)
                reasons.append(f"{located.checkpoint.prefix}: {verdict.reason}")
                if not verdict.is_listed_no_more:
                    restored.passed[located.key] = verdict.reason
            elif rereads == _REREADS:
                error.add_note(f"{verdict.reason}: this host's memory is at fault, or its connection to the bytes")
                raise
            else:
                rereads += 1
            located = _next(catalog, run, name, call, restored, reasons)
            continue
        restored.checkpoint = located.checkpoint
        if reasons:
            why = "; ".join(reasons)
            restored.fell_back = newest.checkpoint.step, why
            said = (
                f"ckptd: step {newest.checkpoint.step} of {run} is damaged, and step {located.checkpoint.step} is "
                f"restored instead: {why}"
            )
            sys.stderr.write(f"{printable(said)}\n")
            sys.stderr.flush()
        return result
    raise UnavailableError(f"the checkpoints of run {run!r} are replaced faster than they can be read")


def _verdict(
    catalog: RunCatalog,
    located: Located,
    error: CkptdError,
    restored: RestoredSoFar,
    call: RestoreCall,
    falls_back: bool,
) -> DamageVerdict:
    """Return the owner's verdict; raise `error`, with an explanation, where this process may not go back."""
    if not falls_back:
        raise error from error.__cause__
    try:
        verdict = catalog.check_damage(located, Suspicion.of(error), call)
    except (UnavailableError, NotPermittedError) as other:
        error.add_note(f"whether it is damage could not be found out: {other}")
        raise error from error.__cause__
    begun = restored.checkpoint
    if verdict is None:
        error.add_note("it was not read again: the daemon is older than this client and cannot do that")
    elif begun is not None and _is_same(begun, located.checkpoint):
        error.add_note(
            f"something of step {begun.step} has been restored before, and another step would not go with it: start "
            "the program again, and it restores the newest checkpoint that verifies"
        )
    elif verdict.others and not call.is_together:
        error.add_note(
            f"{verdict.others} restored this step already: start the job again, and all ranks restore the newest "
            "checkpoint that verifies"
        )
    else:
        return verdict
    raise error from error.__cause__


def _all_have_it(
    catalog: RunCatalog, name: str, located: Located, call: RestoreCall, is_whole: bool, timeout_s: float
) -> bool:
    """Report what was found here, and wait for the other ranks; return whether all of them read it without damage."""
    deadline, backoff = Deadline(timeout_s), Backoff()
    while True:
        agreement, missing = catalog.agree(name, located, call, is_whole)
        if agreement is not Agreement.WAITING:
            return agreement is Agreement.AGREED
        if deadline.has_passed:
            raise UnavailableError(
                f"{missing} did not restore step {located.checkpoint.step} within {timeout_s:g} s, and all ranks were "
                "to restore it together"
            )
        time.sleep(min(backoff.next_s(deadline), _MOST_PAUSE_S, deadline.remaining_s))


def _next(
    catalog: RunCatalog, run: str, name: str, call: RestoreCall, restored: RestoredSoFar, reasons: list[str]
) -> Located:
    """Return the newest checkpoint that was not passed by; `CorruptionError` when it was the last."""
    latest = catalog.latest(name, call)
    if latest is None:
        if reasons:
            raise CorruptionError(f"no checkpoint of run {run!r} is whole: {'; '.join(reasons)}")
        return locate(catalog, run, name, None)  # says what is there instead
    if latest.key not in restored.passed:
        return latest
    older = of_name(catalog.checkpoints(), name, checkpoint_of=lambda located: located.checkpoint)
    keys = [located.key for located in older]
    if latest.key in keys:
        older = older[: keys.index(latest.key)]
    for located in reversed(older):
        if located.key not in restored.passed:
            return located
    passed = "; ".join(f"{key}: {why}" for key, why in restored.passed.items())
    raise CorruptionError(f"no checkpoint of run {run!r} is whole: {passed}")


def _is_same(one: Checkpoint, other: Checkpoint) -> bool:
    return (one.save_id, one.prefix) == (other.save_id, other.prefix)
