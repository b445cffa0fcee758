# SPDX-License-Identifier: Apache-2.0
"""Rule tables: the evaluator and a look-up in the compiled tables agree on everything."""

from __future__ import annotations

import itertools
from dataclasses import replace
from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.errors import SourceLocation
from agentwall.flow.verdict import Direction, Mode, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, key_bytes
from agentwall.net.ports import ANY, EVERYTHING, PortRange, parse_ports
from agentwall.net.prefix import ipv4_inside
from agentwall.net.reserved import ALL_BLOCKS
from agentwall.policy.compile import compile_policy, find, find_entry
from agentwall.policy.evaluate import evaluate
from agentwall.policy.model import (
    DnsSettings,
    Inspect,
    Loopback,
    LoopbackScope,
    OnError,
    Policy,
    Rule,
    RulePrefix,
    Section,
)
from agentwall.policy.resolver import resolver_rule

HERE = SourceLocation("random.yaml", 1, 1)
PUBLIC = ("8.8.8.8", "203.0.113.7", "2001:db8::7", "2600:1f18::99", "::", "::1:0:0", "::2")
POOL = tuple(ip_address(text) for text in PUBLIC) + tuple(b.network_address for b in ALL_BLOCKS)
EMBEDDED = ("::ffff:10.1.2.3", "64:ff9b::808:808", "2002:a9fe:a9fe::1", "0.0.0.0", "::")
ENTRIES = ("443", "80-443", "400-8000", "tcp/*", "udp/53", "udp/50-60", "icmp", "ip/132", "ip/47")


def _policy(servers=(), **sections) -> Policy:
    found = tuple(RulePrefix(ip_network(text), HERE) for text in servers)
    rules = {name: sections.get(name, ()) for name in ("allow", "deny", "inbound")}
    return Policy(
        name="random",
        mode=Mode.ENFORCE,
        on_error=OnError.FAIL_CLOSED,
        refuse_with="EPERM",
        loopback=Loopback.DENY,
        dns=DnsSettings(servers=found, where=HERE) if servers else None,
        tests=(),
        files=("random.yaml",),
        digest="",
        **rules,
    )


def _rule(section: Section, index: int, networks, ports) -> Rule:
    return Rule(
        policy="random",
        section=section,
        index=index,
        prefixes=tuple(RulePrefix(ip_network(network), HERE) for network in networks),
        ports=tuple(ports),
        where=HERE,
    )


# Made once: making a strategy takes longer than drawing from it.
_ADDRESSES = st.sampled_from(POOL)
_BESIDE = st.integers(-1, 1)
_LENGTHS = {
    width: st.one_of(
        st.integers(0, width), st.sampled_from((0, 7, 8, 9, 10, 16, width - 2, width - 1, width))
    )
    for width in (32, 128)
}


@st.composite
def _networks(draw):
    # An address near a block's edge, cut to a length near the block's: prefixes that nest.
    address = draw(_ADDRESSES)
    width = address.max_prefixlen
    number = max(0, min(2**width - 1, int(address) + draw(_BESIDE)))
    network = ip_network((number, draw(_LENGTHS[width])), strict=False)
    # The loader refuses these: it wants the IPv4 prefix.
    if network.version == 6 and (inside := ipv4_inside(network)):
        return inside
    return network


_LISTS_OF_PORTS = st.lists(st.sampled_from(ENTRIES), min_size=1, max_size=4)
_LISTS_OF_NETWORKS = st.lists(_networks(), min_size=1, max_size=4)


@st.composite
def _rules(draw, section: Section, most: int):
    found = []
    for index in range(draw(st.integers(0, most))):
        entries = draw(_LISTS_OF_PORTS)
        ports = tuple(r for entry in entries for r in parse_ports(entry))
        wide = EVERYTHING if section is Section.DENY else ANY
        ports = draw(st.sampled_from((ports, ports, ports, wide)))
        networks = draw(_LISTS_OF_NETWORKS)
        found.append(_rule(section, index, networks, ports))
    return tuple(found)


SERVERS = ("8.8.8.8", "10.0.0.1", "169.254.169.254", "127.0.0.53", "2001:db8::7")
POLICIES = st.builds(
    lambda servers, **rules: _policy(servers, **rules),
    st.lists(st.sampled_from(SERVERS), max_size=2, unique=True),
    allow=_rules(Section.ALLOW, 6),
    deny=_rules(Section.DENY, 3),
    inbound=_rules(Section.INBOUND, 3),
)


_SELDOM = st.integers(0, 5)
_ANYWHERE = st.builds(
    Endpoint,
    st.sampled_from((*EMBEDDED, *map(str, POOL))).map(ip_address),
    st.integers(0, 65535),
    st.sampled_from((1, 6, 17, 99)),
)


@st.composite
def _flows(draw, policy: Policy):
    resolver = resolver_rule(policy)
    rules = (*policy.allow, *policy.deny, *policy.inbound, *((resolver,) if resolver else ()))
    if not rules or draw(_SELDOM) == 0:
        return draw(_ANYWHERE)
    rule = draw(st.sampled_from(rules))
    network = draw(st.sampled_from(rule.prefixes)).network
    edges = (int(network[0]), int(network[-1]), (int(network[0]) + int(network[-1])) // 2)
    number = draw(st.sampled_from(edges)) + draw(_BESIDE)
    number = max(0, min(2**network.max_prefixlen - 1, number))
    around = draw(st.sampled_from(rule.ports))
    place = draw(st.sampled_from((around.first, around.last))) + draw(_BESIDE)
    place = max(0, min(0xFFFFFF, place))
    return Endpoint(type(network[0])(number), place & 0xFFFF, place >> 16)


def _agree(policy: Policy, tables, direction: Direction, remote: Endpoint) -> None:
    decision = evaluate(
        policy,
        direction=direction,
        remote=remote,
        local_port=remote.port,
        loopback=LoopbackScope.CLOSED,
    )
    found = find(tables, direction, remote, remote.port)
    if decision.code is ReasonCode.LOOPBACK:
        return  # never looked up: loopback is not inbound
    if found is None:
        assert (decision.verdict, decision.code) == (Verdict.DENY, ReasonCode.NO_RULE)
    else:
        rule = tables.rules[found.rule]
        is_resolver = rule.section is Section.RESOLVER
        assert decision.rule == rule
        assert decision.code is (ReasonCode.RESOLVER if is_resolver else ReasonCode.RULE)
        assert decision.verdict is (Verdict.ALLOW if found.allow else Verdict.DENY)


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_agrees_with_evaluator(data):
    """For random policies, and flows at the edges of their rules, both name the same rule."""
    policy = data.draw(POLICIES)
    tables = compile_policy(policy)
    for remote in data.draw(st.lists(_flows(policy), min_size=8, max_size=8)):
        for direction in Direction:
            _agree(policy, tables, direction, remote)


@settings(max_examples=100, deadline=None)
@given(POLICIES)
def test_shape(policy):
    """Tables keep every promise of agentwall/policy/tables.py."""
    tables = compile_policy(policy)

    resolver = resolver_rule(policy)
    between = (resolver,) if resolver else ()
    assert tables.rules == policy.deny + between + policy.allow + policy.inbound
    assert tables.interval_sets[0] == ()
    assert len(set(tables.interval_sets)) == len(tables.interval_sets)
    for entries in (tables.outbound, tables.inbound):
        keys = [(entry.address, entry.prefix_length) for entry in entries]
        assert keys == sorted(set(keys))
        assert (bytes(16), 0) in keys
        assert (key_bytes(ip_address("0.0.0.0")), 96) in keys
        for address, length in keys:
            assert int.from_bytes(address, "big") & ((1 << 128 - length) - 1) == 0
    for intervals in tables.interval_sets:
        for one, other in itertools.pairwise(intervals):
            assert one.last < other.first
            assert one.last + 1 < other.first or one.rule != other.rule
    assert compile_policy(policy) == tables


@settings(max_examples=100, deadline=None)
@given(POLICIES)
def test_no_entry_is_needless(policy):
    """An entry says something else than the one it is carved out of."""
    tables = compile_policy(policy)
    for entries in (tables.outbound, tables.inbound):
        for at, entry in enumerate(entries):
            if (entry.prefix_length, entry.address[:12]) in ((0, bytes(12)), (96, V4)):
                continue
            above = next(
                e for e in reversed(entries[:at]) if _holds(e, entry.address, entry.prefix_length)
            )

            assert (above.interval_set, above.closed) != (entry.interval_set, entry.closed)


V4 = key_bytes(ip_address("0.0.0.0"))[:12]


def _holds(entry, address: bytes, length: int) -> bool:
    shift = 128 - entry.prefix_length
    one, other = (int.from_bytes(raw, "big") >> shift for raw in (entry.address, address))
    return entry.prefix_length < length and one == other


def test_empty_policy():
    """A policy without rules is two roots that match nothing."""
    tables = compile_policy(_policy())

    assert [entry.prefix_length for entry in tables.outbound] == [0, 96]
    assert {entry.interval_set for entry in tables.outbound + tables.inbound} == {0}
    assert tables.protocols == ()


def test_v6_says_nothing_about_v4():
    """::/0 does not speak for IPv4, whose addresses lie below it in the tables."""
    tables = compile_policy(_policy(allow=(_rule(Section.ALLOW, 0, ["::/0"], ANY),)))

    assert find(tables, Direction.OUT, Endpoint(ip_address("2600::1"), 443, 6), 443)
    assert not find(tables, Direction.OUT, Endpoint(ip_address("8.8.8.8"), 443, 6), 443)


def test_wide_allow_stops_at_blocks_but_deny_does_not():
    """What any allows ends at a reserved block; what it denies goes on inside."""
    everywhere = ["0.0.0.0/0", "::/0"]
    remote = Endpoint(ip_address("10.0.0.1"), 443, 6)
    allow = compile_policy(_policy(allow=(_rule(Section.ALLOW, 0, everywhere, ANY),)))
    deny = compile_policy(_policy(deny=(_rule(Section.DENY, 0, everywhere, EVERYTHING),)))

    assert find(allow, Direction.OUT, remote, 443) is None
    assert find(deny, Direction.OUT, remote, 443).allow is False


@pytest.mark.parametrize(
    ("wide", "narrow"),
    [
        ("8.8.8.0/24", "8.8.8.255"),
        ("8.8.8.0/24", "8.8.8.0"),
        ("8.8.8.0/31", "8.8.8.1"),
        ("0.0.0.0/0", "255.255.255.255"),
        ("::/0", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ("2600::/127", "2600::1"),
    ],
)
def test_nesting_at_the_edge(wide, narrow):
    """A prefix at the very end of a wider one still says what the wider one says."""
    deny = _rule(Section.DENY, 0, [wide], parse_ports("22"))
    other = _rule(Section.DENY, 1, [narrow], parse_ports("443"))
    tables = compile_policy(_policy(deny=(deny, other)))
    remote = Endpoint(ip_address(narrow), 22, 6)

    assert find(tables, Direction.OUT, remote, 22).rule == 0
    assert find(tables, Direction.OUT, remote, 443).rule == 1


@pytest.mark.parametrize("section", [Section.ALLOW, Section.INBOUND])
def test_rules_that_differ_in_what_is_read_stay_apart(section):
    """Rules with one prefix and ports that meet or overlap are not made one: each says its own."""
    rules = tuple(
        replace(_rule(section, number, ["8.8.8.8/32"], parse_ports(ports)), inspect=inspect)
        for number, (ports, inspect) in enumerate(
            (("100-199", Inspect.NONE), ("150-299", Inspect.ALL), ("300-399", Inspect.WIRE))
        )
    )
    tables = compile_policy(_policy(**{section.value: rules}))
    direction = Direction.OUT if section is Section.ALLOW else Direction.IN
    entry = find_entry(tables, direction, Endpoint(ip_address("8.8.8.8"), 0, 6))
    intervals = tables.interval_sets[entry.interval_set]

    assert [
        (i.first & 0xFFFF, i.last & 0xFFFF, tables.rules[i.rule].inspect) for i in intervals
    ] == [(100, 199, Inspect.NONE), (200, 299, Inspect.ALL), (300, 399, Inspect.WIRE)]


def test_overlapping_and_adjacent_ports_of_one_rule():
    """The ranges of one rule become as few intervals as possible."""
    ports = (PortRange(0x60001, 0x60005), PortRange(0x60003, 0x60004), PortRange(0x60006, 0x60009))
    rule = _rule(Section.ALLOW, 0, ["8.8.8.8"], ports)
    (intervals,) = [s for s in compile_policy(_policy(allow=(rule,))).interval_sets if s]

    assert [(i.first, i.last, i.rule) for i in intervals] == [(0x60001, 0x60009, 0)]


def test_interval_sets_are_shared():
    """Ten thousand prefixes of one rule need one interval set."""
    networks = [f"20.{n >> 8}.{n & 255}.0/24" for n in range(0, 20_000, 2)]
    tables = compile_policy(_policy(allow=(_rule(Section.ALLOW, 0, networks, parse_ports("443")),)))

    assert len(tables.interval_sets) == 2
    assert len(tables.outbound) == 10_002


@pytest.mark.parametrize(
    ("section", "entries", "expected"),
    [
        ("allow", ("443", "udp/53", "ip/6"), ()),
        ("allow", ("icmp",), (1, 58)),
        ("allow", ("ip/132", "ip/47", "any"), (1, 47, 58, 132)),
        ("inbound", ("ip/132",), (132,)),
        ("deny", ("ip/132",), ()),
    ],
)
def test_protocols(section, entries, expected):
    """Protocols beyond TCP and UDP are those that sockets in the sandbox may be made for."""
    ports = tuple(r for entry in entries for r in parse_ports(entry))
    rule = _rule(Section(section), 0, ["8.8.8.8"], ports)

    assert compile_policy(_policy(**{section: (rule,)})).protocols == expected


def _closed(address, **sections) -> bool:
    tables = compile_policy(_policy(["10.0.0.53"], **sections))
    return find_entry(tables, Direction.OUT, Endpoint(ip_address(address), 443, 6)).closed


@pytest.mark.parametrize(
    ("address", "closed"),
    [
        ("8.8.8.8", False),
        ("2600::1", False),
        ("10.0.0.1", True),
        ("10.0.0.53", True),  # a DNS server is not what a name stands for
        ("10.9.9.9", True),  # nor is a proxy
        ("127.0.0.1", True),
        ("fd00::1", True),
        ("172.16.1.1", False),
        ("172.17.1.1", True),
        ("172.32.1.1", False),
        ("100.64.0.1", False),
        ("100.100.100.200", True),  # a metadata service inside what an allow opens
        ("169.254.169.254", False),  # opened itself
        ("169.254.1.1", True),
        ("192.168.1.1", True),  # a deny opens nothing
    ],
)
def test_closed_blocks(address, closed):
    """A reserved block is closed to names but for what an allow rule on addresses opens there."""
    ports = parse_ports("22")
    proxy = replace(_rule(Section.ALLOW, 3, ["10.9.9.9"], ports), is_proxy=True)
    allow = (
        _rule(Section.ALLOW, 0, ["0.0.0.0/0", "::/0"], ANY),
        _rule(Section.ALLOW, 1, ["172.16.0.0/16", "100.64.0.0/10"], ports),
        _rule(Section.ALLOW, 2, ["169.254.169.254"], ports),
        proxy,
    )
    deny = (_rule(Section.DENY, 0, ["192.168.0.0/16"], ports),)

    assert _closed(address, allow=allow, deny=deny) is closed


def test_entries_for_blocks_only_where_names_are_learned():
    """A closed block takes an entry, unless what surrounds it is as closed."""
    outermost = [
        block
        for block in ALL_BLOCKS
        if not any(
            block != b and block.version == b.version and block.subnet_of(b) for b in ALL_BLOCKS
        )
    ]
    roots_and_server = 3

    assert len(compile_policy(_policy()).outbound) == 2
    entries = compile_policy(_policy(["8.8.8.8"])).outbound
    assert len(entries) == len(outermost) + roots_and_server


def test_a_changed_table_is_noticed():
    """The agreement above can fail: with two rules swapped it does."""
    policy = _policy(
        allow=(_rule(Section.ALLOW, 0, ["8.8.8.8"], parse_ports("443")),),
        deny=(_rule(Section.DENY, 0, ["8.8.8.9"], EVERYTHING),),
    )
    tables = compile_policy(policy)
    wrong = replace(tables, rules=tables.rules[::-1])

    with pytest.raises(AssertionError):
        _agree(policy, wrong, Direction.OUT, Endpoint(ip_address("8.8.8.8"), 443, 6))
