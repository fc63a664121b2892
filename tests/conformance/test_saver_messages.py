"""State files and error messages are TensorFlow's where it has the same situation, and its checkpoints are restored."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

import ckptd
from ckptd.client.paths.state_functions import state_of
from ckptd.errors import CorruptionError, InvalidRequestError, NotFoundError
from tests.conformance.bundle_files import FIXTURES, BundleReader

STATE_TEXT = json.loads((FIXTURES / "tf" / "state_text" / "manifest.json").read_text())
MESSAGES = {
    case["call"]: case
    for case in json.loads((FIXTURES / "tf" / "error_messages" / "manifest.json").read_text())["cases"]
}
SMALL = str(FIXTURES / "tf" / "error_messages" / "ckpt")
SLOTS = FIXTURES / "tf" / "ema_and_slots"


def encoded(state):
    return None if state is None else state.encode().decode()


@pytest.mark.parametrize("case", STATE_TEXT["parsing"], ids=lambda case: case["text"][:40])
def test_state_files_are_read_as_tensorflow_reads_them(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "checkpoint").write_text(case["text"])
    for name in ("b.index", "b.data-00000-of-00001"):
        (tmp_path / "d" / name).write_bytes((FIXTURES / "tf" / "state_text" / name).read_bytes())
    told, latest = case["get_checkpoint_state"], case["latest_checkpoint"]
    if "unknown_field" in case["text"]:  # TensorFlow gives up on the whole file
        assert encoded(ckptd.get_checkpoint_state("d")) == 'model_checkpoint_path: "d/b"\n'
    elif told is None:  # TensorFlow logs a warning, and training starts from nothing
        with pytest.raises(CorruptionError, match="cannot be parsed"):
            ckptd.get_checkpoint_state("d")
    elif isinstance(told, dict):
        for function in (ckptd.get_checkpoint_state, ckptd.latest_checkpoint):
            with pytest.raises(InvalidRequestError, match=f"^{re.escape(told['message'])}$"):
                function("d")
    else:
        assert encoded(ckptd.get_checkpoint_state("d")) == told
        assert ckptd.latest_checkpoint("d") == latest


@pytest.mark.parametrize("case", STATE_TEXT["generating"], ids=lambda case: str(case["args"])[:60])
def test_state_files_say_what_tensorflows_say(case):
    names = {"model_checkpoint_path": "path", "all_model_checkpoint_paths": "all_paths"}
    names |= {"all_model_checkpoint_timestamps": "timestamps"}
    arguments = {names.get(name, name): value for name, value in case["args"].items()}
    if "error" in case:
        with pytest.raises(InvalidRequestError, match=f"^{re.escape(case['message'])}$"):
            state_of(**arguments)
    else:
        assert encoded(state_of(**arguments)) == case["text"]


def floats(*shape):
    return np.zeros(shape, np.float32)


SHARED = floats(2)
SAVER_CALLS = {
    "Saver.restore, variable missing in checkpoint": lambda: ckptd.Saver({"nope": floats(2)}).restore(SMALL),
    "Saver.restore, dtype differs": lambda: ckptd.Saver({"a": np.zeros((2, 3))}).restore(SMALL),
    "Saver.restore, shape differs, reference variable": lambda: ckptd.Saver({"a": floats(4, 2)}).restore(SMALL),
    "RestoreV2 'a' as int32 and 'partial' as int64": lambda: ckptd.Saver(
        {"a": np.zeros((2, 3), np.int32), "partial": np.zeros(8, np.int64)}
    ).restore(SMALL),
    "RestoreV2 'a' spec '3 2 0,1:0,2'": lambda: ckptd.Saver({"a": ckptd.Slice(floats(1, 2), (3, 2), (0, 0))}).restore(
        SMALL
    ),
    "RestoreV2 'a' spec '2 3 0,3:0,1'": lambda: ckptd.Saver({"a": ckptd.Slice(floats(3, 1), (2, 3), (0, 0))}).restore(
        SMALL
    ),
    "RestoreV2 'partial' whole": lambda: ckptd.Saver({"partial": floats(8)}).restore(SMALL),
    "RestoreV2 'partial' spec '8 3,3'": lambda: ckptd.Saver({"partial": ckptd.Slice(floats(3), (8,), (3,))}).restore(
        SMALL
    ),
    "reader.get_tensor('nope')": lambda: ckptd.load_checkpoint(SMALL).get_tensor("nope"),
    "reader.get_tensor('partial')": lambda: ckptd.load_checkpoint(SMALL).get_tensor("partial"),
    "load_checkpoint('absent')": lambda: ckptd.load_checkpoint("absent"),
    "load_checkpoint('.') without a state file": lambda: ckptd.load_checkpoint("."),
    "Saver.restore(None)": lambda: ckptd.Saver({"a": floats(2)}).restore(None),
    "Saver.restore(absent)": lambda: ckptd.Saver({"a": floats(2)}).restore("absent"),
    "Saver.save with latest_filename='a/b'": lambda: ckptd.Saver({"a": floats(2)}).save("x", latest_filename="a/b"),
    "Saver.save to 'checkpoint'": lambda: ckptd.Saver({"a": floats(2)}).save("checkpoint"),
    "Saver.save below two missing folders": lambda: ckptd.Saver({"a": floats(2)}).save("no/such/x"),
    "Saver of an empty graph": lambda: ckptd.Saver({}),
    "Saver({'n1': v, 'n2': v})": lambda: ckptd.Saver({"n1": SHARED, "n2": SHARED}),
    "Saver(var_list, defer_build=True)": lambda: ckptd.Saver({"a": floats(2)}, defer_build=True),
    "Saver(defer_build=True).save before build": lambda: ckptd.Saver(defer_build=True).save("x"),
}
KINDS = {"ValueError": (InvalidRequestError, CorruptionError, NotFoundError), "NotFoundError": NotFoundError}


@pytest.mark.parametrize("call", SAVER_CALLS)
def test_errors_are_worded_as_tensorflows(tmp_path, monkeypatch, call):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "other").write_text("so that the directory is not empty")
    case = MESSAGES[call]
    with pytest.raises(KINDS.get(case["error"], (InvalidRequestError, CorruptionError))) as caught:
        SAVER_CALLS[call]()
    assert str(caught.value).startswith(case.get("message_head", ""))
    assert case.get("cause", case.get("message")) in str(caught.value)


def test_a_saver_reads_what_tensorflow_saved_in_slices_and_under_other_names():
    stored = BundleReader(SLOTS / "model.ckpt-3")
    low, high = floats(2, 2), floats(3, 2)
    whole, average, step = floats(5, 2), floats(3, 2), np.zeros((), np.int64)
    variables = {
        "emb": [ckptd.Slice(low, (5, 2), (0, 0)), ckptd.Slice(high, (5, 2), (2, 0))],
        "emb/Adam": whole,
        "layer/w/ExponentialMovingAverage": average,
        "global_step": step,
    }
    ckptd.Saver(variables).restore(ckptd.latest_checkpoint(SLOTS))
    assert np.concatenate([low, high]).tolist() == stored.read("emb").tolist()
    assert whole.tolist() == stored.read("emb/Adam").tolist()
    assert average.tolist() == stored.read("layer/w/ExponentialMovingAverage").tolist()
    assert step == 3


def test_a_saver_finds_variables_of_an_object_based_checkpoint_by_their_graph_names():
    prefix = FIXTURES / "tf" / "keras_weights" / "weights"
    kernel, iterations = floats(4, 3), np.zeros((), np.int64)
    ckptd.Saver({"dense/kernel": kernel, "iteration": iterations}).restore(prefix)
    stored = ckptd.load_checkpoint(prefix)
    assert kernel.tolist() == stored["layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE"].tolist()
    assert iterations == stored["optimizer/_iterations/.ATTRIBUTES/VARIABLE_VALUE"]
    with pytest.raises(NotFoundError) as caught:
        ckptd.Saver({"dense/kernel": kernel, "dense/kernal": kernel.copy()}).restore(prefix)
    assert str(caught.value).startswith("\n\nExisting variables not in the checkpoint: dense/kernal\n\n")
    assert "(1 variable name(s) did match)" in str(caught.value)


def test_a_name_that_several_variables_had_finds_none_of_them():
    prefix = FIXTURES / "tf" / "object_based" / "legacy_adam" / "ckpt-1"
    with pytest.raises(NotFoundError, match="Existing variables not in the checkpoint: Variable\n"):
        ckptd.Saver({"Variable": np.zeros((), np.int64)}).restore(prefix)
