"""What a Hugging Face training resumes from: a directory with the trainer's state, and a checkpoint."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from ckptd.errors import InvalidRequestError
from ckptd.torch.stored import Stored
from ckptd.torch.trainer_model import filled

_TRAINER_STATE = "trainer_state.json"  # the file that the trainer looks for
_WEIGHTS = "model.safetensors"


@dataclass
class Resumed:
    """A checkpoint that `resume` has found.

    Attributes:
        step: of the checkpoint.
        trained_steps: as the trainer counts them.
        names: of what was saved.
        best_pinned: the step that was pinned as the best one.
        random: the random generators, once they are loaded.
    """

    step: int | None
    trained_steps: int
    names: set[str]
    best_pinned: int | None
    random: Any
    _directory: tempfile.TemporaryDirectory[str]

    @classmethod
    def of(cls, stored: Stored, step: int | None, *, with_weights: bool) -> Resumed:
        """Make the directory of a checkpoint. `with_weights`: a trainer without this callback loads it.

        Raises:
            InvalidRequestError: something else than the callback saved the checkpoint, or it holds adapters only and
                `with_weights` is set.
        """
        directory = tempfile.TemporaryDirectory(prefix="ckptd-resume-")
        names = set(stored.tree) if isinstance(stored.tree, dict) else set()
        if not {"model", "trainer"} <= names:
            raise InvalidRequestError(
                f"{stored.prefix} was not saved by CkptdCallback; load the parts that you need with ckptd.torch.load"
            )
        notes = filled(stored, {name: None for name in ("trainer", "best_pinned") if name in names})
        if with_weights:
            weights = filled(stored, {"model": {}})["model"]
            if not all(hasattr(one, "contiguous") for one in weights.values()):
                raise InvalidRequestError("call attach(trainer) before resume(), as only adapters were saved")
            whole = {name: tensor.contiguous() for name, tensor in weights.items()}
            save_file(whole, Path(directory.name, _WEIGHTS), metadata={"format": "pt"})
        Path(directory.name, _TRAINER_STATE).write_text(notes["trainer"], encoding="utf-8")
        trained_steps = json.loads(notes["trainer"])["global_step"]
        return cls(step, trained_steps, names, notes.get("best_pinned"), None, directory)

    @property
    def directory(self) -> str:
        """The argument for the trainer: a path on this host."""
        return self._directory.name

    def is_at(self, checkpoint: str | os.PathLike[str] | None) -> bool:
        """Return whether the trainer resumes from this directory."""
        return checkpoint is not None and self.directory == str(checkpoint)

    def drop_weights(self) -> None:
        """Delete the weights in the directory once they are loaded."""
        Path(self.directory, _WEIGHTS).unlink(missing_ok=True)

    def clean_up(self) -> None:
        """Delete the directory."""
        self._directory.cleanup()
