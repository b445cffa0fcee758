# SPDX-License-Identifier: Apache-2.0
"""Signatures as typed values: ``signature_load`` makes them, the DFA compiler and decoders read."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from agentwall.errors import SourceLocation
from agentwall.flow.finding import Confidence, DetectionClass
from agentwall.flow.severity import Severity


class Transport(enum.Enum):
    """What carries the bytes. ``enum aw_transport`` in ``bpf/abi.h`` has the same members."""

    TCP = "tcp"
    """A stream, from its first byte."""
    UDP = "udp"
    """Each datagram on its own."""
    ICMP = "icmp"
    """What follows the 8 bytes of an echo's header, v4 and v6; each packet on its own."""


class Side(enum.Enum):
    """Who says the bytes: the ``direction`` key."""

    CLIENT = "client"
    """Whoever opened the flow."""
    SERVER = "server"


class Maturity(enum.Enum):
    """Experimental signatures alert and never block."""

    STABLE = "stable"
    EXPERIMENTAL = "experimental"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One pattern and what it means."""

    id: str
    """``class/name``, kebab-case, unique: ``mining/stratum-v1-subscribe``."""
    cls: DetectionClass
    """MINING, TUNNEL or P2P."""
    dialect: str
    """Kebab-case; several signatures share one."""
    transport: Transport
    sides: tuple[Side, ...]
    """One or both (``direction: either``)."""
    pattern: str
    """In the language of :mod:`agentwall.detect.pattern`, fragments expanded."""
    severity: Severity
    confidence: Confidence
    maturity: Maturity
    hand_over: bool
    """No finding: bytes of the flow go to the decoders, which may make one."""
    description: str
    references: tuple[str, ...]
    examples: tuple[bytes, ...]
    """Streams or datagrams that the pattern must find, at least one."""
    counterexamples: tuple[bytes, ...]
    """... and must not find, at least one."""
    where: SourceLocation

    @property
    def group(self) -> str:
        """``class/dialect``: what a policy excepts, and what the kernel has one bit for."""
        return f"{self.cls.value}/{self.dialect}"

    @property
    def blocks(self) -> bool:
        """Whether a match may be blocked, where the policy says so."""
        return (
            not self.hand_over
            and self.maturity is Maturity.STABLE
            and self.confidence is not Confidence.LOW
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Indicators:
    """A list of names, such as of mining pools. Nobody resolves them."""

    id: str
    cls: DetectionClass
    dialect: str
    severity: Severity
    confidence: Confidence
    dated: str
    """ISO date at which the list was last looked over."""
    names: tuple[str, ...]
    """In the one form of names; each stands for itself and all below it."""
    where: SourceLocation


@dataclass(frozen=True, slots=True, kw_only=True)
class SignatureSet:
    """All signatures in force."""

    signatures: tuple[Signature, ...]
    """Sorted by id: an index into it is what the automaton and kernel events carry."""
    indicators: tuple[Indicators, ...]
    digest: str
    """SHA-256, hex, over all that the automaton depends on."""
