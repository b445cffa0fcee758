# SPDX-License-Identifier: Apache-2.0
"""Rule tables and settings become map entries; what does not fit is refused and leaves nothing."""

import errno
import sys
from dataclasses import replace
from ipaddress import ip_address

import pytest

from agentwall.errors import KernelError, SourceLocation
from agentwall.kernel import abi
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.maps import (
    MAX_GENERATION,
    RuleMaps,
    pack_intervals,
    pack_rules,
)
from agentwall.kernel.names import NAME_KEY
from agentwall.net.domain import name_key
from agentwall.net.endpoint import key_bytes
from agentwall.policy.model import (
    Inspect,
    NameTerms,
    Rule,
    Section,
)
from agentwall.policy.tables import Interval, NameEntry, RuleTables, TableEntry

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


def many(prefixes: int, intervals: int = 1) -> RuleTables:
    """Tables of that size: addresses of 10.0.0.0/8, each with the same set."""
    ports = tuple(Interval(n, n, 0, allow=True) for n in range(intervals))
    entries = tuple(
        TableEntry(key_bytes(ip_address(0x0A000000 + n)), 128, 0) for n in range(prefixes)
    )
    return RuleTables(rules=(), outbound=entries, inbound=(), interval_sets=(ports,), protocols=())


@pytest.fixture
def made():
    """The rule maps, with room for 10 prefixes and 6 intervals, and what writes them."""
    maps = rule_maps(10, 6, 4)
    yield maps[0], maps[1], RuleMaps(*maps)
    for bpf_map in maps:
        bpf_map.close()


def rule_maps(prefixes: int, intervals: int, names: int) -> tuple[BpfMap, BpfMap, BpfMap]:
    """The maps of rules, intervals and names, with that much room."""
    trie, array = MapType.LPM_TRIE, MapType.ARRAY
    shapes = (
        MapShape(name="rules", type=trie, key_size=24, value_size=8, max_entries=prefixes),
        MapShape(name="intervals", type=array, key_size=4, value_size=16, max_entries=intervals),
        MapShape(name="names", type=trie, key_size=260, value_size=32, max_entries=names),
    )
    first, second, third = (
        BpfMap.create(shape, flags=1 if shape.type is trie else 0) for shape in shapes
    )
    return first, second, third


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


def test_closed_blocks():
    """Only the entry that says so is closed to names, not others with the same set."""
    closed = replace(PREFIX, address=bytes(16), closed=True)
    tables = replace(TABLES, outbound=(PREFIX, closed), inbound=())
    _, values = pack_rules(3, tables, 100)
    sets = (abi.IntervalSet * 2).from_buffer_copy(values)

    assert [s.count for s in sets] == [
        2 | abi.SET_PERMITS,
        2 | abi.SET_PERMITS | abi.SET_CLOSED,
    ]
    assert sets[1].count & abi.SET_COUNT == 2


WHERE = SourceLocation("p.yaml", 1, 1)


@pytest.mark.parametrize(
    ("changes", "terms"),
    [
        ({}, 0),
        ({"section": Section.RESOLVER}, abi.TERM_RESOLVER),
        ({"is_proxy": True}, abi.TERM_PROXY),
        ({"terms": NameTerms(sni_optional=True)}, abi.TERM_SNI_OPTIONAL),
        ({"inspect": Inspect.WIRE}, abi.TERM_UNREAD),
        ({"inspect": Inspect.NONE, "is_proxy": True}, abi.TERM_UNREAD | abi.TERM_PROXY),
        (
            {"terms": NameTerms(ech_outer=True, quic=True), "is_proxy": True},
            abi.TERM_ECH_OUTER | abi.TERM_QUIC | abi.TERM_PROXY,
        ),
    ],
)
def test_terms(changes, terms):
    """An interval that allows carries the terms of its rule; one that denies has none."""
    rule = Rule(policy="p", section=Section.ALLOW, index=0, ports=(), where=WHERE)
    sets = ((Interval(1, 1, 0, allow=True), Interval(2, 2, 0, allow=False)),)
    tables = replace(TABLES, rules=(replace(rule, **changes),), interval_sets=sets)
    found = (abi.Interval * 2).from_buffer_copy(pack_intervals(tables))

    assert [i.verdict for i in found] == [abi.Verdict.ALLOW | terms, abi.Verdict.DENY]


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
def test_room_rests_first(made):
    """A program that still holds where a generation was does not find the next one there."""
    _, intervals, writer = made
    writer.apply(1, TABLES)
    total = sum(map(len, TABLES.interval_sets))
    before = [intervals.lookup(number.to_bytes(4, sys.byteorder)) for number in range(total)]
    writer.forget(1)
    writer.apply(2, replace(TABLES, interval_sets=((Interval(7, 7, 0, allow=True),),) * 3))
    after = [intervals.lookup(number.to_bytes(4, sys.byteorder)) for number in range(total)]

    assert after == before


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
    rules, intervals, names = rule_maps(size, 4, 4)
    writer, tables = RuleMaps(rules, intervals, names), many(size)
    writer.apply(1, tables)
    keys, values = pack_rules(1, tables, 0)
    last = rules.lookup(keys[-24:])
    writer.forget(1)

    assert last == values[-8:]
    assert next(rules.keys(), None) is None
    for bpf_map in (rules, intervals, names):
        bpf_map.close()


@pytest.mark.kernel
def test_many_names():
    """Twenty thousand names are written, found again and removed."""
    size = 20_000
    rules, intervals, names = rule_maps(4, 4, size)
    writer = RuleMaps(rules, intervals, names)
    writer.apply(1, named(*(f"host{n}.example.com" for n in range(size))))
    slot = writer.names_slot(1)
    found = names.lookup(name_key_of(slot << 1, f"host{size - 1}.example.com"))
    writer.forget(1)

    assert found == names_value(1, len(f"host{size - 1}.example.com."))
    assert next(names.keys(), None) is None
    for bpf_map in (rules, intervals, names):
        bpf_map.close()


@pytest.mark.kernel
def test_names_of_generations():
    """Each generation has its own part of the name table, and a failure leaves nothing of it."""
    maps = rule_maps(10, 6, 3)
    names, writer = maps[2], RuleMaps(*maps)
    writer.apply(1, named("a.example", "b.example"))
    writer.apply(2, named("a.example"))
    writer.apply(3, TABLES)
    slots = [writer.names_slot(generation) for generation in (1, 2, 3)]
    with pytest.raises(KernelError, match="the policy needs 1 names, and 0 are free") as caught:
        writer.apply(4, named("c.example"))
    writer.forget(1)
    left = [abi.NameKey.from_buffer_copy(key).table for key, _ in names.entries()]

    assert slots == [1, 2, 0]
    assert caught.value.errno == errno.ENOSPC
    assert left == [2 << 1]
    assert not writer.holds(4)


@pytest.mark.kernel
def test_names_that_the_kernel_refuses():
    """A generation whose rules are refused after its names were written leaves neither."""
    maps = rule_maps(10, 6, 3)
    writer = RuleMaps(*maps)
    bad = replace(named("a.example"), outbound=(TableEntry(bytes(16), 129, 0),))

    with pytest.raises(KernelError, match="map rules: update"):
        writer.apply(1, bad)

    assert maps[2].entries() == []
    writer.apply(1, named("a.example"))
    assert writer.names_slot(1) == 2


def named(*names: str) -> RuleTables:
    """Tables that permit one port of each of these names."""
    return RuleTables(
        rules=(),
        outbound=(),
        inbound=(),
        interval_sets=((), (Interval(SPLIT, SPLIT, 0, allow=True),)),
        names=tuple(NameEntry(name=name, exact=1, label=0, below=0) for name in names),
        protocols=(),
    )


def name_key_of(table: int, name: str) -> bytes:
    text = name_key(name)
    return NAME_KEY.pack(16 + 8 * len(text), table, text)


def names_value(count: int, length: int) -> bytes:
    exact = abi.IntervalSet(0, count | abi.SET_PERMITS)
    return bytes(exact) + bytes(16) + length.to_bytes(2, sys.byteorder) + bytes(6)
