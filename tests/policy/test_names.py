# SPDX-License-Identifier: Apache-2.0
"""The name table: a look-up in it and the evaluator agree on everything."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.errors import SourceLocation
from agentwall.flow.verdict import Direction, Mode, ReasonCode, Verdict
from agentwall.net.domain import NameDepth, NamePattern, name_key, parse_pattern
from agentwall.net.endpoint import Endpoint
from agentwall.net.ports import EVERYTHING, parse_ports, selector
from agentwall.policy.compile import compile_policy, find, find_entry
from agentwall.policy.evaluate import evaluate
from agentwall.policy.model import (
    AskScope,
    DnsSettings,
    Loopback,
    LoopbackScope,
    OnError,
    Policy,
    Rule,
    RulePattern,
    RulePrefix,
    Section,
)
from agentwall.policy.names import find_name, may_ask
from agentwall.policy.question import judge_question

HERE = SourceLocation("random.yaml", 1, 1)
PORTS = ("443", "22", "80-443", "udp/443", "udp/53", "tcp/*", "icmp", "ip/132")
NETWORKS = (
    *("0.0.0.0/0", "::/0", "203.0.113.0/24", "203.0.113.7/32", "10.0.0.0/8", "10.0.0.5/32"),
    *("169.254.0.0/16", "169.254.169.254/32", "127.0.0.0/8", "fc00::/7", "fd00:ec2::254/128"),
    *("8.0.0.0/5", "100.64.0.0/10"),
)
ADDRESSES = tuple(
    ip_address(text)
    for text in (
        *("203.0.113.7", "8.8.8.8", "10.0.0.5", "10.0.0.6", "169.254.169.254", "169.254.1.1"),
        *("127.0.0.1", "fd00:ec2::254", "fd00::1", "2600::1", "100.100.100.200", "0.0.0.0"),
    )
)


def rule(section: Section, index: int, ports, *, hosts=(), networks=(), is_proxy=False) -> Rule:
    """Return a rule on *hosts* or on *networks*."""
    return Rule(
        policy="random",
        section=section,
        index=index,
        prefixes=tuple(RulePrefix(ip_network(network), HERE) for network in networks),
        patterns=tuple(RulePattern(host, HERE) for host in hosts),
        ports=tuple(ports),
        where=HERE,
        is_proxy=is_proxy,
    )


def policy_of(*, allow=(), deny=(), search=(), names=AskScope.ALLOWED_ONLY, servers=("10.0.0.53",)):
    """Return a policy of such rules; one without ``dns`` for no *servers*."""
    dns = DnsSettings(
        servers=tuple(RulePrefix(ip_network(text), HERE) for text in servers),
        search=tuple(search),
        names=names,
        where=HERE,
    )
    return Policy(
        name="random",
        mode=Mode.ENFORCE,
        on_error=OnError.FAIL_CLOSED,
        refuse_with="EPERM",
        loopback=Loopback.DENY,
        allow=tuple(allow),
        deny=tuple(deny),
        inbound=(),
        dns=dns if servers else None,
        tests=(),
        files=("random.yaml",),
        digest="",
    )


# Few labels, so that names stand above, below and beside one another.
LABELS = st.sampled_from(("a", "b", "aa"))
NAMES = st.lists(LABELS, min_size=1, max_size=5).map(".".join)
PATTERNS = st.builds(NamePattern, NAMES, st.sampled_from(NameDepth))


@st.composite
def _rules(draw, section: Section, most: int):
    found = []
    for index in range(draw(st.integers(0, most))):
        entries = draw(st.lists(st.sampled_from(PORTS), min_size=1, max_size=3))
        ports = tuple(r for entry in entries for r in parse_ports(entry))
        if section is Section.DENY and draw(st.booleans()):
            ports = EVERYTHING
        if draw(st.integers(0, 2)):
            hosts = draw(st.lists(PATTERNS, min_size=1, max_size=4))
            found.append(rule(section, index, ports, hosts=hosts))
        else:
            networks = draw(st.lists(st.sampled_from(NETWORKS), min_size=1, max_size=2))
            is_proxy = section is Section.ALLOW and draw(st.booleans())
            found.append(rule(section, index, ports, networks=networks, is_proxy=is_proxy))
    return tuple(found)


POLICIES = st.builds(
    policy_of,
    allow=_rules(Section.ALLOW, 6),
    deny=_rules(Section.DENY, 3),
    search=st.lists(NAMES, max_size=4, unique=True).map(tuple),
    names=st.sampled_from(AskScope),
    servers=st.sampled_from((("10.0.0.53",), ("8.8.8.8", "169.254.169.254"), ("127.0.0.1",))),
)
REMOTES = st.builds(
    lambda address, place: Endpoint(address, place[1], place[0]),
    st.sampled_from(ADDRESSES),
    st.sampled_from(((6, 443), (6, 22), (6, 53), (17, 53), (17, 443), (1, 0), (132, 0), (6, 81))),
)


def looked_up(tables, remote: Endpoint, names) -> tuple[Verdict, ReasonCode, Rule | None]:
    """Judge a flow by look-ups in *tables* alone, as the kernel does."""
    place = selector(remote.protocol, remote.port)
    by_address = find(tables, Direction.OUT, remote, remote.port)
    closed = find_entry(tables, Direction.OUT, remote).closed
    by_name = [
        interval
        for name in names
        for interval in find_name(tables, name).intervals
        if interval.first <= place <= interval.last
    ]
    found = [interval for interval in (by_address, *by_name) if interval]
    denies = [interval for interval in found if not interval.allow]
    allows = [] if closed else by_name
    if by_address and by_address.allow:
        allows = [by_address]
    decisive = min(denies or allows, key=lambda interval: interval.rule, default=None)
    if decisive is None:
        return Verdict.DENY, ReasonCode.NO_RULE, None
    chosen = tables.rules[decisive.rule]
    code = ReasonCode.RESOLVER if chosen.section is Section.RESOLVER else ReasonCode.RULE
    return Verdict.ALLOW if decisive.allow else Verdict.DENY, code, chosen


def _agree(policy, tables, remote, names) -> None:
    decision = evaluate(
        policy,
        direction=Direction.OUT,
        remote=remote,
        loopback=LoopbackScope.CLOSED,
        names=names,
    )

    assert (decision.verdict, decision.code, decision.rule) == looked_up(tables, remote, names)
    if decision.name is not None:
        assert decision.name in names
        assert decision.pattern.pattern.matches(decision.name)


@settings(max_examples=400, deadline=None)
@given(POLICIES, st.lists(st.tuples(REMOTES, st.lists(NAMES, max_size=3)), min_size=8, max_size=8))
def test_agrees_with_evaluator(policy, flows):
    """For random policies, addresses and names learned, both name the same rule."""
    tables = compile_policy(policy)
    for remote, names in flows:
        _agree(policy, tables, remote, names)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_questions_agree_with_evaluator(data):
    """For random policies and search lists, both say whether a name may be asked for."""
    policy = data.draw(POLICIES)
    tables = compile_policy(policy)
    suffixes = st.sampled_from(policy.dns.search or ("a",))
    under = st.builds("{}.{}".format, NAMES, suffixes)
    for name in data.draw(st.lists(st.one_of(NAMES, under), min_size=12, max_size=12)):
        allowed = judge_question(policy, name).verdict is Verdict.ALLOW

        assert may_ask(tables, name, ask_any=policy.dns.names is AskScope.ANY) is allowed


@settings(max_examples=200, deadline=None)
@given(POLICIES)
def test_shape(policy):
    """Tables keep every promise of agentwall/policy/tables.py."""
    tables = compile_policy(policy)
    names = [entry.name for entry in tables.names]
    patterns = {p.pattern.name for r in (*policy.deny, *policy.allow) for p in r.patterns}

    assert names == sorted(set(names), key=name_key)
    assert patterns <= set(names)
    assert len(set(tables.interval_sets)) == len(tables.interval_sets)
    assert tables.search == policy.dns.search
    assert tables.rules[len(policy.deny)].section is Section.RESOLVER
    for entry in tables.names:
        for found, asks in zip((entry.exact, entry.label, entry.below), entry.asks, strict=True):
            intervals = tables.interval_sets[found]
            assert not asks or not intervals or any(interval.allow for interval in intervals)


def _simple(*hosts: str, search=(), deny=()):
    allow = [
        rule(Section.ALLOW, 0, parse_ports("443"), hosts=[parse_pattern(text) for text in hosts])
    ]
    refused = [rule(Section.DENY, 0, EVERYTHING, hosts=[parse_pattern(text) for text in deny])]
    return compile_policy(policy_of(allow=allow, deny=refused if deny else (), search=search))


@pytest.mark.parametrize(
    ("host", "permitted", "not_permitted"),
    [
        ("x.example", ["x.example"], ["example", "a.x.example", "ax.example", "x.example.y"]),
        ("*.x.example", ["a.x.example"], ["x.example", "b.a.x.example", "x.example.a"]),
        ("**.x.example", ["a.x.example", "c.b.a.x.example"], ["x.example", "ax.example"]),
    ],
)
def test_patterns(host, permitted, not_permitted):
    """x is the name alone, *.x one label below it, **.x any number; the apex is never implied."""
    tables = _simple(host)

    assert all(find_name(tables, name).intervals for name in permitted)
    assert not any(find_name(tables, name).intervals for name in not_permitted)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("a.x.example", True),
        ("bad.x.example", False),
        ("a.bad.x.example", True),
        ("worse.x.example", True),
        ("a.worse.x.example", False),
        ("b.a.worse.x.example", False),
    ],
)
def test_deny_inside_a_wildcard(name, allowed):
    """A denied name is cut out of what a wildcard allows, and no more than that."""
    tables = _simple("**.x.example", deny=("bad.x.example", "**.worse.x.example"))

    assert all(interval.allow is allowed for interval in find_name(tables, name).intervals)
    assert may_ask(tables, name, ask_any=True) is allowed


def _entry(tables, name):
    return next((entry for entry in tables.names if entry.name == name), None)


@pytest.mark.parametrize(
    ("host", "name", "asks"),
    [
        ("db.s1.example", "db.s2.example", (True, False, False)),
        ("*.s1.example", "s2.example", (False, True, False)),
        ("**.s1.example", "s2.example", (False, True, True)),
        ("*.db.s1.example", "db.s2.example", (False, True, False)),
        ("**.example", "s2.example", (False, True, True)),
        ("s1.example", "s2.example", None),
        ("*.example", "s2.example", None),
    ],
)
def test_search_list_of_a_permitted_name(host, name, asks):
    """What is permitted under one suffix may be asked for under the others."""
    found = _entry(_simple(host, search=("s1.example", "s2.example")), name)

    assert (found and found.asks) == asks
    if found:
        assert found.exact == 0 or host == "**.example"


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("x.s2.example", True),
        ("y.s2.example", True),
        ("a.x.s2.example", True),  # permitted itself
        ("b.a.x.s2.example", False),
        ("b.y.s2.example", False),
    ],
)
def test_search_list_goes_on_in_longer_entries(name, allowed):
    """An entry of a pattern has inherited what the search list says of names above it."""
    tables = _simple("*.s1.example", "*.x.s2.example", search=("s1.example", "s2.example"))

    assert may_ask(tables, name, ask_any=False) is allowed


def test_search_list_needs_no_entry_that_says_nothing_new():
    """Where a wildcard's search list covers a name, the name needs no entry for it."""
    tables = _simple("**.s1.example", "db.s1.example", search=("s1.example", "s2.example"))

    assert {entry.name for entry in tables.names} == {"s1.example", "s2.example", "db.s1.example"}


def test_search_list_makes_no_name_that_cannot_be():
    """A name too long under another suffix is not asked for."""
    short = ".".join(["x" * 60] * 4)
    tables = _simple(f"{short}.s1", search=("s1", "long.suffix.example"))

    assert [entry.name for entry in tables.names] == [f"{short}.s1"]


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("hub.example.svc.cluster", True),
        ("hub.example.cluster", True),
        ("hub.example", True),
        ("x.hub.example.svc.cluster", False),
        ("svc.cluster", False),
        ("cluster", False),
        ("hub.example.svc.cluster.svc.cluster", False),
    ],
)
def test_suffix_after_a_permitted_name(name, allowed):
    """A permitted name and one suffix of the search list may be asked for, nested ones too."""
    tables = _simple("hub.example", search=("svc.cluster", "cluster"))

    assert may_ask(tables, name, ask_any=False) is allowed
    assert bool(find_name(tables, name).intervals) is (name == "hub.example")


def test_one_rule_with_many_names_needs_one_set():
    """Ten thousand names of one rule share their interval sets."""
    tables = _simple(*(f"host{n}.example{n % 7}.com" for n in range(10_000)))

    assert len(tables.names) == 10_000
    assert len(tables.interval_sets) == 3


def test_name_in_many_rules():
    """A name that many rules list has the ports of all of them."""
    allow = [
        rule(Section.ALLOW, n, parse_ports(str(2 * n + 1)), hosts=[parse_pattern("x.example")])
        for n in range(300)
    ]
    tables = compile_policy(policy_of(allow=allow))

    assert [i.rule for i in find_name(tables, "x.example").intervals] == list(range(1, 301))


def test_a_changed_table_is_noticed():
    """The agreement above can fail: with the depths of an entry swapped it does."""
    allow = [rule(Section.ALLOW, 0, parse_ports("443"), hosts=[parse_pattern("x.example")])]
    policy = policy_of(allow=allow)
    tables = compile_policy(policy)
    (entry,) = tables.names
    wrong = replace(tables, names=(replace(entry, exact=entry.label, label=entry.exact),))
    remote = Endpoint(ip_address("203.0.113.7"), 443, 6)
    _agree(policy, tables, remote, ["x.example"])

    with pytest.raises(AssertionError):
        _agree(policy, wrong, remote, ["x.example"])
