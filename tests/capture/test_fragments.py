# SPDX-License-Identifier: Apache-2.0
"""Fragments put together, and when they are given up."""

from __future__ import annotations

import itertools

import pytest

from agentwall.capture.fragments import MAX_DATAGRAMS, MAX_HELD, Fragments

PARTS = [(0, b"a" * 16, False), (16, b"b" * 8, False), (24, b"c", True)]


@pytest.mark.parametrize("order", list(itertools.permutations(PARTS)))
def test_any_order(order):
    """The last fragment to come makes the datagram, whichever it is."""
    fragments = Fragments()
    found = [fragments.add("key", at, data, is_last=last) for at, data, last in order]

    assert found == [None, None, b"a" * 16 + b"b" * 8 + b"c"]
    assert fragments.partial(is_end=True) == []


def test_first_copy_stays():
    """Where fragments overlap, the bytes that came first stay."""
    fragments = Fragments()
    fragments.add(1, 8, b"B" * 8, is_last=False)
    fragments.add(1, 0, b"a" * 16, is_last=False)

    assert fragments.add(1, 16, b"c", is_last=True) == b"a" * 8 + b"B" * 8 + b"c"


def test_keys_stay_apart():
    """Fragments of different datagrams do not meet."""
    fragments = Fragments()
    fragments.add(1, 0, b"a" * 8, is_last=False)

    assert fragments.add(2, 8, b"b", is_last=True) is None
    assert fragments.add(1, 8, b"c", is_last=True) == b"a" * 8 + b"c"


def test_beginnings_of_what_is_given_up():
    """At the end there is left what came of each datagram up to its first gap."""
    fragments = Fragments()
    fragments.add(1, 0, b"a" * 8, is_last=False)
    fragments.add(1, 16, b"c" * 8, is_last=False)
    fragments.add(2, 8, b"b", is_last=True)

    assert fragments.partial(is_end=True) == [(1, b"a" * 8)]
    assert fragments.given_up == 2


def test_bounds():
    """Neither very many datagrams nor very large ones are held; the oldest give way."""
    many, large = Fragments(), Fragments()
    for key in range(MAX_DATAGRAMS + 10):
        many.add(key, 0, b"a" * 8, is_last=False)
    for key in range(MAX_HELD // 60_000 + 10):
        large.add(key, 0, bytes(60_000), is_last=False)

    assert [key for key, _ in many.partial()] == list(range(10))
    assert large.given_up >= 10


def test_no_datagram_is_longer_than_ip_lets_it_be():
    """A fragment behind the end of the longest datagram is not kept."""
    assert Fragments().add(1, 65_528, bytes(8), is_last=True) is None
