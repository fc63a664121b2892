"""Text that may be printed: names, reasons and peers come from files and from other programs.

What a terminal would obey (escapes, C0 and C1 controls), what turns text round (bidirectional controls) and what cannot
be seen (characters of no width, lone surrogates) is written as an escape. Commands, errors and log lines all use this.
"""

from __future__ import annotations

import re

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with what it counts: ``1 shard``, ``2 shards``, ``2 processes``."""
    return f"{number} {noun}" if number == 1 else f"{number} {plural or noun + 's'}"


def printable(text: str, *, lines: bool = False, limit: int | None = None) -> str:
    """Return `text` with everything that is not plainly visible written as Python escapes it.

    Args:
        text: any text; bytes that were no UTF-8 may be in it as surrogates.
        lines: let line ends stay what they are.
        limit: cut what is longer than so many characters.
    """
    if limit is not None and len(text) > limit:
        text = f"{text[:limit]}… ({len(text)} characters)"
    if text.isprintable():
        return text
    shown = text
    if _LONE_SURROGATE.search(text):
        shown = text.encode("utf-8", "surrogateescape" if _is_from_bytes(text) else "backslashreplace").decode(
            "utf-8", "backslashreplace"
        )
    kept = "\n" if lines else ""
    return "".join(c if c.isprintable() or c in kept else _escaped(c) for c in shown)


def printable_json(text: str) -> str:
    """Return a JSON document with every such character inside its strings escaped; it means the same."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else _json_escaped(c) for c in text)


def why_no_token(text: str) -> str:
    """Return why `text` is no bearer token, in words that show nothing of it; "" if it is one."""
    if not text.strip():
        return "it is empty"
    if "\n" in text or "\r" in text:
        return "it has a line end in it"
    if not text.isascii() or not text.isprintable():
        return "it has characters that are not printable ASCII"
    return ""


def _is_from_bytes(text: str) -> bool:
    """Say whether all surrogates of a text stand for single bytes."""
    return all("\udc80" <= c <= "\udcff" for c in _LONE_SURROGATE.findall(text))


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _json_escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at]:02x}{units[at + 1]:02x}" for at in range(0, len(units), 2))
