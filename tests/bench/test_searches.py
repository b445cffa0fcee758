# SPDX-License-Identifier: Apache-2.0
"""Generated signatures are as many as asked for, and read a flow to its end."""

from __future__ import annotations

from agentwall.detect.automaton import DEAD
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, Transport
from bench.searches import compile_sought, compiled_table, generate_signatures


def test_as_many_as_asked_for():
    """No two are the same, and each time they are those."""
    found = generate_signatures(50)

    assert len({one.pattern for one in found.signatures}) == 50
    assert generate_signatures(50).digest == found.digest


def test_each_is_found_anywhere():
    """A flow of other methods keeps the automaton alive, and any of the set is found behind it."""
    sought, _ = compile_sought(generate_signatures(50))
    other = b'{"method": "none"}\n' * 100
    client = (Transport.TCP, Side.CLIENT)
    state = sought.automaton.starts[client]
    for byte in other:
        state = int(sought.automaton.next[state, sought.automaton.classes[byte]])

    assert state != DEAD
    assert scan(sought.automaton, *client, other) == []
    for number, one in enumerate(sought.signatures.signatures):
        word = one.id.removeprefix("mining/bench-")
        (hit,) = scan(sought.automaton, *client, other + f'{{"method": "{word}"'.encode())
        assert number in sought.automaton.accepts[hit.accept]


def test_table_of_compiling():
    """One row a set, with what it took and what came out."""
    _, compiled = compile_sought(generate_signatures(5), rounds=2)

    (row,) = compiled_table({"five": compiled}).rows

    assert row[:2] == ["five", "5"]
    assert row[4:] == [str(compiled.states), str(compiled.cells), "0.00 MB"]
    assert len(compiled.seconds) == 2
