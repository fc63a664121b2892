"""PEFT's adapters without the base model: what was trained, a tenth or a thousandth of the whole."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from ckptd.errors import InvalidRequestError


class Adapters:
    """The adapters of a ``peft.PeftModel``, to save or to load into instead of the whole model.

    ::

        save({"model": Adapters(model), "optimizer": optimizer}, "/checkpoints/runs/lora", step)
        load("/checkpoints/runs/lora", into={"model": Adapters(model), "optimizer": optimizer})

    Names are those of PEFT's own files, below the name of the adapter. Base weights are not stored: create the model to
    load into from the same base.
    """

    def __init__(self, model: Any) -> None:
        """Take a model that has adapters.

        Raises:
            InvalidRequestError: it has none, or PEFT is not installed.
        """
        try:
            self._peft = importlib.import_module("peft")
        except ModuleNotFoundError as error:
            raise InvalidRequestError("Adapters needs PEFT, which is not installed: pip install peft") from error
        if not isinstance(model, self._peft.PeftModel):
            raise InvalidRequestError(
                "only a PeftModel has adapters; unwrap it (model.module), or save the model itself",
                expected="peft.PeftModel",
                actual=type(model).__name__,
            )
        self._model = model

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """Return the tensors of each adapter, by the adapter's name."""
        whole = self._model.state_dict()
        return {
            name: dict(self._peft.get_peft_model_state_dict(self._model, state_dict=whole, adapter_name=name))
            for name in self._model.peft_config
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Set the adapters that were saved.

        Raises:
            InvalidRequestError: the model has other adapters; nothing is changed.
        """
        if set(state) != set(self._model.peft_config):
            raise InvalidRequestError(
                "the model does not have the adapters that were saved: add adapters of the same names before loading",
                expected=sorted(state),
                actual=sorted(self._model.peft_config),
            )
        before = self.state_dict()
        for name, tensors in state.items():
            # PEFT creates some on the meta device to save memory: these are replaced, not copied into.
            options = {"low_cpu_mem_usage": True} if any(one.is_meta for one in before[name].values()) else {}
            self._peft.set_peft_model_state_dict(self._model, dict(tensors), adapter_name=name, **options)
