"""Keras's callback and functions: when they save, what they load, and which arguments they take."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import ckptd.tensorflow
from ckptd.errors import InvalidRequestError
from tests.unit.tensorflow.beside import small_model

v1 = tf.compat.v1

STEPS = 4  # of an epoch


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("m-{epoch:02d}", {"save_freq": 3}),
        ("m-{epoch}-{batch:02d}", {"save_freq": 3, "save_weights_only": True}),
        ("m-{epoch:02d}-{val_loss:.2f}", {"save_best_only": True}),
        ("below/{epoch}/m", {}),
        ("m-{epoch:02d}", {"monitor": "loss", "save_best_only": True}),
        ("m-{epoch:02d}", {"monitor": "loss", "save_best_only": True, "mode": "max"}),
        ("m-{epoch:02d}", {"monitor": "loss", "save_best_only": True, "initial_value_threshold": 0.0}),
        ("m-{epoch:02d}", {"monitor": "absent", "save_best_only": True, "mode": "min"}),
    ],
    ids=str,
)
def test_keras_saves_at_the_same_times_under_the_same_names(tmp_path, name, options):
    x = np.random.default_rng(0).random((8, 2), np.float32)
    saved = []
    for kind, suffix, ending in (
        (keras.callbacks.ModelCheckpoint, ".weights.h5" if options.get("save_weights_only") else ".keras", ""),
        (ckptd.tensorflow.ModelCheckpoint, "", ".index"),
    ):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        at = tmp_path / kind.__module__
        at.mkdir()
        callback = kind(str(at / (name + suffix)), **options)
        model.fit(x, x.sum(1), batch_size=2, epochs=3, verbose=0, validation_split=0.25, callbacks=[callback])
        wanted = suffix + ending
        found = sorted(str(path.relative_to(at)) for path in at.rglob(f"*{wanted}"))
        saved.append([each.removesuffix(wanted) for each in found])
    assert saved[0] == saved[1]


def test_keras_arguments_are_taken_or_refused_by_name(tmp_path):
    model, path = small_model(), str(tmp_path / "m")
    ckptd.tensorflow.save_weights(model, path)
    for named, call in (
        ("max_shard_size", lambda: ckptd.tensorflow.save_weights(model, path, max_shard_size=1)),
        ("skip_mismatch", lambda: ckptd.tensorflow.load_weights(model, path, skip_mismatch=True)),
        ("by_name", lambda: ckptd.tensorflow.load_weights(model, path, by_name=True)),
        ("custom_object", lambda: ckptd.tensorflow.load_model(path, custom_object={})),
        ("period", lambda: ckptd.tensorflow.ModelCheckpoint(path, period=2)),
        ("world_size", lambda: ckptd.tensorflow.ModelCheckpoint(path, world_size=2)),
        ("by_name", lambda: ckptd.tensorflow.load_weights(model, "runs/a/m", by_name=True, address=str(tmp_path))),
    ):
        with pytest.raises(ValueError, match=named) as told:
            call()
        assert isinstance(told.value, InvalidRequestError)
    with pytest.raises(TypeError, match="no argument 'period'"):
        ckptd.tensorflow.ModelCheckpoint(path, period=2)
    ckptd.tensorflow.load_weights(model, path, timeout_s=60, token=None, rank=0, world_size=1)


def models_of(side, tmp_path, model):
    """Save a model by the callback of one side; return what loads it."""
    x = np.ones((4, 2), np.float32)
    if side == "stock":
        callback = keras.callbacks.ModelCheckpoint(str(tmp_path / "m.keras"))
        load, path = keras.saving.load_model, str(tmp_path / "m.keras")
    else:
        callback = ckptd.tensorflow.ModelCheckpoint(str(tmp_path / "m"))
        load, path = ckptd.tensorflow.load_model, str(tmp_path / "m")
    model.fit(x, x[:, :1], verbose=0, callbacks=[callback])
    return lambda **options: load(path, **options)


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_a_model_is_loaded_without_its_optimizer_if_asked(tmp_path, side):
    model = small_model()
    load = models_of(side, tmp_path, model)
    assert int(load().optimizer.iterations) == 1
    bare = load(compile=False)
    assert not bare.compiled
    assert np.array_equal(bare.get_weights()[0], model.get_weights()[0])


@pytest.mark.parametrize("side", ["stock", "ours"])
def test_code_of_a_checkpoint_is_run_only_if_that_is_allowed(tmp_path, side):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Lambda(lambda x: 2 * x), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    load = models_of(side, tmp_path, model)
    with pytest.raises(ValueError, match="safe_mode"):
        load()
    x = np.ones((1, 2), np.float32)
    assert np.array_equal(load(safe_mode=False).predict(x, verbose=0), model.predict(x, verbose=0))


def test_a_file_in_the_way_is_told_by_its_name(tmp_path):
    (tmp_path / "file").write_text("mine")
    for path in ("file/m", "file/below/m"):
        with pytest.raises(InvalidRequestError, match="file is a file: checkpoints need a directory"):
            ckptd.tensorflow.save_weights(small_model(), tmp_path / path)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize(("save_freq", "fails_in"), [("epoch", (2, 1)), (3, (1, 3)), (3, (0, 0))], ids=str)
def test_training_goes_on_after_an_exception_at_the_epoch_at_which_backup_and_restore_goes_on(
    tmp_path, save_freq, fails_in
):
    """Keras's own callback beside what the documentation shows with ours: the newest checkpoint and `initial_epoch`."""
    x = np.random.default_rng(0).random((8, 2), np.float32)

    class Noting(keras.callbacks.Callback):
        def __init__(self, fails_in=None):
            super().__init__()
            self.begun, self.fails_in = [], fails_in

        def on_epoch_begin(self, epoch, logs=None):
            self.begun.append(epoch)

        def on_train_batch_begin(self, batch, logs=None):
            if (self.begun[-1], batch) == self.fails_in:
                raise RuntimeError("the batch is bad")

    def train(ours, fails_in=None):
        keras.utils.set_random_seed(1)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("adam", "mse")
        epochs_done, noting = 0, Noting(fails_in)
        if ours:
            callback = ckptd.tensorflow.ModelCheckpoint(str(tmp_path / "run/m-{epoch}"), save_freq=save_freq)
            if newest := ckptd.tensorflow.latest_checkpoint(str(tmp_path / "run")):
                ckptd.tensorflow.load_weights(model, newest)
                # Saved within an epoch, it bears that epoch's number, and the epoch begins anew.
                steps = int(model.optimizer.iterations.numpy())
                epochs_done = steps // STEPS
        else:
            callback = keras.callbacks.BackupAndRestore(str(tmp_path / "backup"), save_freq, delete_checkpoint=False)
        with contextlib.suppress(RuntimeError):
            model.fit(
                x,
                x.sum(1),
                batch_size=8 // STEPS,
                shuffle=False,
                verbose=0,
                epochs=4,
                initial_epoch=epochs_done,
                callbacks=[callback, noting],
            )
        return noting.begun, model

    seen = {}
    for ours in (True, False):
        first, _ = train(ours, fails_in)
        second, model = train(ours)
        seen[ours] = first, second, [weight.tolist() for weight in model.get_weights()], int(model.optimizer.iterations)
    assert seen[True] == seen[False]
