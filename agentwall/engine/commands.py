# SPDX-License-Identifier: Apache-2.0
"""Outputs of the engine; the daemon carries them out.

Counterpart: :mod:`agentwall.engine.events`.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.flow.record import DetectionRecord, Record, SandboxKey
from agentwall.net.endpoint import Endpoint
from agentwall.policy.model import Response


@dataclass(frozen=True, slots=True)
class Report:
    """Hand a record to every sink."""

    record: Record | DetectionRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class KillFlow:
    """End the socket of a flow, so that the application is told and does not hang.

    What the kernel's automaton matched has stopped already; what a decoder found stops with this.
    """

    sandbox: SandboxKey
    cookie: int
    """Of the socket."""
    protocol: int
    """TCP or UDP, IANA number."""
    local: Endpoint
    remote: Endpoint
    pid: int
    """Whose socket it is, as far as the kernel knows; 0 if it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StopSandbox:
    """Freeze or kill a sandbox, as its policy says of what was found; the flow is cut already."""

    sandbox: SandboxKey
    response: Response
    """FREEZE or KILL."""
    detection: DetectionRecord
    """What it follows on."""


Command = Report | KillFlow | StopSandbox
"""What :meth:`Engine.handle` yields."""
