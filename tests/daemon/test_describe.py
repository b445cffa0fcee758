# SPDX-License-Identifier: Apache-2.0
"""What status and lists say, of sandboxes in every state."""

from __future__ import annotations

import json
import re
import time
from dataclasses import replace

import pytest
from rig.cgroup import temp_cgroup
from rig.keeping import keeping, make_edition, owned, sleeping, spelled

from agentwall.daemon.clock import boot_ns
from agentwall.daemon.describe import (
    STATUS_SCHEMA,
    Vitals,
    describe_daemon,
    describe_reload,
    describe_sandbox,
    effective_mode,
    hooks_in_force,
)
from agentwall.daemon.members import Admission, Override
from agentwall.daemon.reload import Outcome
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.verdict import Mode
from agentwall.kernel.counters import Counters

pytestmark = pytest.mark.kernel

VITALS = Vitals(
    started_ns=0,
    lost={"denials": 3},
    log={"path": "/x", "written": 1},
    last_check_ns=None,
    problems={"web-1": "torn"},
    reload=None,
    unbound={},
    scope_problems={},
)
NONE = Counters(**dict.fromkeys(Counters.__dataclass_fields__, 0))


@pytest.fixture
def scope():
    """An owned scope with one cgroup."""
    with temp_cgroup("scope") as made:
        (made / "one").mkdir()
        yield made


@pytest.fixture
def bench(small_wall, tmp_path, scope):
    """A keeper with a policy in audit mode, and one with phases."""
    policies = {
        "looks": "mode: audit\nmatch: [{labels: {role: looks}}]\n",
        "rl": "match: [{labels: {role: rl}}]\nphases: {setup: {mode: observe}, agent: {}}\n",
    }
    edition = make_edition(tmp_path, policies, owned(spelled(scope)))
    with keeping(small_wall, edition) as made:
        yield made


def described(bench, member) -> dict[str, object]:
    """The sandbox as lists have it, which is JSON."""
    found = describe_sandbox(member, bench.keeper.rules.edition, bench.keeper.wall)
    assert json.loads(json.dumps(found)) == found
    return found


def test_a_sandbox_is_told_whole(bench, scope):
    """Everything that the protocol names, from the start on."""
    origin = Origin(runtime=Runtime.PODMAN, container="4f" * 32, labels={"team": "a"})
    member = bench.admit(scope / "one", origin=origin, labels={"role": "rl"})
    found = described(bench, member)

    assert found["id"] == "4f" * 6
    assert found["origin"]["runtime"] == "podman"
    assert found["origin"]["labels"] == {"team": "a"}
    assert (found["policy"], found["phase"], found["mode"]) == ("rl", "setup", "observe")
    assert found["labels"] == {"role": "rl", "phase": "setup"}
    assert (found["denied"], found["lost"], found["last_denial"]) == (0, {}, None)
    assert (found["state"], found["pids"], found["admission"]) == ("empty", 0, "found")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT.*Z", found["admitted"])
    assert found["digest"] == bench.keeper.rules.edition.initial("rl").policy.digest


def test_a_policy_that_is_no_more(bench, scope):
    """Between two editions: nothing is claimed of it but that nothing is permitted."""
    member = bench.admit(scope / "one")
    member.policy = "gone"
    found = described(bench, member)

    assert (found["commit"], found["digest"]) == (None, None)
    assert found["mode"] == found["effective_mode"] == "enforce"


def test_states_follow_the_cgroup(bench, scope):
    """Running, frozen, empty, and about to be let go."""
    member = bench.admit(scope / "one")
    with sleeping(scope / "one"):
        running = described(bench, member)
        (scope / "one" / "cgroup.freeze").write_text("1")
        member.cgroup.freeze(60.0)
        frozen = described(bench, member)
        (scope / "one" / "cgroup.freeze").write_text("0")
    member.cgroup.kill()
    empty = described(bench, member)
    (scope / "one").rmdir()
    gone = described(bench, member)

    assert (running["state"], running["pids"]) == ("running", 1)
    assert [each["state"] for each in (frozen, empty, gone)] == ["frozen", "empty", "leaving"]
    assert gone["pids"] is None


@pytest.mark.parametrize(
    ("mode", "left_ns", "expected"),
    [
        (Mode.OBSERVE, 60 * 10**9, "observe"),
        (Mode.ENFORCE, None, "enforce"),
        (Mode.OBSERVE, -1, "audit"),
    ],
)
def test_an_override_holds_until_its_end(bench, scope, mode, left_ns, expected):
    """What the kernel does is told, also where nobody has cleared away yet what is over."""
    member = bench.admit(scope / "one", labels={"role": "looks"})
    until_ns = None if left_ns is None else boot_ns() + left_ns
    member.override = Override(mode=mode, until_ns=until_ns, reason="why", by="who")
    found = described(bench, member)

    assert (found["mode"], found["effective_mode"]) == ("audit", expected)
    assert effective_mode(member, bench.keeper.rules.edition).value == expected
    assert found["override"]["reason"] == "why"
    assert (found["override"]["until"] is None) == (left_ns is None)
    assert left_ns is None or 0 <= found["override"]["left_s"] <= 60


def test_losses_are_told_by_place(bench, scope):
    """Only where there are any."""
    member = bench.admit(scope / "one")
    member.counters = replace(NONE, denied=7, lost_denials=2)
    member.last_denial_ns = time.time_ns()
    found = described(bench, member)

    assert (found["denied"], found["lost"]) == (7, {"denials": 2})
    assert found["last_denial"] is not None


def test_status_adds_up(bench, scope):
    """Every sandbox is of one mode and one level, and every level is named."""
    bench.admit(scope, admission=Admission.SCOPE)
    member = bench.admit(scope / "one", labels={"role": "looks"})
    member.counters = replace(NONE, denied=7, would_denied=3)
    found = describe_daemon(bench.keeper, VITALS)
    sandboxes = found["sandboxes"]

    assert json.loads(json.dumps(found)) == found
    assert found["schema"] == STATUS_SCHEMA
    assert sandboxes["total"] == sum(sandboxes[m.value] for m in Mode) == sandboxes["audit"] == 1
    assert sandboxes["partial"] == sum(sandboxes[level] for level in ("full", "partial", "none"))
    assert (found["denied"], found["would_denied"]) == (7, 3)
    (one,) = found["scopes"]
    assert (one["in_force"], one["sandboxes"], one["unbound"]) == (True, 1, 0)
    assert found["checks"] == {"last": None, "problems": ["web-1: torn"]}
    used = {each["name"]: each["sandboxes"] for each in found["policies"]}
    assert used == {"looks": 1, "rl": 0, "default-deny": 0}


def test_a_scope_that_is_not_guarded_is_told(bench, scope):
    """With the reason, and with those that no policy is for."""
    cgroup = spelled(scope)
    vitals = replace(VITALS, unbound={cgroup: 4}, scope_problems={cgroup: "no room"})
    (found,) = describe_daemon(bench.keeper, vitals)["scopes"]

    assert (found["in_force"], found["problem"], found["unbound"]) == (False, "no room", 4)


def test_hooks_hold_for_everyone_or_not(bench, scope):
    """One sandbox that lacks one is enough; the reason is told."""
    member = bench.admit(scope / "one")
    whole = hooks_in_force(bench.keeper)
    name = next(iter(bench.keeper.wall.hooks(member.key)))
    listed = {each["name"]: each for each in describe_daemon(bench.keeper, VITALS)["hooks"]}

    assert whole[name]
    assert listed[name]["reason"] is None
    assert set(whole) == set(listed)


def test_a_reload_is_told_as_it_went():
    """Or that there was none."""
    outcome = Outcome(time_ns=0, applied=False, what="kept", problems=("a.yaml:1:1: x",))

    assert describe_reload(None) is None
    assert describe_reload(outcome) == {
        "time": "1970-01-01T00:00:00.000000000Z",
        "applied": False,
        "what": "kept",
        "problems": ["a.yaml:1:1: x"],
    }
