# SPDX-License-Identifier: Apache-2.0
"""A wall in a process of its own, which may be killed in the middle of any call.

Run as a program it loads a wall, takes over what is pinned or begins anew, and waits or ends;
imported, it starts such a process, and one in a sandbox that tries all the while what it can reach.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from agentwall.kernel.maps import SandboxSettings
    from agentwall.kernel.wall import Wall
    from agentwall.policy.tables import RuleTables

ROOT = Path(__file__).parents[2]
_TIMEOUT_S = 600
"""Generous: under emulation, loading alone takes a minute."""
PROBE = r"""
import json, os, select, socket, sys
os.nice(10)  # it never rests
permitted, refused = int(sys.argv[1]), int(sys.argv[2])
seen = {"rounds": 0, "reached": 0, "refused_wrongly": 0, "broken": 0}
stream = socket.create_connection(("127.0.0.1", permitted), 60)
print("ready", flush=True)
# It goes on for a while where other processes have not let it come to much.
while seen["rounds"] <= 100 or not select.select([sys.stdin], [], [], 0)[0]:
    seen["rounds"] += 1
    with socket.socket() as one:
        seen["reached"] += one.connect_ex(("127.0.0.1", refused)) == 0
    with socket.socket() as one:
        seen["refused_wrongly"] += one.connect_ex(("127.0.0.1", permitted)) != 0
    try:
        stream.sendall(b"x")
        seen["broken"] += stream.recv(1) != b"x"
    except OSError:
        seen["broken"] += 1
        break
print(json.dumps(seen))
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What such a process is to do."""

    pin_dir: str
    sandboxes: Mapping[str, str]
    """Key, decimal, -> cgroup."""
    port: int
    """TCP, of 127.0.0.1: the one destination that the rules permit."""
    object: str = ""
    """Another object than the shipped one."""
    layouts: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Maps that are of another size in that object."""
    capacity: Mapping[str, int] = field(default_factory=dict)
    kill_at: str = ""
    """``FUNCTION:N``: a kill in place of the return of the Nth call; of libbpf, or of os."""


def succeed(order: Order) -> int:
    """Run the process to its end, 0 when all is done; return its status, negative for a signal.

    It closes nothing at its end: its wall stands by its pins.

    Raises:
        RuntimeError: It failed; the message has its traceback.
    """
    command = [sys.executable, __file__, json.dumps(asdict(order))]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=_TIMEOUT_S
    )
    if done.returncode > 0:
        raise RuntimeError(done.stderr)
    return done.returncode


def permitting(*ports: int) -> RuleTables:
    """Return tables that permit these TCP ports of 127.0.0.1, and nothing else."""
    from agentwall.net.endpoint import key_bytes
    from agentwall.net.ports import selector
    from agentwall.policy.tables import Interval, RuleTables, TableEntry

    allowed = tuple(
        Interval(selector(6, port), selector(6, port), rule, allow=True)
        for rule, port in enumerate(sorted(ports))
    )
    wide = (TableEntry(bytes(16), 0, 0), TableEntry(key_bytes(ip_address("0.0.0.0")), 96, 0))
    narrow = TableEntry(key_bytes(ip_address("127.0.0.1")), 128, 1)
    return RuleTables(
        rules=(),
        outbound=(*wide, narrow),
        inbound=wide,
        interval_sets=((), allowed),
        protocols=(),
    )


def enforcing(generation: int) -> SandboxSettings:
    """Return the settings of a sandbox that is held to a generation of :func:`permitting`."""
    import errno

    from agentwall.flow.verdict import Mode
    from agentwall.kernel.maps import SandboxSettings
    from agentwall.policy.model import LoopbackScope

    return SandboxSettings(
        generation=generation,
        mode=Mode.ENFORCE,
        loopback=LoopbackScope.CLOSED,
        refuse_errno=errno.EPERM,
    )


@contextmanager
def probing(cgroup: Path, permitted: int, refused: int) -> Iterator[dict[str, int]]:
    """Try both ports from inside *cgroup* for the length of the block, and talk over one stream.

    The mapping is filled at the end: ``rounds``, and what must be zero: ``reached``,
    ``refused_wrongly``, ``broken``.
    """
    from rig.cgroup import in_cgroup

    seen: dict[str, int] = {}
    command = in_cgroup(cgroup, sys.executable, "-c", PROBE, str(permitted), str(refused))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as prober:
        try:
            assert prober.stdout is not None
            assert prober.stdout.readline() == b"ready\n"
            yield seen
            said, _ = prober.communicate(timeout=120)
            seen.update(json.loads(said))
        finally:
            prober.kill()


@contextmanager
def echoing(listener: socket.socket) -> Iterator[None]:
    """Send back what comes, on every connection to *listener*, for the length of the block.

    Nobody waits at it afterwards: a call that goes on after its descriptor was closed may come to
    wait at another socket of that number, and take what is another test's.
    """

    def serve(connection: socket.socket) -> None:
        # A peer that is killed resets.
        with connection, suppress(ConnectionError):
            while data := connection.recv(4096):
                connection.sendall(data)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, name="echo")
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()


def _arm(kill_at: str) -> None:
    from agentwall.kernel import libbpf

    name, _, number = kill_at.partition(":")
    owner: Any = os if hasattr(os, name) else libbpf.library()
    function, calls = getattr(owner, name), 0

    def counting(*arguments: object) -> object:
        nonlocal calls
        result = function(*arguments)
        calls += 1
        if calls == int(number):
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counting)


def _load(order: dict[str, Any]) -> Wall:
    from agentwall.kernel import abi

    for name, (key, value) in order["layouts"].items():
        abi.MAP_LAYOUTS[name] = abi.MapLayout(key, value)
    from agentwall.kernel.capacity import Capacity
    from agentwall.kernel.wall import OBJECT_PATH, Wall

    return Wall.load(
        pin_dir=Path(order["pin_dir"]),
        adopt=True,
        object_path=Path(order["object"] or OBJECT_PATH),
        capacity=Capacity(**order["capacity"]),
    )


def _main(order: dict[str, Any]) -> None:
    from agentwall.flow.record import SandboxKey
    from agentwall.kernel import pins

    if order["kill_at"]:
        _arm(order["kill_at"])
    wall = _load(order)
    pinned = pins.pinned_links(Path(order["pin_dir"]))
    generation = wall.highest_generation() + 1
    wall.apply(generation, permitting(order["port"]))
    for text, path in order["sandboxes"].items():
        key, cgroup = SandboxKey(int(text)), Path(path)
        if key in pinned:
            wall.bind(key, enforcing(generation))
            wall.take_over(key, cgroup)
        else:
            wall.attach(cgroup, key)
            wall.bind(key, enforcing(generation))
            wall.activate(cgroup, key)
    wall.settle()
    os._exit(0)


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
