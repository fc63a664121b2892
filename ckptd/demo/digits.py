"""The UCI handwritten digits: 1,797 grey images of 8 × 8 pixels, as scikit-learn carries them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ckptd.errors import InvalidRequestError

NUM_PIXELS = 64
NUM_CLASSES = 10
_NUM_TEST = 357
_SPLIT_SEED = 20


@dataclass(frozen=True, slots=True)
class Digits:
    """Images as rows of 64 floats from 0 to 1, and the digit that each shows; split once and for all."""

    train_images: NDArray[np.float32]
    train_labels: NDArray[np.int64]
    test_images: NDArray[np.float32]
    test_labels: NDArray[np.int64]

    @classmethod
    def from_scikit_learn(cls) -> Digits:
        """Load the images and hold back 357 of them for the test, the same ones each time."""
        try:
            from sklearn.datasets import load_digits
        except ImportError as e:
            raise InvalidRequestError(
                "the demo trains on the digits that scikit-learn carries; install them with: pip install 'ckptd[demo]'"
            ) from e
        loaded = load_digits()
        order = np.random.default_rng(_SPLIT_SEED).permutation(len(loaded.target))
        images = np.asarray(loaded.data, np.float32)[order] / np.float32(16)
        labels = np.asarray(loaded.target, np.int64)[order]
        return cls(images[_NUM_TEST:], labels[_NUM_TEST:], images[:_NUM_TEST], labels[:_NUM_TEST])

    def write(self, path: Path) -> None:
        """Keep the arrays in one file, so that each worker need not import scikit-learn."""
        np.savez(
            path,
            train_images=self.train_images,
            train_labels=self.train_labels,
            test_images=self.test_images,
            test_labels=self.test_labels,
        )

    @classmethod
    def read(cls, path: Path) -> Digits:
        """Read what `write` kept."""
        with np.load(path, allow_pickle=False) as kept:
            return cls(kept["train_images"], kept["train_labels"], kept["test_images"], kept["test_labels"])
