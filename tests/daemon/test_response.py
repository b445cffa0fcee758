# SPDX-License-Identifier: Apache-2.0
"""Freezing and killing real cgroups, and how much of that may happen."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.cgroup import cgroup_root, in_cgroup, members, temp_cgroup
from rig.process import wait_until
from rig.records import detection

from agentwall.daemon import response
from agentwall.daemon.config import ResponseSettings
from agentwall.daemon.response import Responder
from agentwall.engine.commands import StopSandbox
from agentwall.flow.record import SandboxKey
from agentwall.flow.verdict import Verdict
from agentwall.host.cgroup import Cgroup
from agentwall.policy.model import Response

pytestmark = pytest.mark.kernel

KEY = SandboxKey(7)


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    with temp_cgroup() as made:
        yield Cgroup(f"/{made.relative_to(cgroup_root())}", made)


@pytest.fixture
def make_responder(tmp_path: Path, monkeypatch):
    """A function that returns a responder with its snapshots in a directory of the test.

    It waits as long as it takes until a sandbox stands still, is gone, or is written down.
    """
    monkeypatch.setattr(response, "PATIENCE_S", 60.0)
    made = []

    def make(**settings: object) -> Responder:
        known = {"snapshots": tmp_path / "snapshots", **settings}
        made.append(Responder(ResponseSettings(**known)))
        return made[-1]

    yield make
    for responder in made:
        responder.close()


@contextlib.contextmanager
def _inside(cgroup: Cgroup, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(in_cgroup(cgroup.directory, *command), stdout=subprocess.PIPE)
    try:
        wait_until(lambda: child.pid in members(cgroup.directory), what="the process inside")
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def _command(what: Response) -> StopSandbox:
    return StopSandbox(sandbox=KEY, response=what, detection=detection(response=what.value))


LISTENER = """
import os, socket, sys
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
print(server.getsockname()[1], flush=True)
number = 0
while True:
    number += 1
    open(sys.argv[1], "w").write(str(number))
"""


def test_freeze(cgroup: Cgroup, make_responder, tmp_path: Path):
    """It stands still at once, what is in it is written down for root, and it can be let go."""
    counter = tmp_path / "counter"
    with _inside(cgroup, sys.executable, "-c", LISTENER, str(counter)) as child:
        port = int(child.stdout.readline())
        wait_until(counter.exists, what="the counter")
        told = make_responder().stop(_command(Response.FREEZE), cgroup, 0)
        before = counter.read_text()
        time.sleep(0.1)
        after = counter.read_text()
        thawed = subprocess.run(["sh", "-c", str(told.detail["thaw"])], check=False)
        wait_until(lambda: counter.read_text() not in ("", after), what="the thaw")

    assert (told.key, told.response, told.problem) == (KEY, Response.FREEZE, None)
    assert before == after
    assert thawed.returncode == 0
    path = Path(str(told.detail["snapshot"]))
    document = json.loads(path.read_text())
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert document["schema"] == "agentwall.snapshot/1"
    assert document["detection"]["class"] == "mining"
    [process] = document["processes"]
    assert (process["pid"], process["uid"], process["argv"][0]) == (child.pid, 0, sys.executable)
    assert process["ppid"] == os.getpid()
    states = {(each["local"]["port"], each["state"]) for each in document["sockets"]}
    assert (port, 10) in states
    assert document["socket_count"] == 3


def test_nothing_waits_for_a_snapshot(cgroup: Cgroup, make_responder, monkeypatch):
    """What takes longer than there is patience is written later, and the event says where."""
    look, begun, go_on = response.write_snapshot, threading.Event(), threading.Event()

    def late(*arguments):
        begun.set()
        go_on.wait()
        return look(*arguments)

    monkeypatch.setattr(response, "write_snapshot", late)
    responder = make_responder()
    monkeypatch.setattr(response, "PATIENCE_S", 0.05)
    with _inside(cgroup, "sleep", "600"):
        told = responder.stop(_command(Response.FREEZE), cgroup, 0)
        path = Path(str(told.detail["snapshot"]))
        was_there = path.exists()
        has_begun = begun.wait(60)
        go_on.set()
        responder.close()

    assert (was_there, has_begun) == (False, True)
    assert "processes" not in told.detail
    assert json.loads(path.read_text())["schema"] == "agentwall.snapshot/1"


def test_the_event_has_the_head_of_it(cgroup: Cgroup, make_responder):
    """What is known by then is in the event too, bounded."""
    with _inside(cgroup, "sh", "-c", f"sleep 600; : {'x' * 2000}"):
        told = make_responder().stop(_command(Response.FREEZE), cgroup, 0)

    processes = told.detail["processes"]
    assert told.detail["signature"] == "mining/stratum-v1"
    assert told.detail["process_count"] in (1, 2)
    assert all(len(each["command_line"]) <= 256 for each in processes)
    assert len(json.dumps(dict(told.detail))) < 4096


def test_kill(cgroup: Cgroup, make_responder):
    """Every process is gone, those in cgroups below too, frozen or not."""
    below = cgroup.directory / "below"
    below.mkdir()
    lower = Cgroup(f"{cgroup.path}/below", below)
    responder = make_responder()
    with _inside(cgroup, "sleep", "600") as one, _inside(lower, "sleep", "600") as other:
        frozen = responder.stop(_command(Response.FREEZE), cgroup, 0)
        told = responder.stop(_command(Response.KILL), cgroup, 0)
        codes = one.wait(60), other.wait(60)

    assert frozen.problem is None
    assert told.problem is None
    assert codes == (-9, -9)


@pytest.mark.parametrize(
    ("what", "problem"),
    [(Response.FREEZE, "it had ended already"), (Response.KILL, None)],
)
def test_what_is_gone(make_responder, what, problem):
    """A sandbox that has ended meanwhile cannot be frozen, and need not be killed."""
    with temp_cgroup() as made:
        cgroup = Cgroup(f"/{made.relative_to(cgroup_root())}", made)
    told = make_responder().stop(_command(what), cgroup, 0)

    assert told.problem == problem


def test_snapshots_that_cannot_be_written(cgroup: Cgroup, make_responder, tmp_path, caplog):
    """A sandbox is frozen all the same, and the log says what is missing."""
    (tmp_path / "file").write_text("")
    responder = make_responder(snapshots=tmp_path / "file")
    with _inside(cgroup, "sleep", "600"):
        told = responder.stop(_command(Response.FREEZE), cgroup, 0)
        is_frozen = cgroup.is_frozen()

    def is_said() -> bool:
        responder.poll(0)
        return "not written: " in caplog.text

    assert told.problem is None
    assert is_frozen
    wait_until(is_said, what="the warning")


def test_rate(cgroup: Cgroup, make_responder, tmp_path: Path):
    """Beyond so many a minute nothing is done, and that is said; a minute later it is again."""
    responder = make_responder(per_minute=2)
    with _inside(cgroup, "sleep", "600"):
        told = [responder.stop(_command(Response.FREEZE), cgroup, at) for at in (0, 1, 2, 59.9)]
        (cgroup.directory / "cgroup.freeze").write_text("0")
        beyond = responder.stop(_command(Response.FREEZE), cgroup, 59.9)
        is_frozen = (cgroup.directory / "cgroup.freeze").read_text()
        later = responder.stop(_command(Response.FREEZE), cgroup, 60.0)

    expected = "recorded only: at most 2 responses a minute"
    assert [each.problem for each in told] == [None, None, expected, expected]
    assert (beyond.problem, is_frozen.strip()) == (expected, "0")
    assert later.problem is None


@pytest.mark.parametrize(
    ("changes", "runs"),
    [
        ({"response": "block"}, True),
        ({"response": "kill"}, True),
        ({"response": "block", "verdict": Verdict.WOULD_DENY}, False),
        ({"response": "alert", "verdict": Verdict.ALLOW}, False),
    ],
)
def test_command(make_responder, tmp_path: Path, changes, runs):
    """The command runs for what was cut, and for nothing else."""
    seen = tmp_path / "seen"
    responder = make_responder(
        command=("/bin/sh", "-c", f"cat >{seen}.part; mv {seen}.part {seen}")
    )
    responder.notify(detection(**changes), 0, "id-1")

    if runs:
        wait_until(seen.exists, what="the command")
        assert json.loads(seen.read_text())["id"] == "id-1"
    else:
        time.sleep(0.1)
        assert not seen.exists()


def test_commands_count_too(make_responder, tmp_path: Path, caplog):
    """Commands are within the same bound, and that one is left out is said once."""
    responder = make_responder(
        command=("/bin/sh", "-c", f"echo >>{tmp_path}/ran"), per_minute=3, command_timeout_s=60.0
    )
    for _ in range(6):
        responder.notify(detection(), 0)
    wait_until(
        lambda: (tmp_path / "ran").exists() and (tmp_path / "ran").read_text() == "\n\n\n",
        what="three commands",
    )

    assert caplog.text.count("more than 3 responses within a minute") == 1


def test_a_command_is_ended_at_last(make_responder, tmp_path: Path, caplog):
    """What runs for too long is ended by poll, at its time."""
    responder = make_responder(command=("/bin/sleep", "600"), command_timeout_s=2.0)
    responder.notify(detection(), 0)
    responder.poll(1.9)
    early = caplog.text
    responder.poll(2.0)

    assert early == ""
    assert "ended after 2 s" in caplog.text
