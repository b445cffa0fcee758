# SPDX-License-Identifier: Apache-2.0
"""What reading inside TLS costs, as tables: against bare, and against the wall alone. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agentwall.kernel.plain import PlainCounts
from bench.course import AGAIN, BARE
from bench.ratios import Spread, paired_ratio, spread
from bench.tables import Table
from bench.tls_benign import Benign
from bench.tls_cuts import Cuts, Held
from bench.tls_samples import PROCESSOR, Samples, Task
from bench.tls_variants import FOREIGN, OFF, READ, SIDE_BY_SIDE, TRAP, Compiled


def clients_table(samples: Samples, tasks: Sequence[Task], rounds: int) -> Table:
    """Return what clients of TLS pay."""
    units = {task.title: task.unit for task in tasks}
    units |= {f"{task.title}, {PROCESSOR}": task.unit for task in tasks}
    titles = [title for title, name in samples if name == BARE]
    rows = []
    for title in titles:
        of = {name: samples[title, name] for name in (BARE, *SIDE_BY_SIDE)}
        unit = units.get(title, "us")
        rows.append(
            [
                title,
                f"{spread(of[BARE]).median:.0f} {unit}",
                *(_ratio(paired_ratio(of[name], of[BARE])) for name in SIDE_BY_SIDE),
                _ratio(paired_ratio(of[READ], of[OFF])),
            ]
        )
    return Table(
        title="What reading inside TLS costs a client",
        note="Real clients of OpenSSL, across a veth, against a server whose library is never "
        "probed. Time, so less is better: of bare, and of the others against it; the last column "
        "is what reading adds to a wall that looks for signatures in clear. Each has a copy of "
        f"the library of its own, and one of them probes. '{AGAIN}' is noise. '{FOREIGN}' is a "
        "process that shares the library with a sandbox. s_client reads 1 KiB at a time, each "
        f"with a call; wrk and http.client ask for 30 octets. '{PROCESSOR}' is the client's, its "
        "start included, and the steadier figure where the machine has other work. Medians of "
        f"{rounds} ratios and quartiles.",
        header=["client", BARE, *SIDE_BY_SIDE, "read against not"],
        rows=rows,
    )


def calls_table(samples: Samples, rounds: int) -> Table:
    """Return what one call of the library pays."""
    rows = []
    for title in [title for title, name in samples if name == BARE]:
        of = {name: samples[title, name] for name in (BARE, TRAP, FOREIGN, READ)}
        rows.append(
            [
                title,
                f"{spread(of[BARE]).median:.0f} ns",
                *(_above(of[name], of[BARE]) for name in (TRAP, FOREIGN, READ)),
                _above(of[READ], of[TRAP]),
            ]
        )
    return Table(
        title="What a call of the library costs",
        note="SSL_write and SSL_read of one thread over memory, and nanoseconds above bare. "
        f"'{TRAP}' is the kernel's trap alone: at the entry of SSL_write, at entry and return of "
        "SSL_read. 'settled' is text in which nothing can begin any more, or that lies behind the "
        "depth to which is read: the call is seen, its text is not. 'the programs' is what reads "
        f"less the traps, so ours. Medians of {rounds} and quartiles.",
        header=["call", BARE, TRAP, FOREIGN, "in a sandbox, read", "of that, the programs"],
        rows=rows,
    )


def benign_table(found: Mapping[str, Benign]) -> Table:
    """Return what came of benign requests, by ``--tls``."""
    rows = [
        [
            use,
            f"{one.answered} of {one.asked}",
            str(one.sessions),
            str(one.read),
            str(one.untold),
            str(one.matches),
            f"{one.took_s:.1f} s",
        ]
        for use, one in found.items()
    ]
    return Table(
        title="Benign requests over TLS",
        note="Under `agentwall run`, by Python's http.client, curl (OpenSSL) and wget (GnuTLS): "
        "pages, APIs, package indexes, chats and logs, many of which quote what miners say. A "
        "session is read whose first record is joined with the library's connection. 'untold' are "
        "those over the limit of hellos that a sandbox may report, so whether they were read is "
        "not known from here. Matches are to be none, and sessions all read. One run each.",
        header=["--tls", "answered", "sessions", "of them read", "untold", "matches", "took"],
        rows=rows,
    )


def cuts_table(cuts: Cuts) -> Table:
    """Return how soon miners are cut off."""
    return Table(
        title="A miner inside TLS",
        note="`agentwall run`, and a client of OpenSSL in it that says a miner's first line on "
        f"{cuts.connections} connections, one after another: from the call of SSL_write on. "
        "The kernel cuts the flow off within that call; then the socket is destroyed, and the "
        "detection is written. Median and 99th percentile.",
        header=["", "measured", "target"],
        rows=[
            ["octets of text that reached the server", str(cuts.octets_out), "0"],
            ["until the client has its error", _tail(cuts.error_ms), "-"],
            ["until the detection is in the event file", _tail(cuts.event_ms), "-"],
        ],
    )


def held_table(held: Mapping[str, Held], compiled: Sequence[Compiled]) -> Table:
    """Return what reading inside TLS takes once, and holds."""
    seconds = spread([one.seconds for one in compiled])
    peak = max(one.peak_kib for one in compiled) * 1024
    off, on = held["off"], held["require"]
    return Table(
        title="What reading inside TLS takes of a host",
        note="The probes are compiled by bcc in a child, once for a kernel; it ends then. Resident "
        "is the daemon, shared libraries included.",
        header=["", "measured", "without reading"],
        rows=[
            [
                "compiling, in the child",
                f"{seconds.median:.2f} s ({seconds.low:.2f}-{seconds.high:.2f})",
                "-",
            ],
            ["the child's peak", _megabytes(peak), "-"],
            ["daemon, without a sandbox", _megabytes(on.alone), _megabytes(off.alone)],
            ["daemon, with one", _megabytes(on.with_one), _megabytes(off.with_one)],
        ],
    )


def counts_table(counts: PlainCounts) -> Table:
    """Return what the wall that read counted in all rounds together, matches being none."""
    rows: list[tuple[str, int]] = [
        ("calls of processes in the sandbox", counts.calls),
        ("calls of processes in none", counts.foreign),
        ("connections", counts.connections),
        ("of them, joined with their flow", counts.joined),
        ("octets of text read", counts.octets),
        ("calls that found no room", counts.lost),
        ("texts that could not be read", counts.unreadable),
        ("matches", 0),
    ]
    return Table(
        title="What was read inside TLS meanwhile",
        note="Over all rounds of the clients above: handshakes, transfers, and some thousand "
        "requests a second, none of which mines. A match or a denial would have ended the run. "
        "A call of SSL_read that finds nothing yet counts too.",
        header=["", "counted"],
        rows=[[what, f"{number:,}".replace(",", " ")] for what, number in rows],
    )


def _ratio(value: Spread) -> str:
    return f"{value.median:.3f} ({value.low:.3f}-{value.high:.3f})"


def _above(samples: Sequence[float], base: Sequence[float]) -> str:
    more = spread([one - other for one, other in zip(samples, base, strict=True)])
    return f"{more.median:.0f} ns ({more.low:.0f}-{more.high:.0f})"


def _tail(values: Sequence[float]) -> str:
    ordered = sorted(values)
    return f"{spread(values).median:.1f} ms ({ordered[int(len(ordered) * 0.99)]:.1f})"


def _megabytes(count: int) -> str:
    return f"{count / 1e6:.1f} MB"
