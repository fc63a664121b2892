"""Keras models in TensorFlow's format: names, loading, and the callback that saves while `fit` runs."""

from __future__ import annotations

import logging
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import numpy as np
import pytest
import tensorflow as tf

import ckptd
from ckptd.tensorflow import ModelCheckpoint, load_model, load_weights, save_weights
from ckptd.tensorflow.keras_objects import objects_of, trackable_of, variables_of
from tests.unit.client.served import Daemon

X = np.random.default_rng(0).standard_normal((32, 4), np.float32)
Y = X @ np.ones((4, 2), np.float32)


def sequential(outputs=2, optimizer="adam"):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(outputs)])
    if optimizer:
        model.compile(optimizer, "mse")
    return model


def values(model):
    return [weight.numpy() for weight in model.weights]


def assert_alike(one, other):
    assert len(one.weights) == len(other.weights)
    for mine, theirs in zip(values(one), values(other), strict=True):
        assert np.array_equal(mine, theirs)


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(3)
        self.rest = [keras.layers.Dense(2), keras.layers.Dense(1)]
        self.scale = self.add_weight(shape=(), name="scale", initializer="ones")

    def call(self, x):
        x = self.first(x)
        for one in self.rest:
            x = one(x)
        return x * self.scale


def functional():
    ids = keras.Input((6,))
    x = keras.layers.Embedding(10, 4)(ids)
    x = keras.layers.MultiHeadAttention(2, 3)(x, x)
    x = keras.layers.Bidirectional(keras.layers.LSTM(3))(x)
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(2), keras.layers.BatchNormalization()])
    return keras.Model(ids, inner(keras.layers.Dropout(0.5)(x)))


def subclassed():
    model = Subclassed()
    model(X)
    return model


@pytest.mark.parametrize("make", [sequential, functional, subclassed])
def test_weights_come_back_into_a_model_made_anew(make, tmp_path):
    model, other = make(), make()
    for weight in model.weights:
        weight.assign(np.random.default_rng(1).random(weight.shape, np.float32))
    save_weights(model, tmp_path / "weights")
    load_weights(other, tmp_path / "weights")
    assert_alike(model, other)
    assert len(list(variables_of(objects_of(model)))) == len(model.weights)
    assert ckptd.latest_checkpoint(tmp_path) == str(tmp_path / "weights")


def test_weights_are_named_as_keras_2_named_them(tmp_path):
    save_weights(functional(), tmp_path / "f")
    names = {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name in ckptd.load_checkpoint(tmp_path / "f")}
    assert {
        "layer_with_weights-0/embeddings",
        "layer_with_weights-1/_query_dense/kernel",
        "layer_with_weights-2/forward_layer/cell/recurrent_kernel",
        "layer_with_weights-3/layer_with_weights-1/moving_mean",
    } <= names
    save_weights(subclassed(), tmp_path / "s")
    names = {name.removesuffix("/.ATTRIBUTES/VARIABLE_VALUE") for name in ckptd.load_checkpoint(tmp_path / "s")}
    assert {"first/kernel", "rest/0/kernel", "rest/1/bias", "scale"} <= names


def test_a_model_within_a_checkpoint_is_found_and_its_optimizer_goes_on(tmp_path):
    model = sequential()
    model.fit(X, Y, epochs=2, verbose=0)
    path = tf.train.Checkpoint(step=tf.Variable(1), net=trackable_of(objects_of(model))).save(str(tmp_path / "ckpt"))
    other = sequential(optimizer=None)
    load_weights(other, path)
    assert_alike(model, other)

    save_weights(model, tmp_path / "weights")
    other = sequential()
    load_weights(other, tmp_path / "weights")
    assert other.optimizer.iterations.numpy() == 2
    for one, two in zip(model.optimizer.variables, other.optimizer.variables, strict=True):
        assert np.array_equal(one.numpy(), two.numpy()), one.path


def test_another_optimizer_stays_and_the_log_says_so(tmp_path, caplog):
    model = sequential(optimizer="adam")
    model.fit(X, Y, verbose=0)
    save_weights(model, tmp_path / "weights")
    other = sequential(optimizer=keras.optimizers.RMSprop(0.5))
    with caplog.at_level(logging.WARNING, "ckptd.tensorflow"):
        load_weights(other, tmp_path / "weights")
    assert_alike(model, other)
    assert other.optimizer.learning_rate.numpy() == 0.5
    assert "is another one" in caplog.text


def test_nothing_is_assigned_when_a_weight_does_not_fit_or_is_missing(tmp_path):
    save_weights(sequential(2), tmp_path / "weights")
    other = sequential(5)
    before = values(other)
    with pytest.raises(
        ValueError, match=r"layer_with_weights-1/.*another shape.*expected \[3, 5\], found \[3, 2\]"
    ) as caught:
        load_weights(other, tmp_path / "weights")
    assert isinstance(caught.value, ckptd.InvalidRequestError)
    deeper = keras.Sequential([keras.Input((4,)), *(keras.layers.Dense(3) for _ in range(3))])
    with pytest.raises(tf.errors.NotFoundError, match="missing are layer_with_weights-2/kernel"):
        load_weights(deeper, tmp_path / "weights")
    ckptd.save_checkpoint(tmp_path / "plain", {"w": np.zeros(3)})
    with pytest.raises(ckptd.NotFoundError, match="no object graph"):
        load_weights(other, tmp_path / "plain")
    for one, two in zip(before, values(other), strict=True):
        assert np.array_equal(one, two)
    with pytest.raises(ckptd.ConflictError):
        save_weights(other, tmp_path / "weights", overwrite=False)
    with pytest.raises(ckptd.InvalidRequestError, match="has no weights yet"):
        save_weights(keras.Sequential([keras.layers.Dense(1)]), tmp_path / "unbuilt")


def test_the_callback_saves_each_epoch_under_its_formatted_name(tmp_path, caplog):
    model = sequential()
    keep = ModelCheckpoint(tmp_path / "run" / "m-{epoch:02d}-{val_loss:.2f}")
    with caplog.at_level(logging.INFO, "ckptd.tensorflow"):
        history = model.fit(X, Y, epochs=3, verbose=0, validation_data=(X, Y), callbacks=[keep])
    losses = [f"{loss:.2f}" for loss in history.history["val_loss"]]
    for epoch, loss in enumerate(losses, 1):
        assert ckptd.verify(tmp_path / "run" / f"m-{epoch:02d}-{loss}").ok
    latest = ckptd.latest_checkpoint(tmp_path / "run")
    assert latest.endswith(f"m-03-{losses[-1]}")
    assert caplog.text.count("training stood still for") == 3
    again = load_model(latest)
    assert_alike(model, again)
    assert again.optimizer.iterations.numpy() == model.optimizer.iterations.numpy()


def test_the_callback_keeps_the_best_alone(tmp_path):
    model = sequential()
    keep = ModelCheckpoint(
        tmp_path / "best", monitor="loss", save_best_only=True, save_weights_only=True, initial_value_threshold=0.0
    )
    model.fit(X, Y, verbose=0, callbacks=[keep])
    assert not ckptd.checkpoint_exists(tmp_path / "best")  # no loss is below 0
    keep = ModelCheckpoint(tmp_path / "best", monitor="loss", save_best_only=True, save_weights_only=True)
    model.fit(X, Y, epochs=2, verbose=0, callbacks=[keep])
    saved = ckptd.load_checkpoint(tmp_path / "best")
    model.set_weights([0 * weight for weight in values(model)])
    model.fit(X, Y + 100, epochs=1, verbose=0, callbacks=[keep])
    after = ckptd.load_checkpoint(tmp_path / "best")
    for name in saved:
        assert np.array_equal(saved[name], after[name]), name
    with pytest.raises(ckptd.NotFoundError, match="weights only"):
        load_model(tmp_path / "best")


def test_the_callback_saves_through_a_daemon_every_few_batches(tmp_path):
    daemon = Daemon(tmp_path / "root")
    try:
        model = sequential()
        keep = ModelCheckpoint(
            "runs/digits/m-{epoch}-{batch}", save_freq=3, save_weights_only=True, address=daemon.address
        )
        model.fit(X, Y, batch_size=4, verbose=0, callbacks=[keep])
        found = {os.path.basename(name) for name in os.listdir(tmp_path / "root" / "runs" / "digits")}
        assert {"m-1-3.index", "m-1-6.index"} <= found
        other = sequential()
        load_weights(other, "runs/digits/m-1-6", address=daemon.address)
        assert other.optimizer.iterations.numpy() == 6
    finally:
        daemon.stop()
