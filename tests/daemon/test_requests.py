# SPDX-License-Identifier: Apache-2.0
"""What is asked of a real daemon: bad arguments, whom a handle means, and what is answered."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from rig.cgroup import in_cgroup
from rig.keeping import sleeping
from rig.process import wait_until

from agentwall.client import Invalid, NotFound

pytestmark = pytest.mark.kernel

_numbers = itertools.count(1)
FIRST, SECOND = "4f5e" + "a" * 60, "4f5e" + "b" * 60
THIRD = "7d6c" + "c" * 60


def attempt(cgroup: Path, port: int = 1) -> None:
    """Connect to a closed port of loopback from inside *cgroup*."""
    script = "import socket,sys; socket.socket().connect_ex(('127.0.0.1', int(sys.argv[1])))"
    command = in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", script, str(port))
    subprocess.run(command, check=True, timeout=60)


@pytest.fixture
def box(house):
    """A sandbox that may do nothing, by its id and its cgroup."""
    with house.sandbox(f"asked-{next(_numbers)}") as cgroup:
        yield house.wait_for_sandbox(cgroup)["id"], cgroup


@pytest.mark.parametrize(
    ("request_name", "arguments", "said"),
    [
        ("nosuch", {}, "request"),
        ("status", {"more": 1}, "more"),
        ("sandbox-list", {"sandbox": "x"}, "sandbox"),
        ("sandbox-show", {}, "sandbox"),
        ("sandbox-show", {"sandbox": 7}, "sandbox"),
        ("sandbox-show", {"sandbox": ""}, "sandbox"),
        ("sandbox-label", {"sandbox": "asked"}, "labels"),
        ("sandbox-label", {"sandbox": "asked", "labels": {"k": 1}}, "labels"),
        ("sandbox-label", {"sandbox": "asked", "labels": {"": "v"}}, "labels"),
        ("sandbox-label", {"sandbox": "asked", "labels": ["k"]}, "labels"),
        ("sandbox-mode", {"sandbox": "asked", "mode": "off", "reason": "x"}, "mode"),
        ("sandbox-mode", {"sandbox": "asked", "mode": "audit", "for_s": 60}, "reason"),
        ("sandbox-mode", {"sandbox": "asked", "mode": "audit", "reason": "x"}, "for_s"),
        (
            "sandbox-mode",
            {"sandbox": "asked", "mode": "audit", "for_s": -1, "reason": "x"},
            "for_s",
        ),
        ("denials", {"sandbox": "asked", "labels": {"k": None}}, "labels"),
        ("denials", {}, "sandbox"),
        ("admit", {}, "pid"),
        ("admit", {"pid": "1"}, "pid"),
        ("admit", {"pid": -1}, "pid"),
        ("admit", {"pid": True}, "pid"),
        ("release", {"sandbox": None}, "sandbox"),
        ("stop", {"keep": False}, "keep"),
        ("reload", {"wait": "yes"}, "wait"),
    ],
)
def test_bad_arguments_are_named(house, box, request_name, arguments, said):
    """One clear line, the code ``invalid``, and nothing has changed."""
    name, _ = box
    if arguments.get("sandbox") == "asked":
        arguments = {**arguments, "sandbox": name}
    with house.client() as client:
        before = client.sandbox(name)
        with pytest.raises(Invalid, match=said):
            client.request(request_name, arguments)
        after = client.sandbox(name)

    assert (before["labels"], before["override"]) == (after["labels"], after["override"])


@pytest.mark.parametrize(
    "call",
    [
        lambda client: client.sandbox("nosuch"),
        lambda client: client.label("nosuch", k="v"),
        lambda client: client.mode("nosuch", "audit", for_s=1.0, reason="x"),
        lambda client: client.denials("nosuch"),
        lambda client: client.release("nosuch"),
    ],
)
def test_a_sandbox_that_is_not_there(house, call):
    """``not-found``, with the name that was asked for."""
    with house.client() as client, pytest.raises(NotFound, match="no such sandbox: nosuch"):
        call(client)


def test_a_handle_that_could_mean_two(house):
    """Both are listed, and neither is taken; one character more, and it is clear."""
    with house.sandbox(f"libpod-{FIRST}") as one, house.sandbox(f"libpod-{SECOND}") as two:
        house.wait_for_sandbox(one)
        house.wait_for_sandbox(two)
        with house.client() as client:
            with pytest.raises(Invalid, match="expected one sandbox, got 2") as refused:
                client.sandbox("4f5e")
            found = client.sandbox("4f5ea")

    assert FIRST in str(refused.value)
    assert SECOND in str(refused.value)
    assert found["origin"]["container"] == FIRST


def test_who_is_there_is_meant_before_who_is_leaving(house):
    """A container that was restarted: its id is the new one's."""
    with house.sandbox(f"libpod-{THIRD}") as cgroup, house.client() as client:
        before = house.wait_for_sandbox(cgroup)
        cgroup.rmdir()
        cgroup.mkdir()

        def is_another() -> bool:
            # Between the two there may be none.
            with contextlib.suppress(NotFound):
                return client.sandbox(THIRD[:12])["admitted"] != before["admitted"]
            return False

        wait_until(is_another, what="the new one")
        attempt(cgroup)
        denials = client.denials(THIRD[:12])

    assert denials.denied == 1


def test_what_the_hook_says_becomes_labels(house, box):
    """Annotations of ours are labels of the sandbox, the others of its origin; all bounded."""
    name, cgroup = box
    labels = {
        "io.agentwall.episode": "9",
        "io.kubernetes.cri.sandbox-namespace": "rl",
        "io.kubernetes.cri.sandbox-name": "pod-1",
        "long": "x" * 5000,
        **{f"k{n}": "v" for n in range(100)},
    }
    with house.client() as client, sleeping(cgroup) as pid:
        client.admit(pid=pid, container=None, bundle=None, labels=labels)
        found = client.sandbox(name)

    assert found["labels"] == {"episode": "9"}
    assert (found["origin"]["namespace"], found["origin"]["pod"]) == ("rl", "pod-1")
    assert "long" not in found["origin"]["labels"]
    assert len(found["origin"]["labels"]) <= 64


@pytest.mark.parametrize("labels", [{"io.agentwall.": "x"}, {"io.agentwall.episode": "x" * 2000}])
def test_a_label_that_cannot_be_one_fails_the_start(house, box, labels):
    """The hook says why, and the sandbox is what it was."""
    name, cgroup = box
    with house.client() as client, sleeping(cgroup) as pid:
        with pytest.raises(Invalid):
            client.admit(pid=pid, container=None, bundle=None, labels=labels)
        found = client.sandbox(name)

    assert (found["labels"], found["admission"]) == ({}, "found")


def test_one_that_lives_is_not_released(house, box):
    """Nor one whose cgroup stands: it is let go when that has gone, and not a moment before.

    It was marked as leaving, and was free ten minutes later, whoever lived in it then.
    """
    name, cgroup = box
    with house.client() as client:
        with sleeping(cgroup), pytest.raises(Invalid, match="processes live in it"):
            client.release(name)
        wait_until(lambda: client.sandbox(name)["state"] == "empty", what="the end")
        answer = client.release(name)
        still = client.sandbox(name)
        with sleeping(cgroup):
            attempt(cgroup)
        denied = client.denials(name).denied
        cgroup.rmdir()
        wait_until(lambda: not any(s["id"] == name for s in client.sandboxes()), what="the end")

    assert answer == {"sandbox": name, "released": False}
    assert (still["state"], denied) == ("empty", 1)


def test_everyone_s_mode_is_switched_and_ended(house, box):
    """Owned scopes too: who is born meanwhile is in audit as well; status counts them."""
    name, _ = box
    with house.client() as client:
        answer = client.mode(None, "audit", for_s=600.0, reason="an incident")
        with house.sandbox("born-now") as cgroup:
            attempt(cgroup)
            during = client.status()["mode_overrides"]
        client.end_mode(None, reason="over")
        found = client.sandbox(name)

    assert house.scope_path in answer["scopes"]
    assert name in {each["id"] for each in answer["sandboxes"]}
    assert during >= 2
    assert found["override"] is None
    with house.client() as client:
        assert client.status()["mode_overrides"] == 0


def test_what_waits_in_the_kernel_is_answered_for(house, box):
    """The answer is about everything that has happened, and shows what a person needs."""
    name, cgroup = box
    with house.client() as client:
        for port in (1, 2, 3):
            attempt(cgroup, port)
            assert client.denials(name).denied == port
        shown = client.sandbox(name)

    assert shown["denials"]["denied"] == shown["denied"] == 3
    assert all(each["in_force"] for each in shown["hooks"] if "reason" not in each)


def test_reading_inside_tls_is_told(house, box):
    """Of the host, of each sandbox in the list, and of one in full."""
    name, _ = box
    with house.client() as client:
        status = client.status()
        (listed,) = [each for each in client.sandboxes() if each["id"] == name]
        shown = client.sandbox(name)

    assert status["tls"]["state"] in ("starting", "on", "off", "refused")
    assert status["tls"]["max_libraries"] == 64
    assert listed["tls_unread"] in (None, 0)
    assert shown["tls"].keys() == {"sessions", "joined", "unread", "processes", "truncated"}


def test_who_has_ended_is_answered_for_still(house):
    """By its id, to a harness that asks late."""
    with house.sandbox("late") as cgroup:
        name = house.wait_for_sandbox(cgroup)["id"]
        attempt(cgroup)
    with house.client() as client:
        wait_until(lambda: not any(s["id"] == name for s in client.sandboxes()), what="the end")
        denied = client.denials(name).denied

    assert denied == 1
