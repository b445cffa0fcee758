# SPDX-License-Identifier: Apache-2.0
"""What the DNS server of the evasion tests answers: the truth, and every kind of lie.

Each lie has an address of its own, so that what one row learns opens nothing for another.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

from rig.answers import (
    AAAA,
    CHAOS,
    CNAME,
    HTTPS,
    NXDOMAIN,
    TRUNCATED,
    A,
    Asked,
    Record,
    answer,
)
from rig.lab import INTERNAL, METADATA

RESOLVER = "198.51.100.53"
STUB, DOCKER_STUB = "127.0.0.53", "127.0.0.11"
DOCKER_PORT = 5311
"""Where the real server behind DOCKER_STUB listens; port 53 there is rewritten to it."""
ZONE = "names.example.com"
"""Every name one label below it is permitted."""
HUB = f"hub.{ZONE}"
HONEST = "198.51.100.79"
_OTHER = f"other.{ZONE}"
_STRAY = "stray.example"
LIES = {
    "brief": "198.51.100.80",
    "stranger": "198.51.100.81",
    "astray": "198.51.100.82",
    "additional": "198.51.100.83",
    "authority": "198.51.100.84",
    "unasked": "198.51.100.85",
    "wrong-id": "198.51.100.86",
    "wrong-type": "198.51.100.87",
    "wrong-class": "198.51.100.88",
    "failed": "198.51.100.89",
    "truncated": "198.51.100.90",
    "no-response": "198.51.100.91",
    "hints": "198.51.100.92",
    "silent": "198.51.100.93",
    "deep": "198.51.100.94",
    "dotted": "198.51.100.95",
}
"""First label of a name -> the address that asking for it must not open."""
REBINDING = {
    "internal": INTERNAL,
    "metadata": METADATA,
    "home": "127.0.0.1",
    "nowhere": "0.0.0.0",
    "mapped-internal": f"::ffff:{INTERNAL}",
    "nat64-internal": "64:ff9b::a4d:14",
    "6to4-internal": "2002:a4d:14::1",
    "link-local": "fe80::f",
    "unique-local": "fd00:77::20",
    "home6": "::1",
}
"""First label of a name -> the reserved address it leads to."""


def _hints(asked: Asked, address: str) -> bytes:
    # RFC 9460: priority 1, the owner itself, and the parameter ipv4hint (4) of four octets.
    data = b"\0\x01\0\0\x04\0\x04" + bytes(map(int, address.split(".")))
    return answer(asked, [Record(asked.name, HTTPS, data)])


def _deep(asked: Asked, address: str) -> bytes:
    # One CNAME more than are followed.
    chain = [asked.name, *(f"n{i}.example" for i in range(17))]
    links = [Record(a, CNAME, b) for a, b in itertools.pairwise(chain)]
    return answer(asked, [*links, Record(chain[-1], A, address)])


def _dotted(asked: Asked, address: str) -> bytes:
    # The owner is one label with dots in it, which looks like the name asked for.
    whole = answer(asked, [Record("x", A, address)])
    label = asked.name.encode("latin-1")
    return whole.replace(b"\x01x\0\0\x01", bytes([len(label)]) + label + b"\0\0\x01")


_HOW: dict[str, Callable[[Asked, str], bytes]] = {
    "brief": lambda q, to: answer(q, [Record(q.name, A, to, 1)]),
    "stranger": lambda q, to: answer(q, [Record(q.name, A, HONEST), Record(_OTHER, A, to)]),
    "astray": lambda q, to: answer(
        q, [Record(q.name, A, HONEST), Record(_OTHER, CNAME, _STRAY), Record(_STRAY, A, to)]
    ),
    "additional": lambda q, to: answer(
        q, [Record(q.name, A, HONEST)], additional=[Record(q.name, A, to)]
    ),
    "authority": lambda q, to: answer(
        q, [Record(q.name, A, HONEST)], authority=[Record(q.name, A, to)]
    ),
    "unasked": lambda q, to: answer(q, [Record(_OTHER, A, to)], as_if=replace(q, name=_OTHER)),
    "wrong-id": lambda q, to: answer(
        q, [Record(q.name, A, to)], as_if=replace(q, number=q.number ^ 1)
    ),
    "wrong-type": lambda q, to: answer(q, [Record(q.name, A, to)], as_if=replace(q, kind=AAAA)),
    "wrong-class": lambda q, to: answer(q, [Record(q.name, A, to, group=CHAOS)]),
    "failed": lambda q, to: answer(q, [Record(q.name, A, to)], flags=NXDOMAIN),
    "truncated": lambda q, to: answer(q, [Record(q.name, A, to)], flags=TRUNCATED),
    "no-response": lambda q, to: answer(q, [Record(q.name, A, to)], is_response=False),
    "silent": lambda q, to: b"",
    "hints": _hints,
    "deep": _deep,
    "dotted": _dotted,
}


def tell(asked: Asked) -> bytes:
    """Answer for the first label of the name; any other name below ZONE leads to HONEST."""
    label, _, zone = asked.name.lower().partition(".")
    if zone == ZONE and label in LIES:
        return _HOW[label](asked, LIES[label])
    if zone == ZONE and label in REBINDING:
        address = REBINDING[label]
        kind = AAAA if ":" in address else A
        return answer(asked, [Record(asked.name, kind, address)] if kind == asked.kind else [])
    if zone == ZONE and asked.kind == A:
        return answer(asked, [Record(asked.name, A, HONEST)])
    return answer(asked, flags=NXDOMAIN)
