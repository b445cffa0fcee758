# SPDX-License-Identifier: Apache-2.0
"""The hook and a real daemon: what one asks is what the other understands."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.cgroup import in_cgroup
from rig.cli import environment, run_agentwall
from rig.daemon import Daemon, daemon_ground
from rig.process import stop, wait_until

pytestmark = pytest.mark.kernel


@pytest.fixture(scope="module")
def daemon(tmp_path_factory) -> Iterator[Daemon]:
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as made:
        made.policy("train", "allow:\n  - {cidr: 192.0.2.1, ports: [443]}\n")
        made.start()
        yield made
        made.stop()


@pytest.fixture
def sandbox(daemon, request) -> Iterator[tuple[Path, int]]:
    """A cgroup in the daemon's scope, and a process in it."""
    with daemon.sandbox(request.node.name) as cgroup:
        child = subprocess.Popen(in_cgroup(cgroup, "sleep", "600"), start_new_session=True)
        comm = Path(f"/proc/{child.pid}/comm")
        wait_until(lambda: comm.read_text() == "sleep\n", what="a process")
        yield cgroup, child.pid
        stop(child)


def hook(
    daemon: Daemon, pid: int, *words: str, policy: str = "train", cgroup: Path | None = None
) -> tuple[int, str]:
    """Run the hook for process *pid*, in *cgroup* if given; return its exit code and stderr."""
    command = [sys.executable, "-m", "agentwall.cli.admission", f"--socket={daemon.socket}", *words]
    state = {
        "ociVersion": "1.0.2",
        "id": f"container-{pid}",
        "pid": pid,
        "bundle": "/b",
        "annotations": {"io.agentwall.policy": policy, "episode": "7"},
    }
    done = subprocess.run(
        in_cgroup(cgroup, *command) if cgroup else command,
        input=json.dumps(state),
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stderr


def test_admitted(daemon, sandbox):
    """The sandbox has the policy that its annotation names, and counts as admitted by a hook."""
    cgroup, pid = sandbox
    assert hook(daemon, pid) == (0, "")

    found = daemon.sandbox_at(cgroup)
    assert (found["policy"], found["admission"]) == ("train", "hook")
    assert found["origin"]["labels"]["episode"] == "7"


def test_no_such_policy(daemon, sandbox):
    """A policy that the daemon does not have fails the start, and nothing is put in its place."""
    _, pid = sandbox
    code, said = hook(daemon, pid, policy="nosuch")

    assert code == 1
    assert "nosuch" in said
    assert said.endswith("(invalid)\n")


def test_asked_from_inside(daemon, sandbox):
    """Whoever is in a sandbox, root or not, admits nobody."""
    cgroup, pid = sandbox
    code, said = hook(daemon, pid, cgroup=cgroup)

    assert code == 1
    assert said.endswith("(not-permitted)\n")


def test_by_hand(daemon, sandbox):
    """Without a runtime there is no container id and no bundle."""
    cgroup, pid = sandbox
    words = ("--socket", daemon.socket, "--pid", str(pid), "--policy", "train", "--label", "a=b")
    done = run_agentwall("admit", *words)

    assert (done.returncode, done.stderr) == (0, "")
    assert f"sandbox {daemon.sandbox_at(cgroup)['id']}: policy train, coverage " in done.stdout


def test_unmatched(daemon):
    """A process outside of every scope is nobody's, which is an error unless it is wanted."""
    with subprocess.Popen(["sleep", "600"]) as child:
        words = ("--socket", daemon.socket, "--pid", str(child.pid))
        refused = run_agentwall("admit", *words)
        child.kill()

    assert refused.returncode == 1


def test_released(daemon, sandbox):
    """One that lives keeps its wall; one that the daemon does not know is no error."""
    cgroup, pid = sandbox
    assert hook(daemon, pid)[0] == 0
    code, said = hook(daemon, pid, "--release")

    assert code == 1
    assert "processes live in it" in said
    assert daemon.sandbox_at(cgroup) is not None
    assert hook(daemon, 4194304, "--release") == (0, "")
