# SPDX-License-Identifier: Apache-2.0
"""What travels from the kernel to the sinks.

:class:`Attempt` and :class:`FlowTotals` are what ``kernel/decode.py`` makes of kernel memory; the
engine turns them into :class:`FlowRecord` and its siblings, which sinks write and ``audit`` reads.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NewType

from agentwall.flow.finding import Finding
from agentwall.flow.origin import Origin
from agentwall.flow.tls import TlsReading
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint

SandboxKey = NewType("SandboxKey", int)
"""The u64 by which the kernel knows a sandbox; never 0, which means deny."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """The calling task, as the kernel saw it at the hook."""

    pid: int
    """Thread group id in the initial PID namespace; 0 if not known."""
    uid: int
    """In the initial user namespace."""
    comm: bytes
    """At most 15 bytes, chosen by the sandbox: escape before printing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A name that was asked, answered or said, as the sandbox chose it: escape before printing."""

    name: str
    """Lower case, without the trailing dot; ASCII."""
    type: int | None
    """DNS RR type (IANA): 1 is A, 28 AAAA; None where it was not DNS that said the name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One decision the kernel reported: ``struct aw_event``."""

    mono_ns: int
    """CLOCK_BOOTTIME."""
    sandbox: SandboxKey
    task: Task
    direction: Direction
    protocol: int
    """IANA protocol number."""
    local: Endpoint | None
    remote: Endpoint | None
    """None for ``sock_create``, which knows no destination."""
    claimed: Endpoint | None
    """What connect() was asked for, where it differs from *remote*."""
    verdict: Verdict
    code: ReasonCode
    rule: int | None
    """Index into ``RuleTables.rules`` of *generation*."""
    generation: int
    hook: Hook
    errno: int | None
    """What the system call returned, None where the packet was dropped or passed."""
    size_bytes: int
    """Of the packet, IP header included; 0 at hooks that see none."""
    socket_type: int
    """SOCK_STREAM 1, SOCK_DGRAM 2, SOCK_RAW 3, ...; 0 if not known."""
    cookie: int
    """The socket's cookie, or 0."""
    name: str | None = None
    """The name that *remote* was learned under."""
    question: Question | None = None
    """What was asked or said, where the verdict is about that; see ``struct aw_name_event``."""
    match: Match | None = None
    """What was recognised, where the verdict is about that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What the kernel's automaton matched: the tail of ``struct aw_match_event``."""

    table: int
    """Generation of the signature table."""
    accept: int
    """Index into ``Automaton.accepts``."""
    from_client: bool
    """Whoever opened the flow said it."""
    position: int
    """How many bytes of this side's stream, or of the datagram, the match ends behind."""
    left_bytes: int
    """How many of those had passed in earlier packets."""
    text: bytes
    """The last bytes of this side up to the end of the match: at most 512, some of them perhaps
    from earlier packets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Excerpt:
    """Bytes of a flow that the decoders are to see: ``struct aw_excerpt_event``."""

    attempt: Attempt
    """Which flow; its verdict is ALLOW."""
    from_client: bool
    position: int
    """Where in this side's stream *data* begins."""
    data: bytes
    """At most 1024 bytes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowTotals:
    """The counters of permitted traffic to one destination by one process: ``struct aw_flow``."""

    sandbox: SandboxKey
    task: Task
    direction: Direction
    remote: Endpoint
    """Inward with port 0: every visit has another one."""
    local_port: int
    """The sandbox's own port of an inward flow; 0 outward."""
    verdict: Verdict
    """ALLOW, or WOULD_DENY in audit mode."""
    code: ReasonCode
    rule: int | None
    generation: int
    first_mono_ns: int
    last_mono_ns: int
    bytes_out: int
    """IP bytes, headers included."""
    bytes_in: int
    duration_ns: int
    """Sum over the sockets that ended."""
    sockets: int
    """How many connects or first packets the counters stand for."""
    name: str | None = None
    """The name that *remote* was learned under."""


class ProcessSource(enum.Enum):
    """Where the description of a process comes from."""

    KERNEL = "kernel"
    """Pid, uid and comm only: the process had gone when /proc was read."""
    PROC = "proc"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """A process as events describe it. Every string was chosen by the sandbox."""

    pid: int
    ppid: int | None
    uid: int
    comm: str
    exe: str | None
    argv: tuple[str, ...] | None
    source: ProcessSource


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyInForce:
    """Which policy judges a sandbox, as its events name it."""

    name: str
    phase: str | None = None
    commit: str | None = None
    """Of the git checkout that the policy was read from, hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """A sandbox as events name it."""

    id: str
    cgroup: str
    """Path below the cgroup v2 mount, starting with ``/``."""
    labels: Mapping[str, str] = field(default_factory=dict)
    """Such as ``run``, ``episode`` and ``step``: what the harness said of it at the time."""
    origin: Origin | None = None
    """None under ``agentwall run``."""
    policy: PolicyInForce | None = None
    """None under ``agentwall run``, whose start names it."""


HOST = Sandbox(id="host", cgroup="")
"""In place of a sandbox, in records about the daemon itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FlowRecord:
    """One ``kind: flow`` event: a denial, the first sight of a permitted flow, or its totals."""

    sandbox: Sandbox
    time_ns: int
    """UTC, nanoseconds since 1970."""
    mono_ns: int
    process: Process | None
    direction: Direction
    protocol: int
    local: Endpoint | None
    remote: Endpoint | None
    claimed: Endpoint | None
    verdict: Verdict
    reason: Reason
    hook: Hook
    errno: int | None
    socket_type: int
    bytes_out: int | None
    """IP bytes that left; 0 on a denial that stopped the packet; None before the flow's end."""
    bytes_in: int | None
    duration_ns: int | None
    count: int
    """How many attempts or sockets the record stands for."""
    name: str | None = None
    """The name under which the remote address was learned."""
    question: Question | None = None
    """What was asked or said, where the verdict is about that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GapRecord:
    """One ``kind: gap`` event: events were lost, and where."""

    sandbox: Sandbox
    time_ns: int
    mono_ns: int
    where: str
    """``denials``, ``flows``, ``flow-table``, ``names``, ``excerpts``, ..."""
    lost: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StateRecord:
    """One ``kind: state`` event: something about the wall itself, such as started or finished."""

    sandbox: Sandbox
    time_ns: int
    mono_ns: int
    state: str
    detail: Mapping[str, object]
    """JSON values only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DetectionRecord:
    """One ``kind: detection`` event: something was recognised, by its bytes or its behaviour."""

    sandbox: Sandbox
    time_ns: int
    mono_ns: int
    process: Process | None
    finding: Finding
    verdict: Verdict
    """DENY: the flow was cut. WOULD_DENY: it would be, in enforce mode. ALLOW: an alert."""
    response: str
    """What the policy says to do: ``alert``, ``block``."""
    direction: Direction
    protocol: int
    local: Endpoint | None
    remote: Endpoint | None
    """None where it is about no single flow, such as a scan."""
    name: str | None
    """The name under which the remote address was learned, or that the flow said."""
    reason: Reason
    """The rule that permits the flow."""
    bytes_left: int | None
    """How many bytes of the message had left before it was cut; None where nothing was."""
    count: int = 1
    """How many equal ones the record stands for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsRecord:
    """One ``kind: tls`` event: a process speaks TLS, and whether its text is read.

    The first time it does, and the first time that is so in another way; then how often it did.
    """

    sandbox: Sandbox
    time_ns: int
    mono_ns: int
    process: Process | None
    """None: several, of which there was no room to tell one by one."""
    direction: Direction
    protocol: int
    local: Endpoint | None
    remote: Endpoint | None
    name: str | None
    """The name under which the remote address was learned."""
    server_name: str | None
    """What the ClientHello asks for (SNI), lower case; chosen by the sandbox, at most 255
    characters. None: it names none, or none could be read."""
    alpn: tuple[str, ...]
    """The protocols that it offers, the preferred one first; chosen by the sandbox, bounded."""
    ja4: str | None
    """Fingerprint of the client's TLS; None where the hello was not seen whole."""
    reading: TlsReading | None
    """Whether and how the text of *process* is read; None: nobody has looked."""
    is_joined: bool
    """A probe has told which connection of a library this is: its text is read."""
    reason: Reason
    """The rule that permits the flow."""
    count: int = 1
    """How many sessions the record stands for; everything else is the last one's."""


Record = FlowRecord | GapRecord | StateRecord | DetectionRecord | TlsRecord
