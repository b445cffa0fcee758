# SPDX-License-Identifier: Apache-2.0
"""The wall outlives its daemon: killed, stopped, upgraded or misled, it lets nothing through.

A prober in a sandbox tries all the while what is refused and what is permitted, by TCP and UDP, and
talks over one stream; a listener outside counts who came.
"""

from __future__ import annotations

import contextlib
import errno
import subprocess
import sys
import time

import pytest
from rig.cgroup import in_cgroup
from rig.clock import shifted_clock
from rig.daemon import daemon_ground
from rig.other_object import with_other_counters
from rig.process import wait_until
from rig.survivor import (
    PHASES,
    keys,
    kill_while_starting,
    kill_while_switching,
    standing,
    switching_policy,
)

from agentwall.kernel import pins
from bench.prober import listening, probing

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

KILLS = 5
"""``python -m bench.daemon`` does it a hundred times."""
NAMES = ("work-1", "work-2")
DAY_S = 86_400
MODE_S = 2
CONNECT = """
import socket, sys
for port in sys.argv[1:]:
    with socket.socket() as one:
        print(one.connect_ex(("127.0.0.1", int(port))))
"""


@pytest.fixture(scope="module")
def doors():
    """Two doors of this host; nobody ever comes at the refused one."""
    with listening() as (doors, seen):
        yield doors

    assert seen.reached == 0


@pytest.fixture(scope="module")
def stage(tmp_path_factory, doors):
    """A daemon's surroundings, with policies."""
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as daemon:
        switching_policy(daemon, doors, 0)
        yield daemon


@pytest.fixture
def daemon(stage):
    """The daemon itself, running."""
    if stage.process is None:
        stage.start()
    return stage


def connect(cgroup, *ports: int) -> list[int]:
    """Connect from inside *cgroup*; return the errno for each port, 0 for success."""
    command = in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", CONNECT, *map(str, ports))
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    return [int(line) for line in done.stdout.split()]


@contextlib.contextmanager
def inhabited(daemon, name: str):
    """A sandbox with a process: who is empty when a daemon starts is not bound at once."""
    with daemon.sandbox(name) as cgroup, subprocess.Popen(["sleep", "infinity"]) as process:
        (cgroup / "cgroup.procs").write_text(str(process.pid))
        try:
            yield cgroup
        finally:
            process.kill()


def started(daemon) -> dict[str, object]:
    """Return what the log says of the last daemon's start."""
    states = [each for each in daemon.events("state") if each["sandbox"]["id"] == "host"]
    return [each["detail"] for each in states if each["state"] == "started"][-1]


def expect_unharmed(seen, rounds: int = 100) -> None:
    """What was refused stayed so, and what was permitted did."""
    assert seen.rounds > rounds
    assert seen.permitted > 0
    assert (seen.reached, seen.cut, seen.broken) == (0, 0, 0)


def test_killed_while_it_switches_and_admits(daemon, doors):
    """Every policy and phase refuses the door, and so does every moment between two of them.

    A sandbox that was half admitted is under its scope's default until the next daemon. That one
    knows the others by the same keys, with their labels, phases and overrides.
    """
    switches = 0
    with daemon.sandbox("work-1") as cgroup, daemon.sandbox("work-2") as other:
        daemon.wait_for_sandbox(cgroup)
        daemon.wait_for_sandbox(other)
        with daemon.client() as client:
            client.label("work-1", episode="17", **{"a.b/c": "ü"})
            client.mode("work-2", "audit", for_s=900, reason="a test")
        known, before = keys(daemon, *NAMES), standing(daemon)
        with probing(cgroup, doors) as seen:
            for number in range(KILLS):
                survived = kill_while_switching(daemon, doors, "work-1", f"work-late-{number}")
                switches += survived.switcher.switches
                after = {name: each for name, each in standing(daemon).items() if name in before}
                phase = after["work-1"]["phase"]

                assert phase in (survived.switcher.asked, survived.switcher.answered)
                before["work-1"]["phase"] = before["work-1"]["labels"]["phase"] = phase
                assert after == before
                assert keys(daemon, *NAMES) == known
                assert survived.late_policy == "work"
                expect_unharmed(survived.late, rounds=10)
        with daemon.client() as client:
            status = client.status()
        admissions = {daemon.sandbox_at(each)["admission"] for each in (cgroup, other)}

    expect_unharmed(seen)
    assert switches > 0
    assert admissions == {"adopted"}
    assert status["mode_overrides"] == 1
    # The last of them may have been half attached, or not activated: the next daemon's first work.
    said = "; ".join(status["checks"]["problems"]).removeprefix("taking over: ")
    late = f"work-late-{KILLS - 1}: "
    assert [each for each in said.split("; ") if each and not each.startswith(late)] == []


def test_killed_while_it_starts(daemon, doors):
    """Whenever a daemon dies that is taking over: what stood stands, and the next one has it."""
    with daemon.sandbox("work-3") as cgroup:
        daemon.wait_for_sandbox(cgroup)
        known, before = keys(daemon, "work-3"), standing(daemon)["work-3"]
        daemon.kill()
        with probing(cgroup, doors) as seen:
            for _ in range(KILLS):
                kill_while_starting(daemon)
            daemon.start()
        found, after = daemon.sandbox_at(cgroup), standing(daemon)["work-3"]
        said = started(daemon)

    expect_unharmed(seen)
    assert found["admission"] == "adopted"
    assert (after, keys(daemon, "work-3")) == (before, known)
    assert said == {"adopted": 2, "problems": [], "migrated": []}


def test_upgraded_to_another_object(daemon, doors, tmp_path):
    """A daemon with another object takes over without a gap, and counts on where the last one was.

    The one before had counters of another layout, which are read to their end.
    """
    daemon.stop()
    daemon.environment = with_other_counters(tmp_path)
    try:
        with inhabited(daemon, "work-8") as cgroup:
            daemon.start()
            daemon.wait_for_sandbox(cgroup)
            known = keys(daemon, "work-8")
            connect(cgroup, 1, 1)
            with daemon.client() as client:
                before = client.sandbox("work-8")["denied"]
            daemon.kill()
            daemon.environment = {}
            with probing(cgroup, doors) as seen:
                daemon.start()
            connect(cgroup, 1)
            found, after = keys(daemon, "work-8"), daemon.sandbox_at(cgroup)
        said = started(daemon)
    finally:
        daemon.environment = {}

    expect_unharmed(seen)
    assert (found, after["admission"]) == (known, "adopted")
    assert before == 2
    # Whatever the prober was refused, in each of its rounds twice, and what is refused here.
    assert after["denied"] == before + 2 * seen.rounds + 1
    assert [each.split(":")[0] for each in said["migrated"]] == ["aw_counters"]
    assert (said["adopted"], said["problems"]) == (2, [])


def test_a_mode_ends_without_the_daemon(daemon, doors):
    """Audit mode for a second ends on time though nobody lives to end it."""
    with daemon.sandbox("work-4") as cgroup:
        daemon.wait_for_sandbox(cgroup)
        with daemon.client() as client:
            client.mode("work-4", "audit", for_s=900, reason="a test")
            during = connect(cgroup, 1)
            # However long that took, it ends two seconds from now.
            client.mode("work-4", "audit", for_s=2, reason="a test")
        daemon.kill()
        time.sleep(2)
        dead = connect(cgroup, 1)
        daemon.start()
        wait_until(lambda: not daemon.sandbox_at(cgroup)["override"], what="the end of it told")
        found, alive = daemon.sandbox_at(cgroup), connect(cgroup, 1)
        over = [each for each in daemon.events("state") if each["state"] == "mode"]

    assert (during, dead, alive) == ([errno.ECONNREFUSED], [errno.EPERM], [errno.EPERM])
    assert (found["effective_mode"], found["override"]) == ("enforce", None)
    assert over[-1]["detail"]["reason"] == "its time is over"


def test_the_ways_to_end_it(daemon, doors):
    """SIGTERM and ``--stop --keep`` leave the wall; ``--detach`` takes it down, also offline."""

    def call(*arguments: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "agentwall", "daemon", "--config", str(daemon.config)]
        found = subprocess.run(
            [*command, "--socket", str(daemon.socket), *arguments],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        return found

    pin_dir = pins.BPFFS / daemon.state.name
    with inhabited(daemon, "work-5") as cgroup:
        daemon.wait_for_sandbox(cgroup)
        terminated = daemon.stop()
        after_term = connect(cgroup, doors.permitted, 1)
        daemon.start()
        kept = call("--stop", "--keep")
        ended = daemon.process.wait(60)
        daemon.process = None
        after_stop = connect(cgroup, doors.permitted, 1)
        daemon.start()
        detached = call("--detach")
        daemon.process.wait(60)
        daemon.process = None
        after_detach, pinned = connect(cgroup, doors.permitted, 1), pin_dir.exists()
        daemon.start()
        daemon.wait_for_sandbox(cgroup)
        bound = connect(cgroup, doors.permitted, 1)
        daemon.kill()
        offline = call("--detach")
        after_offline = connect(cgroup, doors.permitted, 1)
        left = list((daemon.state / "sandboxes").iterdir())

    walled, free = [0, errno.EPERM], [0, errno.ECONNREFUSED]
    assert (terminated, kept.returncode, ended) == (0, 0, 0)
    assert (after_term, after_stop, bound) == (walled, walled, walled)
    assert (after_detach, pinned, detached.returncode) == (free, False, 0)
    assert (after_offline, offline.returncode, left) == (free, 0, [])
    assert not pin_dir.exists()
    assert "no daemon is running; took down what one left" in offline.stdout


def test_a_broken_policy_at_the_start(daemon, doors):
    """The daemon does not start, says where the mistake is, and what stood before stands."""
    with daemon.sandbox("work-6") as cgroup:
        daemon.wait_for_sandbox(cgroup)
        daemon.stop()
        said = len(daemon.said())
        daemon.policy("broken", "allow: [{cidr: 10.0.0.0/8, ports: [70000]}]\n")
        try:
            code = daemon.start(wait=False).wait(60)
        finally:
            daemon.process = None
            (daemon.policies / "broken.yaml").unlink()
        lines = daemon.said()[said:].splitlines()
        standing_now = connect(cgroup, doors.permitted, 1)
        daemon.start()
        after = daemon.sandbox_at(cgroup)

    assert code == 2
    assert standing_now == [0, errno.EPERM]
    assert "broken.yaml:3:" in lines[0]
    assert "70000" in lines[0]
    assert lines[1:] == ["agentwall: not started: what an earlier daemon left stands as it is"]
    assert (after["admission"], after["policy"]) == ("adopted", "work")


def test_a_clock_that_jumps(daemon, doors, tmp_path):
    """Overrides go by the time since boot, whatever the clock says; events follow the clock."""
    clock = shifted_clock(tmp_path)
    daemon.stop()
    daemon.environment = clock.environment
    try:
        daemon.start()
        with daemon.sandbox("work-7") as cgroup:
            daemon.wait_for_sandbox(cgroup)
            with daemon.client() as client:
                client.mode("work-7", "audit", for_s=900, reason="a test")
                clock.set(-DAY_S)
                wait_for_clock(daemon, 1)
                behind = client.sandbox("work-7")["effective_mode"], connect(cgroup, 1)
                clock.set(DAY_S)
                wait_for_clock(daemon, 2)
                ahead = client.sandbox("work-7")["effective_mode"], connect(cgroup, 1)
                client.mode("work-7", "audit", for_s=MODE_S, reason="a test")
                over_s = time.monotonic() + MODE_S
                # By the clock there are two days left of it.
                clock.set(-DAY_S)
                wait_for_clock(daemon, 3)
                time.sleep(max(0.0, over_s - time.monotonic()))
                after = client.sandbox("work-7")["effective_mode"], connect(cgroup, 1)
                client.phase("work-7", PHASES[1])
    finally:
        daemon.stop()
        daemon.environment = {}
    clocks = {each["time"][:10] for each in daemon.events() if each["sandbox"]["id"] == "work-7"}

    assert ahead == behind == ("audit", [errno.ECONNREFUSED])
    assert after == ("enforce", [errno.EPERM])
    # At midnight there is one more.
    assert len(clocks) in (3, 4)


def wait_for_clock(daemon, times: int) -> None:
    """Wait until the daemon has noticed so often that its clock was set by days."""

    def is_told() -> bool:
        told = [each for each in daemon.events("state") if each["state"] == "clock-set"]
        # The machine's own may be set meanwhile, by less.
        return sum(abs(each["detail"]["by_s"]) > DAY_S / 2 for each in told) == times

    wait_until(is_told, what="clock-set in the log")
