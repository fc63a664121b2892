"""Every weight, vocabulary and file of a model comes back, wherever a layer keeps it: Keras's own format and ours."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
import keras
import tensorflow as tf

import ckptd
from ckptd.tensorflow import ModelCheckpoint, load_model, load_weights, save_weights
from ckptd.tensorflow.keras_objects import objects_of, trackable_of
from ckptd.tensorflow.object_graph import arrays_of_object

layers = keras.layers
registered = keras.saving.register_keras_serializable("tests")
X = np.ones((2, 3), np.float32)
SEQUENCES = np.ones((2, 4, 3), np.float32)
WORDS = tf.constant([["b c a"], ["d"]])


class Holding(keras.Model):
    """Holds layers in the way that a subclass says, and adds up what they give."""

    def call(self, x):
        return sum(layer(x) for layer in self._flatten_layers(include_self=False))


@registered
class InADict(Holding):
    def __init__(self, **options):
        super().__init__(**options)
        self.held = {"a": layers.Dense(3), "b": layers.Dense(3)}


@registered
class InNestedLists(Holding):
    def __init__(self, **options):
        super().__init__(**options)
        self.held = [[layers.Dense(3)], [layers.Dense(3), layers.Dense(3)]]


@registered
class InAMixedList(Holding):
    def __init__(self, **options):
        super().__init__(**options)
        self.held = [None, layers.Dense(3), 5, layers.Dense(3)]


@registered
class InATuple(Holding):
    def __init__(self, **options):
        super().__init__(**options)
        self.held = ({"q": layers.Dense(3)}, layers.Dense(3))


@registered
class OfAGraph(keras.Model):
    """A class of its own over layers that no attribute of it holds."""


@registered
class WeightNames(layers.Layer):
    """Has weights of one name, weights without a name, and one that is called as a layer is."""

    def __init__(self, **options):
        super().__init__(**options)
        self.scale = layers.Dense(3)

    def build(self, shape):
        self.scale.build(shape)
        self.twins = [self.add_weight(shape=(3,), name="twin") for _ in range(2)]
        self.first = self.add_weight(shape=(3,))
        self.add_weight(shape=(3,))  # no attribute has it
        self.named_as_a_layer = self.add_weight(shape=(3,), name="scale")
        super().build(shape)

    def call(self, x):
        return self.scale(x) + sum((at + 1) * each for at, each in enumerate(self.weights) if each.shape == (3,))


@registered
class KeepsMore(layers.Layer):
    """Saves a value and a file that are no weights."""

    total = 0.0
    text = ""

    def call(self, x):
        return x + self.total + len(self.text)

    def save_own_variables(self, store):
        store["total"] = np.array(self.total)

    def load_own_variables(self, store):
        self.total = float(store["total"][()])

    def save_assets(self, dir_path):
        Path(dir_path, "below").mkdir()
        Path(dir_path, "below/text").write_text(self.text)

    def load_assets(self, dir_path):
        self.text = Path(dir_path, "below/text").read_text()


def subclassed(kind):
    def make():
        model = kind()
        model(np.ones((1, 3), np.float32))
        return model

    return make


def of_a_graph():
    x = keras.Input((3,))
    return OfAGraph(x, layers.Dense(3)(layers.Dense(3)(x)))


def sequence(*parts):
    return lambda: keras.Sequential([keras.Input((3,)), *(part() for part in parts)])


def keeps_more():
    layer = KeepsMore()
    layer.total, layer.text = 2.5, "four"
    return layer


def normalization():
    layer = layers.Normalization()
    layer.adapt(np.arange(12, dtype=np.float32).reshape(4, 3) ** 2)
    return layer


def lora():
    layer = layers.Dense(4)
    model = keras.Sequential([keras.Input((3,)), layer])
    layer.enable_lora(2)
    return model


def quantized():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4)])
    model.quantize("int8")
    return model


def vocabulary(layer):
    def make():
        adapted = layer()
        adapted.adapt(["a b c", "b c d", "c"])
        return keras.Sequential([keras.Input((1,), dtype="string"), adapted])

    return make


MODELS = {
    "layers in a dict": (subclassed(InADict), X),
    "layers in nested lists": (subclassed(InNestedLists), X),
    "layers among others in a list": (subclassed(InAMixedList), X),
    "layers in a tuple": (subclassed(InATuple), X),
    "a class of its own over a graph": (of_a_graph, X),
    "weights of one name, or none": (sequence(WeightNames, WeightNames), X),
    "values and files of a layer": (sequence(lambda: layers.Dense(3), keeps_more), X),
    "a layer that has seen data": (sequence(normalization), X),
    "cells in cells": (
        lambda: keras.Sequential([keras.Input((4, 3)), layers.RNN([layers.LSTMCell(2), layers.GRUCell(3)])]),
        SEQUENCES,
    ),
    "a layer in a layer": (sequence(lambda: layers.SpectralNormalization(layers.Dense(3))), X),
    "adapters": (lora, X),
    "whole numbers for weights": (quantized, X),
    "words": (vocabulary(lambda: layers.TextVectorization(output_sequence_length=3)), WORDS),
    "words and how rare they are": (vocabulary(lambda: layers.TextVectorization(output_mode="tf_idf")), WORDS),
    "texts": (vocabulary(layers.StringLookup), WORDS),
}


def by_stock(model, at):
    model.save(at / "m.keras")
    return keras.saving.load_model(at / "m.keras")


def by_ours(model, at):
    keep = ModelCheckpoint(at / "m")
    keep.set_model(model)
    keep.on_train_begin()
    keep.on_epoch_end(0, {})
    keep.on_train_end()
    return load_model(at / "m")


@pytest.mark.parametrize(("make", "x"), MODELS.values(), ids=MODELS.keys())
def test_a_loaded_model_computes_what_the_saved_one_does(tmp_path, make, x):
    model = make()
    for number, weight in enumerate(model.trainable_weights):
        weight.assign(np.random.default_rng(number).random(weight.shape))
    wanted = np.asarray(model(x))
    for by in (by_stock, by_ours):
        assert np.array_equal(np.asarray(by(model, tmp_path)(x)), wanted), by.__name__


def test_what_layers_save_by_themselves_is_in_weights_too(tmp_path):
    model, other = (sequence(keeps_more, normalization)() for _ in range(2))
    model.layers[0].total = 7.0
    save_weights(model, tmp_path / "w")
    load_weights(other, tmp_path / "w")
    assert other.layers[0].total == 7.0


def test_weights_without_a_name_are_found_in_what_an_earlier_version_wrote(tmp_path):
    model = keras.Sequential([keras.Input((3,)), WeightNames()])
    arrays = arrays_of_object(trackable_of(objects_of(model, auto_names=True)))
    assert any("/variable_" in name for name in arrays)
    ckptd.save_checkpoint(tmp_path / "w", arrays)
    before = model.get_weights()
    model.set_weights([0 * each for each in before])
    load_weights(model, tmp_path / "w")
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights(), strict=True))


def test_a_file_of_a_layer_is_written_nowhere_else(tmp_path):
    by_ours(sequence(keeps_more)(), tmp_path)
    reader = ckptd.load_checkpoint(tmp_path / "m")
    arrays = {name.replace("below/text", "../../escaped"): reader.get_tensor(name) for name in reader}
    ckptd.save_checkpoint(tmp_path / "hostile", arrays)
    with pytest.raises(ckptd.CorruptionError, match="escaped"):
        load_model(tmp_path / "hostile")
