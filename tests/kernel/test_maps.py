# SPDX-License-Identifier: Apache-2.0
"""Rule tables and settings become map entries; what does not fit is refused and leaves nothing."""

import ctypes
import errno
from ipaddress import ip_address

import pytest

from agentwall.errors import KernelError
from agentwall.flow.verdict import Mode
from agentwall.kernel import abi
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.maps import (
    MAX_GENERATION,
    RuleMaps,
    SandboxSettings,
    pack_intervals,
    pack_rules,
    pack_settings,
)
from agentwall.net.endpoint import key_bytes
from agentwall.policy.model import LoopbackScope
from agentwall.policy.tables import Interval, RuleTables, TableEntry

SPLIT = 1 << 16 | 443
ALLOW_AND_DENY = (Interval(0, SPLIT - 1, 3, allow=False), Interval(SPLIT, SPLIT, 4, allow=True))
DENY = (Interval(5, 6, 2, allow=False),)
PREFIX = TableEntry(key_bytes(ip_address("192.0.2.0")), 120, 1)
OTHER = TableEntry(bytes(16), 0, 2)
TABLES = RuleTables(
    rules=(),
    outbound=(OTHER, PREFIX),
    inbound=(TableEntry(bytes(16), 0, 0),),
    interval_sets=((), ALLOW_AND_DENY, DENY),
    protocols=(),
)
SETTINGS = {
    "generation": 9,
    "mode": Mode.AUDIT,
    "loopback": LoopbackScope.OWN_LISTENERS,
    "refuse_errno": errno.ECONNREFUSED,
    "protocols": (1, 58),
}


def many(prefixes: int, intervals: int = 1) -> RuleTables:
    """Tables of that size: addresses of 10.0.0.0/8, each with the same set."""
    ports = tuple(Interval(n, n, 0, allow=True) for n in range(intervals))
    entries = tuple(
        TableEntry(key_bytes(ip_address(0x0A000000 + n)), 128, 0) for n in range(prefixes)
    )
    return RuleTables(rules=(), outbound=entries, inbound=(), interval_sets=(ports,), protocols=())


@pytest.fixture
def made():
    """The two rule maps, with room for 10 prefixes and 6 intervals, and what writes them."""
    shapes = (
        MapShape(name="rules", type=MapType.LPM_TRIE, key_size=24, value_size=8, max_entries=10),
        MapShape(name="intervals", type=MapType.ARRAY, key_size=4, value_size=16, max_entries=6),
    )
    rules, intervals = (
        BpfMap.create(shape, flags=1 if shape.type is MapType.LPM_TRIE else 0) for shape in shapes
    )
    yield rules, intervals, RuleMaps(rules, intervals)
    rules.close()
    intervals.close()


def test_intervals():
    """Intervals are written set after set, with the verdict's number."""
    raw = pack_intervals(TABLES)
    found = (abi.Interval * 3).from_buffer_copy(raw)

    assert [(i.first, i.last, i.rule, i.verdict) for i in found] == [
        (0, SPLIT - 1, 3, abi.Verdict.DENY),
        (SPLIT, SPLIT, 4, abi.Verdict.ALLOW),
        (5, 6, 2, abi.Verdict.DENY),
    ]


def test_rules():
    """A prefix points at its slice, and only a set that allows something says that it permits."""
    keys, values = pack_rules(3, TABLES, 100)
    found = (abi.RuleKey * 3).from_buffer_copy(keys)
    sets = (abi.IntervalSet * 3).from_buffer_copy(values)

    assert [(k.prefixlen, k.table, bytes(k.address)) for k in found] == [
        (32, 3 << 1 | abi.Direction.OUT, OTHER.address),
        (152, 3 << 1 | abi.Direction.OUT, PREFIX.address),
        (32, 3 << 1 | abi.Direction.IN, bytes(16)),
    ]
    assert [(s.start, s.count) for s in sets] == [
        (102, 1),
        (100, 2 | abi.SET_PERMITS),
        (100, 0),
    ]


def test_settings():
    """Settings become the struct that the programs read."""
    raw = pack_settings(SandboxSettings(**SETTINGS))
    found = abi.Sandbox.from_buffer_copy(raw)

    assert len(raw) == ctypes.sizeof(abi.Sandbox)
    assert (found.generation, found.refuse_errno) == (9, errno.ECONNREFUSED)
    assert (found.mode, found.loopback) == (abi.Mode.AUDIT, abi.Loopback.OWN_LISTENERS)
    assert bytes(found.protocols) == bytes([1, 58, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"protocols": tuple(range(100, 109))}, "expected at most 8 beside tcp and udp, got 9"),
        ({"refuse_errno": 4096}, "refuse_errno: expected 0-4095, got 4096"),
        ({"refuse_errno": -1}, "refuse_errno: expected 0-4095, got -1"),
    ],
)
def test_settings_that_do_not_fit(changes, message):
    """Settings that the struct cannot hold are refused, never cut."""
    with pytest.raises(KernelError, match=message):
        pack_settings(SandboxSettings(**(SETTINGS | changes)))


@pytest.mark.parametrize("mode", Mode)
@pytest.mark.parametrize("scope", LoopbackScope)
def test_every_setting(mode, scope):
    """Every mode and loopback scope has its number."""
    raw = pack_settings(SandboxSettings(**(SETTINGS | {"mode": mode, "loopback": scope})))
    found = abi.Sandbox.from_buffer_copy(raw)

    assert (found.mode, found.loopback) == (abi.Mode[mode.name], abi.Loopback[scope.name])


@pytest.mark.kernel
def test_generations_side_by_side(made):
    """Generations do not share entries, and forgetting one leaves the other as it was."""
    rules, intervals, writer = made
    writer.apply(1, TABLES)
    writer.apply(2, TABLES)
    both = dict(rules.entries())
    writer.forget(1)
    left = dict(rules.entries())
    starts = {abi.IntervalSet.from_buffer_copy(v).start for v in left.values()}

    assert (len(both), len(left)) == (6, 3)
    assert starts == {3, 5}
    assert intervals.lookup(bytes(abi.Interval(5))[:4]) == pack_intervals(TABLES)[32:]
    assert (writer.holds(1), writer.holds(2)) == (False, True)


@pytest.mark.kernel
def test_room_comes_back(made):
    """As often as a generation is replaced, its room is used again."""
    rules, _, writer = made
    for generation in range(1, 100):
        writer.apply(generation, TABLES)
        writer.forget(generation - 1)

    assert len(rules.entries()) == 3


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("tables", "message"),
    [
        (many(8), "the policy needs 8 prefixes, and 7 are free"),
        (many(1, 4), "the policy needs 4 intervals, and 3 are free"),
    ],
)
def test_no_room(made, tables, message):
    """A policy that does not fit is refused with the numbers, and nothing of it is written."""
    rules, _, writer = made
    writer.apply(1, TABLES)

    with pytest.raises(KernelError, match=message) as caught:
        writer.apply(2, tables)

    assert caught.value.errno == errno.ENOSPC
    assert not writer.holds(2)
    assert len(rules.entries()) == 3


@pytest.mark.kernel
def test_failure_on_the_way(made):
    """A generation that the kernel refuses half way leaves nothing behind."""
    rules, _, writer = made
    good = TableEntry(bytes(16), 128, 0)
    bad = TableEntry(bytes(16), 129, 0)
    tables = RuleTables(
        rules=(), outbound=(good, bad), inbound=(), interval_sets=((),), protocols=()
    )

    with pytest.raises(KernelError, match="map rules: update"):
        writer.apply(1, tables)

    assert rules.entries() == []
    assert not writer.holds(1)


@pytest.mark.kernel
@pytest.mark.parametrize(
    ("generation", "message"),
    [
        (0, f"generation: expected 1-{MAX_GENERATION}, got 0"),
        (MAX_GENERATION + 1, "generation: expected 1-"),
        (5, "generation 5: already in use"),
    ],
)
def test_generation_numbers(made, generation, message):
    """Generation 0 means no verdict, and none is used twice."""
    writer = made[2]
    writer.apply(5, TABLES)

    with pytest.raises(KernelError, match=message):
        writer.apply(generation, TABLES)


@pytest.mark.kernel
def test_largest_generation(made):
    """The largest generation's table number still fits its field."""
    rules, _, writer = made
    writer.apply(MAX_GENERATION, TABLES)
    tables = {abi.RuleKey.from_buffer_copy(key).table for key, _ in rules.entries()}

    assert tables == {0xFFFFFFFE, 0xFFFFFFFF}


@pytest.mark.kernel
def test_many_prefixes():
    """Twenty thousand prefixes are written, found again and removed."""
    size = 20_000
    rules = BpfMap.create(
        MapShape(name="r", type=MapType.LPM_TRIE, key_size=24, value_size=8, max_entries=size),
        flags=1,
    )
    intervals = BpfMap.create(
        MapShape(name="i", type=MapType.ARRAY, key_size=4, value_size=16, max_entries=4)
    )
    writer, tables = RuleMaps(rules, intervals), many(size)
    writer.apply(1, tables)
    keys, values = pack_rules(1, tables, 0)
    last = rules.lookup(keys[-24:])
    writer.forget(1)

    assert last == values[-8:]
    assert next(rules.keys(), None) is None
    rules.close()
    intervals.close()
