from __future__ import annotations

import json
from dataclasses import asdict

import jsonschema
import pytest

from ckptd.cli import main, output, progress, schema
from ckptd.demo.findings import DemoOutcome, Kept
from tests.fakes import schemas


def test_every_command_that_prints_json_has_a_schema():
    context = main.cli.make_context("ckptd", ["--version"], resilient_parsing=True)
    with_json = set()
    for name in main.COMMANDS:
        command = main.cli.get_command(context, name)
        each = [command, *getattr(command, "commands", {}).values()]
        if any("--json" in parameter.opts for one in each for parameter in one.params):
            with_json.add(name)
    assert {"ls", "show", "cat", "verify", "latest", "status", "demo", "prune", "doctor", "bench"} <= with_json
    assert with_json <= set(schema.names())


@pytest.mark.parametrize("name", schema.names())
def test_a_schema_is_one_and_says_of_what(name, capsys):
    assert main.run(["schema", name]) == 0
    published = json.loads(capsys.readouterr().out)
    jsonschema.Draft202012Validator.check_schema(published)
    assert name in published["title"]
    assert name == "progress" or name in main.COMMANDS


def test_the_schemas_are_listed(capsys):
    assert main.run(["schema"]) == 0
    assert capsys.readouterr().out.split() == schema.names()


def test_what_the_schemas_do_not_tell_of_is_noticed():
    news = {"event": "progress", "label": "x", "done_bytes": 1, "total_bytes": 2}
    schemas.check("progress", news)
    with pytest.raises(jsonschema.ValidationError, match="surprise"):
        schemas.check("progress", {**news, "surprise": 1})


def test_the_demo_prints_what_its_schema_says():
    outcome = DemoOutcome("/tmp/demo")
    outcome.claim("it holds", True, "seen")
    outcome.checkpoints.append(Kept(120, "/tmp/demo/m-120", 4, 4, 1000, 0.1, 0.2, 3, True, True))
    schemas.check("demo", output.jsonable({**asdict(outcome), "held": outcome.held}))


def test_progress_for_scripts_tells_the_first_and_the_last_and_follows_its_schema(capsys):
    with progress.shown("reading", "json") as progressed:
        for done in (1, 2, 3, 1000):
            progressed(done, 1000)
    captured = capsys.readouterr()
    lines = [schemas.check("progress", json.loads(line)) for line in captured.err.splitlines()]
    assert [line["done_bytes"] for line in lines] == [1, 1000]
    assert captured.out == ""
