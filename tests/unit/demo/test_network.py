from __future__ import annotations

import numpy as np
import pytest

from ckptd.demo import network
from ckptd.demo.digits import NUM_PIXELS, Digits
from ckptd.demo.network import PARTITIONED, REPLICATED, Rows

HIDDEN = 16


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 5, 16])
def test_the_rows_of_all_workers_are_all_rows_once(world_size):
    covered = [row for rank in range(world_size) for row in range(*vars_of(Rows.of(rank, world_size)))]
    assert covered == list(range(NUM_PIXELS))


def vars_of(rows):
    return rows.begin, rows.end


def test_gradients_are_those_of_the_loss():
    random = np.random.default_rng(3)
    images = random.random((6, NUM_PIXELS)).astype(np.float32)
    labels = random.integers(0, 10, 6)
    state = network.initial_values(HIDDEN, 5)
    found = network.gradients(images, labels, state[PARTITIONED], state, batch_size=6)
    for name, gradient in {PARTITIONED: found.partitioned, **found.replicated}.items():
        # A step along the gradient changes the loss by its squared length: the definition, at single precision.
        direction = gradient / np.linalg.norm(gradient)
        losses = []
        for sign in (-1, 1):
            moved = {**state, name: (state[name] + sign * np.float32(1e-2) * direction).astype(np.float32)}
            losses.append(network.gradients(images, labels, moved[PARTITIONED], moved, 6).loss)
        slope = (losses[1] - losses[0]) / 2e-2
        assert slope == pytest.approx(float(np.linalg.norm(gradient)), rel=0.05), name


def test_parts_of_a_batch_add_up_to_the_batch():
    random = np.random.default_rng(4)
    images = random.random((12, NUM_PIXELS)).astype(np.float32)
    labels = random.integers(0, 10, 12)
    state = network.initial_values(HIDDEN, 5)
    whole = network.gradients(images, labels, state[PARTITIONED], state, 12)
    parts = [network.gradients(images[r::3], labels[r::3], state[PARTITIONED], state, 12) for r in range(3)]
    np.testing.assert_allclose(sum(part.partitioned for part in parts), whole.partitioned, rtol=1e-4, atol=1e-6)
    for name in REPLICATED:
        np.testing.assert_allclose(
            sum(part.replicated[name] for part in parts), whole.replicated[name], rtol=1e-4, atol=1e-6
        )
    assert sum(part.loss for part in parts) == pytest.approx(whole.loss, rel=1e-4)


def test_a_small_network_learns_the_digits():
    digits = Digits.from_scikit_learn()
    state = network.initial_values(64, 5)
    for step in range(150):
        chosen = np.random.default_rng(step).permutation(len(digits.train_labels))[:240]
        found = network.gradients(
            digits.train_images[chosen], digits.train_labels[chosen], state[PARTITIONED], state, 80
        )
        for name, gradient in {PARTITIONED: found.partitioned, **found.replicated}.items():
            network.update(state, name, gradient)
    assert network.accuracy(digits.test_images, digits.test_labels, state) > 0.9


def test_the_digits_are_the_same_after_a_file(tmp_path):
    digits = Digits.from_scikit_learn()
    digits.write(tmp_path / "digits.npz")
    again = Digits.read(tmp_path / "digits.npz")
    for name in ("train_images", "train_labels", "test_images", "test_labels"):
        assert np.array_equal(getattr(digits, name), getattr(again, name))
    assert len(digits.train_labels) + len(digits.test_labels) == 1797
