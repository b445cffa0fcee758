# SPDX-License-Identifier: Apache-2.0
"""What a policy says of the flows of one capture, and of what was found in them.

A name may be resolved at the end of a capture and used at its beginning, so nothing is judged
before the capture was read; of equal flows one is kept until then.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from agentwall.detect.conversation import Conversation
from agentwall.detect.dns import read_question
from agentwall.detect.judging import judge
from agentwall.detect.replay import Replay, declared_servers
from agentwall.detect.resolved import ResolvedNames, dns_messages
from agentwall.detect.signature import SignatureSet
from agentwall.flow.finding import Finding, Stage
from agentwall.flow.record import FlowRecord, Question, Sandbox
from agentwall.flow.verdict import Direction, Hook, Reason, ReasonCode, Verdict
from agentwall.net.endpoint import L4Protocol
from agentwall.policy.evaluate import Decision
from agentwall.policy.model import Policy, Response
from agentwall.sinks.findings import Judged

MAX_KEPT = 65_536
"""Distinct flows of a capture that wait for its end; of more each is judged at once."""
_DNS = 53
_SOCKET_TYPES: dict[int, int] = {L4Protocol.TCP: 1, L4Protocol.UDP: 2}
_Key = tuple[object, ...]


@dataclass(slots=True)
class _Flow:
    """Equal flows, and one that stands for them."""

    conversation: Conversation
    count: int = 0
    bytes_out: int = 0
    bytes_in: int = 0
    duration_ns: int = 0
    begin_ns: int = 1 << 63

    def add(self, conversation: Conversation) -> None:
        self.count += 1
        self.bytes_out += conversation.client_bytes
        self.bytes_in += conversation.server_bytes
        self.duration_ns += conversation.end_ns - conversation.begin_ns
        self.begin_ns = min(self.begin_ns, conversation.begin_ns)


class FlowJudge:
    """One policy and one capture."""

    def __init__(self, policy: Policy, signatures: SignatureSet) -> None:
        """Begin a capture, in which *signatures* are looked for."""
        self._policy = policy
        self._signatures = {each.id: each for each in signatures.signatures}
        self._names = ResolvedNames(declared_servers(policy))
        self._replay = Replay(policy, self._names)
        self._flows: dict[_Key, _Flow] = {}

    def take(self, conversation: Conversation) -> FlowRecord | None:
        """Take the next conversation; return its record if there is no room for it to wait."""
        self._names.learn(conversation)
        key = _key(conversation)
        flow = self._flows.get(key)
        if flow is None:
            flow = _Flow(slim(conversation))
            if len(self._flows) < MAX_KEPT:
                self._flows[key] = flow
        flow.add(conversation)
        return None if key in self._flows else self._record(flow)

    def records(self) -> Iterator[FlowRecord]:
        """Yield the verdicts, once everything was taken: what is denied only would have been."""
        for flow in self._flows.values():
            yield self._record(flow)

    def judge(self, conversation: Conversation | None, finding: Finding) -> Judged | None:
        """Return what follows on *finding*; None if the policy does not look for it there.

        Args:
            conversation: It may be :func:`slim`; None where the finding is about several.
            finding: What was found.
        """
        decision = None if conversation is None else self._replay.judge(conversation)
        is_denied = decision is not None and decision.verdict is Verdict.DENY
        rule = decision.rule if decision is not None and not is_denied else None
        # The automaton knows no more than which signature matched.
        known = self._signatures.get(finding.signature)
        found = known if known is not None and finding.stage is Stage.SIGNATURE else finding
        response = judge(found, self._policy, rule)
        if response is Response.OFF:
            return None
        blocks = is_denied or response.cuts
        return Judged(
            verdict=Verdict.WOULD_DENY if blocks else Verdict.ALLOW,
            response=response.value,
            reason=_reason(decision),
            is_denied=is_denied,
        )

    def _record(self, flow: _Flow) -> FlowRecord:
        conversation = flow.conversation
        decision = self._replay.judge(conversation)
        client, server = conversation.client, conversation.server
        names = self._names.names(client.address, server.address)
        is_said = decision.code in (ReasonCode.QUESTION, ReasonCode.SERVER_NAME)
        return FlowRecord(
            # Clients are to captures what sandboxes are to events; they have no cgroup.
            sandbox=Sandbox(id=str(client.address), cgroup=""),
            time_ns=flow.begin_ns,
            mono_ns=0,
            process=None,
            direction=Direction.OUT,
            protocol=server.protocol,
            local=None,
            remote=server,
            claimed=None,
            verdict=Verdict.WOULD_DENY if decision.verdict is Verdict.DENY else Verdict.ALLOW,
            reason=_reason(decision),
            hook=Hook.EGRESS,
            errno=None,
            socket_type=_SOCKET_TYPES.get(server.protocol, 0),
            bytes_out=flow.bytes_out,
            bytes_in=flow.bytes_in,
            duration_ns=flow.duration_ns,
            count=flow.count,
            name=decision.name if decision.name and not is_said else next(iter(names), None),
            question=_question(conversation, decision) if is_said else None,
        )


def slim(conversation: Conversation) -> Conversation:
    """Return *conversation* without what only finding something needs."""
    bare = replace(conversation, messages=(), client_cuts=(), server_cuts=())
    if conversation.server.port == _DNS:
        return bare
    return replace(bare, client_head=b"", server_head=b"", datagrams=())


def _key(conversation: Conversation) -> _Key:
    server = conversation.server
    key = (conversation.client.address, server.address, server.protocol, server.port)
    if server.port == _DNS:
        return (*key, tuple(_asked(conversation)))
    return (*key, conversation.name)


def _asked(conversation: Conversation) -> Iterator[Question | None]:
    if conversation.server.protocol == L4Protocol.TCP:
        messages = dns_messages(conversation.client_head)
    else:
        messages = (one.data for one in conversation.datagrams if one.from_client)
    for message in messages:
        asked = read_question(message)
        yield None if asked is None else Question(name=asked.name, type=asked.type)


def _question(conversation: Conversation, decision: Decision) -> Question | None:
    if decision.name is None:
        return None
    if decision.code is ReasonCode.QUESTION:
        for asked in _asked(conversation):
            if asked is not None and asked.name == decision.name:
                return asked
    return Question(name=decision.name, type=None)


def _reason(decision: Decision | None) -> Reason:
    if decision is None:
        return Reason(code=ReasonCode.RULE)
    rule = decision.rule
    if rule is None:
        return Reason(code=decision.code)
    where = decision.where or rule.where
    return Reason(code=decision.code, rule=rule.id, file=where.path, line=where.line)
