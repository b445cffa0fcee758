# SPDX-License-Identifier: Apache-2.0
"""Setting up says what is missing, and installs nothing when told not to."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rig.tree import ROOT

SETS = {"build", "demo", "test", "clients", "bench", "vm"}


@pytest.fixture
def tree(tmp_path) -> Path:
    """A tree with the set-up script and a package list of the test's own, not set up."""
    tools = tmp_path / "tools"
    tools.mkdir()
    shutil.copy(ROOT / "tools/setup.sh", tools)
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    (tools / "packages.txt").write_text(
        "# set package units why\n"
        "build  coreutils         -  there on every Debian\n"
        "build  no-such-package   -  nowhere\n"
        "demo   coreutils         -  there on every Debian\n"
    )
    return tmp_path


def setup(tree: Path, *args: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tree / "tools/setup.sh", *args],
        env=os.environ | {"AGENTWALL_NO_INSTALL": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_names_what_is_missing(tree):
    """The missing package is named, the one that is there is not, and the exit code is 1."""
    done = setup(tree, "packages", "build")

    assert done.returncode == 1
    assert "missing Debian packages: no-such-package;" in done.stderr
    assert "AGENTWALL_NO_INSTALL=1" in done.stderr


def test_silent_when_nothing_is_missing(tree):
    """A set that is all there gives no output; other sets do not count."""
    done = setup(tree, "packages", "demo")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_makes_no_environment_when_told_not_to(tree):
    """Without .venv it stops and leaves none behind."""
    done = setup(tree, "venv")

    assert done.returncode == 1
    assert ".venv is absent" in done.stderr
    assert not (tree / ".venv").exists()


def test_fetches_no_clients_when_told_not_to(tree):
    """Without build/clients it stops and leaves none behind; with those wanted it is silent."""
    wanted = tree / "tests/clients/package.json"
    wanted.parent.mkdir(parents=True)
    wanted.write_text("{}")
    refused = setup(tree, "clients")

    assert refused.returncode == 1
    assert "build/clients is absent" in refused.stderr
    assert not (tree / "build").exists()

    (tree / "build/clients/node_modules").mkdir(parents=True)
    shutil.copy(wanted, tree / "build/clients")
    done = setup(tree, "clients")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_tests_run_without_clients(tree):
    """Where npm fetches nothing that is said, and setting up goes on."""
    wanted = tree / "tests/clients/package.json"
    wanted.parent.mkdir(parents=True)
    wanted.write_text("{}")
    npm = tree / "bin/npm"
    npm.parent.mkdir()
    npm.write_text("#!/bin/sh\nexit 1\n")
    npm.chmod(0o755)
    done = subprocess.run(
        [tree / "tools/setup.sh", "clients"],
        env={"PATH": f"{npm.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert "npm fetched nothing: tests of real clients will be skipped" in done.stderr
    assert not (tree / "build/clients/package.json").exists()


def test_package_list():
    """Every line of the list names a known set, a package, its units or a dash, and a reason."""
    lines = (ROOT / "tools/packages.txt").read_text().splitlines()
    rows = [line.split(None, 3) for line in lines if line and not line.startswith("#")]

    assert rows
    assert {row[0] for row in rows} == SETS
    assert [row for row in rows if len(row) != 4] == []
