# SPDX-License-Identifier: Apache-2.0
"""``python -m bench.daemon``: what the daemon costs a host, and what it stands.

``--long`` is what is told in docs/benchmarks.md: 60 s of denials, and a hundred kills.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from agentwall.probes.compiling import why_not
from bench.crowd import BESIDE, LAST, NONE, ONE, Crowd, measure_crowd
from bench.daemon_tls import TlsCrowd, build_speaker, measure_tls_crowd
from bench.machine import describe_machine
from bench.ratios import paired_ratio, spread
from bench.strain import (
    FLOODERS,
    Flood,
    Kills,
    Upgrade,
    measure_flood,
    measure_kills,
    measure_upgrade,
)
from bench.tables import Table, as_markdown, as_text
from bench.toolchain import build

SANDBOXES = 1000
RATE = 100_000
"""Denials a second that are wanted."""
RESIDENT_TARGET_MB = 60
REST_TARGET = 0.01
STATUS_TARGET_MS = 1000

_KILLS, _LONG_KILLS = 10, 100
_FLOOD_S, _LONG_FLOOD_S = 15.0, 60.0
_REST_S = 30.0
_ADMISSION = "<= 5 ms"
"""The target."""


def measure_daemon(
    probe: Path, scratch: Path, progress: Callable[[str], None], *, is_long: bool = False
) -> Iterator[Table]:
    """Measure all of it, one after another, within three minutes; longer if *is_long*.

    Args:
        probe: As :func:`bench.toolchain.build` made it.
        scratch: A directory, in which others are made.
        progress: Is told what is next.
        is_long: Kill a hundred daemons, and flood for a minute.
    """
    kills = _LONG_KILLS if is_long else _KILLS
    flood_s = _LONG_FLOOD_S if is_long else _FLOOD_S
    # The daemon is not bound to a processor, as the reader of the other measurements is.
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    yield crowd_table(measure_crowd(probe, scratch / "crowd", SANDBOXES, _REST_S, progress))
    if (why := why_not()) is None:
        speaker = build_speaker(Path("build/bench"))
        spoken = measure_tls_crowd(speaker, scratch / "tls", SANDBOXES, _REST_S, progress)
        yield tls_crowd_table(spoken)
    else:
        progress(f"daemon: no sandboxes that speak TLS: {why}")
    yield flood_table(measure_flood(scratch / "flood", RATE, flood_s, progress))
    yield kills_table(measure_kills(scratch / "kills", kills, progress))
    yield upgrade_table(measure_upgrade(scratch / "upgrade", progress))


def crowd_table(crowd: Crowd) -> Table:
    """Return what many sandboxes cost."""
    seen, many = crowd.seen, f"{crowd.sandboxes:,}".replace(",", " ")
    rows = [
        ["admission, request to links in force", _tail(crowd.admitted_ms), _ADMISSION],
        ["of that, within the daemon", _tail(crowd.inside_ms), "-"],
        *_connect_rows(crowd),
        ["resident, without a sandbox", _megabytes(crowd.empty_bytes), "-"],
        ["resident, with all", _megabytes(crowd.resident_bytes), f"<= {RESIDENT_TARGET_MB} MB"],
        ["processor at rest, of one", f"{crowd.rest_share:.2%}", f"< {REST_TARGET:.0%}"],
        ["`status`", _tail(crowd.status_ms), f"<= {STATUS_TARGET_MS} ms"],
        ["list of all", f"{crowd.list_ms:.0f} ms", "-"],
        ["start, with nothing to adopt", f"{crowd.start_s:.1f} s", "-"],
        [f"start after SIGKILL, {crowd.adopted} adopted", f"{crowd.adopted_s:.1f} s", "-"],
        ["meanwhile: refused destination reached", str(seen.reached), "0"],
        ["meanwhile: permitted attempts refused", str(seen.cut), "0"],
        ["meanwhile: streams broken", f"{seen.broken}, of {seen.rounds} exchanges", "0"],
    ]
    return Table(
        title="A daemon with many sandboxes",
        note=f"{many} cgroups with a process each, admitted one after another by their runtime's "
        "request. Milliseconds are the median, and the 99th percentile of all. A connection is "
        "connect, accept and close to the local address, from a sandbox; 'beside' is the same from "
        "outside of every sandbox, in the same rounds. At rest means that nothing happens in any "
        "of them; the daemon looks over every one meanwhile. A prober tries all the while what is "
        "refused and what is permitted, by TCP and UDP, while the daemon is killed and another "
        "adopts everything.",
        header=["", f"{many} sandboxes", "target"],
        rows=rows,
    )


def _connect_rows(crowd: Crowd) -> list[list[str]]:
    connects = crowd.connects
    last, one = (
        paired_ratio(connects[what], connects[BESIDE + what]).median for what in (LAST, ONE)
    )
    rows = [
        [f"a connection, {what}", f"{spread(connects[what]).median:.0f} ns", "-"]
        for what in (NONE, ONE, LAST)
    ]
    rows.append(["a connection, beside all of them", _nanoseconds(connects[BESIDE + LAST]), "-"])
    return [*rows, ["the last of all against one alone", f"{last / one:.3f}", "1.00"]]


def _nanoseconds(samples: list[float]) -> str:
    return f"{spread(samples).median:.0f} ns"


def tls_crowd_table(crowd: TlsCrowd) -> Table:
    """Return what reading inside TLS takes of the daemon, where everybody speaks it."""
    many = f"{crowd.sandboxes:,}".replace(",", " ")
    target = f"<= {RESIDENT_TARGET_MB} MB"
    return Table(
        title="A daemon whose sandboxes speak TLS",
        note=f"{many} cgroups with a process each, which maps the system's libssl and says a "
        "ClientHello to a service on loopback, one every 10 ms; it stays. Reading inside TLS is "
        "required. 'Known to be read' is of processes that had libssl mapped before they were "
        "admitted, every 20th, until `sandbox show` says so. Medians, and the 99th percentile of "
        "all.",
        header=["", f"{many} sandboxes", "target"],
        rows=[
            ["resident, without a sandbox", _megabytes(crowd.empty_bytes), "-"],
            ["resident, all admitted", _megabytes(crowd.admitted_bytes), target],
            ["resident at rest, all have spoken TLS", _megabytes(crowd.spoken_bytes), target],
            ["processor at rest, of one", f"{crowd.rest_share:.2%}", f"< {REST_TARGET:.0%}"],
            ["admission, request to answer", _tail(crowd.admitted_ms), "-"],
            ["admission, until known to be read", _tail(crowd.known_ms), "-"],
            ["sessions counted", str(crowd.sessions), str(crowd.sandboxes)],
            ["of them, joined", str(crowd.joined), str(crowd.sandboxes)],
            ["processes listed as read", str(crowd.read), str(crowd.sandboxes)],
        ],
    )


def flood_table(flood: Flood) -> Table:
    """Return what came of many denials."""
    rate = flood.denied / flood.duration_s
    late, calm = flood.late_ms, flood.calm_ms
    return Table(
        title="A flood of denials",
        note=f"{FLOODERS} sandboxes are refused {flood.wanted_rate:,} connections a second together"
        f" for {flood.duration_s:g} s; one beside them tries what is permitted and what is not. "
        "Lateness is that of a timer of 5 ms in a process that has nothing to do with any of it: "
        "median, 99th percentile and the worst, of as many as there were.".replace(",", " "),
        header=["", "measured", "target"],
        rows=[
            ["denials a second", f"{rate:,.0f}".replace(",", " "), f"{RATE // 1000} 000"],
            ["denied, as the sandboxes counted", str(flood.denied), "-"],
            ["denied, as the daemon says", str(flood.counted), "the same"],
            ["wrong verdicts", str(flood.wrong), "0"],
            ["timer late, before", _lateness(calm), "-"],
            ["timer late, meanwhile", _lateness(late), "-"],
            ["`status` meanwhile", _tail(flood.status_ms), f"<= {STATUS_TARGET_MS} ms"],
            ["processor of the daemon, of one", f"{flood.processor_share:.0%}", "-"],
            ["resident afterwards", _megabytes(flood.resident_bytes), "-"],
        ],
    )


def kills_table(kills: Kills) -> Table:
    """Return what came of daemons that were killed."""
    count, seen = kills.while_switching + kills.while_starting, kills.seen
    return Table(
        title="Killed again and again",
        note="SIGKILL at some moment: while policies and phases are switched, all of which refuse "
        "one destination and permit another, or in the three seconds after a start, while programs "
        "are loaded and sandboxes adopted. A prober in the sandbox tries both throughout.",
        header=["", "measured", "target"],
        rows=[
            ["killed while it switched", str(kills.while_switching), "-"],
            ["switches before that", str(kills.switches), "-"],
            ["killed while it started", str(kills.while_starting), "-"],
            ["next daemon had the sandbox under its key", str(kills.kept), str(count)],
            ["rounds of the prober", str(seen.rounds), "-"],
            ["refused destination reached", str(seen.reached), "0"],
            ["permitted attempts refused", str(seen.cut), "0"],
            ["streams broken", str(seen.broken), "0"],
            ["longest round of the prober", f"{seen.longest_ms:.0f} ms", "-"],
        ],
    )


def upgrade_table(upgrade: Upgrade) -> Table:
    """Return what a stream felt of a daemon that was replaced."""
    parts = {
        "before": upgrade.before,
        f"while the next one loads and takes over, {upgrade.took_s:.1f} s": upgrade.during,
        "after": upgrade.after,
    }
    before = spread(upgrade.before).median
    return Table(
        title="Replaced under load",
        note="One stream of iperf3 out of a sandbox, while its daemon is killed and another loads "
        "its programs and updates every link to them: received rate of each tenth of a second. "
        "Loading has the verifier busy, with one of the processors that iperf3 would use; taking "
        "over takes milliseconds of that.",
        header=["", "Gbit/s", "against before", "slowest tenth", "tenths without a byte"],
        rows=[[name, *_rates(rates, before)] for name, rates in parts.items()],
    )


def _rates(rates: list[float], before: float) -> list[str]:
    if not rates:
        # iperf3 ended before.
        return ["-"] * 4
    found = spread(rates)
    return [
        f"{found.median:.1f} ({found.low:.1f}-{found.high:.1f})",
        f"{found.median / before:.2f}",
        f"{min(rates):.2f}",
        str(sum(rate == 0 for rate in rates)),
    ]


def _tail(samples: list[float]) -> str:
    ordered = sorted(samples)
    return f"{spread(samples).median:.1f} ms ({ordered[int(len(ordered) * 0.99)]:.1f})"


def _lateness(late: dict[str, float]) -> str:
    return f"{late['median']:.1f} / {late['p99']:.1f} / {late['most']:.0f} ms"


def _megabytes(size: float) -> str:
    return f"{size / 1e6:.1f} MB"


def main() -> int:
    """Measure and print; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench.daemon", description=__doc__)
    parser.add_argument("--long", action="store_true", help="100 kills, a minute of denials")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write sections as well")
    options = parser.parse_args()
    if os.geteuid() != 0:
        print("bench: expected root", file=sys.stderr)
        return 77
    print("\n".join([*describe_machine(), ""]))
    tables = []
    with tempfile.TemporaryDirectory(prefix="agentwall-bench-") as directory:
        measured = measure_daemon(
            build(Path("build/bench")).probe,
            Path(directory),
            lambda text: print(f"bench: {text}", file=sys.stderr),
            is_long=options.long,
        )
        for table in measured:
            print(as_text(table), flush=True)
            tables.append(as_markdown(table))
    if options.markdown:
        options.markdown.write_text("\n".join(tables))
    return 0


if __name__ == "__main__":
    sys.exit(main())
