"""What a stranger's clone must hold together: commands in files that no interpreter reads."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ckptd.cli import main
from ckptd.wire.versions import VERSION

REPOSITORY = Path(__file__).resolve().parents[2]


def options_of(command):
    """Return the long options that a command knows."""
    module = main.cli.get_command(main.cli.make_context("ckptd", ["--version"], resilient_parsing=True), command)
    return {option for parameter in module.params for option in (*parameter.opts, *parameter.secondary_opts)}


def test_the_version_is_the_same_in_the_package_and_on_the_wire():
    declared = re.search(r'^version = "(.+)"$', (REPOSITORY / "pyproject.toml").read_text(), re.M)
    assert declared is not None
    assert declared[1] == VERSION


def test_the_image_starts_and_checks_the_daemon_with_options_that_exist():
    dockerfile = (REPOSITORY / "deploy" / "Dockerfile").read_text()
    entrypoint, health, command = (
        json.loads(re.search(pattern, dockerfile, re.M)[1])
        for pattern in (r"^ENTRYPOINT (\[.*\])$", r"^ +CMD (\[.*\])$", r"^CMD (\[.*\])$")
    )
    assert entrypoint == ["ckptd"]
    assert health[:2] == ["ckptd", "health"]
    assert health[2] in command
    assert command[0] == "serve"
    assert {word for word in command if word.startswith("--")} <= options_of("serve")
    assert re.search(r"^USER (?!root)", dockerfile, re.M)


def test_the_ci_script_parses_and_runs_what_the_readme_says():
    script = REPOSITORY / ".ci" / "run"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=120)
    text = script.read_text()
    assert "pip install --quiet -e '.[test]'\n    pytest" in text
    assert 'ckptd" demo' in text


def test_the_module_runs_like_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "ckptd", "latest", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    assert done.returncode == 3
    assert done.stdout == ""
    assert done.stderr.startswith("ckptd: no checkpoint has been published")


@pytest.mark.parametrize(
    "page", [*sorted(REPOSITORY.glob("docs/**/*.md")), REPOSITORY / "README.md"], ids=lambda p: p.name
)
def test_links_between_pages_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_nothing_written_names_the_machine_it_was_written_on():
    places = [
        "README.md",
        "CHANGELOG.md",
        "docker-compose.yml",
        ".env.example",
        ".ci/run",
        "docs",
        "examples",
        "deploy",
    ]
    places += [
        "docs/api",
        "CONTRIBUTING.md",
        "benchmarks",
        "deploy/ceph",
        "deploy/trial",
        "deploy/kubernetes",
        "deploy/kubernetes/example",
    ]
    files = [REPOSITORY / place for place in places if (REPOSITORY / place).is_file()]
    files += [file for place in places for file in sorted((REPOSITORY / place).glob("*")) if file.is_file()]
    for file in files:
        assert not re.search(r"/work/|/tmp/v3|/home/\w|/root/", file.read_bytes().decode("utf-8", "replace")), file
