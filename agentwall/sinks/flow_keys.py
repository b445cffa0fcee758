# SPDX-License-Identifier: Apache-2.0
"""What makes two flow records equal for a reader: who, where to, and why. Pure."""

from __future__ import annotations

from agentwall.engine.severity import severity_of
from agentwall.flow.record import FlowRecord, Question
from agentwall.flow.verdict import Direction, Hook

_ADDRESSES = (1, 28)
"""A and AAAA."""


def judged_port(record: FlowRecord) -> int:
    """Return the port that rules judge: the remote one outward, the sandbox's own inward."""
    if record.direction is Direction.IN:
        return record.local.port if record.local is not None else 0
    return record.remote.port if record.remote is not None else 0


def is_totals(record: FlowRecord) -> bool:
    """Say whether *record* sums up sockets that other records told of already."""
    return record.hook is Hook.SOCK_RELEASE


def flow_key(record: FlowRecord, *, by_comm: bool = False) -> tuple[object, ...]:
    """Return a value that is the same for equal flows: sandbox, program, destination, reason.

    Pid, hook and time are left out, and so is the visitor's own port of an inward flow. The
    destination is a name where one is known: its addresses change.

    Args:
        record: Of a flow.
        by_comm: Programs of one name count as one, whatever file they are.
    """
    process = record.process
    return (
        record.sandbox.id,
        (process.comm, None if by_comm else process.exe) if process else None,
        record.direction,
        record.protocol,
        _destination(record),
        _asked(record.question),
        judged_port(record),
        record.verdict,
        record.reason,
    )


def _destination(record: FlowRecord) -> object:
    if record.remote is None:
        return record.socket_type
    if record.name is None or record.direction is Direction.IN:
        return record.remote.address
    # One name may have harmless addresses and others: equal flows are equally serious.
    return record.name, severity_of(record)


def _asked(question: Question | None) -> object:
    if question is None:
        return None
    # Resolvers ask for both kinds of address at a time.
    return question.name, 0 if question.type in _ADDRESSES else question.type
