# SPDX-License-Identifier: Apache-2.0
"""Numbers in maps go down without anything else being written."""

from __future__ import annotations

import struct
import threading

import pytest

from agentwall.errors import KernelError
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.subtract import Adder, Subtractor

pytestmark = pytest.mark.kernel

KEY = struct.pack("=QQ", 7, 9)


def make_map(key_size: int, value_size: int = 16) -> BpfMap:
    return BpfMap.create(
        MapShape(
            name="counts",
            type=MapType.HASH,
            key_size=key_size,
            value_size=value_size,
            max_entries=4,
        )
    )


@pytest.fixture
def counts():
    """A hash with keys of 16 and values of 16 bytes."""
    made = make_map(16)
    yield made
    made.close()


@pytest.mark.parametrize(
    ("offset", "width", "format_", "after"),
    [(8, 8, "=QQ", (1 << 40, 1 << 39)), (4, 4, "=IIII", (0, 20, 0, 256))],
)
def test_only_the_field_goes_down(counts, offset, width, format_, after):
    """Its neighbours and other entries stay as they are, whatever its width."""
    counts.update(KEY, struct.pack("=QQ", 1 << 40, 1 << 40))
    counts.update(bytes(16), struct.pack("=QQ", 1, 1))
    if width == 4:
        counts.update(KEY, struct.pack("=IIII", 0, 256, 0, 256))
    one = Subtractor(counts, offset, width)
    one.subtract(KEY, 1 << 39 if width == 8 else 236)
    one.close()

    assert struct.unpack(format_, counts.lookup(KEY)) == after
    assert counts.lookup(bytes(16)) == struct.pack("=QQ", 1, 1)


def test_never_below_zero(counts):
    """Where less is left nothing changes, and where nothing is nothing is made."""
    counts.update(KEY, struct.pack("=QQ", 5, 5))
    one = Subtractor(counts, 8, 8)
    one.subtract(KEY, 6)
    one.subtract(bytes(16), 1)
    one.subtract(KEY, 5)
    one.close()

    assert struct.unpack("=QQ", counts.lookup(KEY)) == (5, 0)
    assert counts.lookup(bytes(16)) is None


def test_at_the_same_time(counts):
    """What several take at the same time is all taken."""
    counts.update(KEY, struct.pack("=QQ", 0, 4000))
    one = Subtractor(counts, 8, 8)
    threads = [
        threading.Thread(target=lambda: [one.subtract(KEY, 1) for _ in range(1000)])
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.close()

    assert struct.unpack("=QQ", counts.lookup(KEY)) == (0, 1000)


def test_short_keys():
    """Keys shorter than the room for them are found."""
    short = make_map(8)
    short.update(KEY[:8], struct.pack("=QQ", 3, 3))
    one = Subtractor(short, 0, 8)
    one.subtract(KEY[:8], 2)
    one.close()

    assert struct.unpack("=QQ", short.lookup(KEY[:8])) == (1, 3)
    short.close()


def test_long_keys():
    """Keys that do not fit are refused."""
    long = make_map(24)
    with pytest.raises(KernelError, match="map counts: expected keys of at most 16 bytes"):
        Subtractor(long, 0, 8)
    long.close()


def test_adding(counts):
    """What is added to one field is added to it alone, whatever others add at the same time."""
    counts.update(KEY, struct.pack("=QQ", 5, 0))
    one = Adder(counts, 8, 8)
    threads = [
        threading.Thread(target=lambda: [one.add(KEY, 2) for _ in range(1000)]) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    one.add(bytes(16), 1)
    one.close()

    assert struct.unpack("=QQ", counts.lookup(KEY)) == (5, 6000)
    assert counts.lookup(bytes(16)) is None
