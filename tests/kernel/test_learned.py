# SPDX-License-Identifier: Apache-2.0
"""What sandboxes learned is read, and cleared of what is over, on the maps of the real object."""

import ctypes
import struct
from ipaddress import ip_address

import pytest

from agentwall.errors import KernelError
from agentwall.kernel import abi, learned
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.learned import BOUND, BOUND_KEY, KNOWN, KNOWN_KEY, MARGIN_NS, LearnedNames
from agentwall.kernel.libbpf import MapType
from agentwall.kernel.objects import BpfObject
from agentwall.net.domain import name_key
from agentwall.net.endpoint import key_bytes

pytestmark = pytest.mark.kernel

SECOND = 1_000_000_000
HOUR = 3600 * SECOND
SANDBOX, OTHER = 7, 8
HUB, CDN = 0x1111, 0x2222
ADDRESS = ip_address("203.0.113.7")
COUNTERS = struct.Struct(f"=8Q{ctypes.sizeof(abi.Counters) - 64}x")
"""``struct aw_counters`` as far as ``bound``."""


class Ground:
    """The maps, filled as the programs would fill them."""

    def __init__(self, maps: dict[str, BpfMap]) -> None:
        self.known, self.bound = maps["aw_known"], maps["aw_bound"]
        self.counters = maps["aw_counters"]
        self.names = LearnedNames(self.known, self.bound, self.counters)

    def know(self, name: str, name_hash: int, *, sandbox=SANDBOX, addresses=0, seen_ns=0) -> None:
        text = name_key(name)
        value = KNOWN.pack(3, bytes(8), seen_ns, addresses, len(text), text)
        self.known.update(KNOWN_KEY.pack(sandbox, name_hash), value)

    def bind(self, address, *names: tuple[int, int], sandbox=SANDBOX) -> bytes:
        key = BOUND_KEY.pack(sandbox, key_bytes(address))
        slots = [*names, *[(0, 0)] * (8 - len(names))]
        self.bound.update(key, BOUND.pack(*(number for slot in slots for number in slot)))
        return key

    def count(self, bound: int, sandbox=SANDBOX) -> None:
        raw = COUNTERS.pack(1, 2, 3, 4, 5, 6, 7, bound)
        self.counters.update(struct.pack("=Q", sandbox), raw)

    def counted(self, sandbox=SANDBOX) -> tuple[int, ...]:
        return COUNTERS.unpack(self.counters.lookup(struct.pack("=Q", sandbox)))

    def addresses(self, name_hash: int, sandbox=SANDBOX) -> int | None:
        raw = self.known.lookup(KNOWN_KEY.pack(sandbox, name_hash))
        return abi.Known.from_buffer_copy(raw).addresses if raw else None


@pytest.fixture
def ground(compile_bpf):
    """Empty maps of sizes that tests can fill."""
    with BpfObject.open(compile_bpf("maps_alone")) as bpf:
        bpf.set_max_entries("aw_known", 8)
        bpf.set_max_entries("aw_bound", 64)
        bpf.load()
        made = Ground(bpf.maps())
        yield made
        made.names.close()


@pytest.mark.parametrize(
    ("format_", "mirror"),
    [
        (KNOWN_KEY, abi.KnownKey),
        (KNOWN, abi.Known),
        (BOUND_KEY, abi.BoundKey),
        (BOUND, abi.Bound),
    ],
)
def test_formats(format_, mirror):
    """Each format is as long as the struct it stands for."""
    assert format_.size == ctypes.sizeof(mirror)


def test_learned(ground):
    """Each address is listed once a name, for its own sandbox only."""
    ground.know("hub.example.com", HUB)
    ground.know("cdn.example.net", CDN)
    ground.know("other.example", HUB, sandbox=OTHER)
    ground.bind(ADDRESS, (HUB, 5), (CDN, 6))
    ground.bind(ip_address("2001:db8::7"), (HUB, 7))
    ground.bind(ADDRESS, (HUB, 8), sandbox=OTHER)

    assert [
        (one.name, str(one.address), one.until_ns) for one in ground.names.learned(SANDBOX)
    ] == [
        ("cdn.example.net", "203.0.113.7", 6),
        ("hub.example.com", "203.0.113.7", 5),
        ("hub.example.com", "2001:db8::7", 7),
    ]


def test_name_of(ground):
    """A name is found by sandbox and hash, and kept when it is asked for again."""
    ground.know("hub.example.com", HUB)
    first = ground.names.name_of(SANDBOX, HUB)
    ground.known.delete(KNOWN_KEY.pack(SANDBOX, HUB))

    assert first == "hub.example.com"
    assert ground.names.name_of(SANDBOX, HUB) == "hub.example.com"
    assert ground.names.name_of(OTHER, HUB) is None


def test_cache_is_bounded(ground, monkeypatch):
    """More names than the cache has room for are all found."""
    monkeypatch.setattr(learned, "_MAX_CACHED", 2)
    for number in range(1, 6):
        ground.know(f"n{number}.example", number)

    assert [ground.names.name_of(SANDBOX, n) for n in range(1, 6)] == [
        f"n{n}.example" for n in range(1, 6)
    ]


def test_expired_addresses(ground):
    """An address goes a while after its last name is over, and the counts go down with it."""
    ground.count(5)
    ground.know("hub.example.com", HUB, addresses=3, seen_ns=HOUR)
    ground.know("cdn.example.net", CDN, addresses=1, seen_ns=HOUR)
    gone = ground.bind(ADDRESS, (HUB, 10 * SECOND), (CDN, 20 * SECOND))
    kept = ground.bind(ip_address("203.0.113.8"), (HUB, 10 * SECOND), (CDN, 90 * SECOND))
    ground.names.expire(20 * SECOND + MARGIN_NS)
    before = len(ground.bound.entries())
    ground.names.expire(20 * SECOND + MARGIN_NS + 1)

    assert before == 2
    assert ground.bound.lookup(gone) is None
    assert ground.bound.lookup(kept) is not None
    assert (ground.addresses(HUB), ground.addresses(CDN)) == (2, 0)
    assert ground.counted() == (1, 2, 3, 4, 5, 6, 7, 4)


def test_counts_never_fall_below_zero(ground):
    """A count that says less than what is removed stays as it is, rather than becoming huge."""
    ground.count(0)
    ground.know("hub.example.com", HUB, addresses=0, seen_ns=HOUR)
    ground.bind(ADDRESS, (HUB, 1))
    ground.names.expire(MARGIN_NS + 2)

    assert (ground.addresses(HUB), ground.counted()[7]) == (0, 0)


def test_renewed_on_the_way(ground, monkeypatch):
    """An address that a program learns again between look and removal is put back whole."""
    ground.count(1)
    ground.know("hub.example.com", HUB, addresses=1, seen_ns=HOUR)
    key = ground.bind(ADDRESS, (HUB, 1))
    take = BpfMap.take

    def renew_and_take(self: BpfMap, taken: bytes) -> bytes | None:
        if taken == key:
            ground.bind(ADDRESS, (HUB, HOUR), (CDN, HOUR))
        return take(self, taken)

    monkeypatch.setattr(BpfMap, "take", renew_and_take)
    ground.names.expire(MARGIN_NS + 2)

    assert BOUND.unpack(ground.bound.lookup(key))[:4] == (HUB, HOUR, CDN, HOUR)
    assert (ground.addresses(HUB), ground.counted()[7]) == (1, 1)


def test_known_names(ground):
    """A name without addresses is forgotten after a day; one with addresses never."""
    now = 100 * HOUR
    ground.know("old.example", 1, seen_ns=now - 25 * HOUR)
    ground.know("bound.example", 2, seen_ns=1)
    ground.bind(ADDRESS, (2, now))
    ground.know("counted.example", 3, seen_ns=1, addresses=1)
    ground.know("new.example", 4, seen_ns=now - 23 * HOUR)
    ground.names.expire(now)

    assert ground.addresses(1) is None
    assert [ground.addresses(name) for name in (2, 3, 4)] == [0, 1, 0]


def test_known_names_when_full(ground):
    """While the map is more than half full, an hour is enough."""
    now = 100 * HOUR
    for number in range(1, 6):
        ground.know(f"n{number}.example", number, seen_ns=now - number * HOUR // 2 - 1)
    ground.names.expire(now)

    assert [ground.addresses(n) is None for n in range(1, 6)] == [False, True, True, True, True]


def test_drop(ground):
    """A sandbox that ends takes its own with it, names that were asked for before too."""
    for sandbox in (SANDBOX, OTHER):
        ground.know("hub.example.com", HUB, sandbox=sandbox)
        ground.bind(ADDRESS, (HUB, HOUR), sandbox=sandbox)
    ground.names.name_of(SANDBOX, HUB)
    ground.names.drop(SANDBOX)

    assert ground.names.learned(SANDBOX) == []
    assert ground.names.name_of(SANDBOX, HUB) is None
    assert len(ground.names.learned(OTHER)) == 1


def test_nothing_there(ground):
    """Clearing empty maps is no error."""
    ground.names.expire(HOUR)
    ground.names.drop(SANDBOX)

    assert ground.names.learned(SANDBOX) == []


def test_take_needs_a_lock():
    """Without a lock in the values there is nothing that makes them whole."""
    shape = MapShape(name="plain", type=MapType.HASH, key_size=8, value_size=8, max_entries=1)
    plain = BpfMap.create(shape)
    with pytest.raises(KernelError, match="map plain: take: invalid argument"):
        plain.take(bytes(8))
    plain.close()


def test_add(ground):
    """What is there already is not written over."""
    key = BOUND_KEY.pack(SANDBOX, bytes(16))
    first = ground.bound.add(key, BOUND.pack(1, *[0] * 15))
    second = ground.bound.add(key, BOUND.pack(2, *[0] * 15))

    assert (first, second) == (True, False)
    assert BOUND.unpack(ground.bound.take(key))[0] == 1
    assert ground.bound.take(key) is None
