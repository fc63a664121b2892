"""Hugging Face's `Trainer` over ckptd: a callback that saves where the trainer would, and resumes from there.

The trainer decides when to save; the callback takes that over before it does, so that nothing is written twice, and
training goes on while ckptd writes. What the trainer logs and finds out about a step comes after the decision, so the
state is taken once that is in it.

To resume, the trainer wants a directory with weights and its own state, which says where in the data to go on.
`CkptdCallback.resume` makes one out of the newest checkpoint, for as long as it is needed; optimizer, scheduler and
random generators are set by the callback itself.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ckptd.client.checkpointer import Checkpointer
from ckptd.torch.loading import load
from ckptd.torch.places import Place, checkpointer_at, membership
from ckptd.torch.randomness import random_state, set_random_state
from ckptd.torch.saving import save

_transformers: Any = importlib.import_module("transformers")  # its types are not looked at
_log = logging.getLogger("ckptd.torch")

_TRAINER_STATE = "trainer_state.json"  # what the trainer looks for
_WEIGHTS = "model.safetensors"


class CkptdCallback(_transformers.TrainerCallback):  # type: ignore[misc]
    """Saves model, optimizer, scheduler, random generators and the trainer's state whenever the trainer wants to save.

    ::

        callback = CkptdCallback("/checkpoints/runs/bert", max_to_keep=3)
        trainer = Trainer(model, args, train_dataset=rows, callbacks=[callback])
        trainer.train(resume_from_checkpoint=callback.resume())
    """

    def __init__(self, where: Place, *, alone: bool = True, **options: Any) -> None:
        """Say where checkpoints go.

        Args:
            where: a `ckptd.Checkpointer` or a path, as `ckptd.torch.save` takes them.
            alone: the trainer writes no checkpoints of its own. Otherwise it writes them too, and for the strategy
                "best", which decides too late to be taken over, it does so in any case.
            options: for a path, those of the `ckptd.Checkpointer` that is made for it.
        """
        self._where = where
        self._alone = alone
        self._options = options
        self._is_due = False
        self._saved_step = -1
        self._resumed: dict[str, Any] | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def resume(self, step: int | None = None) -> str | None:
        """Return what to pass as ``resume_from_checkpoint``; None when there is no checkpoint yet.

        It is a directory on this host that holds the weights until training begins, and is gone then.

        Args:
            step: of the checkpoint; None for the newest.
        """
        checkpointer = self._checkpointer()
        if step is None and checkpointer.latest() is None:
            return None
        saved = load(checkpointer, step)
        weights = {name: tensor.contiguous() for name, tensor in saved.pop("model").items()}
        self._directory = tempfile.TemporaryDirectory(prefix="ckptd-resume-")
        directory = Path(self._directory.name)
        save_file(weights, directory / _WEIGHTS, metadata={"format": "pt"})
        (directory / _TRAINER_STATE).write_text(saved["trainer"], encoding="utf-8")
        self._resumed = saved
        return str(directory)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give optimizer and scheduler what was saved of them."""
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None
        self._saved_step = state.global_step
        if self._resumed is None:
            return
        for name in ("optimizer", "lr_scheduler"):
            kwargs[name].load_state_dict(self._resumed.pop(name))

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the random generators when an epoch begins, before the order of its data is drawn."""
        if self._resumed is not None and float(state.epoch or 0).is_integer():
            self._set_random_state()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the random generators within an epoch, after the data that was seen before has been passed over."""
        if self._is_due:  # no log has come
            self._save(state, **kwargs)
        if self._resumed is not None:
            self._set_random_state()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Take over a save that is due after a step."""
        return self._take_over(state, control, **kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Take over a save that is due after an epoch."""
        return self._take_over(state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save once what was logged is in the state, unless an evaluation follows."""
        if self._is_due and not control.should_evaluate:
            self._save(state, **kwargs)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save once what was evaluated is in the state."""
        if self._is_due:
            self._save(state, **kwargs)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save beside the trainer, which has just done so."""
        self._save(state, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait until the last checkpoint is durable; raise what ended a save, if anything did."""
        if self._is_due:
            self._save(state, **kwargs)
        self._checkpointer().wait()

    def _take_over(self, state: Any, control: Any, **kwargs: Any) -> Any:
        if not control.should_save or not self._alone:
            return control
        control.should_save = False
        self._is_due = True
        if not (control.should_log or control.should_evaluate):
            self._save(state, **kwargs)
        return control

    def _save(self, state: Any, **kwargs: Any) -> None:
        self._is_due = False
        if state.global_step == self._saved_step:
            return
        self._saved_step = state.global_step
        checkpointer = self._checkpointer()
        save(
            {
                "model": kwargs["model"],
                "optimizer": kwargs["optimizer"],
                "lr_scheduler": kwargs["lr_scheduler"],
                "random": random_state(checkpointer.rank, checkpointer.world_size),
                "trainer": json.dumps(dataclasses.asdict(state)),
            },
            checkpointer,
            state.global_step,
            overwrite=True,
        )

    def _set_random_state(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        rank = membership().get("rank", 0)
        if not set_random_state(resumed["random"], rank):
            _log.warning("fewer ranks saved than train now: rank %d draws other random numbers than before", rank)

    def _checkpointer(self) -> Checkpointer:
        return checkpointer_at(self._where, self._options)
