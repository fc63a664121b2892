"""Values of Lightning's checkpoints that are stored in another form: OmegaConf's containers become plain ones.

A note records which containers these were, so that a module that is created from the checkpoint gets containers again.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, cast

from ckptd.errors import InvalidRequestError
from ckptd.trees.outline import describe

_NOTE = "ckptd.omegaconf"
_KINDS = ("DictConfig", "ListConfig")


def plain(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint with OmegaConf containers replaced by dicts and lists, interpolations resolved.

    Raises:
        InvalidRequestError: naming a container that cannot be resolved.
    """
    if "omegaconf" not in sys.modules:
        return dict(checkpoint)
    containers: list[list[Any]] = []
    types = {}
    state = {}
    for key, value in checkpoint.items():
        # Lightning stores the type of such hyperparameters beside them, to create them again.
        if isinstance(value, type) and value.__name__ in _KINDS and _is_omegaconf(value):
            types[key] = value.__name__
        else:
            state[key] = _plain(value, (key,), containers)
    if containers:
        state[_NOTE] = {"containers": containers, "types": types}
    return state


def without_note(state: dict[str, Any]) -> dict[str, Any]:
    """Return a stored checkpoint as plain values."""
    return {key: value for key, value in state.items() if key != _NOTE}


def with_containers(state: dict[str, Any]) -> dict[str, Any]:
    """Return a stored checkpoint with OmegaConf containers where there were some."""
    note = state.get(_NOTE)
    if note is None:
        return state
    import omegaconf

    again = without_note(state)
    for path in note["containers"]:
        holder: Any = again
        for part in path[:-1]:
            holder = holder[part]
        if isinstance(holder, tuple):
            continue  # stays plain
        holder[path[-1]] = omegaconf.OmegaConf.create(holder[path[-1]])
    # Only these two names are looked up: nothing is imported because a file names it.
    return again | {key: getattr(omegaconf, kind) for key, kind in note["types"].items() if kind in _KINDS}


def _is_omegaconf(kind: type) -> bool:
    return any(base.__module__.partition(".")[0] == "omegaconf" for base in kind.__mro__)


def _plain(value: Any, path: tuple[Any, ...], containers: list[list[Any]]) -> Any:
    if _is_omegaconf(type(value)):
        from omegaconf import OmegaConf

        try:
            values = cast("dict[Any, Any] | list[Any]", OmegaConf.to_container(value, resolve=True))
        except Exception as error:
            raise InvalidRequestError(
                f"this {type(value).__name__} cannot be stored as plain values: {error}", key=describe(path)
            ) from error
        containers.append(list(path))
        return values
    # Only values that hold such a container are copied: state dicts stay the same objects.
    if type(value) is dict:
        return {key: _plain(one, (*path, key), containers) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(one, (*path, at), containers) for at, one in enumerate(value))
    return value
