# SPDX-License-Identifier: Apache-2.0
"""What a policy says is to follow on mining, carried out by a real daemon on a real sandbox."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.keeping import bare_config, member_at
from rig.process import wait_until
from rig.records import detection
from rig.stratum import StratumSession

from agentwall.daemon.config import ResponseSettings
from agentwall.daemon.members import Members
from agentwall.daemon.responses import Responses
from agentwall.engine.commands import StopSandbox
from agentwall.engine.events import SandboxStopped
from agentwall.flow.record import SandboxKey
from agentwall.policy.model import Response

pytestmark = pytest.mark.kernel

MINER = """
import socket, sys, time
s = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print("in", flush=True)
for _ in range(400):
    try:
        s.sendall(b'{"id": 1, "method": "mining.subscribe", "params": ["cpuminer/2.5.1"]}\\n')
    except OSError:
        pass  # cut; what is to follow comes a little later
    time.sleep(0.25)
"""


@pytest.fixture
def pool() -> Iterator[tuple[int, list[bytes]]]:
    """A mining pool on loopback: its port, and what miners said to it."""
    said: list[bytes] = []
    peers: list[socket.socket] = []
    session = StratumSession()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    peer, _ = server.accept()
                    peers.append(peer)
                    with peer:
                        while data := peer.recv(4096):
                            said.append(data)
                            peer.sendall(session(data))

        thread = threading.Thread(target=serve)
        thread.start()
        yield server.getsockname()[1], said
        for each in (server, *peers):
            # One that was cut may be closed already, or wait for more.
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        thread.join()


@contextlib.contextmanager
def mining(cgroup: Path, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Have a miner in *cgroup*, which has connected already."""
    with subprocess.Popen(
        in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", MINER, str(port)),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as miner:
        try:
            assert miner.stdout is not None
            assert miner.stdout.readline() == b"in\n"
            yield miner
        finally:
            miner.kill()


def told(daemon, name: str) -> list[dict[str, object]]:
    """What the operator's command was told of a sandbox so far."""
    path = daemon.directory / "hook.told"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    # The last may be under way.
    events = [json.loads(line) for line in lines if line.endswith("\n")]
    return [each for each in events if each["sandbox"]["id"] == name]


def recorded(daemon, kind: str, name: str) -> list[dict[str, object]]:
    """The log's records of one kind about a sandbox."""
    found = [each for each in daemon.events(kind) if each["sandbox"]["id"] == name]
    return [each for each in found if kind != "state" or each["state"] == "response"]


def test_who_mines_is_killed(house, pool):
    """Everything in the sandbox is gone; the record says why, and the command was told."""
    port, said = pool
    with house.sandbox("kill-1") as cgroup, house.client() as client:
        name = house.wait_for_sandbox(cgroup)["id"]
        with mining(cgroup, port) as miner:
            code = miner.wait(60)
            wait_until(lambda: told(house, name), what="the command")
            found = client.sandbox(name)
    (event,) = told(house, name)
    (state,) = recorded(house, "state", name)
    (logged,) = recorded(house, "detection", name)

    assert code == -signal.SIGKILL
    assert said == []
    assert (event["class"], event["response"]) == ("mining", "kill")
    assert event["id"] == logged["id"]
    assert state["detail"]["response"] == "kill"
    # The daemon waits for their end for a moment only.
    assert state["detail"]["problem"] in (None, "not all of its processes are gone yet")
    assert (found["detections"], found["policy"]) == (1, "mine-kill")


def test_who_mines_is_frozen_for_whoever_looks(house, pool):
    """It stands still, its processes and sockets are written down, and it can be thawed."""
    port, said = pool
    with house.sandbox("freeze-1") as cgroup, house.client() as client:
        name = house.wait_for_sandbox(cgroup)["id"]
        with mining(cgroup, port) as miner:
            wait_until(lambda: recorded(house, "state", name), what="the record")
            (state,) = recorded(house, "state", name)
            # The daemon waits for neither of them for long.
            wait_until(lambda: client.sandbox(name)["state"] == "frozen", what="it frozen")
            snapshot = Path(str(state["detail"]["snapshot"]))
            wait_until(lambda: is_whole(snapshot), what="the snapshot")
            written = json.loads(snapshot.read_text())
            (cgroup / "cgroup.freeze").write_text("0")
            wait_until(lambda: client.sandbox(name)["state"] == "running", what="the thaw")
            client.label(name, seen="1")
            pid = miner.pid

    assert said == []
    assert state["detail"]["response"] == "freeze"
    assert snapshot.match(f"{house.directory}/snapshots/freeze-1-*.json")
    assert pid in {each["pid"] for each in written["processes"]}
    assert written["detection"]["dialect"] == "stratum-v1"


def is_whole(document: Path) -> bool:
    """Whether a snapshot has been written to its end."""
    return document.exists() and document.read_text().endswith("}\n")


def test_who_has_gone_is_not_stopped():
    """The sandbox of a command that comes late is forgotten: nothing is done, nothing is told."""
    responses = Responses(bare_config().response, Members())
    events: list[object] = []
    responses.emit = events.append
    responses.stop(
        StopSandbox(sandbox=SandboxKey(7), response=Response.KILL, detection=detection())
    )
    responses.poll()
    responses.close()

    assert events == []


def test_nothing_is_told_before_there_is_anybody_to_tell(tmp_path):
    """A freeze of a cgroup that has gone says so, and does not count as one."""
    with temp_cgroup() as directory:
        member = member_at(directory)
    members = Members()
    members.add(member)
    responses = Responses(ResponseSettings(snapshots=tmp_path), members)
    events: list[SandboxStopped] = []
    responses.emit = events.append
    command = StopSandbox(sandbox=member.key, response=Response.FREEZE, detection=detection())
    responses.stop(command)
    responses.close()

    assert [each.problem for each in events] == ["it had ended already"]
    assert member.stopped is None
    assert list(tmp_path.iterdir()) == []
