# SPDX-License-Identifier: Apache-2.0
"""What the probes' bookkeeping comes to, as the values of :mod:`agentwall.daemon.inside_state`."""

from __future__ import annotations

from dataclasses import replace

from agentwall.daemon.inside_state import InsideState, ProbedLibrary
from agentwall.flow.tls import HelloSeen, TlsLibrary, TlsReading, Unread
from agentwall.kernel.plain import PlainCounts
from agentwall.probes.attached import Attached
from agentwall.probes.finding import Finder


def probed_libraries(attached: Attached, clock_offset_ns: int) -> tuple[ProbedLibrary, ...]:
    """Return what is probed, in the order in which it was attached.

    Args:
        attached: Its users are tuples of sandbox and process; process 0 is the sandbox itself.
        clock_offset_ns: CLOCK_REALTIME less CLOCK_MONOTONIC.
    """
    found = []
    for each in attached.libraries():
        users = [user for user in each.users if isinstance(user, tuple)]
        found.append(
            ProbedLibrary(
                path=each.path,
                library=TlsLibrary(each.library),
                device=each.file.device,
                inode=each.file.inode,
                processes=sum(1 for _, pid in users if pid),
                sandboxes=len({key for key, _ in users}),
                since_ns=round(each.since_s * 1e9) + clock_offset_ns,
                calls=each.calls,
            )
        )
    return tuple(found)


def with_probed(
    state: InsideState, libraries: tuple[ProbedLibrary, ...], finder: Finder
) -> InsideState:
    """Return *state* with what is probed, and how much could not be."""
    return replace(
        state,
        libraries=libraries,
        over_limit=finder.attached.refused_limit,
        displaced=finder.attached.displaced,
        unreadable=finder.unreadable,
    )


def with_counts(state: InsideState, counts: PlainCounts) -> InsideState:
    """Return *state* with what the kernel has counted."""
    return replace(
        state,
        calls=counts.calls,
        octets=counts.octets,
        lost=counts.lost + counts.unreadable,
        doubled=counts.doubled,
        connections=counts.connections,
        joined=counts.joined,
    )


def reading_of_session(reading: TlsReading, hello: HelloSeen) -> TlsReading:
    """Return what holds of one session, given what was found of its process when it had begun."""
    if hello.library is not None and reading.unread is not None:
        # It has ended, or maps another library beside the one that it spoke through.
        return TlsReading(library=hello.library, path=None, unread=None)
    if reading.library is None or hello.library is not None:
        return reading
    # Its probes came too late for this one.
    return TlsReading(library=None, path=reading.path, unread=Unread.LATE)
