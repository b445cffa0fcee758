# SPDX-License-Identifier: Apache-2.0
"""``agentwall admit``, by hand and as a hook."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from rig.admitting import control_room, refusing
from rig.cgroup import in_cgroup, temp_cgroup
from rig.cli import run_agentwall
from rig.process import stop, wait_until

from agentwall.cli.main import main


@pytest.fixture
def pid():
    """A process in a cgroup of its own."""
    with temp_cgroup("admit") as cgroup:
        child = subprocess.Popen(in_cgroup(cgroup, "sleep", "600"), start_new_session=True)
        comm = Path(f"/proc/{child.pid}/comm")
        wait_until(lambda: comm.read_text() == "sleep\n", what="a process")
        yield child.pid
        stop(child)


def test_by_hand(tmp_path, pid, capsys):
    """A process, a policy and labels; what came of it is said."""
    words = ["--pid", str(pid), "--policy", "train", "--label", "episode=7", "--label", "a=b=c"]
    with control_room(tmp_path / "c.sock") as room:
        code = main(["admit", "--socket", str(room.path), *words])

    [request] = room.requests
    assert code == 0
    assert (request["pid"], request["policy"]) == (pid, "train")
    assert request["labels"] == {"episode": "7", "a": "b=c"}
    assert (request["container"], request["bundle"]) == (None, None)
    assert capsys.readouterr().out == "sandbox s1: policy p, coverage full\n"


def test_no_policy(tmp_path, pid, capsys):
    """One that no policy is for may be let be, and that is said too."""

    def answer(_: object) -> dict[str, object]:
        return {"ok": True, "result": {"sandbox": None}}

    with control_room(tmp_path / "c.sock", answer) as room:
        words = ["admit", "--socket", str(room.path), "--pid", str(pid)]

        assert main(words) == 1
        assert main([*words, "--allow-unmatched"]) == 0
    assert capsys.readouterr().out == "no policy is for it\n"


@pytest.mark.parametrize(
    ("code", "expected"), [("not-permitted", "(not-permitted)"), ("failed", "(failed)")]
)
def test_refused(tmp_path, pid, capsys, code, expected):
    """A refusal is exit code 1 and one line."""
    with control_room(tmp_path / "c.sock", refusing(code, "why")) as room:
        assert main(["admit", "--socket", str(room.path), "--pid", str(pid)]) == 1

    assert capsys.readouterr().err == f"agentwall: admit: refused: why {expected}\n"


def test_not_running(tmp_path, pid, capsys):
    """No daemon is exit code 3, or a warning if that is what is wanted."""
    words = ["admit", "--socket", str(tmp_path / "none"), "--pid", str(pid)]

    assert main(words) == 3
    assert "the daemon is not running" in capsys.readouterr().err
    assert main([*words, "--allow-unwatched"]) == 0
    assert f"process {pid} starts unwatched" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words",
    [
        ("--pid", "0"),
        ("--pid", "x"),
        ("--pid", "7", "--release"),
        ("--pid", "7", "--label", "novalue"),
        ("--pid", "7", "--label", "=x"),
    ],
)
def test_usage(words):
    """Wrong usage is exit code 2, and nobody is asked."""
    assert main(["admit", "--socket", "/nonexistent/x", *words]) == 2


def test_as_hook(tmp_path, pid):
    """On stdin it takes what runtimes say, and says nothing itself."""
    state = {"ociVersion": "1.0.2", "id": "c1", "pid": pid, "bundle": "/b", "annotations": {}}
    with control_room(tmp_path / "c.sock") as room:
        words = ("admit", "--socket", str(room.path), "--label", "run=r1")
        done = run_agentwall(*words, stdin=json.dumps(state))
        released = run_agentwall(*words, "--release", stdin=json.dumps({**state, "pid": 0}))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert released.returncode == 0
    assert [each["request"] for each in room.requests] == ["admit", "release"]
    assert room.requests[0]["labels"] == {"run": "r1"}


def test_not_a_state():
    """An empty stdin is wrong usage."""
    assert run_agentwall("admit", stdin="").returncode == 2


def test_gone(tmp_path, capsys):
    """A process that is not there is refused before the daemon is asked."""
    child = subprocess.Popen(["true"])
    child.wait()
    with control_room(tmp_path / "c.sock") as room:
        assert main(["admit", "--socket", str(room.path), "--pid", str(child.pid)]) == 1

    assert room.requests == []
    assert "there is none" in capsys.readouterr().err
    assert not os.path.exists(f"/proc/{child.pid}")
