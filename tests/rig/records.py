# SPDX-License-Identifier: Apache-2.0
"""Records as the engine makes them, and a day's worth of them: one agent that goes astray."""

from __future__ import annotations

import errno
import os
import random
from collections.abc import Iterable, Iterator
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

from agentwall.flow.finding import Confidence, DetectionClass, Finding, Stage
from agentwall.flow.record import (
    DetectionRecord,
    FlowRecord,
    GapRecord,
    Process,
    ProcessSource,
    Question,
    Record,
    Sandbox,
    StateRecord,
)
from agentwall.flow.severity import Severity
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, L4Protocol
from agentwall.sinks.jsonl import EventLog, open_event_file

START_NS = 1_790_000_000_123_456_789
SECOND = 1_000_000_000
SANDBOX = Sandbox(
    id="run-7f3a", cgroup="/agentwall.slice/run-7f3a", labels={"episode": "41", "step": "7"}
)
TCP, UDP, ICMP = L4Protocol.TCP, L4Protocol.UDP, L4Protocol.ICMP
NO_RULE = Reason(code=ReasonCode.NO_RULE)
ALLOWED = Reason(
    code=ReasonCode.RULE, rule="rl-rollout:allow[0]", file="policies/rl-rollout.yaml", line=12
)
DENIED = Reason(
    code=ReasonCode.RULE, rule="rl-rollout:deny[0]", file="policies/rl-rollout.yaml", line=21
)


def endpoint(address: str, port: int, protocol: int = TCP) -> Endpoint:
    """Return an endpoint from text."""
    return Endpoint(ip_address(address), port, protocol)


def process(comm: str, pid: int, exe: str | None = None) -> Process:
    """Return a process as /proc describes it."""
    return Process(
        pid=pid,
        ppid=100,
        uid=1000,
        comm=comm,
        exe=exe or f"/usr/bin/{comm}",
        argv=(comm,),
        source=ProcessSource.PROC,
    )


CURL = process("curl", 4242)


def flow(**changes: object) -> FlowRecord:
    """Return a denied TCP connect by curl, with *changes*."""
    record = FlowRecord(
        sandbox=SANDBOX,
        time_ns=START_NS,
        mono_ns=5 * SECOND,
        process=CURL,
        direction=Direction.OUT,
        protocol=TCP,
        local=None,
        remote=endpoint("203.0.113.7", 443),
        claimed=None,
        verdict=Verdict.DENY,
        reason=NO_RULE,
        hook=Hook.CONNECT4,
        errno=errno.EPERM,
        socket_type=1,
        bytes_out=0,
        bytes_in=0,
        duration_ns=None,
        count=1,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


def asked(name: str, type_: int, /, **changes: object) -> FlowRecord:
    """Return a refused DNS question by curl, with *changes*."""
    found = {
        "remote": endpoint("10.20.0.2", 53, UDP),
        "protocol": UDP,
        "hook": Hook.EGRESS,
        "errno": None,
        "socket_type": 2,
        "reason": Reason(code=ReasonCode.QUESTION),
        "question": Question(name=name, type=type_),
    }
    return flow(**{**found, **changes})


def permitted(**changes: object) -> FlowRecord:
    """Return the first sight of a permitted flow, with *changes*."""
    found = {
        "verdict": Verdict.ALLOW,
        "reason": ALLOWED,
        "errno": None,
        "bytes_out": None,
        "bytes_in": None,
        "remote": endpoint("198.51.100.10", 443),
    }
    return flow(**{**found, **changes})


MINING = Finding(
    cls=DetectionClass.MINING,
    signature="mining/stratum-v1",
    dialect="stratum-v1",
    severity=Severity.HIGH,
    confidence=Confidence.HIGH,
    stage=Stage.SIGNATURE,
    evidence={"excerpt": '{"id": 1, "method": "mining.subscribe"', "pool": "pool.example"},
)


def detection(finding: Finding = MINING, /, **changes: object) -> DetectionRecord:
    """Return a flow of python3 that was cut before a byte was out, with *changes*."""
    record = DetectionRecord(
        sandbox=SANDBOX,
        time_ns=START_NS,
        mono_ns=5 * SECOND,
        process=process("python3", 123),
        finding=finding,
        verdict=Verdict.DENY,
        response="block",
        direction=Direction.OUT,
        protocol=TCP,
        local=endpoint("10.20.0.50", 40000),
        remote=endpoint("203.0.113.10", 3333),
        name=None,
        reason=replace(ALLOWED, code=ReasonCode.SIGNATURE),
        bytes_left=0,
    )
    return replace(record, **changes)  # type: ignore[arg-type]


SCAN = Finding(
    cls=DetectionClass.SCAN,
    signature="behaviour/scan-horizontal",
    dialect="scan-horizontal",
    severity=Severity.HIGH,
    confidence=Confidence.MEDIUM,
    stage=Stage.BEHAVIOUR,
    evidence={"addresses": 13, "private": 12, "ports": 1, "refused": 13, "seconds": 2.5},
)


def scanned(**changes: object) -> DetectionRecord:
    """Return the alert of a scan, with *changes*."""
    found = {"verdict": Verdict.ALLOW, "response": "alert", "remote": None, "local": None}
    return detection(SCAN, **{**found, "reason": NO_RULE, "bytes_left": None, **changes})


def totals(record: FlowRecord, *, out: int, back: int, sockets: int = 1) -> FlowRecord:
    """Return the counters that end the permitted *record*, as the engine makes them."""
    inward = record.direction is Direction.IN
    return replace(
        record,
        hook=Hook.SOCK_RELEASE,
        bytes_out=out,
        bytes_in=back,
        duration_ns=730_000_000 * sockets,
        count=sockets,
        local=replace(record.local, address=ip_address("0.0.0.0")) if inward else None,
        remote=replace(record.remote, port=0) if inward else record.remote,
        claimed=None,
        socket_type=0,
    )


def state(name: str, detail: dict[str, object] | None = None, at_s: float = 0) -> StateRecord:
    """Return a state record *at_s* seconds into the run."""
    return StateRecord(
        sandbox=SANDBOX,
        time_ns=START_NS + int(at_s * SECOND),
        mono_ns=5 * SECOND + int(at_s * SECOND),
        state=name,
        detail=detail or {},
    )


STARTED = state(
    "started",
    {
        "mode": "enforce",
        "coverage": "partial",
        "open_roads": ["the host's network namespace: raw packets of other sockets"],
        "command": ["python3", "agent.py", "--episode", "41"],
    },
)
APPLIED = state(
    "rules-applied",
    {
        "policy": "rl-rollout",
        "mode": "enforce",
        "files": ["policies/rl-rollout.yaml"],
        "digest": "ab" * 32,
        "generation": 1,
        "rules": 4,
    },
)
FINISHED = state(
    "finished",
    {"exit_code": 1, "denied": 60, "would_denied": 0, "probes": 3, "lost": 2},
    at_s=64,
)


def rome_day(verdict: Verdict = Verdict.DENY) -> list[Record]:
    """Return the records of an agent that fetches, scans, tunnels, mines, and asks for metadata."""
    records: list[Record] = [STARTED, APPLIED]
    records += _at(1.2, permitted())
    for host in range(1, 31):
        scan = flow(
            process=process("nmap", 5000 + host % 3, "/usr/bin/nmap"),
            remote=endpoint(f"10.20.0.{host}", 22),
            verdict=verdict,
        )
        records += _at(12 + host / 20, scan)
    ssh = process("ssh", 5100)
    tunnel = flow(process=ssh, remote=endpoint("203.0.113.7", 22), verdict=verdict)
    records += _at(20, tunnel) + _at(21.5, tunnel) + _at(25, tunnel)
    miner = process("xmrig", 5200, "/tmp/.cache/xmrig")
    pool = flow(process=miner, remote=endpoint("203.0.113.99", 3333), verdict=verdict)
    for attempt in range(12):
        records += _at(31 + attempt, pool)
    records += _at(44, flow(remote=endpoint("169.254.169.254", 80), verdict=verdict))
    six = endpoint("2001:db8:ffff:ffff:ffff:ffff:ffff:1234", 8443)
    records += _at(45, flow(remote=six, hook=Hook.CONNECT6, verdict=verdict))
    listed = endpoint("10.20.0.9", 8000)
    records += _at(46, flow(remote=listed, reason=DENIED, verdict=verdict, process=ssh))
    dns = endpoint("8.8.8.8", 53, UDP)
    records += _at(
        47,
        flow(remote=dns, protocol=UDP, hook=Hook.SENDMSG4, socket_type=2, verdict=verdict),
    )
    kind = Reason(code=ReasonCode.SOCKET_TYPE)
    evil = process("p\x1b[2J|`x`\u202egnp", 5300, "/tmp/<b>\n| evil")
    raw = flow(
        remote=None, protocol=ICMP, hook=Hook.SOCK_CREATE, socket_type=3, reason=kind, process=evil
    )
    records += _at(48, replace(raw, verdict=verdict))
    visitor = flow(
        direction=Direction.IN,
        local=endpoint("10.20.0.50", 8888),
        remote=endpoint("10.20.0.77", 51234),
        hook=Hook.INGRESS,
        errno=None,
        process=process("python3", 4100),
        verdict=verdict,
    )
    records += _at(50, visitor)
    records.append(_gap(52))
    records += _at(60, totals(permitted(), out=48_213, back=9_812_442, sockets=6))
    return [*records, FINISHED]


def _gap(at_s: float) -> GapRecord:
    moment = int(at_s * SECOND)
    return GapRecord(
        sandbox=SANDBOX,
        time_ns=START_NS + moment,
        mono_ns=5 * SECOND + moment,
        where="flows",
        lost=2,
    )


def _at(at_s: float, record: FlowRecord) -> list[Record]:
    moment = int(at_s * SECOND)
    return [replace(record, time_ns=START_NS + moment, mono_ns=5 * SECOND + moment)]


def many(number: int, seed: int = 1) -> Iterator[Record]:
    """Yield *number* flow records between a start and an end: many programs, many destinations."""
    source = random.Random(seed)
    yield STARTED
    for index in range(number):
        host = source.randrange(1 << 16)
        remote = endpoint(f"10.{host % 7}.{host >> 8}.{host & 255}", source.choice([22, 80, 443]))
        yield flow(
            time_ns=START_NS + index * 1_000_000,
            mono_ns=5 * SECOND + index * 1_000_000,
            process=process(source.choice(["curl", "nmap", "ssh", "python3"]), 4000 + index % 500),
            remote=remote,
        )
    yield FINISHED


def write_log(path: Path, records: Iterable[Record], run: str = "run-7f3a") -> Path:
    """Write *records* to a new event file and return its path."""
    log = EventLog(open_event_file(os.fspath(path)), run)
    for record in records:
        log.write(record)
    log.close()
    return path
