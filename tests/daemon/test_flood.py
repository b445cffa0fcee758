# SPDX-License-Identifier: Apache-2.0
"""A sandbox that floods takes nothing from others: not their reports, nor the daemon's time."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time

import pytest
from rig.cgroup import in_cgroup
from rig.daemon import daemon_ground
from rig.process import wait_until

from bench import denier

pytestmark = pytest.mark.kernel

FLOOD_S = 4.0
CALM = 20
FLOODERS = 20
"""``python -m bench.strain`` takes fifty: they need a daemon that has its turn every second."""
RATE = 50_000
FLOOD_LEAST = 6_000
"""What each process tries at least: they are nice, and others may leave them little time."""
# Counts what was refused, and what was not. In several processes: one alone is no flood.
FLOOD = """
import json, os, socket, sys, time
end = time.monotonic() + float(sys.argv[1])
refused = wrong = number = 0
with socket.socket() as one:
    while time.monotonic() < end or number < int(sys.argv[2]):
        number += 1
        code = one.connect_ex(("203.0.113.%d" % (number % 250), 1 + number % 60000))
        refused += code == 1
        wrong += code != 1
print(json.dumps([refused, wrong]))
"""
CONNECT = """
import socket, sys, time
for number in range(int(sys.argv[1])):
    with socket.socket() as one:
        assert one.connect_ex(("198.51.100.1", 1 + number)) == 1
    time.sleep(0.1)
"""
CONNECT_AGAIN = """
import socket, sys
for number in range(int(sys.argv[1])):
    with socket.socket() as one:
        assert one.connect_ex(("198.51.100.1", 443)) == 1
"""


@pytest.fixture(scope="module")
def daemon(tmp_path_factory):
    """A daemon whose one policy permits nothing."""
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.start()
        yield daemon


@contextlib.contextmanager
def flooding(cgroup, processes: int = 2):
    """Flood from inside *cgroup*; the list has what each process counted in the end."""
    words = ("-I", "-S", "-c", FLOOD, str(FLOOD_S), str(FLOOD_LEAST))
    command = in_cgroup(cgroup, sys.executable, *words)
    running = [
        subprocess.Popen(["nice", *command], stdout=subprocess.PIPE) for _ in range(processes)
    ]
    counted: list[list[int]] = []
    try:
        yield counted
        counted += [json.loads(each.communicate(timeout=120)[0]) for each in running]
    finally:
        for each in running:
            each.kill()
            each.communicate()


def test_a_flood_takes_nothing_from_others(daemon):
    """All is refused and counted, others' denials are told one by one, and status answers."""
    answered = 0
    with daemon.sandbox("loud") as loud, daemon.sandbox("calm") as calm, daemon.client() as client:
        daemon.wait_for_sandbox(loud)
        daemon.wait_for_sandbox(calm)
        with flooding(loud) as counted:
            quiet = subprocess.Popen(
                in_cgroup(calm, sys.executable, "-I", "-S", "-c", CONNECT, str(CALM))
            )
            while quiet.poll() is None:
                client.status()
                answered += quiet.poll() is None
                time.sleep(0.1)
        of_calm, of_loud = client.denials("calm"), client.denials("loud")
        found = client.sandbox("loud")
        status = client.status()

    refused = sum(each[0] for each in counted)
    assert quiet.returncode == 0
    assert [each[1] for each in counted] == [0, 0]
    assert refused > 10_000
    assert answered > 0
    assert (of_calm.denied, of_calm.lost, of_calm.complete) == (CALM, 0, True)
    assert found["denied"] == refused
    assert found["lost"]["denials"] == of_loud.lost > 0
    assert (bool(of_loud), of_loud.complete) == (True, False)
    assert status["denied"] == refused + CALM
    assert status["lost"]["denials"] == of_loud.lost


def test_many_floods_take_nothing_from_others(daemon):
    """Sandboxes that try more at once than can be read of; the one beside them is heard."""
    answered = 0
    with contextlib.ExitStack() as stack, daemon.client() as client:
        loud = [stack.enter_context(daemon.sandbox(f"loud-{n}")) for n in range(FLOODERS)]
        calm = stack.enter_context(daemon.sandbox("quiet"))
        for cgroup in (*loud, calm):
            daemon.wait_for_sandbox(cgroup)
        pipe = subprocess.PIPE
        command = ["nice", "-n19", sys.executable, "-I", "-S", denier.__file__, "flood"]
        options = [str(RATE // FLOODERS), str(FLOOD_S)]
        running = [
            subprocess.Popen([*command, *map(str, (each, *options))], stdout=pipe) for each in loud
        ]
        time.sleep(1)
        quiet = subprocess.Popen(
            in_cgroup(calm, sys.executable, "-I", "-S", "-c", CONNECT, str(CALM))
        )
        while quiet.poll() is None:
            client.status()
            answered += quiet.poll() is None
            time.sleep(0.1)
        counted = [json.loads(each.communicate(timeout=120)[0]) for each in running]
        of_calm = client.denials("quiet")
        found = {each["id"]: each["denied"] for each in client.sandboxes()}

    assert quiet.returncode == 0
    assert sum(each["wrong"] for each in counted) == 0
    assert [found[f"loud-{n}"] for n in range(FLOODERS)] == [each["denied"] for each in counted]
    assert answered > 0
    assert (of_calm.denied, of_calm.lost, found["quiet"]) == (CALM, 0, CALM)


def test_a_flood_takes_nothing_from_the_log(daemon):
    """The log has few lines of a flood, and they add up."""
    with daemon.sandbox("repeats") as cgroup:
        daemon.wait_for_sandbox(cgroup)
        command = in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", CONNECT_AGAIN, "3000")
        subprocess.run(command, check=True, timeout=60)
        with daemon.client() as client:
            denials = client.denials("repeats")
    wait_until(
        lambda: any(each["state"] == "finished" for each in of_repeats(daemon, "state")),
        what="the sandbox's end in the log",
    )
    flows = of_repeats(daemon, "flow")
    lost = sum(each["lost"] for each in of_repeats(daemon, "gap"))

    assert len(of_repeats(daemon, None)) < 60
    assert sum(each.get("count", 1) for each in flows) + lost == 3000
    assert denials.denied + denials.lost == 3000


def of_repeats(daemon, kind: str | None) -> list[dict[str, object]]:
    """Return the log's events of that sandbox."""
    return [each for each in daemon.events(kind) if each["sandbox"]["id"] == "repeats"]
