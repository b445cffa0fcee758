# SPDX-License-Identifier: Apache-2.0
"""Behaviour over flow records: records in, detections out, as they come or from an event file.

There is no clock: time is what the records say. What is kept is bounded for each sandbox, and what
had to be forgotten early is counted. The counterpart for captures is
:mod:`agentwall.detect.behaviour`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

from agentwall.detect.beacon import BeaconWatch
from agentwall.detect.dns_budget import DnsWatch, asked_of
from agentwall.detect.reverse import LeadWatch
from agentwall.detect.scanning import Outcome, ScanWatch, Trial
from agentwall.flow.finding import DetectionClass, Finding
from agentwall.flow.record import DetectionRecord, FlowRecord
from agentwall.flow.verdict import Direction, Hook, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, L4Protocol
from agentwall.policy.model import Detect, Response

MAX_SANDBOXES = 4096
"""Watched at a time; of more the one heard of longest ago is forgotten."""

# About what was said to a server that was reached, and so no attempt to reach anything.
_OF_CONTENT = frozenset(
    {
        ReasonCode.RESOLVER,
        ReasonCode.QUESTION,
        ReasonCode.NOT_A_QUESTION,
        ReasonCode.FORGED,
        ReasonCode.REBINDING,
        ReasonCode.SERVER_NAME,
        ReasonCode.NO_SERVER_NAME,
        ReasonCode.ECH,
        ReasonCode.QUIC,
        ReasonCode.PROXY_TARGET,
    }
)
_REFUSAL_BYTES = {4: 40, 6: 60}
"""By IP version: of a bare RST. What a socket got if nobody accepted it, at most."""


@dataclass(slots=True)
class _Watched:
    """One sandbox, and the last record of it."""

    detect: Detect
    scan: ScanWatch
    dns: DnsWatch
    beacon: BeaconWatch
    lead: LeadWatch
    last: FlowRecord | None = None

    @property
    def dropped(self) -> int:
        return self.scan.dropped + self.dns.dropped + self.beacon.dropped + self.lead.dropped


class Watch:
    """Watches what sandboxes do, each on its own. A sandbox is known by its id."""

    def __init__(self, detect: Detect | None = None) -> None:
        """Make a watch; *detect* holds for sandboxes that :meth:`apply` says nothing of."""
        self._default = detect or Detect()
        self._sandboxes: OrderedDict[str, _Watched] = OrderedDict()
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """How much was forgotten early, over all sandboxes so far."""
        return self._dropped + sum(known.dropped for known in self._sandboxes.values())

    def apply(self, sandbox: str, detect: Detect) -> None:
        """Let *detect* hold for the sandbox with this id; what is known of it stays."""
        known = self._known(sandbox)
        known.detect = detect
        known.scan.limits = detect.scan
        known.dns.limits = detect.dns

    def see(self, record: FlowRecord) -> Iterator[DetectionRecord]:
        """Yield the detections that *record* completes."""
        known = self._known(record.sandbox.id)
        known.last = record
        for finding, remote in _findings(known, record):
            if known.detect.responses.get(finding.cls) is not Response.OFF:
                yield _detection(record, finding, remote)

    def end(self, sandbox: str) -> Iterator[DetectionRecord]:
        """Yield what is left to say of a sandbox that has ended, and forget it."""
        known = self._sandboxes.pop(sandbox, None)
        if known is None or known.last is None:
            return
        self._dropped += known.dropped
        if known.detect.responses.get(DetectionClass.SCAN) is Response.OFF:
            return
        for finding in known.scan.end():
            yield _detection(known.last, finding, None)

    def end_all(self) -> Iterator[DetectionRecord]:
        """Yield what is left to say of every sandbox: an event file has come to its end."""
        for sandbox in list(self._sandboxes):
            yield from self.end(sandbox)

    def _known(self, sandbox: str) -> _Watched:
        known = self._sandboxes.get(sandbox)
        if known is None:
            if len(self._sandboxes) >= MAX_SANDBOXES:
                _, oldest = self._sandboxes.popitem(last=False)
                self._dropped += oldest.dropped + 1
            detect = self._default
            known = self._sandboxes[sandbox] = _Watched(
                detect, ScanWatch(detect.scan), DnsWatch(detect.dns), BeaconWatch(), LeadWatch()
            )
        self._sandboxes.move_to_end(sandbox)
        return known


def _findings(known: _Watched, record: FlowRecord) -> Iterator[tuple[Finding, Endpoint | None]]:
    """Yield findings, and the one endpoint each is about, if it is one."""
    if record.question is not None and record.question.type is not None:
        asked = asked_of(record.question.name, record.question.type)
        for finding in known.dns.see(record.time_ns, asked):
            yield finding, record.remote
    remote = record.remote
    if record.direction is not Direction.OUT or remote is None:
        return
    if record.reason.code in _OF_CONTENT:
        return
    outcome = _outcome(record, remote)
    if outcome is not None:
        trial = Trial(record.time_ns, remote, outcome, record.name)
        for finding in known.scan.see(trial):
            yield finding, None
    if record.hook is not Hook.SOCK_RELEASE or record.count == 1:
        # Totals of several calls say when the last one was, and that depends on when they are read.
        size = (record.bytes_out or 0) + (record.bytes_in or 0)
        for finding in known.beacon.see(record.time_ns, remote, size, record.name):
            yield finding, remote
    for finding in known.lead.see(record):
        yield finding, remote


def _outcome(record: FlowRecord, remote: Endpoint) -> Outcome | None:
    """Return what became of the attempt that *record* tells of; None if it tells of none."""
    if record.verdict is not Verdict.ALLOW:
        return Outcome.REFUSED if record.count else None
    if record.hook is not Hook.SOCK_RELEASE:
        return Outcome.PERMITTED
    if record.protocol != L4Protocol.TCP or not record.count or record.bytes_in is None:
        return None
    most = _REFUSAL_BYTES[remote.address.version] * record.count
    return Outcome.UNANSWERED if record.bytes_in <= most else None


def _detection(record: FlowRecord, finding: Finding, remote: Endpoint | None) -> DetectionRecord:
    # Behaviour is known once it has happened: it is an alert, whatever the policy would rather do.
    return DetectionRecord(
        sandbox=record.sandbox,
        time_ns=record.time_ns,
        mono_ns=record.mono_ns,
        process=record.process,
        finding=finding,
        verdict=Verdict.ALLOW,
        response=Response.ALERT.value,
        direction=Direction.OUT,
        protocol=record.protocol,
        local=None,
        remote=remote,
        name=record.name if remote is not None else None,
        reason=record.reason,
        bytes_left=None,
    )
