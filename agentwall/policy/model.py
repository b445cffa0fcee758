# SPDX-License-Identifier: Apache-2.0
"""A policy as typed values: ``load`` makes them; ``evaluate``, ``compile`` and ``lint`` read."""

from __future__ import annotations

import enum
import errno
from collections.abc import Mapping
from dataclasses import dataclass, field

from agentwall.errors import SourceLocation
from agentwall.flow.finding import DetectionClass
from agentwall.flow.origin import Runtime
from agentwall.flow.verdict import Mode, Verdict
from agentwall.net.domain import NamePattern
from agentwall.net.endpoint import Endpoint, IPNetwork, NamedEndpoint
from agentwall.net.ports import PortRange


class Section(enum.Enum):
    """The list a rule stands in."""

    ALLOW = "allow"
    DENY = "deny"
    INBOUND = "inbound"
    RESOLVER = "dns.servers"
    """Of the rule that :attr:`DnsSettings.servers` stand for; no list in a file."""


class Loopback(enum.Enum):
    """What the ``loopback`` key says."""

    AUTO = "auto"
    """Free in a network namespace of the sandbox's own; in the host's as :class:`LoopbackScope`."""
    ALLOW = "allow"
    DENY = "deny"


class LoopbackScope(enum.Enum):
    """What :class:`Loopback` comes to for one sandbox. Explicit rules hold in each of them."""

    FREE = "free"
    OWN_LISTENERS = "own-listeners"
    """Only listeners whose socket was made in this sandbox."""
    CLOSED = "closed"


class OnError(enum.Enum):
    """What happens when a required hook cannot be attached."""

    FAIL_CLOSED = "fail-closed"
    DEGRADE = "degrade"


REFUSALS: dict[str, int] = {
    name: getattr(errno, name)
    for name in ("EPERM", "ECONNREFUSED", "EACCES", "ENETUNREACH", "EHOSTUNREACH")
}
"""The values of ``refuse_with`` and their errno."""


@dataclass(frozen=True, slots=True)
class RulePrefix:
    """One prefix of a rule, and the line it was written on."""

    network: IPNetwork
    """Canonical: never IPv4-mapped, NAT64 or 6to4."""
    where: SourceLocation
    """In the policy file, or in the ``cidr_file``."""


@dataclass(frozen=True, slots=True)
class RulePattern:
    """One name pattern of a rule, and the line it was written on."""

    pattern: NamePattern
    where: SourceLocation
    """In the policy file, or in the ``host_file``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NameTerms:
    """On which terms a rule on names, or a proxy rule, allows."""

    sni_optional: bool = False
    """TLS without a server name passes."""
    ech_outer: bool = False
    """A TLS hello that is encrypted is judged by its outer name; otherwise it is refused."""
    quic: bool = False
    """QUIC passes."""


class AskScope(enum.Enum):
    """What ``dns.names`` says: which names may be asked for."""

    ALLOWED_ONLY = "allowed-only"
    ANY = "any"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsSettings:
    """The ``dns`` key."""

    servers: tuple[RulePrefix, ...]
    """Single addresses: /32 and /128. At least one."""
    search: tuple[str, ...] = ()
    """Suffixes that resolvers append, as resolv.conf has them; in the one form of names."""
    names: AskScope = AskScope.ALLOWED_ONLY
    min_ttl_s: int = 60
    """A learned address is good for its TTL, but for at least that long."""
    max_addresses: int = 1000
    """How many addresses one name may have at a time."""
    where: SourceLocation


class Inspect(enum.Enum):
    """What ``inspect`` says: where signatures are looked for behind a rule."""

    ALL = "all"
    """In clear on the wire, and inside TLS."""
    WIRE = "wire"
    """In clear on the wire alone; nothing inside TLS is read."""
    NONE = "none"
    """Nowhere; names and behaviour are seen all the same."""


class Response(enum.Enum):
    """What follows on a detection, from the mildest to the gravest."""

    OFF = "off"
    ALERT = "alert"
    BLOCK = "block"
    """The flow is cut."""
    FREEZE = "freeze"
    """The flow is cut, and the whole sandbox stopped where it stands, for who looks into it."""
    KILL = "kill"
    """The flow is cut, and every process of the sandbox ended."""

    @property
    def cuts(self) -> bool:
        """Whether the flow is cut."""
        return self in (Response.BLOCK, Response.FREEZE, Response.KILL)

    @property
    def gravity(self) -> int:
        """Orders responses; 0 is :attr:`OFF`."""
        return list(Response).index(self)


DETECT_DEFAULTS: dict[DetectionClass, Response] = {
    cls: Response.BLOCK if cls in (DetectionClass.MINING, DetectionClass.TUNNEL) else Response.ALERT
    for cls in DetectionClass
}
"""What holds for a class that ``detect`` does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanLimits:
    """``scan`` written as a mapping: how many destinations within how long are a scan."""

    targets: int = 12
    """Distinct private addresses, one port or several (horizontal); public ones weigh less."""
    ports: int = 12
    """Distinct ports of one address (vertical)."""
    seconds: int = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsLimits:
    """``dns_exfil`` written as a mapping: what one sandbox may ask below one registrable domain."""

    questions_per_minute: int = 300
    labels: int = 100
    """Distinct names below one zone, within ten minutes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detect:
    """The ``detect`` key, defaults filled in."""

    responses: Mapping[DetectionClass, Response] = field(
        default_factory=lambda: dict(DETECT_DEFAULTS)
    )
    scan: ScanLimits = ScanLimits()
    dns: DnsLimits = DnsLimits()
    depth_bytes: int = 65536
    """How far into each side of a flow the kernel looks."""
    places: Mapping[DetectionClass, SourceLocation] = field(default_factory=dict)
    """Where files name a response; of defaults there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One entry of ``allow``, ``deny`` or ``inbound``."""

    policy: str
    """Name of the policy whose file the rule was written in (a base's, under ``extends``)."""
    section: Section
    index: int
    """Position in that file's list, from 0."""
    prefixes: tuple[RulePrefix, ...] = ()
    patterns: tuple[RulePattern, ...] = ()
    """A rule has prefixes (``cidr``, ``cidr_file``, ``proxy``), or patterns (``host``,
    ``host_file``)."""
    ports: tuple[PortRange, ...]
    where: SourceLocation
    note: str | None = None
    terms: NameTerms = NameTerms()
    """Count for rules with patterns, and for proxies."""
    is_proxy: bool = False
    """Written as ``proxy``: what the hosts are asked for is judged by the other rules."""
    phase: str | None = None
    """Of a rule that stands in ``phases``: the phase's name."""
    excepts: tuple[str, ...] = ()
    """``except``: a class (``tunnel``) or a class and dialect (``tunnel/ssh``) that is not looked
    for in flows this rule allows."""
    inspect: Inspect = Inspect.ALL

    @property
    def id(self) -> str:
        """``<policy>:allow[1]``, in a phase ``<policy>:phases.agent.allow[1]``; of the declared DNS
        servers ``<policy>:dns.servers``."""
        if self.section is Section.RESOLVER:
            return f"{self.policy}:{self.section.value}"
        within = f"phases.{self.phase}." if self.phase else ""
        return f"{self.policy}:{within}{self.section.value}[{self.index}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One entry of ``match``: what a sandbox must be, in all its keys, to get the policy."""

    runtime: Runtime | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    """Labels that must have exactly these values."""
    cgroup: str | None = None
    """A glob over the path: ``*`` within one name, ``**`` over any number of them."""
    name: str | None = None
    """A glob over the container's name; so are the following."""
    image: str | None = None
    namespace: str | None = None
    job: str | None = None
    unit: str | None = None
    where: SourceLocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """One entry of ``phases``: what holds beside the policy's rules, or in place of its mode."""

    name: str
    mode: Mode | None
    """None: the policy's."""
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    where: SourceLocation


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """One row of ``tests``: judged by the rules alone, whatever the mode."""

    remote: Endpoint | NamedEndpoint
    expect: Verdict
    where: SourceLocation


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A loaded policy with its bases merged in."""

    name: str
    mode: Mode
    on_error: OnError
    refuse_with: str
    """A key of :data:`REFUSALS`."""
    loopback: Loopback
    allow: tuple[Rule, ...]
    deny: tuple[Rule, ...]
    inbound: tuple[Rule, ...]
    dns: DnsSettings | None = None
    detect: Detect = Detect()
    tests: tuple[PolicyTest, ...]
    files: tuple[str, ...]
    """Every file that was read, the policy's own last."""
    digest: str
    """SHA-256, hex, over the content of *files* in order."""
    match: tuple[Selector, ...] = ()
    """Which sandboxes are this policy's; any entry suffices. None for ``run -p``."""
    phases: tuple[Phase, ...] = ()
    """The first one is the initial one. Empty: there is no such thing."""
    phase: str | None = None
    """Which phase this is, after :func:`~agentwall.policy.phases.in_phase`."""
    commit: str | None = None
    """Of the git checkout that *files* lie in, if the daemon found one."""
