# SPDX-License-Identifier: Apache-2.0
"""How a policy would have judged the conversations of a capture. Pure.

The rules decide as :mod:`agentwall.policy.evaluate` says, with the names that the capture's own DNS
answers give. Then what can be read is judged as live: each plain DNS question to a declared server,
and the server name of TLS or the Host of HTTP where a rule on names allows. What follows on what
was recognised in a conversation is the matter of :mod:`agentwall.detect.judging`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from agentwall.detect.conversation import Conversation
from agentwall.detect.dns import read_question
from agentwall.detect.resolved import ResolvedNames, dns_messages
from agentwall.flow.verdict import Direction, ReasonCode, Verdict
from agentwall.net.endpoint import Endpoint, IPAddress, L4Protocol, canonical
from agentwall.policy.evaluate import Decision, evaluate, evaluate_name
from agentwall.policy.model import LoopbackScope, Policy
from agentwall.policy.question import judge_question

MAX_KEPT = 65_536
"""Decisions that are kept, so that a long policy is gone through once a destination."""


def declared_servers(policy: Policy) -> frozenset[IPAddress]:
    """Return the name servers whose answers count: what :class:`ResolvedNames` is to be given."""
    servers = policy.dns.servers if policy.dns else ()
    return frozenset(server.network.network_address for server in servers)


def judge_conversation(
    policy: Policy,
    conversation: Conversation,
    names: ResolvedNames,
    *,
    sandboxes: Collection[IPAddress] = (),
) -> Decision:
    """Judge one conversation. To judge many, :class:`Replay` is faster.

    Args:
        policy: Judged by its rules alone; the mode does not matter.
        conversation: TCP, UDP or any other protocol.
        names: That has learned from the whole capture.
        sandboxes: Addresses of sandboxes. Who opened a conversation counts as a sandbox, unless
            only the other side is in here: that conversation is inward. Without any, all are
            outward. Loopback counts as in a network namespace of the sandbox's own.
    """
    return Replay(policy, names, sandboxes=sandboxes).judge(conversation)


class Replay:
    """One policy and the names of one capture."""

    def __init__(
        self, policy: Policy, names: ResolvedNames, *, sandboxes: Collection[IPAddress] = ()
    ) -> None:
        self._policy = policy
        self._names = names
        self._sandboxes = frozenset(canonical(address) for address in sandboxes)
        self._kept: dict[tuple[Direction, Endpoint, int, tuple[str, ...]], Decision] = {}

    def direction(self, conversation: Conversation) -> Direction:
        """Say whether *conversation* goes out of a sandbox or into one."""
        client, server = (
            canonical(end.address) in self._sandboxes
            for end in (conversation.client, conversation.server)
        )
        return Direction.IN if server and not client else Direction.OUT

    def judge(self, conversation: Conversation) -> Decision:
        """Judge *conversation*; see :func:`judge_conversation`."""
        if self.direction(conversation) is Direction.IN:
            return self._decide(Direction.IN, conversation.client, conversation.server.port, ())
        server = conversation.server
        names = self._names.names(conversation.client.address, server.address)
        decision = self._decide(Direction.OUT, server, 0, names)
        if decision.code is ReasonCode.RESOLVER:
            return self._after_questions(decision, conversation)
        if decision.pattern is not None and decision.verdict is Verdict.ALLOW:
            return self._after_name(decision, conversation)
        return decision

    def _decide(
        self, direction: Direction, remote: Endpoint, local_port: int, names: tuple[str, ...]
    ) -> Decision:
        # A peer's own port decides nothing.
        remote = replace(remote, port=0) if direction is Direction.IN else remote
        key = (direction, remote, local_port, names)
        decision = self._kept.get(key)
        if decision is None:
            decision = evaluate(
                self._policy,
                direction=direction,
                remote=remote,
                local_port=local_port,
                loopback=LoopbackScope.FREE,
                names=names,
            )
            if len(self._kept) < MAX_KEPT:
                self._kept[key] = decision
        return decision

    def _after_questions(self, decision: Decision, conversation: Conversation) -> Decision:
        for message in _questions(conversation):
            question = read_question(message)
            if question is None:
                return Decision(verdict=Verdict.DENY, code=ReasonCode.NOT_A_QUESTION)
            asked = judge_question(self._policy, question.name)
            if asked.verdict is Verdict.DENY:
                return Decision(
                    verdict=Verdict.DENY,
                    code=ReasonCode.QUESTION,
                    rule=asked.rule,
                    pattern=asked.pattern,
                    name=question.name,
                )
        return decision

    def _after_name(self, decision: Decision, conversation: Conversation) -> Decision:
        said, server = conversation.name, conversation.server
        if said is None or said == decision.name or server.protocol != L4Protocol.TCP:
            return decision
        by_said = evaluate_name(self._policy, said, server.protocol, server.port)
        if by_said.verdict is Verdict.ALLOW:
            return decision
        return replace(by_said, code=ReasonCode.SERVER_NAME, name=said)


def _questions(conversation: Conversation) -> Iterator[bytes]:
    if conversation.server.protocol == L4Protocol.TCP:
        yield from dns_messages(conversation.client_head)
    else:
        yield from (one.data for one in conversation.datagrams if one.from_client)
