# SPDX-License-Identifier: Apache-2.0
"""Names and search lists become entries of aw_names; slots are used in turn."""

import ctypes

import pytest

from agentwall.kernel import abi
from agentwall.kernel.names import (
    MAX_SLOT,
    NAME_KEY,
    NAME_RULES,
    SlotAllocator,
    count_names,
    pack_names,
)
from agentwall.policy.tables import NameEntry, RuleTables

SETS = [bytes(abi.IntervalSet(10 * n, n)) for n in range(4)]


def tables(*names: NameEntry, search: tuple[str, ...] = ()) -> RuleTables:
    return RuleTables(
        rules=(),
        outbound=(),
        inbound=(),
        interval_sets=(),
        names=names,
        search=search,
        protocols=(),
    )


def packed(slot: int, made: RuleTables) -> list[tuple[abi.NameKey, abi.NameRules]]:
    keys, values = pack_names(slot, made, SETS)
    count = count_names(made)
    return list(
        zip(
            (abi.NameKey * count).from_buffer_copy(keys),
            (abi.NameRules * count).from_buffer_copy(values),
            strict=True,
        )
    )


def text_of(key: abi.NameKey) -> bytes:
    return bytes(key.text).rstrip(b"\0")


@pytest.mark.parametrize(
    ("format_", "mirror"), [(NAME_KEY, abi.NameKey), (NAME_RULES, abi.NameRules)]
)
def test_formats(format_, mirror):
    """Each format is as long as the struct it stands for."""
    assert format_.size == ctypes.sizeof(mirror)


def test_name():
    """A name is reversed, its length counts its bits, and each depth has its set."""
    entry = NameEntry(name="hub.example.com", exact=1, label=2, below=3, asks=(False, True, True))
    [(key, rules)] = packed(5, tables(entry))

    assert (key.prefixlen, key.table) == (16 + 8 * 16, 5 << 1)
    assert text_of(key) == b"moc.elpmaxe.buh."
    assert [(s.start, s.count) for s in rules.sets] == [(10, 1), (20, 2), (30, 3)]
    assert (rules.length, rules.wider) == (16, 0)
    assert rules.asks == 1 << abi.NameDepth.LABEL | 1 << abi.NameDepth.BELOW


def test_longest_name():
    """The longest name there can be fills the field to its last byte."""
    name = ".".join(["a" * 63] * 3 + ["b" * 61])
    [(key, rules)] = packed(1, tables(NameEntry(name=name, exact=0, label=0, below=0)))

    assert len(name) == 253
    assert (rules.length, key.prefixlen) == (254, 16 + 8 * 254)
    assert bytes(key.text)[-1:] == b"."


def test_search_list():
    """Suffixes stand in a table of their own; each names the longest other that ends it."""
    search = ("corp.example.com", "example.com", "com", "ample.com")
    found = packed(MAX_SLOT, tables(search=search))

    assert {key.table for key, _ in found} == {0xFFFF}
    assert [text_of(key) for key, _ in found] == [
        b"moc.elpmaxe.proc.",
        b"moc.elpmaxe.",
        b"moc.",
        b"moc.elpma.",
    ]
    assert [(rules.length, rules.wider) for _, rules in found] == [
        (17, 12),
        (12, 4),
        (4, 0),
        (10, 4),
    ]
    assert all(s.count == 0 for _, rules in found for s in rules.sets)


def test_slots():
    """A slot that was given back is the last to be used again; 0 is never given out."""
    slots = SlotAllocator()
    first, second = slots.allocate(), slots.allocate()
    slots.release(first)
    third = slots.allocate()

    assert (first, second, third) == (1, 2, 3)


def test_every_slot():
    """There are as many slots as the field has room for, and then none until one comes back."""
    slots = SlotAllocator()
    taken = [slots.allocate() for _ in range(MAX_SLOT)]
    none = slots.allocate()
    slots.release(777)

    assert sorted(taken) == list(range(1, MAX_SLOT + 1))
    assert none is None
    assert slots.allocate() == 777
