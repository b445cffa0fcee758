# SPDX-License-Identifier: Apache-2.0
"""Inside TLS the kernel finds what ``scan()`` finds, at the same octet, however it is said."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from random import Random

import pytest
from agree.flows import Expected, Judge, RandomFlow, random_flows
from rig.enclosure import describe, parse_policy
from rig.inspection import automaton, signatures
from rig.lab import PERMITTED
from rig.process import wait_until
from rig.spoken import Ground, Talker, ground

from agentwall.detect.judging import masks_of
from agentwall.detect.signature import Side, Transport
from agentwall.flow.record import Attempt, SandboxKey
from agentwall.kernel import plain
from agentwall.policy.compile import compile_policy
from agentwall.probes import compiling

WHY_NOT = compiling.why_not() or plain.why_not()
pytestmark = [
    pytest.mark.kernel,
    pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT)),
]

FLOWS = 60 if "VMTEST_KERNEL" in os.environ else 300
"""An emulated kernel takes fifteen times as long for each."""
POLICY = f"""
    name: agree
    detect: {{mining: block, tunnel: block, p2p: block}}
    allow:
      - {{cidr: {PERMITTED}, ports: [1-65535]}}
"""


@pytest.fixture(scope="module")
def bench(tmp_path_factory) -> Iterator[Ground]:
    """A wall that reads."""
    with ground(tmp_path_factory.mktemp("agree")) as made:
        yield made


def test_text_agrees(bench: Ground) -> None:
    """Random text in random pieces is cut at the octet at which scan() has found what blocks."""
    policy = parse_policy(POLICY)
    masks = masks_of(policy, compile_policy(policy), signatures())
    judge, kinds = Judge(automaton(), signatures(), masks), Counter[str]()
    with bench.sandbox(POLICY) as (key, talker):
        seen = 0
        for flow in random_flows(Random(6), signatures(), FLOWS):
            if flow.transport is not Transport.TCP or flow.side is not Side.CLIENT:
                continue
            expected = judge.expect(flow)
            seen = compare(bench, key, talker, flow, expected, seen)
            kinds["cut" if expected.cut else "told" if expected.found else "whole"] += 1

    assert kinds["cut"] >= FLOWS / 20, kinds
    assert kinds["whole"] >= FLOWS / 20, kinds


def compare(
    bench: Ground,
    key: SandboxKey,
    talker: Talker,
    flow: RandomFlow,
    expected: Expected,
    seen: int,
) -> int:
    """Say *flow* and hold the reports equal; return how many there are by now."""
    bench.servers[PERMITTED].clear()
    number, data = talker.opened(), b"".join(flow.pieces)
    # Else, of what is cut before any text, it might come after the next flow has begun.
    server = bench.servers[PERMITTED]
    wait_until(lambda: server.connections == 1, what="the connection at its server")
    talker.ask("say_pieces", number, *flow.pieces)
    events: list[Attempt] = bench.matches(key)[seen:]
    found = [(each.match.accept, each.match.position) for each in events if each.match]
    assert found == expected.found, (flow, [describe(each) for each in events])
    if not expected.cut:
        assert bench.await_said(data) == data, flow
    else:
        last = events[-1].match
        assert last is not None
        # What waits to be sent when a match comes does not leave any more.
        assert data[: last.left_bytes].startswith(bench.said()), flow
        assert last.left_bytes in ends_of(flow.pieces)
        assert data[: last.position].endswith(last.text)
    talker.ask("free", number)
    talker.ask("close", number)
    return seen + len(events)


def ends_of(pieces: tuple[bytes, ...]) -> set[int]:
    """Return after how many octets a piece ends, or none was said."""
    ends, end = {0}, 0
    for piece in pieces:
        end += len(piece)
        ends.add(end)
    return ends
