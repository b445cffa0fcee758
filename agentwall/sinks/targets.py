# SPDX-License-Identifier: Apache-2.0
"""The words for what was tried and where to, by name where one is known. Pure.

Everything returned is one line and safe on a terminal: names, too, are what a sandbox chose.
"""

from __future__ import annotations

from dataclasses import dataclass

from agentwall.flow.record import FlowRecord, Question
from agentwall.flow.verdict import Direction, ReasonCode
from agentwall.net.endpoint import Endpoint
from agentwall.net.ports import protocol_name
from agentwall.sinks.describe import describe_flow, has_ports
from agentwall.sinks.escape import printable, shorten
from agentwall.sinks.flow_keys import judged_port
from agentwall.sinks.rrtypes import type_name

_MAX_NAME = 80
_ABOUT_QUESTIONS = (ReasonCode.QUESTION, ReasonCode.NOT_A_QUESTION)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a flow was about, as its record or a report's row has it."""

    direction: Direction
    protocol: int
    remote: Endpoint | None
    port: int
    """The judged one: the remote's outward, the sandbox's own inward."""
    socket_type: int
    code: ReasonCode
    name: str | None
    question: Question | None
    others: int = 0
    """How many more addresses of that name there were."""


def record_target(record: FlowRecord) -> str:
    """Return what *record* is about, in words."""
    return describe_target(
        Target(
            direction=record.direction,
            protocol=record.protocol,
            remote=record.remote,
            port=judged_port(record),
            socket_type=record.socket_type,
            code=record.reason.code,
            name=record.name,
            question=record.question,
        )
    )


def describe_target(target: Target) -> str:
    """Return what was tried and where to.

    ``tcp 203.0.113.7:443``, ``tcp hub.example.com:443 (203.0.113.7)``,
    ``DNS question for evil.example.net (A) to 10.20.0.2``.
    """
    question, remote = target.question, target.remote
    if question is None or remote is None:
        return _flow(target)
    if target.code in _ABOUT_QUESTIONS:
        return f"DNS question for {describe_question(question)} to {remote.address}"
    if target.code is ReasonCode.REBINDING:
        return f"DNS answer {remote.address} for {describe_question(question)}"
    way = "for" if target.code is ReasonCode.PROXY_TARGET else "as"
    return f"{_flow(target)} {way} {describe_question(question)}"


def describe_question(question: Question) -> str:
    """Return ``evil.example.net (A)``, or the name alone where it was not DNS that said it."""
    name = describe_host(question.name)
    return name if question.type is None else f"{name} ({type_name(question.type)})"


def describe_host(name: str) -> str:
    """Return *name*, escaped and of bounded length; the root's is a dot."""
    return shorten(printable(name), _MAX_NAME) or "."


def _flow(target: Target) -> str:
    remote = target.remote
    if not target.name or target.direction is Direction.IN or remote is None:
        return describe_flow(
            target.direction, target.protocol, remote, target.port, target.socket_type
        )
    port = f":{target.port}" if has_ports(target.protocol) else ""
    others = f" and {target.others} more" if target.others else ""
    host = describe_host(target.name)
    return f"{protocol_name(target.protocol)} {host}{port} ({remote.address}{others})"
