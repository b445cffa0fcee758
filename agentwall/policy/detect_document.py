# SPDX-License-Identifier: Apache-2.0
"""The keys under ``detect``, as pydantic models; a part of :mod:`agentwall.policy.document`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from pydantic import Field, model_validator

from agentwall.flow.finding import DetectionClass
from agentwall.policy.document_map import Map
from agentwall.policy.model import DETECT_DEFAULTS, Detect, Response
from agentwall.policy.values import (
    ALERTING,
    BLOCKABLE,
    Alerting,
    Depth,
    Labels,
    PortCount,
    Questions,
    Reaction,
    ScanSeconds,
    Targets,
    parse_response,
)

_DEFAULT = Detect()
_BLOCK_NOTE = (
    "`off`, `alert` or `block`: what is sure beyond doubt is cut off before it is out, all else "
    "alerts. `freeze` and `kill` cut it off too, and stop or end the whole sandbox."
)


def _or_response(allowed: tuple[Response, ...]) -> Callable[[dict[str, Any]], None]:
    """Return what makes the schema of a map that of a map or one of *allowed*."""

    def widen(schema: dict[str, Any]) -> None:
        response = {"type": "string", "enum": [each.value for each in allowed]}
        schema["anyOf"] = [response, {"$ref": schema.pop("$ref")}]

    return widen


def _only_response(value: object, allowed: tuple[Response, ...]) -> dict[str, object]:
    parse_response(value, allowed)  # here, so that an error names the key that was written
    return {"response": value}


class ScanDocument(Map):
    """How many destinations within how long are a scan."""

    response: Alerting = Field(
        default=DETECT_DEFAULTS[DetectionClass.SCAN],
        description="`off` or `alert`. As `scan: alert`, where nothing else is set.",
        examples=["alert"],
    )
    targets: Targets = Field(
        default=_DEFAULT.scan.targets,
        description="So many private addresses that were refused, or where nobody was, 2-1024. Of "
        "public ones it takes twice as many, at ports 80 and 443 four times.",
        examples=[24],
    )
    ports: PortCount = Field(
        default=_DEFAULT.scan.ports,
        description="So many ports of one address, 2-1024.",
        examples=[24],
    )
    seconds: ScanSeconds = Field(
        default=_DEFAULT.scan.seconds, description="Within so long, 1-3600.", examples=[300]
    )

    @model_validator(mode="before")
    @classmethod
    def _from_response(cls, value: object) -> object:
        return value if isinstance(value, dict) else _only_response(value, ALERTING)


class DnsExfilDocument(Map):
    """What one sandbox may ask below one registrable domain."""

    response: Reaction = Field(
        default=DETECT_DEFAULTS[DetectionClass.DNS_EXFIL],
        description="As `dns_exfil: alert`, where nothing else is set.",
        examples=["alert"],
    )
    questions_per_minute: Questions = Field(
        default=_DEFAULT.dns.questions_per_minute,
        description="Questions within a minute, 1-100000.",
        examples=[600],
    )
    labels: Labels = Field(
        default=_DEFAULT.dns.labels,
        description="Distinct names within ten minutes, 1-10000.",
        examples=[400],
    )

    @model_validator(mode="before")
    @classmethod
    def _from_response(cls, value: object) -> object:
        return value if isinstance(value, dict) else _only_response(value, BLOCKABLE)


class DetectDocument(Map):
    """What follows on mining, tunnels and the like in flows that the rules allow."""

    mining: Reaction = Field(
        default=DETECT_DEFAULTS[DetectionClass.MINING],
        description=f"Speaking with a mining pool. {_BLOCK_NOTE}",
        examples=["alert"],
    )
    tunnel: Reaction = Field(
        default=DETECT_DEFAULTS[DetectionClass.TUNNEL],
        description="SSH, VPNs, proxies and tunnels, on whatever port. As `mining`.",
        examples=["off"],
    )
    p2p: Reaction = Field(
        default=DETECT_DEFAULTS[DetectionClass.P2P],
        description="Being a node of a cryptocurrency's own network. As `mining`.",
        examples=["block"],
    )
    scan: ScanDocument = Field(
        default=ScanDocument(),
        description="Trying many addresses, or many ports of one: `off`, `alert`, or a map with "
        "thresholds.",
        examples=["off", {"targets": 24, "seconds": 300}],
        json_schema_extra=_or_response(ALERTING),
    )
    dns_exfil: DnsExfilDocument = Field(
        default=DnsExfilDocument(),
        description="Data in DNS questions: `off`, `alert`, `block`, `freeze`, `kill`, or a map "
        "with thresholds. All but `off` only alert in this version.",
        examples=["off", {"response": "alert", "questions_per_minute": 600}],
        json_schema_extra=_or_response(BLOCKABLE),
    )
    beacon: Alerting = Field(
        default=DETECT_DEFAULTS[DetectionClass.BEACON],
        description="Calling one place again and again, at even intervals: `off` or `alert`.",
        examples=["off"],
    )
    depth_bytes: Depth = Field(
        default=_DEFAULT.depth_bytes,
        description="How far into what each side of a flow says the kernel looks, 256-1048576.",
        examples=[16384],
    )
