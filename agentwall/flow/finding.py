# SPDX-License-Identifier: Apache-2.0
"""What was recognised, and on what grounds: the same for live traffic, event files and captures."""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.flow.severity import Severity


class DetectionClass(enum.Enum):
    """What kind of thing it is: the keys of ``detect`` in a policy."""

    MINING = "mining"
    TUNNEL = "tunnel"
    P2P = "p2p"
    """A node of a cryptocurrency's own network."""
    SCAN = "scan"
    DNS_EXFIL = "dns_exfil"
    BEACON = "beacon"


class Confidence(enum.Enum):
    """How sure a finding is. Low never blocks, whatever the policy says: it alerts."""

    HIGH = "high"
    MEDIUM = "medium"
    LOW = "low"


class Stage(enum.Enum):
    """What found it."""

    SIGNATURE = "signature"
    """The automaton that the kernel runs; in captures the same automaton."""
    DECODER = "decoder"
    """A decoder in user space: live, bytes had left by then."""
    BEHAVIOUR = "behaviour"
    INDICATOR = "indicator"
    """A name on a list."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One recognised thing."""

    cls: DetectionClass
    signature: str
    """Id of the signature, indicator list or behaviour: ``mining/stratum-v1``."""
    dialect: str
    """``stratum-v1``, ``ssh``, ...; what ``except: [tunnel/ssh]`` names after the slash."""
    severity: Severity
    confidence: Confidence
    stage: Stage
    evidence: Mapping[str, object] = field(default_factory=dict)
    """JSON values that led to it: ``excerpt`` (text, redacted), ``pool``, ``worker``, numbers."""
