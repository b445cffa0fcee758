# SPDX-License-Identifier: Apache-2.0
"""The values of a policy file, as types that pydantic validates.

Each takes what YAML gives and comes out parsed (prefixes, port ranges, names, endpoints), or says
``expected X, got Y``. The keys they stand under are in :mod:`agentwall.policy.document`.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Sequence
from typing import Annotated, Literal, TypeVar

from pydantic import Field, PlainSerializer, PlainValidator, WithJsonSchema

from agentwall.flow.finding import DetectionClass
from agentwall.flow.verdict import Mode
from agentwall.net.destination import parse_target
from agentwall.net.domain import NamePattern, parse_name, parse_pattern
from agentwall.net.endpoint import Endpoint, IPNetwork, NamedEndpoint
from agentwall.net.ports import EVERYTHING, PortRange, parse_ports
from agentwall.net.prefix import EVERYWHERE, parse_prefix
from agentwall.policy.model import REFUSALS, Response
from agentwall.policy.problems import show

NAME_PATTERN = r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
PATH_PATTERN = r"[^\x00-\x1f\x7f]+"
BASE_PATTERN = r"[^/\x00-\x1f\x7f][^\x00-\x1f\x7f]*"
DIALECT_PATTERN = r"[a-z0-9]+(?:-[a-z0-9]+)*"
PHASE_PATTERN = r"(?=.{1,63}$)[a-z0-9]+(?:-[a-z0-9]+)*"
_UNROUTABLE_PROTOCOLS = (0, 255)
"""Hop-by-hop options and raw: no socket but a raw one sends them."""

MAX_MIN_TTL_S = 86_400
"""A day: the longest that ``dns.min_ttl`` may keep an address beyond its TTL."""
MAX_ADDRESSES = 65_536
"""The most that ``dns.max_addresses`` may say."""
MAX_TARGETS = 1024
"""Of public web servers four times as many are a scan: what is remembered of one sandbox."""
MAX_SCAN_S = 3600
MAX_QUESTIONS = 100_000
MAX_LABELS = 10_000
MIN_DEPTH_BYTES = 256
"""No greeting or login is longer."""
MAX_DEPTH_BYTES = 1 << 20

BLOCKABLE = tuple(Response)
ALERTING = (Response.OFF, Response.ALERT)
"""What ``scan`` and ``beacon`` may say: they are told from many flows, after the fact."""

WITH_DIALECTS = (DetectionClass.MINING, DetectionClass.TUNNEL, DetectionClass.P2P)
EXCEPTABLE = (*WITH_DIALECTS, DetectionClass.BEACON)
"""What one rule can be excepted from: what concerns the flows it allows."""

Prefixes = tuple[IPNetwork, ...]
Patterns = tuple[NamePattern, ...]
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


def _proxy(value: object) -> Prefixes:
    if not isinstance(value, str):
        raise ValueError(f"expected an address or a prefix, got {show(value)}")
    return (parse_prefix(value),)


def _host(value: object) -> Patterns:
    if not isinstance(value, str):
        raise ValueError(f"expected a name such as hub.example.com, got {show(value)}")
    return (parse_pattern(value),)


def _suffix(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a name such as svc.example.com, got {show(value)}")
    return parse_name(value)


def _server(value: object) -> IPNetwork:
    if not isinstance(value, str):
        raise ValueError(f"expected an address such as 10.20.0.2, got {show(value)}")
    network = parse_prefix(value)
    if "/" in value:
        raise ValueError(f"expected a single address, got {show(value)}")
    address = network.network_address
    # Metadata services are taken: in some clouds they are the only name server (168.63.129.16).
    if address.is_unspecified or address.is_multicast or int(address) == 0xFFFFFFFF:
        raise ValueError(f"expected the address of one host, got {show(value)}")
    return network


def _destination(value: object) -> Endpoint | NamedEndpoint:
    if not isinstance(value, str):
        raise ValueError(f"expected a destination such as 10.20.0.7:8000, got {show(value)}")
    return parse_target(value)


def _version(value: object) -> int:
    if value != 1 or value is True:
        raise ValueError(f"expected 1, got {show(value)}")
    return 1


def _refusal(value: object) -> str:
    if not isinstance(value, str) or value not in REFUSALS:
        raise ValueError(f"expected {' or '.join(REFUSALS)}, got {show(value)}")
    return value


def parse_response(value: object, allowed: tuple[Response, ...] = BLOCKABLE) -> Response:
    """Return the response that *value* stands for.

    Raises:
        ValueError: If it is none of *allowed*.
    """
    # YAML reads a plain off as false.
    text = Response.OFF.value if value is False else value
    found = next((response for response in allowed if response.value == text), None)
    if found is not None:
        return found
    problem = f"expected {_either([r.value for r in allowed])}, got {show(value)}"
    if any(value == response.value for response in Response):
        problem += ": it is told from many flows, and none of them can be cut for it"
    raise ValueError(problem)


def _alerting(value: object) -> Response:
    return parse_response(value, ALERTING)


def _excepted(value: object) -> str:
    classes = [cls.value for cls in EXCEPTABLE]
    if not isinstance(value, str):
        raise ValueError(f"expected what to except, such as tunnel/ssh, got {show(value)}")
    name, slash, dialect = value.partition("/")
    if name not in classes:
        raise ValueError(f"expected {_either(classes)}, got {show(value)}")
    if slash and name not in (cls.value for cls in WITH_DIALECTS):
        raise ValueError(f"expected {name} alone, which has no dialects, got {show(value)}")
    if slash and not re.fullmatch(DIALECT_PATTERN, dialect):
        raise ValueError(f"expected a dialect in lower case, as in tunnel/ssh, got {show(value)}")
    return value


def _mode(value: object) -> Mode:
    return parse_choice(value, Mode)


_Choice = TypeVar("_Choice", bound=enum.Enum)


def parse_choice(value: object, among: type[_Choice]) -> _Choice:
    """Return the member of *among* whose value *value* is.

    Raises:
        ValueError: There is none.
    """
    for member in among:
        if isinstance(value, str) and member.value == value:
            return member
    raise ValueError(f"expected {_either([str(m.value) for m in among])}, got {show(value)}")


def _either(texts: Sequence[str]) -> str:
    return f"{', '.join(texts[:-1])} or {texts[-1]}"


def _whole_number(low: int, high: int, unit: str) -> tuple[PlainValidator, WithJsonSchema]:
    def check(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError(f"expected {low}-{high} {unit}, got {show(value)}")
        return value

    schema = {"type": "integer", "minimum": low, "maximum": high}
    return PlainValidator(check), WithJsonSchema(schema)


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
Proxy = Annotated[Prefixes, PlainValidator(_proxy), WithJsonSchema({"type": "string"})]
Host = Annotated[Patterns, PlainValidator(_host), WithJsonSchema({"type": "string"})]
Suffix = Annotated[str, PlainValidator(_suffix), WithJsonSchema({"type": "string"})]
Server = Annotated[IPNetwork, PlainValidator(_server), WithJsonSchema({"type": "string"})]
Seconds = Annotated[int, *_whole_number(0, MAX_MIN_TTL_S, "seconds")]
Addresses = Annotated[int, *_whole_number(1, MAX_ADDRESSES, "addresses")]
Targets = Annotated[int, *_whole_number(2, MAX_TARGETS, "addresses")]
PortCount = Annotated[int, *_whole_number(2, MAX_TARGETS, "ports")]
ScanSeconds = Annotated[int, *_whole_number(1, MAX_SCAN_S, "seconds")]
Questions = Annotated[int, *_whole_number(1, MAX_QUESTIONS, "questions")]
Labels = Annotated[int, *_whole_number(1, MAX_LABELS, "names")]
Depth = Annotated[int, *_whole_number(MIN_DEPTH_BYTES, MAX_DEPTH_BYTES, "bytes")]
# pydantic writes a default twice, the second time as the text it made of it the first time.
_AS_TEXT = PlainSerializer(lambda value: getattr(value, "value", value))

Reaction = Annotated[
    Response,
    PlainValidator(parse_response),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "enum": [r.value for r in BLOCKABLE]}),
]
Alerting = Annotated[
    Response,
    PlainValidator(_alerting),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "enum": [r.value for r in ALERTING]}),
]
PhaseMode = Annotated[
    Mode | None,
    PlainValidator(_mode),
    _AS_TEXT,
    WithJsonSchema({"type": "string", "enum": [mode.value for mode in Mode]}),
]
Excepted = Annotated[
    str,
    PlainValidator(_excepted),
    WithJsonSchema(
        {
            "type": "string",
            "pattern": f"^(beacon|({'|'.join(c.value for c in WITH_DIALECTS)})"
            f"(/{DIALECT_PATTERN})?)$",
        }
    ),
]
Destination = Annotated[
    Endpoint | NamedEndpoint, PlainValidator(_destination), WithJsonSchema({"type": "string"})
]
Refusal = Annotated[
    str, PlainValidator(_refusal), WithJsonSchema({"type": "string", "enum": [*REFUSALS]})
]
Version = Annotated[Literal[1], PlainValidator(_version), WithJsonSchema({"const": 1})]
BaseName = Annotated[str, Field(pattern=f"^{BASE_PATTERN}$", max_length=200)]
