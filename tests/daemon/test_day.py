# SPDX-License-Identifier: Apache-2.0
"""A daemon's day: names, inbound connections and commits, for containers among real servers."""

from __future__ import annotations

import contextlib
import errno

import pytest
from rig.day import (
    EVIL,
    HUB,
    INBOUND_PORT,
    OTHER_PORT,
    POOL,
    POOL_PORT,
    RULES,
    WEB_PORT,
    day,
)
from rig.lab import OUTSIDE, PERMITTED
from rig.process import wait_until

pytestmark = [pytest.mark.kernel, pytest.mark.slow]

POOL_ONLY = RULES.replace(f"  - {{host: {HUB}, ports: [{WEB_PORT}]}}\n", "")
STAGES = f"""
phases:
  setup: {{allow: [{{cidr: {PERMITTED}, ports: [{WEB_PORT}]}}]}}
  agent: {{allow: [{{cidr: {PERMITTED}, ports: [{OTHER_PORT}]}}]}}
"""
UNKNOWN = {-2, -3}
"""getaddrinfo's EAI_NONAME and EAI_AGAIN."""


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A day with a policy of names and one with phases."""
    with day(tmp_path_factory.mktemp("day"), ("hubs", RULES), ("stages", STAGES)) as made:
        made.daemon.start()
        yield made


def test_names_open_what_they_lead_to(here):
    """What a permitted name led to is open on the port of its rule, once it was asked for."""
    with here.box("hubs") as box:
        before = box.reaches(PERMITTED)
        here.resolver.forget()
        found, unknown = box.looks_up(HUB), box.looks_up(EVIL)
        asked = {name for _, name, _ in here.resolver.questions()}
        after, other = box.reaches(PERMITTED), box.reaches(PERMITTED, OTHER_PORT)
        outside = box.reaches(OUTSIDE)
        flows = here.told("flow", box.id)

    assert (before, after, other, outside) == (errno.EPERM, 0, errno.EPERM, errno.EPERM)
    assert found == [PERMITTED]
    assert unknown in UNKNOWN
    assert asked == {HUB}
    # What it has moved may be told as well by now.
    allowed = [each for each in flows if each["verdict"] == "allow" and each["hook"] == "connect4"]
    (reached,) = [each for each in allowed if each["remote"]["name"]]
    assert (reached["remote"]["name"], reached["reason"]["rule"]) == (HUB, "hubs:allow[0]")
    refused = [each["question"]["name"] for each in flows if each["reason"]["code"] == "question"]
    assert set(refused) == {EVIL}
    on_other_port = [each for each in flows if each["remote"]["port"] == OTHER_PORT]
    assert [(e["verdict"], e["remote"]["name"]) for e in on_other_port] == [("deny", HUB)]


def test_what_one_resolved_opens_nothing_for_another(here):
    """Neither in the same network namespace nor in another one."""
    with (
        here.box("hubs") as first,
        here.box("hubs") as second,
        here.box("hubs", where=here.side) as third,
    ):
        first.looks_up(HUB)
        opened = [box.reaches(PERMITTED) for box in (first, second, third)]
        third.looks_up(HUB)
        then = [box.reaches(PERMITTED) for box in (first, second, third)]

    assert opened == [0, errno.EPERM, errno.EPERM]
    assert then == [0, errno.EPERM, 0]


def test_names_outlive_the_daemon(here):
    """Killed and started again: what was learned holds, and what was not does not."""
    with here.box("hubs") as box, here.box("hubs") as other:
        box.looks_up(HUB)
        here.daemon.kill()
        orphaned = (box.reaches(PERMITTED), other.reaches(PERMITTED))
        while_down = (box.looks_up(POOL), box.looks_up(EVIL), box.reaches(OUTSIDE))
        here.daemon.start()
        adopted = (box.reaches(PERMITTED), other.reaches(PERMITTED))
        pool = (box.reaches("203.0.113.33", POOL_PORT), other.reaches("203.0.113.33", POOL_PORT))
        other.looks_up(HUB)
        later = (other.reaches(PERMITTED), other.reaches(PERMITTED, OTHER_PORT))
        with here.daemon.client() as client:
            admissions = [client.sandbox(each.id)["admission"] for each in (box, other)]
        flows = [
            each
            for each in here.told("flow", box.id)
            if each["verdict"] == "allow" and each["remote"]["port"] == WEB_PORT
        ]

    assert orphaned == adopted == (0, errno.EPERM)
    assert while_down[0] == ["203.0.113.33"]
    assert while_down[1] in UNKNOWN
    assert while_down[2] == errno.EPERM
    assert pool == (0, errno.EPERM)
    assert later == (0, errno.EPERM)
    assert admissions == ["adopted", "adopted"]
    # The kernel told of the first of them while nobody listened.
    assert {each["remote"]["name"] for each in flows} == {HUB}


def test_a_name_that_is_no_longer_allowed(here):
    """A reload ends the live flow with its next packet, and the name is not answered any more."""
    with here.box("hubs") as box:
        box.looks_up(HUB)
        box.looks_up(POOL)
        flow, pool = box.puppet.open("tcp"), box.puppet.open("tcp")
        flow.connect(PERMITTED, WEB_PORT)
        pool.connect("203.0.113.33", POOL_PORT)
        flow.send(b"before")
        before = flow.recv()
        here.hub.clear()
        told = len(here.daemon.events("state"))
        here.daemon.policy("hubs", POOL_ONLY)
        try:
            outcome = here.daemon.reload()
            changes = [e["detail"].get("what", "") for e in here.daemon.events("state")[told:]]
            with contextlib.suppress(OSError):
                flow.send(b"after")
            with pytest.raises(OSError, match="abort"):
                flow.recv()
            pool.send(b"{}\n")
            answer = pool.recv()
            again, name = box.reaches(PERMITTED), box.looks_up(HUB)
            arrived = here.hub.received
            denied = [e for e in here.told("flow", box.id) if e["verdict"] == "deny"]
        finally:
            here.daemon.policy("hubs", RULES)
            here.daemon.reload()
        restored = (box.looks_up(HUB), box.reaches(PERMITTED))

    assert outcome["applied"]
    # By this reload, or by the daemon's own if that was first.
    assert any("changed hubs" in each for each in changes)
    assert before == b"before"
    assert arrived == b""
    assert b"Other/Unknown" in answer
    assert again == errno.EPERM
    assert name in UNKNOWN
    assert [e["remote"]["port"] for e in denied if e["hook"] == "egress"][:1] == [WEB_PORT]
    assert restored == ([PERMITTED], 0)


def test_an_orchestrator_calls(here):
    """The inbound rule's port and caller get through; other ports and callers do not."""
    with here.box("hubs") as box:
        for port in (INBOUND_PORT, INBOUND_PORT + 1):
            listener = box.puppet.open("tcp")
            listener.bind("0.0.0.0", port)
            listener.listen()
        with here.call(INBOUND_PORT, timeout_s=60.0) as caller:
            caller.sendall(b"step")
            taken = box.puppet.call("accept", 0)
            heard = box.puppet.call("recv", taken)
            box.puppet.call("send", taken, "done", 1)
            answer = caller.recv(16)
        for port, source in ((INBOUND_PORT + 1, PERMITTED), (INBOUND_PORT, OUTSIDE)):
            with pytest.raises(TimeoutError):
                here.call(port, source, timeout_s=0.5)
        flows = [each for each in here.told("flow", box.id) if each["direction"] == "in"]

    assert (heard, answer) == ("step", b"done")
    told = {(e["verdict"], e["remote"]["address"], e["local"]["port"]) for e in flows}
    assert told == {
        ("allow", PERMITTED, INBOUND_PORT),
        ("deny", PERMITTED, INBOUND_PORT + 1),
        ("deny", OUTSIDE, INBOUND_PORT),
    }


def test_phases_and_commits(here):
    """Events carry the phase and the commit of the time they happened at."""
    with here.box("stages") as box, here.daemon.client() as client:
        first = client.status()["commit"]
        seen = [box.reaches(PERMITTED), box.reaches(PERMITTED, OTHER_PORT)]
        client.phase(box.id, "agent")
        seen += [box.reaches(PERMITTED), box.reaches(PERMITTED, OTHER_PORT)]
        text = STAGES.replace(f"[{OTHER_PORT}]", f"[{OTHER_PORT + 1}]")
        here.daemon.policy("stages", text)
        here.daemon.reload()
        second = here.commit("other port")
        wait_until(lambda: client.status()["commit"] == second, what="the commit")
        seen += [box.reaches(PERMITTED, OTHER_PORT)]
        shown = client.sandbox(box.id)
        # What the daemon has read and not written yet dies with it.
        here.told("flow", box.id)
        here.daemon.kill()
        seen += [box.reaches(PERMITTED)]
        (here.daemon.policies / "README").write_text("Of no consequence.\n")
        third = here.commit("another file")
        here.daemon.start()
        seen += [box.reaches(PERMITTED)]
        told = [
            (each["verdict"], each["sandbox"]["policy"])
            # Refusals are read before what passed.
            for each in sorted(here.told("flow", box.id), key=lambda event: event["mono_ns"])
            if each["hook"] == "connect4"
        ]

    assert len({first, second, third}) == 3
    assert seen == [0, errno.EPERM, errno.EPERM, 0, *(3 * [errno.EPERM])]
    assert (shown["phase"], shown["commit"]) == ("agent", second)
    expected = [("allow", "setup", first), ("deny", "setup", first)]
    expected += [("deny", "agent", first), ("allow", "agent", first)]
    # The last of the second commit happened while no daemon ran.
    expected += [("deny", "agent", second), ("deny", "agent", second), ("deny", "agent", third)]
    assert [(v, policy["phase"], policy["commit"]) for v, policy in told] == expected
