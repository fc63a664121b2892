"""`ckptd schema`: the JSON Schemas of what `--json` prints, so that programs know what they may rely on."""

from __future__ import annotations

from difflib import get_close_matches
from importlib import resources

import click

from ckptd.cli import output
from ckptd.errors import NotFoundError

_SUFFIX = ".json"


@click.command()
@click.argument("name", metavar="[NAME]", required=False)
def command(name: str | None) -> None:
    """Print the JSON Schema of what the command NAME prints with --json; without NAME, which schemas there are.

    Fields are only ever added: a program that ignores unknown fields goes on working.
    """
    if name is None:
        for each in names():
            output.say(each)
        return
    output.say(text(name).rstrip("\n"), lines=True)


def names() -> list[str]:
    """Return the names of the schemas, which are those of the commands, and `progress`."""
    found = resources.files("ckptd.cli").joinpath("schemas").iterdir()
    return sorted(each.name.removesuffix(_SUFFIX) for each in found if each.name.endswith(_SUFFIX))


def text(name: str) -> str:
    """Return a schema as it is published; `NotFoundError` with the names that come near."""
    known = names()
    if name not in known:
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else f"; there are: {', '.join(known)}"
        raise NotFoundError(f"there is no schema '{name}'{hint}")
    return resources.files("ckptd.cli").joinpath("schemas", name + _SUFFIX).read_text("utf-8")
