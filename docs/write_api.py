"""Writes the reference of the Python interface from signatures and docstrings.

    python docs/write_api.py           prints it
    python docs/write_api.py --write   puts it into docs/api.md, and that of the frameworks' modules into
                                       docs/frameworks.md, for which these have to be installed

What `ckptd.__all__` names is described, and what those of the modules do, with the public methods that each class
defines itself. Docstrings are in Google's style; signatures are those of the source, whose annotations are text and
read the same under every Python. A test compares the pages with what this prints.
"""

from __future__ import annotations

import enum
import importlib
import importlib.util
import inspect
import itertools
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

import ckptd

PAGE = Path(__file__).with_name("api.md")
FRAMEWORKS_PAGE = Path(__file__).with_name("frameworks.md")
FRAMEWORKS = {"ckptd.torch": "torch.md", "ckptd.jax": "jax.md", "ckptd.tensorflow": "tensorflow.md"}
"""Their modules, and the page that shows how each is used."""
FIRST = ("Checkpointer", "PendingSave", "Checkpoint", "Slice")
"""What most programs begin with; the rest follows by its name."""
NOT_FOR_CALLERS = {
    "Checkpointer.share_rooms",
    "PendingSave.finish",
    "PendingSave.fail",
    "PendingSave.wait",
    "PendingSave.take_unseen_error",
}
"""Public within the package only: the `Checkpointer` calls them, and adapters."""

_WIDTH = 118
_HEAD = """\
# Python reference

<!-- written by docs/write_api.py; change the docstrings instead -->

Everything here is found in the package itself: `import ckptd`. A path may be a text or a `pathlib.Path`, and also the
URL of a store. Arrays come out as numpy arrays; what may go in, `Checkpointer.save` tells.
"""
_FRAMEWORKS_HEAD = """\
# Python reference: frameworks

<!-- written by docs/write_api.py; change the docstrings instead -->

What `ckptd.torch`, `ckptd.jax` and `ckptd.tensorflow` bring for one framework each; [api.md](api.md) has the rest.
"""
_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):\s*")
_ITEM = re.compile(r"(\S[^:\n]*): ")


def page() -> str:
    """Return the whole page."""
    found = {name: getattr(ckptd, name) for name in ckptd.__all__}
    classes = {name: value for name, value in found.items() if inspect.isclass(value)}
    errors = {name: value for name, value in classes.items() if issubclass(value, BaseException)}
    ordered = [*(name for name in FIRST if name in classes), *(name for name in classes if name not in FIRST)]
    groups = {
        "Classes": {name: classes[name] for name in ordered if name not in errors},
        "Functions": {name: value for name, value in found.items() if callable(value) and name not in classes},
        "Errors": dict(sorted(errors.items(), key=lambda item: item[1].exit_code)),
    }
    text = "\n".join([_HEAD, *(part for title, group in groups.items() for part in _group(title, group))])
    return _linked(text)


def frameworks_page() -> str:
    """Return the whole page of the frameworks' modules, which it imports."""
    parts = [_FRAMEWORKS_HEAD]
    for name, guide in FRAMEWORKS.items():
        module = importlib.import_module(name)
        found = {f"{name}.{one}": getattr(module, one) for one in sorted(module.__all__)}
        words = " ".join(inspect.cleandoc(module.__doc__ or "").split("\n\n")[0].split())
        parts.append(f"## {name}\n\n{_filled(words)}\n\n[{guide}]({guide}) shows how it is used.\n")
        parts += _described(found)
    return _linked("\n".join(parts))


def _group(title: str, group: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    yield from _described(group)


def _described(group: dict[str, Any]) -> Iterator[str]:
    for name, value in group.items():
        yield f"### {name}\n"
        if isinstance(value, type) and issubclass(value, BaseException):
            yield from _error(value)
        elif isinstance(value, type) and issubclass(value, Message):
            yield from _message(value)
        elif isinstance(value, type) and issubclass(value, enum.Enum):
            yield from _docstring(value)
            yield "".join(f"- `{name}.{one.name}`: `{one.value!r}`\n" for one in value)
        else:
            yield _signature(name, value)
            yield from _docstring(value)
            if isinstance(value, type):
                yield from _members(name, value)


def _error(value: type[ckptd.CkptdError]) -> Iterator[str]:
    base = value.__bases__[0].__name__
    again = "; the same call may succeed later (`retryable` is True)" if value.retryable else ""
    yield from _docstring(value)
    yield f"Derived from `{base}`. Exit code of a command: {value.exit_code}{again}.\n"


def _message(value: type[Message]) -> Iterator[str]:
    """Yield a protobuf message's fields. Its class is generated and has no words of its own; the proto has."""
    yield "A protobuf message.\n"
    yield "| number | field |\n|---|---|\n" + "".join(
        f"| {one.number} | `{one.name}` |\n" for one in value.DESCRIPTOR.fields
    )


def _members(owner: str, value: type) -> Iterator[str]:
    """Yield what a class itself defines: the constructor's words, then properties, methods and class methods."""
    constructor = value.__dict__.get("__init__")
    if constructor is not None and constructor.__doc__:
        yield from _docstring(constructor)
    for name, member in value.__dict__.items():
        if name.startswith("_") or f"{owner}.{name}" in NOT_FOR_CALLERS:
            continue
        if isinstance(member, property):
            yield f"#### {owner}.{name}\n"
            yield from _docstring(member.fget)
        elif inspect.isfunction(member) or isinstance(member, classmethod | staticmethod):
            yield f"#### {owner}.{name}\n"
            yield _signature(f"{owner}.{name}", getattr(value, name), bound=inspect.isfunction(member))
            yield from _docstring(getattr(value, name))


def _signature(name: str, value: Any, *, bound: bool = False) -> str:
    """Return a fenced signature, one parameter a line where it is long. `bound` leaves `self` out."""
    signature = inspect.signature(value)
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    shown: list[str] = []
    kinds = inspect.Parameter
    for i, one in enumerate(parameters):
        if one.kind is kinds.KEYWORD_ONLY and not any(
            before.kind in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL) for before in parameters[:i]
        ):
            shown.append("*")
        shown.append(_parameter(one))
    returns = signature.return_annotation
    arrow = "" if returns is signature.empty or inspect.isclass(value) else f" -> {_annotation(returns)}"
    line = f"{name}({', '.join(shown)}){arrow}"
    if len(line) > _WIDTH:
        line = f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f"){arrow}"
    return f"```text\n{line}\n```\n"


def _parameter(one: inspect.Parameter) -> str:
    stars = {one.VAR_POSITIONAL: "*", one.VAR_KEYWORD: "**"}.get(one.kind, "")
    typed = "" if one.annotation is one.empty else f": {_annotation(one.annotation)}"
    if one.default is one.empty:
        return f"{stars}{one.name}{typed}"
    return f"{one.name}{typed}{' = ' if typed else '='}{_default(one.default)}"


def _annotation(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.removeprefix("latest.")


def _default(value: Any) -> str:
    if isinstance(value, enum.Enum):
        return f"{type(value).__name__}.{value.name}"
    if callable(value):
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    return "…" if text.startswith("<") else text


def _docstring(value: Any) -> Iterator[str]:
    """Yield the paragraphs of a docstring as Markdown; its sections become lists."""
    text = inspect.cleandoc(value.__doc__ or "").replace("``", "`")
    section, block = "", []
    for line in [*text.split("\n"), "Args:"]:
        heading = _SECTION.fullmatch(line)
        if heading is None:
            block.append(line)
            continue
        yield from _section(section, textwrap.dedent("\n".join(block)).strip("\n"))
        section, block = heading[1], []


def _section(title: str, text: str) -> Iterator[str]:
    if not text:
        return
    if title in ("Returns", "Yields"):
        yield _filled(f"{title}: {text}") + "\n"
    elif title:
        items = re.split(r"\n(?=\S)", text)  # what is indented continues the item before
        yield f"{title}:\n"
        yield "".join(_filled("- " + _ITEM.sub(_named, item, count=1), indent="  ") + "\n" for item in items)
    else:
        for literal, paragraphs in itertools.groupby(re.split(r"\n\s*\n", text), key=lambda one: one.startswith(" ")):
            if literal:  # an example, after a paragraph that ends with two colons
                yield "```text\n" + textwrap.dedent("\n\n".join(paragraphs)) + "\n```\n"
                continue
            for paragraph in filter(None, (_without_colons(one) for one in paragraphs)):
                is_list = paragraph.startswith(("- ", "| "))  # its lines are meant
                yield (paragraph if is_list else _filled(paragraph)) + "\n"


def _without_colons(paragraph: str) -> str:
    """Return a paragraph without the mark that an example follows; nothing is left of one that is only that mark."""
    return "" if paragraph == "::" else re.sub(r"::$", ":", paragraph)


def _named(match: re.Match[str]) -> str:
    return ", ".join(one if one == "…" else f"`{one}`" for one in match[1].split(", ")) + ": "


def _filled(text: str, indent: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()), _WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def _linked(text: str) -> str:
    """Return the page with each mention of a name that has a heading, outside of code and headings, as a link."""
    headings = set(re.findall(r"^#{3,4} (\S+)$", text, re.M))

    def link(match: re.Match[str]) -> str:
        name = match[1]
        return f"[`{name}`](#{name.replace('.', '').lower()})" if name in headings else match[0]

    parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
    return "".join(part if part.startswith("```") else re.sub(r"`([\w.]+)`", link, part) for part in parts)


def main() -> None:
    """Print the page, or write both."""
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(page(), encoding="utf-8")
        if all(importlib.util.find_spec(name.rpartition(".")[2]) for name in FRAMEWORKS):
            FRAMEWORKS_PAGE.write_text(frameworks_page(), encoding="utf-8")
    else:
        sys.stdout.write(page())


if __name__ == "__main__":
    main()
