"""Hugging Face's `Trainer` over ckptd: a callback that saves where the trainer would, and resumes from there.

The callback replaces the method by which the trainer saves, so it saves the same state at the same moments, nothing is
written twice, other callbacks get their event, and training continues while ckptd writes.

To resume, the trainer needs a directory with its own state, which has the position in the data. `CkptdCallback.resume`
creates one from the newest checkpoint. The other state is loaded into the trainer's objects when training begins, and
the random generators are set when the trainer would set them.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import weakref
from typing import Any

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.options import check_step
from ckptd.errors import CkptdError, InvalidRequestError, NotFoundError
from ckptd.torch import trainer_hooks as hooks
from ckptd.torch.adapters import Adapters
from ckptd.torch.handing_out import from_rank_0, of_all_ranks
from ckptd.torch.places import Place, checkpointer_at, close_at, membership
from ckptd.torch.randomness import random_state, set_random_state
from ckptd.torch.saving import save
from ckptd.torch.stored import Stored
from ckptd.torch.trainer_keeping import Keeping
from ckptd.torch.trainer_model import adapters_of, fill_model, filled, place_of
from ckptd.torch.trainer_resuming import Resumed

_transformers: Any = importlib.import_module("transformers")  # its types are not checked
_EXPORTABLE: Any = importlib.import_module("transformers.trainer_callback").ExportableState
_log = logging.getLogger("ckptd.torch")


class CkptdCallback(_transformers.TrainerCallback):  # type: ignore[misc]
    """Saves model, optimizer, scheduler, random generators and the trainer's state whenever the trainer wants to save.

    ::

        callback = CkptdCallback("/checkpoints/runs/bert", max_to_keep=3)
        trainer = Trainer(model, args, train_dataset=rows, callbacks=[callback])
        trainer.train(resume_from_checkpoint=callback.resume())
    """

    def __init__(self, where: Place, *, alone: bool = True, adapters_only: bool = True, **options: Any) -> None:
        """Say where checkpoints go.

        Args:
            where: a `ckptd.Checkpointer` or a path, as for `ckptd.torch.save`. In a hyperparameter search each trial
                has a run below that path, with the name of the trainer's directory for the trial.
            alone: the trainer writes no checkpoints of its own. False: it writes them, too.
            adapters_only: for a ``peft.PeftModel``, store only the adapters, as the trainer does. False: store the base
                model, too.
            options: for a path, those of the `ckptd.Checkpointer` that is created for it.
        """
        self._where = where
        self._alone = alone
        self._adapters_only = adapters_only
        self._options = options
        self._trainer_there: weakref.ref[Any] | None = None
        self._resumed: Resumed | None = None
        self._saved_steps: set[int] = set()  # steps that existed when training began, or were saved since
        self._best: int | None = None  # the best of them
        self._keeping: Keeping | None = None

    def attach(self, trainer: Any) -> None:
        """Take over a trainer's saves. Only needed for a callback that is passed to ``add_callback``, before `resume`.

        It is added to the trainer's callbacks if it is not among them.

        Raises:
            InvalidRequestError: the trainer is not a ``transformers.Trainer``, trains with FSDP or DeepSpeed, or has
                another `CkptdCallback`.
        """
        hooks.check_trainer(trainer)
        callbacks = trainer.callback_handler.callbacks
        if not hooks.has_callback(trainer, self):
            trainer.add_callback(self)
        hooks.stand_in(
            trainer,
            self,
            {
                "_save_checkpoint": self._save_checkpoint,
                "_load_from_checkpoint": self._load_weights,
                "_load_rng_state": self._load_random_state,
            },
        )
        if self._trainer is trainer:
            return
        # First in the list: other callbacks see the loaded weights when training begins, and the best ones at its end.
        callbacks.insert(0, callbacks.pop(next(at for at, one in enumerate(callbacks) if one is self)))
        self._trainer_there = weakref.ref(trainer)
        if self._alone:
            hooks.warn_of_what_is_left_out(trainer)

    def resume(self, step: int | None = None) -> str | None:
        """Return the value for ``resume_from_checkpoint``; None if there is no checkpoint yet.

        It is a directory on this host, which is deleted when training has ended. Every rank calls this.

        Args:
            step: of the checkpoint; None for the newest.

        Raises:
            NotFoundError: there is no checkpoint of that step.
            InvalidRequestError: another program saved it.
        """
        checkpointer = self.checkpointer
        checkpointer.settle()
        if step is not None:
            step = check_step(step)
        else:
            latest = checkpointer.latest()
            if latest is None:
                return None
            step = latest.step
        with checkpointer.reader(step) as reader:
            # A trainer that was made without this callback loads weights from the directory.
            self._resumed = Resumed.of(Stored(reader), step, with_weights=self._trainer is None)
        return self._resumed.directory

    def on_init_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the saves of the trainer that is being created."""
        trainer = hooks.caller_of(self)
        if trainer is not None:
            self.attach(trainer)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Load the checkpoint that `resume` has found, if training resumes from it.

        Raises:
            InvalidRequestError: the trainer is unknown; ranks resume from different steps; or the checkpoint does not
                fit the trainer.
        """
        trainer = hooks.caller_of(self) or self._trainer
        if trainer is None:
            raise InvalidRequestError(
                "found no transformers.Trainer with this callback: call callback.attach(trainer) before train()"
            )
        self.attach(trainer)
        resumed = self._resumed
        if resumed is not None and resumed.trained_steps != state.global_step:
            _log.warning(
                "resume() found step %d, but train() did not get its result: training begins at step %d",
                resumed.trained_steps,
                state.global_step,
            )
            self._forget_resumed()
            resumed = None
        _check_agreement("ranks resume from different steps", None if resumed is None else resumed.step)
        checkpointer = self.checkpointer
        pinned = None if resumed is None else resumed.best_pinned
        self._keeping = Keeping(checkpointer, args.save_total_limit, pinned)
        self._saved_steps, self._best = set(), None
        if resumed is not None:
            self._restore(trainer, resumed)
            self._saved_steps = {one.step for one in checkpointer.checkpoints() if one.step is not None}
            self._best = state.best_global_step if state.best_global_step in self._saved_steps else pinned
            self._keeping.begin(self._best)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait until the last checkpoint is durable, and load the best one if that is requested.

        Raises:
            CkptdError: a save failed, or the best checkpoint was deleted.
        """
        error: CkptdError | None = None
        try:
            self._end()
        except CkptdError as own:
            error = own
        finally:
            self._forget_resumed()
        # No rank waits for a failed one, and none returns before rank 0 has deleted the checkpoints beyond the limit.
        failures = [f"rank {rank}: {one}" for rank, one in enumerate(of_all_ranks(error and str(error))) if one]
        if error is not None:
            raise error
        if failures:
            raise CkptdError("; ".join(failures))
        self._end_with_best(self._trainer)
        if self._trial_run():
            close_at(self._place(), self._options)  # there may be many trials, and no later save goes to this run

    @property
    def _trainer(self) -> Any:
        return None if self._trainer_there is None else self._trainer_there()

    def _save_checkpoint(self, stock: Any, model: Any, trial: Any = None, *args: Any, **kwargs: Any) -> None:
        """Replace the trainer's method, or save in addition to it."""
        trainer = self._trainer
        if not self._alone:
            stock(model, trial, *args, **kwargs)
        elif trainer.hp_search_backend is None and trial is None:
            trainer.store_flos()
        self._save(trainer)

    def _save(self, trainer: Any) -> None:
        state, step = trainer.state, trainer.state.global_step
        checkpointer = self.checkpointer
        if self._keeping is None:  # a save before training
            self._keeping = Keeping(checkpointer, trainer.args.save_total_limit, None)
        self._keeping.wait()
        self._saved_steps.add(step)
        if state.best_global_step in self._saved_steps:
            self._best = state.best_global_step
        whole: dict[str, Any] = {"model": self._stored_model(trainer.model)}
        if checkpointer.rank == 0:  # the state of other ranks may differ, such as in whether they are rank 0
            whole |= {"trainer": _as_json(trainer), "best_pinned": self._keeping.pinned}
        if not trainer.args.save_only_model:
            whole |= {"optimizer": trainer.optimizer, "lr_scheduler": trainer.lr_scheduler}
            whole["random"] = random_state(checkpointer.rank, checkpointer.world_size)
            if _scaler_of(trainer) is not None:
                whole["scaler"] = _scaler_of(trainer)
        self._keeping.after(save(whole, checkpointer, step, overwrite=True), self._best)

    def _load_weights(self, stock: Any, resume_from_checkpoint: str, *args: Any, **kwargs: Any) -> None:
        """Replace the trainer's method: ckptd's checkpoints are loaded when training begins."""
        if not self._is_ours(resume_from_checkpoint):
            stock(resume_from_checkpoint, *args, **kwargs)

    def _load_random_state(self, stock: Any, checkpoint: str | None) -> None:
        """Replace the trainer's method."""
        if self._resumed is None or not self._is_ours(checkpoint):
            stock(checkpoint)
            return
        random, rank = self._resumed.random, membership().get("rank", 0)
        if random is not None and not set_random_state(random, rank):
            _log.warning("fewer ranks saved than train now: rank %d continues with other random numbers", rank)

    def _is_ours(self, checkpoint: str | os.PathLike[str] | None) -> bool:
        return self._resumed is not None and self._resumed.is_at(checkpoint)

    def _restore(self, trainer: Any, resumed: Resumed) -> None:
        parts = {
            "optimizer": trainer.optimizer,
            "lr_scheduler": trainer.lr_scheduler,
            "scaler": _scaler_of(trainer),
        }
        wanted = [name for name, part in parts.items() if part is not None and name in resumed.names]
        also = ["random"] if "random" in resumed.names else []
        loaded = self._loaded(trainer.model, resumed.step, [*wanted, *also])
        for name in wanted:
            parts[name].load_state_dict(loaded.pop(name))
        resumed.random = loaded.get("random")
        resumed.drop_weights()

    def _loaded(self, model: Any, step: int | None, parts: list[str]) -> dict[str, Any]:
        """Load the model, and return other parts. Rank 0 reads them from the store and sends them to the others."""
        checkpointer = self.checkpointer

        def read() -> dict[str, Any]:
            with checkpointer.reader(step) as reader:
                stored = Stored(reader)
                holder = fill_model(stored, model)
                others = filled(stored, {name: {} for name in parts}) if parts else {}
            # Only needed to send it to other ranks.
            return {**others, "model": holder.state_dict() if checkpointer.world_size > 1 else {}}

        loaded: dict[str, Any] = from_rank_0(read)
        weights = loaded.pop("model")
        if checkpointer.rank != 0:
            place_of(model, weights).load_state_dict(weights)
        return loaded

    def _stored_model(self, model: Any) -> Any:
        return Adapters(model) if self._adapters_only and adapters_of(model) else model

    def wait(self) -> None:
        """Wait until what was saved is durable, and what exceeds ``save_total_limit`` is deleted.

        Raises:
            CkptdError: what kept it from that.
        """
        self.checkpointer.wait()
        if self._keeping is not None:
            self._keeping.wait()

    def _end(self) -> None:
        checkpointer = self.checkpointer
        checkpointer.wait()
        if self._keeping is not None:
            self._keeping.end(self._best)
        checkpointer.settle()

    def _end_with_best(self, trainer: Any) -> None:
        if self._best is None or not self._alone:
            return  # the trainer uses its own checkpoints
        checkpointer = self.checkpointer
        if trainer.args.load_best_model_at_end:
            try:
                self._loaded(trainer.model, self._best, [])
            except NotFoundError as error:
                raise NotFoundError(
                    f"load_best_model_at_end: step {self._best} was the best one, and is missing in "
                    f"{checkpointer.run!r}"
                ) from error
        trainer.state.best_model_checkpoint = checkpointer.prefix_of(self._best)

    def _forget_resumed(self) -> None:
        if self._resumed is not None:
            self._resumed.clean_up()
        self._resumed = None

    def _trial_run(self) -> str:
        """Return the trainer's name for the directory of a trial in a search; otherwise an empty text."""
        trainer = self._trainer
        trial = getattr(trainer, "_trial", None)
        if trainer is None or trainer.hp_search_backend is None or trial is None:
            return ""
        return str(os.path.relpath(trainer._get_output_dir(trial), trainer.args.output_dir))

    def _place(self) -> Place:
        trial = self._trial_run()
        if not trial:
            return self._where
        if isinstance(self._where, Checkpointer):
            raise InvalidRequestError(
                "each trial of a hyperparameter search needs a run of its own: give CkptdCallback a path"
            )
        return f"{os.fspath(self._where).rstrip('/')}/{trial}"

    @property
    def checkpointer(self) -> Checkpointer:
        """What it saves with; in a hyperparameter search that of the trial under way."""
        return checkpointer_at(self._place(), self._options)


def _scaler_of(trainer: Any) -> Any:
    """Return the gradient scaler for half precision, if the trainer has one."""
    return getattr(getattr(trainer, "accelerator", None), "scaler", None)


def _check_agreement(what: str, value: Any) -> None:
    values = of_all_ranks(value)
    if any(one != value for one in values):
        told = ", ".join(f"rank {rank}: {one}" for rank, one in enumerate(values))
        raise InvalidRequestError(f"{what}: {told}. Start the job again, or pass resume() a step")


def _as_json(trainer: Any) -> str:
    """Return the trainer's state as the trainer saves it: with the states of the callbacks."""
    state = trainer.state
    states: dict[str, Any] = {}
    for one in [*trainer.callback_handler.callbacks, trainer.control]:
        if isinstance(one, _EXPORTABLE):
            states.setdefault(type(one).__name__, []).append(one.state())
    state.stateful_callbacks = {name: each[0] if len(each) == 1 else each for name, each in states.items()}
    # The trainer stores its own directory there; ckptd uses the best step.
    return json.dumps({**dataclasses.asdict(state), "best_model_checkpoint": None})
