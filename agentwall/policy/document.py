# SPDX-License-Identifier: Apache-2.0
"""The keys of a policy file, as pydantic models.

One place says what a key is called, means, looks like and defaults to: the loader validates with
these models, and the JSON Schema and the reference's table are generated from them. A value comes
out parsed, see :mod:`agentwall.policy.values`. The counterpart is :mod:`agentwall.policy.load`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import ConfigDict, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from agentwall.flow.verdict import Mode
from agentwall.net.ports import EVERYTHING, parse_ports
from agentwall.policy.detect_document import DetectDocument
from agentwall.policy.dns_document import DnsDocument
from agentwall.policy.document_map import Map
from agentwall.policy.match_document import MatchDocument
from agentwall.policy.model import Inspect, Loopback, OnError, Section
from agentwall.policy.problems import show
from agentwall.policy.suffixes import check_reach
from agentwall.policy.values import (
    NAME_PATTERN,
    PATH_PATTERN,
    PHASE_PATTERN,
    AllowPorts,
    BaseName,
    Cidr,
    DenyPorts,
    Destination,
    Excepted,
    Host,
    PhaseMode,
    Ports,
    Proxy,
    Refusal,
    Version,
)

LISTS = (Section.ALLOW, Section.DENY, Section.INBOUND)
"""The sections that are lists of rules in a file."""
PHASE_LISTS = (Section.ALLOW, Section.DENY)
"""Those that a phase may have too."""
HTTPS: tuple[Ports, ...] = (parse_ports("443"),)
"""The ports of an allow rule on names that says none."""
NO_PORTS = "expected a list of ports ([any] opens every port), got nothing"
MAX_EXCEPTIONS = 32
MAX_ENTRIES = 64
"""Of ``match``."""
MAX_PHASES = 16

_NAMES = ("host", "host_file")
_TERMS = ("shared_suffix", "sni", "ech", "quic")
"""Keys that mean something beside :data:`_NAMES` only."""


def _exceptions(where: str) -> Any:  # noqa: ANN401 - as Field()
    return Field(
        default=(),
        alias="except",
        max_length=MAX_EXCEPTIONS,
        description=f"What is not looked for in flows that the rule {where}: classes of `detect` "
        "(`tunnel`), or one dialect of a class (`tunnel/ssh`).",
        examples=[["tunnel/ssh"], ["mining", "tunnel/socks"]],
    )


def _inspect() -> Any:  # noqa: ANN401 - as Field()
    return Field(
        default=Inspect.ALL,
        description="Where signatures are looked for in these flows: `all`; `wire`, what is in "
        "clear on the wire, and nothing inside TLS is read; `none`, nowhere.",
        examples=["wire", "none"],
    )


def _at_key(key: str, problem: str) -> PydanticCustomError:
    # pydantic has one place for what concerns several keys; wording.py adds this one to it.
    return PydanticCustomError("at_key", "{problem}", {"key": key, "problem": problem})


def _one_origin(schema: dict[str, Any], model: type[_RuleDocument]) -> None:
    schema["oneOf"] = [model.beside(origin) for origin in model.origins]


class _RuleDocument(Map):
    model_config = ConfigDict(json_schema_extra=_one_origin)

    origins: ClassVar[tuple[str, ...]] = ("cidr", "cidr_file")
    """Where the rule's prefixes or patterns may come from."""

    cidr: Cidr = Field(
        default=(),
        description="An address, a prefix without host bits, or `any` (IPv4 and IPv6).",
        examples=["10.20.0.0/24", "203.0.113.7", "2001:db8::/32", "any"],
    )
    cidr_file: str = Field(
        default="",
        pattern=f"^{PATH_PATTERN}$",
        description="A file with one prefix a line and `#` comments, relative to the policy "
        "file. Instead of `cidr`.",
        examples=["lists/mirrors.txt"],
    )
    note: str = Field(
        default="",
        description="Why the rule is there. For readers; it decides nothing.",
        examples=["vLLM servers"],
    )

    @classmethod
    def beside(cls, origin: str) -> Mapping[str, Any]:
        """Return what JSON Schema has to say of a rule with *origin*."""
        return {"required": [origin]}

    @property
    def origin(self) -> str:
        """The one of :attr:`origins` that is given."""
        return next(key for key in self.origins if key in self.model_fields_set)

    @model_validator(mode="after")
    def _has_one_origin(self) -> _RuleDocument:
        given = [key for key in self.origins if key in self.model_fields_set]
        if len(given) != 1:
            wanted = f"{', '.join(self.origins[:-1])} and {self.origins[-1]}"
            got = " and ".join(given) or "none"
            raise ValueError(f"expected exactly one of {wanted}, got {got}")
        return self


class _NameRuleDocument(_RuleDocument):
    origins: ClassVar[tuple[str, ...]] = (*_RuleDocument.origins, *_NAMES)

    host: Host = Field(
        default=(),
        description="A name: `x` itself, `*.x` with one label more, or `**.x` with any number "
        "more. Needs `dns.servers`. Instead of `cidr`.",
        examples=["hub.example.com", "*.cdn.example.com", "**.mirror.example.com"],
    )
    host_file: str = Field(
        default="",
        pattern=f"^{PATH_PATTERN}$",
        description="A file with one name or pattern a line and `#` comments, relative to the "
        "policy file. Instead of `cidr`.",
        examples=["lists/hosts.txt"],
    )


class AllowRule(_NameRuleDocument):
    """What the sandbox may reach. Both the address or name and a port must match."""

    origins: ClassVar[tuple[str, ...]] = (*_NameRuleDocument.origins, "proxy")

    proxy: Proxy = Field(
        default=(),
        description="The address or prefix of HTTP proxies. What they are asked for is judged by "
        "the other rules, by name and port. Instead of `cidr`.",
        examples=["10.0.0.5/32"],
    )
    ports: tuple[AllowPorts, ...] = Field(
        default=(),
        min_length=1,
        description="`443` and `8000-8010` mean TCP. Others: `udp/53`, `tcp/*`, `udp/*`, `icmp` "
        "(echo), `ip/132` (an IP protocol), `any` (TCP, UDP and echo).",
        examples=[[443], ["8000-8010", "udp/53"], ["any"]],
    )
    shared_suffix: bool = Field(
        default=False,
        strict=True,
        description="Beside names: they may reach a suffix that strangers share, such as "
        "`*.s3.amazonaws.com`.",
        examples=[True],
    )
    sni: Literal["required", "optional"] = Field(
        default="required",
        description="Beside names: whether TLS must say which server it wants.",
        examples=["optional"],
    )
    ech: Literal["refuse", "outer"] = Field(
        default="refuse",
        description="Beside names: `refuse` a TLS hello that is encrypted, or judge it by its "
        "`outer` name, which need not be where it goes.",
        examples=["outer"],
    )
    quic: Literal["refuse", "allow"] = Field(
        default="refuse",
        description="Beside names: whether QUIC may pass on the UDP ports of the rule.",
        examples=["allow"],
    )
    excepts: tuple[Excepted, ...] = _exceptions("allows")
    inspect: Inspect = _inspect()

    @classmethod
    def beside(cls, origin: str) -> Mapping[str, Any]:
        """Return what JSON Schema has to say of a rule with *origin*."""
        if origin in _NAMES:
            return super().beside(origin)
        return {"required": [origin, "ports"], "properties": dict.fromkeys(_TERMS, False)}

    @model_validator(mode="after")
    def _has_what_its_origin_needs(self) -> AllowRule:
        named = self.origin in _NAMES
        for key in _TERMS:
            if key in self.model_fields_set and not named:
                problem = f"expected {' or '.join(_NAMES)} beside it, got {self.origin}"
                raise _at_key(key, problem)
        if not self.ports and not named:
            raise _at_key("ports", NO_PORTS)
        for pattern in self.host:
            try:
                check_reach(pattern, shared=self.shared_suffix)
            except ValueError as err:
                raise _at_key("host", str(err)) from err
        return self


class DenyRule(_NameRuleDocument):
    """What the sandbox may not reach, whatever `allow` says."""

    ports: tuple[DenyPorts, ...] = Field(
        default=(EVERYTHING,),
        min_length=1,
        description="As under `allow`. Absent, or with `any`, the rule covers every port of "
        "every protocol.",
        examples=[["tcp/25"]],
    )


class InboundRule(_RuleDocument):
    """Who may open connections to the sandbox; answers need no rule."""

    cidr: Cidr = Field(
        default=(),
        description="The address the connection comes from, as under `allow`.",
        examples=["10.20.0.1"],
    )
    ports: tuple[AllowPorts, ...] = Field(
        min_length=1,
        description="The ports of the sandbox that may be reached, as under `allow`.",
        examples=[[8000]],
    )
    excepts: tuple[Excepted, ...] = _exceptions("lets in")
    inspect: Inspect = _inspect()


class PhaseDocument(Map):
    """What holds in one phase of a sandbox, beside what always holds."""

    mode: PhaseMode = Field(
        default=None,
        description="Instead of the policy's.",
        examples=["audit"],
    )
    allow: tuple[AllowRule, ...] = Field(
        default=(),
        description="What may be reached in this phase beside what the policy's `allow` says.",
        examples=[[{"cidr": "10.20.9.0/24", "ports": [443]}]],
    )
    deny: tuple[DenyRule, ...] = Field(
        default=(),
        description="What may not be reached in this phase, whatever any `allow` says.",
        examples=[[{"cidr": "10.20.0.0/24", "ports": [8000]}]],
    )


class TestRow(Map):
    """An expectation that `agentwall policy test` checks."""

    __test__ = False  # not a test class for pytest

    to: Destination = Field(
        description="`ADDRESS:PORT` or `NAME:PORT` (TCP), `udp/ADDRESS:PORT`, `[IPV6]:PORT`, "
        "`icmp/ADDRESS` or `ip/PROTOCOL/ADDRESS`.",
        examples=[
            "10.20.0.7:8000",
            "hub.example.com:443",
            "udp/8.8.8.8:53",
            "[2001:db8::1]:443",
            "icmp/192.0.2.1",
        ],
    )
    expect: Literal["allow", "deny"] = Field(
        description="What the rules must say, whatever the mode.", examples=["allow"]
    )


class PolicyDocument(Map):
    """A policy file of agentwall."""

    model_config = ConfigDict(title="agentwall policy")

    version: Version = Field(description="The version of the language.", examples=[1])
    name: str = Field(
        default="",
        pattern=f"^{NAME_PATTERN}$",
        description="The name in rule ids and events. Default: the file's name without `.yaml`.",
        examples=["rl-rollout"],
    )
    mode: Mode = Field(
        default=Mode.ENFORCE,
        description="`enforce` denies what the rules deny; `audit` lets it through and records "
        "`would-deny`; `observe` records and judges nothing.",
        examples=["audit"],
    )
    on_error: OnError = Field(
        default=OnError.FAIL_CLOSED,
        description="When a required hook cannot be attached: `fail-closed` refuses to start; "
        "`degrade` starts without it and says so, unless it is egress, which is always needed.",
        examples=["degrade"],
    )
    refuse_with: Refusal = Field(
        default="EPERM",
        description="The error a refused system call returns.",
        examples=["ECONNREFUSED"],
    )
    extends: tuple[BaseName, ...] = Field(
        default=(),
        description="Policies whose rules come first: `NAME.yaml` beside this file, then in "
        "/etc/agentwall/policies, then among those shipped with agentwall. Rules are joined; "
        "single values, and each key of `dns` and `detect`, are inherited unless this file sets "
        "them; `name`, `match` and `tests` are not.",
        examples=[["base/rl-training"]],
    )
    allow: tuple[AllowRule, ...] = Field(
        default=(),
        description="What the sandbox may reach. What no rule allows is denied.",
        examples=[[{"cidr": "10.20.0.0/24", "ports": ["8000-8010"]}]],
    )
    deny: tuple[DenyRule, ...] = Field(
        default=(),
        description="What it may not reach, whatever `allow` says, in whatever order.",
        examples=[[{"cidr": "10.20.0.9"}]],
    )
    inbound: tuple[InboundRule, ...] = Field(
        default=(),
        description="Who may open connections to the sandbox. `deny` does not apply here.",
        examples=[[{"cidr": "10.20.0.1", "ports": [8000]}]],
    )
    loopback: Loopback = Field(
        default=Loopback.AUTO,
        description="`auto`: free where the sandbox has a network namespace of its own; in the "
        "host's, only listeners that belong to the sandbox. `allow`: free. `deny`: only what "
        "`allow` lists.",
        examples=["deny"],
    )
    dns: DnsDocument = Field(
        default=DnsDocument(),
        description="Whom the sandbox asks for names, and for which. Of the policies that "
        "this one extends each key holds unless this file sets it.",
        examples=[{"servers": ["10.20.0.2"], "search": ["svc.cluster.example"]}],
    )
    detect: DetectDocument = Field(
        default=DetectDocument(),
        description="What follows on mining, tunnels and the like in flows that the rules allow. "
        "Inherited key by key, as `dns`.",
        examples=[{"mining": "block", "tunnel": "block", "scan": "alert", "dns_exfil": "alert"}],
    )
    match: tuple[MatchDocument, ...] = Field(
        default=(),
        max_length=MAX_ENTRIES,
        description="Which sandboxes get this policy from the daemon: those that one of these "
        f"entries fits, at most {MAX_ENTRIES}. `run -p` does not ask.",
        examples=[[{"runtime": "docker", "labels": {"role": "rollout"}}]],
    )
    phases: dict[str, PhaseDocument] = Field(
        default={},
        max_length=MAX_PHASES,
        description="What holds at one time and not at another, by the names of the phases, at "
        f"most {MAX_PHASES}. The first one is where a sandbox begins. Of the policies that this "
        "one extends each phase holds, before its own; the rules of one name are joined.",
        examples=[{"setup": {"mode": "audit"}, "agent": {"deny": [{"cidr": "10.20.0.9"}]}}],
        json_schema_extra={"propertyNames": {"pattern": f"^{PHASE_PATTERN}$"}},
    )
    tests: tuple[TestRow, ...] = Field(
        default=(),
        description="Expectations, checked by `agentwall policy test`.",
        examples=[[{"to": "10.20.0.7:8000", "expect": "allow"}]],
    )

    @field_validator("phases", mode="before")
    @classmethod
    def _has_names_of_phases(cls, value: object) -> object:
        for name in value if isinstance(value, dict) else ():
            if not re.fullmatch(PHASE_PATTERN, name):
                problem = "expected lower case letters, digits and dashes as the name of a phase"
                raise _at_key(name, f"{problem}, got {show(name)}")
        return value
