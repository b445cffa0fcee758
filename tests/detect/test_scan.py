# SPDX-License-Identifier: Apache-2.0
"""Many streams at once give what each gives on its own, and what is found is said once."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rig.patterns import patterns, signature, texts

from agentwall.detect import scan as scanning
from agentwall.detect.dfa import compile_automaton
from agentwall.detect.scan import Hit, scan, scan_many
from agentwall.detect.signature import Side, Transport

TCP_CLIENT = (Transport.TCP, Side.CLIENT)
UDP_CLIENT = (Transport.UDP, Side.CLIENT)


def test_hits():
    """Each set of signatures is said once, where it is first found, in order."""
    automaton = compile_automaton([signature("ab", "one"), signature("b", "two")])

    hits = scan(automaton, *TCP_CLIENT, b"xbxabbab")

    assert [(automaton.accepts[hit.accept], hit.end) for hit in hits] == [((1,), 2), ((0, 1), 5)]


@pytest.mark.parametrize(("whole", "ends"), [(True, [2]), (False, [])])
def test_end_of_datagram(whole, ends):
    """What matches where a datagram ends is found only in a whole one."""
    automaton = compile_automaton([signature("^ab$", transport=Transport.UDP)])

    assert [hit.end for hit in scan(automaton, *UDP_CLIENT, b"ab", whole=whole)] == ends
    assert scan(automaton, *UDP_CLIENT, b"abc", whole=whole) == []
    assert scan(automaton, *UDP_CLIENT, b"", whole=whole) == []


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_many_are_as_one(data):
    """Random streams, stepped together in windows of random sizes, give what each gives alone."""
    known = data.draw(st.lists(patterns(ends=True), min_size=1, max_size=3))
    automaton = compile_automaton(
        [signature(each.text, f"s{i}", transport=Transport.UDP) for i, each in enumerate(known)]
    )
    streams = data.draw(st.lists(texts(known), max_size=12))
    whole = data.draw(st.booleans())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scanning, "_FEW", data.draw(st.sampled_from((0, 3))))
        patch.setattr(scanning, "_TOGETHER", data.draw(st.sampled_from((1, 5, 100))))
        patch.setattr(scanning, "_FIRST_STEPS", data.draw(st.sampled_from((1, 4, 16))))
        patch.setattr(scanning, "_MOST_STEPS", data.draw(st.sampled_from((4, 100))))
        patch.setattr(scanning, "_WINDOW_BYTES", data.draw(st.sampled_from((1, 30, 1000))))
        together = scan_many(automaton, *UDP_CLIENT, streams, whole=whole)

    assert together == [scan(automaton, *UDP_CLIENT, each, whole=whole) for each in streams]


def test_long_streams():
    """Streams of many lengths, most of which are settled soon, are each followed to the end."""
    automaton = compile_automaton(
        [signature("needle", "anywhere"), signature("^(?:[^x]{3})+x{4}", "counted")]
    )
    draw = random.Random(5)
    streams = [draw.randbytes(draw.choice((0, 1, 7, 300, 5000))) for _ in range(200)]
    for index in range(0, 200, 10):
        streams[index] += b"needle" * draw.randrange(1, 4)
    streams[5] = b"abcdef" * 700 + b"xxxx" + bytes(1000)

    together = scan_many(automaton, *TCP_CLIENT, streams)

    assert together == [scan(automaton, *TCP_CLIENT, each) for each in streams]
    assert sum(map(bool, together)) >= 20
    assert together[5] == [Hit(automaton.accepts.index((1,)), 4204)]


def test_all_bytes_are_classes():
    """An automaton that tells all 256 bytes apart is stepped as any other."""
    text = "".join(f"\\x{byte:02x}" for byte in range(256))
    automaton = compile_automaton([signature(f"^{text}")])
    streams = [bytes(range(256)), bytes(range(255))] * 20

    assert automaton.width == 256
    assert scan_many(automaton, *TCP_CLIENT, streams) == [[Hit(1, 256)], []] * 20


def test_nobody_listens():
    """Where no signature listens, nothing is read and nothing found."""
    automaton = compile_automaton([signature("a")])

    assert scan_many(automaton, *UDP_CLIENT, [b"a", b""] * 30, whole=True) == [[]] * 60
    assert scan_many(automaton, *TCP_CLIENT, []) == []
