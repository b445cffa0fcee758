# SPDX-License-Identifier: Apache-2.0
"""What the engine keeps of one sandbox: who it is at which time, and under which rules.

The kernel's events come later than what they tell of. So labels, policies and modes are kept by the
time, or by the generation, that an event names.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

from agentwall.engine.detections import Detections
from agentwall.engine.events import CountersRead, ModeOverridden, RulesApplied
from agentwall.engine.tls_sessions import NOTHING, Offer, TlsCounts, TlsSessions
from agentwall.engine.watch import Watch
from agentwall.flow.origin import Origin
from agentwall.flow.record import Attempt, FlowTotals, PolicyInForce, Sandbox, TlsRecord
from agentwall.flow.verdict import Hook, Mode
from agentwall.policy.evaluate import evaluate
from agentwall.policy.model import Inspect, LoopbackScope, Policy, Response, Rule

KEPT_LABELS = 8
"""Sets of labels; of what the kernel saw before the oldest of them, that one is told."""
_KEPT_GENERATIONS = 4
"""Events still on their way when a policy is replaced speak of the generation before."""
_KEPT_NAMES = 32
"""Policies whose names are known by their generation: totals may come half a minute later."""
_KEPT_OVERRIDES = 8

_Value = TypeVar("_Value")


@dataclass(slots=True)
class KnownSandbox:
    """One sandbox. Small while nothing happens in it: what watches it is made when it is needed."""

    sandbox: Sandbox
    """As it is now."""
    clock_offset_ns: int
    mode: Mode
    """That of the start, until rules are applied."""
    generations: dict[int, RulesApplied] = field(default_factory=dict)
    counters: CountersRead | None = None
    lost: int = 0
    detections: Detections = field(default_factory=Detections)
    stopped: frozenset[Response] = frozenset()
    """What was ordered for the whole sandbox and is not to be ordered again."""
    _watch: Watch | None = None
    _tls: TlsSessions | None = None
    _policies: dict[int, PolicyInForce] = field(default_factory=dict)
    _labels: tuple[tuple[int, Mapping[str, str]], ...] = ()
    """Former ones, the oldest first, each with the time at which it ended."""
    _overrides: tuple[ModeOverridden, ...] = ()
    _former: Sandbox | None = None
    """What :meth:`named` made last; a burst of late events asks for the same again and again."""
    _is_managed: bool = False

    def __post_init__(self) -> None:
        self._is_managed = self.sandbox.origin is not None or self.sandbox.policy is not None

    def apply(self, event: RulesApplied) -> None:
        """Let *event*'s rules hold from now on."""
        policy = event.policy
        self.mode = policy.mode
        if self._watch is not None:
            self._watch.apply(self.sandbox.id, policy.detect)
        _put(self.generations, event.generation, event, _KEPT_GENERATIONS)
        if self._is_managed:
            name = PolicyInForce(name=policy.name, phase=policy.phase, commit=policy.commit)
            _put(self._policies, event.generation, name, _KEPT_NAMES)
            self.sandbox = replace(self.sandbox, policy=name)

    def label(self, labels: Mapping[str, str], mono_ns: int) -> None:
        """Let *labels* hold from *mono_ns* on."""
        former = (*self._labels, (mono_ns, self.sandbox.labels))
        self._labels = former[-(KEPT_LABELS - 1) :]
        self.sandbox = replace(self.sandbox, labels=dict(labels))

    def identify(self, origin: Origin) -> None:
        """Name *origin* from now on."""
        self.sandbox = replace(self.sandbox, origin=origin)
        self._former = None

    def override(self, event: ModeOverridden) -> None:
        """Let another mode hold, or end that."""
        self._overrides = (*self._overrides, event)[-_KEPT_OVERRIDES:]

    def named(self, mono_ns: int, generation: int | None = None) -> Sandbox:
        """Return the sandbox with the labels of a time, and the policy of a generation.

        Args:
            mono_ns: CLOCK_BOOTTIME.
            generation: None: the newest.
        """
        newest = self.sandbox
        labels, policy = self._labels_at(mono_ns), newest.policy
        if generation is not None and self._policies:
            # Better no name than that of another policy.
            policy = self._policies.get(generation)
        for known in (newest, self._former):
            if known is not None and known.labels is labels and known.policy is policy:
                return known
        self._former = replace(newest, labels=labels, policy=policy)
        return self._former

    def _labels_at(self, mono_ns: int) -> Mapping[str, str]:
        found = self.sandbox.labels
        for end_ns, labels in reversed(self._labels):
            if mono_ns >= end_ns:
                break
            found = labels
        return found

    def mode_at(self, mono_ns: int, policy: Policy | None = None) -> Mode:
        """Return the mode that held at a time: *policy*'s (None: the newest's), or another that
        somebody switched to."""
        for event in reversed(self._overrides):
            if mono_ns >= event.mono_ns:
                if event.until_mono_ns is not None and mono_ns < event.until_mono_ns:
                    return event.mode
                break
        return policy.mode if policy is not None else self.mode

    def applied(self, generation: int) -> RulesApplied | None:
        """Return the rules of *generation*, or the newest if that is not known any more."""
        newest = next(reversed(self.generations.values()), None)
        return self.generations.get(generation, newest)

    def rule(self, seen: Attempt | FlowTotals) -> Rule | None:
        """Return the rule that decided about *seen*, or is to, if it is known."""
        applied = self.generations.get(seen.generation)
        if applied is None:
            return None
        if seen.rule is None:
            return rule_to_be(seen, applied.policy) if isinstance(seen, Attempt) else None
        rules = applied.tables.rules
        return rules[seen.rule] if seen.rule < len(rules) else None

    @property
    def watch(self) -> Watch:
        """What looks at its behaviour."""
        if self._watch is None:
            newest = next(reversed(self.generations.values()), None)
            self._watch = Watch(newest.policy.detect if newest else None)
        return self._watch

    @property
    def has_behaved(self) -> bool:
        """Whether anything was seen of which :attr:`watch` has something to say at the end."""
        return self._watch is not None

    @property
    def tls(self) -> TlsSessions:
        """Its TLS sessions; made when the first begins."""
        if self._tls is None:
            self._tls = TlsSessions()
        return self._tls

    @property
    def tls_counts(self) -> TlsCounts | None:
        """How many TLS sessions it began; None: not one."""
        return self._tls.counts if self._tls is not None else None

    def end_tls(self) -> Iterator[TlsRecord]:
        """Yield what is left to say of its TLS sessions."""
        if self._tls is not None:
            yield from self._tls.end()

    def offer(self, cookie: int) -> Offer:
        """Return what the TLS session on this socket offered, as far as that is known."""
        return self._tls.offer(cookie) if self._tls is not None else NOTHING

    @property
    def forgotten(self) -> int:
        """What behaviour and decoders had to forget to stay within their bounds."""
        return (self._watch.dropped if self._watch else 0) + self.detections.forgotten


def rule_to_be(attempt: Attempt, policy: Policy) -> Rule | None:
    """Return the rule by which a flow will be judged, where *attempt* is inside TLS and between.

    That is, after *policy* was put in force and before the flow's next packet, with which the
    kernel judges it anew. None for all others, and where no rule would have anything passed over.
    """
    if attempt.hook is not Hook.PLAIN or not attempt.cookie or attempt.remote is None:
        return None
    rules = (*policy.allow, *policy.inbound)
    if all(rule.inspect is Inspect.ALL and not rule.excepts for rule in rules):
        return None
    decision = evaluate(
        policy,
        direction=attempt.direction,
        remote=attempt.remote,
        local_port=attempt.local.port if attempt.local is not None else 0,
        loopback=LoopbackScope.FREE,
        names=(attempt.name,) if attempt.name is not None else (),
    )
    return decision.rule


def _put(kept: dict[int, _Value], key: int, value: _Value, most: int) -> None:
    """Make *value* the newest of *kept*, and forget the oldest of more than *most*."""
    kept.pop(key, None)
    kept[key] = value
    while len(kept) > most:
        del kept[next(iter(kept))]
