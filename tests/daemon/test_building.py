# SPDX-License-Identifier: Apache-2.0
"""Scopes that come and go under a real daemon, and what a new edition is said to change."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.daemon import daemon_ground
from rig.keeping import make_edition, owned, spelled
from rig.process import wait_until

from agentwall.daemon.building import _capacity, _difference, _may_degrade
from agentwall.daemon.config import TlsSettings, TlsUse
from agentwall.kernel.capacity import Capacity

LOCAL = "allow: [{cidr: 127.0.0.1, ports: [any]}]\n"
EPERM, ECONNREFUSED = 1, 111


@pytest.fixture(scope="module")
def second():
    """The cgroup of a second owned scope."""
    with temp_cgroup("second") as made:
        yield made


@pytest.fixture(scope="module")
def ground(tmp_path_factory, second):
    """A daemon whose scopes may be taken away."""
    with daemon_ground(tmp_path_factory.mktemp("daemon")) as daemon:
        daemon.policy("web", LOCAL)
        daemon.configure(f"  - {{cgroup: {spelled(second)}, kind: owned, default: deny-all}}\n")
        daemon.start()
        yield daemon


def connect(cgroup) -> int:
    """Connect to a closed port of loopback from inside *cgroup*; return the errno."""
    script = "import socket,sys; sys.exit(socket.socket().connect_ex(('127.0.0.1', 1)))"
    command = in_cgroup(cgroup, sys.executable, "-I", "-S", "-c", script)
    return subprocess.run(command, check=False, timeout=60).returncode


def scopes(daemon) -> dict[str, dict[str, object]]:
    """The scopes as status tells them."""
    with daemon.client() as client:
        return {each["cgroup"]: each for each in client.status()["scopes"]}


@pytest.mark.kernel
@pytest.mark.parametrize("is_made_by_others", [False, True])
def test_a_scope_that_is_removed_is_made_again(ground, is_made_by_others):
    """By the daemon, or by whoever owns it: what is born there is born behind the wall."""
    before = ground.scope.stat().st_ino
    ground.scope.rmdir()
    if is_made_by_others:
        ground.scope.mkdir(exist_ok=True)
    wait_until(
        lambda: ground.scope.is_dir() and ground.scope.stat().st_ino != before, what="the scope"
    )
    wait_until(lambda: connect(ground.scope) == EPERM, what="its wall")
    with ground.sandbox("late") as cgroup:
        code = connect(cgroup)
        found = ground.wait_for_sandbox(cgroup)

    assert code == EPERM
    assert found["policy"] == "deny-all"
    assert scopes(ground)[ground.scope_path]["in_force"]
    assert scopes(ground)[ground.scope_path]["problem"] is None


@pytest.mark.kernel
def test_another_default_judges_who_is_there(ground, second):
    """Of the scope itself, and of every sandbox that has no policy of its own."""
    with ground.sandbox("plain") as cgroup:
        ground.wait_for_sandbox(cgroup)
        before = connect(cgroup), connect(ground.scope)
        other = f"  - {{cgroup: {spelled(second)}, kind: owned, default: deny-all}}\n"
        ground.configure(other, default="web")
        outcome = ground.reload()
        after = connect(cgroup), connect(ground.scope), connect(second)
        ground.configure(other)
        ground.reload()

    assert (before, after) == ((EPERM, EPERM), (ECONNREFUSED, ECONNREFUSED, EPERM))
    assert outcome["problems"] == []


@pytest.mark.kernel
def test_what_is_no_scope_any_more_is_free(ground, second):
    """Its sandboxes keep what judged them; who comes there later is nobody's business."""
    sandbox = second / "old"
    sandbox.mkdir()
    ground.wait_for_sandbox(sandbox)
    ground.configure()
    ground.reload()
    (second / "new").mkdir()
    codes = connect(second), connect(second / "new"), connect(sandbox)
    (second / "new").rmdir()
    ground.configure(f"  - {{cgroup: {spelled(second)}, kind: owned, default: deny-all}}\n")
    ground.reload()
    again = connect(second)
    sandbox.rmdir()

    assert codes == (ECONNREFUSED, ECONNREFUSED, EPERM)
    assert again == EPERM


@pytest.mark.kernel
def test_the_next_daemon_goes_by_the_files_as_they_are(ground, second):
    """A configuration that was changed while none ran: what it says counts, for those adopted too.

    They kept what the daemon before had given them, until somebody reloaded.
    """
    other = f"  - {{cgroup: {spelled(second)}, kind: owned, default: deny-all}}\n"
    with ground.sandbox("stays") as cgroup:
        ground.wait_for_sandbox(cgroup)
        ground.stop()
        ground.configure(other, default="web")
        ground.start()
        found = ground.sandbox_at(cgroup)
        codes = connect(cgroup), connect(ground.scope)
        ground.configure(other)
        ground.reload()

    assert (found["policy"], found["admission"]) == ("web", "adopted")
    assert codes == (ECONNREFUSED, ECONNREFUSED)


@pytest.mark.kernel
def test_a_daemon_in_its_own_scope_is_refused(tmp_path):
    """It would have to ask itself for every packet: one line says where it is."""
    with daemon_ground(tmp_path) as daemon, daemon.sandbox("own") as cgroup:
        command = [sys.executable, "-m", "agentwall", "daemon", "--config", str(daemon.config)]
        done = subprocess.run(
            in_cgroup(cgroup, *command), capture_output=True, text=True, timeout=60, check=False
        )
        code = connect(cgroup)

    assert done.returncode == 77
    assert f"scope {daemon.scope_path}: expected one that this daemon is not in" in done.stderr
    assert code == ECONNREFUSED


SCOPE = owned("/agentwall-test")


def test_what_is_different_is_named(tmp_path):
    """Policies by name; the same files, nothing."""
    before = make_edition(tmp_path, {"a": "allow: []\n", "b": LOCAL, "c": LOCAL}, SCOPE)
    after = make_edition(tmp_path, {"b": "allow: []\n", "c": LOCAL, "d": LOCAL, "e": ""}, SCOPE)
    others = replace(after.signatures, digest="0" * 64)
    later = replace(after, signatures=others, commit="f" * 40)
    said = _difference(before, later, before.config)

    assert said == ("added d, e; removed a; changed b; signatures changed; commit ffffffffffff")
    assert _difference(after, after, after.config) == "nothing is different"


def test_what_waits_for_the_next_start_is_named(tmp_path):
    """As long as it differs from what the daemon started with, and no longer."""
    first = make_edition(tmp_path, {"a": LOCAL}, SCOPE)
    off = replace(first, config=replace(first.config, tls=TlsSettings(inspect=TlsUse.OFF)))
    waiting = "tls: from the daemon's next start on"

    assert _difference(first, off, first.config) == waiting
    assert _difference(off, off, first.config) == waiting
    assert _difference(off, first, first.config) == "nothing is different"


def test_a_wall_has_room_for_the_edition_twice(tmp_path):
    """And never less than by default."""
    small = make_edition(tmp_path, {"a": LOCAL}, SCOPE)
    (body,) = small.policies["a"]
    many = replace(body, tables=replace(body.tables, outbound=body.tables.outbound * 200_000))
    large = replace(small, policies={**small.policies, "a": (many,)})

    assert _capacity(small).prefixes == Capacity().prefixes
    assert _capacity(large).prefixes >= 2 * len(many.tables.outbound)


@pytest.mark.parametrize(
    ("policies", "expected"),
    [
        ({}, False),
        ({"a": "on_error: degrade\n"}, True),
        ({"a": "on_error: degrade\n", "b": LOCAL}, False),
        ({"a": LOCAL}, False),
    ],
)
def test_less_than_the_whole_wall_only_where_everyone_agrees(tmp_path, policies, expected):
    """One policy that wants all of it is enough; the built-in one has no say."""
    may_degrade = _may_degrade(make_edition(tmp_path, policies, SCOPE))

    assert may_degrade == expected
