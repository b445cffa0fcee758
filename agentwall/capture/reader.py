# SPDX-License-Identifier: Apache-2.0
"""Captures to conversations: the way in.

A capture is read once, a chunk of 4 MiB at a time. What stays in memory is bounded whatever its
size: see :mod:`agentwall.capture.records` (chunks), :mod:`agentwall.capture.flows` (flows and what
they keep) and :mod:`agentwall.capture.fragments`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from agentwall.capture.adding import Adder
from agentwall.capture.flows import Flow, FlowTable, client_of
from agentwall.capture.headers import end_packets, read_headers
from agentwall.capture.network import Walker
from agentwall.capture.records import CaptureError, Problems, read_batches
from agentwall.capture.source import Reader, ReadError, capture_paths, open_source
from agentwall.capture.streams import Stream
from agentwall.detect.conversation import Conversation
from agentwall.detect.signature import Side

EARLY = 4096
"""Bytes of a stream at which *is_alive* is asked, once, whether more are wanted: the longest hello
of TLS that is read."""

IsAlive = Callable[[Sequence[tuple[Side, bytes]]], Sequence[bool]]
"""For the beginnings of TCP streams, whether anything could still be found further on."""


class CaptureResult:
    """One capture. The counts and errors are complete once :attr:`conversations` is used up."""

    def __init__(
        self, path: str, batches: Callable[[CaptureResult], Iterator[Conversation]]
    ) -> None:
        self.path = path
        self.packets = 0
        """Records, whole ones."""
        self.bytes = 0
        """Of all packets, as captured."""
        self.evicted = 0
        """Flows that were cut in two because more were open at once than memory is given to."""
        self.problems = Problems(path)
        self.conversations: Iterator[Conversation] = batches(self)
        """Comes as the capture is read; once only. At its end, in the order of their first
        packets; those that ended before come before."""

    @property
    def errors(self) -> Sequence[CaptureError]:
        """What is wrong with the capture; the rest of it was read."""
        return self.problems.errors


def read_captures(
    paths: Sequence[str],
    *,
    progress: Callable[[int, int], None] | None = None,
    is_alive: IsAlive | None = None,
) -> Iterator[CaptureResult]:
    """Read captures one after the other.

    Args:
        paths: Files, directories (all files below them, sorted), ``-`` for standard input.
        progress: Called now and then with the bytes of packets read so far, and the size of the
            current file on disk; 0 where that is not known.
        is_alive: Lets streams go early of which nothing more is wanted.

    Yields:
        A result for each file; it is opened when its conversations are asked for.
    """
    files, problems = capture_paths(paths)
    for path, what in problems:
        result = CaptureResult(path, lambda _: iter(()))
        result.problems.add(what)
        yield result
    for path in files:
        yield CaptureResult(path, _reading(progress, is_alive))


def _reading(
    progress: Callable[[int, int], None] | None, is_alive: IsAlive | None
) -> Callable[[CaptureResult], Iterator[Conversation]]:
    def conversations(result: CaptureResult) -> Iterator[Conversation]:
        try:
            with open_source(result.path) as (reader, size):
                yield from _read(result, reader, size, progress, is_alive)
        except ReadError as error:
            result.problems.add(str(error))

    return conversations


def _read(
    result: CaptureResult,
    reader: Reader,
    size: int,
    progress: Callable[[int, int], None] | None,
    is_alive: IsAlive | None,
) -> Iterator[Conversation]:
    table, walker = FlowTable(), Walker()
    adder = Adder(table)
    last_ns = 0
    for batch in read_batches(reader, result.problems):
        result.bytes += int(batch.captured.sum())
        result.packets += 0 if batch.is_cut else len(batch.offsets)
        last_ns = int(batch.times_ns[-1])
        adder.add(*read_headers(batch, walker))
        if is_alive is not None:
            _let_go(adder, table, is_alive)
        yield from table.take_ended()
        if progress is not None:
            progress(result.bytes, size)
    adder.add(*end_packets(walker, last_ns))
    yield from table.take_all()
    result.evicted = table.evicted


def _let_go(adder: Adder, table: FlowTable, is_alive: IsAlive) -> None:
    early: list[tuple[Flow, Stream, Side]] = []
    for flow in adder.grown:
        if table.flows.get(flow.key) is not flow:
            continue
        for number, side in enumerate(flow.sides):
            stream = side.stream
            if stream is None or stream.is_full or stream.is_asked or stream.size < EARLY:
                continue
            stream.is_asked = True
            speaker = Side.CLIENT if client_of(flow) == number else Side.SERVER
            early.append((flow, stream, speaker))
    if not early:
        return
    answers = is_alive([(speaker, stream.head[:EARLY]) for _, stream, speaker in early])
    for (flow, stream, _), wanted in zip(early, answers, strict=True):
        if not wanted:
            stream.limit = EARLY
            table.hold(flow, stream.settle())
