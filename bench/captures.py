# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.captures``: packets a second of a capture, beside tshark and ndpiReader.

All go through one file that is merged from all Ethernet captures of a directory, on one core, in
rotating order. Time is processor time, user and system, which other load on the machine changes
least; what a run on an empty capture takes, starting up, is shown with it and without it.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import struct
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from agentwall.capture.link import ETHERNET
from agentwall.capture.records import Batch, Problems, read_batches
from agentwall.capture.source import ReadError, capture_paths, open_source
from bench.ratios import paired_ratio, rotated, spread
from bench.tables import Table, as_markdown, as_text

EXIT_UNSUPPORTED = 77
AUDIT, AGENTWALL = "agentwall audit", "agentwall, reading only"
TSHARK, NDPI = "tshark", "ndpiReader"
_FOUND = 1
"""Exit status of an audit that found something."""
_HEADER = struct.pack("<IHHiIII", 0xA1B23C4D, 2, 4, 0, 0, 262_144, ETHERNET)
_NS = 1_000_000_000
_READ = """
import sys
from agentwall.capture.reader import read_captures
for result in read_captures(sys.argv[1:]):
    for conversation in result.conversations:
        pass
"""

Seconds = Mapping[tuple[str, bool], list[float]]
"""Processor time by (tool, whether of the full capture), one a round."""


def commands(capture: Path) -> Mapping[str, list[str]]:
    """Return how each tool goes through *capture*: to conversations, or to what it says of them."""
    return {
        AUDIT: [sys.executable, "-m", "agentwall", "audit", "--format", "json", str(capture)],
        AGENTWALL: [sys.executable, "-c", _READ, str(capture)],
        TSHARK: ["tshark", "-n", "-q", "-z", "conv,tcp", "-z", "conv,udp", "-r", str(capture)],
        NDPI: ["ndpiReader", "-q", "-i", str(capture)],
    }


def merge(paths: Sequence[str], target: Path) -> int:
    """Write all Ethernet packets of captures to one pcap file; return how many."""
    files, _ = capture_paths(paths)
    count = 0
    with target.open("wb") as file:
        file.write(_HEADER)
        for path in files:
            for batch in _ethernet_batches(path):
                count += len(batch.offsets)
                file.write(b"".join(_records(batch)))
    return count


def _ethernet_batches(path: str) -> Iterator[Batch]:
    try:
        with open_source(path) as (reader, _):
            for batch in read_batches(reader, Problems(path)):
                if not batch.is_cut and (batch.links == ETHERNET).all():
                    yield batch
    except ReadError:
        return


def _records(batch: Batch) -> Iterator[bytes]:
    columns = (batch.offsets, batch.captured, batch.wire, batch.times_ns)
    for at, size, wire, time in zip(*(part.tolist() for part in columns), strict=True):
        seconds = time // _NS & 0xFFFFFFFF
        yield struct.pack("<IIII", seconds, time % _NS, size, wire)
        yield batch.raw[at : at + size]


def measure(
    capture: Path, empty: Path, rounds: int, progress: Callable[[str], None]
) -> dict[tuple[str, bool], list[float]]:
    """Run every tool on both captures *rounds* times, one at a time, on this process's core."""
    seconds: dict[tuple[str, bool], list[float]] = {}
    for number in range(rounds):
        progress(f"captures: round {number + 1} of {rounds}")
        for path in (empty, capture):
            made = commands(path)
            for tool in rotated(list(made), number):
                seconds.setdefault((tool, path == capture), []).append(_cpu_seconds(made[tool]))
    return seconds


def _cpu_seconds(command: list[str]) -> float:
    null = os.open(os.devnull, os.O_RDWR)
    try:
        actions = [(os.POSIX_SPAWN_DUP2, null, number) for number in (0, 1, 2)]
        child = os.posix_spawnp(command[0], command, os.environ, file_actions=actions)
        _, status, usage = os.wait4(child, 0)
    finally:
        os.close(null)
    code = os.waitstatus_to_exitcode(status)
    if code != 0 and not (code == _FOUND and "audit" in command):
        raise RuntimeError(f"{' '.join(command[:4])}: exit status {code}")
    return usage.ru_utime + usage.ru_stime


def captures_table(seconds: Seconds, packets: int, size_bytes: int) -> Table:
    """Return packets a second of each tool, and those of agentwall's audit against them."""
    rounds = len(seconds[AUDIT, True])
    net = {
        tool: [
            max(full - start, 1e-6)
            for full, start in zip(seconds[tool, True], seconds[tool, False], strict=True)
        ]
        for tool in (AUDIT, AGENTWALL, TSHARK, NDPI)
    }
    rows = []
    for tool, without in net.items():
        whole = seconds[tool, True]
        ratios = [
            paired_ratio(without, net[AUDIT]),
            paired_ratio(without, net[AGENTWALL]),
            paired_ratio(whole, seconds[AUDIT, True]),
        ]
        rows.append(
            [
                tool,
                f"{spread(whole).median * 1000:.0f} ms",
                f"{statistics.median(seconds[tool, False]) * 1000:.0f} ms",
                f"{packets / spread(whole).median / 1000:.0f} k/s",
                f"{packets / spread(without).median / 1000:.0f} k/s",
                *(f"{each.median:.2f} ({each.low:.2f}-{each.high:.2f})" for each in ratios),
            ]
        )
    return Table(
        title="Captures",
        note=f"One capture of {packets} packets, {size_bytes / 1e6:.0f} MB, merged from many small "
        f"ones, read on one core. Medians of {rounds} rounds, processor time; start-up is what "
        "an empty capture takes. 'agentwall audit' is all of it: signatures, decoders, lists of "
        "names and behaviour; 'reading only' makes conversations with the first 64 KiB of each "
        "side. tshark and ndpiReader dissect. The last columns are agentwall's packets a second "
        "against the tool's, with quartiles: of the audit and of reading without start-up, and of "
        "whole runs of the audit. Targets: of the audit at least 1 against tshark; 1 against "
        "ndpiReader is what it is to come to.",
        header=[
            *("tool", "a run", "start-up", "packets", "without start-up"),
            *("audit against it", "reading against it", "whole runs of the audit"),
        ],
        rows=rows,
    )


def missing_tools() -> list[str]:
    """Return which of the other tools are not installed."""
    return [tool for tool in (TSHARK, NDPI) if shutil.which(tool) is None]


def compare(paths: Sequence[str], rounds: int, progress: Callable[[str], None]) -> Table | None:
    """Merge, run every tool on the core of this process, and return the table.

    Args:
        paths: Capture files and directories.
        rounds: How often.
        progress: Is told what is next.

    Returns:
        None where there are no Ethernet packets in them.
    """
    with tempfile.TemporaryDirectory(prefix="agentwall-bench-") as directory:
        capture, empty = Path(directory, "merged.pcap"), Path(directory, "empty.pcap")
        empty.write_bytes(_HEADER)
        packets = merge(paths, capture)
        if not packets:
            return None
        seconds = measure(capture, empty, rounds, progress)
        return captures_table(seconds, packets, capture.stat().st_size)


def main() -> int:
    """Merge, measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.captures", description=__doc__)
    parser.add_argument("captures", nargs="+", help="capture files and directories")
    parser.add_argument("--rounds", type=int, default=9, help="of each tool (default 9)")
    parser.add_argument("--markdown", action="store_true", help="print the table as markdown")
    options = parser.parse_args()
    if missing := missing_tools():
        print(f"bench: missing: {', '.join(missing)}", file=sys.stderr)
        return EXIT_UNSUPPORTED
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    table = compare(options.captures, options.rounds, lambda text: print(text, file=sys.stderr))
    if table is None:
        print("bench: no Ethernet packets in these captures", file=sys.stderr)
        return EXIT_UNSUPPORTED
    print(f"date: {datetime.now(UTC):%Y-%m-%d}", "", sep="\n")
    print(as_markdown(table) if options.markdown else as_text(table))
    return 0


if __name__ == "__main__":
    sys.exit(main())
