# SPDX-License-Identifier: Apache-2.0
"""Looking into cgroups: processes and sockets, in whatever network namespace they are."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from rig.cgroup import cgroup_root, in_cgroup, members, temp_cgroup
from rig.held_memory import held_or_skip
from rig.process import wait_until

from agentwall.host.argv import ArgvReader
from agentwall.host.cgroup import Cgroup
from agentwall.host.snapshot import MAX_PROCESSES, take_snapshot

pytestmark = pytest.mark.kernel

LISTEN = """
import socket, time
tcp = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(type=socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
print(tcp.getsockname()[1], udp.getsockname()[1], flush=True)
time.sleep(600)
"""


@pytest.fixture
def cgroup():
    with temp_cgroup() as made:
        yield Cgroup(f"/{made.relative_to(cgroup_root())}", made)


@pytest.fixture
def argv():
    """Who reads the arguments."""
    made = ArgvReader()
    yield made
    made.close()


@pytest.fixture
def start(cgroup):
    """A function that starts a command in the cgroup."""
    with ExitStack() as stack:

        def begin(*command: str) -> subprocess.Popen[str]:
            child = stack.enter_context(
                subprocess.Popen(
                    in_cgroup(cgroup.directory, *command), stdout=subprocess.PIPE, text=True
                )
            )
            stack.callback(child.kill)
            wait_until(lambda: child.pid in members(cgroup.directory), what="a process inside")
            return child

        yield begin


@pytest.mark.parametrize("elsewhere", [(), ("unshare", "--net")])
def test_processes_and_sockets(cgroup, argv, start, elsewhere):
    """Each is there, and what listens in another network namespace too."""
    setup = "ip link set lo up; " if elsewhere else ""
    child = start(*elsewhere, "sh", "-c", f'{setup}exec "$0" -c "$1"', sys.executable, LISTEN)
    tcp, udp = map(int, child.stdout.readline().split())
    found = take_snapshot(cgroup, argv)

    [process] = found.processes
    assert process.pid == child.pid
    assert process.argv[:2] == (sys.executable, "-c")
    assert process.exe.startswith("/")
    assert {(each.protocol, each.local.port) for each in found.sockets} == {(6, tcp), (17, udp)}
    assert found.socket_count == 2
    assert found.problems == ()


def test_others_are_not_in_it(cgroup, argv, start):
    """Sockets and processes outside are nobody's business."""
    with temp_cgroup() as other:
        command = in_cgroup(other, sys.executable, "-c", LISTEN)
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            child.stdout.readline()
            sleeper = start("sleep", "600")
            comm = Path(f"/proc/{sleeper.pid}/comm")
            wait_until(lambda: comm.read_text() == "sleep\n", what="sleep")
            found = take_snapshot(cgroup, argv)
            child.kill()

    assert [each.comm for each in found.processes] == ["sleep"]
    assert found.sockets == ()


def test_bound(cgroup, argv, start):
    """Of very many processes the first are described, and all counted."""
    start("sh", "-c", f"for i in $(seq {MAX_PROCESSES + 20}); do sleep 600 & done; wait")
    wait_until(lambda: len(cgroup.pids()) == MAX_PROCESSES + 21, what="the processes")
    found = take_snapshot(cgroup, argv)
    cgroup.kill()

    assert len(found.processes) <= MAX_PROCESSES
    assert len(found.processes) > MAX_PROCESSES - 8
    assert found.process_count == MAX_PROCESSES + 21


def test_held_memory(cgroup, argv, tmp_path):
    """Processes whose memory nobody can read are there, without arguments and at once."""
    with held_or_skip(tmp_path, cgroup.directory, 3) as held:
        found = take_snapshot(cgroup, argv)

    shown = {each.pid: each.argv for each in found.processes}
    assert [shown[pid] for pid in held.pids] == [None] * 3
    assert argv.left_behind <= 1
