# SPDX-License-Identifier: Apache-2.0
"""The two readers of DNS messages agree: bpf/dns.bpf.c with answer.bpf.c, and detect/dns.py."""

from __future__ import annotations

import struct
import sys
from collections import Counter
from dataclasses import dataclass
from random import Random

import pytest
from agree import dns_messages as made
from hypothesis import given, settings
from hypothesis import strategies as st

from agentwall.detect.dns import DnsAnswer, DnsQuestion, name_hash, read_answer, read_question
from agentwall.kernel.objects import BpfObject
from agentwall.net.domain import name_key
from agentwall.net.endpoint import key_bytes

pytestmark = pytest.mark.kernel

MESSAGES = 24_000
SEED = 0x5EED_0123_4567_89AB
FRAME = bytes(64)
INDEX = bytes(4)
JUNK = 0xA5
NAME_BYTES = 254
FIELDS = ["lock", "hash", "size", "id", "type", "length", "answers", "key", "answer", "message"]
ANSWER = struct.Struct("=16sII")
Addresses = tuple[tuple[bytes, int], ...]


@dataclass(frozen=True)
class Reading:
    """What is to be the same: the fields of struct aw_work that the reader fills in."""

    id: int
    type: int
    prefix_bits: int
    text: bytes
    hash: int
    addresses: Addresses

    @classmethod
    def of(cls, question: DnsQuestion, addresses: Addresses = ()) -> Reading:
        """What the reference found, as the kernel would put it."""
        text = name_key(question.name)
        return cls(
            id=question.id,
            type=question.type,
            prefix_bits=16 + 8 * len(text),
            text=text.ljust(NAME_BYTES, b"\0"),
            hash=name_hash(question.name, SEED),
            addresses=addresses,
        )


def reference_question(message: bytes) -> Reading | None:
    found = read_question(message)
    return Reading.of(found) if found else None


def reference_answer(message: bytes) -> Reading | None:
    found = read_answer(message)
    if not isinstance(found, DnsAnswer):
        return None
    addresses = tuple((key_bytes(a.address), a.ttl_s) for a in found.addresses)
    return Reading.of(found.question, addresses)


class Probe:
    """The loaded readers. What they do not set is junk, as is what follows the message."""

    def __init__(self, bpf: BpfObject) -> None:
        self._works = bpf.maps()["aw_works"]
        self._question, self._answer = bpf.program("read_question"), bpf.program("read_answer")
        self._at = {field: bpf.constant(f"{field}_at") for field in FIELDS}
        self._blank = bytearray([JUNK]) * self._works.shape.value_size
        self._blank[self._at["lock"] : self._at["lock"] + 4] = bytes(4)

    def question(self, message: bytes) -> Reading | None:
        return self._read(self._question, message)

    def answer(self, message: bytes) -> Reading | None:
        return self._read(self._answer, message)

    def _read(self, program, message):
        value, at = self._blank.copy(), self._at
        value[at["size"] : at["size"] + 4] = len(message).to_bytes(4, sys.byteorder)
        value[at["message"] : at["message"] + len(message)] = message
        self._works.update(INDEX, bytes(value))
        refused = program.test_run(FRAME).retval
        value = self._works.lookup(INDEX)
        assert value is not None
        count = self._number(value, "answers", 4)
        if refused:
            assert count == 0
            return None
        key, answer = at["key"], at["answer"]
        found = [ANSWER.unpack_from(value, answer + i * ANSWER.size) for i in range(count)]
        text = value[key + 6 : key + 6 + NAME_BYTES]
        assert text[self._number(value, "length", 2) - 1 :].rstrip(b"\0") == b"."
        return Reading(
            id=self._number(value, "id", 2),
            type=self._number(value, "type", 2),
            prefix_bits=self._number(value, "key", 4),
            text=text,
            hash=self._number(value, "hash", 8),
            addresses=tuple((address, ttl) for address, ttl, _ in found),
        )

    def _number(self, value, field, size):
        at = self._at[field]
        return int.from_bytes(value[at : at + size], sys.byteorder)


@pytest.fixture(scope="module")
def probe(compile_bpf):
    with BpfObject.open(compile_bpf("dns_probe")) as bpf:
        bpf.set_constant("aw_hash_seed", SEED)
        bpf.load()
        yield Probe(bpf)


def agree(probe: Probe, message: bytes) -> str:
    """Hold the readers together on one message, and say what it was."""
    question, answer = reference_question(message), reference_answer(message)

    assert probe.question(message) == question
    assert probe.answer(message) == answer
    if question:
        return "question"
    if answer:
        return "addresses" if answer.addresses else "answer"
    return "neither"


@pytest.mark.slow
def test_made_messages(probe):
    """Both read 24 000 made-up messages alike; a third or more can be read."""
    seen = Counter()
    for number in range(MESSAGES):
        message = made.message(Random(number))
        try:
            seen[agree(probe, message)] += 1
        except AssertionError as err:
            err.add_note(f"message {number}: {message.hex()}")
            raise

    assert seen["question"] > MESSAGES / 8
    assert seen["addresses"] > MESSAGES / 5
    assert seen["answer"] > MESSAGES / 100
    assert seen["neither"] > MESSAGES / 5


@settings(max_examples=400, deadline=None)
@given(number=st.integers(MESSAGES, 2**64), tail=st.binary(max_size=40))
def test_drawn_messages(probe, number, tail):
    """Both read other messages alike, also with bytes that hypothesis puts after them."""
    message = made.message(Random(number))

    agree(probe, message)
    agree(probe, (message + tail)[:4096])
    agree(probe, message[:12] + tail)


@pytest.mark.parametrize("kind", [made.question, made.answer])
def test_every_truncation(probe, kind):
    """Both read alike a message that ends at any place."""
    for number in range(20):
        message = kind(Random(number))
        for end in range(0, min(len(message), 600) + 1):
            agree(probe, message[:end])


def test_every_octet(probe):
    """Both take the same octets for those of a name."""
    for octet in range(256):
        writer = made.Writer(Random(octet))
        writer.data += bytes([3, octet, octet, 0x61, 0])
        writer.data += struct.pack("!HH", made.A, made.IN)

        agree(probe, writer.finish(0x0100, (1, 0, 0, 0)))


@pytest.mark.parametrize("jumps", [1, 15, 16, 17, 40])
def test_pointers_to_pointers(probe, jumps):
    """Both follow as many pointers for one name, and no more."""
    writer = made.Writer(Random(jumps))
    writer.question([b"hub", b"example"], made.A)
    target = 12
    writer.data += b"\0" + struct.pack("!HHIH", made.TXT, made.IN, 0, 2 * jumps)
    for _ in range(jumps):
        here = len(writer.data)
        writer.data += struct.pack("!H", 0xC000 | target)
        target = here
    # The owner is the last pointer but one jump: it leads there by one of its own.
    writer.data += struct.pack("!H", 0xC000 | target)
    writer.data += struct.pack("!HHIH", made.A, made.IN, 60, 4) + bytes([192, 0, 2, 1])
    kind = agree(probe, writer.finish(0x8180, (1, 2, 0, 0)))

    assert kind == ("addresses" if jumps < 16 else "neither")


@pytest.mark.parametrize("aliases", [14, 15, 16, 30])
def test_name_with_many_aliases(probe, aliases):
    """Both follow the first fifteen names that one name is said to be an alias of."""
    writer, hub = made.Writer(Random(aliases)), [b"hub", b"example"]
    targets = [[b"edge%d" % number] for number in range(aliases)]
    writer.question(hub, made.A)
    for target in targets:
        writer.record(hub, made.CNAME, target)
    for number, target in enumerate(targets):
        writer.record(target, made.A, bytes([10, 0, 0, number]))
    message = writer.finish(0x8180, (1, 2 * aliases, 0, 0))

    assert agree(probe, message) == "addresses"
    assert len(reference_answer(message).addresses) == min(aliases, 15)


@pytest.mark.parametrize("size", range(250, 258))
def test_longest_names(probe, size):
    """Both read names of up to 253 characters: as a question, as an owner, and as an alias."""
    chance = Random(size)
    long, hub = made.long_name(chance, size), [b"hub", b"example"]
    asked, owner, alias = made.Writer(chance), made.Writer(chance), made.Writer(chance)
    asked.question(long, made.A)
    for writer in (owner, alias):
        writer.question(hub, made.A)
    owner.record(long, made.A, bytes(4))
    alias.record(hub, made.CNAME, long)
    alias.record(long, made.A, bytes(4))
    kinds = [
        agree(probe, asked.finish(0x0100, (1, 0, 0, 0))),
        agree(probe, owner.finish(0x8180, (1, 1, 0, 0))),
        agree(probe, alias.finish(0x8180, (1, 2, 0, 0))),
    ]

    assert kinds == (["question", "answer", "addresses"] if size <= 253 else 3 * ["neither"])


@pytest.mark.parametrize("size", [0, 1, 11, 12, 4095, 4096])
@pytest.mark.parametrize("octet", [0, 1, 0x2E, 0x3F, 0x61, 0xC0, 0xFF])
def test_uniform_messages(probe, size, octet):
    """Both refuse a message of one octet over and over, with a header or without."""
    header = struct.pack("!6H", 1, 0x8180, 1, 64, 0, 0)

    assert agree(probe, bytes([octet]) * size) == "neither"
    agree(probe, (header + bytes([octet]) * size)[:4096])
