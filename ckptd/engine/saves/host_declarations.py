"""What the ranks of a host declare, as if each had said it to this coordinator itself."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from itertools import groupby

from ckptd.engine.checkpoint import Checkpoint
from ckptd.engine.identity import Declaration, SaveRef
from ckptd.engine.layout import Assignment
from ckptd.engine.saves.asked import Asked
from ckptd.engine.saves.coordinator import Coordinator
from ckptd.engine.saves.host_places import HostPlaces
from ckptd.format import names


def declarations_of(places: HostPlaces, asked: Asked) -> list[Declaration]:
    """Return the declaration of each rank, in their order; those that have lost their places get them again.

    Raises:
        CkptdError: why a rank gets no place.
    """
    said, host = asked.said, asked.by.host
    found: list[Declaration] = []
    for part, known in zip(said.parts, places.epochs_of(host, said.run, [e.member for e in said.parts]), strict=True):
        epoch = places.place(host, said.run, part.member, part.options) if known is None else known
        declared, ref = part.declaration, part.declaration.save
        save = SaveRef(ref.run, epoch, ref.step, rank=ref.rank, incarnation=part.member.incarnation)
        if not found:
            stamped = asked.stamp(replace(declared, save=save, host=host, is_repeated=not asked.is_new))
        else:  # all are of one run and said by one caller, so that the stamp is the same
            stamped = replace(
                declared,
                save=save,
                host=host,
                is_repeated=not asked.is_new,
                actor=found[0].actor,
                append_only=found[0].append_only,
            )
        found.append(stamped)
    return found


def declare(coordinator: Coordinator, declarations: Sequence[Declaration]) -> list[Future[Assignment | Checkpoint]]:
    """Take declarations of one save; the answers, as of `Coordinator.declare`, are in their order.

    Raises:
        CkptdError: one of them cannot be taken: then none is.
    """
    for each in declarations:
        names.check_checkpoint_name(each.name)
        names.check_meta_suffix(each.meta_suffix)
    manifests = [coordinator.manifests.find(each.manifest_digest) for each in declarations]
    return coordinator.agents.declare(list(zip(declarations, manifests, strict=True)))


def of_one_save(declarations: Sequence[Declaration]) -> list[list[Declaration]]:
    """Divide declarations by the saves that they are of: mostly they are all of one."""
    return [list(alike) for _, alike in groupby(declarations, lambda each: each.prefix)]
