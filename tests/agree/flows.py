# SPDX-License-Identifier: Apache-2.0
"""Random flows that come close to what signatures look for, and what is to be found in them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from agentwall.detect.automaton import Automaton
from agentwall.detect.judging import Masks, group_bits
from agentwall.detect.scan import scan
from agentwall.detect.signature import Side, Signature, SignatureSet, Transport

MOST_BYTES = 1200
"""Of a datagram, so that none is fragmented."""
MOST_PIECES = 9
"""Writes of a stream: they are segments of their own as long as the window has room for them."""
NOISE = (b"\n", b" ", b"{", b"\x00", b"GET / HTTP/1.1\r\n", b'{"id": 1, "method": "ping"}\n')


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomFlow:
    """What one side says: the writes of a stream, or datagrams."""

    transport: Transport
    side: Side
    pieces: tuple[bytes, ...]

    @property
    def units(self) -> tuple[bytes, ...]:
        """What is read from the automaton's start each."""
        return (b"".join(self.pieces),) if self.transport is Transport.TCP else self.pieces


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What the wall is to report."""

    found: list[tuple[int, int]] = field(default_factory=list)
    """Index into the accepts, and position, of each report."""
    passed: int = 0
    """How many units are to pass before the flow is cut."""
    cut: bool = False


class Judge:
    """Says by ``scan()`` what the kernel is to find."""

    def __init__(self, automaton: Automaton, signatures: SignatureSet, masks: Masks) -> None:
        self._automaton = automaton
        self._masks = masks
        bits = group_bits(signatures)
        named = [[signatures.signatures[index] for index in accept] for accept in automaton.accepts]
        self._groups = [_mask(bits, [s for s in some if not s.hand_over]) for some in named]
        self._certain = [_mask(bits, [s for s in some if s.blocks]) for some in named]

    def expect(self, *flows: RandomFlow) -> Expected:
        """Return what is found in *flows* of one socket, one after the other."""
        found: list[tuple[int, int]] = []
        reported = judged = 0
        passed = 0
        for flow in flows:
            for unit in flow.units:
                whole = flow.transport is not Transport.TCP
                for hit in scan(self._automaton, flow.transport, flow.side, unit, whole=whole):
                    groups = self._groups[hit.accept] & (self._masks.blocks | self._masks.alerts)
                    certain = self._certain[hit.accept] & self._masks.blocks & ~judged
                    if groups & ~reported or certain:
                        found.append((hit.accept, hit.end))
                    reported |= groups
                    if certain:
                        return Expected(found=found, passed=passed, cut=True)
                passed += 1
        return Expected(found=found, passed=passed)


def _mask(bits: dict[str, int], some: list[Signature]) -> int:
    mask = 0
    for signature in some:
        mask |= 1 << bits[signature.group]
    return mask


def random_flows(random: Random, signatures: SignatureSet, count: int) -> Iterator[RandomFlow]:
    """Make *count* flows, of each transport that *signatures* know."""
    by_transport = {
        transport: [s for s in signatures.signatures if s.transport is transport]
        for transport in Transport
    }
    for _ in range(count):
        transport = random.choices(list(Transport), (6, 3, 1))[0]
        known = by_transport[transport]
        signature = random.choice(known)
        side = random.choice(signature.sides if random.random() < 0.8 else tuple(Side))
        if transport is Transport.TCP:
            pieces = _cut(random, _text(random, known, signature)[: 8 * MOST_BYTES])
        else:
            size = random.choice((1, 1, 2, 4)) if transport is Transport.UDP else 1
            chosen = [signature, *random.choices(known, k=size - 1)]
            random.shuffle(chosen)
            pieces = [_text(random, known, one)[:MOST_BYTES] or b"?" for one in chosen]
        yield RandomFlow(transport=transport, side=side, pieces=tuple(pieces))


def _text(random: Random, known: list[Signature], signature: Signature) -> bytes:
    choice = random.random()
    text = random.choice(signature.examples if choice < 0.7 else signature.counterexamples)
    if random.random() < 0.25:
        other = random.choice(known)
        text = random.choice((random.choice(other.counterexamples), random.choice(NOISE))) + text
    while random.random() < 0.35:
        text = _mutated(random, text)
    return text + random.choice((b"", b"", b"\n", b"tail", random.randbytes(40)))


def _mutated(random: Random, text: bytes) -> bytes:
    at = random.randrange(len(text) + 1)
    to = min(len(text), at + random.choice((0, 1, 1, 3)))
    new = random.choice(
        (b"", random.randbytes(1), random.choice(NOISE), text[at : at + 5], text[at:to].swapcase())
    )
    return text[:at] + new + text[to:]


def _cut(random: Random, text: bytes) -> list[bytes]:
    text = text or b"?"
    count = random.choice((0, 0, 1, 2, MOST_PIECES - 1))
    places = sorted({random.randrange(len(text) + 1) for _ in range(count)} - {0, len(text)})
    return [text[begin:end] for begin, end in zip([0, *places], [*places, len(text)], strict=True)]
