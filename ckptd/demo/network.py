"""A network with one wide hidden layer, its weights cut into rows over the workers. Plain numpy.

The weights of the hidden layer are *partitioned*: each worker keeps, and updates, its own rows. Everything else is
*replicated*: each worker keeps all of it and applies the same update, which stays the same bit for bit because
gradients are summed in the order of the ranks. A value has two companions, as optimizers like to have: its momentum
and its running average. Both are partitioned as it is, and saved with it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ckptd.demo.digits import NUM_CLASSES, NUM_PIXELS

Floats = NDArray[np.float32]

PARTITIONED = "hidden/weights"
REPLICATED = ("hidden/bias", "output/weights", "output/bias")
COMPANIONS = ("momentum", "average")
STEP = "global_step"

_LEARNING_RATE = np.float32(0.02)
_MOMENTUM = np.float32(0.9)
_AVERAGE_DECAY = np.float32(0.95)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of a partitioned tensor that one worker keeps, half-open."""

    begin: int
    end: int

    @classmethod
    def of(cls, rank: int, world_size: int, num_rows: int = NUM_PIXELS) -> Rows:
        """Cut `num_rows` into `world_size` runs of nearly equal length, and return the one of `rank`."""
        return cls(num_rows * rank // world_size, num_rows * (rank + 1) // world_size)


def full_shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    """Return the whole shape of each trained tensor."""
    return {
        PARTITIONED: (NUM_PIXELS, hidden),
        "hidden/bias": (hidden,),
        "output/weights": (hidden, NUM_CLASSES),
        "output/bias": (NUM_CLASSES,),
    }


def initial_values(hidden: int, seed: int) -> dict[str, Floats]:
    """Return the whole initial state, companions included; the same on every worker."""
    random = np.random.default_rng(seed)
    state: dict[str, Floats] = {}
    for name, shape in full_shapes(hidden).items():
        if len(shape) == 2:
            state[name] = random.standard_normal(shape, np.float32) / np.float32(np.sqrt(shape[0]))
        else:
            state[name] = np.zeros(shape, np.float32)
        state[f"{name}/momentum"] = np.zeros(shape, np.float32)
        state[f"{name}/average"] = state[name].copy()
    return state


def logits(images: Floats, weights: Floats, state: dict[str, Floats], companion: str = "") -> tuple[Floats, Floats]:
    """Return the hidden layer's activations and the scores of the ten digits, a row per image."""
    active = np.maximum(images @ weights + state[f"hidden/bias{companion}"], np.float32(0))
    return active, active @ state[f"output/weights{companion}"] + state[f"output/bias{companion}"]


@dataclass(frozen=True, slots=True)
class Gradients:
    """What one worker's part of a batch says: gradients of the summed loss, and that loss."""

    partitioned: Floats
    replicated: dict[str, Floats]
    loss: float


def gradients(
    images: Floats, labels: NDArray[np.int64], weights: Floats, state: dict[str, Floats], batch_size: int
) -> Gradients:
    """Differentiate the cross-entropy of this part, as its share of the mean over the whole batch."""
    active, scores = logits(images, weights, state)
    scores -= scores.max(axis=1, keepdims=True)
    exponents = np.exp(scores)
    probabilities = exponents / exponents.sum(axis=1, keepdims=True)
    rows = np.arange(len(labels))
    loss = float(-np.log(np.maximum(probabilities[rows, labels], np.float32(1e-12))).sum()) / batch_size
    probabilities[rows, labels] -= 1
    at_scores = (probabilities / np.float32(batch_size)).astype(np.float32, copy=False)
    at_hidden = (at_scores @ state["output/weights"].T) * (active > 0)
    return Gradients(
        partitioned=images.T @ at_hidden,
        replicated={
            "hidden/bias": at_hidden.sum(axis=0),
            "output/weights": active.T @ at_scores,
            "output/bias": at_scores.sum(axis=0),
        },
        loss=loss,
    )


def update(state: dict[str, Floats], name: str, gradient: Floats) -> None:
    """Apply one step of gradient descent with momentum to `name`, in place, and move its running average."""
    momentum, average = state[f"{name}/momentum"], state[f"{name}/average"]
    momentum *= _MOMENTUM
    momentum += gradient
    state[name] -= _LEARNING_RATE * momentum
    average *= _AVERAGE_DECAY
    average += (np.float32(1) - _AVERAGE_DECAY) * state[name]


def accuracy(images: Floats, labels: NDArray[np.int64], state: dict[str, Floats]) -> float:
    """Return the share of images that the averaged weights of a *whole* state recognise."""
    _, scores = logits(images, state[f"{PARTITIONED}/average"], state, "/average")
    return float((scores.argmax(axis=1) == labels).mean())
