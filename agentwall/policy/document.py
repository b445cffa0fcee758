# SPDX-License-Identifier: Apache-2.0
"""The keys of a policy file, as pydantic models.

One place says what a key is called, means, looks like and defaults to: the loader validates with
these models, and the JSON Schema and the reference's table are generated from them. A value comes
out parsed (prefixes, port ranges, endpoints). The counterpart is :mod:`agentwall.policy.load`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)

from agentwall.flow.verdict import Mode
from agentwall.net.destination import parse_destination
from agentwall.net.endpoint import Endpoint, IPNetwork
from agentwall.net.ports import EVERYTHING, PortRange, parse_ports
from agentwall.net.prefix import EVERYWHERE, parse_prefix
from agentwall.policy.model import REFUSALS, Loopback, OnError
from agentwall.policy.problems import show

LATER_KEYS = frozenset(("match", "dns", "detect", "phases", "host", "host_file", "proxy", "except"))
"""Keys of the language that this version does not act on, and therefore refuses."""

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
PATH_PATTERN = r"[^\x00-\x1f\x7f]+"
BASE_PATTERN = r"[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*"
_UNROUTABLE_PROTOCOLS = (0, 255)
"""Hop-by-hop options and raw: no socket but a raw one sends them."""

Prefixes = tuple[IPNetwork, ...]
Ports = tuple[PortRange, ...]


def _cidr(value: object) -> Prefixes:
    if not isinstance(value, str):
        raise ValueError(f"expected an address, a prefix or any, got {show(value)}")
    return EVERYWHERE if value == "any" else (parse_prefix(value),)


def _deny_ports(value: object) -> Ports:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"expected a port, a range or a protocol, got {show(value)}")
    return EVERYTHING if value == "any" else parse_ports(str(value))


def _allow_ports(value: object) -> Ports:
    if value == "any":
        return parse_ports("any")
    found = _deny_ports(value)
    for number in _UNROUTABLE_PROTOCOLS:
        if any(r.holds(number, 0) for r in found):
            raise ValueError(f"expected a protocol from 1 to 254, got {show(value)}")
    return found


def _destination(value: object) -> Endpoint:
    if not isinstance(value, str):
        raise ValueError(f"expected a destination such as 10.20.0.7:8000, got {show(value)}")
    return parse_destination(value)


def _version(value: object) -> int:
    if value != 1 or value is True:
        raise ValueError(f"expected 1, got {show(value)}")
    return 1


def _refusal(value: object) -> str:
    if not isinstance(value, str) or value not in REFUSALS:
        raise ValueError(f"expected {' or '.join(REFUSALS)}, got {show(value)}")
    return value


_PORT_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 1, "maximum": 65535},
        {
            "type": "string",
            "pattern": r"^(any|icmp|ip/\d{1,3}|(tcp|udp)/\*|((tcp|udp)/)?\d{1,5}(-\d{1,5})?)$",
        },
    ]
}

AllowPorts = Annotated[Ports, PlainValidator(_allow_ports), WithJsonSchema(_PORT_SCHEMA)]
DenyPorts = Annotated[Ports, PlainValidator(_deny_ports), WithJsonSchema(_PORT_SCHEMA)]
Cidr = Annotated[Prefixes, PlainValidator(_cidr), WithJsonSchema({"type": "string"})]
Destination = Annotated[Endpoint, PlainValidator(_destination), WithJsonSchema({"type": "string"})]
Refusal = Annotated[
    str, PlainValidator(_refusal), WithJsonSchema({"type": "string", "enum": [*REFUSALS]})
]
Version = Annotated[Literal[1], PlainValidator(_version), WithJsonSchema({"const": 1})]
BaseName = Annotated[str, Field(pattern=f"^{BASE_PATTERN}$", max_length=200)]


def _one_origin(schema: dict[str, Any]) -> None:
    schema["oneOf"] = [{"required": ["cidr"]}, {"required": ["cidr_file"]}]


class _Map(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class _RuleDocument(_Map):
    model_config = ConfigDict(json_schema_extra=_one_origin)

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

    @model_validator(mode="after")
    def _has_one_origin(self) -> _RuleDocument:
        given = self.model_fields_set & {"cidr", "cidr_file"}
        if len(given) != 1:
            got = "both" if given else "neither"
            raise ValueError(f"expected exactly one of cidr and cidr_file, got {got}")
        return self


class AllowRule(_RuleDocument):
    """What the sandbox may reach. Both the address and a port must match."""

    ports: tuple[AllowPorts, ...] = Field(
        min_length=1,
        description="`443` and `8000-8010` mean TCP. Others: `udp/53`, `tcp/*`, `udp/*`, `icmp` "
        "(echo), `ip/132` (an IP protocol), `any` (TCP, UDP and echo).",
        examples=[[443], ["8000-8010", "udp/53"], ["any"]],
    )


class DenyRule(_RuleDocument):
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


class TestRow(_Map):
    """An expectation that `agentwall policy test` checks."""

    __test__ = False  # not a test class for pytest

    to: Destination = Field(
        description="`ADDRESS:PORT` (TCP), `udp/ADDRESS:PORT`, `[IPV6]:PORT`, `icmp/ADDRESS` or "
        "`ip/PROTOCOL/ADDRESS`.",
        examples=["10.20.0.7:8000", "udp/8.8.8.8:53", "[2001:db8::1]:443", "icmp/192.0.2.1"],
    )
    expect: Literal["allow", "deny"] = Field(
        description="What the rules must say, whatever the mode.", examples=["allow"]
    )


class PolicyDocument(_Map):
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
        "single values are inherited unless this file sets them; `name` and `tests` are not.",
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
    tests: tuple[TestRow, ...] = Field(
        default=(),
        description="Expectations, checked by `agentwall policy test`.",
        examples=[[{"to": "10.20.0.7:8000", "expect": "allow"}]],
    )
