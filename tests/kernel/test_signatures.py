# SPDX-License-Identifier: Apache-2.0
"""What lies in the kernel's signature maps is the automaton; what is in force never changes."""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig import inspection as small

from agentwall.detect.judging import Masks, group_bits
from agentwall.detect.packed import PackedTable
from agentwall.detect.packing import pack_table
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, Transport
from agentwall.errors import KernelError
from agentwall.host.signature_files import automaton_of, read_signatures
from agentwall.kernel import abi, abi_scan
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.signatures import Inspection, SignatureMaps, last_generation, pack_inspection

pytestmark = pytest.mark.kernel

BPF_F_MMAPABLE = 1 << 10
SIZE = ctypes.sizeof(abi_scan.Signatures)
TABLES = MapShape(
    name="tables",
    type=MapType.ARRAY,
    key_size=4,
    value_size=SIZE,
    max_entries=abi_scan.SIGNATURE_TABLES,
)
EXCEPTS = MapShape(name="excepts", type=MapType.HASH, key_size=8, value_size=8, max_entries=4)
EXCEPT = struct.Struct("=II")


class Maps:
    """Real maps, and what lies in them."""

    def __init__(self) -> None:
        self.tables = BpfMap.create(TABLES, flags=BPF_F_MMAPABLE)
        self.excepts = BpfMap.create(EXCEPTS)
        self.signatures = SignatureMaps(self.tables, self.excepts)

    def table(self, slot: int) -> abi_scan.Signatures:
        """Read one table by lookup, as the programs see it."""
        raw = self.tables.lookup(struct.pack("=I", slot))
        assert raw is not None
        return abi_scan.Signatures.from_buffer_copy(raw)

    def excepted(self) -> dict[tuple[int, ...], int]:
        return {
            EXCEPT.unpack(key): int.from_bytes(value, "little")
            for key, value in self.excepts.entries()
        }

    def close(self) -> None:
        self.tables.close()
        self.excepts.close()


@pytest.fixture
def maps() -> Iterator[Maps]:
    made = Maps()
    yield made
    made.close()


@pytest.fixture(scope="module")
def written() -> Iterator[abi_scan.Signatures]:
    """The small set's table as it lies in a map."""
    made = Maps()
    yield made.table(made.signatures.write(small_table()))
    made.close()


def walk(table: abi_scan.Signatures, start: int, data: bytes) -> tuple[list[tuple[int, int]], int]:
    """Read *data* as ``aw_step()`` does: (accept, end) of each new accept, and the last state."""
    state, found = start, {}
    for end, byte in enumerate(data, 1):
        cell = table.base[state] + table.classes[table.group_of[state]][byte]
        state = table.next[cell]
        if state == 0:
            break
        if state >= table.first_accepting:
            found.setdefault(int(table.accept_of[state]), end)
    return list(found.items()), state


def small_table() -> PackedTable:
    return pack_table(small.automaton(), small.signatures())


WORDS = [
    *(small.SUBSCRIBE, small.NOTIFY, small.BANNER, small.HELLO, small.ECHO, small.WEAK),
    *(small.UPGRADE, b"{", b'"', b"\n", b"SSH-2.0", b'"method": "mining.', b"\x00"),
]
DATA = st.lists(st.sampled_from(WORDS) | st.binary(max_size=40), max_size=5).map(b"".join)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(DATA, st.sampled_from(list(Transport)), st.sampled_from(list(Side)))
def test_a_walk_through_the_map(written, data, transport, side):
    """Steps through the map's bytes find what the automaton finds, at the same byte."""
    index = abi_scan.Transport[transport.name] << 1 | abi_scan.Side[side.name]
    found, state = walk(written, written.starts[index], data)
    hits = scan(small.automaton(), transport, side, data)

    assert found == [(hit.accept, hit.end) for hit in hits]
    assert written.end_of[state] == small.automaton().end_of[state]


def test_the_shipped_set(maps):
    """The shipped signatures fit; every state and byte leads where the automaton says."""
    signatures = read_signatures()
    automaton = automaton_of(signatures)
    table = maps.table(maps.signatures.write(pack_table(automaton, signatures)))
    states = automaton.states
    base = np.frombuffer(table.base, np.uint32)[:states]
    classes = np.frombuffer(table.classes, np.uint8).reshape(abi_scan.GROUPS, 256)
    group_of = np.frombuffer(table.group_of, np.uint8)[:states]
    after = np.frombuffer(table.next, np.uint16)
    steps = after[base[:, None] + classes[group_of]]

    assert np.array_equal(steps, automaton.next[:, np.frombuffer(automaton.classes, np.uint8)])
    assert table.first_accepting == automaton.first_accepting
    assert np.array_equal(np.frombuffer(table.accept_of, np.uint16)[:states], automaton.accept_of)
    assert np.array_equal(np.frombuffer(table.end_of, np.uint16)[:states], automaton.end_of)


def test_accepts(written):
    """A set of signatures becomes the bits of its groups; those that may block are certain."""
    bits = group_bits(small.signatures())
    by_id = {each.id: each for each in small.signatures().signatures}
    found = {}
    for index, matched in enumerate(small.automaton().accepts):
        ids = [small.signatures().signatures[number].id for number in matched]
        if len(ids) == 1:
            found[ids[0]] = (written.accepts[index].groups, written.accepts[index].certain)

    assert (written.accepts[0].groups, written.accepts[0].certain) == (0, 0)
    assert set(found) == set(by_id)
    subscribe = 1 << bits["mining/test-stratum"]
    assert found["mining/subscribe"] == found["mining/notify"] == (subscribe, subscribe)
    assert found["tunnel/weak"] == (1 << bits["tunnel/test-socks"], 0)
    assert found["mining/upgrade"] == (abi_scan.GROUP_HAND_OVER, 0)


def test_two_slots_alternate(maps):
    """A new table goes beside the one in force, which stays as it is, byte by byte."""
    first = maps.signatures.write(small_table())
    before = bytes(maps.table(first))
    second = maps.signatures.write(small_table())
    third = maps.signatures.write(small_table())

    assert first != second
    assert first == third
    assert {first, second} == set(range(abi_scan.SIGNATURE_TABLES))
    assert maps.signatures.generation == 3
    assert maps.table(second).generation == 2
    assert maps.table(first).generation == 3
    # Only the number tells the third from the first.
    assert bytes(maps.table(first))[4:] == before[4:]


def test_a_smaller_set_after_a_larger_one(maps):
    """What an older table left in a slot is not reached from the new one's states."""
    large = read_signatures()
    packed = pack_table(automaton_of(large), large)
    slot = maps.signatures.write(packed)
    maps.signatures.write(packed)
    assert maps.signatures.write(small_table()) == slot
    table = maps.table(slot)
    start = table.starts[abi_scan.Transport.TCP << 1 | abi_scan.Side.CLIENT]

    found, _ = walk(table, start, small.SUBSCRIBE)
    assert [small.automaton().accepts[accept] for accept, _ in found] == [
        small.automaton().accepts[hit.accept]
        for hit in scan(small.automaton(), Transport.TCP, Side.CLIENT, small.SUBSCRIBE)
    ]


def test_excepts(maps):
    """Exceptions stand under generation and rule until their generation is forgotten."""
    maps.signatures.apply_excepts(1, {0: 0b11, 7: 1 << 62})
    maps.signatures.apply_excepts(2, {7: 0b100})

    assert maps.excepted() == {(1, 0): 0b11, (1, 7): 1 << 62, (2, 7): 0b100}
    maps.signatures.forget(1)
    assert maps.excepted() == {(2, 7): 0b100}
    maps.signatures.forget(1)
    maps.signatures.forget(2)
    assert maps.excepted() == {}


def test_no_room_for_excepts(maps):
    """More exceptions than the map holds is an error; what was written can be forgotten."""
    with pytest.raises(KernelError):
        maps.signatures.apply_excepts(1, dict.fromkeys(range(EXCEPTS.max_entries + 1), 1))
    maps.signatures.forget(1)

    assert maps.excepted() == {}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        (
            {"states": abi_scan.STATES},
            "signature table: expected at most 65535 states, got 65536",
        ),
        (
            {"accepts": ((),) * (abi_scan.ACCEPTS + 1)},
            "signature table: expected at most 2048 accepts, got 2049",
        ),
        (
            {"next": bytes(2 * (abi_scan.CELLS + 1))},
            "signature table: expected at most 1048576 cells, got 1048577",
        ),
        (
            {"classes": bytes(256 * (abi_scan.GROUPS + 1))},
            "signature table: expected at most 256 groups, got 257",
        ),
    ],
    ids=["states", "accepts", "cells", "groups"],
)
def test_no_room(maps, changes, problem):
    """A table that is too large is refused before a byte of the map is touched."""
    table = replace(small_table(), **changes)

    with pytest.raises(KernelError, match=problem):
        maps.signatures.write(table)
    assert bytes(maps.table(0)) == bytes(maps.table(1)) == bytes(SIZE)
    assert maps.signatures.generation == 0


def test_numbers_go_on(maps):
    """The highest number in a map can be read, and a successor's tables are numbered beyond it."""
    before = last_generation(maps.tables)
    maps.signatures.write(small_table())
    maps.signatures.write(small_table())
    last = last_generation(maps.tables)
    following = SignatureMaps(maps.tables, maps.excepts, last=last)
    following.write(small_table())

    assert (before, last, following.generation) == (0, 2, 3)


def test_a_map_that_cannot_be_mapped():
    """A map that user space may not map is an error that names it."""
    tables = BpfMap.create(TABLES)
    try:
        with pytest.raises(KernelError, match="map tables: mapping it"):
            SignatureMaps(tables, tables).write(small_table())
    finally:
        tables.close()


def test_the_map_is_whole_pages():
    """All tables together are mapped; the kernel rounds the map up to whole pages."""
    made = Maps()
    try:
        whole = -(-SIZE * abi_scan.SIGNATURE_TABLES // mmap.PAGESIZE) * mmap.PAGESIZE
        with mmap.mmap(made.tables.fd, whole) as memory:
            memory[0:4] = b"\x05\0\0\0"
        assert made.table(0).generation == 5
    finally:
        made.close()


def test_what_a_sandbox_gets():
    """Masks without the bit of handing over, the depth, and the slot counted from one."""
    every = (1 << 64) - 1
    masks = Masks(blocks=every, alerts=every, excepts={})
    inspection = Inspection(slot=1, masks=masks, depth_bytes=4096)

    assert pack_inspection(None) == (0, 0, 0, 0, abi.Plain.OFF)
    assert pack_inspection(inspection) == ((1 << 63) - 1, (1 << 63) - 1, 4096, 2, abi.Plain.ALL)
