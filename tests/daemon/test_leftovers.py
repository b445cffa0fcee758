# SPDX-License-Identifier: Apache-2.0
"""``agentwall run`` is killed: the command stays behind the wall, and the rest can be cleared."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig.cli import agentwall, environment, run_agentwall
from rig.process import wait_until

from agentwall.daemon.leftovers import Leftover, clear_leftover, find_leftovers
from agentwall.errors import HostError
from agentwall.kernel import pins

pytestmark = pytest.mark.kernel

KNOCK = """
import socket, sys, time
for _ in range(60000):
    s = socket.socket()
    s.settimeout(1)
    print(s.connect_ex(("127.0.0.1", int(sys.argv[1]))), flush=True)
    s.close()
    time.sleep(0.01)
"""


@contextmanager
def left_over(directory: Path) -> Iterator[tuple[Path, Leftover]]:
    """A run whose agentwall was killed while its command keeps knocking; its log and record."""
    policy, log = directory / "p.yaml", directory / "log"
    policy.write_text("version: 1\nloopback: deny\n")
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("wb") as output:
        port = str(listener.getsockname()[1])
        command = agentwall("run", "-p", policy, "--", "python3", "-c", KNOCK, port)
        child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment()
        )
        wait_until(lambda: b"1\n1\n" in log.read_bytes(), what="the command's knocking")
        child.send_signal(signal.SIGKILL)
        child.wait()
        [leftover] = [each for each in find_leftovers() if each.record.pid == child.pid]
        yield log, leftover
    clear_leftover(leftover, force=True)
    Path(leftover.record.events).unlink(missing_ok=True)


@pytest.fixture(scope="module")
def standing_run(tmp_path_factory):
    """For tests that leave it as it is."""
    with left_over(tmp_path_factory.mktemp("standing")) as found:
        yield found


@pytest.fixture
def killed_run(tmp_path):
    """For a test that clears it."""
    with left_over(tmp_path) as found:
        yield found


def test_command_stays_behind_the_wall(standing_run):
    """After SIGKILL of agentwall every attempt of its command is refused as before."""
    log, leftover = standing_run
    before = log.stat().st_size
    wait_until(lambda: log.stat().st_size > before + 100, what="more knocking")

    codes = {line for line in log.read_text().splitlines() if line.isdigit()}
    assert codes == {"1"}
    assert leftover.pids


def test_named_by_the_next_run(standing_run, tmp_path):
    """The next run names the leftover and its processes in one line."""
    _, leftover = standing_run

    done = run_agentwall("run", "--events", tmp_path / "next.jsonl", "--", "true")

    [line] = [line for line in done.stderr.splitlines() if leftover.record.id in line]
    assert line.startswith("agentwall: left over")
    assert "agentwall doctor --clean --kill ends them" in line
    assert all(str(pid) in line for pid in leftover.pids)
    assert done.returncode == 0


def test_living_processes_keep_the_wall(standing_run):
    """Clearing is refused while processes live behind the wall, which they keep."""
    _, leftover = standing_run

    with pytest.raises(HostError, match=str(leftover.pids[0])):
        clear_leftover(leftover)
    assert pins.list_pins(Path(leftover.record.pin_dir))


def test_cleared_by_force(killed_run):
    """With force the processes end, and cgroup, pins and record go."""
    log, leftover = killed_run

    clear_leftover(leftover, force=True)

    size = log.stat().st_size
    time.sleep(0.2)
    assert log.stat().st_size == size
    assert not Path(leftover.record.pin_dir).exists()
    assert leftover.record.id not in [each.record.id for each in find_leftovers()]


def test_cleared_twice(killed_run):
    """Clearing what is gone already does nothing."""
    _, leftover = killed_run
    clear_leftover(leftover, force=True)

    clear_leftover(leftover)

    assert leftover.record.id not in [each.record.id for each in find_leftovers()]
