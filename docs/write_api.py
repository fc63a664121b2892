"""Writes the reference of the Python interface from signatures and docstrings, one page per subject.

    python docs/write_api.py           prints it
    python docs/write_api.py --write   writes docs/api/, with the frameworks' pages where these are installed

What `ckptd.__all__` names is described, and what those of the frameworks' modules do, with the public methods that each
class defines itself. Docstrings are in Google's style; signatures are those of the source, whose annotations are text
and read the same under every Python. A test compares the pages with what this prints.
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

import ckptd
from google.protobuf.message import Message

DIRECTORY = Path(__file__).with_name("api")
SUBJECTS = {
    "saving": (
        "Saving and restoring",
        "What a training program calls.",
        (
            "Checkpointer",
            "PendingSave",
            "Checkpoint",
            "Slice",
            "SavePolicy",
            "save_checkpoint",
            "Durability",
        ),
    ),
    "reading": (
        "Reading checkpoints",
        "For programs that only read. A path may be a run's directory, a prefix, or the URL of either.",
        (
            "CheckpointReader",
            "load_checkpoint",
            "load_variable",
            "list_variables",
            "verify",
            "Report",
            "Problem",
        ),
    ),
    "directories": (
        "Directories of checkpoints",
        "Which checkpoints a directory has, and what its state file says.",
        (
            "latest_checkpoint",
            "checkpoint_exists",
            "get_checkpoint_state",
            "CheckpointState",
            "get_checkpoint_mtimes",
            "update_checkpoint_state",
            "remove_checkpoint",
        ),
    ),
    "watching": (
        "Following a run",
        "News of each new checkpoint, for evaluation and serving.",
        ("Watch", "follow", "checkpoints_iterator"),
    ),
    "saver": (
        "Saver",
        "The interface of `tf.train.Saver`, over named arrays.",
        ("Saver", "SaverDef"),
    ),
    "errors": (
        "Errors",
        "Every error that ckptd raises. The class says what to do about it.",
        (),
    ),
}
"""By page: its title, its first sentence, and the names on it. The errors are found by themselves."""
FRAMEWORKS = {
    "ckptd.events": "events",
    "ckptd.torch": "torch",
    "ckptd.jax": "jax",
    "ckptd.tensorflow": "tensorflow",
}
"""Modules, and the names of their pages and of the guides that show how each is used."""
NOT_FOR_CALLERS = {
    "Checkpointer.share_rooms",
}
"""Public within the package only: the `Checkpointer` calls them, and adapters."""

_WIDTH = 118
_WRITTEN = "<!-- written by docs/write_api.py; change the docstrings instead -->"
_OVERVIEW = f"""\
# Python reference

{_WRITTEN}

`import ckptd` has the names of these pages. A path may be a string or a `pathlib.Path`, and also the URL of a store.
Arrays are returned as numpy arrays; `Checkpointer.save` says what may be saved.
"""
_SECTION = re.compile(r"(Args|Attributes|Returns|Yields|Raises):\s*")
_ITEM = re.compile(r"(\S[^:\n]*): ")


def pages() -> dict[str, str]:
    """Return the text of each page of `ckptd` itself, by file name."""
    names = {subject: _names_of(subject) for subject in SUBJECTS}
    missing = set(ckptd.__all__) ^ {name for group in names.values() for name in group}
    assert not missing, f"SUBJECTS has no page for these, or no such name: {missing}"
    texts = {}
    for subject, (title, words, _) in SUBJECTS.items():
        described = _described({name: getattr(ckptd, name) for name in names[subject]})
        texts[f"{subject}.md"] = "\n".join(
            [f"# {title}\n\n{_WRITTEN}\n\n{words}\n", *described]
        )
    return _linked({"index.md": _overview(names)} | texts)


def framework_pages() -> dict[str, str]:
    """Return the text of each framework's page, by file name; they are imported for it."""
    texts = {}
    for name, page in FRAMEWORKS.items():
        module = importlib.import_module(name)
        found = {f"{name}.{one}": getattr(module, one) for one in sorted(module.__all__)}
        words = " ".join(inspect.cleandoc(module.__doc__ or "").split("\n\n")[0].split())
        guide = f"The guide shows how it is used: [{page}](../{page}.md).\n"
        described = _described(found)
        texts[f"{page}.md"] = "\n".join(
            [f"# {name}\n\n{_WRITTEN}\n\n{_filled(words)}\n\n{guide}", *described]
        )
    return _linked(texts, pages())


def _names_of(subject: str) -> tuple[str, ...]:
    if subject != "errors":
        return SUBJECTS[subject][2]
    found = [getattr(ckptd, name) for name in ckptd.__all__]
    errors = [one for one in found if inspect.isclass(one) and issubclass(one, BaseException)]
    return tuple(one.__name__ for one in sorted(errors, key=lambda one: one.exit_code))


def _overview(names: dict[str, tuple[str, ...]]) -> str:
    lines = [_OVERVIEW]
    for subject, group in names.items():
        lines += [f"## {SUBJECTS[subject][0]}\n", "| name | what it is |", "|---|---|"]
        lines += [f"| `{name}` | {_summary(getattr(ckptd, name))} |" for name in group]
        lines.append("")
    lines += ["## Modules\n", "| module | |", "|---|---|"]
    lines += [
        f"| [{name}]({page}.md) | [guide](../{page}.md) |" for name, page in FRAMEWORKS.items()
    ]
    return "\n".join(lines) + "\n"


def _summary(value: Any) -> str:
    """Return the first sentence of a docstring, for a cell of a table."""
    if isinstance(value, type) and issubclass(value, Message):
        return "A protobuf message."
    paragraph = " ".join(inspect.cleandoc(value.__doc__ or "").split("\n\n")[0].split())
    return re.split(r"(?<=\.) ", paragraph)[0].replace("``", "`").replace("|", "\\|")


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
    again = (
        "; the same call may succeed later (`retryable` is True)" if value.retryable else ""
    )
    yield from _docstring(value)
    yield f"Derived from `{base}`. Exit code of a command: {value.exit_code}{again}.\n"


def _message(value: type[Message]) -> Iterator[str]:
    """Yield a protobuf message's fields. Its class is generated and has no words of its own; the proto has."""
    yield "A protobuf message.\n"
    yield "| number | field |\n|---|---|\n" + "".join(
        f"| {one.number} | `{one.name}` |\n" for one in value.DESCRIPTOR.fields
    )


def _members(owner: str, value: type) -> Iterator[str]:
    """Yield what a class defines: the constructor's words, then properties, methods and class methods.

    What comes from a class of ckptd that has no name of its own in the reference is as if the class defined it.
    """
    constructor = value.__dict__.get("__init__")
    if constructor is not None and constructor.__doc__:
        yield from _docstring(constructor)
    for name, member in _defined(value).items():
        if name.startswith("_") or f"{owner}.{name}" in NOT_FOR_CALLERS:
            continue
        if isinstance(member, property):
            yield f"#### {owner}.{name}\n"
            yield from _docstring(member.fget)
        elif inspect.isfunction(member) or isinstance(member, classmethod | staticmethod):
            yield f"#### {owner}.{name}\n"
            yield _signature(
                f"{owner}.{name}", getattr(value, name), bound=inspect.isfunction(member)
            )
            yield from _docstring(getattr(value, name))


def _defined(value: type) -> dict[str, Any]:
    own = dict(value.__dict__)
    for base in value.__mro__[1:]:
        if base.__module__.startswith("ckptd.") and base.__name__ not in ckptd.__all__:
            own = own | {
                name: member for name, member in base.__dict__.items() if name not in own
            }
    return own


def _signature(name: str, value: Any, *, bound: bool = False) -> str:
    """Return a fenced signature, one parameter a line where it is long. `bound` leaves `self` out."""
    signature = inspect.signature(value)
    parameters = list(signature.parameters.values())[1 if bound else 0 :]
    shown: list[str] = []
    kinds = inspect.Parameter
    for i, one in enumerate(parameters):
        if one.kind is kinds.KEYWORD_ONLY and not any(
            before.kind in (kinds.KEYWORD_ONLY, kinds.VAR_POSITIONAL)
            for before in parameters[:i]
        ):
            shown.append("*")
        shown.append(_parameter(one))
    returns = signature.return_annotation
    arrow = (
        ""
        if returns is signature.empty or inspect.isclass(value)
        else f" -> {_annotation(returns)}"
    )
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
    text = (
        annotation
        if isinstance(annotation, str)
        else getattr(annotation, "__name__", str(annotation))
    )
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
        yield "".join(
            _filled("- " + _ITEM.sub(_named, item, count=1), indent="  ") + "\n"
            for item in items
        )
    else:
        for literal, paragraphs in itertools.groupby(
            re.split(r"\n\s*\n", text), key=lambda one: one.startswith(" ")
        ):
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
        " ".join(text.split()),
        _WIDTH,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _linked(texts: dict[str, str], others: dict[str, str] | None = None) -> dict[str, str]:
    """Return the pages with each mention of a name that has a heading as a link, outside of code and headings."""
    homes = {
        name: page
        for page, text in ((others or {}) | texts).items()
        for name in re.findall(r"^#{3,4} (\S+)$", text, re.M)
    }

    def linked(page: str, text: str) -> str:
        def link(match: re.Match[str]) -> str:
            name = match[1]
            if name not in homes:
                return match[0]
            return f"[`{name}`]({'' if homes[name] == page else homes[name]}#{name.replace('.', '').lower()})"

        parts = re.split(r"(^```.*?^```$)", text, flags=re.M | re.S)
        return "".join(
            part if part.startswith("```") else re.sub(r"`([\w.]+)`", link, part)
            for part in parts
        )

    return {page: linked(page, text) for page, text in texts.items()}


def main() -> None:
    """Print the pages, or write them."""
    if sys.argv[1:] != ["--write"]:
        sys.stdout.write("\n".join(pages().values()))
        return
    texts = pages()
    if all(importlib.util.find_spec(name) for name in ("torch", "jax", "tensorflow")):
        texts |= framework_pages()
    for name, text in texts.items():
        (DIRECTORY / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
