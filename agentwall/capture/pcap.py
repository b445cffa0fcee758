# SPDX-License-Identifier: Apache-2.0
"""The pcap format: draft-ietf-opsawg-pcap-05, both byte orders, microseconds and nanoseconds.

Also the format of Kuznetzov's patched libpcap (magic a1b2cd34), whose records have 8 bytes more.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from agentwall.capture.records import MAX_RECORD, Batch, Problems, Window

_FILE_HEADER = 24
_LINK_MASK = 0x03FFFFFF  # the upper bits say how long frame check sequences are


@dataclass(frozen=True, slots=True)
class _Kind:
    order: str
    ns_a_tick: int
    header: int


_KINDS = {
    number.to_bytes(4, "little" if order == "<" else "big"): _Kind(order, ns_a_tick, header)
    for order in "<>"
    for number, ns_a_tick, header in (
        (0xA1B2C3D4, 1000, 16),
        (0xA1B23C4D, 1, 16),
        (0xA1B2CD34, 1000, 24),
    )
}
PCAP_MAGICS = frozenset(_KINDS)
"""First four bytes of such files."""


def read_pcap(window: Window, problems: Problems) -> Iterator[Batch]:
    """Yield the packets of a file whose magic number *window* begins with."""
    if not window.need(_FILE_HEADER):
        problems.add("file header cut short", window.base)
        return
    kind = _KINDS[window.data[:4]]
    (network,) = struct.unpack_from(f"{kind.order}I", window.data, 20)
    window.at = _FILE_HEADER
    while True:
        offsets, problem = _walk(window, kind)
        if offsets:
            yield _batch(window.data, offsets, kind, network & _LINK_MASK)
        if problem is not None:
            problems.add(problem, window.base + window.at)
            return
        if not window.more():
            break
    if window.left:
        problems.add(f"record cut short, {window.left} bytes of it are there", window.base)
        rest = _rest(window, kind)
        if rest is not None:
            batch = _batch(window.data, [0], kind, network & _LINK_MASK, rest)
            batch.is_cut = True
            yield batch


def _walk(window: Window, kind: _Kind) -> tuple[list[int], str | None]:
    # The one loop over records: as little as possible in it.
    unpack = struct.Struct(f"{kind.order}I").unpack_from
    data, at, header = window.data, window.at, kind.header
    end = window.size
    last = end - header
    offsets: list[int] = []
    append = offsets.append
    problem = None
    while at <= last:
        (size,) = unpack(data, at + 8)
        if size > MAX_RECORD:
            problem = f"record length: expected at most {MAX_RECORD}, got {size}"
            break
        behind = at + header + size
        if behind > end:
            break
        append(at)
        at = behind
    window.at = at
    return offsets, problem


def _rest(window: Window, kind: _Kind) -> int | None:
    # What is there of the last packet is judged as if the capture had cut it there.
    return window.left - kind.header if window.left > kind.header else None


def _batch(
    data: bytes, offsets: list[int], kind: _Kind, link: int, captured: int | None = None
) -> Batch:
    starts = np.array(offsets, dtype=np.int64)
    # A window of 16 bytes at every place, of which those with a header are copied.
    windows = np.ndarray((len(data) - 15,), "V16", data, strides=(1,))
    fields = windows[starts].view(f"{kind.order}u4").reshape(-1, 4).T.astype(np.int64)
    times = fields[0] * 1_000_000_000 + fields[1] * kind.ns_a_tick
    lengths = fields[2] if captured is None else np.array([captured], dtype=np.int64)
    # Some writers leave out the length on the wire or get it wrong; it is no less than was seen.
    wire = np.maximum(fields[3], lengths)
    links = np.full(len(starts), link, dtype=np.int64)
    return Batch(data, starts + kind.header, lengths, wire, times, links)
