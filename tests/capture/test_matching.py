# SPDX-License-Identifier: Apache-2.0
"""The automaton over conversations: who says what, and what has no beginning."""

from __future__ import annotations

import pytest
from capture.making import SERVER, ethernet, flow, handshake, ip, say, udp
from capture.signatures import AUTOMATON, SIGNATURES

from agentwall.capture.matching import match_conversations
from agentwall.detect.scan import Scanner


def _matches(*conversations) -> list[list[tuple[str, bytes, int]]]:
    return [
        [(SIGNATURES.signatures[m.signature].id, m.data, m.end) for m in matches]
        for matches in match_conversations(Scanner(AUTOMATON), conversations)
    ]


def test_streams(tmp_path):
    """Each side's signatures match in that side's stream, across segments."""
    client = [say(b"TUNN", sequence=1001), say(b"EL 7\nrest", sequence=1005)]
    server = [say(b"it is opened", back=True, sequence=5001)]
    found = flow(tmp_path, [*handshake(), *client, *server])
    other = flow(tmp_path, [*handshake(), say(b"opened", sequence=1001)])

    assert _matches(found, other) == [
        [("tunnel/greeting", b"TUNNEL 7\nrest", 9), ("tunnel/answer", b"it is opened", 12)],
        [],
    ]


def test_midstream(tmp_path):
    """Of what is seen from the middle, any of the first packets may be the beginning."""
    frames = [say(b"rest of it\n", sequence=1), say(b"TUNNEL 7\n", sequence=12)]
    late = [say(b"word ", sequence=1 + 5 * n) for n in range(20)]
    late.append(say(b"TUNNEL 7\n", sequence=101))

    assert [m[0] for m in _matches(flow(tmp_path, frames))[0]] == ["tunnel/greeting"]
    assert _matches(flow(tmp_path, late), flow(tmp_path, [*handshake(), *late])) == [[], []]


@pytest.mark.parametrize(("payload", "count"), [(b"\1abc", 1), (b"\1abcd", 0), (b"\1ab", 0)])
def test_datagrams(tmp_path, payload, count):
    """Each datagram is matched on its own, up to its end."""
    found = flow(tmp_path, [ethernet(ip(udp(part), 17)) for part in (b"x", payload, b"y")])

    assert len(_matches(found)[0]) == count


def test_cut_datagrams_do_not_end(tmp_path):
    """A datagram of which only the beginning is there is not known to end there."""
    long = flow(tmp_path, [ethernet(ip(udp(b"\1" + bytes(5000)), 17))])

    assert _matches(long) == [[]]


def test_echoes(tmp_path):
    """Echoes match by what follows their header, on the side that asks."""
    head = bytes.fromhex("0800000000010001")
    asked = flow(tmp_path, [ethernet(ip(head + b"ping", 1))])
    answered = flow(tmp_path, [ethernet(ip(b"\0" + head[1:] + b"ping", 1, SERVER))])

    assert [len(found) for found in _matches(asked, answered)] == [1, 1]


def test_other_protocols(tmp_path):
    """What is neither TCP nor UDP nor an echo has nothing to match."""
    assert _matches(flow(tmp_path, [ethernet(ip(b"\1abc", 50))])) == [[]]
