# SPDX-License-Identifier: Apache-2.0
"""The keys of a signature file, as pydantic models; the counterpart is ``signature_load``.

As :mod:`agentwall.policy.document` does for policies: the loader validates with these models, and
the JSON Schema is generated from them.
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema, model_validator
from pydantic_core import PydanticCustomError

from agentwall.detect.signature import Maturity, Side, Transport
from agentwall.flow.finding import Confidence, DetectionClass
from agentwall.flow.severity import Severity
from agentwall.net.domain import parse_name
from agentwall.policy.document_map import Map
from agentwall.policy.problems import show
from agentwall.policy.values import DIALECT_PATTERN, WITH_DIALECTS, Version

KEYS = frozenset(("signatures", "indicators", "fragments"))
"""A file with one of these at the top is a signature file and no policy."""
FRAGMENT_PATTERN = r"[a-z][a-z0-9_]{0,62}"
ID_PATTERN = rf"({'|'.join(cls.value for cls in WITH_DIALECTS)})/{DIALECT_PATTERN}"
MAX_SIGNATURES = 4096
"""Of one file; indices into all of them are 16 bits wide."""
MAX_NAMES = 4096
MAX_EXAMPLE_BYTES = 65_536
"""As deep as the kernel looks by default."""

_MAX_LINE = 300
_DEFAULT_SEVERITY = {DetectionClass.P2P: Severity.MEDIUM}
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


def _id(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(ID_PATTERN, value):
        raise ValueError(f"expected class/name such as tunnel/ssh-banner, got {show(value)}")
    return value


def _dialect(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(DIALECT_PATTERN, value):
        raise ValueError(f"expected small letters, digits and dashes, got {show(value)}")
    return value


def _class(value: object) -> DetectionClass:
    for cls in WITH_DIALECTS:
        if value == cls.value:
            return cls
    *names, last = (cls.value for cls in WITH_DIALECTS)
    raise ValueError(f"expected {', '.join(names)} or {last}, got {show(value)}")


def _severity(value: object) -> Severity:
    for severity in Severity:
        if value == severity.label:
            return severity
    *names, last = (severity.label for severity in Severity)
    raise ValueError(f"expected {', '.join(names)} or {last}, got {show(value)}")


def _line(value: object) -> str:
    if not isinstance(value, str) or not value or _CONTROL.search(value):
        raise ValueError(f"expected a line of text, got {show(value)}")
    if len(value) > _MAX_LINE:
        raise ValueError(f"expected at most {_MAX_LINE} characters, got {len(value)}")
    return value


def _date(value: object) -> str:
    try:
        if isinstance(value, str) and _DATE.fullmatch(value):
            return datetime.date.fromisoformat(value).isoformat()
    except ValueError:
        pass  # such as the 30th of February
    raise ValueError(f"expected a date such as 2026-11-29, got {show(value)}")


def _name(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"expected a name such as pool.example, got {show(value)}")
    try:
        return parse_name(value)
    except ValueError as err:
        # There is no such key here.
        raise ValueError(str(err).removesuffix("; use cidr for addresses")) from err


def _bytes(value: object) -> bytes:
    if isinstance(value, str):
        found = _latin(value)
    elif isinstance(value, dict) and list(value) == ["hex"] and isinstance(value["hex"], str):
        found = _from_hex(value["hex"])
    else:
        raise ValueError(f"expected text or {{hex: '05 01 00'}}, got {show(value)}")
    if not 1 <= len(found) <= MAX_EXAMPLE_BYTES:
        raise ValueError(f"expected 1-{MAX_EXAMPLE_BYTES} bytes, got {len(found)}")
    return found


def _latin(text: str) -> bytes:
    try:
        return text.encode("latin-1")
    except UnicodeEncodeError as err:
        got = show(text[err.start])
        problem = f"expected characters up to U+00FF, each a byte, got {got}; hex: takes any bytes"
        raise ValueError(problem) from err


def _from_hex(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as err:
        raise ValueError(f"expected pairs of hexadecimal digits, got {show(text)}") from err


_EXAMPLE_SCHEMA = {
    "anyOf": [
        {"type": "string", "minLength": 1},
        {
            "type": "object",
            "properties": {"hex": {"type": "string"}},
            "required": ["hex"],
            "additionalProperties": False,
        },
    ]
}


def _text_schema(pattern: str) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "pattern": f"^{pattern}$"})


def _choice_schema(values: list[str]) -> WithJsonSchema:
    return WithJsonSchema({"type": "string", "enum": values})


Id = Annotated[str, PlainValidator(_id), _text_schema(ID_PATTERN)]
Dialect = Annotated[str, PlainValidator(_dialect), _text_schema(DIALECT_PATTERN)]
Class = Annotated[
    DetectionClass, PlainValidator(_class), _choice_schema([cls.value for cls in WITH_DIALECTS])
]
Level = Annotated[
    Severity, PlainValidator(_severity), _choice_schema([level.label for level in Severity])
]
Line = Annotated[str, PlainValidator(_line), WithJsonSchema({"type": "string"})]
Date = Annotated[str, PlainValidator(_date), _text_schema(_DATE.pattern)]
Name = Annotated[str, PlainValidator(_name), WithJsonSchema({"type": "string"})]
Example = Annotated[bytes, PlainValidator(_bytes), WithJsonSchema(_EXAMPLE_SCHEMA)]


class _Described(Map):
    """What a signature and a list of names have in common."""

    id: Id = Field(
        description="Unique: the class, a slash, a name of its own.",
        examples=["tunnel/ssh-banner"],
    )
    cls: Class = Field(
        alias="class",
        description="What it is: the key of `detect` in a policy that says what follows.",
        examples=["tunnel"],
    )
    dialect: Dialect = Field(
        description="What exactly it is. A policy excepts it as `class/dialect`; several "
        "signatures may share one.",
        examples=["ssh"],
    )
    severity: Level | None = Field(
        default=None,
        description="How serious a match is. Absent: `high`, of `p2p` `medium`.",
        examples=["high"],
    )
    confidence: Confidence = Field(
        default=Confidence.HIGH,
        description="How sure a match is. `low` only alerts, whatever the policy says.",
        examples=["medium"],
    )

    @model_validator(mode="after")
    def _id_has_class(self) -> _Described:
        if not self.id.startswith(f"{self.cls.value}/"):
            problem = f"expected an id that begins with {self.cls.value}/, got {show(self.id)}"
            raise PydanticCustomError("at_key", "{problem}", {"key": "id", "problem": problem})
        return self

    @property
    def level(self) -> Severity:
        """The severity, the default resolved."""
        if self.severity is not None:
            return self.severity
        return _DEFAULT_SEVERITY.get(self.cls, Severity.HIGH)


class SignatureDocument(_Described):
    """A pattern and what it means."""

    protocol: Transport = Field(
        description="What carries the bytes: `tcp` (a stream, from its first byte), `udp` (each "
        "datagram) or `icmp` (each echo, behind its header of 8 bytes).",
        examples=["tcp"],
    )
    direction: Literal["client", "server", "either"] = Field(
        description="Who says it. The client is who opened the flow.",
        examples=["either"],
    )
    pattern: str = Field(
        min_length=1,
        description="What is said, see signature-patterns.md. `{{name}}` stands for a fragment.",
        examples=["^SSH-2[.]0-"],
    )
    maturity: Maturity = Field(
        default=Maturity.STABLE,
        description="`experimental` only alerts, whatever the policy says.",
        examples=["experimental"],
    )
    hand_over: bool = Field(
        default=False,
        strict=True,
        description="A match is no finding: the decoders look at the flow from there on.",
        examples=[True],
    )
    description: Line = Field(
        description="What it recognises, in a line.", examples=["SSH identifies itself"]
    )
    references: tuple[Line, ...] = Field(
        default=(),
        description="Where the protocol is described.",
        examples=[["RFC 4253 section 4.2"]],
    )
    examples: tuple[Example, ...] = Field(
        min_length=1,
        description="Streams or datagrams that it must find. Characters are bytes; `{hex: ...}` "
        "takes any.",
        examples=[["SSH-2.0-OpenSSH_9.2\\r\\n", {"hex": "53 53 48 2d 32 2e 30 2d"}]],
    )
    counterexamples: tuple[Example, ...] = Field(
        min_length=1,
        description="... and must not find.",
        examples=[["see SSH-2.0-OpenSSH"]],
    )

    @property
    def sides(self) -> tuple[Side, ...]:
        """Whose bytes the pattern is for."""
        return tuple(Side) if self.direction == "either" else (Side(self.direction),)


class IndicatorsDocument(_Described):
    """Names that give something away, such as those of mining pools."""

    dated: Date = Field(description="When the list was last looked over.", examples=["2026-11-29"])
    names: tuple[Name, ...] = Field(
        min_length=1,
        max_length=MAX_NAMES,
        description="Each stands for itself and all names below it. Nobody resolves them.",
        examples=[["pool.example"]],
    )


class SignatureFile(Map):
    """A file of signatures of agentwall."""

    model_config = ConfigDict(title="agentwall signatures")

    version: Version = Field(description="The version of the language: `1`.", examples=[1])
    fragments: dict[str, str] = Field(
        default={},
        description="Parts of patterns by name. A fragment may use those above it.",
        examples=[{"ws": "[ \\t\\r\\n]*"}],
        json_schema_extra={"propertyNames": {"pattern": f"^{FRAGMENT_PATTERN}$"}},
    )
    signatures: tuple[SignatureDocument, ...] = Field(
        default=(),
        max_length=MAX_SIGNATURES,
        description="The signatures.",
    )
    indicators: tuple[IndicatorsDocument, ...] = Field(
        default=(),
        max_length=MAX_SIGNATURES,
        description="Lists of names.",
    )


MODELS: dict[str, type[BaseModel]] = {
    "A signature file": SignatureFile,
    "A signature under `signatures`": SignatureDocument,
    "A list under `indicators`": IndicatorsDocument,
}
"""Each kind of map, with the title it has in the reference."""
