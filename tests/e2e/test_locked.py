"""What the image is made from is listed with hashes, and the lists are those of pyproject.toml."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.e2e.test_packaging import REPOSITORY

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DEPLOY = REPOSITORY / "deploy"
LISTS = sorted(DEPLOY.glob("*.lock"))
OF_THE_IMAGE = {"python_version": "3.11", "python_full_version": "3.11.0", "extra": ""}
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())


def pins(path):
    """Return name → (version, hashes); anything else in a list is refused."""
    text = re.sub(r"\\\n", " ", path.read_text())
    found = {}
    for line in filter(None, (line.strip() for line in text.splitlines() if not line.startswith("#"))):
        pinned = re.fullmatch(r"([a-z0-9._-]+)==(\S+)((?: +--hash=sha256:[0-9a-f]{64})+)", line)
        assert pinned is not None, line
        found[canonicalize_name(pinned[1])] = (Version(pinned[2]), pinned[3].split())
    return found


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.name)
def test_each_package_of_a_list_has_one_version_and_hashes(path):
    assert pins(path)
    assert "/" not in re.sub("deploy/lock_requirements|.ci/sbom", "", path.read_text())  # no index, no machine


@pytest.mark.parametrize(
    ("name", "requirements"),
    [
        ("requirements.lock", PROJECT["project"]["dependencies"]),
        ("requirements-build.lock", PROJECT["build-system"]["requires"]),
    ],
)
def test_the_lists_have_all_that_pyproject_wants_in_versions_that_it_allows(name, requirements):
    pinned = pins(DEPLOY / name)
    for requirement in map(Requirement, requirements):
        if requirement.marker is None or requirement.marker.evaluate(OF_THE_IMAGE):
            version, _ = pinned[canonicalize_name(requirement.name)]
            hint = f"{requirement}, but {version} in {name}: run deploy/lock_requirements"
            assert requirement.specifier.contains(version, prereleases=True), hint


def test_the_image_takes_nothing_from_an_index_that_no_list_has():
    dockerfile = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    calls = re.findall(r"pip (?:--python \S+ )?(?:install|wheel) [^&\n]*", dockerfile)
    assert len(calls) == 4
    for call in calls:
        from_a_list = "--require-hashes" in call and re.search(r"-r (deploy/requirements\S*\.lock)", call)
        assert from_a_list or {"--no-index", "--no-deps"} <= set(call.split()), call
    copied = re.search(r"^COPY ((?:deploy/\S+\.lock )+)deploy/$", dockerfile, re.M)
    assert set(copied[1].split()) == set(re.findall(r"-r (\S+)", dockerfile))
    assert "!deploy/*.lock" in (REPOSITORY / ".dockerignore").read_text().splitlines()


def test_the_bill_of_materials_is_made_by_ci_for_the_wheel_that_it_builds():
    script = REPOSITORY / ".ci" / "sbom"
    assert os.access(script, os.X_OK)
    subprocess.run(["bash", "-n", str(script)], check=True, timeout=120)
    ci = (REPOSITORY / ".ci" / "run").read_text()
    assert ci.index('pip" wheel') < ci.index(".ci/sbom") < ci.index("The demo, from the wheel")
    assert "deploy/lock_requirements --check" in ci
    assert {path.name for path in LISTS} == set(re.findall(r"requirements\S*\.lock", script.read_text())) | {
        "requirements-build.lock"
    }


@pytest.mark.campaign
def test_every_list_resolves_from_an_index():
    done = subprocess.run(
        [sys.executable, str(DEPLOY / "lock_requirements"), "--check"], capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("and it resolves") == len(LISTS)
