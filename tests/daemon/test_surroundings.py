# SPDX-License-Identifier: Apache-2.0
"""Where a sandbox is and how much is covered, as its processes come, go, and hide."""

from __future__ import annotations

import subprocess
import time

import pytest
from rig.cgroup import in_cgroup, temp_cgroup
from rig.keeping import make_edition, member_at, owned, sleeping

from agentwall.daemon.members import UNKNOWN_PLACE, Admission, Place
from agentwall.daemon.surroundings import Surroundings
from agentwall.host.coverage import CoverageLevel
from agentwall.host.netns import netns_cookie

pytestmark = pytest.mark.kernel

NOBODY = 1 << 22
"""No process has this number: PID_MAX_LIMIT, include/linux/threads.h."""


@pytest.fixture
def surroundings():
    """Nothing is remembered yet."""
    return Surroundings()


@pytest.fixture
def cgroup():
    """A cgroup without processes."""
    with temp_cgroup() as made:
        yield made


@pytest.fixture(scope="module")
def policies(tmp_path_factory):
    """Policies with and without DNS servers."""
    edition = make_edition(
        tmp_path_factory.mktemp("edition"),
        {
            "none": "allow: []\n",
            "near": "dns: {servers: [127.0.0.1]}\n",
            "far": "dns: {servers: [192.0.2.53]}\n",
        },
        owned("/agentwall-test"),
    )
    return {name: edition.initial(name).policy for name in ("none", "near", "far")}


def test_a_process_tells_where_the_sandbox_is(surroundings, cgroup):
    """In the host's network namespace, with its cookie; or in one of its own."""
    with sleeping(cgroup):
        here = surroundings.place_of(member_at(cgroup))
    command = in_cgroup(cgroup, "unshare", "-n", "/bin/sh", "-c", "echo in; exec sleep 60")
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        there = surroundings.place_of(member_at(cgroup))
        process.kill()

    assert here == Place(own_netns=False, netns_cookie=netns_cookie())
    assert there.own_netns
    assert there.netns_cookie not in (0, here.netns_cookie)


def test_without_a_process_nothing_is_known(surroundings, cgroup):
    """An empty cgroup, a process that has gone, a cgroup that has: never an error."""
    empty = surroundings.place_of(member_at(cgroup))
    gone = surroundings.place_of(member_at(cgroup, pid=NOBODY))
    with temp_cgroup() as brief:
        member = member_at(brief)
    vanished = surroundings.place_of(member)

    assert empty == vanished == UNKNOWN_PLACE
    assert (gone.own_netns, gone.netns_cookie) == (False, 0)


def test_a_scope_is_where_the_host_is(surroundings, cgroup):
    """Whoever is born there has not gone elsewhere yet."""
    found = surroundings.place_of(member_at(cgroup, admission=Admission.SCOPE))

    assert found == Place(own_netns=False, netns_cookie=netns_cookie())


def test_coverage_of_nobody_is_not_full(surroundings, cgroup, policies):
    """What could not be looked at does not count as closed."""
    with temp_cgroup() as brief:
        vanished = member_at(brief)
    for member in (member_at(cgroup), member_at(cgroup, pid=NOBODY), vanished):
        found = surroundings.coverage_of(member, policies["none"], ())
        assert found.level is CoverageLevel.PARTIAL
        assert any("no process that could be looked at" in str(road) for road in found.roads)


def test_what_is_missing_is_a_road(surroundings, cgroup, policies):
    """A hook that this kernel lacks, a resolver on loopback, a socket from elsewhere."""
    with sleeping(cgroup) as pid:
        member = member_at(cgroup, pid=pid)
        plain = surroundings.coverage_of(member, policies["far"], ())
        found = surroundings.coverage_of(
            member, policies["near"], ("aw_bind4",), ("tcp to 192.0.2.1",)
        )
    roads = " ".join(map(str, found.roads))

    assert found.level is CoverageLevel.PARTIAL
    for told in ("aw_bind4", "127.0.0.1", "tcp to 192.0.2.1"):
        assert told in roads
        assert told not in " ".join(map(str, plain.roads))


@pytest.mark.parametrize("name", ["none", "near", "far"])
def test_servers_elsewhere_do_not_answer_through_lo(surroundings, cgroup, policies, name):
    """Nor does loopback itself count: that is what the answer is about."""
    with sleeping(cgroup) as pid:
        inside = surroundings.answers_through_lo(member_at(cgroup, pid=pid), policies[name])
    gone = surroundings.answers_through_lo(member_at(cgroup, pid=NOBODY), policies[name])
    nobody = surroundings.answers_through_lo(member_at(cgroup), policies[name])

    assert (inside, gone, nobody) == (False, False, False)


def test_the_time_without_a_policy_counts_from_the_oldest_process(surroundings, cgroup):
    """For whom nobody asked before it began; who was asked for, or has nobody, was watched."""
    empty = surroundings.unwatched_ms(member_at(cgroup))
    with sleeping(cgroup) as pid:
        time.sleep(0.3)
        with sleeping(cgroup):
            found = surroundings.unwatched_ms(member_at(cgroup, pid=pid))
        hooked = surroundings.unwatched_ms(member_at(cgroup, admission=Admission.HOOK))
        scope = surroundings.unwatched_ms(member_at(cgroup, admission=Admission.SCOPE))
    with temp_cgroup() as brief:
        member = member_at(brief)

    assert 250 <= found < 60_000
    assert (empty, hooked, scope, surroundings.unwatched_ms(member)) == (0, 0, 0, 0)


def test_a_process_may_have_any_name(surroundings, cgroup):
    """Brackets and digits in it do not move the fields of its stat."""
    script = "import sys,time; open('/proc/self/comm','w').write(') 1 2 3 ('); print('in'); "
    script += "sys.stdout.flush(); time.sleep(60)"
    command = in_cgroup(cgroup, "/usr/bin/python3", "-I", "-S", "-c", script)
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        found = surroundings.unwatched_ms(member_at(cgroup))
        process.kill()

    assert 0 <= found < 60_000


def test_processes_that_vanish_meanwhile(surroundings, cgroup, policies):
    """Looking at a sandbox whose processes come and go all the time is no error."""
    with subprocess.Popen(
        in_cgroup(cgroup, "/bin/sh", "-c", "while :; do /bin/true; done")
    ) as churn:
        try:
            for _ in range(50):
                member = member_at(cgroup)
                assert surroundings.place_of(member).netns_cookie in (0, netns_cookie())
                assert surroundings.unwatched_ms(member) >= 0
                surroundings.coverage_of(member, policies["none"], ())
        finally:
            churn.kill()
