"""What Lightning puts into a checkpoint that is stored in another form: OmegaConf's containers become plain ones."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from ckptd.errors import InvalidRequestError
from ckptd.trees.outline import describe


def plain(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """Return a checkpoint whose OmegaConf containers are dicts and lists, interpolations resolved.

    Beside such hyperparameters Lightning notes their type, to make them again; plain ones need none, and it is dropped.

    Raises:
        InvalidRequestError: naming a container that cannot be resolved.
    """
    if "omegaconf" not in sys.modules:
        return dict(checkpoint)
    return {
        key: _plain(value, (key,))
        for key, value in checkpoint.items()
        if not (isinstance(value, type) and _is_omegaconf(value))
    }


def _is_omegaconf(kind: type) -> bool:
    return any(base.__module__.partition(".")[0] == "omegaconf" for base in kind.__mro__)


def _plain(value: Any, path: tuple[Any, ...]) -> Any:
    if _is_omegaconf(type(value)):
        from omegaconf import OmegaConf

        try:
            return OmegaConf.to_container(value, resolve=True)
        except Exception as error:
            raise InvalidRequestError(
                f"this {type(value).__name__} cannot be stored as plain values: {error}", key=describe(path)
            ) from error
    # Only what holds such a container is made anew: state dicts stay as they are.
    if type(value) is dict:
        return {key: _plain(one, (*path, key)) for key, one in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_plain(one, (*path, at)) for at, one in enumerate(value))
    return value
