"""One setting of the daemon: what is known of it, and how its value is read, checked and written."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from ckptd.errors import InvalidRequestError


@dataclass(frozen=True, slots=True)
class Setting:
    """What is known of one setting besides its name and default.

    `kind` is "text", "texts", "integer", "seconds" or "flag"; `least` and `most` bound numbers; `optional` allows none;
    `roles` are those that it is for, () for all.
    """

    kind: str
    help: str
    metavar: str = ""
    least: float = 0
    most: float = math.inf
    optional: bool = False
    choices: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


def from_text(setting: Setting, text: str, where: str) -> Any:
    """Return the value that a variable of the environment means; `checked` judges it."""
    if setting.kind == "texts":
        return tuple(text.replace(",", " ").split())
    if setting.kind == "text":
        return text
    if setting.kind == "flag":
        return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}.get(text.lower(), text)
    try:
        return int(text) if setting.kind == "integer" else float(text)
    except ValueError as e:
        raise InvalidRequestError(f"{where} is no number", actual=text) from e


def checked(setting: Setting, value: Any, where: str) -> Any:
    """Return `value` as the schema has it, or say what is wrong with it."""
    match setting.kind:
        case "texts":
            if not isinstance(value, list | tuple) or not all(isinstance(item, str) for item in value):
                raise InvalidRequestError(f"{where} is no list of texts", actual=value)
            return tuple(value)
        case "text":
            if not isinstance(value, str) or "\0" in value:
                raise InvalidRequestError(f"{where} is no text", actual=value)
            if setting.choices and value not in setting.choices:
                raise InvalidRequestError(f"{where} is none of {', '.join(setting.choices)}", actual=value)
            return value
        case "flag":
            if not isinstance(value, bool):
                raise InvalidRequestError(f"{where} is neither true nor false", actual=value)
            return value
        case kind:
            whole = kind == "integer"
            if isinstance(value, bool) or not isinstance(value, int if whole else int | float):
                raise InvalidRequestError(f"{where} is no {'whole ' if whole else ''}number", actual=value)
            if not (math.isfinite(value) and setting.least <= value <= setting.most):
                wanted = f"{setting.least:g} " + ("or more" if setting.most == math.inf else f"to {setting.most:g}")
                raise InvalidRequestError(f"{where} is out of range", expected=wanted, actual=value)
            return value if whole else float(value)


def as_toml(value: Any) -> str:
    """Return a value as TOML, which writes basic strings, integers and arrays as JSON does."""
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)
