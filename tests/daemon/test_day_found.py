# SPDX-License-Identifier: Apache-2.0
"""A daemon's day: sandboxes that no hook told of, those that were there first, and other walls."""

from __future__ import annotations

import contextlib
import errno
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from rig import puppet as puppet_file
from rig.cgroup import in_cgroup
from rig.cli import agentwall, environment
from rig.containers import podman_engine
from rig.day import EVIL, HUB, RESOLVER, RULES, WEB_PORT, Day, day
from rig.lab import OUTSIDE, PERMITTED
from rig.process import wait_until
from rig.puppet import PATIENCE_S, Puppet
from rig.resolv import asking

from agentwall.kernel import pins

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

WEB = f"allow: [{{cidr: {PERMITTED}, ports: [{WEB_PORT}]}}]\n"
BOTH = f"{WEB.rstrip()[:-1]}, {{cidr: {OUTSIDE}, ports: [{WEB_PORT}]}}]\n"
ELSEWHERE = "203.0.113.11"
"""Where nobody listens."""
INNER = f"{WEB.rstrip()[:-1]}, {{cidr: {ELSEWHERE}, ports: [{WEB_PORT}]}}]\n"
HOLD = """
import sys
sock = __import__("socket").socket(fileno=int(sys.argv[1]))
print("held", flush=True)
for line in sys.stdin:
    try:
        sock.sendall(b"passed")
        print("sent", flush=True)
    except OSError as err:
        print(type(err).__name__, flush=True)
"""
CONNECT = """
import json, socket, sys
told = []
for address in sys.argv[1:]:
    with socket.socket() as s:
        s.settimeout(30)
        told.append(s.connect_ex((address, 80)))
print(json.dumps(told))
"""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A day whose daemon is not started, with policies chosen by cgroup."""
    with day(tmp_path_factory.mktemp("day")) as made:
        own = made.daemon.scope_path
        for name, text, glob in (
            ("names", RULES, "names-*"),
            ("resident", WEB, "libpod-*"),
            ("passed", WEB, "passed-*"),
            ("inner", INNER, "inner-*"),
        ):
            made.daemon.policy(name, f"{text.strip()}\nmatch: [{{cgroup: '{own}/{glob}'}}]\n")
        yield made


@pytest.fixture
def running(here):
    """The same day, once its daemon runs."""
    if here.daemon.process is None:
        here.daemon.start()
    return here


@contextlib.contextmanager
def holding(here: Day, cgroup: Path) -> Iterator[subprocess.Popen[str]]:
    """Run a process in *cgroup* with a connection to OUTSIDE that was made elsewhere."""
    with here.lab.near.socket(2, 1) as passed:
        passed.connect((OUTSIDE, WEB_PORT))
        command = in_cgroup(cgroup, sys.executable, "-c", HOLD, str(passed.fileno()))
        child = subprocess.Popen(
            here.lab.near.inside(*command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            pass_fds=[passed.fileno()],
        )
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        with child:
            pass


def test_what_was_there_before_the_daemon(here):
    """Live sockets are judged: what is refused ends, what is permitted goes on, both are told of.

    A socket that was passed in is of another cgroup for good: the coverage says so.
    """
    with (
        podman_engine() as bare,
        here.box(None, engine=bare) as box,
        here.daemon.sandbox("passed-1") as cgroup,
        holding(here, cgroup),
    ):
        kept, refused = box.puppet.open("tcp"), box.puppet.open("tcp")
        kept.connect(PERMITTED, WEB_PORT)
        refused.connect(OUTSIDE, WEB_PORT)
        refused.send(b"before")
        before = refused.recv()
        here.daemon.start()
        found = here.daemon.wait_for_sandbox(box.container.directory)
        wait_until(lambda: inspected(here, box.id), what="a look at the container")
        wait_until(lambda: inspected(here, "passed-1"), what="a look at the other")
        here.evil.clear()
        with pytest.raises(ConnectionAbortedError):
            refused.send(b"after")
        kept.send(b"goes on")
        answer = kept.recv()
        arrived = here.evil.received
        seen = inspected(here, box.id)[-1]
        passed = inspected(here, "passed-1")[-1]
        shown = here.daemon.sandbox_at(cgroup)

    assert (found["admission"], found["policy"]) == ("start", "resident")
    assert found["unwatched_ms"] > 0
    assert (before, arrived, answer) == (b"before", b"", b"goes on")
    fates = {each["remote"]["address"]: each for each in seen["sockets"] if each["remote"]}
    assert (fates[PERMITTED]["fate"], fates[PERMITTED]["ended"]) == ("kept", False)
    assert (fates[OUTSIDE]["fate"], fates[OUTSIDE]["ended"]) == ("refused", True)
    assert fates[OUTSIDE]["verdict"] == "deny"
    [outside] = [each for each in passed["sockets"] if each["fate"] == "outside"]
    assert (outside["remote"]["address"], outside["verdict"]) == (OUTSIDE, "deny")
    assert passed["coverage"] == "partial"
    roads = [each for each in shown["open_roads"] if each.startswith("sockets made elsewhere")]
    assert len(roads) == 1, shown["open_roads"]
    assert OUTSIDE in roads[0]


def inspected(here: Day, sandbox: str) -> list[dict]:
    """Return what was seen of the live sockets of a sandbox."""
    states = here.told("state", sandbox)
    return [e["detail"] for e in states if e["state"] == "inspected" and "sockets" in e["detail"]]


@pytest.mark.parametrize("order", ["namespace first", "cgroup first"])
def test_names_of_a_sandbox_that_is_found_empty(running, tmp_path, order):
    """Its process comes later, from another network namespace: its names work a little later."""
    script = (puppet_file.__file__, str(PATIENCE_S))
    # Asked before there are names, it is asked again soon.
    asks = asking(tmp_path, RESOLVER, options="timeout:1 attempts:2")
    program = (*asks, sys.executable, "-I", "-S", *script)
    near = running.lab.near
    with running.daemon.sandbox(f"names-{order[0]}") as cgroup:
        running.daemon.wait_for_sandbox(cgroup)
        if order == "namespace first":
            command = near.inside(*in_cgroup(cgroup, *program))
        else:
            command = in_cgroup(cgroup, *near.inside(*program))
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            hand = Puppet(child)
            with contextlib.suppress(OSError):
                assert hand.resolve(EVIL) == []
            found: list[str] = []

            def is_found() -> bool:
                with contextlib.suppress(OSError):
                    found.extend(hand.resolve(HUB))
                return found != []

            wait_until(is_found, what="an answer")
            web, other = hand.open("tcp"), hand.open("tcp")
            web.connect(PERMITTED, WEB_PORT)
            with pytest.raises(PermissionError):
                other.connect(PERMITTED, WEB_PORT + 1)
        finally:
            child.kill()
            child.communicate()

    assert found == [PERMITTED]


def test_agentwall_run_beside_the_daemon(running, tmp_path):
    """Each has its own wall: the daemon does not see the run, and stands when the run has gone."""
    with running.daemon.client() as client, running.daemon.sandbox("inner-a") as cgroup:
        running.daemon.wait_for_sandbox(cgroup)
        before = {each["id"] for each in client.sandboxes()}
        policy = tmp_path / "policy.yaml"
        policy.write_text(f"version: 1\n{BOTH}")
        events = tmp_path / "events.jsonl"
        script = CONNECT + "input()\n"
        command = ("run", "-p", policy, "--events", events, "--", sys.executable, "-c", script)
        with running.lab.near.process(
            "env",
            f"PYTHONPATH={environment()['PYTHONPATH']}",
            *agentwall(*command),
            PERMITTED,
            OUTSIDE,
        ) as child:
            assert child.stdout is not None
            reached = json.loads(child.stdout.readline())
            during = {each["id"] for each in client.sandboxes()}
            out, err = child.communicate("\n", timeout=60)
        hooks = client.sandbox("inner-a")["hooks"]
        problems = client.status()["checks"]["problems"]
        pinned = list((pins.BPFFS / running.daemon.state.name / pins.LINKS).iterdir())
        done = running.lab.near.run(
            sys.executable, "-c", CONNECT, PERMITTED, OUTSIDE, cgroup=cgroup
        )

    assert (reached, child.returncode) == ([0, 0], 0), (out, err)
    assert during <= before
    assert all(each["in_force"] for each in hooks)
    assert (problems, bool(pinned)) == ([], True)
    assert json.loads(done.stdout) == [0, errno.EPERM]


def test_agentwall_run_inside_of_a_sandbox(running, tmp_path):
    """Both walls hold: only what both permit is reached, and the outer one needs no help."""
    policy = tmp_path / "policy.yaml"
    policy.write_text(f"version: 1\nname: own\n{BOTH}")
    there = (PERMITTED, OUTSIDE, ELSEWHERE)
    with running.daemon.sandbox("inner-b") as cgroup, running.daemon.client() as client:
        running.daemon.wait_for_sandbox(cgroup)
        command = agentwall("run", "-p", policy, "--events", tmp_path / "events.jsonl", "--")
        done = running.lab.near.run(
            "env",
            f"PYTHONPATH={environment()['PYTHONPATH']}",
            *(*command, sys.executable, "-c", CONNECT, *there),
            cgroup=cgroup,
        )
        members = {each["cgroup"] for each in client.sandboxes()}
        denials = client.denials("inner-b")
        after = running.lab.near.run(sys.executable, "-c", CONNECT, *there, cgroup=cgroup)

    assert json.loads(done.stdout) == [0, errno.EPERM, errno.EPERM], done.stderr
    assert [each for each in members if "/inner-b/" in each] == []
    assert [each["remote"] for each in denials.denials] == [f"{OUTSIDE} port {WEB_PORT}"]
    assert json.loads(after.stdout) == [0, errno.EPERM, errno.ECONNREFUSED]
