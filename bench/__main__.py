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

from agentwall.host.signature_files import load_signature_files, shipped_signatures
from bench import captures, course, report, report_inspection
from bench.daemon import measure_daemon
from bench.events import events_table, measure_events
from bench.footprint import Footprints, footprint_table, measure_footprint
from bench.latency import measure_latency
from bench.machine import describe_machine
from bench.policies import write_policy
from bench.programs import measure_programs
from bench.searches import Compiled, Sought, compile_sought, compiled_table, generate_signatures
from bench.startup import measure_startup, startup_table
from bench.tables import Table, as_markdown, as_text
from bench.throughput import measure_throughput
from bench.tls import measure_tls
from bench.tls import missing as missing_inside_tls
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
_COMPILE_ROUNDS = 3
_STARTUP_ROUNDS = 11
_CAPTURE_ROUNDS = 9
_TLS_ROUNDS = 9


def main() -> int:
    """Measure and print; return the exit code."""
    options = _parse_options()
    missing = [name for name in _NEEDED if shutil.which(name) is None]
    missing += [name for name in missing_inside_tls() if name not in missing]
    missing += captures.missing_tools() if options.captures else []
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
        Path(directory).chmod(0o755)
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
    parser.add_argument("--captures", nargs="+", metavar="PATH", help="read these as well")
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


_SETS = (course.INSPECTED, course.FEW_SIGNATURES, course.MANY_SIGNATURES)


def _compile(rounds: int) -> tuple[Mapping[str, Sought], Mapping[str, Compiled]]:
    shipped = load_signature_files([str(shipped_signatures())]).signatures
    generated = map(generate_signatures, (course.FEW_LITERALS, course.MANY_LITERALS))
    found = {
        name: compile_sought(of, rounds)
        for name, of in zip(_SETS, (shipped, *generated), strict=True)
    }
    titles = {course.INSPECTED: "shipped"}
    return (
        {name: sought for name, (sought, _) in found.items()},
        {titles.get(name, name): compiled for name, (_, compiled) in found.items()},
    )


def _variants(
    built: Built, policies: _Policies, sought: Mapping[str, Sought]
) -> Mapping[str, Variant]:
    resolving = built.probe
    return {
        course.BARE: Bare(),
        course.AGAIN: Bare(),
        course.EMPTY: EmptyPrograms(built.empty_object),
        course.NFTABLES: Nftables(),
        course.AGENTWALL: Agentwall.from_file(policies.plain),
        **{name: Agentwall.from_file(policies.plain, sought=sought[name]) for name in _SETS},
        course.TEN_THOUSAND: Agentwall.from_file(policies.ten_thousand),
        course.BESIDE: Beside(Agentwall.from_file(policies.plain)),
        course.FEW: Agentwall.from_file(policies.few),
        course.MANY: Agentwall.from_file(policies.many),
        course.FEW_BY_NAME: Agentwall.from_file(policies.few_by_name, resolving=resolving),
        course.MANY_BY_NAME: Agentwall.from_file(policies.many_by_name, resolving=resolving),
    }


def _footprints(policies: _Policies, rounds: int) -> Footprints:
    measured = {
        "10 addresses": policies.plain,
        "10 addresses, 10 names": policies.few,
        "100 000 addresses, 100 000 names": policies.many,
    }
    return measure_footprint(measured, rounds, _progress)


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
    footprints = _footprints(policies, min(rounds, _FOOTPRINT_ROUNDS))
    started = measure_startup(scratch / "startup", min(rounds, _STARTUP_ROUNDS), _progress)
    sought, compiled = _compile(min(rounds, _COMPILE_ROUNDS))
    with prepare_all(_variants(built, policies, sought)) as places:
        # Hundreds of thousands of rules that stay: going through them would disturb samples.
        gc.freeze()
        samples = measure_latency(probe, places, course.LEGS, rounds, _progress)
        streamed = {name: places[name] for name in course.THROUGHPUT_VARIANTS}
        rates = measure_throughput(streamed, options.streams, options.seconds, _progress)
        profiled = min(rounds, _STATISTICS_ROUNDS)
        costs = measure_programs(probe, places, course.PROFILED_LEGS, profiled, _progress)
    tables = [
        report.latency_table(samples, rounds),
        report_inspection.inspection_table(samples, rounds),
        report_inspection.bytes_table(samples, costs, rounds),
        report.entries_table(samples, rounds),
        report.throughput_table(rates, options.streams),
        report.scale_table(samples, rounds),
        report.names_table(samples, rounds),
        report.lookup_table(samples, rounds),
        report.neighbours_table(samples, rounds),
        footprint_table(footprints),
        startup_table(started),
        compiled_table(compiled),
        events_table(events),
        report.programs_table(costs),
        report_inspection.inspected_programs_table(costs),
        *measure_tls(scratch / "tls", min(rounds, _TLS_ROUNDS), options.seconds, _progress),
        *measure_daemon(probe, scratch, _progress),
    ]
    if options.captures:
        read = captures.compare(options.captures, min(rounds, _CAPTURE_ROUNDS), _progress)
        tables += [read] if read else []
    return tables, [report.noise(samples, rates)]


_INTRODUCTION = """# What agentwall costs

Written by `python -m bench --captures DIRECTORY --markdown docs/benchmarks.md` (`make bench` prints
the same without the captures; `python -m bench.captures DIRECTORY` measures them alone, and
`python -m bench.daemon --long` the daemon, for longer, `python -m bench.tls` inside TLS). All
figures come from one run on the machine named here. Only one variant is in force at a time;
ratios compare samples of one round, milliseconds apart, and the order of the variants rotates from
round to round. The probe is one thread, pinned, and its listener lies outside the sandbox. The
permitted destination is an ordinary address that a CIDR rule allows; on loopback, the policy's
`loopback` permits it. Names are resolved through a real dnsmasq before each sample. Events are on
and read. Signatures are looked for only where it says so.
"""


def _document(facts: list[str], tables: list[Table], remarks: list[str]) -> str:
    lines = [f"- {fact}" for fact in facts]
    parts = [_INTRODUCTION, *lines, "", *remarks, "", *map(as_markdown, tables)]
    return "\n".join(parts).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
