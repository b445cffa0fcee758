# SPDX-License-Identifier: Apache-2.0
"""A sandbox whose processes' memory nobody can read makes neither the daemon nor a run wait."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from rig.cgroup import in_cgroup
from rig.cli import agentwall, environment, run_agentwall
from rig.daemon import daemon_ground
from rig.held_memory import TESTS, held_command, held_or_skip
from rig.process import wait_until

pytestmark = pytest.mark.kernel

NOWHERE = "203.0.113.7"
CONNECT = f"""
import socket, time
for port in (1, 2, 3):
    with socket.socket() as one:
        one.connect_ex(("{NOWHERE}", port))
time.sleep(60)
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon whose one policy permits nothing."""
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.start()
        yield daemon


def told(daemon, sandbox) -> dict[int, dict]:
    """Whom the log tells of to have tried, by port."""
    found = [each for each in daemon.events("flow") if each["sandbox"]["id"] == sandbox["id"]]
    return {each["remote"]["port"]: each["process"] for each in found}


def test_the_daemon_does_not_wait(daemon, tmp_path):
    """Its events are told without arguments, those of others with them; all are answered."""
    with daemon.sandbox("held") as one, daemon.sandbox("other") as other:
        hostile, innocent = daemon.wait_for_sandbox(one), daemon.wait_for_sandbox(other)
        with held_or_skip(tmp_path, one, 3) as processes:
            for port in (1, 2, 3):
                processes.connect(NOWHERE, port)
                wait_until(lambda port=port: port in told(daemon, hostile), what="an event")
            command = in_cgroup(other, sys.executable, "-c", CONNECT)
            with subprocess.Popen(command) as trying:
                wait_until(lambda: len(told(daemon, innocent)) == 3, what="its events")
                trying.kill()
            socket = ("--socket", daemon.socket)
            answers = [
                run_agentwall(*words, *socket)
                for words in (
                    ("status",),
                    ("sandbox", "show", hostile["id"]),
                    ("sandbox", "show", innocent["id"]),
                )
            ]
            mine, others = told(daemon, hostile), told(daemon, innocent)

    assert [(each["pid"] in processes.pids, each["argv"]) for each in mine.values()] == [
        (True, None)
    ] * 3
    assert all(each["exe"] for each in mine.values())
    assert [each["argv"][1] for each in others.values()] == ["-c"] * 3
    assert [each.returncode for each in answers] == [0] * 3, answers


def test_a_run_does_not_wait(tmp_path):
    """The command's events are told while it holds its own memory."""
    (tmp_path / "m").mkdir()
    log, policy = tmp_path / "log", tmp_path / "none.yaml"
    policy.write_text("version: 1\nname: none\n")
    words = ["unshare", "-Urm", *held_command(tmp_path / "m")]
    command = agentwall("run", "--policy", policy, "--events", log, "--", *words)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command, cwd=TESTS, env=environment(), text=True, **pipes) as running:
        line = running.stdout.readline()
        try:
            assert line, running.communicate(timeout=60)[1]
            if not line.strip().isdigit():
                pytest.skip(f"no FUSE in a sandbox here: {line}")
            running.stdin.write(f"{NOWHERE} 443\n")
            running.stdin.flush()
            wait_until(lambda: verdicts(log), what="the event of the command")
        finally:
            # Standard input ends, and so does the command.
            running.communicate(timeout=60)
        (event,) = verdicts(log)

    assert event["process"]["argv"] is None
    assert running.returncode == 0


def verdicts(log) -> list[dict]:
    """What the log has of refused attempts, whole lines only."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    found = [json.loads(line) for line in lines if line.endswith("\n")]
    return [each for each in found if each["kind"] == "flow"]
