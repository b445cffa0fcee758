# SPDX-License-Identifier: Apache-2.0
"""A small set of signatures for tests of the datapath, and walls that look for it.

The shipped set changes; what these match does not.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from agentwall.detect.automaton import Automaton
from agentwall.detect.dfa import compile_automaton
from agentwall.detect.judging import masks_of
from agentwall.detect.packing import pack_table
from agentwall.detect.signature import SignatureSet
from agentwall.detect.signature_load import load_signatures
from agentwall.flow.record import Match
from agentwall.kernel.signatures import Inspection
from agentwall.kernel.wall import Wall
from agentwall.policy.model import Policy
from agentwall.policy.tables import RuleTables

SUBSCRIBE = b'{"id": 1, "method": "mining.subscribe", "params": ["test/1.0"]}\n'
NOTIFY = b'{"id": null, "method": "mining.notify", "params": ["1f"]}\n'
BANNER = b"SSH-2.0-Test_1.0\r\n"
HELLO = b"\x01\x00\x00\x00" + bytes(range(144))
"""As WireGuard's first message: 148 bytes."""
ECHO = b"\xd5\x20\x08\x80" + bytes(24)
FAINT = b"\x03\x00\x00\x00"
"""Of the dialect of HELLO, but too short to be sure."""
WEAK = b"\x05\x01\x00"

_TEXT = r"""
version: 1
fragments: {line: '[ \n]*(?:\{[^\n]*\n[ \n]*)*\{[^\n]*"method": *"'}
signatures:
  - id: mining/subscribe
    class: mining
    dialect: test-stratum
    protocol: tcp
    direction: client
    pattern: '^{{line}}mining\.(?:subscribe|submit)"'
    description: what a miner says
    examples: ['{"method": "mining.subscribe"']
    counterexamples: ['GET / HTTP/1.1']
  - id: mining/notify
    class: mining
    dialect: test-stratum
    protocol: tcp
    direction: server
    pattern: '^{{line}}mining\.notify"'
    description: what a pool says
    examples: ['{"method": "mining.notify"']
    counterexamples: ['HTTP/1.1 200 OK']
  - id: tunnel/banner
    class: tunnel
    dialect: test-ssh
    protocol: tcp
    direction: either
    pattern: '^(?:[^S\n][^\n]{0,40}\n){0,3}SSH-2\.0-'
    description: both sides of SSH
    examples: ["SSH-2.0-x"]
    counterexamples: ["SSH-1"]
  - id: tunnel/weak
    class: tunnel
    dialect: test-socks
    protocol: tcp
    direction: client
    pattern: '^\x05\x01\x00'
    confidence: low
    description: too short to be sure
    examples: ["\x05\x01\0"]
    counterexamples: ["\x04"]
  - id: tunnel/wireguard
    class: tunnel
    dialect: test-wireguard
    protocol: udp
    direction: either
    pattern: '^\x01\x00\x00\x00[\x00-\xff]{144}$'
    description: one size only
    examples: [{hex: "%s"}]
    counterexamples: ["\x01\0\0\0"]
  - id: tunnel/faint
    class: tunnel
    dialect: test-wireguard
    protocol: udp
    direction: either
    pattern: '^\x03\x00\x00\x00'
    confidence: low
    description: of the same dialect, and not sure
    examples: ["\x03\0\0\0"]
    counterexamples: ["\x03\0\0"]
  - id: tunnel/echo
    class: tunnel
    dialect: test-icmp
    protocol: icmp
    direction: either
    pattern: '^\xd5\x20\x08\x80'
    description: a magic number
    examples: ["\xd5\x20\x08\x80"]
    counterexamples: ["abcdefgh"]
  - id: mining/upgrade
    class: mining
    dialect: test-websocket
    protocol: tcp
    direction: client
    pattern: '^GET [^\n]*\n(?:[^\n]+\n)*Upgrade: websocket\r\n'
    hand_over: true
    description: masked frames follow
    examples: ["GET / HTTP/1.1\r\nUpgrade: websocket\r\n"]
    counterexamples: ["GET / HTTP/1.1\r\n\r\n"]
"""
UPGRADE = b"GET /proxy HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n\r\n"


@functools.cache
def signatures() -> SignatureSet:
    """Return the set."""
    text = _TEXT.replace("%s", HELLO.hex(" "))
    return load_signatures([("test.yaml", text)])


@functools.cache
def automaton() -> Automaton:
    """Return its automaton."""
    return compile_automaton(signatures().signatures)


@dataclass(slots=True)
class Inspector:
    """Has a wall look for the set."""

    wall: Wall
    slot: int | None = None

    def inspection(self, generation: int, policy: Policy, tables: RuleTables) -> Inspection:
        """Return what ``SandboxSettings`` need for *policy*, its exceptions written."""
        if self.slot is None:
            self.slot = self.wall.signatures.write(pack_table(automaton(), signatures()))
        masks = masks_of(policy, tables, signatures())
        self.wall.signatures.apply_excepts(generation, masks.excepts)
        return Inspection(slot=self.slot, masks=masks, depth_bytes=policy.detect.depth_bytes)


def matched(match: Match) -> tuple[str, ...]:
    """Return the ids of what *match* is about."""
    return tuple(signatures().signatures[index].id for index in automaton().accepts[match.accept])
