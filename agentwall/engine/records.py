# SPDX-License-Identifier: Apache-2.0
"""What the kernel reported of a flow, as the record that sinks write. Pure."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from agentwall.engine.events import AttemptSeen, HelloRead, TotalsRead
from agentwall.engine.processes import describe_task
from agentwall.engine.sandboxes import KnownSandbox
from agentwall.engine.tls_sessions import Offer
from agentwall.flow.record import Attempt, FlowRecord, FlowTotals, TlsRecord
from agentwall.flow.tls import TlsReading, Unread
from agentwall.flow.verdict import Direction, Hook, Reason, Verdict
from agentwall.net.endpoint import Endpoint, canonical
from agentwall.policy.evaluate import resolve_line
from agentwall.policy.model import Inspect

_SPARED = TlsReading(library=None, path=None, unread=Unread.POLICY)


def record_of_attempt(known: KnownSandbox, event: AttemptSeen) -> FlowRecord:
    """Return the record of one decision in *known*."""
    attempt = event.attempt
    # A refused packet leaves nothing behind; what passes is counted at the flow's end.
    size = 0 if attempt.verdict is Verdict.DENY else None
    return FlowRecord(
        sandbox=known.named(attempt.mono_ns, attempt.generation),
        time_ns=attempt.mono_ns + known.clock_offset_ns,
        mono_ns=attempt.mono_ns,
        process=describe_task(attempt.task, event.process),
        direction=attempt.direction,
        protocol=attempt.protocol,
        local=attempt.local,
        remote=attempt.remote,
        claimed=attempt.claimed,
        verdict=attempt.verdict,
        reason=reason_of(known, attempt),
        hook=attempt.hook,
        errno=attempt.errno,
        socket_type=attempt.socket_type,
        bytes_out=size,
        bytes_in=size,
        duration_ns=None,
        count=1,
        name=attempt.name,
        question=attempt.question,
    )


def record_of_totals(known: KnownSandbox, event: TotalsRead) -> FlowRecord:
    """Return the record of a permitted flow's counters in *known*."""
    totals = event.totals
    return FlowRecord(
        sandbox=known.named(totals.last_mono_ns, totals.generation),
        time_ns=totals.last_mono_ns + known.clock_offset_ns,
        mono_ns=totals.last_mono_ns,
        process=describe_task(totals.task, event.process),
        direction=totals.direction,
        protocol=totals.remote.protocol,
        local=_local_end(totals),
        remote=totals.remote,
        claimed=None,
        verdict=totals.verdict,
        reason=reason_of(known, totals),
        hook=Hook.SOCK_RELEASE,
        errno=None,
        socket_type=0,
        bytes_out=totals.bytes_out,
        bytes_in=totals.bytes_in,
        duration_ns=totals.duration_ns,
        count=totals.sockets,
        name=totals.name,
    )


def record_of_hello(known: KnownSandbox, event: HelloRead, offer: Offer) -> TlsRecord:
    """Return the record of a TLS session that begins in *known*."""
    attempt = event.hello.attempt
    rule = known.rule(attempt)
    is_spared = rule is not None and rule.inspect is not Inspect.ALL
    return TlsRecord(
        sandbox=known.named(attempt.mono_ns, attempt.generation),
        time_ns=attempt.mono_ns + known.clock_offset_ns,
        mono_ns=attempt.mono_ns,
        process=describe_task(attempt.task, event.process),
        direction=attempt.direction,
        protocol=attempt.protocol,
        local=attempt.local,
        remote=attempt.remote,
        name=attempt.name,
        server_name=offer.server_name,
        alpn=offer.alpn,
        ja4=offer.ja4,
        reading=_SPARED if is_spared else _reading(event),
        is_joined=event.hello.is_joined and not is_spared,
        reason=reason_of(known, attempt),
    )


def _reading(event: HelloRead) -> TlsReading | None:
    reading, library = event.reading, event.hello.library
    if library is None:
        return reading
    # The kernel knows which library this session is of, whatever was found of its process.
    path = None
    if reading is not None and reading.library is library:
        path = reading.path
    return TlsReading(library=library, path=path, unread=None)


def reason_of(known: KnownSandbox, seen: Attempt | FlowTotals) -> Reason:
    """Return why, and by which line of which file as far as that is known."""
    found = known.rule(seen)
    if found is None:
        return Reason(code=seen.code)
    address = canonical(seen.remote.address) if seen.remote else None
    asked = seen.question if isinstance(seen, Attempt) else None
    where = resolve_line(found, address, asked.name if asked else seen.name)
    return Reason(code=seen.code, rule=found.id, file=where.path, line=where.line)


def _local_end(totals: FlowTotals) -> Endpoint | None:
    # Which of the host's addresses was visited is not kept; the port is what the rule judged.
    if totals.direction is Direction.OUT:
        return None
    unspecified = IPv4Address(0) if totals.remote.address.version == 4 else IPv6Address(0)
    return Endpoint(unspecified, totals.local_port, totals.remote.protocol)
