# SPDX-License-Identifier: Apache-2.0
"""``python -m bench``: every measurement, side by side in one run, as tables of ratios."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from bench import report
from bench.footprint import footprint_table, measure_footprint
from bench.latency import ROADS, measure_latency
from bench.machine import describe_machine
from bench.programs import measure_programs
from bench.tables import Table, as_markdown, as_text
from bench.throughput import measure_throughput
from bench.toolchain import Built, build
from bench.variants import (
    OTHER_CPU,
    Agentwall,
    Bare,
    Beside,
    EmptyPrograms,
    Nftables,
    Variant,
    prepare_all,
    write_policy,
)

EXIT_UNSUPPORTED = 77
_NEEDED = ("bpftool", "cc", "clang", "ip", "iperf3", "nft", "nsenter", "ss")
_MANY_RULES = 100_000
_STATISTICS_ROUNDS = 15


def main() -> int:
    """Measure and print; return the exit code."""
    options = _parse_options()
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    if os.geteuid() != 0 or missing or (os.cpu_count() or 1) < 2:
        wanted = "expected root, two processors and " + ", ".join(_NEEDED)
        print(f"bench: {wanted}; missing: {', '.join(missing) or 'none'}", file=sys.stderr)
        return EXIT_UNSUPPORTED
    # Ending like this too takes down namespaces, cgroups and links.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # The event reader must not share a processor with what is measured.
    os.sched_setaffinity(0, {OTHER_CPU})
    facts = [f"date: {datetime.now(UTC):%Y-%m-%d}", *describe_machine()]
    with tempfile.TemporaryDirectory(prefix="agentwall-bench-") as directory:
        tables, remarks = _measure(build(Path("build/bench")), Path(directory), options)
    print("\n".join([*facts, "", *map(as_text, tables), *remarks]))
    if options.markdown:
        options.markdown.write_text(_document(facts, tables, remarks))
    return 0


def _parse_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--rounds", type=int, default=61, help="of latency (default 61)")
    parser.add_argument("--streams", type=int, default=9, help="rounds of iperf3 (default 9)")
    parser.add_argument("--seconds", type=int, default=1, help="of one iperf3 run (default 1)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a document as well")
    return parser.parse_args()


def _progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


def _measure(
    built: Built, scratch: Path, options: argparse.Namespace
) -> tuple[list[Table], list[str]]:
    few_rules = write_policy(scratch / "few", 0)
    many_rules = write_policy(scratch / "many", _MANY_RULES)
    variants: Mapping[str, Variant] = {
        report.BARE: Bare(),
        report.AGAIN: Bare(),
        report.EMPTY: EmptyPrograms(built.empty_object),
        report.NFTABLES: Nftables(),
        report.AGENTWALL: Agentwall.from_file(few_rules),
        report.MANY_RULES: Agentwall.from_file(many_rules),
        report.BESIDE: Beside(Agentwall.from_file(few_rules)),
    }
    with prepare_all(variants) as places:
        samples = measure_latency(built.probe, places, options.rounds, _progress)
        streamed = {name: places[name] for name in report.THROUGHPUT_VARIANTS}
        rates = measure_throughput(streamed, options.streams, options.seconds, _progress)
        profiled = {name: places[name] for name in (report.EMPTY, report.AGENTWALL)}
        costs = measure_programs(built.probe, profiled, ROADS[0], _STATISTICS_ROUNDS, _progress)
    policies = [("2 rules", few_rules), (f"{_MANY_RULES} rules", many_rules)]
    footprints = measure_footprint(policies, _progress)
    tables = [
        report.latency_table(samples, options.rounds),
        report.throughput_table(rates, options.streams),
        report.scale_table(samples, options.rounds),
        footprint_table(footprints),
        report.programs_table(costs),
    ]
    return tables, [report.noise(samples, rates)]


_INTRODUCTION = """# What agentwall costs

Written by `python -m bench --markdown docs/benchmarks.md` (`make bench` prints the same). All
figures come from one run on the machine named here. Only one variant is in force at a time;
ratios compare samples of one round, milliseconds apart, and the order of the variants rotates from
round to round. The probe is one thread, pinned, and its listener lies outside the sandbox. The
permitted destination is an ordinary address that a CIDR rule allows; on loopback, the policy's
`loopback` permits it. Events are on and read.
"""


def _document(facts: list[str], tables: list[Table], remarks: list[str]) -> str:
    lines = [f"- {fact}" for fact in facts]
    parts = [_INTRODUCTION, *lines, "", *remarks, "", *map(as_markdown, tables)]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
