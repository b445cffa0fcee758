# SPDX-License-Identifier: Apache-2.0
"""From batches of records to batches of transport packets, all packets of a batch at once.

Usual packets (Ethernet with up to two VLAN tags, raw IP, Linux cooked; IPv4 and IPv6 without
fragments or extension headers; TCP, UDP, ICMP) are read by NumPy from copies of their headers. The
rest goes through :mod:`agentwall.capture.network` one by one and joins the others in its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from agentwall.capture.link import ETHERNET, IPV4, IPV6, RAWS, SLL, SLL2, VLANS
from agentwall.capture.network import (
    CARRIERS,
    ECHOES,
    EXTENSIONS,
    ICMP,
    ICMPV6,
    SYN,
    TCP,
    TUNNEL_PORTS,
    UDP,
    Transported,
    Walker,
)
from agentwall.capture.records import Batch, Ints

Mask = npt.NDArray[np.bool_]
Words = npt.NDArray[np.uint64]

# EtherTypes that carry no IP: ARP, RARP, 802.1X, LLDP, loopback, CDP's and STP's lengths are below.
_NOT_IP = np.array([0x0806, 0x8035, 0x888E, 0x88CC, 0x9000])
_ETHERNET_TYPE, _SLL_TYPE, _SLL2_TYPE = 12, 14, 0
_IPV4 = np.dtype(
    {
        "names": ["version", "total", "fragment", "protocol", "source", "destination"],
        "formats": ["u1", ">u2", ">u2", "u1", ">u4", ">u4"],
        "offsets": [0, 2, 6, 9, 12, 16],
        "itemsize": 20,
    }
)
_IPV6 = np.dtype(
    {
        "names": ["version", "size", "protocol", "source_high", "source", "dest_high", "dest"],
        "formats": ["u1", ">u2", "u1", ">u8", ">u8", ">u8", ">u8"],
        "offsets": [0, 4, 6, 8, 16, 24, 32],
        "itemsize": 40,
    }
)
_L4 = np.dtype(
    {
        "names": ["source", "destination", "sequence", "size", "ack", "offset", "flags", "kind"],
        "formats": [">u2", ">u2", ">u4", ">u2", ">u4", "u1", "u1", "u1"],
        "offsets": [0, 2, 4, 4, 8, 12, 13, 0],
        "itemsize": 20,
    }
)
_TUNNELS = np.zeros(65_536, dtype=np.bool_)
_TUNNELS[list(TUNNEL_PORTS)] = True
_HOLDS_MORE = np.zeros(256, dtype=np.bool_)
_HOLDS_MORE[[*EXTENSIONS, *CARRIERS]] = True


@dataclass(slots=True)
class Packets:
    """Transport packets in the order of the capture; arrays have one value a packet."""

    order: Ints
    """Which record of the batch it came in; rising."""
    is_v6: Mask
    source_high: Words
    """Upper half of the address; 0 for IPv4."""
    source: Words
    destination_high: Words
    destination: Words
    source_port: Ints
    destination_port: Ints
    protocol: Ints
    flags: Ints
    """TCP's; of an ICMP echo, SYN for a request."""
    sequence: Ints
    acknowledged: Ints
    start: Ints
    """Where the payload begins in the bytes that come with this."""
    captured: Ints
    """Bytes of payload that are there."""
    size: Ints
    """Bytes of payload on the wire."""
    times_ns: Ints

    def take(self, which: Ints | Mask) -> Packets:
        """Return some of them."""
        return Packets(*(getattr(self, part.name)[which] for part in fields(self)))


def read_headers(batch: Batch, walker: Walker) -> tuple[Packets, bytes]:
    """Read the headers of a batch.

    Returns:
        The transport packets, and the bytes that their payloads lie in.
    """
    kind, network = _network(batch)
    is_odd = kind == -1
    found = []
    for reader, ethertype in ((_read_ipv4, IPV4), (_read_ipv6, IPV6)):
        which = np.flatnonzero(kind == ethertype)
        if len(which):
            packets, odd = reader(batch, which, network[which])
            found.append(packets)
            is_odd[odd] = True
    odd = np.flatnonzero(is_odd)
    data = batch.raw
    if len(odd):
        packets, data = _walk(batch, odd, walker)
        found.append(packets)
    if len(found) == 1:
        return found[0], data
    return _merge(found), data


def end_packets(walker: Walker, time_ns: int) -> tuple[Packets, bytes]:
    """Return what is left of fragments at a capture's end, as if it came at *time_ns*."""
    rows = [(0, time_ns, packet) for packet in walker.finish()]
    return _rows(rows, 0), b"".join(packet.payload for _, _, packet in rows)


def _merge(parts: Sequence[Packets]) -> Packets:
    if not parts:
        return _rows([], 0)
    columns = [np.concatenate([getattr(p, part.name) for p in parts]) for part in fields(Packets)]
    merged = Packets(*columns)
    return merged.take(np.argsort(merged.order, kind="stable"))


def _headers(raw: bytes, at: Ints, layout: np.dtype[np.void]) -> npt.NDArray[np.void]:
    # A window of the header's size at every byte, of which the wanted ones are copied.
    windows = np.ndarray(
        (len(raw) - layout.itemsize + 1,), f"V{layout.itemsize}", raw, strides=(1,)
    )
    return windows[at].view(layout)


def _words(raw: bytes, at: Ints) -> Ints:
    return np.ndarray((len(raw) - 1,), ">u2", raw, strides=(1,))[at].astype(np.int64)


def _network(batch: Batch) -> tuple[Ints, Ints]:
    # The EtherType (-1: for the slow way, 0: nothing) and where the network header begins.
    offsets, links = batch.offsets, batch.links
    kind = np.full(len(offsets), -1, dtype=np.int64)
    network = offsets.copy()
    for link in np.unique(links).tolist():
        which = np.flatnonzero(links == link)
        at = offsets[which]
        if link == ETHERNET:
            kind[which], network[which] = _typed(batch, which, at + _ETHERNET_TYPE, at + 14)
        elif link == SLL:
            kind[which], network[which] = _typed(batch, which, at + _SLL_TYPE, at + 16)
        elif link == SLL2:
            kind[which], network[which] = _typed(batch, which, at + _SLL2_TYPE, at + 20)
        elif link in RAWS:
            version = np.frombuffer(batch.raw, np.uint8)[at] >> 4
            kind[which] = np.select([version == 4, version == 6], [IPV4, IPV6], 0)
    return kind, network


def _typed(batch: Batch, which: Ints, type_at: Ints, network: Ints) -> tuple[Ints, Ints]:
    kind = _words(batch.raw, type_at)
    end = batch.offsets[which] + batch.captured[which]
    for _ in range(2):
        tagged = np.flatnonzero((kind == VLANS[0]) | (kind == VLANS[1]))
        if not len(tagged):
            break
        # A tag that ends the packet has no type behind it; the padding keeps this in bounds.
        at = network[tagged]
        kind[tagged] = np.where(
            at + 4 <= end[tagged], _words(batch.raw, np.minimum(at, end[tagged]) + 2), 0
        )
        network[tagged] += 4
    is_ip = (kind == IPV4) | (kind == IPV6)
    rest = kind[~is_ip]
    kind[~is_ip] = np.where(np.isin(rest, _NOT_IP), 0, -1)
    return kind, network


def _read_ipv4(batch: Batch, which: Ints, network: Ints) -> tuple[Packets, Ints]:
    limit = batch.offsets[which] + batch.captured[which]
    header = _headers(batch.raw, np.minimum(network, limit), _IPV4)
    protocol = header["protocol"]
    size = (header["version"] & 15).astype(np.int64) * 4
    total = header["total"].astype(np.int64)
    wire = batch.offsets[which] + batch.wire[which]
    end = np.where(total >= size, np.minimum(network + total, wire), wire)
    is_usual = (
        (header["version"] >> 4 == 4)
        & (size >= 20)
        & (network + size <= limit)
        & (header["fragment"] & 0x3FFF == 0)
        & ~_HOLDS_MORE[protocol]
        & (protocol != ICMPV6)
    )
    none = np.zeros(len(which), dtype=np.uint64)
    addresses = (
        none,
        header["source"].astype(np.uint64),
        none,
        header["destination"].astype(np.uint64),
    )
    return _read_transport(batch, which, addresses, protocol, network + size, end, is_usual)


def _read_ipv6(batch: Batch, which: Ints, network: Ints) -> tuple[Packets, Ints]:
    limit = batch.offsets[which] + batch.captured[which]
    header = _headers(batch.raw, np.minimum(network, limit), _IPV6)
    protocol = header["protocol"]
    size = header["size"].astype(np.int64)
    wire = batch.offsets[which] + batch.wire[which]
    end = np.where(size > 0, np.minimum(network + 40 + size, wire), wire)
    is_usual = (
        (header["version"] >> 4 == 6)
        & (network + 40 <= limit)
        & ~_HOLDS_MORE[protocol]
        & (protocol != ICMP)
    )
    addresses = (
        header["source_high"].astype(np.uint64),
        header["source"].astype(np.uint64),
        header["dest_high"].astype(np.uint64),
        header["dest"].astype(np.uint64),
    )
    return _read_transport(batch, which, addresses, protocol, network + 40, end, is_usual, v6=True)


def _read_transport(
    batch: Batch,
    which: Ints,
    addresses: tuple[Words, Words, Words, Words],
    protocol: npt.NDArray[np.uint8],
    at: Ints,
    end: Ints,
    is_usual: Mask,
    *,
    v6: bool = False,
) -> tuple[Packets, Ints]:
    limit = batch.offsets[which] + batch.captured[which]
    header = _headers(batch.raw, np.minimum(at, limit), _L4)
    seen = np.minimum(end, limit)
    is_tcp, is_udp = protocol == TCP, protocol == UDP
    is_icmp = protocol == (ICMPV6 if v6 else ICMP)
    is_read = is_tcp | is_udp | is_icmp
    source = np.where(is_tcp | is_udp, header["source"], 0).astype(np.int64)
    destination = np.where(is_tcp | is_udp, header["destination"], 0).astype(np.int64)
    size = np.select([is_tcp, is_read], [(header["offset"] >> 4).astype(np.int64) * 4, 8], 0)
    least = np.select([is_tcp, is_read], [20, 8], 0)
    is_usual &= (at + least <= seen) & (size >= least)
    is_usual &= ~is_udp | ~(_TUNNELS[source] | _TUNNELS[destination])
    start = at + size
    stated = np.where(is_udp, header["size"], 0).astype(np.int64)
    end = np.where((stated >= 8) & (at + stated < end), at + stated, end)
    flags = np.where(is_tcp, header["flags"], 0).astype(np.int64)
    seen = np.where(is_read, seen, start)
    if is_icmp.any():
        request, reply = ECHOES[ICMPV6 if v6 else ICMP]
        flags[is_icmp & (header["kind"] == request)] = SYN
        quiet = is_icmp & (header["kind"] != request) & (header["kind"] != reply)
        end = np.where(quiet, start, end)
    packets = Packets(
        which, np.full(len(which), v6), *addresses, source, destination,
        protocol.astype(np.int64), flags,
        header["sequence"].astype(np.int64), header["ack"].astype(np.int64),
        start, np.maximum(np.minimum(end, seen) - start, 0), np.maximum(end - start, 0),
        batch.times_ns[which],
    )  # fmt: skip
    if is_usual.all():
        return packets, which[:0]
    return packets.take(np.flatnonzero(is_usual)), which[~is_usual]


def _walk(batch: Batch, odd: Ints, walker: Walker) -> tuple[Packets, bytes]:
    raw = batch.raw
    columns = (odd, batch.offsets[odd], batch.captured[odd], batch.wire[odd])
    rows = []
    for index, at, captured, wire in zip(*(part.tolist() for part in columns), strict=True):
        found = walker.walk(int(batch.links[index]), raw[at : at + captured], wire)
        time = int(batch.times_ns[index])
        rows += [(index, time, packet) for packet in found]
    payloads = b"".join(packet.payload for _, _, packet in rows)
    return _rows(rows, len(raw)), raw + payloads


def _rows(rows: Sequence[tuple[int, int, Transported]], base: int) -> Packets:
    # As columns; the payloads lie one behind the other from base on.
    sizes = np.array([len(packet.payload) for _, _, packet in rows], dtype=np.int64)
    half = (1 << 64) - 1
    sources = [int.from_bytes(packet.source, "big") for _, _, packet in rows]
    destinations = [int.from_bytes(packet.destination, "big") for _, _, packet in rows]

    def column(name: str) -> Ints:
        return np.array([getattr(packet, name) for _, _, packet in rows], dtype=np.int64)

    def words(values: list[int]) -> Words:
        return np.array(values, dtype=np.uint64)

    return Packets(
        order=np.array([index for index, _, _ in rows], dtype=np.int64),
        is_v6=np.array([len(packet.source) == 16 for _, _, packet in rows], dtype=np.bool_),
        source_high=words([value >> 64 for value in sources]),
        source=words([value & half for value in sources]),
        destination_high=words([value >> 64 for value in destinations]),
        destination=words([value & half for value in destinations]),
        source_port=column("source_port"),
        destination_port=column("destination_port"),
        protocol=column("protocol"),
        flags=column("flags"),
        sequence=column("sequence"),
        acknowledged=column("acknowledged"),
        start=base + np.cumsum(sizes) - sizes,
        captured=sizes,
        size=column("size"),
        times_ns=np.array([time for _, time, _ in rows], dtype=np.int64),
    )
