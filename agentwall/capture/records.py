# SPDX-License-Identifier: Apache-2.0
"""A capture file as batches of packet records, whichever format it has.

Comes from :mod:`agentwall.capture.source`, goes to :mod:`agentwall.capture.headers`. Both formats
are read in one pass, a chunk at a time: memory holds one chunk (4 MiB), what is left of the one
before it, and a few numbers a packet.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from agentwall.capture.source import CHUNK, Reader, ReadError

MAX_RECORD = 1 << 20
"""Bytes of one record or block. libpcap reads 262 144 at most; some writers keep whole TSO frames.
What says it is longer is broken, and with it the way to the next record."""
MAX_ERRORS = 64
"""Problems of one capture that are kept; the rest are counted."""
PADDING = 128
"""Zero bytes behind a batch's data, so that headers of short packets can be looked at."""

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class CaptureError:
    """One thing that is wrong with a capture."""

    path: str
    what: str
    offset: int | None
    """In bytes from the beginning, after decompression; None where it has no place."""

    def __str__(self) -> str:
        at = "" if self.offset is None else f" at byte {self.offset}"
        return f"{self.path}: {self.what}{at}"


@dataclass(slots=True)
class Problems:
    """What is wrong with one capture, bounded."""

    path: str
    errors: list[CaptureError] = field(default_factory=list)
    more: int = 0
    """How many were not kept."""

    def add(self, what: str, offset: int | None = None) -> None:
        """Keep one problem, or count it."""
        if len(self.errors) < MAX_ERRORS:
            self.errors.append(CaptureError(self.path, what, offset))
        else:
            self.more += 1


@dataclass(slots=True)
class Batch:
    """Packets of a part of a file, in its order. Arrays have one value a packet."""

    raw: bytes
    """What the offsets are into; :data:`PADDING` zero bytes behind it."""
    offsets: Ints
    """Where the packet begins."""
    captured: Ints
    """Bytes of it that are in the file."""
    wire: Ints
    """Bytes that it had."""
    times_ns: Ints
    """UTC; 0 where the record has none."""
    links: Ints
    """LINKTYPE_ number, www.tcpdump.org/linktypes.html."""
    is_cut: bool = False
    """One packet that the end of the file cuts short; no reader counts it as one."""


class Window:
    """The part of a source that is in memory."""

    def __init__(self, reader: Reader, problems: Problems) -> None:
        self._reader = reader
        self._problems = problems
        self._is_ended = False
        self.data = bytes(PADDING)
        """:data:`PADDING` zero bytes are behind what was read."""
        self.size = 0
        """How many bytes were read into it."""
        self.base = 0
        """Where *data* begins in the source."""
        self.at = 0
        """How far *data* has been used."""

    @property
    def left(self) -> int:
        """How many bytes of *data* are unused."""
        return self.size - self.at

    def more(self, size: int = CHUNK) -> bool:
        """Drop what was used and read on; return whether there was anything.

        Reads until *size* new bytes are there, so that a pipe's small pieces make no small batches.
        """
        parts = [self.data[self.at : self.size]]
        self.base += self.at
        self.at = 0
        got = 0
        while got < size and not self._is_ended:
            try:
                part = self._reader.read(size - got)
            except ReadError as error:
                self._problems.add(str(error), self.base + len(parts[0]) + got)
                part = b""
            self._is_ended = not part
            got += len(part)
            parts.append(part)
        self.size = len(parts[0]) + got
        self.data = b"".join([*parts, bytes(PADDING)])
        return got > 0

    def need(self, size: int) -> bool:
        """Return whether *size* unused bytes are there, reading on for them."""
        while self.left < size:
            if not self.more():
                return False
        return True


def read_batches(reader: Reader, problems: Problems) -> Iterator[Batch]:
    """Yield a capture's packets; what is wrong goes to *problems*, the rest is read."""
    from agentwall.capture.pcap import PCAP_MAGICS, read_pcap
    from agentwall.capture.pcapng import SECTION_HEADER, read_pcapng

    window = Window(reader, problems)
    window.more()
    magic = window.data[: min(4, window.size)]
    if not magic:
        if not problems.errors:
            problems.add("empty file", 0)
    elif magic in PCAP_MAGICS:
        yield from read_pcap(window, problems)
    elif magic == SECTION_HEADER:
        yield from read_pcapng(window, problems)
    else:
        problems.add(f"expected pcap or pcapng, got a file that begins {magic.hex()}", 0)
