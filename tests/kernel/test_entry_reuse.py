# SPDX-License-Identifier: Apache-2.0
"""No sandbox is judged by the settings of another, however fast the kernel reuses memory."""

from __future__ import annotations

import errno
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rig import in_cgroup, temp_cgroup
from rig.enclosure import parse_policy
from rig.ground import INBOUND_PORT, PORT
from rig.lab import NEAR4, OUTSIDE, PERMITTED
from rig.lending import lent_wall
from rig.puppet import PATIENCE_S, SILENCE_S
from rig.successor import enforcing, permitting
from rig.workbench import workshop

from agentwall.flow.record import SandboxKey
from agentwall.kernel.wall import Wall

pytestmark = pytest.mark.kernel

STRICT, LENIENT = SandboxKey(1 << 40), SandboxKey(1 << 40 | 1)
"""Beyond those that an enclosure gives, which counts from 1."""
SPAN_S = 1.5
MANY = 1000
OPEN = parse_policy(
    f"""
    name: open
    allow: [{{cidr: {OUTSIDE}, ports: [{PORT}, udp/{PORT}]}}]
    inbound: [{{cidr: {PERMITTED}, ports: [udp/{INBOUND_PORT}]}}]
    """
)
CLIENT = r"""
import json, select, socket, sys

remote, seen = ("127.0.0.1", int(sys.argv[1])), {}
datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    for _ in range(100):
        result = datagrams.connect_ex(remote)
        seen[result] = seen.get(result, 0) + 1
    with socket.socket() as stream:
        stream.setblocking(False)
        result = stream.connect_ex(remote)
    seen[result] = seen.get(result, 0) + 1
print(json.dumps(seen))
"""


@contextmanager
def clients(cgroup: Path, port: int) -> Iterator[dict[int, int]]:
    """Have more processes in *cgroup* connect than there are processors; errno -> how often."""
    seen: dict[int, int] = {}
    command = in_cgroup(cgroup, sys.executable, "-c", CLIENT, str(port))
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2 * (os.cpu_count() or 1))
    ]
    try:
        assert all(one.stdout.readline() == b"ready\n" for one in started)
        yield seen
        for one in started:
            said, _ = one.communicate(timeout=120)
            for result, count in json.loads(said).items():
                seen[int(result)] = seen.get(int(result), 0) + count
    finally:
        for one in started:
            one.kill()
            one.wait()


@contextmanager
def one_processor() -> Iterator[None]:
    """Keep this process on one processor: memory is reused on the one that let it go."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def key_of(sandbox: SandboxKey) -> bytes:
    return sandbox.to_bytes(8, sys.byteorder)


def shuffle(wall: Wall) -> int:
    """Update both sandboxes in turn as fast as the kernel can; return how often.

    At least as often, and at least until as many calls were judged, as the test expects: on a busy
    machine SPAN_S may be short for that.
    """
    slots = wall.maps()["aw_slots"]
    keys = [key_of(STRICT), key_of(LENIENT)]
    values = [slots.lookup(key) or b"" for key in keys]
    rounds, end = 0, time.monotonic() + SPAN_S
    while rounds <= MANY or wall.counters(STRICT).probes <= MANY or time.monotonic() < end:
        slots.update_batch(b"".join(keys) * 500, b"".join(values) * 500)
        rounds += 500
    return rounds


@pytest.mark.slow
def test_settings_of_another():
    """While entries take each other's places, a sandbox that may reach nothing reaches nothing.

    Programs read the settings in the entry itself before, and of a million connects some ten were
    judged by those of the other sandbox.
    """
    with lent_wall() as wall, temp_cgroup() as strict, temp_cgroup() as lenient:
        port = 9
        wall.apply(1, permitting())
        wall.apply(2, permitting(port))
        for key, cgroup, generation in ((STRICT, strict, 1), (LENIENT, lenient, 2)):
            wall.attach(cgroup, key)
            wall.bind(key, enforcing(generation))
            wall.activate(cgroup, key)
        with clients(strict, port) as seen, one_processor():
            rounds = shuffle(wall)

        assert rounds > MANY
        assert seen.pop(errno.EPERM) > MANY
        assert seen == {}


def test_an_entry_that_is_another_sandboxs():
    """Whoever finds another sandbox's settings under its own key is refused at every hook.

    That is what a program sees whose entry the kernel has given to another sandbox meanwhile.
    """
    with workshop() as shop, shop.bench() as bench:
        wall, far = bench.enclosure, bench.ground.far
        slots = wall.wall.maps()["aw_slots"]
        wall.bind(LENIENT, OPEN)
        with (
            wall.enclosed(bench.cgroup, OPEN) as key,
            bench.puppet() as actor,
            far.socket(socket.AF_INET, socket.SOCK_DGRAM) as caller,
        ):
            caller.bind((PERMITTED, 0))
            stream, fresh, datagrams, served = map(actor.open, ("tcp", "tcp", "udp", "udp"))
            served.bind("0.0.0.0", INBOUND_PORT)
            stream.connect(OUTSIDE, PORT)
            own = slots.lookup(key_of(key))

            def results(within_s: float) -> list[str]:
                """What becomes of each call, each of another hook, in *within_s*."""
                caller.sendto(b"x", (NEAR4, INBOUND_PORT))
                return [
                    result_of(lambda: actor.open("tcp").close()),
                    result_of(lambda: fresh.connect(OUTSIDE, PORT)),
                    result_of(lambda: datagrams.sendto(b"x", OUTSIDE, PORT)),
                    result_of(lambda: (stream.send(b"x"), stream.recv(within_s))),
                    result_of(lambda: served.recvfrom(within_s)),
                ]

            slots.update(key_of(key), slots.lookup(key_of(LENIENT)))
            mistaken, denied = results(SILENCE_S), wall.counters(key).denied
            slots.update(key_of(key), own)
            restored = results(PATIENCE_S)

        assert mistaken == [*["PermissionError"] * 3, *["TimeoutError"] * 2]
        assert denied >= len(mistaken)
        assert restored == [""] * 5


def result_of(call: Callable[[], object]) -> str:
    """Return the error that *call* raises, or nothing."""
    try:
        call()
    except OSError as err:
        return type(err).__name__
    return ""
