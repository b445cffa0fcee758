# SPDX-License-Identifier: Apache-2.0
"""What must be true after an act, a check a line. Pure: judges what the act brought back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from demo.act import Act
from demo.attempts import API_NAME, API_PATH, ATTEMPTS, Attempt


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One line of the verdict."""

    act: str
    title: str
    found: str
    """What was measured."""
    problems: tuple[str, ...] = ()
    """What should have been otherwise; empty for a check that passed."""

    @property
    def passed(self) -> bool:
        """True if nothing is wrong."""
        return not self.problems


def judge_audit(act: Act) -> list[Check]:
    """Everything arrived, and every attempt is in the log as ``would-deny``."""
    return [_judge_work(act), *(_judge_let_through(act, attempt) for attempt in ATTEMPTS)]


def judge_enforce(act: Act) -> list[Check]:
    """The task was done, nothing else arrived, and every attempt is in the log as ``deny``."""
    stray_bytes = sum(len(packet.raw) for packet in act.strays)
    return [
        _judge_work(act),
        *(_judge_refused(act, attempt) for attempt in ATTEMPTS),
        Check(
            act=act.mode,
            title="anything else on the wire",
            found=f"{_amount(len(act.strays), stray_bytes)} to places not permitted",
            problems=_expect(not act.strays, "expected none"),
        ),
    ]


def judge_report(mode: str, exit_code: int, report: dict[str, Any]) -> Check:
    """``agentwall audit`` finds the log whole and says by its exit code that there were denials."""
    denials = len(report.get("denials", ()))
    damage = len(report.get("gaps", ())) + len(report.get("errors", ()))
    return Check(
        act=mode,
        title="agentwall audit of the log",
        found=f"{denials} rows of denials, {damage} gaps or errors, exit {exit_code}",
        problems=_expect(denials > 0, "expected denials")
        + _expect(damage == 0, "expected a whole log")
        + _expect(exit_code == 1, "expected exit 1"),
    )


def judge_control(answers: int, wanted: int) -> Check:
    """The far side still answers those who are not behind the wall."""
    return Check(
        act="control",
        title="far side, asked without the wall",
        found=f"{answers} of {wanted} services answer",
        problems=_expect(answers == wanted, f"expected {wanted}"),
    )


def _judge_work(act: Act) -> Check:
    outcome, detail = act.claims.get("fetch", ("nothing", "the agent did not say"))
    served = [line for line in act.requests if f" {API_NAME} GET {API_PATH} 200 " in line]
    asked = [name for _, name, _ in act.questions if name == API_NAME]
    return Check(
        act=act.mode,
        title="the task: fetch from the model API",
        found=f"{_count(len(served), 'request')} served over TLS, "
        f"{_count(len(asked), 'DNS question')}, agent {detail}",
        problems=_expect(len(served) == 1, "expected 1 request")
        + _expect(bool(asked), "expected a DNS question")
        + _expect(outcome == "done", f"expected the agent to be done, got {outcome}")
        + _expect(act.exit_code == 0, f"expected run to exit with 0, got {act.exit_code}"),
    )


def _judge_let_through(act: Act, attempt: Attempt) -> Check:
    arrival = act.arrivals[attempt.id]
    wanted, events = len(attempt.targets), _events(act, attempt, "would-deny")
    arrived = arrival.heard + arrival.payload
    return Check(
        act=act.mode,
        title=attempt.title,
        found=f"{_amount(arrival.packets, len(arrival.payload))} arrived, "
        f"{_count(events, 'would-deny event')}",
        problems=_expect(arrival.targets == wanted, f"expected {wanted} targets to be reached")
        + _expect(attempt.proof in arrived, f"expected {attempt.proof!r} to arrive")
        + _expect(events >= wanted, f"expected {wanted} would-deny events"),
    )


def _judge_refused(act: Act, attempt: Attempt) -> Check:
    arrival = act.arrivals[attempt.id]
    outcome, _ = act.claims.get(attempt.id, ("nothing", ""))
    amount = _amount(arrival.packets, len(arrival.payload) + len(arrival.heard))
    # Without the capability the kernel refuses before it asks anyone else: no event.
    wanted = 0 if attempt.needs_net_raw else len(attempt.targets)
    events = _events(act, attempt, "deny")
    reason = "no CAP_NET_RAW" if attempt.needs_net_raw else _count(events, "deny event")
    return Check(
        act=act.mode,
        title=attempt.title,
        found=f"{amount} arrived, {reason}, agent got {outcome}",
        problems=_expect(arrival.packets == 0, "expected 0 packets")
        + _expect(not arrival.heard and not arrival.visitors, "expected silence at the service")
        + _expect(events >= wanted, f"expected {wanted} deny events")
        + _expect(outcome == "EPERM", "expected the agent to get EPERM"),
    )


def _events(act: Act, attempt: Attempt, verdict: str) -> int:
    """Return how many targets of *attempt*, or sockets of its type, have an event of *verdict*."""
    flows = [
        event
        for event in act.events
        if event["kind"] == "flow"
        and (event["direction"], event["protocol"]) == ("out", attempt.protocol)
        and event["verdict"] == verdict
    ]
    if attempt.socket_type is not None:
        return sum(
            event["reason"]["code"] == "socket-type" and event["socket_type"] == attempt.socket_type
            for event in flows
        )
    remotes = {(e["remote"]["address"], e["remote"]["port"]) for e in flows if e["remote"]}
    return len(remotes & set(attempt.targets))


def _amount(packets: int, size_bytes: int) -> str:
    return f"{_count(packets, 'packet')}, {_count(size_bytes, 'byte')}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def _expect(holds: bool, otherwise: str) -> tuple[str, ...]:
    return () if holds else (otherwise,)
