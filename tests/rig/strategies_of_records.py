# SPDX-License-Identifier: Apache-2.0
"""Hypothesis strategies of records: anything the engine could make, and more."""

from __future__ import annotations

from hypothesis import strategies as st

from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.origin import Origin, Runtime
from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    PolicyInForce,
    Process,
    ProcessSource,
    Question,
    Sandbox,
    StateRecord,
    TlsRecord,
)
from agentwall.flow.severity import Severity
from agentwall.flow.tls import TlsLibrary, TlsReading, Unread
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint
from agentwall.sinks.event_json import ORIGIN_TEXTS

U64 = st.integers(0, 2**64 - 1)
TEXT = st.text(
    st.characters(exclude_categories=("Cs",)) | st.sampled_from("\x00\x1b\n\u202e|`\\\"'<"),
    max_size=20,
)
"""Any text a file can hold, with much of what breaks terminals and markup."""
TIMES = st.integers(0, 253_402_300_799_999_999_999)
ORIGINS = st.builds(
    Origin,
    runtime=st.sampled_from(Runtime),
    **dict.fromkeys(ORIGIN_TEXTS, st.none() | TEXT),
)
POLICIES = st.builds(PolicyInForce, name=TEXT, phase=st.none() | TEXT, commit=st.none() | TEXT)
SANDBOXES = st.builds(
    Sandbox,
    id=TEXT,
    cgroup=TEXT,
    labels=st.dictionaries(TEXT, TEXT, max_size=3),
    origin=st.none() | ORIGINS,
    policy=st.none() | POLICIES,
)
PROCESSES = st.builds(
    Process,
    pid=st.integers(0, 2**22),
    ppid=st.none() | st.integers(0, 2**22),
    uid=st.integers(0, 2**32 - 1),
    comm=TEXT,
    exe=st.none() | TEXT,
    argv=st.none() | st.lists(TEXT, max_size=4).map(tuple),
    source=st.sampled_from(ProcessSource),
)
REASONS = st.builds(
    Reason,
    code=st.sampled_from(ReasonCode),
    rule=st.none() | TEXT,
    file=st.none() | TEXT,
    line=st.none() | st.integers(1, 10**6),
)
QUESTIONS = st.builds(Question, name=TEXT, type=st.none() | st.integers(1, 65535))


# Strategies made once: making one takes longer than drawing from it.
_PROTOCOLS = st.sampled_from([1, 6, 17, 58, 132]) | st.integers(0, 255)
_PLACES = st.none() | st.tuples(st.ip_addresses(), st.integers(0, 65535))
_NO_OR_U64 = st.none() | U64
_FLOW_PARTS = st.fixed_dictionaries(
    {
        "sandbox": SANDBOXES,
        "time_ns": TIMES,
        "mono_ns": U64,
        "process": st.none() | PROCESSES,
        "direction": st.sampled_from(Direction),
        "verdict": st.sampled_from(Verdict),
        "reason": REASONS,
        "hook": st.sampled_from(Hook),
        "errno": st.none() | st.integers(1, 133),
        "socket_type": st.integers(0, 255),
        "bytes_out": _NO_OR_U64,
        "bytes_in": _NO_OR_U64,
        "duration_ns": _NO_OR_U64,
        "count": st.integers(0, 2**40),
        "question": st.none() | QUESTIONS,
    }
)
_NO_OR_TEXT = st.none() | TEXT


@st.composite
def flows(draw: st.DrawFn) -> FlowRecord:
    """Draw a flow record; its endpoints are of its protocol, as the engine's are."""
    protocol = draw(_PROTOCOLS)
    remote, local, claimed = (
        place and Endpoint(*place, protocol) for place in (draw(_PLACES) for _ in range(3))
    )
    return FlowRecord(
        protocol=protocol,
        remote=remote,
        local=local,
        claimed=claimed,
        name=draw(_NO_OR_TEXT) if remote is not None else None,
        **draw(_FLOW_PARTS),
    )


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
GAPS = st.builds(GapRecord, sandbox=SANDBOXES, time_ns=TIMES, mono_ns=U64, where=TEXT, lost=U64)
STATES = st.builds(
    StateRecord,
    sandbox=SANDBOXES,
    time_ns=TIMES,
    mono_ns=U64,
    state=TEXT | st.sampled_from(["started", "finished", "damaged", "rules-applied"]),
    detail=st.dictionaries(TEXT, JSON_VALUES, max_size=4),
)
FINDINGS = st.builds(
    Finding,
    cls=st.sampled_from(DetectionClass),
    signature=TEXT,
    dialect=TEXT,
    severity=st.sampled_from(Severity),
    confidence=st.sampled_from(Confidence),
    stage=st.sampled_from(Stage),
    evidence=st.dictionaries(
        TEXT | st.sampled_from(["excerpt", "addresses", "seconds", "also", "pool", "client"]),
        JSON_VALUES,
        max_size=4,
    ),
)


@st.composite
def detections(draw: st.DrawFn) -> DetectionRecord:
    """Draw a detection, of a flow or of none."""
    seen = draw(flows())
    return DetectionRecord(
        sandbox=seen.sandbox,
        time_ns=seen.time_ns,
        mono_ns=seen.mono_ns,
        process=seen.process,
        finding=draw(FINDINGS),
        verdict=seen.verdict,
        response=draw(TEXT | st.sampled_from(["alert", "block"])),
        direction=seen.direction,
        protocol=seen.protocol,
        local=seen.local,
        remote=seen.remote,
        name=seen.name,
        reason=seen.reason,
        bytes_left=draw(st.none() | U64),
        count=draw(st.just(1) | st.integers(0, 2**40)),
    )


READINGS = st.builds(
    TlsReading,
    library=st.none() | st.sampled_from(TlsLibrary),
    path=st.none() | TEXT,
    unread=st.none() | st.sampled_from(Unread),
)


ENDS = st.builds(Endpoint, st.ip_addresses(), st.integers(0, 65535), st.just(6))


@st.composite
def tls_sessions(draw: st.DrawFn) -> TlsRecord:
    """Draw a TLS session, read or not."""
    remote = draw(st.none() | ENDS)
    return TlsRecord(
        sandbox=draw(SANDBOXES),
        time_ns=draw(TIMES),
        mono_ns=draw(U64),
        process=draw(st.none() | PROCESSES),
        direction=draw(st.sampled_from(Direction)),
        protocol=6,
        local=draw(st.none() | ENDS),
        remote=remote,
        name=draw(st.none() | TEXT) if remote is not None else None,
        server_name=draw(st.none() | TEXT),
        alpn=tuple(draw(st.lists(TEXT, max_size=2))),
        ja4=draw(st.none() | TEXT),
        reading=draw(st.none() | READINGS),
        is_joined=draw(st.booleans()),
        reason=draw(REASONS),
        count=draw(st.just(1) | st.integers(0, 2**40)),
    )


RECORDS = flows() | GAPS | STATES | detections() | tls_sessions()
