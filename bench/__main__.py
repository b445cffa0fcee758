# SPDX-License-Identifier: Apache-2.0
"""``python -m bench``: every measurement, side by side in one run, as tables of ratios."""

from __future__ import annotations

import argparse
import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench import course, report
from bench.events import events_table, measure_events
from bench.footprint import footprint_table, measure_footprint
from bench.latency import measure_latency
from bench.machine import describe_machine
from bench.policies import write_policy
from bench.programs import measure_programs
from bench.tables import Table, as_markdown, as_text
from bench.throughput import measure_throughput
from bench.toolchain import Built, build
from bench.variants import (
    OTHER_CPU,
    Bare,
    EmptyPrograms,
    Nftables,
    Variant,
    prepare_all,
)
from bench.walls import Agentwall, Beside

EXIT_UNSUPPORTED = 77
_NEEDED = ("bpftool", "cc", "clang", "dnsmasq", "ip", "iperf3", "nft", "nsenter", "ss")
# Of what needs fewer rounds than the latencies do; with fewer of those, there are fewer of these.
_EVENTS_ROUNDS = 15
_FOOTPRINT_ROUNDS = 5
_STATISTICS_ROUNDS = 9


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
    parser.add_argument("--rounds", type=int, default=41, help="of latency (default 41)")
    parser.add_argument("--streams", type=int, default=9, help="rounds of iperf3 (default 9)")
    parser.add_argument("--seconds", type=int, default=1, help="of one iperf3 run (default 1)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write a document as well")
    return parser.parse_args()


def _progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Policies:
    plain: Path
    ten_thousand: Path
    few: Path
    many: Path
    few_by_name: Path
    many_by_name: Path


def _write_policies(scratch: Path) -> _Policies:
    few, many = course.FEW_ENTRIES, course.MANY_ENTRIES
    return _Policies(
        plain=write_policy(scratch / "plain", addresses=few),
        ten_thousand=write_policy(scratch / "ten-thousand", addresses=course.NFT_ENTRIES),
        few=write_policy(scratch / "few", addresses=few, names=few),
        many=write_policy(scratch / "many", addresses=many, names=many),
        few_by_name=write_policy(scratch / "fbn", addresses=few, names=few, by_name=True),
        many_by_name=write_policy(scratch / "mbn", addresses=many, names=many, by_name=True),
    )


def _variants(built: Built, policies: _Policies) -> Mapping[str, Variant]:
    resolving = built.probe
    return {
        course.BARE: Bare(),
        course.AGAIN: Bare(),
        course.EMPTY: EmptyPrograms(built.empty_object),
        course.NFTABLES: Nftables(),
        course.AGENTWALL: Agentwall.from_file(policies.plain),
        course.TEN_THOUSAND: Agentwall.from_file(policies.ten_thousand),
        course.BESIDE: Beside(Agentwall.from_file(policies.plain)),
        course.FEW: Agentwall.from_file(policies.few),
        course.MANY: Agentwall.from_file(policies.many),
        course.FEW_BY_NAME: Agentwall.from_file(policies.few_by_name, resolving=resolving),
        course.MANY_BY_NAME: Agentwall.from_file(policies.many_by_name, resolving=resolving),
    }


def _measure(
    built: Built, scratch: Path, options: argparse.Namespace
) -> tuple[list[Table], list[str]]:
    rounds, probe = options.rounds, built.probe
    policies = _write_policies(scratch)
    # First, while this process is small: the garbage collector's time is part of the figure.
    events = measure_events(
        Agentwall.from_file(policies.few_by_name, resolving=probe),
        min(rounds, _EVENTS_ROUNDS),
        _progress,
    )
    footprints = measure_footprint(
        {
            "10 addresses": policies.plain,
            "10 addresses, 10 names": policies.few,
            "100 000 addresses, 100 000 names": policies.many,
        },
        min(rounds, _FOOTPRINT_ROUNDS),
        _progress,
    )
    with prepare_all(_variants(built, policies)) as places:
        # Hundreds of thousands of rules that stay: going through them would disturb samples.
        gc.freeze()
        samples = measure_latency(probe, places, course.LEGS, rounds, _progress)
        streamed = {name: places[name] for name in course.THROUGHPUT_VARIANTS}
        rates = measure_throughput(streamed, options.streams, options.seconds, _progress)
        profiled = min(rounds, _STATISTICS_ROUNDS)
        costs = measure_programs(probe, places, course.PROFILED_LEGS, profiled, _progress)
    tables = [
        report.latency_table(samples, rounds),
        report.entries_table(samples, rounds),
        report.throughput_table(rates, options.streams),
        report.scale_table(samples, rounds),
        report.names_table(samples, rounds),
        report.lookup_table(samples, rounds),
        report.neighbours_table(samples, rounds),
        footprint_table(footprints),
        events_table(events),
        report.programs_table(costs),
    ]
    return tables, [report.noise(samples, rates)]


_INTRODUCTION = """# What agentwall costs

Written by `python -m bench --markdown docs/benchmarks.md` (`make bench` prints the same). All
figures come from one run on the machine named here. Only one variant is in force at a time;
ratios compare samples of one round, milliseconds apart, and the order of the variants rotates from
round to round. The probe is one thread, pinned, and its listener lies outside the sandbox. The
permitted destination is an ordinary address that a CIDR rule allows; on loopback, the policy's
`loopback` permits it. Names are resolved through a real dnsmasq before each sample. Events are on
and read.
"""


def _document(facts: list[str], tables: list[Table], remarks: list[str]) -> str:
    lines = [f"- {fact}" for fact in facts]
    parts = [_INTRODUCTION, *lines, "", *remarks, "", *map(as_markdown, tables)]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
