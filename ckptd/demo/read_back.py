"""The end of the demo: everything on disk is read again and compared with what the workers held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

import ckptd
from ckptd.demo import network, states
from ckptd.demo.digits import Digits
from ckptd.demo.findings import DemoOutcome, Kept
from ckptd.demo.network import STEP
from ckptd.demo.processes import Event
from ckptd.demo.script import Ending
from ckptd.storage.locations import open_store

NAME = "model.ckpt"
"""What the workers call their checkpoints."""


@dataclass(slots=True)
class Saved:
    """What the workers reported of one save that was published."""

    workers: int
    digest: str | None
    stall_s: float
    durable_s: float
    steps_meanwhile: int

    @classmethod
    def of(cls, saving: Sequence[Event], saved: Sequence[Event]) -> Saved:
        """Return what all workers have told of one save: when they had copied, and when it was durable."""
        return cls(
            workers=len(saved),
            digest=states.as_told(saving),
            stall_s=max(event.number("stall_s") for event in saving),
            durable_s=max(event.number("duration_s") for event in saved),
            steps_meanwhile=max(int(event.number("during") - event.number("step")) for event in saved),
        )


def read_back(run: str, saves: Mapping[int, Saved], digits: Digits, script: Ending, outcome: DemoOutcome) -> None:
    """Verify every checkpoint that is listed, and claim in `outcome` what was found.

    `run` is the path or URL of a run, and `saves` is by step.
    """
    state = ckptd.get_checkpoint_state(run)
    listed = list(state.all_model_checkpoint_paths) if state is not None else []
    whole: dict[str, NDArray[np.generic]] = {}
    for prefix in listed:
        step = int(prefix.rpartition("-")[2])
        report = ckptd.verify(prefix)
        whole = states.read(prefix)
        saved = saves.get(step)
        outcome.checkpoints.append(
            Kept(
                step=step,
                prefix=prefix,
                workers=saved.workers if saved else 0,
                shards=report.num_shards,
                size_bytes=report.size_bytes,
                stall_s=saved.stall_s if saved else 0.0,
                durable_s=saved.durable_s if saved else 0.0,
                steps_meanwhile=saved.steps_meanwhile if saved else 0,
                intact=report.ok,
                same_bits=saved is not None and states.digest(whole) == saved.digest,
            )
        )
    kept = outcome.checkpoints
    expected = sorted(saves)[-script.max_to_keep :]
    outcome.claim(
        f"the {len(expected)} newest checkpoints are kept, and no others",
        [checkpoint.step for checkpoint in kept] == expected
        and sorted(key for key in open_store(run).keys("") if key.endswith(".index"))
        == sorted(f"{NAME}-{step}.index" for step in expected),
        f"steps {', '.join(str(checkpoint.step) for checkpoint in kept)}",
    )
    intact = sum(checkpoint.intact for checkpoint in kept)
    outcome.claim("every checksum of every tensor verifies", intact == len(kept) > 0, f"{intact} of {len(kept)} intact")
    same = sum(checkpoint.same_bits for checkpoint in kept)
    outcome.claim(
        "each checkpoint holds, bit for bit, what its workers held", same == len(kept) > 0, f"{same} of {len(kept)}"
    )
    if whole:
        values = {name: np.asarray(array, np.float32) for name, array in whole.items() if name != STEP}
        outcome.accuracy = network.accuracy(digits.test_images, digits.test_labels, values)
    outcome.claim(
        f"the last checkpoint recognises more than {script.least_accuracy:.0%} of {len(digits.test_labels)} "
        "digits that it has never seen",
        outcome.accuracy > script.least_accuracy,
        f"{outcome.accuracy:.1%}",
    )
