# SPDX-License-Identifier: Apache-2.0
"""A few signatures for tests, compiled."""

from __future__ import annotations

from agentwall.detect.dfa import compile_automaton
from agentwall.detect.signature_load import load_signatures

_TEXT = r"""version: 1
signatures:
  - {id: tunnel/greeting, class: tunnel, dialect: greeting, protocol: tcp, direction: client,
     pattern: '^TUNNEL [0-9]+\n', description: d, examples: ["TUNNEL 1\n"], counterexamples: [b]}
  - {id: tunnel/answer, class: tunnel, dialect: answer, protocol: tcp, direction: server,
     pattern: 'opened', description: d, examples: [opened], counterexamples: [b]}
  - {id: tunnel/packet, class: tunnel, dialect: packet, protocol: udp, direction: either,
     pattern: '^\x01.{3}$', description: d, examples: ["\x01abc"], counterexamples: [b]}
  - {id: tunnel/ping, class: tunnel, dialect: ping, protocol: icmp, direction: client,
     pattern: '^ping', description: d, examples: [ping], counterexamples: [b]}
  - {id: tunnel/closer-look, class: tunnel, dialect: look, protocol: tcp, direction: client,
     pattern: '^LOOK', hand_over: true, description: d, examples: [LOOK], counterexamples: [b]}
indicators:
  - {id: mining/pools, class: mining, dialect: pool-names, dated: 2026-01-01, names: [pool.example]}
"""

SIGNATURES = load_signatures([("x.yaml", _TEXT)])
AUTOMATON = compile_automaton(SIGNATURES.signatures)
