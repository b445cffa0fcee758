# SPDX-License-Identifier: Apache-2.0
"""Maps are read and written, singly and in batches, with and without the kernel's batch calls."""

import errno
import struct

import pytest

from agentwall.errors import KernelError
from agentwall.kernel import libbpf
from agentwall.kernel.bpfmap import BpfMap, MapShape
from agentwall.kernel.libbpf import MapType

pytestmark = pytest.mark.kernel


@pytest.fixture(params=["batch", "singly"])
def batching(request, monkeypatch):
    """Run a test as on this kernel, and as on one whose maps have no batch operations."""
    if request.param == "singly":
        lib = libbpf.library()
        for call in ("update", "delete", "lookup", "lookup_and_delete"):
            monkeypatch.setattr(lib, f"bpf_map_{call}_batch", lambda *_: -libbpf.ENOTSUPP)


@pytest.fixture
def hash_map():
    """A hash of u32 -> u64 with 3 000 places."""
    shape = MapShape(name="test", type=MapType.HASH, key_size=4, value_size=8, max_entries=3000)
    made = BpfMap.create(shape)
    yield made
    made.close()


def pack(numbers) -> tuple[bytes, bytes]:
    keys = b"".join(struct.pack("=I", n) for n in numbers)
    return keys, b"".join(struct.pack("=Q", n * n) for n in numbers)


def test_single_operations(hash_map):
    """An entry is there after its update and gone after its deletion."""
    key = struct.pack("=I", 5)

    assert hash_map.lookup(key) is None
    hash_map.update(key, bytes(8))
    hash_map.update(key, b"12345678")
    assert hash_map.lookup(key) == b"12345678"
    assert list(hash_map.keys()) == [key]
    assert hash_map.delete(key)
    assert not hash_map.delete(key)


@pytest.mark.usefixtures("batching")
def test_batches(hash_map):
    """What is written in one call is read, deleted and drained in one call."""
    keys, values = pack(range(2500))
    hash_map.update_batch(keys, values)
    entries = dict(hash_map.entries())

    assert len(entries) == 2500
    assert entries[struct.pack("=I", 49)] == struct.pack("=Q", 49 * 49)
    hash_map.delete_batch(pack(range(500))[0])
    drained = hash_map.drain()
    assert sorted(struct.unpack("=I", key)[0] for key, _ in drained) == list(range(500, 2500))
    assert hash_map.entries() == []


@pytest.mark.usefixtures("batching")
def test_deleting_what_is_not_there(hash_map):
    """A batch deletion goes on after an entry that has gone."""
    hash_map.update_batch(*pack([1, 3]))
    hash_map.delete_batch(pack([1, 2, 3])[0])

    assert hash_map.entries() == []


@pytest.mark.usefixtures("batching")
def test_empty_batches(hash_map):
    """Writing and deleting nothing is nothing."""
    hash_map.update_batch(b"", b"")
    hash_map.delete_batch(b"")

    assert hash_map.drain() == []


@pytest.mark.usefixtures("batching")
def test_full(hash_map):
    """A map that is full says so, with the kernel's errno."""
    with pytest.raises(KernelError, match="map test: update") as caught:
        hash_map.update_batch(*pack(range(3001)))

    assert caught.value.errno in (errno.E2BIG, errno.ENOSPC)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.lookup(b"123"), "map test: key: expected 4 bytes, got 3"),
        (lambda m: m.update(bytes(4), bytes(7)), "map test: value: expected 8 bytes, got 7"),
        (lambda m: m.delete(bytes(5)), "map test: key: expected 4 bytes, got 5"),
        (lambda m: m.update_batch(bytes(9), bytes(16)), "keys: expected 8 bytes, got 9"),
        (lambda m: m.update_batch(bytes(8), bytes(15)), "values: expected 16 bytes, got 15"),
    ],
)
def test_wrong_sizes(hash_map, call, message):
    """Bytes of another size than the map's never reach the kernel, which would read past them."""
    with pytest.raises(KernelError, match=message):
        call(hash_map)


def test_refused_map():
    """A map that the kernel refuses is an error with its type."""
    shape = MapShape(name="x", type=MapType.LPM_TRIE, key_size=8, value_size=8, max_entries=1)

    with pytest.raises(KernelError, match="map x: create lpm_trie: invalid argument"):
        BpfMap.create(shape)  # tries must be made without preallocation
