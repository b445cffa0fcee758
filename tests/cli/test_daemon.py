# SPDX-License-Identifier: Apache-2.0
"""``agentwall daemon``: what may be said together, and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from click.testing import CliRunner
from rig.daemon import daemon_ground

from agentwall.cli.daemon import daemon


def call(*arguments: str, user: int | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command as a person does."""
    return subprocess.run(
        [sys.executable, "-m", "agentwall", "daemon", *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        user=user,
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stop"], "say --stop --keep to leave the wall as it is, or --detach to take it down"),
        (["--keep"], "--keep goes with --stop"),
        (["--stop", "--keep", "--detach"], "--stop leaves the wall as it is"),
        (["--detach", "--keep"], "--keep goes with --stop"),
        (["more"], "unexpected extra argument"),
    ],
)
def test_what_does_not_go_together(arguments, said):
    """Nobody takes a wall down, or leaves one, without having said which."""
    done = CliRunner().invoke(daemon, arguments)

    assert done.exit_code == 2
    assert said in done.output


def test_no_daemon_to_stop(tmp_path):
    """A line that says where nobody answered, and not success."""
    done = call("--stop", "--keep", "--socket", str(tmp_path / "control.sock"))

    assert done.returncode not in (0, 1)
    assert str(tmp_path / "control.sock") in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("version: 2\n", "agentwall.yaml:1:10: version:"),
        ("version: 1\nscops: []\n", "agentwall.yaml:2:1: scops:"),
        ("version: 1\nscopes: [{cgroup: /, kind: owned}]\n", "scopes[0]"),
        (None, "agentwall.yaml"),
    ],
)
def test_a_configuration_that_is_wrong(tmp_path, text, said):
    """Not started, with each fault on a line of its own; what stood before stands."""
    path = tmp_path / "agentwall.yaml"
    if text is not None:
        path.write_text(text)
    done = call("--config", str(path))

    assert done.returncode == 2
    assert said in done.stderr
    assert done.stderr.splitlines()[-1].endswith(
        "not started: what an earlier daemon left stands as it is"
    )
    assert "Traceback" not in done.stderr


def test_a_policy_that_is_wrong_starts_nothing(tmp_path):
    """Fail closed, and clear: the fault's place, and exit code 2."""
    with daemon_ground(tmp_path) as ground:
        ground.policy("web", "allow: [{cidr: 127.0.0.1, ports: [70000]}]\n")
        done = call("--config", str(ground.config))
        is_served = ground.socket.exists()

    assert done.returncode == 2
    assert "web.yaml:3:" in done.stderr
    assert not is_served


def test_who_is_not_root_is_told():
    """It takes root to load programs; nothing is made before that is seen."""
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        config = Path(directory) / "agentwall.yaml"
        config.write_text(f"version: 1\npolicies: {directory}/policies\nstate: {directory}/state\n")
        done = call("--config", str(config), user=65534)
        made = [each.name for each in Path(directory).iterdir()]

    assert done.returncode == 77
    assert "expected root, to load programs: start it as a service or with sudo" in done.stderr
    assert made == ["agentwall.yaml"]


@pytest.mark.kernel
def test_nothing_to_take_down(tmp_path):
    """No daemon runs and none left anything: that is no failure."""
    with daemon_ground(tmp_path) as ground:
        done = call("--detach", "--socket", str(ground.socket), "--config", str(ground.config))

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "agentwall: no daemon is running; took down what one left (0 pins)\n"
