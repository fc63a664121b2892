"""Hugging Face's `Trainer` over ckptd: a callback that saves where the trainer would, and resumes from there.

The trainer decides when to save; the callback takes that over before it does, so that nothing is written twice, and
training goes on while ckptd writes. What the trainer logs and finds out about a step comes after the decision, so the
state is taken once that is in it.

To resume, the trainer wants a directory with weights and its own state, which says where in the data to go on.
`CkptdCallback.resume` makes one out of the newest checkpoint, for as long as it is needed; optimizer, scheduler and
random generators are set by the callback itself.

Which step is the best one is decided after an evaluation was told, so that a save that comes with it waits for the next
event; nothing is trained in between. The best one is pinned, and ``save_total_limit`` counts it, as the trainer's does.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import json
import logging
import tempfile
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ckptd.client.checkpointer import Checkpointer
from ckptd.client.saving.pending import PendingSave
from ckptd.errors import ConflictError, InvalidRequestError, NotFoundError
from ckptd.torch.loading import load
from ckptd.torch.places import Place, checkpointer_at, membership
from ckptd.torch.randomness import random_state, set_random_state
from ckptd.torch.saving import save

_transformers: Any = importlib.import_module("transformers")  # its types are not looked at
_EXPORTABLE: Any = importlib.import_module("transformers.trainer_callback").ExportableState
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
        self._random: dict[str, Any] | None = None  # as it was when a save that waits came due
        self._saved_step = -1
        self._last: PendingSave | None = None
        self._best: int | None = None  # when the last save began
        self._best_pinned: int | None = None
        self._resumed: dict[str, Any] | None = None
        self._resumed_step: int | None = None
        self._directory: tempfile.TemporaryDirectory[str] | None = None

    def resume(self, step: int | None = None) -> str | None:
        """Return what to pass as ``resume_from_checkpoint``; None when there is no checkpoint yet.

        It is a directory on this host that holds the weights until training begins, and is gone then.

        Args:
            step: of the checkpoint; None for the newest.
        """
        checkpointer = self._checkpointer()
        checkpointer.settle()
        latest = checkpointer.latest()
        if step is None and latest is None:
            return None
        self._resumed_step = step if latest is None or step is not None else latest.step
        # Weights and the trainer's state now; the rest is read when it is set, and not held until then.
        saved = load(checkpointer, self._resumed_step, into={"model": {}, "trainer": None})
        weights = {name: tensor.contiguous() for name, tensor in saved.pop("model").items()}
        self._directory = tempfile.TemporaryDirectory(prefix="ckptd-resume-")
        directory = Path(self._directory.name)
        save_file(weights, directory / _WEIGHTS, metadata={"format": "pt"})
        (directory / _TRAINER_STATE).write_text(saved["trainer"], encoding="utf-8")
        try:
            noted = load(checkpointer, self._resumed_step, into={"best_pinned": None})
        except InvalidRequestError:  # saved by a version that did not pin the best step
            noted = {}
        self._best_pinned = noted.get("best_pinned")
        self._resumed = {}
        return str(directory)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Give optimizer, scheduler and scaler what was saved of them."""
        if self._directory is not None:
            self._directory.cleanup()
            self._directory = None
        self._saved_step = state.global_step
        if self._resumed is None:
            self._best_pinned = None
            return
        with self._checkpointer().reader(self._resumed_step) as stored_names:
            names = {name.partition("/")[0] for name in stored_names}
        parts = {**kwargs, "scaler": _scaler()}
        for name in ("optimizer", "lr_scheduler", "scaler"):
            if name in names and parts.get(name) is not None:
                stored = load(self._checkpointer(), self._resumed_step, into={name: {}})
                parts[name].load_state_dict(stored[name])
        if "random" in names:
            self._resumed = load(self._checkpointer(), self._resumed_step, into={"random": {}})
        else:  # only the model was saved
            self._resumed = None

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the random generators when an epoch begins, before the order of its data is drawn."""
        self._save_what_waits(args, state, **kwargs)
        if self._resumed is not None and float(state.epoch or 0).is_integer():
            self._set_random_state()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the random generators within an epoch, after the data that was seen before has been passed over."""
        self._save_what_waits(args, state, **kwargs)
        if self._resumed is not None:
            self._set_random_state()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Take over a save that is due after a step."""
        return self._take_over(args, state, control, **kwargs)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Take over a save that is due after an epoch."""
        self._save_what_waits(args, state, **kwargs)
        return self._take_over(args, state, control, **kwargs)

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save once what was logged is in the state, unless an evaluation follows."""
        if self._is_due and not control.should_evaluate:
            self._save(args, state, **kwargs)

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Note the random generators for a save that waits until it is known whether this step is the best one."""
        if self._is_due:
            checkpointer = self._checkpointer()
            self._random = random_state(checkpointer.rank, checkpointer.world_size)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save beside the trainer, which has just done so."""
        self._save(args, state, **kwargs)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Wait until the last checkpoint is durable, and load the best one if that is wanted.

        Raises:
            CkptdError: what ended a save, or the best checkpoint is gone.
        """
        self._save_what_waits(args, state, **kwargs)
        checkpointer = self._checkpointer()
        checkpointer.wait()
        self._keep_house(args, is_over=True)
        checkpointer.settle()
        best = state.best_global_step
        if best is None or not any(one.step == best for one in checkpointer.checkpoints()):
            if args.load_best_model_at_end and self._alone and best is not None:
                raise NotFoundError(
                    f"load_best_model_at_end: step {best} was the best one, and is not in {checkpointer.run!r}"
                )
            return
        if not args.load_best_model_at_end or state.best_model_checkpoint is not None:
            return  # the trainer has its own
        load(checkpointer, best, into={"model": kwargs["model"]})
        state.best_model_checkpoint = checkpointer.prefix_of(best)

    def _take_over(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        if not control.should_save or not self._alone:
            return control
        control.should_save = False
        self._is_due = True
        if not (control.should_log or control.should_evaluate):
            self._save(args, state, **kwargs)
        return control

    def _save_what_waits(self, args: Any, state: Any, **kwargs: Any) -> None:
        if self._is_due:
            self._save(args, state, **kwargs)

    def _save(self, args: Any, state: Any, **kwargs: Any) -> None:
        self._is_due = False
        random, self._random = self._random, None
        if state.global_step == self._saved_step:
            return
        self._keep_house(args)
        self._best = state.best_global_step
        self._saved_step = state.global_step
        checkpointer = self._checkpointer()
        whole: dict[str, Any] = {"model": kwargs["model"], "trainer": _as_json(state), "best_pinned": self._best_pinned}
        if not args.save_only_model:
            whole["optimizer"] = kwargs["optimizer"]
            whole["lr_scheduler"] = kwargs["lr_scheduler"]
            whole["random"] = random or random_state(checkpointer.rank, checkpointer.world_size)
            scaler = _scaler()
            if scaler is not None:
                whole["scaler"] = scaler
        self._last = save(whole, checkpointer, state.global_step, overwrite=True)

    def _keep_house(self, args: Any, *, is_over: bool = False) -> None:
        """After a save: pin the best step, so that retention leaves it, and delete what ``save_total_limit`` lets go.

        It is done before the next save, which might let the best one go, and waits for the last one if need be.
        """
        checkpointer = self._checkpointer()
        if checkpointer.rank != 0 or self._last is None:
            return
        best, limit = self._best, args.save_total_limit
        if best == self._last.step or limit:
            self._last.wait()
        steps = {one.step: one for one in checkpointer.checkpoints() if one.step is not None}
        if best != self._best_pinned and best in steps:
            checkpointer.pin(best)
            former, self._best_pinned = self._best_pinned, best
            if former is not None and former in steps:
                steps[former] = checkpointer.unpin(former)
        if not limit or limit < 0 or not steps:
            return
        protected = {one for one in (best, max(steps)) if one in steps}
        if is_over and limit == 1 and best in steps:
            protected = {best}  # as the trainer ends
        excess = len(steps) - max(limit, len(protected))
        others = [step for step, one in sorted(steps.items()) if step not in protected and not one.pinned]
        for step in others[: max(excess, 0)]:
            try:
                checkpointer.delete(step, for_good=True, even_latest=True)
            except ConflictError as error:  # somebody reads it: it goes with the next save
                _log.warning("save_total_limit: step %d is kept for now: %s", step, error)

    def _set_random_state(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is None:
            return
        rank = membership().get("rank", 0)
        if not set_random_state(resumed["random"], rank):
            _log.warning("fewer ranks saved than train now: rank %d draws other random numbers than before", rank)

    def _checkpointer(self) -> Checkpointer:
        return checkpointer_at(self._where, self._options)


def _trainer() -> Any:
    """Return the trainer that has called a callback; None if none has. It passes its parts, but not all, nor itself."""
    frame = inspect.currentframe()
    while frame is not None:
        caller = frame.f_locals.get("self")
        if isinstance(caller, _transformers.Trainer):
            return caller
        frame = frame.f_back
    return None


def _scaler() -> Any:
    """Return the gradient scaler of half precision, if the trainer has one."""
    return getattr(getattr(_trainer(), "accelerator", None), "scaler", None)


def _as_json(state: Any) -> str:
    """Return the trainer's state as it saves it: with those of the callbacks, and what was computed so far."""
    trainer = _trainer()
    content = dataclasses.asdict(state)
    # A directory of the trainer's own; here the best step says it.
    content["best_model_checkpoint"] = None
    if trainer is None:
        return json.dumps(content)
    trainer.store_flos()
    content["total_flos"] = trainer.state.total_flos
    states: dict[str, Any] = {}
    for one in [*trainer.callback_handler.callbacks, trainer.control]:
        if isinstance(one, _EXPORTABLE):
            states.setdefault(type(one).__name__, []).append(one.state())
    state.stateful_callbacks = {name: each[0] if len(each) == 1 else each for name, each in states.items()}
    content["stateful_callbacks"] = state.stateful_callbacks
    return json.dumps(content)
