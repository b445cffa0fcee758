# SPDX-License-Identifier: Apache-2.0
"""How sandboxes come to a real daemon: found, by the hook, nested, in turn, and too late."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from rig.cgroup import temp_cgroup
from rig.keeping import keeping, make_edition, owned, sleeping, spelled
from rig.process import wait_until

from agentwall.client import Invalid
from agentwall.daemon.arrivals import Arrivals
from agentwall.errors import ControlError

pytestmark = pytest.mark.kernel

TEAMS, HOOKED, AGAIN, OTHER, UNRELATED = ("4f" * 32, "5e" * 32, "6d" * 32, "7c" * 32, "8b" * 32)
NOBODY = 1 << 22
"""No process has this number: PID_MAX_LIMIT, include/linux/threads.h."""


def connect(daemon, cgroup: Path) -> int:
    """Connect to a closed port of loopback from inside *cgroup*; return the errno."""
    script = "import socket,sys; sys.exit(socket.socket().connect_ex(('127.0.0.1', 1)))"
    return daemon.run(cgroup, sys.executable, "-I", "-S", "-c", script).returncode


def test_a_cgroup_made_again_under_its_name_is_another_sandbox(house):
    """What came later is bound as well, however soon; the one before had its own life."""
    with house.sandbox("web-again") as cgroup:
        seen = [house.wait_for_sandbox(cgroup)["admitted"]]
        for _ in range(3):
            cgroup.rmdir()
            cgroup.mkdir()
            seen.append(admitted_anew(house, cgroup, seen))
            code = connect(house, cgroup)
        found = house.sandbox_at(cgroup)

    assert len(set(seen)) == 4
    assert (found["policy"], code) == ("web", 111)


def standing(daemon, cgroup: Path) -> list[dict[str, object]]:
    """Return the sandboxes at *cgroup* that are not about to be let go."""
    with daemon.client() as client:
        found = client.sandboxes()
    path = spelled(cgroup)
    return [each for each in found if each["cgroup"] == path and each["state"] != "leaving"]


def admitted_anew(daemon, cgroup: Path, seen: list[object]) -> object:
    """Wait until there is a sandbox that was not *seen*; return when it was admitted."""
    found: list[object] = []

    def look() -> bool:
        found[:] = [each["admitted"] for each in standing(daemon, cgroup)]
        return found != [] and found[0] not in seen

    wait_until(look, what="the new one")
    return found[0]


def test_the_hook_binds_what_was_made_again(house):
    """A container that is restarted has the cgroup's name of the one before, not its wall."""
    with house.sandbox("web-hooked") as cgroup, house.client() as client:
        before = house.wait_for_sandbox(cgroup)
        cgroup.rmdir()
        cgroup.mkdir()
        with sleeping(cgroup) as pid:
            client.admit(pid=pid, container=AGAIN, bundle="/", labels={})
            (found,) = standing(house, cgroup)

    assert found["admitted"] != before["admitted"]
    assert found["origin"]["container"] == AGAIN


def test_cgroups_that_are_there_for_a_moment_harm_nobody(house):
    """A daemon sees them come too late, and goes on."""
    for number in range(150):
        path = house.scope / f"web-moment-{number % 5}"
        path.mkdir()
        if number % 3 == 0:
            time.sleep(number % 4 / 1000)
        path.rmdir()
    with house.sandbox("web-after") as cgroup, house.client() as client:
        house.wait_for_sandbox(cgroup)
        problems = client.status()["checks"]["problems"]

    assert house.process.poll() is None
    assert not [each for each in problems if "web-moment" in each]


def test_what_a_sandbox_makes_below_itself_inherits(house):
    """A cgroup within a sandbox is no sandbox, and is judged as the sandbox is."""
    with house.sandbox("web-outer") as cgroup:
        name = house.wait_for_sandbox(cgroup)["id"]
        inner = cgroup / "deep" / "deeper"
        inner.mkdir(parents=True)
        code = connect(house, inner)
        time.sleep(0.3)
        with house.client() as client:
            found = [each["cgroup"] for each in client.sandboxes()]
        inner.rmdir()
        inner.parent.rmdir()

    assert code == 111
    assert [each for each in found if each.startswith(spelled(cgroup))] == [spelled(cgroup)]
    assert name == "web-outer"


def test_a_parent_gives_way_to_its_containers(house):
    """``--cgroup-parent SCOPE/team``: each container in there is a sandbox, the team is none."""
    with house.sandbox("team") as team:
        house.wait_for_sandbox(team)
        inner = team / f"libpod-{TEAMS}"
        inner.mkdir()
        found = house.wait_for_sandbox(inner)
        holder = house.sandbox_at(team)
        inner.rmdir()

    assert found["id"] == TEAMS[:12]
    assert found["origin"]["runtime"] == "podman"
    assert holder is None


def test_who_has_run_in_the_parent_does_not_get_out_of_it(house):
    """A sandbox that makes a cgroup with a container's name stays what it is."""
    with house.sandbox("web-sly") as cgroup:
        name = house.wait_for_sandbox(cgroup)["id"]
        with sleeping(cgroup):
            inner = cgroup / f"libpod-{UNRELATED}"
            inner.mkdir()
            time.sleep(0.5)
            found = house.sandbox_at(inner)
            still = house.sandbox_at(cgroup)
            inner.rmdir()

    assert found is None
    assert still["id"] == name


def test_the_hook_confirms_what_was_found(house):
    """Bound when its cgroup appeared; the hook adds who it is, and its labels, but no phase."""
    with house.sandbox("pool-hook") as cgroup, house.client() as client:
        name = house.wait_for_sandbox(cgroup)["id"]
        with sleeping(cgroup) as pid:
            labels = {"io.agentwall.episode": "3", "io.agentwall.phase": "agent", "team": "a"}
            answer = client.admit(pid=pid, container=HOOKED, bundle="/", labels=labels)
            found = client.sandbox(HOOKED)

    assert answer["sandbox"] == name
    assert (found["admission"], found["phase"], found["labels"]["episode"]) == (
        "hook",
        "setup",
        "3",
    )
    assert found["origin"]["labels"]["team"] == "a"


def test_the_hook_may_not_take_a_policy_that_is_not_its(house):
    """Refused before anything changes; what held goes on to hold."""
    with house.sandbox("web-wish") as cgroup, house.client() as client:
        name = house.wait_for_sandbox(cgroup)["id"]
        with sleeping(cgroup) as pid:
            with pytest.raises(Invalid, match=r"policy: expected one of .*, got nosuch"):
                client.admit(pid=pid, container=OTHER, bundle="/", labels={}, policy="nosuch")
            inner = cgroup / "inner"
            inner.mkdir()
            (inner / "cgroup.procs").write_text(str(pid))
            with pytest.raises(Invalid, match="it lies in sandbox web-wish, whose policy holds"):
                client.admit(pid=pid, container=OTHER, bundle="/", labels={}, policy="claimed")
        wait_until(lambda: removed(inner), what="its end")
        found = client.sandbox(name)

    assert (found["policy"], found["admission"]) == ("web", "found")


def test_the_hook_outside_of_all_scopes(house):
    """Nobody's business, unless a policy is asked for: then the start has to fail."""
    with house.client() as client:
        answer = client.admit(pid=os.getpid(), container=OTHER, bundle="/", labels={})
        with pytest.raises(Invalid, match="expected one in a scope, as a sandbox, got none"):
            client.admit(pid=os.getpid(), container=OTHER, bundle="/", labels={}, policy="web")
        with pytest.raises(ControlError, match="expected a process that lives"):
            client.admit(pid=NOBODY, container=OTHER, bundle="/", labels={})

    assert answer["sandbox"] is None
    assert set(answer.values()) == {None}


def test_a_shared_scope_counts_whom_it_does_not_bind(house, shared_scope):
    """No policy is for it: it is free, and status says that there is one."""
    box = shared_scope / "box-1"
    box.mkdir()
    try:
        wait_until(lambda: unbound(house, shared_scope) == 1, what="it counted")
        code = connect(house, box)
        found = house.sandbox_at(box)
    finally:
        (box / "cgroup.kill").write_text("1")
        wait_until(lambda: removed(box), what="its end")
    wait_until(lambda: unbound(house, shared_scope) == 0, what="none counted")

    assert code == 111
    assert found is None


def test_a_policy_may_be_asked_for_in_a_shared_scope(house, shared_scope):
    """By the hook: it is bound, and told apart from the others."""
    box = shared_scope / "box-2"
    box.mkdir()
    try:
        with sleeping(box) as pid, house.client() as client:
            client.admit(pid=pid, container=OTHER, bundle="/", labels={}, policy="deny-all")
            found = house.sandbox_at(box)
            code = connect(house, box)
    finally:
        wait_until(lambda: removed(box), what="its end")

    assert (found["policy"], found["scope"]) == ("deny-all", spelled(shared_scope))
    assert code == 1


def unbound(daemon, scope: Path) -> int:
    """How many cgroups of *scope* count as sandboxes and are free."""
    with daemon.client() as client:
        return next(
            each["unbound"]
            for each in client.status()["scopes"]
            if each["cgroup"] == spelled(scope)
        )


def removed(cgroup: Path) -> bool:
    """Remove *cgroup*, once that can be done."""
    try:
        cgroup.rmdir()
    except OSError:
        return False
    return True


def test_what_ran_before_it_was_found_is_told(house, shared_scope):
    """For how many milliseconds it ran without a policy: one that is new binds it."""
    box = shared_scope / "box-3"
    box.mkdir()
    policy = house.policies / "claimed.yaml"
    before = policy.read_text()
    try:
        with sleeping(box):
            time.sleep(0.1)
            policy.write_text(before.replace("match: [", f"match: [{{cgroup: {spelled(box)}}}, "))
            house.reload()
            found = house.sandbox_at(box)
    finally:
        policy.write_text(before)
        house.reload()
        wait_until(lambda: removed(box), what="its end")

    assert found["policy"] == "claimed"
    assert 100 <= found["unwatched_ms"] < 60_000


def test_what_comes_during_a_reload_waits_for_no_process(small_wall, tmp_path):
    """It is bound by the reload, though nobody is in it; what was there at the start waits."""
    with temp_cgroup("scope") as scope:
        (scope / "old").mkdir()
        edition = make_edition(tmp_path, {}, owned(spelled(scope)))
        with keeping(small_wall, edition) as bench:
            upkeep = SimpleNamespace(is_there=lambda _: True)
            parts = SimpleNamespace(keeper=bench.keeper, upkeep=upkeep)
            arrivals = Arrivals(parts, edition.config, SimpleNamespace())
            with closing(arrivals):
                arrivals.begin()
                (scope / "new").mkdir()
                arrivals.renew(edition.config)
                found = [member.cgroup.directory for member in bench.keeper.members]

    assert found == [scope / "new"]
