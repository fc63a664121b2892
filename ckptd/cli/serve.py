"""`ckptd serve`: run the daemon. Its flags are the schema of `ckptd.daemon.config`."""

from __future__ import annotations

import os
from typing import Any

import click

from ckptd.cli import output
from ckptd.daemon import config

_TYPES: dict[str, Any] = {
    "text": click.STRING,
    "texts": click.STRING,
    "integer": click.INT,
    "seconds": click.FLOAT,
    "flag": click.BOOL,
}


def _options() -> list[click.Parameter]:
    """Make a flag of every setting. Defaults are the schema's, so that the environment and a file can come between."""
    made: list[click.Parameter] = []
    for name, setting, default in config.settings():
        shown = "" if default in (None, (), "", False) else f" [default: {default}]"
        made.append(
            click.Option(
                ["--" + name.replace("_", "-"), name],
                type=click.Choice(setting.choices) if setting.choices else _TYPES[setting.kind],
                is_flag=setting.kind == "flag",
                multiple=setting.kind == "texts",
                default=None,
                metavar=setting.metavar or None,
                help=setting.help + shown,
            )
        )
    return made


@click.command(
    "serve",
    params=_options(),
    epilog="Every flag may also be set as CKPTD_… in the environment (CKPTD_GRACE_S=5) or in the file.",
)
@click.option("--config", "config_file", metavar="FILE", help="TOML file with settings; also CKPTD_CONFIG.")
@click.option("--print-config", is_flag=True, help="Print the settings that would be used, and exit.")
def command(config_file: str | None, print_config: bool, **flags: Any) -> int:
    """Run the daemon: take checkpoints from training processes and keep them under --root."""
    loaded = config.load(flags, os.environ, config_file=config_file)
    if print_config:
        output.say(config.to_toml(loaded).rstrip("\n"), lines=True)
        return 0
    from ckptd.daemon import app  # gRPC and numpy are not needed to print a help text

    return app.serve(loaded.config, os.environ)
