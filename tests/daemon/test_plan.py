# SPDX-License-Identifier: Apache-2.0
"""What follows from a request before anything is made."""

from __future__ import annotations

import errno
import ipaddress
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rig.namespace import temp_netns

from agentwall.daemon import plan
from agentwall.daemon.plan import (
    describe_coverage,
    judge_coverage,
    new_run_id,
    plan_enclosure,
    plan_launch,
    policy_in_force,
)
from agentwall.errors import HostError, PolicyError, SourceLocation
from agentwall.flow.verdict import Mode
from agentwall.host.coverage import Coverage, CoverageLevel, OpenRoad
from agentwall.host.descriptors import Inherited
from agentwall.host.netns import netns_cookie
from agentwall.policy.compile import compile_policy
from agentwall.policy.model import DnsSettings, RulePrefix


def test_run_id():
    """Ids differ, sort by time and fit the names of pins, cgroups and files."""
    # Of one second, fifty would be alike once in some thousand times.
    made = [new_run_id() for _ in range(5)]

    assert len(set(made)) == 5
    assert all(re.fullmatch(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{6}", each) for each in made)


@pytest.mark.parametrize(("asked", "expected"), [(None, Mode.AUDIT), (Mode.ENFORCE, Mode.ENFORCE)])
def test_mode(make_request, asked, expected):
    """A mode that is asked for replaces the policy's."""
    request = make_request(policy="version: 1\nmode: audit\n", mode=asked)

    assert policy_in_force(request).mode is expected


@pytest.mark.parametrize(("asked", "expected"), [(None, Mode.AUDIT), (Mode.ENFORCE, Mode.ENFORCE)])
def test_phase(make_request, asked, expected):
    """The policy is in its first phase, whose mode counts before its own."""
    text = "version: 1\nphases: {a: {mode: audit, deny: [{cidr: 1.1.1.1}]}, b: {}}\n"
    policy = policy_in_force(make_request(policy=text, mode=asked))

    assert (policy.phase, policy.mode) == ("a", expected)
    assert [rule.id for rule in policy.deny] == ["train:phases.a.deny[0]"]


@pytest.mark.kernel
def test_enclosure(make_request):
    """The settings are the policy's, and record, cgroup and pins carry the run's id."""
    policy = "version: 1\nname: x\nrefuse_with: ECONNREFUSED\nallow: [{cidr: any, ports: [icmp]}]\n"

    blueprint = plan_enclosure("some-id", make_request(policy=policy), Path("/e"))

    assert blueprint.settings.refuse_errno == errno.ECONNREFUSED
    assert blueprint.settings.protocols == (1, 58)
    assert blueprint.place.path.endswith("/agentwall-some-id")
    assert blueprint.record.cgroup == blueprint.place.path
    assert blueprint.record.pin_dir.endswith("/some-id")
    assert blueprint.key != 0


@pytest.mark.parametrize(
    ("text", "degrade"),
    [("", False), ("on_error: fail-closed", False), ("on_error: degrade", True)],
)
@pytest.mark.kernel
def test_on_error(make_request, text, degrade):
    """Only a policy that says so is content with fewer hooks."""
    request = make_request(policy=f"version: 1\n{text}\n")

    assert plan_enclosure("some-id", request, Path("/e")).degrade is degrade


@pytest.mark.parametrize(
    ("mode", "kept", "families"),
    [
        (Mode.ENFORCE, (), {1, 2, 10, 16}),
        (Mode.ENFORCE, ("NET_RAW",), {1, 2, 10, 16, 17}),
        (Mode.ENFORCE, ("NET_ADMIN",), {1, 2, 10, 16}),
        (Mode.AUDIT, (), None),
        (Mode.OBSERVE, (), None),
    ],
)
def test_families(make_request, mode, kept, families):
    """Socket families are closed in enforce mode only, for there alone something is refused."""
    launch = plan_launch(make_request(mode=mode, kept_capabilities=kept), ())

    assert launch.families == families


@pytest.mark.parametrize("uid", [0, 1000])
def test_launch(make_request, tmp_path, uid):
    """What agentwall writes is guarded, its directories are hidden; uid 0 gets no kernel knob."""
    request = make_request()
    identity = replace(request.identity, uid=uid, environment={"HOME": "/there"})
    events = tmp_path / "e.jsonl"
    events.touch()

    launch = plan_launch(replace(request, identity=identity), (events, Path("/dev/null")))

    assert launch.confinement.guards_kernel is (uid == 0)
    assert events.resolve() in launch.confinement.read_only
    assert Path("/dev/null") not in launch.confinement.read_only
    assert Path("/run/agentwall") in launch.confinement.hidden
    assert launch.environment["HOME"] == "/there"


def test_coverage_required(make_request):
    """Open roads are named in one line, and are an error where full coverage is required."""
    request = make_request(
        kept_capabilities=("NET_RAW",), inherited=(Inherited(5, "inet socket", True),)
    )
    coverage = judge_coverage(request)

    assert coverage.level is CoverageLevel.PARTIAL
    assert "hooks not in force: aw_x" in describe_coverage(judge_coverage(request, ["aw_x"]))
    assert "descriptors kept: 5 (inet socket)" in describe_coverage(coverage)
    with pytest.raises(HostError, match=r"expected full, got partial; open roads: .*NET_RAW"):
        judge_coverage(replace(request, requires_full=True))


SERVERS = ("127.0.0.53/32", "10.20.0.2/32", "::1/128")


def with_servers(request, *servers):
    """Return *request* with a policy that declares these DNS servers."""
    where = SourceLocation("p.yaml", 1, 1)
    prefixes = tuple(RulePrefix(ipaddress.ip_network(each), where) for each in servers)
    dns = DnsSettings(servers=prefixes, search=("a.example",), where=where)
    return replace(request, policy=replace(request.policy, dns=dns))


def test_resolv_conf(make_request):
    """A policy with DNS servers gives the command a resolv.conf of its own; others leave it."""
    request = make_request()

    [(path, text)] = plan_launch(with_servers(request, *SERVERS), ()).confinement.files.items()

    assert plan_launch(request, ()).confinement.files == {}
    assert str(path) == "/etc/resolv.conf"
    assert "nameserver 127.0.0.53\nnameserver 10.20.0.2\nnameserver ::1\n" in text
    assert "search a.example\n" in text


def test_forged_answers(make_request):
    """NET_RAW and a DNS server on loopback make names an open road; others are not named."""
    request = with_servers(make_request(kept_capabilities=("NET_RAW",)), *SERVERS)

    said = describe_coverage(judge_coverage(request))

    assert "names: could forge answers of a DNS server on loopback: 127.0.0.53, ::1" in said


@pytest.mark.parametrize("mode", [Mode.ENFORCE, Mode.OBSERVE])
def test_deputies_are_left_out(make_request, mode):
    """In every mode, and without any rule on names, nscd and D-Bus are not in /run."""
    [run, _] = plan_launch(make_request(mode=mode), ()).confinement.veils

    assert run.directory == Path("/run")
    assert {("nscd",), ("dbus",), ("user", "0", "bus")} <= run.absent


def test_kept_socket(make_request):
    """A socket that is kept stays, and coverage names it; one that is not masked is an error."""
    request = make_request(kept_sockets=("/run/dbus/system_bus_socket",))

    assert ("dbus",) not in plan_launch(request, ()).confinement.veils[0].absent
    assert "sockets kept: /run/dbus/system_bus_socket (D-Bus)" in describe_coverage(
        judge_coverage(request)
    )
    with pytest.raises(HostError, match=r"/run/other: expected one that is masked"):
        judge_coverage(make_request(kept_sockets=("/run/other",)))


@pytest.mark.parametrize(
    ("coverage", "words"),
    [
        (Coverage(CoverageLevel.FULL, ()), "full"),
        (
            Coverage(CoverageLevel.PARTIAL, (OpenRoad("a", "b"), OpenRoad("c", ""))),
            "partial; open roads: a: b; c",
        ),
    ],
)
def test_describe(coverage, words):
    """Coverage reads as one line."""
    assert describe_coverage(coverage) == words


@pytest.mark.kernel
def test_settings_of_dns(make_request):
    """DNS servers bind the sandbox to this network namespace; without them it is bound to none."""
    request = with_servers(make_request(), "10.20.0.2/32")

    settings = plan_enclosure("some-id", request, Path("/e")).settings
    without = plan_enclosure("some-id", make_request(), Path("/e")).settings

    assert settings.dns == request.policy.dns
    assert settings.netns_cookie == netns_cookie()
    assert (settings.has_names, settings.answers_through_lo) == (False, False)
    assert (without.dns, without.netns_cookie) == (None, 0)


NAMES = """
version: 1
dns: {servers: [10.20.0.2]}
allow: [{host: hub.example.com}]
"""


@pytest.mark.kernel
def test_names(make_request):
    """A policy with rules on names says so."""
    request = make_request(policy=NAMES)

    assert plan_enclosure("some-id", request, Path("/e")).settings.has_names


@pytest.mark.kernel
@pytest.mark.parametrize(("own", "through_lo"), [(False, True), (True, False)])
def test_server_of_this_host(make_request, monkeypatch, own, through_lo):
    """A server that is this host answers through lo, unless the command may own its address."""
    monkeypatch.setattr(plan, "has_own_netns", lambda: own)
    request = with_servers(make_request(), "192.0.2.53/32")
    with temp_netns("dns") as namespace:
        namespace.ip("address", "add", "192.0.2.53/32", "dev", "lo")
        made = namespace.call(
            lambda: plan._settings(request.policy, compile_policy(request.policy))
        )

    assert made.answers_through_lo is through_lo


@pytest.mark.kernel
def test_signatures(make_request, tmp_path):
    """What is looked for is the policy's, in the signatures of this host and those named."""
    more = tmp_path / "more.yaml"
    more.write_text("version: 1\nsignatures: [{id: x}]\n")
    policy = "version: 1\ndetect: {depth_bytes: 8192}\n"

    search = plan_enclosure("some-id", make_request(policy=policy), Path("/e")).search

    assert search.depth_bytes == 8192
    assert search.signatures.signatures
    with pytest.raises(PolicyError, match=r"more\.yaml:2"):
        plan_enclosure("some-id", make_request(signatures=(str(more),)), Path("/e"))
