"""What the processes of `gloo.Ranks` do with Hugging Face's trainer: one training by several of them."""

from __future__ import annotations

import os
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import ckptd
from ckptd.torch import CkptdCallback, close_all
from ckptd.torch.stored import Stored
from tests import seams


class Trained(NamedTuple):
    weights: dict[str, Any]
    state: dict[str, Any]
    steps: list[int]
    pinned: list[int]
    drawn: list[tuple[float, ...]]
    num_opened: int  # checkpoints


@dataclass
class Training:
    """A training that is begun, stopped or resumed."""

    directory: str
    address: str
    is_stock: bool = False
    stops_at: int | None = None
    resumes: bool = False

    def __call__(self, rank, world_size, changes):
        trainer, own = self._make(rank, world_size, changes)
        from tests.unit.torch.test_transformers import StopError
        from tests.unit.torch.test_transformers_as_stock import comparable, steps_of_stock

        drawn, step = [], trainer.training_step
        opened = []
        seams.STORED_OF_TRAINER.put(pytest.MonkeyPatch(), lambda reader: opened.append(reader) or Stored(reader))

        def training_step(*args, **kwargs):
            drawn.append((torch.rand(1).item(), random.random(), np.random.rand()))
            return step(*args, **kwargs)

        trainer.training_step = training_step
        try:
            trainer.train(resume_from_checkpoint=own.resume() if self.resumes else None)
        except StopError:
            close_all()
            return None
        steps, pinned = steps_of_stock(Path(self.directory)), []
        if not self.is_stock:  # no rank returns before what is too many is gone
            with ckptd.Checkpointer(self.address, "runs/ddp", rank=0, world_size=1) as run:
                steps = [one.step for one in run.checkpoints()]
                pinned = [one.step for one in run.checkpoints() if one.pinned]
        close_all()
        weights = {name: value.numpy() for name, value in trainer.model.state_dict().items()}
        return Trained(weights, comparable(trainer.state), steps, pinned, drawn, len(opened))

    def _make(self, rank, world_size, changes):
        import transformers
        from accelerate.state import AcceleratorState

        from tests.unit.torch.test_transformers import StopAt
        from tests.unit.torch.test_transformers_as_stock import make

        launched = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world_size, "LOCAL_WORLD_SIZE": world_size}
        os.environ.update({name: str(value) for name, value in launched.items()})
        os.environ["CKPTD_ADDRESS"] = self.address
        AcceleratorState._reset_state(True)
        own = CkptdCallback("runs/ddp", max_to_keep=None)
        stopping = [] if self.stops_at is None else [StopAt(self.stops_at)]
        trainer = make(Path(self.directory), *([] if self.is_stock else [own]), *stopping, **changes)
        transformers.set_seed(rank)  # what ranks draw differs
        return trainer, own


class ResumingApart(Training):
    """Only rank 0 resumes."""

    def __call__(self, rank, world_size, changes):
        trainer, own = self._make(rank, world_size, changes)
        try:
            trainer.train(resume_from_checkpoint=own.resume() if rank == 0 else None)
        except ckptd.InvalidRequestError as error:
            return str(error)
        finally:
            close_all()


class ResumingChanged(Training):
    """The model has other shapes."""

    def __call__(self, rank, world_size, changes):
        trainer, own = self._make(rank, world_size, changes)
        trainer.model.resize_token_embeddings(11)
        try:
            trainer.train(resume_from_checkpoint=own.resume())
        except ckptd.InvalidRequestError as error:
            return str(error)
        finally:
            close_all()


class FailingAtEnd(Training):
    """On rank 1 the last wait raises."""

    def __call__(self, rank, world_size, changes):
        trainer, own = self._make(rank, world_size, changes)
        if rank == 1:

            def fail():
                raise ckptd.StorageFullError("no room for rank 1")

            own.checkpointer.wait = fail
        try:
            trainer.train()
        except ckptd.CkptdError as error:
            return str(error)
        finally:
            close_all()
