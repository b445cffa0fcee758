# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` where a hook cannot be attached: ``on_error`` decides."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.cli import TIMEOUT_S, agentwall, environment
from rig.exclusive import exclusively

pytestmark = pytest.mark.kernel

DEGRADE = "version: 1\nloopback: deny\non_error: degrade\n"
FAIL_CLOSED = "version: 1\nloopback: deny\n"
SEND = (
    "import socket, sys\n"
    "try: socket.socket(10, 2).sendto(b'x', ('::1', 9))\n"
    "except OSError as err: print(err.errno)\n"
    "sys.exit(7)"
)

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run_below(tmp_path) -> Run:
    """A function that runs ``agentwall run`` below a cgroup where programs' hooks are occupied."""

    def run(policy: str, occupied: str, *words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "policy.yaml").write_text(policy)
        options = ("-p", "policy.yaml", "--events", "events.jsonl", *words)
        with temp_cgroup() as outer, exclusively(outer, occupied):
            return subprocess.run(
                in_cgroup(outer, *agentwall("run", *options)),
                cwd=tmp_path,
                env=environment(),
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )

    return run


@pytest.mark.parametrize(
    ("policy", "occupied", "has_hint"),
    [
        (FAIL_CLOSED, "aw_sendmsg6", True),
        (FAIL_CLOSED, "aw_egress", False),
        (DEGRADE, "aw_egress", False),
    ],
)
def test_refused(run_below, tmp_path, policy, occupied, has_hint):
    """The run ends with 125 and the hook's name before the command starts; no file is left."""
    done = run_below(policy, occupied, "--", "touch", "ran")

    assert done.returncode == 125
    assert done.stderr.startswith(f"agentwall: {occupied}: attach ")
    assert "bpftool cgroup tree" in done.stderr
    assert ("on_error: degrade starts without it" in done.stderr) is has_hint
    assert [path.name for path in tmp_path.iterdir()] == ["policy.yaml"]


def test_degraded(run_below, tmp_path):
    """The command runs, egress still refuses, its own code stays, and the hook is named thrice."""
    done = run_below(DEGRADE, "aw_sendmsg6", "--", "python3", "-c", SEND)

    [started, *_] = map(json.loads, (tmp_path / "events.jsonl").read_text().splitlines())
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (7, "1\n")
    assert lines[0].startswith("agentwall: hook not in force: aw_sendmsg6: attach ")
    assert any("coverage: partial" in x and "hooks not in force: aw_sendmsg6" in x for x in lines)
    assert started["detail"]["coverage"] == "partial"
    assert "hooks not in force: aw_sendmsg6" in started["detail"]["open_roads"]
    assert list(started["detail"]["missing_hooks"]) == ["aw_sendmsg6"]
    assert "damaged" not in done.stderr


@pytest.mark.parametrize("words", [["--quiet"], ["--fail-on", "critical"]])
def test_degraded_is_no_finding(run_below, words):
    """A hook that the policy can do without fails no run."""
    assert run_below(DEGRADE, "aw_sendmsg6", *words, "--", "sh", "-c", "exit 7").returncode == 7


def test_degraded_is_not_full(run_below, tmp_path):
    """Where full coverage is required the command does not start, and no file is left."""
    done = run_below(DEGRADE, "aw_sendmsg6", "--require-full", "--", "touch", "ran")

    assert done.returncode == 125
    assert "expected full" in done.stderr
    assert not Path(tmp_path, "ran").exists()
    assert not Path(tmp_path, "events.jsonl").exists()


def test_nothing_to_degrade(run_below):
    """Where every hook can be attached ``degrade`` changes nothing."""
    done = run_below(DEGRADE, "none", "--", "python3", "-c", SEND)

    assert (done.returncode, done.stdout) == (7, "1\n")
    assert "not in force" not in done.stderr
