from __future__ import annotations

import re
import shlex

import pytest

from ckptd.cli import examples, main

CONTEXT = main.cli.make_context("ckptd", ["--version"], resilient_parsing=True)


def options_of(name):
    command = main.cli.get_command(CONTEXT, name)
    each = [command, *getattr(command, "commands", {}).values()]
    parameters = [parameter for one in each for parameter in one.params]
    return {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}


@pytest.mark.parametrize("name", main.COMMANDS)
def test_every_help_ends_with_examples(name, capsys):
    assert main.run([name, "--help"]) == 0
    assert "Examples:\n    " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "line"), [(name, line) for name, lines in examples.EXAMPLES.items() for line, _ in lines]
)
def test_an_example_uses_options_that_exist(name, line):
    typed = re.search(rf"ckptd {name}\b[^|>&)\"']*", line)
    assert typed is not None
    options = {word.partition("=")[0] for word in shlex.split(typed[0].partition(" -- ")[0]) if word.startswith("-")}
    assert options <= options_of(name)


def test_the_version_and_the_helps_need_no_command(capsys):
    assert main.run([]) == 2
    assert "Start here:" in capsys.readouterr().err
    assert main.run(["-h"]) == 0
