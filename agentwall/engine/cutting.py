# SPDX-License-Identifier: Apache-2.0
"""Which refusals end a flow, so that its application is told and does not wait in vain. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from agentwall.engine.commands import KillFlow
from agentwall.flow.record import Attempt
from agentwall.flow.verdict import Direction, Hook, ReasonCode, Verdict
from agentwall.net.endpoint import L4Protocol

CUTTING = (ReasonCode.SIGNATURE, ReasonCode.UNREADABLE)
"""Reasons for which nothing of a flow passes any more."""
_KILLABLE = (L4Protocol.TCP, L4Protocol.UDP)
_REFUSING = (
    ReasonCode.RULE,
    ReasonCode.NO_RULE,
    ReasonCode.TRANSLATED,
    ReasonCode.SERVER_NAME,
    ReasonCode.NO_SERVER_NAME,
    ReasonCode.ECH,
    ReasonCode.PROXY_TARGET,
)
"""Reasons for which a TCP flow that was begun is refused; to a resolver each question is judged."""


def is_cut(attempt: Attempt) -> bool:
    """Say whether nothing of the flow of *attempt* passes any more.

    That is so of what a signature ended, and of a TCP flow that was begun and is refused by now:
    another policy or phase holds, or it has named a server that no rule permits. What connect()
    refused has been told already, and a listener goes on for other visitors.
    """
    if attempt.verdict is not Verdict.DENY:
        return False
    is_begun = attempt.hook is Hook.EGRESS and attempt.direction is Direction.OUT
    is_refused = is_begun and attempt.protocol == L4Protocol.TCP and attempt.code in _REFUSING
    return attempt.code in CUTTING or is_refused


def kill_of(attempt: Attempt) -> Iterator[KillFlow]:
    """Yield what ends the socket of *attempt*; nothing where its flow is not known.

    ICMP has none, and text inside TLS may be seen before it is known which flow it takes: the
    kernel lets nothing of that leave, and tells of the flow when something is about to.
    """
    if attempt.protocol not in _KILLABLE:
        return
    if attempt.local is None or attempt.remote is None or not attempt.cookie:
        return
    yield KillFlow(
        sandbox=attempt.sandbox,
        cookie=attempt.cookie,
        protocol=attempt.protocol,
        local=attempt.local,
        remote=attempt.remote,
        pid=attempt.task.pid,
    )
