# SPDX-License-Identifier: Apache-2.0
"""Heads of TCP streams, from segments in any order."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentwall.capture.streams import MAX_HEAD, MAX_PIECES, OVERHEAD, Stream, distance


@pytest.mark.parametrize(
    ("sequence", "base", "expected"),
    [(5, 3, 2), (3, 5, -2), (1, 0xFFFFFFFF, 2), (0xFFFFFFFF, 1, -2)],
)
def test_distance(sequence, base, expected):
    """Sequence numbers wrap at 2**32."""
    assert distance(sequence, base) == expected


def test_in_order():
    """Segments in order are the head; cuts say where each began but the first."""
    stream = Stream(100)
    held = [stream.add(100, b"abc"), stream.add(103, b"de"), stream.add(105, b"f")]

    assert (stream.head, stream.cuts, held) == (b"abcdef", (0, 3, 5), [51, 50, 49])


def test_first_copy_stays():
    """Where segments overlap, the bytes that came first stay."""
    stream = Stream(0)
    for at, data in [(4, b"EFGH"), (0, b"abcdef"), (2, b"....."), (6, b"......ij")]:
        stream.add(at, data)

    assert stream.head == b"abcdEFGH....ij"


def test_gap():
    """The head ends before a gap, whatever comes behind it."""
    stream = Stream(0)
    stream.add(0, b"abc")
    stream.add(4, b"efg")
    stream.finish()

    assert (stream.head, stream.is_gapped) == (b"abc", False)


def test_gap_at_the_beginning():
    """Where the first bytes are missing, the head begins behind them, and that is known."""
    stream = Stream(0)
    for at, data in [(9, b"later"), (5, b"cd"), (3, b"ab")]:
        stream.add(at, data)
    stream.finish()

    assert (stream.head, stream.is_gapped, stream.cuts) == (b"abcd", True, (0, 2))


def test_limit():
    """A head is at most 64 KiB, and then nothing more is wanted."""
    stream = Stream(0)
    held = sum(stream.add(n * 1000, bytes(1000)) for n in range(70) if not stream.is_full)

    assert (len(stream.head), held, stream.is_full) == (MAX_HEAD, MAX_HEAD + 66 * OVERHEAD, True)


def test_far_ahead():
    """What lies behind the limit is not kept."""
    stream = Stream(0)

    assert stream.add(MAX_HEAD, b"x") == 0
    assert stream.add(MAX_HEAD - 1, b"xy") == 1 + OVERHEAD


def test_pieces_are_bounded():
    """Only so many segments wait for those before them."""
    stream = Stream(0)
    held = sum(stream.add(n, b"x") for n in range(1, 4000, 2))

    assert held == MAX_PIECES * (1 + OVERHEAD)


@given(
    size=st.integers(0, 3000),
    base=st.sampled_from([0, 1000, 0xFFFFFF00, 0x7FFFFF00]),
    seed=st.integers(0, 1 << 32),
)
def test_any_order(size, base, seed):
    """Segments cut anywhere, overlapping, repeated and shuffled, give the stream."""
    chance = random.Random(seed)
    data = chance.randbytes(size)
    segments = []
    at = 0
    while at < size:
        end = min(size, at + chance.randrange(1, 200))
        begin = max(0, at - chance.choice([0, 0, 0, 1, 50]))
        segments += [(begin, data[begin:end])] * chance.choice([1, 1, 1, 2])
        at = end
    chance.shuffle(segments)
    stream = Stream(base)
    held = sum(stream.add((base + begin) & 0xFFFFFFFF, part) for begin, part in segments)
    stream.finish()

    assert stream.head == data
    assert held == size + OVERHEAD * len(stream.parts)
