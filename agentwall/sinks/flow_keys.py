# SPDX-License-Identifier: Apache-2.0
"""What makes two flow records equal for a reader: who, where to, and why. Pure."""

from __future__ import annotations

from agentwall.flow.record import FlowRecord
from agentwall.flow.verdict import Direction, Hook


def judged_port(record: FlowRecord) -> int:
    """Return the port that rules judge: the remote one outward, the sandbox's own inward."""
    if record.direction is Direction.IN:
        return record.local.port if record.local is not None else 0
    return record.remote.port if record.remote is not None else 0


def is_totals(record: FlowRecord) -> bool:
    """Say whether *record* sums up sockets that other records told of already."""
    return record.hook is Hook.SOCK_RELEASE


def flow_key(record: FlowRecord) -> tuple[object, ...]:
    """Return a value that is the same for equal flows: sandbox, program, destination, reason.

    Pid, hook and time are left out, and so is the visitor's own port of an inward flow.
    """
    process, remote = record.process, record.remote
    return (
        record.sandbox.id,
        (process.comm, process.exe) if process else None,
        record.direction,
        record.protocol,
        remote.address if remote else record.socket_type,
        judged_port(record),
        record.verdict,
        record.reason,
    )
