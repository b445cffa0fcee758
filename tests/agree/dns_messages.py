# SPDX-License-Identifier: Apache-2.0
"""Made-up DNS messages: plain ones, odd ones and broken ones, by one source of chance."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import pairwise
from random import Random

A, CNAME, SOA, TXT, AAAA, DNAME, OPT, HTTPS = 1, 5, 6, 16, 28, 39, 41, 65
IN, CH = 1, 3
LETTERS = b"abcdefghijklmnopqrstuvwxyz0123456789-_"

Name = Sequence[bytes]


class Writer:
    """A message as it is written, with the places of the names in it, for compression."""

    def __init__(self, chance: Random, *, compress: float = 0.8) -> None:
        self.data = bytearray(12)
        self._chance = chance
        self._compress = compress
        self._places: dict[tuple[bytes, ...], int] = {}

    def name(self, labels: Name) -> None:
        """Write a name, in any case; what was written before may be pointed at."""
        for i in range(len(labels)):
            rest = tuple(label.lower() for label in labels[i:])
            place = self._places.get(rest)
            if place is not None and self._chance.random() < self._compress:
                self.data += struct.pack("!H", 0xC000 | place)
                return
            if len(self.data) < 0x4000:
                self._places[rest] = len(self.data)
            label = mixed_case(self._chance, labels[i])
            self.data += bytes([len(label)]) + label
        self.data.append(0)

    def question(self, labels: Name, kind: int, klass: int = IN) -> None:
        """Write a question."""
        self.name(labels)
        self.data += struct.pack("!HH", kind, klass)

    def record(self, owner: Name, kind: int, data: bytes | Name, **other: int) -> None:
        """Write a record; its data are bytes or a name."""
        self.name(owner)
        ttl = other.get("ttl", self._chance.choice((0, 60, 300, 2**31 - 1, 2**31, 2**32 - 1)))
        self.data += struct.pack("!HHIH", kind, other.get("klass", IN), ttl, 0)
        start = len(self.data)
        if isinstance(data, bytes):
            self.data += data
        else:
            self.name(data)
        size = len(self.data) - start + other.get("stretch", 0)
        self.data[start - 2 : start] = struct.pack("!H", size & 0xFFFF)

    def finish(self, flags: int, counts: Sequence[int]) -> bytes:
        """Fill in the header and return the message."""
        self.data[:12] = struct.pack("!6H", self._chance.getrandbits(16), flags, *counts)
        return bytes(self.data)


def mixed_case(chance: Random, label: bytes) -> bytes:
    """Return a label as 0x20 encoding sends it, or as it is."""
    if chance.random() < 0.7:
        return label
    return bytes(chance.choice((o, o ^ 0x20)) if chr(o).isalpha() else o for o in label)


def label(chance: Random, size: int) -> bytes:
    """Return a label of *size* octets."""
    return bytes(chance.choice(LETTERS) for _ in range(size))


def name(chance: Random) -> list[bytes]:
    """Return a name, mostly of usual length, sometimes as long as names can be."""
    how = chance.random()
    if how < 0.05:
        return long_name(chance, 253)
    if how < 0.1:
        return [label(chance, 63), label(chance, 1)]
    if how < 0.15:
        return [label(chance, 1) for _ in range(chance.randint(1, 127))]
    return [label(chance, chance.randint(1, 12)) for _ in range(chance.randint(1, 5))]


def long_name(chance: Random, size: int) -> list[bytes]:
    """Return a name of *size* characters."""
    labels = []
    while size > 64:
        labels.append(label(chance, min(63, size - 2)))
        size -= len(labels[-1]) + 1
    return [*labels, label(chance, size)] if size else labels


def odd_name(chance: Random) -> list[bytes]:
    """Return a name that no question may have: empty, binary, or with a dot in a label."""
    return chance.choice(
        ([], [chance.randbytes(chance.randint(1, 63))], [b"hub.example"], [b"*", b"example"])
    )


def edns(chance: Random, *, version: int = 0) -> bytes:
    """Return an OPT record: nothing, a cookie (RFC 7873), padding (RFC 7830), or all of it."""
    options = b""
    if chance.random() < 0.4:
        options += struct.pack("!HH", 10, 8) + chance.randbytes(8)
    if chance.random() < 0.4:
        size = chance.randint(0, 400)
        options += struct.pack("!HH", 12, size) + bytes(size)
    size, extended, flags = chance.choice((512, 1232, 4096)), 0, chance.choice((0, 0x8000))
    return struct.pack("!BHHBBHH", 0, OPT, size, extended, version, flags, len(options)) + options


def question(chance: Random) -> bytes:
    """Return a plain question."""
    writer = Writer(chance)
    writer.question(name(chance), chance.choice((A, AAAA, TXT, HTTPS, 2, 15, 33, 257, 65535)))
    additional = chance.random() < 0.6
    if additional:
        writer.data += edns(chance)
    return writer.finish(chance.choice((0, 0x0100, 0x0120, 0x0110)), (1, 0, 0, int(additional)))


def odd_question(chance: Random) -> bytes:
    """Return a question that is not plain, or hardly so: one thing about it is unusual."""
    writer = Writer(chance)
    what = chance.randrange(9)
    labels = name(chance)
    kind = chance.randint(245, 260) if what == 0 else chance.choice((0, A, OPT)) if what == 1 else A
    if what == 2:
        labels = odd_name(chance)
    if what == 3:
        labels = long_name(chance, chance.randint(250, 256))
    writer.question(labels, kind, CH if what == 4 else IN)
    if what == 5:
        writer.data += edns(chance, version=chance.randint(0, 1)) * chance.randint(0, 2)
    if what == 6:
        writer.data += chance.randbytes(chance.randint(1, 12))
    if what == 7:
        writer.record(labels, A, bytes(4))
    flags = 1 << chance.randrange(16) if what == 8 else 0x0100
    return writer.finish(flags, (1, 0, 0, int(what in (5, 7))))


def answer(chance: Random) -> bytes:
    """Return an answer: a chain of names, addresses of the last or of any, and other records."""
    writer = Writer(chance, compress=chance.choice((0.0, 0.8, 1.0)))
    steps = chance.choice((0, 0, 1, 2, 3, 5, chance.randint(12, 20)))
    chain = [name(chance) for _ in range(steps + 1)]
    if chance.random() < 0.1:
        chain[-1] = odd_name(chance) if steps else chain[-1]
    writer.question(chain[0], chance.choice((A, AAAA, HTTPS)))
    wanted = chance.choice((1, 2, 4, 8, chance.randint(0, 70)))
    records: list[tuple[Name, int, bytes | Name, dict[str, int]]] = [
        (owner, CNAME, target, {}) for owner, target in pairwise(chain)
    ]
    for _ in range(wanted):
        owner = chain[-1] if chance.random() < 0.8 else chance.choice([*chain, name(chance)])
        records.append((owner, *_address(chance), {}))
    if chance.random() < 0.3:
        records.insert(chance.randint(0, len(records)), _bystander(chance, chain))
    if chance.random() < 0.3:
        chance.shuffle(records)
    for owner, kind, data, other in records:
        writer.record(owner, kind, data, **other)
    behind = chance.randint(0, 2)
    for _ in range(behind):
        writer.record(chain[0], *_address(chance))
    flags = chance.choice((0x8180, 0x8180, 0x8580, 0x81A0))
    return writer.finish(flags, (1, len(records), behind, 0))


def odd_answer(chance: Random) -> bytes:
    """Return an answer that says something else in the header than others do."""
    message = bytearray(answer(chance))
    if chance.random() < 0.5:
        message[2 + chance.randrange(2)] ^= 1 << chance.randrange(8)
    else:
        message[7] = chance.choice((0, 1, 64, 255))
    return bytes(message)


def _address(chance: Random) -> tuple[int, bytes]:
    if chance.random() < 0.5:
        return A, chance.randbytes(4)
    prefix = chance.choice((b"", bytes(10) + b"\xff\xff", bytes.fromhex("0064ff9b" + 16 * "0")))
    prefix = chance.choice((prefix, b"\x20\x02\x7f", b"\x20\x02"))
    return AAAA, prefix + chance.randbytes(16 - len(prefix))


# A record that the reader passes over, or has to mind: another type or class, a wrong length.
def _bystander(
    chance: Random, chain: list[list[bytes]]
) -> tuple[Name, int, bytes | Name, dict[str, int]]:
    owner = chance.choice(chain)
    return chance.choice(
        (
            (owner, TXT, chance.randbytes(chance.randint(0, 255)), {}),
            (owner[1:], DNAME, name(chance), {}),
            (owner, HTTPS, b"\0\1\0\0\4\0\4" + chance.randbytes(4), {}),
            (owner, A, chance.randbytes(4), {"klass": CH}),
            (owner, CNAME, name(chance), {"klass": CH}),
            (owner, A, chance.randbytes(chance.choice((0, 3, 5, 16))), {}),
            (owner, AAAA, chance.randbytes(chance.choice((0, 4, 15, 17))), {}),
            (owner, CNAME, name(chance), {"stretch": chance.choice((-1, 1, 9))}),
            (owner, CNAME, owner, {}),
            (owner, CNAME, odd_name(chance), {}),
            (odd_name(chance), A, chance.randbytes(4), {}),
        )
    )


def damaged(chance: Random, message: bytes) -> bytes:
    """Return a message with one to three things wrong: cut, bits turned, pointers, bytes in."""
    data = bytearray(message)
    for _ in range(chance.randint(1, 3)):
        if len(data) < 2:
            break
        at = chance.randrange(len(data) - 1)
        match chance.randrange(6):
            case 0:
                del data[at:]
            case 1:
                data[at] ^= 1 << chance.randrange(8)
            case 2:
                data[at : at + 2] = struct.pack("!H", 0xC000 | chance.randrange(len(data) + 4))
            case 3:
                data[at:at] = chance.randbytes(chance.randint(1, 4))
            case 4:
                data[at] = chance.choice((0, 1, 0x2E, 0x3F, 0x40, 0x80, 0xC0, 0xFF))
            case 5:
                del data[at : at + chance.randint(1, 4)]
    return bytes(data)


def message(chance: Random) -> bytes:
    """Return a message: about half of them are as they should be."""
    kinds = (question, question, odd_question, answer, answer, answer, odd_answer)
    made = chance.choice(kinds)(chance)
    return (damaged(chance, made) if chance.random() < 0.4 else made)[:4096]
